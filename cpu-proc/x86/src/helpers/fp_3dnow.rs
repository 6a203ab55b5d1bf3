//! 3DNow!: pairs of singles in the MMX registers, in software since no host has it any more.
//!
//! Results are rounded to nearest, denormals are zero on both sides, what overflows becomes the largest number. The approximations
//! give the whole result at once and their iterations pass it on, which the sequences of the manual refine to the same.
//!
//! Source: AMD "3DNow! Technology Manual" (21928), "AMD Extensions to the 3DNow! and MMX Instruction Sets" (22466).

use bulkhead_engine::Fault;

use crate::state::Cpu;

/// The operation of an opcode suffix on destination and source; `None` for suffixes that do not exist.
fn operate(suffix: u8, d: u64, s: u64) -> Option<u64> {
    Some(match suffix {
        0x0c => each(s, |v| single(f32::from(v as i16))),
        0x0d => each(s, |v| truncated(v as i32)),
        0x1c => each(s, |v| i32::from(value(v).clamp(-32768.0, 32767.0) as i16) as u32),
        0x1d => each(s, |v| value(v) as i32 as u32),
        // The iterations of reciprocals and roots.
        0xa6 | 0xa7 | 0xb6 => s,
        0x8a => pair(sub(low(d), high(d)), sub(low(s), high(s))),
        0x8e => pair(sub(low(d), high(d)), add(low(s), high(s))),
        0x90 => compare(d, s, |a, b| a >= b),
        0x94 => zip(d, s, |a, b| if value(b) < value(a) { single(value(b)) } else { single(value(a)) }),
        0x96 => both(single(1.0 / value(low(s)))),
        0x97 => both(root(low(s))),
        0x9a => zip(d, s, sub),
        0x9e => zip(d, s, add),
        0xa0 => compare(d, s, |a, b| a > b),
        0xa4 => zip(d, s, |a, b| if value(b) > value(a) { single(value(b)) } else { single(value(a)) }),
        0xaa => zip(d, s, |a, b| sub(b, a)),
        0xae => pair(add(low(d), high(d)), add(low(s), high(s))),
        0xb0 => compare(d, s, |a, b| a == b),
        0xb4 => zip(d, s, |a, b| single(value(a) * value(b))),
        0xb7 => words(d, s),
        0xbb => s.rotate_left(32),
        0xbf => bytes(d, s),
        _ => return None,
    })
}

fn low(v: u64) -> u32 {
    v as u32
}

fn high(v: u64) -> u32 {
    (v >> 32) as u32
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn both(v: u32) -> u64 {
    pair(v, v)
}

fn each(s: u64, f: impl Fn(u32) -> u32) -> u64 {
    pair(f(low(s)), f(high(s)))
}

fn zip(d: u64, s: u64, f: impl Fn(u32, u32) -> u32) -> u64 {
    pair(f(low(d), low(s)), f(high(d), high(s)))
}

/// The number of an operand: denormals are zero.
fn value(bits: u32) -> f32 {
    if bits & 0x7f80_0000 == 0 { f32::from_bits(bits & 0x8000_0000) } else { f32::from_bits(bits) }
}

/// A result: nothing smaller than a normal number, nothing larger than the largest.
fn single(v: f32) -> u32 {
    let bits = v.to_bits();
    match bits & 0x7f80_0000 {
        0 => bits & 0x8000_0000,
        0x7f80_0000 => bits & 0x8000_0000 | 0x7f7f_ffff,
        _ => bits,
    }
}

fn add(a: u32, b: u32) -> u32 {
    single(value(a) + value(b))
}

fn sub(a: u32, b: u32) -> u32 {
    single(value(a) - value(b))
}

/// Reciprocal square root of the magnitude, with the operand's sign.
fn root(v: u32) -> u32 {
    single(1.0 / f32::from_bits(v & 0x7fff_ffff).sqrt()) | v & 0x8000_0000
}

/// `PI2FD` rounds towards zero.
fn truncated(v: i32) -> u32 {
    let magnitude = v.unsigned_abs();
    let extra = 8u32.saturating_sub(magnitude.leading_zeros());
    single((magnitude >> extra << extra) as f32) | if v < 0 { 0x8000_0000 } else { 0 }
}

fn compare(d: u64, s: u64, holds: impl Fn(f32, f32) -> bool) -> u64 {
    zip(d, s, |a, b| if holds(value(a), value(b)) { u32::MAX } else { 0 })
}

/// `PMULHRW`: rounded upper halves of the signed products.
fn words(d: u64, s: u64) -> u64 {
    (0..4).fold(0, |v, i| {
        let word = |v: u64| i32::from((v >> (16 * i)) as i16);
        v | u64::from((word(d).wrapping_mul(word(s)).wrapping_add(0x8000) >> 16) as u16) << (16 * i)
    })
}

/// `PAVGUSB`: rounded averages.
fn bytes(d: u64, s: u64) -> u64 {
    (0..8).fold(0, |v, i| {
        let byte = |v: u64| v >> (8 * i) & 0xff;
        v | ((byte(d) + byte(s) + 1) >> 1) << (8 * i)
    })
}

/// `Fp::ThreeDNow`: the operation of suffix `imm & 0xff` on register `imm >> 8 & 7` and operand `a`.
pub fn three_d_now(cpu: &mut Cpu, a: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let Some(slot) = cpu.core.media.get_mut((imm >> 8) as usize & 7) else { return Err(Fault) };
    let old = u128::from_le_bytes(*slot) as u64;
    // The lowering names existing operations only.
    let new = operate(imm as u8, old, a).unwrap_or(old);
    *slot = (u128::from(new) | 0xffff << 64).to_le_bytes();
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(low: f32, high: f32) -> u64 {
        pair(low.to_bits(), high.to_bits())
    }

    #[test]
    fn arithmetic_is_by_element_and_saturates() {
        let (d, s) = (floats(1.5, f32::MAX), floats(2.25, f32::MAX));
        assert_eq!(operate(0x9e, d, s), Some(floats(3.75, f32::MAX)));
        assert_eq!(operate(0x9a, d, s), Some(floats(-0.75, 0.0)));
        assert_eq!(operate(0xaa, d, s), Some(floats(0.75, 0.0)));
        assert_eq!(operate(0xb4, floats(3.0, 1e-30), floats(-2.0, 1e-30)), Some(floats(-6.0, 0.0)));
        assert_eq!(operate(0xae, floats(1.0, 2.0), floats(3.0, 4.0)), Some(floats(3.0, 7.0)));
        assert_eq!(operate(0x8e, floats(1.0, 2.0), floats(3.0, 4.0)), Some(floats(-1.0, 7.0)));
    }

    #[test]
    fn the_sequence_for_a_reciprocal_gives_it() {
        let x = floats(3.0, 0.0);
        let first = operate(0x96, 0, x).expect("PFRCP");
        let second = operate(0xa6, x, first).expect("PFRCPIT1");
        let third = operate(0xb6, second, first).expect("PFRCPIT2");
        assert_eq!(third, floats(1.0 / 3.0, 1.0 / 3.0));
    }

    #[test]
    fn conversions_truncate_and_saturate() {
        assert_eq!(operate(0x1d, 0, floats(-1.9, 3e9)), Some(pair(-1i32 as u32, 0x7fff_ffff)));
        assert_eq!(operate(0x1c, 0, floats(-40000.0, 7.9)), Some(pair(-32768i32 as u32, 7)));
        assert_eq!(operate(0x0d, 0, pair(0x7fff_ffff, -5i32 as u32)), Some(floats(2_147_483_520.0, -5.0)));
        assert_eq!(operate(0x0c, 0, pair(0xffff, 0x1_0002)), Some(floats(-1.0, 2.0)));
    }

    #[test]
    fn integer_operations_round() {
        assert_eq!(operate(0xbf, 0x01ff, 0x02ff), Some(0x02ff));
        assert_eq!(operate(0xb7, 0x4000, 0x0003), Some(0x0001));
        assert_eq!(operate(0xbb, 0, pair(1, 2)), Some(pair(2, 1)));
        assert_eq!(operate(0xff, 0, 0), None);
    }
}
