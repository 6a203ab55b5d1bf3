//! The one kind of error that ends a start: a line for the user.

use std::io::Write;
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// One clear line, without the program's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fail(pub String);

impl Fail {
    /// From anything that prints.
    pub fn new(text: impl std::fmt::Display) -> Fail {
        Fail(text.to_string())
    }
}

impl From<nix::errno::Errno> for Fail {
    fn from(error: nix::errno::Errno) -> Fail {
        Fail(error.desc().to_owned())
    }
}

/// How long standard error may take to have room for more, in milliseconds.
const ROOM_LIMIT_MS: u16 = 50;
/// `PIPE_BUF`: this much goes into a pipe that has room without waiting.
const PIECE: usize = 4096;

/// A line, or several, for the user on standard error. When nobody reads it there is nobody to tell, and the machine goes on: it has
/// other things to do than to wait for room in a pipe.
pub fn tell(text: std::fmt::Arguments<'_>) {
    let mut stderr = std::io::stderr();
    for piece in format!("{text}\n").as_bytes().chunks(PIECE) {
        let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        if !matches!(poll(&mut fds, PollTimeout::from(ROOM_LIMIT_MS)), Ok(1..))
            || stderr.write_all(piece).is_err()
        {
            return;
        }
    }
}

/// The kernel's reason in words, without the number that the standard library adds.
pub fn reason(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_lowercase(),
        None => error.to_string(),
    }
}
