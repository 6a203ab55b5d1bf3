//! Random command lines: whatever the words are, parsing ends with a machine or one line.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use bulkhead_config::{CharDevice, Target};

use crate::error::{Stop, one_line};
use crate::options::OPTIONS;
use crate::parse;

/// Marsaglia's xorshift64: the same storm every time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % limit
    }
}

const PIECES: &[&str] = &[
    "",
    ",",
    ",,",
    "=",
    ":",
    "-",
    "--",
    "?",
    "x",
    "0",
    "1",
    "2",
    "0x",
    "08",
    "99999999999999999999",
    "M",
    "G",
    "é",
    "\u{0}",
    "\n",
    "file",
    "file=",
    "if=",
    "ide",
    "scsi",
    "index=",
    "bus=",
    "unit=",
    "media=",
    "cdrom",
    "disk",
    "cyls=",
    "heads=",
    "secs=",
    "trans=",
    "lba",
    "snapshot=",
    "on",
    "cache=",
    "none",
    "format=",
    "raw",
    "serial=",
    "tcp:",
    "unix:",
    "mon:",
    "stdio",
    "null",
    "pty",
    "vc:",
    "80Cx24C",
    "pipe:",
    "[::1]:",
    "server",
    "nowait",
    "nodelay",
    "/dev/",
    "sig=",
    "rev=",
    "data=",
    "type=",
    "release=",
    "1.2",
    "uuid=",
    "00112233-4455-6677-8899-aabbccddeeff",
    "isa-debug-exit",
    "iobase=",
    "iosize=",
    "qemu64",
    "+sse",
    "vendor=",
    "now",
    "2006-06-17",
    "T16:01:21",
    "acdn",
    "in_asm",
    "pc",
    "std",
];

fn word(random: &mut Random) -> OsString {
    let mut bytes = Vec::new();
    if random.below(2) == 0 {
        bytes.extend(b"-");
        bytes.extend(OPTIONS[random.below(OPTIONS.len())].name.bytes());
        return OsString::from_vec(bytes);
    }
    for _ in 0..random.below(6) {
        match random.below(12) {
            0 => bytes.push(random.below(256) as u8),
            _ => bytes.extend(PIECES[random.below(PIECES.len())].bytes()),
        }
    }
    OsString::from_vec(bytes)
}

#[test]
fn random_words_never_panic_and_never_break_the_promises_of_the_configuration() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut machines, mut errors) = (0, 0);
    for _ in 0..60_000 {
        let words: Vec<OsString> = (0..random.below(6)).map(|_| word(&mut random)).collect();
        match parse("qemu", Target::X86_64, words.clone()) {
            Ok(request) => {
                machines += 1;
                let config = request.config;
                assert!(
                    config.drives.iter().map(|drive| drive.index).is_sorted_by(|a, b| a < b),
                    "{words:?}"
                );
                assert!(config.drives.iter().all(|drive| drive.index < 4), "{words:?}");
                assert!((1..=3).contains(&config.boot.len()), "{words:?}");
                assert!(config.serials.len() <= 4 && config.parallels.len() <= 3, "{words:?}");
                assert!(config.ram_bytes >= 1 << 20 && config.ram_bytes <= 1 << 40, "{words:?}");
                let ports = config.serials.iter().chain(&config.parallels).chain([&config.monitor]);
                let terminals = ports.filter(|port| match port {
                    CharDevice::Mux(inner) => **inner == CharDevice::Stdio,
                    port => **port == CharDevice::Stdio,
                });
                assert!(terminals.count() <= 1, "{words:?}");
            }
            Err(Stop::Error(error)) => {
                errors += 1;
                assert_eq!(one_line(&error.to_string()).lines().count(), 1, "{words:?}");
            }
            Err(Stop::Print(text)) => assert!(text.ends_with('\n'), "{words:?}"),
        }
    }
    assert!(
        machines > 5_000 && errors > 5_000,
        "the storm is lopsided: {machines} machines, {errors} errors"
    );
}
