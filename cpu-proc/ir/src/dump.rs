//! Readable text of a block, for `-d op` and test failures.

use std::fmt;

use crate::liveness::{self, bit, effects};
use crate::{Block, HelperInfo, NAMES, NONE, Name, Op, Opcode, SET_FLAGS, TEMP0, VecOp};

struct N(Name);

impl fmt::Display for N {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            NONE => f.write_str("-"),
            n if n < TEMP0 => write!(f, "r{n}"),
            n => write!(f, "t{}", n - TEMP0),
        }
    }
}

const ALU: [&str; 7] = ["add", "or", "adc", "sbb", "and", "sub", "xor"];
const SHIFT: [&str; 8] = ["rol", "ror", "rcl", "rcr", "shl", "shr", "?", "sar"];
const UNARY: [&str; 5] = ["not", "neg", "inc", "dec", "bswap"];
const BIT: [&str; 4] = ["bt", "bts", "btr", "btc"];
const CC: [&str; 16] =
    ["o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g"];
const WIDTH: [&str; 5] = ["8", "16", "32", "64", "128"];

fn pick(names: &[&'static str], k: u8) -> &'static str {
    names.get(usize::from(k)).copied().unwrap_or("?")
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Op { op, w, d, a, b, s, k, imm, .. } = *self;
        let (wt, flags) = (pick(&WIDTH, w), if s & SET_FLAGS != 0 { ".f" } else { "" });
        let (nd, na, nb, ns) = (N(d), N(a), N(b), N(s));
        let mem = |f: &mut fmt::Formatter<'_>| write!(f, "[{na} + {nb}<<{s} + {imm:#x}] k{k:x}");
        let second =
            |f: &mut fmt::Formatter<'_>| if b == NONE { write!(f, "{imm:#x}") } else { write!(f, "{nb}") };
        match op {
            Opcode::Insn => write!(f, "--- {imm:#x}"),
            Opcode::MovI => write!(f, "{nd} = {imm:#x}"),
            Opcode::Lea => write!(f, "{nd} = lea{wt} {na} + {nb}<<{s} + {imm:#x}"),
            Opcode::Alu => {
                write!(f, "{nd} = {}{wt}{flags} {na}, ", pick(&ALU, k))?;
                second(f)
            }
            Opcode::Shift => {
                write!(f, "{nd} = {}{wt}{flags} {na}, ", pick(&SHIFT, k))?;
                second(f)
            }
            Opcode::Unary => write!(f, "{nd} = {}{wt}{flags} {na}", pick(&UNARY, k)),
            Opcode::Bit => {
                write!(f, "{nd} = {}{wt} {na}, ", pick(&BIT, k))?;
                second(f)
            }
            Opcode::DShift => write!(f, "{nd} = dshift{k}.{wt} {na}, {nb}, {ns}/{imm:#x}"),
            Opcode::MulWide => write!(f, "{nd}:{ns} = mulwide{k}.{wt} {na}, {nb}"),
            Opcode::SetCc => write!(f, "{nd} = set{}", pick(&CC, k)),
            Opcode::Select => write!(f, "{nd} = {} ? {na} : {nb} ({wt})", pick(&CC, k)),
            Opcode::Ld => {
                write!(f, "{nd} = ld{wt} ")?;
                mem(f)
            }
            Opcode::St => {
                write!(f, "st{wt} {nd}, ")?;
                mem(f)
            }
            Opcode::LdV => {
                write!(f, "v{d} = ld{wt} ")?;
                mem(f)
            }
            Opcode::StV => {
                write!(f, "st{wt} v{d}, ")?;
                mem(f)
            }
            Opcode::LdF => write!(f, "{nd} = field{wt}[{imm:#x}]"),
            Opcode::StF => write!(f, "field{wt}[{imm:#x}] = {na}"),
            Opcode::Vec => write!(f, "vec{k}.{wt} {d}, {a}: {:x?}", VecOp::unpack(imm)),
            Opcode::Call => write!(f, "{nd} = call {}({na}, {nb}, {ns}, {:#x})", imm as u16, imm >> 16),
            Opcode::Canonical => write!(f, "canonical {na}"),
            Opcode::Goto => write!(f, "goto {imm:#x} chain={k}"),
            Opcode::Side => write!(f, "side j{} {imm:#x}", pick(&CC, k)),
            Opcode::Branch => write!(f, "j{} {imm:#x}", pick(&CC, k)),
            Opcode::BranchZ => write!(f, "j{} {na}.{wt} {imm:#x}", if k == 0 { "nz" } else { "z" }),
            Opcode::GotoReg => write!(f, "goto {na}"),
            _ => {
                write!(f, "{nd} = {op:?}{wt}{flags} {na}, ")?;
                second(f)?;
                write!(f, " k{k}")
            }
        }
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", heading(self))?;
        self.ops.iter().try_for_each(|op| writeln!(f, "  {op}"))
    }
}

fn heading(block: &Block) -> String {
    format!("block {:#x}..{:#x}: {} insns, {} bytes", block.pc, block.next_pc, block.insns, block.len)
}

/// Text of a block after liveness analysis (`-d op_opt`), as compiled: flags that nobody reads are not computed, and behind each op
/// stand the flags that somebody reads of those it sets, and the names whose values end there.
pub fn with_lives(block: &Block, helper: impl Fn(u16) -> Option<HelperInfo>) -> String {
    const FLAGS: [char; 6] = ['c', 'p', 'a', 'z', 's', 'o'];
    let mut lives = Vec::new();
    liveness::analyse(block, &helper, &mut lives);
    let mut text = heading(block) + "\n";
    let mut names = liveness::ALL_SLOTS;
    for (op, life) in block.ops.iter().zip(&lives) {
        let touched = effects(op, &helper);
        let flags = touched.flags_def & life.flags;
        let sets = matches!(op.op, Opcode::Alu | Opcode::Shift | Opcode::Unary | Opcode::Mul);
        let shown = Op { s: if sets && flags == 0 { op.s & !SET_FLAGS } else { op.s }, ..*op };
        let ends = (names | touched.reads) & !life.names & !touched.defs;
        let wanted = FLAGS.iter().enumerate().filter(|(at, _)| flags >> at & 1 != 0);
        let wanted: String = wanted.map(|(_, letter)| *letter).collect();
        let ended = (0..NAMES).filter(|name| ends & bit(*name) != 0);
        let ended: String = ended.map(|name| format!(" {}", N(name))).collect();
        text += &format!("  {shown}");
        if !wanted.is_empty() {
            text += &format!("  flags: {wanted}");
        }
        if !ended.is_empty() {
            text += &format!("  dead:{ended}");
        }
        text.push('\n');
        names = life.names;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Alu, W32, cc};

    #[test]
    fn after_liveness_analysis_only_flags_that_are_read_are_set() {
        let mut block = Block::default();
        for op in [
            Op::movi(40, 1),
            Op::alu(Alu::Add, W32, 0, 0, 40, true),
            Op::alui(Alu::Sub, W32, NONE, 0, 1, true),
            Op::branch(cc::E, 0),
        ] {
            block.push(op);
        }
        let (before, after) = (block.to_string(), with_lives(&block, |_| None));
        assert!(before.contains("  r0 = add32.f r0, t8\n  - = sub32.f r0, 0x1\n"), "{before}");
        assert!(
            after.contains("  r0 = add32 r0, t8  dead: t8\n  - = sub32.f r0, 0x1  flags: cpazso\n"),
            "{after}"
        );
    }
}
