//! Every kind of character device, with a firmware that says K and then echoes its first serial port.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use bulkhead_tests::{Scratch, Vm};

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

fn start(scratch: &Scratch, serial: &str) -> Vm {
    let mut rom = vec![0u8; 0x1_0000];
    rom[..ECHO.len()].copy_from_slice(ECHO);
    rom[0xfff0..0xfff5].copy_from_slice(&[0xea, 0x00, 0x00, 0x00, 0xf0]);
    let bios = scratch.file("echo.bin");
    std::fs::write(&bios, rom).expect("firmware");
    Vm::start("qemu", &["-nographic", "-vga", "none", "-monitor", "null", "-bios", &bios, "-serial", serial])
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
fn a_pseudo_terminal_works_again_after_it_was_closed() {
    let scratch = Scratch::new("char-pty");
    let vm = start(&scratch, "pty");
    let path = until("no name of a terminal", || {
        let errors = vm.errors();
        let (_, rest) = errors.split_once("char device redirected to ")?;
        rest.split_once('\n').map(|(path, _)| path.to_owned())
    });
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
    let (mut client, _) = listener.accept().expect("a client");
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
    let (mut client, _) = listener.accept().expect("a client");
    client.set_read_timeout(Some(Duration::from_millis(100))).expect("time-out");
    reads(&mut client, "K");
    echoes(&mut client, "over the network");
}
