//! Order, loss and the end of files.

use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use bulkhead_bus::sys::Mapping;
use bulkhead_bus::trace::{Panel, RECORDS, TRACE_BYTES, Tracer};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::super::{Kind, Name};
use super::*;

/// A process's ring and the broker's ends of it.
struct Ring {
    file: OwnedFd,
}

impl Ring {
    fn new() -> Ring {
        Ring { file: bulkhead_bus::sys::memfd("trace", TRACE_BYTES as u64).expect("memfd") }
    }

    fn map(&self) -> Mapping {
        Mapping::shared(self.file.as_fd(), TRACE_BYTES, true).expect("mapping")
    }

    /// The process's end with everything on.
    fn tracer(&self) -> Tracer {
        let panel = Panel::new(Arc::new(self.map()));
        (0..EVENTS.len()).for_each(|event| {
            panel.set(None, event, true);
            panel.set(Some(0), event, true);
        });
        Tracer::new(self.map())
    }

    fn reader(&self) -> Reader {
        Reader::new(Arc::new(self.map()))
    }
}

fn names() -> Names {
    let name = |process: &str, scope: &str, kind| Name { process: process.into(), scope: scope.into(), kind };
    Names {
        processes: vec![name("bh-ide0", "ide0", Kind::Device(0)), name("bh-cpu", "cpu", Kind::Cpu)],
        devices: vec!["ide0".to_owned()],
        cpus: 1,
        start: monotonic_ns(),
    }
}

/// A file that goes away by itself, and a second descriptor of it.
fn file() -> (File, File) {
    let file = File::from(memfd_create("output", MFdFlags::MFD_CLOEXEC).expect("memfd"));
    let other = file.try_clone().expect("descriptor");
    (file, other)
}

fn text(mut file: File) -> String {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).expect("seek");
    file.read_to_string(&mut text).expect("text");
    text
}

/// Lines without their times.
fn events_of(text: &str) -> Vec<String> {
    let short = |line: &str| {
        let (process, rest) = line.split_once('@').expect("a process");
        format!("{process} {}", rest.split_once(':').expect("a time").1)
    };
    text.lines().map(short).collect()
}

#[test]
fn records_of_several_processes_come_out_in_the_order_they_happened() {
    let (ide, cpu) = (Ring::new(), Ring::new());
    let names = names();
    let (out, text_file) = file();
    let (ide_log, ide_text) = file();
    let (cpu_log, cpu_text) = file();
    let mut outputs = Outputs::new(Some(out), None, true);
    outputs.logs = vec![ide_log, cpu_log];
    let writer = Writer::start(vec![ide.reader(), cpu.reader()], names, outputs).expect("thread");
    let (device, port) = (ide.tracer(), cpu.tracer().for_device(0));
    for number in 0..2000 {
        port.begin(events::CPU_READ, || [number, 0, 0, 0]);
        device.begin(events::REQUEST, || [number, 1 << 56, 0, 0]);
        device.end(events::REQUEST, || [number, 9, 0, 0]);
        port.end(events::CPU_READ, || [number, 9, 0, 0]);
    }
    writer.finish();
    let all = text(text_file);
    let lines = events_of(&all);
    assert_eq!(lines.len(), 8000);
    for (number, part) in lines.chunks(4).enumerate() {
        assert_eq!(
            part[0],
            format!("bh-cpu ide0.cpu_read begin request {number} region 0 offset 0x0 size 1")
        );
        assert!(
            part[1].starts_with(&format!("bh-ide0 ide0.request begin request {number} read ")),
            "{part:?}"
        );
        assert_eq!(part[2], format!("bh-ide0 ide0.request end request {number} response 0x9"));
        assert_eq!(part[3], format!("bh-cpu ide0.cpu_read end request {number} value 0x9"));
    }
    let (ide_text, cpu_text) = (text(ide_text), text(cpu_text));
    assert!(ide_text.lines().count() == 4000 && ide_text.lines().all(|line| line.starts_with("bh-ide0@")));
    assert!(cpu_text.lines().count() == 4000 && cpu_text.lines().all(|line| line.starts_with("bh-cpu@")));
}

#[test]
fn a_full_ring_is_told_of_where_the_loss_was() {
    let (ide, cpu) = (Ring::new(), Ring::new());
    let device = ide.tracer();
    let (names, (out, file)) = (names(), file());
    // Nobody reads yet.
    for number in 0..RECORDS + 3 {
        device.begin(events::DMA_READ, || [number, 1, 0, 0]);
    }
    let writer = Writer::start(vec![ide.reader(), cpu.reader()], names, Outputs::new(Some(out), None, false));
    writer.expect("thread").finish();
    let all = text(file);
    let lines = events_of(&all);
    let lost: u64 = lines
        .iter()
        .filter_map(|line| line.strip_prefix("bh-ide0 lost ")?.split(' ').next()?.parse::<u64>().ok())
        .sum();
    assert_eq!(lost, 3);
    let last = format!("bh-ide0 ide0.dma_read address {:#x} bytes 1", RECORDS - 1);
    let at = lines.iter().position(|line| *line == last).expect("the last record that fitted");
    assert!(lines[at + 1].starts_with("bh-ide0 lost "), "{:?}", &lines[at..]);
}

#[test]
fn events_of_another_kind_of_process_are_not_believed() {
    let (ide, cpu) = (Ring::new(), Ring::new());
    let (names, (out, file)) = (names(), file());
    let device = ide.tracer();
    device.begin(events::INTERRUPT, || [1; 4]);
    device.begin(events::PROCESS_END, || [1; 4]);
    device.begin(events::DMA_READ, || [1, 2, 0, 0]);
    let outputs = Outputs::new(Some(out), None, false);
    Writer::start(vec![ide.reader(), cpu.reader()], names, outputs).expect("thread").finish();
    let lines = text(file);
    let lines = events_of(&lines);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with("bh-ide0 ide0.dma_read") && lines[1].starts_with("bh-ide0 lost 2 records"));
}

#[test]
fn nothing_is_written_while_nothing_is_on_and_all_of_it_when_a_switch_goes_off() {
    let (ide, cpu) = (Ring::new(), Ring::new());
    let device = ide.tracer();
    let (names, (out, mut file)) = (names(), file());
    let outputs = Outputs::new(Some(out), None, false);
    let writer = Writer::start(vec![ide.reader(), cpu.reader()], names, outputs).expect("thread");
    device.begin(events::DMA_READ, || [1, 2, 0, 0]);
    writer.set_active(false);
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while file.seek(SeekFrom::End(0)).expect("seek") == 0 {
        assert!(std::time::Instant::now() < end, "nothing is written");
        std::thread::sleep(Duration::from_millis(1));
    }
    writer.finish();
    assert_eq!(text(file).lines().count(), 1);
}

/// Set for the program that the next test starts: itself.
const INSIDE: &str = "BULKHEAD_TEST_STANDARD_ERROR";

#[test]
fn a_reader_of_standard_error_who_stops_does_not_stop_who_else_has_something_to_say() {
    if std::env::var_os(INSIDE).is_some() {
        // More than is ever read, while the other thread tries again and again.
        std::thread::spawn(|| Sink::new("file", Place::Terminal).push(&vec![b'x'; 16 * PIECE]));
        let end = std::time::Instant::now() + Duration::from_millis(500);
        while std::time::Instant::now() < end {
            fail::tell(format_args!("something else"));
        }
        std::process::exit(0);
    }
    let name = "trace::writer::tests::a_reader_of_standard_error_who_stops_does_not_stop_who_else_has_something_to_say";
    let mut child = std::process::Command::new(std::env::current_exe().expect("path of the test"))
        .args([name, "--exact"])
        .env(INSIDE, "1")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("starts");
    let mut reader = child.stderr.take().expect("a pipe");
    // What is read is room for both.
    let mut some = vec![0; 64 << 10];
    for _ in 0..40 {
        let _ = reader.read(&mut some).expect("what they say");
        std::thread::sleep(Duration::from_millis(5));
    }
    let end = std::time::Instant::now() + Duration::from_secs(20);
    let status = loop {
        match child.try_wait().expect("a child") {
            None if std::time::Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
            status => break status,
        }
    };
    let _ = child.kill();
    let _ = child.wait();
    assert!(status.is_some_and(|status| status.success()), "it waits for the reader: {status:?}");
}
