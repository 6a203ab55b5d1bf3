//! The broker's end of a device file: readiness, and requests outside the register path (layout in [`crate::control`]).

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::attempts::Act;
use crate::bell::Bell;
use crate::chip::Control;
use crate::control::{
    REPLY, REPLY_DATA, REPLY_LEN, REPLY_MAX, REPLY_STATUS, REQUEST, REQUEST_DATA, REQUEST_LEN, REQUEST_MAX,
};
use crate::device::{ATTEMPTS, BEGUN, CONTROL, HEAD, PING, PONG, READY, READY_AT, TAIL};
use crate::sys::{self, Mapping};
use crate::wire;

/// Why a request got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MailboxError {
    /// The device said no, and why.
    #[error("{0}")]
    Refused(String),
    /// No answer in time.
    #[error("the device does not answer")]
    Timeout,
    /// The request does not fit.
    #[error("request too long")]
    TooLong,
}

/// Broker's handle of one device.
#[derive(Debug)]
pub struct Mailbox {
    map: Mapping,
    bell: Bell,
    number: u32,
    /// The last request got no answer in time, and may still be looked at.
    withdrawn: bool,
}

impl Mailbox {
    /// Over the device's file and bell.
    pub fn new(map: Mapping, bell: Bell) -> Mailbox {
        let number = map.word(CONTROL + REQUEST).load(Ordering::SeqCst);
        Mailbox { map, bell, number, withdrawn: false }
    }

    /// Whether the device has said that it is jailed and serving.
    pub fn is_ready(&self) -> bool {
        self.map.word(READY).load(Ordering::SeqCst) != 0
    }

    /// Waits at most `timeout` for that.
    pub fn wait_ready(&self, timeout: Duration) -> bool {
        sys::futex_wait(self.map.word(READY), 0, Some(timeout));
        self.is_ready()
    }

    /// While no process serves: the next one is not ready yet.
    pub fn clear_ready(&self) {
        self.map.word(READY).store(0, Ordering::SeqCst);
    }

    /// When the device said that it serves, in monotonic nanoseconds; the device's claim.
    pub fn ready_at(&self) -> Option<u64> {
        self.is_ready().then(|| self.map.dword(READY_AT).load(Ordering::SeqCst))
    }

    /// Requests completed, and whether there is more to do, for the detection of a hang. An answered ping completes nothing: a device
    /// may answer each of them and none of its requests. Claims.
    pub fn progress(&self) -> (u32, bool) {
        let word = |at| self.map.word(at).load(Ordering::SeqCst);
        let head = word(HEAD);
        // One more than the tail: the CPU has yet to count what is done already, which nobody can hurry.
        let stands = !matches!(word(TAIL).wrapping_sub(head), 0 | u32::MAX);
        (head, stands || word(PING) != word(PONG))
    }

    /// Asks whether the device lives; it counts as work to be done.
    pub fn ping(&self) {
        let word = self.map.word(PING);
        sys::publish(word, word.load(Ordering::SeqCst).wrapping_add(1));
        self.bell.ring();
    }

    /// Requests completed. A claim.
    pub fn head(&self) -> u32 {
        self.map.word(HEAD).load(Ordering::SeqCst)
    }

    /// What besides a request is under way, and how often it was begun. A claim.
    pub fn aside(&self) -> Option<(Act, u32)> {
        Act::ALL.into_iter().map(|act| (act, act.begun(&self.map))).find(|(_, begun)| *begun > 0)
    }

    /// The request under way and how often it was begun. Claims.
    pub fn attempts(&self) -> (u32, u32) {
        let word = self.map.dword(ATTEMPTS).load(Ordering::SeqCst);
        ((word >> 32) as u32, (word & !BEGUN) as u32)
    }

    /// While no process serves: the last one died of what was under way, unless `forgiven`.
    pub fn settle(&self, forgiven: bool) {
        let word = self.map.dword(ATTEMPTS);
        let now = word.load(Ordering::SeqCst);
        let count = now & !BEGUN;
        // A process that died before it began the request has added nothing that could be taken off.
        let added = now & BEGUN != 0 && count as u32 != 0;
        word.store(count - u64::from(added && forgiven), Ordering::SeqCst);
        Act::ALL.into_iter().for_each(|act| act.settle(&self.map, forgiven));
    }

    /// Makes the device look at its clock and links.
    pub fn ring(&self) {
        self.bell.ring();
    }

    /// Sends a request and waits at most `timeout` for its answer. A device that has not begun by then does not do it any more.
    ///
    /// # Errors
    /// See [`MailboxError`].
    pub fn request(&mut self, request: &Control, timeout: Duration) -> Result<Vec<u8>, MailboxError> {
        if timeout.is_zero() {
            // Or a device that has its answers ready would get as many questions as it likes, whatever time they were given.
            return Err(MailboxError::Timeout);
        }
        let end = Instant::now() + timeout;
        if self.withdrawn {
            // Or the device could take what follows for the request that has the old number, and do it twice.
            self.await_reply(end)?;
            self.withdrawn = false;
        }
        let bytes = wire::encode(request).map_err(|_| MailboxError::TooLong)?;
        if bytes.len() > REQUEST_MAX || !self.map.write(CONTROL + REQUEST_DATA, &bytes) {
            return Err(MailboxError::TooLong);
        }
        self.map.word(CONTROL + REQUEST_LEN).store(bytes.len() as u32, Ordering::Relaxed);
        self.number = self.number.wrapping_add(1);
        sys::publish(self.map.word(CONTROL + REQUEST), self.number);
        self.bell.ring();
        if let Err(error) = self.await_reply(end) {
            // Nothing is no request, and refused as such.
            self.map.word(CONTROL + REQUEST_LEN).store(0, Ordering::SeqCst);
            self.withdrawn = true;
            return Err(error);
        }
        let len = (self.map.word(CONTROL + REPLY_LEN).load(Ordering::Relaxed) as usize).min(REPLY_MAX);
        let status = self.map.word(CONTROL + REPLY_STATUS).load(Ordering::Relaxed);
        let mut reply = vec![0u8; len];
        let _ = self.map.read(CONTROL + REPLY_DATA, &mut reply);
        match status {
            0 => Ok(reply),
            _ => Err(MailboxError::Refused(String::from_utf8_lossy(&reply).into_owned())),
        }
    }

    /// Waits until `end` for the answer to the newest request.
    fn await_reply(&self, end: Instant) -> Result<(), MailboxError> {
        let word = self.map.word(CONTROL + REPLY);
        loop {
            let seen = word.load(Ordering::SeqCst);
            if seen == self.number {
                return Ok(());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(MailboxError::Timeout);
            }
            sys::futex_wait(word, seen, Some(left.min(Duration::from_millis(100))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bell::BELL_BYTES;
    use crate::device::DEVICE_BYTES;

    #[test]
    fn answered_pings_are_no_progress_of_a_ring_that_stands() {
        let map = |bytes| Mapping::anonymous(bytes).expect("memory");
        let mailbox = Mailbox::new(map(DEVICE_BYTES), Bell::new(map(BELL_BYTES)));
        assert_eq!(mailbox.progress(), (0, false));
        mailbox.map.word(TAIL).store(1, Ordering::SeqCst);
        for pong in 1..4 {
            mailbox.ping();
            mailbox.map.word(PONG).store(pong, Ordering::SeqCst);
            assert_eq!(mailbox.progress(), (0, true));
        }
        mailbox.map.word(HEAD).store(1, Ordering::SeqCst);
        assert_eq!(mailbox.progress(), (1, false));
        mailbox.ping();
        assert_eq!(mailbox.progress(), (1, true));
    }

    #[test]
    fn request_that_is_done_before_the_cpu_has_counted_it_leaves_nothing_to_do() {
        let map = |bytes| Mapping::anonymous(bytes).expect("memory");
        let mailbox = Mailbox::new(map(DEVICE_BYTES), Bell::new(map(BELL_BYTES)));
        mailbox.map.word(HEAD).store(1, Ordering::SeqCst);
        assert_eq!(mailbox.progress(), (1, false));
        mailbox.map.word(HEAD).store(2, Ordering::SeqCst);
        assert_eq!(mailbox.progress(), (2, true), "no CPU is as far behind as that");
    }
}
