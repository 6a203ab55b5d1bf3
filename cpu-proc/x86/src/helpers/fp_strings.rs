//! `PCMPESTRI`, `PCMPESTRM`, `PCMPISTRI`, `PCMPISTRM`.
//!
//! Source: Intel SDM volume 2, section 4.1 (imm8 control byte operation).

use bulkhead_engine::Fault;

use crate::state::{Cpu, eflags};

/// The elements of a vector, sign- or zero-extended.
fn elements(value: [u8; 16], words: bool, signed: bool) -> ([i32; 16], usize) {
    let mut out = [0; 16];
    let count = if words { 8 } else { 16 };
    for (i, to) in out.iter_mut().take(count).enumerate() {
        let raw = u128::from_le_bytes(value) >> (if words { 16 } else { 8 } * i);
        *to = match (words, signed) {
            (false, false) => i32::from(raw as u8),
            (false, true) => i32::from(raw as i8),
            (true, false) => i32::from(raw as u16),
            (true, true) => i32::from(raw as i16),
        };
    }
    (out, count)
}

/// Explicit length: the absolute value, at most `count`.
fn explicit(register: u64, wide: bool, count: usize) -> usize {
    let signed = if wide { register as i64 } else { i64::from(register as i32) };
    signed.unsigned_abs().min(count as u64) as usize
}

/// `Fp::StringCompare`.
pub fn string_compare(cpu: &mut Cpu, _: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let control = imm as u8;
    let (words, signed) = (control & 1 != 0, control & 2 != 0);
    let slot = |at: u32| cpu.core.vec.get((imm >> at) as usize & 31).copied().unwrap_or_default();
    let (a, count) = elements(slot(8), words, signed);
    let (b, _) = elements(slot(13), words, signed);
    let (a, b) = (a.get(..count).unwrap_or_default(), b.get(..count).unwrap_or_default());
    let (len_a, len_b) = if imm & 1 << 18 != 0 {
        let end = |v: &[i32]| v.iter().position(|e| *e == 0).unwrap_or(count);
        (end(a), end(b))
    } else {
        let wide = imm & 1 << 20 != 0;
        (explicit(cpu.core.slots[0], wide, count), explicit(cpu.core.slots[2], wide, count))
    };
    let valid_a = a.get(..len_a).unwrap_or_default();
    let valid_b = b.get(..len_b).unwrap_or_default();
    let holds = |j: usize| -> bool {
        let here = valid_b.get(j);
        match control >> 2 & 3 {
            0 => here.is_some_and(|e| valid_a.contains(e)),
            1 => here.is_some_and(|e| {
                valid_a.chunks_exact(2).any(|range| matches!(range, [low, high] if low <= e && e <= high))
            }),
            2 => valid_a.get(j) == here,
            _ => valid_a.iter().take(count - j).enumerate().all(|(i, e)| valid_b.get(j + i) == Some(e)),
        }
    };
    let all = (1u32 << count) - 1;
    let plain = (0..count).fold(0u32, |bits, j| bits | u32::from(holds(j)) << j);
    let result = match control >> 4 & 3 {
        1 => !plain & all,
        3 => plain ^ ((1u32 << len_b) - 1),
        _ => plain,
    };

    let bit = |on: bool, flag: u32| if on { flag } else { 0 };
    let flags = bit(result != 0, eflags::CF)
        | bit(len_b < count, eflags::ZF)
        | bit(len_a < count, eflags::SF)
        | bit(result & 1 != 0, eflags::OF);
    cpu.core.set_cc_eflags(flags);

    let most = control & 0x40 != 0;
    if imm & 1 << 19 != 0 {
        let width = if words { 16 } else { 8 };
        let mask = match most {
            false => u128::from(result),
            true => (0..count).fold(0u128, |v, j| {
                if result >> j & 1 != 0 { v | ((1u128 << width) - 1) << (width * j) } else { v }
            }),
        };
        if let Some(to) = cpu.core.vec.first_mut() {
            *to = mask.to_le_bytes();
        }
        return Ok(0);
    }
    Ok(match (result, most) {
        (0, _) => count as u64,
        (r, false) => u64::from(r.trailing_zeros()),
        (r, true) => u64::from(31 - r.leading_zeros()),
    })
}
