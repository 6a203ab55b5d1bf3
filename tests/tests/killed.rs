//! A test that is killed leaves neither its machine nor its folders behind. The test starts itself once more, as the one to be killed.
//! And one that ends finds out when its machine leaves something.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bulkhead_tests::code::Code;
use bulkhead_tests::{STANDBY, Scratch, Vm, gone, keeper, tree};

/// Set for the program that is to be killed.
const VICTIM: &str = "BULKHEAD_TEST_VICTIM";

/// Waits for what has to come, long enough for the slowest host.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A machine started by a thread that has ended by the time that its process id is told. Ends with its input.
fn victim() {
    let scratch = Scratch::new("killed");
    let bios = scratch.file("waits.rom");
    std::fs::write(&bios, Code::new().say("K").bytes(&[0xeb, 0xfe]).firmware(0x1_0000)).expect("firmware");
    let started = std::thread::spawn(move || {
        let mut vm = Vm::start("qemu", &["-nographic", "-m", "8", "-bios", &bios]);
        vm.expect("K", 60);
        vm
    });
    let vm = started.join().expect("a machine");
    println!("\nmachine {} {}", vm.pid(), scratch.file("."));
    let _ = std::io::stdin().read(&mut [0]);
}

/// Starts the victim, ends it with `signal` to it or to all of its group, and sees that nothing is left.
fn kill(signal: i32, group: bool) {
    let name = std::thread::current().name().expect("tests have names").to_owned();
    let mut child = Command::new(std::env::current_exe().expect("path of the test"))
        .args(["--exact", "--nocapture", &name])
        .env(VICTIM, "yes")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program once more");
    let line = BufReader::new(child.stdout.take().expect("piped"))
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("machine ").map(str::to_owned))
        .expect("a machine");
    let (pid, folder) = line.split_once(' ').expect("process id and folder");
    let machine = pid.parse().expect("a process id");
    // Should this test find what it looks for, a keeper that does not work, then its own has to.
    keeper::keep_process(machine);
    let processes = tree(machine);
    assert!(processes.len() > 5, "{processes:?}");
    assert!(Path::new(folder).exists(), "{folder}");
    let pid = child.id() as i32;
    // SAFETY: a plain system call, on our own child or on the group that it leads.
    assert_eq!(unsafe { libc::kill(if group { -pid } else { pid }, signal) }, 0);
    assert!(!child.wait().expect("own child").success());
    let alive = |(pid, name): &(u32, String)| tree(*pid).first().is_some_and(|(_, now)| now == name);
    until("the machine is gone", || !processes.iter().any(alive));
    keeper::ended(machine);
    until("the folder is gone", || !Path::new(folder).exists());
}

#[test]
fn a_killed_test_leaves_no_machine_and_no_folder() {
    if std::env::var_os(VICTIM).is_some() {
        return victim();
    }
    kill(libc::SIGKILL, false);
}

#[test]
fn a_time_limit_that_ends_the_whole_group_does_not_end_the_keeper() {
    if std::env::var_os(VICTIM).is_some() {
        return victim();
    }
    kill(libc::SIGTERM, true);
    kill(libc::SIGKILL, true);
}

/// A shell as the machine, which leaves a process behind: its id.
fn leaves_one() -> (Vm, u32) {
    let mut vm = Vm::start("/bin/sh", &["-c", "sleep 60 < /dev/null > /dev/null 2>&1 & echo $!."]);
    let left = vm.expect(".", 20).trim_end_matches('.').parse().expect("a process id");
    keeper::keep_process(left);
    (vm, left)
}

/// Whether `checked` finds what was left.
fn finds(left: u32, checked: impl FnOnce()) -> bool {
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(checked)).is_err();
    // SAFETY: a plain system call on a process of this test.
    unsafe { libc::kill(left as i32, libc::SIGKILL) };
    gone(&[(left, "sleep".to_owned())]);
    keeper::ended(left);
    found
}

#[test]
fn what_outlives_its_broker_is_found_when_the_broker_was_collected_before() {
    let (mut vm, left) = leaves_one();
    assert_eq!(vm.wait(20).code(), Some(0));
    assert!(finds(left, || drop(vm)));
}

#[test]
fn a_process_that_took_over_after_it_was_listed_as_waiting_is_not_gone() {
    let (vm, left) = leaves_one();
    assert!(finds(left, || gone(&[(left, STANDBY.to_owned())])));
    drop(vm);
}
