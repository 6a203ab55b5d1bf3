//! SSE control and status, unmasked SIMD exceptions, and the few SSE instructions too irregular for the IR.
//!
//! The engine runs guest SSE under `core.mxcsr`: the guest's value with all exceptions masked (see
//! `bulkhead_engine::mxcsr`). `cpu.mxcsr_guest` holds what the guest wrote; flags raised since are in the engine's value and
//! are merged on reading.
//!
//! Source: Intel SDM volume 1 sections 10.2.3 and 11.5, volume 2.

use bulkhead_engine::{Fault, mxcsr};

use super::fp_mem::write_masked;
use super::segload::check_limit;
use super::{gp, raise, vector};
use crate::state::{Cpu, cr4};

/// Bits of MXCSR that exist (denormals-are-zero included).
pub const MXCSR_MASK: u32 = 0xffff;
/// The six exception masks.
const MASKS: u32 = 0x1f80;
/// The six exception flags.
const FLAGS: u32 = 0x3f;
/// Invalid, denormal, divide by zero: found before a result exists.
const EARLY: u32 = 0x07;
/// Underflow.
const UNDERFLOW: u32 = 1 << 4;

impl Cpu {
    /// MXCSR as the guest reads it.
    pub fn mxcsr(&mut self) -> u32 {
        self.mxcsr_guest | mxcsr::read(&mut self.core) & FLAGS
    }

    /// Writes MXCSR; `value` has no reserved bits.
    pub fn set_mxcsr(&mut self, value: u32) {
        self.mxcsr_guest = value & MXCSR_MASK;
        mxcsr::write(&mut self.core, self.mxcsr_guest | MASKS);
        self.update_key();
    }
}

/// `Fp::Ldmxcsr`.
pub fn load_mxcsr(cpu: &mut Cpu, a: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    let value = a as u32;
    if value & !MXCSR_MASK != 0 {
        return Err(gp(cpu, 0));
    }
    cpu.set_mxcsr(value);
    Ok(0)
}

/// `Fp::Stmxcsr`.
pub fn store_mxcsr(cpu: &mut Cpu, _: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    Ok(u64::from(cpu.mxcsr()))
}

/// `Fp::SseArm`: from here on the hardware flags are those of one instruction.
pub fn arm(cpu: &mut Cpu, _: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    let value = mxcsr::read(&mut cpu.core);
    cpu.mxcsr_guest |= value & FLAGS;
    mxcsr::write(&mut cpu.core, value & !FLAGS);
    Ok(0)
}

/// What may be a tiny result, for [`check`]: an unmasked underflow is raised by exact denormal results too, which the
/// masked instruction does not flag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Tiny {
    /// The operation cannot underflow.
    Never,
    /// Low single.
    Single,
    /// Low double.
    Double,
    /// Four singles.
    Singles,
    /// Two doubles.
    Doubles,
}

fn denormal32(bits: u32) -> bool {
    bits & 0x7f80_0000 == 0 && bits & 0x7f_ffff != 0
}

fn denormal64(bits: u64) -> bool {
    bits & 0x7ff0_0000_0000_0000 == 0 && bits << 12 != 0
}

fn is_tiny(kind: u64, value: u128) -> bool {
    let single = |i: u32| denormal32((value >> (32 * i)) as u32);
    let double = |i: u32| denormal64((value >> (64 * i)) as u64);
    match kind {
        1 => single(0),
        2 => double(0),
        3 => (0..4).any(single),
        4 => (0..2).any(double),
        _ => false,
    }
}

/// `Fp::SseCheck`: raises `#XM` (`#UD` unless CR4.OSXMMEXCPT) when the instruction since [`arm`] set an unmasked flag.
pub fn check(cpu: &mut Cpu, _: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let hardware = mxcsr::read(&mut cpu.core);
    let mut flags = hardware & FLAGS;
    let open = !(cpu.mxcsr_guest >> 7) & FLAGS;
    let slot = (imm >> 8) as usize & 31;
    let result = cpu.core.vec.get(slot).map_or(0, |v| u128::from_le_bytes(*v));
    if open & UNDERFLOW != 0 && is_tiny(imm & 7, result) {
        flags |= UNDERFLOW;
    }
    if flags & open & EARLY != 0 {
        flags &= EARLY;
    }
    cpu.mxcsr_guest |= flags;
    mxcsr::write(&mut cpu.core, hardware & !FLAGS);
    if flags & open == 0 {
        return Ok(0);
    }
    let number = if cpu.cr4 & cr4::OSXMMEXCPT != 0 { vector::XM } else { vector::UD };
    Err(raise(cpu, number, None))
}

/// Of `Fp::MaskMove`: no limit applies.
pub const UNLIMITED: u64 = 7;

/// `Fp::MaskMove`: bytes of the data register whose mask byte has its top bit set go to linear address `a`, the first of which is inside
/// its segment; the others are looked at here. `imm`: data register, mask register << 4, MMX << 8, segment or [`UNLIMITED`] << 9.
pub fn mask_move(cpu: &mut Cpu, a: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let (data, mask) = (imm as usize & 15, (imm >> 4) as usize & 15);
    let media = imm & 0x100 != 0;
    let (file, size): (&[[u8; 16]], usize) = if media { (&cpu.core.media, 8) } else { (&cpu.core.vec, 16) };
    let value = file.get(data).copied().unwrap_or_default();
    let select = file.get(mask).copied().unwrap_or_default();
    let (segment, last) = (imm >> 9 & 7, select[..size].iter().rposition(|byte| byte & 0x80 != 0));
    if segment != UNLIMITED
        && let Some(last) = last
    {
        check_limit(cpu, segment as usize, a.wrapping_add(last as u64))?;
    }
    write_masked(cpu, a, &value[..size], &select[..size])?;
    Ok(0)
}

/// `Fp::BitField`. A length of zero means 64. Source: AMD64 APM volume 4, `EXTRQ`, `INSERTQ`; the high quadword of the result is undefined
/// and becomes zero as on the processor.
pub fn bit_field(cpu: &mut Cpu, _: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let (d, a) = ((imm >> 16) as usize & 15, (imm >> 20) as usize & 15);
    let value =
        |cpu: &Cpu, slot: usize| u128::from_le_bytes(cpu.core.vec.get(slot).copied().unwrap_or_default());
    let (old, other) = (value(cpu, d), value(cpu, a));
    let inserts = imm >> 27 & 1 != 0;
    let control = match (imm >> 26 & 1 != 0, inserts) {
        (true, _) => imm,
        (false, false) => other as u64,
        (false, true) => (other >> 64) as u64,
    };
    let (length, index) = (control as u32 & 63, (control >> 8) as u32 & 63);
    let mask = u64::MAX >> ((64 - length) & 63);
    let low = if inserts {
        old as u64 & !(mask << index) | (other as u64 & mask) << index
    } else {
        old as u64 >> index & mask
    };
    if let Some(slot) = cpu.core.vec.get_mut(d) {
        *slot = u128::from(low).to_le_bytes();
    }
    Ok(0)
}
