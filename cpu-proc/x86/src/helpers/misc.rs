//! Wide compare-and-exchange, `BOUND`, `ENTER`. Source: Intel SDM volume 2.

use bulkhead_engine::Fault;
use bulkhead_ir::FLAGS_ALL;

use super::ids::Sys;
use super::mem::{Stack, load, probe_write, store};
use super::segload::set_zf;
use super::{FAULTS, List, gp, raise, slot, vector};
use crate::helper;
use crate::state::{Cpu, reg};

/// Helpers of this topic.
pub const HELPERS: List = &[
    helper!(Sys::CmpxchgPair, cmpxchg_pair, FAULTS,
        reads: slot::RAX | slot::RBX | slot::RCX | slot::RDX,
        writes: slot::RAX | slot::RDX,
        flags_read: FLAGS_ALL,
        flags_written: FLAGS_ALL),
    helper!(Sys::Bound, bound, FAULTS),
    helper!(Sys::Enter, enter, FAULTS, reads: slot::RSP | slot::RBP, writes: slot::RSP | slot::RBP),
];

/// `Sys::CmpxchgPair`.
fn cmpxchg_pair(cpu: &mut Cpu, a: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let user = cpu.user();
    let s = cpu.core.slots;
    if imm == 0 {
        probe_write(cpu, a, 8, user)?;
        let old = load(cpu, a, 8, user)?;
        let expected = s[reg::RDX] << 32 | s[reg::RAX] & 0xffff_ffff;
        let equal = old == expected;
        let new = if equal { s[reg::RCX] << 32 | s[reg::RBX] & 0xffff_ffff } else { old };
        // The location is written in either case.
        store(cpu, a, 8, new, user)?;
        if !equal {
            cpu.set_gpr(reg::RAX, 4, old);
            cpu.set_gpr(reg::RDX, 4, old >> 32);
        }
        set_zf(cpu, equal);
        return Ok(0);
    }
    if a & 15 != 0 {
        return Err(gp(cpu, 0));
    }
    probe_write(cpu, a, 16, user)?;
    let low = load(cpu, a, 8, user)?;
    let high = load(cpu, a + 8, 8, user)?;
    let equal = low == s[reg::RAX] && high == s[reg::RDX];
    let (new_low, new_high) = if equal { (s[reg::RBX], s[reg::RCX]) } else { (low, high) };
    store(cpu, a, 8, new_low, user)?;
    store(cpu, a + 8, 8, new_high, user)?;
    if !equal {
        cpu.core.slots[reg::RAX] = low;
        cpu.core.slots[reg::RDX] = high;
    }
    set_zf(cpu, equal);
    Ok(0)
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
