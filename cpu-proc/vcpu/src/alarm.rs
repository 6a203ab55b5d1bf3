//! The vCPU's alarm: a POSIX timer whose signal makes the CPU stop at its next poll, so that generated code needs no clock.
//! It does so with a word of its own: every device can clear the shared one.

use std::sync::OnceLock;

/// Makes a vCPU look, given its number.
type Rouse = Box<dyn Fn(usize) + Send + Sync>;

static ROUSE: OnceLock<Rouse> = OnceLock::new();

extern "C" fn on_alarm(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    if let Some(rouse) = ROUSE.get()
        && !info.is_null()
    {
        // SAFETY: the kernel's, for the time of the call; a timer's signal carries the value that it was made with.
        rouse(unsafe { (*info).si_value() }.sival_ptr as usize);
    }
}

/// What alarms do, from their start on: called in a signal handler with the number of the vCPU whose alarm it is.
pub fn rouse(action: Rouse) {
    let _ = ROUSE.set(action);
}

/// A one-shot timer of a vCPU thread.
pub struct Alarm {
    timer: libc::timer_t,
    armed: u64,
}

// SAFETY: the timer is the process's, not the thread's that made it.
unsafe impl Send for Alarm {}

impl Alarm {
    /// Creates the timer and its handler. To be called on the thread of vCPU `cpu`, before the jail closes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(cpu: usize) -> std::io::Result<Alarm> {
        // SAFETY: zeroed sigaction and sigevent are valid; the handler is async-signal-safe (atomics and a futex).
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_alarm as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            if libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = libc::SIGALRM;
            event.sigev_value = libc::sigval { sival_ptr: cpu as *mut libc::c_void };
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
