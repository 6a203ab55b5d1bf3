//! Register-level tests of the countdown.

use bulkhead_bus::bench::Bench;
use bulkhead_bus::conformance::{Setup, check};

use crate::spec::{COUNT, DONE, STATUS, TICK_NS};
use crate::{Countdown, LINE_DONE};

fn bench() -> Bench<Countdown> {
    Bench::new(Countdown::new(), 0, 0, 0)
}

#[test]
fn conforms() {
    check(Countdown::new, Setup::default());
}

#[test]
fn line_rises_when_the_count_has_passed_and_falls_when_done_is_cleared() {
    let mut bench = bench();
    bench.write(0, COUNT, 1, 10);
    bench.advance(10 * TICK_NS - 1);
    assert!(!bench.line(LINE_DONE));
    bench.advance(1);
    assert!(bench.line(LINE_DONE));
    assert_eq!(bench.read(0, STATUS, 1), u64::from(DONE));
    bench.write(0, STATUS, 1, u64::from(DONE));
    assert!(!bench.line(LINE_DONE));
}

#[test]
fn count_reads_the_time_left_in_whole_ticks() {
    let mut bench = bench();
    bench.write(0, COUNT, 1, 10);
    bench.advance(2 * TICK_NS + 1);
    assert_eq!(bench.read(0, COUNT, 1), 7);
}

#[test]
fn count_of_zero_stops_a_running_countdown() {
    let mut bench = bench();
    bench.write(0, COUNT, 1, 10);
    bench.write(0, COUNT, 1, 0);
    bench.advance(100 * TICK_NS);
    assert!(!bench.line(LINE_DONE));
}

#[test]
fn countdown_survives_the_death_of_its_process() {
    let mut bench = bench();
    bench.write(0, COUNT, 1, 10);
    bench.advance(5 * TICK_NS);
    bench.restart(Countdown::new()).expect("own state");
    bench.advance(5 * TICK_NS);
    assert!(bench.line(LINE_DONE));
}
