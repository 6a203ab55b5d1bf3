//! The saved form of the countdown.

use bytemuck::{Pod, Zeroable};

/// Everything that a guest can observe. Plain data without implicit padding; a change of layout or meaning takes a new
/// [`crate::VERSION`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct State {
    /// Guest time in nanoseconds at which the countdown ends; meaningful while `running`.
    pub end: u64,
    /// 1 while counting down.
    pub running: u8,
    /// STATUS register.
    pub status: u8,
    /// Zero.
    pub padding: [u8; 6],
}
