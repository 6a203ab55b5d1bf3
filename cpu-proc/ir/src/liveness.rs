//! Which names and flags each op reads and defines, and the backward pass over a block.

use crate::{
    Alu, Bit, Block, FLAG_C, FLAGS_ALL, HelperInfo, NAMES, NONE, Name, Op, Opcode, SET_FLAGS, Shift, TEMP0,
    Unary, VecShape, cc_reads,
};

/// All guest slots as a name set.
pub const ALL_SLOTS: u64 = (1 << TEMP0) - 1;

/// What an op touches. Names are bits of a `u64`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Names whose value is needed.
    pub reads: u64,
    /// Names wholly redefined.
    pub defs: u64,
    /// Flags needed.
    pub flags_read: u8,
    /// Flags wholly redefined (or left undefined by the guest architecture).
    pub flags_def: u8,
    /// May leave the block here with the state as of this instruction: every slot and flag must be recoverable.
    pub observes: bool,
}

/// What is live after an op.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// Names needed later, a bit each.
    pub names: u64,
    /// Flags needed later.
    pub flags: u8,
}

/// The bit of a name; none for [`NONE`] and anything out of range.
pub fn bit(name: Name) -> u64 {
    if name < NAMES { 1 << name } else { 0 }
}

/// Effects of one op. `helper` looks up [`Opcode::Call`] targets; an unknown helper is taken to touch everything.
pub fn effects(op: &Op, helper: impl Fn(u16) -> Option<HelperInfo>) -> Effects {
    let mut e = Effects::default();
    let sets = op.s & SET_FLAGS != 0;
    match op.op {
        Opcode::Insn => {}
        Opcode::Mov | Opcode::Zx | Opcode::Sx | Opcode::ExtH => {
            e.reads = bit(op.a);
            e.defs = bit(op.d);
        }
        Opcode::MovI | Opcode::LdF => e.defs = bit(op.d),
        Opcode::Dep | Opcode::DepH => e.reads = bit(op.a) | bit(op.d),
        Opcode::Lea => {
            e.reads = bit(op.a) | bit(op.b);
            e.defs = bit(op.d);
        }
        Opcode::Alu => {
            e.reads = bit(op.a) | bit(op.b);
            e.defs = bit(op.d);
            if op.k == Alu::Adc as u8 || op.k == Alu::Sbb as u8 {
                e.flags_read = FLAG_C;
            }
            if sets {
                e.flags_def = FLAGS_ALL;
            }
        }
        Opcode::Shift => {
            e.reads = bit(op.a) | bit(op.b);
            e.defs = bit(op.d);
            if op.k == Shift::Rcl as u8 || op.k == Shift::Rcr as u8 {
                e.flags_read = FLAG_C;
            }
            if sets && shift_always_defines(op) {
                e.flags_def = if op.k >= Shift::Shl as u8 { FLAGS_ALL } else { FLAG_C | crate::FLAG_O };
            }
        }
        Opcode::DShift => {
            e.reads = bit(op.a) | bit(op.b) | bit(op.s);
            e.defs = bit(op.d);
            if op.s == NONE && masked_count(op) != 0 {
                e.flags_def = FLAGS_ALL;
            }
        }
        Opcode::Unary => {
            e.reads = bit(op.a);
            e.defs = bit(op.d);
            if sets {
                e.flags_def = match op.k {
                    k if k == Unary::Neg as u8 => FLAGS_ALL,
                    k if k == Unary::Inc as u8 || k == Unary::Dec as u8 => FLAGS_ALL & !FLAG_C,
                    _ => 0,
                };
            }
        }
        Opcode::Mul => {
            e.reads = bit(op.a) | bit(op.b);
            e.defs = bit(op.d);
            if sets {
                e.flags_def = FLAGS_ALL;
            }
        }
        Opcode::MulWide => {
            e.reads = bit(op.a) | bit(op.b);
            e.defs = bit(op.d) | bit(op.s);
            e.flags_def = FLAGS_ALL;
        }
        Opcode::Bit => {
            e.reads = bit(op.a) | bit(op.b);
            e.defs = if op.k == Bit::Test as u8 { 0 } else { bit(op.d) };
            e.flags_def = FLAG_C;
        }
        Opcode::Scan => {
            e.reads = bit(op.a) | bit(op.b);
            e.defs = bit(op.d);
            e.flags_def = FLAGS_ALL;
        }
        Opcode::SetCc => {
            e.defs = bit(op.d);
            e.flags_read = cc_reads(op.k);
        }
        Opcode::Select => {
            e.reads = bit(op.a) | bit(op.b);
            e.defs = bit(op.d);
            e.flags_read = cc_reads(op.k);
        }
        Opcode::GetFlags => {
            e.defs = bit(op.d);
            e.flags_read = FLAGS_ALL;
        }
        Opcode::SetFlags => {
            e.reads = bit(op.a);
            e.flags_def = op.k & FLAGS_ALL;
        }
        Opcode::SetCarry => {
            e.flags_def = FLAG_C;
            if op.k == 2 {
                e.flags_read = FLAG_C;
            }
        }
        Opcode::Ld => {
            e.reads = bit(op.a) | bit(op.b);
            e.defs = bit(op.d);
            e.observes = true;
        }
        Opcode::St => {
            e.reads = bit(op.a) | bit(op.b) | bit(op.d);
            e.observes = true;
        }
        Opcode::LdV | Opcode::StV => {
            e.reads = bit(op.a) | bit(op.b);
            e.observes = true;
        }
        Opcode::StF => e.reads = bit(op.a),
        Opcode::Canonical => {
            e.reads = bit(op.a);
            e.observes = true;
        }
        Opcode::Vec => match op.k {
            k if k == VecShape::GV as u8 => e.defs = bit(op.d),
            k if k == VecShape::VG as u8 => e.reads = bit(op.a),
            k if k == VecShape::Flags as u8 => e.flags_def = FLAGS_ALL,
            _ => {}
        },
        Opcode::Call => {
            e.reads = bit(op.a) | bit(op.b) | bit(op.s);
            e.defs = bit(op.d);
            match helper(op.imm as u16) {
                Some(info) => {
                    e.reads |= u64::from(info.reads);
                    // A write is not known to happen on every path, so it kills nothing.
                    e.reads |= u64::from(info.writes) & !e.defs;
                    e.flags_read = info.flags_read | info.flags_written;
                    e.observes = info.may_exit;
                }
                None => {
                    e.reads |= ALL_SLOTS;
                    e.flags_read = FLAGS_ALL;
                    e.observes = true;
                }
            }
        }
        Opcode::Goto | Opcode::Exit => e.observes = true,
        Opcode::Side | Opcode::Branch => {
            e.flags_read = cc_reads(op.k);
            e.observes = true;
        }
        Opcode::BranchZ | Opcode::GotoReg => {
            e.reads = bit(op.a);
            e.observes = true;
        }
    }
    e
}

/// The constant count of a shift by immediate, masked as x86 does.
pub fn masked_count(op: &Op) -> u32 {
    op.imm as u32 & if op.w == crate::W64 { 63 } else { 31 }
}

fn shift_always_defines(op: &Op) -> bool {
    op.b == NONE && masked_count(op) != 0
}

/// The backward pass: fills `out` with one [`Life`] per op of `block`.
pub fn analyse(block: &Block, helper: impl Fn(u16) -> Option<HelperInfo>, out: &mut Vec<Life>) {
    out.clear();
    out.resize(block.ops.len(), Life::default());
    let mut live = Life { names: ALL_SLOTS, flags: FLAGS_ALL };
    for (op, life) in block.ops.iter().zip(out.iter_mut()).rev() {
        *life = live;
        let e = effects(op, &helper);
        live.names = live.names & !e.defs | e.reads;
        live.flags = live.flags & !e.flags_def | e.flags_read;
        if e.observes {
            live.names |= ALL_SLOTS;
            live.flags = FLAGS_ALL;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Mem, W32, W64, cc};

    fn lives(ops: &[Op]) -> Vec<Life> {
        let mut block = Block::default();
        ops.iter().for_each(|&op| block.push(op));
        let mut out = Vec::new();
        analyse(&block, |_| None, &mut out);
        out
    }

    #[test]
    fn flags_overwritten_before_any_observer_are_dead() {
        let l = lives(&[
            Op::alui(Alu::Add, W32, 0, 0, 1, true),
            Op::alui(Alu::Sub, W32, NONE, 0, 1, true),
            Op::branch(cc::E, 0),
        ]);
        assert_eq!(l[0].flags, 0);
        assert_eq!(l[1].flags, FLAGS_ALL);
    }

    #[test]
    fn a_load_between_two_setters_keeps_the_first_alive() {
        let l = lives(&[
            Op::alui(Alu::Add, W32, 0, 0, 1, true),
            Op::ld(W32, 40, Mem::at(1, 0)),
            Op::alu(Alu::Sub, W32, NONE, 0, 40, true),
            Op::branch(cc::E, 0),
        ]);
        assert_eq!(l[0].flags, FLAGS_ALL);
    }

    #[test]
    fn increment_keeps_the_carry_of_its_predecessor_alive() {
        let l = lives(&[
            Op::alui(Alu::Add, W32, 0, 0, 1, true),
            Op::unary(Unary::Inc, W32, 1, 1, true),
            Op::goto(0, true),
        ]);
        assert_eq!(l[0].flags, FLAG_C);
    }

    #[test]
    fn a_temporary_dies_at_its_last_use_and_slots_live_at_the_end() {
        let l = lives(&[Op::movi(40, 1), Op::mov(W64, 2, 40), Op::exit()]);
        assert_ne!(l[0].names & bit(40), 0);
        assert_eq!(l[1].names, ALL_SLOTS);
        assert_eq!(l[0].names & bit(2), 0);
    }
}
