//! The one kind of error that ends a start: a line for the user.

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

/// The kernel's reason in words, without the number that the standard library adds.
pub fn reason(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_lowercase(),
        None => error.to_string(),
    }
}
