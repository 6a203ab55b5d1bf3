//! Records as text: one line each.

use std::fmt::Write;

use bulkhead_bus::device::kind;
use bulkhead_bus::trace::{EVENTS, Event, Record, Scope, Show};

use super::Names;

/// `ide0.request`: the event of a record of process `source`.
pub fn name(names: &Names, source: usize, event: &Event, device: u8) -> String {
    let scope = match event.scope {
        Scope::CpuForDevice => names.devices.get(usize::from(device)).map(String::as_str),
        _ => names.processes.get(source).map(|name| name.scope.as_str()),
    };
    format!("{}.{}", scope.unwrap_or("?"), event.name)
}

/// Appends a number as its kind is shown.
pub fn show(out: &mut String, names: &Names, show: Show, value: u64) {
    let _ = match show {
        Show::Dec => write!(out, "{value}"),
        Show::Hex => write!(out, "{value:#x}"),
        Show::Device => match names.devices.get(value as usize) {
            Some(name) => write!(out, "{name}"),
            None => write!(out, "device {value}"),
        },
        Show::Place => place(out, value),
        Show::Request => {
            let kind = match (value >> 56) as u8 {
                kind::READ => "read",
                kind::WRITE => "posted write",
                kind::WRITE_SYNC => "write",
                kind::READ_BLOCK => "block read",
                kind::WRITE_BLOCK => "block write",
                kind::RESET => {
                    out.push_str("reset");
                    return;
                }
                kind::TIMER => {
                    out.push_str("timer");
                    return;
                }
                _ => "unknown",
            };
            let _ = write!(out, "{kind} ");
            place(out, value)
        }
        Show::Block => {
            let bytes = value >> 8;
            match value as u8 {
                1 => write!(out, "read {bytes} bytes"),
                2 => write!(out, "write {bytes} bytes"),
                3 => write!(out, "flush"),
                4 => write!(out, "discard {bytes} bytes"),
                other => write!(out, "operation {other}"),
            }
        }
        Show::Status => match value {
            0 => write!(out, "ok"),
            1 => write!(out, "failed"),
            2 => write!(out, "beyond the end"),
            3 => write!(out, "read-only"),
            4 => write!(out, "no medium"),
            other => write!(out, "status {other}"),
        },
        Show::Process => match names.processes.get(value as usize) {
            Some(name) => write!(out, "{}", name.process),
            None => write!(out, "process {value}"),
        },
        Show::Class => match value {
            1 => write!(out, "posted"),
            2 => write!(out, "kick"),
            _ => write!(out, "sync"),
        },
        Show::Space => write!(out, "{}", if value == 0 { "port" } else { "memory" }),
    };
}

fn place(out: &mut String, value: u64) -> std::fmt::Result {
    let (region, size) = ((value >> 48) as u8, 1u32 << ((value >> 40) as u8 & 3));
    write!(out, "region {region} offset {:#x} size {size}", value as u32)
}

/// Appends the line of a record: process and vCPU, seconds since the start, event, begin or end, text.
pub fn line(out: &mut String, names: &Names, source: usize, record: &Record) {
    let Some(event) = EVENTS.get(record.event) else { return };
    head(out, names, &names.thread(source, names.cpu(source, record)), record.time);
    out.push_str(&name(names, source, event, record.device));
    let line = match (event.end, record.end) {
        (Some(end), true) => {
            out.push_str(" end");
            end
        }
        (Some(_), false) => {
            out.push_str(" begin");
            event.begin
        }
        (None, _) => event.begin,
    };
    let mut numbers = line.fields.iter().zip(record.args);
    if !line.format.is_empty() {
        out.push(' ');
    }
    for (at, part) in line.format.split("{}").enumerate() {
        if at > 0
            && let Some(((_, kind), value)) = numbers.next()
        {
            show(out, names, *kind, value);
        }
        out.push_str(part);
    }
    out.push('\n');
}

/// Appends the line that tells of lost records.
pub fn lost(out: &mut String, names: &Names, source: usize, time: u64, count: u64) {
    // All vCPUs share the ring of their process.
    head(out, names, names.processes.get(source).map_or("?", |name| name.process.as_str()), time);
    let _ = writeln!(out, "lost {count} records: the ring was full or garbled");
}

fn head(out: &mut String, names: &Names, who: &str, time: u64) {
    let time = time.saturating_sub(names.start);
    let _ = write!(out, "{who}@{}.{:09}:", time / 1_000_000_000, time % 1_000_000_000);
}

#[cfg(test)]
mod tests {
    use bulkhead_bus::trace::{events, place};

    use super::super::{Kind, Name};
    use super::*;

    fn names() -> Names {
        let name = |process: &str, kind| Name {
            process: process.to_owned(),
            scope: process.trim_start_matches("bh-").to_owned(),
            kind,
        };
        Names {
            processes: vec![name("bh-ide0", Kind::Device(0)), name("bh-cpu", Kind::Cpu)],
            devices: vec!["ide0".to_owned()],
            cpus: 1,
            start: 1_000,
        }
    }

    fn text(source: usize, event: usize, end: bool, args: [u64; 4]) -> String {
        let mut out = String::new();
        let record = Record { time: 1_000_002_034, event, end, device: 0, cpu: 1, args };
        line(&mut out, &names(), source, &record);
        out
    }

    #[test]
    fn lines_tell_the_virtual_cpu_where_there_are_several() {
        let names = Names { cpus: 2, ..names() };
        let text = |source, event, cpu| {
            let mut out = String::new();
            let record = Record { time: 1_000, event, end: false, device: 0, cpu, args: [0; 4] };
            line(&mut out, &names, source, &record);
            out
        };
        assert_eq!(text(1, events::HALT, 0), "bh-cpu/0@0.000000000:cpu.halt begin\n");
        assert_eq!(text(1, events::CPU_RESET, 1), "bh-cpu/1@0.000000000:ide0.cpu_reset begin request 0\n");
        // A number that no vCPU has, and what only the CPU process has.
        assert_eq!(text(1, events::HALT, u32::MAX), "bh-cpu/1@0.000000000:cpu.halt begin\n");
        assert_eq!(text(0, events::LINK, 1), "bh-ide0@0.000000000:ide0.link begin\n");
        let mut out = String::new();
        lost(&mut out, &names, 1, 1_000, 3);
        assert!(out.starts_with("bh-cpu@"), "they share a ring: {out}");
    }

    #[test]
    fn lines_name_process_time_event_and_every_number() {
        let args = [17, place(0, 1, 7, 0), 0, 0];
        assert_eq!(
            text(1, events::CPU_READ, false, args),
            "bh-cpu@1.000001034:ide0.cpu_read begin request 17 region 1 offset 0x7 size 1\n"
        );
        assert_eq!(
            text(1, events::CPU_READ, true, [17, 0x50, 0, 0]),
            "bh-cpu@1.000001034:ide0.cpu_read end request 17 value 0x50\n"
        );
        let args = [17, place(kind::READ, 1, 7, 0), 0, 0];
        assert_eq!(
            text(0, events::REQUEST, false, args),
            "bh-ide0@1.000001034:ide0.request begin request 17 read region 1 offset 0x7 size 1 value 0x0\n"
        );
        assert_eq!(text(1, events::HALT, false, [0; 4]), "bh-cpu@1.000001034:cpu.halt begin\n");
        assert_eq!(
            text(0, events::BLOCK_SUBMIT, false, [0, 5, 4096, 512 << 8 | 1]),
            "bh-ide0@1.000001034:ide0.block_submit drive 0 sequence 5 offset 4096 read 512 bytes\n"
        );
    }

    #[test]
    fn no_number_of_a_hostile_process_breaks_a_line() {
        for event in 0..EVENTS.len() {
            for value in [0, u64::MAX, 0x8000_0000_0000_00ff] {
                for end in [false, true] {
                    let text = text(7, event, end, [value; 4]);
                    assert_eq!(text.matches('\n').count(), 1);
                    assert!(text.bytes().all(|byte| byte == b'\n' || !byte.is_ascii_control()));
                }
            }
        }
    }
}
