//! VBE: modes as drivers set them, limits, banks.

use bulkhead_bus::conformance::Random;

use super::*;

#[test]
fn interface_version_is_found_as_the_video_bios_looks_for_it() {
    let mut pc = bench(LARGE);
    assert_eq!(pc.read_dispi(vbe::ID), VBE_ID_LATEST);
    for version in VBE_ID_FIRST..=VBE_ID_LATEST {
        pc.dispi(vbe::ID, version);
        assert_eq!(pc.read_dispi(vbe::ID), version);
    }
    pc.dispi(vbe::ID, 0x1234);
    assert_eq!(pc.read_dispi(vbe::ID), VBE_ID_LATEST);
    assert_eq!(pc.read_dispi(vbe::MEMORY_64K), 256);
    // Both data ports.
    pc.0.write(REGION_VBE, 0, 2, vbe::ID as u64);
    assert_eq!(pc.0.read(REGION_VBE, 2, 2), u64::from(VBE_ID_LATEST));
}

#[test]
fn capabilities_are_read_without_disturbing_the_mode() {
    let mut pc = bench(LARGE);
    pc.set_vbe_mode(800, 600, 16);
    pc.set_planes(0, [1, 2, 3, 4]);
    let enable = pc.read_dispi(vbe::ENABLE);
    pc.dispi(vbe::ENABLE, enable | vbe_enable::GETCAPS);
    assert_eq!(pc.read_dispi(vbe::XRES), VBE_MAX_XRES);
    assert_eq!(pc.read_dispi(vbe::YRES), VBE_MAX_YRES);
    assert_eq!(pc.read_dispi(vbe::BPP), VBE_MAX_BPP);
    pc.dispi(vbe::ENABLE, enable);
    assert_eq!(pc.read_dispi(vbe::XRES), 800);
    assert_eq!(pc.planes(0), [1, 2, 3, 4]);
}

#[test]
fn mode_set_of_the_linux_drm_driver_works_through_bar_2() {
    let mut pc = bench(LARGE);
    let dispi = |pc: &mut Pc, index: usize, value: u16| {
        pc.0.write(REGION_MMIO, MMIO_VBE + index as u64 * 2, 2, value.into());
    };
    assert_eq!(pc.0.read(REGION_MMIO, MMIO_VBE, 2) & 0xfff0, 0xb0c0);
    assert_eq!(pc.0.read(REGION_MMIO, MMIO_VBE + 20, 2) * 65536, u64::from(LARGE));
    assert_eq!(pc.0.read(REGION_MMIO, MMIO_QEXT_SIZE, 4), 8);
    pc.0.write(REGION_MMIO, MMIO_QEXT_ENDIAN, 4, u64::from(ENDIAN_LITTLE));
    // Unblank through the mirrored ports.
    pc.0.write(REGION_MMIO, 0x402, 1, 0x67);
    pc.0.read(REGION_MMIO, 0x41a, 1);
    pc.0.write(REGION_MMIO, 0x400, 1, 0x20);
    dispi(&mut pc, vbe::ENABLE, 0);
    dispi(&mut pc, vbe::BPP, 32);
    dispi(&mut pc, vbe::XRES, 1024);
    dispi(&mut pc, vbe::YRES, 768);
    dispi(&mut pc, vbe::BANK, 0);
    dispi(&mut pc, vbe::VIRT_WIDTH, 1024);
    dispi(&mut pc, vbe::VIRT_HEIGHT, 768);
    dispi(&mut pc, vbe::X_OFFSET, 0);
    dispi(&mut pc, vbe::Y_OFFSET, 0);
    dispi(&mut pc, vbe::ENABLE, vbe_enable::ENABLED | vbe_enable::LFB);
    // A page flip.
    pc.set_planes(768 * 1024 + 5, [0x10, 0x20, 0x30, 0]);
    dispi(&mut pc, vbe::Y_OFFSET, 768);
    let picture = pc.picture();
    assert_eq!((picture.width, picture.height), (1024, 768));
    assert_eq!(picture.at(5, 0), [0x30, 0x20, 0x10]);
    assert_eq!(pc.0.read(REGION_MMIO, MMIO_VBE + 2, 4), 1024 | 768 << 16);
}

#[test]
fn setting_a_mode_clears_what_it_shows_unless_told_not_to() {
    let mut pc = bench(LARGE);
    pc.set_planes(0, [1; 4]);
    pc.set_planes(640 * 480 / 4 - 1, [2; 4]);
    pc.set_planes(640 * 480 / 4, [3; 4]);
    pc.set_vbe_mode(640, 480, 8);
    assert_eq!(pc.planes(0), [0; 4]);
    assert_eq!(pc.planes(640 * 480 / 4 - 1), [0; 4]);
    assert_eq!(pc.planes(640 * 480 / 4), [3; 4]);
    pc.set_planes(0, [1; 4]);
    pc.dispi(vbe::ENABLE, 0);
    pc.dispi(vbe::ENABLE, vbe_enable::ENABLED | vbe_enable::NO_CLEAR);
    assert_eq!(pc.planes(0), [1; 4]);
}

#[test]
fn virtual_screen_follows_width_and_offsets_stay_inside() {
    let mut pc = bench(LARGE);
    pc.set_vbe_mode(640, 480, 8);
    assert_eq!(pc.read_dispi(vbe::VIRT_WIDTH), 640);
    pc.dispi(vbe::VIRT_WIDTH, 1024);
    assert_eq!(pc.read_dispi(vbe::VIRT_HEIGHT), 16384);
    pc.dispi(vbe::X_OFFSET, 1000);
    pc.dispi(vbe::Y_OFFSET, 0xffff);
    assert_eq!(pc.read_dispi(vbe::X_OFFSET), 384);
    assert_eq!(pc.read_dispi(vbe::Y_OFFSET), 16384 - 480);
    pc.dispi(vbe::VIRT_WIDTH, 100);
    assert_eq!(pc.read_dispi(vbe::VIRT_WIDTH), 640);
    assert_eq!(pc.read_dispi(vbe::X_OFFSET), 0);
}

/// Every mode that the registers can be brought to lies inside the memory.
fn assert_fits(pc: &mut Pc, vram: u32) {
    if pc.read_dispi(vbe::ENABLE) & vbe_enable::ENABLED == 0 {
        return;
    }
    let enable = pc.read_dispi(vbe::ENABLE);
    pc.dispi(vbe::ENABLE, enable & !vbe_enable::GETCAPS);
    let value: Vec<u64> = (0..VBE_COUNT).map(|index| pc.read_dispi(index).into()).collect();
    let bits = if value[vbe::BPP] == 15 { 16 } else { value[vbe::BPP] };
    let line = value[vbe::VIRT_WIDTH] * bits / 8;
    let end = line * (value[vbe::Y_OFFSET] + value[vbe::YRES]);
    assert!(end <= u64::from(vram), "{value:x?}");
    assert!(value[vbe::X_OFFSET] + value[vbe::XRES] <= value[vbe::VIRT_WIDTH], "{value:x?}");
    assert!(value[vbe::XRES] >= 8 && value[vbe::YRES] >= 1, "{value:x?}");
    assert!(value[vbe::BANK] * 65536 < u64::from(vram), "{value:x?}");
}

#[test]
fn no_sequence_of_register_writes_makes_a_mode_larger_than_memory() {
    for vram in [SMALL, 2 << 20, LARGE] {
        let mut pc = bench(vram);
        let mut random = Random::new(u64::from(vram));
        for _ in 0..4000 {
            let index = random.below(VBE_COUNT as u64) as usize;
            let value = match (index, random.below(3)) {
                (vbe::ENABLE, _) => vbe_enable::NO_CLEAR | random.below(0x80) as u16,
                (vbe::BPP, 0) => [4, 8, 15, 16, 24, 32][random.below(6) as usize],
                (_, 1) => random.below(2048) as u16,
                _ => random.draw() as u16,
            };
            pc.dispi(index, value);
            assert_fits(&mut pc, vram);
        }
    }
}

#[test]
fn modes_that_fit_exactly_are_left_alone() {
    let mut pc = bench(SMALL);
    pc.set_vbe_mode(512, 512, 8);
    assert_eq!((pc.read_dispi(vbe::XRES), pc.read_dispi(vbe::YRES)), (512, 512));
    pc.set_vbe_mode(512, 513, 8);
    assert_eq!((pc.read_dispi(vbe::XRES), pc.read_dispi(vbe::YRES)), (512, 512));
    pc.set_vbe_mode(1024, 512, 4);
    assert_eq!((pc.read_dispi(vbe::XRES), pc.read_dispi(vbe::YRES)), (1024, 512));
}

#[test]
fn bank_window_reaches_the_selected_64_kib() {
    let mut pc = bench(LARGE);
    pc.set_mode(&MODE_3);
    pc.set_vbe_mode(1024, 768, 8);
    pc.dispi(vbe::BANK, 3);
    pc.poke(0xa0004, 0x77);
    assert_eq!(pc.planes(0xc001), [0x77, 0, 0, 0]);
    assert_eq!(pc.peek(0xa0004), 0x77);
    // Nothing answers above the bank.
    assert_eq!(pc.peek(0xb0004), 0xff);
}

/// CVE-2016-3710: a bank chosen in one mode and used in another reached beyond the memory.
#[test]
fn bank_beyond_memory_is_never_selected_whatever_the_order() {
    for (bpp_first, bpp_then) in [(8, 4), (4, 8), (32, 4)] {
        let mut pc = bench(SMALL);
        pc.set_mode(&MODE_12);
        pc.set_vbe_mode(64, 64, bpp_first);
        for bank in [1u16, 3, 4, 0x7fff, 0xffff] {
            pc.dispi(vbe::BANK, bank);
            pc.dispi(vbe::BPP, bpp_then);
            let size = if bpp_then == 4 { SMALL / 4 } else { SMALL };
            assert!(u32::from(pc.read_dispi(vbe::BANK)) * 65536 < size);
            for address in [0xa0000, 0xaffff, 0xbffff] {
                pc.poke(address, 0xee);
                pc.peek(address);
            }
            pc.dispi(vbe::ENABLE, 0);
            pc.poke(0xaffff, 0xee);
            pc.dispi(vbe::BANK, bank);
            pc.poke(0xaffff, 0xee);
            pc.dispi(vbe::BPP, bpp_first);
            pc.dispi(vbe::ENABLE, vbe_enable::ENABLED);
            pc.poke(0xaffff, 0xee);
        }
    }
}

/// CVE-2014-3615: a resolution larger than the memory, then a screen dump, showed host memory.
#[test]
fn dump_of_the_largest_resolution_shows_video_memory_only() {
    let mut pc = bench(SMALL);
    pc.set_vbe_mode(0xffff, 0xffff, 32);
    let at_end = SMALL as usize / 4 - 1;
    pc.set_planes(at_end, [1, 2, 3, 4]);
    let picture = pc.picture();
    assert!(picture.width * picture.height * 4 <= SMALL as usize);
    let lit = picture.pixels.iter().filter(|byte| **byte != 0).count();
    assert!(lit <= 3, "{lit} bytes that nobody wrote");
}

/// In the manner of CVE-2016-9603: the mode changes while the picture is being fetched.
#[test]
fn dump_keeps_its_size_while_modes_change_under_it() {
    let mut pc = bench(LARGE);
    let mut random = Random::new(7);
    for _ in 0..6 {
        pc.set_vbe_mode(800, 600, 32);
        let mut file = Vec::new();
        loop {
            let request = Control::Screen { offset: file.len() as u32 };
            let piece = pc.0.control(&request).expect("a screen");
            if piece.is_empty() {
                break;
            }
            file.extend(piece);
            if random.below(5) == 0 {
                pc.0.with(bulkhead_bus::chip::Chip::reset);
            }
            if random.below(3) == 0 {
                pc.set_mode(if random.below(2) == 0 { &MODE_13 } else { &MODE_3 });
                pc.dispi(vbe::ENABLE, 0);
            } else {
                let bpp = [4, 8, 15, 16, 24, 32][random.below(6) as usize];
                pc.set_vbe_mode(random.below(3000) as u16, random.below(3000) as u16, bpp);
            }
        }
        let picture = Picture::parse(&file);
        assert_eq!((picture.width, picture.height), (800, 600));
    }
}

#[test]
fn palette_of_8_bits_keeps_colours_when_switched() {
    let mut pc = bench(LARGE);
    pc.set_colour(1, [0x3f, 0x20, 0x01]);
    pc.set_vbe_mode(320, 200, 8);
    pc.dispi(vbe::ENABLE, vbe_enable::ENABLED | vbe_enable::DAC_8BIT);
    pc.outb(DAC_READ, 1);
    assert_eq!([pc.inb(DAC_DATA), pc.inb(DAC_DATA), pc.inb(DAC_DATA)], [0xfc, 0x80, 0x04]);
    pc.set_colour(1, [0xab, 0xcd, 0xef]);
    pc.set_planes(0, [1, 0, 0, 0]);
    assert_eq!(pc.picture().at(0, 0), [0xab, 0xcd, 0xef]);
    pc.dispi(vbe::ENABLE, 0);
    pc.outb(DAC_READ, 1);
    assert_eq!([pc.inb(DAC_DATA), pc.inb(DAC_DATA), pc.inb(DAC_DATA)], [0x2a, 0x33, 0x3b]);
}

#[test]
fn mode_outlives_the_process() {
    let mut pc = bench(LARGE);
    pc.set_vbe_mode(640, 480, 16);
    pc.0.restart(make(LARGE)).expect("own state");
    assert_eq!(pc.picture().width, 640);
    // A successor with less memory refuses what it cannot show.
    assert!(make(SMALL).regs.check(SMALL).is_ok());
    assert!(pc.0.chip.regs.check(SMALL).is_err());
}
