//! Intel 440FX PCIset: 82441FX (PMC), order 290549-001, chapter 3.

/// First programmable attribute map register (the F segment).
pub const PAM0: u8 = 0x59;
/// Last programmable attribute map register.
pub const PAM6: u8 = 0x5f;
/// System management RAM control.
pub const SMRAM: u8 = 0x72;

/// PAM nibble: reads go to RAM.
pub const READ_ENABLE: u8 = 1;
/// PAM nibble: writes go to RAM.
pub const WRITE_ENABLE: u8 = 2;

/// SMRAM: system management space open outside SMM.
pub const D_OPEN: u8 = 0x40;
/// SMRAM: closed to data accesses.
pub const D_CLS: u8 = 0x20;
/// SMRAM: locked.
pub const D_LCK: u8 = 0x10;
/// SMRAM: enabled.
pub const G_SMRAME: u8 = 0x08;
