//! The CD-ROM: packet commands and their data phases.

use bulkhead_bus::chip::Env;
use bulkhead_bus::links::{BLOCK_DATA, BlockOp, BlockStatus};

use crate::busmaster::Moved;
use crate::identify;
use crate::spec::{command, error, packet, reason, sense, status};
use crate::state::{Channel, phase};
use crate::{Piix3Ide, Unit};

/// Bytes of a CD-ROM sector's user data.
const CD_SECTOR: u64 = 2048;
/// Most bytes of one data-in chunk: whole sectors.
const CHUNK: u64 = BLOCK_DATA as u64 / CD_SECTOR * CD_SECTOR;

fn be16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |pair| u16::from_be_bytes([pair[0], pair[1]]))
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from(be16(bytes, at)) << 16 | u32::from(be16(bytes, at + 2))
}

/// Minute, second, frame of a sector (MMC-3, 4.2.3: 150 frames of lead-in).
fn msf(sector: u32) -> [u8; 4] {
    let frames = sector.saturating_add(150);
    [0, (frames / 4500).min(255) as u8, (frames / 75 % 60) as u8, (frames % 75) as u8]
}

impl Unit<'_> {
    /// Sectors of the disc.
    fn cd_sectors(&self) -> u64 {
        self.block.medium().bytes / CD_SECTOR
    }
}

impl Channel {
    /// Notices a changed medium.
    pub(crate) fn medium_event(&mut self, drive: usize, unit: &Unit<'_>) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        let generation = unit.block.medium().generation;
        if state.generation != generation {
            state.generation = generation;
            if !unit.is_disk() {
                state.changed = 1;
            }
        }
    }

    /// ATA commands of a packet device.
    pub(crate) fn execute_packet_device(&mut self, drive: usize, code: u8, unit: &Unit<'_>) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        match code {
            command::PACKET => {
                state.dma = state.features[0] & 1;
                state.limit = u16::from_le_bytes([state.lba[1][0], state.lba[2][0]]);
                state.packet = [0; 12];
                (state.moved, state.filled, state.block_end) = (0, 0, 0);
                state.phase = phase::PACKET;
                state.count[0] = reason::CD;
                state.status = status::DRDY | status::DSC | status::DRQ;
            }
            command::IDENTIFY_PACKET => {
                let reply = identify::cdrom(unit, self.drives.get(drive));
                self.pio_reply(drive, unit, &reply);
            }
            // A packet device refuses these with its signature in the registers (ATA/ATAPI-6, 8.16.5).
            command::IDENTIFY | command::READ_SECTORS => {
                Piix3Ide::signature(state, false);
                self.abort(drive, error::ABRT);
            }
            command::DEVICE_RESET => {
                if unit.block.poll(state.slot()) == Some(None) {
                    state.slot = ((state.slot() + 1) % bulkhead_bus::links::BLOCK_SLOTS) as u8;
                }
                Piix3Ide::signature(state, false);
            }
            command::SET_FEATURES => {
                if state.features[0] == 0x03 {
                    state.mode = state.count[0];
                }
                self.complete(drive, unit);
            }
            command::FLUSH_CACHE
            | command::CHECK_POWER_MODE
            | command::STANDBY_IMMEDIATE..=command::IDLE
            | command::SLEEP => self.complete(drive, unit),
            _ => self.abort(drive, error::ABRT),
        }
    }

    /// The host sends bytes of a command packet; how many were taken.
    pub(crate) fn packet_bytes(
        &mut self,
        drive: usize,
        unit: &Unit<'_>,
        from: &[u8],
        env: &mut Env<'_>,
    ) -> usize {
        let Some(state) = self.drives.get_mut(drive) else { return from.len() };
        let at = (state.moved as usize).min(12);
        let taken = from.len().min(12 - at);
        if let (Some(to), Some(from)) = (state.packet.get_mut(at..at + taken), from.get(..taken)) {
            to.copy_from_slice(from);
        }
        if at + taken < 12 {
            // The count is kept in `moved`, which a restart checks against `block_end`.
            (state.moved, state.filled, state.block_end) = ((at + taken) as u32, 12, 12);
            return taken;
        }
        (state.moved, state.filled, state.block_end) = (0, 0, 0);
        self.packet_command(drive, unit, env);
        taken.max(1)
    }

    /// Ends a packet command with sense data.
    fn check(&mut self, drive: usize, code: (u8, u8, u8)) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        state.sense = [code.0, code.1, code.2];
        state.count[0] = reason::IO | reason::CD;
        self.abort(drive, code.0 << 4 | error::ABRT);
    }

    /// Ends a packet command well.
    fn good(&mut self, drive: usize, unit: &Unit<'_>) {
        if let Some(state) = self.drives.get_mut(drive) {
            state.sense = [0; 3];
        }
        self.complete(drive, unit);
    }

    fn packet_command(&mut self, drive: usize, unit: &Unit<'_>, env: &mut Env<'_>) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        let packet = state.packet;
        let code = packet[0];
        let present = unit.block.medium().present;
        // A change is reported once, but never to the commands that ask about it (SPC-2, 5.6.2).
        let quiet = matches!(
            code,
            packet::INQUIRY | packet::REQUEST_SENSE | packet::GET_CONFIGURATION | packet::GET_EVENT_STATUS
        );
        if state.changed != 0 && !quiet {
            state.changed = 0;
            if present {
                return self.check(drive, sense::MEDIUM_CHANGED);
            }
        }
        let needs_medium = matches!(
            code,
            packet::TEST_UNIT_READY
                | packet::READ_CAPACITY
                | packet::READ_10
                | packet::READ_12
                | packet::READ_CD
                | packet::READ_TOC
                | packet::SEEK_10
                | packet::READ_DISC_INFORMATION
        );
        if needs_medium && !present {
            return self.check(drive, sense::NO_MEDIUM);
        }
        match code {
            packet::TEST_UNIT_READY | packet::SET_CD_SPEED => self.good(drive, unit),
            packet::PREVENT_ALLOW => {
                state.locked = packet[4] & 1;
                self.good(drive, unit);
            }
            // Loading and ejecting are the monitor's; start and stop need no motor.
            packet::START_STOP_UNIT => self.good(drive, unit),
            packet::SEEK_10 => {
                if u64::from(be32(&packet, 2)) >= unit.cd_sectors() {
                    return self.check(drive, sense::OUT_OF_RANGE);
                }
                self.good(drive, unit);
            }
            packet::REQUEST_SENSE => {
                let mut reply = [0u8; 18];
                let [key, asc, ascq] = state.sense;
                (reply[0], reply[2], reply[7], reply[12], reply[13]) = (0xf0, key, 10, asc, ascq);
                state.sense = [0; 3];
                self.reply(drive, unit, &reply, usize::from(packet[4]), env);
            }
            packet::INQUIRY => self.reply(drive, unit, &inquiry(unit), usize::from(packet[4]), env),
            packet::MODE_SENSE_6 => self.mode_sense(drive, unit, false, env),
            packet::MODE_SENSE_10 => self.mode_sense(drive, unit, true, env),
            packet::READ_CAPACITY => {
                let last = unit.cd_sectors().saturating_sub(1).min(u64::from(u32::MAX)) as u32;
                let mut reply = [0u8; 8];
                reply[..4].copy_from_slice(&last.to_be_bytes());
                reply[4..].copy_from_slice(&(CD_SECTOR as u32).to_be_bytes());
                self.reply(drive, unit, &reply, 8, env);
            }
            packet::READ_10 => {
                self.read(drive, unit, be32(&packet, 2), u32::from(be16(&packet, 7)));
            }
            packet::READ_12 => self.read(drive, unit, be32(&packet, 2), be32(&packet, 6)),
            packet::READ_CD => {
                let count = be32(&packet, 5) & 0x00ff_ffff;
                match packet[9] & 0xf8 {
                    0 => self.good(drive, unit),
                    0x10 => self.read(drive, unit, be32(&packet, 2), count),
                    _ => self.check(drive, sense::INVALID_FIELD),
                }
            }
            packet::READ_TOC => match toc(unit, &packet) {
                Some(reply) => self.reply(drive, unit, &reply, usize::from(be16(&packet, 7)), env),
                None => self.check(drive, sense::INVALID_FIELD),
            },
            packet::GET_CONFIGURATION => {
                let reply = configuration(unit);
                self.reply(drive, unit, &reply, usize::from(be16(&packet, 7)), env);
            }
            packet::GET_EVENT_STATUS => {
                if packet[1] & 1 == 0 {
                    return self.check(drive, sense::INVALID_FIELD);
                }
                // Media class: new media, present.
                let event = u8::from(state.changed != 0 && present) << 1;
                state.changed = 0;
                let reply = [0, 6, 0x04, 0x10, event, u8::from(present) << 1, 0, 0];
                let reply = if packet[4] & 0x10 != 0 { &reply[..] } else { &[0, 2, 0x80, 0x10] };
                self.reply(drive, unit, reply, usize::from(be16(&packet, 7)), env);
            }
            packet::MECHANISM_STATUS => {
                self.reply(drive, unit, &[0, 0, 0, 0, 0, 1, 0, 0], usize::from(be16(&packet, 8)), env);
            }
            packet::READ_DISC_INFORMATION => {
                let mut reply = [0u8; 34];
                (reply[1], reply[2], reply[3], reply[4], reply[5], reply[6]) = (32, 0x0e, 1, 1, 1, 1);
                reply[7] = 0x20;
                self.reply(drive, unit, &reply, usize::from(be16(&packet, 7)), env);
            }
            _ => self.check(drive, sense::INVALID_OPCODE),
        }
    }

    fn mode_sense(&mut self, drive: usize, unit: &Unit<'_>, long: bool, env: &mut Env<'_>) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        let packet = state.packet;
        if packet[2] >> 6 == 3 {
            return self.check(drive, sense::SAVING_NOT_SUPPORTED);
        }
        let wanted = packet[2] & 0x3f;
        let mut pages = Vec::new();
        if matches!(wanted, 0x01 | 0x3f) {
            pages.extend([0x01, 6, 0, 5, 0, 0, 0, 0]);
        }
        if matches!(wanted, 0x2a | 0x3f) {
            // CD capabilities: reads CD-R(W) and mode 2 sessions, locks, tray; 706 kB/s, 512 KiB buffer.
            let lock = 0x29 | state.locked << 1;
            pages.extend([0x2a, 18, 0x3b, 0, 0x70, 0x60, lock, 0, 2, 0xc2, 0, 2, 2, 0, 2, 0xc2, 0, 0, 0, 0]);
        }
        if pages.is_empty() {
            return self.check(drive, sense::INVALID_FIELD);
        }
        let medium = if unit.block.medium().present { 0x01 } else { 0x70 };
        let (mut reply, limit) = if long {
            let length = (pages.len() as u16 + 6).to_be_bytes();
            (vec![length[0], length[1], medium, 0, 0, 0, 0, 0], usize::from(be16(&packet, 7)))
        } else {
            (vec![pages.len() as u8 + 3, medium, 0, 0], usize::from(packet[4]))
        };
        reply.extend(pages);
        self.reply(drive, unit, &reply, limit, env);
    }

    /// Sends a prepared reply of at most `limit` bytes.
    fn reply(&mut self, drive: usize, unit: &Unit<'_>, reply: &[u8], limit: usize, env: &mut Env<'_>) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        let data = reply.get(..limit.min(reply.len())).unwrap_or_default();
        if data.is_empty() {
            return self.good(drive, unit);
        }
        unit.block.release(state.slot());
        if !unit.block.write_data(state.slot(), 0, data) {
            return self.check(drive, sense::INVALID_FIELD);
        }
        (state.left, state.filled, state.moved, state.block_end) = (0, data.len() as u32, 0, 0);
        self.data_ready(drive, unit, env);
    }

    /// Reads sectors.
    fn read(&mut self, drive: usize, unit: &Unit<'_>, sector: u32, count: u32) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        if count == 0 {
            return self.good(drive, unit);
        }
        if u64::from(sector) + u64::from(count) > unit.cd_sectors() {
            return self.check(drive, sense::OUT_OF_RANGE);
        }
        state.offset = u64::from(sector) * CD_SECTOR;
        state.left = u64::from(count) * CD_SECTOR;
        (state.filled, state.moved, state.block_end) = (0, 0, 0);
        if state.dma != 0 && !self.bm_running() {
            if let Some(state) = self.drives.get_mut(drive) {
                state.phase = phase::DMA_WAIT;
                state.status = status::BSY;
            }
            return;
        }

        self.next_chunk(drive, unit);
    }

    fn next_chunk(&mut self, drive: usize, unit: &Unit<'_>) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        unit.block.release(state.slot());
        let (offset, length) = (state.offset, state.left.min(CHUNK) as usize);
        if !self.submit(drive, unit, BlockOp::Read, offset, length, phase::PACKET_READ) {
            self.check(drive, sense::READ_ERROR);
        }
    }

    /// A chunk of sectors has come.
    pub(crate) fn packet_read_done(
        &mut self,
        drive: usize,
        unit: &Unit<'_>,
        outcome: BlockStatus,
        env: &mut Env<'_>,
    ) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        if outcome != BlockStatus::Ok {
            unit.block.release(state.slot());
            let code = if outcome == BlockStatus::NoMedium { sense::NO_MEDIUM } else { sense::READ_ERROR };
            return self.check(drive, code);
        }
        let length = state.left.min(CHUNK);
        state.left -= length;
        state.offset += length;
        (state.filled, state.moved, state.block_end) = (length as u32, 0, 0);
        self.data_ready(drive, unit, env);
    }

    /// The buffer holds data for the host: by DMA or the next PIO block.
    fn data_ready(&mut self, drive: usize, unit: &Unit<'_>, env: &mut Env<'_>) {
        let running = self.bm_running();
        let Some(state) = self.drives.get_mut(drive) else { return };
        if state.dma == 0 {
            return self.packet_block(drive);
        }
        if !running {
            state.phase = phase::DMA_WAIT;
            state.status = status::BSY;
            return;
        }
        let (slot, length) = (state.slot(), state.filled as usize);
        match self.bm_move(unit.block, slot, length, env) {
            Moved::All => self.packet_dma_moved(drive, unit),
            Moved::TableEnded | Moved::Fault => {
                unit.block.release(slot);
                self.check(drive, sense::READ_ERROR);
            }
        }
    }

    fn packet_dma_moved(&mut self, drive: usize, unit: &Unit<'_>) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        unit.block.release(state.slot());
        (state.filled, state.moved, state.block_end) = (0, 0, 0);
        if state.left > 0 {
            self.next_chunk(drive, unit);
        } else {
            self.bm_finish();
            self.good(drive, unit);
        }
    }

    /// Software started the bus master of a waiting packet command.
    pub(crate) fn packet_dma_start(&mut self, drive: usize, unit: &Unit<'_>, env: &mut Env<'_>) {
        let Some(state) = self.drives.get(drive) else { return };
        if state.filled > 0 {
            self.data_ready(drive, unit, env);
        } else {
            self.next_chunk(drive, unit);
        }
    }

    /// Offers the next PIO block of the buffer, at most the byte-count limit.
    fn packet_block(&mut self, drive: usize) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        let rest = state.filled - state.moved.min(state.filled);
        // A limit of 0 means the most; an odd limit shorter than the data is rounded down (ATA/ATAPI-6, 8.25.3).
        let limit = match state.limit {
            0 | 0xffff => 0xfffe,
            limit => u32::from(limit),
        };
        let length = if rest <= limit { rest } else { (limit & !1).max(2).min(rest) };
        state.block_end = state.moved + length;
        let [low, high] = (length as u16).to_le_bytes();
        (state.lba[1][0], state.lba[2][0]) = (low, high);
        state.count[0] = reason::IO;
        state.phase = phase::PACKET_IN;
        state.status = status::DRDY | status::DSC | status::DRQ;
        self.interrupt(drive);
    }

    /// The host took a whole block.
    pub(crate) fn packet_block_taken(&mut self, drive: usize, unit: &Unit<'_>) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        if state.moved < state.filled {
            self.packet_block(drive);
        } else if state.left > 0 {
            self.next_chunk(drive, unit);
        } else {
            unit.block.release(state.slot());
            self.good(drive, unit);
        }
    }
}

/// Standard INQUIRY data of a CD-ROM (SPC-2, 7.3.2).
fn inquiry(unit: &Unit<'_>) -> [u8; 36] {
    let mut reply = [b' '; 36];
    reply[..8].copy_from_slice(&[0x05, 0x80, 0x00, 0x21, 31, 0, 0, 0]);
    let put = |to: &mut [u8], text: &str| {
        to.iter_mut().zip(text.bytes()).for_each(|(to, byte)| *to = byte);
    };
    put(&mut reply[8..16], "BULKHEAD");
    put(&mut reply[16..32], unit.config.model.get(..16).unwrap_or(&unit.config.model));
    put(&mut reply[32..36], &unit.config.firmware);
    reply
}

/// READ TOC/PMA/ATIP formats 0 and 1 of a disc with one data track (MMC-3, 5.23).
fn toc(unit: &Unit<'_>, packet: &[u8; 12]) -> Option<Vec<u8>> {
    let format = if packet[2] & 0x0f != 0 { packet[2] & 0x0f } else { packet[9] >> 6 };
    let in_time = packet[1] & 2 != 0;
    let start = packet[6];
    let address = |sector: u32| if in_time { msf(sector) } else { sector.to_be_bytes() };
    let mut reply = vec![0, 0, 1, 1];
    match format {
        0 => {
            if start > 1 && start != 0xaa {
                return None;
            }
            if start <= 1 {
                reply.extend([0, 0x14, 1, 0]);
                reply.extend(address(0));
            }
            reply.extend([0, 0x16, 0xaa, 0]);
            reply.extend(address(unit.cd_sectors().min(u64::from(u32::MAX)) as u32));
        }
        1 => {
            reply.extend([0, 0x14, 1, 0]);
            reply.extend(address(0));
        }
        _ => return None,
    }
    let length = (reply.len() as u16 - 2).to_be_bytes();
    reply[..2].copy_from_slice(&length);
    Some(reply)
}

/// GET CONFIGURATION: profiles CD-ROM and DVD-ROM, core and removable-medium features (MMC-3, 5.6).
fn configuration(unit: &Unit<'_>) -> Vec<u8> {
    // Discs past the size of a CD are DVDs.
    let profile: u16 = match unit.block.medium() {
        medium if !medium.present => 0,
        medium if medium.bytes > 80 * 60 * 75 * CD_SECTOR => 0x10,
        _ => 0x08,
    };
    let mut reply = vec![0, 0, 0, 0, 0, 0];
    reply.extend(profile.to_be_bytes());
    reply.extend([0x00, 0x00, 0x03, 8]);
    reply.extend([0x00, 0x10, u8::from(profile == 0x10), 0]);
    reply.extend([0x00, 0x08, u8::from(profile == 0x08), 0]);
    // Core: ATAPI interface. Removable medium: tray, eject, lock.
    reply.extend([0x00, 0x01, 0x03, 8, 0, 0, 0, 2, 1, 0, 0, 0]);
    reply.extend([0x00, 0x03, 0x03, 4, 0x29, 0, 0, 0]);
    let length = (reply.len() as u32 - 4).to_be_bytes();
    reply[..4].copy_from_slice(&length);
    reply
}
