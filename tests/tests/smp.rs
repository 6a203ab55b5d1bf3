//! `-smp`: Linux brings up every processor, uses them at once, and resets and switches off the machine with all of them.

use bulkhead_tests::{Vm, guest};

/// Sums of the same file by eight processes at once: for each sum how many gave it.
const SUMS: &str = "for i in 1 2 3 4 5 6 7 8; do sha256sum /bin/busybox & done > /sums; wait; \
sort /sums | uniq -c | awk '{ print \"su\" \"ms\", $1 }'";
/// Each processor in turn runs a shell of its own.
const TURNS: &str = "for i in $(seq 0 $(($(nproc) - 1))); do taskset $((1 << i)) \
cut -d' ' -f39 /proc/self/stat; done | tr '\\n' ,; echo";

/// Whether there were interrupts of these kinds, on any processor.
const SENT: &str = "awk '$1 == \"RES:\" || $1 == \"CAL:\" { s = 0; for (i = 2; i <= NF; i++) s += $i; \
print $1, (s > 0) }' /proc/interrupts";

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
                vm.send("\u{1}c");
                vm.expect("(qemu) ", 20);
                let all = vm.ask("info cpus");
                assert_eq!(all.matches("CPU #").count(), cpus as usize, "{all}");
                assert!(all.contains("* CPU #0"), "{all}");
                vm.ask("cpu 1");
                let all = vm.ask("info cpus");
                assert!(all.contains("* CPU #1"), "{all}");
                assert_ne!(vm.ask("info registers"), "");
                vm.ask("stop");
                let halted = vm.ask("info cpus");
                assert_eq!(halted, vm.ask("info cpus"), "none of them runs while stopped");
                vm.ask("cont");
                vm.send("\u{1}c");
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
