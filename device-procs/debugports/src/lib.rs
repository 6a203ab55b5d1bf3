#![forbid(unsafe_code)]
//! The Bochs BIOS debug ports, the power-off port 0x8900 and `isa-debug-exit`.
//!
//! Regions: 0 port 0x402, 1 port 0x403, 2 port 0x500 (text), 3 port 0x8900, 4 the exit ports (1 to 4, when configured). Line 0:
//! power-off (pulse). Line 1: exit (pulse); its value is what was written, of which the machine makes the exit status. Byte link
//! 0: the debug console; without one, or while it is full, text is dropped. Restart class: checkpointed.
//!
//! Text is posted, power-off letters are kicked, the exit port is sync.
//!
//! # Deviations from hardware
//! There is no hardware.
//!
//! # Not emulated
//! The panic ports 0x400, 0x401, 0x501 and 0x502, which only old Bochs firmware writes to.

pub mod spec;
mod state;
#[cfg(test)]
mod tests;

pub use state::State;

use bulkhead_bus::chip::{
    self, Access, BusError, Chip, Class, Description, Env, Outputs, Reg, Region, RestoreError, Rule,
};
use bulkhead_bus::config::DebugPortsConfig;
use bulkhead_bus::wire;
use spec::*;

/// Version of [`State`].
pub const VERSION: u32 = 1;
/// Power-off, pulses.
pub const LINE_POWER_OFF: usize = 0;
/// Exit, pulses with a value.
pub const LINE_EXIT: usize = 1;

const TEXT: Region = Region { size: 1, rules: &[Rule::new(0, 1, Class::Sync, Class::Posted)] };
const LETTERS: Region = Region { size: 1, rules: &[Rule::new(0, 1, Class::Sync, Class::Kick)] };

const fn with_exit(size: u64) -> [Region; 5] {
    [TEXT, TEXT, TEXT, LETTERS, Region { size, rules: &[] }]
}

const REGIONS: [&[Region]; 5] =
    [&[TEXT, TEXT, TEXT, LETTERS], &with_exit(1), &with_exit(2), &with_exit(3), &with_exit(4)];

/// The ports.
#[derive(Clone, Debug)]
pub struct DebugPorts {
    // Fixed configuration.
    regions: &'static [Region],
    // Guest-visible state.
    state: State,
}

impl DebugPorts {
    /// From the configuration of the role.
    ///
    /// # Errors
    /// When there are to be more than four exit ports.
    pub fn new(config: &DebugPortsConfig) -> Result<DebugPorts, String> {
        let regions =
            REGIONS.get(usize::from(config.exit_ports)).ok_or("isa-debug-exit has at most 4 ports")?;
        Ok(DebugPorts { regions, state: bytemuck::Zeroable::zeroed() })
    }

    /// From the encoded configuration in a manifest.
    ///
    /// # Errors
    /// When it does not decode or does not fit.
    pub fn from_config(bytes: &[u8]) -> Result<DebugPorts, String> {
        DebugPorts::new(&wire::decode(bytes).map_err(|_| "malformed configuration".to_owned())?)
    }

    fn text(&mut self, bytes: &[u8], env: &Env<'_>) {
        if let Some(console) = env.bytes.first() {
            let sent = console.send_at(self.state.sent, bytes);
            self.state.sent = self.state.sent.wrapping_add(sent as u32);
        }
    }

    fn letter(&mut self, byte: u8) {
        let expected = SHUTDOWN.get(usize::from(self.state.matched));
        self.state.matched = if expected == Some(&byte) { self.state.matched + 1 } else { 0 };
        if usize::from(self.state.matched) == SHUTDOWN.len() {
            self.state.matched = 0;
            self.state.shutdowns = self.state.shutdowns.wrapping_add(1);
        }
    }
}

impl Chip for DebugPorts {
    type State = State;
    const STATE_VERSION: u32 = VERSION;

    fn description(&self) -> Description {
        Description { part: "debug ports", regions: self.regions, lines: &["power-off", "exit"] }
    }

    fn reset(&mut self, _env: &mut Env<'_>) {
        let DebugPorts { regions: _, state } = self;
        state.matched = 0;
    }

    fn read(&mut self, reg: Reg, _env: &mut Env<'_>) -> Access {
        match reg.region {
            BIOS_INFO => reg
                .read_bytes(|offset| if offset == 0 { Ok(PRESENT.into()) } else { Err(BusError::Unclaimed) }),
            EXIT => Ok(0),
            _ => Err(BusError::Rejected),
        }
    }

    fn write(&mut self, reg: Reg, value: u64, env: &mut Env<'_>) -> Result<(), BusError> {
        match reg.region {
            BIOS_INFO | BIOS_DEBUG | VGABIOS_INFO => self.text(&[value as u8], env),
            POWER => self.letter(value as u8),
            EXIT => {
                let ones = u64::MAX >> (64 - 8 * u32::from(reg.size.clamp(1, 4)));
                self.state.exit_value = (value & ones) as u32;
                self.state.exits = self.state.exits.wrapping_add(1);
            }
            _ => return Err(BusError::Unclaimed),
        }
        Ok(())
    }

    fn write_block(&mut self, reg: Reg, data: &[u8], env: &mut Env<'_>) -> Result<(), BusError> {
        if reg.region > VGABIOS_INFO || reg.size != 1 {
            return chip::write_units(self, reg, data, env);
        }
        self.text(data, env);
        Ok(())
    }

    fn sync_outputs(&self, out: &mut Outputs) {
        out.pulses[LINE_POWER_OFF] = self.state.shutdowns;
        out.pulses[LINE_EXIT] = self.state.exits;
        out.value[LINE_EXIT] = self.state.exit_value;
    }

    fn save(&self) -> State {
        let DebugPorts { regions: _, state } = self;
        *state
    }

    fn restore(&mut self, state: &State) -> Result<(), RestoreError> {
        let refuse = |reason| Err(RestoreError { part: "debug ports", reason });
        if usize::from(state.matched) >= SHUTDOWN.len() {
            return refuse("more letters matched than the word has");
        }
        if state.padding != [0; 3] {
            return refuse("padding is not zero");
        }
        self.state = *state;
        Ok(())
    }
}
