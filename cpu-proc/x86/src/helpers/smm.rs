//! System-management mode: entry and `RSM`. Source: Intel SDM volume 3C chapter 31; AMD64 APM volume 2 chapter 10.
//!
//! A model with long mode uses the AMD64 save area (revision 0x20064), others the 32-bit one (0x20000). Both can relocate
//! SMBASE. *Not emulated*: I/O restart (the SMI of port 0xb2 comes after the instruction).

use bulkhead_engine::{Fault, mem};
use bulkhead_ir::FLAGS_ALL;

use super::control::{CR0_KNOWN, cr4_known};
use super::descriptor::set_cs;
use super::ids::Sys;
use super::{EVERYTHING, List, slot, ud};
use crate::helper;
use crate::paging;
use crate::state::{Cpu, Segment, TableReg, attr, cr0, cr4, efer, eflags, halted, inhibit, seg};

/// Helpers of this topic.
pub const HELPERS: List = &[helper!(Sys::Rsm, rsm, EVERYTHING, reads: slot::ALL, flags_read: FLAGS_ALL)];

const REVISION32: u32 = 0x2_0000;
const REVISION64: u32 = 0x2_0064;
const EXT_LM: u32 = 1 << 29;
/// The save area ends here, relative to SMBASE; offsets below are relative to SMBASE + 0x8000.
const AREA: u64 = 0x8000;

fn is64(cpu: &Cpu) -> bool {
    cpu.features[2] & EXT_LM != 0
}

fn put(cpu: &mut Cpu, offset: u64, size: u32, value: u64) {
    let at = u64::from(cpu.smbase) + AREA + offset;
    mem::phys_store(&mut cpu.core, at, size, value);
}

fn get(cpu: &mut Cpu, offset: u64, size: u32) -> u64 {
    let at = u64::from(cpu.smbase) + AREA + offset;
    mem::phys_load(&mut cpu.core, at, size)
}

/// General registers in the 64-bit area, RAX highest, R15 lowest: offset of register `index` (encoding order).
fn gpr64(index: usize) -> u64 {
    const ORDER: [u64; 8] = [0x7ff8, 0x7ff0, 0x7fe8, 0x7fe0, 0x7fd8, 0x7fd0, 0x7fc8, 0x7fc0];
    match ORDER.get(index) {
        Some(at) => *at,
        None => 0x7fb8 - 8 * (index as u64 - 8),
    }
}

/// In the 32-bit area: EAX ECX EDX EBX ESP EBP ESI EDI upwards from 7fd0.
fn gpr32(index: usize) -> u64 {
    0x7fd0 + 4 * index as u64
}

fn put_segment64(cpu: &mut Cpu, offset: u64, s: Segment) {
    put(cpu, offset, 2, u64::from(s.selector));
    put(cpu, offset + 2, 2, u64::from(s.attr));
    put(cpu, offset + 4, 4, u64::from(s.limit));
    put(cpu, offset + 8, 8, s.base);
}

fn get_segment64(cpu: &mut Cpu, offset: u64) -> Segment {
    Segment {
        selector: get(cpu, offset, 2) as u16,
        attr: get(cpu, offset + 2, 2) as u16 & 0xf0ff,
        limit: get(cpu, offset + 4, 4) as u32,
        base: get(cpu, offset + 8, 8),
    }
}

/// Offset of the hidden part of segment `index` in the 32-bit area: attributes, limit, base.
fn hidden32(index: usize) -> u64 {
    if index < 3 { 0x7f84 + 12 * index as u64 } else { 0x7f2c + 12 * (index as u64 - 3) }
}

fn put_hidden32(cpu: &mut Cpu, offset: u64, s: Segment) {
    put(cpu, offset, 4, u64::from(s.attr));
    put(cpu, offset + 4, 4, u64::from(s.limit));
    put(cpu, offset + 8, 4, s.base);
}

fn get_hidden32(cpu: &mut Cpu, offset: u64, selector: u64) -> Segment {
    Segment {
        attr: get(cpu, offset, 4) as u16 & 0xf0ff,
        limit: get(cpu, offset + 4, 4) as u32,
        base: get(cpu, offset + 8, 4),
        selector: selector as u16,
    }
}

fn save64(cpu: &mut Cpu) {
    for i in 0..6 {
        let s = cpu.segs[i];
        put_segment64(cpu, 0x7e00 + 16 * i as u64, s);
    }
    let (gdtr, idtr, ldtr, tr) = (cpu.gdtr, cpu.idtr, cpu.ldtr, cpu.tr);
    put(cpu, 0x7e64, 4, u64::from(gdtr.limit));
    put(cpu, 0x7e68, 8, gdtr.base);
    put_segment64(cpu, 0x7e70, ldtr);
    put(cpu, 0x7e84, 4, u64::from(idtr.limit));
    put(cpu, 0x7e88, 8, idtr.base);
    put_segment64(cpu, 0x7e90, tr);
    let halted = u64::from(cpu.halted == halted::HLT);
    put(cpu, 0x7ec8, 1, 0);
    put(cpu, 0x7ec9, 1, halted);
    let values = [
        (0x7ed0, cpu.msrs.efer),
        (0x7f48, cpu.cr4),
        (0x7f50, cpu.cr3),
        (0x7f58, cpu.cr0),
        (0x7f60, cpu.dr[7]),
        (0x7f68, cpu.dr[6] & 0xe00f | 0xffff_0ff0),
        (0x7f70, u64::from(cpu.flags())),
        (0x7f78, cpu.core.pc),
    ];
    for (offset, value) in values {
        put(cpu, offset, 8, value);
    }
    for i in 0..16 {
        let value = cpu.core.slots[i];
        put(cpu, gpr64(i), 8, value);
    }
    let smbase = u64::from(cpu.smbase);
    put(cpu, 0x7efc, 4, u64::from(REVISION64));
    put(cpu, 0x7f00, 4, smbase);
}

fn save32(cpu: &mut Cpu) {
    let values = [
        (0x7ffc, cpu.cr0),
        (0x7ff8, cpu.cr3),
        (0x7ff4, u64::from(cpu.flags())),
        (0x7ff0, cpu.core.pc),
        (0x7fcc, cpu.dr[6] & 0xe00f | 0xffff_0ff0),
        (0x7fc8, cpu.dr[7]),
        (0x7fc4, u64::from(cpu.tr.selector)),
        (0x7fc0, u64::from(cpu.ldtr.selector)),
        (0x7f74, cpu.gdtr.base),
        (0x7f70, u64::from(cpu.gdtr.limit)),
        (0x7f58, cpu.idtr.base),
        (0x7f54, u64::from(cpu.idtr.limit)),
        (0x7f14, cpu.cr4),
        (0x7efc, u64::from(REVISION32)),
        (0x7ef8, u64::from(cpu.smbase)),
    ];
    for (offset, value) in values {
        put(cpu, offset, 4, value);
    }
    for i in 0..8 {
        let value = cpu.core.slots[i];
        put(cpu, gpr32(i), 4, value);
    }
    let (tr, ldtr) = (cpu.tr, cpu.ldtr);
    put_hidden32(cpu, 0x7f5c, tr);
    put_hidden32(cpu, 0x7f78, ldtr);
    for i in 0..6 {
        let s = cpu.segs[i];
        put(cpu, 0x7fa8 + 4 * i as u64, 4, u64::from(s.selector));
        put_hidden32(cpu, hidden32(i), s);
    }
    put(cpu, 0x7f00, 2, 0);
    put(cpu, 0x7f02, 2, u64::from(cpu.halted == halted::HLT));
}

/// Takes a system-management interrupt.
pub fn enter(cpu: &mut Cpu) {
    cpu.smm = 1;
    cpu.machine().set_smm(true);
    // SMRAM appears.
    paging::flush_map(cpu);
    if is64(cpu) {
        save64(cpu);
    } else {
        save32(cpu);
    }
    cpu.halted = 0;
    cpu.inhibit = inhibit::NMI | if cpu.inhibit & inhibit::NMI != 0 { inhibit::NMI_IN_SMM } else { 0 };
    cpu.cr0 &= !(cr0::PE | cr0::EM | cr0::TS | cr0::PG);
    cpu.cr4 = 0;
    cpu.msrs.efer = 0;
    cpu.dr[7] = 0x400;
    cpu.set_flags(2);
    cpu.core.pc = 0x8000;
    let flat = Segment {
        base: 0,
        limit: u32::MAX,
        attr: attr::GRANULAR | attr::PRESENT | attr::S | attr::WRITABLE | attr::ACCESSED,
        selector: 0,
    };
    cpu.segs = [flat; 6];
    let base = cpu.smbase;
    let cs = Segment { base: u64::from(base), selector: (base >> 4) as u16, ..flat };
    set_cs(cpu, cs);
    cpu.set_cpl(0);
    paging::flush(cpu);
    cpu.update_key();
}

fn restore64(cpu: &mut Cpu) {
    for i in 0..6 {
        cpu.segs[i] = get_segment64(cpu, 0x7e00 + 16 * i as u64);
    }
    cpu.gdtr = TableReg { base: get(cpu, 0x7e68, 8), limit: get(cpu, 0x7e64, 4) as u32 & 0xffff, pad: 0 };
    cpu.ldtr = get_segment64(cpu, 0x7e70);
    cpu.idtr = TableReg { base: get(cpu, 0x7e88, 8), limit: get(cpu, 0x7e84, 4) as u32 & 0xffff, pad: 0 };
    cpu.tr = get_segment64(cpu, 0x7e90);
    cpu.halted = u32::from(get(cpu, 0x7ec9, 1) & 1 != 0);
    let wanted = get(cpu, 0x7ed0, 8);
    cpu.cr4 = get(cpu, 0x7f48, 8);
    cpu.cr3 = get(cpu, 0x7f50, 8);
    cpu.cr0 = get(cpu, 0x7f58, 8) & 0xffff_ffff | cr0::ET;
    cpu.dr[7] = get(cpu, 0x7f60, 4) | 0x400;
    cpu.dr[6] = get(cpu, 0x7f68, 4) & 0xe00f;
    let flags = get(cpu, 0x7f70, 4) as u32;
    cpu.core.pc = get(cpu, 0x7f78, 8);
    for i in 0..16 {
        cpu.core.slots[i] = get(cpu, gpr64(i), 8);
    }
    // LMA follows from LME and paging, whatever the area says.
    let paging_on = cpu.cr0 & cr0::PG != 0 && wanted & efer::LME != 0;
    cpu.msrs.efer =
        wanted & (efer::SCE | efer::LME | efer::NXE | efer::FFXSR) | if paging_on { efer::LMA } else { 0 };
    cpu.set_flags(flags);
    cpu.smbase = get(cpu, 0x7f00, 4) as u32;
}

fn restore32(cpu: &mut Cpu) {
    cpu.cr0 = get(cpu, 0x7ffc, 4) | cr0::ET;
    cpu.cr3 = get(cpu, 0x7ff8, 4);
    let flags = get(cpu, 0x7ff4, 4) as u32;
    cpu.core.pc = get(cpu, 0x7ff0, 4);
    for i in 0..8 {
        cpu.core.slots[i] = get(cpu, gpr32(i), 4);
    }
    cpu.dr[6] = get(cpu, 0x7fcc, 4) & 0xe00f;
    cpu.dr[7] = get(cpu, 0x7fc8, 4) | 0x400;
    let (tr, ldtr) = (get(cpu, 0x7fc4, 4), get(cpu, 0x7fc0, 4));
    cpu.tr = get_hidden32(cpu, 0x7f5c, tr);
    cpu.ldtr = get_hidden32(cpu, 0x7f78, ldtr);
    cpu.gdtr = TableReg { base: get(cpu, 0x7f74, 4), limit: get(cpu, 0x7f70, 4) as u32 & 0xffff, pad: 0 };
    cpu.idtr = TableReg { base: get(cpu, 0x7f58, 4), limit: get(cpu, 0x7f54, 4) as u32 & 0xffff, pad: 0 };
    for i in 0..6 {
        let selector = get(cpu, 0x7fa8 + 4 * i as u64, 4);
        cpu.segs[i] = get_hidden32(cpu, hidden32(i), selector);
    }
    cpu.cr4 = get(cpu, 0x7f14, 4);
    cpu.msrs.efer = 0;
    cpu.halted = u32::from(get(cpu, 0x7f02, 2) & 1 != 0);
    cpu.set_flags(flags);
    cpu.smbase = get(cpu, 0x7ef8, 4) as u32;
}

/// Whether the control registers that `RSM` loaded contradict each other or the model.
fn is_invalid(cpu: &Cpu) -> bool {
    let paging = cpu.cr0 & cr0::PG != 0;
    let long = cpu.msrs.efer & efer::LMA != 0;
    paging && cpu.cr0 & cr0::PE == 0
        || cpu.cr0 & (cr0::NW | cr0::CD) == cr0::NW
        || cpu.cr0 & !CR0_KNOWN != 0
        || cpu.cr4 & !cr4_known(cpu) != 0
        || long && (cpu.cr4 & cr4::PAE == 0 || cpu.flags() & eflags::VM != 0)
}

/// `Sys::Rsm`.
fn rsm(cpu: &mut Cpu, _: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    if cpu.smm == 0 {
        return Err(ud(cpu));
    }
    if is64(cpu) {
        restore64(cpu);
    } else {
        restore32(cpu);
    }
    if is_invalid(cpu) {
        // As the SDM's 31.4.1 has it, the processor shuts down; until the machine acts on that it stays in a state that can run.
        cpu.cr0 = cr0::ET;
        cpu.cr4 = 0;
        cpu.msrs.efer = 0;
        let flags = cpu.flags() & !eflags::VM;
        cpu.set_flags(flags);
        cpu.machine().shutdown();
    }
    let ss = cpu.segs[seg::SS];
    let cpl = match (cpu.cr0 & cr0::PE != 0, cpu.flags() & eflags::VM != 0) {
        (false, _) => 0,
        (true, true) => 3,
        // The stack's privilege is the current one, also for a null SS of long mode.
        (true, false) => ss.dpl(),
    };
    cpu.set_cpl(cpl);
    cpu.inhibit = if cpu.inhibit & inhibit::NMI_IN_SMM != 0 { inhibit::NMI } else { 0 };
    cpu.smm = 0;
    cpu.machine().set_smm(false);
    paging::flush_map(cpu);
    if cpu.cr0 & cr0::PG != 0 && cpu.cr4 & cr4::PAE != 0 && !cpu.long_mode() {
        let cr3 = cpu.cr3;
        if paging::load_pdptes(cpu, cr3).is_err() {
            cpu.pdptes = [0; 4];
            cpu.core.exit = 0;
        }
    }
    cpu.update_key();
    cpu.set_attention();
    if cpu.halted != 0 {
        cpu.core.exit = bulkhead_engine::exit::HALT;
    }
    Ok(0)
}
