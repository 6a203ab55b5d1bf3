//! What a back end must know of its predecessor: how far bytes have come, the escape key, keys typed and not yet delivered.
//!
//! The journal is a memory file that the broker keeps. Each of the two threads commits its own part by one exchange of a
//! generation, as devices do. Layout: input part at `0x000`, output part at `0x200` (each: u64 generation, two slots), the output
//! part's intent at `0x400` (u32 valid, state), a note for each part at [`JOURNAL_NOTES`], typed bytes at [`KEYS`].

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bulkhead_bus::attempts::{NOTE_BYTES, Note};
use bulkhead_bus::config::JOURNAL_NOTES;
use bulkhead_bus::sys::Mapping;
use bytemuck::{Pod, Zeroable};

/// Offset of typed bytes that are being dealt with.
pub const KEYS: usize = 0x1000;
/// How many there can be.
pub const KEYS_MAX: usize = 0x1000;
/// Offsets of the parts.
pub const INPUT: usize = 0x000;
/// See [`INPUT`].
pub const OUTPUT: usize = 0x200;
const INTENT: usize = 0x400;

/// The host side's part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Input {
    /// Typed bytes at [`KEYS`].
    pub have: u32,
    /// How many of them are dealt with.
    pub done: u32,
    /// While bytes are taken out of the input pipe: how many it held before.
    pub before: u32,
    /// Position in the stream to the device.
    pub sent: u32,
    /// Position in the stream to the monitor.
    pub told: u32,
    /// Breaks sent.
    pub breaks: u32,
    /// The last byte was the escape character.
    pub escaped: u32,
    /// The monitor has the focus.
    pub monitor: u32,
    /// Lines are shown with the time.
    pub stamps: u32,
    /// Number and kind of the last text of this process's own that is to be shown.
    pub texts: u32,
    /// See `Text` in the module `serve`.
    pub text: u32,
    /// 1: the monitor is to be told to redraw its prompt before it gets what is typed.
    pub redraw: u32,
}

/// The device side's part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Output {
    /// Position in the stream from the device.
    pub received: u32,
    /// The cursor is inside a line that has its time stamp.
    pub inside: u32,
    /// Number of the last own text that was shown.
    pub texts: u32,
    /// The host side takes nothing from a pipe.
    pub plain: u32,
}

/// One part, read and committed.
#[derive(Debug)]
pub struct Part<T> {
    map: Arc<Mapping>,
    at: usize,
    generation: u64,
    kind: PhantomData<T>,
}

impl<T: Pod> Part<T> {
    /// The part at `at` and what was last committed to it; `None`: nothing ever.
    pub fn take_up(map: Arc<Mapping>, at: usize) -> (Part<T>, Option<T>) {
        const { assert!(size_of::<T>() <= 0x80) };
        let generation = map.dword(at).load(Ordering::SeqCst);
        let part = Part { map, at, generation, kind: PhantomData };
        let state = (generation != 0).then(|| part.read(part.slot()));
        (part, state)
    }

    fn slot(&self) -> usize {
        self.at + 0x80 + (self.generation & 1) as usize * 0x80
    }

    fn read(&self, at: usize) -> T {
        let mut state = T::zeroed();
        let _ = self.map.read(at, bytemuck::bytes_of_mut(&mut state));
        state
    }

    fn note(&self) -> Note<'_> {
        Note::new(&self.map, JOURNAL_NOTES + if self.at == INPUT { 0 } else { NOTE_BYTES })
    }

    /// Notes that what follows the committed state begins. False when too many processes have died of it.
    #[must_use]
    pub fn begin(&self) -> bool {
        self.note().begin(self.generation)
    }

    /// Notes that it is done, or was not possible.
    pub fn end(&self) {
        self.note().end();
    }

    /// Makes `state` current in one step.
    pub fn commit(&mut self, state: &T) {
        self.generation = self.generation.wrapping_add(1).max(1);
        let _ = self.map.write(self.slot(), bytemuck::bytes_of(state));
        self.map.dword(self.at).swap(self.generation, Ordering::SeqCst);
    }
}

impl Part<Output> {
    /// Announces that `state` holds as soon as the output pipe is not empty, which it is now; `None` takes it back.
    pub fn intend(&self, state: Option<&Output>) {
        if let Some(state) = state {
            let _ = self.map.write(INTENT + 4, bytemuck::bytes_of(state));
        }
        self.map.word(INTENT).swap(u32::from(state.is_some()), Ordering::SeqCst);
    }

    /// What a predecessor announced and did not commit.
    pub fn intent(&self) -> Option<Output> {
        (self.map.word(INTENT).load(Ordering::SeqCst) != 0).then(|| self.read(INTENT + 4))
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_bus::config::JOURNAL_BYTES;

    use super::*;

    #[test]
    fn a_part_is_what_was_last_committed_whatever_lies_in_the_other_slot() {
        let map = Arc::new(Mapping::anonymous(JOURNAL_BYTES).expect("mapping"));
        let (mut part, state) = Part::<Output>::take_up(map.clone(), OUTPUT);
        assert_eq!(state, None);
        for received in 1..=3 {
            part.commit(&Output { received, ..Output::default() });
        }
        // The half-written commit of somebody who died.
        assert!(map.write(OUTPUT + 0x80, &[0xee; 0x20]));
        let (part, state) = Part::<Output>::take_up(map, OUTPUT);
        assert_eq!(state, Some(Output { received: 3, ..Output::default() }));
        part.intend(Some(&Output { received: 9, ..Output::default() }));
        assert_eq!(part.intent().map(|state| state.received), Some(9));
        part.intend(None);
        assert_eq!(part.intent(), None);
    }
}
