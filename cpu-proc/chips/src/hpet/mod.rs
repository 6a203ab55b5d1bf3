//! High precision event timers: three 64-bit comparators at 100 MHz.
//!
//! MMIO at FED00000h; IRQ 0 and 8 in legacy replacement mode, else IOAPIC input 2. Not restarted: ends with the CPU process.
//!
//! *Deviations from hardware*: periods that a late host skips become one interrupt, but for timer 0 as IRQ 0 in edge mode and legacy
//! replacement, where they are owed (`crate::owed`). For level interrupts that is the rule: one that is due while the last is active
//! leaves it active (specification, `Tn_INT_TYPE_CNF`). Edges are merged by the interrupt controller too when nobody takes the first in
//! time, but a processor that runs would have taken them. A guest that counts such edges of timers 1 and 2, or of timer 0 at another
//! input, finds what it missed in the main counter, which is never late.
//!
//! *Not emulated*: FSB (message) interrupts, which the capability bits do not offer.

pub mod spec;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use spec::*;

/// One comparator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Timer {
    config: u64,
    comparator: u64,
    period: u64,
    /// Guest time of the next match.
    due: Option<u64>,
}

impl Timer {
    fn new() -> Self {
        Self { config: PERIODIC_CAP | SIZE_CAP | ROUTES << 32, comparator: u64::MAX, period: 0, due: None }
    }

    fn width(&self) -> u64 {
        if self.config & MODE32 != 0 { 0xffff_ffff } else { u64::MAX }
    }

    /// Counts from `count` to the next match, at least `least`.
    fn distance(&self, count: u64, least: u64) -> u128 {
        let distance = self.comparator.wrapping_sub(count) & self.width();
        if distance < least {
            u128::from(distance) + u128::from(self.width()) + 1
        } else {
            u128::from(distance)
        }
    }

    /// Moves a periodic comparator past `count`; returns the periods skipped.
    fn advance(&mut self, count: u64) -> u64 {
        let width = self.width();
        let period = self.period & width;
        if self.config & PERIODIC == 0 || period == 0 {
            return 0;
        }
        let late = count.wrapping_sub(self.comparator) & width;
        let steps = late / period;
        let ahead = period.wrapping_mul(steps.wrapping_add(1));
        self.comparator = self.comparator.wrapping_add(ahead) & width;
        steps
    }
}

/// The timer block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hpet {
    config: u64,
    /// Level interrupts, a bit a timer.
    status: u32,
    timers: [Timer; TIMERS],
    /// Main counter at `since`.
    count: u64,
    /// Guest time of `count`; meaningless while halted.
    since: u64,
    /// Edge interrupts not collected yet, a bit a timer.
    fired: u32,
    /// Periods of timer 0 skipped by the last [`Self::poll`].
    skipped: u64,
}

impl Default for Hpet {
    fn default() -> Self {
        Self::new()
    }
}

/// Where a timer's interrupt goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// ISA interrupt in legacy replacement mode.
    Isa(u8),
    /// IOAPIC input.
    Pin(u8),
}

impl Hpet {
    /// Halted at zero.
    #[must_use]
    pub fn new() -> Self {
        Self {
            config: 0,
            status: 0,
            timers: [Timer::new(), Timer::new(), Timer::new()],
            count: 0,
            since: 0,
            fired: 0,
            skipped: 0,
        }
    }

    /// Power-on values.
    pub fn reset(&mut self) {
        *self = Self::new();
    }

    fn running(&self) -> bool {
        self.config & ENABLE != 0
    }

    /// Whether IRQ 0 and 8 belong to timers 0 and 1.
    #[must_use]
    pub fn legacy(&self) -> bool {
        self.config & LEGACY != 0
    }

    fn counter(&self, now: u64) -> u64 {
        if self.running() {
            self.count.wrapping_add(now.saturating_sub(self.since) / PERIOD_NS)
        } else {
            self.count
        }
    }

    /// Guest time at which the counter reached its present value.
    fn counter_time(&self, now: u64) -> u64 {
        now - now.saturating_sub(self.since) % PERIOD_NS
    }

    fn arm(&mut self, index: usize, now: u64, least: u64) {
        let (count, start, running) = (self.counter(now), self.counter_time(now), self.running());
        if let Some(timer) = self.timers.get_mut(index) {
            let wait = timer.distance(count, least).saturating_mul(u128::from(PERIOD_NS));
            let due = u64::try_from(wait).ok().and_then(|wait| start.checked_add(wait));
            timer.due = due.filter(|_| running);
        }
    }

    fn arm_all(&mut self, now: u64) {
        for index in 0..TIMERS {
            self.arm(index, now, 0);
        }
    }

    /// Processes the matches up to `now`.
    pub fn poll(&mut self, now: u64) {
        for index in 0..TIMERS {
            let count = self.counter(now);
            let Some(timer) = self.timers.get_mut(index) else { continue };
            if timer.due.is_none_or(|due| now < due) {
                continue;
            }
            let skipped = timer.advance(count);
            let enabled = timer.config & INT_ENABLE != 0;
            if index == 0 && enabled {
                self.skipped = self.skipped.saturating_add(skipped);
            }
            if timer.config & LEVEL != 0 {
                // "If this bit is 0, the timer can still count and generate appropriate status bits, but will not cause an
                // interrupt" (specification 1.0a, Tn_INT_ENB_CNF).
                self.status |= 1 << index;
            } else if enabled {
                self.fired |= 1 << index;
            }
            self.arm(index, now, 1);
        }
    }

    /// Takes the edge interrupts fired since the last call, a bit a timer.
    pub fn take_fired(&mut self) -> u32 {
        std::mem::take(&mut self.fired)
    }

    /// Takes the number of periods of timer 0 that were skipped since the last call.
    pub fn take_skipped(&mut self) -> u64 {
        std::mem::take(&mut self.skipped)
    }

    /// Nanoseconds between two edges of timer 0 as IRQ 0, while they are periodic.
    #[must_use]
    pub fn tick_period(&self) -> Option<u64> {
        let timer = self.timers.first()?;
        let period = (timer.period & timer.width()).saturating_mul(PERIOD_NS);
        let ticks = timer.config & (PERIODIC | INT_ENABLE | LEVEL) == PERIODIC | INT_ENABLE;
        (self.legacy() && self.running() && ticks && period != 0).then_some(period)
    }

    /// Whether a write at `offset` programs timer 0 or the way of its interrupt anew.
    #[must_use]
    pub fn programs_timer0(offset: u16) -> bool {
        matches!(offset & 0x3f8, GEN_CONF | TIMER..0x120)
    }

    /// Whether timer `index` holds its level interrupt asserted.
    #[must_use]
    pub fn level(&self, index: usize) -> bool {
        let enabled = self.timers.get(index).is_some_and(|timer| timer.config & INT_ENABLE != 0);
        self.running() && enabled && self.status & 1 << index != 0
    }

    /// Where timer `index` interrupts; `None` for an input it may not use.
    #[must_use]
    pub fn route(&self, index: usize) -> Option<Route> {
        let timer = self.timers.get(index)?;
        match (index, self.legacy()) {
            (0, true) => Some(Route::Isa(0)),
            (1, true) => Some(Route::Isa(8)),
            _ => {
                let pin = (timer.config >> ROUTE_SHIFT & 0x1f) as u8;
                (ROUTES >> pin & 1 != 0).then_some(Route::Pin(pin))
            }
        }
    }

    /// When the next interrupt is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.timers.iter().filter(|timer| timer.config & INT_ENABLE != 0).filter_map(|timer| timer.due).min()
    }

    /// Reads the 64-bit register that `offset` lies in.
    pub fn read(&mut self, offset: u16, now: u64) -> u64 {
        self.poll(now);
        match offset & 0x3f8 {
            GCAP_ID => CAPABILITIES,
            GEN_CONF => self.config,
            GINTR_STA => u64::from(self.status),
            MAIN_CNT => self.counter(now),
            register @ TIMER.. => {
                let register = register - TIMER;
                let Some(timer) = self.timers.get(usize::from(register >> 5)) else { return 0 };
                match register & 0x18 {
                    0x00 => timer.config,
                    0x08 => timer.comparator & timer.width(),
                    _ => 0,
                }
            }
            _ => 0,
        }
    }

    /// Writes those bits of the 64-bit register at `offset` that `mask` selects.
    pub fn write(&mut self, offset: u16, value: u64, mask: u64, now: u64) {
        self.poll(now);
        match offset & 0x3f8 {
            GEN_CONF => {
                let count = self.counter(now);
                let was = self.config;
                self.config = (was & !mask | value & mask) & (ENABLE | LEGACY);
                if (was ^ self.config) & ENABLE != 0 {
                    self.count = count;
                    self.since = now;
                    self.arm_all(now);
                }
            }
            GINTR_STA => self.status &= !((value & mask) as u32),
            MAIN_CNT => {
                self.count = self.counter(now) & !mask | value & mask;
                self.since = now;
                self.arm_all(now);
            }
            register @ TIMER.. => {
                let index = usize::from((register - TIMER) >> 5);
                match register & 0x18 {
                    0x00 => self.write_config(index, value, mask, now),
                    0x08 => self.write_comparator(index, value, mask, now),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn write_config(&mut self, index: usize, value: u64, mask: u64, now: u64) {
        let Some(timer) = self.timers.get_mut(index) else { return };
        let mask = mask & WRITABLE;
        timer.config = timer.config & !mask | value & mask;
        if timer.config & MODE32 != 0 {
            timer.comparator &= 0xffff_ffff;
            timer.period &= 0xffff_ffff;
        }
        if timer.config & LEVEL == 0 {
            self.status &= !(1 << index);
        }
        self.arm(index, now, 1);
    }

    /// Each write takes [`VALUE_SET`] back, one of half the register too: software that has but 32 bits sets it before each half (Intel Atom
    /// C2000, 330061, "Programming the HPET", non-periodic mode).
    fn write_comparator(&mut self, index: usize, value: u64, mask: u64, now: u64) {
        let Some(timer) = self.timers.get_mut(index) else { return };
        let periodic = timer.config & PERIODIC != 0;
        let width = timer.width();
        if !periodic || timer.config & VALUE_SET != 0 {
            timer.comparator = (timer.comparator & !mask | value & mask) & width;
        }
        if periodic {
            timer.period = (timer.period & !mask | value & mask) & width;
        }
        timer.config &= !VALUE_SET;
        self.arm(index, now, 0);
    }

    /// The text of the monitor's `info hpet`.
    #[must_use]
    pub fn describe(&self, now: u64) -> String {
        let mut text = format!(
            "hpet: {}, counter {:#x}, legacy replacement {}, status {:#x}\n",
            if self.running() { "running" } else { "halted" },
            self.counter(now),
            if self.legacy() { "on" } else { "off" },
            self.status
        );
        for (index, timer) in self.timers.iter().enumerate() {
            let on = |bit: u64, yes: &'static str, no: &'static str| {
                if timer.config & bit != 0 { yes } else { no }
            };
            text += &format!(
                "timer {index}: {} {} {} {}, comparator {:#x}, period {:#x}, input {}\n",
                on(INT_ENABLE, "enabled", "disabled"),
                on(PERIODIC, "periodic", "one-shot"),
                on(LEVEL, "level", "edge"),
                on(MODE32, "32-bit", "64-bit"),
                timer.comparator,
                timer.period,
                timer.config >> ROUTE_SHIFT & 0x1f
            );
        }
        text
    }

    /// Makes values read from a saved form safe to use.
    pub(crate) fn sanitise(&mut self) {
        self.config &= ENABLE | LEGACY;
        self.status &= (1 << TIMERS) - 1;
        self.fired &= (1 << TIMERS) - 1;
        for timer in &mut self.timers {
            timer.config = timer.config & WRITABLE | PERIODIC_CAP | SIZE_CAP | ROUTES << 32;
        }
    }
}
