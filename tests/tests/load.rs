//! Load: many machines on few processors, and many restarts in one machine, without growth of anything.
//!
//! `./campaign load` runs the long form: the numbers come from the environment.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use bulkhead_tests::code::Code;
use bulkhead_tests::{Monitor, STANDBY, Scratch, Vm, children, gone};

/// Memory that the record of restarts may take in the broker, in KiB, and as much for what the CPU process touches meanwhile.
const RECORD_KIB: u64 = 2048;

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")),
        Err(_) => default,
    }
}

/// A firmware that says K and then sends back what it receives, for ever.
fn firmware(scratch: &Scratch) -> String {
    let path = scratch.file("echo.rom");
    let echo = [0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf8, 0xba, 0xf8, 0x03, 0xec, 0xee, 0xeb, 0xf1];
    std::fs::write(&path, Code::new().say("K").bytes(&echo).firmware(0x1_0000)).expect("firmware");
    path
}

/// Files of this program's kind in places where temporary ones lie, but for folders of other tests that run ([`Installed`]).
///
/// [`Installed`]: bulkhead_tests::Installed
fn litter() -> BTreeSet<String> {
    let lives = |pid: &str| pid.parse::<u32>().is_ok_and(|pid| Path::new(&format!("/proc/{pid}")).exists());
    let is_anothers = |name: &String| name.rsplit_once('-').is_some_and(|(_, pid)| lives(pid));
    let places = ["/tmp", "/run", "/dev/shm", "/var/tmp"]
        .into_iter()
        .filter_map(|place| std::fs::read_dir(place).ok());
    let names = places.flatten().flatten().map(|entry| entry.path().display().to_string());
    let ours = names.filter(|name| name.contains("bulkhead") || name.contains("/bh-"));
    ours.filter(|name| !is_anothers(name)).collect()
}

/// Waits until there is no more litter than before: a test that ends beside this one takes a moment to clear its folder away.
fn is_clean(before: &BTreeSet<String>) {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let new: Vec<String> = litter().difference(before).cloned().collect();
        if new.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "{new:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn many_small_machines_start_work_and_stop_at_the_same_time() {
    let machines = setting("LOAD_MACHINES", 6);
    let scratch = Scratch::new("load-machines");
    let (bios, before) = (firmware(&scratch), litter());
    let args = ["-nographic", "-m", "8", "-bios", &bios, "-serial", "stdio", "-monitor", "null"];
    let start = Instant::now();
    let mut all: Vec<Vm> = (0..machines).map(|_| Vm::start("qemu", &args)).collect();
    all.iter_mut().for_each(|vm| drop(vm.expect("K", 300)));
    println!("{machines} machines run after {:.1} s", start.elapsed().as_secs_f64());
    for round in 0..3 {
        all.iter_mut().for_each(|vm| vm.send(&format!("<{round}>")));
        all.iter_mut().for_each(|vm| drop(vm.expect(&format!("<{round}>"), 300)));
    }
    let processes: Vec<_> = all.iter().flat_map(Vm::processes).collect();
    println!(
        "{} processes; all machines have answered after {:.1} s",
        processes.len(),
        start.elapsed().as_secs_f64()
    );
    all.iter().for_each(|vm| vm.signal(libc::SIGTERM));
    for vm in &mut all {
        assert_eq!(vm.wait(300).code(), Some(0), "{}", vm.errors());
    }
    gone(&processes);
    println!("all gone after {:.1} s", start.elapsed().as_secs_f64());
    is_clean(&before);
}

/// Open descriptors of a broker, resident KiB of it and of its CPU process.
fn use_of(vm: &Vm) -> (usize, [u64; 2]) {
    let files = std::fs::read_dir(format!("/proc/{}/fd", vm.pid())).expect("the broker lives").count();
    let (cpu, _) = vm.processes().into_iter().find(|(_, name)| name == "bh-cpu").expect("runs");
    let memory = [vm.pid(), cpu].map(|pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("resident memory");
        line.split_whitespace().next().expect("a number").parse().expect("a number")
    });
    (files, memory)
}

/// Dead children of the broker that it has not collected.
fn zombies(broker: u32) -> usize {
    let stats = std::fs::read_dir("/proc").expect("proc").flatten();
    let stats = stats.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    let ours = |text: &String| {
        let mut fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        fields.next() == Some("Z") && fields.next() == Some(&broker.to_string())
    };
    stats.filter(ours).count()
}

/// Kills every process but broker and CPU, in turn, and waits for each successor; `times` kills in all.
fn kill_in_turn(vm: &Vm, times: u64) {
    let mut done = 0;
    while done < times {
        let mut round = children(vm.pid());
        round.retain(|(_, name)| name.starts_with("bh-") && !["bh-cpu", STANDBY].contains(&name.as_str()));
        for (pid, name) in &round {
            if done == times {
                return;
            }
            // SAFETY: a plain system call on a process of our own VM.
            unsafe { libc::kill(*pid as i32, libc::SIGKILL) };
            done += 1;
            let end = Instant::now() + Duration::from_secs(30);
            while !children(vm.pid()).iter().any(|(now, have)| have == name && now != pid) {
                assert!(Instant::now() < end, "{name} has no successor; {}", vm.errors());
                std::thread::sleep(Duration::from_micros(500));
            }
        }
    }
}

#[test]
fn restarts_leave_no_process_file_memory_or_descriptor_behind() {
    let restarts = setting("LOAD_RESTARTS", 150);
    let scratch = Scratch::new("load-restarts");
    let (bios, socket, before) = (firmware(&scratch), scratch.file("monitor"), litter());
    let monitor = format!("unix:{socket},server,nowait");
    let disk = scratch.file("disk.img");
    std::fs::write(&disk, vec![0u8; 1 << 20]).expect("image");
    let args =
        ["-nographic", "-m", "8", "-bios", &bios, "-hda", &disk, "-serial", "stdio", "-monitor", &monitor];
    let mut vm = Vm::start("qemu", &args);
    vm.expect("K", 60);
    let mut monitor = Monitor::connect(&socket);
    let names = |vm: &Vm| {
        let mut names: Vec<String> = vm.processes().into_iter().map(|(_, name)| name).collect();
        names.sort();
        names
    };
    // What is made at the first death of each is no growth.
    kill_in_turn(&vm, 30);
    let settle = |monitor: &mut Monitor| {
        let end = Instant::now() + Duration::from_secs(30);
        while monitor
            .ask("info restarts")
            .lines()
            .rev()
            .take(20)
            .any(|line| line.split_whitespace().nth(2) == Some("-"))
        {
            assert!(Instant::now() < end, "{}", monitor.ask("info restarts"));
            std::thread::sleep(Duration::from_millis(20));
        }
        // Each of the others but the CPU process has its standby again.
        let have = |wanted: &dyn Fn(&str) -> bool| {
            children(vm.pid()).iter().filter(|(_, name)| wanted(name.as_str())).count()
        };
        while have(&|name| name == STANDBY) != have(&|name| name != STANDBY && name != "bh-cpu") {
            assert!(Instant::now() < end, "{:?}", vm.processes());
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    settle(&mut monitor);
    let (processes, (files, memory)) = (names(&vm), use_of(&vm));
    kill_in_turn(&vm, restarts);
    settle(&mut monitor);
    vm.send("still here");
    vm.expect("still here", 60);
    let (files_now, memory_now) = use_of(&vm);
    println!(
        "{restarts} restarts: {files} and {files_now} descriptors, {memory:?} and {memory_now:?} KiB in broker and CPU process"
    );
    println!("{}", monitor.ask("info restart-times"));
    assert_eq!(names(&vm), processes);
    assert_eq!(zombies(vm.pid()), 0);
    assert_eq!(files_now, files, "descriptors of the broker");
    for (who, (now, before)) in ["broker", "bh-cpu"].iter().zip(memory_now.iter().zip(memory)) {
        assert!(*now <= before + RECORD_KIB, "{who}: {before} KiB became {now} KiB");
    }
    vm.signal(libc::SIGTERM);
    assert_eq!(vm.wait(60).code(), Some(0), "{}", vm.errors());
    is_clean(&before);
}
