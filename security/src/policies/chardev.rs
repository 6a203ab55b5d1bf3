//! A character back end: one stream or listener, and the socket of the monitor.

use super::{Call, Test, any, only};

pub const CALLS: &[Call] = &[
    any(libc::SYS_read, "terminal, file, pipe, client"),
    any(libc::SYS_write, "terminal, file, pipe, client"),
    any(libc::SYS_recvfrom, "socket of the monitor"),
    any(libc::SYS_sendto, "socket of the monitor, without SIGPIPE"),
    any(libc::SYS_poll, "waiting for the host side"),
    any(libc::SYS_accept4, "clients of a listening socket"),
    any(libc::SYS_close, "end of a client"),
    only(
        libc::SYS_setsockopt,
        &[Test::Is(1, libc::IPPROTO_TCP as u64), Test::Is(2, libc::TCP_NODELAY as u64)],
        "nodelay on an accepted client",
    ),
    any(libc::SYS_sigaltstack, "orderly end: the standard library takes down its signal stack"),
];
