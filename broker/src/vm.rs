//! The life of a VM: one loop over everything that can happen, and the few things that can be done to the VM.
//!
//! The loop is a plain `poll`: some dozens of descriptors, rare events, nothing to do in parallel. An asynchronous run-time
//! would only add threads and system calls to the process that holds every descriptor.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use bulkhead_bus::manifest::fd;
use bulkhead_bus::messages::{FromCpu, ToCpu};
use bulkhead_config::MachineConfig;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::apart::Apart;
use crate::chars::HostChar;
use crate::clients;
use crate::fail::{Fail, reason, tell};
use crate::fresh;
use crate::monitor::Session;
use crate::restart::Keeper;
use crate::spawn::{Standby, printable};
use crate::sys;
use crate::tree::{Parts, Tree};

/// Most pieces of the log that can lie in its pipe: more than any pipe holds.
const LOG_PIECES: usize = 1024;
/// Where `-d` output goes before the first `logfile` command.
const LOG_FILE: &str = "/tmp/qemu.log";
/// How long devices may take for what the guest has asked for last, one that is stopped included; and how often they are looked at.
const SETTLE_LIMIT: Duration = Duration::from_millis(200);
/// See [`SETTLE_LIMIT`].
const SETTLE_LOOK: Duration = Duration::from_micros(200);
/// How long the end of a process may take to be seen after its descriptors are closed, in milliseconds: some 0.1 on an idle host.
const DYING_LIMIT_MS: u16 = 20;
/// How long back ends may take to write out what the guest has sent.
const FINISH_LIMIT: Duration = Duration::from_secs(2);

/// A running VM.
pub struct Vm<'a> {
    /// Command line.
    pub config: &'a MachineConfig,
    /// Processes.
    pub tree: Tree,
    /// What was opened.
    pub parts: Parts,
    /// The virtual CPUs run.
    pub running: bool,
    /// Set to end the VM with this status.
    pub exit: Option<i32>,
    /// Mouse buttons as the monitor last set them.
    pub buttons: u8,
    /// CPU that monitor commands look at.
    pub cpu: u32,
    /// Deaths and successors.
    pub keeper: Keeper,
    /// Forbidden system calls by process.
    pub violations: Vec<u64>,
    apart: Apart,
    /// The CPUs have been asked to stop and do not stand yet; whether they are to go on when they do.
    stopping: Option<bool>,
    log: Option<File>,
    log_ended: bool,
}

/// Signals that end the VM in an orderly way.
fn end_signals() -> SigSet {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set
}

/// Keeps the signals that end the VM waiting until its loop can deal with them: from now on there is something to
/// clean up. Processes started meanwhile get an empty mask.
pub fn hold_signals() {
    let _ = end_signals().thread_block();
}

/// The log that `-d` needs, with what it held before: that goes when nothing can be wrong with the start any more.
///
/// # Errors
/// One line that names it.
pub fn open_log() -> Result<File, Fail> {
    fresh::open(Path::new(LOG_FILE)).map_err(|e| Fail(format!("-d: {LOG_FILE}: {}", reason(&e))))
}

/// What a descriptor in the loop belongs to.
#[derive(Clone, Copy)]
enum Source {
    Signal,
    Cpu,
    Log,
    End(usize),
    Standby(usize),
    Words(usize),
    Jail(usize),
    Monitor(usize),
    Clients(usize),
}

/// Descriptors to wait for.
#[derive(Default)]
struct Watched<'f> {
    sources: Vec<Source>,
    fds: Vec<PollFd<'f>>,
}

impl<'f> Watched<'f> {
    fn add(&mut self, source: Source, fd: BorrowedFd<'f>, flags: PollFlags) {
        self.sources.push(source);
        self.fds.push(PollFd::new(fd, flags));
    }

    /// What is ready, in the order in which it was added.
    fn wait(mut self, timeout: PollTimeout) -> Vec<Source> {
        let _ = poll(&mut self.fds, timeout);
        let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        self.fds.iter().zip(&self.sources).filter(|(fd, _)| ready(fd)).map(|(_, source)| *source).collect()
    }
}

impl<'a> Vm<'a> {
    /// Takes over a machine whose processes are ready.
    pub fn new(config: &'a MachineConfig, mut tree: Tree, mut parts: Parts) -> Vm<'a> {
        parts
            .ports
            .iter_mut()
            .map(|port| &mut port.host)
            .chain(&mut parts.monitor)
            .for_each(HostChar::release);
        let keeper = Keeper::new(&tree);
        let violations = vec![0; tree.processes.len()];
        let log = tree.log_file.take();
        Vm {
            config,
            tree,
            keeper,
            parts,
            running: false,
            exit: None,
            buttons: 0,
            cpu: 0,
            violations,
            apart: Apart::default(),
            stopping: None,
            log,
            log_ended: false,
        }
    }

    /// Runs the VM until its end; the exit status.
    pub fn run(&mut self) -> i32 {
        let signals =
            SignalFd::with_flags(&end_signals(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).ok();
        let hosts = self.parts.ports.iter().map(|port| &port.host).chain(&self.parts.monitor);
        let stdio = { hosts }.any(|char| char.stdio);
        if stdio && !self.config.daemonize {
            sys::raw_terminal(0, !self.config.nographic);
        }
        self.tree.tracing.run();
        let monitors = std::mem::take(&mut self.tree.monitors);
        let mut sessions: Vec<Session> =
            monitors.into_iter().map(|(process, stream, keys)| Session::new(process, stream, keys)).collect();
        if !self.config.stopped {
            self.cont();
        }
        while self.exit.is_none() {
            self.turn(signals.as_ref(), &mut sessions);
        }
        for session in &mut sessions {
            session.flush();
        }
        drop(sessions);
        self.finish();
        self.exit.unwrap_or(0)
    }

    /// Waits for something to happen and deals with it.
    fn turn(&mut self, signals: Option<&SignalFd>, sessions: &mut [Session]) {
        let mut watched = Watched::default();
        if let Some(signals) = signals {
            watched.add(Source::Signal, signals.as_fd(), PollFlags::POLLIN);
        }
        self.watch_cpus(&mut watched);
        self.watch_deaths(&mut watched);
        for (index, process) in self.tree.processes.iter().enumerate() {
            if let Some(stderr) = process.stderr.as_ref().filter(|_| !self.keeper.is_vacant(index)) {
                watched.add(Source::Words(index), stderr.as_fd(), PollFlags::POLLIN);
            }
        }
        for (index, standby) in self.tree.standbys.iter().enumerate() {
            if let Some(standby) = standby {
                watched.add(Source::Standby(index), standby.pidfd(), PollFlags::POLLIN);
            }
        }
        for (index, (process, clients)) in self.tree.clients.iter().enumerate() {
            let fds = clients.interest(self.keeper.is_vacant(*process));
            fds.for_each(|fd| watched.add(Source::Clients(index), fd, PollFlags::POLLIN));
        }
        // The last ones: a command may itself attend to what comes before.
        for (index, session) in sessions.iter().enumerate() {
            if let Some((fd, flags)) = session.interest() {
                watched.add(Source::Monitor(index), fd, flags);
            }
        }
        let timeout = if self.tree.cpu.has_queued() {
            PollTimeout::ZERO
        } else {
            let wait = self.keeper.patience(self.running);
            wait.map_or(PollTimeout::NONE, |wait| PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX))
        };
        let ready = watched.wait(timeout);
        // First of all: whatever else is done may need a device's answer.
        self.attend_deaths(&ready);
        let now = Instant::now();
        if self.apart.is_over(now) {
            self.apart.end(&self.living(), now);
        }
        while self.tree.cpu.has_queued() {
            self.hear_cpu();
        }
        for source in ready {
            match source {
                Source::Signal => {
                    if let Some(Ok(Some(_))) = signals.map(SignalFd::read_signal) {
                        self.exit.get_or_insert(0);
                    }
                }
                Source::Cpu => self.hear_cpu(),
                Source::Log => self.copy_log(),
                Source::Words(index) => self.hear(index),
                Source::Standby(index) => self.bury(index),
                Source::End(_) | Source::Jail(_) => {}
                Source::Clients(index) => self.serve_clients(index),
                Source::Monitor(index) => {
                    if let Some(session) = sessions.get_mut(index) {
                        let start = Instant::now();
                        session.serve(self);
                        self.keeper.was_busy(start.elapsed());
                        if session.is_cut_off() {
                            self.renew_monitor(session);
                        }
                    }
                }
            }
        }
    }

    fn watch_cpus<'f>(&'f self, watched: &mut Watched<'f>) {
        if !self.tree.cpu.is_closed() {
            watched.add(Source::Cpu, self.tree.cpu.fd(), PollFlags::POLLIN);
        }
        if !self.log_ended {
            watched.add(Source::Log, self.tree.log.as_fd(), PollFlags::POLLIN);
        }
    }

    fn watch_deaths<'f>(&'f self, watched: &mut Watched<'f>) {
        for (index, process) in self.tree.processes.iter().enumerate() {
            if self.keeper.is_vacant(index) {
                continue;
            }
            watched.add(Source::End(index), process.pidfd.as_fd(), PollFlags::POLLIN);
            if let Some(jail) = process.jail.fd() {
                watched.add(Source::Jail(index), jail, PollFlags::POLLIN);
            }
        }
    }

    /// Deals with the deaths among what is ready, and with everything about restarts that is due.
    fn attend_deaths(&mut self, ready: &[Source]) {
        for source in ready {
            match source {
                Source::End(index) => self.mourn(*index),
                Source::Jail(index) => self.attend_jail(*index),
                _ => {}
            }
        }
        self.tend();
    }

    /// Waits at most `wait` for a message of the CPU process, for a monitor command, and attends to what can keep that from coming: a virtual
    /// CPU may wait for a device that has died, or for room in the log.
    pub(crate) fn attend(&mut self, wait: Duration) {
        let mut watched = Watched::default();
        self.watch_cpus(&mut watched);
        // A machine that ends gets no successors any more.
        let lives = self.exit.is_none();
        let patience = self.keeper.patience(self.running).filter(|_| lives);
        if lives {
            self.watch_deaths(&mut watched);
        }
        let wait = patience.map_or(wait, |patience| patience.min(wait));
        let ready = watched.wait(PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX));
        if lives {
            self.attend_deaths(&ready);
        }
        if ready.iter().any(|source| matches!(source, Source::Log)) {
            self.copy_log();
        }
    }

    fn serve_clients(&mut self, index: usize) {
        let Some((process, clients)) = self.tree.clients.get_mut(index) else { return };
        let Some(recipe) = self.tree.recipes.get_mut(*process) else { return };
        let (process, changes) = (*process, clients.changes());
        let served = clients.serve(recipe);
        if clients.changes() != changes {
            self.replace_standby(process);
        }
        if !served {
            self.condemn_unless_dying(process, "closed its socket for clients");
        }
    }

    /// A back end has shut its monitor's socket down: its successors get another one.
    fn renew_monitor(&mut self, session: &mut Session) {
        let process = session.process;
        let Some(recipe) = self.tree.recipes.get_mut(process) else { return };
        // Where there is no other one, there is no monitor.
        let Ok((ours, theirs)) = clients::pair() else { return };
        recipe.put(fd::MONITOR, Some(theirs));
        session.renew(ours);
        self.replace_standby(process);
        self.condemn_unless_dying(process, "closed its monitor's socket");
    }

    /// Ends a process for what it has closed, unless it ends anyway: the kernel closes all of its descriptors before the end can be
    /// seen, whose reason counts.
    fn condemn_unless_dying(&mut self, process: usize, why: &'static str) {
        if !self.keeper.is_vacant(process) && !self.is_dying(process) {
            self.condemn(process, why, true);
        }
    }

    fn is_dying(&self, index: usize) -> bool {
        let Some(process) = self.tree.processes.get(index) else { return true };
        let mut fds = [PollFd::new(process.pidfd.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::from(DYING_LIMIT_MS)), Ok(1..))
    }

    pub(crate) fn say(&self, text: &str) {
        // The terminal may be in raw mode.
        tell(format_args!("{}: {}\r", self.config.program, text.trim_end().replace('\n', "\r\n")));
    }

    pub(crate) fn hear(&mut self, index: usize) {
        let words = self.tree.processes.get_mut(index).map(crate::spawn::Process::last_words);
        if let Some(words) = words.filter(|words| !words.is_empty()) {
            self.say(&words);
        }
    }

    /// A process has ended: it gets a successor; without the CPU process the VM ends.
    fn mourn(&mut self, index: usize) {
        let Some(end) = self.tree.processes.get(index).and_then(crate::spawn::Process::ended) else { return };
        self.hear(index);
        if self.exit.is_none() && index < self.tree.recipes.len() {
            self.died(index, &end);
        } else if self.exit.is_none()
            && let Some(process) = self.tree.processes.get(index)
        {
            self.say(&format!("{} (process {}) {}: the VM ends", process.name, process.pid, end.text));
            self.exit = Some(1);
        }
    }

    fn hear_cpu(&mut self) {
        let message = self.tree.cpu.receive(Duration::ZERO);
        if self.tree.cpu.is_closed()
            && let Some(process) = self.tree.processes.last()
        {
            // It does so only when it dies; one that lives on could no longer be told anything.
            process.kill();
        }
        match message {
            // The CPUs stand until they are told.
            Some(FromCpu::GuestReset) => self.reset(),
            Some(FromCpu::PowerOff) if self.config.no_shutdown => self.halted(),
            Some(FromCpu::PowerOff) => {
                self.exit.get_or_insert(0);
            }
            Some(FromCpu::Exit(value)) => {
                // Test suites rely on it: never 0, and the value in the bits above.
                self.exit.get_or_insert((value.wrapping_shl(1) as i32 | 1) & 0xff);
            }
            Some(FromCpu::Note(text)) => {
                if let Some(text) = self.tree.cpu.note(text) {
                    self.say(&printable(text.as_bytes()));
                }
            }
            Some(FromCpu::Fatal(text)) => {
                self.say(&format!("bh-cpu: {}", printable(text.as_bytes())));
                self.exit.get_or_insert(1);
            }
            Some(FromCpu::Crowded(processor)) => {
                self.apart.crowded(&self.living(), processor, Instant::now());
            }
            Some(FromCpu::Ready | FromCpu::Running | FromCpu::Stopped | FromCpu::Reply { .. }) | None => {}
        }
        // Later than `stop` has waited for.
        if self.tree.cpu.take_stood() && self.running {
            let goes_on = self.stopping == Some(true);
            self.halted();
            if goes_on {
                self.cont();
            }
        }
    }

    /// The CPUs stand already: guest time follows.
    fn halted(&mut self) {
        self.running = false;
        self.stopping = None;
        self.tree.clock.set_running(false);
        self.ring_all();
    }

    /// Ids of the processes that there are, the CPU process last: the id of one that was collected may be somebody else's by now.
    fn living(&self) -> Vec<u32> {
        let processes = self.tree.processes.iter().enumerate();
        processes
            .filter(|(index, _)| !self.keeper.is_vacant(*index))
            .map(|(_, process)| process.pid)
            .collect()
    }

    fn ring_all(&self) {
        for device in &self.tree.devices {
            device.mailbox.ring();
        }
    }

    /// Lets the VM run; one that is still about to stop runs on after that.
    pub fn cont(&mut self) {
        if !self.running {
            if self.config.no_shutdown {
                self.tree.cpu.forget_power_off();
            }
            self.tree.clock.set_running(true);
            self.ring_all();
            self.running = true;
            self.tree.cpu.send(&ToCpu::Cont);
        } else if let Some(goes_on) = &mut self.stopping {
            *goes_on = true;
        }
    }

    /// Stops the VM. False when the CPUs do not stand yet; it follows when they do.
    pub fn stop(&mut self) -> bool {
        if self.running && self.stop_cpus() {
            self.halted();
        }
        self.stopping = self.running.then_some(false);
        !self.running
    }

    /// Resets the machine for its user or its guest, as it runs or stands. A machine that switched itself off goes on; with `-no-reboot` it ends, whoever asks.
    pub fn reset(&mut self) {
        if self.config.no_reboot {
            self.exit.get_or_insert(0);
            return;
        }
        self.revive();
        self.tree.cpu.send(&ToCpu::Reset);
    }

    /// Where `-d` output goes from now on; a file that cannot be opened changes nothing.
    ///
    /// # Errors
    /// One line that names it.
    pub fn set_log_file(&mut self, path: &Path) -> Result<(), String> {
        let log = File::create(path);
        self.log = Some(log.map_err(|e| format!("could not open '{}': {}", path.display(), reason(&e)))?);
        Ok(())
    }

    /// Somebody asks for `-d` output: it needs a file.
    ///
    /// # Errors
    /// As [`Vm::set_log_file`].
    pub fn need_log(&mut self) -> Result<(), String> {
        if self.log.is_none() {
            self.set_log_file(Path::new(LOG_FILE))?;
        }
        Ok(())
    }

    pub(crate) fn copy_log(&mut self) {
        let mut bytes = [0u8; 8192];
        let Ok(len) = nix::unistd::read(&self.tree.log, &mut bytes) else { return };
        if len == 0 {
            self.log_ended = true;
            return;
        }
        if let (Some(log), Some(bytes)) = (&mut self.log, bytes.get(..len)) {
            let _ = log.write_all(bytes);
        }
    }

    /// The CPUs stand: lets devices do what these have asked for last, or the guest's last words would not reach a back end.
    fn settle_devices(&self) {
        let end = Instant::now() + SETTLE_LIMIT;
        self.ring_all();
        let is_busy = || self.tree.devices.iter().any(|device| device.mailbox.progress().1);
        while is_busy() && Instant::now() < end {
            std::thread::sleep(SETTLE_LOOK);
        }
    }

    /// Ends every process: the CPUs stop, devices and back ends finish what they have, the rest is killed.
    fn finish(&mut self) {
        if self.running && !self.tree.cpu.is_closed() {
            let _ = self.stop_cpus();
        }
        self.tree.cpu.send(&ToCpu::Quit);
        self.settle_devices();
        for (_, bell) in &self.tree.back_ends {
            bell.ask_to_finish();
        }
        let end = Instant::now() + FINISH_LIMIT;
        for (index, _) in &self.tree.back_ends {
            let Some(process) = self.tree.processes.get(*index) else { continue };
            let left = end.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(process.pidfd.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO));
        }
        self.tree.standbys.drain(..).flatten().for_each(Standby::dismiss);
        for process in &self.tree.processes {
            process.kill();
        }
        for process in &self.tree.processes {
            process.collect();
        }
        self.copy_rest_of_log();
        self.tree.tracing.finish();
    }

    /// Whoever wrote to the log is gone: what still lies in the pipe.
    fn copy_rest_of_log(&mut self) {
        for _ in 0..LOG_PIECES {
            let mut fds = [PollFd::new(self.tree.log.as_fd(), PollFlags::POLLIN)];
            if self.log_ended || !matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..)) {
                return;
            }
            self.copy_log();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use bulkhead_bus::wire;
    use bulkhead_config::Target;

    use super::*;
    use crate::rehearsal;

    #[test]
    fn a_machine_whose_cpus_stop_late_stands_from_then_on() {
        let config = MachineConfig::new("qemu", Target::X86_64);
        let (mut vm, mut cpu) = rehearsal::machine(&config).expect("sockets for a test");
        vm.cont();
        vm.tree.cpu.ask_to_stop();
        vm.tree.cpu.ask_to_stop();
        cpu.write_all(&wire::encode(&FromCpu::Stopped).expect("short")).expect("it is read");
        vm.hear_cpu();
        assert!(!vm.running);
        let asked: Vec<u8> = [ToCpu::Cont, ToCpu::Stop].iter().flat_map(wire::encode).flatten().collect();
        let mut heard = [0; 64];
        let len = cpu.read(&mut heard).expect("it was written");
        assert_eq!(heard[..len], asked, "it is asked once until it answers");
        cpu.write_all(&wire::encode(&FromCpu::Stopped).expect("short")).expect("it is read");
        vm.cont();
        vm.hear_cpu();
        assert!(vm.running, "nobody has asked");
    }

    #[test]
    fn a_reset_by_user_or_guest_ends_a_machine_that_is_not_to_reboot() {
        for (no_reboot, by_guest) in [(false, false), (false, true), (true, false), (true, true)] {
            let config = MachineConfig { no_reboot, ..MachineConfig::new("qemu", Target::X86_64) };
            let (mut vm, mut cpu) = rehearsal::machine(&config).expect("sockets for a test");
            if by_guest {
                cpu.write_all(&wire::encode(&FromCpu::GuestReset).expect("short")).expect("it is read");
                vm.hear_cpu();
            } else {
                vm.reset();
            }
            assert_eq!(vm.exit, no_reboot.then_some(0));
            drop(vm);
            let mut told = Vec::new();
            cpu.read_to_end(&mut told).expect("a closed socket");
            let wanted = if no_reboot { Vec::new() } else { wire::encode(&ToCpu::Reset).expect("short") };
            assert_eq!(told, wanted, "the CPUs stand until they are told");
        }
    }

    #[test]
    fn a_machine_that_switched_itself_off_while_it_was_stopped_runs_on_when_it_is_let() {
        for no_shutdown in [false, true] {
            let config = MachineConfig { no_shutdown, ..MachineConfig::new("qemu", Target::X86_64) };
            let (mut vm, _) = rehearsal::machine(&config).expect("sockets for a test");
            let theirs = rehearsal::packets(&mut vm);
            vm.cont();
            // The power-off comes before the answer that `stop` waits for.
            for message in [FromCpu::PowerOff, FromCpu::Stopped] {
                rehearsal::tell(&theirs, &message);
            }
            assert!(vm.stop());
            vm.cont();
            while vm.tree.cpu.has_queued() {
                vm.hear_cpu();
            }
            assert_eq!((vm.running, vm.exit), (true, (!no_shutdown).then_some(0)));
        }
    }

    #[test]
    fn a_machine_that_is_let_run_before_it_stands_goes_on_when_it_does() {
        let config = MachineConfig::new("qemu", Target::X86_64);
        let (mut vm, mut cpu) = rehearsal::machine(&config).expect("sockets for a test");
        let stopped = wire::encode(&FromCpu::Stopped).expect("short");
        vm.cont();
        // As `stop` leaves it after waiting in vain.
        vm.tree.cpu.ask_to_stop();
        vm.stopping = Some(false);
        vm.cont();
        cpu.write_all(&stopped).expect("it is read");
        vm.hear_cpu();
        assert!(vm.running);
        let asked: Vec<u8> =
            [ToCpu::Cont, ToCpu::Stop, ToCpu::Cont].iter().flat_map(wire::encode).flatten().collect();
        let mut heard = [0; 64];
        let len = cpu.read(&mut heard).expect("it was written");
        assert_eq!(heard[..len], asked);
        // The last word counts.
        vm.tree.cpu.ask_to_stop();
        vm.stopping = Some(false);
        vm.cont();
        cpu.write_all(&stopped).expect("it is read");
        assert!(vm.stop());
        vm.hear_cpu();
        assert!(!vm.running);
    }
}
