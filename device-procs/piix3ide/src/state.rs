//! Saved form: everything that a guest can observe of both channels.

use bytemuck::{Pod, Zeroable};

/// Version of [`Saved`].
pub const VERSION: u32 = 1;

/// What a drive is doing; field `phase` of [`Drive`].
pub mod phase {
    /// Nothing.
    pub const IDLE: u8 = 0;
    /// Waits for the back end before a PIO data-in block.
    pub const PIO_READ: u8 = 1;
    /// The host reads the buffer.
    pub const PIO_IN: u8 = 2;
    /// The host fills the buffer.
    pub const PIO_OUT: u8 = 3;
    /// Waits for the back end after PIO data-out.
    pub const PIO_WRITE: u8 = 4;
    /// A DMA command waits for the bus master to be started.
    pub const DMA_WAIT: u8 = 5;
    /// DMA to memory waits for the back end.
    pub const DMA_READ: u8 = 6;
    /// DMA from memory waits for the back end.
    pub const DMA_WRITE: u8 = 7;
    /// A flush waits for the back end.
    pub const FLUSH: u8 = 8;
    /// The host sends a command packet.
    pub const PACKET: u8 = 9;
    /// Waits for the back end before a packet data-in block.
    pub const PACKET_READ: u8 = 10;
    /// The host reads a packet command's data.
    pub const PACKET_IN: u8 = 11;
    /// Last one, for checks.
    pub const LAST: u8 = PACKET_IN;
}

/// One drive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Drive {
    /// Byte offset in the image of the next chunk.
    pub offset: u64,
    /// Bytes of the command not yet transferred to or from the back end.
    pub left: u64,
    /// Sequence number of the last back-end request.
    pub sequence: u64,
    /// Bytes in the buffer.
    pub filled: u32,
    /// Bytes of the buffer already moved by the host.
    pub moved: u32,
    /// End of the present data-request block in the buffer.
    pub block_end: u32,
    /// Medium generation last seen.
    pub generation: u32,
    /// Command being executed.
    pub command: u8,
    /// See [`phase`].
    pub phase: u8,
    /// Status register.
    pub status: u8,
    /// Error register.
    pub error: u8,
    /// Features register and its previous content.
    pub features: [u8; 2],
    /// Count register and its previous content.
    pub count: [u8; 2],
    /// LBA registers low, mid, high and their previous contents.
    pub lba: [[u8; 2]; 3],
    /// Sectors per block of READ/WRITE MULTIPLE, 0 when off.
    pub multiple: u8,
    /// The transfer uses DMA.
    pub dma: u8,
    /// Selected transfer mode, as SET FEATURES gives it.
    pub mode: u8,
    /// Write cache enabled.
    pub write_cache: u8,
    /// SMART enabled.
    pub smart: u8,
    /// Sense key, code, qualifier of a packet device.
    pub sense: [u8; 3],
    /// Medium change not yet reported.
    pub changed: u8,
    /// Tray locked.
    pub locked: u8,
    /// Byte-count limit of a packet data block.
    pub limit: u16,
    /// Command packet.
    pub packet: [u8; 12],
    /// Logical geometry set by INITIALIZE DEVICE PARAMETERS: heads, sectors per track; zero for the default.
    pub heads: u8,
    /// See `heads`.
    pub sectors: u8,
    /// Back-end slot in use.
    pub slot: u8,
    /// Padding.
    pub pad: [u8; 7],
}

impl Drive {
    /// Back-end slot in use.
    pub fn slot(&self) -> usize {
        usize::from(self.slot)
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
    /// Interrupt request of the selected drive.
    pub intrq: u8,
    /// Padding.
    pub pad: [u8; 2],
}

/// Both channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Saved {
    /// Primary and secondary.
    pub channels: [Channel; 2],
}

const _: () = assert!(size_of::<Saved>() <= bulkhead_bus::chip::STATE_MAX);
