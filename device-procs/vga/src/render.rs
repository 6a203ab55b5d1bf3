//! One scan line of the picture, from registers and video memory alone: any line can be had at any time.
//!
//! Sizes are those of the signal: a 320x200 mode is 640x400 dots, as the monitor gets it. Blinking things are shown.

use bulkhead_bus::shm::Bulk;

use crate::Vga;
use crate::spec::*;
use crate::vbe::VbeMode;

/// Red, green, blue.
pub(crate) type Rgb = [u8; 3];

/// Size of the picture while nothing drives the monitor: that of the text mode to come.
const NO_SIGNAL: (u32, u32) = (720, 400);

/// What the registers make of the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// No sync signals.
    NoSignal,
    /// Characters.
    Text,
    /// 16 colours from four planes.
    Planar,
    /// Two bits a pixel from a byte, as the CGA has them.
    Interleaved,
    /// A byte (or nibble) a pixel.
    Packed,
    /// A VBE mode.
    Vbe(VbeMode),
}

/// Colours looked up once for many lines.
pub(crate) struct Colours {
    /// By palette entry, through the mask.
    dac: [Rgb; 256],
    /// By attribute (4 bits).
    attribute: [Rgb; 16],
}

impl Colours {
    fn dac(&self, index: u8) -> Rgb {
        self.dac.get(usize::from(index)).copied().unwrap_or_default()
    }

    fn attribute(&self, index: u8) -> Rgb {
        self.attribute.get(usize::from(index & 15)).copied().unwrap_or_default()
    }
}

/// Six bits as eight.
fn widen6(value: u8) -> u8 {
    value << 2 | value >> 4
}

/// `count` bits as eight.
fn widen(value: u16, count: u32) -> u8 {
    let value = u32::from(value) & ((1 << count) - 1);
    (value << (8 - count) | value >> (2 * count - 8)) as u8
}

/// Writes pixels from left to right into a line; what falls outside is dropped.
struct Line<'a> {
    rest: std::slice::ChunksExactMut<'a, u8>,
    /// Dots still to drop at the left (panning).
    skip: u32,
    /// Each dot is two (half dot clock).
    double: bool,
}

impl Line<'_> {
    fn dot(&mut self, colour: Rgb) {
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        for _ in 0..=u8::from(self.double) {
            if let Some(pixel) = self.rest.next() {
                pixel.copy_from_slice(&colour);
            }
        }
    }

    fn is_full(&self) -> bool {
        self.rest.len() == 0
    }
}

/// A row of the CRT controller's address counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    /// Address counter at its left end.
    address: u16,
    /// Line in the row.
    scan: u8,
    /// Below the line compare, where panning may be off.
    split: bool,
}

impl Vga {
    fn crt(&self, index: usize) -> u8 {
        self.regs.crtc.get(index).copied().unwrap_or(0)
    }

    fn crt16(&self, high: usize) -> u16 {
        u16::from(self.crt(high)) << 8 | u16::from(self.crt(high + 1))
    }

    fn attr(&self, index: usize) -> u8 {
        self.regs.attribute.get(index).copied().unwrap_or(0)
    }

    fn seq(&self, index: usize) -> u8 {
        self.regs.sequencer.get(index).copied().unwrap_or(0)
    }

    fn gfx(&self, index: usize) -> u8 {
        self.regs.graphics.get(index).copied().unwrap_or(0)
    }

    /// The mode.
    pub(crate) fn mode(&self) -> Mode {
        if let Some(mode) = self.vbe_mode() {
            return Mode::Vbe(mode);
        }
        match (self.crt(crtc::MODE) & 0x80, self.gfx(6) & 1, self.gfx(5) >> 5 & 3) {
            (0, ..) => Mode::NoSignal,
            (_, 0, _) => Mode::Text,
            (.., 0) => Mode::Planar,
            (.., 1) => Mode::Interleaved,
            _ => Mode::Packed,
        }
    }

    /// Whether the screen is dark by the guest's will.
    pub(crate) fn is_blanked(&self) -> bool {
        let dark = self.regs.attribute_index & 0x20 == 0 || self.seq(1) & 0x20 != 0;
        let held = self.seq(0) & 3 != 3;
        dark || (held && self.vbe_mode().is_none())
    }

    /// Dots of a character cell.
    pub(crate) fn cell_width(&self, mode: Mode) -> u32 {
        if mode == Mode::Text && self.seq(1) & 1 == 0 { 9 } else { 8 }
    }

    /// Characters of a line.
    pub(crate) fn columns(&self) -> u32 {
        u32::from(self.crt(crtc::H_DISPLAY_END)) + 1
    }

    /// Each dot twice as wide: half dot clock.
    fn is_half_clock(&self) -> bool {
        self.seq(1) & 8 != 0
    }

    /// Size of the picture in pixels, neither 0.
    pub(crate) fn size(&self) -> (u32, u32) {
        match self.mode() {
            Mode::NoSignal => NO_SIGNAL,
            Mode::Vbe(mode) => (mode.width.max(1), mode.height.max(1)),
            mode => {
                let width = (self.columns() * self.cell_width(mode)) << u32::from(self.is_half_clock());
                (width, self.display_lines() as u32)
            }
        }
    }

    /// The colours of now.
    pub(crate) fn colours(&self) -> Colours {
        let eight = self.vbe_enable() & vbe_enable::DAC_8BIT != 0;
        let mut colours = Colours { dac: [[0; 3]; 256], attribute: [[0; 3]; 16] };
        for (index, colour) in colours.dac.iter_mut().enumerate() {
            let entry = index & usize::from(self.regs.dac_mask);
            let raw = self.regs.palette.get(entry).copied().unwrap_or_default();
            *colour = if eight { raw } else { raw.map(widen6) };
        }
        let (control, select, planes) = (self.attr(0x10), self.attr(0x14), self.attr(0x12));
        for index in 0..16u8 {
            let entry = self.attr(usize::from(index & planes & 15));
            // Bits 4-5 come from the colour select register when the mode control says so, bits 6-7 always.
            let entry = if control & 0x80 != 0 { entry & 0x0f | (select & 3) << 4 } else { entry & 0x3f };
            let colour = colours.dac(entry | (select & 0x0c) << 4);
            if let Some(slot) = colours.attribute.get_mut(usize::from(index)) {
                *slot = colour;
            }
        }
        colours
    }

    /// Address counter and line of scan line `y`.
    fn row(&self, y: u32) -> Row {
        let max_scan = self.crt(crtc::MAX_SCAN);
        let height = u32::from(max_scan & 0x1f) + 1;
        let double = u32::from(max_scan >> 7);
        let y = y >> self.line_shift();
        let compare = self.line_compare() as u32;
        let (line, start, split) = match y.checked_sub(compare.saturating_add(1)) {
            Some(below) => (below >> double, 0, true),
            None => {
                let preset = u32::from(self.crt(crtc::PRESET_ROW) & 0x1f);
                let start = self.crt16(crtc::START_HIGH);
                ((y >> double) + preset, start, false)
            }
        };
        let rows = (line / height).wrapping_mul(u32::from(self.crt(crtc::OFFSET)) * 2);
        Row { address: start.wrapping_add(rows as u16), scan: (line % height) as u8, split }
    }

    /// The four planes where the address counter points, after the output multiplexer.
    fn fetch(&self, counter: u16, scan: u8, bulk: &Bulk) -> [u8; 4] {
        let mut planes = [0; 4];
        let _ = bulk.read(usize::from(self.address(counter, scan)) * 4, &mut planes);
        planes
    }

    /// Memory address of an address counter value (FreeVGA, "CRTC Mode Control Register", "Underline Location Register").
    fn address(&self, counter: u16, scan: u8) -> u16 {
        let control = self.crt(crtc::MODE);
        let mut address = if self.crt(crtc::UNDERLINE) & 0x40 != 0 {
            counter << 2 | counter >> 12 & 3
        } else if control & 0x40 == 0 {
            let wrap = if control & 0x20 != 0 { 15 } else { 13 };
            counter << 1 | counter >> wrap & 1
        } else {
            counter
        };
        // The CGA's and the Hercules card's interleaved banks.
        if control & 1 == 0 {
            address = address & !0x2000 | u16::from(scan & 1) << 13;
        }
        if control & 2 == 0 {
            address = address & !0x4000 | u16::from(scan >> 1 & 1) << 14;
        }
        address
    }

    /// How far the address counter has come after `column` characters.
    fn advance(&self, column: u32) -> u16 {
        let shift =
            if self.crt(crtc::UNDERLINE) & 0x20 != 0 { 2 } else { u32::from(self.crt(crtc::MODE) >> 3 & 1) };
        (column >> shift) as u16
    }

    /// Whether panning applies in a row.
    fn pans(&self, row: Row) -> bool {
        !(row.split && self.attr(0x10) & 0x20 != 0)
    }

    /// Dots by which the picture is moved to the left.
    fn panning(&self, row: Row, cell: u32) -> u32 {
        let value = u32::from(self.attr(0x13));
        match (self.pans(row), cell, value) {
            (false, ..) => 0,
            (true, 9, 0..=7) => value + 1,
            (true, 9, _) => 0,
            _ => value & 7,
        }
    }

    /// Character codes of the row that scan line `y` is in.
    pub(crate) fn codes(&self, y: u32, bulk: &Bulk) -> impl Iterator<Item = u8> {
        let row = self.row(y);
        let byte_pan = if self.pans(row) { u16::from(self.crt(crtc::PRESET_ROW) >> 5 & 3) } else { 0 };
        let start = row.address.wrapping_add(byte_pan);
        (0..self.columns()).map(move |column| {
            let counter = start.wrapping_add(self.advance(column));
            let [code, ..] = self.fetch(counter, row.scan, bulk);
            code
        })
    }

    /// Renders scan line `y` into `out`: three bytes a pixel, as many pixels as fit.
    pub(crate) fn scan_line(&self, y: u32, colours: &Colours, bulk: &Bulk, out: &mut [u8]) {
        out.fill(0);
        let mode = self.mode();
        if mode == Mode::NoSignal || self.is_blanked() {
            return;
        }
        if let Mode::Vbe(mode) = mode {
            return self.vbe_line(mode, y, colours, bulk, out);
        }
        let row = self.row(y);
        let cell = self.cell_width(mode);
        let mut line = Line {
            rest: out.chunks_exact_mut(3),
            skip: self.panning(row, cell),
            double: self.is_half_clock(),
        };
        let byte_pan = if self.pans(row) { u16::from(self.crt(crtc::PRESET_ROW) >> 5 & 3) } else { 0 };
        let start = row.address.wrapping_add(byte_pan);
        for column in 0..=self.columns() {
            if line.is_full() {
                break;
            }
            let counter = start.wrapping_add(self.advance(column));
            let planes = self.fetch(counter, row.scan, bulk);
            match mode {
                Mode::Text => self.character(counter, planes, row.scan, cell, colours, bulk, &mut line),
                Mode::Planar => planar(planes, colours, &mut line),
                Mode::Interleaved => interleaved(planes, colours, &mut line),
                _ => self.packed(planes, colours, &mut line),
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the inputs of the character generator, nothing to group")]
    fn character(
        &self,
        counter: u16,
        planes: [u8; 4],
        scan: u8,
        cell: u32,
        colours: &Colours,
        bulk: &Bulk,
        line: &mut Line<'_>,
    ) {
        let [code, attribute, ..] = planes;
        let control = self.attr(0x10);
        let glyph = self.glyph(code, attribute, scan, bulk);
        let blinks = control & 0x08 != 0;
        let ink = attribute & 15;
        let paper = if blinks { attribute >> 4 & 7 } else { attribute >> 4 };
        let underlined = attribute & 0x77 == 0x01 && scan == self.crt(crtc::UNDERLINE) & 0x1f;
        let bits = if underlined || self.has_cursor(counter, scan) {
            0x1ff
        } else {
            // The 9th dot repeats the 8th for the line drawing characters.
            let repeat = control & 0x04 != 0 && (0xc0..=0xdf).contains(&code);
            u16::from(glyph) << 1 | u16::from(repeat && glyph & 1 != 0)
        };
        let (ink, paper) = (colours.attribute(ink), colours.attribute(paper));
        for dot in 0..cell {
            line.dot(if bits >> (8 - dot) & 1 != 0 { ink } else { paper });
        }
    }

    /// A line of a character's shape, from the map that attribute bit 3 selects.
    fn glyph(&self, code: u8, attribute: u8, scan: u8, bulk: &Bulk) -> u8 {
        let select = self.seq(3);
        let map =
            if attribute & 8 != 0 { select >> 2 & 3 | select >> 3 & 4 } else { select & 3 | select >> 2 & 4 };
        // Maps 0-3 lie 16 KiB apart, 4-7 in between.
        let base = usize::from(map & 3) << 14 | usize::from(map & 4) << 11;
        bulk.byte((base + usize::from(code) * 32 + usize::from(scan & 31)) * 4 + 2)
    }

    fn has_cursor(&self, counter: u16, scan: u8) -> bool {
        let (start, end) = (self.crt(crtc::CURSOR_START), self.crt(crtc::CURSOR_END));
        let skew = u16::from(end >> 5 & 3);
        start & 0x20 == 0
            && counter == self.crt16(crtc::CURSOR_HIGH).wrapping_add(skew)
            && (start & 0x1f..=end & 0x1f).contains(&scan)
    }

    /// 256 colours: two nibbles make a pixel of two dots; else each nibble is a dot.
    fn packed(&self, planes: [u8; 4], colours: &Colours, line: &mut Line<'_>) {
        let whole = self.attr(0x10) & 0x40 != 0;
        for byte in planes {
            if whole {
                let colour = colours.dac(byte);
                line.dot(colour);
                line.dot(colour);
            } else {
                line.dot(colours.attribute(byte >> 4));
                line.dot(colours.attribute(byte));
            }
        }
    }

    fn vbe_line(&self, mode: VbeMode, y: u32, colours: &Colours, bulk: &Bulk, out: &mut [u8]) {
        let start = mode.line_bytes() * (mode.y as usize + y as usize);
        let pixels = out.chunks_exact_mut(3).take(mode.width as usize);
        let x = mode.x as usize;
        if mode.bpp == 4 {
            for (index, pixel) in pixels.enumerate() {
                let dot = x + index;
                let mut planes = [0; 4];
                let _ = bulk.read(start + dot / 8 * 4, &mut planes);
                pixel.copy_from_slice(&colours.attribute(planar_dot(planes, 7 - (dot & 7) as u32)));
            }
            return;
        }
        let bytes = usize::from(mode.bpp.div_ceil(8));
        let mut memory = vec![0; mode.width as usize * bytes];
        let _ = bulk.read(start + x * bytes, &mut memory);
        let big = self.regs.endian == ENDIAN_BIG;
        for (pixel, data) in pixels.zip(memory.chunks_exact(bytes)) {
            let word = |low: u8, high: u8| u16::from_le_bytes(if big { [high, low] } else { [low, high] });
            let colour = match *data {
                [index] => colours.dac(index),
                [low, high] => {
                    let value = word(low, high);
                    if mode.bpp == 15 {
                        [widen(value >> 10, 5), widen(value >> 5, 5), widen(value, 5)]
                    } else {
                        [widen(value >> 11, 5), widen(value >> 5, 6), widen(value, 5)]
                    }
                }
                [red, green, blue] if big => [red, green, blue],
                [blue, green, red] => [red, green, blue],
                [_, red, green, blue] if big => [red, green, blue],
                [blue, green, red, _] => [red, green, blue],
                _ => [0; 3],
            };
            pixel.copy_from_slice(&colour);
        }
    }
}

/// A pixel of four planes; `bit` 7 is the leftmost.
fn planar_dot(planes: [u8; 4], bit: u32) -> u8 {
    let [blue, green, red, bright] = planes.map(|plane| plane >> bit & 1);
    blue | green << 1 | red << 2 | bright << 3
}

fn planar(planes: [u8; 4], colours: &Colours, line: &mut Line<'_>) {
    for bit in (0..8).rev() {
        line.dot(colours.attribute(planar_dot(planes, bit)));
    }
}

/// Planes 0 and 1 hold the two low bits of a pixel, planes 2 and 3 the high ones; even bytes first.
fn interleaved(planes: [u8; 4], colours: &Colours, line: &mut Line<'_>) {
    let [low_even, low_odd, high_even, high_odd] = planes;
    for (low, high) in [(low_even, high_even), (low_odd, high_odd)] {
        for shift in [6, 4, 2, 0] {
            line.dot(colours.attribute(low >> shift & 3 | (high >> shift & 3) << 2));
        }
    }
}
