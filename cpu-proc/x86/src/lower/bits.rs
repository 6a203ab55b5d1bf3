//! Bit tests, bit scans and double shifts.

use bulkhead_ir::{Alu, Bit, NONE, Name, Op, Opcode, Shift, Unary, W32, W64};
use iced_x86::{Instruction, Mnemonic, OpKind};

use super::ctx::{Ctx, Src, gpr, width_of};
use super::ea::{Addr, Ea};
use super::feature;
use super::int::{RCX, locked, modify_at, shift_by};
use crate::helpers::arith;
use crate::helpers::misc::Locked;

/// Lowers `insn`; false when it is not one of this module's.
pub fn lower(ctx: &mut Ctx, insn: &Instruction) -> bool {
    use Mnemonic as M;
    match insn.mnemonic() {
        M::Bt => bit(ctx, insn, Bit::Test),
        M::Bts => bit(ctx, insn, Bit::Set),
        M::Btr => bit(ctx, insn, Bit::Reset),
        M::Btc => bit(ctx, insn, Bit::Complement),
        M::Bsf => scan(ctx, insn, 0),
        M::Bsr => scan(ctx, insn, 1),
        M::Lzcnt if ctx.feature(feature::ABM) => lzcnt(ctx, insn),
        M::Shld => double_shift(ctx, insn, 0),
        M::Shrd => double_shift(ctx, insn, 1),
        _ => return false,
    }
    true
}

fn bit_op(ctx: &mut Ctx, k: Bit, w: u8, d: Name, a: Name, index: Src) {
    let (b, imm) = index.parts();
    ctx.op(Op { w, d, a, b, k: k as u8, imm, ..Op::new(Opcode::Bit) });
}

/// The address of the bit string's element that holds bit `index` (signed, `w` wide) of the memory operand.
fn element(ctx: &mut Ctx, insn: &Instruction, w: u8, index: Name, write: bool) -> Addr {
    let ea = ctx.ea(insn);
    let wide = if w == W64 { index } else { ctx.sx(w, W64, index) };
    let elements = shift_by(ctx, Shift::Sar, W64, wide, 3 + i64::from(w));
    let bytes = shift_by(ctx, Shift::Shl, W64, elements, i64::from(w));
    let offset = ea.offset(ctx);
    let there = ctx.temp();
    ctx.op(Op { w: ea.w, d: there, a: offset, b: bytes, ..Op::new(Opcode::Lea) });
    Ea::at_name(ea.seg, there, 0, ea.w).resolve(ctx, w, write)
}

fn bit(ctx: &mut Ctx, insn: &Instruction, k: Bit) {
    let index = match insn.op1_kind() {
        OpKind::Register => Src::Name(gpr(insn.op1_register()).0),
        _ => Src::Imm(i64::from(insn.immediate8())),
    };
    if insn.op0_kind() != OpKind::Memory {
        let reg = insn.op0_register();
        let w = width_of(reg.size());
        let a = gpr(reg).0;
        if k == Bit::Test {
            return bit_op(ctx, k, w, NONE, a, index);
        }
        let d = ctx.dest_reg(reg);
        bit_op(ctx, k, w, d, a, index);
        return ctx.finish_reg(reg, d);
    }
    let w = Ctx::op_width(insn, 0);
    let addr = match index {
        Src::Name(index) => element(ctx, insn, w, index, k != Bit::Test),
        Src::Imm(_) => ctx.addr(insn, w, k != Bit::Test),
    };
    if k == Bit::Test {
        let value = ctx.ld(w, addr, 0);
        return bit_op(ctx, k, w, NONE, value, index);
    }
    if insn.has_lock_prefix() {
        let (kind, mask) = locked_bit(ctx, k, w, index);
        let at = addr.to_name(ctx);
        let old = locked(ctx, at, w, kind, mask, NONE);
        let new = ctx.temp();
        return bit_op(ctx, k, w, new, old, index);
    }
    modify_at(ctx, addr, w, |ctx, d, old| bit_op(ctx, k, w, d, old, index));
}

/// How memory changes by a locked `k` of bit `index`.
fn locked_bit(ctx: &mut Ctx, k: Bit, w: u8, index: Src) -> (Locked, Name) {
    let count = ctx.temp();
    let one = ctx.movi(1);
    let (from, bits) = match index {
        Src::Name(name) => (name, (8 << w) - 1),
        Src::Imm(value) => (ctx.movi(value), (8 << w) - 1),
    };
    ctx.alu(Alu::And, W64, count, from, Src::Imm(bits), false);
    let bit = ctx.temp();
    let shift = Op { w: W64, d: bit, a: one, b: count, k: Shift::Shl as u8, ..Op::new(Opcode::Shift) };
    ctx.op(shift);
    if k != Bit::Reset {
        return (if k == Bit::Set { Locked::Or } else { Locked::Xor }, bit);
    }
    let others = ctx.temp();
    ctx.op(Op { w: W64, d: others, a: bit, k: Unary::Not as u8, ..Op::new(Opcode::Unary) });
    (Locked::And, others)
}

fn scan(ctx: &mut Ctx, insn: &Instruction, k: u8) {
    let reg = insn.op0_register();
    let w = width_of(reg.size());
    let mut a = ctx.read(insn, 1, 0);
    if w == W32 && insn.op1_kind() == OpKind::Register {
        a = ctx.zx(w, a);
    }
    let b = gpr(reg).0;
    let d = ctx.dest_reg(reg);
    // 64 bits for 32: without a set bit the processor leaves the whole register alone.
    ctx.op(Op { w: if w == W32 { W64 } else { w }, d, a, b, k, ..Op::new(Opcode::Scan) });
    ctx.finish_reg(reg, d);
}

fn lzcnt(ctx: &mut Ctx, insn: &Instruction) {
    let w = Ctx::op_width(insn, 1);
    let a = ctx.read(insn, 1, 0);
    let value = ctx.zx(w, a);
    let d = ctx.call(arith::LZCNT, value, NONE, NONE, u64::from(w));
    ctx.write_reg(insn.op0_register(), d);
}

fn double_shift(ctx: &mut Ctx, insn: &Instruction, k: u8) {
    let fill = gpr(insn.op1_register()).0;
    let (s, imm) = match insn.op2_kind() {
        OpKind::Register => (RCX, 0),
        _ => (NONE, i64::from(insn.immediate8())),
    };
    let emit = |ctx: &mut Ctx, w, d, a| {
        ctx.op(Op { w, d, a, b: fill, s, k, imm, ..Op::new(Opcode::DShift) });
    };
    if insn.op0_kind() != OpKind::Memory {
        let reg = insn.op0_register();
        let w = width_of(reg.size());
        let d = ctx.dest_reg(reg);
        emit(ctx, w, d, gpr(reg).0);
        return ctx.finish_reg(reg, d);
    }
    let w = Ctx::op_width(insn, 0);
    let addr = ctx.addr(insn, w, true);
    modify_at(ctx, addr, w, |ctx, d, old| emit(ctx, w, d, old));
}
