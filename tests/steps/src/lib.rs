//! Death after every single instruction. See README.md.

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bulkhead_bus::bell::{BELL_BYTES, Bell};
use bulkhead_bus::irq::{IRQ_BYTES, IrqPage};
use bulkhead_bus::manifest::{MANIFEST_FD, Manifest, fd};
use bulkhead_bus::serve;
use bulkhead_bus::sys::{Mapping, memfd};

mod effects;

use effects::Watch;

/// The other side has all it wanted.
const ENOUGH: libc::c_int = libc::SIGUSR1;
/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(60);
/// First descriptor number that is out of the way of those a child gets.
const HIGH: RawFd = 300;

/// Everything that outlives one process.
pub struct Rig {
    files: Vec<(String, OwnedFd)>,
    program: &'static str,
    role: &'static str,
    config: Vec<u8>,
    ram_bytes: u64,
    bulk_bytes: u64,
}

/// The folder with the programs under test: that above the folder of the test.
///
/// # Panics
/// When the test does not run from a target folder.
pub fn folder() -> PathBuf {
    let own = std::env::current_exe().expect("own path");
    own.ancestors().nth(2).expect("a folder above").to_owned()
}

impl Rig {
    /// For `program` in its role, with fresh memories of these names and sizes.
    pub fn new(program: &'static str, role: &'static str, config: Vec<u8>, memories: &[(&str, u64)]) -> Rig {
        let size =
            |wanted: &str| memories.iter().find(|(name, _)| *name == wanted).map_or(0, |(_, size)| *size);
        let file = |(name, size): &(&str, u64)| ((*name).to_owned(), memfd(name, *size).expect("memfd"));
        Rig {
            files: memories.iter().map(file).collect(),
            program,
            role,
            config,
            ram_bytes: size(fd::RAM),
            bulk_bytes: size(fd::BULK),
        }
    }

    /// Adds an open file under a name.
    pub fn add(&mut self, name: &str, file: OwnedFd) {
        self.files.push((name.to_owned(), file));
    }

    /// Maps a memory.
    pub fn map(&self, name: &str, len: usize) -> Mapping {
        let (_, file) = self.files.iter().find(|(have, _)| have == name).expect("a memory of the rig");
        Mapping::shared(file.as_fd(), len, true).expect("mapping")
    }

    /// Maps a bell.
    pub fn bell(&self, name: &str) -> Bell {
        Bell::new(self.map(name, BELL_BYTES))
    }

    /// Maps the interrupt page.
    pub fn irq(&self) -> Arc<IrqPage> {
        Arc::new(IrqPage::new(self.map(fd::IRQ, IRQ_BYTES), self.bell(fd::CPU_BELL)))
    }

    fn start(&self, traced: bool) -> Child {
        let numbers = MANIFEST_FD + 1..;
        let manifest = Manifest {
            name: "bh-steps".to_owned(),
            role: self.role.to_owned(),
            fds: self.files.iter().zip(numbers).map(|((name, _), number)| (name.clone(), number)).collect(),
            config: self.config.clone(),
            ram_bytes: self.ram_bytes,
            bulk_bytes: self.bulk_bytes,
            ..Manifest::default()
        };
        let bytes = serve::encode_manifest(&manifest).expect("small");
        let memory = memfd("manifest", bytes.len() as u64).expect("memfd");
        nix::sys::uio::pwrite(&memory, &bytes, 0).expect("manifest");
        let copy = |fd: &OwnedFd| {
            // SAFETY: duplicates a live descriptor.
            let raw = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, HIGH) };
            assert!(raw >= HIGH, "no descriptor");
            // SAFETY: just made, nobody else's.
            unsafe { OwnedFd::from_raw_fd(raw) }
        };
        let high: Vec<OwnedFd> =
            std::iter::once(&memory).chain(self.files.iter().map(|(_, file)| file)).map(copy).collect();
        let sources: Vec<RawFd> = high.iter().map(AsRawFd::as_raw_fd).collect();
        let mut command = Command::new(folder().join(self.program));
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null());
        // SAFETY: only async-signal-safe calls with plain values.
        unsafe {
            command.pre_exec(move || {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                for (index, source) in sources.iter().enumerate() {
                    if libc::dup2(*source, MANIFEST_FD + index as RawFd) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                if traced && libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.program))
    }
}

/// A process that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Keeps this thread and what it starts on the processor that it runs on: nobody spins for a peer that cannot run meanwhile, and
/// a run has as many instructions as the last one.
fn stay_here() {
    // SAFETY: an empty set is a valid value, and lives over the call.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(libc::sched_getcpu().max(0) as usize, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

/// A process under `ptrace`, to be used by the thread that started it.
struct Traced(Running);

impl Traced {
    fn pid(&self) -> libc::pid_t {
        self.0.0.id() as libc::pid_t
    }

    /// A descriptor that stands for this process and no later one of its number.
    fn handle(&self) -> OwnedFd {
        // SAFETY: plain values.
        let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid(), 0) } as RawFd;
        assert!(raw >= 0, "pidfd: {}", std::io::Error::last_os_error());
        // SAFETY: just made, nobody else's.
        unsafe { OwnedFd::from_raw_fd(raw) }
    }

    fn request(&self, request: libc::c_uint, data: usize) {
        // SAFETY: plain values for a child that is stopped under our trace.
        let result = unsafe { libc::ptrace(request, self.pid(), 0usize, data) };
        assert_eq!(result, 0, "ptrace {request}: {}", std::io::Error::last_os_error());
    }

    /// The signal that the process has stopped with, if it has; panics when it has ended.
    fn stopped(&self, flags: libc::c_int) -> Option<libc::c_int> {
        let mut status = 0;
        // SAFETY: `status` is valid for writing.
        let pid = unsafe { libc::waitpid(self.pid(), &raw mut status, flags | libc::__WALL) };
        assert!(pid >= 0, "waitpid: {}", std::io::Error::last_os_error());
        assert!(pid == 0 || libc::WIFSTOPPED(status), "the process ended by itself: {status:#x}");
        (pid != 0).then(|| libc::WSTOPSIG(status))
    }

    /// Starts a process, lets it run until it serves, and stops it.
    fn start(rig: &Rig, ready: &AtomicU32) -> Traced {
        ready.store(0, Ordering::SeqCst);
        let traced = Traced(Running(rig.start(true)));
        traced.stopped(0);
        traced.request(libc::PTRACE_SETOPTIONS, libc::PTRACE_O_EXITKILL as usize);
        traced.request(libc::PTRACE_CONT, 0);
        let end = Instant::now() + LIMIT;
        while ready.load(Ordering::SeqCst) == 0 {
            assert_eq!(traced.stopped(libc::WNOHANG), None, "the process stopped before it was ready");
            assert!(Instant::now() < end, "the process does not get ready");
            std::thread::sleep(Duration::from_micros(50));
        }
        // SAFETY: a plain system call on our own child.
        unsafe { libc::kill(traced.pid(), libc::SIGSTOP) };
        traced.stopped(0);
        traced
    }

    /// Runs one instruction, for as long as it takes, and says why there is no further one.
    fn step(&self) -> Result<(), End> {
        self.request(libc::PTRACE_SINGLESTEP, 0);
        match self.stopped(0) {
            Some(libc::SIGTRAP) => Ok(()),
            Some(ENOUGH) => Err(End::Enough),
            signal => Err(End::Signal(signal.unwrap_or(0))),
        }
    }
}

/// Why a process does not go on.
enum End {
    /// The other side has said [`ENOUGH`].
    Enough,
    /// Its own doing: a fault, an abort.
    Signal(libc::c_int),
}

/// Says [`ENOUGH`] to the process when the other side ends, by a panic too.
struct Teller(OwnedFd);

impl Drop for Teller {
    fn drop(&mut self) {
        let none = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: plain values and a null siginfo, which means an ordinary signal; fails when the process is gone.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), ENOUGH, none, 0) };
    }
}

/// One scenario: what outlives the process, and the other side.
pub trait Scenario: Sync {
    /// What the other side saw, and what was left behind.
    type Outcome: PartialEq + std::fmt::Debug + Send;

    /// The memories.
    fn rig(&self) -> &Rig;

    /// The word that says that the process serves.
    fn ready(&self) -> Mapping;

    /// Offset of that word.
    fn ready_at(&self) -> usize;

    /// Plays the other side from beginning to end.
    fn play(&self) -> Self::Outcome;
}

/// Where a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// Nowhere.
    Never,
    /// After so many instructions.
    Instruction(u64),
    /// After so many instructions that others can notice.
    Noticed(u64),
}

/// Instructions of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// All of them.
    pub instructions: u64,
    /// Those that others can notice, if they were counted.
    pub noticed: u64,
}

/// Ends the test program: a panic would wait for the thread that does not end.
fn give_up(why: &str) -> ! {
    // Not by a macro, whose text would go with the test that it belongs to.
    let _ = writeln!(std::io::stderr(), "{why} within {LIMIT:?}");
    std::process::exit(1)
}

/// Plays a fresh scenario with a death. The outcome and what was stepped until then.
fn play<S: Scenario>(scenario: &S, death: Death) -> (S::Outcome, Steps) {
    stay_here();
    let map = scenario.ready();
    let ready = map.word(scenario.ready_at());
    let traced = Traced::start(scenario.rig(), ready);
    let process = traced.handle();
    std::thread::scope(|scope| {
        let other = scope.spawn(move || {
            let _teller = Teller(process);
            scenario.play()
        });
        let (mut steps, mut fault) = (Steps::default(), None);
        let mut watch = (!matches!(death, Death::Instruction(_))).then(|| Watch::new(traced.pid()));
        loop {
            let is_here = match death {
                Death::Never => false,
                Death::Instruction(after) => steps.instructions >= after,
                Death::Noticed(after) => steps.noticed >= after,
            };
            if is_here {
                break;
            }
            let is_noticed = watch.as_mut().is_some_and(Watch::is_noticed);
            match traced.step() {
                Ok(()) => {}
                Err(End::Enough) => break,
                Err(End::Signal(signal)) => {
                    fault = Some(signal);
                    break;
                }
            }
            steps.instructions += 1;
            steps.noticed += u64::from(is_noticed);
        }
        drop(traced);
        // After a fault too: the other side does not end without one.
        let successor =
            (death != Death::Never || fault.is_some()).then(|| Running(scenario.rig().start(false)));
        let end = Instant::now() + LIMIT;
        while !other.is_finished() {
            if Instant::now() > end {
                give_up(&format!("{}: the other side does not end after {death:?}", scenario.rig().program));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        let outcome = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        drop(successor);
        if let Some(signal) = fault {
            let name =
                nix::sys::signal::Signal::try_from(signal).map_or("a signal", |signal| signal.as_str());
            panic!("{}: {name} by itself after {steps:?}", scenario.rig().program);
        }
        (outcome, steps)
    })
}

/// What a sweep found.
#[derive(Debug)]
pub struct Found<O> {
    /// Deaths tried.
    pub deaths: u64,
    /// The undisturbed run.
    pub steps: Steps,
    /// Deaths that made a difference, with what was seen.
    pub wrong: Vec<(Death, O)>,
    /// What is seen when nobody dies.
    pub calm: O,
}

/// How many deaths a sweep tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deaths {
    /// So many, spread over the sequence.
    Most(u64),
    /// Every one that can make a difference: one between each two instructions that others can notice.
    Distinct,
    /// One after every instruction, which takes hours.
    Every,
}

/// Dies again and again in a sequence, each time in a scenario of its own.
pub fn sweep<S: Scenario>(make: impl Fn() -> S, deaths: Deaths) -> Found<S::Outcome> {
    let (calm, steps) = play(&make(), Death::Never);
    let mut found = Found { deaths: 0, steps, wrong: Vec::new(), calm };
    let (last, stride) = match deaths {
        Deaths::Most(most) => (steps.noticed, (steps.noticed / most.max(1)).max(1)),
        Deaths::Distinct => (steps.noticed, 1),
        Deaths::Every => (steps.instructions, 1),
    };
    for after in (0..=last).step_by(stride as usize) {
        let death = if deaths == Deaths::Every { Death::Instruction(after) } else { Death::Noticed(after) };
        let (outcome, _) = play(&make(), death);
        found.deaths += 1;
        if outcome != found.calm {
            found.wrong.push((death, outcome));
        }
    }
    found
}
