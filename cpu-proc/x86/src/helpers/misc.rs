//! Wide compare-and-exchange, `BOUND`, `ENTER`. Source: Intel SDM volume 2.

use bulkhead_engine::{Fault, Privilege, atomic};
use bulkhead_ir::FLAGS_ALL;

use super::ids::Sys;
use super::mem::{Stack, load};
use super::segload::set_zf;
use super::{FAULTS, List, gp, raise, slot, ud, vector};
use crate::helper;
use crate::state::{Cpu, reg};

/// Helpers of this topic.
pub const HELPERS: List = &[
    helper!(Sys::CmpxchgPair, cmpxchg_pair, FAULTS,
        reads: slot::RAX | slot::RBX | slot::RCX | slot::RDX,
        writes: slot::RAX | slot::RDX,
        flags_read: FLAGS_ALL,
        flags_written: FLAGS_ALL),
    helper!(Sys::Locked, locked, FAULTS),
    helper!(Sys::Bound, bound, FAULTS),
    helper!(Sys::Enter, enter, FAULTS, reads: slot::RSP | slot::RBP, writes: slot::RSP | slot::RBP),
];

/// What a locked instruction makes of its memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locked {
    /// Its sum with the other operand.
    Add,
    /// Both.
    And,
    /// Either.
    Or,
    /// One of both.
    Xor,
    /// Its negative.
    Neg,
    /// The other operand.
    Swap,
    /// The other operand if it is as expected.
    CompareSwap,
}

const LOCKED: [Locked; 7] =
    [Locked::Add, Locked::And, Locked::Or, Locked::Xor, Locked::Neg, Locked::Swap, Locked::CompareSwap];

/// `Sys::Locked`.
fn locked(cpu: &mut Cpu, a: u64, b: u64, c: u64, imm: u64) -> Result<u64, Fault> {
    let size = 1u32 << (imm & 3);
    let mask = u64::MAX >> (64 - 8 * size);
    let Some(kind) = LOCKED.get((imm >> 4) as usize) else { return Err(ud(cpu)) };
    atomic::modify(&mut cpu.core, a, size, Privilege::Current, |old| match kind {
        Locked::Add => old.wrapping_add(b),
        Locked::And => old & b,
        Locked::Or => old | b,
        Locked::Xor => old ^ b,
        Locked::Neg => old.wrapping_neg(),
        Locked::Swap => b,
        Locked::CompareSwap if old == c & mask => b,
        Locked::CompareSwap => old,
    })
}

/// `Sys::CmpxchgPair`.
fn cmpxchg_pair(cpu: &mut Cpu, a: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let s = cpu.core.slots;
    let (size, low, high, new) = if imm == 0 {
        let pair = |high: u64, low: u64| high << 32 | low & 0xffff_ffff;
        (8, pair(s[reg::RDX], s[reg::RAX]), 0, (pair(s[reg::RCX], s[reg::RBX]), 0))
    } else {
        (16, s[reg::RAX], s[reg::RDX], (s[reg::RBX], s[reg::RCX]))
    };
    if size == 16 && a & 15 != 0 {
        return Err(gp(cpu, 0));
    }
    let old = exchange(cpu, a, size, (low, high), new)?;
    let equal = old == (low, high);
    if !equal {
        let (register_size, rdx) = if size == 8 { (4, old.0 >> 32) } else { (8, old.1) };
        cpu.set_gpr(reg::RAX, register_size, old.0);
        cpu.set_gpr(reg::RDX, register_size, rdx);
    }
    set_zf(cpu, equal);
    Ok(0)
}

/// Replaces 8 or 16 bytes at `at` by `new` when they are `expected`; the old value. They count as written in either case.
fn exchange(
    cpu: &mut Cpu,
    at: u64,
    size: u64,
    expected: (u64, u64),
    new: (u64, u64),
) -> Result<(u64, u64), Fault> {
    if size == 8 {
        let change = |old| if old == expected.0 { new.0 } else { old };
        return Ok((atomic::modify(&mut cpu.core, at, 8, Privilege::Current, change)?, 0));
    }
    let pair = |(low, high): (u64, u64)| u128::from(low) | u128::from(high) << 64;
    let old = atomic::compare_swap_16(&mut cpu.core, at, pair(expected), pair(new), Privilege::Current)?;
    Ok((old as u64, (old >> 64) as u64))
}

fn sign_extend(value: u64, size: u8) -> i64 {
    let shift = 64 - 8 * u32::from(size);
    (value << shift) as i64 >> shift
}

/// `Sys::Bound`.
fn bound(cpu: &mut Cpu, a: u64, b: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let size = if imm & 3 == 1 { 2 } else { 4 };
    let user = cpu.user();
    let lower = load(cpu, b, size, user)?;
    let at = cpu.wrap(b.wrapping_add(u64::from(size)));
    let upper = load(cpu, at, size, user)?;
    let index = sign_extend(a, size);
    if index < sign_extend(lower, size) || index > sign_extend(upper, size) {
        return Err(raise(cpu, vector::BR, None));
    }
    Ok(0)
}

/// `Sys::Enter`.
fn enter(cpu: &mut Cpu, _: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let size = 1u8 << (imm & 3);
    let level = imm >> 8 & 31;
    let frame = imm >> 16 & 0xffff;
    let mut stack = Stack::current(cpu);
    let mut outer = Stack { sp: cpu.core.slots[reg::RBP], ..stack };
    if level > 1 {
        // Where the frames overlap this reads what it has written, so it must not be begun twice: a store into its own block is refused
        // before there was any.
        let depths = (1..=level + 1).map(|n| n * u64::from(size));
        for depth in depths.chain([(level + 1) * u64::from(size) + frame]) {
            let mut place = stack;
            place.skip(depth.wrapping_neg());
            place.refuse_own_block(cpu, size)?;
        }
    }
    stack.push(cpu, size, outer.sp)?;
    let pointer = stack.sp;
    if level > 0 {
        for _ in 1..level {
            outer.skip(u64::from(size).wrapping_neg());
            let value = outer.peek(cpu, 0, size)?;
            stack.push(cpu, size, value)?;
        }
        stack.push(cpu, size, pointer)?;
    }
    stack.skip(frame.wrapping_neg());
    // The processor checks that the new top of stack can be written.
    stack.check_write(cpu, size)?;
    stack.commit(cpu);
    cpu.set_gpr(reg::RBP, size, pointer);
    Ok(0)
}
