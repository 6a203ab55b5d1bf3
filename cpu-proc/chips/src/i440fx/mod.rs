//! 440FX host bridge: PCI header, memory shadowing (PAM) and system management RAM.
//!
//! PCI 8086:1237 at 00:00.0. Not restarted: ends with the CPU process; all state is configuration space.
//!
//! *Deviations from hardware*: the registers of the DRAM interface keep what is written but have no effect.
//!
//! *Not emulated*: closing system management RAM to data only (D_CLS: code and data of an address are the same memory here), ECC, the AGP-less arbiter's timers, the fixed memory hole (FDHC), turbo and reset control at 93h.

pub mod spec;
#[cfg(test)]
mod tests;

use crate::pci::{PciFunction, QEMU_SUBSYSTEM};
use spec::*;

/// The PCI header.
#[must_use]
pub fn function() -> PciFunction {
    let writable = (0x50..=0x58).chain(0x60..=0x71).chain([0x93]).map(|offset| (offset, 0xff));
    let maps = (PAM0..=PAM6).map(|offset| (offset, if offset == PAM0 { 0x30 } else { 0x33 }));
    let mut fixed = vec![(0x57, 0x01), (SMRAM, 0x02)];
    fixed.extend((0x60..=0x67).map(|offset| (offset, 0x01)));
    PciFunction {
        devfn: 0,
        vendor: 0x8086,
        device: 0x1237,
        class: 0x06_0000,
        revision: 2,
        command: 0x0006,
        status: 0x0280,
        subsystem: QEMU_SUBSYSTEM,
        writable: writable.chain(maps).chain([(SMRAM, 0x7f)]).collect(),
        fixed,
        ..PciFunction::default()
    }
}

/// Where reads and writes of one 16 KiB granule go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shadow {
    /// Reads come from RAM, not from PCI (the ROM).
    pub read_ram: bool,
    /// Writes go to RAM, not to PCI.
    pub write_ram: bool,
}

/// Bytes of a granule.
pub const GRANULE: u64 = 0x4000;
/// First address that can be shadowed.
pub const SHADOW_BASE: u64 = 0xc_0000;
/// Granules from C0000h to FFFFFh.
pub const GRANULES: usize = 16;

/// What the memory controller does with the space between 640 KiB and 1 MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShadowMap {
    granules: [Shadow; GRANULES],
    /// A0000h-BFFFFh is RAM for everybody (system management RAM opened by firmware).
    pub smram_open: bool,
    /// A0000h-BFFFFh is RAM in system management mode.
    pub smram_enabled: bool,
}

impl ShadowMap {
    /// Reads it from the configuration space of function 0.
    #[must_use]
    pub fn from_config(config: &[u8; 256]) -> Self {
        let byte = |offset: u8| config.get(usize::from(offset)).copied().unwrap_or(0);
        let mut map = Self::default();
        for (index, granule) in (0u8..).zip(&mut map.granules) {
            let nibble = match index {
                12..=15 => byte(PAM0) >> 4,
                _ => byte(PAM0 + 1 + index / 2) >> (4 * (index & 1)),
            };
            *granule = Shadow { read_ram: nibble & READ_ENABLE != 0, write_ram: nibble & WRITE_ENABLE != 0 };
        }
        let smram = byte(SMRAM);
        map.smram_enabled = smram & G_SMRAME != 0;
        map.smram_open = map.smram_enabled && smram & D_OPEN != 0;
        map
    }

    /// Everything is RAM: a board without the bridge.
    #[must_use]
    pub fn all_ram() -> Self {
        let ram = Shadow { read_ram: true, write_ram: true };
        Self { granules: [ram; GRANULES], ..Self::default() }
    }

    /// Attributes of the granule at `address`, `None` outside C0000h-FFFFFh.
    #[must_use]
    pub fn at(&self, address: u64) -> Option<Shadow> {
        let index = address.checked_sub(SHADOW_BASE)? / GRANULE;
        self.granules.get(usize::try_from(index).ok()?).copied()
    }
}
