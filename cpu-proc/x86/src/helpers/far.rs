//! Far jumps, calls and returns, call gates included. Source: Intel SDM volume 3A sections 5.8 and 8.2, volume 2 `JMP`,
//! `CALL`, `RET`; AMD64 APM volume 2 section 4.9.

use bulkhead_engine::{Fault, log};

use super::descriptor::{
    Descriptor, check_stack, code_of, drop_inner_segments, fetch, fetch_upper, is_null, kind, mark_accessed,
    null, set_cs, set_cs_protected,
};
use super::ids::Sys;
use super::mem::{Stack, load_system};
use super::task::{self, Switch};
use super::{EVERYTHING, List, gp, landed, raise, vector};
use crate::helper;
use crate::state::{Cpu, Segment, attr, cr0, seg};

/// Helpers of this topic.
pub const HELPERS: List = &[
    helper!(Sys::FarJmp, far_jmp, EVERYTHING),
    helper!(Sys::FarCall, far_call, EVERYTHING),
    helper!(Sys::FarRet, far_ret, EVERYTHING),
];

/// All ones for an operand of log2 size `w`.
pub fn operand_mask(w: u64) -> u64 {
    match w & 3 {
        0 => 0xff,
        1 => 0xffff,
        2 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

/// Target offset checks against a code segment about to be loaded: canonical in 64-bit code, inside the limit elsewhere.
pub fn check_target(cpu: &mut Cpu, segment: &Segment, offset: u64) -> Result<(), Fault> {
    let long = cpu.long_mode() && segment.attr & attr::LONG != 0;
    let bad = if long { !Cpu::canonical(offset) } else { offset > u64::from(segment.limit) };
    if bad { Err(gp(cpu, 0)) } else { Ok(()) }
}

/// In long mode a code descriptor with both L and D set is reserved.
pub fn check_long_code(cpu: &mut Cpu, d: &Descriptor, vector: u8, ext: u32) -> Result<(), Fault> {
    if cpu.long_mode() && d.attr() & (attr::LONG | attr::BIG) == attr::LONG | attr::BIG {
        return Err(raise(cpu, vector, Some(code_of(d.selector) | ext)));
    }
    Ok(())
}

/// Real-mode and virtual-8086 CS for `selector`.
fn legacy_cs(cpu: &Cpu, selector: u16) -> Segment {
    if cpu.v86() {
        Segment::v86(selector)
    } else {
        Segment { base: u64::from(selector) << 4, selector, ..cpu.segs[seg::CS] }
    }
}

fn legacy_mode(cpu: &Cpu) -> bool {
    cpu.cr0 & cr0::PE == 0 || cpu.v86()
}

/// Logs a far transfer in protected mode (`-d pcall`).
pub fn log_transfer(cpu: &mut Cpu, what: &str, selector: u64, offset: u64) {
    if cpu.core.log & log::PCALL != 0 && !legacy_mode(cpu) {
        let text = format!("{what} {:04x}:{offset:x} cpl={} pc={:x}", selector as u16, cpu.cpl, cpu.core.pc);
        cpu.machine().log(log::PCALL, &text);
    }
}

/// `Sys::FarJmp`.
fn far_jmp(cpu: &mut Cpu, a: u64, b: u64, c: u64, imm: u64) -> Result<u64, Fault> {
    log_transfer(cpu, "ljmp", a, b);
    let selector = a as u16;
    let offset = b & operand_mask(imm);
    if legacy_mode(cpu) {
        let cs = legacy_cs(cpu, selector);
        check_target(cpu, &cs, offset)?;
        set_cs(cpu, cs);
        cpu.core.pc = offset;
        return landed(cpu);
    }
    if is_null(selector) {
        return Err(gp(cpu, 0));
    }
    let mut d = fetch(cpu, selector, vector::GP, 0)?;
    if d.is_code() {
        check_direct(cpu, &d)?;
        check_target(cpu, &d.segment(selector), offset)?;
        mark_accessed(cpu, &mut d)?;
        let cpl = cpu.cpl;
        set_cs_protected(cpu, &d, selector, cpl);
        cpu.core.pc = offset;
        return landed(cpu);
    }
    if d.is_segment() {
        return Err(gp(cpu, code_of(selector)));
    }
    match system_target(cpu, &d, Switch::Jump, c)? {
        Target::Switched => return Ok(0),
        Target::Gate(gate) => {
            let mut code = gate.code;
            if !code.is_conforming() && code.dpl() != cpu.cpl {
                return Err(gp(cpu, code_of(code.selector)));
            }
            check_target(cpu, &code.segment(0), gate.offset)?;
            mark_accessed(cpu, &mut code)?;
            let cpl = cpu.cpl;
            set_cs_protected(cpu, &code, code.selector, cpl);
            cpu.core.pc = gate.offset;
        }
    }
    landed(cpu)
}

/// Privilege and presence of a code segment named directly by a far jump or call.
fn check_direct(cpu: &mut Cpu, d: &Descriptor) -> Result<(), Fault> {
    let code = code_of(d.selector);
    let rpl = u32::from(d.selector & 3);
    let allowed = if d.is_conforming() { d.dpl() <= cpu.cpl } else { rpl <= cpu.cpl && d.dpl() == cpu.cpl };
    if !allowed {
        return Err(gp(cpu, code));
    }
    check_long_code(cpu, d, vector::GP, 0)?;
    if !d.present() {
        return Err(raise(cpu, vector::NP, Some(code)));
    }
    Ok(())
}

/// A decoded call gate.
struct Gate {
    code: Descriptor,
    offset: u64,
    /// Stack slot size in bytes.
    size: u8,
    /// Parameters to copy to an inner stack.
    parameters: u64,
}

enum Target {
    /// A task switch happened. No trap follows: a trap flag that it loaded counts after the first instruction of the new task (SDM
    /// volume 3B section 18.3.1.4).
    Switched,
    Gate(Gate),
}

/// What a far jump or call to a system descriptor leads to. Task switches are done here; gates are checked and returned.
fn system_target(cpu: &mut Cpu, d: &Descriptor, how: Switch, return_pc: u64) -> Result<Target, Fault> {
    let code = code_of(d.selector);
    let rpl = u32::from(d.selector & 3);
    let long = cpu.long_mode();
    let known = match d.kind() {
        kind::CALL32 => true,
        kind::CALL16 | kind::TASK_GATE | kind::TSS16 | kind::TSS32 => !long,
        _ => false,
    };
    if !known || d.dpl() < cpu.cpl || d.dpl() < rpl {
        return Err(gp(cpu, code));
    }
    if !d.present() {
        return Err(raise(cpu, vector::NP, Some(code)));
    }
    match d.kind() {
        kind::TSS16 | kind::TSS32 => {
            task::switch(cpu, d.selector, how, return_pc, None)?;
            return Ok(Target::Switched);
        }
        kind::TASK_GATE => {
            task::switch(cpu, d.gate_selector(), how, return_pc, None)?;
            return Ok(Target::Switched);
        }
        _ => {}
    }
    let wide = d.kind() == kind::CALL32;
    let mut offset = if wide { d.gate_offset() } else { d.raw & 0xffff };
    if long {
        let upper = fetch_upper(cpu, d, vector::GP, 0)?;
        if upper >> 40 & 0x1f != 0 {
            return Err(gp(cpu, code));
        }
        offset |= upper << 32;
    }
    let selector = d.gate_selector();
    if is_null(selector) {
        return Err(gp(cpu, 0));
    }
    let target = fetch(cpu, selector, vector::GP, 0)?;
    let bad_mode = long && target.attr() & (attr::LONG | attr::BIG) != attr::LONG;
    if !target.is_code() || target.dpl() > cpu.cpl || bad_mode {
        return Err(gp(cpu, code_of(selector)));
    }
    if !target.present() {
        return Err(raise(cpu, vector::NP, Some(code_of(selector))));
    }
    let size = match (long, wide) {
        (true, _) => 8,
        (_, true) => 4,
        _ => 2,
    };
    Ok(Target::Gate(Gate { code: target, offset, size, parameters: d.raw >> 32 & 0x1f }))
}

/// `Sys::FarCall`.
fn far_call(cpu: &mut Cpu, a: u64, b: u64, c: u64, imm: u64) -> Result<u64, Fault> {
    log_transfer(cpu, "lcall", a, b);
    let selector = a as u16;
    let size = 1u8 << (imm & 3);
    let offset = b & operand_mask(imm);
    let old_cs = u64::from(cpu.segs[seg::CS].selector);
    let mut stack = Stack::current(cpu);
    if legacy_mode(cpu) {
        let cs = legacy_cs(cpu, selector);
        stack.push(cpu, size, old_cs)?;
        stack.push(cpu, size, c)?;
        check_target(cpu, &cs, offset)?;
        stack.commit(cpu);
        set_cs(cpu, cs);
        cpu.core.pc = offset;
        return landed(cpu);
    }
    if is_null(selector) {
        return Err(gp(cpu, 0));
    }
    let mut d = fetch(cpu, selector, vector::GP, 0)?;
    if d.is_code() {
        check_direct(cpu, &d)?;
        check_target(cpu, &d.segment(selector), offset)?;
        stack.push(cpu, size, old_cs)?;
        stack.push(cpu, size, c)?;
        mark_accessed(cpu, &mut d)?;
        let cpl = cpu.cpl;
        stack.commit(cpu);
        set_cs_protected(cpu, &d, selector, cpl);
        cpu.core.pc = offset;
        return landed(cpu);
    }
    if d.is_segment() {
        return Err(gp(cpu, code_of(selector)));
    }
    match system_target(cpu, &d, Switch::Call, c)? {
        Target::Switched => return Ok(0),
        Target::Gate(gate) => call_through(cpu, gate, c)?,
    }
    landed(cpu)
}

fn call_through(cpu: &mut Cpu, gate: Gate, return_pc: u64) -> Result<(), Fault> {
    let mut code = gate.code;
    let size = gate.size;
    let old_cs = u64::from(cpu.segs[seg::CS].selector);
    check_target(cpu, &code.segment(0), gate.offset)?;
    if code.is_conforming() || code.dpl() == cpu.cpl {
        let mut stack = Stack::current(cpu);
        stack.flat |= size == 8;
        if size == 8 {
            stack.mask = u64::MAX;
        }
        stack.push(cpu, size, old_cs)?;
        stack.push(cpu, size, return_pc)?;
        mark_accessed(cpu, &mut code)?;
        let cpl = cpu.cpl;
        set_cs_protected(cpu, &code, code.selector, cpl);
        stack.commit(cpu);
        cpu.core.pc = gate.offset;
        return Ok(());
    }
    let cpl = code.dpl();
    let old = Stack::current(cpu);
    let (ss, sp) = inner_stack(cpu, cpl, 0)?;
    let mut stack = Stack::of(ss, sp, cpl == 3, size == 8);
    stack.error = code_of(ss.selector);
    stack.push(cpu, size, u64::from(cpu.segs[seg::SS].selector))?;
    let sp = cpu.core.slots[4];
    stack.push(cpu, size, sp)?;
    if size != 8 {
        for i in (0..gate.parameters).rev() {
            let value = old.peek(cpu, i * u64::from(size), size)?;
            stack.push(cpu, size, value)?;
        }
    }
    stack.push(cpu, size, old_cs)?;
    stack.push(cpu, size, return_pc)?;
    mark_accessed(cpu, &mut code)?;
    cpu.segs[seg::SS] = ss;
    set_cs_protected(cpu, &code, code.selector, cpl);
    stack.commit(cpu);
    cpu.core.pc = gate.offset;
    Ok(())
}

/// The stack that the task state gives for privilege `cpl`: checked SS and its pointer. In long mode SS is null with RPL `cpl`.
pub fn inner_stack(cpu: &mut Cpu, cpl: u32, ext: u32) -> Result<(Segment, u64), Fault> {
    let error = code_of(cpu.tr.selector) | ext;
    let cpl64 = u64::from(cpl);
    let base = cpu.tr.base;
    let limit = u64::from(cpu.tr.limit);
    if cpu.long_mode() {
        let offset = 4 + 8 * cpl64;
        if offset + 7 > limit {
            return Err(raise(cpu, vector::TS, Some(error)));
        }
        let sp = load_system(cpu, base.wrapping_add(offset), 8)?;
        return Ok((long_null_stack(cpl), sp));
    }
    let wide = cpu.tr.attr & 8 != 0;
    let (offset, size) = if wide { (4 + 8 * cpl64, 4u8) } else { (2 + 4 * cpl64, 2) };
    if offset + u64::from(size) + 1 > limit {
        return Err(raise(cpu, vector::TS, Some(error)));
    }
    let sp = load_system(cpu, base.wrapping_add(offset), size)?;
    let selector = load_system(cpu, base.wrapping_add(offset + u64::from(size)), 2)? as u16;
    if is_null(selector) {
        return Err(raise(cpu, vector::TS, Some(ext)));
    }
    let ss = check_stack(cpu, selector, cpl, vector::TS, ext)?;
    Ok((ss, sp))
}

/// SS as long mode loads it on a change of privilege: null, usable in 64-bit code only.
pub fn long_null_stack(cpl: u32) -> Segment {
    Segment { attr: (cpl as u16) << attr::DPL_SHIFT, ..null(cpl as u16) }
}

/// `Sys::FarRet`.
fn far_ret(cpu: &mut Cpu, _: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let size = 1u8 << (imm & 3);
    let release = imm >> 8 & 0xffff;
    let mut stack = Stack::current(cpu);
    let ip = stack.pop(cpu, size)?;
    let selector = stack.pop(cpu, size)? as u16;
    stack.skip(release);
    log_transfer(cpu, "lret", selector.into(), ip);
    if legacy_mode(cpu) {
        let cs = legacy_cs(cpu, selector);
        check_target(cpu, &cs, ip)?;
        stack.commit(cpu);
        set_cs(cpu, cs);
        cpu.core.pc = ip;
        return landed(cpu);
    }
    let (back, ip) = check_return(cpu, selector, ip)?;
    let outward = u32::from(selector & 3) != cpu.cpl;
    go_back(cpu, back, stack, outward.then_some((size, release)))?;
    cpu.core.pc = ip;
    landed(cpu)
}

/// Checks the code segment that a far return or `IRET` goes back to. The segment, and where in it: of an offset of 64 bits into code that
/// has 32 Intel's processors take the lower half, as a host shows; AMD's fault.
pub fn check_return(cpu: &mut Cpu, selector: u16, ip: u64) -> Result<(Descriptor, u64), Fault> {
    if is_null(selector) {
        return Err(gp(cpu, 0));
    }
    let code = code_of(selector);
    let rpl = u32::from(selector & 3);
    let d = fetch(cpu, selector, vector::GP, 0)?;
    let allowed =
        d.is_code() && rpl >= cpu.cpl && if d.is_conforming() { d.dpl() <= rpl } else { d.dpl() == rpl };
    if !allowed {
        return Err(gp(cpu, code));
    }
    check_long_code(cpu, &d, vector::GP, 0)?;
    if !d.present() {
        return Err(raise(cpu, vector::NP, Some(code)));
    }
    let ip = if cpu.model.is_intel() && d.attr() & attr::LONG == 0 { ip & 0xffff_ffff } else { ip };
    check_target(cpu, &d.segment(selector), ip)?;
    Ok((d, ip))
}

/// Goes to the level of `code.selector`'s RPL, with `stack` as it stands, or with the one that lies there in items of so many bytes, whose
/// pointer moves up by so much. An outer level loses what it may not use.
pub fn go_back(
    cpu: &mut Cpu,
    mut code: Descriptor,
    mut stack: Stack,
    other: Option<(u8, u64)>,
) -> Result<(), Fault> {
    let cpl = u32::from(code.selector & 3);
    let Some((size, release)) = other else {
        mark_accessed(cpu, &mut code)?;
        stack.commit(cpu);
        set_cs_protected(cpu, &code, code.selector, cpl);
        return Ok(());
    };
    let sp = stack.pop(cpu, size)?;
    let selector = stack.pop(cpu, size)? as u16;
    mark_accessed(cpu, &mut code)?;
    let to64 = cpu.long_mode() && code.attr() & attr::LONG != 0;
    let ss = if is_null(selector) && to64 && cpl != 3 && u32::from(selector & 3) == cpl {
        long_null_stack(cpl)
    } else {
        if is_null(selector) {
            return Err(gp(cpu, 0));
        }
        check_stack(cpu, selector, cpl, vector::GP, 0)?
    };
    let mut outer = Stack::of(ss, sp, cpl == 3, to64);
    outer.skip(release);
    cpu.segs[seg::SS] = ss;
    outer.commit(cpu);
    let outward = cpl != cpu.cpl;
    set_cs_protected(cpu, &code, code.selector, cpl);
    if outward {
        drop_inner_segments(cpu);
    }
    Ok(())
}
