//! Integer ops.

use bulkhead_ir::liveness::{Life, bit, masked_count};
use bulkhead_ir::{FLAG_C, NONE, Name, Op, SET_FLAGS, TEMP0, W8, W16, W32, W64};

use super::asm::{M, NOREG, Opc, reg};
use super::emit::{Emitter, cc_high, cc_mem};
use super::regs::Regs;

use reg::{RAX, RCX, RDI, RDX, RSI};

impl Emitter<'_> {
    pub(super) fn mov(&mut self, op: &Op, life: Life) {
        if op.w == W64
            && let Some(value) = self.regs.constant(op.a).filter(|_| op.d >= TEMP0)
        {
            self.regs.set_constant(op.d, value);
            return;
        }
        let r = self.copy(op.d, op.a, life, op.w);
        if op.w == W32 && (op.a == op.d || life.names & bit(op.a) == 0) {
            self.asm.mov(W32, r, r);
        }
        self.regs.bind(op.d, r);
    }

    pub(super) fn dep_high(&mut self, op: &Op, life: Life) {
        let a = self.read(op.a);
        let d = self.read(op.d);
        if (RCX..=reg::RBX).contains(&d) {
            self.asm.rr_byte_source(W32, 0x0fb6, RAX, a);
            self.asm.bytes(&[0x88, 0xc4 | d]); // mov ch|dh|bh, al
        } else if self.target.bmi2 {
            self.asm.rr_byte_source(W32, 0x0fb6, RAX, a);
            self.asm.rorx(W64, d, d, 8);
            self.asm.mov(W8, d, RAX);
            self.asm.rorx(W64, d, d, 56);
        } else {
            self.clobber(life.flags);
            self.asm.rr_byte_source(W32, 0x0fb6, RAX, a);
            self.asm.rr(W64, 0xc1, 1, d);
            self.asm.bytes(&[8]);
            self.asm.mov(W8, d, RAX);
            self.asm.rr(W64, 0xc1, 0, d);
            self.asm.bytes(&[8]);
        }
        self.regs.bind(op.d, d);
    }

    pub(super) fn ext_high(&mut self, op: &Op, life: Life) {
        let a = self.read(op.a);
        if (RCX..=reg::RBX).contains(&a) {
            self.asm.bytes(&[0x0f, 0xb6, 0xc4 | a]); // movzx eax, ch|dh|bh
        } else if self.target.bmi2 {
            self.asm.rorx(W32, RAX, a, 8);
        } else {
            self.clobber(life.flags);
            self.asm.mov(W32, RAX, a);
            self.asm.rr(W32, 0xc1, 5, RAX);
            self.asm.bytes(&[8]);
        }
        let d = self.result(op.d, op.a, a, life);
        self.asm.rr_byte_source(W32, 0x0fb6, d, RAX);
        self.regs.bind(op.d, d);
    }

    /// The host operand of `a + (b << s) + imm`; a displacement that does not fit is added to rsi first.
    pub(super) fn operand(&mut self, op: &Op) -> M {
        let known = |regs: &Regs, n: Name| regs.constant(n);
        let mut imm = op.imm;
        let (mut base, mut index) = (NOREG, NOREG);
        if op.a != NONE {
            match known(self.regs, op.a) {
                Some(v) => imm = imm.wrapping_add(v),
                None => base = self.read(op.a),
            }
        }
        if op.b != NONE {
            match known(self.regs, op.b) {
                Some(v) => imm = imm.wrapping_add(v.wrapping_shl(u32::from(op.s))),
                None => index = self.read(op.b),
            }
        }
        let scale = op.s & 3;
        if let Ok(disp) = i32::try_from(imm) {
            return M { base, index, scale, disp };
        }
        self.asm.mov_ri(RSI, imm as u64);
        if base == NOREG {
            return M { base: RSI, index, scale, disp: 0 };
        }
        self.asm.lea(W64, RSI, M { base: RSI, index: base, scale: 0, disp: 0 });
        M { base: RSI, index, scale, disp: 0 }
    }

    pub(super) fn lea(&mut self, op: &Op, _life: Life) {
        let m = self.operand(op);
        let d = self.alloc();
        if m.base == NOREG && m.index == NOREG {
            let value = i64::from(m.disp) as u64;
            let mask = match op.w {
                W64 => u64::MAX,
                W16 => 0xffff,
                _ => 0xffff_ffff,
            };
            self.asm.mov_ri(d, value & mask);
        } else if m.index == NOREG && m.disp == 0 {
            self.asm.mov(op.w.max(W32), d, m.base);
        } else {
            self.asm.lea(op.w.max(W32), d, m);
        }
        if op.w == W16 {
            self.asm.rr(W32, 0x0fb7, d, d);
        }
        self.regs.bind(op.d, d);
    }

    pub(super) fn alu(&mut self, op: &Op, life: Life) {
        const OPCODES: [Opc; 7] = [0x01, 0x09, 0x11, 0x19, 0x21, 0x29, 0x31];
        const DIGITS: [u8; 7] = [0, 1, 2, 3, 4, 5, 6];
        let kind = usize::from(op.k.min(6));
        let (opcode, digit) = (OPCODES[kind], DIGITS[kind]);
        let (add, carry, and, sub) = (kind == 0, kind == 2 || kind == 3, kind == 4, kind == 5);
        let sets = op.s & SET_FLAGS != 0 && life.flags != 0;
        let no_result = op.d == NONE || (life.names & bit(op.d) == 0 && op.d >= TEMP0);
        if no_result && !sets {
            return;
        }
        let imm = self.immediate(op);
        // Without flags, additions need not touch the host's.
        if !sets
            && (add || (sub && imm.is_some_and(|i| i != i32::MIN)))
            && op.w >= W32
            && self.add_by_lea(op, life, imm, sub)
        {
            return;
        }
        if !sets || carry {
            // A plain op must not lose live flags; an op with carry reads them first.
            if !sets {
                self.keep_flags(life.flags);
            }
        }
        let w = if !sets && op.w < W32 && !carry { W32 } else { op.w };
        let zero = op.a == op.b && op.a != NONE && (sub || kind == 6);
        if zero {
            let d = if no_result { RAX } else { self.alloc() };
            self.asm.op_rr(W32, opcode, d, d);
            self.finish_alu(op, d, no_result, sets);
            return;
        }
        if no_result && (sub || and) {
            let a = self.read(op.a);
            match imm {
                Some(i) if sub => self.asm.alu_ri(w, 7, a, i),
                Some(i) => {
                    self.asm.op_rr_test_imm(w, a, i);
                }
                None => {
                    let b = self.second(op);
                    self.asm.op_rr(w, if sub { 0x39 } else { 0x85 }, a, b);
                }
            }
            self.finish_alu(op, NOREG, true, sets);
            self.note_pending(op, imm, life);
            return;
        }
        let second = match imm {
            Some(_) => NOREG,
            None => self.second(op),
        };
        let d = if no_result {
            self.regs.copy_to(self.asm, op.a, RAX);
            RAX
        } else if op.d == op.b && op.a != op.b {
            // The destination's old value is the second operand: build the result beside it.
            let from = self.read(op.a);
            let r = self.alloc();
            self.asm.mov(w.max(W32), r, from);
            r
        } else {
            self.copy(op.d, op.a, life, w)
        };
        if carry {
            self.need_carry();
        }
        match imm {
            Some(i) => self.asm.alu_ri(w, digit, d, i),
            None => self.asm.op_rr(w, opcode, d, second),
        }
        self.finish_alu(op, d, no_result, sets);
        if sets {
            self.note_pending(op, imm, life);
        }
    }

    pub(super) fn finish_alu(&mut self, op: &Op, d: u8, no_result: bool, sets: bool) {
        if sets {
            self.flags_set();
        } else {
            self.host = false;
        }
        if !no_result {
            self.regs.bind(op.d, d);
        }
    }

    /// `d = a + b` or `a + imm` by `lea`; false when another form is better.
    pub(super) fn add_by_lea(&mut self, op: &Op, life: Life, imm: Option<i32>, negate: bool) -> bool {
        match imm {
            Some(i) => {
                let i = if negate { i.wrapping_neg() } else { i };
                let a = self.read(op.a);
                let d = self.result(op.d, op.a, a, life);
                self.asm.lea(op.w, d, M::base(a, i));
                self.regs.bind(op.d, d);
                true
            }
            None if op.b != NONE => {
                let (a, b) = (self.read(op.a), self.read(op.b));
                let d = self.result(op.d, op.a, a, life);
                self.asm.lea(op.w, d, M { base: a, index: b, scale: 0, disp: 0 });
                self.regs.bind(op.d, d);
                true
            }
            None => false,
        }
    }

    pub(super) fn unary(&mut self, op: &Op, life: Life) {
        let sets = op.s & SET_FLAGS != 0 && life.flags != 0;
        let kind = op.k.min(4);
        if (kind == 2 || kind == 3) && !sets {
            // inc, dec without flags
            let a = self.read(op.a);
            let d = self.result(op.d, op.a, a, life);
            self.asm.lea(op.w.max(W32), d, M::base(a, if kind == 2 { 1 } else { -1 }));
            self.regs.bind(op.d, d);
            return;
        }
        if kind == 1 && !sets {
            self.clobber(life.flags);
        }
        let d = self.copy(op.d, op.a, life, op.w);
        match kind {
            0 => self.asm.op_rr_group(op.w, 0xf7, 2, d),
            1 => self.asm.op_rr_group(op.w, 0xf7, 3, d),
            2 | 3 => {
                if life.flags & FLAG_C != 0 {
                    self.need_carry();
                }
                self.asm.op_rr_group(op.w, 0xff, kind - 2, d);
            }
            _ => {
                let rex = 0x40 | u8::from(op.w == W64) << 3 | d >> 3;
                self.asm.bytes(&[rex, 0x0f, 0xc8 | d & 7]);
            }
        }
        if sets && (1..=3).contains(&kind) {
            self.flags_set();
        }
        self.regs.bind(op.d, d);
    }

    pub(super) fn shift(&mut self, op: &Op, life: Life) {
        let digit = op.k & 7;
        let rotate = digit < 4;
        let through_carry = digit == 2 || digit == 3;
        let sets = op.s & SET_FLAGS != 0 && life.flags != 0;
        let constant = if op.b == NONE { Some(op.imm) } else { self.count(op.b) };
        if let Some(count) = constant {
            let count = masked_count(&Op { imm: count, ..*op });
            if count == 0 {
                let r = self.copy(op.d, op.a, life, op.w);
                if op.w == W32 {
                    self.asm.mov(W32, r, r);
                }
                self.regs.bind(op.d, r);
                return;
            }
            if !sets {
                if self.host && !self.mem && life.flags != 0 {
                    self.save_flags();
                }
            } else if rotate && life.flags & !(FLAG_C | bulkhead_ir::FLAG_O) != 0 {
                self.need_host_flags();
            }
            let d = self.copy(op.d, op.a, life, op.w);
            if through_carry {
                self.need_carry();
            }
            if count == 1 {
                self.asm.op_rr_group(op.w, 0xd1, digit, d);
            } else {
                self.asm.op_rr_group(op.w, 0xc1, digit, d);
                self.asm.bytes(&[count as u8]);
            }
            self.after_shift(sets);
            self.regs.bind(op.d, d);
            return;
        }
        let pp = match digit {
            4 => 1,
            5 => 3,
            7 => 2,
            _ => 0,
        };
        if !sets && pp != 0 && op.w >= W32 && self.target.bmi2 {
            let (a, b) = (self.read(op.a), self.read(op.b));
            let d = self.result(op.d, op.a, a, life);
            self.asm.shiftx(op.w, pp, d, a, b);
            self.regs.bind(op.d, d);
            return;
        }
        // The count may be zero, which leaves the guest's flags as they are: they must be in the host's first.
        if sets {
            self.need_host_flags();
        } else if self.host && !self.mem && life.flags != 0 {
            self.save_flags();
        }
        self.count_in_cl(op.b);
        let d = self.copy(op.d, op.a, life, op.w);
        if through_carry && !sets {
            self.need_carry();
        }
        self.asm.op_rr_group(op.w, 0xd3, digit, d);
        self.after_shift(sets);
        if op.w == W32 {
            // With a count of zero the upper half is written too, but only by a move.
            self.asm.mov(W32, d, d);
        }
        self.regs.bind(op.d, d);
        self.regs.release(RCX);
    }

    pub(super) fn after_shift(&mut self, sets: bool) {
        if sets {
            self.flags_set();
        } else {
            self.host = false;
        }
    }

    /// The low byte of `count` in cl. rcx stays reserved for this op; the name keeps its place elsewhere.
    pub(super) fn count_in_cl(&mut self, count: Name) {
        self.regs.take(self.asm, RCX);
        self.regs.copy_to(self.asm, count, RCX);
    }

    pub(super) fn dshift(&mut self, op: &Op, life: Life) {
        let constant = if op.s == NONE { Some(op.imm) } else { self.count(op.s) };
        let opcode: Opc = if op.k == 0 { 0x0fa4 } else { 0x0fac };
        let sets = life.flags != 0;
        let w = op.w.max(W16);
        match constant {
            Some(count) => {
                let count = masked_count(&Op { imm: count, ..*op });
                let b = self.read(op.b);
                let d = if op.d == op.b && op.a != op.b {
                    let from = self.read(op.a);
                    let r = self.alloc();
                    self.asm.mov(W64, r, from);
                    r
                } else {
                    self.copy(op.d, op.a, life, w)
                };
                if count != 0 {
                    self.asm.rr(w, opcode, b, d);
                    self.asm.bytes(&[count as u8]);
                    self.after_shift(sets);
                } else if w == W32 {
                    self.asm.mov(W32, d, d);
                }
                self.regs.bind(op.d, d);
            }
            None => {
                if sets {
                    self.need_host_flags();
                }
                self.count_in_cl(op.s);
                let b = self.read(op.b);
                let d = if op.d == op.b && op.a != op.b {
                    let from = self.read(op.a);
                    let r = self.alloc();
                    self.asm.mov(W64, r, from);
                    r
                } else {
                    self.copy(op.d, op.a, life, w)
                };
                self.asm.rr(w, opcode + 1, b, d);
                self.after_shift(sets);
                if w == W32 {
                    self.asm.mov(W32, d, d);
                }
                self.regs.bind(op.d, d);
                self.regs.release(RCX);
            }
        }
    }

    pub(super) fn mul(&mut self, op: &Op, life: Life) {
        let sets = op.s & SET_FLAGS != 0 && life.flags != 0;
        if !sets {
            self.clobber(life.flags);
        }
        let w = op.w.max(W16);
        match self.immediate(op) {
            Some(imm) => {
                let a = self.read(op.a);
                let d = self.result(op.d, op.a, a, life);
                if let Ok(small) = i8::try_from(imm) {
                    self.asm.rr(w, 0x6b, d, a);
                    self.asm.bytes(&[small as u8]);
                } else {
                    self.asm.rr(w, 0x69, d, a);
                    self.asm.imm(w, imm);
                }
                self.regs.bind(op.d, d);
            }
            None => {
                let b = self.second(op);
                let d = if op.d == op.b && op.a != op.b {
                    let from = self.read(op.a);
                    let r = self.alloc();
                    self.asm.mov(W64, r, from);
                    r
                } else {
                    self.copy(op.d, op.a, life, w)
                };
                self.asm.rr(w, 0x0faf, d, b);
                self.regs.bind(op.d, d);
            }
        }
        self.after_shift(sets);
    }

    pub(super) fn mul_wide(&mut self, op: &Op, life: Life) {
        let digit = if op.k != 0 { 5 } else { 4 };
        if op.w == W8 {
            let b = self.read(op.b);
            self.regs.copy_to(self.asm, op.a, RAX);
            self.asm.op_rr_group(W8, 0xf7, digit, b);
            let d = self.alloc();
            self.asm.rr(W32, 0x0fb7, d, RAX);
            self.regs.bind(op.d, d);
        } else {
            self.regs.take(self.asm, RDX);
            let b = self.read(op.b);
            self.regs.copy_to(self.asm, op.a, RAX);
            self.asm.op_rr_group(op.w, 0xf7, digit, b);
            if op.d != NONE && op.d != op.s {
                let d = self.alloc();
                self.asm.mov(W64, d, RAX);
                self.regs.bind(op.d, d);
            }
            if op.s != NONE {
                self.regs.bind(op.s, RDX);
            } else {
                self.regs.release(RDX);
            }
        }
        self.after_shift(life.flags != 0);
    }

    pub(super) fn bit_op(&mut self, op: &Op, life: Life) {
        // The other flags stay.
        if life.flags & !FLAG_C != 0 {
            self.need_host_flags();
        }
        let w = op.w.max(W16);
        let kind = op.k & 3;
        let constant = if op.b == NONE { Some(op.imm) } else { self.count(op.b) };
        let d = if kind == 0 || op.d == NONE {
            let a = self.read(op.a);
            if kind != 0 {
                // The result is not wanted: any copy serves.
                self.asm.mov(W64, RDI, a);
                RDI
            } else {
                a
            }
        } else if op.d == op.b && op.a != op.b {
            let from = self.read(op.a);
            let r = self.alloc();
            self.asm.mov(W64, r, from);
            r
        } else {
            // The index is read before a register is given up for the result.
            if constant.is_none() {
                self.read(op.b);
            }
            self.copy(op.d, op.a, life, w)
        };
        match constant {
            Some(index) => {
                self.asm.rr(w, 0x0fba, 4 + kind, d);
                self.asm.bytes(&[index as u8 & ((8 << w) - 1)]);
            }
            None => {
                let b = if op.a == op.b && kind != 0 && op.d != NONE { d } else { self.read(op.b) };
                self.asm.rr(w, [0x0fa3, 0x0fab, 0x0fb3, 0x0fbb][usize::from(kind)], b, d);
            }
        }
        if kind != 0 && op.d != NONE {
            if w == W32 {
                self.asm.mov(W32, d, d);
            }
            self.regs.bind(op.d, d);
        }
        self.after_shift(life.flags != 0);
    }

    pub(super) fn scan(&mut self, op: &Op, life: Life) {
        let w = op.w.max(W16);
        let a = self.read(op.a);
        let old = self.read(op.b);
        let d = self.alloc();
        // The processor leaves the destination alone when the source is zero.
        self.asm.mov(w.max(W32), d, old);
        self.asm.rr(w, if op.k != 0 { 0x0fbd } else { 0x0fbc }, d, a);
        self.regs.bind(op.d, d);
        self.after_shift(life.flags != 0);
    }

    pub(super) fn select(&mut self, op: &Op, life: Life) {
        let code = self.condition(op.k);
        let w = op.w.max(W32);
        let a_ends = op.a == op.d || life.names & bit(op.a) == 0;
        let (keep, other, code) =
            if a_ends && op.b != op.d { (op.a, op.b, code ^ 1) } else { (op.b, op.a, code) };
        let other = self.read(other);
        let d = self.copy(op.d, keep, life, W64);
        self.asm.rr(w, 0x0f40 | Opc::from(code), d, other);
        self.regs.bind(op.d, d);
    }

    pub(super) fn set_flags(&mut self, op: &Op, life: Life) {
        use bulkhead_ir::{FLAG_A, FLAG_O, FLAG_P, FLAG_S, FLAG_Z};
        let mut mask = 0u8;
        for (flag, position) in [(FLAG_C, 0), (FLAG_P, 2), (FLAG_A, 4), (FLAG_Z, 6), (FLAG_S, 7)] {
            if op.k & flag != 0 {
                mask |= 1 << position;
            }
        }
        self.clobber(life.flags & !op.k);
        let a = self.read(op.a);
        if mask != 0 {
            self.asm.mov(W32, RAX, a);
            if mask != 0xd5 {
                self.asm.alu_ri(W32, 4, RAX, i32::from(mask));
                self.asm.rm(W32, 0x0fb6, RDI, cc_high());
                self.asm.alu_ri(W32, 4, RDI, i32::from(!mask));
                self.asm.op_rr(W32, 0x09, RAX, RDI);
            }
            self.asm.store(W8, RAX, cc_high());
        }
        if op.k & FLAG_O != 0 {
            self.asm.mov(W32, RAX, a);
            self.asm.rr(W32, 0xc1, 5, RAX);
            self.asm.bytes(&[11]);
            self.asm.alu_ri(W32, 4, RAX, 1);
            self.asm.store(W8, RAX, cc_mem());
        }
        self.mem = true;
    }
}
