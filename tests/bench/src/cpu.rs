//! Speed of the emulated processor: programs in a Debian guest, by the host's clock between two markers on the serial line.
//!
//! Both emulators run the same disk image (`tests/guests/make DIR cpu`), without writing to it. What each program prints goes
//! through `md5sum`, and one that prints something else under one of them is an error, not a figure.

use std::time::Duration;

use bulkhead_tests::linux::enter_disk;
use bulkhead_tests::machine::Machine;

use crate::figures::{BOOT, Bench, Emulator, Pair, SHORT, UP};
use crate::table::{Row, Section, quantile};

/// A program of a class.
pub(crate) struct Program {
    /// Of its row.
    pub name: &'static str,
    /// Shell command whose output is its result; `SIZE` is replaced.
    command: &'static str,
    size: u32,
}

impl Program {
    /// The command, with a fifth of the size when `quick`.
    pub fn command(&self, quick: bool) -> String {
        let size = if quick { self.size.div_ceil(5) } else { self.size };
        self.command.replace("SIZE", &size.to_string())
    }
}

/// A class of programs, and what the peer's time over ours has to be: the geometric mean over its programs.
pub(crate) struct Class {
    name: &'static str,
    wanted: f64,
    programs: &'static [Program],
}

const fn program(name: &'static str, command: &'static str, size: u32) -> Program {
    Program { name, command, size }
}

const CLASSES: [Class; 5] = [
    Class {
        name: "integer",
        wanted: 1.7,
        programs: &[
            program("gzip", "head -c SIZE000 data | gzip", 6000),
            program("bzip2", "head -c SIZE000 data | bzip2", 2500),
            program("xz", "head -c SIZE000 data | xz -3", 1500),
            program("sha256", "./integer sha256 SIZE", 40),
            program("sieve", "./integer sieve SIZE", 120),
            program("crc", "./integer crc SIZE", 150),
            program("sqlite", "for n in $(seq SIZE); do sqlite3 :memory: < queries.sql; done", 2),
            program("python", "python3 program.py SIZE", 10),
            program("perl", "perl program.pl SIZE", 20),
        ],
    },
    Class {
        name: "floating point, SSE",
        wanted: 4.0,
        programs: &[
            program("n-body", "./float nbody SIZE", 300_000),
            program("matrix multiply", "./float matrix SIZE", 40),
            program("mandelbrot", "./float mandelbrot SIZE", 400),
            program("FFT", "./float fft SIZE", 200),
        ],
    },
    Class {
        name: "x87",
        wanted: 2.0,
        programs: &[
            program("long double n-body", "./extended nbody SIZE", 40_000),
            program("long double matrix", "./extended matrix SIZE", 10),
            program("whetstone, x87 double", "./x87 whetstone SIZE", 15_000),
        ],
    },
    Class {
        name: "cold code",
        wanted: 1.3,
        programs: &[
            program(
                "gcc -O2, 200 functions",
                "gcc -O2 -c functions.c -o /tmp/functions.o && cat /tmp/functions.o",
                0,
            ),
            program(
                "package install",
                "dpkg --force-unsafe-io -i packages/*.deb > /tmp/log 2>&1; dpkg-query -W vim-tiny nano",
                0,
            ),
        ],
    },
    Class {
        name: "system",
        wanted: 1.2,
        programs: &[
            program("fork and exec", "./system forks SIZE", 300),
            program("system calls", "./system calls SIZE", 3_000_000),
            program("page faults", "./system faults SIZE", 300_000),
            program("context switches", "./system switches SIZE", 60_000),
            program("pipes", "./system pipes SIZE", 1000),
        ],
    },
];

/// What the peer's time to userland has to be over ours.
const WANTED_BOOT: f64 = 1.2;
/// Memory of the guest in MiB: everything read stays in its page cache.
const MEMORY: &str = "1024";
/// The longest that a program may take.
const LONG: Duration = Duration::from_secs(240);

/// One run: seconds to userland, then of each program in order.
struct Run {
    boot: f64,
    programs: Vec<f64>,
    /// Checksums of what the programs printed.
    results: Vec<String>,
}

/// All programs, each with its class.
pub(crate) fn programs() -> impl Iterator<Item = (&'static Class, &'static Program)> {
    CLASSES.iter().flat_map(|class| class.programs.iter().map(move |program| (class, program)))
}

impl Bench {
    /// The table of the processor's speed. `quick` takes a fifth of each program's size, `some` only those with one of these names.
    pub fn cpu(&self, quick: bool, some: &[String]) -> Result<Section, String> {
        let chosen: Vec<(&Class, &Program)> = programs()
            .filter(|(_, p)| some.is_empty() || some.iter().any(|name| p.name.contains(name)))
            .collect();
        let pair = self.pair("cpu", self.runs, |emulator| self.cpu_run(emulator, quick, &chosen));
        if let Some(first) = pair.ours.first().or(pair.peer.first()) {
            let runs = pair.ours.iter().chain(&pair.peer);
            for (at, (_, program)) in chosen.iter().enumerate() {
                if let Some(other) = runs.clone().find(|run| run.results.get(at) != first.results.get(at)) {
                    return Err(format!(
                        "{}: results differ: {:?} and {:?}",
                        program.name,
                        first.results.get(at),
                        other.results.get(at)
                    ));
                }
            }
        }
        if let Some(error) = pair.failed.iter().flatten().next() {
            return Err(error.clone());
        }
        let mut rows = Vec::new();
        for class in &CLASSES {
            let mut ratios = Vec::new();
            for (at, (_, program)) in chosen.iter().enumerate().filter(|(_, (c, _))| c.name == class.name) {
                let (row, ratio) = speed(program.name, &pair, |run| run.programs.get(at).copied(), None);
                ratios.extend(ratio);
                rows.push(row);
            }
            if let Some(mean) = geometric_mean(&ratios) {
                rows.push(Row {
                    figure: format!("= {}, geometric mean", class.name),
                    ours: String::new(),
                    peer: String::new(),
                    ratio: format!("{mean:.2}"),
                    wanted: format!(">= {}", class.wanted),
                    met: Some(mean >= class.wanted),
                });
            }
        }
        rows.push(speed("= boot to userland", &pair, |run| Some(run.boot), Some(WANTED_BOOT)).0);
        let title = "CPU: seconds by the host's clock, median; the ratio here is peer / ours".to_owned();
        Ok(Section { title, rows })
    }

    /// The Debian guest with the programs, all of it read once; and the seconds to userland.
    pub(crate) fn cpu_guest(&self, emulator: &Emulator, more: &[&str]) -> Result<(Machine, f64), String> {
        let (mut machine, boot) = self.debian(emulator, MEMORY, more)?;
        // Everything that the programs read goes into the page cache.
        machine.send(
            "find /bench /usr/bin /usr/lib/gcc /usr/lib/x86_64-linux-gnu /usr/lib/python3* /usr/share/perl /var/lib/dpkg \
             -type f -exec cat {} + > /dev/null; echo ready-$((40 + 2))\n",
        )?;
        machine.expect("ready-42", BOOT)?;
        Ok((machine, boot))
    }

    /// The Debian guest with so many MiB, at its shell; and the seconds to userland.
    pub(crate) fn debian(
        &self,
        emulator: &Emulator,
        mib: &str,
        more: &[&str],
    ) -> Result<(Machine, f64), String> {
        let disk = self.guests.join("cpu/disk.img");
        if !disk.exists() {
            return Err(format!("{} is missing: run tests/guests/make (as root)", disk.display()));
        }
        let drive = format!("file={},if=ide,index=0,media=disk,format=raw", disk.display());
        let args = self.boot_args("amd64", mib)?;
        let args: Vec<&str> = args
            .iter()
            .map(String::as_str)
            .chain(["-snapshot", "-drive", drive.as_str()])
            .chain(more.iter().copied())
            .collect();
        let mut machine = Machine::start(&emulator.x86_64, &args)?;
        let boot = machine.expect(UP, BOOT)?.1.as_secs_f64();
        machine.send(&enter_disk())?;
        machine.send(
            "export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive; cd /bench; \
             echo there-$((40 + 2))\n",
        )?;
        machine.expect("there-42", BOOT)?;
        Ok((machine, boot))
    }

    fn cpu_run(
        &self,
        emulator: &Emulator,
        quick: bool,
        chosen: &[(&Class, &Program)],
    ) -> Result<Run, String> {
        let (mut machine, boot) = self.cpu_guest(emulator, &[])?;
        let mut run = Run { boot, programs: Vec::new(), results: Vec::new() };
        for (_, program) in chosen {
            let command = program.command(quick);
            machine
                .send(&format!("echo go-$((40 + 2)); {{ {command}; }} | md5sum; echo done-$((40 + 2))\n"))?;
            let began = machine.expect("go-42", SHORT)?.1;
            let (text, ended) =
                machine.expect("done-42", LONG).map_err(|error| format!("{}: {error}", program.name))?;
            let sum = text.split_whitespace().find(|word| word.len() == 32);
            run.results.push(sum.ok_or_else(|| format!("{}: no result: {text:?}", program.name))?.to_owned());
            run.programs.push((ended - began).as_secs_f64());
        }
        Ok(run)
    }
}

fn geometric_mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| (values.iter().map(|v| v.ln()).sum::<f64>() / values.len() as f64).exp())
}

/// A row of seconds, and the peer's over ours.
fn speed(
    name: &str,
    pair: &Pair<Run>,
    value: impl Fn(&Run) -> Option<f64>,
    wanted: Option<f64>,
) -> (Row, Option<f64>) {
    let median = |runs: &[Run]| quantile(&runs.iter().filter_map(&value).collect::<Vec<f64>>(), 0.5);
    let (ours, peer) = (median(&pair.ours), median(&pair.peer));
    let ratio = ours.zip(peer).filter(|(ours, _)| *ours > 0.0).map(|(ours, peer)| peer / ours);
    let text = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.2}"));
    let row = Row {
        figure: name.to_owned(),
        ours: text(ours),
        peer: text(peer),
        ratio: text(ratio),
        wanted: wanted.map_or_else(String::new, |wanted| format!(">= {wanted}")),
        met: wanted.zip(ratio).map(|(wanted, ratio)| ratio >= wanted),
    };
    (row, ratio)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_geometric_mean_of_a_ratio_and_its_inverse_is_one() {
        assert_eq!(geometric_mean(&[]), None);
        assert!((geometric_mean(&[4.0, 0.25]).unwrap() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn every_program_has_a_name_of_its_own() {
        let mut names: Vec<&str> = programs().map(|(_, program)| program.name).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
