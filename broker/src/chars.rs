//! Host sides of character devices: opened as the invoking user, handed to a `bh-char` process each.

use std::fs::{File, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use bulkhead_bus::config::CharKind;
use bulkhead_config::CharDevice;

use crate::fail::{Fail, reason, tell};
use crate::names::OwnName;
use crate::{fresh, sys};

/// Name of a listening socket.
const LISTENER: &str = "listener";

/// An opened host side.
#[derive(Debug)]
pub struct HostChar {
    /// How the process treats it.
    pub kind: CharKind,
    /// Descriptors by name.
    pub fds: Vec<(&'static str, OwnedFd)>,
    /// As `info chardev` shows it.
    pub title: String,
    /// Shared with the monitor through the escape key.
    pub mux: bool,
    /// Standard input and output.
    pub stdio: bool,
    /// Name of its socket.
    pub name: Option<OwnName>,
    /// Nagle's algorithm is to be switched off on accepted clients.
    pub nodelay: bool,
    /// A file that is written anew.
    overwrites: bool,
}

impl HostChar {
    fn new(kind: CharKind, title: String) -> HostChar {
        HostChar {
            kind,
            fds: Vec::new(),
            title,
            mux: false,
            stdio: false,
            name: None,
            nodelay: false,
            overwrites: false,
        }
    }

    /// A back end that only writes to `fd`.
    pub fn output(fd: OwnedFd) -> HostChar {
        HostChar::new(CharKind::Stream, "log".to_owned()).with("output", fd)
    }

    fn with(mut self, name: &'static str, fd: impl Into<OwnedFd>) -> HostChar {
        self.fds.push((name, fd.into()));
        self
    }

    /// Descriptors for the process. A listener stays here.
    pub fn descriptors(&self) -> impl Iterator<Item = (&'static str, BorrowedFd<'_>)> {
        self.fds.iter().filter(|(name, _)| *name != LISTENER).map(|(name, fd)| (*name, fd.as_fd()))
    }

    /// Where clients come from.
    pub fn listener(&self) -> Option<BorrowedFd<'_>> {
        self.fds.iter().find(|(name, _)| *name == LISTENER).map(|(_, fd)| fd.as_fd())
    }

    /// Empties a file that is written anew: from now on nothing is refused.
    ///
    /// # Errors
    /// One line naming the file and the reason.
    pub fn begin(&self) -> Result<(), Fail> {
        let mut written = self.fds.iter().filter(|_| self.overwrites);
        written
            .try_for_each(|(_, fd)| fresh::empty(fd))
            .map_err(|e| Fail(format!("{}: {}", self.title, reason(&e))))
    }

    /// Forgets what the processes have got by now and may close.
    pub fn release(&mut self) {
        self.fds.retain(|(name, _)| *name == LISTENER);
    }
}

/// Opens the host side of `device`, given to `option`.
///
/// # Errors
/// One line naming option, device and reason.
pub fn open(device: &CharDevice, option: &str) -> Result<HostChar, Fail> {
    match device {
        CharDevice::None | CharDevice::Null => Ok(HostChar::new(CharKind::Null, "null".to_owned())),
        CharDevice::Vc => Ok(HostChar::new(CharKind::Null, "vc".to_owned())),
        CharDevice::Stdio => {
            let fail = |e: std::io::Error| Fail(format!("{option} stdio: {}", reason(&e)));
            let mut char = HostChar::new(CharKind::Stream, "stdio".to_owned())
                .with("input", sys::duplicate(0).map_err(fail)?)
                .with("output", sys::duplicate(1).map_err(fail)?);
            char.stdio = true;
            Ok(char)
        }
        CharDevice::File(path) => {
            let file = fresh::open(path)
                .map_err(|e| Fail(format!("{option} file:{}: {}", path.display(), reason(&e))))?;
            let mut char =
                HostChar::new(CharKind::Stream, format!("file:{}", path.display())).with("output", file);
            char.overwrites = true;
            Ok(char)
        }
        CharDevice::Pipe(path) => {
            pipe(path).map_err(|why| Fail(format!("{option} pipe:{}: {why}", path.display())))
        }
        CharDevice::Pty => pty().map_err(|e| Fail(format!("{option} pty: {}", e.desc()))),
        CharDevice::Tty(path) => tty(path).map_err(|why| Fail(format!("{option} {}: {why}", path.display()))),
        CharDevice::Unix { path, server, wait } => unix(path, *server, *wait)
            .map_err(|e| Fail(format!("{option} unix:{}: {}", path.display(), reason(&e)))),
        CharDevice::Tcp { host, port, server, wait, nodelay } => tcp(host, *port, *server, *wait, *nodelay)
            .map_err(|e| Fail(format!("{option} tcp:{host}:{port}: {}", reason(&e)))),
        CharDevice::Mux(inner) => {
            let mut char = open(inner, option)?;
            char.mux = true;
            Ok(char)
        }
    }
}

fn pipe(path: &Path) -> Result<HostChar, String> {
    let suffixed = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    // Both directions, so that neither opening nor the other side's leaving blocks or ends anything.
    let both = |path: &Path| OpenOptions::new().read(true).write(true).open(path);
    let title = format!("pipe:{}", path.display());
    let char = HostChar::new(CharKind::Stream, title);
    match (both(&suffixed(".in")), both(&suffixed(".out"))) {
        (Ok(input), Ok(output)) => Ok(char.with("input", input).with("output", output)),
        _ => {
            let input = both(path).map_err(|e| reason(&e))?;
            let output = input.try_clone().map_err(|e| reason(&e))?;
            Ok(char.with("input", input).with("output", output))
        }
    }
}

fn pty() -> nix::Result<HostChar> {
    use nix::fcntl::OFlag;
    use nix::sys::termios;
    let master = nix::pty::posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
    nix::pty::grantpt(&master)?;
    nix::pty::unlockpt(&master)?;
    let name = nix::pty::ptsname_r(&master)?;
    let slave = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(&name);
    if let Ok(slave) = slave
        && let Ok(mut mode) = termios::tcgetattr(&slave)
    {
        termios::cfmakeraw(&mut mode);
        termios::tcsetattr(&slave, termios::SetArg::TCSANOW, &mode)?;
    }
    tell(format_args!("char device redirected to {name}"));
    let fd = sys::duplicate(std::os::fd::AsRawFd::as_raw_fd(&master))
        .map_err(|e| nix::errno::Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))?;
    Ok(HostChar::new(CharKind::Pty, format!("pty:{name}")).with("input", fd))
}

/// A terminal or serial port. Its speed, parity and stop bits stay as they are: what the guest sets is not carried over.
fn tty(path: &Path) -> Result<HostChar, String> {
    use nix::sys::termios;
    let file: File = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
        .open(path)
        .map_err(|e| reason(&e))?;
    if !file.metadata().map_err(|e| reason(&e))?.file_type().is_char_device() {
        return Err("not a character device".to_owned());
    }
    sys::keep_mode(file.as_fd()).map_err(|e| reason(&e))?;
    if let Ok(mut mode) = termios::tcgetattr(&file) {
        termios::cfmakeraw(&mut mode);
        termios::tcsetattr(&file, termios::SetArg::TCSANOW, &mode).map_err(|e| e.desc().to_owned())?;
    }
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty()))
        .map_err(|e| e.desc().to_owned())?;
    let output = file.try_clone().map_err(|e| reason(&e))?;
    Ok(HostChar::new(CharKind::Stream, format!("tty:{}", path.display()))
        .with("input", file)
        .with("output", output))
}

fn waiting(title: &str) {
    tell(format_args!("QEMU waiting for connection on: {title}"));
}

fn unix(path: &Path, server: bool, wait: bool) -> std::io::Result<HostChar> {
    let title = format!("unix:{}", path.display());
    if !server {
        return Ok(HostChar::new(CharKind::Connect, title).with("client", UnixStream::connect(path)?));
    }
    if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
        // Left by a predecessor, or in use: a live listener is not taken over.
        if UnixStream::connect(path).is_ok() {
            return Err(std::io::Error::from_raw_os_error(libc::EADDRINUSE));
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    let title = format!("{title},server");
    let mut char = HostChar::new(CharKind::Listen, title.clone());
    char.name = Some(OwnName::new(path)?);
    if wait {
        waiting(&title);
        let (client, _) = listener.accept()?;
        char = char.with("client", client);
    }
    // Whoever has come may have gone again.
    listener.set_nonblocking(true)?;
    Ok(char.with(LISTENER, listener))
}

/// Addresses of a host name. Numbers and `localhost` need no resolver, which a static program may lack.
fn addresses(host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
    let fixed = match host {
        "" => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        text => text.parse().ok(),
    };
    match fixed {
        Some(address) => Ok(vec![SocketAddr::new(address, port)]),
        None => Ok((host, port).to_socket_addrs()?.collect()),
    }
}

fn tcp(host: &str, port: u16, server: bool, wait: bool, nodelay: bool) -> std::io::Result<HostChar> {
    let addresses = addresses(host, port)?;
    if !server {
        let stream = TcpStream::connect(addresses.as_slice())?;
        stream.set_nodelay(nodelay)?;
        return Ok(HostChar::new(CharKind::Connect, format!("tcp:{host}:{port}")).with("client", stream));
    }
    let listener = TcpListener::bind(addresses.as_slice())?;
    let title = format!("tcp:{},server", listener.local_addr()?);
    let mut char = HostChar::new(CharKind::Listen, title.clone());
    char.nodelay = nodelay;
    if wait {
        waiting(&title);
        let (client, _) = listener.accept()?;
        client.set_nodelay(nodelay)?;
        char = char.with("client", client);
    } else if port == 0 {
        tell(format_args!("char device listening on {title}"));
    }
    listener.set_nonblocking(true)?;
    Ok(char.with(LISTENER, listener))
}

#[cfg(test)]
mod tests {
    use bulkhead_tests::Scratch;

    use super::*;

    #[test]
    fn a_file_is_emptied_when_the_machine_begins_and_not_when_it_is_opened() {
        let scratch = Scratch::new("chars");
        let path = PathBuf::from(scratch.file("output"));
        std::fs::write(&path, "yesterday's").expect("a file for a test");
        let held = || std::fs::read_to_string(&path).expect("it exists");
        let device = CharDevice::Mux(Box::new(CharDevice::File(path.clone())));
        let char = open(&device, "-serial").expect("it can be written");
        assert_eq!(held(), "yesterday's");
        char.begin().expect("it is a file");
        assert_eq!(held(), "");
        std::fs::write(&path, "yesterday's").expect("a file for a test");
        // As standard output that leads to a file: whoever led it there has emptied it, or not.
        let file = OpenOptions::new().append(true).open(&path).expect("it exists");
        HostChar::output(file.into()).begin().expect("nothing to do");
        assert_eq!(held(), "yesterday's");
    }

    #[test]
    fn a_terminal_gets_its_mode_back() {
        use nix::sys::termios::{self, LocalFlags};
        let own = pty().expect("a terminal for a test");
        let path = own.title.strip_prefix("pty:").expect("its name");
        let slave = OpenOptions::new().read(true).custom_flags(libc::O_NOCTTY).open(path).expect("its name");
        let mode = || termios::tcgetattr(&slave).expect("a terminal").local_flags;
        let mut changed = termios::tcgetattr(&slave).expect("a terminal");
        changed.local_flags.insert(LocalFlags::ECHO | LocalFlags::ICANON);
        termios::tcsetattr(&slave, termios::SetArg::TCSANOW, &changed).expect("a terminal");
        let before = mode();
        let opened = [tty(Path::new(path)), tty(Path::new(path))].map(|char| char.expect("a terminal"));
        assert!(!mode().intersects(LocalFlags::ECHO | LocalFlags::ICANON));
        drop(opened);
        sys::restore_terminal();
        assert_eq!(mode(), before);
    }
}
