//! The context of lowering one instruction: mode, emission, operand access and ways to end a block.
//!
//! Every lowering function gets a [`Ctx`] and the decoded instruction. Rules (see `bulkhead_ir`): no guest slot and no flag
//! is written before the last op of the instruction that can fault; byte and word results go through a temporary and
//! [`Ctx::write_reg`].

use std::mem::{offset_of, size_of};

use bulkhead_engine::CoreState;
use bulkhead_ir::{
    Alu, Block, NONE, Name, Op, Opcode, SET_FLAGS, TEMP0, TEMPS_END, VSLOTS, VTEMP0, VecOp, VecShape, W8,
    W16, W32, W64,
};
use iced_x86::{Instruction, OpKind, Register};

use super::ea::{Addr, Ea};
use crate::helpers::ids::Sys;
use crate::helpers::vector;
use crate::state::{Cpu, Segment, key};

/// Byte offset of segment `seg`'s base in the CPU state, for [`Ctx::ldf`].
pub const fn seg_base_field(seg: usize) -> i64 {
    (offset_of!(Cpu, segs) + seg * size_of::<Segment>() + offset_of!(Segment, base)) as i64
}

/// Byte offset of segment `seg`'s selector in the CPU state.
pub const fn seg_selector_field(seg: usize) -> i64 {
    (offset_of!(Cpu, segs) + seg * size_of::<Segment>() + offset_of!(Segment, selector)) as i64
}

/// Byte offset of the architectural pc in the CPU state.
pub const PC_FIELD: i64 = offset_of!(CoreState, pc) as i64;

/// A second operand: a name, or a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Src {
    /// A slot or temporary.
    Name(Name),
    /// An immediate, already sign-extended to the operation.
    Imm(i64),
}

/// `STI` holds interrupts off for one more instruction. When that one follows in the same block, the mode is as before
/// at its end and only a poll is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterSti {
    /// No `STI` in this block.
    No,
    /// The next instruction is the one held off.
    Next,
    /// This is the one; the block ends after it, with a poll.
    Here,
}

/// State while one block is lowered. Emission methods append to [`Ctx::out`].
pub struct Ctx<'a> {
    /// The block being built.
    pub out: &'a mut Block,
    /// Mode bits, see [`key`].
    pub key: u32,
    /// `Cpu::features`: CPUID leaf 1 EDX, ECX, leaf 8000_0001 EDX, ECX.
    pub features: [u32; 4],
    /// The model's vendor is AMD.
    pub amd: bool,
    /// Limit of the code segment, for branch targets outside flat mode; all ones in 64-bit mode.
    pub cs_limit: u64,
    /// Architectural pc of this instruction.
    pub pc: u64,
    /// Architectural pc of the next one (wrapped to the code size).
    pub next_pc: u64,
    /// Set once a terminator has been emitted.
    pub ended: bool,
    /// Where the block is with respect to an `STI` in it.
    pub after_sti: AfterSti,
    /// How many conditional jumps the block may still go on after.
    pub sides: u32,
    temp: Name,
    vtemp: u8,
}

impl<'a> Ctx<'a> {
    /// A context for a block in mode `key`.
    pub fn new(out: &'a mut Block, key: u32, features: [u32; 4], cs_limit: u64) -> Ctx<'a> {
        Ctx {
            out,
            key,
            features,
            amd: false,
            cs_limit,
            pc: 0,
            next_pc: 0,
            ended: false,
            after_sti: AfterSti::No,
            sides: 0,
            temp: TEMP0,
            vtemp: VTEMP0,
        }
    }

    /// Starts the instruction at `pc`: emits its mark and frees all temporaries.
    pub fn begin(&mut self, pc: u64, next_pc: u64) {
        self.pc = pc;
        self.next_pc = next_pc;
        self.temp = TEMP0;
        self.vtemp = VTEMP0;
        self.op(Op { imm: pc as i64, ..Op::new(Opcode::Insn) });
    }

    // ---- mode ----

    /// Whether all of the [`key`] bits `bits` are set.
    pub fn has(&self, bits: u32) -> bool {
        self.key & bits == bits
    }

    /// 64-bit code.
    pub fn code64(&self) -> bool {
        self.has(key::CODE64)
    }

    /// Real mode or virtual-8086 mode: privileged descriptor instructions are undefined.
    pub fn real_or_v86(&self) -> bool {
        !self.has(key::PROTECTED) || self.has(key::V86)
    }

    /// Current privilege level.
    pub fn cpl(&self) -> u32 {
        (self.key >> key::CPL_SHIFT) & 3
    }

    /// Whether no segment needs a base or limit: flat segments, or 64-bit code (FS and GS apart).
    pub fn flat(&self) -> bool {
        self.key & (key::FLAT | key::CODE64) != 0
    }

    /// Wraps an instruction pointer to the mode's width.
    pub fn wrap_pc(&self, pc: u64) -> u64 {
        if self.code64() { pc } else { pc & 0xffff_ffff }
    }

    /// Whether the CPU model has `feature`.
    pub fn feature(&self, (word, bit): super::feature::Feature) -> bool {
        self.features.get(word).is_some_and(|w| w >> bit & 1 != 0)
    }

    // ---- temporaries ----

    /// A fresh temporary, undefined, valid for this instruction only. There are 32 an instruction.
    pub fn temp(&mut self) -> Name {
        let name = self.temp;
        debug_assert!(name < TEMPS_END, "temporaries used up");
        if name + 1 < TEMPS_END {
            self.temp = name + 1;
        }
        name
    }

    /// A fresh vector temporary (one of 4 an instruction).
    pub fn vtemp(&mut self) -> u8 {
        let slot = self.vtemp;
        debug_assert!(slot < VSLOTS, "vector temporaries used up");
        if slot + 1 < VSLOTS {
            self.vtemp = slot + 1;
        }
        slot
    }

    // ---- plain emission ----

    /// Appends an op as it is.
    pub fn op(&mut self, op: Op) {
        self.out.push(op);
    }

    /// A temporary holding `imm`.
    pub fn movi(&mut self, imm: i64) -> Name {
        let d = self.temp();
        self.op(Op { d, imm, ..Op::new(Opcode::MovI) });
        d
    }

    /// `d = a` at `W32` or `W64`.
    pub fn mov(&mut self, w: u8, d: Name, a: Name) {
        self.op(Op { w, d, a, ..Op::new(Opcode::Mov) });
    }

    /// A temporary: the low `w` of `a`, zero-extended to 64 bits.
    pub fn zx(&mut self, w: u8, a: Name) -> Name {
        let d = self.temp();
        self.op(Op { w, d, a, ..Op::new(Opcode::Zx) });
        d
    }

    /// A temporary: the low `w` of `a`, sign-extended to width `to`.
    pub fn sx(&mut self, w: u8, to: u8, a: Name) -> Name {
        let d = self.temp();
        self.op(Op { w, d, a, k: to, ..Op::new(Opcode::Sx) });
        d
    }

    /// A temporary: `a + imm` at width `w` (`W16` zero-extended), flags untouched.
    pub fn add(&mut self, w: u8, a: Name, imm: i64) -> Name {
        let d = self.temp();
        self.op(Op { w, d, a, imm, ..Op::new(Opcode::Lea) });
        d
    }

    /// `d = alu(a, b)`, with flags when `flags`.
    pub fn alu(&mut self, k: Alu, w: u8, d: Name, a: Name, b: Src, flags: bool) {
        let s = if flags { SET_FLAGS } else { 0 };
        let (b, imm) = b.parts();
        self.op(Op { w, d, a, b, s, k: k as u8, imm, ..Op::new(Opcode::Alu) });
    }

    /// `d = cc ? a : b` at `W32` or `W64`.
    pub fn select(&mut self, cc: u8, w: u8, d: Name, a: Name, b: Name) {
        self.op(Op { w, d, a, b, k: cc, ..Op::new(Opcode::Select) });
    }

    /// A temporary: the CPU-state field at `offset`, zero-extended.
    pub fn ldf(&mut self, w: u8, offset: i64) -> Name {
        let d = self.temp();
        self.op(Op { w, d, imm: offset, ..Op::new(Opcode::LdF) });
        d
    }

    /// CPU-state field at `offset` = low `w` of `a`.
    pub fn stf(&mut self, w: u8, offset: i64, a: Name) {
        self.op(Op { w, a, imm: offset, ..Op::new(Opcode::StF) });
    }

    // ---- memory ----

    /// A temporary: `w` bytes at `addr`, zero-extended. `flags`: `LD_FOR_WRITE` and the like, 0 for a plain load.
    pub fn ld(&mut self, w: u8, addr: Addr, flags: u8) -> Name {
        let d = self.temp();
        self.ld_to(w, d, addr, flags);
        d
    }

    /// As [`Ctx::ld`] into name `d` (a guest slot only for `W32`, `W64`, and zero-extending narrower loads).
    pub fn ld_to(&mut self, w: u8, d: Name, addr: Addr, flags: u8) {
        self.op(addr.op(Opcode::Ld, w, d, flags));
    }

    /// Stores the low `w` of `value`.
    pub fn st(&mut self, w: u8, addr: Addr, value: Name) {
        self.op(addr.op(Opcode::St, w, value, 0));
    }

    /// Vector slot `v` = `1 << w` bytes at `addr` (`w` up to 4), the rest zero. `flags`: 0 or `ALIGN16`.
    pub fn ldv(&mut self, w: u8, v: u8, addr: Addr, flags: u8) {
        self.op(addr.op(Opcode::LdV, w, v, flags));
    }

    /// Stores the low `1 << w` bytes of vector slot `v`.
    pub fn stv(&mut self, w: u8, addr: Addr, v: u8, flags: u8) {
        self.op(addr.op(Opcode::StV, w, v, flags));
    }

    /// A vector op, see [`VecShape`] for `d`, `a` and `w`.
    pub fn vec(&mut self, shape: VecShape, w: u8, d: Name, a: Name, vec: VecOp) {
        self.op(Op { w, d, a, k: shape as u8, imm: vec.pack(), ..Op::new(Opcode::Vec) });
    }

    /// The effective address of the memory operand: segment and offset, nothing checked or added yet.
    pub fn ea(&self, insn: &Instruction) -> Ea {
        Ea::of(insn)
    }

    /// Linear address of `1 << w` bytes at the memory operand, segment applied and (outside flat mode) checked.
    /// `w` may exceed `W64`: 4 is 16 bytes, 9 is 512 (`FXSAVE`). Call once per access; for operands of several parts
    /// take [`Ctx::ea`] and use `ea.at(ctx, displacement).resolve(ctx, w, write)`.
    pub fn addr(&mut self, insn: &Instruction, w: u8, write: bool) -> Addr {
        let ea = self.ea(insn);
        ea.resolve(self, w, write)
    }

    /// As [`Ctx::addr`] for 16 bytes that must be aligned to 16: that is `#GP`, checked by the access itself, never `#AC`.
    pub fn addr16(&mut self, insn: &Instruction, write: bool) -> Addr {
        self.ea(insn).place(self, 4, write)
    }

    /// A temporary holding the linear address of [`Ctx::addr`], for helpers.
    pub fn linear(&mut self, insn: &Instruction, w: u8, write: bool) -> Name {
        let addr = self.addr(insn, w, write);
        addr.to_name(self)
    }

    // ---- helpers ----

    /// Calls helper `id` (a `Sys`, `Str` or FP number as `u16`); the result is a fresh temporary.
    pub fn call(&mut self, id: u16, a: Name, b: Name, c: Name, imm: u64) -> Name {
        let d = self.temp();
        self.call_to(id, d, a, b, c, imm);
        d
    }

    /// Calls helper `id`, result dropped. Absent operands are [`NONE`].
    pub fn call_void(&mut self, id: u16, a: Name, b: Name, c: Name, imm: u64) {
        self.call_to(id, NONE, a, b, c, imm);
    }

    fn call_to(&mut self, id: u16, d: Name, a: Name, b: Name, c: Name, imm: u64) {
        self.op(Op { d, a, b, s: c, imm: ((imm << 16) | u64::from(id)) as i64, ..Op::new(Opcode::Call) });
    }

    /// Calls a system helper without operands but `imm`.
    pub fn sys(&mut self, id: Sys, imm: u64) {
        self.call_void(id as u16, NONE, NONE, NONE, imm);
    }

    /// Raises exception `vector` without an error code at this instruction and ends the block.
    pub fn raise(&mut self, vector: u8) {
        self.sys(Sys::Raise, u64::from(vector));
        self.exit_raw();
    }

    /// Raises exception `vector` with error code zero and ends the block.
    pub fn raise_zero(&mut self, vector: u8) {
        let zero = self.movi(0);
        self.call_void(Sys::Raise as u16, zero, NONE, NONE, u64::from(vector) | 0x100);
        self.exit_raw();
    }

    /// Undefined instruction: ends the block.
    pub fn ud(&mut self) {
        self.raise(vector::UD);
    }

    /// `#GP(0)` unless CPL is 0 (real mode counts as 0, V86 as 3). True when the instruction may go on.
    pub fn require_cpl0(&mut self) -> bool {
        if self.cpl() == 0 {
            return true;
        }
        self.raise_zero(vector::GP);
        false
    }

    // ---- registers ----

    /// The low `w` bits of general register `reg`: its slot, or for AH..BH a temporary. Only the low bits count.
    pub fn read_reg(&mut self, reg: Register) -> Name {
        let (slot, high) = gpr(reg);
        if !high {
            return slot;
        }
        let d = self.temp();
        self.op(Op { d, a: slot, ..Op::new(Opcode::ExtH) });
        d
    }

    /// General register `reg` = the low bits of `value` (32-bit registers zero-extend, narrower ones are inserted).
    pub fn write_reg(&mut self, reg: Register, value: Name) {
        let (d, high) = gpr(reg);
        let w = width_of(reg.size());
        match w {
            W8 if high => self.op(Op { w, d, a: value, ..Op::new(Opcode::DepH) }),
            W8 | W16 => self.op(Op { w, d, a: value, ..Op::new(Opcode::Dep) }),
            _ if d == value && w == W64 => {}
            _ => self.mov(w, d, value),
        }
    }

    /// Slot `slot` = low `w` bits of `value`, by the rules of [`Ctx::write_reg`].
    pub fn write_slot(&mut self, slot: Name, w: u8, value: Name) {
        match w {
            W8 | W16 => self.op(Op { w, d: slot, a: value, ..Op::new(Opcode::Dep) }),
            _ => self.mov(w, slot, value),
        }
    }

    /// Where a `w`-wide op may put the value of register `reg` directly: the slot for `W32` and `W64`, else a temporary;
    /// follow with [`Ctx::finish_reg`].
    pub fn dest_reg(&mut self, reg: Register) -> Name {
        if reg.size() >= 4 { gpr(reg).0 } else { self.temp() }
    }

    /// Completes [`Ctx::dest_reg`]: inserts a narrow result.
    pub fn finish_reg(&mut self, reg: Register, d: Name) {
        if reg.size() < 4 {
            self.write_reg(reg, d);
        }
    }

    // ---- operands ----

    /// Width of operand `op` (register, memory or immediate form).
    pub fn op_width(insn: &Instruction, op: u32) -> u8 {
        match insn.op_kind(op) {
            OpKind::Register => width_of(insn.op_register(op).size()),
            OpKind::Memory => width_of(insn.memory_size().size()),
            OpKind::Immediate8 | OpKind::Immediate8_2nd => W8,
            OpKind::Immediate16 | OpKind::Immediate8to16 => W16,
            OpKind::Immediate32 | OpKind::Immediate8to32 => W32,
            _ => W64,
        }
    }

    /// Value of register or memory operand `op` (general registers only); memory is loaded. `flags` go to the load.
    pub fn read(&mut self, insn: &Instruction, op: u32, flags: u8) -> Name {
        match insn.op_kind(op) {
            OpKind::Register => self.read_reg(insn.op_register(op)),
            OpKind::Memory => {
                let w = Self::op_width(insn, op);
                let addr = self.addr(insn, w, flags & bulkhead_ir::LD_FOR_WRITE != 0);
                self.ld(w, addr, flags)
            }
            _ => self.movi(insn.try_immediate(op).unwrap_or(0) as i64),
        }
    }

    /// As [`Ctx::read`], with immediates kept as such.
    pub fn src(&mut self, insn: &Instruction, op: u32) -> Src {
        match insn.op_kind(op) {
            OpKind::Register | OpKind::Memory => Src::Name(self.read(insn, op, 0)),
            _ => Src::Imm(insn.try_immediate(op).unwrap_or(0) as i64),
        }
    }

    /// Writes register or memory operand `op`; evaluates the address, so not for read-modify-write.
    pub fn write(&mut self, insn: &Instruction, op: u32, value: Name) {
        match insn.op_kind(op) {
            OpKind::Memory => {
                let w = Self::op_width(insn, op);
                let addr = self.addr(insn, w, true);
                self.st(w, addr, value);
            }
            _ => self.write_reg(insn.op_register(op), value),
        }
    }

    // ---- ends ----

    fn step_trap(&mut self, pc: Name) {
        self.call_void(Sys::StepTrap as u16, pc, NONE, NONE, 0);
        self.exit_raw();
    }

    fn exit_raw(&mut self) {
        self.op(Op::new(Opcode::Exit));
        self.ended = true;
    }

    /// Leaves for the pc in `pc` through the dispatcher, never chained.
    fn leave(&mut self, pc: Name) {
        self.stf(W64, PC_FIELD, pc);
        self.exit_raw();
    }

    /// Whether the mode changes with this instruction, so that nothing after it may be chained.
    fn unchained(&self) -> bool {
        self.has(key::INHIBIT)
    }

    /// Ends the block going to constant `pc`.
    pub fn end_goto(&mut self, pc: u64) {
        if self.has(key::TRAP) {
            let to = self.movi(pc as i64);
            return self.step_trap(to);
        }
        if self.after_sti == AfterSti::Here {
            let to = self.movi(pc as i64);
            return self.end_goto_reg(to);
        }
        let k = u8::from(!self.unchained() && self.after_sti == AfterSti::No);
        self.op(Op { k, imm: pc as i64, ..Op::new(Opcode::Goto) });
        self.ended = true;
    }

    /// Ends the block after an instruction that changed the mode or may have made an interrupt due: on to the next
    /// instruction through the dispatcher.
    pub fn end_changed(&mut self) {
        let pc = self.next_pc;
        if self.has(key::TRAP) {
            return self.end_goto(pc);
        }
        self.op(Op { imm: pc as i64, ..Op::new(Opcode::Goto) });
        self.ended = true;
    }

    /// Ends the block with a conditional jump to `target`, else the next instruction; or goes on with that, since compilers put
    /// what they think likely there.
    pub fn end_branch(&mut self, cc: u8, target: u64) {
        if self.has(key::TRAP) || self.unchained() || self.after_sti != AfterSti::No {
            let yes = self.movi(target as i64);
            let no = self.movi(self.next_pc as i64);
            let to = self.temp();
            self.select(cc, W64, to, yes, no);
            return self.end_goto_reg(to);
        }
        if self.sides > 0 && target > self.pc && self.next_pc > self.pc {
            self.sides -= 1;
            self.op(Op { k: cc, imm: target as i64, ..Op::new(Opcode::Side) });
            return;
        }
        self.op(Op { k: cc, imm: target as i64, ..Op::new(Opcode::Branch) });
        self.ended = true;
    }

    /// Ends the block: to `target` if the low `w` of `a` are nonzero (`nonzero`) or zero, else the next instruction.
    pub fn end_branch_z(&mut self, w: u8, a: Name, nonzero: bool, target: u64) {
        // `a` is followed through a mask only in the slow modes, where the flags must survive too.
        if self.has(key::TRAP) || self.unchained() || self.after_sti != AfterSti::No {
            let flags = self.temp();
            self.op(Op { d: flags, ..Op::new(Opcode::GetFlags) });
            let yes = self.movi(target as i64);
            let no = self.movi(self.next_pc as i64);
            let to = self.temp();
            self.alu(Alu::And, w, NONE, a, Src::Name(a), true);
            self.select(if nonzero { bulkhead_ir::cc::NE } else { bulkhead_ir::cc::E }, W64, to, yes, no);
            self.op(Op { a: flags, k: bulkhead_ir::FLAGS_ALL, ..Op::new(Opcode::SetFlags) });
            return self.end_goto_reg(to);
        }
        self.op(Op::branchz(w, a, nonzero, target));
        self.ended = true;
    }

    /// Ends the block going to the pc in `a` (64 bits, already wrapped to the operand size).
    pub fn end_goto_reg(&mut self, a: Name) {
        if self.has(key::TRAP) {
            return self.step_trap(a);
        }
        if self.unchained() {
            return self.leave(a);
        }
        self.op(Op { a, ..Op::new(Opcode::GotoReg) });
        self.ended = true;
    }

    /// Ends the block after a helper that wrote the pc itself. A single-step trap after it is the helper's matter too.
    pub fn end_exit(&mut self) {
        self.exit_raw();
    }
}

impl Src {
    /// Operand name and immediate for an op.
    pub fn parts(self) -> (Name, i64) {
        match self {
            Src::Name(n) => (n, 0),
            Src::Imm(i) => (NONE, i),
        }
    }
}

/// Log2 of a size in bytes (1, 2, 4, 8, 16...), rounded up.
pub fn width_of(bytes: usize) -> u8 {
    match bytes {
        0 | 1 => W8,
        2 => W16,
        3 | 4 => W32,
        5..=8 => W64,
        n => n.next_power_of_two().trailing_zeros() as u8,
    }
}

/// Slot of a general register, and whether it is the high byte AH, CH, DH, BH.
pub fn gpr(reg: Register) -> (Name, bool) {
    match reg {
        Register::AH => (0, true),
        Register::CH => (1, true),
        Register::DH => (2, true),
        Register::BH => (3, true),
        // Anything but a general register cannot come here; masking keeps a wrong one harmless.
        _ => ((reg.full_register().number() & 15) as Name, false),
    }
}
