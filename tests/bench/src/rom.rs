//! Test firmware made by the benchmark: 64 KiB images for `-bios`, assembled here by hand.
//!
//! The code is 16-bit real mode, as a processor comes out of reset: it starts at F000:FFF0 and stays in that segment. Encodings
//! are those of the Intel SDM, volume 2. Each line of code has its instruction beside it.

/// Size of an image in bytes: what fits below 4 GiB and 1 MiB alike.
pub const SIZE: usize = 0x1_0000;
/// Base of the exit device (`isa-debug-exit`) that ends the VM.
pub const EXIT_PORT: u16 = 0x501;
/// What the register image prints before its samples.
pub const MAGIC: &[u8] = b"bulkhead-registers:";
/// Length of the calibration in nanoseconds: 65535 periods of the 8254's 1193182 Hz.
pub const CALIBRATION_NS: f64 = 65535.0 * 1e9 / 1_193_182.0;

const COM1: u16 = 0x3f8;
const LINE_STATUS: u16 = 0x3fd;
/// Line status: the transmitter takes a byte.
const THRE: u8 = 0x20;
/// Line status: all is sent.
const TEMT: u8 = 0x40;

/// What is timed at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `in al, dx`
    Read,
    /// `out dx, al` with this value
    Write(u8),
    /// `rep insb` of [`BLOCK`] bytes: one transaction over the ring.
    Block,
}

/// A register to time: its label, port, and a write that has to come first (port, value).
pub struct Register {
    /// What the table says.
    pub label: &'static str,
    /// The port; none measures the loop itself.
    pub port: Option<u16>,
    /// What is done there.
    pub access: Access,
    /// A write before the first access.
    pub before: Option<(u16, u8)>,
}

/// The registers measured, one per kind of device; the class is that of our bus.
pub const REGISTERS: &[Register] = &[
    Register { label: "nothing (the loop itself)", port: None, access: Access::Read, before: None },
    Register {
        label: "8259 mask 21h (in the CPU process)",
        port: Some(0x21),
        access: Access::Read,
        before: None,
    },
    Register {
        label: "serial receive buffer 3F8h (sync)",
        port: Some(0x3f8),
        access: Access::Read,
        before: None,
    },
    Register {
        label: "RTC data 71h (sync)",
        port: Some(0x71),
        access: Access::Read,
        before: Some((0x70, 0x8f)),
    },
    Register { label: "IDE error 1F1h (sync)", port: Some(0x1f1), access: Access::Read, before: None },
    Register { label: "VGA input status 3DAh (sync)", port: Some(0x3da), access: Access::Read, before: None },
    Register { label: "fw_cfg data 511h (sync)", port: Some(0x511), access: Access::Read, before: None },
    Register {
        label: "serial line status 3FDh (calm)",
        port: Some(LINE_STATUS),
        access: Access::Read,
        before: None,
    },
    Register { label: "IDE status 1F7h (calm)", port: Some(0x1f7), access: Access::Read, before: None },
    Register { label: "parallel status 379h (calm)", port: Some(0x379), access: Access::Read, before: None },
    Register { label: "i8042 status 64h (mirrored)", port: Some(0x64), access: Access::Read, before: None },
    Register {
        label: "IDE alternate status 3F6h (mirrored)",
        port: Some(0x3f6),
        access: Access::Read,
        before: None,
    },
    Register { label: "port A 92h (mirrored)", port: Some(0x92), access: Access::Read, before: None },
    Register {
        label: "serial scratch 3FFh (posted write)",
        port: Some(0x3ff),
        access: Access::Write(0x5a),
        before: None,
    },
    Register {
        label: "RTC index 70h (posted write)",
        port: Some(0x70),
        access: Access::Write(0x8f),
        before: None,
    },
    Register {
        label: "VGA sequencer index 3C4h (posted write)",
        port: Some(0x3c4),
        access: Access::Write(4),
        before: None,
    },
    Register {
        label: "parallel data 378h (posted write)",
        port: Some(0x378),
        access: Access::Write(0x5a),
        before: None,
    },
    Register {
        label: "parallel control 37Ah (kicked write)",
        port: Some(0x37a),
        access: Access::Write(0x0c),
        before: None,
    },
    Register {
        label: "power-off port 8900h (kicked write)",
        port: Some(0x8900),
        access: Access::Write(b'x'),
        before: None,
    },
    Register {
        label: "fw_cfg data 511h (512 bytes in one request)",
        port: Some(0x511),
        access: Access::Block,
        before: None,
    },
];

/// Bytes of [`Access::Block`].
pub const BLOCK: u16 = 512;
/// Accesses of a register in a row.
pub const WARM_READS: u16 = 4000;
/// Accesses of a register with a gap after each.
pub const GAP_READS: u16 = 400;
/// The gap in microseconds: longer than anything spins.
pub const GAP_US: u32 = 200;

/// An image under construction.
struct Code {
    bytes: Vec<u8>,
}

impl Code {
    fn new() -> Code {
        Code { bytes: Vec::new() }
    }

    /// Appends an instruction.
    fn op(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn here(&self) -> usize {
        self.bytes.len()
    }

    /// Appends `opcode rel16` to an earlier place.
    fn back(&mut self, opcode: &[u8], target: usize) {
        self.op(opcode);
        let distance = target as i64 - (self.here() as i64 + 2);
        self.op(&(distance as i16).to_le_bytes());
    }

    /// `out port, value`
    fn output(&mut self, port: u16, value: u8) {
        self.op(&[0xb0, value]); // mov al, value
        self.port(port);
        self.op(&[0xee]); // out dx, al
    }

    /// `mov dx, port`
    fn port(&mut self, port: u16) {
        let [low, high] = port.to_le_bytes();
        self.op(&[0xba, low, high]);
    }

    /// Waits until the transmitter has `bit` set.
    fn wait_line_status(&mut self, bit: u8) {
        self.port(LINE_STATUS);
        let again = self.here();
        self.op(&[0xec]); // in al, dx
        self.op(&[0xa8, bit]); // test al, bit
        self.back(&[0x0f, 0x84], again); // jz again
    }

    /// Ends the VM.
    fn exit(&mut self) {
        self.wait_line_status(TEMT);
        self.output(EXIT_PORT, 0);
        let halt = self.here();
        self.op(&[0xf4]); // hlt
        self.back(&[0xe9], halt); // jmp halt
    }

    /// Puts the code at the start of an image and a jump to `entry` at the reset vector.
    fn image(self, entry: usize) -> Vec<u8> {
        const RESET: usize = 0xfff0;
        let mut code = self;
        assert!(code.here() <= RESET, "code reaches the reset vector");
        code.bytes.resize(RESET, 0xf4);
        code.back(&[0xe9], entry); // jmp entry
        code.bytes.resize(SIZE, 0xf4);
        code.bytes
    }
}

/// An image whose first instructions send one byte, `!`, and then end the VM.
pub fn first_byte() -> Vec<u8> {
    let mut code = Code::new();
    code.output(COM1, b'!');
    code.exit();
    code.image(0)
}

/// An image that times reads of every register of [`REGISTERS`] with the time-stamp counter. It prints [`MAGIC`], then 32-bit
/// little-endian words: ticks of the calibration ([`CALIBRATION_NS`]), and per register [`WARM_READS`] and [`GAP_READS`] samples.
pub fn registers() -> Vec<u8> {
    let mut code = Code::new();
    // dump: sends cx bytes from es:0.
    let dump = code.here();
    code.op(&[0x31, 0xf6]); // xor si, si
    let next = code.here();
    code.wait_line_status(THRE);
    code.op(&[0x26, 0xac]); // lods al, es:[si]
    code.port(COM1);
    code.op(&[0xee]); // out dx, al
    code.op(&[0x49]); // dec cx
    code.back(&[0x0f, 0x85], next); // jnz next
    code.wait_line_status(TEMT);
    code.op(&[0xc3]); // ret

    let entry = code.here();
    code.op(&[0xfa, 0xfc]); // cli; cld
    code.op(&[0xb8, 0x00, 0x10, 0x8e, 0xc0]); // mov ax, 1000h; mov es, ax
    code.op(&[0xb8, 0x00, 0x20, 0x8e, 0xd0]); // mov ax, 2000h; mov ss, ax
    code.op(&[0xbc, 0x00, 0x10]); // mov sp, 1000h
    for byte in MAGIC {
        code.wait_line_status(THRE);
        code.output(COM1, *byte);
    }
    calibrate(&mut code);
    code.op(&[0x66, 0x26, 0xa3, 0x00, 0x00]); // mov es:[0], eax
    code.op(&[0x66, 0x31, 0xd2]); // xor edx, edx
    code.op(&[0x66, 0xbb]); // mov ebx, gaps in the calibration
    code.op(&((CALIBRATION_NS / 1000.0) as u32 / GAP_US).to_le_bytes());
    code.op(&[0x66, 0xf7, 0xf3]); // div ebx
    code.op(&[0x66, 0x50]); // push eax: ticks of the gap
    code.op(&[0xb9, 0x04, 0x00]); // mov cx, 4
    code.back(&[0xe8], dump); // call dump
    for register in REGISTERS {
        if let Some((port, value)) = register.before {
            code.output(port, value);
        }
        for (reads, gap) in [(WARM_READS, false), (GAP_READS, true)] {
            sample(&mut code, register, reads, gap);
            let [low, high] = (reads * 4).to_le_bytes();
            code.op(&[0xb9, low, high]); // mov cx, reads * 4
            code.back(&[0xe8], dump); // call dump
        }
    }
    code.exit();
    code.image(entry)
}

/// Leaves in eax how many ticks of the time-stamp counter the 8254's channel 2 needs for its longest period.
fn calibrate(code: &mut Code) {
    code.op(&[0xe4, 0x61, 0x24, 0xfc, 0xe6, 0x61]); // in al, 61h; and al, 0fch; out 61h, al: gate low
    code.op(&[0xb0, 0xb0, 0xe6, 0x43]); // mov al, 0b0h; out 43h, al: channel 2, both bytes, mode 0
    code.op(&[0xb0, 0xff, 0xe6, 0x42, 0xe6, 0x42]); // mov al, 0ffh; out 42h, al twice
    code.op(&[0xe4, 0x61, 0x0c, 0x01, 0xe6, 0x61]); // in al, 61h; or al, 1; out 61h, al: gate high, it counts
    code.op(&[0x0f, 0x31, 0x66, 0x89, 0xc6]); // rdtsc; mov esi, eax
    let again = code.here();
    code.op(&[0xe4, 0x61, 0xa8, 0x20]); // in al, 61h; test al, 20h: the counter's output
    code.back(&[0x0f, 0x84], again); // jz again
    code.op(&[0x0f, 0x31, 0x66, 0x29, 0xf0]); // rdtsc; sub eax, esi
}

/// Times `reads` accesses of a port into the words at es:0. The gap's ticks are on the stack.
fn sample(code: &mut Code, register: &Register, reads: u16, gap: bool) {
    let [low, high] = register.port.unwrap_or(0).to_le_bytes();
    code.op(&[0xbd, low, high]); // mov bp, port
    let [low, high] = reads.to_le_bytes();
    code.op(&[0xb9, low, high]); // mov cx, reads
    code.op(&[0x31, 0xff]); // xor di, di
    code.op(&[0x66, 0x5e, 0x66, 0x56]); // pop esi; push esi
    let next = code.here();
    code.op(&[0x0f, 0x31, 0x66, 0x89, 0xc3]); // rdtsc; mov ebx, eax
    code.op(&[0x89, 0xea]); // mov dx, bp
    match register.access {
        _ if register.port.is_none() => {}
        Access::Read => code.op(&[0xec]),                      // in al, dx
        Access::Write(value) => code.op(&[0xb0, value, 0xee]), // mov al, value; out dx, al
        Access::Block => {
            let [low, high] = BLOCK.to_le_bytes();
            code.op(&[0x57, 0x51, 0x06]); // push di; push cx; push es
            code.op(&[0xb8, 0x00, 0x30, 0x8e, 0xc0, 0x31, 0xff]); // mov ax, 3000h; mov es, ax; xor di, di
            code.op(&[0xb9, low, high, 0xf3, 0x6c]); // mov cx, BLOCK; rep insb
            code.op(&[0x07, 0x59, 0x5f]); // pop es; pop cx; pop di
        }
    }
    code.op(&[0x0f, 0x31, 0x66, 0x29, 0xd8]); // rdtsc; sub eax, ebx
    code.op(&[0x66, 0xab]); // stosd
    if gap {
        code.op(&[0x0f, 0x31, 0x66, 0x89, 0xc3]); // rdtsc; mov ebx, eax
        let wait = code.here();
        code.op(&[0x0f, 0x31, 0x66, 0x29, 0xd8]); // rdtsc; sub eax, ebx
        code.op(&[0x66, 0x39, 0xf0]); // cmp eax, esi
        code.back(&[0x0f, 0x82], wait); // jb wait
    }
    code.op(&[0x49]); // dec cx
    code.back(&[0x0f, 0x85], next); // jnz next
}

/// Samples of one register in nanoseconds, in the order they were taken.
pub struct Samples {
    /// Back to back.
    pub warm: Vec<f64>,
    /// With the gap.
    pub gap: Vec<f64>,
}

/// Reads what [`registers`] printed: samples in the order of [`REGISTERS`].
///
/// # Errors
/// When the output is not complete, or the calibration is nothing.
pub fn parse(output: &[u8]) -> Result<Vec<Samples>, String> {
    let start = output
        .windows(MAGIC.len())
        .position(|window| window == MAGIC)
        .ok_or_else(|| "no output from the register image".to_owned())?;
    let mut words =
        output[start + MAGIC.len()..].as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
    let ticks = words.next().filter(|ticks| *ticks > 0).ok_or("the time-stamp counter stands still")?;
    let ns = CALIBRATION_NS / f64::from(ticks);
    let mut take = |count: u16| {
        let part: Vec<f64> =
            words.by_ref().take(usize::from(count)).map(|word| f64::from(word) * ns).collect();
        if part.len() == usize::from(count) {
            Ok(part)
        } else {
            Err("output of the register image ends early".to_owned())
        }
    };
    REGISTERS.iter().map(|_| Ok(Samples { warm: take(WARM_READS)?, gap: take(GAP_READS)? })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_has_rom_size_and_its_reset_vector_jumps_into_the_code() {
        for image in [first_byte(), registers()] {
            assert_eq!(image.len(), SIZE);
            assert_eq!(image[0xfff0], 0xe9);
            let distance = u16::from_le_bytes([image[0xfff1], image[0xfff2]]);
            let target = usize::from(0xfff3_u16.wrapping_add(distance));
            assert!(target < 0x8000 && image[target] != 0xf4, "{target:#x}");
        }
    }

    #[test]
    fn output_is_scaled_by_the_calibration_and_must_be_complete() {
        let mut output = b"noise".to_vec();
        output.extend_from_slice(MAGIC);
        output.extend_from_slice(&(CALIBRATION_NS as u32 * 2).to_le_bytes());
        let words = REGISTERS.len() * usize::from(WARM_READS + GAP_READS);
        for _ in 0..words {
            output.extend_from_slice(&500u32.to_le_bytes());
        }
        let samples = parse(&output).expect("complete");
        assert_eq!(samples.len(), REGISTERS.len());
        assert!(samples.iter().all(|s| s.warm.len() == 4000 && s.gap.len() == 400));
        assert!((samples[3].gap[7] - 250.0).abs() < 0.01);
        output.pop();
        assert!(parse(&output).is_err());
    }
}
