//! Ticks of a periodic timer that came due while the one before still waited for the CPU.
//!
//! An interrupt request is one bit, so a tick that finds it set is merged into the one that waits. On hardware that takes a guest with its
//! interrupts off for a whole period; here a host that lets the vCPU's thread run late is enough, and clocks that count ticks
//! lose time. So merged ticks are owed, and come one by one when the one before has been acknowledged:
//!
//! * not before [`PACE`]ths of a period after that, nor [`LEAST_NS`], so that what the guest does besides goes on; but at once
//!   to a CPU that halts, which has nothing else to do;
//! * at most the ticks of one second: of a guest that keeps its interrupts off for longer, or was stopped for longer, the rest is lost;
//! * programming the timer anew forgets them, and so does masking its input for [`MASKED_NS`].

use crate::clock::NANOSECONDS;
use serde::{Deserialize, Serialize};

/// Parts of a period between an acknowledge and the next tick that is owed.
pub const PACE: u64 = 16;
/// Least nanoseconds between those two.
pub const LEAST_NS: u64 = 10_000;
/// Who masks a timer's input for so long (a handler does for its own time) does not want what came meanwhile.
pub const MASKED_NS: u64 = 100_000_000;

/// What is owed of one timer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owed {
    ticks: u64,
    /// Guest time before which none comes.
    not_before: u64,
}

impl Owed {
    /// `ticks` more of a timer with this period in nanoseconds.
    pub fn add(&mut self, ticks: u64, period: u64) {
        let most = (NANOSECONDS / period.max(LEAST_NS)).max(1);
        self.ticks = self.ticks.saturating_add(ticks).min(most);
    }

    /// Nothing is owed any more.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Whether anything is owed.
    #[must_use]
    pub fn any(&self) -> bool {
        self.ticks != 0
    }

    /// Ticks owed.
    #[must_use]
    pub fn ticks(&self) -> u64 {
        self.ticks
    }

    /// The tick before was acknowledged at `now`.
    pub fn acknowledged(&mut self, now: u64, period: u64) {
        self.not_before = now.saturating_add((period / PACE).max(LEAST_NS));
    }

    /// The CPU has nothing else to do.
    pub fn hurry(&mut self, now: u64) {
        self.not_before = self.not_before.min(now);
    }

    /// Guest time at which the next one may come.
    #[must_use]
    pub fn due(&self) -> Option<u64> {
        self.any().then_some(self.not_before)
    }

    /// Takes one, if it may come now.
    pub fn take(&mut self, now: u64, period: u64) -> bool {
        let due = self.due().is_some_and(|due| due <= now);
        if due {
            self.ticks -= 1;
            // Whatever the guest does about acknowledging.
            self.acknowledged(now, period);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn at_most_the_ticks_of_a_second_are_owed() {
        let mut owed = Owed::default();
        owed.add(999, MS);
        assert_eq!(owed.ticks(), 999);
        owed.add(u64::MAX, MS);
        assert_eq!(owed.ticks(), 1000);
        let mut slow = Owed::default();
        slow.add(7, 3 * NANOSECONDS);
        assert_eq!(slow.ticks(), 1);
        let mut fast = Owed::default();
        fast.add(u64::MAX, 1);
        assert_eq!(fast.ticks(), NANOSECONDS / LEAST_NS, "no more than come within a second");
    }

    #[test]
    fn ticks_keep_their_distance_but_to_a_cpu_that_halts() {
        let mut owed = Owed::default();
        assert!(!owed.take(5, MS));
        owed.add(3, MS);
        owed.acknowledged(1000, MS);
        assert_eq!(owed.due(), Some(1000 + MS / PACE));
        assert!(!owed.take(999 + MS / PACE, MS));
        assert!(owed.take(1000 + MS / PACE, MS));
        assert!(!owed.take(1000 + MS / PACE, MS), "one at a time");
        owed.hurry(1001 + MS / PACE);
        assert!(owed.take(1001 + MS / PACE, MS));
        owed.forget();
        assert_eq!(owed.due(), None);
    }
}
