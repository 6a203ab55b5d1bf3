//! Lowering of mmx instructions.

use iced_x86::Instruction;

use super::Ctx;

/// Lowers `insn`; false when it is not one of this module's.
pub fn lower(_ctx: &mut Ctx, _insn: &Instruction) -> bool {
    false
}
