//! Start-up: from the manifest to a CPU ready to run, inside the jail.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32};

use bulkhead_bus::bell::{BELL_BYTES, Bell};
use bulkhead_bus::clock::{CLOCK_BYTES, Clock};
use bulkhead_bus::device::{DEVICE_BYTES, DevicePort};
use bulkhead_bus::manifest::fd;
use bulkhead_bus::messages::{Chipset, CpuConfig, PciTemplate, Space};
use bulkhead_bus::ram::{CodeMap, code_map_bytes};
use bulkhead_bus::serve::{self, StartError};
use bulkhead_bus::wire;
use bulkhead_chips::acpipm::Resources;
use bulkhead_chips::board::{Board, BoardConfig};
use bulkhead_chips::{pci, piix3};
use bulkhead_engine::{Code, Engine, Machine};
use bulkhead_x86::{Config, Cpu, cpuid};

use crate::Vm;
use crate::alarm;
use crate::control::Control;
use crate::cpus::{Cpus, Vcpu};
use crate::log::Log;
use crate::machine::Pc;
use crate::physmap::PhysMap;
use crate::ports::Devices;
use crate::shared::{Layout, MEANWHILE, Parts, Shared};
use crate::time::GuestTime;

fn refused(error: impl std::fmt::Display) -> StartError {
    StartError::Refused(error.to_string())
}

/// Builds everything and enters the jail.
pub fn start() -> Result<Vm, StartError> {
    let manifest = serve::manifest()?;
    let config: CpuConfig = wire::decode(&manifest.config).map_err(refused)?;
    let cpus = usize::try_from(config.cpus).unwrap_or(usize::MAX).clamp(1, 255);
    let irq = manifest.irq_page()?;
    if cpus > 1 {
        irq.cpu_bell().share();
    }
    let clock = Clock::new(manifest.map(fd::CLOCK, CLOCK_BYTES, false)?);
    let clock = Arc::new(GuestTime::new(clock, config.icount));
    // Without an interrupt page here: the CPU's own stores need no code bitmap, its TLB sees them.
    let ram = manifest.guest_ram(None)?;
    let code = CodeMap::new(
        manifest.map(fd::CODE, code_map_bytes(manifest.ram_bytes) as usize, true)?,
        manifest.ram_bytes,
    );
    let tracer = manifest.tracer()?;
    let mut ports = Vec::new();
    for index in 0..config.devices.len() {
        let name = format!("device{index}");
        let bell = Bell::new(manifest.map(&format!("{name}-bell"), BELL_BYTES, true)?);
        let port = DevicePort::new(manifest.map(&name, DEVICE_BYTES, true)?, bell, irq.clone());
        let port = port.traced(tracer.for_device(index));
        ports.push(if cpus > 1 { port.with_meanwhile(MEANWHILE) } else { port });
    }
    let mut memories = Vec::new();
    for bulk in &config.bulks {
        memories.push(manifest.map(&format!("bulk{}", bulk.device), bulk.size as usize, true)?);
    }
    let mut bios = Vec::new();
    let mut roms = Vec::new();
    for (index, rom) in config.roms.iter().enumerate() {
        let mapping = manifest.map(&format!("rom{index}"), rom.size as usize, false)?;
        if rom.bios {
            bios = vec![0; rom.size as usize];
            let _ = mapping.read(0, &mut bios);
        } else if let Some(function) =
            config.functions.iter().find(|function| function.rom == Some(index as u32))
        {
            roms.push((function.devfn, memories.len()));
            memories.push(mapping);
        }
    }
    let model = match (config.model.as_str(), config.long_mode) {
        ("", true) => "qemu64",
        ("", false) => "qemu32",
        (name, _) => name,
    };
    let choice = cpuid::parse(model).map_err(|refusal| refused(format!("-cpu {model}: {refusal:?}")))?;
    let board = board(&config, choice.has_tsc_deadline())?;
    let mut phys = PhysMap::new(ram, &bios, memories).map_err(refused)?;
    if config.chipset == Chipset::Isa {
        phys.keep_firmware_in_ram();
    }
    let devices = Devices::new(ports, clock.clone());
    let pipe = manifest.descriptor("log").is_some().then(|| manifest.take("log")).transpose()?;
    let mut keep: Vec<i32> = pipe.iter().map(AsRawFd::as_raw_fd).collect();
    let log = Log::new(pipe, &config.log_items);
    let mask = log.mask();
    let waiting = Arc::new(AtomicBool::new(false));
    // All memory that will ever be executable is made before the jail, here and with the engines.
    let compiled = Code::new(CODE_BYTES, cpus).map_err(refused)?;
    let parts = Parts {
        board,
        devices,
        clock,
        irq: irq.clone(),
        phys,
        log,
        code,
        compiled: compiled.clone(),
        message_waits: waiting.clone(),
    };
    let layout = Layout {
        regions: config.regions.clone(),
        wires: config.wires.clone(),
        bulks: config.bulks.clone(),
        roms,
    };
    let shared = Shared::new(parts, layout, cpus);
    let mut all = Vec::new();
    for number in 0..cpus {
        let mut pc = Box::new(Pc::new(number, shared.clone(), tracer.clone()));
        let machine: *mut dyn Machine = &raw mut *pc;
        let word = if number == 0 { irq.attention() } else { &NO_ATTENTION };
        let part = Config { apic_id: number as u32, cpus: cpus as u32, ..Config::from(&choice) };
        // SAFETY: the machine is boxed and lives as long as the process, as do the interrupt page and the constant; the thread that
        // runs the CPU uses them, and another one only while that stands.
        let mut cpu = unsafe { Cpu::boxed(part, machine, word) };
        let mut engine = Engine::sharing(&compiled, number).map_err(refused)?;
        engine.single_step = config.single_step;
        engine.attach(&mut cpu.core);
        // SAFETY: boxed and never dropped, and used by the thread that runs the CPU; by another one only while all stand.
        unsafe { compiled.join(number, &cpu.core) };
        cpu.core.log = mask;
        if let Some(counted) = shared.clock.counted() {
            bulkhead_engine::count::start(&mut cpu.core);
            // SAFETY: boxed and never dropped.
            unsafe { counted.count_with(&raw const cpu.core.counter) };
        }
        shared.connect(number, &raw const cpu.core.attention);
        all.push(Vcpu { cpu, pc });
    }
    let machine = shared.clone();
    alarm::rouse(Box::new(move |cpu| machine.rouse(cpu)));
    let socket = manifest.take(fd::CONTROL)?;
    keep.push(socket.as_raw_fd());
    // The other threads inherit the confinement and get the filter with everybody else.
    let confined = bulkhead_security::confine(&keep, manifest.terms()).map_err(StartError::Refused)?;
    tracer.resume();
    let control = Control::new(socket, irq, waiting).map_err(refused)?;
    let cpus = Cpus::start(all, shared.clone()).map_err(refused)?;
    confined.seal(&manifest.role).map_err(StartError::Refused)?;
    Ok(Vm {
        cpus,
        shared,
        control,
        running: false,
        no_reboot: config.no_reboot,
        resetting: false,
        faulted: false,
    })
}

/// The word that polls of the vCPUs besides the first look at until somebody insists: nobody outside calls them.
static NO_ATTENTION: AtomicU32 = AtomicU32::new(0);

/// Size of the buffer for compiled code, of however many vCPUs. A Linux guest that has booted fills a third of it.
const CODE_BYTES: usize = 64 << 20;

fn board(config: &CpuConfig, deadline: bool) -> Result<Board, StartError> {
    let cpus = u8::try_from(config.cpus).map_err(refused)?;
    let mut parts = match config.chipset {
        Chipset::I440fx => BoardConfig::pc(cpus),
        Chipset::Isa => BoardConfig::isapc(cpus),
    };
    parts.deadline = deadline;
    parts.hpet &= !config.no_hpet;
    parts.acpi &= !config.no_acpi;
    // The firmware's ACPI tables name the ports that the power management function reports.
    let carries =
        |port: u64| config.regions.iter().any(|region| region.space == Space::Port && region.base == port);
    parts.resources = Resources { lpt1: carries(0x378), com1: carries(0x3f8), com2: carries(0x2f8) };
    let mut board = Board::new(parts);
    for function in &config.functions {
        let rom = function.rom.and_then(|index| config.roms.get(index as usize)).map_or(0, |rom| rom.size);
        let template = match function.template {
            PciTemplate::Piix3Ide => piix3::ide(),
            PciTemplate::StdVga => {
                let vram = config
                    .bulks
                    .iter()
                    .find(|bulk| bulk.device == function.device)
                    .map_or(0, |bulk| bulk.size);
                let rom = rom.next_power_of_two();
                pci::standard_vga(function.devfn, vram as u32, if rom == 1 { 0 } else { rom as u32 })
            }
        };
        board.add_function(template).map_err(refused)?;
    }
    Ok(board)
}
