//! Pushes, pops and frames.
//!
//! The stack pointer's width is the mode's (`SS.B`), whatever the operand size; it changes only after the last access.

use bulkhead_ir::{NONE, Name, Op, Opcode, W16, W32, W64};
use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use super::ctx::{Ctx, gpr, seg_selector_field, width_of};
use super::ea::{Addr, Ea, seg_number};
use super::feature;
use super::int::{RBP, RSP, width_from};
use crate::helpers::ids::Sys;
use crate::state::{key, seg};

/// Lowers `insn`; false when it is not one of this module's.
pub fn lower(ctx: &mut Ctx, insn: &Instruction) -> bool {
    use Mnemonic as M;
    match insn.mnemonic() {
        M::Push => push(ctx, insn),
        M::Pop => pop(ctx, insn),
        M::Pusha => pusha(ctx, W16),
        M::Pushad => pusha(ctx, W32),
        M::Popa => popa(ctx, W16),
        M::Popad => popa(ctx, W32),
        M::Pushf | M::Pushfd | M::Pushfq => {
            let w = width_from(insn.code(), Code::Pushfw, Code::Pushfd);
            let flags = ctx.call(Sys::Pushf as u16, NONE, NONE, NONE, u64::from(w));
            push_value(ctx, w, flags);
        }
        M::Popf | M::Popfd | M::Popfq => {
            let w = width_from(insn.code(), Code::Popfw, Code::Popfd);
            let flags = load_stack(ctx, w, 0);
            ctx.call_void(Sys::Popf as u16, flags, NONE, NONE, u64::from(w));
            move_sp(ctx, 1 << w);
            ctx.end_changed();
        }
        M::Enter => {
            let w = width_from(insn.code(), Code::Enterw_imm16_imm8, Code::Enterd_imm16_imm8);
            let level = u64::from(insn.immediate8_2nd() & 31);
            let imm = u64::from(w) | level << 8 | u64::from(insn.immediate16()) << 16;
            ctx.sys(Sys::Enter, imm);
        }
        M::Leave => leave(ctx, width_from(insn.code(), Code::Leavew, Code::Leaved)),
        _ => return false,
    }
    true
}

/// Width of the stack pointer.
pub fn sp_width(ctx: &Ctx) -> u8 {
    if ctx.code64() {
        W64
    } else if ctx.has(key::STACK32) {
        W32
    } else {
        W16
    }
}

/// Address of `1 << w` bytes, `disp` above the stack pointer.
pub fn stack_addr(ctx: &mut Ctx, w: u8, disp: i64, write: bool) -> Addr {
    let width = sp_width(ctx);
    Ea::at_name(seg::SS, RSP, disp, width).resolve(ctx, w, write)
}

/// A temporary: `w` bytes, `disp` above the stack pointer.
pub fn load_stack(ctx: &mut Ctx, w: u8, disp: i64) -> Name {
    let addr = stack_addr(ctx, w, disp, false);
    ctx.ld(w, addr, 0)
}

/// Adds `delta` to the stack pointer, flags untouched.
pub fn move_sp(ctx: &mut Ctx, delta: i64) {
    let width = sp_width(ctx);
    set_sp_from(ctx, width, RSP, delta);
}

/// Stack pointer = `base + delta`.
fn set_sp_from(ctx: &mut Ctx, width: u8, base: Name, delta: i64) {
    if width == W16 {
        let d = ctx.add(W16, base, delta);
        return ctx.write_slot(RSP, W16, d);
    }
    ctx.op(Op { w: width, d: RSP, a: base, imm: delta, ..Op::new(Opcode::Lea) });
}

/// Pushes the low `w` of `value`.
pub fn push_value(ctx: &mut Ctx, w: u8, value: Name) {
    push_part(ctx, w, w, value);
}

/// Pushes `1 << w` bytes, of which the first `1 << part` are accessed.
fn push_part(ctx: &mut Ctx, w: u8, part: u8, value: Name) {
    let size = 1i64 << w;
    let addr = stack_addr(ctx, part, -size, true);
    ctx.st(part, addr, value);
    move_sp(ctx, -size);
}

/// Operand width of a push, pop, near call or return.
fn stack_width(insn: &Instruction) -> u8 {
    width_of(insn.stack_pointer_increment().unsigned_abs() as usize)
}

/// Whether a segment register's place on the stack is accessed in its first two bytes only: Intel's processors, the P6 and later (SDM
/// volume 2, `PUSH`; for `POP` a host shows it).
fn has_short_selectors(ctx: &Ctx) -> bool {
    !ctx.amd && ctx.feature(feature::CMOV)
}

fn push(ctx: &mut Ctx, insn: &Instruction) {
    let w = stack_width(insn);
    if insn.op0_kind() == OpKind::Register && insn.op0_register().is_segment_register() {
        let selector = ctx.ldf(W16, seg_selector_field(seg_number(insn.op0_register())));
        // In 64-bit code all of the place is written.
        let part = if w == W32 && has_short_selectors(ctx) { W16 } else { w };
        return push_part(ctx, w, part, selector);
    }
    let value = ctx.read(insn, 0, 0);
    push_value(ctx, w, value);
}

fn pop(ctx: &mut Ctx, insn: &Instruction) {
    let w = stack_width(insn);
    let size = 1i64 << w;
    if insn.op0_kind() == OpKind::Memory {
        return pop_memory(ctx, insn, w);
    }
    let reg = insn.op0_register();
    if reg.is_segment_register() {
        let part = if has_short_selectors(ctx) { W16 } else { w };
        let selector = load_stack(ctx, part, 0);
        let selector = ctx.zx(W16, selector);
        ctx.call_void(Sys::LoadSeg as u16, selector, NONE, NONE, seg_number(reg) as u64);
        move_sp(ctx, size);
        return ctx.end_changed();
    }
    if w == W16 || gpr(reg).0 == RSP {
        let value = load_stack(ctx, w, 0);
        move_sp(ctx, size);
        return ctx.write_reg(reg, value);
    }
    let addr = stack_addr(ctx, w, 0, false);
    ctx.ld_to(w, gpr(reg).0, addr, 0);
    move_sp(ctx, size);
}

fn pop_memory(ctx: &mut Ctx, insn: &Instruction, w: u8) {
    let size = 1i64 << w;
    let value = load_stack(ctx, w, 0);
    let mut ea = ctx.ea(insn);
    if ea.base == RSP {
        // The address uses the stack pointer as it is after the pop.
        let after = match sp_width(ctx) {
            W16 => {
                let low = ctx.add(W16, RSP, size);
                let whole = ctx.temp();
                ctx.mov(W64, whole, RSP);
                ctx.op(Op { w: W16, d: whole, a: low, ..Op::new(Opcode::Dep) });
                whole
            }
            width => ctx.add(width, RSP, size),
        };
        ea = Ea { base: after, ..ea };
    }
    let addr = ea.resolve(ctx, w, true);
    ctx.st(w, addr, value);
    move_sp(ctx, size);
}

fn pusha(ctx: &mut Ctx, w: u8) {
    let size = 1i64 << w;
    for i in 0..8 {
        let addr = stack_addr(ctx, w, -size * (i + 1), true);
        ctx.st(w, addr, i as Name);
    }
    move_sp(ctx, -size * 8);
}

fn popa(ctx: &mut Ctx, w: u8) {
    let size = 1i64 << w;
    let mut values = [NONE; 8];
    // The one at the stack pointer first, DI: which of two faults is reported.
    for (i, value) in values.iter_mut().enumerate().rev() {
        // The stack pointer's image is skipped.
        if i as Name != RSP {
            *value = load_stack(ctx, w, size * (7 - i as i64));
        }
    }
    move_sp(ctx, size * 8);
    for (i, value) in values.into_iter().enumerate() {
        if value != NONE {
            ctx.write_slot(i as Name, w, value);
        }
    }
}

fn leave(ctx: &mut Ctx, w: u8) {
    let width = sp_width(ctx);
    let addr = Ea::at_name(seg::SS, RBP, 0, width).resolve(ctx, w, false);
    let frame = ctx.ld(w, addr, 0);
    set_sp_from(ctx, width, RBP, 1 << w);
    ctx.write_slot(RBP, w, frame);
}

/// Whether `reg` is the stack pointer in any width.
pub fn is_sp(reg: Register) -> bool {
    matches!(reg, Register::RSP | Register::ESP | Register::SP)
}
