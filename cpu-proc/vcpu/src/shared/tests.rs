use super::*;
use crate::machine::Pc;
use bulkhead_bus::bell::{BELL_BYTES, Bell};
use bulkhead_bus::chip::Class;
use bulkhead_bus::clock::{CLOCK_BYTES, Clock};
use bulkhead_bus::device::{DEVICE_BYTES, DevicePort, REGION_TABLE};
use bulkhead_bus::irq::IRQ_BYTES;
use bulkhead_bus::ram::{GuestRam, code_map_bytes};
use bulkhead_bus::sys::Mapping;
use bulkhead_bus::trace::Tracer;
use bulkhead_chips::board::BoardConfig;
use bulkhead_chips::pci::standard_vga;
use bulkhead_engine::{Machine, Page};

const RAM: u64 = 1 << 20;
const FRAMES: u64 = 16 << 20;
/// Port of the one device: reads are mirrored, writes posted.
const DEVICE: u16 = 0x60;
/// What it reads as.
const VALUE: u8 = 0x5a;

fn memory(len: u64) -> Mapping {
    Mapping::anonymous(len as usize).expect("memory")
}

/// The file of a device with one region of one byte (see the layout in `bulkhead_bus::device`).
fn device_file() -> Mapping {
    let file = memory(DEVICE_BYTES as u64);
    let words = [1, 0, 1, 0, 0, 1, Class::Mirror as u32, Class::Posted as u32];
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    assert!(file.write(0x008, &1u32.to_le_bytes()) && file.write(REGION_TABLE, &bytes));
    assert!(file.write(0xe100, &[VALUE]));
    file
}

/// A machine of two vCPUs, whose time stands, with that device and a display.
fn machine() -> Arc<Shared> {
    let bell = || Bell::new(memory(BELL_BYTES as u64));
    let irq = Arc::new(IrqPage::new(memory(IRQ_BYTES as u64), bell()));
    let clock = Arc::new(GuestTime::new(Clock::new(memory(CLOCK_BYTES as u64)), None));
    let mut board = Board::new(BoardConfig::pc(2));
    board.add_function(standard_vga(0x10, FRAMES as u32, 0)).expect("a free place");
    let port = DevicePort::new(device_file(), bell(), irq.clone());
    let parts = Parts {
        board,
        devices: Devices::new(vec![port], clock.clone()),
        clock,
        irq,
        phys: PhysMap::new(GuestRam::new(memory(RAM), None), &[0; 0x2_0000], vec![memory(FRAMES)])
            .expect("memory"),
        log: Log::new(None, &[]),
        code: CodeMap::new(memory(code_map_bytes(RAM)), RAM),
        compiled: Code::new(1 << 20, 2).expect("memory for code"),
        message_waits: Arc::default(),
    };
    let region =
        RegionMap { device: 0, region: 0, offset: 0, space: Space::Port, base: DEVICE.into(), size: 1 };
    let layout = Layout {
        regions: vec![region],
        wires: Vec::new(),
        bulks: vec![BulkMap { device: 0, devfn: 0x10, bar: 0, size: FRAMES }],
        roms: Vec::new(),
    };
    Shared::new(parts, layout, 2)
}

fn vcpu(shared: &Arc<Shared>) -> Pc {
    Pc::new(0, shared.clone(), Tracer::off())
}

#[test]
fn a_wide_access_reaches_the_chip_behind_a_device() {
    let shared = machine();
    let mut pc = vcpu(&shared);
    let chip = pc.port_read(DEVICE + 1, 1);
    assert_eq!(pc.port_read(DEVICE, 2), chip << 8 | u32::from(VALUE));
    pc.port_write(DEVICE, 2, 0x0311);
    assert_eq!(pc.port_read(DEVICE + 1, 1) & 3, 3);
    assert!(shared.devices.has_posted());
}

#[test]
fn a_bell_that_could_not_be_rung_stays_due() {
    let shared = machine();
    let mut pc = vcpu(&shared);
    let due = || shared.chips().bell_due[0];
    pc.port_write(DEVICE, 1, 0);
    assert!(due().is_some());
    let map = lock(&shared.map).clone();
    let another = shared.devices.unit(&map.ports, DEVICE.into(), 0);
    assert!(another.is_some());
    assert!(!shared.interrupt_pending(0));
    assert!(shared.devices.has_posted() && due().is_some());
    drop(another);
    assert!(!shared.interrupt_pending(0));
    assert!(!shared.devices.has_posted() && due().is_none());
}

#[test]
fn chips_lie_over_a_window() {
    let shared = machine();
    let mut pc = vcpu(&shared);
    let mut config = |offset: u32, value| {
        pc.port_write(0xcf8, 4, 0x8000_1000 | offset);
        pc.port_write(0xcfc, 4, value);
    };
    config(0x10, 0xfe00_0000);
    config(0x04, 2);
    for (gpa, chip) in [(0xfebf_f000, false), (0xfec0_0000, true), (0xfec0_1000, false), (0xfed0_0000, true)]
    {
        assert_eq!(matches!(pc.page(gpa), Page::Device), chip, "{gpa:#x}");
    }
}
