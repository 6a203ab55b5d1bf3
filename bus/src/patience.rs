//! How long one who waits looks for work before it sleeps.
//!
//! To be woken costs some 50 us, most of it the processor's own when it was idle, and much more on a virtual machine whose host is
//! busy: a disk request of 1 MiB, some 600 us of work, would meet that four times. So who was called soon after its last waits looks
//! on for as long as that took; who waits long several times, as in an idle guest, sleeps at once.

use std::cell::Cell;

use crate::sys;

/// What a wait may last for a look to be worth it.
const LONGEST_NS: u64 = 400_000;
/// Length of the first look of one who slept at once before.
const FIRST_NS: u64 = 20_000;

/// Looks until `found`, for `ns` nanoseconds from `start` (monotonic) and while `may` holds. Whether it was found.
pub fn look(start: u64, ns: u64, may: impl Fn() -> bool, found: impl Fn() -> bool) -> bool {
    while may() {
        for _ in 0..16 {
            if found() {
                return true;
            }
            sys::pause();
        }
        if sys::monotonic_ns().saturating_sub(start) > ns {
            break;
        }
    }
    false
}

/// The length of the next look.
#[derive(Debug)]
pub struct Patience {
    least_ns: u64,
    look_ns: Cell<u64>,
    /// Whether the last wait was too long for a look.
    long: Cell<bool>,
}

impl Patience {
    /// With looks of at least `least_ns` nanoseconds.
    pub fn new(least_ns: u64) -> Patience {
        Patience { least_ns, look_ns: Cell::new(least_ns), long: Cell::new(false) }
    }

    /// How long to look, in nanoseconds.
    #[inline]
    pub fn look_ns(&self) -> u64 {
        self.look_ns.get()
    }

    /// A look has found something.
    #[inline]
    pub fn found(&self) {
        self.long.set(false);
    }

    /// A wait has lasted `ns`, longer than its look, which it includes.
    pub fn lasted(&self, ns: u64) {
        let look = self.look_ns.get();
        let long = ns > LONGEST_NS;
        let next = match (long, self.long.replace(long)) {
            (false, _) => (look * 2).clamp(FIRST_NS, LONGEST_NS),
            // One long wait among short ones is no reason to forget them.
            (true, false) => look,
            (true, true) => look / 2,
        };
        self.look_ns.set(if next < FIRST_NS { self.least_ns } else { next.max(self.least_ns) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_waits_make_patient_and_long_ones_do_not() {
        let patience = Patience::new(0);
        assert_eq!(patience.look_ns(), 0, "an idle guest costs nothing");
        let look = |ns| {
            match ns <= patience.look_ns() {
                true => patience.found(),
                false => patience.lasted(ns),
            }
            patience.look_ns() / 1000
        };
        assert_eq!([150_000; 6].map(look), [20, 40, 80, 160, 160, 160]);
        assert_eq!([300_000; 3].map(look), [320, 320, 320]);
        assert_eq!([390_000; 2].map(look), [400, 400]);
        assert_eq!(
            [4_000_000, 150_000, 4_000_000, 300_000].map(look),
            [400; 4],
            "long ones among short ones"
        );
        assert_eq!([4_000_000; 7].map(look), [400, 200, 100, 50, 25, 0, 0]);
    }

    #[test]
    fn nobody_looks_shorter_than_its_least() {
        let patience = Patience::new(50_000);
        patience.lasted(200_000);
        assert_eq!(patience.look_ns(), 100_000);
        [1_000_000; 3].into_iter().for_each(|ns| patience.lasted(ns));
        assert_eq!(patience.look_ns(), 50_000);
    }
}
