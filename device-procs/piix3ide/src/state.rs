//! Saved form: everything that a guest can observe of both channels.

use bulkhead_bus::links::BLOCK_DATA;
use bytemuck::{Pod, Zeroable};

use crate::requests::WINDOW;

/// Version of [`Saved`].
pub const VERSION: u32 = 4;

/// What a drive is doing; field `phase` of [`Drive`].
pub mod phase {
    /// Nothing.
    pub const IDLE: u8 = 0;
    /// A read waits for the back end, or its data for the bus master.
    pub const FETCH: u8 = 1;
    /// The host reads the buffer through the data port.
    pub const DATA_IN: u8 = 2;
    /// A PIO write waits for its buffer, which an abandoned request still uses.
    pub const WAIT_BUFFER: u8 = 3;
    /// The host fills the buffer through the data port.
    pub const DATA_OUT: u8 = 4;
    /// A PIO write waits for the back end.
    pub const STORE: u8 = 5;
    /// A DMA write: chunks are taken from memory and written.
    pub const PULL: u8 = 6;
    /// A flush waits for the back end.
    pub const FLUSH: u8 = 7;
    /// The host sends a command packet.
    pub const PACKET: u8 = 8;
    /// A prepared reply waits for the bus master.
    pub const REPLY_DMA: u8 = 9;
    /// Last one, for checks.
    pub const LAST: u8 = REPLY_DMA;
}

/// One drive.
///
/// Requests to the back end are numbered; `head..next` are those of the command at work that count. Together with `phase`,
/// `offset` and `left` they say everything about each of them (see the module `requests`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Drive {
    /// Byte offset in the image of request `head`.
    pub offset: u64,
    /// Bytes of the command from there on.
    pub left: u64,
    /// Number of the oldest request that counts.
    pub head: u64,
    /// Number of the next request.
    pub next: u64,
    /// Guest time in nanoseconds until which the end of a PIO write is held back; 0 for not, 1 when that
    /// time has passed.
    pub hold: u64,
    /// Bytes in the buffer.
    pub filled: u32,
    /// Bytes of the buffer already moved by the host or the bus master.
    pub moved: u32,
    /// End of the present data-request block in the buffer.
    pub block_end: u32,
    /// Medium generation last seen.
    pub generation: u32,
    /// Bytes of a data-request block; of a packet command, the byte-count limit.
    pub limit: u16,
    /// Command being executed.
    pub command: u8,
    /// See [`phase`].
    pub phase: u8,
    /// Status register.
    pub status: u8,
    /// Error register.
    pub error: u8,
    /// Interrupt pending.
    pub intrq: u8,
    /// Sectors per block of READ/WRITE MULTIPLE, 0 when off.
    pub multiple: u8,
    /// Features register and its previous content.
    pub features: [u8; 2],
    /// Count register and its previous content.
    pub count: [u8; 2],
    /// LBA registers low, mid, high and their previous contents.
    pub lba: [[u8; 2]; 3],
    /// The transfer uses DMA.
    pub dma: u8,
    /// The buffer is the reply slot, not that of request `head`.
    pub reply: u8,
    /// The next data-request block is announced by an interrupt.
    pub announce: u8,
    /// The command ends with a flush: forced unit access, or the write cache is off.
    pub durable: u8,
    /// DMA mode as SET FEATURES gave it, 0 for none.
    pub mode: u8,
    /// Write cache enabled.
    pub write_cache: u8,
    /// SMART enabled.
    pub smart: u8,
    /// Sense key, code, qualifier of a packet device.
    pub sense: [u8; 3],
    /// Medium change not yet reported as a unit attention.
    pub changed: u8,
    /// Medium event not yet reported to GET EVENT STATUS NOTIFICATION.
    pub event: u8,
    /// Tray locked.
    pub locked: u8,
    /// Tray open: the guest ejected the medium.
    pub open: u8,
    /// Command packet.
    pub packet: [u8; 12],
    /// Logical geometry set by INITIALIZE DEVICE PARAMETERS: heads, sectors per track; zero for the default.
    pub heads: u8,
    /// See `heads`.
    pub sectors: u8,
    /// PIO writes done, wrapping: decides which are held back.
    pub writes: u8,
    /// Padding.
    pub pad: u8,
}

impl Drive {
    /// Checks what the rest of the chip relies on. Every state that a running chip can be in passes.
    pub(crate) fn validate(&self) -> Result<(), &'static str> {
        if self.phase > phase::LAST {
            return Err("unknown phase");
        }
        if self.filled as usize > BLOCK_DATA || self.block_end > self.filled || self.moved > BLOCK_DATA as u32
        {
            return Err("buffer indices out of range");
        }
        if self.next.wrapping_sub(self.head) > WINDOW {
            return Err("too many requests in flight");
        }
        if self.next == u64::MAX || self.offset.checked_add(self.left).is_none() {
            return Err("counters out of range");
        }
        let waits = matches!(self.phase, phase::FETCH | phase::STORE | phase::FLUSH)
            || self.phase == phase::DATA_IN && self.reply == 0;
        if waits && self.next == self.head {
            return Err("a wait for no request");
        }
        Ok(())
    }
}

/// One channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Channel {
    /// Drives 0 and 1.
    pub drives: [Drive; 2],
    /// Descriptor table register.
    pub table: u32,
    /// Next descriptor.
    pub next: u32,
    /// Memory address within the present descriptor.
    pub address: u32,
    /// Bytes left in the present descriptor.
    pub room: u32,
    /// Rises of the interrupt line that its level does not show: it was high before the access, too.
    pub pulses: u32,
    /// The present descriptor is the last.
    pub last: u8,
    /// Bus master command register.
    pub bm_command: u8,
    /// Bus master status register.
    pub bm_status: u8,
    /// Device register.
    pub device: u8,
    /// Device control register.
    pub control: u8,
    /// Padding.
    pub pad: [u8; 7],
}

/// Both channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Saved {
    /// Primary and secondary.
    pub channels: [Channel; 2],
}

const _: () = assert!(size_of::<Saved>() <= bulkhead_bus::chip::STATE_MAX);
