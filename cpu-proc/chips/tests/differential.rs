//! Our board beside Debian's QEMU: the same accesses, the same answers. QEMU is only driven through its qtest socket on
//! standard input and output, its CPU stopped and its clock still.
//!
//! Run with `cargo test -p bulkhead-chips --test differential -- --ignored`.

use bulkhead_chips::{Board, BoardConfig};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const PROGRAM: &str = "qemu-system-x86_64";
const MACHINE: [&str; 9] =
    ["-accel", "tcg", "-S", "-display", "none", "-machine", "pc-i440fx-7.2", "-vga", "none"];

struct Peer {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Peer {
    fn start() -> Self {
        let mut child = Command::new(PROGRAM)
            .args(MACHINE)
            .args(["-nodefaults", "-m", "64", "-qtest", "stdio", "-qtest-log", "none"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("qemu-system-x86_64 is installed");
        let to = child.stdin.take().expect("piped");
        let from = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, to, from }
    }

    fn ask(&mut self, line: &str) -> u64 {
        writeln!(self.to, "{line}").expect("peer runs");
        loop {
            let mut answer = String::new();
            assert_ne!(self.from.read_line(&mut answer).expect("peer answers"), 0, "peer ended at {line}");
            let mut words = answer.split_whitespace();
            match words.next() {
                Some("OK") => {
                    let digits = words.next().and_then(|word| word.strip_prefix("0x")).unwrap_or("0");
                    return u64::from_str_radix(digits, 16).expect("hexadecimal");
                }
                Some("FAIL") | Some("ERR") => panic!("{line}: {answer}"),
                _ => {}
            }
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Both fail only when the peer is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 8
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[(self.next() % from.len() as u64) as usize]
    }
}

/// Both machines, and what was done to them.
struct Pair {
    peer: Peer,
    board: Board,
    history: Vec<String>,
}

impl Pair {
    fn new() -> Self {
        let mut board = Board::new(BoardConfig { smm: true, ..BoardConfig::pc(1) });
        board.add_function(bulkhead_chips::piix3::ide()).expect("a free place");
        Self { peer: Peer::start(), board, history: Vec::new() }
    }

    fn out(&mut self, port: u16, value: u8) {
        self.history.push(format!("outb {port:#x} {value:#x}"));
        self.peer.ask(&format!("outb {port:#x} {value:#x}"));
        self.board.port_write(port, 1, u32::from(value), 0);
    }

    fn check_in(&mut self, port: u16) {
        self.history.push(format!("inb {port:#x}"));
        let theirs = self.peer.ask(&format!("inb {port:#x}"));
        let ours = u64::from(self.board.port_read(port, 1, 0).expect("a port of the board"));
        self.compare(theirs, ours);
    }

    fn compare(&self, theirs: u64, ours: u64) {
        let last = &self.history[self.history.len().saturating_sub(40)..];
        assert_eq!(theirs, ours, "peer {theirs:#x}, ours {ours:#x}, after\n{}", last.join("\n"));
    }

    fn config(&mut self, devfn: u8, offset: u8) -> (u64, u64) {
        let address = 0x8000_0000 | u32::from(devfn) << 8 | u32::from(offset);
        self.peer.ask(&format!("outl 0xcf8 {address:#x}"));
        self.board.port_write(0xcf8, 4, address, 0);
        let theirs = self.peer.ask("inl 0xcfc");
        (theirs, u64::from(self.board.port_read(0xcfc, 4, 0).expect("a port of the board")))
    }
}

/// Paths of the master and the slave 8259 in the peer.
fn interrupt_controllers() -> Vec<String> {
    let mut child = Command::new(PROGRAM)
        .args(MACHINE)
        .args(["-nodefaults", "-m", "64", "-monitor", "stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("qemu-system-x86_64 is installed");
    child.stdin.take().expect("piped").write_all(b"info qom-tree\nquit\n").expect("peer runs");
    let output = child.wait_with_output().expect("peer ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter(|line| line.contains("(isa-i8259)"));
    lines
        .filter_map(|line| line.split_whitespace().next())
        .map(|name| format!("/machine/unattached{name}"))
        .collect()
}

#[test]
#[ignore = "needs Debian's qemu-system-x86_64"]
fn interrupt_controllers_answer_alike_under_a_storm() {
    let paths = interrupt_controllers();
    assert_eq!(paths.len(), 2);
    for seed in 1..=12u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut pair = Pair::new();
        for (port, value) in [
            (0x20, 0x11),
            (0x21, 0x08),
            (0x21, 0x04),
            (0x21, 0x01),
            (0xa0, 0x11),
            (0xa1, 0x70),
            (0xa1, 0x02),
            (0xa1, 0x01),
            (0x21, 0x00),
            (0xa1, 0x00),
        ] {
            pair.out(port, value);
        }
        pair.out(0x4d0, random.next() as u8 & 0xf8);
        pair.out(0x4d1, random.next() as u8 & 0xde);
        for _ in 0..500 {
            let command = random.pick(&[0x20, 0xa0]);
            match random.next() % 12 {
                0..=3 => {
                    let irq = random.pick(&[1u8, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 15]);
                    let level = random.next() & 1;
                    let path = &paths[usize::from(irq >> 3)];
                    pair.history.push(format!("irq {irq} {level}"));
                    pair.peer.ask(&format!("set_irq_in {path} unnamed-gpio-in {} {level}", irq & 7));
                    pair.board.set_isa_irq(irq, level != 0);
                }
                4 | 5 => {
                    pair.out(command, 0x0c);
                    pair.check_in(command);
                }
                6 => pair.out(command, random.pick(&[0x20, 0xa0])),
                7 => {
                    let value = random.pick(&[0x60, 0xe0, 0xc0]) | random.next() as u8 & 7;
                    pair.out(command, value);
                }
                8 => {
                    let mask = if random.next() & 1 != 0 { 0 } else { random.next() as u8 };
                    pair.out(command + 1, mask);
                }
                _ => {
                    pair.out(command, random.pick(&[0x0a, 0x0b]));
                    pair.check_in(command);
                    pair.check_in(command + 1);
                }
            }
        }
    }
}

#[test]
#[ignore = "needs Debian's qemu-system-x86_64"]
fn pci_functions_have_the_peers_identity() {
    let mut pair = Pair::new();
    for devfn in [0x00, 0x08, 0x09, 0x0b] {
        // Vendor to class, header type, subsystem, pin; the command register is left to the datasheet.
        for (offset, mask) in
            [(0x00, u64::MAX), (0x08, u64::MAX), (0x0c, 0xff_0000), (0x2c, u64::MAX), (0x3c, 0xff00)]
        {
            let (theirs, ours) = pair.config(devfn, offset);
            assert_eq!(theirs & mask, ours & mask, "function {devfn:#x} register {offset:#x}");
        }
    }
    for offset in [0x58, 0x5c] {
        let (theirs, ours) = pair.config(0, offset);
        assert_eq!(theirs, ours, "host bridge register {offset:#x}");
    }
    for offset in (0x4c..0x80).step_by(4) {
        let (theirs, ours) = pair.config(8, offset);
        assert_eq!(theirs, ours, "ISA bridge register {offset:#x}");
    }
}

#[test]
#[ignore = "needs Debian's qemu-system-x86_64"]
fn event_timer_registers_keep_the_same_bits() {
    const BASE: u64 = 0xfed0_0000;
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut pair = Pair::new();
    for _ in 0..2000 {
        let offset = random
            .pick(&[0x0u64, 0x4, 0x10, 0x14, 0x20, 0xf0, 0xf4, 0x100, 0x104, 0x108, 0x120, 0x128, 0x140]);
        if random.next().is_multiple_of(3) {
            // The counter stays halted; bit 14 is a message interrupt that the peer alone lets one switch on.
            let halted = if offset == 0x10 { !1 } else { !0x4000 };
            let value = random.next() & 0xffff_ffff & halted;
            pair.history.push(format!("writel {offset:#x} {value:#x}"));
            pair.peer.ask(&format!("writel {:#x} {value:#x}", BASE + offset));
            pair.board.mmio_write(0, BASE + offset, 4, value, 0);
        }
        pair.history.push(format!("readl {offset:#x}"));
        let theirs = pair.peer.ask(&format!("readl {:#x}", BASE + offset));
        let ours = pair.board.mmio_read(0, BASE + offset, 4, 0).expect("a register of the board");
        pair.compare(theirs, ours);
    }
}
