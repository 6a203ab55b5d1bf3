//! What two sides said, without what differs from run to run: process ids, times, addresses, speeds.

use std::collections::BTreeMap;

use crate::guest::Unit;

/// The lines of a unit of `suite` that are compared.
pub fn lines(suite: &str, unit: &Unit) -> Vec<String> {
    let text = String::from_utf8_lossy(&unit.output);
    let mut lines: Vec<String> = match suite {
        // Nothing in them depends on anything but the processor.
        "libm" => text.lines().map(str::to_owned).collect(),
        "python" => text.lines().filter_map(python).collect(),
        "perl" => text.lines().filter_map(perl).collect(),
        "stress" => text.lines().filter_map(stress).collect(),
        _ => text.lines().map(|line| without_changing(line.trim_end())).collect(),
    };
    lines.push(format!("exit status {}", unit.status));
    lines
}

/// Tests and their results; no warnings of threads, no times.
fn python(line: &str) -> Option<String> {
    let line = line.trim();
    const RESULTS: [&str; 6] = ["ok", "FAIL", "ERROR", "expected failure", "unexpected success", "Exception"];
    let result = line.rsplit_once("... ").map_or(line, |(_, result)| result);
    let is_result = RESULTS.contains(&result) || result.starts_with("skipped ");
    let is_summary =
        ["FAIL: ", "ERROR: ", "AssertionError", "Ran ", "FAILED", "OK", "Fatal", "Segmentation", "Illegal"]
            .iter()
            .any(|start| line.starts_with(start));
    if let Some(rest) = line.strip_prefix("Ran ") {
        return Some(format!("Ran {}", rest.split(" in ").next().unwrap_or(rest)));
    }
    (is_result || is_summary).then(|| without_changing(line))
}

/// Results of the Test Anything Protocol.
fn perl(line: &str) -> Option<String> {
    let result = ["ok ", "not ok ", "1..", "Bail out", "panic", "Segmentation", "Illegal", "ok", "not ok"];
    result.iter().any(|start| line.starts_with(start)).then(|| without_changing(line.trim_end()))
}

/// Without the process id at the start and what it set out to do.
fn stress(line: &str) -> Option<String> {
    let line = match line.split_once("] ") {
        Some((head, rest)) if head.starts_with("stress-ng: ") => {
            let kind = head.split(':').nth(1).unwrap_or_default().trim();
            if rest.starts_with("setting to a") || rest.starts_with("dispatching hogs") {
                return None;
            }
            format!("{kind}: {rest}")
        }
        _ => line.to_owned(),
    };
    let line = line.split(" completed in ").next().unwrap_or_default();
    Some(without_changing(line.trim_end()))
}

/// `N` for numbers with a unit of time or speed behind them or a point within, `ID` for addresses and process ids.
fn without_changing(line: &str) -> String {
    let mut words = Vec::new();
    let mut all = line.split(' ').peekable();
    while let Some(word) = all.next() {
        let next = all.peek().copied().unwrap_or_default();
        let timed = [
            "sec", "MB/s", "Mb/s", "nanosec", "usec", "ms", "bogo", "per", "GHz", "MHz", "cycles", "nsecs",
            "ns",
        ]
        .iter()
        .any(|unit| next.starts_with(unit));
        let bare = word.trim_matches(|c: char| "()[],:;'\"<>=".contains(c));
        let digits = !bare.is_empty() && bare.chars().all(|c| c.is_ascii_digit() || c == '.');
        let seconds = bare.strip_suffix('s').is_some_and(|number| {
            number.contains('.') && number.chars().all(|c| c.is_ascii_digit() || c == '.')
        });
        if digits && timed || seconds {
            words.push(word.replace(bare, "N"));
        } else {
            words.push(addresses(word));
        }
    }
    words.join(" ")
}

/// `ID` for hexadecimal numbers of five digits and more: where something lies in memory.
fn addresses(word: &str) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some(at) = rest.find("0x") {
        let (head, tail) = rest.split_at(at + 2);
        let digits = tail.chars().take_while(char::is_ascii_hexdigit).count();
        out.push_str(head);
        out.push_str(if digits >= 5 { "ID" } else { &tail[..digits] });
        rest = &tail[digits..];
    }
    out.push_str(rest);
    out
}

/// A line that one side said more often than the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The line.
    pub line: String,
    /// Times that the first side said it more than the second; negative: less.
    pub more: i64,
}

/// What the sides did not say equally often. The order of lines is left out: two threads may speak in either.
pub fn differences(first: &[String], second: &[String]) -> Vec<Difference> {
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    for line in first {
        *counts.entry(line).or_default() += 1;
    }
    for line in second {
        *counts.entry(line).or_default() -= 1;
    }
    (counts.into_iter().filter(|(_, more)| *more != 0))
        .map(|(line, more)| Difference { line: line.to_owned(), more })
        .collect()
}

/// How many tests a unit of `suite` says it ran.
pub fn tests(suite: &str, unit: &Unit) -> u64 {
    let lines = lines(suite, unit);
    let starting = |start: &str| lines.iter().filter(|line| line.starts_with(start)).count() as u64;
    match suite {
        "python" => lines
            .iter()
            .filter_map(|line| line.strip_prefix("Ran ")?.split(' ').next()?.parse::<u64>().ok())
            .sum(),
        "perl" => starting("ok") + starting("not ok"),
        "libm" => lines.len().saturating_sub(2) as u64,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(text: &str, status: i32) -> Unit {
        Unit { name: "x".into(), status, milliseconds: 0, output: text.into() }
    }

    fn same(suite: &str, one: &str, other: &str) -> bool {
        differences(&lines(suite, &unit(one, 0)), &lines(suite, &unit(other, 0))).is_empty()
    }

    #[test]
    fn times_process_ids_and_addresses_do_not_count_and_results_do() {
        let stress = |pid: u32, seconds: &str, end: &str| {
            format!("stress-ng: info:  [{pid}] successful run completed in {seconds}\nstress-ng: {end}")
        };
        let good = stress(1115, "0.02s", "info:  [3] passed: 1");
        assert!(same("stress", &good, &stress(22, "1.50s (1 min)", "info:  [44] passed: 1")));
        assert!(!same("stress", &good, &stress(22, "1.50s", "fail:  [44] cpu: wrong")));
        assert!(same(
            "python",
            "test_a (x) ... ok\nRan 3 tests in 0.1s\nOK",
            "noise\ntest_a (x) ... ok\nRan 3 tests in 7s\nOK"
        ));
        assert!(!same("python", "test_a (x) ... ok", "test_a (x) ... FAIL"));
        assert!(same("perl", "ok 1 - at 0xdeadbee\n# 17", "ok 1 - at 0x1234567\n# 18"));
        assert!(!same("perl", "ok 1", "not ok 1"));
        assert!(!same("libm", "sin d n 3ff0 3fea 20 00", "sin d n 3ff0 3feb 20 00"));
        assert_ne!(lines("build", &unit("", 0)), lines("build", &unit("", 1)));
    }

    #[test]
    fn a_difference_says_who_said_the_line_more_often() {
        let lines = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let found = differences(&lines("a b b c"), &lines("c b d"));
        let found: Vec<_> = found.iter().map(|one| (one.line.as_str(), one.more)).collect();
        assert_eq!(found, [("a", 1), ("b", 1), ("d", -1)]);
    }

    #[test]
    fn tests_are_counted_from_what_the_suite_says() {
        assert_eq!(tests("python", &unit("Ran 3 tests in 1s\nRan 4 tests in 2s", 0)), 7);
        assert_eq!(tests("perl", &unit("1..2\nok 1\nnot ok 2", 0)), 2);
        assert_eq!(tests("libm", &unit("a\nb\nend", 0)), 2);
    }
}
