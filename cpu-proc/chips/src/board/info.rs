//! Texts for the monitor.

use super::Board;

impl Board {
    /// `info pic`.
    #[must_use]
    pub fn info_pic(&self) -> String {
        self.pic.describe()
    }

    /// `info irq`: how often each ISA interrupt was raised.
    #[must_use]
    pub fn info_irq(&self) -> String {
        let counts = self.irq_counts.iter().enumerate().filter(|(_, count)| **count != 0);
        let lines = counts.map(|(irq, count)| format!("{irq:2}: {count}\n"));
        std::iter::once("IRQ statistics:\n".to_owned()).chain(lines).collect()
    }

    /// `info pci`.
    #[must_use]
    pub fn info_pci(&self) -> String {
        if self.config.pci { self.pci.describe() } else { "PCI bus not present\n".to_owned() }
    }

    /// `info hpet`.
    #[must_use]
    pub fn info_hpet(&self, now: u64) -> String {
        if self.config.hpet { self.hpet.describe(now) } else { "HPET not present\n".to_owned() }
    }
}
