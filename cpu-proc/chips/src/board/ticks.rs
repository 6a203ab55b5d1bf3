//! IRQ 0: ticks of the 8254, or of the HPET in its place, one by one to a CPU that could not take them in time.

use super::{Board, TIMER_PIN};
use crate::hpet::Route;
use crate::lapic::Lapic;
use crate::owed::MASKED_NS;

impl Board {
    /// The periodic source of IRQ 0, if it is one whose edges count: nanoseconds between two of them.
    fn tick_period(&self) -> Option<u64> {
        let period = if self.hpet.legacy() { self.hpet.tick_period() } else { self.pit.period() };
        period.filter(|_| !self.follows_tick_level())
    }

    /// Whether some input of IRQ 0 follows its level.
    pub(super) fn follows_tick_level(&self) -> bool {
        self.pic.follows_level(0) || self.config.ioapic && self.ioapic.follows_level(TIMER_PIN)
    }

    fn reaches_ioapic(&self) -> bool {
        self.config.ioapic && !self.ioapic.is_masked(TIMER_PIN)
    }

    /// Whether a tick gets through the 8259, and its INTR to anybody.
    fn reaches_pic(&self) -> bool {
        let pin = self.config.ioapic && !self.ioapic.is_masked(0);
        !self.pic.is_masked(0) && (pin || self.lapics.iter().any(Lapic::takes_lint0))
    }

    /// Whether somebody wants IRQ 0.
    pub(super) fn wants_ticks(&self) -> bool {
        self.reaches_pic() || self.reaches_ioapic()
    }

    /// Whether a tick waits to be acknowledged, so that another one would make no difference.
    fn tick_waits(&self) -> bool {
        let ioapic = self.reaches_ioapic();
        let target = if ioapic { self.ioapic.edge_target(TIMER_PIN) } else { None };
        let waits = target.is_some_and(|(vector, destination)| {
            let mut all = self.lapics.iter();
            all.any(|lapic| lapic.matches(destination, None) && lapic.is_requested(vector))
        });
        waits || (!ioapic || self.reaches_pic()) && self.pic.is_requested(0)
    }

    /// IRQ 0 has risen so many times since the last look, at least once.
    pub(super) fn tick(&mut self, rises: u64) {
        let merged = rises.saturating_sub(1).saturating_add(u64::from(self.tick_waits()));
        if merged != 0
            && let Some(period) = self.tick_period()
        {
            self.owed.add(merged, period);
        }
        self.edge(Route::Isa(0));
    }

    /// When a tick comes that is owed: never while one waits.
    pub(super) fn repayment(&self) -> Option<u64> {
        let due = self.owed.due()?;
        (self.wants_ticks() && !self.tick_waits()).then_some(due)
    }

    /// Lets a tick come that is owed.
    pub(super) fn repay(&mut self, now: u64) {
        if self.repayment().is_none_or(|due| due > now) {
            return;
        }
        match self.tick_period() {
            Some(period) => {
                self.owed.take(now, period);
                self.edge(Route::Isa(0));
                self.sync_outputs();
            }
            None => self.owed.forget(),
        }
    }

    /// Notes for how long nobody has wanted ticks.
    pub(super) fn note_mask(&mut self, now: u64) {
        if !self.wants_ticks() {
            self.masked_since.get_or_insert(now);
        } else if let Some(since) = self.masked_since.take()
            && now.saturating_sub(since) >= MASKED_NS
        {
            self.owed.forget();
        }
    }

    /// CPU `cpu` has nothing to do at `now`: what its timers owe comes at once. Whether something has.
    pub fn idle(&mut self, cpu: u8, now: u64) -> bool {
        let ticks = cpu == 0 && self.repayment().is_some();
        if ticks {
            self.owed.hurry(now);
        }
        let periods = self.lapics.get_mut(usize::from(cpu)).is_some_and(|lapic| lapic.idle(now));
        if ticks || periods {
            self.update(now);
        }
        ticks || periods
    }

    /// The interrupt acknowledge of `cpu`: the vector to take, `None` when the request has gone.
    pub fn acknowledge(&mut self, cpu: u8, now: u64) -> Option<u8> {
        self.poll(now);
        let waited = self.owed.any() && self.tick_waits();
        let vector = self.take_vector(cpu, now);
        if waited
            && !self.tick_waits()
            && let Some(period) = self.tick_period()
        {
            self.owed.acknowledged(now, period);
        }
        let own = self.lapics.get(usize::from(cpu)).and_then(|lapic| lapic.next_deadline());
        if let Some(due) = own {
            self.due = self.due.min(due);
        }
        if let Some(due) = self.repayment() {
            self.common_due = self.common_due.min(due);
            self.due = self.due.min(due);
        }
        vector
    }
}
