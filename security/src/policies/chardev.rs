//! A character back end: one stream or listener, and the socket of the monitor.

use super::{Call, Test, any, only};

pub const CALLS: &[Call] = &[
    any(libc::SYS_read, "terminal, file, pipe"),
    any(libc::SYS_write, "terminal, file, pipe"),
    any(libc::SYS_poll, "waiting for the host side"),
    any(libc::SYS_ppoll, "waiting for the host side"),
    any(libc::SYS_accept4, "clients of a listening socket"),
    any(libc::SYS_shutdown, "end of a client"),
    any(libc::SYS_close, "end of a client"),
    any(libc::SYS_recvfrom, "socket"),
    any(libc::SYS_sendto, "socket, without SIGPIPE"),
    only(libc::SYS_fcntl, &[Test::Is(1, libc::F_GETFL as u64)], "non-blocking mode of an accepted client"),
    only(libc::SYS_fcntl, &[Test::Is(1, libc::F_SETFL as u64)], "non-blocking mode of an accepted client"),
    only(
        libc::SYS_setsockopt,
        &[Test::Is(1, libc::IPPROTO_TCP as u64), Test::Is(2, libc::TCP_NODELAY as u64)],
        "nodelay on an accepted client",
    ),
    only(libc::SYS_ioctl, &[Test::Is(1, libc::TCSBRK)], "break sent by the guest"),
    only(libc::SYS_ioctl, &[Test::Is(1, libc::FIONREAD)], "bytes waiting"),
];
