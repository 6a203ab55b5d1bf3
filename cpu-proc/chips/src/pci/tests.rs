use super::*;

fn card() -> PciFunction {
    let mut bars = [Bar::default(); 6];
    bars[0] = Bar { size: 0x100, kind: BarKind::Io };
    bars[1] = Bar { size: 0x1000, kind: BarKind::Mem32 };
    PciFunction {
        devfn: 0x18,
        vendor: 0x10ec,
        device: 0x8139,
        class: 0x02_0000,
        bars,
        rom_size: 0x1_0000,
        interrupt_pin: 1,
        writable: vec![(0x40, 0x0f)],
        fixed: vec![(0x41, 0x77)],
        ..PciFunction::default()
    }
}

fn bus() -> PciBus {
    let mut bus = PciBus::new();
    bus.add(card()).unwrap();
    bus
}

#[test]
fn mechanism_1_reads_ids_and_all_ones_for_nothing() {
    let mut bus = bus();
    bus.set_address(0x8000_1800);
    assert_eq!(bus.read_data(0, 4), 0x8139_10ec);
    assert_eq!(bus.read_data(2, 2), 0x8139);
    assert_eq!(bus.read_data(3, 1), 0x81);
    bus.set_address(0x0000_1800);
    assert_eq!(bus.read_data(0, 4), 0xffff_ffff);
    bus.set_address(0x8000_2000);
    assert_eq!(bus.read_data(0, 2), 0xffff);
    bus.set_address(0x8001_1800);
    assert_eq!(bus.read_data(0, 4), 0xffff_ffff, "another bus");
}

#[test]
fn sizing_shows_the_size_and_the_flags() {
    let mut bus = bus();
    bus.write(0x18, 0x10, 4, 0xffff_ffff);
    assert_eq!(bus.read(0x18, 0x10, 4), 0xffff_ff01);
    bus.write(0x18, 0x14, 4, 0xffff_ffff);
    assert_eq!(bus.read(0x18, 0x14, 4), 0xffff_f000);
    bus.write(0x18, 0x18, 4, 0xffff_ffff);
    assert_eq!(bus.read(0x18, 0x18, 4), 0);
    bus.write(0x18, 0x30, 4, 0xffff_fffe);
    assert_eq!(bus.read(0x18, 0x30, 4), 0xffff_0000);
}

#[test]
fn decode_map_follows_command_and_bars() {
    let mut bus = bus();
    let before = bus.generation();
    bus.write(0x18, 0x10, 4, 0xc001);
    bus.write(0x18, 0x14, 4, 0xfebf_1000);
    assert!(bus.decode_map().is_empty());
    assert_eq!(bus.generation(), before, "nothing is decoded yet");
    bus.write(0x18, 4, 2, 1);
    let io = Decode { space: Space::Io, base: 0xc000, size: 0x100, devfn: 0x18, bar: 0 };
    assert_eq!(bus.decode_map(), [io]);
    bus.write(0x18, 4, 1, 3);
    assert_eq!(bus.decode_map().len(), 2);
    bus.write(0x18, 0x30, 4, 0xfec1_0001);
    assert_eq!(bus.decode_map()[2].bar, ROM_BAR);
    let generation = bus.generation();
    bus.write(0x18, 0x15, 1, 0x20);
    assert_eq!(bus.decode_map()[1].base, 0xfebf_2000);
    assert_ne!(bus.generation(), generation);
    bus.write(0x18, 0x14, 4, 0xffff_ffff);
    assert_eq!(bus.decode_map().len(), 2, "the top of the space is not decoded");
}

#[test]
fn read_only_bits_stay_and_status_is_cleared_by_ones() {
    let mut bus = bus();
    bus.write(0x18, 0, 4, 0);
    assert_eq!(bus.read(0x18, 0, 4), 0x8139_10ec);
    bus.write(0x18, 0x40, 2, 0xffff);
    assert_eq!(bus.read(0x18, 0x40, 2), 0x770f);
    bus.poke(0x18, 0x07, 0x20);
    bus.write(0x18, 6, 2, 0x2000);
    assert_eq!(bus.read(0x18, 6, 2), 0);
}

#[test]
fn interrupt_is_swizzled_and_can_be_disabled() {
    let mut bus = bus();
    bus.set_intx(0x18, true);
    assert_eq!(bus.lines(), 1 << 2, "device 3, INTA");
    assert_eq!(bus.read(0x18, 6, 1) & 8, 8);
    bus.write(0x18, 4, 2, 0x400);
    assert_eq!(bus.lines(), 0);
    assert_eq!(PciBus::line_of(0x00, 0), 3);
    assert_eq!(PciBus::line_of(0x0b, 0), 0);
}

#[test]
fn impossible_templates_are_refused() {
    let mut bus = bus();
    assert_eq!(bus.add(card()), Err(TemplateError::Taken(0x18)));
    let mut odd = PciFunction { devfn: 0x20, ..card() };
    odd.bars[0].size = 0x101;
    assert_eq!(bus.add(odd), Err(TemplateError::Size(0x101)));
    let pin = PciFunction { devfn: 0x20, interrupt_pin: 5, ..card() };
    assert_eq!(bus.add(pin), Err(TemplateError::Pin(5)));
    let header = PciFunction { devfn: 0x20, writable: vec![(0x10, 0xff)], ..card() };
    assert_eq!(bus.add(header), Err(TemplateError::Offset(0x10)));
}

#[test]
fn saved_state_comes_back_but_cannot_change_the_identity() {
    let mut bus = bus();
    bus.write(0x18, 0x10, 4, 0xc001);
    bus.write(0x18, 4, 2, 1);
    let mut state = bus.save();
    state.functions[0].1[0] = 0x55;
    let mut other = PciBus::new();
    assert_eq!(other.clone().restore(state.clone()), Err(TemplateError::Mismatch));
    other.add(card()).unwrap();
    other.restore(state).unwrap();
    assert_eq!(other.decode_map(), bus.decode_map());
    assert_eq!(other.read(0x18, 0, 2), 0x10ec);
}

#[test]
fn accesses_past_the_end_of_the_space_do_nothing() {
    let mut bus = bus();
    assert_eq!(bus.read(0x18, 0xfe, 4), 0xffff_0000);
    assert!(bus.write(0x18, 0xff, 4, 0xffff_ffff));
}
