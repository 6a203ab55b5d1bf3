//! Intel 8259A Programmable Interrupt Controller, order 231468-003; ELCR from Intel 82371FB/SB (PIIX/PIIX3), 290550-002.

/// Master command port (ICW1, OCW2, OCW3; IRR/ISR/poll on read).
pub const MASTER_COMMAND: u16 = 0x20;
/// Master data port (ICW2-4, OCW1).
pub const MASTER_DATA: u16 = 0x21;
/// Slave command port.
pub const SLAVE_COMMAND: u16 = 0xa0;
/// Slave data port.
pub const SLAVE_DATA: u16 = 0xa1;
/// Edge/level control, IRQ 0-7.
pub const ELCR1: u16 = 0x4d0;
/// Edge/level control, IRQ 8-15.
pub const ELCR2: u16 = 0x4d1;

/// ELCR1 bits that can be set: IRQ 0, 1 and 2 are always edge.
pub const ELCR1_MASK: u8 = 0xf8;
/// ELCR2 bits that can be set: IRQ 8 and 13 are always edge.
pub const ELCR2_MASK: u8 = 0xde;

/// ICW1 marker on the command port.
pub const ICW1: u8 = 0x10;
/// ICW1: ICW4 follows.
pub const ICW1_IC4: u8 = 0x01;
/// ICW1: single, no ICW3.
pub const ICW1_SNGL: u8 = 0x02;
/// ICW1: all inputs level triggered. In the PIIX3 "this bit is disabled" (ICW1, bit 3): ELCR decides for each input.
pub const ICW1_LTIM: u8 = 0x08;
/// ICW4: automatic end of interrupt.
pub const ICW4_AEOI: u8 = 0x02;
/// ICW4: special fully nested mode.
pub const ICW4_SFNM: u8 = 0x10;

/// OCW3 marker on the command port (with bit 4 clear).
pub const OCW3: u8 = 0x08;
/// OCW3: poll command.
pub const OCW3_POLL: u8 = 0x04;
/// OCW3: a register is chosen for reading.
pub const OCW3_RR: u8 = 0x02;
/// OCW3: the register is the ISR.
pub const OCW3_RIS: u8 = 0x01;
/// OCW3: the special mask mode is changed.
pub const OCW3_ESMM: u8 = 0x40;
/// OCW3: its new value.
pub const OCW3_SMM: u8 = 0x20;

/// Master input that the slave's INT is wired to.
pub const CASCADE: u8 = 2;
