//! Block-local register allocation: names in host registers, written back at exits or on eviction only.

use std::mem::offset_of;

use bulkhead_ir::liveness::bit;
use bulkhead_ir::{NONE, Name, TEMP0, W64};

use super::asm::{Asm, M, NOREG, reg};
use crate::state::CoreState;

/// Displacement of a CPU-state offset from `rbp`.
pub(crate) fn disp(offset: usize) -> i32 {
    offset as i32 - 128
}

/// A CPU-state field as memory operand.
pub(crate) fn state(offset: usize) -> M {
    M::base(reg::RBP, disp(offset))
}

/// Where a slot lives.
pub(crate) fn slot_mem(slot: Name) -> M {
    state(offset_of!(CoreState, slots) + usize::from(slot) * 8)
}

/// Index in `CoreState::spill` of host register `r`, saved by the slow-path stub.
pub(crate) fn saved_index(r: u8) -> usize {
    32 + usize::from(r)
}

fn temp_mem(name: Name) -> M {
    state(offset_of!(CoreState, spill) + usize::from(name - TEMP0) * 8)
}

/// Allocatable registers, a bit each: all but rax, rsi, rdi (scratch), rsp and rbp.
pub(crate) const ALLOCATABLE: u16 = 0xff0e;
/// Those that a called function may change.
pub(crate) const CALLER_SAVED: u16 = 0x0f06;

/// The allocation at one point of a block.
pub(crate) struct Regs {
    /// Host register of each name, or [`NOREG`].
    at: [u8; 64],
    /// Name in each host register, or [`NONE`].
    who: [Name; 16],
    /// Names in registers, a bit each.
    held: u64,
    /// Slots whose register is newer than memory.
    dirty: u32,
    /// Temporaries that are known constants and have no register.
    consts: u64,
    values: [i64; 32],
    free: u16,
    /// Registers that the current op uses.
    locked: u16,
    /// Where the next eviction starts looking.
    hand: u8,
}

impl Default for Regs {
    fn default() -> Self {
        Regs {
            at: [NOREG; 64],
            who: [NONE; 16],
            held: 0,
            dirty: 0,
            consts: 0,
            values: [0; 32],
            free: ALLOCATABLE,
            locked: 0,
            hand: 0,
        }
    }
}

impl Regs {
    /// Forgets everything: start of a block.
    pub fn reset(&mut self) {
        *self = Regs::default();
    }

    /// Ends an op: its registers may be evicted again, and names that are not in `live` are dropped.
    pub fn end_op(&mut self, live: u64) {
        self.locked = 0;
        let mut dead = self.held & !live;
        while dead != 0 {
            let name = dead.trailing_zeros() as Name;
            dead &= dead - 1;
            self.drop_name(name);
        }
        self.consts &= live;
    }

    /// Forgets a name's register without writing it back.
    pub fn drop_name(&mut self, name: Name) {
        let r = self.at[usize::from(name)];
        if r != NOREG {
            self.at[usize::from(name)] = NOREG;
            self.who[usize::from(r)] = NONE;
            self.free |= 1 << r;
            self.held &= !bit(name);
        }
        if name < TEMP0 {
            self.dirty &= !(1 << name);
        } else {
            self.consts &= !bit(name);
        }
    }

    /// Register of a name, if it is in one.
    pub fn find(&self, name: Name) -> Option<u8> {
        self.at.get(usize::from(name)).copied().filter(|&r| r != NOREG)
    }

    /// The constant that a temporary is, if it has no register.
    pub fn constant(&self, name: Name) -> Option<i64> {
        (self.consts & bit(name) != 0).then(|| self.values[usize::from(name - TEMP0) % 32])
    }

    /// Makes a temporary a constant.
    pub fn set_constant(&mut self, name: Name, value: i64) {
        self.drop_name(name);
        self.consts |= bit(name);
        self.values[usize::from(name - TEMP0) % 32] = value;
    }

    /// A register with nothing in it, locked.
    pub fn alloc(&mut self, asm: &mut Asm) -> u8 {
        let usable = self.free & !self.locked;
        let r = if usable != 0 {
            // Callee-saved ones first: they survive helper calls.
            let kept = usable & !CALLER_SAVED;
            (if kept != 0 { kept } else { usable }).trailing_zeros() as u8
        } else {
            self.evict(asm)
        };
        self.free &= !(1 << r);
        self.locked |= 1 << r;
        r
    }

    /// Empties a register that the current op does not use.
    fn evict(&mut self, asm: &mut Asm) -> u8 {
        let candidates = ALLOCATABLE & !self.locked;
        let rotated = |i: u8| (self.hand + i) & 15;
        let clean = |r: u8| {
            let n = self.who[usize::from(r)];
            n < TEMP0 && self.dirty >> n & 1 == 0
        };
        let mut choice = NOREG;
        for i in 0..16 {
            let r = rotated(i);
            if candidates >> r & 1 == 0 {
                continue;
            }
            if clean(r) {
                choice = r;
                break;
            }
            let slot = |r: u8| self.who[usize::from(r)] < TEMP0;
            if choice == NOREG || (slot(r) && !slot(choice)) {
                choice = r;
            }
        }
        // At most four registers are locked by one op and eleven exist.
        debug_assert_ne!(choice, NOREG);
        let choice = if choice == NOREG { reg::RBX } else { choice };
        self.hand = (choice + 1) & 15;
        self.vacate(asm, choice);
        choice
    }

    /// Writes a register's name to memory and forgets it.
    pub fn vacate(&mut self, asm: &mut Asm, r: u8) {
        let name = self.who[usize::from(r)];
        if name == NONE {
            return;
        }
        if name >= TEMP0 {
            asm.store(W64, r, temp_mem(name));
        } else if self.dirty >> name & 1 != 0 {
            asm.store(W64, r, slot_mem(name));
        }
        self.drop_name(name);
    }

    /// The value of `name` in a register, locked.
    pub fn read(&mut self, asm: &mut Asm, name: Name) -> u8 {
        if let Some(r) = self.find(name) {
            self.locked |= 1 << r;
            return r;
        }
        let r = self.alloc(asm);
        if let Some(value) = self.constant(name) {
            asm.mov_ri(r, value as u64);
            self.consts &= !bit(name);
        } else {
            self.fetch(asm, name, r);
        }
        if bit(name) != 0 {
            self.place(name, r);
        }
        r
    }

    /// Copies the value of `name` to a scratch or argument register; the allocation stays.
    pub fn copy_to(&mut self, asm: &mut Asm, name: Name, to: u8) {
        if let Some(r) = self.find(name) {
            asm.mov(W64, to, r);
        } else if let Some(value) = self.constant(name) {
            asm.mov_ri(to, value as u64);
        } else {
            self.fetch(asm, name, to);
        }
    }

    fn fetch(&self, asm: &mut Asm, name: Name, to: u8) {
        match name {
            n if n < TEMP0 => asm.load(W64, to, slot_mem(n)),
            n if bit(n) != 0 => asm.load(W64, to, temp_mem(n)),
            _ => asm.mov_ri(to, 0),
        }
    }

    fn place(&mut self, name: Name, r: u8) {
        self.at[usize::from(name)] = r;
        self.who[usize::from(r)] = name;
        self.held |= bit(name);
        self.free &= !(1 << r);
    }

    /// `name` is now (only) in register `r`, newer than memory.
    pub fn bind(&mut self, name: Name, r: u8) {
        if bit(name) == 0 {
            self.release(r);
            return;
        }
        if self.at[usize::from(name)] != r {
            self.drop_name(name);
            self.place(name, r);
        }
        if name < TEMP0 {
            self.dirty |= 1 << name;
        } else {
            self.consts &= !bit(name);
        }
    }

    /// Takes the register away from the name in it, which is dead or about to be redefined; it stays locked.
    pub fn steal(&mut self, r: u8) {
        let name = self.who[usize::from(r)];
        if name != NONE {
            self.drop_name(name);
        }
        self.free &= !(1 << r);
        self.locked |= 1 << r;
    }

    /// Gives back a register that no name was bound to.
    pub fn release(&mut self, r: u8) {
        if self.who[usize::from(r)] == NONE && ALLOCATABLE >> r & 1 != 0 {
            self.free |= 1 << r;
        }
    }

    /// Makes the particular register `r` available and locks it: its name moves to another register or to memory.
    pub fn take(&mut self, asm: &mut Asm, r: u8) {
        self.locked |= 1 << r;
        let name = self.who[usize::from(r)];
        if name != NONE {
            let usable = self.free & !self.locked;
            if usable != 0 {
                let to = usable.trailing_zeros() as u8;
                let dirty = name < TEMP0 && self.dirty >> name & 1 != 0;
                asm.mov(W64, to, r);
                self.drop_name(name);
                self.place(name, to);
                if dirty {
                    self.dirty |= 1 << name;
                }
            } else {
                self.vacate(asm, r);
            }
        }
        self.free &= !(1 << r);
    }

    /// Locks a register again until the op ends.
    pub fn lock(&mut self, r: u8) {
        self.locked |= 1 << r;
    }

    /// Unlocks a register before the op ends.
    pub fn unlock(&mut self, r: u8) {
        self.locked &= !(1 << r);
    }

    /// Stores the dirty slots of `which` and keeps them in registers.
    pub fn write_back(&mut self, asm: &mut Asm, which: u32) {
        let mut slots = self.dirty & which;
        self.dirty &= !which;
        while slots != 0 {
            let slot = slots.trailing_zeros() as Name;
            slots &= slots - 1;
            asm.store(W64, self.at[usize::from(slot)], slot_mem(slot));
        }
    }

    /// Empties the registers that a call changes.
    pub fn vacate_caller_saved(&mut self, asm: &mut Asm) {
        for r in 0..16 {
            if CALLER_SAVED >> r & 1 != 0 {
                self.vacate(asm, r);
            }
        }
    }

    /// Forgets the slots of `which`: memory is newer.
    pub fn forget(&mut self, which: u32) {
        let mut slots = self.held & u64::from(which);
        while slots != 0 {
            let slot = slots.trailing_zeros() as Name;
            slots &= slots - 1;
            self.drop_name(slot);
        }
    }

    /// The slots that are newer than memory, each with its register.
    pub fn dirty_slots(&self) -> impl Iterator<Item = (Name, u8)> + '_ {
        (0..TEMP0).filter(|&s| self.dirty >> s & 1 != 0).map(|s| (s, self.at[usize::from(s)]))
    }
}
