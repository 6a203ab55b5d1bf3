//! Tracing on the broker's side: a trace file for each process, the switches of every event, and where records go.
//!
//! The loop of the VM only turns switches. A thread of its own takes the records out of the rings, puts those of all
//! processes in order and writes them ([`writer`]): a slow disk costs records, which the rings count, and never time of the VM.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bulkhead_bus::sys::{self as bus_sys, Mapping};
use bulkhead_bus::trace::{EVENTS, Id, Panel, Reader, Record, Scope, TRACE_BYTES, Tracer};
use bulkhead_config::{Trace, TraceSwitch};

use crate::fail::{Fail, reason};
use crate::firmware::read_given;
use crate::{fresh, spawn};

mod pattern;
mod text;
mod timeline;
mod writer;

use pattern::Rule;
use timeline::Timeline;
use writer::{Outputs, Writer};

/// Longest file of event names.
const EVENTS_FILE_MAX: u64 = 1 << 20;

/// The answer to `-trace help`.
pub fn help() -> String {
    let mut out = String::from(
        "Events are named PROCESS.EVENT, for example ide0.request; -trace takes such a name, an event alone, or a\n\
         pattern with * and ?. Each can be switched for each process:\n",
    );
    for event in EVENTS {
        let who = match event.scope {
            Scope::Cpu => "cpu",
            Scope::CpuForDevice | Scope::Device => "DEVICE",
            Scope::Block => "block-DRIVE",
            Scope::Char => "char-NAME",
            Scope::Broker => "broker",
        };
        out.push_str(&format!("{who:>11}.{:<16} {}\n", event.name, event.help));
    }
    out
}

/// `-trace` as opened before any process starts.
pub struct Opened {
    rules: Vec<Rule>,
    outputs: Outputs,
    logs: Option<PathBuf>,
}

fn create(what: &str, path: &Path) -> Result<File, Fail> {
    fresh::open(path).map_err(|e| Fail(format!("-trace {what}={}: {}", path.display(), reason(&e))))
}

/// Opens and reads what `-trace` names.
///
/// # Errors
/// One line that names the file and the reason.
pub fn open(config: &Trace) -> Result<Opened, Fail> {
    let mut rules = Vec::new();
    for switch in &config.switches {
        match switch {
            TraceSwitch::Pattern(pattern) => rules.push(Rule::new(pattern, format!("-trace {pattern}"))),
            TraceSwitch::File(path) => {
                let bytes = read_given("-trace events", path, EVENTS_FILE_MAX)?;
                let text = String::from_utf8_lossy(&bytes);
                for (number, line) in text.lines().map(str::trim).enumerate() {
                    if !line.is_empty() && !line.starts_with('#') {
                        let origin = format!("-trace events={}: line {}", path.display(), number + 1);
                        rules.push(Rule::new(line, origin));
                    }
                }
            }
        }
    }
    let folder = |path: &PathBuf| {
        std::fs::create_dir(path)
            .or_else(|e| if path.is_dir() { Ok(()) } else { Err(e) })
            .map_err(|e| Fail(format!("-trace logs={}: {}", path.display(), reason(&e))))
    };
    config.logs.as_ref().map(folder).transpose()?;
    let text = config.file.as_deref().map(|path| create("file", path)).transpose()?;
    let timeline = config.timeline.as_deref().map(|path| create("timeline", path)).transpose()?;
    let outputs = Outputs::new(text, timeline, config.logs.is_some());
    Ok(Opened { rules, outputs, logs: config.logs.clone() })
}

/// What a process is, for its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The CPU process.
    Cpu,
    /// A device, by index.
    Device(u32),
    /// The back end of a drive: the device by index, and the drive's number there.
    Block(u32, u32),
    /// A character back end.
    Char,
    /// The broker.
    Broker,
}

impl Kind {
    /// Whether such a process may record an event of this scope.
    fn records(self, scope: Scope) -> bool {
        matches!(
            (self, scope),
            (Kind::Cpu, Scope::Cpu | Scope::CpuForDevice)
                | (Kind::Device(_), Scope::Device)
                | (Kind::Block(..), Scope::Block)
                | (Kind::Char, Scope::Char)
                | (Kind::Broker, Scope::Broker)
        )
    }
}

/// A process as its records are named.
#[derive(Clone, Debug)]
struct Name {
    /// `bh-ide0`.
    process: String,
    /// `ide0`.
    scope: String,
    kind: Kind,
}

/// A process with its trace file.
struct Source {
    name: Name,
    file: OwnedFd,
    map: Arc<Mapping>,
    panel: Panel,
}

/// One switch: an event of a process, or of the CPU process for a device.
#[derive(Clone, Copy, Debug)]
struct Switch {
    source: usize,
    device: Option<usize>,
    event: Id,
}

/// Names of everything that records, for [`text`] and [`timeline`].
#[derive(Clone, Debug)]
struct Names {
    processes: Vec<Name>,
    devices: Vec<String>,
    /// Number of vCPUs.
    cpus: u32,
    /// Monotonic time that records are counted from.
    start: u64,
}

impl Names {
    /// The vCPU that a record of process `source` claims to be of, 0 in other processes than the CPU's. A number that no vCPU has is
    /// the last one's.
    fn cpu(&self, source: usize, record: &Record) -> u32 {
        record.cpu.min(self.cpus_of(source) - 1)
    }

    /// How many vCPUs process `source` runs; 1 for other processes than the CPU's.
    fn cpus_of(&self, source: usize) -> u32 {
        let runs = self.processes.get(source).is_some_and(|name| name.kind == Kind::Cpu);
        if runs { self.cpus.max(1) } else { 1 }
    }

    /// `bh-ide0`; `bh-cpu/1` where there is more than one vCPU.
    fn thread(&self, source: usize, cpu: u32) -> String {
        let process = self.processes.get(source).map_or("?", |name| name.process.as_str());
        if self.cpus_of(source) > 1 { format!("{process}/{cpu}") } else { process.to_owned() }
    }
}

/// All tracing of a VM.
pub struct Tracing {
    sources: Vec<Source>,
    devices: Vec<String>,
    cpus: u32,
    /// Index of the device whose drives all drives are.
    asks: u32,
    rules: Vec<Rule>,
    outputs: Option<Outputs>,
    logs: Option<PathBuf>,
    own: Tracer,
    start: u64,
    writer: Option<Writer>,
    /// What is switched on, by position in [`Tracing::switches`].
    on: Vec<bool>,
}

impl Tracing {
    /// For a machine with these devices, by index, and so many vCPUs.
    pub fn new(opened: Opened, devices: Vec<String>, cpus: u32) -> Tracing {
        Tracing {
            sources: Vec::new(),
            devices,
            cpus,
            asks: 0,
            rules: opened.rules,
            outputs: Some(opened.outputs),
            logs: opened.logs,
            own: Tracer::off(),
            start: bus_sys::monotonic_ns(),
            writer: None,
            on: Vec::new(),
        }
    }

    /// Makes the trace file of a process that is about to be started as `process` in `role`; processes come in the order of
    /// [`crate::tree::Tree::processes`]. `source` is a device's index.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add(&mut self, process: &str, role: &str, source: u32) -> Result<BorrowedFd<'_>, Fail> {
        let drives = self.sources.iter().filter(|other| matches!(other.name.kind, Kind::Block(..))).count();
        if role == "ide" {
            self.asks = source;
        }
        let kind = match role {
            "cpu" => Kind::Cpu,
            "block" => Kind::Block(self.asks, drives as u32),
            "char" => Kind::Char,
            "broker" => Kind::Broker,
            _ => Kind::Device(source),
        };
        let file = spawn::memory("trace", TRACE_BYTES as u64)?;
        let map = Mapping::shared(file.as_fd(), TRACE_BYTES, true)
            .map_err(|e| Fail(format!("cannot map memory: {}", reason(&e))))?;
        let map = Arc::new(map);
        let scope = process.strip_prefix("bh-").unwrap_or(process).to_owned();
        let name = Name { process: process.to_owned(), scope, kind };
        self.sources.push(Source { name, file, panel: Panel::new(map.clone()), map });
        let at = self.sources.len() - 1;
        for switch in self.switches_of(at) {
            let name = self.name(switch);
            let rule = self.rules.iter().rev().find(|rule| rule.matches(&name));
            self.on.push(rule.is_some_and(|rule| rule.on));
            self.set_panel(switch, rule.is_some_and(|rule| rule.on));
        }
        self.file(process)
    }

    /// The trace file of `process`.
    ///
    /// # Errors
    /// When there is none.
    pub fn file(&self, process: &str) -> Result<BorrowedFd<'_>, Fail> {
        let source = self.sources.iter().find(|source| source.name.process == process);
        source.map(|source| source.file.as_fd()).ok_or_else(|| Fail("no trace file".to_owned()))
    }

    /// To be called when every process has its file and before the first starts: the broker's own, and what can be wrong with names and log files.
    ///
    /// # Errors
    /// A pattern that names nothing; a log file that cannot be written.
    pub fn complete(&mut self) -> Result<(), Fail> {
        self.add("broker", "broker", 0)?;
        if let Some(file) = self.sources.last().map(|source| &source.file) {
            let map = Mapping::shared(file.as_fd(), TRACE_BYTES, true);
            self.own = Tracer::new(map.map_err(|e| Fail(format!("cannot map memory: {}", reason(&e))))?);
        }
        let names: Vec<String> = self.switches().map(|switch| self.name(switch)).collect();
        if let Some(rule) = self.rules.iter().find(|rule| !names.iter().any(|name| rule.matches(name))) {
            return Err(Fail(format!("{}: no such trace event (-trace help for list)", rule.origin)));
        }
        if let (Some(folder), Some(outputs)) = (&self.logs, &mut self.outputs) {
            for source in &self.sources {
                outputs.logs.push(create("logs", &folder.join(format!("{}.log", source.name.process)))?);
            }
        }
        Ok(())
    }

    /// Empties the files that are to be written: from now on nothing is refused.
    ///
    /// # Errors
    /// The host's.
    pub fn begin(&self) -> Result<(), Fail> {
        let outputs = self.outputs.as_ref();
        outputs.map_or(Ok(()), Outputs::begin).map_err(|e| Fail(format!("-trace: {}", reason(&e))))
    }

    fn switches_of(&self, source: usize) -> Vec<Switch> {
        let Some(kind) = self.sources.get(source).map(|source| source.name.kind) else { return Vec::new() };
        let mut switches = Vec::new();
        for (event, row) in EVENTS.iter().enumerate().filter(|(_, row)| kind.records(row.scope)) {
            if row.scope == Scope::CpuForDevice {
                let devices = 0..self.devices.len();
                switches.extend(devices.map(|device| Switch { source, device: Some(device), event }));
            } else {
                switches.push(Switch { source, device: None, event });
            }
        }
        switches
    }

    fn switches(&self) -> impl Iterator<Item = Switch> {
        (0..self.sources.len()).flat_map(|source| self.switches_of(source))
    }

    /// `ide0.request`.
    fn name(&self, switch: Switch) -> String {
        let event = EVENTS.get(switch.event).map_or("?", |event| event.name);
        let scope = match switch.device {
            Some(device) => self.devices.get(device),
            None => self.sources.get(switch.source).map(|source| &source.name.scope),
        };
        format!("{}.{event}", scope.map_or("?", String::as_str))
    }

    fn set_panel(&self, switch: Switch, on: bool) {
        if let Some(source) = self.sources.get(switch.source) {
            source.panel.set(switch.device, switch.event, on);
        }
    }

    /// Starts writing if anything is on. To be called by a broker in its jail.
    pub fn run(&mut self) {
        let active = self.on.contains(&true);
        if active && self.writer.is_none() {
            let readers = self.sources.iter().map(|source| Reader::new(source.map.clone())).collect();
            let names = Names {
                processes: self.sources.iter().map(|source| source.name.clone()).collect(),
                devices: self.devices.clone(),
                cpus: self.cpus,
                start: self.start,
            };
            if let Some(outputs) = self.outputs.take() {
                self.writer = Writer::start(readers, names, outputs);
                if self.writer.is_none() {
                    // If nobody can read it, there is nobody to tell.
                    let _ =
                        write!(std::io::stderr(), "-trace: no thread to write with; nothing is written\r\n");
                }
            }
        }
        if let Some(writer) = &self.writer {
            writer.set_active(active);
        }
    }

    /// Switches every event whose name matches; how many did.
    pub fn set(&mut self, pattern: &str, on: bool) -> usize {
        let rule = Rule::new(pattern, String::new());
        let found: Vec<(usize, Switch)> =
            self.switches().enumerate().filter(|(_, switch)| rule.matches(&self.name(*switch))).collect();
        for (at, switch) in &found {
            self.set_panel(*switch, on);
            if let Some(state) = self.on.get_mut(*at) {
                *state = on;
            }
        }
        self.run();
        found.len()
    }

    /// Names of the events that match, sorted, with whether they are on.
    pub fn states(&self, pattern: &str) -> Vec<(String, bool)> {
        let rule = Rule::new(pattern, String::new());
        let names = self.switches().map(|switch| self.name(switch)).zip(self.on.iter().copied());
        let mut states: Vec<(String, bool)> = names.filter(|(name, _)| rule.matches(name)).collect();
        states.sort();
        states
    }

    /// What the broker records its own events with.
    pub fn own(&self) -> &Tracer {
        &self.own
    }

    /// Every process with its counters, in the order they were started, the broker last.
    pub fn panels(&self) -> impl Iterator<Item = (&str, Kind, &Panel)> {
        self.sources.iter().map(|source| (source.name.process.as_str(), source.name.kind, &source.panel))
    }

    /// What the CPU process says of its wait for the device with this index, see [`Panel::wait`].
    pub fn wait(&self, device: usize) -> Option<(u64, u64)> {
        self.sources.iter().find(|source| source.name.kind == Kind::Cpu)?.panel.wait(device)
    }

    /// Writes what is left and closes the files. The processes do not run any more.
    pub fn finish(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.finish();
        }
    }
}

/// What trace files hold, in every form they are written in, for the fuzzer.
#[derive(Default)]
pub struct Rehearsal {
    timeline: Timeline,
}

impl Rehearsal {
    /// Takes the records out of a device's file; how many there were, how many were lost, and their lines.
    pub fn take(&mut self, reader: &mut Reader) -> (usize, u64, String) {
        let name = |process: &str, kind| {
            let scope = process.trim_start_matches("bh-").to_owned();
            Name { process: process.to_owned(), scope, kind }
        };
        let names = Names {
            processes: vec![name("bh-ide0", Kind::Device(0)), name("bh-cpu", Kind::Cpu)],
            devices: vec!["ide0".to_owned()],
            cpus: 1,
            start: 0,
        };
        let (mut count, mut text, mut bytes) = (0, String::new(), Vec::new());
        self.timeline.start(&names, "rehearsal", &mut bytes);
        let taken = reader.take(|record| {
            count += 1;
            text::line(&mut text, &names, 0, &record);
            self.timeline.record(&names, 0, &record, &mut bytes);
        });
        if taken.lost > 0 {
            self.timeline.lost(&names, 0, taken.until, taken.lost, &mut bytes);
        }
        (count, taken.lost, text)
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_tests::Scratch;

    use super::*;

    #[test]
    fn files_are_emptied_when_the_machine_begins_and_not_when_one_of_them_is_refused() {
        let scratch = Scratch::new("trace");
        let folder = PathBuf::from(scratch.file("logs"));
        std::fs::create_dir(&folder).expect("a folder for a test");
        let files = ["text", "timeline", "broker.log"].map(|name| folder.join(name));
        files.iter().for_each(|path| std::fs::write(path, "yesterday's").expect("a file for a test"));
        let all_hold = |text: &str| {
            files.iter().all(|path| std::fs::read(path).is_ok_and(|held| held == text.as_bytes()))
        };
        let mut config =
            Trace { file: Some(files[0].clone()), logs: Some(folder.clone()), ..Trace::default() };
        config.timeline = Some(folder.join("missing/file"));
        assert!(open(&config).is_err());
        config.timeline = Some(files[1].clone());
        let mut tracing = Tracing::new(open(&config).expect("they can be written"), Vec::new(), 1);
        tracing.complete().expect("nothing is wrong");
        assert!(all_hold("yesterday's"));
        tracing.begin().expect("they are files");
        assert!(all_hold(""));
    }
}
