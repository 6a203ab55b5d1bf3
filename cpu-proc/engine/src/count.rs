//! Counting guest instructions (`-icount`): how many a CPU has begun, when it has to stop for whoever waits for a count, and a hash over
//! all of them.
//!
//! A compiled block counts all its instructions when it is entered, or is not entered when that would pass the limit: then they
//! are stepped one by one, so that the limit is met exactly. What leaves a block early takes the rest back. An instruction that
//! faults counts; one that is to be begun again (it would have changed its own block, or a repetition was interrupted) does not.
//!
//! The hash is the sum of count times `weight` of the pc over all instructions. It does not depend on how they were cut
//! into blocks, and a block adds to it with one multiplication.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::cache::Code;
use crate::state::{CoreState, exit};

/// The words that compiled code counts in; others may look.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Counter {
    /// Instructions begun, to the end of the running block.
    pub(crate) count: AtomicU64,
    /// Count that no block may pass.
    pub(crate) limit: AtomicU64,
    pub(crate) trace: AtomicU64,
    /// How many of those are behind the running instruction, while somebody may look.
    pub(crate) behind: AtomicU32,
    /// Row of [`Tail`] for them.
    pub(crate) tail: AtomicU32,
    /// 1: instructions are counted.
    on: AtomicU32,
    spare: AtomicU32,
}

impl Counter {
    /// Whether instructions are counted.
    pub fn is_on(&self) -> bool {
        self.on.load(Relaxed) != 0
    }

    /// Instructions begun so far, the running one included.
    pub fn executed(&self) -> u64 {
        self.count.load(Relaxed).wrapping_sub(u64::from(self.behind.load(Relaxed)))
    }

    /// From this count on the CPU attends before each instruction; to be raised then.
    pub fn set_limit(&self, count: u64) {
        self.limit.store(count, Relaxed);
    }

    /// Hash over the pcs of all instructions with their counts, and over what was [noted](note) with its count.
    pub fn trace(&self) -> u64 {
        self.trace.load(Relaxed)
    }

    fn add(&self, count: u64, trace: u64) {
        self.count.store(self.count.load(Relaxed).wrapping_add(count), Relaxed);
        self.trace.store(self.trace.load(Relaxed).wrapping_add(trace), Relaxed);
    }
}

/// What the instructions from some place of a block to its end have counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tail {
    /// How many.
    pub behind: u32,
    /// Sum of their weights.
    pub weights: u64,
    /// Sum of their weights, each times the distance of its count from the block's end.
    pub distances: u64,
}

impl Tail {
    /// The tails of a block: from its first instruction, from its second one, ..., and the empty one.
    pub fn of(pcs: &[u64]) -> Vec<Tail> {
        let mut tails = vec![Tail::default()];
        for &pc in pcs.iter().rev() {
            let last = tails.last().copied().unwrap_or_default();
            let behind = last.behind + 1;
            tails.push(Tail {
                behind,
                weights: last.weights.wrapping_add(weight(pc)),
                distances: last.distances.wrapping_sub(u64::from(behind).wrapping_mul(weight(pc))),
            });
        }
        tails.reverse();
        tails
    }

    /// What they have added to the hash of a block that ends at `count`.
    fn trace(&self, count: u64) -> u64 {
        count.wrapping_mul(self.weights).wrapping_add(self.distances)
    }
}

/// A pc's part in the hash: odd, so that no count loses it.
fn weight(pc: u64) -> u64 {
    let mixed = (pc ^ pc >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 32) | 1
}

/// Counts from now on, before anything has been compiled.
pub fn start(core: &mut CoreState) {
    core.counter.on.store(1, Relaxed);
}

/// Adds `what` to the hash, at the present count.
pub fn note(core: &mut CoreState, what: u64) {
    let counter = &core.counter;
    if counter.is_on() {
        let mixed = counter.trace() ^ what << 32 ^ counter.executed();
        counter.trace.store(mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29), Relaxed);
    }
}

/// Whether the limit is reached.
pub(crate) fn is_spent(core: &CoreState) -> bool {
    let counter = &core.counter;
    counter.is_on() && counter.count.load(Relaxed) >= counter.limit.load(Relaxed)
}

/// The instruction at the pc is begun by itself.
pub(crate) fn begin(core: &mut CoreState) {
    let counter = &core.counter;
    if counter.is_on() {
        counter.add(1, counter.count.load(Relaxed).wrapping_mul(weight(core.pc)));
    }
}

/// The tail in row `row`.
pub(crate) fn tail(core: &CoreState, row: u32) -> Option<Tail> {
    Code::of(core)?.0.lock().table.tail(row)
}

/// Compiled code or the interpreter came back: takes back what was not begun after all.
pub(crate) fn settle(core: &mut CoreState) {
    if !core.counter.is_on() {
        return;
    }
    let row = core.counter.tail.swap(0, Relaxed);
    core.counter.behind.store(0, Relaxed);
    let tail = match row {
        0 => None,
        row => tail(core, row),
    };
    let counter = &core.counter;
    if let Some(tail) = tail {
        let trace = tail.trace(counter.count.load(Relaxed));
        counter.add(u64::from(tail.behind).wrapping_neg(), trace.wrapping_neg());
    }
    if matches!(core.exit, exit::RETRY_STEP | exit::AGAIN) {
        let before = counter.count.load(Relaxed).wrapping_sub(1);
        counter.add(u64::MAX, before.wrapping_mul(weight(core.pc)).wrapping_neg());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_adds_what_its_instructions_add_one_by_one() {
        let pcs = [0x1000, 0x1003, 0xffff_ffff_8100_0000, 0, 7];
        let tails = Tail::of(&pcs);
        assert_eq!(tails.len(), pcs.len() + 1);
        assert_eq!(tails[5], Tail::default());
        let start = 123_456_789u64;
        let end = start + pcs.len() as u64;
        for (at, tail) in tails.iter().enumerate() {
            let single = pcs.iter().enumerate().skip(at);
            let sum = single
                .fold(0u64, |sum, (i, pc)| sum.wrapping_add((start + i as u64).wrapping_mul(weight(*pc))));
            assert_eq!(tail.behind as usize, pcs.len() - at);
            assert_eq!(tail.trace(end), sum, "from {at}");
        }
    }
}
