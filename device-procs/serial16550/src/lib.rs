#![forbid(unsafe_code)]
//! 16550A UART, the serial port of the PC.
//!
//! Region 0: 8 ports (COM1 at 0x3f8). Line 0: INTR (IRQ 4 or 3). Byte link 0: the character back end; without one, output is
//! dropped. Restart class: checkpointed; the byte link is read and written by positions kept in the state, so that a
//! restart neither loses nor doubles a byte.
//!
//! Bus classes: LCR and SCR are posted, LCR, MCR and SCR mirrored, IIR, LSR and MSR calm. THR is kicked although it can lower
//! INTR: a driver that fills the FIFO need not wait for each byte. That is safe: an edge triggered interrupt controller hears
//! of the next edge whether or not it saw the low level before (edges are counted), and a level triggered one can at worst
//! interrupt once more, whose handler reads IIR: never from the mirror while the write is on its way (`Shows::All`). Everything
//! else is sync.
//!
//! Where INTR goes low and high again within one access (a byte sent at once, a byte taken whose successor already waits, a FIFO
//! cleared that fills again) the chip counts a pulse on line 0, so that the edge is not lost.
//!
//! # Deviations from hardware
//! - A byte is sent the moment it is written, whatever the bit rate; THRE stays low while the back end has no room.
//! - Bytes arrive as fast as the guest takes them and never overrun (the back end is held up instead).
//! - Word length and parity do not change the bytes sent or received; OUT2 does not gate the interrupt line.
//! - CTS, DSR and DCD are always asserted outside loopback, RI never.
//!
//! # Not emulated
//! DMA modes (the RXRDY and TXRDY pins are not wired on a PC). A break sent by the guest does not reach the back end.

pub mod spec;
mod state;
#[cfg(test)]
mod tests;

pub use state::State;

use bulkhead_bus::chip::{
    Access, BusError, Chip, Class, Control, Description, Env, Outputs, Reg, Region, RestoreError, Rule,
};
use bulkhead_bus::config::SerialConfig;
use bulkhead_bus::wire;
use spec::*;

/// Version of [`State`].
pub const VERSION: u32 = 1;
/// The interrupt line.
pub const LINE_INTR: usize = 0;

const RULES: &[Rule] = &[
    Rule::new(0, 1, Class::Sync, Class::Kick),
    // Read all the time by drivers that poll or share the line; only now and then does a read clear something.
    Rule::new(2, 3, Class::Calm, Class::Sync),
    Rule::new(5, 7, Class::Calm, Class::Sync),
    Rule::new(3, 4, Class::Mirror, Class::Posted),
    Rule::new(4, 5, Class::Mirror, Class::Sync),
    Rule::new(7, 8, Class::Mirror, Class::Posted),
];
const REGIONS: &[Region] = &[Region { size: 8, rules: RULES }];

/// One 16550A.
#[derive(Clone, Debug)]
pub struct Uart16550 {
    // Fixed configuration.
    baud_base: u32,
    // Guest-visible state.
    state: State,
}

impl Uart16550 {
    /// From the configuration of the role.
    pub fn new(config: &SerialConfig) -> Uart16550 {
        let mut uart = Uart16550 { baud_base: config.baud_base.max(1), state: bytemuck::Zeroable::zeroed() };
        uart.power_on();
        uart
    }

    /// From the encoded configuration in a manifest.
    ///
    /// # Errors
    /// When it does not decode.
    pub fn from_config(bytes: &[u8]) -> Result<Uart16550, String> {
        let config: SerialConfig = wire::decode(bytes).map_err(|_| "malformed configuration".to_owned())?;
        Ok(Uart16550::new(&config))
    }

    /// Master reset (section 8.0, table I). Positions in the byte link and the pulse count go on.
    fn power_on(&mut self) {
        let State { sent, received, breaks, pulses, .. } = self.state;
        self.state = State {
            sent,
            received,
            breaks,
            pulses,
            divisor: DIVISOR,
            msr: MSR_CTS | MSR_DSR | MSR_DCD,
            ..bytemuck::Zeroable::zeroed()
        };
    }

    fn fifos(&self) -> bool {
        self.state.fcr & FCR_ENABLE != 0
    }

    fn depth(&self) -> usize {
        if self.fifos() { FIFO } else { 1 }
    }

    fn trigger(&self) -> u8 {
        match self.state.fcr >> 6 {
            _ if !self.fifos() => 1,
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        }
    }

    fn in_loop(&self) -> bool {
        self.state.mcr & MCR_LOOP != 0
    }

    /// Nanoseconds that one character takes on the wire.
    fn character_ns(&self) -> u64 {
        let half_bits = 2 * (2 + 5 + u64::from(self.state.lcr & LCR_WLS))
            + if self.state.lcr & LCR_PEN != 0 { 2 } else { 0 }
            + match (self.state.lcr & LCR_STB != 0, self.state.lcr & LCR_WLS) {
                (false, _) => 0,
                (true, 0) => 1,
                (true, _) => 2,
            };
        half_bits * u64::from(self.state.divisor.max(1)) * 500_000_000 / u64::from(self.baud_base)
    }

    /// The interrupt with the highest priority (section 8.6).
    fn interrupt(&self) -> u8 {
        let State { ier, errors, rx_len, thre_due, timeout, msr, .. } = self.state;
        if ier & IER_ELSI != 0 && errors != 0 {
            IIR_LINE
        } else if ier & IER_ERBFI != 0 && rx_len >= self.trigger() {
            IIR_DATA
        } else if ier & IER_ERBFI != 0 && timeout != 0 {
            IIR_TIMEOUT
        } else if ier & IER_ETBEI != 0 && thre_due != 0 {
            IIR_THRE
        } else if ier & IER_EDSSI != 0 && msr & MSR_DELTAS != 0 {
            IIR_MODEM
        } else {
            IIR_NONE
        }
    }

    fn intr(&self) -> bool {
        self.interrupt() != IIR_NONE
    }

    /// Does `first`, then `second`; counts the edge when INTR went low in between and is high again.
    fn in_two_steps(&mut self, first: impl FnOnce(&mut Self), second: impl FnOnce(&mut Self)) {
        let before = self.intr();
        first(self);
        let between = self.intr();
        second(self);
        if before && !between && self.intr() {
            self.state.pulses = self.state.pulses.wrapping_add(1);
        }
    }

    // ---- receiver ----

    fn restart_timeout(&mut self, now: u64) {
        self.state.timeout = 0;
        self.state.timer = u8::from(self.fifos() && self.state.rx_len > 0);
        self.state.timeout_at =
            if self.state.timer == 1 { now.saturating_add(4 * self.character_ns()) } else { 0 };
    }

    /// A character has arrived; false when it overran.
    fn push_rx(&mut self, byte: u8, errors: u8, now: u64) -> bool {
        let at = usize::from(self.state.rx_len);
        if at >= self.depth() {
            // The character is lost; without FIFOs the older one is (section 8.4, bit 1).
            self.state.errors |= LSR_OE;
            if !self.fifos() {
                self.state.rx[0] = byte;
            }
            return false;
        }
        if let (Some(to), Some(to_errors)) = (self.state.rx.get_mut(at), self.state.rx_errors.get_mut(at)) {
            *to = byte;
            *to_errors = errors;
            self.state.rx_len += 1;
        }
        if at == 0 {
            self.reveal();
        }
        // Only a read takes an interrupt back that has occurred ("FIFO Interrupt Mode Operation", C and D).
        if self.state.timeout == 0 {
            self.restart_timeout(now);
        }
        true
    }

    /// The errors of the character that has come to the top show in LSR.
    fn reveal(&mut self) {
        self.state.errors |= self.state.rx_errors[0];
        self.state.rx_errors[0] = 0;
    }

    fn pop_rx(&mut self, now: u64) -> u8 {
        if self.state.rx_len > 0 {
            self.state.rbr = self.state.rx[0];
            self.state.rx.rotate_left(1);
            self.state.rx_errors.rotate_left(1);
            self.state.rx[FIFO - 1] = 0;
            self.state.rx_errors[FIFO - 1] = 0;
            self.state.rx_len -= 1;
            if self.state.rx_len > 0 {
                self.reveal();
            }
            self.restart_timeout(now);
        }
        self.state.rbr
    }

    fn clear_rx(&mut self) {
        self.state.rx = [0; FIFO];
        self.state.rx_errors = [0; FIFO];
        self.state.rx_len = 0;
        self.state.timeout = 0;
        self.state.timer = 0;
        self.state.timeout_at = 0;
    }

    /// Takes what the back end has sent, as much as there is room for.
    fn fill(&mut self, env: &mut Env<'_>) {
        let Some(link) = env.bytes.first() else { return };
        let breaks = link.breaks();
        // Breaks that came together are one long break.
        if breaks != self.state.breaks && (self.in_loop() || self.break_received(env.now)) {
            self.state.breaks = breaks;
        }
        let room = self.depth().saturating_sub(self.state.rx_len.into());
        let mut bytes = [0u8; FIFO];
        let room = if self.in_loop() { 0 } else { room };
        let count = link.receive_at(self.state.received, bytes.get_mut(..room).unwrap_or_default());
        self.state.received = self.state.received.wrapping_add(count as u32);
        for byte in bytes.iter().take(count) {
            self.push_rx(*byte, 0, env.now);
        }
    }

    /// A break condition on the line: a zero character with a framing error, marked as break.
    fn break_received(&mut self, now: u64) -> bool {
        usize::from(self.state.rx_len) < self.depth() && self.push_rx(0, LSR_BI | LSR_FE, now)
    }

    // ---- transmitter ----

    /// Passes waiting bytes on. When the last one leaves, THRE is due.
    fn flush(&mut self, env: &mut Env<'_>) {
        let len = usize::from(self.state.tx_len);
        if len == 0 {
            return;
        }
        let sent = match env.bytes.first() {
            Some(link) => link.send_at(self.state.sent, self.state.tx.get(..len).unwrap_or_default()),
            None => len,
        };
        self.state.sent = self.state.sent.wrapping_add(sent as u32);
        self.state.tx.rotate_left(sent.min(FIFO));
        self.state.tx_len = len.saturating_sub(sent) as u8;
        self.state.tx.iter_mut().skip(self.state.tx_len.into()).for_each(|byte| *byte = 0);
        if self.state.tx_len == 0 {
            self.state.thre_due = 1;
        }
    }

    fn write_thr(&mut self, byte: u8, env: &mut Env<'_>) {
        let now = env.now;
        self.in_two_steps(
            |uart| uart.state.thre_due = 0,
            |uart| {
                if uart.in_loop() {
                    let broken = uart.state.lcr & LCR_BREAK != 0;
                    let (byte, errors) = if broken { (0, LSR_BI | LSR_FE) } else { (byte, 0) };
                    uart.push_rx(byte, errors, now);
                    uart.state.thre_due = u8::from(uart.state.tx_len == 0);
                    return;
                }
                let at = usize::from(uart.state.tx_len);
                // A byte written while THRE is low takes the place of the last one, as in the data sheet's holding register.
                let at = at.min(uart.depth() - 1);
                if let Some(to) = uart.state.tx.get_mut(at) {
                    *to = byte;
                    uart.state.tx_len = uart.state.tx_len.max(at as u8 + 1);
                }
                uart.flush(env);
            },
        );
    }

    // ---- modem lines ----

    /// Recomputes the MSR lines and notes what changed (section 8.7; loopback: section 8.7.1).
    fn update_modem(&mut self) {
        let lines = if self.in_loop() {
            let wires = [(MCR_RTS, MSR_CTS), (MCR_DTR, MSR_DSR), (MCR_OUT1, MSR_RI), (MCR_OUT2, MSR_DCD)];
            let on = wires.iter().filter(|(out, _)| self.state.mcr & out != 0);
            on.fold(0, |lines, (_, line)| lines | line)
        } else {
            MSR_CTS | MSR_DSR | MSR_DCD
        };
        let changed = (self.state.msr ^ lines) & !MSR_DELTAS;
        let fell = changed & !lines;
        let deltas = ((changed & !MSR_RI) | (fell & MSR_RI)) >> 4;
        self.state.msr = lines | (self.state.msr & MSR_DELTAS) | deltas;
    }

    // ---- registers ----

    /// What every register but the receive buffer reads as.
    fn value(&self, offset: u64) -> Option<u8> {
        let state = &self.state;
        Some(match offset {
            RBR_THR_DLL if state.lcr & LCR_DLAB != 0 => state.divisor as u8,
            IER_DLM if state.lcr & LCR_DLAB != 0 => (state.divisor >> 8) as u8,
            IER_DLM => state.ier,
            IIR_FCR => self.interrupt() | if self.fifos() { IIR_FIFOS } else { 0 },
            LCR => state.lcr,
            MCR => state.mcr,
            LSR => self.line_status(),
            MSR => state.msr,
            SCR => state.scr,
            _ => return None,
        })
    }

    fn line_status(&self) -> u8 {
        let State { errors, rx_len, tx_len, rx_errors, .. } = self.state;
        let mut value = errors;
        if rx_len > 0 {
            value |= LSR_DR;
        }
        if tx_len == 0 {
            value |= LSR_THRE | LSR_TEMT;
        }
        let marked = errors & (LSR_PE | LSR_FE | LSR_BI) != 0 || rx_errors.iter().any(|errors| *errors != 0);
        if self.fifos() && marked {
            value |= LSR_FIFO_ERROR;
        }
        value
    }

    fn read_byte(&mut self, offset: u64, env: &mut Env<'_>) -> Access {
        let Some(value) = self.value(offset) else {
            if offset != RBR_THR_DLL {
                return Err(BusError::Unclaimed);
            }
            let now = env.now;
            let mut byte = 0;
            self.in_two_steps(|uart| byte = uart.pop_rx(now), |uart| uart.fill(env));
            return Ok(byte.into());
        };
        match offset {
            IIR_FCR if self.interrupt() == IIR_THRE => self.state.thre_due = 0,
            LSR => self.state.errors = 0,
            MSR => self.state.msr &= !MSR_DELTAS,
            _ => {}
        }
        Ok(value.into())
    }

    fn write_fcr(&mut self, value: u8, env: &mut Env<'_>) {
        let value = if value & FCR_ENABLE == 0 { 0 } else { value };
        // A receiver that is emptied takes the next bytes at once: INTR falls and rises.
        self.in_two_steps(|uart| uart.set_fifos(value), |uart| uart.fill(env));
    }

    fn set_fifos(&mut self, value: u8) {
        let switched = (value ^ self.state.fcr) & FCR_ENABLE != 0;
        if switched || value & FCR_CLEAR_RX != 0 {
            self.clear_rx();
        }
        if switched || value & FCR_CLEAR_TX != 0 {
            self.state.tx = [0; FIFO];
            self.state.tx_len = 0;
            self.state.thre_due = 1;
        }
        self.state.fcr = value & FCR_KEPT;
    }

    fn write_byte(&mut self, offset: u64, value: u8, env: &mut Env<'_>) -> Result<(), BusError> {
        let latch = self.state.lcr & LCR_DLAB != 0;
        match offset {
            RBR_THR_DLL if latch => {
                self.state.divisor = self.state.divisor & 0xff00 | u16::from(value);
            }
            IER_DLM if latch => {
                self.state.divisor = self.state.divisor & 0x00ff | u16::from(value) << 8;
            }
            RBR_THR_DLL => self.write_thr(value, env),
            IER_DLM => {
                let enabled = value & !self.state.ier;
                self.state.ier = value & IER_MASK;
                // Enabling the interrupt while the register is empty makes it due at once; drivers probe for that.
                if enabled & IER_ETBEI != 0 && self.state.tx_len == 0 {
                    self.state.thre_due = 1;
                }
            }
            IIR_FCR => self.write_fcr(value, env),
            LCR => self.state.lcr = value,
            MCR => {
                self.state.mcr = value & MCR_MASK;
                self.update_modem();
                self.fill(env);
            }
            SCR => self.state.scr = value,
            LSR | MSR => return Err(BusError::Rejected),
            _ => return Err(BusError::Unclaimed),
        }
        Ok(())
    }
}

impl Chip for Uart16550 {
    type State = State;
    const STATE_VERSION: u32 = VERSION;

    fn description(&self) -> Description {
        Description { part: "16550A", regions: REGIONS, lines: &["intr"] }
    }

    fn reset(&mut self, _env: &mut Env<'_>) {
        let Uart16550 { baud_base: _, state: _ } = self;
        self.power_on();
    }

    fn read(&mut self, reg: Reg, env: &mut Env<'_>) -> Access {
        reg.read_bytes(|offset| self.read_byte(offset, env))
    }

    fn write(&mut self, reg: Reg, value: u64, env: &mut Env<'_>) -> Result<(), BusError> {
        reg.write_bytes(value, |offset, value| self.write_byte(offset, value, env))
    }

    fn peek(&self, _region: u8, offset: u32) -> u8 {
        self.value(offset.into()).unwrap_or(0xff)
    }

    fn is_calm(&self, _region: u8, offset: u32) -> bool {
        match u64::from(offset) {
            IIR_FCR => self.interrupt() != IIR_THRE,
            LSR => self.state.errors == 0,
            _ => self.state.msr & MSR_DELTAS == 0,
        }
    }

    fn timer(&mut self, env: &mut Env<'_>) {
        if self.state.timer == 1 && self.state.timeout_at <= env.now {
            self.state.timer = 0;
            self.state.timeout_at = 0;
            self.state.timeout = 1;
        }
    }

    fn event(&mut self, env: &mut Env<'_>) {
        self.flush(env);
        self.fill(env);
    }

    fn control(&mut self, request: &Control, env: &mut Env<'_>) -> Result<Vec<u8>, &'static str> {
        match request {
            Control::Break if self.in_loop() => Err("the serial port is in loopback"),
            Control::Break if self.break_received(env.now) => Ok(Vec::new()),
            Control::Break => Err("the receiver is full"),
            Control::Info => {
                let rate = self.baud_base / u32::from(self.state.divisor.max(1));
                let bits = 5 + (self.state.lcr & LCR_WLS);
                let fifos = if self.fifos() { "on" } else { "off" };
                let text = format!(
                    "16550A: {rate} bit/s, {bits} bits, fifo {fifos}, received {}, waiting to send {}\n",
                    self.state.received, self.state.tx_len
                );
                Ok(text.into_bytes())
            }
            _ => Err("no such request for this device"),
        }
    }

    fn sync_outputs(&self, out: &mut Outputs) {
        out.level[LINE_INTR] = self.intr();
        out.pulses[LINE_INTR] = self.state.pulses;
        out.deadline = (self.state.timer == 1).then_some(self.state.timeout_at);
    }

    fn save(&self) -> State {
        let Uart16550 { baud_base: _, state } = self;
        *state
    }

    fn restore(&mut self, state: &State) -> Result<(), RestoreError> {
        let refuse = |reason| Err(RestoreError { part: "16550A", reason });
        if usize::from(state.rx_len) > FIFO || usize::from(state.tx_len) > FIFO {
            return refuse("a FIFO holds more than 16 bytes");
        }
        if state.ier & !IER_MASK != 0 || state.mcr & !MCR_MASK != 0 || state.fcr & !FCR_KEPT != 0 {
            return refuse("a register has bits that do not exist");
        }
        if (state.errors | state.rx_errors.iter().fold(0, |all, one| all | one)) & !LSR_ERRORS != 0 {
            return refuse("unknown line errors");
        }
        if [state.thre_due, state.timeout, state.timer].iter().any(|flag| *flag > 1) || state.padding != 0 {
            return refuse("a flag is neither 0 nor 1");
        }
        self.state = *state;
        Ok(())
    }
}
