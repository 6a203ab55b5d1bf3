//! Segment register loads, slow-path segment checks, LDTR and TR, and the selector-testing instructions.
//! Source: Intel SDM volume 2 (`MOV`, `LLDT`, `LTR`, `LAR`, `LSL`, `VERR`, `ARPL`), volume 3A chapter 5.

use bulkhead_engine::Fault;
use bulkhead_ir::FLAGS_ALL;

use super::descriptor::{
    Descriptor, code_of, fetch, fetch_upper, is_null, kind, load_segment, load_stack_segment, null, set_busy,
    try_fetch,
};
use super::ids::Sys;
use super::mem::{store, within_limit};
use super::{FAULTS, List, PURE, gp, raise, slot, vector};
use crate::helper;
use crate::state::{Cpu, Segment, attr, cr0, seg};

/// Helpers of this topic.
pub const HELPERS: List = &[
    helper!(Sys::LoadSeg, load_seg, FAULTS),
    helper!(Sys::SegLinear, seg_linear, FAULTS),
    helper!(Sys::Lldt, lldt, FAULTS),
    helper!(Sys::Ltr, ltr, FAULTS),
    helper!(Sys::StoreSel, store_sel, PURE),
    helper!(Sys::LarLsl, lar_lsl, FAULTS, flags_read: FLAGS_ALL, flags_written: FLAGS_ALL),
    helper!(Sys::Verify, verify, FAULTS, flags_read: FLAGS_ALL, flags_written: FLAGS_ALL),
    helper!(Sys::Arpl, arpl, PURE, reads: slot::NONE, flags_read: FLAGS_ALL, flags_written: FLAGS_ALL),
    helper!(Sys::ArplMemory, arpl_memory, FAULTS, flags_read: FLAGS_ALL, flags_written: FLAGS_ALL),
];

/// Of `Sys::LoadSeg`: the instruction loads the pointer too. So `LSS` need not hold anything off, and does not (SDM volume 3A section 6.8.3).
pub const WITH_POINTER: u64 = 8;

/// `Sys::LoadSeg`.
fn load_seg(cpu: &mut Cpu, a: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let selector = a as u16;
    match (imm & !WITH_POINTER) as usize {
        seg::SS if imm & WITH_POINTER == 0 => load_stack_segment(cpu, selector)?,
        index @ (seg::ES | seg::SS | seg::DS | seg::FS | seg::GS) => load_segment(cpu, index, selector)?,
        _ => return Err(super::ud(cpu)),
    }
    cpu.update_key();
    Ok(0)
}

/// `Sys::SegLinear`.
fn seg_linear(cpu: &mut Cpu, a: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let index = (imm & 7).min(5) as usize;
    let write = imm & 8 != 0;
    let size = 1u64 << (imm >> 4 & 15);
    let s = cpu.segs[index];
    if cpu.code64() {
        let base = if index >= seg::FS { s.base } else { 0 };
        return Ok(base.wrapping_add(a));
    }
    if !within_limit(&s, a, size) || cpu.cr0 & cr0::PE != 0 && !permits(&s, write) {
        return Err(no_access(cpu, index));
    }
    Ok(s.base.wrapping_add(a) & 0xffff_ffff)
}

/// The exception of the byte at linear address `linear` when segment `index` ends before it.
pub fn check_limit(cpu: &mut Cpu, index: usize, linear: u64) -> Result<(), Fault> {
    let s = cpu.segs[index.min(5)];
    let offset = linear.wrapping_sub(s.base) & 0xffff_ffff;
    if within_limit(&s, offset, 1) { Ok(()) } else { Err(no_access(cpu, index)) }
}

/// Whether the type of `s` permits to read or to write: code is readable when its bit is set and never writable; data is readable always.
fn permits(s: &Segment, write: bool) -> bool {
    let code = s.attr & attr::CODE != 0;
    let bit = s.attr & attr::WRITABLE != 0;
    s.usable() && if write { !code && bit } else { !code || bit }
}

/// The exception of an access that segment `index` does not permit.
fn no_access(cpu: &mut Cpu, index: usize) -> Fault {
    let vector = if index == seg::SS { vector::SS } else { vector::GP };
    raise(cpu, vector, Some(0))
}

fn privileged(cpu: &mut Cpu) -> Result<(), Fault> {
    if cpu.cpl != 0 { Err(gp(cpu, 0)) } else { Ok(()) }
}

/// Base of an LDT or TSS descriptor, 64 bits wide in long mode.
fn system_base(cpu: &mut Cpu, d: &Descriptor) -> Result<u64, Fault> {
    if !cpu.long_mode() {
        return Ok(d.base());
    }
    let upper = fetch_upper(cpu, d, vector::GP, 0)?;
    let base = d.base() | upper << 32;
    if upper >> 40 & 0x1f != 0 || !Cpu::canonical(base) {
        return Err(gp(cpu, code_of(d.selector)));
    }
    Ok(base)
}

/// `Sys::Lldt`.
fn lldt(cpu: &mut Cpu, a: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    privileged(cpu)?;
    let selector = a as u16;
    if is_null(selector) {
        cpu.ldtr = null(selector);
        return Ok(0);
    }
    let code = code_of(selector);
    if selector & 4 != 0 {
        return Err(gp(cpu, code));
    }
    let d = fetch(cpu, selector, vector::GP, 0)?;
    if d.is_segment() || d.kind() != kind::LDT {
        return Err(gp(cpu, code));
    }
    if !d.present() {
        return Err(raise(cpu, vector::NP, Some(code)));
    }
    let base = system_base(cpu, &d)?;
    cpu.ldtr = crate::state::Segment { base, ..d.segment(selector) };
    Ok(0)
}

/// `Sys::Ltr`.
fn ltr(cpu: &mut Cpu, a: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    privileged(cpu)?;
    let selector = a as u16;
    let code = code_of(selector);
    if is_null(selector) || selector & 4 != 0 {
        return Err(gp(cpu, code));
    }
    let mut d = fetch(cpu, selector, vector::GP, 0)?;
    let known = d.kind() == kind::TSS32 || d.kind() == kind::TSS16 && !cpu.long_mode();
    if d.is_segment() || !known {
        return Err(gp(cpu, code));
    }
    if !d.present() {
        return Err(raise(cpu, vector::NP, Some(code)));
    }
    let base = system_base(cpu, &d)?;
    set_busy(cpu, &mut d, true)?;
    cpu.tr = crate::state::Segment { base, ..d.segment(selector) };
    Ok(0)
}

/// `Sys::StoreSel`.
fn store_sel(cpu: &mut Cpu, _: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    Ok(u64::from(if imm == 0 { cpu.ldtr.selector } else { cpu.tr.selector }))
}

/// Sets or clears ZF.
pub fn set_zf(cpu: &mut Cpu, on: bool) {
    let bit = 1 << (8 + 6);
    cpu.core.cc = if on { cpu.core.cc | bit } else { cpu.core.cc & !bit };
}

/// The descriptor, if the privilege rules of `LAR`, `LSL`, `VERR` and `VERW` let the program see it.
fn visible(cpu: &mut Cpu, selector: u16) -> Result<Option<Descriptor>, Fault> {
    if is_null(selector) {
        return Ok(None);
    }
    let Some(d) = try_fetch(cpu, selector)? else { return Ok(None) };
    let rpl = u32::from(selector & 3);
    let seen = d.is_conforming() || cpu.cpl <= d.dpl() && rpl <= d.dpl();
    Ok(seen.then_some(d))
}

/// `Sys::LarLsl`.
fn lar_lsl(cpu: &mut Cpu, a: u64, b: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let limit = imm & 1 != 0;
    let long = cpu.long_mode();
    let found = visible(cpu, a as u16)?.filter(|d| {
        d.is_segment()
            || match d.kind() {
                kind::LDT | kind::TSS32 | kind::TSS32_BUSY => true,
                kind::TSS16 | kind::TSS16_BUSY => !long,
                kind::CALL32 => !limit,
                kind::CALL16 | kind::TASK_GATE => !limit && !long,
                _ => false,
            }
    });
    set_zf(cpu, found.is_some());
    Ok(match found {
        None => b,
        Some(d) if limit => u64::from(d.limit()),
        Some(d) => d.raw >> 32 & 0x00f0_ff00,
    })
}

/// `Sys::Verify`.
fn verify(cpu: &mut Cpu, a: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let ok =
        visible(cpu, a as u16)?.is_some_and(|d| if imm == 0 { d.is_readable() } else { d.is_writable() });
    set_zf(cpu, ok);
    Ok(0)
}

/// Selector `a` with at least the requested privilege level of `b`, when that is another.
fn adjusted(a: u64, b: u64) -> Option<u64> {
    (a & 3 < b & 3).then_some(a & !3 | b & 3)
}

/// `Sys::Arpl`.
fn arpl(cpu: &mut Cpu, a: u64, b: u64, _: u64, _: u64) -> Result<u64, Fault> {
    let new = adjusted(a, b);
    set_zf(cpu, new.is_some());
    Ok(new.unwrap_or(a))
}

/// `Sys::ArplMemory`. Processors check for a write only when there is something to write: a segment or page that is read-only raises
/// nothing otherwise.
fn arpl_memory(cpu: &mut Cpu, a: u64, b: u64, c: u64, imm: u64) -> Result<u64, Fault> {
    let new = adjusted(b, c);
    if let Some(new) = new {
        let index = (imm & 7).min(5) as usize;
        if !permits(&cpu.segs[index], true) {
            return Err(no_access(cpu, index));
        }
        store(cpu, a, 2, new, cpu.user())?;
    }
    set_zf(cpu, new.is_some());
    Ok(0)
}
