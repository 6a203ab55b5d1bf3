//! What a process is about to do, noted outside the commit, so that nothing that kills every process is tried for
//! ever: after [`DEATHS_MAX`] deaths on the same thing it is left out.

use std::sync::atomic::{Ordering, compiler_fence};

use crate::device::{ASIDE, DEATHS_MAX};
use crate::sys::Mapping;

/// Bytes of a [`Note`].
pub const NOTE_BYTES: usize = 16;

/// One note in shared memory: u64 key of the thing, u32 deaths of it (while it is under way, this time counts), u32 1 while it
/// is under way.
#[derive(Clone, Copy, Debug)]
pub struct Note<'a> {
    map: &'a Mapping,
    at: usize,
}

impl<'a> Note<'a> {
    /// At an offset that is a multiple of 8.
    pub fn new(map: &'a Mapping, at: usize) -> Note<'a> {
        Note { map, at }
    }

    /// How many processes have died of the thing `key`, while it is not under way.
    pub fn deaths(self, key: u64) -> u32 {
        let same = self.map.dword(self.at).load(Ordering::Relaxed) == key;
        if same { self.map.word(self.at + 8).load(Ordering::Relaxed) } else { 0 }
    }

    /// Notes that the thing `key` begins. False, and nothing noted, when too many have died of it.
    pub fn begin(self, key: u64) -> bool {
        let deaths = self.deaths(key);
        if deaths >= DEATHS_MAX {
            return false;
        }
        self.map.dword(self.at).store(key, Ordering::Relaxed);
        self.map.word(self.at + 8).store(deaths + 1, Ordering::Relaxed);
        self.map.word(self.at + 12).store(1, Ordering::Relaxed);
        // Program order is all that counts: the reader comes after this process.
        compiler_fence(Ordering::SeqCst);
        true
    }

    /// Notes that it is done.
    pub fn end(self) {
        compiler_fence(Ordering::SeqCst);
        self.map.word(self.at + 8).store(0, Ordering::Relaxed);
        self.map.word(self.at + 12).store(0, Ordering::Relaxed);
    }

    /// How often what is under way was begun, 0 for nothing. A claim.
    pub fn begun(self) -> u32 {
        let under_way = self.map.word(self.at + 12).load(Ordering::SeqCst) != 0;
        if under_way { self.map.word(self.at + 8).load(Ordering::SeqCst) } else { 0 }
    }

    /// While no process serves: nothing is under way any more; when `forgiven`, what was is not what the last one died of.
    pub fn settle(self, forgiven: bool) {
        let count = self.map.word(self.at + 8);
        if self.map.word(self.at + 12).swap(0, Ordering::SeqCst) != 0 && forgiven {
            count.store(count.load(Ordering::SeqCst).saturating_sub(1), Ordering::SeqCst);
        }
    }
}

/// Something that a device does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Takes up the committed state (key: its generation). Left out: the device is as after power-on.
    TakeUp,
    /// Its timer (key: the deadline). Left out: that deadline does not count.
    Timer,
    /// Something new on a link (no key). Left out until there is more.
    Event,
    /// A request of the broker (key: its number). Left out: it is refused.
    Control,
}

impl Act {
    /// All of them.
    pub const ALL: [Act; 4] = [Act::TakeUp, Act::Timer, Act::Event, Act::Control];

    /// Word for the user.
    pub fn name(self) -> &'static str {
        match self {
            Act::TakeUp => "state",
            Act::Timer => "timer",
            Act::Event => "event",
            Act::Control => "command",
        }
    }

    fn note(self, map: &Mapping) -> Note<'_> {
        Note::new(map, ASIDE + self as usize * NOTE_BYTES)
    }

    /// Notes that the device begins. False when it has died of this too often.
    pub(crate) fn begin(self, map: &Mapping, key: u64) -> bool {
        self.note(map).begin(key)
    }

    /// Notes that it is done.
    pub(crate) fn end(self, map: &Mapping) {
        self.note(map).end();
    }

    /// How often what is under way was begun, 0 for nothing. A claim.
    pub(crate) fn begun(self, map: &Mapping) -> u32 {
        self.note(map).begun()
    }

    /// See [`Note::settle`].
    pub(crate) fn settle(self, map: &Mapping, forgiven: bool) {
        self.note(map).settle(forgiven);
    }
}
