//! The host side: where typed bytes come from and output goes.

use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use bulkhead_bus::config::{CharConfig, CharKind};
use bulkhead_bus::manifest::Manifest;
use bulkhead_bus::serve::StartError;
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};

use crate::refused;

/// A listening socket.
pub enum Listener {
    /// TCP; Nagle's algorithm off on clients when true.
    Tcp(TcpListener, bool),
    /// Unix.
    Unix(UnixListener),
}

impl Listener {
    fn new(fd: OwnedFd, nodelay: bool) -> Result<Listener, StartError> {
        let address: SockaddrStorage = getsockname(fd.as_raw_fd()).map_err(refused)?;
        Ok(match address.family() {
            Some(AddressFamily::Unix) => Listener::Unix(UnixListener::from(fd)),
            _ => Listener::Tcp(TcpListener::from(fd), nodelay),
        })
    }

    /// The next client.
    pub fn accept(&self) -> std::io::Result<OwnedFd> {
        match self {
            Listener::Unix(listener) => listener.accept().map(|(client, _)| OwnedFd::from(client)),
            Listener::Tcp(listener, nodelay) => {
                let (client, _) = listener.accept()?;
                if *nodelay {
                    // Only speed is lost without it.
                    let _ = client.set_nodelay(true);
                }
                Ok(OwnedFd::from(client))
            }
        }
    }

    /// For `poll`.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(listener, _) => listener.as_fd(),
            Listener::Unix(listener) => listener.as_fd(),
        }
    }
}

/// The host side.
pub struct Host {
    /// Kind.
    pub kind: CharKind,
    /// Where bytes come from.
    pub input: Option<Arc<OwnedFd>>,
    output: Option<Arc<OwnedFd>>,
    /// Where clients come from.
    pub listener: Option<Listener>,
}

impl Host {
    /// Takes the descriptors that the kind needs out of the manifest.
    pub fn take(manifest: &Manifest, config: &CharConfig) -> Result<Host, StartError> {
        let optional = |name: &str| match manifest.descriptor(name) {
            Some(_) => manifest.take(name).map(|fd| Some(Arc::new(fd))),
            None => Ok(None),
        };
        let mut host = Host { kind: config.kind, input: None, output: None, listener: None };
        match config.kind {
            CharKind::Null => {}
            CharKind::Stream => {
                host.input = optional("input")?;
                host.output = optional("output")?;
            }
            CharKind::Pty => host.input = Some(Arc::new(manifest.take("input")?)),
            CharKind::Connect => {
                host.input = Some(Arc::new(manifest.take("client")?));
                host.output = host.input.clone();
            }
            CharKind::Listen { .. } => {
                host.listener = Some(Listener::new(manifest.take("listener")?, config.nodelay)?);
                host.input = optional("client")?;
                host.output = host.input.clone();
            }
        }
        Ok(host)
    }

    /// Numbers of everything that must stay open.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let fds = self.input.iter().chain(&self.output).map(|fd| fd.as_raw_fd());
        fds.chain(self.listener.as_ref().map(|listener| listener.as_fd().as_raw_fd())).collect()
    }

    /// Where output goes at first. A pseudo-terminal gets some when somebody has opened it.
    pub fn first_output(&self) -> Option<Arc<OwnedFd>> {
        self.output.clone()
    }
}
