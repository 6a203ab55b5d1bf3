//! Who sleeps on a bell and whose ringer died between taking the sleep flag back and waking it.

use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::sys::{self, Mapping};

/// How long it sleeps when nobody wakes it.
const SLEEP: Duration = Duration::from_secs(60);

/// From its flag to its sleep it takes less.
const FALLING_ASLEEP: Duration = Duration::from_millis(20);

/// A thread that sleeps on a bell page as a bell's own sleep does, but for a bell's bound.
#[derive(Debug)]
pub struct Sleeper {
    thread: JoinHandle<Duration>,
}

impl Sleeper {
    /// Sleeps on the bell page that `map` maps, and has its flag taken back without a wake.
    pub fn forgotten(map: impl Fn() -> Mapping) -> Sleeper {
        let (flag, theirs) = (map(), map());
        let thread = thread::spawn(move || {
            let start = Instant::now();
            theirs.word(0).store(1, Ordering::SeqCst);
            sys::futex_wait(theirs.word(0), 1, Some(SLEEP));
            start.elapsed()
        });
        while flag.word(0).load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        thread::sleep(FALLING_ASLEEP);
        flag.word(0).store(0, Ordering::SeqCst);
        Sleeper { thread }
    }

    /// Waits until it wakes.
    ///
    /// # Panics
    /// When nobody but its own bound has woken it.
    pub fn expect_woken(self) {
        assert!(self.thread.join().expect("a thread that sleeps") < SLEEP * 5 / 6, "nobody woke it");
    }
}
