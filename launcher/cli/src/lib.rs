//! The launcher: reads QEMU 0.10.4's command line, prints help and lists, and hands a `MachineConfig` to the broker,
//! whose process it then is.
//!
//! Nothing is opened here. A command line that is wrong, or that asks for something that is not built yet, ends with one
//! line on standard error and exit status 1 before anything is started.

#![forbid(unsafe_code)]

pub mod draft;
pub mod error;
pub mod options;
pub mod usage;

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bulkhead_config::{MachineConfig, Target};

use crate::draft::Draft;
use crate::error::{OptionError, Stop, one_line};
use crate::options::{Action, Given};

/// What a good command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The machine.
    pub config: MachineConfig,
    /// A line for the user before the machine starts.
    pub notice: Option<&'static str>,
}

const HEADLESS: &str = "no display yet, running headless (-nographic puts the serial port on the terminal)";

/// Parses `args`, the words after the program name. `program` is that name, without folders.
pub fn parse<I>(program: &str, target: Target, args: I) -> Result<Request, Stop>
where
    I: IntoIterator<Item = OsString>,
{
    let mut draft = Draft::new(program, target);
    let mut args = args.into_iter();
    while let Some(word) = args.next() {
        let Some(name) = option_name(&word) else {
            options::drive::bare(&mut draft, &word)?;
            continue;
        };
        let row = name
            .to_str()
            .and_then(options::find)
            .ok_or_else(|| OptionError::Invalid(word.to_string_lossy().into_owned()))?;
        match row.action {
            Action::Flag(set) => set(&mut draft),
            Action::Value(parse) => {
                let value = args.next().ok_or(OptionError::MissingArgument(row.name))?;
                parse(&mut draft, &Given { name: row.name, value: &value })?;
            }
            Action::Help => return Err(Stop::Print(usage::help(program))),
            Action::Version => return Err(Stop::Print(usage::version())),
            Action::NotYet => return Err(OptionError::NotSupported(format!("-{}", row.name)).into()),
        }
    }
    let headless = !draft.config.nographic && !draft.display_declined;
    let config = draft.finish()?;
    Ok(Request { config, notice: headless.then_some(HEADLESS) })
}

/// The name in `-name` or `--name`; `None` when `word` is no option.
fn option_name(word: &OsStr) -> Option<&OsStr> {
    let name = word.as_bytes().strip_prefix(b"-")?;
    Some(OsStr::from_bytes(name.strip_prefix(b"-").unwrap_or(name)))
}

/// The whole program: parses the process's arguments, runs the machine, exits with its status.
pub fn main(target: Target) -> ! {
    let mut args = std::env::args_os();
    let path = args.next().unwrap_or_default();
    let program = Path::new(&path).file_name().map_or("qemu".into(), OsStr::to_string_lossy);
    let status = match parse(&program, target, args) {
        Ok(request) => bulkhead_broker::run(request.config, request.notice),
        // A reader that closes early (`-h | head`) is no failure.
        Err(Stop::Print(text)) => {
            let _ = std::io::stdout().write_all(text.as_bytes());
            0
        }
        Err(Stop::Error(error)) => {
            complain(&program, &error.to_string());
            1
        }
    };
    std::process::exit(status)
}

/// One line on standard error. If nobody can read it, there is nobody to tell.
fn complain(program: &str, message: &str) {
    let line = format!("{}\n", one_line(&format!("{program}: {message}")));
    let _ = std::io::stderr().write_all(line.as_bytes());
}

#[cfg(test)]
mod tests;
