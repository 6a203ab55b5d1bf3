//! The host side: where typed bytes come from and output goes.

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use bulkhead_bus::config::{CharConfig, CharKind};
use bulkhead_bus::manifest::{Manifest, fd};
use bulkhead_bus::serve::StartError;
use bulkhead_bus::sys;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A descriptor that is closed by the one system call that the policy has for it. With debug assertions the standard library looks at
/// what it is about to close by another one.
#[derive(Debug)]
pub struct Held(ManuallyDrop<OwnedFd>);

impl Held {
    /// Takes it over; whoever uses it last closes it.
    pub fn new(fd: OwnedFd) -> Arc<Held> {
        Arc::new(Held(ManuallyDrop::new(fd)))
    }
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = nix::unistd::close(self.0.as_raw_fd());
    }
}

/// The host side.
pub struct Host {
    /// Kind.
    pub kind: CharKind,
    /// Where bytes come from.
    pub input: Option<Arc<Held>>,
    output: Option<Arc<Held>>,
    /// Where the broker sends clients.
    pub clients: Option<UnixStream>,
}

impl Host {
    /// Takes the descriptors that the kind needs out of the manifest.
    pub fn take(manifest: &Manifest, config: &CharConfig) -> Result<Host, StartError> {
        let optional = |name: &str| match manifest.descriptor(name) {
            Some(_) => manifest.take(name).map(|fd| Some(Held::new(fd))),
            None => Ok(None),
        };
        let mut host = Host { kind: config.kind, input: None, output: None, clients: None };
        match config.kind {
            CharKind::Null => {}
            CharKind::Stream => {
                host.input = optional("input")?;
                host.output = optional("output")?;
            }
            CharKind::Pty => {
                host.input = Some(Held::new(manifest.take("input")?));
                // Output waits for somebody who has it open.
                host.output = host.input.clone().filter(|_| !host.is_hung_up());
            }
            CharKind::Connect => {
                host.input = Some(Held::new(manifest.take("client")?));
                host.output = host.input.clone();
            }
            CharKind::Listen => {
                host.clients = Some(UnixStream::from(manifest.take(fd::CLIENTS)?));
                host.input = optional("client")?;
                host.output = host.input.clone();
            }
        }
        Ok(host)
    }

    /// Where output goes at first.
    pub fn first_output(&self) -> Option<Arc<Held>> {
        self.output.clone()
    }

    /// What a look at the input sees.
    pub fn look(&self) -> PollFlags {
        let Some(input) = &self.input else { return PollFlags::POLLHUP };
        let mut fds = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::ZERO);
        fds.iter().filter_map(PollFd::revents).fold(PollFlags::empty(), |all, events| all | events)
    }

    /// Whether the other side of a pseudo-terminal is closed.
    pub fn is_hung_up(&self) -> bool {
        self.look().contains(PollFlags::POLLHUP)
    }

    /// Whether a client has ended its input and all of it was taken, which is how a leave looks to whoever reads.
    pub fn has_left(&self) -> bool {
        let Some(client) = self.input.as_ref().filter(|_| self.is_socket()) else { return false };
        !self.look().is_empty() && sys::readable_bytes(client.as_fd()).is_ok_and(|count| count == 0)
    }

    /// Whether its input is a client, whose end is the end of output too.
    pub fn is_socket(&self) -> bool {
        matches!(self.kind, CharKind::Listen | CharKind::Connect)
    }

    /// The client at a socket has gone: the broker may accept the next.
    pub fn release(&mut self) {
        if let Some(client) = self.input.take() {
            // Whoever still writes to it stops at once; what was written is sent. Fails on what is no socket.
            let _ = nix::sys::socket::shutdown(client.as_fd().as_raw_fd(), nix::sys::socket::Shutdown::Both);
        }
        if let Some(clients) = &self.clients {
            let _ = nix::unistd::write(clients, b"l");
        }
    }
}
