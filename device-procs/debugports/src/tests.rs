//! Register-level tests of the debug ports.

use bulkhead_bus::bench::Bench;
use bulkhead_bus::config::DebugPortsConfig;
use bulkhead_bus::conformance::{Setup, check};

use crate::spec::*;
use crate::{DebugPorts, LINE_EXIT, LINE_POWER_OFF};

fn ports() -> DebugPorts {
    DebugPorts::new(&DebugPortsConfig { exit_ports: 4 }).expect("valid configuration")
}

fn bench() -> Bench<DebugPorts> {
    Bench::new(ports(), 1, 0, 0)
}

#[test]
fn conforms() {
    check(ports, Setup { bytes: 1, ..Setup::default() });
    let without = || DebugPorts::new(&DebugPortsConfig { exit_ports: 0 }).expect("valid configuration");
    check(without, Setup::default());
}

#[test]
fn text_of_all_three_ports_reaches_the_console_in_order() {
    let mut bench = bench();
    for (region, byte) in [(BIOS_INFO, b'a'), (BIOS_DEBUG, b'b'), (VGABIOS_INFO, b'c')] {
        bench.write(region, 0, 1, byte.into());
    }
    let mut got = [0; 8];
    assert_eq!(bench.hosts[0].receive(&mut got), 3);
    assert_eq!(&got[..3], b"abc");
    assert_eq!(bench.read(BIOS_INFO, 0, 1), 0xe9);
}

#[test]
fn only_the_whole_word_powers_off() {
    let mut bench = bench();
    let mut say = |word: &[u8]| {
        word.iter().for_each(|byte| bench.write(POWER, 0, 1, (*byte).into()));
        bench.outputs().pulses[LINE_POWER_OFF]
    };
    assert_eq!(say(b"Shutdow"), 0);
    assert_eq!(say(b"x"), 0);
    assert_eq!(say(b"n"), 0);
    assert_eq!(say(b"Shutdown"), 1);
}

#[test]
fn exit_carries_the_written_value() {
    let mut bench = bench();
    bench.write(EXIT, 0, 4, 0x1234_5678);
    let out = bench.outputs();
    assert_eq!((out.pulses[LINE_EXIT], out.value[LINE_EXIT]), (1, 0x1234_5678));
    bench.write(EXIT, 0, 1, 0xff10);
    let out = bench.outputs();
    assert_eq!((out.pulses[LINE_EXIT], out.value[LINE_EXIT]), (2, 0x10));
}

#[test]
fn more_than_four_exit_ports_are_refused() {
    assert!(DebugPorts::new(&DebugPortsConfig { exit_ports: 5 }).is_err());
}
