//! IA-PC HPET (High Precision Event Timers) Specification, revision 1.0a.

/// Physical address of the register block.
pub const BASE: u64 = 0xfed0_0000;
/// Size of the register block.
pub const SIZE: u64 = 0x400;
/// Timers.
pub const TIMERS: usize = 3;
/// Nanoseconds of one count (100 MHz).
pub const PERIOD_NS: u64 = 10;

/// General capabilities: period of 10,000,000 fs, vendor 8086h, legacy replacement, 64 bits, three timers, revision 1.
pub const CAPABILITIES: u64 = 10_000_000 << 32 | 0x8086_a201;

/// General capabilities and id (RO).
pub const GCAP_ID: u16 = 0x000;
/// General configuration.
pub const GEN_CONF: u16 = 0x010;
/// General interrupt status (W1C).
pub const GINTR_STA: u16 = 0x020;
/// Main counter.
pub const MAIN_CNT: u16 = 0x0f0;
/// First timer's block; each takes 20h bytes.
pub const TIMER: u16 = 0x100;

/// General configuration: the counter runs, interrupts are allowed.
pub const ENABLE: u64 = 1 << 0;
/// General configuration: timer 0 is IRQ 0, timer 1 is IRQ 8.
pub const LEGACY: u64 = 1 << 1;

/// Timer configuration: level triggered.
pub const LEVEL: u64 = 1 << 1;
/// Timer configuration: interrupt enable.
pub const INT_ENABLE: u64 = 1 << 2;
/// Timer configuration: periodic.
pub const PERIODIC: u64 = 1 << 3;
/// Timer configuration: periodic mode exists (RO).
pub const PERIODIC_CAP: u64 = 1 << 4;
/// Timer configuration: 64 bits wide (RO).
pub const SIZE_CAP: u64 = 1 << 5;
/// Timer configuration: the next comparator write sets the comparator itself (WO).
pub const VALUE_SET: u64 = 1 << 6;
/// Timer configuration: forced to 32 bits.
pub const MODE32: u64 = 1 << 8;
/// Timer configuration: lowest bit of the five of the IOAPIC input.
pub const ROUTE_SHIFT: u32 = 9;
/// Timer configuration: bits that can be written.
pub const WRITABLE: u64 = LEVEL | INT_ENABLE | PERIODIC | VALUE_SET | MODE32 | 0x1f << ROUTE_SHIFT;
/// IOAPIC inputs a timer may use: 2, the only one that the PC's board wires.
pub const ROUTES: u64 = 0x04;
