//! Throughput of the block link: sequential reads and writes of a file in the page cache, by request size and requests in
//! flight, between two threads. `cargo run --profile fast -p bulkhead-block --example link_throughput`
//!
//! The last column is what one copy less would give: the same `pread` into private memory, without link or second thread.

use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_block::formats::Raw;
use bulkhead_block::server;
use bulkhead_bus::bell::{BELL_BYTES, Bell};
use bulkhead_bus::links::{BLOCK_LINK, BlockClient, BlockOp, BlockServer};
use bulkhead_bus::ram::GuestRam;
use bulkhead_bus::sys::{Mapping, memfd};

const FILE: u64 = 256 << 20;

fn main() -> std::io::Result<()> {
    let folder = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, Into::into);
    let path = folder.join(format!("link-throughput-{}.img", std::process::id()));
    let file = std::fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    let block = vec![0x5a; 1 << 20];
    for at in (0..FILE).step_by(block.len()) {
        file.write_all_at(&block, at)?;
    }
    let page = |fd: &std::os::fd::OwnedFd, len| Mapping::shared(fd.as_fd(), len, true);
    let (link, ours, theirs) = (
        memfd("link", BLOCK_LINK as u64)?,
        memfd("ours", BELL_BYTES as u64)?,
        memfd("theirs", BELL_BYTES as u64)?,
    );
    let client = BlockClient::new(page(&link, BLOCK_LINK)?, Arc::new(Bell::new(page(&theirs, BELL_BYTES)?)));
    let back = BlockServer::new(page(&link, BLOCK_LINK)?, Arc::new(Bell::new(page(&ours, BELL_BYTES)?)));
    let bell = Bell::new(page(&ours, BELL_BYTES)?);
    let their_bell = Bell::new(page(&theirs, BELL_BYTES)?);
    let mut image = Raw::new(file.try_clone()?.into(), FILE, false, false);
    std::thread::spawn(move || server::serve(&back, &their_bell, &mut image));
    let ram = GuestRam::new(Mapping::anonymous(1 << 20)?, None);
    println!("{:>5} {:>8} {:>6} {:>10} {:>10}", "op", "KiB", "flight", "MB/s", "pread");
    for op in [BlockOp::Read, BlockOp::Write] {
        for size in [4 << 10, 32 << 10, 64 << 10, 128 << 10] {
            let plain = plain(&file, size)?;
            for flight in [1u64, 2, 3, 6] {
                let rate = stream(&client, &bell, &ram, op, size, flight);
                println!("{op:>5?} {:>8} {flight:>6} {rate:>10.0} {plain:>10.0}", size >> 10);
            }
        }
    }
    Ok(())
}

/// Bytes a second, in millions.
fn rate(since: Instant) -> f64 {
    FILE as f64 / since.elapsed().as_secs_f64() / 1e6
}

fn plain(file: &std::fs::File, size: usize) -> std::io::Result<f64> {
    let mut buffer = vec![0; size];
    let since = Instant::now();
    for at in (0..FILE).step_by(size) {
        file.read_exact_at(&mut buffer, at)?;
    }
    Ok(rate(since))
}

fn stream(client: &BlockClient, bell: &Bell, ram: &GuestRam, op: BlockOp, size: usize, flight: u64) -> f64 {
    let since = Instant::now();
    let total = FILE / size as u64;
    let (mut head, mut next) = (0, 0);
    while head < total {
        bell.publish_cpu();
        while next < total && next - head < flight {
            let slot = (next % 7) as usize;
            if op == BlockOp::Write {
                assert!(client.data_from_ram(slot, 0, ram, 0, size));
            }
            assert!(client.submit(slot, op, next * size as u64, size, next));
            next += 1;
        }
        let slot = (head % 7) as usize;
        let spin = Instant::now();
        while matches!(client.poll(slot), Some(None)) {
            if spin.elapsed() > Duration::from_micros(50) {
                bell.sleep(Some(Duration::from_millis(100)), || !matches!(client.poll(slot), Some(None)));
            }
        }
        if op == BlockOp::Read {
            assert!(client.data_to_ram(slot, 0, ram, 0, size));
        }
        client.release(slot);
        head += 1;
    }
    rate(since)
}
