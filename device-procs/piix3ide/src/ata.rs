//! ATA commands: decoding, and the PIO and DMA data phases.

use bulkhead_bus::chip::Env;
use bulkhead_bus::links::BlockStatus;

use crate::identify;
use crate::requests::{CHUNK, WINDOW, slot};
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

/// SET FEATURES subcommands (ATA/ATAPI-6, 8.46).
mod feature {
    pub const WRITE_CACHE_ON: u8 = 0x02;
    pub const TRANSFER_MODE: u8 = 0x03;
    pub const LOOK_AHEAD_OFF: u8 = 0x55;
    pub const KEEP_ON_RESET: u8 = 0x66;
    pub const WRITE_CACHE_OFF: u8 = 0x82;
    pub const LOOK_AHEAD_ON: u8 = 0xaa;
    pub const REVERT_ON_RESET: u8 = 0xcc;
}

/// Sectors that 28-bit addresses reach.
const LBA28_MAX: u64 = 1 << 28;

const _: () = assert!(256 * SECTOR <= CHUNK, "`Channel::failed`");

/// How long the end of a PIO write is held back.
const HOLD_NS: u64 = 1_000_000;

/// How a command moves sectors.
#[derive(Clone, Copy, Default)]
struct Transfer {
    /// 48-bit addressing.
    ext: bool,
    /// To the drive.
    write: bool,
    /// By the bus master.
    dma: bool,
    /// Several sectors a data-request block.
    multiple: bool,
    /// Forced unit access.
    fua: bool,
}

impl Transfer {
    /// What a command moves; `None` for one that moves no sectors.
    fn of(code: u8) -> Option<Transfer> {
        let pio = Transfer::default();
        let dma = Transfer { dma: true, ..pio };
        let multiple = Transfer { multiple: true, ..pio };
        let of = |transfer, ext, write| Some(Transfer { ext, write, ..transfer });
        match code {
            command::READ_SECTORS | command::READ_SECTORS_NO_RETRY => of(pio, false, false),
            command::READ_SECTORS_EXT => of(pio, true, false),
            command::WRITE_SECTORS | command::WRITE_SECTORS_NO_RETRY => of(pio, false, true),
            command::WRITE_SECTORS_EXT => of(pio, true, true),
            command::READ_MULTIPLE => of(multiple, false, false),
            command::READ_MULTIPLE_EXT => of(multiple, true, false),
            command::WRITE_MULTIPLE => of(multiple, false, true),
            command::WRITE_MULTIPLE_EXT => of(multiple, true, true),
            command::WRITE_MULTIPLE_FUA_EXT => of(Transfer { fua: true, ..multiple }, true, true),
            command::READ_DMA | command::READ_DMA_NO_RETRY => of(dma, false, false),
            command::READ_DMA_EXT => of(dma, true, false),
            command::WRITE_DMA | command::WRITE_DMA_NO_RETRY => of(dma, false, true),
            command::WRITE_DMA_EXT => of(dma, true, true),
            command::WRITE_DMA_FUA_EXT => of(Transfer { fua: true, ..dma }, true, true),
            _ => None,
        }
    }
}

impl Drive {
    /// Whether the end of a PIO write has to wait (`-win2k-hack`).
    fn is_held_back(&mut self, now: u64) -> bool {
        if self.hold == 0 && self.writes % 16 == 15 {
            self.hold = now.saturating_add(HOLD_NS);
        }
        if now < self.hold {
            return true;
        }
        self.hold = 0;
        self.writes = self.writes.wrapping_add(1);
        false
    }

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
        let geometry = unit.config.geometry;
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

    /// First sector and number of sectors of a command; `None` when they are not all on the drive.
    fn range(&self, device: u8, ext: bool, unit: &Unit<'_>) -> Option<(u64, u64)> {
        let (first, count) = (self.address(device, ext, unit)?, self.sector_count(ext));
        (first.checked_add(count)? <= unit.sectors()).then_some((first, count))
    }

    /// SET FEATURES, transfer mode (8.46.10): PIO default and flow control modes, multiword DMA 0-2, Ultra DMA 0-5. False for
    /// any other. A PIO mode leaves the DMA mode alone.
    pub(crate) fn set_mode(&mut self) -> bool {
        match self.count[0] {
            0x00 | 0x01 | 0x08..=0x0c => {}
            mode @ (0x20..=0x22 | 0x40..=0x45) => self.mode = mode,
            _ => return false,
        }
        true
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
    pub(crate) fn execute(&mut self, drive: usize, code: u8, unit: &Unit<'_>) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        state.intrq = 0;
        // A busy drive takes no command; a packet device takes DEVICE RESET at any time (ATA/ATAPI-6, 8.7).
        let busy = state.status & (status::BSY | status::DRQ) != 0;
        if busy && (unit.is_disk() || code != command::DEVICE_RESET) {
            return;
        }
        state.abandon();
        state.phase = phase::IDLE;
        state.command = code;
        state.error = 0;
        state.status = status::DRDY | status::DSC;
        if !unit.is_disk() {
            return self.execute_packet_device(drive, code, unit);
        }
        if let Some(transfer) = Transfer::of(code) {
            return self.start_transfer(drive, unit, transfer);
        }
        match code {
            command::READ_VERIFY | command::READ_VERIFY_NO_RETRY => self.verify(drive, unit, false),
            command::READ_VERIFY_EXT => self.verify(drive, unit, true),
            command::IDENTIFY => {
                let reply = identify::disk(unit, self.drives.get(drive));
                self.pio_reply(drive, unit, &reply);
            }
            command::SET_FEATURES => self.set_features(drive, unit),
            command::SET_MULTIPLE => {
                let count = state.count[0];
                if count > identify::MULTIPLE_MAX || !(count == 0 || count.is_power_of_two()) {
                    return self.abort(drive, error::ABRT);
                }
                state.multiple = count;
                self.complete(drive);
            }
            command::INITIALIZE_PARAMETERS => {
                if state.count[0] == 0 {
                    return self.abort(drive, error::ABRT);
                }
                (state.heads, state.sectors) = ((self.device & 0x0f) + 1, state.count[0]);
                self.complete(drive);
            }
            command::READ_NATIVE_MAX => {
                let last = unit.sectors().saturating_sub(1).min(LBA28_MAX - 1);
                state.set_address(last, false, &mut self.device);
                self.complete(drive);
            }
            command::READ_NATIVE_MAX_EXT => {
                state.set_address(unit.sectors().saturating_sub(1), true, &mut self.device);
                self.complete(drive);
            }
            command::FLUSH_CACHE | command::FLUSH_CACHE_EXT => self.start_flush(drive),
            // Active or idle. 0x98 and its neighbours are the older codes of the power management commands.
            command::CHECK_POWER_MODE | 0x98 => {
                state.count[0] = 0xff;
                self.complete(drive);
            }
            command::SMART => self.smart(drive, unit),
            command::SEEK..=0x7f => match state.address(self.device, false, unit) {
                Some(sector) if sector < unit.sectors() => self.complete(drive),
                _ => self.abort(drive, error::IDNF),
            },
            command::RECALIBRATE..=0x1f
            | command::STANDBY_IMMEDIATE..=command::IDLE
            | command::SLEEP
            | 0x94..=0x97
            | 0x99 => self.complete(drive),
            _ => self.abort(drive, error::ABRT),
        }
    }

    fn set_features(&mut self, drive: usize, unit: &Unit<'_>) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        match state.features[0] {
            feature::WRITE_CACHE_ON => state.write_cache = 1,
            feature::WRITE_CACHE_OFF => {
                state.write_cache = 0;
                // What is in the cache goes to the medium first (8.46).
                if unit.block.medium().write_cache {
                    return self.start_flush(drive);
                }
            }
            feature::TRANSFER_MODE => {
                if !state.set_mode() {
                    return self.abort(drive, error::ABRT);
                }
            }
            feature::LOOK_AHEAD_OFF
            | feature::LOOK_AHEAD_ON
            | feature::KEEP_ON_RESET
            | feature::REVERT_ON_RESET => {}
            _ => return self.abort(drive, error::ABRT),
        }
        self.complete(drive);
    }

    fn smart(&mut self, drive: usize, unit: &Unit<'_>) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        let [low, mid, high] = state.lba;
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
            smart::READ_LOG => match identify::smart_log(low[0]) {
                Some(log) if state.count[0] == 1 => return self.pio_reply(drive, unit, &log),
                _ => return self.abort(drive, error::ABRT),
            },
            _ => return self.abort(drive, error::ABRT),
        }
        self.complete(drive);
    }

    fn verify(&mut self, drive: usize, unit: &Unit<'_>, ext: bool) {
        let Some(state) = self.drives.get(drive) else { return };
        match state.range(self.device, ext, unit) {
            Some(_) => self.complete(drive),
            None => self.abort(drive, error::IDNF),
        }
    }

    /// Begins a read or write of sectors.
    fn start_transfer(&mut self, drive: usize, unit: &Unit<'_>, transfer: Transfer) {
        let Transfer { ext, write, dma, multiple, fua } = transfer;
        let Some(state) = self.drives.get_mut(drive) else { return };
        if multiple && state.multiple == 0 || write && unit.block.medium().read_only {
            return self.abort(drive, error::ABRT);
        }
        let Some((first, count)) = state.range(self.device, ext, unit) else {
            return self.abort(drive, error::IDNF);
        };
        state.offset = first * SECTOR;
        state.left = count * SECTOR;
        state.limit = if multiple { u16::from(state.multiple) * SECTOR as u16 } else { SECTOR as u16 };
        state.dma = u8::from(dma);
        // A back end without a cache reports a write when it is durable.
        let cached = unit.block.medium().write_cache;
        state.durable = u8::from(write && cached && (fua || state.write_cache == 0));
        if !write {
            self.start_fetch(drive);
        } else if dma {
            state.phase = phase::PULL;
        } else {
            // The first block of a PIO write is not announced.
            state.announce = 0;
            self.ask_for_data(drive, unit);
        }
    }

    fn start_flush(&mut self, drive: usize) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        state.phase = phase::FLUSH;
        state.status = status::BSY;
        state.next = state.head.wrapping_add(1);
    }

    /// Goes on with whatever waits for the back end, the bus master or a buffer. Does nothing when nothing came.
    pub(crate) fn advance(&mut self, drive: usize, unit: &Unit<'_>, env: &mut Env<'_>) {
        let Some(state) = self.drives.get(drive) else { return };
        match state.phase {
            phase::FETCH => self.fetch(drive, unit, env),
            phase::WAIT_BUFFER => self.ask_for_data(drive, unit),
            phase::STORE => self.stored(drive, unit, env),
            phase::PULL => self.pull(drive, unit, env),
            phase::FLUSH => match state.outcome(unit) {
                None => {}
                Some(BlockStatus::Ok | BlockStatus::ReadOnly | BlockStatus::NoMedium) => self.complete(drive),
                Some(_) => self.abort(drive, error::ABRT),
            },
            phase::REPLY_DMA => self.reply_dma(drive, unit, env),
            _ => {}
        }
    }

    /// Ends a transfer with an error at the request that failed. A command with a 28-bit or CHS address is one request, whose
    /// first sector the registers hold already.
    fn failed(&mut self, drive: usize, error: u8) {
        if let Some(state) = self.drives.get_mut(drive)
            && Transfer::of(state.command).is_some_and(|transfer| transfer.ext)
        {
            state.set_address(state.offset / SECTOR, true, &mut self.device);
        }
        self.abort(drive, error);
    }

    // ---- Data in --------------------------------------------------------------------------------------------------

    /// Begins to read `left` bytes at `offset`.
    pub(crate) fn start_fetch(&mut self, drive: usize) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        state.extend();
        state.phase = phase::FETCH;
        state.status = status::BSY;
    }

    /// Takes finished chunks: by DMA, or one to be read by the host.
    fn fetch(&mut self, drive: usize, unit: &Unit<'_>, env: &mut Env<'_>) {
        loop {
            let Some(state) = self.drives.get_mut(drive).filter(|state| state.phase == phase::FETCH) else {
                return;
            };
            match state.outcome(unit) {
                None => return,
                Some(BlockStatus::Ok) => {}
                Some(_) if unit.is_disk() => return self.failed(drive, error::UNC),
                Some(outcome) => return self.packet_failed(drive, outcome),
            }
            let length = state.chunk(0) as usize;
            if state.dma == 0 {
                (state.filled, state.moved) = (length as u32, 0);
                return self.offer_block(drive, unit);
            }
            if !self.dma_buffer(drive, unit, length, true, env) {
                return;
            }
            let Some(state) = self.drives.get_mut(drive) else { return };
            state.consume();
            if state.left == 0 {
                return self.dma_ended(drive, unit);
            }
            state.extend();
            state.status = status::BSY;
        }
    }

    /// Moves the rest of a buffer of `length` bytes by bus master. False when the bus master has to be started, again or with more
    /// descriptors; the drive asks for data meanwhile.
    pub(crate) fn dma_buffer(
        &mut self,
        drive: usize,
        unit: &Unit<'_>,
        length: usize,
        to_memory: bool,
        env: &mut Env<'_>,
    ) -> bool {
        let Some(state) = self.drives.get_mut(drive) else { return false };
        state.status = status::DRDY | status::DSC | status::DRQ;
        let buffer = if to_memory { state.buffer() } else { slot(state.next) };
        let from = (state.moved as usize).min(length);
        if from < length && !self.bm_ready(to_memory) {
            return false;
        }
        let moved = self.bm_move(unit.block, buffer, from, length, env);
        let Some(state) = self.drives.get_mut(drive) else { return false };
        state.moved = (from + moved) as u32;
        from + moved >= length
    }

    /// The last byte of a DMA command has moved.
    pub(crate) fn dma_ended(&mut self, drive: usize, unit: &Unit<'_>) {
        self.bm_finish();
        if unit.is_disk() { self.complete(drive) } else { self.good(drive) }
    }

    /// Puts a reply of the chip's own before the host.
    pub(crate) fn pio_reply(&mut self, drive: usize, unit: &Unit<'_>, reply: &[u8]) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        state.reply = 1;
        if !unit.block.write_data(state.buffer(), 0, reply) {
            return self.abort(drive, error::ABRT);
        }
        (state.moved, state.filled, state.block_end) = (0, reply.len() as u32, reply.len() as u32);
        state.phase = phase::DATA_IN;
        state.status = status::DRDY | status::DSC | status::DRQ;
        self.interrupt(drive);
    }

    /// Offers the next data-request block of the buffer.
    pub(crate) fn offer_block(&mut self, drive: usize, unit: &Unit<'_>) {
        if !unit.is_disk() {
            return self.packet_block(drive);
        }
        let Some(state) = self.drives.get_mut(drive) else { return };
        state.block_end = state.moved.saturating_add(u32::from(state.limit).max(1)).min(state.filled);
        state.phase = phase::DATA_IN;
        state.status = status::DRDY | status::DSC | status::DRQ;
        self.interrupt(drive);
    }

    /// The host reads the data port; how many bytes it got.
    pub(crate) fn data_in(
        &mut self,
        drive: usize,
        unit: &Unit<'_>,
        to: &mut [u8],
        env: &mut Env<'_>,
    ) -> usize {
        let mut got = 0;
        while let Some(rest) = to.get_mut(got..).filter(|rest| !rest.is_empty()) {
            let Some(state) = self.drives.get_mut(drive) else { break };
            if state.phase != phase::DATA_IN {
                break;
            }
            let length = rest.len().min(state.block_end.saturating_sub(state.moved) as usize);
            let Some(part) = rest.get_mut(..length) else { break };
            if !unit.block.read_data(state.buffer(), state.moved as usize, part) {
                break;
            }
            state.moved = state.moved.saturating_add(length as u32);
            got += length;
            if state.moved < state.block_end {
                continue;
            }
            if state.moved < state.filled {
                self.offer_block(drive, unit);
                continue;
            }
            if state.reply == 0 {
                state.consume();
            }
            if state.left > 0 {
                self.start_fetch(drive);
                self.fetch(drive, unit, env);
            } else if unit.is_disk() || state.command != command::PACKET {
                // The end of a data-in command is not announced by another interrupt.
                state.abandon();
                state.phase = phase::IDLE;
                state.status = status::DRDY | status::DSC;
            } else {
                self.good(drive);
            }
        }
        got
    }

    // ---- Data out -------------------------------------------------------------------------------------------------

    /// Asks the host for the next data-request block of a PIO write.
    fn ask_for_data(&mut self, drive: usize, unit: &Unit<'_>) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        if state.moved == 0 {
            if !state.is_clear(unit, state.head) {
                state.phase = phase::WAIT_BUFFER;
                state.status = status::BSY;
                return;
            }
            state.filled = state.chunk(0) as u32;
        }
        state.block_end = state.moved.saturating_add(u32::from(state.limit).max(1)).min(state.filled);
        state.phase = phase::DATA_OUT;
        state.status = status::DRDY | status::DSC | status::DRQ;
        if state.announce != 0 {
            self.interrupt(drive);
        }
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
            if state.phase != phase::DATA_OUT {
                break;
            }
            let length = rest.len().min(state.block_end.saturating_sub(state.moved) as usize);
            let Some(part) = rest.get(..length) else { break };
            if !unit.block.write_data(state.buffer(), state.moved as usize, part) {
                break;
            }
            state.moved = state.moved.saturating_add(length as u32);
            taken += length;
            if state.moved < state.block_end {
                continue;
            }
            state.announce = 1;
            if state.moved < state.filled {
                self.ask_for_data(drive, unit);
            } else {
                state.next = state.head.wrapping_add(1);
                state.phase = phase::STORE;
                state.status = status::BSY;
            }
        }
    }

    /// A chunk of a PIO write may be done.
    fn stored(&mut self, drive: usize, unit: &Unit<'_>, env: &Env<'_>) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        match state.outcome(unit) {
            None => {}
            Some(BlockStatus::Ok) => {
                if unit.config.slow_writes && state.is_held_back(env.now) {
                    return;
                }
                state.consume();
                if state.left > 0 { self.ask_for_data(drive, unit) } else { self.write_ended(drive) }
            }
            Some(_) => self.failed(drive, error::ABRT),
        }
    }

    /// Takes up what the back end has written, then moves chunks from memory to it while there is room.
    fn pull(&mut self, drive: usize, unit: &Unit<'_>, env: &mut Env<'_>) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        for _ in 0..WINDOW {
            match state.outcome(unit) {
                None => break,
                Some(BlockStatus::Ok) => {
                    // The partly filled chunk is another one than the one done.
                    let moved = state.moved;
                    state.consume();
                    state.moved = moved;
                }
                Some(_) => return self.failed(drive, error::ABRT),
            }
        }
        loop {
            let Some(state) = self.drives.get_mut(drive) else { return };
            if state.left == 0 {
                self.bm_finish();
                return self.write_ended(drive);
            }
            let length = state.chunk(state.flying()) as usize;
            if length == 0 || state.flying() >= WINDOW || !state.is_clear(unit, state.next) {
                state.status = status::BSY;
                return;
            }
            if !self.dma_buffer(drive, unit, length, false, env) {
                return;
            }
            let Some(state) = self.drives.get_mut(drive) else { return };
            state.moved = 0;
            state.next = state.next.wrapping_add(1);
            // At once: a back end that is awake writes while the next chunk is being moved. One that sleeps is woken when the
            // access is over.
            self.pump(drive, unit);
        }
    }

    /// Every sector of a write is with the back end.
    fn write_ended(&mut self, drive: usize) {
        match self.drives.get(drive) {
            Some(state) if state.durable != 0 => self.start_flush(drive),
            _ => self.complete(drive),
        }
    }
}
