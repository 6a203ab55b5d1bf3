//! Where the vCPU runs with respect to the devices that it waits for.
//!
//! A register read that crosses to another processor costs some 400 ns: both sides look at the ring without sleeping. On one
//! processor each crossing is two context switches, some 10 us. Schedulers wake a process where its waker runs, and those of
//! virtual machines do not count a halted processor as idle, so that everybody can end up on one processor beside an idle one and stay
//! there. So the vCPU asks to be kept apart when it keeps meeting devices on its own processor; it may not choose its
//! processor itself, the broker does that.

use std::cell::Cell;
use std::time::Duration;

use crate::sys;

/// Waits on the device's processor, those elsewhere subtracted, after which the vCPU asks.
const MEETINGS: u32 = 16;
/// Shortest time between two wishes.
const PAUSE: Duration = Duration::from_millis(100);

/// What a vCPU thread remembers of its meetings with one device.
#[derive(Debug, Default)]
pub struct Placement {
    meetings: Cell<u32>,
    /// The last wish, in monotonic nanoseconds.
    asked: Cell<u64>,
    crowded: Cell<bool>,
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
        if now.saturating_sub(self.asked.get()) >= PAUSE.as_nanos() as u64 {
            self.meetings.set(0);
            self.asked.set(now);
            self.crowded.set(true);
        }
    }

    /// Takes the wish to be moved.
    pub fn take_crowded(&self) -> bool {
        self.crowded.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_keeps_meeting_devices_is_crowded() {
        let placement = Placement::default();
        for _ in 0..100 {
            placement.met();
            placement.apart();
        }
        assert!(!placement.take_crowded());
        (0..MEETINGS).for_each(|_| placement.met());
        assert!(placement.take_crowded());
        assert!(!placement.take_crowded(), "once");
        (0..MEETINGS).for_each(|_| placement.met());
        assert!(!placement.take_crowded(), "not again so soon");
    }
}
