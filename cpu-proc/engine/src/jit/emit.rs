//! One pass from IR to host code.
//!
//! Guest flags are x86 flags, so the host's own register holds them from the instruction that sets them until something
//! else would change it; only then, and only if they are live, they go to `CoreState::cc` (`seto al; lahf`), unless they can be found
//! out later (`flags.rs`). At every access they are in memory, in the side table, or dead; at every exit in memory or dead.

use std::mem::offset_of;

use bulkhead_ir::liveness::{ALL_SLOTS, Life, bit};
use bulkhead_ir::{Block, NONE, Name, Op, Opcode, TEMP0, W8, W16, W32, W64, cc};

use super::asm::{Asm, M, Patch, reg};
use super::cold::Cold;
use super::count::Counts;
use super::flags::Pending;
use super::moves::Kind;
use super::regs::{Regs, state};
use super::stubs::{self, Record, Side, Stubs};
use super::vectors::{SIDE, Vectors};
use super::windows::Windows;
use super::x87::Known;
use crate::guest::Helper;
use crate::state::{CoreState, exit};

use reg::{RAX, RBP, RCX, RDI, RDX, RSI};

/// A direct exit: the position (in the block's code) of its displacement, of its stub, and its pc.
pub(super) struct Exit {
    pub patch: Patch,
    pub stub: usize,
    pub pc: u64,
}

/// Facts about the block that the ops do not say.
#[derive(Clone, Copy)]
pub(super) struct Target {
    /// Number that the block will have.
    pub id: u32,
    /// Number that its first link will have.
    pub first_link: u32,
    /// MMU mode of its accesses.
    pub mode: usize,
    /// Linear address minus pc.
    pub base: u64,
    /// Whether the host has BMI2.
    pub bmi2: bool,
    /// Whether instructions are counted.
    pub counting: bool,
}

pub(super) struct Emitter<'a> {
    pub asm: &'a mut Asm,
    pub regs: &'a mut Regs,
    pub vectors: &'a mut Vectors,
    pub side: &'a mut Side,
    pub stubs: &'a Stubs,
    pub helpers: &'a [Helper],
    pub block: &'a Block,
    pub lives: &'a [Life],
    pub target: Target,
    pub cold: Vec<Cold>,
    pub exits: Vec<Exit>,
    /// The host's flags register holds the guest's flags.
    pub host: bool,
    /// `CoreState::cc` holds them.
    pub mem: bool,
    /// Pc of the current instruction.
    pub pc: u64,
    /// Index of the current op.
    pub at: usize,
    /// What is known of the x87.
    pub fpu: Known,
    /// How the flags follow from guest slots. While they are neither in the host's register nor in memory they are this, or dead.
    pub pending: Option<Pending>,
    /// Places in memory that need no lookup.
    pub windows: Windows,
    /// Numbers of the loads' guesses, by op.
    pub guesses: Vec<(usize, usize)>,
    /// The number of the next one.
    pub next_guess: &'a mut usize,
    /// How instructions are counted.
    pub count: Counts,
}

/// Outcome of preparing a condition: the host condition code to test.
pub(super) type HostCc = u8;

pub(super) fn cc_mem() -> M {
    state(offset_of!(CoreState, cc))
}

/// The byte of `cc` with SF ZF AF PF CF.
pub(super) fn cc_high() -> M {
    state(offset_of!(CoreState, cc) + 1)
}

impl Emitter<'_> {
    /// Emits the whole block.
    pub fn run(&mut self) {
        self.host = false;
        self.mem = true;
        let block = self.block;
        self.count_block();
        for _ in 1..self.rounds() {
            if let Some((branch, body)) = block.ops.split_last() {
                self.ops(body);
                self.again(branch);
            }
        }
        self.ops(&block.ops);
        if block.ops.last().is_none_or(|o| o.op < Opcode::Goto) {
            self.terminator(&Op::goto(block.next_pc, true));
        }
        self.finish();
    }

    /// How often the block is emitted in a row. A loop of one block keeps its registers and flags from round to round, and
    /// only the last round goes back to the start. Helpers may change the mapping, so a loop with one goes back at once.
    pub(super) fn rounds(&self) -> usize {
        let ops = &self.block.ops;
        let loops = ops.last().is_some_and(|o| {
            matches!(o.op, Opcode::Branch | Opcode::BranchZ)
                && o.imm as u64 == self.block.pc
                && self.block.next_pc > self.block.pc
        });
        // Each round is counted where it begins.
        if !loops || self.target.counting || ops.iter().any(|o| o.op == Opcode::Call && !Self::is_x87(o)) {
            return 1;
        }
        match ops.len() {
            0..=24 => 4,
            25..=64 => 2,
            _ => 1,
        }
    }

    /// The branch between two rounds: leaves when it is not taken.
    fn again(&mut self, op: &Op) {
        self.revive();
        let code = if op.op == Opcode::Branch {
            self.condition(op.k)
        } else {
            self.pending = None;
            self.clobber(u8::MAX);
            let a = self.read(op.a);
            self.asm.op_rr(op.w, 0x85, a, a);
            if op.k == 0 { cc::NE } else { cc::E }
        };
        self.side(code ^ 1, self.block.next_pc);
        self.windows.clear();
        self.regs.end_op(ALL_SLOTS);
        self.vectors.end_op();
    }

    /// Leaves for `pc`, which is behind the block's start, when the host's flags meet `code`.
    fn side(&mut self, code: HostCc, pc: u64) {
        self.asm.moves.follows(pc);
        let flags = self.host && !self.mem;
        let slots: Vec<(Name, u8)> = self.regs.dirty_slots().collect();
        let vectors: Vec<(u8, u8)> = self.vectors.dirty_slots().collect();
        let behind = self.behind();
        if !flags && slots.is_empty() && vectors.is_empty() && behind == 0 && self.same_page(pc) {
            let patch = self.jcc_linked(code);
            self.exits.push(Exit { patch, stub: 0, pc });
        } else {
            let jump = self.asm.jcc(code);
            self.cold.push(Cold::Side { jump, flags, slots, vectors, pc, behind });
        }
    }

    /// Emits ops from the block's first one on.
    fn ops(&mut self, ops: &[Op]) {
        let block = self.block;
        let mut skip = false;
        for (i, op) in ops.iter().enumerate() {
            let life = self.lives.get(i).copied().unwrap_or_default();
            self.at = i;
            if !std::mem::take(&mut skip) {
                let next = block.ops.get(i + 1).zip(self.lives.get(i + 1));
                let lost = self.before_op(op, life);
                skip = self.op(op, life, next);
                self.after_op(lost);
            }
            self.windows.pass(op, i);
            // After a pair, only what the second op leaves counts.
            if !skip {
                self.regs.end_op(life.names | self.windows.names());
                self.vectors.end_op();
            }
        }
    }

    // --- flags ---

    /// Stores the host's flags to memory. Changes rax only.
    pub(super) fn save_flags(&mut self) {
        self.asm.bytes(&[0x0f, 0x90, 0xc0, 0x9f]); // seto al; lahf
        self.asm.store(W16, RAX, cc_mem());
        self.mem = true;
    }

    /// The host's flags are about to change: saves the guest's when `live` says that they are needed.
    pub(super) fn clobber(&mut self, live: u8) {
        self.keep_flags(live);
        self.host = false;
    }

    /// Saves the host's flags when `live` says that they are needed, and they are nowhere else.
    pub(super) fn keep_flags(&mut self, live: u8) {
        if self.host && !self.mem && self.pending.is_none() && live != 0 {
            self.save_flags();
        }
    }

    /// Makes the host's flags the guest's. Changes rax.
    pub(super) fn need_host_flags(&mut self) {
        if !self.host && self.mem {
            self.asm.rm(W32, 0x0fb7, RAX, cc_mem());
            self.asm.bytes(&[0x04, 0x7f, 0x9e]); // add al, 0x7f; sahf
            self.host = true;
        }
    }

    /// Makes the host's carry the guest's; the other host flags may be lost.
    pub(super) fn need_carry(&mut self) {
        if !self.host {
            self.asm.rm(W32, 0x0fba, 4, cc_mem()); // bt dword [cc], 8
            self.asm.bytes(&[8]);
        }
    }

    /// The host's flags now are the guest's and memory is old.
    pub(super) fn flags_set(&mut self) {
        self.host = true;
        self.mem = false;
        self.pending = None;
    }

    /// Prepares the host's flags for a test of `code`. Changes rax, and the host's flags unless they are the guest's.
    pub(super) fn condition(&mut self, code: u8) -> HostCc {
        if self.host {
            return code;
        }
        let invert = code & 1;
        let (mem, mask) = match code & 14 {
            cc::O => (cc_mem(), 1),
            cc::B => (cc_high(), 0x01),
            cc::E => (cc_high(), 0x40),
            cc::BE => (cc_high(), 0x41),
            cc::S => (cc_high(), 0x80u8),
            cc::P => (cc_high(), 0x04),
            _ => {
                self.need_host_flags();
                return code;
            }
        };
        self.asm.rm(W8, 0xf6, 0, mem);
        self.asm.bytes(&[mask]);
        cc::NE ^ invert
    }

    // --- operands ---

    pub(super) fn read(&mut self, name: Name) -> u8 {
        self.regs.read(self.asm, name)
    }

    pub(super) fn alloc(&mut self) -> u8 {
        self.regs.alloc(self.asm)
    }

    /// A register with the value of `a` that the op may change and then binds to `d`.
    pub(super) fn copy(&mut self, d: Name, a: Name, life: Life, w: u8) -> u8 {
        let from = self.read(a);
        if bit(a) != 0 && (a == d || life.names & bit(a) == 0) {
            if a != d {
                self.regs.steal(from);
            }
            return from;
        }
        let r = self.alloc();
        self.asm.mov(w.max(W32), r, from);
        r
    }

    /// An immediate operand as the host takes it: sign-extended 32 bits, when it fits.
    pub(super) fn fits(w: u8, imm: i64) -> Option<i32> {
        match w {
            W8 => Some(i32::from(imm as i8)),
            W16 => Some(i32::from(imm as i16)),
            W32 => Some(imm as i32),
            _ => i32::try_from(imm).ok(),
        }
    }

    /// The second operand as an immediate, if it is a constant that fits.
    pub(super) fn immediate(&mut self, op: &Op) -> Option<i32> {
        if op.b == NONE { Self::fits(op.w, op.imm) } else { self.short(op.w, op.b) }
    }

    /// The name as an immediate of width `w`, if it is a constant that fits.
    pub(super) fn short(&mut self, w: u8, name: Name) -> Option<i32> {
        let value = self.regs.constant(name)?;
        let short = Self::fits(w, value)?;
        self.asm.moves.cut(value);
        Some(short)
    }

    /// The name as a count, if it is a constant.
    pub(super) fn count(&mut self, name: Name) -> Option<i64> {
        let value = self.regs.constant(name)?;
        self.asm.moves.cut(value);
        Some(value)
    }

    /// The second operand in a register (rdi for a wide constant).
    pub(super) fn second(&mut self, op: &Op) -> u8 {
        if op.b == NONE {
            self.asm.mov_ri(RDI, op.imm as u64);
            RDI
        } else {
            self.read(op.b)
        }
    }

    /// Emits one op; true when it took the next one with it.
    fn op(&mut self, op: &Op, life: Life, next: Option<(&Op, &Life)>) -> bool {
        let w = op.w;
        match op.op {
            Opcode::Insn => {
                self.pc = op.imm as u64;
                self.count.begun += 1;
            }
            Opcode::Mov => self.mov(op, life),
            Opcode::MovI => {
                if op.d >= TEMP0 && bit(op.d) != 0 {
                    self.regs.set_constant(op.d, op.imm);
                } else if bit(op.d) != 0 {
                    self.regs.drop_name(op.d);
                    let r = self.alloc();
                    self.asm.mov_ri(r, op.imm as u64);
                    self.regs.bind(op.d, r);
                }
            }
            Opcode::Zx => match w {
                W64 => self.mov(op, life),
                _ => {
                    let a = self.read(op.a);
                    let d = self.result(op.d, op.a, a, life);
                    match w {
                        W8 => self.asm.rr_byte_source(W32, 0x0fb6, d, a),
                        W16 => self.asm.rr(W32, 0x0fb7, d, a),
                        _ => self.asm.mov(W32, d, a),
                    }
                    self.regs.bind(op.d, d);
                }
            },
            Opcode::Sx => {
                let a = self.read(op.a);
                let d = self.result(op.d, op.a, a, life);
                let to = op.k.max(W32);
                match w {
                    W8 => self.asm.rr_byte_source(to, 0x0fbe, d, a),
                    W16 => self.asm.rr(to, 0x0fbf, d, a),
                    W32 if to == W64 => self.asm.rr(W64, 0x63, d, a),
                    _ => self.asm.mov(to, d, a),
                }
                self.regs.bind(op.d, d);
            }
            Opcode::Dep => {
                let a = self.read(op.a);
                let d = self.read(op.d);
                if a != d {
                    self.asm.op_rr(w, 0x89, d, a);
                }
                self.regs.bind(op.d, d);
            }
            Opcode::DepH => self.dep_high(op, life),
            Opcode::ExtH => self.ext_high(op, life),
            Opcode::Lea => self.lea(op, life),
            Opcode::Alu => self.alu(op, life),
            Opcode::Shift => self.shift(op, life),
            Opcode::DShift => self.dshift(op, life),
            Opcode::Unary => self.unary(op, life),
            Opcode::Mul => self.mul(op, life),
            Opcode::MulWide => self.mul_wide(op, life),
            Opcode::Bit => self.bit_op(op, life),
            Opcode::Scan => self.scan(op, life),
            Opcode::SetCc => {
                let code = self.condition(op.k);
                let d = self.alloc();
                self.asm.bytes(&[0x0f, 0x90 | code, 0xc0]); // setcc al
                self.asm.rr_byte_source(W32, 0x0fb6, d, RAX);
                self.regs.bind(op.d, d);
            }
            Opcode::Select => self.select(op, life),
            Opcode::GetFlags => {
                self.clobber(u8::MAX);
                let d = self.alloc();
                self.asm.rm(W32, 0x0fb6, RAX, cc_high());
                self.asm.alu_ri(W32, 4, RAX, 0xd5);
                self.asm.rm(W32, 0x0fb6, d, cc_mem());
                self.asm.rr(W32, 0xc1, 4, d);
                self.asm.bytes(&[11]);
                self.asm.op_rr(W32, 0x09, d, RAX);
                self.regs.bind(op.d, d);
            }
            Opcode::SetFlags => self.set_flags(op, life),
            Opcode::SetCarry => {
                if self.host {
                    self.asm.bytes(&[[0xf8u8, 0xf9, 0xf5][usize::from(op.k.min(2))]]);
                    self.flags_set();
                } else {
                    let (digit, imm) = [(4, -2), (1, 1), (6, 1)][usize::from(op.k.min(2))];
                    self.asm.alu_mi8(W8, digit, cc_high(), imm);
                }
            }
            Opcode::Ld => return self.load(op, life, next),
            Opcode::St => self.store(op),
            Opcode::LdV | Opcode::StV => self.vector_access(op),
            Opcode::Canonical => self.canonical(op),
            Opcode::LdF => {
                let d = self.alloc();
                self.asm.load(w, d, state(op.imm as usize));
                self.regs.bind(op.d, d);
            }
            Opcode::StF => {
                if let Some(value) = self.short(w, op.a) {
                    self.asm.mov_mi(w, state(op.imm as usize), value);
                } else {
                    let a = self.read(op.a);
                    self.asm.store(w, a, state(op.imm as usize));
                }
            }
            Opcode::Vec => self.vector(op, life),
            Opcode::Call => self.call(op, life),
            Opcode::Side => {
                let code = self.condition(op.k);
                self.side(code, op.imm as u64);
            }
            _ => self.terminator(op),
        }
        false
    }

    /// A register for the result `d` of an op that only reads `a` (in `ra`): `ra` itself when `a` ends here.
    pub(super) fn result(&mut self, d: Name, a: Name, ra: u8, life: Life) -> u8 {
        if a == d {
            return ra;
        }
        if bit(a) != 0 && life.names & bit(a) == 0 {
            self.regs.steal(ra);
            return ra;
        }
        if let Some(old) = self.regs.find(d) {
            return old;
        }
        self.alloc()
    }

    // --- calls and exits ---

    fn call(&mut self, op: &Op, life: Life) {
        if self.x87(op) {
            return;
        }
        self.forget_x87();
        // It may change the mapping.
        self.windows.clear();
        let number = op.imm as u16;
        let Some(helper) = self.helpers.get(usize::from(number)) else { return };
        let info = helper.info;
        let needed = life.flags | info.flags_read | info.flags_written;
        self.clobber(if info.may_exit { u8::MAX } else { needed });
        self.mem |= info.flags_written != 0;
        let visible = if info.may_exit { u32::MAX } else { info.reads | info.writes };
        self.regs.write_back(self.asm, visible);
        self.vectors.flush_all(self.asm);
        self.regs.vacate_caller_saved(self.asm);
        self.regs.copy_to(self.asm, op.a, RSI);
        if op.b != NONE {
            self.regs.copy_to(self.asm, op.b, RDX);
        }
        if op.s != NONE {
            self.regs.copy_to(self.asm, op.s, RCX);
        }
        self.asm.mov_fixed(8, (op.imm >> 16) as u64);
        self.asm.lea(W64, RDI, M::base(RBP, -128));
        if info.may_exit {
            self.store_pc(self.pc);
            self.store_running();
        }
        let behind = self.behind();
        self.look_behind(behind);
        self.asm.call_abs(helper.func as usize as u64);
        self.regs.forget(info.writes);
        if info.may_exit {
            self.asm.alu_mi8(W32, 7, state(offset_of!(CoreState, exit)), 0);
            let jump = self.asm.jcc(cc::NE);
            self.cold.push(Cold::Leave { jump });
        }
        self.go_on(behind);
        if op.d != NONE && (op.d < TEMP0 || life.names & bit(op.d) != 0) {
            self.regs.drop_name(op.d);
            let d = self.alloc();
            self.asm.mov(W64, d, RAX);
            self.regs.bind(op.d, d);
        }
    }

    pub(super) fn store_running(&mut self) {
        self.asm.mov_mi(W32, state(offset_of!(CoreState, running)), self.target.id as i32);
        self.asm.mark(Kind::Block);
    }

    /// rdi names a row of the side table.
    pub(super) fn name_record(&mut self, record: u32) {
        self.asm.mov_fixed(RDI, u64::from(record));
        self.asm.mark(Kind::Row);
    }

    pub(super) fn store_pc(&mut self, pc: u64) {
        self.asm.moves.follows(pc);
        let field = state(offset_of!(CoreState, pc));
        match i32::try_from(pc as i64) {
            Ok(small) => self.asm.mov_mi(W64, field, small),
            Err(_) => {
                self.asm.mov_ri(RAX, pc);
                self.asm.store(W64, RAX, field);
            }
        }
    }

    fn terminator(&mut self, op: &Op) {
        match op.op {
            Opcode::Branch => {
                self.leave_state();
                let code = self.condition(op.k);
                self.two_way(op.imm as u64, code);
            }
            Opcode::BranchZ => {
                self.leave_state();
                let a = self.read(op.a);
                self.asm.op_rr(op.w, 0x85, a, a);
                self.two_way(op.imm as u64, if op.k == 0 { cc::NE } else { cc::E });
            }
            Opcode::GotoReg => {
                self.leave_state();
                self.regs.copy_to(self.asm, op.a, RSI);
                stubs::lookup(self.asm, self.stubs);
            }
            Opcode::Goto if op.k != 0 => {
                self.leave_state();
                self.go(op.imm as u64);
            }
            Opcode::Goto => {
                self.leave_state();
                self.store_pc(op.imm as u64);
                self.leave();
            }
            _ => {
                self.leave_state();
                self.leave();
            }
        }
    }

    /// Leaves for the dispatcher, by no link.
    pub(super) fn leave(&mut self) {
        self.asm.rr(W32, 0x31, RAX, RAX);
        self.asm.jmp_to(self.stubs.leave);
    }

    /// Puts slots and flags into memory; the host's flags stay.
    fn leave_state(&mut self) {
        self.revive();
        if self.host && !self.mem {
            self.save_flags();
        }
        self.regs.write_back(self.asm, u32::MAX);
        self.vectors.write_back(self.asm);
    }

    /// Whether `pc` lies in the page that this block begins in.
    fn same_page(&self, pc: u64) -> bool {
        let linear = pc.wrapping_add(self.target.base);
        let here = self.block.pc.wrapping_add(self.target.base);
        (linear ^ here) >> crate::state::PAGE_BITS == 0
    }

    fn two_way(&mut self, taken: u64, code: HostCc) {
        self.asm.moves.follows(taken);
        let other = self.block.next_pc;
        if self.same_page(taken) && taken > self.block.pc {
            let patch = self.jcc_linked(code);
            self.exits.push(Exit { patch, stub: 0, pc: taken });
        } else {
            let around = self.asm.jcc(code ^ 1);
            self.go(taken);
            self.asm.land(around);
        }
        self.go(other);
    }

    /// Goes to a constant pc; polls when that may close a loop.
    pub(super) fn go(&mut self, pc: u64) {
        self.asm.moves.follows(pc);
        if pc <= self.block.pc {
            stubs::poll(self.asm);
            let jump = self.asm.jcc(cc::NE);
            self.cold.push(Cold::Attention { jump, pc });
        }
        if !self.same_page(pc) {
            return stubs::lookup_constant(self.asm, self.stubs, pc);
        }
        self.asm.align_link(1);
        let patch = self.asm.jmp();
        self.exits.push(Exit { patch, stub: 0, pc });
    }

    /// A `jcc` that other processors may run while it is made to lead elsewhere.
    fn jcc_linked(&mut self, code: HostCc) -> Patch {
        self.asm.align_link(2);
        self.asm.jcc(code)
    }

    /// A row of the side table for an access by `op`.
    pub(super) fn record(&mut self, op: &Op, flags: u8, value: u8, constant: i32) -> u32 {
        let pairs = self.side.pairs.len();
        self.side.pairs.extend(self.regs.dirty_slots());
        self.side.pairs.extend(self.vectors.dirty_slots().map(|(slot, r)| (slot + SIDE, r)));
        self.side.records.push(Record {
            pc: self.pc,
            block: self.target.id,
            pairs: pairs as u32,
            count: (self.side.pairs.len() - pairs) as u8,
            w: op.w,
            flags: op.k & 0x7f | flags,
            value,
            constant,
            flags_from: self.pending.filter(|_| !self.mem),
            tail: self.behind(),
        });
        self.side.first_row + (self.side.records.len() - 1) as u32
    }
}

const _: () = assert!(exit::NONE == 0);
