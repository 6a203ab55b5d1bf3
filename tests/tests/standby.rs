//! Successors that wait for their predecessors' death.

use std::time::{Duration, Instant};

use bulkhead_tests::{Monitor, STANDBY, Scratch, Vm, children};

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(60);
/// Processes of the machine below that have a standby: ten devices, a drive, a port and the monitor.
const WITH_STANDBY: usize = 13;

/// A row of `info processes`.
#[derive(Clone, Debug)]
struct Row {
    pid: u32,
    name: String,
    restarts: u32,
    standby: Option<u32>,
    jail: String,
}

fn rows(monitor: &mut Monitor) -> Vec<Row> {
    let table = monitor.ask("info processes");
    let rows = table.lines().filter(|line| line.contains(" bh-"));
    rows.map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        Row {
            pid: words[0].parse().expect("a number"),
            name: words[1].to_owned(),
            restarts: words[3].parse().unwrap_or(u32::MAX),
            standby: words[8].parse().ok(),
            jail: words[9].to_owned(),
        }
    })
    .collect()
}

/// The row of a process, as soon as it is as wanted.
fn row(monitor: &mut Monitor, name: &str, wanted: impl Fn(&Row) -> bool) -> Row {
    let end = Instant::now() + LIMIT;
    loop {
        let rows = rows(monitor);
        match rows.iter().find(|row| row.name == name) {
            Some(row) if wanted(row) => return row.clone(),
            _ => assert!(Instant::now() < end, "{name}: {rows:?}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn signal(pid: u32, signal: i32) {
    // SAFETY: a plain system call on a process of our own VM.
    unsafe { libc::kill(pid as i32, signal) };
}

/// A stopped machine, all of whose standbys are there.
fn start(scratch: &Scratch) -> (Vm, Monitor) {
    let socket = scratch.file("monitor");
    let monitor = format!("unix:{socket},server,nowait");
    let vm = Vm::start("qemu", &["-nographic", "-S", "-serial", "null", "-monitor", &monitor]);
    let mut monitor = Monitor::connect(&socket);
    let end = Instant::now() + LIMIT;
    while rows(&mut monitor).iter().filter(|row| row.standby.is_some()).count() < WITH_STANDBY {
        assert!(Instant::now() < end, "{:?}", rows(&mut monitor));
        std::thread::sleep(Duration::from_millis(20));
    }
    (vm, monitor)
}

/// What a process is called by its command line.
fn command(pid: u32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).expect("a process");
    String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
}

#[test]
fn the_standby_takes_over_under_the_name_of_the_dead_and_another_one_waits() {
    let scratch = Scratch::new("standby");
    let (vm, mut monitor) = start(&scratch);
    for Row { name, pid, standby, .. } in rows(&mut monitor) {
        let Some(standby) = standby else { continue };
        assert_eq!((command(pid), command(standby).trim_end()), (name.clone(), STANDBY));
        signal(pid, libc::SIGKILL);
        let after = row(&mut monitor, &name, |row| row.restarts == 1 && command(row.pid) == name);
        assert_eq!(after.pid, standby);
        row(&mut monitor, &name, |row| row.standby.is_some_and(|next| next != standby));
    }
    assert_eq!(monitor.ask("info restarts").matches("was killed by SIGKILL").count(), WITH_STANDBY);
    let named = children(vm.pid()).into_iter().filter(|(_, name)| name == STANDBY).count();
    assert_eq!(named, WITH_STANDBY);
}

#[test]
fn a_standby_that_is_dead_stopped_or_outdated_does_no_harm() {
    let scratch = Scratch::new("standby-harm");
    let (_vm, mut monitor) = start(&scratch);
    let before = row(&mut monitor, "bh-rtc", |row| row.standby.is_some());
    let standby = before.standby.expect("a standby");
    // Dead, and nobody has looked yet.
    signal(standby, libc::SIGKILL);
    signal(before.pid, libc::SIGKILL);
    let after = row(&mut monitor, "bh-rtc", |row| row.restarts >= 1 && row.jail != "starting");
    assert_ne!(after.pid, before.pid);
    // Dead for long: another one comes.
    let standby = row(&mut monitor, "bh-rtc", |row| row.standby.is_some()).standby.expect("a standby");
    signal(standby, libc::SIGKILL);
    row(&mut monitor, "bh-rtc", |row| row.standby.is_some_and(|next| next != standby));

    // One that cannot start within its time is replaced.
    let before = row(&mut monitor, "bh-vga", |row| row.standby.is_some()).clone();
    signal(before.standby.expect("a standby"), libc::SIGSTOP);
    signal(before.pid, libc::SIGKILL);
    row(&mut monitor, "bh-vga", |row| row.restarts == 2 && row.jail != "starting");
    assert!(monitor.ask("info restarts").contains("did not get ready"));

    // The command is for a program that was changed.
    let before = row(&mut monitor, "bh-dma", |row| row.standby.is_some());
    assert_eq!(monitor.ask("device_restart dma"), "");
    let after = row(&mut monitor, "bh-dma", |row| row.restarts == 1 && row.jail != "starting");
    assert_ne!(Some(after.pid), before.standby);
    row(&mut monitor, "bh-dma", |row| row.standby.is_some() && row.standby != before.standby);
}
