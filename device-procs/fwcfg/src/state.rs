//! The saved form of fw_cfg.

use bytemuck::{Pod, Zeroable};

/// Everything that a guest can observe; the items themselves are configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct State {
    /// Guest-physical address of the access structure of the transfer under way.
    pub access: u64,
    /// Where its next byte goes.
    pub target: u64,
    /// Guest time in nanoseconds at which it goes on.
    pub resume_at: u64,
    /// Bytes of it that are left.
    pub left: u32,
    /// Next byte of the selected item.
    pub position: u32,
    /// Selected key.
    pub key: u16,
    /// 1: a transfer is under way.
    pub busy: u8,
    /// Zero.
    pub padding: [u8; 5],
    /// DMA address register as written, big-endian.
    pub dma: [u8; 8],
}
