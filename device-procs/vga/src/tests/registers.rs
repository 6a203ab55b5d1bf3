//! The register file: ports, palette, timing, and what every chip must hold.

use bulkhead_bus::conformance::{Setup, check};

use super::*;

#[test]
fn conforms() {
    check(|| make(SMALL), Setup { bulk: SMALL as usize, steps: 1200, ..Setup::default() });
}

#[test]
fn memory_sizes_out_of_range_are_refused() {
    for bytes in [0, 1 << 17, (1 << 20) + 1, 1 << 29, u32::MAX] {
        assert!(Vga::new(VgaConfig { vram_bytes: bytes }).is_err(), "{bytes}");
    }
}

#[test]
fn crt_controller_answers_only_where_misc_output_says() {
    let mut pc = bench(SMALL);
    pc.outb(MISC_WRITE, 0x67);
    pc.set(CRTC_COLOUR, 0x0e, 0x12);
    assert_eq!(pc.get(CRTC_COLOUR, 0x0e), 0x12);
    assert_eq!(pc.inb(0x3b5), 0xff);
    pc.outb(MISC_WRITE, 0x66);
    assert_eq!(pc.inb(0x3d5), 0xff);
    assert_eq!(pc.get(CRTC_MONO, 0x0e), 0x12);
    pc.set(CRTC_COLOUR, 0x0e, 0x34);
    assert_eq!(pc.get(CRTC_MONO, 0x0e), 0x12);
    assert_eq!(pc.inb(MISC_READ), 0x66);
}

#[test]
fn protection_keeps_timing_registers_but_not_line_compare() {
    let mut pc = bench(SMALL);
    pc.set_mode(&MODE_3);
    assert_eq!(pc.get(CRTC_COLOUR, 0x11), 0x8e);
    pc.set(CRTC_COLOUR, 0x00, 0x11);
    pc.set(CRTC_COLOUR, 0x07, 0x00);
    assert_eq!(pc.get(CRTC_COLOUR, 0x00), 0x5f);
    assert_eq!(pc.get(CRTC_COLOUR, 0x07), 0x0f);
    pc.set(CRTC_COLOUR, 0x11, 0x0e);
    pc.set(CRTC_COLOUR, 0x00, 0x11);
    assert_eq!(pc.get(CRTC_COLOUR, 0x00), 0x11);
}

#[test]
fn attribute_port_alternates_and_status_read_makes_it_expect_an_index() {
    let mut pc = bench(SMALL);
    pc.outb(MISC_WRITE, 0x67);
    pc.set_attribute(0x10, 0x0c);
    pc.outb(ATTRIBUTE, 0x11);
    pc.inb(STATUS1_COLOUR);
    pc.outb(ATTRIBUTE, 0x10);
    assert_eq!(pc.inb(ATTRIBUTE), 0x10);
    assert_eq!(pc.inb(ATTRIBUTE_READ), 0x0c);
    pc.outb(ATTRIBUTE, 0x05);
    assert_eq!(pc.inb(ATTRIBUTE_READ), 0x05);
}

#[test]
fn unfitted_bits_read_zero() {
    let mut pc = bench(SMALL);
    for (index, mask) in SEQUENCER_MASK.iter().enumerate() {
        pc.set(SEQUENCER, index as u8, 0xff);
        assert_eq!(pc.get(SEQUENCER, index as u8), *mask);
    }
    for (index, mask) in GRAPHICS_MASK.iter().enumerate() {
        pc.set(GRAPHICS, index as u8, 0xff);
        assert_eq!(pc.get(GRAPHICS, index as u8), *mask);
    }
}

#[test]
fn palette_counts_red_green_blue_and_moves_on() {
    let mut pc = bench(SMALL);
    pc.set_colour(5, [0xff, 2, 3]);
    for value in [4, 5, 6] {
        pc.outb(DAC_DATA, value);
    }
    assert_eq!(pc.inb(DAC_READ), 0);
    assert_eq!(pc.inb(DAC_WRITE), 7);
    pc.outb(DAC_READ, 5);
    assert_eq!(pc.inb(DAC_READ), 3);
    let read: Vec<u8> = (0..6).map(|_| pc.inb(DAC_DATA)).collect();
    assert_eq!(read, [0x3f, 2, 3, 4, 5, 6]);
}

#[test]
fn palette_entry_changes_with_its_third_colour_only() {
    let mut pc = bench(SMALL);
    pc.set_colour(9, [1, 2, 3]);
    pc.outb(DAC_WRITE, 9);
    pc.outb(DAC_DATA, 7);
    pc.outb(DAC_DATA, 8);
    pc.outb(DAC_READ, 9);
    assert_eq!(pc.inb(DAC_DATA), 1);
}

#[test]
fn disabled_adapter_answers_nothing_but_its_enable_port() {
    let mut pc = bench(SMALL);
    pc.set_mode(&MODE_13);
    pc.poke(0xa0000, 7);
    pc.outb(ENABLE, 0);
    assert_eq!(pc.inb(MISC_READ), 0xff);
    assert_eq!(pc.peek(0xa0000), 0xff);
    pc.outb(ENABLE, 1);
    assert_eq!(pc.inb(MISC_READ), 0x63);
    assert_eq!(pc.peek(0xa0000), 7);
}

#[test]
fn status_follows_the_programmed_timing() {
    let mut pc = bench(SMALL);
    pc.set_mode(&MODE_3);
    // 449 lines of 100 characters of 9 dots at 28.322 MHz; retrace from line 412.
    let column_ps = 9_000_000_000u64 / 28_322;
    let line_ns = column_ps * 100 / 1000;
    let status = |pc: &mut Pc, line: u64, column: u64| {
        pc.0.now = (line * column_ps * 100 + column * column_ps) / 1000 + 1;
        pc.inb(STATUS1_COLOUR)
    };
    assert_eq!(status(&mut pc, 10, 5), 0);
    assert_eq!(status(&mut pc, 10, 90), STATUS1_BLANKING);
    assert_eq!(status(&mut pc, 405, 5), STATUS1_BLANKING);
    assert_eq!(status(&mut pc, 413, 5), STATUS1_BLANKING | STATUS1_RETRACE);
    // About 70 frames a second, each with one retrace.
    let mut edges = 0;
    let mut last = 0;
    for step in 0..1_000_000_000 / line_ns {
        pc.0.now = step * line_ns;
        let now = pc.inb(STATUS1_COLOUR) & STATUS1_RETRACE;
        edges += u32::from(now > last);
        last = now;
    }
    assert!((69..=71).contains(&edges), "{edges}");
}

#[test]
fn retrace_comes_even_when_no_timing_is_programmed() {
    let mut pc = bench(SMALL);
    pc.outb(MISC_WRITE, 1);
    let seen = (0..100).map(|step| {
        pc.0.now = step * 500_000;
        pc.inb(STATUS1_COLOUR)
    });
    let seen: Vec<u8> = seen.collect();
    assert!(seen.contains(&0) && seen.contains(&(STATUS1_RETRACE | STATUS1_BLANKING)));
}

#[test]
fn registers_in_bar_2_are_those_of_the_ports() {
    let mut pc = bench(SMALL);
    // 0x3c2, 0x3d4/0x3d5.
    pc.0.write(REGION_MMIO, 0x402, 1, 0x67);
    pc.0.write(REGION_MMIO, 0x414, 2, 0x420c);
    assert_eq!(pc.inb(MISC_READ), 0x67);
    assert_eq!(pc.get(CRTC_COLOUR, 0x0c), 0x42);
    assert_eq!(pc.0.read(REGION_MMIO, 0x414, 2), 0x420c);
}

#[test]
fn edid_has_its_header_and_checksum() {
    let mut pc = bench(SMALL);
    let block: Vec<u8> = (0..128).map(|at| pc.0.read(REGION_MMIO, at, 1) as u8).collect();
    assert_eq!(block[..8], [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]);
    assert_eq!(block.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    assert_eq!(pc.0.read(REGION_MMIO, 0x80, 4), 0);
}

#[test]
fn restart_in_the_middle_of_a_palette_write_loses_nothing() {
    let mut pc = bench(SMALL);
    pc.outb(DAC_WRITE, 9);
    pc.outb(DAC_DATA, 7);
    pc.0.restart(make(SMALL)).expect("own state");
    pc.outb(DAC_DATA, 8);
    pc.0.restart(make(SMALL)).expect("own state");
    pc.outb(DAC_DATA, 9);
    pc.outb(DAC_READ, 9);
    assert_eq!([pc.inb(DAC_DATA), pc.inb(DAC_DATA), pc.inb(DAC_DATA)], [7, 8, 9]);
}
