use super::*;

/// Guest time of tick `n`.
fn at(n: u64) -> u64 {
    clock::time_of(n, FREQUENCY)
}

fn write(pit: &mut Pit8254, port: u16, value: u8, tick: u64) {
    pit.sync(at(tick));
    assert!(pit.write(port, value, at(tick)));
}

fn read(pit: &mut Pit8254, port: u16, tick: u64) -> u8 {
    pit.sync(at(tick));
    pit.read(port, at(tick)).unwrap()
}

fn latched(pit: &mut Pit8254, counter: u16, tick: u64) -> u16 {
    write(pit, 0x43, (counter as u8) << 6, tick);
    u16::from_le_bytes([read(pit, 0x40 + counter, tick), read(pit, 0x40 + counter, tick)])
}

fn program(pit: &mut Pit8254, counter: u8, mode: u8, count: u16, tick: u64) {
    write(pit, 0x43, counter << 6 | 0x30 | mode << 1, tick);
    write(pit, 0x40 + u16::from(counter), count as u8, tick);
    write(pit, 0x40 + u16::from(counter), (count >> 8) as u8, tick);
}

#[test]
fn rate_generator_raises_irq0_every_count_ticks() {
    let mut pit = Pit8254::new();
    program(&mut pit, 0, 2, 1000, 10);
    assert_eq!(pit.sync(at(10 + 1000)), 0);
    assert_eq!(pit.next_deadline(at(11)), Some(at(1011)));
    assert_eq!(pit.sync(at(1011)), 1);
    assert_eq!(pit.sync(at(2010)), 0);
    assert!(!pit.out0(at(2010)), "low for the last tick");
    assert_eq!(pit.sync(at(2011)), 1);
    assert_eq!(pit.sync(at(5500)), 3);
    assert_eq!(pit.period(), Some(at(1000)));
    program(&mut pit, 0, 0, 1000, 5500);
    assert_eq!(pit.period(), None, "a single shot");
}

#[test]
fn rate_generator_counts_down_from_the_count() {
    let mut pit = Pit8254::new();
    program(&mut pit, 0, 2, 1000, 0);
    assert_eq!(latched(&mut pit, 0, 1), 1000);
    assert_eq!(latched(&mut pit, 0, 2), 999);
    assert_eq!(latched(&mut pit, 0, 1000), 1);
    assert_eq!(latched(&mut pit, 0, 1001), 1000);
}

#[test]
fn deadlines_lead_to_every_rise_of_a_square_wave_that_gets_a_new_count() {
    let mut pit = Pit8254::new();
    program(&mut pit, 0, 3, 25_328, 0);
    write(&mut pit, 0x40, 200, 0);
    write(&mut pit, 0x40, 0, 0);
    // The new count begins with the low half of the first cycle, at tick 1 + 12664.
    let first = pit.next_deadline(at(0)).unwrap();
    assert_eq!((first, pit.sync(first)), (at(12_665), 0));
    for rise in 0..5 {
        let next = pit.next_deadline(first.max(at(12_765 + 200 * rise) - 1)).unwrap();
        assert_eq!((next, pit.sync(next)), (at(12_765 + 200 * rise), 1));
    }
}

#[test]
fn new_count_of_the_rate_generator_waits_for_the_end_of_the_cycle() {
    let mut pit = Pit8254::new();
    program(&mut pit, 0, 2, 100, 0);
    write(&mut pit, 0x40, 50, 20);
    write(&mut pit, 0x40, 0, 20);
    assert_eq!(latched(&mut pit, 0, 21), 80);
    assert_eq!(pit.sync(at(101)), 1);
    assert_eq!(pit.sync(at(150)), 0);
    assert_eq!(pit.sync(at(151)), 1);
}

#[test]
fn square_wave_is_high_for_the_longer_half() {
    let mut pit = Pit8254::new();
    program(&mut pit, 0, 3, 7, 0);
    let wave: Vec<bool> = (1..15)
        .map(|tick| {
            pit.sync(at(tick));
            pit.out0(at(tick))
        })
        .collect();
    let t = true;
    let f = false;
    assert_eq!(wave, [t, t, t, t, f, f, f, t, t, t, t, f, f, f]);
    let mut pit = Pit8254::new();
    program(&mut pit, 0, 3, 6, 0);
    let values: Vec<u16> = (1..8).map(|tick| latched(&mut pit, 0, tick)).collect();
    assert_eq!(values, [6, 4, 2, 6, 4, 2, 6]);
}

#[test]
fn count_of_zero_is_65536() {
    let mut pit = Pit8254::new();
    program(&mut pit, 0, 3, 0, 0);
    assert_eq!(pit.sync(at(65_536)), 0);
    assert_eq!(pit.sync(at(65_537)), 1);
}

#[test]
fn terminal_count_rises_once_and_counts_on() {
    let mut pit = Pit8254::new();
    program(&mut pit, 0, 0, 100, 0);
    assert!(!pit.out0(at(100)));
    assert_eq!(pit.sync(at(100)), 0);
    assert_eq!(pit.sync(at(101)), 1);
    assert!(pit.out0(at(101)));
    assert_eq!(latched(&mut pit, 0, 102), 0xffff);
    assert_eq!(pit.next_deadline(at(102)), None);
    assert_eq!(pit.sync(at(1 << 20)), 0);
}

#[test]
fn first_byte_of_a_new_terminal_count_takes_out_low() {
    let mut pit = Pit8254::new();
    program(&mut pit, 0, 0, 10, 0);
    assert_eq!(pit.sync(at(20)), 1);
    write(&mut pit, 0x40, 5, 21);
    assert!(!pit.out0(at(22)));
    write(&mut pit, 0x40, 0, 30);
    assert!(!pit.out0(at(35)));
    assert_eq!(pit.sync(at(36)), 1);
}

#[test]
fn linux_calibration_by_counter_2_sees_out2_after_the_count() {
    // Gate on, speaker off, mode 0, 10 ms; then poll bit 5 of port 61h.
    let mut pit = Pit8254::new();
    let latch = 11_932;
    let value = (read(&mut pit, 0x61, 0) & !0x02) | 0x01;
    write(&mut pit, 0x61, value, 0);
    program(&mut pit, 2, 0, latch, 5);
    assert_eq!(read(&mut pit, 0x61, 5 + u64::from(latch)) & 0x20, 0);
    assert_eq!(read(&mut pit, 0x61, 6 + u64::from(latch)) & 0x20, 0x20);
}

#[test]
fn gate_low_pauses_a_terminal_count() {
    let mut pit = Pit8254::new();
    write(&mut pit, 0x61, 1, 0);
    program(&mut pit, 2, 0, 100, 0);
    write(&mut pit, 0x61, 0, 51);
    assert_eq!(latched(&mut pit, 2, 70), 50);
    assert_eq!(latched(&mut pit, 2, 1000), 50);
    write(&mut pit, 0x61, 1, 1000);
    assert_eq!(read(&mut pit, 0x61, 1049) & 0x20, 0);
    assert_eq!(read(&mut pit, 0x61, 1050) & 0x20, 0x20);
}

#[test]
fn gate_low_holds_the_count_of_the_periodic_modes_and_its_rise_reloads_it() {
    for (mode, step) in [(2, 1), (3, 2)] {
        let mut pit = Pit8254::new();
        write(&mut pit, 0x61, 1, 0);
        program(&mut pit, 2, mode, 100, 0);
        write(&mut pit, 0x61, 0, 31);
        for tick in [31, 32, 1000] {
            assert_eq!(latched(&mut pit, 2, tick), 100 - 30 * step, "mode {mode}, tick {tick}");
            assert_eq!(read(&mut pit, 0x61, tick) & 0x20, 0x20, "mode {mode}, tick {tick}");
        }
        write(&mut pit, 0x61, 1, 1000);
        assert_eq!(latched(&mut pit, 2, 1001), 100, "mode {mode}");
        assert_eq!(latched(&mut pit, 2, 1011), 100 - 10 * step, "mode {mode}");
        // A count that is written while the gate is low is loaded and stands.
        write(&mut pit, 0x61, 0, 2000);
        program(&mut pit, 2, mode, 60, 2000);
        assert_eq!(latched(&mut pit, 2, 2050), 60, "mode {mode}");
        write(&mut pit, 0x61, 1, 2100);
        assert_eq!(latched(&mut pit, 2, 2111), 60 - 10 * step, "mode {mode}");
    }
}

#[test]
fn one_shot_waits_for_its_trigger() {
    let mut pit = Pit8254::new();
    program(&mut pit, 2, 1, 10, 0);
    assert_eq!(read(&mut pit, 0x61, 50) & 0x20, 0x20);
    write(&mut pit, 0x61, 1, 50);
    assert_eq!(read(&mut pit, 0x61, 51) & 0x20, 0);
    assert_eq!(read(&mut pit, 0x61, 60) & 0x20, 0);
    assert_eq!(read(&mut pit, 0x61, 61) & 0x20, 0x20);
    write(&mut pit, 0x61, 0, 70);
    write(&mut pit, 0x61, 1, 71);
    assert_eq!(read(&mut pit, 0x61, 72) & 0x20, 0, "retriggered");
}

#[test]
fn strobes_go_low_for_one_tick() {
    let mut pit = Pit8254::new();
    program(&mut pit, 0, 4, 10, 0);
    assert!(pit.out0(at(10)));
    assert!(!pit.out0(at(11)));
    assert!(pit.out0(at(12)));
    assert_eq!(pit.sync(at(11)), 0);
    assert_eq!(pit.sync(at(12)), 1);
    program(&mut pit, 2, 5, 10, 20);
    assert_eq!(read(&mut pit, 0x61, 40) & 0x20, 0x20);
    write(&mut pit, 0x61, 1, 50);
    assert_eq!(read(&mut pit, 0x61, 61) & 0x20, 0);
    assert_eq!(read(&mut pit, 0x61, 62) & 0x20, 0x20);
}

#[test]
fn bcd_counts_in_decimal() {
    let mut pit = Pit8254::new();
    write(&mut pit, 0x43, 0x35, 0);
    write(&mut pit, 0x40, 0x00, 0);
    write(&mut pit, 0x40, 0x10, 0);
    assert_eq!(latched(&mut pit, 0, 2), 0x0999);
    assert_eq!(pit.sync(at(1001)), 1);
    write(&mut pit, 0x43, 0x35, 2000);
    write(&mut pit, 0x40, 0, 2000);
    write(&mut pit, 0x40, 0, 2000);
    assert_eq!(latched(&mut pit, 0, 2002), 0x9999);
}

#[test]
fn read_back_latches_status_before_count() {
    let mut pit = Pit8254::new();
    program(&mut pit, 0, 2, 0x1234, 0);
    write(&mut pit, 0x43, 0xc2, 0x10);
    assert_eq!(read(&mut pit, 0x40, 0x99), 0xb4, "OUT high, loaded, two bytes, mode 2");
    let count = u16::from_le_bytes([read(&mut pit, 0x40, 0x99), read(&mut pit, 0x40, 0x99)]);
    assert_eq!(count, 0x1234 - 0xf);
    write(&mut pit, 0x43, 0x34, 0x100);
    write(&mut pit, 0x43, 0xe2, 0x100);
    assert_eq!(read(&mut pit, 0x40, 0x100) & 0x40, 0x40, "null count before a count is written");
}

#[test]
fn single_byte_access_reads_that_byte() {
    let mut pit = Pit8254::new();
    write(&mut pit, 0x43, 0x14, 0);
    write(&mut pit, 0x40, 18, 0);
    assert_eq!(read(&mut pit, 0x40, 1), 18);
    assert_eq!(read(&mut pit, 0x40, 3), 16);
    write(&mut pit, 0x43, 0x24, 10);
    write(&mut pit, 0x40, 2, 10);
    assert_eq!(read(&mut pit, 0x40, 11), 2);
    assert_eq!(read(&mut pit, 0x40, 12), 1);
}

#[test]
fn refresh_bit_toggles() {
    let mut pit = Pit8254::new();
    let first = pit.read(0x61, 0).unwrap() & 0x10;
    assert_ne!(pit.read(0x61, 15_085).unwrap() & 0x10, first);
    assert_eq!(pit.read(0x61, 30_170).unwrap() & 0x10, first);
}

#[test]
fn changing_from_low_to_a_high_mode_is_an_edge() {
    let mut pit = Pit8254::new();
    program(&mut pit, 0, 0, 1000, 0);
    assert_eq!(pit.sync(at(5)), 0);
    write(&mut pit, 0x43, 0x34, 5);
    assert_eq!(pit.sync(at(5)), 1);
}

/// CVE-2015-3214: a read of the control port looked up a fourth counter.
#[test]
fn control_port_reads_as_nothing_in_every_state_and_changes_none() {
    let mut pit = Pit8254::default();
    for (step, control) in (0u64..).zip(0..=0xff) {
        write(&mut pit, 0x43, control, step);
        let mut untouched = pit.clone();
        assert_eq!(read(&mut pit, 0x43, step), 0xff, "after {control:#x}");
        for counter in 0x40..0x43 {
            assert_eq!(
                read(&mut pit, counter, step),
                read(&mut untouched, counter, step),
                "after {control:#x}"
            );
        }
    }
}
