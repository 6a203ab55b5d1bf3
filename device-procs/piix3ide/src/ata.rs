//! ATA commands: decoding, and the PIO and DMA data phases.

use bulkhead_bus::chip::Env;
use bulkhead_bus::links::{BLOCK_DATA, BlockOp, BlockStatus};

use crate::busmaster::Moved;
use crate::identify;
use crate::spec::{command, device, error, status};
use crate::state::{Channel, Drive, phase};
use crate::{SECTOR, Unit};

/// SMART subcommands in the features register (ATA/ATAPI-6, 8.53).
mod smart {
    pub const READ_DATA: u8 = 0xd0;
    pub const READ_THRESHOLDS: u8 = 0xd1;
    pub const AUTOSAVE: u8 = 0xd2;
    pub const EXECUTE_OFFLINE: u8 = 0xd4;
    pub const READ_LOG: u8 = 0xd5;
    pub const ENABLE: u8 = 0xd8;
    pub const DISABLE: u8 = 0xd9;
    pub const RETURN_STATUS: u8 = 0xda;
    /// Signature in LBA mid and high.
    pub const KEY: (u8, u8) = (0x4f, 0xc2);
}

/// How a command moves sectors.
#[derive(Clone, Copy)]
struct Transfer {
    /// 48-bit addressing.
    ext: bool,
    /// To the drive.
    write: bool,
    /// By the bus master.
    dma: bool,
}

impl Drive {
    /// First sector of a command: LBA28, LBA48 or cylinder/head/sector.
    fn address(&self, device: u8, ext: bool, unit: &Unit<'_>) -> Option<u64> {
        let [low, mid, high] = self.lba;
        if ext {
            let bytes = [low[0], mid[0], high[0], low[1], mid[1], high[1], 0, 0];
            return Some(u64::from_le_bytes(bytes));
        }
        if device & device::LBA != 0 {
            return Some(u64::from_le_bytes([low[0], mid[0], high[0], device & 0x0f, 0, 0, 0, 0]));
        }
        let (heads, sectors) = self.translation(unit);
        let cylinder = u64::from(u16::from_le_bytes([mid[0], high[0]]));
        let (head, sector) = (u64::from(device & 0x0f), u64::from(low[0]));
        if sector == 0 || sector > sectors || head >= heads {
            return None;
        }
        Some((cylinder * heads + head) * sectors + sector - 1)
    }

    /// Heads and sectors per track in force.
    fn translation(&self, unit: &Unit<'_>) -> (u64, u64) {
        if self.sectors != 0 {
            return (u64::from(self.heads), u64::from(self.sectors));
        }
        let geometry = identify::geometry(unit);
        (u64::from(geometry.heads), u64::from(geometry.sectors))
    }

    /// Sectors of a command.
    fn sector_count(&self, ext: bool) -> u64 {
        match (ext, self.count) {
            (false, [0, _]) => 256,
            (false, [count, _]) => u64::from(count),
            (true, [0, 0]) => 65_536,
            (true, [low, high]) => u64::from(u16::from_le_bytes([low, high])),
        }
    }

    /// Puts a sector number into the registers.
    fn set_address(&mut self, sector: u64, ext: bool, device: &mut u8) {
        let bytes = sector.to_le_bytes();
        for (at, pair) in self.lba.iter_mut().enumerate() {
            *pair = [bytes.get(at).copied().unwrap_or(0), bytes.get(at + 3).copied().unwrap_or(0)];
        }
        if !ext {
            *device = (*device & 0xf0) | (bytes[3] & 0x0f);
        }
    }
}

impl Channel {
    /// A write to the command register.
    pub(crate) fn execute(&mut self, drive: usize, code: u8, unit: &Unit<'_>, env: &mut Env<'_>) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        if state.status & (status::BSY | status::DRQ) != 0 && code != command::DEVICE_RESET {
            return;
        }
        state.command = code;
        state.error = 0;
        state.status = status::DRDY | status::DSC;
        if !unit.is_disk() {
            return self.execute_packet_device(drive, code, unit);
        }
        match code {
            command::READ_SECTORS | command::READ_SECTORS_NO_RETRY | command::READ_MULTIPLE => {
                self.start_transfer(drive, unit, Transfer { ext: false, write: false, dma: false }, env);
            }
            command::READ_SECTORS_EXT | command::READ_MULTIPLE_EXT => {
                self.start_transfer(drive, unit, Transfer { ext: true, write: false, dma: false }, env);
            }
            command::WRITE_SECTORS | command::WRITE_SECTORS_NO_RETRY | command::WRITE_MULTIPLE => {
                self.start_transfer(drive, unit, Transfer { ext: false, write: true, dma: false }, env);
            }
            command::WRITE_SECTORS_EXT | command::WRITE_MULTIPLE_EXT => {
                self.start_transfer(drive, unit, Transfer { ext: true, write: true, dma: false }, env);
            }
            command::READ_DMA | command::READ_DMA_NO_RETRY => {
                self.start_transfer(drive, unit, Transfer { ext: false, write: false, dma: true }, env)
            }
            command::READ_DMA_EXT => {
                self.start_transfer(drive, unit, Transfer { ext: true, write: false, dma: true }, env)
            }
            command::WRITE_DMA | command::WRITE_DMA_NO_RETRY => {
                self.start_transfer(drive, unit, Transfer { ext: false, write: true, dma: true }, env)
            }
            command::WRITE_DMA_EXT | command::WRITE_DMA_FUA_EXT => {
                self.start_transfer(drive, unit, Transfer { ext: true, write: true, dma: true }, env)
            }
            command::READ_VERIFY | command::READ_VERIFY_NO_RETRY => self.verify(drive, unit, false),
            command::READ_VERIFY_EXT => self.verify(drive, unit, true),
            command::IDENTIFY => self.pio_reply(drive, unit, &identify::disk(unit, self.drives.get(drive))),
            command::SET_FEATURES => self.set_features(drive, unit),
            command::SET_MULTIPLE => {
                let count = state.count[0];
                if count > 16 || !(count == 0 || count.is_power_of_two()) {
                    return self.abort(drive, error::ABRT);
                }
                state.multiple = count;
                self.complete(drive, unit);
            }
            command::INITIALIZE_PARAMETERS => {
                (state.heads, state.sectors) = ((self.device & 0x0f) + 1, state.count[0]);
                self.complete(drive, unit);
            }
            command::READ_NATIVE_MAX => {
                let last = unit.sectors().saturating_sub(1).min(0x0fff_ffff);
                state.set_address(last, false, &mut self.device);
                self.complete(drive, unit);
            }
            command::READ_NATIVE_MAX_EXT => {
                state.set_address(unit.sectors().saturating_sub(1), true, &mut self.device);
                self.complete(drive, unit);
            }
            command::FLUSH_CACHE | command::FLUSH_CACHE_EXT => {
                self.submit(drive, unit, BlockOp::Flush, 0, 0, phase::FLUSH);
            }
            command::CHECK_POWER_MODE => {
                state.count[0] = 0xff;
                self.complete(drive, unit);
            }
            command::SMART => self.smart(drive, unit),
            command::SEEK..=0x7f => match state.address(self.device, false, unit) {
                Some(sector) if sector < unit.sectors() => self.complete(drive, unit),
                _ => self.abort(drive, error::IDNF),
            },
            command::RECALIBRATE..=0x1f
            | command::STANDBY_IMMEDIATE..=command::IDLE
            | command::SLEEP
            | 0x94..=0x99 => self.complete(drive, unit),
            _ => self.abort(drive, error::ABRT),
        }
    }

    fn set_features(&mut self, drive: usize, unit: &Unit<'_>) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        match state.features[0] {
            0x02 => state.write_cache = 1,
            0x82 => state.write_cache = 0,
            // Transfer mode: PIO default and flow control, multiword DMA 0-2, Ultra DMA 0-5 (8.46.10).
            0x03 if matches!(state.count[0], 0x00 | 0x01 | 0x08..=0x0c | 0x20..=0x22 | 0x40..=0x45) => {
                state.mode = state.count[0];
            }
            // Look-ahead, revert to defaults, acoustic management, power management: accepted, without effect.
            0x55 | 0xaa | 0x66 | 0xcc | 0x42 | 0xc2 | 0x05 | 0x85 => {}
            _ => return self.abort(drive, error::ABRT),
        }
        self.complete(drive, unit);
    }

    fn smart(&mut self, drive: usize, unit: &Unit<'_>) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        let [_, mid, high] = state.lba;
        let enabled = state.smart != 0 || state.features[0] == smart::ENABLE;
        if (mid[0], high[0]) != smart::KEY || !enabled {
            return self.abort(drive, error::ABRT);
        }
        match state.features[0] {
            smart::ENABLE => state.smart = 1,
            smart::DISABLE => state.smart = 0,
            smart::AUTOSAVE | smart::EXECUTE_OFFLINE => {}
            // Key unchanged: no threshold exceeded.
            smart::RETURN_STATUS => {}
            smart::READ_DATA => return self.pio_reply(drive, unit, &identify::smart_data(false)),
            smart::READ_THRESHOLDS => return self.pio_reply(drive, unit, &identify::smart_data(true)),
            smart::READ_LOG => return self.pio_reply(drive, unit, &[0; 512]),
            _ => return self.abort(drive, error::ABRT),
        }
        self.complete(drive, unit);
    }

    fn verify(&mut self, drive: usize, unit: &Unit<'_>, ext: bool) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        let end =
            state.address(self.device, ext, unit).and_then(|at| at.checked_add(state.sector_count(ext)));
        match end {
            Some(end) if end <= unit.sectors() => self.complete(drive, unit),
            _ => self.abort(drive, error::IDNF | error::ABRT),
        }
    }

    /// Begins a read or write of sectors.
    fn start_transfer(&mut self, drive: usize, unit: &Unit<'_>, transfer: Transfer, env: &mut Env<'_>) {
        let Transfer { ext, write, dma } = transfer;
        let Some(state) = self.drives.get_mut(drive) else { return };
        let multiple = matches!(
            state.command,
            command::READ_MULTIPLE
                | command::WRITE_MULTIPLE
                | command::READ_MULTIPLE_EXT
                | command::WRITE_MULTIPLE_EXT
        );
        if multiple && state.multiple == 0 {
            return self.abort(drive, error::ABRT);
        }
        let count = state.sector_count(ext);
        let first = state.address(self.device, ext, unit);
        let end = first.and_then(|first| first.checked_add(count));
        let Some(first) = first.filter(|_| end.is_some_and(|end| end <= unit.sectors())) else {
            return self.abort(drive, error::IDNF | error::ABRT);
        };
        if write && unit.block.medium().read_only {
            return self.abort(drive, error::ABRT);
        }
        state.offset = first * SECTOR;
        state.left = count * SECTOR;
        state.limit = if multiple { u16::from(state.multiple) * SECTOR as u16 } else { SECTOR as u16 };
        (state.filled, state.moved, state.block_end, state.dma) = (0, 0, 0, u8::from(dma));
        if dma {
            state.phase = phase::DMA_WAIT;
            state.status = status::BSY;
            if self.bm_running() {
                self.dma_step(drive, unit, write, env);
            }
        } else if write {
            self.pio_write_block(drive, unit);
        } else {
            self.pio_read_chunk(drive, unit);
        }
    }

    /// Whether the command at work writes the drive.
    fn is_write(&self, drive: usize) -> bool {
        matches!(
            self.drives.get(drive).map_or(0, |state| state.command),
            command::WRITE_SECTORS
                | command::WRITE_SECTORS_NO_RETRY
                | command::WRITE_SECTORS_EXT
                | command::WRITE_MULTIPLE
                | command::WRITE_MULTIPLE_EXT
                | command::WRITE_DMA
                | command::WRITE_DMA_NO_RETRY
                | command::WRITE_DMA_EXT
                | command::WRITE_DMA_FUA_EXT
        )
    }

    // ---- PIO in ---------------------------------------------------------------------------------------------------

    /// Puts a reply of up to one buffer before the host.
    pub(crate) fn pio_reply(&mut self, drive: usize, unit: &Unit<'_>, reply: &[u8]) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        unit.block.release(state.slot());
        if !unit.block.write_data(state.slot(), 0, reply) {
            return self.abort(drive, error::ABRT);
        }
        state.left = 0;
        state.filled = reply.len() as u32;
        (state.moved, state.block_end) = (0, state.filled);
        state.phase = phase::PIO_IN;
        state.status = status::DRDY | status::DSC | status::DRQ;
        self.interrupt(drive);
    }

    fn pio_read_chunk(&mut self, drive: usize, unit: &Unit<'_>) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        unit.block.release(state.slot());
        let length = state.left.min(BLOCK_DATA as u64) as usize;
        let offset = state.offset;
        if !self.submit(drive, unit, BlockOp::Read, offset, length, phase::PIO_READ) {
            self.abort(drive, error::ABRT);
        }
    }

    pub(crate) fn pio_read_done(&mut self, drive: usize, unit: &Unit<'_>, outcome: BlockStatus) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        if outcome != BlockStatus::Ok {
            unit.block.release(state.slot());
            return self.abort(drive, error::UNC);
        }
        let length = state.left.min(BLOCK_DATA as u64);
        state.left -= length;
        state.offset += length;
        state.filled = length as u32;
        state.moved = 0;
        self.pio_in_block(drive);
    }

    /// Offers the next data block of the buffer.
    fn pio_in_block(&mut self, drive: usize) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        state.block_end = state.moved.saturating_add(u32::from(state.limit)).min(state.filled);
        state.phase = phase::PIO_IN;
        state.status = status::DRDY | status::DSC | status::DRQ;
        self.interrupt(drive);
    }

    /// The host reads the data port; how many bytes it got.
    pub(crate) fn data_in(&mut self, drive: usize, unit: &Unit<'_>, to: &mut [u8]) -> usize {
        let mut got = 0;
        while let Some(rest) = to.get_mut(got..).filter(|rest| !rest.is_empty()) {
            let Some(state) = self.drives.get_mut(drive) else { break };
            if !matches!(state.phase, phase::PIO_IN | phase::PACKET_IN) {
                break;
            }
            let length = rest.len().min(state.block_end.saturating_sub(state.moved) as usize);
            let Some(part) = rest.get_mut(..length).filter(|part| !part.is_empty()) else { break };
            if !unit.block.read_data(state.slot(), state.moved as usize, part) {
                break;
            }
            state.moved += length as u32;
            got += length;
            if state.moved < state.block_end {
                continue;
            }
            if state.phase == phase::PACKET_IN {
                self.packet_block_taken(drive, unit);
            } else if state.moved < state.filled {
                self.pio_in_block(drive);
            } else if state.left > 0 {
                self.pio_read_chunk(drive, unit);
            } else {
                // The end of a data-in command is not announced by another interrupt.
                unit.block.release(state.slot());
                state.phase = phase::IDLE;
                state.status = status::DRDY | status::DSC;
            }
        }
        got
    }

    // ---- PIO out --------------------------------------------------------------------------------------------------

    /// Asks the host for the next data block of a write.
    fn pio_write_block(&mut self, drive: usize, unit: &Unit<'_>) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        if state.moved == 0 {
            unit.block.release(state.slot());
            state.filled = state.left.min(BLOCK_DATA as u64) as u32;
        }
        state.block_end = state.moved.saturating_add(u32::from(state.limit)).min(state.filled);
        state.phase = phase::PIO_OUT;
        state.status = status::DRDY | status::DSC | status::DRQ;
    }

    /// The host writes the data port.
    pub(crate) fn data_out(&mut self, drive: usize, unit: &Unit<'_>, from: &[u8], env: &mut Env<'_>) {
        let mut taken = 0;
        while let Some(rest) = from.get(taken..).filter(|rest| !rest.is_empty()) {
            let Some(state) = self.drives.get_mut(drive) else { break };
            if state.phase == phase::PACKET {
                taken += self.packet_bytes(drive, unit, rest, env);
                continue;
            }
            if state.phase != phase::PIO_OUT {
                break;
            }
            let length = rest.len().min(state.block_end.saturating_sub(state.moved) as usize);
            let Some(part) = rest.get(..length).filter(|part| !part.is_empty()) else { break };
            if !unit.block.write_data(state.slot(), state.moved as usize, part) {
                break;
            }
            state.moved += length as u32;
            taken += length;
            if state.moved < state.block_end {
                continue;
            }
            if state.moved < state.filled {
                self.pio_write_block(drive, unit);
                self.interrupt(drive);
            } else {
                let (offset, length) = (state.offset, state.filled as usize);
                if !self.submit(drive, unit, BlockOp::Write, offset, length, phase::PIO_WRITE) {
                    self.abort(drive, error::ABRT);
                }
            }
        }
    }

    pub(crate) fn pio_write_done(&mut self, drive: usize, unit: &Unit<'_>, outcome: BlockStatus) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        unit.block.release(state.slot());
        if outcome != BlockStatus::Ok {
            return self.abort(drive, error::ABRT);
        }
        let length = u64::from(state.filled);
        state.left = state.left.saturating_sub(length);
        state.offset += length;
        (state.moved, state.filled, state.block_end) = (0, 0, 0);
        if state.left > 0 {
            self.pio_write_block(drive, unit);
            self.interrupt(drive);
        } else {
            self.complete(drive, unit);
        }
    }

    // ---- DMA ------------------------------------------------------------------------------------------------------

    /// Software started the bus master.
    pub(crate) fn start_dma(&mut self, drive: usize, unit: &Unit<'_>, env: &mut Env<'_>) {
        let Some(state) = self.drives.get(drive) else { return };
        if state.phase == phase::DMA_WAIT {
            if unit.is_disk() {
                let write = self.is_write(drive);
                self.dma_step(drive, unit, write, env);
            } else {
                self.packet_dma_start(drive, unit, env);
            }
        } else if state.phase == phase::DMA_READ
            && let Some(Some(outcome)) = unit.block.poll(state.slot())
        {
            self.dma_read_done(drive, unit, outcome, env);
        }
    }

    /// Moves on with a DMA command: the next chunk from the back end, or from memory.
    fn dma_step(&mut self, drive: usize, unit: &Unit<'_>, write: bool, env: &mut Env<'_>) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        unit.block.release(state.slot());
        if !write {
            let (offset, length) = (state.offset, state.left.min(BLOCK_DATA as u64) as usize);
            if !self.submit(drive, unit, BlockOp::Read, offset, length, phase::DMA_READ) {
                self.abort(drive, error::ABRT);
            }
            return;
        }
        let (slot, offset) = (state.slot(), state.offset);
        let length = state.left.min(BLOCK_DATA as u64) as usize;
        state.status = status::BSY;
        state.filled = length as u32;
        match self.bm_move(unit.block, slot, length, env) {
            Moved::All => {
                if !self.submit(drive, unit, BlockOp::Write, offset, length, phase::DMA_WRITE) {
                    self.abort(drive, error::ABRT);
                }
            }
            Moved::TableEnded | Moved::Fault => self.abort(drive, error::ABRT),
        }
    }

    pub(crate) fn dma_read_done(
        &mut self,
        drive: usize,
        unit: &Unit<'_>,
        outcome: BlockStatus,
        env: &mut Env<'_>,
    ) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        let (slot, length) = (state.slot(), state.left.min(BLOCK_DATA as u64));
        if outcome != BlockStatus::Ok {
            unit.block.release(slot);
            return self.abort(drive, error::UNC);
        }
        if !self.bm_running() {
            // Stopped under way: the data waits until the bus master is started again or the drive is reset.
            return;
        }
        let moved = self.bm_move(unit.block, slot, length as usize, env);
        unit.block.release(slot);
        if moved != Moved::All {
            return self.abort(drive, error::ABRT);
        }
        self.dma_chunk_done(drive, unit, length, false, env);
    }

    pub(crate) fn dma_write_done(
        &mut self,
        drive: usize,
        unit: &Unit<'_>,
        outcome: BlockStatus,
        env: &mut Env<'_>,
    ) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        let length = u64::from(state.filled);
        unit.block.release(state.slot());
        if outcome != BlockStatus::Ok {
            return self.abort(drive, error::ABRT);
        }
        self.dma_chunk_done(drive, unit, length, true, env);
    }

    fn dma_chunk_done(&mut self, drive: usize, unit: &Unit<'_>, length: u64, write: bool, env: &mut Env<'_>) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        state.left = state.left.saturating_sub(length);
        state.offset = state.offset.wrapping_add(length);
        if state.left > 0 {
            self.dma_step(drive, unit, write, env);
        } else {
            self.bm_finish();
            self.complete(drive, unit);
        }
    }

    /// The last byte of a DMA command has moved.
    pub(crate) fn bm_finish(&mut self) {
        use crate::spec::bm;
        self.bm_status |= bm::INTERRUPT;
        // With descriptors left over the engine stays active until software stops it (82371SB 2.7.3).
        if self.room == 0 && self.last != 0 {
            self.bm_status &= !bm::ACTIVE;
        }
    }
}
