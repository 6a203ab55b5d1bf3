//! `-d`: lines for the log file, written to a pipe that the broker copies.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use bulkhead_engine::log;

/// Names of the items as on the command line.
const ITEMS: &[(&str, u32)] = &[
    ("out_asm", log::OUT_ASM),
    ("in_asm", log::IN_ASM),
    ("op", log::OP),
    ("op_opt", log::OP_OPT),
    ("int", log::INT),
    ("exec", log::EXEC),
    ("cpu", log::CPU),
    ("pcall", log::PCALL),
    ("cpu_reset", log::CPU_RESET),
    ("ioport", log::IOPORT),
    ("all", u32::MAX),
];

/// The items named, as a mask. Unknown names are the launcher's to refuse.
fn mask(items: &[String]) -> u32 {
    let known = |item: &String| ITEMS.iter().find(|(name, _)| name == item).map_or(0, |(_, bit)| *bit);
    items.iter().map(known).fold(0, |mask, bit| mask | bit)
}

/// The log.
pub struct Log {
    pipe: Option<OwnedFd>,
    mask: AtomicU32,
}

impl Log {
    /// Onto a pipe; without one every line is dropped.
    pub fn new(pipe: Option<OwnedFd>, items: &[String]) -> Log {
        Log { pipe, mask: AtomicU32::new(mask(items)) }
    }

    /// Items switched on.
    pub fn mask(&self) -> u32 {
        self.mask.load(Ordering::Relaxed)
    }

    /// Whether an item is on.
    pub fn has(&self, item: u32) -> bool {
        self.mask() & item != 0
    }

    /// Switches these items on and all others off.
    pub fn set(&self, items: &[String]) {
        self.mask.store(mask(items), Ordering::Relaxed);
    }

    /// Writes one line (a newline is added) if its item is on.
    pub fn line(&self, item: u32, text: &str) {
        let Some(pipe) = self.pipe.as_ref().filter(|_| self.has(item)) else { return };
        let bytes = format!("{}\n", text.trim_end());
        let mut rest = bytes.as_bytes();
        while !rest.is_empty() {
            match nix::unistd::write(pipe, rest) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(nix::errno::Errno::EINTR) => {}
                // The broker is gone or does not want more.
                Err(_) => return,
            }
        }
    }
}
