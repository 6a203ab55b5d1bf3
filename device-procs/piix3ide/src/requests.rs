//! Requests to the back end: which there are follows from a drive's state alone.
//!
//! A device process can die between any two instructions, and its successor runs the interrupted transaction again from the
//! last committed state, with a link that may already hold the first run's requests. So nothing done to the link may
//! depend on what the link holds, and nothing that the old state still needs may be freed:
//! * requests have numbers that only the state decides; number n always uses slot n mod 7, and a request that is already there
//!   under its number is not submitted twice. What is there under the number but asks for something else is of a transaction that was
//!   skipped after it had killed several processes: it is waited for and freed like one of an aborted command;
//! * a state that was lost leaves its requests behind: at power-on the numbers go on behind them, as the back end runs them in
//!   order. Nothing is submitted by that;
//! * a slot is freed only at the *start* of a transaction ([`Channel::reap`]), judged by the committed state;
//! * at most [`WINDOW`] requests count at a time, so that none of them needs a slot that the same transaction gave up;
//! * a request of an aborted command is not taken back: its number no longer counts, the back end finishes it in order before
//!   anything later, and its slot is freed then. A new command whose turn comes to that slot waits.
//!
//! The eighth slot is never submitted: replies that the chip makes itself (IDENTIFY, sense data) lie there, so that a drive
//! whose back end is gone still answers them.

use bulkhead_bus::links::{BLOCK_SLOTS, BlockOp, BlockStatus};

use crate::Unit;
use crate::state::{Channel, Drive, phase};

/// Most requests in flight that count.
pub(crate) const WINDOW: u64 = 3;
/// Slots that requests use in turn.
const TURN: usize = BLOCK_SLOTS - 1;
/// The slot of replies.
const REPLY: usize = BLOCK_SLOTS - 1;
/// Bytes of a request: a whole number of disk and CD sectors.
pub(crate) const CHUNK: u64 = 128 << 10;

/// Higher numbers in a link are lies: no drive lives that long.
const NUMBER_MAX: u64 = 1 << 62;

const _: () = assert!(CHUNK as usize <= bulkhead_bus::links::BLOCK_DATA);
const _: () = assert!(WINDOW as usize * 2 <= TURN);

/// Slot of a request number.
pub(crate) fn slot(number: u64) -> usize {
    (number % TURN as u64) as usize
}

impl Drive {
    /// Slot of the buffer that the host or the bus master reads or fills.
    pub(crate) fn buffer(&self) -> usize {
        if self.reply != 0 { REPLY } else { slot(self.head) }
    }

    /// Bytes of the command's request that is `at` after `head`.
    pub(crate) fn chunk(&self, at: u64) -> u64 {
        self.left.saturating_sub(at.saturating_mul(CHUNK)).min(CHUNK)
    }

    /// Requests in flight that count.
    pub(crate) fn flying(&self) -> u64 {
        self.next.wrapping_sub(self.head)
    }

    /// Lets a read have as many requests as the window and its length allow.
    pub(crate) fn extend(&mut self) {
        let wanted = self.left.div_ceil(CHUNK).min(WINDOW);
        self.next = self.head.wrapping_add(wanted.max(self.flying()));
    }

    /// Request `head` is done with: the command goes on behind it.
    pub(crate) fn consume(&mut self) {
        let length = self.chunk(0);
        self.offset = self.offset.saturating_add(length);
        self.left -= length;
        if self.flying() == 0 {
            self.next = self.next.wrapping_add(1);
        }
        self.head = self.head.wrapping_add(1);
        (self.moved, self.filled, self.block_end) = (0, 0, 0);
    }

    /// Forgets every request: the command is over.
    pub(crate) fn abandon(&mut self) {
        self.head = self.next;
        self.left = 0;
        (self.moved, self.filled, self.block_end, self.reply, self.hold) = (0, 0, 0, 0, 0);
    }

    /// Operation of the requests that count.
    fn operation(&self) -> Option<BlockOp> {
        match self.phase {
            phase::FETCH | phase::DATA_IN => Some(BlockOp::Read),
            phase::STORE | phase::PULL => Some(BlockOp::Write),
            phase::FLUSH => Some(BlockOp::Flush),
            _ => None,
        }
    }

    /// Byte offset and length of the request that is `at` after `head`.
    fn span(&self, op: BlockOp, at: u64) -> (u64, usize) {
        let length = if op == BlockOp::Flush { 0 } else { self.chunk(at) };
        (self.offset.saturating_add(at.saturating_mul(CHUNK)), length as usize)
    }

    /// Whether request `number`, which is in its slot, is the one that the state means by that number.
    fn is_own(&self, unit: &Unit<'_>, op: BlockOp, number: u64) -> bool {
        let (offset, length) = self.span(op, number.wrapping_sub(self.head));
        unit.block.asks(slot(number)) == (op as u32, offset, length)
    }

    /// Whether a request that is in slot `at` counts.
    fn counts(&self, unit: &Unit<'_>, at: usize, number: u64) -> bool {
        number.wrapping_sub(self.head) < self.flying()
            && slot(number) == at
            && self.operation().is_some_and(|op| self.is_own(unit, op, number))
    }

    /// What became of request `head`; `None` while it is not done.
    pub(crate) fn outcome(&self, unit: &Unit<'_>) -> Option<BlockStatus> {
        let at = slot(self.head);
        match unit.block.request(at) {
            Some((number, outcome)) if number == self.head && self.counts(unit, at, number) => outcome,
            _ => None,
        }
    }

    /// Whether the buffer of write request `number` may be filled: nothing else still uses its slot.
    pub(crate) fn is_clear(&self, unit: &Unit<'_>, number: u64) -> bool {
        unit.block
            .request(slot(number))
            .is_none_or(|(holder, _)| holder == number && self.is_own(unit, BlockOp::Write, number))
    }

    /// The next request's number at power-on: behind every request that the link still holds.
    pub(crate) fn next_after(&self, unit: &Unit<'_>) -> u64 {
        let held = (0..TURN).filter_map(|at| unit.block.request(at)).map(|(number, _)| number);
        held.filter(|number| *number < NUMBER_MAX).fold(self.next, |next, number| next.max(number + 1))
    }
}

impl Channel {
    /// Frees the slots of requests that are done and no longer count. To be called only before the state is changed.
    pub(crate) fn reap(&mut self, drive: usize, unit: &Unit<'_>) {
        let Some(state) = self.drives.get(drive) else { return };
        for at in 0..TURN {
            if let Some((number, Some(_))) = unit.block.request(at)
                && !state.counts(unit, at, number)
            {
                unit.block.release(at);
            }
        }
    }

    /// Submits what the state says is in flight and the link does not hold yet.
    pub(crate) fn pump(&mut self, drive: usize, unit: &Unit<'_>) {
        let Some(state) = self.drives.get(drive) else { return };
        let Some(op) = state.operation() else { return };
        for at in 0..state.flying().min(WINDOW) {
            let number = state.head.wrapping_add(at);
            if unit.block.request(slot(number)).is_none() {
                let (offset, length) = state.span(op, at);
                // Refused only when the slot is taken: tried again when its request is done.
                let _ = unit.block.submit(slot(number), op, offset, length, number);
            }
        }
    }
}
