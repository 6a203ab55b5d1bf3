//! Division, decimal adjustment and bit counts.

use bulkhead_engine::Fault;
use bulkhead_ir::{FLAG_C, FLAGS_ALL, W8, W16, W32};

use super::ids::Sys;
use super::{FAULTS, List, PURE, raise, slot, vector};
use crate::helper;
use crate::state::{Cpu, eflags};

/// Helper: number of set bits in `a`; flags as `POPCNT`.
pub const POPCNT: u16 = 120;
/// Helper: leading zeros of `a` at width `imm`; flags as `LZCNT`.
pub const LZCNT: u16 = 121;

/// Helper: CRC-32C of `b` of width `imm`, continued from `a`.
pub const CRC32: u16 = 122;
/// Helper: a random number of width `imm`; flags as `RDRAND`.
pub const RDRAND: u16 = 123;

/// This module's helpers.
pub const HELPERS: List = &[
    helper!(Sys::Div, div, FAULTS, reads: slot::RAX | slot::RDX, writes: slot::RAX | slot::RDX),
    helper!(Sys::Idiv, idiv, FAULTS, reads: slot::RAX | slot::RDX, writes: slot::RAX | slot::RDX),
    helper!(Sys::Decimal, decimal, PURE,
        reads: slot::RAX, writes: slot::RAX, flags_read: FLAGS_ALL, flags_written: FLAGS_ALL),
    helper!(Sys::Aam, aam, FAULTS, reads: slot::RAX, writes: slot::RAX, flags_written: FLAGS_ALL),
    helper!(Sys::Aad, aad, PURE, reads: slot::RAX, writes: slot::RAX, flags_written: FLAGS_ALL),
    helper!(POPCNT, popcnt, PURE, flags_written: FLAGS_ALL),
    helper!(LZCNT, lzcnt, PURE, flags_read: FLAGS_ALL & !(FLAG_C | bulkhead_ir::FLAG_Z), flags_written: FLAGS_ALL),
    helper!(CRC32, crc32, PURE),
    helper!(RDRAND, rdrand, PURE, flags_written: FLAGS_ALL),
];

const RAX: usize = 0;
const RDX: usize = 2;

/// Replaces the low `1 << w` bytes of slot `n`, with 32-bit zero extension.
pub(super) fn set_slot(cpu: &mut Cpu, n: usize, w: u8, value: u64) {
    if let Some(slot) = cpu.core.slots.get_mut(n) {
        *slot = match w {
            W8 => *slot & !0xff | value & 0xff,
            W16 => *slot & !0xffff | value & 0xffff,
            W32 => value & 0xffff_ffff,
            _ => value,
        };
    }
}

fn divide_error(cpu: &mut Cpu) -> Fault {
    raise(cpu, vector::DE, None)
}

/// The dividend's low and high half at width `w`.
fn dividend(cpu: &Cpu, w: u8) -> (u64, u64) {
    let (rax, rdx) = (cpu.core.slots[RAX], cpu.core.slots[RDX]);
    match w {
        W8 => (rax & 0xff, rax >> 8 & 0xff),
        W16 => (rax & 0xffff, rdx & 0xffff),
        W32 => (rax & 0xffff_ffff, rdx & 0xffff_ffff),
        _ => (rax, rdx),
    }
}

fn store_quotient(cpu: &mut Cpu, w: u8, quotient: u64, remainder: u64) {
    if w == W8 {
        set_slot(cpu, RAX, W16, quotient & 0xff | (remainder & 0xff) << 8);
    } else {
        set_slot(cpu, RAX, w, quotient);
        set_slot(cpu, RDX, w, remainder);
    }
}

fn div(cpu: &mut Cpu, a: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let w = imm as u8 & 3;
    let bits = 8u32 << w;
    let (low, high) = dividend(cpu, w);
    let divisor = if bits == 64 { a } else { a & ((1 << bits) - 1) };
    // The quotient fits exactly when the high half is below the divisor, which also covers a divisor of zero.
    if high >= divisor {
        return Err(divide_error(cpu));
    }
    let (quotient, remainder) = if bits == 64 && high != 0 {
        let n = u128::from(high) << 64 | u128::from(low);
        let d = u128::from(divisor);
        ((n / d) as u64, (n % d) as u64)
    } else {
        let n = if bits == 64 { low } else { high << bits | low };
        (n / divisor, n % divisor)
    };
    store_quotient(cpu, w, quotient, remainder);
    Ok(0)
}

fn idiv(cpu: &mut Cpu, a: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let w = imm as u8 & 3;
    let bits = 8u32 << w;
    let (low, high) = dividend(cpu, w);
    let unused = 64 - bits;
    let divisor = i128::from((a << unused) as i64 >> unused);
    let high = i128::from((high << unused) as i64 >> unused);
    let n = high << bits | i128::from(low);
    let result = n.checked_div(divisor).zip(n.checked_rem(divisor));
    let Some((quotient, remainder)) = result else { return Err(divide_error(cpu)) };
    let limit = 1i128 << (bits - 1);
    if quotient < -limit || quotient >= limit {
        return Err(divide_error(cpu));
    }
    store_quotient(cpu, w, quotient as u64, remainder as u64);
    Ok(0)
}

/// SF, ZF and PF of a byte, in EFLAGS positions.
fn result_flags(byte: u8) -> u32 {
    let mut flags = 0;
    if byte & 0x80 != 0 {
        flags |= eflags::SF;
    }
    if byte == 0 {
        flags |= eflags::ZF;
    }
    if byte.count_ones().is_multiple_of(2) {
        flags |= eflags::PF;
    }
    flags
}

/// `DAA`, `DAS`, `AAA`, `AAS` as in the SDM's pseudo-code, volume 2.
fn decimal(cpu: &mut Cpu, _: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let old = cpu.core.cc_eflags();
    let ax = cpu.core.slots[RAX] as u16;
    let al = ax as u8;
    let low_adjust = al & 15 > 9 || old & eflags::AF != 0;
    let mut flags = 0;
    if low_adjust {
        flags |= eflags::AF;
    }
    match imm {
        0 | 1 => {
            let subtract = imm == 1;
            let adjusted = |value: u8, by: u8| {
                if subtract { value.wrapping_sub(by) } else { value.wrapping_add(by) }
            };
            let mut result = al;
            if low_adjust {
                let carry = if subtract { al < 6 } else { al > 0xf9 };
                if carry || old & eflags::CF != 0 {
                    flags |= eflags::CF;
                }
                result = adjusted(result, 6);
            }
            if al > 0x99 || old & eflags::CF != 0 {
                result = adjusted(result, 0x60);
                flags |= eflags::CF;
            } else if !subtract {
                flags &= !eflags::CF;
            }
            flags |= result_flags(result);
            set_slot(cpu, RAX, W8, u64::from(result));
        }
        _ => {
            let mut result = ax;
            if low_adjust {
                flags |= eflags::CF;
                result =
                    if imm == 2 { ax.wrapping_add(0x106) } else { ax.wrapping_sub(6).wrapping_sub(0x100) };
            }
            result &= 0xff0f;
            flags |= result_flags(result as u8);
            set_slot(cpu, RAX, W16, u64::from(result));
        }
    }
    cpu.core.set_cc_eflags(flags);
    Ok(0)
}

fn aam(cpu: &mut Cpu, _: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let al = cpu.core.slots[RAX] as u8;
    let base = imm as u8;
    let (Some(high), Some(low)) = (al.checked_div(base), al.checked_rem(base)) else {
        return Err(divide_error(cpu));
    };
    set_slot(cpu, RAX, W16, u64::from(high) << 8 | u64::from(low));
    cpu.core.set_cc_eflags(result_flags(low));
    Ok(0)
}

fn aad(cpu: &mut Cpu, _: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let ax = cpu.core.slots[RAX] as u16;
    let (al, ah) = (ax as u8, (ax >> 8) as u8);
    let result = al.wrapping_add(ah.wrapping_mul(imm as u8));
    set_slot(cpu, RAX, W16, u64::from(result));
    cpu.core.set_cc_eflags(result_flags(result));
    Ok(0)
}

fn popcnt(cpu: &mut Cpu, a: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    cpu.core.set_cc_eflags(if a == 0 { eflags::ZF } else { 0 });
    Ok(u64::from(a.count_ones()))
}

fn lzcnt(cpu: &mut Cpu, a: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let bits = 8u32 << (imm & 3);
    let zeros = a.leading_zeros().saturating_sub(64 - bits);
    let mut flags = cpu.core.cc_eflags() & !(eflags::CF | eflags::ZF);
    if a == 0 {
        flags |= eflags::CF;
    }
    if zeros == 0 {
        flags |= eflags::ZF;
    }
    cpu.core.set_cc_eflags(flags);
    Ok(u64::from(zeros))
}

/// `CRC32`: the Castagnoli polynomial, bits reflected (SDM volume 2).
fn crc32(_: &mut Cpu, a: u64, b: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut crc = a as u32;
    for byte in b.to_le_bytes().iter().take(1 << (imm & 3)) {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 != 0 { POLYNOMIAL } else { 0 };
        }
    }
    Ok(u64::from(crc))
}

/// `RDRAND`: the host's own; CF tells whether there was one.
fn rdrand(cpu: &mut Cpu, _: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let (mut value, mut good) = (0u64, 0u8);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: models have the instruction only where the host does (`cpuid::available`); it changes registers and flags only.
    unsafe {
        std::arch::asm!("rdrand {}", "setc {}", out(reg) value, out(reg_byte) good, options(nomem, nostack));
    }
    let bits = 8u32 << (imm & 3);
    cpu.core.set_cc_eflags(if good != 0 { eflags::CF } else { 0 });
    Ok(if good != 0 { value & (u64::MAX >> (64 - bits)) } else { 0 })
}
