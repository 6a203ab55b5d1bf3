//! Programs of others as proof of the machine: suites run in a Debian guest ([`guest`]), and what they say is compared with another emulator's and
//! the host's ([`compare`]), except where [`known`] has a reason.

pub mod campaign;
pub mod compare;
pub mod guest;
pub mod known;
pub mod runs;
pub mod suite;

use std::process::ExitCode;

/// An emulator under test.
pub struct Side {
    /// `ours` or `peer`.
    pub name: &'static str,
    /// Program and first arguments.
    pub command: Vec<String>,
}

/// Ours, from a folder of programs, and the peer if there is one.
pub fn sides(programs: &std::path::Path) -> Vec<Side> {
    let ours = vec![programs.join("qemu-system-x86_64").display().to_string()];
    let mut sides = vec![Side { name: "ours", command: ours }];
    sides.extend(bulkhead_tests::peer::command().map(|command| Side { name: "peer", command }));
    sides
}

/// The body of a program of this crate: `run` with the words of its command line; false and an error, one line on standard error, are
/// failures.
pub fn main(name: &str, run: impl FnOnce(&[String]) -> Result<bool, String>) -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}
