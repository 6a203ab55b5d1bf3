//! The saved form of the parallel port.

use bytemuck::{Pod, Zeroable};

/// Everything that a guest can observe; registers by their data sheet names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct State {
    /// Bytes ever sent to the back end, wrapping.
    pub sent: u32,
    /// Bytes ever received from the back end (and dropped), wrapping.
    pub received: u32,
    /// Edges of the interrupt line, wrapping.
    pub pulses: u32,
    /// Data latch.
    pub data: u8,
    /// Control, the bits that exist.
    pub control: u8,
    /// The byte that the peripheral took at the last strobe.
    pub taken: u8,
    /// 1: the back end had no room for it yet.
    pub waiting: u8,
    /// 1: it is not acknowledged yet.
    pub due: u8,
    /// Status reads that still show the acknowledge: 2 busy, 1 nAck low, 0 over.
    pub showing: u8,
    /// 1: nInit has been low since the last reset.
    pub initialised: u8,
    /// Zero.
    pub padding: u8,
}
