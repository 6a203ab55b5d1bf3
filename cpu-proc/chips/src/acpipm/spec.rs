//! Intel 82371AB (PIIX4) function 3: power management and SMBus, order 290562-001, chapters 7 and 10.

/// Power management base address (bit 0 reads one, 15:6 the base).
pub const PMBA: u8 = 0x40;
/// Device activity B: bit 25 enables SMI by APMC writes.
pub const DEVACTB: u8 = 0x58;
/// Byte of DEVACTB with APMC_EN.
pub const DEVACTB_APMC: u8 = 0x5b;
/// APMC_EN in that byte.
pub const APMC_EN: u8 = 0x02;
/// Device resource B; the byte with the parallel port's decode.
pub const DEVRESB_LPT: u8 = 0x5f;
/// Device resource C; the byte with the floppy's decode.
pub const DEVRESC_FDC: u8 = 0x63;
/// Device resource J and general; the byte with the serial ports' decodes.
pub const DEVRES_COM: u8 = 0x67;
/// Power management miscellaneous: bit 0 enables the I/O space.
pub const PMREGMISC: u8 = 0x80;
/// SMBus base address.
pub const SMBBA: u8 = 0x90;
/// SMBus host configuration: bit 0 enables.
pub const SMBHSTCFG: u8 = 0xd2;

/// Size of the power management I/O space.
pub const PM_SIZE: u16 = 0x40;
/// Size of the SMBus I/O space.
pub const SMB_SIZE: u16 = 0x10;

/// Power management status (W1C, 16 bits).
pub const PMSTS: u16 = 0x00;
/// Power management control (16 bits).
pub const PMCNTRL: u16 = 0x04;
/// Power management timer (RO).
pub const PMTMR: u16 = 0x08;

/// PM1 status and enable: timer.
pub const TMROF: u16 = 1 << 0;
/// PM1 status and enable: global lock release.
pub const GBL: u16 = 1 << 5;
/// PM1 status and enable: power button.
pub const PWRBTN: u16 = 1 << 8;
/// PM1 status and enable: RTC alarm.
pub const RTC: u16 = 1 << 10;
/// PM1 status: power button override.
pub const PWRBTNOR: u16 = 1 << 11;
/// PM1 status: resumed.
pub const RSM: u16 = 1 << 15;
/// Status bits that exist.
pub const PMSTS_BITS: u16 = TMROF | GBL | PWRBTN | RTC | PWRBTNOR | RSM;
/// Enable bits that exist.
pub const PMEN_BITS: u16 = TMROF | GBL | PWRBTN | RTC;

/// PMCNTRL: interrupts are SCI rather than SMI.
pub const SCI_EN: u16 = 1 << 0;
/// PMCNTRL: type of suspend, three bits.
pub const SUS_TYP_SHIFT: u32 = 10;
/// PMCNTRL: suspend now (WO).
pub const SUS_EN: u16 = 1 << 13;
/// PMCNTRL: writable bits.
pub const PMCNTRL_BITS: u16 = 0x1c03;

/// Timer frequency in Hz.
pub const TIMER_FREQUENCY: u64 = 3_579_545;
/// Half the range of the 24-bit timer: its top bit changes this often.
pub const TIMER_HALF: u64 = 1 << 23;
/// Timer bits.
pub const TIMER_MASK: u64 = (1 << 24) - 1;

/// General-purpose event block 0 of the PC machine: status, enable.
pub const GPE0: u16 = 0xafe0;
/// Its size: two bytes of status, two of enable.
pub const GPE0_SIZE: u16 = 4;

/// APM control port: the SMI command.
pub const APMC: u16 = 0xb2;
/// APM status port.
pub const APMS: u16 = 0xb3;
/// SMI command that turns ACPI mode on (FADT ACPI_ENABLE).
pub const ACPI_ENABLE: u8 = 0xf1;
/// SMI command that turns ACPI mode off (FADT ACPI_DISABLE).
pub const ACPI_DISABLE: u8 = 0xf0;

/// SMBus host status.
pub const SMBHSTSTS: u16 = 0x0;
/// SMBus host control.
pub const SMBHSTCNT: u16 = 0x2;
/// SMBus host status: interrupt (command done).
pub const SMB_INTR: u8 = 0x02;
/// SMBus host status: device error (no acknowledge).
pub const SMB_DEV_ERR: u8 = 0x04;
/// SMBus host control: start (WO).
pub const SMB_START: u8 = 0x40;
