//! Places in guest memory that a block looks up once and uses several times.
//!
//! Code reads and writes fields of the same object, or its stack frame. The first such access looks up the range of all of them
//! ([`Emitter::span`]) in the TLB at once; the host address of its start stays in a register, and the accesses behind it only test
//! that. The register is zero where the range crosses a page or is no plain memory: then each access looks up its own address,
//! out of line. A translation that was found stays right within a block: whatever drops one (a helper, a poll) ends its use.

use bulkhead_ir::liveness::{bit, effects};
use bulkhead_ir::{
    ADDR32, ALIGN16, Alu, IMPLICIT_SUPERVISOR, LD_FOR_WRITE, NONE, Name, Op, Opcode, TEMPS_END, W32, W64,
};

use super::emit::Emitter;
use crate::state::{Access, PAGE_BITS};

/// How many places a block keeps at a time: the names above those of the IR.
const COUNT: usize = (bulkhead_ir::NAMES - TEMPS_END) as usize;
/// Bytes that a range spans at most. Long ones cross pages more often.
const SPAN: i64 = 128;
/// How many ops are searched for more accesses.
const AHEAD: usize = 64;
/// The memory flags that are part of an address.
const ADDRESS_FLAGS: u8 = ADDR32 | IMPLICIT_SUPERVISOR;

/// A range that was looked up: `a + (b << s) + low` up to `high`, with the names as they are now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    a: Name,
    b: Name,
    s: u8,
    flags: u8,
    pub low: i64,
    pub high: i64,
    /// It was looked up for writing.
    pub write: bool,
    /// The last op that uses it.
    last: usize,
}

/// The places kept at one point of a block. Number `i` is in the register of name `TEMPS_END + i`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Windows([Option<Window>; COUNT]);

impl Windows {
    /// The names in use, a bit each.
    pub fn names(&self) -> u64 {
        self.0.iter().enumerate().filter(|(_, w)| w.is_some()).fold(0, |names, (i, _)| names | bit(name(i)))
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0 = [None; COUNT];
    }

    /// The name of the window that holds the access `op`, and its distance from the window's start.
    pub fn find(&self, op: &Op, kind: Access) -> Option<(Name, i32)> {
        access(op)?;
        let size = 1i64 << op.w.min(4);
        self.0.iter().enumerate().find_map(|(i, w)| {
            let w = w.as_ref().filter(|w| w.fits(op) && (w.write || kind == Access::Read))?;
            let from = op.imm.wrapping_sub(w.low);
            ((0..=SPAN).contains(&from) && op.imm.wrapping_add(size) <= w.high)
                .then_some((name(i), from as i32))
        })
    }

    /// Keeps `window`, instead of the one of the same address or of the one that is used the longest from now.
    pub fn add(&mut self, window: Window) -> Name {
        let same = |w: &Window| (w.a, w.b, w.s, w.flags) == (window.a, window.b, window.s, window.flags);
        let place = |f: &dyn Fn(&Option<Window>) -> bool| self.0.iter().position(f);
        let at = place(&|w| w.as_ref().is_some_and(same)).or_else(|| place(&Option::is_none)).unwrap_or(0);
        if let Some(w) = self.0.get_mut(at) {
            *w = Some(window);
        }
        name(at)
    }

    /// Op number `at` has been emitted: what it changed is no longer the same address.
    pub fn pass(&mut self, op: &Op, at: usize) {
        for window in &mut self.0 {
            let Some(w) = window else { continue };
            match w.moved(op) {
                Some(by) if w.last > at => {
                    w.low = w.low.wrapping_sub(by);
                    w.high = w.high.wrapping_sub(by);
                }
                _ => *window = None,
            }
        }
    }
}

fn name(index: usize) -> Name {
    TEMPS_END + index as Name
}

impl Window {
    fn of(op: &Op) -> Window {
        let flags = op.k & ADDRESS_FLAGS;
        Window { a: op.a, b: op.b, s: op.s, flags, low: op.imm, high: op.imm, write: false, last: 0 }
    }

    fn fits(&self, op: &Op) -> bool {
        (op.a, op.b, op.s, op.k & ADDRESS_FLAGS) == (self.a, self.b, self.s, self.flags)
    }

    /// By how much `op` moves the address that the names give; `None` when it changes them in another way.
    fn moved(&self, op: &Op) -> Option<i64> {
        if op.op == Opcode::Call {
            // A helper ends all windows when it is called; the names are those of its effects. What an engine does itself is an
            // x87 instruction, and has a temporary as its result at most.
            return (bit(op.d) & (bit(self.a) | bit(self.b)) == 0).then_some(0);
        }
        let partly = if matches!(op.op, Opcode::Dep | Opcode::DepH) { bit(op.d) } else { 0 };
        let changed = effects(op, |_| None).defs | partly;
        if changed & (bit(self.a) | bit(self.b)) == 0 {
            return Some(0);
        }
        let whole = op.w == W64 || (op.w == W32 && self.flags & ADDR32 != 0);
        if op.d != self.a || op.a != self.a || op.b != NONE || self.b == self.a || !whole {
            return None;
        }
        match op.op {
            Opcode::Lea => Some(op.imm),
            Opcode::Alu if op.k == Alu::Add as u8 => Some(op.imm),
            Opcode::Alu if op.k == Alu::Sub as u8 => Some(op.imm.wrapping_neg()),
            _ => None,
        }
    }
}

/// What kind of access `op` is, if it is one.
fn access(op: &Op) -> Option<Access> {
    match op.op {
        // Whether it is aligned is asked of its own address.
        Opcode::LdV | Opcode::StV if op.k & ALIGN16 != 0 => None,
        Opcode::Ld if op.k & LD_FOR_WRITE != 0 => Some(Access::Write),
        Opcode::Ld | Opcode::LdV => Some(Access::Read),
        Opcode::St | Opcode::StV => Some(Access::Write),
        _ => None,
    }
}

impl Emitter<'_> {
    /// The range that the access `op`, of kind `first`, and those behind it at the same address have in common; `None` when there are
    /// none.
    pub(super) fn span(&self, op: &Op, first: Access) -> Option<Window> {
        access(op)?;
        let size = |op: &Op| 1i64 << op.w.min(4);
        let mut window = Window::of(op);
        if [op.a, op.b].into_iter().any(|n| self.regs.constant(n).is_some()) {
            return None;
        }
        // All of the window is in terms of the names as they are at `op`; at `next` they are `shift` more.
        window.high = op.imm.checked_add(size(op))?;
        window.write = first == Access::Write;
        let names = window;
        let mut shift = 0i64;
        // Behind a way out, a write may never happen: it looks up its address for itself.
        let mut certain = true;
        let mut more = false;
        for (i, next) in self.block.ops.iter().enumerate().skip(self.at).take(AHEAD) {
            if i > self.at
                && names.fits(next)
                && let Some(kind) = access(next)
            {
                let at = next.imm.wrapping_add(shift);
                let (low, high) = (window.low.min(at), window.high.max(at.wrapping_add(size(next))));
                let writes = kind == Access::Write && !window.write;
                let page = |at: i64| at >> PAGE_BITS;
                let known = op.a == NONE && op.b == NONE;
                let apart = known && page(low) != page(high.wrapping_sub(1));
                if !apart && high.wrapping_sub(low) <= SPAN && high > low && (certain || !writes) {
                    (window.low, window.high) = (low, high);
                    window.write |= writes;
                    window.last = i;
                    more = true;
                }
            }
            match next.op {
                Opcode::Side => certain = false,
                Opcode::Call if !Self::is_x87(next) => break,
                _ => {}
            }
            match names.moved(next) {
                Some(by) => shift = shift.wrapping_add(by),
                None => break,
            }
        }
        more.then_some(window)
    }
}
