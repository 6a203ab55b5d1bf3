//! Encoding of the host SSE and MMX instructions that [`bulkhead_ir::VecOp`] names.

use bulkhead_ir::{VecOp, VecShape, W64};

/// Whether a `GV` instruction has its GPR in the ModRM r/m field instead of reg: `MOVD/MOVQ r/m, xmm` and
/// `PEXTRB/W/D/Q`, `EXTRACTPS` of map 3.
fn gpr_in_rm(insn: VecOp) -> bool {
    (insn.map == 1 && insn.opcode == 0x7e) || (insn.map == 3 && (0x14..=0x17).contains(&insn.opcode))
}

/// Appends the instruction with operands `d` and `a` in these host registers: vector or media ones, but for the one that is a
/// general register in the shapes that have one.
pub(crate) fn encode(out: &mut Vec<u8>, insn: VecOp, shape: u8, w: u8, d: u8, a: u8) {
    let with_gpr = shape == VecShape::GV as u8 || shape == VecShape::VG as u8;
    let (reg, rm) = if shape == VecShape::GV as u8 {
        if gpr_in_rm(insn) { (a, d) } else { (d, a) }
    } else if insn.digit != 0 {
        ((insn.digit - 1) & 7, d)
    } else {
        (d, a)
    };
    if matches!(insn.prefix, 0x66 | 0xf2 | 0xf3) {
        out.push(insn.prefix);
    }
    let wide = with_gpr && w == W64;
    let rex = 0x40 | u8::from(wide) << 3 | (reg >> 3) << 2 | rm >> 3;
    if rex != 0x40 {
        out.push(rex);
    }
    out.push(0x0f);
    match insn.map {
        2 => out.push(0x38),
        3 => out.push(0x3a),
        _ => {}
    }
    out.push(insn.opcode);
    out.push(0xc0 | (reg & 7) << 3 | rm & 7);
    if insn.has_imm {
        out.push(insn.imm);
    }
}
