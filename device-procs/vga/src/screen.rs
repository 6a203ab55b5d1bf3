//! The whole picture: as a PPM file fetched in pieces, as text, and in one line of words.

use bulkhead_bus::control::REPLY_MAX;
use bulkhead_bus::shm::Bulk;

use crate::Vga;
use crate::cp437;
use crate::render::Mode;
use crate::spec::crtc;

impl Vga {
    /// A piece of the picture as a binary PPM file, from byte `offset` on. Offset 0 fixes the size of the file; each piece shows
    /// the memory and the mode of its own moment, cut or filled up with black to that size.
    pub(crate) fn dump(&mut self, offset: u32, bulk: &Bulk) -> Vec<u8> {
        if offset == 0 || self.regs.dump_width == 0 {
            (self.regs.dump_width, self.regs.dump_height) = self.size();
        }
        let (width, height) = (self.regs.dump_width, self.regs.dump_height);
        let head = format!("P6\n{width} {height}\n255\n").into_bytes();
        let line_bytes = u64::from(width) * 3;
        let total = head.len() as u64 + line_bytes * u64::from(height);
        let offset = u64::from(offset);
        let length = total.saturating_sub(offset).min(REPLY_MAX as u64) as usize;
        let mut piece = Vec::with_capacity(length);
        piece.extend(head.iter().skip(offset as usize).take(length));

        let colours = self.colours();
        let lines = self.size().1;
        let mut line = vec![0u8; line_bytes as usize];
        while piece.len() < length && line_bytes > 0 {
            let at = (offset + piece.len() as u64).saturating_sub(head.len() as u64);
            let (y, x) = (at / line_bytes, at % line_bytes);
            if y < u64::from(lines) {
                self.scan_line(y as u32, &colours, bulk, &mut line);
            } else {
                line.fill(0);
            }
            piece.extend(line.iter().skip(x as usize).take(length - piece.len()));
        }
        piece
    }

    /// The characters on the screen, a line each, without the spaces at line ends.
    pub(crate) fn text(&self, bulk: &Bulk) -> Result<String, &'static str> {
        if self.mode() != Mode::Text {
            return Err("the screen is not in a text mode");
        }
        let mut text = String::new();
        for y in self.text_rows() {
            let mut line = String::new();
            for code in self.codes(y, bulk) {
                line.push(cp437::to_unicode(code));
            }
            let line = line.trim_end_matches(' ');
            if text.len() + line.len() >= REPLY_MAX {
                break;
            }
            text.push_str(line);
            text.push('\n');
        }
        Ok(text)
    }

    /// The first scan line of each row of text.
    fn text_rows(&self) -> impl Iterator<Item = u32> {
        let max_scan = self.regs.crtc.get(crtc::MAX_SCAN).copied().unwrap_or(0);
        let step = (u32::from(max_scan & 0x1f) + 1) << (u32::from(max_scan >> 7) + self.line_shift());
        (0..self.size().1).step_by(step as usize)
    }

    /// One line that says what is shown.
    pub(crate) fn info(&self) -> String {
        let (width, height) = self.size();
        let what = match self.mode() {
            Mode::NoSignal => "no signal".to_owned(),
            Mode::Text => format!("text {}x{}", self.columns(), self.text_rows().count()),
            Mode::Planar => "graphics, 16 colours".to_owned(),
            Mode::Interleaved => "graphics, 4 colours".to_owned(),
            Mode::Packed => "graphics, 256 colours".to_owned(),
            Mode::Vbe(mode) => format!("VBE, {} bits a pixel, {} pixels a line", mode.bpp, mode.pitch),
        };
        let dark = if self.is_blanked() { ", blanked" } else { "" };
        format!("standard VGA: {what}, {width}x{height}{dark}; {} KiB video memory", self.vram >> 10)
    }
}
