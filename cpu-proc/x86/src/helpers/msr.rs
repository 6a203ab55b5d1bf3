//! Model-specific registers, the time-stamp counter, `CPUID`. Source: Intel SDM volume 4; AMD64 APM volume 2 appendix A;
//! AMD BKDG for family 0Fh.
//!
//! Cache-control registers (MTRR, PAT) are storage: memory types have no effect. Machine-check banks are storage and
//! never report anything. An unknown register raises #GP as on the processor.

use bulkhead_engine::{ApicAccess, Fault};

use super::control::privileged;
use super::ids::Sys;
use super::{FAULTS, List, PURE, gp, slot};
use crate::helper;
use crate::paging;
use crate::state::{Cpu, cr0, cr4, efer, reg, seg};

/// Helpers of this topic.
pub const HELPERS: List = &[
    helper!(Sys::Rdmsr, rdmsr, FAULTS, reads: slot::RCX, writes: slot::RAX | slot::RDX),
    helper!(Sys::Wrmsr, wrmsr, FAULTS, reads: slot::RAX | slot::RCX | slot::RDX),
    helper!(Sys::Rdtsc, rdtsc, FAULTS, writes: slot::RAX | slot::RCX | slot::RDX, reads: slot::RCX),
    helper!(Sys::Rdpmc, rdpmc, FAULTS, reads: slot::RCX, writes: slot::RAX | slot::RDX),
    helper!(Sys::Cpuid, cpuid, PURE,
        reads: slot::RAX | slot::RCX,
        writes: slot::RAX | slot::RBX | slot::RCX | slot::RDX),
];

/// Register numbers.
#[expect(missing_docs, reason = "the manuals' own names")]
pub mod number {
    pub const TSC: u32 = 0x10;
    pub const PLATFORM_ID: u32 = 0x17;
    pub const APIC_BASE: u32 = 0x1b;
    pub const EBL_CR_POWERON: u32 = 0x2a;
    pub const UCODE_WRITE: u32 = 0x79;
    pub const UCODE_REV: u32 = 0x8b;
    pub const FSB_FREQ: u32 = 0xcd;
    pub const MTRR_CAP: u32 = 0xfe;
    pub const BBL_CR_CTL: u32 = 0x119;
    pub const SYSENTER_CS: u32 = 0x174;
    pub const SYSENTER_ESP: u32 = 0x175;
    pub const SYSENTER_EIP: u32 = 0x176;
    pub const MCG_CAP: u32 = 0x179;
    pub const MCG_STATUS: u32 = 0x17a;
    pub const MCG_CTL: u32 = 0x17b;
    pub const PERF_STATUS: u32 = 0x198;
    pub const PERF_CTL: u32 = 0x199;
    pub const MISC_ENABLE: u32 = 0x1a0;
    pub const DEBUGCTL: u32 = 0x1d9;
    pub const MTRR_VAR: u32 = 0x200;
    pub const MTRR_FIX64K: u32 = 0x250;
    pub const MTRR_FIX16K: u32 = 0x258;
    pub const MTRR_FIX4K: u32 = 0x268;
    pub const PAT: u32 = 0x277;
    pub const MTRR_DEF_TYPE: u32 = 0x2ff;
    pub const MC0_CTL: u32 = 0x400;
    pub const TSC_DEADLINE: u32 = 0x6e0;
    pub const EFER: u32 = 0xc000_0080;
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const CSTAR: u32 = 0xc000_0083;
    pub const SFMASK: u32 = 0xc000_0084;
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub const TSC_AUX: u32 = 0xc000_0103;
}

/// Machine-check banks.
pub const MC_BANKS: usize = 10;
/// Variable MTRR pairs.
const MTRR_PAIRS: u32 = 8;
/// `MTRRcap`: 8 variable ranges, fixed ranges, write combining.
const MTRR_CAP: u64 = 0x508;
/// Microcode revision reported.
const MICROCODE: u64 = 0x0100_0065;
/// Reserved bits of `APIC_BASE`, that of the x2APIC mode among them: no model has it.
const APIC_BASE_RESERVED: u64 = 0x6ff;
/// `MISC_ENABLE` bits that stay set: fast strings.
const MISC_ENABLE_FIXED: u64 = 1;

const EDX_TSC: u32 = 1 << 4;
const EDX_MCE: u32 = 1 << 7;
const EDX_APIC: u32 = 1 << 9;
const EDX_SEP: u32 = 1 << 11;
const EDX_MTRR: u32 = 1 << 12;
const EDX_MCA: u32 = 1 << 14;
const EDX_PAT: u32 = 1 << 16;
const ECX_TSC_DEADLINE: u32 = 1 << 24;
const EXT_SYSCALL: u32 = 1 << 11;
const EXT_NX: u32 = 1 << 20;
const EXT_FFXSR: u32 = 1 << 25;
const EXT_RDTSCP: u32 = 1 << 27;
const EXT_LM: u32 = 1 << 29;

/// AMD registers that read as zero and ignore writes: performance counters and their selection, SYSCFG, HWCR, IORR, TOP_MEM, NB_CFG, MMIO
/// configuration, interrupt pending, TSEG, VM_CR, OSVW, the function units' configuration.
fn amd_ignored(index: u32) -> bool {
    matches!(
        index,
        0xc001_0000..=0xc001_0007
            | 0xc001_0010
            | 0xc001_0015..=0xc001_001f
            | 0xc001_0055
            | 0xc001_0058
            | 0xc001_0061..=0xc001_006b
            | 0xc001_0111..=0xc001_0117
            | 0xc001_0140
            | 0xc001_0141
            | 0xc001_1004
            | 0xc001_1005
            | 0xc001_100d
            | 0xc001_1020..=0xc001_102d
    )
}

/// Intel registers that read as zero and ignore writes.
fn intel_ignored(index: u32) -> bool {
    matches!(
        index,
        number::PLATFORM_ID
            | number::EBL_CR_POWERON
            | number::UCODE_WRITE
            | number::FSB_FREQ
            | number::BBL_CR_CTL
            | number::DEBUGCTL
            | 0x33
            | 0xc1
            | 0xc2
            | 0x186
            | 0x187
            | 0x3a
            | 0xe7
            | 0xe8
            | 0x19a..=0x19c | 0x1f2 | 0x1f3 | 0x1fc
    )
}

/// Storage of a fixed-range MTRR.
fn fixed_mtrr(index: u32) -> Option<usize> {
    match index {
        number::MTRR_FIX64K => Some(0),
        0x258 | 0x259 => Some((index - number::MTRR_FIX16K) as usize + 1),
        0x268..=0x26f => Some((index - number::MTRR_FIX4K) as usize + 3),
        _ => None,
    }
}

/// Whether a range can have this memory type: UC, WC, WT, WP or WB (SDM volume 3A table 12-8).
fn is_mtrr_type(code: u8) -> bool {
    matches!(code, 0 | 1 | 4..=6)
}

/// Whether there is the register that says where the local APIC is: from the P6 family on (SDM volume 4 table 2-2), also on models that do
/// not advertise one, since older guests look there for one that the firmware has switched off.
fn has_apic_base(cpu: &Cpu) -> bool {
    cpu.features[0] & EDX_APIC != 0 || cpu.model.family > 5
}

/// Reads register `index`; `None` when the model has none.
fn read(cpu: &mut Cpu, index: u32) -> Option<u64> {
    let [edx, ecx, ext, _] = cpu.features;
    let long = ext & EXT_LM != 0;
    let m = &cpu.msrs;
    Some(match index {
        number::TSC if edx & EDX_TSC != 0 => time_stamp(cpu),
        number::APIC_BASE if has_apic_base(cpu) => cpu.machine().apic(ApicAccess::ReadBase),
        number::UCODE_REV => {
            if cpu.model.is_intel() {
                1 << 32
            } else {
                MICROCODE
            }
        }
        number::MTRR_CAP if edx & EDX_MTRR != 0 => MTRR_CAP,
        number::SYSENTER_CS if edx & EDX_SEP != 0 => m.sysenter_cs,
        number::SYSENTER_ESP if edx & EDX_SEP != 0 => m.sysenter_esp,
        number::SYSENTER_EIP if edx & EDX_SEP != 0 => m.sysenter_eip,
        0 | 1 if edx & EDX_MCE != 0 => 0,
        number::MCG_CAP if edx & EDX_MCA != 0 => MC_BANKS as u64 | 1 << 8,
        number::MCG_STATUS if edx & EDX_MCA != 0 => m.mcg_status,
        number::MCG_CTL if edx & EDX_MCA != 0 => m.mcg_ctl,
        number::PERF_STATUS if cpu.model.is_intel() => 1000 << 32 | 1000,
        number::PERF_CTL if cpu.model.is_intel() => 1000,
        number::MISC_ENABLE if cpu.model.is_intel() => m.misc_enable | MISC_ENABLE_FIXED,
        number::MTRR_VAR..0x210 if edx & EDX_MTRR != 0 => {
            *m.mtrr_var.get((index - number::MTRR_VAR) as usize)?
        }
        number::PAT if edx & EDX_PAT != 0 => m.pat,
        number::MTRR_DEF_TYPE if edx & EDX_MTRR != 0 => m.mtrr_deftype,
        number::MC0_CTL..0x428 if edx & EDX_MCA != 0 => {
            *m.mc.as_flattened().get((index - number::MC0_CTL) as usize)?
        }
        number::TSC_DEADLINE if ecx & ECX_TSC_DEADLINE != 0 => cpu.machine().apic(ApicAccess::ReadDeadline),
        number::EFER if ext & (EXT_LM | EXT_NX | EXT_SYSCALL) != 0 => m.efer,
        number::STAR if ext & EXT_SYSCALL != 0 => m.star,
        number::LSTAR if long => m.lstar,
        number::CSTAR if long => m.cstar,
        number::SFMASK if long => m.sfmask,
        number::FS_BASE if long => cpu.segs[seg::FS].base,
        number::GS_BASE if long => cpu.segs[seg::GS].base,
        number::KERNEL_GS_BASE if long => m.kernel_gs_base,
        number::TSC_AUX if ext & EXT_RDTSCP != 0 => m.tsc_aux,
        _ => {
            if let Some(i) = fixed_mtrr(index).filter(|_| edx & EDX_MTRR != 0) {
                return m.mtrr_fix.get(i).copied();
            }
            if cpu.model.is_amd() && amd_ignored(index) || cpu.model.is_intel() && intel_ignored(index) {
                return Some(0);
            }
            return None;
        }
    })
}

/// Writes register `index`; `None` when the model has none or refuses the value.
fn write(cpu: &mut Cpu, index: u32, value: u64) -> Option<()> {
    let [edx, ecx, ext, _] = cpu.features;
    let long = ext & EXT_LM != 0;
    let canonical = Cpu::canonical(value).then_some(value);
    match index {
        number::TSC if edx & EDX_TSC != 0 => {
            let now = cpu.machine().tsc();
            cpu.msrs.tsc_offset = value.wrapping_sub(now);
            if ecx & ECX_TSC_DEADLINE != 0 {
                // One that is armed waits for the same value of the counter as before.
                let deadline = cpu.machine().apic(ApicAccess::ReadDeadline);
                write_deadline(cpu, deadline);
            }
        }
        number::TSC_DEADLINE if ecx & ECX_TSC_DEADLINE != 0 => write_deadline(cpu, value),
        number::APIC_BASE if has_apic_base(cpu) => {
            if value & APIC_BASE_RESERVED != 0 || value >> cpu.phys_bits() != 0 {
                return None;
            }
            cpu.machine().apic(ApicAccess::WriteBase(value));
            paging::flush_map(cpu);
        }
        number::UCODE_REV if cpu.model.is_intel() => {}
        0xc001_0020 if cpu.model.is_amd() => {}
        0 | 1 if edx & EDX_MCE != 0 => {}
        number::SYSENTER_CS if edx & EDX_SEP != 0 => cpu.msrs.sysenter_cs = value & 0xffff,
        number::SYSENTER_ESP if edx & EDX_SEP != 0 => cpu.msrs.sysenter_esp = canonical?,
        number::SYSENTER_EIP if edx & EDX_SEP != 0 => cpu.msrs.sysenter_eip = canonical?,
        number::MCG_STATUS if edx & EDX_MCA != 0 => cpu.msrs.mcg_status = value,
        number::MCG_CTL if edx & EDX_MCA != 0 => cpu.msrs.mcg_ctl = value,
        number::MISC_ENABLE if cpu.model.is_intel() => cpu.msrs.misc_enable = value,
        number::PERF_CTL if cpu.model.is_intel() => {}
        number::MTRR_VAR..0x210 if edx & EDX_MTRR != 0 => {
            // A base with its type, then a mask with its valid bit.
            let (reserved, memory_type) = if index & 1 == 0 { (0xf00, value as u8) } else { (0x7ff, 0) };
            if value & reserved != 0 || value >> cpu.phys_bits() != 0 || !is_mtrr_type(memory_type) {
                return None;
            }
            *cpu.msrs.mtrr_var.get_mut((index - number::MTRR_VAR) as usize)? = value;
        }
        number::PAT if edx & EDX_PAT != 0 => {
            // Types 2, 3 and above 7 are reserved.
            let valid = value.to_le_bytes().iter().all(|t| matches!(t, 0 | 1 | 4..=7));
            cpu.msrs.pat = valid.then_some(value)?;
        }
        number::MTRR_DEF_TYPE if edx & EDX_MTRR != 0 => {
            let valid = value & !0xcff == 0 && is_mtrr_type(value as u8);
            cpu.msrs.mtrr_deftype = valid.then_some(value)?;
        }
        number::MC0_CTL..0x428 if edx & EDX_MCA != 0 => {
            // The second of each four, a status, can only be cleared.
            if index & 3 == 1 && value != 0 {
                return None;
            }
            *cpu.msrs.mc.as_flattened_mut().get_mut((index - number::MC0_CTL) as usize)? = value;
        }
        number::EFER if ext & (EXT_LM | EXT_NX | EXT_SYSCALL) != 0 => write_efer(cpu, value)?,
        number::STAR if ext & EXT_SYSCALL != 0 => cpu.msrs.star = value,
        number::LSTAR if long => cpu.msrs.lstar = canonical?,
        number::CSTAR if long => cpu.msrs.cstar = canonical?,
        number::SFMASK if long => cpu.msrs.sfmask = value & 0xffff_ffff,
        number::FS_BASE if long => cpu.segs[seg::FS].base = canonical?,
        number::GS_BASE if long => cpu.segs[seg::GS].base = canonical?,
        number::KERNEL_GS_BASE if long => cpu.msrs.kernel_gs_base = canonical?,
        number::TSC_AUX if ext & EXT_RDTSCP != 0 => cpu.msrs.tsc_aux = value & 0xffff_ffff,
        _ => {
            if let Some(i) = fixed_mtrr(index).filter(|_| edx & EDX_MTRR != 0) {
                let valid = value.to_le_bytes().into_iter().all(is_mtrr_type);
                *cpu.msrs.mtrr_fix.get_mut(i)? = valid.then_some(value)?;
                return Some(());
            }
            let ignored =
                cpu.model.is_amd() && amd_ignored(index) || cpu.model.is_intel() && intel_ignored(index);
            return ignored.then_some(());
        }
    }
    Some(())
}

fn write_deadline(cpu: &mut Cpu, value: u64) {
    let now = cpu.machine().tsc();
    // Counter and deadline are unsigned (SDM volume 3, "TSC-Deadline Mode").
    let left = value.saturating_sub(now.wrapping_add(cpu.msrs.tsc_offset));
    let due = now.saturating_add(left);
    cpu.machine().apic(ApicAccess::WriteDeadline { value, due });
}

fn write_efer(cpu: &mut Cpu, value: u64) -> Option<()> {
    let ext = cpu.features[2];
    let known = [
        (EXT_SYSCALL, efer::SCE),
        (EXT_LM, efer::LME | efer::LMA),
        (EXT_NX, efer::NXE),
        (EXT_FFXSR, efer::FFXSR),
    ]
    .iter()
    .filter(|(bit, _)| ext & bit != 0)
    .fold(0, |mask, (_, bits)| mask | bits);
    if value & !known != 0 {
        return None;
    }
    let old = cpu.msrs.efer;
    if (old ^ value) & efer::LME != 0 && cpu.cr0 & cr0::PG != 0 {
        return None;
    }
    cpu.msrs.efer = value & !efer::LMA | old & efer::LMA;
    if (old ^ value) & efer::NXE != 0 && cpu.cr4 & cr4::PAE != 0 {
        paging::flush(cpu);
    }
    Some(())
}

/// `Sys::Rdmsr`.
fn rdmsr(cpu: &mut Cpu, _: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    privileged(cpu)?;
    let index = cpu.gpr32(reg::RCX);
    let Some(value) = read(cpu, index) else { return Err(gp(cpu, 0)) };
    cpu.set_gpr(reg::RAX, 4, value);
    cpu.set_gpr(reg::RDX, 4, value >> 32);
    Ok(0)
}

/// `Sys::Wrmsr`.
fn wrmsr(cpu: &mut Cpu, _: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    privileged(cpu)?;
    let index = cpu.gpr32(reg::RCX);
    let value = u64::from(cpu.gpr32(reg::RDX)) << 32 | u64::from(cpu.gpr32(reg::RAX));
    if write(cpu, index, value).is_none() {
        return Err(gp(cpu, 0));
    }
    cpu.update_key();
    Ok(0)
}

/// The guest's time-stamp counter.
pub fn time_stamp(cpu: &mut Cpu) -> u64 {
    let offset = cpu.msrs.tsc_offset;
    cpu.machine().tsc().wrapping_add(offset)
}

/// `Sys::Rdtsc`.
fn rdtsc(cpu: &mut Cpu, _: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    if cpu.cr4 & cr4::TSD != 0 && cpu.cpl != 0 {
        return Err(gp(cpu, 0));
    }
    let now = time_stamp(cpu);
    cpu.set_gpr(reg::RAX, 4, now);
    cpu.set_gpr(reg::RDX, 4, now >> 32);
    if imm != 0 {
        let aux = cpu.msrs.tsc_aux;
        cpu.set_gpr(reg::RCX, 4, aux);
    }
    Ok(0)
}

/// `Sys::Rdpmc`: counters exist in no model that is advertised; they read as zero where allowed.
fn rdpmc(cpu: &mut Cpu, _: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    if cpu.cr4 & cr4::PCE == 0 && cpu.cpl != 0 || cpu.gpr32(reg::RCX) & 0xbfff_ffff > 3 {
        return Err(gp(cpu, 0));
    }
    cpu.set_gpr(reg::RAX, 4, 0);
    cpu.set_gpr(reg::RDX, 4, 0);
    Ok(0)
}

/// `Sys::Cpuid`.
fn cpuid(cpu: &mut Cpu, _: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    let (leaf, subleaf) = (cpu.gpr32(reg::RAX), cpu.gpr32(reg::RCX));
    let [a, b, c, d] = crate::cpuid::leaf(cpu, leaf, subleaf);
    for (register, value) in [(reg::RAX, a), (reg::RBX, b), (reg::RCX, c), (reg::RDX, d)] {
        cpu.set_gpr(register, 4, u64::from(value));
    }
    Ok(0)
}

const _: () = assert!(MTRR_PAIRS as u64 == MTRR_CAP & 0xff);
