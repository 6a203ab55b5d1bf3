//! Moves, arithmetic, logic and conversions on general registers.

use bulkhead_ir::{
    Alu, FLAG_A, FLAG_C, FLAG_P, FLAG_S, FLAG_Z, LD_FOR_WRITE, NONE, Name, Op, Opcode, SET_FLAGS, Shift,
    Unary, W8, W16, W32, W64, cc,
};
use iced_x86::{Code, ConditionCode, Instruction, Mnemonic, OpKind, Register};

use super::ctx::{Ctx, Src, gpr, width_of};
use super::ea::{Addr, Ea};
use super::feature;
use super::system;
use crate::helpers::arith;
use crate::helpers::ids::Sys;
use crate::helpers::misc::Locked;

/// Slot of the accumulator.
pub const RAX: Name = 0;
/// Slot of the counter.
pub const RCX: Name = 1;
/// Slot of the data register.
pub const RDX: Name = 2;
/// Slot of the base register.
pub const RBX: Name = 3;
/// Slot of the stack pointer.
pub const RSP: Name = 4;
/// Slot of the frame pointer.
pub const RBP: Name = 5;

/// The condition code of a `Jcc`, `SETcc` or `CMOVcc`.
pub fn condition(insn: &Instruction) -> Option<u8> {
    match insn.condition_code() {
        ConditionCode::None => None,
        code => Some((code as u8).wrapping_sub(1) & 15),
    }
}

/// Lowers `insn`; false when it is not one of this module's.
pub fn lower(ctx: &mut Ctx, insn: &Instruction) -> bool {
    use Mnemonic as M;
    match insn.mnemonic() {
        M::Mov => mov(ctx, insn),
        M::Lea => lea(ctx, insn),
        M::Add => alu(ctx, insn, Alu::Add),
        M::Or => alu(ctx, insn, Alu::Or),
        M::Adc => alu(ctx, insn, Alu::Adc),
        M::Sbb => alu(ctx, insn, Alu::Sbb),
        M::And => alu(ctx, insn, Alu::And),
        M::Sub => alu(ctx, insn, Alu::Sub),
        M::Xor => alu(ctx, insn, Alu::Xor),
        M::Cmp => compare(ctx, insn, Alu::Sub),
        M::Test => compare(ctx, insn, Alu::And),
        M::Inc => unary(ctx, insn, Unary::Inc),
        M::Dec => unary(ctx, insn, Unary::Dec),
        M::Neg => unary(ctx, insn, Unary::Neg),
        M::Not => unary(ctx, insn, Unary::Not),
        M::Rol => shift(ctx, insn, Shift::Rol),
        M::Ror => shift(ctx, insn, Shift::Ror),
        M::Rcl => shift(ctx, insn, Shift::Rcl),
        M::Rcr => shift(ctx, insn, Shift::Rcr),
        M::Shl | M::Sal => shift(ctx, insn, Shift::Shl),
        M::Shr => shift(ctx, insn, Shift::Shr),
        M::Sar => shift(ctx, insn, Shift::Sar),
        M::Movzx => movzx(ctx, insn),
        M::Movsx | M::Movsxd => movsx(ctx, insn),
        M::Xchg => xchg(ctx, insn),
        M::Xadd => xadd(ctx, insn),
        M::Cmpxchg => cmpxchg(ctx, insn),
        M::Cmpxchg8b if ctx.feature(feature::CX8) => cmpxchg_pair(ctx, insn, W64, 0),
        M::Cmpxchg16b if ctx.feature(feature::CX16) => cmpxchg_pair(ctx, insn, 4, 1),
        M::Mul => mul_wide(ctx, insn, 0),
        M::Imul if insn.op_count() == 1 => mul_wide(ctx, insn, 1),
        M::Imul => imul(ctx, insn),
        M::Div => div(ctx, insn, Sys::Div),
        M::Idiv => div(ctx, insn, Sys::Idiv),
        M::Cbw | M::Cwde | M::Cdqe => sign_extend_accumulator(ctx, insn.mnemonic()),
        M::Cwd | M::Cdq | M::Cqo => sign_fill(ctx, insn.mnemonic()),
        M::Bswap => bswap(ctx, insn),
        M::Xlatb => xlat(ctx, insn),
        M::Lahf | M::Sahf if ctx.code64() && !ctx.feature(feature::LAHF_LM) => return false,
        M::Lahf => {
            let flags = get_flags(ctx);
            let with_one = ctx.temp();
            ctx.alu(Alu::Or, W32, with_one, flags, Src::Imm(2), false);
            ctx.op(Op { w: W8, d: RAX, a: with_one, ..Op::new(Opcode::DepH) });
        }
        M::Sahf => {
            let ah = ctx.read_reg(Register::AH);
            set_flags(ctx, ah, FLAG_S | FLAG_Z | FLAG_A | FLAG_P | FLAG_C);
        }
        M::Clc => set_carry(ctx, 0),
        M::Stc => set_carry(ctx, 1),
        M::Cmc => set_carry(ctx, 2),
        M::Salc => {
            let d = ctx.temp();
            ctx.alu(Alu::Sbb, W8, d, RAX, Src::Name(RAX), false);
            ctx.write_reg(Register::AL, d);
        }
        M::Daa => ctx.sys(Sys::Decimal, 0),
        M::Das => ctx.sys(Sys::Decimal, 1),
        M::Aaa => ctx.sys(Sys::Decimal, 2),
        M::Aas => ctx.sys(Sys::Decimal, 3),
        M::Aam => ctx.sys(Sys::Aam, u64::from(insn.immediate8())),
        M::Aad => ctx.sys(Sys::Aad, u64::from(insn.immediate8())),
        M::Popcnt if ctx.feature(feature::POPCNT) => popcnt(ctx, insn),
        M::Crc32 if ctx.feature(feature::SSE42) => {
            let w = Ctx::op_width(insn, 1);
            let value = ctx.read(insn, 1, 0);
            let d = gpr(insn.op0_register()).0;
            let crc = ctx.call(arith::CRC32, d, value, NONE, u64::from(w));
            ctx.mov(W64, d, crc);
        }
        M::Rdrand if ctx.feature(feature::RDRAND) => {
            let w = width_of(insn.op0_register().size());
            let d = ctx.call(arith::RDRAND, NONE, NONE, NONE, u64::from(w));
            ctx.write_reg(insn.op0_register(), d);
        }
        M::Nop if insn.op_count() == 0 => {}
        // Those with an operand came with the P6, as CMOV did.
        M::Nop | M::Reservednop if ctx.feature(feature::CMOV) => {}
        M::Pause => ctx.sys(Sys::Pause, 0),
        _ => return conditional(ctx, insn),
    }
    true
}

fn conditional(ctx: &mut Ctx, insn: &Instruction) -> bool {
    let Some(code) = condition(insn) else { return false };
    // Jumps and loops carry one too.
    if !matches!(insn.op0_kind(), OpKind::Register | OpKind::Memory) {
        return false;
    }
    if insn.op_count() == 1 {
        let d = ctx.temp();
        ctx.op(Op { d, k: code, ..Op::new(Opcode::SetCc) });
        ctx.write(insn, 0, d);
        return true;
    }
    // FCMOVcc carries a condition too.
    if !insn.op0_register().is_gpr() {
        return false;
    }
    if !ctx.feature(feature::CMOV) {
        return false;
    }
    let value = ctx.read(insn, 1, 0);
    let reg = insn.op0_register();
    let old = gpr(reg).0;
    let w = width_of(reg.size()).max(W32);
    let d = ctx.dest_reg(reg);
    ctx.select(code, w, d, value, old);
    ctx.finish_reg(reg, d);
    true
}

/// A temporary with the flags in EFLAGS positions.
pub fn get_flags(ctx: &mut Ctx) -> Name {
    let d = ctx.temp();
    ctx.op(Op { d, ..Op::new(Opcode::GetFlags) });
    d
}

/// Flags of `mask` from EFLAGS positions in `a`.
pub fn set_flags(ctx: &mut Ctx, a: Name, mask: u8) {
    ctx.op(Op { a, k: mask, ..Op::new(Opcode::SetFlags) });
}

fn set_carry(ctx: &mut Ctx, k: u8) {
    ctx.op(Op { k, ..Op::new(Opcode::SetCarry) });
}

fn mov(ctx: &mut Ctx, insn: &Instruction) {
    let dest = insn.op0_kind();
    let source = insn.op1_kind();
    if system::mov_special(ctx, insn) {
        return;
    }
    if dest == OpKind::Memory {
        let value = match source {
            OpKind::Register => ctx.read_reg(insn.op1_register()),
            _ => ctx.movi(insn.try_immediate(1).unwrap_or(0) as i64),
        };
        return ctx.write(insn, 0, value);
    }
    let reg = insn.op0_register();
    let w = width_of(reg.size());
    match source {
        OpKind::Register => {
            let value = ctx.read_reg(insn.op1_register());
            ctx.write_reg(reg, value);
        }
        OpKind::Memory => {
            let addr = ctx.addr(insn, w, false);
            let d = ctx.dest_reg(reg);
            ctx.ld_to(w, d, addr, 0);
            ctx.finish_reg(reg, d);
        }
        _ => {
            let imm = insn.try_immediate(1).unwrap_or(0) as i64;
            let imm = if w == W32 { imm & 0xffff_ffff } else { imm };
            let d = ctx.dest_reg(reg);
            ctx.op(Op { d, imm, ..Op::new(Opcode::MovI) });
            ctx.finish_reg(reg, d);
        }
    }
}

fn lea(ctx: &mut Ctx, insn: &Instruction) {
    let ea = ctx.ea(insn);
    let reg = insn.op0_register();
    let d = ctx.dest_reg(reg);
    let w = match (ea.w, width_of(reg.size())) {
        (W16, _) => W16,
        (_, W64) => ea.w,
        _ => W32,
    };
    ctx.op(ea.lea(d, w));
    ctx.finish_reg(reg, d);
}

/// A binary operation whose result goes to the first operand.
fn alu(ctx: &mut Ctx, insn: &Instruction, k: Alu) {
    if insn.op0_kind() == OpKind::Memory {
        let w = Ctx::op_width(insn, 0);
        let b = ctx.src(insn, 1);
        if insn.has_lock_prefix() {
            let (kind, operand) = locked_alu(ctx, k, w, b);
            let at = ctx.linear(insn, w, true);
            let old = locked(ctx, at, w, kind, operand, NONE);
            let new = ctx.temp();
            // Only the flags are wanted.
            return ctx.alu(k, w, new, old, b, true);
        }
        if matches!(k, Alu::Adc | Alu::Sbb) {
            modify_with_carry(ctx, insn, w, |ctx, d, a, flags| ctx.alu(k, w, d, a, b, flags));
        } else {
            modify(ctx, insn, w, |ctx, d, a| ctx.alu(k, w, d, a, b, true));
        }
        return;
    }
    let reg = insn.op0_register();
    let w = width_of(reg.size());
    let b = ctx.src(insn, 1);
    let a = ctx.read_reg(reg);
    let d = ctx.dest_reg(reg);
    ctx.alu(k, w, d, a, b, true);
    ctx.finish_reg(reg, d);
}

/// Exchanges `1 << w` bytes at linear `at` in one step, see [`Locked`]; the old value.
pub fn locked(ctx: &mut Ctx, at: Name, w: u8, kind: Locked, operand: Name, expected: Name) -> Name {
    ctx.call(Sys::Locked as u16, at, operand, expected, u64::from(w) | (kind as u64) << 4)
}

/// How memory changes by a locked `k` with `b`.
fn locked_alu(ctx: &mut Ctx, k: Alu, w: u8, b: Src) -> (Locked, Name) {
    let mut operand = match b {
        Src::Name(name) => name,
        Src::Imm(value) => ctx.movi(value),
    };
    let kind = match k {
        Alu::And => return (Locked::And, operand),
        Alu::Or => return (Locked::Or, operand),
        Alu::Xor => return (Locked::Xor, operand),
        Alu::Add | Alu::Adc | Alu::Sub | Alu::Sbb => Locked::Add,
    };
    if matches!(k, Alu::Adc | Alu::Sbb) {
        let (carry, sum) = (ctx.temp(), ctx.temp());
        ctx.op(Op { d: carry, k: cc::B, ..Op::new(Opcode::SetCc) });
        ctx.alu(Alu::Add, w.max(W32), sum, operand, Src::Name(carry), false);
        operand = sum;
    }
    if matches!(k, Alu::Sub | Alu::Sbb) {
        let negative = ctx.temp();
        ctx.op(Op { w: w.max(W32), d: negative, a: operand, k: Unary::Neg as u8, ..Op::new(Opcode::Unary) });
        operand = negative;
    }
    (kind, operand)
}

/// Read-modify-write of `1 << w` bytes at memory operand 0: `emit(ctx, d, old)` computes the new value with its flags. The load
/// has made sure of the store, so that it can fault only where another CPU takes the page's permission in between: the instruction then
/// begins again, with flags that it does not depend on. Returns the old value.
pub fn modify(ctx: &mut Ctx, insn: &Instruction, w: u8, emit: impl FnOnce(&mut Ctx, Name, Name)) -> Name {
    let addr = ctx.addr(insn, w, true);
    modify_at(ctx, addr, w, emit)
}

/// As [`modify`] at a given address.
pub fn modify_at(ctx: &mut Ctx, addr: Addr, w: u8, emit: impl FnOnce(&mut Ctx, Name, Name)) -> Name {
    let old = ctx.ld(w, addr, LD_FOR_WRITE);
    let new = ctx.temp();
    emit(ctx, new, old);
    ctx.st(w, addr, new);
    old
}

/// As [`modify`] where the new value depends on the carry: `emit(ctx, d, old, flags)` computes the flags once nothing can fault any more.
fn modify_with_carry(ctx: &mut Ctx, insn: &Instruction, w: u8, emit: impl Fn(&mut Ctx, Name, Name, bool)) {
    let old = modify(ctx, insn, w, |ctx, d, a| emit(ctx, d, a, false));
    let same = ctx.temp();
    emit(ctx, same, old, true);
}

fn compare(ctx: &mut Ctx, insn: &Instruction, k: Alu) {
    let w = Ctx::op_width(insn, 0);
    let a = ctx.read(insn, 0, 0);
    let b = ctx.src(insn, 1);
    ctx.alu(k, w, NONE, a, b, true);
}

fn unary_op(ctx: &mut Ctx, k: Unary, w: u8, d: Name, a: Name) {
    let s = if matches!(k, Unary::Not | Unary::Bswap) { 0 } else { SET_FLAGS };
    ctx.op(Op { w, d, a, s, k: k as u8, ..Op::new(Opcode::Unary) });
}

fn unary(ctx: &mut Ctx, insn: &Instruction, k: Unary) {
    if insn.op0_kind() == OpKind::Memory {
        let w = Ctx::op_width(insn, 0);
        if insn.has_lock_prefix() {
            let (kind, operand) = match k {
                Unary::Inc => (Locked::Add, 1),
                Unary::Dec => (Locked::Add, -1),
                Unary::Not => (Locked::Xor, -1),
                _ => (Locked::Neg, 0),
            };
            let operand = ctx.movi(operand);
            let at = ctx.linear(insn, w, true);
            let old = locked(ctx, at, w, kind, operand, NONE);
            let new = ctx.temp();
            return unary_op(ctx, k, w, new, old);
        }
        modify(ctx, insn, w, |ctx, d, a| unary_op(ctx, k, w, d, a));
        return;
    }
    let reg = insn.op0_register();
    let w = width_of(reg.size());
    let a = ctx.read_reg(reg);
    let d = ctx.dest_reg(reg);
    unary_op(ctx, k, w, d, a);
    ctx.finish_reg(reg, d);
}

fn shift_op(ctx: &mut Ctx, k: Shift, w: u8, d: Name, a: Name, count: Src, flags: bool) {
    let s = if flags { SET_FLAGS } else { 0 };
    let (b, imm) = count.parts();
    ctx.op(Op { w, d, a, b, s, k: k as u8, imm, ..Op::new(Opcode::Shift) });
}

/// A temporary: `a` shifted by constant `count` without flags.
pub fn shift_by(ctx: &mut Ctx, k: Shift, w: u8, a: Name, count: i64) -> Name {
    let d = ctx.temp();
    shift_op(ctx, k, w, d, a, Src::Imm(count), false);
    d
}

fn shift(ctx: &mut Ctx, insn: &Instruction, k: Shift) {
    let count = match insn.op1_kind() {
        OpKind::Register => Src::Name(RCX),
        _ => Src::Imm(i64::from(insn.immediate8())),
    };
    if insn.op0_kind() == OpKind::Memory {
        let w = Ctx::op_width(insn, 0);
        if matches!(k, Shift::Rcl | Shift::Rcr) {
            modify_with_carry(ctx, insn, w, |ctx, d, a, flags| shift_op(ctx, k, w, d, a, count, flags));
        } else {
            modify(ctx, insn, w, |ctx, d, a| shift_op(ctx, k, w, d, a, count, true));
        }
        return;
    }
    let reg = insn.op0_register();
    let w = width_of(reg.size());
    let a = ctx.read_reg(reg);
    let d = ctx.dest_reg(reg);
    shift_op(ctx, k, w, d, a, count, true);
    ctx.finish_reg(reg, d);
}

fn movzx(ctx: &mut Ctx, insn: &Instruction) {
    let reg = insn.op0_register();
    let w = Ctx::op_width(insn, 1);
    if insn.op1_kind() == OpKind::Memory {
        let addr = ctx.addr(insn, w, false);
        let d = ctx.dest_reg(reg);
        ctx.ld_to(w, d, addr, 0);
        return ctx.finish_reg(reg, d);
    }
    let a = ctx.read_reg(insn.op1_register());
    let d = ctx.dest_reg(reg);
    ctx.op(Op { w, d, a, ..Op::new(Opcode::Zx) });
    ctx.finish_reg(reg, d);
}

fn movsx(ctx: &mut Ctx, insn: &Instruction) {
    let reg = insn.op0_register();
    let (w, to) = (Ctx::op_width(insn, 1), width_of(reg.size()));
    let a = if ctx.amd && insn.code() == Code::Movsxd_r16_rm16 && insn.op1_kind() == OpKind::Memory {
        // AMD's processors read a doubleword, Intel's a word (SDM volume 2, MOVSXD; what a host of AMD's does).
        let at = ctx.addr(insn, W32, false);
        ctx.ld(W32, at, 0)
    } else {
        ctx.read(insn, 1, 0)
    };
    if w >= to {
        // MOVSXD without REX.W is a plain move.
        return ctx.write_reg(reg, a);
    }
    let d = ctx.dest_reg(reg);
    ctx.op(Op { w, d, a, k: to, ..Op::new(Opcode::Sx) });
    ctx.finish_reg(reg, d);
}

fn xchg(ctx: &mut Ctx, insn: &Instruction) {
    // Memory is the first operand if there is one.
    let w = Ctx::op_width(insn, 1);
    let other = ctx.read_reg(insn.op1_register());
    if insn.op0_kind() == OpKind::Memory {
        // Locked without being told.
        let at = ctx.linear(insn, w, true);
        let old = locked(ctx, at, w, Locked::Swap, other, NONE);
        return ctx.write_reg(insn.op1_register(), old);
    }
    let other = ctx.zx(w, other);
    let first = ctx.read_reg(insn.op0_register());
    let first = ctx.zx(w, first);
    ctx.write_reg(insn.op0_register(), other);
    ctx.write_reg(insn.op1_register(), first);
}

fn xadd(ctx: &mut Ctx, insn: &Instruction) {
    let w = Ctx::op_width(insn, 1);
    let addend = ctx.read_reg(insn.op1_register());
    if insn.op0_kind() == OpKind::Memory {
        let old = if insn.has_lock_prefix() {
            let at = ctx.linear(insn, w, true);
            let old = locked(ctx, at, w, Locked::Add, addend, NONE);
            let sum = ctx.temp();
            ctx.alu(Alu::Add, w, sum, old, Src::Name(addend), true);
            old
        } else {
            modify(ctx, insn, w, |ctx, d, a| ctx.alu(Alu::Add, w, d, a, Src::Name(addend), true))
        };
        return ctx.write_reg(insn.op1_register(), old);
    }
    let old = ctx.read_reg(insn.op0_register());
    let old = ctx.zx(w, old);
    let sum = ctx.temp();
    ctx.alu(Alu::Add, w, sum, old, Src::Name(addend), true);
    ctx.write_reg(insn.op1_register(), old);
    ctx.write_reg(insn.op0_register(), sum);
}

fn cmpxchg(ctx: &mut Ctx, insn: &Instruction) {
    let w = Ctx::op_width(insn, 1);
    let new = ctx.read_reg(insn.op1_register());
    if insn.op0_kind() == OpKind::Memory {
        // Memory is written in both cases.
        if insn.has_lock_prefix() {
            let at = ctx.linear(insn, w, true);
            let old = locked(ctx, at, w, Locked::CompareSwap, new, RAX);
            ctx.alu(Alu::Sub, w, NONE, RAX, Src::Name(old), true);
            return write_accumulator(ctx, w, old);
        }
        let old = modify(ctx, insn, w, |ctx, d, old| {
            ctx.alu(Alu::Sub, w, NONE, RAX, Src::Name(old), true);
            ctx.select(cc::E, W64, d, new, old);
        });
        return write_accumulator(ctx, w, old);
    }
    let reg = insn.op0_register();
    let whole = ctx.read_reg(reg);
    let old = ctx.zx(w, whole);
    let new = ctx.zx(w, new);
    ctx.alu(Alu::Sub, w, NONE, RAX, Src::Name(old), true);
    let value = ctx.temp();
    // A failed comparison leaves all 64 bits of the destination alone.
    ctx.select(cc::E, W64, value, new, whole);
    write_accumulator(ctx, w, old);
    // Last: the destination may be the accumulator itself, which then always compares equal.
    if w == W32 {
        return ctx.write_slot(gpr(reg).0, W64, value);
    }
    ctx.write_reg(reg, value);
}

/// Accumulator = `old` unless the comparison found it equal; it then keeps its upper half, so 32 bits are moved as 64.
fn write_accumulator(ctx: &mut Ctx, w: u8, old: Name) {
    let value = ctx.temp();
    ctx.select(cc::E, W64, value, RAX, old);
    ctx.write_slot(RAX, if w == W32 { W64 } else { w }, value);
}

fn cmpxchg_pair(ctx: &mut Ctx, insn: &Instruction, w: u8, imm: u64) {
    let at = ctx.linear(insn, w, true);
    ctx.call_void(Sys::CmpxchgPair as u16, at, NONE, NONE, imm);
}

fn mul_wide(ctx: &mut Ctx, insn: &Instruction, signed: u8) {
    let w = Ctx::op_width(insn, 0);
    let b = ctx.read(insn, 0, 0);
    let op = Op { w, a: RAX, b, k: signed, ..Op::new(Opcode::MulWide) };
    match w {
        W8 => {
            let d = ctx.temp();
            ctx.op(Op { d, s: NONE, ..op });
            ctx.write_slot(RAX, W16, d);
        }
        W16 => {
            let (d, s) = (ctx.temp(), ctx.temp());
            ctx.op(Op { d, s, ..op });
            ctx.write_slot(RAX, W16, d);
            ctx.write_slot(RDX, W16, s);
        }
        _ => ctx.op(Op { d: RAX, s: RDX, ..op }),
    }
}

fn imul(ctx: &mut Ctx, insn: &Instruction) {
    let reg = insn.op0_register();
    let w = width_of(reg.size());
    let (a, b) = if insn.op_count() == 3 {
        (ctx.read(insn, 1, 0), Src::Imm(insn.try_immediate(2).unwrap_or(0) as i64))
    } else {
        (ctx.read_reg(reg), ctx.src(insn, 1))
    };
    let d = ctx.dest_reg(reg);
    let (b, imm) = b.parts();
    ctx.op(Op { w, d, a, b, s: SET_FLAGS, imm, ..Op::new(Opcode::Mul) });
    ctx.finish_reg(reg, d);
}

fn div(ctx: &mut Ctx, insn: &Instruction, id: Sys) {
    let w = Ctx::op_width(insn, 0);
    let a = ctx.read(insn, 0, 0);
    ctx.call_void(id as u16, a, NONE, NONE, u64::from(w));
}

fn sign_extend_accumulator(ctx: &mut Ctx, mnemonic: Mnemonic) {
    match mnemonic {
        Mnemonic::Cbw => {
            let d = ctx.sx(W8, W32, RAX);
            ctx.write_slot(RAX, W16, d);
        }
        Mnemonic::Cwde => ctx.op(Op { w: W16, d: RAX, a: RAX, k: W32, ..Op::new(Opcode::Sx) }),
        _ => ctx.op(Op { w: W32, d: RAX, a: RAX, k: W64, ..Op::new(Opcode::Sx) }),
    }
}

fn sign_fill(ctx: &mut Ctx, mnemonic: Mnemonic) {
    match mnemonic {
        Mnemonic::Cwd => {
            let wide = ctx.sx(W16, W32, RAX);
            let d = shift_by(ctx, Shift::Sar, W32, wide, 31);
            ctx.write_slot(RDX, W16, d);
        }
        Mnemonic::Cdq => shift_op(ctx, Shift::Sar, W32, RDX, RAX, Src::Imm(31), false),
        _ => shift_op(ctx, Shift::Sar, W64, RDX, RAX, Src::Imm(63), false),
    }
}

fn bswap(ctx: &mut Ctx, insn: &Instruction) {
    let reg = insn.op0_register();
    if reg.size() == 2 {
        // Undefined by the manual; processors clear the word.
        let zero = ctx.movi(0);
        return ctx.write_reg(reg, zero);
    }
    let slot = gpr(reg).0;
    unary_op(ctx, Unary::Bswap, width_of(reg.size()), slot, slot);
}

fn xlat(ctx: &mut Ctx, insn: &Instruction) {
    let index = ctx.zx(W8, RAX);
    let ea = Ea {
        seg: super::ea::seg_number(insn.memory_segment()),
        base: RBX,
        index,
        scale: 0,
        disp: 0,
        w: width_of(insn.memory_base().size()),
    };
    let addr = ea.resolve(ctx, W8, false);
    let value = ctx.ld(W8, addr, 0);
    ctx.write_reg(Register::AL, value);
}

fn popcnt(ctx: &mut Ctx, insn: &Instruction) {
    let w = Ctx::op_width(insn, 1);
    let value = ctx.read(insn, 1, 0);
    let value = ctx.zx(w, value);
    let d = ctx.call(arith::POPCNT, value, NONE, NONE, 0);
    ctx.write_reg(insn.op0_register(), d);
}

/// Operand width of an instruction by the suffix of its code: 16, 32 or 64 bits.
pub fn width_from(code: Code, w16: Code, w32: Code) -> u8 {
    if code == w16 {
        W16
    } else if code == w32 {
        W32
    } else {
        W64
    }
}
