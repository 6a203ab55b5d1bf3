//! System control port A, after IBM "PS/2 Hardware Interface Technical Reference" (1988), "System Control Port A (hex 0092)".

/// Bit 0: alternate hot reset. Going from 0 to 1 pulses the processor's reset.
pub const HOT_RESET: u8 = 1 << 0;
/// Bit 1: alternate gate A20.
pub const GATE_A20: u8 = 1 << 1;
/// Bits 3, 6, 7: security lock latch and activity lights, kept but without effect.
pub const KEPT: u8 = 0xc8;
