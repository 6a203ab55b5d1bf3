//! The saved form of the MC146818A.

use bytemuck::{Pod, Zeroable};

use crate::spec::BYTES;

/// Everything that a guest can observe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct State {
    /// Number of the update after which the time registers have their present value; update n ends at guest time
    /// n seconds - `phase`.
    pub updates: u64,
    /// Number of the last periodic tick accounted for.
    pub periods: u64,
    /// Nanoseconds that the divider chain is ahead of guest time, below 1,000,000,000.
    pub phase: u32,
    /// Periodic ticks owed to the guest.
    pub lost: u32,
    /// Edges of the interrupt line inside one transaction, wrapping.
    pub pulses: u32,
    /// Index register, without the NMI mask bit.
    pub index: u8,
    /// Zero.
    pub padding: [u8; 3],
    /// Time, alarm, registers A to D and memory. A has no UIP, C no IRQF: those are derived.
    pub cmos: [u8; BYTES],
}
