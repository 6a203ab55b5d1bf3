//! The one kind of error that ends a start: a line for the user.

use std::os::fd::AsFd;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::errno::Errno;
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

impl From<Errno> for Fail {
    fn from(error: Errno) -> Fail {
        Fail(error.desc().to_owned())
    }
}

/// How long standard error may take to have room for more.
const ROOM_LIMIT: Duration = Duration::from_millis(50);
/// Until the next look when another thread has just taken the room.
const PAUSE: Duration = Duration::from_millis(1);
/// `PIPE_BUF`: this much goes into a pipe that has room without waiting.
pub const PIECE: usize = 4096;
/// Whoever has it has standard error from the look for room to the write: two threads that have both seen the last room would have one of
/// them wait in the kernel. The standard library's own lock does not do, it is held while a write waits.
static WRITES: Mutex<()> = Mutex::new(());

/// A line, or several, for the user on standard error. When nobody reads it there is nobody to tell, and the machine goes on: it has
/// other things to do than to wait for room in a pipe.
pub fn tell(text: std::fmt::Arguments<'_>) {
    for piece in format!("{text}\n").as_bytes().chunks(PIECE) {
        if put(piece, Some(ROOM_LIMIT)).is_err() {
            return;
        }
    }
}

/// Writes at most [`PIECE`] bytes to standard error as soon as there is room, and nothing is locked until then.
///
/// # Errors
/// The kernel's; no room within the limit.
pub fn put(mut piece: &[u8], limit: Option<Duration>) -> std::io::Result<()> {
    let end = limit.map(|limit| Instant::now() + limit);
    while !piece.is_empty() {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        let wait =
            left.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        if has_room(wait) {
            match put_now(piece) {
                Ok(0) | Err(Errno::EINTR | Errno::EAGAIN) => std::thread::sleep(PAUSE),
                Ok(count) => piece = piece.get(count..).unwrap_or_default(),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn has_room(wait: PollTimeout) -> bool {
    let stderr = std::io::stderr();
    matches!(poll(&mut [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)], wait), Ok(1..))
}

/// Writes what there is room for now, if nobody else is writing.
fn put_now(piece: &[u8]) -> nix::Result<usize> {
    match WRITES.try_lock() {
        Ok(_alone) if has_room(PollTimeout::ZERO) => nix::unistd::write(std::io::stderr(), piece),
        _ => Ok(0),
    }
}

/// The kernel's reason in words, without the number that the standard library adds.
pub fn reason(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_lowercase(),
        None => error.to_string(),
    }
}
