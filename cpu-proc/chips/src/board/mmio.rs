//! Decoding of the chips' memory-mapped registers.

use super::{Board, BoardConfig, deliver};
use crate::hpet::Hpet;
use crate::lapic::Lapic;
use crate::{hpet, ioapic82093};

/// The chip an address belongs to.
enum Target {
    Lapic(u16),
    Ioapic(u16),
    Hpet(u16),
}

const PAGE: u64 = 0x1000;

impl Board {
    fn target(&self, cpu: u8, gpa: u64) -> Option<Target> {
        let offset = |base: u64, size: u64| {
            gpa.checked_sub(base)
                .filter(|offset| *offset < size)
                .and_then(|offset| u16::try_from(offset).ok())
        };
        if let Some(page) = self.apic_page(cpu)
            && let Some(offset) = offset(page, PAGE)
        {
            return Some(Target::Lapic(offset));
        }
        if self.config.ioapic
            && let Some(offset) = offset(ioapic82093::spec::BASE, ioapic82093::spec::SIZE)
        {
            return Some(Target::Ioapic(offset));
        }
        if self.config.hpet
            && let Some(offset) = offset(hpet::spec::BASE, hpet::spec::SIZE)
        {
            return Some(Target::Hpet(offset));
        }
        None
    }

    /// The pages with registers of chips that are no CPU's own.
    pub fn chip_pages(&self) -> impl Iterator<Item = u64> {
        let BoardConfig { ioapic, hpet, .. } = self.config;
        let pages = [(ioapic, ioapic82093::spec::BASE), (hpet, hpet::spec::BASE)];
        pages.into_iter().filter_map(|(present, page)| present.then_some(page))
    }

    /// Reads `size` (1, 2, 4 or 8) bytes at `gpa` as `cpu` sees them; `None` when no chip of the board is there.
    pub fn mmio_read(&mut self, cpu: u8, gpa: u64, size: u8, now: u64) -> Option<u64> {
        let target = self.target(cpu, gpa)?;
        self.poll(now);
        let size = size.clamp(1, 8);
        let bits = 8 * u32::from(size);
        // Two neighbouring registers hold every access of up to eight bytes.
        let (pair, shift) = match target {
            Target::Lapic(offset) => {
                let lapic = self.lapics.get_mut(usize::from(cpu))?;
                // The registers are 32 bits wide, 16 bytes apart.
                let low = if offset & 0xc == 0 { lapic.read(offset & !3, now) } else { 0 };
                (u128::from(low), offset & 3)
            }
            Target::Ioapic(offset) => {
                let low = if offset & 0xc == 0 { self.ioapic.read(offset) } else { 0 };
                (u128::from(low), offset & 3)
            }
            Target::Hpet(offset) => {
                let low = self.hpet.read(offset, now);
                let crosses = u32::from(offset & 7) * 8 + bits > 64;
                let high = if crosses { self.hpet.read(offset.saturating_add(8), now) } else { 0 };
                (u128::from(low) | u128::from(high) << 64, offset & 7)
            }
        };
        let value = pair >> (8 * shift);
        Some(value as u64 & (u64::MAX >> (64 - bits)))
    }

    /// Writes `size` (1, 2, 4 or 8) bytes at `gpa` as `cpu`; `false` when no chip of the board is there. The APICs take
    /// aligned writes to their 32-bit registers only.
    pub fn mmio_write(&mut self, cpu: u8, gpa: u64, size: u8, value: u64, now: u64) -> bool {
        let Some(target) = self.target(cpu, gpa) else { return false };
        self.poll(now);
        let size = size.clamp(1, 8);
        match target {
            Target::Lapic(offset) => {
                if offset & 15 == 0 && size >= 4 {
                    self.lapic_write(cpu, offset, value as u32, now);
                }
            }
            Target::Ioapic(offset) => {
                if offset & 15 == 0 {
                    // An edge that came while masked must meet the mask.
                    self.update(now);
                    let value = value as u32 & u32::MAX >> (32 - 8 * u32::from(size.min(4)));
                    let Self { ioapic, lapics, events, .. } = self;
                    ioapic.write(offset, value, &mut |message| deliver(lapics, events, message, None));
                    self.plan(now);
                }
            }
            Target::Hpet(offset) => {
                let mask = u128::from(u64::MAX >> (64 - 8 * u32::from(size)));
                let shift = 8 * u32::from(offset & 7);
                let (value, mask) = ((u128::from(value) & mask) << shift, mask << shift);
                if Hpet::programs_timer0(offset) {
                    self.owed.forget();
                }
                self.hpet.write(offset, value as u64, mask as u64, now);
                if mask >> 64 != 0 {
                    self.hpet.write(offset.saturating_add(8), (value >> 64) as u64, (mask >> 64) as u64, now);
                }
                self.update(now);
            }
        }
        true
    }

    fn lapic_write(&mut self, cpu: u8, offset: u16, value: u32, now: u64) {
        let rewires = Lapic::rewires_lint0(offset, value);
        if rewires {
            // Ticks that came while INTR led nowhere must meet that.
            self.update(now);
        }
        let Some(lapic) = self.lapics.get_mut(usize::from(cpu)) else { return };
        let was_enabled = lapic.enabled();
        let effect = lapic.write(offset, value, now);
        let (enabled, deadline) = (lapic.enabled(), lapic.next_deadline());
        if let Some(deadline) = deadline {
            self.due = self.due.min(deadline);
        }
        if let Some(effect) = effect {
            self.lapic_effect(cpu, effect);
        }
        if enabled && !was_enabled {
            // What nobody accepted before may be accepted now.
            let Self { ioapic, lapics, events, .. } = self;
            ioapic.service(&mut |message| deliver(lapics, events, message, None));
        }
        if rewires {
            self.plan(now);
        }
    }
}
