//! The bus master: registers and the walk through the descriptor table.

use bulkhead_bus::chip::{Access, BusError, Env};
use bulkhead_bus::links::BlockClient;

use crate::spec::bm;
use crate::state::Channel;

/// Descriptors read in one go at most: a table of zero-progress descriptors cannot exist (a count of 0 means 64 KiB), so
/// this bounds a chunk of 128 KiB in two-byte pieces.
const DESCRIPTORS: usize = 65_536;

/// Outcome of moving bytes through the descriptor table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// All of them.
    All,
    /// The table ended first.
    TableEnded,
    /// A descriptor or the memory it names is not RAM.
    Fault,
}

fn part(value: u32, at: u64, size: u8) -> u64 {
    u64::from(value >> (8 * (at & 3) as u32)) & (u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 4))))
}

impl Channel {
    pub(crate) fn bm_read(&mut self, at: u64, size: u8) -> Access {
        match (at, size) {
            (bm::TABLE.., 1..=4) => Ok(part(self.table, at, size)),
            (_, 1..=4) => {
                let word = u32::from(self.bm_command) | u32::from(self.bm_status) << 16;
                Ok(part(word, at, size))
            }
            _ => Err(BusError::Unclaimed),
        }
    }

    /// Writes a register; true when the transfer was started.
    pub(crate) fn bm_write(&mut self, at: u64, size: u8, value: u64) -> Result<bool, BusError> {
        match (at, size) {
            (bm::TABLE.., 1..=4) => {
                for index in 0..u64::from(size) {
                    let shift = 8 * ((at + index) & 3) as u32;
                    let byte = (value >> (8 * index)) as u32 & 0xff;
                    self.table = (self.table & !(0xff << shift)) | byte << shift;
                }
                self.table &= !3;
                Ok(false)
            }
            (bm::COMMAND, 1..=4) => {
                let command = value as u8;
                let started = command & bm::START != 0 && self.bm_command & bm::START == 0;
                self.bm_command = command & (bm::START | bm::TO_MEMORY);
                if started {
                    self.bm_status |= bm::ACTIVE;
                    (self.next, self.room, self.last) = (self.table, 0, 0);
                } else if command & bm::START == 0 {
                    self.bm_status &= !bm::ACTIVE;
                }
                if size == 4 {
                    self.bm_write(bm::STATUS, 1, value >> 16)?;
                }
                Ok(started)
            }
            (bm::STATUS, 1 | 2) => {
                let clear = value as u8 & (bm::ERROR | bm::INTERRUPT);
                self.bm_status = (self.bm_status & !clear & !bm::CAPABLE) | (value as u8 & bm::CAPABLE);
                Ok(false)
            }
            (1 | 3, 1) => Ok(false),
            _ => Err(BusError::Unclaimed),
        }
    }

    /// Whether software has started the bus master.
    pub(crate) fn bm_running(&self) -> bool {
        self.bm_command & bm::START != 0
    }

    /// The drive's interrupt came: latch it; on an error or at the end of the table the engine stops.
    pub(crate) fn bm_stop(&mut self, error: bool) {
        if self.bm_status & bm::ACTIVE != 0 {
            self.bm_status &= !bm::ACTIVE;
            self.bm_status |= bm::INTERRUPT | if error { bm::ERROR } else { 0 };
        }
    }

    /// Moves `length` bytes between a back-end slot and guest memory along the table.
    pub(crate) fn bm_move(
        &mut self,
        block: &BlockClient,
        slot: usize,
        length: usize,
        env: &Env<'_>,
    ) -> Moved {
        let Some(ram) = env.ram else { return Moved::Fault };
        let to_memory = self.bm_command & bm::TO_MEMORY != 0;
        let mut done = 0usize;
        for _ in 0..DESCRIPTORS {
            if done >= length {
                return Moved::All;
            }
            if self.room == 0 {
                if self.last != 0 {
                    return Moved::TableEnded;
                }
                let mut entry = [0u8; 8];
                if !ram.read(u64::from(self.next), &mut entry) {
                    return Moved::Fault;
                }
                let word = u64::from_le_bytes(entry);
                let (address, count) = (word as u32, (word >> 32) as u32);
                self.next = self.next.wrapping_add(8);
                self.address = address & !1;
                self.room = if count & 0xfffe == 0 { 0x1_0000 } else { count & 0xfffe };
                self.last = u8::from(count & bm::END != 0);
            }
            let piece = (self.room as usize).min(length - done);
            let gpa = u64::from(self.address);
            let moved = if to_memory {
                block.data_to_ram(slot, done, ram, gpa, piece)
            } else {
                block.data_from_ram(slot, done, ram, gpa, piece)
            };
            if !moved {
                return Moved::Fault;
            }
            self.address = self.address.wrapping_add(piece as u32);
            self.room -= piece as u32;
            done += piece;
        }
        if done >= length { Moved::All } else { Moved::Fault }
    }
}
