#![forbid(unsafe_code)]
//! Intel 8042 keyboard controller of the PS/2, with a 101-key keyboard and a mouse.
//!
//! Region 0: port 0x60 (data). Region 1: port 0x64 (status, command). Lines: 0 IRQ 1, 1 IRQ 12, 2 A20 (level), 3 processor reset
//! (pulse). Restart class: checkpointed.
//!
//! Status is mirrored: polling it costs the guest no hand-over. Everything else is sync, since it moves interrupt lines, A20
//! or reset.
//!
//! [`Control::Key`] takes set-1 make codes, 0x100 added for keys with an 0xe0 prefix; Print Screen is 0x137 and Pause 0x145.
//! Repeats come from whoever sends the events. [`Control::Mouse`] buttons 3 and 4 are the side ones.
//!
//! # Deviations from hardware
//! - The next byte comes as soon as the output buffer is read, not a millisecond later; the edge in between is a pulse on the line.
//! - The keyboard's own power-on test result is not sent when the machine starts, only after a RESET command.
//! - Reset tests take no time.
//!
//! # Not emulated
//! Typematic repeat; fake shifts of the cursor keys under Num Lock; per-key typematic settings of scan code set 3
//! (acknowledged); passwords; controller memory other than the command byte has no effect; the mouse reports as fast as it is read
//! rather than at its sample rate.

mod keyboard;
mod mouse;
pub mod spec;
mod state;
#[cfg(test)]
mod tests;

pub use state::{ControllerState, KeyboardState, MouseState, Queue, State};

use bulkhead_bus::chip::{
    Access, BusError, Chip, Class, Control, Description, Env, Outputs, Reg, Region, RestoreError, Rule,
};
use bulkhead_bus::config::I8042Config;
use bulkhead_bus::wire;
use spec::*;

/// Version of [`State`].
pub const VERSION: u32 = 1;
/// Keyboard interrupt.
pub const LINE_IRQ1: usize = 0;
/// Auxiliary interrupt.
pub const LINE_IRQ12: usize = 1;
/// A20 gate, a level.
pub const LINE_A20: usize = 2;
/// Processor reset, pulses.
pub const LINE_RESET: usize = 3;

const ANSWERS_LIMIT: usize = 8;
const EMPTY: u8 = 0;
const KEYBOARD: u8 = 1;
const AUX: u8 = 2;

const REGIONS: &[Region] = &[
    Region { size: 1, rules: &[] },
    Region { size: 1, rules: &[Rule::new(0, 1, Class::Mirror, Class::Sync)] },
];

/// The controller and its two devices.
#[derive(Clone, Debug)]
pub struct I8042 {
    // Fixed configuration.
    has_mouse: bool,
    // Guest-visible state.
    controller: ControllerState,
    keyboard: KeyboardState,
    mouse: MouseState,
}

impl I8042 {
    /// From the configuration of the role.
    pub fn new(config: &I8042Config) -> I8042 {
        I8042 {
            has_mouse: config.mouse,
            controller: power_on(0, [0; 2]),
            keyboard: KeyboardState::new(),
            mouse: MouseState::new(),
        }
    }

    /// From the encoded configuration in a manifest.
    ///
    /// # Errors
    /// When it does not decode.
    pub fn from_config(bytes: &[u8]) -> Result<I8042, String> {
        let config: I8042Config = wire::decode(bytes).map_err(|_| "malformed configuration".to_owned())?;
        Ok(I8042::new(&config))
    }

    fn mode(&self) -> u8 {
        self.controller.memory[0]
    }

    fn set_mode(&mut self, mode: u8) {
        self.controller.memory[0] = mode & MODE_MASK;
    }

    fn irqs(&self) -> [bool; 2] {
        let source = self.controller.source;
        [source == KEYBOARD && self.mode() & MODE_INT != 0, source == AUX && self.mode() & MODE_AUX_INT != 0]
    }

    fn status(&self) -> u8 {
        let output = match self.controller.source {
            EMPTY => 0,
            AUX => STATUS_OBF | STATUS_AUX,
            _ => STATUS_OBF,
        };
        let system = if self.mode() & MODE_SYS != 0 { STATUS_SYS } else { 0 };
        let command = if self.controller.was_command != 0 { STATUS_COMMAND } else { 0 };
        output | system | command | STATUS_UNLOCKED
    }

    // ---- output buffer ----

    /// Fills an empty output buffer: the controller's answers first, then the keyboard, then the mouse.
    fn fill(&mut self) {
        // Each round takes a byte out of some queue.
        while self.controller.source == EMPTY {
            if let Some(byte) = self.controller.answers.pop() {
                let aux = self.controller.answers_aux.pop() == Some(1);
                self.controller.output = byte;
                self.controller.source = if aux { AUX } else { KEYBOARD };
            } else if self.mode() & MODE_OFF == 0
                && let Some(byte) = self.keyboard.send()
            {
                self.keyboard_sent(byte);
            } else if self.mode() & MODE_AUX_OFF == 0
                && let Some(byte) = self.mouse.send()
            {
                self.controller.output = byte;
                self.controller.source = AUX;
            } else {
                return;
            }
        }
    }

    fn keyboard_sent(&mut self, byte: u8) {
        let translates = self.mode() & MODE_TRANSLATE != 0;
        if translates && byte == 0xf0 {
            self.controller.release = 1;
            return;
        }
        let release = std::mem::take(&mut self.controller.release) != 0;
        self.controller.output = match (translates, release) {
            (true, true) => translate(byte) | 0x80,
            (true, false) => translate(byte),
            (false, _) => byte,
        };
        self.controller.source = KEYBOARD;
    }

    /// Empties the output buffer and fills it again.
    fn refill(&mut self) {
        let before = self.irqs();
        self.controller.source = EMPTY;
        self.fill();
        // Both lines were low in between.
        let after = self.irqs();
        for ((pulses, before), after) in self.controller.pulses.iter_mut().zip(before).zip(after) {
            *pulses = pulses.wrapping_add(u32::from(before && after));
        }
    }

    fn read_data(&mut self) -> u8 {
        let byte = self.controller.output;
        self.refill();
        byte
    }

    fn answer(&mut self, byte: u8) {
        self.answer_from(byte, false);
    }

    fn answer_from(&mut self, byte: u8, aux: bool) {
        if self.controller.answers.push(&[byte], ANSWERS_LIMIT) {
            self.controller.answers_aux.push(&[aux.into()], ANSWERS_LIMIT);
        }
    }

    // ---- output port ----

    fn pulse_reset(&mut self) {
        self.controller.resets = self.controller.resets.wrapping_add(1);
    }

    fn write_port(&mut self, value: u8) {
        if value & OUT_RUN == 0 {
            // The processor would stay in reset until it wrote the bit back, which it cannot: one reset it is.
            self.pulse_reset();
        }
        self.controller.port = (value | OUT_RUN) & OUT_MASK;
    }

    // ---- commands ----

    fn write_command(&mut self, byte: u8) {
        self.controller.was_command = 1;
        self.controller.command = 0;
        match byte {
            command::READ..=0x3f => {
                let at = usize::from(byte & 0x1f);
                let value = self.controller.memory.get(at).copied().unwrap_or(0);
                self.answer(value);
            }
            command::WRITE..=0x7f => self.controller.command = byte,
            command::TEST_PASSWORD => self.answer(0xf1),
            command::AUX_DISABLE => self.set_mode(self.mode() | MODE_AUX_OFF),
            command::AUX_ENABLE => self.set_mode(self.mode() & !MODE_AUX_OFF),
            command::AUX_TEST => self.answer(0x00),
            command::SELF_TEST => {
                self.controller.release = 0;
                self.controller.answers.clear();
                self.controller.answers_aux.clear();
                self.set_mode(self.mode() | MODE_SYS);
                self.answer(0x55);
                self.refill();
            }
            command::TEST => self.answer(0x00),
            command::DISABLE => self.set_mode(self.mode() | MODE_OFF),
            command::ENABLE => self.set_mode(self.mode() & !MODE_OFF),
            command::READ_INPUT => self.answer(INPUT_PORT),
            command::READ_OUTPUT => {
                let irqs = self.irqs();
                let full = [(irqs[0], OUT_OBF), (irqs[1], OUT_AUX_OBF)];
                let full = full.iter().filter(|(on, _)| *on).fold(0, |bits, (_, bit)| bits | bit);
                self.answer(self.controller.port | full);
            }
            command::WRITE_OUTPUT | command::WRITE_OBF | command::WRITE_AUX_OBF | command::WRITE_AUX => {
                self.controller.command = byte;
            }
            command::A20_OFF => self.controller.port &= !OUT_A20,
            command::A20_ON => self.controller.port |= OUT_A20,
            command::READ_TEST => self.answer(0x00),
            command::PULSE..=0xff if byte & OUT_RUN == 0 => self.pulse_reset(),
            _ => {}
        }
        self.fill();
    }

    fn write_data(&mut self, byte: u8) {
        self.controller.was_command = 0;
        match std::mem::take(&mut self.controller.command) {
            command::WRITE => self.set_mode(byte),
            pending @ command::WRITE..=0x7f => {
                if let Some(to) = self.controller.memory.get_mut(usize::from(pending & 0x1f)) {
                    *to = byte;
                }
            }
            command::WRITE_OUTPUT => self.write_port(byte),
            command::WRITE_OBF => self.answer(byte),
            command::WRITE_AUX_OBF => self.answer_from(byte, true),
            command::WRITE_AUX => {
                self.set_mode(self.mode() & !MODE_AUX_OFF);
                if self.has_mouse {
                    self.mouse.receive(byte);
                } else {
                    // Nobody clocks the byte in: the controller reports a time-out as RESEND.
                    self.answer_from(RESEND, true);
                }
            }
            _ => {
                // Sending to the keyboard enables its clock.
                self.set_mode(self.mode() & !MODE_OFF);
                self.keyboard.receive(byte);
            }
        }
        self.fill();
    }
}

fn power_on(resets: u32, pulses: [u32; 2]) -> ControllerState {
    let mut memory = [0; 32];
    memory[0] = MODE_INT | MODE_AUX_INT;
    ControllerState {
        resets,
        pulses,
        answers: Queue::EMPTY,
        answers_aux: Queue::EMPTY,
        command: 0,
        output: 0,
        source: EMPTY,
        port: (OUT_RUN | OUT_A20 | 0xcc) & OUT_MASK,
        was_command: 1,
        release: 0,
        memory,
    }
}

impl Chip for I8042 {
    type State = State;
    const STATE_VERSION: u32 = VERSION;

    fn description(&self) -> Description {
        Description { part: "8042", regions: REGIONS, lines: &["irq1", "irq12", "a20", "reset"] }
    }

    fn reset(&mut self, _env: &mut Env<'_>) {
        let I8042 { has_mouse: _, controller, keyboard, mouse } = self;
        // The user's fingers stay where they are.
        let (held, buttons) = (keyboard.held, mouse.buttons);
        *controller = power_on(controller.resets, controller.pulses);
        *keyboard = KeyboardState { held, ..KeyboardState::new() };
        *mouse = MouseState { buttons, reported: buttons, ..MouseState::new() };
    }

    fn read(&mut self, reg: Reg, _env: &mut Env<'_>) -> Access {
        reg.read_bytes(|offset| match (reg.region, offset) {
            (DATA, 0) => Ok(self.read_data().into()),
            (COMMAND, 0) => Ok(self.status().into()),
            _ => Err(BusError::Unclaimed),
        })
    }

    fn write(&mut self, reg: Reg, value: u64, _env: &mut Env<'_>) -> Result<(), BusError> {
        reg.write_bytes(value, |offset, value| {
            match (reg.region, offset) {
                (DATA, 0) => self.write_data(value),
                (COMMAND, 0) => self.write_command(value),
                _ => return Err(BusError::Unclaimed),
            }
            Ok(())
        })
    }

    fn peek(&self, _region: u8, _offset: u32) -> u8 {
        self.status()
    }

    fn control(&mut self, request: &Control, _env: &mut Env<'_>) -> Result<Vec<u8>, &'static str> {
        match request {
            Control::Key { code, down } => {
                self.keyboard.key(*code, *down);
                self.fill();
                Ok(Vec::new())
            }
            Control::Mouse { .. } if !self.has_mouse => Err("there is no mouse"),
            Control::Mouse { dx, dy, dz, buttons } => {
                self.mouse.moved(*dx, *dy, *dz, *buttons);
                self.fill();
                Ok(Vec::new())
            }
            Control::Info => Ok(format!(
                "8042: command byte {:#04x}, output port {:#04x}\nkeyboard: set {}, {}, lights {}, {} bytes waiting\nmouse: id {}, {}, {} bytes waiting\n",
                self.mode(),
                self.controller.port,
                self.keyboard.set,
                if self.keyboard.enabled == 1 { "enabled" } else { "disabled" },
                self.keyboard.leds,
                self.keyboard.keys.len,
                self.mouse.id,
                if self.mouse.enabled == 1 { "enabled" } else { "disabled" },
                self.mouse.queue.len,
            )
            .into_bytes()),
            _ => Err("no such request for this device"),
        }
    }

    fn sync_outputs(&self, out: &mut Outputs) {
        let irqs = self.irqs();
        out.level[LINE_IRQ1] = irqs[0];
        out.level[LINE_IRQ12] = irqs[1];
        out.pulses[LINE_IRQ1] = self.controller.pulses[0];
        out.pulses[LINE_IRQ12] = self.controller.pulses[1];
        out.level[LINE_A20] = self.controller.port & OUT_A20 != 0;
        out.pulses[LINE_RESET] = self.controller.resets;
    }

    fn save(&self) -> State {
        let I8042 { has_mouse: _, controller, keyboard, mouse } = self;
        State { controller: *controller, keyboard: *keyboard, mouse: *mouse }
    }

    fn restore(&mut self, state: &State) -> Result<(), RestoreError> {
        let State { controller, keyboard, mouse } = state;
        let refuse = |reason| Err(RestoreError { part: "8042", reason });
        if !controller.answers.is_valid() || controller.answers.len != controller.answers_aux.len {
            return refuse("answer queues do not match");
        }
        if controller.source > AUX || controller.was_command > 1 || controller.release > 1 {
            return refuse("controller flag out of range");
        }
        if controller.memory[0] & !MODE_MASK != 0 || controller.port & !OUT_MASK != 0 {
            return refuse("a register has bits that do not exist");
        }
        if !keyboard.is_valid() {
            return refuse("keyboard out of range");
        }
        if !mouse.is_valid() {
            return refuse("mouse out of range");
        }
        (self.controller, self.keyboard, self.mouse) = (*controller, *keyboard, *mouse);
        Ok(())
    }
}
