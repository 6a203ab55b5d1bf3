//! Guest memory accesses and vector ops.

use std::mem::offset_of;

use bulkhead_ir::liveness::{Life, bit};
use bulkhead_ir::{
    ADDR32, ALIGN16, IMPLICIT_SUPERVISOR, LD_FOR_WRITE, NONE, Op, Opcode, SET_FLAGS, VSLOTS, VTEMP0, VecOp,
    VecShape, W8, W16, W32, W64, cc,
};

use super::asm::{M, NOREG, Opc, Patch, reg};
use super::emit::{Cold, Emitter};
use super::regs::{disp, state};
use super::stubs::VECTOR;
use super::vectors;
use crate::state::{Access, CoreState, MMU_KERNEL, TLB_SETS, Tlb, TlbEntry};
use crate::vecinsn;

use reg::{RAX, RBP, RDI, RSI};

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

impl Emitter<'_> {
    /// Emits the lookup: rsi becomes the host address of the access. The flags must be saved or dead afterwards.
    pub(super) fn translate(&mut self, op: &Op, access: Access, record: u32) -> Patch {
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
        if op.k & ALIGN16 != 0 && matches!(op.op, Opcode::LdV | Opcode::StV) {
            self.asm.rr(W8, 0xf6, 0, RSI); // test sil, 15
            self.asm.bytes(&[15]);
            let jump = self.asm.jcc(cc::NE);
            self.cold.push(Cold::Misaligned { jump, record });
        }
        let index_mask = ((TLB_SETS - 1) * size_of::<TlbEntry>()) as i32;
        if self.target.bmi2 {
            self.asm.rorx(W32, RDI, RSI, 8);
        } else {
            self.asm.mov(W32, RDI, RSI);
            self.asm.rr(W32, 0xc1, 5, RDI);
            self.asm.bytes(&[8]);
        }
        self.asm.alu_ri(W32, 4, RDI, index_mask);
        let mode = if op.k & IMPLICIT_SUPERVISOR != 0 { MMU_KERNEL } else { self.target.mode };
        let table = offset_of!(CoreState, tlb)
            + mode * size_of::<Tlb>()
            + access as usize * TLB_SETS * size_of::<TlbEntry>();
        let entry = |field: usize| M { base: RBP, index: RDI, scale: 0, disp: disp(table + field) };
        self.asm.load(W64, RAX, entry(offset_of!(TlbEntry, tag)));
        self.asm.op_rr(W64, 0x31, RAX, RSI);
        // `cmp rax, imm32`
        self.asm.alu_ri(W64, 7, RAX, 4096 - (1 << op.w.min(4)));
        let jump = self.asm.jcc(cc::A);
        self.asm.rm(W64, 0x03, RSI, entry(offset_of!(TlbEntry, addend)));
        self.host = false;
        jump
    }

    /// Everything an access observes goes to where the slow path finds it.
    fn before_access(&mut self) {
        self.clobber(u8::MAX);
    }

    fn cold_access(&mut self, jump: Patch, record: u32, store: bool) {
        let back = self.asm.here();
        let vectors = self.vectors.any();
        self.cold.push(Cold::Access { jump, back, record, store, vectors });
    }

    /// A load, together with the ALU op behind it when that is its only reader.
    pub(super) fn load(&mut self, op: &Op, life: Life, next: Option<(&Op, &Life)>) -> bool {
        self.before_access();
        let access = if op.k & LD_FOR_WRITE != 0 { Access::Write } else { Access::Read };
        // Operands are in registers before the record is taken, so that it describes them.
        self.operands(op);
        let record = self.record(op, 0, NOREG, 0);
        let jump = self.translate(op, access, record);
        self.cold_access(jump, record, false);
        self.unlock_operands(op);
        if let Some((next, after)) = next
            && self.fold(op, next, *after)
        {
            return true;
        }
        if op.d == NONE || (life.names & bit(op.d) == 0 && op.d >= bulkhead_ir::TEMP0) {
            return false;
        }
        self.regs.end_op(life.names & !bit(op.d));
        let d = self.regs.alloc(self.asm);
        self.asm.load(op.w, d, M::base(RSI, 0));
        self.regs.bind(op.d, d);
        false
    }

    /// `next` = `x op loaded`, straight from memory.
    fn fold(&mut self, op: &Op, next: &Op, after: Life) -> bool {
        const OPCODES: [Opc; 7] = [0x03, 0x0b, 0x13, 0x1b, 0x23, 0x2b, 0x33];
        let temp = op.d;
        let folds = next.op == Opcode::Alu
            && next.b == temp
            && next.a != temp
            && next.w == op.w
            && temp >= bulkhead_ir::TEMP0
            && after.names & bit(temp) == 0
            && next.d != temp
            && !matches!(next.k, 2 | 3);
        if !folds {
            return false;
        }
        let sets = next.s & SET_FLAGS != 0 && after.flags != 0;
        let compare = next.k == 5 && next.d == NONE;
        if next.d == NONE && !compare {
            return false;
        }
        // Flags are in memory since `before_access`, or can be found out, so the host's are free.
        let lost = self.before_op(next, after);
        if compare {
            let a = self.regs.read(self.asm, next.a);
            self.asm.op_rm(next.w, 0x3b, a, M::base(RSI, 0));
        } else {
            let d = self.copy(next.d, next.a, after, next.w);
            self.asm.op_rm(next.w, OPCODES[usize::from(next.k.min(6))], d, M::base(RSI, 0));
            self.regs.bind(next.d, d);
        }
        if sets {
            self.flags_set();
        }
        self.after_op(lost);
        true
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
        let constant = self.regs.constant(op.d).and_then(|v| Self::fits(op.w, v));
        let value = match constant {
            Some(_) => NOREG,
            None => self.regs.read(self.asm, op.d),
        };
        let record = self.record(op, 0, value, constant.unwrap_or(0));
        let jump = self.translate(op, Access::Write, record);
        match constant {
            Some(c) => self.asm.mov_mi(op.w, M::base(RSI, 0), c),
            None => self.asm.store(op.w, value, M::base(RSI, 0)),
        }
        self.cold_access(jump, record, true);
    }

    pub(super) fn vector_access(&mut self, op: &Op) {
        self.before_access();
        self.operands(op);
        if op.op == Opcode::LdV {
            let record = self.record(op, VECTOR, NOREG, 0);
            let jump = self.translate(op, Access::Read, record);
            self.cold_access(jump, record, false);
            // Only now, past the fault, may the slot change.
            let memory = M::base(RSI, 0);
            match op.w {
                4 => {
                    let d = self.vectors.define(self.asm, op.d);
                    self.asm.rm(W32, 0x0f10, d, memory); // movups
                }
                W32 | W64 => {
                    let d = self.vectors.define(self.asm, op.d);
                    self.asm.bytes(&[if op.w == W64 { 0xf2 } else { 0xf3 }]);
                    self.asm.rm(W32, 0x0f10, d, memory); // movsd, movss
                }
                w => {
                    self.asm.load(w, RAX, memory);
                    let d = self.vectors.define(self.asm, op.d);
                    self.asm.rr(W16, 0x0f6e, d, RAX); // movd
                }
            }
            return;
        }
        let value = self.vectors.read(self.asm, op.d);
        let record = self.record(op, VECTOR, value, 0);
        let jump = self.translate(op, Access::Write, record);
        let memory = M::base(RSI, 0);
        match op.w {
            4 => self.asm.rm(W32, 0x0f11, value, memory),
            W32 | W64 => {
                self.asm.bytes(&[if op.w == W64 { 0xf2 } else { 0xf3 }]);
                self.asm.rm(W32, 0x0f11, value, memory);
            }
            w => {
                self.asm.rr(W16, 0x0f7e, value, RAX); // movd eax, xmm
                self.asm.store(w, RAX, memory);
            }
        }
        self.cold_access(jump, record, true);
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

/// `MOVAPS` between registers, which needs no old value of its destination.
fn is_whole_move(insn: VecOp) -> bool {
    insn == VecOp { map: 1, opcode: 0x28, ..VecOp::default() }
}
