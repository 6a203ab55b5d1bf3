//! Intel 82093AA I/O Advanced Programmable Interrupt Controller, order 290566-001.

/// Physical address of the register window.
pub const BASE: u64 = 0xfec0_0000;
/// Size of the window.
pub const SIZE: u64 = 0x1000;
/// Inputs.
pub const PINS: usize = 24;

/// Index of the indirect register (IOREGSEL).
pub const IOREGSEL: u16 = 0x00;
/// Data of the indirect register (IOWIN).
pub const IOWIN: u16 = 0x10;

/// Id, bits 27:24.
pub const ID: u8 = 0x00;
/// Version and highest entry (RO).
pub const VERSION: u8 = 0x01;
/// Arbitration id (RO).
pub const ARBITRATION: u8 = 0x02;
/// First word of the redirection table.
pub const REDIRECTION: u8 = 0x10;

/// Version 11h, 24 entries.
pub const VERSION_VALUE: u32 = 0x0017_0011;

/// Redirection entry: logical destination.
pub const LOGICAL: u64 = 1 << 11;
/// Redirection entry: remote IRR (RO).
pub const REMOTE_IRR: u64 = 1 << 14;
/// Redirection entry: level triggered.
pub const LEVEL: u64 = 1 << 15;
/// Redirection entry: masked.
pub const MASKED: u64 = 1 << 16;
/// Bits of the low word that can be written.
pub const LOW_WRITABLE: u64 = 0x0001_afff;
/// Bits of the high word that can be written (destination).
pub const HIGH_WRITABLE: u64 = 0xff00_0000_0000_0000;
