//! Runs one instruction on the host processor and the same one through lowering and the interpreter, from one state.
#![allow(dead_code, reason = "each test uses its part")]

pub mod cases;

use bulkhead_x86::state::{NO_EXCEPTION, cr0, cr4};
use iced_x86::{Decoder, DecoderOptions, Instruction};

use crate::support::{Bench, host_is_amd};

/// What an instruction reads and writes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    /// RAX..R15; RSP is not used.
    pub gpr: [u64; 16],
    /// Arithmetic flags.
    pub flags: u64,
    /// `FXSAVE64` image.
    pub fx: [u8; 512],
    /// Data at the memory operand.
    pub data: [u8; DATA_LEN],
}

pub const DATA_LEN: usize = 640;
const PAGE: usize = 4096;
const IN_GPR: usize = PAGE;
const IN_FLAGS: usize = IN_GPR + 128;
const IN_FX: usize = PAGE + 512;
const OUT_GPR: usize = PAGE + 1024;
const OUT_FLAGS: usize = OUT_GPR + 128;
const OUT_FX: usize = PAGE + 1536;
const MXCSR: usize = PAGE + 2048;
const DATA: usize = 2 * PAGE;
const CODE: usize = 3 * PAGE;
const BLOCKS: usize = 4 * PAGE;
const LEN: usize = 1 << 20;
/// CF PF AF ZF SF OF.
const ARITHMETIC: u64 = 0x8d5;

/// Instructions placed for the compiler.
#[derive(Clone, Copy)]
pub struct Block {
    start: u64,
    end: u64,
}

/// The two processors over one piece of memory.
pub struct Pair {
    base: *mut u8,
    /// Where the next block goes: never twice to one place, since code written by the test itself would stay translated.
    next: usize,
    pub bench: Bench,
}

impl Pair {
    pub fn new() -> Pair {
        // SAFETY: a fresh anonymous mapping, executable because the native side runs from it.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                LEN,
                libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(base, libc::MAP_FAILED, "no executable memory for the test");
        let base = base.cast::<u8>();
        let mut bench = Bench::new(base as u64, base, LEN as u64);
        bench.flat(64);
        bench.cpu.cr0 |= cr0::NE;
        bench.cpu.cr4 |= cr4::OSFXSR | cr4::OSXMMEXCPT;
        bench.cpu.update_key();
        bulkhead_engine::Engine::compiling(1 << 20).expect("a code buffer").attach(&mut bench.cpu.core);
        Pair { base, next: BLOCKS, bench }
    }

    /// Address of the data area: what RBX holds.
    pub fn data(&self) -> u64 {
        self.base as u64 + DATA as u64
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= LEN);
        // SAFETY: inside the mapping.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(at), bytes.len()) };
    }

    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut out = [0; N];
        assert!(at + N <= LEN);
        // SAFETY: inside the mapping.
        unsafe { std::ptr::copy_nonoverlapping(self.base.add(at), out.as_mut_ptr(), N) };
        out
    }

    /// Runs `insn` on the host.
    pub fn native(&mut self, insn: &[u8], state: &State) -> State {
        for (i, value) in state.gpr.iter().enumerate() {
            self.put(IN_GPR + 8 * i, &value.to_le_bytes());
        }
        self.put(IN_FLAGS, &(state.flags & ARITHMETIC | 0x202).to_le_bytes());
        self.put(IN_FX, &state.fx);
        self.put(DATA, &state.data);
        self.put(MXCSR, &0x1f80u32.to_le_bytes());
        let mut code: Vec<u8> = vec![0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57];
        let relative = |code: &mut Vec<u8>, bytes: &[u8], target: usize| {
            code.extend(bytes);
            let after = code.len() + 4;
            code.extend((target as i32 - after as i32).to_le_bytes());
        };
        relative(&mut code, &[0x48, 0x0f, 0xae, 0x0d], IN_FX); // fxrstor64
        relative(&mut code, &[0xff, 0x35], IN_FLAGS); // push
        code.push(0x9d); // popfq
        let registers = (0..16u8).filter(|r| *r != 4);
        for r in registers.clone() {
            relative(&mut code, &[0x48 | (r >> 3) << 2, 0x8b, (r & 7) << 3 | 5], IN_GPR + 8 * r as usize);
        }
        code.extend(insn);
        for r in registers {
            relative(&mut code, &[0x48 | (r >> 3) << 2, 0x89, (r & 7) << 3 | 5], OUT_GPR + 8 * r as usize);
        }
        code.push(0x9c); // pushfq
        relative(&mut code, &[0x8f, 0x05], OUT_FLAGS); // pop
        relative(&mut code, &[0x48, 0x0f, 0xae, 0x05], OUT_FX); // fxsave64
        code.extend([0xdb, 0xe3]); // fninit
        relative(&mut code, &[0x0f, 0xae, 0x15], MXCSR); // ldmxcsr
        code.extend([0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xfc, 0xc3]);
        assert!(code.len() < PAGE);
        self.put(0, &code);
        // SAFETY: the code just written keeps callee-saved registers, leaves x87 and MXCSR at their defaults and
        // touches only this mapping.
        unsafe {
            let run: extern "sysv64" fn() = std::mem::transmute(self.base);
            run();
        }
        let mut out = state.clone();
        for (i, value) in out.gpr.iter_mut().enumerate() {
            if i != 4 {
                *value = u64::from_le_bytes(self.get(OUT_GPR + 8 * i));
            }
        }
        out.flags = u64::from_le_bytes(self.get(OUT_FLAGS)) & ARITHMETIC;
        out.fx = self.get(OUT_FX);
        out.data = self.get(DATA);
        out
    }

    /// Runs `insn` through lowering and the interpreter. `Err(vector)` when it faults.
    pub fn emulated(&mut self, insn: &[u8], state: &State) -> Result<State, u32> {
        self.put(DATA, &state.data);
        self.put(CODE, insn);
        self.load(state);
        let result = self.bench.step();
        let out = self.store(state);
        result.map(|()| out)
    }

    /// Places a block of `insns` for [`Pair::run`].
    pub fn place(&mut self, insns: &[u8]) -> Block {
        // The undefined instruction at the end is how it comes back.
        let mut code = insns.to_vec();
        code.extend([0x0f, 0x0b]);
        let at = self.next;
        self.next += code.len();
        self.put(at, &code);
        Block { start: self.base as u64 + at as u64, end: self.base as u64 + (at + insns.len()) as u64 }
    }

    /// Runs a block in the compiler from `state`. `Err(vector)` when an instruction of it faults.
    pub fn run(&mut self, block: Block, state: &State) -> Result<State, u32> {
        self.put(DATA, &state.data);
        self.load(state);
        self.bench.cpu.core.pc = block.start;
        bulkhead_engine::run(&mut self.bench.cpu.core);
        let vector = std::mem::replace(&mut self.bench.cpu.pending.vector, NO_EXCEPTION);
        if vector != 6 || self.bench.cpu.core.pc != block.end {
            return Err(vector);
        }
        Ok(self.store(state))
    }

    /// Instructions compiled so far.
    pub fn compiled(&mut self) -> u64 {
        bulkhead_engine::Engine::of(&mut self.bench.cpu.core).stats.compiled_insns
    }

    /// Puts `state` into the emulated processor, with the pc at the instruction.
    pub fn load(&mut self, state: &State) {
        let cpu = &mut *self.bench.cpu;
        cpu.core.slots[..16].copy_from_slice(&state.gpr);
        cpu.core.set_cc_eflags(state.flags as u32);
        cpu.core.pc = self.base as u64 + CODE as u64;
        let word = |at: usize| u16::from_le_bytes([state.fx[at], state.fx[at + 1]]);
        cpu.x87_set_control(word(0));
        cpu.x87_set_status(word(2));
        cpu.core.x87.tags = state.fx[4];
        for i in 0..8u8 {
            let phys = cpu.x87_phys(i);
            let at = 32 + 16 * usize::from(i);
            cpu.core.media[phys].copy_from_slice(&state.fx[at..at + 16]);
        }
        for i in 0..16 {
            cpu.core.vec[i].copy_from_slice(&state.fx[160 + 16 * i..176 + 16 * i]);
        }
        cpu.set_mxcsr(u32::from_le_bytes([state.fx[24], state.fx[25], state.fx[26], state.fx[27]]));
    }

    /// The emulated processor's state, in the frame of `state`.
    pub fn store(&mut self, state: &State) -> State {
        let mut fx = state.fx;
        let cpu = &mut *self.bench.cpu;
        cpu.x87_sync();
        let mut out = state.clone();
        out.gpr.copy_from_slice(&cpu.core.slots[..16]);
        out.flags = u64::from(cpu.core.cc_eflags()) & ARITHMETIC;
        fx[0..2].copy_from_slice(&cpu.core.x87.control.to_le_bytes());
        fx[2..4].copy_from_slice(&cpu.x87_status().to_le_bytes());
        fx[4] = cpu.core.x87.tags;
        for i in 0..8u8 {
            let at = 32 + 16 * usize::from(i);
            fx[at..at + 10].copy_from_slice(&cpu.x87_st(i)[..10]);
        }
        for i in 0..16 {
            fx[160 + 16 * i..176 + 16 * i].copy_from_slice(&cpu.core.vec[i]);
        }
        let mxcsr = cpu.mxcsr();
        fx[24..28].copy_from_slice(&mxcsr.to_le_bytes());
        out.fx = fx;
        out.data = self.get(DATA);
        out
    }
}

/// Whether the host's x87 behaves as the emulated one also where manufacturers differ (the emulated one is AMD's there):
/// C1 after `FCMOV`, `FCOMI`, `FFREE`, the quotient bits of an invalid `FPREM`, D9 D8, loads of denormals with that
/// exception unmasked.
pub fn same_x87() -> bool {
    host_is_amd()
}

/// Whether `insn` is one of those.
pub fn manufacturers_differ(insn: &Instruction) -> bool {
    use iced_x86::Mnemonic::{
        Fcmovb, Fcmovbe, Fcmove, Fcmovnb, Fcmovnbe, Fcmovne, Fcmovnu, Fcmovu, Fcomi, Fcomip, Ffree, Ffreep,
        Fprem, Fprem1, Fstpnce, Fucomi, Fucomip,
    };
    let conditional = [Fcmovb, Fcmovbe, Fcmove, Fcmovnb, Fcmovnbe, Fcmovne, Fcmovnu, Fcmovu];
    let others = [Fcomi, Fcomip, Fucomi, Fucomip, Ffree, Ffreep, Fprem, Fprem1, Fstpnce];
    conditional.contains(&insn.mnemonic()) || others.contains(&insn.mnemonic())
}

/// Decodes `bytes` in 64-bit mode.
pub fn decode(bytes: &[u8]) -> Instruction {
    Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE).decode()
}

/// A small deterministic generator (xorshift).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A single, often special.
    pub fn single(&mut self) -> u32 {
        let sign = (self.below(2) as u32) << 31;
        sign | match self.below(10) {
            0 => 0,
            1 => 0x7f80_0000,
            2 => 0x7fc0_0000 | self.next() as u32 & 0x3f_ffff,
            3 => 0x7f80_0001 | self.next() as u32 & 0x3f_ffff,
            4 => self.next() as u32 & 0x7f_ffff,
            5 => 0x3f80_0000,
            6 => 0x4f00_0000 | self.next() as u32 & 0x7f_ffff,
            _ => self.next() as u32 & 0x7fff_ffff,
        }
    }

    /// A double, often special.
    pub fn double(&mut self) -> u64 {
        let sign = self.below(2) << 63;
        sign | match self.below(12) {
            0 => 0,
            1 => 0x7ff0_0000_0000_0000,
            2 => 0x7ff8_0000_0000_0000 | self.next() & 0x7_ffff_ffff_ffff,
            3 => 0x7ff0_0000_0000_0001 | self.next() & 0x7_ffff_ffff_ffff,
            4 => self.next() & 0xf_ffff_ffff_ffff,
            5 => 0x3ff0_0000_0000_0000,
            6 => 0x41e0_0000_0000_0000 | self.next() & 0xf_ffff_ffff,
            7 => (0x3f0 + self.below(0x40)) << 52 | self.next() & 0xf_ffff_ffff_ffff,
            8 => (0x37d + self.below(4)) << 52 | self.next() & 0xf_ffff_ffff_ffff,
            _ => self.next() & 0x7fff_ffff_ffff_ffff,
        }
    }

    /// An 80-bit value, often special, unnormals included.
    pub fn extended(&mut self) -> [u8; 10] {
        let sign = (self.below(2) as u16) << 15;
        let top = 1u64 << 63;
        let (exponent, mantissa) = match self.below(14) {
            0 => (0, 0),
            1 => (0x7fff, top),
            2 => (0x7fff, top | 1 << 62 | self.next() >> 2),
            3 => (0x7fff, top | self.next() >> 2 | 1),
            4 => (0, self.next() >> 1),
            5 => (0, top | self.next()),
            6 => (self.next() as u16 & 0x7fff, self.next() >> 1),
            7 => (0x3fff, top),
            8 => (self.next() as u16 & 0x7fff, top | self.next()),
            9 => (0x3fff + self.below(70) as u16, top | self.next()),
            10 => (0x4030 + self.below(20) as u16, top),
            _ => (0x3ff0 + self.below(32) as u16, top | self.next() & !0xffff_ffff),
        };
        let mut out = [0; 10];
        out[..8].copy_from_slice(&mantissa.to_le_bytes());
        out[8..].copy_from_slice(&(sign | exponent).to_le_bytes());
        out
    }

    /// Sixteen bytes of one of several element kinds.
    pub fn vector(&mut self) -> [u8; 16] {
        let mut out = [0; 16];
        match self.below(3) {
            0 => out.chunks_mut(4).for_each(|c| c.copy_from_slice(&self.single().to_le_bytes())),
            1 => out.chunks_mut(8).for_each(|c| c.copy_from_slice(&self.double().to_le_bytes())),
            _ => out.chunks_mut(8).for_each(|c| c.copy_from_slice(&self.next().to_le_bytes())),
        }
        out
    }
}
