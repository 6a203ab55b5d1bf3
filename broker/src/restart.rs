//! Transparent restart: a device or back-end process that died or hangs is replaced by a successor on the same shared memory and
//! descriptors.
//!
//! The order that makes it safe: the death is collected by `waitid`, so that no system call of the dead process is under way any
//! more; the ready word is cleared; a successor with everything its predecessor had is released, or started by the main thread; it takes up
//! the committed state and says when it serves. The virtual CPU meanwhile waits for its answer and notices nothing else.
//!
//! - *Standbys*: the successor of each process is started soon after its predecessor serves, and waits. It is not used where it
//!   died meanwhile, and is ended where it no longer fits: after a client has come or gone, and by `device_restart`.
//! - *Crash loops*: the first [`FREE_CRASHES`] crashes within [`CRASH_WINDOW`] are followed by a successor at once, later ones
//!   after the pauses of [`PAUSES`]. A `SIGKILL` from outside is no crash: no process does that to itself.
//! - *Poison*: what was under way at a crash (a request, a timer, an event of a link, a command, the saved state) is counted against
//!   by the process itself (see the bus); a kill from outside is taken off that count here, as is the hang of what was
//!   stopped, and of a back end that waits: slow storage makes no error. A block request that kills is reported as an error, like a bad sector.
//! - *Dead slots*: after [`FAILURES_MAX`] processes in a row that did not get ready, a slot is given up by name until
//!   `device_restart` or a reset of the machine. The ring of a dead device is answered with all ones by a thread of this process; a dead block back end's
//!   requests wait, they do not become errors.
//! - *Hangs*: a process that has work and completes none of it for [`HANG_LOOKS`] looks, [`LOOK`] apart, while the VM runs, is
//!   killed and replaced like a dead one, unless it waits for the host's disk. That a virtual CPU waits for a device all that time is
//!   work, too, whatever the device's own file says. Answering [`PING_LOOKS`] is work too, so that
//!   a device that hangs in a timer, or is stopped, is found. One that could run and has had less than [`HANG_TICKS`] of a processor
//!   meanwhile waits for the host and not for itself: it is looked at again until it has had them. So is one that starts. A
//!   character back end may wait for its client for ever; it counts as hung when it is stopped, as does a block back end without work.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_bus::attempts::{NOTE_BYTES, Note};
use bulkhead_bus::bell::{BELL_BYTES, Bell};
use bulkhead_bus::config::{JOURNAL_BYTES, JOURNAL_NOTES};
use bulkhead_bus::dead::DeadDevice;
use bulkhead_bus::device::DEVICE_BYTES;
use bulkhead_bus::irq::{IRQ_BYTES, IrqPage};
use bulkhead_bus::mailbox::Mailbox;
use bulkhead_bus::manifest::fd;
use bulkhead_bus::sys::{self as bus_sys, Mapping};
use bulkhead_bus::trace::{Id, events};

use crate::spawn::{End, Recipe, Standby};
use crate::tree::Tree;
use crate::vm::Vm;

/// Crashes within [`CRASH_WINDOW`] that cost no pause.
const FREE_CRASHES: usize = 3;
/// See [`FREE_CRASHES`].
const CRASH_WINDOW: Duration = Duration::from_secs(10);
/// Pauses before the successors of further crashes; the last one repeats.
const PAUSES: [Duration; 3] = [Duration::from_millis(10), Duration::from_millis(100), Duration::from_secs(1)];
/// Processes in a row that may fail to get ready.
const FAILURES_MAX: u32 = 10;
/// Longest start of a successor.
const START_LIMIT: Duration = Duration::from_secs(5);
/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Looks without progress that make a hang: 2 seconds.
const HANG_LOOKS: u32 = 4;
/// Processor time, in hundredths of a second, without which a process that could run has not been able to do anything: where hundreds of
/// threads compute, each waits its turn for seconds.
const HANG_TICKS: u64 = 50;
/// Every so many looks each device is asked whether it lives.
const PING_LOOKS: u32 = 4;
/// After this time of service the successor of a process is started, to wait: not while the machine has better things to do.
const STANDBY_AFTER: Duration = Duration::from_millis(20);
/// The same at the start of the machine.
const FIRST_STANDBY_AFTER: Duration = Duration::from_secs(1);
/// After one that has become outdated: clients may come and go often.
const STANDBY_PAUSE: Duration = Duration::from_millis(250);
/// And after one that could not be started, or has died while it waited.
const NEXT_STANDBY_AFTER: Duration = Duration::from_secs(5);
/// How often a starting successor is looked at; its readiness is timed by itself.
const START_LOOK: Duration = Duration::from_millis(1);
/// Times of a process remembered.
const TIMES_MAX: usize = 4096;
/// Events remembered.
const EVENTS_MAX: usize = 4096;

/// One death.
#[derive(Clone, Debug)]
pub struct Event {
    /// Time since the start of the VM.
    pub at: Duration,
    /// Process.
    pub name: String,
    /// `was killed by SIGSEGV`, `hung`, ...
    pub reason: String,
    /// What the device was doing: `request 17, begun 2 times`, `timer, begun once`.
    pub doing: Option<String>,
    /// From the death, as the broker noticed it, to the readiness of the successor.
    pub took: Option<Duration>,
}

/// Where one process's place stands.
#[derive(Debug)]
enum State {
    Serving,
    /// A process exists and has not said that it serves.
    Starting(Instant),
    /// No process; the next one starts then.
    Pausing(Instant),
    /// Given up.
    Dead(Option<(Arc<DeadDevice>, std::thread::JoinHandle<()>)>),
}

#[derive(Debug)]
struct Place {
    state: State,
    restarts: u32,
    crashes: VecDeque<Instant>,
    failures: u32,
    /// Why the process is about to be killed, when it is by this broker; true: its own fault.
    verdict: Option<(&'static str, bool)>,
    /// It hangs in the host's hands (stopped, or a back end that waits): what it was doing is not to blame.
    excused: bool,
    /// Monotonic time of the first death that no successor has answered yet, and its event.
    open: Option<(u64, u64)>,
    /// A successor was held back, so that its time says nothing.
    paused: bool,
    /// The latest times from death to service, in microseconds.
    times: VecDeque<u32>,
    /// The furthest progress of the process so far, and looks without more of it.
    progress: u32,
    stuck: u32,
    /// A virtual CPU's wait for it, as it was at the last look.
    wait: Option<(u64, u64)>,
    /// Its processor time when there was none for the first time.
    ran: u64,
    /// When a standby is to be started; `None`: there is one.
    standby_at: Option<Instant>,
}

/// The record of every process that can be replaced.
#[derive(Debug)]
pub struct Keeper {
    places: Vec<Place>,
    events: VecDeque<Event>,
    /// Number of the first event that is remembered.
    first: u64,
    start: Instant,
    looked: Instant,
    /// Time since then that went into monitor commands, which may wait for what hangs.
    busy: Duration,
    looks: u32,
}

impl Keeper {
    /// For a machine whose processes all serve.
    pub fn new(tree: &Tree) -> Keeper {
        let start = Instant::now();
        let place = |_: &Recipe| Place {
            state: State::Serving,
            restarts: 0,
            crashes: VecDeque::new(),
            failures: 0,
            verdict: None,
            excused: false,
            open: None,
            paused: false,
            times: VecDeque::new(),
            progress: 0,
            stuck: 0,
            wait: None,
            ran: 0,
            standby_at: Some(start + FIRST_STANDBY_AFTER),
        };
        Keeper {
            places: tree.recipes.iter().map(place).collect(),
            events: VecDeque::new(),
            first: 0,
            start,
            looked: start,
            busy: Duration::ZERO,
            looks: 0,
        }
    }

    /// Whether no process is at this place now.
    pub fn is_vacant(&self, index: usize) -> bool {
        matches!(self.places.get(index).map(|p| &p.state), Some(State::Pausing(_) | State::Dead(_)))
    }

    /// Whether the place was given up.
    pub fn is_dead(&self, index: usize) -> bool {
        matches!(self.places.get(index).map(|p| &p.state), Some(State::Dead(_)))
    }

    /// Since the start of the VM.
    pub fn uptime(&self) -> Duration {
        self.start.elapsed()
    }

    /// Monitor commands have taken so long: the next look is not late by that. They can have looked themselves.
    pub fn was_busy(&mut self, time: Duration) {
        self.busy += time.min(self.looked.elapsed());
    }

    /// Successors so far.
    pub fn restarts(&self, index: usize) -> u32 {
        self.places.get(index).map_or(0, |place| place.restarts)
    }

    /// The latest times from death to service without pauses, in microseconds.
    pub fn times(&self, index: usize) -> impl Iterator<Item = u32> {
        self.places.get(index).into_iter().flat_map(|place| place.times.iter().copied())
    }

    /// Deaths, the oldest first, and how many older ones are forgotten.
    pub fn events(&self) -> (impl Iterator<Item = &Event>, u64) {
        (self.events.iter(), self.first)
    }

    /// How long nothing has to be done here; `None`: for ever.
    pub fn patience(&self, running: bool) -> Option<Duration> {
        let now = Instant::now();
        let waits = self.places.iter().filter_map(|place| match &place.state {
            State::Starting(_) => Some(START_LOOK),
            State::Pausing(until) => {
                Some(until.saturating_duration_since(now).max(Duration::from_micros(500)))
            }
            State::Serving => place.standby_at.map(|at| at.saturating_duration_since(now)),
            State::Dead(_) => None,
        });
        let look = running.then(|| LOOK.saturating_sub(self.looked.elapsed()).max(START_LOOK));
        // Whole milliseconds, upwards: a poll that returns early would run in circles.
        waits.chain(look).min().map(|wait| wait + Duration::from_micros(999))
    }

    fn record(&mut self, event: Event) -> u64 {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
            self.first += 1;
        }
        self.events.push_back(event);
        self.first + self.events.len() as u64 - 1
    }
}

/// The pause before a successor, by the number of crashes within the window, this one included.
fn pause(crashes: usize) -> Duration {
    match crashes.checked_sub(FREE_CRASHES + 1) {
        None => Duration::ZERO,
        Some(over) => PAUSES.get(over).or(PAUSES.last()).copied().unwrap_or_default(),
    }
}

/// State of a process as the kernel names it (`D` waits for a disk of the host, `R` runs or could, `T` is stopped), and the processor
/// time that it has had, in hundredths of a second.
fn load_of(pid: u32) -> Option<(char, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    // Fields 14 and 15, utime and stime (proc(5)).
    let mut times = fields.skip(10).map_while(|field| field.parse::<u64>().ok());
    Some((state, times.next()?.saturating_add(times.next()?)))
}

/// Its state alone.
fn state_of(pid: u32) -> Option<char> {
    load_of(pid).map(|(state, _)| state)
}

/// Whether a process could run and hardly has, since its processor time was `since`.
fn is_starved(pid: u32, since: u64) -> bool {
    load_of(pid).is_some_and(|(state, ran)| state == 'R' && ran.saturating_sub(since) < HANG_TICKS)
}

/// `once`, `2 times`.
fn times(begun: u32) -> String {
    if begun == 1 { "once".to_owned() } else { format!("{begun} times") }
}

/// Whether `done` is more than was `seen` at most: a count that goes to and fro is no progress.
fn grows(seen: u32, done: u32) -> bool {
    (done.wrapping_sub(seen) as i32) > 0
}

/// Whether a virtual CPU waits as it did at the last look, and has looked in vain since then: one that does not run itself says nothing.
fn lasts(before: Option<(u64, u64)>, now: Option<(u64, u64)>) -> bool {
    matches!((before, now), (Some((since, then)), Some((same, looked))) if since == same && then != looked)
}

/// Looks without progress after one more, which found the `same` or not. One that comes `late` says nothing: it is not counted, and what was
/// found before stands.
fn stuck_after(stuck: u32, same: bool, late: bool) -> u32 {
    if same { stuck + u32::from(!late) } else { 0 }
}

/// What was under way in a device when it died.
fn doing(mailbox: &Mailbox) -> Option<String> {
    if let Some((act, begun)) = mailbox.aside() {
        return Some(format!("{}, begun {}", act.name(), times(begun)));
    }
    let (request, begun) = mailbox.attempts();
    (request == mailbox.head() && begun > 0).then(|| format!("request {request}, begun {}", times(begun)))
}

impl Tree {
    fn clear_ready(&self, index: usize) {
        self.devices.iter().filter(|d| d.process == index).for_each(|d| d.mailbox.clear_ready());
        self.blocks.iter().filter(|(p, _)| *p == index).for_each(|(_, block)| block.clear_ready());
        self.back_ends.iter().filter(|(p, _)| *p == index).for_each(|(_, bell)| bell.clear_ready());
    }

    fn ready_at(&self, index: usize) -> Option<u64> {
        let device = self.devices.iter().find(|d| d.process == index).map(|d| d.mailbox.ready_at());
        let block = || self.blocks.iter().find(|(p, _)| *p == index).map(|(_, block)| block.ready_at());
        let char = || self.back_ends.iter().find(|(p, _)| *p == index).map(|(_, bell)| bell.ready_at());
        device.or_else(block).or_else(char).flatten()
    }

    /// What the dead process was doing.
    fn doing(&self, index: usize) -> Option<String> {
        let device = self.devices.iter().find(|d| d.process == index).and_then(|d| doing(&d.mailbox));
        let block = || {
            let (request, begun) = self.blocks.iter().find(|(p, _)| *p == index)?.1.doing()?;
            Some(format!("{request}, begun {}", times(begun)))
        };
        let char = || {
            let begun = |number| self.note(index, number, |note| note.begun()).filter(|begun| *begun > 0);
            let input = begun(0).map(|begun| ("input", begun));
            let (what, begun) = input.or_else(|| Some(("output", begun(1)?)))?;
            Some(format!("{what}, begun {}", times(begun)))
        };
        device.or_else(block).or_else(char)
    }

    /// A note of the dead character back end at `index`.
    fn note<R>(&self, index: usize, number: usize, look: impl FnOnce(Note<'_>) -> R) -> Option<R> {
        let journal = self.recipes.get(index)?.descriptor(fd::JOURNAL)?;
        let map = Mapping::shared(journal, JOURNAL_BYTES, true).ok()?;
        Some(look(Note::new(&map, JOURNAL_NOTES + number * NOTE_BYTES)))
    }

    /// The process at `index` is dead: of what it was doing, unless `forgiven`.
    fn settle(&self, index: usize, forgiven: bool) {
        self.devices.iter().filter(|d| d.process == index).for_each(|d| d.mailbox.settle(forgiven));
        self.blocks.iter().filter(|(p, _)| *p == index).for_each(|(_, block)| block.settle(forgiven));
        for number in 0..2 {
            let _ = self.note(index, number, |note| note.settle(forgiven));
        }
    }

    /// What was completed so far and whether there is more to do.
    fn progress(&self, index: usize) -> (u32, bool) {
        let device = self.devices.iter().find(|d| d.process == index).map(|d| d.mailbox.progress());
        let stopped = || self.processes.get(index).is_some_and(|process| state_of(process.pid) == Some('T'));
        let block = || {
            let found = self.blocks.iter().find(|(p, _)| *p == index);
            found.map(|(_, block)| (block.completions(), block.has_work() || stopped()))
        };
        device.or_else(block).unwrap_or_else(|| (0, stopped()))
    }

    /// How long a virtual CPU has waited for it, as the CPU process says, see [`Panel::wait`](bulkhead_bus::trace::Panel::wait).
    fn wait(&self, index: usize) -> Option<(u64, u64)> {
        self.tracing.wait(self.devices.iter().position(|device| device.process == index)?)
    }
}

/// The stand-in of a dead device, running.
fn stand_in(recipe: &Recipe) -> Option<(Arc<DeadDevice>, std::thread::JoinHandle<()>)> {
    let map = |name, len| Mapping::shared(recipe.descriptor(name)?, len, true).ok();
    let irq = IrqPage::new(map(fd::IRQ, IRQ_BYTES)?, Bell::new(map(fd::CPU_BELL, BELL_BYTES)?));
    let (file, bell) = (map(fd::DEVICE, DEVICE_BYTES)?, Bell::new(map(fd::BELL, BELL_BYTES)?));
    let dead = Arc::new(DeadDevice::new(file, bell, Arc::new(irq), recipe.source()));
    let theirs = dead.clone();
    let thread = std::thread::Builder::new().name("dead".to_owned()).spawn(move || theirs.run()).ok()?;
    Some((dead, thread))
}

impl Vm<'_> {
    pub(crate) fn name_of(&self, index: usize) -> String {
        self.tree.processes.get(index).map(|process| process.name.clone()).unwrap_or_default()
    }

    fn trace(&self, event: Id, index: usize) {
        let pid = self.tree.processes.get(index).map_or(0, |process| process.pid);
        self.tree.tracing.own().begin(event, || [index as u64, pid.into(), 0, 0]);
    }

    /// The process at `index`, which can be replaced, has ended and was collected.
    pub(crate) fn died(&mut self, index: usize, end: &End) {
        let now = bus_sys::monotonic_ns();
        let (pid, last) = self.tree.processes.get(index).map(|p| (p.pid, p.last.clone())).unwrap_or_default();
        self.trace(events::PROCESS_END, index);
        let name = self.name_of(index);
        let doing = self.tree.doing(index);
        let Some(place) = self.keeper.places.get_mut(index) else { return };
        let (verdict, own_fault) = match place.verdict.take() {
            Some((why, own_fault)) => (Some(why), own_fault),
            None => (None, !end.killed),
        };
        let mut reason = verdict.unwrap_or(&end.text).to_owned();
        if !last.is_empty() {
            reason = format!("{reason}: {last}");
        }
        let was_serving = matches!(place.state, State::Serving);
        place.failures = if was_serving { 0 } else { place.failures + u32::from(own_fault) };
        place.crashes.retain(|at| at.elapsed() < CRASH_WINDOW);
        if own_fault {
            place.crashes.push_back(Instant::now());
        }
        let (failures, crashes) = (place.failures, place.crashes.len());
        let excused = std::mem::take(&mut place.excused);
        place.stuck = 0;
        let opened = place.open.map_or(now, |(at, _)| at);
        let event = Event { at: self.keeper.start.elapsed(), name: name.clone(), reason, doing, took: None };
        let text = format!("{name} (process {pid}) {}", event.reason);
        let number = self.keeper.record(event);
        if let Some(place) = self.keeper.places.get_mut(index) {
            place.open = Some((opened, number));
        }
        self.tree.settle(index, !own_fault || excused);
        if failures >= FAILURES_MAX {
            self.give_up(index, &text);
            return;
        }
        // The table of restarts has them all.
        if crashes <= FREE_CRASHES {
            self.say(&format!("{text}: restarted"));
        } else if crashes == FREE_CRASHES + 1 {
            self.say(&format!("{text}: restarted with pauses from now on"));
        }
        let wait = match (own_fault, was_serving) {
            (true, _) => pause(crashes),
            (false, true) => Duration::ZERO,
            // Killed by somebody who may go on killing, or by a host without memory.
            (false, false) => PAUSES[0],
        };
        match wait {
            Duration::ZERO => self.succeed(index),
            wait => self.set_state(index, State::Pausing(Instant::now() + wait)),
        }
    }

    fn set_state(&mut self, index: usize, state: State) {
        if let Some(place) = self.keeper.places.get_mut(index) {
            place.paused |= matches!(state, State::Pausing(_) | State::Dead(_));
            place.state = state;
        }
    }

    /// Starts a successor.
    fn succeed(&mut self, index: usize) {
        self.tree.clear_ready(index);
        let waiting = self.standby(index).and_then(Standby::take_over);
        for (_, clients) in self.tree.clients.iter_mut().filter(|(process, _)| *process == index) {
            match (&waiting, self.tree.recipes.get_mut(index)) {
                (None, Some(recipe)) => clients.renew(recipe),
                _ => clients.hand_over(),
            }
        }
        let started = match waiting {
            Some(process) => Some(Ok(process)),
            None => self.tree.recipes.get(index).map(Recipe::start),
        };
        match started {
            Some(Ok(process)) => {
                if let Some(old) = self.tree.processes.get_mut(index) {
                    *old = process;
                }
                if let Some(place) = self.keeper.places.get_mut(index) {
                    place.restarts = place.restarts.wrapping_add(1);
                }
                self.trace(events::PROCESS_START, index);
                self.set_state(index, State::Starting(Instant::now()));
            }
            Some(Err(error)) => {
                let Some(place) = self.keeper.places.get_mut(index) else { return };
                place.failures += 1;
                let failures = place.failures;
                if failures >= FAILURES_MAX {
                    self.give_up(index, &error.0);
                } else {
                    let wait = pause(FREE_CRASHES + failures as usize);
                    self.set_state(index, State::Pausing(Instant::now() + wait));
                }
            }
            None => {}
        }
    }

    /// The process that waits to be the successor at `index`.
    fn standby(&mut self, index: usize) -> Option<Standby> {
        self.tree.standbys.get_mut(index).and_then(Option::take)
    }

    /// Starts what is to wait, at most one a turn: what else happens comes first.
    fn provide(&mut self) {
        let now = Instant::now();
        let due = |place: &Place| {
            matches!(place.state, State::Serving) && place.standby_at.is_some_and(|at| at <= now)
        };
        let Some(index) = self.keeper.places.iter().position(due) else { return };
        let clients = self.tree.clients.iter_mut().find(|(process, _)| *process == index);
        let socket = clients.map(|(_, clients)| clients.prepare()).transpose();
        let started = match (self.tree.recipes.get(index), socket) {
            (Some(recipe), Ok(socket)) => {
                recipe.start_standby(socket.as_ref().map(|socket| (fd::CLIENTS, socket))).ok()
            }
            _ => None,
        };
        if let Some(place) = self.keeper.places.get_mut(index) {
            place.standby_at = if started.is_some() { None } else { Some(now + NEXT_STANDBY_AFTER) };
        }
        if let Some(place) = self.tree.standbys.get_mut(index) {
            *place = started;
        }
    }

    /// The standby at `index` no longer fits: another one will be started.
    pub(crate) fn replace_standby(&mut self, index: usize) {
        self.standby(index).into_iter().for_each(Standby::dismiss);
        if let Some(place) = self.keeper.places.get_mut(index) {
            place.standby_at = Some(Instant::now() + STANDBY_PAUSE);
        }
    }

    /// The standby at `index` may have died while it waited.
    pub(crate) fn bury(&mut self, index: usize) {
        let Some(waiting) = self.tree.standbys.get_mut(index) else { return };
        if waiting.as_ref().is_some_and(Standby::has_died) {
            *waiting = None;
            if let Some(place) = self.keeper.places.get_mut(index) {
                place.standby_at = Some(Instant::now() + NEXT_STANDBY_AFTER);
            }
        }
    }

    fn give_up(&mut self, index: usize, why: &str) {
        let name = self.name_of(index);
        let is_device = self.tree.devices.iter().any(|device| device.process == index);
        let stand_in = self.tree.recipes.get(index).filter(|_| is_device).and_then(stand_in);
        let effect = if is_device { "; it reads as ones" } else { "" };
        self.say(&format!(
            "{why}\n{name} does not get ready and is given up{effect}; `device_restart` tries again"
        ));
        self.set_state(index, State::Dead(stand_in));
    }

    /// Everything about restarts that is due: successors that have got ready or have to be started, hangs.
    pub(crate) fn tend(&mut self) {
        for index in 0..self.keeper.places.len() {
            match self.keeper.places.get(index).map(|place| &place.state) {
                Some(State::Starting(since)) => {
                    let since = *since;
                    if let Some(at) = self.tree.ready_at(index) {
                        self.served(index, at);
                    } else if since.elapsed() > START_LIMIT && !is_starved(self.pid_of(index), 0) {
                        self.condemn(index, "did not get ready", true);
                    }
                }
                Some(State::Pausing(until)) if *until <= Instant::now() => self.succeed(index),
                _ => {}
            }
        }
        self.provide();
        if !self.running {
            (self.keeper.looked, self.keeper.busy) = (Instant::now(), Duration::ZERO);
            self.keeper.places.iter_mut().for_each(|place| place.stuck = 0);
        } else if self.keeper.looked.elapsed() >= LOOK {
            self.look();
        }
    }

    fn served(&mut self, index: usize, at: u64) {
        let now = bus_sys::monotonic_ns();
        self.trace(events::PROCESS_READY, index);
        self.set_state(index, State::Serving);
        let has_standby = self.tree.standbys.get(index).is_some_and(Option::is_some);
        let (done, _) = self.tree.progress(index);
        let Some(place) = self.keeper.places.get_mut(index) else { return };
        place.failures = 0;
        // What its predecessor may have claimed is not held against it.
        place.progress = done;
        place.standby_at = (!has_standby).then(|| Instant::now() + STANDBY_AFTER);
        if let Some((died, number)) = place.open.take() {
            // The device's word, in the bounds of what can be.
            let took = at.clamp(died, now.max(died)) - died;
            if !std::mem::take(&mut place.paused) {
                if place.times.len() == TIMES_MAX {
                    place.times.pop_front();
                }
                place.times.push_back(u32::try_from(took / 1000).unwrap_or(u32::MAX));
            }
            let event =
                number.checked_sub(self.keeper.first).and_then(|n| self.keeper.events.get_mut(n as usize));
            if let Some(event) = event {
                event.took = Some(Duration::from_nanos(took));
            }
        }
    }

    /// Looks for hangs.
    fn look(&mut self) {
        // When this process itself did not run, nobody else may have.
        let late = self.keeper.looked.elapsed().saturating_sub(self.keeper.busy) > LOOK * 3;
        (self.keeper.looked, self.keeper.busy) = (Instant::now(), Duration::ZERO);
        self.keeper.looks = self.keeper.looks.wrapping_add(1);
        if self.keeper.looks.is_multiple_of(PING_LOOKS) {
            let serves =
                |index| matches!(self.keeper.places.get(index), Some(Place { state: State::Serving, .. }));
            self.tree.devices.iter().filter(|d| serves(d.process)).for_each(|device| device.mailbox.ping());
        }
        for index in 0..self.keeper.places.len() {
            let (done, more) = self.tree.progress(index);
            let wait = self.tree.wait(index);
            let Some(place) = self.keeper.places.get_mut(index) else { continue };
            let grows = grows(place.progress, done);
            let waits = lasts(std::mem::replace(&mut place.wait, wait), wait);
            let same = (more && !grows || waits) && matches!(place.state, State::Serving);
            if grows {
                place.progress = done;
            }
            let before = place.stuck;
            let stuck = stuck_after(before, same, late);
            place.stuck = stuck;
            if stuck == before {
                continue;
            }
            let pid = self.pid_of(index);
            let Some(place) = self.keeper.places.get_mut(index) else { continue };
            if stuck == 1 {
                place.ran = load_of(pid).map_or(0, |(_, ran)| ran);
                // Writes that are posted without a ring may wait for long: asleep is not hung.
                self.wake(index);
            } else if stuck >= HANG_LOOKS && !is_starved(pid, place.ran) {
                place.stuck = 0;
                let state = state_of(pid);
                if state != Some('D') {
                    let is_device = self.tree.devices.iter().any(|device| device.process == index);
                    if let Some(place) = self.keeper.places.get_mut(index) {
                        place.excused = if is_device { state == Some('T') } else { state != Some('R') };
                    }
                    self.condemn(index, "hung", true);
                }
            }
        }
    }

    fn pid_of(&self, index: usize) -> u32 {
        self.tree.processes.get(index).map_or(0, |process| process.pid)
    }

    /// Makes the process look at what there is to do.
    fn wake(&self, index: usize) {
        let page = self.tree.recipes.get(index).and_then(|recipe| recipe.descriptor(fd::BELL));
        if let Some(Ok(page)) = page.map(|page| Mapping::shared(page, BELL_BYTES, true)) {
            Bell::new(page).wake();
        }
    }

    pub(crate) fn condemn(&mut self, index: usize, why: &'static str, own_fault: bool) {
        if let Some(place) = self.keeper.places.get_mut(index)
            && place.verdict.is_none()
        {
            place.verdict = Some((why, own_fault));
        }
        if let Some(process) = self.tree.processes.get(index) {
            process.kill();
        }
    }

    /// Index of the process that the user calls `name`, with or without `bh-`.
    fn replaceable(&self, name: &str) -> Result<usize, String> {
        let same = |have: &str| have == name || have.strip_prefix("bh-") == Some(name);
        match self.tree.processes.iter().position(|process| same(&process.name)) {
            Some(index) if index < self.tree.recipes.len() => Ok(index),
            Some(_) => Err(format!("{name}: this process cannot be replaced")),
            None => Err(format!("no process '{name}'")),
        }
    }

    /// The machine is reset: what was given up is tried again.
    pub(crate) fn revive(&mut self) {
        for index in 0..self.keeper.places.len() {
            if self.keeper.is_dead(index) {
                self.restart_vacant(index);
            }
        }
    }

    /// `device_kill`: the process dies; what follows is what follows any death.
    pub(crate) fn kill_process(&mut self, name: &str) -> Result<(), String> {
        let index = self.replaceable(name)?;
        if self.keeper.is_vacant(index) {
            return Err(format!("{name}: has no process now"));
        }
        self.condemn(index, "was killed by device_kill", false);
        Ok(())
    }

    /// `device_restart`: a new process of the program now on disk, also where the place was given up.
    pub(crate) fn restart_process(&mut self, name: &str) -> Result<(), String> {
        let index = self.replaceable(name)?;
        // Somebody has looked at it: what was before no longer slows it down.
        if let Some(place) = self.keeper.places.get_mut(index) {
            place.failures = 0;
            place.crashes.clear();
        }
        // It may be of an older program.
        self.replace_standby(index);
        if !self.keeper.is_vacant(index) {
            self.condemn(index, "was replaced by device_restart", false);
            return Ok(());
        }
        self.restart_vacant(index);
        Ok(())
    }

    fn restart_vacant(&mut self, index: usize) {
        if let Some(place) = self.keeper.places.get_mut(index) {
            let state = std::mem::replace(&mut place.state, State::Pausing(Instant::now()));
            if let State::Dead(Some((dead, thread))) = state {
                dead.stop();
                let _ = thread.join();
            }
        }
        self.succeed(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_crashes_cost_no_pause_and_later_ones_up_to_a_second() {
        let pauses: Vec<u128> = (0..8).map(|crashes| pause(crashes).as_millis()).collect();
        assert_eq!(pauses, [0, 0, 0, 0, 10, 100, 1000, 1000]);
    }

    #[test]
    fn a_late_look_neither_adds_to_a_hang_nor_ends_it() {
        assert_eq!(stuck_after(2, true, false), 3);
        assert_eq!(stuck_after(2, true, true), 2);
        assert_eq!((stuck_after(2, false, false), stuck_after(2, false, true)), (0, 0));
    }

    #[test]
    fn a_count_that_goes_to_and_fro_does_not_grow() {
        assert!(grows(5, 6) && grows(u32::MAX, 0));
        assert!(!grows(6, 6) && !grows(6, 5) && !grows(0, u32::MAX));
    }

    #[test]
    fn a_wait_lasts_while_it_is_the_same_and_the_waiter_runs() {
        assert!(lasts(Some((5, 6)), Some((5, 9))));
        assert!(!lasts(Some((5, 6)), Some((5, 6))), "the waiter does not run");
        assert!(!lasts(Some((5, 6)), Some((8, 9))), "another one");
        assert!(!lasts(None, Some((5, 6))) && !lasts(Some((5, 6)), None));
    }

    #[test]
    fn a_process_that_computes_is_starved_until_it_has_had_its_time() {
        let busy = std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn();
        let mut busy = busy.expect("a shell");
        let pid = busy.id();
        // It runs, and has had nothing since then.
        while !is_starved(pid, u64::MAX) {
            std::thread::yield_now();
        }
        while load_of(pid).is_some_and(|(_, ran)| ran < HANG_TICKS) {
            std::thread::yield_now();
        }
        let starved = is_starved(pid, 0);
        busy.kill().expect("it runs");
        busy.wait().expect("it has ended");
        assert!(!starved);
        assert!(!is_starved(pid, u64::MAX), "nor is one that does not exist");
    }

    #[test]
    fn the_state_of_a_process_is_the_letter_behind_its_name() {
        assert!(state_of(std::process::id()).is_some_and(|state| "RS".contains(state)));
        assert_eq!(state_of(u32::MAX), None);
    }
}
