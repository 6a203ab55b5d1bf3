//! Where the beam is: the status bits that depend on time, derived from the programmed timing and guest time alone.

use crate::Vga;
use crate::spec::*;

/// Pixel clocks of Miscellaneous Output bits 2-3 in kHz; the other two are not fitted.
const CLOCK_KHZ: [u64; 4] = [25_175, 28_322, 28_322, 28_322];
/// Frame of a mode whose timing nobody programmed (VBE), or nobody could display: 60 Hz.
const DEFAULT_FRAME_PS: u64 = 1_000_000_000_000 / 60;
/// Shortest frame that a monitor can show, 500 Hz, and longest, 5 Hz.
const FRAME_PS: std::ops::RangeInclusive<u64> = 2_000_000_000..=200_000_000_000;

/// Position of the beam.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Beam {
    /// Inside the displayed area.
    pub displaying: bool,
    /// In vertical retrace.
    pub retrace: bool,
}

impl Beam {
    /// Input Status 1.
    pub(crate) fn status1(self) -> u8 {
        let blanking = if self.displaying { 0 } else { STATUS1_BLANKING };
        let retrace = if self.retrace { STATUS1_RETRACE } else { 0 };
        blanking | retrace
    }
}

impl Vga {
    fn crtc(&self, index: usize) -> u64 {
        self.regs.crtc.get(index).copied().unwrap_or(0).into()
    }

    /// A vertical value of 10 bits: register `low`, bits 8 and 9 from the overflow register.
    fn vertical(&self, low: usize, bit8: u32, bit9: u32) -> u64 {
        let overflow = self.crtc(crtc::OVERFLOW);
        self.crtc(low) | (overflow >> bit8 & 1) << 8 | (overflow >> bit9 & 1) << 9
    }

    /// Scan lines that are displayed.
    pub(crate) fn display_lines(&self) -> u64 {
        (self.vertical(crtc::V_DISPLAY_END, 1, 6) + 1) << self.line_shift()
    }

    /// 1 when the line counter counts every second line (Mode Control bit 2).
    pub(crate) fn line_shift(&self) -> u32 {
        (self.crtc(crtc::MODE) >> 2 & 1) as u32
    }

    /// Line compare, 10 bits, in counted lines.
    pub(crate) fn line_compare(&self) -> u64 {
        let bit9 = self.crtc(crtc::MAX_SCAN) >> 6 & 1;
        let bit8 = self.crtc(crtc::OVERFLOW) >> 4 & 1;
        self.crtc(crtc::LINE_COMPARE) | bit8 << 8 | bit9 << 9
    }

    /// Where the beam is at guest time `now` in nanoseconds.
    pub(crate) fn beam(&self, now: u64) -> Beam {
        let programmed = if self.vbe_mode().is_none() { self.programmed_beam(now) } else { None };
        if let Some(beam) = programmed {
            return beam;
        }
        // 95 % of the frame is picture.
        let at = u64::try_from(u128::from(now) * 1000 % u128::from(DEFAULT_FRAME_PS)).unwrap_or(0);
        let retrace = at >= DEFAULT_FRAME_PS / 100 * 95;
        Beam { displaying: !retrace, retrace }
    }

    /// As the CRT controller is programmed; nothing when that is no picture.
    fn programmed_beam(&self, now: u64) -> Option<Beam> {
        let clocking = self.regs.sequencer.get(1).copied().unwrap_or(0);
        let dots = if clocking & 1 != 0 { 8 } else { 9 } << (clocking >> 3 & 1);
        let khz = CLOCK_KHZ.get(usize::from(self.regs.misc >> 2 & 3)).copied()?;
        let columns = self.crtc(crtc::H_TOTAL) + 5;
        let lines = (self.vertical(crtc::V_TOTAL, 0, 5) + 2) << self.line_shift();
        let column_ps = dots * 1_000_000_000 / khz;
        let line_ps = columns * column_ps;
        let frame_ps = line_ps * lines;
        if !FRAME_PS.contains(&frame_ps) {
            return None;
        }
        let at = u64::try_from(u128::from(now) * 1000 % u128::from(frame_ps)).ok()?;
        let line = at.checked_div(line_ps)?;
        let column = (at % line_ps).checked_div(column_ps)?;
        let retrace_start = self.vertical(crtc::V_RETRACE_START, 2, 7) << self.line_shift();
        Some(Beam {
            displaying: line < self.display_lines() && column <= self.crtc(crtc::H_DISPLAY_END),
            retrace: line >= retrace_start,
        })
    }
}
