//! Integer operations with their flags, as Intel SDM volume 2 defines the instructions of the same names. Where it leaves
//! a flag undefined, this follows what processors do.

use bulkhead_ir::{Alu, FLAG_A, FLAG_C, FLAG_O, FLAG_P, FLAG_S, FLAG_Z, Shift, Unary, W8, W32, W64};

use super::{mask, sign_extend};
use crate::state::CoreState;

const CF: u32 = 1 << 0;
const PF: u32 = 1 << 2;
const AF: u32 = 1 << 4;
const ZF: u32 = 1 << 6;
const SF: u32 = 1 << 7;
const OF: u32 = 1 << 11;

/// EFLAGS positions of a set of IR flags.
pub(super) fn eflags_mask(flags: u8) -> u32 {
    [(FLAG_C, CF), (FLAG_P, PF), (FLAG_A, AF), (FLAG_Z, ZF), (FLAG_S, SF), (FLAG_O, OF)]
        .into_iter()
        .filter(|(f, _)| flags & f != 0)
        .fold(0, |m, (_, bit)| m | bit)
}

/// Whether the condition code holds.
pub(super) fn test(core: &CoreState, code: u8) -> bool {
    let f = core.cc_eflags();
    let has = |m: u32| f & m != 0;
    let base = match (code >> 1) & 7 {
        0 => has(OF),
        1 => has(CF),
        2 => has(ZF),
        3 => has(CF | ZF),
        4 => has(SF),
        5 => has(PF),
        6 => has(SF) != has(OF),
        _ => has(ZF) || has(SF) != has(OF),
    };
    base != (code & 1 != 0)
}

fn bits(w: u8) -> u32 {
    8 << w.min(W64)
}

fn sign(value: u64, w: u8) -> bool {
    value >> (bits(w) - 1) & 1 != 0
}

/// Zero, sign and parity of a result.
fn zsp(r: u64, w: u8) -> u32 {
    let r = r & mask(w);
    let mut f = 0;
    if r == 0 {
        f |= ZF;
    }
    if sign(r, w) {
        f |= SF;
    }
    if (r as u8).count_ones().is_multiple_of(2) {
        f |= PF;
    }
    f
}

fn flag(condition: bool, bit: u32) -> u32 {
    if condition { bit } else { 0 }
}

/// Replaces the flags in `defined`.
fn merge(core: &mut CoreState, defined: u32, value: u32) {
    let old = core.cc_eflags();
    core.set_cc_eflags(old & !defined | value & defined);
}

const ALL: u32 = CF | PF | AF | ZF | SF | OF;

pub(crate) fn alu(core: &mut CoreState, kind: u8, w: u8, a: u64, b: u64, sets: bool) -> u64 {
    let m = mask(w);
    let (a, b) = (a & m, b & m);
    let carry = u64::from(core.cc_eflags() & CF);
    let (r, f) = match kind {
        k if k == Alu::Add as u8 => add(a, b, 0, w),
        k if k == Alu::Adc as u8 => add(a, b, carry, w),
        k if k == Alu::Sub as u8 => sub(a, b, 0, w),
        k if k == Alu::Sbb as u8 => sub(a, b, carry, w),
        k if k == Alu::Or as u8 => (a | b, zsp(a | b, w)),
        k if k == Alu::And as u8 => (a & b, zsp(a & b, w)),
        _ => (a ^ b, zsp(a ^ b, w)),
    };
    if sets {
        merge(core, ALL, f);
    }
    r
}

fn add(a: u64, b: u64, carry: u64, w: u8) -> (u64, u32) {
    let wide = u128::from(a) + u128::from(b) + u128::from(carry);
    let r = wide as u64 & mask(w);
    let f = zsp(r, w)
        | flag(wide >> bits(w) != 0, CF)
        | flag((a ^ b ^ r) & 0x10 != 0, AF)
        | flag(sign((a ^ r) & (b ^ r), w), OF);
    (r, f)
}

fn sub(a: u64, b: u64, borrow: u64, w: u8) -> (u64, u32) {
    let r = a.wrapping_sub(b).wrapping_sub(borrow) & mask(w);
    let f = zsp(r, w)
        | flag(u128::from(a) < u128::from(b) + u128::from(borrow), CF)
        | flag((a ^ b ^ r) & 0x10 != 0, AF)
        | flag(sign((a ^ b) & (a ^ r), w), OF);
    (r, f)
}

pub(super) fn shift(core: &mut CoreState, kind: u8, w: u8, a: u64, count: u64, sets: bool) -> u64 {
    let n = bits(w);
    let count = count as u32 & if w == W64 { 63 } else { 31 };
    let a = a & mask(w);
    if count == 0 {
        return a;
    }
    let carry_in = u64::from(core.cc_eflags() & CF);
    let (r, defined, f) = match kind {
        k if k == Shift::Rol as u8 => {
            let c = count % n;
            let r = if c == 0 { a } else { (a << c | a >> (n - c)) & mask(w) };
            let cf = r & 1 != 0;
            (r, CF | OF, flag(cf, CF) | flag(sign(r, w) != cf, OF))
        }
        k if k == Shift::Ror as u8 => {
            let c = count % n;
            let r = if c == 0 { a } else { (a >> c | a << (n - c)) & mask(w) };
            (r, CF | OF, flag(sign(r, w), CF) | flag(sign(r ^ (r << 1), w), OF))
        }
        k if k == Shift::Rcl as u8 || k == Shift::Rcr as u8 => {
            let c = count % (n + 1);
            if c == 0 {
                return a;
            }
            // The operand with the carry above it, rotated within n + 1 bits.
            let wide = u128::from(a) | u128::from(carry_in) << n;
            let left = if k == Shift::Rcl as u8 { c } else { n + 1 - c };
            let all = (1u128 << (n + 1)) - 1;
            let wide = (wide << left | wide >> (n + 1 - left)) & all;
            let r = wide as u64 & mask(w);
            let cf = wide >> n & 1 != 0;
            let of = if k == Shift::Rcl as u8 { sign(r, w) != cf } else { sign(r ^ (r << 1), w) };
            (r, CF | OF, flag(cf, CF) | flag(of, OF))
        }
        k if k == Shift::Shl as u8 => {
            let wide = u128::from(a) << count;
            let r = wide as u64 & mask(w);
            let cf = wide >> n & 1 != 0;
            (r, ALL, zsp(r, w) | flag(cf, CF) | flag(sign(r, w) != cf, OF))
        }
        k if k == Shift::Shr as u8 => {
            let r = a >> count;
            let cf = a >> (count - 1) & 1 != 0;
            (r, ALL, zsp(r, w) | flag(cf, CF) | flag(sign(r ^ (r << 1), w), OF))
        }
        _ => {
            let s = sign_extend(a, w) as i64;
            let r = (s >> count) as u64 & mask(w);
            let cf = (s >> (count - 1)) & 1 != 0;
            (r, ALL, zsp(r, w) | flag(cf, CF))
        }
    };
    if sets {
        merge(core, defined, f);
    }
    r
}

pub(super) fn dshift(core: &mut CoreState, right: u8, w: u8, a: u64, b: u64, count: u64) -> u64 {
    let n = bits(w);
    let count = count as u32 & if w == W64 { 63 } else { 31 };
    let (a, b) = (a & mask(w), b & mask(w));
    if count == 0 {
        return a;
    }
    let (r, cf) = if right == 0 {
        // a:b as one number, shifted left; a 16-bit count above 16 goes on into a again, as processors do.
        let wide = u128::from(a) << n | u128::from(b);
        let wide = if w == W32 || w == W64 { wide } else { wide << n | u128::from(a) };
        let top = if w == W32 || w == W64 { 2 * n } else { 3 * n };
        ((wide << count >> (top - n)) as u64, wide >> (top - count) & 1 != 0)
    } else {
        let wide = u128::from(b) << n | u128::from(a);
        let wide = if w == W32 || w == W64 { wide } else { wide | u128::from(a) << (2 * n) };
        ((wide >> count) as u64, wide >> (count - 1) & 1 != 0)
    };
    let r = r & mask(w);
    let of = if right == 0 { sign(r, w) != cf } else { sign(r ^ (r << 1), w) };
    merge(core, ALL, zsp(r, w) | flag(cf, CF) | flag(of, OF));
    r
}

pub(super) fn unary(core: &mut CoreState, kind: u8, w: u8, a: u64, sets: bool) -> u64 {
    let a = a & mask(w);
    let (r, defined, f) = match kind {
        k if k == Unary::Not as u8 => (!a & mask(w), 0, 0),
        k if k == Unary::Neg as u8 => {
            let (r, f) = sub(0, a, 0, w);
            (r, ALL, f)
        }
        k if k == Unary::Inc as u8 => {
            let (r, f) = add(a, 1, 0, w);
            (r, ALL & !CF, f)
        }
        k if k == Unary::Dec as u8 => {
            let (r, f) = sub(a, 1, 0, w);
            (r, ALL & !CF, f)
        }
        _ => (if w == W64 { a.swap_bytes() } else { u64::from((a as u32).swap_bytes()) }, 0, 0),
    };
    if sets {
        merge(core, defined, f);
    }
    r
}

/// Flags of a product: carry and overflow when the high half carries information, the rest from the low half.
fn product_flags(core: &mut CoreState, low: u64, w: u8, lost: bool) {
    merge(core, ALL, zsp(low, w) & !ZF | flag(lost, CF | OF));
}

pub(super) fn mul(core: &mut CoreState, w: u8, a: u64, b: u64, sets: bool) -> u64 {
    let wide = i128::from(sign_extend(a, w) as i64) * i128::from(sign_extend(b, w) as i64);
    let r = wide as u64 & mask(w);
    if sets {
        let lost = i128::from(sign_extend(r, w) as i64) != wide;
        product_flags(core, r, w, lost);
    }
    r
}

/// Low and high half. With `W8` the whole 16-bit product is the low one.
pub(super) fn mul_wide(core: &mut CoreState, signed: u8, w: u8, a: u64, b: u64) -> (u64, u64) {
    let (wide, lost) = if signed != 0 {
        let wide = i128::from(sign_extend(a, w) as i64) * i128::from(sign_extend(b, w) as i64);
        (wide as u128, i128::from(sign_extend(wide as u64, w) as i64) != wide)
    } else {
        let wide = u128::from(a & mask(w)) * u128::from(b & mask(w));
        (wide, wide >> bits(w) != 0)
    };
    let low = wide as u64 & mask(w);
    product_flags(core, low, w, lost);
    if w == W8 { (wide as u64 & 0xffff, 0) } else { (low, (wide >> bits(w)) as u64 & mask(w)) }
}

pub(super) fn bit(core: &mut CoreState, kind: u8, w: u8, a: u64, index: u64) -> u64 {
    let m = 1u64 << (index as u32 % bits(w));
    merge(core, CF, flag(a & m != 0, CF));
    let r = match kind {
        0 => a,
        1 => a | m,
        2 => a & !m,
        _ => a ^ m,
    };
    r & mask(w)
}

pub(super) fn scan(core: &mut CoreState, high: u8, w: u8, a: u64, old: u64) -> u64 {
    let a = a & mask(w);
    merge(core, ZF, flag(a == 0, ZF));
    if a == 0 {
        return old & mask(w);
    }
    u64::from(if high != 0 { 63 - a.leading_zeros() } else { a.trailing_zeros() })
}
