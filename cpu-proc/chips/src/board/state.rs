//! The saved form of a board. The chips end with their process, so nothing of it is kept while a machine runs: conformance tests and fuzzers
//! rebuild boards from it, and `savevm` will.

use super::{Board, BoardConfig, FpuError};
use crate::acpipm::AcpiPm;
use crate::hpet::Hpet;
use crate::ioapic82093::Ioapic82093;
use crate::lapic::Lapic;
use crate::owed::Owed;
use crate::pci::{PciState, TemplateError};
use crate::pic8259::Pic8259;
use crate::pit8254::Pit8254;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Version of the saved form.
const VERSION: u32 = 3;

/// Every chip's state, versioned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoardState {
    version: u32,
    pic: Pic8259,
    pit: Pit8254,
    lapics: Vec<Lapic>,
    ioapic: Ioapic82093,
    hpet: Hpet,
    pm: AcpiPm,
    pci: PciState,
    reset_control: u8,
    isa_lines: u16,
    fpu: FpuError,
    owed: Owed,
    pit_level: bool,
    isa_levels: u16,
    pin_levels: u32,
    intr: bool,
}

/// Why a saved form does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreError {
    /// Another version.
    Version(u32),
    /// Another number of CPUs.
    Cpus(usize),
    /// Other PCI functions.
    Pci(TemplateError),
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => write!(f, "saved board has unknown version {version}"),
            Self::Cpus(cpus) => write!(f, "saved board has {cpus} processors"),
            Self::Pci(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RestoreError {}

impl Board {
    /// The saved form. Events not taken are not part of it.
    #[must_use]
    pub fn save(&self) -> BoardState {
        let Self {
            config: BoardConfig { .. },
            pic,
            pit,
            lapics,
            ioapic,
            hpet,
            pm,
            pci,
            reset_control,
            isa_lines,
            fpu,
            owed,
            pit_level,
            isa_levels,
            pin_levels,
            intr,
            shadow: _,
            routes: _,
            bases: _,
            due: _,
            common_due: _,
            events: _,
            masked_since: _,
            generation: _,
            pci_generation: _,
            irq_counts: _,
        } = self;
        BoardState {
            version: VERSION,
            pic: pic.clone(),
            pit: pit.clone(),
            lapics: lapics.clone(),
            ioapic: ioapic.clone(),
            hpet: hpet.clone(),
            pm: pm.clone(),
            pci: pci.save(),
            reset_control: *reset_control,
            isa_lines: *isa_lines,
            fpu: *fpu,
            owed: *owed,
            pit_level: *pit_level,
            isa_levels: *isa_levels,
            pin_levels: *pin_levels,
            intr: *intr,
        }
    }

    /// Takes a saved form over. The board must carry the same PCI functions; nothing changes on an error.
    ///
    /// # Errors
    /// When the form is of another version or board.
    pub fn restore(&mut self, state: BoardState) -> Result<(), RestoreError> {
        let BoardState {
            version,
            mut pic,
            mut pit,
            mut lapics,
            mut ioapic,
            mut hpet,
            mut pm,
            pci,
            reset_control,
            isa_lines,
            fpu,
            owed,
            pit_level,
            isa_levels,
            pin_levels,
            intr,
        } = state;
        if version != VERSION {
            return Err(RestoreError::Version(version));
        }
        if lapics.len() != self.lapics.len() {
            return Err(RestoreError::Cpus(lapics.len()));
        }
        let mut bus = self.pci.clone();
        bus.restore(pci).map_err(RestoreError::Pci)?;
        pic.sanitise();
        pit.sanitise();
        ioapic.sanitise();
        hpet.sanitise();
        pm.sanitise();
        for (cpu, lapic) in (0u8..).zip(&mut lapics) {
            lapic.sanitise(cpu);
        }
        self.pic = pic;
        self.pit = pit;
        self.lapics = lapics;
        self.ioapic = ioapic;
        self.hpet = hpet;
        self.pm = pm;
        self.pci = bus;
        self.reset_control = reset_control;
        self.isa_lines = isa_lines;
        self.fpu = fpu;
        self.owed = owed;
        self.masked_since = None;
        self.pit_level = pit_level;
        self.isa_levels = isa_levels;
        self.pin_levels = pin_levels;
        self.intr = intr;
        self.due = 0;
        self.common_due = 0;
        self.events.clear();
        self.sync_config();
        self.map_changed();
        Ok(())
    }
}
