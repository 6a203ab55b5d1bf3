//! Kinds of shared memory with bounds-checked copies: never a Rust reference into what another process writes.

use crate::sys::Mapping;

/// A device's large memory (VRAM, sector buffers): survives the process, written in place, idempotently.
#[derive(Debug)]
pub struct Bulk {
    memory: Mapping,
}

impl Bulk {
    /// Over a mapping.
    pub fn new(memory: Mapping) -> Bulk {
        Bulk { memory }
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Whether the device has none.
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty()
    }

    /// Copies out; false and nothing copied when out of range.
    #[must_use]
    pub fn read(&self, offset: usize, to: &mut [u8]) -> bool {
        self.memory.read(offset, to)
    }

    /// Copies in; false and nothing copied when out of range.
    #[must_use]
    pub fn write(&self, offset: usize, from: &[u8]) -> bool {
        self.memory.write(offset, from)
    }

    /// Unmaps the pages touched so far, see [`Mapping::release_pages`].
    pub fn release_pages(&self) {
        self.memory.release_pages();
    }

    /// One byte, 0xff out of range.
    #[inline]
    pub fn byte(&self, offset: usize) -> u8 {
        let mut one = [0xff];
        let _ = self.memory.read(offset, &mut one);
        one[0]
    }

    /// Sets one byte, ignored out of range.
    #[inline]
    pub fn set_byte(&self, offset: usize, value: u8) {
        let _ = self.memory.write(offset, &[value]);
    }
}
