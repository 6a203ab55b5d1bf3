//! What a fault really is, where finding out at the access would cost too much: looked at again when it is delivered.
//!
//! * A non-canonical address reached through the stack segment is `#SS(0)`, not `#GP(0)` (SDM volume 3A section 6.15).
//! * An instruction of the x87 or MMX first reports the unmasked exception of an earlier one, then faults on its operand (SDM volume 1
//!   section 8.6).

use bulkhead_engine::{Privilege, mem};
use iced_x86::{CpuidFeature, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use super::fp::bits;
use super::vector;
use crate::state::{Cpu, Pending, cr0, key};

/// Corrects the recorded exception.
pub fn refine(cpu: &mut Cpu) {
    let vector = cpu.pending.vector as u8;
    let non_canonical = vector == vector::GP && cpu.pending.addr != 0;
    let operand = matches!(vector, vector::GP | vector::SS | vector::PF | vector::AC);
    let numeric = operand && cpu.core.x87.status & bits::ES != 0 && cpu.cr0 & cr0::NE != 0;
    if !non_canonical && !numeric {
        return;
    }
    let linear = cpu.pending.addr;
    let Some(insn) = current(cpu) else { return };
    if numeric && waits(&insn) {
        cpu.pending = Pending { vector: u32::from(vector::MF), ..Pending::default() };
    } else if non_canonical && through_stack(cpu, &insn, linear) {
        cpu.pending.vector = u32::from(vector::SS);
    }
}

/// The instruction at the pc, if its bytes can be read.
fn current(cpu: &mut Cpu) -> Option<Instruction> {
    let (pending, exit) = (cpu.pending, cpu.core.exit);
    let mut bytes = [0u8; 15];
    let mut len = 0;
    for byte in &mut bytes {
        let at = cpu.linear_pc(cpu.core.pc.wrapping_add(len as u64));
        match mem::load(&mut cpu.core, at, 1, Privilege::Current) {
            Ok(value) => *byte = value as u8,
            Err(_) => break,
        }
        len += 1;
    }
    (cpu.pending, cpu.core.exit) = (pending, exit);
    let bitness = match cpu.key & (key::CODE64 | key::CODE32) {
        0 => 16,
        key::CODE32 => 32,
        _ => 64,
    };
    let insn = Decoder::with_ip(bitness, bytes.get(..len)?, cpu.core.pc, DecoderOptions::NONE).decode();
    (!insn.is_invalid()).then_some(insn)
}

/// Whether the instruction looks for a pending x87 exception before it touches memory.
fn waits(insn: &Instruction) -> bool {
    use Mnemonic as M;
    let control =
        matches!(insn.mnemonic(), M::Fnstcw | M::Fnstsw | M::Fnstenv | M::Fnsave | M::Fninit | M::Fnclex);
    let mmx =
        (0..insn.op_count()).any(|i| insn.op_kind(i) == OpKind::Register && insn.op_register(i).is_mm());
    let x87 = insn.mnemonic() == M::Fisttp
        || insn
            .cpuid_features()
            .iter()
            .any(|f| matches!(f, CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387));
    x87 && !control || mmx
}

/// Whether the access at `linear` went through the stack segment.
fn through_stack(cpu: &Cpu, insn: &Instruction, linear: u64) -> bool {
    let explicit = (0..insn.op_count()).find(|i| insn.op_kind(*i) == OpKind::Memory);
    let Some(operand) = explicit else { return insn.is_stack_instruction() };
    let value = |register: Register, _: usize, _: usize| {
        let slot = || cpu.core.slots.get(register.full_register().number()).copied();
        match register {
            Register::FS => Some(cpu.segs[crate::state::seg::FS].base),
            Register::GS => Some(cpu.segs[crate::state::seg::GS].base),
            register if register.is_gpr32() => slot().map(|v| v & 0xffff_ffff),
            register if register.is_gpr() => slot(),
            _ => Some(0),
        }
    };
    // Prefixes other than FS and GS mean nothing in 64-bit code, the only one with such addresses.
    let other = matches!(insn.memory_segment(), Register::FS | Register::GS);
    let base = insn.memory_base().full_register();
    let stack = !other && matches!(base, Register::RSP | Register::RBP);
    let at = insn.virtual_address(operand, 0, value);
    let is_operand = at.is_some_and(|at| linear.wrapping_sub(at) < 512);
    stack || insn.is_stack_instruction() && !is_operand
}
