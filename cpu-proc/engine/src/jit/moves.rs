//! Compiled blocks for the same code at another pc.
//!
//! Programs and libraries lie elsewhere in each process, but in the same physical memory. A block of theirs is not compiled again for
//! that: its code is copied, or moved to the new pc where it lies, and what follows from the pc, or from where the code is, is changed
//! in it. While a block is emitted, these places are *marked*. A block whose pc shows in any other way has no [`Shape`], and stays.

use std::mem::size_of;

use bulkhead_ir::Block;

use super::stubs::{Record, Side};
use super::{ALIGN, Compiled, Jit};
use crate::blocks::{Link, jump_slot};
use crate::guest::Helper;
use crate::state::JumpEntry;

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
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark(u32);

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Bytes of code.
    len: u32,
    /// Its marks, the first and how many: those that a block was compiled with, for all of its copies.
    marks: (u32, u32),
    /// Its rows of the side table.
    rows: (u32, u32),
    /// Its links.
    links: (u32, u32),
    /// The first of its guesses.
    guess: usize,
}

impl Shape {
    /// Numbers of the block's links.
    pub fn links(&self) -> std::ops::Range<u32> {
        self.links.0..self.links.0 + self.links.1
    }
}

/// A block to be moved: its pc, the address of its code, its shape, its links.
pub(crate) struct Movable<'a> {
    pub pc: u64,
    pub entry: u64,
    pub shape: Shape,
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
    /// The shape of the block that has just been emitted, with code of `len` bytes, rows from number `row` on and `links` links from
    /// number `first_link` on.
    pub(super) fn shape(
        &mut self,
        len: usize,
        side: &Side,
        row: usize,
        (first_link, links): (u32, usize),
        guess: usize,
    ) -> Option<Shape> {
        self.asm.moves.home?;
        let marks = (self.marks.len() as u32, self.asm.moves.marks.len() as u32);
        self.marks.append(&mut self.asm.moves.marks);
        let rows = (row as u32, side.records.len().saturating_sub(row) as u32);
        Some(Shape { len: len as u32, marks, rows, links: (first_link, links as u32), guess })
    }

    /// Whether a block can be for `pc`.
    pub fn may_move_to(pc: u64) -> bool {
        PLACES.contains(&pc)
    }

    /// A copy of block `from` for `pc`, with number `id` and links from `first_link` on; `None` when the buffer is full.
    pub fn copy(
        &mut self,
        side: &mut Side,
        from: &Movable,
        pc: u64,
        (id, first_link): (u32, u32),
    ) -> Option<Compiled> {
        let shape = from.shape;
        let old = self.position(from.entry) as usize;
        let (start, row) = (self.pos, side.records.len() as u32);
        let distance = pc.wrapping_sub(from.pc);
        let way = Way {
            pc: distance,
            code: (start as i64 - old as i64) as i32,
            rows: row.wrapping_sub(shape.rows.0),
            block: id,
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
            put(&mut self.asm.code, stub + 1, &(first_link + i as u32 + 1).to_le_bytes());
            let target = link.target_pc.wrapping_add(distance);
            exits.push(((start + patch) as u32, (start + stub) as u32, target));
        }
        if !self.buf.put(start, &self.asm.code) {
            return None;
        }
        let rows = shape.rows.0 as usize..(shape.rows.0 + shape.rows.1) as usize;
        side.records.extend_from_within(rows);
        for record in side.records.iter_mut().skip(row as usize) {
            record.pc = record.pc.wrapping_add(distance);
            record.block = id;
        }
        self.pos = (start + shape.len as usize).next_multiple_of(ALIGN);
        let links = (first_link, shape.links.1);
        let shape = Shape { rows: (row, shape.rows.1), links, ..shape };
        let bytes = shape.len as usize;
        Some(Compiled { entry: self.buf.address(start), bytes, exits, shape: Some(shape) })
    }

    /// Makes block `id`, to and from which no link leads any more, one for `pc` instead.
    pub fn move_to(&mut self, side: &mut Side, block: &Movable, pc: u64, id: u32) {
        let shape = block.shape;
        let at = self.position(block.entry) as usize;
        let way = Way { pc: pc.wrapping_sub(block.pc), code: 0, rows: 0, block: id };
        self.asm.code.clear();
        self.asm.code.extend_from_slice(self.buf.bytes(at..at + shape.len as usize));
        self.apply(shape, &way);
        self.buf.put(at, &self.asm.code);
        for record in side.records.iter_mut().skip(shape.rows.0 as usize).take(shape.rows.1 as usize) {
            record.pc = record.pc.wrapping_add(way.pc);
        }
    }

    /// Panics unless a copy of `made` is what `block`, the same code lowered at the same pc, is compiled to.
    pub fn verify(
        &mut self,
        side: &mut Side,
        made: &Movable,
        helpers: &[Helper],
        block: &Block,
        mode: usize,
        base: u64,
    ) {
        let (pos, rows, pairs, marks) = (self.pos, side.records.len(), side.pairs.len(), self.marks.len());
        // Copies share their guesses.
        let guess = std::mem::replace(&mut self.guess, made.shape.guess);
        let copy = self.copy(side, made, made.pc, (0, 0)).map(|copy| {
            let shape = copy.shape.map(|shape| Shape { marks: (0, shape.marks.1), ..shape });
            (self.asm.code.clone(), side.records.split_off(rows), copy.exits, shape)
        });
        self.pos = pos;
        let fresh = self.compile(side, helpers, block, (0, 0), mode, base).map(|fresh| {
            let shape = fresh.shape.map(|shape| Shape { marks: (0, shape.marks.1), ..shape });
            (self.asm.code.clone(), side.records.split_off(rows), fresh.exits, shape)
        });
        if let (Some(copy), Some(fresh)) = (copy, fresh) {
            let rows =
                |records: &[Record]| records.iter().map(|r| Record { pairs: 0, ..*r }).collect::<Vec<_>>();
            assert_eq!(copy.0, fresh.0, "code of {block}");
            assert_eq!(rows(&copy.1), rows(&fresh.1), "side table of {block}");
            assert_eq!((copy.2, copy.3), (fresh.2, fresh.3), "exits and shape of {block}");
        }
        (self.pos, self.guess) = (pos, guess);
        side.pairs.truncate(pairs);
        self.marks.truncate(marks);
    }

    /// Changes what is at the marks of the code in `asm`.
    fn apply(&mut self, shape: Shape, way: &Way) {
        let code = &mut self.asm.code;
        // What the last mark of a pc was.
        let mut pc = 0u64;
        let marks = self.marks.iter().skip(shape.marks.0 as usize).take(shape.marks.1 as usize);
        for mark in marks {
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
