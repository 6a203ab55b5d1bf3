//! The baseline compiler: one pass from IR to x86-64, a block at a time.

mod asm;
mod cold;
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
use std::ops::Range;

use bulkhead_ir::liveness::{self, Life};
use bulkhead_ir::{Block, HelperInfo};

use crate::codebuf::CodeBuf;
use crate::guest::Helper;
use crate::state::CoreState;
use asm::Asm;
use emit::{Emitter, Target};
pub(crate) use moves::{Movable, Shape};
use regs::Regs;
pub(crate) use stubs::Record;
use stubs::{Side, Stubs};
use vectors::Vectors;

/// The code buffer and the compiler's reusable parts.
pub(crate) struct Jit {
    buf: CodeBuf,
    stubs: Stubs,
    asm: Asm,
    regs: Regs,
    vectors: Vectors,
    lives: Vec<Life>,
    bmi2: bool,
    /// Number of the next guess.
    guess: usize,
    /// What the last block adds to the side table.
    side: Side,
    /// Blocks count their instructions.
    pub counting: bool,
}

/// Where a compiled block's code and links are.
pub(crate) struct Compiled {
    /// Address of the code.
    pub entry: u64,
    /// Bytes of it.
    pub bytes: usize,
    /// First free position behind it.
    pub end: usize,
    /// Its first row of the side table.
    pub first_row: u32,
    /// Its direct exits: position of the displacement, of the stub, and pc.
    pub exits: Vec<(u32, u32, u64)>,
    /// How it can be moved.
    pub shape: Option<Shape>,
}

/// Where a block is to go, and the numbers that it will have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot {
    /// First free position.
    pub pos: usize,
    /// Where it has to end.
    pub end: usize,
    pub id: u32,
    pub first_link: u32,
    pub first_row: u32,
    /// Rows that there is room for.
    pub rows: u32,
    pub first_tail: u32,
}

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
            stubs,
            asm,
            regs: Regs::default(),
            vectors: Vectors::default(),
            lives: Vec::new(),
            bmi2: std::arch::is_x86_feature_detected!("bmi2"),
            guess: 0,
            side: Side::default(),
            counting: false,
        })
    }

    /// Positions for blocks.
    pub fn free(&self) -> Range<usize> {
        self.stubs.end.next_multiple_of(64)..self.buf.len()
    }

    /// What the last block adds to the side table.
    pub fn side(&self) -> &Side {
        &self.side
    }

    /// Compiles a block; `None` when there is no room for it.
    pub fn compile(
        &mut self,
        helpers: &[Helper],
        block: &Block,
        spot: Spot,
        mode: usize,
        base: u64,
    ) -> Option<Compiled> {
        let info = |n: u16| -> Option<HelperInfo> { helpers.get(usize::from(n)).map(|h| h.info) };
        liveness::analyse(block, info, &mut self.lives);
        self.asm.code.clear();
        self.asm.base = spot.pos;
        self.side.begin(spot.first_row, spot.first_tail);
        // The hash of counted blocks is of their pcs.
        self.asm.moves.begin(block.pc, block.movable && !self.counting);
        self.regs.reset();
        self.vectors.reset();
        let guess = self.guess;
        let mut emitter = Emitter {
            asm: &mut self.asm,
            regs: &mut self.regs,
            vectors: &mut self.vectors,
            side: &mut self.side,
            stubs: &self.stubs,
            helpers,
            block,
            lives: &self.lives,
            target: Target {
                id: spot.id,
                first_link: spot.first_link,
                mode,
                base,
                bmi2: self.bmi2,
                counting: self.counting,
            },
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
        let start = spot.pos as u32;
        let exits: Vec<_> =
            emitter.exits.iter().map(|e| (start + e.patch.0 as u32, start + e.stub as u32, e.pc)).collect();
        let shape = self.shape(guess);
        self.place(spot, exits, shape)
    }

    /// Puts what has been made into its place.
    fn place(&mut self, spot: Spot, exits: Vec<(u32, u32, u64)>, shape: Option<Shape>) -> Option<Compiled> {
        let len = self.asm.code.len();
        let end = (spot.pos + len).next_multiple_of(ALIGN);
        if end > spot.end
            || self.side.records.len() > spot.rows as usize
            || !self.buf.put(spot.pos, &self.asm.code)
        {
            return None;
        }
        let entry = self.buf.address(spot.pos);
        Some(Compiled { entry, bytes: len, end, first_row: spot.first_row, exits, shape })
    }

    /// Lets the displacement at `patch` lead to position `target`.
    pub fn repatch(&mut self, patch: u32, target: u32) {
        let rel = i64::from(target) - (i64::from(patch) + 4);
        self.buf.patch(patch as usize, rel as i32);
    }

    /// Position that the displacement at `patch` leads to.
    #[cfg(test)]
    pub fn leads_to(&self, patch: u32) -> u32 {
        let at = patch as usize;
        let rel = self.buf.bytes(at..at + 4).first_chunk().map_or(0, |rel| i32::from_le_bytes(*rel));
        patch.wrapping_add(4).wrapping_add_signed(rel)
    }

    /// Position of an address in the buffer.
    pub fn position(&self, address: u64) -> u32 {
        address.wrapping_sub(self.buf.address(0)) as u32
    }

    /// `len` bytes of code from `entry` on.
    pub fn code(&self, entry: u64, len: usize) -> &[u8] {
        let start = self.position(entry) as usize;
        self.buf.bytes(start..start + len)
    }

    /// Address of the entry function.
    pub fn enter(&self) -> u64 {
        self.buf.address(self.stubs.enter)
    }
}

/// Runs compiled code from `entry`. Returns the link that it left through, plus one, or 0.
///
/// # Safety
/// `enter` and `entry` are addresses of the [`Jit`] whose code `core` runs, and `entry` starts a block that is
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
