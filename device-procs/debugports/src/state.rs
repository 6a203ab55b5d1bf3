//! The saved form of the debug ports.

use bytemuck::{Pod, Zeroable};

/// Everything that a guest can observe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct State {
    /// Bytes ever sent to the debug console, wrapping.
    pub sent: u32,
    /// Power-offs ever asked for, wrapping.
    pub shutdowns: u32,
    /// Exits ever asked for, wrapping.
    pub exits: u32,
    /// Value last written to the exit port.
    pub exit_value: u32,
    /// Letters of the power-off word written so far.
    pub matched: u8,
    /// Zero.
    pub padding: [u8; 3],
}
