//! `suite` on a kernel and on a ROM: what it prints, and whether it finds ours and the peer alike.

use std::process::{Command, Output};

use bulkhead_tests::code::assemble;
use bulkhead_tests::{Scratch, programs};

/// Debian's, which the tests' packages bring.
const PEER: &str = "qemu-system-x86_64 -accel tcg";

fn suite(peer: &str, settings: &[String]) -> Output {
    Command::new(programs().join("suite")).env("PEER", peer).args(settings).output().expect("suite runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_multiboot_kernel_tells_the_same_under_ours_and_the_peer() {
    let scratch = Scratch::new("suite-kernel");
    let kernel = assemble(&scratch, "suite", "suite.ld");
    let output = suite(PEER, &[format!("KERNEL={kernel}"), "APPEND=some words".into()]);
    let told = format!("exit status 33\n  port 80: 01 03 ff\n  port 190: 02\n  text: {kernel} some words\n");
    assert_eq!(text(&output.stdout), format!("ours: {told}peer: {told}"), "{}", text(&output.stderr));
    assert!(output.status.success());
}

#[test]
fn a_rom_that_tells_something_else_under_the_peer_is_a_failure() {
    let scratch = Scratch::new("suite-rom");
    let rom = format!("BIOS={}", assemble(&scratch, "post", "post.ld"));
    let output = suite("none", std::slice::from_ref(&rom));
    let told = "exit status 33\n  port 80: 01 02 03 ff\n  port 190: 01 02 03 ff\n  text: post: good\n  printed: post: good\n";
    assert_eq!(text(&output.stdout), format!("ours: {told}"), "{}", text(&output.stderr));
    assert!(output.status.success());
    // It reads port 80h back, and what shows us the peer's codes keeps none.
    let output = suite(PEER, &[rom]);
    assert!(
        text(&output.stdout)
            .contains("differs: text, line 1: ours Some(\"post: good\"), peer Some(\"post: bad\")")
    );
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
}

/// A ROM with this code at the reset vector.
fn rom(scratch: &Scratch, code: &[u8]) -> String {
    let rom = scratch.file("rom");
    let mut bytes = vec![0xf4u8; 64 << 10];
    bytes[0xfff0..0xfff0 + code.len()].copy_from_slice(code);
    std::fs::write(&rom, bytes).expect("a ROM");
    rom
}

#[test]
fn a_rom_that_halts_after_its_last_code_has_ended() {
    let scratch = Scratch::new("suite-halt");
    // mov al, 0xff; out 0x80, al; cli; hlt
    let rom = rom(&scratch, &[0xb0, 0xff, 0xe6, 0x80, 0xfa, 0xf4]);
    let output = suite(PEER, &[format!("BIOS={rom}"), "QUIET=1".into()]);
    let told = "stopped: it told nothing more\n  port 80: ff\n  port 190: nothing\n";
    assert_eq!(text(&output.stdout), format!("ours: {told}peer: {told}"), "{}", text(&output.stderr));
    assert!(output.status.success());
}

#[test]
fn a_suite_that_does_not_end_or_is_not_there_is_a_failure() {
    let scratch = Scratch::new("suite-hang");
    // A jump to itself.
    let rom = rom(&scratch, &[0xeb, 0xfe]);
    let output = suite("none", &[format!("BIOS={rom}"), "SECONDS=1".into()]);
    assert!(text(&output.stdout).starts_with("ours: its time was over\n"), "{}", text(&output.stdout));
    assert_eq!(output.status.code(), Some(1));
    for (settings, why) in [
        (
            vec!["BIOS=/nonexistent".to_owned()],
            "suite: BIOS=/nonexistent: No such file or directory (os error 2)\n",
        ),
        (vec![format!("BIOS={rom}"), "APPEND=x".to_owned()], "suite: APPEND and INITRD are for a KERNEL\n"),
    ] {
        let output = suite("none", &settings);
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(1), why));
    }
}
