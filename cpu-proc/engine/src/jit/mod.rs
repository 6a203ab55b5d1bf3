//! The baseline compiler: one pass from IR to x86-64, a block at a time.

mod asm;
mod count;
mod emit;
mod flags;
mod memory;
mod moves;
mod ops;
mod regs;
mod stubs;
mod vectors;
mod windows;
mod x87;

use std::io;

use bulkhead_ir::liveness::{self, Life};
use bulkhead_ir::{Block, HelperInfo};

use crate::codebuf::CodeBuf;
use crate::guest::Helper;
use crate::state::CoreState;
use asm::Asm;
use emit::{Emitter, Target};
use moves::Mark;
pub(crate) use moves::{Movable, Shape};
use regs::Regs;
pub(crate) use stubs::{Side, Stubs};
use vectors::Vectors;

/// The code buffer and the compiler's reusable parts.
pub(crate) struct Jit {
    buf: CodeBuf,
    /// First free position.
    pos: usize,
    stubs: Stubs,
    asm: Asm,
    regs: Regs,
    vectors: Vectors,
    lives: Vec<Life>,
    bmi2: bool,
    /// Number of the next guess.
    guess: usize,
    /// Of all blocks that can be moved.
    marks: Vec<Mark>,
    /// Blocks count their instructions.
    pub counting: bool,
}

/// Where a compiled block's code and links are.
pub(crate) struct Compiled {
    /// Address of the code.
    pub entry: u64,
    /// Bytes of it.
    pub bytes: usize,
    /// Its direct exits: position of the displacement, of the stub, and pc.
    pub exits: Vec<(u32, u32, u64)>,
    /// How it can be moved.
    pub shape: Option<Shape>,
}

/// Blocks are counted as if none had less code. Those of real programs have three times as much.
const BYTES_A_BLOCK: usize = 128;

/// Code starts at multiples of this.
const ALIGN: usize = 16;

/// `(state, entry) -> link + 1, or 0`.
type Enter = unsafe extern "sysv64" fn(*mut CoreState, u64) -> u64;

impl Jit {
    /// Reserves a code buffer of `len` bytes and emits the shared code.
    pub fn new(len: usize) -> io::Result<Jit> {
        let mut buf = CodeBuf::new(len)?;
        let mut asm = Asm::default();
        let stubs = stubs::emit(&mut asm);
        if !buf.put(0, &asm.code) {
            return Err(io::Error::other("code buffer too small"));
        }
        Ok(Jit {
            buf,
            pos: stubs.end.next_multiple_of(ALIGN),
            stubs,
            asm,
            regs: Regs::default(),
            vectors: Vectors::default(),
            lives: Vec::new(),
            bmi2: std::arch::is_x86_feature_detected!("bmi2"),
            guess: 0,
            marks: Vec::new(),
            counting: false,
        })
    }

    /// Blocks that there may be: the tables about them are not to outgrow the buffer by much, however small they are.
    pub fn most_blocks(&self) -> usize {
        self.buf.len() / BYTES_A_BLOCK
    }

    /// Bytes that there is room for.
    pub fn room(&self) -> usize {
        self.buf.len()
    }

    /// Bytes of code.
    pub fn used(&self) -> usize {
        self.pos
    }

    /// Forgets all blocks.
    pub fn clear(&mut self) {
        self.pos = self.stubs.end.next_multiple_of(ALIGN);
        self.marks.clear();
    }

    /// Compiles a block; `None` when the buffer is full.
    pub fn compile(
        &mut self,
        side: &mut Side,
        helpers: &[Helper],
        block: &Block,
        (id, first_link): (u32, u32),
        mode: usize,
        base: u64,
    ) -> Option<Compiled> {
        let info = |n: u16| -> Option<HelperInfo> { helpers.get(usize::from(n)).map(|h| h.info) };
        liveness::analyse(block, info, &mut self.lives);
        self.asm.code.clear();
        self.asm.base = self.pos;
        // The hash of counted blocks is of their pcs.
        self.asm.moves.begin(block.pc, block.movable && !self.counting);
        self.regs.reset();
        self.vectors.reset();
        let (records, pairs, tails) = (side.records.len(), side.pairs.len(), side.tails.len());
        let guess = self.guess;
        let mut emitter = Emitter {
            asm: &mut self.asm,
            regs: &mut self.regs,
            vectors: &mut self.vectors,
            side,
            stubs: &self.stubs,
            helpers,
            block,
            lives: &self.lives,
            target: Target { id, first_link, mode, base, bmi2: self.bmi2, counting: self.counting },
            cold: Vec::new(),
            exits: Vec::new(),
            host: false,
            mem: true,
            pc: block.pc,
            at: 0,
            fpu: x87::Known::default(),
            pending: None,
            windows: windows::Windows::default(),
            guesses: Vec::new(),
            next_guess: &mut self.guess,
            count: count::Counts::default(),
        };
        emitter.run();
        #[cfg(test)]
        if std::env::var_os("JIT_DUMP").is_some() {
            dump(block, &emitter.asm.code);
        }
        let start = self.pos as u32;
        let exits: Vec<_> =
            emitter.exits.iter().map(|e| (start + e.patch.0 as u32, start + e.stub as u32, e.pc)).collect();
        if !self.buf.put(self.pos, &self.asm.code) {
            side.records.truncate(records);
            side.pairs.truncate(pairs);
            side.tails.truncate(tails);
            return None;
        }
        let entry = self.buf.address(self.pos);
        let len = self.asm.code.len();
        self.pos = (self.pos + len).next_multiple_of(ALIGN);
        let shape = self.shape(len, side, records, (first_link, exits.len()), guess);
        Some(Compiled { entry, bytes: len, exits, shape })
    }

    /// Lets the displacement at `patch` lead to position `target`.
    pub fn repatch(&mut self, patch: u32, target: u32) {
        let rel = i64::from(target) - (i64::from(patch) + 4);
        self.buf.put(patch as usize, &(rel as i32).to_le_bytes());
    }

    /// Position of an address in the buffer.
    pub fn position(&self, address: u64) -> u32 {
        address.wrapping_sub(self.buf.address(0)) as u32
    }

    /// The code from `entry` to the end of what is compiled.
    pub fn code_from(&self, entry: u64) -> &[u8] {
        self.buf.bytes(self.position(entry) as usize..self.pos)
    }

    /// Address of the entry function.
    pub fn enter(&self) -> u64 {
        self.buf.address(self.stubs.enter)
    }
}

/// Runs compiled code from `entry`. Returns the link that it left through, plus one, or 0.
///
/// # Safety
/// `enter` and `entry` are addresses of the same [`Jit`] that is attached to `core`, and `entry` starts a block that is
/// valid for the current state.
pub(crate) unsafe fn enter(core: &mut CoreState, enter: u64, entry: u64) -> u64 {
    // SAFETY: the entry function has this signature.
    let function: Enter = unsafe { std::mem::transmute(enter as usize) };
    // A value that would fault is never loaded.
    core.mxcsr = core.mxcsr & 0xffff | 0x1f80;
    core.mxcsr_live = 1;
    // SAFETY: the caller's promise; the code keeps to the calling convention.
    let link = unsafe { function(core, entry) };
    core.mxcsr_live = 0;
    link
}

/// Prints a block with its code.
#[cfg(test)]
fn dump(block: &Block, code: &[u8]) {
    use iced_x86::{Decoder, DecoderOptions, FastFormatter};
    println!("{block}");
    for insn in Decoder::with_ip(64, code, 0, DecoderOptions::NONE) {
        let mut text = String::new();
        FastFormatter::new().format(&insn, &mut text);
        println!("{:5x} {text}", insn.ip());
    }
}
