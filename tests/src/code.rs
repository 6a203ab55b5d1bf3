//! Machine code for guests of a few bytes: firmware, boot sectors and option ROMs that talk over the first serial port; and larger
//! programs in assembly language.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Scratch, Vm};

/// The folder of programs in assembly language.
pub fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cases")
}

/// Assembles program `name` of [`cases`] and links it by a script of that folder; the path of the result in `scratch`.
///
/// # Panics
/// When it has errors or the programs of package binutils are missing.
pub fn assemble(scratch: &Scratch, name: &str, script: &str) -> String {
    let file = name.replace('/', "-");
    let [object, linked] = ["o", "linked"].map(|kind| scratch.file(&format!("{file}.{kind}")));
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program).current_dir(cases()).args(args).output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error} (package binutils)"));
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run("as", &["--32", "-o", &object, &format!("{name}.s")]);
    let options = ["-z", "noexecstack", "--no-warn-rwx-segments", "-T", script];
    run("ld", &[&["-m", "elf_i386", "-o", &linked, &object], &options[..]].concat());
    linked
}

const QUIET: [&str; 5] = ["-nographic", "-vga", "none", "-monitor", "null"];
/// Where the subroutine that sends AL stands, in every image.
const PUT: usize = 0x180;

/// `put`: waits until the transmitter at 3F8h is free and sends AL. Changes AH and DX.
const PUT_CODE: &[u8] = &[
    0x88, 0xc4, // mov ah, al
    0xba, 0xfd, 0x03, // mov dx, 0x3fd
    0xec, // in al, dx
    0xa8, 0x20, // test al, 0x20
    0x74, 0xfb, // jz back to in
    0x88, 0xe0, // mov al, ah
    0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xee, // out dx, al
    0xc3, // ret
];

/// 16-bit code that grows; it runs wherever it is loaded.
#[derive(Clone, Debug, Default)]
pub struct Code(Vec<u8>);

impl Code {
    /// Nothing yet.
    pub fn new() -> Code {
        Code::default()
    }

    /// Adds instructions as bytes.
    pub fn bytes(mut self, bytes: &[u8]) -> Code {
        self.0.extend_from_slice(bytes);
        self
    }

    /// The bytes so far; without those that call, they run anywhere.
    pub fn raw(&self) -> &[u8] {
        &self.0
    }

    /// Adds what `more` adds, which may ask where it stands.
    pub fn then(self, more: impl FnOnce(Code) -> Code) -> Code {
        more(self)
    }

    /// Sends AL.
    pub fn put(self) -> Code {
        let next = self.0.len() + 3;
        let [low, high] = ((PUT - next) as u16).to_le_bytes();
        self.bytes(&[0xe8, low, high])
    }

    /// Sends these characters.
    pub fn say(self, text: &str) -> Code {
        text.bytes().fold(self, |code, letter| code.bytes(&[0xb0, letter]).put())
    }

    /// Sends the `count` bytes of memory from `at` on, each as two letters from A on, the upper half first. Changes AX, DX, SI and BP.
    pub fn say_memory(self, at: u16, count: u16) -> Code {
        let ([at_low, at_high], [low, high]) = (at.to_le_bytes(), count.to_le_bytes());
        // mov si, at; mov bp, count
        let code = self.bytes(&[0xbe, at_low, at_high, 0xbd, low, high]);
        let next = code.raw().len();
        // mov al, [si]; shr al, 4; add al, 'A'; then and al, 15
        let code = code.bytes(&[0x8a, 0x04, 0xc0, 0xe8, 0x04, 0x04, b'A']).put();
        let code = code.bytes(&[0x8a, 0x04, 0x24, 0x0f, 0x04, b'A']).put();
        // inc si; dec bp; jz +3
        code.bytes(&[0x46, 0x4d, 0x74, 0x03]).back_to(next)
    }

    /// Reads a byte from a port and sends it.
    pub fn say_port(self, port: u16) -> Code {
        let [low, high] = port.to_le_bytes();
        self.bytes(&[0xba, low, high, 0xec]).put()
    }

    /// Writes a byte to a port.
    pub fn out(self, port: u16, value: u8) -> Code {
        let [low, high] = port.to_le_bytes();
        self.bytes(&[0xba, low, high, 0xb0, value, 0xee])
    }

    /// Sleeps for ever, interrupts off.
    pub fn sleep(self) -> Code {
        self.bytes(&[0xfa, 0xf4, 0xeb, 0xfd])
    }

    /// Lets the firmware print what it still holds back of its own text, which it does at its timer interrupt, then keeps interrupts
    /// off: or that text comes in the middle of what the code says.
    pub fn alone(self) -> Code {
        // sti; hlt; hlt; hlt; cli
        self.bytes(&[0xfb, 0xf4, 0xf4, 0xf4, 0xfa])
    }

    /// Fills with instructions that do nothing, so that the next one stands at `at`.
    pub fn fill_to(mut self, at: usize) -> Code {
        assert!(self.0.len() <= at, "code reaches {at:#x}");
        self.0.resize(at, 0x90);
        self
    }

    /// Jumps back to the instruction at `at`.
    pub fn back_to(self, at: usize) -> Code {
        let next = self.0.len() + 3;
        let [low, high] = (at as u16).wrapping_sub(next as u16).to_le_bytes();
        self.bytes(&[0xe9, low, high])
    }

    fn image(&self, bytes: usize, fill: u8) -> Vec<u8> {
        assert!(self.0.len() <= PUT, "code reaches its subroutine");
        let mut image = vec![fill; bytes];
        image[..self.0.len()].copy_from_slice(&self.0);
        image[PUT..PUT + PUT_CODE.len()].copy_from_slice(PUT_CODE);
        image
    }

    /// A firmware of `bytes` that runs the code from the reset vector at F000:0000.
    pub fn firmware(&self, bytes: usize) -> Vec<u8> {
        let mut image = vec![0xf4; bytes - 0x1_0000];
        image.extend(self.image(0x1_0000, 0xf4));
        // jmp f000:0000
        image[bytes - 16..bytes - 11].copy_from_slice(&[0xea, 0x00, 0x00, 0x00, 0xf0]);
        image
    }

    /// Command line of a VM without a monitor that runs the code as its firmware, with its serial port on standard output.
    pub fn firmware_args(&self, scratch: &Scratch) -> Vec<String> {
        let bios = scratch.file("code.rom");
        std::fs::write(&bios, self.firmware(0x1_0000)).expect("firmware");
        let mut args: Vec<String> = QUIET.iter().map(|word| (*word).to_owned()).collect();
        args.extend(["-bios".to_owned(), bios, "-serial".to_owned(), "stdio".to_owned()]);
        args
    }

    /// That VM, with further options.
    pub fn start(&self, scratch: &Scratch, more: &[&str]) -> Vm {
        let args = self.firmware_args(scratch);
        let args: Vec<&str> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
        Vm::start("qemu", &args)
    }

    /// The same with a monitor on a socket, whose path is the second value.
    pub fn start_monitored(&self, scratch: &Scratch, more: &[&str]) -> (Vm, String) {
        let socket = scratch.file("monitor");
        let mut args = self.firmware_args(scratch);
        let at = args.iter().position(|word| word == "-monitor").expect("a monitor") + 1;
        args[at] = format!("unix:{socket},server,nowait");
        let args: Vec<&str> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
        (Vm::start("qemu", &args), socket)
    }

    /// A disk of `bytes` whose boot sector is the code.
    pub fn disk(&self, bytes: usize) -> Vec<u8> {
        let mut image = self.image(512, 0);
        image[510..].copy_from_slice(&[0x55, 0xaa]);
        image.resize(bytes, 0);
        image
    }

    /// An option ROM of 512 bytes with the code as its entry, which must end with a far return.
    pub fn option_rom(&self) -> Vec<u8> {
        const START: usize = 16;
        assert!(self.0.len() <= PUT, "code reaches its subroutine");
        let mut image = vec![0u8; 512];
        // Signature, size in units of 512 bytes, and at offset 3 a jump over what firmware may read of the header.
        image[..6].copy_from_slice(&[0x55, 0xaa, 1, 0xe9, START as u8 - 6, 0]);
        image[START..START + self.0.len()].copy_from_slice(&self.0);
        image[START + PUT..START + PUT + PUT_CODE.len()].copy_from_slice(PUT_CODE);
        let sum = image.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        image[511] = sum.wrapping_neg();
        image
    }

    /// A CD-ROM with the code as El Torito boot image (no emulation).
    pub fn cdrom(&self) -> Vec<u8> {
        const SECTOR: usize = 2048;
        let mut image = vec![0u8; 32 * SECTOR];
        let mut put = |sector: usize, at: usize, bytes: &[u8]| {
            let at = sector * SECTOR + at;
            image[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(16, 0, b"\x01CD001\x01");
        put(17, 0, b"\x00CD001\x01EL TORITO SPECIFICATION");
        put(17, 0x47, &19u32.to_le_bytes());
        put(18, 0, b"\xffCD001\x01");
        // Validation entry: 55h AAh at its end, the sum of its words zero.
        put(19, 0, &[1]);
        put(19, 0x1c, &0x55aau16.to_le_bytes());
        put(19, 0x1e, &[0x55, 0xaa]);
        // Initial entry: bootable, no emulation, one virtual sector group at sector 20.
        put(19, 0x20, &[0x88, 0, 0, 0, 0, 0, 4, 0]);
        put(19, 0x28, &20u32.to_le_bytes());
        put(20, 0, &self.image(SECTOR, 0));
        image
    }
}
