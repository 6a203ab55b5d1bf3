//! The same register accesses on this chip and on Debian's QEMU, driven through its qtest socket with its CPU stopped.
//!
//! Run with `cargo test -p bulkhead-piix3ide differential -- --ignored`; package qemu-system-x86.

use super::*;
use crate::spec::packet;
use bulkhead_bus::conformance::Random;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The bus master's ports, where the test puts them.
const BAR: u16 = 0xc000;
const TABLE: u32 = 0x8000;
const BUFFER: u32 = 0x10_0000;

struct Peer {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    files: Vec<PathBuf>,
}

impl Peer {
    /// QEMU with the images of `pc`.
    fn start(pc: &Pc) -> Peer {
        let file = |number: usize| {
            static PEERS: AtomicUsize = AtomicUsize::new(0);
            let name = format!("ide-{}-{}", std::process::id(), PEERS.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(format!("{name}-{number}.img"));
            std::fs::write(&path, &pc.images[number]).expect("image");
            path
        };
        let files: Vec<PathBuf> = (0..3).map(file).collect();
        let drive =
            |number: usize| format!("if=none,id=d{number},format=raw,file={}", files[number].display());
        let device = |number: usize, kind: &str, place: &str| {
            format!("{kind},drive=d{number},{place},serial=BH0000{number}")
        };
        let mut child = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg", "-S", "-display", "none", "-machine", "pc-i440fx-7.2", "-vga", "none"])
            .args(["-nodefaults", "-m", "16", "-qtest", "stdio", "-qtest-log", "none"])
            .args(["-drive", &drive(0), "-drive", &drive(1), "-drive", &drive(2)])
            .args(["-device", &device(0, "ide-hd", "bus=ide.0,unit=0")])
            .args(["-device", &device(1, "ide-hd", "bus=ide.0,unit=1")])
            .args(["-device", &device(2, "ide-cd", "bus=ide.1,unit=0")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("qemu-system-x86_64 is installed");
        let to = child.stdin.take().expect("piped");
        let from = BufReader::new(child.stdout.take().expect("piped"));
        let mut peer = Peer { child, to, from, files };
        // BAR4, then I/O and bus master enable.
        for (at, value) in [(0x20, u32::from(BAR)), (0x04, 5), (0x40, 0x8000_8000)] {
            peer.ask(&format!("outl 0xcf8 {:#x}", 0x8000_0000u32 | 0x900 | at));
            peer.ask(&format!("outl 0xcfc {value:#x}"));
        }
        peer
    }

    fn answer(&mut self, line: &str) -> String {
        writeln!(self.to, "{line}").expect("peer runs");
        loop {
            let mut answer = String::new();
            assert_ne!(self.from.read_line(&mut answer).expect("peer answers"), 0, "peer ended at {line}");
            match answer.split_whitespace().next() {
                Some("OK") => return answer.trim()[2..].trim().to_owned(),
                Some("FAIL" | "ERR") => panic!("{line}: {answer}"),
                _ => {}
            }
        }
    }

    fn ask(&mut self, line: &str) -> u64 {
        let answer = self.answer(line);
        u64::from_str_radix(answer.strip_prefix("0x").unwrap_or("0"), 16).expect("hexadecimal")
    }

    fn memory(&mut self, at: u32, len: usize) -> Vec<u8> {
        let text = self.answer(&format!("read {at:#x} {len:#x}"));
        let digits = text.strip_prefix("0x").expect("hexadecimal").as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16);
        digits.chunks(2).map(|pair| byte(pair).expect("digits")).collect()
    }

    fn set_memory(&mut self, at: u32, data: &[u8]) {
        let digits: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
        self.ask(&format!("write {at:#x} {:#x} 0x{digits}", data.len()));
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // All fail only when the thing is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.files.iter().for_each(|file| drop(std::fs::remove_file(file)));
    }
}

/// Both, and what was done to them.
struct Pair {
    pc: Pc,
    peer: Peer,
    history: Vec<String>,
}

impl Pair {
    fn new() -> Pair {
        let pc = Pc::new();
        let peer = Peer::start(&pc);
        Pair { pc, peer, history: Vec::new() }
    }

    fn port(channel: u8, register: u64) -> u16 {
        (if channel == 0 { 0x1f0 } else { 0x170 }) + register as u16
    }

    fn set(&mut self, channel: u8, register: u64, value: u8) {
        self.history.push(format!("{channel}:{register} <- {value:#04x}"));
        self.pc.set(channel, register, value);
        self.peer.ask(&format!("outb {:#x} {value:#x}", Pair::port(channel, register)));
    }

    /// Waits until neither is busy and compares the status, which clears the interrupt.
    fn status(&mut self, channel: u8) -> u8 {
        self.status_without(channel, status::BSY)
    }

    /// The same, waiting until the peer has none of `bits`.
    fn status_without(&mut self, channel: u8, bits: u8) -> u8 {
        self.pc.settle();
        let ours = self.pc.get(channel, reg::STATUS);
        let control = Pair::port(channel, reg::STATUS) + 0x1ff;
        for _ in 0..100_000 {
            if self.peer.ask(&format!("inb {control:#x}")) as u8 & bits == 0 {
                break;
            }
        }
        let theirs = self.peer.ask(&format!("inb {:#x}", Pair::port(channel, reg::STATUS))) as u8;
        // Bit 4 of a packet device is SERV, which QEMU shows as seek complete now and then.
        let mask = if channel == 1 { !status::DSC } else { 0xff };
        self.same("status", ours & mask, theirs & mask);
        ours
    }

    fn same<T: PartialEq + std::fmt::Debug>(&self, what: &str, ours: T, theirs: T) {
        let from = self.history.len().saturating_sub(24);
        assert_eq!(ours, theirs, "{what}: ours left, theirs right, after {:#?}", &self.history[from..]);
    }

    fn register(&mut self, channel: u8, register: u64) -> u8 {
        let ours = self.pc.get(channel, register);
        let theirs = self.peer.ask(&format!("inb {:#x}", Pair::port(channel, register))) as u8;
        self.same(&format!("register {register}"), ours, theirs);
        ours
    }

    /// Reads `len` bytes through both data ports.
    fn data_in(&mut self, channel: u8, len: usize) -> (Vec<u8>, Vec<u8>) {
        let ours = self.pc.block_in(channel, len);
        let port = Pair::port(channel, reg::DATA);
        let words =
            (0..len / 2).flat_map(|_| (self.peer.ask(&format!("inw {port:#x}")) as u16).to_le_bytes());
        let theirs = words.collect();
        (ours, theirs)
    }

    fn data_out(&mut self, channel: u8, data: &[u8]) {
        self.pc.block_out(channel, data);
        let port = Pair::port(channel, reg::DATA);
        for word in data.chunks(2) {
            self.peer.ask(&format!("outw {port:#x} {:#x}", u16::from_le_bytes([word[0], word[1]])));
        }
    }

    fn master(&mut self, channel: u8, register: u64, value: u32, size: u8) {
        self.history.push(format!("bus master {channel}:{register} <- {value:#x}"));
        let at = u64::from(channel) * 8 + register;
        self.pc.bench.write(4, at, size, value.into());
        let letter = if size == 4 { 'l' } else { 'b' };
        self.peer.ask(&format!("out{letter} {:#x} {value:#x}", BAR + at as u16));
    }

    fn master_status(&mut self, channel: u8) {
        let at = u64::from(channel) * 8 + bm::STATUS;
        let ours = self.pc.bench.read(4, at, 1) as u8;
        let theirs = self.peer.ask(&format!("inb {:#x}", BAR + at as u16)) as u8;
        self.same("bus master status", ours & !bm::CAPABLE, theirs & !bm::CAPABLE);
    }

    fn table(&mut self, entries: &[(u32, u32)]) {
        self.pc.table(TABLE, entries);
        let bytes = self.pc.ram(TABLE.into(), entries.len() * 8);
        self.peer.set_memory(TABLE, &bytes);
    }

    fn packet(&mut self, command: &[u8], limit: u16) -> u8 {
        self.history.push(format!("packet {command:x?}"));
        let [low, high] = limit.to_le_bytes();
        for (register, value) in [
            (reg::DEVICE, 0xa0),
            (reg::ERROR, 0),
            (reg::LBA_MID, low),
            (reg::LBA_HIGH, high),
            (reg::STATUS, 0xa0),
        ] {
            self.set(1, register, value);
        }
        let mut whole = [0u8; 12];
        whole[..command.len()].copy_from_slice(command);
        self.data_out(1, &whole);
        self.status(1)
    }

    /// The data of a packet command in the blocks that both offer.
    fn packet_data(&mut self, mut status: u8) -> (Vec<u8>, Vec<u8>) {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        while status & status::DRQ != 0 {
            self.register(1, reg::COUNT);
            let size = usize::from(self.register(1, reg::LBA_MID))
                | usize::from(self.register(1, reg::LBA_HIGH)) << 8;
            let (left, right) = self.data_in(1, size.next_multiple_of(2));
            ours.extend(&left[..size]);
            theirs.extend(&right[..size]);
            status = self.status(1);
        }
        (ours, theirs)
    }
}

#[test]
#[ignore = "needs qemu-system-x86_64"]
fn differential_identify() {
    let mut pair = Pair::new();
    // What differs, and why: capabilities that QEMU does not report though it has them, or the other way.
    let disk: &[(usize, &str)] = &[
        (21, "buffer size"),
        (48, "doubleword I/O is obsolete"),
        (50, "obliged to have bit 14 set"),
        (62, "single-word DMA is obsolete"),
        (69, "trimming"),
        (75, "queue depth: no queued commands"),
        (76, "serial ATA: a parallel drive has none"),
        (106, "sector sizes: QEMU says how large a physical sector is"),
        (169, "trimming"),
        (255, "integrity word"),
    ];
    let mut found = Vec::new();
    let cdrom: &[(usize, &str)] = &[
        (0, "QEMU says that it interrupts for the packet or not by version"),
        (20, "buffer type"),
        (21, "buffer size"),
        (49, "IORDY"),
        (62, "single-word DMA is obsolete"),
        (65, "cycle times"),
        (66, "cycle times"),
        (67, "cycle times"),
        (68, "cycle times"),
        (80, "versions"),
        (81, "versions"),
        (82, "feature sets"),
        (83, "feature sets"),
        (84, "feature sets"),
        (85, "feature sets"),
        (86, "feature sets"),
        (87, "feature sets"),
        (93, "cable"),
        (255, "integrity word"),
    ];
    for (channel, code, differs) in [(0, command::IDENTIFY, disk), (1, command::IDENTIFY_PACKET, cdrom)] {
        pair.set(channel, reg::DEVICE, 0xa0);
        pair.set(channel, reg::STATUS, code);
        pair.status(channel);
        let (ours, theirs) = pair.data_in(channel, 512);
        for word in 0..256 {
            let of = |bytes: &[u8]| u16::from_le_bytes([bytes[word * 2], bytes[word * 2 + 1]]);
            if !differs.iter().any(|(known, _)| *known == word) {
                found.push((code, word, of(&ours), of(&theirs)));
            }
        }
    }
    found.retain(|(_, _, ours, theirs)| ours != theirs);
    assert!(found.is_empty(), "command, word, ours, theirs: {found:#x?}");
}

#[test]
#[ignore = "needs qemu-system-x86_64"]
fn differential_transfers() {
    let mut pair = Pair::new();
    let mut random = Random::new(23);
    for number in 0..120u32 {
        let count = 1 + random.below(20) as usize;
        let first = random.below((SECTORS - count) as u64) as u32;
        let slave = random.below(2) as u8;
        let codes = [0x20u8, 0x30, 0xc4, 0xc5, 0xc8, 0xca];
        let code = codes[random.below(6) as usize];
        let (write, dma) = (matches!(code, 0x30 | 0xc5 | 0xca), code >= 0xc8);
        let data = pattern(count * 512, number as u8);
        if dma {
            let middle = 2 + random.below(count as u64 * 256 - 1) as u32 * 2;
            let rest = count as u32 * 512 - middle.min(count as u32 * 512 - 2);
            let spare = 512 * random.below(2) as u32;
            pair.table(&[
                (BUFFER, count as u32 * 512 - rest),
                (BUFFER + count as u32 * 512 - rest, rest + spare),
            ]);
            assert!(pair.pc.bench.ram.write(BUFFER.into(), &data));
            pair.peer.set_memory(BUFFER, &data);
            pair.master(0, bm::COMMAND, 0, 1);
            pair.master(0, bm::TABLE, TABLE, 4);
            pair.master(0, bm::STATUS, 6, 1);
        }
        let [low, mid, high, top] = first.to_le_bytes();
        for (register, value) in [
            (reg::DEVICE, 0xe0 | slave << 4 | top),
            (reg::COUNT, count as u8),
            (reg::LBA_LOW, low),
            (reg::LBA_MID, mid),
            (reg::LBA_HIGH, high),
            (reg::STATUS, code),
        ] {
            pair.set(0, register, value);
        }
        if dma {
            pair.master(0, bm::COMMAND, if write { 1 } else { 9 }, 1);
            // While its DMA runs, QEMU shows DRQ.
            pair.status_without(0, status::BSY | status::DRQ);
            pair.master_status(0);
            let len = count * 512;
            assert!(pair.pc.ram(BUFFER.into(), len) == pair.peer.memory(BUFFER, len), "{:?}", pair.history);
            continue;
        }
        let block = if code >= 0xc4 { 16 } else { 1 };
        for part in data.chunks(block * 512) {
            assert_eq!(pair.status(0) & status::DRQ, status::DRQ);
            if write {
                pair.data_out(0, part);
            } else {
                let (ours, theirs) = pair.data_in(0, part.len());
                assert!(ours == theirs, "transfer {number} {:?}", pair.history);
            }
        }
        assert_eq!(pair.status(0) & status::DRQ, 0);
    }
    pair.set(0, reg::DEVICE, 0xe0);
    pair.set(0, reg::STATUS, command::FLUSH_CACHE);
    pair.status(0);
    pair.set(0, reg::DEVICE, 0xf0);
    pair.set(0, reg::STATUS, command::FLUSH_CACHE);
    pair.status(0);
    for number in 0..2 {
        assert!(std::fs::read(&pair.peer.files[number]).expect("image") == pair.pc.images[number]);
    }
}

#[test]
#[ignore = "needs qemu-system-x86_64"]
fn differential_packets() {
    let mut pair = Pair::new();
    let sense = [packet::REQUEST_SENSE, 0, 0, 0, 18];
    // The first commands after power-on may carry an attention.
    for _ in 0..3 {
        let ours = |pair: &mut Pair| pair.pc.packet(0, 0xfffe, &[packet::TEST_UNIT_READY]);
        ours(&mut pair);
        pair.set(1, reg::STATUS, 0xa0);
        pair.data_out(1, &[0; 12]);
        pair.pc.settle();
        pair.pc.get(1, reg::STATUS);
        pair.peer.ask("inb 0x177");
    }
    let commands: &[&[u8]] = &[
        &[packet::TEST_UNIT_READY],
        &[packet::READ_CAPACITY],
        &[packet::READ_10, 0, 0, 0, 0, 5, 0, 0, 3, 0],
        &[packet::READ_10, 0, 0, 0, 1, 43, 0, 0, 1, 0],
        &[packet::READ_10, 0, 0, 0, 1, 44, 0, 0, 1, 0],
        &[packet::READ_10, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 1, 0],
        &[packet::READ_10, 0, 0, 0, 0, 5, 0, 0, 0, 0],
        &[packet::READ_12, 0, 0, 0, 0, 9, 0, 0, 0, 40],
        &[packet::READ_CD, 0, 0, 0, 0, 9, 0, 0, 2, 0x10],
        &[packet::READ_CD, 0, 0, 0, 0, 9, 0, 0, 2, 0x00],
        &[packet::READ_TOC, 0, 0, 0, 0, 0, 0, 0, 200],
        &[packet::READ_TOC, 2, 0, 0, 0, 0, 0, 0, 200],
        &[packet::READ_TOC, 2, 0, 0, 0, 0, 0xaa, 0, 200],
        &[packet::READ_TOC, 0, 0, 0, 0, 0, 2, 0, 200],
        // Not compared: sessions (QEMU leaves the track out), ejecting while locked (QEMU has sense key 2, MMC-3 5).
        &[packet::SEEK_10, 0, 0, 0, 0, 9],
        &[packet::SEEK_10, 0, 0, 0, 9, 9],
        &[packet::SET_CD_SPEED, 0, 0xff, 0xff],
        &[packet::MECHANISM_STATUS, 0, 0, 0, 0, 0, 0, 0, 0, 8],
        &[0x55, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0xff],
        &[packet::MODE_SENSE_10, 0, 0xea, 0, 0, 0, 0, 0, 128],
        &[packet::MODE_SENSE_10, 0, 0x05, 0, 0, 0, 0, 0, 128],
        &[packet::INQUIRY, 0, 0, 0, 36],
        &[packet::INQUIRY, 0, 0, 0, 8],
        &[packet::PREVENT_ALLOW, 0, 0, 0, 1],
        &[packet::PREVENT_ALLOW, 0, 0, 0, 0],
    ];
    let mut differences = Vec::new();
    for limit in [2048, 0xfffe, 4097] {
        for command in commands {
            let status = pair.packet(command, limit);
            let (ours, theirs) = pair.packet_data(status);
            if ours != theirs {
                differences.push(format!("{command:02x?}: ours {ours:02x?} theirs {theirs:02x?}"));
            }
            // QEMU keeps sense data beyond the next good command.
            if status & status::ERR == 0 {
                continue;
            }
            let status = pair.packet(&sense, limit);
            let (ours, theirs) = pair.packet_data(status);
            if ours.get(..14) != theirs.get(..14) {
                differences
                    .push(format!("sense after {command:02x?}: ours {ours:02x?} theirs {theirs:02x?}"));
            }
        }
    }
    assert!(differences.is_empty(), "{differences:#?}");
}
