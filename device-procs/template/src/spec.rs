//! Registers of the example countdown (there is no data sheet: this page is it).
//!
//! | offset | name | access | meaning |
//! |---|---|---|---|
//! | 0 | COUNT | RW | write n: start n microseconds, 0 stops; read: whole microseconds left |
//! | 1 | STATUS | R, W1C | bit 0 DONE: the countdown has ended; writing 1 clears it |

/// Countdown, RW.
pub const COUNT: u64 = 0;
/// Status, W1C.
pub const STATUS: u64 = 1;
/// STATUS bit: the countdown has ended. Drives the line.
pub const DONE: u8 = 1 << 0;
/// Nanoseconds of one count.
pub const TICK_NS: u64 = 1_000;
