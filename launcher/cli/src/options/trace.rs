//! `-trace`, the spelling of later QEMU versions, with two outputs of our own: `timeline=` and `logs=`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use bulkhead_config::TraceSwitch;

use crate::draft::Draft;
use crate::error::{OptionError, Stop};
use crate::options::Given;
use crate::options::params::{Params, split_commas};

/// `-trace [[enable=]PATTERN][,events=FILE][,file=FILE][,timeline=FILE][,logs=DIR]`, `-trace help`.
pub fn trace(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    let mut items = split_commas(given.value);
    if items.first().is_some_and(|first| first == "help" || first == "?") {
        return Err(Stop::Print(bulkhead_broker::trace_help()));
    }
    // The first word may stand without its name.
    if let Some(first) = items.first_mut().filter(|first| !first.as_bytes().contains(&b'=')) {
        let mut named = std::ffi::OsString::from("enable=");
        named.push(&*first);
        *first = named;
    }
    let mut params = Params::new(given, &items, &["enable", "events", "file", "timeline", "logs"])?;
    if let Some(pattern) = params.text("enable")? {
        if pattern.trim_start_matches('-').is_empty() {
            return Err(given.bad("no event pattern (-trace help for list)").into());
        }
        draft.config.trace.switches.push(TraceSwitch::Pattern(pattern));
    }
    let path = |name: &str, value: Option<std::ffi::OsString>| match value {
        Some(value) if value.is_empty() => Err(given.bad(format!("{name}= has no file name"))),
        value => Ok::<Option<PathBuf>, OptionError>(value.map(|value| OsStr::new(&value).into())),
    };
    if let Some(file) = path("events", params.raw("events"))? {
        draft.config.trace.switches.push(TraceSwitch::File(file));
    }
    let trace = &mut draft.config.trace;
    for (name, field) in
        [("file", &mut trace.file), ("timeline", &mut trace.timeline), ("logs", &mut trace.logs)]
    {
        if let Some(value) = path(name, params.raw(name))? {
            *field = Some(value);
        }
    }
    Ok(())
}
