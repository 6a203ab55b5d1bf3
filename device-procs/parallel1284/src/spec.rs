//! Registers of the standard parallel port, after Standard Microsystems "FDC37C665GT/666GT" (1996), section "Parallel port", and the IBM
//! "Personal Computer AT Technical Reference" (1984); the signals are those of IEEE 1284-1994, compatibility mode.

/// Data latch (RW); the pins while CONTROL_DIRECTION.
pub const DATA: u64 = 0;
/// Status, RO.
pub const STATUS: u64 = 1;
/// Control, RW.
pub const CONTROL: u64 = 2;
/// Registers of the port.
pub const REGISTERS: u32 = 3;

/// Status: time-out of an EPP cycle, on ports that have EPP.
pub const STATUS_TIMEOUT: u8 = 1 << 0;
/// Status: nFault, high: no error.
pub const STATUS_NO_ERROR: u8 = 1 << 3;
/// Status: Select, the peripheral is on line.
pub const STATUS_SELECT: u8 = 1 << 4;
/// Status: PError, out of paper.
pub const STATUS_PAPER_END: u8 = 1 << 5;
/// Status: nAck, high between acknowledges.
pub const STATUS_NO_ACK: u8 = 1 << 6;
/// Status: the complement of Busy.
pub const STATUS_READY: u8 = 1 << 7;

/// Control: the complement of nStrobe.
pub const CONTROL_STROBE: u8 = 1 << 0;
/// Control: the complement of nAutoFd.
pub const CONTROL_AUTOFD: u8 = 1 << 1;
/// Control: nInit; low resets the peripheral.
pub const CONTROL_INIT: u8 = 1 << 2;
/// Control: the complement of nSelectIn.
pub const CONTROL_SELECT: u8 = 1 << 3;
/// Control: nAck interrupts.
pub const CONTROL_IRQEN: u8 = 1 << 4;
/// Control: the data pins are inputs.
pub const CONTROL_DIRECTION: u8 = 1 << 5;
/// Control: bits that are kept.
pub const CONTROL_MASK: u8 = 0x3f;
/// Control: bits that do not exist read as ones.
pub const CONTROL_ONES: u8 = 0xc0;
