//! Lowering of SSE moves between XMM registers, general registers and memory.
//!
//! Source: Intel SDM volume 2.

use bulkhead_ir::{ALIGN16, NONE, VecShape, W8, W16, W32, W64};
use iced_x86::{Code, Instruction, OpKind};

use super::Ctx;
use super::ctx::gpr;
use super::sse::{
    MOVAPS, MOVD_FROM, MOVD_TO, MOVQ, MOVSD, W128, available, is_mem, raw, shift, vv, with_imm, xmm,
};
use crate::helpers::fp::Fp;

type Body = fn(&mut Ctx, &Instruction);

/// Lowers `insn`; false when it is not one of this module's.
pub(super) fn lower(ctx: &mut Ctx, insn: &Instruction) -> bool {
    let Some(body) = body(insn.code()) else { return false };
    if available(ctx, insn) {
        body(ctx, insn);
    }
    true
}

/// Whole register from register or memory.
fn load(ctx: &mut Ctx, insn: &Instruction, flags: u8) {
    let d = xmm(insn.op0_register());
    if is_mem(insn, 1) {
        let addr = if flags == ALIGN16 { ctx.addr16(insn, false) } else { ctx.addr(insn, W128, false) };
        ctx.ldv(W128, d, addr, flags);
    } else {
        vv(ctx, d, xmm(insn.op1_register()), MOVAPS);
    }
}

/// Whole register to register or memory.
fn store(ctx: &mut Ctx, insn: &Instruction, flags: u8) {
    let a = xmm(insn.op1_register());
    if is_mem(insn, 0) {
        let addr = if flags == ALIGN16 { ctx.addr16(insn, true) } else { ctx.addr(insn, W128, true) };
        ctx.stv(W128, addr, a, flags);
    } else {
        vv(ctx, xmm(insn.op0_register()), a, MOVAPS);
    }
}

/// Low `1 << w` bytes: from memory the rest becomes zero, between registers `merge` decides.
fn load_low(ctx: &mut Ctx, insn: &Instruction, w: u8, merge: bulkhead_ir::VecOp) {
    let d = xmm(insn.op0_register());
    if is_mem(insn, 1) {
        let addr = ctx.addr(insn, w, false);
        ctx.ldv(w, d, addr, 0);
    } else {
        vv(ctx, d, xmm(insn.op1_register()), merge);
    }
}

fn store_low(ctx: &mut Ctx, insn: &Instruction, w: u8, merge: bulkhead_ir::VecOp) {
    let a = xmm(insn.op1_register());
    if is_mem(insn, 0) {
        let addr = ctx.addr(insn, w, true);
        ctx.stv(w, addr, a, 0);
    } else {
        vv(ctx, xmm(insn.op0_register()), a, merge);
    }
}

/// Half a register from memory, the other half kept.
fn load_half(ctx: &mut Ctx, insn: &Instruction, merge: bulkhead_ir::VecOp) {
    let addr = ctx.addr(insn, W64, false);
    let t = ctx.vtemp();
    ctx.ldv(W64, t, addr, 0);
    vv(ctx, xmm(insn.op0_register()), t, merge);
}

fn store_high(ctx: &mut Ctx, insn: &Instruction) {
    let addr = ctx.addr(insn, W64, true);
    let t = ctx.vtemp();
    vv(ctx, t, xmm(insn.op1_register()), with_imm(0x66, 1, 0x70, 0xee));
    ctx.stv(W64, addr, t, 0);
}

/// `MOVD`/`MOVQ xmm, r/m`.
fn from_general(ctx: &mut Ctx, insn: &Instruction) {
    let d = xmm(insn.op0_register());
    let w = Ctx::op_width(insn, 1);
    if is_mem(insn, 1) {
        let addr = ctx.addr(insn, w, false);
        ctx.ldv(w, d, addr, 0);
    } else {
        let (a, _) = gpr(insn.op1_register());
        ctx.vec(VecShape::VG, w, d, a, MOVD_TO);
    }
}

/// `MOVD`/`MOVQ r/m, xmm`.
fn to_general(ctx: &mut Ctx, insn: &Instruction) {
    let a = xmm(insn.op1_register());
    let w = Ctx::op_width(insn, 0);
    if is_mem(insn, 0) {
        let addr = ctx.addr(insn, w, true);
        ctx.stv(w, addr, a, 0);
    } else {
        let (d, _) = gpr(insn.op0_register());
        ctx.vec(VecShape::GV, w, d, a, MOVD_FROM);
    }
}

/// Element `index` of `1 << w` bytes to a general register (zero-extended) or memory.
fn extract(ctx: &mut Ctx, insn: &Instruction, w: u8) {
    let a = xmm(insn.op1_register());
    let mask = (16u8 >> w) - 1;
    let bytes = (insn.immediate8() & mask) << w;
    let t = ctx.vtemp();
    vv(ctx, t, a, MOVAPS);
    if bytes != 0 {
        shift(ctx, t, 0x73, 3, bytes); // PSRLDQ
    }
    if insn.op0_kind() == OpKind::Memory {
        let addr = ctx.addr(insn, w, true);
        return ctx.stv(w, addr, t, 0);
    }
    let (d, _) = gpr(insn.op0_register());
    match w {
        W32 | W64 => ctx.vec(VecShape::GV, w, d, t, MOVD_FROM),
        _ => {
            let wide = ctx.temp();
            ctx.vec(VecShape::GV, W32, wide, t, MOVD_FROM);
            let value = ctx.zx(w, wide);
            ctx.mov(W64, d, value);
        }
    }
}

/// `PINSRx`: element from a general register or memory.
fn insert(ctx: &mut Ctx, insn: &Instruction, w: u8, map: u8, opcode: u8) {
    let d = xmm(insn.op0_register());
    let op = with_imm(0x66, map, opcode, insn.immediate8());
    let value = if is_mem(insn, 1) {
        let addr = ctx.addr(insn, w, false);
        ctx.ld(w, addr, 0)
    } else {
        gpr(insn.op1_register()).0
    };
    ctx.vec(VecShape::VG, if w == W64 { W64 } else { W32 }, d, value, op);
}

/// `op r32, xmm` without an immediate; the 64-bit form gives the same zero-extended value.
fn mask_bits(ctx: &mut Ctx, insn: &Instruction, prefix: u8, opcode: u8) {
    let (d, _) = gpr(insn.op0_register());
    ctx.vec(VecShape::GV, W32, d, xmm(insn.op1_register()), raw(prefix, 1, opcode));
}

/// `EXTRQ`, `INSERTQ` (SSE4A): bit 26 says that length and index are in bits 0..16, bit 27 that it inserts.
fn bit_field(ctx: &mut Ctx, insn: &Instruction, imm: u64) {
    let a = if insn.op1_kind() == OpKind::Register { xmm(insn.op1_register()) } else { 0 };
    let slots = u64::from(xmm(insn.op0_register())) << 16 | u64::from(a) << 20;
    ctx.call_void(Fp::BitField as u16, NONE, NONE, NONE, imm | slots);
}

fn body(code: Code) -> Option<Body> {
    Some(match code {
        Code::Movaps_xmm_xmmm128
        | Code::Movapd_xmm_xmmm128
        | Code::Movdqa_xmm_xmmm128
        | Code::Movntdqa_xmm_m128 => |c, i| load(c, i, ALIGN16),
        Code::Movups_xmm_xmmm128
        | Code::Movupd_xmm_xmmm128
        | Code::Movdqu_xmm_xmmm128
        | Code::Lddqu_xmm_m128 => |c, i| load(c, i, 0),
        Code::Movaps_xmmm128_xmm
        | Code::Movapd_xmmm128_xmm
        | Code::Movdqa_xmmm128_xmm
        | Code::Movntps_m128_xmm
        | Code::Movntpd_m128_xmm
        | Code::Movntdq_m128_xmm => |c, i| store(c, i, ALIGN16),
        Code::Movntss_m32_xmm => |c, i| store_low(c, i, W32, MOVAPS),
        Code::Movntsd_m64_xmm => |c, i| store_low(c, i, W64, MOVAPS),
        Code::Extrq_xmm_imm8_imm8 => |c, i| {
            let field = u64::from(i.immediate8()) | u64::from(i.immediate8_2nd()) << 8;
            bit_field(c, i, 1 << 26 | field);
        },
        Code::Extrq_xmm_xmm => |c, i| bit_field(c, i, 0),
        Code::Insertq_xmm_xmm_imm8_imm8 => |c, i| {
            let field = u64::from(i.immediate8()) | u64::from(i.immediate8_2nd()) << 8;
            bit_field(c, i, 3 << 26 | field);
        },
        Code::Insertq_xmm_xmm => |c, i| bit_field(c, i, 2 << 26),
        Code::Movups_xmmm128_xmm | Code::Movupd_xmmm128_xmm | Code::Movdqu_xmmm128_xmm => {
            |c, i| store(c, i, 0)
        }
        Code::Movss_xmm_xmmm32 => |c, i| load_low(c, i, W32, raw(0xf3, 1, 0x10)),
        Code::Movsd_xmm_xmmm64 => |c, i| load_low(c, i, W64, MOVSD),
        Code::Movq_xmm_xmmm64 => |c, i| load_low(c, i, W64, MOVQ),
        Code::Movss_xmmm32_xmm => |c, i| store_low(c, i, W32, raw(0xf3, 1, 0x10)),
        Code::Movsd_xmmm64_xmm => |c, i| store_low(c, i, W64, MOVSD),
        Code::Movq_xmmm64_xmm => |c, i| store_low(c, i, W64, MOVQ),
        Code::Movlps_xmm_m64 | Code::Movlpd_xmm_m64 => |c, i| load_half(c, i, MOVSD),
        Code::Movhps_xmm_m64 | Code::Movhpd_xmm_m64 => |c, i| load_half(c, i, raw(0, 1, 0x16)),
        Code::Movlps_m64_xmm | Code::Movlpd_m64_xmm => |c, i| store_low(c, i, W64, MOVSD),
        Code::Movhps_m64_xmm | Code::Movhpd_m64_xmm => store_high,
        Code::Movhlps_xmm_xmm => |c, i| vv(c, xmm(i.op0_register()), xmm(i.op1_register()), raw(0, 1, 0x12)),
        Code::Movlhps_xmm_xmm => |c, i| vv(c, xmm(i.op0_register()), xmm(i.op1_register()), raw(0, 1, 0x16)),
        Code::Movd_xmm_rm32 | Code::Movq_xmm_rm64 => from_general,
        Code::Movd_rm32_xmm | Code::Movq_rm64_xmm => to_general,
        Code::Movmskps_r32_xmm | Code::Movmskps_r64_xmm => |c, i| mask_bits(c, i, 0, 0x50),
        Code::Movmskpd_r32_xmm | Code::Movmskpd_r64_xmm => |c, i| mask_bits(c, i, 0x66, 0x50),
        Code::Pmovmskb_r32_xmm | Code::Pmovmskb_r64_xmm => |c, i| mask_bits(c, i, 0x66, 0xd7),
        Code::Pinsrw_xmm_r32m16_imm8 | Code::Pinsrw_xmm_r64m16_imm8 => |c, i| insert(c, i, W16, 1, 0xc4),
        Code::Pinsrb_xmm_r32m8_imm8 | Code::Pinsrb_xmm_r64m8_imm8 => |c, i| insert(c, i, W8, 3, 0x20),
        Code::Pinsrd_xmm_rm32_imm8 => |c, i| insert(c, i, W32, 3, 0x22),
        Code::Pinsrq_xmm_rm64_imm8 => |c, i| insert(c, i, W64, 3, 0x22),
        Code::Pextrw_r32_xmm_imm8
        | Code::Pextrw_r64_xmm_imm8
        | Code::Pextrw_r32m16_xmm_imm8
        | Code::Pextrw_r64m16_xmm_imm8 => |c, i| extract(c, i, W16),
        Code::Pextrb_r32m8_xmm_imm8 | Code::Pextrb_r64m8_xmm_imm8 => |c, i| extract(c, i, W8),
        Code::Pextrd_rm32_xmm_imm8 | Code::Extractps_rm32_xmm_imm8 | Code::Extractps_r64m32_xmm_imm8 => {
            |c, i| extract(c, i, W32)
        }
        Code::Pextrq_rm64_xmm_imm8 => |c, i| extract(c, i, W64),
        _ => return None,
    })
}
