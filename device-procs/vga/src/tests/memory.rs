//! The window at 0xa0000: write modes, read modes, chains, maps, banks.

use super::*;

/// Mode 12h with known latches: the planes at offset 0x100 are 0x0f, 0x33, 0x55, 0xff and have been read.
fn latched() -> Pc {
    let mut pc = bench(SMALL);
    pc.set_mode(&MODE_12);
    pc.set_planes(0x100, [0x0f, 0x33, 0x55, 0xff]);
    pc.peek(0xa0100);
    pc
}

#[test]
fn write_mode_0_writes_the_planes_of_the_map_mask() {
    let mut pc = latched();
    pc.set(SEQUENCER, 2, 0b0101);
    pc.poke(0xa0200, 0xa5);
    assert_eq!(pc.planes(0x200), [0xa5, 0, 0xa5, 0]);
}

#[test]
fn write_mode_0_rotates_right() {
    let mut pc = latched();
    pc.set(GRAPHICS, 3, 3);
    pc.poke(0xa0200, 0b0000_0101);
    assert_eq!(pc.planes(0x200), [0b1010_0000; 4]);
}

#[test]
fn write_mode_0_sets_and_resets_enabled_planes() {
    let mut pc = latched();
    pc.set(GRAPHICS, 0, 0b0010);
    pc.set(GRAPHICS, 1, 0b0011);
    pc.poke(0xa0200, 0x77);
    assert_eq!(pc.planes(0x200), [0, 0xff, 0x77, 0x77]);
}

#[test]
fn write_mode_0_takes_masked_bits_from_the_latches() {
    let mut pc = latched();
    pc.set(GRAPHICS, 8, 0xf0);
    pc.poke(0xa0200, 0xff);
    assert_eq!(pc.planes(0x200), [0xff, 0xf3, 0xf5, 0xff]);
}

#[test]
fn logic_combines_data_with_latches() {
    for (function, expected) in
        [(0x08, [0x0c, 0x30, 0x14, 0x3c]), (0x10, [0x3f, 0x3f, 0x7d, 0xff]), (0x18, [0x33, 0x0f, 0x69, 0xc3])]
    {
        let mut pc = latched();
        pc.set(GRAPHICS, 3, function);
        pc.poke(0xa0200, 0x3c);
        assert_eq!(pc.planes(0x200), expected, "function {function:#x}");
    }
}

#[test]
fn write_mode_1_copies_the_latches() {
    let mut pc = latched();
    pc.set(GRAPHICS, 5, 1);
    pc.set(GRAPHICS, 8, 0);
    pc.poke(0xa0200, 0xee);
    assert_eq!(pc.planes(0x200), [0x0f, 0x33, 0x55, 0xff]);
}

#[test]
fn write_mode_2_spreads_a_colour_over_the_planes() {
    let mut pc = latched();
    pc.set(GRAPHICS, 5, 2);
    pc.set(GRAPHICS, 8, 0x0f);
    pc.poke(0xa0200, 0b1010);
    assert_eq!(pc.planes(0x200), [0x00, 0x3f, 0x50, 0xff]);
}

#[test]
fn write_mode_3_uses_data_as_a_mask_for_the_set_colour() {
    let mut pc = latched();
    pc.set(GRAPHICS, 5, 3);
    pc.set(GRAPHICS, 0, 0b0001);
    pc.set(GRAPHICS, 8, 0x3c);
    pc.set(GRAPHICS, 3, 4);
    // 0xf0 rotated by 4 is 0x0f; with the bit mask 0x0c.
    pc.poke(0xa0200, 0xf0);
    assert_eq!(pc.planes(0x200), [0x0f, 0x33, 0x51, 0xf3]);
}

#[test]
fn read_mode_0_returns_the_selected_plane() {
    let mut pc = latched();
    for (plane, expected) in [0x0f, 0x33, 0x55, 0xff].into_iter().enumerate() {
        pc.set(GRAPHICS, 4, plane as u8);
        assert_eq!(pc.peek(0xa0100), expected);
    }
}

#[test]
fn read_mode_1_compares_colours_of_the_planes_that_matter() {
    let mut pc = latched();
    pc.set(GRAPHICS, 5, 8);
    pc.set(GRAPHICS, 2, 0b1011);
    pc.set(GRAPHICS, 7, 0b1111);
    assert_eq!(pc.peek(0xa0100), 0x0f & 0x33 & !0x55);
    pc.set(GRAPHICS, 7, 0b1001);
    assert_eq!(pc.peek(0xa0100), 0x0f);
    pc.set(GRAPHICS, 7, 0);
    assert_eq!(pc.peek(0xa0100), 0xff);
}

#[test]
fn chain_4_sends_neighbours_to_neighbouring_planes() {
    let mut pc = bench(SMALL);
    pc.set_mode(&MODE_13);
    pc.0.write(REGION_MEMORY, 0x104, 4, 0x4433_2211);
    assert_eq!(pc.planes(0x104), [0x11, 0x22, 0x33, 0x44]);
    assert_eq!(pc.0.read(REGION_MEMORY, 0x104, 4), 0x4433_2211);
    assert_eq!(pc.peek(0xa0106), 0x33);
}

#[test]
fn text_writes_go_to_character_and_attribute_planes() {
    let mut pc = bench(SMALL);
    pc.set_mode(&MODE_3);
    pc.0.write(REGION_MEMORY, 0x18000 + 10, 2, 0x1f41);
    assert_eq!(pc.planes(10), [0x41, 0x1f, 0, 0]);
    assert_eq!(pc.0.read(REGION_MEMORY, 0x18000 + 10, 2), 0x1f41);
}

#[test]
fn wide_writes_and_reads_ascend_and_equal_single_ones() {
    let data: Vec<u8> = (0..=255).collect();
    for (mode, size) in
        [&MODE_3, &MODE_13, &MODE_12].into_iter().flat_map(|mode| [2, 4, 8].map(|size| (mode, size)))
    {
        let (mut wide, mut single) = (bench(SMALL), bench(SMALL));
        wide.set_mode(mode);
        single.set_mode(mode);
        let start = if mode.misc == 0x67 { 0x18000 } else { 0x20 };
        for (offset, bytes) in (start..).step_by(size).zip(data.chunks(size)) {
            let value = bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
            wide.0.write(REGION_MEMORY, offset, size as u8, value);
            assert_eq!(wide.0.read(REGION_MEMORY, offset, size as u8), value);
        }
        for (offset, byte) in data.iter().enumerate() {
            single.poke(0xa0000 + start + offset as u64, *byte);
        }
        for offset in 0..0x10000 {
            assert_eq!(wide.planes(offset), single.planes(offset));
        }
    }
}

#[test]
fn memory_map_selects_the_window() {
    let mut pc = bench(SMALL);
    pc.set_mode(&MODE_12);
    for (map, inside, outside) in [
        (0u8, vec![0xa0000u64, 0xb0000, 0xbffff], vec![]),
        (1, vec![0xa0000, 0xaffff], vec![0xb0000, 0xb8000]),
        (2, vec![0xb0000, 0xb7fff], vec![0xa0000, 0xb8000]),
        (3, vec![0xb8000, 0xbffff], vec![0xa0000, 0xb7fff]),
    ] {
        pc.set(GRAPHICS, 6, map << 2 | 1);
        for address in inside {
            pc.poke(address, 0x5a);
            assert_eq!(pc.peek(address), 0x5a, "map {map} {address:#x}");
        }
        for address in outside {
            pc.poke(address, 0x11);
            assert_eq!(pc.peek(address), 0xff, "map {map} {address:#x}");
        }
    }
}

#[test]
fn memory_is_out_of_reach_until_misc_output_enables_it() {
    let mut pc = bench(SMALL);
    pc.set_mode(&MODE_13);
    pc.outb(MISC_WRITE, 0x61);
    pc.poke(0xa0000, 1);
    assert_eq!(pc.peek(0xa0000), 0xff);
    assert_eq!(pc.planes(0), [0; 4]);
}

#[test]
fn wide_access_over_the_end_of_the_window_reads_ones_there() {
    let mut pc = bench(SMALL);
    pc.set_mode(&MODE_3);
    pc.0.write(REGION_MEMORY, 0x1fffe, 4, 0x1122_3344);
    assert_eq!(pc.0.read(REGION_MEMORY, 0x1fffe, 4), 0xffff_3344);
}

#[test]
fn latches_survive_a_restart() {
    let mut pc = latched();
    pc.set(GRAPHICS, 5, 1);
    pc.0.restart(make(SMALL)).expect("own state");
    pc.poke(0xa0200, 0);
    assert_eq!(pc.planes(0x200), [0x0f, 0x33, 0x55, 0xff]);
}
