#![forbid(unsafe_code)]
//! A character back end: bytes between a device's byte link, a host stream, and the monitor. See README.md.
//!
//! Three threads. One waits for the host side and the monitor (`poll`), one for the device (its bell). Neither ever waits for
//! the other: input that the device has no room for is kept and tried again. The third sleeps until the machine ends, and ends the
//! process when the host takes nothing more, whatever the others wait for.
//!
//! *Death*: the broker keeps the client, two pipes and the journal, and hands them to the successor; listeners never leave it. A byte is at
//! every moment in exactly one of: the host's stream, a pipe, the journal, a link. README.md says what that is worth.

pub mod journal;
pub mod mux;

mod host;
mod keys;
mod output;
mod serve;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Barrier};

use bulkhead_bus::bell::{BELL_BYTES, Bell};
use bulkhead_bus::config::{CharConfig, JOURNAL_BYTES};
use bulkhead_bus::links::{BYTES_LINK, ByteEnd, Side};
use bulkhead_bus::manifest::{Manifest, fd};
use bulkhead_bus::serve::{StartError, manifest};
use bulkhead_bus::standby::Standby;
use bulkhead_bus::sys::Mapping;
use bulkhead_bus::trace::Tracer;
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

fn link(manifest: &Manifest, tracer: &Tracer) -> Result<Option<ByteEnd>, StartError> {
    let name = format!("{}0", fd::BYTES);
    if manifest.descriptor(&name).is_none() {
        return Ok(None);
    }
    let peer = manifest.bell(&format!("{name}{}", fd::PEER_BELL))?;
    let end = ByteEnd::new(manifest.map(&name, BYTES_LINK, true)?, peer, Side::Host);
    Ok(Some(end.traced(tracer.clone(), 0)))
}

/// The ends of one of the pipes that the broker keeps.
fn pipe(manifest: &Manifest, name: &str) -> Result<(OwnedFd, OwnedFd), StartError> {
    Ok((manifest.take(&format!("{name}-read"))?, manifest.take(&format!("{name}-write"))?))
}

fn monitor(manifest: &Manifest) -> Result<Monitor, StartError> {
    // The broker is woken through the socket.
    let nobody = Arc::new(Bell::new(Mapping::anonymous(BELL_BYTES).map_err(refused)?));
    Ok(Monitor {
        stream: UnixStream::from(manifest.take(fd::MONITOR)?),
        keys: ByteEnd::new(manifest.map(fd::KEYS, BYTES_LINK, true)?, nobody, Side::Device),
    })
}

/// Starts a thread, which there can be no more of in the jail. It waits for what it is to work with.
fn thread<T: Send + 'static>(
    name: &str,
    gate: &Arc<Barrier>,
    run: impl FnOnce(T) + Send + 'static,
) -> Result<Sender<T>, StartError> {
    let gate = gate.clone();
    let (give, take) = channel();
    let body = move || {
        gate.wait();
        if let Ok(work) = take.recv() {
            run(work);
        }
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(refused)?;
    Ok(give)
}

/// Names of the descriptors that are used and not only mapped.
const KEPT: [&str; 9] = [
    "input",
    "output",
    "client",
    fd::CLIENTS,
    "input-read",
    "input-write",
    "output-read",
    "output-write",
    fd::MONITOR,
];

fn start() -> Result<std::convert::Infallible, StartError> {
    let manifest = manifest()?;
    let config: CharConfig = wire::decode(&manifest.config).map_err(refused)?;
    let bell = manifest.bell(fd::BELL)?;
    let tracer = manifest.tracer()?;
    let link = link(&manifest, &tracer)?;
    let monitor = if config.monitor { Some(monitor(&manifest)?) } else { None };
    let journal = Arc::new(manifest.map(fd::JOURNAL, JOURNAL_BYTES, true)?);
    let standby = Standby::of(&manifest)?;
    let keep: Vec<i32> = KEPT.iter().filter_map(|name| manifest.descriptor(name)).collect();
    let confined = bulkhead_security::confine(&keep, manifest.terms()).map_err(StartError::Refused)?;
    let gate = Arc::new(Barrier::new(3));
    let host_side = thread("host", &gate, |(shared, host, keys): (Arc<Shared>, _, _)| {
        serve::host_side(&shared, host, keys);
    })?;
    let ends = bell.clone();
    let end_side = thread("end", &gate, move |shared: Arc<Shared>| serve::end_side(&shared, &ends))?;
    gate.wait();
    confined.seal(&manifest.role).map_err(StartError::Refused)?;
    bulkhead_bus::sys::release_program_pages();
    standby.wait(&manifest, &tracer);
    // From here on it reads what a predecessor has left.
    let host = Host::take(&manifest, &config)?;
    let mux = Mux::new(config.mux, config.escape, link.is_some(), monitor.is_some());
    let keys = Keys::new(
        journal.clone(),
        mux,
        pipe(&manifest, "input")?,
        Part::take_up(journal.clone(), journal::INPUT),
    );
    let sink =
        Sink::new(host.first_output(), pipe(&manifest, "output")?, Part::take_up(journal, journal::OUTPUT));
    let shared = Arc::new(Shared::new(&config, link, monitor, sink));
    shared.follow(&keys);
    end_side.send(shared.clone()).map_err(refused)?;
    host_side.send((shared.clone(), host, keys)).map_err(|_| refused("a thread has ended"))?;
    bell.set_ready();
    serve::device_side(&shared, &bell)
}
