//! Interrupts: the output lines of each device, and the page with which every device gets the vCPU's attention.
//!
//! A device's lines are in its own device file (`0xa00`), so that it can lie about its own lines only: `0x00` u32 x 8 levels (bit 0) with
//! the number of times that each went from low to high (bits 1 to 31), `0x20` u32 x 8 pulse counters, `0x40` u32 x 8 values. The
//! CPU process acts on counter differences, so that a line that fell and rose again between two looks is still an edge. Level and
//! number are one word because the number is kept nowhere else: a successor counts a rise that it finds uncounted, and no other.
//!
//! The page is written by every device process: `0x000` u32 attention (polled by generated code), `0x008` u64 set of devices with
//! news, a bit each. Both only say *when* to look: the CPU process looks at every line each [`LOOK_NS`] whatever they say, so a device
//! that takes back what another one has set delays that one's interrupt by so much and no more.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::bell::Bell;
use crate::chip::{LINES, Outputs};
use crate::device::LINES_AT;
use crate::sys::Mapping;
use crate::trace::{Tracer, counter, events};

/// Most sources.
pub const SOURCES: usize = 62;
/// Bytes of the page file.
pub const IRQ_BYTES: usize = 4096;
/// How often the CPU process looks at all lines, whatever the page says, in nanoseconds.
pub const LOOK_NS: u64 = 100_000_000;

/// The mapped interrupt page, with the bell of the vCPU.
#[derive(Debug)]
pub struct IrqPage {
    page: Mapping,
    cpu: Bell,
}

/// One line as the CPU process reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Current level.
    pub level: bool,
    /// Rising edges ever, wrapping: levels gone high plus pulses.
    pub edges: u32,
    /// Value.
    pub value: u32,
}

impl IrqPage {
    /// Over the mapped page and the vCPU's bell.
    pub fn new(page: Mapping, cpu: Bell) -> IrqPage {
        IrqPage { page, cpu }
    }

    /// The attention word.
    pub fn attention(&self) -> &AtomicU32 {
        self.page.word(0)
    }

    /// The bell that the vCPU sleeps on.
    pub fn cpu_bell(&self) -> &Bell {
        &self.cpu
    }

    /// Makes the vCPU stop at its next poll, waking it if it sleeps.
    pub fn attend(&self) {
        self.attention().swap(1, Ordering::SeqCst);
        self.cpu.ring();
    }

    /// Device: its lines have changed. A vCPU that runs notices; for one that sleeps, its bell is to be rung afterwards.
    pub fn tell(&self, source: usize) {
        self.page.dword(8).fetch_or(1 << source.min(SOURCES - 1), Ordering::SeqCst);
        self.attention().swap(1, Ordering::SeqCst);
    }

    /// Device that succeeds another: makes the CPU look at its lines and wakes it, because the predecessor may have died
    /// between a change and the announcement of it.
    pub fn announce(&self, source: usize) {
        self.page.dword(8).fetch_or(1 << source.min(SOURCES - 1), Ordering::SeqCst);
        self.attention().swap(1, Ordering::SeqCst);
        self.cpu.wake();
    }

    /// CPU: takes the set of sources with news, a bit each.
    pub fn take_news(&self) -> u64 {
        self.page.dword(8).swap(0, Ordering::SeqCst)
    }
}

/// Offset in a device file.
fn at(row: usize, line: usize) -> usize {
    LINES_AT + row * 32 + line.min(LINES - 1) * 4
}

/// Device: publishes its outputs in its device file. Whether something changed, which the CPU is then to be told.
#[must_use]
pub fn publish(file: &Mapping, out: &Outputs, tracer: &Tracer) -> bool {
    let wanted = [out.level.map(u32::from), out.pulses, out.value];
    let mut have = [[0u32; LINES]; 3];
    // The three rows lie one behind the other, and only this device writes them.
    let known = file.read(at(0, 0), bytemuck::bytes_of_mut(&mut have));
    let levels = have[0];
    have[0] = levels.map(|word| word & 1);
    if known && have == wanted {
        return false;
    }
    for line in 0..LINES {
        let [level, pulses, value] = wanted.map(|row| row[line]);
        let old = have.map(|row| row[line]);
        if old == [level, pulses, value] {
            continue;
        }
        let rise = u32::from(level == 1 && old[0] == 0);
        let rises = (levels[line] >> 1).wrapping_add(rise);
        tracer.count(counter::INTERRUPTS, u64::from(pulses.wrapping_sub(old[1]).wrapping_add(rise)));
        // Before the CPU can see it.
        let edges = rises.wrapping_add(pulses);
        tracer.begin(events::LINE, || [line as u64, level.into(), edges.into(), value.into()]);
        // The value first, so that whoever sees the edge sees its value.
        let new = [level | rises << 1, pulses, value];
        for row in [2, 1, 0] {
            if old[row] != wanted[row][line] {
                file.word(at(row, line)).store(new[row], Ordering::SeqCst);
            }
        }
    }
    true
}

/// Device: the pulses that have been published.
pub(crate) fn pulses(file: &Mapping) -> [u32; LINES] {
    std::array::from_fn(|line| file.word(at(1, line)).load(Ordering::SeqCst))
}

/// Broker: lowers the lines of a device that has nobody to serve it. Edges that were counted stay counted.
pub fn lower(file: &Mapping) {
    for line in 0..LINES {
        file.word(at(0, line)).fetch_and(!1, Ordering::SeqCst);
    }
}

/// CPU: reads a line of a device.
pub fn line(file: &Mapping, line: usize) -> Line {
    let get = |row| file.word(at(row, line)).load(Ordering::SeqCst);
    let level = get(0);
    Line { level: level & 1 != 0, edges: get(1).wrapping_add(level >> 1), value: get(2) }
}
