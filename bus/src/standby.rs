//! A process that waits for its predecessor's death: started, mapped and in its jail, it has looked at nothing yet that the
//! predecessor can write. The broker releases it when the predecessor is dead, which saves the successor's start.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use crate::manifest::{Manifest, fd};
use crate::serve::StartError;
use crate::sys::{self, Mapping};
use crate::trace::Tracer;

/// Bytes of a standby's page.
const PAGE: usize = 4096;
/// Offset of the word that releases it: not 0.
const GO: usize = 0;

/// What a process is called by its command line (`ps -ef`) while it waits. Padded: its own name takes the place later.
pub const NAME: &str = "bh-standby                     ";

/// The broker's end. The process can read the page and not write it, nobody else has it.
#[derive(Debug)]
pub struct Release(Mapping);

impl Release {
    /// With the page to pass to the process as [`fd::STANDBY`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> std::io::Result<(OwnedFd, Release)> {
        let (page, map) = sys::memfd_written_here("bh-standby", PAGE)?;
        Ok((page, Release(map)))
    }

    /// Lets the process take over.
    pub fn go(self) {
        self.0.word(GO).store(1, Ordering::SeqCst);
        sys::futex_wake(self.0.word(GO));
    }
}

/// The process's end.
#[derive(Debug)]
pub struct Standby(Option<Mapping>);

impl Standby {
    /// Maps the page, if the process is to wait.
    ///
    /// # Errors
    /// When it does not map.
    pub fn of(manifest: &Manifest) -> Result<Standby, StartError> {
        let page = manifest.descriptor(fd::STANDBY).map(|_| manifest.map(fd::STANDBY, PAGE, false));
        Ok(Standby(page.transpose()?))
    }

    /// Waits for the release, if there is one to wait for; from then on `tracer` may record.
    pub fn wait(self, manifest: &Manifest, tracer: &Tracer) {
        if self.released() {
            sys::show_command(&manifest.name);
        }
        tracer.resume();
    }

    /// True after a wait, false when there was nothing to wait for.
    fn released(&self) -> bool {
        let Some(page) = &self.0 else { return false };
        while page.word(GO).load(Ordering::SeqCst) == 0 {
            sys::futex_wait(page.word(GO), 0, None);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_standby_waits_for_its_release() {
        let (page, release) = Release::new().expect("a page");
        let map = Mapping::shared(page.as_fd(), PAGE, false).expect("a mapping");
        assert!(Mapping::shared(page.as_fd(), PAGE, true).is_err(), "only the broker writes it");
        let began = std::sync::Barrier::new(2);
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                began.wait();
                Standby(Some(map)).released();
                over.store(true, Ordering::SeqCst);
            });
            began.wait();
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(!over.load(Ordering::SeqCst), "nobody has released it");
            release.go();
        });
        assert!(over.load(Ordering::SeqCst));
    }
}
