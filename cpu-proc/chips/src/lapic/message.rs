//! What travels between interrupt controllers.

use serde::{Deserialize, Serialize};

/// Delivery mode, three bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeliveryMode {
    /// To every CPU addressed.
    Fixed,
    /// To the addressed CPU of the lowest priority.
    LowestPriority,
    /// System management interrupt.
    Smi,
    /// Non-maskable interrupt.
    Nmi,
    /// Processor reset.
    Init,
    /// Start-up at page `vector`.
    Startup,
    /// The vector comes from the 8259.
    ExtInt,
    /// Code 3, which means nothing.
    Reserved,
}

impl DeliveryMode {
    /// From the three bits at 10:8 of an LVT entry, an ICR or a redirection entry.
    #[must_use]
    pub fn from_bits(word: u32) -> Self {
        match word >> 8 & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::Startup,
            7 => Self::ExtInt,
            _ => Self::Reserved,
        }
    }
}

/// Addressees of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// By APIC id; FFh is everybody.
    Physical(u8),
    /// By logical address.
    Logical(u8),
    /// The sender.
    Sender,
    /// Everybody.
    All,
    /// Everybody but the sender.
    Others,
}

/// An interrupt message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Vector.
    pub vector: u8,
    /// Delivery mode.
    pub mode: DeliveryMode,
    /// Addressees.
    pub destination: Destination,
    /// Level triggered.
    pub level: bool,
}
