//! One target in a process of its own.

use std::path::{Path, PathBuf};

use crate::engine::{self, Campaign, Failure};
use crate::settings::{Budget, Settings};
use crate::targets::Target;
use crate::watch::{Watch, end_with_parent, processor_time};
use crate::{confine, corpus, cover, spent};

/// Different failures of one target after which it ends.
const FAILURES_MAX: usize = 10;
/// Bytes of an input in the repository.
const KEPT_BYTES: usize = 700;
/// Bytes of a corpus in the repository.
const KEPT_TOTAL: usize = 12 << 10;
/// Runs between two looks at what the process holds.
const LOOK: u64 = 1024;
/// Status of a worker that could not work.
pub const BROKEN: u8 = 2;
/// File of the scratch folder with the input that runs.
pub const NOW: &str = "now";

/// What a process holds besides its heap.
#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    mappings: usize,
    threads: usize,
}

impl Held {
    fn now() -> Held {
        let entries = |path| std::fs::read_dir(path).map_or(0, Iterator::count);
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        Held {
            descriptors: entries("/proc/self/fd"),
            // The allocator's own come and go.
            mappings: maps.lines().filter(|line| line.contains(" /")).count(),
            threads: entries("/proc/self/task"),
        }
    }

    /// What there is more of now.
    fn grown(self, now: Held) -> Option<String> {
        [
            ("descriptors", self.descriptors, now.descriptors),
            ("mappings", self.mappings, now.mappings),
            ("threads", self.threads, now.threads),
        ]
        .into_iter()
        .find(|(_, before, after)| after > before)
        .map(|(what, before, after)| format!("{after} {what} instead of {before}"))
    }
}

/// Prints and keeps a failure.
///
/// # Errors
/// The host's.
pub fn record(folder: &Path, target: &Target, failure: &Failure) -> Result<(), String> {
    let path = folder.join("failures").join(target.name);
    let mut all = corpus::read(&path)?;
    if !all.contains(&failure.input) {
        all.push(failure.input.clone());
    }
    corpus::write(&path, &all).map_err(|error| format!("{}: {error}", path.display()))?;
    println!(
        "FAILURE of {} at {}: {}\n  fuzz --replay {} {}",
        target.name,
        failure.place,
        failure.reason,
        target.name,
        corpus::digits(&failure.input)
    );
    Ok(())
}

/// The head of the table that workers print the lines of.
pub fn head() -> String {
    format!(
        "{:<16} {:>11} {:>8} {:>8} {:>7} {:>13} failures",
        "target", "runs", "runs/s", "cpu s", "inputs", "edges"
    )
}

/// Runs the first target of `settings`. False when something was found.
///
/// # Errors
/// The host's, and unreadable corpora.
pub fn work(settings: &Settings) -> Result<bool, String> {
    let Some(target) = settings.targets.first() else { return Ok(true) };
    end_with_parent();
    let say = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    let scratch = std::env::temp_dir();
    let kept = corpus::kept(target.name);
    let own = settings.folder.join("corpus").join(target.name);
    let mut writable = vec![settings.folder.clone(), scratch.clone()];
    if settings.keep {
        let repository = kept.parent().map(Path::to_path_buf).unwrap_or_default();
        std::fs::create_dir_all(&repository).map_err(|error| say(&repository, error))?;
        writable.push(repository);
    }
    // A file that a monitor command names lands in the scratch folder, or nowhere.
    let folder = settings.folder.canonicalize().map_err(|error| say(&settings.folder, error))?;
    confine(&writable.iter().map(PathBuf::as_path).collect::<Vec<_>>())?;
    let mut inputs = corpus::read(&kept)?;
    // A fixed number of runs is the same every time: other campaigns have no part in it.
    if matches!(settings.budget, Budget::Time(_)) {
        inputs.extend(corpus::read(&own)?);
    }
    let own = folder.join("corpus").join(target.name);
    std::env::set_current_dir(&scratch).map_err(|error| say(&scratch, error))?;
    let now = scratch.join(NOW);
    let watch = Watch::start(&now, settings.hang).map_err(|error| say(&now, error))?;
    engine::catch_messages();
    let mut campaign = Campaign::new(target, &watch, settings.seed);
    let mut failures: Vec<Failure> = Vec::new();
    let mut found = |result: Result<(), Failure>| {
        if let Err(failure) = result
            && failures.iter().all(|known| known.place != failure.place)
        {
            failures.push(failure);
        }
        failures.len() < FAILURES_MAX
    };
    for input in inputs {
        found(campaign.seed(input));
    }
    // What is made once has been made now.
    found(campaign.run(Vec::new()));
    let held = Held::now();
    let begun = campaign.runs;
    loop {
        let spent = match settings.budget {
            Budget::Time(time) => processor_time() >= time,
            Budget::Runs(runs) => campaign.runs - begun >= runs,
        };
        if (spent || campaign.runs.is_multiple_of(LOOK))
            && let Some(reason) = held.grown(Held::now())
        {
            found(Err(Failure { input: Vec::new(), reason, place: "resources".to_owned() }));
            break;
        }
        if spent {
            break;
        }
        let input = campaign.propose();
        if !found(campaign.run(input)) {
            break;
        }
    }
    let (runs, seconds) = (campaign.runs, processor_time().as_secs_f64());
    let essence = campaign.essence();
    if cover::edges() > 0 {
        corpus::write(&own, &essence).map_err(|error| say(&own, error))?;
        if settings.keep {
            corpus::write(&kept, &few(&essence)).map_err(|error| say(&kept, error))?;
            spent::add(target.name, seconds as u64, runs).map_err(|error| say(&kept, error))?;
        }
    }
    println!(
        "{:<16} {runs:>11} {:>8.0} {seconds:>8.1} {:>7} {:>13} {}",
        target.name,
        runs as f64 / seconds,
        essence.len(),
        format!("{}/{}", campaign.reached(), cover::edges()),
        failures.len()
    );
    let good = failures.is_empty();
    for failure in failures {
        let small = if failure.place == "resources" { failure } else { campaign.shrink(failure) };
        record(&folder, target, &small)?;
    }
    Ok(good)
}

/// What of a corpus goes into the repository: the short inputs, as many as have room.
fn few(essence: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut room = KEPT_TOTAL;
    let fits = |input: &&Vec<u8>| {
        let fits = input.len() <= KEPT_BYTES.min(room);
        room -= if fits { input.len() } else { 0 };
        fits
    };
    essence.iter().filter(fits).cloned().collect()
}
