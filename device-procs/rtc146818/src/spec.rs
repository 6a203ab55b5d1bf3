//! Registers of the MC146818A, after Motorola "MC146818A Real-Time Clock Plus RAM" (1984), and their place in the PC.

/// Port offset of the index register (0x70), WO. Bit 7 is the chipset's NMI mask.
pub const INDEX: u64 = 0;
/// Port offset of the data register (0x71), RW.
pub const DATA: u64 = 1;

/// Seconds.
pub const SECONDS: usize = 0x00;
/// Seconds of the alarm.
pub const SECONDS_ALARM: usize = 0x01;
/// Minutes.
pub const MINUTES: usize = 0x02;
/// Minutes of the alarm.
pub const MINUTES_ALARM: usize = 0x03;
/// Hours.
pub const HOURS: usize = 0x04;
/// Hours of the alarm.
pub const HOURS_ALARM: usize = 0x05;
/// Day of the week, 1 is Sunday.
pub const WEEKDAY: usize = 0x06;
/// Day of the month.
pub const DAY: usize = 0x07;
/// Month.
pub const MONTH: usize = 0x08;
/// Year of the century.
pub const YEAR: usize = 0x09;
/// Register A.
pub const A: usize = 0x0a;
/// Register B.
pub const B: usize = 0x0b;
/// Register C, RO, cleared by a read.
pub const C: usize = 0x0c;
/// Register D, RO.
pub const D: usize = 0x0d;
/// Century, by the PC's convention in CMOS memory.
pub const CENTURY: usize = 0x32;
/// Bytes of clock and CMOS memory.
pub const BYTES: usize = 128;

/// A: update in progress, RO.
pub const A_UIP: u8 = 0x80;
/// A: divider select.
pub const A_DV: u8 = 0x70;
/// A, DV: with these two bits set the divider chain is held in reset (table 4).
pub const A_DV_RESET: u8 = 0x60;
/// A: periodic rate select.
pub const A_RS: u8 = 0x0f;

/// B: updates are halted so that the program can set the time.
pub const B_SET: u8 = 0x80;
/// B: periodic interrupt enable.
pub const B_PIE: u8 = 0x40;
/// B: alarm interrupt enable.
pub const B_AIE: u8 = 0x20;
/// B: update-ended interrupt enable.
pub const B_UIE: u8 = 0x10;
/// B: square wave enable.
pub const B_SQWE: u8 = 0x08;
/// B: data mode, 1 is binary.
pub const B_DM: u8 = 0x04;
/// B: 1 is 24 hours.
pub const B_24: u8 = 0x02;

/// C: one of the enabled flags is set.
pub const C_IRQF: u8 = 0x80;
/// C: periodic.
pub const C_PF: u8 = 0x40;
/// C: alarm.
pub const C_AF: u8 = 0x20;
/// C: update ended.
pub const C_UF: u8 = 0x10;

/// D: valid RAM and time.
pub const D_VRT: u8 = 0x80;

/// Hours in 12-hour mode: afternoon.
pub const PM: u8 = 0x80;
/// An alarm byte with both of these bits set matches anything.
pub const ALARM_ANY: u8 = 0xc0;

/// Power-on register A: 32,768 Hz time base, 1,024 Hz periodic rate, as PC firmware leaves it.
pub const A_DEFAULT: u8 = 0x26;
/// Power-on register B: BCD, 24 hours.
pub const B_DEFAULT: u8 = B_24;

/// Cycles of the time base in a second.
pub const HERTZ: u64 = 32_768;
/// How long UIP is set before an update ends: 244 us of warning and 1,984 us of update (table 5).
pub const UIP_NS: u64 = 244_000 + 1_984_000;

/// Time base cycles of a periodic interrupt (table 5, 32,768 Hz column); `None` for rate 0.
pub fn period(rate: u8) -> Option<u64> {
    match rate & A_RS {
        0 => None,
        1 => Some(128),
        2 => Some(256),
        rate => Some(1 << (rate - 1)),
    }
}
