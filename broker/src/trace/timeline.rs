//! Records as a Perfetto trace: a sequence of `TracePacket`s in protocol-buffer encoding, which ui.perfetto.dev opens.
//!
//! One track a process, and for each vCPU of the CPU process. What lasts is a slice, the rest an instant; an arrow (a flow) leads from where a request or an
//! interrupt leaves a process to where another sees it. Messages and field numbers are those of Perfetto's
//! `protos/perfetto/trace/trace_packet.proto`, `track_event/track_event.proto`, `track_event/track_descriptor.proto` and
//! `interned_data/interned_data.proto`. Every packet stands for itself, so a file that ends early is good up to there.

use std::collections::HashMap;

use bulkhead_bus::trace::{Crossing, EVENTS, Id, Record, Show};

use super::{Kind, Names, text};

/// Field numbers by message.
mod field {
    pub const TRACE_PACKET: u32 = 1;
    pub mod packet {
        pub const TIMESTAMP: u32 = 8;
        pub const SEQUENCE: u32 = 10;
        pub const TRACK_EVENT: u32 = 11;
        pub const INTERNED: u32 = 12;
        pub const FLAGS: u32 = 13;
        pub const TRACK_DESCRIPTOR: u32 = 60;
    }
    pub mod track {
        pub const UUID: u32 = 1;
        pub const NAME: u32 = 2;
        pub const PARENT: u32 = 5;
        pub const CHILD_ORDERING: u32 = 11;
        pub const RANK: u32 = 12;
    }
    pub mod event {
        pub const ANNOTATION: u32 = 4;
        pub const TYPE: u32 = 9;
        pub const NAME_ID: u32 = 10;
        pub const TRACK: u32 = 11;
        pub const FLOW: u32 = 47;
    }
    pub mod annotation {
        pub const NAME_ID: u32 = 1;
        pub const UINT: u32 = 3;
        pub const STRING: u32 = 6;
    }
    pub mod interned {
        pub const EVENT_NAME: u32 = 2;
        pub const ANNOTATION_NAME: u32 = 3;
        pub const ID: u32 = 1;
        pub const NAME: u32 = 2;
    }
}

const SLICE_BEGIN: u64 = 1;
const SLICE_END: u64 = 2;
const INSTANT: u64 = 3;
/// `TracePacket.SequenceFlags`: names are forgotten before this packet; names of earlier packets are used.
const CLEARED: u64 = 1;
const NEEDED: u64 = 2;
/// `TrackDescriptor.ChildTracksOrdering.EXPLICIT`.
const EXPLICIT: u64 = 3;
/// The one sequence of packets.
const SEQUENCE: u64 = 1;
/// The track above all processes; theirs follow.
const ROOT: u64 = 1;

/// A message being encoded.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, field: u32, value: u64) -> &mut Message {
        self.varint(u64::from(field) << 3);
        self.varint(value);
        self
    }

    fn fixed(&mut self, field: u32, value: u64) -> &mut Message {
        self.varint(u64::from(field) << 3 | 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(&mut self, field: u32, value: &[u8]) -> &mut Message {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
        self
    }
}

/// The encoder, with what it has said so far.
#[derive(Default)]
pub struct Timeline {
    /// Ids of names already told: events, then numbers of records.
    event_names: HashMap<String, u64>,
    number_names: HashMap<&'static str, u64>,
    /// Slices that are open, by track.
    open: Vec<Vec<(Id, u8)>>,
}

impl Timeline {
    /// The first packets: what the tracks are called.
    pub fn start(&mut self, names: &Names, title: &str, out: &mut Vec<u8>) {
        let mut root = Message::default();
        root.number(field::track::UUID, ROOT)
            .bytes(field::track::NAME, title.as_bytes())
            .number(field::track::CHILD_ORDERING, EXPLICIT);
        self.descriptor(&root, CLEARED, out);
        let tracks: Vec<(usize, u32)> = (0..names.processes.len())
            .flat_map(|source| (0..names.cpus_of(source)).map(move |cpu| (source, cpu)))
            .collect();
        self.open = vec![Vec::new(); tracks.len()];
        for (source, cpu) in tracks {
            // The CPU on top, then devices next to it; the broker is last already.
            let rank = match names.processes.get(source).map(|name| name.kind) {
                Some(Kind::Cpu) => u64::from(cpu),
                _ => source as u64 + u64::from(names.cpus),
            };
            let mut track = Message::default();
            track
                .number(field::track::UUID, uuid(track_of(names, source, cpu)))
                .number(field::track::PARENT, ROOT)
                .bytes(field::track::NAME, names.thread(source, cpu).as_bytes())
                .number(field::track::RANK, rank);
            self.descriptor(&track, NEEDED, out);
        }
    }

    fn descriptor(&self, track: &Message, flags: u64, out: &mut Vec<u8>) {
        let mut packet = Message::default();
        packet
            .number(field::packet::SEQUENCE, SEQUENCE)
            .number(field::packet::FLAGS, flags)
            .bytes(field::packet::TRACK_DESCRIPTOR, &track.0);
        append(&packet, out);
    }

    /// A record of process `source`.
    pub fn record(&mut self, names: &Names, source: usize, record: &Record, out: &mut Vec<u8>) {
        let Some(event) = EVENTS.get(record.event) else { return };
        let key = (record.event, record.device);
        let track = track_of(names, source, names.cpu(source, record));
        let is_open = self.open.get(track).is_some_and(|open| open.contains(&key));
        if is_open {
            // The end of it, or a successor's new beginning: what is inside ends as well.
            self.close(names, track, key, record, out);
        }
        if record.end {
            return;
        }
        let kind = if event.end.is_some() { SLICE_BEGIN } else { INSTANT };
        if kind == SLICE_BEGIN
            && let Some(open) = self.open.get_mut(track)
        {
            open.push(key);
        }
        let mut interned = Message::default();
        let name = text::name(names, source, event, record.device);
        let mut body = self.event(track, kind);
        body.number(field::event::NAME_ID, self.name_id(name, &mut interned));
        self.numbers(names, event.begin.fields, record, &mut body, &mut interned);
        if let Some(flow) = flow(names, source, event.crossing, record) {
            body.fixed(field::event::FLOW, flow);
        }
        emit(names, record.time, &body, &interned, out);
    }

    /// Records of a process are lost: what was open may have ended long ago.
    pub fn lost(&mut self, names: &Names, source: usize, time: u64, count: u64, out: &mut Vec<u8>) {
        self.close_all(names, source, time, out);
        let mut interned = Message::default();
        let mut body = self.event(source, INSTANT);
        body.number(field::event::NAME_ID, self.name_id("lost records".to_owned(), &mut interned));
        let told = Record { time, event: 0, end: false, device: 0, cpu: 0, args: [count, 0, 0, 0] };
        self.numbers(names, &[("count", Show::Dec)], &told, &mut body, &mut interned);
        emit(names, time, &body, &interned, out);
    }

    /// A process has died.
    pub fn close_all(&mut self, names: &Names, source: usize, time: u64, out: &mut Vec<u8>) {
        for track in (0..names.cpus_of(source)).map(|cpu| track_of(names, source, cpu)) {
            let open = self.open.get_mut(track).map(std::mem::take).unwrap_or_default();
            for _ in open {
                emit(names, time, &self.event(track, SLICE_END), &Message::default(), out);
            }
        }
    }

    fn close(&mut self, names: &Names, track: usize, key: (Id, u8), record: &Record, out: &mut Vec<u8>) {
        while let Some(top) = self.open.get_mut(track).and_then(Vec::pop) {
            let mut interned = Message::default();
            let mut body = self.event(track, SLICE_END);
            if top == key && record.end {
                let fields = EVENTS.get(key.0).and_then(|event| event.end).map_or(&[][..], |end| end.fields);
                self.numbers(names, fields, record, &mut body, &mut interned);
            }
            emit(names, record.time, &body, &interned, out);
            if top == key {
                break;
            }
        }
    }

    fn event(&self, track: usize, kind: u64) -> Message {
        let mut body = Message::default();
        body.number(field::event::TYPE, kind).number(field::event::TRACK, uuid(track));
        body
    }

    fn name_id(&mut self, name: String, interned: &mut Message) -> u64 {
        let next = self.event_names.len() as u64 + 1;
        *self.event_names.entry(name).or_insert_with_key(|name| {
            let mut entry = Message::default();
            entry.number(field::interned::ID, next).bytes(field::interned::NAME, name.as_bytes());
            interned.bytes(field::interned::EVENT_NAME, &entry.0);
            next
        })
    }

    fn numbers(
        &mut self,
        names: &Names,
        fields: &[(&'static str, Show)],
        record: &Record,
        body: &mut Message,
        interned: &mut Message,
    ) {
        for ((name, show), value) in fields.iter().zip(record.args) {
            let next = self.number_names.len() as u64 + 1;
            let id = *self.number_names.entry(name).or_insert_with(|| {
                let mut entry = Message::default();
                entry.number(field::interned::ID, next).bytes(field::interned::NAME, name.as_bytes());
                interned.bytes(field::interned::ANNOTATION_NAME, &entry.0);
                next
            });
            let mut annotation = Message::default();
            annotation.number(field::annotation::NAME_ID, id);
            if *show == Show::Dec {
                annotation.number(field::annotation::UINT, value);
            } else {
                let mut shown = String::new();
                text::show(&mut shown, names, *show, value);
                annotation.bytes(field::annotation::STRING, shown.as_bytes());
            }
            body.bytes(field::event::ANNOTATION, &annotation.0);
        }
    }
}

/// Tracks: one a process, then those of the vCPUs behind the first.
fn track_of(names: &Names, source: usize, cpu: u32) -> usize {
    match cpu {
        0 => source,
        _ => names.processes.len() + cpu as usize - 1,
    }
}

fn uuid(track: usize) -> u64 {
    ROOT + 1 + track as u64
}

fn append(packet: &Message, out: &mut Vec<u8>) {
    let mut framed = Message(std::mem::take(out));
    framed.bytes(field::TRACE_PACKET, &packet.0);
    *out = framed.0;
}

fn emit(names: &Names, time: u64, body: &Message, interned: &Message, out: &mut Vec<u8>) {
    let mut packet = Message::default();
    packet
        .number(field::packet::TIMESTAMP, time.saturating_sub(names.start))
        .number(field::packet::SEQUENCE, SEQUENCE)
        .number(field::packet::FLAGS, NEEDED);
    if !interned.0.is_empty() {
        packet.bytes(field::packet::INTERNED, &interned.0);
    }
    packet.bytes(field::packet::TRACK_EVENT, &body.0);
    append(&packet, out);
}

/// Number of the arrow that a record is an end of. A process can name arrows of its own device or drive only.
fn flow(names: &Names, source: usize, crossing: Crossing, record: &Record) -> Option<u64> {
    let kind = names.processes.get(source)?.kind;
    let device = match kind {
        Kind::Cpu => u64::from(record.device),
        Kind::Device(device) | Kind::Block(device, _) => u64::from(device) & 0xff,
        Kind::Char | Kind::Broker => 0,
    };
    let [first, second, third, _] = record.args;
    let number =
        |class: u64, owner: u64, number: u64| Some(class << 60 | owner << 48 | number & ((1 << 48) - 1));
    let drive = |class: u64| {
        let (drive, sequence) = match kind {
            Kind::Block(_, drive) => (drive.into(), first),
            _ => (first, second),
        };
        number(class, device | (drive & 0xf) << 8, sequence)
    };
    match crossing {
        Crossing::None => None,
        Crossing::Request => number(1, device, first & 0xffff_ffff),
        // Line, level, edges.
        Crossing::Line => number(2, device, (first & 0xff) << 40 | (third & 0xffff_ffff) << 1 | second & 1),
        Crossing::Block => drive(3),
        Crossing::BlockDone => drive(4),
    }
}

#[cfg(test)]
mod tests;
