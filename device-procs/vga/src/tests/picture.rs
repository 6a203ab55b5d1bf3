//! Pictures: what a mode makes of memory, pixel by pixel.

use super::*;

/// A glyph whose lines are all different.
fn glyph(code: u8) -> [u8; 16] {
    std::array::from_fn(|line| code.wrapping_mul(7).wrapping_add((line as u8).wrapping_mul(29)) | 1)
}

/// Mode 3 with the palette and a font for a few characters, loaded as a BIOS loads it: through the window.
fn text_screen() -> Pc {
    let mut pc = bench(SMALL);
    pc.set_mode(&MODE_3);
    for index in 0..64u8 {
        // Entry = rgbRGB.
        let level = |high: u8, low: u8| (index >> high & 1) * 0x2a + (index >> low & 1) * 0x15;
        pc.set_colour(index, [level(2, 5), level(1, 4), level(0, 3)]);
    }
    pc.set(SEQUENCER, 2, 4);
    pc.set(SEQUENCER, 4, 7);
    pc.set(GRAPHICS, 4, 2);
    pc.set(GRAPHICS, 5, 0);
    pc.set(GRAPHICS, 6, 4);
    for code in [b'A', b'B', 0xc4] {
        for (line, bits) in glyph(code).into_iter().enumerate() {
            pc.poke(0xa0000 + u64::from(code) * 32 + line as u64, bits);
        }
    }
    pc.set(SEQUENCER, 2, 3);
    pc.set(SEQUENCER, 4, 2);
    pc.set(GRAPHICS, 4, 0);
    pc.set(GRAPHICS, 5, 0x10);
    pc.set(GRAPHICS, 6, 0x0e);
    for cell in 0..2000 {
        pc.0.write(REGION_MEMORY, 0x18000 + cell * 2, 2, 0x0720);
    }
    // Cursor out of sight.
    pc.set(CRTC_COLOUR, 0x0a, 0x20);
    pc
}

fn write_text(pc: &mut Pc, column: u64, row: u64, attribute: u8, text: &[u8]) {
    for (index, code) in text.iter().enumerate() {
        let cell = row * 80 + column + index as u64;
        pc.0.write(REGION_MEMORY, 0x18000 + cell * 2, 2, u64::from(*code) | u64::from(attribute) << 8);
    }
}

/// Asserts that a cell of 9x16 shows `code` in these colours.
fn assert_cell(picture: &Picture, column: usize, row: usize, code: u8, ink: [u8; 3], paper: [u8; 3]) {
    for line in 0..16 {
        for dot in 0..9 {
            let bit = match dot {
                8 if code & 0xe0 == 0xc0 => glyph(code)[line] & 1,
                8 => 0,
                _ => glyph(code)[line] >> (7 - dot) & 1,
            };
            let expected = if bit != 0 { ink } else { paper };
            let seen = picture.at(column * 9 + dot, row * 16 + line);
            assert_eq!(seen, expected, "{code:#x} line {line} dot {dot}");
        }
    }
}

const BLACK: [u8; 3] = [0, 0, 0];
const BLUE: [u8; 3] = [0, 0, 0xaa];
const GREY: [u8; 3] = [0xaa, 0xaa, 0xaa];
const WHITE: [u8; 3] = [0xff, 0xff, 0xff];

#[test]
fn text_is_drawn_with_the_glyphs_of_plane_2() {
    let mut pc = text_screen();
    write_text(&mut pc, 3, 2, 0x1f, b"AB\xc4");
    write_text(&mut pc, 79, 24, 0x07, b"B");
    let picture = pc.picture();
    assert_eq!((picture.width, picture.height), (720, 400));
    assert_cell(&picture, 3, 2, b'A', WHITE, BLUE);
    assert_cell(&picture, 4, 2, b'B', WHITE, BLUE);
    assert_cell(&picture, 5, 2, 0xc4, WHITE, BLUE);
    assert_cell(&picture, 79, 24, b'B', GREY, BLACK);
}

#[test]
fn attribute_bit_7_is_bright_paper_when_blinking_is_off() {
    let mut pc = text_screen();
    write_text(&mut pc, 0, 0, 0x97, b"A");
    assert_cell(&pc.picture(), 0, 0, b'A', GREY, BLUE);
    pc.set_attribute(0x10, 0x04);
    pc.unblank();
    assert_cell(&pc.picture(), 0, 0, b'A', GREY, [0x55, 0x55, 0xff]);
}

#[test]
fn attribute_bit_3_selects_the_second_font() {
    let mut pc = text_screen();
    write_text(&mut pc, 0, 0, 0x07, b"A");
    write_text(&mut pc, 1, 0, 0x0f, b"A");
    // Map A (bit 3 set) = 4, at 8 KiB; there is nothing there.
    pc.set(SEQUENCER, 3, 0x20);
    let picture = pc.picture();
    assert_cell(&picture, 0, 0, b'A', GREY, BLACK);
    assert!((0..16).all(|line| (0..9).all(|dot| picture.at(9 + dot, line) == BLACK)));
    pc.set_planes(0x2000 + 65 * 32, [0, 0, 0x80, 0]);
    assert_eq!(pc.picture().at(9, 0), WHITE);
}

#[test]
fn cursor_covers_its_lines_at_its_place() {
    let mut pc = text_screen();
    pc.set(CRTC_COLOUR, 0x0a, 13);
    pc.set(CRTC_COLOUR, 0x0b, 14);
    pc.set(CRTC_COLOUR, 0x0e, 0);
    pc.set(CRTC_COLOUR, 0x0f, 82);
    let picture = pc.picture();
    for line in 0..16 {
        let expected = if (13..=14).contains(&line) { GREY } else { BLACK };
        for dot in 0..9 {
            assert_eq!(picture.at(18 + dot, 16 + line), expected);
        }
        assert_eq!(picture.at(17, 16 + line), BLACK);
        assert_eq!(picture.at(27, 16 + line), BLACK);
    }
}

#[test]
fn start_address_line_compare_and_preset_row_move_the_text() {
    let mut pc = text_screen();
    write_text(&mut pc, 0, 0, 0x07, b"A");
    write_text(&mut pc, 0, 30, 0x07, b"B");
    pc.set(CRTC_COLOUR, 0x0c, ((30 * 80) >> 8) as u8);
    pc.set(CRTC_COLOUR, 0x0d, (30 * 80) as u8);
    assert_cell(&pc.picture(), 0, 0, b'B', GREY, BLACK);
    // From line 32 on: the split screen, from address 0.
    pc.set(CRTC_COLOUR, 0x18, 31);
    pc.set(CRTC_COLOUR, 0x11, 0);
    pc.set(CRTC_COLOUR, 0x07, 0x0f);
    pc.set(CRTC_COLOUR, 0x09, 0x0f);
    let picture = pc.picture();
    assert_cell(&picture, 0, 0, b'B', GREY, BLACK);
    assert_cell(&picture, 0, 2, b'A', GREY, BLACK);
    // Smooth scrolling moves the upper part only.
    pc.set(CRTC_COLOUR, 0x08, 4);
    let picture = pc.picture();
    for dot in 0..8 {
        let bit = |code, line: usize| if glyph(code)[line] >> (7 - dot) & 1 != 0 { GREY } else { BLACK };
        assert_eq!(picture.at(dot, 0), bit(b'B', 4));
        assert_eq!(picture.at(dot, 32), bit(b'A', 0));
    }
}

#[test]
fn panning_moves_the_picture_by_dots() {
    let mut pc = text_screen();
    write_text(&mut pc, 0, 0, 0x07, b"A");
    // With 9 dots a cell, 8 is no panning and 0 is one dot.
    pc.set_attribute(0x13, 2);
    pc.unblank();
    let picture = pc.picture();
    for dot in 0..5 {
        let expected = if glyph(b'A')[0] >> (7 - (dot + 3)) & 1 != 0 { GREY } else { BLACK };
        assert_eq!(picture.at(dot, 0), expected);
    }
}

#[test]
fn screen_that_is_off_is_black() {
    let mut pc = text_screen();
    write_text(&mut pc, 0, 0, 0x70, b"A");
    assert_ne!(pc.picture().at(8, 0), BLACK);
    let sequencer = pc.get(SEQUENCER, 1);
    pc.set(SEQUENCER, 1, sequencer | 0x20);
    assert!(pc.picture().pixels.iter().all(|byte| *byte == 0));
    pc.set(SEQUENCER, 1, sequencer);
    pc.inb(STATUS1_COLOUR);
    pc.outb(ATTRIBUTE, 0);
    assert!(pc.picture().pixels.iter().all(|byte| *byte == 0));
}

#[test]
fn nothing_programmed_is_a_black_picture() {
    let picture = bench(SMALL).picture();
    assert_eq!((picture.width, picture.height), (720, 400));
    assert!(picture.pixels.iter().all(|byte| *byte == 0));
}

#[test]
fn text_content_is_unicode_lines() {
    let mut pc = text_screen();
    write_text(&mut pc, 0, 0, 0x07, b"Linux \xc4\xda\xe1 login:");
    write_text(&mut pc, 2, 24, 0x07, b"end");
    let text = pc.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 25);
    assert_eq!(lines[0], "Linux ─┌ß login:");
    assert_eq!(lines[24], "  end");
    pc.set_mode(&MODE_13);
    assert!(pc.0.control(&Control::Configure(b"text".to_vec())).is_err());
}

#[test]
fn info_names_the_mode_in_one_line() {
    let mut pc = text_screen();
    let info = |pc: &mut Pc| String::from_utf8(pc.0.control(&Control::Info).expect("info")).expect("UTF-8");
    assert_eq!(info(&mut pc), "standard VGA: text 80x25, 720x400; 256 KiB video memory");
    pc.set_vbe_mode(320, 200, 16);
    assert!(info(&mut pc).contains("VBE, 16 bits a pixel"));
}

#[test]
fn sixteen_colours_come_from_four_planes() {
    let mut pc = text_screen();
    pc.set_mode(&MODE_12);
    pc.set_planes(80 * 7 + 3, [0b1000_0001, 0b0100_0001, 0b0010_0001, 0b0001_0001]);
    let picture = pc.picture();
    assert_eq!((picture.width, picture.height), (640, 480));
    let row: Vec<[u8; 3]> = (24..32).map(|x| picture.at(x, 7)).collect();
    let green = [0, 0xaa, 0];
    let red = [0xaa, 0, 0];
    let dark = [0x55, 0x55, 0x55];
    assert_eq!(row, [BLUE, green, red, dark, BLACK, BLACK, BLACK, WHITE]);
}

#[test]
fn mode_13h_is_bytes_and_mode_x_is_planes() {
    let mut pc = bench(SMALL);
    pc.set_mode(&MODE_13);
    pc.set_colour(0xc5, [0x3f, 0, 0x3f]);
    pc.poke(0xa0000 + 320 * 2 + 5, 0xc5);
    let picture = pc.picture();
    assert_eq!((picture.width, picture.height), (640, 400));
    for (x, y) in [(10, 4), (11, 4), (10, 5), (11, 5)] {
        assert_eq!(picture.at(x, y), [0xff, 0, 0xff]);
    }
    assert_eq!(picture.pixels.iter().filter(|byte| **byte != 0).count(), 8);
    // Unchained, byte addresses: the usual switch to mode X.
    pc.set(SEQUENCER, 4, 0x06);
    pc.set(CRTC_COLOUR, 0x14, 0x00);
    pc.set(CRTC_COLOUR, 0x17, 0xe3);
    for offset in 0..0x4000 {
        pc.set_planes(offset, [0; 4]);
    }
    pc.set(SEQUENCER, 2, 0b0010);
    pc.poke(0xa0000 + 80 * 2 + 1, 0xc5);
    let picture = pc.picture();
    assert_eq!(picture.at(10, 4), [0xff, 0, 0xff]);
    assert_eq!(picture.pixels.iter().filter(|byte| **byte != 0).count(), 8);
}

#[test]
fn cga_modes_have_two_banks_of_lines() {
    let mut pc = text_screen();
    pc.set_mode(&MODE_4);
    // In modes of 200 lines bit 4 is brightness, and the BIOS loads other colours.
    for (index, colour) in [(0x13, [0x15, 0x3f, 0x3f]), (0x15, [0x3f, 0x15, 0x3f]), (0x17, [0x3f; 3])] {
        pc.set_colour(index, colour);
    }
    for offset in 0..0x4000 {
        pc.set_planes(offset, [0; 4]);
    }
    // Line 1 is in the second bank; four pixels a byte, odd bytes too.
    pc.poke(0xb8000 + 0x2000 + 1, 0b01_10_11_00);
    let picture = pc.picture();
    assert_eq!((picture.width, picture.height), (640, 400));
    let row: Vec<[u8; 3]> = (0..4).map(|x| picture.at(8 + x * 2, 2)).collect();
    assert_eq!(row, [[0x55, 0xff, 0xff], [0xff, 0x55, 0xff], WHITE, BLACK]);
    assert_eq!(picture.at(8, 3), picture.at(9, 2));
    pc.set_mode(&MODE_6);
    for offset in 0..0x4000 {
        pc.set_planes(offset, [0; 4]);
    }
    pc.poke(0xb8000 + 0x2000 + 79, 0b0000_0101);
    let picture = pc.picture();
    let row: Vec<bool> = (632..640).map(|x| picture.at(x, 2) != BLACK).collect();
    assert_eq!(row, [false, false, false, false, false, true, false, true]);
}

#[test]
fn linear_modes_show_each_depth() {
    let cases: [(u16, &[u8], [u8; 3]); 5] = [
        (15, &[0x1f, 0x7c], [0xff, 0, 0xff]),
        (16, &[0xe0, 0x07], [0, 0xff, 0]),
        (24, &[0x11, 0x22, 0x33], [0x33, 0x22, 0x11]),
        (32, &[0x11, 0x22, 0x33, 0xff], [0x33, 0x22, 0x11]),
        (8, &[0x2a], [0x41, 0x82, 0xff]),
    ];
    for (bpp, bytes, expected) in cases {
        let mut pc = bench(LARGE);
        pc.set_colour(0x2a, [0x10, 0x20, 0x3f]);
        pc.set_vbe_mode(640, 480, bpp);
        pc.dispi(vbe::VIRT_WIDTH, 800);
        pc.dispi(vbe::X_OFFSET, 3);
        pc.dispi(vbe::Y_OFFSET, 5);
        let at = ((5 + 100) * 800 + 3 + 50) * bytes.len();
        assert!(pc.0.bulk.write(at, bytes));
        let picture = pc.picture();
        assert_eq!(picture.at(50, 100), expected, "{bpp} bits");
        assert_eq!(
            picture.pixels.iter().filter(|byte| **byte != 0).count(),
            expected.iter().filter(|c| **c != 0).count()
        );
    }
}

#[test]
fn big_endian_frame_buffer_is_swapped() {
    let mut pc = bench(LARGE);
    pc.set_vbe_mode(640, 480, 32);
    pc.0.write(REGION_MMIO, MMIO_QEXT_ENDIAN, 4, u64::from(ENDIAN_BIG));
    assert_eq!(pc.0.read(REGION_MMIO, MMIO_QEXT_ENDIAN, 4), u64::from(ENDIAN_BIG));
    pc.set_planes(0, [0, 0x33, 0x22, 0x11]);
    assert_eq!(pc.picture().at(0, 0), [0x33, 0x22, 0x11]);
}

#[test]
fn planar_vbe_mode_is_drawn_from_planes_and_written_through_the_window() {
    let mut pc = text_screen();
    pc.set_mode(&MODE_12);
    pc.set_vbe_mode(800, 600, 4);
    pc.set(SEQUENCER, 2, 0x0f);
    pc.poke(0xa0000 + 100 * 2 + 1, 0x80);
    assert_eq!(pc.picture().at(8, 2), WHITE);
}

#[test]
fn picture_comes_out_the_same_whatever_the_pieces() {
    let mut pc = text_screen();
    write_text(&mut pc, 3, 2, 0x1f, b"AB\xc4");
    let whole = pc.picture().pixels;
    let head = b"P6\n720 400\n255\n".len();
    for offset in [0usize, 1, 14, 15, 16, 2175, 100_001] {
        let piece = pc.0.control(&Control::Screen { offset: offset as u32 }).expect("a piece");
        assert!(piece.len() <= bulkhead_bus::control::REPLY_MAX);
        let from = offset.max(head) - head;
        let skip = head.saturating_sub(offset);
        assert_eq!(piece[skip..], whole[from..from + piece.len() - skip], "offset {offset}");
        pc.0.restart(make(SMALL)).expect("own state");
    }
    let end = (head + whole.len()) as u32;
    assert_eq!(pc.0.control(&Control::Screen { offset: end }), Ok(Vec::new()));
    assert_eq!(pc.0.control(&Control::Screen { offset: u32::MAX }), Ok(Vec::new()));
}
