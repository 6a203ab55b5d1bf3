//! `-M isapc`: an ISA-only PC.

use bulkhead_bus::messages::{Chipset, Wire};

use super::standard::{
    DEBUGPORTS, DMA, FWCFG, I8042, PARALLEL0, PARALLEL1, PARALLEL2, PORT92, RTC, SERIAL0, SERIAL1, SERIAL2,
    SERIAL3, VGA_PLACES, VRAM_BYTES,
};
use super::{Bulk, Device, Machine, When, ports};

const IDE: Device = Device {
    name: "ide0",
    role: "ide",
    program: "bh-ide",
    when: When::Always,
    places: &[ports(0, 0x1f0, 8), ports(1, 0x3f6, 1), ports(2, 0x170, 8), ports(3, 0x376, 1)],
    wires: &[(0, Wire::Isa(14)), (1, Wire::Isa(15))],
    function: None,
    master: false,
    bulk: Bulk::None,
};

const VGA: Device = Device {
    name: "vga",
    role: "vga",
    program: "bh-vga",
    when: When::Vga,
    places: &VGA_PLACES,
    wires: &[],
    function: None,
    master: false,
    bulk: Bulk::Zeroed(VRAM_BYTES, None),
};

/// The machine.
pub const ISAPC: Machine = Machine {
    chipset: Chipset::Isa,
    devices: &[
        SERIAL0, SERIAL1, SERIAL2, SERIAL3, RTC, I8042, PORT92, DMA, FWCFG, DEBUGPORTS, IDE, VGA, PARALLEL0,
        PARALLEL1, PARALLEL2,
    ],
    bios: &["bios.bin", "bios-256k.bin"],
    vga_bios: "vgabios-isavga.bin",
    vga_bios_file: Some("vgaroms/vgabios.bin"),
};
