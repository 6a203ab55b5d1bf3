//! The programs as a user meets them: streams, exit status, the name in messages.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const QEMU: &str = env!("CARGO_BIN_EXE_qemu");

/// The programs lie in one folder. Cargo's own variables for the other two are lost in the shell wrapper around the
/// compiler: a POSIX shell drops variables with a hyphen in their name.
fn run(program: &str, args: &[&str]) -> Output {
    Command::new(Path::new(QEMU).with_file_name(program)).args(args).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn unbuilt_option_ends_with_one_line_and_status_1() {
    let output = run("qemu", &["-usb"]);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "qemu: -usb: not supported yet\n");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
}

#[test]
fn messages_carry_the_name_that_the_program_was_called_by() {
    let output = Command::new(QEMU).arg0("/some/where/kvm").arg("-foo").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "kvm: -foo: invalid option\n");
    let output = run("qemu-system-x86_64", &["-m", "1\n2"]);
    let expected = "qemu-system-x86_64: -m 1\\n2: not a memory size in megabytes (suffix M or G allowed)\n";
    assert_eq!(String::from_utf8_lossy(&output.stderr), expected);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn help_version_and_lists_go_to_standard_output_with_status_0() {
    for (args, start) in [
        (vec!["-h"], "QEMU PC emulator version 0.10.4 "),
        (vec!["-version"], "QEMU PC emulator version 0.10.4 "),
        (vec!["-M", "?"], "Supported machines are:\n"),
    ] {
        let output = run("qemu", &args);
        assert!(String::from_utf8_lossy(&output.stdout).starts_with(start), "{args:?}");
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{args:?}");
    }
}

#[test]
fn programs_differ_in_their_processors() {
    let list = |program| String::from_utf8(run(program, &["-cpu", "?"]).stdout).unwrap();
    assert!(list("qemu-system-x86_64").contains("qemu64"));
    assert!(!list("qemu-system-i386").contains("qemu64"));
    assert_eq!(list("qemu"), list("qemu-system-i386"));
}

#[test]
fn closed_standard_output_is_no_failure() {
    let mut child =
        Command::new(QEMU).arg("-h").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}
