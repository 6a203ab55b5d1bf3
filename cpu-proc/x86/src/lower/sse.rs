//! Lowering of SSE to SSE4.2 on XMM registers, `FXSAVE` and its kin, and the memory hints that came with SSE.
//!
//! The guest instruction runs as the same host instruction on vector slots. A memory operand is loaded into a vector
//! temporary first, with the alignment fault where the manual demands it.
//!
//! # Unmasked SIMD exceptions
//! Guest code runs with everything masked. With [`key::SSE_UNMASKED`] a floating-point operation goes to a temporary,
//! between `Fp::SseArm` and `Fp::SseCheck`, and is copied to its destination when nothing was raised.
//!
//! Source: Intel SDM volume 2; volume 3A section 2.5 (CR0.EM, TS, CR4.OSFXSR).

use bulkhead_ir::{ALIGN16, NONE, Name, VecOp, VecShape, W8, W16, W32, W64};
use iced_x86::{Code, CpuidFeature, Instruction, Mnemonic, OpKind, Register};

use super::ctx::gpr;
use super::ea::{Ea, seg_number};
use super::sse_table::{self, Regular};
use super::{Ctx, sse_moves};
use crate::helpers::fp::Fp;
use crate::helpers::fp_sse::{self, Tiny};
use crate::helpers::vector;
use crate::state::key;

/// 16 bytes, as a width of vector loads and stores.
pub(super) const W128: u8 = 4;

/// An instruction without immediate and without floating-point exceptions.
pub(super) const fn raw(prefix: u8, map: u8, opcode: u8) -> VecOp {
    VecOp { prefix, map, opcode, has_imm: false, imm: 0, digit: 0, fp: false }
}

/// As [`raw`], with an immediate.
pub(super) const fn with_imm(prefix: u8, map: u8, opcode: u8, imm: u8) -> VecOp {
    VecOp { prefix, map, opcode, has_imm: true, imm, digit: 0, fp: false }
}

pub(super) const MOVAPS: VecOp = raw(0, 1, 0x28);
/// Low quadword merge.
pub(super) const MOVSD: VecOp = raw(0xf2, 1, 0x10);
/// `MOVD`/`MOVQ xmm, r`.
pub(super) const MOVD_TO: VecOp = raw(0x66, 1, 0x6e);
/// `MOVD`/`MOVQ r, xmm`.
pub(super) const MOVD_FROM: VecOp = raw(0x66, 1, 0x7e);
/// `MOVQ xmm, xmm`: the high quadword becomes zero.
pub(super) const MOVQ: VecOp = raw(0xf3, 1, 0x7e);

/// Vector slot of an XMM operand.
pub(super) fn xmm(reg: Register) -> u8 {
    reg.number() as u8 & 15
}

pub(super) fn is_mem(insn: &Instruction, op: u32) -> bool {
    insn.op_kind(op) == OpKind::Memory
}

pub(super) fn vv(ctx: &mut Ctx, d: u8, a: u8, op: VecOp) {
    ctx.vec(VecShape::VV, W64, d, a, op);
}

/// Whether the CPU model has what the instruction belongs to.
pub(super) fn in_model(ctx: &Ctx, insn: &Instruction) -> bool {
    let [edx, ecx, ext_edx, ext_ecx] = ctx.features;
    insn.cpuid_features().iter().all(|feature| match feature {
        CpuidFeature::CMOV => edx & 1 << 15 != 0,
        CpuidFeature::CLFSH => edx & 1 << 19 != 0,
        CpuidFeature::MMX => edx & 1 << 23 != 0,
        CpuidFeature::FXSR => edx & 1 << 24 != 0,
        CpuidFeature::SSE => edx & 1 << 25 != 0,
        CpuidFeature::SSE2 => edx & 1 << 26 != 0,
        CpuidFeature::SSE3 => ecx & 1 != 0,
        CpuidFeature::SSSE3 => ecx & 1 << 9 != 0,
        CpuidFeature::SSE4_1 => ecx & 1 << 19 != 0,
        CpuidFeature::SSE4_2 => ecx & 1 << 20 != 0,
        CpuidFeature::PCLMULQDQ => ecx & 1 << 1 != 0,
        CpuidFeature::AES => ecx & 1 << 25 != 0,
        CpuidFeature::D3NOW => ext_edx & 1 << 31 != 0,
        CpuidFeature::D3NOWEXT => ext_edx & 1 << 30 != 0,
        CpuidFeature::SSE4A => ext_ecx & 1 << 6 != 0,
        _ => true,
    })
}

/// `#UD` and `#NM` rules of SSE instructions. True when the instruction may go on.
pub(super) fn available(ctx: &mut Ctx, insn: &Instruction) -> bool {
    if ctx.has(key::EM) || !ctx.has(key::OSFXSR) || !in_model(ctx, insn) {
        ctx.ud();
        return false;
    }
    if ctx.has(key::TS) {
        ctx.raise(vector::NM);
        return false;
    }
    true
}

/// Vector slot holding operand `op`: the register, or a temporary loaded from memory (aligned when 16 bytes).
pub(super) fn source(ctx: &mut Ctx, insn: &Instruction, op: u32) -> u8 {
    if !is_mem(insn, op) {
        return xmm(insn.op_register(op));
    }
    let w = Ctx::op_width(insn, op);
    let addr = if w == W128 { ctx.addr16(insn, false) } else { ctx.addr(insn, w, false) };
    let v = ctx.vtemp();
    ctx.ldv(w, v, addr, if w == W128 { ALIGN16 } else { 0 });
    v
}

/// Whether floating-point operations are checked for unmasked exceptions.
pub(super) fn checked(ctx: &Ctx) -> bool {
    ctx.has(key::SSE_UNMASKED)
}

pub(super) fn arm(ctx: &mut Ctx) {
    ctx.call_void(Fp::SseArm as u16, NONE, NONE, NONE, 0);
}

pub(super) fn check(ctx: &mut Ctx, tiny: Tiny, slot: u8) {
    ctx.call_void(Fp::SseCheck as u16, NONE, NONE, NONE, tiny as u64 | u64::from(slot) << 8);
}

/// `d = op(d, a)`, checked when it can raise and something is unmasked.
pub(super) fn float_vv(ctx: &mut Ctx, d: u8, a: u8, op: VecOp, tiny: Tiny) {
    if !op.fp || !checked(ctx) {
        return vv(ctx, d, a, op);
    }
    let t = ctx.vtemp();
    vv(ctx, t, d, MOVAPS);
    arm(ctx);
    vv(ctx, t, a, op);
    check(ctx, tiny, t);
    vv(ctx, d, t, MOVAPS);
}

fn regular(ctx: &mut Ctx, insn: &Instruction, regular: Regular) {
    let a = source(ctx, insn, 1);
    let d = xmm(insn.op0_register());
    let mut op = regular.op;
    if insn.op_count() == 3 {
        op.has_imm = true;
        op.imm = insn.immediate8();
        // A memory operand has one element, whatever the immediate selects.
        if insn.code() == Code::Insertps_xmm_xmmm32_imm8 && is_mem(insn, 1) {
            op.imm &= 0x3f;
        }
    }
    if matches!(insn.code(), Code::Dpps_xmm_xmmm128_imm8 | Code::Dppd_xmm_xmmm128_imm8) && checked(ctx) {
        return dot_product(ctx, d, a, op, regular.tiny);
    }
    float_vv(ctx, d, a, op, regular.tiny);
}

/// `DPPS`, `DPPD` with something unmasked: each step, the products and one or two rounds of sums, raises its exceptions before the next
/// begins, also those of parts that the result does not show (SDM volume 2, DPPD).
fn dot_product(ctx: &mut Ctx, d: u8, a: u8, op: VecOp, tiny: Tiny) {
    let double = tiny == Tiny::Doubles;
    let (prefix, lanes) = if double { (0x66, [3, 12, 0, 0]) } else { (0, [1, 2, 4, 8]) };
    let copy = |ctx: &mut Ctx, from: u8| {
        let t = ctx.vtemp();
        vv(ctx, t, from, MOVAPS);
        t
    };
    // INSERTPS of a lane into itself; its immediate names the lanes to clear.
    let keep = |ctx: &mut Ctx, t: u8, lanes: u8| {
        vv(ctx, t, t, VecOp { has_imm: true, imm: !lanes & 15, ..raw(0x66, 3, 0x21) });
    };
    let step = |ctx: &mut Ctx, to: u8, from: u8, opcode: u8| {
        arm(ctx);
        vv(ctx, to, from, VecOp { fp: true, ..raw(prefix, 1, opcode) });
        check(ctx, tiny, to);
    };
    let selected = (0..4).filter(|i| op.imm >> (4 + i) & 1 != 0).fold(0, |all, i: usize| all | lanes[i]);
    let (parts, factors) = (copy(ctx, d), copy(ctx, a));
    keep(ctx, parts, selected);
    keep(ctx, factors, selected);
    step(ctx, parts, factors, 0x59);
    let others = copy(ctx, parts);
    if !double {
        // MOVSHDUP: the odd lanes, to be added to the even ones.
        vv(ctx, others, parts, raw(0xf3, 1, 0x16));
        keep(ctx, others, 5);
        keep(ctx, parts, 5);
        step(ctx, parts, others, 0x58);
    }
    // MOVHLPS: the upper half, to be added to the lower one.
    vv(ctx, others, parts, raw(0, 1, 0x12));
    keep(ctx, others, lanes[0]);
    keep(ctx, parts, lanes[0]);
    step(ctx, parts, others, 0x58);
    vv(ctx, d, a, op);
}

/// `op r, xmm/m`: conversions to integers.
fn to_integer(ctx: &mut Ctx, insn: &Instruction, prefix: u8, opcode: u8) {
    let op = VecOp { fp: true, ..raw(prefix, 1, opcode) };
    let a = source(ctx, insn, 1);
    let (d, _) = gpr(insn.op0_register());
    let w = Ctx::op_width(insn, 0);
    if !checked(ctx) {
        return ctx.vec(VecShape::GV, w, d, a, op);
    }
    arm(ctx);
    let t = ctx.temp();
    ctx.vec(VecShape::GV, w, t, a, op);
    check(ctx, Tiny::Never, 0);
    ctx.mov(w, d, t);
}

/// `CVTSI2SS`, `CVTSI2SD`.
fn from_integer(ctx: &mut Ctx, insn: &Instruction, prefix: u8) {
    let op = VecOp { fp: true, ..raw(prefix, 1, 0x2a) };
    let w = Ctx::op_width(insn, 1);
    let a = ctx.read(insn, 1, 0);
    let d = xmm(insn.op0_register());
    if !checked(ctx) {
        return ctx.vec(VecShape::VG, w, d, a, op);
    }
    let t = ctx.vtemp();
    vv(ctx, t, d, MOVAPS);
    arm(ctx);
    ctx.vec(VecShape::VG, w, t, a, op);
    check(ctx, Tiny::Never, 0);
    vv(ctx, d, t, MOVAPS);
}

/// `COMISS` and kin: scalar prefix of the element's compare (for the checked form), mandatory prefix, opcode.
fn compare(ctx: &mut Ctx, insn: &Instruction, scalar: u8, prefix: u8, opcode: u8) {
    let a = source(ctx, insn, 1);
    let d = xmm(insn.op0_register());
    if checked(ctx) {
        // `CMPcc` to a temporary raises the same: less-than on every NaN like `COMIS`, equal on signalling ones like `UCOMIS`.
        let predicate = u8::from(opcode == 0x2f);
        let t = ctx.vtemp();
        vv(ctx, t, d, MOVAPS);
        arm(ctx);
        vv(ctx, t, a, VecOp { fp: true, ..with_imm(scalar, 1, 0xc2, predicate) });
        check(ctx, Tiny::Never, 0);
    }
    ctx.vec(VecShape::Flags, W64, d, a, VecOp { fp: true, ..raw(prefix, 1, opcode) });
}

/// `PBLENDVB` and kin: XMM0 selects. `spread` makes the mask fill each element.
fn blend_variable(ctx: &mut Ctx, insn: &Instruction) {
    let a = source(ctx, insn, 1);
    let d = xmm(insn.op0_register());
    let mask = ctx.vtemp();
    match insn.code() {
        Code::Pblendvb_xmm_xmmm128 => {
            vv(ctx, mask, mask, raw(0x66, 1, 0xef)); // PXOR
            vv(ctx, mask, 0, raw(0x66, 1, 0x64)); // PCMPGTB: 0 > selector
        }
        Code::Blendvps_xmm_xmmm128 => {
            vv(ctx, mask, 0, MOVAPS);
            shift(ctx, mask, 0x72, 4, 31); // PSRAD
        }
        _ => {
            vv(ctx, mask, 0, with_imm(0x66, 1, 0x70, 0xf5)); // PSHUFD: high halves
            shift(ctx, mask, 0x72, 4, 31);
        }
    }
    let chosen = ctx.vtemp();
    vv(ctx, chosen, a, MOVAPS);
    vv(ctx, chosen, mask, raw(0x66, 1, 0xdb)); // PAND
    vv(ctx, mask, d, raw(0x66, 1, 0xdf)); // PANDN
    vv(ctx, mask, chosen, raw(0x66, 1, 0xeb)); // POR
    vv(ctx, d, mask, MOVAPS);
}

/// Shift group `opcode` with ModRM digit `digit` by `imm`, on slot `d`.
pub(super) fn shift(ctx: &mut Ctx, d: u8, opcode: u8, digit: u8, imm: u8) {
    vv(ctx, d, d, VecOp { digit: digit + 1, ..with_imm(0x66, 1, opcode, imm) });
}

/// `MASKMOVDQU`, `MASKMOVQ`: `media` for the latter.
pub(super) fn mask_move(ctx: &mut Ctx, insn: &Instruction, media: bool) {
    let w = match insn.op0_kind() {
        OpKind::MemorySegDI => W16,
        OpKind::MemorySegEDI => W32,
        _ => W64,
    };
    let ea = Ea::at_name(seg_number(insn.memory_segment()), 7, 0, w);
    let linear = ea.resolve(ctx, W8, true).to_name(ctx);
    let data = insn.op1_register().number() as u64 & 15;
    let mask = insn.op2_register().number() as u64 & 15;
    let segment = if ea.is_limited(ctx) { ea.seg as u64 } else { fp_sse::UNLIMITED };
    let imm = data | mask << 4 | u64::from(media) << 8 | segment << 9;
    ctx.call_void(Fp::MaskMove as u16, linear, NONE, NONE, imm);
}

fn string_compare(ctx: &mut Ctx, insn: &Instruction) {
    // These alone may have an unaligned operand.
    let a = if is_mem(insn, 1) {
        let addr = ctx.addr(insn, W128, false);
        let v = ctx.vtemp();
        ctx.ldv(W128, v, addr, 0);
        v
    } else {
        xmm(insn.op1_register())
    };
    let (implicit, mask, wide) = match insn.code() {
        Code::Pcmpistri_xmm_xmmm128_imm8 => (1u64, 0u64, 0u64),
        Code::Pcmpistrm_xmm_xmmm128_imm8 => (1, 1, 0),
        Code::Pcmpestrm_xmm_xmmm128_imm8 => (0, 1, 0),
        Code::Pcmpestrm64_xmm_xmmm128_imm8 => (0, 1, 1),
        Code::Pcmpestri64_xmm_xmmm128_imm8 => (0, 0, 1),
        _ => (0, 0, 0),
    };
    let imm = u64::from(insn.immediate8())
        | u64::from(xmm(insn.op0_register())) << 8
        | u64::from(a) << 13
        | implicit << 18
        | mask << 19
        | wide << 20;
    let index = ctx.call(Fp::StringCompare as u16, NONE, NONE, NONE, imm);
    if mask == 0 {
        ctx.mov(W32, 1, index);
    }
}

fn save_area(ctx: &mut Ctx, insn: &Instruction, helper: Fp, rex_w: u64) {
    if !in_model(ctx, insn) {
        return ctx.ud();
    }
    if ctx.key & (key::EM | key::TS) != 0 {
        return ctx.raise(vector::NM);
    }
    let linear = ctx.linear(insn, 9, helper == Fp::Fxsave);
    ctx.call_void(helper as u16, linear, NONE, NONE, rex_w);
    if helper == Fp::Fxrstor {
        ctx.end_changed();
    }
}

/// Hints, fences and stores that are subject to no SSE control bit.
fn unconditional(ctx: &mut Ctx, insn: &Instruction) -> bool {
    match insn.code() {
        Code::Prefetch_m8
        | Code::Prefetchw_m8
        | Code::Prefetchwt1_m8
        | Code::Prefetchnta_m8
        | Code::Prefetcht0_m8
        | Code::Prefetcht1_m8
        | Code::Prefetcht2_m8
        | Code::Prefetchreserved3_m8
        | Code::Prefetchreserved4_m8
        | Code::Prefetchreserved5_m8
        | Code::Prefetchreserved6_m8
        | Code::Prefetchreserved7_m8 => {}
        _ if matches!(insn.mnemonic(), Mnemonic::Lfence | Mnemonic::Sfence | Mnemonic::Mfence) => {
            if !in_model(ctx, insn) {
                ctx.ud();
            } else if insn.mnemonic() == Mnemonic::Mfence {
                ctx.call_void(Fp::Fence as u16, NONE, NONE, NONE, 0);
            }
        }
        Code::Clflush_m8 => {
            if !in_model(ctx, insn) {
                ctx.ud();
                return true;
            }
            // Caches are coherent; what remains is that the address is translated as by a load.
            let addr = ctx.addr(insn, W8, false);
            ctx.ld(W8, addr, 0);
        }
        Code::Movnti_m32_r32 | Code::Movnti_m64_r64 => {
            if in_model(ctx, insn) {
                let value = ctx.read_reg(insn.op1_register());
                ctx.write(insn, 0, value);
            } else {
                ctx.ud();
            }
        }
        Code::Fxsave_m512byte => save_area(ctx, insn, Fp::Fxsave, 0),
        Code::Fxsave64_m512byte => save_area(ctx, insn, Fp::Fxsave, 1),
        Code::Fxrstor_m512byte => save_area(ctx, insn, Fp::Fxrstor, 0),
        Code::Fxrstor64_m512byte => save_area(ctx, insn, Fp::Fxrstor, 1),
        _ => return false,
    }
    true
}

/// Lowers `insn`; false when it is not one of this module's.
pub fn lower(ctx: &mut Ctx, insn: &Instruction) -> bool {
    if unconditional(ctx, insn) {
        return true;
    }
    if let Some(entry) = sse_table::xmm(insn.code()) {
        if available(ctx, insn) {
            regular(ctx, insn, entry);
        }
        return true;
    }
    sse_moves::lower(ctx, insn) || irregular(ctx, insn)
}

fn irregular(ctx: &mut Ctx, insn: &Instruction) -> bool {
    let Some(body) = irregular_body(insn.code()) else { return false };
    if available(ctx, insn) {
        body(ctx, insn);
    }
    true
}

type Body = fn(&mut Ctx, &Instruction);

fn irregular_body(code: Code) -> Option<Body> {
    Some(match code {
        Code::Cvtsi2ss_xmm_rm32 | Code::Cvtsi2ss_xmm_rm64 => |c, i| from_integer(c, i, 0xf3),
        Code::Cvtsi2sd_xmm_rm32 | Code::Cvtsi2sd_xmm_rm64 => |c, i| from_integer(c, i, 0xf2),
        Code::Cvttss2si_r32_xmmm32 | Code::Cvttss2si_r64_xmmm32 => |c, i| to_integer(c, i, 0xf3, 0x2c),
        Code::Cvtss2si_r32_xmmm32 | Code::Cvtss2si_r64_xmmm32 => |c, i| to_integer(c, i, 0xf3, 0x2d),
        Code::Cvttsd2si_r32_xmmm64 | Code::Cvttsd2si_r64_xmmm64 => |c, i| to_integer(c, i, 0xf2, 0x2c),
        Code::Cvtsd2si_r32_xmmm64 | Code::Cvtsd2si_r64_xmmm64 => |c, i| to_integer(c, i, 0xf2, 0x2d),
        Code::Ucomiss_xmm_xmmm32 => |c, i| compare(c, i, 0xf3, 0, 0x2e),
        Code::Comiss_xmm_xmmm32 => |c, i| compare(c, i, 0xf3, 0, 0x2f),
        Code::Ucomisd_xmm_xmmm64 => |c, i| compare(c, i, 0xf2, 0x66, 0x2e),
        Code::Comisd_xmm_xmmm64 => |c, i| compare(c, i, 0xf2, 0x66, 0x2f),
        Code::Ptest_xmm_xmmm128 => |c, i| {
            let a = source(c, i, 1);
            c.vec(VecShape::Flags, W64, xmm(i.op0_register()), a, raw(0x66, 2, 0x17));
        },
        Code::Pblendvb_xmm_xmmm128 | Code::Blendvps_xmm_xmmm128 | Code::Blendvpd_xmm_xmmm128 => {
            blend_variable
        }
        Code::Psrlw_xmm_imm8
        | Code::Psraw_xmm_imm8
        | Code::Psllw_xmm_imm8
        | Code::Psrld_xmm_imm8
        | Code::Psrad_xmm_imm8
        | Code::Pslld_xmm_imm8
        | Code::Psrlq_xmm_imm8
        | Code::Psllq_xmm_imm8
        | Code::Psrldq_xmm_imm8
        | Code::Pslldq_xmm_imm8 => |c, i| {
            if let Some((opcode, digit)) = sse_table::shift(i.code()) {
                shift(c, xmm(i.op0_register()), opcode, digit, i.immediate8());
            }
        },
        Code::Maskmovdqu_rDI_xmm_xmm => |c, i| mask_move(c, i, false),
        Code::Ldmxcsr_m32 => |c, i| {
            let value = c.read(i, 0, 0);
            c.call_void(Fp::Ldmxcsr as u16, value, NONE, NONE, 0);
            c.end_changed();
        },
        Code::Stmxcsr_m32 => |c, i| {
            let value: Name = c.call(Fp::Stmxcsr as u16, NONE, NONE, NONE, 0);
            c.write(i, 0, value);
        },
        Code::Pcmpestrm_xmm_xmmm128_imm8
        | Code::Pcmpestrm64_xmm_xmmm128_imm8
        | Code::Pcmpestri_xmm_xmmm128_imm8
        | Code::Pcmpestri64_xmm_xmmm128_imm8
        | Code::Pcmpistrm_xmm_xmmm128_imm8
        | Code::Pcmpistri_xmm_xmmm128_imm8 => string_compare,
        _ => return None,
    })
}
