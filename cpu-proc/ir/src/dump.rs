//! Readable text of a block, for `-d op` and test failures.

use std::fmt;

use crate::{Block, NONE, Name, Op, Opcode, SET_FLAGS, TEMP0, VecOp};

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
            Opcode::Goto => write!(f, "goto {imm:#x} chain={k}"),
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
        writeln!(f, "block {:#x}..{:#x}: {} insns, {} bytes", self.pc, self.next_pc, self.insns, self.len)?;
        self.ops.iter().try_for_each(|op| writeln!(f, "  {op}"))
    }
}
