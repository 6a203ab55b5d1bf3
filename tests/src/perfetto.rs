//! Reads a Perfetto trace back: the messages that a timeline may use, strictly, and whether they make sense.
//!
//! Field numbers are those of Perfetto's `trace_packet.proto`, `track_event.proto`, `debug_annotation.proto`,
//! `track_descriptor.proto` and `interned_data.proto`; anything else is an error.

use std::collections::BTreeMap;

/// What an event of a track is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A slice begins.
    Begin,
    /// The innermost open slice ends.
    End,
    /// Something without length.
    Instant,
}

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    /// Nanoseconds.
    pub time: u64,
    /// Name of its track.
    pub track: String,
    /// What it is.
    pub kind: Kind,
    /// Name; empty for an end.
    pub name: String,
    /// Arrows that it is an end of.
    pub flows: Vec<u64>,
    /// Its numbers, as text.
    pub args: Vec<(String, String)>,
}

impl Event {
    /// One of its numbers.
    pub fn arg(&self, name: &str) -> Option<&str> {
        self.args.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }
}

/// A slice, or an instant as one of no length.
#[derive(Clone, Debug)]
pub struct Slice {
    /// Its first event; numbers of its end are appended.
    pub event: Event,
    /// When it ends; none if it does not.
    pub end: Option<u64>,
}

/// A field of a message.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    fn number(self) -> Result<u64, String> {
        match self {
            Value::Number(value) => Ok(value),
            Value::Bytes(_) => Err("bytes where a number belongs".to_owned()),
        }
    }

    fn bytes(self) -> Result<&'a [u8], String> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Number(_) => Err("a number where bytes belong".to_owned()),
        }
    }

    fn text(self) -> Result<String, String> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| "text is not UTF-8".to_owned())
    }
}

fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or("ends inside a number")?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number of more than ten bytes".to_owned())
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8], String> {
    let (head, rest) = bytes.split_at_checked(count).ok_or("ends inside a field")?;
    *bytes = rest;
    Ok(head)
}

/// Calls `each` with every field of a message.
fn fields<'a>(
    mut bytes: &'a [u8],
    mut each: impl FnMut(u64, Value<'a>) -> Result<(), String>,
) -> Result<(), String> {
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let value = match tag & 7 {
            0 => Value::Number(varint(&mut bytes)?),
            1 => {
                let word = take(&mut bytes, 8)?.first_chunk::<8>().copied().unwrap_or_default();
                Value::Number(u64::from_le_bytes(word))
            }
            2 => {
                let length = varint(&mut bytes)? as usize;
                Value::Bytes(take(&mut bytes, length)?)
            }
            other => return Err(format!("wire type {other}")),
        };
        each(tag >> 3, value)?;
    }
    Ok(())
}

fn unknown(message: &str, field: u64) -> Result<(), String> {
    Err(format!("{message} has no field {field}"))
}

#[derive(Default)]
struct Parser {
    tracks: BTreeMap<u64, String>,
    event_names: BTreeMap<u64, String>,
    arg_names: BTreeMap<u64, String>,
    events: Vec<Event>,
}

/// The events of a trace in the order of the file.
///
/// # Errors
/// What is wrong with it.
pub fn parse(bytes: &[u8]) -> Result<Vec<Event>, String> {
    let mut parser = Parser::default();
    fields(bytes, |field, value| match field {
        1 => parser.packet(value.bytes()?),
        other => unknown("Trace", other),
    })?;
    Ok(parser.events)
}

impl Parser {
    fn packet(&mut self, bytes: &[u8]) -> Result<(), String> {
        let (mut time, mut sequence, mut event) = (None, None, None);
        fields(bytes, |field, value| {
            match field {
                8 => time = Some(value.number()?),
                10 => sequence = Some(value.number()?),
                11 => event = Some(value.bytes()?),
                12 => self.interned(value.bytes()?)?,
                13 => {
                    value.number()?;
                }
                60 => self.track(value.bytes()?)?,
                other => return unknown("TracePacket", other),
            }
            Ok(())
        })?;
        if sequence != Some(1) {
            return Err("a packet outside the sequence".to_owned());
        }
        match event {
            Some(event) => self.event(time.ok_or("an event without a time")?, event),
            None => Ok(()),
        }
    }

    fn track(&mut self, bytes: &[u8]) -> Result<(), String> {
        let (mut id, mut name, mut parent) = (0, String::new(), None);
        fields(bytes, |field, value| {
            match field {
                1 => id = value.number()?,
                2 => name = value.text()?,
                5 => parent = Some(value.number()?),
                11 | 12 => {
                    value.number()?;
                }
                other => return unknown("TrackDescriptor", other),
            }
            Ok(())
        })?;
        if parent.is_some_and(|parent| !self.tracks.contains_key(&parent)) {
            return Err(format!("track {name} has no parent"));
        }
        match self.tracks.insert(id, name) {
            None if id != 0 => Ok(()),
            _ => Err(format!("track {id} twice or 0")),
        }
    }

    fn interned(&mut self, bytes: &[u8]) -> Result<(), String> {
        fields(bytes, |field, value| {
            let table = match field {
                2 => &mut self.event_names,
                3 => &mut self.arg_names,
                other => return unknown("InternedData", other),
            };
            let (mut id, mut name) = (0, String::new());
            fields(value.bytes()?, |field, value| {
                match field {
                    1 => id = value.number()?,
                    2 => name = value.text()?,
                    other => return unknown("an interned name", other),
                }
                Ok(())
            })?;
            match table.insert(id, name) {
                None if id != 0 => Ok(()),
                _ => Err(format!("name {id} twice or 0")),
            }
        })
    }

    fn event(&mut self, time: u64, bytes: &[u8]) -> Result<(), String> {
        let mut event = Event {
            time,
            track: String::new(),
            kind: Kind::Instant,
            name: String::new(),
            flows: Vec::new(),
            args: Vec::new(),
        };
        let mut kind = 0;
        fields(bytes, |field, value| {
            match field {
                4 => event.args.push(self.arg(value.bytes()?)?),
                9 => kind = value.number()?,
                10 => {
                    let id = value.number()?;
                    event.name = self.event_names.get(&id).cloned().ok_or(format!("no event name {id}"))?;
                }
                11 => {
                    let id = value.number()?;
                    event.track = self.tracks.get(&id).cloned().ok_or(format!("no track {id}"))?;
                }
                47 => event.flows.push(value.number()?),
                other => return unknown("TrackEvent", other),
            }
            Ok(())
        })?;
        event.kind = match kind {
            1 => Kind::Begin,
            2 => Kind::End,
            3 => Kind::Instant,
            other => return Err(format!("event type {other}")),
        };
        if event.track.is_empty() || (event.kind == Kind::End) != event.name.is_empty() {
            return Err(format!("an event without track or name: {event:?}"));
        }
        self.events.push(event);
        Ok(())
    }

    fn arg(&self, bytes: &[u8]) -> Result<(String, String), String> {
        let (mut name, mut text) = (String::new(), None);
        fields(bytes, |field, value| {
            match field {
                1 => {
                    let id = value.number()?;
                    name = self.arg_names.get(&id).cloned().ok_or(format!("no argument name {id}"))?;
                }
                3 => text = Some(value.number()?.to_string()),
                6 => text = Some(value.text()?),
                other => return unknown("DebugAnnotation", other),
            }
            Ok(())
        })?;
        Ok((name, text.ok_or("an argument without value")?))
    }
}

/// Puts begins and ends together. Slices of a track nest, and its times go on.
///
/// # Errors
/// An end without a beginning, or a time that goes back.
pub fn slices(events: &[Event]) -> Result<Vec<Slice>, String> {
    let mut slices: Vec<Slice> = Vec::new();
    let mut open: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for event in events {
        let before = last.insert(&event.track, event.time).unwrap_or(0);
        if before > event.time {
            return Err(format!("time goes back from {before}: {event:?}"));
        }
        let stack = open.entry(&event.track).or_default();
        match event.kind {
            Kind::Begin => {
                stack.push(slices.len());
                slices.push(Slice { event: event.clone(), end: None });
            }
            Kind::End => {
                let slice = stack.pop().and_then(|at| slices.get_mut(at));
                let slice = slice.ok_or(format!("nothing to end: {event:?}"))?;
                slice.end = Some(event.time);
                slice.event.args.extend(event.args.iter().cloned());
            }
            Kind::Instant => slices.push(Slice { event: event.clone(), end: Some(event.time) }),
        }
    }
    Ok(slices)
}
