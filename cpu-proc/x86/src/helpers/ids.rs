//! Numbers of the helpers that lowered code calls, by the module that implements them.
//!
//! `a`, `b`, `c` are the operand values of `Opcode::Call`, `imm` its immediate (`Op::imm >> 16`), `d` the result.
//! `w` is a log2 size. "exits" means that the helper writes `pc` and the block ends with `Opcode::Exit`.

/// Segmentation, control transfer, privilege, I/O: `helpers/` except strings and FP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Sys {
    /// Raise exception `imm & 0xff`, error code `a` if `imm & 0x100`. The pc stays at the instruction.
    Raise,
    /// Load segment register `imm` (`| segload::WITH_POINTER`) with selector `a` (not CS). The block ends after it (`Goto` with `k` 0).
    LoadSeg,
    /// Slow segment check: linear address of offset `a` in segment `imm & 7`, size `1 << (imm >> 4 & 15)`, write if
    /// `imm & 8`. Raises #GP/#SS. Adds the base, wraps. For non-flat segments.
    SegLinear,
    /// Far jump to selector `a`, offset `b`; `c` = next pc, where a task that is left goes on; `imm` = operand `w`. Exits.
    FarJmp,
    /// Far call likewise. Exits.
    FarCall,
    /// Far return; `imm` = operand `w` | bytes to release << 8. Exits.
    FarRet,
    /// `IRET`; `a` = next pc, where a task that is left goes on; `imm` = operand `w`. Exits.
    Iret,
    /// `INT imm`; `a` = next pc. Kind of software interrupt in `imm` bits 8..: 0 `INT n`, 1 `INT3`, 2 `INTO`, 3 `ICEBP`. Exits.
    Int,
    /// `SYSENTER`; exits.
    Sysenter,
    /// `SYSEXIT`; `imm` = operand `w`; exits.
    Sysexit,
    /// `SYSCALL`; `a` = next pc; exits.
    Syscall,
    /// `SYSRET`; `imm` = operand `w`; exits.
    Sysret,
    /// `HLT`; `a` = next pc; exits with HALT.
    Hlt,
    /// `CLI`.
    Cli,
    /// `STI`; `a` = next pc. Interrupts are held off until `ClearInhibit`, which precedes the next instruction, in this block or
    /// the next.
    Sti,
    /// `d` = EFLAGS as `PUSHF` of width `imm` stores it (V86 and IOPL rules apply).
    Pushf,
    /// `POPF` of value `a`, width `imm`. Block ends after it.
    Popf,
    /// `CLD` (imm 0) / `STD` (imm 1).
    SetDf,
    /// `d` = control register `imm` (0, 2, 3, 4, 8).
    ReadCr,
    /// Control register `imm` = `a`. Block ends after it.
    WriteCr,
    /// `d` = debug register `imm`.
    ReadDr,
    /// Debug register `imm` = `a`. Block ends after it.
    WriteDr,
    /// `CLTS`. Block ends.
    Clts,
    /// `LMSW a`. Block ends.
    Lmsw,
    /// `SMSW`: `d` = low CR0.
    Smsw,
    /// `LGDT` (imm 0) / `LIDT` (imm 1): `a` = base (already masked to operand size), `b` = limit.
    LoadTable,
    /// `SGDT`/`SIDT` parts: imm 0 GDT base, 1 GDT limit, 2 IDT base, 3 IDT limit.
    StoreTable,
    /// `LLDT a`. Block ends.
    Lldt,
    /// `LTR a`. Block ends.
    Ltr,
    /// `SLDT` (imm 0) / `STR` (imm 1): `d` = selector.
    StoreSel,
    /// `LAR` (imm bit 0 = 0) / `LSL` (1) of selector `a`: `d` = value, old destination is `b`; operand `w` in imm >> 4. Sets ZF.
    LarLsl,
    /// `VERR` (imm 0) / `VERW` (1) of selector `a`. Sets ZF.
    Verify,
    /// `ARPL`: `d` = adjusted `a` by `b`. Sets ZF.
    Arpl,
    /// `ARPL` of the word `b` read at linear `a` in segment `imm`, by `c`: written back only when it changes. Sets ZF.
    ArplMemory,
    /// `INVLPG` of linear address `a`. Block ends.
    Invlpg,
    /// `INVD`/`WBINVD`: privilege check only.
    Wbinvd,
    /// `RDMSR`: ECX in, EDX:EAX out.
    Rdmsr,
    /// `WRMSR`. Block ends.
    Wrmsr,
    /// `RDTSC` (imm 0) / `RDTSCP` (1): EDX:EAX (and ECX).
    Rdtsc,
    /// `RDPMC`.
    Rdpmc,
    /// `CPUID`: EAX, ECX in; EAX EBX ECX EDX out.
    Cpuid,
    /// `d` = `IN` of width `imm` from port `a`, with permission check.
    In,
    /// `OUT` of width `imm` to port `a`, value `b`. Block ends after it (an interrupt may be due).
    Out,
    /// Unsigned divide by `a` of width `imm` (W8: AX; else DX:AX registers); writes RAX/RDX; #DE.
    Div,
    /// Signed divide likewise.
    Idiv,
    /// `DAA` 0, `DAS` 1, `AAA` 2, `AAS` 3 (imm): AX and flags.
    Decimal,
    /// `AAM imm`: AX and flags, #DE for 0.
    Aam,
    /// `AAD imm`: AX and flags.
    Aad,
    /// `CMPXCHG8B` (imm 0) / `CMPXCHG16B` (imm 1) at linear `a`. RDX:RAX, ZF.
    CmpxchgPair,
    /// Locked read-modify-write at linear `a` with operand `b`: `imm` = operand `w` | [`super::misc::Locked`] << 4; for a compare, `c` is
    /// expected. `d` = the old value.
    Locked,
    /// `BOUND`: index `a`, linear address of the bounds `b`, width `imm`.
    Bound,
    /// `ENTER`: `imm` = operand `w` | level << 8 | frame size << 16. RSP, RBP.
    Enter,
    /// `SWAPGS`.
    Swapgs,
    /// `RSM`. Exits.
    Rsm,
    /// `MONITOR`: `a` = linear address.
    Monitor,
    /// `MWAIT`: `a` = next pc. May exit with HALT.
    Mwait,
    /// Single-step trap at the end of a block with TF: `a` = next pc. Exits with the debug exception recorded.
    StepTrap,
    /// Instruction breakpoint check at pc `a`: raises #DB when one matches and RF is clear.
    Breakpoint,
    /// Alignment check at CPL 3: #AC(0) when linear address `a` is no multiple of `1 << imm` bytes.
    AlignCheck,
    /// The instruction after one that held interrupts off has begun.
    ClearInhibit,
    /// #GP(0) when branch target `a` lies beyond the code segment's limit.
    BranchLimit,
    /// #GP(0) when the low `1 << (imm & 3)` bytes of `a` are nonzero (`imm & 4`) or zero: a branch taken to beyond the limit.
    BranchLimitIf,
    /// `PAUSE`: the guest waits for another CPU.
    Pause,
}

/// String instructions: `helpers/string.rs`. `imm`: bits 0..2 element `w`, bits 2..4 address `w`, bits 4..6 repeat (0 none,
/// 1 REP/REPE, 2 REPNE), bits 8..11 source segment, bit 12 set when segments are flat. `a` = pc of the instruction,
/// `b` = next pc. They update RCX, RSI, RDI (and RAX, flags), stay restartable, and on a pending attention leave with
/// `exit::AGAIN` and `pc` at the instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
#[expect(missing_docs, reason = "the instructions' own names")]
pub enum Str {
    Movs = 128,
    Stos,
    Lods,
    Cmps,
    Scas,
    Ins,
    Outs,
}

/// First helper number of floating point and SIMD: `helpers/fp.rs` numbers its own from here.
pub const FP_BASE: u16 = 160;
/// One past the last helper number.
pub const HELPERS: usize = 512;
