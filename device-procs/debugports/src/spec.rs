//! Debugging and power-off ports of the Bochs BIOS family (Bochs "rombios" conventions), and `isa-debug-exit`.

/// Region of port 0x402: text; reads tell software that the port is there.
pub const BIOS_INFO: u8 = 0;
/// Region of port 0x403: text.
pub const BIOS_DEBUG: u8 = 1;
/// Region of port 0x500: text of the VGA BIOS.
pub const VGABIOS_INFO: u8 = 2;
/// Region of port 0x8900: power-off.
pub const POWER: u8 = 3;
/// Region of `isa-debug-exit`.
pub const EXIT: u8 = 4;

/// What port 0x402 reads as.
pub const PRESENT: u8 = 0xe9;
/// Written byte by byte to port 0x8900, this ends the machine.
pub const SHUTDOWN: &[u8; 8] = b"Shutdown";
