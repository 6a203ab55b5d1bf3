//! A block back end: positioned input and output on the image files it was given.

use super::{Call, Test, any, only};

pub const CALLS: &[Call] = &[
    any(libc::SYS_pread64, "image reads"),
    any(libc::SYS_pwrite64, "image and overlay writes"),
    any(libc::SYS_fdatasync, "flush, write-through"),
    only(
        libc::SYS_lseek,
        &[Test::Is(2, libc::SEEK_END as u64)],
        "length of an image that takes whole blocks only, before a write at its end",
    ),
    any(libc::SYS_ftruncate, "the same image cut to its length after that write"),
];
