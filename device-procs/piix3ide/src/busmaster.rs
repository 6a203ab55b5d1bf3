//! The bus master: registers and the walk through the descriptor table (82371SB, 2.7 and 3.4).
//!
//! How a transfer ends, as software reads it from the status register (table "Interrupt/Activity status combinations"):
//!
//! | interrupt | active | meaning |
//! |---|---|---|
//! | 0 | 1 | under way |
//! | 1 | 0 | the drive interrupted and the table was used up |
//! | 1 | 1 | the drive interrupted with descriptors left over |
//! | 0 | 0 | the table ended before the drive did, or an error on the PCI bus (then the error bit too) |
//!
//! In the last case the drive goes on asking for data, as a real one does: software may start the bus master again with more
//! descriptors, or reset the drive.

use bulkhead_bus::chip::{Access, BusError, Env};
use bulkhead_bus::links::BlockClient;

use crate::spec::bm;
use crate::state::Channel;

/// Descriptors walked in one go at most. Each one moves two bytes or more (a count of 0 means 64 KiB), so this bounds a chunk
/// of 128 KiB in the smallest pieces.
const DESCRIPTORS: usize = 65_536;

impl Channel {
    /// A register byte; `at` is the offset in the channel's half, 0..8.
    fn bm_byte(&self, at: u64) -> u8 {
        match at {
            bm::COMMAND => self.bm_command,
            bm::STATUS => self.bm_status,
            bm::TABLE.. => self.table.to_le_bytes().get((at & 3) as usize).copied().unwrap_or(0),
            _ => 0,
        }
    }

    /// Reads 1, 2 or 4 bytes within the channel's half.
    pub(crate) fn bm_read(&self, at: u64, size: u8) -> Access {
        if !matches!(size, 1 | 2 | 4) || at + u64::from(size) > 8 {
            return Err(BusError::Unclaimed);
        }
        Ok((0..u64::from(size))
            .rev()
            .fold(0, |value, index| value << 8 | u64::from(self.bm_byte(at + index))))
    }

    /// Writes 1, 2 or 4 bytes; true when the transfer was started.
    pub(crate) fn bm_write(&mut self, at: u64, size: u8, value: u64) -> Result<bool, BusError> {
        if !matches!(size, 1 | 2 | 4) || at + u64::from(size) > 8 {
            return Err(BusError::Unclaimed);
        }
        let mut started = false;
        for index in 0..u64::from(size) {
            let byte = (value >> (8 * index)) as u8;
            match at + index {
                bm::COMMAND => started = self.bm_command_byte(byte),
                bm::STATUS => {
                    let clear = byte & (bm::ERROR | bm::INTERRUPT);
                    self.bm_status = (self.bm_status & !clear & !bm::CAPABLE) | (byte & bm::CAPABLE);
                }
                at @ bm::TABLE.. => {
                    let shift = 8 * (at & 3) as u32;
                    self.table = (self.table & !(0xff << shift) | u32::from(byte) << shift) & !3;
                }
                _ => {}
            }
        }
        Ok(started)
    }

    fn bm_command_byte(&mut self, byte: u8) -> bool {
        let started = byte & bm::START != 0 && self.bm_command & bm::START == 0;
        self.bm_command = byte & (bm::START | bm::TO_MEMORY);
        if started {
            self.bm_status |= bm::ACTIVE;
            (self.next, self.address, self.room, self.last) = (self.table, 0, 0, 0);
        } else if byte & bm::START == 0 {
            // Stopping loses the place in the table (2.7.1).
            self.bm_status &= !bm::ACTIVE;
        }
        started
    }

    /// Whether the engine would move data in this direction now. With the direction bit against the command's direction
    /// the wrong strobe is pulsed, and nothing moves.
    pub(crate) fn bm_ready(&self, to_memory: bool) -> bool {
        self.bm_command & bm::START != 0
            && self.bm_status & bm::ACTIVE != 0
            && (self.bm_command & bm::TO_MEMORY != 0) == to_memory
    }

    /// The command's last byte has moved. With descriptors left over the engine stays active until software stops it.
    pub(crate) fn bm_finish(&mut self) {
        if self.room == 0 && self.last != 0 {
            self.bm_status &= !bm::ACTIVE;
        }
    }

    /// Moves bytes `from..to` of a back-end slot along the table, in the direction of the command register. Returns how many;
    /// if fewer, the engine has stopped and its status says why.
    pub(crate) fn bm_move(
        &mut self,
        block: &BlockClient,
        slot: usize,
        from: usize,
        to: usize,
        env: &Env<'_>,
    ) -> usize {
        let to_memory = self.bm_command & bm::TO_MEMORY != 0;
        let mut at = from;
        for _ in 0..DESCRIPTORS {
            if at >= to {
                break;
            }
            let Some(ram) = env.ram else { return self.bm_fault(at - from) };
            if self.room == 0 {
                if self.last != 0 {
                    // The table ended before the drive did.
                    self.bm_status &= !bm::ACTIVE;
                    break;
                }
                let mut entry = [0u8; 8];
                let gpa = u64::from(self.next);
                if !ram.is_open_to_masters(gpa, entry.len() as u64) || !ram.read(gpa, &mut entry) {
                    return self.bm_fault(at - from);
                }
                let word = u64::from_le_bytes(entry);
                let (address, count) = (word as u32, (word >> 32) as u32);
                self.next = self.next.wrapping_add(8);
                self.address = address & !1;
                self.room = if count & 0xfffe == 0 { 0x1_0000 } else { count & 0xfffe };
                self.last = u8::from(count & bm::END != 0);
            }
            let piece = (self.room as usize).min(to - at);
            let gpa = u64::from(self.address);
            let moved = if !ram.is_open_to_masters(gpa, piece as u64) {
                false
            } else if to_memory {
                block.data_to_ram(slot, at, ram, gpa, piece)
            } else {
                block.data_from_ram(slot, at, ram, gpa, piece)
            };
            if !moved {
                return self.bm_fault(at - from);
            }
            self.address = self.address.wrapping_add(piece as u32);
            self.room = self.room.saturating_sub(piece as u32);
            at += piece;
        }
        at - from
    }

    /// A descriptor, or the memory it names, is not RAM that a master reaches: master abort.
    fn bm_fault(&mut self, done: usize) -> usize {
        self.bm_status = self.bm_status & !bm::ACTIVE | bm::ERROR;
        done
    }
}
