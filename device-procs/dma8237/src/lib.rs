#![forbid(unsafe_code)]
//! The two 8237A DMA controllers of the PC/AT and their page registers.
//!
//! Regions: 0 ports 0x00..=0x0f (channels 0 to 3), 1 ports 0x80..=0x8f (page registers; 0x80 is also the diagnostic port that
//! programs write for a short delay), 2 ports 0xc0..=0xdf (channels 4 to 7, every other port). No lines. Restart class:
//! checkpointed.
//!
//! Bus classes: the page registers are mirrored, those without a channel posted, so that a delay write costs nothing. All else
//! is sync: a device in another process may start a transfer right after the program has set a channel up.
//!
//! # Deviations from hardware
//! The mask register reads back, as on the PIIX3 but not on the first 8237s; its unused bits read as ones.
//!
//! # Not emulated
//! Transfers: no device on this bus uses ISA DMA yet. They come as capabilities, one channel handed to one device; this
//! process stays the owner of the registers. Memory-to-memory transfer does not work on a PC either.

pub mod spec;
mod state;
#[cfg(test)]
mod tests;

pub use state::{Channel, Controller, State};

use bulkhead_bus::chip::{
    Access, BusError, Chip, Class, Control, Description, Env, Outputs, Reg, Region, RestoreError, Rule,
};
use spec::*;

/// Version of [`State`].
pub const VERSION: u32 = 1;

const PAGE_RULES: &[Rule] = &[
    Rule::new(0x0, 0x1, Class::Mirror, Class::Posted),
    Rule::new(0x4, 0x7, Class::Mirror, Class::Posted),
    Rule::new(0x8, 0x9, Class::Mirror, Class::Posted),
    Rule::new(0xc, 0xf, Class::Mirror, Class::Posted),
    Rule::new(0x0, 0x10, Class::Mirror, Class::Sync),
];
const REGIONS: &[Region] = &[
    Region { size: 16, rules: &[] },
    Region { size: 16, rules: PAGE_RULES },
    Region { size: 32, rules: &[] },
];

/// After reset all channels are masked; everything else is clear.
const RESET: Controller = Controller {
    channels: [Channel { base_address: 0, base_count: 0, address: 0, count: 0, mode: 0, padding: 0 }; 4],
    command: 0,
    reached: 0,
    requests: 0,
    masks: 0x0f,
    high: 0,
    padding: 0,
};

impl Controller {
    /// Master clear: the channels keep their addresses, counts and modes.
    fn master_clear(&mut self) {
        let channels = self.channels;
        *self = Controller { channels, ..RESET };
    }

    /// True when the high byte is meant; the other one is next.
    fn take_flip_flop(&mut self) -> bool {
        self.high ^= 1;
        self.high == 0
    }

    fn read(&mut self, register: u64) -> Access {
        Ok(match register {
            0..CHANNELS_END => {
                let high = self.take_flip_flop();
                let channel = self.channels.get(register as usize / 2).ok_or(BusError::Unclaimed)?;
                let value = if register.is_multiple_of(2) { channel.address } else { channel.count };
                u64::from(if high { value >> 8 } else { value & 0xff })
            }
            STATUS_COMMAND => {
                let value = self.reached | self.requests << 4;
                self.reached = 0;
                value.into()
            }
            MASTER_CLEAR => 0,
            MASK_ALL => u64::from(self.masks | 0xf0),
            _ => return Err(BusError::Rejected),
        })
    }

    fn write(&mut self, register: u64, value: u8) -> Result<(), BusError> {
        let bit = 1 << (value & CHANNEL);
        match register {
            0..CHANNELS_END => {
                let high = self.take_flip_flop();
                let channel = self.channels.get_mut(register as usize / 2).ok_or(BusError::Unclaimed)?;
                let (base, current) = if register.is_multiple_of(2) {
                    (&mut channel.base_address, &mut channel.address)
                } else {
                    (&mut channel.base_count, &mut channel.count)
                };
                *base = match high {
                    true => *base & 0x00ff | u16::from(value) << 8,
                    false => *base & 0xff00 | u16::from(value),
                };
                *current = *base;
            }
            STATUS_COMMAND => self.command = value,
            REQUEST if value & SET != 0 => self.requests |= bit,
            REQUEST => self.requests &= !bit,
            MASK_ONE if value & SET != 0 => self.masks |= bit,
            MASK_ONE => self.masks &= !bit,
            MODE => {
                if let Some(channel) = self.channels.get_mut(usize::from(value & CHANNEL)) {
                    channel.mode = value & !CHANNEL;
                }
            }
            CLEAR_FLIP_FLOP => self.high = 0,
            MASTER_CLEAR => self.master_clear(),
            CLEAR_MASKS => self.masks = 0,
            MASK_ALL => self.masks = value & 0x0f,
            _ => return Err(BusError::Unclaimed),
        }
        Ok(())
    }

    fn is_valid(&self) -> bool {
        self.high <= 1
            && (self.reached | self.requests | self.masks) <= 0x0f
            && self.padding == 0
            && self.channels.iter().all(|channel| channel.padding == 0 && channel.mode & CHANNEL == 0)
    }
}

/// Both controllers.
#[derive(Clone, Debug)]
pub struct Dma8237 {
    // Guest-visible state.
    state: State,
}

impl Dma8237 {
    /// As after power-on.
    pub fn new() -> Dma8237 {
        Dma8237 { state: State { controllers: [RESET; 2], pages: [0; 16] } }
    }

    /// Controller and register number of an offset; the second controller answers at even ports only.
    fn decode(region: u8, offset: u64) -> Result<(usize, u64), BusError> {
        match region {
            BYTES if offset < 16 => Ok((0, offset)),
            WORDS if offset < 32 && offset.is_multiple_of(2) => Ok((1, offset / 2)),
            _ => Err(BusError::Unclaimed),
        }
    }

    fn read_byte(&mut self, region: u8, offset: u64) -> Access {
        if region == PAGES {
            let at = usize::try_from(offset).map_err(|_| BusError::Unclaimed)?;
            return self.state.pages.get(at).map(|page| u64::from(*page)).ok_or(BusError::Unclaimed);
        }
        let (controller, register) = Dma8237::decode(region, offset)?;
        self.state.controllers.get_mut(controller).ok_or(BusError::Unclaimed)?.read(register)
    }

    fn write_byte(&mut self, region: u8, offset: u64, value: u8) -> Result<(), BusError> {
        if region == PAGES {
            let at = usize::try_from(offset).map_err(|_| BusError::Unclaimed)?;
            *self.state.pages.get_mut(at).ok_or(BusError::Unclaimed)? = value;
            return Ok(());
        }
        let (controller, register) = Dma8237::decode(region, offset)?;
        self.state.controllers.get_mut(controller).ok_or(BusError::Unclaimed)?.write(register, value)
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        let channels = self.state.controllers.iter().flat_map(|controller| {
            controller
                .channels
                .iter()
                .enumerate()
                .map(move |(at, channel)| (controller.masks >> at & 1, channel))
        });
        for (number, ((masked, channel), page)) in channels.zip(PAGE_OF).enumerate() {
            let page = self.state.pages.get(usize::from(page)).copied().unwrap_or(0);
            text.push_str(&format!(
                "channel {number}: page {page:#04x} address {:#06x} count {:#06x} mode {:#04x}{}\n",
                channel.address,
                channel.count,
                channel.mode,
                if masked == 1 { " masked" } else { "" }
            ));
        }
        text
    }
}

impl Default for Dma8237 {
    fn default() -> Self {
        Dma8237::new()
    }
}

impl Chip for Dma8237 {
    type State = State;
    const STATE_VERSION: u32 = VERSION;

    fn description(&self) -> Description {
        Description { part: "8237A pair", regions: REGIONS, lines: &[] }
    }

    fn reset(&mut self, _env: &mut Env<'_>) {
        let Dma8237 { state } = self;
        *state = State { controllers: [RESET; 2], pages: [0; 16] };
    }

    fn read(&mut self, reg: Reg, _env: &mut Env<'_>) -> Access {
        reg.read_bytes(|offset| self.read_byte(reg.region, offset))
    }

    fn write(&mut self, reg: Reg, value: u64, _env: &mut Env<'_>) -> Result<(), BusError> {
        reg.write_bytes(value, |offset, value| self.write_byte(reg.region, offset, value))
    }

    fn peek(&self, _region: u8, offset: u32) -> u8 {
        self.state.pages.get(offset as usize).copied().unwrap_or(0xff)
    }

    fn control(&mut self, request: &Control, _env: &mut Env<'_>) -> Result<Vec<u8>, &'static str> {
        match request {
            Control::Info => Ok(self.describe().into_bytes()),
            _ => Err("no such request for this device"),
        }
    }

    fn sync_outputs(&self, _out: &mut Outputs) {}

    fn save(&self) -> State {
        let Dma8237 { state } = self;
        *state
    }

    fn restore(&mut self, state: &State) -> Result<(), RestoreError> {
        if !state.controllers.iter().all(Controller::is_valid) {
            return Err(RestoreError { part: "8237A pair", reason: "a register has bits that do not exist" });
        }
        self.state = *state;
        Ok(())
    }
}
