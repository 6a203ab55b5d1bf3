//! Requests to the back end: which there are follows from a drive's state alone.
//!
//! A device process can die between any two instructions, and its successor runs the interrupted transaction again from the
//! last committed state, with a link that may already hold the first run's requests. So nothing done to the link may
//! depend on what the link holds, and nothing that the old state still needs may be freed:
//! * requests have numbers that only the state decides; number n always uses slot n mod 7, and a request that is already there
//!   under its number is not submitted twice;
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

    /// What became of request `head`; `None` while it is not done.
    pub(crate) fn outcome(&self, unit: &Unit<'_>) -> Option<BlockStatus> {
        if self.head == self.next {
            return None;
        }
        match unit.block.request(slot(self.head)) {
            Some((number, Some(outcome))) if number == self.head => Some(outcome),
            _ => None,
        }
    }

    /// Whether the buffer of request `number` may be filled: nothing else still uses its slot.
    pub(crate) fn is_clear(&self, unit: &Unit<'_>, number: u64) -> bool {
        unit.block.request(slot(number)).is_none_or(|(holder, _)| holder == number)
    }
}

impl Channel {
    /// Frees the slots of requests that are done and no longer count. To be called only before the state is changed.
    pub(crate) fn reap(&mut self, drive: usize, unit: &Unit<'_>) {
        let Some(state) = self.drives.get(drive) else { return };
        for at in 0..TURN {
            if let Some((number, Some(_))) = unit.block.request(at)
                && (number.wrapping_sub(state.head) >= state.flying() || slot(number) != at)
            {
                unit.block.release(at);
            }
        }
    }

    /// Submits what the state says is in flight and the link does not hold yet.
    pub(crate) fn pump(&mut self, drive: usize, unit: &Unit<'_>) {
        let Some(state) = self.drives.get(drive) else { return };
        let op = match state.phase {
            phase::FETCH | phase::DATA_IN => BlockOp::Read,
            phase::STORE | phase::PULL => BlockOp::Write,
            phase::FLUSH => BlockOp::Flush,
            _ => return,
        };
        for at in 0..state.flying().min(WINDOW) {
            let number = state.head.wrapping_add(at);
            if unit.block.request(slot(number)).is_none() {
                let length = if op == BlockOp::Flush { 0 } else { state.chunk(at) };
                let offset = state.offset.saturating_add(at.saturating_mul(CHUNK));
                // Refused only when the slot is taken: tried again when its request is done.
                let _ = unit.block.submit(slot(number), op, offset, length as usize, number);
            }
        }
    }
}
