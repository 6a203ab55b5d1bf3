//! The options of the command line: one table (`table`), a row per option of chapter 3.3 of the QEMU 0.10.4 manual.
//!
//! A row holds what the help shows and the function that turns the argument into configuration, so an option cannot
//! be documented and not parsed or the other way round.

pub mod chardev;
pub mod cpu;
pub mod date;
pub mod drive;
pub mod firmware;
pub mod machine;
pub mod numa;
pub mod params;
pub mod table;
pub mod trace;

use std::ffi::OsStr;

use crate::draft::Draft;
use crate::error::{OptionError, Stop};

pub use table::OPTIONS;

/// Headings of the manual and of `-h`, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Standard options.
    Standard,
    /// USB options; `-name` and `-uuid` stand under it in the manual.
    Usb,
    /// Display options.
    Display,
    /// i386 target only.
    I386,
    /// Network options.
    Network,
    /// Bluetooth(R) options.
    Bluetooth,
    /// Linux boot specific.
    LinuxBoot,
    /// Debug/Expert options.
    Debug,
}

impl Group {
    /// All, in order.
    pub const ALL: [Group; 8] = [
        Group::Standard,
        Group::Usb,
        Group::Display,
        Group::I386,
        Group::Network,
        Group::Bluetooth,
        Group::LinuxBoot,
        Group::Debug,
    ];

    /// The heading.
    pub fn title(self) -> &'static str {
        match self {
            Group::Standard => "Standard options",
            Group::Usb => "USB options",
            Group::Display => "Display options",
            Group::I386 => "i386 target only",
            Group::Network => "Network options",
            Group::Bluetooth => "Bluetooth(R) options",
            Group::LinuxBoot => "Linux boot specific",
            Group::Debug => "Debug/Expert options",
        }
    }
}

/// One documented way to write an option.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// Argument syntax as in the manual; empty when the option takes none.
    pub syntax: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// Whether this form works; `false` is marked in the help and refused when used.
    pub supported: bool,
}

/// What an option does.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    /// No argument.
    Flag(fn(&mut Draft)),
    /// One argument.
    Value(fn(&mut Draft, &Given) -> Result<(), Stop>),
    /// `-h`.
    Help,
    /// `-version`.
    Version,
    /// Documented, not built yet.
    NotYet,
}

/// One option.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Without the dash.
    pub name: &'static str,
    /// Heading it stands under.
    pub group: Group,
    /// Its forms; all take an argument or none does, as `action` says.
    pub forms: &'static [Form],
    /// What it does.
    pub action: Action,
}

/// The row of `name` (no dash). `-help` is the one alias, as in QEMU.
pub fn find(name: &str) -> Option<&'static Row> {
    let name = if name == "help" { "h" } else { name };
    OPTIONS.iter().find(|row| row.name == name)
}

/// An option with its argument, as the parse functions see it.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// Option name without the dash.
    pub name: &'static str,
    /// The argument.
    pub value: &'a OsStr,
}

impl<'a> Given<'a> {
    /// `-name value`, for messages.
    pub fn shown(&self) -> String {
        if self.value.is_empty() {
            format!("-{} \"\"", self.name)
        } else {
            format!("-{} {}", self.name, self.value.to_string_lossy())
        }
    }

    /// The argument as text.
    pub fn text(&self) -> Result<&'a str, OptionError> {
        self.value.to_str().ok_or_else(|| self.bad("not valid UTF-8"))
    }

    /// The argument as a file name.
    pub fn path(&self) -> Result<std::path::PathBuf, OptionError> {
        if self.value.is_empty() { Err(self.bad("empty file name")) } else { Ok(self.value.into()) }
    }

    /// The error that says what is wrong with the argument.
    pub fn bad(&self, reason: impl Into<String>) -> OptionError {
        OptionError::Value { what: self.shown(), reason: reason.into() }
    }

    /// The error for a documented argument that is not built yet.
    pub fn not_yet(&self) -> OptionError {
        OptionError::NotSupported(self.shown())
    }

    /// The same for one part of the argument: `-drive if=scsi`.
    pub fn part_not_yet(&self, part: &str) -> OptionError {
        OptionError::NotSupported(format!("-{} {part}", self.name))
    }
}
