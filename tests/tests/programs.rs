//! Programs of others in a guest, short form of `./campaign programs`: glibc's mathematical functions.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use bulkhead_tests::linux::{Session, address};
use bulkhead_tests::{Scratch, Vm, guest};

/// glibc takes the same ways through its functions on every processor.
const SAME_WAYS: &str = "GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4";

/// Compiles `programs/guest/libm.c` with the host's glibc in it; its path.
fn libm(scratch: &Scratch) -> String {
    let program = scratch.file("libm");
    let options = ["-O1", "-fno-builtin", "-frounding-math", "-static", "-o", &program, "libm.c", "-lm"];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/guest");
    let output = Command::new("gcc").current_dir(folder).args(options).output().expect("gcc");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}

/// The amd64 guest's initramfs with one more program in its root: the kernel unpacks what follows, too.
fn initramfs_with(scratch: &Scratch, program: &str) -> String {
    let mut cpio = Command::new("cpio")
        .args(["-o", "-H", "newc", "--quiet"])
        .current_dir(Path::new(program).parent().expect("a folder"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("cpio");
    let name = Path::new(program).file_name().expect("a name").to_string_lossy().into_owned();
    cpio.stdin.take().expect("piped").write_all(format!("{name}\n").as_bytes()).expect("cpio reads");
    let output = cpio.wait_with_output().expect("cpio");
    assert!(output.status.success());
    let mut bytes = std::fs::read(guest("amd64/initrd.gz")).expect("the initramfs");
    // An archive begins at a multiple of four bytes (Documentation/driver-api/early-userspace/buffer-format.rst).
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(output.stdout);
    let path = scratch.file("initrd");
    std::fs::write(&path, bytes).expect("the initramfs");
    path
}

/// What is on a disk up to the program's last line.
fn said(disk: &str) -> String {
    let mut text = String::new();
    let mut bytes = Vec::new();
    std::fs::File::open(disk).and_then(|mut file| file.read_to_end(&mut bytes)).expect("the disk");
    text.push_str(&String::from_utf8_lossy(&bytes));
    text.split_once("\nend\n").expect("the program came to its end").0.to_owned()
}

#[test]
fn mathematical_functions_of_glibc_give_the_bits_and_flags_of_the_hosts_processor() {
    let scratch = Scratch::new("libm");
    let program = libm(&scratch);
    let (name, value) = SAME_WAYS.split_once('=').expect("a setting");
    let output = Command::new(&program).arg("0").env(name, value).output().expect("libm on the host");
    let expected = String::from_utf8(output.stdout).expect("text");
    let expected = expected.strip_suffix("\nend\n").expect("a last line");
    assert!(expected.lines().count() > 200_000, "{}", expected.lines().count());
    let initrd = initramfs_with(&scratch, &program);
    for model in ["core2duo", "max"] {
        let disk = scratch.file(model);
        std::fs::File::create(&disk).and_then(|file| file.set_len(64 << 20)).expect("a disk");
        let drive = format!("file={disk},if=ide,index=0,media=disk,format=raw");
        let machine = [
            "-nographic",
            "-vga",
            "none",
            "-m",
            "256",
            "-cpu",
            model,
            "-serial",
            "tcp:127.0.0.1:0,server,nowait",
        ];
        let kernel = guest("amd64/vmlinuz");
        let system = ["-kernel", &kernel, "-initrd", &initrd, "-append", "console=ttyS0", "-drive", &drive];
        let vm =
            Vm::start("qemu-system-x86_64", &[&machine[..], &["-monitor", "null"], &system[..]].concat());
        let mut session = Session::open(&address(&vm));
        assert_eq!(session.run(&format!("{SAME_WAYS} /libm 0 > /dev/sda && sync && echo good")), "good");
        drop(session);
        drop(vm);
        let found = said(&disk);
        let wrong: Vec<String> = (found.lines().zip(expected.lines()))
            .filter(|(found, expected)| found != expected)
            .map(|(found, expected)| format!("{found}, and on the host's processor {expected}"))
            .take(20)
            .collect();
        assert!(wrong.is_empty(), "{model}:\n{}", wrong.join("\n"));
        assert_eq!(found.lines().count(), expected.lines().count(), "{model}");
    }
}
