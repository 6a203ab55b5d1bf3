//! The IDE function of the Intel 82371SB (PIIX3): two ATA channels with up to two drives each, hard disks and ATAPI CD-ROMs,
//! and the bus master.
//!
//! * Regions: 0 primary command block (0x1f0, 8 ports), 1 primary control (0x3f6), 2 and 3 the secondary's (0x170, 0x376), 4 bus
//!   master (BAR4, 16 ports). Lines: 0 primary (IRQ 14), 1 secondary (IRQ 15).
//! * PCI 8086:7010, its configuration space is the CPU process's.
//! * Restart class: checkpointed; back-end requests in flight are journaled in the block link (module `requests`).
//!
//! Data buffers are the block link's own: the slot of the oldest request holds the chunk being moved, so a sector is copied
//! once between image and guest memory. Long commands keep several chunks in flight.
//!
//! *Deviations from hardware*: no mechanical delays; a command that needs no data from the back end is done when its register
//! write returns. Timing registers change nothing, nor do their channels' enable bits (IDETIM bit 15) and the bus master bit of the command
//! register: configuration space is the CPU process's. Beside a drive, an absent one reads as zeros in every register but the
//! device register (ATA/ATAPI-6, 9.16.1, asks for zeros in the status register and the other drive's values elsewhere): probes end
//! sooner. A channel without drives floats, with the pull-down on bit 7. SLEEP is left by any command.
//! The bus master reaches the RAM at C0000-FFFFF whatever the host bridge's PAM registers say.
//! After a media error the address is that of the first sector of the 128 KiB piece that failed, not of the bad one in it.
//!
//! *Not emulated*: security, host protected area (beyond READ NATIVE MAX), READ/WRITE LONG, queued commands, CFA, streaming, audio
//! playing, raw CD sectors, READ DVD STRUCTURE (a disc of more than 80 minutes counts as a DVD all the same).
#![forbid(unsafe_code)]

mod ata;
mod atapi;
mod busmaster;
mod identify;
mod requests;
pub mod spec;
pub mod state;
#[cfg(test)]
mod tests;

use bulkhead_bus::chip::{
    self, Access, BusError, Chip, Class, Control, Description, Env, Outputs, Reg, Region, RestoreError, Rule,
    Shows,
};
use bulkhead_bus::config::{IdeConfig, IdeDriveConfig, IdeMedia};
use bulkhead_bus::links::BlockClient;

use spec::{bm, control, device, reg, status};
use state::{Channel, Drive, Saved, phase};

/// Bytes of a disk sector.
const SECTOR: u64 = 512;
/// What the 8-bit registers of a channel without drives read as: data bit 7 is pulled down (ATA/ATAPI-6, 4.3).
const FLOATING: u8 = 0x7f;

/// Features, count and LBA only wait for a command, so nobody waits for them. The device register can change the interrupt line
/// (another drive's), status and command lower it. While no interrupt is pending a status read has no effect.
const COMMAND_RULES: &[Rule] = &[
    Rule::new(1, 6, Class::Sync, Class::Posted),
    Rule::new(reg::STATUS as u32, reg::STATUS as u32 + 1, Class::Calm, Class::Sync),
];
/// Alternate status reads have no effect, so the CPU may take them from the mirror.
const CONTROL_RULES: &[Rule] = &[Rule::new(0, 1, Class::Mirror, Class::Sync)];
/// Command: a doorbell. Status: read in every interrupt. Table: only waits for a start. None of them touches the lines, nor a channel's
/// registers but by a transfer, which takes its time.
const MASTER_RULES: &[Rule] = &[
    Rule::new(0, 1, Class::Mirror, Class::Kick).shown_by(Shows::Region),
    Rule::new(2, 3, Class::Mirror, Class::Posted).shown_by(Shows::Region),
    Rule::new(4, 8, Class::Sync, Class::Posted).shown_by(Shows::Nothing),
    Rule::new(8, 9, Class::Mirror, Class::Kick).shown_by(Shows::Region),
    Rule::new(10, 11, Class::Mirror, Class::Posted).shown_by(Shows::Region),
    Rule::new(12, 16, Class::Sync, Class::Posted).shown_by(Shows::Nothing),
];
/// Writes that begin or end a transfer, which a channel's status shows: `takes_time` of a [`bulkhead_bus::storm::Setup`].
pub const TRANSFERS: &[(u8, u32)] = &[(4, 0), (4, 8)];
const REGIONS: &[Region] = &[
    Region { size: 8, rules: COMMAND_RULES },
    Region { size: 1, rules: CONTROL_RULES },
    Region { size: 8, rules: COMMAND_RULES },
    Region { size: 1, rules: CONTROL_RULES },
    Region { size: 16, rules: MASTER_RULES },
];

/// [`Drive::hold`] when its time has passed.
const HELD: u64 = 1;

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

    /// Runs `act` on a drive, if it is there, between taking back finished requests and submitting new ones.
    fn with_drive<R>(
        &mut self,
        channel: usize,
        drive: usize,
        env: &mut Env<'_>,
        act: impl FnOnce(&mut Channel, usize, &Unit<'_>, &mut Env<'_>) -> R,
    ) -> Option<R> {
        let bus = self.saved.channels.get_mut(channel)?;
        let unit = Self::unit(&self.drives, env, channel * 2 + drive)?;
        bus.reap(drive, &unit);
        let result = act(bus, drive, &unit, env);
        bus.advance(drive, &unit, env);
        bus.pump(drive, &unit);
        Some(result)
    }

    /// The same for the selected drive of a channel.
    fn selected<R>(
        &mut self,
        channel: usize,
        env: &mut Env<'_>,
        act: impl FnOnce(&mut Channel, usize, &Unit<'_>, &mut Env<'_>) -> R,
    ) -> Option<R> {
        let drive = self.saved.channels.get(channel)?.selected();
        self.with_drive(channel, drive, env, act)
    }

    fn is_present(&self, channel: usize) -> bool {
        self.drives.iter().skip(channel * 2).take(2).any(Option::is_some)
    }

    fn exists(&self, channel: usize, drive: usize) -> bool {
        self.drives.get(channel * 2 + drive).is_some_and(Option::is_some)
    }

    /// Resets both drives of a channel; requests in flight no longer count.
    fn reset_channel(&mut self, channel: usize, power_on: bool, env: &mut Env<'_>) {
        for drive in 0..2 {
            let Some(bus) = self.saved.channels.get_mut(channel) else { return };
            bus.device = 0;
            let Some(state) = bus.drives.get_mut(drive) else { return };
            match Self::unit(&self.drives, env, channel * 2 + drive) {
                Some(unit) => {
                    if power_on {
                        let next = state.next_after(&unit);
                        *state = Drive {
                            head: next,
                            next,
                            generation: unit.block.medium().generation,
                            write_cache: u8::from(unit.block.medium().write_cache),
                            smart: 1,
                            multiple: 16,
                            ..Drive::default()
                        };
                    }
                    state.reset(unit.is_disk());
                }
                None => *state = Drive::default(),
            }
        }
    }

    fn read_command_block(&mut self, channel: usize, reg: Reg, env: &mut Env<'_>) -> Access {
        if reg.offset == reg::DATA {
            let mut data = [0u8; 8];
            let part = data.get_mut(..usize::from(reg.size)).filter(|_| matches!(reg.size, 1 | 2 | 4));
            let Some(part) = part.filter(|_| self.is_present(channel)) else {
                return Err(BusError::Unclaimed);
            };
            // Past the end of the data block the port gives zeros.
            self.selected(channel, env, |bus, drive, unit, env| bus.data_in(drive, unit, part, env));
            return Ok(u64::from_le_bytes(data));
        }
        // Only the data port is wider than a byte (ATA/ATAPI-6, chapter 7).
        reg.read_bytes(|offset| self.read_command_byte(channel, offset))
    }

    /// Reads one of the 8-bit registers behind the data port.
    fn read_command_byte(&mut self, channel: usize, offset: u64) -> Access {
        if !(reg::ERROR..=reg::STATUS).contains(&offset) {
            return Err(BusError::Unclaimed);
        }
        if !self.is_present(channel) {
            return Ok(u64::from(FLOATING));
        }
        let Some(bus) = self.saved.channels.get_mut(channel) else { return Err(BusError::Unclaimed) };
        let number = bus.selected();
        let exists = self.drives.get(channel * 2 + number).is_some_and(Option::is_some);
        let old = usize::from(bus.control & control::HOB != 0);
        let register = bus.device | device::OBSOLETE;
        let Some(drive) = bus.drives.get_mut(number) else { return Err(BusError::Unclaimed) };
        let byte = |pair: &[u8; 2]| pair.get(old).copied().unwrap_or(0);
        let value = match offset {
            reg::DEVICE => register,
            _ if !exists => 0,
            reg::ERROR => drive.error,
            reg::COUNT => byte(&drive.count),
            reg::LBA_LOW => byte(&drive.lba[0]),
            reg::LBA_MID => byte(&drive.lba[1]),
            reg::LBA_HIGH => byte(&drive.lba[2]),
            _ => {
                drive.intrq = 0;
                drive.status
            }
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
            let data = bytes.get(..usize::from(reg.size)).filter(|_| matches!(reg.size, 1 | 2 | 4));
            let data = data.ok_or(BusError::Unclaimed)?;
            self.selected(channel, env, |bus, drive, unit, env| bus.data_out(drive, unit, data, env));
            return Ok(());
        }
        let line = |chip: &Self| chip.saved.channels.get(channel).is_some_and(Channel::line);
        let before = line(self);
        let result =
            reg.write_bytes(value, |offset, byte| self.write_command_byte(channel, offset, byte, env));
        // A write of the command register negates INTRQ (ATA/ATAPI-6, 7.3): a command that has ended within it rang anew.
        let commands = reg.offset.saturating_add(u64::from(reg.size)) > reg::STATUS;
        if before
            && commands
            && line(self)
            && let Some(bus) = self.saved.channels.get_mut(channel)
        {
            bus.pulses = bus.pulses.wrapping_add(1);
        }
        result
    }

    /// Writes one of the 8-bit registers behind the data port.
    fn write_command_byte(
        &mut self,
        channel: usize,
        offset: u64,
        byte: u8,
        env: &mut Env<'_>,
    ) -> Result<(), BusError> {
        if !(reg::ERROR..=reg::STATUS).contains(&offset) {
            return Err(BusError::Unclaimed);
        }
        let Some(bus) = self.saved.channels.get_mut(channel) else { return Err(BusError::Unclaimed) };
        bus.control &= !control::HOB;
        // Both drives take register writes; only the selected one acts on commands.
        let push = |pair: &mut [u8; 2]| *pair = [byte, pair[0]];
        match offset {
            reg::ERROR => bus.drives.iter_mut().for_each(|drive| push(&mut drive.features)),
            reg::COUNT => bus.drives.iter_mut().for_each(|drive| push(&mut drive.count)),
            reg::LBA_LOW => bus.drives.iter_mut().for_each(|drive| push(&mut drive.lba[0])),
            reg::LBA_MID => bus.drives.iter_mut().for_each(|drive| push(&mut drive.lba[1])),
            reg::LBA_HIGH => bus.drives.iter_mut().for_each(|drive| push(&mut drive.lba[2])),
            reg::DEVICE => bus.set_outputs(|bus| bus.device = byte & !device::OBSOLETE),
            // In reset nothing is executed.
            _ if bus.control & control::SRST != 0 => {}
            _ if byte == spec::command::DIAGNOSTIC => self.diagnostic(channel, env),
            _ => {
                self.selected(channel, env, |bus, drive, unit, _| bus.execute(drive, byte, unit));
            }
        }
        Ok(())
    }

    /// EXECUTE DEVICE DIAGNOSTIC runs on both drives whichever is selected, and device 0 reports (ATA/ATAPI-6, 8.11).
    fn diagnostic(&mut self, channel: usize, env: &mut Env<'_>) {
        self.reset_channel(channel, false, env);
        let first = usize::from(!self.exists(channel, 0));
        if self.is_present(channel)
            && let Some(bus) = self.saved.channels.get_mut(channel)
        {
            bus.interrupt(first);
        }
    }

    fn write_control(&mut self, channel: usize, byte: u8, env: &mut Env<'_>) {
        let Some(bus) = self.saved.channels.get(channel) else { return };
        let resets = (byte ^ bus.control) & control::SRST != 0;
        if resets {
            // Before interrupts may be let through: the reset takes a pending one back.
            self.reset_channel(channel, false, env);
        }
        let Some(bus) = self.saved.channels.get_mut(channel) else { return };
        bus.set_outputs(|bus| bus.control = byte & (control::NIEN | control::SRST | control::HOB));
        if resets && byte & control::SRST != 0 {
            for drive in 0..2 {
                if self.exists(channel, drive)
                    && let Some(state) =
                        self.saved.channels.get_mut(channel).and_then(|bus| bus.drives.get_mut(drive))
                {
                    state.status = status::BSY;
                }
            }
        }
    }

    fn alternate_status(&self, channel: usize) -> u8 {
        let Some(bus) = self.saved.channels.get(channel) else { return FLOATING };
        if !self.is_present(channel) {
            return FLOATING;
        }
        let number = bus.selected();
        match bus.drives.get(number) {
            Some(drive) if self.exists(channel, number) => drive.status,
            _ => 0,
        }
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
                let Channel { drives, pulses, .. } = *bus;
                *bus = Channel { drives, pulses, ..Channel::default() };
            }
            self.reset_channel(channel, true, env);
        }
    }

    fn read(&mut self, reg: Reg, env: &mut Env<'_>) -> Access {
        match reg.region {
            0 | 2 => self.read_command_block(usize::from(reg.region / 2), reg, env),
            1 | 3 if reg.size == 1 => Ok(u64::from(self.alternate_status(usize::from(reg.region / 2)))),
            4 => {
                let bus = self.saved.channels.get(usize::from(reg.offset >= 8)).ok_or(BusError::Unclaimed)?;
                bus.bm_read(reg.offset & 7, reg.size)
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
                let bus = self.saved.channels.get_mut(channel).ok_or(BusError::Unclaimed)?;
                if bus.bm_write(reg.offset & 7, reg.size, value)? {
                    // Whichever drive asks for data goes on.
                    self.selected(channel, env, |_, _, _, _| ());
                }
                Ok(())
            }
            _ => Err(BusError::Unclaimed),
        }
    }

    fn read_block(&mut self, reg: Reg, data: &mut [u8], env: &mut Env<'_>) -> Result<usize, BusError> {
        let channel = usize::from(reg.region / 2);
        if !matches!(reg.region, 0 | 2) || reg.offset != reg::DATA || !matches!(reg.size, 1 | 2 | 4) {
            // No other register is worth a fast path.
            return chip::read_units(self, reg, data, env);
        }
        if !self.is_present(channel) {
            return Err(BusError::Unclaimed);
        }
        let moved = self.selected(channel, env, |bus, drive, unit, env| bus.data_in(drive, unit, data, env));
        data.iter_mut().skip(moved.unwrap_or(0)).for_each(|byte| *byte = 0);
        Ok(data.len())
    }

    fn write_block(&mut self, reg: Reg, data: &[u8], env: &mut Env<'_>) -> Result<(), BusError> {
        let channel = usize::from(reg.region / 2);
        if !matches!(reg.region, 0 | 2) || reg.offset != reg::DATA || !matches!(reg.size, 1 | 2 | 4) {
            return chip::write_units(self, reg, data, env);
        }
        self.selected(channel, env, |bus, drive, unit, env| bus.data_out(drive, unit, data, env));
        Ok(())
    }

    fn peek(&self, region: u8, offset: u32) -> u8 {
        if region != 4 {
            return self.alternate_status(usize::from(region / 2));
        }
        let bus = self.saved.channels.get(usize::from(offset >= 8));
        bus.and_then(|bus| bus.bm_read(u64::from(offset & 7), 1).ok()).map_or(0xff, |value| value as u8)
    }

    fn is_calm(&self, region: u8, _offset: u32) -> bool {
        let channel = usize::from(region / 2);
        let Some(bus) = self.saved.channels.get(channel) else { return false };
        let number = bus.selected();
        !self.exists(channel, number) || bus.drives.get(number).is_some_and(|drive| drive.intrq == 0)
    }

    fn event(&mut self, env: &mut Env<'_>) {
        for number in 0..4 {
            self.with_drive(number / 2, number % 2, env, |bus, drive, unit, _| bus.medium_event(drive, unit));
        }
    }

    fn timer(&mut self, env: &mut Env<'_>) {
        for drive in self.saved.channels.iter_mut().flat_map(|bus| &mut bus.drives) {
            if drive.hold > HELD && drive.hold <= env.now {
                drive.hold = HELD;
            }
        }
        self.event(env);
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
        for ((level, pulses), bus) in out.level.iter_mut().zip(&mut out.pulses).zip(&self.saved.channels) {
            (*level, *pulses) = (bus.line(), bus.pulses);
        }
        let holds = self.saved.channels.iter().flat_map(|bus| &bus.drives).map(|drive| drive.hold);
        out.deadline = holds.filter(|hold| *hold > HELD).min();
    }

    fn save(&self) -> Saved {
        self.saved
    }

    fn restore(&mut self, saved: &Saved) -> Result<(), RestoreError> {
        for drive in saved.channels.iter().flat_map(|channel| &channel.drives) {
            drive.validate().map_err(|reason| RestoreError { part: "PIIX3 IDE", reason })?;
        }
        self.saved = *saved;
        Ok(())
    }
}

impl Drive {
    /// Software or hardware reset: the signature (ATA/ATAPI-6, 9.12), nothing at work. Features that SET FEATURES chose stay.
    pub(crate) fn reset(&mut self, disk: bool) {
        self.abandon();
        self.phase = phase::IDLE;
        (self.intrq, self.dma, self.announce, self.durable) = (0, 0, 0, 0);
        self.count = [1, 0];
        self.lba = if disk { [[1, 0], [0, 0], [0, 0]] } else { [[1, 0], [0x14, 0], [0xeb, 0]] };
        self.error = 1;
        self.status = if disk { status::DRDY | status::DSC } else { 0 };
    }
}

impl Channel {
    /// Number of the selected drive.
    fn selected(&self) -> usize {
        usize::from(self.device & device::DEV != 0)
    }

    /// Level of the interrupt line: only the selected drive drives it.
    fn line(&self) -> bool {
        self.control & control::NIEN == 0
            && self.drives.get(self.selected()).is_some_and(|drive| drive.intrq != 0)
    }

    /// Changes what the line follows from; the bus master latches a rising edge (82371SB, 2.7.2).
    fn set_outputs(&mut self, change: impl FnOnce(&mut Channel)) {
        let before = self.line();
        change(self);
        if !before && self.line() {
            self.bm_status |= bm::INTERRUPT;
        }
    }

    /// A drive asks for attention.
    fn interrupt(&mut self, drive: usize) {
        self.set_outputs(|bus| bus.drives.get_mut(drive).into_iter().for_each(|state| state.intrq = 1));
    }

    /// Ends a command well.
    fn complete(&mut self, drive: usize) {
        if let Some(state) = self.drives.get_mut(drive) {
            state.abandon();
            state.phase = phase::IDLE;
            state.status = status::DRDY | status::DSC;
            state.error = 0;
        }
        self.interrupt(drive);
    }

    /// Ends a command with an error. A bus master at work stays active: it does not know.
    fn abort(&mut self, drive: usize, error: u8) {
        if let Some(state) = self.drives.get_mut(drive) {
            state.abandon();
            state.phase = phase::IDLE;
            state.status = status::DRDY | status::DSC | status::ERR;
            state.error = error;
        }
        self.interrupt(drive);
    }
}
