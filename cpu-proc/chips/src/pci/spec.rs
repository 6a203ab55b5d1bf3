//! PCI Local Bus Specification, revision 2.1, chapter 6 (configuration space) and 3.2.2.3 (configuration mechanism 1).

/// Vendor and device.
pub const VENDOR: u8 = 0x00;
/// Command.
pub const COMMAND: u8 = 0x04;
/// Status.
pub const STATUS: u8 = 0x06;
/// Revision; the class code follows in three bytes.
pub const REVISION: u8 = 0x08;
/// Cache line size.
pub const CACHE_LINE: u8 = 0x0c;
/// Latency timer.
pub const LATENCY: u8 = 0x0d;
/// Header type.
pub const HEADER_TYPE: u8 = 0x0e;
/// First base address register.
pub const BAR0: u8 = 0x10;
/// Subsystem vendor and id.
pub const SUBSYSTEM: u8 = 0x2c;
/// Expansion ROM base address.
pub const ROM: u8 = 0x30;
/// Interrupt line.
pub const INTERRUPT_LINE: u8 = 0x3c;
/// Interrupt pin.
pub const INTERRUPT_PIN: u8 = 0x3d;
/// First byte that belongs to the device.
pub const DEVICE_SPACE: u8 = 0x40;

/// Command: answers I/O.
pub const COMMAND_IO: u16 = 1 << 0;
/// Command: answers memory.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Command: may be bus master.
pub const COMMAND_MASTER: u16 = 1 << 2;
/// Command: INTx off (PCI 2.3).
pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// Command bits that can be written: I/O, memory, master, parity, SERR, INTx off.
pub const COMMAND_WRITABLE: u16 = 0x0547;
/// Status bits cleared by writing one.
pub const STATUS_W1C: u16 = 0xf900;
/// Status: INTx asserted (PCI 2.3).
pub const STATUS_INTX: u8 = 1 << 3;

/// BAR: I/O.
pub const BAR_IO: u32 = 1;
/// BAR: prefetchable memory.
pub const BAR_PREFETCH: u32 = 8;
/// ROM BAR: enabled.
pub const ROM_ENABLE: u32 = 1;

/// Configuration address port (dword only).
pub const CONFIG_ADDRESS: u16 = 0xcf8;
/// First configuration data port.
pub const CONFIG_DATA: u16 = 0xcfc;
/// Configuration address: enable.
pub const CONFIG_ENABLE: u32 = 1 << 31;
/// Configuration address: bits that are kept.
pub const CONFIG_BITS: u32 = 0x80ff_fffc;
