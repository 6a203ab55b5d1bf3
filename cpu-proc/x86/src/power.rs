//! Making, resetting and dumping a CPU. Source: Intel SDM volume 3A section 9.1 (table 9-1).

use std::fmt::Write as _;
use std::sync::atomic::AtomicU32;

use bulkhead_engine::{CpuBox, FrontCpu, Machine};

use crate::cpuid::{Choice, Features, Model};
use crate::guest::OPS;
use crate::paging;
use crate::state::{
    Cpu, Msrs, NO_EXCEPTION, Pending, Segment, TableReg, attr, cr0, eflags, inhibit, latched, reg, seg,
};

/// What a CPU is made from.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Model.
    pub model: &'static Model,
    /// Advertised features.
    pub features: Features,
    /// Number of this CPU, also its initial APIC id.
    pub apic_id: u32,
    /// Number of CPUs.
    pub cpus: u32,
}

impl From<&Choice> for Config {
    /// A single CPU as chosen by `-cpu`.
    fn from(choice: &Choice) -> Config {
        Config { model: choice.model, features: choice.features, apic_id: 0, cpus: 1 }
    }
}

// SAFETY: `Cpu` is `repr(C)` and begins with `core: CoreState`; its only field without an all-zero value is `model`,
// which `init` writes.
unsafe impl FrontCpu for Cpu {
    type Config = Config;

    unsafe fn init(this: *mut Cpu, config: Config) {
        // SAFETY: the caller passes zeroed memory of this type; the field is written before any reference is made.
        let cpu = unsafe {
            (&raw mut (*this).model).write(config.model);
            &mut *this
        };
        cpu.features = config.features;
        cpu.apic_id = config.apic_id;
        cpu.cpus = config.cpus;
        cpu.smbase = 0x3_0000;
        cpu.reset();
    }
}

impl Cpu {
    /// A CPU in its power-on state.
    ///
    /// # Safety
    /// `machine` and `attention` outlive the CPU, and only the thread that runs the CPU uses `machine` while it runs.
    pub unsafe fn boxed(
        config: Config,
        machine: *mut dyn Machine,
        attention: *const AtomicU32,
    ) -> CpuBox<Cpu> {
        // SAFETY: the caller's promise.
        unsafe { CpuBox::new(&OPS, machine, attention, config) }
    }

    /// Power-on and RESET# state. The model and the time-stamp offset's machine clock stay.
    pub fn reset(&mut self) {
        self.core.slots = [0; 32];
        self.core.slots[reg::RDX] = u64::from(self.model.signature());
        self.core.pc = 0xfff0;
        self.core.exit = 0;
        self.core.set_cc_eflags(0);
        self.core.vec = [[0; 16]; 20];
        self.core.media = [[0; 16]; 8];
        let data = Segment {
            base: 0,
            limit: 0xffff,
            attr: attr::PRESENT | attr::S | attr::WRITABLE | attr::ACCESSED,
            selector: 0,
        };
        self.segs = [data; 6];
        self.segs[seg::CS] = Segment {
            base: 0xffff_0000,
            selector: 0xf000,
            attr: attr::PRESENT | attr::S | attr::CODE | attr::READABLE | attr::ACCESSED,
            ..data
        };
        self.ldtr = Segment { attr: attr::PRESENT | 2, limit: 0xffff, ..Segment::default() };
        self.tr = Segment { attr: attr::PRESENT | 11, limit: 0xffff, ..Segment::default() };
        self.gdtr = TableReg { base: 0, limit: 0xffff, pad: 0 };
        self.idtr = TableReg { base: 0, limit: 0xffff, pad: 0 };
        self.eflags = 2;
        self.cpl = 0;
        self.cr0 = cr0::CD | cr0::NW | cr0::ET;
        self.cr2 = 0;
        self.cr3 = 0;
        self.cr4 = 0;
        self.pdptes = [0; 4];
        self.dr = [0, 0, 0, 0, 0, 0, 0, 0x400];
        let tsc_offset = self.msrs.tsc_offset;
        self.msrs = Msrs { pat: 0x0007_0406_0007_0406, tsc_offset, mcg_ctl: u64::MAX, ..Msrs::default() };
        // Every register is in use and holds +0.0: the tag word is 5555h.
        self.core.x87 = bulkhead_engine::state::X87 { control: 0x40, tags: 0xff, ..Default::default() };
        bulkhead_engine::mxcsr::write(&mut self.core, 0x1f80);
        self.mxcsr_guest = 0x1f80;
        self.pending = Pending { vector: NO_EXCEPTION, ..Pending::default() };
        self.delivering = NO_EXCEPTION;
        self.inhibit = 0;
        self.watched = 0;
        self.halted = 0;
        self.monitor.disarm();
        self.awaits_start = u32::from(self.apic_id != 0);
        self.latched = 0;
        if self.smm != 0 {
            self.smm = 0;
            self.machine().set_smm(false);
        }
        self.smbase = 0x3_0000;
        paging::flush_map(self);
        self.update_key();
    }

    /// What INIT does (SDM table 9-1): as a reset, but the vector and floating-point registers, the model-specific ones, the cache
    /// control bits and the base of the management memory stay.
    pub fn init(&mut self) {
        let (vec, media, x87, mxcsr) = (self.core.vec, self.core.media, self.core.x87, self.core.mxcsr);
        let (msrs, guest_mxcsr, smbase) = (self.msrs, self.mxcsr_guest, self.smbase);
        let caches = self.cr0 & (cr0::CD | cr0::NW);
        self.reset();
        self.core.vec = vec;
        self.core.media = media;
        self.core.x87 = x87;
        bulkhead_engine::mxcsr::write(&mut self.core, mxcsr);
        self.mxcsr_guest = guest_mxcsr;
        self.msrs = Msrs { efer: 0, ..msrs };
        self.cr0 = cr0::ET | caches;
        self.smbase = smbase;
        self.update_key();
    }

    /// What a start-up message does to a CPU that waits for it: it runs in real mode from the start of page `page`.
    pub fn start(&mut self, page: u8) {
        if std::mem::take(&mut self.awaits_start) == 0 {
            return;
        }
        let selector = u16::from(page) << 8;
        self.segs[seg::CS] = Segment { base: u64::from(selector) << 4, selector, ..self.segs[seg::CS] };
        self.core.pc = 0;
        self.update_key();
    }

    /// All registers, as `info registers` shows them.
    pub fn dump(&self) -> String {
        let mut out = String::new();
        let s = &self.core.slots;
        let flags = self.flags();
        let letters: String = [(eflags::DF, 'D'), (eflags::OF, 'O'), (eflags::SF, 'S'), (eflags::ZF, 'Z')]
            .into_iter()
            .chain([(eflags::AF, 'A'), (eflags::PF, 'P'), (eflags::CF, 'C')])
            .map(|(bit, letter)| if flags & bit != 0 { letter } else { '-' })
            .collect();
        let wide = self.long_mode();
        let state = format!(
            "[{letters}] CPL={} II={} A20={} SMM={} HLT={}",
            self.cpl,
            self.inhibit & inhibit::SHADOW,
            u32::from(self.core.machine().a20_mask() >> 20 & 1 != 0),
            self.smm,
            u32::from(self.halted != 0),
        );
        // Writing to a string cannot fail.
        let _ = if wide {
            let names = ["RAX", "RBX", "RCX", "RDX", "RSI", "RDI", "RBP", "RSP"];
            let order = [0, 3, 1, 2, 6, 7, 5, 4];
            for (i, (name, index)) in names.iter().zip(order).enumerate() {
                let end = if i % 4 == 3 { '\n' } else { ' ' };
                let _ = write!(out, "{name}={:016x}{end}", s[index]);
            }
            for (i, value) in s.iter().enumerate().take(16).skip(8) {
                let end = if i % 4 == 3 { '\n' } else { ' ' };
                let _ = write!(out, "{:<3}={value:016x}{end}", format!("R{i}"));
            }
            writeln!(out, "RIP={:016x} RFL={flags:08x} {state}", self.core.pc)
        } else {
            let names = ["EAX", "EBX", "ECX", "EDX", "ESI", "EDI", "EBP", "ESP"];
            let order = [0, 3, 1, 2, 6, 7, 5, 4];
            for (i, (name, index)) in names.iter().zip(order).enumerate() {
                let end = if i % 4 == 3 { '\n' } else { ' ' };
                let _ = write!(out, "{name}={:08x}{end}", s[index] as u32);
            }
            writeln!(out, "EIP={:08x} EFL={flags:08x} {state}", self.core.pc as u32)
        };
        let digits = if wide { 16 } else { 8 };
        let line = |out: &mut String, name: &str, s: &Segment| {
            let flags = u32::from(s.attr) << 8 | s.limit_bits();
            let _ =
                writeln!(out, "{name} ={:04x} {:0digits$x} {:08x} {flags:08x}", s.selector, s.base, s.limit);
        };
        for (name, s) in ["ES", "CS", "SS", "DS", "FS", "GS"].into_iter().zip(&self.segs) {
            line(&mut out, name, s);
        }
        line(&mut out, "LDT", &self.ldtr);
        line(&mut out, "TR", &self.tr);
        for (name, t) in [("GDT", &self.gdtr), ("IDT", &self.idtr)] {
            let _ = writeln!(out, "{name}=     {:0digits$x} {:08x}", t.base, t.limit);
        }
        let _ = writeln!(
            out,
            "CR0={:08x} CR2={:0digits$x} CR3={:0digits$x} CR4={:08x}",
            self.cr0, self.cr2, self.cr3, self.cr4
        );
        let _ = writeln!(
            out,
            "DR0={:0digits$x} DR1={:0digits$x} DR2={:0digits$x} DR3={:0digits$x}",
            self.dr[0], self.dr[1], self.dr[2], self.dr[3]
        );
        let _ = writeln!(out, "DR6={:0digits$x} DR7={:0digits$x}", self.dr[6] | 0xffff_0ff0, self.dr[7]);
        let _ = writeln!(out, "EFER={:016x}", self.msrs.efer);
        let x = &self.core.x87;
        let status = x.status | (x.top as u16 & 7) << 11;
        let _ = writeln!(
            out,
            "FCW={:04x} FSW={status:04x} [ST={}] FTW={:02x} MXCSR={:08x}",
            x.control,
            x.top & 7,
            x.tags,
            self.mxcsr_guest & !0x3f | self.core.mxcsr & 0x3f
        );
        for i in 0..8usize {
            let physical = (x.top as usize + i) & 7;
            let r = self.core.media[physical];
            let mantissa = (0..8).rev().fold(0u64, |v, k| v << 8 | u64::from(r[k]));
            let exponent = u16::from(r[8]) | u16::from(r[9]) << 8;
            let end = if i % 2 == 1 { '\n' } else { ' ' };
            let _ = write!(out, "FPR{i}={mantissa:016x} {exponent:04x}{end}");
        }
        let count = if wide { 16 } else { 8 };
        for (i, v) in self.core.vec.iter().take(count).enumerate() {
            let value = u128::from_le_bytes(*v);
            let end = if i % 2 == 1 { '\n' } else { ' ' };
            let _ = write!(out, "XMM{i:02}={value:032x}{end}");
        }
        out
    }

    /// Whether an interrupt or other event is latched and waits for the guest to allow it.
    pub fn event_waits(&self) -> bool {
        self.latched & (latched::NMI | latched::SMI | latched::INTR) != 0
    }
}

impl Segment {
    /// Limit bits 16..20 where a descriptor holds them.
    fn limit_bits(&self) -> u32 {
        let units = if self.attr & attr::GRANULAR != 0 { self.limit >> 12 } else { self.limit };
        units & 0xf_0000
    }
}
