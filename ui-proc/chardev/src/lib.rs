#![forbid(unsafe_code)]
//! A character back end: bytes between a device's byte link, a host stream, and the monitor. See README.md.
//!
//! Three threads. One waits for the host side and the monitor (`poll`), one for the device (its bell). Neither ever waits for
//! the other: input that the device has no room for is kept and tried again. The third sleeps until the machine ends, and ends the
//! process when the host takes nothing more, whatever the others wait for.
//!
//! *Death*: the broker keeps the listener, the client, two pipes and the journal, and hands them to the successor. A byte is at
//! every moment in exactly one of: the host's stream, a pipe, the journal, a link. README.md says what that is worth.

pub mod journal;
pub mod mux;

mod host;
mod keys;
mod output;
mod serve;

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Barrier};

use bulkhead_bus::bell::{BELL_BYTES, Bell};
use bulkhead_bus::config::{CharConfig, JOURNAL_BYTES};
use bulkhead_bus::links::{BYTES_LINK, ByteEnd, Side};
use bulkhead_bus::manifest::{Manifest, fd};
use bulkhead_bus::serve::{StartError, manifest};
use bulkhead_bus::sys::Mapping;
use bulkhead_bus::wire;

use host::Host;
use journal::Part;
use keys::Keys;
use mux::Mux;
use output::Sink;
use serve::{Monitor, Shared};

fn refused(error: impl std::fmt::Display) -> StartError {
    StartError::Refused(error.to_string())
}

/// Runs the process; returns only when it cannot start.
pub fn main() -> StartError {
    match start() {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn link(manifest: &Manifest) -> Result<Option<ByteEnd>, StartError> {
    let name = format!("{}0", fd::BYTES);
    if manifest.descriptor(&name).is_none() {
        return Ok(None);
    }
    let peer = manifest.bell(&format!("{name}{}", fd::PEER_BELL))?;
    let end = ByteEnd::new(manifest.map(&name, BYTES_LINK, true)?, peer, Side::Host);
    Ok(Some(end.traced(manifest.tracer()?, 0)))
}

/// The ends of one of the pipes that the broker keeps.
fn pipe(manifest: &Manifest, name: &str) -> Result<(OwnedFd, OwnedFd), StartError> {
    Ok((manifest.take(&format!("{name}-read"))?, manifest.take(&format!("{name}-write"))?))
}

fn monitor(manifest: &Manifest) -> Result<Monitor, StartError> {
    // The broker is woken through the socket.
    let nobody = Arc::new(Bell::new(Mapping::anonymous(BELL_BYTES).map_err(refused)?));
    Ok(Monitor {
        stream: UnixStream::from(manifest.take("monitor")?),
        keys: ByteEnd::new(manifest.map(fd::KEYS, BYTES_LINK, true)?, nobody, Side::Device),
    })
}

/// Starts a thread that goes on once the process is in its jail.
fn thread(name: &str, gate: &Arc<Barrier>, run: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
    let gate = gate.clone();
    let body = move || {
        // Once started, once filtered.
        gate.wait();
        gate.wait();
        run();
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(refused)?;
    Ok(())
}

fn start() -> Result<std::convert::Infallible, StartError> {
    let manifest = manifest()?;
    let config: CharConfig = wire::decode(&manifest.config).map_err(refused)?;
    let bell = manifest.bell(fd::BELL)?;
    let link = link(&manifest)?;
    let host = Host::take(&manifest, &config)?;
    let monitor = if config.monitor { Some(monitor(&manifest)?) } else { None };
    let journal = Arc::new(manifest.map(fd::JOURNAL, JOURNAL_BYTES, true)?);
    let mux = Mux::new(config.mux, config.escape, link.is_some(), monitor.is_some());
    let keys = Keys::new(
        journal.clone(),
        mux,
        pipe(&manifest, "input")?,
        Part::take_up(journal.clone(), journal::INPUT),
    );
    let sink =
        Sink::new(host.first_output(), pipe(&manifest, "output")?, Part::take_up(journal, journal::OUTPUT));
    let mut keep = host.descriptors();
    keep.extend(keys.descriptors());
    keep.extend(sink.descriptors());
    keep.extend(monitor.as_ref().map(|monitor| monitor.stream.as_raw_fd()));
    let confined = bulkhead_security::confine(&keep, manifest.terms()).map_err(StartError::Refused)?;
    let shared = Arc::new(Shared::new(&config, link, monitor, sink));
    shared.follow(&keys);
    let gate = Arc::new(Barrier::new(3));
    let theirs = shared.clone();
    thread("host", &gate, move || serve::host_side(&theirs, host, keys))?;
    let (theirs, ends) = (shared.clone(), bell.clone());
    thread("end", &gate, move || serve::end_side(&theirs, &ends))?;
    gate.wait();
    confined.seal(&manifest.role).map_err(StartError::Refused)?;
    gate.wait();
    bulkhead_bus::sys::release_program_pages();
    bell.set_ready();
    serve::device_side(&shared, &bell)
}
