//! PIIX4 power management: PCI function 3 of the ISA bridge, ACPI fixed hardware, APM ports and SMBus.
//!
//! PCI 8086:7113. I/O at PMBA (40h bytes), SMBBA (10h bytes), AFE0h (GPE0), B2h/B3h. SCI is ISA IRQ 9, level. Not restarted:
//! ends with the CPU process.
//!
//! *Deviations from hardware*: the commands F1h and F0h written to port B2h set and clear SCI_EN at once, as the system
//! management firmware of the board would; GPE0 sits at a fixed address with 16 events, the PC machine's wiring; suspend
//! type 2 ends in power-off (suspend to disk).
//!
//! *Not emulated*: device idle timers and traps, throttling, battery and lid inputs, devices on the SMBus (every
//! address answers "no acknowledge").

pub mod spec;
#[cfg(test)]
mod tests;

use crate::clock;
use crate::pci::{PciFunction, QEMU_SUBSYSTEM};
use serde::{Deserialize, Serialize};
use spec::*;

/// What a register access asks of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PmEvent {
    /// System management interrupt.
    Smi,
    /// Soft off.
    PowerOff,
    /// Suspend to RAM.
    Suspend,
}

/// Whether the board carries the ports that the device resource registers describe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Parallel port at 378h.
    pub lpt1: bool,
    /// Serial port at 3F8h.
    pub com1: bool,
    /// Serial port at 2F8h.
    pub com2: bool,
}

/// The PCI header. Without `smm` the firmware finds system management mode already set up and leaves it alone.
#[must_use]
pub fn function(devfn: u8, smm: bool, resources: Resources) -> PciFunction {
    let com = if resources.com1 { 0x08 } else { 0 } | if resources.com2 { 0x90 } else { 0 };
    let writable = [
        (PMBA, 0xc0),
        (PMBA + 1, 0xff),
        (PMREGMISC, 0x01),
        (SMBBA, 0xf0),
        (SMBBA + 1, 0xff),
        (SMBHSTCFG, 0x0f),
    ];
    let middle = (0x44..0x80).map(|offset| (offset, 0xff));
    PciFunction {
        devfn,
        vendor: 0x8086,
        device: 0x7113,
        class: 0x06_8000,
        revision: 3,
        status: 0x0280,
        subsystem: QEMU_SUBSYSTEM,
        interrupt_pin: 1,
        writable: writable.into_iter().chain(middle).collect(),
        fixed: vec![
            (PMBA, 1),
            (SMBBA, 1),
            (DEVACTB_APMC, if smm { 0 } else { APMC_EN }),
            (DEVRESB_LPT, if resources.lpt1 { 0x90 } else { 0x10 }),
            (DEVRESC_FDC, 0x60),
            (DEVRES_COM, com),
        ],
        ..PciFunction::default()
    }
}

/// Bases of the I/O spaces, from configuration space; `None` while disabled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bases {
    /// Power management.
    pub pm: Option<u16>,
    /// SMBus.
    pub smbus: Option<u16>,
    /// Writes to port B2h raise an SMI.
    pub smi: bool,
}

impl Bases {
    /// Reads them from the configuration space of function 3.
    #[must_use]
    pub fn from_config(config: &[u8; 256]) -> Self {
        let byte = |offset: u8| config.get(usize::from(offset)).copied().unwrap_or(0);
        let word = |offset: u8| u16::from_le_bytes([byte(offset), byte(offset.wrapping_add(1))]);
        let (pm, smbus) = (word(PMBA) & 0xffc0, word(SMBBA) & 0xfff0);
        Self {
            pm: (byte(PMREGMISC) & 1 != 0 && pm != 0).then_some(pm),
            smbus: (byte(SMBHSTCFG) & 1 != 0 && smbus != 0).then_some(smbus),
            smi: byte(DEVACTB_APMC) & APMC_EN != 0,
        }
    }
}

/// The registers outside configuration space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcpiPm {
    status: u16,
    enable: u16,
    control: u16,
    /// Dwords of the I/O space from 0Ch up that only keep their value.
    kept: [u32; 16],
    gpe_status: u16,
    gpe_enable: u16,
    apmc: u8,
    apms: u8,
    smbus: [u8; 16],
    /// Half ranges of the timer seen.
    halves: u64,
}

impl Default for AcpiPm {
    fn default() -> Self {
        Self::new()
    }
}

impl AcpiPm {
    /// Power-on values.
    #[must_use]
    pub fn new() -> Self {
        Self {
            status: 0,
            enable: 0,
            control: 0,
            kept: [0; 16],
            gpe_status: 0,
            gpe_enable: 0,
            apmc: 0,
            apms: 0,
            smbus: [0; 16],
            halves: 0,
        }
    }

    /// Power-on values; the timer runs on.
    pub fn reset(&mut self) {
        *self = Self { halves: self.halves, ..Self::new() };
    }

    /// The 24-bit timer.
    #[must_use]
    pub fn timer(now: u64) -> u32 {
        (clock::ticks(now, TIMER_FREQUENCY) & TIMER_MASK) as u32
    }

    /// Notices changes of the timer's top bit.
    pub fn poll(&mut self, now: u64) {
        let halves = clock::ticks(now, TIMER_FREQUENCY) / TIMER_HALF;
        if halves > self.halves {
            self.halves = halves;
            self.status |= TMROF;
        }
    }

    /// When the timer would next raise SCI.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        if self.enable & TMROF == 0 || self.status & TMROF != 0 {
            return None;
        }
        Some(clock::time_of(self.halves.saturating_add(1).saturating_mul(TIMER_HALF), TIMER_FREQUENCY))
    }

    /// Level of the SCI.
    #[must_use]
    pub fn sci(&self) -> bool {
        let fixed = self.status & self.enable & PMEN_BITS != 0;
        self.control & SCI_EN != 0 && (fixed || self.gpe_status & self.gpe_enable != 0)
    }

    /// The power button is pressed.
    pub fn press_power_button(&mut self) {
        self.status |= PWRBTN;
    }

    /// Raises general-purpose event `event` (0-15).
    pub fn raise_gpe(&mut self, event: u8) {
        self.gpe_status |= 1u16.checked_shl(u32::from(event)).unwrap_or(0);
    }

    /// Resumes from suspend to RAM.
    pub fn wake(&mut self) {
        self.status |= RSM;
    }

    /// Reads the dword at `offset` (a multiple of 4) of the power management space.
    pub fn read(&mut self, offset: u16, now: u64) -> u32 {
        self.poll(now);
        match offset & !3 {
            PMSTS => u32::from(self.status) | u32::from(self.enable) << 16,
            PMCNTRL => u32::from(self.control),
            PMTMR => Self::timer(now),
            // Reading a processor level register would stop the processor's clock; it runs on.
            other => self.kept.get(usize::from(other >> 2)).copied().unwrap_or(0),
        }
    }

    /// Writes the bits that `mask` selects of the dword at `offset`.
    pub fn write(&mut self, offset: u16, value: u32, mask: u32, now: u64) -> Option<PmEvent> {
        self.poll(now);
        let masked = value & mask;
        match offset & !3 {
            PMSTS => {
                self.status &= !(masked as u16);
                let mask = (mask >> 16) as u16;
                self.enable = (self.enable & !mask | (masked >> 16) as u16) & PMEN_BITS;
            }
            PMCNTRL => {
                let mask = mask as u16;
                self.control = (self.control & !mask | masked as u16) & PMCNTRL_BITS;
                if masked as u16 & SUS_EN != 0 {
                    return match self.control >> SUS_TYP_SHIFT & 7 {
                        0 | 2 => Some(PmEvent::PowerOff),
                        1 => Some(PmEvent::Suspend),
                        _ => None,
                    };
                }
            }
            PMTMR => {}
            other => {
                if let Some(kept) = self.kept.get_mut(usize::from(other >> 2)) {
                    *kept = *kept & !mask | masked;
                }
            }
        }
        None
    }

    /// Reads the GPE0 block as one dword.
    #[must_use]
    pub fn read_gpe(&self) -> u32 {
        u32::from(self.gpe_status) | u32::from(self.gpe_enable) << 16
    }

    /// Writes the bits that `mask` selects of the GPE0 block.
    pub fn write_gpe(&mut self, value: u32, mask: u32) {
        let masked = value & mask;
        self.gpe_status &= !(masked as u16);
        let mask = (mask >> 16) as u16;
        self.gpe_enable = self.gpe_enable & !mask | (masked >> 16) as u16;
    }

    /// Reads port B2h or B3h.
    #[must_use]
    pub fn read_apm(&self, port: u16) -> u8 {
        if port == APMC { self.apmc } else { self.apms }
    }

    /// Writes port B2h or B3h. `smi` tells whether DEVACTB allows the SMI.
    pub fn write_apm(&mut self, port: u16, value: u8, smi: bool) -> Option<PmEvent> {
        if port != APMC {
            self.apms = value;
            return None;
        }
        self.apmc = value;
        match value {
            ACPI_ENABLE => self.control |= SCI_EN,
            ACPI_DISABLE => self.control &= !SCI_EN,
            _ => {}
        }
        smi.then_some(PmEvent::Smi)
    }

    /// Reads a byte of the SMBus space.
    #[must_use]
    pub fn read_smbus(&self, offset: u16) -> u8 {
        self.smbus.get(usize::from(offset)).copied().unwrap_or(0xff)
    }

    /// Writes a byte of the SMBus space. No device answers.
    pub fn write_smbus(&mut self, offset: u16, value: u8) {
        let Some(register) = self.smbus.get_mut(usize::from(offset)) else { return };
        match offset {
            SMBHSTSTS => *register &= !value,
            SMBHSTCNT => {
                *register = value & !SMB_START;
                if value & SMB_START != 0 {
                    self.smbus[0] |= SMB_DEV_ERR | SMB_INTR;
                }
            }
            _ => *register = value,
        }
    }

    /// Makes values read from a saved form safe to use.
    pub(crate) fn sanitise(&mut self) {
        self.status &= PMSTS_BITS;
        self.enable &= PMEN_BITS;
        self.control &= PMCNTRL_BITS;
    }
}
