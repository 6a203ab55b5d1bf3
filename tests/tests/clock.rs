//! Timekeeping: the guest's clocks against the host's, and what becomes of timer interrupts when processors are scarce.
//!
//! `./campaign clock` runs the long form: the length of each part comes from the environment.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bulkhead_tests::code::Code;
use bulkhead_tests::{Scratch, Vm};

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")),
        Err(_) => default,
    }
}

/// Ticks a second of the 8254 that the firmware asks for, and of the MC146818.
const PIT: f64 = 1_193_182.0 / 1193.0;
const RTC: f64 = 1024.0;

/// A firmware that counts interrupts of the 8254 and of the MC146818, and sends both counts and the time-stamp counter (nanoseconds)
/// whenever it receives a character, as letters from A on, lowest byte first, with a bar behind.
fn firmware() -> Code {
    let (pit, rtc) = (0x120u16.to_le_bytes(), 0x140u16.to_le_bytes());
    let code = Code::new()
        // cli; xor ax, ax; mov ds, ax; mov ss, ax; mov sp, 0x7000; vectors of IRQ 0 and IRQ 8
        .bytes(&[0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x70])
        .bytes(&[0xc7, 0x06, 0x20, 0x00, pit[0], pit[1], 0xc7, 0x06, 0x22, 0x00, 0x00, 0xf0])
        .bytes(&[0xc7, 0x06, 0xc0, 0x01, rtc[0], rtc[1], 0xc7, 0x06, 0xc2, 0x01, 0x00, 0xf0])
        // xor eax, eax; mov [500], eax; mov [504], eax
        .bytes(&[0x66, 0x31, 0xc0, 0x66, 0xa3, 0x00, 0x05, 0x66, 0xa3, 0x04, 0x05]);
    let ports = [
        (0x20, 0x11),
        (0x21, 0x08),
        (0x21, 0x04),
        (0x21, 0x01),
        (0x21, 0xfa),
        (0xa0, 0x11),
        (0xa1, 0x70),
        (0xa1, 0x02),
        (0xa1, 0x01),
        (0xa1, 0xfe),
        // The 8254 divides by 1193.
        (0x43, 0x34),
        (0x40, 0xa9),
        (0x40, 0x04),
        // 1024 Hz, periodic interrupt on.
        (0x70, 0x0a),
        (0x71, 0x26),
        (0x70, 0x0b),
        (0x71, 0x42),
        (0x70, 0x0c),
    ];
    // Short forms, or it would not fit: mov al, value; out port, al.
    let code = ports.into_iter().fold(code, |code, (port, value)| code.bytes(&[0xb0, value, 0xe6, port]));
    // in al, 0x71; sti
    let code = code.bytes(&[0xe4, 0x71, 0xfb]);
    let top = code.raw().len();
    code
        // hlt; mov dx, 0x3fd; in al, dx; test al, 1; jz hlt; mov dx, 0x3f8; in al, dx
        .bytes(&[0xf4, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf7, 0xba, 0xf8, 0x03, 0xec])
        // cli; copy of the counts; rdtsc; mov [528], eax; mov [52c], edx; sti
        .bytes(&[0xfa, 0x66, 0xa1, 0x00, 0x05, 0x66, 0xa3, 0x20, 0x05])
        .bytes(&[0x66, 0xa1, 0x04, 0x05, 0x66, 0xa3, 0x24, 0x05])
        .bytes(&[0x0f, 0x31, 0x66, 0xa3, 0x28, 0x05, 0x66, 0x89, 0x16, 0x2c, 0x05, 0xfb])
        .say_memory(0x520, 16)
        .say("|")
        .back_to(top)
        .fill_to(0x120)
        // push ax; inc dword [500]; mov al, 0x20; out 0x20, al; pop ax; iret
        .bytes(&[0x50, 0x66, 0xff, 0x06, 0x00, 0x05, 0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf])
        .fill_to(0x140)
        // The same at 504, with a look at register C and the other controller.
        .bytes(&[0x50, 0x66, 0xff, 0x06, 0x04, 0x05, 0xb0, 0x0c, 0xe6, 0x70, 0xe4, 0x71])
        .bytes(&[0xb0, 0x20, 0xe6, 0xa0, 0xe6, 0x20, 0x58, 0xcf])
}

/// What the firmware said, and between which times of the host its clock was read.
#[derive(Clone, Copy)]
struct Reading {
    pit: u64,
    rtc: u64,
    ns: u64,
    asked: Instant,
    heard: Instant,
}

fn read(vm: &mut Vm) -> Reading {
    let asked = Instant::now();
    vm.send("x");
    let text = vm.expect("|", 60);
    let heard = Instant::now();
    let letters = text.trim_end_matches('|').as_bytes();
    let letters = &letters[letters.len() - 32..];
    let byte = |at: usize| u64::from(letters[2 * at] - b'A') << 4 | u64::from(letters[2 * at + 1] - b'A');
    let number = |from: usize, to: usize| (from..to).rev().fold(0, |value, at| value << 8 | byte(at));
    Reading { pit: number(0, 4), rtc: number(4, 8), ns: number(8, 16), asked, heard }
}

/// Two readings so far apart, the guest's clock within 0.1 % of the host's whatever the ways between them took.
fn part(what: &str, vm: &mut Vm, seconds: u64) -> (Reading, Reading) {
    let first = read(vm);
    std::thread::sleep(Duration::from_secs(seconds));
    let last = read(vm);
    let guest = (last.ns - first.ns) as f64 / 1e9;
    let (least, most) = (last.asked - first.heard, last.heard - first.asked);
    let (least, most) = (least.as_secs_f64(), most.as_secs_f64());
    let middle = (least + most) / 2.0;
    let lost = |rate: f64, ticks: u64| (guest * rate - ticks as f64).round();
    println!(
        "{what}: {guest:.3} s of the guest's in {middle:.3} s ({:+.4} %, +-{:.4}); lost ticks: 8254 {} of {:.0}, MC146818 {} of {:.0}",
        (guest / middle - 1.0) * 100.0,
        (most - least) / 2.0 / middle * 100.0,
        lost(PIT, last.pit - first.pit),
        guest * PIT,
        lost(RTC, last.rtc - first.rtc),
        guest * RTC,
    );
    assert!(guest >= least * 0.999 && guest <= most * 1.001, "{what}: {guest} is not in {least}..{most}");
    never_early(&last);
    (first, last)
}

/// No tick comes twice or before it is due.
fn never_early(now: &Reading) {
    for (chip, ticks, rate) in [("8254", now.pit, PIT), ("MC146818", now.rtc, RTC)] {
        assert!(ticks as f64 <= now.ns as f64 * rate / 1e9 + 1.0, "{chip}: {ticks} ticks at {} ns", now.ns);
    }
}

/// Waits until no more ticks are missing since a reading than may be under way. False when some are lost for good.
fn catches_up(what: &str, vm: &mut Vm, begun: &Reading, rate: f64, ticks: fn(&Reading) -> u64) -> bool {
    let end = Instant::now() + Duration::from_secs(60);
    let mut looks = 0;
    loop {
        let now = read(vm);
        never_early(&now);
        looks += 1;
        let due = (now.ns - begun.ns) as f64 * rate / 1e9;
        let behind = due - (ticks(&now) - ticks(begun)) as f64;
        if behind < 4.0 {
            println!("{what}: none of {due:.0} ticks is missing (look {looks})");
            return true;
        }
        if Instant::now() > end {
            println!("{what}: {behind:.0} ticks of {due:.0} are still missing");
            return false;
        }
    }
}

/// The longest time for which a thread that sleeps for moments did not run, until it is stopped: whoever is away for long loses
/// ticks for good.
struct Away(std::thread::JoinHandle<Duration>, Arc<AtomicBool>);

impl Away {
    fn watch() -> Away {
        let over = Arc::new(AtomicBool::new(false));
        let until = over.clone();
        let watch = move || {
            let (mut longest, mut last) = (Duration::ZERO, Instant::now());
            while !until.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(10));
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            longest
        };
        Away(std::thread::spawn(watch), over)
    }

    fn longest(self) -> Duration {
        self.1.store(true, Ordering::Relaxed);
        self.0.join().expect("does nothing but sleep")
    }
}

/// Tries again where the host was away for so long that ticks may have been lost, which is no fault of the machine.
fn unless_away(mut attempt: impl FnMut() -> bool) {
    for _ in 0..5 {
        let away = Away::watch();
        let good = attempt();
        let longest = away.longest();
        if good {
            return;
        }
        assert!(
            longest > Duration::from_millis(250),
            "ticks are lost, and nothing was away for longer than {longest:?}"
        );
    }
    panic!("the host is away too often");
}

/// Busy threads until it is dropped, twice as many as processors.
struct Load(Arc<AtomicBool>, Vec<std::thread::JoinHandle<()>>);

impl Load {
    fn start() -> Load {
        let over = Arc::new(AtomicBool::new(false));
        let busy = std::thread::available_parallelism().map_or(2, usize::from) * 2;
        let threads = (0..busy).map(|_| {
            let over = over.clone();
            // Computing, not pausing: it is to be in the way.
            std::thread::spawn(move || {
                let mut value = 1u64;
                while !over.load(Ordering::Relaxed) {
                    value = std::hint::black_box(value.wrapping_mul(3));
                }
            })
        });
        Load(over.clone(), threads.collect())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        for thread in self.1.drain(..) {
            // One that panicked has been told of.
            let _ = thread.join();
        }
    }
}

#[test]
fn guest_clocks_keep_the_hosts_time_and_no_tick_of_the_8254_is_lost_under_load() {
    let seconds = setting("CLOCK_SECONDS", 3);
    let scratch = Scratch::new("clock");
    let mut vm = firmware().start(&scratch, &[]);
    part("idle", &mut vm, seconds);
    let load = Load::start();
    part("under load", &mut vm, seconds);
    drop(load);
    // A second's ticks are owed at most, so this is shorter than one: a guest that waits for its starved clock can fall behind for good.
    unless_away(|| {
        let mut loads = 0..seconds.min(5);
        loads.all(|_| {
            let begun = read(&mut vm);
            let load = Load::start();
            std::thread::sleep(Duration::from_millis(700));
            drop(load);
            catches_up("8254 after the load", &mut vm, &begun, PIT, |now| now.pit)
        })
    });
}

#[test]
fn ticks_that_come_due_while_the_whole_machine_stands_come_afterwards() {
    let scratch = Scratch::new("clock-stop");
    let mut vm = firmware().start(&scratch, &[]);
    read(&mut vm);
    let cpu = vm.processes().into_iter().find(|(_, name)| name == "bh-cpu").expect("runs").0;
    let signal = |number| {
        // SAFETY: a signal to a process of this test's own.
        assert_eq!(unsafe { libc::kill(cpu as i32, number) }, 0);
    };
    unless_away(|| {
        let begun = read(&mut vm);
        let mut stops = 0..3;
        stops.all(|_| {
            signal(libc::SIGSTOP);
            std::thread::sleep(Duration::from_millis(300));
            signal(libc::SIGCONT);
            catches_up("8254 after standing", &mut vm, &begun, PIT, |now| now.pit)
        })
    });
}

#[test]
fn missed_ticks_of_the_rtc_are_made_up_for_with_the_drift_hack() {
    let seconds = setting("CLOCK_SECONDS", 3);
    let scratch = Scratch::new("clock-hack");
    let mut vm = firmware().start(&scratch, &["-rtc-td-hack"]);
    let load = Load::start();
    let begun = part("under load, -rtc-td-hack", &mut vm, seconds).0;
    drop(load);
    assert!(catches_up("MC146818 after the load", &mut vm, &begun, RTC, |now| now.rtc));
}
