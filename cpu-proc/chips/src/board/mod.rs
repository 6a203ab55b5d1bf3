//! The wiring of the machines `pc` and `isapc`: which port, address and line belongs to which chip.
//!
//! Time is handed in. The board keeps a lower bound of the next moment at which a timer does something, so that asking
//! for pending interrupts costs a comparison while nothing is due.
//!
//! *Deviations from hardware*: a port access that begins in a chip and ends outside reads all ones there. A write to the power
//! management command port interrupts the boot processor only, where SMI# is wired to all: firmware moves the management memory of
//! no other, and theirs would run what lies at the address it has after reset.

mod info;
mod mmio;
mod ports;
mod state;
#[cfg(test)]
mod tests;
mod ticks;

pub use state::{BoardState, RestoreError};

use crate::acpipm::{self, AcpiPm, PmEvent};
use crate::hpet::{Hpet, Route};
use crate::i440fx::{self, ShadowMap};
use crate::ioapic82093::Ioapic82093;
use crate::lapic::{DeliveryMode, Effect, Lapic, Message};
use crate::owed::Owed;
use crate::pci::{Decode, PciBus, PciFunction, TemplateError};
use crate::pic8259::Pic8259;
use crate::piix3::{self, Reset};
use crate::pit8254::Pit8254;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// PCI place of the power management function.
const PM_DEVFN: u8 = piix3::DEVFN | 3;
/// ISA interrupt of the SCI.
const SCI_IRQ: u8 = 9;
/// ISA interrupt of numeric errors.
const FPU_IRQ: u8 = 13;
/// IOAPIC input that IRQ 0 is wired to.
const TIMER_PIN: u8 = 2;

/// What the board carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoardConfig {
    /// CPUs, each with a local APIC; at least one.
    pub cpus: u8,
    /// 440FX, PIIX3 and the PCI bus.
    pub pci: bool,
    /// I/O APIC.
    pub ioapic: bool,
    /// Power management function (needs `pci`).
    pub acpi: bool,
    /// High precision event timers.
    pub hpet: bool,
    /// The CPUs have system management mode. Without it firmware is told that SMM is set up already.
    pub smm: bool,
    /// The CPUs' timers have the TSC-deadline mode.
    pub deadline: bool,
    /// Ports that the power management function reports.
    pub resources: acpipm::Resources,
}

impl BoardConfig {
    /// Machine `pc`.
    #[must_use]
    pub fn pc(cpus: u8) -> Self {
        let resources = acpipm::Resources::default();
        Self { cpus, pci: true, ioapic: true, acpi: true, hpet: true, smm: true, deadline: false, resources }
    }

    /// Machine `isapc`.
    #[must_use]
    pub fn isapc(cpus: u8) -> Self {
        Self { pci: false, ioapic: false, acpi: false, hpet: false, ..Self::pc(cpus) }
    }
}

/// What the board asks of the rest of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Reset the whole machine (then call [`Board::reset`]).
    Reset,
    /// Power off.
    PowerOff,
    /// Suspend to RAM; [`Board::wake`] ends it.
    Suspend,
    /// System management interrupt to this CPU.
    Smi(u8),
    /// INIT to this CPU. CPU 0 starts over at the reset vector, others wait for their start-up message.
    Init(u8),
    /// Start this CPU, if it waits for that, at page `.1`.
    Sipi(u8, u8),
    /// Non-maskable interrupt to this CPU.
    Nmi(u8),
    /// [`Board::decode_map`], [`Board::shadow`] or a local APIC's page has changed.
    MapChanged,
}

/// The numeric error logic of an AT (82371SB, "Coprocessor error register"): FERR# latches IRQ 13; a write to port F0h takes it back
/// and, as long as FERR# is asserted, lets the processor carry on (IGNNE#).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FpuError {
    ferr: bool,
    ignne: bool,
    irq: bool,
}

impl FpuError {
    /// An edge of FERR#.
    fn set(&mut self, active: bool) {
        self.irq |= active;
        self.ignne &= active;
        self.ferr = active;
    }

    fn acknowledge(&mut self) {
        self.irq = false;
        self.ignne = self.ferr;
    }
}

/// The chips and the wires between them.
#[derive(Clone, Debug)]
pub struct Board {
    // Fixed configuration.
    config: BoardConfig,
    // Chips (guest-visible state).
    pic: Pic8259,
    pit: Pit8254,
    lapics: Vec<Lapic>,
    ioapic: Ioapic82093,
    hpet: Hpet,
    pm: AcpiPm,
    pci: PciBus,
    reset_control: u8,
    /// Levels driven by ISA devices, bit n is IRQ n.
    isa_lines: u16,
    fpu: FpuError,
    /// Ticks of IRQ 0.
    owed: Owed,
    // Wires (derived from the above).
    pit_level: bool,
    isa_levels: u16,
    pin_levels: u32,
    intr: bool,
    shadow: ShadowMap,
    routes: [Option<u8>; 4],
    bases: acpipm::Bases,
    // Book-keeping.
    due: u64,
    /// The part of `due` that is not of a local APIC.
    common_due: u64,
    events: VecDeque<Event>,
    /// Since when IRQ 0 has been masked.
    masked_since: Option<u64>,
    generation: u64,
    pci_generation: u64,
    irq_counts: [u64; 16],
}

/// Hands `message` to the local APICs it is for; `false` when none accepted.
fn deliver(lapics: &mut [Lapic], events: &mut VecDeque<Event>, message: Message, sender: Option<u8>) -> bool {
    let mut accepted = false;
    if message.mode == DeliveryMode::LowestPriority {
        let target = lapics
            .iter_mut()
            .filter(|lapic| lapic.enabled() && lapic.matches(message.destination, sender))
            .min_by_key(|lapic| lapic.ppr());
        return target.is_some_and(|lapic| lapic.accept(message.vector, message.level));
    }
    for (cpu, lapic) in (0u8..).zip(lapics) {
        if !lapic.matches(message.destination, sender) {
            continue;
        }
        let event = match message.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                accepted |= lapic.accept(message.vector, message.level);
                continue;
            }
            DeliveryMode::ExtInt => {
                lapic.accept_ext_int();
                accepted = true;
                continue;
            }
            DeliveryMode::Reserved => continue,
            DeliveryMode::Smi => Event::Smi(cpu),
            DeliveryMode::Nmi => Event::Nmi(cpu),
            DeliveryMode::Init => {
                lapic.init();
                Event::Init(cpu)
            }
            DeliveryMode::Startup => Event::Sipi(cpu, message.vector),
        };
        accepted = true;
        events.push_back(event);
    }
    accepted
}

impl Board {
    /// A board after power-on.
    #[must_use]
    pub fn new(config: BoardConfig) -> Self {
        let config = BoardConfig { cpus: config.cpus.max(1), acpi: config.acpi && config.pci, ..config };
        let mut board = Self {
            config,
            pic: Pic8259::new(),
            pit: Pit8254::new(),
            lapics: (0..config.cpus).map(|cpu| Lapic::new(cpu).with_deadline(config.deadline)).collect(),
            ioapic: Ioapic82093::new(),
            hpet: Hpet::new(),
            pm: AcpiPm::new(),
            pci: PciBus::new(),
            reset_control: 0,
            isa_lines: 0,
            fpu: FpuError::default(),
            owed: Owed::default(),
            pit_level: false,
            isa_levels: 0,
            pin_levels: 0,
            intr: false,
            shadow: ShadowMap::all_ram(),
            routes: [None; 4],
            bases: acpipm::Bases::default(),
            due: 0,
            common_due: 0,
            events: VecDeque::new(),
            masked_since: None,
            generation: 0,
            pci_generation: 0,
            irq_counts: [0; 16],
        };
        if config.pci {
            let mut functions = vec![i440fx::function(), piix3::isa_bridge()];
            if config.acpi {
                functions.push(acpipm::function(PM_DEVFN, config.smm, config.resources));
            }
            for function in functions {
                let added = board.pci.add(function);
                debug_assert_eq!(added, Ok(()));
            }
        }
        board.sync_config();
        board.settle(0);
        board.events.clear();
        board
    }

    /// Plugs a PCI function.
    ///
    /// # Errors
    /// When the template makes no sense or its place is taken.
    pub fn add_function(&mut self, function: PciFunction) -> Result<(), TemplateError> {
        self.pci.add(function)?;
        self.sync_config();
        Ok(())
    }

    /// Power-on values of every chip. Levels driven from outside stay, events not taken are dropped.
    pub fn reset(&mut self, now: u64) {
        self.pic.reset();
        self.pit.reset(now);
        self.lapics.iter_mut().for_each(Lapic::reset);
        self.ioapic.reset();
        self.hpet.reset();
        self.pm.reset();
        self.pci.reset();
        self.reset_control = 0;
        self.fpu = FpuError::default();
        self.owed.forget();
        self.masked_since = None;
        self.events.clear();
        self.sync_config();
        self.settle(now);
        self.map_changed();
    }

    /// Lets the levels that exist at power-on arrive without counting as edges.
    fn settle(&mut self, now: u64) {
        self.update(now);
        self.pic.reset();
        self.sync_intr();
        self.irq_counts = [0; 16];
    }

    /// Takes the oldest request to the machine.
    pub fn take_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn map_changed(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        if self.events.back() != Some(&Event::MapChanged) {
            self.events.push_back(Event::MapChanged);
        }
    }

    /// Rebuilds what is derived from configuration spaces.
    fn sync_config(&mut self) {
        if self.config.pci {
            let smram = self.pci.read(0, i440fx::spec::SMRAM, 1) as u8;
            if smram & i440fx::spec::D_LCK != 0 {
                // Locking closes the space for good and leaves only D_CLS writable (82441FX, SMRAM).
                self.pci.poke(0, i440fx::spec::SMRAM, smram & !i440fx::spec::D_OPEN);
                self.pci.lock(0, i440fx::spec::SMRAM, !i440fx::spec::D_CLS);
            }
            let shadow = self.pci.config(0).map(ShadowMap::from_config).unwrap_or_default();
            if shadow != self.shadow {
                self.shadow = shadow;
                self.map_changed();
            }
            self.routes = self.pci.config(piix3::DEVFN).map(piix3::pirq_routes).unwrap_or_default();
            self.bases = self.pci.config(PM_DEVFN).map(acpipm::Bases::from_config).unwrap_or_default();
        }
        if self.pci_generation != self.pci.generation() {
            self.pci_generation = self.pci.generation();
            self.map_changed();
        }
    }

    /// Regions that PCI devices answer now. Where regions in memory overlap with chips of the board or firmware, those win; ports of
    /// devices lie over those of chips, which is looked up without the chips' lock.
    #[must_use]
    pub fn decode_map(&self) -> Vec<Decode> {
        self.pci.decode_map()
    }

    /// Routing of C0000h-FFFFFh and of system management RAM. Without PCI everything is RAM, the firmware copied into it.
    #[must_use]
    pub fn shadow(&self) -> &ShadowMap {
        &self.shadow
    }

    /// Count of [`Event::MapChanged`].
    #[must_use]
    pub fn map_generation(&self) -> u64 {
        self.generation
    }

    /// The PCI bus, for reading.
    #[must_use]
    pub fn pci(&self) -> &PciBus {
        &self.pci
    }

    // Interrupt lines.

    /// Drives ISA interrupt `irq` (3-15 and 1; 0 and 2 belong to the board). Devices that share a line are merged by the caller.
    pub fn set_isa_irq(&mut self, irq: u8, level: bool) {
        let Some(mask) = 1u16.checked_shl(u32::from(irq)) else { return };
        self.isa_lines = if level { self.isa_lines | mask } else { self.isa_lines & !mask };
        self.sync_outputs();
    }

    /// Drives FERR# of the CPU; the level of IGNNE#.
    pub fn set_ferr(&mut self, active: bool) -> bool {
        if active != self.fpu.ferr {
            self.fpu.set(active);
            self.sync_outputs();
        }
        self.fpu.ignne
    }

    /// Drives the interrupt pin of a PCI function.
    pub fn set_intx(&mut self, devfn: u8, level: bool) {
        self.pci.set_intx(devfn, level);
        self.sync_outputs();
    }

    /// The power button.
    pub fn press_power_button(&mut self) {
        if self.config.acpi {
            self.pm.press_power_button();
            self.sync_outputs();
        }
    }

    /// Raises a general-purpose event.
    pub fn raise_gpe(&mut self, event: u8) {
        self.pm.raise_gpe(event);
        self.sync_outputs();
    }

    /// Ends a suspend to RAM.
    pub fn wake(&mut self) {
        self.pm.wake();
        self.sync_outputs();
    }

    fn set_pin(&mut self, pin: u8, level: bool) {
        if self.config.ioapic {
            let Self { ioapic, lapics, events, .. } = self;
            ioapic.set_pin(pin, level, &mut |message| deliver(lapics, events, message, None));
        }
    }

    fn drive_isa(&mut self, irq: u8, level: bool) {
        if level && let Some(count) = self.irq_counts.get_mut(usize::from(irq)) {
            *count = count.wrapping_add(1);
        }
        self.pic.set_irq(irq, level);
    }

    /// An edge on ISA interrupt `irq` or on an IOAPIC input, whatever the level was.
    fn edge(&mut self, route: Route) {
        let pin = match route {
            Route::Isa(irq) => {
                self.drive_isa(irq, false);
                self.drive_isa(irq, true);
                self.isa_levels |= 1 << (irq & 15);
                if irq == 0 { TIMER_PIN } else { irq }
            }
            Route::Pin(pin) => pin,
        };
        self.set_pin(pin, false);
        self.set_pin(pin, true);
        self.pin_levels |= 1u32 << (pin & 31);
    }

    /// Derives every line from the chips' states and drives what changed.
    fn sync_outputs(&mut self) {
        let legacy = self.hpet.legacy();
        let mut isa = self.isa_lines & !0x0005;
        if legacy {
            isa &= !(1 << 8);
        } else if self.pit_level {
            isa |= 1;
        }
        let lines = self.pci.lines();
        for (line, route) in self.routes.iter().enumerate() {
            if let Some(irq) = route
                && lines >> line & 1 != 0
            {
                isa |= 1 << (irq & 15);
            }
        }
        if self.fpu.irq {
            isa |= 1 << FPU_IRQ;
        }
        if self.config.acpi && self.pm.sci() {
            isa |= 1 << SCI_IRQ;
        }
        let mut extra = 0u32;
        for index in 0..crate::hpet::spec::TIMERS {
            if self.hpet.level(index) {
                match self.hpet.route(index) {
                    Some(Route::Isa(irq)) => isa |= 1 << (irq & 15),
                    Some(Route::Pin(pin)) => extra |= 1 << (pin & 31),
                    None => {}
                }
            }
        }
        let pins = u32::from(isa) & !1 | u32::from(isa & 1) << TIMER_PIN | extra;
        let (isa_changed, pins_changed) = (isa ^ self.isa_levels, pins ^ self.pin_levels);
        self.isa_levels = isa;
        self.pin_levels = pins;
        for irq in (0..16).filter(|irq| isa_changed >> irq & 1 != 0) {
            self.drive_isa(irq, isa >> irq & 1 != 0);
        }
        for pin in (0..24).filter(|pin| pins_changed >> pin & 1 != 0) {
            self.set_pin(pin, pins >> pin & 1 != 0);
        }
        self.sync_intr();
    }

    /// Carries the 8259's INT output to LINT0 and to IOAPIC input 0.
    fn sync_intr(&mut self) {
        let level = self.pic.interrupt();
        if level == self.intr {
            return;
        }
        self.intr = level;
        for (cpu, lapic) in (0u8..).zip(&mut self.lapics) {
            match lapic.set_lint(0, level) {
                Some(DeliveryMode::Nmi) => self.events.push_back(Event::Nmi(cpu)),
                Some(DeliveryMode::Smi) => self.events.push_back(Event::Smi(cpu)),
                Some(DeliveryMode::Init) => {
                    lapic.init();
                    self.events.push_back(Event::Init(cpu));
                }
                _ => {}
            }
        }
        if self.ioapic.ext_int(0).is_none() {
            self.set_pin(0, level);
        }
    }

    // Time.

    /// Lets every timer act up to `now` and derives all lines.
    fn update(&mut self, now: u64) {
        let rises = self.pit.sync(now);
        if rises != 0 && !self.hpet.legacy() {
            self.tick(rises);
        }
        self.pit_level = self.pit.out0(now);
        if self.config.hpet {
            self.hpet.poll(now);
            let fired = self.hpet.take_fired();
            for index in (0..crate::hpet::spec::TIMERS).filter(|index| fired >> index & 1 != 0) {
                match self.hpet.route(index) {
                    Some(Route::Isa(0)) => {
                        let skipped = self.hpet.take_skipped();
                        self.tick(skipped.saturating_add(1));
                    }
                    Some(route) => self.edge(route),
                    None => {}
                }
            }
            self.hpet.take_skipped();
        }
        if self.config.acpi {
            self.pm.poll(now);
        }
        for lapic in &mut self.lapics {
            lapic.poll(now);
        }
        self.sync_outputs();
        self.repay(now);
        self.plan(now);
    }

    /// Finds out when there is something to do next.
    fn plan(&mut self, now: u64) {
        // While IRQ 0 is masked everywhere, the counter is looked at only when somebody looks.
        self.note_mask(now);
        let timer_wanted = !self.hpet.legacy() && self.wants_ticks();
        // An input that follows the level takes its request back when the level falls.
        let pit = match (timer_wanted, self.follows_tick_level()) {
            (true, true) => self.pit.next_change(now),
            (true, false) => self.pit.next_deadline(now),
            (false, _) => None,
        };
        let hpet = if self.config.hpet { self.hpet.next_deadline() } else { None };
        let pm = if self.config.acpi { self.pm.next_deadline() } else { None };
        let lapic = self.lapics.iter().filter_map(Lapic::next_deadline).min();
        self.common_due = [pit, hpet, pm, self.repayment()].into_iter().flatten().min().unwrap_or(u64::MAX);
        self.due = self.common_due.min(lapic.unwrap_or(u64::MAX));
    }

    /// Lets the timers act when one is due.
    pub fn poll(&mut self, now: u64) {
        if now >= self.due {
            self.update(now);
        }
    }

    /// Guest time at which [`Self::poll`] next has something to do; never later than the truth, sometimes earlier.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        (self.due != u64::MAX).then_some(self.due)
    }

    /// The part of [`Self::next_deadline`] that CPU `cpu` has to see to: its own timer, and for CPU 0 all that are not a CPU's.
    #[must_use]
    pub fn deadline_of(&self, cpu: u8) -> Option<u64> {
        let own = self.lapics.get(usize::from(cpu)).and_then(Lapic::next_deadline);
        let common = (cpu == 0 && self.common_due != u64::MAX).then_some(self.common_due);
        own.into_iter().chain(common).min()
    }

    // The CPUs' side.

    /// Whether the 8259's INTR reaches `cpu`.
    fn pic_reaches(&self, lapic: &Lapic) -> bool {
        self.intr
            && (lapic.accepts_pic()
                || self.config.ioapic
                    && self.ioapic.ext_int(0).is_some_and(|destination| lapic.matches(destination, None)))
    }

    fn is_pending(&self, lapic: &Lapic) -> bool {
        lapic.pending() || self.pic_reaches(lapic)
    }

    /// Whether an interrupt waits for `cpu` (whose interrupt flag is its own affair).
    pub fn interrupt_pending(&mut self, cpu: u8, now: u64) -> bool {
        self.poll(now);
        self.lapics.get(usize::from(cpu)).is_some_and(|lapic| self.is_pending(lapic))
    }

    /// Whether an interrupt waits for `cpu`, of those that are known: no timer is looked at.
    #[must_use]
    pub fn waits(&self, cpu: u8) -> bool {
        self.lapics.get(usize::from(cpu)).is_some_and(|lapic| self.is_pending(lapic))
    }

    /// Takes the vector of what waits for `cpu`.
    fn take_vector(&mut self, cpu: u8, now: u64) -> Option<u8> {
        let lapic = self.lapics.get_mut(usize::from(cpu))?;
        if let Some(vector) = lapic.acknowledge(now) {
            return Some(vector);
        }
        let asked = lapic.take_ext_int();
        let lapic = self.lapics.get(usize::from(cpu))?;
        if !asked && !self.pic_reaches(lapic) {
            return None;
        }
        let vector = self.pic.acknowledge();
        self.sync_intr();
        Some(vector)
    }

    /// IA32_APIC_BASE of `cpu`.
    #[must_use]
    pub fn apic_base(&self, cpu: u8) -> u64 {
        self.lapics.get(usize::from(cpu)).map_or(0, Lapic::base)
    }

    /// Writes IA32_APIC_BASE of `cpu`.
    pub fn set_apic_base(&mut self, cpu: u8, value: u64, now: u64) {
        // As for a write that opens or closes LINT0.
        self.update(now);
        let Some(lapic) = self.lapics.get_mut(usize::from(cpu)) else { return };
        let before = lapic.page();
        lapic.set_base(value);
        if lapic.page() != before {
            self.map_changed();
        }
        self.plan(now);
    }

    /// Where `cpu` sees the registers of its local APIC, `None` while that is off.
    #[must_use]
    pub fn apic_page(&self, cpu: u8) -> Option<u64> {
        self.lapics.get(usize::from(cpu)).and_then(Lapic::page)
    }

    /// IA32_TSC_DEADLINE of `cpu`.
    pub fn tsc_deadline(&mut self, cpu: u8, now: u64) -> u64 {
        self.poll(now);
        self.lapics.get_mut(usize::from(cpu)).map_or(0, |lapic| lapic.deadline(now))
    }

    /// Writes IA32_TSC_DEADLINE of `cpu`, whose time-stamp counter has that value at guest time `due`.
    pub fn set_tsc_deadline(&mut self, cpu: u8, value: u64, due: u64, now: u64) {
        self.poll(now);
        let Some(lapic) = self.lapics.get_mut(usize::from(cpu)) else { return };
        lapic.set_deadline(value, due, now);
        if let Some(deadline) = lapic.next_deadline() {
            self.due = self.due.min(deadline);
        }
    }

    /// CR8 of `cpu`.
    #[must_use]
    pub fn cr8(&self, cpu: u8) -> u8 {
        self.lapics.get(usize::from(cpu)).map_or(0, Lapic::cr8)
    }

    /// Writes CR8 of `cpu`.
    pub fn set_cr8(&mut self, cpu: u8, value: u8) {
        if let Some(lapic) = self.lapics.get_mut(usize::from(cpu)) {
            lapic.set_cr8(value);
        }
    }

    fn pm_event(&mut self, event: Option<PmEvent>) {
        match event {
            Some(PmEvent::PowerOff) => self.events.push_back(Event::PowerOff),
            Some(PmEvent::Suspend) => self.events.push_back(Event::Suspend),
            Some(PmEvent::Smi) => self.events.push_back(Event::Smi(0)),
            None => {}
        }
    }

    fn reset_event(&mut self, reset: Option<Reset>) {
        match reset {
            Some(Reset::Hard) => self.events.push_back(Event::Reset),
            Some(Reset::Soft) => {
                // The INIT pin, no message: a local APIC that is off keeps nothing from it.
                for (cpu, lapic) in (0u8..).zip(&mut self.lapics) {
                    lapic.init();
                    self.events.push_back(Event::Init(cpu));
                }
            }
            None => {}
        }
    }

    fn lapic_effect(&mut self, cpu: u8, effect: Effect) {
        let Self { ioapic, lapics, events, .. } = self;
        match effect {
            Effect::Send(message) => {
                deliver(lapics, events, message, Some(cpu));
            }
            Effect::EndOfInterrupt(vector) => {
                ioapic.end_of_interrupt(vector, &mut |message| deliver(lapics, events, message, None));
            }
        }
    }
}
