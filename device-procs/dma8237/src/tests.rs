//! Register-level tests of the DMA controllers.

use bulkhead_bus::bench::Bench;
use bulkhead_bus::chip::Control;
use bulkhead_bus::conformance::{Setup, check};

use crate::Dma8237;
use crate::spec::*;

fn bench() -> Bench<Dma8237> {
    Bench::new(Dma8237::new(), 0, 0, 0)
}

#[test]
fn conforms() {
    check(Dma8237::new, Setup::default());
}

#[test]
fn address_and_count_go_through_the_flip_flop() {
    let mut bench = bench();
    for (region, stride) in [(BYTES, 1), (WORDS, 2)] {
        bench.write(region, CLEAR_FLIP_FLOP * stride, 1, 0);
        for register in 0..CHANNELS_END {
            bench.write(region, register * stride, 1, 0x10 + register);
            bench.write(region, register * stride, 1, 0xa0 + register);
        }
        for register in 0..CHANNELS_END {
            assert_eq!(bench.read(region, register * stride, 1), 0x10 + register);
            assert_eq!(bench.read(region, register * stride, 1), 0xa0 + register);
        }
        bench.read(region, 0, 1);
        bench.write(region, CLEAR_FLIP_FLOP * stride, 1, 0);
        assert_eq!(bench.read(region, 0, 1), 0x10, "the low byte is next again");
    }
}

#[test]
fn all_channels_are_masked_after_reset_and_master_clear() {
    let mut bench = bench();
    assert_eq!(bench.read(BYTES, MASK_ALL, 1), 0xff);
    bench.write(BYTES, CLEAR_MASKS, 1, 0);
    assert_eq!(bench.read(BYTES, MASK_ALL, 1), 0xf0);
    bench.write(BYTES, MASK_ONE, 1, u64::from(SET | 2));
    assert_eq!(bench.read(BYTES, MASK_ALL, 1), 0xf4);
    bench.write(BYTES, MASK_ONE, 1, 2);
    bench.write(BYTES, MASK_ALL, 1, 0x09);
    assert_eq!(bench.read(BYTES, MASK_ALL, 1), 0xf9);
    bench.write(BYTES, 0, 1, 0x77);
    bench.write(BYTES, MASTER_CLEAR, 1, 0);
    assert_eq!(bench.read(BYTES, MASK_ALL, 1), 0xff);
    assert_eq!(bench.read(BYTES, 0, 1), 0x77, "the address stays");
}

#[test]
fn status_shows_requests() {
    let mut bench = bench();
    bench.write(WORDS, REQUEST * 2, 1, u64::from(SET | 1));
    assert_eq!(bench.read(WORDS, STATUS_COMMAND * 2, 1), 0x20);
    assert_eq!(bench.read(BYTES, STATUS_COMMAND, 1), 0);
    bench.write(WORDS, REQUEST * 2, 1, 1);
    assert_eq!(bench.read(WORDS, STATUS_COMMAND * 2, 1), 0);
}

#[test]
fn second_controller_answers_at_even_ports_only() {
    let mut bench = bench();
    assert_eq!(bench.read(WORDS, 1, 1), 0xff);
    bench.write(WORDS, 1, 1, 0x55);
    bench.write(WORDS, CLEAR_FLIP_FLOP * 2, 1, 0);
    assert_eq!(bench.read(WORDS, 0, 1), 0);
}

#[test]
fn page_registers_are_memory() {
    let mut bench = bench();
    for port in 0..16 {
        bench.write(PAGES, port, 1, 0x30 + port);
    }
    for port in 0..16 {
        assert_eq!(bench.read(PAGES, port, 1), 0x30 + port);
    }
    let text = String::from_utf8(bench.control(&Control::Info).expect("a text")).expect("ASCII");
    assert!(text.starts_with("channel 0: page 0x37"), "{text}");
}
