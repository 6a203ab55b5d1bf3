#![forbid(unsafe_code)]
//! A character back end: bytes between a device's byte link, a host stream, and the monitor. See README.md.
//!
//! Two threads. One waits for the host side and the monitor (`poll`), one for the device (its bell). Neither ever waits for
//! the other: input that the device has no room for is kept and tried again.

pub mod mux;

mod host;
mod serve;

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Barrier};

use bulkhead_bus::config::CharConfig;
use bulkhead_bus::links::{BYTES_LINK, ByteEnd, Side};
use bulkhead_bus::manifest::{Manifest, fd};
use bulkhead_bus::serve::{StartError, manifest};
use bulkhead_bus::wire;

use host::Host;
use serve::Shared;

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

fn start() -> Result<std::convert::Infallible, StartError> {
    let manifest = manifest()?;
    let config: CharConfig = wire::decode(&manifest.config).map_err(refused)?;
    let bell = manifest.bell(fd::BELL)?;
    let link = link(&manifest)?;
    let host = Host::take(&manifest, &config)?;
    let monitor = if config.monitor { Some(UnixStream::from(manifest.take("monitor")?)) } else { None };
    let mut keep = host.descriptors();
    keep.extend(monitor.as_ref().map(AsRawFd::as_raw_fd));
    let confined = bulkhead_security::confine(&keep, manifest.terms()).map_err(StartError::Refused)?;
    let shared = Arc::new(Shared::new(&config, link, monitor, host.first_output()));
    let gate = Arc::new(Barrier::new(2));
    let (theirs, open) = (shared.clone(), gate.clone());
    std::thread::Builder::new()
        .name("host".to_owned())
        .spawn(move || {
            // Once started, once filtered.
            open.wait();
            open.wait();
            serve::host_side(&theirs, host)
        })
        .map_err(refused)?;
    gate.wait();
    confined.seal(&manifest.role).map_err(StartError::Refused)?;
    gate.wait();
    bulkhead_bus::sys::release_program_pages();
    bell.set_ready();
    serve::device_side(&shared, &bell)
}
