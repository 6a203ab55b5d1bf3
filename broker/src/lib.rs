//! The broker: opens everything as the invoking user, starts every process of the machine in its jail, watches them, runs
//! the monitor, and ends the VM. See README.md.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use bulkhead_bus::ram::LOW_LIMIT;
use bulkhead_config::{CharDevice, Machine, MachineConfig, Vga};

mod apart;
mod chars;
mod clients;
mod control;
mod fail;
pub mod firmware;
mod fresh;
mod images;
mod machines;
mod monitor;
mod names;
mod privileges;
pub mod rehearsal;
mod restart;
mod spawn;
mod sys;
mod trace;
mod tree;
mod violations;
mod vm;

use chars::HostChar;
use fail::{Fail, reason, tell};
use firmware::{Items, key};
use names::OwnName;
use tree::{Parts, Port};

pub use trace::help as trace_help;

/// Largest option ROM.
const OPTION_ROM_MAX: u64 = 0x2_0000;

/// Builds and runs the machine; returns the exit status of the program. `notice` is a line for the user once it is clear that
/// nothing is wrong with what was given.
pub fn run(config: MachineConfig, notice: Option<&str>) -> i32 {
    let result = start(&config, notice);
    sys::restore_terminal();
    match result {
        Ok(status) => status,
        Err(error) => {
            tell(format_args!("{}: {error}", config.program));
            1
        }
    }
}

fn start(config: &MachineConfig, notice: Option<&str>) -> Result<i32, Fail> {
    let daemon = if config.daemonize {
        match daemonize()? {
            Role::Parent(status) => return Ok(status),
            Role::Daemon(notify) => Some(notify),
        }
    } else {
        None
    };
    let io = |e: std::io::Error| Fail(reason(&e));
    sys::die_tidily();
    sys::keep_ended_children();
    raise_descriptor_limit();
    sys::reserve_descriptors().map_err(io)?;
    let machine = match config.machine {
        Machine::Pc => &machines::pc::PC,
        Machine::IsaPc => &machines::isapc::ISAPC,
    };
    let mut privileges = privileges::Privileges::new(config)?;
    let mut parts = open(config, machine)?;
    let tracing = trace::open(&config.trace)?;
    vm::hold_signals();
    let pidfile = config.pidfile.as_ref().map(PidFile::create).transpose()?;
    let tree = tree::build(config, machine, &parts, &privileges, tracing)?;
    // The processes have copies in shared memory: a kernel and its ramdisk would stay here for the life of the machine.
    parts.firmware.1 = Vec::new();
    sys::return_free_memory();
    privileges.drop()?;
    parts.ports.iter().map(|port| &port.host).chain(&parts.monitor).try_for_each(HostChar::begin)?;
    tree.tracing.begin()?;
    tree.log_file.iter().try_for_each(fresh::empty).map_err(|e| Fail(format!("-d: {}", reason(&e))))?;
    bulkhead_security::enter_broker().map_err(Fail)?;
    if let Some(notice) = notice {
        tell(format_args!("{}: {notice}", config.program));
    }
    let mut vm = vm::Vm::new(config, tree, parts);
    if let Some(notify) = daemon {
        detach(notify)?;
    }
    let status = vm.run();
    drop(pidfile);
    Ok(status)
}

fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(4096), hard);
    }
}

/// Opens and reads everything that the machine needs.
fn open(config: &MachineConfig, machine: &machines::Machine) -> Result<Parts, Fail> {
    let folder = config.firmware_dir.as_deref();
    let bios = firmware::load_bios(config.bios.as_deref(), machine.bios, folder)?;
    let drives = config.drives.iter().map(images::open).collect::<Result<Vec<_>, _>>()?;
    let low = config.ram_bytes.min(LOW_LIMIT);
    let high = config.ram_bytes - low;
    let mut items = Items::default();
    let vga_bios = match config.vga {
        Vga::Std => Some(firmware::load(&[machine.vga_bios], folder)?),
        Vga::None => None,
    };
    let vga_bios = match (vga_bios, machine.vga_bios_file) {
        (Some(rom), Some(name)) => {
            items.file(name, rom);
            None
        }
        (rom, _) => rom,
    };
    describe(config, low, high, &mut items)?;
    if let Some(kernel) = &config.kernel {
        firmware::add_kernel(kernel, &config.append, config.initrd.as_deref(), low, &mut items)?;
    }
    let cmos = firmware::cmos::bytes(config, &drives, low, high);
    let mut ports = Vec::new();
    // A process has at most 15 letters in its name.
    for (kind, short, devices) in
        [("serial", "serial", &config.serials), ("parallel", "par", &config.parallels)]
    {
        for (number, device) in devices.iter().enumerate().filter(|(_, device)| **device != CharDevice::None)
        {
            let host = chars::open(kept(device, config), &format!("-{kind}"))?;
            let back_end = format!("bh-char-{short}{number}");
            ports.push(Port { name: format!("{kind}{number}"), back_end, listens: kind == "serial", host });
        }
    }
    let monitor = match kept(&config.monitor, config) {
        CharDevice::None | CharDevice::Vc | CharDevice::Null => None,
        device => Some(chars::open(device, "-monitor")?),
    };
    Ok(Parts { drives, ports, monitor, bios, vga_bios, firmware: items.build(), cmos })
}

/// A daemon has no terminal: what would be there gets nothing and says nothing.
fn kept<'a>(device: &'a CharDevice, config: &MachineConfig) -> &'a CharDevice {
    static NOTHING: CharDevice = CharDevice::Null;
    match device {
        CharDevice::Stdio if config.daemonize => &NOTHING,
        CharDevice::Mux(inner) if config.daemonize && **inner == CharDevice::Stdio => &NOTHING,
        device => device,
    }
}

/// What the firmware is told about the machine.
fn describe(config: &MachineConfig, low: u64, high: u64, items: &mut Items) -> Result<(), Fail> {
    let cpus = config.cpus.min(255) as u16;
    items.add(key::UUID, config.uuid.unwrap_or([0; 16]));
    items.add(key::RAM_SIZE, config.ram_bytes.to_le_bytes());
    items.add_u16(key::NOGRAPHIC, u16::from(config.nographic));
    items.add_u16(key::CPUS, cpus);
    items.add_u16(key::MACHINE, 0);
    items.add_u16(key::MAX_CPUS, cpus);
    items.add_u16(key::BOOT_DEVICE, config.boot.bytes().next().unwrap_or(b'c').into());
    items.add_u16(key::BOOT_MENU, 0);
    items.add(key::NUMA, firmware::acpi::nodes(&config.numa, cpus));
    items.add(key::IRQ0_OVERRIDE, [1]);
    if !config.acpi_tables.is_empty() {
        items.add(key::ACPI_TABLES, firmware::acpi::item(&config.acpi_tables)?);
    }
    if let Some(smbios) = firmware::smbios::item(&config.smbios, config.uuid)? {
        items.add(key::SMBIOS, smbios);
    }
    let mut e820 = Vec::new();
    let mut range = |start: u64, length: u64| {
        e820.extend(start.to_le_bytes());
        e820.extend(length.to_le_bytes());
        e820.extend(1u32.to_le_bytes());
    };
    range(0, low);
    if high > 0 {
        range(1 << 32, high);
    }
    items.file("etc/e820", e820);
    for path in &config.option_roms {
        let rom = firmware::read_given("-option-rom", path, OPTION_ROM_MAX)?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let name: String = name.chars().filter(char::is_ascii_graphic).take(40).collect();
        items.file(&format!("genroms/{name}"), rom);
    }
    Ok(())
}

/// Which side of `-daemonize` this is.
enum Role {
    /// The process that the user waits for, with its exit status.
    Parent(i32),
    /// The VM; a byte written here releases the parent.
    Daemon(OwnedFd),
}

/// Splits off the daemon; the parent waits until the daemon serves or fails.
fn daemonize() -> Result<Role, Fail> {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    match sys::fork().map_err(|e| Fail(format!("-daemonize: {}", reason(&e))))? {
        Some(_) => {
            drop(write);
            let mut byte = [1u8];
            let count = File::from(read).read(&mut byte).unwrap_or(0);
            Ok(Role::Parent(if count == 1 && byte[0] == 0 { 0 } else { 1 }))
        }
        None => {
            drop(read);
            nix::unistd::setsid()?;
            Ok(Role::Daemon(write))
        }
    }
}

/// Leaves terminal and folder, and releases the parent.
fn detach(notify: OwnedFd) -> Result<(), Fail> {
    let null = sys::nothing().map_err(|e| Fail(reason(&e)))?;
    nix::unistd::chdir("/")?;
    for fd in 0..3 {
        sys::replace(null.as_fd(), fd).map_err(|e| Fail(reason(&e)))?;
    }
    File::from(notify).write_all(&[0]).map_err(|e| Fail(reason(&e)))
}

/// The file of `-pidfile`, locked while this VM runs, removed at its end (see [`OwnName`]).
struct PidFile {
    _name: OwnName,
    _file: File,
}

impl PidFile {
    fn create(path: &PathBuf) -> Result<PidFile, Fail> {
        let fail = |why: String| Fail(format!("-pidfile {}: {why}", path.display()));
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|e| fail(reason(&e)))?;
        if let Err(std::fs::TryLockError::WouldBlock) = file.try_lock() {
            return Err(fail("in use by another process".to_owned()));
        }
        file.set_len(0).map_err(|e| fail(reason(&e)))?;
        writeln!(file, "{}", std::process::id()).map_err(|e| fail(reason(&e)))?;
        // What a link leads to: the link is the user's.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        Ok(PidFile { _name: OwnName::new(&path).map_err(|e| fail(reason(&e)))?, _file: file })
    }
}
