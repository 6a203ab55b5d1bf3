//! A character back end: one stream or listener, and the socket of the monitor.

use super::{Call, Test, any, only};

pub const CALLS: &[Call] = &[
    any(libc::SYS_read, "terminal, file, pipe, client"),
    any(libc::SYS_write, "words to the broker; a host side that takes nothing from a pipe"),
    any(libc::SYS_poll, "waiting for the host side"),
    any(libc::SYS_recvmsg, "clients that the broker accepts and keeps"),
    any(libc::SYS_shutdown, "end of a client"),
    any(libc::SYS_close, "end of a client"),
    any(libc::SYS_sigaltstack, "orderly end: the standard library takes down its signal stack"),
    any(libc::SYS_splice, "bytes to and from the pipes that outlive the process"),
    only(libc::SYS_ioctl, &[Test::Is(1, libc::FIONREAD)], "bytes in those pipes and of a client"),
];
