//! Lowering x86 machine code to IR, in every mode.
//!
//! [`lower`] fetches, decodes and translates one block; each module below handles a part of the instruction set and says
//! whether an instruction is its own. What nobody claims is undefined on this processor.
//!
//! # Deviations from hardware
//! * A locked instruction whose operand lies on two pages that are apart in host memory, or crosses cache lines of a host that may punish
//!   that, is atomic among instructions of that kind only.

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

use bulkhead_engine::{CodeSource, CoreState, Fault, log};
use bulkhead_ir::{Block, NONE};
use iced_x86::{Code, Decoder, DecoderError, DecoderOptions, Instruction, Register};

pub use ctx::{AfterSti, Ctx, Src};
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
    /// MMX.
    pub const MMX: Feature = (0, 23);
    /// SSE.
    pub const SSE: Feature = (0, 25);
    /// SSE2.
    pub const SSE2: Feature = (0, 26);
    /// `MONITOR`, `MWAIT`.
    pub const MONITOR: Feature = (1, 3);
    /// `CMPXCHG16B`.
    pub const CX16: Feature = (1, 13);
    /// `CRC32`.
    pub const SSE42: Feature = (1, 20);
    /// `RDRAND`.
    pub const RDRAND: Feature = (1, 30);
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

/// Conditional jumps forward that a block goes on after, at most. More make longer blocks, which share less of their code.
const SIDES: u32 = 3;

/// Bytes fetched ahead.
const WINDOW: usize = 192;

/// What decoding at one pc found.
enum Decoded {
    Insn,
    /// Undefined instruction, of so many bytes.
    Invalid(usize),
    /// Longer than 15 bytes, or beyond the code segment's limit; of so many bytes.
    TooLong(usize),
    /// Bytes beyond the window are needed.
    Short,
}

/// Fetches the block's bytes. `window` holds the first `len` bytes from `pc` on.
struct Fetcher<'a> {
    code: &'a mut dyn CodeSource,
    window: [u8; WINDOW],
    len: usize,
    pc: u64,
    cs_base: u64,
    cs_limit: u64,
    /// Mask of linear addresses.
    mask: u64,
    /// Bytes from `pc` to the end of its page.
    in_page: usize,
}

impl Fetcher<'_> {
    /// Fetches until the window holds `want` bytes or the code segment ends.
    fn fill(&mut self, want: usize) -> Result<(), Fault> {
        while self.len < want {
            let offset = self.pc.wrapping_add(self.len as u64) & self.mask;
            let Some(room) = self.cs_limit.checked_sub(offset) else { break };
            let to =
                want.min(self.len.saturating_add(usize::try_from(room).unwrap_or(WINDOW).saturating_add(1)));
            let Some(out) = self.window.get_mut(self.len..to) else { break };
            self.len += self.code.bytes(self.cs_base.wrapping_add(offset) & self.mask, out)?.min(out.len());
        }
        Ok(())
    }

    /// Makes `used` bytes further on the window's start and fetches what the page has.
    fn advance(&mut self, used: usize) -> Result<(), Fault> {
        let used = used.min(self.len);
        self.window.copy_within(used..self.len, 0);
        self.len -= used;
        self.pc = self.pc.wrapping_add(used as u64) & self.mask;
        self.in_page = self.in_page.saturating_sub(used);
        self.fill(self.in_page.min(WINDOW))
    }

    fn bytes(&self) -> &[u8] {
        self.window.get(..self.len).unwrap_or(&[])
    }
}

/// Decodes the next instruction of `decoder`.
fn decode(decoder: &mut Decoder, insn: &mut Instruction) -> Decoded {
    let left = decoder.max_position() - decoder.position();
    decoder.decode_out(insn);
    match decoder.last_error() {
        DecoderError::None => Decoded::Insn,
        DecoderError::InvalidInstruction if insn.len() < MAX_LEN => Decoded::Invalid(insn.len().max(1)),
        DecoderError::NoMoreBytes if left < MAX_LEN => Decoded::Short,
        _ => Decoded::TooLong(left.clamp(1, MAX_LEN)),
    }
}

fn decoder_options(amd: bool, has: impl Fn(feature::Feature) -> bool) -> u32 {
    // The `F3` forms of `BSF`, `BSR` and `WBINVD` and the hints in 0F 18..1F mean nothing more on older processors.
    let mut options =
        DecoderOptions::NO_WBNOINVD | DecoderOptions::NO_MPFX_0FBC | DecoderOptions::FORCE_RESERVED_NOP;
    // AMD's processors take operand-size prefixes of near branches and REX.W of far pointers otherwise in 64-bit code (see also
    // `widen_by_amd`).
    if amd {
        options |= DecoderOptions::AMD;
    }
    if !has(feature::ABM) {
        options |= DecoderOptions::NO_MPFX_0FBD;
    }
    options
}

/// What is a hint on Intel's processors and undefined on AMD's: 0F 0D, their prefetch group, with a register (AMD manual volume 3,
/// `PREFETCHlevel`).
fn undefined_by_amd(insn: &Instruction) -> bool {
    use iced_x86::Code::{Reservednop_rm16_r16_0F0D, Reservednop_rm32_r32_0F0D, Reservednop_rm64_r64_0F0D};
    let group = matches!(
        insn.code(),
        Reservednop_rm16_r16_0F0D | Reservednop_rm32_r32_0F0D | Reservednop_rm64_r64_0F0D
    );
    group && insn.op0_kind() == iced_x86::OpKind::Register
}

/// REX.W of a far branch through memory leaves the pointer 16:32 on AMD's processors and makes what a call pushes 64 bits wide, as it does
/// for every far transfer (AMD manual volume 3, `CALL (Far)`: no 16:64 form; what a host of the kind does). The decoder's AMD form drops
/// it; this gives the instruction the code of the 64-bit form back, and `control::far_target` reads its pointer.
fn widen_by_amd(insn: &mut Instruction, bytes: &[u8]) {
    let wide = match insn.code() {
        Code::Call_m1632 => Code::Call_m1664,
        Code::Jmp_m1632 => Code::Jmp_m1664,
        _ => return,
    };
    // REX counts only as the last prefix, right before the opcode FF.
    let opcode = bytes.iter().position(|b| *b == 0xff);
    let rex = opcode.and_then(|at| bytes.get(at.checked_sub(1)?)).copied().unwrap_or(0);
    if rex & 0xf8 == 0x48 {
        insn.set_code(wide);
    }
}

/// Lowers a block at `core.pc`; see `GuestOps::lower`.
pub fn lower(
    core: &mut CoreState,
    code: &mut dyn CodeSource,
    max_insns: u32,
    out: &mut Block,
) -> Result<(), Fault> {
    let pc = core.pc;
    let (mode, features, cs, amd) = {
        // SAFETY: the engine hands over the `CoreState` of the `Cpu` that it runs; no other reference is live here.
        let cpu = unsafe { Cpu::from_core(core) };
        (cpu.key, cpu.features, cpu.segs[seg::CS], cpu.model.is_amd())
    };
    let (bitness, mask, cs_base, cs_limit) = match mode & (key::CODE64 | key::CODE32) {
        key::CODE32 => (32, 0xffff_ffff, cs.base, u64::from(cs.limit)),
        0 => (16, 0xffff_ffff, cs.base, u64::from(cs.limit)),
        _ => (64, u64::MAX, 0, u64::MAX),
    };
    let has = |(word, bit): feature::Feature| features.get(word).is_some_and(|w| w >> bit & 1 != 0);
    let linear = cs_base.wrapping_add(pc) & mask;
    let mut fetch = Fetcher {
        code,
        window: [0; WINDOW],
        len: 0,
        pc,
        cs_base,
        cs_limit,
        mask,
        in_page: (PAGE - linear % PAGE) as usize,
    };
    let options = decoder_options(amd, has);
    let single = mode & (key::TRAP | key::INHIBIT) != 0;
    let cap = if single { 1 } else { max_insns.clamp(1, MAX_INSNS) };
    let ahead = if cap == 1 { MAX_LEN } else { WINDOW };
    let mut insn = Instruction::default();

    let mut listing = (core.log & log::IN_ASM != 0).then(|| String::from("IN:\n"));
    out.restart(pc);
    out.movable = mode & key::CODE64 != 0 && mode & (key::TRAP | key::INHIBIT | key::BREAKPOINTS) == 0;
    let mut ctx = Ctx::new(out, mode, features, cs_limit);
    ctx.amd = amd;
    ctx.sides = if cap == 1 { 0 } else { SIDES };
    fetch.fill(fetch.in_page.min(ahead))?;
    // Each round lowers what the window holds whole, then fetches on.
    while !ctx.ended {
        let mut decoder = Decoder::with_ip(bitness, fetch.bytes(), fetch.pc, options);
        let mut used = 0;
        let mut short = false;
        while !ctx.ended && !short {
            let at = fetch.pc.wrapping_add(used as u64) & mask;
            let decoded = decode(&mut decoder, &mut insn);
            let (len, undefined) = match decoded {
                Decoded::Insn => (insn.len(), (amd && undefined_by_amd(&insn)).then_some(vector::UD)),
                Decoded::Invalid(len) => (len, Some(vector::UD)),
                Decoded::TooLong(len) => (len, Some(vector::GP)),
                Decoded::Short => {
                    short = true;
                    continue;
                }
            };
            if amd && bitness == 64 {
                widen_by_amd(&mut insn, fetch.bytes().get(used..).unwrap_or(&[]));
            }
            ctx.start_insn(at, at.wrapping_add(len as u64) & mask, len);
            if let Some(listing) = &mut listing {
                list(listing, at, undefined.is_none().then_some(&insn));
            }
            match undefined {
                None => instruction(&mut ctx, &insn),
                Some(vector::UD) => ctx.ud(),
                Some(other) => ctx.raise_zero(other),
            }
            used += len;
            let last = ctx.out.insns >= cap || used >= fetch.in_page || ctx.after_sti == AfterSti::Here;
            if !ctx.ended && last {
                let pc = ctx.next_pc;
                ctx.end_goto(pc);
            }
        }
        if short && let Err(fault) = refill(&mut fetch, &mut ctx, used) {
            return Err(fault);
        }
    }
    if let Some(listing) = listing {
        core.machine().log(log::IN_ASM, &listing);
    }
    Ok(())
}

/// Adds an instruction to the listing of a block (`-d in_asm`).
fn list(listing: &mut String, pc: u64, insn: Option<&Instruction>) {
    *listing += &format!("{pc:#018x}:  ");
    match insn {
        Some(insn) => iced_x86::FastFormatter::new().format(insn, listing),
        None => *listing += "(undefined)",
    }
    listing.push('\n');
}

/// Goes on after `used` bytes of the window, whose rest is no whole instruction. Ends the block where the next page is needed and
/// faults; that fault is only the first instruction's to raise.
fn refill(fetch: &mut Fetcher, ctx: &mut Ctx, used: usize) -> Result<(), Fault> {
    let before = fetch.len - used.min(fetch.len);
    let mut fetched = fetch.advance(used);
    if fetched.is_ok() && fetch.len == before {
        // The page is exhausted: the instruction crosses into the next one.
        fetched = fetch.fill(MAX_LEN);
        if fetched.is_ok() && fetch.len == before {
            // The code segment ends within it.
            let len = before.max(1);
            ctx.start_insn(fetch.pc, fetch.pc.wrapping_add(len as u64) & fetch.mask, len);
            ctx.raise_zero(vector::GP);
        }
    }
    match fetched {
        Err(fault) if ctx.out.insns == 0 => Err(fault),
        Err(_) => {
            let pc = fetch.pc;
            ctx.end_goto(pc);
            Ok(())
        }
        Ok(()) => Ok(()),
    }
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
        if self.after_sti == AfterSti::Next {
            self.after_sti = AfterSti::Here;
            self.sys(Sys::ClearInhibit, 0);
        }
        if self.has(key::INHIBIT) {
            // First, so that an instruction that holds interrupts off itself (`MOV SS`) is not undone.
            self.sys(Sys::ClearInhibit, 0);
        }
    }
}

/// Whether the instruction has an address or constant of 64 bits that does not follow from where it is, or one cut to fewer bits that does.
fn is_bound(insn: &Instruction) -> bool {
    match insn.memory_base() {
        Register::EIP => true,
        Register::RIP => false,
        Register::None if insn.memory_displ_size() == 8 => {
            i32::try_from(insn.memory_displacement64() as i64).is_err()
        }
        _ => insn.code() == Code::Mov_r64_imm64,
    }
}

fn instruction(ctx: &mut Ctx, insn: &Instruction) {
    ctx.out.movable &= !is_bound(insn);
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
