//! Guest memory accesses and vector ops.

use std::mem::offset_of;

use bulkhead_ir::liveness::{Life, bit};
use bulkhead_ir::{
    ADDR32, ALIGN16, IMPLICIT_SUPERVISOR, LD_FOR_WRITE, NONE, Name, Op, Opcode, SET_FLAGS, VSLOTS, VTEMP0,
    VecOp, VecShape, W8, W16, W32, W64, cc,
};

use super::asm::{M, NOREG, Opc, Patch, reg};
use super::cold::Cold;
use super::emit::Emitter;
use super::regs::state;
use super::stubs::{SEARCH_READ, SEARCH_UPDATE, SEARCH_WRITE, VECTOR, tlb_entry, tlb_index_mask};
use super::vectors;
use super::windows::Window;
use crate::state::{Access, CoreState, GUESS_LIMIT, GUESSES, Guess, MMU_KERNEL, MMU_MODES, TlbEntry};
use crate::vecinsn;

use reg::{RAX, RDI, RSI};

/// Operand of a media slot, or of a vector temporary.
fn media_mem(slot: u8) -> M {
    if slot >= VTEMP0 {
        vectors::slot_mem(slot)
    } else {
        state(offset_of!(CoreState, media) + usize::from(slot % 8) * 16)
    }
}

const _: () = assert!(size_of::<TlbEntry>() == 16);
const _: () = assert!(offset_of!(CoreState, media) % 16 == 0);

/// A linear address in host registers: `base + (index << scale) + imm`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Linear {
    base: u8,
    index: u8,
    scale: u8,
    imm: i64,
    /// It wraps at 32 bits.
    narrow: bool,
}

/// What an access does to or with memory, so that it can be emitted twice.
#[derive(Clone, Copy, Debug)]
pub(super) enum Redo {
    /// Nothing: the value is not needed.
    Nothing,
    /// `reg` = memory, zero-extended.
    Load { w: u8, reg: u8 },
    /// `reg` = `reg` op memory.
    Alu { w: u8, opcode: Opc, reg: u8 },
    /// Memory = constant.
    Constant { w: u8, value: i32 },
    /// Memory = `reg`.
    Store { w: u8, reg: u8 },
    /// Vector register = memory, rest zero.
    LoadVector { w: u8, reg: u8 },
    /// Memory = low part of the vector register.
    StoreVector { w: u8, reg: u8 },
}

/// How an access finds its host address.
#[derive(Clone, Copy)]
enum Route {
    /// By a lookup of its own.
    Alone,
    /// By a lookup of a window, of which it is `from` bytes behind the start.
    First { window: Window, reg: u8, from: i32 },
    /// `from` bytes behind the start of the window in `reg`.
    Kept { reg: u8, from: i32 },
    /// By the translation that it used last, of this number.
    Guess { guess: usize },
}

/// An access whose lookup has been emitted.
struct Found {
    jump: Patch,
    /// Its operand.
    memory: M,
    route: Route,
    record: u32,
    kind: Access,
    /// End of the lookup.
    middle: usize,
    /// Whether vector slots are in registers.
    vectors: bool,
    /// The address, of registers as they are before `middle`.
    linear: Linear,
}

/// A field of a guess.
fn guess_field(mode: usize, guess: usize, field: usize) -> M {
    let number = (mode % MMU_MODES) * GUESSES + guess % GUESSES;
    state(offset_of!(CoreState, guesses) + number * size_of::<Guess>() + field)
}

impl Emitter<'_> {
    /// rsi becomes the linear address of the access.
    fn linear(&mut self, op: &Op) {
        let m = self.operand(op);
        if op.k & ADDR32 != 0 {
            self.asm.lea(W32, RSI, m);
        } else if m.index == NOREG && m.disp == 0 && m.base != NOREG {
            self.asm.mov(W64, RSI, m.base);
        } else if m.base == NOREG && m.index == NOREG {
            self.asm.mov_ri(RSI, i64::from(m.disp) as u64);
        } else {
            self.asm.lea(W64, RSI, m);
        }
    }

    /// As [`Emitter::linear`], in a cold part: of registers as they were.
    pub(super) fn address(&mut self, linear: &Linear) {
        let Linear { base, index, scale, imm, narrow } = *linear;
        let disp = match i32::try_from(imm) {
            Ok(disp) if base != NOREG || index != NOREG => disp,
            _ => {
                self.asm.mov_ri(RSI, imm as u64);
                if index != NOREG {
                    self.asm.lea(W64, RSI, M { base: RSI, index, scale, disp: 0 });
                }
                if base != NOREG {
                    self.asm.lea(W64, RSI, M { base: RSI, index: base, scale: 0, disp: 0 });
                }
                if narrow {
                    self.asm.mov(W32, RSI, RSI);
                }
                return;
            }
        };
        self.asm.lea(if narrow { W32 } else { W64 }, RSI, M { base, index, scale, disp });
    }

    /// Emits the lookup: rsi becomes the host address of the access. The flags must be saved or dead afterwards.
    pub(super) fn translate(&mut self, op: &Op, access: Access, record: u32) -> Patch {
        self.linear(op);
        if op.k & ALIGN16 != 0 && matches!(op.op, Opcode::LdV | Opcode::StV) {
            self.asm.rr(W8, 0xf6, 0, RSI); // test sil, 15
            self.asm.bytes(&[15]);
            let jump = self.asm.jcc(cc::NE);
            self.cold.push(Cold::Misaligned { jump, record });
        }
        self.look_up(op, access, 1 << op.w.min(4))
    }

    /// [`Opcode::Canonical`]: bits 47 to 63 are all the same.
    pub(super) fn canonical(&mut self, op: &Op) {
        self.before_access();
        let a = self.read(op.a);
        let record = self.record(op, 0, NOREG, 0);
        self.asm.mov(W64, RSI, a);
        self.asm.mov(W64, RAX, RSI);
        self.asm.rr(W64, 0xc1, 7, RAX); // sar rax, 47
        self.asm.bytes(&[47]);
        self.asm.alu_ri(W32, 0, RAX, 1); // add, cmp
        self.asm.alu_ri(W32, 7, RAX, 1);
        let jump = self.asm.jcc(cc::A);
        self.cold.push(Cold::Misaligned { jump, record });
    }

    /// The lookup of `size` bytes at the linear address in rsi.
    fn look_up(&mut self, op: &Op, access: Access, size: i32) -> Patch {
        let mode = self.mode(op);
        let jump = self.find_entry(mode, access, size);
        self.asm.rm(W64, 0x03, RSI, tlb_entry(mode, access, offset_of!(TlbEntry, addend)));
        self.host = false;
        jump
    }

    /// rdi becomes the offset of the TLB entry for the address in rsi; the jump is taken when that is of another page.
    fn find_entry(&mut self, mode: usize, access: Access, size: i32) -> Patch {
        if self.target.bmi2 {
            self.asm.rorx(W32, RDI, RSI, 8);
        } else {
            self.asm.mov(W32, RDI, RSI);
            self.asm.rr(W32, 0xc1, 5, RDI);
            self.asm.bytes(&[8]);
        }
        self.asm.alu_ri(W32, 4, RDI, tlb_index_mask());
        self.asm.load(W64, RAX, tlb_entry(mode, access, offset_of!(TlbEntry, tag)));
        self.asm.op_rr(W64, 0x31, RAX, RSI);
        // `cmp rax, imm32`
        self.asm.alu_ri(W64, 7, RAX, 4096 - size);
        self.asm.jcc(cc::A)
    }

    /// The address in rsi against what the load used last. On a hit the host address is rsi + rdi.
    fn guess(&mut self, mode: usize, guess: usize) -> Patch {
        let field = |field: usize| guess_field(mode, guess, field);
        self.asm.load(W64, RDI, field(offset_of!(Guess, addend)));
        self.asm.mov(W64, RAX, RSI);
        self.asm.rm(W64, 0x33, RAX, field(offset_of!(Guess, tag)));
        self.asm.rm(W64, 0x3b, RAX, field(offset_of!(Guess, limit)));
        self.host = false;
        self.asm.jcc(cc::AE)
    }

    /// In a cold part: a lookup for reading that makes the next guess; rsi becomes the host address and rdi zero.
    pub(super) fn look_up_and_guess(&mut self, mode: usize, size: i32, guess: usize) -> Patch {
        let field = |field: usize| guess_field(mode, guess, field);
        let slow = self.find_entry(mode, Access::Read, size);
        let addend = tlb_entry(mode, Access::Read, offset_of!(TlbEntry, addend));
        self.asm.alu_mi8(W64, 5, field(offset_of!(Guess, budget)), 1);
        let enough = self.asm.jcc(cc::S);
        self.asm.mov(W64, RAX, RSI);
        self.asm.alu_ri(W64, 4, RAX, -4096);
        self.asm.store(W64, RAX, field(offset_of!(Guess, tag)));
        self.asm.load(W64, RAX, addend);
        self.asm.store(W64, RAX, field(offset_of!(Guess, addend)));
        self.asm.mov_mi(W64, field(offset_of!(Guess, limit)), GUESS_LIMIT as i32);
        self.asm.mov_mi(W32, state(offset_of!(CoreState, guessed)), 1);
        self.asm.land(enough);
        self.asm.rm(W64, 0x03, RSI, addend);
        self.asm.rr(W32, 0x31, RDI, RDI);
        slow
    }

    /// The guess of the load that is being emitted, if it has one: a load from a table in a loop, of one block.
    fn guess_number(&mut self, op: &Op) -> Option<usize> {
        if op.op != Opcode::Ld || op.b == NONE || self.rounds() == 1 {
            return None;
        }
        let known = self.guesses.iter().find(|(at, _)| *at == self.at).map(|(_, guess)| *guess);
        Some(known.unwrap_or_else(|| {
            let guess = *self.next_guess % GUESSES;
            *self.next_guess = guess + 1;
            self.guesses.push((self.at, guess));
            guess
        }))
    }

    /// MMU mode of an access.
    fn mode(&self, op: &Op) -> usize {
        if op.k & IMPLICIT_SUPERVISOR != 0 { MMU_KERNEL } else { self.target.mode }
    }

    /// Chooses how the access finds its host address. Operands, and windows, are in registers afterwards.
    fn route(&mut self, op: &Op, kind: Access) -> Route {
        self.operands(op);
        if let Some((name, from)) = self.windows.find(op, kind) {
            return Route::Kept { reg: self.read(name), from };
        }
        let Some(window) = self.span(op, kind) else {
            let guess = self.guess_number(op).filter(|_| kind == Access::Read);
            return guess.map_or(Route::Alone, |guess| Route::Guess { guess });
        };
        let name = self.windows.add(window);
        let reg = self.alloc();
        self.regs.bind(name, reg);
        Route::First { window, reg, from: op.imm.wrapping_sub(window.low) as i32 }
    }

    /// Emits the lookup of an access on its `route`. Until [`Emitter::complete`], only code that goes straight on may follow.
    fn locate(&mut self, op: &Op, kind: Access, route: Route, record: u32) -> Found {
        let (jump, memory) = match route {
            Route::Alone => (self.translate(op, kind, record), M::base(RSI, 0)),
            Route::First { window, reg, from } => {
                self.linear(&Op { imm: window.low, ..*op });
                let kind = if window.write { Access::Write } else { Access::Read };
                let jump = self.look_up(op, kind, window.high.wrapping_sub(window.low) as i32);
                self.asm.mov(W64, reg, RSI);
                (jump, M::base(RSI, from))
            }
            Route::Guess { guess } => {
                self.linear(op);
                let jump = self.guess(self.mode(op), guess);
                (jump, M { base: RSI, index: RDI, scale: 0, disp: 0 })
            }
            Route::Kept { reg, from } => {
                self.asm.op_rr(W64, 0x85, reg, reg);
                let jump = self.asm.jcc(cc::E);
                self.host = false;
                (jump, M::base(reg, from))
            }
        };
        let register = |name: Name| self.regs.find(name).unwrap_or(NOREG);
        let (base, index, narrow) = (register(op.a), register(op.b), op.k & ADDR32 != 0);
        let linear = Linear { base, index, scale: op.s & 3, imm: op.imm, narrow };
        let (middle, vectors) = (self.asm.here(), self.vectors.any());
        Found { jump, memory, route, record, kind, middle, vectors, linear }
    }

    /// Emits the access itself and notes its cold part.
    fn complete(&mut self, op: &Op, found: Found, redo: Redo) {
        let Found { jump, memory, route, record, kind, middle, vectors, linear } = found;
        let store = matches!(op.op, Opcode::St | Opcode::StV);
        let before = self.asm.here();
        self.redo(redo, memory);
        let after = self.asm.here();
        let search = match (store, kind) {
            (true, _) => SEARCH_WRITE,
            (false, Access::Write) => SEARCH_UPDATE,
            (false, _) => SEARCH_READ,
        };
        let search = self.stubs.searches[usize::from(vectors)][self.mode(op)][search];
        let (w, narrow) = (op.w, linear.narrow);
        self.cold.push(match route {
            Route::Alone => {
                let back = if store { after } else { middle };
                Cold::Access { jump, back, record, store, vectors }
            }
            Route::First { reg: window, from, .. } => {
                Cold::First { jump, back: middle, record, search, w, window, from, narrow }
            }
            Route::Guess { guess } => {
                let (mode, size) = (self.mode(op), 1 << w.min(4));
                Cold::Guess { jump, back: middle, record, mode, size, guess, vectors }
            }
            Route::Kept { .. } => {
                Cold::Kept { jump, record, search, w, linear, middle: middle..before, redo, after }
            }
        });
    }

    /// Everything an access observes goes to where the slow path finds it.
    fn before_access(&mut self) {
        self.clobber(u8::MAX);
    }

    /// Emits an access at `m`. Changes rax for the narrow vector forms only.
    pub(super) fn redo(&mut self, redo: Redo, m: M) {
        match redo {
            Redo::Nothing => {}
            Redo::Load { w, reg } => self.asm.load(w, reg, m),
            Redo::Alu { w, opcode, reg } => self.asm.op_rm(w, opcode, reg, m),
            Redo::Constant { w, value } => self.asm.mov_mi(w, m, value),
            Redo::Store { w, reg } => self.asm.store(w, reg, m),
            Redo::LoadVector { w: 4, reg } => self.asm.rm(W32, 0x0f10, reg, m), // movups
            Redo::StoreVector { w: 4, reg } => self.asm.rm(W32, 0x0f11, reg, m),
            Redo::LoadVector { w: w @ (W32 | W64), reg } => {
                self.asm.bytes(&[if w == W64 { 0xf2 } else { 0xf3 }]);
                self.asm.rm(W32, 0x0f10, reg, m); // movsd, movss
            }
            Redo::StoreVector { w: w @ (W32 | W64), reg } => {
                self.asm.bytes(&[if w == W64 { 0xf2 } else { 0xf3 }]);
                self.asm.rm(W32, 0x0f11, reg, m);
            }
            Redo::LoadVector { w, reg } => {
                self.asm.load(w, RAX, m);
                self.asm.rr(W16, 0x0f6e, reg, RAX); // movd xmm, eax
            }
            Redo::StoreVector { w, reg } => {
                self.asm.rr(W16, 0x0f7e, reg, RAX); // movd eax, xmm
                self.asm.store(w, RAX, m);
            }
        }
    }

    /// Calls one of the searches for an access of `1 << w` bytes at rsi.
    pub(super) fn search(&mut self, search: usize, record: u32, w: u8) {
        self.name_record(record);
        self.asm.mov_fixed(RAX, 4096 - (1 << w.min(4)));
        self.asm.call_to(search);
    }

    /// A load, together with the ALU op behind it when that is its only reader.
    pub(super) fn load(&mut self, op: &Op, life: Life, next: Option<(&Op, &Life)>) -> bool {
        self.before_access();
        let access = if op.k & LD_FOR_WRITE != 0 { Access::Write } else { Access::Read };
        // Operands are in registers before the record is taken, so that it describes them.
        let route = self.route(op, access);
        let record = self.record(op, 0, NOREG, 0);
        let found = self.locate(op, access, route, record);
        self.unlock_operands(op);
        if let Some((next, after)) = next
            && folds(op, next, *after)
        {
            self.fold(op, found, next, *after);
            return true;
        }
        if op.d == NONE || (life.names & bit(op.d) == 0 && op.d >= bulkhead_ir::TEMP0) {
            self.complete(op, found, Redo::Nothing);
            return false;
        }
        self.regs.end_op(life.names & !bit(op.d) | self.windows.names());
        if let Route::Kept { reg, .. } = found.route {
            self.regs.lock(reg);
        }
        let d = self.regs.alloc(self.asm);
        self.complete(op, found, Redo::Load { w: op.w, reg: d });
        self.regs.bind(op.d, d);
        false
    }

    /// `next` = `x op loaded`, straight from memory.
    fn fold(&mut self, op: &Op, found: Found, next: &Op, after: Life) {
        const OPCODES: [Opc; 7] = [0x03, 0x0b, 0x13, 0x1b, 0x23, 0x2b, 0x33];
        let sets = next.s & SET_FLAGS != 0 && after.flags != 0;
        // Flags are in memory since `before_access`, or can be found out, so the host's are free.
        let lost = self.before_op(next, after);
        if next.d == NONE {
            let reg = self.regs.read(self.asm, next.a);
            self.complete(op, found, Redo::Alu { w: next.w, opcode: 0x3b, reg });
        } else {
            let reg = self.copy(next.d, next.a, after, next.w);
            let opcode = OPCODES[usize::from(next.k.min(6))];
            self.complete(op, found, Redo::Alu { w: next.w, opcode, reg });
            self.regs.bind(next.d, reg);
        }
        if sets {
            self.flags_set();
        } else {
            self.host = false;
        }
        self.after_op(lost);
    }

    /// Loads the address operands into registers.
    fn operands(&mut self, op: &Op) {
        for name in [op.a, op.b] {
            if name != NONE && self.regs.constant(name).is_none() {
                self.regs.read(self.asm, name);
            }
        }
    }

    fn unlock_operands(&mut self, op: &Op) {
        for name in [op.a, op.b] {
            if name != NONE
                && let Some(r) = self.regs.find(name)
            {
                self.regs.unlock(r);
            }
        }
    }

    pub(super) fn store(&mut self, op: &Op) {
        self.before_access();
        self.operands(op);
        let constant = self.short(op.w, op.d);
        let value = match constant {
            Some(_) => NOREG,
            None => self.regs.read(self.asm, op.d),
        };
        let route = self.route(op, Access::Write);
        let record = self.record(op, 0, value, constant.unwrap_or(0));
        let found = self.locate(op, Access::Write, route, record);
        let redo = match constant {
            Some(value) => Redo::Constant { w: op.w, value },
            None => Redo::Store { w: op.w, reg: value },
        };
        self.complete(op, found, redo);
    }

    pub(super) fn vector_access(&mut self, op: &Op) {
        self.before_access();
        let (w, load) = (op.w, op.op == Opcode::LdV);
        let kind = if load { Access::Read } else { Access::Write };
        let value = if load { NOREG } else { self.vectors.read(self.asm, op.d) };
        let route = self.route(op, kind);
        let record = self.record(op, VECTOR, value, 0);
        let found = self.locate(op, kind, route, record);
        if load {
            // Only now, past the fault, may the slot change.
            let reg = self.vectors.define(self.asm, op.d);
            self.complete(op, found, Redo::LoadVector { w, reg });
        } else {
            self.complete(op, found, Redo::StoreVector { w, reg: value });
        }
    }

    pub(super) fn vector(&mut self, op: &Op, life: Life) {
        let insn = VecOp::unpack(op.imm);
        let mut code = Vec::with_capacity(12);
        if op.k == VecShape::MM as u8 {
            for slot in [op.d, op.a].into_iter().filter(|&slot| (VTEMP0..VSLOTS).contains(&slot)) {
                self.vectors.flush(self.asm, slot);
            }
            // Tag bits of the host's x87 are nobody's: EMMS leaves the unit as Rust code expects it.
            let (d, a) = (media_mem(op.d), media_mem(op.a));
            self.asm.rm(W32, 0x0f6f, 0, d);
            if insn.digit == 0 {
                self.asm.rm(W32, 0x0f6f, 1, a);
            }
            vecinsn::encode(&mut code, insn, op.k, op.w, 0, 1);
            self.asm.bytes(&code);
            self.asm.rm(W32, 0x0f7f, 0, d);
            self.asm.bytes(&[0x0f, 0x77]);
            if op.d < VTEMP0 {
                self.asm.mov_mi(W16, M { disp: d.disp + 8, ..d }, -1);
            }
            return;
        }
        if op.k == VecShape::GV as u8 {
            let a = self.vectors.read(self.asm, op.a);
            let d = self.regs.alloc(self.asm);
            vecinsn::encode(&mut code, insn, op.k, op.w, d, a);
            self.asm.bytes(&code);
            self.regs.bind(op.d, d);
            return;
        }
        if op.k == VecShape::VV as u8 && is_whole_move(insn) {
            let a = self.vectors.read(self.asm, op.a);
            let d = self.vectors.define(self.asm, op.d);
            self.asm.rr(W32, 0x0f28, d, a);
            return;
        }
        let d = self.vectors.read(self.asm, op.d);
        let a = if op.k == VecShape::VG as u8 {
            self.regs.read(self.asm, op.a)
        } else if insn.digit == 0 {
            self.vectors.read(self.asm, op.a)
        } else {
            0
        };
        vecinsn::encode(&mut code, insn, op.k, op.w, d, a);
        self.asm.bytes(&code);
        if op.k == VecShape::Flags as u8 {
            if life.flags != 0 {
                self.flags_set();
            } else {
                self.host = false;
            }
        } else {
            self.vectors.changed(op.d);
        }
    }
}

/// Whether the ALU op `next` is the only reader of what `op` loads, and can take it straight from memory.
fn folds(op: &Op, next: &Op, after: Life) -> bool {
    let temp = op.d;
    let compare = next.k == 5;
    next.op == Opcode::Alu
        && next.b == temp
        && next.a != temp
        && next.w == op.w
        && temp >= bulkhead_ir::TEMP0
        && after.names & bit(temp) == 0
        && next.d != temp
        && !matches!(next.k, 2 | 3)
        && (next.d != NONE || compare)
}

/// `MOVAPS` between registers, which needs no old value of its destination.
fn is_whole_move(insn: VecOp) -> bool {
    insn == VecOp { map: 1, opcode: 0x28, ..VecOp::default() }
}
