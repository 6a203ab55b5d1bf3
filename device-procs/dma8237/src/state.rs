//! The saved form of the DMA controllers.

use bytemuck::{Pod, Zeroable};

/// One channel of an 8237.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Channel {
    /// Base address: what autoinitialise reloads.
    pub base_address: u16,
    /// Base count.
    pub base_count: u16,
    /// Current address.
    pub address: u16,
    /// Current count.
    pub count: u16,
    /// Mode register, without the channel bits.
    pub mode: u8,
    /// Zero.
    pub padding: u8,
}

/// One 8237.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Controller {
    /// Channels.
    pub channels: [Channel; 4],
    /// Command register.
    pub command: u8,
    /// Terminal count bits of the status register, a bit each channel.
    pub reached: u8,
    /// Request register, a bit each channel.
    pub requests: u8,
    /// Mask register, a bit each channel.
    pub masks: u8,
    /// 1: the high byte of a 16-bit register is next.
    pub high: u8,
    /// Zero.
    pub padding: u8,
}

/// Everything that a guest can observe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct State {
    /// Channels 0 to 3, then 4 to 7.
    pub controllers: [Controller; 2],
    /// Page registers, ports 0x80..=0x8f.
    pub pages: [u8; 16],
}
