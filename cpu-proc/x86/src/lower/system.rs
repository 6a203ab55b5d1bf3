//! System instructions, segment and control registers, ports.
//!
//! Privilege that follows from the mode alone is checked here, before operands are touched; the rest is the helpers'.

use bulkhead_ir::{Alu, NONE, Name, W8, W16, W32, W64, cc};
use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use super::ctx::{AfterSti, Ctx, Src, gpr, seg_selector_field, width_of};
use super::ea::{Addr, Ea, seg_number};
use super::feature;
use super::int::RAX;
use crate::helpers::ids::Sys;
use crate::helpers::segload;
use crate::state::{key, seg};

/// Lowers `insn`; false when it is not one of this module's.
pub fn lower(ctx: &mut Ctx, insn: &Instruction) -> bool {
    use Mnemonic as M;
    match insn.mnemonic() {
        M::In => input(ctx, insn),
        M::Out => output(ctx, insn),
        M::Cli => ctx.sys(Sys::Cli, 0),
        M::Sti => {
            let next = ctx.next_name();
            ctx.call_void(Sys::Sti as u16, next, NONE, NONE, 0);
            if ctx.key & (key::TRAP | key::INHIBIT) != 0 {
                ctx.end_changed();
            } else {
                ctx.after_sti = AfterSti::Next;
            }
        }
        M::Cld => ctx.sys(Sys::SetDf, 0),
        M::Std => ctx.sys(Sys::SetDf, 1),
        M::Hlt => {
            if ctx.require_cpl0() {
                let next = ctx.next_name();
                ctx.call_void(Sys::Hlt as u16, next, NONE, NONE, 0);
                ctx.end_exit();
            }
        }
        M::Cpuid => {
            ctx.sys(Sys::Cpuid, 0);
            // It serialises: what another processor has made of the code behind it is to be seen.
            ctx.end_changed();
        }
        M::Rdtsc if ctx.feature(feature::TSC) => ctx.sys(Sys::Rdtsc, 0),
        M::Rdtscp if ctx.feature(feature::RDTSCP) => ctx.sys(Sys::Rdtsc, 1),
        M::Rdpmc if ctx.feature(feature::MMX) => ctx.sys(Sys::Rdpmc, 0),
        M::Rdmsr if ctx.feature(feature::MSR) => {
            if ctx.require_cpl0() {
                ctx.sys(Sys::Rdmsr, 0);
            }
        }
        M::Wrmsr if ctx.feature(feature::MSR) => privileged_change(ctx, Sys::Wrmsr),
        M::Clts => privileged_change(ctx, Sys::Clts),
        M::Invd | M::Wbinvd => {
            if ctx.require_cpl0() {
                ctx.sys(Sys::Wbinvd, 0);
                // They serialise, as the loads of descriptor tables do (SDM volume 3A section 8.3).
                ctx.end_changed();
            }
        }
        M::Invlpg => {
            if ctx.require_cpl0() {
                let at = ctx.linear(insn, W8, false);
                ctx.call_void(Sys::Invlpg as u16, at, NONE, NONE, 0);
                ctx.end_changed();
            }
        }
        M::Lmsw => {
            if ctx.require_cpl0() {
                let value = read16(ctx, insn, 0);
                ctx.call_void(Sys::Lmsw as u16, value, NONE, NONE, 0);
                ctx.end_changed();
            }
        }
        M::Smsw => {
            let value = ctx.call(Sys::Smsw as u16, NONE, NONE, NONE, 0);
            ctx.write(insn, 0, value);
        }
        M::Lgdt => load_table(ctx, insn, 0),
        M::Lidt => load_table(ctx, insn, 1),
        M::Sgdt => store_table(ctx, insn, 0),
        M::Sidt => store_table(ctx, insn, 2),
        M::Lldt | M::Ltr | M::Sldt | M::Str | M::Lar | M::Lsl | M::Verr | M::Verw | M::Arpl => {
            return descriptor(ctx, insn);
        }
        M::Les => load_far(ctx, insn, seg::ES),
        M::Lds => load_far(ctx, insn, seg::DS),
        M::Lss => load_far(ctx, insn, seg::SS),
        M::Lfs => load_far(ctx, insn, seg::FS),
        M::Lgs => load_far(ctx, insn, seg::GS),
        M::Swapgs => {
            if ctx.require_cpl0() {
                ctx.sys(Sys::Swapgs, 0);
            }
        }
        M::Rsm => {
            ctx.sys(Sys::Rsm, 0);
            ctx.end_exit();
        }
        // Above level 0 they do not exist.
        M::Monitor if ctx.feature(feature::MONITOR) && ctx.cpl() == 0 => monitor(ctx, insn),
        M::Mwait if ctx.feature(feature::MONITOR) && ctx.cpl() == 0 => {
            let next = ctx.next_name();
            ctx.call_void(Sys::Mwait as u16, next, NONE, NONE, 0);
            ctx.end_changed();
        }
        _ => return false,
    }
    true
}

/// `MONITOR` reads a byte, as far as faults are concerned.
fn monitor(ctx: &mut Ctx, insn: &Instruction) {
    let w = match insn.code() {
        Code::Monitorw => W16,
        Code::Monitord => W32,
        _ => W64,
    };
    let ea = Ea::at_name(seg_number(insn.segment_prefix()), 0, 0, w);
    let linear = ea.resolve(ctx, W8, false).to_name(ctx);
    ctx.ld(W8, Addr::name(linear), 0);
    ctx.call_void(Sys::Monitor as u16, linear, NONE, NONE, 0);
}

fn privileged_change(ctx: &mut Ctx, id: Sys) {
    if ctx.require_cpl0() {
        ctx.sys(id, 0);
        ctx.end_changed();
    }
}

/// A 16-bit operand, zero-extended, whatever register width the decoder gave it.
fn read16(ctx: &mut Ctx, insn: &Instruction, op: u32) -> Name {
    match insn.op_kind(op) {
        OpKind::Register => {
            let value = ctx.read_reg(insn.op_register(op));
            ctx.zx(W16, value)
        }
        _ => {
            let addr = ctx.addr(insn, W16, false);
            ctx.ld(W16, addr, 0)
        }
    }
}

/// A selector or similar to register (zero-extended to its width) or 16-bit memory operand 0.
fn write16(ctx: &mut Ctx, insn: &Instruction, value: Name) {
    match insn.op0_kind() {
        OpKind::Memory => {
            let addr = ctx.addr(insn, W16, true);
            ctx.st(W16, addr, value);
        }
        _ => ctx.write_reg(insn.op0_register(), value),
    }
}

/// Moves to and from segment, control and debug registers; false for plain moves.
pub fn mov_special(ctx: &mut Ctx, insn: &Instruction) -> bool {
    let dest = if insn.op0_kind() == OpKind::Register { insn.op0_register() } else { Register::None };
    let source = if insn.op1_kind() == OpKind::Register { insn.op1_register() } else { Register::None };
    let special = |reg: Register| reg.is_segment_register() || reg.is_cr() || reg.is_dr() || reg.is_tr();
    if !special(dest) && !special(source) {
        return false;
    }
    if dest == Register::CS || dest.is_tr() || source.is_tr() {
        ctx.ud();
    } else if dest.is_segment_register() {
        let selector = read16(ctx, insn, 1);
        ctx.call_void(Sys::LoadSeg as u16, selector, NONE, NONE, seg_number(dest) as u64);
        ctx.end_changed();
    } else if source.is_segment_register() {
        let selector = ctx.ldf(W16, seg_selector_field(seg_number(source)));
        write16(ctx, insn, selector);
    } else {
        mov_control(ctx, dest, source);
    }
    true
}

fn mov_control(ctx: &mut Ctx, dest: Register, source: Register) {
    let known = |reg: Register| {
        reg.is_dr() && reg.number() < 8 || matches!(reg.number(), 0 | 2 | 3 | 4 | 8) && reg.is_cr()
    };
    let write = dest.is_cr() || dest.is_dr();
    let (special, general) = if write { (dest, source) } else { (source, dest) };
    if !known(special) {
        return ctx.ud();
    }
    if !ctx.require_cpl0() {
        return;
    }
    let number = special.number() as u64;
    if write {
        let id = if special.is_cr() { Sys::WriteCr } else { Sys::WriteDr };
        let value = ctx.zx(width_of(general.size()), gpr(general).0);
        ctx.call_void(id as u16, value, NONE, NONE, number);
        return ctx.end_changed();
    }
    let id = if special.is_cr() { Sys::ReadCr } else { Sys::ReadDr };
    let value = ctx.call(id as u16, NONE, NONE, NONE, number);
    ctx.write_reg(general, value);
}

/// Offset (`w` wide) and selector of a far pointer in memory.
pub fn load_far_pointer(ctx: &mut Ctx, insn: &Instruction, w: u8) -> (Name, Name) {
    let ea = ctx.ea(insn);
    let at = ea.resolve(ctx, w, false);
    let offset = ctx.ld(w, at, 0);
    let at = ea.at(1 << w).resolve(ctx, W16, false);
    let selector = ctx.ld(W16, at, 0);
    (offset, selector)
}

fn load_far(ctx: &mut Ctx, insn: &Instruction, segment: usize) {
    let reg = insn.op0_register();
    let (offset, selector) = load_far_pointer(ctx, insn, width_of(reg.size()));
    ctx.call_void(Sys::LoadSeg as u16, selector, NONE, NONE, segment as u64 | segload::WITH_POINTER);
    ctx.write_reg(reg, offset);
    ctx.end_changed();
}

fn load_table(ctx: &mut Ctx, insn: &Instruction, which: u64) {
    if !ctx.require_cpl0() {
        return;
    }
    let ea = ctx.ea(insn);
    let at = ea.resolve(ctx, W16, false);
    let limit = ctx.ld(W16, at, 0);
    let w = if ctx.code64() { W64 } else { W32 };
    let at = ea.at(2).resolve(ctx, w, false);
    let mut base = ctx.ld(w, at, 0);
    if matches!(insn.code(), Code::Lgdt_m1632_16 | Code::Lidt_m1632_16) {
        let low = ctx.temp();
        ctx.alu(Alu::And, W32, low, base, Src::Imm(0xff_ffff), false);
        base = low;
    }
    ctx.call_void(Sys::LoadTable as u16, base, limit, NONE, which);
    ctx.end_changed();
}

fn store_table(ctx: &mut Ctx, insn: &Instruction, part: u64) {
    let base = ctx.call(Sys::StoreTable as u16, NONE, NONE, NONE, part);
    let limit = ctx.call(Sys::StoreTable as u16, NONE, NONE, NONE, part + 1);
    let ea = ctx.ea(insn);
    let at = ea.resolve(ctx, W16, true);
    ctx.st(W16, at, limit);
    let w = if ctx.code64() { W64 } else { W32 };
    let at = ea.at(2).resolve(ctx, w, true);
    ctx.st(w, at, base);
}

/// Instructions on descriptors: undefined in real and virtual-8086 mode.
fn descriptor(ctx: &mut Ctx, insn: &Instruction) -> bool {
    use Mnemonic as M;
    if ctx.real_or_v86() {
        return false;
    }
    match insn.mnemonic() {
        M::Lldt | M::Ltr => {
            if ctx.require_cpl0() {
                let id = if insn.mnemonic() == M::Lldt { Sys::Lldt } else { Sys::Ltr };
                let selector = read16(ctx, insn, 0);
                ctx.call_void(id as u16, selector, NONE, NONE, 0);
                ctx.end_changed();
            }
        }
        M::Sldt | M::Str => {
            let which = u64::from(insn.mnemonic() == M::Str);
            let selector = ctx.call(Sys::StoreSel as u16, NONE, NONE, NONE, which);
            write16(ctx, insn, selector);
        }
        M::Lar | M::Lsl => {
            let reg = insn.op0_register();
            let w = width_of(reg.size());
            let selector = read16(ctx, insn, 1);
            let imm = u64::from(insn.mnemonic() == M::Lsl) | u64::from(w) << 4;
            let old = gpr(reg).0;
            let value = ctx.call(Sys::LarLsl as u16, selector, old, NONE, imm);
            let result = ctx.temp();
            ctx.select(cc::E, W64, result, value, old);
            // All 64 bits, so that a failed check leaves the register alone.
            ctx.write_slot(old, if w == W32 { W64 } else { w }, result);
        }
        M::Verr | M::Verw => {
            let selector = read16(ctx, insn, 0);
            ctx.call_void(Sys::Verify as u16, selector, NONE, NONE, u64::from(insn.mnemonic() == M::Verw));
        }
        _ => arpl(ctx, insn),
    }
    true
}

fn arpl(ctx: &mut Ctx, insn: &Instruction) {
    let source = ctx.zx(W16, gpr(insn.op1_register()).0);
    if insn.op0_kind() == OpKind::Memory {
        let segment = ctx.ea(insn).seg as u64;
        let at = ctx.linear(insn, W16, false);
        let old = ctx.ld(W16, Addr::name(at), 0);
        return ctx.call_void(Sys::ArplMemory as u16, at, old, source, segment);
    }
    let slot = gpr(insn.op0_register()).0;
    let old = ctx.zx(W16, slot);
    let new = ctx.call(Sys::Arpl as u16, old, source, NONE, 0);
    ctx.write_slot(slot, W16, new);
}

/// The port operand `op`.
fn port(ctx: &mut Ctx, insn: &Instruction, op: u32) -> Name {
    match insn.op_kind(op) {
        OpKind::Register => ctx.zx(W16, gpr(Register::DX).0),
        _ => ctx.movi(i64::from(insn.immediate8())),
    }
}

fn input(ctx: &mut Ctx, insn: &Instruction) {
    let port = port(ctx, insn, 1);
    let reg = insn.op0_register();
    let value = ctx.call(Sys::In as u16, port, NONE, NONE, u64::from(width_of(reg.size())));
    ctx.write_reg(reg, value);
}

fn output(ctx: &mut Ctx, insn: &Instruction) {
    let port = port(ctx, insn, 0);
    let w = width_of(insn.op1_register().size());
    let value = ctx.zx(w, RAX);
    ctx.call_void(Sys::Out as u16, port, value, NONE, u64::from(w));
    ctx.end_changed();
}
