//! Port decoding.

use super::Board;
use crate::acpipm::spec as pm;
use crate::pci::spec::{CONFIG_ADDRESS, CONFIG_DATA};
use crate::pic8259::spec as pic;
use crate::piix3;
use crate::pit8254::{Pit8254, spec as pit};

/// A write takes the numeric error interrupt back, see [`super::FpuError`].
const COPROCESSOR_ERROR: u16 = 0xf0;

fn ones(size: u8) -> u32 {
    u32::MAX >> (32 - 8 * u32::from(size.clamp(1, 4)))
}

/// Offset of `port` in a space of `size` ports at `base`.
fn within(port: u16, base: Option<u16>, size: u16) -> Option<u16> {
    port.checked_sub(base?).filter(|offset| *offset < size)
}

impl Board {
    /// Reads `size` (1, 2 or 4) bytes at `port`; `None` when the port is not on the board.
    pub fn port_read(&mut self, port: u16, size: u8, now: u64) -> Option<u32> {
        self.poll(now);
        let size = size.clamp(1, 4);
        if self.config.pci {
            let lane = (port & 3) as u8;
            match port & !3 {
                CONFIG_ADDRESS if lane == 0 && size == 4 => return Some(self.pci.address()),
                CONFIG_ADDRESS if lane == 0 && size == 1 => return Some(0xff),
                CONFIG_DATA if lane + size <= 4 => return Some(self.pci.read_data(lane, size)),
                _ => {}
            }
        }
        let first = self.byte_read(port, now)?;
        let mut value = u32::from(first);
        for index in 1..size {
            let byte =
                port.checked_add(u16::from(index)).and_then(|port| self.byte_read(port, now)).unwrap_or(0xff);
            value |= u32::from(byte) << (8 * index);
        }
        Some(value)
    }

    /// Writes `size` (1, 2 or 4) bytes at `port`; `false` when the port is not on the board.
    pub fn port_write(&mut self, port: u16, size: u8, value: u32, now: u64) -> bool {
        self.poll(now);
        let size = size.clamp(1, 4);
        if self.config.pci {
            let lane = (port & 3) as u8;
            match port & !3 {
                CONFIG_ADDRESS if lane == 0 && size == 4 => {
                    self.pci.set_address(value);
                    return true;
                }
                CONFIG_DATA if lane + size <= 4 => {
                    if self.pci.write_data(lane, size, value & ones(size)).is_some() {
                        self.sync_config();
                        self.update(now);
                    }
                    return true;
                }
                _ => {}
            }
        }
        let bytes = value.to_le_bytes();
        if !self.byte_write(port, bytes[0], now) {
            return false;
        }
        for (index, byte) in (0u16..).zip(bytes).take(usize::from(size)).skip(1) {
            if let Some(port) = port.checked_add(index) {
                self.byte_write(port, byte, now);
            }
        }
        true
    }

    fn byte_read(&mut self, port: u16, now: u64) -> Option<u8> {
        match port {
            pic::MASTER_COMMAND
            | pic::MASTER_DATA
            | pic::SLAVE_COMMAND
            | pic::SLAVE_DATA
            | pic::ELCR1
            | pic::ELCR2 => {
                self.update(now);
                let value = self.pic.read(port);
                self.sync_intr();
                return value;
            }
            pit::COUNTER0..=pit::CONTROL | pit::PORT_B => {
                self.update(now);
                return self.pit.read(port, now);
            }
            _ => {}
        }
        if !self.config.pci {
            return None;
        }
        match port {
            piix3::spec::RESET_CONTROL => return Some(self.reset_control),
            CONFIG_ADDRESS..CONFIG_DATA => return Some(0xff),
            CONFIG_DATA..=0xcff => return Some(self.pci.read_data((port & 3) as u8, 1) as u8),
            _ => {}
        }
        if !self.config.acpi {
            return None;
        }
        let lane = |value: u32, offset: u16| value.to_le_bytes()[usize::from(offset & 3)];
        if let Some(offset) = within(port, self.bases.pm, pm::PM_SIZE) {
            return Some(lane(self.pm.read(offset & !3, now), offset));
        }
        if let Some(offset) = within(port, Some(pm::GPE0), pm::GPE0_SIZE) {
            return Some(lane(self.pm.read_gpe(), offset));
        }
        if let Some(offset) = within(port, self.bases.smbus, pm::SMB_SIZE) {
            return Some(self.pm.read_smbus(offset));
        }
        matches!(port, pm::APMC | pm::APMS).then(|| self.pm.read_apm(port))
    }

    fn byte_write(&mut self, port: u16, value: u8, now: u64) -> bool {
        match port {
            pic::MASTER_COMMAND
            | pic::MASTER_DATA
            | pic::SLAVE_COMMAND
            | pic::SLAVE_DATA
            | pic::ELCR1
            | pic::ELCR2 => {
                self.update(now);
                let command = matches!(port, pic::MASTER_COMMAND | pic::SLAVE_COMMAND);
                let piix3 = self.config.pci && command && value & pic::ICW1 != 0;
                self.pic.write(port, if piix3 { value & !pic::ICW1_LTIM } else { value });
                self.sync_intr();
                self.plan(now);
                return true;
            }
            pit::COUNTER0..=pit::CONTROL | pit::PORT_B => {
                self.update(now);
                if Pit8254::programs_counter0(port, value) {
                    self.owed.forget();
                }
                self.pit.write(port, value, now);
                self.update(now);
                return true;
            }
            COPROCESSOR_ERROR => {
                self.fpu.acknowledge();
                self.sync_outputs();
                return true;
            }
            _ => {}
        }
        if !self.config.pci {
            return false;
        }
        match port {
            piix3::spec::RESET_CONTROL => {
                let reset = piix3::write_reset_control(&mut self.reset_control, value);
                self.update(now);
                self.reset_event(reset);
                self.plan(now);
                return true;
            }
            CONFIG_ADDRESS..CONFIG_DATA => return true,
            CONFIG_DATA..=0xcff => {
                if self.pci.write_data((port & 3) as u8, 1, u32::from(value)).is_some() {
                    self.sync_config();
                    self.update(now);
                }
                return true;
            }
            _ => {}
        }
        self.config.acpi && self.pm_write(port, value, now)
    }

    fn pm_write(&mut self, port: u16, value: u8, now: u64) -> bool {
        let lane = |offset: u16| (u32::from(value) << (8 * (offset & 3)), 0xff << (8 * (offset & 3)));
        let event = if let Some(offset) = within(port, self.bases.pm, pm::PM_SIZE) {
            let (value, mask) = lane(offset);
            self.pm.write(offset & !3, value, mask, now)
        } else if let Some(offset) = within(port, Some(pm::GPE0), pm::GPE0_SIZE) {
            let (value, mask) = lane(offset);
            self.pm.write_gpe(value, mask);
            None
        } else if let Some(offset) = within(port, self.bases.smbus, pm::SMB_SIZE) {
            self.pm.write_smbus(offset, value);
            None
        } else if matches!(port, pm::APMC | pm::APMS) {
            self.pm.write_apm(port, value, self.bases.smi && self.config.smm)
        } else {
            return false;
        };
        self.pm_event(event);
        self.update(now);
        true
    }
}
