//! `-smp`: Linux brings up every processor, uses them at once, and resets and switches off the machine with all of them. Programs
//! without a system (`tests/cases/smp`) look at single promises: locked instructions, code that others write, interrupts, starts, faults.

use std::time::{Duration, Instant};

use bulkhead_tests::code::assemble;
use bulkhead_tests::{Scratch, Vm, guest};

/// Sums of the same file by eight processes at once: for each sum how many gave it.
const SUMS: &str = "for i in 1 2 3 4 5 6 7 8; do sha256sum /bin/busybox & done > /sums; wait; \
sort /sums | uniq -c | awk '{ print \"su\" \"ms\", $1 }'";
/// Each processor in turn runs a shell of its own.
const TURNS: &str = "for i in $(seq 0 $(($(nproc) - 1))); do taskset $(printf %x $((1 << i))) \
cut -d' ' -f39 /proc/self/stat; done | tr '\\n' ,; echo";

/// Whether there were interrupts of these kinds, on any processor.
const SENT: &str = "awk '$1 == \"RES:\" || $1 == \"CAL:\" { s = 0; for (i = 2; i <= NF; i++) s += $i; \
print $1, (s > 0) }' /proc/interrupts";

/// Each processor gets work without end.
const BUSY: &str = "pids=; for i in $(seq 0 $(($(nproc) - 1))); do taskset $(printf %x $((1 << i))) sh -c 'while :; do :; done' & \
pids=\"$pids $!\"; done; echo bu''sy";

/// Waits until each processor has been seen at two places.
fn all_run(vm: &mut Vm) {
    let places = |vm: &mut Vm| vm.ask("info cpus").lines().map(str::to_owned).collect::<Vec<_>>();
    let before = places(vm);
    let mut still: Vec<usize> = (0..before.len()).collect();
    let end = Instant::now() + Duration::from_secs(60);
    while !still.is_empty() {
        assert!(Instant::now() < end, "{still:?} of {before:?} stand");
        let now = places(vm);
        still.retain(|cpu| now[*cpu] == before[*cpu]);
    }
}

/// Types `command` and expects that it prints this.
fn ask(vm: &mut Vm, command: &str, expected: &str) {
    vm.send(&format!("{command}\n"));
    vm.expect(expected, 120);
    vm.send("echo do''ne\n");
    vm.expect("done", 60);
}

fn works_with(cpus: u32, program: &str, flavour: &str) {
    let (kernel, initrd) = (guest(&format!("{flavour}/vmlinuz")), guest(&format!("{flavour}/initrd.gz")));
    let count = cpus.to_string();
    let args = ["-nographic", "-m", "256", "-smp", &count, "-kernel", &kernel, "-initrd", &initrd];
    let mut vm = Vm::start(program, &[&args[..], &["-append", "console=ttyS0"]].concat());
    for round in ["monitor", "guest"] {
        vm.expect(&format!("Brought up 1 node, {cpus} CPUs"), 240);
        vm.expect("userland is up", 240);
        vm.expect("# ", 60);
        ask(&mut vm, "echo $(nproc) process''ors", &format!("{cpus} processors"));
        ask(&mut vm, SUMS, "sums 8");
        let turns: String = (0..cpus).map(|cpu| format!("{cpu},")).collect();
        ask(&mut vm, TURNS, &turns);
        // Interrupts from one processor to another: reschedulings and calls.
        ask(&mut vm, SENT, "RES: 1\r\nCAL: 1");
        match round {
            "monitor" => {
                ask(&mut vm, BUSY, "busy");
                vm.send("\u{1}c");
                vm.expect("(qemu) ", 20);
                let all = vm.ask("info cpus");
                assert_eq!(all.matches("CPU #").count(), cpus as usize, "{all}");
                assert!(all.contains("* CPU #0"), "{all}");
                vm.ask("cpu 1");
                let all = vm.ask("info cpus");
                assert!(all.contains("* CPU #1"), "{all}");
                assert_ne!(vm.ask("info registers"), "");
                all_run(&mut vm);
                vm.ask("stop");
                let stopped = vm.ask("info cpus");
                std::thread::sleep(Duration::from_millis(200));
                assert_eq!(stopped, vm.ask("info cpus"), "none of them runs while stopped");
                vm.ask("cont");
                all_run(&mut vm);
                vm.send("\u{1}c");
                ask(&mut vm, "kill $pids; echo qui''et", "quiet");
                ask(&mut vm, "echo $((6 * 7)) again", "42 again");
                vm.send("reboot -f\n");
            }
            _ => vm.send("poweroff\n"),
        }
    }
    vm.expect("reboot: Power down", 120);
    assert_eq!(vm.wait(60).code(), Some(0), "{}", vm.errors());
}

#[test]
fn two_processors_of_64_bits() {
    works_with(2, "qemu-system-x86_64", "amd64");
}

#[test]
fn four_processors_of_32_bits() {
    works_with(4, "qemu-system-i386", "686-pae");
}

#[test]
fn sixteen_processors_on_two_nodes_with_their_deadline_timers() {
    let (kernel, initrd) = (guest("amd64/vmlinuz"), guest("amd64/initrd.gz"));
    let args =
        ["-nographic", "-m", "512", "-cpu", "max", "-smp", "16", "-kernel", &kernel, "-initrd", &initrd];
    let nodes = ["-numa", "node,cpus=0-11,mem=384", "-numa", "node", "-append", "console=ttyS0"];
    let mut vm = Vm::start("qemu-system-x86_64", &[&args[..], &nodes].concat());
    // Not by MemTotal: the kernel lies in one of them, at random.
    vm.expect("SRAT: Node 0 PXM 0 [mem 0x00100000-0x17ffffff]", 240);
    vm.expect("SRAT: Node 1 PXM 1 [mem 0x18000000-0x1fffffff]", 60);
    vm.expect("Brought up 2 nodes, 16 CPUs", 240);
    vm.expect("userland is up", 240);
    vm.expect("# ", 60);
    ask(&mut vm, "cd /sys/devices/system; cat node/node0/cpulist node/node1/cpulist", "0-11\r\n12-15\r\n");
    // Each is the only thread of its package.
    ask(&mut vm, "cat cpu/cpu*/topology/physical_package_id | sort -u | wc -l", "16\r\n");
    ask(&mut vm, "cat cpu/cpu*/topology/thread_siblings_list | sort -u | wc -l", "16\r\n");
    ask(&mut vm, "cat clockevents/clockevent15/current_device", "lapic-deadline\r\n");
    ask(&mut vm, TURNS, &(0..16).map(|cpu| format!("{cpu},")).collect::<String>());
    vm.send("poweroff\n");
    vm.expect("reboot: Power down", 120);
    assert_eq!(vm.wait(60).code(), Some(0), "{}", vm.errors());
}

/// Status of a program that ran to its end: (10h << 1) | 1.
const ENDED: i32 = 0x21;

/// A machine with a program of `cases/smp` as its firmware.
fn start(scratch: &Scratch, name: &str, cpus: u32, more: &[&str]) -> Vm {
    let rom = assemble(scratch, &format!("smp/{name}"), "smp/rom.ld");
    let count = cpus.to_string();
    let quiet = ["-nographic", "-vga", "none", "-monitor", "null", "-serial", "stdio", "-m", "16"];
    let exit = ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"];
    let machine = ["-bios", &rom, "-smp", &count];
    Vm::start("qemu", &[&quiet[..], &exit, &machine, more].concat())
}

/// What the program says that runs to its end.
fn said(name: &str, cpus: u32) -> String {
    let scratch = Scratch::new(&format!("smp-{name}-{cpus}"));
    let mut vm = start(&scratch, name, cpus, &[]);
    let status = vm.wait(120).code();
    assert_eq!(status, Some(ENDED), "{name}, {cpus} processors: {}\n{}", vm.output(), vm.errors());
    assert_eq!(vm.errors(), "", "{name}, {cpus} processors");
    vm.output().replace(" \n", "\n")
}

#[test]
fn locked_instructions_lose_nothing() {
    for cpus in [1, 2, 4, 16] {
        let all = 20_000 * cpus;
        let expected = format!(
            "rounds {all}\ninc {all} dec {all} xadd {all} sub {all}\n\
             cmpxchg {all} cmpxchg8b {all} {} byte {} word {}\nbts {all} xchg {all}\n\
             unaligned {all} across lines {all} across pages {all}\n\
             adc carries {} own bits lost 0\nfences {}\nend\n",
            2 * all,
            all % 0x100,
            3 * all % 0x1_0000,
            all / 2,
            20_000 * cpus.min(2),
        );
        assert_eq!(said("locks", cpus), expected, "{cpus} processors");
    }
}

#[test]
fn code_that_another_processor_writes_is_run_as_the_manual_says() {
    for cpus in [1, 2, 4] {
        let said = said("code", cpus);
        let wrong: Vec<&str> = said.lines().filter(|line| !line.ends_with(" 0")).collect();
        assert_eq!(wrong, ["end"], "{cpus} processors");
        assert_eq!(said.lines().count(), 10, "{said}");
    }
}

#[test]
fn interrupts_reach_the_processors_they_are_for() {
    for cpus in [1u32, 2, 4, 8] {
        let others = cpus - 1;
        let named = cpus - cpus.div_ceil(8);
        let fixed = format!("numbers {others} names {named} others {others} all {cpus} self 1 lowest 20");
        let more = format!("NMI {others} ring {} timers {}", 50 * cpus, 3 * cpus);
        let expected = format!("to sleepers: {fixed}\nto runners: {fixed}\n{more}\nend\n");
        assert_eq!(said("ipis", cpus), expected, "{cpus} processors");
    }
}

#[test]
fn init_and_start_up_messages_do_what_the_manual_says() {
    assert_eq!(said("starts", 1), "online 0 unmoved 0\nfirst again\nend\n");
    for cpus in [2, 3, 8] {
        let others = cpus - 1;
        // 2304 is the segment of page 9.
        let expected = format!(
            "online {others} unmoved {others}\nsegment 2304 CR0 16 MMX 4001 MSR 4001 signature 0\n\
             asleep 2 first again\nend\n"
        );
        assert_eq!(said("starts", cpus), expected, "{cpus} processors");
    }
}

#[test]
fn a_triple_fault_of_any_processor_resets_the_machine() {
    for cpus in [2, 4, 255] {
        let scratch = Scratch::new(&format!("smp-fault-{cpus}"));
        let state = format!("triple fault of CPU {}\nEAX=0000fa11", cpus - 1);
        let mut vm = start(&scratch, "fault", cpus, &[]);
        assert_eq!(vm.wait(60).code(), Some(ENDED), "{}", vm.errors());
        assert_eq!(vm.output(), "fault \nagain \nend\n", "{}", vm.errors());
        assert!(vm.errors().replace('\r', "").contains(&state), "{}", vm.errors());
        let mut vm = start(&scratch, "fault", cpus, &["-no-reboot"]);
        assert_eq!(vm.wait(60).code(), Some(0), "{}", vm.errors());
        assert_eq!(vm.output(), "fault \n", "{}", vm.errors());
        assert!(vm.errors().replace('\r', "").contains(&state), "{}", vm.errors());
    }
}

/// Ticks of 10 ms that a process has had of a processor.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    fields[11].parse::<u64>().expect("user time") + fields[12].parse::<u64>().expect("system time")
}

#[test]
fn processors_that_monitor_memory_sleep_until_it_is_written() {
    for cpus in [2, 4] {
        let scratch = Scratch::new(&format!("smp-monitor-{cpus}"));
        let mut vm = start(&scratch, "monitor", cpus, &["-cpu", "coreduo"]);
        vm.expect(&format!("passed {} \n", 200 * (cpus - 1)), 120);
        vm.expect("asleep", 60);
        let pid = vm.processes().into_iter().find(|(_, name)| name == "bh-cpu").expect("runs").0;
        let start = ticks(pid);
        let spinner = std::process::id();
        let own = ticks(spinner);
        // As long as this thread takes to have had a second of a processor, whatever else the host does.
        while ticks(spinner) - own < 100 {
            std::hint::black_box(0);
        }
        let used = ticks(pid) - start;
        vm.send("x");
        assert_eq!(vm.wait(60).code(), Some(ENDED), "{}", vm.errors());
        assert!(used < 50, "{used} ticks beside a thread's 100");
    }
}

#[test]
fn a_device_that_gets_no_processor_is_not_taken_for_hung() {
    // Behind the other tests: the machine is in its own way only.
    // SAFETY: lowers the priority of this thread, which the machine inherits.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
    let scratch = Scratch::new("smp-starve");
    let mut vm = start(&scratch, "starve", 255, &[]);
    let status = vm.wait(400).code();
    assert_eq!(status, Some(ENDED), "{}\n{}", vm.output(), vm.errors());
    assert_eq!(vm.output(), "asked answered \nend\n");
    assert_eq!(vm.errors(), "");
}
