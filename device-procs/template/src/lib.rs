#![forbid(unsafe_code)]
//! The example device: a countdown with one timer, one line and two registers. Copy this folder to start a new chip.
//!
//! Region 0: 2 ports (see [`spec`]). Line 0: `done`, a level. Restart class: checkpointed (everything is in [`State`]).
//!
//! What every chip has, in the same files: `lib.rs` behaviour, `spec.rs` the data sheet's names, `state.rs` the saved form,
//! `tests.rs`, and a `main.rs` of a few lines that turns the chip into a process. How the pieces work together:
//! - the bus calls one method at a time and then `sync_outputs`, `save`, commit. A chip never blocks, never asks for the
//!   time but `env.now`, and has no outputs but those it derives from its state;
//! - an error of an access is returned, not encoded: the bus reads all-ones for it;
//! - a rule says how the bus treats a register; without one it is sync, which is always right. COUNT may be posted: it
//!   cannot lower the line. STATUS must not be: it can.
//!
//! # Deviations from hardware
//! None: there is no hardware.
//!
//! # Not emulated
//! Nothing is left out.

pub mod spec;
mod state;
#[cfg(test)]
mod tests;

pub use state::State;

use bulkhead_bus::chip::{
    Access, BusError, Chip, Class, Description, Env, Outputs, Reg, Region, RestoreError, Rule,
};
use spec::{COUNT, DONE, STATUS, TICK_NS};

/// Version of [`State`].
pub const VERSION: u32 = 1;
/// Line number of the only output.
pub const LINE_DONE: usize = 0;

const RULES: &[Rule] = &[Rule::new(0, 1, Class::Sync, Class::Kick)];
const REGIONS: &[Region] = &[Region { size: 2, rules: RULES }];

/// The countdown.
///
/// A larger chip has four headed sections here: fixed configuration, runtime glue, book-keeping, guest-visible state.
#[derive(Clone, Debug)]
pub struct Countdown {
    // Guest-visible state.
    end: Option<u64>,
    status: u8,
}

impl Countdown {
    /// A stopped countdown.
    pub fn new() -> Countdown {
        Countdown { end: None, status: 0 }
    }

    fn read_byte(&self, offset: u64, now: u64) -> Access {
        match offset {
            COUNT => Ok(self.end.map_or(0, |end| end.saturating_sub(now) / TICK_NS)),
            STATUS => Ok(u64::from(self.status)),
            _ => Err(BusError::Unclaimed),
        }
    }

    fn write_byte(&mut self, offset: u64, value: u8, now: u64) -> Result<(), BusError> {
        match offset {
            COUNT if value == 0 => self.end = None,
            COUNT => self.end = Some(now.saturating_add(u64::from(value) * TICK_NS)),
            STATUS => self.status &= !value,
            _ => return Err(BusError::Unclaimed),
        }
        Ok(())
    }
}

impl Default for Countdown {
    fn default() -> Self {
        Countdown::new()
    }
}

impl Chip for Countdown {
    type State = State;
    const STATE_VERSION: u32 = VERSION;

    fn description(&self) -> Description {
        Description { part: "countdown", regions: REGIONS, lines: &["done"] }
    }

    fn reset(&mut self, _env: &mut Env<'_>) {
        // Destructured without `..`: a new field does not compile until someone decides what reset does to it.
        let Countdown { end, status } = self;
        *end = None;
        *status = 0;
    }

    fn read(&mut self, reg: Reg, env: &mut Env<'_>) -> Access {
        reg.read_bytes(|offset| self.read_byte(offset, env.now))
    }

    fn write(&mut self, reg: Reg, value: u64, env: &mut Env<'_>) -> Result<(), BusError> {
        reg.write_bytes(value, |offset, value| self.write_byte(offset, value, env.now))
    }

    fn timer(&mut self, env: &mut Env<'_>) {
        // The call may come late, and a successor may make it again: act on the state, not on the call.
        if self.end.is_some_and(|end| end <= env.now) {
            self.end = None;
            self.status |= DONE;
        }
    }

    fn sync_outputs(&self, out: &mut Outputs) {
        out.level[LINE_DONE] = self.status & DONE != 0;
        out.deadline = self.end;
    }

    fn save(&self) -> State {
        let Countdown { end, status } = self;
        State { end: end.unwrap_or(0), running: u8::from(end.is_some()), status: *status, padding: [0; 6] }
    }

    fn restore(&mut self, state: &State) -> Result<(), RestoreError> {
        let State { end, running, status, padding } = *state;
        let refuse = |reason| Err(RestoreError { part: "countdown", reason });
        if running > 1 || (running == 0 && end != 0) {
            return refuse("running is neither 0 nor 1");
        }
        if status & !DONE != 0 {
            return refuse("status has unknown bits");
        }
        if padding != [0; 6] {
            return refuse("padding is not zero");
        }
        self.end = (running == 1).then_some(end);
        self.status = status;
        Ok(())
    }
}
