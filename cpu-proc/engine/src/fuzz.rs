//! Random programs on the interpreter and on the compiler: everything observable must be equal.

use std::mem::offset_of;

use bulkhead_ir::*;

use crate::testing::{DEVICE, OPS, Rig, TestCpu, stop_ops};
use crate::{CoreState, Engine, count};

/// Xorshift.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 33) % n
    }
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
    /// Values with interesting edges.
    fn value(&mut self) -> u64 {
        match self.below(6) {
            0 => self.below(4),
            1 => 0u64.wrapping_sub(self.below(4)),
            2 => 1 << self.below(64),
            3 => (1u64 << self.below(64)).wrapping_sub(1),
            _ => self.next(),
        }
    }
}

/// Slots that hold addresses and loop counts; programs compute in the others (0..8).
const POINTERS: [Name; 4] = [8, 9, 10, 11];
const INDEX: Name = 12;
const COUNTER: Name = 13;
const CODE: u64 = 0x1000;

/// `MOVAPS` between registers.
const MOVAPS: VecOp = VecOp { prefix: 0, map: 1, opcode: 0x28, has_imm: false, imm: 0, digit: 0, fp: false };

struct Gen<'a> {
    rng: &'a mut Rng,
    /// Bits of each temporary that are defined.
    bits: [u32; 32],
    /// Flags whose value the architecture leaves open.
    open: u8,
    ops: Vec<Op>,
    next_temp: u8,
}

fn width_bits(w: u8) -> u32 {
    8 << w
}

impl Gen<'_> {
    fn temp(&mut self) -> Name {
        // Rotating, as a front end does; the last one is the stop sequence's.
        self.next_temp = (self.next_temp + 1) % (TEMPS_END - 1 - TEMP0);
        TEMP0 + self.next_temp
    }

    fn source(&mut self, w: u8) -> Name {
        for _ in 0..4 {
            let t = self.rng.below(30) as usize;
            if self.rng.chance(50) && self.bits[t] >= width_bits(w) {
                return TEMP0 + t as u8;
            }
        }
        self.rng.below(8) as Name
    }

    /// A destination for a result of width `w`: narrow ones go to temporaries only.
    fn dest(&mut self, w: u8, allow_slot: bool) -> Name {
        let d = if allow_slot && w >= W32 && self.rng.chance(60) {
            self.rng.below(8) as Name
        } else {
            self.temp()
        };
        if d >= TEMP0 {
            self.bits[usize::from(d - TEMP0)] = if w >= W32 { 64 } else { width_bits(w) };
        }
        d
    }

    fn whole(&mut self, allow_slot: bool) -> Name {
        self.dest(W64, allow_slot)
    }

    fn mem(&mut self, flags: u8) -> Mem {
        let index = if self.rng.chance(30) { INDEX } else { NONE };
        let flags = if self.rng.chance(20) { flags | ADDR32 } else { flags };
        let base = if self.rng.chance(50) { POINTERS[0] } else { self.rng.pick(&POINTERS) };
        Mem { base, index, scale: self.rng.below(4) as u8, disp: self.rng.below(80) as i64 - 40, flags }
    }

    fn condition(&mut self) -> Option<u8> {
        let code = self.rng.below(16) as u8;
        (cc_reads(code) & self.open == 0).then_some(code)
    }

    /// One computation without faults. `slots`: may write guest slots; `flags`: may set flags.
    fn pure(&mut self, slots: bool, flags: bool) {
        let w = self.rng.below(4) as u8;
        let wide = self.rng.pick(&[W32, W64]);
        let sets = flags && self.rng.chance(70);
        match self.rng.below(24) {
            0 => {
                let a = self.source(wide);
                let d = self.dest(wide, slots);
                self.ops.push(Op::mov(wide, d, a));
            }
            1 => {
                let v = self.rng.value() as i64;
                let d = self.whole(slots);
                self.ops.push(Op::movi(d, v));
            }
            2 => {
                let a = self.source(w);
                let d = self.whole(slots);
                self.ops.push(Op::zx(w, d, a));
            }
            3 => {
                let w = self.rng.below(3) as u8;
                let to = w + 1 + self.rng.below(u64::from(3 - w)) as u8;
                let a = self.source(w);
                let d = self.dest(to, slots);
                self.ops.push(Op::sx(w, to, d, a));
            }
            4 if slots => {
                let w = self.rng.below(2) as u8;
                let a = self.source(w);
                let d = self.rng.below(8) as Name;
                self.ops.push(Op::dep(w, d, a));
            }
            5 if slots => {
                let a = self.source(W8);
                let d = self.rng.below(8) as Name;
                self.ops.push(Op { d, a, w: W8, ..Op::new(Opcode::DepH) });
            }
            6 => {
                let a = self.source(W16);
                let d = self.whole(slots);
                self.ops.push(Op { d, a, w: W8, ..Op::new(Opcode::ExtH) });
            }
            7 => {
                let w = 1 + self.rng.below(3) as u8;
                let (base, index) = (self.source(w), self.source(w));
                let disp =
                    if self.rng.chance(10) { self.rng.next() as i64 } else { self.rng.value() as i32 as i64 };
                let base = if self.rng.chance(20) { NONE } else { base };
                let index = if self.rng.chance(40) { NONE } else { index };
                let d = self.whole(slots);
                self.ops.push(Op::lea(
                    w,
                    d,
                    Mem { base, index, scale: self.rng.below(4) as u8, disp, flags: 0 },
                ));
            }
            8..=12 => self.alu(w, slots, sets),
            13 | 14 => self.shift(w, slots, sets),
            15 => {
                let w = 1 + self.rng.below(3) as u8;
                let (a, b, count) = (self.source(w), self.source(w), self.source(W8));
                if !flags {
                    return;
                }
                let bits = width_bits(w);
                let mut op = Op { w, a, b, k: self.rng.below(2) as u8, ..Op::new(Opcode::DShift) };
                // 16-bit counts above the width are undefined, results and all.
                if w == W16 || self.rng.chance(50) {
                    op.s = NONE;
                    op.imm = self.rng.below(u64::from(bits)) as i64;
                } else {
                    op.s = count;
                }
                op.d = self.dest(w, slots);
                self.ops.push(op);
                self.open |= FLAG_A | FLAG_O;
            }
            16 => {
                let kind = self.rng.pick(&[Unary::Not, Unary::Neg, Unary::Inc, Unary::Dec, Unary::Bswap]);
                let w = if kind == Unary::Bswap { wide } else { w };
                let a = self.source(w);
                let d = self.dest(w, slots);
                let sets = sets && kind != Unary::Bswap && kind != Unary::Not;
                self.ops.push(Op::unary(kind, w, d, a, sets));
                if sets {
                    self.open &= if kind == Unary::Neg { 0 } else { FLAG_C };
                }
            }
            17 => {
                let w = 1 + self.rng.below(3) as u8;
                let (a, b) = (self.source(w), self.source(w));
                let imm = self.rng.value() as i32 as i64;
                let b = if self.rng.chance(40) { NONE } else { b };
                let d = self.dest(w, slots);
                self.ops.push(Op { w, d, a, b, imm, s: u8::from(sets), ..Op::new(Opcode::Mul) });
                if sets {
                    self.open = FLAGS_ALL & !(FLAG_C | FLAG_O);
                }
            }
            18 if flags => {
                let (a, b) = (self.source(w), self.source(w));
                let d = self.temp();
                let s = if w == W8 { NONE } else { self.dest(w, slots) };
                self.bits[usize::from(d - TEMP0)] = if w == W8 { 16 } else { width_bits(w).max(8) };
                if w >= W32 {
                    self.bits[usize::from(d - TEMP0)] = 64;
                }
                if s == d {
                    return;
                }
                let k = self.rng.below(2) as u8;
                self.ops.push(Op { w, d, a, b, s, k, ..Op::new(Opcode::MulWide) });
                self.open = FLAGS_ALL & !(FLAG_C | FLAG_O);
            }
            19 if flags => {
                let w = 1 + self.rng.below(3) as u8;
                let (a, b) = (self.source(w), self.source(w));
                let imm = self.rng.below(64) as i64;
                let b = if self.rng.chance(50) { NONE } else { b };
                let k = self.rng.below(4) as u8;
                let d = if k == 0 { NONE } else { self.dest(w, slots) };
                self.ops.push(Op { w, d, a, b, imm, k, ..Op::new(Opcode::Bit) });
                self.open &= !FLAG_C;
                self.open |= FLAG_O | FLAG_S | FLAG_A | FLAG_P;
            }
            20 if flags => {
                let w = 1 + self.rng.below(3) as u8;
                let (a, b) = (self.source(w), self.source(w));
                let d = self.dest(w, slots);
                let k = self.rng.below(2) as u8;
                self.ops.push(Op { w, d, a, b, k, ..Op::new(Opcode::Scan) });
                self.open = FLAGS_ALL & !FLAG_Z;
            }
            21 => {
                let Some(code) = self.condition() else { return };
                if self.rng.chance(50) {
                    let d = self.whole(slots);
                    self.ops.push(Op::setcc(code, d));
                } else {
                    let (a, b) = (self.source(wide), self.source(wide));
                    let d = self.dest(wide, slots);
                    self.ops.push(Op::select(code, wide, d, a, b));
                }
            }
            22 if self.open == 0 => {
                let d = self.whole(slots);
                self.ops.push(Op { d, ..Op::new(Opcode::GetFlags) });
            }
            _ if flags => {
                if self.rng.chance(40) {
                    let k = self.rng.below(3) as u8;
                    if k == 2 && self.open & FLAG_C != 0 {
                        return;
                    }
                    self.ops.push(Op { k, ..Op::new(Opcode::SetCarry) });
                    self.open &= !FLAG_C;
                } else {
                    let a = self.source(W16);
                    let k = self.rng.pick(&[FLAGS_ALL, FLAGS_ALL & !FLAG_O, FLAG_Z, FLAG_O, FLAG_C | FLAG_S]);
                    self.ops.push(Op { a, k, w: W32, ..Op::new(Opcode::SetFlags) });
                    self.open &= !k;
                }
            }
            _ => {}
        }
    }

    fn alu(&mut self, w: u8, slots: bool, sets: bool) {
        let kind = self.rng.pick(&[Alu::Add, Alu::Or, Alu::Adc, Alu::Sbb, Alu::And, Alu::Sub, Alu::Xor]);
        if matches!(kind, Alu::Adc | Alu::Sbb) && self.open & FLAG_C != 0 {
            return;
        }
        let (a, b) = (self.source(w), self.source(w));
        let d = if sets && self.rng.chance(25) { NONE } else { self.dest(w, slots) };
        if self.rng.chance(40) {
            let imm = self.rng.value() as i64;
            self.ops.push(Op::alui(kind, w, d, a, imm, sets));
        } else {
            let b = if self.rng.chance(10) { a } else { b };
            self.ops.push(Op::alu(kind, w, d, a, b, sets));
        }
        if sets {
            self.open = if matches!(kind, Alu::And | Alu::Or | Alu::Xor) { FLAG_A } else { 0 };
        }
    }

    fn shift(&mut self, w: u8, slots: bool, sets: bool) {
        let kind = self.rng.pick(&[
            Shift::Rol,
            Shift::Ror,
            Shift::Rcl,
            Shift::Rcr,
            Shift::Shl,
            Shift::Shr,
            Shift::Sar,
        ]);
        if matches!(kind, Shift::Rcl | Shift::Rcr) && self.open & FLAG_C != 0 {
            return;
        }
        let (a, count) = (self.source(w), self.source(W8));
        let d = self.dest(w, slots);
        let constant = self.rng.chance(60);
        let n = self.rng.below(70) as i64;
        let masked = n as u32 & if w == W64 { 63 } else { 31 };
        self.ops.push(if constant {
            Op::shifti(kind, w, d, a, n, sets)
        } else {
            Op::shift(kind, w, d, a, count, sets)
        });
        if sets && !(constant && masked == 0) {
            // Counts other than one leave O open, shifts leave A; carry is open when all bits are shifted out.
            let shifts = matches!(kind, Shift::Shl | Shift::Shr | Shift::Sar);
            if constant && shifts {
                self.open = 0;
            }
            self.open |= FLAG_O;
            if shifts {
                self.open |= FLAG_A;
                if w < W32 {
                    self.open |= FLAG_C;
                }
            }
        }
    }

    fn vector(&mut self) {
        const VV: [(u8, u8, u8); 14] = [
            (0, 1, 0x58),    // addps
            (0xf2, 1, 0x59), // mulsd
            (0xf3, 1, 0x5e), // divss
            (0x66, 1, 0x51), // sqrtpd
            (0x66, 1, 0xfe), // paddd
            (0x66, 1, 0xef), // pxor
            (0x66, 1, 0x61), // punpcklwd
            (0x66, 1, 0xf6), // psadbw
            (0xf3, 1, 0x10), // movss
            (0, 1, 0x12),    // movhlps
            (0x66, 1, 0x6f), // movdqa
            (0xf3, 1, 0x5b), // cvttps2dq
            (0x66, 1, 0xd4), // paddq
            (0x66, 1, 0x63), // packsswb
        ];
        let (d, a) = (self.vector_slot(), self.vector_slot());
        let plain = |(prefix, map, opcode)| VecOp { prefix, map, opcode, ..VecOp::default() };
        match self.rng.below(8) {
            0..=2 => {
                let insn = plain(self.rng.pick(&VV));
                self.ops.push(Op::vec(VecShape::VV, W64, d, a, insn));
            }
            3 => {
                // pshufd, pslldq
                let imm = self.rng.next() as u8;
                let insn = VecOp { has_imm: true, imm, ..plain((0x66, 1, 0x70)) };
                self.ops.push(Op::vec(VecShape::VV, W64, d, a, insn));
                let insn = VecOp { has_imm: true, imm: imm % 20, digit: 8, ..plain((0x66, 1, 0x73)) };
                self.ops.push(Op::vec(VecShape::VV, W64, d, NONE, insn));
            }
            4 => {
                // cvttsd2si, pmovmskb, movq r, xmm
                let (insn, w) = self.rng.pick(&[
                    (plain((0xf2, 1, 0x2c)), W64),
                    (plain((0xf2, 1, 0x2c)), W32),
                    (plain((0x66, 1, 0xd7)), W32),
                    (plain((0x66, 1, 0x7e)), W64),
                ]);
                let g = self.whole(true);
                self.ops.push(Op::vec(VecShape::GV, w, g, a, insn));
            }
            5 => {
                let w = self.rng.pick(&[W32, W64]);
                let g = self.source(w);
                let insn = self.rng.pick(&[
                    plain((0xf2, 1, 0x2a)),
                    plain((0x66, 1, 0x6e)),
                    VecOp { has_imm: true, imm: 5, ..plain((0x66, 1, 0xc4)) },
                ]);
                let w = if insn.opcode == 0xc4 { W32 } else { w };
                self.ops.push(Op::vec(VecShape::VG, w, d, g, insn));
            }
            6 => {
                let insn = plain((0x66, 1, 0x2f));
                self.ops.push(Op::vec(VecShape::Flags, W64, d, a, insn));
                self.open = 0;
            }
            _ => {
                let media = |g: &mut Self, slot: u8| if slot >= VTEMP0 { slot } else { g.rng.below(8) as u8 };
                let (d, a) = (media(self, d), media(self, a));
                let insn = plain(self.rng.pick(&[(0, 1, 0xfd), (0, 1, 0x6b), (0, 1, 0xf5), (0, 1, 0x6f)]));
                self.ops.push(Op::vec(VecShape::MM, W64, d, a, insn));
            }
        }
        // What a temporary became shows in a guest slot.
        if d >= VTEMP0 {
            let seen = self.rng.below(16) as u8;
            self.ops.push(Op::vec(VecShape::VV, W64, seen, d, MOVAPS));
        }
    }

    /// A vector slot that is defined: a guest's, or a temporary with a guest's value.
    fn vector_slot(&mut self) -> u8 {
        let slot = self.rng.below(20) as u8;
        if slot >= VTEMP0 {
            let from = self.rng.below(16) as u8;
            self.ops.push(Op::vec(VecShape::VV, W64, slot, from, MOVAPS));
        }
        slot
    }

    fn pures(&mut self, most: u64, slots: bool, flags: bool) {
        for _ in 0..self.rng.below(most + 1) {
            self.pure(slots, flags);
        }
    }

    /// One guest instruction: no slot or flag is written before its last access.
    fn instruction(&mut self, pc: u64, count: u64) {
        let w = self.rng.below(4) as u8;
        match self.rng.below(14) {
            0..=4 => self.pures(3, true, true),
            5 | 6 => {
                // Load, then compute with it; often the pair that folds.
                let m = self.mem(0);
                let t = self.temp();
                self.ops.push(Op::ld(w, t, m));
                self.bits[usize::from(t - TEMP0)] = 64;
                if self.rng.chance(60) {
                    let kind = self.rng.pick(&[Alu::Add, Alu::Sub, Alu::And, Alu::Xor]);
                    let a = self.source(w);
                    let sets = self.rng.chance(70);
                    let d = if sets && self.rng.chance(30) { NONE } else { self.dest(w, true) };
                    self.ops.push(Op::alu(kind, w, d, a, t, sets));
                    if sets {
                        self.open = if matches!(kind, Alu::And | Alu::Xor) { FLAG_A } else { 0 };
                    }
                    if self.rng.chance(70) {
                        self.bits[usize::from(t - TEMP0)] = 0;
                    }
                }
                self.pures(2, true, true);
            }
            7 => {
                self.pures(2, false, false);
                let value = self.source(w);
                let m = self.mem(0);
                self.ops.push(Op::st(w, value, m));
                self.pures(1, true, true);
            }
            8 => {
                let m = self.mem(0);
                let d = self.whole(true);
                self.ops.push(Op::ld(w, d, m));
            }
            9 => {
                let m = self.mem(LD_FOR_WRITE);
                let (t, u) = (self.temp(), self.temp());
                let b = self.source(w);
                self.ops.push(Op::ld(w, t, m));
                self.ops.push(Op::alu(Alu::Add, w, u, t, b, false));
                self.ops.push(Op::st(w, u, Mem { flags: m.flags & !LD_FOR_WRITE, ..m }));
                self.ops.push(Op::alu(Alu::Add, w, NONE, t, b, true));
                self.open = 0;
                self.bits[usize::from(t - TEMP0)] = width_bits(w);
                self.bits[usize::from(u - TEMP0)] = width_bits(w);
            }
            10 => {
                let w = self.rng.below(5) as u8;
                let align = if w == 4 && self.rng.chance(30) { ALIGN16 } else { 0 };
                let m = self.mem(align);
                let op = if self.rng.chance(50) {
                    Op::ldv(w, self.rng.below(20) as u8, m)
                } else {
                    Op::stv(w, self.vector_slot(), m)
                };
                self.ops.push(op);
            }
            11 if self.rng.chance(10) => {
                let a = if self.rng.chance(90) { self.rng.pick(&POINTERS) } else { self.source(W64) };
                self.ops.push(Op { a, ..Op::new(Opcode::Canonical) });
            }
            11 if self.rng.chance(60) => self.vector(),
            11 => {
                // A push, a pop, or a step through an array.
                let pointer = self.rng.pick(&POINTERS);
                let step = self.rng.pick(&[-8, -4, -1, 1, 8, 16]);
                if self.rng.chance(50) {
                    let value = self.source(w);
                    self.ops.push(Op::st(w, value, Mem::at(pointer, step)));
                }
                if self.rng.chance(50) {
                    self.ops.push(Op::lea(W64, pointer, Mem::at(pointer, step)));
                } else {
                    let kind = self.rng.pick(&[Alu::Add, Alu::Sub]);
                    self.ops.push(Op::alui(kind, W64, pointer, pointer, step, false));
                }
            }
            12 => {
                let field = offset_of!(TestCpu, field);
                match self.rng.below(4) {
                    0 => {
                        let d = self.whole(true);
                        self.ops.push(Op::ldf(w, d, field));
                    }
                    1 => {
                        let a = self.source(w);
                        self.ops.push(Op::stf(w, a, field));
                    }
                    2 => {
                        let (a, b, c) = (self.source(W64), self.source(W64), self.source(W64));
                        let d = if self.rng.chance(20) { NONE } else { self.whole(true) };
                        let imm = self.rng.next() as i64 >> 17;
                        self.ops.push(Op::call(1, d, a, b, c, imm));
                    }
                    _ => {
                        let t = self.temp();
                        let base = self.rng.pick(&POINTERS);
                        self.ops.push(Op::lea(W64, t, Mem::at(base, self.rng.below(64) as i64)));
                        let d = self.whole(false);
                        self.ops.push(Op::call(2, d, t, NONE, NONE, 0));
                    }
                }
            }
            _ => {
                // A jump: forward, or back while the counter lasts.
                if self.rng.chance(50) {
                    let target = pc + 4 * self.rng.below(6);
                    let target = target.min(CODE + 4 * count).max(pc + 4);
                    let code = self.rng.below(16) as u8;
                    if self.rng.chance(60) {
                        // With flags of its own, so that it stays whatever else jumps here.
                        let (a, b) = (self.rng.below(8) as Name, self.rng.below(8) as Name);
                        self.ops.push(Op::alu(Alu::Sub, W64, NONE, a, b, true));
                        self.ops.push(Op::side(code, target));
                    } else {
                        self.ops.push(Op::branch(code, target));
                    }
                } else if self.rng.chance(70) {
                    self.ops.push(Op::shifti(Shift::Shr, W32, COUNTER, COUNTER, 1, false));
                    let back = pc.saturating_sub(4 * self.rng.below(6)).max(CODE);
                    self.ops.push(Op::branchz(W32, COUNTER, true, back));
                } else {
                    let t = self.temp();
                    self.ops.push(Op::movi(t, pc as i64 + 4));
                    self.ops.push(if self.rng.chance(50) {
                        Op::goto_reg(t)
                    } else {
                        Op::goto(pc + 4, false)
                    });
                }
                // Temporaries do not survive the block, and the flags' openness comes from two ways.
                self.bits = [0; 32];
                self.open = FLAGS_ALL;
            }
        }
    }
}

/// A program: the ops of each instruction and the flags that are open after it.
struct Program {
    insns: Vec<Vec<Op>>,
    open: Vec<u8>,
}

fn program(rng: &mut Rng) -> Program {
    let count = 3 + rng.below(24);
    let mut g = Gen { rng, bits: [0; 32], open: 0, ops: Vec::new(), next_temp: 0 };
    let mut p = Program { insns: Vec::new(), open: vec![0] };
    // Any instruction may be reached by a jump, so nothing may be known of flags before it unless it follows closely.
    let mut jumps = false;
    for i in 0..count {
        g.bits = [0; 32];
        g.instruction(CODE + 4 * i, count);
        let ops = std::mem::take(&mut g.ops);
        jumps |= ops.last().is_some_and(|o| o.op >= Opcode::Side);
        p.insns.push(ops);
        p.open.push(g.open);
    }
    if jumps {
        // With jumps around, the set of open flags depends on the way taken: compare none, and make readers go away.
        for ops in &mut p.insns {
            let reads_flags = |o: &Op| {
                matches!(o.op, Opcode::SetCc | Opcode::Select | Opcode::GetFlags)
                    || (o.op == Opcode::Alu && (o.k == Alu::Adc as u8 || o.k == Alu::Sbb as u8))
                    || (o.op == Opcode::Shift && (o.k == Shift::Rcl as u8 || o.k == Shift::Rcr as u8))
                    || (o.op == Opcode::SetCarry && o.k == 2)
                    || o.op == Opcode::Branch
            };
            // Temporaries must not be read across a block boundary either.
            let mut defined = 0u64;
            ops.retain(|o| {
                let e = liveness::effects(o, |n| OPS.helpers.get(usize::from(n)).map(|h| h.info));
                let temps = (e.reads & !liveness::ALL_SLOTS) & !defined;
                if temps != 0 || reads_flags(o) {
                    return false;
                }
                defined |= e.defs;
                true
            });
        }
        p.open.fill(FLAGS_ALL);
    }
    p
}

fn rig(p: &Program, compile: bool) -> Rig {
    let insns = p.insns.clone();
    let mut rig = Rig::new(move |out, word, pc| match insns.get(word as usize) {
        Some(ops) => ops.iter().for_each(|&op| out.push(op)),
        None => stop_ops(out, pc),
    });
    for i in 0..=p.insns.len() {
        rig.machine().put32(CODE as usize + 4 * i, i as u32);
    }
    rig.cpu.pages[10].gpa = DEVICE;
    rig.cpu.pages[11].writable = false;
    rig.cpu.pages[12].present = false;
    let engine = if compile { Engine::compiling(1 << 20).unwrap() } else { Engine::new() };
    engine.attach(rig.core());
    rig
}

fn seed_state(rig: &mut Rig, rng: &mut Rng) {
    for i in 0..8 {
        rig.cpu.core.slots[i] = rng.value();
    }
    for p in POINTERS {
        // Mostly plain memory, now and then at the edge of a page or on a special one.
        rig.cpu.core.slots[usize::from(p)] = match rng.below(12) {
            0 => 0x9ffc,
            1 => 0xa010,
            2 => 0xb100,
            3 => 0xbffa,
            4 => 0xc000 + rng.below(16),
            5 => 0x8ff8 + rng.below(16),
            _ => 0x8100 + rng.below(0x700) * 4,
        };
    }
    rig.cpu.core.slots[usize::from(INDEX)] = rng.below(16);
    rig.cpu.core.slots[usize::from(COUNTER)] = rng.below(256);
    rig.cpu.core.set_cc_eflags(rng.next() as u32);
    for v in 0..20 {
        let x = u128::from(rng.next()) | u128::from(rng.next()) << 64;
        rig.cpu.core.vec[v] = x.to_le_bytes();
        if v < 8 {
            rig.cpu.core.media[v] = (x >> 3).to_le_bytes();
        }
    }
    rig.cpu.core.mxcsr = 0x1f80 | (rng.below(4) as u32) << 13;
    rig.cpu.field = rng.next();
    for b in rig.machine().bytes()[0x8000..0xc000].chunks_exact_mut(8) {
        b.copy_from_slice(&rng.next().to_le_bytes());
    }
}

fn observe(core: &CoreState) -> String {
    let vec = &core.vec[..16];
    format!(
        "pc {:#x} slots {:x?} vec {:x?} media {:x?} mxcsr {:x}",
        core.pc,
        &core.slots[..16],
        vec,
        core.media,
        core.mxcsr
    )
}

fn compare(seed: u64, counting: bool) {
    let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let p = program(&mut rng);
    let (mut a, mut b) = (rig(&p, false), rig(&p, true));
    if counting {
        [&mut a, &mut b].into_iter().for_each(|rig| count::start(rig.core()));
    }
    for round in 0..3 {
        let state = rng.next() | 1;
        for rig in [&mut a, &mut b] {
            seed_state(rig, &mut Rng(state));
            rig.run(CODE);
        }
        let dump = || {
            p.insns.iter().enumerate().fold(String::new(), |s, (i, ops)| {
                ops.iter()
                    .fold(s + &format!("{:#x}:\n", CODE + 4 * i as u64), |s, o| s + &format!("   {o}\n"))
            })
        };
        let place = format!("seed {seed} round {round}");
        assert_eq!(observe(&a.cpu.core), observe(&b.cpu.core), "{place}\n{}", dump());
        let index = (a.cpu.core.pc.wrapping_sub(CODE) / 4) as usize;
        let open = p.open.get(index).copied().unwrap_or(FLAGS_ALL);
        let keep = [(FLAG_C, 0), (FLAG_P, 2), (FLAG_A, 4), (FLAG_Z, 6), (FLAG_S, 7), (FLAG_O, 11)]
            .iter()
            .filter(|(f, _)| open & f == 0)
            .fold(0u32, |m, (_, bit)| m | 1 << bit);
        let flags = |r: &Rig| r.cpu.core.cc_eflags() & keep;
        assert_eq!(flags(&a), flags(&b), "flags {place} open {open:x}\n{}", dump());
        let rest =
            |r: &Rig| (r.cpu.faults, r.cpu.fault_address, r.cpu.field, r.cpu.calls, r.cpu.delivered_pc);
        assert_eq!(rest(&a), rest(&b), "{place}\n{}", dump());
        let counted =
            |r: &Rig| (r.cpu.core.counter.executed(), r.cpu.core.counter.trace(), r.cpu.marks, r.cpu.attends);
        if counting {
            assert_eq!(counted(&a), counted(&b), "{place}\n{}", dump());
        }
        assert_eq!(a.machine().device_log, b.machine().device_log, "{place}\n{}", dump());
        assert!(a.machine().bytes() == b.machine().bytes(), "memory {place}\n{}", dump());
    }
}

#[test]
fn random_programs_end_equal_on_both_engines() {
    let first = std::env::var("FUZZ_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1u64);
    let count = std::env::var("FUZZ_COUNT").ok().and_then(|s| s.parse().ok()).unwrap_or(1500u64);
    (first..first + count).for_each(|seed| compare(seed, false));
}

#[test]
fn random_programs_are_counted_equally_on_both_engines() {
    (1..800).for_each(|seed| compare(seed, true));
}
