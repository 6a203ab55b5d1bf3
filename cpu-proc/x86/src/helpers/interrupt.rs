//! Delivery of interrupts and exceptions. Source: Intel SDM volume 3A chapter 6, section 20.1.4 and chapter 20.3;
//! AMD64 APM volume 2 chapter 8.

use bulkhead_engine::{Fault, Next, log};

use super::descriptor::{
    Descriptor, code_of, fetch, is_null, kind, mark_accessed, null, set_cs, set_cs_protected,
};
use super::far::inner_stack;
use super::flags::virtual_image;
use super::ids::Sys;
use super::mem::{Stack, load, load_system};
use super::task::{self, Switch};
use super::{EVERYTHING, List, gp, landed, raise, vector};
use crate::helper;
use crate::state::{Cpu, NO_EXCEPTION, Segment, attr, cr0, cr4, dr7, eflags, inhibit, seg};

/// Helpers of this topic.
pub const HELPERS: List =
    &[helper!(Sys::Int, int, EVERYTHING), helper!(Sys::StepTrap, step_trap, EVERYTHING)];

/// Where an event comes from; decides the privilege check, the EXT bit and RF.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// `INT n`, `INT3`, `INTO`: the gate's privilege level is checked.
    Software,
    /// A fault, trap or abort of the processor, `INT1` included.
    Exception,
    /// An external or non-maskable interrupt.
    External,
}

/// An interrupt or exception to deliver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Vector.
    pub vector: u8,
    /// Error code to push.
    pub error: Option<u32>,
    /// Source.
    pub origin: Origin,
    /// The pc to push.
    pub return_pc: u64,
}

/// `Sys::Int`.
fn int(cpu: &mut Cpu, a: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let vector = imm as u8;
    let kind = imm >> 8 & 3;
    if kind == 0 && cpu.v86() {
        if cpu.cr4 & cr4::VME != 0 && stays_virtual(cpu, vector)? {
            enter_virtual(cpu, vector, a)?;
            cpu.update_key();
            return Ok(0);
        }
        if cpu.iopl() < 3 {
            return Err(gp(cpu, 0));
        }
    }
    if kind == 2 && cpu.flags() & eflags::OF == 0 {
        cpu.core.pc = a;
        return landed(cpu);
    }
    let origin = if kind == 3 { Origin::Exception } else { Origin::Software };
    if kind == 3 && cpu.watched != 0 {
        // What a load of SS before it held back is reported with it.
        let hits = std::mem::take(&mut cpu.watched);
        note_causes(cpu, hits);
    }
    enter(cpu, Event { vector, error: None, origin, return_pc: a })?;
    if kind == 3 {
        cpu.dr[7] &= !dr7::GENERAL_DETECT;
    }
    cpu.update_key();
    Ok(0)
}

/// `Sys::StepTrap`.
fn step_trap(cpu: &mut Cpu, a: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    cpu.core.pc = a;
    if cpu.inhibit & inhibit::TRAP != 0 {
        return Ok(0);
    }
    Err(super::step_trap(cpu))
}

/// How an exception combines with one that happens during its delivery (SDM table 6-5).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

fn class(vector: u8) -> Class {
    match vector {
        vector::DE | vector::TS | vector::NP | vector::SS | vector::GP => Class::Contributory,
        vector::PF => Class::PageFault,
        vector::DF => Class::DoubleFault,
        _ => Class::Benign,
    }
}

/// Delivers `event`, and what delivering it raises, until a handler is entered or the processor shuts down.
pub fn deliver(cpu: &mut Cpu, mut event: Event) -> Next {
    cpu.halted = 0;
    cpu.monitor.disarm();
    loop {
        cpu.delivering = u32::from(event.vector);
        let protected = cpu.cr0 & cr0::PE != 0 && event.origin == Origin::Exception;
        let items = log::INT | if protected { log::PCALL } else { 0 };
        if cpu.core.log & items != 0 {
            let place = (cpu.segs[seg::CS].selector, cpu.core.pc, cpu.cpl);
            let error = event.error.map_or_else(String::new, |code| format!(" e={code:04x}"));
            let text = format!(
                "v={:02x}{error} {:?} cpl={} at {:04x}:{:016x} CR2={:016x} RAX={:016x}",
                event.vector, event.origin, place.2, place.0, place.1, cpu.cr2, cpu.core.slots[0]
            );
            cpu.machine().log(items, &text);
        }
        match enter(cpu, event) {
            Ok(()) => break,
            Err(Fault) => {
                cpu.core.exit = 0;
                let (first, first_origin) = (event.vector, event.origin);
                event = take_pending(cpu);
                let before = if first_origin == Origin::Exception { class(first) } else { Class::Benign };
                let after = class(event.vector);
                let double = matches!(
                    (before, after),
                    (Class::Contributory, Class::Contributory)
                        | (Class::PageFault, Class::Contributory | Class::PageFault)
                );
                if before == Class::DoubleFault && after != Class::Benign {
                    return shutdown(cpu);
                }
                if double {
                    event = Event { vector: vector::DF, error: Some(0), ..event };
                }
            }
        }
    }
    cpu.delivering = NO_EXCEPTION;
    cpu.inhibit &= !(inhibit::SHADOW | inhibit::TRAP);
    cpu.core.exit = 0;
    cpu.update_key();
    Next::Run
}

/// Turns the recorded exception into an event, moving its address to CR2 and its cause to DR6.
pub fn take_pending(cpu: &mut Cpu) -> Event {
    let pending = cpu.pending;
    cpu.pending.vector = NO_EXCEPTION;
    let vector = pending.vector as u8;
    if vector == vector::PF {
        cpu.cr2 = pending.addr;
    }
    if vector == vector::DB {
        note_causes(cpu, pending.dr6);
        cpu.dr[7] &= !dr7::GENERAL_DETECT;
    }
    Event {
        vector,
        error: (pending.has_error != 0).then_some(pending.error),
        origin: Origin::Exception,
        return_pc: cpu.core.pc,
    }
}

/// Puts the causes of a debug exception into DR6. B0 to B3 say which breakpoints were hit this time, the other bits stay until the guest
/// clears them (AMD64 APM volume 2, section 13.1.1.3; the SDM, volume 3B section 18.2.3, allows it).
fn note_causes(cpu: &mut Cpu, causes: u32) {
    const BREAKPOINTS: u64 = 0xf;
    cpu.dr[6] = cpu.dr[6] & !BREAKPOINTS | u64::from(causes);
}

fn shutdown(cpu: &mut Cpu) -> Next {
    cpu.delivering = NO_EXCEPTION;
    cpu.core.exit = 0;
    cpu.machine().shutdown();
    Next::Leave
}

/// One delivery. On failure the new exception is recorded and no register has changed (unless a task switch had begun).
fn enter(cpu: &mut Cpu, event: Event) -> Result<(), Fault> {
    if cpu.cr0 & cr0::PE == 0 {
        enter_real(cpu, event)
    } else if cpu.long_mode() {
        enter_long(cpu, event)
    } else {
        enter_protected(cpu, event)
    }
}

/// Whether the task leaves software interrupt `vector` of virtual-8086 code to that code: a clear bit in the 32 bytes before the I/O
/// permission map (SDM volume 3A section 20.3.3).
fn stays_virtual(cpu: &mut Cpu, vector: u8) -> Result<bool, Fault> {
    const MAP_BASE: u64 = 0x66;
    let limit = u64::from(cpu.tr.limit);
    if !cpu.tr.usable() || cpu.tr.attr & 8 == 0 || MAP_BASE + 1 > limit {
        return Err(gp(cpu, 0));
    }
    let base = cpu.tr.base;
    let map = load_system(cpu, base.wrapping_add(MAP_BASE), 2)?;
    let Some(byte) = (map + u64::from(vector >> 3)).checked_sub(32).filter(|byte| *byte <= limit) else {
        return Err(gp(cpu, 0));
    };
    Ok(load_system(cpu, base.wrapping_add(byte), 1)? >> (vector & 7) & 1 == 0)
}

/// A software interrupt through the interrupt table at linear address 0, as in real mode.
fn enter_virtual(cpu: &mut Cpu, vector: u8, return_pc: u64) -> Result<(), Fault> {
    let entry = load(cpu, 4 * u64::from(vector), 4, true)?;
    let own = cpu.iopl() == 3;
    let image = if own { cpu.flags() } else { virtual_image(cpu) };
    let mut stack = Stack::current(cpu);
    stack.push(cpu, 2, image.into())?;
    stack.push(cpu, 2, u64::from(cpu.segs[seg::CS].selector))?;
    stack.push(cpu, 2, return_pc)?;
    stack.commit(cpu);
    set_cs(cpu, Segment::v86((entry >> 16) as u16));
    cpu.core.pc = entry & 0xffff;
    let cleared = eflags::TF | eflags::RF | if own { eflags::IF } else { eflags::VIF };
    let flags = cpu.flags() & !cleared;
    cpu.set_flags(flags);
    Ok(())
}

/// EFLAGS as pushed: RF is set for faults so that the handler's return does not meet an instruction breakpoint again.
fn pushed_flags(cpu: &Cpu, event: &Event) -> u64 {
    let fault =
        event.origin == Origin::Exception && !matches!(event.vector, vector::DB | vector::BP | vector::OF);
    u64::from(cpu.flags() | if fault { eflags::RF } else { 0 })
}

fn enter_real(cpu: &mut Cpu, event: Event) -> Result<(), Fault> {
    let index = u64::from(event.vector) * 4;
    if index + 3 > u64::from(cpu.idtr.limit) {
        return Err(gp(cpu, 0));
    }
    let entry = load_system(cpu, cpu.idtr.base.wrapping_add(index), 4)?;
    let mut stack = Stack::current(cpu);
    let flags = u64::from(cpu.flags());
    stack.push(cpu, 2, flags)?;
    let cs = cpu.segs[seg::CS];
    stack.push(cpu, 2, u64::from(cs.selector))?;
    stack.push(cpu, 2, event.return_pc)?;
    let selector = (entry >> 16) as u16;
    let new = Segment { base: u64::from(selector) << 4, selector, ..cs };
    stack.commit(cpu);
    set_cs(cpu, new);
    cpu.core.pc = entry & 0xffff;
    cpu.set_flags(flags as u32 & !(eflags::IF | eflags::TF | eflags::AC | eflags::RF));
    Ok(())
}

/// Bits 0 and 1 of an error code that names the IDT, with the vector.
fn idt_code(event: &Event) -> u32 {
    u32::from(event.vector) * 8 + 2 + ext(event)
}

fn ext(event: &Event) -> u32 {
    u32::from(event.origin != Origin::Software)
}

/// Checks common to both IDT formats: privilege of a software interrupt, presence.
fn check_gate(cpu: &mut Cpu, gate: &Descriptor, event: &Event) -> Result<(), Fault> {
    let code = idt_code(event);
    if event.origin == Origin::Software && gate.dpl() < cpu.cpl {
        return Err(gp(cpu, code));
    }
    if !gate.present() {
        return Err(raise(cpu, vector::NP, Some(code)));
    }
    Ok(())
}

/// The handler's code segment.
fn handler_code(cpu: &mut Cpu, selector: u16, ext: u32) -> Result<Descriptor, Fault> {
    if is_null(selector) {
        return Err(gp(cpu, ext));
    }
    let code = code_of(selector) | ext;
    let d = fetch(cpu, selector, vector::GP, ext)?;
    let bad_mode = cpu.long_mode() && d.attr() & (attr::LONG | attr::BIG) != attr::LONG;
    if !d.is_code() || d.dpl() > cpu.cpl || bad_mode {
        return Err(gp(cpu, code));
    }
    if !d.present() {
        return Err(raise(cpu, vector::NP, Some(code)));
    }
    Ok(d)
}

fn handler_flags(flags: u32, gate: &Descriptor) -> u32 {
    let interrupt = gate.kind() & 1 == 0;
    flags & !(eflags::TF | eflags::VM | eflags::RF | eflags::NT | if interrupt { eflags::IF } else { 0 })
}

fn enter_protected(cpu: &mut Cpu, event: Event) -> Result<(), Fault> {
    let index = u64::from(event.vector) * 8;
    let idt = idt_code(&event);
    let ext = ext(&event);
    if index + 7 > u64::from(cpu.idtr.limit) {
        return Err(gp(cpu, idt));
    }
    let addr = cpu.idtr.base.wrapping_add(index);
    let gate = Descriptor { raw: load_system(cpu, addr, 8)?, addr, selector: 0 };
    let wide = match (gate.is_segment(), gate.kind()) {
        (false, kind::INT32 | kind::TRAP32) => true,
        (false, kind::INT16 | kind::TRAP16 | kind::TASK_GATE) => false,
        _ => return Err(gp(cpu, idt)),
    };
    check_gate(cpu, &gate, &event)?;
    let flags = pushed_flags(cpu, &event);
    if gate.kind() == kind::TASK_GATE {
        return task::switch(cpu, gate.gate_selector(), Switch::Interrupt(ext), event.return_pc, event.error);
    }
    let selector = gate.gate_selector();
    let mut code = handler_code(cpu, selector, ext)?;
    let offset = if wide { gate.gate_offset() } else { gate.raw & 0xffff };
    let size = if wide { 4 } else { 2 };
    let inner = !code.is_conforming() && code.dpl() < cpu.cpl;
    let v86 = cpu.v86();
    if v86 && (code.is_conforming() || code.dpl() != 0) {
        return Err(gp(cpu, code_of(selector) | ext));
    }
    let cpl = if inner { code.dpl() } else { cpu.cpl };
    let mut stack;
    let mut ss = cpu.segs[seg::SS];
    if inner {
        let (inner_ss, sp) = inner_stack(cpu, cpl, ext)?;
        ss = inner_ss;
        stack = Stack::of(ss, sp, cpl == 3, false);
        stack.error = code_of(ss.selector) | ext;
        if v86 {
            for index in [seg::GS, seg::FS, seg::DS, seg::ES] {
                stack.push(cpu, size, u64::from(cpu.segs[index].selector))?;
            }
        }
        stack.push(cpu, size, u64::from(cpu.segs[seg::SS].selector))?;
        let sp = cpu.core.slots[4];
        stack.push(cpu, size, sp)?;
    } else {
        stack = Stack::current(cpu);
        stack.error = ext;
    }
    stack.push(cpu, size, flags)?;
    stack.push(cpu, size, u64::from(cpu.segs[seg::CS].selector))?;
    stack.push(cpu, size, event.return_pc)?;
    if let Some(error) = event.error {
        stack.push(cpu, size, u64::from(error))?;
    }
    let target = code.segment(selector);
    if offset > u64::from(target.limit) {
        return Err(gp(cpu, ext));
    }
    mark_accessed(cpu, &mut code)?;
    if v86 {
        for index in [seg::GS, seg::FS, seg::DS, seg::ES] {
            cpu.segs[index] = null(0);
        }
    }
    cpu.segs[seg::SS] = ss;
    stack.commit(cpu);
    let now = cpu.flags();
    cpu.set_flags(handler_flags(now, &gate));
    set_cs_protected(cpu, &code, selector, cpl);
    cpu.core.pc = offset;
    Ok(())
}

fn enter_long(cpu: &mut Cpu, event: Event) -> Result<(), Fault> {
    let index = u64::from(event.vector) * 16;
    let idt = idt_code(&event);
    let ext = ext(&event);
    if index + 15 > u64::from(cpu.idtr.limit) {
        return Err(gp(cpu, idt));
    }
    let addr = cpu.idtr.base.wrapping_add(index);
    let gate = Descriptor { raw: load_system(cpu, addr, 8)?, addr, selector: 0 };
    let upper = load_system(cpu, addr.wrapping_add(8), 8)?;
    if gate.is_segment() || !matches!(gate.kind(), kind::INT32 | kind::TRAP32) {
        return Err(gp(cpu, idt));
    }
    check_gate(cpu, &gate, &event)?;
    let selector = gate.gate_selector();
    let mut code = handler_code(cpu, selector, ext)?;
    let offset = gate.gate_offset() | upper << 32;
    let inner = !code.is_conforming() && code.dpl() < cpu.cpl;
    let cpl = if inner { code.dpl() } else { cpu.cpl };
    let ist = gate.raw >> 32 & 7;
    let mut ss = cpu.segs[seg::SS];
    let sp = if ist != 0 {
        let at = 0x24 + 8 * (ist - 1);
        if at + 7 > u64::from(cpu.tr.limit) {
            let code = code_of(cpu.tr.selector) | ext;
            return Err(raise(cpu, vector::TS, Some(code)));
        }
        load_system(cpu, cpu.tr.base.wrapping_add(at), 8)?
    } else if inner {
        inner_stack(cpu, cpl, ext)?.1
    } else {
        cpu.core.slots[4]
    };
    if inner {
        ss = super::far::long_null_stack(cpl);
    }
    let mut stack = Stack::of(ss, sp & !15, cpl == 3, true);
    stack.error = ext;
    let (old_ss, old_sp) = (u64::from(cpu.segs[seg::SS].selector), cpu.core.slots[4]);
    let flags = pushed_flags(cpu, &event);
    stack.push(cpu, 8, old_ss)?;
    stack.push(cpu, 8, old_sp)?;
    stack.push(cpu, 8, flags)?;
    stack.push(cpu, 8, u64::from(cpu.segs[seg::CS].selector))?;
    stack.push(cpu, 8, event.return_pc)?;
    if let Some(error) = event.error {
        stack.push(cpu, 8, u64::from(error))?;
    }
    if !Cpu::canonical(offset) {
        return Err(gp(cpu, ext));
    }
    mark_accessed(cpu, &mut code)?;
    cpu.segs[seg::SS] = ss;
    cpu.core.slots[4] = stack.sp;
    let now = cpu.flags();
    cpu.set_flags(handler_flags(now, &gate));
    set_cs_protected(cpu, &code, selector, cpl);
    cpu.core.pc = offset;
    Ok(())
}
