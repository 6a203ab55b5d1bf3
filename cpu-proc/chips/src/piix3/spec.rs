//! Intel 82371SB (PIIX3), order 290550-002, chapter 2.

/// X-bus chip select (16 bits).
pub const XBCS: u8 = 0x4e;
/// PIRQ A route; B, C, D follow.
pub const PIRQRC: u8 = 0x60;
/// PIRQ route: not routed.
pub const PIRQ_OFF: u8 = 0x80;
/// ISA interrupts a PIRQ can be routed to: 3-7, 9-12, 14, 15.
pub const PIRQ_ALLOWED: u16 = 0xdef8;

/// Reset control port.
pub const RESET_CONTROL: u16 = 0xcf9;
/// Reset control: reset CPU on the rise of this bit.
pub const RCPU: u8 = 0x04;
/// Reset control: hard reset rather than soft.
pub const SRST: u8 = 0x02;

/// IDE timing, two 16-bit registers.
pub const IDETIM: u8 = 0x40;
