//! Register-level tests of the PIIX3 IDE function, with memory images behind it.

mod atapi;
mod commands;
mod differential;
mod dma;
mod hostile;
mod pio;
mod requests;

use bulkhead_bus::bench::Bench;
use bulkhead_bus::config::{IdeConfig, IdeDriveConfig, IdeGeometry, IdeMedia};
use bulkhead_bus::conformance::{Setup, check};
use bulkhead_bus::links::{BlockOp, BlockStatus, Medium};

use crate::Piix3Ide;
use crate::spec::{bm, command, device, reg, status};

/// Sectors of the disks.
const SECTORS: usize = 4096;
/// Bytes of the disc.
const DISC: usize = 300 * 2048;

fn drive(media: IdeMedia, block: u8) -> IdeDriveConfig {
    IdeDriveConfig {
        media,
        block,
        serial: format!("BH0000{block}"),
        model: "QEMU HARDDISK".to_owned(),
        firmware: "2.5+".to_owned(),
        geometry: IdeGeometry { cylinders: (SECTORS / (16 * 63)) as u16, heads: 16, sectors: 63 },
        slow_writes: false,
    }
}

/// Primary master and slave disks, secondary master CD-ROM.
fn config() -> IdeConfig {
    let mut cd = drive(IdeMedia::Cdrom, 2);
    cd.model = "QEMU DVD-ROM".to_owned();
    IdeConfig { drives: [Some(drive(IdeMedia::Disk, 0)), Some(drive(IdeMedia::Disk, 1)), Some(cd), None] }
}

/// The function with its drives, and what is on them.
struct Pc {
    bench: Bench<Piix3Ide>,
    config: IdeConfig,
    images: Vec<Vec<u8>>,
    /// Flushes served, by drive.
    flushes: Vec<usize>,
    /// Status for the next requests, in order; then all succeed.
    outcomes: Vec<BlockStatus>,
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(31) ^ (at >> 9) as u8 ^ (at >> 17) as u8 ^ seed).collect()
}

impl Pc {
    fn new() -> Pc {
        Pc::with(config())
    }

    fn with(config: IdeConfig) -> Pc {
        let mut bench = Bench::new(Piix3Ide::new(config.clone()), 0, 3, 0);
        let images = vec![pattern(SECTORS * 512, 0), pattern(SECTORS * 512, 0x55), pattern(DISC, 0xaa)];
        for (server, image) in bench.servers.iter().zip(&images) {
            let bytes = image.len() as u64;
            server.set_medium(Medium { bytes, present: true, write_cache: true, ..Medium::default() });
        }
        bench.with(bulkhead_bus::chip::Chip::reset);
        Pc { bench, config, images, flushes: vec![0; 3], outcomes: Vec::new() }
    }

    /// Serves the oldest request of a drive. False when there is none.
    fn serve_one(&mut self, number: usize) -> bool {
        let server = &self.bench.servers[number];
        let Some(request) = server.next() else { return false };
        let image = &mut self.images[number];
        let planned = if self.outcomes.is_empty() { BlockStatus::Ok } else { self.outcomes.remove(0) };
        let at = request.offset as usize;
        let span = at..at + request.length;
        let status = match (planned, request.op) {
            (BlockStatus::Ok, BlockOp::Read | BlockOp::Write) if span.end > image.len() => BlockStatus::Range,
            (BlockStatus::Ok, BlockOp::Read) => {
                server.with_data(request.slot, request.length, |data| data.copy_from_slice(&image[span]));
                BlockStatus::Ok
            }
            (BlockStatus::Ok, BlockOp::Write) => {
                server.with_data(request.slot, request.length, |data| image[span].copy_from_slice(data));
                BlockStatus::Ok
            }
            (BlockStatus::Ok, BlockOp::Flush) => {
                self.flushes[number] += 1;
                BlockStatus::Ok
            }
            (planned, _) => planned,
        };
        server.complete(request.slot, status);
        true
    }

    /// Lets the back ends run until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut worked = false;
            for number in 0..self.images.len() {
                worked |= self.serve_one(number);
            }
            self.bench.event();
            if !worked {
                return;
            }
        }
        panic!("the same requests are made for ever");
    }

    /// A new process takes over.
    fn restart(&mut self) {
        self.bench.restart(Piix3Ide::new(self.config.clone())).expect("own state");
    }

    fn get(&mut self, channel: u8, register: u64) -> u8 {
        self.bench.read(channel * 2, register, 1) as u8
    }

    fn set(&mut self, channel: u8, register: u64, value: u8) {
        self.bench.write(channel * 2, register, 1, value.into());
    }

    fn alt(&mut self, channel: u8) -> u8 {
        self.bench.read(channel * 2 + 1, 0, 1) as u8
    }

    fn irq(&self, channel: u8) -> bool {
        self.bench.line(channel.into())
    }

    /// Programs a 28-bit LBA command on a drive.
    fn lba28(&mut self, channel: u8, slave: bool, code: u8, sector: u32, count: u8) {
        let [low, mid, high, top] = sector.to_le_bytes();
        let select = if slave { device::DEV } else { 0 };
        self.set(channel, reg::DEVICE, device::OBSOLETE | device::LBA | select | top & 0x0f);
        self.set(channel, reg::COUNT, count);
        self.set(channel, reg::LBA_LOW, low);
        self.set(channel, reg::LBA_MID, mid);
        self.set(channel, reg::LBA_HIGH, high);
        self.set(channel, reg::STATUS, code);
    }

    /// Programs a 48-bit command on the primary master.
    fn lba48(&mut self, code: u8, sector: u64, count: u16) {
        let at = sector.to_le_bytes();
        let [low, high] = count.to_le_bytes();
        self.set(0, reg::DEVICE, device::OBSOLETE | device::LBA);
        for (register, old, new) in [
            (reg::COUNT, high, low),
            (reg::LBA_LOW, at[3], at[0]),
            (reg::LBA_MID, at[4], at[1]),
            (reg::LBA_HIGH, at[5], at[2]),
        ] {
            self.set(0, register, old);
            self.set(0, register, new);
        }
        self.set(0, reg::STATUS, code);
    }

    /// A command without data on the primary master; its status.
    fn simple(&mut self, code: u8) -> u8 {
        self.set(0, reg::STATUS, code);
        self.settle();
        self.get(0, reg::STATUS)
    }

    /// SET FEATURES on the primary master; its status.
    fn features(&mut self, feature: u8, count: u8) -> u8 {
        self.set(0, reg::ERROR, feature);
        self.set(0, reg::COUNT, count);
        self.simple(command::SET_FEATURES)
    }

    /// Reads through the data port in words.
    fn words_in(&mut self, channel: u8, bytes: usize) -> Vec<u8> {
        (0..bytes / 2)
            .flat_map(|_| (self.bench.read(channel * 2, reg::DATA, 2) as u16).to_le_bytes())
            .collect()
    }

    /// `rep insw`.
    fn block_in(&mut self, channel: u8, bytes: usize) -> Vec<u8> {
        let mut data = vec![0xee; bytes];
        let reg = bulkhead_bus::chip::Reg { region: channel * 2, offset: reg::DATA, size: 2 };
        let got = self
            .bench
            .with(|chip, env| bulkhead_bus::chip::Chip::read_block(chip, reg, &mut data, env))
            .expect("data port");
        assert_eq!(got, bytes);
        data
    }

    /// `rep outsw`.
    fn block_out(&mut self, channel: u8, data: &[u8]) {
        let reg = bulkhead_bus::chip::Reg { region: channel * 2, offset: reg::DATA, size: 2 };
        self.bench
            .with(|chip, env| bulkhead_bus::chip::Chip::write_block(chip, reg, data, env))
            .expect("data port");
    }

    /// Puts a descriptor table at `at` in guest memory; the last entry ends it.
    fn table(&mut self, at: u32, entries: &[(u32, u32)]) {
        let last = entries.len().wrapping_sub(1);
        for (index, (address, count)) in entries.iter().enumerate() {
            let end = if index == last { bm::END } else { 0 };
            let mut entry = [0u8; 8];
            entry[..4].copy_from_slice(&address.to_le_bytes());
            entry[4..].copy_from_slice(&(count & 0xffff | end).to_le_bytes());
            assert!(self.bench.ram.write(u64::from(at) + index as u64 * 8, &entry));
        }
    }

    /// Points the bus master of a channel at a table.
    fn point(&mut self, channel: u8, table: u32) {
        self.bench.write(4, u64::from(channel) * 8 + bm::TABLE, 4, table.into());
        self.bench.write(4, u64::from(channel) * 8 + bm::STATUS, 1, (bm::ERROR | bm::INTERRUPT).into());
    }

    fn bm_command(&mut self, channel: u8, value: u8) {
        self.bench.write(4, u64::from(channel) * 8 + bm::COMMAND, 1, value.into());
    }

    fn bm_status(&mut self, channel: u8) -> u8 {
        self.bench.read(4, u64::from(channel) * 8 + bm::STATUS, 1) as u8 & !bm::CAPABLE
    }

    fn ram(&self, at: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        assert!(self.bench.ram.read(at, &mut data));
        data
    }

    /// Sends a command packet to the CD-ROM.
    fn packet(&mut self, features: u8, limit: u16, packet: &[u8]) {
        let [low, high] = limit.to_le_bytes();
        self.set(1, reg::DEVICE, device::OBSOLETE);
        self.set(1, reg::ERROR, features);
        self.set(1, reg::LBA_MID, low);
        self.set(1, reg::LBA_HIGH, high);
        self.set(1, reg::STATUS, command::PACKET);
        assert_eq!(self.alt(1) & (status::BSY | status::DRQ), status::DRQ, "the drive wants the packet");
        let mut whole = [0u8; 12];
        whole[..packet.len()].copy_from_slice(packet);
        self.block_out(1, &whole);
        self.settle();
    }
}

fn make() -> Piix3Ide {
    Piix3Ide::new(config())
}

#[test]
fn conforms_with_disks_and_cdrom() {
    check(make, Setup { blocks: 3, ram: true, takes_time: crate::TRANSFERS, ..Setup::default() });
}

#[test]
fn conforms_without_drives() {
    check(|| Piix3Ide::new(IdeConfig::default()), Setup::default());
}
