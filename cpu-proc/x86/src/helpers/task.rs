//! Hardware task switches. Source: Intel SDM volume 3A chapter 8 (figures 8-2 and 8-10, table 8-1).

use bulkhead_engine::Fault;

use super::descriptor::{
    check_data, check_stack, code_of, fetch, is_null, kind, mark_accessed, null, set_busy, set_cs,
};
use super::mem::{Stack, load_system, store_system};
use super::{raise, vector};
use crate::paging;
use crate::state::{Cpu, Segment, attr, cr0, cr4, eflags, seg};

/// What causes a switch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Switch {
    /// Far jump.
    Jump,
    /// Far call.
    Call,
    /// Interrupt or exception through a task gate; the value is the EXT bit of error codes.
    Interrupt(u32),
    /// `IRET` with NT set.
    Iret,
}

/// Register image of a task state, of either size.
#[derive(Default)]
struct Image {
    cr3: u64,
    ip: u64,
    flags: u32,
    gpr: [u64; 8],
    /// ES CS SS DS FS GS.
    segs: [u16; 6],
    ldt: u16,
    trap: bool,
}

fn read_image(cpu: &mut Cpu, base: u64, wide: bool) -> Result<Image, Fault> {
    let mut image = Image::default();
    let word = |cpu: &mut Cpu, offset: u64, size: u8| load_system(cpu, base.wrapping_add(offset), size);
    if wide {
        image.cr3 = word(cpu, 0x1c, 4)?;
        image.ip = word(cpu, 0x20, 4)?;
        image.flags = word(cpu, 0x24, 4)? as u32;
        for (i, r) in image.gpr.iter_mut().enumerate() {
            *r = word(cpu, 0x28 + 4 * i as u64, 4)?;
        }
        for (i, s) in image.segs.iter_mut().enumerate() {
            *s = word(cpu, 0x48 + 4 * i as u64, 2)? as u16;
        }
        image.ldt = word(cpu, 0x60, 2)? as u16;
        image.trap = word(cpu, 0x64, 2)? & 1 != 0;
    } else {
        image.ip = word(cpu, 0x0e, 2)?;
        image.flags = word(cpu, 0x10, 2)? as u32;
        for (i, r) in image.gpr.iter_mut().enumerate() {
            // The upper halves are undefined after a 16-bit switch; processors leave ones.
            *r = word(cpu, 0x12 + 2 * i as u64, 2)? | 0xffff_0000;
        }
        for (i, s) in image.segs.iter_mut().take(4).enumerate() {
            *s = word(cpu, 0x22 + 2 * i as u64, 2)? as u16;
        }
        image.ldt = word(cpu, 0x2a, 2)? as u16;
    }
    Ok(image)
}

fn save_image(cpu: &mut Cpu, return_pc: u64, flags: u32) -> Result<(), Fault> {
    let base = cpu.tr.base;
    let gpr: [u64; 8] = std::array::from_fn(|i| cpu.core.slots[i]);
    let segs = cpu.segs.map(|s| u64::from(s.selector));
    let put = |cpu: &mut Cpu, offset: u64, size: u8, value: u64| {
        store_system(cpu, base.wrapping_add(offset), size, value)
    };
    if cpu.tr.attr & 8 != 0 {
        put(cpu, 0x20, 4, return_pc)?;
        put(cpu, 0x24, 4, u64::from(flags))?;
        for (i, r) in gpr.into_iter().enumerate() {
            put(cpu, 0x28 + 4 * i as u64, 4, r)?;
        }
        for (i, s) in segs.into_iter().enumerate() {
            put(cpu, 0x48 + 4 * i as u64, 2, s)?;
        }
    } else {
        put(cpu, 0x0e, 2, return_pc)?;
        put(cpu, 0x10, 2, u64::from(flags))?;
        for (i, r) in gpr.into_iter().enumerate() {
            put(cpu, 0x12 + 2 * i as u64, 2, r)?;
        }
        for (i, s) in segs.into_iter().take(4).enumerate() {
            put(cpu, 0x22 + 2 * i as u64, 2, s)?;
        }
    }
    Ok(())
}

/// Switches to the task that `selector` (a TSS descriptor in the GDT) names. `return_pc` is saved in the old task. `error`
/// is pushed on the new task's stack. Faults up to the commit are raised in the old task, later ones in the new.
pub fn switch(
    cpu: &mut Cpu,
    selector: u16,
    how: Switch,
    return_pc: u64,
    error: Option<u32>,
) -> Result<(), Fault> {
    let ext = if let Switch::Interrupt(ext) = how { ext } else { 0 };
    let back = how == Switch::Iret;
    let bad = if back { vector::TS } else { vector::GP };
    let code = code_of(selector) | ext;
    if selector & 4 != 0 || is_null(selector) {
        return Err(raise(cpu, bad, Some(code)));
    }
    let mut target = fetch(cpu, selector, bad, ext)?;
    let (wide, busy) = match (target.is_segment(), target.kind()) {
        (false, kind::TSS16) => (false, false),
        (false, kind::TSS16_BUSY) => (false, true),
        (false, kind::TSS32) => (true, false),
        (false, kind::TSS32_BUSY) => (true, true),
        _ => return Err(raise(cpu, bad, Some(code))),
    };
    if busy != back {
        return Err(raise(cpu, bad, Some(code)));
    }
    if !target.present() {
        return Err(raise(cpu, vector::NP, Some(code)));
    }
    if target.limit() < if wide { 0x67 } else { 0x2b } {
        return Err(raise(cpu, vector::TS, Some(code)));
    }
    let old_selector = cpu.tr.selector;
    let mut image = read_image(cpu, target.base(), wide)?;
    let mut old_flags = cpu.flags();
    if back {
        old_flags &= !eflags::NT;
    }
    save_image(cpu, return_pc, old_flags)?;
    if matches!(how, Switch::Jump | Switch::Iret) && !is_null(old_selector) {
        let mut old = fetch(cpu, old_selector, vector::TS, ext)?;
        set_busy(cpu, &mut old, false)?;
    }
    if matches!(how, Switch::Call | Switch::Interrupt(_)) {
        store_system(cpu, target.base(), 2, u64::from(old_selector))?;
        image.flags |= eflags::NT;
    }
    set_busy(cpu, &mut target, true)?;

    // Commit: from here on faults belong to the new task.
    cpu.tr = target.segment(selector);
    cpu.cr0 |= cr0::TS;
    if wide && cpu.cr0 & cr0::PG != 0 {
        cpu.cr3 = image.cr3;
        paging::flush(cpu);
        if cpu.cr4 & cr4::PAE != 0 {
            paging::load_pdptes(cpu, image.cr3)?;
        }
    }
    for (i, r) in image.gpr.into_iter().enumerate() {
        cpu.core.slots[i] = r;
    }
    cpu.core.pc = image.ip;
    cpu.set_flags(image.flags);
    cpu.dr[7] &= !0x155;
    let v86 = cpu.v86();
    for (index, selector) in image.segs.into_iter().enumerate() {
        let segment = if v86 { Segment::v86(selector) } else { null(selector) };
        if index == seg::CS { set_cs(cpu, segment) } else { cpu.segs[index] = segment }
    }
    cpu.ldtr = null(image.ldt);
    let cs = image.segs[seg::CS];
    cpu.set_cpl(if v86 { 3 } else { u32::from(cs & 3) });
    cpu.update_key();

    if !is_null(image.ldt) {
        let code = code_of(image.ldt) | ext;
        if image.ldt & 4 != 0 {
            return Err(raise(cpu, vector::TS, Some(code)));
        }
        let ldt = fetch(cpu, image.ldt, vector::TS, ext)?;
        if ldt.is_segment() || ldt.kind() != kind::LDT || !ldt.present() {
            return Err(raise(cpu, vector::TS, Some(code)));
        }
        cpu.ldtr = ldt.segment(image.ldt);
    }
    if !v86 {
        load_segments(cpu, &image, ext)?;
    }
    cpu.update_key();
    if cpu.core.pc > u64::from(cpu.segs[seg::CS].limit) {
        return Err(raise(cpu, vector::GP, Some(ext)));
    }
    if let Some(error) = error {
        let mut stack = Stack::current(cpu);
        stack.error = ext;
        stack.push(cpu, if wide { 4 } else { 2 }, u64::from(error))?;
        stack.commit(cpu);
    }
    if image.trap {
        let fault = raise(cpu, vector::DB, None);
        cpu.pending.dr6 = 1 << 15;
        return Err(fault);
    }
    Ok(())
}

fn load_segments(cpu: &mut Cpu, image: &Image, ext: u32) -> Result<(), Fault> {
    let cs = image.segs[seg::CS];
    let code = code_of(cs) | ext;
    if is_null(cs) {
        return Err(raise(cpu, vector::TS, Some(ext)));
    }
    let mut d = fetch(cpu, cs, vector::TS, ext)?;
    let rpl = u32::from(cs & 3);
    if !d.is_code() || if d.is_conforming() { d.dpl() > rpl } else { d.dpl() != rpl } {
        return Err(raise(cpu, vector::TS, Some(code)));
    }
    if !d.present() {
        return Err(raise(cpu, vector::NP, Some(code)));
    }
    mark_accessed(cpu, &mut d)?;
    let mut segment = d.segment(cs);
    segment.attr &= !attr::LONG;
    set_cs(cpu, segment);
    let cpl = cpu.cpl;
    cpu.segs[seg::SS] = check_stack(cpu, image.segs[seg::SS], cpl, vector::TS, ext)?;
    for index in [seg::ES, seg::DS, seg::FS, seg::GS] {
        cpu.segs[index] = check_data(cpu, image.segs[index], vector::TS, ext)?;
    }
    Ok(())
}
