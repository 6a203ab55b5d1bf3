//! Where the vCPU runs with respect to the devices that it waits for.
//!
//! A register read that crosses to another processor costs some 400 ns: both sides look at the ring without sleeping. On one
//! processor each crossing is two context switches, some 10 us. Schedulers wake a process where its waker runs, and those of
//! virtual machines do not count a halted processor as idle, so that everybody can end up on one processor beside an idle one and stay
//! there. So the vCPU, which runs most, moves away when it keeps meeting devices on its own processor: its thread asks for every
//! processor that it is allowed but this one, then for all of them again. Nothing stays pinned. A move that does not last doubles the time
//! until the next one, because then the processors are really taken.

use std::cell::Cell;
use std::time::Duration;

use nix::sched::{sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::sys;

/// Waits on the device's processor, those elsewhere subtracted, that make a move worth its cost of some 50 us.
const MEETINGS: u32 = 16;
/// Shortest and longest time between two moves.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// What a vCPU thread remembers of its meetings with one device.
#[derive(Debug, Default)]
pub struct Placement {
    meetings: Cell<u32>,
    /// When it moved last, in monotonic nanoseconds.
    moved: Cell<u64>,
    pause: Cell<u64>,
}

impl Placement {
    /// The thread waits for a process that last ran on another processor.
    #[inline]
    pub fn apart(&self) {
        if self.meetings.get() != 0 {
            self.meetings.set(self.meetings.get() - 1);
        }
    }

    /// The thread waits for a process that last ran on its own processor.
    pub fn met(&self) {
        self.meetings.set(self.meetings.get().saturating_add(1));
        if self.meetings.get() < MEETINGS {
            return;
        }
        let now = sys::monotonic_ns();
        if self.may_move(now) {
            self.meetings.set(0);
            leave_processor();
        }
    }

    /// Whether the last move is long enough ago at `now`; if so this counts as one.
    fn may_move(&self, now: u64) -> bool {
        let [shortest, longest] = [PAUSES.0, PAUSES.1].map(|pause| pause.as_nanos() as u64);
        let since = now.saturating_sub(self.moved.get());
        let pause = self.pause.get().max(shortest);
        if self.moved.get() != 0 && since < pause {
            return false;
        }
        // It lasted when nothing was to be done for many pauses.
        let lasted = self.moved.get() == 0 || since > pause.saturating_mul(8);
        self.pause.set(if lasted { shortest } else { pause.saturating_mul(2).min(longest) });
        self.moved.set(now);
        true
    }
}

/// Moves the calling thread to another processor that it is allowed to run on, if there is one. It may come back at any time.
fn leave_processor() {
    let this_thread = Pid::from_raw(0);
    let Ok(allowed) = sched_getaffinity(this_thread) else { return };
    let mut others = allowed;
    let left = others.unset(sys::current_cpu() as usize);
    // Refused when no other is allowed, or none of them is there.
    if left.is_ok() && sched_setaffinity(this_thread, &others).is_ok() {
        let _ = sched_setaffinity(this_thread, &allowed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn moves_that_do_not_last_become_rare() {
        let placement = Placement::default();
        let moves: Vec<u64> = (1..10_000).filter(|ms| placement.may_move(ms * MS)).collect();
        assert_eq!(moves[..5], [1, 6, 16, 36, 76]);
        assert!(moves.len() < 20, "{moves:?}");
        assert!(moves.windows(2).all(|pair| pair[1] - pair[0] <= 1000), "{moves:?}");
    }

    #[test]
    fn a_move_that_lasted_forgets_the_others() {
        let placement = Placement::default();
        assert_eq!([1, 6, 16].map(|ms| placement.may_move(ms * MS)), [true; 3]);
        assert!(!placement.may_move(35 * MS));
        assert!(placement.may_move(1000 * MS));
        assert!(placement.may_move(1005 * MS));
    }

    #[test]
    fn a_thread_leaves_its_processor_and_may_come_back() {
        let this_thread = Pid::from_raw(0);
        let allowed = sched_getaffinity(this_thread).unwrap();
        let processors = (0..nix::sched::CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap()).count();
        // Once is not enough: the kernel may take it back at once.
        let left = (0..100).any(|_| {
            let before = sys::current_cpu();
            leave_processor();
            sys::current_cpu() != before
        });
        assert_eq!(left, processors > 1);
        assert!(allowed == sched_getaffinity(this_thread).unwrap(), "it may run where it might before");
    }
}
