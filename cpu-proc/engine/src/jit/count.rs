//! How compiled code counts guest instructions, see [`crate::count`]. Where nothing is counted, nothing of it is emitted.

use std::mem::offset_of;

use bulkhead_ir::{Opcode, W32, W64, cc};

use super::asm::{M, reg};
use super::cold::Cold;
use super::emit::Emitter;
use super::regs::state;
use crate::count::{Counter, Tail};
use crate::state::CoreState;

use reg::{RAX, RDI};

/// The count of the block being emitted.
#[derive(Default)]
pub(super) struct Counts {
    /// Row of `Side::tails` for the whole block; 0 when nothing is counted.
    first: u32,
    /// Instructions of the block.
    total: u32,
    /// Instructions begun at the current op.
    pub begun: u32,
}

fn word(field: usize) -> M {
    state(offset_of!(CoreState, counter) + field)
}

impl Emitter<'_> {
    /// The block's entry: counts all of it, or leaves. Guest flags are in memory, and no register is taken.
    pub(super) fn count_block(&mut self) {
        if !self.target.counting {
            return;
        }
        let insns = self.block.ops.iter().filter(|op| op.op == Opcode::Insn);
        let pcs: Vec<u64> = insns.map(|op| op.imm as u64).collect();
        self.count = Counts { first: self.side.first_tail, total: pcs.len() as u32, begun: 0 };
        let tails = Tail::of(&pcs);
        let whole = tails.first().copied().unwrap_or_default();
        self.side.tails.extend(tails);
        self.asm.load(W64, RAX, word(offset_of!(Counter, count)));
        self.asm.lea(W64, RAX, M::base(RAX, whole.behind as i32));
        self.asm.rm(W64, 0x3b, RAX, word(offset_of!(Counter, limit)));
        let jump = self.asm.jcc(cc::A);
        self.cold.push(Cold::Spent { jump });
        self.asm.store(W64, RAX, word(offset_of!(Counter, count)));
        self.trace(&whole);
        self.asm.rm(W64, 0x01, RDI, word(offset_of!(Counter, trace)));
    }

    /// rdi = what the instructions of `tail` add to the hash when the count behind them is rax. Changes rax and the host's flags.
    fn trace(&mut self, tail: &Tail) {
        self.asm.mov_ri(RDI, tail.weights);
        self.asm.rr(W64, 0x0faf, RDI, RAX);
        self.asm.mov_ri(RAX, tail.distances);
        self.asm.op_rr(W64, 0x01, RDI, RAX);
    }

    /// Row of `Side::tails` for the instructions behind the current one; 0 when there are none or they are not counted.
    pub(super) fn behind(&self) -> u32 {
        match self.count.first {
            0 => 0,
            _ if self.count.begun >= self.count.total => 0,
            first => first + self.count.begun,
        }
    }

    /// Says which instructions were counted but not begun, before Rust code that may look or leave. No register or flag changes.
    pub(super) fn look_behind(&mut self, behind: u32) {
        if behind != 0 {
            let count = self.side.tail(behind).map_or(0, |tail| tail.behind);
            self.asm.mov_mi(W32, word(offset_of!(Counter, behind)), count as i32);
            self.asm.mov_mi(W32, word(offset_of!(Counter, tail)), behind as i32);
        }
    }

    /// The block goes on behind what [`Self::look_behind`] was for.
    pub(super) fn go_on(&mut self, behind: u32) {
        if behind != 0 {
            self.asm.mov_mi(W32, word(offset_of!(Counter, behind)), 0);
            self.asm.mov_mi(W32, word(offset_of!(Counter, tail)), 0);
        }
    }

    /// The block is left before the instructions of row `behind`: takes them back. Changes rax, rdi and the host's flags.
    pub(super) fn take_back(&mut self, behind: u32) {
        if let Some(tail) = self.side.tail(behind) {
            self.asm.load(W64, RAX, word(offset_of!(Counter, count)));
            self.trace(&tail);
            self.asm.rm(W64, 0x29, RDI, word(offset_of!(Counter, trace)));
            self.asm.alu_mi8(W64, 5, word(offset_of!(Counter, count)), tail.behind as i8);
        }
    }
}
