//! Floating point and SIMD helpers: numbers, and what the x87 parts share (stack, tags, exceptions).
//!
//! Source: Intel SDM volume 1 chapter 8.

use bulkhead_engine::{Fault, exit};
use bulkhead_ir::FLAGS_ALL;

use super::ids::FP_BASE;
use super::{
    FAULTS, PURE, fp_3dnow, fp_env, fp_fxsave, fp_host, fp_sse, fp_strings, fp_x87, fp_x87_mem, raise, slot,
    vector,
};
use crate::helper;
use crate::state::{Cpu, key};
use bulkhead_engine::state::{LAZY_NONE, LAZY_OP, X87};
use fp_host::{F80, HostOp, Io};

/// Numbers of this topic's helpers.
///
/// In x87 helpers `imm` bits 0..11 are the opcode as the processor records it (low three bits of the escape byte, then
/// ModRM), bits 16..19 the segment of the memory operand; `b` is the operand's offset in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Fp {
    /// A register-form x87 instruction other than the ones below.
    X87Reg = FP_BASE,
    /// `FCOMI`, `FUCOMI` and their popping forms: flags.
    X87Comi,
    /// `FCMOVcc`: `a` = whether the condition holds.
    X87Cmov,
    /// Arithmetic, compare or load with the memory operand's value in `a`.
    X87Value,
    /// Store, or load of 80 bits, at linear address `a`.
    X87Mem,
    /// `FWAIT`, or the check for a pending exception before other instructions.
    X87Wait,
    /// `FNINIT` (imm 0), `FNCLEX` (imm 1).
    X87Control,
    /// `FLDCW`: `a` = control word.
    Fldcw,
    /// `d` = status word with TOP.
    Fnstsw,
    /// `FNSTENV` (imm 0) / `FNSAVE` (imm 1) at linear address `a`; imm bit 1: 32-bit form.
    X87StoreEnv,
    /// `FLDENV` (imm 0) / `FRSTOR` (imm 1) likewise.
    X87LoadEnv,
    /// Before an MMX instruction: pending exception check, TOP = 0, all tags valid.
    MmxEnter,
    /// `EMMS`: all tags empty.
    Emms,
    /// `FXSAVE` at linear address `a`; imm bit 0: 64-bit form (`REX.W`).
    Fxsave,
    /// `FXRSTOR` likewise.
    Fxrstor,
    /// `LDMXCSR`: `a` = value.
    Ldmxcsr,
    /// `d` = MXCSR.
    Stmxcsr,
    /// With unmasked SIMD exceptions, before an operation: sets the live flags aside.
    SseArm,
    /// ...and after it: raises what it unmasked. `imm`: bits 0..3 shape of the result for the check of tiny results
    /// (see [`fp_sse::Tiny`]), bits 8..13 its vector slot.
    SseCheck,
    /// `MASKMOVDQU` (imm bit 8 clear) / `MASKMOVQ` (set): at linear address `a`; data register in imm bits 0..4, mask in 4..8.
    MaskMove,
    /// `PCMPESTRI`, `PCMPESTRM`, `PCMPISTRI`, `PCMPISTRM`: imm bits 0..8 control byte, 8..13 first, 13..18 second vector
    /// slot, 18 implicit length, 19 mask form, 20 64-bit lengths. `d` = index.
    StringCompare,
    /// A store-load fence.
    Fence,
    /// `EXTRQ`, `INSERTQ`: imm bits 0..8 length, 8..16 index, 16..20 destination, 20..24 source register, 26 whether length and
    /// index are given there, 27 inserts.
    BitField,
    /// A 3DNow! instruction: operand `a`, imm bits 0..8 the opcode suffix, 8..11 the register.
    ThreeDNow,
}

/// This topic's helpers.
pub const HELPERS: super::List = &[
    helper!(Fp::X87Reg, fp_x87::register_form, FAULTS),
    helper!(Fp::X87Comi, fp_x87::compare_flags, FAULTS, flags_written: FLAGS_ALL),
    helper!(Fp::X87Cmov, fp_x87::conditional_move, FAULTS),
    helper!(Fp::X87Value, fp_x87_mem::with_value, FAULTS),
    helper!(Fp::X87Mem, fp_x87_mem::with_address, FAULTS),
    helper!(Fp::X87Wait, wait, FAULTS),
    helper!(Fp::X87Control, fp_env::init_or_clear, PURE),
    helper!(Fp::Fldcw, fp_env::load_control, FAULTS),
    helper!(Fp::Fnstsw, fp_env::store_status, PURE),
    helper!(Fp::X87StoreEnv, fp_env::store, FAULTS),
    helper!(Fp::X87LoadEnv, fp_env::load, FAULTS),
    helper!(Fp::MmxEnter, mmx_enter, FAULTS),
    helper!(Fp::Emms, emms, FAULTS),
    helper!(Fp::Fxsave, fp_fxsave::save, FAULTS),
    helper!(Fp::Fxrstor, fp_fxsave::restore, FAULTS),
    helper!(Fp::Ldmxcsr, fp_sse::load_mxcsr, FAULTS),
    helper!(Fp::Stmxcsr, fp_sse::store_mxcsr, PURE),
    helper!(Fp::SseArm, fp_sse::arm, PURE),
    helper!(Fp::SseCheck, fp_sse::check, FAULTS),
    helper!(Fp::MaskMove, fp_sse::mask_move, FAULTS),
    helper!(
        Fp::StringCompare,
        fp_strings::string_compare,
        PURE,
        reads: slot::RAX | slot::RDX,
        flags_written: FLAGS_ALL
    ),
    helper!(Fp::Fence, fence, PURE),
    helper!(Fp::BitField, fp_sse::bit_field, PURE),
    helper!(Fp::ThreeDNow, fp_3dnow::three_d_now, PURE),
];

const _: () = assert!(HELPERS.len() == Fp::ThreeDNow as usize - FP_BASE as usize + 1);

/// x87 status and control word bits.
#[expect(missing_docs, reason = "the manual's own names")]
pub mod bits {
    pub const IE: u16 = 1 << 0;
    pub const DE: u16 = 1 << 1;
    pub const ZE: u16 = 1 << 2;
    pub const OE: u16 = 1 << 3;
    pub const UE: u16 = 1 << 4;
    pub const PE: u16 = 1 << 5;
    pub const SF: u16 = 1 << 6;
    pub const ES: u16 = 1 << 7;
    pub const C0: u16 = 1 << 8;
    pub const C1: u16 = 1 << 9;
    pub const C2: u16 = 1 << 10;
    pub const C3: u16 = 1 << 14;
    pub const B: u16 = 1 << 15;
    /// The six exception flags, and their masks in the control word.
    pub const EXCEPTIONS: u16 = 0x3f;
    /// Condition codes.
    pub const CC: u16 = C0 | C1 | C2 | C3;
    /// Exceptions found before a result exists.
    pub const EARLY: u16 = IE | DE | ZE;
    /// TOP.
    pub const TOP: u16 = 7 << 11;
}
use bits::*;

/// Real indefinite: the masked response to an invalid operation.
pub const INDEFINITE: F80 = [0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff, 0, 0, 0, 0, 0, 0];

/// The x87 view of a CPU.
impl Cpu {
    /// Physical register of `ST(i)`.
    pub fn x87_phys(&self, i: u8) -> usize {
        (self.core.x87.top as usize).wrapping_add(i as usize) & 7
    }

    /// Value of `ST(i)`, whatever its tag.
    pub fn x87_st(&self, i: u8) -> F80 {
        self.core.media[self.x87_phys(i)]
    }

    /// `ST(i)` = `value`, in use.
    pub fn x87_set(&mut self, i: u8, value: F80) {
        let phys = self.x87_phys(i);
        self.core.media[phys] = value;
        self.core.x87.tags |= 1 << phys;
    }

    /// Whether `ST(i)` is tagged empty.
    pub fn x87_empty(&self, i: u8) -> bool {
        self.core.x87.tags & (1 << self.x87_phys(i)) == 0
    }

    /// Pops: `ST(0)` becomes empty.
    pub fn x87_pop(&mut self) {
        self.core.x87.tags &= !(1 << self.x87_phys(0));
        self.core.x87.top = self.core.x87.top.wrapping_add(1) & 7;
    }

    /// Pushes `value`; the caller has checked that `ST(7)` is empty, or means to overwrite it.
    pub fn x87_push(&mut self, value: F80) {
        self.core.x87.top = self.core.x87.top.wrapping_sub(1) & 7;
        self.x87_set(0, value);
    }

    /// Completes the status word: takes the flags that generated code left in the host, and finds out C1. To be called before it
    /// is looked at or changed.
    pub fn x87_sync(&mut self) {
        if self.core.x87.ready == 0 {
            return;
        }
        if !fp_host::owns(std::ptr::from_ref(self) as usize) {
            // Another CPU has used this thread's x87; this one was synchronised before.
            self.core.x87.ready = 0;
            return;
        }
        let lazy = std::mem::replace(&mut self.core.x87.lazy, LAZY_NONE);
        let sw = match repeated(lazy) {
            Some(op) => {
                let X87 { mut first, mut second, mut memory, .. } = self.core.x87;
                // SAFETY: the operands are alive and no operation needs more than these.
                unsafe { (op.plain)(&mut first, &mut second, &mut memory) }
            }
            None => fp_host::status() & !C1 | if lazy == LAZY_NONE { self.core.x87.status & C1 } else { 0 },
        };
        merge(self, sw, C1);
    }

    /// The control or status word changes other than by computing: generated code may not compute until a helper has. The status
    /// word is complete ([`Cpu::x87_sync`]).
    pub fn x87_unready(&mut self) {
        self.core.x87.ready = 0;
    }

    /// Recomputes the summary bits after flags or masks changed.
    pub fn x87_summary(&mut self) {
        self.x87_unready();
        if self.core.x87.status & !self.core.x87.control & EXCEPTIONS != 0 {
            self.core.x87.status |= ES | B;
        } else {
            self.x87_settled();
        }
    }

    /// No exception is pending any more: FERR# falls.
    pub fn x87_settled(&mut self) {
        if self.core.x87.status & ES != 0 {
            self.core.machine().fpu_error(false);
        }
        self.core.x87.status &= !(ES | B);
    }

    /// Records a stack fault. True when it is masked, and the caller supplies the default result.
    pub fn x87_stack_fault(&mut self, overflow: bool) -> bool {
        let x87 = &mut self.core.x87;
        x87.status |= IE | SF;
        x87.status = if overflow { x87.status | C1 } else { x87.status & !C1 };
        if x87.control & IE != 0 {
            return true;
        }
        x87.status |= ES | B;
        false
    }

    /// Records instruction and opcode pointers.
    pub fn x87_track(&mut self, imm: u64) {
        self.core.x87.opcode = imm as u16 & 0x7ff;
        self.core.x87.ip = self.x87_pointer(self.core.pc, crate::state::seg::CS);
    }

    /// Records the data pointer.
    pub fn x87_track_data(&mut self, offset: u64, imm: u64) {
        self.core.x87.dp = self.x87_pointer(offset, (imm >> 16) as usize & 7);
    }

    fn x87_pointer(&self, offset: u64, segment: usize) -> u64 {
        if self.key & key::CODE64 != 0 {
            return offset;
        }
        let selector = self.segs.get(segment).map_or(0, |s| s.selector);
        offset & 0xffff_ffff | u64::from(selector) << 48
    }
}

/// The operation that [`X87::lazy`] names.
fn repeated(lazy: u16) -> Option<HostOp> {
    if lazy & LAZY_OP == 0 {
        return None;
    }
    let (escape, digit) = ((lazy >> 8) as u8 & 7, (lazy >> 3) as u8 & 7);
    Some(match (lazy & 0xc0, escape) {
        (0xc0, 0) => fp_host::ARITH_REG[usize::from(digit)],
        (0xc0, _) if lazy & 7 == 2 => fp_host::op::SQRT,
        (0xc0, _) => fp_host::op::RNDINT,
        (_, 0 | 2 | 4 | 6) => fp_host::ARITH_MEM[usize::from(escape >> 1)][usize::from(digit)],
        _ => fp_x87_mem::store_form(escape, digit)?.host,
    })
}

/// What a waiting instruction does first: an unmasked exception left by an earlier one is reported now.
pub fn check_pending(cpu: &mut Cpu) -> Result<(), Fault> {
    cpu.x87_sync();
    if cpu.core.x87.status & ES == 0 { Ok(()) } else { report(cpu) }
}

/// CR0.NE set: `#MF`. Clear: FERR# goes to the interrupt controller as IRQ 13 and the processor stands still at this
/// instruction until an interrupt comes, unless IGNNE# lets it go on.
#[cold]
fn report(cpu: &mut Cpu) -> Result<(), Fault> {
    const NE: u64 = 1 << 5;
    if cpu.cr0 & NE != 0 {
        return Err(raise(cpu, vector::MF, None));
    }
    if cpu.core.machine().fpu_error(true) {
        return Ok(());
    }
    cpu.core.exit = exit::RESUME;
    Err(Fault)
}

/// `Fp::X87Wait`.
fn wait(cpu: &mut Cpu, _: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    check_pending(cpu)?;
    Ok(0)
}

/// `Fp::MmxEnter`.
fn mmx_enter(cpu: &mut Cpu, _: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    check_pending(cpu)?;
    cpu.core.x87.top = 0;
    cpu.core.x87.tags = 0xff;
    Ok(0)
}

/// `Fp::Emms`.
fn emms(cpu: &mut Cpu, _: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    check_pending(cpu)?;
    cpu.core.x87.top = 0;
    cpu.core.x87.tags = 0;
    Ok(0)
}

/// `Fp::Fence`.
fn fence(_: &mut Cpu, _: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    Ok(0)
}

/// Where a result goes, which decides what unmasked exceptions leave undone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dest {
    /// A register operand of the instruction.
    Register,
    /// A register pushed by a load.
    Pushed,
    /// Memory: an unmasked overflow or underflow stores nothing.
    Memory,
}

/// Runs `op` on the host under the guest's control word and merges flags and the condition codes `cc` into the status
/// word. True when the result is to be written (and the stack popped); false when an unmasked exception forbids it.
pub fn run(cpu: &mut Cpu, op: HostOp, io: &mut Io, dest: Dest, cc: u16) -> bool {
    let x87 = &mut cpu.core.x87;
    let open = !x87.control & EXCEPTIONS;
    io.cw = masked(x87.control);
    io.host = fp_host::control();
    if open != 0 {
        return run_unmasked(cpu, op, io, dest, cc);
    }
    // Flags that the guest has cleared since, or another guest's.
    fp_host::drop_flags(x87.status);
    let sw = (op.controlled)(io);
    fp_host::set_raised(sw);
    x87.status = (x87.status & !cc) | (sw & (cc | EXCEPTIONS));
    true
}

/// Whether an operation may run in place ([`HostOp::plain`]): nothing is unmasked. Then the host gets the guest's control word, and
/// generated code may compute as well.
pub fn plain(cpu: &mut Cpu) -> bool {
    let control = cpu.core.x87.control;
    if control & EXCEPTIONS != EXCEPTIONS {
        return false;
    }
    if masked(control) != fp_host::control() {
        fp_host::set_control(masked(control));
    }
    settle(cpu);
    true
}

/// Makes generated code ready: the host has the guest's control word, nothing unmasked.
fn settle(cpu: &mut Cpu) {
    fp_host::drop_flags(cpu.core.x87.status);
    fp_host::own(std::ptr::from_ref(cpu) as usize);
    cpu.core.x87.ready = u32::from(cpu.core.x87.status & ES == 0);
}

/// After `FLDCW`: ready again at once when the host still has this control word.
pub fn resume(cpu: &mut Cpu) {
    let control = cpu.core.x87.control;
    if control & EXCEPTIONS == EXCEPTIONS && masked(control) == fp_host::control() {
        settle(cpu);
    }
}

/// Merges the status word of an operation run in place.
pub fn merge(cpu: &mut Cpu, sw: u16, cc: u16) {
    fp_host::set_raised(sw);
    cpu.core.x87.status = (cpu.core.x87.status & !cc) | (sw & (cc | EXCEPTIONS));
}

/// Precision and rounding of guest control word `control`, all exceptions masked.
fn masked(control: u16) -> u16 {
    control & 0xf00 | 0x7f
}

/// As [`run`] when the guest has unmasked something. A masked run shows which exceptions occur; when an unmasked
/// overflow or underflow is possible a second run under the guest's own masks gives the rescaled result.
#[cold]
fn run_unmasked(cpu: &mut Cpu, op: HostOp, io: &mut Io, dest: Dest, cc: u16) -> bool {
    let x87 = &mut cpu.core.x87;
    let open = !x87.control & EXCEPTIONS;
    let operands = *io;
    fp_host::clear_flags();
    let mut sw = (op.controlled)(io);
    fp_host::clear_flags();
    // A load of a denormal completes before it is reported.
    let early = if dest == Dest::Pushed { IE } else { EARLY };
    if sw & open & early != 0 {
        // A compare has its result all the same, and an argument reduction is not left incomplete.
        let (cleared, taken) = if cc == CC { (CC, CC) } else { (C1 | cc & C2, 0) };
        x87.status = (x87.status & !cleared) | (sw & (EARLY | taken)) | ES | B;
        return false;
    }
    if open & (OE | UE) != 0 {
        let mut again = Io { cw: x87.control & 0xf3f | 0x40, clear: 1, ..operands };
        // Nothing early can be raised any more; inexact would keep its result either way.
        again.cw |= EARLY | PE;
        sw = (op.controlled)(&mut again);
        *io = again;
    }
    x87.status = (x87.status & !cc) | (sw & (cc | EXCEPTIONS));
    if sw & open & EXCEPTIONS == 0 {
        return true;
    }
    x87.status |= ES | B;
    !(dest == Dest::Memory && sw & open & (OE | UE) != 0)
}
