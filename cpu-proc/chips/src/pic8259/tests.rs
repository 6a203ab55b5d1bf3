use super::*;

fn pc() -> Pic8259 {
    let mut pic = Pic8259::new();
    for (port, value) in [
        (0x20, 0x11),
        (0x21, 0x08),
        (0x21, 0x04),
        (0x21, 0x01),
        (0xa0, 0x11),
        (0xa1, 0x70),
        (0xa1, 0x02),
        (0xa1, 0x01),
        (0x21, 0x00),
        (0xa1, 0x00),
    ] {
        assert!(pic.write(port, value));
    }
    pic
}

fn pulse(pic: &mut Pic8259, irq: u8) {
    pic.set_irq(irq, true);
    pic.set_irq(irq, false);
}

#[test]
fn edge_request_is_acknowledged_once_with_its_vector() {
    let mut pic = pc();
    pic.set_irq(1, true);
    assert!(pic.interrupt());
    assert_eq!(pic.acknowledge(), 0x09);
    assert!(!pic.interrupt());
    pic.write(0x20, 0x20);
    assert!(!pic.interrupt(), "the line is still high but made no new edge");
    pic.set_irq(1, false);
    pic.set_irq(1, true);
    assert!(pic.interrupt());
}

#[test]
fn slave_request_sets_both_in_service_bits() {
    let mut pic = pc();
    pulse(&mut pic, 14);
    assert_eq!(pic.acknowledge(), 0x76);
    pic.write(0x20, 0x0b);
    pic.write(0xa0, 0x0b);
    assert_eq!(pic.read(0x20), Some(0x04));
    assert_eq!(pic.read(0xa0), Some(0x40));
    pic.write(0xa0, 0x20);
    pic.write(0x20, 0x20);
    assert_eq!(pic.read(0x20), Some(0));
    assert_eq!(pic.read(0xa0), Some(0));
}

#[test]
fn second_slave_request_is_seen_after_both_eois() {
    let mut pic = pc();
    pulse(&mut pic, 14);
    pulse(&mut pic, 12);
    assert_eq!(pic.acknowledge(), 0x74);
    assert!(!pic.interrupt());
    pic.write(0xa0, 0x20);
    pic.write(0x20, 0x20);
    assert!(pic.interrupt());
    assert_eq!(pic.acknowledge(), 0x76);
}

#[test]
fn slave_in_automatic_eoi_raises_again_for_what_is_left() {
    let mut pic = pc();
    for (port, value) in [(0xa0, 0x11), (0xa1, 0x70), (0xa1, 0x02), (0xa1, 0x03), (0xa1, 0)] {
        pic.write(port, value);
    }
    pulse(&mut pic, 9);
    pulse(&mut pic, 10);
    assert_eq!(pic.acknowledge(), 0x71);
    pic.write(0x20, 0x20);
    assert_eq!(pic.acknowledge(), 0x72);
}

#[test]
fn higher_priority_interrupts_a_lower_one_but_not_the_reverse() {
    let mut pic = pc();
    pulse(&mut pic, 5);
    assert_eq!(pic.acknowledge(), 0x0d);
    pulse(&mut pic, 6);
    assert!(!pic.interrupt());
    pulse(&mut pic, 0);
    assert!(pic.interrupt());
    assert_eq!(pic.acknowledge(), 0x08);
    pic.write(0x20, 0x20);
    pic.write(0x20, 0x0b);
    assert_eq!(pic.read(0x20), Some(0x20), "a non-specific EOI ends the highest one");
}

#[test]
fn masked_request_waits_in_the_irr() {
    let mut pic = pc();
    pic.write(0x21, 0x10);
    pulse(&mut pic, 4);
    assert!(!pic.interrupt());
    assert_eq!(pic.read(0x20), Some(0x10));
    pic.write(0x21, 0);
    assert!(pic.interrupt());
}

#[test]
fn level_request_follows_its_line() {
    let mut pic = pc();
    pic.write(0x4d1, 0x0c);
    assert_eq!(pic.read(0x4d1), Some(0x0c));
    pic.set_irq(11, true);
    assert_eq!(pic.acknowledge(), 0x73);
    pic.write(0xa0, 0x20);
    pic.write(0x20, 0x20);
    assert!(pic.interrupt(), "still asserted");
    pic.set_irq(11, false);
    assert_eq!(pic.acknowledge(), 0x77, "it went away after INT rose: spurious on the slave");
    pic.write(0x20, 0x0b);
    pic.write(0xa0, 0x0b);
    assert_eq!((pic.read(0x20), pic.read(0xa0)), (Some(0x04), Some(0)));
}

#[test]
fn elcr_refuses_the_inputs_that_are_always_edge() {
    let mut pic = pc();
    pic.write(0x4d0, 0xff);
    pic.write(0x4d1, 0xff);
    assert_eq!((pic.read(0x4d0), pic.read(0x4d1)), (Some(0xf8), Some(0xde)));
}

#[test]
fn acknowledge_without_request_is_spurious_seven() {
    let mut pic = pc();
    assert_eq!(pic.acknowledge(), 0x0f);
    pic.write(0x20, 0x0b);
    assert_eq!(pic.read(0x20), Some(0), "no in-service bit");
}

#[test]
fn poll_acknowledges_and_names_the_input() {
    let mut pic = pc();
    pulse(&mut pic, 3);
    pic.write(0x20, 0x0c);
    assert_eq!(pic.read(0x20), Some(0x83));
    assert!(!pic.interrupt());
    pic.write(0x20, 0x0c);
    assert_eq!(pic.read(0x20), Some(0));
}

#[test]
fn rotation_puts_the_served_input_last() {
    let mut pic = pc();
    pulse(&mut pic, 3);
    assert_eq!(pic.acknowledge(), 0x0b);
    pic.write(0x20, 0xa0);
    pulse(&mut pic, 3);
    pulse(&mut pic, 4);
    assert_eq!(pic.acknowledge(), 0x0c);
    pic.write(0x20, 0x64);
    assert_eq!(pic.acknowledge(), 0x0b);
    pic.write(0x20, 0x63);
    pic.write(0x20, 0xc7);
    pulse(&mut pic, 7);
    pulse(&mut pic, 0);
    assert_eq!(pic.acknowledge(), 0x08, "set priority: seven lowest again");
}

#[test]
fn rotation_in_automatic_eoi_is_round_robin() {
    let mut pic = pc();
    for (port, value) in [(0x20, 0x11), (0x21, 0x08), (0x21, 0x04), (0x21, 0x03), (0x21, 0), (0x20, 0x80)] {
        pic.write(port, value);
    }
    pulse(&mut pic, 0);
    pulse(&mut pic, 1);
    assert_eq!(pic.acknowledge(), 0x08);
    pulse(&mut pic, 0);
    assert_eq!(pic.acknowledge(), 0x09);
    assert_eq!(pic.acknowledge(), 0x08);
}

#[test]
fn special_mask_mode_lets_lower_inputs_through_a_masked_service() {
    let mut pic = pc();
    pulse(&mut pic, 1);
    assert_eq!(pic.acknowledge(), 0x09);
    pulse(&mut pic, 6);
    assert!(!pic.interrupt());
    pic.write(0x21, 0x02);
    assert!(!pic.interrupt());
    pic.write(0x20, 0x68);
    assert!(pic.interrupt());
    assert_eq!(pic.acknowledge(), 0x0e);
    pic.write(0x20, 0x20);
    pic.write(0x20, 0x0b);
    assert_eq!(pic.read(0x20), Some(0x02), "the masked one is not ended by a non-specific EOI");
}

/// IRQ 14 is in service, the master in special fully nested mode.
fn special_fully_nested() -> Pic8259 {
    let mut pic = pc();
    for (port, value) in [(0x20, 0x11), (0x21, 0x08), (0x21, 0x04), (0x21, 0x11), (0x21, 0)] {
        pic.write(port, value);
    }
    pulse(&mut pic, 14);
    assert_eq!(pic.acknowledge(), 0x76);
    pic
}

#[test]
fn special_fully_nested_master_takes_a_higher_slave_input() {
    let mut pic = special_fully_nested();
    pulse(&mut pic, 8);
    assert!(pic.interrupt());
    assert_eq!(pic.acknowledge(), 0x70);
}

#[test]
fn special_fully_nested_master_holds_back_inputs_below_the_slave() {
    let mut pic = special_fully_nested();
    pulse(&mut pic, 3);
    assert!(!pic.interrupt(), "input 3 comes after the slave");
    pulse(&mut pic, 1);
    assert_eq!(pic.acknowledge(), 0x09);
    pic.write(0x20, 0x20);
    assert!(!pic.interrupt());
    pic.write(0x20, 0x20);
    assert_eq!(pic.acknowledge(), 0x0b);
}

#[test]
fn linux_probe_of_the_mask_register_reads_back() {
    // The kernel decides by this whether there is a PIC at all.
    let mut pic = pc();
    pic.write(0xa1, 0xff);
    pic.write(0x21, 0xfb);
    assert_eq!(pic.read(0x21), Some(0xfb));
}

#[test]
fn initialisation_discards_requests_and_mask() {
    let mut pic = pc();
    pic.write(0x21, 0xff);
    pulse(&mut pic, 1);
    pic.write(0x20, 0x13);
    pic.write(0x21, 0x40);
    pic.write(0x21, 0x01);
    assert_eq!(pic.read(0x21), Some(0));
    assert!(!pic.interrupt());
    pulse(&mut pic, 1);
    assert_eq!(pic.acknowledge(), 0x41, "single: ICW4 came right after ICW2");
}
