//! What users type: monitor lines, command lines, keys of a terminal.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use bulkhead_bus::storm::{Script, Source};
use bulkhead_chardev::mux::{Mux, Stamper, help};
use bulkhead_config::{MachineConfig, Target};
use bulkhead_launcher::error::Stop;
use bulkhead_launcher::options::OPTIONS;
use bulkhead_launcher::parse;

/// Keystrokes into a monitor of a machine without processes.
pub fn monitor(bytes: &[u8]) {
    let config = MachineConfig::new("qemu", Target::X86_64);
    let output = bulkhead_broker::rehearsal::monitor(&config, bytes).expect("sockets for a test");
    assert!(bytes.is_empty() || output.starts_with(b"QEMU 0.10.4 monitor"));
}

/// Commands with arguments that they take.
pub fn monitor_words() -> Vec<Vec<u8>> {
    let names = bulkhead_broker::rehearsal::commands();
    let mut words: Vec<Vec<u8>> = names.iter().map(|name| format!("{name} ").into_bytes()).collect();
    for word in [
        "\r",
        "\t",
        "info ",
        "x/",
        "xp/4096i ",
        "/20xg ",
        "/1c ",
        "$eip",
        "0x",
        "-1",
        "(",
        ")",
        "*",
        "/",
        "%",
        "<<",
        "~",
        "'",
        "\"",
        "ctrl-alt-",
        "-",
        "shift",
        "\x1b[A",
        "\x1b[B",
        "\x1b[3~",
        "\x01",
        "\x05",
        "\x17",
        "\x15",
        "\x0b",
        "\x7f",
        "18446744073709551615",
        "9223372036854775808",
    ] {
        words.push(word.as_bytes().to_vec());
    }
    words
}

/// A command line, its words separated by line feeds.
pub fn command_line(bytes: &[u8]) {
    let (target, bytes) = match bytes.split_first() {
        Some((first, rest)) if first & 1 == 0 => (Target::I386, rest),
        Some((_, rest)) => (Target::X86_64, rest),
        None => (Target::X86_64, bytes),
    };
    let args = || bytes.split(|byte| *byte == b'\n').map(|word| OsString::from_vec(word.to_vec()));
    let first = parse("qemu", target, args());
    match &first {
        Ok(request) => assert!(request.config.cpus >= 1),
        Err(Stop::Error(error)) => assert!(!error.to_string().is_empty()),
        Err(Stop::Print(text)) => assert!(!text.is_empty()),
    }
    let second = parse("qemu", target, args());
    assert_eq!(format!("{first:?}"), format!("{second:?}"));
}

/// Options, and pieces of their arguments.
pub fn option_words() -> Vec<Vec<u8>> {
    let mut words: Vec<Vec<u8>> =
        OPTIONS.iter().map(|row| format!("\n-{}\n", row.name).into_bytes()).collect();
    for word in [
        "file=",
        "if=ide",
        "index=",
        "bus=",
        "unit=",
        "media=cdrom",
        "cache=none",
        "snapshot=on",
        "cyls=",
        "heads=",
        "secs=",
        "trans=",
        "serial=",
        "format=raw",
        ",",
        ",,",
        ":",
        "tcp:",
        "unix:",
        "pipe:",
        "mon:",
        "stdio",
        "pty",
        "null",
        "none",
        "vc",
        "server",
        "nowait",
        "nodelay",
        "wait",
        "telnet:",
        "udp:",
        "sig=",
        "rev=",
        "oem_id=",
        "oem_table_id=",
        "oem_rev=",
        "asl_compiler_id=",
        "asl_compiler_rev=",
        "data=",
        "type=0",
        "type=1",
        "uuid=",
        "release=",
        "date=",
        "vendor=",
        "version=",
        "pc",
        "isapc",
        "qemu64",
        "core2duo",
        "+sse3",
        "-nx",
        "max",
        "std",
        "cirrus",
        "now",
        "2006-06-17T16:01:21",
        "order=",
        "isa-debug-exit",
        "iobase=0xf4",
        "iosize=4",
        "G",
        "M",
        "k",
        "4294967296",
        "-1",
        "0x10",
        "1e9",
        "once=",
    ] {
        words.push(word.as_bytes().to_vec());
    }
    words
}

/// Typed bytes and shown bytes of a terminal.
pub fn escape_key(bytes: &[u8]) {
    let mut source = Script::new(bytes);
    let flags = source.below(8);
    let escape = source.below(256) as u8;
    let mut mux = Mux::new(flags & 1 != 0, escape, flags & 2 != 0, flags & 4 != 0);
    assert!(!help(escape).is_empty());
    let mut stamper = Stamper::default();
    while !source.is_spent() {
        let _ = mux.take(source.below(256) as u8);
        if source.below(4) == 0 {
            let bytes = source.take(16);
            let stamped = stamper.stamp(&bytes, source.draw());
            assert!(stamped.len() >= bytes.len() && stamped.len() <= bytes.len() * 64);
        }
    }
}
