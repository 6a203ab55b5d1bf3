//! What each role is given, and its page in `security/roles/`: written from the policies, and checked against them by a test.

use std::fmt::Write as _;

use crate::names;
use crate::policies::{self, Call, Test};

/// How a memory is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read.
    Read,
    /// Read and write.
    Write,
    /// Read and execute.
    Run,
}

/// A shared memory of a role.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Last part of its name in `/proc/PID/maps`.
    pub kind: &'static str,
    /// How it is mapped.
    pub access: Access,
    /// What it is for.
    pub what: &'static str,
}

/// One kind of process.
#[derive(Clone, Copy, Debug)]
pub struct Role {
    /// As in the manifest.
    pub name: &'static str,
    /// Program.
    pub program: &'static str,
    /// What it is.
    pub what: &'static str,
    /// Descriptors that stay open beside standard error.
    pub descriptors: &'static [(&'static str, &'static str)],
    /// Memory beside its own.
    pub memory: &'static [Memory],
    /// What an attacker has who controls the process.
    pub taken_over: &'static str,
}

const fn memory(kind: &'static str, access: Access, what: &'static str) -> Memory {
    Memory { kind, access, what }
}

const DEVICE: Memory =
    memory("device", Access::Write, "its ring, responses, state slots, mirror, lines, control mailbox");
const BELL: Memory =
    memory("bell", Access::Write, "its own bell; the virtual CPU's; that of each link's other end");
const BACK_END_BELL: Memory = memory("bell", Access::Write, "its own bell; that of its link's other end");
const IRQ: Memory = memory("irq", Access::Write, "attention word, which devices have news of their lines");
const CLOCK: Memory = memory("clock", Access::Read, "guest time");
const TRACE: Memory =
    memory("trace", Access::Write, "its own trace file: switches, counters, a ring of records");
const STANDBY: Memory =
    memory("standby", Access::Read, "when to take over, if it was started before its predecessor died");
const RAM: Memory = memory("ram", Access::Write, "guest RAM, for its direct memory access");
const CODE: Memory =
    memory("code", Access::Write, "which pages hold compiled code, which of them it changed");
const BULK: Memory = memory("bulk", Access::Write, "its large memory");
const BYTES: Memory = memory("bytes", Access::Write, "byte link to its back end");

const LIES: &str = "It can misbehave as this chip: answer registers wrongly, and raise and lower its own lines. It can wake the \
                    virtual CPU for nothing, or keep it from being woken for a tenth of a second.";

const fn chip(name: &'static str, program: &'static str, what: &'static str) -> Role {
    Role {
        name,
        program,
        what,
        descriptors: &[],
        memory: &[DEVICE, BELL, IRQ, CLOCK, TRACE, STANDBY],
        taken_over: LIES,
    }
}

/// Every kind of process but the broker.
pub const ROLES: &[Role] = &[
    Role {
        memory: &[DEVICE, BELL, IRQ, CLOCK, TRACE, STANDBY, BYTES],
        taken_over: "It can misbehave as this chip, send any bytes to its character back end, and raise its line.",
        ..chip("serial", "bh-serial", "a 16550 serial port")
    },
    Role {
        memory: &[DEVICE, BELL, IRQ, CLOCK, TRACE, STANDBY, BYTES],
        taken_over: "It can misbehave as this chip, send any bytes to its character back end, and raise its line.",
        ..chip("parallel", "bh-parallel", "a parallel port")
    },
    chip("rtc", "bh-rtc", "the MC146818 clock with its CMOS memory"),
    chip("i8042", "bh-i8042", "the keyboard controller with keyboard and mouse"),
    chip("port92", "bh-port92", "system control port A"),
    chip("dma", "bh-dma", "the 8237 pair"),
    Role {
        memory: &[DEVICE, BELL, IRQ, CLOCK, TRACE, STANDBY, BYTES],
        ..chip("debugports", "bh-debugports", "debug ports of the firmware, isa-debug-exit")
    },
    Role {
        memory: &[DEVICE, BELL, IRQ, CLOCK, TRACE, STANDBY, RAM, CODE, BULK],
        taken_over: "It can read and write all of guest RAM, so the guest is lost. Nothing of the host.",
        ..chip("fwcfg", "bh-fwcfg", "the firmware configuration device, a bus master")
    },
    Role {
        memory: &[DEVICE, BELL, IRQ, CLOCK, TRACE, STANDBY, BULK],
        taken_over: "It can show a wrong picture and answer its registers wrongly.",
        ..chip("vga", "bh-vga", "the standard VGA")
    },
    Role {
        memory: &[
            DEVICE,
            BELL,
            IRQ,
            CLOCK,
            TRACE,
            STANDBY,
            memory("ram", Access::Write, "on `pc`: guest RAM, for its direct memory access"),
            memory(
                "code",
                Access::Write,
                "on `pc`: which pages hold compiled code, which of them it changed",
            ),
            memory("block", Access::Write, "block links to its drives: requests with their data"),
        ],
        taken_over: "It can read and write the contents of its drives, through its block links, and on `pc` all of guest RAM, so the \
                     guest is lost. Nothing of the host: it has no image, only links to those who do.",
        ..chip("ide", "bh-ide", "the PIIX3 IDE function, a bus master")
    },
    Role {
        memory: &[DEVICE, BELL, IRQ, CLOCK, TRACE, STANDBY],
        ..chip("template", "bh-template", "the device to copy")
    },
    Role {
        name: "block",
        program: "bh-block",
        what: "the image of one drive",
        descriptors: &[
            ("image0", "the image, opened and locked by the broker, for reading only if the drive is"),
            ("overlay", "with -snapshot: an unlinked temporary file that takes the writes"),
        ],
        memory: &[
            BACK_END_BELL,
            memory("block", Access::Write, "block link to its device: requests with their data"),
            TRACE,
            STANDBY,
        ],
        taken_over: "It can read and write this one image (only read it where the drive is read-only), which is what its guest may do \
                     anyway, and make it longer to whole blocks of 4 KiB. No guest RAM, no interrupt, no other image.",
    },
    Role {
        name: "char",
        program: "bh-char",
        what: "the host side of a serial port, parallel port or monitor",
        descriptors: &[
            ("input, output", "the terminal, pipe, file or pseudo-terminal"),
            ("client", "the client of a socket, accepted by the broker"),
            ("clients", "socket on which the broker sends the next client"),
            ("input-*, output-*", "two pipes with the bytes that must outlive the process"),
            ("monitor", "what the broker's monitor prints, where it is shown"),
        ],
        memory: &[
            BACK_END_BELL,
            memory("bytes", Access::Write, "byte link to its device"),
            memory("keys", Access::Write, "keys for the broker's monitor, where it is shown"),
            memory(
                "journal",
                Access::Write,
                "how far bytes have come, the escape key, keys not yet delivered",
            ),
            TRACE,
            STANDBY,
        ],
        taken_over: "It can read and write its one stream. If the monitor is shown on that stream, it can type monitor commands, which \
                     is as much as whoever sits at the terminal can do: it is as trusted as its client then. No guest RAM, no interrupt.",
    },
    Role {
        name: "cpu",
        program: "bh-cpu",
        what: "the virtual CPU: it runs guest code",
        descriptors: &[("control", "messages from and to the broker"), ("log", "pipe for the items of -d")],
        memory: &[
            memory("device", Access::Write, "the rings of all devices"),
            memory("bell", Access::Write, "its own bell and those of all devices"),
            IRQ,
            CLOCK,
            memory(
                "trace",
                Access::Write,
                "its own trace file: switches, counters, a ring of records, how long it waits for which device",
            ),
            memory("ram", Access::Write, "guest RAM"),
            memory("code", Access::Write, "which pages hold compiled code"),
            memory("bulk", Access::Write, "display memory"),
            memory("rom", Access::Read, "firmware"),
            memory("compiled", Access::Write, "compiled code, the view to write"),
            memory("compiled", Access::Run, "compiled code, the view to run"),
        ],
        taken_over: "It is the guest with native instructions: all of guest RAM, display memory, every register of every device, so the \
                     guest is lost. It can run any instruction by compiling it, but make no system call beyond this list; what devices \
                     and broker take from it they take as claims. By the waits that it tells it can have any device replaced. No file, no image, no stream of the host.",
    },
];

/// One argument's test, in words.
fn test(test: &Test) -> String {
    match *test {
        Test::Is(index, value) => format!("argument {} is {value:#x}", index + 1),
        Test::Bits(index, mask, 0) => format!("argument {} has none of {mask:#x}", index + 1),
        Test::Bits(index, mask, value) => format!("argument {} has of {mask:#x} just {value:#x}", index + 1),
        Test::OwnPid(index) => format!("argument {} is its own process", index + 1),
    }
}

/// Different system calls in a list of rules.
pub fn count(calls: &[&Call]) -> usize {
    let mut numbers: Vec<i64> = calls.iter().map(|call| call.number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers.len()
}

fn calls(page: &mut String, calls: &[&Call]) {
    let _ = writeln!(page, "## System calls: {}\n\n| call | if | for |\n|---|---|---|", count(calls));
    for call in calls {
        let name = names::name(call.number).unwrap_or("?");
        let tests: Vec<String> = call.tests.iter().map(test).collect();
        let _ = writeln!(page, "| `{name}` | {} | {} |", tests.join(", "), call.why);
    }
}

/// The page of a role.
pub fn page(role: &Role) -> String {
    let mut page = format!("# {}\n\n`{}`: {}.\n\n", role.name, role.program, role.what);
    calls(&mut page, &policies::of(role.name).unwrap_or_default());
    page.push_str(
        "\nAnything else stops the thread for good, is reported, and costs the process its life.\n",
    );
    page.push_str("\n## Descriptors\n\n| name | what |\n|---|---|\n| standard error | pipe to the broker, for last words |\n");
    for (name, what) in role.descriptors {
        let _ = writeln!(page, "| {name} | {what} |");
    }
    page.push_str("\n## Memory\n\n| memory | mapped | what |\n|---|---|---|\n");
    for memory in role.memory {
        let access = match memory.access {
            Access::Read => "r",
            Access::Write => "rw",
            Access::Run => "rx",
        };
        let _ = writeln!(page, "| {} | {access} | {} |", memory.kind, memory.what);
    }
    let _ = writeln!(page, "\n## Taken over\n\n{}", role.taken_over);
    page
}

/// The page of the broker.
pub fn broker_page() -> String {
    let mut page =
        "# broker\n\n`qemu`, `qemu-system-*`: trusted; opens, starts, watches, ends.\n\n".to_owned();
    calls(&mut page, &policies::broker());
    page.push_str(
        "\nAnything else is refused with ENOSYS. Successors inherit this list below their own, so it holds what they need to get into \
         their jails, and everything that some role may do.\n",
    );
    page
}
