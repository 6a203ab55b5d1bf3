//! Jumps, calls, returns and interrupts.

use bulkhead_ir::{NONE, Name, Op, Opcode, W16, W32, W64, cc};
use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use super::ctx::{Ctx, gpr, width_of};
use super::int::{RCX, condition, width_from};
use super::stack::{is_sp, load_stack, move_sp, push_value};
use super::{feature, system};
use crate::helpers::ids::Sys;
use crate::helpers::vector;
use crate::state::Cpu;

/// Lowers `insn`; false when it is not one of this module's.
pub fn lower(ctx: &mut Ctx, insn: &Instruction) -> bool {
    use Mnemonic as M;
    match insn.mnemonic() {
        M::Jmp => jmp(ctx, insn),
        M::Call => call(ctx, insn),
        M::Ret => ret(ctx, insn),
        M::Loop => count_loop(ctx, insn, None),
        M::Loope => count_loop(ctx, insn, Some(cc::E)),
        M::Loopne => count_loop(ctx, insn, Some(cc::NE)),
        M::Jcxz => count_zero(ctx, insn, W16),
        M::Jecxz => count_zero(ctx, insn, W32),
        M::Jrcxz => count_zero(ctx, insn, W64),
        M::Retf => {
            let (w16, w32) = match insn.op_count() {
                0 => (Code::Retfw, Code::Retfd),
                _ => (Code::Retfw_imm16, Code::Retfd_imm16),
            };
            let w = width_from(insn.code(), w16, w32);
            let release = if insn.op_count() == 0 { 0 } else { u64::from(insn.immediate16()) };
            ctx.sys(Sys::FarRet, u64::from(w) | release << 8);
            ctx.end_exit();
        }
        M::Iret | M::Iretd | M::Iretq => {
            let w = width_from(insn.code(), Code::Iretw, Code::Iretd);
            let next = ctx.next_name();
            ctx.call_void(Sys::Iret as u16, next, NONE, NONE, u64::from(w));
            ctx.end_exit();
        }
        M::Int => interrupt(ctx, insn.immediate8(), 0),
        M::Int3 => interrupt(ctx, vector::BP, 1),
        M::Into => interrupt(ctx, vector::OF, 2),
        M::Int1 => interrupt(ctx, vector::DB, 3),
        M::Bound => bound(ctx, insn),
        M::Syscall => {
            let next = ctx.next_name();
            ctx.call_void(Sys::Syscall as u16, next, NONE, NONE, 0);
            ctx.end_exit();
        }
        M::Sysenter if ctx.feature(feature::SEP) => {
            ctx.sys(Sys::Sysenter, 0);
            ctx.end_exit();
        }
        M::Sysret | M::Sysretq => {
            // The helper checks the level: EFER.SCE comes first.
            let w = if insn.code() == Code::Sysretq { W64 } else { W32 };
            ctx.sys(Sys::Sysret, u64::from(w));
            ctx.end_exit();
        }
        M::Sysexit | M::Sysexitq if ctx.feature(feature::SEP) => {
            if ctx.require_cpl0() {
                let w = if insn.code() == Code::Sysexitq { W64 } else { W32 };
                ctx.sys(Sys::Sysexit, u64::from(w));
                ctx.end_exit();
            }
        }
        _ if insn.is_jcc_short_or_near() => {
            let target = insn.near_branch_target();
            match condition(insn) {
                Some(code) => {
                    if ctx.outside(target) {
                        let taken = ctx.temp();
                        ctx.op(Op { d: taken, k: code, ..Op::new(Opcode::SetCc) });
                        ctx.check_taken(target, W32, taken, true);
                    }
                    ctx.end_branch(code, target);
                }
                None => return false,
            }
        }
        _ => return false,
    }
    true
}

impl Ctx<'_> {
    /// A temporary holding the pc of the next instruction.
    pub fn next_name(&mut self) -> Name {
        self.movi(self.next_pc as i64)
    }

    /// Whether branches must be checked against the code segment's limit: one of 64 KiB holds every target of 16 bits.
    fn limited(&self, w: u8) -> bool {
        self.cs_limit < if w == W16 { 0xffff } else { 0xffff_ffff }
    }

    /// Raises `#GP(0)` when the target in `target`, from an operand of width `w`, lies beyond the code segment or is not canonical (SDM
    /// volume 2, `CALL`, `JMP`, `RET`; AMD manual volume 3 likewise).
    fn check_target(&mut self, w: u8, target: Name) {
        if self.code64() {
            if w == W64 {
                self.op(Op { a: target, ..Op::new(Opcode::Canonical) });
            }
        } else if self.limited(w) {
            self.call_void(Sys::BranchLimit as u16, target, NONE, NONE, 0);
        }
    }

    /// Whether no branch may go to `target`. What is said of it holds at this pc only.
    fn outside(&mut self, target: u64) -> bool {
        let outside = if self.code64() { !Cpu::canonical(target) } else { target > self.cs_limit };
        self.out.movable &= !outside;
        outside
    }

    /// Raises `#GP(0)` when no branch may go to the target and the low `w` of `a` are nonzero (`nonzero`) or zero.
    fn check_taken(&mut self, target: u64, w: u8, a: Name, nonzero: bool) {
        if self.outside(target) {
            let imm = u64::from(w) | u64::from(nonzero) << 2;
            self.call_void(Sys::BranchLimitIf as u16, a, NONE, NONE, imm);
        }
    }

    /// Raises `#GP(0)` when no branch may go to the constant target.
    fn target_ok(&mut self, target: u64) -> bool {
        if !self.outside(target) {
            return true;
        }
        self.raise_zero(vector::GP);
        false
    }
}

fn is_near_constant(insn: &Instruction) -> bool {
    matches!(insn.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64)
}

/// The target of an indirect near branch, in a name that survives a change of the stack pointer.
fn indirect_target(ctx: &mut Ctx, insn: &Instruction) -> Name {
    let value = ctx.read(insn, 0, 0);
    if insn.op0_kind() == OpKind::Memory {
        return value;
    }
    let reg = insn.op0_register();
    if reg.size() == 8 && !is_sp(reg) {
        return value;
    }
    ctx.zx(width_of(reg.size()), value)
}

/// Selector and offset of a far branch, and the width of what a call pushes.
fn far_target(ctx: &mut Ctx, insn: &Instruction) -> Option<(Name, Name, u8)> {
    match insn.op0_kind() {
        OpKind::FarBranch16 => {
            let selector = ctx.movi(i64::from(insn.far_branch_selector()));
            let offset = ctx.movi(i64::from(insn.far_branch16()));
            Some((selector, offset, W16))
        }
        OpKind::FarBranch32 => {
            let selector = ctx.movi(i64::from(insn.far_branch_selector()));
            let offset = ctx.movi(i64::from(insn.far_branch32()));
            Some((selector, offset, W32))
        }
        OpKind::Memory => {
            let w = match insn.code() {
                Code::Jmp_m1616 | Code::Call_m1616 => W16,
                Code::Jmp_m1632 | Code::Call_m1632 => W32,
                Code::Jmp_m1664 | Code::Call_m1664 => W64,
                _ => return None,
            };
            // AMD's pointers are 16:32 with REX.W too (see `widen_by_amd`).
            let pointer = if ctx.amd { w.min(W32) } else { w };
            let (offset, selector) = system::load_far_pointer(ctx, insn, pointer);
            Some((selector, offset, w))
        }
        _ => None,
    }
}

fn jmp(ctx: &mut Ctx, insn: &Instruction) {
    if is_near_constant(insn) {
        let target = insn.near_branch_target();
        if ctx.target_ok(target) {
            ctx.end_goto(target);
        }
        return;
    }
    if let Some((selector, offset, w)) = far_target(ctx, insn) {
        let next = ctx.next_name();
        ctx.call_void(Sys::FarJmp as u16, selector, offset, next, u64::from(w));
        return ctx.end_exit();
    }
    let target = indirect_target(ctx, insn);
    ctx.check_target(Ctx::op_width(insn, 0), target);
    ctx.end_goto_reg(target);
}

fn call(ctx: &mut Ctx, insn: &Instruction) {
    if !is_near_constant(insn)
        && let Some((selector, offset, w)) = far_target(ctx, insn)
    {
        let next = ctx.next_name();
        ctx.call_void(Sys::FarCall as u16, selector, offset, next, u64::from(w));
        return ctx.end_exit();
    }
    let w = width_of(insn.stack_pointer_increment().unsigned_abs() as usize);
    if is_near_constant(insn) {
        let target = insn.near_branch_target();
        if ctx.target_ok(target) {
            let next = ctx.next_name();
            push_value(ctx, w, next);
            ctx.end_goto(target);
        }
        return;
    }
    let target = indirect_target(ctx, insn);
    ctx.check_target(w, target);
    let next = ctx.next_name();
    push_value(ctx, w, next);
    ctx.end_goto_reg(target);
}

fn ret(ctx: &mut Ctx, insn: &Instruction) {
    let (w, release) = match insn.code() {
        Code::Retnw => (W16, 0),
        Code::Retnd => (W32, 0),
        Code::Retnq => (W64, 0),
        Code::Retnw_imm16 => (W16, insn.immediate16()),
        Code::Retnd_imm16 => (W32, insn.immediate16()),
        _ => (W64, insn.immediate16()),
    };
    let target = load_stack(ctx, w, 0);
    ctx.check_target(w, target);
    move_sp(ctx, (1 << w) + i64::from(release));
    ctx.end_goto_reg(target);
}

/// Width of the count register of `LOOP`.
fn count_width(code: Code) -> u8 {
    match code {
        Code::Loop_rel8_16_CX
        | Code::Loop_rel8_32_CX
        | Code::Loope_rel8_16_CX
        | Code::Loope_rel8_32_CX
        | Code::Loopne_rel8_16_CX
        | Code::Loopne_rel8_32_CX => W16,
        Code::Loop_rel8_16_RCX
        | Code::Loop_rel8_64_RCX
        | Code::Loope_rel8_16_RCX
        | Code::Loope_rel8_64_RCX
        | Code::Loopne_rel8_16_RCX
        | Code::Loopne_rel8_64_RCX => W64,
        _ => W32,
    }
}

fn count_loop(ctx: &mut Ctx, insn: &Instruction, also: Option<u8>) {
    let w = count_width(insn.code());
    let target = insn.near_branch_target();
    let count = ctx.add(w, RCX, -1);
    let counter = w;
    let (w, decider) = match also {
        None => (w, count),
        Some(code) => {
            let zero = ctx.movi(0);
            let both = ctx.temp();
            ctx.op(Op { w: W64, d: both, a: count, b: zero, k: code, ..Op::new(Opcode::Select) });
            (w, both)
        }
    };
    ctx.check_taken(target, w, decider, true);
    ctx.write_slot(RCX, counter, count);
    ctx.end_branch_z(w, decider, true, target);
}

fn count_zero(ctx: &mut Ctx, insn: &Instruction, w: u8) {
    ctx.check_taken(insn.near_branch_target(), w, RCX, false);
    ctx.end_branch_z(w, RCX, false, insn.near_branch_target());
}

fn interrupt(ctx: &mut Ctx, vector: u8, kind: u64) {
    let next = ctx.next_name();
    ctx.call_void(Sys::Int as u16, next, NONE, NONE, u64::from(vector) | kind << 8);
    ctx.end_exit();
}

fn bound(ctx: &mut Ctx, insn: &Instruction) {
    let w = width_of(insn.op0_register().size());
    let ea = ctx.ea(insn);
    let at = ea.place(ctx, w + 1, false).aligned(ctx, w).to_name(ctx);
    ctx.call_void(Sys::Bound as u16, gpr(insn.op0_register()).0, at, NONE, u64::from(w));
}
