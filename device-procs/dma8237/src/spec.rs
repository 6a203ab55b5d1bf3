//! The DMA controllers of the PC/AT, after Intel "8237A High Performance Programmable DMA Controller" (1993) and Intel "82371SB
//! (PIIX3)", section "DMA registers".

/// Region of ports 0x00..=0x0f: channels 0 to 3, bytes.
pub const BYTES: u8 = 0;
/// Region of ports 0x80..=0x8f: page registers.
pub const PAGES: u8 = 1;
/// Region of ports 0xc0..=0xdf: channels 4 to 7, words; every other port.
pub const WORDS: u8 = 2;

/// Register 0..=7: address (even) and count (odd) of a channel, low byte then high byte by the flip-flop. RW.
pub const CHANNELS_END: u64 = 8;
/// Status (RO), command (WO).
pub const STATUS_COMMAND: u64 = 0x8;
/// Request, WO.
pub const REQUEST: u64 = 0x9;
/// Mask of one channel, WO.
pub const MASK_ONE: u64 = 0xa;
/// Mode of one channel, WO.
pub const MODE: u64 = 0xb;
/// Clear the flip-flop, WO.
pub const CLEAR_FLIP_FLOP: u64 = 0xc;
/// Temporary (RO), master clear (WO).
pub const MASTER_CLEAR: u64 = 0xd;
/// Clear all masks, WO.
pub const CLEAR_MASKS: u64 = 0xe;
/// All masks, RW.
pub const MASK_ALL: u64 = 0xf;

/// Request and mask register: channel number.
pub const CHANNEL: u8 = 0x03;
/// Request and mask register: set instead of clear.
pub const SET: u8 = 0x04;

/// Page register port (offset from 0x80) of each channel; channel 4 is the cascade and has the refresh page.
pub const PAGE_OF: [u8; 8] = [0x7, 0x3, 0x1, 0x2, 0xf, 0xb, 0x9, 0xa];
