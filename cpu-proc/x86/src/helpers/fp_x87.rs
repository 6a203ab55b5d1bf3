//! x87 instructions on registers.
//!
//! Source: Intel SDM volume 1 section 8.3, volume 2; AMD64 APM volume 5.

use bulkhead_engine::Fault;

use super::fp::bits::*;
use super::fp::{Dest, INDEFINITE, check_pending, merge, plain, run};
use super::fp_host::{ARITH_REG, CONSTANTS, F80, HostOp, Io, op};
use super::ud;
use crate::state::Cpu;

/// Condition codes that mean "unordered" after a compare.
const UNORDERED: u16 = C0 | C2 | C3;
/// What a compare defines.
const COMPARE: u16 = C0 | C1 | C2 | C3;

/// How often to pop after an operation.
fn pop(cpu: &mut Cpu, times: u8) {
    for _ in 0..times {
        cpu.x87_pop();
    }
}

fn clear_c1(cpu: &mut Cpu) {
    cpu.core.x87.status &= !C1;
}

/// `Fp::X87Reg`.
pub fn register_form(cpu: &mut Cpu, _: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    check_pending(cpu)?;
    cpu.x87_track(imm);
    let reg = (imm >> 3) as usize & 7;
    let i = imm as u8 & 7;
    match (imm >> 8) & 7 {
        0 => match reg {
            2 => compare(cpu, ARITH_REG[2], i, 0),
            3 => compare(cpu, ARITH_REG[2], i, 1),
            _ => arithmetic(cpu, ARITH_REG[reg], 0, i, 0),
        },
        1 => match reg {
            0 => load_register(cpu, i),
            1 => exchange(cpu, i),
            2 => {}
            3 => store_unchecked(cpu, i),
            5 => constant(cpu, CONSTANTS.get(i as usize).copied().unwrap_or(CONSTANTS[6])),
            _ => miscellaneous(cpu, reg, i)?,
        },
        2 => compare(cpu, op::UCOM, 1, 2),
        4 => match reg {
            2 => compare(cpu, ARITH_REG[2], i, 0),
            3 => compare(cpu, ARITH_REG[2], i, 1),
            _ => arithmetic(cpu, ARITH_REG[reversed(reg)], i, 0, 0),
        },
        5 => match reg {
            0 => free(cpu, i),
            1 => exchange(cpu, i),
            2 => store_register(cpu, i, 0),
            3 => store_register(cpu, i, 1),
            4 => compare(cpu, op::UCOM, i, 0),
            5 => compare(cpu, op::UCOM, i, 1),
            _ => return Err(ud(cpu)),
        },
        6 => match reg {
            2 => compare(cpu, ARITH_REG[2], i, 1),
            3 => compare(cpu, ARITH_REG[2], 1, 2),
            _ => arithmetic(cpu, ARITH_REG[reversed(reg)], i, 0, 1),
        },
        7 => match reg {
            0 => {
                free(cpu, i);
                cpu.x87_pop();
            }
            1 => exchange(cpu, i),
            2 | 3 => store_register(cpu, i, 1),
            _ => return Err(ud(cpu)),
        },
        _ => {} // DB: the 8087 and 80287 no-operations.
    }
    Ok(0)
}

/// The forms whose destination is `ST(i)` have subtraction and division the other way round in the opcode map, and
/// their operation is on (`ST(i)`, `ST(0)`).
fn reversed(reg: usize) -> usize {
    if reg >= 4 { reg ^ 1 } else { reg }
}

/// Runs an operation on two registers, or on the first and a value, where they are; [`plain`] has allowed it. Neither may be
/// the pushed result of an operation with two.
pub fn in_place(cpu: &mut Cpu, op: HostOp, first: u8, second: u8, value: &mut u64) -> u16 {
    let (a, b) = (cpu.x87_phys(first), cpu.x87_phys(second));
    let media = cpu.core.media.as_mut_ptr();
    // SAFETY: register numbers are below 8; an operation that reads and writes one register twice loads both first.
    unsafe { (op.plain)(media.add(a), media.add(b), value) }
}

/// `ST(dest) = ST(dest) op ST(src)`.
fn arithmetic(cpu: &mut Cpu, op: HostOp, dest: u8, src: u8, pops: u8) {
    if cpu.x87_empty(dest) || cpu.x87_empty(src) {
        if cpu.x87_stack_fault(false) {
            cpu.x87_set(dest, INDEFINITE);
            pop(cpu, pops);
        }
        return;
    }
    if plain(cpu) {
        let sw = in_place(cpu, op, dest, src, &mut 0);
        merge(cpu, sw, C1);
        return pop(cpu, pops);
    }
    let mut io = Io::new(cpu.x87_st(dest), cpu.x87_st(src), 0);
    if run(cpu, op, &mut io, Dest::Register, C1) {
        cpu.x87_set(dest, io.a);
        pop(cpu, pops);
    }
}

/// Compares `ST(0)` with `ST(i)` into the condition codes.
fn compare(cpu: &mut Cpu, op: HostOp, i: u8, pops: u8) {
    if cpu.x87_empty(0) || cpu.x87_empty(i) {
        let masked = cpu.x87_stack_fault(false);
        cpu.core.x87.status |= UNORDERED;
        if masked {
            pop(cpu, pops);
        }
        return;
    }
    if plain(cpu) {
        let sw = in_place(cpu, op, 0, i, &mut 0);
        merge(cpu, sw, COMPARE);
        return pop(cpu, pops);
    }
    let mut io = Io::new(cpu.x87_st(0), cpu.x87_st(i), 0);
    if run(cpu, op, &mut io, Dest::Register, COMPARE) {
        pop(cpu, pops);
    }
}

/// `Fp::X87Comi`: opcodes DB/DF with digit 5 (unordered) or 6; DF pops.
pub fn compare_flags(cpu: &mut Cpu, _: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    check_pending(cpu)?;
    cpu.x87_track(imm);
    let host = if (imm >> 3) & 7 == 5 { op::UCOM } else { ARITH_REG[2] };
    let pops = u8::from((imm >> 8) & 7 == 7);
    let i = imm as u8 & 7;
    let (codes, done) = if cpu.x87_empty(0) || cpu.x87_empty(i) {
        (UNORDERED, cpu.x87_stack_fault(false))
    } else if plain(cpu) {
        let sw = in_place(cpu, host, 0, i, &mut 0);
        merge(cpu, sw, 0);
        (sw & UNORDERED, true)
    } else {
        let mut io = Io::new(cpu.x87_st(0), cpu.x87_st(i), 0);
        // The condition codes stay; the compare's result is taken out of the status word.
        let before = cpu.core.x87.status & CC;
        let done = run(cpu, host, &mut io, Dest::Register, COMPARE);
        let codes = cpu.core.x87.status & UNORDERED;
        cpu.core.x87.status = (cpu.core.x87.status & !CC) | before;
        (codes, done)
    };
    // The flags are set even when an unmasked exception keeps the stack from being popped.
    if done {
        pop(cpu, pops);
    }
    // C0, C2, C3 lie where SAHF takes CF, PF, ZF from.
    cpu.core.set_cc_eflags(u32::from(codes >> 8) & 0x45);
    Ok(0)
}

/// `Fp::X87Cmov`.
pub fn conditional_move(cpu: &mut Cpu, a: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    check_pending(cpu)?;
    cpu.x87_track(imm);
    let i = imm as u8 & 7;
    if cpu.x87_empty(0) || cpu.x87_empty(i) {
        if cpu.x87_stack_fault(false) {
            cpu.x87_set(0, INDEFINITE);
        }
        return Ok(0);
    }
    if a != 0 {
        cpu.x87_set(0, cpu.x87_st(i));
    }
    Ok(0)
}

/// Whether a push would overflow; handles the fault. True when the push may go ahead.
pub fn room(cpu: &mut Cpu) -> bool {
    if cpu.x87_empty(7) {
        return true;
    }
    if cpu.x87_stack_fault(true) {
        cpu.x87_push(INDEFINITE);
    }
    false
}

fn load_register(cpu: &mut Cpu, i: u8) {
    if cpu.x87_empty(i) {
        // Reported even when the push would overflow as well.
        if cpu.x87_stack_fault(false) {
            cpu.x87_push(INDEFINITE);
        }
        return;
    }
    if !room(cpu) {
        return;
    }
    clear_c1(cpu);
    let value = cpu.x87_st(i);
    cpu.x87_push(value);
}

fn free(cpu: &mut Cpu, i: u8) {
    clear_c1(cpu);
    cpu.core.x87.tags &= !(1 << cpu.x87_phys(i));
}

fn exchange(cpu: &mut Cpu, i: u8) {
    if cpu.x87_empty(0) || cpu.x87_empty(i) {
        if !cpu.x87_stack_fault(false) {
            return;
        }
        for n in [0, i] {
            if cpu.x87_empty(n) {
                cpu.x87_set(n, INDEFINITE);
            }
        }
    } else {
        clear_c1(cpu);
    }
    let (a, b) = (cpu.x87_st(0), cpu.x87_st(i));
    cpu.x87_set(0, b);
    cpu.x87_set(i, a);
}

fn store_register(cpu: &mut Cpu, i: u8, pops: u8) {
    let value = if cpu.x87_empty(0) {
        if !cpu.x87_stack_fault(false) {
            return;
        }
        INDEFINITE
    } else {
        clear_c1(cpu);
        cpu.x87_st(0)
    };
    cpu.x87_set(i, value);
    pop(cpu, pops);
}

/// D9 D8+i: as `FSTP ST(i)`, but an empty register raises nothing and stores nothing.
fn store_unchecked(cpu: &mut Cpu, i: u8) {
    clear_c1(cpu);
    if !cpu.x87_empty(0) {
        let value = cpu.x87_st(0);
        cpu.x87_set(i, value);
    }
    cpu.x87_pop();
}

fn constant(cpu: &mut Cpu, host: HostOp) {
    if room(cpu) {
        let mut io = Io::new([0; 16], [0; 16], 0);
        if run(cpu, host, &mut io, Dest::Register, C1) {
            // Loading a constant is never reported as rounded.
            clear_c1(cpu);
            cpu.x87_push(io.a);
        }
    }
}

/// D9 E0..EF apart from constants, and D9 F0..FF.
fn miscellaneous(cpu: &mut Cpu, reg: usize, i: u8) -> Result<(), Fault> {
    match (reg, i) {
        (4, 0) => unary(cpu, op::CHS, C1),
        (4, 1) => unary(cpu, op::ABS, C1),
        (4, 4) => test(cpu),
        (4, 5) => examine(cpu),
        (6, 0) => unary(cpu, op::F2XM1, C1),
        (6, 1) => binary_pop(cpu, op::YL2X),
        (6, 2) => push_second(cpu, op::PTAN, C1 | C2),
        (6, 3) => binary_pop(cpu, op::PATAN),
        (6, 4) => push_second(cpu, op::XTRACT, C1),
        (6, 5) => remainder(cpu, op::PREM1),
        (6, 6) => {
            clear_c1(cpu);
            cpu.core.x87.top = cpu.core.x87.top.wrapping_sub(1) & 7;
        }
        (6, 7) => {
            clear_c1(cpu);
            cpu.core.x87.top = cpu.core.x87.top.wrapping_add(1) & 7;
        }
        (7, 0) => remainder(cpu, op::PREM),
        (7, 1) => binary_pop(cpu, op::YL2XP1),
        (7, 2) => unary(cpu, op::SQRT, C1),
        (7, 3) => push_second(cpu, op::SINCOS, C1 | C2),
        (7, 4) => unary(cpu, op::RNDINT, C1),
        (7, 5) => scale(cpu),
        (7, 6) => unary(cpu, op::SIN, C1 | C2),
        (7, 7) => unary(cpu, op::COS, C1 | C2),
        _ => return Err(ud(cpu)),
    }
    Ok(())
}

fn underflow_to(cpu: &mut Cpu, i: u8) -> bool {
    let masked = cpu.x87_stack_fault(false);
    if masked {
        cpu.x87_set(i, INDEFINITE);
    }
    masked
}

/// `ST(0) = op(ST(0))`.
fn unary(cpu: &mut Cpu, host: HostOp, cc: u16) {
    if cpu.x87_empty(0) {
        cpu.core.x87.status &= !(cc & C2);
        underflow_to(cpu, 0);
        return;
    }
    if plain(cpu) {
        let sw = in_place(cpu, host, 0, 0, &mut 0);
        return merge(cpu, sw, cc);
    }
    let mut io = Io::new(cpu.x87_st(0), [0; 16], 0);
    if run(cpu, host, &mut io, Dest::Register, cc) {
        cpu.x87_set(0, io.a);
    }
}

/// `FSCALE`.
fn scale(cpu: &mut Cpu) {
    if cpu.x87_empty(0) || cpu.x87_empty(1) {
        underflow_to(cpu, 0);
        return;
    }
    let mut io = Io::new(cpu.x87_st(0), cpu.x87_st(1), 0);
    if run(cpu, op::SCALE, &mut io, Dest::Register, C1) {
        cpu.x87_set(0, io.a);
    }
}

/// `FPREM`, `FPREM1`: C2 says incomplete; C0, C3, C1 are the quotient's low bits, when there is one.
fn remainder(cpu: &mut Cpu, host: HostOp) {
    if cpu.x87_empty(0) || cpu.x87_empty(1) {
        cpu.core.x87.status &= !C2;
        underflow_to(cpu, 0);
        return;
    }
    let before = cpu.core.x87.status & (C0 | C3);
    let mut io = Io::new(cpu.x87_st(0), cpu.x87_st(1), 0);
    let done = run(cpu, host, &mut io, Dest::Register, CC);
    if done {
        cpu.x87_set(0, io.a);
    }
    if !done || is_nan(&io.a) {
        cpu.core.x87.status = (cpu.core.x87.status & !CC) | before;
    }
}

fn is_nan(value: &F80) -> bool {
    let bits = u128::from_le_bytes(*value);
    bits >> 64 & 0x7fff == 0x7fff && bits as u64 & (u64::MAX >> 1) != 0
}

/// `ST(1) = op(ST(0), ST(1))`, then pop.
fn binary_pop(cpu: &mut Cpu, host: HostOp) {
    if cpu.x87_empty(0) || cpu.x87_empty(1) {
        if underflow_to(cpu, 1) {
            cpu.x87_pop();
        }
        return;
    }
    let mut io = Io::new(cpu.x87_st(0), cpu.x87_st(1), 0);
    if run(cpu, host, &mut io, Dest::Register, C1) {
        cpu.x87_set(1, io.a);
        cpu.x87_pop();
    }
}

/// `FPTAN`, `FSINCOS`, `FXTRACT`: replace `ST(0)` and push a second result.
fn push_second(cpu: &mut Cpu, host: HostOp, cc: u16) {
    if cpu.x87_empty(0) {
        cpu.core.x87.status &= !(cc & C2);
        if underflow_to(cpu, 0) {
            cpu.x87_push(INDEFINITE);
        }
        return;
    }
    if !cpu.x87_empty(7) {
        cpu.core.x87.status &= !(cc & C2);
        if cpu.x87_stack_fault(true) {
            cpu.x87_set(0, INDEFINITE);
            cpu.x87_push(INDEFINITE);
        }
        return;
    }
    let mut io = Io::new(cpu.x87_st(0), [0; 16], 0);
    if run(cpu, host, &mut io, Dest::Register, cc) {
        cpu.x87_set(0, io.a);
        if cc & C2 == 0 || cpu.core.x87.status & C2 == 0 {
            cpu.x87_push(io.b);
        }
    }
}

fn test(cpu: &mut Cpu) {
    if cpu.x87_empty(0) {
        cpu.x87_stack_fault(false);
        cpu.core.x87.status |= UNORDERED;
        return;
    }
    let mut io = Io::new(cpu.x87_st(0), [0; 16], 0);
    run(cpu, op::TST, &mut io, Dest::Register, COMPARE);
}

fn examine(cpu: &mut Cpu) {
    let value: F80 = cpu.x87_st(0);
    if cpu.x87_empty(0) {
        let sign = if value[9] & 0x80 != 0 { C1 } else { 0 };
        cpu.core.x87.status = (cpu.core.x87.status & !CC) | C3 | C0 | sign;
        return;
    }
    let mut io = Io::new(value, [0; 16], 0);
    run(cpu, op::XAM, &mut io, Dest::Register, CC);
}
