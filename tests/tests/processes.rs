//! The tree of processes: names, jails, ends; what the user is told when something is wrong; the monitor.

use std::io::Write;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use bulkhead_tests::{Monitor, Scratch, Vm, gone, serving};

const PROGRAM: &str = "qemu-system-x86_64";

/// The status of a program that ends at once, and what it says.
fn run(args: &[&str]) -> (ExitStatus, String) {
    let mut vm = Vm::start(PROGRAM, &[&["-nographic"], args].concat());
    (vm.wait(60), vm.errors())
}

/// Asserts that the program refuses to start with exactly this line.
fn refused(args: &[&str], line: &str) {
    let (status, errors) = run(args);
    assert_eq!(errors, format!("{PROGRAM}: {line}\n"));
    assert_eq!(status.code(), Some(1));
}

/// A stopped VM whose monitor is at a socket, ready to be used.
fn stopped(scratch: &Scratch, more: &[&str]) -> (Vm, Monitor) {
    let socket = scratch.file("monitor");
    let address = format!("unix:{socket},server,nowait");
    let mut args = vec!["-nographic", "-S", "-serial", "null", "-monitor", &address];
    args.extend(more);
    let vm = Vm::start(PROGRAM, &args);
    (vm, Monitor::connect(&socket))
}

fn status(pid: u32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("process exists");
    let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("field");
    line.trim_start_matches(':').split_whitespace().next().unwrap_or_default().to_owned()
}

#[test]
fn every_process_has_its_name_and_its_jail() {
    let scratch = Scratch::new("jail");
    let (vm, _monitor) = stopped(&scratch, &[]);
    let processes = serving(vm.pid());
    let has = |name: &str| processes.iter().any(|(_, have)| have == name);
    for name in [
        "bh-cpu",
        "bh-serial0",
        "bh-parallel0",
        "bh-rtc",
        "bh-i8042",
        "bh-port92",
        "bh-dma",
        "bh-fwcfg",
        "bh-debugports",
        "bh-ide0",
        "bh-vga",
        "bh-block-hdc",
        "bh-char-serial0",
        "bh-char-monitor",
    ] {
        assert!(has(name), "{name} in {processes:?}");
    }
    for (pid, name) in &processes {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("process exists");
        for task in tasks.flatten() {
            let task = task.file_name().to_string_lossy().parse().expect("thread number");
            assert_eq!(status(task, "Seccomp"), "2", "{name}");
            assert_eq!(status(task, "NoNewPrivs"), "1", "{name}");
            assert_ne!(status(task, "Uid"), "0", "{name}");
            assert_eq!(status(task, "Groups"), "", "{name}");
            assert_eq!(status(task, "SigBlk"), "0000000000000000", "{name}");
        }
    }
    assert_eq!(status(vm.pid(), "Seccomp"), "2");
}

#[test]
fn a_device_process_holds_no_descriptor_but_its_standard_error() {
    // SAFETY: no arguments, only asks.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("only the superuser may look at the descriptors of a process that is not dumpable");
        return;
    }
    let scratch = Scratch::new("descriptors");
    let (vm, _monitor) = stopped(&scratch, &[]);
    let processes = serving(vm.pid());
    for wanted in ["bh-rtc", "bh-ide0", "bh-vga", "bh-serial0"] {
        let (pid, _) = processes.iter().find(|(_, name)| name == wanted).expect(wanted);
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors");
        let fds: Vec<String> =
            fds.flatten().map(|fd| fd.file_name().to_string_lossy().into_owned()).collect();
        assert_eq!(fds, ["2"], "{wanted}");
    }
}

#[test]
fn killing_the_broker_by_any_signal_leaves_no_process() {
    for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGSEGV] {
        let scratch = Scratch::new(&format!("signal{signal}"));
        let (mut vm, _monitor) = stopped(&scratch, &[]);
        let processes = vm.processes();
        assert!(processes.len() > 10, "{processes:?}");
        vm.signal(signal);
        let end = vm.wait(20);
        if [libc::SIGTERM, libc::SIGINT, libc::SIGHUP].contains(&signal) {
            assert_eq!(end.code(), Some(0), "signal {signal}");
        }
        gone(&processes);
    }
}

#[test]
fn death_of_any_process_but_the_cpus_is_followed_by_a_successor_of_the_same_name() {
    let scratch = Scratch::new("successors");
    let (vm, mut monitor) = stopped(&scratch, &[]);
    for victim in ["bh-rtc", "bh-ide0", "bh-block-hdc", "bh-char-serial0"] {
        let find = || vm.processes().into_iter().find(|(_, name)| name == victim);
        let (pid, _) = find().expect(victim);
        // SAFETY: a plain system call on a process of our own VM.
        unsafe { libc::kill(pid as i32, libc::SIGKILL) };
        let end = Instant::now() + Duration::from_secs(10);
        while find().is_none_or(|(now, _)| now == pid) {
            assert!(Instant::now() < end, "{victim} has no successor; {}", vm.errors());
            std::thread::sleep(Duration::from_millis(5));
        }
        let line = format!("{victim} (process {pid}) was killed by SIGKILL: restarted");
        vm.expect_error(&line, 20);
        assert!(monitor.ask("info restarts").contains(victim));
    }
}

/// Fills a pipe.
fn fill(pipe: &mut std::io::PipeWriter) {
    let is_writable = |pipe: &std::io::PipeWriter| {
        let raw = std::os::fd::AsRawFd::as_raw_fd(pipe);
        let mut fd = libc::pollfd { fd: raw, events: libc::POLLOUT, revents: 0 };
        // SAFETY: one structure that lives over the call.
        unsafe { libc::poll(&raw mut fd, 1, 0) == 1 }
    };
    while is_writable(pipe) {
        pipe.write_all(&[b'.'; 4096]).expect("a pipe with room");
    }
}

#[test]
fn machine_goes_on_when_nobody_reads_what_it_says() {
    let scratch = Scratch::new("unheard");
    for is_closed in [true, false] {
        let (read, mut write) = std::io::pipe().expect("pipe");
        // Gone, or there and not reading.
        let _reader = if is_closed {
            None
        } else {
            fill(&mut write);
            Some(read)
        };
        let socket = scratch.file(&format!("monitor-{is_closed}"));
        let address = format!("unix:{socket},server,nowait");
        let args = ["-nographic", "-S", "-serial", "pty", "-monitor", &address];
        let mut vm = Vm::start_unheard(PROGRAM, &args, write);
        let mut monitor = Monitor::connect(&socket);
        assert_eq!(monitor.ask("device_kill dma"), "");
        let end = Instant::now() + Duration::from_secs(20);
        while !monitor.ask("info restarts").contains("\n1 deaths answered") {
            assert!(Instant::now() < end, "{}", monitor.ask("info restarts"));
        }
        monitor.tell("quit");
        assert_eq!(vm.wait(20).code(), Some(0));
    }
}

#[test]
fn device_that_does_not_answer_the_monitor_holds_it_up_for_a_moment_only() {
    let scratch = Scratch::new("unanswered");
    let (vm, mut monitor) = stopped(&scratch, &[]);
    // Nothing is hung while the machine stands.
    for name in ["bh-vga", "bh-i8042"] {
        let (pid, _) = vm.processes().into_iter().find(|(_, have)| have == name).expect("a process");
        // SAFETY: a plain system call on a process of our own VM.
        unsafe { libc::kill(pid as i32, libc::SIGSTOP) };
    }
    let picture = scratch.file("screen.ppm");
    assert_eq!(monitor.ask(&format!("screendump {picture}")), "vga: the device does not answer\n");
    assert!(!std::path::Path::new(&picture).exists());
    assert_eq!(monitor.ask("sendkey ctrl-alt-delete"), "i8042: the device does not answer\n");
    assert_eq!(monitor.ask("info status"), "VM status: paused\n");
}

#[test]
fn the_death_of_the_cpu_process_ends_the_vm_with_its_name() {
    let victim = "bh-cpu";
    let scratch = Scratch::new(victim);
    let (mut vm, _monitor) = stopped(&scratch, &[]);
    let processes = vm.processes();
    let (pid, _) = processes.iter().find(|(_, name)| name == victim).expect(victim);
    // SAFETY: a plain system call on a process of our own VM.
    unsafe { libc::kill(*pid as i32, libc::SIGKILL) };
    assert_eq!(vm.wait(20).code(), Some(1), "{victim}");
    gone(&processes);
    assert!(
        vm.errors().contains(&format!("{victim} (process {pid}) was killed by SIGKILL")),
        "{}",
        vm.errors()
    );
}

#[test]
fn a_wrong_image_is_one_line_that_names_option_file_and_reason() {
    let scratch = Scratch::new("images");
    let missing = scratch.file("missing");
    refused(&["-hda", &missing], &format!("-hda {missing}: no such file or directory"));
    let drive = format!("file={missing},media=cdrom");
    refused(&["-drive", &drive], &format!("-drive {drive}: no such file or directory"));
    let folder = scratch.file("folder");
    std::fs::create_dir(&folder).expect("folder");
    refused(&["-cdrom", &folder], &format!("-cdrom {folder}: is a directory"));
    let other = scratch.file("other.qcow2");
    std::fs::write(&other, b"QFI\xfb\0\0\0\x02").expect("image");
    refused(&["-hdb", &other], &format!("-hdb {other}: image format qcow: not supported yet"));
    refused(&["-hda", "/dev/null"], "-hda /dev/null: neither a regular file nor a block device");
}

#[test]
fn a_missing_firmware_names_its_package() {
    let scratch = Scratch::new("firmware");
    let folder = scratch.file("empty");
    std::fs::create_dir(&folder).expect("folder");
    let line = format!("-L {folder}: firmware bios-256k.bin is not there (package `seabios` has it)");
    refused(&["-L", &folder], &line);
}

#[test]
fn a_wrong_kernel_is_one_line() {
    let scratch = Scratch::new("kernel");
    let text = scratch.file("text");
    std::fs::write(&text, b"no kernel").expect("file");
    refused(
        &["-kernel", &text],
        &format!("-kernel {text}: not a Linux kernel image (bzImage) nor a multiboot kernel"),
    );
    let mut image = vec![0u8; 0x240];
    image[0x202..0x206].copy_from_slice(b"HdrS");
    let cut = scratch.file("cut");
    std::fs::write(&cut, &image).expect("file");
    refused(&["-kernel", &cut], &format!("-kernel {cut}: kernel image is truncated"));
}

#[test]
fn a_port_in_use_is_one_line() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("address").port();
    let device = format!("tcp:127.0.0.1:{port},server,nowait");
    let line = format!("-serial tcp:127.0.0.1:{port}: address already in use");
    refused(&["-serial", &device], &line);
    let scratch = Scratch::new("port");
    let socket = scratch.file("socket");
    refused(&["-serial", &format!("unix:{socket},server,nowait"), "-serial", &device], &line);
    assert!(!std::path::Path::new(&socket).exists(), "a socket is left behind");
}

#[test]
fn an_image_that_another_vm_writes_is_refused_with_its_pid() {
    let scratch = Scratch::new("lock");
    let image = scratch.file("disk");
    std::fs::write(&image, vec![0u8; 1 << 20]).expect("image");
    let (vm, _monitor) = stopped(&scratch, &["-hda", &image]);
    refused(&["-hda", &image], &format!("-hda {image}: image is in use by process {}", vm.pid()));
    refused(
        &["-snapshot", "-hda", &image],
        &format!("-hda {image}: image is in use by process {}", vm.pid()),
    );
    drop(vm);
    let (_vm, _monitor) = stopped(&Scratch::new("lock2"), &["-snapshot", "-hda", &image]);
    let (_vm, _monitor) = stopped(&Scratch::new("lock3"), &["-snapshot", "-hda", &image]);
}

#[test]
fn the_pid_file_holds_the_pid_and_goes_with_the_vm() {
    let scratch = Scratch::new("pidfile");
    let file = scratch.file("pid");
    let (mut vm, mut monitor) = stopped(&scratch, &["-pidfile", &file]);
    assert_eq!(std::fs::read_to_string(&file).expect("pid file"), format!("{}\n", vm.pid()));
    refused(&["-pidfile", &file], &format!("-pidfile {file}: in use by another process"));
    monitor.tell("quit");
    assert_eq!(vm.wait(20).code(), Some(0));
    assert!(!std::path::Path::new(&file).exists());
    assert!(!std::path::Path::new(&scratch.file("monitor")).exists());
}

#[test]
fn a_daemon_releases_its_parent_when_it_serves() {
    let scratch = Scratch::new("daemon");
    let (file, socket) = (scratch.file("pid"), scratch.file("monitor"));
    let address = format!("unix:{socket},server,nowait");
    let (status, errors) =
        run(&["-S", "-serial", "null", "-monitor", &address, "-daemonize", "-pidfile", &file]);
    assert_eq!(status.code(), Some(0), "{errors}");
    let pid: u32 = std::fs::read_to_string(&file).expect("pid file").trim().parse().expect("number");
    bulkhead_tests::keeper::keep_process(pid);
    let processes = bulkhead_tests::tree(pid);
    assert!(processes.len() > 10, "{processes:?}");
    let mut monitor = Monitor::connect(&socket);
    assert_eq!(monitor.ask("info status"), "VM status: paused\n");
    monitor.tell("quit");
    gone(&processes);
    bulkhead_tests::keeper::ended(pid);
    refused(
        &["-daemonize", "-serial", "null", "-hda", "/nowhere"],
        "-hda /nowhere: no such file or directory",
    );
}

#[test]
fn the_monitor_shows_and_changes_the_state_of_the_vm() {
    let scratch = Scratch::new("monitor-state");
    let more = ["-name", "guest one", "-uuid", "12345678-9abc-def0-0123-456789abcdef"];
    let (_vm, mut monitor) = stopped(&scratch, &more);
    assert_eq!(monitor.ask("info version"), "0.10.4\n");
    assert_eq!(monitor.ask("info name"), "guest one\n");
    assert_eq!(monitor.ask("info uuid"), "12345678-9abc-def0-0123-456789abcdef\n");
    assert_eq!(monitor.ask("info status"), "VM status: paused\n");
    assert_eq!(monitor.ask("cont"), "");
    assert_eq!(monitor.ask("info status"), "VM status: running\n");
    assert_eq!(monitor.ask("stop"), "");
    assert_eq!(monitor.ask("info status"), "VM status: paused\n");
    assert!(
        monitor.ask("info block").starts_with("ide1-cd0: type=cdrom removable=1 locked=0 [not inserted]\n")
    );
    assert!(monitor.ask("info registers").contains("CR0="));
    assert!(monitor.ask("info pci").contains("8086:1237"));
    assert!(monitor.ask("info processes").contains("bh-vga"));
    assert_eq!(monitor.ask("savevm x"), "savevm: not supported yet\n");
    assert_eq!(monitor.ask("nonsense"), "unknown command: 'nonsense'\n");
}

#[test]
fn the_monitor_reads_memory_as_the_guest_sees_it() {
    let scratch = Scratch::new("monitor-memory");
    let (_vm, mut monitor) = stopped(&scratch, &[]);
    // The reset vector: a far jump to F000:E05B.
    assert_eq!(monitor.ask("xp/5bx 0xfffffff0"), "00000000fffffff0: 0xea 0x5b 0xe0 0x00 0xf0\n");
    assert!(monitor.ask("xp/2hx 0xb8000").starts_with("00000000000b8000: 0x"));
    assert_eq!(monitor.ask("print 1 + 2*3"), "0x7\n");
    assert_eq!(monitor.ask("p/d -1"), "-1\n");
    assert_eq!(monitor.ask("print $eip"), "0xfff0\n");
    assert_eq!(monitor.ask("print $pc"), "0xfffffff0\n", "where CS lies");
    let dump = scratch.file("dump");
    assert_eq!(monitor.ask(&format!("pmemsave 0xfffe0000 0x20000 \"{dump}\"")), "");
    let bytes = std::fs::read(&dump).expect("dump");
    assert_eq!(bytes.len(), 0x2_0000);
    assert_eq!(bytes.get(0x1_fff0), Some(&0xea));
    let expected = bytes.iter().fold(0u16, |sum, byte| sum.rotate_right(1).wrapping_add(u16::from(*byte)));
    assert_eq!(monitor.ask("sum 0xfffe0000 0x20000"), format!("{expected:05}\n"));
}

#[test]
fn the_escape_key_reaches_the_monitor_and_ends_the_vm() {
    let mut vm = Vm::start(PROGRAM, &["-nographic", "-S"]);
    vm.send("\x01h");
    vm.expect("C-a x    exit emulator", 30);
    vm.send("\x01c");
    vm.expect("(qemu) ", 10);
    vm.send("info status\r");
    vm.expect("VM status: paused", 10);
    vm.send("\x01x");
    vm.expect("QEMU: Terminated", 10);
    assert_eq!(vm.wait(20).code(), Some(0));
}

#[test]
fn a_guest_that_writes_to_the_debug_exit_port_ends_the_vm_with_its_value() {
    let scratch = Scratch::new("debug-exit");
    // A firmware of 64 KiB whose reset vector jumps to its start: mov al,0x21; mov dx,0xf4; out dx,al; hlt; jmp $-1.
    let mut rom = vec![0u8; 0x1_0000];
    rom[..9].copy_from_slice(&[0xb0, 0x21, 0xba, 0xf4, 0x00, 0xee, 0xf4, 0xeb, 0xfd]);
    rom[0xfff0..0xfff5].copy_from_slice(&[0xea, 0x00, 0x00, 0x00, 0xf0]);
    let bios = scratch.file("exit.bin");
    std::fs::write(&bios, rom).expect("firmware");
    let device = "isa-debug-exit,iobase=0xf4,iosize=4";
    let mut vm = Vm::start(PROGRAM, &["-nographic", "-serial", "null", "-bios", &bios, "-device", device]);
    assert_eq!(vm.wait(30).code(), Some(0x21 << 1 | 1), "{}", vm.errors());
}
