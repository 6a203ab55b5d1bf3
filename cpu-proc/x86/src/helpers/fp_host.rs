//! The host's x87 as the arithmetic unit: one function per operation on 80-bit values in memory.
//!
//! Every function finds the host register stack empty and leaves it empty, and leaves the host control word as it was: that of
//! the guest which computed last, everything masked ([`control`]). Host status flags are left to accumulate, because clearing them costs more than ten operations:
//! a caller keeps "flags set on the host" a subset of "flags set in the guest" (see `fp_x87::run`).
//!
//! Source: Intel SDM volume 1 chapter 8, volume 2.

use std::arch::asm;
use std::cell::Cell;

/// An 80-bit value in the low ten bytes.
pub type F80 = [u8; 16];

/// Operands, results and control of one host operation. The offsets are known to the assembly below.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
pub struct Io {
    /// First operand and first result (`ST(0)`).
    pub a: F80,
    /// Second operand (`ST(1)`), second result, or a ten-byte memory operand.
    pub b: F80,
    /// Memory operand or result of up to eight bytes.
    pub m: u64,
    /// Control word to run under.
    pub cw: u16,
    /// Control word to leave.
    pub host: u16,
    /// Nonzero: clear the host's flags right after the operation (an exception may be pending).
    pub clear: u16,
    /// Spare.
    pub pad: u16,
}

const _: () = assert!(std::mem::offset_of!(Io, b) == 16);
const _: () = assert!(std::mem::offset_of!(Io, m) == 32);
const _: () = assert!(std::mem::offset_of!(Io, cw) == 40);
const _: () = assert!(std::mem::offset_of!(Io, host) == 42);
const _: () = assert!(std::mem::offset_of!(Io, clear) == 44);

impl Io {
    /// Operands with everything else at rest.
    pub fn new(a: F80, b: F80, m: u64) -> Io {
        Io { a, b, m, cw: control(), host: control(), clear: 0, pad: 0 }
    }
}

/// One operation, in two forms; both return the host's status word right after it.
#[derive(Clone, Copy)]
pub struct HostOp {
    /// Under any control word, on the operands of an [`Io`].
    pub controlled: fn(&mut Io) -> u16,
    /// Under the host's control word, in place: `a` and `b` as in [`Io`], and `m`.
    pub plain: Plain,
}

/// See [`HostOp::plain`].
///
/// # Safety
/// What the operation reads and writes of its three operands is there: 10, 10 and 8 bytes.
pub type Plain = unsafe fn(*mut F80, *mut F80, *mut u64) -> u16;

thread_local! {
    /// Flags that may be set in the host's status word. Nothing else on this thread computes with the x87.
    static RAISED: Cell<u16> = const { Cell::new(u16::MAX) };
    /// The CPU whose flags the host's are, while its generated code may compute.
    static OWNER: Cell<usize> = const { Cell::new(0) };
}

/// The host's control word on this thread.
pub fn control() -> u16 {
    let mut control = 0u16;
    // SAFETY: writes to the local variable only.
    unsafe { asm!("fnstcw word ptr [{}]", in(reg) &raw mut control, options(nostack)) };
    control
}

/// Sets the host's control word; everything must be masked in it.
pub fn set_control(control: u16) {
    debug_assert_eq!(control & 0x3f, 0x3f);
    // SAFETY: nothing but the operations here computes with the x87.
    unsafe { asm!("fldcw word ptr [{}]", in(reg) &control, options(readonly, nostack)) };
}

/// The host's status word.
pub fn status() -> u16 {
    let sw: u16;
    // SAFETY: reads a register.
    unsafe { asm!("fnstsw ax", out("ax") sw, options(nomem, nostack)) };
    sw
}

/// The host's flags are from now on those of the CPU at this address.
pub fn own(cpu: usize) {
    OWNER.set(cpu);
}

/// Whether they are.
pub fn owns(cpu: usize) -> bool {
    OWNER.get() == cpu
}

/// The exception flags that may be set on the host.
pub fn raised() -> u16 {
    RAISED.get()
}

/// Notes the status word that the last operation returned.
pub fn set_raised(sw: u16) {
    RAISED.set(sw);
}

/// Clears the host's exception flags.
pub fn clear_flags() {
    // SAFETY: changes only x87 status flags, which inline assembly may clobber.
    unsafe { asm!("fnclex", options(nomem, nostack)) };
    RAISED.set(0);
}

/// Clears the host's exception flags if one is set that is not in `status`.
pub fn drop_flags(status: u16) {
    if raised() & 0x3f & !status != 0 {
        clear_flags();
    }
}

macro_rules! host_op {
    ($name:ident: $($before:literal),+ => $($after:literal),*) => {
        #[expect(non_upper_case_globals, reason = "the instructions' own names")]
        const $name: HostOp = {
            fn controlled(io: &mut Io) -> u16 {
                let sw: u16;
                // SAFETY: `io` is a live `Io` whose offsets are asserted above; the register stack is empty at entry
                // (all of it is declared clobbered) and at exit, and the control word is put back.
                unsafe {
                    asm!(
                        "fldcw word ptr [{io} + 40]",
                        $($before,)+
                        "fnstsw ax",
                        "cmp word ptr [{io} + 44], 0",
                        "je 2f",
                        "fnclex",
                        "2:",
                        $($after,)*
                        "fldcw word ptr [{io} + 42] # {a} {b} {m}",
                        io = in(reg) std::ptr::from_mut(io),
                        a = in(reg) &raw mut io.a,
                        b = in(reg) &raw mut io.b,
                        m = in(reg) &raw mut io.m,
                        out("ax") sw,
                        out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                        out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                        options(nostack)
                    );
                }
                sw
            }
            unsafe fn plain(a: *mut F80, b: *mut F80, m: *mut u64) -> u16 {
                let sw: u16;
                // SAFETY: the caller's promise; the register stack as above.
                unsafe {
                    asm!(
                        $($before,)+
                        "fnstsw ax # {a} {b} {m}",
                        $($after,)*
                        a = in(reg) a,
                        b = in(reg) b,
                        m = in(reg) m,
                        out("ax") sw,
                        out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                        out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                        options(nostack)
                    );
                }
                sw
            }
            HostOp { controlled, plain }
        };
    };
}

/// `a = a op b`, both registers.
macro_rules! binary {
    ($($name:ident $op:literal),+ $(,)?) => { $(host_op!($name:
        "fld tbyte ptr [{b}]", "fld tbyte ptr [{a}]", $op
        => "fstp tbyte ptr [{a}]", "fstp st(0)");)+ };
}
binary! {
    add "fadd st, st(1)", mul "fmul st, st(1)", com "fcom st(1)", sub "fsub st, st(1)", subr "fsubr st, st(1)",
    div "fdiv st, st(1)", divr "fdivr st, st(1)", ucom "fucom st(1)",
    prem "fprem", prem1 "fprem1", scale "fscale",
}

/// `a = a op memory`.
macro_rules! with_memory {
    ($($name:ident $op:literal),+ $(,)?) => { $(host_op!($name:
        "fld tbyte ptr [{a}]", $op => "fstp tbyte ptr [{a}]");)+ };
}
with_memory! {
    add_f32 "fadd dword ptr [{m}]", mul_f32 "fmul dword ptr [{m}]", com_f32 "fcom dword ptr [{m}]",
    sub_f32 "fsub dword ptr [{m}]", subr_f32 "fsubr dword ptr [{m}]",
    div_f32 "fdiv dword ptr [{m}]", divr_f32 "fdivr dword ptr [{m}]",
    add_f64 "fadd qword ptr [{m}]", mul_f64 "fmul qword ptr [{m}]", com_f64 "fcom qword ptr [{m}]",
    sub_f64 "fsub qword ptr [{m}]", subr_f64 "fsubr qword ptr [{m}]",
    div_f64 "fdiv qword ptr [{m}]", divr_f64 "fdivr qword ptr [{m}]",
    add_i32 "fiadd dword ptr [{m}]", mul_i32 "fimul dword ptr [{m}]", com_i32 "ficom dword ptr [{m}]",
    sub_i32 "fisub dword ptr [{m}]", subr_i32 "fisubr dword ptr [{m}]",
    div_i32 "fidiv dword ptr [{m}]", divr_i32 "fidivr dword ptr [{m}]",
    add_i16 "fiadd word ptr [{m}]", mul_i16 "fimul word ptr [{m}]", com_i16 "ficom word ptr [{m}]",
    sub_i16 "fisub word ptr [{m}]", subr_i16 "fisubr word ptr [{m}]",
    div_i16 "fidiv word ptr [{m}]", divr_i16 "fidivr word ptr [{m}]",
    // One-operand instructions have the same frame.
    chs "fchs", abs "fabs", tst "ftst", xam "fxam", sqrt "fsqrt", f2xm1 "f2xm1", sin "fsin", cos "fcos",
    rndint "frndint",
    // Stores that keep the register; the popping forms are popped by the caller.
    st_f32 "fst dword ptr [{m}]", st_f64 "fst qword ptr [{m}]",
    ist_i16 "fist word ptr [{m}]", ist_i32 "fist dword ptr [{m}]",
}

/// Stores that exist only in a popping form. Run with invalid and inexact masked only, so they always pop.
macro_rules! pop_store {
    ($($name:ident $op:literal),+ $(,)?) => { $(host_op!($name:
        "fld tbyte ptr [{a}]", $op =>);)+ };
}
pop_store! {
    istp_i64 "fistp qword ptr [{m}]",
    istt_i16 "fisttp word ptr [{m}]", istt_i32 "fisttp dword ptr [{m}]",
    istt_i64 "fisttp qword ptr [{m}]",
    bstp "fbstp tbyte ptr [{b}]",
}

/// `a = constant or memory`.
macro_rules! load {
    ($($name:ident $op:literal),+ $(,)?) => { $(host_op!($name: $op => "fstp tbyte ptr [{a}]");)+ };
}
load! {
    ld_f32 "fld dword ptr [{m}]", ld_f64 "fld qword ptr [{m}]",
    ild_i16 "fild word ptr [{m}]", ild_i32 "fild dword ptr [{m}]", ild_i64 "fild qword ptr [{m}]",
    bld "fbld tbyte ptr [{b}]",
    ld1 "fld1", ldl2t "fldl2t", ldl2e "fldl2e", ldpi "fldpi", ldlg2 "fldlg2", ldln2 "fldln2", ldz "fldz",
}

/// `a = op(a, b)` where the instruction itself pops `ST(0)` = `a` and replaces `ST(1)` = `b`.
macro_rules! binary_pop {
    ($($name:ident $op:literal),+ $(,)?) => { $(host_op!($name:
        "fld tbyte ptr [{b}]", "fld tbyte ptr [{a}]", $op => "fstp tbyte ptr [{a}]");)+ };
}
binary_pop! { yl2x "fyl2x", yl2xp1 "fyl2xp1", patan "fpatan" }

// `a` = what replaces `ST(0)`, `b` = what is pushed.
host_op!(xtract: "fld tbyte ptr [{a}]", "fxtract" => "fstp tbyte ptr [{b}]", "fstp tbyte ptr [{a}]");
// An operand out of range sets C2 and pushes nothing.
host_op!(ptan: "fld tbyte ptr [{a}]", "fptan"
    => "test ah, 4", "jnz 3f", "fstp tbyte ptr [{b}]", "3:", "fstp tbyte ptr [{a}]");
host_op!(sincos: "fld tbyte ptr [{a}]", "fsincos"
    => "test ah, 4", "jnz 3f", "fstp tbyte ptr [{b}]", "3:", "fstp tbyte ptr [{a}]");

/// Arithmetic in ModRM digit order: add, mul, com, comp, sub, subr, div, divr; `ST(0) = ST(0) op source`.
pub const ARITH_REG: [HostOp; 8] = [add, mul, com, com, sub, subr, div, divr];
/// The same with a memory operand, by bits 1..3 of the escape opcode: `m32`, `m32int`, `m64`, `m16int`.
pub const ARITH_MEM: [[HostOp; 8]; 4] = [
    [add_f32, mul_f32, com_f32, com_f32, sub_f32, subr_f32, div_f32, divr_f32],
    [add_i32, mul_i32, com_i32, com_i32, sub_i32, subr_i32, div_i32, divr_i32],
    [add_f64, mul_f64, com_f64, com_f64, sub_f64, subr_f64, div_f64, divr_f64],
    [add_i16, mul_i16, com_i16, com_i16, sub_i16, subr_i16, div_i16, divr_i16],
];
/// `FLD1`, `FLDL2T`, `FLDL2E`, `FLDPI`, `FLDLG2`, `FLDLN2`, `FLDZ`.
pub const CONSTANTS: [HostOp; 7] = [ld1, ldl2t, ldl2e, ldpi, ldlg2, ldln2, ldz];

/// The remaining operations, by name.
#[expect(missing_docs, reason = "the instructions' own names")]
pub mod op {
    use super::HostOp;
    pub const UCOM: HostOp = super::ucom;
    pub const PREM: HostOp = super::prem;
    pub const PREM1: HostOp = super::prem1;
    pub const SCALE: HostOp = super::scale;
    pub const CHS: HostOp = super::chs;
    pub const ABS: HostOp = super::abs;
    pub const TST: HostOp = super::tst;
    pub const XAM: HostOp = super::xam;
    pub const SQRT: HostOp = super::sqrt;
    pub const F2XM1: HostOp = super::f2xm1;
    pub const SIN: HostOp = super::sin;
    pub const COS: HostOp = super::cos;
    pub const RNDINT: HostOp = super::rndint;
    pub const ST_F32: HostOp = super::st_f32;
    pub const ST_F64: HostOp = super::st_f64;
    pub const IST_I16: HostOp = super::ist_i16;
    pub const IST_I32: HostOp = super::ist_i32;
    pub const ISTP_I64: HostOp = super::istp_i64;
    pub const ISTT_I16: HostOp = super::istt_i16;
    pub const ISTT_I32: HostOp = super::istt_i32;
    pub const ISTT_I64: HostOp = super::istt_i64;
    pub const BSTP: HostOp = super::bstp;
    pub const LD_F32: HostOp = super::ld_f32;
    pub const LD_F64: HostOp = super::ld_f64;
    pub const ILD_I16: HostOp = super::ild_i16;
    pub const ILD_I32: HostOp = super::ild_i32;
    pub const ILD_I64: HostOp = super::ild_i64;
    pub const BLD: HostOp = super::bld;
    pub const YL2X: HostOp = super::yl2x;
    pub const YL2XP1: HostOp = super::yl2xp1;
    pub const PATAN: HostOp = super::patan;
    pub const XTRACT: HostOp = super::xtract;
    pub const PTAN: HostOp = super::ptan;
    pub const SINCOS: HostOp = super::sincos;
}
