//! A made-up guest for tests: a toy instruction set whose instructions are IR fragments chosen by a 32-bit word, a flat
//! page table, and a machine with memory, read-only memory and a device.

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bulkhead_ir::{Block, FLAGS_ALL, HelperInfo, NONE, Op, Opcode, TEMPS_END};

use crate::guest::*;
use crate::state::{Access, CoreState, exit};
use crate::{CpuBox, FrontCpu};

/// Pages of memory.
pub const PAGES: usize = 64;
/// Physical page of the device.
pub const DEVICE: u64 = 0x10_0000;
/// Physical page of read-only memory (it is the memory page of the same index otherwise).
pub const ROM_PAGE: usize = 60;

/// A linear page.
#[derive(Clone, Copy)]
pub struct Pte {
    pub gpa: Gpa,
    pub present: bool,
    pub writable: bool,
    pub global: bool,
}

pub struct TestMachine {
    memory: Arc<Memory>,
    pub device_log: Vec<(Gpa, u8, Option<u64>)>,
    pub watched: Vec<Gpa>,
    pub dirty: Vec<Gpa>,
    /// The read-only page shows the memory of the next one instead, writable, as shadow RAM does; writes always go there.
    pub shadow: bool,
    /// What happens while the device is read.
    pub on_read: Option<Box<dyn FnMut()>>,
}

#[repr(C, align(4096))]
struct Frame(UnsafeCell<[u8; 4096]>);

/// Memory of one machine, or of several that are one machine's CPUs.
pub struct Memory(Box<[Frame]>);

// SAFETY: bytes, which tests on several threads access as generated code does.
unsafe impl Sync for Memory {}

impl Default for Memory {
    fn default() -> Memory {
        Memory((0..PAGES).map(|_| Frame(UnsafeCell::new([0; 4096]))).collect())
    }
}

impl TestMachine {
    pub fn new(memory: Arc<Memory>) -> TestMachine {
        TestMachine {
            memory,
            device_log: Vec::new(),
            watched: Vec::new(),
            dirty: Vec::new(),
            shadow: false,
            on_read: None,
        }
    }
    pub fn bytes(&mut self) -> &mut [u8] {
        let len = self.memory.0.len() * 4096;
        // SAFETY: frames are contiguous bytes without padding.
        unsafe { std::slice::from_raw_parts_mut(UnsafeCell::raw_get(self.memory.0.as_ptr().cast()), len) }
    }
    pub fn put32(&mut self, at: usize, value: u32) {
        self.bytes()[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
}

impl Machine for TestMachine {
    fn page(&mut self, gpa: Gpa) -> Page {
        let index = (gpa >> 12) as usize;
        if index == ROM_PAGE && self.shadow {
            return Page::Memory { host: self.memory.0[ROM_PAGE + 1].0.get().cast(), writable: true };
        }
        match self.memory.0.get(index) {
            Some(frame) => Page::Memory { host: frame.0.get().cast(), writable: index != ROM_PAGE },
            None => Page::Device,
        }
    }
    fn read(&mut self, gpa: Gpa, size: u8) -> u64 {
        if let Some(happens) = &mut self.on_read {
            happens();
        }
        self.device_log.push((gpa, size, None));
        gpa.wrapping_mul(0x0101_0101_0101_0101) ^ 0x5a
    }
    fn write(&mut self, gpa: Gpa, size: u8, value: u64) {
        if gpa >> 12 == ROM_PAGE as u64 {
            let at = (ROM_PAGE + 1) * 4096 + (gpa & 0xfff) as usize;
            self.bytes()[at..at + usize::from(size)]
                .copy_from_slice(&value.to_le_bytes()[..usize::from(size)]);
        }
        self.device_log.push((gpa, size, Some(value)));
    }
    fn port_read(&mut self, _: u16, _: u8) -> u32 {
        0
    }
    fn port_write(&mut self, _: u16, _: u8, _: u32) {}
    fn port_read_block(&mut self, _: u16, _: u8, _: &mut [u8]) {}
    fn port_write_block(&mut self, _: u16, _: u8, _: &[u8]) {}
    fn watch_code(&mut self, gpa: Gpa) {
        self.watched.push(gpa);
    }
    fn take_dirty_code(&mut self) -> Option<Gpa> {
        self.dirty.pop()
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

/// Lowers the instruction with this word at this pc.
pub type Lowering = Box<dyn Fn(&mut Block, u32, u64)>;

#[repr(C)]
pub struct TestCpu {
    pub core: CoreState,
    pub pages: [Pte; PAGES],
    pub field: u64,
    pub fault_address: u64,
    pub faults: u32,
    pub delivered_pc: u64,
    pub deliver_to: u64,
    pub attends: u32,
    /// The word that others write is set again as soon as it has been taken.
    pub beset: bool,
    pub lowering: Option<Lowering>,
    pub calls: u64,
    /// What happens while an instruction fetch is translated.
    pub on_fetch: Option<Box<dyn FnMut()>>,
    /// Mixed from the counts of instructions at which helper 1 was called and the CPU attended, with the pc then.
    pub marks: u64,
}

/// Instructions between two limits, while they are counted.
const STRIDE: u64 = 37;

fn mark(core: &mut CoreState) {
    let (count, pc) = (core.counter.executed(), core.pc);
    let cpu = cpu(core);
    cpu.marks = cpu.marks.rotate_left(5).wrapping_mul(31).wrapping_add(count << 20 ^ pc);
}

// SAFETY: `CoreState` comes first; zero is valid for the rest (`None` for the box).
unsafe impl FrontCpu for TestCpu {
    type Config = Lowering;
    unsafe fn init(this: *mut TestCpu, lowering: Lowering) {
        // SAFETY: in bounds; the old value is a zeroed `Option`, overwritten without drop.
        unsafe { (&raw mut (*this).lowering).write(Some(lowering)) };
    }
}

fn cpu(core: &mut CoreState) -> &mut TestCpu {
    // SAFETY: every core in these tests is at the head of a `TestCpu`.
    unsafe { &mut *(core as *mut CoreState).cast() }
}

fn translate(
    core: &mut CoreState,
    linear: u64,
    _size: u32,
    access: Access,
    _user: bool,
) -> Result<Translation, Fault> {
    let cpu = cpu(core);
    if let Some(happens) = cpu.on_fetch.as_mut().filter(|_| access == Access::Fetch) {
        happens();
    }
    let pte = cpu.pages.get((linear >> 12) as usize).copied();
    match pte {
        Some(p) if p.present && (p.writable || access != Access::Write) => Ok(Translation {
            gpa: p.gpa | linear & 0xfff,
            writable: p.writable,
            readable: true,
            executable: true,
            global: p.global,
        }),
        _ => {
            cpu.fault_address = linear;
            core.exit = exit::FAULT;
            Err(Fault)
        }
    }
}

fn lower(core: &mut CoreState, code: &mut dyn CodeSource, max: u32, out: &mut Block) -> Result<(), Fault> {
    let start = core.pc;
    let mut pc = start;
    let mut ended = false;
    while out.insns < max && (pc ^ start) < 4096 && !ended {
        let mut word = 0u32;
        for i in 0..4 {
            match code.byte(pc + i) {
                Ok(b) => word |= u32::from(b) << (8 * i),
                Err(f) if out.insns == 0 => return Err(f),
                Err(_) => {
                    ended = true;
                    break;
                }
            }
        }
        if ended {
            break;
        }
        out.push(Op::insn(pc));
        out.insns += 1;
        out.len += 4;
        pc += 4;
        out.next_pc = pc;
        let lowering = cpu(core).lowering.take();
        if let Some(f) = &lowering {
            f(out, word, pc - 4);
        }
        cpu(core).lowering = lowering;
        ended = out.ops.last().is_some_and(|o| o.op >= Opcode::Goto);
    }
    if out.ops.last().is_none_or(|o| o.op < Opcode::Goto) {
        out.push(Op::goto(pc, true));
    }
    Ok(())
}

fn deliver(core: &mut CoreState) -> Next {
    let cpu = cpu(core);
    cpu.faults += 1;
    cpu.delivered_pc = cpu.core.pc;
    if cpu.deliver_to != 0 {
        cpu.core.pc = cpu.deliver_to;
        return Next::Run;
    }
    Next::Leave
}

fn attend(core: &mut CoreState, halted: bool) -> Next {
    cpu(core).attends += 1;
    if cpu(core).beset {
        core.attention().store(1, Ordering::SeqCst);
    }
    if core.counter.is_on() {
        mark(core);
        core.counter.set_limit(core.counter.executed() + STRIDE);
    }
    if halted || cpu(core).attends > 1000 { Next::Leave } else { Next::Run }
}

fn misaligned(core: &mut CoreState, linear: u64) {
    cpu(core).fault_address = linear;
    core.exit = exit::FAULT;
}

/// Helper 0: stop with HALT, pc as given by `a`.
unsafe extern "sysv64" fn stop(core: *mut CoreState, a: u64, _: u64, _: u64, _: u64) -> u64 {
    // SAFETY: the engine passes the running CPU.
    let core = unsafe { &mut *core };
    core.pc = a;
    core.exit = exit::HALT;
    0
}

/// Helper 1: pure mix of its arguments.
unsafe extern "sysv64" fn mix(core: *mut CoreState, a: u64, b: u64, c: u64, imm: u64) -> u64 {
    // SAFETY: as above.
    let core = unsafe { &mut *core };
    cpu(core).calls += 1;
    // The pc need not be in memory here.
    core.pc = 0;
    mark(core);
    a.rotate_left(7) ^ b.wrapping_mul(3) ^ c.wrapping_sub(imm)
}

/// Helper 2: stores slot 1 at linear `a`, adds one to slot 2, complements carry; may fault.
unsafe extern "sysv64" fn poke(core: *mut CoreState, a: u64, _: u64, _: u64, _: u64) -> u64 {
    // SAFETY: as above.
    let core = unsafe { &mut *core };
    let value = core.slots[1];
    if crate::mem::store(core, a, 8, value, crate::Privilege::Current).is_err() {
        return 0;
    }
    core.slots[2] = core.slots[2].wrapping_add(1);
    let f = core.cc_eflags();
    core.set_cc_eflags(f ^ 1);
    value ^ 0xff
}

const INFO: HelperInfo =
    HelperInfo { name: "", reads: 0, writes: 0, flags_read: 0, flags_written: 0, may_exit: false };

pub static OPS: GuestOps = GuestOps {
    translate,
    block_key: |_| 7,
    linear_pc: |_, pc| pc,
    lower,
    deliver,
    attend,
    misaligned,
    describe: |_| String::new(),
    helpers: &[
        Helper { info: HelperInfo { name: "stop", may_exit: true, ..INFO }, func: stop },
        Helper { info: HelperInfo { name: "mix", ..INFO }, func: mix },
        Helper {
            info: HelperInfo {
                name: "poke",
                reads: 2 | 4,
                writes: 4,
                flags_read: FLAGS_ALL,
                flags_written: 1,
                may_exit: true,
            },
            func: poke,
        },
    ],
};

/// Op that ends a program at `pc`.
pub fn stop_ops(out: &mut Block, pc: u64) {
    let temp = TEMPS_END - 1;
    out.push(Op::movi(temp, pc as i64));
    out.push(Op::call(0, NONE, temp, NONE, NONE, 0));
    out.push(Op::exit());
}

/// A CPU with its machine.
pub struct Rig {
    pub cpu: CpuBox<TestCpu>,
    pub machine: *mut TestMachine,
    attention: *mut AtomicU32,
}

impl Rig {
    pub fn new(lowering: impl Fn(&mut Block, u32, u64) + 'static) -> Rig {
        Rig::with(Arc::default(), lowering)
    }
    /// With memory that others may have, too.
    pub fn with(memory: Arc<Memory>, lowering: impl Fn(&mut Block, u32, u64) + 'static) -> Rig {
        let machine = Box::into_raw(Box::new(TestMachine::new(memory)));
        let attention = Box::into_raw(Box::new(AtomicU32::new(0)));
        let lowering: Lowering = Box::new(lowering);
        // SAFETY: both live until `drop`.
        let mut cpu: CpuBox<TestCpu> = unsafe { CpuBox::new(&OPS, machine, attention, lowering) };
        for i in 0..PAGES {
            cpu.pages[i] = Pte { gpa: (i as u64) << 12, present: true, writable: true, global: false };
        }
        Rig { cpu, machine, attention }
    }
    pub fn machine(&mut self) -> &mut TestMachine {
        // SAFETY: alive; tests hold no other reference.
        unsafe { &mut *self.machine }
    }
    pub fn core(&mut self) -> &mut CoreState {
        &mut self.cpu.core
    }
    pub fn run(&mut self, pc: u64) {
        self.cpu.core.pc = pc;
        self.cpu.attends = 0;
        crate::run(&mut self.cpu.core);
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        crate::Engine::detach(&mut self.cpu.core);
        (self.cpu.lowering, self.cpu.on_fetch) = (None, None);
        // SAFETY: made by `new`; the CPU does not run any more.
        unsafe {
            drop(Box::from_raw(self.machine));
            drop(Box::from_raw(self.attention));
        }
    }
}
