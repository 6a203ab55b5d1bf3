//! The request loop over a real link.

use std::os::fd::AsFd;
use std::sync::Arc;

use bulkhead_bus::bell::{BELL_BYTES, Bell};
use bulkhead_bus::links::{BLOCK_DATA, BLOCK_LINK, BlockClient, BlockOp, BlockServer, BlockStatus};
use bulkhead_bus::sys::{Mapping, memfd};

use super::{run, serve_pending};
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

/// An image whose host could not write back, which it says once.
struct Lossy {
    inner: Noted,
    lost: bool,
}

impl Image for Lossy {
    fn bytes(&self) -> u64 {
        self.inner.bytes()
    }

    fn read(&mut self, offset: u64, to: &mut [u8]) -> Result<(), ImageError> {
        self.inner.read(offset, to)
    }

    fn write(&mut self, offset: u64, from: &[u8]) -> Result<(), ImageError> {
        self.inner.write(offset, from)
    }

    fn flush(&mut self) -> Result<(), ImageError> {
        match std::mem::take(&mut self.lost) {
            true => Err(ImageError::Host(nix::errno::Errno::EIO)),
            false => self.inner.flush(),
        }
    }

    fn is_write_through(&self) -> bool {
        self.inner.is_write_through()
    }
}

#[test]
fn failure_of_a_flush_is_reported_though_its_back_end_dies_before_it_can() {
    let (client, server) = link();
    let mut image = Lossy { inner: noted(false), lost: true };
    assert!(client.submit(0, BlockOp::Flush, 0, 0, 7));
    let request = server.pending().remove(0);
    // One that dies before it has completed the request.
    let _ = run(&server, &mut image, request);
    assert!(serve_pending(&server, &mut image));
    assert_eq!(client.poll(0), Some(Some(BlockStatus::Error)));
    // The next one in the same place is another request.
    client.release(0);
    assert!(client.submit(0, BlockOp::Flush, 0, 0, 8));
    assert!(serve_pending(&server, &mut image));
    assert_eq!(client.poll(0), Some(Some(BlockStatus::Ok)));
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

/// An image that kills its back end at one operation.
struct Deadly {
    inner: Noted,
    at: &'static str,
}

impl Deadly {
    fn die(&self) {
        assert!(self.inner.log.last().is_none_or(|last| last != self.at), "death by {}", self.at);
    }
}

impl Image for Deadly {
    fn bytes(&self) -> u64 {
        self.inner.bytes()
    }

    fn read(&mut self, offset: u64, to: &mut [u8]) -> Result<(), ImageError> {
        self.inner.read(offset, to)?;
        self.die();
        Ok(())
    }

    fn write(&mut self, offset: u64, from: &[u8]) -> Result<(), ImageError> {
        self.inner.write(offset, from)?;
        self.die();
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ImageError> {
        self.inner.flush()?;
        self.die();
        Ok(())
    }

    fn is_write_through(&self) -> bool {
        self.inner.is_write_through()
    }
}

/// Serves with one back end after the other until one of them is done; how many have died, and what each was doing.
fn succeeds(server: &BlockServer, image: &mut Deadly, forgiven: bool) -> Vec<String> {
    let mut deaths = Vec::new();
    while deaths.len() < 20 {
        let life = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| serve_pending(server, image)));
        if life.is_ok() {
            break;
        }
        let (request, begun) = server.doing().expect("something was under way");
        deaths.push(format!("{request}, {begun}"));
        server.settle(forgiven);
        assert_eq!(server.doing(), None);
    }
    deaths
}

#[test]
fn request_that_kills_every_back_end_is_an_error_after_its_third_death_and_the_others_are_none() {
    for write_through in [false, true] {
        let (client, server) = link();
        let mut image = Deadly { inner: noted(write_through), at: "write 1024 512" };
        for number in 0..4u64 {
            assert!(client.submit(number as usize, BlockOp::Write, number * 512, 512, number));
        }
        assert_eq!(succeeds(&server, &mut image, false).len(), 3);
        let statuses: Vec<_> = (0..4).map(|slot| client.poll(slot)).collect();
        let (ok, error) = (Some(Some(BlockStatus::Ok)), Some(Some(BlockStatus::Error)));
        assert_eq!(statuses, [ok, ok, error, ok], "write-through {write_through}");
        // The next one in the same place is another request.
        image.at = "";
        client.release(2);
        assert!(client.submit(2, BlockOp::Write, 1024, 512, 4));
        assert_eq!(succeeds(&server, &mut image, false).len(), 0);
        assert_eq!(client.poll(2), ok);
    }
}

#[test]
fn deadly_flush_is_an_error_and_takes_no_read_with_it() {
    let (client, server) = link();
    let mut image = Deadly { inner: noted(false), at: "flush" };
    assert!(client.submit(0, BlockOp::Flush, 0, 0, 8));
    assert!(client.submit(1, BlockOp::Read, 512, 1024, 9));
    assert_eq!(succeeds(&server, &mut image, false), ["flush, 1", "flush, 2", "flush, 3"]);
    assert_eq!(client.poll(0), Some(Some(BlockStatus::Error)));
    assert_eq!(client.poll(1), Some(Some(BlockStatus::Ok)));
}

#[test]
fn deaths_from_outside_make_no_error_however_many_there_are() {
    let (client, server) = link();
    let mut image = Deadly { inner: noted(true), at: "read 512 1024" };
    assert!(client.submit(5, BlockOp::Read, 512, 1024, 3));
    let deaths = succeeds(&server, &mut image, true);
    assert_eq!(deaths, vec!["read of 1024 bytes at 512, 1"; 20]);
    assert_eq!(client.poll(5), Some(None));
}
