//! Register-level tests of the parallel port.

use bulkhead_bus::bench::Bench;
use bulkhead_bus::chip::{Chip, Control};
use bulkhead_bus::conformance::{Setup, check};
use bulkhead_bus::links::BYTES_CAPACITY;

use crate::spec::*;
use crate::{LINE_INTR, Parallel1284};

/// What a driver leaves in CONTROL: selected, not in reset.
const IDLE: u8 = CONTROL_INIT | CONTROL_SELECT;
/// After the reset that a driver gives the printer.
const READY: u8 = STATUS_READY | STATUS_NO_ACK | STATUS_SELECT | STATUS_NO_ERROR;
const BUSY: u8 = READY & !STATUS_READY;
const ACK: u8 = BUSY & !STATUS_NO_ACK;

fn with_links(links: usize) -> Bench<Parallel1284> {
    let mut bench = Bench::new(Parallel1284::new(), links, 0, 0);
    set(&mut bench, CONTROL, CONTROL_SELECT);
    set(&mut bench, CONTROL, IDLE);
    bench
}

fn bench() -> Bench<Parallel1284> {
    with_links(1)
}

fn get(bench: &mut Bench<Parallel1284>, register: u64) -> u8 {
    bench.read(0, register, 1) as u8
}

fn set(bench: &mut Bench<Parallel1284>, register: u64, value: u8) {
    bench.write(0, register, 1, value.into());
}

/// One strobe, with these other bits of CONTROL.
fn print(bench: &mut Bench<Parallel1284>, byte: u8, control: u8) {
    set(bench, DATA, byte);
    set(bench, CONTROL, control | CONTROL_STROBE);
    set(bench, CONTROL, control);
}

fn printed(bench: &Bench<Parallel1284>) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 17];
    let count = bench.hosts[0].receive(&mut bytes);
    bytes.truncate(count);
    bytes
}

fn edges(bench: &Bench<Parallel1284>) -> u32 {
    bench.outputs().pulses[LINE_INTR]
}

/// Fills the link, so that the next byte has to wait.
fn block(bench: &mut Bench<Parallel1284>) {
    for _ in 0..BYTES_CAPACITY {
        print(bench, b'x', IDLE);
    }
    assert_eq!([0; 2].map(|_| get(bench, STATUS)), [BUSY, ACK]);
    assert_eq!(get(bench, STATUS), READY);
}

#[test]
fn conforms_with_a_back_end() {
    check(Parallel1284::new, Setup { bytes: 1, ..Setup::default() });
}

#[test]
fn conforms_without_a_back_end() {
    check(Parallel1284::new, Setup::default());
}

#[test]
fn registers_after_a_reset() {
    let mut bench = bench();
    set(&mut bench, DATA, 0x55);
    set(&mut bench, CONTROL, CONTROL_MASK & !CONTROL_STROBE);
    bench.with(|chip, env| chip.reset(env));
    assert_eq!(get(&mut bench, DATA), 0);
    assert_eq!(get(&mut bench, STATUS), READY | STATUS_TIMEOUT);
    assert_eq!(get(&mut bench, CONTROL), CONTROL_ONES | IDLE);
    assert_eq!(printed(&bench), b"");
    // Not to be cleared as that of an EPP port: by reading twice, by writing 1 or 0. But by a reset of the printer.
    set(&mut bench, STATUS, READY | STATUS_TIMEOUT);
    set(&mut bench, STATUS, READY);
    assert_eq!(get(&mut bench, STATUS), READY | STATUS_TIMEOUT);
    set(&mut bench, CONTROL, 0);
    assert_eq!(get(&mut bench, STATUS), READY);
}

#[test]
fn latches_read_back_and_status_cannot_be_written() {
    let mut bench = bench();
    for value in [0x55, 0xaa, 0, 0xff] {
        set(&mut bench, DATA, value);
        assert_eq!(get(&mut bench, DATA), value);
        set(&mut bench, STATUS, value);
        assert_eq!(get(&mut bench, STATUS), READY);
        let control = value & CONTROL_MASK & !(CONTROL_STROBE | CONTROL_DIRECTION);
        set(&mut bench, CONTROL, control);
        assert_eq!(get(&mut bench, CONTROL), CONTROL_ONES | control);
    }
}

#[test]
fn data_pins_read_as_ones_while_they_are_inputs() {
    let mut bench = bench();
    set(&mut bench, DATA, 0x5a);
    set(&mut bench, CONTROL, IDLE | CONTROL_DIRECTION);
    assert_eq!(get(&mut bench, DATA), 0xff);
    set(&mut bench, CONTROL, IDLE);
    assert_eq!(get(&mut bench, DATA), 0x5a);
}

#[test]
fn strobe_prints_once_and_is_acknowledged_when_it_ends() {
    let mut bench = bench();
    set(&mut bench, DATA, b'a');
    set(&mut bench, CONTROL, IDLE | CONTROL_STROBE);
    assert_eq!(printed(&bench), b"a");
    set(&mut bench, DATA, b'b');
    set(&mut bench, CONTROL, IDLE | CONTROL_STROBE | CONTROL_AUTOFD);
    assert_eq!(printed(&bench), b"", "only the edge counts");
    assert_eq!([get(&mut bench, STATUS), get(&mut bench, STATUS)], [BUSY; 2]);
    set(&mut bench, CONTROL, IDLE);
    let seen = [0; 4].map(|_| get(&mut bench, STATUS));
    assert_eq!(seen, [BUSY, ACK, READY, READY]);
    assert_eq!(edges(&bench), 0, "the interrupt is not enabled");
}

#[test]
fn each_byte_interrupts_once_if_enabled() {
    let mut bench = bench();
    for count in 1..=3 {
        set(&mut bench, CONTROL, IDLE | CONTROL_IRQEN | CONTROL_STROBE);
        assert_eq!(edges(&bench), count - 1);
        set(&mut bench, CONTROL, IDLE | CONTROL_IRQEN);
        assert_eq!(edges(&bench), count);
        assert_eq!([0; 3].map(|_| get(&mut bench, STATUS)), [BUSY, ACK, READY]);
        assert_eq!((edges(&bench), bench.line(LINE_INTR)), (count, false));
    }
}

#[test]
fn printer_that_is_not_selected_or_in_reset_takes_nothing() {
    let mut bench = bench();
    for control in [0, CONTROL_INIT, CONTROL_SELECT] {
        print(&mut bench, b'n', control);
        assert_eq!(get(&mut bench, STATUS), READY);
    }
    assert_eq!(printed(&bench), b"");
    print(&mut bench, b'y', IDLE);
    assert_eq!(printed(&bench), b"y");
}

#[test]
fn reset_of_the_printer_ends_an_acknowledge() {
    let mut bench = bench();
    print(&mut bench, b'a', IDLE);
    set(&mut bench, CONTROL, CONTROL_SELECT);
    set(&mut bench, CONTROL, IDLE);
    assert_eq!(get(&mut bench, STATUS), READY);
}

#[test]
fn printer_is_busy_until_the_back_end_has_room_then_interrupts() {
    let mut bench = bench();
    block(&mut bench);
    print(&mut bench, b'y', IDLE | CONTROL_IRQEN);
    assert_eq!([0; 4].map(|_| get(&mut bench, STATUS)), [BUSY; 4]);
    assert_eq!(edges(&bench), 0);
    print(&mut bench, b'z', IDLE | CONTROL_IRQEN);
    assert_eq!(get(&mut bench, STATUS), BUSY, "nobody took the second one");
    assert_eq!(printed(&bench).len(), BYTES_CAPACITY as usize);
    bench.event();
    assert_eq!(edges(&bench), 1);
    assert_eq!([0; 3].map(|_| get(&mut bench, STATUS)), [BUSY, ACK, READY]);
    assert_eq!(printed(&bench), b"y");
}

#[test]
fn byte_that_waits_outlives_resets_of_printer_and_machine() {
    let mut bench = bench();
    block(&mut bench);
    print(&mut bench, b'w', IDLE);
    set(&mut bench, CONTROL, 0);
    assert_eq!(get(&mut bench, STATUS), BUSY);
    bench.with(|chip, env| chip.reset(env));
    assert_eq!(get(&mut bench, STATUS), BUSY | STATUS_TIMEOUT);
    printed(&bench);
    bench.event();
    assert_eq!(printed(&bench), b"w");
}

#[test]
fn without_a_back_end_everything_is_taken() {
    let mut bench = with_links(0);
    for _ in 0..3 {
        print(&mut bench, b'a', IDLE);
        assert_eq!([0; 3].map(|_| get(&mut bench, STATUS)), [BUSY, ACK, READY]);
    }
    assert_eq!(bench.chip.save().sent, 3);
}

#[test]
fn what_the_back_end_sends_never_fills_the_link() {
    let mut bench = bench();
    for _ in 0..3 {
        assert_eq!(bench.hosts[0].send(&vec![7; BYTES_CAPACITY as usize]), BYTES_CAPACITY as usize);
        bench.event();
    }
    assert_eq!(bench.chip.save().received, 3 * BYTES_CAPACITY);
    assert_eq!(get(&mut bench, STATUS), READY);
}

#[test]
fn work_redone_from_an_older_state_neither_loses_nor_doubles_bytes() {
    let mut bench = bench();
    set(&mut bench, DATA, b'o');
    let committed = bench.chip.save();
    // Done, but the process dies before the commit.
    set(&mut bench, CONTROL, IDLE | CONTROL_STROBE);
    let mut fresh = Parallel1284::new();
    fresh.restore(&committed).expect("own state");
    bench.chip = fresh;
    bench.event();
    set(&mut bench, CONTROL, IDLE | CONTROL_STROBE);
    set(&mut bench, CONTROL, IDLE);
    print(&mut bench, b'k', IDLE);
    assert_eq!(printed(&bench), b"ok");
}

#[test]
fn states_that_cannot_be_are_refused() {
    let good = Parallel1284::new().save();
    let mut chip = Parallel1284::new();
    let bad = [
        crate::State { control: 0x40, ..good },
        crate::State { waiting: 1, ..good },
        crate::State { due: 2, ..good },
        crate::State { showing: 3, ..good },
        crate::State { due: 1, showing: 1, ..good },
        crate::State { initialised: 2, ..good },
        crate::State { padding: 1, ..good },
    ];
    assert!(chip.restore(&good).is_ok());
    assert!(bad.iter().all(|state| chip.restore(state).is_err()));
}

#[test]
fn wide_access_is_split_into_bytes() {
    let mut bench = bench();
    bench.write(0, DATA, 4, 0x000d_0041);
    assert_eq!(printed(&bench), b"A");
    assert_eq!(bench.read(0, DATA, 4), 0xffcd_5841);
    assert_eq!(bench.read(0, STATUS, 2), 0xcd58);
    bench.write(0, STATUS, 2, 0x0cff);
    assert_eq!(bench.read(0, DATA, 2), 0x5841);
    assert_eq!(bench.read(0, STATUS, 4), 0xffff_cc18);
}

#[test]
fn description_of_the_port() {
    let mut bench = bench();
    print(&mut bench, b'a', IDLE);
    let text = String::from_utf8(bench.control(&Control::Info).expect("text")).expect("text");
    assert_eq!(text, "SPP: data 0x61, status 0x58, control 0x0c, printed 1, waiting to print 0\n");
    assert!(bench.control(&Control::Break).is_err());
}
