//! EFLAGS, interrupt enabling and halting. Source: Intel SDM volume 2 (`CLI`, `STI`, `PUSHF`, `POPF`, `HLT`, `MONITOR`,
//! `MWAIT`) and volume 3A section 6.8.

use bulkhead_engine::{Fault, exit};
use bulkhead_ir::FLAGS_ALL;

use super::control::privileged;
use super::descriptor::changeable_flags;
use super::ids::Sys;
use super::{FAULTS, List, PURE, gp, raise, slot, vector};
use crate::helper;
use crate::state::{Cpu, eflags, inhibit, key, reg};

/// Helpers of this topic.
pub const HELPERS: List = &[
    helper!(Sys::Hlt, hlt, FAULTS),
    helper!(Sys::Cli, cli, FAULTS),
    helper!(Sys::Sti, sti, FAULTS),
    helper!(Sys::Pushf, pushf, FAULTS, flags_read: FLAGS_ALL),
    helper!(Sys::Popf, popf, FAULTS, flags_read: FLAGS_ALL, flags_written: FLAGS_ALL),
    helper!(Sys::SetDf, set_df, PURE),
    helper!(Sys::Mwait, mwait, FAULTS, reads: slot::RCX),
    helper!(Sys::ClearInhibit, clear_inhibit, PURE),
    helper!(Sys::Breakpoint, breakpoint, FAULTS),
    helper!(Sys::AlignCheck, align_check, FAULTS),
];

fn halt(cpu: &mut Cpu, next: u64) {
    cpu.core.pc = next;
    cpu.halted = 1;
    cpu.core.exit = exit::HALT;
}

/// `Sys::Hlt`.
fn hlt(cpu: &mut Cpu, a: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    privileged(cpu)?;
    halt(cpu, a);
    Ok(0)
}

/// `Sys::Mwait`. `MONITOR` arms nothing and `MWAIT` sleeps like `HLT`, which is allowed: it may wake for any event. With
/// interrupts masked and ECX bit 0 set it returns at once, because the wake-up by a masked interrupt is not modelled.
fn mwait(cpu: &mut Cpu, a: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    privileged(cpu)?;
    let hints = cpu.gpr32(reg::RCX);
    if imm == 0 {
        return if hints != 0 { Err(gp(cpu, 0)) } else { Ok(0) };
    }
    if hints & !1 != 0 {
        return Err(gp(cpu, 0));
    }
    if cpu.eflags & eflags::IF != 0 {
        halt(cpu, a);
    } else {
        cpu.core.pc = a;
    }
    Ok(0)
}

fn may_change_if(cpu: &mut Cpu) -> Result<(), Fault> {
    if cpu.cpl > cpu.iopl() { Err(gp(cpu, 0)) } else { Ok(()) }
}

/// `Sys::Cli`.
fn cli(cpu: &mut Cpu, _: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    may_change_if(cpu)?;
    cpu.eflags &= !eflags::IF;
    Ok(0)
}

/// `Sys::Sti`: interrupts stay off for one more instruction.
fn sti(cpu: &mut Cpu, _: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    may_change_if(cpu)?;
    if cpu.eflags & eflags::IF == 0 {
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
fn pushf(cpu: &mut Cpu, _: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    if cpu.v86() && cpu.iopl() < 3 {
        return Err(gp(cpu, 0));
    }
    Ok(u64::from(cpu.flags() & !(eflags::VM | eflags::RF)))
}

/// `Sys::Popf`.
fn popf(cpu: &mut Cpu, a: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
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

/// `Sys::Breakpoint`: before each instruction while breakpoints are armed. First the trap of the instruction before.
fn breakpoint(cpu: &mut Cpu, a: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    if let Some(fault) = watch_trap(cpu) {
        return Err(fault);
    }
    if cpu.eflags & eflags::RF != 0 {
        cpu.eflags &= !eflags::RF;
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

/// Records the trap for data and I/O breakpoints that the last instruction hit.
pub fn watch_trap(cpu: &mut Cpu) -> Option<Fault> {
    let hits = std::mem::take(&mut cpu.watched);
    if hits == 0 {
        return None;
    }
    cpu.update_key();
    let fault = raise(cpu, vector::DB, None);
    cpu.pending.dr6 = hits;
    Some(fault)
}

/// `Sys::AlignCheck`: #AC(0) when linear address `a` is not aligned to `1 << imm` bytes.
fn align_check(cpu: &mut Cpu, a: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let mask = (1u64 << (imm & 15)) - 1;
    if a & mask != 0 { Err(raise(cpu, vector::AC, Some(0))) } else { Ok(a) }
}
