//! Tests of the system side against a machine made of flat memory.

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use bulkhead_engine::{ApicAccess, CpuBox, Engine, Fault, Gpa, Machine, Next, Page, Requests};

use crate::helpers::ids::Sys;
use crate::state::*;
use crate::{Config, Cpu, OPS, cpuid};

mod branches;
mod debug;
mod far;
mod identity;
mod interrupts;
mod limits;
mod monitor;
mod moved;
mod paging;
mod privileged;
mod programs;
mod segments;
mod smm;
mod storm;
mod tasks;
mod watch;

/// Bytes of memory.
const RAM: usize = 4 << 20;

#[repr(C, align(4096))]
struct Frame(UnsafeCell<[u8; 4096]>);

/// Memory of one processor, or of several.
struct Ram(Box<[Frame]>);

// SAFETY: bytes, which tests on several threads access as generated code does.
unsafe impl Sync for Ram {}
// SAFETY: plain data.
unsafe impl Send for Ram {}

impl Default for Ram {
    fn default() -> Ram {
        Ram((0..RAM / 4096).map(|_| Frame(UnsafeCell::new([0; 4096]))).collect())
    }
}

/// Flat memory, logged ports, scripted interrupts.
pub struct Board {
    ram: Arc<Ram>,
    pub outs: Vec<(u16, u8, u32)>,
    pub interrupts: Vec<u8>,
    pub requests: Requests,
    pub shut_down: bool,
    pub smm: Vec<bool>,
    pub a20: u64,
    pub time: u64,
    pub apic_base: u64,
    pub tpr: u64,
    /// What was written to the timer's deadline: the value, and when it is due.
    pub deadline: (u64, u64),
    /// What somebody stores, and where, while the CPU naps.
    pub store: Option<(usize, u8)>,
    /// What FERR# has been told, IGNNE# being asserted.
    pub ferr: Vec<bool>,
}

impl Board {
    fn new(ram: Arc<Ram>) -> Board {
        Board {
            ram,
            outs: Vec::new(),
            interrupts: Vec::new(),
            requests: Requests::default(),
            shut_down: false,
            smm: Vec::new(),
            a20: u64::MAX,
            time: 1000,
            apic_base: 0xfee0_0900,
            tpr: 0,
            deadline: (0, 0),
            store: None,
            ferr: Vec::new(),
        }
    }

    /// Memory as bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        let len = self.ram.0.len() * 4096;
        // SAFETY: frames are contiguous bytes without padding.
        unsafe { std::slice::from_raw_parts_mut(UnsafeCell::raw_get(self.ram.0.as_ptr().cast()), len) }
    }
}

impl Machine for Board {
    fn page(&mut self, gpa: Gpa) -> Page {
        match self.ram.0.get((gpa >> 12) as usize) {
            Some(frame) => Page::Memory { host: frame.0.get().cast(), writable: true },
            None => Page::Device,
        }
    }
    fn read(&mut self, _: Gpa, _: u8) -> u64 {
        u64::MAX
    }
    fn write(&mut self, _: Gpa, _: u8, _: u64) {}
    fn port_read(&mut self, port: u16, _: u8) -> u32 {
        0x1234_0000 | u32::from(port)
    }
    fn port_write(&mut self, port: u16, size: u8, value: u32) {
        self.outs.push((port, size, value));
    }
    fn port_read_block(&mut self, _: u16, _: u8, _: &mut [u8]) {}
    fn port_write_block(&mut self, _: u16, _: u8, _: &[u8]) {}
    fn watch_code(&mut self, _: Gpa) {}
    fn take_dirty_code(&mut self) -> Option<Gpa> {
        None
    }
    fn acknowledge_interrupt(&mut self) -> Option<u8> {
        self.interrupts.pop()
    }
    fn interrupt_pending(&mut self) -> bool {
        !self.interrupts.is_empty()
    }
    fn take_requests(&mut self) -> Requests {
        std::mem::take(&mut self.requests)
    }
    fn tsc(&mut self) -> u64 {
        self.time
    }
    fn apic(&mut self, access: ApicAccess) -> u64 {
        match access {
            ApicAccess::ReadBase => self.apic_base,
            ApicAccess::WriteBase(value) => std::mem::replace(&mut self.apic_base, value),
            ApicAccess::ReadTpr => self.tpr,
            ApicAccess::WriteTpr(value) => std::mem::replace(&mut self.tpr, value),
            ApicAccess::ReadDeadline => self.deadline.0,
            ApicAccess::WriteDeadline { value, due } => std::mem::replace(&mut self.deadline, (value, due)).0,
        }
    }
    fn a20_mask(&self) -> u64 {
        self.a20
    }
    fn wait(&mut self) {
        // A halt ends a program.
        self.requests.leave = true;
    }
    fn nap(&mut self, ns: u64) {
        self.time += ns;
        if let Some((at, value)) = self.store.take() {
            self.bytes()[at] = value;
        }
    }
    fn fpu_error(&mut self, active: bool) -> bool {
        self.ferr.push(active);
        true
    }
    fn set_smm(&mut self, active: bool) {
        self.smm.push(active);
    }
    fn shutdown(&mut self) {
        self.shut_down = true;
    }
}

/// A CPU on a board. Fields drop in order: the CPU before what it points to.
pub struct Rig {
    pub cpu: CpuBox<Cpu>,
    board: *mut Board,
    attention: *mut AtomicU32,
}

impl Drop for Rig {
    fn drop(&mut self) {
        drop(Engine::detach(&mut self.cpu.core));
        // SAFETY: made by `Rig::of` from boxes; the CPU does not touch them while it is dropped.
        unsafe {
            drop(Box::from_raw(self.board));
            drop(Box::from_raw(self.attention));
        }
    }
}

/// An exception as recorded: vector and error code.
pub type Raised = (u8, Option<u32>);

impl Rig {
    /// `max` at reset.
    pub fn new() -> Rig {
        Rig::of("max")
    }

    /// Another `max` at reset, of the same memory.
    pub fn beside(other: &mut Rig) -> Rig {
        Rig::with("max", other.board().ram.clone())
    }

    /// A model at reset.
    pub fn of(spec: &str) -> Rig {
        Rig::with(spec, Arc::default())
    }

    fn with(spec: &str, ram: Arc<Ram>) -> Rig {
        let choice = cpuid::parse(spec).expect("known model");
        let board = Box::into_raw(Box::new(Board::new(ram)));
        let attention = Box::into_raw(Box::new(AtomicU32::new(0)));
        // SAFETY: both live until the rig is dropped, after the CPU's last use.
        let cpu = unsafe { Cpu::boxed(Config::from(&choice), board, attention) };
        Rig { cpu, board, attention }
    }

    pub fn board(&mut self) -> &mut Board {
        // SAFETY: owned by the rig; the CPU uses it only inside calls.
        unsafe { &mut *self.board }
    }

    /// Whether the attention word is set.
    pub fn attention(&self) -> bool {
        self.cpu.core.attention().load(std::sync::atomic::Ordering::SeqCst) != 0
    }

    pub fn put(&mut self, at: u64, size: usize, value: u64) {
        let at = at as usize;
        self.board().bytes()[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
    }

    pub fn get(&mut self, at: u64, size: usize) -> u64 {
        let at = at as usize;
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(&self.board().bytes()[at..at + size]);
        u64::from_le_bytes(bytes)
    }

    /// Loads machine code.
    pub fn code(&mut self, at: u64, bytes: &[u8]) {
        let at = at as usize;
        self.board().bytes()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn recorded(&mut self) -> Raised {
        self.cpu.core.exit = 0;
        let p = std::mem::replace(&mut self.cpu.pending.vector, NO_EXCEPTION);
        assert_ne!(p, NO_EXCEPTION, "a fault without an exception");
        (p as u8, (self.cpu.pending.has_error != 0).then_some(self.cpu.pending.error))
    }

    /// Calls a helper as the engine does.
    pub fn call(&mut self, id: Sys, a: u64, b: u64, c: u64, imm: u64) -> Result<u64, Raised> {
        let helper = OPS.helpers[id as usize];
        // SAFETY: the engine part of a live CPU.
        let d = unsafe { (helper.func)(&raw mut self.cpu.core, a, b, c, imm) };
        if self.cpu.core.exit == bulkhead_engine::exit::FAULT { Err(self.recorded()) } else { Ok(d) }
    }

    /// A page walk.
    pub fn walk(&mut self, linear: u64, access: bulkhead_engine::Access, user: bool) -> Result<u64, Raised> {
        match (OPS.translate)(&mut self.cpu.core, linear, 1, access, user) {
            Ok(t) => Ok(t.gpa),
            Err(Fault) => Err(self.recorded()),
        }
    }

    /// Delivers the recorded exception.
    pub fn deliver(&mut self) -> Next {
        (OPS.deliver)(&mut self.cpu.core)
    }

    pub fn attend(&mut self) -> Next {
        (OPS.attend)(&mut self.cpu.core, false)
    }

    /// Runs `n` instructions.
    pub fn step(&mut self, n: u32) -> Next {
        let mut next = Next::Run;
        for _ in 0..n {
            next = bulkhead_engine::step(&mut self.cpu.core);
            if next != Next::Run {
                break;
            }
        }
        next
    }

    pub fn rsp(&self) -> u64 {
        self.cpu.core.slots[4]
    }

    pub fn set_rsp(&mut self, value: u64) {
        self.cpu.core.slots[4] = value;
    }

    /// Dword `index` of the stack.
    pub fn stack32(&mut self, index: u64) -> u32 {
        let at = self.cpu.segs[seg::SS].base + self.rsp() + 4 * index;
        self.get(at, 4) as u32
    }

    pub fn stack64(&mut self, index: u64) -> u64 {
        let at = self.rsp() + 8 * index;
        self.get(at, 8)
    }
}

/// Where [`Rig::protected`] puts things.
pub mod at {
    pub const GDT: u64 = 0x1000;
    pub const IDT: u64 = 0x2000;
    pub const TSS: u64 = 0x3000;
    pub const TSS2: u64 = 0x3800;
    pub const LDT: u64 = 0x3c00;
    pub const STACK0: u64 = 0x8000;
    pub const STACK3: u64 = 0x9000;
    pub const HANDLER: u64 = 0x6000;
    pub const USER: u64 = 0xa000;
}

/// Selectors of [`Rig::protected`] and [`Rig::long`].
pub mod sel {
    pub const CODE0: u16 = 0x08;
    pub const DATA0: u16 = 0x10;
    pub const CODE3: u16 = 0x18 | 3;
    pub const DATA3: u16 = 0x20 | 3;
    pub const TSS: u16 = 0x28;
    /// Second slot of a 64-bit TSS; a 32-bit one for task switches outside long mode.
    pub const TSS2: u16 = 0x30;
    pub const CODE16: u16 = 0x38;
    pub const CONFORMING: u16 = 0x40;
    pub const GATE: u16 = 0x48;
    pub const LDT: u16 = 0x58;
    pub const READ_ONLY: u16 = 0x68;
    pub const ABSENT: u16 = 0x70;
    pub const EXPAND_DOWN: u16 = 0x78;
    pub const TASK_GATE: u16 = 0x80;
    pub const CODE32: u16 = 0x88;
    pub const EXECUTE_ONLY: u16 = 0x90;
}

/// A segment descriptor from base, limit in units, access byte and upper flags nibble.
pub fn descriptor(base: u64, limit: u64, access: u64, flags: u64) -> u64 {
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 15) << 48
        | flags << 52
        | (base >> 24 & 0xff) << 56
}

/// A gate descriptor.
pub fn gate(selector: u16, offset: u64, access: u64, parameters: u64) -> u64 {
    offset & 0xffff
        | u64::from(selector) << 16
        | parameters << 32
        | access << 40
        | (offset >> 16 & 0xffff) << 48
}

impl Rig {
    pub fn gdt(&mut self, selector: u16, value: u64) {
        self.put(at::GDT + u64::from(selector & !7), 8, value);
    }

    /// 32-bit IDT entry.
    pub fn idt(&mut self, vector: u64, value: u64) {
        self.put(at::IDT + 8 * vector, 8, value);
    }

    /// 64-bit IDT entry.
    pub fn idt64(&mut self, vector: u64, low: u64, offset_high: u64) {
        self.put(at::IDT + 16 * vector, 8, low);
        self.put(at::IDT + 16 * vector + 8, 8, offset_high);
    }

    fn tables(&mut self) {
        self.gdt(sel::CODE0, descriptor(0, 0xfffff, 0x9b, 0xc));
        self.gdt(sel::DATA0, descriptor(0, 0xfffff, 0x93, 0xc));
        self.gdt(sel::CODE3, descriptor(0, 0xfffff, 0xfb, 0xc));
        self.gdt(sel::DATA3, descriptor(0, 0xfffff, 0xf3, 0xc));
        self.gdt(sel::TSS, descriptor(at::TSS, 0x2067, 0x89, 0));
        self.gdt(sel::TSS2, descriptor(at::TSS2, 0x67, 0x89, 0));
        self.gdt(sel::CODE16, descriptor(0, 0xffff, 0x9a, 0));
        self.gdt(sel::CONFORMING, descriptor(0, 0xfffff, 0x9e, 0xc));
        self.gdt(sel::LDT, descriptor(at::LDT, 0x1f, 0x82, 0));
        self.gdt(sel::READ_ONLY, descriptor(0, 0xfffff, 0xf0, 0xc));
        self.gdt(sel::ABSENT, descriptor(0, 0xfffff, 0x73, 0xc));
        self.gdt(sel::EXPAND_DOWN, descriptor(0, 0xfff, 0xf7, 0x4));
        self.gdt(sel::TASK_GATE, gate(sel::TSS2, 0, 0xe5, 0));
        self.gdt(sel::CODE32, descriptor(0, 0xfffff, 0xfb, 0xc));
        self.gdt(sel::EXECUTE_ONLY, descriptor(0, 0xfffff, 0xf8, 0xc));
        self.cpu.gdtr = TableReg { base: at::GDT, limit: 0x9f, pad: 0 };
        self.put(at::TSS + 4, 4, at::STACK0);
        self.put(at::TSS + 8, 2, u64::from(sel::DATA0));
    }

    /// 32-bit protected mode at level 0, flat, with a GDT, an empty IDT, and a loaded TSS.
    pub fn protected(mut self) -> Rig {
        self.tables();
        self.cpu.idtr = TableReg { base: at::IDT, limit: 0x7ff, pad: 0 };
        self.call(Sys::WriteCr, 0x11, 0, 0, 0).unwrap();
        self.call(Sys::FarJmp, u64::from(sel::CODE0), at::USER, 0, 2).unwrap();
        for index in [seg::ES, seg::SS, seg::DS, seg::FS, seg::GS] {
            self.call(Sys::LoadSeg, u64::from(sel::DATA0), 0, 0, index as u64).unwrap();
        }
        self.call(Sys::ClearInhibit, 0, 0, 0, 0).unwrap();
        self.call(Sys::Ltr, u64::from(sel::TSS), 0, 0, 0).unwrap();
        self.set_rsp(0x7000);
        self
    }

    /// Goes to level 3 through a far return.
    pub fn user(mut self) -> Rig {
        let sp = 0x7000 - 16;
        for (i, value) in
            [at::USER, u64::from(sel::CODE3), at::STACK3, u64::from(sel::DATA3)].iter().enumerate()
        {
            self.put(sp + 4 * i as u64, 4, *value);
        }
        self.set_rsp(sp);
        self.call(Sys::FarRet, 0, 0, 0, 2).unwrap();
        for index in [seg::ES, seg::DS, seg::FS, seg::GS] {
            self.call(Sys::LoadSeg, u64::from(sel::DATA3), 0, 0, index as u64).unwrap();
        }
        assert_eq!(self.cpu.cpl, 3);
        self
    }

    /// 64-bit mode at level 0, the first 4 MiB mapped onto themselves by 4 KiB-aligned 2 MiB pages for everybody.
    pub fn long(self) -> Rig {
        let mut rig = self.protected();
        rig.gdt(sel::CODE0, descriptor(0, 0xfffff, 0x9b, 0xa));
        rig.gdt(sel::CODE3, descriptor(0, 0xfffff, 0xfb, 0xa));
        rig.gdt(sel::TSS, descriptor(at::TSS, 0x67, 0x89, 0));
        rig.put(at::GDT + u64::from(sel::TSS) + 8, 8, 0);
        rig.put(at::TSS + 4, 8, at::STACK0);
        rig.put(0x10_0000, 8, 0x10_1007);
        rig.put(0x10_1000, 8, 0x10_2007);
        rig.put(0x10_2000, 8, 0x87);
        rig.put(0x10_2008, 8, 0x20_0087);
        rig.call(Sys::WriteCr, 0x20, 0, 0, 4).unwrap();
        rig.call(Sys::WriteCr, 0x10_0000, 0, 0, 3).unwrap();
        rig.wrmsr(0xc000_0080, 0x901).unwrap();
        rig.call(Sys::WriteCr, 0x8000_0011, 0, 0, 0).unwrap();
        rig.call(Sys::FarJmp, u64::from(sel::CODE0), at::USER, 0, 2).unwrap();
        rig.cpu.idtr.limit = 0xfff;
        rig.call(Sys::Ltr, u64::from(sel::TSS), 0, 0, 0).unwrap();
        assert!(rig.cpu.code64());
        rig
    }

    pub fn wrmsr(&mut self, index: u32, value: u64) -> Result<u64, Raised> {
        self.cpu.core.slots[reg::RCX] = u64::from(index);
        self.cpu.core.slots[reg::RAX] = value & 0xffff_ffff;
        self.cpu.core.slots[reg::RDX] = value >> 32;
        self.call(Sys::Wrmsr, 0, 0, 0, 0)
    }

    pub fn rdmsr(&mut self, index: u32) -> Result<u64, Raised> {
        self.cpu.core.slots[reg::RCX] = u64::from(index);
        self.call(Sys::Rdmsr, 0, 0, 0, 0)?;
        Ok(self.cpu.core.slots[reg::RDX] << 32 | self.cpu.core.slots[reg::RAX])
    }
}
