//! The 8254 interval timer and port 61h.
//!
//! Ports 40h-43h and 61h; OUT0 drives IRQ 0, counter 1 is the refresh timer, counter 2 the speaker, gated by port 61h.
//! The count is never stepped: it is derived from the time of its load. Not restarted: ends with the CPU process.
//!
//! *Not emulated*: NMI sources of port 61h (parity, channel check); the refresh bit has a fixed period whatever counter 1 holds.

mod channel;
pub mod spec;
#[cfg(test)]
mod tests;

pub use channel::Channel;

use crate::clock;
use serde::{Deserialize, Serialize};
use spec::*;

/// The timer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pit8254 {
    channels: [Channel; 3],
    /// Port 61h as written.
    port_b: u8,
    /// Rises of OUT0 caused by a control word, not reported yet.
    extra_rises: u64,
}

impl Default for Pit8254 {
    fn default() -> Self {
        Self::new()
    }
}

fn tick(now: u64) -> i64 {
    i64::try_from(clock::ticks(now, FREQUENCY)).unwrap_or(i64::MAX >> 2)
}

fn time_of(tick: i64) -> Option<u64> {
    Some(clock::time_of(u64::try_from(tick).ok()?, FREQUENCY))
}

impl Pit8254 {
    /// A timer whose counters have no mode yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            channels: [Channel::new(true), Channel::new(true), Channel::new(false)],
            port_b: 0,
            extra_rises: 0,
        }
    }

    /// Power-on values.
    pub fn reset(&mut self, now: u64) {
        *self = Self::new();
        for channel in &mut self.channels {
            channel.sync(tick(now));
        }
    }

    /// Byte read of a port of the timer; `None` for any other port. Call [`Self::sync`] before.
    pub fn read(&mut self, port: u16, now: u64) -> Option<u8> {
        let tick = tick(now);
        match port {
            COUNTER0..=COUNTER2 => {
                let channel = self.channels.get_mut(usize::from(port - COUNTER0))?;
                Some(channel.read(tick))
            }
            CONTROL => Some(0xff),
            PORT_B => {
                let refresh = if (now / REFRESH_PERIOD) & 1 != 0 { REFRESH } else { 0 };
                let out = if self.channels[2].out(tick) { OUT2 } else { 0 };
                Some(self.port_b | refresh | out)
            }
            _ => None,
        }
    }

    /// Byte write of a port of the timer; `false` for any other port. Call [`Self::sync`] before.
    pub fn write(&mut self, port: u16, value: u8, now: u64) -> bool {
        let tick = tick(now);
        match port {
            COUNTER0..=COUNTER2 => {
                if let Some(channel) = self.channels.get_mut(usize::from(port - COUNTER0)) {
                    channel.write(value, tick);
                }
            }
            CONTROL => self.write_control(value, tick),
            PORT_B => {
                self.port_b = value & PORT_B_WRITABLE;
                self.channels[2].set_gate(value & GATE2 != 0, tick);
            }
            _ => return false,
        }
        true
    }

    fn write_control(&mut self, value: u8, tick: i64) {
        let select = value >> 6;
        if select == READ_BACK {
            for (index, channel) in self.channels.iter_mut().enumerate() {
                if value & (2 << index) == 0 {
                    continue;
                }
                if value & NOT_COUNT == 0 {
                    channel.latch_count(tick);
                }
                if value & NOT_STATUS == 0 {
                    channel.latch_status(tick);
                }
            }
            return;
        }
        let Some(channel) = self.channels.get_mut(usize::from(select)) else { return };
        if value & 0x30 == 0 {
            channel.latch_count(tick);
        } else {
            let rose = channel.set_control(value, tick);
            if select == 0 {
                self.extra_rises += rose;
            }
        }
    }

    /// Brings all counters to `now`; returns how often OUT0 has risen since the last call.
    pub fn sync(&mut self, now: u64) -> u64 {
        let tick = tick(now);
        let mut rises = std::mem::take(&mut self.extra_rises);
        for (index, channel) in self.channels.iter_mut().enumerate() {
            let count = channel.sync(tick);
            if index == 0 {
                rises = rises.saturating_add(count);
            }
        }
        rises
    }

    /// Nanoseconds between two rises of OUT0, while it is periodic.
    #[must_use]
    pub fn period(&self) -> Option<u64> {
        let channel = &self.channels[0];
        channel.periodic().then(|| clock::time_of(u64::from(channel.count()), FREQUENCY))
    }

    /// Whether writing `value` to `port` programs counter 0 anew.
    #[must_use]
    pub fn programs_counter0(port: u16, value: u8) -> bool {
        port == COUNTER0 || port == CONTROL && value >> 6 == 0 && value & 0x30 != 0
    }

    /// OUT0 at `now`.
    #[must_use]
    pub fn out0(&self, now: u64) -> bool {
        self.channels[0].out(tick(now))
    }

    /// When OUT0 next rises, or when a new count decides about that.
    #[must_use]
    pub fn next_deadline(&self, now: u64) -> Option<u64> {
        let (channel, tick) = (&self.channels[0], tick(now));
        let next = [channel.next_rise(tick), channel.next_count(tick).map(|(at, _)| at)];
        next.into_iter().flatten().filter_map(time_of).min()
    }

    /// When OUT0 next rises or falls, for an input that follows the level.
    #[must_use]
    pub fn next_change(&self, now: u64) -> Option<u64> {
        let fall = self.channels[0].next_fall(tick(now)).and_then(time_of);
        self.next_deadline(now).into_iter().chain(fall).min()
    }

    /// Makes values read from a saved form safe to use.
    pub(crate) fn sanitise(&mut self) {
        self.port_b &= PORT_B_WRITABLE;
        self.channels.iter_mut().for_each(Channel::sanitise);
    }
}
