//! `fuzz`: the campaign (see the library).

use std::process::ExitCode;

use bulkhead_fuzz::settings::{Settings, USAGE};
use bulkhead_fuzz::targets::{self, TARGETS};
use bulkhead_fuzz::{corpus, heap, spent, supervise, worker};

#[global_allocator]
static HEAP: heap::Counting = heap::Counting;

fn run(words: &[String]) -> Result<bool, String> {
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["-h" | "--help", ..] => println!("{USAGE}"),
        ["--list"] => {
            TARGETS.iter().for_each(|target| {
                println!("{:<16} {:>5} s  {}", target.name, spent::seconds(target.name), target.what)
            });
        }
        ["--replay", name, hex] => {
            let target = targets::find(name).ok_or_else(|| format!("no target '{name}'"))?;
            let input = corpus::bytes(hex).ok_or_else(|| format!("'{hex}' is not hexadecimal"))?;
            // Nothing is caught: a failure says where.
            (target.run)(&input);
        }
        [supervise::WORKER, ..] => {
            return Settings::parse(words.get(1..).unwrap_or_default()).and_then(|one| worker::work(&one));
        }
        _ => return Settings::parse(words).and_then(|all| supervise::supervise(&all)),
    }
    Ok(true)
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // Not on standard error, which a worker has not.
        Err(error) if words.first().is_some_and(|word| word == supervise::WORKER) => {
            println!("fuzz: {error}");
            ExitCode::from(worker::BROKEN)
        }
        Err(error) => {
            eprintln!("fuzz: {error}");
            ExitCode::FAILURE
        }
    }
}
