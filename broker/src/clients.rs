//! Clients of listening sockets: accepted and kept here, so that they outlive the process that serves them.

use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use bulkhead_bus::manifest::fd;
use bulkhead_bus::sys as bus_sys;
use nix::sys::socket::{setsockopt, sockopt::TcpNoDelay};

use crate::fail::{Fail, reason};
use crate::spawn::Recipe;
use crate::sys;

/// Name of the client in a recipe.
const CLIENT: &str = "client";
/// How long a listener rests after an error that is not one client's.
const REST: Duration = Duration::from_secs(1);

/// One listener and its back end.
#[derive(Debug)]
pub struct Clients {
    listener: OwnedFd,
    nodelay: bool,
    /// To the back end; a byte in it says that the client has gone.
    stream: UnixStream,
    /// The same of a successor that waits.
    next: Option<UnixStream>,
    /// How many clients have come and gone.
    changes: u32,
    busy: bool,
    rest: Option<Instant>,
}

impl Clients {
    /// For a back end that has a client already when `busy`; the other end of the socket goes to it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(listener: BorrowedFd<'_>, nodelay: bool, busy: bool) -> Result<(Clients, OwnedFd), Fail> {
        let fail = |e: std::io::Error| Fail(reason(&e));
        let (stream, theirs) = pair().map_err(fail)?;
        let listener = listener.try_clone_to_owned().map_err(fail)?;
        Ok((Clients { listener, nodelay, stream, next: None, changes: 0, busy, rest: None }, theirs))
    }

    /// What to wait for: the next client, and the word of the back end unless its place is vacant. Its socket may have died with it, and
    /// would then be readable all the time.
    pub fn interest(&self, is_vacant: bool) -> impl Iterator<Item = BorrowedFd<'_>> {
        let listening = !self.busy && self.rest.is_none_or(|until| until <= Instant::now());
        (!is_vacant).then(|| self.stream.as_fd()).into_iter().chain(listening.then(|| self.listener.as_fd()))
    }

    /// Something happened. False when the back end does not take its client, or has closed its end, which would be readable for ever:
    /// it has to be replaced.
    pub fn serve(&mut self, recipe: &mut Recipe) -> bool {
        let mut bytes = [0u8; 64];
        let open = match self.stream.read(&mut bytes) {
            Ok(0) => false,
            Ok(_) => {
                if self.busy {
                    recipe.put(CLIENT, None);
                    self.changes = self.changes.wrapping_add(1);
                    self.busy = false;
                }
                true
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        };
        if self.busy {
            return open;
        }
        let client = match sys::accept(self.listener.as_fd()) {
            Ok(client) => client,
            Err(error) => {
                let passing = [ErrorKind::WouldBlock, ErrorKind::Interrupted, ErrorKind::ConnectionAborted];
                self.rest = (!passing.contains(&error.kind())).then(|| Instant::now() + REST);
                return open;
            }
        };
        if self.nodelay {
            // Only speed is lost without it.
            let _ = setsockopt(&client, TcpNoDelay, &true);
        }
        let sent = bus_sys::send_descriptor(self.stream.as_fd(), client.as_fd());
        recipe.put(CLIENT, Some(client));
        self.changes = self.changes.wrapping_add(1);
        self.busy = true;
        open && sent.is_ok()
    }

    /// Another one after every client that has come or gone: a standby knows the client of its start.
    pub fn changes(&self) -> u32 {
        self.changes
    }

    /// The socket for a process that is to wait for its predecessor's death.
    ///
    /// # Errors
    /// The kernel's.
    pub fn prepare(&mut self) -> std::io::Result<OwnedFd> {
        let (ours, theirs) = pair()?;
        self.next = Some(ours);
        Ok(theirs)
    }

    /// The process that [`Clients::prepare`] was for takes over.
    pub fn hand_over(&mut self) {
        if let Some(next) = self.next.take() {
            self.stream = next;
        }
    }

    /// While no process serves: the successor gets a socket of its own, on which nothing is under way.
    pub fn renew(&mut self, recipe: &mut Recipe) {
        // Without one the back end cannot start, and says so.
        let fresh = pair().ok();
        recipe.put(
            fd::CLIENTS,
            fresh.map(|(ours, theirs)| {
                self.stream = ours;
                theirs
            }),
        );
    }
}

/// A pair of sockets on which neither side waits for the other.
///
/// # Errors
/// The kernel's.
pub fn pair() -> std::io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    Ok((ours, OwnedFd::from(theirs)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::Shutdown;
    use std::os::unix::net::UnixListener;

    use bulkhead_bus::manifest::Manifest;
    use bulkhead_tests::Scratch;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    fn listener(name: &str) -> UnixListener {
        let scratch = Scratch::new(name);
        let listener = UnixListener::bind(scratch.file("socket")).expect("a socket for a test");
        listener.set_nonblocking(true).expect("a flag");
        listener
    }

    fn recipe() -> Recipe {
        let manifest =
            Manifest { name: "bh-char-serial0".to_owned(), role: "char".to_owned(), ..Manifest::default() };
        Recipe::new("bh-char", manifest, &[]).expect("no descriptors")
    }

    #[test]
    fn a_back_end_that_closes_its_end_has_to_be_replaced_with_a_client_or_without() {
        for busy in [false, true] {
            let listener = listener(if busy { "served" } else { "waiting" });
            let start = || Clients::new(listener.as_fd(), false, busy).expect("sockets for a test");
            let (mut clients, theirs) = start();
            assert!(clients.serve(&mut recipe()), "it has nothing to say");
            let mut theirs = UnixStream::from(theirs);
            theirs.write_all(b"l").expect("room");
            assert!(clients.serve(&mut recipe()), "its client has left");
            theirs.shutdown(Shutdown::Write).expect("a socket");
            assert!(!clients.serve(&mut recipe()), "nothing more will come");
            let (mut clients, theirs) = start();
            drop(theirs);
            assert!(!clients.serve(&mut recipe()));
        }
    }

    #[test]
    fn a_back_end_that_has_gone_wakes_nobody_until_there_is_another_one() {
        let listener = listener("gone");
        let (clients, theirs) = Clients::new(listener.as_fd(), false, false).expect("sockets for a test");
        let ready = |is_vacant| {
            let mut fds: Vec<_> =
                clients.interest(is_vacant).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            poll(&mut fds, PollTimeout::ZERO).expect("a poll")
        };
        drop(theirs);
        assert_eq!((ready(false), ready(true)), (1, 0));
    }
}
