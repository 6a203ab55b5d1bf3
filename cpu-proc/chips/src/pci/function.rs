//! The header template that a PCI device hands over.

use super::spec::*;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Subsystem ids of the emulated machine; SeaBIOS knows the machine by them.
pub const QEMU_SUBSYSTEM: (u16, u16) = (0x1af4, 0x1100);

/// What a base address register asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BarKind {
    /// Ports.
    #[default]
    Io,
    /// Memory below 4 GiB.
    Mem32,
    /// Memory without read side effects.
    Mem32Prefetch,
}

/// A base address register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bar {
    /// Bytes, a power of two; 0 for none.
    pub size: u32,
    /// Space.
    pub kind: BarKind,
}

/// A PCI function's header and the behaviour of its configuration bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciFunction {
    /// Device number in bits 7:3, function in bits 2:0.
    pub devfn: u8,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Class code, 24 bits: class, subclass, programming interface.
    pub class: u32,
    /// Revision id.
    pub revision: u8,
    /// Reset value of the command register.
    pub command: u16,
    /// Reset value of the status register.
    pub status: u16,
    /// Header type (80h: multifunction).
    pub header_type: u8,
    /// Subsystem vendor and id; zero for none.
    pub subsystem: (u16, u16),
    /// Base address registers.
    pub bars: [Bar; 6],
    /// Expansion ROM size, a power of two; 0 for none.
    pub rom_size: u32,
    /// Interrupt pin: 0 none, 1 INTA to 4 INTD.
    pub interrupt_pin: u8,
    /// Writable bits of bytes from 40h on (and of the programming interface, 09h).
    pub writable: Vec<(u8, u8)>,
    /// Reset values of bytes from 40h on.
    pub fixed: Vec<(u8, u8)>,
}

/// Why a template is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemplateError {
    /// This device and function number is taken.
    Taken(u8),
    /// A BAR or the ROM is no power of two or out of range.
    Size(u32),
    /// No such interrupt pin.
    Pin(u8),
    /// A byte of the standard header cannot be made writable or fixed.
    Offset(u8),
    /// A saved state is of another bus.
    Mismatch,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken(devfn) => write!(f, "PCI device {}.{} exists already", devfn >> 3, devfn & 7),
            Self::Size(size) => write!(f, "PCI region size {size:#x} is not possible"),
            Self::Pin(pin) => write!(f, "PCI interrupt pin {pin} does not exist"),
            Self::Offset(offset) => write!(f, "PCI header byte {offset:#x} belongs to the bus"),
            Self::Mismatch => f.write_str("saved PCI functions differ from those present"),
        }
    }
}

impl std::error::Error for TemplateError {}

const PROGRAMMING_INTERFACE: u8 = 0x09;

impl PciFunction {
    pub(super) fn validate(&self) -> Result<(), TemplateError> {
        for bar in self.bars.iter().filter(|bar| bar.size != 0) {
            let range = if bar.kind == BarKind::Io { 4..=0x1_0000 } else { 16..=0x8000_0000 };
            if !bar.size.is_power_of_two() || !range.contains(&bar.size) {
                return Err(TemplateError::Size(bar.size));
            }
        }
        if self.rom_size != 0
            && (!self.rom_size.is_power_of_two() || !(0x800..=0x100_0000).contains(&self.rom_size))
        {
            return Err(TemplateError::Size(self.rom_size));
        }
        if self.interrupt_pin > 4 {
            return Err(TemplateError::Pin(self.interrupt_pin));
        }
        let own = |offset: u8| offset >= DEVICE_SPACE || offset == PROGRAMMING_INTERFACE;
        match self.writable.iter().chain(&self.fixed).find(|(offset, _)| !own(*offset)) {
            Some((offset, _)) => Err(TemplateError::Offset(*offset)),
            None => Ok(()),
        }
    }

    /// Configuration space after reset.
    pub(super) fn reset_config(&self) -> [u8; 256] {
        let mut config = [0u8; 256];
        let mut put = |offset: u8, bytes: &[u8]| {
            let target = config.get_mut(usize::from(offset)..usize::from(offset) + bytes.len());
            if let Some(target) = target {
                target.copy_from_slice(bytes);
            }
        };
        put(VENDOR, &self.vendor.to_le_bytes());
        put(VENDOR + 2, &self.device.to_le_bytes());
        put(COMMAND, &self.command.to_le_bytes());
        put(STATUS, &self.status.to_le_bytes());
        let [interface, subclass, class, _] = self.class.to_le_bytes();
        put(REVISION, &[self.revision, interface, subclass, class]);
        put(HEADER_TYPE, &[self.header_type]);
        for (index, bar) in (0u8..).zip(&self.bars).filter(|(_, bar)| bar.size != 0) {
            let flags = match bar.kind {
                BarKind::Io => BAR_IO,
                BarKind::Mem32 => 0,
                BarKind::Mem32Prefetch => BAR_PREFETCH,
            };
            put(BAR0 + 4 * index, &flags.to_le_bytes());
        }
        put(SUBSYSTEM, &self.subsystem.0.to_le_bytes());
        put(SUBSYSTEM + 2, &self.subsystem.1.to_le_bytes());
        put(INTERRUPT_PIN, &[self.interrupt_pin]);
        for (offset, value) in &self.fixed {
            put(*offset, &[*value]);
        }
        config
    }

    /// Bits that can be written, and bits cleared by writing one.
    pub(super) fn masks(&self) -> ([u8; 256], [u8; 256]) {
        let (mut writable, mut clearable) = ([0u8; 256], [0u8; 256]);
        let put = |target: &mut [u8; 256], offset: u8, bytes: &[u8]| {
            let target = target.get_mut(usize::from(offset)..usize::from(offset) + bytes.len());
            if let Some(target) = target {
                target.copy_from_slice(bytes);
            }
        };
        put(&mut writable, COMMAND, &COMMAND_WRITABLE.to_le_bytes());
        put(&mut clearable, STATUS, &STATUS_W1C.to_le_bytes());
        put(&mut writable, CACHE_LINE, &[0xff]);
        put(&mut writable, LATENCY, &[0xf8]);
        put(&mut writable, INTERRUPT_LINE, &[0xff]);
        for (index, bar) in (0u8..).zip(&self.bars).filter(|(_, bar)| bar.size != 0) {
            put(&mut writable, BAR0 + 4 * index, &(!(bar.size - 1)).to_le_bytes());
        }
        if self.rom_size != 0 {
            put(&mut writable, ROM, &(!(self.rom_size - 1) | ROM_ENABLE).to_le_bytes());
        }
        for (offset, mask) in &self.writable {
            put(&mut writable, *offset, &[*mask]);
        }
        (writable, clearable)
    }
}

/// The standard VGA of the PC machine: linear frame buffer at BAR 0 (`vram` bytes), registers at BAR 2.
#[must_use]
pub fn standard_vga(devfn: u8, vram: u32, rom_size: u32) -> PciFunction {
    let mut bars = [Bar::default(); 6];
    bars[0] = Bar { size: vram, kind: BarKind::Mem32Prefetch };
    bars[2] = Bar { size: 0x1000, kind: BarKind::Mem32 };
    PciFunction {
        devfn,
        vendor: 0x1234,
        device: 0x1111,
        class: 0x03_0000,
        revision: 2,
        subsystem: QEMU_SUBSYSTEM,
        bars,
        rom_size,
        ..PciFunction::default()
    }
}

/// Names of the classes a PC meets (PCI Code and ID Assignment Specification).
pub(super) fn class_name(class: u16) -> Option<&'static str> {
    Some(match class {
        0x0100 => "SCSI controller",
        0x0101 => "IDE controller",
        0x0180 => "Storage controller",
        0x0200 => "Ethernet controller",
        0x0300 => "VGA controller",
        0x0380 => "Display controller",
        0x0401 => "Audio controller",
        0x0403 => "Audio controller",
        0x0500 => "RAM controller",
        0x0600 => "Host bridge",
        0x0601 => "ISA bridge",
        0x0604 => "PCI bridge",
        0x0680 => "Bridge",
        0x0c03 => "USB controller",
        0x0c05 => "SMBus controller",
        _ => return None,
    })
}
