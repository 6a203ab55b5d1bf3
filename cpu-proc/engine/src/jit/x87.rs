//! x87 instructions computed by the host's x87 where the guest's registers lie, without a call.
//!
//! A [`Opcode::Call`] of an x87 helper with `k` set may be done here instead ([`FORM_REGISTER`] and its kin). Whatever is out of the
//! ordinary (a stack fault, another control word, an unmasked or pending exception, an operand that the TLB does not know) leaves
//! for the helper before anything has changed. It goes on in another block then, so what a block has found out about the stack holds
//! to its end.
//!
//! Reading the host's status word costs as much as the arithmetic. So exception flags stay in the host's, where they
//! accumulate as the guest's do, and C1, which only the last operation decides, is left to be found out by repeating that
//! operation (`X87::lazy`).
//!
//! Source: Intel SDM volume 1 chapter 8, volume 2 (appendix A.5, escape opcodes).

use std::mem::offset_of;

use bulkhead_ir::liveness::effects;
use bulkhead_ir::{
    FORM_ADDRESS, FORM_REGISTER, FORM_VALUE, NONE, Name, Op, Opcode, VTEMP0, W8, W16, W32, W64, cc,
};

use super::asm::{M, NOREG, Patch, reg};
use super::cold::Cold;
use super::emit::Emitter;
use super::regs::{disp, state};
use crate::state::{Access, CoreState, LAZY_CLEAR, LAZY_NONE, LAZY_OP, X87};

use reg::{RAX, RBP, RDI, RSI};

/// Condition codes.
const CODES: i32 = 0x4700;
/// Exception flags.
const EXCEPTIONS: i32 = 0x3f;
/// `fstp st(0)`.
const POP: [u8; 2] = [0xdd, 0xd8];

/// What is known of the x87 at one point of a block.
#[derive(Clone, Copy, Default)]
pub(super) struct Known {
    /// `X87::ready` was seen set.
    ready: bool,
    /// How far TOP has moved since the block's start.
    depth: u8,
    /// Registers in use, by distance from TOP at the block's start.
    used: u8,
    /// Registers that are empty.
    empty: u8,
}

impl Known {
    fn bit(&self, i: u8) -> u8 {
        1 << ((self.depth + i) & 7)
    }

    fn fill(&mut self, i: u8) {
        self.used |= self.bit(i);
        self.empty &= !self.bit(i);
    }

    fn pop(&mut self) {
        self.empty |= self.bit(0);
        self.used &= !self.bit(0);
        self.depth = (self.depth + 1) & 7;
    }

    fn push(&mut self) {
        self.depth = (self.depth + 7) & 7;
        self.fill(0);
    }
}

/// What an instruction does, all operands in registers or in memory of `X87`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// `ST(to) = ST(to) op ST(from)`: digit as for a destination `ST(0)`.
    Binary {
        digit: u8,
        to: u8,
        from: u8,
    },
    /// `ST(0) = ST(0) op memory`: escape and digit.
    Memory {
        escape: u8,
        digit: u8,
    },
    /// `ST(0) = op(ST(0))`: last byte of the instruction.
    Unary {
        code: u8,
    },
    /// Compare of `ST(0)` with `ST(with)`.
    Compare {
        with: u8,
        unordered: bool,
    },
    /// The same into the flags.
    CompareFlags {
        with: u8,
        unordered: bool,
    },
    /// Compare with memory.
    CompareMemory {
        escape: u8,
    },
    /// `FTST`, `FXAM`: last byte.
    Test {
        code: u8,
    },
    /// `FCHS`, `FABS`.
    Sign {
        clear: bool,
    },
    Exchange {
        with: u8,
    },
    /// Push of `ST(from)`.
    Copy {
        from: u8,
    },
    /// Push of a constant: last byte.
    Constant {
        code: u8,
    },
    /// Push of such a memory operand: escape and digit.
    Load {
        escape: u8,
        digit: u8,
    },
    /// `ST(to) = ST(0)`.
    Move {
        to: u8,
    },
    /// Store to guest memory: escape and digit of the popping form, log2 size.
    Store {
        escape: u8,
        digit: u8,
        w: u8,
    },
    /// Ten bytes to guest memory.
    StoreTen,
    /// Push of ten bytes from guest memory.
    LoadTen,
}

/// An instruction, and how often it pops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Form {
    kind: Kind,
    pops: u8,
}

/// Decodes the 11-bit opcode of a register form; `None` when only the helper does it.
fn register_form(opcode: u16) -> Option<Form> {
    let (escape, digit, i) = ((opcode >> 8) as u8 & 7, (opcode >> 3) as u8 & 7, opcode as u8 & 7);
    let form = |kind, pops| Some(Form { kind, pops });
    // Subtraction and division are the other way round in the forms with destination `ST(i)`.
    let reversed = if digit >= 4 { digit ^ 1 } else { digit };
    match (escape, digit) {
        (0 | 4, 2) => form(Kind::Compare { with: i, unordered: false }, 0),
        (0 | 4, 3) | (6, 2) => form(Kind::Compare { with: i, unordered: false }, 1),
        (6, 3) => form(Kind::Compare { with: 1, unordered: false }, 2),
        (2, 5) => form(Kind::Compare { with: 1, unordered: true }, 2),
        (5, 4) => form(Kind::Compare { with: i, unordered: true }, 0),
        (5, 5) => form(Kind::Compare { with: i, unordered: true }, 1),
        (0, _) => form(Kind::Binary { digit, to: 0, from: i }, 0),
        (4, _) => form(Kind::Binary { digit: reversed, to: i, from: 0 }, 0),
        (6, _) => form(Kind::Binary { digit: reversed, to: i, from: 0 }, 1),
        (3, 5) => form(Kind::CompareFlags { with: i, unordered: true }, 0),
        (3, 6) => form(Kind::CompareFlags { with: i, unordered: false }, 0),
        (7, 5) => form(Kind::CompareFlags { with: i, unordered: true }, 1),
        (7, 6) => form(Kind::CompareFlags { with: i, unordered: false }, 1),
        (1, 0) => form(Kind::Copy { from: i }, 0),
        (1 | 5 | 7, 1) => form(Kind::Exchange { with: i }, 0),
        (5, 2) => form(Kind::Move { to: i }, 0),
        (5, 3) | (7, 2 | 3) => form(Kind::Move { to: i }, 1),
        (1, 4) => match i {
            0 => form(Kind::Sign { clear: false }, 0),
            1 => form(Kind::Sign { clear: true }, 0),
            4 | 5 => form(Kind::Test { code: 0xe0 | i }, 0),
            _ => None,
        },
        (1, 5) if i < 7 => form(Kind::Constant { code: 0xe8 | i }, 0),
        // FSQRT, FRNDINT
        (1, 7) if i == 2 || i == 4 => form(Kind::Unary { code: 0xf8 | i }, 0),
        _ => None,
    }
}

/// Likewise of a form with the value of a memory operand.
fn value_form(opcode: u16) -> Option<Form> {
    let (escape, digit) = ((opcode >> 8) as u8 & 7, (opcode >> 3) as u8 & 7);
    let (kind, pops) = match (escape, digit) {
        (0 | 2 | 4 | 6, 2 | 3) => (Kind::CompareMemory { escape }, digit & 1),
        (0 | 2 | 4 | 6, _) => (Kind::Memory { escape, digit }, 0),
        (1 | 3 | 5 | 7, 0) | (7, 5) => (Kind::Load { escape, digit }, 0),
        _ => return None,
    };
    Some(Form { kind, pops })
}

/// Likewise of a form with the address of a memory operand.
fn address_form(opcode: u16) -> Option<Form> {
    let (escape, digit) = ((opcode >> 8) as u8 & 7, (opcode >> 3) as u8 & 7);
    // The popping form in any case: it is the host's stack that is popped, which holds nothing between instructions.
    let store = |w, pops| Some(Form { kind: Kind::Store { escape, digit: digit | 1, w }, pops });
    match (escape, digit) {
        (1, 2 | 3) => store(W32, digit & 1),
        (5, 2 | 3) => store(W64, digit & 1),
        (3, 2 | 3) => store(W32, digit & 1),
        (7, 2 | 3) => store(W16, digit & 1),
        (3, 1) => store(W32, 1),
        (5, 1) | (7, 7) => store(W64, 1),
        (7, 1) => store(W16, 1),
        (3, 5) => Some(Form { kind: Kind::LoadTen, pops: 0 }),
        (3, 7) => Some(Form { kind: Kind::StoreTen, pops: 1 }),
        _ => None,
    }
}

fn form(op: &Op) -> Option<Form> {
    let opcode = (op.imm >> 16) as u16 & 0x7ff;
    match op.k {
        FORM_REGISTER => register_form(opcode),
        FORM_VALUE => value_form(opcode),
        FORM_ADDRESS => address_form(opcode),
        _ => None,
    }
}

fn field(offset: usize) -> M {
    state(offset_of!(CoreState, x87) + offset)
}

/// The register whose number times 16 is in `index`.
fn register(index: u8) -> M {
    M { base: RBP, index, scale: 0, disp: disp(offset_of!(CoreState, media)) }
}

fn plus(m: M, bytes: i32) -> M {
    M { disp: m.disp + bytes, ..m }
}

impl Emitter<'_> {
    /// Whether a call is of those that [`Emitter::x87`] does.
    pub(super) fn is_x87(op: &Op) -> bool {
        op.op == Opcode::Call && form(op).is_some()
    }

    /// Emits an x87 instruction; false when it is not one of these forms.
    pub(super) fn x87(&mut self, op: &Op) -> bool {
        let Some(Form { kind, pops }) = form(op) else { return false };
        let Some(helper) = self.helpers.get(usize::from(op.imm as u16)).copied() else { return false };
        self.clobber(u8::MAX);
        let mut args = [NOREG; 3];
        for (arg, name) in args.iter_mut().zip([op.a, op.b, op.s]) {
            if name != NONE {
                *arg = self.read(name);
            }
        }
        let slots: Vec<(Name, u8)> = self.regs.dirty_slots().collect();
        let vectors: Vec<(u8, u8)> = self.vectors.dirty_slots().filter(|&(slot, _)| slot < VTEMP0).collect();
        let observed = self.observed();

        let mut jumps = Vec::new();
        self.x87_guard(kind, &mut jumps);
        self.x87_access(op, kind, &mut jumps);
        let next = self.next_pc();
        self.cold.push(Cold::Helper {
            jumps,
            slots,
            vectors,
            pc: self.pc,
            next,
            func: helper.func,
            imm: op.imm >> 16,
            args,
            behind: self.behind(),
        });

        if observed {
            self.x87_track(op, args[2]);
        }
        if op.b != NONE {
            self.asm.store(W64, args[1], field(offset_of!(X87, dp)));
        }
        if let Kind::CompareFlags { with, unordered } = kind {
            self.x87_compare_flags(with, unordered, pops);
        } else {
            self.x87_compute(kind, args[0], observed);
            (0..pops).for_each(|_| self.x87_pop());
        }
        true
    }

    /// Forgets what is known of the x87: a helper may have changed it.
    pub(super) fn forget_x87(&mut self) {
        self.fpu = Known::default();
    }

    /// Whether C1 and the instruction pointer after the current op can be seen before an x87 instruction sets them again.
    fn observed(&self) -> bool {
        for op in self.block.ops.iter().skip(self.at + 1) {
            match op.op {
                Opcode::Call => {
                    let defines = op.k == FORM_REGISTER
                        && form(op).is_some_and(|f| !matches!(f.kind, Kind::CompareFlags { .. }));
                    return !defines;
                }
                _ if effects(op, |_| None).observes => return true,
                _ => {}
            }
        }
        true
    }

    /// Pc of the instruction after the current one.
    fn next_pc(&self) -> u64 {
        let later = self.block.ops.iter().skip(self.at + 1);
        later.into_iter().find(|op| op.op == Opcode::Insn).map_or(self.block.next_pc, |op| op.imm as u64)
    }

    /// Leaves unless the x87 is ready and the registers that `kind` needs are in use or empty.
    fn x87_guard(&mut self, kind: Kind, jumps: &mut Vec<Patch>) {
        if !self.fpu.ready {
            self.asm.alu_mi8(W32, 7, field(offset_of!(X87, ready)), 0);
            jumps.push(self.asm.jcc(cc::E));
            self.fpu.ready = true;
        }
        let (first, second) = match kind {
            Kind::Binary { to, from, .. } => (Some(to), Some(from)),
            Kind::Compare { with, .. } | Kind::CompareFlags { with, .. } | Kind::Exchange { with } => {
                (Some(0), Some(with))
            }
            Kind::Copy { from } => (Some(from), None),
            Kind::Constant { .. } | Kind::Load { .. } | Kind::LoadTen => (None, None),
            _ => (Some(0), None),
        };
        let pushes =
            matches!(kind, Kind::Copy { .. } | Kind::Constant { .. } | Kind::Load { .. } | Kind::LoadTen);
        let mut wanted: Vec<(u8, bool)> = [first, second]
            .into_iter()
            .flatten()
            .filter(|&i| self.fpu.used & self.fpu.bit(i) == 0)
            .map(|i| (i, true))
            .collect();
        wanted.dedup();
        if pushes && self.fpu.empty & self.fpu.bit(7) == 0 {
            wanted.push((7, false));
        }
        if wanted.is_empty() {
            return;
        }
        self.asm.load(W32, RDI, field(offset_of!(X87, top)));
        self.asm.load(W8, RAX, field(offset_of!(X87, tags)));
        self.asm.rr(W32, 0x69, RAX, RAX); // imul eax, eax, 0x101
        self.asm.imm(W32, 0x101);
        for (i, used) in wanted {
            let at = if i == 0 {
                RDI
            } else {
                self.asm.lea(W32, RSI, M::base(RDI, i32::from(i)));
                RSI
            };
            self.asm.rr(W32, 0x0fa3, at, RAX); // bt eax, at
            jumps.push(self.asm.jcc(if used { cc::AE } else { cc::B }));
            if used {
                self.fpu.fill(i);
            } else {
                self.fpu.empty |= self.fpu.bit(i);
            }
        }
    }

    /// For operands in guest memory: rsi becomes their host address.
    fn x87_access(&mut self, op: &Op, kind: Kind, jumps: &mut Vec<Patch>) {
        let (w, access) = match kind {
            Kind::Store { w, .. } => (w, Access::Write),
            // All sixteen bytes from there on have to lie in the page; no matter, the helper does the rest.
            Kind::StoreTen => (4, Access::Write),
            Kind::LoadTen => (4, Access::Read),
            _ => return,
        };
        let place = Op { w, a: op.a, ..Op::new(Opcode::Ld) };
        jumps.push(self.translate(&place, access, 0));
    }

    /// Notes opcode and instruction pointer; `pointer` holds the latter with its selector, where there is one.
    fn x87_track(&mut self, op: &Op, pointer: u8) {
        self.asm.mov_mi(W16, field(offset_of!(X87, opcode)), (op.imm >> 16) as i32 & 0x7ff);
        let ip = field(offset_of!(X87, ip));
        if pointer != NOREG {
            self.asm.store(W64, pointer, ip);
        } else if let Ok(small) = i32::try_from(self.pc as i64) {
            self.asm.mov_mi(W64, ip, small);
        } else {
            self.asm.mov_ri(RAX, self.pc);
            self.asm.store(W64, RAX, ip);
        }
    }

    fn lazy(&mut self, value: u16) {
        self.asm.mov_mi(W16, field(offset_of!(X87, lazy)), i32::from(value));
    }

    /// `at` = number of `ST(i)` times 16.
    fn x87_index(&mut self, at: u8, i: u8) {
        self.asm.load(W32, at, field(offset_of!(X87, top)));
        self.asm.rr(W32, 0xc1, 4, at); // shl at, 4
        self.asm.bytes(&[4]);
        if i != 0 {
            self.asm.alu_ri(W32, 0, at, i32::from(i) * 16);
            self.asm.alu_ri(W32, 4, at, 0x70);
        }
    }

    fn fld(&mut self, m: M) {
        self.asm.rm(W32, 0xdb, 5, m);
    }

    fn fstp(&mut self, m: M) {
        self.asm.rm(W32, 0xdb, 7, m);
    }

    /// Copies ten bytes through rax.
    fn copy_ten(&mut self, to: M, from: M) {
        self.asm.load(W64, RAX, from);
        self.asm.store(W64, RAX, to);
        self.asm.load(W16, RAX, plus(from, 8));
        self.asm.store(W16, RAX, plus(to, 8));
    }

    /// Sets operands aside to find out C1 later.
    fn keep(&mut self, observed: bool, operation: u16, first: M, second: Option<M>) {
        if !observed {
            return;
        }
        self.copy_ten(field(offset_of!(X87, first)), first);
        if let Some(second) = second {
            self.copy_ten(field(offset_of!(X87, second)), second);
        }
        self.lazy(LAZY_OP | operation);
    }

    /// `ST(0)` becomes empty.
    fn x87_pop(&mut self) {
        self.asm.load(W32, RDI, field(offset_of!(X87, top)));
        self.asm.load(W8, RAX, field(offset_of!(X87, tags)));
        self.asm.rr(W32, 0x0fb3, RDI, RAX); // btr eax, edi
        self.asm.store(W8, RAX, field(offset_of!(X87, tags)));
        self.asm.alu_ri(W32, 0, RDI, 1);
        self.asm.alu_ri(W32, 4, RDI, 7);
        self.asm.store(W32, RDI, field(offset_of!(X87, top)));
        self.fpu.pop();
    }

    /// Makes room: the register is in use, rdi its number times 16. Changes rax.
    fn x87_push(&mut self) {
        self.asm.load(W32, RDI, field(offset_of!(X87, top)));
        self.asm.alu_ri(W32, 0, RDI, 7);
        self.asm.alu_ri(W32, 4, RDI, 7);
        self.asm.load(W8, RAX, field(offset_of!(X87, tags)));
        self.asm.rr(W32, 0x0fab, RDI, RAX); // bts eax, edi
        self.asm.store(W8, RAX, field(offset_of!(X87, tags)));
        self.asm.store(W32, RDI, field(offset_of!(X87, top)));
        self.asm.rr(W32, 0xc1, 4, RDI); // shl edi, 4
        self.asm.bytes(&[4]);
        self.fpu.push();
    }

    /// Takes condition codes and flags from the host's status word in ax. Changes rax and rdi.
    fn take_codes(&mut self) {
        self.asm.alu_ri(W32, 4, RAX, CODES | EXCEPTIONS);
        let status = field(offset_of!(X87, status));
        self.asm.load(W16, RDI, status);
        self.asm.alu_ri(W32, 4, RDI, !CODES & 0xffff);
        self.asm.rr(W32, 0x09, RAX, RDI); // or edi, eax
        self.asm.store(W16, RDI, status);
        self.lazy(LAZY_NONE);
    }

    fn fnstsw(&mut self) {
        self.asm.bytes(&[0xdf, 0xe0]);
    }

    fn x87_compute(&mut self, kind: Kind, value: u8, observed: bool) {
        let memory = field(if observed { offset_of!(X87, memory) } else { offset_of!(X87, passing) });
        match kind {
            Kind::Binary { digit, to, from } => {
                self.x87_index(RDI, to);
                self.x87_index(RSI, from);
                let (to, from) = (register(RDI), register(RSI));
                self.keep(observed, 0xc0 | u16::from(digit) << 3, to, Some(from));
                self.fld(to);
                self.fld(from);
                // `ST(1) = ST(1) op ST(0)`, then pop, whose digits are the other way round again.
                let digit = if digit >= 4 { digit ^ 1 } else { digit };
                self.asm.bytes(&[0xde, 0xc1 | digit << 3]);
                self.fstp(to);
            }
            Kind::Memory { escape, digit } => {
                self.x87_index(RDI, 0);
                let to = register(RDI);
                self.asm.store(W64, value, memory);
                self.keep(observed, u16::from(escape) << 8 | u16::from(digit) << 3, to, None);
                self.fld(to);
                self.asm.rm(W32, 0xd8 | u16::from(escape), digit, memory);
                self.fstp(to);
            }
            Kind::Unary { code } => {
                self.x87_index(RDI, 0);
                let to = register(RDI);
                self.keep(observed, 1 << 8 | u16::from(code), to, None);
                self.fld(to);
                self.asm.bytes(&[0xd9, code]);
                self.fstp(to);
            }
            // Done by `x87_compare_flags`.
            Kind::CompareFlags { .. } => {}
            Kind::Compare { with, unordered } => {
                self.x87_index(RDI, 0);
                self.x87_index(RSI, with);
                self.fld(register(RSI));
                self.fld(register(RDI));
                self.asm.bytes(if unordered { &[0xda, 0xe9] } else { &[0xde, 0xd9] });
                self.fnstsw();
                self.take_codes();
            }
            Kind::CompareMemory { escape } => {
                self.x87_index(RDI, 0);
                self.asm.store(W64, value, memory);
                self.fld(register(RDI));
                self.asm.rm(W32, 0xd8 | u16::from(escape), 3, memory); // fcomp
                self.fnstsw();
                self.take_codes();
            }
            Kind::Test { code } => {
                self.x87_index(RDI, 0);
                self.fld(register(RDI));
                self.asm.bytes(&[0xd9, code]);
                self.fnstsw();
                self.asm.bytes(&POP);
                self.take_codes();
            }
            Kind::Sign { clear } => {
                self.x87_index(RDI, 0);
                let high = plus(register(RDI), 8);
                self.asm.load(W16, RAX, high);
                self.asm.alu_ri(W32, if clear { 4 } else { 6 }, RAX, if clear { 0x7fff } else { 0x8000 });
                self.asm.store(W16, RAX, high);
                self.clear(observed);
            }
            Kind::Exchange { with } => {
                self.x87_index(RDI, 0);
                self.x87_index(RSI, with);
                self.fld(register(RDI));
                self.copy_ten(register(RDI), register(RSI));
                self.fstp(register(RSI));
                self.clear(observed);
            }
            Kind::Copy { from } => {
                self.x87_index(RSI, from);
                self.x87_push();
                self.copy_ten(register(RDI), register(RSI));
                self.clear(observed);
            }
            Kind::Constant { code } => {
                self.x87_push();
                self.asm.bytes(&[0xd9, code]);
                self.fstp(register(RDI));
                self.clear(observed);
            }
            Kind::Load { escape, digit } => {
                self.asm.store(W64, value, memory);
                self.x87_push();
                self.asm.rm(W32, 0xd8 | u16::from(escape), digit, memory);
                self.fstp(register(RDI));
                self.clear(observed);
            }
            Kind::Move { to } => {
                self.x87_index(RDI, 0);
                if to != 0 {
                    self.x87_index(RSI, to);
                    self.copy_ten(register(RSI), register(RDI));
                    self.x87_use(to);
                }
                self.clear(observed);
            }
            Kind::Store { escape, digit, .. } => {
                self.x87_index(RDI, 0);
                self.keep(observed, u16::from(escape) << 8 | u16::from(digit) << 3, register(RDI), None);
                self.fld(register(RDI));
                self.asm.rm(W32, 0xd8 | u16::from(escape), digit, M::base(RSI, 0));
            }
            Kind::StoreTen => {
                self.x87_index(RDI, 0);
                self.copy_ten(M::base(RSI, 0), register(RDI));
                self.clear(observed);
            }
            Kind::LoadTen => {
                self.x87_push();
                self.copy_ten(register(RDI), M::base(RSI, 0));
                self.clear(observed);
            }
        }
    }

    /// `FCOMI` and kin: the host's flags are the guest's. C1 stays.
    fn x87_compare_flags(&mut self, with: u8, unordered: bool, pops: u8) {
        self.x87_index(RDI, 0);
        self.x87_index(RSI, with);
        self.fld(register(RSI));
        self.fld(register(RDI));
        // Popping changes the host's flags, so it comes before the compare, which cannot fail any more.
        (0..pops).for_each(|_| self.x87_pop());
        self.asm.bytes(&[0xdf, if unordered { 0xe9 } else { 0xf1 }]);
        self.asm.bytes(&POP);
        self.flags_set();
    }

    /// `ST(i)` is in use. Changes rax and rdi.
    fn x87_use(&mut self, i: u8) {
        if self.fpu.used & self.fpu.bit(i) != 0 {
            return;
        }
        self.asm.load(W32, RDI, field(offset_of!(X87, top)));
        self.asm.alu_ri(W32, 0, RDI, i32::from(i));
        self.asm.alu_ri(W32, 4, RDI, 7);
        self.asm.load(W8, RAX, field(offset_of!(X87, tags)));
        self.asm.rr(W32, 0x0fab, RDI, RAX); // bts eax, edi
        self.asm.store(W8, RAX, field(offset_of!(X87, tags)));
        self.fpu.fill(i);
    }

    /// C1 is zero from here on.
    fn clear(&mut self, observed: bool) {
        if observed {
            self.lazy(LAZY_CLEAR);
        }
    }
}
