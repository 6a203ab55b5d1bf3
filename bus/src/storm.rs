//! Storms: a chip driven by a stream of choices, beside a twin that is replaced after every single step.
//!
//! The choices come from a seed ([`Random`]) or from bytes ([`Script`]): the same bytes always give the same storm, so that a
//! file is a test case. Steps are register accesses of every width, blocks, time, resets, control requests, what back ends do
//! when they work and when they lie, and guest memory for bus masters.

use std::sync::atomic::Ordering;

use crate::bench::Bench;
use crate::chip::{Chip, Class, Control, LINES, Reg, Rule, Shows};
use crate::device::BLOCK_BYTES;
use crate::links::{BLOCK_DATA, BLOCK_SLOTS, BlockStatus, Medium};

/// Bytes of guest memory that bus masters are led to, and that are compared.
const RAM: usize = 1 << 18;

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
    /// (region, offset) of writes with [`Shows::Region`] that another region shows at once here and after some time on hardware, each
    /// explained at its rule in the chip.
    pub takes_time: &'static [(u8, u32)],
    /// The chip is a bus master: guest memory changes under it too.
    pub ram: bool,
    /// Transactions of each random run; 0 for the default (2,000).
    pub steps: usize,
}

/// Where the choices of a storm come from.
pub trait Source {
    /// The next 64 bits.
    fn draw(&mut self) -> u64;
    /// A number below `end` (0 when `end` is 0).
    fn below(&mut self, end: u64) -> u64;
    /// Whether there is nothing left to choose from.
    fn is_spent(&self) -> bool;
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

impl Source for Random {
    fn draw(&mut self) -> u64 {
        Random::draw(self)
    }

    fn below(&mut self, end: u64) -> u64 {
        Random::below(self, end)
    }

    fn is_spent(&self) -> bool {
        false
    }
}

/// Choices written down: each takes as few bytes as its range needs, zeros follow the end.
#[derive(Clone, Debug)]
pub struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    /// From bytes.
    pub fn new(bytes: &'a [u8]) -> Script<'a> {
        Script(bytes)
    }

    /// The next `count` bytes, zeros after the end.
    pub fn take(&mut self, count: usize) -> Vec<u8> {
        let (now, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        let mut bytes = now.to_vec();
        bytes.resize(count, 0);
        bytes
    }

    /// Everything that is left.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    fn number(&mut self, bytes: usize) -> u64 {
        let (now, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        now.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }
}

impl Source for Script<'_> {
    fn draw(&mut self) -> u64 {
        self.number(8)
    }

    fn below(&mut self, end: u64) -> u64 {
        let bits = 64 - end.saturating_sub(1).leading_zeros();
        self.number(bits.div_ceil(8) as usize).checked_rem(end).unwrap_or(0)
    }

    fn is_spent(&self) -> bool {
        self.0.is_empty()
    }
}

/// One step of a random run.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Read(Reg),
    Write(Reg, u64),
    ReadBlock(Reg, usize),
    WriteBlock(Reg, Vec<u8>),
    Advance(u64),
    Control(Control),
    HostSend(usize, Vec<u8>),
    HostReceive(usize, usize),
    HostBreak(usize),
    Serve(usize, u64),
    Medium(usize, Medium),
    /// The peer of a link writes a word of it: link number (drives after byte links), offset, value.
    Lie(usize, usize, u32),
    Ram(u64, Vec<u8>),
    Reset,
}

pub(crate) fn bytes_of<C: Chip>(chip: &C) -> Vec<u8> {
    let state = chip.save();
    bytemuck::bytes_of(&state).to_vec()
}

/// Values that find edges sooner than uniform ones.
pub(crate) fn value(random: &mut impl Source) -> u64 {
    match random.below(6) {
        0 => 0,
        1 => u64::MAX,
        2 => 1 << random.below(64),
        3 => random.below(16),
        4 => random.below(256),
        _ => random.draw(),
    }
}

fn reg<C: Chip>(chip: &C, random: &mut impl Source) -> Reg {
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

fn control(random: &mut impl Source) -> Control {
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

pub(crate) fn step<C: Chip>(chip: &C, setup: &Setup, random: &mut impl Source) -> Step {
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
        95..97 if setup.bytes > 0 => Step::HostBreak(link),
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
        98 if setup.bytes + setup.blocks > 0 => lie(setup, random),
        99 if setup.ram => ram(random),
        _ => Step::Advance(random.below(100_000)),
    }
}

/// A word of a link that the other end holds too.
fn lie(setup: &Setup, random: &mut impl Source) -> Step {
    let link = random.below((setup.bytes + setup.blocks) as u64) as usize;
    // Indices and flags of a byte stream; medium and slots of a drive.
    let (start, words) = match (link < setup.bytes, random.below(4)) {
        (true, _) => (0, 0x110 / 4),
        (false, 0) => (0, 0x30 / 4),
        (false, _) => (0x100, BLOCK_SLOTS as u64 * 16),
    };
    Step::Lie(link, start + random.below(words) as usize * 4, value(random) as u32)
}

/// Guest memory that a bus master may follow: small tables of addresses and lengths, mostly low.
fn ram(random: &mut impl Source) -> Step {
    let entries = 1 + random.below(4);
    let words = (0..entries * 2).flat_map(|word| {
        let value = if word % 2 == 0 { random.below(RAM as u64) } else { value(random) };
        (value as u32).to_le_bytes()
    });
    let bytes = words.collect();
    Step::Ram(random.below(1 << 14) * 4, bytes)
}

/// Runs one step and returns everything that is observable about it.
pub(crate) fn run<C: Chip>(bench: &mut Bench<C>, step: &Step) -> Vec<u8> {
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
        Step::Serve(drive, seed) => seen.extend(serve(bench, *drive, *seed)),
        Step::Medium(drive, medium) => {
            bench.servers.get(*drive).iter().for_each(|server| server.set_medium(*medium));
        }
        Step::Lie(link, offset, value) => {
            if let Some(link) = bench.links.get(*link) {
                link.word(*offset).store(*value, Ordering::SeqCst);
            }
        }
        Step::Ram(at, bytes) => {
            let _ = bench.ram.write(*at, bytes);
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

/// Runs a storm of at most `steps` steps on a chip and, beside it, on one that is replaced after every step: nothing may tell
/// them apart. `name` says in a failure which storm it was.
///
/// # Panics
/// When the chip fails.
pub fn storm<C: Chip>(
    make: &impl Fn() -> C,
    setup: &Setup,
    source: &mut impl Source,
    steps: usize,
    name: &str,
) {
    let new = || Bench::new(make(), setup.bytes, setup.blocks, setup.bulk);
    let (mut calm, mut troubled) = (new(), new());
    for number in 0..steps {
        if source.is_spent() {
            break;
        }
        let step = step(&calm.chip, setup, source);
        let at = || format!("{name} step {number}: {step:?}");
        mirrored(&mut calm, &at);
        let before = calm.outputs();
        let shown = shown(&calm.chip);
        let seen = run(&mut calm, &step);
        posted(&calm, setup, &step, (&before.level, &shown), &at);
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
        assert_eq!(calm.receive(&mut left), troubled.receive(&mut right), "{name}: bytes sent");
        assert_eq!(left, right, "{name}: bytes sent");
    }
    if setup.ram {
        let (mut left, mut right) = (vec![0u8; RAM], vec![0u8; RAM]);
        assert!(calm.ram.read(0, &mut left) && troubled.ram.read(0, &mut right));
        assert!(left == right, "{name}: guest memory differs");
    }
    let (mut left, mut right) = ([0u8; 4096], [0u8; 4096]);
    for at in (0..setup.bulk).step_by(left.len()) {
        let len = left.len().min(setup.bulk - at);
        let whole = calm.bulk.read(at, left.get_mut(..len).unwrap_or_default())
            && troubled.bulk.read(at, right.get_mut(..len).unwrap_or_default());
        assert!(whole && left == right, "{name}: bulk memory differs at {at:#x}");
    }
}

/// Region, offset and rule of every mirrored register byte.
fn mirrored_bytes<C: Chip>(chip: &C) -> impl Iterator<Item = (u8, u32, Rule)> + use<C> {
    (0u8..).zip(chip.description().regions).flat_map(|(region, described)| {
        let rules = described.rules.iter().filter(|rule| matches!(rule.read, Class::Mirror | Class::Calm));
        rules.flat_map(move |rule| (rule.start..rule.end).map(move |offset| (region, offset, *rule)))
    })
}

/// What a mirrored register shows: region, offset, value, and whether a calm one is calm.
type Shown = (u8, u32, u8, bool);

/// What all of them show.
fn shown<C: Chip>(chip: &C) -> Vec<Shown> {
    let one = |(region, offset, _)| (region, offset, chip.peek(region, offset), chip.is_calm(region, offset));
    mirrored_bytes(chip).map(one).collect()
}

/// Mirrored registers: `peek` equals a read, and the read changes nothing.
fn mirrored<C: Chip>(bench: &mut Bench<C>, at: &impl Fn() -> String) {
    for (region, offset, rule) in mirrored_bytes(&bench.chip) {
        if rule.read == Class::Calm && !bench.chip.is_calm(region, offset) {
            continue;
        }
        let before = bytes_of(&bench.chip);
        let peek = bench.chip.peek(region, offset);
        let read = bench.read(region, u64::from(offset), 1);
        assert_eq!(u64::from(peek), read, "before {}: mirror of {region}:{offset:#x}", at());
        assert_eq!(before, bytes_of(&bench.chip), "before {}: {region}:{offset:#x} has a read effect", at());
    }
}

/// A write that the CPU does not wait for lowers no line, and changes no mirrored register that is said not to show it.
fn posted<C: Chip>(
    bench: &Bench<C>,
    setup: &Setup,
    step: &Step,
    (level, mirror): (&[bool; LINES], &[Shown]),
    at: &impl Fn() -> String,
) {
    let Step::Write(reg, _) = step else { return };
    let Ok(offset) = u32::try_from(reg.offset) else { return };
    let regions = bench.chip.description().regions;
    let rules = regions.get(usize::from(reg.region)).map_or(&[][..], |region| region.rules);
    let rule = Rule::of_write(rules, offset, reg.size.into());
    let Some(Rule { write: class @ (Class::Posted | Class::Kick), shows, .. }) = rule else { return };
    if !setup.may_lower.contains(&(reg.region, offset)) {
        let after = bench.outputs().level;
        let lowered = level.iter().zip(after).any(|(before, after)| *before && !after);
        assert!(!lowered, "{}: a {class:?} write lowered a line", at());
    }
    let hidden = |region: u8| match shows {
        Shows::All => false,
        Shows::Region => region != reg.region && !setup.takes_time.contains(&(reg.region, offset)),
        Shows::Nothing => true,
    };
    for (before, after) in mirror.iter().zip(shown(&bench.chip)) {
        assert!(!hidden(before.0) || *before == after, "{}: shown at once: {before:?}, {after:?}", at());
    }
}
