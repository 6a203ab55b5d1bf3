//! The part of a vCPU's state that generated code addresses directly.
//!
//! A front end's CPU struct is `#[repr(C)]` with a [`CoreState`] as its first field, so that one pointer serves both:
//! generated code keeps it (plus 128) in `rbp`. Everything here is plain data owned by the vCPU thread, but for two words: the one behind
//! `outside`, which devices set, and `attention`, which other vCPUs and the alarm's handler change ([`CoreState::insist`]).

use std::sync::atomic::{AtomicPtr, AtomicU32};

use crate::count::Counter;
use crate::guest::{GuestOps, Machine};

/// Sets in each software TLB. A power of two.
pub const TLB_SETS: usize = 4096;
/// Entries in the jump cache. A power of two.
pub const JUMP_CACHE: usize = 65536;
/// Guest page size in bits, the smallest of any guest.
pub const PAGE_BITS: u32 = 12;

/// One translation. A lookup of address `x` computes `x ^ tag` and hits when that is at most `4096 - size`
/// (one compare checks tag and page crossing).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TlbEntry {
    /// Page address, or [`invalid_tag`] of the set.
    pub tag: u64,
    /// Host address minus guest address of the page.
    pub addend: u64,
}

/// The tag that can never match in set `set`. All ones would match the topmost page.
pub const fn invalid_tag(set: usize) -> u64 {
    ((set as u64) ^ 1) << PAGE_BITS
}

/// Index of the TLB by access kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Access {
    /// Data read.
    Read = 0,
    /// Data write.
    Write = 1,
    /// Instruction fetch.
    Fetch = 2,
}

/// One privilege mode's three TLBs.
#[repr(C)]
pub struct Tlb {
    /// By [`Access`].
    pub sets: [[TlbEntry; TLB_SETS]; 3],
}

/// A translation that a load in a loop used last, tried before the TLB: a load from a table then waits for no lookup. A hit is an
/// address `x` with `x ^ tag` below `limit`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Guess {
    /// Page address.
    pub tag: u64,
    /// Host address minus guest address of the page.
    pub addend: u64,
    /// [`GUESS_LIMIT`], or zero: nothing hits.
    pub limit: u64,
    /// How many more times it may be wrong before it is left as it is; below zero it is not set any more.
    pub budget: i64,
}

/// Guesses by MMU mode. Loads share them by number.
pub const GUESSES: usize = 32;
/// [`Guess::limit`]: an access of up to 16 bytes that begins below it stays in the page.
pub const GUESS_LIMIT: u64 = (1 << PAGE_BITS) - 15;
/// [`Guess::budget`] after a flush. A wrong guess costs a few times what a lookup does.
pub const GUESS_BUDGET: i64 = 256;

/// Privilege modes with a TLB of their own, so that a system call flushes nothing.
pub const MMU_MODES: usize = 2;
/// Supervisor.
pub const MMU_KERNEL: usize = 0;
/// User.
pub const MMU_USER: usize = 1;

/// An entry of the jump cache: where compiled code for a pc is.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct JumpEntry {
    /// The architectural pc, as in [`CoreState::pc`].
    pub pc: u64,
    /// Number of the context that the code was made in, with the flush generation in the upper 32 bits ([`CoreState::jump_key`]).
    pub key: u64,
    /// Code entry, 0 when empty.
    pub code: u64,
    /// Spare.
    pub pad: u64,
}

/// Why generated code came back; field `exit`.
pub mod exit {
    /// Not leaving.
    pub const NONE: u32 = 0;
    /// A helper changed something (mode, mapping): look again from `pc`.
    pub const RESUME: u32 = 1;
    /// A guest exception is recorded in the front end's state: deliver it.
    pub const FAULT: u32 = 2;
    /// The guest halts until an interrupt.
    pub const HALT: u32 = 3;
    /// A store hit the code being run: step the instruction at `pc` in the interpreter, then look again.
    pub const RETRY_STEP: u32 = 4;
    /// The attention word was set at a poll.
    pub const ATTENTION: u32 = 5;
    /// As [`RESUME`], but the instruction at `pc` has not ended: a repetition was interrupted.
    pub const AGAIN: u32 = 6;
    /// The next block would pass the limit of the [counter](crate::Counter).
    pub const SPENT: u32 = 7;
}

/// x87 state apart from the register file ([`CoreState::media`], physical registers R0..R7).
///
/// While `ready` is set, generated code leaves part of the status word to be found out when someone looks: exception flags are in
/// the host's x87 until then, and C1 is what repeating the operation in `lazy` gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct X87 {
    /// Control word.
    pub control: u16,
    /// Status word without TOP (bits 11..14 zero).
    pub status: u16,
    /// Top of stack, 0..8. `ST(i)` is physical register `(top + i) & 7`.
    pub top: u32,
    /// Abridged tags: bit `i` set when physical register `i` is *in use* (as `FXSAVE` stores it).
    pub tags: u8,
    /// Padding.
    pub pad: u8,
    /// Last non-control opcode, 11 bits.
    pub opcode: u16,
    /// Nonzero: no exception is pending or unmasked, the host runs under the guest's control word, and the flags set in the host
    /// are all set in the guest. Only then may generated code compute.
    pub ready: u32,
    /// Last instruction pointer and its selector (bits 48..64 in legacy modes).
    pub ip: u64,
    /// Last data pointer, likewise.
    pub dp: u64,
    /// The operation that C1 follows from: [`LAZY_NONE`], [`LAZY_CLEAR`], or [`LAZY_OP`] with its opcode, on the operands below.
    pub lazy: u16,
    /// Padding.
    pub pad2: [u16; 3],
    /// Memory operand of up to eight bytes.
    pub memory: u64,
    /// First operand, the destination.
    pub first: [u8; 16],
    /// Second operand.
    pub second: [u8; 16],
    /// Memory operand of an operation that C1 does not follow from: what `lazy` names keeps its own.
    pub passing: u64,
}

/// [`X87::lazy`]: C1 is as in the status word.
pub const LAZY_NONE: u16 = 0;
/// [`X87::lazy`]: C1 is zero.
pub const LAZY_CLEAR: u16 = 1;
/// [`X87::lazy`]: C1 is that of an operation. Bits 8..11 escape, 6..8 both set for a register form, 3..6 digit, 0..3 rest of
/// ModRM for the one-operand forms.
pub const LAZY_OP: u16 = 0x8000;

/// The engine-visible CPU state. Offsets are part of the generated code.
#[repr(C, align(64))]
pub struct CoreState {
    /// Guest slots (IR names 0..32).
    pub slots: [u64; 32],
    /// Condition flags in host form: bits 0..8 `OF` as 0/1, bits 8..16 as `LAHF` gives them (SF ZF - AF - PF - CF).
    pub cc: u32,
    /// Reason to leave, see [`exit`].
    pub exit: u32,
    /// Architectural program counter; valid outside generated code and where a helper may look.
    pub pc: u64,
    /// The word that polls look at: `outside`, or one that nobody can clear, see [`CoreState::insist`].
    pub attention: AtomicPtr<AtomicU32>,
    /// The guest's SIMD control and status word, masked for running (exceptions all masked).
    pub mxcsr: u32,
    /// The host's, restored when Rust code needs it.
    pub host_mxcsr: u32,
    /// Host stack pointer at entry, for leaving from any depth.
    pub entry_rsp: u64,
    /// Current MMU mode, [`MMU_KERNEL`] or [`MMU_USER`].
    pub mmu_mode: u32,
    /// Last flush generation given out.
    pub generation: u32,
    /// Vector slots: guest registers, then block temporaries.
    pub vec: [[u8; 16]; 20],
    /// x87 physical registers (80-bit, little-endian, bytes 0..10); MMX registers are their low 8 bytes.
    pub media: [[u8; 16]; 8],
    /// The rest of the x87.
    pub x87: X87,
    /// Where slow paths save the host's vector registers.
    pub vec_spill: [[u8; 16]; 16],
    /// Where an engine parks temporaries and host registers.
    pub spill: [u64; 64],
    /// Result buffer of device reads, for the address-returning load path.
    pub bounce: [u8; 64],
    /// The word that anyone may set to make the vCPU stop at its next poll.
    pub outside: *const AtomicU32,
    /// Front-end entry points.
    pub ops: &'static GuestOps,
    /// The machine around the CPU.
    pub machine: *mut dyn Machine,
    /// Software TLBs by MMU mode.
    pub tlb: [Tlb; MMU_MODES],
    /// Direct-mapped pc to code.
    pub jump_cache: [JumpEntry; JUMP_CACHE],
    /// Engine-private data (code cache, block table, statistics); null in the interpreter-only unit tests.
    pub engine: *mut std::ffi::c_void,
    /// What jump-cache entries must carry now: generation in the upper 32 bits, engine's context number below.
    pub jump_key: u64,
    /// Number of the compiled block whose helper is running, or [`NO_BLOCK`]: a store into it must not happen.
    pub running: u32,
    /// 1 while the host's MXCSR register holds the guest's value, see [`crate::mxcsr`].
    pub mxcsr_live: u32,
    /// Sets filled since the last flush, a bit each, so that a flush costs what was used.
    pub filled: [[[u64; TLB_SETS / 64]; 3]; MMU_MODES],
    /// Of those, the ones that hold a global translation.
    pub global: [[[u64; TLB_SETS / 64]; 3]; MMU_MODES],
    /// Extents of large pages that were translated, not global and global ones, by half of the address space; see
    /// [`crate::mmu::note_large_page`].
    pub large: [[LargeExtent; 2]; 2],
    /// Flush generations that jump-cache entries must carry, by MMU mode.
    pub generations: [u32; MMU_MODES],
    /// Where recently used physical pages are, for page walks and [`crate::mem::phys_load`].
    pub phys_cache: [PhysEntry; PHYS_CACHE],
    /// Items of [`log`] that are on.
    pub log: u32,
    /// Whether some guess was set since they were all dropped.
    pub guessed: u32,
    /// Translations of loads in loops.
    pub guesses: [[Guess; GUESSES]; MMU_MODES],
    /// Instructions, while they are counted.
    pub counter: Counter,
}

/// Things that can be written to the debug log (`-d`), a bit each.
pub mod log {
    /// Host code of each compiled block.
    pub const OUT_ASM: u32 = 1 << 0;
    /// Guest code of each lowered block.
    pub const IN_ASM: u32 = 1 << 1;
    /// IR of each block.
    pub const OP: u32 = 1 << 2;
    /// IR of each block after liveness analysis.
    pub const OP_OPT: u32 = 1 << 3;
    /// Interrupts and exceptions.
    pub const INT: u32 = 1 << 4;
    /// Each instruction entered.
    pub const EXEC: u32 = 1 << 5;
    /// CPU state before each instruction.
    pub const CPU: u32 = 1 << 6;
    /// Far transfers in protected mode.
    pub const PCALL: u32 = 1 << 7;
    /// CPU state before a reset.
    pub const CPU_RESET: u32 = 1 << 8;
    /// Accesses to I/O ports.
    pub const IOPORT: u32 = 1 << 9;
}

/// [`CoreState::running`] when no compiled block is.
pub const NO_BLOCK: u32 = u32::MAX;
/// Entries in [`CoreState::phys_cache`]. A power of two.
pub const PHYS_CACHE: usize = 64;

/// A range of linear addresses that holds every large page seen, `start..=last`; empty when `start > last`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct LargeExtent {
    /// First address.
    pub start: u64,
    /// Last address.
    pub last: u64,
}

/// A physical page in host memory.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct PhysEntry {
    /// Page address; all ones when empty.
    pub gpa: u64,
    /// Host address of its first byte.
    pub host: *mut u8,
    /// 1 when stores may go there.
    pub writable: u64,
}

/// x86 EFLAGS positions of the six flags.
pub const EFLAGS_CC: u32 = 0x8d5;

impl CoreState {
    /// The condition flags in EFLAGS positions.
    pub fn cc_eflags(&self) -> u32 {
        ((self.cc >> 8) & 0xd5) | ((self.cc & 1) << 11)
    }

    /// Sets the condition flags from EFLAGS positions.
    pub fn set_cc_eflags(&mut self, eflags: u32) {
        self.cc = ((eflags & 0xd5) << 8) | ((eflags >> 11) & 1);
    }
}
