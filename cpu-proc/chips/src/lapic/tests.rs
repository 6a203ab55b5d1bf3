use super::*;

fn enabled() -> Lapic {
    let mut apic = Lapic::new(0);
    apic.write(SVR, 0x1ff, 0);
    apic
}

#[test]
fn reset_values_are_the_manuals() {
    let mut apic = Lapic::new(0);
    assert_eq!(apic.base(), 0xfee0_0900);
    assert_eq!(apic.read(LVR, 0), 0x0005_0014);
    assert_eq!(apic.read(SVR, 0), 0xff);
    assert_eq!(apic.read(DFR, 0), 0xffff_ffff);
    assert_eq!(apic.read(LVT_TIMER, 0), 0x1_0000);
    assert_eq!(apic.read(LVT_TIMER + 0x30, 0), 0x700);
    let mut other = Lapic::new(1);
    assert_eq!(other.base(), 0xfee0_0800);
    assert_eq!(other.read(LVT_TIMER + 0x30, 0), 0x1_0000);
    assert_eq!(other.read(ID, 0), 1 << 24);
}

#[test]
fn higher_vector_goes_first_and_blocks_lower_until_eoi() {
    let mut apic = enabled();
    assert!(apic.accept(0x31, false));
    assert!(apic.accept(0x51, false));
    assert_eq!(apic.acknowledge(0), Some(0x51));
    assert!(!apic.pending());
    assert_eq!(apic.read(PPR, 0), 0x50);
    assert_eq!(apic.read(ISR + 0x20, 0), 1 << 17);
    assert_eq!(apic.write(EOI, 0, 0), None);
    assert_eq!(apic.acknowledge(0), Some(0x31));
}

#[test]
fn same_priority_class_does_not_nest() {
    let mut apic = enabled();
    apic.accept(0x41, false);
    assert_eq!(apic.acknowledge(0), Some(0x41));
    apic.accept(0x4f, false);
    assert!(!apic.pending());
}

#[test]
fn task_priority_holds_back_its_class_and_is_cr8() {
    let mut apic = enabled();
    apic.accept(0x41, false);
    apic.set_cr8(4);
    assert_eq!(apic.read(TPR, 0), 0x40);
    assert!(!apic.pending());
    apic.write(TPR, 0x30, 0);
    assert_eq!(apic.cr8(), 3);
    assert!(apic.pending());
}

#[test]
fn end_of_a_level_vector_is_reported() {
    let mut apic = enabled();
    apic.accept(0x61, true);
    assert_eq!(apic.read(TMR + 0x30, 0), 2);
    assert_eq!(apic.acknowledge(0), Some(0x61));
    assert_eq!(apic.write(EOI, 0, 0), Some(Effect::EndOfInterrupt(0x61)));
    assert_eq!(apic.write(EOI, 0, 0), None);
}

#[test]
fn software_disabled_apic_takes_nothing_and_masks_its_table() {
    let mut apic = enabled();
    apic.write(LVT_TIMER, 0x30, 0);
    apic.write(SVR, 0xff, 0);
    assert!(!apic.accept(0x55, false));
    assert_eq!(apic.read(LVT_TIMER, 0), 0x1_0030);
    apic.write(LVT_TIMER, 0x31, 0);
    assert_eq!(apic.read(LVT_TIMER, 0), 0x1_0031);
}

#[test]
fn one_shot_timer_counts_down_once() {
    let mut apic = enabled();
    apic.write(TIMER_DIVIDE, 0x3, 0); // by 16
    apic.write(LVT_TIMER, 0xec, 0);
    apic.write(TIMER_INITIAL, 1000, 500);
    assert_eq!(apic.read(TIMER_CURRENT, 500 + 160), 990);
    assert_eq!(apic.next_deadline(), Some(16_500));
    apic.poll(16_499);
    assert!(!apic.pending());
    apic.poll(16_500);
    assert_eq!(apic.acknowledge(0), Some(0xec));
    assert_eq!(apic.read(TIMER_CURRENT, 20_000), 0);
    assert_eq!(apic.next_deadline(), None);
}

#[test]
fn periods_that_find_their_interrupt_waiting_come_after_it_one_by_one() {
    const MS: u64 = 1_000_000;
    let mut apic = enabled();
    apic.write(TIMER_DIVIDE, 0xb, 0); // by 1
    apic.write(LVT_TIMER, 0x2_00ec, 0);
    apic.write(TIMER_INITIAL, MS as u32, 0);
    apic.poll(MS);
    assert_eq!(apic.next_deadline(), Some(2 * MS));
    assert_eq!(apic.acknowledge(MS), Some(0xec));
    apic.write(EOI, 0, MS);
    apic.poll(5 * MS + MS / 2);
    for owed in (0..4).rev() {
        assert!(apic.pending(), "{owed} more");
        assert_eq!(apic.acknowledge(5 * MS + MS / 2), Some(0xec));
        apic.write(EOI, 0, 5 * MS + MS / 2);
        apic.poll(5 * MS + MS / 2);
        assert!(!apic.pending(), "not without a pause");
        assert_eq!(apic.idle(5 * MS + MS / 2), owed != 0, "but while the CPU halts");
    }
    assert!(!apic.pending());
    assert_eq!(apic.next_deadline(), Some(6 * MS));
    // Two at once, the second after a pause.
    apic.poll(7 * MS);
    assert_eq!(apic.acknowledge(7 * MS), Some(0xec));
    let next = apic.next_deadline().unwrap();
    assert_eq!(next, 7 * MS + MS / 16);
    apic.poll(next);
    assert_eq!(apic.acknowledge(next), None, "the first one is in service");
    apic.write(EOI, 0, next);
    assert_eq!(apic.acknowledge(next), Some(0xec));
    apic.write(EOI, 0, next);
    // Programmed anew, it owes nothing.
    apic.poll(20 * MS);
    apic.write(TIMER_INITIAL, 0, 20 * MS);
    assert_eq!(apic.acknowledge(20 * MS), Some(0xec));
    assert_eq!(apic.next_deadline(), None);
}

#[test]
fn linux_calibration_reads_the_counter_of_a_masked_timer() {
    let mut apic = enabled();
    apic.write(TIMER_DIVIDE, 0x3, 0);
    apic.write(LVT_TIMER, 0x1_00ec | LVT_PERIODIC, 0);
    apic.write(TIMER_INITIAL, 0xffff_ffff, 0);
    let first = apic.read(TIMER_CURRENT, 1_000_000);
    let second = apic.read(TIMER_CURRENT, 101_000_000);
    assert_eq!(first - second, 6_250_000, "100 ms of a 1 GHz clock divided by 16");
    assert_eq!(apic.next_deadline(), None);
}

#[test]
fn all_divisors_divide() {
    let mut apic = enabled();
    for (code, divisor) in [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)] {
        apic.write(TIMER_DIVIDE, code, 0);
        apic.write(TIMER_INITIAL, 1_000_000, 0);
        assert_eq!(apic.read(TIMER_CURRENT, divisor * 7), 999_993);
    }
}

#[test]
fn command_register_sends_init_startup_and_self() {
    let mut apic = enabled();
    let sent = |effect: Option<Effect>| match effect {
        Some(Effect::Send(message)) => message,
        other => panic!("{other:?}"),
    };
    let init = sent(apic.write(ICR_LOW, 0x000c_4500, 0));
    assert_eq!((init.mode, init.destination), (DeliveryMode::Init, Destination::Others));
    let sipi = sent(apic.write(ICR_LOW, 0x000c_4610, 0));
    assert_eq!((sipi.mode, sipi.vector), (DeliveryMode::Startup, 0x10));
    let own = sent(apic.write(ICR_LOW, 0x0004_40f6, 0));
    assert_eq!((own.destination, own.vector), (Destination::Sender, 0xf6));
    apic.write(ICR_HIGH, 0x0300_0000, 0);
    assert_eq!(sent(apic.write(ICR_LOW, 0x40, 0)).destination, Destination::Physical(3));
    assert_eq!(sent(apic.write(ICR_LOW, 0x840, 0)).destination, Destination::Logical(3));
    assert_eq!(apic.write(ICR_LOW, 0x8500, 0), None, "INIT de-assert");
    assert_eq!(apic.read(ICR_LOW, 0) & 1 << 12, 0, "delivery status idle");
}

#[test]
fn logical_destinations_match_flat_and_cluster() {
    let mut apic = enabled();
    apic.write(LDR, 0x0400_0000, 0);
    assert!(apic.matches(Destination::Logical(0x0c), None));
    assert!(!apic.matches(Destination::Logical(0x03), None));
    apic.write(DFR, 0x0fff_ffff, 0);
    apic.write(LDR, 0x2100_0000, 0);
    assert!(apic.matches(Destination::Logical(0x21), None));
    assert!(!apic.matches(Destination::Logical(0x31), None));
    assert!(apic.matches(Destination::Logical(0xff), None));
}

#[test]
fn illegal_vector_sets_the_error_register_after_a_write() {
    let mut apic = enabled();
    apic.write(LVT_ERROR, 0xfe, 0);
    apic.write(ICR_LOW, 0x4_0005, 0);
    assert_eq!(apic.read(ESR, 0), 0);
    apic.write(ESR, 0, 0);
    assert_eq!(apic.read(ESR, 0), 0x20);
    assert_eq!(apic.acknowledge(0), Some(0xfe));
    apic.write(ESR, 0, 0);
    assert_eq!(apic.read(ESR, 0), 0);
}

#[test]
fn lint_pins_deliver_by_their_entries() {
    let mut apic = enabled();
    assert!(apic.accepts_pic());
    apic.write(LVT_TIMER + 0x30, 0x31, 0);
    assert!(!apic.accepts_pic());
    assert_eq!(apic.set_lint(0, true), None);
    assert_eq!(apic.acknowledge(0), Some(0x31), "fixed: Linux's virtual wire test");
    apic.write(LVT_TIMER + 0x40, 0x400, 0);
    assert_eq!(apic.set_lint(1, true), Some(DeliveryMode::Nmi));
    assert_eq!(apic.set_lint(1, true), None, "no new edge");
}

#[test]
fn lint_entry_keeps_its_trigger_mode_and_interrupts_at_the_edge() {
    let mut apic = enabled();
    apic.write(LVT_LINT0, LVT_LEVEL | LVT_REMOTE_IRR | 0x31, 0);
    apic.set_lint(0, true);
    assert_eq!(apic.acknowledge(0), Some(0x31));
    assert_eq!(apic.read(LVT_LINT0, 0), LVT_LEVEL | 0x31);
    assert_eq!(apic.write(EOI, 0, 0), None);
    assert_eq!(apic.acknowledge(0), None);
}

#[test]
fn disabling_by_the_base_register_lets_the_pic_through() {
    let mut apic = enabled();
    apic.write(LVT_TIMER + 0x30, 0x1_0700, 0);
    assert!(!apic.accepts_pic());
    apic.write(ID, 0x0700_0000, 0);
    apic.set_base(0xfee0_0000);
    assert!(apic.accepts_pic());
    assert_eq!(apic.id(), 0, "as after a reset");
    assert_eq!(apic.page(), None);
    apic.set_base(0xfed0_0800);
    assert_eq!(apic.page(), Some(0xfed0_0000));
    assert_eq!(apic.base() & BASE_BSP, BASE_BSP, "read only");
}

#[test]
fn a_single_shot_that_is_over_does_not_start_again_as_a_periodic_timer() {
    let mut apic = enabled();
    apic.write(TIMER_DIVIDE, 0xb, 0);
    apic.write(LVT_TIMER, 0xec, 0);
    apic.write(TIMER_INITIAL, 1000, 0);
    assert_eq!(apic.read(TIMER_CURRENT, 400), 600);
    apic.write(LVT_TIMER, LVT_PERIODIC | 0xec, 400);
    assert_eq!((apic.read(TIMER_CURRENT, 500), apic.read(TIMER_CURRENT, 1500)), (500, 500), "goes on");
    apic.write(LVT_TIMER, 0xec, 1600);
    assert_eq!((apic.read(TIMER_CURRENT, 1700), apic.read(TIMER_CURRENT, 2100)), (300, 0));
    apic.write(LVT_TIMER, LVT_PERIODIC | 0xec, 2200);
    assert_eq!((apic.read(TIMER_CURRENT, 2300), apic.next_deadline()), (0, None));
    apic.write(LVT_TIMER, 0xec, 2400);
    apic.write(LVT_TIMER, LVT_PERIODIC | 0xec, 2500);
    assert_eq!((apic.read(TIMER_CURRENT, 2600), apic.next_deadline()), (0, None));
    apic.write(TIMER_INITIAL, 1000, 3000);
    assert_eq!((apic.read(TIMER_CURRENT, 3300), apic.next_deadline()), (700, Some(4000)));
}

#[test]
fn deadline_timer_fires_once_at_its_time_and_only_in_its_mode() {
    let mut apic = enabled();
    apic.write(LVT_TIMER, LVT_DEADLINE | 0xec, 0);
    assert_eq!(apic.read(LVT_TIMER, 0), 0xec, "a processor without it");
    apic.set_deadline(5000, 5000, 0);
    assert_eq!((apic.deadline(0), apic.next_deadline()), (0, None));
    let mut apic = enabled().with_deadline(true);
    apic.write(LVT_TIMER, 0xec, 0);
    apic.write(TIMER_INITIAL, 1000, 0);
    apic.write(LVT_TIMER, LVT_DEADLINE | 0xec, 0);
    assert_eq!((apic.next_deadline(), apic.read(TIMER_CURRENT, 10)), (None, 0), "another mode disarms");
    // The counter is 700 ahead of guest time.
    apic.set_deadline(5700, 5000, 100);
    apic.write(TIMER_INITIAL, 1000, 100);
    apic.write(TIMER_DIVIDE, 0xb, 100);
    assert_eq!(
        (apic.deadline(4999), apic.next_deadline(), apic.read(TIMER_CURRENT, 200)),
        (5700, Some(5000), 0)
    );
    apic.poll(5000);
    assert_eq!((apic.acknowledge(0), apic.deadline(5000), apic.next_deadline()), (Some(0xec), 0, None));
    apic.write(EOI, 0, 5000);
    apic.set_deadline(5600, 4900, 6000);
    assert_eq!(apic.acknowledge(0), Some(0xec), "one that has passed fires at once");
    apic.write(EOI, 0, 6000);
    apic.set_deadline(9000, 8300, 6000);
    apic.set_deadline(0, 0, 6000);
    assert_eq!(
        (apic.deadline(6000), apic.next_deadline(), apic.acknowledge(0)),
        (0, None, None),
        "zero disarms"
    );
    apic.set_deadline(9000, 8300, 6000);
    apic.write(LVT_TIMER, 0xec, 6000);
    assert_eq!((apic.deadline(6000), apic.next_deadline()), (0, None));
    apic.reset();
    apic.write(SVR, 0x1ff, 0);
    apic.write(LVT_TIMER, LVT_DEADLINE | 0xec, 0);
    assert_eq!(apic.read(LVT_TIMER, 0), LVT_DEADLINE | 0xec, "a reset takes no mode away");
}
