//! Register-level tests of the 16550A.

use bulkhead_bus::bench::Bench;
use bulkhead_bus::chip::Control;
use bulkhead_bus::config::SerialConfig;
use bulkhead_bus::conformance::{Setup, check};
use bulkhead_bus::links::BYTES_CAPACITY;

use crate::spec::*;
use crate::{LINE_INTR, Uart16550};

fn uart() -> Uart16550 {
    Uart16550::new(&SerialConfig::default())
}

fn bench() -> Bench<Uart16550> {
    Bench::new(uart(), 1, 0, 0)
}

fn get(bench: &mut Bench<Uart16550>, register: u64) -> u8 {
    bench.read(0, register, 1) as u8
}

fn set(bench: &mut Bench<Uart16550>, register: u64, value: u8) {
    bench.write(0, register, 1, value.into());
}

fn arrive(bench: &mut Bench<Uart16550>, bytes: &[u8]) {
    bench.hosts[0].send(bytes);
    bench.event();
}

fn departed(bench: &Bench<Uart16550>) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 17];
    let count = bench.hosts[0].receive(&mut bytes);
    bytes.truncate(count);
    bytes
}

#[test]
fn conforms_with_a_back_end() {
    check(uart, Setup { bytes: 1, may_lower: &[(0, 0)], ..Setup::default() });
}

#[test]
fn conforms_without_a_back_end() {
    check(uart, Setup { may_lower: &[(0, 0)], ..Setup::default() });
}

#[test]
fn reset_values_are_those_of_the_data_sheet() {
    let mut bench = bench();
    assert_eq!(get(&mut bench, IER_DLM), 0);
    assert_eq!(get(&mut bench, IIR_FCR), IIR_NONE);
    assert_eq!(get(&mut bench, LCR), 0);
    assert_eq!(get(&mut bench, MCR), 0);
    assert_eq!(get(&mut bench, LSR), LSR_THRE | LSR_TEMT);
    assert_eq!(get(&mut bench, MSR), MSR_CTS | MSR_DSR | MSR_DCD);
    assert!(!bench.line(LINE_INTR));
}

#[test]
fn divisor_latch_hides_data_and_ier() {
    let mut bench = bench();
    set(&mut bench, IER_DLM, 0x05);
    set(&mut bench, LCR, LCR_DLAB | 3);
    set(&mut bench, RBR_THR_DLL, 0x34);
    set(&mut bench, IER_DLM, 0x12);
    assert_eq!((get(&mut bench, RBR_THR_DLL), get(&mut bench, IER_DLM)), (0x34, 0x12));
    set(&mut bench, LCR, 3);
    assert_eq!(get(&mut bench, IER_DLM), 0x05);
    assert_eq!(departed(&bench), b"");
}

#[test]
fn byte_written_goes_out_and_thre_interrupts_again_with_an_edge() {
    let mut bench = bench();
    set(&mut bench, IER_DLM, IER_ETBEI);
    assert!(bench.line(LINE_INTR), "enabling the interrupt while empty makes it due");
    assert_eq!(get(&mut bench, IIR_FCR), IIR_THRE);
    assert!(!bench.line(LINE_INTR), "reading IIR clears it");
    set(&mut bench, RBR_THR_DLL, b'a');
    assert!(bench.line(LINE_INTR));
    let edges = bench.outputs().pulses[LINE_INTR];
    set(&mut bench, RBR_THR_DLL, b'b');
    assert!(bench.line(LINE_INTR));
    assert_eq!(
        bench.outputs().pulses[LINE_INTR],
        edges + 1,
        "low and high again within the write is an edge"
    );
    assert_eq!(departed(&bench), b"ab");
}

#[test]
fn thre_stays_low_until_the_back_end_has_room() {
    let mut bench = bench();
    for _ in 0..BYTES_CAPACITY {
        set(&mut bench, RBR_THR_DLL, b'x');
    }
    set(&mut bench, IER_DLM, IER_ETBEI);
    get(&mut bench, IIR_FCR);
    set(&mut bench, RBR_THR_DLL, b'y');
    assert_eq!(get(&mut bench, LSR) & (LSR_THRE | LSR_TEMT), 0);
    assert!(!bench.line(LINE_INTR));
    let out = departed(&bench);
    bench.event();
    assert!(bench.line(LINE_INTR));
    assert_eq!(get(&mut bench, LSR) & LSR_THRE, LSR_THRE);
    assert_eq!((out.len(), departed(&bench)), (BYTES_CAPACITY as usize, b"y".to_vec()));
}

#[test]
fn without_fifos_one_byte_at_a_time_arrives_in_order() {
    let mut bench = bench();
    set(&mut bench, IER_DLM, IER_ERBFI);
    arrive(&mut bench, b"xyz");
    let mut got = Vec::new();
    while get(&mut bench, LSR) & LSR_DR != 0 {
        assert_eq!(get(&mut bench, IIR_FCR), IIR_DATA);
        got.push(get(&mut bench, RBR_THR_DLL));
    }
    assert_eq!(got, b"xyz");
    assert!(!bench.line(LINE_INTR));
    assert_eq!(bench.outputs().pulses[LINE_INTR], 2, "each successor made an edge");
}

#[test]
fn data_below_the_trigger_level_interrupts_after_four_characters() {
    let mut bench = bench();
    set(&mut bench, LCR, LCR_DLAB | 3);
    set(&mut bench, RBR_THR_DLL, 1);
    set(&mut bench, IER_DLM, 0);
    set(&mut bench, LCR, 3);
    set(&mut bench, IIR_FCR, FCR_ENABLE | 0x80);
    set(&mut bench, IER_DLM, IER_ERBFI);
    arrive(&mut bench, b"seven b");
    let character = 10 * 1_000_000_000 / 115_200;
    bench.advance(4 * character - 10);
    assert!(!bench.line(LINE_INTR));
    bench.advance(20);
    assert_eq!(get(&mut bench, IIR_FCR), IIR_TIMEOUT | IIR_FIFOS);
    assert_eq!(get(&mut bench, RBR_THR_DLL), b's');
    assert!(!bench.line(LINE_INTR), "reading restarts the time-out");
    arrive(&mut bench, b"yt");
    assert_eq!(get(&mut bench, IIR_FCR), IIR_DATA | IIR_FIFOS, "eight bytes reach the trigger level");
    get(&mut bench, RBR_THR_DLL);
    assert_eq!(get(&mut bench, IIR_FCR), IIR_NONE | IIR_FIFOS);
}

#[test]
fn time_out_interrupt_stays_until_a_character_is_read() {
    let mut bench = bench();
    set(&mut bench, IIR_FCR, FCR_ENABLE | 0x80);
    set(&mut bench, IER_DLM, IER_ERBFI);
    arrive(&mut bench, b"a");
    bench.advance(1_000_000_000);
    assert_eq!(get(&mut bench, IIR_FCR), IIR_TIMEOUT | IIR_FIFOS);
    arrive(&mut bench, b"b");
    assert_eq!(get(&mut bench, IIR_FCR), IIR_TIMEOUT | IIR_FIFOS);
    assert_eq!(bench.outputs().deadline, None);
    assert_eq!(get(&mut bench, RBR_THR_DLL), b'a');
    assert!(!bench.line(LINE_INTR));
    assert!(bench.outputs().deadline.is_some(), "one is left");
}

#[test]
fn more_than_a_fifo_full_arrives_complete() {
    let mut bench = bench();
    set(&mut bench, IIR_FCR, FCR_ENABLE | 0xc0);
    let text = (0..100).collect::<Vec<u8>>();
    arrive(&mut bench, &text);
    let mut got = Vec::new();
    while get(&mut bench, LSR) & LSR_DR != 0 {
        got.push(get(&mut bench, RBR_THR_DLL));
    }
    assert_eq!(got, text);
}

#[test]
fn line_status_interrupt_precedes_data_and_is_cleared_by_reading_lsr() {
    let mut bench = bench();
    set(&mut bench, IIR_FCR, FCR_ENABLE);
    set(&mut bench, IER_DLM, IER_MASK);
    get(&mut bench, IIR_FCR);
    bench.hosts[0].send_break();
    bench.event();
    assert_eq!(get(&mut bench, IIR_FCR), IIR_LINE | IIR_FIFOS);
    let status = get(&mut bench, LSR);
    assert_eq!(
        status & (LSR_BI | LSR_FE | LSR_DR | LSR_FIFO_ERROR),
        LSR_BI | LSR_FE | LSR_DR | LSR_FIFO_ERROR
    );
    assert_eq!(get(&mut bench, IIR_FCR), IIR_DATA | IIR_FIFOS);
    assert_eq!(get(&mut bench, RBR_THR_DLL), 0);
    assert_eq!(get(&mut bench, LSR), LSR_THRE | LSR_TEMT);
}

#[test]
fn break_in_the_fifo_shows_when_it_comes_to_the_top() {
    let mut bench = bench();
    set(&mut bench, IIR_FCR, FCR_ENABLE);
    arrive(&mut bench, b"a");
    bench.control(&Control::Break).expect("room");
    assert_eq!(get(&mut bench, LSR) & (LSR_BI | LSR_FIFO_ERROR), LSR_FIFO_ERROR);
    get(&mut bench, RBR_THR_DLL);
    assert_eq!(get(&mut bench, LSR) & LSR_BI, LSR_BI);
}

#[test]
fn break_that_finds_the_receiver_full_comes_as_soon_as_there_is_room() {
    let mut bench = bench();
    arrive(&mut bench, b"ab");
    bench.hosts[0].send_break();
    bench.event();
    assert_eq!(get(&mut bench, LSR) & LSR_BI, 0);
    assert_eq!(get(&mut bench, RBR_THR_DLL), b'a');
    assert_eq!(get(&mut bench, LSR) & (LSR_BI | LSR_DR), LSR_BI | LSR_DR);
    assert_eq!(get(&mut bench, RBR_THR_DLL), 0);
    assert_eq!(get(&mut bench, RBR_THR_DLL), b'b');
    assert_eq!(get(&mut bench, LSR) & (LSR_BI | LSR_DR), 0, "one break");
}

#[test]
fn loopback_returns_bytes_and_modem_lines_and_overruns() {
    let mut bench = bench();
    set(&mut bench, MCR, MCR_LOOP | MCR_RTS | MCR_OUT1);
    assert_eq!(get(&mut bench, MSR) & 0xf0, MSR_CTS | MSR_RI);
    assert_eq!(get(&mut bench, MSR) & 0x0f, 0, "deltas are cleared by the read");
    set(&mut bench, MCR, MCR_LOOP | MCR_RTS);
    assert_eq!(get(&mut bench, MSR), MSR_CTS | MSR_TERI);
    set(&mut bench, RBR_THR_DLL, 0x5a);
    set(&mut bench, RBR_THR_DLL, 0xa5);
    assert_eq!(get(&mut bench, LSR) & LSR_OE, LSR_OE);
    assert_eq!(get(&mut bench, RBR_THR_DLL), 0xa5, "without FIFOs the newer character stays");
    assert_eq!(departed(&bench), b"");
}

#[test]
fn loopback_holds_back_what_the_back_end_sends() {
    let mut bench = bench();
    set(&mut bench, MCR, MCR_LOOP);
    arrive(&mut bench, b"k");
    assert_eq!(get(&mut bench, LSR) & LSR_DR, 0);
    set(&mut bench, MCR, 0);
    assert_eq!(get(&mut bench, RBR_THR_DLL), b'k');
}

#[test]
fn clearing_the_receiver_fifo_drops_its_bytes() {
    let mut bench = bench();
    set(&mut bench, IIR_FCR, FCR_ENABLE);
    arrive(&mut bench, b"abc");
    set(&mut bench, IIR_FCR, FCR_ENABLE | FCR_CLEAR_RX);
    assert_eq!(get(&mut bench, LSR) & LSR_DR, 0);
    assert_eq!(bench.outputs().deadline, None);
}

#[test]
fn receiver_cleared_or_switched_while_more_waits_makes_an_edge() {
    let mut bench = bench();
    set(&mut bench, IIR_FCR, FCR_ENABLE);
    set(&mut bench, IER_DLM, IER_ERBFI);
    arrive(&mut bench, &(0..100).collect::<Vec<u8>>());
    for (value, next) in [(FCR_ENABLE | FCR_CLEAR_RX, FIFO), (0, 2 * FIFO), (FCR_ENABLE, 2 * FIFO + 1)] {
        let edges = bench.outputs().pulses[LINE_INTR];
        set(&mut bench, IIR_FCR, value);
        assert!(bench.line(LINE_INTR));
        assert_eq!(bench.outputs().pulses[LINE_INTR], edges + 1, "FCR {value:#x}");
        assert_eq!(bench.chip.state.rx[0], next as u8);
    }
}

#[test]
fn other_fcr_bits_do_nothing_without_the_enable_bit() {
    let mut bench = bench();
    set(&mut bench, IIR_FCR, 0xc0 | FCR_CLEAR_RX);
    arrive(&mut bench, b"a");
    assert_eq!(get(&mut bench, IIR_FCR) & IIR_FIFOS, 0);
    set(&mut bench, IER_DLM, IER_ERBFI);
    assert!(bench.line(LINE_INTR), "the trigger level is one");
}

#[test]
fn work_redone_from_an_older_state_neither_loses_nor_doubles_bytes() {
    let mut bench = bench();
    set(&mut bench, IIR_FCR, FCR_ENABLE);
    arrive(&mut bench, b"in");
    let committed = bulkhead_bus::chip::Chip::save(&bench.chip);
    // Done, but the process dies before the commit.
    let first = get(&mut bench, RBR_THR_DLL);
    set(&mut bench, RBR_THR_DLL, b'o');
    let mut fresh = uart();
    bulkhead_bus::chip::Chip::restore(&mut fresh, &committed).expect("own state");
    bench.chip = fresh;
    bench.event();
    assert_eq!(get(&mut bench, RBR_THR_DLL), first);
    set(&mut bench, RBR_THR_DLL, b'o');
    assert_eq!(get(&mut bench, RBR_THR_DLL), b'n');
    set(&mut bench, RBR_THR_DLL, b'k');
    assert_eq!(departed(&bench), b"ok");
}

#[test]
fn wide_access_is_split_into_bytes() {
    let mut bench = bench();
    bench.write(0, SCR, 4, 0x1234_5678);
    assert_eq!(bench.read(0, SCR, 2), 0xff78);
    bench.write(0, LCR, 2, 0x0b83);
    assert_eq!((get(&mut bench, LCR), get(&mut bench, MCR)), (0x83, 0x0b));
}
