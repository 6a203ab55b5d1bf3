//! The CPU process: its timer, the control socket, the log pipe. All code memory is mapped before the filter.

use super::{Call, any};

pub const CALLS: &[Call] = &[
    any(libc::SYS_timer_settime, "deadline of the nearest local timer; the timer was made before the filter"),
    any(libc::SYS_rt_sigreturn, "return from the timer's signal"),
    any(libc::SYS_recvfrom, "control socket"),
    any(libc::SYS_sendto, "control socket"),
    any(libc::SYS_write, "log pipe"),
    any(libc::SYS_sched_yield, "a vCPU that waits for another one in a loop lets it have the processor"),
    any(libc::SYS_sigaltstack, "orderly end: the standard library takes down its signal stack"),
];
