//! The request loop over a real link.

use std::os::fd::AsFd;
use std::sync::Arc;

use bulkhead_bus::bell::{BELL_BYTES, Bell};
use bulkhead_bus::links::{BLOCK_DATA, BLOCK_LINK, BlockClient, BlockOp, BlockServer, BlockStatus};
use bulkhead_bus::sys::{Mapping, memfd};

use super::serve_pending;
use crate::formats::{Image, ImageError};

/// An image that notes what is asked of it.
struct Noted {
    bytes: u64,
    write_through: bool,
    log: Vec<String>,
}

impl Image for Noted {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&mut self, offset: u64, to: &mut [u8]) -> Result<(), ImageError> {
        self.log.push(format!("read {offset} {}", to.len()));
        Ok(())
    }

    fn write(&mut self, offset: u64, from: &[u8]) -> Result<(), ImageError> {
        self.log.push(format!("write {offset} {}", from.len()));
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ImageError> {
        self.log.push("flush".to_owned());
        Ok(())
    }

    fn is_write_through(&self) -> bool {
        self.write_through
    }
}

fn noted(write_through: bool) -> Noted {
    Noted { bytes: 10_000, write_through, log: Vec::new() }
}

fn link() -> (BlockClient, BlockServer) {
    let fd = memfd("link", BLOCK_LINK as u64).expect("memfd for a test");
    let map = || Mapping::shared(fd.as_fd(), BLOCK_LINK, true).expect("mapping for a test");
    let bell = || Arc::new(Bell::new(Mapping::anonymous(BELL_BYTES).expect("mapping for a test")));
    (BlockClient::new(map(), bell()), BlockServer::new(map(), bell()))
}

#[test]
fn requests_run_in_the_order_of_their_numbers_whatever_their_slots() {
    let (client, server) = link();
    let mut image = noted(false);
    for (slot, number) in [(3, 12u64), (0, 11), (6, 10), (1, 13)] {
        assert!(client.submit(slot, BlockOp::Read, number * 512, 512, number));
    }
    assert!(serve_pending(&server, &mut image));
    assert_eq!(image.log, ["read 5120 512", "read 5632 512", "read 6144 512", "read 6656 512"]);
    assert!(!serve_pending(&server, &mut image));
}

#[test]
fn write_through_makes_waiting_writes_durable_once_and_before_they_are_done() {
    let (client, server) = link();
    let mut image = noted(true);
    for number in 0..3u64 {
        assert!(client.submit(number as usize, BlockOp::Write, number * 512, 512, number));
    }
    serve_pending(&server, &mut image);
    assert_eq!(image.log, ["write 0 512", "write 512 512", "write 1024 512", "flush"]);
    for slot in 0..3 {
        assert_eq!(client.poll(slot), Some(Some(BlockStatus::Ok)));
    }
}

#[test]
fn write_back_leaves_durability_to_the_flush() {
    let (client, server) = link();
    let mut image = noted(false);
    assert!(client.submit(0, BlockOp::Write, 0, 512, 0));
    assert!(client.submit(1, BlockOp::Flush, 0, 0, 1));
    serve_pending(&server, &mut image);
    assert_eq!(image.log, ["write 0 512", "flush"]);
}

/// 2008-0928, on this side of the link: a device process that was taken over asks past the end of the image.
#[test]
fn ranges_beyond_the_image_never_reach_it() {
    let (client, server) = link();
    let mut image = noted(false);
    // 10,000 bytes show as 20 sectors.
    let ranges = [(10_240, 512), (9_728, 1024), (u64::MAX, 1), (u64::MAX - 511, 512), (1 << 63, BLOCK_DATA)];
    for op in [BlockOp::Read, BlockOp::Write, BlockOp::Discard] {
        for (offset, length) in ranges {
            assert!(client.submit(0, op, offset, length, 0));
            serve_pending(&server, &mut image);
            assert_eq!(client.poll(0), Some(Some(BlockStatus::Range)));
            client.release(0);
        }
    }
    assert!(image.log.is_empty());
    assert!(client.submit(0, BlockOp::Read, 9_728, 512, 0));
    serve_pending(&server, &mut image);
    assert_eq!(client.poll(0), Some(Some(BlockStatus::Ok)));
}
