//! Memory as the system helpers see it: linear reads and writes at a given privilege, and stacks.

use bulkhead_engine::{Access, Fault, Privilege, exit, mem};

use super::flags::check_alignment;
use super::{raise, vector};
use crate::state::{Cpu, Segment, attr, seg};

fn privilege(user: bool) -> Privilege {
    if user { Privilege::User } else { Privilege::Supervisor }
}

/// Reads `size` (1, 2, 4, 8) bytes at `linear`, as a user access or a supervisor one.
pub fn load(cpu: &mut Cpu, linear: u64, size: u8, user: bool) -> Result<u64, Fault> {
    if user {
        check_alignment(cpu, linear, size.into())?;
    }
    mem::load(&mut cpu.core, linear, u32::from(size), privilege(user))
}

/// Writes likewise. Nothing is written when any byte faults.
pub fn store(cpu: &mut Cpu, linear: u64, size: u8, value: u64, user: bool) -> Result<(), Fault> {
    if user {
        check_alignment(cpu, linear, size.into())?;
    }
    mem::store(&mut cpu.core, linear, u32::from(size), value, privilege(user))
}

/// Checks that `size` bytes at `linear` could be written, without writing.
pub fn probe_write(cpu: &mut Cpu, linear: u64, size: u8, user: bool) -> Result<(), Fault> {
    if user {
        check_alignment(cpu, linear, size.into())?;
    }
    mem::probe(&mut cpu.core, linear, u32::from(size), Access::Write, privilege(user))
}

/// Supervisor read, for descriptor tables and task states.
pub fn load_system(cpu: &mut Cpu, linear: u64, size: u8) -> Result<u64, Fault> {
    let linear = if cpu.long_mode() { linear } else { linear & 0xffff_ffff };
    load(cpu, linear, size, false)
}

/// Supervisor write.
pub fn store_system(cpu: &mut Cpu, linear: u64, size: u8, value: u64) -> Result<(), Fault> {
    let linear = if cpu.long_mode() { linear } else { linear & 0xffff_ffff };
    store(cpu, linear, size, value, false)
}

/// Whether `size` bytes at `offset` are inside the segment's limit (expand-down included).
pub fn within_limit(segment: &Segment, offset: u64, size: u64) -> bool {
    let last = offset.wrapping_add(size.wrapping_sub(1));
    let expand_down =
        segment.attr & (attr::S | attr::CODE | attr::EXPAND_DOWN) == attr::S | attr::EXPAND_DOWN;
    if expand_down {
        let top = if segment.attr & attr::BIG != 0 { 0xffff_ffff } else { 0xffff };
        offset > u64::from(segment.limit) && last <= top && last >= offset
    } else {
        last <= u64::from(segment.limit) && last >= offset
    }
}

/// A stack being pushed to or popped from, without touching RSP until [`Stack::commit`].
#[derive(Clone, Copy, Debug)]
pub struct Stack {
    /// The stack segment (base and limit used outside 64-bit mode).
    pub segment: Segment,
    /// Current pointer.
    pub sp: u64,
    /// Pointer width.
    pub mask: u64,
    /// Whether its accesses are user accesses.
    pub user: bool,
    /// No segmentation: 64-bit.
    pub flat: bool,
    /// Error code of a stack fault.
    pub error: u32,
}

impl Stack {
    /// The stack in use.
    pub fn current(cpu: &Cpu) -> Stack {
        let segment = cpu.segs[seg::SS];
        Stack::of(segment, cpu.core.slots[4], cpu.user(), cpu.code64())
    }

    /// A stack in `segment` at `sp`.
    pub fn of(segment: Segment, sp: u64, user: bool, flat: bool) -> Stack {
        let mask = match (flat, segment.attr & attr::BIG != 0) {
            (true, _) => u64::MAX,
            (false, true) => 0xffff_ffff,
            (false, false) => 0xffff,
        };
        Stack { segment, sp, mask, user, flat, error: 0 }
    }

    /// Linear address of `size` bytes at `offset`, checked.
    fn linear(&self, cpu: &mut Cpu, offset: u64, size: u8) -> Result<u64, Fault> {
        let offset = offset & self.mask;
        if self.flat {
            if !Cpu::canonical(offset) {
                return Err(raise(cpu, vector::SS, Some(self.error)));
            }
            return Ok(offset);
        }
        if !within_limit(&self.segment, offset, u64::from(size)) {
            return Err(raise(cpu, vector::SS, Some(self.error)));
        }
        Ok(self.segment.base.wrapping_add(offset) & 0xffff_ffff)
    }

    /// Pushes the low `size` bytes of `value`.
    pub fn push(&mut self, cpu: &mut Cpu, size: u8, value: u64) -> Result<(), Fault> {
        let sp = self.sp.wrapping_sub(u64::from(size));
        let linear = self.linear(cpu, sp, size)?;
        store(cpu, linear, size, value, self.user)?;
        self.sp = self.sp & !self.mask | sp & self.mask;
        Ok(())
    }

    /// Pops `size` bytes.
    pub fn pop(&mut self, cpu: &mut Cpu, size: u8) -> Result<u64, Fault> {
        let value = self.peek(cpu, 0, size)?;
        self.skip(u64::from(size));
        Ok(value)
    }

    /// Reads `size` bytes at `offset` above the pointer.
    pub fn peek(&self, cpu: &mut Cpu, offset: u64, size: u8) -> Result<u64, Fault> {
        let linear = self.linear(cpu, self.sp.wrapping_add(offset), size)?;
        load(cpu, linear, size, self.user)
    }

    /// Moves the pointer up by `bytes`.
    pub fn skip(&mut self, bytes: u64) {
        self.sp = self.sp & !self.mask | self.sp.wrapping_add(bytes) & self.mask;
    }

    /// Makes this pointer the CPU's.
    pub fn commit(&self, cpu: &mut Cpu) {
        let slot = &mut cpu.core.slots[4];
        *slot = match self.mask {
            0xffff => *slot & !0xffff | self.sp & 0xffff,
            0xffff_ffff => self.sp & 0xffff_ffff,
            _ => self.sp,
        };
    }
}

impl Stack {
    /// Faults unless `size` bytes at the pointer could be written.
    pub fn check_write(&self, cpu: &mut Cpu, size: u8) -> Result<(), Fault> {
        let linear = self.linear(cpu, self.sp, size)?;
        probe_write(cpu, linear, size, self.user)
    }

    /// Leaves with [`exit::RETRY_STEP`] when a store of `size` bytes at the pointer would; whether it would fault is found out later.
    pub fn refuse_own_block(&self, cpu: &mut Cpu, size: u8) -> Result<(), Fault> {
        let pending = cpu.pending;
        let result = self.check_write(cpu, size);
        if result.is_err() && cpu.core.exit == exit::RETRY_STEP {
            return result;
        }
        (cpu.pending, cpu.core.exit) = (pending, exit::NONE);
        Ok(())
    }
}
