//! Every process of the table dies after every instruction (`./campaign steps`), or after some of them (`./check`).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bulkhead_bus::bell::{BELL_BYTES, Bell};
use bulkhead_bus::bench::test_disk;
use bulkhead_bus::clock::CLOCK_BYTES;
use bulkhead_bus::config::{
    BlockCache, BlockConfig, DebugPortsConfig, FwCfgConfig, I8042Config, IdeConfig, RtcConfig, SerialConfig,
    VgaConfig,
};
use bulkhead_bus::conformance::Random;
use bulkhead_bus::device::{DEVICE_BYTES, DevicePort, READY};
use bulkhead_bus::irq::{self, IRQ_BYTES};
use bulkhead_bus::links::{
    BLOCK_LINK, BYTES_LINK, BlockClient, BlockOp, BlockServer, BlockStatus, ByteEnd, Medium, Side,
};
use bulkhead_bus::mailbox::Mailbox;
use bulkhead_bus::manifest::fd;
use bulkhead_bus::ram::code_map_bytes;
use bulkhead_bus::sys::Mapping;
use bulkhead_bus::wire;
use bulkhead_steps::{Deaths, Found, Rig, Scenario, sweep};

const RAM: u64 = 4 << 20;
const VRAM: u64 = 16 << 20;
const DISK: usize = 64 << 10;

/// Deaths of one sweep.
fn deaths(short: u64) -> Deaths {
    match std::env::var("STEPS_DEATHS").as_deref() {
        Ok("all") => Deaths::Distinct,
        Ok("every") => Deaths::Every,
        Ok(text) => {
            Deaths::Most(text.parse().unwrap_or_else(|_| panic!("STEPS_DEATHS={text}: not a number")))
        }
        Err(_) => Deaths::Most(short),
    }
}

fn clean<O: std::fmt::Debug>(name: &str, found: &Found<O>) {
    println!(
        "{name}: {} deaths in {} instructions, {} of which others can notice; {} wrong",
        found.deaths,
        found.steps.instructions,
        found.steps.noticed,
        found.wrong.len()
    );
    assert!(found.steps.noticed > 30, "{name}: nothing was stepped");
    if let Some((death, outcome)) = found.wrong.first() {
        panic!("{name}: death {death:?} made a difference:\n{outcome:?}\nwithout:\n{:?}", found.calm);
    }
}

fn memories(more: &[(&'static str, u64)]) -> Vec<(&'static str, u64)> {
    let mut all = vec![
        (fd::DEVICE, DEVICE_BYTES as u64),
        (fd::IRQ, IRQ_BYTES as u64),
        (fd::CLOCK, CLOCK_BYTES as u64),
        (fd::BELL, BELL_BYTES as u64),
        (fd::CPU_BELL, BELL_BYTES as u64),
    ];
    all.extend(more);
    all
}

// ---- register devices -----------------------------------------------------------------------------------------------

/// A device and a sequence of accesses to all of its registers; guest time stands still.
struct Registers {
    rig: Rig,
    accesses: u32,
    link: Option<ByteEnd>,
}

impl Registers {
    fn new(
        program: &'static str,
        role: &'static str,
        config: Vec<u8>,
        more: &[(&'static str, u64)],
    ) -> Registers {
        let rig = Rig::new(program, role, config, &memories(more));
        let has_link = more.iter().any(|(name, _)| *name == "bytes0");
        let link = has_link
            .then(|| ByteEnd::new(rig.map("bytes0", BYTES_LINK), Arc::new(rig.bell(fd::BELL)), Side::Host));
        Registers { rig, accesses: 3, link }
    }
}

impl Registers {
    /// Waits until the device has looked at its link: when it answers the second question it has, after the first answer.
    fn settle(&self) {
        let mailbox = Mailbox::new(self.ready(), self.rig.bell(fd::BELL));
        for _ in 0..2 {
            mailbox.ping();
            while mailbox.progress().1 {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
    }
}

impl Scenario for Registers {
    /// Values read, bytes that came over the link, levels and edges of the lines.
    type Outcome = (Vec<u64>, Vec<u8>, Vec<(bool, u32)>);

    fn rig(&self) -> &Rig {
        &self.rig
    }

    fn ready(&self) -> Mapping {
        self.rig.map(fd::DEVICE, DEVICE_BYTES)
    }

    fn ready_at(&self) -> usize {
        READY
    }

    fn play(&self) -> Self::Outcome {
        let file = self.rig.map(fd::DEVICE, DEVICE_BYTES);
        let mut port = DevicePort::new(self.ready(), self.rig.bell(fd::BELL), self.rig.irq());
        let regions: Vec<u64> =
            (0..8).map(|region| port.region_size(region)).take_while(|size| *size > 0).collect();
        let mut random = Random::new(3);
        let (mut seen, mut bytes) = (Vec::new(), Vec::new());
        for number in 0..self.accesses {
            let region = random.below(regions.len() as u64) as u8;
            let offset = random.below(regions[usize::from(region)].min(16)) as u32;
            match random.below(5) {
                0 | 1 => seen.push(port.read(region, offset, 0)),
                2 => {
                    let mut data = [0u8; 16];
                    port.read_block(region, offset, 0, &mut data);
                    seen.extend(data.map(u64::from));
                }
                _ => port.write(region, offset, 0, random.below(256)),
            }
            if let Some(link) = self.link.as_ref().filter(|_| number == 1) {
                assert_eq!(link.send(b"a"), 1);
                self.settle();
            }
        }
        // The last access is answered, so that everything before is done.
        port.reset();
        seen.push(port.read(0, 0, 0));
        if let Some(link) = &self.link {
            let mut data = [0u8; 256];
            let count = link.receive(&mut data);
            bytes.extend(&data[..count]);
        }
        let lines = (0..4).map(|line| irq::line(&file, line)).map(|line| (line.level, line.edges));
        (seen, bytes, lines.collect())
    }
}

type Row = (&'static str, &'static str, Vec<u8>, Vec<(&'static str, u64)>);

/// Program, role, configuration, memories besides those that every device has: a line a device.
fn table() -> Vec<Row> {
    let link = vec![("bytes0", BYTES_LINK as u64), ("bytes0-peer", BELL_BYTES as u64)];
    let ram = vec![(fd::RAM, RAM), (fd::CODE, code_map_bytes(RAM))];
    let config = |bytes: Result<Vec<u8>, wire::WireError>| bytes.expect("small");
    vec![
        ("bh-template", "template", Vec::new(), Vec::new()),
        ("bh-serial", "serial", config(wire::encode(&SerialConfig::default())), link.clone()),
        ("bh-parallel", "parallel", Vec::new(), link),
        ("bh-rtc", "rtc", config(wire::encode(&RtcConfig::default())), Vec::new()),
        ("bh-i8042", "i8042", config(wire::encode(&I8042Config { mouse: true })), Vec::new()),
        ("bh-port92", "port92", Vec::new(), Vec::new()),
        ("bh-dma", "dma", Vec::new(), Vec::new()),
        ("bh-debugports", "debugports", config(wire::encode(&DebugPortsConfig::default())), Vec::new()),
        ("bh-fwcfg", "fwcfg", config(wire::encode(&FwCfgConfig::default())), ram),
        ("bh-vga", "vga", config(wire::encode(&VgaConfig::default())), vec![(fd::BULK, VRAM)]),
    ]
}

#[test]
fn guest_sees_no_difference_whatever_instruction_a_register_device_dies_after() {
    for (program, role, config, more) in table() {
        let found = sweep(|| Registers::new(program, role, config.clone(), &more), deaths(5));
        clean(program, &found);
    }
}

// ---- the protocol itself --------------------------------------------------------------------------------------------

struct Broken {
    rig: Rig,
    values: std::ops::RangeInclusive<u64>,
}

impl Broken {
    fn new(values: u64) -> Broken {
        Broken { rig: Rig::new("steps-broken", "template", Vec::new(), &memories(&[])), values: 1..=values }
    }
}

impl Scenario for Broken {
    type Outcome = Vec<u64>;

    fn rig(&self) -> &Rig {
        &self.rig
    }

    fn ready(&self) -> Mapping {
        self.rig.map(fd::DEVICE, DEVICE_BYTES)
    }

    fn ready_at(&self) -> usize {
        READY
    }

    fn play(&self) -> Vec<u64> {
        let mut port = DevicePort::new(self.ready(), self.rig.bell(fd::BELL), self.rig.irq());
        let mut seen = Vec::new();
        for value in self.values.clone() {
            port.write(0, 0, 3, value);
            seen.push(port.read(0, 0, 3));
        }
        seen
    }
}

#[test]
fn sweep_catches_a_device_that_changes_its_state_in_place() {
    let found = sweep(|| Broken::new(4), deaths(150));
    println!(
        "broken: {} of {} deaths in {} instructions, {} of which others can notice",
        found.wrong.len(),
        found.deaths,
        found.steps.instructions,
        found.steps.noticed
    );
    assert_eq!(found.calm, [1, 3, 6, 10]);
    assert!(!found.wrong.is_empty(), "the harness does not see what a death did");
}

#[test]
#[should_panic(expected = "steps-broken: SIGABRT by itself")]
fn a_device_that_ends_by_its_own_fault_is_not_one_that_is_done() {
    sweep(|| Broken { values: 0..=1, ..Broken::new(1) }, Deaths::Most(1));
}

#[test]
fn deaths_that_nobody_can_tell_apart_are_tried_once() {
    let outcomes = |deaths| {
        let found = sweep(|| Broken::new(2), deaths);
        let count = found.deaths;
        let all: BTreeSet<_> = found.wrong.into_iter().map(|(_, outcome)| outcome).collect();
        (count, all)
    };
    let ((every, all), (distinct, some)) = (outcomes(Deaths::Every), outcomes(Deaths::Distinct));
    assert_eq!(all, some);
    assert!(!all.is_empty() && distinct * 4 < every, "{distinct} of {every} deaths");
}

// ---- drives ---------------------------------------------------------------------------------------------------------

fn contents() -> Vec<u8> {
    (0..DISK).map(|at| (at / 512 * 7 + at) as u8).collect()
}

/// The IDE controller with a disk in memory.
struct Ide {
    rig: Rig,
}

impl Ide {
    fn new() -> Ide {
        let config =
            wire::encode(&IdeConfig { drives: [Some(test_disk()), None, None, None] }).expect("small");
        let more = [
            (fd::RAM, RAM),
            (fd::CODE, code_map_bytes(RAM)),
            ("block0", BLOCK_LINK as u64),
            ("block0-peer", BELL_BYTES as u64),
        ];
        let rig = Rig::new("bh-ide", "ide", config, &memories(&more));
        let server = BlockServer::new(rig.map("block0", BLOCK_LINK), Arc::new(rig.bell(fd::BELL)));
        server.set_medium(Medium {
            bytes: DISK as u64,
            present: true,
            write_cache: true,
            ..Medium::default()
        });
        Ide { rig }
    }
}

/// The back end until `end`.
fn back_end(server: &BlockServer, bell: &Bell, disk: &Mutex<Vec<u8>>, end: &AtomicBool) {
    while !end.load(Ordering::SeqCst) {
        let Some(request) = server.next() else {
            bell.sleep(Some(Duration::from_millis(20)), || server.has_work());
            continue;
        };
        let mut disk = disk.lock().expect("disk");
        let at = request.offset as usize;
        let part = disk.get_mut(at..at + request.length).expect("a range on the disk");
        server.with_data(request.slot, request.length, |data| match request.op {
            BlockOp::Read => data.copy_from_slice(part),
            BlockOp::Write => part.copy_from_slice(data),
            BlockOp::Flush | BlockOp::Discard => {}
        });
        server.complete(request.slot, BlockStatus::Ok);
    }
}

impl Scenario for Ide {
    /// What was read, final status, edges of the line, the disk.
    type Outcome = (Vec<u8>, u64, u32, Vec<u8>);

    fn rig(&self) -> &Rig {
        &self.rig
    }

    fn ready(&self) -> Mapping {
        self.rig.map(fd::DEVICE, DEVICE_BYTES)
    }

    fn ready_at(&self) -> usize {
        READY
    }

    fn play(&self) -> Self::Outcome {
        let server = BlockServer::new(self.rig.map("block0", BLOCK_LINK), Arc::new(self.rig.bell(fd::BELL)));
        let (bell, disk, end) =
            (self.rig.bell("block0-peer"), Mutex::new(contents()), AtomicBool::new(false));
        let (irq, file) = (self.rig.irq(), self.rig.map(fd::DEVICE, DEVICE_BYTES));
        let mut read = vec![0u8; 512];
        let status = std::thread::scope(|scope| {
            scope.spawn(|| back_end(&server, &bell, &disk, &end));
            let mut port = DevicePort::new(self.ready(), self.rig.bell(fd::BELL), irq.clone());
            // The line tells; reading the status again and again would make every run different.
            let wait = || {
                while !irq::line(&file, 0).level {
                    irq.cpu_bell().sleep(Some(Duration::from_millis(20)), || irq::line(&file, 0).level);
                }
            };
            let command = |port: &mut DevicePort, code: u64, sector: u64| {
                for (register, value) in [(6, 0xe0), (2, 1), (3, sector), (4, 0), (5, 0), (7, code)] {
                    port.write(0, register, 0, value);
                }
            };
            // READ SECTORS.
            command(&mut port, 0x20, 5);
            wait();
            port.read(0, 7, 0);
            port.read_block(0, 0, 1, &mut read);
            // WRITE SECTORS: the first sector goes without an interrupt.
            command(&mut port, 0x30, 9);
            while port.read(1, 0, 0) & 0x88 != 0x08 {}
            let data: Vec<u8> = (0..512).map(|at| at as u8 ^ 0x5a).collect();
            port.write_block(0, 0, 1, &data);
            wait();
            port.read(0, 7, 0);
            // FLUSH CACHE.
            command(&mut port, 0xe7, 0);
            wait();
            let status = port.read(0, 7, 0);
            end.store(true, Ordering::SeqCst);
            status
        });
        (read, status, irq::line(&file, 0).edges, disk.into_inner().expect("disk"))
    }
}

#[test]
fn guest_sees_no_difference_whatever_instruction_the_disk_controller_dies_after() {
    clean("bh-ide", &sweep(Ide::new, deaths(5)));
}

/// A block back end on a real file.
struct Image {
    rig: Rig,
    file: std::fs::File,
}

impl Image {
    fn new() -> Image {
        use std::io::Write;
        let memory = bulkhead_bus::sys::memfd("image", DISK as u64).expect("memfd");
        let mut file = std::fs::File::from(memory.try_clone().expect("descriptor"));
        file.write_all(&contents()).expect("image");
        let config = BlockConfig {
            name: "hda".to_owned(),
            empty: false,
            read_only: false,
            snapshot: false,
            cache: BlockCache::Writeback,
            format: "raw".to_owned(),
            bytes: DISK as u64,
        };
        let memories = [
            ("block0", BLOCK_LINK as u64),
            ("block0-peer", BELL_BYTES as u64),
            (fd::BELL, BELL_BYTES as u64),
        ];
        let mut rig = Rig::new("bh-block", "block", wire::encode(&config).expect("small"), &memories);
        rig.add("image0", memory);
        Image { rig, file }
    }
}

impl Scenario for Image {
    /// Outcome and data of each request, the image at the end.
    type Outcome = (Vec<(BlockStatus, Vec<u8>)>, Vec<u8>);

    fn rig(&self) -> &Rig {
        &self.rig
    }

    fn ready(&self) -> Mapping {
        self.rig.map("block0", BLOCK_LINK)
    }

    fn ready_at(&self) -> usize {
        0x24
    }

    fn play(&self) -> Self::Outcome {
        use std::os::unix::fs::FileExt;
        let client = BlockClient::new(self.ready(), Arc::new(self.rig.bell(fd::BELL)));
        let own = self.rig.bell("block0-peer");
        // Three at once, two of which overlap, then what came of them.
        let requests = [
            (BlockOp::Write, 512, 1024),
            (BlockOp::Write, 1024, 512),
            (BlockOp::Read, 0, 2048),
            (BlockOp::Flush, 0, 0),
        ];
        for (slot, (op, offset, length)) in requests.into_iter().enumerate() {
            assert!(client.write_data(slot, 0, &vec![slot as u8 + 1; length]));
            assert!(client.submit(slot, op, offset, length, slot as u64));
        }
        let outcomes = (0..requests.len()).map(|slot| {
            let done = || matches!(client.poll(slot), Some(Some(_)));
            while !done() {
                own.sleep(Some(Duration::from_millis(20)), done);
            }
            let mut data = vec![0u8; requests[slot].2];
            assert!(client.read_data(slot, 0, &mut data));
            (client.poll(slot).flatten().expect("done"), data)
        });
        let outcomes = outcomes.collect();
        let mut image = vec![0u8; DISK];
        self.file.read_exact_at(&mut image, 0).expect("image");
        (outcomes, image)
    }
}

#[test]
fn drive_sees_no_difference_whatever_instruction_its_back_end_dies_after() {
    clean("bh-block", &sweep(Image::new, deaths(60)));
}
