//! Random user-mode instruction sequences of 64- and 32-bit code, run by the host processor and by lowering plus engine: registers, memory
//! and defined flags must agree.
//!
//! `BULKHEAD_DIFF_CASES` sets the number of cases, `BULKHEAD_DIFF_SEED` the first seed.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use std::sync::{Mutex, PoisonError};

mod generate;
mod random;
mod support;

use bulkhead_engine::Engine;
use bulkhead_x86::state::{NO_EXCEPTION, seg};
use generate::{Case, Operands};
use support::Bench;

/// Low, so that 32-bit addresses reach it.
const BASE: u64 = 0x1000_0000;
const CODE: u64 = BASE + 0x100;
/// Registers in, registers out, flags, host stack pointer.
const CONTEXT: u64 = BASE + 0x1000;
const OUT: u64 = CONTEXT + 0x80;
const FLAGS: u64 = CONTEXT + 0x100;
const HOST_RSP: u64 = CONTEXT + 0x108;
/// The data page, where pointers aim at the middle.
pub const DATA: u64 = BASE + 0x2000;
const DATA_LEN: usize = 0x2000;
const LEN: usize = 0x5000;
/// CF PF AF ZF SF OF.
const ARITHMETIC: u64 = 0x8d5;
const DF: u64 = 0x400;
/// Vector of the invalid-opcode exception.
const UD: u32 = 6;

/// Linux's user code segment for 32-bit programs, its 64-bit one, and its data segment.
const CS32: u16 = 0x23;
const CS64: u16 = 0x33;
const DS: u16 = 0x2b;

struct Host {
    memory: *mut u8,
    tail: u64,
}

/// The region's addresses are fixed: one test at a time.
static REGION: Mutex<()> = Mutex::new(());

fn absolute(code: &mut Vec<u8>, bytes: &[u8], address: u64) {
    code.extend_from_slice(bytes);
    code.extend_from_slice(&(address as u32).to_le_bytes());
}

fn jump(code: &mut Vec<u8>, at: u64, to: u64) {
    code.push(0xe9);
    code.extend_from_slice(&(to.wrapping_sub(at + 5) as u32).to_le_bytes());
}

impl Host {
    /// Maps the region and writes the code around the tested instructions, which are 64-bit code if `long`, else 32-bit.
    fn new(long: bool) -> Host {
        // SAFETY: a fresh anonymous mapping at an address that nothing may already use.
        let memory = unsafe {
            libc::mmap(
                BASE as *mut _,
                LEN,
                libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
                -1,
                0,
            )
        };
        assert_eq!(memory as u64, BASE, "no room for the test region");
        let mut entry = vec![0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57]; // push rbx rbp r12..r15
        absolute(&mut entry, &[0x48, 0x89, 0x24, 0x25], HOST_RSP); // mov [HOST_RSP], rsp
        let mut tail = Vec::new();
        let tail_at = BASE + 0x800;
        if long {
            absolute(&mut entry, &[0xff, 0x34, 0x25], FLAGS); // push [FLAGS]
            entry.push(0x9d); // popfq
            for r in 0..16u8 {
                let rex = 0x48 | (r >> 3) << 2;
                absolute(&mut entry, &[rex, 0x8b, 0x04 | (r & 7) << 3, 0x25], CONTEXT + 8 * u64::from(r));
                absolute(&mut tail, &[rex, 0x89, 0x04 | (r & 7) << 3, 0x25], OUT + 8 * u64::from(r));
            }
            absolute(&mut tail, &[0x48, 0x8b, 0x24, 0x25], HOST_RSP); // mov rsp, [HOST_RSP]
            tail.push(0x9c); // pushfq
            absolute(&mut tail, &[0x8f, 0x04, 0x25], FLAGS); // pop [FLAGS]
        } else {
            entry.extend_from_slice(&[0xb8, DS as u8, 0, 0, 0, 0x8e, 0xd8, 0x8e, 0xc0]); // mov eax, DS; mov ds, eax; mov es, eax
            absolute(&mut entry, &[0xbc], CONTEXT + 0xf00); // mov esp, ...
            entry.extend_from_slice(&[0x6a, CS32 as u8]); // push CS32
            let at = BASE + entry.len() as u64;
            absolute(&mut entry, &[0x68], at + 7); // push what follows
            entry.extend_from_slice(&[0x48, 0xcb]); // retfq
            absolute(&mut entry, &[0xff, 0x35], FLAGS); // push dword [FLAGS]
            entry.push(0x9d); // popfd
            for r in 0..8u8 {
                absolute(&mut entry, &[0x8b, 0x05 | r << 3], CONTEXT + 8 * u64::from(r));
                absolute(&mut tail, &[0x89, 0x05 | r << 3], OUT + 8 * u64::from(r));
            }
            absolute(&mut tail, &[0xbc], CONTEXT + 0xf00); // mov esp, ...
            tail.push(0x9c); // pushfd
            absolute(&mut tail, &[0x8f, 0x05], FLAGS); // pop dword [FLAGS]
            let at = tail_at + tail.len() as u64;
            absolute(&mut tail, &[0xea], at + 7); // jmp far to what follows
            tail.extend_from_slice(&CS64.to_le_bytes());
            absolute(&mut tail, &[0x48, 0x8b, 0x24, 0x25], HOST_RSP); // mov rsp, [HOST_RSP]
            tail.extend_from_slice(&[0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0]); // xor eax, eax; mov ds, eax; mov es, eax
        }
        let at = BASE + entry.len() as u64;
        jump(&mut entry, at, CODE);
        assert!(entry.len() < 0x100);
        tail.extend_from_slice(&[0xfc, 0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3]);
        let host = Host { memory: memory.cast(), tail: tail_at };
        host.write(BASE, &entry);
        host.write(host.tail, &tail);
        host
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        let offset = (at - BASE) as usize;
        assert!(offset + bytes.len() <= LEN);
        // SAFETY: inside the mapping; no reference to it exists.
        unsafe { self.memory.add(offset).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let offset = (at - BASE) as usize;
        assert!(offset + len <= LEN);
        // SAFETY: inside the mapping, copied at once.
        unsafe { std::slice::from_raw_parts(self.memory.add(offset), len) }.to_vec()
    }

    /// Runs the code at `CODE` with the given registers and flags.
    fn run(&self, regs: &[u64; 16], flags: u64) -> ([u64; 16], u64) {
        for (i, r) in regs.iter().enumerate() {
            self.write(CONTEXT + 8 * i as u64, &r.to_le_bytes());
        }
        self.write(FLAGS, &flags.to_le_bytes());
        // SAFETY: the entry code saves and restores what the ABI asks for; the tested instructions touch only their
        // registers and the data page.
        unsafe {
            let entry: extern "sysv64" fn() = std::mem::transmute(self.memory);
            entry();
        }
        let word = |at| u64::from_le_bytes(self.read(at, 8).try_into().unwrap());
        (std::array::from_fn(|i| word(OUT + 8 * i as u64)), word(FLAGS))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: the mapping made by `new`, which nothing uses any more.
        unsafe { libc::munmap(self.memory.cast(), LEN) };
    }
}

struct Outcome {
    regs: [u64; 16],
    flags: u64,
    data: Vec<u8>,
}

fn cases() -> u64 {
    std::env::var("BULKHEAD_DIFF_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(3_000)
}

fn first_seed() -> u64 {
    std::env::var("BULKHEAD_DIFF_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

#[test]
fn random_64_bit_sequences_do_what_the_host_does() {
    compare(true);
}

#[test]
fn random_32_bit_sequences_do_what_the_host_does() {
    compare(false);
}

/// A bench on the host's region in user-like segments.
fn bench(host: &Host, long: bool) -> Bench {
    let mut bench = Bench::new(BASE, host.memory, LEN as u64);
    bench.flat(if long { 64 } else { 32 });
    for segment in &mut bench.cpu.segs {
        segment.selector = DS;
    }
    bench.cpu.segs[seg::CS].selector = CS32;
    bench
}

fn load(bench: &mut Bench, case: &Case) {
    let core = &mut bench.cpu.core;
    core.slots[..16].copy_from_slice(&case.regs);
    core.set_cc_eflags(case.flags as u32);
    core.pc = CODE;
    bench.cpu.eflags = 0x202 | (case.flags & DF) as u32;
}

fn outcome(bench: &Bench, host: &Host) -> Outcome {
    let cpu = &bench.cpu;
    Outcome {
        regs: std::array::from_fn(|i| cpu.core.slots[i]),
        flags: u64::from(cpu.core.cc_eflags()) | u64::from(cpu.eflags) & DF,
        data: host.read(DATA, DATA_LEN),
    }
}

/// Steps `case` in the interpreter; the code is in place.
fn interpret(bench: &mut Bench, host: &Host, case: &Case) -> Result<Outcome, u32> {
    load(bench, case);
    let end = CODE + case.code.len() as u64;
    for _ in 0..200 {
        if bench.cpu.core.pc == end {
            return Ok(outcome(bench, host));
        }
        bench.step()?;
    }
    Err(99)
}

/// Runs `case` compiled, with a `UD2` at its end to leave the run loop. The code goes through the engine, which drops what it compiled of the last case.
fn compiled(bench: &mut Bench, host: &Host, case: &Case) -> Result<Outcome, u32> {
    let mut image = case.code.clone();
    image.extend_from_slice(&[0x0f, 0x0b]);
    for (i, byte) in image.iter().enumerate() {
        bulkhead_engine::mem::phys_store(&mut bench.cpu.core, CODE + i as u64, 1, u64::from(*byte));
    }
    load(bench, case);
    bulkhead_engine::run(&mut bench.cpu.core);
    let vector = std::mem::replace(&mut bench.cpu.pending.vector, NO_EXCEPTION);
    if vector == UD && bench.cpu.core.pc == CODE + case.code.len() as u64 {
        return Ok(outcome(bench, host));
    }
    Err(vector)
}

/// Prints how `ours` differs from the host's outcome; true when it does not.
fn agrees(engine: &str, seed: u64, case: &Case, ours: &Outcome, host: &Outcome) -> bool {
    let mask = !case.undefined;
    if ours.regs == host.regs && (ours.flags ^ host.flags) & mask == 0 && ours.data == host.data {
        return true;
    }
    println!("seed {seed}, {engine}:\n{}", case.describe(CODE));
    println!("  flags in {:#x} host {:#x} ours {:#x} compared {mask:#x}", case.flags, host.flags, ours.flags);
    for i in 0..16 {
        if ours.regs[i] != host.regs[i] {
            println!("  r{i}: in {:#x} host {:#x} ours {:#x}", case.regs[i], host.regs[i], ours.regs[i]);
        }
    }
    for i in 0..DATA_LEN {
        if ours.data[i] != host.data[i] {
            println!("  [{i:#x}]: host {:#x} ours {:#x}", host.data[i], ours.data[i]);
        }
    }
    false
}

fn compare(long: bool) {
    let _region = REGION.lock().unwrap_or_else(PoisonError::into_inner);
    let host = Host::new(long);
    let mut stepper = bench(&host, long);
    let mut compiler = bench(&host, long);
    Engine::compiling(1 << 20).expect("a code buffer").attach(&mut compiler.cpu.core);
    let mut failures = 0;
    let (mut ran, mut skipped) = (0u64, 0u64);
    for seed in first_seed()..first_seed() + cases() {
        assert!(failures < 10, "too many differences");
        let mut rng = generate::seeded(seed);
        let case = Case::random(&mut rng, CODE, long);
        let before: Vec<u8> = (0..DATA_LEN / 8).flat_map(|_| rng.word().to_le_bytes()).collect();
        host.write(DATA, &before);
        let second = compiled(&mut compiler, &host, &case);
        let mut image = case.code.clone();
        jump(&mut image, CODE + case.code.len() as u64, host.tail);
        assert!(image.len() < 0x600);
        host.write(CODE, &image);
        host.write(DATA, &before);
        let first = interpret(&mut stepper, &host, &case);
        let (first, second) = match (first, second) {
            (Ok(first), Ok(second)) => (first, second),
            // Divide errors happen by chance; anything else is a mistake of the lowering.
            (Err(0), Err(0)) => {
                skipped += 1;
                continue;
            }
            (first, second) => {
                failures += 1;
                let vectors = (first.err(), second.err());
                println!("seed {seed}: faults {vectors:?} (interpreter, compiler)\n{}", case.describe(CODE));
                continue;
            }
        };
        host.write(DATA, &before);
        let (regs, flags) = host.run(&case.regs, case.flags | 0x202);
        let theirs = Outcome { regs, flags: flags & (ARITHMETIC | DF), data: host.read(DATA, DATA_LEN) };
        ran += 1;
        let good = agrees("interpreter", seed, &case, &first, &theirs)
            & agrees("compiler", seed, &case, &second, &theirs);
        failures += u32::from(!good);
    }
    println!("{ran} cases compared, {skipped} ended in a divide error");
    assert_eq!(failures, 0);
}
