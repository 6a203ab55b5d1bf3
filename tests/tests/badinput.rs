//! Bad input (see also processes.rs): one clear line on standard error naming the option or file and the reason, status 1, nothing started.

use std::os::unix::fs::PermissionsExt;

use bulkhead_tests::{Scratch, Vm};

/// Runs the launcher and returns its only line.
fn refused(args: &[&str]) -> String {
    let mut vm = Vm::start("qemu", args);
    let status = vm.wait(20);
    let errors = vm.errors();
    assert_eq!(status.code(), Some(1), "{args:?}: {errors}");
    let lines: Vec<&str> = errors.lines().collect();
    assert_eq!(lines.len(), 1, "{args:?}: {errors}");
    lines[0].to_owned()
}

fn names(args: &[&str], parts: &[&str]) {
    let line = refused(args);
    for part in parts {
        assert!(line.contains(part), "{args:?}: {part:?} is not in {line:?}");
    }
}

#[test]
fn file_that_cannot_be_read_is_named_with_the_reason() {
    let scratch = Scratch::new("unreadable");
    let absent = scratch.file("absent");
    for option in ["-kernel", "-bios", "-option-rom"] {
        names(&[option, &absent, "-vnc", "none"], &["absent"]);
    }
    // The superuser may read everything.
    // SAFETY: no arguments, only asks.
    if unsafe { libc::geteuid() } != 0 {
        let locked = scratch.file("unreadable.img");
        std::fs::write(&locked, [0; 512]).expect("image");
        std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o000)).expect("mode");
        names(&["-hda", &locked], &["unreadable.img", "ermission denied"]);
    }
}

#[test]
fn what_is_refused_late_is_one_line_too_and_leaves_files_alone() {
    let scratch = Scratch::new("late");
    let (absent, file) = (scratch.file("absent/file"), scratch.file("console"));
    std::fs::write(&file, "yesterday's").expect("file");
    let console = format!("file:{file}");
    for [option, value] in [["-pidfile", &absent], ["-monitor", "tcp:localhost:1"], ["-trace", "bogus"]] {
        names(&["-serial", &console, option, value], &[option, value]);
        assert_eq!(std::fs::read_to_string(&file).expect("file"), "yesterday's", "{option}");
    }
}

#[test]
fn truncated_kernel_is_refused() {
    let scratch = Scratch::new("kernel");
    let whole = std::fs::read(bulkhead_tests::guest("amd64/vmlinuz")).expect("kernel");
    let path = scratch.file("cut");
    for length in [0, 100, 0x230, 0x4000, whole.len() / 2] {
        std::fs::write(&path, &whole[..length]).expect("file");
        names(&["-kernel", &path, "-vnc", "none"], &["cut"]);
    }
    std::fs::write(&path, vec![0x55; 100_000]).expect("file");
    names(&["-kernel", &path, "-vnc", "none"], &["cut"]);
}

#[test]
fn what_is_no_smbios_structure_is_refused() {
    let scratch = Scratch::new("smbios");
    let path = scratch.file("structure");
    let option = format!("file={path}");
    std::fs::write(&path, [1, 30, 0, 0]).expect("file");
    names(&["-smbios", &option, "-vnc", "none"], &["-smbios", "structure", "not a structure"]);
    std::fs::write(&path, [1, 4, 0, 0, 0, 0]).expect("file");
    let more = ["-smbios", "type=1,product=x", "-smbios", &option, "-vnc", "none"];
    names(&more, &["-smbios", "structure", "type 1"]);
    names(&["-smbios", "file=/dev/zero", "-vnc", "none"], &["-smbios", "/dev/zero", "larger than"]);
}

#[test]
fn values_out_of_range_name_the_option() {
    names(&["-m", "nonsense"], &["-m"]);
    names(&["-m", "999999999999"], &["-m"]);
    names(&["-M", "vax"], &["-M", "vax"]);
    names(&["-cpu", "z80"], &["-cpu", "z80"]);
    names(&["-smp", "0"], &["-smp"]);
    names(&["-boot", "x"], &["-boot"]);
    names(&["-usb"], &["-usb", "not supported yet"]);
    names(&["-no-such-option"], &["-no-such-option"]);
}

#[test]
fn more_memory_than_the_host_can_give_is_refused() {
    // The host's overcommit rules decide; what must not happen is a started and then broken VM.
    let line = refused(&["-m", "900G", "-vnc", "none", "-M", "pc"]);
    assert!(line.contains("-m") || line.contains("memory"), "{line}");
}
