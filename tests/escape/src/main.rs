//! A process that has been taken over, for `tests/tests/escape.rs`. Put in the place of a role's program it takes the same
//! descriptors, maps the same memory, enters the same jail, and then tries one way out of it.
//!
//! Which one is said by the file `NAME.attempt` beside the program, which it removes; without one it says that it is ready and
//! does nothing. What it tries and what came of it, if it lives to tell, goes to standard error.
//!
//! usage without a jail: `bh-escape --list`, `bh-escape --try N` (status 0: it worked, 1: it did not)

mod attempts;

use std::io::Write;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use attempts::{ATTEMPTS, Outside};
use bulkhead_bus::bell::Bell;
use bulkhead_bus::device::READY;
use bulkhead_bus::links::BlockServer;
use bulkhead_bus::manifest::{Manifest, fd};
use bulkhead_bus::messages::FromCpu;
use bulkhead_bus::serve::{self, StartError};
use bulkhead_bus::standby::Standby;
use bulkhead_bus::sys::{Mapping, futex_wait, futex_wake};
use bulkhead_bus::trace::Tracer;
use bulkhead_bus::wire;

/// Not taken over: the test speaks to it.
const MONITOR: &str = "bh-char-monitor";
/// Statuses of a process that lived to tell.
const REFUSED: i32 = 41;
const ESCAPED: i32 = 42;

fn main() {
    let words: Vec<String> = std::env::args().collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "--list"] => {
            for (number, attempt) in ATTEMPTS.iter().enumerate() {
                let outside = if attempt.outside == Outside::Works { "works" } else { "depends" };
                println!("{number}\t{outside}\t{}\t{}", attempt.name, attempt.call);
            }
        }
        [_, "--try", number] => {
            attempts::prepare();
            let attempt = number.parse().ok().and_then(|number: usize| ATTEMPTS.get(number));
            let outcome = attempt.map_or(Err(libc::EINVAL), |attempt| (attempt.run)());
            std::process::exit(i32::from(outcome.is_err()))
        }
        [MONITOR, ..] => {
            eprintln!("{MONITOR}: {}", bulkhead_chardev::main());
            std::process::exit(1)
        }
        _ => {
            let error = match start() {
                Ok(never) => match never {},
                Err(error) => error,
            };
            eprintln!("bh-escape: {error}");
            std::process::exit(1)
        }
    }
}

/// The attempt asked for, once.
fn asked_for(name: &str) -> Option<usize> {
    let own = std::env::current_exe().ok()?;
    let path = own.parent()?.join(format!("{name}.attempt"));
    let text = std::fs::read_to_string(&path).ok()?;
    std::fs::remove_file(&path).ok()?;
    text.trim().parse().ok()
}

/// Whether a descriptor of a manifest is memory to be mapped; others are kept open.
fn is_memory(name: &str) -> bool {
    let kept = [fd::CONTROL, fd::OVERLAY, fd::REPORT, fd::ROOT, "log", "client", "clients", "monitor"];
    let prefixes = [fd::IMAGE, fd::NAMESPACE, "input", "output"];
    !kept.contains(&name) && !prefixes.iter().any(|prefix| name.starts_with(prefix))
}

fn map(manifest: &Manifest, name: &str, number: i32) -> Result<Mapping, StartError> {
    // SAFETY: the broker passed this descriptor under this name.
    let size = nix::sys::stat::fstat(unsafe { BorrowedFd::borrow_raw(number) });
    let size = size.map_err(|error| StartError::Refused(error.to_string()))?.st_size;
    let sealed = [fd::CLOCK, fd::STANDBY].contains(&name);
    if sealed && manifest.map(name, size as usize, true).is_ok() {
        return Err(StartError::Refused(format!("{name} can be mapped for writing")));
    }
    manifest.map(name, size as usize, !sealed && !name.starts_with("rom"))
}

fn start() -> Result<std::convert::Infallible, StartError> {
    let manifest = serve::manifest()?;
    let standby = Standby::of(&manifest)?;
    // A successor that waits is idle.
    let number = if manifest.descriptor(fd::STANDBY).is_some() { None } else { asked_for(&manifest.name) };
    attempts::prepare();
    let mut memories = Vec::new();
    let mut keep = Vec::new();
    for (name, number) in &manifest.fds {
        if is_memory(name) {
            memories.push((name.as_str(), map(&manifest, name, *number)?));
        } else if ![fd::REPORT, fd::ROOT].contains(&name.as_str()) && !name.starts_with(fd::NAMESPACE) {
            keep.push(*number);
        }
    }
    let control: Option<OwnedFd> =
        manifest.descriptor(fd::CONTROL).map(|_| manifest.take(fd::CONTROL)).transpose()?;
    let block = match (manifest.role.as_str(), manifest.descriptor("block0")) {
        ("block", Some(number)) => {
            let peer = manifest.bell(&format!("block0{}", fd::PEER_BELL))?;
            Some(BlockServer::new(map(&manifest, "block0", number)?, peer))
        }
        _ => None,
    };
    let bell = match manifest.role.as_str() {
        "char" => manifest
            .descriptor(fd::BELL)
            .map(|number| map(&manifest, fd::BELL, number))
            .transpose()?
            .map(Bell::new),
        _ => None,
    };
    bulkhead_security::enter(&manifest.role, &keep, manifest.terms()).map_err(StartError::Refused)?;
    standby.wait(&manifest, &Tracer::off());
    if let Some((_, device)) = memories.iter().find(|(name, _)| *name == fd::DEVICE) {
        device.word(READY).store(1, Ordering::SeqCst);
        futex_wake(device.word(READY));
    }
    if let Some(block) = &block {
        block.set_ready();
    }
    if let Some(bell) = &bell {
        bell.set_ready();
    }
    if let (Some(control), Ok(ready)) = (&control, wire::encode(&FromCpu::Ready)) {
        let flags = nix::sys::socket::MsgFlags::MSG_NOSIGNAL;
        let _ = nix::sys::socket::send(control.as_raw_fd(), &ready, flags);
    }
    match number.and_then(|number| ATTEMPTS.get(number).map(|attempt| (number, attempt))) {
        None => loop {
            futex_wait(&AtomicU32::new(0), 0, None);
        },
        Some((number, attempt)) => {
            let (text, status) = match (attempt.run)() {
                Ok(()) => ("ESCAPED".to_owned(), ESCAPED),
                Err(error) => (format!("refused ({})", nix::errno::Errno::from_raw(error)), REFUSED),
            };
            // In one piece: each write is a line for the broker.
            let line = format!("attempt {number} {}: {text}\n", attempt.name);
            let _ = std::io::stderr().write_all(line.as_bytes());
            // SAFETY: ends the process without the standard library's own clean-up, which no device may do.
            unsafe { libc::_exit(status) }
        }
    }
}
