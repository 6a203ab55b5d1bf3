//! Register-level tests of the MC146818A.

use bulkhead_bus::bench::Bench;
use bulkhead_bus::chip::Control;
use bulkhead_bus::config::RtcConfig;
use bulkhead_bus::conformance::{Random, Setup, check};

use crate::spec::*;
use crate::{LINE_IRQ, Rtc146818, SECOND, calendar};

/// 2024-02-28T23:59:58, a Wednesday before a leap day.
const EVE: i64 = 1_709_164_798;

fn config() -> RtcConfig {
    RtcConfig { base_seconds: EVE, ..RtcConfig::default() }
}

fn rtc() -> Rtc146818 {
    Rtc146818::new(&config())
}

fn bench() -> Bench<Rtc146818> {
    Bench::new(rtc(), 0, 0, 0)
}

fn get(bench: &mut Bench<Rtc146818>, index: usize) -> u8 {
    bench.write(0, INDEX, 1, index as u64);
    bench.read(0, DATA, 1) as u8
}

fn set(bench: &mut Bench<Rtc146818>, index: usize, value: u8) {
    bench.write(0, INDEX, 1, index as u64);
    bench.write(0, DATA, 1, value.into());
}

fn time(bench: &mut Bench<Rtc146818>) -> [u8; 8] {
    [CENTURY, YEAR, MONTH, DAY, HOURS, MINUTES, SECONDS, WEEKDAY].map(|index| get(bench, index))
}

#[test]
fn conforms() {
    check(rtc, Setup::default());
}

#[test]
fn conforms_with_the_drift_hack() {
    check(|| Rtc146818::new(&RtcConfig { time_drift_hack: true, ..config() }), Setup::default());
}

#[test]
fn time_runs_over_midnight_into_the_leap_day() {
    let mut bench = bench();
    assert_eq!(time(&mut bench), [0x20, 0x24, 0x02, 0x28, 0x23, 0x59, 0x58, 4]);
    bench.advance(2 * SECOND);
    assert_eq!(time(&mut bench), [0x20, 0x24, 0x02, 0x29, 0x00, 0x00, 0x00, 5]);
    bench.advance(86_400 * SECOND);
    assert_eq!(time(&mut bench), [0x20, 0x24, 0x03, 0x01, 0x00, 0x00, 0x00, 6]);
}

#[test]
fn binary_and_12_hour_modes_show_the_same_time() {
    let mut bench = bench();
    bench.advance(SECOND);
    set(&mut bench, B, B_SET | B_DM);
    for (index, value) in [(HOURS, 12), (MINUTES, 59), (SECONDS, 59)] {
        set(&mut bench, index, value);
    }
    set(&mut bench, YEAR, 24);
    set(&mut bench, CENTURY, 20);
    set(&mut bench, MONTH, 2);
    set(&mut bench, DAY, 28);
    set(&mut bench, B, B_DM);
    bench.advance(SECOND);
    assert_eq!((get(&mut bench, HOURS), get(&mut bench, DAY)), (1, 28), "12 at night is hour 0");
    bench.advance(11 * 3_600 * SECOND);
    assert_eq!(get(&mut bench, HOURS), 12 | PM, "noon");
    bench.advance(12 * 3_600 * SECOND);
    assert_eq!((get(&mut bench, HOURS), get(&mut bench, DAY)), (12, 29));
}

#[test]
fn set_freezes_the_time_and_what_was_written_runs_on() {
    let mut bench = bench();
    set(&mut bench, B, B_SET | B_24);
    set(&mut bench, SECONDS, 0x30);
    bench.advance(10 * SECOND);
    assert_eq!(get(&mut bench, SECONDS), 0x30);
    assert_eq!(get(&mut bench, A) & A_UIP, 0);
    set(&mut bench, B, B_24);
    assert_eq!(get(&mut bench, SECONDS), 0x30);
    bench.advance(SECOND);
    assert_eq!(get(&mut bench, SECONDS), 0x31);
}

#[test]
fn weekday_written_by_the_program_is_kept_and_counted_on() {
    let mut bench = bench();
    set(&mut bench, WEEKDAY, 7);
    bench.advance(2 * SECOND);
    assert_eq!(get(&mut bench, WEEKDAY), 1);
}

#[test]
fn first_update_after_the_divider_is_released_ends_after_half_a_second() {
    let mut bench = bench();
    bench.advance(123_456_789);
    set(&mut bench, A, 0x70);
    bench.advance(5 * SECOND);
    let before = get(&mut bench, SECONDS);
    assert_eq!(before, 0x58);
    set(&mut bench, A, A_DEFAULT);
    bench.advance(SECOND / 2 - 1);
    assert_eq!(get(&mut bench, SECONDS), before);
    bench.advance(1);
    assert_eq!(get(&mut bench, SECONDS), 0x59);
}

#[test]
fn update_in_progress_is_set_before_the_second_changes() {
    let mut bench = bench();
    bench.advance(SECOND - UIP_NS - 1);
    assert_eq!(get(&mut bench, A), A_DEFAULT);
    bench.advance(1);
    assert_eq!(get(&mut bench, A), A_DEFAULT | A_UIP);
    bench.advance(UIP_NS);
    assert_eq!(get(&mut bench, A), A_DEFAULT);
    assert_eq!(get(&mut bench, SECONDS), 0x59);
}

#[test]
fn update_interrupt_comes_each_second_and_register_c_clears_it() {
    let mut bench = bench();
    set(&mut bench, B, B_24 | B_UIE);
    get(&mut bench, C);
    for _ in 0..3 {
        assert!(!bench.line(LINE_IRQ));
        bench.advance(SECOND);
        assert!(bench.line(LINE_IRQ));
        assert_eq!(get(&mut bench, C) & (C_IRQF | C_UF), C_IRQF | C_UF);
        assert_eq!(get(&mut bench, C), 0);
    }
}

#[test]
fn flags_are_set_without_an_enabled_interrupt() {
    let mut bench = bench();
    bench.advance(SECOND);
    assert!(!bench.line(LINE_IRQ));
    assert_eq!(get(&mut bench, C), C_PF | C_UF);
}

#[test]
fn alarm_interrupts_at_its_second_and_every_day() {
    let mut bench = bench();
    for (index, value) in [(HOURS_ALARM, 0x00), (MINUTES_ALARM, 0x01), (SECONDS_ALARM, 0x02)] {
        set(&mut bench, index, value);
    }
    set(&mut bench, B, B_24 | B_AIE);
    bench.advance(64 * SECOND - 1);
    assert!(!bench.line(LINE_IRQ));
    bench.advance(1);
    assert!(bench.line(LINE_IRQ));
    assert_eq!(get(&mut bench, C) & C_AF, C_AF);
    bench.advance(86_400 * SECOND - 1);
    assert!(!bench.line(LINE_IRQ));
    bench.advance(1);
    assert!(bench.line(LINE_IRQ));
}

#[test]
fn alarm_with_any_hour_and_minute_comes_every_minute() {
    let mut bench = bench();
    set(&mut bench, HOURS_ALARM, 0xff);
    set(&mut bench, MINUTES_ALARM, 0xc0);
    set(&mut bench, SECONDS_ALARM, 0x05);
    set(&mut bench, B, B_24 | B_AIE);
    bench.advance(7 * SECOND);
    assert!(bench.line(LINE_IRQ));
    get(&mut bench, C);
    bench.advance(60 * SECOND - 1);
    assert!(!bench.line(LINE_IRQ));
    bench.advance(1);
    assert!(bench.line(LINE_IRQ));
}

#[test]
fn impossible_alarm_never_comes() {
    let mut bench = bench();
    set(&mut bench, SECONDS_ALARM, 0x75);
    set(&mut bench, HOURS_ALARM, 0xff);
    set(&mut bench, MINUTES_ALARM, 0xff);
    set(&mut bench, B, B_24 | B_AIE);
    assert_eq!(bench.outputs().deadline, None);
}

#[test]
fn periodic_interrupt_has_the_selected_rate() {
    let mut bench = bench();
    set(&mut bench, A, 0x20 | 6);
    set(&mut bench, B, B_24 | B_PIE);
    get(&mut bench, C);
    let mut count = 0;
    let start = bench.now;
    while bench.now < start + SECOND {
        let Some(at) = bench.outputs().deadline else { break };
        let step = at - bench.now;
        bench.advance(step);
        assert_eq!(get(&mut bench, C) & (C_IRQF | C_PF), C_IRQF | C_PF);
        count += 1;
    }
    assert_eq!(count, 1024);
}

#[test]
fn lost_periodic_ticks_are_dropped_without_the_hack_and_repeated_with_it() {
    for (hack, expected) in [(false, 1), (true, 8)] {
        let mut bench = Bench::new(Rtc146818::new(&RtcConfig { time_drift_hack: hack, ..config() }), 0, 0, 0);
        set(&mut bench, A, 0x20 | 15);
        set(&mut bench, B, B_24 | B_PIE);
        get(&mut bench, C);
        let edges = bench.outputs().pulses[LINE_IRQ];
        bench.advance(4 * SECOND);
        let mut count = 0;
        while bench.line(LINE_IRQ) {
            assert_eq!(get(&mut bench, C) & C_PF, C_PF);
            count += 1;
        }
        assert_eq!(count, expected, "hack {hack}");
        assert_eq!(bench.outputs().pulses[LINE_IRQ].wrapping_sub(edges), expected - 1);
    }
}

#[test]
fn periodic_ticks_that_the_clock_itself_is_late_for_all_come() {
    let mut bench = bench();
    set(&mut bench, A, 0x20 | 13);
    set(&mut bench, B, B_24 | B_PIE);
    get(&mut bench, C);
    // Eight a second, and nobody looks for one.
    bench.now += SECOND;
    bench.with(bulkhead_bus::chip::Chip::timer);
    for tick in 0..8 {
        assert!(bench.line(LINE_IRQ), "tick {tick}");
        assert_eq!(get(&mut bench, C) & C_PF, C_PF);
    }
    assert!(!bench.line(LINE_IRQ));
}

#[test]
fn clock_that_was_away_for_minutes_owes_the_ticks_of_one_second() {
    let mut bench = bench();
    set(&mut bench, A, 0x20 | 6);
    set(&mut bench, B, B_24 | B_PIE);
    get(&mut bench, C);
    bench.now += 600 * SECOND;
    bench.with(bulkhead_bus::chip::Chip::timer);
    let mut count = 0;
    while bench.line(LINE_IRQ) {
        assert_eq!(get(&mut bench, C) & C_PF, C_PF);
        count += 1;
    }
    assert_eq!(count, 1024 + 1, "and the one that waited");
}

#[test]
fn reset_keeps_time_and_memory_but_disables_interrupts() {
    let mut bench = bench();
    set(&mut bench, 0x40, 0x77);
    set(&mut bench, B, B_24 | B_UIE);
    bench.advance(SECOND);
    bench.with(bulkhead_bus::chip::Chip::reset);
    assert!(!bench.line(LINE_IRQ));
    assert_eq!(get(&mut bench, B), B_24);
    assert_eq!((get(&mut bench, 0x40), get(&mut bench, SECONDS)), (0x77, 0x59));
    assert_eq!(get(&mut bench, D), D_VRT);
}

#[test]
fn index_ignores_the_nmi_mask_bit() {
    let mut bench = bench();
    bench.write(0, INDEX, 1, 0x80 | SECONDS as u64);
    assert_eq!(bench.read(0, DATA, 1), 0x58);
    assert_eq!(bench.read(0, INDEX, 1), 0xff);
}

#[test]
fn configured_memory_is_there_and_configure_changes_it() {
    let config = RtcConfig { cmos: vec![(0x15, 0x80), (0x00, 0x11), (0x7f, 1)], ..config() };
    let mut bench = Bench::new(Rtc146818::new(&config), 0, 0, 0);
    assert_eq!((get(&mut bench, 0x15), get(&mut bench, 0x7f), get(&mut bench, SECONDS)), (0x80, 1, 0x58));
    assert!(bench.control(&Control::Configure(vec![0x3d, 0x21])).is_ok());
    assert_eq!(get(&mut bench, 0x3d), 0x21);
    assert!(bench.control(&Control::Configure(vec![0x0b, 0x21])).is_err());
    assert!(bench.control(&Control::Configure(vec![0x3d])).is_err());
}

#[test]
fn calendar_agrees_with_counting_day_by_day() {
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let (mut year, mut month, mut day) = (1899, 12, 31);
    for number in calendar::days(1899, 12, 31)..calendar::days(2101, 3, 2) {
        assert_eq!(calendar::date(number), (year, month, day));
        assert_eq!(calendar::days(year, month, day), number);
        let last = match month {
            2 => 28 + i64::from(leap(year)),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        (year, month, day) = match (month, day) {
            (12, 31) => (year + 1, 1, 1),
            _ if day == last => (year, month + 1, 1),
            _ => (year, month, day + 1),
        };
    }
    assert_eq!(calendar::date(0), (1970, 1, 1));
    assert_eq!(calendar::weekday(0), 5);
}

#[test]
fn start_dates_from_year_0_to_9999_show_themselves() {
    let mut random = Random::new(7);
    for _ in 0..200 {
        let (year, day) = (random.below(10_000) as i64, 1 + random.below(28) as i64);
        let month = 1 + random.below(12) as i64;
        let base_seconds = calendar::days(year, month, day) * 86_400;
        let mut bench = Bench::new(Rtc146818::new(&RtcConfig { base_seconds, ..config() }), 0, 0, 0);
        let bcd = |value: i64| (value / 10 * 16 + value % 10) as u8;
        assert_eq!(time(&mut bench)[..4], [bcd(year / 100), bcd(year % 100), bcd(month), bcd(day)]);
    }
}
