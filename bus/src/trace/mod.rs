//! Tracing: a ring of records and a page of counters for each process, owned by the broker.
//!
//! A process maps its own trace file and no other's: one that is taken over garbles its own records only. Layout:
//!
//! | offset | what | written by |
//! |---|---|---|
//! | `0x000` | u64 switches of the process's own events, a bit each by index in [`EVENTS`] | broker |
//! | `0x040` | u64 mark: twice the records ever written, plus 1 while one is being written | process |
//! | `0x080` | u64 records ever taken out | broker |
//! | `0x0c0` | u64 records lost because the ring was full | process |
//! | `0x100` | u64 × 16 counters, see [`counter`] | process |
//! | `0x1000` | CPU process only: per device u64 × 8 counters, see [`access`] | process |
//! | `0x2000` | CPU process only: per device u64 switches of its [`Scope::CpuForDevice`] events | broker |
//! | `0x2800` | CPU process only: per device u64 since when a vCPU waits for it and u64 when it last looked in vain, 0 while none does or not for long | process |
//! | `0x3000` | ring: [`RECORDS`] records of [`RECORD_BYTES`] | process |
//!
//! A record: u64 host's monotonic nanoseconds, u16 event, u8 1 for an end, u8 device (255: none), u32 vCPU that made it (0 in other
//! processes than the CPU's), u64 × [`ARGS`].
//!
//! What is off costs one relaxed load and a branch. A record is written before the mark moves past it, so a process that dies
//! leaves whole records only, and its successor goes on behind them. The mark is odd from before the clock is read: a reader
//! that finds it even knows that no record older than its own look is still to come, so the records of all processes can
//! be put in order ([`Reader::take`]).
//!
//! The broker believes nothing of it: the mark is clamped to one ring, times to the past and to their order, events to the
//! table.

pub mod events;

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub use events::{ARGS, Crossing, EVENTS, Event, Id, Line, Scope, Show, place};

use crate::sys::{self, Mapping, Words};

/// Records that a ring holds.
pub const RECORDS: u64 = 16384;
/// Bytes of a record.
pub const RECORD_BYTES: usize = 16 + ARGS * 8;
/// Bytes of a trace file.
pub const TRACE_BYTES: usize = (RING + RECORDS as usize * RECORD_BYTES).next_multiple_of(4096);
/// Devices that the CPU process counts apart.
pub const DEVICES: usize = 64;

const SWITCHES: usize = 0x000;
const MARK: usize = 0x040;
const TAKEN: usize = 0x080;
const LOST: usize = 0x0c0;
const COUNTERS: usize = 0x100;
const DEVICE_COUNTERS: usize = 0x1000;
const DEVICE_SWITCHES: usize = 0x2000;
const DEVICE_WAITS: usize = 0x2800;
const RING: usize = 0x3000;

/// Counters of a process.
pub mod counter {
    /// Number of counters.
    pub const COUNT: usize = 16;
    /// Requests of the CPU served.
    pub const REQUESTS: usize = 0;
    /// Accesses that the chip refused or nothing decodes.
    pub const REJECTED: usize = 1;
    /// Edges and pulses sent on output lines.
    pub const INTERRUPTS: usize = 2;
    /// Bytes read from guest memory.
    pub const DMA_READ: usize = 3;
    /// Bytes written to guest memory.
    pub const DMA_WRITE: usize = 4;
    /// Deadlines served.
    pub const TIMERS: usize = 5;
    /// Block requests: sent by a device, run by a back end.
    pub const BLOCKS: usize = 6;
    /// Bytes of a byte link towards the host, of a drive written.
    pub const OUT: usize = 7;
    /// Bytes of a byte link towards the guest, of a drive read.
    pub const IN: usize = 8;
    /// Block requests that failed.
    pub const FAILED: usize = 9;
}

/// Counters of one device in the CPU process: its accesses by class.
pub mod access {
    /// Number of counters.
    pub const COUNT: usize = 8;
    /// Reads that waited for the device.
    pub const READ: usize = 0;
    /// Reads from the mirror.
    pub const MIRROR: usize = 1;
    /// Writes that waited for the device.
    pub const WRITE: usize = 2;
    /// Posted writes.
    pub const POSTED: usize = 3;
    /// Posted writes with a bell.
    pub const KICK: usize = 4;
    /// Bytes of `rep ins`.
    pub const BLOCK_IN: usize = 5;
    /// Bytes of `rep outs`.
    pub const BLOCK_OUT: usize = 6;
    /// Nanoseconds that the vCPU waited for the device: from the bell to the answer, and for room in the ring.
    pub const WAITED: usize = 7;
}

thread_local! {
    static CPU: Cell<u32> = const { Cell::new(0) };
}

/// CPU process: what this thread records from now on is of vCPU `number`. A thread that does not say so is the first one's.
pub fn run_cpu(number: u32) {
    CPU.set(number);
}

#[derive(Debug)]
struct Ring {
    map: Arc<Mapping>,
    /// Records ever written. The lock makes one writer of a process's threads.
    written: Mutex<u64>,
}

impl Ring {
    fn push(&self, event: Id, end: bool, device: u8, args: [u64; ARGS]) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = self.map.dword(LOST);
        if written.wrapping_sub(self.map.dword(TAKEN).load(Ordering::Acquire)) >= RECORDS {
            lost.store(lost.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
            return;
        }
        let mark = self.map.dword(MARK);
        mark.swap(written.wrapping_mul(2) | 1, Ordering::SeqCst);
        let at = RING + (*written % RECORDS) as usize * RECORD_BYTES;
        let head = event as u64 | u64::from(end) << 16 | u64::from(device) << 24 | u64::from(CPU.get()) << 32;
        self.map.dword(at).store(sys::monotonic_ns(), Ordering::Relaxed);
        self.map.dword(at + 8).store(head, Ordering::Relaxed);
        for (number, arg) in args.into_iter().enumerate() {
            self.map.dword(at + 16 + number * 8).store(arg, Ordering::Relaxed);
        }
        *written = written.wrapping_add(1);
        mark.store(written.wrapping_mul(2), Ordering::Release);
    }
}

/// What a process records with: its switches, its counters, its ring. Cheap to copy.
#[derive(Clone, Debug)]
pub struct Tracer {
    switches: Words<1>,
    counters: Words<{ counter::COUNT }>,
    accesses: Words<{ access::COUNT }>,
    waits: Words<2>,
    device: u8,
    ring: Option<Arc<Ring>>,
}

static NO_SWITCHES: [AtomicU64; 1] = [const { AtomicU64::new(0) }; 1];
static NO_COUNTERS: [AtomicU64; counter::COUNT] = [const { AtomicU64::new(0) }; counter::COUNT];
static NO_ACCESSES: [AtomicU64; access::COUNT] = [const { AtomicU64::new(0) }; access::COUNT];
static NO_WAITS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

#[inline]
fn add(counter: &AtomicU64, count: u64) {
    // One writer: no read-modify-write of the bus needed.
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

impl Tracer {
    /// One that records nothing, for processes without a trace file and for tests.
    pub const fn off() -> Tracer {
        Tracer {
            switches: Words::fixed(&NO_SWITCHES),
            counters: Words::fixed(&NO_COUNTERS),
            accesses: Words::fixed(&NO_ACCESSES),
            waits: Words::fixed(&NO_WAITS),
            device: u8::MAX,
            ring: None,
        }
    }

    /// Over this process's trace file of [`TRACE_BYTES`], going on behind what a predecessor has written.
    pub fn new(map: Mapping) -> Tracer {
        let tracer = Tracer::waiting(map);
        tracer.resume();
        tracer
    }

    /// Over the same file while a predecessor may still write it: nothing may be recorded before [`Tracer::resume`].
    pub fn waiting(map: Mapping) -> Tracer {
        let map = Arc::new(map);
        Tracer {
            switches: Words::of(&map, SWITCHES),
            counters: Words::of(&map, COUNTERS),
            accesses: Words::fixed(&NO_ACCESSES),
            waits: Words::fixed(&NO_WAITS),
            device: u8::MAX,
            ring: Some(Arc::new(Ring { map, written: Mutex::new(0) })),
        }
    }

    /// Goes on behind what a predecessor, which is dead now, has written.
    pub fn resume(&self) {
        let Some(ring) = &self.ring else { return };
        let mut written = ring.written.lock().unwrap_or_else(PoisonError::into_inner);
        let mark = ring.map.dword(MARK);
        *written = mark.load(Ordering::SeqCst) / 2;
        mark.store(written.wrapping_mul(2), Ordering::SeqCst);
    }

    /// CPU process: the same ring with the switches and counters of one device.
    #[must_use]
    pub fn for_device(&self, device: usize) -> Tracer {
        match &self.ring {
            Some(ring) if device < DEVICES => Tracer {
                switches: Words::of(&ring.map, DEVICE_SWITCHES + device * 8),
                accesses: Words::of(&ring.map, DEVICE_COUNTERS + device * access::COUNT * 8),
                waits: Words::of(&ring.map, DEVICE_WAITS + device * 16),
                device: device as u8,
                ..self.clone()
            },
            _ => Tracer::off(),
        }
    }

    /// Whether an event is on: a relaxed load.
    #[inline]
    pub fn is_on(&self, event: Id) -> bool {
        self.switches[0].load(Ordering::Relaxed) >> event & 1 != 0
    }

    /// Records an event, or the beginning of one that lasts, if it is on.
    #[inline]
    pub fn begin(&self, event: Id, args: impl FnOnce() -> [u64; ARGS]) {
        if self.is_on(event) {
            self.push(event, false, args());
        }
    }

    /// Records the end of an event.
    #[inline]
    pub fn end(&self, event: Id, args: impl FnOnce() -> [u64; ARGS]) {
        if self.is_on(event) {
            self.push(event, true, args());
        }
    }

    #[cold]
    #[inline(never)]
    fn push(&self, event: Id, end: bool, args: [u64; ARGS]) {
        if let Some(ring) = &self.ring {
            ring.push(event, end, self.device, args);
        }
    }

    /// Adds to a counter of the process, see [`counter`]. One thread a counter.
    #[inline]
    pub fn count(&self, counter: usize, count: u64) {
        if let Some(word) = self.counters.get(counter) {
            add(word, count);
        }
    }

    /// CPU process: adds to a counter of the device, see [`access`].
    #[inline]
    pub fn count_access(&self, counter: usize, count: u64) {
        if let Some(word) = self.accesses.get(counter) {
            add(word, count);
        }
    }

    /// CPU process: tells the broker of a wait for the device that began at `since`, in monotonic nanoseconds, and is not over now.
    pub fn waits(&self, since: u64) {
        self.waits[0].store(since, Ordering::Relaxed);
        self.waits[1].store(sys::monotonic_ns(), Ordering::Relaxed);
    }

    /// CPU process: it is over.
    pub fn has_waited(&self) {
        self.waits.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }
}

/// A record as the broker has taken it out: whole, in its process's order, and in the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Host's monotonic nanoseconds; later than those of the record before.
    pub time: u64,
    /// Index in [`EVENTS`].
    pub event: Id,
    /// End of an event that lasts.
    pub end: bool,
    /// Device of a [`Scope::CpuForDevice`] event.
    pub device: u8,
    /// vCPU that made it, as the CPU process claims.
    pub cpu: u32,
    /// Numbers.
    pub args: [u64; ARGS],
}

/// What [`Reader::take`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Records that were lost behind the ones taken.
    pub lost: u64,
    /// Nothing from before this time is still to come, in monotonic nanoseconds.
    pub until: u64,
}

/// The broker's end of one process's ring.
#[derive(Debug)]
pub struct Reader {
    map: Arc<Mapping>,
    taken: u64,
    lost: u64,
    last: u64,
}

impl Reader {
    /// Over the mapped trace file. One reader a file.
    pub fn new(map: Arc<Mapping>) -> Reader {
        let taken = map.dword(TAKEN).load(Ordering::SeqCst);
        Reader { map, taken, lost: 0, last: 0 }
    }

    /// Takes out what has been recorded, at most one ring.
    pub fn take(&mut self, to: impl FnMut(Record)) -> Taken {
        self.take_by(sys::monotonic_ns, to)
    }

    fn take_by(&mut self, mut clock: impl FnMut() -> u64, mut to: impl FnMut(Record)) -> Taken {
        let until = clock();
        sys::fence_clock();
        let mark = self.map.dword(MARK).load(Ordering::SeqCst);
        // The records up to the mark are older than this, and may be newer than `until`.
        let now = clock();
        let (busy, written) = (mark & 1 != 0, mark / 2);
        let mut lost = 0u64;
        // Modulo 2^63, as the mark counts.
        let waiting = written.wrapping_sub(self.taken) & (u64::MAX >> 1);
        if waiting > RECORDS {
            // No process of ours writes that: the ring is garbled, and whatever is in it is lost.
            lost = 1;
        } else {
            for index in 0..waiting {
                match self.load(self.taken.wrapping_add(index), now) {
                    Some(record) => to(record),
                    None => lost += 1,
                }
            }
        }
        self.taken = written;
        self.map.dword(TAKEN).store(written, Ordering::Release);
        let total = self.map.dword(LOST).load(Ordering::Relaxed);
        lost = lost.saturating_add(total.saturating_sub(self.lost));
        self.lost = total;
        Taken { lost, until: if busy { self.last } else { until } }
    }

    fn load(&mut self, index: u64, now: u64) -> Option<Record> {
        let at = RING + (index % RECORDS) as usize * RECORD_BYTES;
        let word = |offset: usize| self.map.dword(at + offset).load(Ordering::Relaxed);
        let (time, head) = (word(0), word(8));
        let event = usize::from(head as u16);
        let end = head >> 16 & 1 != 0;
        let known = EVENTS.get(event)?;
        if end && known.end.is_none() {
            return None;
        }
        let time = time.min(now).max(self.last.saturating_add(1));
        self.last = time;
        let args = std::array::from_fn(|number| word(16 + number * 8));
        Some(Record { time, event, end, device: (head >> 24) as u8, cpu: (head >> 32) as u32, args })
    }
}

/// The broker's view of one process's trace file beside its records: switches and counters.
#[derive(Clone, Debug)]
pub struct Panel(Arc<Mapping>);

impl Panel {
    /// Over the mapped trace file.
    pub fn new(map: Arc<Mapping>) -> Panel {
        Panel(map)
    }

    fn word(&self, device: Option<usize>) -> &AtomicU64 {
        let at = device.map_or(SWITCHES, |device| DEVICE_SWITCHES + device.min(DEVICES - 1) * 8);
        self.0.dword(at)
    }

    /// Switches an event on or off; with `device` one that the CPU process records for that device.
    pub fn set(&self, device: Option<usize>, event: Id, on: bool) {
        let bit = 1u64 << (event & 63);
        match on {
            true => self.word(device).fetch_or(bit, Ordering::SeqCst),
            false => self.word(device).fetch_and(!bit, Ordering::SeqCst),
        };
    }

    /// The process's counter; its claim.
    pub fn counter(&self, counter: usize) -> u64 {
        self.0.dword(COUNTERS + counter.min(counter::COUNT - 1) * 8).load(Ordering::Relaxed)
    }

    /// The CPU process's counter of a device; its claim.
    pub fn access(&self, device: usize, counter: usize) -> u64 {
        let row = device.min(DEVICES - 1) * access::COUNT;
        self.0.dword(DEVICE_COUNTERS + (row + counter.min(access::COUNT - 1)) * 8).load(Ordering::Relaxed)
    }

    /// A vCPU's wait for a device, if there is one that lasts: since when, and when it last looked in vain, in monotonic nanoseconds; the
    /// CPU process's claims.
    pub fn wait(&self, device: usize) -> Option<(u64, u64)> {
        let at = DEVICE_WAITS + device.min(DEVICES - 1) * 16;
        let [since, looked] = [at, at + 8].map(|at| self.0.dword(at).load(Ordering::Relaxed));
        (since != 0).then_some((since, looked))
    }

    /// Records lost because the ring was full; the process's claim.
    pub fn lost(&self) -> u64 {
        self.0.dword(LOST).load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
