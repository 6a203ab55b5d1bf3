//! A device process's own code between the memories that others write: the CPU process its ring, state and mailbox, back ends
//! their ends of links, everybody the guest's memory.

use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;

use bulkhead_bus::bell::BELL_BYTES;
use bulkhead_bus::chip::Chip;
use bulkhead_bus::clock::{CLOCK_BYTES, Clock};
use bulkhead_bus::config::{
    DebugPortsConfig, FwCfgConfig, I8042Config, IdeConfig, IdeDriveConfig, IdeGeometry, IdeMedia, RtcConfig,
    SerialConfig, VgaConfig,
};
use bulkhead_bus::control;
use bulkhead_bus::device::{self, BLOCK, CONTROL, DEVICE_BYTES, kind};
use bulkhead_bus::irq::IRQ_BYTES;
use bulkhead_bus::links::{BLOCK_LINK, BYTES_LINK};
use bulkhead_bus::manifest::{Manifest, fd};
use bulkhead_bus::ram::code_map_bytes;
use bulkhead_bus::serve::rehearse;
use bulkhead_bus::storm::{Script, Source};
use bulkhead_bus::sys::{Mapping, memfd};

use super::bus::lie;

/// Guest memory.
const RAM: u64 = 1 << 20;
/// Video memory, the least there is.
const VRAM: u32 = 256 << 10;
/// Most turns of a device, all lives together.
const TURNS: usize = 300;

/// The files of a device, and the side that lies.
struct Rig {
    manifest: Manifest,
    _files: Vec<OwnedFd>,
    device: Mapping,
    others: Vec<Mapping>,
    links: Vec<Mapping>,
}

impl Rig {
    fn new(config: Vec<u8>, links: &[(&str, usize)], bulk: u32) -> Rig {
        let mut rig = Rig {
            manifest: Manifest {
                name: "fuzz".to_owned(),
                role: "fuzz".to_owned(),
                config,
                source: 1,
                ram_bytes: RAM,
                bulk_bytes: bulk.into(),
                ..Manifest::default()
            },
            _files: Vec::new(),
            device: Mapping::anonymous(4096).expect("mapping for a test"),
            others: Vec::new(),
            links: Vec::new(),
        };
        rig.device = rig.add(fd::DEVICE, DEVICE_BYTES);
        Clock::new(rig.add(fd::CLOCK, CLOCK_BYTES)).set_running(true);
        rig.add(fd::BELL, BELL_BYTES);
        for (name, len) in [
            (fd::IRQ, IRQ_BYTES),
            (fd::CPU_BELL, BELL_BYTES),
            (fd::RAM, RAM as usize),
            (fd::CODE, code_map_bytes(RAM) as usize),
        ] {
            let map = rig.add(name, len);
            rig.others.push(map);
        }
        if bulk > 0 {
            rig.add(fd::BULK, bulk as usize);
        }
        for (name, len) in links {
            let map = rig.add(name, *len);
            rig.links.push(map);
            rig.add(&format!("{name}{}", fd::PEER_BELL), BELL_BYTES);
        }
        rig
    }

    fn add(&mut self, name: &str, len: usize) -> Mapping {
        let file = memfd("fuzz", len as u64).expect("memory for a test");
        let map = Mapping::shared(file.as_fd(), len, true).expect("mapping for a test");
        self.manifest.fds.push((name.to_owned(), file.as_raw_fd()));
        self._files.push(file);
        map
    }

    /// Puts a request into the ring: mostly one that the CPU's end could have made.
    fn request(&self, source: &mut Script<'_>) {
        let tail = self.device.word(device::TAIL);
        let index = tail.load(Ordering::SeqCst);
        let place = device::RING + index as usize % 1024 * 16;
        let kinds = [
            kind::READ,
            kind::WRITE,
            kind::WRITE_SYNC,
            kind::READ_BLOCK,
            kind::WRITE_BLOCK,
            kind::TIMER,
            kind::RESET,
        ];
        let kind = match source.below(16) {
            0 => source.below(256) as u8,
            1 => kind::RESET,
            _ => kinds.get(source.below(6) as usize).copied().unwrap_or(kind::READ),
        };
        let offset = if source.below(8) == 0 { source.draw() as u32 } else { source.below(64) as u32 };
        let stamp = u64::from(device::stamp(index)) << 24;
        let head =
            u64::from(kind) | source.below(4) << 8 | source.below(5) << 16 | stamp | u64::from(offset) << 32;
        let value = source.draw() >> source.below(64);
        self.device.dword(place + 8).store(value, Ordering::SeqCst);
        tail.store(index.wrapping_add(1), Ordering::SeqCst);
        self.device.word(device::SENT).store(index.wrapping_add(1), Ordering::SeqCst);
        self.device.dword(place).store(head, Ordering::SeqCst);
    }

    /// One thing that somebody does. False when the process is to be replaced.
    fn disturb(&self, source: &mut Script<'_>) -> bool {
        match source.below(20) {
            0..=9 => self.request(source),
            10 => lie(&self.device, 0, device::REGION_TABLE, source),
            11 => lie(&self.device, device::RING, device::RING + 0x100, source),
            12 => {
                let slot = device::SLOTS + source.below(2) as usize * device::SLOT_BYTES;
                let end = if source.below(2) == 0 { 0x10 } else { device::SLOT_BYTES };
                lie(&self.device, slot, slot + end, source);
            }
            13 => {
                lie(&self.device, CONTROL, CONTROL + 0x40, source);
                let request = self.device.word(CONTROL + control::REQUEST);
                request.store(request.load(Ordering::SeqCst).wrapping_add(1), Ordering::SeqCst);
            }
            14 => lie(&self.device, BLOCK, BLOCK + 0x100, source),
            15..=17 => {
                let count = self.links.len() as u64;
                if let Some(link) = self.links.get(source.below(count) as usize) {
                    lie(link, 0, 0x400, source);
                }
            }
            18 => {
                if let Some(other) = self.others.get(source.below(self.others.len() as u64) as usize) {
                    lie(other, 0, 4096, source);
                }
            }
            _ => return false,
        }
        true
    }
}

/// Lives of one device over the same memory.
fn live<C: Chip>(rig: &Rig, make: impl Fn() -> C, source: Script<'_>) {
    let (source, turns) = (RefCell::new(source), RefCell::new(0));
    while !source.borrow().is_spent() && *turns.borrow() < TURNS {
        let more = || {
            *turns.borrow_mut() += 1;
            let mut source = source.borrow_mut();
            !source.is_spent() && *turns.borrow() < TURNS && rig.disturb(&mut source)
        };
        rehearse(&rig.manifest, |_| Ok(make()), more)
            .expect("a device that was well started is started again");
    }
}

/// The first byte chooses the device.
pub fn device(bytes: &[u8]) {
    let mut source = Script::new(bytes);
    let console = [("bytes0", BYTES_LINK)];
    let rig = |links: &[(&str, usize)], bulk| Rig::new(Vec::new(), links, bulk);
    match source.below(10) {
        0 => {
            let make = || bulkhead_serial16550::Uart16550::new(&SerialConfig::default());
            live(&rig(&console, 0), make, source);
        }
        1 => live(&rig(&[], 0), || bulkhead_rtc146818::Rtc146818::new(&RtcConfig::default()), source),
        2 => live(&rig(&[], 0), || bulkhead_i8042::I8042::new(&I8042Config::default()), source),
        3 => live(&rig(&[], 0), bulkhead_port92::Port92::new, source),
        4 => {
            let make = || bulkhead_debugports::DebugPorts::new(&DebugPortsConfig { exit_ports: 4 });
            live(&rig(&console, 0), || make().expect("valid configuration"), source);
        }
        5 => live(&rig(&[], 0), bulkhead_dma8237::Dma8237::new, source),
        6 => {
            let make = || bulkhead_fwcfg::FwCfg::new(FwCfgConfig::default()).expect("valid configuration");
            live(&rig(&[], 4096), make, source);
        }
        7 => live(&rig(&console, 0), bulkhead_parallel1284::Parallel1284::new, source),
        8 => {
            let make =
                || bulkhead_vga::Vga::new(VgaConfig { vram_bytes: VRAM }).expect("valid configuration");
            live(&rig(&[], VRAM), make, source);
        }
        _ => {
            let drive = |media, block| {
                let named = |text: &str| text.to_owned();
                Some(IdeDriveConfig {
                    media,
                    block,
                    serial: named("1"),
                    model: named("DRIVE"),
                    firmware: named("1.0"),
                    geometry: IdeGeometry { cylinders: 4, heads: 16, sectors: 63 },
                    slow_writes: false,
                })
            };
            let drives = || [drive(IdeMedia::Disk, 0), None, drive(IdeMedia::Cdrom, 1), None];
            let make = || bulkhead_piix3ide::Piix3Ide::new(IdeConfig { drives: drives() });
            live(&rig(&[("block0", BLOCK_LINK), ("block1", BLOCK_LINK)], 0), make, source);
        }
    }
}
