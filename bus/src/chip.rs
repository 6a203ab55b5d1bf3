//! What a device implements, and what it is handed: the device SDK's traits.
//!
//! A chip knows no process, socket, path or wall clock. It answers register accesses, reacts to its timer and to its
//! links, and derives its outputs from its state. The event loop in [`crate::serve`] turns each call into one
//! transaction: call, `sync_outputs`, `save`, commit. What was not saved did not happen.

use crate::links::{BlockClient, ByteEnd};
use crate::ram::GuestRam;
use crate::shm::Bulk;

/// Where in a device an access lands: region number of its [`Description`], byte offset in that region, access size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reg {
    /// Index into [`Description::regions`].
    pub region: u8,
    /// Byte offset in the region.
    pub offset: u64,
    /// 1, 2, 4 or 8 bytes.
    pub size: u8,
}

impl Reg {
    /// An access to a device of byte-wide registers: the bus splits it into bytes at ascending offsets, as the ISA bus does.
    /// Bytes that nothing answers read as ones; the error is passed on only when there is no other answer.
    ///
    /// # Errors
    /// The first byte's when no byte answers.
    pub fn read_bytes(self, mut read: impl FnMut(u64) -> Access) -> Access {
        let mut value = 0u64;
        let mut error = None;
        let mut answered = false;
        for at in 0..u64::from(self.size.min(8)) {
            let byte = match read(self.offset.wrapping_add(at)) {
                Ok(byte) => {
                    answered = true;
                    byte & 0xff
                }
                Err(reason) => {
                    error = error.or(Some(reason));
                    0xff
                }
            };
            value |= byte << (at * 8);
        }
        match error {
            Some(reason) if !answered => Err(reason),
            _ => Ok(value),
        }
    }

    /// The same for a write.
    ///
    /// # Errors
    /// The first byte's when no byte is taken.
    pub fn write_bytes(
        self,
        value: u64,
        mut write: impl FnMut(u64, u8) -> Result<(), BusError>,
    ) -> Result<(), BusError> {
        let mut result = Err(BusError::Unclaimed);
        for at in 0..u64::from(self.size.min(8)) {
            let one = write(self.offset.wrapping_add(at), (value >> (at * 8)) as u8);
            if at == 0 || one.is_ok() {
                result = result.or(one);
            }
        }
        result
    }
}

/// Why an access got no answer. The bus turns it into all-ones (reads) or nothing (writes) and counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusError {
    /// Nothing decodes this offset or size.
    Unclaimed,
    /// The register exists but not in this direction or state.
    Rejected,
}

/// Result of a register read.
pub type Access = Result<u64, BusError>;

/// How a register behaves on the bus (ARCHITECTURE.md, "The bus").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// Sync: the CPU waits for the answer (and for every earlier write). The default, and required for a write that can
    /// lower an interrupt line, unless the chip's module says why not.
    Sync = 0,
    /// Posted write: queued, no bell.
    Posted = 1,
    /// Posted write and bell: command and doorbell registers.
    Kick = 2,
    /// Mirrored read: no side effect; the CPU reads the value that the device last committed to its mirror.
    Mirror = 3,
    /// Read of one byte with a side effect that is not always there: mirrored while [`Chip::is_calm`], sync otherwise.
    Calm = 4,
}

/// Which mirrored registers show a posted or kicked write: the CPU takes them from the mirror only when the device has done it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Shows {
    /// Any of the device's. The default.
    All = 0,
    /// Those of its own region; in others it has no effect, or one that takes its time.
    Region = 1,
    /// None.
    Nothing = 2,
}

/// Class of a run of offsets in a region; the first matching rule wins, [`Class::Sync`] when none does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// First byte offset.
    pub start: u32,
    /// One past the last.
    pub end: u32,
    /// For reads: `Sync`, `Mirror` or `Calm`.
    pub read: Class,
    /// For writes: `Sync`, `Posted` or `Kick`.
    pub write: Class,
    /// What of such a write mirrored registers show.
    pub shows: Shows,
}

impl Rule {
    /// For the offsets from `start` to before `end`.
    #[must_use]
    pub const fn new(start: u32, end: u32, read: Class, write: Class) -> Rule {
        Rule { start, end, read, write, shows: Shows::All }
    }

    /// The same with writes that not every mirrored register shows.
    #[must_use]
    pub const fn shown_by(self, shows: Shows) -> Rule {
        Rule { shows, ..self }
    }

    /// The one of `rules` for a write of `bytes` bytes at `offset`: the first which holds the offset, but none when the write reaches
    /// beyond it. A write without a rule is sync.
    pub fn of_write(rules: &[Rule], offset: u32, bytes: u32) -> Option<&Rule> {
        let first = rules.iter().find(|rule| rule.start <= offset && offset < rule.end);
        first.filter(|rule| rule.end - offset >= bytes)
    }
}

/// A block of registers or memory that a device answers. Where it lies is the machine's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Bytes.
    pub size: u64,
    /// Bus classes.
    pub rules: &'static [Rule],
}

/// What a chip tells the bus about itself at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// Part name for traces, e.g. `16550A`.
    pub part: &'static str,
    /// Register regions, at most 8.
    pub regions: &'static [Region],
    /// Output lines, at most 8; what each is wired to is the machine's business.
    pub lines: &'static [&'static str],
}

/// Most output lines of a device.
pub const LINES: usize = 8;

/// Outputs, derived from state by [`Chip::sync_outputs`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outputs {
    /// Level of each line.
    pub level: [bool; LINES],
    /// Rising edges ever sent on each line: a chip that pulses a line increments a counter in its state.
    /// A chip that only drives levels leaves it 0.
    pub pulses: [u32; LINES],
    /// A value that travels with the line (exit codes); 0 otherwise.
    pub value: [u32; LINES],
    /// Guest time in nanoseconds at which [`Chip::timer`] is due.
    pub deadline: Option<u64>,
}

/// What a chip may use during one call.
pub struct Env<'a> {
    /// Guest time in nanoseconds since the machine was switched on; stands still while the VM is stopped.
    pub now: u64,
    /// Guest RAM, for bus masters only.
    pub ram: Option<&'a GuestRam>,
    /// Byte streams to character back ends, in manifest order.
    pub bytes: &'a [ByteEnd],
    /// Drives, in manifest order.
    pub blocks: &'a [BlockClient],
    /// The device's own large memory (VRAM, sector buffers): survives the process, outside the state slots.
    pub bulk: &'a Bulk,
}

/// A saved state that this version cannot take up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("state of {part}: {reason}")]
pub struct RestoreError {
    /// Part name.
    pub part: &'static str,
    /// Field and problem.
    pub reason: &'static str,
}

/// Largest saved state in bytes.
pub const STATE_MAX: usize = 2048;

/// One device.
pub trait Chip {
    /// Everything a guest can observe, as plain data of at most [`STATE_MAX`] bytes.
    type State: bytemuck::Pod;
    /// Version of [`Chip::State`]; a successor refuses other versions.
    const STATE_VERSION: u32;

    /// Regions, lines and part name.
    fn description(&self) -> Description;

    /// Power-on or bus reset.
    fn reset(&mut self, env: &mut Env<'_>);

    /// Register read. Any offset below the region size and any size may come; never panics.
    fn read(&mut self, reg: Reg, env: &mut Env<'_>) -> Access;

    /// Register write.
    fn write(&mut self, reg: Reg, value: u64, env: &mut Env<'_>) -> Result<(), BusError>;

    /// The byte at `offset` of a register that a rule declares [`Class::Mirror`] or [`Class::Calm`]: what a read would give, without
    /// effect.
    fn peek(&self, _region: u8, _offset: u32) -> u8 {
        0xff
    }

    /// Whether a read of a byte that a rule declares [`Class::Calm`] would have no effect at present.
    fn is_calm(&self, _region: u8, _offset: u32) -> bool {
        false
    }

    /// `rep ins`: consecutive reads of `reg.size` bytes from the same register. Returns how many bytes of `data` were
    /// filled (a multiple of the size); the rest reads as ones.
    fn read_block(&mut self, reg: Reg, data: &mut [u8], env: &mut Env<'_>) -> Result<usize, BusError> {
        read_units(self, reg, data, env)
    }

    /// `rep outs`: consecutive writes of `reg.size` bytes to the same register.
    fn write_block(&mut self, reg: Reg, data: &[u8], env: &mut Env<'_>) -> Result<(), BusError> {
        write_units(self, reg, data, env)
    }

    /// The deadline of the last [`Outputs`] has passed.
    fn timer(&mut self, _env: &mut Env<'_>) {}

    /// Something may have arrived on a link (bytes to read, room to write, a block request done). Also called once
    /// after start and restore.
    fn event(&mut self, _env: &mut Env<'_>) {}

    /// A request from the monitor, already size-checked. `Err` is a one-line reason. The answer is at most
    /// [`crate::control::REPLY_MAX`] bytes; larger things (a screen) are asked for piece by piece.
    fn control(&mut self, _request: &Control, _env: &mut Env<'_>) -> Result<Vec<u8>, &'static str> {
        Err("no such request for this device")
    }

    /// Derives lines and deadline from state.
    fn sync_outputs(&self, out: &mut Outputs);

    /// The state, whole.
    fn save(&self) -> Self::State;

    /// Takes up a saved state after checking it. Derived values are rebuilt here.
    fn restore(&mut self, state: &Self::State) -> Result<(), RestoreError>;
}

/// [`Chip::read_block`] by single reads, for a chip that has a faster way for some of its registers only.
///
/// # Errors
/// The first read's that fails.
pub fn read_units<C: Chip + ?Sized>(
    chip: &mut C,
    reg: Reg,
    data: &mut [u8],
    env: &mut Env<'_>,
) -> Result<usize, BusError> {
    let mut done = 0;
    for unit in data.chunks_exact_mut(usize::from(reg.size.clamp(1, 8))) {
        let value = chip.read(reg, env)?.to_le_bytes();
        unit.iter_mut().zip(value).for_each(|(to, from)| *to = from);
        done += unit.len();
    }
    Ok(done)
}

/// [`Chip::write_block`] by single writes, likewise.
///
/// # Errors
/// The first write's that fails.
pub fn write_units<C: Chip + ?Sized>(
    chip: &mut C,
    reg: Reg,
    data: &[u8],
    env: &mut Env<'_>,
) -> Result<(), BusError> {
    for unit in data.chunks_exact(usize::from(reg.size.clamp(1, 8))) {
        let mut wide = [0u8; 8];
        wide.iter_mut().zip(unit).for_each(|(to, from)| *to = *from);
        chip.write(reg, u64::from_le_bytes(wide), env)?;
    }
    Ok(())
}

/// Requests of the broker to a device outside the register path.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Control {
    /// A key of the PC keyboard was pressed or released.
    Key {
        /// Key number: set-1 make code, plus 0x100 for extended keys.
        code: u16,
        /// Press or release.
        down: bool,
    },
    /// Relative mouse motion and button state (bit 0 left, 1 right, 2 middle).
    Mouse {
        /// Right positive.
        dx: i16,
        /// Down positive.
        dy: i16,
        /// Wheel, away from the user negative.
        dz: i8,
        /// Buttons.
        buttons: u8,
    },
    /// One-line-per-item description for `info`.
    Info,
    /// Send a break condition (serial).
    Break,
    /// Boot order or other machine setting changed: opaque to the bus, the device parses it.
    Configure(Vec<u8>),
    /// The current screen as a binary PPM file, a piece from `offset` on; the screen is rendered anew at offset 0. An
    /// empty answer ends it.
    Screen {
        /// Byte offset in the image file.
        offset: u32,
    },
}
