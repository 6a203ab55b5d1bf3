//! Starting one process: exec of a small program beside this one, descriptors by number, no environment.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

use bulkhead_bus::manifest::{MANIFEST_FD, Manifest, fd};
use bulkhead_bus::standby::{self, Release};
use bulkhead_bus::{serve, sys as bus_sys};
use bulkhead_security::Watch;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use crate::fail::{Fail, reason};
use crate::sys;

/// A running process of the machine.
#[derive(Debug)]
pub struct Process {
    /// As `ps` shows it.
    pub name: String,
    /// Process id.
    pub pid: u32,
    /// Readable when it has ended.
    pub pidfd: OwnedFd,
    /// Its standard error: what it says about its own end.
    pub stderr: Option<std::process::ChildStderr>,
    /// Bytes of it that have been shown.
    pub said: usize,
    /// The last of it that was not empty, for the record of its end.
    pub last: String,
    /// Nothing that it says replaces `last` any more.
    pub last_is_final: bool,
    /// Start.
    pub since: Instant,
    /// Its jail.
    pub jail: Watch,
    _child: Child,
}

/// What it takes to start a process again: its program by name, so that the one then on disk is started; its manifest, of which
/// every process gets a fresh copy; duplicates of its descriptors.
#[derive(Debug)]
pub struct Recipe {
    program: &'static str,
    /// The program as it was at start, for when its name is out of reach or leads elsewhere.
    held: Option<OwnedFd>,
    /// Its name leads elsewhere: into the folder of `-chroot`.
    enclosed: bool,
    manifest: Manifest,
    fds: Vec<(String, OwnedFd)>,
}

impl Recipe {
    /// Keeps duplicates of `fds`.
    ///
    /// # Errors
    /// When there are too many.
    pub fn new(
        program: &'static str,
        manifest: Manifest,
        fds: &[(String, BorrowedFd<'_>)],
    ) -> Result<Recipe, Fail> {
        let copy = |(name, fd): &(String, BorrowedFd<'_>)| Ok((name.clone(), fd.try_clone_to_owned()?));
        let fds = fds.iter().map(copy).collect::<std::io::Result<Vec<_>>>();
        let fds = fds.map_err(|e| Fail(format!("{}: {}", manifest.name, reason(&e))))?;
        Ok(Recipe { program, held: None, enclosed: false, manifest, fds })
    }

    /// Keeps the program open, so that it can be started when its name is out of reach. With `enclosed` its name is never followed:
    /// below another root it is that of a file which anybody may have put there.
    ///
    /// # Errors
    /// When it is missing.
    pub fn hold_program(&mut self, enclosed: bool) -> Result<(), Fail> {
        let path = folder()?.join(self.program);
        let file = File::open(&path).map_err(|e| Fail(format!("{}: {}", path.display(), reason(&e))))?;
        (self.held, self.enclosed) = (Some(file.into()), enclosed);
        Ok(())
    }

    /// The open program, where that is the one to execute.
    fn by_descriptor(&self) -> Option<BorrowedFd<'_>> {
        let is_reachable = || folder().is_ok_and(|folder| File::open(folder.join(self.program)).is_ok());
        self.held.as_ref().filter(|_| self.enclosed || !is_reachable()).map(AsFd::as_fd)
    }

    /// Starts a process. From the main thread only: the child dies with its starter.
    ///
    /// # Errors
    /// As [`spawn`].
    pub fn start(&self) -> Result<Process, Fail> {
        spawn(self.program, self.by_descriptor(), self.manifest.clone(), &self.descriptors())
    }

    /// Starts a process that waits, in its jail, until it is to take over; as [`Recipe::start`]. It gets `own` in the place of the
    /// descriptor of that name.
    ///
    /// # Errors
    /// As [`spawn`].
    pub fn start_standby(&self, own: Option<(&str, &OwnedFd)>) -> Result<Standby, Fail> {
        let (page, release) = Release::new().map_err(|e| Fail(reason(&e)))?;
        let mut fds = self.descriptors();
        if let Some((name, own)) = own {
            fds.retain(|(have, _)| have != name);
            fds.push((name.to_owned(), own.as_fd()));
        }
        fds.push((fd::STANDBY.to_owned(), page.as_fd()));
        let process = spawn(self.program, self.by_descriptor(), self.manifest.clone(), &fds)?;
        Ok(Standby { process, release })
    }

    fn descriptors(&self) -> Vec<(String, BorrowedFd<'_>)> {
        self.fds.iter().map(|(name, fd)| (name.clone(), fd.as_fd())).collect()
    }

    /// The descriptor named `name`.
    pub fn descriptor(&self, name: &str) -> Option<BorrowedFd<'_>> {
        self.fds.iter().find(|(have, _)| have == name).map(|(_, fd)| fd.as_fd())
    }

    /// Puts another descriptor in the place of the one named `name`, or takes it away.
    pub fn put(&mut self, name: &str, fd: Option<OwnedFd>) {
        self.fds.retain(|(have, _)| have != name);
        self.fds.extend(fd.map(|fd| (name.to_owned(), fd)));
    }

    /// Number of the device's outputs in the interrupt page.
    pub fn source(&self) -> usize {
        self.manifest.source as usize
    }
}

/// A process that waits for its predecessor's death.
#[derive(Debug)]
pub struct Standby {
    process: Process,
    release: Release,
}

impl Standby {
    /// Lets it take over. `None` when it has died meanwhile.
    pub fn take_over(self) -> Option<Process> {
        if self.process.ended().is_some() {
            return None;
        }
        self.release.go();
        Some(self.process)
    }

    /// Whether it has died; it is collected then.
    pub fn has_died(&self) -> bool {
        self.process.ended().is_some()
    }

    /// Ends it.
    pub fn dismiss(self) {
        self.process.kill();
        self.process.collect();
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid
    }

    /// Readable when it has died.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.process.pidfd.as_fd()
    }
}

/// Folder of the programs of the machine: that of this program, looked up once, while it can be.
///
/// # Errors
/// When the kernel does not say where this program is.
fn folder() -> Result<&'static Path, Fail> {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    if let Some(folder) = FOLDER.get() {
        return Ok(folder);
    }
    let own = std::env::current_exe().map_err(|e| Fail(format!("own program: {}", reason(&e))))?;
    Ok(FOLDER.get_or_init(|| own.parent().map(PathBuf::from).unwrap_or_default()))
}

/// A memory file of sealed contents: whoever gets it may only read.
///
/// # Errors
/// The kernel's.
pub fn sealed(name: &str, bytes: &[u8]) -> Result<OwnedFd, Fail> {
    bus_sys::memfd_of(&format!("bh-{name}"), bytes)
        .map_err(|e| Fail(format!("cannot allocate {} bytes for {name}: {}", bytes.len(), reason(&e))))
}

/// A memory file of sealed size that begins as `bytes`.
///
/// # Errors
/// The kernel's.
pub fn memory_with(name: &str, bytes: &[u8]) -> Result<OwnedFd, Fail> {
    let fd = memory(name, bytes.len().max(1) as u64)?;
    let mut done = 0usize;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        done += nix::sys::uio::pwrite(fd.as_fd(), rest, done as i64)?;
    }
    Ok(fd)
}

/// A zeroed memory file of sealed size.
///
/// # Errors
/// The kernel's.
pub fn memory(name: &str, bytes: u64) -> Result<OwnedFd, Fail> {
    bus_sys::memfd(&format!("bh-{name}"), bytes)
        .map_err(|e| Fail(format!("cannot allocate {bytes} bytes for {name}: {}", reason(&e))))
}

/// Starts `program`, or what is open at `by_descriptor` in its place, under the manifest's name with `fds` by name.
/// The manifest's own list is filled in here, and the socket for the report of its jail added.
///
/// # Errors
/// When the program is missing or cannot be started.
pub fn spawn(
    program: &str,
    by_descriptor: Option<BorrowedFd<'_>>,
    mut manifest: Manifest,
    fds: &[(String, BorrowedFd<'_>)],
) -> Result<Process, Fail> {
    let fail = |why: String| Fail(format!("cannot start {}: {why}", manifest.name));
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .map_err(Fail::from)?;
    let mut fds = fds.to_vec();
    fds.push((fd::REPORT.to_owned(), theirs.as_fd()));
    manifest.fds =
        fds.iter().enumerate().map(|(at, (name, _))| (name.clone(), MANIFEST_FD + 1 + at as i32)).collect();
    if MANIFEST_FD as usize + 1 + fds.len() > sys::FIRST_OWN as usize {
        return Err(fail("too many descriptors".to_owned()));
    }
    let bytes = serve::encode_manifest(&manifest).map_err(|_| fail("its manifest is too long".to_owned()))?;
    let memory = sealed("manifest", &bytes)?;
    let mut numbers: Vec<RawFd> = vec![memory.as_raw_fd()];
    numbers.extend(fds.iter().map(|(_, fd)| fd.as_raw_fd()));
    let path = folder()?.join(program);
    let waits = fds.iter().any(|(name, _)| name == fd::STANDBY);
    let shown = if waits { standby::NAME } else { &manifest.name };
    let mut command = Command::new(&path);
    command
        .arg0(shown)
        .env_clear()
        .stdin(sys::nothing().map_err(|e| fail(reason(&e)))?)
        .stdout(sys::nothing().map_err(|e| fail(reason(&e)))?)
        .stderr(Stdio::piped());
    sys::hand_over(&mut command, numbers, shown, by_descriptor.map(|fd| fd.as_raw_fd()));
    let mut child = command.spawn().map_err(|e| fail(format!("{}: {}", path.display(), reason(&e))))?;
    let pidfd = sys::pidfd_open(child.id()).map_err(|e| fail(reason(&e)))?;
    Ok(Process {
        name: manifest.name.clone(),
        pid: child.id(),
        pidfd,
        stderr: child.stderr.take(),
        said: 0,
        last: String::new(),
        last_is_final: false,
        since: Instant::now(),
        jail: Watch::new(ours),
        _child: child,
    })
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Words for the user: `exited with status 1`, `was killed by SIGSEGV`.
    pub text: String,
    /// Exit status 0.
    pub clean: bool,
    /// SIGKILL: nothing that a process does to itself.
    pub killed: bool,
}

impl Process {
    /// Collects the process if it has ended.
    pub fn ended(&self) -> Option<End> {
        let status = waitid(Id::PIDFd(self.pidfd.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG);
        match status {
            Ok(WaitStatus::Exited(_, code)) => {
                Some(End { text: format!("exited with status {code}"), clean: code == 0, killed: false })
            }
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                let why = match signal {
                    nix::sys::signal::Signal::SIGSYS => " (a system call that its policy forbids)",
                    _ => "",
                };
                let killed = signal == nix::sys::signal::Signal::SIGKILL;
                Some(End { text: format!("was killed by {signal}{why}"), clean: false, killed })
            }
            Err(nix::errno::Errno::ECHILD) => {
                Some(End { text: "is gone".to_owned(), clean: false, killed: false })
            }
            _ => None,
        }
    }

    /// Kills it at once.
    pub fn kill(&self) {
        sys::pidfd_kill(self.pidfd.as_fd());
    }

    /// Collects it after a kill.
    pub fn collect(&self) {
        let _ = waitid(Id::PIDFd(self.pidfd.as_fd()), WaitPidFlag::WEXITED);
    }

    /// What it has written to its standard error and was not read yet, made harmless for a terminal.
    pub fn last_words(&mut self) -> String {
        let Some(stderr) = self.stderr.as_ref() else { return String::new() };
        let mut bytes = [0u8; 4096];
        let mut fds = [nix::poll::PollFd::new(stderr.as_fd(), nix::poll::PollFlags::POLLIN)];
        match nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO) {
            Ok(1..) => {}
            _ => return String::new(),
        }
        match nix::unistd::read(stderr, &mut bytes) {
            Ok(0) | Err(_) => {
                self.stderr = None;
                String::new()
            }
            Ok(len) => {
                self.said = self.said.saturating_add(len);
                if self.said > SAID_MAX {
                    String::new()
                } else {
                    let text = printable(bytes.get(..len).unwrap_or_default());
                    if !self.last_is_final
                        && let Some(line) = text.lines().rev().find(|line| !line.trim().is_empty())
                    {
                        self.last = line.trim().chars().take(LAST_MAX).collect();
                    }
                    text
                }
            }
        }
    }
}

/// Bytes of a process's standard error that are shown at most.
const SAID_MAX: usize = 64 << 10;

/// Characters of its last line that are remembered.
const LAST_MAX: usize = 200;

/// Text of another process without control characters but line feeds.
pub fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|c| if c == '\n' || !c.is_control() { c } else { '.' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of this name in the folder of this one, and what it takes to start it.
    fn held(name: &'static str, enclosed: bool) -> (PathBuf, Recipe) {
        let path = folder().expect("own program").join(name);
        std::fs::write(&path, "").expect("a file");
        let manifest = Manifest { name: name.to_owned(), role: "rtc".to_owned(), ..Manifest::default() };
        let mut recipe = Recipe::new(name, manifest, &[]).expect("no descriptors");
        recipe.hold_program(enclosed).expect("it is there");
        (path, recipe)
    }

    #[test]
    fn what_lies_at_a_programs_name_below_another_root_is_not_executed() {
        let (path, recipe) = held("bh-test-enclosed", true);
        let there = recipe.by_descriptor().is_some();
        std::fs::remove_file(path).expect("it was made");
        assert!(there && recipe.by_descriptor().is_some());
    }

    #[test]
    fn without_another_root_a_program_is_executed_by_its_name_while_that_leads_somewhere() {
        let (path, recipe) = held("bh-test-held", false);
        let there = recipe.by_descriptor().is_some();
        std::fs::remove_file(path).expect("it was made");
        assert!(!there && recipe.by_descriptor().is_some());
    }
}
