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
    /// Whether the fetch of an instruction raised it (0 or 1): then what ran before has completed.
    pub fetch: u32,
    /// Address for CR2 on delivery of a page fault. CR2 changes only then, because a fetch ahead may fault and be dropped.
    pub addr: u64,
}

/// [`Pending::vector`] when nothing waits.
pub const NO_EXCEPTION: u32 = 0xffff;

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
    pub mcg_ctl: u64,
    pub mc: [[u64; 4]; 10],
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
    /// MXCSR as the guest wrote it (mask bits included); sticky flags live in `core.mxcsr` and are merged on read.
    pub mxcsr_guest: u32,
    /// Bits that key the decoder (see [`Cpu::update_key`]).
    pub key: u32,
    /// Exception waiting to be delivered.
    pub pending: Pending,
    /// Exception being delivered (for double-fault rules), or `NO_EXCEPTION`.
    pub delivering: u32,
    /// Bit 0: interrupts are held off for one instruction (after `STI`, `MOV SS`); bit 1: NMI blocked until `IRET`; bit 2: it was so when SMM
    /// was entered; bit 3: with bit 0, single-step traps are held off too (after `MOV SS`).
    pub inhibit: u32,
    /// Data and I/O breakpoints that the running instruction hit, as in DR6: the trap comes before the next one.
    pub watched: u32,
    /// Not running: 0, or [`halted`].
    pub halted: u32,
    /// The line that `MONITOR` has armed.
    pub monitor: crate::helpers::monitor::Monitor,
    /// Waits for its start-up message and for nothing else.
    pub awaits_start: u32,
    /// In system-management mode.
    pub smm: u32,
    /// SMM base.
    pub smbase: u32,
    /// Requests seen but not yet acted on: bit 0 NMI, bit 1 SMI, bit 2 an interrupt waits for IF or the end of inhibition, bit 3
    /// INIT, for the end of the management mode.
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

/// Values of [`Cpu::halted`].
pub mod halted {
    /// In HLT.
    pub const HLT: u32 = 1;
    /// In MWAIT.
    pub const MWAIT: u32 = 2;
    /// With `MWAIT`: interrupts end it that may not be taken.
    pub const MASKED: u32 = 4;
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
    /// Breakpoints of any kind are armed (DR7): `Sys::Breakpoint` before every instruction.
    pub const BREAKPOINTS: u32 = 1 << 18;
    /// Interrupts held off for one instruction: the block is one instruction.
    pub const INHIBIT: u32 = 1 << 19;
    /// CR0.AM and EFLAGS.AC and CPL 3: alignment checks.
    pub const ALIGN: u32 = 1 << 20;
    /// CR0.NE.
    pub const NE: u32 = 1 << 21;
    /// Outside 64-bit code: FS is writable data of 4 GiB, so that only its base matters.
    pub const WIDE_FS: u32 = 1 << 22;
    /// GS likewise.
    pub const WIDE_GS: u32 = 1 << 23;
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

/// CR0 bits.
#[expect(missing_docs, reason = "the manual's own names")]
pub mod cr0 {
    pub const PE: u64 = 1 << 0;
    pub const MP: u64 = 1 << 1;
    pub const EM: u64 = 1 << 2;
    pub const TS: u64 = 1 << 3;
    pub const ET: u64 = 1 << 4;
    pub const NE: u64 = 1 << 5;
    pub const WP: u64 = 1 << 16;
    pub const AM: u64 = 1 << 18;
    pub const NW: u64 = 1 << 29;
    pub const CD: u64 = 1 << 30;
    pub const PG: u64 = 1 << 31;
}

/// CR4 bits.
#[expect(missing_docs, reason = "the manual's own names")]
pub mod cr4 {
    pub const VME: u64 = 1 << 0;
    pub const PVI: u64 = 1 << 1;
    pub const TSD: u64 = 1 << 2;
    pub const DE: u64 = 1 << 3;
    pub const PSE: u64 = 1 << 4;
    pub const PAE: u64 = 1 << 5;
    pub const MCE: u64 = 1 << 6;
    pub const PGE: u64 = 1 << 7;
    pub const PCE: u64 = 1 << 8;
    pub const OSFXSR: u64 = 1 << 9;
    pub const OSXMMEXCPT: u64 = 1 << 10;
}

/// DR7 bits.
#[expect(missing_docs, reason = "the manual's own names")]
pub mod dr7 {
    pub const GENERAL_DETECT: u64 = 1 << 13;
}

/// EFER bits.
#[expect(missing_docs, reason = "the manual's own names")]
pub mod efer {
    pub const SCE: u64 = 1 << 0;
    pub const LME: u64 = 1 << 8;
    pub const LMA: u64 = 1 << 10;
    pub const NXE: u64 = 1 << 11;
    pub const FFXSR: u64 = 1 << 14;
}

/// Bits of [`Segment::attr`].
#[expect(missing_docs, reason = "the manual's own names")]
pub mod attr {
    pub const ACCESSED: u16 = 1 << 0;
    pub const WRITABLE: u16 = 1 << 1;
    pub const READABLE: u16 = 1 << 1;
    pub const EXPAND_DOWN: u16 = 1 << 2;
    pub const CONFORMING: u16 = 1 << 2;
    pub const CODE: u16 = 1 << 3;
    pub const S: u16 = 1 << 4;
    pub const DPL_SHIFT: u32 = 5;
    pub const PRESENT: u16 = 1 << 7;
    pub const LONG: u16 = 1 << 13;
    pub const BIG: u16 = 1 << 14;
    pub const GRANULAR: u16 = 1 << 15;
}

/// Bits of [`Cpu::inhibit`].
#[expect(missing_docs, reason = "explained at the field")]
pub mod inhibit {
    pub const SHADOW: u32 = 1 << 0;
    pub const NMI: u32 = 1 << 1;
    pub const NMI_IN_SMM: u32 = 1 << 2;
    pub const TRAP: u32 = 1 << 3;
}

/// Bits of [`Cpu::latched`].
#[expect(missing_docs, reason = "explained at the field")]
pub mod latched {
    pub const NMI: u32 = 1 << 0;
    pub const SMI: u32 = 1 << 1;
    pub const INTR: u32 = 1 << 2;
    pub const INIT: u32 = 1 << 3;
}

/// Register numbers in `CoreState::slots`.
#[expect(missing_docs, reason = "the registers' own names")]
pub mod reg {
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RSP: usize = 4;
    pub const RBP: usize = 5;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
    pub const R11: usize = 11;
}

/// EFLAGS bits that software can change, outside the arithmetic flags.
const EFLAGS_CONTROL: u32 = 0x3f_7700;
/// All bits that software can change.
pub const EFLAGS_CONTROL_ALL: u32 = EFLAGS_CONTROL | bulkhead_engine::state::EFLAGS_CC;

impl Segment {
    /// Whether it can be used: present in protected mode, not loaded with a null selector.
    pub fn usable(&self) -> bool {
        self.attr & attr::PRESENT != 0
    }

    /// Descriptor privilege level.
    pub fn dpl(&self) -> u32 {
        u32::from(self.attr >> attr::DPL_SHIFT) & 3
    }

    /// Real-mode and virtual-8086 contents for `selector`.
    pub fn v86(selector: u16) -> Segment {
        Segment { base: u64::from(selector) << 4, limit: 0xffff, attr: 0xf3, selector }
    }
}

impl Cpu {
    /// EFLAGS, arithmetic flags included.
    pub fn flags(&self) -> u32 {
        self.eflags | self.core.cc_eflags() | 2
    }

    /// Sets all of EFLAGS. The caller has applied the privilege rules; call [`Cpu::update_key`] after.
    pub fn set_flags(&mut self, value: u32) {
        self.core.set_cc_eflags(value);
        let opened = !self.eflags & value & eflags::IF != 0;
        self.eflags = value & EFLAGS_CONTROL | 2;
        if opened {
            self.recheck_interrupts();
        }
    }

    /// Makes the vCPU look at its interrupts at the next poll if one was seen while it could not be taken.
    pub fn recheck_interrupts(&mut self) {
        if self.latched != 0 {
            self.set_attention();
        }
    }

    /// Makes the vCPU call `attend` at its next poll.
    pub fn set_attention(&mut self) {
        self.core.insist();
    }

    /// Protected mode and not virtual-8086: selectors name descriptors.
    pub fn protected(&self) -> bool {
        self.cr0 & cr0::PE != 0 && self.eflags & eflags::VM == 0
    }

    /// Virtual-8086 mode.
    pub fn v86(&self) -> bool {
        self.eflags & eflags::VM != 0
    }

    /// Long mode is active (64-bit or compatibility).
    pub fn long_mode(&self) -> bool {
        self.msrs.efer & efer::LMA != 0
    }

    /// 64-bit code.
    pub fn code64(&self) -> bool {
        self.long_mode() && self.segs[seg::CS].attr & attr::LONG != 0
    }

    /// Whether accesses are user accesses.
    pub fn user(&self) -> bool {
        self.cpl == 3
    }

    /// I/O privilege level.
    pub fn iopl(&self) -> u32 {
        (self.eflags & eflags::IOPL) >> 12
    }

    /// Wraps a linear address to the width of the mode.
    pub fn wrap(&self, linear: u64) -> u64 {
        if self.code64() { linear } else { linear & 0xffff_ffff }
    }

    /// The machine.
    pub fn machine(&mut self) -> &mut dyn bulkhead_engine::Machine {
        // SAFETY: `Cpu::new`'s caller promised that the machine outlives the CPU and is used by this thread only.
        unsafe { &mut *self.core.machine }
    }

    /// Sets the privilege level and with it the MMU mode.
    pub fn set_cpl(&mut self, cpl: u32) {
        self.cpl = cpl & 3;
        self.core.mmu_mode =
            (if self.cpl == 3 { bulkhead_engine::MMU_USER } else { bulkhead_engine::MMU_KERNEL }) as u32;
    }

    /// Recomputes [`Cpu::key`] from the state that decoding depends on, and the MMU mode.
    pub fn update_key(&mut self) {
        let cs = &self.segs[seg::CS];
        let mut k = 0;
        let long = self.msrs.efer & efer::LMA != 0;
        let code64 = long && cs.attr & attr::LONG != 0;
        let bit = |on: bool, value: u32| if on { value } else { 0 };
        k |= bit(code64, key::CODE64);
        k |= bit(!code64 && cs.attr & attr::BIG != 0, key::CODE32);
        k |= bit(!code64 && self.segs[seg::SS].attr & attr::BIG != 0, key::STACK32);
        k |= bit(self.cr0 & cr0::PE != 0, key::PROTECTED);
        k |= bit(self.eflags & eflags::VM != 0, key::V86);
        k |= bit(long, key::LONG);
        k |= bit(self.cpl == 3, key::USER);
        let flat = |s: &Segment, need: u16, kind: u16, is: u16| {
            s.base == 0
                && s.limit == u32::MAX
                && s.attr & (attr::PRESENT | need) == attr::PRESENT | need
                && s.attr & kind == is
        };
        let data = attr::CODE | attr::EXPAND_DOWN;
        k |= bit(
            code64
                || (flat(&self.segs[seg::ES], attr::WRITABLE, data, 0)
                    && flat(&self.segs[seg::SS], attr::WRITABLE, data, 0)
                    && flat(&self.segs[seg::DS], attr::WRITABLE, data, 0)
                    && flat(cs, attr::READABLE, 0, 0)),
            key::FLAT,
        );
        let wide = |s: &Segment| !code64 && flat(&Segment { base: 0, ..*s }, attr::WRITABLE, data, 0);
        k |= bit(wide(&self.segs[seg::FS]), key::WIDE_FS);
        k |= bit(wide(&self.segs[seg::GS]), key::WIDE_GS);
        k |= (self.cpl & 3) << key::CPL_SHIFT;
        k |= bit(self.eflags & eflags::TF != 0, key::TRAP);
        k |= bit(self.cr0 & cr0::EM != 0, key::EM);
        k |= bit(self.cr0 & cr0::TS != 0, key::TS);
        k |= bit(self.cr4 & cr4::OSFXSR != 0, key::OSFXSR);
        k |= bit(!self.mxcsr_guest & 0x1f80 != 0, key::SSE_UNMASKED);
        k |= self.iopl() << key::IOPL_SHIFT;
        k |= bit(self.cr0 & cr0::MP != 0, key::MP);
        k |= bit(self.dr[7] & 0xff != 0 || self.watched != 0, key::BREAKPOINTS);
        k |= bit(self.inhibit & inhibit::SHADOW != 0, key::INHIBIT);
        k |= bit(self.cr0 & cr0::AM != 0 && self.eflags & eflags::AC != 0 && self.cpl == 3, key::ALIGN);
        k |= bit(self.cr0 & cr0::NE != 0, key::NE);
        self.key = k;
        self.core.mmu_mode =
            (if self.cpl == 3 { bulkhead_engine::MMU_USER } else { bulkhead_engine::MMU_KERNEL }) as u32;
    }

    /// What a block depends on beside its bytes: [`Cpu::key`] and, outside 64-bit code, the limit of CS in bits 32 to 52. It bounds what
    /// is fetched and where branches go. Most guests have one or two limits, so blocks are shared as ever.
    pub fn block_key(&self) -> u64 {
        // Limits count bytes up to 1 MiB and pages beyond.
        let limit = match self.segs[seg::CS].limit {
            _ if self.key & key::CODE64 != 0 => 0,
            bytes @ ..=0xf_ffff => bytes,
            pages => 1 << 20 | pages >> 12,
        };
        u64::from(self.key) | u64::from(limit) << 32
    }

    /// Mask of the debug registers that are armed for kind `rw` (DR7's R/W field).
    fn armed(&self, rw: u64) -> u32 {
        let dr7 = self.dr[7];
        (0..4).filter(|i| dr7 >> (i * 2) & 3 != 0 && dr7 >> (16 + i * 4) & 3 == rw).fold(0, |m, i| m | 1 << i)
    }

    /// Mask of the debug registers that are armed as instruction breakpoints.
    pub fn instruction_breakpoints(&self) -> u32 {
        self.armed(0)
    }

    /// Whether a page must be looked at on every access, because a data breakpoint lies in it.
    pub fn watches_page(&self, linear: u64) -> bool {
        let armed = self.armed(1) | self.armed(3);
        armed != 0 && (0..4).any(|i| armed >> i & 1 != 0 && self.dr[i] >> 12 == linear >> 12)
    }

    /// Notes the armed breakpoints of the given kinds that the access at `at` of `size` bytes touches.
    pub fn watch(&mut self, kinds: &[u64], at: u64, size: u64) {
        let armed = kinds.iter().fold(0, |m, rw| m | self.armed(*rw));
        for i in 0..4usize {
            // Lengths 1, 2, 8, 4 in encoding order; the address counts from its aligned start.
            let len = [1, 2, 8, 4][(self.dr[7] >> (18 + i * 4) & 3) as usize];
            let start = self.dr[i] & !(len - 1);
            let touches = at < start.wrapping_add(len) && start < at.wrapping_add(size);
            if armed >> i & 1 != 0 && touches {
                self.watched |= 1 << i;
                self.key |= key::BREAKPOINTS;
            }
        }
    }

    /// General register `index`, low 32 bits.
    pub fn gpr32(&self, index: usize) -> u32 {
        self.core.slots[index & 15] as u32
    }

    /// Writes the low `size` bytes of general register `index`: 4 zero-extends, 2 and 1 keep the rest.
    pub fn set_gpr(&mut self, index: usize, size: u8, value: u64) {
        let slot = &mut self.core.slots[index & 15];
        *slot = match size {
            8 => value,
            4 => value & 0xffff_ffff,
            2 => *slot & !0xffff | value & 0xffff,
            _ => *slot & !0xff | value & 0xff,
        };
    }
}
