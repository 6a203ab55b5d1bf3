//! One run of an emulator: its terminal as pipes, what it printed and when, and its processes' use of the host.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::keeper;

#[derive(Default)]
struct Text {
    bytes: Vec<u8>,
    ended: bool,
}

#[derive(Default)]
struct Output {
    text: Mutex<Text>,
    grown: Condvar,
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, Text> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn collect(mut from: impl Read + Send + 'static) -> Arc<Output> {
    let output = Arc::new(Output::default());
    let to = output.clone();
    std::thread::spawn(move || {
        let mut piece = [0u8; 16384];
        loop {
            let count = from.read(&mut piece).unwrap_or(0);
            let mut text = to.lock();
            text.ended = count == 0;
            text.bytes.extend_from_slice(&piece[..count]);
            let ended = text.ended;
            drop(text);
            to.grown.notify_all();
            if ended {
                break;
            }
        }
    });
    output
}

/// A running virtual machine. Dropping it ends it.
pub struct Machine {
    child: Child,
    input: ChildStdin,
    output: Arc<Output>,
    errors: Arc<Output>,
    started: Instant,
    seen: usize,
}

impl Machine {
    /// Starts an emulator: `command` is the program and its first arguments.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub fn start(command: &[String], args: &[&str]) -> Result<Machine, String> {
        let (program, first) = command.split_first().ok_or("no program")?;
        let started = Instant::now();
        let mut command = Command::new(program);
        command.args(first).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        keeper::keep(&mut command);
        let mut child = command.spawn().map_err(|error| format!("{program}: {error}"))?;
        match (child.stdin.take(), child.stdout.take(), child.stderr.take()) {
            (Some(input), Some(output), Some(errors)) => Ok(Machine {
                child,
                input,
                output: collect(output),
                errors: collect(errors),
                started,
                seen: 0,
            }),
            _ => Err(format!("{program}: no pipes")),
        }
    }

    /// Types text.
    ///
    /// # Errors
    /// When the program no longer reads.
    pub fn send(&mut self, text: &str) -> Result<(), String> {
        self.input
            .write_all(text.as_bytes())
            .and_then(|()| self.input.flush())
            .map_err(|error| format!("input: {error}"))
    }

    /// Waits until `text` comes after what was waited for before; returns the output up to there and the time since the start.
    ///
    /// # Errors
    /// At the end of the output or after `limit`, with the last line and the errors.
    pub fn expect(&mut self, text: &str, limit: Duration) -> Result<(String, Duration), String> {
        let end = Instant::now() + limit;
        let mut have = self.output.lock();
        loop {
            let rest = have.bytes.get(self.seen..).unwrap_or_default();
            if let Some(at) = rest.windows(text.len()).position(|window| window == text.as_bytes()) {
                let time = self.started.elapsed();
                let found = String::from_utf8_lossy(&rest[..at + text.len()]).into_owned();
                self.seen += at + text.len();
                return Ok((found, time));
            }
            let left = end.saturating_duration_since(Instant::now());
            if have.ended || left.is_zero() {
                let why = if have.ended { "ended" } else { "timed out" };
                let output = String::from_utf8_lossy(rest).into_owned();
                drop(have);
                return Err(self.failure(why, text, &output));
            }
            have = self.output.grown.wait_timeout(have, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn failure(&self, why: &str, text: &str, output: &str) -> String {
        let last = output.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let errors = String::from_utf8_lossy(&self.errors.lock().bytes).trim().replace('\n', "; ");
        format!("{why} before {text:?}; last line {:?}; errors {errors:?}", last.trim())
    }

    /// Waits until the program has ended; returns all its output and the time from start to end.
    ///
    /// # Errors
    /// After `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<(Vec<u8>, Duration), String> {
        let end = Instant::now() + limit;
        let mut have = self.output.lock();
        while !have.ended {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(have);
                return Err(self.failure("timed out", "its end", ""));
            }
            have = self.output.grown.wait_timeout(have, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let output = have.bytes.clone();
        drop(have);
        self.child.wait().map_err(|error| error.to_string())?;
        keeper::ended(self.child.id());
        Ok((output, self.started.elapsed()))
    }

    /// Waits for the end of the program; its status, none after `limit`.
    pub fn status(&mut self, limit: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => {
                    keeper::ended(self.child.id());
                    return Some(status);
                }
                Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
                _ => return None,
            }
        }
    }

    /// All of standard error so far; complete when the program has ended, unless something that lives on holds it for seconds.
    pub fn errors(&self) -> String {
        let end = Instant::now() + Duration::from_secs(2);
        let mut have = self.errors.lock();
        while !have.ended && Instant::now() < end {
            have = self
                .errors
                .grown
                .wait_timeout(have, Duration::from_millis(50))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        String::from_utf8_lossy(&have.bytes).into_owned()
    }

    /// What each of its processes used so far, sorted by name.
    pub fn usage(&self) -> Vec<Usage> {
        let mut all: Vec<Usage> =
            crate::tree(self.child.id()).into_iter().map(|(pid, name)| Usage::of(pid, name)).collect();
        all.sort_by(|a, b| (&a.name, a.pid).cmp(&(&b.name, b.pid)));
        all
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        keeper::ended(self.child.id());
    }
}

/// What a process used of the host.
pub struct Usage {
    /// Process id.
    pub pid: u32,
    /// Name, i.e. role and instance.
    pub name: String,
    /// Processor time of all threads in nanoseconds.
    pub cpu_ns: u64,
    /// Times that a thread gave up the processor by itself: each ends with a wake-up.
    pub sleeps: u64,
    /// Proportional memory in KiB; none where the kernel does not let us read it.
    pub pss_kib: Option<u64>,
    /// The part of `pss_kib` in shared memory (guest RAM, device files).
    pub pss_shared_kib: u64,
}

impl Usage {
    fn of(pid: u32, name: String) -> Usage {
        let (mut cpu_ns, mut sleeps) = (0, 0);
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let read = |file: &str| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
            cpu_ns += read("schedstat")
                .split_whitespace()
                .next()
                .and_then(|ns| ns.parse().ok())
                .unwrap_or_else(|| ticks_ns(&read("stat")));
            sleeps += field(&read("status"), "voluntary_ctxt_switches:").unwrap_or(0);
        }
        let memory = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        Usage {
            pid,
            name,
            cpu_ns,
            sleeps,
            pss_kib: field(&memory, "Pss:"),
            pss_shared_kib: field(&memory, "Pss_Shmem:").unwrap_or(0),
        }
    }
}

/// The first number of the line that starts with `name`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// User and system time of a `stat` file: fields 14 and 15 (proc(5)), in clock ticks. For kernels without `schedstat`.
fn ticks_ns(stat: &str) -> u64 {
    // SAFETY: sysconf has no preconditions.
    let per_second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).unwrap_or(100).max(1);
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    ticks * (1_000_000_000 / per_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc_files_are_found_by_their_exact_name() {
        let text = "Pss_Shmem:  8 kB\nPss:      123 kB\nnonvoluntary_ctxt_switches:\t5\nvoluntary_ctxt_switches:\t42\n";
        assert_eq!(field(text, "Pss:"), Some(123));
        assert_eq!(field(text, "voluntary_ctxt_switches:"), Some(42));
        assert_eq!(field(text, "Rss:"), None);
    }

    #[test]
    fn processor_ticks_are_fields_14_and_15_whatever_the_name_holds() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 30 12 13 14 15";
        assert_eq!(ticks_ns(stat), ticks_ns("7 (x) S 1 2 3 4 5 6 7 8 9 10 30 12 0 0"));
        assert!(ticks_ns(stat) > 0);
    }
}
