//! String instructions: one helper call each, which runs whole repetitions.

use bulkhead_ir::{NONE, W8, W16, W32, W64};
use iced_x86::{Code, Instruction, OpKind};

use super::ctx::Ctx;
use super::ea::seg_number;
use crate::helpers::ids::Str;
use crate::state::key;

fn kind(code: Code) -> Option<(Str, u8)> {
    Some(match code {
        Code::Movsb_m8_m8 => (Str::Movs, W8),
        Code::Movsw_m16_m16 => (Str::Movs, W16),
        Code::Movsd_m32_m32 => (Str::Movs, W32),
        Code::Movsq_m64_m64 => (Str::Movs, W64),
        Code::Stosb_m8_AL => (Str::Stos, W8),
        Code::Stosw_m16_AX => (Str::Stos, W16),
        Code::Stosd_m32_EAX => (Str::Stos, W32),
        Code::Stosq_m64_RAX => (Str::Stos, W64),
        Code::Lodsb_AL_m8 => (Str::Lods, W8),
        Code::Lodsw_AX_m16 => (Str::Lods, W16),
        Code::Lodsd_EAX_m32 => (Str::Lods, W32),
        Code::Lodsq_RAX_m64 => (Str::Lods, W64),
        Code::Cmpsb_m8_m8 => (Str::Cmps, W8),
        Code::Cmpsw_m16_m16 => (Str::Cmps, W16),
        Code::Cmpsd_m32_m32 => (Str::Cmps, W32),
        Code::Cmpsq_m64_m64 => (Str::Cmps, W64),
        Code::Scasb_AL_m8 => (Str::Scas, W8),
        Code::Scasw_AX_m16 => (Str::Scas, W16),
        Code::Scasd_EAX_m32 => (Str::Scas, W32),
        Code::Scasq_RAX_m64 => (Str::Scas, W64),
        Code::Insb_m8_DX => (Str::Ins, W8),
        Code::Insw_m16_DX => (Str::Ins, W16),
        Code::Insd_m32_DX => (Str::Ins, W32),
        Code::Outsb_DX_m8 => (Str::Outs, W8),
        Code::Outsw_DX_m16 => (Str::Outs, W16),
        Code::Outsd_DX_m32 => (Str::Outs, W32),
        _ => return None,
    })
}

fn address_width(insn: &Instruction) -> u8 {
    for op in 0..insn.op_count() {
        match insn.op_kind(op) {
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => return W16,
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => return W32,
            _ => {}
        }
    }
    W64
}

/// Lowers `insn`; false when it is not one of this module's.
pub fn lower(ctx: &mut Ctx, insn: &Instruction) -> bool {
    let Some((id, w)) = kind(insn.code()) else { return false };
    let repeat = if insn.has_repne_prefix() { 2 } else { u64::from(insn.has_rep_prefix()) };
    let imm = u64::from(w)
        | u64::from(address_width(insn)) << 2
        | repeat << 4
        | (seg_number(insn.memory_segment()) as u64) << 8
        | u64::from(ctx.flat()) << 12;
    let here = ctx.movi(ctx.pc as i64);
    let next = ctx.next_name();
    let to = ctx.call(id as u16, here, next, NONE, imm);
    if ctx.has(key::TRAP) {
        // With TF one repetition ran; the helper says where execution goes on.
        ctx.end_goto_reg(to);
    } else if matches!(id, Str::Ins | Str::Outs) {
        ctx.end_changed();
    }
    true
}
