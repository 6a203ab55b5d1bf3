//! Links between a device and its back ends: byte streams (serial ports) and block requests (drives).
//!
//! Each link is one memfd mapped by exactly two processes, plus the bells of both.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::attempts::Note;
use crate::bell::{Bell, PeerBell};
use crate::sys::{self, Mapping};
use crate::trace::{Tracer, counter, events};

// ---- byte streams -------------------------------------------------------------------------------------------------

/// Bytes a direction can hold.
pub const BYTES_CAPACITY: u32 = 1 << 16;
/// Bytes of a byte-link file. Layout: per direction 128 bytes of indices (`0x00` u32 tail, `0x40` u32 head) at `0x000`
/// (device to back end) and `0x080` (back end to device); `0x104` u32 breaks sent to the device; `0x108` u32 each the positions in both
/// directions and the breaks at which the device's state counted 0, see [`ByteEnd::rebase`]; data from `0x1000` and `0x11000`.
pub const BYTES_LINK: usize = 0x1000 + 2 * BYTES_CAPACITY as usize;

/// Offsets of the device's bases.
const BASES: [usize; 3] = [0x108, 0x10c, 0x110];

/// Which end of a byte link this process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The device.
    Device,
    /// The character back end.
    Host,
}

/// One end of a byte link.
#[derive(Debug)]
pub struct ByteEnd {
    map: Mapping,
    peer: PeerBell,
    side: Side,
    tracer: Tracer,
    number: u32,
}

impl ByteEnd {
    /// Over a mapping of [`BYTES_LINK`] bytes and the peer's bell.
    pub fn new(map: Mapping, peer: Arc<Bell>, side: Side) -> ByteEnd {
        ByteEnd { map, peer: PeerBell::new(peer), side, tracer: Tracer::off(), number: 0 }
    }

    /// With the peer's bell rung by [`ByteEnd::ring_due`] only.
    #[must_use]
    pub fn ringing_later(self) -> ByteEnd {
        ByteEnd { peer: self.peer.later(), ..self }
    }

    /// Rings for what was done since the last time.
    pub fn ring_due(&self) {
        self.peer.ring_due();
    }

    /// Records and counts what goes over it, as link `number` of its process.
    #[must_use]
    pub fn traced(self, tracer: Tracer, number: u32) -> ByteEnd {
        ByteEnd { tracer, number, ..self }
    }

    /// Before bytes are sent: the other end records them later.
    fn note_sent(&self, count: usize) {
        let (counter, event, args) = match self.side {
            Side::Device => (counter::OUT, events::BYTES_OUT, [self.number.into(), count as u64, 0, 0]),
            Side::Host => (counter::IN, events::CHAR_IN, [count as u64, 0, 0, 0]),
        };
        self.tracer.count(counter, count as u64);
        self.tracer.begin(event, || args);
    }

    fn note_received(&self, count: usize) {
        let (counter, event, args) = match self.side {
            Side::Device => (counter::IN, events::BYTES_IN, [self.number.into(), count as u64, 0, 0]),
            Side::Host => (counter::OUT, events::CHAR_OUT, [count as u64, 0, 0, 0]),
        };
        self.tracer.count(counter, count as u64);
        self.tracer.begin(event, || args);
    }

    fn lane(&self, sending: bool) -> (usize, usize) {
        let to_host = (self.side == Side::Device) == sending;
        if to_host { (0x000, 0x1000) } else { (0x080, 0x1000 + BYTES_CAPACITY as usize) }
    }

    /// Device whose state was lost: its positions and breaks count from 0 at what has been sent and taken by now. Repeatable as
    /// long as nothing was sent or received since.
    pub fn rebase(&self) {
        let word = |at| self.map.word(at).load(Ordering::SeqCst);
        let now = [word(self.lane(true).0), word(self.lane(false).0 + 0x40), word(0x104)];
        for (at, value) in BASES.into_iter().zip(now) {
            self.map.word(at).store(value, Ordering::SeqCst);
        }
    }

    /// Where this end's count of the stream in one direction began.
    fn base(&self, sending: bool) -> u32 {
        match self.side {
            Side::Device => self.map.word(BASES[usize::from(!sending)]).load(Ordering::Relaxed),
            Side::Host => 0,
        }
    }

    /// Where this end stands in the stream of one direction: at its own `position` from the base on, if the indices agree with that. They
    /// are at most a ring away; others were written by a process that was taken over, and must not end the stream with it. A device
    /// then goes on where the indices are, by changing its base. A back end has none: it waits (`None`) until the device has found it.
    fn stand(&self, sending: bool, position: u32) -> Option<u32> {
        let (lane, _) = self.lane(sending);
        let tail = self.map.word(lane).load(Ordering::Acquire);
        let head = self.map.word(lane + 0x40).load(Ordering::Acquire);
        let at = position.wrapping_add(self.base(sending));
        let is_whole = tail.wrapping_sub(head) <= BYTES_CAPACITY;
        let behind_tail = tail.wrapping_sub(at) <= BYTES_CAPACITY;
        let agrees = match sending {
            // The peer may have taken what a predecessor sent and did not commit. A tail that agrees with nothing is put right by the sender.
            true => {
                let near = at.wrapping_sub(head).wrapping_add(BYTES_CAPACITY) <= 2 * BYTES_CAPACITY;
                near && (behind_tail || !is_whole)
            }
            false => behind_tail,
        };
        if agrees {
            return Some(at);
        }
        if self.side == Side::Host {
            return None;
        }
        // Behind what waits for the peer, or before what waits for this end.
        let at = if is_whole == sending { tail } else { head };
        self.map.word(BASES[usize::from(!sending)]).store(at.wrapping_sub(position), Ordering::SeqCst);
        Some(at)
    }

    /// How many bytes can be sent now.
    pub fn room(&self) -> usize {
        let (lane, _) = self.lane(true);
        let used = self.used(lane);
        (BYTES_CAPACITY - used) as usize
    }

    /// Indices are written by the peer too: the count is clamped, never trusted.
    fn used(&self, lane: usize) -> u32 {
        let tail = self.map.word(lane).load(Ordering::Acquire);
        let head = self.map.word(lane + 0x40).load(Ordering::Acquire);
        tail.wrapping_sub(head).min(BYTES_CAPACITY)
    }

    /// Copies into a lane's data from stream position `position` on, at most its capacity.
    fn copy_in(&self, data: usize, position: u32, bytes: &[u8]) {
        let slot = (position % BYTES_CAPACITY) as usize;
        let (first, rest) = bytes.split_at(bytes.len().min(BYTES_CAPACITY as usize - slot));
        // In range: the lengths are bounded by the capacity.
        let _ = self.map.write(data + slot, first);
        let _ = self.map.write(data, rest);
    }

    /// Copies out likewise.
    fn copy_out(&self, data: usize, position: u32, to: &mut [u8]) {
        let slot = (position % BYTES_CAPACITY) as usize;
        let (first, rest) = to.split_at_mut(to.len().min(BYTES_CAPACITY as usize - slot));
        let _ = self.map.read(data + slot, first);
        let _ = self.map.read(data, rest);
    }

    /// Sends as many bytes as there is room for and returns how many.
    pub fn send(&self, bytes: &[u8]) -> usize {
        let (lane, data) = self.lane(true);
        let count = bytes.len().min(self.room());
        let tail = self.map.word(lane).load(Ordering::Relaxed);
        self.copy_in(data, tail, bytes.get(..count).unwrap_or_default());
        if count > 0 {
            self.note_sent(count);
            sys::publish(self.map.word(lane), tail.wrapping_add(count as u32));
            self.peer.ring();
        }
        count
    }

    /// Bytes waiting to be received.
    pub fn waiting(&self) -> usize {
        self.used(self.lane(false).0) as usize
    }

    /// Receives into `to`, returns how many bytes.
    pub fn receive(&self, to: &mut [u8]) -> usize {
        let (lane, data) = self.lane(false);
        let count = to.len().min(self.used(lane) as usize);
        let head = self.map.word(lane + 0x40).load(Ordering::Relaxed);
        self.copy_out(data, head, to.get_mut(..count).unwrap_or_default());
        if count > 0 {
            self.note_received(count);
            sys::publish(self.map.word(lane + 0x40), head.wrapping_add(count as u32));
            self.peer.ring();
        }
        count
    }

    /// Sends with exactly-once semantics. `position` counts the bytes that this end has ever sent (wrapping) and
    /// is kept in its state; what it sent beyond its last committed position is sent again as the same bytes and changes
    /// nothing. Returns how many bytes went, to be added to the position.
    pub fn send_at(&self, position: u32, bytes: &[u8]) -> usize {
        let (lane, data) = self.lane(true);
        let capacity = BYTES_CAPACITY as i32;
        let (position, used) = match self.stand(true, position) {
            // Negative when the peer has already taken bytes that a predecessor sent and did not commit.
            Some(at) => {
                let head = self.map.word(lane + 0x40).load(Ordering::Acquire);
                (at, (at.wrapping_sub(head) as i32).clamp(-capacity, capacity))
            }
            None => (position, capacity),
        };
        let count = bytes.len().min((capacity - used) as usize);
        let taken = (-used).max(0) as usize;
        let fresh = bytes.get(taken.min(count)..count).unwrap_or_default();
        self.copy_in(data, position.wrapping_add(taken as u32), fresh);
        let end = position.wrapping_add(count as u32);
        let tail = self.map.word(lane).load(Ordering::Relaxed);
        // This end and its predecessors have been at `position` and less than a ring beyond.
        let is_wrong = tail.wrapping_sub(position) > BYTES_CAPACITY;
        if is_wrong || end.wrapping_sub(tail) as i32 > 0 {
            self.note_sent(count.min(end.wrapping_sub(tail) as usize));
            sys::publish(self.map.word(lane), end);
            self.peer.ring();
        }
        count
    }

    /// Receives with exactly-once semantics. `position` counts the bytes that this end has ever received and
    /// kept in its committed state; only bytes before it are given back as room to the peer, so a successor finds the
    /// rest again. Returns how many bytes came, to be added to the position.
    pub fn receive_at(&self, position: u32, to: &mut [u8]) -> usize {
        let (lane, data) = self.lane(false);
        let (position, waiting) = match self.stand(false, position) {
            Some(at) => {
                let tail = self.map.word(lane).load(Ordering::Acquire);
                (at, tail.wrapping_sub(at).min(BYTES_CAPACITY))
            }
            None => (position, 0),
        };
        let count = to.len().min(waiting as usize);
        self.copy_out(data, position, to.get_mut(..count).unwrap_or_default());
        if count > 0 {
            self.note_received(count);
        }
        if self.map.word(lane + 0x40).load(Ordering::Relaxed) != position {
            sys::publish(self.map.word(lane + 0x40), position);
            self.peer.ring();
        }
        count
    }

    /// Takes and forgets all that waits beyond `position`, for a device that listens to nobody. Returns how many bytes, to be added to the
    /// position; a successor that starts from an older one comes to the same end.
    pub fn skip_at(&self, position: u32) -> u32 {
        let (lane, _) = self.lane(false);
        let tail = self.map.word(lane).load(Ordering::Acquire);
        let count = tail.wrapping_sub(position.wrapping_add(self.base(false)));
        if self.map.word(lane + 0x40).load(Ordering::Relaxed) != tail {
            self.note_received(count as usize);
            sys::publish(self.map.word(lane + 0x40), tail);
            self.peer.ring();
        }
        count
    }

    /// Break conditions ever sent by the back end, or since the device lost its state.
    pub fn breaks(&self) -> u32 {
        let base = match self.side {
            Side::Device => self.map.word(BASES[2]).load(Ordering::Relaxed),
            Side::Host => 0,
        };
        self.map.word(0x104).load(Ordering::Acquire).wrapping_sub(base)
    }

    /// Back end: sends a break condition.
    pub fn send_break(&self) {
        self.send_breaks(self.breaks().wrapping_add(1));
    }

    /// Back end: has sent so many break conditions, ever; repeatable.
    pub fn send_breaks(&self, count: u32) {
        sys::publish(self.map.word(0x104), count);
        self.peer.ring();
    }

    /// Whether there is more than what was received up to `position`.
    pub fn has_more(&self, position: u32) -> bool {
        let tail = self.map.word(self.lane(false).0).load(Ordering::SeqCst);
        (1..=BYTES_CAPACITY).contains(&tail.wrapping_sub(position.wrapping_add(self.base(false))))
    }

    /// Wakes the other end for what a predecessor may not have announced.
    pub fn announce(&self) {
        self.peer.wake();
    }

    /// A number that changes whenever there is something new for this end.
    pub fn news(&self) -> u32 {
        let incoming = self.map.word(self.lane(false).0).load(Ordering::Acquire);
        let room = self.map.word(self.lane(true).0 + 0x40).load(Ordering::Acquire);
        incoming.wrapping_add(room).wrapping_add(self.breaks())
    }
}

// ---- block requests -----------------------------------------------------------------------------------------------

/// Requests in flight at most.
pub const BLOCK_SLOTS: usize = 8;
/// Data bytes a request can carry.
pub const BLOCK_DATA: usize = 128 << 10;
/// Bytes of a block-link file. Layout: `0x00` u64 image bytes, `0x08` u32 flags (1 read-only, 2 medium present, 4 write cache),
/// `0x0c` u32 medium generation; `0x20` u32 completions and back ends ever, `0x24` u32 1 once the back end serves (a futex word),
/// `0x28` u64 the host's monotonic time of that; from `0x100` 64 bytes a slot: `0x00` u32 state (0 free, 1
/// submitted, 2 done), `0x04` u32 operation, `0x08` u64 byte offset, `0x10` u32 length, `0x14` u32 status (a submitted one has 0 here, a
/// flush from the moment of its failure 1), `0x18` u64 sequence number, `0x20` what has died of it (a [`Note`], by that number); data from `0x1000`, [`BLOCK_DATA`] a slot. The file is the in-flight table: a back end that died is
/// succeeded by one that runs every submitted request again in sequence order.
pub const BLOCK_LINK: usize = 0x1000 + BLOCK_SLOTS * BLOCK_DATA;

/// What a block request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum BlockOp {
    /// Read `length` bytes at `offset`.
    Read = 1,
    /// Write them.
    Write = 2,
    /// Make all completed writes durable.
    Flush = 3,
    /// The range is no longer needed.
    Discard = 4,
}

/// Outcome of a block request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum BlockStatus {
    /// Done.
    Ok = 0,
    /// The host could not.
    Error = 1,
    /// Beyond the end of the image.
    Range = 2,
    /// Write to a read-only image.
    ReadOnly = 3,
    /// No medium.
    NoMedium = 4,
}

/// What a drive holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Medium {
    /// Image size in bytes.
    pub bytes: u64,
    /// Writes fail.
    pub read_only: bool,
    /// There is a medium.
    pub present: bool,
    /// Writes may stay in a cache until a flush.
    pub write_cache: bool,
    /// Changes when the medium does.
    pub generation: u32,
}

fn slot_at(slot: usize) -> usize {
    0x100 + slot.min(BLOCK_SLOTS - 1) * 64
}

fn data_at(slot: usize) -> usize {
    0x1000 + slot.min(BLOCK_SLOTS - 1) * BLOCK_DATA
}

fn is_any_submitted(map: &Mapping) -> bool {
    (0..BLOCK_SLOTS).any(|slot| map.word(slot_at(slot)).load(Ordering::SeqCst) == 1)
}

fn read_medium(map: &Mapping) -> Medium {
    let flags = map.word(0x08).load(Ordering::Acquire);
    Medium {
        bytes: map.dword(0x00).load(Ordering::Acquire),
        read_only: flags & 1 != 0,
        present: flags & 2 != 0,
        write_cache: flags & 4 != 0,
        generation: map.word(0x0c).load(Ordering::Acquire),
    }
}

/// The device's end of a drive.
#[derive(Debug)]
pub struct BlockClient {
    map: Mapping,
    peer: PeerBell,
    tracer: Tracer,
    number: u32,
}

impl BlockClient {
    /// Over a mapping of [`BLOCK_LINK`] bytes and the back end's bell.
    pub fn new(map: Mapping, peer: Arc<Bell>) -> BlockClient {
        BlockClient { map, peer: PeerBell::new(peer), tracer: Tracer::off(), number: 0 }
    }

    /// With the peer's bell rung by [`BlockClient::ring_due`] only.
    #[must_use]
    pub fn ringing_later(self) -> BlockClient {
        BlockClient { peer: self.peer.later(), ..self }
    }

    /// Rings for what was done since the last time.
    pub fn ring_due(&self) {
        self.peer.ring_due();
    }

    /// Records and counts its requests, as drive `number` of its device.
    #[must_use]
    pub fn traced(self, tracer: Tracer, number: u32) -> BlockClient {
        BlockClient { tracer, number, ..self }
    }

    /// The medium.
    pub fn medium(&self) -> Medium {
        read_medium(&self.map)
    }

    /// Submits a request in `slot`, which must be free, with sequence number `sequence` (requests run in that order).
    /// False, and nothing done, when the slot is busy or the length passes [`BLOCK_DATA`].
    #[must_use]
    pub fn submit(&self, slot: usize, op: BlockOp, offset: u64, length: usize, sequence: u64) -> bool {
        let at = slot_at(slot);
        if slot >= BLOCK_SLOTS || length > BLOCK_DATA || self.map.word(at).load(Ordering::Acquire) != 0 {
            return false;
        }
        self.map.word(at + 0x04).store(op as u32, Ordering::Relaxed);
        self.map.dword(at + 0x08).store(offset, Ordering::Relaxed);
        self.map.word(at + 0x10).store(length as u32, Ordering::Relaxed);
        self.map.word(at + 0x14).store(0, Ordering::Relaxed);
        self.map.dword(at + 0x18).store(sequence, Ordering::Relaxed);
        self.tracer.count(counter::BLOCKS, 1);
        self.tracer.begin(events::BLOCK_SUBMIT, || {
            [self.number.into(), sequence, offset, (length as u64) << 8 | op as u64]
        });
        sys::publish(self.map.word(at), 1);
        self.peer.ring();
        true
    }

    /// Whether the slot holds a request, and if it is done, its status. `None`: free.
    pub fn poll(&self, slot: usize) -> Option<Option<BlockStatus>> {
        let at = slot_at(slot);
        match self.map.word(at).load(Ordering::Acquire) {
            0 => None,
            2 => Some(Some(match self.map.word(at + 0x14).load(Ordering::Relaxed) {
                0 => BlockStatus::Ok,
                2 => BlockStatus::Range,
                3 => BlockStatus::ReadOnly,
                4 => BlockStatus::NoMedium,
                _ => BlockStatus::Error,
            })),
            _ => Some(None),
        }
    }

    /// The request in a slot: its sequence number and, if it is done, its status. `None`: free.
    pub fn request(&self, slot: usize) -> Option<(u64, Option<BlockStatus>)> {
        let status = self.poll(slot)?;
        Some((self.map.dword(slot_at(slot) + 0x18).load(Ordering::Relaxed), status))
    }

    /// What the request in a slot asks for, as it stands there: operation (a [`BlockOp`]), byte offset, length.
    pub fn asks(&self, slot: usize) -> (u32, u64, usize) {
        let at = slot_at(slot);
        let word = |offset| self.map.word(at + offset).load(Ordering::Relaxed);
        (word(0x04), self.map.dword(at + 0x08).load(Ordering::Relaxed), word(0x10) as usize)
    }

    /// Frees a done slot.
    pub fn release(&self, slot: usize) {
        let word = self.map.word(slot_at(slot));
        if word.load(Ordering::Acquire) == 2 {
            let get = |offset| self.map.word(slot_at(slot) + offset).load(Ordering::Relaxed);
            self.tracer.begin(events::BLOCK_DONE, || {
                let sequence = self.map.dword(slot_at(slot) + 0x18).load(Ordering::Relaxed);
                [self.number.into(), sequence, get(0x14).into(), 0]
            });
            word.store(0, Ordering::Release);
        }
    }

    /// Copies out of a slot's data.
    #[must_use]
    pub fn read_data(&self, slot: usize, at: usize, to: &mut [u8]) -> bool {
        at.checked_add(to.len()).is_some_and(|end| end <= BLOCK_DATA) && self.map.read(data_at(slot) + at, to)
    }

    /// Copies into a slot's data.
    #[must_use]
    pub fn write_data(&self, slot: usize, at: usize, from: &[u8]) -> bool {
        at.checked_add(from.len()).is_some_and(|end| end <= BLOCK_DATA)
            && self.map.write(data_at(slot) + at, from)
    }

    /// DMA from a slot's data to guest memory.
    #[must_use]
    pub fn data_to_ram(
        &self,
        slot: usize,
        at: usize,
        ram: &crate::ram::GuestRam,
        gpa: u64,
        len: usize,
    ) -> bool {
        at.checked_add(len).is_some_and(|end| end <= BLOCK_DATA)
            && ram.write_from(gpa, &self.map, data_at(slot) + at, len)
    }

    /// DMA from guest memory to a slot's data.
    #[must_use]
    pub fn data_from_ram(
        &self,
        slot: usize,
        at: usize,
        ram: &crate::ram::GuestRam,
        gpa: u64,
        len: usize,
    ) -> bool {
        at.checked_add(len).is_some_and(|end| end <= BLOCK_DATA)
            && ram.read_into(gpa, &self.map, data_at(slot) + at, len)
    }

    /// Whether the back end has a request, is awake and last ran where the caller runs: it cannot work before the caller sleeps. Without
    /// one it is only looking for more.
    pub fn waits_for_processor(&self) -> bool {
        self.peer.waits_here() && is_any_submitted(&self.map)
    }

    /// Wakes the back end for what a predecessor may not have announced.
    pub fn announce(&self) {
        self.peer.wake();
    }

    /// A number that changes whenever a request completes or the medium changes, or may have.
    pub fn news(&self) -> u32 {
        self.map.word(0x20).load(Ordering::Acquire).wrapping_add(self.map.word(0x0c).load(Ordering::Acquire))
    }
}

impl BlockOp {
    /// Word for the user.
    pub fn name(self) -> &'static str {
        match self {
            BlockOp::Read => "read",
            BlockOp::Write => "write",
            BlockOp::Flush => "flush",
            BlockOp::Discard => "discard",
        }
    }
}

/// `read of 512 bytes at 4096`.
impl std::fmt::Display for BlockRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.op {
            BlockOp::Flush => f.write_str(self.op.name()),
            op => write!(f, "{} of {} bytes at {}", op.name(), self.length, self.offset),
        }
    }
}

/// A request as the back end sees it, validated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRequest {
    /// Slot it came in.
    pub slot: usize,
    /// What to do.
    pub op: BlockOp,
    /// Byte offset in the image, unchecked against its size.
    pub offset: u64,
    /// Bytes, at most [`BLOCK_DATA`].
    pub length: usize,
}

/// The back end's end of a drive.
#[derive(Debug)]
pub struct BlockServer {
    map: Mapping,
    peer: Arc<Bell>,
    tracer: Tracer,
}

impl BlockServer {
    /// Over a mapping of [`BLOCK_LINK`] bytes and the device's bell.
    pub fn new(map: Mapping, peer: Arc<Bell>) -> BlockServer {
        BlockServer { map, peer, tracer: Tracer::off() }
    }

    /// Records and counts its requests.
    #[must_use]
    pub fn traced(self, tracer: Tracer) -> BlockServer {
        BlockServer { tracer, ..self }
    }

    fn sequence(&self, slot: usize) -> u64 {
        self.map.dword(slot_at(slot) + 0x18).load(Ordering::Relaxed)
    }

    fn note(&self, slot: usize) -> Note<'_> {
        Note::new(&self.map, slot_at(slot) + 0x20)
    }

    /// How many back ends have died of a request.
    pub fn deaths(&self, request: &BlockRequest) -> u32 {
        self.note(request.slot).deaths(self.sequence(request.slot))
    }

    /// Broker, while no back end runs: what the last one had begun latest and how often that was begun. Claims.
    pub fn doing(&self) -> Option<(BlockRequest, u32)> {
        let begun = |slot| Some(self.note(slot).begun()).filter(|begun| *begun > 0);
        let all = (0..BLOCK_SLOTS).filter_map(|slot| Some((self.request_in(slot)?, begun(slot)?)));
        all.max_by_key(|(request, _)| self.sequence(request.slot))
    }

    /// Broker, while no back end runs: the last one died of what was under way, unless `forgiven`.
    pub fn settle(&self, forgiven: bool) {
        (0..BLOCK_SLOTS).for_each(|slot| self.note(slot).settle(forgiven));
    }

    /// Records that a request is begun. False, and nothing done, when it has killed [`crate::device::DEATHS_MAX`] back ends.
    #[must_use]
    pub fn begin(&self, request: &BlockRequest) -> bool {
        if !self.note(request.slot).begin(self.sequence(request.slot)) {
            return false;
        }
        self.tracer.count(counter::BLOCKS, 1);
        self.tracer.begin(events::BLOCK_RUN, || {
            let operation = (request.length as u64) << 8 | request.op as u64;
            [self.sequence(request.slot), request.offset, operation, 0]
        });
        true
    }

    /// Records that the host could not do a submitted request. For what it says only once: whoever runs that again is not told.
    pub fn note_failure(&self, request: &BlockRequest) {
        self.map.word(slot_at(request.slot) + 0x14).store(BlockStatus::Error as u32, Ordering::SeqCst);
    }

    /// Whether a predecessor has recorded that.
    pub fn has_failed(&self, request: &BlockRequest) -> bool {
        self.map.word(slot_at(request.slot) + 0x14).load(Ordering::SeqCst) != 0
    }

    /// Records that a request has run with this outcome, which may still have to be made durable.
    pub fn end(&self, request: &BlockRequest, status: BlockStatus) {
        let bytes = match (request.op, status) {
            (BlockOp::Read, BlockStatus::Ok) => Some((counter::IN, request.length)),
            (BlockOp::Write, BlockStatus::Ok) => Some((counter::OUT, request.length)),
            (_, BlockStatus::Ok) => None,
            _ => Some((counter::FAILED, 1)),
        };
        if let Some((counter, count)) = bytes {
            self.tracer.count(counter, count as u64);
        }
        self.tracer.end(events::BLOCK_RUN, || [self.sequence(request.slot), status as u64, 0, 0]);
    }

    /// States the medium (also the broker, before start).
    pub fn set_medium(&self, medium: Medium) {
        self.map.dword(0x00).store(medium.bytes, Ordering::Relaxed);
        let flags =
            u32::from(medium.read_only) | u32::from(medium.present) << 1 | u32::from(medium.write_cache) << 2;
        self.map.word(0x08).store(flags, Ordering::Release);
        sys::publish(self.map.word(0x0c), medium.generation);
        self.peer.ring();
    }

    /// Says that this back end is in its jail and serves.
    pub fn set_ready(&self) {
        let word = self.map.word(0x24);
        self.map.dword(0x28).store(sys::monotonic_ns(), Ordering::SeqCst);
        sys::publish(word, 1);
        sys::futex_wake(word);
        // A predecessor may have died between a completion and its announcement, which is the count.
        self.map.word(0x20).fetch_add(1, Ordering::SeqCst);
        self.peer.wake();
    }

    /// Broker, while no back end runs: the next one is not ready yet.
    pub fn clear_ready(&self) {
        self.map.word(0x24).store(0, Ordering::SeqCst);
    }

    /// Broker: when the back end said that it serves, in monotonic nanoseconds; the back end's claim.
    pub fn ready_at(&self) -> Option<u64> {
        (self.map.word(0x24).load(Ordering::SeqCst) != 0).then(|| self.map.dword(0x28).load(Ordering::SeqCst))
    }

    /// Broker: completions and back ends ever, for the detection of a hang.
    pub fn completions(&self) -> u32 {
        self.map.word(0x20).load(Ordering::SeqCst)
    }

    /// Broker: waits until the back end serves, at most `timeout`. False when it does not yet.
    pub fn wait_ready(&self, timeout: std::time::Duration) -> bool {
        let word = self.map.word(0x24);
        if word.load(Ordering::SeqCst) == 0 {
            sys::futex_wait(word, 0, Some(timeout));
        }
        word.load(Ordering::SeqCst) != 0
    }

    /// The oldest submitted request, for a test that plays a back end. A request with an unknown operation, length or state is completed with an error here.
    pub fn next(&self) -> Option<BlockRequest> {
        self.pending().into_iter().next()
    }

    /// The request in a slot, free or not, if it is well formed.
    fn request_in(&self, slot: usize) -> Option<BlockRequest> {
        let at = slot_at(slot);
        let length = self.map.word(at + 0x10).load(Ordering::Relaxed) as usize;
        let op = match self.map.word(at + 0x04).load(Ordering::Relaxed) {
            1 => BlockOp::Read,
            2 => BlockOp::Write,
            3 => BlockOp::Flush,
            4 => BlockOp::Discard,
            _ => return None,
        };
        let offset = self.map.dword(at + 0x08).load(Ordering::Relaxed);
        (length <= BLOCK_DATA).then_some(BlockRequest { slot, op, offset, length })
    }

    /// Every submitted request, the oldest first. Malformed ones are completed with an error here.
    pub fn pending(&self) -> Vec<BlockRequest> {
        // Requests are submitted in their order. One that the first look has found has none before it that the second does not find;
        // what the second finds beyond it may have: it was submitted meanwhile, to a slot that was looked at already.
        let Some((newest, _)) = self.submitted().pop() else { return Vec::new() };
        let found = self.submitted().into_iter();
        found.take_while(|(number, _)| *number <= newest).map(|(_, request)| request).collect()
    }

    /// The submitted requests that one look at all slots finds, with their numbers, the oldest first.
    fn submitted(&self) -> Vec<(u64, BlockRequest)> {
        let mut found = Vec::new();
        for slot in 0..BLOCK_SLOTS {
            let at = slot_at(slot);
            let request = match self.map.word(at).load(Ordering::SeqCst) {
                0 | 2 => continue,
                1 => self.request_in(slot),
                // The device takes what it does not know for a request that runs.
                _ => None,
            };
            match request {
                Some(request) => found.push((self.sequence(slot), request)),
                None => self.complete(slot, BlockStatus::Error),
            }
        }
        found.sort_by_key(|(number, _)| *number);
        found
    }

    /// Whether anything is submitted.
    pub fn has_work(&self) -> bool {
        is_any_submitted(&self.map)
    }

    /// The device's bell: says where the device runs.
    pub fn peer(&self) -> &Bell {
        &self.peer
    }

    /// Runs `transfer` over the first `length` bytes of a slot's data in place.
    ///
    /// The device may write the same memory meanwhile; that harms only itself: `transfer` must treat the bytes as opaque
    /// (hand them to a system call), which is all that an image does with them.
    pub fn with_data<R>(&self, slot: usize, length: usize, transfer: impl FnOnce(&mut [u8]) -> R) -> R {
        let base = self.map.base().wrapping_add(data_at(slot));
        // SAFETY: `data_at` clamps the slot, the length is clamped here, so the range is inside the mapping, and this
        // end holds no other reference to it. Concurrent writes by the peer process change bytes, not types or bounds.
        transfer(unsafe { std::slice::from_raw_parts_mut(base, length.min(BLOCK_DATA)) })
    }

    /// Completes a request.
    pub fn complete(&self, slot: usize, status: BlockStatus) {
        let at = slot_at(slot);
        self.map.word(at + 0x14).store(status as u32, Ordering::Relaxed);
        self.note(slot).end();
        self.tracer.begin(events::BLOCK_COMPLETE, || [self.sequence(slot), status as u64, 0, 0]);
        sys::publish(self.map.word(at), 2);
        self.map.word(0x20).fetch_add(1, Ordering::SeqCst);
        self.peer.ring();
    }
}
