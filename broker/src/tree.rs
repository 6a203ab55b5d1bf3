//! The tree of processes of one machine: its memory, its links, every process with its manifest.

use std::cell::Cell;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use bulkhead_bus::bell::{BELL_BYTES, Bell};
use bulkhead_bus::clock::{CLOCK_BYTES, Clock};
use bulkhead_bus::config::{
    CharConfig, CharKind, DebugPortsConfig, FwCfgConfig, I8042Config, IdeConfig, IdeDriveConfig, IdeGeometry,
    IdeMedia, JOURNAL_BYTES, RtcConfig, SerialConfig, VgaConfig,
};
use bulkhead_bus::device::DEVICE_BYTES;
use bulkhead_bus::irq::IRQ_BYTES;
use bulkhead_bus::links::{BLOCK_LINK, BYTES_LINK, BlockServer, ByteEnd, Medium, Side};
use bulkhead_bus::mailbox::Mailbox;
use bulkhead_bus::manifest::{Manifest, fd};
use bulkhead_bus::messages::{
    BulkMap, CpuConfig, FromCpu, Icount, PciFunction, PciTemplate, RegionMap, RomImage, Space, WireMap,
};
use bulkhead_bus::ram::code_map_bytes;
use bulkhead_bus::sys::{self as bus_sys, Mapping};
use bulkhead_bus::wire;
use bulkhead_config::{MachineConfig, Media, RtcBase, Target, Vga};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::chars::HostChar;
use crate::clients::{self, Clients};
use crate::control::CpuLink;
use crate::fail::{Fail, reason, tell};
use crate::images::OpenDrive;
use crate::machines::standard::DEBUG_EXIT_REGION;
use crate::machines::{Bulk, Device, Machine, When};
use crate::privileges::Privileges;
use crate::spawn::{self, Process, Recipe, Standby};
use crate::sys;
use crate::trace::{self, Tracing};
use crate::vm;

/// Longest start of all processes.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Program and name of the CPU process.
const CPU: &str = "bh-cpu";

/// Everything that was opened before the first process starts.
pub struct Parts {
    /// Drives by position.
    pub drives: Vec<OpenDrive>,
    /// Host sides of the serial and parallel ports that there are.
    pub ports: Vec<Port>,
    /// Host side of the monitor of its own.
    pub monitor: Option<HostChar>,
    /// System firmware.
    pub bios: Vec<u8>,
    /// Expansion ROM of the video card.
    pub vga_bios: Option<Vec<u8>>,
    /// Firmware items and their long contents.
    pub firmware: (FwCfgConfig, Vec<u8>),
    /// CMOS bytes.
    pub cmos: Vec<(u8, u8)>,
}

/// A serial or parallel port with its host side.
pub struct Port {
    /// Instance of the device: `serial0`.
    pub name: String,
    /// Name of its back end: `bh-char-serial0`.
    pub back_end: String,
    /// Whether the guest can receive by it.
    pub listens: bool,
    /// Host side.
    pub host: HostChar,
}

impl Port {
    /// Whether it has a process for its host side. Where nobody is on the other side and nothing could come from there, the device itself
    /// drops what it is given.
    fn has_back_end(&self) -> bool {
        self.listens || self.host.mux || self.host.kind != CharKind::Null
    }
}

/// A device process as the broker deals with it.
pub struct DeviceHandle {
    /// Instance: `serial0`.
    pub name: &'static str,
    /// Requests.
    pub mailbox: Mailbox,
    /// Index in [`Tree::processes`].
    pub process: usize,
}

/// A running machine.
pub struct Tree {
    /// All processes; the CPU process is the last.
    pub processes: Vec<Process>,
    /// Devices by index.
    pub devices: Vec<DeviceHandle>,
    /// Guest time.
    pub clock: Clock,
    /// Messages to and from the CPU process.
    pub cpu: CpuLink,
    /// Monitor ends of character back ends, with the index of the back end in [`Tree::processes`]: what is printed goes into the
    /// stream, keys come over the link.
    pub monitors: Vec<(usize, UnixStream, ByteEnd)>,
    /// Listening sockets, with the index of their back end in [`Tree::processes`].
    pub clients: Vec<(usize, Clients)>,
    /// Bells of the character back ends, with their index in [`Tree::processes`].
    pub back_ends: Vec<(usize, Bell)>,
    /// Drives, with the index of their back end in [`Tree::processes`].
    pub blocks: Vec<(usize, BlockServer)>,
    /// How each process but the last is started again, in the order of [`Tree::processes`].
    pub recipes: Vec<Recipe>,
    /// Their successors, as far as they wait already, in the same order.
    pub standbys: Vec<Option<Standby>>,
    /// `-d` output of the CPU process.
    pub log: OwnedFd,
    /// Where that goes, if it was asked for at the start.
    pub log_file: Option<File>,
    /// Trace files of all processes, and what is done with them.
    pub tracing: Tracing,
    /// Keeps shared memory alive for successors.
    _memory: Vec<OwnedFd>,
}

impl Tree {
    /// No process at all.
    pub fn empty(cpu: CpuLink, clock: Clock, log: OwnedFd, tracing: Tracing) -> Tree {
        Tree {
            processes: Vec::new(),
            devices: Vec::new(),
            clock,
            cpu,
            monitors: Vec::new(),
            clients: Vec::new(),
            back_ends: Vec::new(),
            blocks: Vec::new(),
            recipes: Vec::new(),
            standbys: Vec::new(),
            log,
            log_file: None,
            tracing,
            _memory: Vec::new(),
        }
    }
}

fn map(fd: &OwnedFd, len: usize) -> Result<Mapping, Fail> {
    Mapping::shared(fd.as_fd(), len, true).map_err(|e| Fail(format!("cannot map memory: {}", reason(&e))))
}

fn encode<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, Fail> {
    wire::encode(value).map_err(|_| Fail("configuration of a process is too long".to_owned()))
}

/// A bell that nobody sleeps on.
fn mute_bell() -> Result<Bell, Fail> {
    Ok(Bell::new(Mapping::anonymous(BELL_BYTES).map_err(|e| Fail(reason(&e)))?))
}

/// What outlives a character back end besides its client.
struct Kept {
    journal: OwnedFd,
    input: (OwnedFd, OwnedFd),
    output: (OwnedFd, OwnedFd),
}

impl Kept {
    fn new() -> Result<Kept, Fail> {
        let pipe = || nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC);
        Ok(Kept {
            journal: spawn::memory("char-journal", JOURNAL_BYTES as u64)?,
            input: pipe()?,
            output: pipe()?,
        })
    }

    fn add<'a>(&'a self, fds: &mut Fds<'a>) {
        fds.add(fd::JOURNAL, &self.journal);
        for (name, (read, write)) in [("input", &self.input), ("output", &self.output)] {
            fds.add(format!("{name}-read"), read);
            fds.add(format!("{name}-write"), write);
        }
    }
}

/// Shared memory of the whole machine.
struct Shared<'a> {
    irq: OwnedFd,
    clock: OwnedFd,
    cpu_bell: OwnedFd,
    ram: OwnedFd,
    code: OwnedFd,
    privileges: &'a Privileges,
    /// Manifests so far: the number of the next process.
    manifests: Cell<u32>,
    ram_bytes: u64,
}

/// Descriptors of one process under construction.
#[derive(Default)]
struct Fds<'a> {
    list: Vec<(String, BorrowedFd<'a>)>,
}

impl<'a> Fds<'a> {
    fn add(&mut self, name: impl Into<String>, fd: &'a OwnedFd) {
        self.list.push((name.into(), fd.as_fd()));
    }
}

impl Shared<'_> {
    fn manifest(&self, name: String, role: &str, config: Vec<u8>, source: u32) -> Manifest {
        let number = self.manifests.replace(self.manifests.get() + 1);
        Manifest {
            name,
            role: role.to_owned(),
            fds: Vec::new(),
            config,
            source,
            ram_bytes: self.ram_bytes,
            bulk_bytes: 0,
            run_as: self.privileges.of_process(number),
        }
    }
}

/// A link between a device and a back end: its memory and the back end's bell.
struct Link {
    memory: OwnedFd,
    bell: OwnedFd,
}

impl Link {
    fn new(name: &str, bytes: usize) -> Result<Link, Fail> {
        Ok(Link {
            memory: spawn::memory(name, bytes as u64)?,
            bell: spawn::memory("bell", BELL_BYTES as u64)?,
        })
    }
}

fn exists(device: &Device, parts: &Parts, config: &MachineConfig) -> bool {
    match device.when {
        When::Always => true,
        When::Given => parts.ports.iter().any(|port| port.name == device.name),
        When::Vga => config.vga == Vga::Std,
    }
}

fn device_config(device: &Device, config: &MachineConfig, parts: &Parts) -> Result<Vec<u8>, Fail> {
    match device.role {
        "serial" => encode(&SerialConfig::default()),
        "rtc" => encode(&rtc(config, &parts.cmos)),
        "i8042" => encode(&I8042Config { mouse: true }),
        "fwcfg" => encode(&parts.firmware.0),
        "debugports" => encode(&DebugPortsConfig {
            exit_ports: config.debug_exit.map_or(0, |exit| exit.iosize.min(4) as u8),
        }),
        "ide" => encode(&ide(&parts.drives, config.win2k_hack)),
        "vga" => encode(&VgaConfig::default()),
        _ => Ok(Vec::new()),
    }
}

fn rtc(config: &MachineConfig, cmos: &[(u8, u8)]) -> RtcConfig {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let seconds = now.as_secs() as i64;
    let (base_seconds, base_nanoseconds) = match config.rtc {
        RtcBase::Utc => (seconds, now.subsec_nanos()),
        RtcBase::Local => (seconds.saturating_add(sys::local_offset(seconds)), now.subsec_nanos()),
        RtcBase::Start(start) => (start, 0),
    };
    RtcConfig { cmos: cmos.to_vec(), base_seconds, base_nanoseconds, time_drift_hack: config.rtc_td_hack }
}

fn ide(drives: &[OpenDrive], slow_writes: bool) -> IdeConfig {
    let mut config = IdeConfig::default();
    for (block, drive) in drives.iter().enumerate() {
        let disk = drive.media == Media::Disk;
        let geometry = drive.geometry;
        if let Some(unit) = config.drives.get_mut(usize::from(drive.index)) {
            *unit = Some(IdeDriveConfig {
                media: if disk { IdeMedia::Disk } else { IdeMedia::Cdrom },
                block: block as u8,
                serial: drive.serial.clone(),
                model: if disk { "QEMU HARDDISK" } else { "QEMU DVD-ROM" }.to_owned(),
                firmware: "0.10.4".to_owned(),
                geometry: IdeGeometry {
                    cylinders: geometry.cylinders,
                    heads: geometry.heads,
                    sectors: geometry.sectors,
                },
                slow_writes,
            });
        }
    }
    config
}

/// What one device shares with others, created before any process starts.
struct Slot<'a> {
    device: &'a Device,
    file: OwnedFd,
    bell: OwnedFd,
    bulk: Option<(OwnedFd, u64)>,
}

fn slot<'a>(device: &'a Device, parts: &Parts) -> Result<Slot<'a>, Fail> {
    let bulk = match device.bulk {
        Bulk::None => None,
        Bulk::Zeroed(bytes, _) => Some((spawn::memory(&format!("{}-bulk", device.name), bytes)?, bytes)),
        Bulk::Firmware if parts.firmware.1.is_empty() => None,
        Bulk::Firmware => {
            let bytes = &parts.firmware.1;
            Some((spawn::memory_with(&format!("{}-bulk", device.name), bytes)?, bytes.len() as u64))
        }
    };
    Ok(Slot {
        device,
        file: spawn::memory(&format!("{}-device", device.name), DEVICE_BYTES as u64)?,
        bell: spawn::memory("bell", BELL_BYTES as u64)?,
        bulk,
    })
}

/// Bytes of a ROM in whole pages.
fn rom_bytes(rom: &[u8]) -> u64 {
    (rom.len() as u64).next_multiple_of(4096)
}

fn cpu_config(config: &MachineConfig, machine: &Machine, slots: &[Slot<'_>], parts: &Parts) -> CpuConfig {
    let bios_bytes = rom_bytes(&parts.bios);
    let mut out = CpuConfig {
        model: config.cpu.clone(),
        long_mode: config.target == Target::X86_64,
        cpus: config.cpus,
        chipset: machine.chipset,
        devices: slots.iter().map(|slot| slot.device.name.to_owned()).collect(),
        regions: Vec::new(),
        wires: Vec::new(),
        functions: Vec::new(),
        bulks: Vec::new(),
        roms: vec![RomImage { size: bios_bytes, bios: true }],
        no_hpet: config.no_hpet,
        no_acpi: config.no_acpi,
        no_reboot: config.no_reboot,
        single_step: config.single_step,
        icount: config.icount.map(|icount| match icount {
            bulkhead_config::Icount::Shift(shift) => Icount::Shift(shift),
            bulkhead_config::Icount::Auto => Icount::Auto,
        }),
        log_items: config.log_items.clone(),
    };
    for (index, slot) in slots.iter().enumerate() {
        let index = index as u32;
        for place in slot.device.places {
            out.regions.push(RegionMap {
                device: index,
                region: place.region,
                offset: place.offset,
                space: place.space,
                base: place.base,
                size: place.size,
            });
        }
        if let ("debugports", Some(exit)) = (slot.device.role, config.debug_exit) {
            out.regions.push(RegionMap {
                device: index,
                region: DEBUG_EXIT_REGION,
                offset: 0,
                space: Space::Port,
                base: exit.iobase.into(),
                size: exit.iosize.into(),
            });
        }
        for (line, to) in slot.device.wires {
            out.wires.push(WireMap { device: index, line: *line, to: *to });
        }
        if let Some((devfn, template)) = slot.device.function {
            let rom = match (template, &parts.vga_bios) {
                (PciTemplate::StdVga, Some(rom)) => {
                    out.roms.push(RomImage { size: rom_bytes(rom), bios: false });
                    Some(out.roms.len() as u32 - 1)
                }
                _ => None,
            };
            out.functions.push(PciFunction { device: index, devfn, template, rom });
            if let Bulk::Zeroed(size, Some(bar)) = slot.device.bulk {
                out.bulks.push(BulkMap { device: index, devfn, bar, size });
            }
        }
    }
    out
}

/// Builds the machine and starts every process; returns when all of them serve from inside their jails.
///
/// # Errors
/// One line; every process started so far is ended.
pub fn build(
    config: &MachineConfig,
    machine: &Machine,
    parts: &Parts,
    privileges: &Privileges,
    tracing: trace::Opened,
) -> Result<Tree, Fail> {
    let mut processes = Vec::new();
    let tree = start(config, machine, parts, privileges, tracing, &mut processes);
    match tree {
        Ok(mut tree) => {
            tree.processes = processes;
            Ok(tree)
        }
        Err(error) => {
            for process in &processes {
                process.kill();
                process.collect();
            }
            Err(error)
        }
    }
}

fn start(
    config: &MachineConfig,
    machine: &Machine,
    parts: &Parts,
    privileges: &Privileges,
    tracing: trace::Opened,
    processes: &mut Vec<Process>,
) -> Result<Tree, Fail> {
    let (clock_memory, clock_page) = bus_sys::memfd_written_here("bh-clock", CLOCK_BYTES)
        .map_err(|e| Fail(format!("cannot allocate memory for the clock: {}", reason(&e))))?;
    let shared = Shared {
        irq: spawn::memory("irq", IRQ_BYTES as u64)?,
        clock: clock_memory,
        cpu_bell: spawn::memory("bell", BELL_BYTES as u64)?,
        ram: spawn::memory("ram", config.ram_bytes)?,
        code: spawn::memory("code", code_map_bytes(config.ram_bytes))?,
        privileges,
        manifests: Cell::new(0),
        ram_bytes: config.ram_bytes,
    };
    let clock = Clock::new(clock_page);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    if config.icount.is_some() {
        clock.set_counted();
    }
    clock.set_real_time(i64::try_from(now.as_nanos()).unwrap_or(i64::MAX));
    let mut slots = Vec::new();
    for device in machine.devices.iter().filter(|device| exists(device, parts, config)) {
        slots.push(slot(device, parts)?);
    }
    let names = slots.iter().map(|slot| slot.device.name.to_owned()).collect();
    let mut tracing = Tracing::new(tracing, names, config.cpus);
    // Links first: both ends need them.
    let mut drives = Vec::new();
    let mut block_ends = Vec::new();
    for drive in &parts.drives {
        let link = Link::new(&format!("{}-block", drive.name), BLOCK_LINK)?;
        let end = BlockServer::new(map(&link.memory, BLOCK_LINK)?, mute_bell()?.into());
        end.set_medium(Medium {
            bytes: drive.config.bytes,
            read_only: drive.config.read_only,
            present: !drive.config.empty,
            write_cache: drive.config.cache != bulkhead_bus::config::BlockCache::Writethrough,
            generation: 0,
        });
        drives.push(link);
        block_ends.push(end);
    }
    let mut ports = Vec::new();
    for port in parts.ports.iter().filter(|port| port.has_back_end()) {
        ports.push((port, Link::new("port-bytes", BYTES_LINK)?));
    }
    let (log_read, log_write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let log_file = (!config.log_items.is_empty()).then(vm::open_log).transpose()?;
    // With any `-d`, the firmware's debug output goes into the log too.
    let debug_text = match config.log_items.is_empty() {
        true => None,
        false => Some(Link::new("debug-bytes", BYTES_LINK)?),
    };
    let mut monitors = Vec::new();
    let mut handles = Vec::new();
    let mut recipes = Vec::new();
    let mut keep = |program, manifest: Manifest, fds: &[(String, BorrowedFd<'_>)]| {
        let trace = tracing.add(&manifest.name, &manifest.role, manifest.source)?;
        let mut fds = fds.to_vec();
        fds.push((fd::TRACE.to_owned(), trace));
        fds.extend(privileges.descriptors());
        let mut recipe = Recipe::new(program, manifest, &fds)?;
        if privileges.hides_programs() {
            recipe.hold_program(privileges.encloses())?;
        }
        recipes.push(recipe);
        Ok::<usize, Fail>(recipes.len() - 1)
    };
    for (index, slot) in slots.iter().enumerate() {
        let device = slot.device;
        let mut manifest = shared.manifest(
            format!("bh-{}", device.name),
            device.role,
            device_config(device, config, parts)?,
            index as u32,
        );
        let mut fds = Fds::default();
        fds.add(fd::DEVICE, &slot.file);
        fds.add(fd::BELL, &slot.bell);
        fds.add(fd::IRQ, &shared.irq);
        fds.add(fd::CPU_BELL, &shared.cpu_bell);
        fds.add(fd::CLOCK, &shared.clock);
        if device.master {
            fds.add(fd::RAM, &shared.ram);
            fds.add(fd::CODE, &shared.code);
        }
        if let Some((memory, bytes)) = &slot.bulk {
            fds.add(fd::BULK, memory);
            manifest.bulk_bytes = *bytes;
        }
        if let Some((_, link)) = ports.iter().find(|(port, _)| port.name == device.name) {
            fds.add("bytes0", &link.memory);
            fds.add("bytes0-peer", &link.bell);
        }
        if let ("debugports", Some(link)) = (device.role, &debug_text) {
            fds.add("bytes0", &link.memory);
            fds.add("bytes0-peer", &link.bell);
        }
        if device.role == "ide" {
            for (number, link) in drives.iter().enumerate() {
                fds.add(format!("{}{number}", fd::BLOCK), &link.memory);
                fds.add(format!("{}{number}{}", fd::BLOCK, fd::PEER_BELL), &link.bell);
            }
        }
        let process = keep(device.program, manifest, &fds.list)?;
        handles.push(DeviceHandle {
            name: device.name,
            mailbox: Mailbox::new(map(&slot.file, DEVICE_BYTES)?, Bell::new(map(&slot.bell, BELL_BYTES)?)),
            process,
        });
    }
    let bell_of = |wanted: &dyn Fn(&Device) -> bool| {
        slots.iter().find(|slot| wanted(slot.device)).map(|slot| &slot.bell)
    };
    let mut back_ends: Vec<(usize, Bell)> = Vec::new();
    let mut blocks = Vec::new();
    for ((drive, link), end) in parts.drives.iter().zip(&drives).zip(block_ends) {
        let manifest =
            shared.manifest(format!("bh-block-{}", drive.name), "block", encode(&drive.config)?, 0);
        let mut fds = Fds::default();
        fds.add("block0", &link.memory);
        if let Some(bell) = bell_of(&|device| device.role == "ide") {
            fds.add("block0-peer", bell);
        }
        fds.add(fd::BELL, &link.bell);
        fds.list.extend(drive.descriptors().map(|(name, fd)| (name.to_owned(), fd)));
        blocks.push((keep("bh-block", manifest, &fds.list)?, end));
    }
    let start_ns = bus_sys::monotonic_ns();
    let mut stores = Vec::new();
    let mut char = |name: String, char: &HostChar, link: Option<(&Link, &OwnedFd)>, monitor: bool| {
        let settings =
            CharConfig { kind: char.kind, monitor, mux: char.mux, escape: config.escape_char, start_ns };
        let manifest = shared.manifest(name, "char", encode(&settings)?, 0);
        let own = spawn::memory("bell", BELL_BYTES as u64)?;
        let mut fds = Fds::default();
        match link {
            Some((link, peer)) => {
                fds.add("bytes0", &link.memory);
                fds.add("bytes0-peer", peer);
                fds.add(fd::BELL, &link.bell);
            }
            None => fds.add(fd::BELL, &own),
        }
        fds.list.extend(char.descriptors().map(|(name, fd)| (name.to_owned(), fd)));
        let kept = Kept::new()?;
        kept.add(&mut fds);
        let mut sockets = Vec::new();
        let mut shown = None;
        if monitor {
            let (ours, theirs) = clients::pair().map_err(|e| Fail(reason(&e)))?;
            let keys = spawn::memory("monitor-keys", BYTES_LINK as u64)?;
            let end = ByteEnd::new(map(&keys, BYTES_LINK)?, mute_bell()?.into(), Side::Host);
            shown = Some((ours, end));
            sockets.extend([(fd::MONITOR, theirs), (fd::KEYS, keys)]);
        }
        let mut store = None;
        if let Some(listener) = char.listener() {
            let busy = char.descriptors().next().is_some();
            let (own, theirs) = Clients::new(listener, char.nodelay, busy)?;
            store = Some(own);
            sockets.push((fd::CLIENTS, theirs));
        }
        sockets.iter().for_each(|(name, socket)| fds.add(*name, socket));
        let process = keep("bh-char", manifest, &fds.list)?;
        stores.extend(store.map(|store| (process, store)));
        monitors.extend(shown.map(|(ours, end)| (process, ours, end)));
        let bell = link.map_or(&own, |(link, _)| &link.bell);
        back_ends.push((process, Bell::new(map(bell, BELL_BYTES)?)));
        Ok::<(), Fail>(())
    };
    for (port, link) in &ports {
        if let Some(bell) = bell_of(&|device| device.name == port.name) {
            char(port.back_end.clone(), &port.host, Some((link, bell)), port.host.mux)?;
        }
    }
    if let Some(link) = &debug_text
        && let Some(bell) = bell_of(&|device| device.role == "debugports")
    {
        let log = log_write.try_clone().map_err(|e| Fail(reason(&e)))?;
        char("bh-char-debug".to_owned(), &HostChar::output(log), Some((link, bell)), false)?;
    }
    if let Some(host) = &parts.monitor {
        char("bh-char-monitor".to_owned(), host, None, true)?;
    }
    tracing.add(CPU, "cpu", 0)?;
    // Whatever can be wrong with `-trace` is, before there is a process.
    tracing.complete()?;
    for recipe in &recipes {
        processes.push(recipe.start()?);
    }
    wait_ready(&handles, &blocks, &back_ends, processes)?;
    let trace = tracing.file(CPU)?;
    let cpu = start_cpu(config, machine, parts, &shared, &slots, &log_write, trace, processes)?;
    let mut memory = vec![shared.irq, shared.clock, shared.cpu_bell, shared.ram, shared.code];
    for slot in slots {
        memory.extend([slot.file, slot.bell]);
        memory.extend(slot.bulk.map(|(fd, _)| fd));
    }
    let ports = ports.into_iter().map(|(_, link)| link);
    for link in drives.into_iter().chain(ports).chain(debug_text) {
        memory.extend([link.memory, link.bell]);
    }
    Ok(Tree {
        processes: Vec::new(),
        devices: handles,
        clock,
        cpu,
        monitors,
        back_ends,
        blocks,
        standbys: recipes.iter().map(|_| None).collect(),
        recipes,
        clients: stores,
        log: log_read,
        log_file,
        tracing,
        _memory: memory,
    })
}

/// A ROM in memory, padded to whole pages.
fn rom_memory(name: &str, rom: &[u8]) -> Result<OwnedFd, Fail> {
    let mut padded = rom.to_vec();
    padded.resize(rom_bytes(rom) as usize, 0xff);
    spawn::sealed(name, &padded)
}

#[expect(clippy::too_many_arguments, reason = "each is one part of the machine")]
fn start_cpu(
    config: &MachineConfig,
    machine: &Machine,
    parts: &Parts,
    shared: &Shared<'_>,
    slots: &[Slot<'_>],
    log: &OwnedFd,
    trace: BorrowedFd<'_>,
    processes: &mut Vec<Process>,
) -> Result<CpuLink, Fail> {
    let settings = cpu_config(config, machine, slots, parts);
    let manifest = shared.manifest(CPU.to_owned(), "cpu", encode(&settings)?, 0);
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    let rom = rom_memory("bios-rom", &parts.bios)?;
    let vga_rom = parts.vga_bios.as_deref().map(|rom| rom_memory("vga-rom", rom)).transpose()?;
    let mut fds = Fds::default();
    for (name, memory) in [
        (fd::IRQ, &shared.irq),
        (fd::CPU_BELL, &shared.cpu_bell),
        (fd::CLOCK, &shared.clock),
        (fd::RAM, &shared.ram),
        (fd::CODE, &shared.code),
        (fd::CONTROL, &theirs),
        ("log", log),
        ("rom0", &rom),
    ] {
        fds.add(name, memory);
    }
    fds.list.push((fd::TRACE.to_owned(), trace));
    if let Some(rom) = &vga_rom {
        fds.add("rom1", rom);
    }
    for (index, slot) in slots.iter().enumerate() {
        fds.add(format!("{}{index}", fd::DEVICE), &slot.file);
        fds.add(format!("{}{index}-bell", fd::DEVICE), &slot.bell);
        if let (Bulk::Zeroed(_, Some(_)), Some((memory, _))) = (slot.device.bulk, &slot.bulk) {
            fds.add(format!("{}{index}", fd::BULK), memory);
        }
    }
    fds.list.extend(shared.privileges.descriptors());
    processes.push(spawn::spawn(CPU, None, manifest, &fds.list)?);
    drop(theirs);
    let mut cpu = CpuLink::new(ours);
    let end = Instant::now() + START_LIMIT;
    loop {
        match cpu.receive(Duration::from_millis(50)) {
            Some(FromCpu::Ready) => break,
            Some(FromCpu::Fatal(why)) => return Err(Fail(format!("bh-cpu: {why}"))),
            Some(FromCpu::Note(text)) => tell(format_args!("{}", spawn::printable(text.as_bytes()))),
            _ => {}
        }
        check(processes)?;
        if Instant::now() > end {
            return Err(Fail("bh-cpu does not get ready".to_owned()));
        }
    }
    Ok(cpu)
}

/// Fails when a process has ended, with what it said.
fn check(processes: &mut [Process]) -> Result<(), Fail> {
    for process in processes {
        if let Some(violation) = crate::violations::at_start(process) {
            return Err(Fail(violation));
        }
        if let Some(end) = process.ended() {
            let said = process.last_words();
            let said = said.trim();
            return Err(Fail(if said.is_empty() {
                format!("{} {} at start", process.name, end.text)
            } else {
                said.to_owned()
            }));
        }
    }
    Ok(())
}

fn wait_ready(
    devices: &[DeviceHandle],
    blocks: &[(usize, BlockServer)],
    back_ends: &[(usize, Bell)],
    processes: &mut [Process],
) -> Result<(), Fail> {
    let end = Instant::now() + START_LIMIT;
    let step = Duration::from_millis(20);
    let devices = devices.iter().map(|device| (device.process, Ready::Device(&device.mailbox)));
    let blocks = blocks.iter().map(|(process, end)| (*process, Ready::Block(end)));
    let back_ends = back_ends.iter().map(|(process, bell)| (*process, Ready::BackEnd(bell)));
    for (process, ready) in devices.chain(blocks).chain(back_ends) {
        loop {
            let serving = match ready {
                Ready::Device(mailbox) => mailbox.is_ready() || mailbox.wait_ready(step),
                Ready::Block(end) => end.wait_ready(step),
                Ready::BackEnd(bell) => bell.wait_ready(step),
            };
            if serving {
                break;
            }
            check(processes)?;
            if Instant::now() > end {
                let name = processes.get(process).map(|p| p.name.clone()).unwrap_or_default();
                return Err(Fail(format!("{name} does not get ready")));
            }
        }
    }
    Ok(())
}

enum Ready<'a> {
    Device(&'a Mailbox),
    Block(&'a BlockServer),
    BackEnd(&'a Bell),
}
