//! The same case on our processor: CPL 3 behind page tables, segments from descriptor tables, the interpreter or the compiler.

use std::sync::atomic::AtomicU32;

use bulkhead_engine::{CpuBox, Engine, GuestOps, Machine, Next, mem};
use bulkhead_x86::guest::OPS;
use bulkhead_x86::helpers::descriptor::Descriptor;
use bulkhead_x86::helpers::refine::refine;
use bulkhead_x86::state::{NO_EXCEPTION, Segment, TableReg, attr, cr0, cr4, efer, seg};
use bulkhead_x86::{Config, Cpu, cpuid};

use crate::layout::*;
use crate::support::Memory;

/// Behind what the guest sees: descriptor tables, then page tables.
const GDT: u64 = BASE + LEN as u64;
const LDT: u64 = GDT + 0x800;
const TABLES: u64 = GDT + 0x1000;
const ALL: usize = LEN + 0x1000 + 4 * 0x1000;

static USER_OPS: GuestOps = GuestOps {
    translate: OPS.translate,
    block_key: OPS.block_key,
    linear_pc: OPS.linear_pc,
    lower: OPS.lower,
    deliver: |core| {
        // SAFETY: the head of the only `Cpu` there is, lent for the call.
        refine(unsafe { Cpu::from_core(core) });
        Next::Leave
    },
    attend: |_, _| Next::Run,
    misaligned: OPS.misaligned,
    describe: OPS.describe,
    helpers: OPS.helpers,
};

/// One engine with its processor and memory.
pub struct Ours {
    pub name: &'static str,
    cpu: CpuBox<Cpu>,
    compiles: bool,
    memory: Vec<u8>,
    _machine: Box<Memory>,
    _attention: Box<AtomicU32>,
    /// Where the code of the last case lies, and its length.
    placed: (u64, u64),
}

// SAFETY: the processor and what it points to belong to this struct; nothing of it is bound to a thread.
unsafe impl Send for Ours {}

fn descriptor(base: u32, limit: u32, attr: u16) -> u64 {
    let (base, limit, attr) = (u64::from(base), u64::from(limit), u64::from(attr));
    limit & 0xffff | (base & 0xff_ffff) << 16 | attr << 40 | (limit >> 16 & 15) << 48 | (base >> 24) << 56
}

/// Linux's global descriptor table as far as a program can tell.
fn gdt() -> [u64; 16] {
    let mut table = [0; 16];
    table[1] = descriptor(0, 0xf_ffff, 0xc09b);
    table[2] = descriptor(0, 0xf_ffff, 0xa09b);
    table[3] = descriptor(0, 0xf_ffff, 0xc093);
    table[4] = descriptor(0, 0xf_ffff, 0xc0fb);
    table[5] = descriptor(0, 0xf_ffff, 0xc0f3);
    table[6] = descriptor(0, 0xf_ffff, 0xa0fb);
    table[8] = descriptor(0, 0x206f, 0x008b);
    table[10] = descriptor(0, 0xffff, 0x0082);
    table[15] = descriptor(0, 0, 0x40f5);
    table
}

fn ldt() -> [u64; LOCALS.len()] {
    LOCALS.map(|l| {
        // Linux marks every entry accessed.
        let kind = u16::from(!l.restricted) << 1 | (l.contents as u16) << 2 | 1;
        let attr = kind
            | attr::S
            | 3 << attr::DPL_SHIFT
            | if l.present { attr::PRESENT } else { 0 }
            | if l.big { attr::BIG } else { 0 }
            | if l.pages { attr::GRANULAR } else { 0 };
        descriptor(l.base, l.limit, attr)
    })
}

impl Ours {
    pub fn new(name: &'static str, compiles: bool, model: &str) -> Ours {
        let mut memory = vec![0u8; ALL + 0x1000];
        let skip = memory.as_ptr().align_offset(0x1000);
        let host = memory[skip..].as_mut_ptr();
        let mut machine = Box::new(Memory { base: BASE, host, len: ALL as u64, written: Vec::new() });
        let attention = Box::new(AtomicU32::new(0));
        let pointer: *mut dyn Machine = &raw mut *machine;
        let choice = cpuid::parse(model).unwrap_or_else(|_| panic!("no model"));
        // SAFETY: machine and attention word live as long as the CPU, in this struct.
        let cpu =
            unsafe { CpuBox::<Cpu>::new(&USER_OPS, pointer, &raw const *attention, Config::from(&choice)) };
        let mut ours =
            Ours { name, cpu, compiles, memory, _machine: machine, _attention: attention, placed: (CODE, 0) };
        ours.set_up();
        if compiles {
            Engine::compiling(1 << 20).expect("a code buffer").attach(&mut ours.cpu.core);
        }
        ours
    }

    fn bytes(&mut self, at: u64, len: usize) -> &mut [u8] {
        let skip = self.memory.as_ptr().align_offset(0x1000) + (at - BASE) as usize;
        &mut self.memory[skip..skip + len]
    }

    fn put(&mut self, at: u64, value: u64) {
        self.bytes(at, 8).copy_from_slice(&value.to_le_bytes());
    }

    fn set_up(&mut self) {
        for (i, d) in gdt().into_iter().enumerate() {
            self.put(GDT + 8 * i as u64, d);
        }
        for (i, d) in ldt().into_iter().enumerate() {
            self.put(LDT + 8 * i as u64, d);
        }
        // Accessed, dirty.
        const SET: u64 = 0x60;
        let [pml4, pdpt, pd, pt] = [0u64, 1, 2, 3].map(|i| TABLES + 0x1000 * i);
        self.put(pml4, pdpt | 7 | SET);
        self.put(pdpt, pd | 7 | SET);
        self.put(pd + 8 * (BASE >> 21 & 511), pt | 7 | SET);
        let mut page = |at: u64, len: usize, rights: u64| {
            for i in 0..len as u64 / 0x1000 {
                self.put(pt + 8 * ((at >> 12 & 511) + i), (at + 0x1000 * i) | rights | SET);
            }
        };
        page(CODE, CODE_LEN, 7);
        page(DATA, DATA_LEN, 7);
        page(READ_ONLY, 0x1000, 5);
        page(GDT, 0x1000, 3);
        self.bytes(CODE, CODE_LEN).fill(0xf4);
        let cpu = &mut self.cpu;
        cpu.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::PG;
        cpu.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT;
        cpu.cr3 = pml4;
        cpu.msrs.efer = efer::LME | efer::LMA | efer::SCE;
        cpu.gdtr = TableReg { base: GDT, limit: 0x7f, pad: 0 };
        cpu.idtr = TableReg { base: GDT, limit: 0, pad: 0 };
        cpu.tr = Segment { base: GDT, limit: 0x65, attr: attr::PRESENT | 11, selector: 0x40 };
        cpu.ldtr = Segment {
            base: LDT,
            limit: 8 * LOCALS.len() as u32 - 1,
            attr: attr::PRESENT | 2,
            selector: 0x50,
        };
    }

    /// The hidden part of a selector that the case starts with.
    fn segment(selector: u16) -> Segment {
        let index = usize::from(selector >> 3);
        let raw = if selector & !3 == 0 {
            return Segment { selector, ..Segment::default() };
        } else if selector & 4 != 0 {
            ldt().get(index).copied()
        } else {
            gdt().get(index).copied()
        };
        Descriptor { raw: raw.unwrap_or(0), addr: 0, selector }.segment(selector)
    }

    /// Puts the code of `case` where it belongs and takes the last one's away.
    pub fn place(&mut self, case: &Case) {
        let (at, len) = self.placed;
        for at in at..at + len {
            mem::phys_store(&mut self.cpu.core, at, 1, 0xf4);
        }
        for (at, byte) in (case.at..).zip(&case.code[..case.len as usize]) {
            mem::phys_store(&mut self.cpu.core, at, 1, u64::from(*byte));
        }
        self.placed = (case.at, case.len);
    }

    fn load(&mut self, case: &Case) {
        let s = &case.before;
        self.bytes(WINDOW, WINDOW_LEN).copy_from_slice(&s.window);
        let cpu = &mut self.cpu;
        cpu.core.slots[..16].copy_from_slice(&s.regs);
        cpu.core.pc = s.rip;
        cpu.pending.vector = NO_EXCEPTION;
        cpu.inhibit = 0;
        for i in 0..6 {
            cpu.segs[i] = Ours::segment(s.selectors[i]);
        }
        if s.selectors[seg::CS] == CS64 {
            cpu.segs[seg::FS].base = FS_BASE;
            cpu.segs[seg::GS].base = GS_BASE;
        }
        cpu.set_cpl(3);
        cpu.set_flags(s.flags as u32);
        cpu.x87_set_control(s.control);
        cpu.x87_set_status(s.status);
        cpu.core.x87.tags = s.tags as u8;
        for i in 0..8u8 {
            let phys = cpu.x87_phys(i);
            cpu.core.media[phys] = s.st[usize::from(i)];
        }
        cpu.core.vec[..16].copy_from_slice(&s.xmm);
        cpu.set_mxcsr(s.mxcsr);
        cpu.update_key();
    }

    fn unload(&mut self, case: &Case) -> State {
        let mut s = case.before;
        s.window.copy_from_slice(self.bytes(WINDOW, WINDOW_LEN));
        let cpu = &mut self.cpu;
        s.regs.copy_from_slice(&cpu.core.slots[..16]);
        s.rip = cpu.core.pc;
        s.flags = u64::from(cpu.flags());
        for i in 0..6 {
            s.selectors[i] = cpu.segs[i].selector;
        }
        cpu.x87_sync();
        s.control = cpu.core.x87.control;
        s.status = cpu.x87_status();
        s.tags = u16::from(cpu.core.x87.tags);
        s.st = std::array::from_fn(|i| cpu.x87_st(i as u8));
        s.xmm.copy_from_slice(&cpu.core.vec[..16]);
        s.mxcsr = cpu.mxcsr();
        s
    }

    fn end(&mut self) -> End {
        let pending = self.cpu.pending;
        self.cpu.pending.vector = NO_EXCEPTION;
        if pending.vector == NO_EXCEPTION {
            return End { vector: DONE, ..End::default() };
        }
        End { vector: u64::from(pending.vector), error: u64::from(pending.error), address: pending.addr }
    }

    /// Whether what follows the case just run could be more than a fault: data, or the same instruction again.
    pub fn goes_on(&self, case: &Case) -> bool {
        let linear = self.cpu.linear_pc(self.cpu.core.pc);
        let inside = |start: u64, len: usize| linear.wrapping_sub(start) < len as u64;
        inside(DATA, DATA_LEN) || inside(READ_ONLY, 0x1000) || inside(case.at, case.len as usize)
    }

    /// Runs the case, whose code is placed; what follows the instruction faults, which tells that it completed.
    pub fn run(&mut self, case: &Case) -> (State, End) {
        self.load(case);
        let mut end;
        if self.compiles {
            bulkhead_engine::run(&mut self.cpu.core);
            end = self.end();
            // An IRET can go to the same offset of another segment.
            let [rip, cs] = [case.before.rip, case.before.selectors[seg::CS].into()];
            if [self.cpu.core.pc, self.cpu.segs[seg::CS].selector.into()] != [rip, cs] {
                end = End { vector: DONE, ..End::default() };
            }
        } else {
            let mut rounds = 0;
            loop {
                bulkhead_engine::step(&mut self.cpu.core);
                end = self.end();
                rounds += 1;
                let again = case.repeats != 0 && self.cpu.core.pc == case.before.rip && end.vector == DONE;
                if !again || rounds > 1000 {
                    break;
                }
            }
        }
        (self.unload(case), end)
    }
}
