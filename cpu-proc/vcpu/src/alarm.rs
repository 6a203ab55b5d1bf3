//! The vCPU's alarm: a POSIX timer whose signal makes the CPU stop at its next poll, so that generated code needs no clock.
//! It does so with a word of its own: every device can clear the shared one.

use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// Where the CPU finds its attention word, for the signal handler.
static ATTENTION: AtomicPtr<AtomicPtr<AtomicU32>> = AtomicPtr::new(std::ptr::null_mut());

extern "C" fn on_alarm(_signal: libc::c_int) {
    let attention = ATTENTION.load(Ordering::Acquire);
    if !attention.is_null() {
        // SAFETY: set once by `rouse` to a field that lives as long as the process and is only ever accessed atomically.
        bulkhead_engine::insist(unsafe { &*attention });
    }
}

/// Makes alarms reach the CPU whose `CoreState::attention` this is.
///
/// # Safety
/// It stays valid for the life of the process, and the CPU runs on the thread that created the alarm.
pub unsafe fn rouse(attention: *const AtomicPtr<AtomicU32>) {
    ATTENTION.store(attention.cast_mut(), Ordering::Release);
}

/// A one-shot timer of the calling thread.
pub struct Alarm {
    timer: libc::timer_t,
    armed: u64,
}

impl Alarm {
    /// Creates the timer and its handler. To be called on the vCPU thread, before the jail closes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> std::io::Result<Alarm> {
        // SAFETY: zeroed sigaction and sigevent are valid; the handler is async-signal-safe (one atomic store).
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_alarm as *const () as usize;
            action.sa_flags = 0;
            if libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = libc::SIGALRM;
            event.sigev_notify_thread_id = libc::gettid();
            let mut timer: libc::timer_t = std::mem::zeroed();
            if libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(Alarm { timer, armed: 0 })
        }
    }

    /// Arms for host monotonic time `at` nanoseconds (0: disarm). Does nothing when that alarm is still to come.
    pub fn set(&mut self, at: u64) {
        if at == self.armed && (at == 0 || at > bulkhead_bus::sys::monotonic_ns()) {
            return;
        }
        self.armed = at;
        let value = libc::timespec {
            tv_sec: (at / 1_000_000_000) as libc::time_t,
            tv_nsec: (at % 1_000_000_000) as libc::c_long,
        };
        let spec =
            libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        // SAFETY: the timer is ours, the specification is live.
        unsafe {
            libc::timer_settime(self.timer, libc::TIMER_ABSTIME, &raw const spec, std::ptr::null_mut())
        };
    }
}
