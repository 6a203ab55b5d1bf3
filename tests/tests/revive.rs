//! Processes that hang without anybody waiting for them, places that were given up, programs that change on disk.

use std::time::{Duration, Instant};

use bulkhead_tests::code::Code;
use bulkhead_tests::{Monitor, Scratch, Vm, own_programs, programs};

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(60);

/// Waits for a byte on the first serial port.
const RECEIVE: [u8; 12] = [0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf8, 0xba, 0xf8, 0x03, 0xec];

/// A machine that says K and sends back what it is sent, from the programs in `folder`.
fn start(folder: &std::path::Path, scratch: &Scratch) -> (Vm, Monitor) {
    start_with(folder, scratch, &Code::new().say("K").bytes(&RECEIVE).bytes(&[0xee, 0xeb, 0xf1]))
}

/// A machine that says K and goes on as the firmware `code` does.
fn start_with(folder: &std::path::Path, scratch: &Scratch, code: &Code) -> (Vm, Monitor) {
    let (bios, socket) = (scratch.file("code.rom"), scratch.file("monitor"));
    std::fs::write(&bios, code.firmware(0x1_0000)).expect("firmware");
    let monitor = format!("unix:{socket},server,nowait");
    let program = folder.join("qemu");
    let args = ["-nographic", "-vga", "none", "-bios", &bios, "-serial", "stdio", "-monitor", &monitor];
    let mut vm = Vm::start(program.to_str().expect("path in UTF-8"), &args);
    vm.expect("K", 60);
    (vm, Monitor::connect(&socket))
}

/// Asks again and again until an answer fits.
fn until(monitor: &mut Monitor, command: &str, fits: impl Fn(&str) -> bool) -> String {
    let end = Instant::now() + LIMIT;
    loop {
        let answer = monitor.ask(command);
        if fits(&answer) {
            return answer;
        }
        assert!(Instant::now() < end, "{command}:\n{answer}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Whether a line names both.
fn says(table: &str, name: &str, word: &str) -> bool {
    table.lines().any(|line| line.contains(name) && line.contains(word))
}

/// Sends a signal to the process of that name, if there is one now.
fn signal(vm: &Vm, name: &str, signal: i32) -> bool {
    let Some((pid, _)) = vm.processes().into_iter().find(|(_, have)| have == name) else { return false };
    // SAFETY: a plain system call on a process of our own VM.
    unsafe { libc::kill(pid as i32, signal) == 0 }
}

#[test]
fn stopped_process_is_replaced_though_nobody_waits_for_it() {
    let scratch = Scratch::new("revive-stopped");
    let (mut vm, mut monitor) = start(&programs(), &scratch);
    // One that nobody uses, and one whose work does not lie in a ring.
    for name in ["bh-rtc", "bh-char-serial0"] {
        assert!(signal(&vm, name, libc::SIGSTOP), "{name} runs");
        until(&mut monitor, "info restarts", |table| says(table, name, "hung"));
    }
    vm.send("still here");
    vm.expect("still here", 60);
}

/// Lets a device fail until its place is given up; its program is there again then.
fn give_up_dma(folder: &std::path::Path, monitor: &mut Monitor) {
    let (program, away) = (folder.join("bh-dma"), folder.join("away"));
    std::fs::rename(&program, &away).expect("rename");
    // More than once where a successor waits already.
    until(monitor, "device_kill dma", |answer| answer.contains("has no process"));
    until(monitor, "info processes", |table| says(table, "bh-dma", "dead"));
    std::fs::rename(&away, &program).expect("rename");
}

#[test]
fn place_that_was_given_up_comes_back_when_the_machine_is_reset() {
    let scratch = Scratch::new("revive-reset");
    let folder = own_programs(&scratch);
    let (mut vm, mut monitor) = start(&folder, &scratch);
    give_up_dma(&folder, &mut monitor);
    assert_eq!(monitor.ask("system_reset"), "");
    vm.expect("K", 60);
    let alive = |table: &str| table.contains("bh-dma") && !says(table, "bh-dma", "dead");
    until(&mut monitor, "info processes", alive);
}

#[test]
fn a_device_that_was_given_up_is_as_at_power_on_when_the_guest_has_reset_the_machine() {
    let scratch = Scratch::new("revive-guest-reset");
    let folder = own_programs(&scratch);
    // Page register 84h, which a reset clears: shown, changed, shown again.
    let code = Code::new().say_port(0x84).out(0x84, 0x5a).say_port(0x84).say("K").bytes(&RECEIVE);
    let (mut vm, mut monitor) = start_with(&folder, &scratch, &code.out(0xcf9, 6).sleep());
    give_up_dma(&folder, &mut monitor);
    vm.send("r");
    // The first instruction of the firmware finds the device: what nobody answers reads as ones.
    assert_eq!(vm.take(3, 60), [0, 0x5a, b'K'], "{}", vm.errors());
    assert!(vm.output().starts_with("\0ZK"), "{:?}", vm.output());
}

/// Says K, then writes a register of the DMA controller and reads it back, for ever.
fn asks_for_ever() -> Code {
    let code = Code::new().say("K");
    let again = code.raw().len();
    // out 0x84, al; in al, 0x84
    code.bytes(&[0xe6, 0x84, 0xe4, 0x84]).back_to(again)
}

#[test]
fn a_device_that_dies_during_a_long_command_is_replaced_at_once_and_the_command_succeeds() {
    let scratch = Scratch::new("revive-command");
    let (vm, mut monitor) = start_with(&programs(), &scratch, &asks_for_ever());
    let save = std::thread::spawn(move || (monitor.ask("pmemsave 0x100000 0x7f00000 /dev/null"), monitor));
    let mut kills = 0;
    while !save.is_finished() {
        kills += u32::from(signal(&vm, "bh-dma", libc::SIGKILL));
        std::thread::sleep(Duration::from_millis(10));
    }
    let (answer, mut monitor) = save.join().expect("an answer");
    assert_eq!(answer, "");
    // The first one may have been before it began.
    assert!(kills > 1, "{kills}");
    // One that was killed before it served leaves a line without a time.
    let last = |table: &str| table.lines().rfind(|line| line.contains("bh-dma")).map(str::to_owned);
    let served = |table: &str| last(table).is_some_and(|line| !line.contains(" - "));
    let table = until(&mut monitor, "info restarts", served);
    let slowest = table.trim_end().rsplit_once("all within ").and_then(|(_, time)| time.strip_suffix("ms"));
    let slowest: f64 = slowest.and_then(|time| time.parse().ok()).expect("a time");
    assert!(slowest < 1000.0, "{table}");
}

#[test]
fn device_restart_starts_the_program_now_on_disk_and_a_state_it_cannot_read_is_a_power_on() {
    let scratch = Scratch::new("revive-upgrade");
    let folder = own_programs(&scratch);
    let (mut vm, mut monitor) = start(&folder, &scratch);
    // The next version of the device is another device altogether, with another state.
    let next = folder.join("next");
    std::fs::copy(programs().join("bh-template"), &next).expect("copy");
    std::fs::rename(&next, folder.join("bh-dma")).expect("rename");
    assert_eq!(monitor.ask("device_restart dma"), "");
    vm.expect_error("the saved state cannot be taken up (it is of another version)", 60);
    until(&mut monitor, "info restarts", |table| says(table, "bh-dma", "replaced by device_restart"));
    let serves = |table: &str| !table.lines().any(|line| line.contains("bh-dma") && line.contains(" - "));
    until(&mut monitor, "info restarts", serves);
    // And back again, to the program of before.
    std::fs::copy(programs().join("bh-dma"), &next).expect("copy");
    std::fs::rename(&next, folder.join("bh-dma")).expect("rename");
    assert_eq!(monitor.ask("device_restart dma"), "");
    let twice = |table: &str| table.lines().filter(|line| line.contains("bh-dma")).count() == 2;
    until(&mut monitor, "info restarts", |table| twice(table) && serves(table));
    vm.send("still here");
    vm.expect("still here", 60);
}
