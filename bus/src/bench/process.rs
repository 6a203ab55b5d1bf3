//! A program of this workspace as the broker runs it: its name, a manifest, named descriptors, an empty environment.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::manifest::{MANIFEST_FD, Manifest};
use crate::{serve, sys};

/// Numbers from here on are free in the child until its descriptors are in their places.
const ASIDE: RawFd = 200;

/// A process that does not outlive the test.
#[derive(Debug)]
pub struct Process(Child);

fn aside(fd: RawFd) -> OwnedFd {
    // SAFETY: duplicates a descriptor; the result, if any, is ours.
    unsafe {
        let copy = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, ASIDE);
        assert!(copy >= ASIDE, "descriptor for a test");
        OwnedFd::from_raw_fd(copy)
    }
}

impl Process {
    /// Executes `program` (`bh-serial` for example), which was built beside the running test, with `files` at the numbers that the
    /// manifest is given for them.
    ///
    /// # Panics
    /// When it cannot be executed.
    pub fn start(program: &str, manifest: Manifest, files: &[(&str, BorrowedFd<'_>)]) -> Process {
        let numbered = files.iter().zip(MANIFEST_FD + 1..);
        let fds = numbered.map(|((name, _), number)| ((*name).to_owned(), number)).collect();
        let manifest = Manifest { fds, ..manifest };
        let bytes = serve::encode_manifest(&manifest).expect("manifest for a test");
        let memory = sys::memfd("manifest", bytes.len() as u64).expect("memfd for a test");
        let map = sys::Mapping::shared(std::os::fd::AsFd::as_fd(&memory), bytes.len(), true);
        assert!(map.expect("mapping for a test").write(0, &bytes), "manifest for a test");
        let all = std::iter::once(memory.as_raw_fd()).chain(files.iter().map(|(_, fd)| fd.as_raw_fd()));
        let copies: Vec<OwnedFd> = all.map(aside).collect();
        let numbers: Vec<RawFd> = copies.iter().map(AsRawFd::as_raw_fd).collect();
        // Cargo tells the path in a variable whose name has a hyphen, which not every shell that wraps a compiler lets through.
        let test = std::env::current_exe().expect("path of the test");
        let path = test.ancestors().nth(2).expect("target folder").join(program);
        let mut command = Command::new(&path);
        command.arg0(&manifest.name).env_clear().stdin(Stdio::null()).stdout(Stdio::null());
        // SAFETY: dup2 is async-signal-safe and the numbers are live.
        unsafe {
            command.pre_exec(move || {
                for (source, target) in numbers.iter().zip(MANIFEST_FD..) {
                    if libc::dup2(*source, target) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        Process(command.spawn().unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }

    /// Waits until it is ready; `ready` may wait a little itself.
    ///
    /// # Panics
    /// When it ends instead, or after 20 seconds.
    pub fn wait_ready(&mut self, mut ready: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !ready() {
            if let Some(status) = self.0.try_wait().expect("own child") {
                panic!("the process ended before it was ready: {status}");
            }
            assert!(Instant::now() < end, "the process is not ready");
        }
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// When it does not within 60 seconds.
    pub fn wait_end(&mut self) -> ExitStatus {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.0.try_wait().expect("own child") {
                return status;
            }
            assert!(Instant::now() < end, "the process does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether it still runs.
    ///
    /// # Panics
    /// Never: it is a child of this process.
    pub fn runs(&mut self) -> bool {
        self.0.try_wait().expect("own child").is_none()
    }

    /// Kills it, if it still runs, and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
