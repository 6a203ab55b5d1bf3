//! `IRET` in every mode. Source: Intel SDM volume 2 `IRET`, volume 3A sections 6.12.1, 7.3 and 20.2.

use bulkhead_engine::Fault;

use super::descriptor::{changeable_flags, set_cs};
use super::far::{check_return, check_target, go_back, log_transfer};
use super::flags::{virtual_interrupts, virtual_merge};
use super::ids::Sys;
use super::mem::{Stack, load_system};
use super::task::{self, Switch};
use super::{EVERYTHING, List, gp, landed};
use crate::helper;
use crate::state::{Cpu, EFLAGS_CONTROL_ALL, Segment, cr0, eflags, inhibit, seg};

/// Helpers of this topic.
pub const HELPERS: List = &[helper!(Sys::Iret, iret, EVERYTHING)];

/// `Sys::Iret`.
fn iret(cpu: &mut Cpu, a: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    // Also where it faults: the handler begins with NMIs unblocked (SDM volume 3A section 6.7.1).
    cpu.inhibit &= !inhibit::NMI;
    cpu.recheck_interrupts();
    let size = 1u8 << (imm & 3);
    if cpu.v86() {
        if cpu.iopl() < 3 && !(size == 2 && virtual_interrupts(cpu)) {
            return Err(gp(cpu, 0));
        }
        return_legacy(cpu, size)?;
    } else if cpu.cr0 & cr0::PE == 0 {
        return_legacy(cpu, size)?;
    } else if cpu.eflags & eflags::NT != 0 {
        if cpu.long_mode() {
            return Err(gp(cpu, 0));
        }
        let back = load_system(cpu, cpu.tr.base, 2)? as u16;
        task::switch(cpu, back, Switch::Iret, a, None)?;
        cpu.recheck_interrupts();
        // A trap flag of the new task counts after its first instruction (SDM volume 3B section 18.3.1.4).
        return Ok(0);
    } else {
        return_protected(cpu, size)?;
    }
    // The flags may have let something in.
    cpu.recheck_interrupts();
    landed(cpu)
}

/// EFLAGS with the bits of `mask` (and of the operand size) taken from `value`. RF matters only while an instruction
/// breakpoint is armed and is dropped otherwise.
fn merge(cpu: &Cpu, value: u64, mask: u32, size: u8) -> u32 {
    let mut mask = mask & if size == 2 { 0xffff } else { u32::MAX };
    if cpu.instruction_breakpoints() == 0 {
        mask &= !eflags::RF;
    }
    cpu.flags() & !(mask | eflags::RF) | value as u32 & mask
}

fn return_legacy(cpu: &mut Cpu, size: u8) -> Result<(), Fault> {
    let mut stack = Stack::current(cpu);
    let ip = stack.pop(cpu, size)?;
    let selector = stack.pop(cpu, size)? as u16;
    let flags = stack.pop(cpu, size)?;
    let v86 = cpu.v86();
    let cs = if v86 {
        Segment::v86(selector)
    } else {
        Segment { base: u64::from(selector) << 4, selector, ..cpu.segs[seg::CS] }
    };
    check_target(cpu, &cs, ip)?;
    let keep = eflags::VM | eflags::VIF | eflags::VIP | if v86 { eflags::IOPL } else { 0 };
    let flags = if virtual_interrupts(cpu) {
        virtual_merge(cpu, flags as u32)?
    } else {
        merge(cpu, flags, EFLAGS_CONTROL_ALL & !keep, size)
    };
    stack.commit(cpu);
    set_cs(cpu, cs);
    cpu.core.pc = ip;
    cpu.set_flags(flags);
    Ok(())
}

fn return_protected(cpu: &mut Cpu, size: u8) -> Result<(), Fault> {
    let from64 = cpu.code64();
    let mut stack = Stack::current(cpu);
    let ip = stack.pop(cpu, size)?;
    let selector = stack.pop(cpu, size)? as u16;
    let flags = stack.pop(cpu, size)?;
    log_transfer(cpu, "iret", selector.into(), ip);
    if flags as u32 & eflags::VM != 0 && size == 4 && cpu.cpl == 0 && !cpu.long_mode() {
        return return_to_v86(cpu, stack, ip, selector, flags);
    }
    let mut mask = changeable_flags(cpu) | eflags::RF;
    if cpu.cpl == 0 {
        mask |= eflags::VIF | eflags::VIP;
    }
    let new_flags = merge(cpu, flags, mask, size);
    let (code, ip) = check_return(cpu, selector, ip)?;
    let other = from64 || u32::from(selector & 3) != cpu.cpl;
    go_back(cpu, code, stack, other.then_some((size, 0)))?;
    cpu.core.pc = ip;
    cpu.set_flags(new_flags);
    Ok(())
}

fn return_to_v86(cpu: &mut Cpu, mut stack: Stack, ip: u64, cs: u16, flags: u64) -> Result<(), Fault> {
    let sp = stack.pop(cpu, 4)?;
    let mut selectors = [0u16; 5];
    for s in &mut selectors {
        *s = stack.pop(cpu, 4)? as u16;
    }
    let [ss, es, ds, fs, gs] = selectors;
    let cs = Segment::v86(cs);
    check_target(cpu, &cs, ip)?;
    let flags = merge(cpu, flags, EFLAGS_CONTROL_ALL, 4);
    for (index, selector) in [(seg::SS, ss), (seg::ES, es), (seg::DS, ds), (seg::FS, fs), (seg::GS, gs)] {
        cpu.segs[index] = Segment::v86(selector);
    }
    set_cs(cpu, cs);
    cpu.core.slots[4] = sp;
    cpu.core.pc = ip;
    cpu.set_flags(flags);
    cpu.set_cpl(3);
    Ok(())
}
