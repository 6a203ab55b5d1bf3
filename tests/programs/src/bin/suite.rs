//! `suite`: a binary that a user supplies as firmware or as a multiboot kernel, ours beside the peer (see the library).

use std::path::Path;
use std::process::ExitCode;

use bulkhead_programs::suite::{self, End, Given};

const USAGE: &str = "\
usage: suite BIOS=file | KERNEL=file [APPEND=words] [INITRD=file,...] [SECONDS=600] [QUIET=30]
  BIOS      a ROM that runs from the reset vector; KERNEL: a multiboot kernel, with its command line and modules
  SECONDS   the longest that it may run
  QUIET     for so many seconds it may tell nothing more before it counts as stopped, as a ROM does that halts
Compared are the codes written to ports 80h and 190h, the text on the first serial port (0x3f8) and on the first parallel port (0x378:
a byte is printed by a strobe, nInit high and the printer selected), and the exit status by port F4h.
The peer shows only codes that are written as bytes.
The peer is the command line in the variable PEER, else qemu-system-x86_64 from PATH; PEER=none runs without.";

/// The most seconds: more than anybody waits, and no overflow of the clock.
const MOST: u64 = 1_000_000_000;

fn given(words: &[String]) -> Result<Given, String> {
    let mut given = Given { seconds: 600, quiet: 30, ..Given::default() };
    for word in words {
        let (name, value) = word.split_once('=').ok_or_else(|| format!("{word}: no setting\n{USAGE}"))?;
        let text = || Some(value.to_owned());
        let seconds = || {
            let seconds = value.parse::<u64>().ok().filter(|seconds| (1..=MOST).contains(seconds));
            seconds.ok_or_else(|| format!("{name} needs a number up to {MOST}"))
        };
        let file = || match std::fs::metadata(value) {
            Ok(found) if found.is_file() => Ok(text()),
            Ok(_) => Err(format!("{name}={value}: no file")),
            Err(error) => Err(format!("{name}={value}: {error}")),
        };
        match name {
            "BIOS" => given.bios = file()?,
            "KERNEL" => given.kernel = file()?,
            "APPEND" => given.append = text(),
            "INITRD" => given.initrd = text(),
            "SECONDS" => given.seconds = seconds()?,
            "QUIET" => given.quiet = seconds()?,
            _ => return Err(format!("{name}: no such setting\n{USAGE}")),
        }
    }
    if given.bios.is_none() && given.kernel.is_none() {
        return Err(format!("neither BIOS nor KERNEL\n{USAGE}"));
    }
    if given.kernel.is_none() && (given.append.is_some() || given.initrd.is_some()) {
        return Err("APPEND and INITRD are for a KERNEL".to_owned());
    }
    Ok(given)
}

/// Whether both sides told the same and ended in time.
fn run(words: &[String]) -> Result<bool, String> {
    if words.first().is_some_and(|word| word == "-h" || word == "--help") {
        println!("{USAGE}");
        return Ok(true);
    }
    let given = given(words)?;
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let programs = own.parent().ok_or("no folder of programs")?;
    let scratch = programs.join("scratch").join(format!("suite-{}", std::process::id()));
    bulkhead_tests::keeper::keep_folder(&scratch);
    std::fs::create_dir_all(&scratch).map_err(|error| format!("{}: {error}", scratch.display()))?;
    let good = compare(&given, programs, &scratch);
    let _ = std::fs::remove_dir_all(&scratch);
    good
}

fn compare(given: &Given, programs: &Path, scratch: &Path) -> Result<bool, String> {
    let mut all = Vec::new();
    for side in bulkhead_programs::sides(programs) {
        let told = suite::run(&side, given, scratch)?;
        suite::print(side.name, &told);
        all.push(told);
    }
    let [ours, others @ ..] = &all[..] else { return Ok(false) };
    let differences: Vec<String> = others.iter().flat_map(|peer| suite::differences(ours, peer)).collect();
    differences.iter().for_each(|line| println!("differs: {line}"));
    Ok(differences.is_empty() && ours.end != End::TimeOver)
}

fn main() -> ExitCode {
    bulkhead_programs::main("suite", run)
}
