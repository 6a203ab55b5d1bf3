//! A test suite that a user supplies as firmware or as a multiboot kernel, under ours and the peer: its POST codes, its text, its exit status.

use std::path::Path;
use std::time::{Duration, Instant};

use bulkhead_tests::machine::Machine;

use crate::Side;

/// Ports of POST codes: of PCs, and of PS/2 machines.
pub const PORTS: [u16; 2] = [0x80, 0x190];

/// What the user supplies.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Given {
    /// A ROM for the end of the address space below 4 GiB.
    pub bios: Option<String>,
    /// A multiboot kernel.
    pub kernel: Option<String>,
    /// Its command line.
    pub append: Option<String>,
    /// Its modules.
    pub initrd: Option<String>,
    /// The longest that it may run.
    pub seconds: u64,
    /// For so many seconds it may tell nothing more before it counts as stopped: a ROM has no other end than to halt.
    pub quiet: u64,
}

/// What a suite told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Bytes written to each of [`PORTS`], in their order.
    pub codes: [Vec<u8>; PORTS.len()],
    /// Text on the first serial port.
    pub text: String,
    /// Bytes printed on the first parallel port, as text.
    pub printed: String,
    /// How it ended.
    pub end: End,
    /// What the emulator said on standard error.
    pub errors: String,
}

/// How a run of a suite ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The emulator ended with this status: `value << 1 | 1` for what was written to port F4h.
    Status(i32),
    /// It told something, and then nothing more.
    Silent,
    /// It told nothing at all, or something still, when its time was over.
    TimeOver,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            End::Status(status) => write!(f, "exit status {status}"),
            End::Silent => write!(f, "stopped: it told nothing more"),
            End::TimeOver => write!(f, "its time was over"),
        }
    }
}

/// Waits for the end of the emulator, for silence after something was written to `files`, or for the end of its time.
fn wait(machine: &mut Machine, files: &[&str], given: &Given) -> End {
    let (limit, quiet) = (Duration::from_secs(given.seconds), Duration::from_secs(given.quiet));
    let sizes = || files.iter().map(|file| std::fs::metadata(file).map_or(0, |found| found.len())).sum();
    let start = Instant::now();
    let (mut told, mut since): (u64, _) = (sizes(), start);
    loop {
        if let Some(status) = machine.status(Duration::from_millis(200)) {
            return End::Status(status.code().unwrap_or(-1));
        }
        let now: u64 = sizes();
        if now != told {
            (told, since) = (now, Instant::now());
        } else if told != 0 && since.elapsed() >= quiet {
            return End::Silent;
        }
        if start.elapsed() >= limit {
            return End::TimeOver;
        }
    }
}

/// Runs it on one side. `scratch` is for the files that the emulators write.
///
/// # Errors
/// When the emulator cannot be started or its files cannot be read.
pub fn run(side: &Side, given: &Given, scratch: &Path) -> Result<Told, String> {
    let file = |name: &str| scratch.join(format!("{}-{name}", side.name)).display().to_string();
    let (serial, parallel, log) = (file("serial"), file("parallel"), file("ports"));
    let posts = PORTS.map(|port| file(&format!("{port:x}")));
    for made in [&serial, &parallel, &log].into_iter().chain(&posts) {
        std::fs::write(made, "").map_err(|error| format!("{made}: {error}"))?;
    }
    let options = [&serial, &parallel].map(|path| format!("file:{path}"));
    let ports = ["-serial", &options[0], "-parallel", &options[1]];
    let mut args: Vec<String> = ["-no-reboot", "-net", "none"]
        .into_iter()
        .chain(ports)
        .chain(["-device"])
        .map(String::from)
        .collect();
    args.push("isa-debug-exit,iobase=0xf4,iosize=4".into());
    let options = [
        ("-bios", &given.bios),
        ("-kernel", &given.kernel),
        ("-append", &given.append),
        ("-initrd", &given.initrd),
    ];
    for (option, value) in options {
        args.extend(value.iter().flat_map(|value| [option.to_owned(), value.clone()]));
    }
    let ours = side.name == "ours";
    if ours {
        // It logs every access to a port, from the first instruction on.
        args.extend(["-vnc", "none", "-monitor", "stdio", "-S"].map(String::from));
    } else {
        // A device that writes each byte it is given to a file, over the ports; nobody answers there otherwise. It does not take words.
        args.extend(["-display", "none", "-monitor", "none"].map(String::from));
        for (port, file) in PORTS.iter().zip(&posts) {
            args.extend(["-chardev".into(), format!("file,id=post{port:x},path={file}")]);
            args.extend([
                "-device".into(),
                format!("isa-debugcon,iobase={port:#x},readback=0xff,chardev=post{port:x}"),
            ]);
        }
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut machine = Machine::start(&side.command, &args)?;
    if ours {
        // It may have ended already: then its status and its errors say why.
        let _ = machine.send(&format!("logfile {log}\nlog ioport\ncont\n"));
    }
    let files: Vec<&str> = [&serial, &parallel, &log].into_iter().chain(&posts).map(String::as_str).collect();
    let end = wait(&mut machine, &files, given);
    let errors = machine.errors();
    drop(machine);
    let bytes = |path: &str| std::fs::read(path).map_err(|error| format!("{path}: {error}"));
    let codes = if ours {
        let log = bytes(&log)?;
        let log = String::from_utf8_lossy(&log);
        PORTS.map(|port| written(&log, port))
    } else {
        [bytes(&posts[0])?, bytes(&posts[1])?]
    };
    let text = |path: &str| Ok::<_, String>(String::from_utf8_lossy(&bytes(path)?).replace('\r', ""));
    let (text, printed) = (text(&serial)?, text(&parallel)?);
    Ok(Told { codes, text, printed, end, errors })
}

/// The bytes that a log of port accesses (`-d ioport`) shows written to `port`.
fn written(log: &str, port: u16) -> Vec<u8> {
    log.lines().filter_map(|line| byte_written(line, port)).collect()
}

/// A line is `outSIZE PORT = VALUE`, the numbers but the size in hexadecimal. A word covers two ports.
fn byte_written(line: &str, port: u16) -> Option<u8> {
    let (size, rest) = line.strip_prefix("out")?.split_once(' ')?;
    let (first, value) = rest.split_once(" = ")?;
    let (size, first) = (size.parse::<u16>().ok()?, u16::from_str_radix(first, 16).ok()?);
    let value = u32::from_str_radix(value, 16).ok()?;
    let at = port.checked_sub(first).filter(|at| *at < size)?;
    value.to_le_bytes().get(usize::from(at)).copied()
}

/// Prints what one side told.
pub fn print(name: &str, told: &Told) {
    println!("{name}: {}", told.end);
    for (port, codes) in PORTS.iter().zip(&told.codes) {
        let codes: Vec<String> = codes.iter().map(|code| format!("{code:02x}")).collect();
        println!(
            "  port {port:x}: {}",
            if codes.is_empty() { "nothing".to_owned() } else { codes.join(" ") }
        );
    }
    for (what, text) in [("text", &told.text), ("printed", &told.printed), ("errors", &told.errors)] {
        text.lines().for_each(|line| println!("  {what}: {line}"));
    }
}

/// What two sides did not tell alike, in words.
pub fn differences(ours: &Told, peer: &Told) -> Vec<String> {
    let mut all = Vec::new();
    if ours.end != peer.end {
        all.push(format!("end: ours {}, peer {}", ours.end, peer.end));
    }
    for (at, port) in PORTS.iter().enumerate() {
        let (one, other) = (&ours.codes[at], &peer.codes[at]);
        if one != other {
            let same = one.iter().zip(other).take_while(|(one, other)| one == other).count();
            let code = |codes: &[u8]| codes.get(same).map_or("none".to_owned(), |code| format!("{code:02x}"));
            all.push(format!("port {port:x}, code {same}: ours {}, peer {}", code(one), code(other)));
        }
    }
    for (what, one, other) in [("text", &ours.text, &peer.text), ("printed", &ours.printed, &peer.printed)] {
        let [one, other] = [one, other].map(|text| text.lines().collect::<Vec<_>>());
        if one != other {
            let same = one.iter().zip(&other).take_while(|(one, other)| one == other).count();
            all.push(format!(
                "{what}, line {}: ours {:?}, peer {:?}",
                same + 1,
                one.get(same),
                other.get(same)
            ));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_from_accesses_of_every_size() {
        let log = "in1 0080 = 5\nout1 0080 = 1\nsome text\nout2 0080 = 8203\nout1 0081 = 7\nout4 007f = 4433aa11\nout1 0190 = ff\n";
        assert_eq!(written(log, 0x80), [1, 3, 0xaa]);
        assert_eq!(written(log, 0x190), [0xff]);
    }

    #[test]
    fn every_kind_of_difference_is_said() {
        let told = |codes: &[u8], text: &str, end| Told {
            codes: [codes.to_vec(), Vec::new()],
            text: text.into(),
            printed: text.into(),
            end,
            errors: String::new(),
        };
        let good = told(&[1, 2], "a\nb\n", End::Status(33));
        assert_eq!(differences(&good, &good), Vec::<String>::new());
        assert_eq!(
            differences(&good, &told(&[1], "a\nb\n", End::Status(33))),
            ["port 80, code 1: ours 02, peer none"]
        );
        assert_eq!(differences(&good, &told(&[1, 2], "a\n", End::Silent)).len(), 3);
    }
}
