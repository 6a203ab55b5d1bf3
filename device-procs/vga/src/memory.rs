//! The window at 0xa0000: how an address and a byte of the processor become bytes in four planes, and back
//! (IBM "Video Subsystem", graphics controller; FreeVGA, "Accessing the VGA display memory").

use bulkhead_bus::chip::{Access, BusError};
use bulkhead_bus::shm::Bulk;

use crate::Vga;
use crate::spec::*;

/// Where an address of the window leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// A byte of the memory as a VBE mode sees it.
    Linear(usize),
    /// An address in the planes.
    Planes {
        /// Offset in each plane.
        offset: usize,
        /// Planes that a write may reach, before the map mask.
        write: u8,
        /// Plane of a read in mode 0.
        read: u8,
    },
}

/// `bits` (one a plane) as a byte a plane.
fn spread(bits: u8) -> u32 {
    (0..4).fold(0, |wide, plane| if bits >> plane & 1 != 0 { wide | 0xff << (8 * plane) } else { wide })
}

/// `byte` in every plane.
fn copies(byte: u8) -> u32 {
    u32::from(byte) * 0x0101_0101
}

impl Vga {
    fn graphics(&self, index: usize) -> u8 {
        self.regs.graphics.get(index).copied().unwrap_or(0)
    }

    fn sequencer(&self, index: usize) -> u8 {
        self.regs.sequencer.get(index).copied().unwrap_or(0)
    }

    /// Resolves an offset in the window.
    fn place(&self, at: u64) -> Result<Place, BusError> {
        if at >= WINDOW_BYTES || self.regs.misc & MISC_RAM == 0 || self.regs.enable == 0 {
            return Err(BusError::Unclaimed);
        }
        let mode = self.vbe_mode();
        if let Some(mode) = mode.filter(|mode| mode.bpp != 4) {
            // A bank of the linear memory, 64 KiB at 0xa0000. The bank is within the memory; the check makes it certain
            // whatever the mode was when it was selected.
            let linear = u64::from(mode.bank) * u64::from(VBE_BANK) + at;
            let inside = at < u64::from(VBE_BANK) && linear < u64::from(self.vram);
            return if inside { Ok(Place::Linear(linear as usize)) } else { Err(BusError::Unclaimed) };
        }
        let map = self.graphics(6) >> 2 & 3;
        let (base, size) = match map {
            0 => (0, 0x2_0000),
            1 => (0, 0x1_0000),
            2 => (0x1_0000, 0x8000),
            _ => (0x1_8000, 0x8000),
        };
        let address = at.checked_sub(base).filter(|address| *address < size).ok_or(BusError::Unclaimed)?;
        let low = (address & 3) as u8;
        let mut offset = (address & 0xffff) as usize;
        let (write, read);
        if self.sequencer(4) & 0x08 != 0 {
            // Chain 4: the two lowest address bits select the plane.
            offset &= !3;
            (write, read) = (1 << low, low);
        } else {
            if self.graphics(6) & 0x02 != 0 {
                // Chain odd/even: address bit 0 selects the plane, bit 16 takes its place where there is one.
                offset = offset & !1 | (address >> 16 & 1) as usize;
            }
            write = if self.sequencer(4) & 0x04 == 0 { 0b0101 << (low & 1) } else { 0b1111 };
            read = match self.graphics(5) & 0x10 {
                0 => self.graphics(4),
                _ => self.graphics(4) & 2 | low & 1,
            };
        }
        if let Some(mode) = mode {
            offset += mode.bank as usize * VBE_BANK as usize;
            if offset >= self.vram as usize / 4 {
                return Err(BusError::Unclaimed);
            }
        }
        Ok(Place::Planes { offset, write, read })
    }

    /// A byte of the window. Loads the latches.
    pub(crate) fn read_window(&mut self, at: u64, bulk: &Bulk) -> Access {
        match self.place(at)? {
            Place::Linear(at) => Ok(bulk.byte(at).into()),
            Place::Planes { offset, read, .. } => {
                let mut planes = [0; 4];
                if !bulk.read(offset * 4, &mut planes) {
                    return Err(BusError::Unclaimed);
                }
                self.regs.latches = u32::from_le_bytes(planes);
                if self.graphics(5) & 0x08 == 0 {
                    return Ok(planes.get(usize::from(read & 3)).copied().unwrap_or(0).into());
                }
                // Read mode 1: ones where all planes that matter have the colour compared with.
                let differ = (self.regs.latches ^ spread(self.graphics(2))) & spread(self.graphics(7));
                let any = differ.to_le_bytes().into_iter().fold(0, |any, plane| any | plane);
                Ok(u64::from(!any))
            }
        }
    }

    /// Writes a byte of the window.
    fn write_window(&self, at: u64, value: u8, bulk: &Bulk) -> Result<(), BusError> {
        match self.place(at)? {
            Place::Linear(at) => bulk.set_byte(at, value),
            Place::Planes { offset, write, .. } => {
                let planes = spread(write & self.sequencer(2));
                if planes == u32::MAX {
                    let _ = bulk.write(offset * 4, &self.pipeline(value).to_le_bytes());
                } else if planes != 0 {
                    let data = self.pipeline(value).to_le_bytes();
                    for (plane, byte) in data.into_iter().enumerate() {
                        if planes >> (8 * plane) & 1 != 0 {
                            bulk.set_byte(offset * 4 + plane, byte);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// What a write of `value` puts into each plane.
    fn pipeline(&self, value: u8) -> u32 {
        let rotated = copies(value.rotate_right(u32::from(self.graphics(3) & 7)));
        let set = spread(self.graphics(0));
        let latches = self.regs.latches;
        let mut mask = copies(self.graphics(8));
        let data = match self.graphics(5) & 3 {
            0 => {
                let enable = spread(self.graphics(1));
                rotated & !enable | set & enable
            }
            1 => return latches,
            2 => spread(value & 15),
            _ => {
                mask &= rotated;
                set
            }
        };
        let combined = match self.graphics(3) >> 3 & 3 {
            0 => data,
            1 => data & latches,
            2 => data | latches,
            _ => data ^ latches,
        };
        combined & mask | latches & !mask
    }

    /// How many bytes from `at` on lie side by side in linear memory, and where.
    fn linear_run(&self, at: u64, len: usize) -> Option<(usize, usize)> {
        match self.place(at) {
            Ok(Place::Linear(linear)) => {
                let bank = VBE_BANK.saturating_sub(at as u32) as usize;
                Some((linear, len.min(bank).min((self.vram as usize).saturating_sub(linear))))
            }
            _ => None,
        }
    }

    /// Writes ascending addresses.
    pub(crate) fn write_run(&mut self, at: u64, data: &[u8], bulk: &Bulk) -> Result<(), BusError> {
        let mut done = Err(BusError::Unclaimed);
        let mut rest = data;
        let mut at = at;
        while let Some((first, others)) = rest.split_first() {
            if let Some((linear, len)) = self.linear_run(at, rest.len()).filter(|run| run.1 > 0) {
                let (now, later) = rest.split_at(len.min(rest.len()));
                let _ = bulk.write(linear, now);
                done = Ok(());
                at = at.wrapping_add(now.len() as u64);
                rest = later;
            } else {
                done = done.or(self.write_window(at, *first, bulk));
                at = at.wrapping_add(1);
                rest = others;
            }
        }
        done
    }
}
