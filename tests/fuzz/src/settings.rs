//! `NAME=value` words of the command line, as every campaign takes them.

use std::path::PathBuf;
use std::time::Duration;

use crate::spent;
use crate::targets::{self, TARGETS, Target};

/// How the program is used.
pub const USAGE: &str = "usage: fuzz [NAME=value...]    fuzzes
       fuzz --list             names the targets and the time each has had
       fuzz --replay TARGET HEX    runs one input
  SECONDS=3600     processor time for each target
  UNTIL=N          no target more than makes this all its time together with earlier campaigns; those with the least first
  RUNS=N           inputs for each target instead, of a fixed seed: the same ones every time
  TARGET=name,...  these only
  JOBS=2           targets at a time
  SEED=N           of the mutations (default: with SECONDS another one every time, with RUNS 1)
  HANG=20          processor time after which an input is a hang; three times that without any is one too
  KEEP=1           writes minimised corpora into the repository, and the time that was spent
  FOLDER=path      where corpora, failures and scratch files go (default target/fuzz)";

/// When a target is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// Processor time.
    Time(Duration),
    /// Inputs besides the corpus.
    Runs(u64),
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// In their order.
    pub targets: Vec<&'static Target>,
    /// For each of them.
    pub budget: Budget,
    /// Seconds of processor time after which a target has had enough, over all campaigns.
    pub until: Option<u64>,
    /// At a time.
    pub jobs: usize,
    /// Of the mutations.
    pub seed: u64,
    /// Processor time of a hang.
    pub hang: Duration,
    /// Write corpora into the repository.
    pub keep: bool,
    /// Where files go.
    pub folder: PathBuf,
}

impl Settings {
    /// From the words of a command line.
    ///
    /// # Errors
    /// One line naming the word.
    pub fn parse(words: &[String]) -> Result<Settings, String> {
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let mut settings = Settings {
            targets: TARGETS.iter().collect(),
            budget: Budget::Time(Duration::from_secs(3600)),
            until: None,
            jobs: 2,
            seed: clock.as_nanos() as u64,
            hang: Duration::from_secs(20),
            keep: false,
            folder: "target/fuzz".into(),
        };
        for word in words {
            let (name, value) = word.split_once('=').ok_or_else(|| format!("'{word}' is no NAME=value"))?;
            let number = || value.parse::<u64>().map_err(|_| format!("{word}: not a number"));
            match name {
                "SECONDS" => settings.budget = Budget::Time(Duration::from_secs(number()?)),
                "RUNS" => (settings.budget, settings.seed) = (Budget::Runs(number()?), 1),
                "TARGET" => {
                    let find =
                        |name| targets::find(name).ok_or_else(|| format!("{word}: no target '{name}'"));
                    settings.targets = value.split(',').map(find).collect::<Result<_, _>>()?;
                }
                "UNTIL" => settings.until = Some(number()?),
                "JOBS" => settings.jobs = number()?.clamp(1, 64) as usize,
                "SEED" => settings.seed = number()?,
                "HANG" => settings.hang = Duration::from_secs(number()?),
                "KEEP" => settings.keep = number()? != 0,
                "FOLDER" => settings.folder = value.into(),
                _ => return Err(format!("no setting '{name}'")),
            }
        }
        if settings.until.is_some() {
            settings.targets.sort_by_key(|target| spent::seconds(target.name));
        }
        Ok(settings)
    }

    /// What a target gets, unless it has had enough.
    fn budget(&self, target: &Target) -> Option<Budget> {
        let left = match self.until {
            Some(until) => {
                Duration::from_secs(until.checked_sub(spent::seconds(target.name)).filter(|left| *left > 0)?)
            }
            None => Duration::MAX,
        };
        Some(match self.budget {
            Budget::Time(time) => Budget::Time(time.min(left)),
            runs @ Budget::Runs(_) => runs,
        })
    }

    /// The words that a worker for one target is started with; none for one that has had enough.
    pub fn words(&self, target: &Target) -> Option<Vec<String>> {
        let budget = match self.budget(target)? {
            Budget::Time(time) => format!("SECONDS={}", time.as_secs()),
            Budget::Runs(runs) => format!("RUNS={runs}"),
        };
        Some(vec![
            budget,
            format!("TARGET={}", target.name),
            format!("SEED={}", self.seed),
            format!("HANG={}", self.hang.as_secs()),
            format!("KEEP={}", u8::from(self.keep)),
            format!("FOLDER={}", self.folder.display()),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_worker_reads_back_what_its_supervisor_was_told() {
        let given = words("RUNS=7 SEED=9 HANG=3 KEEP=1 FOLDER=a/b TARGET=vga,raw");
        let settings = Settings::parse(&given).unwrap();
        let [vga, _] = settings.targets[..] else { panic!("two targets") };
        let worker = Settings::parse(&settings.words(vga).unwrap()).unwrap();
        assert_eq!(worker.targets.iter().map(|target| target.name).collect::<Vec<_>>(), ["vga"]);
        assert_eq!((worker.budget, worker.seed), (Budget::Runs(7), 9));
        assert_eq!((worker.hang, worker.keep), (Duration::from_secs(3), true));
        assert_eq!(worker.folder, settings.folder);
    }

    #[test]
    fn a_target_that_has_had_its_time_gets_none() {
        let given = |text| Settings::parse(&words(text)).unwrap();
        let (none, much) = (given("TARGET=vga UNTIL=0"), given("TARGET=vga SECONDS=5 UNTIL=99999999"));
        assert_eq!(none.words(none.targets[0]), None);
        assert_eq!(much.words(much.targets[0]).unwrap()[0], "SECONDS=5");
    }

    #[test]
    fn a_wrong_word_is_refused_by_name() {
        for (given, why) in [
            ("SECONDS", "'SECONDS' is no NAME=value"),
            ("SECONDS=x", "SECONDS=x: not a number"),
            ("TARGET=vga,x", "TARGET=vga,x: no target 'x'"),
            ("COLOUR=1", "no setting 'COLOUR'"),
        ] {
            assert_eq!(Settings::parse(&words(given)).unwrap_err(), why);
        }
    }
}
