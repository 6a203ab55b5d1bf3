//! `-singlestep` and the monitor's `singlestep`.

use std::time::{Duration, Instant};

use bulkhead_tests::code::Code;
use bulkhead_tests::{Monitor, Scratch};

/// Instructions of each block in a log of `-d in_asm,cpu_reset`, from the first reset on.
fn blocks(log: &str) -> Vec<usize> {
    let log = log.split_once("CPU Reset").map_or("", |(_, rest)| rest);
    let blocks = log.split("IN:").skip(1);
    blocks.map(|block| block.lines().filter(|line| line.starts_with("0x")).count()).collect()
}

/// The blocks that the machine is said to have made since the log file was chosen, once there are some; without the last, of which a
/// part may not be written yet.
fn logged(file: &str) -> Vec<usize> {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let text = std::fs::read(file).unwrap_or_default();
        let mut found = blocks(&String::from_utf8_lossy(&text));
        found.pop();
        if found.len() > 3 {
            return found;
        }
        assert!(Instant::now() < end, "nothing in {file}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn blocks_hold_one_instruction_until_it_is_switched_off() {
    let scratch = Scratch::new("singlestep");
    let [stepped, normal, again] = ["stepped", "normal", "again"].map(|name| scratch.file(name));
    // Counts in AX and BX for ever, says so once.
    let code = Code::new().say("<up>");
    let top = code.raw().len();
    let code = code.bytes(&[0x40, 0x43, 0x40, 0x43, 0x90]).back_to(top);
    let (mut vm, socket) = code.start_monitored(&scratch, &["-singlestep", "-S"]);
    let mut monitor = Monitor::connect(&socket);
    assert_eq!(monitor.ask(&format!("logfile {stepped}")), "");
    assert_eq!(monitor.ask("log in_asm,cpu_reset"), "");
    monitor.ask("system_reset");
    monitor.ask("cont");
    vm.expect("<up>", 30);
    assert!(logged(&stepped).iter().all(|count| *count == 1), "{:?}", logged(&stepped));

    assert_eq!(monitor.ask(&format!("logfile {normal}")), "");
    assert_eq!(monitor.ask("singlestep off"), "");
    monitor.ask("system_reset");
    vm.expect("<up>", 30);
    assert!(logged(&normal).iter().any(|count| *count > 1), "{:?}", logged(&normal));

    assert_eq!(monitor.ask("singlestep sideways"), "unexpected option sideways\n");
    assert_eq!(monitor.ask("singlestep"), "");
    assert_eq!(monitor.ask(&format!("logfile {again}")), "");
    monitor.ask("system_reset");
    vm.expect("<up>", 30);
    assert!(logged(&again).iter().all(|count| *count == 1), "{:?}", logged(&again));
}
