//! The control mailbox: the broker's requests to a device, in shared memory so that a device needs no socket.
//!
//! Layout, in the device file from [`crate::device::CONTROL`]: `0x00` u32 request number, `0x04` u32 request length, `0x40` u32 reply number (a
//! futex word), `0x44` u32 reply length, `0x48` u32 reply status (0 ok, 1 refused); request bytes from `0x100`, reply bytes from
//! `0x1000`. A request is answered exactly once: the number of the last one answered is part of the committed state. One that is
//! withdrawn has the length 0, which no request has, until it is answered; only then does the next one come.

/// Longest request in bytes.
pub const REQUEST_MAX: usize = 0xf00;
/// Longest reply in bytes.
pub const REPLY_MAX: usize = 60 << 10;
/// Bytes of the mailbox.
pub const MAILBOX_BYTES: usize = 64 << 10;
/// Offset of the request number.
pub const REQUEST: usize = 0x00;
/// Offset of the request length.
pub const REQUEST_LEN: usize = 0x04;
/// Offset of the reply number.
pub const REPLY: usize = 0x40;
/// Offset of the reply length.
pub const REPLY_LEN: usize = 0x44;
/// Offset of the reply status.
pub const REPLY_STATUS: usize = 0x48;
/// Offset of the request bytes.
pub const REQUEST_DATA: usize = 0x100;
/// Offset of the reply bytes.
pub const REPLY_DATA: usize = 0x1000;
