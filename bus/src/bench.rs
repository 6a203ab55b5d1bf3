//! A bench to drive one chip in a test: fake clock, fake lines, real links over private memory.

mod process;
mod sleeper;

pub use process::Process;
pub use sleeper::Sleeper;

use std::sync::Arc;

use crate::bell::{BELL_BYTES, Bell};
use crate::chip::{Chip, Control, Env, Outputs, Reg, RestoreError};
use crate::config::{IdeDriveConfig, IdeGeometry, IdeMedia};
use crate::links::{BLOCK_LINK, BYTES_LINK, BlockClient, BlockServer, ByteEnd, Side};
use crate::ram::GuestRam;
use crate::shm::Bulk;
use crate::sys::Mapping;

/// A hard disk as the first drive of a controller, on its block link 0.
pub fn test_disk() -> IdeDriveConfig {
    IdeDriveConfig {
        media: IdeMedia::Disk,
        block: 0,
        serial: "BH00001".to_owned(),
        model: "TEST DISK".to_owned(),
        firmware: "1".to_owned(),
        geometry: IdeGeometry { cylinders: 4, heads: 16, sectors: 63 },
        slow_writes: false,
    }
}

/// A chip under test with everything it may be handed.
pub struct Bench<C: Chip> {
    /// The chip.
    pub chip: C,
    /// Guest time in nanoseconds; advance it with [`Bench::advance`].
    pub now: u64,
    /// Guest RAM.
    pub ram: GuestRam,
    /// The device's ends of its byte links.
    pub bytes: Vec<ByteEnd>,
    /// The back ends' ends.
    pub hosts: Vec<ByteEnd>,
    /// The device's ends of its drives.
    pub blocks: Vec<BlockClient>,
    /// The back ends' ends.
    pub servers: Vec<BlockServer>,
    /// Bulk memory.
    pub bulk: Bulk,
    /// The memory of each link, byte links first, for peers that do not keep to the rules.
    pub links: Vec<Mapping>,
}

/// Two ends of one link need two mappings of the same memory; a third one is for lies.
fn link(len: usize) -> (Mapping, Mapping, Mapping) {
    use std::os::fd::AsFd;
    let fd = crate::sys::memfd("bench", len as u64).expect("memfd for a test");
    let map = || Mapping::shared(fd.as_fd(), len, true).expect("mapping for a test");
    (map(), map(), map())
}

fn bell() -> Arc<Bell> {
    Arc::new(Bell::new(Mapping::anonymous(BELL_BYTES).expect("mapping for a test")))
}

impl<C: Chip> Bench<C> {
    /// A bench with `bytes` byte links, `blocks` drives, 16 MiB of RAM and `bulk` bytes of bulk memory; the chip is reset.
    pub fn new(chip: C, bytes: usize, blocks: usize, bulk: usize) -> Bench<C> {
        let links = (0..bytes).map(|_| link(BYTES_LINK)).collect::<Vec<_>>();
        let drives = (0..blocks).map(|_| link(BLOCK_LINK)).collect::<Vec<_>>();
        let mut bench = Bench {
            chip,
            now: 0,
            ram: GuestRam::new(Mapping::anonymous(16 << 20).expect("mapping for a test"), None),
            bytes: Vec::new(),
            hosts: Vec::new(),
            blocks: Vec::new(),
            servers: Vec::new(),
            bulk: Bulk::new(Mapping::anonymous(bulk.max(4096)).expect("mapping for a test")),
            links: Vec::new(),
        };
        for (device, host, lies) in links {
            bench.links.push(lies);
            bench.bytes.push(ByteEnd::new(device, bell(), Side::Device));
            bench.hosts.push(ByteEnd::new(host, bell(), Side::Host));
        }
        for (device, host, lies) in drives {
            bench.links.push(lies);
            bench.blocks.push(BlockClient::new(device, bell()));
            bench.servers.push(BlockServer::new(host, bell()));
        }
        bench.with(|chip, env| chip.reset(env));
        bench
    }

    /// Calls the chip with an environment.
    pub fn with<R>(&mut self, call: impl FnOnce(&mut C, &mut Env<'_>) -> R) -> R {
        let mut env = Env {
            now: self.now,
            ram: Some(&self.ram),
            bytes: &self.bytes,
            blocks: &self.blocks,
            bulk: &self.bulk,
        };
        call(&mut self.chip, &mut env)
    }

    /// Register read as the bus does it: an error reads as all ones of the size.
    pub fn read(&mut self, region: u8, offset: u64, size: u8) -> u64 {
        let ones = u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)));
        self.with(|chip, env| chip.read(Reg { region, offset, size }, env)).unwrap_or(ones) & ones
    }

    /// Register write as the bus does it: an error is dropped.
    pub fn write(&mut self, region: u8, offset: u64, size: u8, value: u64) {
        let _ = self.with(|chip, env| chip.write(Reg { region, offset, size }, value, env));
    }

    /// Moves time on, firing the timer at each deadline passed, at most 10,000 times.
    pub fn advance(&mut self, ns: u64) {
        let end = self.now.saturating_add(ns);
        for _ in 0..10_000 {
            match self.outputs().deadline {
                Some(at) if at <= end => {
                    self.now = self.now.max(at);
                    self.with(|chip, env| chip.timer(env));
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// Lets the chip look at its links.
    pub fn event(&mut self) {
        self.with(|chip, env| chip.event(env));
    }

    /// A monitor request.
    pub fn control(&mut self, request: &Control) -> Result<Vec<u8>, &'static str> {
        self.with(|chip, env| chip.control(request, env))
    }

    /// Outputs now.
    pub fn outputs(&self) -> Outputs {
        let mut out = Outputs::default();
        self.chip.sync_outputs(&mut out);
        out
    }

    /// Level of a line now.
    pub fn line(&self, line: usize) -> bool {
        self.outputs().level.get(line).copied().unwrap_or(false)
    }

    /// Replaces the chip by a new one in the old one's state, as a restart does.
    ///
    /// # Errors
    /// The chip's.
    pub fn restart(&mut self, mut fresh: C) -> Result<(), RestoreError> {
        fresh.restore(&self.chip.save())?;
        self.chip = fresh;
        self.event();
        Ok(())
    }
}
