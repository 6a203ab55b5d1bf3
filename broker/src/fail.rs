//! The one kind of error that ends a start: a line for the user.

use std::io::Write;

/// One clear line, without the program's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fail(pub String);

impl Fail {
    /// From anything that prints.
    pub fn new(text: impl std::fmt::Display) -> Fail {
        Fail(text.to_string())
    }
}

impl From<nix::errno::Errno> for Fail {
    fn from(error: nix::errno::Errno) -> Fail {
        Fail(error.desc().to_owned())
    }
}

/// A line, or several, for the user on standard error. When nobody reads it any more there is nobody to tell, and the machine goes on.
pub fn tell(text: std::fmt::Arguments<'_>) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// The kernel's reason in words, without the number that the standard library adds.
pub fn reason(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_lowercase(),
        None => error.to_string(),
    }
}
