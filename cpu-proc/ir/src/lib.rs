//! The one typed intermediate representation between guest front ends and engines.
//!
//! A [`Block`] is straight-line code: a flat vector of 16-byte [`Op`]s over at most 64 [`Name`]s, ended by
//! exactly one terminator. Control enters it at its start only; [`Opcode::Side`] may leave it before its end.
//!
//! # Names
//! * `0..32` are *guest slots*: the architectural registers of the front end (x86: `rax`..`r15` in encoding
//!   order, 16..32 unused). They live in `CoreState::slots` between blocks.
//! * `32..60` are *temporaries*: undefined at block start, dead at block end. `60..64` are an engine's own.
//! * [`NONE`] (255) means absent.
//!
//! # Widths
//! `w` is the log2 size in bytes: [`W8`], [`W16`], [`W32`], [`W64`]. An op of width `w` reads only the low `w`
//! bits of its inputs. Its result `d`: `W64` defines all bits; `W32` zero-extends to 64 bits; `W8`/`W16` define
//! the low bits and leave the rest **unspecified**. Therefore a guest slot is never the destination of a
//! `W8`/`W16` op: compute into a temporary and use [`Opcode::Dep`] / [`Opcode::DepH`].
//!
//! # Condition flags
//! One group of six arithmetic flags `O S Z A P C` ([`FLAG_C`] ...). ALU, shift, unary and multiply ops with the [`SET_FLAGS`] bit in `s`,
//! and double shifts, wide multiplications, bit tests and scans in any case, define them as the x86 instruction of the same name does; where
//! that manual leaves a flag undefined the engines may differ. Other ops leave them alone. A faulting op and every block exit observe the
//! flags, so an engine keeps them recoverable there; liveness removes the rest.
//!
//! # Faults and precise state
//! [`Opcode::Insn`] starts each guest instruction. A load, store or helper may fault; at that point guest slots
//! must read as they are *by program order in the block*. A front end therefore orders ops so that no guest slot
//! or flag of an instruction is written before its last faulting op (use temporaries), because a faulting
//! instruction is restarted from its beginning.

mod build;
mod dump;
pub mod liveness;

pub use build::Mem;
pub use dump::with_lives;

/// A value name: guest slot, temporary, or [`NONE`].
pub type Name = u8;
/// No operand.
pub const NONE: Name = 255;
/// First temporary; names below it are guest slots.
pub const TEMP0: Name = 32;
/// One past the last name.
pub const NAMES: u8 = 64;
/// One past the last temporary that a block may name. The names from here on are an engine's own.
pub const TEMPS_END: Name = 60;

/// 8-bit width.
pub const W8: u8 = 0;
/// 16-bit width.
pub const W16: u8 = 1;
/// 32-bit width.
pub const W32: u8 = 2;
/// 64-bit width.
pub const W64: u8 = 3;

/// Carry.
pub const FLAG_C: u8 = 1 << 0;
/// Parity.
pub const FLAG_P: u8 = 1 << 1;
/// Auxiliary carry.
pub const FLAG_A: u8 = 1 << 2;
/// Zero.
pub const FLAG_Z: u8 = 1 << 3;
/// Sign.
pub const FLAG_S: u8 = 1 << 4;
/// Overflow.
pub const FLAG_O: u8 = 1 << 5;
/// All six.
pub const FLAGS_ALL: u8 = 0x3f;

/// In `Op::s` of ALU, shift, unary and multiply ops: define the condition flags.
pub const SET_FLAGS: u8 = 1;
/// In `Op::k` of [`Opcode::Ld`]: probe with write permission (first half of a read-modify-write). A later store of the same
/// instruction to the same address and width then cannot fault or be retried, so flags may change between the two.
pub const LD_FOR_WRITE: u8 = 1;
/// In `Op::k` of memory ops: the linear address wraps at 32 bits.
pub const ADDR32: u8 = 2;
/// In `Op::k` of memory ops: the access is a supervisor access whatever the current privilege (descriptor tables).
pub const IMPLICIT_SUPERVISOR: u8 = 4;
/// In `Op::k` of [`Opcode::LdV`]/[`Opcode::StV`]: raise the guest's alignment fault unless 16-byte aligned.
pub const ALIGN16: u8 = 8;

/// In `Op::k` of [`Opcode::Call`]: an x87 instruction on registers.
pub const FORM_REGISTER: u8 = 1;
/// ...on the memory operand's value in `a`, whose pointer is `b`.
pub const FORM_VALUE: u8 = 2;
/// ...on memory at linear address `a`, whose pointer is `b`.
pub const FORM_ADDRESS: u8 = 3;

/// What an op does. `d`, `a`, `b`, `s` are the fields of [`Op`]; `[m]` is the linear address
/// `a + (b << s) + imm` (`a` and `b` may be [`NONE`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Opcode {
    /// Start of a guest instruction at program counter `imm` (the architectural one, x86: RIP/EIP/IP without base).
    Insn,
    /// `d = a` (`W32`, `W64`).
    Mov,
    /// `d = imm`, 64 bits.
    MovI,
    /// `d = zero_extend(low w bits of a)`, 64 bits.
    Zx,
    /// `d = sign_extend(low w bits of a)` to width `k` (`W16`..`W64`), with the result rule of width `k`.
    Sx,
    /// Insert: low `w` bits (`W8`/`W16`) of `a` replace those of `d`; the rest of `d` stays.
    Dep,
    /// Insert the low 8 bits of `a` at bits 8..16 of `d`.
    DepH,
    /// `d = (a >> 8) & 0xff`, 64 bits.
    ExtH,
    /// `d = a + (b << s) + imm` at width `w` (`W16`, `W32`, `W64`); `W16` result is zero-extended here.
    Lea,
    /// `d = alu(k)(a, b)`, with `imm` for the second operand when `b` is [`NONE`]; `d` may be [`NONE`]. See [`Alu`].
    Alu,
    /// `d = shift(k)(a, count)`; count is the low 8 bits of `b`, or `imm` when `b` is [`NONE`], masked as x86 does
    /// (5 bits, 6 for `W64`). Count zero leaves the flags alone. See [`Shift`].
    Shift,
    /// Double shift: `d = a` shifted left (`k` 0) or right (`k` 1) by count, filled from `b`. Count is the low
    /// 8 bits of the name in field `s`, or `imm` when `s` is [`NONE`]. Always sets flags; count zero leaves them alone.
    DShift,
    /// One operand: `d = unary(k)(a)`. See [`Unary`].
    Unary,
    /// `d = a * b` (or `* imm` when `b` is [`NONE`]), truncated, signed; flags `C` and `O` as x86 `IMUL r, r/m`.
    /// `W16` and more.
    Mul,
    /// Widening multiply of `a * b`: low half to `d`, high half to name `s`; `k` 1 is signed. `W8` puts the whole 16-bit
    /// product in `d` and leaves `s` as [`NONE`]. Always sets flags as x86 `MUL`/`IMUL`.
    MulWide,
    /// Bit test of `a` by `b` (or `imm`), index taken modulo the width (`W16` and more); sets `C` only. `k`: see [`Bit`]. `d` as result or [`NONE`].
    Bit,
    /// `d = index of lowest (k 0) / highest (k 1) set bit of a`; `Z` set and `d = b` (old value) when `a` is zero.
    Scan,
    /// `d = cc(k) ? 1 : 0`, 64 bits. See [`cc`].
    SetCc,
    /// `d = cc(k) ? a : b` at width `w` (`W32`, `W64`), with the result rule of width `w`.
    Select,
    /// `d` = the flags in x86 EFLAGS positions (CF 0, PF 2, AF 4, ZF 6, SF 7, OF 11), other bits zero.
    GetFlags,
    /// The flags selected by mask `k` come from the x86 EFLAGS positions of `a`.
    SetFlags,
    /// Carry: `k` 0 clears, 1 sets, 2 complements.
    SetCarry,
    /// `d = [m]`, zero-extended to 64 bits; `k` holds the memory flags.
    Ld,
    /// `[m] = d`.
    St,
    /// Vector slot `d` = `1 << w` bytes at `[m]`, rest of the 16 bytes zero. `w` 0..=4. `k` holds the memory flags.
    LdV,
    /// `1 << w` low bytes of vector slot `d` to `[m]`.
    StV,
    /// `d` = field of the CPU state at byte offset `imm`, width `w`, zero-extended.
    LdF,
    /// CPU-state field at byte offset `imm`, width `w` = `a`.
    StF,
    /// A host vector instruction on vector slots; only x86-like front ends. See [`VecOp`].
    Vec,
    /// `d = helper(imm & 0xffff)(state, a, b, s, imm >> 16)`: a function of the front end. Its effects are in the helper table.
    /// `k` other than 0 tells an x87 instruction (bits 16..27 of `imm`) which an engine may do itself, see [`FORM_REGISTER`]; it is
    /// the last op of its instruction, and `s` is the instruction pointer to be recorded unless that is the pc.
    Call,
    /// Goes on if `a` is a sign-extended number of 48 bits, as an address that a branch goes to must be; else the front end's fault
    /// (as for an address that is not aligned).
    Canonical,
    /// If `cc(k)` leave the block for constant pc `imm`, which lies behind this instruction and may be chained; else go on.
    Side,
    // --- terminators ---
    /// Go to constant pc `imm`. `k` 1: the target may be chained; 0: leave to the dispatcher (state changed).
    Goto,
    /// If `cc(k)` go to `imm`, else to the fall-through pc `Block::next_pc`. Both may be chained.
    Branch,
    /// If the low `w` bits of `a` are nonzero (`k` 1: zero) go to `imm`, else to `Block::next_pc`.
    BranchZ,
    /// Go to the pc in name `a`.
    GotoReg,
    /// Return to the dispatcher; pc and everything else have been written by a helper.
    Exit,
}

/// Two-operand arithmetic, field `k` of [`Opcode::Alu`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Alu {
    /// `a + b`
    Add,
    /// `a | b`
    Or,
    /// `a + b + C`
    Adc,
    /// `a - b - C`
    Sbb,
    /// `a & b`
    And,
    /// `a - b`
    Sub,
    /// `a ^ b`
    Xor,
}

/// Shifts and rotates, field `k` of [`Opcode::Shift`], in x86 group-2 order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Shift {
    /// Rotate left.
    Rol,
    /// Rotate right.
    Ror,
    /// Rotate left through carry.
    Rcl,
    /// Rotate right through carry.
    Rcr,
    /// Shift left.
    Shl,
    /// Shift right, zeros in.
    Shr,
    /// Shift right, sign in.
    Sar = 7,
}

/// One-operand arithmetic, field `k` of [`Opcode::Unary`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Unary {
    /// `!a`, no flags.
    Not,
    /// `-a`.
    Neg,
    /// `a + 1`, `C` kept.
    Inc,
    /// `a - 1`, `C` kept.
    Dec,
    /// Byte swap (`W32`, `W64`), no flags.
    Bswap,
}

/// Bit test forms, field `k` of [`Opcode::Bit`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Bit {
    /// Test only.
    Test,
    /// Test and set.
    Set,
    /// Test and reset.
    Reset,
    /// Test and complement.
    Complement,
}

/// Condition codes, in the encoding of x86 `Jcc`.
pub mod cc {
    /// Overflow.
    pub const O: u8 = 0;
    /// No overflow.
    pub const NO: u8 = 1;
    /// Below (carry).
    pub const B: u8 = 2;
    /// Above or equal.
    pub const AE: u8 = 3;
    /// Equal (zero).
    pub const E: u8 = 4;
    /// Not equal.
    pub const NE: u8 = 5;
    /// Below or equal.
    pub const BE: u8 = 6;
    /// Above.
    pub const A: u8 = 7;
    /// Sign.
    pub const S: u8 = 8;
    /// No sign.
    pub const NS: u8 = 9;
    /// Parity even.
    pub const P: u8 = 10;
    /// Parity odd.
    pub const NP: u8 = 11;
    /// Less (signed).
    pub const L: u8 = 12;
    /// Greater or equal (signed).
    pub const GE: u8 = 13;
    /// Less or equal (signed).
    pub const LE: u8 = 14;
    /// Greater (signed).
    pub const G: u8 = 15;
}

/// The six flags a condition code reads.
pub fn cc_reads(code: u8) -> u8 {
    match code >> 1 {
        0 => FLAG_O,
        1 => FLAG_C,
        2 => FLAG_Z,
        3 => FLAG_C | FLAG_Z,
        4 => FLAG_S,
        5 => FLAG_P,
        6 => FLAG_S | FLAG_O,
        _ => FLAG_S | FLAG_O | FLAG_Z,
    }
}

/// Vector slots: `0..16` the guest's vector registers, `16..20` block-local temporaries.
pub const VTEMP0: u8 = 16;
/// One past the last vector slot.
pub const VSLOTS: u8 = 20;

/// The shape of a [`Opcode::Vec`] op, field `k`. The instruction itself is packed in `imm`, see [`VecOp`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum VecShape {
    /// Vector `d` = op(vector `d`, vector `a`): `op xmm(d), xmm(a)[, imm8]`, all 128 bits of `d` written back.
    VV,
    /// GPR name `d` (width `w`, result rule of `w`) = op(vector `a`): `op r, xmm[, imm8]`, e.g. `CVTTSD2SI`, `PMOVMSKB`.
    GV,
    /// Vector `d` = op(vector `d`, GPR name `a` of width `w`): `op xmm, r[, imm8]`, e.g. `CVTSI2SD`, `PINSRW`.
    VG,
    /// Flags = op(vector `d`, vector `a`): `COMISD` and its kin.
    Flags,
    /// As [`VecShape::VV`] on the guest's 64-bit media registers `mm0..mm7` (slot numbers `0..8`, temporaries as usual).
    MM,
}

/// A host SSE instruction to run on vector slots: the bytes that precede ModRM, packed for `Op::imm`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VecOp {
    /// Mandatory prefix: 0, 0x66, 0xf2 or 0xf3.
    pub prefix: u8,
    /// 1 = `0F`, 2 = `0F 38`, 3 = `0F 3A`.
    pub map: u8,
    /// Opcode byte.
    pub opcode: u8,
    /// Whether an immediate byte follows.
    pub has_imm: bool,
    /// That byte.
    pub imm: u8,
    /// For immediate-count shift groups (`PSLLW xmm, imm8`): the ModRM reg digit plus one, else 0. Then `a` is unused.
    pub digit: u8,
    /// Whether the instruction can raise a SIMD floating-point exception (so that unmasked ones need checking).
    pub fp: bool,
}

impl VecOp {
    /// Packs for `Op::imm`.
    pub fn pack(self) -> i64 {
        i64::from(self.prefix)
            | i64::from(self.map) << 8
            | i64::from(self.opcode) << 16
            | i64::from(self.imm) << 24
            | i64::from(self.has_imm) << 32
            | i64::from(self.digit) << 40
            | i64::from(self.fp) << 48
    }

    /// Inverse of [`VecOp::pack`].
    pub fn unpack(imm: i64) -> VecOp {
        VecOp {
            prefix: imm as u8,
            map: (imm >> 8) as u8,
            opcode: (imm >> 16) as u8,
            imm: (imm >> 24) as u8,
            has_imm: (imm >> 32) & 1 != 0,
            digit: (imm >> 40) as u8,
            fp: (imm >> 48) & 1 != 0,
        }
    }
}

/// One operation, 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Op {
    /// What to do.
    pub op: Opcode,
    /// Log2 operand size in bytes.
    pub w: u8,
    /// Destination name (the value for stores).
    pub d: Name,
    /// First source.
    pub a: Name,
    /// Second source.
    pub b: Name,
    /// Scale, flag bits or third name, by opcode.
    pub s: u8,
    /// Sub-kind, by opcode.
    pub k: u8,
    /// Spare, zero.
    pub pad: u8,
    /// Immediate, displacement or target.
    pub imm: i64,
}

const _: () = assert!(size_of::<Op>() == 16);

/// How a helper called by [`Opcode::Call`] touches the machine. Helpers are numbered by the front end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HelperInfo {
    /// For dumps.
    pub name: &'static str,
    /// Guest slots it may read, a bit each (the engine writes these back before the call).
    pub reads: u32,
    /// Guest slots it may write (the engine forgets its copies after the call).
    pub writes: u32,
    /// Flags it reads from the state.
    pub flags_read: u8,
    /// Flags it (re)defines in the state.
    pub flags_written: u8,
    /// May raise a guest exception or ask to leave the block: the engine stores the pc before the call
    /// and tests `CoreState::exit` after it.
    pub may_exit: bool,
}

/// Straight-line guest code, ready for an engine.
#[derive(Clone, Debug, Default)]
pub struct Block {
    /// The ops, ended by one terminator.
    pub ops: Vec<Op>,
    /// Architectural pc of the first instruction.
    pub pc: u64,
    /// Architectural pc after the last instruction.
    pub next_pc: u64,
    /// Guest bytes covered.
    pub len: u32,
    /// Guest instructions covered.
    pub insns: u32,
    /// The same bytes at another pc, as far into their page, give the same ops but for constants that are moved as far as the pc
    /// is: each constant within 2 GiB of it, and no other, follows from it (packed ones, of [`Opcode::Call`] and
    /// [`Opcode::Vec`], never do).
    pub movable: bool,
}

impl Block {
    /// Empties the block for reuse and sets its start.
    pub fn restart(&mut self, pc: u64) {
        self.ops.clear();
        self.pc = pc;
        self.next_pc = pc;
        self.len = 0;
        self.insns = 0;
        self.movable = false;
    }

    /// Appends an op.
    pub fn push(&mut self, op: Op) {
        self.ops.push(op);
    }
}
