//! Machine tables: which devices a machine has, where their registers lie, what their lines are wired to. Data only.

use bulkhead_bus::messages::{Chipset, PciTemplate, Space, Wire};

pub mod isapc;
pub mod pc;

/// One region of a device: region number of its description, where, first address, bytes.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Region number.
    pub region: u8,
    /// Offset in the region of the first byte.
    pub offset: u32,
    /// Address space.
    pub space: Space,
    /// First address; 0 for a BAR.
    pub base: u64,
    /// Bytes.
    pub size: u64,
}

/// A region of I/O ports.
pub const fn ports(region: u8, base: u16, size: u16) -> Place {
    Place { region, offset: 0, space: Space::Port, base: base as u64, size: size as u64 }
}

/// A region of guest-physical memory.
pub const fn memory(region: u8, base: u64, size: u64) -> Place {
    Place { region, offset: 0, space: Space::Mmio, base, size }
}

/// Large memory of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bulk {
    /// None.
    None,
    /// Zeroed, of this size, behind this memory BAR of the device's PCI function if any.
    Zeroed(u64, Option<u8>),
    /// Firmware items, filled in by the broker before start.
    Firmware,
}

/// One device of a machine.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    /// Instance: `serial0`. The process is `bh-serial0`.
    pub name: &'static str,
    /// Role: jail policy and kind of configuration.
    pub role: &'static str,
    /// Program.
    pub program: &'static str,
    /// When the machine has it.
    pub when: When,
    /// Registers.
    pub places: &'static [Place],
    /// Output lines: number and target.
    pub wires: &'static [(u8, Wire)],
    /// PCI function.
    pub function: Option<(u8, PciTemplate)>,
    /// Bus master: guest RAM is mapped.
    pub master: bool,
    /// Large memory.
    pub bulk: Bulk,
}

/// Condition for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Always.
    Always,
    /// A character device was given to the port of its name.
    Given,
    /// A VGA card was asked for.
    Vga,
}

/// A machine.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// What the CPU process builds around the CPU.
    pub chipset: Chipset,
    /// Devices.
    pub devices: &'static [Device],
    /// System firmware by order of preference.
    pub bios: &'static [&'static str],
    /// Video firmware.
    pub vga_bios: &'static str,
    /// Name of the video firmware as a firmware file for the system firmware; `None` when it is the card's expansion ROM.
    pub vga_bios_file: Option<&'static str>,
}

/// Devices that both machines have at the same place.
pub mod standard {
    use super::{Bulk, Device, When, Wire, memory, ports};

    const fn serial(
        name: &'static str,
        places: &'static [super::Place],
        wires: &'static [(u8, Wire)],
    ) -> Device {
        Device {
            name,
            role: "serial",
            program: "bh-serial",
            when: When::Given,
            places,
            wires,
            function: None,
            master: false,
            bulk: Bulk::None,
        }
    }

    /// COM1.
    pub const SERIAL0: Device = serial("serial0", &[ports(0, 0x3f8, 8)], &[(0, Wire::Isa(4))]);
    /// COM2.
    pub const SERIAL1: Device = serial("serial1", &[ports(0, 0x2f8, 8)], &[(0, Wire::Isa(3))]);
    /// COM3.
    pub const SERIAL2: Device = serial("serial2", &[ports(0, 0x3e8, 8)], &[(0, Wire::Isa(4))]);
    /// COM4.
    pub const SERIAL3: Device = serial("serial3", &[ports(0, 0x2e8, 8)], &[(0, Wire::Isa(3))]);

    const fn parallel(name: &'static str, places: &'static [super::Place]) -> Device {
        let wires = &[(0, Wire::Isa(7))];
        Device { role: "parallel", program: "bh-parallel", ..serial(name, places, wires) }
    }

    /// Parallel port at 378h. All share IRQ 7, as with QEMU.
    pub const PARALLEL0: Device = parallel("parallel0", &[ports(0, 0x378, 3)]);
    /// Parallel port at 278h.
    pub const PARALLEL1: Device = parallel("parallel1", &[ports(0, 0x278, 3)]);
    /// Parallel port at 3BCh: has to lie over the ports of the VGA, so it comes later in a machine's list.
    pub const PARALLEL2: Device = parallel("parallel2", &[ports(0, 0x3bc, 3)]);

    /// Real-time clock and CMOS memory.
    pub const RTC: Device = Device {
        name: "rtc",
        role: "rtc",
        program: "bh-rtc",
        when: When::Always,
        places: &[ports(0, 0x70, 2)],
        wires: &[(0, Wire::Isa(8))],
        function: None,
        master: false,
        bulk: Bulk::None,
    };

    /// Keyboard controller: IRQ 1 and 12, A20, reset.
    pub const I8042: Device = Device {
        name: "i8042",
        role: "i8042",
        program: "bh-i8042",
        when: When::Always,
        places: &[ports(0, 0x60, 1), ports(1, 0x64, 1)],
        wires: &[(0, Wire::Isa(1)), (1, Wire::Isa(12)), (2, Wire::A20), (3, Wire::Reset)],
        function: None,
        master: false,
        bulk: Bulk::None,
    };

    /// System control port A.
    pub const PORT92: Device = Device {
        name: "port92",
        role: "port92",
        program: "bh-port92",
        when: When::Always,
        places: &[ports(0, 0x92, 1)],
        wires: &[(0, Wire::A20), (1, Wire::Reset)],
        function: None,
        master: false,
        bulk: Bulk::None,
    };

    /// The 8237 pair and its page registers (0x92 belongs to port A).
    pub const DMA: Device = Device {
        name: "dma",
        role: "dma",
        program: "bh-dma",
        when: When::Always,
        places: &[ports(0, 0x00, 0x10), ports(1, 0x80, 0x10), ports(2, 0xc0, 0x20)],
        wires: &[],
        function: None,
        master: false,
        bulk: Bulk::None,
    };

    /// Firmware configuration.
    pub const FWCFG: Device = Device {
        name: "fwcfg",
        role: "fwcfg",
        program: "bh-fwcfg",
        when: When::Always,
        places: &[ports(0, 0x510, 0x0c)],
        wires: &[],
        function: None,
        master: true,
        bulk: Bulk::Firmware,
    };

    /// Debug ports of the Bochs BIOS; isa-debug-exit is placed by its option.
    pub const DEBUGPORTS: Device = Device {
        name: "debugports",
        role: "debugports",
        program: "bh-debugports",
        when: When::Always,
        places: &[ports(0, 0x402, 1), ports(1, 0x403, 1), ports(2, 0x500, 1), ports(3, 0x8900, 1)],
        wires: &[(0, Wire::PowerOff), (1, Wire::Exit)],
        function: None,
        master: false,
        bulk: Bulk::None,
    };

    /// Region of isa-debug-exit in [`DEBUGPORTS`].
    pub const DEBUG_EXIT_REGION: u8 = 4;

    /// Bytes of display memory.
    pub const VRAM_BYTES: u64 = 16 << 20;

    /// VGA registers and legacy window.
    pub const VGA_PLACES: [super::Place; 3] =
        [ports(0, 0x3b0, 0x30), ports(1, 0x1ce, 4), memory(2, 0xa_0000, 0x2_0000)];
}
