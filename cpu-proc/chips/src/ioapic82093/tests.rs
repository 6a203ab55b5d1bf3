use super::*;

struct Bench {
    chip: Ioapic82093,
    sent: Vec<Message>,
    accept: bool,
}

impl Bench {
    fn new() -> Self {
        Self { chip: Ioapic82093::new(), sent: Vec::new(), accept: true }
    }

    fn write(&mut self, register: u8, value: u32) {
        let (sent, accept) = (&mut self.sent, self.accept);
        self.chip.write(IOREGSEL, u32::from(register), &mut |_| false);
        self.chip.write(IOWIN, value, &mut |message| {
            sent.push(message);
            accept
        });
    }

    fn read(&mut self, register: u8) -> u32 {
        self.chip.write(IOREGSEL, u32::from(register), &mut |_| false);
        self.chip.read(IOWIN)
    }

    fn pin(&mut self, pin: u8, level: bool) {
        let (sent, accept) = (&mut self.sent, self.accept);
        self.chip.set_pin(pin, level, &mut |message| {
            sent.push(message);
            accept
        });
    }

    fn eoi(&mut self, vector: u8) {
        let sent = &mut self.sent;
        self.chip.end_of_interrupt(vector, &mut |message| {
            sent.push(message);
            true
        });
    }
}

#[test]
fn identification_is_version_11h_with_24_entries() {
    let mut bench = Bench::new();
    assert_eq!(bench.read(VERSION), 0x0017_0011);
    bench.write(ID, 0x0f00_0000);
    assert_eq!(bench.read(ID), 0x0f00_0000);
    assert_eq!(bench.read(0x10 + 2 * 23), 0x1_0000);
    assert_eq!(bench.read(0x10 + 2 * 24), 0);
    assert_eq!(bench.read(0xff), 0);
}

#[test]
fn edge_sends_once_a_rise_and_is_lost_while_masked() {
    let mut bench = Bench::new();
    bench.pin(4, true);
    bench.pin(4, false);
    bench.write(0x18, 0x34);
    assert!(bench.sent.is_empty());
    bench.pin(4, true);
    bench.pin(4, true);
    assert_eq!(bench.sent.len(), 1);
    assert_eq!(bench.sent[0].vector, 0x34);
    bench.pin(4, false);
    bench.pin(4, true);
    assert_eq!(bench.sent.len(), 2);
}

#[test]
fn level_waits_for_the_end_of_interrupt() {
    let mut bench = Bench::new();
    bench.write(0x10 + 22, 0x803b);
    bench.pin(11, true);
    assert_eq!(bench.sent.len(), 1);
    assert!(bench.sent[0].level);
    assert_eq!(bench.read(0x10 + 22), 0xc03b, "remote IRR");
    bench.write(0x10 + 22, 0x803b);
    assert_eq!(bench.sent.len(), 1);
    bench.eoi(0x3b);
    assert_eq!(bench.sent.len(), 2, "still asserted");
    bench.pin(11, false);
    bench.eoi(0x3b);
    assert_eq!(bench.sent.len(), 2);
    assert_eq!(bench.read(0x10 + 22), 0x803b);
}

#[test]
fn level_asserted_while_masked_is_sent_on_unmasking() {
    let mut bench = Bench::new();
    bench.write(0x10 + 22, 0x1_803b);
    bench.pin(11, true);
    assert!(bench.sent.is_empty());
    bench.write(0x10 + 22, 0x803b);
    assert_eq!(bench.sent.len(), 1);
}

#[test]
fn message_that_nobody_accepts_is_tried_again() {
    let mut bench = Bench::new();
    bench.accept = false;
    bench.write(0x10 + 22, 0x803b);
    bench.pin(11, true);
    assert_eq!(bench.read(0x10 + 22), 0x803b);
    bench.accept = true;
    bench.write(0x10 + 23, 0);
    assert_eq!(bench.read(0x10 + 22), 0xc03b);
}

#[test]
fn destination_and_mode_come_from_the_entry() {
    let mut bench = Bench::new();
    bench.write(0x15, 0x0300_0000);
    bench.write(0x14, 0x0930);
    bench.pin(2, true);
    let message = bench.sent[0];
    assert_eq!(message.destination, Destination::Logical(3));
    assert_eq!(message.mode, DeliveryMode::LowestPriority);
    bench.write(0x14, 0x0430);
    bench.pin(2, false);
    bench.pin(2, true);
    assert_eq!(bench.sent[1].mode, DeliveryMode::Nmi);
    assert_eq!(bench.sent[1].destination, Destination::Physical(3));
}

#[test]
fn switching_to_edge_clears_the_remote_irr() {
    let mut bench = Bench::new();
    bench.write(0x10 + 22, 0x803b);
    bench.pin(11, true);
    bench.write(0x10 + 22, 0x1_003b);
    bench.write(0x10 + 22, 0x1_803b);
    assert_eq!(bench.read(0x10 + 22), 0x1_803b);
}

#[test]
fn ext_int_entry_names_its_cpu() {
    let mut bench = Bench::new();
    assert_eq!(bench.chip.ext_int(0), None);
    bench.write(0x10, 0x700);
    assert_eq!(bench.chip.ext_int(0), Some(Destination::Physical(0)));
    assert_eq!(bench.chip.ext_int(99), None);
}
