//! The VGA register file, port by port.

use bulkhead_bus::chip::{Access, BusError};

use crate::Vga;
use crate::spec::*;

impl Vga {
    /// Whether the CRT controller and its neighbours answer at 0x3dx.
    fn is_colour(&self) -> bool {
        self.regs.misc & MISC_COLOUR != 0
    }

    fn is_8bit_dac(&self) -> bool {
        self.vbe_enable() & vbe_enable::DAC_8BIT != 0
    }

    /// A byte register at an absolute port number.
    pub(crate) fn read_port(&mut self, port: u64, now: u64) -> Access {
        let colour = self.is_colour();
        let regs = &mut self.regs;
        if regs.enable == 0 && port != ENABLE {
            return Err(BusError::Rejected);
        }
        let value = match port {
            // The index register reads at both addresses of the pair's selected half only.
            CRTC_MONO if !colour => regs.crtc_index,
            CRTC_COLOUR if colour => regs.crtc_index,
            0x3b5 if !colour => regs.crtc_value(),
            0x3d5 if colour => regs.crtc_value(),
            STATUS1_MONO if !colour => self.status1(now),
            STATUS1_COLOUR if colour => self.status1(now),
            ATTRIBUTE => regs.attribute_index,
            ATTRIBUTE_READ => {
                let index = usize::from(regs.attribute_index & 0x1f);
                regs.attribute.get(index).copied().unwrap_or(0)
            }
            MISC_WRITE => STATUS0_SENSE,
            ENABLE => regs.enable,
            SEQUENCER => regs.sequencer_index,
            0x3c5 => regs.sequencer.get(usize::from(regs.sequencer_index)).copied().unwrap_or(0),
            DAC_MASK => regs.dac_mask,
            DAC_READ => regs.dac_state,
            DAC_WRITE => regs.dac_write,
            DAC_DATA => {
                let entry = regs.palette.get(usize::from(regs.dac_read)).copied().unwrap_or_default();
                let value = entry.get(usize::from(regs.dac_step)).copied().unwrap_or(0);
                if regs.dac_step >= 2 {
                    regs.dac_step = 0;
                    regs.dac_read = regs.dac_read.wrapping_add(1);
                } else {
                    regs.dac_step += 1;
                }
                value
            }
            FEATURE_READ => regs.feature,
            MISC_READ => regs.misc,
            GRAPHICS => regs.graphics_index,
            0x3cf => regs.graphics.get(usize::from(regs.graphics_index)).copied().unwrap_or(0),
            _ => return Err(BusError::Unclaimed),
        };
        Ok(u64::from(value))
    }

    /// Writes a byte register at an absolute port number.
    pub(crate) fn write_port(&mut self, port: u64, value: u8) -> Result<(), BusError> {
        let (colour, eight) = (self.is_colour(), self.is_8bit_dac());
        let regs = &mut self.regs;
        if regs.enable == 0 && port != ENABLE {
            return Err(BusError::Rejected);
        }
        match port {
            CRTC_MONO if !colour => regs.crtc_index = value,
            CRTC_COLOUR if colour => regs.crtc_index = value,
            0x3b5 if !colour => regs.set_crtc(value),
            0x3d5 if colour => regs.set_crtc(value),
            STATUS1_MONO if !colour => regs.feature = value,
            STATUS1_COLOUR if colour => regs.feature = value,
            ATTRIBUTE if regs.attribute_data == 0 => {
                regs.attribute_index = value & 0x3f;
                regs.attribute_data = 1;
            }
            ATTRIBUTE => {
                let index = usize::from(regs.attribute_index & 0x1f);
                set(&mut regs.attribute, &ATTRIBUTE_MASK, index, value);
                regs.attribute_data = 0;
            }
            MISC_WRITE => regs.misc = value & MISC_MASK,
            ENABLE => regs.enable = value & 1,
            SEQUENCER => regs.sequencer_index = value & 7,
            0x3c5 => set(&mut regs.sequencer, &SEQUENCER_MASK, usize::from(regs.sequencer_index), value),
            DAC_MASK => regs.dac_mask = value,
            DAC_READ => {
                regs.dac_read = value;
                regs.dac_step = 0;
                regs.dac_state = 3;
            }
            DAC_WRITE => {
                regs.dac_write = value;
                regs.dac_step = 0;
                regs.dac_state = 0;
            }
            DAC_DATA => {
                let colour = if eight { value } else { value & 0x3f };
                if let Some(pending) = regs.dac_pending.get_mut(usize::from(regs.dac_step)) {
                    *pending = colour;
                    regs.dac_step += 1;
                } else {
                    // The entry changes with its third colour.
                    let [red, green] = regs.dac_pending;
                    if let Some(entry) = regs.palette.get_mut(usize::from(regs.dac_write)) {
                        let mask = if eight { 0xff } else { 0x3f };
                        *entry = [red & mask, green & mask, colour];
                    }
                    regs.dac_write = regs.dac_write.wrapping_add(1);
                    regs.dac_step = 0;
                }
            }
            GRAPHICS => regs.graphics_index = value & 15,
            0x3cf => set(&mut regs.graphics, &GRAPHICS_MASK, usize::from(regs.graphics_index), value),
            _ => return Err(BusError::Unclaimed),
        }
        Ok(())
    }

    /// Input Status 1. Reading it makes the attribute port expect an index.
    fn status1(&mut self, now: u64) -> u8 {
        self.regs.attribute_data = 0;
        self.beam(now).status1()
    }
}

impl crate::State {
    /// The selected CRT controller register.
    fn crtc_value(&self) -> u8 {
        self.crtc.get(usize::from(self.crtc_index)).copied().unwrap_or(0)
    }

    fn set_crtc(&mut self, value: u8) {
        use crtc::{OVERFLOW, V_RETRACE_END};
        let index = usize::from(self.crtc_index);
        let protected = self.crtc.get(V_RETRACE_END).is_some_and(|end| end & 0x80 != 0);
        let Some(register) = self.crtc.get_mut(index) else { return };
        match index {
            // Bit 4 of the overflow register is part of the line compare value, which is not protected.
            OVERFLOW if protected => *register = *register & !0x10 | value & 0x10,
            0..=OVERFLOW if protected => {}
            _ => *register = value,
        }
    }
}

/// Sets an indexed register to the bits of `value` that exist.
fn set(registers: &mut [u8], masks: &[u8], index: usize, value: u8) {
    if let (Some(register), Some(mask)) = (registers.get_mut(index), masks.get(index)) {
        *register = value & mask;
    }
}
