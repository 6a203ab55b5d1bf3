//! Constructors of common [`Op`]s.

use crate::{Alu, NONE, Name, Op, Opcode, SET_FLAGS, Shift, Unary, VecOp, VecShape, W64};

/// A memory operand: linear address `base + (index << scale) + disp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mem {
    /// Base name or [`NONE`].
    pub base: Name,
    /// Index name or [`NONE`].
    pub index: Name,
    /// Log2 of the index factor, 0..=3.
    pub scale: u8,
    /// Displacement.
    pub disp: i64,
    /// Memory flags for `Op::k`.
    pub flags: u8,
}

impl Mem {
    /// `[base + disp]`.
    pub fn at(base: Name, disp: i64) -> Mem {
        Mem { base, index: NONE, scale: 0, disp, flags: 0 }
    }

    /// The same place with more memory flags.
    pub fn with(mut self, flags: u8) -> Mem {
        self.flags |= flags;
        self
    }
}

impl Op {
    /// An op with every operand absent.
    pub fn new(op: Opcode) -> Op {
        Op { op, w: W64, d: NONE, a: NONE, b: NONE, s: 0, k: 0, pad: 0, imm: 0 }
    }

    /// Start of the guest instruction at `pc`.
    pub fn insn(pc: u64) -> Op {
        Op { imm: pc as i64, ..Op::new(Opcode::Insn) }
    }

    /// `d = a`.
    pub fn mov(w: u8, d: Name, a: Name) -> Op {
        Op { w, d, a, ..Op::new(Opcode::Mov) }
    }

    /// `d = value`.
    pub fn movi(d: Name, value: i64) -> Op {
        Op { d, imm: value, ..Op::new(Opcode::MovI) }
    }

    /// `d = zero_extend(a)`.
    pub fn zx(w: u8, d: Name, a: Name) -> Op {
        Op { w, d, a, ..Op::new(Opcode::Zx) }
    }

    /// `d = sign_extend(a)` from width `w` to width `to`.
    pub fn sx(w: u8, to: u8, d: Name, a: Name) -> Op {
        Op { w, d, a, k: to, ..Op::new(Opcode::Sx) }
    }

    /// Low `w` bits of `a` into `d`.
    pub fn dep(w: u8, d: Name, a: Name) -> Op {
        Op { w, d, a, ..Op::new(Opcode::Dep) }
    }

    /// `d = a + (b << scale) + disp`.
    pub fn lea(w: u8, d: Name, m: Mem) -> Op {
        Op { w, d, a: m.base, b: m.index, s: m.scale, imm: m.disp, ..Op::new(Opcode::Lea) }
    }

    /// `d = a (kind) b`; defines the flags when `flags`.
    pub fn alu(kind: Alu, w: u8, d: Name, a: Name, b: Name, flags: bool) -> Op {
        Op { w, d, a, b, s: if flags { SET_FLAGS } else { 0 }, k: kind as u8, ..Op::new(Opcode::Alu) }
    }

    /// `d = a (kind) value`.
    pub fn alui(kind: Alu, w: u8, d: Name, a: Name, value: i64, flags: bool) -> Op {
        Op { imm: value, ..Op::alu(kind, w, d, a, NONE, flags) }
    }

    /// `d = a (kind) count`, count in a name.
    pub fn shift(kind: Shift, w: u8, d: Name, a: Name, count: Name, flags: bool) -> Op {
        Op {
            w,
            d,
            a,
            b: count,
            s: if flags { SET_FLAGS } else { 0 },
            k: kind as u8,
            ..Op::new(Opcode::Shift)
        }
    }

    /// `d = a (kind) count`, constant count.
    pub fn shifti(kind: Shift, w: u8, d: Name, a: Name, count: i64, flags: bool) -> Op {
        Op { imm: count, ..Op::shift(kind, w, d, a, NONE, flags) }
    }

    /// `d = (kind) a`.
    pub fn unary(kind: Unary, w: u8, d: Name, a: Name, flags: bool) -> Op {
        Op { w, d, a, s: if flags { SET_FLAGS } else { 0 }, k: kind as u8, ..Op::new(Opcode::Unary) }
    }

    /// `d = cc ? 1 : 0`.
    pub fn setcc(code: u8, d: Name) -> Op {
        Op { d, k: code, ..Op::new(Opcode::SetCc) }
    }

    /// `d = cc ? a : b`.
    pub fn select(code: u8, w: u8, d: Name, a: Name, b: Name) -> Op {
        Op { w, d, a, b, k: code, ..Op::new(Opcode::Select) }
    }

    /// `d = [m]`.
    pub fn ld(w: u8, d: Name, m: Mem) -> Op {
        Op { w, d, a: m.base, b: m.index, s: m.scale, k: m.flags, imm: m.disp, ..Op::new(Opcode::Ld) }
    }

    /// `[m] = value`.
    pub fn st(w: u8, value: Name, m: Mem) -> Op {
        Op { op: Opcode::St, ..Op::ld(w, value, m) }
    }

    /// Vector slot `d` = `[m]`.
    pub fn ldv(w: u8, d: u8, m: Mem) -> Op {
        Op { op: Opcode::LdV, ..Op::ld(w, d, m) }
    }

    /// `[m]` = vector slot `value`.
    pub fn stv(w: u8, value: u8, m: Mem) -> Op {
        Op { op: Opcode::StV, ..Op::ld(w, value, m) }
    }

    /// `d` = CPU-state field.
    pub fn ldf(w: u8, d: Name, offset: usize) -> Op {
        Op { w, d, imm: offset as i64, ..Op::new(Opcode::LdF) }
    }

    /// CPU-state field = `a`.
    pub fn stf(w: u8, a: Name, offset: usize) -> Op {
        Op { w, a, imm: offset as i64, ..Op::new(Opcode::StF) }
    }

    /// A vector instruction.
    pub fn vec(shape: VecShape, w: u8, d: u8, a: u8, insn: VecOp) -> Op {
        Op { w, d, a, k: shape as u8, imm: insn.pack(), ..Op::new(Opcode::Vec) }
    }

    /// `d = helper(a, b, c, imm)`. `imm` has 48 bits (signed).
    pub fn call(helper: u16, d: Name, a: Name, b: Name, c: Name, imm: i64) -> Op {
        Op { d, a, b, s: c, imm: imm << 16 | i64::from(helper), ..Op::new(Opcode::Call) }
    }

    /// Go to `pc`.
    pub fn goto(pc: u64, chain: bool) -> Op {
        Op { k: u8::from(chain), imm: pc as i64, ..Op::new(Opcode::Goto) }
    }

    /// If `cc(code)` leave for `pc`.
    pub fn side(code: u8, pc: u64) -> Op {
        Op { k: code, imm: pc as i64, ..Op::new(Opcode::Side) }
    }

    /// Go to `pc` on condition.
    pub fn branch(code: u8, pc: u64) -> Op {
        Op { k: code, imm: pc as i64, ..Op::new(Opcode::Branch) }
    }

    /// Go to `pc` when the low bits of `a` are nonzero (or zero).
    pub fn branchz(w: u8, a: Name, if_nonzero: bool, pc: u64) -> Op {
        Op { w, a, k: u8::from(!if_nonzero), imm: pc as i64, ..Op::new(Opcode::BranchZ) }
    }

    /// Go to the pc in `a`.
    pub fn goto_reg(a: Name) -> Op {
        Op { a, ..Op::new(Opcode::GotoReg) }
    }

    /// Back to the dispatcher.
    pub fn exit() -> Op {
        Op::new(Opcode::Exit)
    }
}
