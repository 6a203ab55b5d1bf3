//! The two cascaded 8259A interrupt controllers of a PC, with the PIIX3's edge/level register.
//!
//! Ports 20h/21h and A0h/A1h, ELCR at 4D0h/4D1h; the slave's INT feeds the master's IR2. Not restarted: ends with the CPU process.
//!
//! *Deviations from hardware*: an edge-triggered request stays latched when its line falls before the acknowledge
//! (the chip would answer IR7); a timer tick is thus not lost while a guest keeps interrupts off for long. The same with the slave's
//! INT at the master's IR2: of a slave whose request has gone the CPU gets IR7, IRQ 15, where the master would answer IRQ 7.
//!
//! *Not emulated*: the MCS-80/85 vector format, buffered mode, slaves other than on IR2.

pub mod spec;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use spec::*;

/// Which initialisation word the data port takes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Init {
    /// None: OCW1.
    #[default]
    Done,
    Icw2,
    Icw3,
    Icw4,
}

/// One 8259A.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pic {
    /// Input levels.
    lines: u8,
    /// Interrupt request register.
    irr: u8,
    /// In-service register.
    isr: u8,
    /// Mask (OCW1).
    imr: u8,
    /// Level-triggered inputs (ELCR).
    elcr: u8,
    /// Input of the highest priority (0 after ICW1).
    top: u8,
    /// Vector of IR0.
    base: u8,
    init: Init,
    /// ICW1: ICW4 follows.
    icw4: bool,
    /// ICW1: no ICW3.
    single: bool,
    /// ICW1: all inputs level triggered.
    ltim: bool,
    /// ICW4: automatic EOI.
    aeoi: bool,
    /// OCW2: rotate at each automatic EOI.
    rotate_aeoi: bool,
    /// ICW4: special fully nested mode.
    sfnm: bool,
    /// OCW3: special mask mode.
    special_mask: bool,
    /// OCW3: the next read is a poll.
    poll: bool,
    /// OCW3: the command port reads the ISR.
    read_isr: bool,
    /// Input that the other chip is wired to (master only).
    cascade: Option<u8>,
}

const fn bit(n: u8) -> u8 {
    1 << (n & 7)
}

impl Pic {
    fn level_triggered(&self) -> u8 {
        if self.ltim { 0xff } else { self.elcr }
    }

    /// Priority of the highest of `set` (0 is highest), 8 for none.
    fn priority(&self, set: u8) -> u8 {
        set.rotate_right(u32::from(self.top & 7)).trailing_zeros() as u8
    }

    fn input_at(&self, priority: u8) -> u8 {
        priority.wrapping_add(self.top) & 7
    }

    fn set_line(&mut self, input: u8, level: bool) {
        let mask = bit(input);
        if level {
            if self.level_triggered() & mask != 0 || self.lines & mask == 0 {
                self.irr |= mask;
            }
            self.lines |= mask;
        } else {
            if self.level_triggered() & mask != 0 {
                self.irr &= !mask;
            }
            self.lines &= !mask;
        }
    }

    /// The input that would be answered now.
    fn request(&self) -> Option<u8> {
        let requested = self.priority(self.irr & !self.imr);
        if requested == 8 {
            return None;
        }
        let mut serving = self.isr;
        if self.special_mask {
            serving &= !self.imr;
        }
        let input = self.input_at(requested);
        if self.sfnm && self.cascade == Some(input) {
            // The slave's own priorities decide between its inputs (8259A, "The Special Fully Nested Mode"); for all others it is in service.
            serving &= !bit(input);
        }
        (requested < self.priority(serving)).then_some(input)
    }

    fn interrupt_output(&self) -> bool {
        self.request().is_some()
    }

    /// Acknowledge of `input`.
    fn accept(&mut self, input: u8) {
        let mask = bit(input);
        if self.level_triggered() & mask == 0 {
            self.irr &= !mask;
        }
        if !self.aeoi {
            self.isr |= mask;
        } else if self.rotate_aeoi {
            self.top = input.wrapping_add(1) & 7;
        }
    }

    fn read_poll(&mut self) -> u8 {
        self.poll = false;
        match self.request() {
            Some(input) => {
                self.accept(input);
                0x80 | input
            }
            None => 0,
        }
    }

    fn read(&mut self, data: bool) -> u8 {
        if self.poll {
            return self.read_poll();
        }
        match (data, self.read_isr) {
            (true, _) => self.imr,
            (false, true) => self.isr,
            (false, false) => self.irr,
        }
    }

    fn write_command(&mut self, value: u8) {
        if value & ICW1 != 0 {
            self.ltim = value & ICW1_LTIM != 0;
            self.icw4 = value & ICW1_IC4 != 0;
            self.single = value & ICW1_SNGL != 0;
            // The edge sense circuit is reset; inputs must rise again.
            self.irr = self.lines & self.level_triggered();
            self.isr = 0;
            self.imr = 0;
            self.top = 0;
            self.special_mask = false;
            self.poll = false;
            self.read_isr = false;
            self.aeoi = false;
            self.rotate_aeoi = false;
            self.sfnm = false;
            self.init = Init::Icw2;
        } else if value & OCW3 != 0 {
            if value & OCW3_POLL != 0 {
                self.poll = true;
            } else if value & OCW3_RR != 0 {
                self.read_isr = value & OCW3_RIS != 0;
            }
            if value & OCW3_ESMM != 0 {
                self.special_mask = value & OCW3_SMM != 0;
            }
        } else {
            self.write_ocw2(value >> 5, value & 7);
        }
    }

    fn write_ocw2(&mut self, command: u8, input: u8) {
        match command {
            0b000 => self.rotate_aeoi = false,
            0b100 => self.rotate_aeoi = true,
            // Non-specific EOI, plain or rotating.
            0b001 | 0b101 => {
                let mut serving = self.isr;
                if self.special_mask {
                    serving &= !self.imr;
                }
                let priority = self.priority(serving);
                if priority < 8 {
                    let done = self.input_at(priority);
                    self.isr &= !bit(done);
                    if command == 0b101 {
                        self.top = done.wrapping_add(1) & 7;
                    }
                }
            }
            0b011 => self.isr &= !bit(input),
            0b111 => {
                self.isr &= !bit(input);
                self.top = input.wrapping_add(1) & 7;
            }
            0b110 => self.top = input.wrapping_add(1) & 7,
            _ => {}
        }
    }

    fn write_data(&mut self, value: u8) {
        match self.init {
            Init::Done => self.imr = value,
            Init::Icw2 => {
                self.base = value & 0xf8;
                self.init = match (self.single, self.icw4) {
                    (false, _) => Init::Icw3,
                    (true, true) => Init::Icw4,
                    (true, false) => Init::Done,
                };
            }
            Init::Icw3 => self.init = if self.icw4 { Init::Icw4 } else { Init::Done },
            Init::Icw4 => {
                self.aeoi = value & ICW4_AEOI != 0;
                self.sfnm = value & ICW4_SFNM != 0;
                self.init = Init::Done;
            }
        }
    }

    fn reset(&mut self) {
        *self = Self { lines: self.lines, cascade: self.cascade, ..Self::default() };
    }

    fn describe(&self, name: &str) -> String {
        format!(
            "{name}: irr={:02x} imr={:02x} isr={:02x} hprio={} irq_base={:02x} rr_sel={} elcr={:02x} fnm={}\n",
            self.irr,
            self.imr,
            self.isr,
            self.top,
            self.base,
            u8::from(self.read_isr),
            self.elcr,
            u8::from(self.sfnm)
        )
    }
}

/// Master and slave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pic8259 {
    master: Pic,
    slave: Pic,
}

impl Default for Pic8259 {
    fn default() -> Self {
        Self::new()
    }
}

impl Pic8259 {
    /// A pair as it powers up: unmasked, nothing initialised.
    #[must_use]
    pub fn new() -> Self {
        Self { master: Pic { cascade: Some(CASCADE), ..Pic::default() }, slave: Pic::default() }
    }

    /// Power-on values; the input levels stay.
    pub fn reset(&mut self) {
        self.master.reset();
        self.slave.reset();
        self.cascade();
    }

    fn cascade(&mut self) {
        let level = self.slave.interrupt_output();
        self.master.set_line(CASCADE, level);
    }

    /// Drives input `irq` (0-15, without 2).
    pub fn set_irq(&mut self, irq: u8, level: bool) {
        match irq {
            CASCADE => {}
            0..=7 => self.master.set_line(irq, level),
            8..=15 => {
                self.slave.set_line(irq & 7, level);
                self.cascade();
            }
            _ => {}
        }
    }

    /// Level of the master's INT output.
    #[must_use]
    pub fn interrupt(&self) -> bool {
        self.master.interrupt_output()
    }

    /// Whether input `irq` is latched or asserted and not yet acknowledged.
    #[must_use]
    pub fn is_requested(&self, irq: u8) -> bool {
        let chip = if irq < 8 { &self.master } else { &self.slave };
        chip.irr & bit(irq) != 0
    }

    /// Whether input `irq` is masked (an input of the slave also by the master's IR2).
    #[must_use]
    pub fn is_masked(&self, irq: u8) -> bool {
        if irq < 8 {
            self.master.imr & bit(irq) != 0
        } else {
            self.slave.imr & bit(irq) != 0 || self.master.imr & bit(CASCADE) != 0
        }
    }

    /// Whether input `irq` is triggered by its level.
    #[must_use]
    pub fn follows_level(&self, irq: u8) -> bool {
        let pic = if irq < 8 { &self.master } else { &self.slave };
        pic.level_triggered() & bit(irq) != 0
    }

    fn acknowledge_slave(&mut self) -> u8 {
        let vector = match self.slave.request() {
            Some(input) => {
                self.slave.accept(input);
                self.slave.base | input
            }
            // The request has gone: IR7 without an in-service bit (8259A, "edge and level triggered modes").
            None => self.slave.base | 7,
        };
        // INT falls with the acknowledge and rises again when more is pending.
        self.master.set_line(CASCADE, false);
        self.cascade();
        vector
    }

    /// The two INTA cycles: takes the highest request and returns its vector, the spurious IR7 when there is none.
    pub fn acknowledge(&mut self) -> u8 {
        match self.master.request() {
            Some(CASCADE) => {
                self.master.accept(CASCADE);
                self.acknowledge_slave()
            }
            Some(input) => {
                self.master.accept(input);
                self.master.base | input
            }
            None => self.master.base | 7,
        }
    }

    /// Byte read of a port of the pair; `None` for any other port.
    pub fn read(&mut self, port: u16) -> Option<u8> {
        let value = match port {
            MASTER_COMMAND | MASTER_DATA => self.master.read(port & 1 != 0),
            SLAVE_COMMAND | SLAVE_DATA => {
                let polled = self.slave.poll;
                let value = self.slave.read(port & 1 != 0);
                if polled {
                    self.master.set_line(CASCADE, false);
                    self.cascade();
                }
                value
            }
            ELCR1 => self.master.elcr,
            ELCR2 => self.slave.elcr,
            _ => return None,
        };
        Some(value)
    }

    /// Byte write of a port of the pair; `false` for any other port.
    pub fn write(&mut self, port: u16, value: u8) -> bool {
        match port {
            MASTER_COMMAND => self.master.write_command(value),
            MASTER_DATA => self.master.write_data(value),
            SLAVE_COMMAND => self.slave.write_command(value),
            SLAVE_DATA => self.slave.write_data(value),
            ELCR1 => self.master.elcr = value & ELCR1_MASK,
            ELCR2 => self.slave.elcr = value & ELCR2_MASK,
            _ => return false,
        }
        for chip in [&mut self.master, &mut self.slave] {
            let level = chip.level_triggered();
            // A level input requests exactly while it is high.
            chip.irr = (chip.irr & !level) | (chip.lines & level);
        }
        if port == MASTER_COMMAND && value & ICW1 != 0 {
            // The slave's INT counts as a new edge for a freshly initialised master.
            self.master.set_line(CASCADE, false);
        }
        self.cascade();
        true
    }

    /// The text of the monitor's `info pic`.
    #[must_use]
    pub fn describe(&self) -> String {
        self.master.describe("pic0") + &self.slave.describe("pic1")
    }

    /// Makes values read from a saved form safe to use.
    pub(crate) fn sanitise(&mut self) {
        for chip in [&mut self.master, &mut self.slave] {
            chip.top &= 7;
            chip.base &= 0xf8;
        }
        self.master.cascade = Some(CASCADE);
        self.slave.cascade = None;
    }
}
