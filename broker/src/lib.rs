//! See README.md.

use bulkhead_config::MachineConfig;

/// Builds and runs the machine; returns the exit status of the program.
pub fn run(config: MachineConfig) -> i32 {
    eprintln!("{}: the broker is not built yet", config.program);
    1
}
