//! `info jit` and `info profile`.

use bulkhead_tests::code::Code;
use bulkhead_tests::{Monitor, Scratch};

/// The number before `word` in what the monitor said.
fn number(text: &str, word: &str) -> f64 {
    let (before, _) = text.split_once(word).unwrap_or_else(|| panic!("no {word:?} in {text}"));
    let digits = before.trim_end().rsplit([' ', '(', '\n']).next().expect("a word");
    digits.trim_end_matches('%').parse().unwrap_or_else(|_| panic!("{digits:?} before {word:?} in {text}"))
}

#[test]
fn what_was_compiled_and_where_the_time_went_is_told_for_each_cpu() {
    let scratch = Scratch::new("profile");
    // Two instructions that go round for a while, then sleep.
    let code = Code::new().bytes(&[0x66, 0xb9, 0x00, 0x00, 0x00, 0x04]);
    let top = code.raw().len();
    let code = code.bytes(&[0x66, 0x49, 0x75, 0x01, 0x90, 0x66, 0x85, 0xc9, 0x74, 0x03]).back_to(top);
    let (mut vm, socket) = code.say("<done>").sleep().start_monitored(&scratch, &["-smp", "2"]);
    vm.expect("<done>", 60);
    let mut monitor = Monitor::connect(&socket);

    let jit = monitor.ask("info jit");
    let (first, second) = jit.split_once("CPU #1").expect("two CPUs");
    let (blocks, insns) = (number(first, " compiled, "), number(first, " instructions of "));
    assert!(blocks >= 3.0 && insns > blocks, "{jit}");
    assert!(number(first, " code bytes a guest byte") > 1.0, "{jit}");
    assert!(number(first, " us an instruction") > 0.0, "{jit}");
    assert_eq!(number(first, " invalidated"), 0.0, "{jit}");
    // The other processor waits to be started.
    assert_eq!(number(second, " compiled, "), 0.0, "{jit}");

    let profile = monitor.ask("info profile");
    let (first, rest) = profile.split_once("CPU #1").expect("two CPUs");
    let code = number(first, " us ");
    assert!(code > 0.0, "{profile}");
    let parts = first.lines().skip(1).filter(|line| !line.contains("of the first"));
    let parts: f64 = parts.map(|line| number(line, " us ")).sum();
    let whole = number(first, " us in the run loop");
    // Samples are scaled up, so the parts can be more than the whole.
    assert!(parts >= whole * 0.99, "{profile}");
    let halted = rest.lines().find(|line| line.contains("halted")).expect("a line");
    assert!(number(halted, " us ") > 0.0, "{profile}");
    // So few accesses may have been answered at once.
    assert!(number(&profile, " us of that waited for devices") >= 0.0, "{profile}");
}
