//! Drives whole virtual machines from tests: start a program, type, wait for text, check that nothing is left behind.
//!
//! The programs are those of the profile that the tests are built with (`./check` builds them first); guests are made by
//! `tests/guests/make` into `target/guests`.

pub mod code;
pub mod installed;
pub mod keeper;
pub mod linux;
pub mod machine;
pub mod monitor;
pub mod peer;
pub mod perfetto;
pub mod screen;

pub use installed::Installed;
pub use monitor::Monitor;
pub use screen::Screen;

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The folder with the programs under test.
///
/// # Panics
/// When the test does not run from a cargo target folder.
pub fn programs() -> PathBuf {
    let own = std::env::current_exe().expect("path of the test");
    own.parent().and_then(Path::parent).expect("target folder").to_owned()
}

/// A file of a made guest, e.g. `amd64/vmlinuz`.
///
/// # Panics
/// When it does not exist: `tests/guests/make` has to run first.
pub fn guest(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests").join(name);
    assert!(path.exists(), "{} is missing: run tests/guests/make target/guests", path.display());
    path.to_str().expect("path in UTF-8").to_owned()
}

/// A fresh empty folder below the target folder, removed on drop.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes it; `name` tells tests apart.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new(name: &str) -> Scratch {
        let path = programs().join("scratch").join(format!("{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        keeper::keep_folder(&path);
        std::fs::create_dir_all(&path).expect("scratch folder");
        Scratch(path)
    }

    /// Path of a file in it.
    pub fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("path in UTF-8").to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A folder of `scratch` with all programs under test, each of which can be replaced or taken away there.
///
/// # Panics
/// When it cannot be made.
pub fn own_programs(scratch: &Scratch) -> PathBuf {
    let folder = PathBuf::from(scratch.file("programs"));
    std::fs::create_dir(&folder).expect("folder");
    for entry in std::fs::read_dir(programs()).expect("programs").flatten() {
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if (text.starts_with("bh-") || text.starts_with("qemu")) && !text.contains(".d") {
            std::fs::hard_link(entry.path(), folder.join(&name)).expect("link");
        }
    }
    folder
}

#[derive(Default)]
struct Output {
    text: Mutex<Vec<u8>>,
    grown: Condvar,
    ended: AtomicBool,
}

impl Output {
    /// Waits until all has been read, unless something that lives on holds the other end.
    fn finish(&self) {
        let end = Instant::now() + Duration::from_secs(2);
        while !self.ended.load(Ordering::Acquire) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A running program with its terminal as pipes. Dropping it ends it and checks that no process of it is left; it also ends when
/// the test is killed ([`keeper`]).
pub struct Vm {
    child: Child,
    input: Option<ChildStdin>,
    output: Arc<Output>,
    errors: Arc<Output>,
    /// Output seen by `expect` so far.
    seen: usize,
    /// What had not ended yet when the broker had been collected.
    left: Option<Vec<Process>>,
}

fn collect(mut from: impl Read + Send + 'static) -> Arc<Output> {
    let output = Arc::new(Output::default());
    let to = output.clone();
    std::thread::spawn(move || {
        let mut piece = [0u8; 4096];
        while let Ok(count) = from.read(&mut piece) {
            if count == 0 {
                break;
            }
            to.text.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&piece[..count]);
            to.grown.notify_all();
        }
        to.ended.store(true, Ordering::Release);
    });
    output
}

impl Vm {
    /// Starts a program with arguments.
    ///
    /// # Panics
    /// When it cannot be executed.
    pub fn start(program: &str, args: &[&str]) -> Vm {
        Vm::spawn(program, args, Stdio::piped(), Stdio::piped())
    }

    /// The same with another standard error, which is not collected.
    ///
    /// # Panics
    /// When it cannot be executed.
    pub fn start_unheard(program: &str, args: &[&str], errors: std::io::PipeWriter) -> Vm {
        Vm::spawn(program, args, Stdio::piped(), errors.into())
    }

    /// The same with another standard output, which is not collected.
    ///
    /// # Panics
    /// When it cannot be executed.
    pub fn start_unshown(program: &str, args: &[&str], output: std::io::PipeWriter) -> Vm {
        Vm::spawn(program, args, output.into(), Stdio::piped())
    }

    fn spawn(program: &str, args: &[&str], output: Stdio, errors: Stdio) -> Vm {
        let mut command = Command::new(programs().join(program));
        command.args(args).stdin(Stdio::piped()).stdout(output).stderr(errors);
        // Whatever belongs to the machine is known by its process group: that stays when the broker has gone and the parent is another.
        command.process_group(0);
        keeper::keep(&mut command);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
        let output = child.stdout.take().map_or_else(|| collect(std::io::empty()), collect);
        let errors = child.stderr.take().map_or_else(|| collect(std::io::empty()), collect);
        Vm { input: child.stdin.take(), child, output, errors, seen: 0, left: None }
    }

    /// Process id of the broker.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Types text.
    ///
    /// # Panics
    /// When the program no longer reads.
    pub fn send(&mut self, text: &str) {
        let input = self.input.as_mut().expect("input is open");
        input.write_all(text.as_bytes()).and_then(|()| input.flush()).expect("program reads its input");
    }

    /// Ends the program's standard input.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Waits until `text` appears in the output after what was already waited for; returns the output up to there.
    ///
    /// # Panics
    /// After `seconds`, with the end of the output.
    pub fn expect(&mut self, text: &str, seconds: u64) -> String {
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut have = self.output.text.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let rest = have.get(self.seen..).unwrap_or_default();
            if let Some(at) = rest.windows(text.len()).position(|window| window == text.as_bytes()) {
                let until = at + text.len();
                let found = String::from_utf8_lossy(&rest[..until]).into_owned();
                self.seen += until;
                return found;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let tail = rest.len().saturating_sub(3000);
                let output = String::from_utf8_lossy(&rest[tail..]).into_owned();
                drop(have);
                panic!("no {text:?} within {seconds} s; output ends:\n{output}\nerrors:\n{}", self.errors());
            }
            have = self.output.grown.wait_timeout(have, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Runs a command of a monitor on the terminal; what it prints. The prompt must have been seen.
    ///
    /// # Panics
    /// When no prompt follows within 20 seconds.
    pub fn ask(&mut self, command: &str) -> String {
        self.send(&format!("{command}\n"));
        let text = self.expect("\r\n(qemu) ", 20).replace("\r\n", "\n");
        let (_, answer) = text.split_once('\n').expect("an echo of the command");
        answer.strip_suffix("(qemu) ").unwrap_or(answer).to_owned()
    }

    /// Waits until the output has `count` bytes more than what was already waited for, and takes them.
    ///
    /// # Panics
    /// After `seconds`.
    pub fn take(&mut self, count: usize, seconds: u64) -> Vec<u8> {
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut have = self.output.text.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(bytes) = have.get(self.seen..self.seen + count) {
                self.seen += count;
                return bytes.to_vec();
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let got = have.len() - self.seen;
                drop(have);
                panic!("{got} of {count} bytes within {seconds} s\nerrors:\n{}", self.errors());
            }
            have = self.output.grown.wait_timeout(have, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// All output so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&self.output.text.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// All of standard error so far.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.errors.text.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Waits until `text` appears on standard error. The two streams come on their own ways: what one of them shows says
    /// nothing about the other.
    ///
    /// # Panics
    /// After `seconds`.
    pub fn expect_error(&self, text: &str, seconds: u64) {
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut have = self.errors.text.lock().unwrap_or_else(PoisonError::into_inner);
        while !have.windows(text.len()).any(|window| window == text.as_bytes()) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(have);
                panic!("no {text:?} on standard error within {seconds} s:\n{}", self.errors());
            }
            have = self.errors.grown.wait_timeout(have, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for the end; then `output` and `errors` are complete.
    ///
    /// # Panics
    /// After `seconds`.
    pub fn wait(&mut self, seconds: u64) -> ExitStatus {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(status) = self.collected() {
                self.output.finish();
                self.errors.finish();
                return status;
            }
            assert!(
                Instant::now() < end,
                "still running after {seconds} s; output ends:\n{}\nerrors:\n{}",
                tail(&self.output()),
                self.errors()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether the program has ended.
    ///
    /// # Panics
    /// When the kernel does not know it.
    pub fn has_ended(&mut self) -> bool {
        self.collected().is_some()
    }

    /// The status of the program when it has ended.
    fn collected(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().expect("own child");
        if status.is_some() {
            let _ = self.has_been_collected();
        }
        status
    }

    /// Remembers what is left. Once: the broker's process id becomes another's some day, when its group is empty.
    fn has_been_collected(&mut self) -> &[Process] {
        let group = self.pid();
        self.left.get_or_insert_with(|| {
            keeper::ended(group);
            everybody().into_iter().filter(|process| process.group == group).collect()
        })
    }

    /// The process and everything below it: (pid, name).
    pub fn processes(&self) -> Vec<(u32, String)> {
        tree(self.pid())
    }

    /// Sends a signal to the broker.
    pub fn signal(&self, signal: i32) {
        // SAFETY: a plain system call on our own child's pid.
        unsafe { libc::kill(self.pid() as i32, signal) };
    }
}

/// What `work` comes to, which waits for a machine in a way without a limit of its own.
///
/// # Panics
/// After `seconds`; the waiting thread stays until the test program ends.
pub fn within<T: Send + 'static>(seconds: u64, what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (to, from) = std::sync::mpsc::channel();
    std::thread::spawn(move || to.send(work()));
    from.recv_timeout(Duration::from_secs(seconds)).unwrap_or_else(|error| panic!("{what}: {error}"))
}

fn tail(text: &str) -> &str {
    let mut at = text.len().saturating_sub(3000);
    while !text.is_char_boundary(at) {
        at += 1;
    }
    &text[at..]
}

/// A process of the host.
#[derive(Clone, Debug)]
struct Process {
    pid: u32,
    /// One that waits to be a successor is called [`STANDBY`].
    name: String,
    parent: u32,
    group: u32,
    /// Clock ticks since the host's start: with the process id, what no other process has.
    started: u64,
}

/// A process, if it exists and is no zombie. Fields of `stat` by proc(5).
fn stat(pid: u32) -> Option<Process> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, rest) = text.rsplit_once(')')?;
    // From the third field on.
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).copied();
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let waits = command.starts_with(STANDBY.as_bytes());
    let name = if waits { STANDBY } else { head.split_once('(').map_or("", |(_, name)| name) };
    let process = Process {
        pid,
        name: name.to_owned(),
        parent: field(4)?.parse().ok()?,
        group: field(5)?.parse().ok()?,
        started: field(22)?.parse().ok()?,
    };
    (field(3)? != "Z").then_some(process)
}

/// What a process that waits to be a successor is called in [`tree`] and [`children`].
pub const STANDBY: &str = "bh-standby";

/// Every process of the host.
fn everybody() -> Vec<Process> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(stat)
        .collect()
}

/// The processes that `broker` has started itself. A process that enters its jail has a child of its own for a moment.
pub fn children(broker: u32) -> Vec<(u32, String)> {
    let all = everybody().into_iter().filter(|process| process.parent == broker);
    all.map(|process| (process.pid, process.name)).collect()
}

/// Those of them that serve or are about to. Left out are standbys, which come and go by themselves, and what has not become its program
/// yet: both only just were the broker, with its user and its jail.
pub fn serving(broker: u32) -> Vec<(u32, String)> {
    let shown = |pid: u32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut all = children(broker);
    all.retain(|(pid, name)| {
        name.starts_with("bh-") && shown(*pid).starts_with(name.as_bytes()) && name != STANDBY
    });
    all
}

/// The processes at and below `root`.
pub fn tree(root: u32) -> Vec<(u32, String)> {
    let all = everybody();
    let named = |process: &Process| (process.pid, process.name.clone());
    let mut found: Vec<(u32, String)> = all.iter().filter(|process| process.pid == root).map(named).collect();
    let mut at = 0;
    while let Some((pid, _)) = found.get(at).cloned() {
        found.extend(all.iter().filter(|process| process.parent == pid).map(named));
        at += 1;
    }
    found
}

/// Waits until none of these processes exists any more. Under its number there may be another one by now, of another name; one that
/// was seen waiting may have taken over since, and has its predecessor's name.
///
/// # Panics
/// After five seconds.
pub fn gone(processes: &[(u32, String)]) {
    ends(processes, |(pid, name)| stat(*pid).is_some_and(|now| now.name == *name || *name == STANDBY));
}

/// Waits until none of them `exists`.
fn ends<T: std::fmt::Debug>(processes: &[T], exists: impl Fn(&T) -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let left: Vec<_> = processes.iter().filter(|process| exists(process)).collect();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "left behind: {left:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let left = self.has_been_collected();
        if !std::thread::panicking() {
            ends(left, |process| stat(process.pid).is_some_and(|now| now.started == process.started));
        }
    }
}
