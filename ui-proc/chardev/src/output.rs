//! What is shown: through a pipe that outlives this process, so that no byte is shown twice or never, whenever it dies.
//!
//! A piece of at most [`PIECE`] bytes goes into the empty pipe by one `write`, which is all or nothing, and from there to the
//! host by `splice`, inside the kernel. Before the write the journal says what holds once the pipe is not empty: a successor
//! finds out from the pipe itself on which side of the write its predecessor died.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bulkhead_bus::sys;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::host::Held;
use crate::journal::{Output, Part};
use crate::serve::waits;

/// `PIPE_BUF`.
pub const PIECE: usize = 4096;

/// What can be seen of a [`Sink`] while it waits for the host.
#[derive(Clone, Default)]
pub struct Outlet {
    to: Option<Arc<Held>>,
    taken: Arc<AtomicU64>,
}

impl Outlet {
    /// Whether the host takes nothing at the moment.
    pub fn is_full(&self) -> bool {
        let Some(to) = &self.to else { return false };
        let mut fds = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
    }

    /// A number that changes whenever the host has taken something.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    fn note_taken(&self) {
        self.taken.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether the host side takes no bytes from a pipe at all.
fn refuses(spliced: &std::io::Result<usize>) -> bool {
    spliced.as_ref().is_err_and(|error| error.raw_os_error() == Some(Errno::EINVAL as i32))
}

/// The way to the host.
pub struct Sink {
    out: Outlet,
    read: OwnedFd,
    write: OwnedFd,
    part: Part<Output>,
    /// Last committed. When it is plain, the host side takes no bytes from a pipe (a file opened for appending): they are written
    /// to it, and a death between a write and its commit repeats one piece.
    pub state: Output,
}

impl Sink {
    /// Takes up where a predecessor died.
    pub fn new(
        to: Option<Arc<Held>>,
        pipe: (OwnedFd, OwnedFd),
        (mut part, state): (Part<Output>, Option<Output>),
    ) -> Sink {
        let (read, write) = pipe;
        let mut state = state.unwrap_or_default();
        if let Some(intent) = part.intent() {
            if sys::readable_bytes(read.as_fd()).unwrap_or(0) > 0 {
                state = intent;
                part.commit(&state);
            }
            part.intend(None);
        }
        let mut sink = Sink { out: Outlet { to, ..Outlet::default() }, read, write, part, state };
        sink.probe();
        sink
    }

    /// Finds out, before there is a first piece, whether the host side takes bytes from a pipe: one that it refuses would have to be read
    /// out of the pipe again, and be lost by a death before it is written.
    fn probe(&mut self) {
        let Some(to) = &self.out.to else { return };
        let is_empty = sys::readable_bytes(self.read.as_fd()).is_ok_and(|count| count == 0);
        // An empty pipe is refused like a full one, by a host side that takes none.
        if self.state.plain == 0 && is_empty && refuses(&sys::splice(self.read.as_fd(), to.as_fd(), PIECE)) {
            self.commit(Output { plain: 1, ..self.state });
        }
    }

    /// Output goes there from now on. What the last one did not take is lost with it.
    pub fn direct(&mut self, to: Option<Arc<Held>>) {
        self.out.to = to;
        self.probe();
    }

    /// For whoever cannot wait for this.
    pub fn outlet(&self) -> Outlet {
        self.out.clone()
    }

    /// Whether anybody sees the output.
    pub fn is_connected(&self) -> bool {
        self.out.to.is_some()
    }

    /// Whether the host would take a line now.
    pub fn is_writable(&self) -> bool {
        self.is_connected() && !self.out.is_full()
    }

    /// Notes that what comes next begins. False when too many processes have died of it.
    #[must_use]
    pub fn begin(&self) -> bool {
        self.part.begin()
    }

    /// Notes that it is done.
    pub fn end(&self) {
        self.part.end();
    }

    /// Commits without showing anything.
    pub fn commit(&mut self, next: Output) {
        self.state = next;
        self.part.commit(&next);
    }

    /// Shows at most [`PIECE`] bytes, after which `next` holds. An output that fails loses them; the host side notices its end.
    pub fn show(&mut self, bytes: &[u8], next: Output) {
        self.drain();
        let next = Output { plain: self.state.plain, ..next };
        if self.out.to.is_none() || bytes.is_empty() {
            return self.commit(next);
        }
        if self.state.plain != 0 {
            self.write_plainly(bytes);
            return self.commit(next);
        }
        self.part.intend(Some(&next));
        // The pipe is empty and takes this much at once.
        let _ = nix::unistd::write(&self.write, bytes);
        self.commit(next);
        self.part.intend(None);
        self.drain();
    }

    /// Shows at most one piece of what `from` holds. False at its end.
    pub fn pass(&mut self, from: &impl AsFd) -> bool {
        self.drain();
        let open = match sys::splice(from.as_fd(), self.write.as_fd(), PIECE) {
            Ok(count) => count > 0,
            Err(error) => waits(&error),
        };
        self.drain();
        open
    }

    /// Hands the host what the pipe holds, waiting if need be.
    pub fn drain(&mut self) {
        while sys::readable_bytes(self.read.as_fd()).is_ok_and(|count| count > 0) {
            let Some(to) = self.out.to.clone() else { return self.discard() };
            match sys::splice(self.read.as_fd(), to.as_fd(), PIECE) {
                Ok(1..) => self.out.note_taken(),
                refused if refuses(&refused) => {
                    self.commit(Output { plain: 1, ..self.state });
                    let mut bytes = [0u8; PIECE];
                    let count = nix::unistd::read(&self.read, &mut bytes).unwrap_or(0);
                    self.write_plainly(bytes.get(..count).unwrap_or_default());
                }
                Err(error) if waits(&error) => {
                    let mut fds = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
                    let _ = poll(&mut fds, PollTimeout::NONE);
                }
                Ok(0) | Err(_) => return self.discard(),
            }
        }
    }

    fn discard(&self) {
        let mut bytes = [0u8; PIECE];
        while sys::readable_bytes(self.read.as_fd()).is_ok_and(|count| count > 0)
            && nix::unistd::read(&self.read, &mut bytes).is_ok()
        {}
    }

    fn write_plainly(&self, bytes: &[u8]) {
        let Some(to) = &self.out.to else { return };
        let mut rest = bytes;
        while !rest.is_empty() {
            match nix::unistd::write(to.as_ref(), rest) {
                Ok(count) => {
                    rest = rest.get(count..).unwrap_or_default();
                    self.out.note_taken();
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    let mut fds = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
                    let _ = poll(&mut fds, PollTimeout::NONE);
                }
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;

    use bulkhead_bus::config::JOURNAL_BYTES;
    use bulkhead_bus::sys::Mapping;

    use super::*;
    use crate::journal::OUTPUT;

    #[test]
    fn output_that_takes_nothing_from_a_pipe_is_known_before_its_first_piece() {
        for (flags, plain) in [(0, 0), (nix::libc::O_APPEND, 1)] {
            let file = std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(nix::libc::O_TMPFILE | flags)
                .open(std::env::temp_dir())
                .expect("a temporary file");
            let copy = file.try_clone().expect("a descriptor");
            let journal = Arc::new(Mapping::anonymous(JOURNAL_BYTES).expect("mapping"));
            let (read, write) = std::io::pipe().expect("pipe");
            let part = Part::take_up(journal.clone(), OUTPUT);
            let mut sink = Sink::new(Some(Held::new(file.into())), (read.into(), write.into()), part);
            // What a successor of one that dies here would know.
            let known = Part::<Output>::take_up(journal, OUTPUT).1;
            assert_eq!(known.unwrap_or_default().plain, plain);
            for received in 1..=2 {
                sink.show(b"ab", Output { received: received * 2, ..sink.state });
            }
            assert_eq!(sink.state, Output { received: 4, plain, ..Output::default() });
            assert_eq!(copy.metadata().expect("a file").len(), 4);
        }
    }
}
