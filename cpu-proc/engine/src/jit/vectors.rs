//! Block-local allocation of the host's vector registers: guest vector slots and temporaries, written back at exits, before
//! helper calls, or on eviction. xmm0 and xmm1 are scratch.

use std::mem::offset_of;

use bulkhead_ir::{VSLOTS, VTEMP0, W32};

use super::asm::{Asm, M, NOREG};
use super::regs::state;
use crate::state::CoreState;

/// Allocatable registers, a bit each.
pub(crate) const ALLOCATABLE: u16 = 0xfffc;
/// Added to a vector slot to tell it from a general one in the side table.
pub(crate) const SIDE: u8 = 32;

/// Where a vector slot lives, 16-byte aligned.
pub(crate) fn slot_mem(slot: u8) -> M {
    state(offset_of!(CoreState, vec) + usize::from(slot % VSLOTS) * 16)
}

/// Where the slow paths save a host register.
pub(crate) fn spill_mem(r: u8) -> M {
    state(offset_of!(CoreState, vec_spill) + usize::from(r % 16) * 16)
}

const _: () = assert!(offset_of!(CoreState, vec) % 16 == 0 && offset_of!(CoreState, vec_spill) % 16 == 0);

/// `movaps` of a register from memory.
pub(crate) fn load(asm: &mut Asm, r: u8, m: M) {
    asm.rm(W32, 0x0f28, r, m);
}

/// `movaps` of a register to memory.
pub(crate) fn store(asm: &mut Asm, r: u8, m: M) {
    asm.rm(W32, 0x0f29, r, m);
}

/// The allocation at one point of a block.
pub(crate) struct Vectors {
    /// Host register of each slot, or [`NOREG`].
    at: [u8; VSLOTS as usize],
    /// Slot in each host register, or [`NOREG`].
    who: [u8; 16],
    /// Slots whose register is newer than memory.
    dirty: u32,
    /// Registers that the current op uses.
    locked: u16,
    /// Where the next search for a register starts.
    hand: u8,
}

impl Default for Vectors {
    fn default() -> Self {
        Vectors { at: [NOREG; VSLOTS as usize], who: [NOREG; 16], dirty: 0, locked: 0, hand: 2 }
    }
}

impl Vectors {
    /// Forgets everything: start of a block.
    pub fn reset(&mut self) {
        *self = Vectors::default();
    }

    /// Ends an op: its registers may be evicted again.
    pub fn end_op(&mut self) {
        self.locked = 0;
    }

    /// Whether any slot is in a register.
    pub fn any(&self) -> bool {
        self.who.iter().any(|&slot| slot != NOREG)
    }

    fn find(&self, slot: u8) -> Option<u8> {
        self.at.get(usize::from(slot)).copied().filter(|&r| r != NOREG)
    }

    /// Forgets a slot's register without writing it back.
    pub fn forget(&mut self, slot: u8) {
        if let Some(r) = self.find(slot) {
            self.at[usize::from(slot)] = NOREG;
            self.who[usize::from(r)] = NOREG;
        }
        self.dirty &= !(1u32 << (slot % 32));
    }

    /// A register for `slot`, locked: its own, else a free one, else one taken from another slot. Its contents are not loaded.
    fn assign(&mut self, asm: &mut Asm, slot: u8) -> u8 {
        if let Some(r) = self.find(slot) {
            self.locked |= 1 << r;
            return r;
        }
        let usable = |v: &Vectors, r: u8| (ALLOCATABLE & !v.locked) >> r & 1 != 0;
        let order = |hand: u8| (0..16).map(move |i| (hand + i) & 15);
        let free = order(self.hand).find(|&r| usable(self, r) && self.who[usize::from(r)] == NOREG);
        // An op locks two registers of fourteen.
        let r = free.or_else(|| order(self.hand).find(|&r| usable(self, r))).unwrap_or(2);
        let old = self.who[usize::from(r)];
        if old != NOREG {
            self.flush(asm, old);
            self.hand = (r + 1) & 15;
        }
        self.at[usize::from(slot % VSLOTS)] = r;
        self.who[usize::from(r)] = slot % VSLOTS;
        self.locked |= 1 << r;
        r
    }

    /// The value of `slot` in a register, locked.
    pub fn read(&mut self, asm: &mut Asm, slot: u8) -> u8 {
        let known = self.find(slot).is_some();
        let r = self.assign(asm, slot);
        if !known {
            load(asm, r, slot_mem(slot));
        }
        r
    }

    /// A register that will hold a new value of `slot`, locked.
    pub fn define(&mut self, asm: &mut Asm, slot: u8) -> u8 {
        let r = self.assign(asm, slot);
        self.changed(slot);
        r
    }

    /// The register of `slot` is newer than memory.
    pub fn changed(&mut self, slot: u8) {
        self.dirty |= 1u32 << (slot % 32);
    }

    /// Writes a slot to memory and forgets its register.
    pub fn flush(&mut self, asm: &mut Asm, slot: u8) {
        if let Some(r) = self.find(slot)
            && self.dirty >> (slot % 32) & 1 != 0
        {
            store(asm, r, slot_mem(slot));
        }
        self.forget(slot);
    }

    /// Writes every guest slot that is newer to memory; all stay in their registers. Changes no flags.
    pub fn write_back(&mut self, asm: &mut Asm) {
        for (slot, r) in self.dirty_slots() {
            store(asm, r, slot_mem(slot));
        }
        self.dirty &= !((1u32 << VTEMP0) - 1);
    }

    /// Writes everything to memory and empties all registers.
    pub fn flush_all(&mut self, asm: &mut Asm) {
        for slot in 0..VSLOTS {
            self.flush(asm, slot);
        }
    }

    /// The guest slots that are newer than memory, each with its register.
    pub fn dirty_slots(&self) -> impl Iterator<Item = (u8, u8)> + use<> {
        let (dirty, at) = (self.dirty, self.at);
        (0..VTEMP0).filter(move |&slot| dirty >> slot & 1 != 0).map(move |slot| (slot, at[usize::from(slot)]))
    }
}
