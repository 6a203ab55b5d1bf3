//! The thread that writes: takes records out of every ring, puts them in order, formats, writes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::Write;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use bulkhead_bus::sys::monotonic_ns;
use bulkhead_bus::trace::{EVENTS, Reader, Record, Scope, events};

use super::timeline::Timeline;
use super::{Names, text};
use crate::{fail, fresh};

/// How often the rings are looked at. A ring holds some milliseconds of the busiest device.
const LOOK: Duration = Duration::from_millis(4);
/// How long a process that was stopped in the middle of a record can hold back the records of all others.
const HELD_MAX_NS: u64 = 100_000_000;
/// How long the end of the VM may wait for files to be written.
const FINISH_LIMIT: Duration = Duration::from_secs(5);
/// Output is written in pieces of about this size.
const PIECE: usize = 256 << 10;

/// Where records go.
#[derive(Default)]
pub struct Outputs {
    text: Option<Sink>,
    timeline: Option<Sink>,
    /// A text file per process, in their order.
    pub logs: Vec<File>,
}

/// A file, or the terminal.
enum Place {
    File(File),
    Terminal,
}

/// An output with what is not written yet. After an error nothing more is written to it.
struct Sink {
    name: &'static str,
    to: Option<Place>,
    bytes: Vec<u8>,
}

impl Sink {
    fn new(name: &'static str, to: Place) -> Sink {
        Sink { name, to: Some(to), bytes: Vec::new() }
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.to.is_some() {
            self.bytes.extend(bytes);
            if self.bytes.len() >= PIECE {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let result = match &mut self.to {
            Some(Place::File(file)) => file.write_all(&bytes),
            // It may be in raw mode.
            Some(Place::Terminal) => {
                let text = String::from_utf8_lossy(&bytes).replace('\n', "\r\n");
                // Piece by piece: whoever else has something to say must not wait for all of it to be read.
                text.as_bytes().chunks(fail::PIECE).try_for_each(|piece| fail::put(piece, None))
            }
            None => Ok(()),
        };
        if let Err(error) = result {
            self.to = None;
            fail::tell(format_args!(
                "-trace {}: {}; nothing more is written\r",
                self.name,
                fail::reason(&error)
            ));
        }
        self.bytes = bytes;
        self.bytes.clear();
    }
}

impl Outputs {
    /// Text goes to the terminal when no file of any kind is given.
    pub fn new(text: Option<File>, timeline: Option<File>, logs: bool) -> Outputs {
        let terminal = text.is_none() && timeline.is_none() && !logs;
        let text = text.map(Place::File).or_else(|| terminal.then_some(Place::Terminal));
        Outputs {
            text: text.map(|place| Sink::new("file", place)),
            timeline: timeline.map(|file| Sink::new("timeline", Place::File(file))),
            logs: Vec::new(),
        }
    }

    /// Empties the files: from now on nothing is refused.
    ///
    /// # Errors
    /// The host's.
    pub fn begin(&self) -> std::io::Result<()> {
        let sinks = self.text.iter().chain(&self.timeline).filter_map(|sink| match &sink.to {
            Some(Place::File(file)) => Some(file),
            Some(Place::Terminal) | None => None,
        });
        { sinks }.chain(&self.logs).try_for_each(fresh::empty)
    }
}

enum Command {
    Active(bool),
    Finish,
}

/// The broker's handle of the thread.
pub struct Writer {
    commands: Sender<Command>,
    done: Receiver<()>,
}

impl Writer {
    /// Starts the thread; `None` when the host gives none. The readers are in the order of the names.
    pub fn start(readers: Vec<Reader>, names: Names, outputs: Outputs) -> Option<Writer> {
        let (commands, incoming) = channel();
        let (finished, done) = channel();
        let work = move || {
            Work::new(readers, names, outputs).run(&incoming);
            let _ = finished.send(());
        };
        std::thread::Builder::new().name("trace".to_owned()).spawn(work).ok()?;
        Some(Writer { commands, done })
    }

    /// Whether anything is switched on: else the thread sleeps.
    pub fn set_active(&self, active: bool) {
        let _ = self.commands.send(Command::Active(active));
    }

    /// Writes the rest, unless whoever reads a pipe takes too long.
    pub fn finish(self) {
        let _ = self.commands.send(Command::Finish);
        let _ = self.done.recv_timeout(FINISH_LIMIT);
    }
}

/// A record, or a number of lost ones, that waits for older ones of other processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waiting {
    time: u64,
    source: usize,
    what: Result<Record, u64>,
}

impl Waiting {
    /// Same times: causes first, as in the table.
    fn key(&self) -> (u64, usize, usize) {
        (self.time, self.what.map_or(usize::MAX, |record| record.event), self.source)
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Waiting) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Waiting) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// What the thread holds.
struct Work {
    readers: Vec<Reader>,
    names: Names,
    text: Option<Sink>,
    timeline: Option<(Sink, Timeline)>,
    logs: Vec<Sink>,
    waiting: BinaryHeap<Reverse<Waiting>>,
    /// Times of the last record of each process.
    last: Vec<u64>,
}

impl Work {
    fn new(readers: Vec<Reader>, names: Names, outputs: Outputs) -> Work {
        let timeline = outputs.timeline.map(|mut sink| {
            let mut timeline = Timeline::default();
            timeline.start(&names, "virtual machine", &mut sink.bytes);
            (sink, timeline)
        });
        let logs = outputs.logs.into_iter().map(|file| Sink::new("logs", Place::File(file))).collect();
        let last = vec![names.start; readers.len()];
        Work { readers, names, text: outputs.text, timeline, logs, waiting: BinaryHeap::new(), last }
    }

    fn run(mut self, commands: &Receiver<Command>) {
        let mut active = true;
        loop {
            let command = match active {
                true => commands.recv_timeout(LOOK),
                false => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let ends = match command {
                Ok(Command::Active(on)) => {
                    active = on;
                    false
                }
                Ok(Command::Finish) | Err(RecvTimeoutError::Disconnected) => true,
                Err(RecvTimeoutError::Timeout) => false,
            };
            let until = self.collect();
            // Switched off, or at the end: what is there is all there is.
            self.write(if ends || !active { u64::MAX } else { until });
            self.flush();
            if ends {
                return;
            }
        }
    }

    /// Takes out what was recorded. Returns the time before which nothing more will come.
    fn collect(&mut self) -> u64 {
        let now = monotonic_ns();
        let mut until = now;
        for (source, reader) in self.readers.iter_mut().enumerate() {
            let kind = self.names.processes.get(source).map(|name| name.kind);
            let (mut strange, mut last) = (0u64, self.last.get(source).copied().unwrap_or_default());
            let taken = reader.take(|record| {
                let scope = EVENTS.get(record.event).map_or(Scope::Broker, |event| event.scope);
                if kind.is_some_and(|kind| kind.records(scope)) {
                    last = record.time;
                    self.waiting.push(Reverse(Waiting { time: record.time, source, what: Ok(record) }));
                } else {
                    strange += 1;
                }
            });
            let lost = taken.lost.saturating_add(strange);
            if lost > 0 {
                self.waiting.push(Reverse(Waiting { time: last, source, what: Err(lost) }));
            }
            if let Some(time) = self.last.get_mut(source) {
                *time = last;
            }
            until = until.min(taken.until.max(now.saturating_sub(HELD_MAX_NS)));
        }
        until
    }

    /// Writes what is older than `until`, in order.
    fn write(&mut self, until: u64) {
        let mut line = String::new();
        while let Some(Reverse(next)) = self.waiting.peek().copied().filter(|next| next.0.time < until) {
            self.waiting.pop();
            if self.text.is_some() || !self.logs.is_empty() {
                line.clear();
                match next.what {
                    Ok(record) => text::line(&mut line, &self.names, next.source, &record),
                    Err(count) => text::lost(&mut line, &self.names, next.source, next.time, count),
                }
                if let Some(sink) = &mut self.text {
                    sink.push(line.as_bytes());
                }
                if let Some(sink) = self.logs.get_mut(next.source) {
                    sink.push(line.as_bytes());
                }
            }
            if let Some((sink, timeline)) = self.timeline.as_mut().filter(|(sink, _)| sink.to.is_some()) {
                let out = &mut sink.bytes;
                match next.what {
                    Ok(record) => {
                        if record.event == events::PROCESS_END {
                            timeline.close_all(&self.names, record.args[0] as usize, record.time, out);
                        }
                        timeline.record(&self.names, next.source, &record, out);
                    }
                    Err(count) => timeline.lost(&self.names, next.source, next.time, count, out),
                }
                sink.push(&[]);
            }
        }
    }

    fn flush(&mut self) {
        let timeline = self.timeline.iter_mut().map(|(sink, _)| sink);
        let sinks = self.text.iter_mut().chain(timeline).chain(&mut self.logs);
        sinks.filter(|sink| !sink.bytes.is_empty()).for_each(Sink::flush);
    }
}

#[cfg(test)]
mod tests;
