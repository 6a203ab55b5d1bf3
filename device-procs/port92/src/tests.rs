//! Register-level tests of port 92h.

use bulkhead_bus::bench::Bench;
use bulkhead_bus::conformance::{Setup, check};

use crate::{LINE_A20, LINE_RESET, Port92};

fn bench() -> Bench<Port92> {
    Bench::new(Port92::new(), 0, 0, 0)
}

#[test]
fn conforms() {
    check(Port92::new, Setup::default());
}

#[test]
fn bit_1_drives_a20() {
    let mut bench = bench();
    assert!(!bench.line(LINE_A20));
    bench.write(0, 0, 1, 2);
    assert!(bench.line(LINE_A20));
    assert_eq!(bench.read(0, 0, 1), 2);
    bench.write(0, 0, 1, 0);
    assert!(!bench.line(LINE_A20));
}

#[test]
fn bit_0_pulses_reset_only_when_it_rises() {
    let mut bench = bench();
    for (value, resets) in [(1, 1), (3, 1), (0, 1), (1, 2)] {
        bench.write(0, 0, 1, value);
        assert_eq!(bench.outputs().pulses[LINE_RESET], resets);
    }
}
