//! Typed bytes on their way from the host to the device or the monitor, each of them once whenever this process dies.
//!
//! They move from the host into a pipe that outlives this process inside the kernel, from the pipe into the journal (how many
//! the pipe held before tells a successor how many were taken), and on by positions that are committed with the escape key.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use bulkhead_bus::links::ByteEnd;
use bulkhead_bus::sys::{self, Mapping};
use nix::errno::Errno;

use crate::journal::{Input, KEYS, KEYS_MAX, Part};
use crate::mux::{Focus, Input as Key, Mux};
use crate::serve::{Monitor, REDRAW, Text, tell, waits};

/// The way from the host.
pub struct Keys {
    journal: Arc<Mapping>,
    part: Part<Input>,
    /// Last committed.
    pub state: Input,
    /// The escape key, as committed.
    pub mux: Mux,
    read: OwnedFd,
    write: OwnedFd,
}

/// What [`Keys::next`] has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// Nothing: no byte is left.
    All,
    /// Nothing: the next byte finds no room.
    Full,
    /// Something, with this to follow.
    Some(Effect),
}

/// What follows a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The monitor has keys.
    Monitor,
    /// A text is to be shown; the monitor may have keys.
    Text,
}

impl Keys {
    /// Takes up where a predecessor died; `mux` is the escape key at first.
    pub fn new(
        journal: Arc<Mapping>,
        mut mux: Mux,
        pipe: (OwnedFd, OwnedFd),
        (part, state): (Part<Input>, Option<Input>),
    ) -> Keys {
        let (read, write) = pipe;
        if let Some(state) = &state {
            mux.restore(state.escaped != 0, state.monitor != 0, state.stamps != 0);
        }
        let mut keys = Keys { journal, part, state: state.unwrap_or_default(), mux, read, write };
        if keys.state.before > 0 {
            let left = sys::readable_bytes(keys.read.as_fd()).unwrap_or(0) as u32;
            let have = keys.state.before.saturating_sub(left);
            keys.commit(Input { have, done: 0, before: 0, ..keys.state });
        }
        keys.state.have = keys.state.have.min(KEYS_MAX as u32);
        // A predecessor may have died with bytes in the pipe, and the host need not have more for them to be asked for.
        if keys.state.done >= keys.state.have {
            keys.take();
        }
        keys
    }

    fn commit(&mut self, mut state: Input) {
        state.escaped = self.mux.is_escaped().into();
        state.monitor = (self.mux.focus == Focus::Monitor).into();
        state.stamps = self.mux.stamps.into();
        self.state = state;
        self.part.commit(&state);
    }

    /// Takes what the host has, when everything before is dealt with. False at its end.
    pub fn fetch(&mut self, input: &impl AsFd) -> bool {
        if self.state.done < self.state.have {
            return true;
        }
        if sys::readable_bytes(self.read.as_fd()).unwrap_or(0) == 0 {
            match sys::splice(input.as_fd(), self.write.as_fd(), KEYS_MAX) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) if waits(&error) => return true,
                // An input that gives nothing to a pipe: a death in the next lines loses what was just read.
                Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {
                    return match self.journal.read_from(input.as_fd(), KEYS, KEYS_MAX) {
                        Ok(0) => false,
                        Ok(count) => {
                            self.commit(Input { have: count as u32, done: 0, ..self.state });
                            true
                        }
                        Err(error) => waits(&error),
                    };
                }
                Err(_) => return false,
            }
        }
        self.take();
        true
    }

    /// Takes what the pipe holds into the journal, where everything before is dealt with.
    fn take(&mut self) {
        let held = sys::readable_bytes(self.read.as_fd()).unwrap_or(0);
        let wanted = held.min(KEYS_MAX);
        if wanted == 0 {
            return;
        }
        self.commit(Input { have: 0, done: 0, before: held as u32, ..self.state });
        let have = self.journal.read_from(self.read.as_fd(), KEYS, wanted).unwrap_or(0);
        self.commit(Input { have: have as u32, before: 0, ..self.state });
    }

    /// Deals with the next byte, or with a run of bytes that mean nothing but themselves. Typed bytes that kill every process are left
    /// out, with what came together with them.
    pub fn next(&mut self, link: Option<&ByteEnd>, monitor: Option<&Monitor>) -> Done {
        if self.state.redraw != 0 {
            self.send_redraw(monitor);
            return Done::Some(Effect::Monitor);
        }
        if self.state.done >= self.state.have {
            return Done::All;
        }
        let done = if self.part.begin() {
            self.deal(link, monitor)
        } else {
            tell("what was typed has killed this back end and is left out");
            self.commit(Input { done: self.state.have, ..self.state });
            Done::Some(Effect::None)
        };
        self.part.end();
        done
    }

    fn deal(&mut self, link: Option<&ByteEnd>, monitor: Option<&Monitor>) -> Done {
        let mut bytes = [0u8; KEYS_MAX];
        let left = self.state.have.saturating_sub(self.state.done) as usize;
        let Some(bytes) = bytes.get_mut(..left.min(KEYS_MAX)) else { return Done::All };
        if bytes.is_empty() || !self.journal.read(KEYS + self.state.done as usize, bytes) {
            return Done::All;
        }
        let plain = bytes.iter().take_while(|byte| self.mux.is_plain(**byte)).count();
        if let Some(run) = bytes.get(..plain).filter(|run| !run.is_empty()) {
            return self.hand_on(run, link, monitor);
        }
        let Some(byte) = bytes.first() else { return Done::All };
        let before = self.mux.clone();
        let meaning = self.mux.take(*byte);
        let mut next = self.state;
        let mut text = |kind: Text| {
            next.text = kind as u32;
            next.texts = next.texts.wrapping_add(1);
        };
        let (told, effect): (&[u8], Effect) = match meaning {
            Key::Byte(byte) => {
                let done = self.hand_on(&[byte], link, monitor);
                if done == Done::Full {
                    self.mux = before;
                }
                return done;
            }
            Key::Nothing => (&[], Effect::None),
            Key::Break => {
                next.breaks = next.breaks.wrapping_add(1);
                link.iter().for_each(|link| link.send_breaks(next.breaks));
                (&[], Effect::None)
            }
            Key::Help => {
                text(Text::Help);
                (&[], Effect::Text)
            }
            Key::Switched => {
                text(Text::Switched);
                (self.redraw_key(), Effect::Text)
            }
            Key::Exit => {
                text(Text::Terminated);
                (b"\x15quit\r", Effect::Text)
            }
            Key::Commit => {
                text(Text::NoCommit);
                (self.redraw_key(), Effect::Text)
            }
        };
        if let Some(monitor) = monitor.filter(|_| !told.is_empty()) {
            if monitor.keys.room() < told.len() {
                self.mux = before;
                return Done::Full;
            }
            let count = monitor.keys.send_at(next.told, told);
            next.told = next.told.wrapping_add(count as u32);
        }
        next.done = next.done.wrapping_add(1);
        self.commit(next);
        Done::Some(effect)
    }

    /// What has the monitor show its prompt below a text, if it is the one that is shown.
    fn redraw_key(&self) -> &'static [u8] {
        if self.mux.focus == Focus::Monitor { REDRAW } else { &[] }
    }

    /// Sends bytes to whoever has the focus and commits as many as went.
    fn hand_on(&mut self, bytes: &[u8], link: Option<&ByteEnd>, monitor: Option<&Monitor>) -> Done {
        let mut next = self.state;
        let to_monitor = self.mux.focus == Focus::Monitor;
        let (end, position) = match to_monitor {
            true => (monitor.map(|monitor| &monitor.keys), &mut next.told),
            false => (link, &mut next.sent),
        };
        // Without anybody there they are gone.
        let count = end.map_or(bytes.len(), |end| end.send_at(*position, bytes));
        if count == 0 {
            return Done::Full;
        }
        *position = position.wrapping_add(count as u32);
        next.done = next.done.wrapping_add(count as u32);
        self.commit(next);
        Done::Some(if to_monitor { Effect::Monitor } else { Effect::None })
    }

    /// The monitor is to redraw its prompt: [`Keys::next`] sends the key for that, which nobody types, before anything else.
    pub fn want_redraw(&mut self) {
        self.commit(Input { redraw: 1, ..self.state });
    }

    /// Sends it, unless the monitor has no room. Where a predecessor has sent it, there was room and is now.
    fn send_redraw(&mut self, monitor: Option<&Monitor>) {
        let count = monitor.map_or(0, |monitor| monitor.keys.send_at(self.state.told, REDRAW));
        let told = self.state.told.wrapping_add(count as u32);
        self.commit(Input { told, redraw: 0, ..self.state });
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_bus::bell::{BELL_BYTES, Bell};
    use bulkhead_bus::config::JOURNAL_BYTES;
    use bulkhead_bus::device::DEATHS_MAX;
    use bulkhead_bus::links::{BYTES_LINK, Side};
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::journal::INPUT;

    /// What the broker keeps of a back end.
    struct Kept {
        journal: Arc<Mapping>,
        pipe: (std::io::PipeReader, std::io::PipeWriter),
        link: OwnedFd,
    }

    impl Kept {
        fn new() -> Kept {
            Kept {
                journal: Arc::new(Mapping::anonymous(JOURNAL_BYTES).expect("mapping")),
                pipe: std::io::pipe().expect("pipe"),
                link: sys::memfd("link", BYTES_LINK as u64).expect("memfd"),
            }
        }

        fn end(&self, side: Side) -> ByteEnd {
            let bell = Arc::new(Bell::new(Mapping::anonymous(BELL_BYTES).expect("mapping")));
            ByteEnd::new(Mapping::shared(self.link.as_fd(), BYTES_LINK, true).expect("mapping"), bell, side)
        }

        /// One that succeeds whoever was there before.
        fn start(&self, mux: Mux) -> Keys {
            let pipe = (
                self.pipe.0.try_clone().expect("pipe").into(),
                self.pipe.1.try_clone().expect("pipe").into(),
            );
            Keys::new(self.journal.clone(), mux, pipe, Part::take_up(self.journal.clone(), INPUT))
        }
    }

    fn received(end: &ByteEnd) -> Vec<u8> {
        let mut got = [0u8; 16];
        let count = end.receive(&mut got);
        got.get(..count).unwrap_or_default().to_vec()
    }

    #[test]
    fn typed_bytes_that_kill_are_left_out_and_the_next_ones_arrive() {
        let kept = Kept::new();
        let (host, device) = (kept.end(Side::Host), kept.end(Side::Device));
        let (input, mut user) = std::io::pipe().expect("pipe");
        let start = || kept.start(Mux::new(false, 1, true, false));
        user.write_all(b"deadly").expect("writable");
        assert!(start().fetch(&input));
        for _ in 0..DEATHS_MAX {
            // One that dies before it has dealt with the first byte.
            assert!(start().part.begin());
        }
        let mut keys = start();
        assert_eq!(keys.next(Some(&host), None), Done::Some(Effect::None));
        assert_eq!(keys.next(Some(&host), None), Done::All);
        assert_eq!(device.waiting(), 0);
        user.write_all(b"fine").expect("writable");
        assert!(keys.fetch(&input));
        assert_eq!(keys.next(Some(&host), None), Done::Some(Effect::None));
        assert_eq!(received(&device), b"fine");
    }

    #[test]
    fn byte_typed_behind_a_redraw_arrives_though_the_sender_of_that_dies_before_it_commits() {
        let kept = Kept::new();
        let (stream, _broker) = UnixStream::pair().expect("sockets");
        let monitor = Monitor { stream, keys: kept.end(Side::Device) };
        let broker = kept.end(Side::Host);
        let (input, mut user) = std::io::pipe().expect("pipe");
        let start = || kept.start(Mux::new(true, 1, false, true));
        let mut keys = start();
        keys.want_redraw();
        let mut before = vec![0u8; JOURNAL_BYTES];
        assert!(kept.journal.read(0, &mut before));
        assert_eq!(keys.next(None, Some(&monitor)), Done::Some(Effect::Monitor));
        assert_eq!(received(&broker), REDRAW);
        // Without its last commit.
        assert!(kept.journal.write(0, &before));
        let mut keys = start();
        user.write_all(b"x").expect("writable");
        while keys.next(None, Some(&monitor)) != Done::All {}
        assert!(keys.fetch(&input));
        assert_eq!(keys.next(None, Some(&monitor)), Done::Some(Effect::Monitor));
        assert_eq!(received(&broker), b"x");
    }
}
