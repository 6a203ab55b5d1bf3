//! The request loop.
//!
//! Requests run one after the other in the order of their numbers. With `cache=writethrough` the writes that wait together are made
//! durable together and reported then: one `fdatasync` for a long command of several requests.
//!
//! A request that has killed [`DEATHS_MAX`] back ends is reported as an error, like a bad sector. Which of several it was shows
//! when each runs and ends by itself, as they do behind a death.

use std::io::Write;

use bulkhead_bus::bell::Bell;
use bulkhead_bus::device::DEATHS_MAX;
use bulkhead_bus::links::{BlockOp, BlockRequest, BlockServer, BlockStatus};
use bulkhead_bus::{patience, sys};

use crate::formats::{Image, ImageError};

#[cfg(test)]
mod tests;

/// How long to look for more work while the device is awake on another processor. Shorter than a device's own patience: the device
/// has other things to do between two requests.
const SPIN_NS: u64 = 20_000;

fn status(outcome: Result<(), ImageError>) -> BlockStatus {
    match outcome {
        Ok(()) => BlockStatus::Ok,
        Err(ImageError::Range) => BlockStatus::Range,
        Err(ImageError::ReadOnly) => BlockStatus::ReadOnly,
        Err(ImageError::Host(_)) => BlockStatus::Error,
    }
}

/// Runs one request on the image, without making a write durable.
fn run(server: &BlockServer, image: &mut dyn Image, request: BlockRequest) -> BlockStatus {
    // The last sector of an image that is no multiple of 512 bytes long reads as padded with zeros.
    let size = image.bytes().checked_next_multiple_of(512);
    let end = request.offset.checked_add(request.length as u64);
    if end.is_none_or(|end| size.is_none_or(|size| end > size)) {
        return BlockStatus::Range;
    }
    status(match request.op {
        BlockOp::Read => {
            server.with_data(request.slot, request.length, |data| image.read(request.offset, data))
        }
        BlockOp::Write => {
            server.with_data(request.slot, request.length, |data| image.write(request.offset, data))
        }
        BlockOp::Flush if server.has_failed(&request) => return BlockStatus::Error,
        // The kernel tells a failure to write back once an open file (fsync(2)), and successors have the same one.
        BlockOp::Flush => image.flush().inspect_err(|_| server.note_failure(&request)),
        // A hint that a raw file on every file system can ignore.
        BlockOp::Discard => Ok(()),
    })
}

/// A line to the broker. When it is gone, so is this process.
fn tell(line: &str) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Runs everything that is submitted now. False when there was nothing.
pub fn serve_pending(server: &BlockServer, image: &mut dyn Image) -> bool {
    let requests = server.pending();
    let any = !requests.is_empty();
    let together = requests.iter().all(|request| server.deaths(request) == 0);
    // Slots of writes that are done but not durable.
    let mut held: Vec<usize> = Vec::new();
    for request in requests {
        if !server.begin(&request) {
            tell(&format!(
                "{request} has killed this back end {DEATHS_MAX} times and is reported as an error"
            ));
            server.complete(request.slot, BlockStatus::Error);
            continue;
        }
        let outcome = run(server, image, request);
        server.end(&request, outcome);
        if request.op == BlockOp::Write && outcome == BlockStatus::Ok && image.is_write_through() {
            held.push(request.slot);
        } else {
            server.complete(request.slot, outcome);
        }
        if !together {
            finish(server, image, &mut held);
        }
    }
    finish(server, image, &mut held);
    any
}

/// Makes writes durable and completes them.
fn finish(server: &BlockServer, image: &mut dyn Image, held: &mut Vec<usize>) {
    if !held.is_empty() {
        let outcome = status(image.flush());
        held.drain(..).for_each(|slot| server.complete(slot, outcome));
    }
}

/// Serves for ever.
pub fn serve(server: &BlockServer, bell: &Bell, image: &mut dyn Image) -> ! {
    loop {
        bell.publish_cpu();
        if !serve_pending(server, image) && !spin(server) {
            bell.sleep(None, || server.has_work());
        }
    }
}

/// Waits a moment for the device. True when there is work.
fn spin(server: &BlockServer) -> bool {
    let may = || server.peer().runs_elsewhere();
    patience::look(sys::monotonic_ns(), SPIN_NS, may, || server.has_work())
}
