//! The saved form of the 16550A.

use bytemuck::{Pod, Zeroable};

use crate::spec::FIFO;

/// Everything that a guest can observe; registers by their data sheet names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct State {
    /// Guest time in nanoseconds of the character time-out; meaningful while `timer` is 1.
    pub timeout_at: u64,
    /// Bytes ever sent to the back end, wrapping.
    pub sent: u32,
    /// Bytes ever received from the back end, wrapping.
    pub received: u32,
    /// Break conditions of the back end seen, wrapping.
    pub breaks: u32,
    /// Edges of the interrupt line inside one transaction, wrapping.
    pub pulses: u32,
    /// Divisor latch.
    pub divisor: u16,
    /// IER.
    pub ier: u8,
    /// FCR, the bits that are kept.
    pub fcr: u8,
    /// LCR.
    pub lcr: u8,
    /// MCR.
    pub mcr: u8,
    /// LSR error bits of the byte on top, and overrun.
    pub errors: u8,
    /// MSR.
    pub msr: u8,
    /// SCR.
    pub scr: u8,
    /// Byte last read from RBR.
    pub rbr: u8,
    /// 1: the THRE interrupt is due.
    pub thre_due: u8,
    /// 1: the character time-out has passed.
    pub timeout: u8,
    /// 1: the character time-out is running.
    pub timer: u8,
    /// Bytes in `rx`.
    pub rx_len: u8,
    /// Bytes in `tx`.
    pub tx_len: u8,
    /// Zero.
    pub padding: u8,
    /// Receiver FIFO, oldest first.
    pub rx: [u8; FIFO],
    /// LSR error bits of each byte of it.
    pub rx_errors: [u8; FIFO],
    /// Transmitter FIFO, oldest first: bytes that the back end had no room for yet.
    pub tx: [u8; FIFO],
}
