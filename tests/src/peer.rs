//! The emulator that ours is compared with.

use std::path::PathBuf;

fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Program and first arguments of the peer for a 64-bit machine: the command line in the variable `PEER`, else `qemu-system-x86_64` from
/// `PATH`. None when `PEER` is `none` or there is none, which is then said.
pub fn command() -> Option<Vec<String>> {
    match std::env::var("PEER") {
        Ok(none) if none == "none" => None,
        Ok(command) if !command.trim().is_empty() => {
            Some(command.split_whitespace().map(String::from).collect())
        }
        _ => {
            let Some(program) = which("qemu-system-x86_64") else {
                eprintln!(
                    "no peer to compare with; to get one: apt-get install --no-install-recommends qemu-system-x86"
                );
                return None;
            };
            Some(vec![program.display().to_string(), "-accel".into(), "tcg".into()])
        }
    }
}
