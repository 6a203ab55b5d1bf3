//! Every kind of character device, with a firmware that says K and then echoes its first serial port.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bulkhead_tests::code::Code;
use bulkhead_tests::{Scratch, Vm, serving, within};

/// Size of a large transfer, in bytes.
const LARGE: usize = 1 << 18;

/// 16-bit code at F000:0000: send K; for ever, wait for a byte and send it back.
const ECHO: &[u8] = &[
    0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, b'K', // mov al, 'K'
    0xee, // out dx, al
    0xba, 0xfd, 0x03, // again: mov dx, 0x3fd
    0xec, // in al, dx
    0xa8, 0x01, // test al, 1
    0x74, 0xf8, // jz again
    0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xec, // in al, dx
    0xee, // out dx, al
    0xeb, 0xf1, // jmp again
];

fn firmware(scratch: &Scratch, code: &Code) -> String {
    let bios = scratch.file("code.rom");
    std::fs::write(&bios, code.firmware(0x1_0000)).expect("firmware");
    bios
}

/// A VM whose firmware echoes what `serial` receives.
fn start(scratch: &Scratch, serial: &str) -> Vm {
    start_with(scratch, &["-monitor", "null", "-serial", serial])
}

fn start_with(scratch: &Scratch, more: &[&str]) -> Vm {
    let bios = firmware(scratch, &Code::new().bytes(ECHO));
    let mut args = vec!["-nographic", "-vga", "none", "-bios", &bios];
    args.extend(more);
    Vm::start("qemu", &args)
}

/// Tries until it works or 20 seconds have passed.
fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What standard error says behind `text`, up to `end`.
fn told(vm: &Vm, text: &str, end: char) -> String {
    until(text, || {
        let errors = vm.errors();
        let (_, rest) = errors.split_once(text)?;
        rest.split_once(end).map(|(told, _)| told.to_owned())
    })
}

/// Reads until `text` has come.
fn reads(from: &mut impl Read, text: &str) {
    let mut got = Vec::new();
    until(&format!("no {text:?}"), || {
        let mut bytes = [0u8; 256];
        match from.read(&mut bytes) {
            Ok(count) => got.extend_from_slice(&bytes[..count]),
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}")
            }
        }
        String::from_utf8_lossy(&got).contains(text).then_some(())
    });
}

/// Writes a text and reads it back.
fn echoes(stream: &mut (impl Read + Write), text: &str) {
    stream.write_all(text.as_bytes()).expect("writable");
    reads(stream, text);
}

#[test]
fn stdio_carries_both_directions() {
    let scratch = Scratch::new("char-stdio");
    let mut vm = start(&scratch, "stdio");
    vm.expect("K", 20);
    vm.send("hello\x01x");
    vm.expect("hello\x01x", 20);
}

/// How often a thread has gone to sleep, while it sleeps.
fn sleeps(pid: u32, name: &str) -> Option<u64> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let mut texts = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("status")).ok());
    let text = texts.find(|text| text.lines().next().is_some_and(|line| line == format!("Name:\t{name}")))?;
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    value("State:").filter(|state| state.starts_with('S'))?;
    value("voluntary_ctxt_switches:")?.parse().ok()
}

/// Ends the standard input of a VM and waits until its back end `name` has dealt with that: it still lives.
fn end_input(vm: &mut Vm, name: &str) {
    let processes = serving(vm.pid());
    let (pid, _) = processes.iter().find(|(_, have)| have == name).cloned().expect("the back end");
    let before = until("the back end never waits", || sleeps(pid, "host"));
    vm.close_input();
    until("the end is not noticed, or was too much", || sleeps(pid, "host").filter(|now| *now > before));
    assert_eq!(serving(vm.pid()), processes, "{}", vm.errors());
}

#[test]
fn the_end_of_standard_input_ends_input_and_nothing_else() {
    let scratch = Scratch::new("char-eof");
    let socket = scratch.file("monitor");
    // Counts on the port for ever.
    let code = Code::new().bytes(&[0xb3, 0, 0x88, 0xd8]).put().bytes(&[0xfe, 0xc3, 0xeb, 0xf7]);
    let bios = firmware(&scratch, &code);
    let base = ["-nographic", "-vga", "none", "-bios", &bios];
    let monitor = format!("unix:{socket},server,nowait");
    let mut vm = Vm::start("qemu", &[&base[..], &["-S", "-serial", "stdio", "-monitor", &monitor]].concat());
    let mut client = bulkhead_tests::Monitor::connect(&socket);
    end_input(&mut vm, "bh-char-serial0");
    let table = client.ask("info restarts");
    assert!(table.contains("\n0 deaths answered"), "{table}");
    assert_eq!(client.ask("info status"), "VM status: paused\n");
    // Output goes on.
    client.ask("cont");
    let bytes = vm.take(1 << 16, 60);
    let wrong = bytes.iter().enumerate().position(|(at, byte)| *byte != at as u8);
    assert_eq!(wrong, None, "first lost byte");
    client.tell("quit");
    assert_eq!(vm.wait(20).code(), Some(0));
    assert_eq!(vm.errors(), "");

    let mut vm = Vm::start("qemu", &[&base[..], &["-S", "-serial", "null", "-monitor", "stdio"]].concat());
    vm.expect("(qemu) ", 20);
    end_input(&mut vm, "bh-char-monitor");
    vm.signal(libc::SIGTERM);
    assert_eq!(vm.wait(20).code(), Some(0));
    assert_eq!(vm.errors(), "");
}

#[test]
fn a_file_gets_the_output() {
    let scratch = Scratch::new("char-file");
    let file = scratch.file("log");
    let _vm = start(&scratch, &format!("file:{file}"));
    until("no output in the file", || (std::fs::read(&file).ok()? == b"K").then_some(()));
}

#[test]
fn a_pair_of_pipes_carries_both_directions() {
    let scratch = Scratch::new("char-pipe");
    let name = scratch.file("pipe");
    for suffix in [".in", ".out"] {
        let path = std::ffi::CString::new(format!("{name}{suffix}")).expect("path");
        // SAFETY: a valid C string.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    }
    let mut output = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(format!("{name}.out"))
        .expect("pipe");
    let _vm = start(&scratch, &format!("pipe:{name}"));
    reads(&mut output, "K");
    let mut input = OpenOptions::new().write(true).open(format!("{name}.in")).expect("pipe");
    input.write_all(b"through").expect("writable");
    reads(&mut output, "through");
}

#[test]
fn a_single_pipe_carries_both_directions() {
    let scratch = Scratch::new("char-fifo");
    let name = scratch.file("pipe");
    let path = std::ffi::CString::new(name.as_str()).expect("path");
    // SAFETY: a valid C string.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    let mut pipe =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&name).expect("pipe");
    let _vm = start(&scratch, &format!("pipe:{name}"));
    // One pipe has no sides: whoever reads first gets a byte, the echo's own output included. It goes round until it comes here.
    reads(&mut pipe, "K");
}

#[test]
fn a_pseudo_terminal_works_again_after_it_was_closed() {
    let scratch = Scratch::new("char-pty");
    let vm = start(&scratch, "pty");
    let path = told(&vm, "char device redirected to ", '\n');
    for text in ["first", "second"] {
        let mut terminal: File = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
            .open(&path)
            .expect("terminal");
        let mut got = Vec::new();
        until(text, || {
            // Until the back end has noticed that somebody is there, its output has nowhere to go.
            terminal.write_all(text.as_bytes()).expect("writable");
            std::thread::sleep(Duration::from_millis(100));
            let mut bytes = [0u8; 256];
            if let Ok(count) = terminal.read(&mut bytes) {
                got.extend_from_slice(&bytes[..count]);
            }
            String::from_utf8_lossy(&got).contains(text).then_some(())
        });
    }
}

#[test]
fn a_unix_server_takes_one_client_after_the_other() {
    let scratch = Scratch::new("char-unix");
    let path = scratch.file("socket");
    let _vm = start(&scratch, &format!("unix:{path},server,nowait"));
    for text in ["first", "second"] {
        let mut client = until("no listener", || UnixStream::connect(&path).ok());
        client.set_read_timeout(Some(Duration::from_millis(100))).expect("time-out");
        echoes(&mut client, text);
    }
}

#[test]
fn a_unix_client_connects_at_start() {
    let scratch = Scratch::new("char-unix-client");
    let path = scratch.file("socket");
    let listener = UnixListener::bind(&path).expect("socket");
    let _vm = start(&scratch, &format!("unix:{path}"));
    let (mut client, _) = within(20, "no client", move || listener.accept()).expect("a client");
    client.set_read_timeout(Some(Duration::from_millis(100))).expect("time-out");
    reads(&mut client, "K");
    echoes(&mut client, "over a socket");
}

#[test]
fn a_tcp_server_that_waits_loses_nothing() {
    let scratch = Scratch::new("char-tcp");
    let vm = start(&scratch, "tcp:127.0.0.1:0,server,nodelay");
    let address = until("no address", || {
        let errors = vm.errors();
        let (_, rest) = errors.split_once("QEMU waiting for connection on: tcp:")?;
        rest.split_once(',').map(|(address, _)| address.to_owned())
    });
    let mut client = TcpStream::connect(&address).expect("listening");
    client.set_read_timeout(Some(Duration::from_millis(100))).expect("time-out");
    reads(&mut client, "K");
    echoes(&mut client, &"0123456789".repeat(500));
}

#[test]
fn a_tcp_client_connects_at_start() {
    let scratch = Scratch::new("char-tcp-client");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("address").port();
    let _vm = start(&scratch, &format!("tcp:localhost:{port}"));
    let (mut client, _) = within(20, "no client", move || listener.accept()).expect("a client");
    client.set_read_timeout(Some(Duration::from_millis(100))).expect("time-out");
    reads(&mut client, "K");
    echoes(&mut client, "over the network");
}

/// A byte sequence without short periods.
fn pattern(count: usize) -> Vec<u8> {
    let mut state = 0x2545_f491u32;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 11) as u8
        })
        .collect()
}

#[test]
fn a_large_transfer_comes_back_unharmed_and_in_order() {
    let scratch = Scratch::new("char-large");
    let path = scratch.file("socket");
    let _vm = start(&scratch, &format!("unix:{path},server,nowait"));
    let client = until("no listener", || UnixStream::connect(&path).ok());
    client.set_read_timeout(Some(Duration::from_secs(60))).expect("time-out");
    let data = pattern(LARGE);
    let (mut to, mut from) = (client.try_clone().expect("descriptor"), client);
    let sent = data.clone();
    let writer = std::thread::spawn(move || to.write_all(&sent).expect("writable"));
    let mut got = vec![0u8; LARGE];
    let mut start = [0u8];
    // The greeting may have gone before there was a client.
    from.read_exact(&mut start).expect("echo");
    if start[0] == b'K' && data[0] != b'K' {
        from.read_exact(&mut start).expect("echo");
    }
    got[0] = start[0];
    from.read_exact(&mut got[1..]).expect("echo");
    writer.join().expect("writer");
    let wrong = got.iter().zip(&data).position(|(got, sent)| got != sent);
    assert_eq!(wrong, None, "first difference");
}

#[test]
fn a_client_that_does_not_read_stops_the_transmitter_but_not_the_machine() {
    let scratch = Scratch::new("char-stuck");
    let socket = scratch.file("socket");
    // Counts on the port for ever.
    let code = Code::new().bytes(&[0xb3, 0, 0x88, 0xd8]).put().bytes(&[0xfe, 0xc3, 0xeb, 0xf7]);
    let bios = firmware(&scratch, &code);
    let serial = format!("unix:{socket},server");
    let mut vm =
        Vm::start("qemu", &["-vga", "none", "-bios", &bios, "-serial", &serial, "-monitor", "stdio"]);
    let mut client = until("no listener", || UnixStream::connect(&socket).ok());
    client.set_read_timeout(Some(Duration::from_secs(20))).expect("time-out");
    vm.expect("(qemu) ", 20);
    // The socket's buffer fills; then the guest finds its transmitter busy, and the monitor still answers.
    let mut before = String::new();
    until("the guest never waits", || {
        std::thread::sleep(Duration::from_millis(100));
        let registers = vm.ask("info registers");
        let counter =
            registers.split_whitespace().find_map(|word| word.strip_prefix("EBX=")).map(str::to_owned);
        let counter = counter.expect("EBX");
        let stuck = counter == before;
        before = counter;
        stuck.then_some(())
    });
    assert_eq!(vm.ask("info status"), "VM status: running\n");
    let mut bytes = vec![0u8; 1 << 18];
    client.read_exact(&mut bytes).expect("output");
    let wrong = bytes.iter().enumerate().position(|(at, byte)| *byte != at as u8);
    assert_eq!(wrong, None, "first lost byte");
    vm.send("quit\n");
    assert_eq!(vm.wait(20).code(), Some(0));
}

#[test]
fn four_serial_ports_and_none_beyond_those_given() {
    let scratch = Scratch::new("char-ports");
    // The line status of each port, then one letter to each.
    let code = [0x3fdu16, 0x2fd, 0x3ed, 0x2ed].iter().fold(Code::new(), |code, port| code.say_port(*port));
    let code = code.out(0x2f8, b'2').out(0x3e8, b'3').out(0x2e8, b'4').say("!").sleep();
    let bios = firmware(&scratch, &code);
    let base = ["-nographic", "-vga", "none", "-monitor", "null", "-bios", &bios];
    let files: Vec<String> = (2..5).map(|port| scratch.file(&format!("port{port}"))).collect();
    let options: Vec<String> = files.iter().map(|file| format!("file:{file}")).collect();
    let mut args = base.to_vec();
    args.extend(["-serial", "stdio"]);
    options.iter().for_each(|option| args.extend(["-serial", option]));
    let mut vm = Vm::start("qemu", &args);
    assert_eq!(vm.take(5, 20), [0x60, 0x60, 0x60, 0x60, b'!']);
    for (file, letter) in files.iter().zip(["2", "3", "4"]) {
        until(file, || (std::fs::read(file).ok()? == letter.as_bytes()).then_some(()));
    }
    // None of the second, null for the third.
    let mut args = base.to_vec();
    args.extend(["-serial", "stdio", "-serial", "none", "-serial", "null"]);
    let mut vm = Vm::start("qemu", &args);
    assert_eq!(vm.take(5, 20), [0x60, 0xff, 0x60, 0xff, b'!']);
}

#[test]
fn a_fifth_serial_port_is_refused() {
    let mut args = vec!["-nographic"];
    (0..5).for_each(|_| args.extend(["-serial", "null"]));
    let mut vm = Vm::start("qemu", &args);
    assert_eq!(vm.wait(20).code(), Some(1));
    assert!(vm.errors().contains("-serial"), "{}", vm.errors());
}

#[test]
fn a_tcp_server_takes_one_client_after_the_other() {
    let scratch = Scratch::new("char-tcp-next");
    let vm = start(&scratch, "tcp:127.0.0.1:0,server,nowait");
    let address = told(&vm, "char device listening on tcp:", ',');
    for text in ["first", "second", "third"] {
        let mut client = TcpStream::connect(&address).expect("listening");
        client.set_read_timeout(Some(Duration::from_millis(100))).expect("time-out");
        echoes(&mut client, text);
    }
    assert!(!vm.errors().contains("bh-char"), "{}", vm.errors());
}

#[test]
fn a_unix_server_that_waits_starts_the_machine_with_its_client() {
    let scratch = Scratch::new("char-unix-wait");
    let path = scratch.file("socket");
    let vm = start(&scratch, &format!("unix:{path},server"));
    until("no message", || {
        vm.errors().contains(&format!("QEMU waiting for connection on: unix:{path}")).then_some(())
    });
    assert_eq!(vm.processes().len(), 1, "{:?}", vm.processes());
    let mut client = UnixStream::connect(&path).expect("listening");
    client.set_read_timeout(Some(Duration::from_millis(100))).expect("time-out");
    reads(&mut client, "K");
    echoes(&mut client, "awake");
}

#[test]
fn the_keys_of_the_multiplexer_do_what_the_manual_says() {
    let scratch = Scratch::new("char-mux");
    let mut vm = start_with(&scratch, &["-serial", "mon:stdio"]);
    vm.expect("K", 20);
    // Doubled, the escape character goes to the guest.
    vm.send("a\x01\x01b");
    vm.expect("a\x01b", 20);
    vm.send("\x01h");
    vm.expect("C-a c    switch between console and monitor", 20);
    // A break is received as a zero byte.
    vm.send("\x01bz");
    vm.expect("\0z", 20);
    vm.send("\x01c");
    vm.expect("(qemu) ", 20);
    vm.send("info name\n");
    vm.expect("(qemu) ", 20);
    vm.send("\x01cback");
    vm.expect("back", 20);
    // With time stamps, a line begins with the time since the start.
    vm.send("\x01t\n");
    vm.send("x\n");
    let line = vm.expect("x\n", 20);
    assert!(line.contains("[00:00:"), "{line:?}");
    vm.send("\x01t\n");
    vm.expect("\n", 20);
    // What is not built is refused where it was asked for; the VM goes on.
    vm.send("\x01s");
    vm.expect("commit: not supported yet", 20);
    vm.send("go");
    vm.expect("go", 20);
    vm.send("\x01x");
    vm.expect("QEMU: Terminated", 20);
    assert_eq!(vm.wait(20).code(), Some(0));
}

#[test]
fn the_exit_key_works_on_a_terminal_that_takes_nothing() {
    let scratch = Scratch::new("char-blocked");
    // Says 0 for ever, to nobody who would read.
    let code = Code::new().bytes(&[0xb0, b'0']).put().bytes(&[0xeb, 0xf9]);
    let bios = firmware(&scratch, &code);
    let (_output, full) = std::io::pipe().expect("pipe");
    let args = ["-nographic", "-vga", "none", "-bios", &bios];
    let mut vm = Vm::start_unshown("qemu", &args, full.try_clone().expect("descriptor"));
    let is_full = || {
        let raw = std::os::fd::AsRawFd::as_raw_fd(&full);
        let mut fd = libc::pollfd { fd: raw, events: libc::POLLOUT, revents: 0 };
        // SAFETY: one structure that lives over the call.
        unsafe { libc::poll(&raw mut fd, 1, 0) == 0 }
    };
    until("the pipe is never full", || is_full().then_some(()));
    vm.send("\x01x");
    assert_eq!(vm.wait(20).code(), Some(0), "{}", vm.errors());
}

#[test]
fn another_escape_character_takes_the_place_of_the_first() {
    let scratch = Scratch::new("char-echr");
    for echr in ["2", "0x02"] {
        let mut vm = start_with(&scratch, &["-serial", "mon:stdio", "-echr", echr]);
        vm.expect("K", 20);
        vm.send("\x01x");
        vm.expect("\x01x", 20);
        vm.send("\x02h");
        vm.expect("C-b x    exit emulator", 20);
        vm.send("\x02x");
        assert_eq!(vm.wait(20).code(), Some(0));
    }
}

/// Types a command at a monitor and reads its answer.
fn answers(stream: &mut (impl Read + Write)) {
    stream.write_all(b"info status\n").expect("writable");
    reads(stream, "VM status: running");
}

#[test]
fn the_monitor_is_at_any_kind_of_device() {
    let scratch = Scratch::new("char-monitor");
    let path = scratch.file("monitor");
    let mut vm = start_with(&scratch, &["-serial", "null", "-monitor", "stdio"]);
    vm.expect("(qemu) ", 20);
    assert_eq!(vm.ask("info status"), "VM status: running\n");
    drop(vm);

    let vm = start_with(&scratch, &["-serial", "null", "-monitor", &format!("unix:{path},server,nowait")]);
    for _ in 0..2 {
        let mut client = until("no listener", || UnixStream::connect(&path).ok());
        client.set_read_timeout(Some(Duration::from_millis(100))).expect("time-out");
        answers(&mut client);
    }
    drop(vm);

    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("address").port();
    let vm = start_with(&scratch, &["-serial", "null", "-monitor", &format!("tcp:127.0.0.1:{port},nodelay")]);
    let (mut client, _) = within(20, "no client", move || listener.accept()).expect("a client");
    client.set_read_timeout(Some(Duration::from_millis(100))).expect("time-out");
    answers(&mut client);
    drop(vm);

    let vm = start_with(&scratch, &["-serial", "null", "-monitor", "pty"]);
    let path = told(&vm, "char device redirected to ", '\n');
    let mut terminal: File = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
        .open(&path)
        .expect("terminal");
    answers(&mut terminal);
}

/// Kills the back end of the first serial port again and again until told to stop, and counts. After `end` it kills the machine:
/// whoever waits for a lost byte, on a pipe or a terminal without a limit, then waits no more.
fn executioner(vm: &Vm, stop: &AtomicBool, deaths: &AtomicU64, end: Instant) {
    let mut last = 0;
    while !stop.load(Ordering::SeqCst) {
        if Instant::now() > end {
            return vm.signal(libc::SIGKILL);
        }
        let all = vm.processes();
        if let Some((pid, _)) = all.iter().find(|(pid, name)| name == "bh-char-serial0" && *pid != last) {
            last = *pid;
            // SAFETY: a plain system call on a process of our own VM.
            unsafe { libc::kill(*pid as i32, libc::SIGKILL) };
            deaths.fetch_add(1, Ordering::SeqCst);
        }
        std::thread::sleep(Duration::from_millis(2 + deaths.load(Ordering::SeqCst) % 7));
    }
}

/// How many deaths a stream has to cross: with fewer, it proved nothing.
const DEATHS: u64 = 8;

/// Sends a pattern to the echoing firmware and compares what comes back.
fn crosses(mut to: impl Write + Send, mut from: impl Read, data: &[u8]) -> Result<(), String> {
    let mut got = vec![0u8; data.len()];
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || to.write_all(data));
        let read = from.read_exact(&mut got).map_err(|error| format!("reading: {error}"));
        read.and(writer.join().expect("writer").map_err(|error| format!("writing: {error}")))
    })?;
    match got.iter().zip(data).position(|(got, sent)| got != sent) {
        Some(first) => Err(format!("the first difference is at byte {first}")),
        None => Ok(()),
    }
}

/// Sends patterns of so many bytes while the back end is killed all the time, until [`DEATHS`] were crossed.
fn crosses_deaths(vm: &Vm, mut to: impl Write + Send, mut from: impl Read, bytes: usize) {
    let (stop, deaths, data) = (AtomicBool::new(false), AtomicU64::new(0), pattern(bytes));
    let too_late = Instant::now() + Duration::from_secs(120);
    let stuck = too_late + Duration::from_secs(60);
    let crossed = std::thread::scope(|scope| {
        scope.spawn(|| executioner(vm, &stop, &deaths, stuck));
        let crossed = loop {
            let crossed = crosses(&mut to, &mut from, &data);
            if crossed.is_err() || deaths.load(Ordering::SeqCst) >= DEATHS {
                break crossed;
            }
            if Instant::now() > too_late {
                break Err(format!("only {deaths:?} deaths"));
            }
        };
        stop.store(true, Ordering::SeqCst);
        crossed
    });
    crossed.unwrap_or_else(|reason| panic!("{reason}; {}", vm.errors()));
}

#[test]
fn tcp_session_survives_the_deaths_of_its_back_end_without_losing_a_byte() {
    let scratch = Scratch::new("char-tcp-deaths");
    let vm = start(&scratch, "tcp:127.0.0.1:0,server,nowait");
    let address = told(&vm, "char device listening on tcp:", ',');
    let mut client = TcpStream::connect(&address).expect("a client");
    client.set_read_timeout(Some(Duration::from_secs(120))).expect("time-out");
    // The greeting may have gone before there was a client.
    echoes(&mut client, "hello");
    let to = client.try_clone().expect("descriptor");
    crosses_deaths(&vm, to, &mut client, LARGE);
    // The listener lives too: the client goes while its back end is dead, and another one comes.
    client.shutdown(std::net::Shutdown::Both).expect("shutdown");
    let mut next = TcpStream::connect(&address).expect("another client");
    next.set_read_timeout(Some(Duration::from_secs(60))).expect("time-out");
    echoes(&mut next, "again");
}

#[test]
fn unix_sockets_pipes_and_pseudo_terminals_lose_no_byte_by_deaths() {
    let scratch = Scratch::new("char-deaths");
    let socket = scratch.file("socket");
    let vm = start(&scratch, &format!("unix:{socket},server,nowait"));
    let mut client = until("no listener", || UnixStream::connect(&socket).ok());
    client.set_read_timeout(Some(Duration::from_secs(120))).expect("time-out");
    echoes(&mut client, "hello");
    let to = client.try_clone().expect("descriptor");
    crosses_deaths(&vm, to, &mut client, LARGE / 4);
    drop(vm);

    let name = scratch.file("pipe");
    for suffix in [".in", ".out"] {
        let path = std::ffi::CString::new(format!("{name}{suffix}")).expect("path");
        // SAFETY: a valid C string.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    }
    let vm = start(&scratch, &format!("pipe:{name}"));
    let path = format!("{name}.out");
    let mut output = within(20, "nobody writes", move || File::open(path)).expect("pipe");
    let (greeting, output) = within(20, "no greeting", move || {
        let mut greeting = [0u8];
        output.read_exact(&mut greeting).map(|()| (greeting, output))
    })
    .expect("readable");
    assert_eq!(greeting, *b"K");
    let input = OpenOptions::new().write(true).open(format!("{name}.in")).expect("pipe");
    crosses_deaths(&vm, input, output, LARGE / 4);
    drop(vm);

    let vm = start(&scratch, "pty");
    let path = told(&vm, "char device redirected to ", '\n');
    let terminal = OpenOptions::new().read(true).write(true).open(&path).expect("terminal");
    let mut from = terminal.try_clone().expect("descriptor");
    let from = within(20, "no echo", move || {
        echoes(&mut from, "hello");
        from
    });
    crosses_deaths(&vm, terminal, from, LARGE / 16);
}

#[test]
fn escape_key_and_monitor_line_outlive_the_back_end() {
    let scratch = Scratch::new("char-mux-deaths");
    let socket = scratch.file("socket");
    let vm =
        start_with(&scratch, &["-monitor", "null", "-serial", &format!("mon:unix:{socket},server,nowait")]);
    let mut client = until("no listener", || UnixStream::connect(&socket).ok());
    client.set_read_timeout(Some(Duration::from_secs(60))).expect("time-out");
    echoes(&mut client, "hello");
    let die = || {
        let pid = until("no back end", || {
            bulkhead_tests::tree(vm.pid()).into_iter().find(|(_, name)| name == "bh-char-serial0")
        });
        // SAFETY: a plain system call on a process of our own VM.
        unsafe { libc::kill(pid.0 as i32, libc::SIGKILL) };
        bulkhead_tests::gone(&[pid]);
    };
    // Each of these bytes is typed into another process.
    for (number, byte) in b"\x01cinfo version\r".iter().enumerate() {
        client.write_all(&[*byte]).expect("writable");
        if number % 3 == 0 {
            die();
        }
    }
    reads(&mut client, "0.10.4\r\n");
    client.write_all(b"\x01").expect("writable");
    die();
    client.write_all(b"c").expect("writable");
    die();
    echoes(&mut client, "the serial port again");
}
