#![forbid(unsafe_code)]
//! System control port A: fast A20 gate and fast reset.
//!
//! Region 0: port 0x92. Line 0: A20 (level; the machine combines it with the keyboard controller's). Line 1: processor reset (pulse).
//! Restart class: checkpointed. The write is sync: the memory map must have changed before the next instruction.
//!
//! # Deviations from hardware
//! None known.
//!
//! # Not emulated
//! The activity lights and the security lock (bits are kept, nothing follows from them); the watchdog status bit reads 0.

pub mod spec;
mod state;
#[cfg(test)]
mod tests;

pub use state::State;

use bulkhead_bus::chip::{
    Access, BusError, Chip, Class, Description, Env, Outputs, Reg, Region, RestoreError, Rule,
};
use spec::{GATE_A20, HOT_RESET, KEPT};

/// Version of [`State`].
pub const VERSION: u32 = 1;
/// A20 gate, a level.
pub const LINE_A20: usize = 0;
/// Processor reset, pulses.
pub const LINE_RESET: usize = 1;

const RULES: &[Rule] = &[Rule::new(0, 1, Class::Mirror, Class::Sync)];
const REGIONS: &[Region] = &[Region { size: 1, rules: RULES }];

/// The port.
#[derive(Clone, Debug)]
pub struct Port92 {
    // Guest-visible state.
    value: u8,
    resets: u32,
}

impl Port92 {
    /// As after power-on.
    pub fn new() -> Port92 {
        Port92 { value: 0, resets: 0 }
    }
}

impl Default for Port92 {
    fn default() -> Self {
        Port92::new()
    }
}

impl Chip for Port92 {
    type State = State;
    const STATE_VERSION: u32 = VERSION;

    fn description(&self) -> Description {
        Description { part: "port 92h", regions: REGIONS, lines: &["a20", "reset"] }
    }

    fn reset(&mut self, _env: &mut Env<'_>) {
        let Port92 { value, resets: _ } = self;
        *value = 0;
    }

    fn read(&mut self, reg: Reg, _env: &mut Env<'_>) -> Access {
        reg.read_bytes(|offset| if offset == 0 { Ok(self.value.into()) } else { Err(BusError::Unclaimed) })
    }

    fn write(&mut self, reg: Reg, value: u64, _env: &mut Env<'_>) -> Result<(), BusError> {
        reg.write_bytes(value, |offset, value| {
            if offset != 0 {
                return Err(BusError::Unclaimed);
            }
            if value & !self.value & HOT_RESET != 0 {
                self.resets = self.resets.wrapping_add(1);
            }
            self.value = value & (HOT_RESET | GATE_A20 | KEPT);
            Ok(())
        })
    }

    fn peek(&self, _region: u8, _offset: u32) -> u8 {
        self.value
    }

    fn sync_outputs(&self, out: &mut Outputs) {
        out.level[LINE_A20] = self.value & GATE_A20 != 0;
        out.pulses[LINE_RESET] = self.resets;
    }

    fn save(&self) -> State {
        let Port92 { value, resets } = self;
        State { value: *value, resets: *resets, padding: [0; 3] }
    }

    fn restore(&mut self, state: &State) -> Result<(), RestoreError> {
        let State { resets, value, padding } = *state;
        if value & !(HOT_RESET | GATE_A20 | KEPT) != 0 || padding != [0; 3] {
            return Err(RestoreError { part: "port 92h", reason: "unknown bits" });
        }
        (self.value, self.resets) = (value, resets);
        Ok(())
    }
}
