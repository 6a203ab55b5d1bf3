//! Compiled blocks for the same code at another pc.
//!
//! Programs and libraries lie elsewhere in each process, but in the same physical memory. A block of theirs is not compiled again for
//! that: its code is copied, or moved to the new pc where it lies, and what follows from the pc, or from where the code is, is changed
//! in it. While a block is emitted, these places are *marked*. A block whose pc shows in any other way has no [`Shape`], and stays.

use std::mem::size_of;
use std::sync::Arc;

use bulkhead_ir::Block;

use super::stubs::Record;
use super::{Compiled, Jit, Spot};
use crate::blocks::jump_slot;
use crate::guest::Helper;
use crate::rows::Rows;
use crate::state::JumpEntry;
use crate::table::Link;

/// What is at a mark: four bytes, or eight ([`Kind::Pc`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A value that is as far from the pc everywhere.
    Pc,
    /// Distance to shared code, from behind the mark.
    Rel,
    /// Number of a row of the side table.
    Row,
    /// A place in the jump cache, for the pc in the mark before.
    Slot,
    /// Number of the block.
    Block,
}

impl Kind {
    fn size(self) -> usize {
        if self == Kind::Pc { 8 } else { 4 }
    }
}

/// A kind and an offset in the block's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark(u32);

/// Code of more bytes has no marks.
const MARKED: usize = 1 << 28;

impl Mark {
    fn new(kind: Kind, at: usize) -> Mark {
        Mark((kind as u32) << 28 | at as u32)
    }
    fn at(self) -> usize {
        self.0 as usize % MARKED
    }
    fn kind(self) -> Kind {
        match self.0 >> 28 {
            0 => Kind::Pc,
            1 => Kind::Rel,
            2 => Kind::Row,
            3 => Kind::Slot,
            _ => Kind::Block,
        }
    }
}

/// Values that may follow from the pc are at most this far from it: displacements of 32 bits, and the block itself.
const NEAR: u64 = (1 << 31) + (1 << 16);
/// Where blocks can be moved from and to: what is near is positive there, and takes more than 32 bits.
const PLACES: std::ops::Range<u64> = 1 << 33..1 << 47;

/// The marks of the block that is being emitted.
#[derive(Default)]
pub(crate) struct Moves {
    /// Its pc, while it can be moved.
    home: Option<u64>,
    marks: Vec<Mark>,
}

impl Moves {
    /// A block is begun at `pc`, which can be moved for all that is known of it (`movable`).
    pub fn begin(&mut self, pc: u64, movable: bool) {
        self.home = Some(pc).filter(|pc| movable && PLACES.contains(pc));
        self.marks.clear();
    }

    /// What ends at `end` is of this kind.
    pub fn mark(&mut self, kind: Kind, end: usize) {
        if end >= MARKED {
            self.home = None;
        }
        if self.home.is_some() {
            self.marks.push(Mark::new(kind, end.saturating_sub(kind.size())));
        }
    }

    /// Code in `range` is there once more at `at`.
    pub fn repeat(&mut self, range: std::ops::Range<usize>, at: usize) {
        for i in 0..self.marks.len() {
            if let Some(mark) = self.marks.get(i).copied().filter(|mark| range.contains(&mark.at())) {
                let end = at + (mark.at() - range.start) + mark.kind().size();
                self.mark(mark.kind(), end);
            }
        }
    }

    fn near(pc: u64, value: u64) -> bool {
        value.wrapping_sub(pc).wrapping_add(NEAR) < 2 * NEAR
    }

    /// The eight bytes before `end` are a constant.
    pub fn constant(&mut self, value: u64, end: usize) {
        self.follows(value);
        self.mark(Kind::Pc, end);
    }

    /// The code has been chosen by this value, which should follow from the pc.
    pub fn follows(&mut self, value: u64) {
        self.home = self.home.filter(|pc| Self::near(*pc, value));
    }

    /// Part of a constant has become part of the code: it must not be one that follows from the pc.
    pub fn cut(&mut self, value: i64) {
        self.home = self.home.filter(|pc| !Self::near(*pc, value as u64));
    }
}

/// What can be moved of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Bytes of code.
    len: u32,
    /// Those that it was compiled with, for all copies.
    marks: Arc<[Mark]>,
    /// Its rows of the side table, the first and how many.
    rows: (u32, u32),
    /// The first of its guesses.
    guess: usize,
}

/// A block to be moved: its pc, the address of its code, its shape, its links.
pub(crate) struct Movable<'a> {
    pub pc: u64,
    pub entry: u64,
    pub shape: &'a Shape,
    pub links: &'a [Link],
}

/// How far what is at marks goes.
struct Way {
    /// From the old pc to the new one.
    pc: u64,
    /// The code, in the buffer.
    code: i32,
    /// Its rows, in the side table.
    rows: u32,
    block: u32,
}

impl Jit {
    /// The shape of the block that has just been emitted.
    pub(super) fn shape(&mut self, guess: usize) -> Option<Shape> {
        self.asm.moves.home?;
        let rows = (self.side.first_row, self.side.records.len() as u32);
        Some(Shape {
            len: self.asm.code.len() as u32,
            marks: self.asm.moves.marks.as_slice().into(),
            rows,
            guess,
        })
    }

    /// Whether a block can be for `pc`.
    pub fn may_move_to(pc: u64) -> bool {
        PLACES.contains(&pc)
    }

    /// A copy of block `from` for `pc`; `None` when there is no room for it.
    pub fn copy(&mut self, rows: &Rows, from: &Movable, pc: u64, spot: Spot) -> Option<Compiled> {
        let shape = from.shape;
        let old = self.position(from.entry) as usize;
        let distance = pc.wrapping_sub(from.pc);
        let way = Way {
            pc: distance,
            code: (spot.pos as i64 - old as i64) as i32,
            rows: spot.first_row.wrapping_sub(shape.rows.0),
            block: spot.id,
        };
        self.asm.code.clear();
        self.asm.code.extend_from_slice(self.buf.bytes(old..old + shape.len as usize));
        self.apply(shape, &way);
        let mut exits = Vec::with_capacity(from.links.len());
        for (i, link) in from.links.iter().enumerate() {
            let within = |position: u32| position as usize - old;
            let (patch, stub) = (within(link.patch), within(link.stub));
            put(&mut self.asm.code, patch, &(stub as i32 - (patch as i32 + 4)).to_le_bytes());
            // `mov eax, link + 1`, see the end of a block.
            put(&mut self.asm.code, stub + 1, &(spot.first_link + i as u32 + 1).to_le_bytes());
            let target = link.target_pc.wrapping_add(distance);
            exits.push(((spot.pos + patch) as u32, (spot.pos + stub) as u32, target));
        }
        self.side.begin(spot.first_row, spot.first_tail);
        self.take_rows(rows, shape, distance, spot.id);
        let shape = Shape { rows: (spot.first_row, shape.rows.1), ..shape.clone() };
        self.place(spot, exits, Some(shape))
    }

    /// Collects the rows of a block as they are for block `id`, `distance` away.
    fn take_rows(&mut self, rows: &Rows, shape: &Shape, distance: u64, id: u32) {
        let range = shape.rows.0..shape.rows.0 + shape.rows.1;
        // SAFETY: rows of a block that is in the table.
        let rows = range.filter_map(|row| unsafe { rows.get(row) });
        let moved = rows.map(|row| Record { pc: row.pc.wrapping_add(distance), block: id, ..row });
        self.side.records.extend(moved);
    }

    /// Makes block `id`, to and from which no link leads any more and which nobody runs, one for `pc` instead.
    pub fn move_to(&mut self, rows: &Rows, block: &Movable, pc: u64, id: u32) {
        let shape = block.shape;
        let at = self.position(block.entry) as usize;
        let way = Way { pc: pc.wrapping_sub(block.pc), code: 0, rows: 0, block: id };
        self.asm.code.clear();
        self.asm.code.extend_from_slice(self.buf.bytes(at..at + shape.len as usize));
        self.apply(shape, &way);
        self.buf.put(at, &self.asm.code);
        self.side.begin(shape.rows.0, 0);
        self.take_rows(rows, shape, way.pc, id);
        // SAFETY: the lock of the code is held, and nobody runs the block.
        unsafe { rows.put(shape.rows.0, &self.side.records) };
    }

    /// Panics unless a copy of `made` is what `block`, the same code lowered at the same pc, is compiled to.
    pub fn verify(
        &mut self,
        rows: &Rows,
        made: &Movable,
        helpers: &[Helper],
        block: &Block,
        spot: Spot,
        (mode, base): (usize, u64),
    ) {
        // Copies share their guesses.
        let guess = std::mem::replace(&mut self.guess, made.shape.guess);
        let copy = self.copy(rows, made, made.pc, spot);
        let copy =
            copy.map(|copy| (self.asm.code.clone(), self.side.records.clone(), copy.exits, copy.shape));
        let fresh = self.compile(helpers, block, spot, mode, base);
        let fresh =
            fresh.map(|fresh| (self.asm.code.clone(), self.side.records.clone(), fresh.exits, fresh.shape));
        if let (Some(copy), Some(fresh)) = (copy, fresh) {
            assert_eq!(copy.0, fresh.0, "code of {block}");
            assert_eq!(copy.1, fresh.1, "side table of {block}");
            assert_eq!((copy.2, copy.3), (fresh.2, fresh.3), "exits and shape of {block}");
        }
        self.guess = guess;
    }

    /// Changes what is at the marks of the code in `asm`.
    fn apply(&mut self, shape: &Shape, way: &Way) {
        let code = &mut self.asm.code;
        // What the last mark of a pc was.
        let mut pc = 0u64;
        for mark in shape.marks.iter() {
            let at = mark.at();
            if mark.kind() == Kind::Pc {
                let Some(bytes) = code.get(at..).and_then(|code| code.first_chunk()) else { continue };
                pc = u64::from_le_bytes(*bytes);
                put(code, at, &pc.wrapping_add(way.pc).to_le_bytes());
                continue;
            }
            let Some(bytes) = code.get(at..).and_then(|code| code.first_chunk()) else { continue };
            let old = u32::from_le_bytes(*bytes);
            let new = match mark.kind() {
                Kind::Rel => old.wrapping_sub(way.code as u32),
                Kind::Row => old.wrapping_add(way.rows),
                Kind::Slot => {
                    let slot = |pc: u64| (jump_slot(pc) * size_of::<JumpEntry>()) as u32;
                    old.wrapping_add(slot(pc.wrapping_add(way.pc))).wrapping_sub(slot(pc))
                }
                Kind::Block | Kind::Pc => way.block,
            };
            put(code, at, &new.to_le_bytes());
        }
    }
}

fn put(code: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = at.checked_add(bytes.len()).and_then(|end| code.get_mut(at..end)) {
        place.copy_from_slice(bytes);
    }
}
