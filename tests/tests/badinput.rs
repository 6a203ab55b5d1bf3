//! Bad input: one clear line on standard error naming the option or file and the reason, status 1, nothing started.

use std::os::unix::fs::PermissionsExt;

use bulkhead_tests::{Scratch, Vm};

/// Runs the launcher and returns its only line.
fn refused(args: &[&str]) -> String {
    let mut vm = Vm::start("qemu", args);
    let status = vm.wait(20);
    let errors = vm.errors();
    assert_eq!(status.code(), Some(1), "{args:?}: {errors}");
    let lines: Vec<&str> =
        errors.lines().filter(|line| !line.contains("running headless") && !line.trim().is_empty()).collect();
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
fn image_that_cannot_be_used_is_named_with_the_reason() {
    let scratch = Scratch::new("images");
    names(&["-hda", &scratch.file("absent.img")], &["absent.img", "No such file"]);
    let folder = scratch.file("folder");
    std::fs::create_dir(&folder).expect("folder");
    names(&["-hda", &folder], &["folder", "directory"]);
    names(&["-cdrom", &folder], &["folder", "directory"]);
    names(&["-kernel", &scratch.file("absent")], &["absent", "No such file"]);
    // SAFETY: no arguments, only asks.
    if unsafe { libc::geteuid() } != 0 {
        let locked = scratch.file("unreadable.img");
        std::fs::write(&locked, [0; 512]).expect("image");
        std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o000)).expect("mode");
        names(&["-hda", &locked], &["unreadable.img", "ermission denied"]);
    }
}

#[test]
fn image_of_another_vm_is_refused_naming_its_pid() {
    let scratch = Scratch::new("locked");
    let image = scratch.file("disk.img");
    std::fs::write(&image, vec![0u8; 1 << 20]).expect("image");
    let mut vm =
        Vm::start("qemu", &["-S", "-hda", &image, "-monitor", "stdio", "-serial", "null", "-vnc", "none"]);
    vm.expect("(qemu)", 20);
    names(&["-hda", &image, "-vnc", "none"], &["disk.img", &vm.pid().to_string()]);
}

#[test]
fn firmware_that_is_missing_is_named_with_its_package() {
    let scratch = Scratch::new("firmware");
    names(&["-L", &scratch.file(""), "-vnc", "none"], &["bios", "seabios"]);
    names(&["-bios", &scratch.file("none.rom"), "-vnc", "none"], &["none.rom"]);
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
fn port_in_use_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let port = listener.local_addr().expect("address").port();
    let device = format!("tcp:127.0.0.1:{port},server,nowait");
    names(&["-serial", &device, "-vnc", "none"], &[&port.to_string(), "in use"]);
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
