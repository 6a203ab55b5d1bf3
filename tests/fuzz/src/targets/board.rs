//! The chips of the CPU process behind their address decoding, beside a board that is rebuilt from its saved form all the time.

use bulkhead_bus::storm::{Script, Source};
use bulkhead_chips::board::{Board, BoardConfig};
use bulkhead_chips::{pci, piix3};

/// Ports that chips of the board answer, and some that they do not.
const PORTS: &[u16] = &[
    0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x61, 0xb2, 0xb3, 0xcf8, 0xcfc, 0xcf9,
    0xb000, 0xb100, 0x70, 0x0,
];
/// Where the memory-mapped chips are.
const PAGES: &[u64] = &[0xfee0_0000, 0xfec0_0000, 0xfed0_0000, 0xe000_0000];
/// Events that one access may leave.
const EVENTS_MAX: usize = 4096;

fn make(pc: bool, cpus: u8) -> Board {
    let mut board = Board::new(if pc { BoardConfig::pc(cpus) } else { BoardConfig::isapc(cpus) });
    if pc {
        board.add_function(piix3::ide()).expect("a free place");
        board.add_function(pci::standard_vga(2 << 3, 1 << 24, 1 << 16)).expect("a free place");
    }
    board
}

/// Machine `pc`.
pub fn pc(bytes: &[u8]) {
    run(bytes, true);
}

/// Machine `isapc`.
pub fn isa(bytes: &[u8]) {
    run(bytes, false);
}

fn pick<T: Copy>(all: &[T], source: &mut Script<'_>) -> T {
    let at = source.below(all.len() as u64) as usize;
    *all.get(at).expect("below the length")
}

fn value(source: &mut Script<'_>) -> u64 {
    match source.below(4) {
        0 => source.below(256),
        1 => 1 << source.below(64),
        2 => u64::MAX - source.below(16),
        _ => source.draw(),
    }
}

fn run(bytes: &[u8], pc: bool) {
    let mut source = Script::new(bytes);
    let cpus = 1 + source.below(3) as u8;
    let (mut calm, mut troubled) = (make(pc, cpus), make(pc, cpus));
    let mut now = 0u64;
    while !source.is_spent() {
        let step = Step::next(&mut source);
        if let Step::Advance(ns) = step {
            now = now.saturating_add(ns);
        }
        let cpu = source.below(u64::from(cpus)) as u8;
        let seen = step.run(&mut calm, (cpu, cpus), now);
        assert_eq!(seen, step.run(&mut troubled, (cpu, cpus), now), "{step:?} of the rebuilt board");
        let saved = troubled.save();
        let mut fresh = make(pc, cpus);
        fresh.restore(saved.clone()).expect("own state");
        assert!(fresh.save() == saved, "{step:?}: save after restore differs");
        troubled = fresh;
        // What is derived from the state.
        assert_eq!(calm.decode_map(), troubled.decode_map(), "{step:?}");
        assert_eq!(calm.shadow(), troubled.shadow(), "{step:?}");
    }
    // The saved forms may differ in when timers were last looked at, answers may not: not now, not later.
    for late in [0, 1, 1_000_000, 1 << 34] {
        let now = now.saturating_add(late);
        assert_eq!(answers(&mut calm, cpus, now), answers(&mut troubled, cpus, now), "{late} ns later");
        assert_eq!(tables(&calm, now), tables(&troubled, now), "{late} ns later");
    }
}

/// What the monitor shows.
fn tables(board: &Board, now: u64) -> [String; 3] {
    [board.info_pic(), board.info_pci(), board.info_hpet(now)]
}

/// What every register reads.
fn answers(board: &mut Board, cpus: u8, now: u64) -> Vec<(u64, Option<u64>)> {
    let mut all = Vec::new();
    for port in PORTS {
        all.push((u64::from(*port), board.port_read(*port, 1, now).map(u64::from)));
    }
    for cpu in 0..cpus {
        for page in PAGES {
            for at in (0..0x400).step_by(4) {
                all.push((page + at, board.mmio_read(cpu, page + at, 4, now)));
            }
        }
        all.push((u64::from(cpu), board.acknowledge(cpu, now).map(u64::from)));
    }
    all
}

#[derive(Clone, Copy, Debug)]
enum Step {
    PortRead(u16, u8),
    PortWrite(u16, u8, u32),
    Config(u32, u16, u8, u32),
    MmioRead(u64, u8),
    MmioWrite(u64, u8, u64),
    Isa(u8, bool),
    Pulse(u8),
    Intx(u8, bool),
    PowerButton,
    Gpe(u8),
    Wake,
    Advance(u64),
    Acknowledge,
    ApicBase(u64),
    Cr8(u8),
    Reset,
}

impl Step {
    fn next(source: &mut Script<'_>) -> Step {
        let width = |source: &mut Script<'_>| 1u8 << source.below(4);
        let port = |source: &mut Script<'_>| match source.below(16) {
            0 => source.draw() as u16,
            _ => pick(PORTS, source).wrapping_add(source.below(4) as u16),
        };
        let page = |source: &mut Script<'_>| match source.below(4) {
            0 => pick(PAGES, source).wrapping_add(source.below(0x1000)),
            _ => pick(PAGES, source).wrapping_add(source.below(0x100) * 4),
        };
        match source.below(24) {
            0..=2 => Step::PortRead(port(source), width(source)),
            3..=7 => Step::PortWrite(port(source), width(source), value(source) as u32),
            8 | 9 => {
                let address = 1 << 31 | (source.below(6) << 11 | source.below(8) << 8) as u32;
                let offset = source.below(256) as u32;
                let lane = 0xcfc + (offset & 3) as u16;
                Step::Config(address | offset & 0xfc, lane, width(source), value(source) as u32)
            }
            10 => Step::MmioRead(page(source), width(source)),
            11 | 12 => Step::MmioWrite(page(source), width(source), value(source)),
            13 => Step::Isa(source.below(18) as u8, source.below(2) == 0),
            14 => Step::Pulse(source.below(18) as u8),
            15 => Step::Intx(source.below(256) as u8, source.below(2) == 0),
            16 => match source.below(4) {
                0 | 1 => Step::PowerButton,
                2 => Step::Gpe(source.below(256) as u8),
                _ => Step::Wake,
            },
            17 | 18 => Step::Advance(1 << source.below(40)),
            19 => Step::Advance(source.below(1 << 24)),
            20 | 21 => Step::Acknowledge,
            22 => match source.below(2) {
                0 => Step::ApicBase(value(source)),
                _ => Step::Cr8(source.below(256) as u8),
            },
            _ if source.below(8) == 0 => Step::Reset,
            _ => Step::Acknowledge,
        }
    }

    /// Everything observable of the step.
    fn run(self, board: &mut Board, (cpu, cpus): (u8, u8), now: u64) -> String {
        let mut seen = String::new();
        match self {
            Step::PortRead(port, size) => seen = format!("{:?}", board.port_read(port, size, now)),
            Step::PortWrite(port, size, value) => {
                seen = format!("{:?}", board.port_write(port, size, value, now))
            }
            Step::Config(address, port, size, value) => {
                board.port_write(0xcf8, 4, address, now);
                let before = board.port_read(port, size, now);
                board.port_write(port, size, value, now);
                seen = format!("{before:?} {:?}", board.port_read(port, size, now));
            }
            Step::MmioRead(gpa, size) => seen = format!("{:?}", board.mmio_read(cpu, gpa, size, now)),
            Step::MmioWrite(gpa, size, value) => {
                seen = format!("{:?}", board.mmio_write(cpu, gpa, size, value, now));
            }
            Step::Isa(irq, level) => board.set_isa_irq(irq, level),
            Step::Pulse(irq) => {
                [false, true, false].into_iter().for_each(|level| board.set_isa_irq(irq, level))
            }
            Step::Intx(devfn, level) => {
                board.set_intx(devfn, level);
                seen = format!("{:x}", board.pci().lines());
            }
            Step::PowerButton => board.press_power_button(),
            Step::Gpe(event) => board.raise_gpe(event),
            Step::Wake => board.wake(),
            Step::Advance(_) => board.poll(now),
            Step::Acknowledge => seen = format!("{:?}", board.acknowledge(cpu, now)),
            Step::ApicBase(value) => {
                board.set_apic_base(cpu, value, now);
                seen = format!("{:x}", board.apic_base(cpu));
            }
            Step::Cr8(value) => {
                board.set_cr8(cpu, value);
                seen = format!("{:x}", board.cr8(cpu));
            }
            Step::Reset => board.reset(now),
        }
        let mut events = Vec::new();
        while let Some(event) = board.take_event() {
            events.push(format!("{event:?}"));
            assert!(events.len() <= EVENTS_MAX, "{self:?} leaves events without end");
        }
        // The rebuilt board says once more that its map is new.
        events.retain(|event| event != "MapChanged");
        board.poll(now);
        let pending: Vec<bool> = (0..cpus).map(|cpu| board.waits(cpu)).collect();
        if let Some(deadline) = board.next_deadline() {
            assert!(deadline != u64::MAX, "{self:?}: a deadline at the end of time");
        }
        format!("{seen} {events:?} {pending:?}")
    }
}
