//! Lowering x86 machine code to IR, in every mode.
//!
//! [`lower`] fetches, decodes and translates one block; each module below handles a part of the instruction set and says
//! whether an instruction is its own. What nobody claims is undefined on this processor.
//!
//! # Deviations from hardware
//! * A near indirect branch beyond the code segment's limit faults at its target, not at the branch.
//! * Locked instructions are plain read-modify-write sequences: one CPU, whose other bus masters never contend.
//! * `#AC` (alignment checking at CPL 3) is not raised for general-purpose accesses.

pub mod bits;
pub mod control;
pub mod ctx;
pub mod ea;
pub mod int;
pub mod mmx;
pub mod sse;
mod sse_moves;
mod sse_table;
pub mod stack;
pub mod string;
pub mod system;
pub mod x87;

use bulkhead_engine::{CodeSource, CoreState, Fault};
use bulkhead_ir::{Block, NONE};
use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction};

pub use ctx::{Ctx, Src};
pub use ea::{Addr, Ea};

use crate::helpers::ids::Sys;
use crate::helpers::vector;
use crate::state::{Cpu, key, seg};

/// Guest instructions in a block at most.
pub const MAX_INSNS: u32 = 32;
/// Longest instruction, in bytes.
const MAX_LEN: usize = 15;
const PAGE: u64 = 4096;

/// CPUID feature bits that decide what decodes, in the words of `Cpu::features`.
pub mod feature {
    /// Word and bit of a feature.
    pub type Feature = (usize, u32);
    /// `RDTSC`.
    pub const TSC: Feature = (0, 4);
    /// `RDMSR`, `WRMSR`.
    pub const MSR: Feature = (0, 5);
    /// `CMPXCHG8B`.
    pub const CX8: Feature = (0, 8);
    /// `SYSENTER`, `SYSEXIT`.
    pub const SEP: Feature = (0, 11);
    /// `CMOVcc`.
    pub const CMOV: Feature = (0, 15);
    /// `CLFLUSH`.
    pub const CLFSH: Feature = (0, 19);
    /// SSE.
    pub const SSE: Feature = (0, 25);
    /// SSE2.
    pub const SSE2: Feature = (0, 26);
    /// `MONITOR`, `MWAIT`.
    pub const MONITOR: Feature = (1, 3);
    /// `CMPXCHG16B`.
    pub const CX16: Feature = (1, 13);
    /// `POPCNT`.
    pub const POPCNT: Feature = (1, 23);
    /// `SYSCALL`, `SYSRET`.
    pub const SYSCALL: Feature = (2, 11);
    /// `RDTSCP`.
    pub const RDTSCP: Feature = (2, 27);
    /// `LAHF` and `SAHF` in 64-bit code.
    pub const LAHF_LM: Feature = (3, 0);
    /// `LZCNT`.
    pub const ABM: Feature = (3, 5);
}

/// The bytes ahead of the instruction pointer, each fetched once.
struct Window {
    bytes: [u8; 2 * MAX_LEN],
    len: usize,
}

impl Window {
    fn consume(&mut self, n: usize) {
        let n = n.min(self.len);
        self.bytes.copy_within(n..self.len, 0);
        self.len -= n;
    }

    fn push(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(self.len) {
            *slot = byte;
            self.len += 1;
        }
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len.min(MAX_LEN)).unwrap_or(&[])
    }
}

/// What decoding at one pc found.
enum Decoded {
    Insn,
    /// Undefined instruction, of so many bytes.
    Invalid(usize),
    /// Longer than 15 bytes, or beyond the code segment's limit.
    TooLong,
    /// The next page is needed and faults.
    Faulted(Fault),
}

struct Fetcher<'a> {
    code: &'a mut dyn CodeSource,
    window: Window,
    /// Architectural pc of the window's first byte.
    pc: u64,
    cs_base: u64,
    cs_limit: u64,
    /// Mask of linear addresses.
    mask: u64,
    bitness: u32,
    options: u32,
    /// Bytes left in the first page, counted from `pc`.
    in_page: u64,
}

impl Fetcher<'_> {
    /// Fetches until the window holds `want` bytes or the code segment ends.
    fn fill(&mut self, want: usize) -> Result<(), Fault> {
        while self.window.len < want {
            let offset = self.pc.wrapping_add(self.window.len as u64) & self.mask;
            if offset > self.cs_limit {
                break;
            }
            let byte = self.code.byte(self.cs_base.wrapping_add(offset) & self.mask)?;
            self.window.push(byte);
        }
        Ok(())
    }

    fn try_decode(&self, insn: &mut Instruction) -> DecoderError {
        let mut decoder = Decoder::with_ip(self.bitness, self.window.bytes(), self.pc, self.options);
        decoder.decode_out(insn);
        decoder.last_error()
    }

    fn decode(&mut self, insn: &mut Instruction) -> Decoded {
        let here = (self.in_page as usize).min(MAX_LEN);
        if let Err(fault) = self.fill(here) {
            return Decoded::Faulted(fault);
        }
        let mut error = self.try_decode(insn);
        if error == DecoderError::NoMoreBytes && here < MAX_LEN {
            if let Err(fault) = self.fill(MAX_LEN) {
                return Decoded::Faulted(fault);
            }
            error = self.try_decode(insn);
        }
        match error {
            DecoderError::None => Decoded::Insn,
            DecoderError::InvalidInstruction if insn.len() < MAX_LEN => Decoded::Invalid(insn.len().max(1)),
            // Running out of 15 bytes, or of the segment.
            _ => Decoded::TooLong,
        }
    }

    fn advance(&mut self, len: usize) {
        self.window.consume(len);
        self.pc = self.pc.wrapping_add(len as u64) & self.mask;
        self.in_page = self.in_page.saturating_sub(len as u64);
    }
}

fn decoder_options(has: impl Fn(feature::Feature) -> bool) -> u32 {
    // The `F3` forms of `BSF`, `BSR` and `WBINVD` and the hints in 0F 18..1F mean nothing more on older processors.
    let mut options =
        DecoderOptions::NO_WBNOINVD | DecoderOptions::NO_MPFX_0FBC | DecoderOptions::FORCE_RESERVED_NOP;
    if !has(feature::ABM) {
        options |= DecoderOptions::NO_MPFX_0FBD;
    }
    options
}

/// Lowers a block at `core.pc`; see `GuestOps::lower`.
pub fn lower(
    core: &mut CoreState,
    code: &mut dyn CodeSource,
    max_insns: u32,
    out: &mut Block,
) -> Result<(), Fault> {
    let pc = core.pc;
    let (mode, features, cs) = {
        // SAFETY: the engine hands over the `CoreState` of the `Cpu` that it runs; no other reference is live here.
        let cpu = unsafe { Cpu::from_core(core) };
        (cpu.key, cpu.features, cpu.segs[seg::CS])
    };
    let long = mode & key::CODE64 != 0;
    let (bitness, mask, cs_base, cs_limit) = match mode & (key::CODE64 | key::CODE32) {
        key::CODE32 => (32, 0xffff_ffff, cs.base, u64::from(cs.limit)),
        0 => (16, 0xffff_ffff, cs.base, u64::from(cs.limit)),
        _ => (64, u64::MAX, 0, u64::MAX),
    };
    let has = |(word, bit): feature::Feature| features.get(word).is_some_and(|w| w >> bit & 1 != 0);
    let linear = cs_base.wrapping_add(pc) & mask;
    let mut fetch = Fetcher {
        code,
        window: Window { bytes: [0; 2 * MAX_LEN], len: 0 },
        pc,
        cs_base,
        cs_limit,
        mask,
        bitness,
        options: decoder_options(has),
        in_page: PAGE - linear % PAGE,
    };
    let single = mode & (key::TRAP | key::INHIBIT) != 0;
    let cap = if single { 1 } else { max_insns.clamp(1, MAX_INSNS) };
    let mut insn = Instruction::default();

    out.restart(pc);
    let mut ctx = Ctx::new(out, mode, features, if long { u64::MAX } else { cs_limit });
    loop {
        let len = match fetch.decode(&mut insn) {
            Decoded::Faulted(fault) if ctx.out.insns == 0 => return Err(fault),
            Decoded::Faulted(_) => {
                let pc = fetch.pc;
                ctx.end_goto(pc);
                break;
            }
            Decoded::Insn => {
                let len = insn.len();
                ctx.start_insn(fetch.pc, fetch.pc.wrapping_add(len as u64) & mask, len);
                instruction(&mut ctx, &insn);
                len
            }
            Decoded::Invalid(len) => {
                ctx.start_insn(fetch.pc, fetch.pc.wrapping_add(len as u64) & mask, len);
                ctx.ud();
                len
            }
            Decoded::TooLong => {
                let len = fetch.window.len.clamp(1, MAX_LEN);
                ctx.start_insn(fetch.pc, fetch.pc.wrapping_add(len as u64) & mask, len);
                ctx.raise_zero(vector::GP);
                len
            }
        };
        if ctx.ended {
            break;
        }
        fetch.advance(len);
        if ctx.out.insns >= cap || fetch.in_page == 0 {
            let pc = fetch.pc;
            ctx.end_goto(pc);
            break;
        }
    }
    Ok(())
}

impl Ctx<'_> {
    /// Emits what precedes every instruction.
    fn start_insn(&mut self, pc: u64, next_pc: u64, len: usize) {
        self.begin(pc, next_pc);
        self.out.next_pc = next_pc;
        self.out.len += len as u32;
        self.out.insns += 1;
        if self.has(key::BREAKPOINTS) {
            let at = self.movi(pc as i64);
            self.call_void(Sys::Breakpoint as u16, at, NONE, NONE, 0);
        }
        if self.has(key::INHIBIT) {
            // First, so that an instruction that holds interrupts off itself (`MOV SS`) is not undone.
            self.sys(Sys::ClearInhibit, 0);
        }
    }
}

fn instruction(ctx: &mut Ctx, insn: &Instruction) {
    let handled = int::lower(ctx, insn)
        || stack::lower(ctx, insn)
        || control::lower(ctx, insn)
        || bits::lower(ctx, insn)
        || string::lower(ctx, insn)
        || sse::lower(ctx, insn)
        || x87::lower(ctx, insn)
        || mmx::lower(ctx, insn)
        || system::lower(ctx, insn);
    if !handled {
        ctx.ud();
    }
}
