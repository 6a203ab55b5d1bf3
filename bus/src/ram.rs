//! Guest RAM as bus masters see it, and the bitmaps that keep compiled code coherent with DMA.
//!
//! RAM is one memfd: guest-physical `0..low` first, then what lies from 4 GiB up. DMA names RAM only: a range that is not
//! wholly RAM is refused, so a device can never reach another device's registers.
//!
//! Code bitmap memfd: `code` bits (one a 4 KiB page of the RAM file), then as many `dirty` bits, then a u32 that is 1 when a dirty bit
//! may be set. The CPU sets a page's code bit *before* it reads the bytes it compiles; a device writes, fences, loads the code
//! bit, and if set sets the dirty bit, that word and the CPU's attention word (before the interrupt of the same DMA). Only bus
//! masters have this file: nobody else can keep a change of code from the CPU.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crate::irq::IrqPage;
use crate::sys::{self, Mapping};
use crate::trace::{Tracer, counter, events};

/// End of the RAM below the PCI hole.
pub const LOW_LIMIT: u64 = 0xe000_0000;
/// Start of RAM above 4 GiB.
pub const HIGH_BASE: u64 = 1 << 32;

/// Video memory, which is the bus's. System-management RAM lies behind it.
const VIDEO: std::ops::Range<u64> = 0xa_0000..0xc_0000;

/// Bytes of the code/dirty bitmap file for `ram_bytes` of RAM.
pub fn code_map_bytes(ram_bytes: u64) -> u64 {
    let words = ram_bytes.div_ceil(4096).div_ceil(64);
    (words * 8 * 2 + 8).next_multiple_of(4096)
}

/// The code and dirty bitmaps.
#[derive(Debug)]
pub struct CodeMap {
    map: Mapping,
    words: usize,
}

impl CodeMap {
    /// Over a mapping of [`code_map_bytes`] bytes.
    pub fn new(map: Mapping, ram_bytes: u64) -> CodeMap {
        let words = (ram_bytes.div_ceil(4096).div_ceil(64) as usize).min(map.len().saturating_sub(8) / 16);
        CodeMap { map, words }
    }

    fn bit(&self, half: usize, page: u64) -> Option<(&AtomicU64, u64)> {
        let index = usize::try_from(page / 64).ok().filter(|index| *index < self.words)?;
        Some((self.map.dword((half * self.words + index) * 8), 1 << (page % 64)))
    }

    /// CPU: code of this page of the RAM file is about to be read for compiling.
    pub fn watch(&self, page: u64) {
        if let Some((word, bit)) = self.bit(0, page) {
            word.fetch_or(bit, Ordering::SeqCst);
            fence(Ordering::SeqCst);
        }
    }

    /// Device, after its writes: true when the page holds compiled code; its dirty bit is set then.
    pub fn wrote(&self, page: u64) -> bool {
        let Some((code, bit)) = self.bit(0, page) else { return false };
        if code.load(Ordering::SeqCst) & bit == 0 {
            return false;
        }
        if let Some((dirty, bit)) = self.bit(1, page) {
            dirty.fetch_or(bit, Ordering::SeqCst);
            sys::publish(self.changed(), 1);
        }
        true
    }

    fn changed(&self) -> &AtomicU32 {
        self.map.word(self.words * 16)
    }

    /// CPU: whether [`CodeMap::take_changed`] would say so.
    pub fn has_changed(&self) -> bool {
        self.changed().load(Ordering::SeqCst) != 0
    }

    /// CPU: whether a page was written since the last call, so that [`CodeMap::take_dirty`] has some.
    pub fn take_changed(&self) -> bool {
        let word = self.changed();
        word.load(Ordering::SeqCst) != 0 && word.swap(0, Ordering::SeqCst) != 0
    }

    /// CPU: takes the first dirty page at or behind page `from`. Whoever begins behind what was taken last comes to an end, even while a
    /// bus master goes on marking pages.
    pub fn take_dirty(&self, from: u64) -> Option<u64> {
        let first = usize::try_from(from / 64).ok()?;
        for index in first..self.words {
            let word = self.map.dword((self.words + index) * 8);
            let asked = if index == first { u64::MAX << (from % 64) } else { u64::MAX };
            let bits = word.load(Ordering::SeqCst) & asked;
            if bits != 0 {
                let bit = bits.trailing_zeros();
                word.fetch_and(!(1 << bit), Ordering::SeqCst);
                return Some(index as u64 * 64 + u64::from(bit));
            }
        }
        None
    }
}

/// Guest RAM.
#[derive(Debug)]
pub struct GuestRam {
    memory: Mapping,
    code: Option<(CodeMap, Arc<IrqPage>)>,
    tracer: Tracer,
}

impl GuestRam {
    /// Over the whole RAM file; `code` for writers in a running machine.
    pub fn new(memory: Mapping, code: Option<(CodeMap, Arc<IrqPage>)>) -> GuestRam {
        GuestRam { memory, code, tracer: Tracer::off() }
    }

    /// Records and counts what is read and written.
    #[must_use]
    pub fn traced(self, tracer: Tracer) -> GuestRam {
        GuestRam { tracer, ..self }
    }

    fn note_read(&self, gpa: u64, len: usize) {
        self.tracer.count(counter::DMA_READ, len as u64);
        self.tracer.begin(events::DMA_READ, || [gpa, len as u64, 0, 0]);
    }

    fn note_write(&self, gpa: u64, len: usize) {
        self.tracer.count(counter::DMA_WRITE, len as u64);
        self.tracer.begin(events::DMA_WRITE, || [gpa, len as u64, 0, 0]);
    }

    /// Bytes of RAM.
    pub fn bytes(&self) -> u64 {
        self.memory.len() as u64
    }

    /// The mapping itself (CPU process and broker).
    pub fn mapping(&self) -> &Mapping {
        &self.memory
    }

    /// Unmaps the pages touched so far, see [`Mapping::release_pages`].
    pub fn release_pages(&self) {
        self.memory.release_pages();
    }

    /// Offset in the RAM file of guest-physical `gpa`, when `len` bytes from there are RAM.
    pub fn offset(&self, gpa: u64, len: u64) -> Option<usize> {
        file_offset(self.bytes(), gpa, len)
    }

    /// Whether a PCI master reaches RAM, or nothing, in all of this range: the host bridge never claims a master's access to video
    /// memory, so it cannot come to what lies behind (82441FX, 4.1).
    pub fn is_open_to_masters(&self, gpa: u64, len: u64) -> bool {
        gpa >= VIDEO.end || gpa.saturating_add(len) <= VIDEO.start
    }

    /// Reads guest memory; false and nothing read when the range is not RAM.
    #[must_use]
    pub fn read(&self, gpa: u64, to: &mut [u8]) -> bool {
        let Some(offset) = self.offset(gpa, to.len() as u64) else { return false };
        self.note_read(gpa, to.len());
        self.memory.read(offset, to)
    }

    /// Writes guest memory; false and nothing written when the range is not RAM.
    #[must_use]
    pub fn write(&self, gpa: u64, from: &[u8]) -> bool {
        let Some(offset) = self.offset(gpa, from.len() as u64) else { return false };
        if !self.memory.write(offset, from) {
            return false;
        }
        self.note_write(gpa, from.len());
        self.wrote(offset, from.len());
        true
    }

    /// Copies straight from another shared memory, for large transfers.
    #[must_use]
    pub fn write_from(&self, gpa: u64, from: &Mapping, at: usize, len: usize) -> bool {
        let Some(offset) = self.offset(gpa, len as u64) else { return false };
        if at.checked_add(len).is_none_or(|end| end > from.len()) {
            return false;
        }
        // SAFETY: both ranges are inside their mappings, which are distinct.
        unsafe { std::ptr::copy_nonoverlapping(from.base().add(at), self.memory.base().add(offset), len) };
        self.note_write(gpa, len);
        self.wrote(offset, len);
        true
    }

    /// Copies straight into another shared memory.
    #[must_use]
    pub fn read_into(&self, gpa: u64, to: &Mapping, at: usize, len: usize) -> bool {
        let Some(offset) = self.offset(gpa, len as u64) else { return false };
        if at.checked_add(len).is_none_or(|end| end > to.len()) {
            return false;
        }
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(self.memory.base().add(offset), to.base().add(at), len) };
        self.note_read(gpa, len);
        true
    }

    fn wrote(&self, offset: usize, len: usize) {
        let Some((code, irq)) = &self.code else { return };
        if len == 0 {
            return;
        }
        fence(Ordering::SeqCst);
        let mut hit = false;
        for page in offset / 4096..=(offset + len - 1) / 4096 {
            hit |= code.wrote(page as u64);
        }
        if hit {
            irq.attend();
        }
    }
}

/// Offset in a RAM file of `ram_bytes` of the guest-physical range `gpa..gpa + len`, `None` unless all of it is RAM.
pub fn file_offset(ram_bytes: u64, gpa: u64, len: u64) -> Option<usize> {
    let low = ram_bytes.min(LOW_LIMIT);
    let end = gpa.checked_add(len)?;
    let offset = if end <= low {
        gpa
    } else if gpa >= HIGH_BASE && end - HIGH_BASE <= ram_bytes - low {
        low + (gpa - HIGH_BASE)
    } else {
        return None;
    };
    usize::try_from(offset).ok()
}
