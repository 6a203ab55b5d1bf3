#![forbid(unsafe_code)]
//! The standard VGA of the PC (1234:1111): an IBM VGA with the Bochs VBE extension.
//!
//! | region | where | what |
//! |---|---|---|
//! | 0 | ports 0x3b0..0x3e0 | VGA registers |
//! | 1 | ports 0x1ce..0x1d2 | VBE index (0x1ce) and data (0x1cf and 0x1d0), 16 bits |
//! | 2 | memory 0xa0000..0xc0000 | window onto the planes, or onto a bank of a VBE mode |
//! | 3 | BAR 2, 4 KiB | EDID, the same registers in memory, byte order ([`spec`]) |
//!
//! BAR 0 is the bulk memory itself, which the CPU process maps: no access to the linear frame buffer comes here. The byte at
//! offset `o` of plane `p` is byte `4 * o + p` of the bulk memory; a VBE mode of 8 or more bits a pixel lies in it straight.
//! No interrupt line. Restart class: checkpointed; the registers are [`State`], writes to video memory depend on nothing but
//! the state and are therefore done again without harm.
//!
//! Files: `ports.rs` the register file, `vbe.rs` the VBE registers, `memory.rs` the window, `timing.rs` where the beam is,
//! `render.rs` a scan line, `screen.rs` the picture as a file and as text.
//!
//! # Deviations from hardware
//! - Writes to ports and to the window are posted. A guest that writes through the window and reads the same byte through the
//!   linear frame buffer needs an access that waits in between (any read, any VBE register).
//! - Vertical retrace lasts to the end of the frame, not for two lines: a guest that polls for it from another processor
//!   would miss a pulse of 60 us.
//! - The odd/even page bit of Miscellaneous Output is kept but selects nothing.
//! - The attribute palette can be written while the palette address source is set.
//! - VBE widths are rounded down to a multiple of 8 pixels.
//! - A 9th dot exists in text modes only.
//!
//! # Not emulated
//! Vertical retrace interrupt, light pen, shift registers loaded every 2 or 4 characters, horizontal skew, DDC, a VBE palette
//! of other than 256 entries, VBE banks of 32 KiB.

mod cp437;
mod edid;
mod memory;
mod ports;
mod render;
mod screen;
pub mod spec;
mod state;
#[cfg(test)]
mod tests;
mod timing;
mod vbe;

pub use state::State;

use bulkhead_bus::chip::{
    Access, BusError, Chip, Class, Control, Description, Env, Outputs, Reg, Region, RestoreError, Rule,
};
use bulkhead_bus::config::VgaConfig;
use spec::*;

/// Version of [`State`].
pub const VERSION: u32 = 1;

// Posted: nothing here drives a line. The VBE registers are sync: setting a mode clears memory that the guest writes
// without us right afterwards.
const PORT_RULES: &[Rule] = &[Rule::new(0, 0x30, Class::Sync, Class::Posted)];
const MEMORY_RULES: &[Rule] = &[Rule::new(0, 0x2_0000, Class::Sync, Class::Posted)];
const REGIONS: &[Region] = &[
    Region { size: 0x30, rules: PORT_RULES },
    Region { size: 4, rules: &[] },
    Region { size: WINDOW_BYTES, rules: MEMORY_RULES },
    Region { size: MMIO_BYTES, rules: &[] },
];

/// The standard VGA.
#[derive(Clone, Debug)]
pub struct Vga {
    // Fixed configuration.
    /// Bytes of video memory.
    vram: u32,
    // Guest-visible state.
    regs: State,
}

impl Vga {
    /// An adapter in its power-on state.
    ///
    /// # Errors
    /// When the memory size is not a power of two from 256 KiB to 256 MiB.
    pub fn new(config: VgaConfig) -> Result<Vga, String> {
        let VgaConfig { vram_bytes } = config;
        if !vram_bytes.is_power_of_two() || !(VRAM_MIN..=VRAM_MAX).contains(&vram_bytes) {
            return Err(format!(
                "video memory of {vram_bytes} bytes is not a power of two from 256K to 256M"
            ));
        }
        Ok(Vga { vram: vram_bytes, regs: State::power_on(vram_bytes) })
    }

    fn read_mmio(&mut self, at: u64, now: u64) -> Access {
        match at {
            MMIO_EDID..MMIO_PORTS => Ok(u64::from(edid::byte(at - MMIO_EDID))),
            MMIO_PORTS..0x420 => self.read_port(at - MMIO_PORTS + ATTRIBUTE, now),
            MMIO_VBE..0x516 => {
                let value = self.vbe_read((at - MMIO_VBE) as usize / 2);
                Ok(u64::from(byte_of(value.into(), at & 1)))
            }
            MMIO_QEXT_SIZE..0x604 => Ok(u64::from(byte_of(QEXT_BYTES, at))),
            MMIO_QEXT_ENDIAN..0x608 => Ok(u64::from(byte_of(self.regs.endian, at))),
            _ => Err(BusError::Unclaimed),
        }
    }

    fn write_mmio(&mut self, reg: Reg, value: u64, env: &mut Env<'_>) -> Result<(), BusError> {
        let mut done = Err(BusError::Unclaimed);
        let (mut at, mut value, mut left) = (reg.offset, value, u64::from(reg.size.min(8)));
        while left > 0 {
            // VBE registers take 16 bits at once where the access holds both bytes.
            let (one, step) = match at {
                MMIO_PORTS..0x420 => (self.write_port(at - MMIO_PORTS + ATTRIBUTE, value as u8), 1),
                MMIO_VBE..0x516 => {
                    let index = (at - MMIO_VBE) as usize / 2;
                    let old = self.vbe_raw(index);
                    match (at & 1, left) {
                        (0, 2..) => (self.vbe_write(index, value as u16, env.bulk), 2),
                        (0, _) => (self.vbe_write(index, old & 0xff00 | value as u16 & 0xff, env.bulk), 1),
                        _ => (self.vbe_write(index, old & 0xff | (value as u16) << 8, env.bulk), 1),
                    }
                }
                MMIO_QEXT_ENDIAN if left >= 4 => {
                    if matches!(value as u32, ENDIAN_LITTLE | ENDIAN_BIG) {
                        self.regs.endian = value as u32;
                    }
                    (Ok(()), 4)
                }
                MMIO_EDID..MMIO_PORTS | MMIO_QEXT_SIZE..0x608 => (Err(BusError::Rejected), 1),
                _ => (Err(BusError::Unclaimed), 1),
            };
            done = done.or(one);
            at = at.wrapping_add(step);
            left = left.saturating_sub(step);
            value = value.checked_shr(8 * step as u32).unwrap_or(0);
        }
        done
    }
}

/// The byte of a 32-bit register at `4n + at % 4`.
fn byte_of(value: u32, at: u64) -> u8 {
    (value >> (8 * (at & 3))) as u8
}

impl Chip for Vga {
    type State = State;
    const STATE_VERSION: u32 = VERSION;

    fn description(&self) -> Description {
        Description { part: "VGA", regions: REGIONS, lines: &[] }
    }

    fn reset(&mut self, _env: &mut Env<'_>) {
        // Video memory keeps its content, as the chip's reset pin does not reach it. A picture that is being fetched keeps its size.
        let State { dump_width, dump_height, .. } = self.regs;
        self.regs = State { dump_width, dump_height, ..State::power_on(self.vram) };
    }

    fn read(&mut self, reg: Reg, env: &mut Env<'_>) -> Access {
        let now = env.now;
        match reg.region {
            REGION_PORTS => reg.read_bytes(|at| self.read_port(PORT_BASE.wrapping_add(at), now)),
            REGION_VBE => self.read_vbe_ports(reg),
            REGION_MEMORY => reg.read_bytes(|at| self.read_window(at, env.bulk)),
            REGION_MMIO => reg.read_bytes(|at| self.read_mmio(at, now)),
            _ => Err(BusError::Unclaimed),
        }
    }

    fn write(&mut self, reg: Reg, value: u64, env: &mut Env<'_>) -> Result<(), BusError> {
        match reg.region {
            REGION_PORTS => {
                reg.write_bytes(value, |at, byte| self.write_port(PORT_BASE.wrapping_add(at), byte))
            }
            REGION_VBE => self.write_vbe_ports(reg, value, env.bulk),
            REGION_MEMORY => {
                let bytes = value.to_le_bytes();
                let len = usize::from(reg.size.min(8));
                self.write_run(reg.offset, bytes.get(..len).unwrap_or_default(), env.bulk)
            }
            REGION_MMIO => self.write_mmio(reg, value, env),
            _ => Err(BusError::Unclaimed),
        }
    }

    fn control(&mut self, request: &Control, env: &mut Env<'_>) -> Result<Vec<u8>, &'static str> {
        match request {
            Control::Screen { offset } => Ok(self.dump(*offset, env.bulk)),
            Control::Info => Ok(self.info().into_bytes()),
            Control::Configure(what) if what == b"text" => self.text(env.bulk).map(String::into_bytes),
            _ => Err("no such request for this device"),
        }
    }

    fn sync_outputs(&self, _out: &mut Outputs) {}

    fn save(&self) -> State {
        self.regs
    }

    fn restore(&mut self, state: &State) -> Result<(), RestoreError> {
        state.check(self.vram).map_err(|reason| RestoreError { part: "VGA", reason })?;
        self.regs = *state;
        Ok(())
    }
}
