//! Parallel ports: what firmware and Linux print arrives once and in order, whatever dies meanwhile.

use std::io::Read;
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use bulkhead_tests::code::Code;
use bulkhead_tests::{Monitor, Scratch, Vm, gone, guest, linux, within};

/// The ports by number.
const PORTS: [u16; 3] = [0x378, 0x278, 0x3bc];
/// Status of a printer that is ready and was not reset yet.
const READY: u8 = 0xd9;
/// Longest wait.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tries until it works.
fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Adds code that waits until the printer at `port` is ready and strobes BL. Changes AL and DX.
fn print_bl(code: Code, port: u16) -> Code {
    let ([low, high], [status, status_high]) = (port.to_le_bytes(), (port + 1).to_le_bytes());
    code.bytes(&[
        0xba,
        status,
        status_high, // mov dx, status
        0xec,        // in al, dx
        0xa8,
        0x80, // test al, 0x80
        0x74,
        0xfb, // jz back to in
        0xba,
        low,
        high, // mov dx, data
        0x88,
        0xd8, // mov al, bl
        0xee, // out dx, al
        0x42,
        0x42, // inc dx; inc dx
        0xb0,
        0x0d,
        0xee, // mov al, 0x0d; out dx, al
        0xb0,
        0x0c,
        0xee, // mov al, 0x0c; out dx, al
    ])
}

fn print(code: Code, port: u16, text: &str) -> Code {
    text.bytes().fold(code, |code, byte| print_bl(code.bytes(&[0xb3, byte]), port))
}

/// Counts on the first port for ever.
fn counting() -> Code {
    let code = Code::new().bytes(&[0xb3, 0]);
    let start = code.raw().len();
    print_bl(code, PORTS[0]).bytes(&[0xfe, 0xc3]).back_to(start)
}

fn is_counted(bytes: &[u8]) {
    let wrong = bytes.iter().enumerate().position(|(at, byte)| *byte != at as u8);
    assert_eq!(wrong, None, "first difference of {} bytes", bytes.len());
}

fn holds(path: &str, wanted: &[u8]) {
    until(path, || (std::fs::read(path).ok()? == wanted).then_some(()));
}

/// Waits for a process of that name other than `last`, and kills it.
fn kill(vm: &Vm, name: &str, last: u32) -> u32 {
    let found = || vm.processes().into_iter().find(|(pid, have)| have == name && *pid != last);
    let (pid, _) = until(name, found);
    // SAFETY: a plain system call on a process of our own VM.
    unsafe { libc::kill(pid as i32, libc::SIGKILL) };
    pid
}

#[test]
fn firmware_prints_on_three_ports_and_finds_none_beyond_those_given() {
    for machine in ["pc", "isapc"] {
        let scratch = Scratch::new(&format!("parallel-{machine}"));
        let code = PORTS.iter().fold(Code::new(), |code, port| code.say_port(port + 1));
        let code = print(print(print(code, 0x378, "a"), 0x278, "b"), 0x3bc, "c").say("!").sleep();
        let files: Vec<String> = (0..3).map(|port| scratch.file(&format!("port{port}"))).collect();
        let options: Vec<String> = files.iter().map(|file| format!("file:{file}")).collect();
        let mut args = vec!["-M", machine, "-vga", "std"];
        options.iter().for_each(|option| args.extend(["-parallel", option]));
        let (mut vm, socket) = code.start_monitored(&scratch, &args);
        assert_eq!(vm.take(4, 60), [READY, READY, READY, b'!'], "{}", vm.errors());
        files.iter().zip(["a", "b", "c"]).for_each(|(file, text)| holds(file, text.as_bytes()));
        let mut monitor = Monitor::connect(&socket);
        let chardev = monitor.ask("info chardev");
        for (port, option) in options.iter().enumerate() {
            assert!(chardev.contains(&format!("parallel{port}: filename={option}")), "{chardev}");
        }
        // None of the second, null for the third.
        let code = PORTS.iter().fold(Code::new(), |code, port| code.say_port(port + 1)).sleep();
        let more = ["-M", machine, "-parallel", "null", "-parallel", "none", "-parallel", "vc"];
        let mut vm = code.start(&scratch, &more);
        assert_eq!(vm.take(3, 60), [READY, 0xff, READY], "{}", vm.errors());
        let names: Vec<String> = vm.processes().into_iter().map(|(_, name)| name).collect();
        let has = |name: &str| names.iter().any(|have| have == name);
        assert!(has("bh-parallel0") && !has("bh-parallel1") && has("bh-parallel2"), "{names:?}");
        // With nobody on the other side there is no process for it.
        assert!(!names.iter().any(|name| name.starts_with("bh-char-par")), "{names:?}");
    }
}

#[test]
fn first_port_is_there_unless_it_is_unwanted() {
    let scratch = Scratch::new("parallel-default");
    let code = PORTS.iter().fold(Code::new(), |code, port| code.say_port(port + 1)).sleep();
    let mut vm = code.start(&scratch, &[]);
    assert_eq!(vm.take(3, 60), [READY, 0xff, 0xff]);
    let mut vm = code.start(&scratch, &["-parallel", "none"]);
    assert_eq!(vm.take(3, 60), [0xff; 3]);
}

#[test]
fn registers_read_as_under_another_emulator() {
    const PEER: &str = "/usr/bin/qemu-system-x86_64";
    if !std::path::Path::new(PEER).exists() {
        eprintln!("skipped: {PEER} is not installed (package qemu-system-x86)");
        return;
    }
    let scratch = Scratch::new("parallel-registers");
    let write = |code: Code, register: u16, value: u8| code.out(PORTS[0] + register, value);
    let reads = |code: Code, register: u16, count: u8| {
        (0..count).fold(code, |code, _| code.say_port(PORTS[0] + register))
    };
    // After a reset; latches; a status that cannot be written.
    let mut code = reads(reads(Code::new(), 1, 1), 2, 1);
    for value in [0x55, 0xaa] {
        code = reads(write(code, 0, value), 0, 1);
    }
    code = reads(write(code, 1, 0xff), 1, 1);
    // Printed: B twice, once with AutoFd. Not: while in reset, while not selected, without an edge.
    code = write(code, 0, b'B');
    for control in [0x00, 0x0d, 0x0d, 0x0c, 0x1f, 0x0c, 0x09, 0x08, 0x05, 0x04, 0x0c] {
        code = reads(write(code, 2, control), 1, if control == 0x0c { 4 } else { 1 });
    }
    // Inputs, with which the control register reads back.
    code = reads(reads(write(code, 2, 0x3e), 0, 1), 2, 1).sleep();
    let count = 2 + 2 + 1 + 8 + 3 * 4 + 2;
    let told = |program: &str, own: &[&str]| {
        let printed = scratch.file("printed");
        let printer = format!("file:{printed}");
        let args = code.firmware_args(&scratch);
        let args = args.iter().map(String::as_str).chain(["-parallel", &printer]);
        let mut vm = Vm::start(program, &args.chain(own.iter().copied()).collect::<Vec<_>>());
        let bytes = vm.take(count, 60);
        holds(&printed, b"BB");
        bytes
    };
    let (ours, peer) = (told("qemu", &[]), told(PEER, &["-nic", "none", "-accel", "tcg"]));
    assert_eq!(ours, peer, "ours, the other's");
    assert_eq!(ours[..4], [READY, 0xcc, 0x55, 0xaa]);
}

#[test]
fn system_firmware_finds_the_ports_and_prints_by_interrupt_17h() {
    let scratch = Scratch::new("parallel-bios");
    // xor ax, ax; mov ds, ax; the words at 0408h; xor dx, dx; mov ah, 1; int 17h; mov ax, 'P' with AH 0; int 17h; mov [0x500], ah
    let code = Code::new().bytes(&[0x31, 0xc0, 0x8e, 0xd8]).alone().say("<").say_memory(0x408, 4);
    let code = code.bytes(&[0x31, 0xd2, 0xb4, 1, 0xcd, 0x17, 0xb8, b'P', 0, 0xcd, 0x17, 0x88, 0x26, 0, 5]);
    let code = code.say_memory(0x500, 1).say(">").sleep();
    let (disk, printed) = (scratch.file("disk"), scratch.file("printed"));
    std::fs::write(&disk, code.disk(1 << 20)).expect("disk");
    let file = format!("file:{printed}");
    let args = ["-nographic", "-vga", "none", "-monitor", "null", "-serial", "stdio", "-hda", &disk];
    let mut vm = Vm::start("qemu", &[&args[..], &["-parallel", &file, "-parallel", "null"]].concat());
    // Low byte first, each as two letters from A on. Status: busy, acknowledged (inverted), selected, no error (inverted); no time-out.
    vm.expect("<HIADHIACFA>", 120);
    holds(&printed, b"P");
}

#[test]
fn every_kind_of_back_end_gets_what_is_printed() {
    let scratch = Scratch::new("parallel-kinds");
    let code = print(Code::new(), 0x378, "KEY").say("!").sleep();
    let run = |device: &str, check: &mut dyn FnMut(&mut Vm)| {
        let mut vm = code.start(&scratch, &["-parallel", device]);
        check(&mut vm);
        vm.expect("!", 60);
    };
    fn reads<F: Read>(open: impl FnOnce() -> F + Send + 'static) {
        let got = within(PATIENCE.as_secs(), "nothing is printed", move || {
            let mut got = [0u8; 3];
            open().read_exact(&mut got).expect("what was printed");
            got
        });
        assert_eq!(&got, b"KEY");
    }
    let [fifo, socket] = ["fifo", "socket"].map(|name| scratch.file(name));
    for end in ["in", "out"] {
        let path = std::ffi::CString::new(format!("{fifo}.{end}")).expect("path");
        // SAFETY: a plain system call with a string that lives.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    }
    run(&format!("pipe:{fifo}"), &mut |_| {
        let path = format!("{fifo}.out");
        reads(|| std::fs::File::open(path).expect("pipe"));
    });
    let listener = UnixListener::bind(&socket).expect("socket");
    run(&format!("unix:{socket}"), &mut |_| {
        let listener = listener.try_clone().expect("descriptor");
        reads(move || listener.accept().expect("client").0);
    });
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("socket");
    let address = listener.local_addr().expect("address");
    run(&format!("tcp:{address}"), &mut |_| {
        let listener = listener.try_clone().expect("descriptor");
        reads(move || listener.accept().expect("client").0);
    });
    run("tcp:127.0.0.1:0,server", &mut |vm| {
        vm.expect_error(",server", 60);
        let errors = vm.errors();
        let address =
            errors.split_once("on: tcp:").and_then(|(_, rest)| rest.split_once(',')).expect("address").0;
        let client = TcpStream::connect(address).expect("listening");
        reads(|| client);
    });
    run("pty", &mut |vm| {
        vm.expect_error("char device redirected to /dev/pts/", 60);
        let errors = until("a name", || Some(vm.errors()).filter(|errors| errors.ends_with('\n')));
        let name = errors.trim().rsplit_once(' ').expect("a name").1.to_owned();
        reads(|| std::fs::OpenOptions::new().read(true).write(true).open(name).expect("terminal"));
    });
    run("null", &mut |_| {});
    run("vc", &mut |_| {});
    // Standard output, where the serial port's is in other tests.
    let args = code.firmware_args(&scratch);
    let args: Vec<&str> = args.iter().map(|word| if word == "stdio" { "null" } else { word }).collect();
    let mut vm = Vm::start("qemu", &[&args[..], &["-parallel", "stdio"]].concat());
    vm.expect("KEY", 60);
}

#[test]
fn keys_for_a_monitor_behind_the_port_get_through_whatever_was_typed_before() {
    let scratch = Scratch::new("parallel-mux");
    let args = print(Code::new(), 0x378, "KEY").sleep().firmware_args(&scratch);
    let args: Vec<&str> = args.iter().map(|word| if word == "stdio" { "null" } else { word }).collect();
    let mut vm = Vm::start("qemu", &[&args[..], &["-parallel", "mon:stdio"]].concat());
    vm.expect("KEY", 60);
    // More than the link to the port holds.
    vm.send(&"x".repeat(200_000));
    vm.send("\x01c");
    vm.expect("(qemu) ", 60);
    assert!(vm.ask("info chardev").contains("parallel0: filename=stdio"));
}

#[test]
fn printer_that_takes_nothing_holds_the_guest_up_and_loses_nothing_in_deaths() {
    let scratch = Scratch::new("parallel-stuck");
    let socket = scratch.file("printer");
    // The machine waits for its printer: what is printed before there is one is lost.
    let printer = format!("unix:{socket},server");
    let mut args = counting().firmware_args(&scratch);
    let at = args.iter().position(|word| word == "null").expect("the monitor's");
    args[at] = "stdio".to_owned();
    let at = args.iter().rposition(|word| word == "stdio").expect("the serial port's");
    args[at] = "null".to_owned();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut vm = Vm::start("qemu", &[&args[..], &["-S", "-parallel", &printer]].concat());
    let mut client = until("no listener", || UnixStream::connect(&socket).ok());
    client.set_read_timeout(Some(PATIENCE)).expect("time-out");
    vm.expect("(qemu) ", 60);
    vm.ask("cont");
    let counter = |vm: &mut Vm| {
        let registers = vm.ask("info registers");
        let mut words = registers.split_whitespace();
        words.find_map(|word| word.strip_prefix("EBX=")).expect("EBX").to_owned()
    };
    let is_stuck = |vm: &mut Vm| {
        let mut before = String::new();
        until("the guest never waits", || {
            std::thread::sleep(Duration::from_millis(200));
            let now = counter(vm);
            let stuck = now == before;
            before = now;
            stuck.then_some(())
        });
    };
    is_stuck(&mut vm);
    let (mut device, mut back_end, mut all) = (0, 0, Vec::new());
    for _ in 0..10 {
        device = kill(&vm, "bh-parallel0", device);
        back_end = kill(&vm, "bh-char-par0", back_end);
        let mut bytes = vec![0u8; 20_000];
        client.read_exact(&mut bytes).expect("output");
        all.extend(bytes);
    }
    is_stuck(&mut vm);
    let mut bytes = vec![0u8; 100_000];
    client.read_exact(&mut bytes).expect("output");
    all.extend(bytes);
    is_counted(&all);
    let processes = vm.processes();
    vm.send("quit\n");
    assert_eq!(vm.wait(60).code(), Some(0));
    gone(&processes);
}

/// Loads the drivers and prints the list on the shell's printer while port and back end die, each death followed by some progress.
fn print_under_fire(vm: &Vm, shell: &mut linux::Session, options: &str, printed: &str, wanted: &[u8]) {
    let modules = format!("insmod parport_pc.ko {options}; insmod lp.ko");
    shell.run(&format!("cd /lib/modules/*; insmod parport.ko; {modules}; cd /"));
    shell.tell("cat /tmp/list > /dev/lp0; echo \"pri\"nted $?");
    let length = || std::fs::metadata(printed).map_or(0, |file| file.len() as usize);
    let (mut device, mut back_end, mut deaths) = (0, 0, 0);
    while length() < wanted.len() && deaths < 12 {
        device = kill(vm, "bh-parallel0", device);
        if deaths % 3 == 0 {
            back_end = kill(vm, "bh-char-par0", back_end);
        }
        deaths += 1;
        let goal = (length() + 4000).min(wanted.len());
        until("nothing is printed any more", || (length() >= goal).then_some(()));
    }
    assert!(deaths >= 4, "only {deaths} deaths: the test proved nothing");
    shell.expect("printed 0", 2 * PATIENCE);
    holds(printed, wanted);
}

#[test]
fn linux_prints_a_file_by_interrupts_and_polling_while_port_and_back_end_die() {
    const BYTES: usize = 100_000;
    let scratch = Scratch::new("parallel-linux");
    let printed = scratch.file("printed");
    let (kernel, initrd) = (guest("amd64/vmlinuz"), guest("amd64/initrd.gz"));
    let printer = format!("file:{printed}");
    let vm = Vm::start(
        "qemu-system-x86_64",
        &[
            "-nographic",
            "-vga",
            "none",
            "-m",
            "256",
            "-monitor",
            "null",
            "-kernel",
            &kernel,
            "-initrd",
            &initrd,
            "-append",
            "console=ttyS0",
            "-parallel",
            &printer,
            "-serial",
            "tcp:127.0.0.1:0,server,nowait",
        ],
    );
    let mut shell = linux::Session::open(&linux::address(&vm));
    shell.run(&format!("seq 1 40000 | head -c {BYTES} > /tmp/list"));
    let mut list: Vec<u8> = (1..40_000).flat_map(|number: u32| format!("{number}\n").into_bytes()).collect();
    list.truncate(BYTES);
    let interrupts = |shell: &mut linux::Session| shell.run("awk '/parport0/ {print $2}' /proc/interrupts");
    // With the interrupt that ACPI names: one for each byte.
    print_under_fire(&vm, &mut shell, "", &printed, &list);
    assert_eq!(interrupts(&mut shell), BYTES.to_string());
    shell.run("rmmod lp; rmmod parport_pc");
    print_under_fire(&vm, &mut shell, "io=0x378 irq=none", &printed, &list.repeat(2));
    assert_eq!(interrupts(&mut shell), "");
    // Linux takes a port for EPP whose printer was reset before, under QEMU too.
    let found = shell.run("dmesg | grep -o 'PC-style at .*'");
    let found: Vec<&str> = found.lines().collect();
    assert_eq!(
        found,
        ["PC-style at 0x378, irq 7 [PCSPP,TRISTATE]", "PC-style at 0x378 [PCSPP,TRISTATE,EPP]"]
    );
    assert_eq!(shell.run("dmesg | grep -E 'lp0.*(off|busy|out|error)|nobody cared'"), "");
}
