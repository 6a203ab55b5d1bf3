//! The CD-ROM: packet commands and their data phases.

use bulkhead_bus::chip::Env;
use bulkhead_bus::links::{BlockStatus, Medium};

use crate::Unit;
use crate::identify;
use crate::spec::{command, error, packet, reason, sense, status};
use crate::state::{Channel, Drive, phase};

/// Bytes of a CD-ROM sector's user data.
const CD_SECTOR: u64 = 2048;
/// Largest disc that is a CD: 80 minutes of 75 sectors a second. Larger ones are DVDs.
const CD_LARGEST: u64 = 80 * 60 * 75 * CD_SECTOR;

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

    /// What is in the drive: with the tray open, nothing.
    fn loaded(&self, state: &Drive) -> Medium {
        let medium = self.block.medium();
        Medium { present: medium.present && state.open == 0, ..medium }
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
                (state.changed, state.event, state.open) = (1, 1, 0);
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
                state.phase = phase::PACKET;
                state.count[0] = reason::CD;
                state.status = status::DRDY | status::DSC | status::DRQ;
            }
            command::IDENTIFY_PACKET => {
                let reply = identify::cdrom(unit, self.drives.get(drive));
                self.pio_reply(drive, unit, &reply);
            }
            // A packet device refuses these with its signature in the registers (ATA/ATAPI-6, 8.15.5 and 8.34.5).
            command::IDENTIFY | command::READ_SECTORS => {
                state.reset(false);
                self.abort(drive, error::ABRT);
            }
            command::DEVICE_RESET => state.reset(false),
            command::SET_FEATURES => {
                if state.features[0] == 0x03 && state.set_mode() {
                    self.complete(drive);
                } else {
                    self.abort(drive, error::ABRT);
                }
            }
            command::CHECK_POWER_MODE => {
                state.count[0] = 0xff;
                self.complete(drive);
            }
            command::FLUSH_CACHE | command::STANDBY_IMMEDIATE..=command::IDLE | command::SLEEP => {
                self.complete(drive);
            }
            _ => self.abort(drive, error::ABRT),
        }
    }

    /// The host sends bytes of a command packet; how many were taken. `moved` counts them.
    pub(crate) fn packet_bytes(
        &mut self,
        drive: usize,
        unit: &Unit<'_>,
        from: &[u8],
        env: &mut Env<'_>,
    ) -> usize {
        let Some(state) = self.drives.get_mut(drive) else { return from.len() };
        let at = (state.moved as usize).min(state.packet.len());
        let to = state.packet.get_mut(at..).unwrap_or_default();
        let taken = to.len().min(from.len());
        to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        state.moved = (at + taken) as u32;
        if at + taken == state.packet.len() {
            state.moved = 0;
            self.packet_command(drive, unit, env);
        }
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
    pub(crate) fn good(&mut self, drive: usize) {
        if let Some(state) = self.drives.get_mut(drive) {
            state.sense = [0; 3];
            state.count[0] = reason::IO | reason::CD;
        }
        self.complete(drive);
    }

    /// The back end could not read.
    pub(crate) fn packet_failed(&mut self, drive: usize, outcome: BlockStatus) {
        let none = outcome == BlockStatus::NoMedium;
        self.check(drive, if none { sense::NO_MEDIUM } else { sense::READ_ERROR });
    }

    fn packet_command(&mut self, drive: usize, unit: &Unit<'_>, env: &mut Env<'_>) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        let packet = state.packet;
        let code = packet[0];
        let present = unit.loaded(state).present;
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
            let open = state.open != 0;
            return self.check(drive, if open { sense::TRAY_OPEN } else { sense::NO_MEDIUM });
        }
        match code {
            packet::TEST_UNIT_READY | packet::SET_CD_SPEED => self.good(drive),
            packet::PREVENT_ALLOW => {
                state.locked = packet[4] & 1;
                self.good(drive);
            }
            packet::START_STOP_UNIT => self.start_stop(drive),
            packet::SEEK_10 => {
                if u64::from(be32(&packet, 2)) >= unit.cd_sectors() {
                    return self.check(drive, sense::OUT_OF_RANGE);
                }
                self.good(drive);
            }
            packet::REQUEST_SENSE => {
                let mut reply = [0u8; 18];
                // With nothing else to say, a change is reported here (SPC-2, 7.20).
                if state.sense == [0; 3] && state.changed != 0 && present {
                    state.changed = 0;
                    state.sense = sense::MEDIUM_CHANGED.into();
                }
                let [key, asc, ascq] = state.sense;
                (reply[0], reply[2], reply[7], reply[12], reply[13]) = (0xf0, key, 10, asc, ascq);
                state.sense = [0; 3];
                self.reply(drive, unit, &reply, usize::from(packet[4]), env);
            }
            // Vital product data are not offered.
            packet::INQUIRY if packet[1] & 1 != 0 => self.check(drive, sense::INVALID_FIELD),
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
                    0 => self.good(drive),
                    0x10 => self.read(drive, unit, be32(&packet, 2), count),
                    _ => self.check(drive, sense::INVALID_FIELD),
                }
            }
            packet::READ_TOC => match toc(unit, &packet) {
                Some(reply) => self.reply(drive, unit, &reply, usize::from(be16(&packet, 7)), env),
                None => self.check(drive, sense::INVALID_FIELD),
            },
            packet::GET_CONFIGURATION => {
                let reply = configuration(unit.loaded(state), packet[1] & 3, be16(&packet, 2));
                self.reply(drive, unit, &reply, usize::from(be16(&packet, 7)), env);
            }
            packet::GET_EVENT_STATUS => {
                if packet[1] & 1 == 0 {
                    return self.check(drive, sense::INVALID_FIELD);
                }
                // Media class: new media, present.
                let asked = packet[4] & 0x10 != 0;
                let event = u8::from(state.event != 0 && present) << 1;
                if asked {
                    state.event = 0;
                }
                let shown = u8::from(state.open != 0) | u8::from(present) << 1;
                let reply = [0, 6, 0x04, 0x10, event, shown, 0, 0];
                let reply = if asked { &reply[..] } else { &[0, 2, 0x80, 0x10] };
                self.reply(drive, unit, reply, usize::from(be16(&packet, 7)), env);
            }
            packet::MECHANISM_STATUS => {
                let door = u8::from(state.open != 0) << 4;
                self.reply(drive, unit, &[0, door, 0, 0, 0, 1, 0, 0], usize::from(be16(&packet, 8)), env);
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
        let medium = match unit.loaded(state) {
            _ if state.open != 0 => 0x71,
            Medium { present: true, .. } => 0x01,
            _ => 0x70,
        };
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
            return self.good(drive);
        }
        state.reply = 1;
        if !unit.block.write_data(state.buffer(), 0, data) {
            return self.check(drive, sense::INVALID_FIELD);
        }
        (state.filled, state.moved, state.block_end) = (data.len() as u32, 0, 0);
        if state.dma == 0 {
            return self.packet_block(drive);
        }
        state.phase = phase::REPLY_DMA;
        self.reply_dma(drive, unit, env);
    }

    /// Moves a reply by bus master.
    pub(crate) fn reply_dma(&mut self, drive: usize, unit: &Unit<'_>, env: &mut Env<'_>) {
        let Some(state) = self.drives.get(drive) else { return };
        if self.dma_buffer(drive, unit, state.filled as usize, true, env) {
            self.dma_ended(drive, unit);
        }
    }

    /// START STOP UNIT (MMC-3, 5.42): the tray. Starting and stopping need no motor. An ejected disc comes back when it is
    /// loaded, when the back end gets another one, or with the power.
    fn start_stop(&mut self, drive: usize) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        match state.packet[4] & 3 {
            2 if state.locked != 0 => return self.check(drive, sense::MEDIUM_LOCKED),
            2 => state.open = 1,
            3 if state.open != 0 => (state.open, state.changed, state.event) = (0, 1, 1),
            _ => {}
        }
        self.good(drive);
    }

    /// Reads sectors.
    fn read(&mut self, drive: usize, unit: &Unit<'_>, sector: u32, count: u32) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        if count == 0 {
            return self.good(drive);
        }
        if u64::from(sector) + u64::from(count) > unit.cd_sectors() {
            return self.check(drive, sense::OUT_OF_RANGE);
        }
        state.offset = u64::from(sector) * CD_SECTOR;
        state.left = u64::from(count) * CD_SECTOR;
        self.start_fetch(drive);
    }

    /// Offers the next PIO block of the buffer, at most the byte-count limit.
    pub(crate) fn packet_block(&mut self, drive: usize) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        let rest = state.filled.saturating_sub(state.moved);
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
        state.phase = phase::DATA_IN;
        state.status = status::DRDY | status::DSC | status::DRQ;
        self.interrupt(drive);
    }
}

/// Standard INQUIRY data of a CD-ROM (SPC-2, 7.3.2). The vendor is the first word of the model.
fn inquiry(unit: &Unit<'_>) -> [u8; 36] {
    let mut reply = [b' '; 36];
    let mut put = |at: usize, text: &[u8]| {
        reply.iter_mut().skip(at).zip(text).for_each(|(to, byte)| *to = *byte);
    };
    let ascii = |text: &str, most: usize| text.bytes().filter(u8::is_ascii).take(most).collect::<Vec<u8>>();
    put(0, &[0x05, 0x80, 0x00, 0x21, 31, 0, 0, 0]);
    put(8, &ascii(unit.config.model.split(' ').next().unwrap_or_default(), 8));
    put(16, &ascii(&unit.config.model, 16));
    put(32, &ascii(&unit.config.firmware, 4));
    reply
}

/// READ TOC/PMA/ATIP (MMC-3, 5.23) of a disc with one data track: formats 0 (TOC), 1 (sessions), 2 (raw TOC).
fn toc(unit: &Unit<'_>, packet: &[u8; 12]) -> Option<Vec<u8>> {
    let format = if packet[2] & 0x0f != 0 { packet[2] & 0x0f } else { packet[9] >> 6 };
    let in_time = packet[1] & 2 != 0;
    let start = packet[6];
    let address = |sector: u32| if in_time { msf(sector) } else { sector.to_be_bytes() };
    let end = unit.cd_sectors().min(u64::from(u32::MAX)) as u32;
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
            reply.extend(address(end));
        }
        1 => {
            reply.extend([0, 0x14, 1, 0]);
            reply.extend(address(0));
        }
        2 => {
            // First track, last track, lead-out, then the track: session, ADR and control, TNO, point, time, PMIN..PFRAME.
            let [_, minute, second, frame] = msf(end);
            let points =
                [(0xa0, [1, 0, 0]), (0xa1, [1, 0, 0]), (0xa2, [minute, second, frame]), (1, [0, 2, 0])];
            for (point, time) in points {
                reply.extend([1, 0x14, 0, point, 0, 0, 0, 0]);
                reply.extend(time);
            }
        }
        _ => return None,
    }
    let length = (reply.len() as u16 - 2).to_be_bytes();
    reply.splice(..2, length);
    Some(reply)
}

/// GET CONFIGURATION (MMC-3, 5.6): profiles CD-ROM and DVD-ROM, core and removable-medium features. `select` is the RT field: all
/// features from `first` on, only the current ones, or `first` alone.
fn configuration(medium: Medium, select: u8, first: u16) -> Vec<u8> {
    let profile: u16 = match medium {
        Medium { present: false, .. } => 0,
        Medium { bytes, .. } if bytes > CD_LARGEST => 0x10,
        _ => 0x08,
    };
    let (dvd, cd) = (u8::from(profile == 0x10), u8::from(profile == 0x08));
    // Feature number, version with the persistent and current bits, data.
    let features: [(u16, u8, &[u8]); 6] = [
        (0x0000, 0x03, &[0x00, 0x10, dvd, 0, 0x00, 0x08, cd, 0]),
        // Core: ATAPI interface.
        (0x0001, 0x03, &[0, 0, 0, 2, 1, 0, 0, 0]),
        // Removable medium: tray, eject, lock.
        (0x0003, 0x03, &[0x29, 0, 0, 0]),
        // Random readable: blocks of 2048 bytes, one by one.
        (0x0010, u8::from(medium.present), &[0, 0, 8, 0, 0, 1, 0, 0]),
        // CD read.
        (0x001e, cd, &[0, 0, 0, 0]),
        // DVD read.
        (0x001f, dvd, &[]),
    ];
    let mut reply = vec![0, 0, 0, 0, 0, 0];
    reply.extend(profile.to_be_bytes());
    for (number, flags, data) in features {
        let wanted = match select {
            2 => number == first,
            1 => number >= first && flags & 1 != 0,
            _ => number >= first,
        };
        if wanted {
            reply.extend(number.to_be_bytes());
            reply.extend([flags, data.len() as u8]);
            reply.extend(data);
        }
    }
    let length = (reply.len() as u32 - 4).to_be_bytes();
    reply.splice(..4, length);
    reply
}
