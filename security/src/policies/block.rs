//! A block back end: positioned input and output on the image files it was given.

use super::{Call, any};

pub const CALLS: &[Call] = &[
    any(libc::SYS_pread64, "image reads"),
    any(libc::SYS_preadv, "image reads"),
    any(libc::SYS_pwrite64, "image and overlay writes"),
    any(libc::SYS_pwritev, "image and overlay writes"),
    any(libc::SYS_fdatasync, "flush, write-through"),
    any(libc::SYS_fsync, "flush of a grown image"),
    any(libc::SYS_fallocate, "discard"),
    any(libc::SYS_ftruncate, "overlay growth"),
    any(libc::SYS_lseek, "holes of sparse images; size of a device"),
    any(libc::SYS_fstat, "size of the image"),
];
