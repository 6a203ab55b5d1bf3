//! The guest's flags, stored as late as possible.
//!
//! Most flags that an access or a side exit could show are never looked at. Where the operands of the instruction that set them
//! stay in guest slots, nothing is stored: the side table says how to find them out ([`Pending`]), and code that wants them
//! after all repeats the instruction.

use bulkhead_ir::liveness::{Life, bit};
use bulkhead_ir::{Alu, NONE, Name, Op, Opcode, SET_FLAGS, TEMP0, VecShape, W32, W64};

use super::asm::{M, reg};
use super::emit::Emitter;
use crate::interp::alu;
use crate::state::CoreState;

/// How the flags follow from guest slots: those of `kind` on slot `a` and slot `b`, or `imm` when that is [`NONE`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pending {
    /// `And`, `Sub`, or `Add`.
    kind: Alu,
    w: u8,
    a: Name,
    b: Name,
    imm: i32,
    /// Slot `a` is the result with `imm`; the first operand was what the inverse gives.
    undo: bool,
}

impl Pending {
    fn slots(self) -> u64 {
        bit(self.a) | bit(self.b)
    }

    /// Sets the flags of `core` from its slots.
    pub fn resolve(self, core: &mut CoreState) {
        let slot = |name: Name| core.slots[usize::from(name) % core.slots.len()];
        let imm = i64::from(self.imm) as u64;
        let a = match (self.undo, self.kind) {
            (false, _) => slot(self.a),
            (true, Alu::Add) => slot(self.a).wrapping_sub(imm),
            (true, _) => slot(self.a).wrapping_add(imm),
        };
        let b = if self.b == NONE { imm } else { slot(self.b) };
        alu::alu(core, self.kind as u8, self.w, a, b, true);
    }
}

/// The slot that an op redefines, of those which leave the host's flags alone or need no flags themselves; `None` for the other ops.
fn plain(op: &Op) -> Option<Name> {
    match op.op {
        Opcode::Alu if op.k == Alu::Adc as u8 || op.k == Alu::Sbb as u8 => None,
        Opcode::Mov
        | Opcode::MovI
        | Opcode::Zx
        | Opcode::Sx
        | Opcode::Dep
        | Opcode::DepH
        | Opcode::ExtH
        | Opcode::Lea
        | Opcode::Alu
        | Opcode::Mul
        | Opcode::Ld
        | Opcode::LdF => Some(op.d),
        Opcode::Vec if op.k == VecShape::GV as u8 => Some(op.d),
        Opcode::Insn
        | Opcode::St
        | Opcode::LdV
        | Opcode::StV
        | Opcode::StF
        | Opcode::Vec
        | Opcode::Canonical => Some(NONE),
        _ => None,
    }
}

impl Emitter<'_> {
    /// Before an op: flags that it would make impossible to find out are put where they stay. Returns what is to be forgotten
    /// after it.
    pub(super) fn before_op(&mut self, op: &Op, life: Life) -> Option<Pending> {
        let pending = self.pending?;
        let Some(d) = plain(op) else {
            self.revive();
            if op.op != Opcode::Side {
                self.pending = None;
            }
            return None;
        };
        let lost = pending.slots() & (bit(d) | !life.names);
        if lost == 0 {
            return None;
        }
        let sets = matches!(op.op, Opcode::Alu | Opcode::Mul) && op.s & SET_FLAGS != 0;
        if sets {
            self.pending = None;
            return None;
        }
        if life.flags == 0 {
            // Only the op itself may still show them, if it faults.
            return Some(pending);
        }
        if !self.host && !self.mem {
            self.revive();
            self.save_flags();
        }
        self.pending = None;
        None
    }

    /// After the op: see [`Emitter::before_op`].
    pub(super) fn after_op(&mut self, lost: Option<Pending>) {
        if lost.is_some() && self.pending == lost {
            self.pending = None;
        }
    }

    /// Repeats the instruction that set the flags, if they are nowhere else: the host's are the guest's. May change rax.
    pub(super) fn revive(&mut self) {
        if self.host || self.mem {
            return;
        }
        let Some(p) = self.pending else { return };
        let a = self.read(p.a);
        if p.undo {
            let back = if p.kind == Alu::Add { p.imm.wrapping_neg() } else { p.imm };
            self.asm.lea(p.w, reg::RAX, M::base(a, back));
            self.asm.alu_ri(p.w, if p.kind == Alu::Add { 0 } else { 7 }, reg::RAX, p.imm);
        } else {
            match (p.kind, p.b) {
                (Alu::And, NONE) => self.asm.op_rr_test_imm(p.w, a, p.imm),
                (_, NONE) => self.asm.alu_ri(p.w, 7, a, p.imm),
                (kind, b) => {
                    let b = self.read(b);
                    self.asm.op_rr(p.w, if kind == Alu::And { 0x85 } else { 0x39 }, a, b);
                }
            }
        }
        self.host = true;
    }

    /// Notes how the flags that `op` has just set can be found out, with `imm` its second operand if that is a constant.
    pub(super) fn note_pending(&mut self, op: &Op, imm: Option<i32>, life: Life) {
        let slot = |name: Name| name < TEMP0;
        let result = slot(op.d) && (op.w == W32 || op.w == W64);
        let whole = Pending { kind: Alu::And, w: op.w, a: op.d, b: op.d, imm: 0, undo: false };
        let pending = match (op.k, imm) {
            (k, _) if [Alu::And, Alu::Or, Alu::Xor].map(|k| k as u8).contains(&k) && result => Some(whole),
            (k, imm) if op.d == NONE && slot(op.a) && (k == Alu::Sub as u8 || k == Alu::And as u8) => {
                let kind = if k == Alu::And as u8 { Alu::And } else { Alu::Sub };
                match imm {
                    Some(imm) => Some(Pending { kind, a: op.a, b: NONE, imm, ..whole }),
                    None if slot(op.b) => Some(Pending { kind, a: op.a, b: op.b, ..whole }),
                    None => None,
                }
            }
            (k, Some(imm)) if result && imm != i32::MIN && (k == Alu::Add as u8 || k == Alu::Sub as u8) => {
                let kind = if k == Alu::Add as u8 { Alu::Add } else { Alu::Sub };
                Some(Pending { kind, b: NONE, imm, undo: true, ..whole })
            }
            _ => None,
        };
        self.pending = pending.filter(|p| p.slots() & !life.names == 0);
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_ir::{Alu, Mem, NONE, Op, TEMP0, W64, cc};

    use crate::Engine;
    use crate::testing::{Rig, stop_ops};

    #[test]
    fn flags_outlive_an_operation_on_memory_that_sets_none() {
        // Compares slots 1 and 2, adds a word of memory to slot 1, and tells in slot 3 whether they were equal.
        let mut rig = Rig::new(|out, word, pc| match word {
            1 => out.push(Op::alu(Alu::Sub, W64, NONE, 1, 2, true)),
            2 => {
                out.push(Op::ld(W64, TEMP0, Mem::at(8, 0)));
                out.push(Op::alu(Alu::Add, W64, 1, 1, TEMP0, false));
            }
            3 => out.push(Op::setcc(cc::E, 3)),
            _ => stop_ops(out, pc),
        });
        (0..4).for_each(|at| rig.machine().put32(0x1000 + 4 * at, [1, 2, 3, 0][at]));
        rig.machine().put32(0x1800, 5);
        Engine::compiling(1 << 20).expect("memory for code").attach(rig.core());
        for (other, equal) in [(7, 1), (6, 0)] {
            let slots = &mut rig.cpu.core.slots;
            (slots[1], slots[2], slots[8]) = (7, other, 0x1800);
            rig.run(0x1000);
            assert_eq!((rig.cpu.core.slots[1], rig.cpu.core.slots[3]), (12, equal));
        }
    }
}
