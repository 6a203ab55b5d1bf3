//! Ways out of every role's jail, tried from inside by a process that has been taken over, under a running guest. Each must fail,
//! and the machine goes on. The same attempts without a jail are the control: they work, so that a failure means something.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bulkhead_tests::{Installed, Monitor, gone, programs};

/// Processes that are taken over, with their programs: every role that can be replaced.
const VICTIMS: &[(&str, &str)] = &[
    ("bh-serial1", "bh-serial"),
    ("bh-parallel0", "bh-parallel"),
    ("bh-rtc", "bh-rtc"),
    ("bh-i8042", "bh-i8042"),
    ("bh-port92", "bh-port92"),
    ("bh-dma", "bh-dma"),
    ("bh-fwcfg", "bh-fwcfg"),
    ("bh-debugports", "bh-debugports"),
    ("bh-vga", "bh-vga"),
    ("bh-ide0", "bh-ide"),
    ("bh-block-hda", "bh-block"),
    ("bh-char-serial1", "bh-char"),
];

/// An attempt.
struct Attempt {
    /// For everybody without a jail.
    works: bool,
    name: String,
    /// What of it a jail forbids.
    call: String,
}

/// All attempts.
fn attempts() -> Vec<Attempt> {
    let output = Command::new(programs().join("bh-escape")).arg("--list").output().expect("bh-escape");
    let text = String::from_utf8(output.stdout).expect("text");
    let attempts: Vec<Attempt> = text
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split('\t').collect();
            Attempt { works: words[1] == "works", name: words[2].to_owned(), call: words[3].to_owned() }
        })
        .collect();
    assert!(attempts.len() >= 40, "{}", attempts.len());
    attempts
}

/// A firmware that counts in RAM at 1000h, touching no device: `cs: inc dword [1000h]; jmp $-6`.
fn counting_firmware() -> Vec<u8> {
    let mut rom = vec![0xf4; 0x1_0000];
    // xor ax, ax; mov ds, ax; inc dword [0x1000]; jmp back to inc
    rom[..11].copy_from_slice(&[0x31, 0xc0, 0x8e, 0xd8, 0x66, 0xff, 0x06, 0x00, 0x10, 0xeb, 0xf9]);
    rom[0xfff0..0xfff5].copy_from_slice(&[0xea, 0x00, 0x00, 0x00, 0xf0]);
    rom
}

fn counter(monitor: &mut Monitor) -> u64 {
    let text = monitor.ask("xp/1wx 0x1000");
    let value = text.trim().rsplit_once("0x").expect("a value").1;
    u64::from_str_radix(value, 16).expect("a number")
}

/// The guest counts on.
fn goes_on(monitor: &mut Monitor) {
    let before = counter(monitor);
    let end = Instant::now() + Duration::from_secs(30);
    while counter(monitor) == before {
        assert!(Instant::now() < end, "the guest stands");
    }
}

/// Waits until every victim has been restarted so often and is in its jail again.
fn wait_for(monitor: &mut Monitor, restarts: usize, attempt: &str) {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let table = monitor.ask("info processes");
        let is_back = |name: &str| {
            let row = table.lines().find(|line| line.split_whitespace().nth(1) == Some(name)).expect(name);
            let words: Vec<&str> = row.split_whitespace().collect();
            words[3] == restarts.to_string() && words.last() != Some(&"starting")
        };
        if VICTIMS.iter().all(|(name, _)| is_back(name)) {
            return;
        }
        assert!(Instant::now() < end, "{attempt}: not {restarts} restarts of everybody:\n{table}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The lines of `info restarts`: process and reason.
fn deaths(monitor: &mut Monitor) -> Vec<(String, String)> {
    let text = monitor.ask("info restarts");
    let rows = text.lines().filter_map(|line| {
        let name = line.split_whitespace().nth(1)?;
        let reasons = ["made a forbidden", "exited with", "was killed by", "hung", "did not get"];
        let at = reasons.iter().filter_map(|reason| line.find(reason)).min()?;
        name.starts_with("bh-").then(|| (name.to_owned(), line[at..].to_owned()))
    });
    rows.collect()
}

/// Prints how each attempt ended in each role.
fn table(attempts: &[Attempt], outcomes: &BTreeMap<(usize, String), String>) {
    for (number, attempt) in attempts.iter().enumerate() {
        let of: Vec<&String> =
            outcomes.iter().filter(|((at, _), _)| *at == number).map(|(_, outcome)| outcome).collect();
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for outcome in of {
            *kinds.entry(kind(outcome)).or_default() += 1;
        }
        let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} x {kind}")).collect();
        println!("{number:>3} {:<45} {}", attempt.name, kinds.join(", "));
    }
}

fn kind(reason: &str) -> &str {
    if let Some((_, call)) = reason.split_once("): ").filter(|_| reason.starts_with("made a forbidden")) {
        return call.split_once('(').map_or(call, |(name, _)| name);
    }
    reason.rsplit_once(": ").map_or(reason, |(_, end)| end)
}

/// Whether the process did not get what it tried for, and that for the reason that counts.
fn is_contained(attempt: &Attempt, reason: &str) -> bool {
    let told = reason.starts_with("made a forbidden system call: thread ") && reason.contains(" at 0x");
    let refused = reason.starts_with("exited with status 41") && reason.contains("refused (");
    // A fault of the processor: this way into the kernel on a host without one.
    let fault = reason.starts_with("was killed by SIGSEGV") && attempt.call.starts_with("32-bit ");
    told && kind(reason) == attempt.call || refused || fault
}

/// The outcomes that are no containment.
fn escapes(
    attempts: &[Attempt],
    outcomes: &BTreeMap<(usize, String), String>,
) -> Vec<((usize, String), String)> {
    let out = outcomes.iter().filter(|((number, _), reason)| !is_contained(&attempts[*number], reason));
    out.map(|(of, reason)| (of.clone(), reason.clone())).collect()
}

#[test]
fn what_is_contained_is_the_attempt_itself() {
    let attempt = |call: &str| Attempt { works: true, name: String::new(), call: call.to_owned() };
    let forbidden = "made a forbidden system call: thread bh-rtc (7): openat(0x1, 0x2) at 0x4000";
    assert!(is_contained(&attempt("openat"), forbidden));
    assert!(!is_contained(&attempt("socket"), forbidden));
    assert!(is_contained(&attempt("mmap"), "exited with status 41: attempt 6 x: refused (Out of memory)"));
    assert!(!is_contained(&attempt("mmap"), "exited with status 42: attempt 6 x: ESCAPED"));
    assert!(is_contained(&attempt("32-bit call 20"), "was killed by SIGSEGV"));
    assert!(!is_contained(&attempt("openat"), "was killed by SIGSEGV"));
}

#[test]
fn without_a_jail_the_attempts_work() {
    let attempts = attempts();
    let escape = programs().join("bh-escape").to_str().expect("path in UTF-8").to_owned();
    let mut working = 0;
    for (number, Attempt { works, name, .. }) in attempts.iter().enumerate() {
        // Below a shell: some of them do something to their parent.
        let status = Command::new("sh")
            .args(["-c", "\"$0\" --try \"$1\"; exit $?", &escape, &number.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .status()
            .expect("bh-escape");
        assert!(status.success() || !works, "{name} does not work without a jail: {status}");
        working += usize::from(status.success());
    }
    assert!(working >= 40, "{working}");
    println!("{working} of {} attempts work without a jail", attempts.len());
}

#[test]
fn no_device_or_back_end_that_was_taken_over_gets_out_and_the_guest_goes_on() {
    let attempts = attempts();
    let folder = Installed::new("escape");
    let (disk, bios) = (folder.file("disk"), folder.file("bios"));
    std::fs::write(&disk, vec![0u8; 1 << 20]).expect("disk");
    std::fs::write(&bios, counting_firmware()).expect("firmware");
    let socket = folder.file("monitor");
    let address = format!("unix:{socket},server,nowait");
    let vm = folder.start(&[
        "-nographic",
        "-serial",
        "null",
        "-serial",
        "null",
        "-monitor",
        &address,
        "-bios",
        &bios,
        "-hda",
        &disk,
    ]);
    let mut monitor = Monitor::connect(&socket);
    goes_on(&mut monitor);
    let pid_of = |name: &str| vm.processes().into_iter().find(|(_, have)| have == name).map(|(pid, _)| pid);
    let (broker, cpu) = (vm.pid(), pid_of("bh-cpu").expect("bh-cpu"));
    let escape = programs().join("bh-escape");
    for (_, program) in VICTIMS {
        folder.replace(&escape, program);
    }
    let mut outcomes = BTreeMap::new();
    // The programs on disk take their places; from now on every attempt is two restarts: of what is idle, and of what has tried.
    for (number, attempt) in attempts.iter().enumerate() {
        for (name, _) in VICTIMS {
            std::fs::write(folder.file(&format!("{name}.attempt")), number.to_string()).expect("file");
            assert_eq!(monitor.ask(&format!("device_restart {name}")), "");
        }
        wait_for(&mut monitor, 2 * (number + 1), &attempt.name);
        goes_on(&mut monitor);
    }
    let deaths = deaths(&mut monitor);
    for (name, _) in VICTIMS {
        let own = deaths.iter().filter(|(of, _)| of == name);
        outcomes.extend(
            own.enumerate().map(|(number, (_, reason))| ((number, (*name).to_owned()), reason.clone())),
        );
    }
    table(&attempts, &outcomes);
    let out = escapes(&attempts, &outcomes);
    assert!(out.is_empty(), "{out:#?}");
    assert_eq!(outcomes.len(), attempts.len() * VICTIMS.len());
    assert_eq!((vm.pid(), pid_of("bh-cpu")), (broker, Some(cpu)));
    // Counted.
    let rows = monitor.ask("info processes");
    let row = rows.lines().find(|line| line.contains(" bh-rtc ")).expect("bh-rtc").to_owned();
    let told =
        outcomes.iter().filter(|((_, name), reason)| name == "bh-rtc" && reason.starts_with("made")).count();
    assert_eq!(row.split_whitespace().nth(7), Some(told.to_string().as_str()), "{rows}");
    // The real programs take the places back.
    for (name, program) in VICTIMS {
        folder.replace(&programs().join(program), program);
        assert_eq!(monitor.ask(&format!("device_restart {name}")), "");
    }
    let dump = folder.file("screen");
    let end = Instant::now() + Duration::from_secs(30);
    while !monitor.ask(&format!("screendump {dump}")).is_empty() || !Path::new(&dump).exists() {
        assert!(Instant::now() < end, "no picture: {}", vm.errors());
    }
    goes_on(&mut monitor);
    let processes = vm.processes();
    drop(vm);
    gone(&processes);
}

#[test]
fn a_cpu_process_that_was_taken_over_does_not_get_out() {
    let attempts = attempts();
    let folder = Installed::new("escape-cpu");
    folder.replace(&programs().join("bh-escape"), "bh-cpu");
    let mut outcomes = BTreeMap::new();
    for (number, attempt) in attempts.iter().enumerate() {
        std::fs::write(folder.file("bh-cpu.attempt"), number.to_string()).expect("file");
        let args = ["-nographic", "-M", "isapc", "-vga", "none", "-serial", "null", "-monitor", "null"];
        let mut vm = folder.start(&args);
        let processes = vm.processes();
        let status = vm.wait(60);
        gone(&processes);
        assert_eq!(status.code(), Some(1), "{}", attempt.name);
        let errors = vm.errors().replace("\r\n", "\n");
        let of =
            |start: &str| errors.lines().find_map(|line| line.find(start).map(|at| line[at..].to_owned()));
        let reason = of("made a forbidden system call").or_else(|| {
            let said = of(&format!("attempt {number} "))?;
            Some(format!("{}: {said}", of("exited with")?))
        });
        outcomes
            .insert((number, "bh-cpu".to_owned()), reason.or_else(|| of("was killed by")).unwrap_or(errors));
    }
    table(&attempts, &outcomes);
    let out = escapes(&attempts, &outcomes);
    assert!(out.is_empty(), "{out:#?}");
}
