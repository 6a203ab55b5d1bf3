//! The CPU process: timers, the control socket, and memory of its own. All code memory is mapped before the filter.

use super::{Call, Test, any, only};

const PROT_EXEC: u64 = libc::PROT_EXEC as u64;

pub const CALLS: &[Call] = &[
    any(libc::SYS_timer_settime, "deadline of the nearest local timer"),
    any(libc::SYS_timer_gettime, "deadline of the nearest local timer"),
    any(libc::SYS_timerfd_settime, "deadline of the nearest local timer"),
    any(libc::SYS_clock_nanosleep, "halted virtual CPU with a near deadline"),
    any(libc::SYS_nanosleep, "as clock_nanosleep"),
    any(libc::SYS_read, "control socket, event descriptors"),
    any(libc::SYS_write, "control socket, log pipe"),
    any(libc::SYS_recvfrom, "control socket"),
    any(libc::SYS_recvmsg, "control socket"),
    any(libc::SYS_sendto, "control socket"),
    any(libc::SYS_sendmsg, "control socket"),
    any(libc::SYS_poll, "control thread"),
    any(libc::SYS_ppoll, "control thread"),
    any(libc::SYS_close, "descriptors dropped"),
    any(libc::SYS_rt_sigaction, "fault handlers restored by the standard library"),
    only(libc::SYS_mmap, &[Test::Bits(2, PROT_EXEC, 0)], "remapping shadow memory; never executable"),
];
