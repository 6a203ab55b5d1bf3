//! The instruction forms under test.

use iced_x86::{CpuidFeature, Instruction, Mnemonic, OpKind};

use super::{Random, decode, manufacturers_differ, same_x87};

fn covered(insn: &Instruction) -> bool {
    use CpuidFeature::{MMX, SSE, SSE2, SSE3, SSE4_1, SSE4_2, SSSE3};
    let ours = [MMX, SSE, SSE2, SSE3, SSE4_1, SSE4_2, SSSE3];
    let features = insn.cpuid_features();
    if insn.is_invalid() || features.is_empty() || !features.iter().all(|f| ours.contains(f)) {
        return false;
    }
    let elsewhere =
        matches!(insn.mnemonic(), Mnemonic::Ldmxcsr | Mnemonic::Crc32 | Mnemonic::Pause | Mnemonic::Fisttp);
    // Processors differ in whether this one switches the x87 to MMX.
    let unclear = insn.mnemonic() == Mnemonic::Cvtpi2ps && insn.op1_kind() == OpKind::Memory;
    // RSP is the test's own.
    let stack = (0..insn.op_count()).any(|i| {
        insn.op_kind(i) == OpKind::Register && insn.op_register(i).full_register() == iced_x86::Register::RSP
    });
    !(elsewhere || unclear || stack)
}

/// All SSE to SSE4.2 and MMX encodings with a register or `[rbx]` operand.
pub fn sse(random: &mut Random) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for map in 1..=3u8 {
        for prefix in [0, 0x66, 0xf3, 0xf2u8] {
            for opcode in 0..=255u8 {
                if map == 1 && matches!(opcode, 0x38 | 0x3a) {
                    continue;
                }
                for form in 0..32u8 {
                    let rex = match random.below(4) {
                        0 => 0,
                        1 => 0x48,
                        _ => 0x40 | random.below(16) as u8 & 0x0d,
                    };
                    // The memory form keeps RBX as its base.
                    let memory = form & 1 != 0;
                    let rex = if memory { rex & !1 } else { rex };
                    let digit = form >> 1 & 7;
                    let modrm =
                        if memory { digit << 3 | 3 } else { 0xc0 | digit << 3 | random.below(8) as u8 };
                    let mut bytes = Vec::new();
                    if prefix != 0 {
                        bytes.push(prefix);
                    }
                    if rex != 0 {
                        bytes.push(rex);
                    }
                    bytes.push(0x0f);
                    match map {
                        2 => bytes.push(0x38),
                        3 => bytes.push(0x3a),
                        _ => {}
                    }
                    bytes.extend([opcode, modrm]);
                    bytes.push(random.next() as u8);
                    let insn = decode(&bytes);
                    bytes.truncate(insn.len());
                    if covered(&insn) {
                        out.push(bytes);
                    }
                }
            }
        }
    }
    out
}

/// All x87 encodings with a register or `[rbx]` operand, but for those that load or store an environment.
pub fn x87() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for escape in 0xd8..=0xdfu8 {
        for modrm in (0xc0..=0xffu8).chain((0..8).map(|digit| digit << 3 | 3)) {
            let bytes = vec![escape, modrm];
            let insn = decode(&bytes);
            // Environments hold the instruction pointers, which differ; they have tests of their own.
            let environment = matches!(
                insn.mnemonic(),
                Mnemonic::Fldenv | Mnemonic::Fnstenv | Mnemonic::Fnsave | Mnemonic::Frstor | Mnemonic::Fldcw
            );
            let unclear = !same_x87() && manufacturers_differ(&insn);
            if !insn.is_invalid() && !environment && !unclear {
                out.push(bytes);
            }
        }
    }
    out
}
