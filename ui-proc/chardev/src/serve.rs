//! The two threads of a character back end.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bulkhead_bus::bell::Bell;
use bulkhead_bus::config::{CharConfig, CharKind};
use bulkhead_bus::links::ByteEnd;
use bulkhead_bus::sys::monotonic_ns;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::host::Host;
use crate::mux::{Focus, Input, Mux, Stamper};

/// Typed bytes kept for a device without room.
const PENDING_MAX: usize = 4096;
/// How often a device without room is tried again, in milliseconds.
const RETRY_MS: u16 = 5;
/// How often a pseudo-terminal that nobody has open is looked at, in milliseconds.
const PTY_LOOK_MS: u16 = 500;
const CHUNK: usize = 4096;
/// Kills a half-typed line and redraws the prompt of the monitor.
const REDRAW: &[u8] = b"\x0c";

/// What both threads use.
pub struct Shared {
    link: Option<ByteEnd>,
    monitor: Option<UnixStream>,
    mux: Mutex<Mux>,
    output: Mutex<Option<Arc<OwnedFd>>>,
    start_ns: u64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// For a back end with its first output, if any.
    pub fn new(
        config: &CharConfig,
        link: Option<ByteEnd>,
        monitor: Option<UnixStream>,
        output: Option<Arc<OwnedFd>>,
    ) -> Shared {
        let mux = Mux::new(config.mux, config.escape, link.is_some(), monitor.is_some());
        Shared { link, monitor, mux: Mutex::new(mux), output: Mutex::new(output), start_ns: config.start_ns }
    }

    /// Writes everything, waiting if need be. An output that fails loses the rest; the host side notices its end.
    fn show(&self, bytes: &[u8]) {
        let output = locked(&self.output).clone();
        let Some(output) = output else { return };
        let mut rest = bytes;
        while !rest.is_empty() {
            match nix::unistd::write(&output, rest) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    let mut fds = [PollFd::new(output.as_fd(), PollFlags::POLLOUT)];
                    let _ = poll(&mut fds, PollTimeout::NONE);
                }
                Err(_) => return,
            }
        }
    }

    /// Writes a line unless the other side takes nothing at the moment.
    fn show_if_taken(&self, line: &[u8]) {
        let Some(output) = locked(&self.output).clone() else { return };
        let mut fds = [PollFd::new(output.as_fd(), PollFlags::POLLOUT)];
        if matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..)) {
            self.show(line);
        }
    }

    fn connect(&self, output: Option<Arc<OwnedFd>>) {
        let connected = output.is_some();
        *locked(&self.output) = output;
        if let Some(link) = &self.link {
            link.set_connected(connected);
        }
        if connected && locked(&self.mux).focus == Focus::Monitor {
            self.tell_monitor(REDRAW);
        }
    }

    fn tell_monitor(&self, bytes: &[u8]) {
        if let Some(mut monitor) = self.monitor.as_ref() {
            // A broker that is gone ends this process by itself.
            let _ = monitor.write_all(bytes);
        }
    }

    fn monitor_is_shown(&self) -> bool {
        self.monitor.is_some() && locked(&self.mux).focus == Focus::Monitor && locked(&self.output).is_some()
    }

    /// Shows what the monitor has sent, at most one piece. False at its end.
    fn show_monitor(&self) -> bool {
        let Some(mut monitor) = self.monitor.as_ref() else { return false };
        let mut bytes = [0u8; CHUNK];
        match monitor.read(&mut bytes) {
            Ok(0) => false,
            Ok(count) => {
                self.show(bytes.get(..count).unwrap_or_default());
                true
            }
            Err(error) => error.kind() == ErrorKind::Interrupted,
        }
    }
}

/// The device's thread: shows what the device sends; at the broker's request, the last of it, and ends.
pub fn device_side(shared: &Shared, bell: &Bell) -> ! {
    if let Some(link) = &shared.link {
        link.set_connected(locked(&shared.output).is_some());
    }
    let mut stamper = Stamper::default();
    let mut bytes = [0u8; CHUNK];
    loop {
        bell.publish_cpu();
        let count = shared.link.as_ref().map_or(0, |link| link.receive(&mut bytes));
        if count > 0 {
            let bytes = bytes.get(..count).unwrap_or_default();
            if locked(&shared.mux).stamps {
                let now = monotonic_ns().saturating_sub(shared.start_ns);
                shared.show(&stamper.stamp(bytes, now));
            } else {
                shared.show(bytes);
            }
            continue;
        }
        if bell.must_finish() {
            finish(shared);
        }
        let work = || bell.must_finish() || shared.link.as_ref().is_some_and(|link| link.waiting() > 0);
        bell.sleep(None, work);
    }
}

/// Shows the monitor's last words and ends the process.
fn finish(shared: &Shared) -> ! {
    while let Some(monitor) = shared.monitor.as_ref().filter(|_| shared.monitor_is_shown()) {
        let mut fds = [PollFd::new(monitor.as_fd(), PollFlags::POLLIN)];
        if !matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..)) || !shared.show_monitor() {
            break;
        }
    }
    std::process::exit(0)
}

/// What `poll` saw.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ready {
    Input,
    HungUp,
    Client,
    Monitor,
}

/// The host side's thread.
pub fn host_side(shared: &Shared, mut host: Host) {
    let mut pending: VecDeque<u8> = VecDeque::new();
    let mut monitor_open = true;
    let mut hung_up = false;
    if locked(&shared.mux).focus == Focus::Monitor && host.kind == CharKind::Pty {
        // Shown when somebody opens the terminal.
        shared.connect(None);
    }
    loop {
        deliver(shared, &mut pending);
        let timeout = if !pending.is_empty() {
            PollTimeout::from(RETRY_MS)
        } else if hung_up {
            PollTimeout::from(PTY_LOOK_MS)
        } else {
            PollTimeout::NONE
        };
        let ready = wait(shared, &host, pending.len() < PENDING_MAX && !hung_up, monitor_open, timeout);
        if hung_up {
            hung_up = !is_open(&host);
            if !hung_up {
                shared.connect(host.input.clone());
            }
        }
        for event in ready {
            match event {
                Ready::Monitor => monitor_open = shared.show_monitor(),
                Ready::Client => {
                    let client = host.listener.as_ref().and_then(|listener| listener.accept().ok());
                    if let Some(client) = client.map(Arc::new) {
                        host.input = Some(client.clone());
                        shared.connect(Some(client));
                    }
                }
                Ready::HungUp if host.kind == CharKind::Pty => {
                    hung_up = true;
                    shared.connect(None);
                }
                Ready::Input | Ready::HungUp => {
                    if !take_input(shared, &host, &mut pending) {
                        lose(shared, &mut host);
                    } else if host.kind == CharKind::Pty && locked(&shared.output).is_none() {
                        shared.connect(host.input.clone());
                    }
                }
            }
        }
    }
}

/// Whether somebody has the pseudo-terminal open.
fn is_open(host: &Host) -> bool {
    let Some(input) = &host.input else { return false };
    let mut fds = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
    let _ = poll(&mut fds, PollTimeout::ZERO);
    !fds.iter().filter_map(PollFd::revents).any(|events| events.contains(PollFlags::POLLHUP))
}

fn wait(shared: &Shared, host: &Host, room: bool, monitor_open: bool, timeout: PollTimeout) -> Vec<Ready> {
    let mut kinds = Vec::new();
    let mut fds = Vec::new();
    let mut watch = |kind, fd| {
        kinds.push(kind);
        fds.push(PollFd::new(fd, PollFlags::POLLIN));
    };
    match (&host.input, &host.listener) {
        (Some(input), _) => {
            if room {
                watch(Ready::Input, input.as_fd());
            }
        }
        // One client at a time: the next waits in the queue.
        (None, Some(listener)) => watch(Ready::Client, listener.as_fd()),
        (None, None) => {}
    }
    if let Some(monitor) = shared.monitor.as_ref().filter(|_| monitor_open && shared.monitor_is_shown()) {
        watch(Ready::Monitor, monitor.as_fd());
    }
    let _ = poll(&mut fds, timeout);
    let mut ready = Vec::new();
    for (fd, kind) in fds.iter().zip(kinds) {
        let events = fd.revents().unwrap_or(PollFlags::empty());
        if events.contains(PollFlags::POLLIN) {
            ready.push(kind);
        } else if !events.is_empty() {
            ready.push(if kind == Ready::Input { Ready::HungUp } else { kind });
        }
    }
    ready
}

/// Reads from the host. False at its end.
fn take_input(shared: &Shared, host: &Host, pending: &mut VecDeque<u8>) -> bool {
    let Some(input) = &host.input else { return true };
    let mut bytes = [0u8; CHUNK];
    match nix::unistd::read(input, &mut bytes) {
        Ok(0) => false,
        Ok(count) => {
            for byte in bytes.get(..count).unwrap_or_default() {
                typed(shared, *byte, pending);
            }
            true
        }
        Err(Errno::EINTR | Errno::EAGAIN) => true,
        Err(_) => false,
    }
}

fn typed(shared: &Shared, byte: u8, pending: &mut VecDeque<u8>) {
    let (input, focus) = {
        let mut mux = locked(&shared.mux);
        (mux.take(byte), mux.focus)
    };
    match input {
        Input::Byte(byte) => match focus {
            Focus::Device => pending.push_back(byte),
            Focus::Monitor => shared.tell_monitor(&[byte]),
        },
        Input::Help => {
            let help = locked(&shared.mux).help();
            shared.show(help.as_bytes());
        }
        Input::Exit => {
            shared.show_if_taken(b"QEMU: Terminated\r\n");
            shared.tell_monitor(b"\x15quit\r");
        }
        Input::Commit => shared.tell_monitor(b"\x15commit all\r"),
        Input::Break => {
            if let Some(link) = &shared.link {
                link.send_break();
            }
        }
        Input::Switched => {
            shared.show(b"\r\n");
            if focus == Focus::Monitor {
                shared.tell_monitor(REDRAW);
            }
        }
        Input::Nothing => {}
    }
}

/// Hands typed bytes to the device as far as it has room.
fn deliver(shared: &Shared, pending: &mut VecDeque<u8>) {
    let Some(link) = &shared.link else {
        pending.clear();
        return;
    };
    while !pending.is_empty() {
        let count = link.send(pending.as_slices().0);
        if count == 0 {
            return;
        }
        pending.drain(..count);
    }
}

/// The host side's input has ended.
fn lose(shared: &Shared, host: &mut Host) {
    host.input = None;
    match host.kind {
        CharKind::Listen { .. } | CharKind::Connect => shared.connect(None),
        CharKind::Stream | CharKind::Null | CharKind::Pty => {}
    }
}
