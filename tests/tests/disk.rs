//! A whole Debian on an IDE disk: SeaBIOS, GRUB, Debian's kernel and initramfs, systemd, logins, data that stays.

use std::process::Command;

use bulkhead_tests::{Monitor, Scratch, Screen, Vm, gone, guest};

/// Where the partition begins (`tests/guests/debian.sh`).
const PARTITION: &str = "?offset=1048576";

fn run(program: &str, args: &[&str]) -> String {
    let output =
        Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program}: {}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Logs in at the screen with keys of the PS/2 keyboard.
fn log_in_at_the_screen(monitor: &mut Monitor, picture: &str) {
    Screen::wait(monitor, picture, &["bulkhead login:"], 120);
    for key in ["r", "o", "o", "t", "ret"] {
        assert_eq!(monitor.ask(&format!("sendkey {key}")), "");
    }
    Screen::wait(monitor, picture, &["root@bulkhead", "#"], 120);
}

#[test]
fn debian_boots_from_its_disk_and_what_it_wrote_is_there_after_power_off() {
    let scratch = Scratch::new("disk");
    let (image, picture, socket) =
        (scratch.file("disk.img"), scratch.file("screen.ppm"), scratch.file("monitor"));
    run("cp", &["--sparse=always", "--reflink=auto", &guest("debian/disk.img"), &image]);
    let monitor = format!("unix:{socket},server,nowait");
    let mut vm = Vm::start(
        "qemu-system-x86_64",
        &["-m", "512", "-hda", &image, "-serial", "stdio", "-monitor", &monitor],
    );
    let mut monitor = Monitor::connect(&socket);

    vm.expect("GNU GRUB", 60);
    vm.expect("Linux version 6.1", 120);
    vm.expect("bulkhead login: ", 400);
    vm.send("root\n");
    vm.expect("root@bulkhead:~#", 60);
    log_in_at_the_screen(&mut monitor, &picture);

    // Quotes keep what is waited for out of the echo of what is typed.
    vm.send("dd if=/dev/urandom of=/srv/data bs=1M count=200 && echo wri\"\"tten\n");
    vm.expect("written", 300);
    vm.send("echo sum\"\"=$(sha256sum < /srv/data)=\n");
    vm.expect("sum=", 120);
    let sum = vm.expect(" -=", 10);
    let sum = sum.trim_end_matches(" -=").to_owned();
    assert_eq!(sum.len(), 64, "{sum}");
    vm.send("sync && echo sta\"\"te=$(systemctl is-system-running --wait)=; echo syn\"\"ced\n");
    let state = vm.expect("synced", 300);
    assert!(state.contains("state=running="), "a unit failed: {state}");
    let processes = vm.processes();
    vm.send("poweroff\n");
    vm.expect("reboot: Power down", 120);
    assert_eq!(vm.wait(30).code(), Some(0), "{}", vm.errors());
    gone(&processes);

    let partition = format!("{image}{PARTITION}");
    run("/sbin/e2fsck", &["-fn", &partition]);
    let data = scratch.file("data");
    run("/sbin/debugfs", &["-R", &format!("dump /srv/data {data}"), &partition]);
    let on_the_host = run("sha256sum", &[&data]);
    assert_eq!(on_the_host.split_whitespace().next(), Some(sum.as_str()));
    assert_eq!(std::fs::metadata(&data).expect("dumped").len(), 200 << 20);
}
