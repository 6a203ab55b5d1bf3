//! The I/O APIC.
//!
//! 24 inputs, MMIO at FEC00000h. IRQ 0 of the PC arrives at pin 2, the 8259's INTR at pin 0, other ISA interrupts at the pin
//! of their number. Not restarted: ends with the CPU process.
//!
//! *Deviations from hardware*: the polarity bit is kept but has no effect: an input is asserted or not, whatever the wire's level.
//!
//! *Not emulated*: the serial APIC bus (delivery is immediate), the EOI register of later versions.

pub mod spec;
#[cfg(test)]
mod tests;

use crate::lapic::{DeliveryMode, Destination, Message};
use serde::{Deserialize, Serialize};
use spec::*;

/// The chip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ioapic82093 {
    select: u8,
    id: u8,
    table: [u64; PINS],
    /// Input levels.
    lines: u32,
    /// Edges not accepted by any CPU yet.
    edges: u32,
}

impl Default for Ioapic82093 {
    fn default() -> Self {
        Self::new()
    }
}

/// Sends a message; `false` when no CPU accepted it.
pub type Sender<'a> = dyn FnMut(Message) -> bool + 'a;

impl Ioapic82093 {
    /// All entries masked.
    #[must_use]
    pub fn new() -> Self {
        Self { select: 0, id: 0, table: [MASKED; PINS], lines: 0, edges: 0 }
    }

    /// Power-on values; the input levels stay.
    pub fn reset(&mut self) {
        *self = Self { lines: self.lines, ..Self::new() };
    }

    fn message(entry: u64) -> Message {
        let address = (entry >> 56) as u8;
        Message {
            vector: entry as u8,
            mode: DeliveryMode::from_bits(entry as u32),
            destination: if entry & LOGICAL != 0 {
                Destination::Logical(address)
            } else {
                Destination::Physical(address)
            },
            level: entry & LEVEL != 0,
        }
    }

    /// Level triggering applies to fixed and lowest priority only; the other modes are edge (82093AA, 3.2.4, delivery mode).
    fn is_level(entry: u64) -> bool {
        entry & LEVEL != 0 && entry & 0x600 == 0
    }

    /// Delivers what can be delivered. Call after anything changed here or a CPU became ready to accept.
    pub fn service(&mut self, send: &mut Sender<'_>) {
        for (pin, entry) in self.table.iter_mut().enumerate() {
            let mask = 1u32 << pin;
            if *entry & MASKED != 0 {
                continue;
            }
            if Self::is_level(*entry) {
                if self.lines & mask != 0 && *entry & REMOTE_IRR == 0 && send(Self::message(*entry)) {
                    *entry |= REMOTE_IRR;
                }
            } else if self.edges & mask != 0 && send(Message { level: false, ..Self::message(*entry) }) {
                self.edges &= !mask;
            }
        }
    }

    /// Drives input `pin`.
    pub fn set_pin(&mut self, pin: u8, level: bool, send: &mut Sender<'_>) {
        let Some(entry) = self.table.get(usize::from(pin)).copied() else { return };
        let mask = 1u32 << pin;
        let rising = level && self.lines & mask == 0;
        if !level {
            self.lines &= !mask;
            return;
        }
        self.lines |= mask;
        // An edge at a masked input is lost (82093AA, 3.2.4, interrupt mask).
        if rising && entry & MASKED == 0 {
            if !Self::is_level(entry) {
                self.edges |= mask;
            }
            self.service(send);
        }
    }

    /// End of interrupt from a local APIC.
    pub fn end_of_interrupt(&mut self, vector: u8, send: &mut Sender<'_>) {
        for entry in &mut self.table {
            if *entry & LEVEL != 0 && *entry as u8 == vector {
                *entry &= !REMOTE_IRR;
            }
        }
        self.service(send);
    }

    /// Entry of `pin` when it is unmasked ExtINT: who gets the 8259's INTR.
    #[must_use]
    pub fn ext_int(&self, pin: u8) -> Option<Destination> {
        let entry = self.table.get(usize::from(pin)).copied()?;
        let message = Self::message(entry);
        (entry & MASKED == 0 && message.mode == DeliveryMode::ExtInt).then_some(message.destination)
    }

    /// Vector and destination of an edge at `pin`, when it is unmasked and makes a plain interrupt.
    #[must_use]
    pub fn edge_target(&self, pin: u8) -> Option<(u8, Destination)> {
        let entry = self.table.get(usize::from(pin)).copied()?;
        let message = Self::message(entry);
        let plain = matches!(message.mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority);
        (entry & (MASKED | LEVEL) == 0 && plain).then_some((message.vector, message.destination))
    }

    /// Whether `pin` is masked.
    #[must_use]
    pub fn is_masked(&self, pin: u8) -> bool {
        self.table.get(usize::from(pin)).is_none_or(|entry| entry & MASKED != 0)
    }

    /// Whether `pin` is triggered by its level.
    #[must_use]
    pub fn follows_level(&self, pin: u8) -> bool {
        self.table.get(usize::from(pin)).is_some_and(|entry| entry & LEVEL != 0)
    }

    /// Reads 32 bits at `offset` of the window.
    #[must_use]
    pub fn read(&self, offset: u16) -> u32 {
        match offset & 0xff0 {
            IOREGSEL => u32::from(self.select),
            IOWIN => self.read_register(),
            _ => 0,
        }
    }

    fn read_register(&self) -> u32 {
        match self.select {
            ID | ARBITRATION => u32::from(self.id) << 24,
            VERSION => VERSION_VALUE,
            _ => match self.entry_of_select() {
                Some((pin, high)) => {
                    let entry = self.table.get(pin).copied().unwrap_or(0);
                    if high { (entry >> 32) as u32 } else { entry as u32 }
                }
                None => 0,
            },
        }
    }

    fn entry_of_select(&self) -> Option<(usize, bool)> {
        let index = self.select.checked_sub(REDIRECTION)?;
        let pin = usize::from(index >> 1);
        (pin < PINS).then_some((pin, index & 1 != 0))
    }

    /// Writes 32 bits at `offset` of the window.
    pub fn write(&mut self, offset: u16, value: u32, send: &mut Sender<'_>) {
        match offset & 0xff0 {
            IOREGSEL => self.select = value as u8,
            IOWIN if self.select == ID => self.id = (value >> 24 & 0xf) as u8,
            IOWIN => {
                let Some((pin, high)) = self.entry_of_select() else { return };
                let Some(entry) = self.table.get_mut(pin) else { return };
                let was_level = Self::is_level(*entry);
                if high {
                    *entry = *entry & !HIGH_WRITABLE | u64::from(value) << 32 & HIGH_WRITABLE;
                } else {
                    *entry = *entry & !LOW_WRITABLE | u64::from(value) & LOW_WRITABLE;
                }
                if !Self::is_level(*entry) {
                    *entry &= !REMOTE_IRR;
                }
                if was_level || Self::is_level(*entry) || *entry & MASKED != 0 {
                    self.edges &= !(1 << pin);
                }
                self.service(send);
            }
            _ => {}
        }
    }

    /// Makes values read from a saved form safe to use.
    pub(crate) fn sanitise(&mut self) {
        const KEPT: u64 = LOW_WRITABLE | HIGH_WRITABLE | REMOTE_IRR;
        self.table.iter_mut().for_each(|entry| *entry &= KEPT);
        self.lines &= (1 << PINS) - 1;
        self.edges &= (1 << PINS) - 1;
        self.id &= 0xf;
    }
}
