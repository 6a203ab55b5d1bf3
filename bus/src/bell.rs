//! Bells: how one process wakes another.
//!
//! A bell is a page of its own, so that whoever may ring it needs to see nothing else of the sleeper.
//! Layout: `0x00` u32 sleep flag, which *is* the futex word; `0x40` u32 number of the processor the owner last ran on;
//! `0x80` u32 1 once a back end is jailed and serving (a futex word), `0x88` u64 the host's monotonic time of that; `0xc0` u32 1
//! when it is to finish what is waiting and end.
//!
//! Protocol (model-checked in `tests/doorbell_model.rs`): the sleeper sets the flag, checks for work again, then waits on the
//! flag being 1. The waker publishes its work with an exchange, then loads the flag; if 1 it exchanges 0 and wakes. A flag
//! left by a dead owner costs one needless wake; a flag cleared late by a waker makes the owner's wait return at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use crate::sys::{self, Mapping};

/// Bytes of a bell page.
pub const BELL_BYTES: usize = 4096;
const FLAG: usize = 0x00;
const CPU: usize = 0x40;
const READY: usize = 0x80;
const READY_AT: usize = 0x88;
const FINISH: usize = 0xc0;
/// Longest sleep without looking again. Whoever may ring could also take the flag and not wake: once taken over, it delays the
/// owner by this much.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// How long a waiter may spin for a peer that runs on another processor.
pub const SPIN_NS: u64 = 50_000;

/// One bell, rung by others, slept on by its owner.
#[derive(Debug)]
pub struct Bell {
    page: Mapping,
    /// More than one thread of the owner sleeps on it.
    threads: AtomicBool,
}

impl Bell {
    /// A bell on a mapped page.
    pub fn new(page: Mapping) -> Bell {
        Bell { page, threads: AtomicBool::new(false) }
    }

    /// Owner: from now on several of its threads sleep here. None of them takes the flag back when it wakes, because it may be another
    /// one's; the price is at most one needless wake a sleep.
    pub fn share(&self) {
        self.threads.store(true, Ordering::SeqCst);
    }

    fn flag(&self) -> &AtomicU32 {
        self.page.word(FLAG)
    }

    /// Back end: says that it is jailed and serving.
    pub fn set_ready(&self) {
        let word = self.page.word(READY);
        self.page.dword(READY_AT).store(sys::monotonic_ns(), Ordering::SeqCst);
        word.swap(1, Ordering::SeqCst);
        sys::futex_wake(word);
    }

    /// Broker, while no process owns this bell: the next owner is not ready yet, and is to finish only when it is asked, whatever the last
    /// one or its peer has written here.
    pub fn clear_ready(&self) {
        self.page.word(READY).store(0, Ordering::SeqCst);
        self.page.word(FINISH).store(0, Ordering::SeqCst);
    }

    /// Broker: when the owner said that it serves, in monotonic nanoseconds; the owner's claim.
    pub fn ready_at(&self) -> Option<u64> {
        (self.page.word(READY).load(Ordering::SeqCst) != 0)
            .then(|| self.page.dword(READY_AT).load(Ordering::SeqCst))
    }

    /// Broker: asks a back end to finish what is waiting and to end with status 0.
    pub fn ask_to_finish(&self) {
        let word = self.page.word(FINISH);
        sys::publish(word, 1);
        sys::futex_wake(word);
        self.ring();
    }

    /// Back end, on a thread that does nothing else: returns when it is to finish.
    pub fn await_finish(&self) {
        while !self.must_finish() {
            sys::futex_wait(self.page.word(FINISH), 0, Some(LONGEST_SLEEP));
        }
    }

    /// Back end: whether it is to finish.
    pub fn must_finish(&self) -> bool {
        self.page.word(FINISH).load(Ordering::SeqCst) != 0
    }

    /// Broker: waits at most `timeout` for [`Bell::set_ready`]; whether it was called.
    pub fn wait_ready(&self, timeout: Duration) -> bool {
        let word = self.page.word(READY);
        sys::futex_wait(word, 0, Some(timeout));
        word.load(Ordering::SeqCst) != 0
    }

    /// Wakes the owner if it sleeps. Call after publishing the work with a sequentially consistent exchange.
    #[inline]
    pub fn ring(&self) {
        let flag = self.flag();
        if flag.load(Ordering::SeqCst) == 1 && flag.swap(0, Ordering::SeqCst) == 1 {
            sys::futex_wake(flag);
        }
    }

    /// Wakes the owner whatever its flag says. For the successor of a process that may have died between taking the flag back
    /// and the wake: such an owner sleeps behind a flag of 0, where [`Bell::ring`] leaves it.
    pub fn wake(&self) {
        let flag = self.flag();
        flag.swap(0, Ordering::SeqCst);
        sys::futex_wake(flag);
    }

    /// Owner: sleeps until rung, unless `work()` already holds, at most `timeout`.
    pub fn sleep(&self, timeout: Option<Duration>, mut work: impl FnMut() -> bool) {
        let flag = self.flag();
        flag.swap(1, Ordering::SeqCst);
        if !work() {
            sys::futex_wait(flag, 1, Some(timeout.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP)));
        }
        if !self.threads.load(Ordering::Relaxed) {
            flag.store(0, Ordering::SeqCst);
        }
    }

    /// Owner: says where it runs, for [`Bell::is_elsewhere`].
    #[inline]
    pub fn publish_cpu(&self) {
        let word = self.page.word(CPU);
        let cpu = sys::current_cpu().wrapping_add(1);
        if word.load(Ordering::Relaxed) != cpu {
            word.store(cpu, Ordering::Relaxed);
        }
    }

    /// Whether the owner is awake and last ran on a processor other than the caller's: only then is spinning for it
    /// better than sleeping.
    #[inline]
    pub fn is_elsewhere(&self) -> bool {
        let cpu = self.page.word(CPU).load(Ordering::Relaxed);
        cpu != 0 && cpu != sys::current_cpu().wrapping_add(1)
    }

    /// Whether the owner is awake where the caller runs, so that it cannot work before the caller sleeps.
    pub fn waits_here(&self) -> bool {
        !self.is_asleep() && !self.is_elsewhere()
    }

    /// Whether the owner is awake and last ran on a processor other than the caller's.
    pub fn runs_elsewhere(&self) -> bool {
        self.is_elsewhere() && !self.is_asleep()
    }

    /// Whether the owner says that it sleeps.
    #[inline]
    pub fn is_asleep(&self) -> bool {
        self.flag().load(Ordering::Relaxed) == 1
    }
}

/// The bell of somebody else, rung at once or when whoever holds this is ready for it.
#[derive(Debug)]
pub(crate) struct PeerBell {
    bell: Arc<Bell>,
    later: bool,
    is_due: AtomicBool,
}

impl PeerBell {
    pub(crate) fn new(bell: Arc<Bell>) -> PeerBell {
        PeerBell { bell, later: false, is_due: AtomicBool::new(false) }
    }

    /// Rung by [`PeerBell::ring_due`] only.
    pub(crate) fn later(self) -> PeerBell {
        PeerBell { later: true, ..self }
    }

    pub(crate) fn ring(&self) {
        if self.later { self.is_due.store(true, Ordering::Relaxed) } else { self.bell.ring() }
    }

    pub(crate) fn ring_due(&self) {
        if self.is_due.load(Ordering::Relaxed) {
            self.is_due.store(false, Ordering::Relaxed);
            self.bell.ring();
        }
    }

    /// See [`Bell::wake`].
    pub(crate) fn wake(&self) {
        self.bell.wake();
    }

    /// See [`Bell::waits_here`].
    pub(crate) fn waits_here(&self) -> bool {
        self.bell.waits_here()
    }
}
