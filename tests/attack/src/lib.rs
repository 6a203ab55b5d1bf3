//! Machines with one process that was taken over, see `bh-hostile`. Whatever it does, the broker, the CPU process and the other
//! devices go on: a guest checks them from inside, this from outside.

use std::path::Path;
use std::time::{Duration, Instant};

use bulkhead_tests::code::Code;
use bulkhead_tests::{Monitor, Scratch, Vm};

/// How long the guest may take for a round of its checks, and the monitor for an answer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The sector that kills `bh-frail`.
pub const DEADLY_SECTOR: u8 = 100;

/// One process to take over.
#[derive(Clone, Copy, Debug)]
pub struct Victim {
    /// Name of the process.
    pub process: &'static str,
    /// Its program.
    pub program: &'static str,
    /// Ports that the guest reads and writes all the time so that the lies are heard.
    pub ports: &'static [u16],
    /// What the guest cannot check with this victim.
    pub without: Without,
    /// Whether it lies in guest RAM too, if it has it.
    pub in_ram: bool,
    /// Its own back ends: it can ask them to end, as the broker does, and nothing more.
    pub back_ends: &'static [&'static str],
}

/// See [`Victim::without`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    /// Everything is checked.
    Nothing,
    /// The clock is the victim.
    Clock,
    /// The disk or its controller is the victim.
    Disk,
    /// The victim may reset the machine or write its memory: only what is outside is checked.
    Guest,
    /// The victim may also end the machine, or is the machine.
    Machine,
}

/// Every process of a machine but the broker. A new device joins by a line.
pub const VICTIMS: &[Victim] = &[
    Victim {
        back_ends: &["bh-char-serial1"],
        ..victim("bh-serial1", "bh-serial", &[0x2f8, 0x2f9, 0x2fa, 0x2fd], Without::Nothing)
    },
    Victim {
        back_ends: &["bh-char-par0"],
        ..victim("bh-parallel0", "bh-parallel", &[0x378, 0x379, 0x37a], Without::Nothing)
    },
    victim("bh-rtc", "bh-rtc", &[0x71], Without::Clock),
    // The wires of these two reset the machine.
    victim("bh-i8042", "bh-i8042", &[0x60, 0x64], Without::Guest),
    victim("bh-port92", "bh-port92", &[0x92], Without::Guest),
    // Its wires end the machine.
    victim("bh-debugports", "bh-debugports", &[0x402], Without::Machine),
    victim("bh-dma", "bh-dma", &[0x00, 0x08, 0x87], Without::Nothing),
    victim("bh-fwcfg", "bh-fwcfg", &[0x511], Without::Nothing),
    victim("bh-vga", "bh-vga", &[0x3c5, 0x3d5, 0x1cf], Without::Nothing),
    victim("bh-ide0", "bh-ide", &[0x1f2, 0x1f7, 0x177], Without::Disk),
    victim("bh-block-hda", "bh-block", &[], Without::Nothing),
    victim("bh-char-serial1", "bh-char", &[0x2f8, 0x2fd], Without::Nothing),
    Victim { in_ram: true, ..victim("bh-fwcfg", "bh-fwcfg", &[0x511], Without::Guest) },
    Victim { in_ram: true, ..victim("bh-ide0", "bh-ide", &[0x1f2, 0x1f7, 0x177], Without::Guest) },
    victim("bh-cpu", "bh-cpu", &[], Without::Machine),
];

const fn victim(
    process: &'static str,
    program: &'static str,
    ports: &'static [u16],
    without: Without,
) -> Victim {
    Victim { process, program, ports, without, in_ram: false, back_ends: &[] }
}

/// Every byte of the second disk, as the guest expects it.
const MARK: u8 = 0x5a;

/// Waits for bits of the second disk's status port, then goes on: longer than a back end on the same cable pauses, some 25 seconds where a read
/// takes 100 ns.
fn poll(code: Code, mask: u8, want: u8) -> Code {
    code.bytes(&[
        0x66, 0xb9, 0xff, 0xff, 0xff, 0x0f, // mov ecx, 0xfffffff
        0xba, 0xf7, 0x01, // mov dx, 0x1f7
        0xec, // in al, dx
        0x24, mask, // and al, mask
        0x3c, want, // cmp al, want
        0x67, 0xe0, 0xf8, // loopne (by ecx) back to in
    ])
}

/// Says `letter` unless the comparison before was equal.
fn unless_equal(code: Code, letter: u8) -> Code {
    // jz over mov al, letter and call put
    code.bytes(&[0x74, 0x05, 0xb0, letter]).put()
}

/// Firmware that checks, round after round, a timer interrupt, a byte of the clock's memory and a sector of the second disk over the
/// serial port, and bothers the victim. It begins with an S; a round ends with a full stop; what is wrong with it is a letter before.
pub fn guest(victim: &Victim) -> Code {
    let mut code = Code::new().bytes(&[
        0xfa, // cli
        0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e,
        0xd0, // xor ax, ax; mov ds, ax; mov es, ax; mov ss, ax
        0xbc, 0x00, 0x70, // mov sp, 0x7000
        // Interrupt 8 at 0600h: inc byte [0700h]; push ax; mov al, 20h; out 20h, al; pop ax; iret
        0xc7, 0x06, 0x20, 0x00, 0x00, 0x06, // mov word [0x20], 0x600
        0xc7, 0x06, 0x22, 0x00, 0x00, 0x00, // mov word [0x22], 0
        0xc7, 0x06, 0x00, 0x06, 0xfe, 0x06, // mov word [0x600], ...
        0xc7, 0x06, 0x02, 0x06, 0x00, 0x07, // the address
        0xc7, 0x06, 0x04, 0x06, 0x50, 0xb0, // push ax; mov al,
        0xc7, 0x06, 0x06, 0x06, 0x20, 0xe6, // 20h; out
        0xc7, 0x06, 0x08, 0x06, 0x20, 0x58, // 20h, al; pop ax
        0xc6, 0x06, 0x0a, 0x06, 0xcf, // iret
    ]);
    // Only the timer interrupts, some hundred times a second.
    for (port, value) in [
        (0x20, 0x11),
        (0x21, 0x08),
        (0x21, 0x04),
        (0x21, 0x01),
        (0x21, 0xfe),
        (0x43, 0x34),
        (0x40, 0),
        (0x40, 0x20),
    ] {
        code = code.bytes(&[0xb0, value, 0xe6, port]);
    }
    code = code.say("S");
    let start = code.raw().len();
    // The timer: sleep until the handler has run.
    code = code.bytes(&[
        0xc6, 0x06, 0x00, 0x07, 0x00, // mov byte [0x700], 0
        0xfb, // sti
        0xf4, // hlt
        0x80, 0x3e, 0x00, 0x07, 0x00, // cmp byte [0x700], 0
        0x74, 0xf8, // jz back to hlt
        0xfa, // cli
    ]);
    if victim.without != Without::Clock {
        // bl counts rounds: written to a byte of the clock's memory and read back.
        code = code.bytes(&[
            0x43, // inc bx
            0xb0, 0x3f, 0xe6, 0x70, // mov al, 0x3f; out 0x70, al
            0x88, 0xd8, 0xe6, 0x71, // mov al, bl; out 0x71, al
            0xb0, 0x3f, 0xe6, 0x70, // mov al, 0x3f; out 0x70, al
            0xe4, 0x71, // in al, 0x71
            0x38, 0xd8, // cmp al, bl
        ]);
        code = unless_equal(code, b'C');
    }
    if victim.without != Without::Disk {
        code = code.out(0x1f6, 0xf0);
        code = poll(code, 0x80, 0);
        code = code.out(0x1f2, 1).out(0x1f3, 0).out(0x1f4, 0).out(0x1f5, 0).out(0x1f7, 0x20);
        code = poll(code, 0x88, 0x08);
        code = code.bytes(&[
            0xb9, 0x00, 0x01, // mov cx, 256
            0xbf, 0x00, 0x08, // mov di, 0x800
            0xba, 0xf0, 0x01, // mov dx, 0x1f0
            0xfc, 0xf3, 0x6d, // cld; rep insw
            0xb9, 0x00, 0x02, // mov cx, 512
            0xbf, 0x00, 0x08, // mov di, 0x800
            0xb0, MARK, // mov al, mark
            0xf3, 0xae, // repe scasb
        ]);
        code = unless_equal(code, b'D');
    }
    if victim.process == "bh-block-hda" {
        // A sector of the first disk, whatever becomes of it.
        code = code.out(0x1f6, 0xe0).out(0x1f2, 1).out(0x1f7, 0x20).bytes(&[
            0xb9, 0x00, 0x01, // mov cx, 256
            0xbf, 0x00, 0x08, // mov di, 0x800
            0xba, 0xf0, 0x01, // mov dx, 0x1f0
            0xf3, 0x6d, // rep insw
        ]);
    }
    for port in victim.ports {
        let [low, high] = port.to_le_bytes();
        // mov dx, port; in al, dx; out dx, al
        code = code.bytes(&[0xba, low, high, 0xec, 0xee]);
    }
    code = code.say(".");
    let back = start as i32 - (code.raw().len() as i32 + 3);
    let [low, high] = (back as i16).to_le_bytes();
    code.bytes(&[0xe9, low, high])
}

/// The programs in a folder of their own, `program` replaced by `stand_in`; the real one is in the folder `real`.
///
/// # Panics
/// When that cannot be done.
pub fn install(programs: &Path, folder: &Path, program: &str, stand_in: &str) {
    let real = folder.join("real");
    std::fs::create_dir_all(&real).expect("folder");
    for entry in std::fs::read_dir(programs).expect("programs").flatten() {
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if (text.starts_with("bh-") || text.starts_with("qemu")) && !text.contains('.') {
            let to = if text == program { real.join(&name) } else { folder.join(&name) };
            std::fs::hard_link(entry.path(), to).expect("link");
        }
    }
    std::fs::hard_link(programs.join(stand_in), folder.join(program)).expect("link");
}

/// Tells `bh-hostile` what to be.
///
/// # Panics
/// When that cannot be done.
pub fn plan(folder: &Path, process: &str, seed: u64, way: &str) {
    std::fs::write(folder.join("victim"), format!("{process} {seed} {way}")).expect("file");
}

/// What an attack came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Rounds of checks in the guest.
    pub rounds: usize,
    /// Processes of the victim's that died.
    pub deaths: usize,
    /// Whether the machine ended, which few may make it do, see [`Without::Machine`].
    pub ended: bool,
    /// Whether it never began: a process had ended before all of them served, so that the broker gave up, as with any that fails at start.
    pub refused: bool,
}

/// Runs a machine of the programs in `programs` with the victim taken over for `time`.
///
/// # Panics
/// When something but the victim is harmed.
pub fn attack(programs: &Path, victim: &Victim, time: Duration, seed: u64) -> Outcome {
    let scratch = Scratch::new(&format!("attack-{}", victim.process));
    let folder = scratch.file("programs");
    let folder = Path::new(&folder);
    install(programs, folder, victim.program, "bh-hostile");
    plan(folder, victim.process, seed, if victim.in_ram { "ram" } else { "" });
    let (bios, hda, hdb) = (scratch.file("bios"), scratch.file("hda"), scratch.file("hdb"));
    std::fs::write(&bios, guest(victim).firmware(0x2_0000)).expect("file");
    std::fs::write(&hda, vec![MARK; 1 << 20]).expect("file");
    std::fs::write(&hdb, vec![MARK; 1 << 20]).expect("file");
    let socket = scratch.file("monitor");
    let monitor = format!("unix:{socket},server,nowait");
    let program = folder.join("qemu-system-x86_64");
    let mut vm = Vm::start(
        program.to_str().expect("path in UTF-8"),
        &[
            "-bios",
            &bios,
            "-m",
            "16",
            "-hda",
            &hda,
            "-hdb",
            &hdb,
            "-serial",
            "stdio",
            "-serial",
            "null",
            "-parallel",
            "file:/dev/null",
            "-monitor",
            &monitor,
            "-vnc",
            "none",
        ],
    );
    let watched = std::panic::AssertUnwindSafe(|| watch(&mut vm, victim, &scratch, &socket, time));
    let outcome = std::panic::catch_unwind(watched).unwrap_or_else(|finding| {
        // The last words of a machine that has ended come on a way of their own, maybe later than what showed that it did.
        let limit = Instant::now() + Duration::from_secs(5);
        while !vm.has_ended() && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(20));
        }
        if vm.has_ended() {
            eprintln!("the machine ended: {}", vm.wait(5));
        }
        eprintln!("standard error of the machine:\n{}", vm.errors());
        std::panic::resume_unwind(finding)
    });
    let errors = vm.errors();
    assert!(!errors.contains("panicked"), "{errors}");
    assert!(folder.join("started").exists(), "nothing was taken over; {errors}");
    // The controller may write what it drives.
    let whole = std::fs::read(&hdb).expect("file").iter().all(|byte| *byte == MARK);
    assert!(whole || victim.process == "bh-ide0", "the other disk was written");
    outcome
}

/// Waits until the machine runs. False when it did not start, which only the victim's end, or one that it asked for, excuses.
fn has_begun(vm: &mut Vm, victim: &Victim) -> bool {
    // The guest of a liar in its memory may never say a word.
    let limit = Instant::now() + Duration::from_secs(10);
    while vm.output().is_empty() && Instant::now() < limit {
        if vm.has_ended() {
            let status = vm.wait(PATIENCE.as_secs());
            let errors = vm.errors();
            let asked = |name: &&str| errors.contains(&format!("{name} exited with status 0 at start"));
            let own = errors.contains(&format!(": {}", victim.process));
            let excused = own || victim.back_ends.iter().any(asked);
            let in_one_line = errors.trim().lines().count() == 1;
            assert!(excused && in_one_line && status.code() == Some(1), "{status}; {errors}");
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Looks at a machine from outside while its guest looks from inside.
fn watch(vm: &mut Vm, victim: &Victim, scratch: &Scratch, socket: &str, time: Duration) -> Outcome {
    let end = Instant::now() + time;
    let mut outcome = Outcome::default();
    if victim.without == Without::Machine {
        outcome.ended = besiege(vm, socket, end);
    } else if !has_begun(vm, victim) {
        outcome.refused = true;
    } else {
        let mut monitor = Monitor::connect(socket);
        let cpu = pid(vm, "bh-cpu");
        while Instant::now() < end {
            if victim.without == Without::Guest {
                std::thread::sleep(Duration::from_millis(100));
            } else {
                vm.expect(".", PATIENCE.as_secs());
                outcome.rounds += 1;
            }
            if outcome.rounds.is_multiple_of(16) {
                let status = monitor.ask("info status");
                assert!(status.contains("running"), "{status}");
            }
        }
        assert_eq!(pid(vm, "bh-cpu"), cpu, "the CPU process is another one; {}", vm.errors());
        // Whatever the device says now: an answer comes.
        for command in [
            "screendump screen.ppm",
            "sendkey a",
            "mouse_move 1 1",
            "info pci",
            "info registers",
            "boot_set c",
        ] {
            let command = command.replace("screen.ppm", &scratch.file("screen.ppm"));
            monitor.ask(&command);
        }
        let table = monitor.ask("info restarts");
        for line in table.lines().skip(1).filter(|line| line.starts_with(' ')) {
            let ended = |name: &&str| line.contains(*name) && line.contains("exited with status 0");
            let known = line.contains(victim.process) || victim.back_ends.iter().any(ended);
            assert!(known, "another process died: {line}");
            outcome.deaths += 1;
        }
        let output = vm.output();
        let said: String = output.chars().filter(|letter| *letter != '.').take(100).collect();
        // A second S: somebody who cannot has reset the machine.
        assert!(victim.without == Without::Guest || said == "S", "the guest said {said:?}; {}", vm.errors());
        monitor.tell("quit");
        let status = vm.wait(PATIENCE.as_secs());
        assert!(status.success(), "{status}; {}", vm.errors());
    }
    outcome
}

/// Somebody who may end the machine against the broker, which must stay in command. True when it ended by itself.
fn besiege(vm: &mut Vm, socket: &str, end: Instant) -> bool {
    let limit = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if vm.has_ended() {
            end_in_order(vm, limit);
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    // Answers may be wrong or late, but the end comes when it is asked for.
    if let Ok(mut stream) = std::os::unix::net::UnixStream::connect(socket) {
        use std::io::Write;
        let _ = stream.write_all(b"info status\rx/4096i 0\rquit\r");
    }
    end_in_order(vm, limit);
    false
}

/// Waits for the end of a machine, which the broker has to bring about: no signal ends it.
fn end_in_order(vm: &mut Vm, limit: Instant) {
    let status = vm.wait(limit.saturating_duration_since(Instant::now()).as_secs().max(PATIENCE.as_secs()));
    assert!(status.code().is_some(), "{status}; {}", vm.errors());
}

fn pid(vm: &Vm, name: &str) -> u32 {
    let found = vm.processes().into_iter().find(|(_, have)| have == name);
    found.unwrap_or_else(|| panic!("no {name}; {}", vm.errors())).0
}
