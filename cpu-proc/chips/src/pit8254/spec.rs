//! Intel 8254 Programmable Interval Timer, order 231164-005; port 61h from Intel 82371FB/SB, 290550-002, "NMI status and control".

/// Input clock in Hz: 14.31818 MHz / 12.
pub const FREQUENCY: u64 = 1_193_182;
/// Counter 0 data port.
pub const COUNTER0: u16 = 0x40;
/// Counter 2 data port.
pub const COUNTER2: u16 = 0x42;
/// Control word port (write only).
pub const CONTROL: u16 = 0x43;
/// NMI status and control: speaker, gate 2, refresh, OUT2.
pub const PORT_B: u16 = 0x61;

/// Control word: the read-back command in the counter-select bits.
pub const READ_BACK: u8 = 3;
/// Read-back: do not latch the count.
pub const NOT_COUNT: u8 = 0x20;
/// Read-back: do not latch the status.
pub const NOT_STATUS: u8 = 0x10;

/// Status byte: OUT.
pub const STATUS_OUT: u8 = 0x80;
/// Status byte: null count.
pub const STATUS_NULL: u8 = 0x40;

/// Port 61h: gate of counter 2.
pub const GATE2: u8 = 0x01;
/// Port 61h: speaker data enable.
pub const SPEAKER: u8 = 0x02;
/// Port 61h: bits that can be written (gate, speaker, parity and channel-check disables).
pub const PORT_B_WRITABLE: u8 = 0x0f;
/// Port 61h: refresh cycle toggle.
pub const REFRESH: u8 = 0x10;
/// Port 61h: OUT2.
pub const OUT2: u8 = 0x20;
/// Nanoseconds between two changes of the refresh bit: 18 ticks of counter 1.
pub const REFRESH_PERIOD: u64 = 15_085;
