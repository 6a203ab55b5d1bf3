//! Tracing as a user meets it: what several processes record comes out in the order it happened, as text and as a timeline,
//! across the death of a device, switched from the command line and the monitor.

use std::time::{Duration, Instant};

use bulkhead_tests::code::Code;
use bulkhead_tests::perfetto::{self, Slice};
use bulkhead_tests::{Monitor, Scratch, Vm};

const PROGRAM: &str = "qemu-system-x86_64";

fn machine(scratch: &Scratch, code: &Code, more: &[&str]) -> Vm {
    let bios = scratch.file("code.rom");
    std::fs::write(&bios, code.firmware(0x1_0000)).expect("firmware");
    let mut args = vec!["-nographic", "-vga", "none", "-serial", "null", "-bios", &bios];
    args.extend(more);
    Vm::start(PROGRAM, &args)
}

/// Lets the serial port interrupt once, reads why, and ends the machine.
fn interrupt() -> Code {
    // jmp over the handler
    Code::new()
        .bytes(&[0xeb, 0x09])
        // At F000:0002: mov dx, 0x3fa; in al, dx; mov al, 0x20; out 0x20, al; iret
        .bytes(&[0xba, 0xfa, 0x03, 0xec, 0xb0, 0x20, 0xe6, 0x20, 0xcf])
        // cli; interrupt controller: vectors from 8 on, only IRQ 4
        .bytes(&[0xfa])
        .out(0x20, 0x11)
        .out(0x21, 0x08)
        .out(0x21, 0x04)
        .out(0x21, 0x01)
        .out(0x21, 0xef)
        // xor ax, ax; mov ds, ax; mov ss, ax; mov sp, 0x1000
        .bytes(&[0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x10])
        // mov word [0x30], 2; mov word [0x32], 0xf000
        .bytes(&[0xc7, 0x06, 0x30, 0x00, 0x02, 0x00, 0xc7, 0x06, 0x32, 0x00, 0x00, 0xf0])
        .out(0x3fc, 0x0b)
        .out(0x3f9, 0x02)
        // sti; hlt
        .bytes(&[0xfb, 0xf4])
        .out(0x501, 0)
        .sleep()
}

/// Lines without their times, which go on.
fn events(text: &str) -> Vec<String> {
    let mut last = 0.0;
    let short = |line: &str| {
        let (process, rest) = line.split_once('@').expect("a process");
        let (time, event) = rest.split_once(':').expect("a time");
        let time: f64 = time.parse().expect("seconds");
        assert!(time >= last, "time goes back: {line}");
        last = time;
        format!("{process} {event}")
    };
    text.lines().map(short).collect()
}

#[test]
fn an_access_and_its_interrupt_appear_in_order_across_processes() {
    let scratch = Scratch::new("trace-order");
    let (log, timeline, logs) = (scratch.file("text"), scratch.file("timeline"), scratch.file("logs"));
    let list = scratch.file("list");
    std::fs::write(&list, "# of the serial port\nserial0.*\n\n-serial0.link\n").expect("list");
    let exit = "isa-debug-exit,iobase=0x501,iosize=1";
    let events_file = format!("events={list},file={log}");
    let patterns = format!("cpu.interrupt,timeline={timeline},logs={logs}");
    let args = ["-monitor", "none", "-device", exit, "-trace", &events_file, "-trace", &patterns];
    let mut vm = machine(&scratch, &interrupt(), &args);
    assert_eq!(vm.wait(60).code(), Some(1), "{}", vm.errors());

    let text = std::fs::read_to_string(&log).expect("log");
    let lines = events(&text);
    let wanted = [
        "bh-cpu serial0.cpu_write begin request 1 region 0 offset 0x1 size 1 value 0x2 sync",
        "bh-serial0 serial0.request begin request 1 write region 0 offset 0x1 size 1 value 0x2",
        "bh-serial0 serial0.request end request 1 response 0x0",
        "bh-serial0 serial0.line line 0 level 1 edges 1 value 0x0",
        "bh-cpu serial0.cpu_line line 0 level 1 edges 1",
        "bh-cpu cpu.interrupt vector 0xc",
        "bh-cpu serial0.cpu_read begin request 2 region 0 offset 0x2 size 1",
        "bh-serial0 serial0.request begin request 2 read region 0 offset 0x2 size 1 value 0x0",
        "bh-serial0 serial0.request end request 2 response 0x2",
        "bh-serial0 serial0.line line 0 level 0 edges 1 value 0x0",
        "bh-cpu serial0.cpu_line line 0 level 0 edges 1",
    ];
    let mut from = 0;
    for wanted in wanted {
        let at = lines.iter().skip(from).position(|line| line == wanted);
        from += at.unwrap_or_else(|| panic!("no {wanted:?} from line {from} on in:\n{text}")) + 1;
    }
    // The CPU ends an access after the device has.
    let at = |wanted: &str| lines.iter().position(|line| line == wanted).expect(wanted);
    assert!(at(wanted[2]) < at("bh-cpu serial0.cpu_write end request 1"));
    assert!(at(wanted[8]) < at("bh-cpu serial0.cpu_read end request 2 value 0x2"));
    assert!(lines.iter().all(|line| !line.contains("serial0.link") && !line.contains("cpu.halt")), "{text}");

    // Each process's own file has its part, and one that nothing of was recorded is empty.
    for (process, empty) in [("bh-cpu", false), ("bh-serial0", false), ("bh-rtc", true)] {
        let own = std::fs::read_to_string(format!("{logs}/{process}.log")).expect(process);
        let part: Vec<&str> = text.lines().filter(|line| line.starts_with(&format!("{process}@"))).collect();
        assert_eq!(own.lines().collect::<Vec<_>>(), part, "{process}");
        assert_eq!(own.is_empty(), empty, "{process}");
    }

    // The timeline: the same, with arrows between the tracks of the processes.
    let trace = perfetto::parse(&std::fs::read(&timeline).expect("timeline")).expect("a Perfetto trace");
    assert_eq!(trace.len(), lines.len());
    let slices = perfetto::slices(&trace).expect("slices that nest");
    assert!(slices.iter().all(|slice| slice.end.is_some()), "{slices:#?}");
    // Every access of this guest waits for the device, whose slice lies within the CPU's.
    for name in ["serial0.cpu_write", "serial0.cpu_read"] {
        for (access, request) in crossing(&slices, ("bh-cpu", name), ("bh-serial0", "serial0.request")) {
            assert!(request.end < access.end, "{access:?} {request:?}");
        }
    }
    let lines = crossing(&slices, ("bh-serial0", "serial0.line"), ("bh-cpu", "serial0.cpu_line"));
    assert!(lines.len() >= 2, "{slices:#?}");
}

/// What an arrow begins at and where it ends, for every `from` (track and name); each has exactly one.
fn crossing<'a>(slices: &'a [Slice], from: (&str, &str), to: (&str, &str)) -> Vec<(&'a Slice, &'a Slice)> {
    let is =
        |slice: &Slice, (track, name): (&str, &str)| slice.event.track == track && slice.event.name == name;
    let mut pairs = Vec::new();
    for start in slices.iter().filter(|slice| is(slice, from)) {
        assert_eq!(start.event.flows.len(), 1, "{start:?}");
        let ends: Vec<&Slice> =
            slices.iter().filter(|slice| is(slice, to) && slice.event.flows == start.event.flows).collect();
        let [end] = ends[..] else { panic!("{start:?} leads to {ends:?}") };
        assert!(start.event.time < end.event.time, "{start:?} {end:?}");
        pairs.push((start, end));
    }
    assert!(!pairs.is_empty(), "no {from:?}: {slices:#?}");
    pairs
}

/// Reads the clock for ever, about every millisecond.
fn clock_reader() -> Code {
    Code::new()
        .out(0x70, 0x0a)
        // again: in al, 0x71; mov cx, 0; loop itself; jmp again
        .bytes(&[0xe4, 0x71, 0xb9, 0x00, 0x00, 0xe2, 0xfe, 0xeb, 0xf7])
}

#[test]
fn the_monitor_switches_events_and_the_ring_survives_the_device() {
    let scratch = Scratch::new("trace-monitor");
    let (socket, log) = (scratch.file("monitor"), scratch.file("text"));
    let address = format!("unix:{socket},server,nowait");
    let file = format!("file={log}");
    let vm = machine(&scratch, &clock_reader(), &["-monitor", &address, "-trace", &file]);
    let mut monitor = Monitor::connect(&socket);
    assert_eq!(monitor.ask("trace-event no_such on"), "trace event 'no_such' does not exist\n");
    assert_eq!(monitor.ask("trace-event rtc.request maybe"), "on or off expected, not 'maybe'\n");
    assert_eq!(monitor.ask("info trace-events no_such"), "trace event 'no_such' does not exist\n");
    assert_eq!(monitor.ask("info trace-events rtc.req*"), "rtc.request : state 0\n");
    assert_eq!(monitor.ask("trace-event rtc.req* on"), "");
    assert_eq!(monitor.ask("trace-event process_* on"), "");
    assert_eq!(monitor.ask("info trace-events rtc.req*"), "rtc.request : state 1\n");
    assert!(monitor.ask("info trace-events").lines().count() > 50);

    let wait = |what: &str, good: &dyn Fn(&str) -> bool| {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let text = std::fs::read_to_string(&log).expect("log");
            if good(&text) {
                return text;
            }
            assert!(Instant::now() < end, "{what}: {text}\n{}", vm.errors());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    wait("requests are recorded", &|text| text.contains("rtc.request end"));
    assert_eq!(monitor.ask("device_kill rtc"), "");
    let text = wait("the successor records too", &|text| {
        text.split_once("process_ready").is_some_and(|(_, rest)| rest.contains("rtc.request end"))
    });
    let lines = events(&text[..=text.rfind('\n').unwrap_or(0)]);
    let at = |what: &str| {
        let found = lines.iter().position(|line| line.contains(what));
        found.unwrap_or_else(|| panic!("no {what}: {text}"))
    };
    let death = [
        at("broker.process_end bh-rtc"),
        at("broker.process_start bh-rtc"),
        at("broker.process_ready bh-rtc"),
    ];
    assert!(death.is_sorted(), "{text}");
    // Requests go on where they were: no number is left out, and none is lost.
    let number = |line: &String| {
        let rest = line.split_once("rtc.request end request ")?.1;
        rest.split(' ').next()?.parse::<u32>().ok()
    };
    let numbers: Vec<u32> = lines.iter().filter_map(number).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
    assert!(!text.contains("lost"), "{text}");

    assert_eq!(monitor.ask("trace-event * off"), "");
    assert!(!monitor.ask("info trace-events").contains("state 1"));
    let counters = monitor.ask("info counters");
    let rtc: Vec<&str> = counters
        .lines()
        .find(|line| line.starts_with("bh-rtc "))
        .expect(&counters)
        .split_whitespace()
        .collect();
    let head: Vec<&str> = counters.lines().next().expect("a head").split_whitespace().collect();
    let of = |name: &str| {
        let column = head.iter().position(|have| *have == name).expect(name);
        rtc[column].parse::<u64>().expect(name)
    };
    assert!(of("reads") >= numbers.len() as u64, "{counters}");
    // Of each of them a little, and of one that met the death of its device some milliseconds.
    assert!(of("waited-us") > 0, "{counters}");
    assert_eq!((of("restarts"), of("lost"), of("dma-read")), (1, 0, 0), "{counters}");
    // Writing of the clock's index is posted or not, as its class says; it happened once.
    assert_eq!(of("writes") + of("posted") + of("kicked"), 1, "{counters}");
}

#[test]
fn lines_tell_which_virtual_cpu_they_are_of_where_there_are_several() {
    let scratch = Scratch::new("trace-smp");
    let log = scratch.file("text");
    let halts = format!("cpu.halt,file={log}");
    let args = ["-monitor", "none", "-smp", "2", "-trace", &halts, "-trace", "rtc.cpu_read"];
    let vm = machine(&scratch, &clock_reader(), &args);
    let end = Instant::now() + Duration::from_secs(60);
    // The first reads the clock; the other sleeps until somebody starts it, which nobody does.
    loop {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let says = |cpu: &str, what: &str| {
            text.lines().any(|line| line.starts_with(&format!("bh-cpu/{cpu}@")) && line.contains(what))
        };
        assert!(!says("0", "cpu.halt") && !says("1", "rtc.cpu_read"), "{text}");
        if says("0", ":rtc.cpu_read end ") && says("1", ":cpu.halt begin") {
            break;
        }
        assert!(Instant::now() < end, "{text}\n{}", vm.errors());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn without_a_file_records_go_to_standard_error() {
    let scratch = Scratch::new("trace-stderr");
    let args =
        ["-monitor", "none", "-device", "isa-debug-exit,iobase=0x501,iosize=1", "-trace", "serial0.line"];
    let mut vm = machine(&scratch, &interrupt(), &args);
    assert_eq!(vm.wait(60).code(), Some(1));
    let errors = vm.errors();
    assert!(errors.contains(":serial0.line line 0 level 1 edges 1 value 0x0\r\n"), "{errors}");
}

#[test]
fn wrong_words_are_one_line_and_help_names_every_event() {
    let run = |args: &[&str]| {
        let mut vm = Vm::start(PROGRAM, args);
        (vm.wait(60).code(), vm.output(), vm.errors())
    };
    let scratch = Scratch::new("trace-wrong");
    let (missing, list) = (scratch.file("missing/file"), scratch.file("list"));
    std::fs::write(&list, "rtc.*\nrtc.nothing\n").expect("list");
    for (value, reason) in [
        ("bogus".to_owned(), "-trace bogus: no such trace event (-trace help for list)".to_owned()),
        (
            format!("events={list}"),
            format!("-trace events={list}: line 2: no such trace event (-trace help for list)"),
        ),
        (format!("events={missing}"), format!("-trace events {missing}: no such file or directory")),
        (format!("file={missing}"), format!("-trace file={missing}: no such file or directory")),
        (format!("logs={missing}"), format!("-trace logs={missing}: no such file or directory")),
        ("*,color=red".to_owned(), "-trace *,color=red: unknown parameter \"color\"".to_owned()),
        ("file=".to_owned(), "-trace file=: file= has no file name".to_owned()),
    ] {
        let (status, _, errors) = run(&["-nographic", "-monitor", "none", "-trace", &value]);
        assert_eq!((status, errors), (Some(1), format!("{PROGRAM}: {reason}\n")));
    }
    // Before anything is started: here nothing could be.
    let alone = scratch.file(PROGRAM);
    std::fs::hard_link(bulkhead_tests::programs().join(PROGRAM), &alone).expect("link");
    let mut vm = Vm::start(&alone, &["-nographic", "-monitor", "none", "-trace", "bogus"]);
    vm.wait(60);
    assert!(vm.errors().contains("no such trace event"), "{}", vm.errors());
    let (status, help, _) = run(&["-trace", "help"]);
    assert_eq!(status, Some(0));
    for event in ["cpu_read", "request", "line", "dma_write", "block_run", "interrupt", "process_end"] {
        assert!(help.contains(&format!(".{event} ")), "{help}");
    }
}
