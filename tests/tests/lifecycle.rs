//! Starting and ending: process names, pid files, signals, exit statuses; nothing is ever left behind.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use bulkhead_tests::{Scratch, Vm, gone, guest, programs};

/// A 64 KiB ROM image that runs `code` (16-bit) at F000:0000 from the reset vector.
fn rom(code: &[u8]) -> Vec<u8> {
    let mut image = vec![0xf4u8; 0x1_0000];
    image[..code.len()].copy_from_slice(code);
    // jmp f000:0000
    image[0xfff0..0xfff5].copy_from_slice(&[0xea, 0x00, 0x00, 0x00, 0xf0]);
    image
}

/// `cli; hlt; jmp to hlt`: a guest that sleeps for ever.
const SLEEP: &[u8] = &[0xfa, 0xf4, 0xeb, 0xfd];

fn sleeping_vm(scratch: &Scratch, more: &[&str]) -> Vm {
    let bios = scratch.file("sleep.rom");
    std::fs::write(&bios, rom(SLEEP)).expect("ROM image");
    let mut args = vec!["-bios", &bios, "-monitor", "stdio", "-serial", "null", "-vnc", "none"];
    args.extend(more);
    let mut vm = Vm::start("qemu", &args);
    vm.expect("(qemu)", 20);
    vm
}

#[test]
fn every_process_shows_its_role_and_instance() {
    let scratch = Scratch::new("names");
    let image = scratch.file("disk.img");
    std::fs::write(&image, vec![0u8; 1 << 20]).expect("image");
    let vm = sleeping_vm(&scratch, &["-hda", &image]);
    let names: BTreeSet<String> = vm.processes().into_iter().map(|(_, name)| name).collect();
    for wanted in ["bh-cpu", "bh-ide0", "bh-block-hda", "bh-serial0", "bh-rtc", "bh-vga", "bh-fwcfg"] {
        assert!(names.contains(wanted), "{wanted} is missing among {names:?}");
    }
}

#[test]
fn every_signal_that_ends_the_launcher_ends_the_tree() {
    for signal in [
        libc::SIGTERM,
        libc::SIGINT,
        libc::SIGHUP,
        libc::SIGKILL,
        libc::SIGSEGV,
        libc::SIGQUIT,
        libc::SIGABRT,
    ] {
        let scratch = Scratch::new(&format!("signal{signal}"));
        let mut vm = sleeping_vm(&scratch, &[]);
        let processes = vm.processes();
        assert!(processes.len() > 8, "{processes:?}");
        vm.signal(signal);
        vm.wait(10);
        gone(&processes);
    }
}

#[test]
fn death_of_any_process_leaves_no_orphan_and_names_it() {
    for victim in ["bh-cpu", "bh-serial0", "bh-ide0"] {
        let scratch = Scratch::new(&format!("victim-{victim}"));
        let mut vm = sleeping_vm(&scratch, &[]);
        let processes = vm.processes();
        let pid = processes.iter().find(|(_, name)| name == victim).expect("victim").0;
        // SAFETY: a plain system call on a child of our own child.
        unsafe { libc::kill(pid as i32, libc::SIGKILL) };
        assert_eq!(vm.wait(10).code(), Some(1));
        assert!(vm.errors().contains(victim), "{}", vm.errors());
        gone(&processes);
    }
}

#[test]
fn pidfile_holds_the_launchers_pid() {
    let scratch = Scratch::new("pidfile");
    let path = scratch.file("pid");
    let vm = sleeping_vm(&scratch, &["-pidfile", &path]);
    let text = std::fs::read_to_string(&path).expect("pid file");
    assert_eq!(text.trim(), vm.pid().to_string());
}

#[test]
fn debug_exit_gives_the_value_shifted_and_one() {
    let scratch = Scratch::new("exit");
    let bios = scratch.file("exit.rom");
    // mov al, 0x15; out 0xf4, al; hlt
    std::fs::write(&bios, rom(&[0xb0, 0x15, 0xe6, 0xf4, 0xf4])).expect("ROM image");
    let args = ["-bios", &bios, "-nographic", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"];
    let mut vm = Vm::start("qemu-system-x86_64", &args);
    assert_eq!(vm.wait(20).code(), Some(0x15 << 1 | 1), "{}", vm.errors());
}

#[test]
fn shutdown_string_on_port_8900_ends_the_vm() {
    let scratch = Scratch::new("8900");
    let bios = scratch.file("off.rom");
    let mut code = vec![0xba, 0x00, 0x89];
    for letter in b"Shutdown" {
        code.extend([0xb0, *letter, 0xee]);
    }
    code.push(0xf4);
    std::fs::write(&bios, rom(&code)).expect("ROM image");
    let mut vm = Vm::start("qemu", &["-bios", &bios, "-nographic"]);
    assert_eq!(vm.wait(20).code(), Some(0), "{}", vm.errors());
}

#[test]
fn triple_fault_with_no_reboot_ends_the_vm() {
    let scratch = Scratch::new("triple");
    let bios = scratch.file("triple.rom");
    // lidt with limit 0 from a zeroed place, then int3: #GP, double fault, shutdown.
    std::fs::write(&bios, rom(&[0x2e, 0x0f, 0x01, 0x1e, 0x00, 0x01, 0xcc])).expect("ROM image");
    let mut image = rom(&[0x2e, 0x0f, 0x01, 0x1e, 0x00, 0x01, 0xcc]);
    image[0x100..0x106].fill(0);
    std::fs::write(&bios, image).expect("ROM image");
    let mut vm = Vm::start("qemu", &["-bios", &bios, "-nographic", "-no-reboot"]);
    assert_eq!(vm.wait(20).code(), Some(0), "{}", vm.errors());
}

#[test]
fn daemonize_returns_when_the_vm_runs() {
    let scratch = Scratch::new("daemon");
    let (bios, pid) = (scratch.file("sleep.rom"), scratch.file("pid"));
    std::fs::write(&bios, rom(SLEEP)).expect("ROM image");
    let args = [
        "-bios",
        &bios,
        "-daemonize",
        "-pidfile",
        &pid,
        "-vnc",
        "none",
        "-serial",
        "null",
        "-monitor",
        "null",
    ];
    let status = Command::new(programs().join("qemu")).args(args).status().expect("launcher");
    assert_eq!(status.code(), Some(0));
    let pid: u32 = std::fs::read_to_string(&pid).expect("pid file").trim().parse().expect("pid");
    let processes = bulkhead_tests::tree(pid);
    assert!(processes.iter().any(|(_, name)| name == "bh-cpu"), "{processes:?}");
    // SAFETY: a plain system call on the VM that this test started.
    unsafe { libc::kill(pid as i32, libc::SIGTERM) };
    gone(&processes);
}

#[test]
fn stopped_vm_starts_on_cont() {
    let scratch = Scratch::new("stopped");
    let mut vm = sleeping_vm(&scratch, &["-S"]);
    vm.send("info status\n");
    vm.expect("VM status: paused", 10);
    vm.send("cont\n");
    vm.send("info status\n");
    vm.expect("VM status: running", 10);
    vm.send("quit\n");
    assert_eq!(vm.wait(10).code(), Some(0));
}

#[test]
fn whole_pc_starts_and_stops_quickly() {
    let scratch = Scratch::new("quick");
    let start = Instant::now();
    let mut vm = sleeping_vm(&scratch, &[]);
    vm.send("quit\n");
    assert_eq!(vm.wait(10).code(), Some(0));
    // Not a benchmark: a bound far off the aim that only a hang passes.
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn snapshot_leaves_the_image_alone_and_no_temporary_file() {
    let scratch = Scratch::new("snapshot");
    let image = scratch.file("disk.img");
    std::fs::write(&image, vec![0x5au8; 1 << 20]).expect("image");
    let before: BTreeSet<_> =
        std::fs::read_dir(std::env::temp_dir()).expect("temp").flatten().map(|e| e.file_name()).collect();
    let mut vm = sleeping_vm(&scratch, &["-hda", &image, "-snapshot"]);
    let during: BTreeSet<_> =
        std::fs::read_dir(std::env::temp_dir()).expect("temp").flatten().map(|e| e.file_name()).collect();
    assert!(
        during.difference(&before).all(|name| !name.to_string_lossy().contains("bulkhead")),
        "a named temporary file"
    );
    vm.send("quit\n");
    vm.wait(10);
    assert!(std::fs::read(&image).expect("image").iter().all(|byte| *byte == 0x5a));
}

#[test]
fn kernel_command_line_and_initrd_reach_the_guest() {
    let (kernel, initrd) = (guest("amd64/vmlinuz"), guest("amd64/initrd.gz"));
    let mut vm = Vm::start(
        "qemu-system-x86_64",
        &[
            "-nographic",
            "-m",
            "256",
            "-kernel",
            &kernel,
            "-initrd",
            &initrd,
            "-append",
            "console=ttyS0 run=echo,it-came-through",
        ],
    );
    vm.expect("it-came-through", 240);
    assert_eq!(vm.wait(60).code(), Some(0));
}
