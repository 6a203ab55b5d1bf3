//! A CPU on a flat piece of memory, without a machine around it: identity translation, no devices.
#![allow(dead_code, reason = "each test uses its part")]

use std::sync::atomic::AtomicU32;

use bulkhead_engine::{
    Access, ApicAccess, CoreState, CpuBox, Fault, Gpa, GuestOps, Machine, Next, Page, Requests, Translation,
};
use bulkhead_x86::cpuid;
use bulkhead_x86::helpers::{self, TABLE};
use bulkhead_x86::lower::lower;
use bulkhead_x86::state::{NO_EXCEPTION, Segment, attr, cr0, efer, key, seg};
use bulkhead_x86::{Config, Cpu};

/// Memory of the tests, at physical and linear address `base`.
pub struct Memory {
    pub base: u64,
    pub host: *mut u8,
    pub len: u64,
    /// Ports written, in order: port, size, value.
    pub written: Vec<(u16, u8, u32)>,
}

impl Machine for Memory {
    fn page(&mut self, gpa: Gpa) -> Page {
        match gpa.checked_sub(self.base) {
            Some(offset) if offset < self.len => {
                // SAFETY: inside the test's allocation.
                let host = unsafe { self.host.add(offset as usize) };
                Page::Memory { host, writable: true }
            }
            _ => Page::Device,
        }
    }
    fn read(&mut self, _: Gpa, _: u8) -> u64 {
        u64::MAX
    }
    fn write(&mut self, _: Gpa, _: u8, _: u64) {}
    fn port_read(&mut self, port: u16, size: u8) -> u32 {
        u32::from(port) ^ (0x5a5a_5a5a & (u32::MAX >> (32 - 8 * u32::from(size))))
    }
    fn port_write(&mut self, port: u16, size: u8, value: u32) {
        self.written.push((port, size, value));
    }
    fn port_read_block(&mut self, port: u16, size: u8, data: &mut [u8]) {
        for chunk in data.chunks_mut(size.into()) {
            let value = self.port_read(port, size).to_le_bytes();
            chunk.copy_from_slice(&value[..chunk.len()]);
        }
    }
    fn port_write_block(&mut self, port: u16, size: u8, data: &[u8]) {
        for chunk in data.chunks(size.into()) {
            let mut value = [0; 4];
            value[..chunk.len()].copy_from_slice(chunk);
            self.port_write(port, size, u32::from_le_bytes(value));
        }
    }
    fn watch_code(&mut self, _: Gpa) {}
    fn take_dirty_code(&mut self) -> Option<Gpa> {
        None
    }
    fn acknowledge_interrupt(&mut self) -> Option<u8> {
        None
    }
    fn interrupt_pending(&mut self) -> bool {
        false
    }
    fn take_requests(&mut self) -> Requests {
        Requests::default()
    }
    fn tsc(&mut self) -> u64 {
        0
    }
    fn apic(&mut self, _: ApicAccess) -> u64 {
        0
    }
    fn a20_mask(&self) -> u64 {
        u64::MAX
    }
    fn wait(&mut self) {}
    fn nap(&mut self, _: u64) {}
    fn shutdown(&mut self) {}
}

fn cpu_of(core: &mut CoreState) -> &mut Cpu {
    // SAFETY: every core of these tests is the head of a `TestCpu`, and the callbacks hold the only reference.
    unsafe { Cpu::from_core(core) }
}

fn translate(core: &mut CoreState, linear: u64, _: u32, _: Access, _: bool) -> Result<Translation, Fault> {
    // SAFETY: the machine of these tests is a `Memory`.
    let memory = unsafe { &*core.machine.cast::<Memory>() };
    if linear.wrapping_sub(memory.base) >= memory.len {
        return Err(helpers::raise(cpu_of(core), helpers::vector::PF, Some(0)));
    }
    Ok(Translation { gpa: linear, writable: true, readable: true, executable: true, global: false })
}

static OPS: GuestOps = GuestOps {
    translate,
    block_key: |core| {
        // SAFETY: as in `cpu_of`; only read.
        unsafe { (*std::ptr::from_ref(core).cast::<Cpu>()).block_key() }
    },
    linear_pc: |core, pc| {
        // SAFETY: as in `cpu_of`; only read.
        let cpu = unsafe { &*std::ptr::from_ref(core).cast::<Cpu>() };
        if cpu.key & key::CODE64 != 0 { pc } else { cpu.segs[seg::CS].base.wrapping_add(pc) & 0xffff_ffff }
    },
    lower,
    deliver: |_| Next::Leave,
    attend: |_, _| Next::Run,
    misaligned: |core, _| {
        helpers::gp(cpu_of(core), 0);
    },
    describe: |_| String::new(),
    helpers: &TABLE,
};

/// Whether the host is one of AMD's processors; else it is taken for one of Intel's.
pub fn host_is_amd() -> bool {
    // Leaf 0 EBX: "Auth".
    std::arch::x86_64::__cpuid(0).ebx == 0x6874_7541
}

/// The machine: memory, the attention word, and the CPU, which refers to both.
pub struct Bench {
    pub cpu: CpuBox<Cpu>,
    pub memory: Box<Memory>,
    _attention: Box<AtomicU32>,
}

impl Bench {
    /// A CPU after reset, with every feature, of the host's vendor, over `len` bytes of memory at `host`, seen at `base`.
    pub fn new(base: u64, host: *mut u8, len: u64) -> Bench {
        let mut memory = Box::new(Memory { base, host, len, written: Vec::new() });
        let attention = Box::new(AtomicU32::new(0));
        let machine: *mut dyn Machine = &raw mut *memory;
        let model = if host_is_amd() { "qemu64" } else { "qemu64,vendor=GenuineIntel" };
        let choice = cpuid::parse(model).unwrap_or_else(|_| panic!("no model"));
        let config = Config { features: [u32::MAX; 4], ..Config::from(&choice) };
        // SAFETY: both boxes live as long as the CPU, in this struct.
        let cpu = unsafe { CpuBox::<Cpu>::new(&OPS, machine, &raw const *attention, config) };
        Bench { cpu, memory, _attention: attention }
    }

    /// Flat segments of `bits` (16, 32 or 64), protected mode, CPL 0.
    pub fn flat(&mut self, bits: u32) {
        let big = if bits == 16 { 0 } else { attr::BIG };
        for segment in &mut self.cpu.segs {
            *segment = Segment { base: 0, limit: u32::MAX, attr: 0x8093 | big, selector: 0x10 };
        }
        self.cpu.segs[seg::CS] = Segment { attr: 0x809b | big, selector: 8, ..self.cpu.segs[seg::DS] };
        self.cpu.cr0 |= cr0::PE;
        if bits == 64 {
            self.cpu.segs[seg::CS].attr = 0xa09b;
            self.cpu.msrs.efer |= efer::LMA | efer::LME;
        }
        self.cpu.update_key();
    }

    /// Steps one instruction. `Err(vector)` when it faulted.
    pub fn step(&mut self) -> Result<(), u32> {
        bulkhead_engine::step(&mut self.cpu.core);
        match std::mem::replace(&mut self.cpu.pending.vector, NO_EXCEPTION) {
            NO_EXCEPTION => Ok(()),
            vector => Err(vector),
        }
    }
}
