//! Why a command line does not become a machine.

use thiserror::Error;

/// One rejected option. The text is what follows the program name on the one line that the user sees.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum OptionError {
    /// No such option; the text is the argument as typed, dashes included.
    #[error("{0}: invalid option")]
    Invalid(String),
    /// The option came last and lacks its argument.
    #[error("-{0}: requires an argument")]
    MissingArgument(&'static str),
    /// The manual documents it, this program does not have it yet. The text is the option, with the part of the
    /// argument that matters.
    #[error("{0}: not supported yet")]
    NotSupported(String),
    /// A value that the option cannot take.
    #[error("{what}: {reason}")]
    Value {
        /// The option and its argument.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Why parsing ended before a machine was described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The user asked for a text (`-h`, `-M ?`): print it, exit status 0.
    Print(String),
    /// Exit status 1.
    Error(OptionError),
}

impl From<OptionError> for Stop {
    fn from(error: OptionError) -> Self {
        Stop::Error(error)
    }
}

/// `text` with control characters spelled out, so that a message stays on one line whatever an argument holds.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}
