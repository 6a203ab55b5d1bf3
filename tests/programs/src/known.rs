//! Differences between ours and the peer that have a reason.

use crate::compare::Difference;

/// A difference with its reason.
pub struct Known {
    /// Name of the run it is in, `*` at its end for any that begins so.
    pub run: &'static str,
    /// The unit, likewise.
    pub unit: &'static str,
    /// What the line holds.
    pub line: &'static str,
    /// Why it is right as it is.
    pub reason: &'static str,
}

/// All of them.
pub const KNOWN: &[Known] = &[];

fn fits(pattern: &str, text: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == text, |start| text.starts_with(start))
}

/// The reason of a difference in `unit` of `run`, if there is one.
pub fn reason(run: &str, unit: &str, difference: &Difference) -> Option<&'static str> {
    KNOWN
        .iter()
        .find(|known| fits(known.run, run) && fits(known.unit, unit) && difference.line.contains(known.line))
        .map(|known| known.reason)
}
