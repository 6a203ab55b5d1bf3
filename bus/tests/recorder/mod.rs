//! A chip whose log tells whether every access came, once and in order, and which dies in many ways.

use bulkhead_bus::chip::{
    Access, BusError, Chip, Class, Control, Description, Env, Outputs, Reg, Region, RestoreError, Rule, Shows,
};

/// Fold a value into a log in order: any loss, doubling or swap shows.
pub fn fold(log: u64, value: u64) -> u64 {
    log.wrapping_mul(0x100_0000_01b3).wrapping_add(value).wrapping_add(1)
}

/// A chip that keeps a log of everything written to it.
///
/// Offset 0: posted write; 8: kicked; 16: sync; each adds to the log. 24: the log, sync. 32: the log, mirrored. 40: number of
/// accesses. 48: write raises the line after that many nanoseconds, read lowers it. 56: the fuse: the process dies (the
/// thread panics) in the middle of the transaction after that many more writes. 60: reading it is deadly.
///
/// Region 1, offset 0: 1 while the line is high, calm while it is low; read lowers it. 8: a note, mirrored; its posted write shows in this
/// region only, and line 1 has had so many pulses. 9: posted write that nothing shows but the number of accesses.
#[derive(Default)]
pub struct Recorder {
    state: State,
    can_die: bool,
    deadly: Deadly,
}

impl Recorder {
    /// One that dies of `deadly` and, if it `can_die`, by its fuse.
    pub fn new(can_die: bool, deadly: Deadly) -> Recorder {
        Recorder { can_die, deadly, ..Recorder::default() }
    }
}

/// What a recorder dies of besides its fuse and its deadly register.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Deadly {
    #[default]
    Nothing,
    Timer,
    Bytes,
    State,
    /// Outputs of a state with a note of 7.
    Outputs,
    Command,
    /// Does not die, but refuses every saved state.
    Upgrade,
    /// Does not die, but raises its line for what comes over the link.
    Eager,
}

#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct State {
    log: u64,
    count: u64,
    alarm: u64,
    fuse: u64,
    level: u32,
    received: u32,
    sent: u32,
    note: u32,
}

/// Offset of the line's level in the state.
pub const LEVEL: usize = std::mem::offset_of!(State, level);

const RULES: &[Rule] = &[
    Rule::new(0, 8, Class::Sync, Class::Posted),
    Rule::new(8, 16, Class::Sync, Class::Kick),
    Rule::new(32, 40, Class::Mirror, Class::Sync),
];
const OTHER_RULES: &[Rule] = &[
    Rule::new(0, 1, Class::Calm, Class::Sync),
    Rule::new(8, 9, Class::Mirror, Class::Posted).shown_by(Shows::Region),
    Rule::new(9, 10, Class::Sync, Class::Posted).shown_by(Shows::Nothing),
];
const REGIONS: &[Region] = &[Region { size: 64, rules: RULES }, Region { size: 16, rules: OTHER_RULES }];

impl Chip for Recorder {
    type State = State;
    const STATE_VERSION: u32 = 1;

    fn description(&self) -> Description {
        Description { part: "recorder", regions: REGIONS, lines: &["line"] }
    }

    fn reset(&mut self, _env: &mut Env<'_>) {
        let State { sent, received, .. } = self.state;
        self.state = State { sent, received, ..State::default() };
    }

    fn read(&mut self, reg: Reg, _env: &mut Env<'_>) -> Access {
        self.state.count += 1;
        if reg.region == 1 {
            return match reg.offset {
                0 => Ok(u64::from(std::mem::take(&mut self.state.level))),
                8 => Ok(u64::from(self.state.note)),
                _ => Err(BusError::Rejected),
            };
        }
        Ok(match reg.offset {
            24 | 32 => self.state.log,
            40 => self.state.count,
            48 => {
                self.state.level = 0;
                0
            }
            60 => panic!("a deadly read"),
            _ => return Err(BusError::Rejected),
        })
    }

    fn write(&mut self, reg: Reg, value: u64, env: &mut Env<'_>) -> Result<(), BusError> {
        if reg.region == 1 {
            match reg.offset {
                8 => self.state.note = u32::from(value as u8),
                _ => self.state.count += 1,
            }
            return Ok(());
        }
        match reg.offset {
            0 | 8 | 16 => self.state.log = fold(self.state.log, value),
            48 => self.state.alarm = env.now + value,
            56 => self.state.fuse = value,
            _ => return Err(BusError::Rejected),
        }
        if reg.offset != 56 && self.state.fuse > 0 {
            self.state.fuse -= 1;
            // The write above has happened in this process and is not committed.
            assert!(self.state.fuse > 0 || !self.can_die, "the fuse has burnt down");
        }
        Ok(())
    }

    fn is_calm(&self, _region: u8, _offset: u32) -> bool {
        self.state.level == 0
    }

    fn peek(&self, region: u8, offset: u32) -> u8 {
        match (region, offset) {
            (0, _) => {}
            (_, 0) => return self.state.level as u8,
            _ => return self.state.note as u8,
        }
        self.state.log.to_le_bytes().get(offset as usize - 32).copied().unwrap_or(0)
    }

    fn timer(&mut self, env: &mut Env<'_>) {
        assert!(self.deadly != Deadly::Timer, "a deadly timer");
        if self.state.alarm != 0 && self.state.alarm <= env.now {
            self.state.alarm = 0;
            self.state.level = 1;
        }
    }

    fn event(&mut self, env: &mut Env<'_>) {
        // Echo with every bit flipped.
        let Some(link) = env.bytes.first() else { return };
        let mut bytes = [0; 64];
        loop {
            let count = link.receive_at(self.state.received, &mut bytes);
            let got = &mut bytes[..count];
            assert!(self.deadly != Deadly::Bytes || got.is_empty(), "deadly bytes");
            if self.deadly == Deadly::Eager && !got.is_empty() {
                self.state.level = 1;
            }
            got.iter_mut().for_each(|byte| *byte = !*byte);
            let sent = link.send_at(self.state.sent, got);
            self.state.received = self.state.received.wrapping_add(sent as u32);
            self.state.sent = self.state.sent.wrapping_add(sent as u32);
            if sent == 0 {
                return;
            }
        }
    }

    fn control(&mut self, request: &Control, _env: &mut Env<'_>) -> Result<Vec<u8>, &'static str> {
        assert!(self.deadly != Deadly::Command, "a deadly command");
        match request {
            Control::Info => Ok(format!("log {}", self.state.log).into_bytes()),
            Control::Configure(bytes) => {
                self.state.log = bytes.iter().fold(self.state.log, |log, byte| fold(log, (*byte).into()));
                Ok(Vec::new())
            }
            _ => Err("not this one"),
        }
    }

    fn sync_outputs(&self, out: &mut Outputs) {
        assert!(self.deadly != Deadly::Outputs || self.state.note != 7, "deadly outputs");
        out.level[0] = self.state.level != 0;
        out.pulses[1] = self.state.note;
        out.deadline = (self.state.alarm != 0).then_some(self.state.alarm);
    }

    fn save(&self) -> State {
        self.state
    }

    fn restore(&mut self, state: &State) -> Result<(), RestoreError> {
        assert!(self.deadly != Deadly::State, "a deadly state");
        if self.deadly == Deadly::Upgrade {
            return Err(RestoreError { part: "recorder", reason: "a field is gone" });
        }
        self.state = *state;
        Ok(())
    }
}
