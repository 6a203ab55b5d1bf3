//! The saved form of port 92h.

use bytemuck::{Pod, Zeroable};

/// Everything that a guest can observe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct State {
    /// Resets ever asked for, wrapping.
    pub resets: u32,
    /// The port.
    pub value: u8,
    /// Zero.
    pub padding: [u8; 3],
}
