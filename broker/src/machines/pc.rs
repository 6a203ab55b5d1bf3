//! `-M pc`: 82441FX and PIIX3, PCI.

use bulkhead_bus::messages::{Chipset, PciTemplate, Space, Wire};

use super::standard::{
    DEBUGPORTS, DMA, FWCFG, I8042, PARALLEL0, PARALLEL1, PARALLEL2, PORT92, RTC, SERIAL0, SERIAL1, SERIAL2,
    SERIAL3, VGA_PLACES, VRAM_BYTES,
};
use super::{Bulk, Device, Machine, Place, When, ports};

/// PIIX3 function 1.
const IDE_DEVFN: u8 = 1 << 3 | 1;
/// Device 2, where the standard VGA sits.
const VGA_DEVFN: u8 = 2 << 3;

const IDE: Device = Device {
    name: "ide0",
    role: "ide",
    program: "bh-ide",
    when: When::Always,
    places: &[
        ports(0, 0x1f0, 8),
        ports(1, 0x3f6, 1),
        ports(2, 0x170, 8),
        ports(3, 0x376, 1),
        Place { region: 4, offset: 0, space: Space::PortBar { devfn: IDE_DEVFN, bar: 4 }, base: 0, size: 16 },
    ],
    wires: &[(0, Wire::Isa(14)), (1, Wire::Isa(15))],
    function: Some((IDE_DEVFN, PciTemplate::Piix3Ide)),
    master: true,
    bulk: Bulk::None,
};

const VGA: Device = Device {
    name: "vga",
    role: "vga",
    program: "bh-vga",
    when: When::Vga,
    places: &[
        VGA_PLACES[0],
        VGA_PLACES[1],
        VGA_PLACES[2],
        Place {
            region: 3,
            offset: 0,
            space: Space::MemoryBar { devfn: VGA_DEVFN, bar: 2 },
            base: 0,
            size: 4096,
        },
    ],
    wires: &[],
    function: Some((VGA_DEVFN, PciTemplate::StdVga)),
    master: false,
    bulk: Bulk::Zeroed(VRAM_BYTES, Some(0)),
};

/// The machine.
pub const PC: Machine = Machine {
    chipset: Chipset::I440fx,
    devices: &[
        SERIAL0, SERIAL1, SERIAL2, SERIAL3, RTC, I8042, PORT92, DMA, FWCFG, DEBUGPORTS, IDE, VGA, PARALLEL0,
        PARALLEL1, PARALLEL2,
    ],
    bios: &["bios-256k.bin", "bios.bin"],
    vga_bios: "vgabios-stdvga.bin",
    vga_bios_file: None,
};
