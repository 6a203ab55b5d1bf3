//! EFLAGS, interrupt enabling and halting. Source: Intel SDM volume 2 (`CLI`, `STI`, `PUSHF`, `POPF`, `HLT`) and volume 3A
//! section 6.8.

use bulkhead_engine::{Fault, exit};
use bulkhead_ir::FLAGS_ALL;

use super::control::privileged;
use super::descriptor::changeable_flags;
use super::ids::Sys;
use super::{FAULTS, List, PURE, gp, raise, vector};
use crate::helper;
use crate::state::{Cpu, EFLAGS_CONTROL_ALL, cr4, eflags, halted, inhibit, key, seg};

/// Helpers of this topic.
pub const HELPERS: List = &[
    helper!(Sys::Hlt, hlt, FAULTS),
    helper!(Sys::Cli, cli, FAULTS),
    helper!(Sys::Sti, sti, FAULTS),
    helper!(Sys::Pushf, pushf, FAULTS, flags_read: FLAGS_ALL),
    helper!(Sys::Popf, popf, FAULTS, flags_read: FLAGS_ALL, flags_written: FLAGS_ALL),
    helper!(Sys::SetDf, set_df, PURE),
    helper!(Sys::ClearInhibit, clear_inhibit, PURE),
    helper!(Sys::Breakpoint, breakpoint, FAULTS),
    helper!(Sys::AlignCheck, align_check, FAULTS),
    helper!(Sys::BranchLimit, branch_limit, FAULTS),
    helper!(Sys::BranchLimitIf, branch_limit_if, FAULTS),
];

fn halt(cpu: &mut Cpu, next: u64) {
    cpu.core.pc = next;
    cpu.halted = halted::HLT;
    cpu.core.exit = exit::HALT;
}

/// `Sys::Hlt`. A single step ends it at once, as every debug exception does (SDM volume 2, `HLT`).
fn hlt(cpu: &mut Cpu, a: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    privileged(cpu)?;
    if cpu.key & key::TRAP != 0 {
        cpu.core.pc = a;
        return Err(super::step_trap(cpu));
    }
    halt(cpu, a);
    Ok(0)
}

/// Which flag `CLI` and `STI` change: IF, or VIF with the virtual-mode extensions (SDM volume 3A sections 20.3 and 20.4).
fn interrupt_flag(cpu: &mut Cpu) -> Result<u32, Fault> {
    if cpu.cpl <= cpu.iopl() {
        return Ok(eflags::IF);
    }
    let extension = if cpu.v86() { cr4::VME } else { cr4::PVI };
    if cpu.cpl == 3 && cpu.cr4 & extension != 0 { Ok(eflags::VIF) } else { Err(gp(cpu, 0)) }
}

/// Whether virtual-8086 code runs with the virtual interrupt flag: CR4.VME and IOPL below 3.
pub fn virtual_interrupts(cpu: &Cpu) -> bool {
    cpu.v86() && cpu.iopl() < 3 && cpu.cr4 & cr4::VME != 0
}

/// EFLAGS as such code sees it: IF is VIF, IOPL is 3.
pub fn virtual_image(cpu: &Cpu) -> u32 {
    let virtual_if = if cpu.eflags & eflags::VIF != 0 { eflags::IF } else { 0 };
    cpu.flags() & !eflags::IF | virtual_if | eflags::IOPL
}

/// EFLAGS after such code loads the 16-bit image `value`. #GP(0) when it would trap, or let a waiting interrupt in.
pub fn virtual_merge(cpu: &mut Cpu, value: u32) -> Result<u32, Fault> {
    let enables = value & eflags::IF != 0;
    if value & eflags::TF != 0 || enables && cpu.eflags & eflags::VIP != 0 {
        return Err(gp(cpu, 0));
    }
    let mask = 0xffff & EFLAGS_CONTROL_ALL & !(eflags::IF | eflags::IOPL);
    let virtual_if = if enables { eflags::VIF } else { 0 };
    Ok(cpu.flags() & !(mask | eflags::VIF | eflags::RF) | value & mask | virtual_if)
}

/// `Sys::Cli`.
fn cli(cpu: &mut Cpu, _: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    let flag = interrupt_flag(cpu)?;
    cpu.eflags &= !flag;
    Ok(0)
}

/// `Sys::Sti`: interrupts stay off for one more instruction.
fn sti(cpu: &mut Cpu, _: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    if interrupt_flag(cpu)? == eflags::VIF {
        if cpu.eflags & eflags::VIP != 0 {
            return Err(gp(cpu, 0));
        }
        cpu.eflags |= eflags::VIF;
    } else if cpu.eflags & eflags::IF == 0 {
        cpu.eflags |= eflags::IF;
        cpu.inhibit |= inhibit::SHADOW;
        cpu.key |= key::INHIBIT;
    }
    Ok(0)
}

/// `Sys::ClearInhibit`.
fn clear_inhibit(cpu: &mut Cpu, _: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    cpu.inhibit &= !(inhibit::SHADOW | inhibit::TRAP);
    cpu.key &= !key::INHIBIT;
    cpu.recheck_interrupts();
    Ok(0)
}

/// `Sys::Pushf`.
fn pushf(cpu: &mut Cpu, _: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    if imm & 3 == 1 && virtual_interrupts(cpu) {
        return Ok(virtual_image(cpu).into());
    }
    if cpu.v86() && cpu.iopl() < 3 {
        return Err(gp(cpu, 0));
    }
    Ok(u64::from(cpu.flags() & !(eflags::VM | eflags::RF)))
}

/// `Sys::Popf`.
fn popf(cpu: &mut Cpu, a: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    if imm & 3 == 1 && virtual_interrupts(cpu) {
        let flags = virtual_merge(cpu, a as u32)?;
        cpu.set_flags(flags);
        cpu.update_key();
        return Ok(0);
    }
    if cpu.v86() && cpu.iopl() < 3 {
        return Err(gp(cpu, 0));
    }
    let mut mask = changeable_flags(cpu);
    if imm & 3 == 1 {
        mask &= 0xffff;
    }
    let kept = cpu.flags() & !(mask | eflags::RF);
    cpu.set_flags(kept | a as u32 & mask);
    cpu.update_key();
    Ok(0)
}

/// `Sys::SetDf`.
fn set_df(cpu: &mut Cpu, _: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    cpu.eflags = cpu.eflags & !eflags::DF | if imm != 0 { eflags::DF } else { 0 };
    Ok(0)
}

/// `Sys::Breakpoint`: before each instruction while breakpoints are armed. First the trap of the instruction before. After a load of SS
/// Intel's processors ignore an instruction breakpoint (SDM volume 3B section 18.3.1.1), AMD's do not.
fn breakpoint(cpu: &mut Cpu, a: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    if let Some(fault) = watch_trap(cpu) {
        return Err(fault);
    }
    if cpu.eflags & eflags::RF != 0 {
        cpu.eflags &= !eflags::RF;
        return Ok(0);
    }
    if cpu.inhibit & inhibit::TRAP != 0 && cpu.model.is_intel() {
        return Ok(0);
    }
    let linear = cpu.linear_pc(a);
    let armed = cpu.instruction_breakpoints();
    let hits =
        (0..4).filter(|i| armed >> i & 1 != 0 && cpu.dr[*i as usize] == linear).fold(0, |m, i| m | 1 << i);
    if hits != 0 {
        let fault = raise(cpu, vector::DB, None);
        cpu.pending.dr6 = hits;
        return Err(fault);
    }
    Ok(0)
}

/// Records the trap for data and I/O breakpoints that the last instruction hit. A load of SS holds it back for one more instruction (SDM
/// volume 2, `MOV`).
pub fn watch_trap(cpu: &mut Cpu) -> Option<Fault> {
    if cpu.inhibit & inhibit::TRAP != 0 {
        return None;
    }
    let hits = std::mem::take(&mut cpu.watched);
    if hits == 0 {
        return None;
    }
    cpu.update_key();
    let fault = raise(cpu, vector::DB, None);
    cpu.pending.dr6 = hits;
    Some(fault)
}

/// `Sys::AlignCheck`.
fn align_check(cpu: &mut Cpu, a: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    check_alignment(cpu, a, 1 << (imm & 15))?;
    Ok(a)
}

/// #AC(0) when alignment checking is on and `linear` is no multiple of `size`, a power of two.
pub fn check_alignment(cpu: &mut Cpu, linear: u64, size: u64) -> Result<(), Fault> {
    // An address that is none faults by itself.
    let checked = cpu.key & key::ALIGN != 0 && (cpu.key & key::CODE64 == 0 || Cpu::canonical(linear));
    if checked && linear & (size - 1) != 0 { Err(raise(cpu, vector::AC, Some(0))) } else { Ok(()) }
}

/// `Sys::BranchLimit`.
fn branch_limit(cpu: &mut Cpu, a: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    if a > u64::from(cpu.segs[seg::CS].limit) { Err(gp(cpu, 0)) } else { Ok(0) }
}

/// `Sys::BranchLimitIf`.
fn branch_limit_if(cpu: &mut Cpu, a: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let bits = 8u32 << (imm & 3);
    let nonzero = a & (u64::MAX >> (64 - bits)) != 0;
    if nonzero == (imm & 4 != 0) { Err(gp(cpu, 0)) } else { Ok(0) }
}
