//! `-d`: each item writes what it is for.

use bulkhead_tests::code::Code;
use bulkhead_tests::{Monitor, Scratch};

/// A firmware that enters protected mode, calls a far function, returns from an interrupt frame, and then meets an undefined instruction
/// without anything to handle it: a triple fault.
fn code() -> Code {
    let (target, function, after, table) = (0x17u8, 0x40u8, 0x30u8, 0x50u8);
    Code::new()
        // cli; mov sp, 0x7000; lgdt cs:[table]; mov eax, cr0; or al, 1; mov cr0, eax; jmp 8:target
        .bytes(&[0xfa, 0xbc, 0x00, 0x70, 0x2e, 0x0f, 0x01, 0x16, table, 0x00])
        .bytes(&[0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0, 0xea, target, 0x00, 0x08, 0x00])
        // call 8:function; pushf; push 8; push after; iret
        .bytes(&[0x9a, function, 0x00, 0x08, 0x00, 0x9c, 0x6a, 0x08, 0x6a, after, 0xcf])
        .fill_to(after.into())
        // out 0x80, al; ud2
        .bytes(&[0xe6, 0x80, 0x0f, 0x0b])
        .fill_to(function.into())
        .bytes(&[0xcb])
        .fill_to(table.into())
        // Limit and base of the table: nothing, and code of 16 bits at F0000h.
        .bytes(&[0x0f, 0x00, 0x60, 0x00, 0x0f, 0x00])
        .fill_to(0x68)
        .bytes(&[0xff, 0xff, 0x00, 0x00, 0x0f, 0x9a, 0x00, 0x00])
}

/// The pcs of its instructions in order.
const TRACE: [u64; 14] = [
    0xffff_fff0,
    0xf_0000,
    0xf_0001,
    0xf_0004,
    0xf_000a,
    0xf_000d,
    0xf_000f,
    0xf_0012,
    0xf_0017,
    0xf_0040,
    0xf_001c,
    0xf_001d,
    0xf_001f,
    0xf_0021,
];

/// What the log holds after the firmware's end.
fn log(name: &str, items: &str) -> String {
    let scratch = Scratch::new(name);
    let file = scratch.file("log");
    let (mut vm, socket) = code().start_monitored(&scratch, &["-S", "-no-reboot"]);
    let mut monitor = Monitor::connect(&socket);
    assert_eq!(monitor.ask(&format!("logfile {file}")), "");
    assert_eq!(monitor.ask(&format!("log {items}")), "");
    monitor.tell("cont");
    vm.wait(60);
    assert!(vm.errors().contains("triple fault"), "{}", vm.errors());
    String::from_utf8_lossy(&std::fs::read(file).expect("a log")).into_owned()
}

fn has(log: &str, parts: &[&str]) {
    for part in parts {
        assert!(log.contains(part), "no {part:?} in\n{log}");
    }
}

#[test]
fn every_instruction_is_traced_with_its_state_and_what_interrupts_it() {
    let log = log("log-exec", "exec,cpu,int,pcall,ioport");
    let trace = log.lines().filter_map(|line| line.strip_prefix("Trace "));
    let pcs: Vec<u64> = trace.map(|pc| u64::from_str_radix(pc, 16).expect("a pc")).collect();
    assert_eq!(pcs[..TRACE.len()], TRACE);
    assert_eq!(pcs[TRACE.len()..], [0xf_0030, 0xf_0032]);
    assert_eq!(log.matches("EAX=").count(), pcs.len());
    has(&log, &["ljmp 0008:17 ", "lcall 0008:40 ", "lret 0008:1c ", "iret 0008:30 "]);
    has(&log, &["v=06 Exception", "out1 0080 = "]);
}

#[test]
fn exceptions_in_protected_mode_count_as_transfers() {
    let log = log("log-pcall", "pcall");
    has(&log, &["ljmp 0008:17 ", "v=06 Exception"]);
    assert!(!log.contains("Trace") && !log.contains("IN:"), "{log}");
}

#[test]
fn guest_code_its_ir_and_its_host_code_are_shown_for_each_block() {
    let log = log("log-asm", "in_asm,op,op_opt,out_asm");
    has(&log, &["lgdt", "mov cr0,eax", "OP: block ", "OP after liveness analysis: block "]);
    let mut lines = log.lines();
    let mut shown = 0;
    while let Some(line) = lines.next() {
        let Some(rest) = line.strip_prefix("OUT: [size=") else { continue };
        let size: usize = rest.split(']').next().and_then(|size| size.parse().ok()).expect("a size");
        let bytes = lines.next().expect("bytes").split(' ').map(|byte| u8::from_str_radix(byte, 16));
        assert_eq!(bytes.filter(Result::is_ok).count(), size, "{line}");
        assert!(size > 8, "{line}");
        shown += 1;
    }
    assert!(shown >= 4, "{shown} blocks in\n{log}");
    // The interpreter has run none of it.
    assert!(!log.contains("Trace"), "{log}");
}

#[test]
fn commands_are_answered_while_the_guest_fills_the_log() {
    let scratch = Scratch::new("log-full");
    // jmp to itself: a line for each time around.
    let (mut vm, socket) = Code::new().bytes(&[0xeb, 0xfe]).start_monitored(&scratch, &["-S"]);
    let mut monitor = Monitor::connect(&socket);
    assert_eq!(monitor.ask("logfile /dev/null"), "");
    assert_eq!(monitor.ask("log exec"), "");
    assert_eq!(monitor.ask("cont"), "");
    assert_eq!(monitor.ask("pmemsave 0x100000 0x100000 /dev/null"), "");
    assert_eq!(monitor.ask("stop"), "");
    assert_eq!(monitor.ask("cont"), "");
    // Earlier than it would give the CPUs up.
    monitor.tell("quit");
    assert_eq!(vm.wait(4).code(), Some(0), "{}", vm.errors());
}
