//! Command lines and what they mean.

mod lines;
mod manual;
mod storm;

use std::ffi::OsString;

use bulkhead_config::{MachineConfig, Target};

use crate::error::Stop;
use crate::{Request, parse};

/// Parses words for `qemu-system-x86_64` under the name `qemu`.
fn request(words: &[&str]) -> Result<Request, Stop> {
    parse("qemu", Target::X86_64, words.iter().map(OsString::from))
}

/// Splits at blanks; for command lines without blanks inside words.
fn line(text: &str) -> Result<Request, Stop> {
    request(&text.split_whitespace().collect::<Vec<_>>())
}

#[track_caller]
fn good(text: &str) -> MachineConfig {
    match line(text) {
        Ok(request) => request.config,
        Err(stop) => panic!("{text}: {stop:?}"),
    }
}

/// The one line that follows `qemu: `.
#[track_caller]
fn error(words: &[&str]) -> String {
    match request(words) {
        Err(Stop::Error(error)) => error.to_string(),
        other => panic!("{words:?}: {other:?}"),
    }
}

#[track_caller]
fn printed(text: &str) -> String {
    match line(text) {
        Err(Stop::Print(text)) => text,
        other => panic!("{text}: {other:?}"),
    }
}
