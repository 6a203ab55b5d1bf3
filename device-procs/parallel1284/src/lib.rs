#![forbid(unsafe_code)]
//! The standard parallel port (SPP) with a printer behind it that takes every byte: IEEE 1284 compatibility mode.
//!
//! Region 0: 3 ports (LPT1 at 0x378). Line 0: the interrupt (IRQ 7). Byte link 0: the character back end; without one, what is printed
//! is dropped. Restart class: checkpointed; the byte link is written by a position kept in the state, so that a restart neither loses
//! nor doubles a byte.
//!
//! A byte is taken from the data pins when the strobe begins, if the printer is selected and not held in reset. Busy stays
//! until the byte is in the link, so a back end that takes nothing makes the guest wait. Then comes nAck, the interrupt if it is enabled.
//!
//! Bus classes: DATA is posted and mirrored, CONTROL kicked and mirrored. That is safe: the interrupt line is only ever pulsed, nothing
//! lowers it. STATUS is calm: reading it has an effect only while an acknowledge is being shown.
//!
//! # Deviations from hardware
//! - An acknowledge does not take microseconds but status reads: one shows Busy, the next Busy and nAck low, then both are over. A guest
//!   that waits for nAck (SeaBIOS for INT 17h) can so not miss it; it ends with the next strobe at the latest.
//! - The interrupt line gives one edge a byte instead of following nAck.
//! - After a reset CONTROL is 0Ch (printer selected and not in reset), as the firmware of a board would leave it, not 0. SeaBIOS counts on it.
//! - The time-out bit of STATUS, which only ports with EPP have, is set from a reset until the printer is reset by nInit, as with QEMU:
//!   Linux takes a port whose bit is clear, or can be cleared, for an EPP port, and SeaBIOS returns the bit to callers of INT 17h.
//! - A byte that is strobed while the printer is busy is lost, as with a real one.
//!
//! # Not emulated
//! EPP, ECP and their registers, byte and nibble mode: the printer says nothing, its data pins read as ones. What the back end sends is dropped.

pub mod spec;
mod state;
#[cfg(test)]
mod tests;

pub use state::State;

use bulkhead_bus::chip::{
    Access, BusError, Chip, Class, Control, Description, Env, Outputs, Reg, Region, RestoreError, Rule,
};
use spec::*;

/// Version of [`State`].
pub const VERSION: u32 = 1;
/// The interrupt line.
pub const LINE_INTR: usize = 0;

const RULES: &[Rule] = &[
    Rule::new(0, 1, Class::Mirror, Class::Posted),
    Rule::new(1, 2, Class::Calm, Class::Sync),
    Rule::new(2, 3, Class::Mirror, Class::Kick),
];
const REGIONS: &[Region] = &[Region { size: REGISTERS as u64, rules: RULES }];

/// One parallel port.
#[derive(Clone, Debug)]
pub struct Parallel1284 {
    // Guest-visible state.
    state: State,
}

impl Parallel1284 {
    /// After power-on.
    pub fn new() -> Parallel1284 {
        let mut port = Parallel1284 { state: bytemuck::Zeroable::zeroed() };
        port.power_on();
        port
    }

    /// The registers are reset. What the printer has taken it has.
    fn power_on(&mut self) {
        let State { sent, received, pulses, taken, waiting, .. } = self.state;
        self.state = State {
            sent,
            received,
            pulses,
            taken,
            waiting,
            due: waiting,
            control: CONTROL_INIT | CONTROL_SELECT,
            ..bytemuck::Zeroable::zeroed()
        };
    }

    /// What is on the data pins: nobody drives them when the port does not.
    fn pins(&self) -> u8 {
        if self.state.control & CONTROL_DIRECTION != 0 { 0xff } else { self.state.data }
    }

    fn status(&self) -> u8 {
        let State { due, showing, initialised, .. } = self.state;
        let mut value = STATUS_NO_ERROR | STATUS_SELECT;
        if due == 0 && showing == 0 {
            value |= STATUS_READY;
        }
        if showing != 1 {
            value |= STATUS_NO_ACK;
        }
        if initialised == 0 {
            value |= STATUS_TIMEOUT;
        }
        value
    }

    /// What each register reads as.
    fn value(&self, offset: u64) -> Option<u8> {
        match offset {
            DATA => Some(self.pins()),
            STATUS => Some(self.status()),
            CONTROL => Some(self.state.control | CONTROL_ONES),
            _ => None,
        }
    }

    fn read_byte(&mut self, offset: u64) -> Access {
        let value = self.value(offset).ok_or(BusError::Unclaimed)?;
        if offset == STATUS {
            self.state.showing = self.state.showing.saturating_sub(1);
        }
        Ok(value.into())
    }

    /// Passes on the byte that waits, and acknowledges it once it has gone and the strobe is over.
    fn flush(&mut self, env: &mut Env<'_>) {
        if self.state.waiting == 1 {
            let sent = match env.bytes.first() {
                Some(link) => link.send_at(self.state.sent, &[self.state.taken]),
                None => 1,
            };
            self.state.sent = self.state.sent.wrapping_add(sent as u32);
            self.state.waiting = u8::from(sent == 0);
        }
        if self.state.due == 1 && self.state.waiting == 0 && self.state.control & CONTROL_STROBE == 0 {
            self.state.due = 0;
            self.state.showing = 2;
            if self.state.control & CONTROL_IRQEN != 0 {
                self.state.pulses = self.state.pulses.wrapping_add(1);
            }
        }
    }

    fn write_control(&mut self, value: u8, env: &mut Env<'_>) {
        let begun = value & !self.state.control & CONTROL_STROBE != 0;
        self.state.control = value & CONTROL_MASK;
        let listening = CONTROL_INIT | CONTROL_SELECT;
        if value & CONTROL_INIT == 0 {
            // The printer is in reset: it acknowledges nothing but what it could not pass on yet.
            self.state.initialised = 1;
            self.state.showing = 0;
            self.state.due = self.state.waiting;
        } else if begun && value & listening == listening && self.state.due == 0 {
            self.state.taken = self.pins();
            self.state.waiting = 1;
            self.state.due = 1;
            self.state.showing = 0;
        }
        self.flush(env);
    }

    fn write_byte(&mut self, offset: u64, value: u8, env: &mut Env<'_>) -> Result<(), BusError> {
        match offset {
            DATA => self.state.data = value,
            CONTROL => self.write_control(value, env),
            STATUS => return Err(BusError::Rejected),
            _ => return Err(BusError::Unclaimed),
        }
        Ok(())
    }

    /// Takes what the back end sends, lest it wait for ever, and forgets it.
    fn drop_input(&mut self, env: &mut Env<'_>) {
        if let Some(link) = env.bytes.first() {
            self.state.received = self.state.received.wrapping_add(link.skip_at(self.state.received));
        }
    }
}

impl Default for Parallel1284 {
    fn default() -> Self {
        Parallel1284::new()
    }
}

impl Chip for Parallel1284 {
    type State = State;
    const STATE_VERSION: u32 = VERSION;

    fn description(&self) -> Description {
        Description { part: "SPP", regions: REGIONS, lines: &["intr"] }
    }

    fn reset(&mut self, _env: &mut Env<'_>) {
        let Parallel1284 { state: _ } = self;
        self.power_on();
    }

    fn read(&mut self, reg: Reg, _env: &mut Env<'_>) -> Access {
        reg.read_bytes(|offset| self.read_byte(offset))
    }

    fn write(&mut self, reg: Reg, value: u64, env: &mut Env<'_>) -> Result<(), BusError> {
        reg.write_bytes(value, |offset, value| self.write_byte(offset, value, env))
    }

    fn peek(&self, _region: u8, offset: u32) -> u8 {
        self.value(offset.into()).unwrap_or(0xff)
    }

    fn is_calm(&self, _region: u8, _offset: u32) -> bool {
        self.state.showing == 0
    }

    fn event(&mut self, env: &mut Env<'_>) {
        self.flush(env);
        self.drop_input(env);
    }

    fn control(&mut self, request: &Control, _env: &mut Env<'_>) -> Result<Vec<u8>, &'static str> {
        match request {
            Control::Info => {
                let State { sent, waiting, data, control, .. } = self.state;
                let status = self.status();
                let text = format!(
                    "SPP: data {data:#04x}, status {status:#04x}, control {control:#04x}, printed {sent}, waiting to print {waiting}\n"
                );
                Ok(text.into_bytes())
            }
            _ => Err("no such request for this device"),
        }
    }

    fn sync_outputs(&self, out: &mut Outputs) {
        out.pulses[LINE_INTR] = self.state.pulses;
    }

    fn save(&self) -> State {
        let Parallel1284 { state } = self;
        *state
    }

    fn restore(&mut self, state: &State) -> Result<(), RestoreError> {
        let refuse = |reason| Err(RestoreError { part: "SPP", reason });
        let State {
            sent: _,
            received: _,
            pulses: _,
            data: _,
            control,
            taken: _,
            waiting,
            due,
            showing,
            initialised,
            padding,
        } = *state;
        if control & !CONTROL_MASK != 0 {
            return refuse("control has bits that do not exist");
        }
        if waiting > 1 || due > 1 || waiting > due {
            return refuse("a byte waits that is not due");
        }
        if showing > 2 || (due == 1 && showing != 0) {
            return refuse("an acknowledge that does not exist");
        }
        if initialised > 1 || padding != 0 {
            return refuse("a flag is neither 0 nor 1");
        }
        self.state = *state;
        Ok(())
    }
}
