//! The clock page: guest time for every process, written by the broker only.
//!
//! Guest time is nanoseconds since power-on; it stands still while the VM is stopped. Layout: `0x00` u32 sequence (odd while
//! being written), `0x04` u32 running, `0x08` i64 offset: monotonic minus guest time while running, guest time while stopped;
//! `0x10` i64 the host's real time in nanoseconds at guest time 0 (for the real-time clock); `0x18` u32 1 when the time of guest
//! and devices is counted by the CPU process (`-icount`): devices then find it in their own file and hear of their deadlines from there.

use std::sync::atomic::Ordering;

use crate::sys::{self, Mapping};

/// Bytes of the clock page.
pub const CLOCK_BYTES: usize = 4096;

/// Guest time.
#[derive(Debug)]
pub struct Clock {
    page: Mapping,
}

impl Clock {
    /// Over the mapped page.
    pub fn new(page: Mapping) -> Clock {
        Clock { page }
    }

    /// The word pair, and what the host's clock said while it was in force.
    fn snapshot(&self) -> (bool, u64, u64) {
        loop {
            let before = self.page.word(0).load(Ordering::SeqCst);
            let running = self.page.word(4).load(Ordering::Acquire);
            let offset = self.page.dword(8).load(Ordering::Acquire);
            // Inside the loop: a time taken after the clock was stopped must not be counted from before that.
            let host = sys::monotonic_ns();
            if before & 1 == 0 && self.page.word(0).load(Ordering::SeqCst) == before {
                return (running != 0, offset, host);
            }
            sys::pause();
        }
    }

    /// Guest nanoseconds now. Never goes back.
    #[inline]
    pub fn now(&self) -> u64 {
        match self.snapshot() {
            (true, offset, host) => host.wrapping_sub(offset),
            (false, at, _) => at,
        }
    }

    /// Whether guest time advances. A sleep flag may be set before it.
    pub fn is_running(&self) -> bool {
        self.page.word(4).load(Ordering::SeqCst) != 0
    }

    /// Host monotonic time of guest time `at`, when guest time advances.
    pub fn host_time(&self, at: u64) -> Option<u64> {
        let (running, offset) = loop {
            let before = self.page.word(0).load(Ordering::SeqCst);
            let running = self.page.word(4).load(Ordering::Acquire);
            let offset = self.page.dword(8).load(Ordering::Acquire);
            if before & 1 == 0 && self.page.word(0).load(Ordering::SeqCst) == before {
                break (running != 0, offset);
            }
            sys::pause();
        };
        // Guest time can be ahead of the host's. A time that cannot be told is past or never, and must not become the other.
        running.then(|| at.saturating_add_signed(offset as i64))
    }

    /// Broker, before start: the host's real time at guest time 0.
    pub fn set_real_time(&self, nanoseconds: i64) {
        self.page.dword(0x10).store(nanoseconds as u64, Ordering::SeqCst);
    }

    /// Broker, before start: the CPU process counts the time of guest and devices.
    pub fn set_counted(&self) {
        self.page.word(0x18).store(1, Ordering::SeqCst);
    }

    /// Whether the CPU process counts the time of guest and devices.
    pub fn is_counted(&self) -> bool {
        self.page.word(0x18).load(Ordering::Relaxed) != 0
    }

    /// Broker: starts or stops guest time. Every process that waits on a deadline must be rung afterwards.
    pub fn set_running(&self, running: bool) {
        let sequence = self.page.word(0);
        sequence.fetch_add(1, Ordering::SeqCst);
        // Only now, when no reader takes the old pair any more, is the time of the change chosen.
        let host = sys::monotonic_ns();
        let offset = self.page.dword(8).load(Ordering::SeqCst);
        let was_running = self.page.word(4).load(Ordering::SeqCst) != 0;
        let now = if was_running { host.wrapping_sub(offset) } else { offset };
        let offset = if running { host.wrapping_sub(now) } else { now };
        self.page.dword(8).store(offset, Ordering::SeqCst);
        self.page.word(4).store(u32::from(running), Ordering::SeqCst);
        sequence.fetch_add(1, Ordering::SeqCst);
    }
}
