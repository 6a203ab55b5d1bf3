//! Our VGA beside Debian's QEMU: the same accesses, the same bytes and the same picture. QEMU is only driven through its
//! qtest socket on standard input and output, its CPU stopped, and asked for pictures through its monitor.
//!
//! Run with `cargo test -p bulkhead-vga --test differential -- --ignored`.

mod ppm;

use bulkhead_bus::bench::Bench;
use bulkhead_bus::chip::Control;
use bulkhead_bus::config::VgaConfig;
use bulkhead_bus::conformance::Random;
use bulkhead_vga::Vga;
use bulkhead_vga::spec::*;
use ppm::Picture;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const PROGRAM: &str = "qemu-system-x86_64";
const VRAM: u32 = 16 << 20;
/// Where the test puts the peer's linear frame buffer.
const FRAME_BUFFER: u64 = 0xe000_0000;

struct Peer {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    folder: PathBuf,
}

/// Runs the peer with more arguments, its CPU stopped unless they say otherwise.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(["-accel", "tcg", "-display", "none", "-machine", "pc-i440fx-7.2", "-nodefaults", "-m", "64"])
        .args(["-vga", "std"])
        .args(arguments)
        .stderr(Stdio::null());
    command
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("bulkhead-vga-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for temporary files");
    folder
}

impl Peer {
    fn start(name: &str) -> Peer {
        let folder = folder(name);
        let monitor = format!("unix:{},server=on,wait=off", folder.join("monitor").display());
        let mut child = command(&["-S", "-qtest", "stdio", "-qtest-log", "none", "-monitor", &monitor])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("qemu-system-x86_64 is installed");
        let to = child.stdin.take().expect("piped");
        let from = BufReader::new(child.stdout.take().expect("piped"));
        let mut peer = Peer { child, to, from, folder };
        // BAR 0 of 00:02.0, memory and port decoding.
        for line in [
            "outl 0xcf8 0x80001010",
            &format!("outl 0xcfc {FRAME_BUFFER:#x}"),
            "outl 0xcf8 0x80001004",
            "outw 0xcfc 3",
        ] {
            peer.ask(line);
        }
        peer
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

    /// The picture that the peer's monitor saves.
    fn picture(&mut self) -> Picture {
        let file = self.folder.join("screen.ppm");
        let mut monitor = UnixStream::connect(self.folder.join("monitor")).expect("the peer's monitor");
        prompt(&mut monitor);
        writeln!(monitor, "screendump {}", file.display()).expect("the peer's monitor");
        prompt(&mut monitor);
        Picture::parse(&std::fs::read(file).expect("a picture"))
    }
}

/// Reads up to the monitor's prompt.
fn prompt(monitor: &mut UnixStream) {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(b"(qemu) ") {
        monitor.read_exact(&mut byte).expect("the peer's monitor");
        seen.extend(byte);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // All fail only when the peer is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Both adapters.
struct Pair {
    peer: Peer,
    ours: Bench<Vga>,
    history: Vec<String>,
}

impl Pair {
    fn new(name: &str) -> Pair {
        let chip = Vga::new(VgaConfig { vram_bytes: VRAM }).expect("a size that is allowed");
        Pair { peer: Peer::start(name), ours: Bench::new(chip, 0, 0, VRAM as usize), history: Vec::new() }
    }

    fn tell(&mut self, line: String) -> u64 {
        let answer = self.peer.ask(&line);
        self.history.push(line);
        answer
    }

    fn outb(&mut self, port: u64, value: u8) {
        self.tell(format!("outb {port:#x} {value:#x}"));
        self.ours.write(REGION_PORTS, port - PORT_BASE, 1, value.into());
    }

    fn set(&mut self, port: u64, index: u8, value: u8) {
        self.outb(port, index);
        self.outb(port + 1, value);
    }

    fn check_in(&mut self, port: u64) {
        let theirs = self.tell(format!("inb {port:#x}"));
        let ours = self.ours.read(REGION_PORTS, port - PORT_BASE, 1);
        self.compare(theirs, ours);
    }

    fn dispi(&mut self, index: usize, value: u16) {
        self.tell(format!("outw 0x1ce {index:#x}"));
        self.tell(format!("outw 0x1cf {value:#x}"));
        self.ours.write(REGION_VBE, 0, 2, index as u64);
        self.ours.write(REGION_VBE, 1, 2, value.into());
    }

    fn check_dispi(&mut self, index: usize) {
        self.tell(format!("outw 0x1ce {index:#x}"));
        let theirs = self.tell("inw 0x1cf".to_owned());
        self.ours.write(REGION_VBE, 0, 2, index as u64);
        let ours = self.ours.read(REGION_VBE, 1, 2);
        self.compare(theirs, ours);
    }

    fn poke(&mut self, address: u64, value: u8) {
        self.tell(format!("writeb {address:#x} {value:#x}"));
        self.ours.write(REGION_MEMORY, address - 0xa0000, 1, value.into());
    }

    fn check_peek(&mut self, address: u64) {
        let theirs = self.tell(format!("readb {address:#x}"));
        let ours = self.ours.read(REGION_MEMORY, address - 0xa0000, 1);
        self.compare(theirs, ours);
    }

    fn frame_buffer(&mut self, offset: usize, data: &[u8]) {
        let digits: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
        self.peer.ask(&format!("write {:#x} {} 0x{digits}", FRAME_BUFFER + offset as u64, data.len()));
        assert!(self.ours.bulk.write(offset, data));
    }

    fn compare(&self, theirs: u64, ours: u64) {
        let last = &self.history[self.history.len().saturating_sub(40)..];
        assert_eq!(theirs, ours, "peer {theirs:#x}, ours {ours:#x}, after\n{}", last.join("\n"));
    }

    fn set_mode(&mut self, mode: &Mode) {
        self.outb(MISC_WRITE, mode.misc);
        self.set(SEQUENCER, 0, 1);
        for (index, value) in mode.sequencer.iter().enumerate() {
            self.set(SEQUENCER, 1 + index as u8, *value);
        }
        self.set(SEQUENCER, 0, 3);
        self.set(CRTC_COLOUR, 0x11, 0);
        for (index, value) in mode.crtc.iter().enumerate() {
            self.set(CRTC_COLOUR, index as u8, *value);
        }
        for (index, value) in mode.graphics.iter().enumerate() {
            self.set(GRAPHICS, index as u8, *value);
        }
        for (index, value) in mode.attribute.iter().enumerate() {
            self.tell("inb 0x3da".to_owned());
            self.ours.read(REGION_PORTS, 0x3da - PORT_BASE, 1);
            self.outb(ATTRIBUTE, index as u8);
            self.outb(ATTRIBUTE, *value);
        }
        self.outb(ATTRIBUTE, 0x20);
    }

    /// 256 colours that differ.
    fn set_palette(&mut self) {
        self.outb(DAC_MASK, 0xff);
        self.outb(DAC_WRITE, 0);
        for index in 0..=255u8 {
            for colour in [index >> 2, index.wrapping_mul(5) & 0x3f, index.wrapping_mul(23) & 0x3f] {
                self.outb(DAC_DATA, colour);
            }
        }
    }

    /// Compares the pictures; the peer does not widen pixels of half clock or double scan in every mode, so the smaller
    /// picture is compared with every n-th pixel of the larger. Colours may differ in the way that few bits become eight.
    fn compare_pictures(&mut self, what: &str, tolerance: u8) {
        let theirs = self.peer.picture();
        let mut file = Vec::new();
        loop {
            let request = Control::Screen { offset: file.len() as u32 };
            let piece = self.ours.control(&request).expect("a screen");
            if piece.is_empty() {
                break;
            }
            file.extend(piece);
        }
        let ours = Picture::parse(&file);
        let (across, down) = (ours.width / theirs.width, ours.height / theirs.height);
        assert_eq!((theirs.width * across, theirs.height * down), (ours.width, ours.height), "{what}");
        assert!((1..=2).contains(&across) && (1..=2).contains(&down), "{what}");
        let mut lit = 0;
        for y in 0..ours.height {
            for x in 0..ours.width {
                let (our, their) = (ours.at(x, y), theirs.at(x / across, y / down));
                let near = our.iter().zip(their).all(|(our, their)| our.abs_diff(their) <= tolerance);
                assert!(near, "{what}: at {x},{y} peer {their:x?}, ours {our:x?}");
                lit += usize::from(our != [0; 3]);
            }
        }
        assert!(lit > ours.width * ours.height / 100, "{what}: the picture is all but black");
    }
}

/// Register values of a mode (IBM VGA BIOS parameter tables; cursor off, as the peer's blinks).
struct Mode {
    misc: u8,
    sequencer: [u8; 4],
    crtc: [u8; 25],
    graphics: [u8; 9],
    attribute: [u8; 21],
}

const EGA_PALETTE: [u8; 16] = [0, 1, 2, 3, 4, 5, 0x14, 7, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f];

const fn attributes(control: u8, planes: u8, panning: u8) -> [u8; 21] {
    let mut all = [0; 21];
    let mut at = 0;
    while at < 16 {
        all[at] = EGA_PALETTE[at];
        at += 1;
    }
    all[0x10] = control;
    all[0x12] = planes;
    all[0x13] = panning;
    all
}

const TEXT: Mode = Mode {
    misc: 0x67,
    sequencer: [0x00, 0x03, 0x00, 0x02],
    crtc: [
        0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0x00, 0x4f, 0x2d, 0x0e, 0, 0, 0, 0, 0x9c, 0x8e, 0x8f,
        0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff,
    ],
    graphics: [0, 0, 0, 0, 0, 0x10, 0x0e, 0x0f, 0xff],
    attribute: attributes(0x0c, 0x0f, 8),
};

const CGA_4: Mode = Mode {
    misc: 0x63,
    sequencer: [0x09, 0x03, 0x00, 0x02],
    crtc: [
        0x2d, 0x27, 0x28, 0x90, 0x2b, 0x80, 0xbf, 0x1f, 0x00, 0xc1, 0x20, 0, 0, 0, 0, 0, 0x9c, 0x8e, 0x8f,
        0x14, 0x00, 0x96, 0xb9, 0xa2, 0xff,
    ],
    graphics: [0, 0, 0, 0, 0, 0x30, 0x0f, 0x0f, 0xff],
    attribute: attributes(0x01, 0x03, 0),
};

const CGA_2: Mode = Mode {
    misc: 0x63,
    sequencer: [0x01, 0x01, 0x00, 0x06],
    crtc: [
        0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0xbf, 0x1f, 0x00, 0xc1, 0x20, 0, 0, 0, 0, 0, 0x9c, 0x8e, 0x8f,
        0x28, 0x00, 0x96, 0xb9, 0xc2, 0xff,
    ],
    graphics: [0, 0, 0, 0, 0, 0x00, 0x0d, 0x0f, 0xff],
    attribute: attributes(0x01, 0x01, 0),
};

const PLANAR: Mode = Mode {
    misc: 0xe3,
    sequencer: [0x01, 0x0f, 0x00, 0x06],
    crtc: [
        0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0x0b, 0x3e, 0x00, 0x40, 0x20, 0, 0, 0, 0, 0, 0xea, 0x8c, 0xdf,
        0x28, 0x00, 0xe7, 0x04, 0xe3, 0xff,
    ],
    graphics: [0, 0, 0, 0, 0, 0x00, 0x05, 0x0f, 0xff],
    attribute: attributes(0x01, 0x0f, 0),
};

const PLANAR_LOW: Mode = Mode {
    misc: 0x63,
    sequencer: [0x09, 0x0f, 0x00, 0x06],
    crtc: [
        0x2d, 0x27, 0x28, 0x90, 0x2b, 0x80, 0xbf, 0x1f, 0x00, 0xc0, 0x20, 0, 0, 0, 0, 0, 0x9c, 0x8e, 0x8f,
        0x14, 0x00, 0x96, 0xb9, 0xe3, 0xff,
    ],
    graphics: [0, 0, 0, 0, 0, 0x00, 0x05, 0x0f, 0xff],
    attribute: attributes(0x01, 0x0f, 0),
};

const PACKED: Mode = Mode {
    misc: 0x63,
    sequencer: [0x01, 0x0f, 0x00, 0x0e],
    crtc: [
        0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0xbf, 0x1f, 0x00, 0x41, 0x20, 0, 0, 0, 0, 0, 0x9c, 0x8e, 0x8f,
        0x28, 0x40, 0x96, 0xb9, 0xa3, 0xff,
    ],
    graphics: [0, 0, 0, 0, 0, 0x40, 0x05, 0x0f, 0xff],
    attribute: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0x41, 0, 0x0f, 0, 0],
};

#[test]
#[ignore = "needs Debian's qemu-system-x86_64"]
fn planes_hold_the_same_bytes_under_a_storm_of_write_and_read_modes() {
    let mut pair = Pair::new("storm");
    pair.set_mode(&PLANAR);
    let mut random = Random::new(3);
    for _ in 0..12_000 {
        let address = 0xa0000 + random.below(64);
        match random.below(10) {
            0..4 => pair.poke(address, random.draw() as u8),
            4..7 => pair.check_peek(address),
            7 => pair.set(SEQUENCER, 2, random.below(16) as u8),
            8 => pair.set(GRAPHICS, 5, random.below(4) as u8 | (random.below(2) as u8) << 3),
            _ => {
                let index = [0, 1, 2, 3, 4, 7, 8][random.below(7) as usize];
                let value = if index == 4 { random.below(4) as u8 } else { random.draw() as u8 };
                let masked = value & GRAPHICS_MASK[usize::from(index)];
                pair.set(GRAPHICS, index, masked);
            }
        }
    }
}

#[test]
#[ignore = "needs Debian's qemu-system-x86_64"]
fn registers_read_the_same_after_a_storm() {
    let mut pair = Pair::new("registers");
    pair.set_mode(&TEXT);
    let mut random = Random::new(5);
    for _ in 0..6000 {
        match random.below(12) {
            0 => pair.set(SEQUENCER, random.below(5) as u8, random.draw() as u8),
            1 => pair.set(GRAPHICS, random.below(9) as u8, random.draw() as u8),
            2 => pair.set(CRTC_COLOUR, random.below(25) as u8, random.draw() as u8),
            3 => pair.outb(DAC_WRITE, random.draw() as u8),
            4 => pair.outb(DAC_READ, random.draw() as u8),
            5 => pair.outb(DAC_DATA, random.below(64) as u8),
            6 => pair.check_in(DAC_DATA),
            7 => pair.outb(MISC_WRITE, random.draw() as u8 | 3),
            8 => {
                let (port, count) = [(SEQUENCER, 5), (GRAPHICS, 9)][random.below(2) as usize];
                pair.outb(port, random.below(count) as u8);
                pair.check_in(port + 1);
            }
            9 => {
                pair.outb(CRTC_COLOUR, random.below(25) as u8);
                pair.check_in(CRTC_COLOUR + 1);
            }
            10 => {
                pair.check_in([MISC_READ, DAC_WRITE, DAC_READ, SEQUENCER, GRAPHICS][random.below(5) as usize])
            }
            _ => {
                pair.tell("inb 0x3da".to_owned());
                pair.ours.read(REGION_PORTS, 0x3da - PORT_BASE, 1);
                pair.outb(ATTRIBUTE, random.below(0x15) as u8 | 0x20);
                pair.check_in(ATTRIBUTE_READ);
            }
        }
    }
}

#[test]
#[ignore = "needs Debian's qemu-system-x86_64"]
fn text_looks_the_same() {
    let mut pair = Pair::new("text");
    pair.set_mode(&TEXT);
    pair.set_palette();
    let mut random = Random::new(11);
    // A font of noise, by the BIOS's way into plane 2.
    for (port, index, value) in
        [(SEQUENCER, 2, 4), (SEQUENCER, 4, 7), (GRAPHICS, 4, 2), (GRAPHICS, 5, 0), (GRAPHICS, 6, 4)]
    {
        pair.set(port, index, value);
    }
    for code in 0..256 {
        for line in 0..16 {
            pair.poke(0xa0000 + code * 32 + line, random.draw() as u8);
        }
    }
    for (port, index, value) in
        [(SEQUENCER, 2, 3), (SEQUENCER, 4, 2), (GRAPHICS, 4, 0), (GRAPHICS, 5, 0x10), (GRAPHICS, 6, 0x0e)]
    {
        pair.set(port, index, value);
    }
    for cell in 0..4096 {
        // The peer repeats the 8th dot of 0xb0..0xc0 too; IBM says 0xc0..0xe0.
        let code = Some(random.draw() as u8).filter(|code| code & 0xf0 != 0xb0).unwrap_or(0xdb);
        pair.poke(0xb8000 + cell * 2, code);
        pair.poke(0xb8001 + cell * 2, random.draw() as u8 & 0x7f);
    }
    pair.compare_pictures("80x25", 3);
    // Scrolled, and with a narrower row than the screen has.
    pair.set(CRTC_COLOUR, 0x0c, 2);
    pair.set(CRTC_COLOUR, 0x0d, 0x17);
    pair.compare_pictures("scrolled", 3);
    pair.set(CRTC_COLOUR, 0x13, 0x2a);
    pair.compare_pictures("84 characters a row", 3);
    pair.set(CRTC_COLOUR, 0x09, 0x47);
    pair.compare_pictures("50 rows", 3);
    pair.set(SEQUENCER, 1, 1);
    pair.compare_pictures("8 dots", 3);
}

#[test]
#[ignore = "needs Debian's qemu-system-x86_64"]
fn graphics_modes_look_the_same() {
    let modes = [("4", &CGA_4), ("6", &CGA_2), ("12h", &PLANAR), ("0Dh", &PLANAR_LOW), ("13h", &PACKED)];
    for (name, mode) in modes {
        let mut pair = Pair::new(&format!("mode-{name}"));
        pair.set_mode(mode);
        pair.set_palette();
        let mut random = Random::new(13);
        let (start, bytes) = if mode.graphics[6] & 8 != 0 { (0xb8000, 0x4000) } else { (0xa0000, 0x4000) };
        for at in 0..bytes {
            if name == "12h" || name == "0Dh" {
                pair.set(SEQUENCER, 2, 1 << random.below(4));
            }
            pair.poke(start + at, random.draw() as u8);
        }
        pair.compare_pictures(name, 3);
    }
}

#[test]
#[ignore = "needs Debian's qemu-system-x86_64"]
fn vbe_modes_look_the_same() {
    for bpp in [8, 15, 16, 24, 32] {
        let mut pair = Pair::new(&format!("vbe-{bpp}"));
        pair.set_mode(&TEXT);
        pair.set_palette();
        for (index, value) in [
            (vbe::ENABLE, 0),
            (vbe::XRES, 640),
            (vbe::YRES, 400),
            (vbe::BPP, bpp),
            (vbe::ENABLE, vbe_enable::ENABLED | vbe_enable::LFB),
            (vbe::VIRT_WIDTH, 720),
            (vbe::X_OFFSET, 16),
            (vbe::Y_OFFSET, 3),
        ] {
            pair.dispi(index, value);
        }
        for index in
            [vbe::ID, vbe::XRES, vbe::YRES, vbe::BPP, vbe::VIRT_WIDTH, vbe::VIRT_HEIGHT, vbe::MEMORY_64K]
        {
            pair.check_dispi(index);
        }
        let mut random = Random::new(17);
        for line in 0..410 {
            let bytes: Vec<u8> = (0..720 * 4).map(|_| random.draw() as u8).collect();
            pair.frame_buffer(line * bytes.len(), &bytes);
        }
        pair.compare_pictures(&format!("{bpp} bits"), if bpp < 24 { 8 } else { 0 });
        // The bank window shows the same bytes.
        pair.set(GRAPHICS, 6, 5);
        for bank in [0, 1, 5] {
            pair.dispi(vbe::BANK, bank);
            for address in [0xa0000, 0xa1234, 0xaffff] {
                pair.check_peek(address);
                pair.poke(address, random.draw() as u8);
                pair.check_peek(address);
            }
        }
    }
}

/// One access of the peer's log: `memory_region_ops_write cpu 0 mr 0x.. addr 0x3c2 value 0xc3 size 1 name 'vga'`.
fn logged(line: &str) -> Option<(bool, u64, u64, u8, &str)> {
    let write = line.contains("_write ");
    let mut words = line.split_whitespace().skip_while(|word| *word != "addr").skip(1);
    let number = |word: Option<&str>| u64::from_str_radix(word?.strip_prefix("0x")?, 16).ok();
    let address = number(words.next())?;
    let value = number(words.nth(1))?;
    let size = words.nth(1)?.parse().ok()?;
    Some((write, address, value, size, line.split('\'').nth(1)?))
}

/// A real guest on the peer, its accesses repeated here: every read gives what the guest got, and the screen is the same.
/// Without further arguments in `BULKHEAD_PEER_ARGUMENTS` the guest is the firmware, which finds nothing to boot;
/// `BULKHEAD_PEER_SECONDS` says how long it runs.
#[test]
#[ignore = "needs Debian's qemu-system-x86_64"]
fn guest_of_the_peer_sees_the_same_here() {
    let folder = folder("guest");
    let path = |name: &str| folder.join(name).display().to_string();
    let more = std::env::var("BULKHEAD_PEER_ARGUMENTS").unwrap_or_default();
    let seconds = std::env::var("BULKHEAD_PEER_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    let mut child = command(&["-trace", "memory_region_ops_*", "-D", &path("log")])
        .args(["-monitor", "stdio", "-serial", "none"])
        .args(more.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("qemu-system-x86_64 is installed");
    std::thread::sleep(std::time::Duration::from_secs(seconds));
    let mut monitor = child.stdin.take().expect("piped");
    writeln!(monitor, "stop\nscreendump {}\nquit", path("screen")).expect("the peer's monitor");
    let output = child.wait_with_output().expect("peer ends");
    let log = std::fs::read_to_string(path("log"))
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stdout)));
    let screen = std::fs::read(path("screen")).expect("a picture");
    std::fs::remove_dir_all(&folder).expect("own folder");

    let chip = Vga::new(VgaConfig { vram_bytes: VRAM }).expect("a size that is allowed");
    let mut ours = Bench::new(chip, 0, 0, VRAM as usize);
    let mut counts = [0usize; 4];
    let mut vbe_used = false;
    for line in log.lines() {
        let Some((write, address, value, size, name)) = logged(line) else { continue };
        let (region, offset) = match name {
            "vga" => (REGION_PORTS, address - PORT_BASE),
            "vbe" => (REGION_VBE, address - 0x1ce),
            "vga-lowmem" => (REGION_MEMORY, address - 0xa0000),
            "vga ioports remapped" | "bochs dispi interface" | "qemu extended regs" => {
                (REGION_MMIO, address & 0xfff)
            }
            _ => continue,
        };
        counts[usize::from(region)] += 1;
        vbe_used |= region == REGION_VBE && write && offset > 0 && value & 1 != 0;
        if write {
            ours.write(region, offset, size, value);
        } else {
            let seen = ours.read(region, offset, size);
            // Input Status 1 is a matter of time. The peer changes VGA registers when a VBE mode is set; the Bochs
            // specification knows nothing of that.
            let status =
                matches!(address, STATUS1_COLOUR | STATUS1_MONO) || region == REGION_MMIO && offset == 0x41a;
            let poked = vbe_used && matches!(address, 0x3c5 | 0x3cf | 0x3d5);
            assert!(status || poked || seen == value, "{line}: ours {seen:#x}");
        }
    }
    eprintln!("accesses by region: {counts:?}");
    let text = ours
        .control(&Control::Configure(b"text".to_vec()))
        .map(|text| String::from_utf8_lossy(&text).into_owned());
    eprintln!("{}", text.as_deref().unwrap_or("(no text mode)"));
    eprintln!("{}", String::from_utf8_lossy(&ours.control(&Control::Info).expect("info")));
    assert!(counts[usize::from(REGION_PORTS)] > 100);

    let mut file = Vec::new();
    loop {
        let piece = ours.control(&Control::Screen { offset: file.len() as u32 }).expect("a screen");
        if piece.is_empty() {
            break;
        }
        file.extend(piece);
    }
    let (ours, theirs) = (Picture::parse(&file), Picture::parse(&screen));
    assert_eq!((ours.width, ours.height), (theirs.width, theirs.height));
    if text.is_ok() {
        let mut different = 0;
        for y in 0..ours.height {
            for x in 0..ours.width {
                let near =
                    ours.at(x, y).iter().zip(theirs.at(x, y)).all(|(our, their)| our.abs_diff(their) <= 3);
                different += usize::from(!near);
            }
        }
        // The peer's cursor blinks.
        assert!(different <= 9 * 16, "{different} pixels differ");
    }
}
