use super::*;

const ALL: u64 = u64::MAX;
const LOW: u64 = 0xffff_ffff;

fn running() -> Hpet {
    let mut hpet = Hpet::new();
    hpet.write(GEN_CONF, ENABLE, ALL, 0);
    hpet
}

#[test]
fn capabilities_tell_10_ns_and_three_timers() {
    let mut hpet = Hpet::new();
    assert_eq!(hpet.read(GCAP_ID, 0), 0x0098_9680_8086_a201);
    assert_eq!(hpet.read(TIMER, 0), 0x0000_0004_0000_0030);
    assert_eq!(hpet.read(TIMER + 0x60, 0), 0, "there is no fourth timer");
}

#[test]
fn counter_runs_only_while_enabled_and_keeps_its_value() {
    let mut hpet = Hpet::new();
    assert_eq!(hpet.read(MAIN_CNT, 1000), 0);
    hpet.write(GEN_CONF, ENABLE, ALL, 1000);
    assert_eq!(hpet.read(MAIN_CNT, 2000), 100);
    hpet.write(GEN_CONF, 0, ALL, 2000);
    assert_eq!(hpet.read(MAIN_CNT, 9000), 100);
    hpet.write(MAIN_CNT, 7, LOW, 9000);
    hpet.write(GEN_CONF, ENABLE, ALL, 9000);
    assert_eq!(hpet.read(MAIN_CNT, 9010), 8);
}

#[test]
fn one_shot_fires_at_the_match() {
    let mut hpet = running();
    hpet.write(TIMER, INT_ENABLE | MODE32, ALL, 0);
    hpet.write(TIMER + 8, 50, LOW, 0);
    assert_eq!(hpet.next_deadline(), Some(500));
    hpet.poll(499);
    assert_eq!(hpet.take_fired(), 0);
    hpet.poll(500);
    assert_eq!(hpet.take_fired(), 1);
    assert_eq!(hpet.next_deadline(), Some(500 + (1 << 32) * 10), "32 bits: again after a wrap");
}

#[test]
fn comparator_that_has_been_passed_does_not_fire() {
    let mut hpet = running();
    hpet.write(TIMER, INT_ENABLE, ALL, 10_000);
    hpet.write(TIMER + 8, 50, ALL, 10_000);
    hpet.poll(1 << 40);
    assert_eq!(hpet.take_fired(), 0);
}

#[test]
fn linux_periodic_set_up_ticks_at_the_second_value() {
    let mut hpet = running();
    let config = INT_ENABLE | PERIODIC | VALUE_SET | MODE32;
    hpet.write(GEN_CONF, ENABLE | LEGACY, LOW, 0);
    hpet.write(TIMER, config, LOW, 100);
    hpet.write(TIMER + 8, 1000, LOW, 100);
    hpet.write(TIMER + 8, 400, LOW, 2000);
    assert_eq!(hpet.route(0), Some(Route::Isa(0)));
    assert_eq!(hpet.next_deadline(), Some(10_000));
    hpet.poll(10_000);
    assert_eq!(hpet.take_fired(), 1);
    assert_eq!(hpet.read(TIMER + 8, 10_000), 1400);
    hpet.poll(14_000);
    assert_eq!(hpet.take_fired(), 1);
    hpet.poll(26_500);
    assert_eq!(hpet.take_fired(), 1);
    assert_eq!(hpet.take_skipped(), 2);
    assert_eq!(hpet.tick_period(), Some(4000));
    assert_eq!(hpet.next_deadline(), Some(30_000));
}

#[test]
fn comparator_is_set_by_halves_with_value_set_before_each() {
    let mut hpet = Hpet::new();
    let config = INT_ENABLE | PERIODIC | VALUE_SET;
    for (half, value) in [(LOW, 1000), (LOW << 32, 7 << 32)] {
        hpet.write(TIMER, config, LOW, 0);
        hpet.write(TIMER + 8, value, half, 0);
        assert_eq!(hpet.read(TIMER, 0) & VALUE_SET, 0);
    }
    hpet.write(TIMER + 8, 400, LOW, 0);
    assert_eq!(hpet.read(TIMER + 8, 0), 7 << 32 | 1000, "without it the period only");
}

#[test]
fn level_interrupt_stays_until_its_status_is_cleared() {
    let mut hpet = running();
    hpet.write(TIMER + 0x40, LEVEL | INT_ENABLE | 2 << ROUTE_SHIFT, ALL, 0);
    hpet.write(TIMER + 0x48, 5, ALL, 0);
    assert_eq!(hpet.route(2), Some(Route::Pin(2)));
    hpet.poll(50);
    assert!(hpet.level(2));
    assert_eq!(hpet.read(GINTR_STA, 50), 4);
    hpet.write(GINTR_STA, 4, LOW, 60);
    assert!(!hpet.level(2));
}

#[test]
fn level_timer_tells_its_match_with_the_interrupt_off_and_asserts_it_when_that_comes_on() {
    let mut hpet = running();
    let config = LEVEL | 2 << ROUTE_SHIFT;
    hpet.write(TIMER + 0x40, config, ALL, 0);
    hpet.write(TIMER + 0x48, 5, ALL, 0);
    assert_eq!(hpet.next_deadline(), None, "nobody has to hear of it");
    assert_eq!(hpet.read(GINTR_STA, 50), 4);
    assert!(!hpet.level(2));
    hpet.write(TIMER + 0x40, config | INT_ENABLE, ALL, 60);
    assert!(hpet.level(2));
    hpet.write(TIMER + 0x40, config, ALL, 70);
    assert_eq!((hpet.level(2), hpet.read(GINTR_STA, 70)), (false, 4));
    hpet.write(TIMER + 0x40, 2 << ROUTE_SHIFT, ALL, 80);
    assert_eq!(hpet.read(GINTR_STA, 80), 0, "an edge leaves no status");
}

#[test]
fn input_outside_the_capability_is_not_driven() {
    let mut hpet = running();
    hpet.write(TIMER, INT_ENABLE | 5 << ROUTE_SHIFT, ALL, 0);
    assert_eq!(hpet.route(0), None);
    assert_eq!(hpet.route(7), None);
}

#[test]
fn high_half_of_a_register_is_written_alone() {
    let mut hpet = Hpet::new();
    hpet.write(MAIN_CNT, 0x1234 << 32, LOW << 32, 0);
    assert_eq!(hpet.read(MAIN_CNT, 0), 0x1234 << 32);
}
