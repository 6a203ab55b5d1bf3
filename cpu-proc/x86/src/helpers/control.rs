//! Control and debug registers, descriptor-table registers, cache and TLB control.
//! Source: Intel SDM volume 3A sections 2.5, 2.8 and 17.2; AMD64 APM volume 2 sections 3.1 and 14.6.

use bulkhead_engine::{ApicAccess, Fault};

use super::ids::Sys;
use super::{FAULTS, List, PURE, gp, raise, ud, vector};
use crate::helper;
use crate::paging;
use crate::state::{Cpu, attr, cr0, cr4, dr7, efer, seg};

/// Helpers of this topic.
pub const HELPERS: List = &[
    helper!(Sys::ReadCr, read_cr, FAULTS),
    helper!(Sys::WriteCr, write_cr, FAULTS),
    helper!(Sys::ReadDr, read_dr, FAULTS),
    helper!(Sys::WriteDr, write_dr, FAULTS),
    helper!(Sys::Clts, clts, FAULTS),
    helper!(Sys::Lmsw, lmsw, FAULTS),
    helper!(Sys::Smsw, smsw, PURE),
    helper!(Sys::LoadTable, load_table, FAULTS),
    helper!(Sys::StoreTable, store_table, PURE),
    helper!(Sys::Invlpg, invlpg, FAULTS),
    helper!(Sys::Wbinvd, wbinvd, FAULTS),
    helper!(Sys::Pause, pause, PURE),
];

/// CPUID leaf 1 EDX bits that CR4 depends on.
mod feature {
    pub const VME: u32 = 1 << 1;
    pub const DE: u32 = 1 << 2;
    pub const PSE: u32 = 1 << 3;
    pub const TSC: u32 = 1 << 4;
    pub const PAE: u32 = 1 << 6;
    pub const MCE: u32 = 1 << 7;
    pub const PGE: u32 = 1 << 13;
    pub const MMX: u32 = 1 << 23;
    pub const FXSR: u32 = 1 << 24;
    pub const SSE: u32 = 1 << 25;
}

/// #GP(0) above privilege level 0.
pub fn privileged(cpu: &mut Cpu) -> Result<(), Fault> {
    if cpu.cpl != 0 { Err(gp(cpu, 0)) } else { Ok(()) }
}

/// `Sys::ReadCr`.
fn read_cr(cpu: &mut Cpu, _: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    privileged(cpu)?;
    match imm {
        0 => Ok(cpu.cr0),
        2 => Ok(cpu.cr2),
        3 => Ok(cpu.cr3),
        4 => Ok(cpu.cr4),
        8 => Ok(cpu.machine().apic(ApicAccess::ReadTpr) & 15),
        _ => Err(ud(cpu)),
    }
}

/// `Sys::WriteCr`.
fn write_cr(cpu: &mut Cpu, a: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    privileged(cpu)?;
    let value = if cpu.code64() { a } else { a & 0xffff_ffff };
    match imm {
        0 => write_cr0(cpu, value)?,
        2 => cpu.cr2 = value,
        3 => write_cr3(cpu, value)?,
        4 => write_cr4(cpu, value)?,
        8 => {
            if value > 15 {
                return Err(gp(cpu, 0));
            }
            cpu.machine().apic(ApicAccess::WriteTpr(value));
            cpu.set_attention();
        }
        _ => return Err(ud(cpu)),
    }
    cpu.update_key();
    Ok(0)
}

/// CR0 bits that do something or read as they were written.
pub const CR0_KNOWN: u64 = cr0::PE
    | cr0::MP
    | cr0::EM
    | cr0::TS
    | cr0::ET
    | cr0::NE
    | cr0::WP
    | cr0::AM
    | cr0::NW
    | cr0::CD
    | cr0::PG;

fn write_cr0(cpu: &mut Cpu, value: u64) -> Result<(), Fault> {
    let old = cpu.cr0;
    let paging_without_protection = value & cr0::PG != 0 && value & cr0::PE == 0;
    let write_through_without_disable = value & cr0::NW != 0 && value & cr0::CD == 0;
    if value >> 32 != 0 || paging_without_protection || write_through_without_disable {
        return Err(gp(cpu, 0));
    }
    let new = value & CR0_KNOWN | cr0::ET;
    let rises = new & !old & cr0::PG != 0;
    let falls = old & !new & cr0::PG != 0;
    let long = cpu.msrs.efer & efer::LME != 0;
    let cs_long = cpu.segs[seg::CS].attr & attr::LONG != 0;
    // Intel's processors look at the task register too, which has a 32-bit type from reset on (SDM volume 3A section 9.8.5).
    let narrow_task = cpu.model.is_intel() && cpu.tr.attr & 8 == 0;
    if rises && long && (cpu.cr4 & cr4::PAE == 0 || cs_long || narrow_task) {
        return Err(gp(cpu, 0));
    }
    if falls && cpu.code64() {
        return Err(gp(cpu, 0));
    }
    let legacy_pae = new & cr0::PG != 0 && cpu.cr4 & cr4::PAE != 0 && !long;
    if legacy_pae && (old ^ new) & (cr0::PG | cr0::CD | cr0::NW) != 0 {
        paging::load_pdptes(cpu, cpu.cr3)?;
    }
    if rises && long {
        cpu.msrs.efer |= efer::LMA;
    }
    if falls {
        cpu.msrs.efer &= !efer::LMA;
    }
    cpu.cr0 = new;
    if (old ^ new) & (cr0::PG | cr0::PE | cr0::WP) != 0 {
        paging::flush(cpu);
    }
    Ok(())
}

fn write_cr3(cpu: &mut Cpu, value: u64) -> Result<(), Fault> {
    let too_wide = cpu.long_mode() && value >> cpu.phys_bits() != 0;
    if too_wide {
        return Err(gp(cpu, 0));
    }
    if cpu.cr0 & cr0::PG != 0 && cpu.cr4 & cr4::PAE != 0 && !cpu.long_mode() {
        paging::load_pdptes(cpu, value)?;
    }
    cpu.cr3 = value;
    paging::flush_local(cpu);
    Ok(())
}

/// CR4 bits that the model has.
pub fn cr4_known(cpu: &Cpu) -> u64 {
    let edx = cpu.features[0];
    [
        (feature::VME, cr4::VME | cr4::PVI),
        (feature::TSC, cr4::TSD),
        (feature::DE, cr4::DE),
        (feature::PSE, cr4::PSE),
        (feature::PAE, cr4::PAE),
        (feature::MCE, cr4::MCE),
        (feature::PGE, cr4::PGE),
        // RDPMC's enable is on every processor with MMX or later.
        (feature::MMX, cr4::PCE),
        (feature::FXSR, cr4::OSFXSR),
        (feature::SSE, cr4::OSXMMEXCPT),
    ]
    .iter()
    .filter(|(bit, _)| edx & bit != 0)
    .fold(0, |mask, (_, bits)| mask | bits)
}

fn write_cr4(cpu: &mut Cpu, value: u64) -> Result<(), Fault> {
    let old = cpu.cr4;
    if value & !cr4_known(cpu) != 0 || cpu.long_mode() && value & cr4::PAE == 0 {
        return Err(gp(cpu, 0));
    }
    const TRANSLATION: u64 = cr4::PAE | cr4::PSE | cr4::PGE;
    let changed = (old ^ value) & TRANSLATION != 0;
    if changed && cpu.cr0 & cr0::PG != 0 && value & cr4::PAE != 0 && !cpu.long_mode() {
        paging::load_pdptes(cpu, cpu.cr3)?;
    }
    cpu.cr4 = value;
    if changed {
        paging::flush(cpu);
    }
    Ok(())
}

/// Which register DR`imm` is, after the checks common to reads and writes.
fn debug_register(cpu: &mut Cpu, imm: u64) -> Result<usize, Fault> {
    privileged(cpu)?;
    let index = match imm & 7 {
        n @ (4 | 5) if cpu.cr4 & cr4::DE == 0 => n + 2,
        4 | 5 => return Err(ud(cpu)),
        n => n,
    };
    if cpu.dr[7] & dr7::GENERAL_DETECT != 0 {
        let fault = raise(cpu, vector::DB, None);
        cpu.pending.dr6 = 1 << 13;
        return Err(fault);
    }
    Ok(index as usize)
}

/// `Sys::ReadDr`.
fn read_dr(cpu: &mut Cpu, _: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let index = debug_register(cpu, imm)?;
    Ok(match index {
        6 => cpu.dr[6] & 0xe00f | 0xffff_0ff0,
        7 => cpu.dr[7] | 0x400,
        i => cpu.dr[i],
    })
}

/// `Sys::WriteDr`.
fn write_dr(cpu: &mut Cpu, a: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let index = debug_register(cpu, imm)?;
    let value = if cpu.code64() { a } else { a & 0xffff_ffff };
    if index >= 6 && value >> 32 != 0 {
        return Err(gp(cpu, 0));
    }
    cpu.dr[index] = match index {
        6 => value & 0xe00f,
        // Bit 11 is for transactional memory (SDM volume 3B section 18.2.4), which no model has.
        7 => value & 0xffff_27ff | 0x400,
        _ => value,
    };
    if index != 6 {
        // Translations of watched pages must not stay.
        paging::flush(cpu);
    }
    cpu.update_key();
    Ok(0)
}

/// `Sys::Clts`.
fn clts(cpu: &mut Cpu, _: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    privileged(cpu)?;
    cpu.cr0 &= !cr0::TS;
    cpu.update_key();
    Ok(0)
}

/// `Sys::Lmsw`: the low four bits; PE can be set, not cleared.
fn lmsw(cpu: &mut Cpu, a: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    privileged(cpu)?;
    let value = cpu.cr0 & !0xe | a & 0xf;
    write_cr0(cpu, value)?;
    cpu.update_key();
    Ok(0)
}

/// `Sys::Smsw`.
fn smsw(cpu: &mut Cpu, _: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    Ok(cpu.cr0)
}

/// `Sys::LoadTable`.
fn load_table(cpu: &mut Cpu, a: u64, b: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    privileged(cpu)?;
    if cpu.code64() && !Cpu::canonical(a) {
        return Err(gp(cpu, 0));
    }
    let table = if imm == 0 { &mut cpu.gdtr } else { &mut cpu.idtr };
    table.base = a;
    table.limit = b as u32 & 0xffff;
    Ok(0)
}

/// `Sys::StoreTable`.
fn store_table(cpu: &mut Cpu, _: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    Ok(match imm {
        0 => cpu.gdtr.base,
        1 => u64::from(cpu.gdtr.limit),
        2 => cpu.idtr.base,
        _ => u64::from(cpu.idtr.limit),
    })
}

/// `Sys::Invlpg`.
fn invlpg(cpu: &mut Cpu, a: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    privileged(cpu)?;
    let linear = cpu.wrap(a);
    if !cpu.long_mode() || Cpu::canonical(linear) {
        paging::flush_page(cpu, linear);
    }
    Ok(0)
}

/// `Sys::Wbinvd`: caches are not modelled.
fn wbinvd(cpu: &mut Cpu, _: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    privileged(cpu)?;
    Ok(0)
}

/// `Sys::Pause`: whom the guest waits for may need the host's processor.
fn pause(cpu: &mut Cpu, _: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    if cpu.cpus > 1 {
        cpu.machine().pause();
    }
    Ok(0)
}
