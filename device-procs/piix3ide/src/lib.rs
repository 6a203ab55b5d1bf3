//! The IDE function of the Intel 82371SB (PIIX3): two ATA channels with up to two drives each, hard disks and ATAPI CD-ROMs,
//! and the bus master.
//!
//! * Regions: 0 primary command block (0x1f0, 8 ports), 1 primary control (0x3f6), 2 and 3 the secondary's (0x170, 0x376), 4 bus
//!   master (BAR4, 16 ports). Lines: 0 primary (IRQ 14), 1 secondary (IRQ 15).
//! * PCI 8086:7010, its configuration space is the CPU process's.
//! * Restart class: checkpointed; back-end requests in flight are journaled in the block link.
//!
//! Data buffers are the block link's own: the slot in use of each drive holds the chunk being moved, so a sector is copied once.
//!
//! *Deviations from hardware*: no mechanical delays; a command that needs no data from the back end is done when its register
//! write returns. Timing registers change nothing.
//!
//! *Not emulated*: security, host protected area (beyond READ NATIVE MAX), READ/WRITE LONG, CFA, streaming, audio playing.
#![forbid(unsafe_code)]

mod ata;
mod atapi;
mod busmaster;
mod identify;
pub mod spec;
pub mod state;
#[cfg(test)]
mod tests;

use bulkhead_bus::chip::{
    Access, BusError, Chip, Class, Control, Description, Env, Outputs, Reg, Region, RestoreError, Rule,
};
use bulkhead_bus::config::{IdeConfig, IdeDriveConfig, IdeMedia};
use bulkhead_bus::links::{BLOCK_DATA, BLOCK_SLOTS, BlockClient, BlockOp, BlockStatus};

use spec::{control, device, reg, status};
use state::{Channel, Drive, Saved, phase};

/// Bytes of a disk sector.
const SECTOR: u64 = 512;

/// Alternate status reads have no effect, so the CPU may take them from the mirror.
const CONTROL_RULES: &[Rule] = &[Rule { start: 0, end: 1, read: Class::Mirror, write: Class::Sync }];
const REGIONS: &[Region] = &[
    Region { size: 8, rules: &[] },
    Region { size: 1, rules: CONTROL_RULES },
    Region { size: 8, rules: &[] },
    Region { size: 1, rules: CONTROL_RULES },
    Region { size: 16, rules: &[] },
];

/// Both channels of the function.
pub struct Piix3Ide {
    // Fixed configuration.
    drives: [Option<IdeDriveConfig>; 4],
    // Guest-visible state.
    saved: Saved,
}

/// One drive of a channel with its back end, for the length of a call.
pub(crate) struct Unit<'a> {
    /// Configuration.
    config: &'a IdeDriveConfig,
    /// Back end.
    block: &'a BlockClient,
}

impl Unit<'_> {
    fn is_disk(&self) -> bool {
        self.config.media == IdeMedia::Disk
    }

    /// Disk size in sectors.
    fn sectors(&self) -> u64 {
        self.block.medium().bytes.div_ceil(SECTOR)
    }
}

impl Piix3Ide {
    /// The function with these drives.
    pub fn new(config: IdeConfig) -> Piix3Ide {
        Piix3Ide { drives: config.drives, saved: Saved::default() }
    }

    fn unit<'a>(drives: &'a [Option<IdeDriveConfig>; 4], env: &Env<'a>, number: usize) -> Option<Unit<'a>> {
        let config = drives.get(number)?.as_ref()?;
        Some(Unit { config, block: env.blocks.get(usize::from(config.block))? })
    }

    /// Runs `act` on the selected drive of a channel, if there is one.
    fn selected<R>(
        &mut self,
        channel: usize,
        env: &mut Env<'_>,
        act: impl FnOnce(&mut Channel, usize, &Unit<'_>, &mut Env<'_>) -> R,
    ) -> Option<R> {
        let bus = self.saved.channels.get_mut(channel)?;
        let drive = usize::from(bus.device & device::DEV != 0);
        let unit = Self::unit(&self.drives, env, channel * 2 + drive)?;
        Some(act(bus, drive, &unit, env))
    }

    fn is_present(&self, channel: usize) -> bool {
        let base = channel * 2;
        self.drives.iter().skip(base).take(2).any(Option::is_some)
    }

    /// Puts the reset signature into a drive's registers (ATA/ATAPI-6, 9.12).
    fn signature(drive: &mut Drive, disk: bool) {
        let Drive { count, lba, error, status, phase, dma, .. } = drive;
        *count = [1, 0];
        *lba = if disk { [[1, 0], [0, 0], [0, 0]] } else { [[1, 0], [0x14, 0], [0xeb, 0]] };
        *error = 1;
        *status = if disk { status::DRDY | status::DSC } else { 0 };
        *phase = phase::IDLE;
        *dma = 0;
    }

    /// Waits out and forgets a back-end request of an aborted command.
    fn reset_channel(&mut self, channel: usize, power_on: bool, env: &mut Env<'_>) {
        for drive in 0..2 {
            let number = channel * 2 + drive;
            let Some(bus) = self.saved.channels.get_mut(channel) else { return };
            let Some(state) = bus.drives.get_mut(drive) else { return };
            match Self::unit(&self.drives, env, number) {
                Some(unit) => {
                    if unit.block.poll(state.slot()) == Some(None) {
                        // The back end still works on it: leave it the slot and go on in the next.
                        state.slot = ((state.slot() + 1) % BLOCK_SLOTS) as u8;
                    }
                    unit.block.release(state.slot());
                    if power_on {
                        *state = Drive {
                            sequence: state.sequence,
                            slot: state.slot,
                            generation: unit.block.medium().generation,
                            write_cache: 1,
                            smart: 1,
                            multiple: 16,
                            ..Drive::default()
                        };
                    }
                    Self::signature(state, unit.is_disk());
                }
                None => *state = Drive::default(),
            }
            bus.device = 0;
            bus.intrq = 0;
        }
    }

    fn read_command_block(&mut self, channel: usize, reg: Reg, env: &mut Env<'_>) -> Access {
        if reg.offset == reg::DATA {
            let mut data = [0u8; 8];
            let size = usize::from(reg.size.min(4));
            let Some(data_in) = data.get_mut(..size) else { return Err(BusError::Rejected) };
            let moved = self.selected(channel, env, |bus, drive, unit, _| bus.data_in(drive, unit, data_in));
            return match moved {
                Some(count) if count == size => Ok(u64::from_le_bytes(data)),
                _ => Ok(0),
            };
        }
        if reg.size != 1 {
            return Err(BusError::Unclaimed);
        }
        if !self.is_present(channel) {
            return Err(BusError::Unclaimed);
        }
        let Some(bus) = self.saved.channels.get_mut(channel) else { return Err(BusError::Unclaimed) };
        let number = usize::from(bus.device & device::DEV != 0);
        let exists = self.drives.get(channel * 2 + number).is_some_and(Option::is_some);
        let old = usize::from(bus.control & control::HOB != 0);
        let Some(drive) = bus.drives.get(number) else { return Err(BusError::Unclaimed) };
        let byte = |pair: &[u8; 2]| pair.get(old).copied().unwrap_or(0);
        let value = match reg.offset {
            // With one drive, an absent one reads as zeros (ATA/ATAPI-6, 9.16.1), but for the device register.
            reg::DEVICE => bus.device | device::OBSOLETE,
            _ if !exists => 0,
            reg::ERROR => drive.error,
            reg::COUNT => byte(&drive.count),
            reg::LBA_LOW => byte(&drive.lba[0]),
            reg::LBA_MID => byte(&drive.lba[1]),
            reg::LBA_HIGH => byte(&drive.lba[2]),
            reg::STATUS => {
                bus.intrq = 0;
                drive.status
            }
            _ => return Err(BusError::Unclaimed),
        };
        Ok(u64::from(value))
    }

    fn write_command_block(
        &mut self,
        channel: usize,
        reg: Reg,
        value: u64,
        env: &mut Env<'_>,
    ) -> Result<(), BusError> {
        if reg.offset == reg::DATA {
            let bytes = value.to_le_bytes();
            let data = bytes.get(..usize::from(reg.size.min(4))).unwrap_or_default();
            self.selected(channel, env, |bus, drive, unit, env| bus.data_out(drive, unit, data, env));
            return Ok(());
        }
        if reg.size != 1 {
            return Err(BusError::Unclaimed);
        }
        let byte = value as u8;
        let Some(bus) = self.saved.channels.get_mut(channel) else { return Err(BusError::Unclaimed) };
        bus.control &= !control::HOB;
        // Both drives take register writes; only the selected one acts on commands.
        let push = |pair: &mut [u8; 2]| *pair = [byte, pair[0]];
        match reg.offset {
            reg::ERROR => bus.drives.iter_mut().for_each(|drive| push(&mut drive.features)),
            reg::COUNT => bus.drives.iter_mut().for_each(|drive| push(&mut drive.count)),
            reg::LBA_LOW => bus.drives.iter_mut().for_each(|drive| push(&mut drive.lba[0])),
            reg::LBA_MID => bus.drives.iter_mut().for_each(|drive| push(&mut drive.lba[1])),
            reg::LBA_HIGH => bus.drives.iter_mut().for_each(|drive| push(&mut drive.lba[2])),
            reg::DEVICE => bus.device = byte & !device::OBSOLETE,
            reg::STATUS if byte == spec::command::DIAGNOSTIC => self.diagnostic(channel, env),
            reg::STATUS => {
                bus.intrq = 0;
                self.selected(channel, env, |bus, drive, unit, env| bus.execute(drive, byte, unit, env));
            }
            _ => return Err(BusError::Unclaimed),
        }
        Ok(())
    }

    /// EXECUTE DEVICE DIAGNOSTIC runs on both drives whichever is selected.
    fn diagnostic(&mut self, channel: usize, env: &mut Env<'_>) {
        self.reset_channel(channel, false, env);
        if self.is_present(channel)
            && let Some(bus) = self.saved.channels.get_mut(channel)
        {
            bus.intrq = 1;
        }
    }

    fn write_control(&mut self, channel: usize, byte: u8, env: &mut Env<'_>) {
        let Some(bus) = self.saved.channels.get_mut(channel) else { return };
        let before = bus.control;
        bus.control = byte & (control::NIEN | control::SRST | control::HOB);
        if byte & control::SRST != 0 && before & control::SRST == 0 {
            self.reset_channel(channel, false, env);
            if let Some(bus) = self.saved.channels.get_mut(channel) {
                bus.drives.iter_mut().for_each(|drive| drive.status = status::BSY);
            }
        } else if byte & control::SRST == 0 && before & control::SRST != 0 {
            self.reset_channel(channel, false, env);
        }
    }

    fn alternate_status(&self, channel: usize) -> u8 {
        let Some(bus) = self.saved.channels.get(channel) else { return 0xff };
        let number = usize::from(bus.device & device::DEV != 0);
        if !self.is_present(channel) {
            return 0xff;
        }
        match (self.drives.get(channel * 2 + number), bus.drives.get(number)) {
            (Some(Some(_)), Some(drive)) => drive.status,
            _ => 0,
        }
    }

    /// Splits a bus master offset into channel and register.
    fn bus_master(&mut self, offset: u64) -> Option<(&mut Channel, u64)> {
        let channel = usize::from(offset >= 8);
        Some((self.saved.channels.get_mut(channel)?, offset & 7))
    }
}

impl Chip for Piix3Ide {
    type State = Saved;
    const STATE_VERSION: u32 = state::VERSION;

    fn description(&self) -> Description {
        Description { part: "PIIX3 IDE", regions: REGIONS, lines: &["primary", "secondary"] }
    }

    fn reset(&mut self, env: &mut Env<'_>) {
        for channel in 0..2 {
            if let Some(bus) = self.saved.channels.get_mut(channel) {
                let drives = bus.drives;
                *bus = Channel { drives, ..Channel::default() };
            }
            self.reset_channel(channel, true, env);
        }
    }

    fn read(&mut self, reg: Reg, env: &mut Env<'_>) -> Access {
        match reg.region {
            0 | 2 => self.read_command_block(usize::from(reg.region / 2), reg, env),
            1 | 3 if reg.size == 1 => Ok(u64::from(self.alternate_status(usize::from(reg.region / 2)))),
            4 => {
                let size = reg.size;
                let (bus, at) = self.bus_master(reg.offset).ok_or(BusError::Unclaimed)?;
                bus.bm_read(at, size)
            }
            _ => Err(BusError::Unclaimed),
        }
    }

    fn write(&mut self, reg: Reg, value: u64, env: &mut Env<'_>) -> Result<(), BusError> {
        match reg.region {
            0 | 2 => self.write_command_block(usize::from(reg.region / 2), reg, value, env),
            1 | 3 if reg.size == 1 => {
                self.write_control(usize::from(reg.region / 2), value as u8, env);
                Ok(())
            }
            4 => {
                let channel = usize::from(reg.offset >= 8);
                let (bus, at) = self.bus_master(reg.offset).ok_or(BusError::Unclaimed)?;
                let started = bus.bm_write(at, reg.size, value)?;
                if started {
                    self.selected(channel, env, |bus, drive, unit, env| bus.start_dma(drive, unit, env));
                }
                Ok(())
            }
            _ => Err(BusError::Unclaimed),
        }
    }

    fn read_block(&mut self, reg: Reg, data: &mut [u8], env: &mut Env<'_>) -> Result<usize, BusError> {
        if !matches!(reg.region, 0 | 2) || reg.offset != reg::DATA || !matches!(reg.size, 2 | 4) {
            return Err(BusError::Unclaimed);
        }
        let channel = usize::from(reg.region / 2);
        let moved =
            self.selected(channel, env, |bus, drive, unit, _| bus.data_in(drive, unit, data)).unwrap_or(0);
        // Past the end of the data block the port gives zeros.
        data.iter_mut().skip(moved).for_each(|byte| *byte = 0);
        Ok(data.len())
    }

    fn write_block(&mut self, reg: Reg, data: &[u8], env: &mut Env<'_>) -> Result<(), BusError> {
        if !matches!(reg.region, 0 | 2) || reg.offset != reg::DATA || !matches!(reg.size, 2 | 4) {
            return Err(BusError::Unclaimed);
        }
        let channel = usize::from(reg.region / 2);
        self.selected(channel, env, |bus, drive, unit, env| bus.data_out(drive, unit, data, env));
        Ok(())
    }

    fn peek(&self, region: u8, _offset: u32) -> u8 {
        self.alternate_status(usize::from(region / 2))
    }

    fn event(&mut self, env: &mut Env<'_>) {
        for number in 0..4 {
            let (channel, drive) = (number / 2, number % 2);
            let Some(unit) = Self::unit(&self.drives, env, number) else { continue };
            let Some(bus) = self.saved.channels.get_mut(channel) else { continue };
            bus.medium_event(drive, &unit);
            let slot = bus.drives.get(drive).map_or(0, Drive::slot);
            for stale in (0..BLOCK_SLOTS).filter(|other| *other != slot) {
                unit.block.release(stale);
            }
            if let Some(Some(outcome)) = unit.block.poll(slot) {
                bus.back_end_done(drive, &unit, outcome, env);
            }
        }
    }

    fn control(&mut self, request: &Control, env: &mut Env<'_>) -> Result<Vec<u8>, &'static str> {
        if !matches!(request, Control::Info) {
            return Err("no such request for this device");
        }
        let mut text = String::new();
        for number in 0..4 {
            if let Some(unit) = Self::unit(&self.drives, env, number) {
                let medium = unit.block.medium();
                let kind = if unit.is_disk() { "disk" } else { "cdrom" };
                text +=
                    &format!("drive {number}: {kind} {} bytes, medium {}\n", medium.bytes, medium.present);
            }
        }
        Ok(text.into_bytes())
    }

    fn sync_outputs(&self, out: &mut Outputs) {
        for (line, bus) in self.saved.channels.iter().enumerate() {
            if let Some(level) = out.level.get_mut(line) {
                *level = bus.intrq != 0 && bus.control & control::NIEN == 0;
            }
        }
    }

    fn save(&self) -> Saved {
        self.saved
    }

    fn restore(&mut self, saved: &Saved) -> Result<(), RestoreError> {
        let bad = |reason| RestoreError { part: "PIIX3 IDE", reason };
        for drive in saved.channels.iter().flat_map(|channel| &channel.drives) {
            if drive.phase > phase::LAST {
                return Err(bad("unknown phase"));
            }
            let end = BLOCK_DATA as u32;
            if drive.slot() >= BLOCK_SLOTS
                || drive.filled > end
                || drive.block_end > drive.filled
                || drive.moved > drive.block_end
            {
                return Err(bad("buffer indices out of range"));
            }
        }
        self.saved = *saved;
        Ok(())
    }
}

impl Channel {
    /// Submits the next back-end request of a drive.
    fn submit(
        &mut self,
        drive: usize,
        unit: &Unit<'_>,
        op: BlockOp,
        offset: u64,
        length: usize,
        next: u8,
    ) -> bool {
        let Some(state) = self.drives.get_mut(drive) else { return false };
        state.sequence = state.sequence.wrapping_add(1);
        state.phase = next;
        state.status = status::BSY | (state.status & status::DSC);
        unit.block.submit(state.slot(), op, offset, length, state.sequence)
    }

    fn interrupt(&mut self, drive: usize) {
        // Only the selected drive's interrupt reaches the line.
        if usize::from(self.device & device::DEV != 0) == drive {
            self.intrq = 1;
        }
    }

    /// Ends a command well.
    fn complete(&mut self, drive: usize, unit: &Unit<'_>) {
        if let Some(state) = self.drives.get_mut(drive) {
            state.phase = phase::IDLE;
            state.status = status::DRDY | status::DSC;
            state.error = 0;
            if !unit.is_disk() {
                state.count[0] = spec::reason::IO | spec::reason::CD;
            }
        }
        self.interrupt(drive);
    }

    /// Ends a command with an error.
    fn abort(&mut self, drive: usize, error: u8) {
        if let Some(state) = self.drives.get_mut(drive) {
            state.phase = phase::IDLE;
            state.status = status::DRDY | status::DSC | status::ERR;
            state.error = error;
        }
        self.bm_stop(true);
        self.interrupt(drive);
    }

    /// The back end finished this drive's request.
    fn back_end_done(&mut self, drive: usize, unit: &Unit<'_>, outcome: BlockStatus, env: &mut Env<'_>) {
        let Some(state) = self.drives.get_mut(drive) else { return };
        match state.phase {
            phase::PIO_READ => self.pio_read_done(drive, unit, outcome),
            phase::PIO_WRITE => self.pio_write_done(drive, unit, outcome),
            phase::DMA_READ => self.dma_read_done(drive, unit, outcome, env),
            phase::DMA_WRITE => self.dma_write_done(drive, unit, outcome, env),
            phase::PACKET_READ => self.packet_read_done(drive, unit, outcome, env),
            phase::FLUSH => {
                unit.block.release(state.slot());
                match outcome {
                    BlockStatus::Ok | BlockStatus::ReadOnly | BlockStatus::NoMedium => {
                        self.complete(drive, unit)
                    }
                    _ => self.abort(drive, spec::error::ABRT),
                }
            }
            // The data of a finished read is being moved by the host.
            phase::PIO_IN | phase::PACKET_IN => {}
            _ => unit.block.release(state.slot()),
        }
    }
}
