//! The device file: the ring between the CPU process and one device, its state slots, and the CPU's end of it.
//!
//! Byte layout (all little-endian, the file is sealed at [`DEVICE_BYTES`]):
//!
//! | offset | what | written by |
//! |---|---|---|
//! | `0x004` | u32 ready (1 once jailed and serving), u32 regions | device |
//! | `0x040` | u32 tail: requests ever submitted, u32 sent: the same, written before the request instead of behind it | CPU |
//! | `0x080` | u32 head: requests ever completed, `0x088` u64 response to the last of them; copies of what is committed | device |
//! | `0x0c0` | u64 attempts: index of the request under way in the high half, how often it was begun in the low one, whose top bit says that the present process has begun it | device, broker |
//! | `0x100` | u64 host's monotonic nanoseconds when ready was set | device |
//! | `0x110` | 16 bytes each, see [`crate::attempts::Note`] | device, broker |
//! | `0x150` | u32 number of the broker's question whether the device lives, u32 number of its answer | broker, device |
//! | `0x160` | u64 guest time, while the CPU process counts it ([`crate::clock`]) | CPU |
//! | `0x168` | u64 guest time at which the device has something to do, 0 for never | device |
//! | `0x180` | u64 generation: the active state slot is its lowest bit | device |
//! | `0x200` | per region 256 bytes: u64 size, u32 rules, then 16 bytes a rule: start, end, read class, write class with what shows it in bits 8 to 15 | device |
//! | `0xa00` | output lines, see [`crate::irq`] | device |
//! | `0x1000` | ring: 1024 entries of 16 bytes, see [`Request`] | CPU |
//! | `0x8000` | two state slots of 4 KiB: header 256 bytes (see [`slot`]), then the chip's state | device |
//! | `0xa000` | block data, 16 KiB: one `rep ins`/`rep outs` at a time | both |
//! | `0xe000` | mirror: u32 requests drained; from `0xe010` a u32 per calm register (value, bit 8 while it is calm), from `0xe100` a byte per mirrored register byte, both in order of the rules | device |
//! | `0x10000` | control mailbox, [`crate::control`] | both |
//!
//! A response, the new state and the consumer index become visible by one exchange of the generation; the head word follows.
//!
//! What a waiter looks at lies in one cache line with what it wants then: a request is complete when its stamp is there, and the
//! response is beside the head. Two processors that are far apart need some 110 ns to hand a line over, and a synchronous read is
//! four of those: its two lines, there and back.
//! The CPU reads everything here as claims: indices are masked, lengths clamped.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::bell::{Bell, SPIN_NS};
use crate::chip::{Class, Rule, Shows};
use crate::irq::{self, Line};
use crate::placement::Placement;
use crate::sys::{self, Mapping};
use crate::trace::{Id, Tracer, access, events, place};

/// Bytes of a device file.
pub const DEVICE_BYTES: usize = 0x20000;
/// Offset of the ready word: 1, and a futex wake, once the device is jailed and serves.
pub const READY: usize = 0x004;
pub(crate) const REGIONS: usize = 0x008;
/// Offset of the index behind the newest request.
pub const TAIL: usize = 0x040;
/// Offset of the index behind the request that the CPU submits now, or has submitted last.
pub const SENT: usize = 0x044;
pub(crate) const HEAD: usize = 0x080;
pub(crate) const RESPONSE: usize = 0x088;
/// Outside the commit: a request that kills the device leaves its mark here.
pub(crate) const ATTEMPTS: usize = 0x0c0;
/// Bit of it: begun by the process that serves, or was the last to.
pub(crate) const BEGUN: u64 = 1 << 31;
pub(crate) const READY_AT: usize = 0x100;
pub(crate) const ASIDE: usize = 0x110;
pub(crate) const PING: usize = 0x150;
pub(crate) const PONG: usize = 0x154;
pub(crate) const NOW: usize = 0x160;
pub(crate) const DEADLINE: usize = 0x168;
/// Deaths that one request may cause; after that many it is answered with ones and skipped.
pub const DEATHS_MAX: u32 = 3;
pub(crate) const GENERATION: usize = 0x180;
/// Offset of the regions that the device describes; its words and counters lie before.
pub const REGION_TABLE: usize = 0x200;
pub(crate) const REGION_BYTES: usize = 0x100;
pub(crate) const LINES_AT: usize = 0xa00;
/// Offset of the requests.
pub const RING: usize = 0x1000;
pub(crate) const MIRROR: usize = 0xe000;
/// Registers that are mirrored while a read has no effect, see [`Class::Calm`].
pub(crate) const CALM: usize = 0xe010;
/// Most of them.
pub const CALM_MAX: usize = 60;
/// Bit of such a register's word while a read has no effect.
pub(crate) const CALM_NOW: u32 = 0x100;
pub(crate) const MIRROR_DATA: usize = 0xe100;
/// Most mirrored register bytes of a device.
pub const MIRROR_BYTES: usize = 0xf00;
/// Offset of the two slots of committed state.
pub const SLOTS: usize = 0x8000;
/// Bytes of one of them.
pub const SLOT_BYTES: usize = 0x1000;
/// Offset of the block data.
pub const BLOCK: usize = 0xa000;
/// Bytes of one block transaction at most.
pub const BLOCK_BYTES: usize = 0x4000;
/// Offset of the control mailbox.
pub const CONTROL: usize = 0x10000;
/// Entries of the ring.
pub const RING_ENTRIES: u32 = 1024;
/// Most regions.
pub const REGIONS_MAX: usize = 8;
/// Most class rules of a region.
pub const RULES_MAX: usize = 15;
/// Longest sleep of the CPU before it looks for its answer again: every device can take the CPU's sleep flag, and one that was taken
/// over does so without waking it.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Posted writes after which the bell rings anyway.
const BELL_AFTER: u32 = 64;

/// Fields of a state slot's header.
pub mod slot {
    /// u32 version of the chip's state.
    pub const VERSION: usize = 0x00;
    /// u32 bytes of the chip's state.
    pub const LENGTH: usize = 0x04;
    /// u32 requests consumed.
    pub const CONSUMED: usize = 0x08;
    /// u32 control requests answered.
    pub const ANSWERED: usize = 0x0c;
    /// u64 response to the last request consumed.
    pub const RESPONSE: usize = 0x10;
    /// u32 for each output line: pulses sent when a state was lost, from which the chip's own count goes on.
    pub const PULSES: usize = 0x20;
    /// Chip's state.
    pub const STATE: usize = 0x100;
}

/// Kinds of ring entries.
pub mod kind {
    /// Register read; the response is the value.
    pub const READ: u8 = 1;
    /// Posted register write.
    pub const WRITE: u8 = 2;
    /// Register write that is answered.
    pub const WRITE_SYNC: u8 = 3;
    /// Consecutive reads into the block data; value = bytes.
    pub const READ_BLOCK: u8 = 4;
    /// Consecutive writes from the block data; value = bytes.
    pub const WRITE_BLOCK: u8 = 5;
    /// Reset of the chip.
    pub const RESET: u8 = 6;
    /// Runs the timer that is due, while the CPU process counts the time.
    pub const TIMER: u8 = 7;
}

/// Byte 3 of the ring entry of request `index`: the number of times that the ring has been begun, this one included. An entry with another
/// stamp is that of the request one ring before, or none.
pub fn stamp(index: u32) -> u8 {
    (index / RING_ENTRIES).wrapping_add(1) as u8
}

/// One ring entry: `0` kind, `1` log2 of the size, `2` region, `3` its [`stamp`], `4..8` offset, `8..16` value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// See [`kind`].
    pub kind: u8,
    /// Log2 of the access size.
    pub size: u8,
    /// Region number.
    pub region: u8,
    /// Offset in the region.
    pub offset: u32,
    /// Value or byte count.
    pub value: u64,
}

/// The request with which whoever comes after `consumed` requests goes on. That is the next one, unless a device that was taken over has
/// left an index that the ring cannot get to, or wiped out the request: the CPU would wait for it for ever. Then it is the one that
/// the CPU submits next, and those that wait count as completed.
pub(crate) fn resume_at(map: &Mapping, consumed: u32) -> u32 {
    let tail = map.word(TAIL).load(Ordering::SeqCst);
    match tail.wrapping_sub(consumed) {
        0 => consumed,
        // The newest one was done before it was counted.
        u32::MAX if map.word(SENT).load(Ordering::SeqCst) == consumed => consumed,
        1..=RING_ENTRIES if Request::load(map, consumed).is_some() => consumed,
        _ => tail,
    }
}

impl Request {
    /// What the CPU is told when nobody can serve this request: all ones, and of a block nothing.
    pub(crate) fn unanswered(&self) -> u64 {
        if self.kind == kind::READ_BLOCK { 0 } else { u64::MAX }
    }

    /// The numbers of a trace record of it.
    pub(crate) fn traced(&self, index: u32) -> [u64; 4] {
        [index.into(), place(self.kind, self.region, self.offset, self.size), self.value, 0]
    }

    /// Makes it the request `index`, in one exchange: a sleep flag may be read after it.
    pub(crate) fn publish(&self, map: &Mapping, index: u32) {
        let at = RING + (index % RING_ENTRIES) as usize * 16;
        let head = u64::from(self.kind)
            | u64::from(self.size) << 8
            | u64::from(self.region) << 16
            | u64::from(stamp(index)) << 24
            | u64::from(self.offset) << 32;
        map.dword(at + 8).store(self.value, Ordering::Relaxed);
        map.dword(at).swap(head, Ordering::SeqCst);
    }

    /// The request `index`, once it is there.
    pub(crate) fn load(map: &Mapping, index: u32) -> Option<Request> {
        let at = RING + (index % RING_ENTRIES) as usize * 16;
        let head = map.dword(at).load(Ordering::SeqCst);
        ((head >> 24) as u8 == stamp(index)).then(|| Request {
            kind: head as u8,
            size: (head >> 8) as u8 & 3,
            region: (head >> 16) as u8,
            offset: (head >> 32) as u32,
            value: map.dword(at + 8).load(Ordering::Relaxed),
        })
    }

    /// The request `index`, once it is there and the CPU says that it has sent it: in the ring of a device that was taken over
    /// can be entries that the CPU has not made yet.
    pub(crate) fn load_sent(map: &Mapping, index: u32) -> Option<Request> {
        let request = Request::load(map, index)?;
        let ahead = map.word(SENT).load(Ordering::SeqCst).wrapping_sub(index);
        (1..=RING_ENTRIES).contains(&ahead).then_some(request)
    }
}

/// Why an access through a port got no answer in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

/// The CPU's end of a device file.
#[derive(Debug)]
pub struct DevicePort {
    map: Arc<Mapping>,
    bell: Arc<Bell>,
    own: Arc<crate::irq::IrqPage>,
    tail: u32,
    belled: u32,
    /// For each region the index behind the newest request that its mirrored registers show.
    shown: [u32; REGIONS_MAX],
    rules: Vec<Vec<Rule>>,
    sizes: Vec<u64>,
    tracer: Tracer,
    placement: Placement,
    meanwhile: Option<fn()>,
    in_step: bool,
}

/// What a thread that does not hold the port may look at.
#[derive(Clone, Debug)]
pub struct PortView {
    map: Arc<Mapping>,
    bell: Arc<Bell>,
    tracer: Tracer,
}

impl PortView {
    /// An output line of the device.
    pub fn line(&self, line: usize) -> Line {
        irq::line(&self.map, line)
    }

    /// When the device has something to do, if its time is counted.
    pub fn deadline(&self) -> Option<u64> {
        let at = self.map.dword(DEADLINE).load(Ordering::Acquire);
        (at != 0).then_some(at)
    }

    /// Whether the device is awake and last ran where the caller runs: it cannot work before the caller sleeps.
    pub fn waits_for_processor(&self) -> bool {
        self.bell.waits_here()
    }

    /// What accesses of the device are recorded with.
    pub fn tracer(&self) -> &Tracer {
        &self.tracer
    }
}

impl DevicePort {
    /// Over a ready device's file, its bell, and the page whose bell the device rings for its answers (the vCPU's).
    pub fn new(map: Mapping, bell: Bell, own: Arc<crate::irq::IrqPage>) -> DevicePort {
        let tail = map.word(TAIL).load(Ordering::SeqCst);
        let mut port = DevicePort {
            map: Arc::new(map),
            bell: Arc::new(bell),
            own,
            tail,
            belled: tail,
            shown: [tail; REGIONS_MAX],
            rules: Vec::new(),
            sizes: Vec::new(),
            tracer: Tracer::off(),
            placement: Placement::default(),
            meanwhile: None,
            in_step: false,
        };
        let regions = (port.map.word(REGIONS).load(Ordering::Acquire) as usize).min(REGIONS_MAX);
        for region in 0..regions {
            let at = REGION_TABLE + region * REGION_BYTES;
            port.sizes.push(port.map.dword(at).load(Ordering::Relaxed));
            let count = (port.map.word(at + 8).load(Ordering::Relaxed) as usize).min(RULES_MAX);
            let word = |offset| port.map.word(offset).load(Ordering::Relaxed);
            let rules = (0..count).map(|rule| {
                let at = at + 16 + rule * 16;
                Rule {
                    start: word(at),
                    end: word(at + 4),
                    read: class(word(at + 8)),
                    write: class(word(at + 12) & 0xff),
                    shows: shows(word(at + 12) >> 8),
                }
            });
            port.rules.push(rules.collect());
        }
        port
    }

    /// Records its accesses with `tracer`, which is that of the device.
    #[must_use]
    pub fn traced(self, tracer: Tracer) -> DevicePort {
        DevicePort { tracer, ..self }
    }

    /// With something to do whenever a wait for the device is disturbed: the bell of the one who waits rings for other things as well.
    #[must_use]
    pub fn with_meanwhile(self, meanwhile: fn()) -> DevicePort {
        DevicePort { meanwhile: Some(meanwhile), ..self }
    }

    /// The caller counts the time and waits for every write, so that what the device does follows from what the guest does.
    #[must_use]
    pub fn in_step(self) -> DevicePort {
        DevicePort { in_step: true, ..self }
    }

    /// Says what time it is, to a device whose time is counted.
    pub fn set_now(&mut self, now: u64) {
        self.map.dword(NOW).store(now, Ordering::Release);
    }

    /// Lets a device whose time is counted do what is due.
    pub fn tick(&mut self) {
        let index = self.push(Request { kind: kind::TIMER, ..Request::default() });
        self.complete(index);
    }

    /// For threads that do not hold the port.
    pub fn view(&self) -> PortView {
        PortView { map: self.map.clone(), bell: self.bell.clone(), tracer: self.tracer.clone() }
    }

    /// What its accesses are recorded with.
    pub fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// Declared size of a region, 0 when there is none.
    pub fn region_size(&self, region: u8) -> u64 {
        self.sizes.get(usize::from(region)).copied().unwrap_or(0)
    }

    fn rules(&self, region: u8) -> &[Rule] {
        self.rules.get(usize::from(region)).map_or(&[], Vec::as_slice)
    }

    fn head(&self) -> u32 {
        self.map.word(HEAD).load(Ordering::Acquire)
    }

    /// Queues a request that any mirrored register may show; its index. Waits for room while the ring is full.
    fn push(&mut self, request: Request) -> u32 {
        self.push_shown(request, Shows::All)
    }

    fn push_shown(&mut self, request: Request, shows: Shows) -> u32 {
        let index = self.tail;
        if index.wrapping_sub(self.head()) >= RING_ENTRIES {
            self.bell.ring();
            self.wait(index.wrapping_sub(RING_ENTRIES - 1));
        }
        self.tail = index.wrapping_add(1);
        match (shows, self.shown.get_mut(usize::from(request.region))) {
            (Shows::Nothing, _) => {}
            (Shows::Region, Some(shown)) => *shown = self.tail,
            _ => self.shown = [self.tail; REGIONS_MAX],
        }
        // Before the request: whoever sees that sees this too, so that no wake is owed to it. Same cache line as the tail, which costs no more.
        self.map.word(SENT).store(self.tail, Ordering::Release);
        request.publish(&self.map, index);
        // Behind the request, so that one which is counted and not there is known to have been wiped out, see `resume_at`.
        self.map.word(TAIL).store(self.tail, Ordering::Release);
        index
    }

    /// Rings for the request at `index` and waits until it has completed.
    fn complete(&mut self, index: u32) {
        self.ring();
        self.wait(index.wrapping_add(1));
    }

    /// Waits until `count` requests have completed, and counts the time. The clock is read while the device works: its bell has rung.
    fn wait(&self, count: u32) {
        let start = sys::monotonic_ns();
        if self.look_and_sleep(count, start) {
            self.tracer.has_waited();
        }
        self.tracer.count_access(access::WAITED, sys::monotonic_ns().saturating_sub(start));
    }

    /// Whether it took so long that the broker was told.
    fn look_and_sleep(&self, count: u32, start: u64) -> bool {
        let done = || (self.head().wrapping_sub(count) as i32) >= 0;
        let mut told = false;
        if done() {
            return told;
        }
        let own = self.own.cpu_bell();
        own.publish_cpu();
        loop {
            match self.bell.is_elsewhere() {
                true => self.placement.apart(),
                false => self.placement.met(),
            }
            let mut spins = 0u32;
            while self.bell.is_elsewhere() {
                for _ in 0..32 {
                    if done() {
                        return told;
                    }
                    sys::pause();
                }
                spins += 1;
                if spins.is_multiple_of(16) && sys::monotonic_ns().wrapping_sub(start) > SPIN_NS {
                    break;
                }
            }
            own.sleep(Some(LOOK_AGAIN), done);
            if done() {
                return told;
            }
            // By way of a memory that the device does not see: what its own file says of its work is the device's claim.
            self.tracer.waits(start);
            told = true;
            if let Some(meanwhile) = self.meanwhile {
                meanwhile();
            }
            // Nor can a device that was taken over hide for long that there are requests.
            self.map.word(SENT).store(self.tail, Ordering::Release);
            self.map.word(TAIL).store(self.tail, Ordering::Release);
            // A successor may not know that its predecessor was rung; and a back end that was taken over may have taken the
            // device's flag.
            self.bell.wake();
        }
    }

    /// Takes the wish of the calling vCPU to be moved away from this device.
    pub fn take_crowded(&self) -> bool {
        self.placement.take_crowded()
    }

    fn ring(&mut self) {
        self.belled = self.tail;
        self.bell.ring();
    }

    /// Whether posted writes wait for a bell.
    pub fn has_unbelled(&self) -> bool {
        self.belled != self.tail
    }

    /// Rings for posted writes that have not been belled yet (the vCPU's timer check).
    pub fn flush_posted(&mut self) {
        if self.belled != self.tail {
            self.ring();
        }
    }

    /// Register read of `1 << size` bytes.
    pub fn read(&mut self, region: u8, offset: u32, size: u8) -> u64 {
        if let Some(value) = self.mirrored(region, offset, size) {
            self.tracer.count_access(access::MIRROR, 1);
            self.tracer.begin(events::CPU_READ_MIRROR, || [place(0, region, offset, size), value, 0, 0]);
            return value;
        }
        self.tracer.count_access(access::READ, 1);
        self.begin(events::CPU_READ, region, offset, size, [0; 2]);
        let index = self.push(Request { kind: kind::READ, size, region, offset, value: 0 });
        self.complete(index);
        let mask = u64::MAX >> (64 - (8u32 << size.min(3)));
        let value = self.response() & mask;
        self.tracer.end(events::CPU_READ, || [index.into(), value, 0, 0]);
        value
    }

    /// Records the beginning of the access that is pushed next.
    #[inline]
    fn begin(&self, event: Id, region: u8, offset: u32, size: u8, more: [u64; 2]) {
        self.tracer.begin(event, || [self.tail.into(), place(0, region, offset, size), more[0], more[1]]);
    }

    /// The mirrored value of a register, valid only while everything is done that this end has sent and the register shows.
    fn mirrored(&self, region: u8, offset: u32, size: u8) -> Option<u64> {
        let bytes = 1usize << size.min(3);
        let place = mirror_place(&self.rules, region, offset, bytes)?;
        let shown = self.shown.get(usize::from(region))?;
        if (self.map.word(MIRROR).load(Ordering::Acquire).wrapping_sub(*shown) as i32) < 0 {
            return None;
        }
        match place {
            Place::Mirror(at) => {
                let mut value = [0u8; 8];
                let read = self.map.read(MIRROR_DATA + at, value.get_mut(..bytes)?);
                read.then(|| u64::from_le_bytes(value))
            }
            // Value and calm in one word: a new value never comes with an old calm.
            Place::Calm(at) => {
                let word = self.map.word(CALM + at * 4).load(Ordering::Acquire);
                (word & CALM_NOW != 0).then_some(u64::from(word & 0xff))
            }
        }
    }

    /// The response to the newest request, which has completed.
    fn response(&self) -> u64 {
        self.map.dword(RESPONSE).load(Ordering::Acquire)
    }

    /// Register write of `1 << size` bytes.
    pub fn write(&mut self, region: u8, offset: u32, size: u8, value: u64) {
        // A wide write that reaches into the next register has none: it is sync.
        let rule = Rule::of_write(self.rules(region), offset, 1 << size.min(3)).copied();
        let (class, shows) = rule.map_or((Class::Sync, Shows::All), |rule| (rule.write, rule.shows));
        let sync = self.in_step || !matches!(class, Class::Posted | Class::Kick);
        let kind = if sync { kind::WRITE_SYNC } else { kind::WRITE };
        self.tracer.count_access(
            match class {
                Class::Posted => access::POSTED,
                Class::Kick => access::KICK,
                Class::Sync | Class::Mirror | Class::Calm => access::WRITE,
            },
            1,
        );
        self.begin(events::CPU_WRITE, region, offset, size, [value, class as u64]);
        let shows = if sync { Shows::All } else { shows };
        let index = self.push_shown(Request { kind, size, region, offset, value }, shows);
        if sync {
            self.complete(index);
        } else if class == Class::Kick || self.tail.wrapping_sub(self.belled) >= BELL_AFTER {
            self.ring();
        }
        self.tracer.end(events::CPU_WRITE, || [index.into(), 0, 0, 0]);
    }

    /// `rep ins`: consecutive reads of `1 << size` bytes; what the device does not fill reads as ones.
    pub fn read_block(&mut self, region: u8, offset: u32, size: u8, data: &mut [u8]) {
        for part in data.chunks_mut(BLOCK_BYTES) {
            let request = Request { kind: kind::READ_BLOCK, size, region, offset, value: part.len() as u64 };
            self.tracer.count_access(access::BLOCK_IN, request.value);
            self.begin(events::CPU_READ_BLOCK, region, offset, size, [request.value, 0]);
            let index = self.push(request);
            self.complete(index);
            let filled = (self.response() as usize).min(part.len());
            self.tracer.end(events::CPU_READ_BLOCK, || [index.into(), filled as u64, 0, 0]);
            let (have, rest) = part.split_at_mut(filled);
            if !self.map.read(BLOCK, have) {
                have.fill(0xff);
            }
            rest.fill(0xff);
        }
    }

    /// `rep outs`.
    pub fn write_block(&mut self, region: u8, offset: u32, size: u8, data: &[u8]) {
        for part in data.chunks(BLOCK_BYTES) {
            let _ = self.map.write(BLOCK, part);
            let request = Request { kind: kind::WRITE_BLOCK, size, region, offset, value: part.len() as u64 };
            self.tracer.count_access(access::BLOCK_OUT, request.value);
            self.begin(events::CPU_WRITE_BLOCK, region, offset, size, [request.value, 0]);
            let index = self.push(request);
            self.complete(index);
            self.tracer.end(events::CPU_WRITE_BLOCK, || [index.into(), 0, 0, 0]);
        }
    }

    /// An output line of the device.
    pub fn line(&self, line: usize) -> Line {
        irq::line(&self.map, line)
    }

    /// Resets the chip and waits until it has.
    pub fn reset(&mut self) {
        self.tracer.begin(events::CPU_RESET, || [self.tail.into(), 0, 0, 0]);
        let index = self.push(Request { kind: kind::RESET, ..Request::default() });
        self.complete(index);
        self.tracer.end(events::CPU_RESET, || [index.into(), 0, 0, 0]);
    }
}

/// Where the device keeps what a mirrored register reads as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Index among the mirrored bytes.
    Mirror(usize),
    /// Index among the calm registers.
    Calm(usize),
}

/// Place of `bytes` register bytes at `offset`, when one mirrored rule holds them all.
fn mirror_place(rules: &[Vec<Rule>], region: u8, offset: u32, bytes: usize) -> Option<Place> {
    let (mut mirrored, mut calm) = (0usize, 0usize);
    for (at, rules) in rules.iter().enumerate() {
        for rule in rules {
            let inside = at == usize::from(region) && rule.start <= offset && offset < rule.end;
            let (first, most) = match rule.read {
                Class::Mirror => (&mut mirrored, MIRROR_BYTES),
                Class::Calm => (&mut calm, CALM_MAX),
                _ if inside => return None,
                _ => continue,
            };
            if inside {
                let start = first.checked_add((offset - rule.start) as usize)?;
                let fits = (rule.end - offset) as usize >= bytes && start.checked_add(bytes)? <= most;
                return match rule.read {
                    Class::Calm => (fits && bytes == 1).then_some(Place::Calm(start)),
                    _ => fits.then_some(Place::Mirror(start)),
                };
            }
            *first = first.checked_add(rule.end.saturating_sub(rule.start) as usize)?;
        }
    }
    None
}

/// A class as a device writes it down.
fn class(code: u32) -> Class {
    match code {
        1 => Class::Posted,
        2 => Class::Kick,
        3 => Class::Mirror,
        4 => Class::Calm,
        _ => Class::Sync,
    }
}

fn shows(code: u32) -> Shows {
    match code {
        1 => Shows::Region,
        2 => Shows::Nothing,
        _ => Shows::All,
    }
}
