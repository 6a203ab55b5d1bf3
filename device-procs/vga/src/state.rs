//! The saved form of the VGA. The device keeps its registers in this form too: what a guest can observe is one value.

use bytemuck::{Pod, Zeroable};

use crate::spec::*;
use crate::vbe::{vbe_is_possible, vbe_power_on};

/// Everything that a guest can observe but the video memory, which is the bulk memory. Plain data without implicit
/// padding; a change of layout or meaning takes a new [`crate::VERSION`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct State {
    /// Byte at each plane (plane 0 lowest) that the last read of video memory left.
    pub latches: u32,
    /// Byte order register of BAR 2.
    pub endian: u32,
    /// Size in pixels of the screen dump that is being fetched; 0 before the first.
    pub dump_width: u32,
    /// Its height.
    pub dump_height: u32,
    /// VBE registers; VIRT_HEIGHT and MEMORY_64K are kept current.
    pub vbe: [u16; VBE_COUNT],
    /// VBE index.
    pub vbe_index: u16,
    /// CRT controller registers.
    pub crtc: [u8; CRTC_COUNT],
    /// CRT controller index.
    pub crtc_index: u8,
    /// Sequencer registers.
    pub sequencer: [u8; SEQUENCER_COUNT],
    /// Sequencer index.
    pub sequencer_index: u8,
    /// Graphics controller registers.
    pub graphics: [u8; GRAPHICS_COUNT],
    /// Graphics controller index.
    pub graphics_index: u8,
    /// Attribute controller registers.
    pub attribute: [u8; ATTRIBUTE_COUNT],
    /// Attribute controller index with the palette address source in bit 5.
    pub attribute_index: u8,
    /// 1 when the next write to the attribute port is data.
    pub attribute_data: u8,
    /// Miscellaneous Output.
    pub misc: u8,
    /// Feature Control.
    pub feature: u8,
    /// Video Subsystem Enable, bit 0.
    pub enable: u8,
    /// Palette mask.
    pub dac_mask: u8,
    /// Palette address of the next read.
    pub dac_read: u8,
    /// Palette address of the next write.
    pub dac_write: u8,
    /// Colour of the next read or write: 0 red, 1 green, 2 blue.
    pub dac_step: u8,
    /// State as port 0x3c7 reads it: 3 after a read address, 0 after a write address.
    pub dac_state: u8,
    /// Red and green of an entry whose blue has not come yet.
    pub dac_pending: [u8; 2],
    /// Red, green, blue of 256 entries, 6 or 8 bits each as the VBE register ENABLE says.
    pub palette: [[u8; 3]; 256],
    /// Zero.
    pub padding: u8,
}

const _: () = assert!(size_of::<State>() <= bulkhead_bus::chip::STATE_MAX);

impl State {
    /// State after power-on or reset: nothing is displayed, the processor reaches the registers but not the memory.
    pub(crate) fn power_on(vram: u32) -> State {
        State {
            latches: 0,
            endian: ENDIAN_LITTLE,
            dump_width: 0,
            dump_height: 0,
            vbe: vbe_power_on(vram),
            vbe_index: 0,
            crtc: [0; CRTC_COUNT],
            crtc_index: 0,
            sequencer: [0; SEQUENCER_COUNT],
            sequencer_index: 0,
            graphics: [0; GRAPHICS_COUNT],
            graphics_index: 0,
            attribute: [0; ATTRIBUTE_COUNT],
            attribute_index: 0,
            attribute_data: 0,
            misc: 0,
            feature: 0,
            enable: 1,
            dac_mask: 0xff,
            dac_read: 0,
            dac_write: 0,
            dac_step: 0,
            dac_state: 0,
            dac_pending: [0; 2],
            palette: [[0; 3]; 256],
            padding: 0,
        }
    }

    /// Whether these are values that the registers can take with `vram` bytes of memory; else the field and the problem.
    pub(crate) fn check(&self, vram: u32) -> Result<(), &'static str> {
        let State {
            latches: _,
            endian,
            dump_width,
            dump_height,
            vbe,
            vbe_index: _,
            crtc: _,
            crtc_index: _,
            sequencer,
            sequencer_index,
            graphics,
            graphics_index,
            attribute,
            attribute_index,
            attribute_data,
            misc,
            feature: _,
            enable,
            dac_mask: _,
            dac_read: _,
            dac_write: _,
            dac_step,
            dac_state,
            dac_pending: _,
            palette,
            padding,
        } = self;
        let within =
            |values: &[u8], masks: &[u8]| values.iter().zip(masks).all(|(value, mask)| value & !mask == 0);
        if !matches!(*endian, ENDIAN_LITTLE | ENDIAN_BIG) {
            return Err("byte order is neither little nor big");
        }
        if *dump_width > u32::from(VBE_MAX_XRES) || *dump_height > u32::from(VBE_MAX_YRES) {
            return Err("screen dump is larger than any mode");
        }
        if !vbe_is_possible(vbe, vram) {
            return Err("VBE registers describe no mode that fits");
        }
        if !within(sequencer, &SEQUENCER_MASK) || *sequencer_index > 7 {
            return Err("sequencer has unknown bits");
        }
        if !within(graphics, &GRAPHICS_MASK) || *graphics_index > 15 {
            return Err("graphics controller has unknown bits");
        }
        if !within(attribute, &ATTRIBUTE_MASK) || *attribute_index > 0x3f || *attribute_data > 1 {
            return Err("attribute controller has unknown bits");
        }
        if *misc & !MISC_MASK != 0 {
            return Err("miscellaneous output has unknown bits");
        }
        if *enable > 1 || *dac_step > 2 || !matches!(*dac_state, 0 | 3) {
            return Err("palette or enable is out of step");
        }
        let eight = vbe.get(vbe::ENABLE).is_some_and(|enable| enable & vbe_enable::DAC_8BIT != 0);
        if !eight && palette.iter().flatten().any(|colour| *colour > 0x3f) {
            return Err("palette has more than 6 bits");
        }
        if *padding != 0 {
            return Err("padding is not zero");
        }
        Ok(())
    }
}
