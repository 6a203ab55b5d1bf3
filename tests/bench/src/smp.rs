//! What a second virtual CPU brings: two compressions at once with `-smp 1` and with `-smp 2`, by the host's clock between two markers on
//! the serial line. The host needs two processors that do nothing else.

use std::time::Duration;

use crate::figures::{Bench, Emulator, Pair, SHORT};
use crate::table::{Row, Section, quantile};

/// Two processes that compress the same data, each `SIZE` copies of a program; their results.
const COMMAND: &str =
    "for job in 1 2; do { for n in $(seq SIZE); do cat /bin/busybox; done | gzip | md5sum; } & done; wait";
/// Copies that each of them compresses.
const SIZE: usize = 40;
/// How much shorter the second CPU makes it.
const WANTED: f64 = 1.7;
/// The longest that it may take.
const LONG: Duration = Duration::from_secs(240);

/// Seconds with one and with two CPUs, and what was printed.
struct Run {
    seconds: [f64; 2],
    result: String,
}

impl Bench {
    /// The table of several virtual CPUs. `quick` takes a fifth of the data.
    pub fn smp(&self, quick: bool) -> Result<Section, String> {
        let size = if quick { SIZE / 5 } else { SIZE };
        let pair = self.pair("smp", self.runs, |emulator| {
            let (one, first) = self.compress(emulator, "1", size)?;
            let (two, second) = self.compress(emulator, "2", size)?;
            if first == second {
                Ok(Run { seconds: [one, two], result: first })
            } else {
                Err(format!("results differ: {first:?} and {second:?}"))
            }
        });
        if let Some(error) = pair.failed.iter().flatten().next() {
            return Err(error.clone());
        }
        let mut results = pair.ours.iter().chain(&pair.peer).map(|run| &run.result);
        if let Some(first) = results.next()
            && let Some(other) = results.find(|result| *result != first)
        {
            return Err(format!("results differ: {first:?} and {other:?}"));
        }
        let title = "Two virtual CPUs: two compressions at once, seconds, median".to_owned();
        let rows = vec![
            row("-smp 1", &pair, |run| run.seconds[0], None),
            row("-smp 2", &pair, |run| run.seconds[1], None),
            row("= -smp 1 over -smp 2", &pair, |run| run.seconds[0] / run.seconds[1], Some(WANTED)),
        ];
        Ok(Section { title, rows })
    }

    /// Seconds of the command in a guest with so many CPUs, and what it printed.
    fn compress(&self, emulator: &Emulator, cpus: &str, size: usize) -> Result<(f64, String), String> {
        let mut machine = self.shell(emulator, &["-smp", cpus])?;
        let command = COMMAND.replace("SIZE", &size.to_string());
        machine.send(&format!("echo go-$((40 + 2)); {command}; echo done-$((40 + 2))\n"))?;
        let began = machine.expect("go-42", SHORT)?.1;
        let (text, ended) = machine.expect("done-42", LONG)?;
        let sums: Vec<&str> = text.split_whitespace().filter(|word| word.len() == 32).collect();
        match sums[..] {
            [one, two] if one == two => Ok(((ended - began).as_secs_f64(), one.to_owned())),
            _ => Err(format!("two equal sums were expected: {text:?}")),
        }
    }
}

fn row(figure: &str, pair: &Pair<Run>, value: impl Fn(&Run) -> f64, wanted: Option<f64>) -> Row {
    let median = |runs: &[Run]| quantile(&runs.iter().map(&value).collect::<Vec<f64>>(), 0.5);
    let text = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.2}"));
    let (ours, peer) = (median(&pair.ours), median(&pair.peer));
    Row {
        figure: figure.to_owned(),
        ours: text(ours),
        peer: text(peer),
        ratio: String::new(),
        wanted: wanted.map_or_else(String::new, |wanted| format!(">= {wanted}")),
        met: wanted.zip(ours).map(|(wanted, ours)| ours >= wanted),
    }
}
