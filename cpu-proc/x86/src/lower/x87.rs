//! Lowering of x87 instructions: one helper call each, since the work is done by the host's x87; the common ones are marked for the
//! engine to do in line.
//!
//! Order of events: `#NM` here, then the memory operand of 2, 4 or 8 bytes is loaded, then the helper checks for a pending
//! exception and computes. On the processor that check comes before the operand: where both fault, the delivery of the operand's
//! fault turns it into `#MF` (`helpers/refine.rs`).
//!
//! Source: Intel SDM volume 2 (appendix A.5, escape opcodes), volume 3A section 2.5 (CR0.EM, MP, TS).

use bulkhead_engine::CoreState;
use bulkhead_engine::state::X87;
use bulkhead_ir::{
    Alu, FORM_ADDRESS, FORM_REGISTER, FORM_VALUE, NONE, Name, Op, Opcode, Shift, W16, W32, W64, cc,
};
use iced_x86::{Code, Instruction, Register};

use super::Ctx;
use super::ctx::{AfterSti, Src, seg_selector_field};
use super::sse::in_model;
use crate::helpers::fp::Fp;
use crate::helpers::vector;
use crate::state::{Cpu, key, seg};

/// What an instruction needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Register form: opcode bits 0..11 with `ST(i)` to be added.
    Reg(u16),
    /// `FCOMI` and kin.
    Comi(u16),
    /// `FCMOVcc`.
    Cmov(u16, u8),
    /// Memory operand's value: escape (low three bits), digit.
    Value(u16, u16),
    /// Memory operand's address likewise; whether it is written.
    Mem(u16, u16, bool),
    /// Environment or state image: helper, imm.
    Env(Fp, u64),
    /// `FNINIT` 0, `FNCLEX` 1.
    Control(u64),
    /// `FWAIT`.
    Wait,
    /// Older coprocessors' instructions without effect; they do not wait.
    Nothing,
    Fldcw,
    Fnstcw,
    FnstswMemory,
    FnstswAx,
}

fn form(code: Code) -> Option<Form> {
    use Form::{Cmov, Comi, Control, Env, Mem, Reg, Value};
    Some(match code {
        Code::Fadd_m32fp => Value(0, 0),
        Code::Fmul_m32fp => Value(0, 1),
        Code::Fcom_m32fp => Value(0, 2),
        Code::Fcomp_m32fp => Value(0, 3),
        Code::Fsub_m32fp => Value(0, 4),
        Code::Fsubr_m32fp => Value(0, 5),
        Code::Fdiv_m32fp => Value(0, 6),
        Code::Fdivr_m32fp => Value(0, 7),
        Code::Fiadd_m32int => Value(2, 0),
        Code::Fimul_m32int => Value(2, 1),
        Code::Ficom_m32int => Value(2, 2),
        Code::Ficomp_m32int => Value(2, 3),
        Code::Fisub_m32int => Value(2, 4),
        Code::Fisubr_m32int => Value(2, 5),
        Code::Fidiv_m32int => Value(2, 6),
        Code::Fidivr_m32int => Value(2, 7),
        Code::Fadd_m64fp => Value(4, 0),
        Code::Fmul_m64fp => Value(4, 1),
        Code::Fcom_m64fp => Value(4, 2),
        Code::Fcomp_m64fp => Value(4, 3),
        Code::Fsub_m64fp => Value(4, 4),
        Code::Fsubr_m64fp => Value(4, 5),
        Code::Fdiv_m64fp => Value(4, 6),
        Code::Fdivr_m64fp => Value(4, 7),
        Code::Fiadd_m16int => Value(6, 0),
        Code::Fimul_m16int => Value(6, 1),
        Code::Ficom_m16int => Value(6, 2),
        Code::Ficomp_m16int => Value(6, 3),
        Code::Fisub_m16int => Value(6, 4),
        Code::Fisubr_m16int => Value(6, 5),
        Code::Fidiv_m16int => Value(6, 6),
        Code::Fidivr_m16int => Value(6, 7),
        Code::Fld_m32fp => Value(1, 0),
        Code::Fild_m32int => Value(3, 0),
        Code::Fld_m64fp => Value(5, 0),
        Code::Fild_m16int => Value(7, 0),
        Code::Fild_m64int => Value(7, 5),

        Code::Fst_m32fp => Mem(1, 2, true),
        Code::Fstp_m32fp => Mem(1, 3, true),
        Code::Fisttp_m32int => Mem(3, 1, true),
        Code::Fist_m32int => Mem(3, 2, true),
        Code::Fistp_m32int => Mem(3, 3, true),
        Code::Fld_m80fp => Mem(3, 5, false),
        Code::Fstp_m80fp => Mem(3, 7, true),
        Code::Fisttp_m64int => Mem(5, 1, true),
        Code::Fst_m64fp => Mem(5, 2, true),
        Code::Fstp_m64fp => Mem(5, 3, true),
        Code::Fisttp_m16int => Mem(7, 1, true),
        Code::Fist_m16int => Mem(7, 2, true),
        Code::Fistp_m16int => Mem(7, 3, true),
        Code::Fbld_m80bcd => Mem(7, 4, false),
        Code::Fbstp_m80bcd => Mem(7, 6, true),
        Code::Fistp_m64int => Mem(7, 7, true),

        Code::Fnstenv_m14byte => Env(Fp::X87StoreEnv, 0),
        Code::Fnstenv_m28byte => Env(Fp::X87StoreEnv, 2),
        Code::Fnsave_m94byte => Env(Fp::X87StoreEnv, 1),
        Code::Fnsave_m108byte => Env(Fp::X87StoreEnv, 3),
        Code::Fldenv_m14byte => Env(Fp::X87LoadEnv, 0),
        Code::Fldenv_m28byte => Env(Fp::X87LoadEnv, 2),
        Code::Frstor_m94byte => Env(Fp::X87LoadEnv, 1),
        Code::Frstor_m108byte => Env(Fp::X87LoadEnv, 3),
        Code::Fldcw_m2byte => Form::Fldcw,
        Code::Fnstcw_m2byte => Form::Fnstcw,
        Code::Fnstsw_m2byte => Form::FnstswMemory,
        Code::Fnstsw_AX => Form::FnstswAx,
        Code::Fninit => Control(0),
        Code::Fnclex => Control(1),
        Code::Wait => Form::Wait,

        Code::Fadd_st0_sti => Reg(0x0c0),
        Code::Fmul_st0_sti => Reg(0x0c8),
        Code::Fcom_st0_sti => Reg(0x0d0),
        Code::Fcomp_st0_sti => Reg(0x0d8),
        Code::Fsub_st0_sti => Reg(0x0e0),
        Code::Fsubr_st0_sti => Reg(0x0e8),
        Code::Fdiv_st0_sti => Reg(0x0f0),
        Code::Fdivr_st0_sti => Reg(0x0f8),
        Code::Fld_sti => Reg(0x1c0),
        Code::Fxch_st0_sti => Reg(0x1c8),
        Code::Fnop => Reg(0x1d0),
        Code::Fstpnce_sti => Reg(0x1d8),
        Code::Fchs => Reg(0x1e0),
        Code::Fabs => Reg(0x1e1),
        Code::Ftst => Reg(0x1e4),
        Code::Fxam => Reg(0x1e5),
        Code::Fld1 => Reg(0x1e8),
        Code::Fldl2t => Reg(0x1e9),
        Code::Fldl2e => Reg(0x1ea),
        Code::Fldpi => Reg(0x1eb),
        Code::Fldlg2 => Reg(0x1ec),
        Code::Fldln2 => Reg(0x1ed),
        Code::Fldz => Reg(0x1ee),
        Code::F2xm1 => Reg(0x1f0),
        Code::Fyl2x => Reg(0x1f1),
        Code::Fptan => Reg(0x1f2),
        Code::Fpatan => Reg(0x1f3),
        Code::Fxtract => Reg(0x1f4),
        Code::Fprem1 => Reg(0x1f5),
        Code::Fdecstp => Reg(0x1f6),
        Code::Fincstp => Reg(0x1f7),
        Code::Fprem => Reg(0x1f8),
        Code::Fyl2xp1 => Reg(0x1f9),
        Code::Fsqrt => Reg(0x1fa),
        Code::Fsincos => Reg(0x1fb),
        Code::Frndint => Reg(0x1fc),
        Code::Fscale => Reg(0x1fd),
        Code::Fsin => Reg(0x1fe),
        Code::Fcos => Reg(0x1ff),
        Code::Fucompp => Reg(0x2e9),
        Code::Fneni | Code::Fndisi | Code::Fnsetpm => Form::Nothing,
        Code::Frstpm => Reg(0x3e5),
        Code::Fadd_sti_st0 => Reg(0x4c0),
        Code::Fmul_sti_st0 => Reg(0x4c8),
        Code::Fcom_st0_sti_DCD0 => Reg(0x4d0),
        Code::Fcomp_st0_sti_DCD8 => Reg(0x4d8),
        Code::Fsubr_sti_st0 => Reg(0x4e0),
        Code::Fsub_sti_st0 => Reg(0x4e8),
        Code::Fdivr_sti_st0 => Reg(0x4f0),
        Code::Fdiv_sti_st0 => Reg(0x4f8),
        Code::Ffree_sti => Reg(0x5c0),
        Code::Fxch_st0_sti_DDC8 => Reg(0x5c8),
        Code::Fst_sti => Reg(0x5d0),
        Code::Fstp_sti => Reg(0x5d8),
        Code::Fucom_st0_sti => Reg(0x5e0),
        Code::Fucomp_st0_sti => Reg(0x5e8),
        Code::Faddp_sti_st0 => Reg(0x6c0),
        Code::Fmulp_sti_st0 => Reg(0x6c8),
        Code::Fcomp_st0_sti_DED0 => Reg(0x6d0),
        Code::Fcompp => Reg(0x6d9),
        Code::Fsubrp_sti_st0 => Reg(0x6e0),
        Code::Fsubp_sti_st0 => Reg(0x6e8),
        Code::Fdivrp_sti_st0 => Reg(0x6f0),
        Code::Fdivp_sti_st0 => Reg(0x6f8),
        Code::Ffreep_sti => Reg(0x7c0),
        Code::Fxch_st0_sti_DFC8 => Reg(0x7c8),
        Code::Fstp_sti_DFD0 => Reg(0x7d0),
        Code::Fstp_sti_DFD8 => Reg(0x7d8),

        Code::Fucomi_st0_sti => Comi(0x3e8),
        Code::Fcomi_st0_sti => Comi(0x3f0),
        Code::Fucomip_st0_sti => Comi(0x7e8),
        Code::Fcomip_st0_sti => Comi(0x7f0),

        Code::Fcmovb_st0_sti => Cmov(0x2c0, cc::B),
        Code::Fcmove_st0_sti => Cmov(0x2c8, cc::E),
        Code::Fcmovbe_st0_sti => Cmov(0x2d0, cc::BE),
        Code::Fcmovu_st0_sti => Cmov(0x2d8, cc::P),
        Code::Fcmovnb_st0_sti => Cmov(0x3c0, cc::AE),
        Code::Fcmovne_st0_sti => Cmov(0x3c8, cc::NE),
        Code::Fcmovnbe_st0_sti => Cmov(0x3d0, cc::A),
        Code::Fcmovnu_st0_sti => Cmov(0x3d8, cc::NP),
        _ => return None,
    })
}

/// `#NM` when the x87 may not be used. True when the instruction may go on.
pub(super) fn available(ctx: &mut Ctx) -> bool {
    if ctx.key & (key::EM | key::TS) == 0 {
        return true;
    }
    ctx.raise(vector::NM);
    false
}

/// Number of the `ST(i)` operand that varies with the encoding.
fn st_operand(insn: &Instruction) -> u64 {
    (0..insn.op_count())
        .map(|i| insn.op_register(i))
        .filter(|r| r.is_st())
        .map(|r| r.number() as u64 & 7)
        .max()
        .unwrap_or(0)
}

/// The ModRM byte of a memory operand with `digit`, for the recorded opcode. Encodings with a superfluous SIB byte or
/// displacement are taken for the usual ones.
fn modrm(insn: &Instruction, digit: u64) -> u64 {
    let base = insn.memory_base();
    let index = insn.memory_index();
    let displacement = match insn.memory_displ_size() {
        0 => 0,
        1 => 1,
        _ => 2,
    };
    let (mode, rm) = match (base, index) {
        (Register::None, Register::None) if insn.memory_displ_size() == 2 => (0, 6),
        (Register::None | Register::RIP | Register::EIP, Register::None) => (0, 5),
        (Register::BX, Register::SI) => (displacement, 0),
        (Register::BX, Register::DI) => (displacement, 1),
        (Register::BP, Register::SI) => (displacement, 2),
        (Register::BP, Register::DI) => (displacement, 3),
        (Register::SI, Register::None) => (displacement, 4),
        (Register::DI, Register::None) => (displacement, 5),
        (Register::BP, Register::None) => (displacement, 6),
        (Register::BX, Register::None) => (displacement, 7),
        (Register::None, _) => (0, 4),
        (base, Register::None) if base.number() & 7 != 4 => (displacement, base.number() as u64 & 7),
        _ => (displacement, 4),
    };
    mode << 6 | digit << 3 | rm
}

/// Helper `imm` of a memory form.
fn tracked(insn: &Instruction, escape: u16, digit: u16, seg: usize) -> u64 {
    u64::from(escape) << 8 | modrm(insn, u64::from(digit)) | (seg as u64) << 16
}

/// Log2 of the bytes at the memory operand.
fn operand_width(insn: &Instruction) -> u8 {
    super::ctx::width_of(insn.memory_size().size())
}

const CONTROL_FIELD: i64 = (std::mem::offset_of!(Cpu, core)
    + std::mem::offset_of!(CoreState, x87)
    + std::mem::offset_of!(X87, control)) as i64;

/// Lowers `insn`; false when it is not one of this module's.
pub fn lower(ctx: &mut Ctx, insn: &Instruction) -> bool {
    let Some(form) = form(insn.code()) else { return false };
    if form == Form::Wait {
        if ctx.has(key::MP | key::TS) {
            ctx.raise(vector::NM);
        } else {
            ctx.call_void(Fp::X87Wait as u16, NONE, NONE, NONE, 0);
        }
        return true;
    }
    // `FCMOV`, `FCOMI` and `FISTTP` came after the x87 itself.
    if !in_model(ctx, insn) {
        ctx.ud();
        return true;
    }
    if !available(ctx) {
        return true;
    }
    let reg = |op: u16| u64::from(op) | st_operand(insn);
    match form {
        Form::Reg(op) => call(ctx, FORM_REGISTER, Fp::X87Reg, NONE, NONE, reg(op)),
        Form::Comi(op) => call(ctx, FORM_REGISTER, Fp::X87Comi, NONE, NONE, reg(op)),
        Form::Cmov(op, condition) => {
            let holds = ctx.temp();
            ctx.op(Op { d: holds, k: condition, ..Op::new(Opcode::SetCc) });
            ctx.call_void(Fp::X87Cmov as u16, holds, NONE, NONE, reg(op));
        }
        Form::Value(escape, digit) => {
            let w = operand_width(insn);
            let ea = ctx.ea(insn);
            let addr = ea.resolve(ctx, w, false);
            let value = ctx.ld(w, addr, 0);
            let offset = ea.offset(ctx);
            let pointer = pointer(ctx, offset, ea.seg);
            let imm = tracked(insn, escape, digit, ea.seg);
            call(ctx, FORM_VALUE, Fp::X87Value, value, pointer, imm);
        }
        Form::Mem(escape, digit, write) => {
            let linear = image_address(ctx, insn, insn.memory_size().size(), write);
            let ea = ctx.ea(insn);
            let offset = ea.offset(ctx);
            let pointer = pointer(ctx, offset, ea.seg);
            let imm = tracked(insn, escape, digit, ea.seg);
            call(ctx, FORM_ADDRESS, Fp::X87Mem, linear, pointer, imm);
        }
        Form::Env(helper, imm) => {
            let size = match imm {
                0 => 14,
                2 => 28,
                1 => 94,
                _ => 108,
            };
            let linear = image_address(ctx, insn, size, helper == Fp::X87StoreEnv);
            ctx.call_void(helper as u16, linear, NONE, NONE, imm);
        }
        Form::Control(imm) => ctx.call_void(Fp::X87Control as u16, NONE, NONE, NONE, imm),
        Form::Fldcw => {
            let value = ctx.read(insn, 0, 0);
            ctx.call_void(Fp::Fldcw as u16, value, NONE, NONE, 0);
        }
        Form::Fnstcw => {
            let value = ctx.ldf(W16, CONTROL_FIELD);
            store_word(ctx, insn, value);
        }
        Form::FnstswMemory => {
            let value = ctx.call(Fp::Fnstsw as u16, NONE, NONE, NONE, 0);
            store_word(ctx, insn, value);
        }
        Form::FnstswAx => {
            let value = ctx.call(Fp::Fnstsw as u16, NONE, NONE, NONE, 0);
            ctx.write_reg(Register::AX, value);
        }
        Form::Wait | Form::Nothing => {}
    }
    true
}

/// Calls an x87 helper, or has the engine do its work (`form`) where nothing has to happen after the instruction.
fn call(ctx: &mut Ctx, form: u8, helper: Fp, a: Name, b: Name, imm: u64) {
    if ctx.key & (key::TRAP | key::INHIBIT) != 0 || ctx.after_sti != AfterSti::No {
        return ctx.call_void(helper as u16, a, b, NONE, imm);
    }
    let ip = if ctx.code64() {
        NONE
    } else {
        let pc = ctx.movi((ctx.pc & 0xffff_ffff) as i64);
        pointer(ctx, pc, seg::CS)
    };
    ctx.op(Op { a, b, s: ip, k: form, imm: (imm << 16 | helper as u64) as i64, ..Op::new(Opcode::Call) });
}

/// A pointer as the x87 records it: the offset, outside 64-bit mode with the selector above.
fn pointer(ctx: &mut Ctx, offset: Name, segment: usize) -> Name {
    if ctx.code64() {
        return offset;
    }
    let selector = ctx.ldf(W16, seg_selector_field(segment));
    let high = ctx.temp();
    ctx.op(Op { w: W64, d: high, a: selector, k: Shift::Shl as u8, imm: 48, ..Op::new(Opcode::Shift) });
    let whole = ctx.temp();
    ctx.alu(Alu::Or, W64, whole, high, Src::Name(offset), false);
    whole
}

fn store_word(ctx: &mut Ctx, insn: &Instruction, value: Name) {
    let addr = ctx.addr(insn, W16, true);
    ctx.st(W16, addr, value);
}

/// Linear address of a `size`-byte operand. Sizes that are no power of two are checked at their first and last byte.
pub(super) fn image_address(ctx: &mut Ctx, insn: &Instruction, size: usize, write: bool) -> Name {
    let ea = ctx.ea(insn);
    if size.is_power_of_two() {
        let w = size.trailing_zeros() as u8;
        return ea.resolve(ctx, w, write).to_name(ctx);
    }
    if ea.is_limited(ctx) {
        ea.at(size as i64 - 1).resolve(ctx, 0, write);
    }
    let alignment = match size {
        10 => W64,
        28 | 108 => W32,
        _ => W16,
    };
    ea.resolve(ctx, 0, write).aligned(ctx, alignment).to_name(ctx)
}
