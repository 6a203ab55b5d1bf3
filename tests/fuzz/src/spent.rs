//! What campaigns have spent on each target, over all of them and all versions of the code: an hour for each of thirty targets is more than
//! one evening holds.

use std::fs::OpenOptions;
use std::io::{Read, Result, Seek, Write};
use std::path::{Path, PathBuf};

use crate::corpus;

/// What one target has had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spent {
    target: String,
    seconds: u64,
    runs: u64,
}

/// The file: a line `TARGET SECONDS RUNS` for each target, beside the corpora.
fn file() -> PathBuf {
    corpus::kept("spent")
}

fn parse(text: &str) -> Vec<Spent> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let target = words.next()?.to_owned();
        Some(Spent { target, seconds: words.next()?.parse().ok()?, runs: words.next()?.parse().ok()? })
    };
    text.lines().filter_map(line).collect()
}

/// Seconds of processor time that a target has had.
#[must_use]
pub fn seconds(target: &str) -> u64 {
    let all = parse(&std::fs::read_to_string(file()).unwrap_or_default());
    all.iter().find(|one| one.target == target).map_or(0, |one| one.seconds)
}

/// Adds to what a target has had. Others may do so at the same time.
///
/// # Errors
/// The host's.
pub fn add(target: &str, seconds: u64, runs: u64) -> Result<()> {
    add_to(&file(), target, seconds, runs)
}

fn add_to(path: &Path, target: &str, seconds: u64, runs: u64) -> Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    file.lock()?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let mut all = parse(&text);
    match all.iter_mut().find(|one| one.target == target) {
        Some(one) => (one.seconds, one.runs) = (one.seconds + seconds, one.runs + runs),
        None => all.push(Spent { target: target.to_owned(), seconds, runs }),
    }
    all.sort_by(|a, b| a.target.cmp(&b.target));
    let text: String =
        all.iter().map(|one| format!("{} {} {}\n", one.target, one.seconds, one.runs)).collect();
    file.rewind()?;
    file.set_len(0)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_campaigns_spend_adds_up() {
        let path = std::env::temp_dir().join(format!("bulkhead-spent-{}", std::process::id()));
        for (target, seconds, runs) in [("vga", 90, 7), ("raw", 1, 2), ("vga", 10, 3)] {
            add_to(&path, target, seconds, runs).unwrap();
        }
        let text = std::fs::read_to_string(&path);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(text.unwrap(), "raw 1 2\nvga 100 10\n");
    }
}
