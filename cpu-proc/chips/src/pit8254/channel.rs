//! One counter of the 8254, as a function of time.

use super::spec::{STATUS_NULL, STATUS_OUT};
use serde::{Deserialize, Serialize};

/// A 16-bit value latched for reading, given out byte by byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Latch {
    value: u16,
    /// The least significant byte has been read.
    low_read: bool,
}

/// One counter. Times are ticks of the input clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channel {
    /// 0-5.
    mode: u8,
    /// 1 low byte, 2 high byte, 3 low then high.
    access: u8,
    bcd: bool,
    gate: bool,
    /// Count register (0 is the maximum, already binary).
    count: u32,
    /// The counting element runs from `count` since this tick; `None` before a count or a trigger.
    origin: Option<i64>,
    /// Modes 0 and 2 to 4: tick at which the gate stopped it.
    paused: Option<i64>,
    /// Count written while a periodic mode runs; taken over at the end of the (half) cycle.
    next: Option<u32>,
    /// A count has been written since the control word.
    armed: bool,
    /// Low byte written, waiting for the high byte.
    low_written: Option<u8>,
    /// Read flip-flop for an unlatched count.
    high_next: bool,
    latch: Option<Latch>,
    status_latch: Option<u8>,
    /// Tick up to which edges have been reported.
    seen: i64,
}

impl Channel {
    /// A counter before its first control word, with its gate at `gate`.
    #[must_use]
    pub fn new(gate: bool) -> Self {
        Self {
            // OUT is undefined before the first control word; high makes no edge then.
            mode: 3,
            access: 3,
            bcd: false,
            gate,
            count: 0x1_0000,
            origin: None,
            paused: None,
            next: None,
            armed: false,
            low_written: None,
            high_next: false,
            latch: None,
            status_latch: None,
            seen: 0,
        }
    }

    fn modulus(&self) -> u32 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    fn decode(&self, raw: u16) -> u32 {
        let value = if self.bcd {
            (0..4).rev().fold(0, |sum, digit| sum * 10 + u32::from(raw >> (4 * digit) & 15).min(9))
        } else {
            u32::from(raw)
        };
        if value == 0 { self.modulus() } else { value }
    }

    fn encode(&self, value: u32) -> u16 {
        let value = value % self.modulus();
        if self.bcd {
            let digits = [value % 10, value / 10 % 10, value / 100 % 10, value / 1000 % 10];
            digits.iter().rev().fold(0, |sum, digit| sum << 4 | *digit as u16)
        } else {
            value as u16
        }
    }

    /// Whether OUT rises again and again: modes 2 and 3.
    #[must_use]
    pub fn periodic(&self) -> bool {
        matches!(self.mode, 2 | 3)
    }

    /// Length of the high half of a square wave.
    fn high_half(count: u32) -> i64 {
        i64::from(count.div_ceil(2))
    }

    /// Ticks since the count was loaded; negative while the load is still to come.
    fn elapsed(&self, tick: i64) -> Option<i64> {
        let origin = self.origin?;
        Some(self.paused.unwrap_or(tick).saturating_sub(origin))
    }

    /// OUT at `tick` (not before the last `sync`).
    #[must_use]
    pub fn out(&self, tick: i64) -> bool {
        let count = i64::from(self.count);
        let Some(elapsed) = self.elapsed(tick) else { return self.mode != 0 };
        match self.mode {
            0 => elapsed >= count,
            1 => elapsed < 0 || elapsed >= count,
            2 => !self.gate || elapsed < 0 || elapsed % count != count - 1,
            3 => !self.gate || elapsed < 0 || elapsed % count < Self::high_half(self.count),
            _ => elapsed != count,
        }
    }

    /// First tick after `tick` at which OUT rises, if nothing is written before.
    #[must_use]
    pub fn next_rise(&self, tick: i64) -> Option<i64> {
        let origin = self.origin?;
        let count = i64::from(self.count);
        if self.paused.is_some() {
            return None;
        }
        match self.mode {
            0 | 1 => Some(origin.saturating_add(count)).filter(|rise| *rise > tick),
            2 | 3 if !self.gate => None,
            2 | 3 => {
                let cycles = tick.saturating_sub(origin).div_euclid(count).max(0);
                Some(origin.saturating_add(count.saturating_mul(cycles.saturating_add(1))))
            }
            _ => Some(origin.saturating_add(count).saturating_add(1)).filter(|rise| *rise > tick),
        }
    }

    /// First tick after `tick` at which OUT falls, if nothing is written and no gate moves before.
    #[must_use]
    pub fn next_fall(&self, tick: i64) -> Option<i64> {
        let origin = self.origin?;
        let count = i64::from(self.count);
        let phase = match self.mode {
            2 if self.gate => count - 1,
            3 if self.gate => Self::high_half(self.count),
            4 | 5 if self.paused.is_none() => {
                return Some(origin.saturating_add(count)).filter(|fall| *fall > tick);
            }
            _ => return None,
        };
        if phase >= count {
            return None;
        }
        let first = origin.saturating_add(phase);
        let cycles = tick.saturating_sub(first).div_euclid(count).saturating_add(1).max(0);
        Some(first.saturating_add(count.saturating_mul(cycles)))
    }

    fn rises(&self, from: i64, to: i64) -> u64 {
        match self.next_rise(from) {
            Some(first) if first <= to => {
                if self.periodic() {
                    1 + (to.saturating_sub(first) / i64::from(self.count)).unsigned_abs()
                } else {
                    1
                }
            }
            _ => 0,
        }
    }

    /// Tick at which a count that was written meanwhile replaces the one that runs, and whether OUT falls there: the end of the cycle
    /// (mode 2) or half cycle (mode 3) that `tick` lies in. What [`Self::next_rise`] and [`Self::next_fall`] say holds until then.
    #[must_use]
    pub fn next_count(&self, tick: i64) -> Option<(i64, bool)> {
        if self.next.is_none() || !self.periodic() || !self.gate {
            return None;
        }
        let origin = self.origin?;
        let count = i64::from(self.count);
        let elapsed = tick.saturating_sub(origin).max(0);
        let start = tick.saturating_sub(elapsed.rem_euclid(count)).max(origin);
        let half = Self::high_half(self.count);
        if self.mode == 3 && elapsed.rem_euclid(count) < half && half < count {
            Some((start.saturating_add(half), true))
        } else {
            Some((start.saturating_add(count), false))
        }
    }

    /// Brings the counter to `tick`; returns how often OUT has risen since the last call.
    pub fn sync(&mut self, tick: i64) -> u64 {
        let mut rises = 0;
        if tick < self.seen {
            return 0;
        }
        if let (Some(next), Some((boundary, falls))) = (self.next, self.next_count(self.seen))
            && boundary <= tick
        {
            rises = self.rises(self.seen, boundary);
            self.seen = boundary;
            self.count = next;
            self.next = None;
            // At the end of a high half the new count times the low half.
            let lead = if falls { Self::high_half(next) } else { 0 };
            self.origin = Some(boundary.saturating_sub(lead));
        }
        rises += self.rises(self.seen, tick);
        self.seen = tick;
        rises
    }

    /// Value of the counting element, binary.
    fn value(&self, tick: i64) -> u32 {
        let Some(elapsed) = self.elapsed(tick) else { return self.count };
        let elapsed = elapsed.max(0);
        let count = i64::from(self.count);
        let modulus = i64::from(self.modulus());
        let left = match self.mode {
            2 => count - elapsed % count,
            3 => {
                let (phase, half) = (elapsed % count, Self::high_half(self.count));
                let even = count & !1;
                even - 2 * (if phase < half { phase } else { phase - half })
            }
            _ => (count - elapsed % modulus).rem_euclid(modulus),
        };
        u32::try_from(left).unwrap_or(0)
    }

    fn null_count(&self, tick: i64) -> bool {
        !self.armed || self.next.is_some() || self.origin.is_none_or(|origin| origin > tick)
    }

    /// Control word for this counter (`access` not zero).
    pub fn set_control(&mut self, control: u8, tick: i64) -> u64 {
        let was_high = self.out(tick);
        self.access = control >> 4 & 3;
        self.mode = match control >> 1 & 7 {
            mode @ 0..=5 => mode,
            // The top bit is a "don't care" for modes 2 and 3.
            mode => mode & 3,
        };
        self.bcd = control & 1 != 0;
        self.origin = None;
        self.paused = None;
        self.next = None;
        self.armed = false;
        self.low_written = None;
        self.high_next = false;
        self.latch = None;
        self.status_latch = None;
        u64::from(!was_high && self.out(tick))
    }

    /// Latches the count, unless one is latched already.
    pub fn latch_count(&mut self, tick: i64) {
        if self.latch.is_none() {
            self.latch = Some(Latch { value: self.encode(self.value(tick)), low_read: false });
        }
    }

    /// Latches the status, unless one is latched already.
    pub fn latch_status(&mut self, tick: i64) {
        if self.status_latch.is_none() {
            let out = if self.out(tick) { STATUS_OUT } else { 0 };
            let null = if self.null_count(tick) { STATUS_NULL } else { 0 };
            self.status_latch = Some(out | null | self.access << 4 | self.mode << 1 | u8::from(self.bcd));
        }
    }

    /// Data port read.
    pub fn read(&mut self, tick: i64) -> u8 {
        if let Some(status) = self.status_latch.take() {
            return status;
        }
        let live = self.encode(self.value(tick));
        let (value, high) = match &mut self.latch {
            Some(latch) => {
                let value = latch.value;
                let high = self.access == 2 || latch.low_read;
                if self.access == 3 && !high {
                    latch.low_read = true;
                } else {
                    self.latch = None;
                }
                (value, high)
            }
            None => {
                let high = self.access == 2 || (self.access == 3 && self.high_next);
                self.high_next = self.access == 3 && !high;
                (live, high)
            }
        };
        value.to_le_bytes()[usize::from(high)]
    }

    /// Data port write.
    pub fn write(&mut self, value: u8, tick: i64) {
        let raw = match self.access {
            1 => u16::from(value),
            2 => u16::from(value) << 8,
            _ => match self.low_written.take() {
                Some(low) => u16::from_le_bytes([low, value]),
                None => {
                    self.low_written = Some(value);
                    if self.mode == 0 {
                        // The first byte stops the count and takes OUT low at once.
                        self.origin = None;
                        self.paused = None;
                    }
                    return;
                }
            },
        };
        self.load(self.decode(raw), tick);
    }

    fn load(&mut self, count: u32, tick: i64) {
        self.armed = true;
        match self.mode {
            // Taken over by the next trigger.
            1 | 5 => self.next = Some(count),
            2 | 3 if self.origin.is_some() => self.next = Some(count),
            _ => {
                self.count = count;
                self.next = None;
                self.start(tick);
            }
        }
    }

    /// The count is loaded by the clock pulse after `tick`.
    fn start(&mut self, tick: i64) {
        let origin = tick.saturating_add(1);
        self.origin = Some(origin);
        self.paused = (!self.gate && matches!(self.mode, 0 | 2..=4)).then_some(origin);
        self.seen = self.seen.max(tick);
    }

    /// Changes the gate input.
    pub fn set_gate(&mut self, gate: bool, tick: i64) {
        let rising = gate && !self.gate;
        let falling = !gate && self.gate;
        self.gate = gate;
        match self.mode {
            0 | 4 => {
                if falling && let Some(origin) = self.origin {
                    self.paused = Some(tick.max(origin));
                } else if rising && let (Some(paused), Some(origin)) = (self.paused.take(), self.origin) {
                    self.origin = Some(origin.saturating_add(tick.saturating_sub(paused).max(0)));
                }
            }
            1 | 5 if rising && self.armed => {
                self.count = self.next.take().unwrap_or(self.count);
                self.start(tick);
            }
            2 | 3 if rising && self.armed => {
                self.count = self.next.take().unwrap_or(self.count);
                self.start(tick);
            }
            // "GATE = 0 disables counting" (8254, Modes 2 and 3).
            2 | 3 if falling => self.paused = self.origin.map(|origin| tick.max(origin)),
            _ => {}
        }
    }

    /// Initial count, 1 to 65536.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Makes values read from a saved form safe to use.
    pub(crate) fn sanitise(&mut self) {
        self.mode = self.mode.min(5);
        self.access = self.access.clamp(1, 3);
        self.count = self.count.clamp(1, 0x1_0000);
        self.next = self.next.map(|count| count.clamp(1, 0x1_0000));
        const FAR: i64 = 1 << 60;
        for time in [&mut self.origin, &mut self.paused] {
            *time = time.map(|tick| tick.clamp(-FAR, FAR));
        }
        self.seen = self.seen.clamp(0, FAR);
    }
}
