//! What a device is about to do besides requests, noted outside the commit, so that nothing that kills every process is tried for
//! ever: after [`DEATHS_MAX`] deaths on the same thing it is left out.

use std::sync::atomic::{Ordering, compiler_fence};

use crate::device::{ASIDE, DEATHS_MAX};
use crate::sys::Mapping;

/// Something that a device does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Takes up the committed state (key: its generation). Left out: the device is as after power-on.
    TakeUp,
    /// Its timer (key: the deadline). Left out: that deadline does not count.
    Timer,
    /// Something new on a link (key: the links' number of news). Left out until there is more.
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

    fn at(self) -> usize {
        ASIDE + self as usize * 16
    }

    /// Notes that the device begins. False when it has died of this too often.
    pub(crate) fn begin(self, map: &Mapping, key: u64) -> bool {
        let (place, count) = (map.dword(self.at()), map.word(self.at() + 8));
        let deaths = if place.load(Ordering::Relaxed) == key { count.load(Ordering::Relaxed) } else { 0 };
        if deaths >= DEATHS_MAX {
            return false;
        }
        place.store(key, Ordering::Relaxed);
        count.store(deaths + 1, Ordering::Relaxed);
        // Program order is all that counts: the reader comes after this process.
        compiler_fence(Ordering::SeqCst);
        true
    }

    /// Notes that it is done.
    pub(crate) fn end(self, map: &Mapping) {
        compiler_fence(Ordering::SeqCst);
        map.word(self.at() + 8).store(0, Ordering::Relaxed);
    }

    /// How often what is under way was begun, 0 for nothing. A claim.
    pub(crate) fn begun(self, map: &Mapping) -> u32 {
        map.word(self.at() + 8).load(Ordering::SeqCst)
    }

    /// While no process serves: the last death was not the fault of what was under way.
    pub(crate) fn forgive(self, map: &Mapping) {
        let count = map.word(self.at() + 8);
        count.store(count.load(Ordering::SeqCst).saturating_sub(1), Ordering::SeqCst);
    }
}
