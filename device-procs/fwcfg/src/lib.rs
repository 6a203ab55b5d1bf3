#![forbid(unsafe_code)]
//! fw_cfg, the channel by which firmware and guest kernels get their configuration from the machine.
//!
//! Region 0: 12 ports at 0x510. No line. Uses guest RAM for its DMA interface. Items come with the configuration, large ones
//! in the bulk memory. Restart class: checkpointed (DMA to memory may be done again).
//!
//! Bus classes: the upper half of the DMA address is posted, both halves mirrored; selector, data and the start of a transfer are sync.
//! A transfer moves at most [`STEP`] bytes an access; a longer one goes on by timer while the guest polls the control word,
//! as the specification allows.
//!
//! # Deviations from hardware
//! There is no hardware; where the specification leaves it open: a selector written by bytes is ignored, bytes beyond
//! the end of an item read as zero, a DMA access structure outside of RAM is dropped. Like every PCI master this one does not reach
//! what lies behind video memory, system-management RAM (82441FX, 4.1).
//!
//! # Not emulated
//! Writable items: a DMA write ends with the error bit, a write to the data port is dropped.

pub mod spec;
mod state;
#[cfg(test)]
mod tests;

pub use state::State;

use bulkhead_bus::chip::{
    self, Access, BusError, Chip, Class, Control, Description, Env, Outputs, Reg, Region, RestoreError, Rule,
};
use bulkhead_bus::config::{FwCfgConfig, FwCfgSource};
use bulkhead_bus::shm::Bulk;
use bulkhead_bus::wire;
use spec::*;

/// Version of [`State`].
pub const VERSION: u32 = 1;
/// Most bytes that one access or timer call moves.
pub const STEP: u32 = 4 << 20;
/// Guest time between two steps of a long transfer.
const STEP_NS: u64 = 1_000;
const BUFFER: usize = 16 << 10;

const RULES: &[Rule] =
    &[Rule::new(4, 8, Class::Mirror, Class::Posted), Rule::new(8, 12, Class::Mirror, Class::Sync)];
const REGIONS: &[Region] = &[Region { size: PORTS, rules: RULES }];

/// An item by its key.
#[derive(Clone, Debug)]
struct Item {
    key: u16,
    name: String,
    source: FwCfgSource,
}

impl Item {
    fn len(&self) -> u32 {
        match &self.source {
            FwCfgSource::Inline(bytes) => bytes.len() as u32,
            FwCfgSource::Bulk { len, .. } => *len,
        }
    }

    /// Copies from `position`; what lies beyond the end is zero.
    fn copy(&self, position: u32, to: &mut [u8], bulk: &Bulk) {
        let left = self.len().saturating_sub(position) as usize;
        let (have, rest) = to.split_at_mut(left.min(to.len()));
        rest.fill(0);
        let copied = match &self.source {
            FwCfgSource::Inline(bytes) => match bytes.get(position as usize..) {
                Some(bytes) => {
                    have.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
                    true
                }
                None => false,
            },
            FwCfgSource::Bulk { offset, .. } => {
                let at = usize::try_from(offset.saturating_add(position.into())).unwrap_or(usize::MAX);
                bulk.read(at, have)
            }
        };
        if !copied {
            have.fill(0);
        }
    }
}

/// The device.
#[derive(Clone, Debug)]
pub struct FwCfg {
    // Fixed configuration, sorted by key.
    items: Vec<Item>,
    // Guest-visible state.
    state: State,
}

impl FwCfg {
    /// From the configuration of the role.
    ///
    /// # Errors
    /// A key that is used twice or reserved, a name that is too long, more files than keys.
    pub fn new(config: FwCfgConfig) -> Result<FwCfg, String> {
        let item =
            |key, bytes: Vec<u8>| Item { key, name: String::new(), source: FwCfgSource::Inline(bytes) };
        let mut items =
            vec![item(KEY_SIGNATURE, SIGNATURE.to_vec()), item(KEY_ID, FEATURES.to_le_bytes().to_vec())];
        for given in config.items {
            if given.key & KEY_WRITE != 0 || given.key & !KEY_LOCAL >= KEY_FILES {
                return Err(format!("fw_cfg key {:#06x} is out of range", given.key));
            }
            items.push(Item { key: given.key, name: String::new(), source: given.source });
        }
        let mut directory = (config.files.len() as u32).to_be_bytes().to_vec();
        for (number, file) in config.files.into_iter().enumerate() {
            if file.name.len() >= NAME_BYTES || !file.name.is_ascii() || file.name.is_empty() {
                return Err(format!("fw_cfg file name {:?} is not 1 to 55 bytes of ASCII", file.name));
            }
            let key = u16::try_from(number).ok().and_then(|number| KEY_FILES.checked_add(number));
            let key = key.filter(|key| key & (KEY_WRITE | KEY_LOCAL) == 0).ok_or("too many fw_cfg files")?;
            let item = Item { key, name: file.name, source: file.source };
            directory.extend(item.len().to_be_bytes());
            directory.extend(key.to_be_bytes());
            directory.extend([0, 0]);
            let mut name = [0u8; NAME_BYTES];
            name.iter_mut().zip(item.name.bytes()).for_each(|(to, from)| *to = from);
            directory.extend(name);
            items.push(item);
        }
        items.push(item(KEY_DIRECTORY, directory));
        items.sort_by_key(|item| item.key);
        if let Some([twice, _]) = items.array_windows().find(|[left, right]| left.key == right.key) {
            return Err(format!("fw_cfg key {:#06x} is used twice", twice.key));
        }
        Ok(FwCfg { items, state: bytemuck::Zeroable::zeroed() })
    }

    /// From the encoded configuration in a manifest.
    ///
    /// # Errors
    /// When it does not decode or does not fit.
    pub fn from_config(bytes: &[u8]) -> Result<FwCfg, String> {
        FwCfg::new(wire::decode(bytes).map_err(|_| "malformed configuration".to_owned())?)
    }

    fn selected(&self) -> Option<&Item> {
        let at = self.items.binary_search_by_key(&self.state.key, |item| item.key).ok()?;
        self.items.get(at)
    }

    fn select(&mut self, key: u16) {
        self.state.key = key & !KEY_WRITE;
        self.state.position = 0;
    }

    /// The next bytes of the selected item; zeros when there is none.
    fn take(&mut self, to: &mut [u8], bulk: &Bulk) {
        match self.selected() {
            Some(item) => item.copy(self.state.position, to, bulk),
            None => to.fill(0),
        }
        self.advance(to.len() as u32);
    }

    fn advance(&mut self, count: u32) {
        let end = self.selected().map_or(0, Item::len);
        self.state.position = self.state.position.saturating_add(count).min(end);
    }

    // ---- DMA ----

    fn start_dma(&mut self, env: &mut Env<'_>) {
        let access = u64::from_be_bytes(self.state.dma);
        self.state.dma = [0; 8];
        // A new transfer takes the place of one that the guest did not wait for, even if nothing comes of it.
        self.forget_dma();
        let Some(ram) = env.ram else { return };
        let mut words = [0u8; ACCESS_BYTES];
        if !ram.is_open_to_masters(access, ACCESS_BYTES as u64) || !ram.read(access, &mut words) {
            return;
        }
        let word = |at: usize| {
            words.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |b| u32::from_be_bytes(*b))
        };
        let (control, length) = (word(0), word(4));
        if control & CONTROL_SELECT != 0 {
            self.select((control >> 16) as u16);
        }
        self.state.access = access;
        if control & CONTROL_READ != 0 {
            self.state.target = u64::from(word(8)) << 32 | u64::from(word(12));
            self.state.left = length;
            self.state.busy = 1;
            self.step_dma(env);
        } else if control & CONTROL_WRITE != 0 {
            self.end_dma(length == 0, env);
        } else {
            if control & CONTROL_SKIP != 0 {
                self.advance(length);
            }
            self.end_dma(true, env);
        }
    }

    /// Reports the result in the access structure.
    fn end_dma(&mut self, ok: bool, env: &mut Env<'_>) {
        let control = if ok { 0 } else { CONTROL_ERROR };
        if let Some(ram) = env.ram {
            // The structure was RAM when the transfer began, and RAM does not move.
            let _ = ram.write(self.state.access, &control.to_be_bytes());
        }
        self.forget_dma();
    }

    /// No transfer is under way.
    fn forget_dma(&mut self) {
        self.state.busy = 0;
        self.state.left = 0;
        self.state.target = 0;
        self.state.access = 0;
        self.state.resume_at = 0;
    }

    /// Moves the next bytes of a transfer under way.
    fn step_dma(&mut self, env: &mut Env<'_>) {
        let Some(ram) = env.ram else { return self.end_dma(false, env) };
        let mut buffer = [0u8; BUFFER];
        let mut budget = STEP;
        while self.state.left > 0 && budget > 0 {
            let count = self.state.left.min(budget).min(BUFFER as u32);
            let part = buffer.get_mut(..count as usize).unwrap_or_default();
            self.take(part, env.bulk);
            let open = ram.is_open_to_masters(self.state.target, count.into());
            if !open || !ram.write(self.state.target, part) {
                return self.end_dma(false, env);
            }
            self.state.target = self.state.target.wrapping_add(count.into());
            self.state.left -= count;
            budget -= count;
        }
        if self.state.left == 0 {
            self.end_dma(true, env);
            // A kernel is handed over once: its pages are the guest's and the broker's, not this process's.
            ram.release_pages();
            env.bulk.release_pages();
        } else {
            self.state.resume_at = env.now.saturating_add(STEP_NS);
        }
    }

    fn read_byte(&mut self, offset: u64, env: &mut Env<'_>) -> Access {
        match offset {
            DATA => {
                let mut byte = [0];
                self.take(&mut byte, env.bulk);
                Ok(byte[0].into())
            }
            DMA..PORTS => Ok(self.peek(0, offset as u32).into()),
            SELECTOR => Err(BusError::Rejected),
            _ => Err(BusError::Unclaimed),
        }
    }
}

impl Chip for FwCfg {
    type State = State;
    const STATE_VERSION: u32 = VERSION;

    fn description(&self) -> Description {
        Description { part: "fw_cfg", regions: REGIONS, lines: &[] }
    }

    fn reset(&mut self, _env: &mut Env<'_>) {
        let FwCfg { items: _, state } = self;
        *state = bytemuck::Zeroable::zeroed();
    }

    fn read(&mut self, reg: Reg, env: &mut Env<'_>) -> Access {
        reg.read_bytes(|offset| self.read_byte(offset, env))
    }

    fn write(&mut self, reg: Reg, value: u64, env: &mut Env<'_>) -> Result<(), BusError> {
        match reg.offset {
            SELECTOR if reg.size >= 2 => {
                self.select(value as u16);
                Ok(())
            }
            SELECTOR | DATA => Err(BusError::Rejected),
            _ => reg.write_bytes(value, |offset, byte| {
                let at = offset.wrapping_sub(DMA) as usize;
                *self.state.dma.get_mut(at).ok_or(BusError::Unclaimed)? = byte;
                if at == 7 {
                    self.start_dma(env);
                }
                Ok(())
            }),
        }
    }

    fn peek(&self, _region: u8, offset: u32) -> u8 {
        let at = (offset as usize).wrapping_sub(DMA as usize);
        DMA_SIGNATURE.get(at).copied().unwrap_or(0xff)
    }

    fn read_block(&mut self, reg: Reg, data: &mut [u8], env: &mut Env<'_>) -> Result<usize, BusError> {
        if reg.offset != DATA || reg.size != 1 {
            // Slow and rare: whatever single reads give.
            return chip::read_units(self, reg, data, env);
        }
        self.take(data, env.bulk);
        Ok(data.len())
    }

    fn timer(&mut self, env: &mut Env<'_>) {
        if self.state.busy == 1 && self.state.resume_at <= env.now {
            self.step_dma(env);
        }
    }

    fn control(&mut self, request: &Control, _env: &mut Env<'_>) -> Result<Vec<u8>, &'static str> {
        match request {
            Control::Info => {
                let mut text = String::new();
                for item in &self.items {
                    text.push_str(&format!("{:#06x} {:>9} {}\n", item.key, item.len(), item.name));
                }
                text.truncate(bulkhead_bus::control::REPLY_MAX);
                Ok(text.into_bytes())
            }
            _ => Err("no such request for this device"),
        }
    }

    fn sync_outputs(&self, out: &mut Outputs) {
        out.deadline = (self.state.busy == 1).then_some(self.state.resume_at);
    }

    fn save(&self) -> State {
        let FwCfg { items: _, state } = self;
        *state
    }

    fn restore(&mut self, state: &State) -> Result<(), RestoreError> {
        let refuse = |reason| Err(RestoreError { part: "fw_cfg", reason });
        if state.busy > 1 || (state.busy == 0 && state.left != 0) {
            return refuse("a transfer is neither under way nor over");
        }
        if state.key & KEY_WRITE != 0 || state.padding != [0; 5] {
            return refuse("unknown selector bits");
        }
        self.state = *state;
        Ok(())
    }
}
