//! Chaos: a guest copies and checksums a disk, scrolls its screen, switches video modes and is worked with over a TCP serial
//! session, while every process but broker and CPU is killed, stopped and crashed at random. Nothing may be lost.
//!
//! `./campaign chaos` runs the long form: the number of kills, the size of the disk and the seed come from the environment.
//! Every process joins by itself: the victims are what the machine consists of.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use bulkhead_tests::linux::{self, COMPLAINTS, Session};
use bulkhead_tests::{Monitor, STANDBY, Scratch, Screen, Vm, children, guest};

/// Shortest time between two crashes of one process: more of them are followed by pauses on purpose.
const CRASH_PAUSE: Duration = Duration::from_secs(4);
/// Longest time until a stopped process is replaced.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// After this time a process that got a signal has not died of it.
const DEATH_LIMIT: Duration = Duration::from_secs(20);
/// Longest copy and check of the disk.
const ROUND_LIMIT: Duration = Duration::from_secs(1800);

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")),
        Err(_) => default,
    }
}

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// A disk of which no two sectors are equal.
fn disk(path: &str, megabytes: u64) {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).expect("image"));
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..megabytes << 17 {
        file.write_all(&random.below(u64::MAX).to_le_bytes()).expect("image");
    }
    file.flush().expect("image");
}

/// What was done to the machine.
#[derive(Default)]
struct Tally {
    killed: u64,
    crashed: u64,
    stopped: u64,
    /// Deadly signals that did not kill. Until a process is in its jail the standard library has a handler for SIGSEGV, to tell an
    /// overflow of the stack; it goes back to where it thinks that the fault will come again, which for a signal that was sent it does not.
    survived: u64,
}

impl Tally {
    fn all(&self) -> u64 {
        self.killed + self.crashed + self.stopped
    }
}

/// Kills, crashes and stops processes below `broker`, `deaths` times.
fn monkey(broker: u32, deaths: u64, seed: u64, alive: &dyn Fn() -> bool) -> Tally {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut tally = Tally::default();
    let mut crashes: BTreeMap<String, Instant> = BTreeMap::new();
    // They may exist for a moment after their signal, the stopped one for seconds: process, signal, time.
    let mut doomed: Vec<(u32, i32, Instant)> = Vec::new();
    let mut stopped: Option<(u32, Instant)> = None;
    // Deaths count, not signals: the last ones are awaited.
    while (tally.all() < deaths || !doomed.is_empty()) && alive() {
        let all = children(broker);
        doomed.retain(|(pid, signal, since)| {
            let lives = all.iter().any(|(have, _)| have == pid);
            let survives = lives && *signal != libc::SIGSTOP && since.elapsed() > DEATH_LIMIT;
            if survives {
                assert_eq!(*signal, libc::SIGSEGV, "process {pid} does not die");
                tally.crashed -= 1;
                tally.survived += 1;
            }
            lives && !survives
        });
        if let Some((pid, since)) = stopped {
            assert!(since.elapsed() < STOP_LIMIT, "process {pid} was stopped and is not replaced");
            stopped = stopped.filter(|_| all.iter().any(|(have, _)| *have == pid));
        }
        let victims: Vec<_> = all
            .iter()
            .filter(|(pid, name)| {
                name.starts_with("bh-")
                    && !["bh-cpu", STANDBY].contains(&name.as_str())
                    && doomed.iter().all(|doomed| doomed.0 != *pid)
            })
            .collect();
        if tally.all() == deaths {
            // Only the doomed are left to be seen to.
        } else if let Some((pid, name)) = victims.get(random.below(victims.len().max(1) as u64) as usize) {
            let may_crash = crashes.get(name).is_none_or(|last| last.elapsed() > CRASH_PAUSE);
            let signal = match random.below(10) {
                0 if stopped.is_none() => {
                    stopped = Some((*pid, Instant::now()));
                    tally.stopped += 1;
                    libc::SIGSTOP
                }
                1 | 2 if may_crash => {
                    crashes.insert(name.clone(), Instant::now());
                    tally.crashed += 1;
                    [libc::SIGABRT, libc::SIGSEGV, libc::SIGILL][random.below(3) as usize]
                }
                _ => {
                    tally.killed += 1;
                    libc::SIGKILL
                }
            };
            doomed.push((*pid, signal, Instant::now()));
            // SAFETY: a plain system call on a process of our own VM.
            unsafe { libc::kill(*pid as i32, signal) };
        }
        std::thread::sleep(Duration::from_micros(5_000 + random.below(40_000)));
    }
    tally
}

/// A monitor that says what the machine looked like when the test failed.
struct Witness(Monitor);

impl Drop for Witness {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for question in ["info restarts", "info counters", "info pic", "info registers"] {
                println!("{}", self.0.ask(question));
            }
        }
    }
}

/// Successors that the machine has started, of all processes, when none is missing.
fn restarts(monitor: &mut Monitor) -> u64 {
    let table = monitor.ask("info restart-times");
    let counts = table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    counts.sum()
}

#[test]
fn guest_works_on_while_everything_around_it_dies() {
    let (deaths, megabytes) = (setting("CHAOS_DEATHS", 150), setting("CHAOS_MEGABYTES", 8));
    let seed = setting("CHAOS_SEED", 1);
    let scratch = Scratch::new("chaos");
    let (source, target) = (scratch.file("source.img"), scratch.file("target.img"));
    disk(&source, megabytes);
    std::fs::File::create(&target).and_then(|file| file.set_len(megabytes << 20)).expect("image");
    let (socket, picture) = (scratch.file("monitor"), scratch.file("screen.ppm"));
    let monitor = format!("unix:{socket},server,nowait");
    let (kernel, initrd) = (guest("amd64/vmlinuz"), guest("amd64/initrd.gz"));
    let args = ["-nographic", "-m", "256", "-hda", &source, "-hdb", &target];
    let more = ["-serial", "tcp:127.0.0.1:0,server,nowait", "-monitor", &monitor];
    let kernel = ["-kernel", &kernel, "-initrd", &initrd, "-append", "console=ttyS0"];
    let mut vm = Vm::start("qemu-system-x86_64", &[&args[..], &more, &kernel].concat());
    let mut session = Session::open(&linux::address(&vm));
    let mut witness = Witness(Monitor::connect(&socket));
    let monitor = &mut witness.0;
    session.run(linux::DISK);
    session.run("n=0; while [ -z \"$(disk 1)\" ] && [ $n -lt 60 ]; do sleep 1; n=$((n + 1)); done");
    session.run("from=$(disk 0) to=$(disk 1)");
    let names = |vm: &Vm| {
        let processes = children(vm.pid()).into_iter().map(|(_, name)| name);
        let mut names: Vec<String> = processes.filter(|name| name != STANDBY).collect();
        names.sort();
        names
    };
    let before = names(&vm);

    // In the background: the disk is copied and both copies are compared, without a cache.
    session.run(
        "{ (h=$(dd if=$from bs=64k iflag=direct 2>/dev/null | md5sum); r=0; \
         until [ -e /stop ] && [ $r -gt 0 ]; do \
         dd if=$from of=$to bs=64k iflag=direct oflag=direct conv=notrunc 2>/dev/null || echo copy $r >> /bad; \
         s=$(dd if=$to bs=64k iflag=direct 2>/dev/null | md5sum); [ \"$s\" = \"$h\" ] || echo sum $r $s $h >> /bad; \
         r=$((r + 1)); done; echo $r > /rounds) & }",
    );
    // The screen scrolls, and changes to graphics and back, each time read back.
    session.run(
        "g() { o 0x3ce 6; o 0x3cf $1; v=$(i 0x3cf); [ \"$v\" = $1 ] || echo mode $1 $v >> /bad; }; \
         { (n=0; while [ ! -e /stop ]; do k=0; \
         while [ $k -lt 30 ]; do echo \"line $n\"; n=$((n + 1)); k=$((k + 1)); done > /dev/tty1; \
         g 5; g 14; done; echo $n > /lines) & }",
    );

    let broker = vm.pid();
    let (tally, answers) = std::thread::scope(|scope| {
        let alive = move || std::path::Path::new(&format!("/proc/{broker}")).exists();
        let killing = scope.spawn(move || monkey(broker, deaths, seed, &alive));
        let mut answers = 0u64;
        while !killing.is_finished() {
            assert_eq!(session.run(&format!("echo ab$(({answers} * 7))cd")), format!("ab{}cd", answers * 7));
            answers += 1;
        }
        (killing.join().expect("the monkey"), answers)
    });
    assert_eq!(tally.all(), deaths, "{}", vm.errors());

    // Every death has its successor, and nothing else has died.
    let end = Instant::now() + STOP_LIMIT;
    while restarts(monitor) != deaths || names(&vm) != before {
        assert!(
            Instant::now() < end,
            "{deaths} deaths\n{}\n{:?}\n{}",
            monitor.ask("info restart-times"),
            names(&vm),
            monitor.ask("info restarts")
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    // The round under way is finished: a large disk takes its time.
    session.run("touch /stop");
    let end = Instant::now() + ROUND_LIMIT;
    while session.run("ls /rounds /lines 2>/dev/null | wc -l") != "2" {
        assert!(Instant::now() < end, "the copy does not end");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(session.run("cat /bad 2>/dev/null"), "", "seed {seed}");
    let rounds: u64 = session.run("cat /rounds").parse().expect("rounds of the copy");
    let lines: u64 = session.run("cat /lines").parse().expect("lines on the screen");
    assert_eq!(session.run(&format!("dmesg | grep -E {COMPLAINTS}")), "", "seed {seed}");
    let last: Vec<String> = (lines - 20..lines).map(|line| format!("line {line}")).collect();
    let end = Instant::now() + STOP_LIMIT;
    loop {
        let screen = Screen::dump(monitor, &picture).text();
        if last.iter().all(|line| screen.iter().any(|have| have.trim() == line)) {
            break;
        }
        assert!(Instant::now() < end, "not the last lines of {lines}:\n{}", screen.join("\n"));
        std::thread::sleep(Duration::from_millis(500));
    }

    println!(
        "seed {seed}: {} killed, {} crashed, {} stopped, {} survived; {rounds} rounds of {megabytes} MiB copied and checked, \
         {lines} lines scrolled, {answers} commands answered",
        tally.killed, tally.crashed, tally.stopped, tally.survived
    );
    println!("{}", monitor.ask("info restart-times"));
    session.tell("sync; poweroff -f");
    assert_eq!(vm.wait(60).code(), Some(0), "{}", vm.errors());
    let same = std::process::Command::new("cmp").args([&source, &target]).status().expect("cmp");
    assert!(same.success(), "the copy is not whole");
}
