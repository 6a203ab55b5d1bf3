//! x87 instructions with a memory operand.
//!
//! Source: Intel SDM volume 2.

use bulkhead_engine::{Access, Fault, Privilege, mem};

use super::fp::bits::*;
use super::fp::{Dest, INDEFINITE, check_pending, merge, plain, run};
use super::fp_host::{self, ARITH_MEM, F80, HostOp, Io, op};
use super::fp_mem::write_bytes;
use super::fp_x87::{in_place, room};
use super::ud;
use crate::state::Cpu;

/// `Fp::X87Value`: the operand of 2, 4 or 8 bytes is `a`.
pub fn with_value(cpu: &mut Cpu, a: u64, b: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    check_pending(cpu)?;
    cpu.x87_track(imm);
    cpu.x87_track_data(b, imm);
    let escape = (imm >> 8) as usize & 7;
    let digit = (imm >> 3) as usize & 7;
    if escape & 1 == 0 {
        arithmetic(cpu, escape >> 1, digit, a);
        return Ok(0);
    }
    let host = match (escape, digit) {
        (1, 0) => op::LD_F32,
        (3, 0) => op::ILD_I32,
        (5, 0) => op::LD_F64,
        (7, 0) => op::ILD_I16,
        (7, 5) => op::ILD_I64,
        _ => return Err(ud(cpu)),
    };
    load(cpu, host, Io::new([0; 16], [0; 16], a));
    Ok(0)
}

fn arithmetic(cpu: &mut Cpu, format: usize, digit: usize, value: u64) {
    let compare = digit == 2 || digit == 3;
    if cpu.x87_empty(0) {
        let masked = cpu.x87_stack_fault(false);
        if compare {
            cpu.core.x87.status |= C0 | C2 | C3;
        }
        if !masked {
            return;
        }
        if !compare {
            cpu.x87_set(0, INDEFINITE);
        }
    } else if plain(cpu) {
        let mut value = value;
        let sw = in_place(cpu, ARITH_MEM[format & 3][digit & 7], 0, 0, &mut value);
        merge(cpu, sw, if compare { CC } else { C1 });
    } else {
        let mut io = Io::new(cpu.x87_st(0), [0; 16], value);
        let cc = if compare { CC } else { C1 };
        if !run(cpu, ARITH_MEM[format & 3][digit & 7], &mut io, Dest::Register, cc) {
            return;
        }
        if !compare {
            cpu.x87_set(0, io.a);
        }
    }
    if digit == 3 {
        cpu.x87_pop();
    }
}

fn load(cpu: &mut Cpu, host: HostOp, mut io: Io) {
    if !room(cpu) {
        return;
    }
    if plain(cpu) {
        // `ST(7)` is what the push makes `ST(0)`; the ten-byte forms have their operand in `b`.
        let to = cpu.x87_phys(7);
        let media = cpu.core.media.as_mut_ptr();
        // SAFETY: a register number is below 8; `io` is alive.
        let sw = unsafe { (host.plain)(media.add(to), &mut io.b, &mut io.m) };
        merge(cpu, sw, C1);
        cpu.core.x87.status &= !C1;
        cpu.core.x87.top = to as u32;
        cpu.core.x87.tags |= 1 << to;
        return;
    }
    if run(cpu, host, &mut io, Dest::Pushed, C1) {
        cpu.core.x87.status &= !C1;
        cpu.x87_push(io.a);
    }
}

/// How a store instruction works.
pub struct Store {
    /// The operation, in its popping form where there is no other.
    pub host: HostOp,
    /// Bytes written.
    size: usize,
    pops: bool,
    /// What an empty register stores.
    indefinite: u64,
}

const INT16: u64 = 0x8000;
const INT32: u64 = 0x8000_0000;
const INT64: u64 = 1 << 63;
const SINGLE: u64 = 0xffc0_0000;
const DOUBLE: u64 = 0xfff8_0000_0000_0000;

/// The store with this escape and digit.
pub fn store_form(escape: u8, digit: u8) -> Option<Store> {
    let (host, size, pops, indefinite): (HostOp, usize, bool, u64) = match (escape, digit) {
        (1, 2 | 3) => (op::ST_F32, 4, digit == 3, SINGLE),
        (5, 2 | 3) => (op::ST_F64, 8, digit == 3, DOUBLE),
        (3, 2 | 3) => (op::IST_I32, 4, digit == 3, INT32),
        (7, 2 | 3) => (op::IST_I16, 2, digit == 3, INT16),
        (7, 7) => (op::ISTP_I64, 8, true, INT64),
        (3, 1) => (op::ISTT_I32, 4, true, INT32),
        (5, 1) => (op::ISTT_I64, 8, true, INT64),
        (7, 1) => (op::ISTT_I16, 2, true, INT16),
        _ => return None,
    };
    Some(Store { host, size, pops, indefinite })
}

/// The truncating conversion that does the same as `form`, when the guest rounds towards zero and the host does not.
fn truncating(cpu: &mut Cpu, form: &Store) -> Option<HostOp> {
    const CHOP: u16 = 0xc00;
    let control = cpu.core.x87.control;
    if control & CHOP != CHOP || control & EXCEPTIONS != EXCEPTIONS || fp_host::control() & CHOP == CHOP {
        return None;
    }
    let host = match form.indefinite {
        INT16 => op::ISTT_I16,
        INT32 => op::ISTT_I32,
        INT64 => op::ISTT_I64,
        _ => return None,
    };
    fp_host::drop_flags(cpu.core.x87.status);
    Some(host)
}

/// `Fp::X87Mem`: stores, and the ten-byte loads.
///
/// The store comes before anything else changes, so that a page fault restarts the instruction.
pub fn with_address(cpu: &mut Cpu, a: u64, b: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    check_pending(cpu)?;
    let before = cpu.core.x87;
    let result = match ((imm >> 8) as u8 & 7, (imm >> 3) as u8 & 7) {
        (3, 5) => load_ten(cpu, a, false),
        (7, 4) => load_ten(cpu, a, true),
        (3, 7) => store_ten(cpu, a, false),
        (7, 6) => store_ten(cpu, a, true),
        (escape, digit) => match store_form(escape, digit) {
            Some(form) => store(cpu, a, &form),
            None => Err(ud(cpu)),
        },
    };
    if let Err(fault) = result {
        cpu.core.x87 = before;
        cpu.x87_unready();
        return Err(fault);
    }
    cpu.x87_track(imm);
    cpu.x87_track_data(b, imm);
    Ok(0)
}

fn load_ten(cpu: &mut Cpu, linear: u64, decimal: bool) -> Result<(), Fault> {
    let first = cpu.wrap(linear);
    let low = mem::load(&mut cpu.core, first, 8, Privilege::Current)?;
    let next = cpu.wrap(linear.wrapping_add(8));
    let high = mem::load(&mut cpu.core, next, 2, Privilege::Current)?;
    let value: F80 = (u128::from(low) | u128::from(high) << 64).to_le_bytes();
    if decimal {
        load(cpu, op::BLD, Io::new([0; 16], value, 0));
    } else if room(cpu) {
        cpu.core.x87.status &= !C1;
        cpu.x87_push(value);
    }
    Ok(())
}

/// A destination that cannot be written faults before the value is looked at.
fn probe(cpu: &mut Cpu, linear: u64, size: u32) -> Result<(), Fault> {
    mem::probe(&mut cpu.core, linear, size, Access::Write, Privilege::Current)
}

fn store(cpu: &mut Cpu, linear: u64, form: &Store) -> Result<(), Fault> {
    probe(cpu, linear, form.size as u32)?;
    let mut value = form.indefinite;
    let done = if cpu.x87_empty(0) {
        cpu.x87_stack_fault(false)
    } else if let Some(host) = truncating(cpu, form) {
        // Programs change the rounding for one conversion: it is done without changing the host's.
        let sw = in_place(cpu, host, 0, 0, &mut value);
        merge(cpu, sw, C1);
        true
    } else if plain(cpu) {
        let sw = in_place(cpu, form.host, 0, 0, &mut value);
        merge(cpu, sw, C1);
        true
    } else {
        let mut io = Io::new(cpu.x87_st(0), [0; 16], value);
        let done = run(cpu, form.host, &mut io, Dest::Memory, C1);
        value = io.m;
        done
    };
    if done {
        let linear = cpu.wrap(linear);
        mem::store(&mut cpu.core, linear, form.size as u32, value, Privilege::Current)?;
        if form.pops {
            cpu.x87_pop();
        }
    }
    Ok(())
}

/// `FSTP m80` and `FBSTP`.
fn store_ten(cpu: &mut Cpu, linear: u64, decimal: bool) -> Result<(), Fault> {
    probe(cpu, linear, 10)?;
    // The decimal indefinite has the same bytes as the real one.
    let mut value = INDEFINITE;
    let done = if cpu.x87_empty(0) {
        cpu.x87_stack_fault(false)
    } else if decimal {
        let mut io = Io::new(cpu.x87_st(0), [0; 16], 0);
        let done = run(cpu, op::BSTP, &mut io, Dest::Memory, C1);
        value = io.b;
        done
    } else {
        cpu.core.x87.status &= !C1;
        value = cpu.x87_st(0);
        true
    };
    if done {
        write_bytes(cpu, linear, &value[..10])?;
        cpu.x87_pop();
    }
    Ok(())
}
