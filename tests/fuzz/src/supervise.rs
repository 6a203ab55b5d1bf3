//! Workers, started and watched: a crash, an abort and a hang of one are findings like a panic is.

use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::engine::Failure;
use crate::settings::Settings;
use crate::targets::Target;
use crate::watch::HUNG;
use crate::{cover, worker};

/// First word of a worker's command line.
pub const WORKER: &str = "--worker";

/// Runs every target. False when something was found.
///
/// # Errors
/// The host's.
pub fn supervise(settings: &Settings) -> Result<bool, String> {
    if cover::edges() == 0 {
        println!("without coverage counters (./campaign fuzz builds with them): nothing new is kept");
    }
    println!("seed {}\n{}", settings.seed, worker::head());
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let (left, good) = (Mutex::new(settings.targets.iter()), AtomicBool::new(true));
    let job = || -> Result<(), String> {
        loop {
            let next = left.lock().ok().and_then(|mut left| left.next().copied());
            let Some(target) = next else { return Ok(()) };
            if !one(settings, &program, target)? {
                good.store(false, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        let jobs: Vec<_> = (0..settings.jobs).map(|_| scope.spawn(job)).collect();
        let results = jobs.into_iter().map(|job| job.join().map_err(|_| "a job ended".to_owned())?);
        results.collect::<Result<(), String>>()
    })?;
    Ok(good.into_inner())
}

/// Runs one target in a process. False when something was found.
fn one(settings: &Settings, program: &Path, target: &Target) -> Result<bool, String> {
    let Some(words) = settings.words(target) else { return Ok(true) };
    let scratch = settings.folder.join("scratch").join(target.name);
    let say = |error: std::io::Error| format!("{}: {error}", scratch.display());
    let _ = std::fs::remove_dir_all(&scratch);
    std::fs::create_dir_all(&scratch).map_err(say)?;
    let whole = scratch.canonicalize().map_err(say)?;
    let mut command = Command::new(program);
    command.arg(WORKER).args(words).env("TMPDIR", &whole).stdin(Stdio::null());
    // Devices complain there of what they are made to see.
    command.stderr(Stdio::null());
    let status = command.status().map_err(|error| error.to_string())?;
    if status.code() == Some(i32::from(worker::BROKEN)) {
        return Err(format!("{} was not fuzzed", target.name));
    }
    if !matches!(status.code(), Some(0 | 1)) {
        // It had no time to say what it was doing.
        let input = std::fs::read(whole.join(worker::NOW)).unwrap_or_default();
        let failure = Failure { input, reason: reason(status, settings), place: "process".to_owned() };
        worker::record(&settings.folder, target, &failure)?;
    }
    std::fs::remove_dir_all(&whole).map_err(say)?;
    Ok(status.success())
}

fn reason(status: ExitStatus, settings: &Settings) -> String {
    match status.code() {
        Some(HUNG) => format!("does not end within {} s of processor time", settings.hang.as_secs()),
        _ => format!("ended its process: {status}"),
    }
}
