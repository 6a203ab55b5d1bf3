//! CD-ROMs: a bootable one with Linux whose files and raw sectors read right, and memtest86+.

use std::process::Command;

use bulkhead_tests::{Monitor, Scratch, Screen, Vm, gone, guest};

/// Order in which the CD-ROM's drivers can be loaded.
const MODULES: &str = "scsi_common scsi_mod libata cdrom sr_mod ata_piix isofs";

#[test]
fn linux_boots_from_a_cd_rom_and_reads_all_of_it() {
    let iso = guest("iso/boot.iso");
    let sum = Command::new("sha256sum").arg(&iso).output().expect("sha256sum").stdout;
    let sum = String::from_utf8_lossy(&sum).split_whitespace().next().expect("a sum").to_owned();
    let mut vm = Vm::start("qemu-system-x86_64", &["-nographic", "-m", "256", "-cdrom", &iso, "-boot", "d"]);
    vm.expect("GNU GRUB", 60);
    vm.expect("userland is up", 240);
    vm.expect("# ", 30);
    vm.send(&format!(
        "cd /lib/modules/*; for m in {MODULES}; do insmod $m.ko || echo mis\"\"sing $m; done; cd /\n"
    ));
    vm.send("until [ -b /dev/sr0 ]; do sleep 1; done; mount -t iso9660 /dev/sr0 /mnt && echo moun\"\"ted\n");
    let log = vm.expect("mounted", 60);
    assert!(!log.contains("missing"), "{log}");
    vm.send("cd /mnt && sha256sum -c SHA256SUMS && echo che\"\"cked; cd /\n");
    let log = vm.expect("checked", 120);
    assert!(log.contains("vmlinuz: OK") && log.contains("initrd.gz: OK"), "{log}");
    // A writer at a CD-ROM is refused, and nothing else comes of it.
    vm.send("umount /mnt; echo x 2>/dev/null >/dev/sr0 || echo read\"\"only; sha256sum < /dev/sr0\n");
    vm.expect("readonly", 30);
    vm.expect(&sum, 60);
    let processes = vm.processes();
    vm.send("poweroff -f\n");
    vm.expect("reboot: Power down", 60);
    assert_eq!(vm.wait(30).code(), Some(0), "{}", vm.errors());
    gone(&processes);
}

/// Runs memtest86+ until the last test of its first pass and looks at its screen.
fn memtest(name: &str, args: &[&str]) {
    let scratch = Scratch::new(name);
    let (socket, picture) = (scratch.file("monitor"), scratch.file("screen.ppm"));
    let monitor = format!("unix:{socket},server,nowait");
    let mut all = vec!["-m", "32", "-serial", "null", "-monitor", &monitor];
    all.extend(args);
    let mut vm = Vm::start("qemu-system-x86_64", &all);
    let mut monitor = Monitor::connect(&socket);
    Screen::wait(&mut monitor, &picture, &["Memtest86+ v6"], 60);
    Screen::wait(&mut monitor, &picture, &["Test #10"], 240);
    Screen::wait(&mut monitor, &picture, &["Pass:  0", "Errors: 0"], 10);
    Screen::wait(&mut monitor, &picture, &["<ESC> Exit", "<F1> Configuration"], 10);
    monitor.tell("quit");
    assert_eq!(vm.wait(30).code(), Some(0), "{}", vm.errors());
}

#[test]
fn memtest_as_a_kernel_shows_its_screen_and_finds_no_error() {
    memtest("memtest-kernel", &["-kernel", &guest("memtest/memtest.bin")]);
}

#[test]
fn memtest_from_its_cd_rom_shows_its_screen_and_finds_no_error() {
    memtest("memtest-cdrom", &["-cdrom", &guest("memtest/memtest.iso"), "-boot", "d"]);
}
