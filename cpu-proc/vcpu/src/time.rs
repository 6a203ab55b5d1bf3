//! Guest time: the clock page's, or with `-icount` a count of instructions.
//!
//! Counted time moves while instructions run, and while the CPU halts to the next thing that is due. It is the time of the local chips, of
//! the time-stamp counter and of every device process: a device hears of it with each request, and of what is due when it
//! is ([`bulkhead_bus::device`]). So whatever follows from the guest's own doing alone comes at the same instruction every time.
//!
//! A halt lasts as long on the host as it does in the guest, or a guest that waits for somebody would be gone for hours. With `auto` it
//! is cut short when guest time is late, and the rate follows what the host did lately.

use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering::Relaxed};

use bulkhead_bus::clock::Clock;
use bulkhead_bus::messages::Icount;
use bulkhead_bus::sys::monotonic_ns;
use bulkhead_engine::Counter;

/// Fraction bits of [`Counted::rate`].
const FRACTION: u32 = 16;
/// Nanoseconds an instruction that `auto` begins with.
const FIRST_RATE: u64 = 4 << FRACTION;
/// What `auto` stays between: 1/16 and 1024 nanoseconds an instruction.
const RATES: (u64, u64) = (1 << (FRACTION - 4), 1024 << FRACTION);
/// Host nanoseconds between two looks of `auto` at its rate.
const ADJUST_NS: u64 = 50_000_000;
/// In how many nanoseconds `auto` would have made up for being early or late.
const CATCH_UP_NS: u64 = 1_000_000_000;
/// A device whose deadline has passed although it was told of it is told again after so many guest nanoseconds.
pub const AGAIN_NS: u64 = 1000;

/// The time of the guest.
pub struct GuestTime {
    clock: Clock,
    counted: Option<Counted>,
}

/// Time from a count of instructions. Only the one vCPU's thread changes anything.
pub struct Counted {
    /// The vCPU's counter, once there is one.
    counter: AtomicPtr<Counter>,
    auto: bool,
    /// Time at count `base_count`.
    base_ns: AtomicU64,
    base_count: AtomicU64,
    /// Nanoseconds an instruction, shifted left by [`FRACTION`].
    rate: AtomicU64,
    /// Host-side guest time of the last look at the rate, and how much of the time since then was slept.
    adjusted: AtomicU64,
    slept: AtomicU64,
    /// Guest time at which the present halt began, and host time.
    halted_at: AtomicU64,
    halted_host: AtomicU64,
}

impl GuestTime {
    /// Over the clock page; counted when `icount` says so.
    pub fn new(clock: Clock, icount: Option<Icount>) -> GuestTime {
        let counted = icount.map(|icount| Counted {
            counter: AtomicPtr::default(),
            auto: icount == Icount::Auto,
            base_ns: AtomicU64::new(0),
            base_count: AtomicU64::new(0),
            rate: AtomicU64::new(match icount {
                Icount::Shift(shift) => 1 << (FRACTION + u32::from(shift.min(10))),
                Icount::Auto => FIRST_RATE,
            }),
            adjusted: AtomicU64::new(0),
            slept: AtomicU64::new(0),
            halted_at: AtomicU64::new(u64::MAX),
            halted_host: AtomicU64::new(0),
        });
        GuestTime { clock, counted }
    }

    /// Guest nanoseconds now. Never goes back.
    #[inline]
    pub fn now(&self) -> u64 {
        match &self.counted {
            None => self.clock.now(),
            Some(counted) => counted.now(),
        }
    }

    /// Host monotonic time of guest time `at`, when guest time advances with the host's.
    pub fn host_time(&self, at: u64) -> Option<u64> {
        self.counted.is_none().then(|| self.clock.host_time(at)).flatten()
    }

    /// Counted time, if it is.
    pub fn counted(&self) -> Option<&Counted> {
        self.counted.as_ref()
    }

    /// After some instructions: lets `auto` look at its rate.
    pub fn adjust(&self) {
        if let Some(counted) = self.counted.as_ref().filter(|counted| counted.auto) {
            counted.adjust(self.clock.now());
        }
    }

    /// How long a halt that began just now, or has been going on, has to last on the host until guest time `until`: nanoseconds from now,
    /// 0 when that is over.
    pub fn halt_left_ns(&self, until: u64) -> u64 {
        let Some(counted) = &self.counted else { return 0 };
        let (now, host) = (counted.now(), monotonic_ns());
        // Disturbed by something that did not let the guest go on: the same halt.
        if counted.halted_at.swap(now, Relaxed) != now {
            counted.halted_host.store(host, Relaxed);
        }
        let gone = host.saturating_sub(counted.halted_host.load(Relaxed));
        let left = until.saturating_sub(now).saturating_sub(gone);
        if counted.auto { left.min(until.saturating_sub(self.clock.now())) } else { left }
    }
}

impl Counted {
    /// Counts with this counter.
    ///
    /// # Safety
    /// It is never dropped or moved.
    pub unsafe fn count_with(&self, counter: *const Counter) {
        self.counter.store(counter.cast_mut(), Relaxed);
    }

    fn counter(&self) -> Option<&Counter> {
        // SAFETY: null, or as `count_with` was promised; its fields are atomic.
        unsafe { self.counter.load(Relaxed).as_ref() }
    }

    fn executed(&self) -> u64 {
        self.counter().map_or(0, Counter::executed)
    }

    fn now(&self) -> u64 {
        let count = self.executed().wrapping_sub(self.base_count.load(Relaxed));
        let ns = (u128::from(count) * u128::from(self.rate.load(Relaxed))) >> FRACTION;
        self.base_ns.load(Relaxed).saturating_add(ns as u64)
    }

    /// Makes the CPU attend at guest time `at`, or never.
    pub fn attend_at(&self, at: Option<u64>) {
        let Some(counter) = self.counter() else { return };
        let limit = match at {
            None => u64::MAX,
            Some(at) => {
                let ns = u128::from(at.saturating_sub(self.base_ns.load(Relaxed)));
                let count = (ns << FRACTION).div_ceil(u128::from(self.rate.load(Relaxed).max(1)));
                let count = u64::try_from(count).unwrap_or(u64::MAX);
                // Not before something has run, or nothing would.
                self.base_count.load(Relaxed).saturating_add(count).max(self.executed().saturating_add(1))
            }
        };
        counter.set_limit(limit);
    }

    /// A halt has come to its end at guest time `at`.
    pub fn skip_to(&self, at: u64) {
        let ahead = at.saturating_sub(self.now());
        self.base_ns.store(self.base_ns.load(Relaxed).saturating_add(ahead), Relaxed);
    }

    /// `ns` nanoseconds of the host's were slept.
    pub fn slept(&self, ns: u64) {
        self.slept.store(self.slept.load(Relaxed).saturating_add(ns), Relaxed);
    }

    /// Sets the rate to that of the time since the last call, corrected for what guest time is early or late. `real`: the guest time that
    /// the host's clock gives.
    fn adjust(&self, real: u64) {
        let passed = real.saturating_sub(self.adjusted.load(Relaxed));
        if passed < ADJUST_NS {
            return;
        }
        let (now, executed) = (self.now(), self.executed());
        let count = executed.wrapping_sub(self.base_count.load(Relaxed));
        let busy = passed.saturating_sub(self.slept.swap(0, Relaxed));
        self.base_ns.store(now, Relaxed);
        self.base_count.store(executed, Relaxed);
        self.adjusted.store(real, Relaxed);
        self.rate.store(next_rate(self.rate.load(Relaxed), count, busy, now, real), Relaxed);
    }
}

/// The rate after `count` instructions in `busy` host nanoseconds, with guest time at `now` and that of the host's clock at `real`.
fn next_rate(rate: u64, count: u64, busy: u64, now: u64, real: u64) -> u64 {
    if count == 0 || busy == 0 {
        return rate;
    }
    let measured = (u128::from(busy) << FRACTION) / u128::from(count);
    let measured = u64::try_from(measured).unwrap_or(u64::MAX).clamp(rate / 4, rate.saturating_mul(4));
    // At most twice or half as fast as the host, so that nothing looks like a leap.
    let off = (i128::from(real) - i128::from(now)).clamp(-(1 << 60), 1 << 60);
    let factor =
        (i128::from(CATCH_UP_NS) + off).clamp(i128::from(CATCH_UP_NS) / 2, i128::from(CATCH_UP_NS) * 2);
    let wanted = i128::from(measured) * factor / i128::from(CATCH_UP_NS);
    u64::try_from(wanted).unwrap_or(0).clamp(RATES.0, RATES.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_bus::sys::Mapping;

    fn time(icount: Icount) -> GuestTime {
        GuestTime::new(Clock::new(Mapping::anonymous(4096).expect("memory")), Some(icount))
    }

    #[test]
    fn halts_move_time_and_nothing_else_does_while_no_instruction_runs() {
        let time = time(Icount::Shift(3));
        let counted = time.counted().expect("counted");
        assert_eq!((time.now(), time.now()), (0, 0));
        counted.skip_to(1_000_000);
        assert_eq!(time.now(), 1_000_000);
        counted.skip_to(5);
        assert_eq!(time.now(), 1_000_000, "not back");
        assert_eq!(time.host_time(7), None);
        assert!(time.halt_left_ns(3_600_000_000_000) > 3_000_000_000_000);
        assert_eq!(time.halt_left_ns(999), 0);
    }

    #[test]
    fn auto_follows_the_host_and_makes_up_for_what_it_is_off() {
        let rate = 4 << FRACTION;
        let at = |count, busy, now, real| next_rate(rate, count, busy, now, real);
        // 50 ms for 10 million instructions are 5 ns each.
        assert_eq!(at(10_000_000, 50_000_000, 7, 7), 5 << FRACTION);
        assert_eq!(at(10_000_000, 50_000_000, 0, 1_000_000_000), 10 << FRACTION, "late");
        assert_eq!(at(10_000_000, 50_000_000, 9_000_000_000, 0), 5 << (FRACTION - 1), "early");
        assert_eq!(at(0, 50_000_000, 0, 0), rate);
        assert_eq!(at(1, u64::MAX, 0, u64::MAX), 32 << FRACTION, "at most four times, twice");
        assert_eq!(next_rate(RATES.0, u64::MAX, 1, u64::MAX, 0), RATES.0);
    }
}
