//! What lies outside a block's straight path: slow ways of accesses, ways out before the end, the stubs of the exits.

use std::mem::offset_of;
use std::ops::Range;

use bulkhead_ir::{Name, W32, W64, cc};

use super::asm::{M, NOREG, Patch, reg};
use super::emit::Emitter;
use super::memory::{Linear, Redo};
use super::regs::{slot_mem, state};
use super::vectors;
use crate::guest::HelperFn;
use crate::state::{CoreState, exit};

use reg::{RAX, RBP, RCX, RDI, RDX, RSI};

/// What lies outside the straight path, emitted at the block's end.
pub(super) enum Cold {
    /// Slow path of an access, and where to go on.
    Access { jump: Patch, back: usize, record: u32, store: bool, vectors: bool },
    /// The first access to a window that is not one: its own lookup, and there is no window.
    First { jump: Patch, back: usize, record: u32, search: usize, w: u8, window: u8, from: i32, narrow: bool },
    /// A load from another page than the last time: a lookup, which is remembered.
    Guess { jump: Patch, back: usize, record: u32, mode: usize, size: i32, guess: usize, vectors: bool },
    /// An access to a window that is none: its own lookup, then what follows in the straight path (`middle`), the access, and on.
    Kept {
        jump: Patch,
        record: u32,
        search: usize,
        w: u8,
        linear: Linear,
        middle: Range<usize>,
        redo: Redo,
        after: usize,
    },
    /// Alignment fault.
    Misaligned { jump: Patch, record: u32 },
    /// A way out to this pc before the end: what is newer than memory, and whether the host's flags are.
    Side { jump: Patch, flags: bool, slots: Vec<(Name, u8)>, vectors: Vec<(u8, u8)>, pc: u64, behind: u32 },
    /// What an instruction done in line leaves to the helper: first to memory with what is newer, then on at `next`.
    Helper {
        jumps: Vec<Patch>,
        slots: Vec<(Name, u8)>,
        vectors: Vec<(u8, u8)>,
        pc: u64,
        next: u64,
        func: HelperFn,
        imm: i64,
        args: [u8; 3],
        behind: u32,
    },
    /// A helper asked to leave.
    Leave { jump: Patch },
    /// The attention word was set before a jump back to this pc.
    Attention { jump: Patch, pc: u64 },
    /// The block would pass the limit of the count.
    Spent { jump: Patch },
}

impl Emitter<'_> {
    /// Stores slots that are newer in registers than in memory.
    fn store_newer(&mut self, slots: &[(Name, u8)], vectors: &[(u8, u8)]) {
        slots.iter().for_each(|&(slot, r)| self.asm.store(W64, r, slot_mem(slot)));
        vectors.iter().for_each(|&(v, r)| vectors::store(self.asm, r, vectors::slot_mem(v)));
    }

    /// Emits the cold parts.
    pub(super) fn finish(&mut self) {
        for cold in std::mem::take(&mut self.cold) {
            match cold {
                Cold::Access { jump, back, record, store, vectors } => {
                    self.asm.land(jump);
                    self.name_record(record);
                    let stubs = if vectors { &self.stubs.with_vectors } else { &self.stubs.plain };
                    self.asm.call_to(if store { stubs.store } else { stubs.load });
                    let p = self.asm.jmp();
                    self.asm.patch(p, back);
                }
                Cold::First { jump, back, record, search, w, window, from, narrow } => {
                    self.asm.land(jump);
                    if from != 0 {
                        self.asm.lea(if narrow { W32 } else { W64 }, RSI, M::base(RSI, from));
                    }
                    self.search(search, record, w);
                    self.asm.rr(W32, 0x31, window, window);
                    if from != 0 {
                        self.asm.lea(W64, RSI, M::base(RSI, -from));
                    }
                    let p = self.asm.jmp();
                    self.asm.patch(p, back);
                }
                Cold::Guess { jump, back, record, mode, size, guess, vectors } => {
                    self.asm.land(jump);
                    let slow = self.look_up_and_guess(mode, size, guess);
                    let p = self.asm.jmp();
                    self.asm.patch(p, back);
                    self.asm.land(slow);
                    self.name_record(record);
                    let stubs = if vectors { &self.stubs.with_vectors } else { &self.stubs.plain };
                    self.asm.call_to(stubs.load);
                    self.asm.rr(W32, 0x31, RDI, RDI);
                    let p = self.asm.jmp();
                    self.asm.patch(p, back);
                }
                Cold::Kept { jump, record, search, w, linear, middle, redo, after } => {
                    self.asm.land(jump);
                    self.address(&linear);
                    self.search(search, record, w);
                    self.asm.repeat(middle);
                    self.redo(redo, M::base(RSI, 0));
                    let p = self.asm.jmp();
                    self.asm.patch(p, after);
                }
                Cold::Misaligned { jump, record } => {
                    self.asm.land(jump);
                    self.name_record(record);
                    self.asm.call_to(self.stubs.with_vectors.misaligned);
                }
                Cold::Side { jump, flags, slots, vectors, pc, behind } => {
                    self.asm.land(jump);
                    if flags {
                        self.save_flags();
                    }
                    self.store_newer(&slots, &vectors);
                    self.take_back(behind);
                    self.go(pc);
                }
                Cold::Helper { jumps, slots, vectors, pc, next, func, imm, args, behind } => {
                    jumps.into_iter().for_each(|jump| self.asm.land(jump));
                    self.store_newer(&slots, &vectors);
                    // Through memory, because one may be in another's register.
                    let place = |i: usize| state(offset_of!(CoreState, spill) + 8 * i);
                    for (i, &r) in args.iter().enumerate().filter(|&(_, &r)| r != NOREG) {
                        self.asm.store(W64, r, place(i));
                    }
                    for (i, to) in [RSI, RDX, RCX].into_iter().enumerate().filter(|&(i, _)| args[i] != NOREG)
                    {
                        self.asm.load(W64, to, place(i));
                    }
                    self.asm.mov_fixed(8, imm as u64);
                    self.asm.lea(W64, RDI, M::base(RBP, -128));
                    self.store_pc(pc);
                    self.store_running();
                    self.look_behind(behind);
                    self.asm.call_abs(func as usize as u64);
                    self.asm.moves.follows(next);
                    self.asm.alu_mi8(W32, 7, state(offset_of!(CoreState, exit)), 0);
                    let leaves = self.asm.jcc(cc::NE);
                    self.go_on(behind);
                    self.take_back(behind);
                    self.asm.mov_ri(RSI, next);
                    self.asm.jmp_to(self.stubs.lookup);
                    self.asm.land(leaves);
                    self.leave();
                }
                Cold::Leave { jump } => {
                    self.asm.land(jump);
                    self.leave();
                }
                Cold::Spent { jump } => {
                    self.asm.land(jump);
                    self.store_pc(self.block.pc);
                    self.asm.mov_mi(W32, state(offset_of!(CoreState, exit)), exit::SPENT as i32);
                    self.leave();
                }
                Cold::Attention { jump, pc } => {
                    self.asm.land(jump);
                    self.asm.mov_ri(RSI, pc);
                    self.asm.jmp_to(self.stubs.attention);
                }
            }
        }
        let mut exits = std::mem::take(&mut self.exits);
        for (i, exit) in exits.iter_mut().enumerate() {
            exit.stub = self.asm.here();
            self.asm.land(exit.patch);
            // The result names the link, plus one.
            self.asm.mov_fixed(RAX, u64::from(self.target.first_link) + i as u64 + 1);
            self.asm.jmp_to(self.stubs.leave);
        }
        self.exits = exits;
    }
}
