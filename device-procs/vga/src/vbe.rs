//! The Bochs VBE registers: a mode is a width, a height and a depth, whatever the VGA registers say.

use bulkhead_bus::chip::{Access, BusError, Reg};
use bulkhead_bus::shm::Bulk;

use crate::Vga;
use crate::spec::*;

/// The register file in use.
type Registers = [u16; VBE_COUNT];

/// Values after reset.
pub(crate) fn vbe_power_on(vram: u32) -> Registers {
    let mut registers = [0; VBE_COUNT];
    set(&mut registers, vbe::ID, VBE_ID_LATEST);
    set(&mut registers, vbe::MEMORY_64K, (vram / VBE_BANK) as u16);
    registers
}

fn get(registers: &Registers, index: usize) -> u16 {
    registers.get(index).copied().unwrap_or(0)
}

fn set(registers: &mut Registers, index: usize, value: u16) {
    if let Some(register) = registers.get_mut(index) {
        *register = value;
    }
}

/// Bits that a pixel takes in memory.
fn bits(bpp: u16) -> u32 {
    match bpp {
        15 => 16,
        bpp => u32::from(bpp),
    }
}

/// Changes the mode registers as little as makes all of a mode lie inside `vram` bytes. The result is a fixed point: a mode
/// that fits stays as it is.
fn fit(registers: &mut Registers, vram: u32) {
    let bpp = match get(registers, vbe::BPP) {
        bpp @ (4 | 8 | 15 | 16 | 24 | 32) => bpp,
        _ => 8,
    };
    let vram_bits = u64::from(vram) * 8;
    let xres = get(registers, vbe::XRES).clamp(8, VBE_MAX_XRES) & !7;
    let yres = get(registers, vbe::YRES).clamp(1, VBE_MAX_YRES);
    // Width first: as wide as asked for if the visible lines fit, at least what is visible.
    let widest = vram_bits / u64::from(yres) / u64::from(bits(bpp));
    let width = u64::from(get(registers, vbe::VIRT_WIDTH)).min(widest).max(u64::from(xres)) as u16 & !7;
    let lines =
        (vram_bits / (u64::from(width.max(8)) * u64::from(bits(bpp)))).min(u64::from(u16::MAX)) as u16;
    // A line of the widest mode is smaller than the smallest memory, so there is at least one.
    let yres = yres.min(lines.max(1));
    set(registers, vbe::BPP, bpp);
    set(registers, vbe::XRES, xres);
    set(registers, vbe::YRES, yres);
    set(registers, vbe::VIRT_WIDTH, width);
    set(registers, vbe::VIRT_HEIGHT, lines);
    let x = get(registers, vbe::X_OFFSET).min(width.saturating_sub(xres));
    let y = get(registers, vbe::Y_OFFSET).min(lines.saturating_sub(yres));
    set(registers, vbe::X_OFFSET, x);
    set(registers, vbe::Y_OFFSET, y);
    let bank = get(registers, vbe::BANK) & bank_mask(bpp, vram);
    set(registers, vbe::BANK, bank);
}

/// Bank numbers that exist: a bank of a planar mode is 64 KiB of each plane.
fn bank_mask(bpp: u16, vram: u32) -> u16 {
    let planes = if bpp == 4 { 4 } else { 1 };
    ((vram / VBE_BANK / planes).max(1) - 1) as u16
}

/// Whether a saved register file can come about with `vram` bytes of memory.
pub(crate) fn vbe_is_possible(registers: &Registers, vram: u32) -> bool {
    let mut fitted = *registers;
    let enable = get(registers, vbe::ENABLE);
    if enable & vbe_enable::ENABLED != 0 {
        fit(&mut fitted, vram);
    }
    fitted == *registers
        && enable & !vbe_enable::ALL == 0
        && (VBE_ID_FIRST..=VBE_ID_LATEST).contains(&get(registers, vbe::ID))
        && u32::from(get(registers, vbe::MEMORY_64K)) == vram / VBE_BANK
}

/// A VBE mode that is switched on; all of it lies inside the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VbeMode {
    /// Visible pixels of a line.
    pub width: u32,
    /// Visible lines.
    pub height: u32,
    /// 4, 8, 15, 16, 24 or 32.
    pub bpp: u16,
    /// Pixels of a line in memory.
    pub pitch: u32,
    /// First visible pixel.
    pub x: u32,
    /// First visible line.
    pub y: u32,
    /// Bank in the window.
    pub bank: u32,
}

impl VbeMode {
    /// Bytes of a line in memory, all four planes together in a planar mode.
    pub(crate) fn line_bytes(&self) -> usize {
        self.pitch as usize * bits(self.bpp) as usize / 8
    }
}

impl Vga {
    /// The VBE register ENABLE.
    pub(crate) fn vbe_enable(&self) -> u16 {
        get(&self.regs.vbe, vbe::ENABLE)
    }

    /// The VBE mode, when one is on.
    pub(crate) fn vbe_mode(&self) -> Option<VbeMode> {
        let register = |index| get(&self.regs.vbe, index);
        (self.vbe_enable() & vbe_enable::ENABLED != 0).then(|| VbeMode {
            width: register(vbe::XRES).into(),
            height: register(vbe::YRES).into(),
            bpp: register(vbe::BPP),
            pitch: register(vbe::VIRT_WIDTH).into(),
            x: register(vbe::X_OFFSET).into(),
            y: register(vbe::Y_OFFSET).into(),
            bank: register(vbe::BANK).into(),
        })
    }

    /// A register's content.
    pub(crate) fn vbe_raw(&self, index: usize) -> u16 {
        get(&self.regs.vbe, index)
    }

    /// A register as the guest reads it; 0 where there is none.
    pub(crate) fn vbe_read(&self, index: usize) -> u16 {
        let capabilities = self.vbe_enable() & vbe_enable::GETCAPS != 0;
        match index {
            vbe::XRES if capabilities => VBE_MAX_XRES,
            vbe::YRES if capabilities => VBE_MAX_YRES,
            vbe::BPP if capabilities => VBE_MAX_BPP,
            _ => get(&self.regs.vbe, index),
        }
    }

    /// Writes a register.
    pub(crate) fn vbe_write(&mut self, index: usize, value: u16, bulk: &Bulk) -> Result<(), BusError> {
        let vram = self.vram;
        let enabled = self.vbe_enable() & vbe_enable::ENABLED != 0;
        let registers = &mut self.regs.vbe;
        match index {
            vbe::ID => {
                if (VBE_ID_FIRST..=VBE_ID_LATEST).contains(&value) {
                    set(registers, vbe::ID, value);
                }
                return Ok(());
            }
            vbe::ENABLE => {
                self.set_vbe_enable(value, bulk);
                return Ok(());
            }
            // A bank that does not exist is not selected.
            vbe::BANK if value & !bank_mask(get(registers, vbe::BPP), vram) != 0 => return Ok(()),
            vbe::XRES
            | vbe::YRES
            | vbe::BPP
            | vbe::BANK
            | vbe::VIRT_WIDTH
            | vbe::X_OFFSET
            | vbe::Y_OFFSET => set(registers, index, value),
            // The height follows from the width; the memory is what it is.
            vbe::VIRT_HEIGHT | vbe::MEMORY_64K => return Ok(()),
            _ => return Err(BusError::Unclaimed),
        }
        if enabled {
            fit(registers, vram);
        }
        Ok(())
    }

    fn set_vbe_enable(&mut self, value: u16, bulk: &Bulk) {
        let old = self.vbe_enable();
        let new = value & vbe_enable::ALL;
        let vram = self.vram;
        let registers = &mut self.regs.vbe;
        set(registers, vbe::ENABLE, new);
        let turned_on = new & !old & vbe_enable::ENABLED != 0;
        if turned_on {
            for index in [vbe::VIRT_WIDTH, vbe::X_OFFSET, vbe::Y_OFFSET] {
                set(registers, index, 0);
            }
            fit(registers, vram);
        } else if new & vbe_enable::ENABLED == 0 {
            set(registers, vbe::BANK, 0);
        }
        // Colours keep their look when the width of the palette changes.
        if (old ^ new) & vbe_enable::DAC_8BIT != 0 {
            let eight = new & vbe_enable::DAC_8BIT != 0;
            for colour in self.regs.palette.iter_mut().flatten() {
                *colour = if eight { *colour << 2 } else { *colour >> 2 };
            }
        }
        if turned_on && new & vbe_enable::NO_CLEAR == 0 {
            self.clear_visible(bulk);
        }
    }

    /// Zeroes the visible lines of the mode just set.
    fn clear_visible(&self, bulk: &Bulk) {
        const ZERO: [u8; 1 << 14] = [0; 1 << 14];
        let Some(mode) = self.vbe_mode() else { return };
        let mut left = (mode.line_bytes() * mode.height as usize).min(bulk.len());
        let mut at = 0;
        while left > 0 {
            let piece = left.min(ZERO.len());
            if !bulk.write(at, ZERO.get(..piece).unwrap_or_default()) {
                return;
            }
            at += piece;
            left -= piece;
        }
    }

    /// Region 1. Words are registers; a byte is the low byte.
    pub(crate) fn read_vbe_ports(&self, reg: Reg) -> Access {
        let index = self.regs.vbe_index;
        let data = self.vbe_read(index.into());
        match reg.offset {
            0 if reg.size >= 4 => Ok(u64::from(index) | u64::from(data) << 16),
            0 => Ok(index.into()),
            1 | 2 => Ok(data.into()),
            _ => Err(BusError::Unclaimed),
        }
    }

    /// Region 1. A double word at the index port is index and data.
    pub(crate) fn write_vbe_ports(&mut self, reg: Reg, value: u64, bulk: &Bulk) -> Result<(), BusError> {
        let word = if reg.size == 1 { value as u16 & 0xff } else { value as u16 };
        match reg.offset {
            0 => {
                self.regs.vbe_index = word;
                if reg.size >= 4 {
                    return self.vbe_write(word.into(), (value >> 16) as u16, bulk);
                }
                Ok(())
            }
            1 | 2 => {
                let index = usize::from(self.regs.vbe_index);
                let word = if reg.size == 1 { self.vbe_raw(index) & 0xff00 | word } else { word };
                self.vbe_write(index, word, bulk)
            }
            _ => Err(BusError::Unclaimed),
        }
    }
}
