//! What the encoder writes, read back.

use bulkhead_bus::trace::{events, place};
use bulkhead_tests::perfetto::{self, Slice};

use super::super::Name;
use super::*;

fn names() -> Names {
    let name = |process: &str, kind| Name {
        process: process.to_owned(),
        scope: process.trim_start_matches("bh-").to_owned(),
        kind,
    };
    Names {
        processes: vec![
            name("bh-ide0", Kind::Device(0)),
            name("bh-rtc", Kind::Device(1)),
            name("bh-block-hda", Kind::Block(0, 0)),
            name("bh-block-hdc", Kind::Block(0, 1)),
            name("bh-cpu", Kind::Cpu),
            name("broker", Kind::Broker),
        ],
        devices: vec!["ide0".to_owned(), "rtc".to_owned()],
        cpus: 1,
        start: 100,
    }
}

const IDE: usize = 0;
const RTC: usize = 1;
const HDA: usize = 2;
const HDC: usize = 3;
const CPU: usize = 4;

/// A timeline under test with its clock.
struct Test {
    names: Names,
    timeline: Timeline,
    out: Vec<u8>,
    now: u64,
}

impl Test {
    fn new() -> Test {
        Test::with_cpus(1)
    }

    fn with_cpus(cpus: u32) -> Test {
        let names = Names { cpus, ..names() };
        let mut test = Test { names, timeline: Timeline::default(), out: Vec::new(), now: 100 };
        test.timeline.start(&test.names, "vm", &mut test.out);
        test
    }

    fn put(&mut self, source: usize, event: Id, end: bool, args: [u64; 4]) {
        self.put_for(source, event, end, args, u8::MAX);
    }

    fn put_for(&mut self, source: usize, event: Id, end: bool, args: [u64; 4], device: u8) {
        self.put_on(0, source, event, end, args, device);
    }

    fn put_on(&mut self, cpu: u32, source: usize, event: Id, end: bool, args: [u64; 4], device: u8) {
        self.now += 10;
        let record = Record { time: self.now, event, end, device, cpu, args };
        self.timeline.record(&self.names, source, &record, &mut self.out);
    }

    fn slices(&self) -> Vec<Slice> {
        let events = perfetto::parse(&self.out).expect("a Perfetto trace");
        perfetto::slices(&events).expect("slices that nest")
    }
}

#[track_caller]
fn one<'a>(slices: &'a [Slice], name: &str) -> &'a Slice {
    let found: Vec<&Slice> = slices.iter().filter(|slice| slice.event.name == name).collect();
    assert_eq!(found.len(), 1, "{name}: {slices:#?}");
    found[0]
}

#[test]
fn an_access_crosses_to_its_device_and_the_interrupt_comes_back() {
    let mut test = Test::new();
    let register = place(0, 0, 7, 0);
    test.put_for(CPU, events::CPU_READ, false, [17, register, 0, 0], 0);
    test.put(IDE, events::REQUEST, false, [17, place(1, 0, 7, 0), 0, 0]);
    test.put(IDE, events::REQUEST, true, [17, 0x50, 0, 0]);
    test.put(IDE, events::LINE, false, [0, 1, 5, 0]);
    test.put_for(CPU, events::CPU_READ, true, [17, 0x50, 0, 0], 0);
    test.put_for(CPU, events::CPU_LINE, false, [0, 1, 5, 0], 0);
    // The same request number of another device, and another edge, are other arrows.
    test.put(RTC, events::REQUEST, false, [17, 0, 0, 0]);
    test.put(RTC, events::LINE, false, [0, 1, 5, 0]);
    let slices = test.slices();
    let (read, request) = (one(&slices, "ide0.cpu_read"), one(&slices, "ide0.request"));
    assert_eq!((read.event.track.as_str(), request.event.track.as_str()), ("bh-cpu", "bh-ide0"));
    assert_eq!((read.event.time, read.end), (10, Some(50)));
    assert_eq!((request.event.time, request.end), (20, Some(30)));
    assert_eq!(read.event.flows, request.event.flows);
    assert_eq!(read.event.arg("register"), Some("region 0 offset 0x7 size 1"));
    assert_eq!((request.event.arg("request"), request.event.arg("response")), (Some("17"), Some("0x50")));
    let (line, seen) = (one(&slices, "ide0.line"), one(&slices, "ide0.cpu_line"));
    assert_eq!((line.event.flows.len(), &line.event.flows), (1, &seen.event.flows));
    for other in ["rtc.request", "rtc.line"] {
        let flows = &one(&slices, other).event.flows;
        assert!(flows.len() == 1 && *flows != request.event.flows && *flows != line.event.flows);
    }
}

#[test]
fn block_requests_cross_to_the_drive_they_name() {
    let mut test = Test::new();
    test.put(IDE, events::BLOCK_SUBMIT, false, [1, 9, 0, 512 << 8 | 1]);
    test.put(HDC, events::BLOCK_RUN, false, [9, 0, 512 << 8 | 1, 0]);
    test.put(HDC, events::BLOCK_RUN, true, [9, 0, 0, 0]);
    test.put(HDC, events::BLOCK_COMPLETE, false, [9, 0, 0, 0]);
    test.put(IDE, events::BLOCK_DONE, false, [1, 9, 0, 0]);
    test.put(HDA, events::BLOCK_RUN, false, [9, 0, 0, 0]);
    let slices = test.slices();
    let flows = |name: &str| one(&slices, name).event.flows.clone();
    assert_eq!(flows("ide0.block_submit"), flows("block-hdc.block_run"));
    assert_eq!(flows("block-hdc.block_complete"), flows("ide0.block_done"));
    assert_ne!(flows("ide0.block_submit"), flows("ide0.block_done"));
    assert_ne!(flows("block-hda.block_run"), flows("block-hdc.block_run"));
    assert_eq!(one(&slices, "block-hdc.block_run").event.arg("operation"), Some("read 512 bytes"));
}

#[test]
fn a_device_draws_no_arrows_of_drives_that_are_not_its_own() {
    let mut test = Test::new();
    for drive in [0, 1, 1 << 8, u64::MAX] {
        test.put(RTC, events::BLOCK_SUBMIT, false, [drive, 9, 0, 0]);
        test.put(RTC, events::BLOCK_DONE, false, [drive, 9, 0, 0]);
    }
    for drive in [HDA, HDC] {
        test.put(drive, events::BLOCK_RUN, false, [9, 0, 0, 0]);
        test.put(drive, events::BLOCK_COMPLETE, false, [9, 0, 0, 0]);
    }
    let slices = test.slices();
    let flows = |track: &str| -> Vec<u64> {
        slices
            .iter()
            .filter(|slice| slice.event.track == track)
            .flat_map(|slice| slice.event.flows.clone())
            .collect()
    };
    let (claimed, real) = (flows("bh-rtc"), [flows("bh-block-hda"), flows("bh-block-hdc")].concat());
    assert_eq!((claimed.len(), real.len()), (8, 4));
    assert!(claimed.iter().all(|flow| !real.contains(flow)), "{claimed:x?} {real:x?}");
}

#[test]
fn the_drives_of_a_machine_are_those_of_its_ide_controller() {
    let opened = super::super::open(&bulkhead_config::Trace::default()).expect("nothing to open");
    let mut tracing = super::super::Tracing::new(opened, vec!["rtc".to_owned(), "ide0".to_owned()], 1);
    for (process, role, source) in [
        ("bh-rtc", "rtc", 0),
        ("bh-ide0", "ide", 1),
        ("bh-block-hda", "block", 0),
        ("bh-block-hdc", "block", 0),
    ] {
        tracing.add(process, role, source).expect("a trace file");
    }
    let kinds: Vec<Kind> = tracing.panels().map(|(_, kind, _)| kind).collect();
    assert_eq!(kinds, [Kind::Device(0), Kind::Device(1), Kind::Block(1, 0), Kind::Block(1, 1)]);
}

#[test]
fn virtual_cpus_have_tracks_of_their_own() {
    let mut test = Test::with_cpus(2);
    // The second one's access begins within the first one's, and ends behind it.
    test.put_on(0, CPU, events::CPU_READ, false, [17, 0, 0, 0], 0);
    test.put_on(1, CPU, events::CPU_READ, false, [5, 0, 0, 0], 1);
    test.put_on(0, CPU, events::CPU_READ, true, [17, 0x50, 0, 0], 0);
    test.put_on(1, CPU, events::CPU_READ, true, [5, 0x26, 0, 0], 1);
    // Both sleep, and the first one wakes first.
    for (cpu, end) in [(0, false), (1, false), (0, true), (1, true)] {
        test.put_on(cpu, CPU, events::HALT, end, [0; 4], u8::MAX);
    }
    let slices = test.slices();
    let (first, second) = (one(&slices, "ide0.cpu_read"), one(&slices, "rtc.cpu_read"));
    assert_eq!((first.event.track.as_str(), first.end), ("bh-cpu/0", Some(30)));
    assert_eq!((second.event.track.as_str(), second.end), ("bh-cpu/1", Some(40)));
    assert_eq!((first.event.arg("value"), second.event.arg("value")), (Some("0x50"), Some("0x26")));
    let halts: Vec<_> = slices
        .iter()
        .filter(|slice| slice.event.name == "cpu.halt")
        .map(|slice| (slice.event.track.as_str(), slice.event.time, slice.end))
        .collect();
    assert_eq!(halts, [("bh-cpu/0", 50, Some(70)), ("bh-cpu/1", 60, Some(80))]);
}

#[test]
fn whatever_is_open_on_any_virtual_cpu_ends_where_records_are_lost() {
    let mut test = Test::with_cpus(3);
    // The last claims a number that no vCPU has.
    for cpu in [0, 1, u32::MAX] {
        test.put_on(cpu, CPU, events::HALT, false, [0; 4], u8::MAX);
    }
    // Only the CPU process has vCPUs.
    test.put_on(2, IDE, events::LINK, false, [0; 4], u8::MAX);
    test.timeline.lost(&test.names, CPU, test.now + 5, 7, &mut test.out);
    let slices = test.slices();
    let open: Vec<&str> =
        slices.iter().filter(|slice| slice.end.is_none()).map(|slice| slice.event.track.as_str()).collect();
    assert_eq!(open, ["bh-ide0"], "{slices:#?}");
    assert!(slices.iter().any(|slice| slice.event.track == "bh-cpu/2"), "{slices:#?}");
}

#[test]
fn what_a_dead_process_left_open_ends_and_its_successor_begins_anew() {
    let mut test = Test::new();
    test.put(IDE, events::REQUEST, false, [1, 0, 0, 0]);
    test.put(IDE, events::TIMER, false, [0; 4]);
    let now = test.now + 5;
    test.timeline.close_all(&test.names, IDE, now, &mut test.out);
    test.put(IDE, events::REQUEST, false, [1, 0, 0, 0]);
    // Without a word of the death, too.
    test.put(IDE, events::LINK, false, [0; 4]);
    test.put(IDE, events::REQUEST, false, [1, 0, 0, 0]);
    test.put(IDE, events::REQUEST, true, [1, 0, 0, 0]);
    // An end that nothing began is nothing.
    test.put(IDE, events::CONTROL, true, [0; 4]);
    test.timeline.lost(&test.names, IDE, test.now + 5, 7, &mut test.out);
    let slices = test.slices();
    assert!(slices.iter().all(|slice| slice.end.is_some()), "{slices:#?}");
    let requests: Vec<_> = slices.iter().filter(|slice| slice.event.name == "ide0.request").collect();
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|slice| slice.event.flows == requests[0].event.flows));
    let lost = one(&slices, "lost records");
    assert_eq!((lost.event.track.as_str(), lost.event.arg("count")), ("bh-ide0", Some("7")));
}

#[test]
fn whatever_a_hostile_process_records_the_file_stays_readable() {
    let mut test = Test::with_cpus(2);
    let mut seed = 7u64;
    let mut random = || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        seed >> 20 ^ seed << 40
    };
    for _ in 0..5000 {
        let event = random() as usize % EVENTS.len();
        let end = random() % 2 == 0 && EVENTS[event].end.is_some();
        let args = [random(), random(), random(), random()];
        test.put_on(random() as u32, random() as usize % 6, event, end, args, random() as u8);
    }
    assert!(test.slices().len() > 1000);
}
