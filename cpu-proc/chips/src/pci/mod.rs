//! PCI bus 0: configuration mechanism 1, configuration spaces, address decoding and INTx lines.
//!
//! Ports CF8h (dword) and CFCh-CFFh. A device hands over a header template; from then on its configuration space lives here,
//! so a base address move is seen by all CPUs at once. Not restarted: ends with the CPU process.
//!
//! *Deviations from hardware*: a region at address 0 or past the end of its space is not decoded.
//!
//! *Not emulated*: bridges and other buses (type 1 cycles end in all ones), 64-bit base addresses, configuration mechanism 2.

mod function;
pub mod spec;
#[cfg(test)]
mod tests;

pub use function::{Bar, BarKind, PciFunction, QEMU_SUBSYSTEM, TemplateError, standard_vga};

use serde::{Deserialize, Serialize};
use spec::*;
use std::collections::BTreeMap;

/// Which address space a region lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Ports.
    Io,
    /// Physical memory.
    Memory,
}

/// Number that stands for the expansion ROM where a BAR number is told.
pub const ROM_BAR: u8 = 6;

/// A region that a device answers now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decode {
    /// Address space.
    pub space: Space,
    /// First address.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// Device and function.
    pub devfn: u8,
    /// BAR 0-5, or [`ROM_BAR`].
    pub bar: u8,
}

/// A function present on the bus.
#[derive(Clone, Debug)]
struct Slot {
    template: PciFunction,
    config: [u8; 256],
    /// Bits that a write changes.
    writable: [u8; 256],
    /// Bits that a write of one clears.
    clearable: [u8; 256],
    /// INTx asserted by the device.
    asserted: bool,
}

fn word(config: &[u8; 256], offset: u8) -> u16 {
    dword(config, offset) as u16
}

fn dword(config: &[u8; 256], offset: u8) -> u32 {
    (0..4).rev().fold(0, |value, index| {
        let byte = config.get(usize::from(offset) + index).copied().unwrap_or(0xff);
        value << 8 | u32::from(byte)
    })
}

impl Slot {
    fn new(template: PciFunction) -> Self {
        let config = template.reset_config();
        let (writable, clearable) = template.masks();
        Self { template, config, writable, clearable, asserted: false }
    }

    fn region(&self, index: u8) -> Option<Decode> {
        let command = word(&self.config, COMMAND);
        let devfn = self.template.devfn;
        if index == ROM_BAR {
            let (size, value) = (self.template.rom_size, dword(&self.config, ROM));
            let base = u64::from(value & !0x7ff);
            let on = size != 0 && value & ROM_ENABLE != 0 && command & COMMAND_MEMORY != 0;
            let region = Decode { space: Space::Memory, base, size: u64::from(size), devfn, bar: ROM_BAR };
            return (on && base != 0 && base + region.size < 1 << 32).then_some(region);
        }
        let bar = self.template.bars.get(usize::from(index)).filter(|bar| bar.size != 0)?;
        let value = dword(&self.config, BAR0 + 4 * index);
        let size = u64::from(bar.size);
        let (space, base, enable, end) = match bar.kind {
            BarKind::Io => (Space::Io, u64::from(value & !3), COMMAND_IO, 1 << 16),
            _ => (Space::Memory, u64::from(value & !0xf), COMMAND_MEMORY, (1 << 32) - 1),
        };
        let on = command & enable != 0 && base != 0 && base + size <= end;
        on.then_some(Decode { space, base, size, devfn, bar: index })
    }

    fn line(&self) -> bool {
        self.asserted && word(&self.config, COMMAND) & COMMAND_INTX_DISABLE == 0
    }

    fn read(&self, offset: u8) -> u8 {
        let byte = self.config.get(usize::from(offset)).copied().unwrap_or(0xff);
        if offset == STATUS && self.asserted { byte | STATUS_INTX } else { byte }
    }

    fn write(&mut self, offset: u8, value: u8) {
        let index = usize::from(offset);
        let masks = (self.writable.get(index).copied(), self.clearable.get(index).copied());
        if let (Some(byte), (Some(writable), Some(clearable))) = (self.config.get_mut(index), masks) {
            *byte = (*byte & !writable | value & writable) & !(value & clearable);
        }
    }
}

/// The configuration spaces as saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciState {
    address: u32,
    /// Device and function, the 256 bytes, INTx level.
    functions: Vec<(u8, Vec<u8>, bool)>,
}

/// Bus 0.
#[derive(Clone, Debug, Default)]
pub struct PciBus {
    /// CF8h.
    address: u32,
    slots: BTreeMap<u8, Slot>,
    /// Changes of the decode map.
    generation: u64,
}

impl PciBus {
    /// An empty bus.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Plugs a function.
    ///
    /// # Errors
    /// When the template makes no sense or its place is taken.
    pub fn add(&mut self, template: PciFunction) -> Result<(), TemplateError> {
        template.validate()?;
        if self.slots.contains_key(&template.devfn) {
            return Err(TemplateError::Taken(template.devfn));
        }
        let slot = Slot::new(template);
        self.slots.insert(slot.template.devfn, slot);
        self.generation = self.generation.wrapping_add(1);
        Ok(())
    }

    /// Power-on values of every configuration space; INTx levels stay.
    pub fn reset(&mut self) {
        self.address = 0;
        for slot in self.slots.values_mut() {
            slot.config = slot.template.reset_config();
            slot.writable = slot.template.masks().0;
        }
        self.generation = self.generation.wrapping_add(1);
    }

    /// Count of changes of [`Self::decode_map`].
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The regions that devices answer now, in order of device, function and BAR.
    #[must_use]
    pub fn decode_map(&self) -> Vec<Decode> {
        self.slots.values().flat_map(|slot| (0..=ROM_BAR).filter_map(|index| slot.region(index))).collect()
    }

    /// The device and function numbers present.
    pub fn functions(&self) -> impl Iterator<Item = u8> + '_ {
        self.slots.keys().copied()
    }

    /// The configuration space of a function.
    #[must_use]
    pub fn config(&self, devfn: u8) -> Option<&[u8; 256]> {
        self.slots.get(&devfn).map(|slot| &slot.config)
    }

    /// Sets a byte of a configuration space from the device's side, whatever the write mask.
    pub fn poke(&mut self, devfn: u8, offset: u8, value: u8) {
        if let Some(byte) =
            self.slots.get_mut(&devfn).and_then(|slot| slot.config.get_mut(usize::from(offset)))
            && *byte != value
        {
            *byte = value;
            self.generation = self.generation.wrapping_add(1);
        }
    }

    /// Takes bits of a byte out of the guest's reach until the next reset.
    pub fn lock(&mut self, devfn: u8, offset: u8, bits: u8) {
        if let Some(mask) =
            self.slots.get_mut(&devfn).and_then(|slot| slot.writable.get_mut(usize::from(offset)))
        {
            *mask &= !bits;
        }
    }

    /// Sets the INTx level of a function.
    pub fn set_intx(&mut self, devfn: u8, level: bool) {
        if let Some(slot) = self.slots.get_mut(&devfn) {
            slot.asserted = level;
        }
    }

    /// Levels of the four interrupt lines of the board, bit n is PIRQ n (A is 0). Pin p (0 is INTA) of device d is wired to
    /// line (d + p - 1) modulo 4.
    #[must_use]
    pub fn lines(&self) -> u8 {
        self.slots.values().filter(|slot| slot.line()).fold(0, |lines, slot| {
            let pin = slot.template.interrupt_pin.saturating_sub(1);
            lines | 1 << Self::line_of(slot.template.devfn, pin)
        })
    }

    /// Line of pin `pin` (0 is INTA) of a device.
    #[must_use]
    pub fn line_of(devfn: u8, pin: u8) -> u8 {
        (devfn >> 3).wrapping_add(pin).wrapping_sub(1) & 3
    }

    /// Reads `size` bytes of configuration space; all ones where there is nothing.
    #[must_use]
    pub fn read(&self, devfn: u8, offset: u8, size: u8) -> u32 {
        let slot = self.slots.get(&devfn);
        (0..size.min(4)).rev().fold(0, |value, index| {
            let byte = match (slot, offset.checked_add(index)) {
                (Some(slot), Some(offset)) => slot.read(offset),
                _ => 0xff,
            };
            value << 8 | u32::from(byte)
        })
    }

    /// Writes `size` bytes of configuration space. Returns whether such a function exists.
    pub fn write(&mut self, devfn: u8, offset: u8, size: u8, value: u32) -> bool {
        let Some(slot) = self.slots.get_mut(&devfn) else { return false };
        let before: Vec<Option<Decode>> = (0..=ROM_BAR).map(|index| slot.region(index)).collect();
        let size = size.min(4);
        for (index, byte) in (0..size).zip(value.to_le_bytes()) {
            if let Some(offset) = offset.checked_add(index) {
                slot.write(offset, byte);
            }
        }
        if (0..=ROM_BAR).map(|index| slot.region(index)).ne(before) {
            self.generation = self.generation.wrapping_add(1);
        }
        true
    }

    /// CF8h.
    #[must_use]
    pub fn address(&self) -> u32 {
        self.address
    }

    /// Writes CF8h.
    pub fn set_address(&mut self, value: u32) {
        self.address = value & CONFIG_BITS;
    }

    /// Target of an access to data port CFCh + `lane`.
    fn target(&self, lane: u8) -> Option<(u8, u8)> {
        let address = self.address;
        let bus = address >> 16 & 0xff;
        (address & CONFIG_ENABLE != 0 && bus == 0).then_some(((address >> 8) as u8, address as u8 | lane & 3))
    }

    /// Reads `size` bytes from CFCh + `lane`.
    #[must_use]
    pub fn read_data(&self, lane: u8, size: u8) -> u32 {
        match self.target(lane) {
            Some((devfn, offset)) => self.read(devfn, offset, size),
            None => u32::MAX >> (32 - 8 * u32::from(size.clamp(1, 4))),
        }
    }

    /// Writes `size` bytes to CFCh + `lane`; returns the function written.
    pub fn write_data(&mut self, lane: u8, size: u8, value: u32) -> Option<u8> {
        let (devfn, offset) = self.target(lane)?;
        self.write(devfn, offset, size, value).then_some(devfn)
    }

    /// The text of the monitor's `info pci`.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for slot in self.slots.values() {
            let (devfn, config) = (slot.template.devfn, &slot.config);
            text += &format!("  Bus  0, device {:3}, function {}:\n", devfn >> 3, devfn & 7);
            let class = word(config, REVISION + 2);
            let name =
                function::class_name(class).map_or_else(|| format!("Class {class:04x}"), str::to_owned);
            let id = dword(config, VENDOR);
            text += &format!("    {name}: PCI device {:04x}:{:04x}\n", id as u16, id >> 16);
            if slot.template.interrupt_pin != 0 {
                text += &format!("      IRQ {}.\n", slot.read(INTERRUPT_LINE));
            }
            for (index, bar) in (0u8..).zip(&slot.template.bars).filter(|(_, bar)| bar.size != 0) {
                let value = dword(config, BAR0 + 4 * index);
                let last = |base: u32| base.wrapping_add(bar.size - 1);
                text += &match bar.kind {
                    BarKind::Io => {
                        let base = value & !3;
                        format!("      BAR{index}: I/O at 0x{base:04x} [0x{:04x}].\n", last(base))
                    }
                    _ => {
                        let base = value & !0xf;
                        format!("      BAR{index}: 32 bit memory at 0x{base:08x} [0x{:08x}].\n", last(base))
                    }
                };
            }
            if slot.template.rom_size != 0 {
                let base = dword(config, ROM) & !0x7ff;
                let last = base.wrapping_add(slot.template.rom_size - 1);
                text += &format!("      BAR6: 32 bit memory at 0x{base:08x} [0x{last:08x}].\n");
            }
        }
        text
    }

    /// The saved form.
    #[must_use]
    pub fn save(&self) -> PciState {
        let functions = self.slots.iter().map(|(devfn, slot)| (*devfn, slot.config.to_vec(), slot.asserted));
        PciState { address: self.address, functions: functions.collect() }
    }

    /// Takes a saved form over; the same functions must have been added.
    ///
    /// # Errors
    /// When the functions differ. Bits that a guest cannot write keep the template's value.
    pub fn restore(&mut self, state: PciState) -> Result<(), TemplateError> {
        let PciState { address, functions } = state;
        if functions.len() != self.slots.len() {
            return Err(TemplateError::Mismatch);
        }
        for (devfn, bytes, asserted) in functions {
            let slot = self.slots.get_mut(&devfn).ok_or(TemplateError::Mismatch)?;
            let bytes: [u8; 256] = bytes.try_into().map_err(|_| TemplateError::Mismatch)?;
            let header = usize::from(DEVICE_SPACE);
            for (index, (byte, saved)) in slot.config.iter_mut().zip(bytes).enumerate() {
                let mask = slot.writable.get(index).copied().unwrap_or(0);
                // The device may have set its own bytes; identity, sizes and classes are the template's.
                *byte = if index < header { *byte & !mask | saved & mask } else { saved };
            }
            slot.asserted = asserted;
        }
        self.set_address(address);
        self.generation = self.generation.wrapping_add(1);
        Ok(())
    }
}
