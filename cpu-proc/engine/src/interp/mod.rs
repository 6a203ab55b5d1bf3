//! The reference interpreter of the IR: the oracle for the compiler, and the engine for single steps.

pub(crate) mod alu;
mod vector;

use bulkhead_ir::{
    ADDR32, ALIGN16, Block, IMPLICIT_SUPERVISOR, LD_FOR_WRITE, NONE, Name, Op, Opcode, SET_FLAGS, TEMP0, W8,
    W16, W32, W64,
};

use crate::guest::Fault;
use crate::mem::{self, Privilege};
use crate::state::{CoreState, exit};

pub(crate) use vector::Thunks;

/// Temporaries of the running block.
struct Frame {
    temps: [u64; 32],
}

/// Low bits of width `w`.
fn mask(w: u8) -> u64 {
    if w >= W64 { u64::MAX } else { (1 << (8u32 << w)) - 1 }
}

/// Sign extension from width `w`.
fn sign_extend(value: u64, w: u8) -> u64 {
    match w {
        W8 => value as i8 as u64,
        W16 => value as i16 as u64,
        W32 => value as i32 as u64,
        _ => value,
    }
}

impl Frame {
    fn get(&self, core: &CoreState, name: Name) -> u64 {
        match name {
            NONE => 0,
            n if n < TEMP0 => core.slots[usize::from(n)],
            n => self.temps[usize::from(n - TEMP0) % 32],
        }
    }

    fn set(&mut self, core: &mut CoreState, name: Name, value: u64) {
        match name {
            NONE => {}
            n if n < TEMP0 => core.slots[usize::from(n)] = value,
            n => self.temps[usize::from(n - TEMP0) % 32] = value,
        }
    }

    /// Second operand: `b`, or the immediate when there is none.
    fn second(&self, core: &CoreState, op: &Op) -> u64 {
        if op.b == NONE { op.imm as u64 } else { self.get(core, op.b) }
    }

    fn address(&self, core: &CoreState, op: &Op) -> u64 {
        let index = self.get(core, op.b).wrapping_shl(u32::from(op.s));
        let sum = self.get(core, op.a).wrapping_add(index).wrapping_add(op.imm as u64);
        if op.k & ADDR32 != 0 { sum & 0xffff_ffff } else { sum }
    }
}

fn privilege(op: &Op) -> Privilege {
    if op.k & IMPLICIT_SUPERVISOR != 0 { Privilege::Supervisor } else { Privilege::Current }
}

/// Runs a block to its terminator, a fault or an exit; the reason is in `CoreState::exit`.
pub(crate) fn run(core: &mut CoreState, thunks: &mut Thunks, block: &Block) {
    let mut frame = Frame { temps: [0; 32] };
    for op in &block.ops {
        match exec(core, thunks, block, &mut frame, op) {
            Ok(true) => {}
            Ok(false) | Err(Fault) => return,
        }
    }
    // A block without terminator falls through.
    core.pc = block.next_pc;
}

/// One op; `Ok(false)` when the block is over.
fn exec(
    core: &mut CoreState,
    thunks: &mut Thunks,
    block: &Block,
    frame: &mut Frame,
    op: &Op,
) -> Result<bool, Fault> {
    let w = op.w;
    let sets = op.s & SET_FLAGS != 0;
    let a = frame.get(core, op.a);
    match op.op {
        Opcode::Insn => core.pc = op.imm as u64,
        Opcode::Mov | Opcode::Zx => frame.set(core, op.d, a & mask(w)),
        Opcode::MovI => frame.set(core, op.d, op.imm as u64),
        Opcode::Sx => frame.set(core, op.d, sign_extend(a, w) & mask(op.k)),
        Opcode::Dep => {
            let old = frame.get(core, op.d);
            frame.set(core, op.d, old & !mask(w) | a & mask(w));
        }
        Opcode::DepH => {
            let old = frame.get(core, op.d);
            frame.set(core, op.d, old & !0xff00 | (a & 0xff) << 8);
        }
        Opcode::ExtH => frame.set(core, op.d, (a >> 8) & 0xff),
        Opcode::Lea => {
            let index = frame.get(core, op.b).wrapping_shl(u32::from(op.s));
            frame.set(core, op.d, a.wrapping_add(index).wrapping_add(op.imm as u64) & mask(w));
        }
        Opcode::Alu => {
            let b = frame.second(core, op);
            let r = alu::alu(core, op.k, w, a, b, sets);
            frame.set(core, op.d, r);
        }
        Opcode::Shift => {
            let count = frame.second(core, op);
            let r = alu::shift(core, op.k, w, a, count, sets);
            frame.set(core, op.d, r);
        }
        Opcode::DShift => {
            let b = frame.get(core, op.b);
            let count = if op.s == NONE { op.imm as u64 } else { frame.get(core, op.s) };
            let r = alu::dshift(core, op.k, w, a, b, count);
            frame.set(core, op.d, r);
        }
        Opcode::Unary => {
            let r = alu::unary(core, op.k, w, a, sets);
            frame.set(core, op.d, r);
        }
        Opcode::Mul => {
            let b = frame.second(core, op);
            let r = alu::mul(core, w, a, b, sets);
            frame.set(core, op.d, r);
        }
        Opcode::MulWide => {
            let b = frame.get(core, op.b);
            let (low, high) = alu::mul_wide(core, op.k, w, a, b);
            frame.set(core, op.d, low);
            frame.set(core, op.s, high);
        }
        Opcode::Bit => {
            let b = frame.second(core, op);
            let r = alu::bit(core, op.k, w, a, b);
            frame.set(core, op.d, r);
        }
        Opcode::Scan => {
            let old = frame.get(core, op.b);
            let r = alu::scan(core, op.k, w, a, old);
            frame.set(core, op.d, r);
        }
        Opcode::SetCc => {
            let r = u64::from(alu::test(core, op.k));
            frame.set(core, op.d, r);
        }
        Opcode::Select => {
            let r = if alu::test(core, op.k) { a } else { frame.get(core, op.b) };
            frame.set(core, op.d, r & mask(w));
        }
        Opcode::GetFlags => {
            let r = u64::from(core.cc_eflags());
            frame.set(core, op.d, r);
        }
        Opcode::SetFlags => {
            let keep = alu::eflags_mask(op.k);
            core.set_cc_eflags(core.cc_eflags() & !keep | a as u32 & keep);
        }
        Opcode::SetCarry => {
            let old = core.cc_eflags();
            core.set_cc_eflags(match op.k {
                0 => old & !1,
                1 => old | 1,
                _ => old ^ 1,
            });
        }
        Opcode::Ld => {
            let linear = frame.address(core, op);
            if op.k & LD_FOR_WRITE != 0 {
                mem::probe(core, linear, 1 << w, crate::Access::Write, privilege(op))?;
            }
            let r = mem::load(core, linear, 1 << w, privilege(op))?;
            frame.set(core, op.d, r);
        }
        Opcode::St => {
            let linear = frame.address(core, op);
            let value = frame.get(core, op.d);
            mem::store(core, linear, 1 << w, value, privilege(op))?;
        }
        Opcode::LdV | Opcode::StV => vector_access(core, frame, op)?,
        Opcode::LdF => {
            let r = field(core, op).map_or(0, |p| {
                // SAFETY: `field` checked that the bytes lie in the CPU struct.
                unsafe { mem::peek(p, 1 << w) }
            });
            frame.set(core, op.d, r);
        }
        Opcode::StF => {
            if let Some(p) = field(core, op) {
                // SAFETY: `field` checked that the bytes lie in the CPU struct.
                unsafe { mem::poke(p, 1 << w, a) };
            }
        }
        Opcode::Vec => {
            let r = thunks.run(core, op, a);
            if let Some(r) = r {
                frame.set(core, op.d, if w == W64 { r } else { r & 0xffff_ffff });
            }
        }
        Opcode::Call => {
            let (b, c) = (frame.get(core, op.b), frame.get(core, op.s));
            let Some(helper) = core.ops.helpers.get(usize::from(op.imm as u16)) else { return Ok(true) };
            // SAFETY: a helper of the front end that owns this CPU struct; we hold the only reference to it.
            let r = unsafe { (helper.func)(core, a, b, c, (op.imm >> 16) as u64) };
            if helper.info.may_exit && core.exit != exit::NONE {
                return Ok(false);
            }
            frame.set(core, op.d, r);
        }
        Opcode::Canonical => {
            if (a as i64) << 16 >> 16 != a as i64 {
                (core.ops.misaligned)(core, a);
                return Err(Fault);
            }
        }
        Opcode::Side => {
            if alu::test(core, op.k) {
                core.pc = op.imm as u64;
                return Ok(false);
            }
        }
        Opcode::Goto => {
            core.pc = op.imm as u64;
            return Ok(false);
        }
        Opcode::Branch => {
            core.pc = if alu::test(core, op.k) { op.imm as u64 } else { block.next_pc };
            return Ok(false);
        }
        Opcode::BranchZ => {
            let taken = (a & mask(w) != 0) == (op.k == 0);
            core.pc = if taken { op.imm as u64 } else { block.next_pc };
            return Ok(false);
        }
        Opcode::GotoReg => {
            core.pc = a;
            return Ok(false);
        }
        Opcode::Exit => return Ok(false),
    }
    Ok(true)
}

fn vector_access(core: &mut CoreState, frame: &Frame, op: &Op) -> Result<(), Fault> {
    let linear = frame.address(core, op);
    let slot = usize::from(op.d) % core.vec.len();
    if op.k & ALIGN16 != 0 && linear & 15 != 0 {
        (core.ops.misaligned)(core, linear);
        return Err(Fault);
    }
    let p = privilege(op);
    if op.op == Opcode::LdV {
        core.vec[slot] = match op.w {
            4 => mem::load16(core, linear, p)?,
            w => u128::from(mem::load(core, linear, 1 << w, p)?).to_le_bytes(),
        };
    } else {
        let value = core.vec[slot];
        match op.w {
            4 => mem::store16(core, linear, value, p)?,
            w => mem::store(core, linear, 1 << w, u128::from_le_bytes(value) as u64, p)?,
        }
    }
    Ok(())
}

/// Largest CPU struct whose fields the IR may name.
const STRUCT_LIMIT: u64 = 4 << 20;

/// Host address of the CPU-state field at `op.imm`. Offsets come from the front end's lowering, never from the guest.
fn field(core: &mut CoreState, op: &Op) -> Option<*mut u8> {
    let offset = op.imm as u64;
    debug_assert!(offset < STRUCT_LIMIT);
    if offset >= STRUCT_LIMIT {
        return None;
    }
    Some((core as *mut CoreState).cast::<u8>().wrapping_add(offset as usize))
}
