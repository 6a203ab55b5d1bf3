//! A character back end as a real, jailed process.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_bus::bell::{BELL_BYTES, Bell};
use bulkhead_bus::bench::{Process, Sleeper};
use bulkhead_bus::config::{CharConfig, CharKind, JOURNAL_BYTES};
use bulkhead_bus::links::{BYTES_CAPACITY, BYTES_LINK, ByteEnd, Side};
use bulkhead_bus::manifest::{Manifest, fd};
use bulkhead_bus::sys::{self, Mapping};
use bulkhead_bus::wire;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What the broker keeps of a back end.
struct Host {
    kind: CharKind,
    files: Vec<(&'static str, OwnedFd)>,
    /// The device's end of the link.
    device: ByteEnd,
    bell: Bell,
    /// There is an escape key.
    mux: bool,
}

impl Host {
    /// Whose output is a pipe.
    fn new(output: OwnedFd) -> Host {
        Host::with(CharKind::Stream, "output", output)
    }

    /// With the host side as descriptor `name`.
    fn with(kind: CharKind, name: &'static str, side: OwnedFd) -> Host {
        let mut files = Vec::new();
        for (name, len) in [
            ("bytes0", BYTES_LINK),
            ("bytes0-peer", BELL_BYTES),
            (fd::BELL, BELL_BYTES),
            (fd::JOURNAL, JOURNAL_BYTES),
        ] {
            files.push((name, sys::memfd(name, len as u64).expect("memfd")));
        }
        for [read, write] in [["input-read", "input-write"], ["output-read", "output-write"]] {
            let pipe = std::io::pipe().expect("pipe");
            files.push((read, pipe.0.into()));
            files.push((write, pipe.1.into()));
        }
        files.push((name, side));
        let map = |at: usize, len| Mapping::shared(files[at].1.as_fd(), len, true).expect("mapping");
        let device = ByteEnd::new(map(0, BYTES_LINK), Arc::new(Bell::new(map(2, BELL_BYTES))), Side::Device);
        let bell = Bell::new(map(2, BELL_BYTES));
        Host { kind, files, device, bell, mux: false }
    }

    /// Starts the back end and waits until it serves.
    fn start(&self) -> Process {
        let config = CharConfig {
            kind: self.kind,
            monitor: false,
            mux: self.mux,
            escape: 1,
            start_ns: sys::monotonic_ns(),
        };
        let manifest = Manifest {
            name: "bh-char-serial0".to_owned(),
            role: "char".to_owned(),
            config: wire::encode(&config).expect("small"),
            ..Manifest::default()
        };
        let files: Vec<_> = self.files.iter().map(|(name, file)| (*name, file.as_fd())).collect();
        let mut process = Process::start("bh-char", manifest, &files);
        process.wait_ready(|| self.bell.wait_ready(Duration::from_millis(50)));
        process
    }

    /// Puts bytes into a pipe that the broker keeps, where a back end that died has left them.
    fn leave(&self, pipe: &str, bytes: &[u8]) {
        let file = self.files.iter().find(|(name, _)| *name == pipe).map(|(_, file)| file);
        let copy = file.and_then(|file| file.try_clone().ok()).expect("descriptor");
        std::fs::File::from(copy).write_all(bytes).expect("room");
    }

    /// The device gets just these bytes next.
    fn expect_typed(&self, bytes: &[u8]) {
        let end = Instant::now() + Duration::from_secs(20);
        while self.device.waiting() < bytes.len() {
            assert!(Instant::now() < end, "nothing arrives");
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut got = [0u8; 16];
        let count = self.device.receive(&mut got);
        assert_eq!(got.get(..count), Some(bytes));
    }

    /// Sends until neither the link nor `output` takes more.
    fn fill(&self, output: &OwnedFd) {
        let end = Instant::now() + Duration::from_secs(60);
        let is_full = || {
            let mut fds = [PollFd::new(output.as_fd(), PollFlags::POLLOUT)];
            self.device.room() == 0 && matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
        };
        while !is_full() {
            self.device.send(&[0x55; 4096]);
            assert!(Instant::now() < end, "the output is never full");
        }
    }
}

/// Fills `bytes`, which come soon.
fn read_within(from: &mut std::io::PipeReader, bytes: &mut [u8]) {
    let end = Instant::now() + Duration::from_secs(20);
    let mut done = 0;
    while done < bytes.len() {
        let left = PollTimeout::try_from(end.saturating_duration_since(Instant::now())).expect("short");
        let mut fds = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, left), Ok(1), "nothing comes behind {done} bytes");
        let count = from.read(&mut bytes[done..]).expect("output");
        assert!(count > 0, "the output ends behind {done} bytes");
        done += count;
    }
}

#[test]
fn end_does_not_wait_for_an_output_that_takes_nothing() {
    let (_read, write) = std::io::pipe().expect("pipe");
    let output = OwnedFd::from(write);
    let host = Host::new(output.try_clone().expect("descriptor"));
    let mut process = host.start();
    host.fill(&output);
    host.bell.ask_to_finish();
    // Nobody kills it here, as the broker would after a while.
    assert_eq!(process.wait_end().code(), Some(0));
}

#[test]
fn end_comes_behind_the_last_byte() {
    let (mut read, write) = std::io::pipe().expect("pipe");
    let host = Host::new(write.into());
    let mut process = host.start();
    let bytes: Vec<u8> = (0..20_000u32).map(|at| at as u8).collect();
    assert_eq!(host.device.send(&bytes), bytes.len());
    host.bell.ask_to_finish();
    assert_eq!(process.wait_end().code(), Some(0));
    drop(host);
    let mut got = Vec::new();
    read.read_to_end(&mut got).expect("output");
    assert_eq!(got.len(), bytes.len());
    assert!(got == bytes, "order of the bytes");
}

#[test]
fn successor_stays_though_its_predecessor_or_the_device_has_asked_it_to_finish() {
    let (_read, write) = std::io::pipe().expect("pipe");
    let host = Host::new(write.into());
    host.bell.ask_to_finish();
    host.bell.clear_ready();
    assert!(!host.bell.must_finish());
    let mut process = host.start();
    host.bell.ask_to_finish();
    assert_eq!(process.wait_end().code(), Some(0), "the broker's word counts");
}

#[test]
fn successor_shows_what_lies_in_the_pipe_though_the_device_sends_no_more() {
    let (mut read, write) = std::io::pipe().expect("pipe");
    let host = Host::new(write.into());
    host.leave("output-write", b"login: ");
    let mut process = host.start();
    host.bell.ask_to_finish();
    assert_eq!(process.wait_end().code(), Some(0));
    drop(host);
    let mut got = String::new();
    read.read_to_string(&mut got).expect("output");
    assert_eq!(got, "login: ");
}

#[test]
fn successor_hands_on_what_lies_in_the_pipe_though_nobody_types_more() {
    let (_read, write) = std::io::pipe().expect("pipe");
    let host = Host::new(write.into());
    host.leave("input-write", b"ping");
    let _process = host.start();
    host.expect_typed(b"ping");
}

#[test]
fn what_a_short_lived_opener_writes_to_a_pseudo_terminal_arrives_while_nobody_has_it_open() {
    let pair = nix::pty::openpty(None, None).expect("pseudo-terminal");
    let path = nix::unistd::ttyname(&pair.slave).expect("name");
    drop(pair.slave);
    let host = Host::with(CharKind::Pty, "input", pair.master);
    let _process = host.start();
    // Until it has seen that nobody is there.
    std::thread::sleep(Duration::from_millis(100));
    std::fs::write(path, "quit").expect("writable");
    host.expect_typed(b"quit");
}

#[test]
fn client_that_leaves_while_the_device_has_no_room_makes_place_and_loses_nothing() {
    let (broker, clients) = UnixStream::pair().expect("sockets");
    let (mut user, client) = UnixStream::pair().expect("sockets");
    let mut host = Host::with(CharKind::Listen, fd::CLIENTS, clients.into());
    host.files.push(("client", client.into()));
    let _process = host.start();
    user.write_all(&[0x55; BYTES_CAPACITY as usize]).expect("writable");
    user.write_all(b"the rest").expect("writable");
    let end = Instant::now() + Duration::from_secs(20);
    while host.device.waiting() < BYTES_CAPACITY as usize {
        assert!(Instant::now() < end, "nothing arrives");
        std::thread::sleep(Duration::from_millis(1));
    }
    // Until it has met the end of the room.
    std::thread::sleep(Duration::from_millis(50));
    drop(user);
    broker.set_read_timeout(Some(Duration::from_secs(20))).expect("socket");
    let mut word = [0u8; 1];
    (&broker).read_exact(&mut word).expect("word that the client has gone");
    assert_eq!(&word, b"l");
    let mut got = vec![0u8; BYTES_CAPACITY as usize];
    assert_eq!(host.device.receive(&mut got), got.len());
    host.expect_typed(b"the rest");
}

#[test]
fn successor_wakes_a_device_whose_flag_was_taken_back_without_a_wake() {
    let (_read, write) = std::io::pipe().expect("pipe");
    let host = Host::new(write.into());
    let device = Sleeper::forgotten(|| {
        let file = host.files.iter().find(|(name, _)| *name == "bytes0-peer").map(|(_, file)| file.as_fd());
        Mapping::shared(file.expect("bell"), BELL_BYTES, true).expect("mapping")
    });
    let _process = host.start();
    device.expect_woken();
}

#[test]
fn commit_key_is_refused_on_the_console_that_it_was_typed_at() {
    let (mut read, write) = std::io::pipe().expect("pipe");
    let host = Host { mux: true, ..Host::new(write.into()) };
    host.leave("input-write", b"\x01s");
    let _process = host.start();
    let expected = "\r\ncommit: not supported yet\r\n";
    let mut got = vec![0; expected.len()];
    read_within(&mut read, &mut got);
    assert_eq!(String::from_utf8_lossy(&got), expected);
}
