//! `bh-block` as the broker runs it: in its jail, over shared memory, killed and succeeded.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_bus::bell::{BELL_BYTES, Bell};
use bulkhead_bus::bench::Process;
use bulkhead_bus::config::{BlockCache, BlockConfig};
use bulkhead_bus::links::{BLOCK_DATA, BLOCK_LINK, BlockClient, BlockOp, BlockServer, BlockStatus};
use bulkhead_bus::manifest::Manifest;
use bulkhead_bus::sys::{Mapping, memfd};
use bulkhead_bus::wire;

/// What outlives the back end: the link and the bells, as the broker holds them.
struct Host {
    link: OwnedFd,
    bell: OwnedFd,
    device_bell: OwnedFd,
    client: BlockClient,
    server: BlockServer,
    device: Bell,
}

fn map(fd: &OwnedFd, len: usize) -> Mapping {
    Mapping::shared(fd.as_fd(), len, true).expect("mapping")
}

impl Host {
    fn new() -> Host {
        let link = memfd("link", BLOCK_LINK as u64).expect("memfd");
        let bell = memfd("bell", BELL_BYTES as u64).expect("memfd");
        let device_bell = memfd("device-bell", BELL_BYTES as u64).expect("memfd");
        let client = BlockClient::new(map(&link, BLOCK_LINK), Arc::new(Bell::new(map(&bell, BELL_BYTES))));
        let server =
            BlockServer::new(map(&link, BLOCK_LINK), Arc::new(Bell::new(map(&device_bell, BELL_BYTES))));
        let device = Bell::new(map(&device_bell, BELL_BYTES));
        Host { link, bell, device_bell, client, server, device }
    }

    /// Starts a back end on `files`.
    fn start(&self, config: &BlockConfig, files: &[(&str, &File)]) -> Process {
        let manifest = Manifest {
            name: "bh-block-test".to_owned(),
            role: "block".to_owned(),
            config: wire::encode(config).expect("configuration"),
            run_as: Some((65_534, 65_534)),
            ..Manifest::default()
        };
        let mut fds = vec![
            ("block0", self.link.as_fd()),
            ("block0-peer", self.device_bell.as_fd()),
            ("bell", self.bell.as_fd()),
        ];
        fds.extend(files.iter().map(|(name, file)| (*name, file.as_fd())));
        let mut process = Process::start("bh-block", manifest, &fds);
        process.wait_ready(|| self.server.wait_ready(Duration::from_millis(50)));
        process
    }

    /// Waits until the request in `slot` is done.
    fn wait(&self, slot: usize) -> BlockStatus {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            match self.client.poll(slot) {
                Some(Some(status)) => {
                    self.client.release(slot);
                    return status;
                }
                Some(None) => {}
                None => panic!("slot {slot} is free"),
            }
            assert!(Instant::now() < end, "slot {slot} is never done");
            self.device
                .sleep(Some(Duration::from_millis(20)), || !matches!(self.client.poll(slot), Some(None)));
        }
    }

    fn request(&self, slot: usize, op: BlockOp, offset: u64, length: usize, number: u64) {
        assert!(self.client.submit(slot, op, offset, length, number), "slot {slot}");
    }
}

fn image(name: &str, bytes: u64) -> File {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
    let file = file.expect("image");
    std::fs::remove_file(path).expect("unlink");
    file.set_len(bytes).expect("size");
    file
}

fn config(bytes: u64, snapshot: bool, cache: BlockCache) -> BlockConfig {
    BlockConfig {
        name: "hda".to_owned(),
        empty: false,
        read_only: false,
        snapshot,
        cache,
        format: "raw".to_owned(),
        bytes,
    }
}

#[test]
fn reads_writes_and_flushes_in_its_jail() {
    let file = image("process-rw.img", 1 << 20);
    file.write_all_at(&[0x5a; 4096], 8192).expect("write");
    let host = Host::new();
    let mut running = host.start(&config(1 << 20, false, BlockCache::Writethrough), &[("image0", &file)]);
    host.request(0, BlockOp::Read, 8192, 4096, 1);
    assert_eq!(host.wait(0), BlockStatus::Ok);
    let mut got = [0; 4096];
    assert!(host.client.read_data(0, 0, &mut got));
    assert_eq!(got, [0x5a; 4096]);
    assert!(host.client.write_data(1, 0, &[0x33; 1024]));
    host.request(1, BlockOp::Write, 512, 1024, 2);
    host.request(2, BlockOp::Flush, 0, 0, 3);
    host.request(3, BlockOp::Discard, 0, 512, 4);
    host.request(4, BlockOp::Read, 1 << 20, 512, 5);
    let statuses: Vec<_> = (1..5).map(|slot| host.wait(slot)).collect();
    assert_eq!(statuses, [BlockStatus::Ok, BlockStatus::Ok, BlockStatus::Ok, BlockStatus::Range]);
    let mut got = [0; 1536];
    file.read_exact_at(&mut got, 0).expect("read");
    assert_eq!((&got[..512], &got[512..]), (&[0; 512][..], &[0x33; 1024][..]));
    assert!(running.runs(), "no request broke the policy");
}

/// Killed at random moments of a stream of writes and reads; the successor runs what was submitted, nothing is lost.
#[test]
fn successor_replays_what_was_in_flight() {
    let bytes = 16u64 << 20;
    let file = image("process-kill.img", bytes);
    let host = Host::new();
    let config = config(bytes, false, BlockCache::Writeback);
    let mut running = host.start(&config, &[("image0", &file)]);
    let chunks = bytes / BLOCK_DATA as u64;
    let fill = |number: u64| vec![(number * 37 + 1) as u8; BLOCK_DATA];
    // Writes of the whole image, seven in flight, a kill after every ninth submission.
    for number in 0..chunks {
        let slot = (number % 7) as usize;
        if host.client.poll(slot).is_some() {
            assert_eq!(host.wait(slot), BlockStatus::Ok);
        }
        assert!(host.client.write_data(slot, 0, &fill(number)));
        host.request(slot, BlockOp::Write, number * BLOCK_DATA as u64, BLOCK_DATA, number);
        if number % 9 == 8 {
            running.kill();
            running = host.start(&config, &[("image0", &file)]);
        }
    }
    for slot in 0..7 {
        assert_eq!(host.wait(slot), BlockStatus::Ok);
    }
    let mut got = vec![0; BLOCK_DATA];
    for number in 0..chunks {
        let slot = (number % 7) as usize;
        host.request(slot, BlockOp::Read, number * BLOCK_DATA as u64, BLOCK_DATA, chunks + number);
        if number % 16 == 3 {
            running.kill();
            running = host.start(&config, &[("image0", &file)]);
        }
        assert_eq!(host.wait(slot), BlockStatus::Ok);
        assert!(host.client.read_data(slot, 0, &mut got));
        assert!(got == fill(number), "chunk {number}");
    }
}

#[test]
fn snapshot_survives_its_process_and_spares_the_image() {
    let bytes = 1u64 << 20;
    let file = image("process-snapshot.img", bytes);
    let overlay = image("process-overlay.img", 0);
    let host = Host::new();
    let config = config(bytes, true, BlockCache::Writethrough);
    let files = [("image0", &file), ("overlay", &overlay)];
    let mut running = host.start(&config, &files);
    assert!(host.client.write_data(0, 0, &[0x77; 1024]));
    host.request(0, BlockOp::Write, 1024, 1024, 1);
    assert_eq!(host.wait(0), BlockStatus::Ok);
    running.kill();
    let _successor = host.start(&config, &files);
    host.request(0, BlockOp::Read, 512, 2048, 2);
    assert_eq!(host.wait(0), BlockStatus::Ok);
    let mut got = [1; 2048];
    assert!(host.client.read_data(0, 0, &mut got));
    let want: Vec<u8> = [[0; 512], [0x77; 512], [0x77; 512], [0; 512]].concat();
    assert_eq!(got[..], want);
    let mut below = vec![1; bytes as usize];
    file.read_exact_at(&mut below, 0).expect("read");
    assert!(below.iter().all(|byte| *byte == 0));
}

/// One bit for each cluster of it is as much as the jail leaves a back end in all.
#[test]
fn snapshot_of_a_large_image_finds_room_in_its_jail() {
    let bytes = 2u64 << 40;
    let files = [image("process-large.img", bytes), image("process-large-overlay.img", 0)];
    let host = Host::new();
    let config = config(bytes, true, BlockCache::Writeback);
    let mut number = 0;
    for last in [false, true] {
        let mut running = host.start(&config, &[("image0", &files[0]), ("overlay", &files[1])]);
        for at in [0, bytes / 2, bytes - 512] {
            number += 1;
            assert!(last || host.client.write_data(0, 0, &[0x77; 512]));
            host.request(0, if last { BlockOp::Read } else { BlockOp::Write }, at, 512, number);
            assert_eq!(host.wait(0), BlockStatus::Ok);
            let mut got = [0; 512];
            assert!(host.client.read_data(0, 0, &mut got));
            assert_eq!(got, [0x77; 512], "at {at}");
            assert!(host.client.write_data(0, 0, &[0; 512]));
        }
        running.kill();
    }
}

#[test]
fn empty_drive_serves_and_refuses() {
    let host = Host::new();
    let empty = BlockConfig { empty: true, ..config(0, false, BlockCache::Writeback) };
    let _running = host.start(&empty, &[]);
    host.request(0, BlockOp::Read, 0, 512, 1);
    assert_eq!(host.wait(0), BlockStatus::Range);
    host.request(0, BlockOp::Flush, 0, 0, 2);
    assert_eq!(host.wait(0), BlockStatus::Ok);
}
