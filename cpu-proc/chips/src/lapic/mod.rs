//! Local APIC of one CPU (xAPIC).
//!
//! 4 KiB register page at FEE00000h by default, IA32_APIC_BASE and CR8. LINT0 carries the 8259's INTR ("virtual wire"), LINT1
//! is the NMI pin. Not restarted: ends with the CPU process.
//!
//! *Deviations from hardware*: LINT0 of the boot processor comes out of reset as unmasked ExtINT, so that 8259 interrupts
//! arrive before firmware has programmed the APIC; periods of the timer that find its interrupt waiting are owed (`crate::owed`);
//! LINT0 and LINT1 interrupt at the rising edge whatever trigger mode and polarity their entries choose (ExtINT follows the level), so
//! that remote IRR reads 0; delivery is immediate, so the delivery status bits read idle and the spurious vector is never used.
//!
//! *Not emulated*: x2APIC, thermal and performance sources, the APIC bus arbitration of the 82489DX.

mod message;
pub mod spec;
#[cfg(test)]
mod tests;

pub use message::{DeliveryMode, Destination, Message};

use crate::owed::Owed;
use serde::{Deserialize, Serialize};
use spec::*;

/// What a register write asks of the rest of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send this message.
    Send(Message),
    /// A level-triggered vector has ended: tell the IOAPIC.
    EndOfInterrupt(u8),
}

/// 256 bits, one a vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Vectors([u32; 8]);

impl Vectors {
    fn set(&mut self, vector: u8, on: bool) {
        if let Some(word) = self.0.get_mut(usize::from(vector >> 5)) {
            let mask = 1 << (vector & 31);
            *word = if on { *word | mask } else { *word & !mask };
        }
    }

    fn get(&self, vector: u8) -> bool {
        self.word(vector >> 5) >> (vector & 31) & 1 != 0
    }

    fn word(&self, index: u8) -> u32 {
        self.0.get(usize::from(index)).copied().unwrap_or(0)
    }

    fn highest(&self) -> Option<u8> {
        let (index, word) = self.0.iter().enumerate().rev().find(|(_, word)| **word != 0)?;
        Some((index as u8) << 5 | (31 - word.leading_zeros()) as u8)
    }
}

/// Everything a guest can observe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    base: u64,
    id: u8,
    tpr: u8,
    ldr: u8,
    /// Destination format, the model in bits 31:28.
    dfr: u32,
    svr: u32,
    isr: Vectors,
    tmr: Vectors,
    irr: Vectors,
    /// ESR as last latched by a write.
    esr: u32,
    /// Errors since.
    errors: u32,
    icr: [u32; 2],
    lvt: [u32; LVT_COUNT],
    /// Bit n: LINTn input level.
    lint: u8,
    /// An ExtINT message waits for the CPU.
    ext_int: bool,
    initial: u32,
    divide: u8,
    /// Guest time at which the timer was loaded.
    loaded: u64,
    /// Guest time of the next timer event.
    due: Option<u64>,
    /// IA32_TSC_DEADLINE: 0 while that timer is not armed.
    deadline: u64,
}

/// The local APIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lapic {
    // Fixed configuration.
    cpu: u8,
    has_deadline: bool,
    // Guest-visible state.
    state: State,
    // Book-keeping.
    /// Periods of the timer.
    owed: Owed,
}

impl Lapic {
    /// The APIC of CPU `cpu`; CPU 0 boots.
    #[must_use]
    pub fn new(cpu: u8) -> Self {
        let bsp = if cpu == 0 { BASE_BSP } else { 0 };
        let state = State {
            base: DEFAULT_BASE | BASE_ENABLE | bsp,
            id: cpu,
            tpr: 0,
            ldr: 0,
            dfr: 0xffff_ffff,
            svr: 0xff,
            isr: Vectors::default(),
            tmr: Vectors::default(),
            irr: Vectors::default(),
            esr: 0,
            errors: 0,
            icr: [0; 2],
            lvt: [LVT_MASKED; LVT_COUNT],
            lint: 0,
            ext_int: false,
            initial: 0,
            divide: 0,
            loaded: 0,
            due: None,
            deadline: 0,
        };
        let mut lapic = Self { cpu, has_deadline: false, state, owed: Owed::default() };
        lapic.wire_lint0();
        lapic
    }

    /// The same, with or without the timer's TSC-deadline mode.
    #[must_use]
    pub fn with_deadline(self, has_deadline: bool) -> Self {
        Self { has_deadline, ..self }
    }

    fn wire_lint0(&mut self) {
        if self.state.base & BASE_BSP != 0 {
            self.state.lvt[LINT0] = 0x700;
        }
    }

    /// Power-on values; the input levels stay.
    pub fn reset(&mut self) {
        let lint = self.state.lint;
        *self = Self::new(self.cpu).with_deadline(self.has_deadline);
        self.state.lint = lint;
    }

    /// What an INIT message does: everything but the id, the base register and the input levels.
    pub fn init(&mut self) {
        let (base, id, lint) = (self.state.base, self.state.id, self.state.lint);
        self.state = State { base, id, lint, ..Self::new(self.cpu).state };
        self.owed.forget();
    }

    /// Address of the register page, `None` while globally disabled.
    #[must_use]
    pub fn page(&self) -> Option<u64> {
        self.hardware_enabled().then_some(self.state.base & BASE_ADDRESS)
    }

    /// IA32_APIC_BASE.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.state.base
    }

    /// Writes IA32_APIC_BASE. Disabling resets the registers, the id too (SDM, "Enabling or Disabling the Local APIC").
    pub fn set_base(&mut self, value: u64) {
        let was = self.hardware_enabled();
        self.state.base = value & (BASE_ADDRESS | BASE_ENABLE) | self.state.base & BASE_BSP;
        if was && !self.hardware_enabled() {
            self.init();
            self.state.id = self.cpu;
        }
    }

    fn hardware_enabled(&self) -> bool {
        self.state.base & BASE_ENABLE != 0
    }

    /// Whether fixed interrupts are accepted.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.hardware_enabled() && self.state.svr & SVR_ENABLE != 0
    }

    /// APIC id.
    #[must_use]
    pub fn id(&self) -> u8 {
        self.state.id
    }

    /// CR8: bits 7:4 of the task priority.
    #[must_use]
    pub fn cr8(&self) -> u8 {
        self.state.tpr >> 4
    }

    /// Writes CR8.
    pub fn set_cr8(&mut self, value: u8) {
        self.state.tpr = value << 4;
    }

    /// Processor priority.
    #[must_use]
    pub fn ppr(&self) -> u8 {
        let serving = self.state.isr.highest().unwrap_or(0) & 0xf0;
        if self.state.tpr & 0xf0 >= serving { self.state.tpr } else { serving }
    }

    fn deliverable(&self) -> Option<u8> {
        if !self.enabled() {
            return None;
        }
        self.state.irr.highest().filter(|vector| vector & 0xf0 > self.ppr() & 0xf0)
    }

    /// Whether the 8259's INTR passes through LINT0 as ExtINT.
    #[must_use]
    pub fn accepts_pic(&self) -> bool {
        let entry = self.state.lvt[LINT0];
        !self.hardware_enabled()
            || entry & LVT_MASKED == 0 && DeliveryMode::from_bits(entry) == DeliveryMode::ExtInt
    }

    /// Whether LINT0 leads anywhere, in whatever mode.
    #[must_use]
    pub fn takes_lint0(&self) -> bool {
        !self.hardware_enabled() || self.state.lvt[LINT0] & LVT_MASKED == 0
    }

    /// Whether a write of `value` at `offset` may change that, here or, by an INIT message, of another APIC.
    #[must_use]
    pub fn rewires_lint0(offset: u16, value: u32) -> bool {
        match offset & 0xff0 {
            SVR | LVT_LINT0 => true,
            ICR_LOW => DeliveryMode::from_bits(value) == DeliveryMode::Init,
            _ => false,
        }
    }

    /// Whether an interrupt of the APIC's own (not one through LINT0) waits.
    #[must_use]
    pub fn pending(&self) -> bool {
        self.state.ext_int || self.deliverable().is_some()
    }

    /// Takes the interrupt with the highest priority, moving it in service.
    pub fn acknowledge(&mut self, now: u64) -> Option<u8> {
        let vector = self.deliverable()?;
        self.state.irr.set(vector, false);
        self.state.isr.set(vector, true);
        if self.owed.any() && vector == self.state.lvt[TIMER] as u8 {
            self.owed.acknowledged(now, self.period());
        }
        Some(vector)
    }

    /// Whether an interrupt with this vector waits to be acknowledged.
    #[must_use]
    pub fn is_requested(&self, vector: u8) -> bool {
        self.state.irr.get(vector)
    }

    /// The CPU halts: what is owed of the timer comes at once. `false` when there is nothing.
    pub fn idle(&mut self, now: u64) -> bool {
        let repays = self.repayment().is_some();
        if repays {
            self.owed.hurry(now);
            self.poll(now);
        }
        repays
    }

    /// When a period comes that is owed: never while the one before waits.
    fn repayment(&self) -> Option<u64> {
        let entry = self.state.lvt[TIMER];
        let due = self.owed.due()?;
        (self.periodic() && entry & LVT_MASKED == 0 && self.enabled() && !self.is_requested(entry as u8))
            .then_some(due)
    }

    /// Takes a waiting ExtINT message.
    pub fn take_ext_int(&mut self) -> bool {
        std::mem::take(&mut self.state.ext_int)
    }

    /// Whether a message sent by `sender` to `destination` is for this APIC.
    #[must_use]
    pub fn matches(&self, destination: Destination, sender: Option<u8>) -> bool {
        if !self.hardware_enabled() {
            return false;
        }
        match destination {
            Destination::Physical(id) => id == 0xff || id == self.state.id,
            Destination::Logical(address) => match self.state.dfr >> 28 {
                0xf => address & self.state.ldr != 0,
                0 => {
                    let cluster = address >> 4 == 0xf || (address ^ self.state.ldr) & 0xf0 == 0;
                    cluster && address & self.state.ldr & 0x0f != 0
                }
                _ => false,
            },
            Destination::Sender => sender == Some(self.cpu),
            Destination::All => true,
            Destination::Others => sender != Some(self.cpu),
        }
    }

    /// Accepts a fixed interrupt; `false` while software disabled.
    pub fn accept(&mut self, vector: u8, level: bool) -> bool {
        if !self.enabled() {
            return false;
        }
        if vector < 16 {
            self.error(ESR_RECEIVE_ILLEGAL);
            return true;
        }
        self.state.irr.set(vector, true);
        self.state.tmr.set(vector, level);
        true
    }

    /// Accepts an ExtINT message.
    pub fn accept_ext_int(&mut self) {
        self.state.ext_int = true;
    }

    fn error(&mut self, bits: u32) {
        self.state.errors |= bits;
        let entry = self.state.lvt[ERROR];
        // The error entry's own vector must not recurse into another error.
        if entry & LVT_MASKED == 0 && self.enabled() && entry & 0xf0 != 0 {
            self.state.irr.set(entry as u8, true);
            self.state.tmr.set(entry as u8, false);
        }
    }

    /// Drives LINT0 or LINT1. Returns what a rising edge asks for beside a fixed interrupt: NMI, SMI or INIT.
    pub fn set_lint(&mut self, pin: u8, level: bool) -> Option<DeliveryMode> {
        let mask = 1u8 << (pin & 1);
        let rising = level && self.state.lint & mask == 0;
        self.state.lint = if level { self.state.lint | mask } else { self.state.lint & !mask };
        if !rising || !self.hardware_enabled() {
            return None;
        }
        let entry = self.state.lvt[if pin & 1 == 0 { LINT0 } else { LINT1 }];
        if entry & LVT_MASKED != 0 {
            return None;
        }
        match DeliveryMode::from_bits(entry) {
            DeliveryMode::Fixed => {
                self.accept(entry as u8, false);
                None
            }
            mode @ (DeliveryMode::Nmi | DeliveryMode::Smi | DeliveryMode::Init) => Some(mode),
            _ => None,
        }
    }

    /// Nanoseconds of one timer count.
    fn tick(&self) -> u64 {
        let divide = self.state.divide;
        let shift = ((divide & 3) | (divide >> 1 & 4)).wrapping_add(1) & 7;
        1 << shift
    }

    fn period(&self) -> u64 {
        u64::from(self.state.initial) * self.tick()
    }

    fn periodic(&self) -> bool {
        self.state.lvt[TIMER] & (LVT_PERIODIC | LVT_DEADLINE) == LVT_PERIODIC
    }

    /// Whether the time-stamp counter decides, and not the count.
    fn waits_for_deadline(&self) -> bool {
        self.state.lvt[TIMER] & LVT_DEADLINE != 0
    }

    /// IA32_TSC_DEADLINE at `now`.
    pub fn deadline(&mut self, now: u64) -> u64 {
        self.poll(now);
        self.state.deadline
    }

    /// Writes IA32_TSC_DEADLINE; the counter has that value at guest time `due`. Of no effect in the timer's other modes.
    pub fn set_deadline(&mut self, value: u64, due: u64, now: u64) {
        if self.waits_for_deadline() {
            self.state.deadline = value;
            self.state.due = (value != 0).then_some(due);
            self.poll(now);
        }
    }

    /// Current count of the timer.
    fn current_count(&self, now: u64) -> u32 {
        let period = self.period();
        if period == 0 || self.waits_for_deadline() {
            return 0;
        }
        if self.periodic() && self.state.due.is_none() {
            // A single shot was over before the mode was changed: "remains at its 0 value until reprogrammed".
            return 0;
        }
        let elapsed = now.saturating_sub(self.state.loaded);
        let left = if self.periodic() { period - elapsed % period } else { period.saturating_sub(elapsed) };
        u32::try_from(left.div_ceil(self.tick())).unwrap_or(u32::MAX)
    }

    fn arm(&mut self, now: u64) {
        let period = self.period();
        self.state.due = if period == 0 {
            None
        } else if self.periodic() {
            let elapsed = now.saturating_sub(self.state.loaded);
            Some(
                self.state.loaded.saturating_add((elapsed / period).saturating_add(1).saturating_mul(period)),
            )
        } else {
            Some(self.state.loaded.saturating_add(period)).filter(|due| *due > now)
        };
    }

    /// Fires the timer when due.
    pub fn poll(&mut self, now: u64) {
        if let Some(due) = self.state.due
            && now >= due
        {
            self.expire(due, now);
        }
        if self.repayment().is_some_and(|due| due <= now) {
            let period = self.period();
            self.owed.take(now, period);
            self.accept(self.state.lvt[TIMER] as u8, false);
        }
    }

    fn expire(&mut self, due: u64, now: u64) {
        let entry = self.state.lvt[TIMER];
        let vector = entry as u8;
        let wanted = entry & LVT_MASKED == 0;
        if self.waits_for_deadline() {
            (self.state.due, self.state.deadline) = (None, 0);
        } else {
            if self.periodic() && wanted && self.enabled() && vector >= 16 {
                let period = self.period().max(1);
                let waits = u64::from(self.is_requested(vector));
                self.owed.add(now.saturating_sub(due) / period + waits, period);
            }
            self.arm(now);
        }
        if wanted {
            self.accept(vector, false);
        }
    }

    /// When the timer next interrupts.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        if self.state.lvt[TIMER] & LVT_MASKED != 0 || !self.enabled() {
            return None;
        }
        self.state.due.into_iter().chain(self.repayment()).min()
    }

    /// Reads the 32-bit register at `offset` of the page (the low four bits do not matter).
    pub fn read(&mut self, offset: u16, now: u64) -> u32 {
        self.poll(now);
        let register = offset & 0xff0;
        let state = &self.state;
        let index = (register >> 4 & 7) as u8;
        match register {
            ID => u32::from(state.id) << 24,
            LVR => VERSION,
            TPR => u32::from(state.tpr),
            APR => self.arbitration_priority(),
            PPR => u32::from(self.ppr()),
            EOI => 0,
            LDR => u32::from(state.ldr) << 24,
            DFR => state.dfr,
            SVR => state.svr,
            ISR..TMR => state.isr.word(index),
            TMR..IRR => state.tmr.word(index),
            IRR..ESR => state.irr.word(index),
            ESR => state.esr,
            ICR_LOW => state.icr[0],
            ICR_HIGH => state.icr[1],
            LVT_TIMER..=LVT_ERROR => {
                let index = usize::from((register - LVT_TIMER) >> 4);
                state.lvt.get(index).copied().unwrap_or(0)
            }
            TIMER_INITIAL => state.initial,
            TIMER_CURRENT => self.current_count(now),
            TIMER_DIVIDE => u32::from(state.divide),
            _ => {
                self.error(ESR_ILLEGAL_REGISTER);
                0
            }
        }
    }

    fn arbitration_priority(&self) -> u32 {
        let requested = u32::from(self.state.irr.highest().unwrap_or(0) & 0xf0);
        let task = u32::from(self.state.tpr);
        if task & 0xf0 >= requested { task } else { requested }
    }

    /// Writes the 32-bit register at `offset` of the page.
    pub fn write(&mut self, offset: u16, value: u32, now: u64) -> Option<Effect> {
        self.poll(now);
        let by_deadline = self.waits_for_deadline();
        let state = &mut self.state;
        let register = offset & 0xff0;
        if matches!(register, SVR | LVT_TIMER | TIMER_INITIAL | TIMER_DIVIDE) {
            self.owed.forget();
        }
        match register {
            ID => state.id = (value >> 24) as u8,
            TPR => state.tpr = value as u8,
            EOI => return self.end_of_interrupt(),
            LDR => state.ldr = (value >> 24) as u8,
            DFR => state.dfr = value | 0x0fff_ffff,
            SVR => {
                state.svr = value & SVR_WRITABLE;
                if value & SVR_ENABLE == 0 {
                    state.lvt.iter_mut().for_each(|entry| *entry |= LVT_MASKED);
                }
            }
            ESR => state.esr = std::mem::take(&mut state.errors),
            ICR_LOW => {
                state.icr[0] = value & ICR_WRITABLE;
                return self.send();
            }
            ICR_HIGH => state.icr[1] = value & 0xff00_0000,
            LVT_TIMER..=LVT_ERROR => self.write_lvt(usize::from((register - LVT_TIMER) >> 4), value, now),
            TIMER_INITIAL if by_deadline => {}
            TIMER_DIVIDE if by_deadline => state.divide = (value & 0xb) as u8,
            TIMER_INITIAL => {
                state.initial = value;
                state.loaded = now;
                self.arm(now);
            }
            TIMER_DIVIDE => {
                // The count goes on from where it is, at the new rate.
                let left = self.current_count(now);
                let elapsed = u64::from(self.state.initial.saturating_sub(left));
                self.state.divide = (value & 0xb) as u8;
                self.state.loaded = now.saturating_sub(elapsed.saturating_mul(self.tick()));
                if self.state.due.is_some() {
                    self.arm(now);
                }
            }
            LVR | APR | PPR | TIMER_CURRENT | ISR..ESR => {}
            _ => self.error(ESR_ILLEGAL_REGISTER),
        }
        None
    }

    fn write_lvt(&mut self, index: usize, value: u32, now: u64) {
        let enabled = self.state.svr & SVR_ENABLE != 0;
        let writable = LVT_WRITABLE.get(index).copied().unwrap_or(0);
        let deadline = if index == TIMER && self.has_deadline { LVT_DEADLINE } else { 0 };
        let Some(entry) = self.state.lvt.get_mut(index) else { return };
        let (was_periodic, changed) = (*entry & LVT_PERIODIC != 0, *entry ^ value);
        *entry = value & (writable | deadline) | if enabled { 0 } else { LVT_MASKED };
        if changed & deadline != 0 {
            // "A write to the LVT timer register that changes the timer mode disarms the local APIC timer."
            (self.state.initial, self.state.due, self.state.deadline) = (0, None, 0);
            return;
        }
        if self.waits_for_deadline() {
            return;
        }
        let Some(entry) = self.state.lvt.get(index) else { return };
        if index == TIMER && was_periodic != (*entry & LVT_PERIODIC != 0) {
            if was_periodic {
                // Carry the phase over into the single shot that is left.
                let left = u64::from(self.current_count_as(true, now)) * self.tick();
                self.state.loaded = now.saturating_add(left).saturating_sub(self.period());
            }
            if self.state.due.is_some() {
                self.arm(now);
            }
        }
    }

    fn current_count_as(&self, periodic: bool, now: u64) -> u32 {
        let mut copy = self.clone();
        let entry = &mut copy.state.lvt[TIMER];
        *entry = if periodic { *entry | LVT_PERIODIC } else { *entry & !LVT_PERIODIC };
        copy.current_count(now)
    }

    fn end_of_interrupt(&mut self) -> Option<Effect> {
        let vector = self.state.isr.highest()?;
        self.state.isr.set(vector, false);
        self.state.tmr.get(vector).then_some(Effect::EndOfInterrupt(vector))
    }

    fn send(&mut self) -> Option<Effect> {
        let low = self.state.icr[0];
        let mode = DeliveryMode::from_bits(low);
        let id = (self.state.icr[1] >> 24) as u8;
        let destination = match low >> 18 & 3 {
            0 if low & ICR_LOGICAL != 0 => Destination::Logical(id),
            0 => Destination::Physical(id),
            1 => Destination::Sender,
            2 => Destination::All,
            _ => Destination::Others,
        };
        let level = low & ICR_LEVEL != 0;
        if mode == DeliveryMode::Init && level && low & ICR_ASSERT == 0 {
            // INIT level de-assert only synchronised arbitration ids.
            return None;
        }
        let vector = low as u8;
        match mode {
            DeliveryMode::Reserved | DeliveryMode::ExtInt => return None,
            DeliveryMode::Fixed | DeliveryMode::LowestPriority if vector < 16 => {
                self.error(ESR_SEND_ILLEGAL);
                return None;
            }
            _ => {}
        }
        Some(Effect::Send(Message { vector, mode, destination, level: false }))
    }

    /// Makes values read from a saved form safe to use.
    pub(crate) fn sanitise(&mut self, cpu: u8) {
        self.cpu = cpu;
        self.state.base &= BASE_ADDRESS | BASE_ENABLE | BASE_BSP;
        self.state.divide &= 0xb;
        for (entry, writable) in self.state.lvt.iter_mut().zip(LVT_WRITABLE) {
            *entry &= writable | LVT_DEADLINE;
        }
        if !self.has_deadline {
            self.state.lvt[TIMER] &= !LVT_DEADLINE;
        }
    }
}
