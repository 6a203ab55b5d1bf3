//! The block back end: one process a drive. It holds an image's open files, never their names, and serves the requests of
//! one device over a block link (`bulkhead_bus::links`).
//!
//! Restart class: journaled. The link is the in-flight table; a successor runs every submitted request again in order,
//! which is idempotent, and a request counts as done only after its completion word. A flush completes after `fdatasync`.
#![forbid(unsafe_code)]

pub mod formats;
pub mod server;

pub use formats::{Image, ImageError};
