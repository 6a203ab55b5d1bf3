//! `programs`: suites of others in a guest, ours beside the peer (see the library).

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bulkhead_programs::Side;
use bulkhead_programs::campaign::{self, Settings};
use bulkhead_programs::guest::Places;
use bulkhead_programs::runs::{RUNS, Run};

const USAGE: &str = "\
usage: programs [MINUTES=60] [ONLY=name,...] [UNITS='pattern ...'] [COUNT=100] [SEED=1]
  MINUTES   for everything; what does not fit is left out, and said
  ONLY      runs of this name, or whose suite has it (--list prints them)
  UNITS     of the runs, only units that fit one of these patterns of the shell
  COUNT     random inputs for each of libm's functions, types and rounding modes; SEED: of them
The peer is the command line in the variable PEER, else qemu-system-x86_64 from PATH; PEER=none runs without.";

/// Minutes: years, and no overflow of the clock.
const MOST: u64 = 10_000_000;

struct Asked {
    settings: Settings,
    runs: Vec<&'static Run>,
}

fn asked(words: &[String]) -> Result<Asked, String> {
    let mut settings = Settings { minutes: 60, units: String::new(), libm: [100, 1] };
    let mut runs: Vec<&Run> = RUNS.iter().collect();
    for word in words {
        let (name, value) = word.split_once('=').ok_or_else(|| format!("{word}: no setting\n{USAGE}"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{name} needs a number"));
        match name {
            "MINUTES" => settings.minutes = number()?.min(MOST),
            "COUNT" => settings.libm[0] = number()?,
            "SEED" => settings.libm[1] = number()?,
            // It becomes a word in quotes of a command line.
            "UNITS" if value.contains(['\'', '\n']) => return Err("UNITS: no quotes".to_owned()),
            "UNITS" => settings.units = value.to_owned(),
            "ONLY" => {
                let names: Vec<&str> = value.split(',').collect();
                if let Some(unknown) = names.iter().find(|name| !RUNS.iter().any(|run| fits(run, name))) {
                    return Err(format!("{unknown}: no such run"));
                }
                runs.retain(|run| names.iter().any(|name| fits(run, name)));
            }
            _ => return Err(format!("{name}: no such setting\n{USAGE}")),
        }
    }
    Ok(Asked { settings, runs })
}

fn fits(run: &Run, name: &str) -> bool {
    run.name == name || run.suite == name
}

/// Whether all was as it should be.
fn run(words: &[String]) -> Result<bool, String> {
    match words.first().map(String::as_str) {
        Some("-h" | "--help") => {
            println!("{USAGE}");
            return Ok(true);
        }
        Some("--list") => {
            RUNS.iter().for_each(|run| println!("{}", run.name));
            return Ok(true);
        }
        _ => {}
    }
    let Asked { settings, runs } = asked(words)?;
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let programs = own.parent().ok_or("no folder of programs")?;
    let target: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let scratch = target.join("programs");
    let fail = |error: std::io::Error| format!("{}: {error}", scratch.display());
    std::fs::create_dir_all(&scratch).map_err(fail)?;
    let scratch = scratch.canonicalize().map_err(fail)?;
    let disks = scratch.join(format!("disks-{}", std::process::id()));
    bulkhead_tests::keeper::keep_folder(&disks);
    std::fs::create_dir_all(&disks).map_err(fail)?;
    let places = Places { guests: target.join("guests"), scratch, disks };
    let sides = bulkhead_programs::sides(programs);
    let wrong = all(&runs, &settings, &places, &sides);
    let _ = std::fs::remove_dir_all(&places.disks);
    let wrong = wrong?;
    println!("{wrong} differences without a reason; what each unit said is in {}", places.scratch.display());
    Ok(wrong == 0)
}

/// The number of differences without a reason.
fn all(runs: &[&Run], settings: &Settings, places: &Places, sides: &[Side]) -> Result<usize, String> {
    let end = Instant::now() + Duration::from_secs(settings.minutes * 60);
    let mut wrong = 0;
    for (at, run) in runs.iter().enumerate() {
        let weights: u64 = runs[at..].iter().map(|run| run.weight).sum();
        let left = end.saturating_duration_since(Instant::now());
        let time = left.mul_f64(run.weight as f64 / weights.max(1) as f64);
        wrong += campaign::one(run, sides, places, settings, time)?;
    }
    Ok(wrong)
}

fn main() -> ExitCode {
    bulkhead_programs::main("programs", run)
}
