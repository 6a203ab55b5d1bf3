//! Lowering of MMX, the MMX parts of SSE to SSSE3, and moves and conversions between MMX and XMM registers.
//!
//! `mmN` is physical x87 register N (`CoreState::media`). Every instruction but `EMMS` first checks for a pending x87
//! exception and sets TOP to zero and all tags valid ([`Fp::MmxEnter`], once for a run of MMX instructions in a block);
//! a register that is written gets ones in its sign and exponent.
//!
//! Source: Intel SDM volume 1 chapter 9, volume 3A chapter 12.

use std::mem::offset_of;

use bulkhead_engine::CoreState;
use bulkhead_ir::{NONE, Name, Opcode, VecOp, VecShape, W16, W32, W64};
use iced_x86::{Code, Instruction, Register};

use super::Ctx;
use super::ctx::gpr;
use super::sse::{
    self, MOVAPS, MOVD_FROM, MOVD_TO, MOVQ, MOVSD, arm, check, checked, in_model, is_mem, mask_move, raw, vv,
    xmm,
};
use super::sse_table;
use crate::helpers::fp::Fp;
use crate::helpers::fp_sse::Tiny;
use crate::helpers::ids::FP_BASE;
use crate::helpers::vector;
use crate::state::key;

/// Byte offset of `mm(n)` in the CPU state.
fn field(n: u8) -> i64 {
    (offset_of!(CoreState, media) + 16 * usize::from(n & 7)) as i64
}

fn mm(reg: Register) -> u8 {
    reg.number() as u8 & 7
}

/// `#UD` and `#NM` rules of MMX instructions.
fn available(ctx: &mut Ctx, insn: &Instruction) -> bool {
    if ctx.has(key::EM) || !in_model(ctx, insn) {
        ctx.ud();
        return false;
    }
    if ctx.has(key::TS) {
        ctx.raise(vector::NM);
        return false;
    }
    true
}

/// Whether the last floating-point helper called in this block was [`Fp::MmxEnter`], or one that leaves its effect alone.
fn entered(ctx: &Ctx) -> bool {
    let last =
        ctx.out.ops.iter().rev().filter(|op| op.op == Opcode::Call).map(|op| op.imm as u16).find(|id| {
            let harmless = [
                Fp::SseArm as u16,
                Fp::SseCheck as u16,
                Fp::MaskMove as u16,
                Fp::Fence as u16,
                Fp::ThreeDNow as u16,
            ];
            *id >= FP_BASE && !harmless.contains(id)
        });
    last == Some(Fp::MmxEnter as u16)
}

/// What every MMX instruction does besides its operation. Comes after the loads, before the first write.
fn enter(ctx: &mut Ctx) {
    if !entered(ctx) {
        ctx.call_void(Fp::MmxEnter as u16, NONE, NONE, NONE, 0);
    }
}

/// `mm(d)` = 64 bits of `value`.
fn write(ctx: &mut Ctx, d: u8, value: Name) {
    let ones = ctx.movi(0xffff);
    ctx.stf(W64, field(d), value);
    ctx.stf(W16, field(d) + 8, ones);
}

fn read(ctx: &mut Ctx, a: u8) -> Name {
    ctx.ldf(W64, field(a))
}

/// Media slot of operand `op`: the register, or a temporary loaded from memory.
fn source(ctx: &mut Ctx, insn: &Instruction, op: u32) -> u8 {
    if !is_mem(insn, op) {
        return mm(insn.op_register(op));
    }
    let w = Ctx::op_width(insn, op);
    let addr = ctx.addr(insn, w, false);
    let v = ctx.vtemp();
    ctx.ldv(w, v, addr, 0);
    v
}

fn regular(ctx: &mut Ctx, insn: &Instruction, mut op: VecOp) {
    if insn.op_count() == 3 {
        op.has_imm = true;
        op.imm = insn.immediate8();
    }
    let a = source(ctx, insn, 1);
    enter(ctx);
    ctx.vec(VecShape::MM, W64, mm(insn.op0_register()), a, op);
}

/// Lowers `insn`; false when it is not one of this module's.
pub fn lower(ctx: &mut Ctx, insn: &Instruction) -> bool {
    if let Some(entry) = sse_table::mm(insn.code()) {
        if available(ctx, insn) {
            regular(ctx, insn, entry.op);
        }
        return true;
    }
    if let Some(body) = with_xmm(insn.code()) {
        if sse::available(ctx, insn) {
            body(ctx, insn);
        }
        return true;
    }
    if let Some(suffix) = three_d_now(insn.code()) {
        if available(ctx, insn) {
            let value =
                if is_mem(insn, 1) { ctx.read(insn, 1, 0) } else { read(ctx, mm(insn.op1_register())) };
            enter(ctx);
            let imm = suffix | u64::from(mm(insn.op0_register())) << 8;
            ctx.call_void(Fp::ThreeDNow as u16, value, NONE, NONE, imm);
        }
        return true;
    }
    let Some(body) = body(insn.code()) else { return false };
    if available(ctx, insn) {
        body(ctx, insn);
    }
    true
}

/// Opcode suffix of a 3DNow! instruction.
fn three_d_now(code: Code) -> Option<u64> {
    Some(match code {
        Code::D3NOW_Pi2fw_mm_mmm64 => 0x0c,
        Code::D3NOW_Pi2fd_mm_mmm64 => 0x0d,
        Code::D3NOW_Pf2iw_mm_mmm64 => 0x1c,
        Code::D3NOW_Pf2id_mm_mmm64 => 0x1d,
        Code::D3NOW_Pfnacc_mm_mmm64 => 0x8a,
        Code::D3NOW_Pfpnacc_mm_mmm64 => 0x8e,
        Code::D3NOW_Pfcmpge_mm_mmm64 => 0x90,
        Code::D3NOW_Pfmin_mm_mmm64 => 0x94,
        Code::D3NOW_Pfrcp_mm_mmm64 => 0x96,
        Code::D3NOW_Pfrsqrt_mm_mmm64 => 0x97,
        Code::D3NOW_Pfsub_mm_mmm64 => 0x9a,
        Code::D3NOW_Pfadd_mm_mmm64 => 0x9e,
        Code::D3NOW_Pfcmpgt_mm_mmm64 => 0xa0,
        Code::D3NOW_Pfmax_mm_mmm64 => 0xa4,
        Code::D3NOW_Pfrcpit1_mm_mmm64 => 0xa6,
        Code::D3NOW_Pfrsqit1_mm_mmm64 => 0xa7,
        Code::D3NOW_Pfsubr_mm_mmm64 => 0xaa,
        Code::D3NOW_Pfacc_mm_mmm64 => 0xae,
        Code::D3NOW_Pfcmpeq_mm_mmm64 => 0xb0,
        Code::D3NOW_Pfmul_mm_mmm64 => 0xb4,
        Code::D3NOW_Pfrcpit2_mm_mmm64 => 0xb6,
        Code::D3NOW_Pmulhrw_mm_mmm64 => 0xb7,
        Code::D3NOW_Pswapd_mm_mmm64 => 0xbb,
        Code::D3NOW_Pavgusb_mm_mmm64 => 0xbf,
        _ => return None,
    })
}

type Body = fn(&mut Ctx, &Instruction);

/// `MOVD`/`MOVQ mm, r/m`.
fn from_general(ctx: &mut Ctx, insn: &Instruction) {
    let w = Ctx::op_width(insn, 1);
    let value = ctx.read(insn, 1, 0);
    let value = ctx.zx(w, value);
    enter(ctx);
    write(ctx, mm(insn.op0_register()), value);
}

/// `MOVD`/`MOVQ r/m, mm`.
fn to_general(ctx: &mut Ctx, insn: &Instruction) {
    if !is_mem(insn, 0) {
        enter(ctx);
        let value = read(ctx, mm(insn.op1_register()));
        return ctx.write(insn, 0, value);
    }
    // A store that faults leaves the x87 as it was.
    let first = !entered(ctx);
    if first {
        ctx.call_void(Fp::X87Wait as u16, NONE, NONE, NONE, 0);
    }
    let value = read(ctx, mm(insn.op1_register()));
    ctx.write(insn, 0, value);
    if first {
        enter(ctx);
    }
}

fn body(code: Code) -> Option<Body> {
    Some(match code {
        Code::Emms | Code::Femms => |c, _| c.call_void(Fp::Emms as u16, NONE, NONE, NONE, 0),
        Code::Movd_mm_rm32 | Code::Movq_mm_rm64 => from_general,
        Code::Movd_rm32_mm | Code::Movq_rm64_mm => to_general,
        Code::Movq_mm_mmm64 => |c, i| regular(c, i, raw(0, 1, 0x6f)),
        Code::Movq_mmm64_mm => |c, i| {
            if is_mem(i, 0) {
                return to_general(c, i);
            }
            enter(c);
            c.vec(VecShape::MM, W64, mm(i.op0_register()), mm(i.op1_register()), raw(0, 1, 0x6f));
        },
        Code::Movntq_m64_mm => to_general,
        Code::Psrlw_mm_imm8
        | Code::Psraw_mm_imm8
        | Code::Psllw_mm_imm8
        | Code::Psrld_mm_imm8
        | Code::Psrad_mm_imm8
        | Code::Pslld_mm_imm8
        | Code::Psrlq_mm_imm8
        | Code::Psllq_mm_imm8 => |c, i| {
            let Some((opcode, digit)) = sse_table::shift(i.code()) else { return };
            enter(c);
            let d = mm(i.op0_register());
            let op = VecOp { digit: digit + 1, ..sse::with_imm(0, 1, opcode, i.immediate8()) };
            c.vec(VecShape::MM, W64, d, d, op);
        },
        Code::Pinsrw_mm_r32m16_imm8 | Code::Pinsrw_mm_r64m16_imm8 => |c, i| {
            let value = if is_mem(i, 1) { c.read(i, 1, 0) } else { gpr(i.op1_register()).0 };
            enter(c);
            let at = field(mm(i.op0_register()));
            let ones = c.movi(0xffff);
            c.stf(W16, at + 2 * i64::from(i.immediate8() & 3), value);
            c.stf(W16, at + 8, ones);
        },
        Code::Pextrw_r32_mm_imm8 | Code::Pextrw_r64_mm_imm8 => |c, i| {
            enter(c);
            let at = field(mm(i.op1_register()));
            let value = c.ldf(W16, at + 2 * i64::from(i.immediate8() & 3));
            c.mov(W64, gpr(i.op0_register()).0, value);
        },
        Code::Pmovmskb_r32_mm | Code::Pmovmskb_r64_mm => |c, i| {
            enter(c);
            let t = to_vector(c, mm(i.op1_register()));
            c.vec(VecShape::GV, W32, gpr(i.op0_register()).0, t, raw(0x66, 1, 0xd7));
        },
        Code::Maskmovq_rDI_mm_mm => |c, i| {
            enter(c);
            mask_move(c, i, true);
        },
        _ => return None,
    })
}

/// A vector temporary with `mm(a)` in its low half and zero above.
fn to_vector(ctx: &mut Ctx, a: u8) -> u8 {
    let value = read(ctx, a);
    let t = ctx.vtemp();
    ctx.vec(VecShape::VG, W64, t, value, MOVD_TO);
    t
}

/// `mm(d)` = low half of vector slot `v`.
fn from_vector(ctx: &mut Ctx, d: u8, v: u8) {
    let value = ctx.temp();
    ctx.vec(VecShape::GV, W64, value, v, MOVD_FROM);
    write(ctx, d, value);
}

/// `CVTPI2PS`, `CVTPI2PD`.
fn from_packed_integers(ctx: &mut Ctx, insn: &Instruction, op: VecOp, merge: VecOp) {
    let t = if is_mem(insn, 1) {
        // With a memory operand there is no MMX register, and the x87 is left alone (AMD; Intel does so for `CVTPI2PD`).
        source(ctx, insn, 1)
    } else {
        enter(ctx);
        to_vector(ctx, mm(insn.op1_register()))
    };
    if checked(ctx) {
        arm(ctx);
    }
    vv(ctx, t, t, op);
    if checked(ctx) {
        check(ctx, Tiny::Never, 0);
    }
    vv(ctx, xmm(insn.op0_register()), t, merge);
}

/// `CVT(T)PS2PI`, `CVT(T)PD2PI`: `op` converts, from the low half only when `half`.
fn to_packed_integers(ctx: &mut Ctx, insn: &Instruction, op: VecOp, half: bool) {
    let a = sse::source(ctx, insn, 1);
    let t = ctx.vtemp();
    vv(ctx, t, a, if half { MOVQ } else { MOVAPS });
    enter(ctx);
    if checked(ctx) {
        arm(ctx);
    }
    vv(ctx, t, t, op);
    if checked(ctx) {
        check(ctx, Tiny::Never, 0);
    }
    from_vector(ctx, mm(insn.op0_register()), t);
}

const fn fp(prefix: u8, opcode: u8) -> VecOp {
    VecOp { fp: true, ..raw(prefix, 1, opcode) }
}

/// Instructions with an MMX and an XMM operand.
fn with_xmm(code: Code) -> Option<Body> {
    Some(match code {
        Code::Cvtpi2ps_xmm_mmm64 => |c, i| from_packed_integers(c, i, fp(0, 0x5b), MOVSD),
        Code::Cvtpi2pd_xmm_mmm64 => |c, i| from_packed_integers(c, i, raw(0xf3, 1, 0xe6), MOVAPS),
        Code::Cvtps2pi_mm_xmmm64 => |c, i| to_packed_integers(c, i, fp(0x66, 0x5b), true),
        Code::Cvttps2pi_mm_xmmm64 => |c, i| to_packed_integers(c, i, fp(0xf3, 0x5b), true),
        Code::Cvtpd2pi_mm_xmmm128 => |c, i| to_packed_integers(c, i, fp(0xf2, 0xe6), false),
        Code::Cvttpd2pi_mm_xmmm128 => |c, i| to_packed_integers(c, i, fp(0x66, 0xe6), false),
        Code::Movq2dq_xmm_mm => |c, i| {
            enter(c);
            let value = read(c, mm(i.op1_register()));
            c.vec(VecShape::VG, W64, xmm(i.op0_register()), value, MOVD_TO);
        },
        Code::Movdq2q_mm_xmm => |c, i| {
            enter(c);
            from_vector(c, mm(i.op0_register()), xmm(i.op1_register()));
        },
        _ => return None,
    })
}
