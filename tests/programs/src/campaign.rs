//! The campaign: every run under ours and the peer, and what came of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Side;
use crate::compare::{self, Difference};
use crate::guest::{self, Limits, Outcome, Places, Unit};
use crate::known;
use crate::runs::Run;

/// What the user set.
pub struct Settings {
    /// For everything; shared out among runs and sides.
    pub minutes: u64,
    /// Patterns of units that replace those of the runs; empty: theirs.
    pub units: String,
    /// For libm: random inputs of each function, and their seed.
    pub libm: [u64; 2],
}

/// The environment in which the host's processor takes the ways through glibc's functions that the guests' take.
pub const SAME_WAYS: (&str, &str) = ("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4");
/// Lines of a difference that are shown.
const SHOWN: usize = 12;

/// Whoever ran a suite, and what came of it.
struct Result {
    name: &'static str,
    outcome: Outcome,
}

/// What `libm` says on the host.
fn host(places: &Places, settings: &Settings) -> std::result::Result<Unit, String> {
    let program = places.guests.join("programs/libm");
    let began = Instant::now();
    let output = Command::new(&program)
        .args(settings.libm.map(|number| number.to_string()))
        .env(SAME_WAYS.0, SAME_WAYS.1)
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    Ok(Unit {
        name: "libm".into(),
        status: output.status.code().unwrap_or(-1),
        milliseconds: began.elapsed().as_millis() as u64,
        output: output.stdout,
    })
}

/// Keeps what units said, for whoever looks for a cause.
fn keep(folder: &Path, result: &Result) -> std::io::Result<()> {
    let folder = folder.join(result.name);
    std::fs::create_dir_all(&folder)?;
    for unit in &result.outcome.units {
        std::fs::write(folder.join(unit.name.replace('/', "-")), &unit.output)?;
    }
    Ok(())
}

/// Differences of the units that both have: unit and lines.
fn differing(suite: &str, first: &Outcome, second: &Outcome) -> Vec<(String, Vec<Difference>)> {
    let mut all = Vec::new();
    for unit in &first.units {
        let Some(other) = second.units.iter().find(|other| other.name == unit.name) else { continue };
        let found = compare::differences(&compare::lines(suite, unit), &compare::lines(suite, other));
        if !found.is_empty() {
            all.push((unit.name.clone(), found));
        }
    }
    all
}

/// The lines of a unit that differed in both runs, and those that did in one. A unit that did not end on both sides the second time
/// counts with all of the first: nothing speaks for it.
fn twice(unit: &str, first: &[Difference], again: &[Outcome; 2], suite: &str) -> [Vec<Difference>; 2] {
    let [ours, peer] = again;
    let ended = |outcome: &Outcome| outcome.units.iter().any(|other| other.name == unit);
    if !ended(ours) || !ended(peer) {
        return [first.to_vec(), Vec::new()];
    }
    let second = differing(suite, ours, peer);
    let second = second.iter().find(|(other, _)| other == unit).map_or(&[][..], |(_, lines)| lines);
    let (both, once) = first.iter().cloned().partition(|line| second.contains(line));
    [both, once]
}

/// Prints the lines of a difference; how many of them nobody explains.
fn show(run: &str, unit: &str, lines: &[Difference], names: [&str; 2]) -> usize {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    let mut open = Vec::new();
    for line in lines {
        match known::reason(run, unit, line) {
            Some(reason) => *reasons.entry(reason).or_default() += 1,
            None => open.push(line),
        }
    }
    for (reason, count) in reasons {
        println!("  {unit}: {count} lines differ, known: {reason}");
    }
    if !open.is_empty() {
        println!("  {unit}: {} lines differ", open.len());
        for line in open.iter().take(SHOWN) {
            println!("    {}: {}", names[usize::from(line.more < 0)], line.line);
        }
    }
    open.len()
}

/// Prints which functions and types of libm the lines belong to.
fn show_functions(lines: &[Difference]) {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for line in lines.iter().filter(|line| line.more > 0) {
        let (name, rest) = line.line.split_once(' ').unwrap_or((&line.line, ""));
        *counts.entry(format!("{name} {}", rest.chars().next().unwrap_or(' '))).or_default() += 1;
    }
    let text: Vec<String> = counts.iter().map(|(name, count)| format!("{name}: {count}")).collect();
    println!("    by function and type (f, d, l: float, double, long double): {}", text.join(", "));
}

/// One run on all sides; the number of differences without a reason.
///
/// # Errors
/// When a guest does not come up or a file cannot be written.
pub fn one(
    run: &Run,
    sides: &[Side],
    places: &Places,
    settings: &Settings,
    time: Duration,
) -> std::result::Result<usize, String> {
    let seconds = time.as_secs() / sides.len().max(1) as u64;
    let units = if settings.units.is_empty() { run.units } else { &settings.units };
    let mut results = Vec::new();
    let folder = places.scratch.join(run.name);
    for side in sides {
        eprintln!("programs: {}: {}, at most {seconds} s", run.name, side.name);
        let limits = Limits { units, seconds, libm: settings.libm };
        let outcome = guest::run(side, run, places, &limits)
            .map_err(|error| format!("{}, {}: {error}", run.name, side.name))?;
        let result = Result { name: side.name, outcome };
        keep(&folder, &result).map_err(|error| format!("{}: {error}", folder.display()))?;
        results.push(result);
    }
    if run.suite == "libm" {
        let outcome = Outcome { units: vec![host(places, settings)?], ..Outcome::default() };
        results.push(Result { name: "host", outcome });
    }
    println!("{}", run.name);
    let mut wrong = 0;
    for Result { name, outcome } in &results {
        let tests: u64 = outcome.units.iter().map(|unit| compare::tests(run.suite, unit)).sum();
        let work: u64 = outcome.units.iter().map(|unit| unit.milliseconds).sum();
        let failed = outcome.units.iter().filter(|unit| unit.status != 0).count();
        println!(
            "  {name}: {} units, {tests} tests, {:.1} s of work; {failed} units ended with another status than 0, {} not run",
            outcome.units.len(),
            work as f64 / 1000.0,
            outcome.rest
        );
        if let Some(why) = &outcome.broken {
            println!("  {name}: the machine stopped: {why}");
            wrong += usize::from(*name == "ours");
        }
    }
    if results[0].outcome.units.is_empty() {
        println!("  ours: no unit ran");
        wrong += 1;
    }
    let [ours, others @ ..] = &results[..] else { return Ok(wrong) };
    if run.suite == "libm" {
        // The host's processor says what is right; where the peer differs from it is said.
        let host = results.last().unwrap_or(ours);
        for result in results.iter().filter(|result| result.name != "host") {
            for (unit, lines) in differing(run.suite, &result.outcome, &host.outcome) {
                let ours = result.name == "ours";
                println!("  {} and the host's processor differ:", result.name);
                if ours {
                    wrong += show(run.name, &unit, &lines, [result.name, host.name]);
                } else {
                    println!("    {} lines, which says nothing against ours", lines.len());
                }
                show_functions(&lines);
            }
        }
    } else if let [peer] = others {
        let first = differing(run.suite, &ours.outcome, &peer.outcome);
        let open = |unit: &str, lines: &[Difference]| {
            lines.iter().any(|line| known::reason(run.name, unit, line).is_none())
        };
        let again: Vec<&str> =
            (first.iter().filter(|(unit, lines)| open(unit, lines))).map(|(unit, _)| unit.as_str()).collect();
        let mut second = None;
        if !again.is_empty() {
            // What a loaded host or a race between two threads did does not come twice in the same way.
            eprintln!("programs: {}: again: {}", run.name, again.join(" "));
            let limits = Limits { units: &again.join(" "), seconds: 600, libm: settings.libm };
            let mut outcomes = Vec::new();
            for side in sides {
                let outcome = guest::run(side, run, places, &limits)?;
                if let Some(why) = &outcome.broken {
                    println!("  {}: the machine stopped the second time: {why}", side.name);
                    wrong += usize::from(side.name == "ours");
                }
                if outcome.rest > 0 {
                    println!("  {}: {} units not run the second time", side.name, outcome.rest);
                }
                outcomes.push(outcome);
            }
            second = <[Outcome; 2]>::try_from(outcomes).ok();
        }
        for (unit, lines) in &first {
            // What is known was not run again.
            let [twice, once] = match &second {
                Some(second) if again.contains(&unit.as_str()) => twice(unit, lines, second, run.suite),
                _ => [lines.clone(), Vec::new()],
            };
            wrong += show(run.name, unit, &twice, ["ours", "peer"]);
            if !once.is_empty() {
                println!("  {unit}: {} lines differed in one of two runs:", once.len());
                for line in once.iter().take(SHOWN) {
                    println!("    {}: {}", if line.more > 0 { "ours" } else { "peer" }, line.line);
                }
            }
        }
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(units: &[(&str, &str)]) -> Outcome {
        let unit = |(name, output): &(&str, &str)| Unit {
            name: (*name).to_owned(),
            status: 0,
            milliseconds: 0,
            output: output.as_bytes().to_vec(),
        };
        Outcome { units: units.iter().map(unit).collect(), ..Outcome::default() }
    }

    #[test]
    fn a_difference_goes_only_when_both_sides_ended_the_unit_again_without_it() {
        let first =
            differing("libm", &outcome(&[("unit", "same\nours")]), &outcome(&[("unit", "same\npeer")]));
        let (_, lines) = &first[0];
        assert_eq!(lines.len(), 2);
        let counted = |ours: &[(&str, &str)], peer: &[(&str, &str)]| {
            twice("unit", lines, &[outcome(ours), outcome(peer)], "libm").map(|lines| lines.len())
        };
        assert_eq!(counted(&[("unit", "same")], &[("unit", "same")]), [0, 2]);
        assert_eq!(counted(&[("unit", "same\nours")], &[("unit", "same")]), [1, 1]);
        // It hung, ended its machine, or there was no time left to begin it.
        assert_eq!(counted(&[], &[("unit", "same")]), [2, 0]);
        assert_eq!(counted(&[("unit", "same")], &[("other", "same")]), [2, 0]);
    }
}
