//! The request loop.

use bulkhead_bus::bell::Bell;
use bulkhead_bus::links::{BlockOp, BlockRequest, BlockServer, BlockStatus};

use crate::formats::{Image, ImageError};

/// Runs one request on the image.
pub fn run(server: &BlockServer, image: &mut dyn Image, request: BlockRequest) -> BlockStatus {
    let end = request.offset.checked_add(request.length as u64);
    // The last sector of an image that is no multiple of 512 bytes long reads as padded with zeros.
    if end.is_none_or(|end| end > image.bytes().next_multiple_of(512)) {
        return BlockStatus::Range;
    }
    let outcome = match request.op {
        BlockOp::Read => {
            server.with_data(request.slot, request.length, |data| image.read(request.offset, data))
        }
        BlockOp::Write => {
            server.with_data(request.slot, request.length, |data| image.write(request.offset, data))
        }
        BlockOp::Flush => image.flush(),
        // A hint that a raw file on every file system can ignore.
        BlockOp::Discard => Ok(()),
    };
    match outcome {
        Ok(()) => BlockStatus::Ok,
        Err(ImageError::Range) => BlockStatus::Range,
        Err(ImageError::ReadOnly) => BlockStatus::ReadOnly,
        Err(ImageError::Host(_)) => BlockStatus::Error,
    }
}

/// Serves for ever.
pub fn serve(server: &BlockServer, bell: &Bell, image: &mut dyn Image) -> ! {
    loop {
        bell.publish_cpu();
        match server.next() {
            Some(request) => {
                let status = run(server, image, request);
                server.complete(request.slot, status);
            }
            None => bell.sleep(None, || server.next().is_some()),
        }
    }
}
