//! The interrupt page: output lines of every device, and the vCPU's attention word.
//!
//! Layout: `0x000` u32 attention (set by anyone, polled by generated code); `0x004` u32 code-changed flag; `0x008` u64 bit map of
//! sources with news; from `0x100` 128 bytes a source: `0x00` u32 x 8 levels, `0x20` u32 x 8 pulse counters, `0x40` u32 x 8 values,
//! `0x60` u32 x 8 counters of levels gone from low to high. The CPU process acts on counter differences, so that a line that
//! fell and rose again between two looks is still an edge.
//! The page is written by every device process, so readers treat all of it as claims: a device can lie about lines only.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::bell::Bell;
use crate::chip::{LINES, Outputs};
use crate::sys::Mapping;
use crate::trace::{Tracer, counter, events};

/// Most sources.
pub const SOURCES: usize = 62;
/// Bytes of the page file.
pub const IRQ_BYTES: usize = 8192;

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

    /// Device: DMA changed a page that holds compiled code.
    pub fn code_changed(&self) {
        self.page.word(4).swap(1, Ordering::SeqCst);
        self.attend();
    }

    /// CPU: takes the code-changed flag.
    pub fn take_code_changed(&self) -> bool {
        self.page.word(4).swap(0, Ordering::SeqCst) != 0
    }

    fn at(source: usize, row: usize, line: usize) -> usize {
        0x100 + source.min(SOURCES - 1) * 128 + row * 32 + line.min(LINES - 1) * 4
    }

    /// Device: publishes its outputs; tells the CPU only when something changed.
    pub fn publish(&self, source: usize, out: &Outputs, tracer: &Tracer) {
        let wanted = [out.level.map(u32::from), out.pulses, out.value];
        let mut have = [[0u32; LINES]; 3];
        // The three rows lie one behind the other, and only this device writes them.
        let known = self.page.read(Self::at(source, 0, 0), bytemuck::bytes_of_mut(&mut have));
        if known && have == wanted {
            return;
        }
        for line in 0..LINES {
            let values = wanted.map(|row| row[line]);
            let words = [0, 1, 2].map(|row| self.page.word(Self::at(source, row, line)));
            let old = words.map(|word| word.load(Ordering::Relaxed));
            if old == values {
                continue;
            }
            let rises = self.page.word(Self::at(source, 3, line));
            let rise = u32::from(values[0] == 1 && old[0] == 0);
            let edges = rises.load(Ordering::Relaxed).wrapping_add(rise).wrapping_add(values[1]);
            tracer.count(counter::INTERRUPTS, u64::from(values[1].wrapping_sub(old[1]).wrapping_add(rise)));
            // Before the CPU can see it.
            tracer.begin(events::LINE, || [line as u64, values[0].into(), edges.into(), values[2].into()]);
            if rise == 1 {
                rises.fetch_add(1, Ordering::SeqCst);
            }
            // The value first, so that whoever sees the edge sees its value.
            for row in [2, 1, 0] {
                if old[row] != values[row] {
                    words[row].store(values[row], Ordering::SeqCst);
                }
            }
        }
        self.page.dword(8).fetch_or(1 << source.min(SOURCES - 1), Ordering::SeqCst);
        self.attend();
    }

    /// Device that succeeds another: makes the CPU look at its lines and wakes it, because the predecessor may have died
    /// between a change and the announcement of it.
    pub fn announce(&self, source: usize) {
        self.page.dword(8).fetch_or(1 << source.min(SOURCES - 1), Ordering::SeqCst);
        self.attention().swap(1, Ordering::SeqCst);
        self.cpu.wake();
    }

    /// Broker: lowers the lines of a device that has nobody to serve it. Edges that were counted stay counted.
    pub fn lower(&self, source: usize) {
        for line in 0..LINES {
            self.page.word(Self::at(source, 0, line)).store(0, Ordering::SeqCst);
        }
        self.announce(source);
    }

    /// CPU: takes the set of sources with news, a bit each.
    pub fn take_news(&self) -> u64 {
        self.page.dword(8).swap(0, Ordering::SeqCst)
    }

    /// CPU: reads a line.
    pub fn line(&self, source: usize, line: usize) -> Line {
        let get = |row| self.page.word(Self::at(source, row, line)).load(Ordering::SeqCst);
        Line { level: get(0) != 0, edges: get(1).wrapping_add(get(3)), value: get(2) }
    }
}
