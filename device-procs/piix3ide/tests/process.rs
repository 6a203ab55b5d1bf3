//! `bh-ide` as the broker runs it: in its jail, over shared memory, killed at any moment while a guest reads and writes its disk.
//!
//! The guest is this test, with the CPU process's end of the device file; the back end is a thread with the disk in memory.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bulkhead_bus::bell::{BELL_BYTES, Bell};
use bulkhead_bus::bench::{Process, test_disk};
use bulkhead_bus::clock::{CLOCK_BYTES, Clock};
use bulkhead_bus::config::IdeConfig;
use bulkhead_bus::conformance::Random;
use bulkhead_bus::device::{DEVICE_BYTES, DevicePort, READY};
use bulkhead_bus::irq::{self, IRQ_BYTES, IrqPage};
use bulkhead_bus::links::{BLOCK_LINK, BlockOp, BlockServer, BlockStatus, Medium};
use bulkhead_bus::manifest::{Manifest, fd};
use bulkhead_bus::ram::{GuestRam, code_map_bytes};
use bulkhead_bus::sys::{Mapping, memfd};
use bulkhead_bus::wire;

const RAM: u64 = 16 << 20;
const DISK: usize = 8 << 20;
/// Number of the device's lines in the interrupt page.
const SOURCE: u32 = 5;

/// Everything that the broker holds.
struct Rig {
    files: Vec<(&'static str, OwnedFd)>,
    ram: GuestRam,
}

impl Rig {
    fn new() -> Rig {
        let sizes = [
            (fd::DEVICE, DEVICE_BYTES as u64),
            (fd::IRQ, IRQ_BYTES as u64),
            (fd::CLOCK, CLOCK_BYTES as u64),
            (fd::RAM, RAM),
            (fd::CODE, code_map_bytes(RAM)),
            (fd::BELL, BELL_BYTES as u64),
            (fd::CPU_BELL, BELL_BYTES as u64),
            ("block0", BLOCK_LINK as u64),
            ("block0-peer", BELL_BYTES as u64),
        ];
        let file = |(name, size)| (name, memfd(name, size).expect("memfd"));
        let files: Vec<_> = sizes.into_iter().map(file).collect();
        let ram = files.iter().find(|(name, _)| *name == fd::RAM).expect("RAM");
        let map = Mapping::shared(ram.1.as_fd(), RAM as usize, true).expect("mapping");
        let rig = Rig { ram: GuestRam::new(map, None), files };
        Clock::new(rig.map(fd::CLOCK, CLOCK_BYTES)).set_running(true);
        rig
    }

    fn map(&self, name: &str, len: usize) -> Mapping {
        let (_, file) = self.files.iter().find(|(have, _)| *have == name).expect("known name");
        Mapping::shared(file.as_fd(), len, true).expect("mapping")
    }

    fn server(&self) -> BlockServer {
        BlockServer::new(self.map("block0", BLOCK_LINK), Arc::new(Bell::new(self.map(fd::BELL, BELL_BYTES))))
    }

    fn irq(&self) -> Arc<IrqPage> {
        Arc::new(IrqPage::new(self.map(fd::IRQ, IRQ_BYTES), Bell::new(self.map(fd::CPU_BELL, BELL_BYTES))))
    }

    /// Starts a device process; it takes up what the last one left.
    fn start(&self) -> Process {
        let manifest = Manifest {
            name: "bh-ide-test".to_owned(),
            role: "ide".to_owned(),
            config: wire::encode(&IdeConfig { drives: [Some(test_disk()), None, None, None] })
                .expect("configuration"),
            source: SOURCE,
            ram_bytes: RAM,
            run_as: Some((65_534, 65_534)),
            ..Manifest::default()
        };
        let files: Vec<_> = self.files.iter().map(|(name, file)| (*name, file.as_fd())).collect();
        Process::start("bh-ide", manifest, &files)
    }
}

/// The back end until `end`: slow now and then, so that deaths find requests in flight.
fn back_end(server: &BlockServer, bell: &Bell, disk: &Mutex<Vec<u8>>, end: &AtomicBool) {
    let mut random = Random::new(5);
    while !end.load(Ordering::Relaxed) {
        bell.publish_cpu();
        let Some(request) = server.next() else {
            bell.sleep(Some(Duration::from_millis(50)), || server.has_work());
            continue;
        };
        if random.below(8) == 0 {
            std::thread::sleep(Duration::from_micros(random.below(1500)));
        }
        let mut disk = disk.lock().expect("disk");
        let at = request.offset as usize;
        let part = disk.get_mut(at..at + request.length).expect("a range on the disk");
        server.with_data(request.slot, request.length, |data| match request.op {
            BlockOp::Read => data.copy_from_slice(part),
            BlockOp::Write => part.copy_from_slice(data),
            BlockOp::Flush | BlockOp::Discard => {}
        });
        drop(disk);
        server.complete(request.slot, BlockStatus::Ok);
    }
}

/// The guest: transfers by every method against a model of the disk. Returns after `count` of them.
fn guest(port: &mut DevicePort, file: &Mapping, irq: &IrqPage, ram: &GuestRam, model: &mut [u8], count: u32) {
    let mut random = Random::new(9);
    let line = || irq::line(file, 0).level;
    let wait = |what: &str| {
        let end = Instant::now() + Duration::from_secs(60);
        while !line() {
            assert!(Instant::now() < end, "no interrupt: {what}");
            irq.cpu_bell().sleep(Some(Duration::from_millis(20)), line);
        }
    };
    for number in 0..count {
        let most = if random.below(4) == 0 { 1500 } else { 16 };
        let sectors = 1 + random.below(most) as usize;
        let first = random.below((model.len() / 512 - sectors) as u64) as usize;
        let span = first * 512..(first + sectors) * 512;
        let len = span.len();
        let (write, dma) = (random.below(2) == 0, sectors > 16 || random.below(2) == 0);
        let data: Vec<u8> = (0..len).map(|at| (at as u32 / 7 + number * 13) as u8).collect();
        let buffer = 0x20_0000u32;
        if dma {
            let mut table = Vec::new();
            for at in (0..len).step_by(0x1_0000) {
                let piece = (len - at).min(0x1_0000);
                let end = if at + piece == len { 1u32 << 31 } else { 0 };
                table.extend((buffer + at as u32).to_le_bytes());
                table.extend((piece as u32 & 0xffff | end).to_le_bytes());
            }
            assert!(ram.write(0x8000, &table));
            assert!(ram.write(buffer.into(), if write { &data[..] } else { &[0xcc; 4096] }));
            port.write(4, 0, 0, 0);
            port.write(4, 4, 2, 0x8000);
            port.write(4, 2, 0, 6);
        }
        let lba = first.to_le_bytes();
        let [low, high] = (sectors as u16).to_le_bytes();
        port.write(0, 6, 0, 0xe0);
        for (register, old, new) in [(2, high, low), (3, lba[3], lba[0]), (4, 0, lba[1]), (5, 0, lba[2])] {
            port.write(0, register, 0, old.into());
            port.write(0, register, 0, new.into());
        }
        let code = match (write, dma) {
            (false, false) => 0x24,
            (true, false) => 0x34,
            (false, true) => 0x25,
            (true, true) => 0x35,
        };
        port.write(0, 7, 0, code);
        let what = format!("transfer {number}: {code:#x}, {sectors} sectors");
        let mut got = vec![0; len];
        if dma {
            port.write(4, 0, 0, if write { 1 } else { 9 });
            wait(&what);
            assert_eq!(port.read(4, 2, 0) & 7, 4, "{what}");
            assert!(ram.read(buffer.into(), &mut got));
        } else {
            for (index, sector) in got.chunks_mut(512).enumerate() {
                if index > 0 || !write {
                    wait(&what);
                }
                while port.read(1, 0, 0) & 0x80 != 0 {
                    std::thread::yield_now();
                }
                assert_eq!(port.read(0, 7, 0), 0x58, "{what}");
                if write {
                    port.write_block(0, 0, 1, &data[index * 512..][..512]);
                } else {
                    port.read_block(0, 0, 1, sector);
                }
            }
            if write {
                wait(&what);
            }
        }
        assert_eq!(port.read(0, 7, 0), 0x50, "{what}");
        assert!(!line(), "{what}: the status read lowers the line");
        if write {
            model[span].copy_from_slice(&data);
        } else {
            assert!(got == model[span], "{what}: wrong data");
        }
    }
}

#[test]
fn guest_sees_nothing_of_a_device_that_is_killed_again_and_again() {
    let rig = Rig::new();
    let server = rig.server();
    server.set_medium(Medium { bytes: DISK as u64, present: true, write_cache: true, ..Medium::default() });
    let bell = Bell::new(rig.map("block0-peer", BELL_BYTES));
    let contents: Vec<u8> = (0..DISK).map(|at| (at / 512 * 7 + at) as u8).collect();
    let mut model = contents.clone();
    let disk = Mutex::new(contents);
    let (end, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let kills = AtomicU32::new(0);
    let mut running = rig.start();
    let ready = rig.map(fd::DEVICE, DEVICE_BYTES);
    running.wait_ready(|| {
        std::thread::yield_now();
        ready.word(READY).load(Ordering::SeqCst) != 0
    });
    let irq = rig.irq();
    let file = rig.map(fd::DEVICE, DEVICE_BYTES);
    let bell_of_device = Bell::new(rig.map(fd::BELL, BELL_BYTES));
    let mut port = DevicePort::new(rig.map(fd::DEVICE, DEVICE_BYTES), bell_of_device, irq.clone());
    std::thread::scope(|scope| {
        scope.spawn(|| back_end(&server, &bell, &disk, &end));
        let worker = scope.spawn(|| {
            guest(&mut port, &file, &irq, &rig.ram, &mut model, 300);
            done.store(true, Ordering::SeqCst);
        });
        let mut random = Random::new(1);
        while !done.load(Ordering::SeqCst) && !worker.is_finished() {
            std::thread::sleep(Duration::from_micros(3000 + random.below(9000)));
            drop(running);
            running = rig.start();
            kills.fetch_add(1, Ordering::Relaxed);
        }
        end.store(true, Ordering::Relaxed);
        if let Err(panic) = worker.join() {
            std::panic::resume_unwind(panic);
        }
    });
    assert!(*disk.lock().expect("disk") == model);
    let kills = kills.load(Ordering::Relaxed);
    println!("{kills} deaths");
    assert!(kills > 5, "only {kills} deaths: nothing was tested");
}
