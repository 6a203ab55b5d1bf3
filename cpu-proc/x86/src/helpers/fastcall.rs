//! `SYSENTER`, `SYSEXIT`, `SYSCALL`, `SYSRET`, `SWAPGS`. Source: Intel SDM volume 2; AMD64 APM volume 3.
//!
//! *Deviation*: `SYSENTER` works in long mode as on Intel although the AMD models' own processors refuse it there.

use bulkhead_engine::Fault;

use super::descriptor::set_cs;
use super::ids::Sys;
use super::{EVERYTHING, FAULTS, List, gp, landed, landed_by_new_flag, ud};
use crate::helper;
use crate::state::{Cpu, Segment, cr0, efer, eflags, reg, seg};

/// Helpers of this topic.
pub const HELPERS: List = &[
    helper!(Sys::Sysenter, sysenter, EVERYTHING),
    helper!(Sys::Sysexit, sysexit, EVERYTHING),
    helper!(Sys::Syscall, syscall, EVERYTHING),
    helper!(Sys::Sysret, sysret, EVERYTHING),
    helper!(Sys::Swapgs, swapgs, FAULTS),
];

/// Flat code segment: 32-bit or 64-bit, accessed, readable, present.
fn flat_code(selector: u16, dpl: u16, long: bool) -> Segment {
    let mode = if long { 0xa000 } else { 0xc000 };
    Segment { base: 0, limit: u32::MAX, attr: mode | 0x9b | dpl << 5, selector }
}

/// Flat stack segment.
fn flat_stack(selector: u16, dpl: u16) -> Segment {
    Segment { base: 0, limit: u32::MAX, attr: 0xc093 | dpl << 5, selector }
}

fn go(cpu: &mut Cpu, code: u16, stack: u16, cpl: u16, long: bool) {
    set_cs(cpu, flat_code(code, cpl, long));
    cpu.segs[seg::SS] = flat_stack(stack, cpl);
    cpu.set_cpl(u32::from(cpl));
}

/// `Sys::Sysenter`.
fn sysenter(cpu: &mut Cpu, _: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    let selector = cpu.msrs.sysenter_cs as u16 & !3;
    if cpu.cr0 & cr0::PE == 0 || selector == 0 {
        return Err(gp(cpu, 0));
    }
    let long = cpu.long_mode();
    let flags = cpu.flags() & !(eflags::VM | eflags::IF | eflags::RF);
    cpu.set_flags(flags);
    go(cpu, selector, selector.wrapping_add(8), 0, long);
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    cpu.core.slots[reg::RSP] = cpu.msrs.sysenter_esp & mask;
    cpu.core.pc = cpu.msrs.sysenter_eip & mask;
    landed(cpu)
}

/// `Sys::Sysexit`.
fn sysexit(cpu: &mut Cpu, _: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let base = cpu.msrs.sysenter_cs as u16 & !3;
    if cpu.cr0 & cr0::PE == 0 || cpu.cpl != 0 || base == 0 {
        return Err(gp(cpu, 0));
    }
    let long = imm & 3 == 3;
    let (rip, rsp) = (cpu.core.slots[reg::RDX], cpu.core.slots[reg::RCX]);
    if long && !(Cpu::canonical(rip) && Cpu::canonical(rsp)) {
        return Err(gp(cpu, 0));
    }
    let (code, mask) =
        if long { (base.wrapping_add(32), u64::MAX) } else { (base.wrapping_add(16), 0xffff_ffff) };
    go(cpu, code | 3, code.wrapping_add(8) | 3, 3, long);
    cpu.core.slots[reg::RSP] = rsp & mask;
    cpu.core.pc = rip & mask;
    landed(cpu)
}

/// Whether `SYSCALL` and `SYSRET` exist in the present code: Intel's processors have them in 64-bit code only (SDM volume 2), so systems for
/// those leave CSTAR alone.
pub fn has_syscall(cpu: &Cpu) -> bool {
    !cpu.model.is_intel() || cpu.code64()
}

/// `Sys::Syscall`.
fn syscall(cpu: &mut Cpu, a: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    if cpu.msrs.efer & efer::SCE == 0 || cpu.cr0 & cr0::PE == 0 || !has_syscall(cpu) {
        return Err(ud(cpu));
    }
    let selector = (cpu.msrs.star >> 32) as u16 & !3;
    let flags = cpu.flags();
    if cpu.long_mode() {
        let target = if cpu.code64() { cpu.msrs.lstar } else { cpu.msrs.cstar };
        cpu.core.slots[reg::RCX] = a;
        cpu.core.slots[reg::R11] = u64::from(flags & !eflags::RF);
        cpu.set_flags(flags & !(cpu.msrs.sfmask as u32 | eflags::RF));
        go(cpu, selector, selector.wrapping_add(8), 0, true);
        cpu.core.pc = target;
    } else {
        cpu.core.slots[reg::RCX] = a & 0xffff_ffff;
        cpu.set_flags(flags & !(eflags::VM | eflags::IF | eflags::RF));
        go(cpu, selector, selector.wrapping_add(8), 0, false);
        cpu.core.pc = cpu.msrs.star & 0xffff_ffff;
    }
    landed_by_new_flag(cpu)
}

/// `Sys::Sysret`.
fn sysret(cpu: &mut Cpu, _: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    if cpu.msrs.efer & efer::SCE == 0 || !has_syscall(cpu) {
        return Err(ud(cpu));
    }
    if cpu.cr0 & cr0::PE == 0 || cpu.cpl != 0 {
        return Err(gp(cpu, 0));
    }
    let base = (cpu.msrs.star >> 48) as u16 & !3;
    let rcx = cpu.core.slots[reg::RCX];
    let wide = imm & 3 == 3;
    // Intel's processors look at the target while still at level 0, on the program's stack (SDM volume 2, `SYSRET`; CVE-2012-0217). AMD's
    // go there, and the fetch faults at level 3 (AMD manual volume 3, `SYSRET`).
    if wide && !cpu.model.is_amd() && !Cpu::canonical(rcx) {
        return Err(gp(cpu, 0));
    }
    if cpu.long_mode() {
        let flags = cpu.core.slots[reg::R11] as u32 & !(eflags::RF | eflags::VM);
        cpu.set_flags(flags);
    } else {
        let flags = cpu.flags() | eflags::IF;
        cpu.set_flags(flags);
    }
    let code = if wide { base.wrapping_add(16) } else { base };
    go(cpu, code | 3, base.wrapping_add(8) | 3, 3, wide);
    cpu.core.pc = if wide { rcx } else { rcx & 0xffff_ffff };
    landed_by_new_flag(cpu)
}

/// `Sys::Swapgs`.
fn swapgs(cpu: &mut Cpu, _: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    super::control::privileged(cpu)?;
    std::mem::swap(&mut cpu.segs[seg::GS].base, &mut cpu.msrs.kernel_gs_base);
    Ok(0)
}
