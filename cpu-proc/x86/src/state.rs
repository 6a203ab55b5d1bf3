//! The architectural state of an x86 processor beyond what the engine keeps in [`CoreState`].
//!
//! Source: Intel SDM volume 3A; AMD64 APM volume 2.

use bulkhead_engine::CoreState;

/// Segment register numbers in encoding order.
pub mod seg {
    /// Extra.
    pub const ES: usize = 0;
    /// Code.
    pub const CS: usize = 1;
    /// Stack.
    pub const SS: usize = 2;
    /// Data.
    pub const DS: usize = 3;
    /// FS.
    pub const FS: usize = 4;
    /// GS.
    pub const GS: usize = 5;
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Segment {
    /// Linear base.
    pub base: u64,
    /// Limit in bytes, granularity applied, inclusive.
    pub limit: u32,
    /// Descriptor bits 40..56 (type, S, DPL, P, limit 16..20 as zero, AVL, L, D/B, G) shifted down by 40: bits 0..4 type,
    /// 4 S, 5..7 DPL, 7 P, 12 AVL, 13 L, 14 D/B, 15 G.
    pub attr: u16,
    /// Visible selector.
    pub selector: u16,
}

/// A descriptor-table register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TableReg {
    /// Linear base.
    pub base: u64,
    /// Limit in bytes, inclusive.
    pub limit: u32,
    /// Padding.
    pub pad: u32,
}

/// A recorded exception or software interrupt, waiting for `deliver`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Pending {
    /// Vector number; `NO_EXCEPTION` when none.
    pub vector: u32,
    /// Error code, pushed when `has_error` is set.
    pub error: u32,
    /// Whether there is an error code (0 or 1).
    pub has_error: u32,
    /// Bits to set in DR6 on delivery of a debug exception.
    pub dr6: u32,
    /// Address for CR2 on delivery of a page fault. CR2 changes only then, because a fetch ahead may fault and be dropped.
    pub addr: u64,
}

/// [`Pending::vector`] when nothing waits.
pub const NO_EXCEPTION: u32 = 0xffff;

/// x87 state apart from the register file (`CoreState::media`, physical registers R0..R7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
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
    /// Padding.
    pub pad2: u32,
    /// Last instruction pointer and its selector (bits 48..64 in legacy modes).
    pub ip: u64,
    /// Last data pointer, likewise.
    pub dp: u64,
}

/// Model-specific registers with storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "the manual's own names")]
pub struct Msrs {
    pub efer: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub pat: u64,
    pub tsc_offset: u64,
    pub tsc_aux: u64,
    pub misc_enable: u64,
    pub mcg_status: u64,
    pub mtrr_deftype: u64,
    pub mtrr_var: [u64; 16],
    pub mtrr_fix: [u64; 11],
}

/// One x86 CPU. The general registers are `core.slots[0..16]`, the pc is `core.pc` (RIP, EIP or IP), the arithmetic
/// flags are `core.cc`, the vector registers `core.vec[0..16]`.
#[repr(C)]
pub struct Cpu {
    /// Engine part, first.
    pub core: CoreState,
    /// By [`seg`] number.
    pub segs: [Segment; 6],
    /// Local descriptor table.
    pub ldtr: Segment,
    /// Task register.
    pub tr: Segment,
    /// Global descriptor table.
    pub gdtr: TableReg,
    /// Interrupt descriptor table.
    pub idtr: TableReg,
    /// EFLAGS without the six arithmetic flags and with bit 1 set: TF IF DF IOPL NT RF VM AC VIF VIP ID.
    pub eflags: u32,
    /// Current privilege level.
    pub cpl: u32,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// Page-directory-pointer entries as loaded with CR3 (PAE outside long mode).
    pub pdptes: [u64; 4],
    /// Debug registers.
    pub dr: [u64; 8],
    /// Model-specific registers.
    pub msrs: Msrs,
    /// x87.
    pub x87: X87,
    /// MXCSR as the guest wrote it (mask bits included); sticky flags live in `core.mxcsr` and are merged on read.
    pub mxcsr_guest: u32,
    /// Bits that key the decoder (see [`Cpu::update_key`]).
    pub key: u32,
    /// Exception waiting to be delivered.
    pub pending: Pending,
    /// Exception being delivered (for double-fault rules), or `NO_EXCEPTION`.
    pub delivering: u32,
    /// Bit 0: interrupts are held off for one instruction (after `STI`, `MOV SS`); bit 1: NMI blocked until `IRET`.
    pub inhibit: u32,
    /// In HLT.
    pub halted: u32,
    /// In system-management mode.
    pub smm: u32,
    /// SMM base.
    pub smbase: u32,
    /// Requests seen but not yet acted on: bit 0 NMI, bit 1 SMI, bit 2 an interrupt waits for IF or the end of inhibition.
    pub latched: u32,
    /// CPU model's identification.
    pub model: &'static crate::cpuid::Model,
    /// Parsed `+feature,-feature` applied to the model: CPUID leaf 1 EDX, ECX, leaf 8000_0001 EDX, ECX.
    pub features: [u32; 4],
    /// Number of this CPU and how many there are.
    pub apic_id: u32,
    /// Number of CPUs.
    pub cpus: u32,
}

/// Bits of [`Cpu::key`], the mode that decoding depends on.
pub mod key {
    /// CS.L: 64-bit code.
    pub const CODE64: u32 = 1 << 0;
    /// CS.D: 32-bit code (when not `CODE64`).
    pub const CODE32: u32 = 1 << 1;
    /// SS.B: 32-bit stack pointer (when not `CODE64`).
    pub const STACK32: u32 = 1 << 2;
    /// CR0.PE.
    pub const PROTECTED: u32 = 1 << 3;
    /// EFLAGS.VM.
    pub const V86: u32 = 1 << 4;
    /// EFER.LMA.
    pub const LONG: u32 = 1 << 5;
    /// CPL is 3 (user accesses).
    pub const USER: u32 = 1 << 6;
    /// ES, SS, DS are usable with base 0 and limit 4 GiB (and CS likewise): no base to add, no limit to check.
    pub const FLAT: u32 = 1 << 7;
    /// CPL in bits 8..10.
    pub const CPL_SHIFT: u32 = 8;
    /// EFLAGS.TF: one instruction a block, then the debug trap.
    pub const TRAP: u32 = 1 << 10;
    /// CR0.EM, x87 unavailable and SSE undefined.
    pub const EM: u32 = 1 << 11;
    /// CR0.TS: FP and SSE raise device-not-available.
    pub const TS: u32 = 1 << 12;
    /// CR4.OSFXSR: SSE allowed.
    pub const OSFXSR: u32 = 1 << 13;
    /// Some SIMD exception is unmasked: check after each op.
    pub const SSE_UNMASKED: u32 = 1 << 14;
    /// IOPL in bits 15..17.
    pub const IOPL_SHIFT: u32 = 15;
    /// CR0.MP.
    pub const MP: u32 = 1 << 17;
    /// Instruction breakpoints are armed (DR7): check at every instruction.
    pub const BREAKPOINTS: u32 = 1 << 18;
    /// Interrupts held off for one instruction: the block is one instruction.
    pub const INHIBIT: u32 = 1 << 19;
    /// CR0.AM and EFLAGS.AC and CPL 3: alignment checks.
    pub const ALIGN: u32 = 1 << 20;
    /// CR0.NE.
    pub const NE: u32 = 1 << 21;
}

/// EFLAGS bits.
#[expect(missing_docs, reason = "the manual's own names")]
pub mod eflags {
    pub const CF: u32 = 1 << 0;
    pub const PF: u32 = 1 << 2;
    pub const AF: u32 = 1 << 4;
    pub const ZF: u32 = 1 << 6;
    pub const SF: u32 = 1 << 7;
    pub const TF: u32 = 1 << 8;
    pub const IF: u32 = 1 << 9;
    pub const DF: u32 = 1 << 10;
    pub const OF: u32 = 1 << 11;
    pub const IOPL: u32 = 3 << 12;
    pub const NT: u32 = 1 << 14;
    pub const RF: u32 = 1 << 16;
    pub const VM: u32 = 1 << 17;
    pub const AC: u32 = 1 << 18;
    pub const VIF: u32 = 1 << 19;
    pub const VIP: u32 = 1 << 20;
    pub const ID: u32 = 1 << 21;
}
