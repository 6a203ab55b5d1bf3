//! Timekeeping: the guest's clocks against the host's, and what becomes of timer interrupts when processors are scarce.
//!
//! `./campaign clock` runs the long form: the length of each part comes from the environment.

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
        // mov si, 0x520; mov bp, 16; then each byte as two letters.
        .bytes(&[0xbe, 0x20, 0x05, 0xbd, 0x10, 0x00])
        .then(|code| {
            let next = code.raw().len();
            let code = code.bytes(&[0x8a, 0x04, 0xc0, 0xe8, 0x04, 0x04, b'A']).put();
            let code = code.bytes(&[0x8a, 0x04, 0x24, 0x0f, 0x04, b'A']).put();
            // inc si; dec bp; jz +3
            code.bytes(&[0x46, 0x4d, 0x74, 0x03]).back_to(next)
        })
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
    // No tick comes twice. Two may have been due before the first reading and taken after it: one in service, one that waits.
    assert!(lost(PIT, last.pit - first.pit) >= -3.0, "{what}: too many ticks of the 8254");
    (first, last)
}

/// Busy threads until it is dropped.
struct Load<'a>(&'a AtomicBool);

impl Drop for Load<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn guest_clocks_keep_the_hosts_time_and_missed_ticks_of_the_rtc_are_made_up_for() {
    let seconds = setting("CLOCK_SECONDS", 3);
    let scratch = Scratch::new("clock");
    let mut plain = firmware().start(&scratch, &[]);
    part("idle", &mut plain, seconds);

    let other = Scratch::new("clock-hack");
    let mut hack = firmware().start(&other, &["-rtc-td-hack"]);
    let over = AtomicBool::new(false);
    let begun = std::thread::scope(|scope| {
        let _load = Load(&over);
        let busy = std::thread::available_parallelism().map_or(2, usize::from) * 2;
        for _ in 0..busy {
            // Computing, not pausing: it is to be in the way.
            scope.spawn(|| {
                let mut value = 1u64;
                while !over.load(Ordering::Relaxed) {
                    value = std::hint::black_box(value.wrapping_mul(3));
                }
            });
        }
        part("under load", &mut plain, seconds);
        part("under load, -rtc-td-hack", &mut hack, seconds).0
    });
    // What was missed comes afterwards, one by one.
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let now = read(&mut hack);
        let due = (now.ns - begun.ns) as f64 * RTC / 1e9;
        // Some may have been missed before the first reading, and none can come before it is due.
        let behind = due - (now.rtc - begun.rtc) as f64;
        assert!(now.rtc as f64 <= now.ns as f64 * RTC / 1e9 + 1.0, "{} ticks at {} ns", now.rtc, now.ns);
        if behind < 4.0 {
            break;
        }
        assert!(Instant::now() < end, "{behind} ticks of {due} are still missing");
    }
}
