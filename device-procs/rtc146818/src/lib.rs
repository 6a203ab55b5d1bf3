#![forbid(unsafe_code)]
//! MC146818A real-time clock with 128 bytes of CMOS memory.
//!
//! Region 0: ports 0x70 (index) and 0x71 (data). Line 0: IRQ 8. Restart class: checkpointed.
//!
//! The clock runs on guest time and needs no timer of its own: whatever passed since the last access (updates, alarms,
//! periodic ticks) is made up for at the next one, and a deadline exists only while an enabled interrupt waits for it. So
//! an idle clock costs nothing.
//!
//! Bus classes: the index is posted; the data port is sync, since registers B and C lower the line.
//! [`Control::Configure`] takes pairs of bytes, CMOS index and value, for memory from 0x0e on (boot order).
//!
//! Periodic ticks that come due while the one before is not acknowledged (register C not read) are merged into it, as in the chip; with
//! the drift hack they come afterwards, one with each acknowledge. What this process is late for itself comes afterwards in any case,
//! without the hack at most the ticks of one second, as of the other timers: a place may have been vacant for minutes.
//!
//! # Deviations from hardware
//! - A date that does not exist is counted on as the day that it denotes (30 February becomes 1 or 2 March); the chip counts the
//!   fields separately.
//! - Divider settings for other crystals run as the one for 32,768 Hz.
//! - The index port reads as ones.
//!
//! # Not emulated
//! Daylight saving (register B, DSE) and the square wave pin (not wired on a PC). The NMI mask, bit 7 of the index, is not the chip's.

pub mod calendar;
pub mod spec;
mod state;
#[cfg(test)]
mod tests;

pub use state::State;

use bulkhead_bus::chip::{
    Access, BusError, Chip, Class, Control, Description, Env, Outputs, Reg, Region, RestoreError, Rule,
};
use bulkhead_bus::config::RtcConfig;
use bulkhead_bus::wire;
use spec::*;

/// Version of [`State`].
pub const VERSION: u32 = 1;
/// The interrupt line.
pub const LINE_IRQ: usize = 0;

const SECOND: u64 = 1_000_000_000;
/// More lost ticks than this are forgiven even with the drift hack.
const LOST_MAX: u32 = 1 << 16;
const RULES: &[Rule] = &[Rule::new(0, 1, Class::Sync, Class::Posted)];
const REGIONS: &[Region] = &[Region { size: 2, rules: RULES }];

/// The clock.
#[derive(Clone, Debug)]
pub struct Rtc146818 {
    // Fixed configuration.
    time_drift_hack: bool,
    // Guest-visible state.
    state: State,
}

impl Rtc146818 {
    /// From the configuration of the role. The clock shows its base time at guest time 0.
    pub fn new(config: &RtcConfig) -> Rtc146818 {
        let mut rtc =
            Rtc146818 { time_drift_hack: config.time_drift_hack, state: bytemuck::Zeroable::zeroed() };
        rtc.state.cmos[A] = A_DEFAULT;
        rtc.state.cmos[B] = B_DEFAULT;
        for (index, value) in &config.cmos {
            let index = usize::from(*index);
            if let Some(byte) = rtc.state.cmos.get_mut(index)
                && (index == A || index == B || (index > D && index != CENTURY))
            {
                *byte = *value;
            }
        }
        rtc.state.cmos[A] &= !A_UIP;
        rtc.state.phase = config.base_nanoseconds.min(SECOND as u32 - 1);
        // Ten thousand years are all that the registers can show.
        rtc.show(config.base_seconds.clamp(-(1 << 40), 1 << 40));
        rtc.state.cmos[WEEKDAY] = calendar::weekday(config.base_seconds.div_euclid(86_400)) as u8;
        rtc
    }

    /// From the encoded configuration in a manifest.
    ///
    /// # Errors
    /// When it does not decode.
    pub fn from_config(bytes: &[u8]) -> Result<Rtc146818, String> {
        let config: RtcConfig = wire::decode(bytes).map_err(|_| "malformed configuration".to_owned())?;
        Ok(Rtc146818::new(&config))
    }

    fn a(&self) -> u8 {
        self.state.cmos[A]
    }

    fn b(&self) -> u8 {
        self.state.cmos[B]
    }

    fn flags(&self) -> u8 {
        self.state.cmos[C]
    }

    fn is_set(&self) -> bool {
        self.b() & B_SET != 0
    }

    /// The divider chain is held in reset: nothing counts.
    fn is_held(&self) -> bool {
        self.a() & A_DV_RESET == A_DV_RESET
    }

    // ---- divider chain ----

    fn chain(&self, now: u64) -> u128 {
        u128::from(now) + u128::from(self.state.phase)
    }

    fn update_number(&self, now: u64) -> u64 {
        (self.chain(now) / u128::from(SECOND)) as u64
    }

    fn period_number(&self, now: u64) -> u64 {
        let cycles = self.chain(now) * u128::from(HERTZ) / u128::from(SECOND);
        period(self.a()).map_or(0, |period| (cycles / u128::from(period)) as u64)
    }

    /// Guest time at which the chain has counted this many nanoseconds.
    fn time_of(&self, chain: u128) -> u64 {
        u64::try_from(chain.saturating_sub(self.state.phase.into())).unwrap_or(u64::MAX)
    }

    fn time_of_update(&self, number: u64) -> u64 {
        self.time_of(u128::from(number) * u128::from(SECOND))
    }

    fn time_of_period(&self, number: u64) -> Option<u64> {
        let cycles = u128::from(number) * u128::from(period(self.a())?);
        Some(self.time_of((cycles * u128::from(SECOND)).div_ceil(u128::from(HERTZ))))
    }

    // ---- time registers ----

    fn decode(&self, value: u8) -> i64 {
        if self.b() & B_DM != 0 { value.into() } else { i64::from(value >> 4) * 10 + i64::from(value & 0x0f) }
    }

    fn encode(&self, value: i64) -> u8 {
        let value = value.rem_euclid(100) as u8;
        if self.b() & B_DM != 0 { value } else { ((value / 10) << 4) | (value % 10) }
    }

    fn encode_hour(&self, hour: i64) -> u8 {
        if self.b() & B_24 != 0 {
            return self.encode(hour);
        }
        let clock = if hour % 12 == 0 { 12 } else { hour % 12 };
        self.encode(clock) | if hour >= 12 { PM } else { 0 }
    }

    fn decode_hour(&self, value: u8) -> i64 {
        if self.b() & B_24 != 0 {
            return self.decode(value);
        }
        self.decode(value & !PM) % 12 + if value & PM != 0 { 12 } else { 0 }
    }

    /// Seconds since 1970 that the registers show.
    fn shown(&self) -> i64 {
        let cmos = &self.state.cmos;
        let year = self.decode(cmos[CENTURY]) * 100 + self.decode(cmos[YEAR]);
        let month = (self.decode(cmos[MONTH]) + 11) % 12 + 1;
        let days = calendar::days(year, month, self.decode(cmos[DAY]));
        days * 86_400
            + self.decode_hour(cmos[HOURS]) * 3_600
            + self.decode(cmos[MINUTES]) * 60
            + self.decode(cmos[SECONDS])
    }

    /// Puts a time into the registers, but for the day of the week.
    fn show(&mut self, seconds: i64) {
        let (year, month, day) = calendar::date(seconds.div_euclid(86_400));
        let of_day = seconds.rem_euclid(86_400);
        let year = year.rem_euclid(10_000);
        let values = [
            (SECONDS, self.encode(of_day % 60)),
            (MINUTES, self.encode(of_day / 60 % 60)),
            (HOURS, self.encode_hour(of_day / 3_600)),
            (DAY, self.encode(day)),
            (MONTH, self.encode(month)),
            (YEAR, self.encode(year % 100)),
            (CENTURY, self.encode(year / 100)),
        ];
        for (index, value) in values {
            self.state.cmos[index] = value;
        }
    }

    /// Seconds from the shown time to the next that matches the alarm, 1..=86,400.
    fn seconds_to_alarm(&self) -> Option<u64> {
        let cmos = &self.state.cmos;
        let matches = |alarm: usize, value: u8| cmos[alarm] & ALARM_ANY == ALARM_ANY || cmos[alarm] == value;
        let now = self.shown().rem_euclid(86_400);
        let mut first = None;
        for hour in (0..24).filter(|hour| matches(HOURS_ALARM, self.encode_hour(*hour))) {
            for minute in (0..60).filter(|minute| matches(MINUTES_ALARM, self.encode(*minute))) {
                // Nothing in this minute can follow the present second unless the minute ends after it.
                let start = hour * 3_600 + minute * 60;
                if start + 59 <= now && first.is_some() {
                    continue;
                }
                for second in (0..60).filter(|second| matches(SECONDS_ALARM, self.encode(*second))) {
                    let at = start + second;
                    first = first.or(Some(at));
                    if at > now {
                        return u64::try_from(at - now).ok();
                    }
                }
            }
        }
        first.and_then(|at| u64::try_from(at + 86_400 - now).ok())
    }

    // ---- catching up ----

    /// Accounts for everything up to `now`.
    fn catch_up(&mut self, now: u64) {
        if self.is_held() {
            return;
        }
        let periods = self.period_number(now);
        let ticks = periods.saturating_sub(self.state.periods);
        if ticks > 0 {
            self.state.periods = periods;
            let had = self.flags() & C_PF != 0;
            self.state.cmos[C] |= C_PF;
            if self.b() & B_PIE != 0 && (self.time_drift_hack || !had) {
                let missed = u32::try_from(ticks - u64::from(!had)).unwrap_or(u32::MAX);
                self.state.lost = self.state.lost.saturating_add(missed).min(self.most_lost());
            }
        }
        let updates = self.update_number(now);
        let seconds = updates.saturating_sub(self.state.updates);
        if seconds > 0 {
            self.state.updates = updates;
            if !self.is_set() {
                self.count(seconds);
            }
        }
    }

    /// How many ticks may be owed.
    fn most_lost(&self) -> u32 {
        let second = period(self.a()).map_or(0, |period| (HERTZ / period) as u32);
        if self.time_drift_hack { LOST_MAX } else { second }
    }

    /// `seconds` updates end.
    fn count(&mut self, seconds: u64) {
        self.state.cmos[C] |= C_UF;
        if self.seconds_to_alarm().is_some_and(|distance| distance <= seconds) {
            self.state.cmos[C] |= C_AF;
        }
        let before = self.shown();
        let after = before.saturating_add(i64::try_from(seconds).unwrap_or(i64::MAX)).min(1 << 50);
        self.show(after);
        let days = after.div_euclid(86_400) - before.div_euclid(86_400);
        if days != 0 {
            // The day of the week is a counter of its own that keeps whatever the program put there.
            let weekday = i64::from(self.state.cmos[WEEKDAY]);
            self.state.cmos[WEEKDAY] = ((weekday - 1 + days).rem_euclid(7) + 1) as u8;
        }
    }

    fn irqf(&self) -> bool {
        self.flags() & self.b() & (C_PF | C_AF | C_UF) != 0
    }

    // ---- registers ----

    fn read_data(&mut self, now: u64) -> u8 {
        let index = usize::from(self.state.index);
        match index {
            A => {
                let left = SECOND - (self.chain(now) % u128::from(SECOND)) as u64;
                let updating = !self.is_set() && !self.is_held() && left <= UIP_NS;
                self.a() | if updating { A_UIP } else { 0 }
            }
            C => {
                let value = self.flags() | if self.irqf() { C_IRQF } else { 0 };
                self.state.cmos[C] = 0;
                if self.state.lost > 0 && self.b() & B_PIE != 0 {
                    // A tick that is owed follows at once: the line goes low and high again.
                    self.state.lost -= 1;
                    self.state.cmos[C] = C_PF;
                    self.state.pulses = self.state.pulses.wrapping_add(1);
                }
                value
            }
            D => D_VRT,
            index => self.state.cmos.get(index).copied().unwrap_or(0xff),
        }
    }

    fn write_data(&mut self, value: u8, now: u64) {
        match usize::from(self.state.index) {
            A => {
                let was_held = self.is_held();
                self.state.cmos[A] = value & !A_UIP;
                if was_held && !self.is_held() {
                    // The first update ends half a second after the divider is released (section "Divider control").
                    self.state.phase = ((SECOND / 2 + SECOND - now % SECOND) % SECOND) as u32;
                    self.state.updates = self.update_number(now);
                }
                self.state.periods = self.period_number(now);
            }
            B => {
                // SET clears UIE; time that passed under SET was not counted.
                let value = if value & B_SET != 0 { value & !B_UIE } else { value };
                self.state.cmos[B] = value;
                if value & B_PIE == 0 {
                    self.state.lost = 0;
                }
            }
            C | D => {}
            index => {
                if let Some(byte) = self.state.cmos.get_mut(index) {
                    *byte = value;
                }
            }
        }
    }

    fn read_byte(&mut self, offset: u64, now: u64) -> Access {
        match offset {
            DATA => {
                self.catch_up(now);
                Ok(self.read_data(now).into())
            }
            INDEX => Err(BusError::Rejected),
            _ => Err(BusError::Unclaimed),
        }
    }

    fn write_byte(&mut self, offset: u64, value: u8, now: u64) -> Result<(), BusError> {
        match offset {
            INDEX => self.state.index = value & 0x7f,
            DATA => {
                self.catch_up(now);
                self.write_data(value, now);
            }
            _ => return Err(BusError::Unclaimed),
        }
        Ok(())
    }

    fn configure(&mut self, pairs: &[u8]) -> Result<(), &'static str> {
        let allowed = |index: u8| usize::from(index) > D && usize::from(index) != CENTURY && index < 0x80;
        let (pairs, rest) = pairs.as_chunks::<2>();
        if !rest.is_empty() || pairs.iter().any(|[index, _]| !allowed(*index)) {
            return Err("not pairs of CMOS index and value");
        }
        for [index, value] in pairs {
            if let Some(byte) = self.state.cmos.get_mut(usize::from(*index)) {
                *byte = *value;
            }
        }
        Ok(())
    }
}

impl Chip for Rtc146818 {
    type State = State;
    const STATE_VERSION: u32 = VERSION;

    fn description(&self) -> Description {
        Description { part: "MC146818A", regions: REGIONS, lines: &["irq"] }
    }

    fn reset(&mut self, env: &mut Env<'_>) {
        // RESET touches neither the time nor the memory (section "Reset").
        let Rtc146818 { time_drift_hack: _, state: _ } = self;
        self.catch_up(env.now);
        self.state.cmos[B] &= !(B_PIE | B_AIE | B_UIE | B_SQWE);
        self.state.cmos[C] = 0;
        self.state.lost = 0;
        self.state.index = 0;
    }

    fn read(&mut self, reg: Reg, env: &mut Env<'_>) -> Access {
        reg.read_bytes(|offset| self.read_byte(offset, env.now))
    }

    fn write(&mut self, reg: Reg, value: u64, env: &mut Env<'_>) -> Result<(), BusError> {
        reg.write_bytes(value, |offset, value| self.write_byte(offset, value, env.now))
    }

    fn timer(&mut self, env: &mut Env<'_>) {
        self.catch_up(env.now);
    }

    fn control(&mut self, request: &Control, env: &mut Env<'_>) -> Result<Vec<u8>, &'static str> {
        match request {
            Control::Configure(pairs) => self.configure(pairs).map(|()| Vec::new()),
            Control::Info => {
                self.catch_up(env.now);
                let seconds = self.shown();
                let (year, month, day) = calendar::date(seconds.div_euclid(86_400));
                let of_day = seconds.rem_euclid(86_400);
                let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
                let text = format!(
                    "MC146818A: {year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}, A {:#04x}, B {:#04x}\n",
                    self.a(),
                    self.b()
                );
                Ok(text.into_bytes())
            }
            _ => Err("no such request for this device"),
        }
    }

    fn sync_outputs(&self, out: &mut Outputs) {
        out.level[LINE_IRQ] = self.irqf();
        out.pulses[LINE_IRQ] = self.state.pulses;
        if self.is_held() {
            return;
        }
        let waits = |enable, flag| self.b() & enable != 0 && self.flags() & flag == 0;
        let mut at = |time: u64| out.deadline = Some(out.deadline.map_or(time, |have| have.min(time)));
        if waits(B_PIE, C_PF)
            && let Some(time) = self.time_of_period(self.state.periods.saturating_add(1))
        {
            at(time);
        }
        if waits(B_UIE, C_UF) && !self.is_set() {
            at(self.time_of_update(self.state.updates.saturating_add(1)));
        }
        if waits(B_AIE, C_AF)
            && !self.is_set()
            && let Some(distance) = self.seconds_to_alarm()
        {
            at(self.time_of_update(self.state.updates.saturating_add(distance)));
        }
    }

    fn save(&self) -> State {
        let Rtc146818 { time_drift_hack: _, state } = self;
        *state
    }

    fn restore(&mut self, state: &State) -> Result<(), RestoreError> {
        let refuse = |reason| Err(RestoreError { part: "MC146818A", reason });
        if state.phase >= SECOND as u32 {
            return refuse("the divider is ahead by a second or more");
        }
        if usize::from(state.index) >= BYTES || state.padding != [0; 3] {
            return refuse("index out of range");
        }
        if state.lost > LOST_MAX {
            return refuse("too many lost ticks");
        }
        if state.cmos[A] & A_UIP != 0 || state.cmos[C] & !(C_PF | C_AF | C_UF) != 0 {
            return refuse("a derived register bit is set");
        }
        self.state = *state;
        Ok(())
    }
}
