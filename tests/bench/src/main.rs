//! Measures every figure that this project set itself, side by side with another emulator, and prints one table.
//!
//! usage: see [`USAGE`]. The repository's `./bench` builds what it needs first.

mod cpu;
mod engine;
mod figures;
mod isolation;
mod rom;
mod smp;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use figures::{Bench, Emulator};

const USAGE: &str = "\
usage: bench [options]
  --quick            one run of each figure, and of the CPU's programs a fifth of their size
  --runs N           runs of each figure (default 5; starts: ten times that)
  --only LIST        some of boot,start,registers,disk,idle (idle measures memory too),tracing,isolation,
                     waits,cpu,engine,smp
  --cpu LIST         of the CPU's programs (cpu, engine) only those whose name contains one of these
  --markdown         the table as Markdown
  --programs DIR     our programs (default: target/release when it has them, else target/fast)
  --disk-mib N       size of the disk that is read (default 512)
  --idle-seconds N   length of the idle measurement (default 10)
The peer is the command line in the variable PEER, else qemu-system-x86_64 from PATH; PEER=none runs without.";

const FIGURES: [&str; 11] =
    ["boot", "start", "registers", "disk", "idle", "tracing", "isolation", "waits", "cpu", "engine", "smp"];

struct Options {
    runs: usize,
    quick: bool,
    cpu: Vec<String>,
    only: Vec<String>,
    markdown: bool,
    programs: Option<PathBuf>,
    disk_mib: u64,
    idle: u64,
}

fn options(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let only = FIGURES.map(String::from).into();
    let mut options = Options {
        runs: 5,
        quick: false,
        cpu: Vec::new(),
        only,
        markdown: false,
        programs: None,
        disk_mib: 512,
        idle: 10,
    };
    fn value(option: &str, args: &mut impl Iterator<Item = String>) -> Result<String, String> {
        args.next().ok_or_else(|| format!("{option} needs a value"))
    }
    fn number<T: std::str::FromStr>(
        option: &str,
        args: &mut impl Iterator<Item = String>,
    ) -> Result<T, String> {
        value(option, args)?.parse().map_err(|_| format!("{option} needs a number"))
    }
    while let Some(option) = args.next() {
        match option.as_str() {
            "--quick" => (options.runs, options.quick) = (1, true),
            "--cpu" => options.cpu = value(&option, &mut args)?.split(',').map(String::from).collect(),
            "--runs" => options.runs = number(&option, &mut args)?,
            "--only" => options.only = value(&option, &mut args)?.split(',').map(String::from).collect(),
            "--markdown" => options.markdown = true,
            "--programs" => options.programs = Some(value(&option, &mut args)?.into()),
            "--disk-mib" => options.disk_mib = number(&option, &mut args)?,
            "--idle-seconds" => options.idle = number(&option, &mut args)?,
            _ => return Err(format!("{option}: no such option\n{USAGE}")),
        }
    }
    if let Some(unknown) = options.only.iter().find(|name| !FIGURES.contains(&name.as_str())) {
        return Err(format!("{unknown}: no such figure; there are {}", FIGURES.join(", ")));
    }
    if options.runs == 0 || options.disk_mib == 0 || options.idle == 0 {
        return Err("numbers must be at least 1".to_owned());
    }
    Ok(options)
}

/// Our programs: those asked for, else release ones, else those that the tests use.
fn programs(target: &Path, asked: Option<PathBuf>) -> Result<PathBuf, String> {
    let places = asked.map_or_else(|| vec![target.join("release"), target.join("fast")], |place| vec![place]);
    let found = places.iter().find(|place| place.join("qemu-system-x86_64").exists());
    let found = found.ok_or_else(|| format!("no programs in {}: run ./bench", places[0].display()))?;
    found.canonicalize().map_err(|error| format!("{}: {error}", found.display()))
}

/// The emulator to compare with, if there is one.
fn peer() -> Option<Emulator> {
    let x86_64 = bulkhead_tests::peer::command()?;
    // 32-bit guests run under the 32-bit program where there is one beside it.
    let mut i386 = x86_64.clone();
    if let Some(base) = i386[0].strip_suffix("qemu-system-x86_64") {
        let sibling = format!("{base}qemu-system-i386");
        if Path::new(&sibling).is_file() {
            i386[0] = sibling;
        }
    }
    Some(Emulator { x86_64, i386 })
}

fn version(emulator: &Emulator) -> String {
    let output = std::process::Command::new(&emulator.x86_64[0]).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("?").to_owned()
}

/// Adds what came of a figure, or that it failed, to what is to be printed: what was measured before is not lost. Whether it did not fail.
fn add(
    sections: &mut Vec<table::Section>,
    figure: &str,
    measured: Result<Vec<table::Section>, String>,
) -> bool {
    match measured {
        Ok(more) => sections.extend(more),
        Err(error) => {
            let title = format!("{figure}: failed: {error}");
            sections.push(table::Section { title, rows: Vec::new() });
            return false;
        }
    }
    true
}

fn run() -> Result<(), String> {
    let mut args = std::env::args().skip(1).peekable();
    if args.peek().is_some_and(|first| first == "--help" || first == "-h") {
        println!("{USAGE}");
        return Ok(());
    }
    let options = options(args)?;
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let programs = programs(&target, options.programs)?;
    let scratch = target.join("bench");
    std::fs::create_dir_all(&scratch).map_err(|error| format!("{}: {error}", scratch.display()))?;
    let program = |name: &str| vec![programs.join(name).display().to_string()];
    let bench = Bench {
        ours: Emulator { x86_64: program("qemu-system-x86_64"), i386: program("qemu-system-i386") },
        peer: peer(),
        runs: options.runs,
        guests: target.join("guests"),
        scratch: scratch.canonicalize().map_err(|error| format!("{}: {error}", scratch.display()))?,
        disk_mib: options.disk_mib,
        idle: Duration::from_secs(options.idle),
    };
    let load_before = load();
    let (mut sections, mut failed) = (Vec::new(), Vec::new());
    for figure in FIGURES.iter().filter(|figure| options.only.iter().any(|name| name == *figure)) {
        let measured = match *figure {
            "boot" => vec![Ok(vec![bench.boot()])],
            "start" => vec![Ok(vec![bench.start()])],
            "registers" => vec![Ok(vec![bench.registers()])],
            "disk" => vec![Ok(vec![bench.disk_read()])],
            "tracing" => vec![Ok(bench.tracing().into())],
            "isolation" => vec![Ok(bench.isolation().into())],
            "waits" => vec![Ok(vec![bench.waits()])],
            "smp" => vec![bench.smp(options.quick).map(|section| vec![section])],
            "engine" => bench.engine(options.quick, &options.cpu).into(),
            "cpu" => vec![bench.cpu(options.quick, &options.cpu).map(|section| vec![section])],
            _ => vec![Ok(bench.idle().into())],
        };
        for part in measured {
            if !add(&mut sections, figure, part) {
                failed.push(*figure);
            }
        }
    }
    let profile = programs.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let line = |text: String| if options.markdown { format!("* {text}") } else { text };
    println!("{}", line(format!("ours: {} profile, {}", profile, version(&bench.ours))));
    let peer = bench
        .peer
        .as_ref()
        .map_or_else(|| "none".to_owned(), |peer| format!("{}, {}", peer.x86_64.join(" "), version(peer)));
    println!("{}", line(format!("peer: {peer}")));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "{}",
        line(format!(
            "host: {cores} cores, load {load_before} before and {} after; {} runs",
            load(),
            bench.runs
        ))
    );
    print!("{}", table::render(&sections, options.markdown));
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", "))) }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_fails_is_told_and_takes_none_of_the_others_with_it() {
        let measured = |title: &str| Ok(vec![table::Section { title: title.into(), rows: Vec::new() }]);
        let mut sections = Vec::new();
        assert!(add(&mut sections, "boot", measured("seconds to boot")));
        assert!(!add(&mut sections, "cpu", Err("no compiler".to_owned())));
        assert!(add(&mut sections, "idle", measured("an idle guest")));
        let titles: Vec<&str> = sections.iter().map(|section| section.title.as_str()).collect();
        assert_eq!(titles, ["seconds to boot", "cpu: failed: no compiler", "an idle guest"]);
    }
}
