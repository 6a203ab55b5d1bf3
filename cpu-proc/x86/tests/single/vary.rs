//! Many states for one instruction: what it computes with differs from state to state, its code and its segments do not.

use iced_x86::{
    CpuidFeature, FlowControl, Instruction, InstructionInfoFactory, MemorySize, Mnemonic, OpAccess,
    UsedMemory,
};

use crate::generate::{adapt, case, controls, extended, fits, operand, seeded, steer, target};
use crate::layout::*;
use crate::random::Rng;

/// Most states of one instruction.
pub const MOST: usize = 64;

/// The kinds of instructions that are counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    Integer,
    X87,
    Mmx,
    Sse,
    /// Needs a right that user programs have not.
    Privileged,
}

impl Class {
    fn of(insn: &Instruction) -> Class {
        use CpuidFeature as F;
        if insn.is_privileged() {
            return Class::Privileged;
        }
        if (0..insn.op_count()).any(|i| insn.op_register(i).is_mm()) {
            return Class::Mmx;
        }
        insn.cpuid_features().iter().fold(Class::Integer, |class, feature| match feature {
            F::FPU | F::FPU287 | F::FPU287XL_ONLY | F::FPU387 | F::FPU387SL_ONLY | F::FXSR => Class::X87,
            F::MMX => Class::Mmx,
            F::SSE | F::SSE2 | F::SSE3 | F::SSSE3 | F::SSE4_1 => Class::Sse,
            F::SSE4_2 | F::SSE4A | F::AES | F::PCLMULQDQ => Class::Sse,
            _ => class,
        })
    }
}

/// An instruction with what all of its states share.
pub struct Group {
    pub seed: u64,
    pub insn: Instruction,
    pub class: Class,
    pub mode: Mode,
    used: Vec<UsedMemory>,
    /// A bit for each general register that an address depends on.
    addresses: u16,
    states: usize,
}

/// Whether the instruction can only fault or go on behind itself, and leaves segment registers and the trap flag alone.
fn is_fast(insn: &Instruction, factory: &mut InstructionInfoFactory) -> bool {
    let segments = factory.info(insn).used_registers().iter().any(|used| {
        let written = !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None);
        written && used.register().is_segment_register()
    });
    insn.flow_control() == FlowControl::Next
        && !segments
        && !matches!(insn.mnemonic(), Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq)
}

impl Group {
    /// The group of `seed` with its first case, or none when what came up is not to be run.
    pub fn new(seed: u64, factory: &mut InstructionInfoFactory) -> Option<(Group, Case)> {
        let (mut first, insn) = case(&mut seeded(seed), factory)?;
        let used = factory.info(&insn).used_memory().to_vec();
        let mut addresses = 1 << 4;
        for r in used.iter().flat_map(|u| [u.base(), u.index()]).filter(|r| r.is_gpr()) {
            addresses |= 1 << r.full_register().number();
        }
        let fast = is_fast(&insn, factory);
        let class = Class::of(&insn);
        let states = match (class, fast) {
            // The outcome depends on nothing.
            (Class::Privileged, _) => 2,
            (_, true) => MOST,
            (_, false) => 8,
        };
        first.fast = fast.into();
        first.first = 1;
        let mode = Mode::of(&first.before);
        Some((Group { seed, insn, class, mode, used, addresses, states }, first))
    }

    /// Fills `cases` from the front with states of the group, the first of which is `first`. How many there are.
    pub fn fill(&self, first: &Case, cases: &mut [Case]) -> usize {
        let mut rng = seeded(self.seed ^ 0x6a09_e667_f3bc_c908);
        let wanted = self.states.min(cases.len());
        let mut made = 0;
        // What one state does not fit, the next may.
        for _ in 0..2 * wanted {
            let Some(case) = cases.get_mut(made).filter(|_| made < wanted) else { break };
            (case.before, case.code, case.len, case.at) = (first.before, first.code, first.len, first.at);
            (case.repeats, case.fast, case.first) = (first.repeats, first.fast, u64::from(made == 0));
            if made > 0 {
                self.vary(&mut rng, case);
                if !fits(&self.insn, case, &self.used, self.mode) {
                    continue;
                }
            }
            made += 1;
        }
        made
    }

    fn vary(&self, rng: &mut Rng, case: &mut Case) {
        let long = self.mode == Mode::Long;
        let s = &mut case.before;
        let choice = rng.next();
        for r in 0..if long { 16 } else { 8 } {
            let slot = &mut s.regs[r];
            if self.addresses >> r & 1 != 0 {
                if r != 4 && choice >> (16 + 2 * r) & 3 == 0 {
                    *slot = slot.wrapping_add(choice >> 56);
                }
            } else if choice >> r & 1 == 0 {
                *slot = word(rng);
            }
            if !long {
                *slot &= 0xffff_ffff;
            }
        }
        s.flags = 0x202 | rng.next() & 0xcd5;
        if rng.below(32) == 0 {
            s.flags |= 1 << 18;
        }
        if rng.below(2) == 0 {
            controls(rng, s);
        }
        if matches!(self.class, Class::X87 | Class::Mmx) {
            for _ in 0..3 {
                let at = [0, 1, rng.below(8) as usize][rng.below(3) as usize];
                s.st[at] = if self.class == Class::Mmx { vector(rng) } else { extended(rng) };
                s.st[at][10..].fill(0);
            }
        }
        if self.class == Class::Sse {
            for i in 0..16 {
                s.xmm[i] = match rng.below(8) {
                    0 => s.xmm[rng.below(16) as usize],
                    1..=3 => s.xmm[i],
                    _ => vector(rng),
                };
            }
        }
        for chunk in s.window[WINDOW_LEN / 2 - 0x80..WINDOW_LEN / 2 + 0x80].chunks_exact_mut(8) {
            chunk.copy_from_slice(&word(rng).to_le_bytes());
        }
        let to = target(rng, self.mode);
        steer(&self.insn, case, None, self.mode, to);
        adapt(rng, &self.insn, case, self.mode);
        let value = match self.insn.memory_size() {
            MemorySize::Float80 => extended(rng),
            MemorySize::Float64 | MemorySize::Packed128_Float64 => doubles(rng),
            MemorySize::Float32 | MemorySize::Packed128_Float32 | MemorySize::Packed64_Float32 => {
                singles(rng)
            }
            _ => return,
        };
        let at = operand(&self.insn, &case.before).wrapping_sub(WINDOW);
        let end = at.saturating_add(16);
        if let Some(place) = case.before.window.get_mut(at as usize..end as usize) {
            place.copy_from_slice(&value);
        }
    }
}

/// An integer that is often at an edge.
fn word(rng: &mut Rng) -> u64 {
    let (kind, v) = (rng.next(), rng.next());
    match kind >> 32 & 7 {
        0 => {
            let width = [8, 16, 32, 64][(kind >> 40 & 3) as usize];
            let top = 1u64 << (width - 1);
            [0, 1, top, top - 1, top | 1, top << 1, (top << 1).wrapping_sub(1), 2][(kind >> 48 & 7) as usize]
        }
        1 => v & 0xff,
        2 => v & 0xffff_ffff,
        3 => 1 << (v >> 32 & 63),
        4 => !(v & 63),
        5 => i64::from(v as i32) as u64,
        6 => i64::from(v as i8) as u64,
        _ => v,
    }
}

fn vector(rng: &mut Rng) -> [u8; 16] {
    match rng.next() >> 32 & 3 {
        0 => doubles(rng),
        1 => singles(rng),
        2 => (u128::from(word(rng)) | u128::from(word(rng)) << 64).to_le_bytes(),
        _ => (u128::from(rng.next()) | u128::from(rng.next()) << 64).to_le_bytes(),
    }
}

fn doubles(rng: &mut Rng) -> [u8; 16] {
    let mut one = || -> u64 {
        let (kind, v) = (rng.next(), rng.next());
        const EXPONENTS: [u64; 16] =
            [0, 0, 1, 2, 0x3fe, 0x3ff, 0x3ff, 0x400, 0x401, 0x41e, 0x43e, 0x432, 0x7fe, 0x7ff, 0x380, 0x47f];
        let exponent = match kind >> 32 & 3 {
            0 => v >> 52 & 0x7ff,
            1 => 0x3ff - 8 + (v >> 52 & 15),
            _ => EXPONENTS[(kind >> 36 & 15) as usize],
        };
        let mantissa = match kind >> 40 & 3 {
            0 => 0,
            1 => 1 << ((kind >> 44) % 52),
            2 => v & (u64::MAX << (kind >> 44 & 63)),
            _ => v,
        };
        (kind >> 63) << 63 | exponent << 52 | mantissa & ((1 << 52) - 1)
    };
    (u128::from(one()) | u128::from(one()) << 64).to_le_bytes()
}

fn singles(rng: &mut Rng) -> [u8; 16] {
    let mut all = [0; 16];
    for lane in all.chunks_exact_mut(4) {
        let (kind, v) = (rng.next(), rng.next() as u32);
        const EXPONENTS: [u32; 8] = [0, 1, 0x7e, 0x7f, 0x80, 0x9e, 0xfe, 0xff];
        let exponent = match kind >> 32 & 3 {
            0 => v >> 23 & 0xff,
            1 => 0x7f - 8 + (v >> 23 & 15),
            _ => EXPONENTS[(kind >> 36 & 7) as usize],
        };
        let mantissa = match kind >> 40 & 3 {
            0 => 0,
            1 => 1 << ((kind >> 44) % 23),
            2 => v & (u32::MAX << (kind >> 44 & 31)),
            _ => v,
        };
        let sign = (kind >> 63) as u32;
        lane.copy_from_slice(&(sign << 31 | exponent << 23 | mantissa & 0x7f_ffff).to_le_bytes());
    }
    all
}
