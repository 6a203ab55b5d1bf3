//! The threads of a character back end.

use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bulkhead_bus::bell::Bell;
use bulkhead_bus::config::{CharConfig, CharKind};
use bulkhead_bus::links::ByteEnd;
use bulkhead_bus::sys::{self, monotonic_ns};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::host::{Held, Host};
use crate::keys::{Done, Effect, Keys};
use crate::mux::{Focus, Stamper, help};
use crate::output::{Outlet, PIECE, Sink};

/// How often a device without room is tried again, in milliseconds.
const RETRY_MS: u16 = 5;
/// How many times in a row the output may be busy before the end goes untold.
const LAST_LOOKS: u32 = 40;
/// How often a pseudo-terminal that nobody has open is looked at, in milliseconds.
const PTY_LOOK_MS: u16 = 500;
/// How often, and how many times in a row, an output has to be full and to have taken nothing until the end no longer waits for it.
const FULL_LOOK_MS: u16 = 50;
/// See [`FULL_LOOK_MS`].
const FULL_LOOKS: u32 = 4;
/// Bytes of the device in a piece with time stamps: each may be a line.
const STAMPED_PIECE: usize = 128;
/// Kills a half-typed line and redraws the prompt of the monitor.
pub const REDRAW: &[u8] = b"\x0c";

/// A text of this process's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Text {
    /// Help for the escape key.
    Help = 1,
    /// The focus has moved.
    Switched = 2,
    /// The end, unless the host takes nothing for [`LAST_LOOKS`] times [`RETRY_MS`].
    Terminated = 3,
    /// What was asked for cannot be done yet: whoever believes that disk data were saved may end the machine.
    NoCommit = 4,
}

/// Whether an attempt is to be made again.
pub fn waits(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// A line to the broker. When it is gone, so is this process.
pub fn tell(line: &str) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// The monitor in the broker.
pub struct Monitor {
    /// What it prints.
    pub stream: UnixStream,
    /// What is typed.
    pub keys: ByteEnd,
}

/// What both threads use.
pub struct Shared {
    /// To the device.
    pub link: Option<ByteEnd>,
    /// To the monitor.
    pub monitor: Option<Monitor>,
    /// Held while the host takes bytes, which may be for long.
    sink: Mutex<Sink>,
    /// Where the sink leads, for whoever cannot wait for it.
    output: Mutex<Outlet>,
    connected: AtomicBool,
    monitor_focus: AtomicBool,
    stamps: AtomicBool,
    escape: u8,
    start_ns: u64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// For a back end with its first output, if any.
    pub fn new(config: &CharConfig, link: Option<ByteEnd>, monitor: Option<Monitor>, sink: Sink) -> Shared {
        Shared {
            link,
            monitor,
            connected: AtomicBool::new(sink.is_connected()),
            output: Mutex::new(sink.outlet()),
            sink: Mutex::new(sink),
            monitor_focus: AtomicBool::new(false),
            stamps: AtomicBool::new(false),
            escape: config.escape,
            start_ns: config.start_ns,
        }
    }

    /// Follows the committed state of the escape key.
    pub fn follow(&self, keys: &Keys) {
        self.monitor_focus.store(keys.mux.focus == Focus::Monitor, Ordering::SeqCst);
        self.stamps.store(keys.mux.stamps, Ordering::SeqCst);
    }

    fn connect(&self, output: Option<Arc<Held>>) {
        let connected = output.is_some();
        let mut sink = locked(&self.sink);
        sink.direct(output);
        *locked(&self.output) = sink.outlet();
        drop(sink);
        self.connected.store(connected, Ordering::SeqCst);
    }

    fn wake_monitor(&self) {
        if let Some(monitor) = &self.monitor {
            // It does not wait: when there is no room for this byte the broker has enough of them.
            let _ = nix::unistd::write(&monitor.stream, b"k");
        }
    }

    /// The socket of the monitor while its output is to be shown.
    fn shown_monitor(&self) -> Option<&UnixStream> {
        let shown = self.monitor_focus.load(Ordering::SeqCst) && self.connected.load(Ordering::SeqCst);
        self.monitor.as_ref().filter(|_| shown).map(|monitor| &monitor.stream)
    }

    /// The sink when the host takes bytes soon: the other thread may only be showing something.
    fn free_sink(&self) -> Option<MutexGuard<'_, Sink>> {
        for _ in 0..LAST_LOOKS {
            match self.sink.try_lock() {
                Ok(sink) if sink.is_writable() => return Some(sink),
                _ => {}
            }
            let _ = poll(&mut [], PollTimeout::from(RETRY_MS));
        }
        None
    }

    /// Shows a text of this process's own, unless that was done.
    fn own_text(&self, text: u32, number: u32) {
        let sink = if text == Text::Terminated as u32 { self.free_sink() } else { Some(locked(&self.sink)) };
        let Some(mut sink) = sink else { return };
        if sink.state.texts == number {
            return;
        }
        let next = crate::journal::Output { texts: number, ..sink.state };
        match text {
            1 => sink.show(help(self.escape).as_bytes(), next),
            2 => sink.show(b"\r\n", next),
            3 => sink.show(b"QEMU: Terminated\r\n", next),
            4 => sink.show(b"\r\ncommit: not supported yet\r\n", next),
            _ => sink.commit(next),
        }
    }
}

/// The device's thread: shows what the device sends; at the broker's request, the last of it, and ends.
pub fn device_side(shared: &Shared, bell: &Bell) -> ! {
    if let Some(link) = &shared.link {
        // A predecessor may have died between taking the device's flag back and waking it.
        link.announce();
    }
    // A predecessor may have died between pipe and host, and the device need not send more.
    locked(&shared.sink).drain();
    let mut bytes = [0u8; PIECE];
    loop {
        bell.publish_cpu();
        let more = shared.link.as_ref().is_some_and(|link| show_device(shared, link, &mut bytes));
        if more {
            continue;
        }
        if bell.must_finish() {
            finish(shared);
        }
        let received = locked(&shared.sink).state.received;
        let work = || bell.must_finish() || shared.link.as_ref().is_some_and(|link| link.has_more(received));
        bell.sleep(None, work);
    }
}

/// Shows one piece of what the device has sent. False when there was none.
fn show_device(shared: &Shared, link: &ByteEnd, bytes: &mut [u8]) -> bool {
    let mut sink = locked(&shared.sink);
    let stamps = shared.stamps.load(Ordering::SeqCst);
    let room = if stamps { STAMPED_PIECE } else { PIECE };
    let state = sink.state;
    let count = link.receive_at(state.received, bytes.get_mut(..room).unwrap_or_default());
    let bytes = bytes.get(..count).unwrap_or_default();
    if bytes.is_empty() {
        return false;
    }
    let mut next = crate::journal::Output { received: state.received.wrapping_add(count as u32), ..state };
    if !sink.begin() {
        tell("what the device has sent has killed this back end and is left out");
        sink.commit(next);
    } else if stamps {
        let mut stamper = Stamper { inside: state.inside != 0 };
        let text = stamper.stamp(bytes, monotonic_ns().saturating_sub(shared.start_ns));
        next.inside = stamper.inside.into();
        sink.show(&text, next);
    } else {
        sink.show(bytes, next);
    }
    sink.end();
    true
}

/// Shows the monitor's last words and ends the process.
fn finish(shared: &Shared) -> ! {
    while let Some(monitor) = shared.shown_monitor() {
        let mut fds = [PollFd::new(monitor.as_fd(), PollFlags::POLLIN)];
        if !matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..)) || !locked(&shared.sink).pass(monitor) {
            break;
        }
    }
    std::process::exit(0)
}

/// The third thread: when this process is to finish and its output takes nothing more, it ends without, whatever the others wait for.
pub fn end_side(shared: &Shared, bell: &Bell) {
    bell.await_finish();
    let (mut looks, mut taken) = (0, None);
    while looks < FULL_LOOKS {
        let _ = poll(&mut [], PollTimeout::from(FULL_LOOK_MS));
        let outlet = locked(&shared.output).clone();
        let now = Some(outlet.taken());
        looks = if outlet.is_full() && now == taken { looks + 1 } else { 0 };
        taken = now;
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
pub fn host_side(shared: &Shared, mut host: Host, mut keys: Keys) {
    let mut monitor_open = true;
    let mut hung_up = false;
    // A predecessor may have died in front of any of these.
    shared.own_text(keys.state.text, keys.state.texts);
    shared.wake_monitor();
    loop {
        let stuck = !deal(shared, &mut keys);
        // Input is not read meanwhile, and the broker accepts nobody before it knows.
        if stuck && host.has_left() {
            lose(shared, &mut host);
        }
        let timeout = if stuck {
            PollTimeout::from(RETRY_MS)
        } else if hung_up {
            PollTimeout::from(PTY_LOOK_MS)
        } else {
            PollTimeout::NONE
        };
        let ready = wait(shared, &host, !stuck && !hung_up, monitor_open, timeout);
        if hung_up {
            let events = host.look();
            if !events.contains(PollFlags::POLLHUP) {
                hung_up = false;
                arrive(shared, &mut keys, host.input.clone());
            } else if let Some(input) = host.input.as_ref().filter(|_| events.contains(PollFlags::POLLIN)) {
                // Somebody had it open between two looks. Left there, what was written would be read at the next one's arrival.
                keys.fetch(input);
            }
        }
        for event in ready {
            match event {
                Ready::Monitor => {
                    if let Some(monitor) = shared.shown_monitor() {
                        monitor_open = locked(&shared.sink).pass(monitor);
                    }
                }
                Ready::Client => {
                    let socket = host.clients.as_ref().map(AsFd::as_fd);
                    match socket.map(sys::receive_descriptor) {
                        Some(Ok(Some(client))) => {
                            let client = Held::new(client);
                            host.input = Some(client.clone());
                            arrive(shared, &mut keys, Some(client));
                        }
                        Some(Err(error)) if waits(&error) => {}
                        // The broker is gone, and this process with it.
                        _ => std::mem::forget(host.clients.take()),
                    }
                }
                Ready::HungUp if host.kind == CharKind::Pty => {
                    hung_up = true;
                    shared.connect(None);
                }
                Ready::Input | Ready::HungUp => {
                    let open = host.input.as_ref().is_none_or(|input| keys.fetch(input));
                    if !open {
                        lose(shared, &mut host);
                    } else if host.kind == CharKind::Pty && !shared.connected.load(Ordering::SeqCst) {
                        arrive(shared, &mut keys, host.input.clone());
                    }
                }
            }
        }
    }
}

/// Somebody sees the output from now on.
fn arrive(shared: &Shared, keys: &mut Keys, output: Option<Arc<Held>>) {
    if keys.mux.focus == Focus::Monitor {
        keys.want_redraw();
    }
    shared.connect(output);
}

/// Deals with typed bytes. False when some have to wait for room.
fn deal(shared: &Shared, keys: &mut Keys) -> bool {
    loop {
        match keys.next(shared.link.as_ref(), shared.monitor.as_ref()) {
            Done::All => return true,
            Done::Full => return false,
            Done::Some(effect) => {
                shared.follow(keys);
                match effect {
                    Effect::None => {}
                    Effect::Monitor => shared.wake_monitor(),
                    Effect::Text => {
                        shared.own_text(keys.state.text, keys.state.texts);
                        shared.wake_monitor();
                    }
                }
            }
        }
    }
}

fn wait(shared: &Shared, host: &Host, room: bool, monitor_open: bool, timeout: PollTimeout) -> Vec<Ready> {
    let mut kinds = Vec::new();
    let mut fds = Vec::new();
    let mut watch = |kind, fd| {
        kinds.push(kind);
        fds.push(PollFd::new(fd, PollFlags::POLLIN));
    };
    match (&host.input, &host.clients) {
        (Some(input), _) => {
            if room {
                watch(Ready::Input, input.as_fd());
            }
        }
        (None, Some(clients)) => watch(Ready::Client, clients.as_fd()),
        (None, None) => {}
    }
    if let Some(monitor) = shared.shown_monitor().filter(|_| monitor_open) {
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

/// The host side's input has ended.
fn lose(shared: &Shared, host: &mut Host) {
    if host.is_socket() {
        host.release();
        shared.connect(None);
    } else {
        host.input = None;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use bulkhead_bus::bell::BELL_BYTES;
    use bulkhead_bus::config::JOURNAL_BYTES;
    use bulkhead_bus::device::DEATHS_MAX;
    use bulkhead_bus::links::{BYTES_LINK, Side};
    use bulkhead_bus::sys::Mapping;

    use super::*;
    use crate::journal::{OUTPUT, Part};

    #[test]
    fn output_that_kills_is_left_out_and_the_next_piece_arrives() {
        let journal = Arc::new(Mapping::anonymous(JOURNAL_BYTES).expect("mapping"));
        let memory = sys::memfd("link", BYTES_LINK as u64).expect("memfd");
        let end = |side| {
            let bell = Arc::new(Bell::new(Mapping::anonymous(BELL_BYTES).expect("mapping")));
            ByteEnd::new(Mapping::shared(memory.as_fd(), BYTES_LINK, true).expect("mapping"), bell, side)
        };
        let device = end(Side::Device);
        let (read, write) = std::io::pipe().expect("pipe");
        let (mut user, screen) = std::io::pipe().expect("pipe");
        let config =
            CharConfig { kind: CharKind::Stream, monitor: false, mux: false, escape: 1, start_ns: 0 };
        // A successor with time stamps or without.
        let start = |stamps: bool| {
            let pipe = (read.try_clone().expect("descriptor"), write.try_clone().expect("descriptor"));
            let to = Held::new(screen.try_clone().expect("descriptor").into());
            let part = Part::take_up(journal.clone(), OUTPUT);
            let sink = Sink::new(Some(to), (pipe.0.into(), pipe.1.into()), part);
            let shared = Shared::new(&config, Some(end(Side::Host)), None, sink);
            shared.stamps.store(stamps, Ordering::SeqCst);
            shared
        };
        let show =
            |shared: &Shared| show_device(shared, shared.link.as_ref().expect("link"), &mut [0; PIECE]);
        for stamps in [false, true] {
            assert_eq!(device.send(b"deadly"), 6);
            for _ in 0..DEATHS_MAX {
                // One that dies before it has shown any of it.
                assert!(locked(&start(stamps).sink).begin());
            }
            let shared = start(stamps);
            assert!(show(&shared));
            assert!(!show(&shared), "the piece is still there");
            assert_eq!(device.send(b"fine\n"), 5);
            assert!(show(&shared));
            let mut got = [0u8; 64];
            let count = user.read(&mut got).expect("readable");
            let text = String::from_utf8_lossy(&got[..count]);
            assert!(text.ends_with("fine\n") && !text.contains("deadly"), "{text:?}");
            assert_eq!(text.starts_with('['), stamps, "{text:?}");
        }
    }
}
