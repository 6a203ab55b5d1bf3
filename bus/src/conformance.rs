//! The conformance suite: what every chip must hold whatever a guest, a back end or a crash does. Each device calls
//! [`check`] from its tests. It asserts; a failure names the seed and the step.
//!
//! 1. the description is within the limits of the bus and its class rules make sense;
//! 2. every offset and width of every region answers, reads and writes, without a panic;
//! 3. reset twice is reset once;
//! 4. save and restore is the identity, and outputs follow from state alone;
//! 5. a machine whose device is replaced after every single transaction cannot be told from an undisturbed twin;
//! 6. a mirrored read has no effect and equals `peek`; a write that is not sync never lowers a line (unless excused);
//! 7. a timer that fired has a later deadline or none; no state, however damaged, makes a restored chip panic.

use crate::bench::Bench;
use crate::chip::{Chip, Class, Control, LINES, Reg, STATE_MAX, write_class};
use crate::device::{BLOCK_BYTES, MIRROR_BYTES, REGIONS_MAX, RULES_MAX};
use crate::links::{BLOCK_DATA, BLOCK_SLOTS, BlockStatus, Medium};

/// What a chip under test is connected to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setup {
    /// Byte links.
    pub bytes: usize,
    /// Drives.
    pub blocks: usize,
    /// Bytes of bulk memory.
    pub bulk: usize,
    /// (region, offset) of posted or kicked writes that may lower a line, each explained at its rule in the chip.
    pub may_lower: &'static [(u8, u32)],
    /// Transactions of each random run; 0 for the default (2,000).
    pub steps: usize,
}

/// A small pseudo-random generator (splitmix64): runs are repeatable from their seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end` (0 when `end` is 0).
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw().checked_rem(end).unwrap_or(0)
    }
}

/// One step of a random run.
#[derive(Clone, Debug)]
enum Step {
    Read(Reg),
    Write(Reg, u64),
    ReadBlock(Reg, usize),
    WriteBlock(Reg, Vec<u8>),
    Advance(u64),
    Control(Control),
    HostSend(usize, Vec<u8>),
    HostReceive(usize, usize),
    HostBreak(usize),
    HostConnect(usize, bool),
    Serve(usize, u64),
    Medium(usize, Medium),
    Reset,
}

fn bytes_of<C: Chip>(chip: &C) -> Vec<u8> {
    let state = chip.save();
    bytemuck::bytes_of(&state).to_vec()
}

/// Values that find edges sooner than uniform ones.
fn value(random: &mut Random) -> u64 {
    match random.below(6) {
        0 => 0,
        1 => u64::MAX,
        2 => 1 << random.below(64),
        3 => random.below(16),
        4 => random.below(256),
        _ => random.draw(),
    }
}

fn reg<C: Chip>(chip: &C, random: &mut Random) -> Reg {
    let regions = chip.description().regions;
    let index = random.below(regions.len() as u64);
    let size = regions.get(index as usize).map_or(1, |region| region.size);
    let reach = if random.below(4) == 0 { size } else { size.min(64) };
    let width = match random.below(8) {
        0 => 8,
        1 => 4,
        2 => 2,
        3 => 4,
        _ => 1,
    };
    Reg { region: index as u8, offset: random.below(reach), size: width }
}

fn control(random: &mut Random) -> Control {
    match random.below(6) {
        0 => Control::Info,
        1 => Control::Break,
        2 => Control::Configure((0..random.below(40)).map(|_| random.draw() as u8).collect()),
        3 => Control::Mouse {
            dx: value(random) as i16,
            dy: value(random) as i16,
            dz: value(random) as i8,
            buttons: random.draw() as u8,
        },
        4 => Control::Key { code: value(random) as u16, down: random.below(2) == 0 },
        _ => Control::Key { code: 1 + random.below(0x58) as u16, down: random.below(2) == 0 },
    }
}

fn step<C: Chip>(chip: &C, setup: &Setup, random: &mut Random) -> Step {
    let link = random.below(setup.bytes as u64) as usize;
    let drive = random.below(setup.blocks as u64) as usize;
    match random.below(100) {
        0..32 => Step::Read(reg(chip, random)),
        32..74 => Step::Write(reg(chip, random), value(random)),
        74..76 => {
            let reg = reg(chip, random);
            Step::ReadBlock(reg, usize::from(reg.size) * (1 + random.below(300) as usize))
        }
        76..78 => {
            let reg = reg(chip, random);
            let len = usize::from(reg.size) * (1 + random.below(300) as usize);
            Step::WriteBlock(reg, (0..len).map(|_| random.draw() as u8).collect())
        }
        78..86 => Step::Advance(1 << random.below(33)),
        86..90 => Step::Control(control(random)),
        90..93 if setup.bytes > 0 => {
            Step::HostSend(link, (0..1 + random.below(40)).map(|_| random.draw() as u8).collect())
        }
        93..95 if setup.bytes > 0 => Step::HostReceive(link, random.below(100) as usize),
        95 if setup.bytes > 0 => Step::HostBreak(link),
        96 if setup.bytes > 0 => Step::HostConnect(link, random.below(2) == 0),
        90..97 if setup.blocks > 0 => Step::Serve(drive, random.draw()),
        97 if setup.blocks > 0 => Step::Medium(
            drive,
            Medium {
                bytes: random.below(1 << 20) & !511,
                read_only: random.below(4) == 0,
                present: random.below(4) != 0,
                write_cache: random.below(2) == 0,
                generation: random.draw() as u32,
            },
        ),
        98 if random.below(4) == 0 => Step::Reset,
        _ => Step::Advance(random.below(100_000)),
    }
}

/// Runs one step and returns everything that is observable about it.
fn run<C: Chip>(bench: &mut Bench<C>, step: &Step) -> Vec<u8> {
    let mut seen = Vec::new();
    match step {
        Step::Read(reg) => {
            seen.extend(bench.read(reg.region, reg.offset, reg.size).to_le_bytes());
        }
        Step::Write(reg, value) => bench.write(reg.region, reg.offset, reg.size, *value),
        Step::ReadBlock(reg, len) => {
            let mut data = vec![0u8; (*len).min(BLOCK_BYTES)];
            let filled = bench.with(|chip, env| chip.read_block(*reg, &mut data, env));
            if let Ok(count) = filled {
                assert!(count <= data.len(), "read_block of {reg:?} claims {count} of {} bytes", data.len());
                seen.extend(data.get(..count).unwrap_or_default());
            }
        }
        Step::WriteBlock(reg, data) => {
            let _ = bench.with(|chip, env| chip.write_block(*reg, data, env));
        }
        Step::Advance(ns) => advance(bench, *ns),
        Step::Control(request) => match bench.control(request) {
            Ok(reply) => {
                assert!(reply.len() <= crate::control::REPLY_MAX, "reply of {} bytes", reply.len());
                seen.extend(reply);
            }
            Err(reason) => seen.extend(reason.bytes()),
        },
        Step::HostSend(link, data) => {
            if let Some(host) = bench.hosts.get(*link) {
                host.send(data);
            }
        }
        Step::HostReceive(link, count) => {
            if let Some(host) = bench.hosts.get(*link) {
                let mut data = vec![0u8; *count];
                let count = host.receive(&mut data);
                seen.extend(data.get(..count).unwrap_or_default());
            }
        }
        Step::HostBreak(link) => bench.hosts.get(*link).iter().for_each(|host| host.send_break()),
        Step::HostConnect(link, connected) => {
            bench.hosts.get(*link).iter().for_each(|host| host.set_connected(*connected));
        }
        Step::Serve(drive, seed) => seen.extend(serve(bench, *drive, *seed)),
        Step::Medium(drive, medium) => {
            bench.servers.get(*drive).iter().for_each(|server| server.set_medium(*medium));
        }
        Step::Reset => bench.with(|chip, env| chip.reset(env)),
    }
    bench.event();
    seen
}

/// Completes the oldest request of a drive, with data when it is a read.
fn serve<C: Chip>(bench: &mut Bench<C>, drive: usize, seed: u64) -> Vec<u8> {
    let Some(server) = bench.servers.get(drive) else { return Vec::new() };
    let Some(request) = server.next() else { return Vec::new() };
    assert!(request.slot < BLOCK_SLOTS && request.length <= BLOCK_DATA);
    let mut random = Random::new(seed);
    let seen = match request.op {
        crate::links::BlockOp::Read => server.with_data(request.slot, request.length, |data| {
            data.iter_mut().for_each(|byte| *byte = random.draw() as u8);
            Vec::new()
        }),
        crate::links::BlockOp::Write => server.with_data(request.slot, request.length, |data| data.to_vec()),
        _ => Vec::new(),
    };
    let status = match random.below(8) {
        0 => BlockStatus::Error,
        1 => BlockStatus::Range,
        _ => BlockStatus::Ok,
    };
    server.complete(request.slot, status);
    let mut head = format!("{:?} {} {} ", request.op, request.offset, request.length).into_bytes();
    head.extend(seen);
    head
}

/// [`Bench::advance`] with a check that deadlines move on.
fn advance<C: Chip>(bench: &mut Bench<C>, ns: u64) {
    let end = bench.now.saturating_add(ns);
    for _ in 0..64 {
        match bench.outputs().deadline {
            Some(at) if at <= end => {
                bench.now = bench.now.max(at);
                let mut calls = 0;
                while bench.outputs().deadline.is_some_and(|at| at <= bench.now) {
                    calls += 1;
                    assert!(
                        calls <= 16,
                        "the deadline {:?} stays due at {}",
                        bench.outputs().deadline,
                        bench.now
                    );
                    bench.with(|chip, env| chip.timer(env));
                }
            }
            _ => break,
        }
    }
    bench.now = end;
    // What fell due in a long jump is served once, late, as when the host was busy.
    let mut calls = 0;
    while bench.outputs().deadline.is_some_and(|at| at <= bench.now) {
        calls += 1;
        assert!(calls <= 16, "the deadline {:?} stays due at {}", bench.outputs().deadline, bench.now);
        bench.with(|chip, env| chip.timer(env));
    }
}

/// Runs the whole suite on the chip that `make` builds.
///
/// # Panics
/// When the chip fails.
pub fn check<C: Chip>(make: impl Fn() -> C, setup: Setup) {
    let new = || Bench::new(make(), setup.bytes, setup.blocks, setup.bulk);
    description(&make());
    every_register(&mut new());
    reset_is_idempotent(&new, &setup);
    for seed in 1..=4 {
        twins(&new, &make, &setup, seed);
    }
    for seed in 1..=40 {
        damaged_state(&new, &make, &setup, seed);
    }
}

fn description<C: Chip>(chip: &C) {
    let description = chip.description();
    assert!(size_of::<C::State>() <= STATE_MAX, "state of {} bytes", size_of::<C::State>());
    assert!(!description.part.is_empty());
    assert!(description.regions.len() <= REGIONS_MAX && description.lines.len() <= LINES);
    let mut mirrored = 0;
    for (index, region) in description.regions.iter().enumerate() {
        assert!(region.size > 0 && region.size <= 1 << 32, "size of region {index}");
        assert!(region.rules.len() <= RULES_MAX, "rules of region {index}");
        for rule in region.rules {
            assert!(
                rule.start < rule.end && u64::from(rule.end) <= region.size,
                "{rule:?} of region {index}"
            );
            assert!(matches!(rule.read, Class::Sync | Class::Mirror), "{rule:?} of region {index}");
            assert!(rule.write != Class::Mirror, "{rule:?} of region {index}");
            if rule.read == Class::Mirror {
                mirrored += rule.end - rule.start;
            }
        }
    }
    assert!(mirrored as usize <= MIRROR_BYTES, "{mirrored} mirrored bytes");
}

fn every_register<C: Chip>(bench: &mut Bench<C>) {
    for (index, region) in bench.chip.description().regions.iter().enumerate() {
        let stride = (region.size / 4096).max(1);
        for at in 0..region.size.min(4096) {
            // Large regions: the first page whole, then samples to the very end.
            let offset =
                if region.size > 4096 && at >= 2048 { region.size - 1 - (4095 - at) * stride } else { at };
            for size in [1, 2, 4, 8] {
                let region = index as u8;
                bench.read(region, offset, size);
                bench.write(region, offset, size, 0x5aa5_5aa5_5aa5_5aa5);
                bench.read(region, offset, size);
                bench.write(region, offset, size, 0);
                bench.write(region, offset, size, u64::MAX);
            }
        }
    }
}

fn reset_is_idempotent<C: Chip>(new: &impl Fn() -> Bench<C>, setup: &Setup) {
    let mut bench = new();
    let mut random = Random::new(99);
    for round in 0..20 {
        for _ in 0..50 {
            let step = step(&bench.chip, setup, &mut random);
            run(&mut bench, &step);
        }
        bench.with(|chip, env| chip.reset(env));
        let once = (bytes_of(&bench.chip), bench.outputs());
        bench.with(|chip, env| chip.reset(env));
        assert_eq!(
            once,
            (bytes_of(&bench.chip), bench.outputs()),
            "round {round}: reset twice differs from once"
        );
    }
}

fn twins<C: Chip>(new: &impl Fn() -> Bench<C>, make: &impl Fn() -> C, setup: &Setup, seed: u64) {
    let (mut calm, mut troubled) = (new(), new());
    let mut random = Random::new(seed);
    let steps = if setup.steps == 0 { 2000 } else { setup.steps };
    for number in 0..steps {
        let step = step(&calm.chip, setup, &mut random);
        let at = || format!("seed {seed} step {number}: {step:?}");
        mirrored(&mut calm, &at);
        let before = calm.outputs();
        let seen = run(&mut calm, &step);
        lowering(&calm, setup, &step, &before.level, &at);
        assert_eq!(seen, run(&mut troubled, &step), "{}: the restarted twin answers differently", at());
        let state = bytes_of(&troubled.chip);
        let outputs = troubled.outputs();
        if let Err(error) = troubled.restart(make()) {
            panic!("{}: own state refused: {error}", at());
        }
        assert_eq!(state, bytes_of(&troubled.chip), "{}: save after restore differs", at());
        assert_eq!(outputs, troubled.outputs(), "{}: outputs after restore differ", at());
        assert_eq!(bytes_of(&calm.chip), bytes_of(&troubled.chip), "{}: states differ", at());
        assert_eq!(calm.outputs(), troubled.outputs(), "{}: outputs differ", at());
    }
    for (calm, troubled) in calm.hosts.iter().zip(&troubled.hosts) {
        let (mut left, mut right) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        assert_eq!(calm.receive(&mut left), troubled.receive(&mut right), "seed {seed}: bytes sent");
        assert_eq!(left, right, "seed {seed}: bytes sent");
    }
    let (mut left, mut right) = (vec![0u8; 1 << 20], vec![0u8; 1 << 20]);
    assert!(calm.ram.read(0, &mut left) && troubled.ram.read(0, &mut right));
    assert!(left == right, "seed {seed}: guest memory differs");
}

/// Mirrored registers: `peek` equals a read, and the read changes nothing.
fn mirrored<C: Chip>(bench: &mut Bench<C>, at: &impl Fn() -> String) {
    for (index, region) in bench.chip.description().regions.iter().enumerate() {
        for rule in region.rules.iter().filter(|rule| rule.read == Class::Mirror) {
            for offset in rule.start..rule.end {
                let before = bytes_of(&bench.chip);
                let peek = bench.chip.peek(index as u8, offset);
                let read = bench.read(index as u8, u64::from(offset), 1);
                assert_eq!(u64::from(peek), read, "before {}: mirror of {index}:{offset:#x}", at());
                assert_eq!(
                    before,
                    bytes_of(&bench.chip),
                    "before {}: {index}:{offset:#x} has a read effect",
                    at()
                );
            }
        }
    }
}

/// A write that the CPU does not wait for must not lower a line.
fn lowering<C: Chip>(
    bench: &Bench<C>,
    setup: &Setup,
    step: &Step,
    before: &[bool; LINES],
    at: &impl Fn() -> String,
) {
    let Step::Write(reg, _) = step else { return };
    let Ok(offset) = u32::try_from(reg.offset) else { return };
    let regions = bench.chip.description().regions;
    let rules = regions.get(usize::from(reg.region)).map_or(&[][..], |region| region.rules);
    let class = write_class(rules, offset, reg.size.into());
    if !matches!(class, Class::Posted | Class::Kick) || setup.may_lower.contains(&(reg.region, offset)) {
        return;
    }
    let after = bench.outputs().level;
    let lowered = before.iter().zip(after).any(|(before, after)| *before && !after);
    assert!(!lowered, "{}: a {class:?} write lowered a line", at());
}

/// A damaged state is refused or taken, and either way nothing panics afterwards.
fn damaged_state<C: Chip>(new: &impl Fn() -> Bench<C>, make: &impl Fn() -> C, setup: &Setup, seed: u64) {
    let mut random = Random::new(seed ^ 0xdead);
    let mut bench = new();
    for _ in 0..20 {
        let step = step(&bench.chip, setup, &mut random);
        run(&mut bench, &step);
    }
    let mut state = bench.chip.save();
    let bytes = bytemuck::bytes_of_mut(&mut state);
    let hits = if seed.is_multiple_of(2) { bytes.len() } else { 1 + random.below(4) as usize };
    for _ in 0..hits {
        let at = random.below(bytes.len() as u64) as usize;
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value(&mut random) as u8;
        }
    }
    let mut chip = make();
    if chip.restore(&state).is_ok() {
        let again = chip.save();
        assert_eq!(
            bytemuck::bytes_of(&state),
            bytemuck::bytes_of(&again),
            "seed {seed}: restore changed a state"
        );
        bench.chip = chip;
        bench.event();
        for _ in 0..200 {
            let step = step(&bench.chip, setup, &mut random);
            run(&mut bench, &step);
        }
    }
}
