//! Register-level tests of the VGA, and what they share: a programmer's view of it.

mod memory;
mod modes;
mod picture;
#[path = "../tests/ppm/mod.rs"]
mod ppm;
mod registers;

use bulkhead_bus::bench::Bench;
use bulkhead_bus::chip::Control;
use bulkhead_bus::config::VgaConfig;

use crate::Vga;
use crate::spec::*;
use ppm::Picture;

/// Video memory of most tests: the smallest, so that its end is near.
const SMALL: u32 = VRAM_MIN;
/// Video memory of a real machine.
const LARGE: u32 = 16 << 20;

fn make(vram: u32) -> Vga {
    Vga::new(VgaConfig { vram_bytes: vram }).expect("a size that is allowed")
}

fn bench(vram: u32) -> Pc {
    Pc(Bench::new(make(vram), 0, 0, vram as usize))
}

/// A bench with ports, as a driver uses them.
struct Pc(Bench<Vga>);

impl Pc {
    fn outb(&mut self, port: u64, value: u8) {
        self.0.write(REGION_PORTS, port - PORT_BASE, 1, value.into());
    }

    fn inb(&mut self, port: u64) -> u8 {
        self.0.read(REGION_PORTS, port - PORT_BASE, 1) as u8
    }

    /// Index and data in one word, the usual way.
    fn set(&mut self, port: u64, index: u8, value: u8) {
        self.0.write(REGION_PORTS, port - PORT_BASE, 2, u64::from(index) | u64::from(value) << 8);
    }

    fn get(&mut self, port: u64, index: u8) -> u8 {
        self.outb(port, index);
        self.inb(port + 1)
    }

    fn set_attribute(&mut self, index: u8, value: u8) {
        self.inb(STATUS1_COLOUR);
        self.outb(ATTRIBUTE, index);
        self.outb(ATTRIBUTE, value);
    }

    /// Writes memory at an absolute address.
    fn poke(&mut self, address: u64, value: u8) {
        self.0.write(REGION_MEMORY, address - 0xa0000, 1, value.into());
    }

    fn peek(&mut self, address: u64) -> u8 {
        self.0.read(REGION_MEMORY, address - 0xa0000, 1) as u8
    }

    /// The four planes at an offset.
    fn planes(&self, offset: usize) -> [u8; 4] {
        let mut planes = [0; 4];
        assert!(self.0.bulk.read(offset * 4, &mut planes));
        planes
    }

    fn set_planes(&mut self, offset: usize, planes: [u8; 4]) {
        assert!(self.0.bulk.write(offset * 4, &planes));
    }

    fn dispi(&mut self, index: usize, value: u16) {
        self.0.write(REGION_VBE, 0, 2, index as u64);
        self.0.write(REGION_VBE, 1, 2, value.into());
    }

    fn read_dispi(&mut self, index: usize) -> u16 {
        self.0.write(REGION_VBE, 0, 2, index as u64);
        self.0.read(REGION_VBE, 1, 2) as u16
    }

    fn set_vbe_mode(&mut self, width: u16, height: u16, bpp: u16) {
        self.dispi(vbe::ENABLE, 0);
        self.dispi(vbe::XRES, width);
        self.dispi(vbe::YRES, height);
        self.dispi(vbe::BPP, bpp);
        self.dispi(vbe::ENABLE, vbe_enable::ENABLED | vbe_enable::LFB);
        self.unblank();
    }

    fn unblank(&mut self) {
        self.inb(STATUS1_COLOUR);
        self.outb(ATTRIBUTE, 0x20);
    }

    fn set_colour(&mut self, index: u8, colour: [u8; 3]) {
        self.outb(DAC_WRITE, index);
        colour.into_iter().for_each(|value| self.outb(DAC_DATA, value));
    }

    /// Programs a mode from a table, as a BIOS does (values of the IBM VGA BIOS parameter tables).
    fn set_mode(&mut self, mode: &ModeTable) {
        self.outb(MISC_WRITE, mode.misc);
        self.set(SEQUENCER, 0, 1);
        for (index, value) in mode.sequencer.iter().enumerate() {
            self.set(SEQUENCER, 1 + index as u8, *value);
        }
        self.set(SEQUENCER, 0, 3);
        self.set(CRTC_COLOUR, 0x11, 0);
        for (index, value) in mode.crtc.iter().enumerate() {
            self.set(CRTC_COLOUR, index as u8, *value);
        }
        for (index, value) in mode.graphics.iter().enumerate() {
            self.set(GRAPHICS, index as u8, *value);
        }
        for (index, value) in mode.attribute.iter().enumerate() {
            self.set_attribute(index as u8, *value);
        }
        self.outb(DAC_MASK, 0xff);
        self.unblank();
    }

    /// The whole picture file: width, height, pixels.
    fn picture(&mut self) -> Picture {
        let mut file = Vec::new();
        loop {
            let piece = self.0.control(&Control::Screen { offset: file.len() as u32 }).expect("a screen");
            if piece.is_empty() {
                break;
            }
            file.extend(piece);
        }
        Picture::parse(&file)
    }

    fn text(&mut self) -> String {
        let reply = self.0.control(&Control::Configure(b"text".to_vec())).expect("a text mode");
        String::from_utf8(reply).expect("UTF-8")
    }
}

/// Register values of a mode.
struct ModeTable {
    misc: u8,
    sequencer: [u8; 4],
    crtc: [u8; 25],
    graphics: [u8; 9],
    attribute: [u8; 21],
}

/// Mode 3: 80x25 text, 9x16 cells.
const MODE_3: ModeTable = ModeTable {
    misc: 0x67,
    sequencer: [0x00, 0x03, 0x00, 0x02],
    crtc: [
        0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0x00, 0x4f, 0x0d, 0x0e, 0, 0, 0, 0, 0x9c, 0x8e, 0x8f,
        0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff,
    ],
    graphics: [0, 0, 0, 0, 0, 0x10, 0x0e, 0x0f, 0xff],
    attribute: [
        0, 1, 2, 3, 4, 5, 0x14, 7, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f, 0x0c, 0, 0x0f, 8, 0,
    ],
};

/// Mode 4: 320x200, 4 colours of the CGA.
const MODE_4: ModeTable = ModeTable {
    misc: 0x63,
    sequencer: [0x09, 0x03, 0x00, 0x02],
    crtc: [
        0x2d, 0x27, 0x28, 0x90, 0x2b, 0x80, 0xbf, 0x1f, 0x00, 0xc1, 0, 0, 0, 0, 0, 0, 0x9c, 0x8e, 0x8f, 0x14,
        0x00, 0x96, 0xb9, 0xa2, 0xff,
    ],
    graphics: [0, 0, 0, 0, 0, 0x30, 0x0f, 0x0f, 0xff],
    attribute: [
        0, 0x13, 0x15, 0x17, 2, 4, 6, 7, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x01, 0, 0x03, 0, 0,
    ],
};

/// Mode 6: 640x200, 2 colours.
const MODE_6: ModeTable = ModeTable {
    misc: 0x63,
    sequencer: [0x01, 0x01, 0x00, 0x06],
    crtc: [
        0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0xbf, 0x1f, 0x00, 0xc1, 0, 0, 0, 0, 0, 0, 0x9c, 0x8e, 0x8f, 0x28,
        0x00, 0x96, 0xb9, 0xc2, 0xff,
    ],
    graphics: [0, 0, 0, 0, 0, 0x00, 0x0d, 0x0f, 0xff],
    attribute: [
        0, 0x17, 0x17, 0x17, 0x17, 0x17, 0x17, 0x17, 0x17, 0x17, 0x17, 0x17, 0x17, 0x17, 0x17, 0x17, 0x01, 0,
        0x01, 0, 0,
    ],
};

/// Mode 12h: 640x480, 16 colours.
const MODE_12: ModeTable = ModeTable {
    misc: 0xe3,
    sequencer: [0x01, 0x0f, 0x00, 0x06],
    crtc: [
        0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0x0b, 0x3e, 0x00, 0x40, 0, 0, 0, 0, 0, 0, 0xea, 0x8c, 0xdf, 0x28,
        0x00, 0xe7, 0x04, 0xe3, 0xff,
    ],
    graphics: [0, 0, 0, 0, 0, 0x00, 0x05, 0x0f, 0xff],
    attribute: [
        0, 1, 2, 3, 4, 5, 0x14, 7, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f, 0x01, 0, 0x0f, 0, 0,
    ],
};

/// Mode 13h: 320x200, 256 colours.
const MODE_13: ModeTable = ModeTable {
    misc: 0x63,
    sequencer: [0x01, 0x0f, 0x00, 0x0e],
    crtc: [
        0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0xbf, 0x1f, 0x00, 0x41, 0, 0, 0, 0, 0, 0, 0x9c, 0x8e, 0x8f, 0x28,
        0x40, 0x96, 0xb9, 0xa3, 0xff,
    ],
    graphics: [0, 0, 0, 0, 0, 0x40, 0x05, 0x0f, 0xff],
    attribute: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0x41, 0, 0x0f, 0, 0],
};
