//! Messages between the broker and the CPU process, and the CPU process's start-up configuration.
//!
//! They travel over the `control` descriptor, one end of a `SOCK_SEQPACKET` socket pair: one [`crate::wire`] message a packet, at
//! most [`PACKET_MAX`] bytes. [`CpuConfig`] is the `config` of the CPU process's manifest.
//!
//! Descriptors in that manifest, besides `irq`, `cpu-bell`, `clock`, `ram`, `code` and `control`: `device0`, `device0-bell`, `device1`, ...
//! (device files and their bells; the number is the device's index in every table here and its source number in the interrupt
//! page), `bulkN` when device N has a [`BulkMap`], `rom0`, ... ([`RomImage`]s, sealed read-only memfds), and `log`: the write
//! end of a pipe for `-d` output, which the broker copies to the log file.
//!
//! Life cycle: the broker starts the CPU process when every device is ready. It maps everything, enters its jail, sends
//! [`FromCpu::Ready`] and waits. The broker starts guest time and sends [`ToCpu::Cont`], unless `-S`. To stop, it sends
//! [`ToCpu::Stop`], waits for [`FromCpu::Stopped`], then stops guest time.

use serde::{Deserialize, Serialize};

/// Longest packet in bytes.
pub const PACKET_MAX: usize = 128 << 10;
/// Most bytes that one [`ToCpu::ReadMemory`] may ask for.
pub const READ_MAX: u32 = 64 << 10;

/// What the CPU process builds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuConfig {
    /// `-cpu` as given, empty for the target's default.
    pub model: String,
    /// Whether the target has long mode (`qemu-system-x86_64`).
    pub long_mode: bool,
    /// Number of virtual CPUs, at least 1.
    pub cpus: u32,
    /// Chipset.
    pub chipset: Chipset,
    /// Names of the devices, by index (for messages and `info`).
    pub devices: Vec<String>,
    /// Where each device region lies.
    pub regions: Vec<RegionMap>,
    /// What each device output is wired to.
    pub wires: Vec<WireMap>,
    /// PCI functions that belong to device processes.
    pub functions: Vec<PciFunction>,
    /// Memory that the CPU process maps straight into the guest.
    pub bulks: Vec<BulkMap>,
    /// Read-only memory.
    pub roms: Vec<RomImage>,
    /// No HPET.
    pub no_hpet: bool,
    /// No ACPI power management function.
    pub no_acpi: bool,
    /// A reset by the guest stops the virtual CPUs and reports [`FromCpu::GuestReset`] instead of resetting.
    pub no_reboot: bool,
    /// `-singlestep`: compiled code holds one guest instruction a block.
    pub single_step: bool,
    /// `-icount`: guest time is a count of instructions.
    pub icount: Option<Icount>,
    /// `-rtc-td-hack` and friends change nothing here; `-d` items, known names only.
    pub log_items: Vec<String>,
}

/// How guest time follows from the number of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Icount {
    /// `1 << n` nanoseconds an instruction.
    Shift(u8),
    /// As many as keep guest time close to the host's.
    Auto,
}

/// Chipset on the CPU process's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Chipset {
    /// 82441FX and PIIX3 with PCI, ACPI (PIIX4 PM), IOAPIC.
    I440fx,
    /// No PCI: 8259 pair, 8254, port 61h only.
    Isa,
}

/// Where a region of a device lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionMap {
    /// Device index.
    pub device: u32,
    /// Region number in the device's description.
    pub region: u8,
    /// Offset in the region of the first byte mapped here.
    pub offset: u32,
    /// Address space.
    pub space: Space,
    /// First port or guest-physical address; 0 for a BAR.
    pub base: u64,
    /// Bytes.
    pub size: u64,
}

/// Address space of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Space {
    /// I/O ports.
    Port,
    /// Guest-physical memory.
    Mmio,
    /// Where the guest puts this memory BAR.
    MemoryBar {
        /// Device and function: `device << 3 | function`.
        devfn: u8,
        /// BAR number 0..6.
        bar: u8,
    },
    /// Where the guest puts this I/O BAR.
    PortBar {
        /// Device and function.
        devfn: u8,
        /// BAR number 0..6.
        bar: u8,
    },
}

/// What one output line of a device is wired to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireMap {
    /// Device index.
    pub device: u32,
    /// Line number in the device's description.
    pub line: u8,
    /// Target.
    pub to: Wire,
}

/// Target of an output line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wire {
    /// ISA interrupt 0..16; several sources are or-ed.
    Isa(u8),
    /// Interrupt pin (1 = INTA) of a PCI function.
    PciPin {
        /// Device and function.
        devfn: u8,
        /// 1..=4.
        pin: u8,
    },
    /// Address line 20, level: high lets it through. All such lines are or-ed.
    A20,
    /// A rising edge resets the machine.
    Reset,
    /// A rising edge switches the machine off.
    PowerOff,
    /// A rising edge ends the VM; the line's value becomes part of the exit status.
    Exit,
    /// A rising edge is a non-maskable interrupt.
    Nmi,
}

/// A PCI function behind a device process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciFunction {
    /// Device index.
    pub device: u32,
    /// Device and function.
    pub devfn: u8,
    /// Header.
    pub template: PciTemplate,
    /// Index in [`CpuConfig::roms`] of the expansion ROM (never mapped at start).
    pub rom: Option<u32>,
}

/// Configuration headers that the CPU process knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PciTemplate {
    /// 8086:7010, PIIX3 IDE: BAR4 is the bus master block.
    Piix3Ide,
    /// 1234:1111, standard VGA: BAR0 linear frame buffer, BAR2 registers.
    StdVga,
}

/// A device's bulk memory behind a memory BAR: read and written by the guest without any call of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkMap {
    /// Device index; the memory is descriptor `bulk<index>`.
    pub device: u32,
    /// Device and function.
    pub devfn: u8,
    /// BAR number.
    pub bar: u8,
    /// Bytes, a power of two; also the BAR's size.
    pub size: u64,
}

/// A read-only image in guest memory: descriptor `rom<index>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RomImage {
    /// Bytes, a multiple of 4096.
    pub size: u64,
    /// The system firmware, which ends at 4 GiB; its last up to 128 KiB also appear below 1 MiB, subject to the chipset's shadow
    /// registers. Else the expansion ROM of a PCI function.
    pub bios: bool,
}

/// Broker to CPU process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToCpu {
    /// Stop all virtual CPUs; answered by [`FromCpu::Stopped`], also when they already stand.
    Stop,
    /// Let them run; answered by [`FromCpu::Running`].
    Cont,
    /// Reset the machine: every device, then the CPUs. Keeps running or stopped as it was.
    Reset,
    /// Non-maskable interrupt to this CPU.
    Nmi(u32),
    /// Press the power button (ACPI event).
    PowerButton,
    /// Text or data for the monitor; answered by [`FromCpu::Reply`].
    Query {
        /// Repeated in the reply.
        id: u32,
        /// What.
        what: Query,
    },
    /// Guest memory as CPU `cpu` sees it; answered by [`FromCpu::Reply`] with exactly `len` bytes, or an error.
    ReadMemory {
        /// Repeated in the reply.
        id: u32,
        /// CPU number.
        cpu: u32,
        /// Linear address through the page tables, or guest-physical.
        linear: bool,
        /// First byte.
        addr: u64,
        /// Bytes, at most [`READ_MAX`].
        len: u32,
    },
    /// Replace the `-d` items.
    Log(Vec<String>),
    /// One guest instruction a block, or as many as fit.
    SingleStep(bool),
    /// End the process with status 0.
    Quit,
}

/// Things that the monitor asks of the CPU process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// `info registers` of a CPU: text.
    Registers(u32),
    /// Register values of a CPU for expressions: a wire-encoded `Vec<(String, u64)>` with lower-case names without `$`
    /// (`eax`, `rax`, `eip`, `eflags`, `cs`, `cr0`, ...); `pc` is the linear address of the next instruction.
    RegisterValues(u32),
    /// `info cpus`: text. The CPU of this number is marked as the monitor's.
    Cpus(u32),
    /// `info pic`: text.
    Pic,
    /// `info pci`: text.
    Pci,
    /// `info irq`: text.
    Irq,
    /// `info hpet`: text.
    Hpet,
    /// `info jit`: text.
    Jit,
    /// `info profile`: text.
    Profile,
    /// Code size of CPU `n` in bits (16, 32, 64) as one byte, for `x/i`.
    CodeSize(u32),
}

/// CPU process to broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromCpu {
    /// Set up and jailed.
    Ready,
    /// The virtual CPUs stand.
    Stopped,
    /// The virtual CPUs run.
    Running,
    /// Answer.
    Reply {
        /// Of the request.
        id: u32,
        /// Bytes (text is UTF-8), or a one-line reason.
        result: Result<Vec<u8>, String>,
    },
    /// The guest reset the machine. The CPUs now stand: with [`CpuConfig::no_reboot`] for good, else until [`ToCpu::Reset`].
    GuestReset,
    /// The guest switched the machine off; the CPUs stand.
    PowerOff,
    /// The guest asked for the end of the VM by writing this value to isa-debug-exit; the CPUs stand.
    Exit(u32),
    /// Something that the user must see on standard error; the VM goes on.
    Note(String),
    /// The engine cannot go on (a fault of ours, never the guest's); the CPUs stand.
    Fatal(String),
    /// This processor is shared with devices that the CPU waits for: better any other, see [`crate::placement`].
    Crowded(u32),
}
