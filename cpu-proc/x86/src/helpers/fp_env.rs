//! x87 control: initialisation, control and status words, environment and state images.
//!
//! Source: Intel SDM volume 1 section 8.1.10 (figures 8-9 to 8-12), volume 2.

use bulkhead_engine::Fault;
use bulkhead_engine::state::X87;

use super::fp::bits::*;
use super::fp::{check_pending, resume};
use super::fp_mem::{read_bytes, write_bytes};
use crate::state::{Cpu, key};

/// Control word after `FNINIT`.
const INITIAL_CONTROL: u16 = 0x37f;

impl Cpu {
    /// `FNINIT`: control word, tags and pointers as after initialisation; register contents stay. What was pending is gone.
    pub fn x87_init(&mut self) {
        self.x87_settled();
        self.core.x87 = X87 { control: INITIAL_CONTROL, ..Default::default() };
    }

    /// The status word with TOP.
    pub fn x87_status(&self) -> u16 {
        (self.core.x87.status & !TOP) | ((self.core.x87.top as u16 & 7) << 11)
    }

    /// Sets the status word with TOP; the summary bits follow from flags and masks, FERR# from what was pending before.
    pub fn x87_set_status(&mut self, status: u16) {
        let pending = self.core.x87.status & ES;
        self.core.x87.top = u32::from(status >> 11) & 7;
        self.core.x87.status = status & !(TOP | ES) | pending;
        self.x87_summary();
    }

    /// Sets the control word. Bit 6 always reads as one, the other reserved bits as zero.
    pub fn x87_set_control(&mut self, control: u16) {
        self.core.x87.control = control & 0x1f3f | 0x40;
        self.x87_summary();
    }

    /// The full tag word, two bits a physical register: 0 valid, 1 zero, 2 special, 3 empty.
    pub fn x87_tag_word(&self) -> u16 {
        (0..8).fold(0, |word, phys: usize| {
            let tag =
                if self.core.x87.tags & (1 << phys) == 0 { 3 } else { classify(&self.core.media[phys]) };
            word | tag << (2 * phys)
        })
    }

    /// Takes the in-use bits from a full tag word.
    pub fn x87_set_tag_word(&mut self, word: u16) {
        self.core.x87.tags =
            (0..8).fold(0, |tags, phys| tags | u8::from((word >> (2 * phys)) & 3 != 3) << phys);
    }
}

/// Tag of a register in use.
fn classify(value: &[u8; 16]) -> u16 {
    let [m0, m1, m2, m3, m4, m5, m6, m7, e0, e1, ..] = *value;
    let mantissa = u64::from_le_bytes([m0, m1, m2, m3, m4, m5, m6, m7]);
    let exponent = u16::from_le_bytes([e0, e1]) & 0x7fff;
    match (exponent, mantissa) {
        (0, 0) => 1,
        (0 | 0x7fff, _) => 2,
        (_, m) if m >> 63 == 0 => 2,
        _ => 0,
    }
}

/// `Fp::X87Control`.
pub fn init_or_clear(cpu: &mut Cpu, _: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    cpu.x87_sync();
    cpu.x87_unready();
    if imm & 1 == 0 {
        cpu.x87_init();
    } else {
        cpu.x87_settled();
        cpu.core.x87.status &= !(EXCEPTIONS | SF);
    }
    Ok(0)
}

/// `Fp::Fldcw`.
pub fn load_control(cpu: &mut Cpu, a: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    check_pending(cpu)?;
    cpu.x87_set_control(a as u16);
    resume(cpu);
    Ok(0)
}

/// `Fp::Fnstsw`.
pub fn store_status(cpu: &mut Cpu, _: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    cpu.x87_sync();
    Ok(u64::from(cpu.x87_status()))
}

/// Whether the image has the protected-mode layout (64-bit mode too); real and V86 mode have linear pointers.
fn protected(cpu: &Cpu) -> bool {
    cpu.key & key::PROTECTED != 0 && cpu.key & key::V86 == 0
}

/// Bytes of the environment.
fn environment_size(wide: bool) -> usize {
    if wide { 28 } else { 14 }
}

/// A linear real-mode pointer from a stored one.
fn real_pointer(pointer: u64) -> u32 {
    (pointer as u32).wrapping_add(((pointer >> 48) as u32) << 4)
}

/// The environment as words: control, status, tags, then the four pointer words (low 32 bits used by the wide form).
fn image(cpu: &Cpu, wide: bool) -> [u32; 7] {
    let x87 = &cpu.core.x87;
    let head = [u32::from(x87.control), u32::from(cpu.x87_status()), u32::from(cpu.x87_tag_word())];
    let opcode = u32::from(x87.opcode) & 0x7ff;
    let tail = match (protected(cpu), wide) {
        (true, true) => {
            [x87.ip as u32, (x87.ip >> 48) as u32 | opcode << 16, x87.dp as u32, (x87.dp >> 48) as u32]
        }
        (true, false) => [x87.ip as u32, (x87.ip >> 48) as u32, x87.dp as u32, (x87.dp >> 48) as u32],
        (false, true) => {
            let (ip, dp) = (real_pointer(x87.ip), real_pointer(x87.dp));
            [ip & 0xffff, (ip >> 16) << 12 | opcode, dp & 0xffff, (dp >> 16) << 12]
        }
        (false, false) => {
            let (ip, dp) = (real_pointer(x87.ip), real_pointer(x87.dp));
            [ip & 0xffff, ((ip >> 16) & 0xf) << 12 | opcode, dp & 0xffff, ((dp >> 16) & 0xf) << 12]
        }
    };
    let [a, b, c] = head;
    let [d, e, f, g] = tail;
    [a, b, c, d, e, f, g]
}

/// `Fp::X87StoreEnv`: imm bit 0 `FNSAVE`, bit 1 32-bit form.
pub fn store(cpu: &mut Cpu, a: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    cpu.x87_sync();
    let (save, wide) = (imm & 1 != 0, imm & 2 != 0);
    let mut bytes = [0u8; 108];
    let mut length = 0;
    let mut put = |data: &[u8]| {
        for &byte in data {
            if let Some(slot) = bytes.get_mut(length) {
                *slot = byte;
                length += 1;
            }
        }
    };
    for (i, word) in image(cpu, wide).into_iter().enumerate() {
        // Reserved halves of the wide form are stored as ones, except where the last word leaves them.
        match (wide, i) {
            (false, _) => put(&(word as u16).to_le_bytes()),
            (true, 0..=2) => put(&(word | 0xffff_0000).to_le_bytes()),
            (true, 6) if protected(cpu) => put(&(word | 0xffff_0000).to_le_bytes()),
            (true, _) => put(&word.to_le_bytes()),
        }
    }
    if save {
        for i in 0..8 {
            put(cpu.x87_st(i).get(..10).unwrap_or_default());
        }
    }
    write_bytes(cpu, a, bytes.get(..length).unwrap_or_default())?;
    if save {
        cpu.x87_init();
    } else {
        // All exceptions are masked after the environment is stored.
        cpu.x87_set_control(cpu.core.x87.control | EXCEPTIONS);
    }
    Ok(0)
}

/// `Fp::X87LoadEnv`.
pub fn load(cpu: &mut Cpu, a: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    check_pending(cpu)?;
    let (restore, wide) = (imm & 1 != 0, imm & 2 != 0);
    let size = environment_size(wide);
    let mut bytes = [0u8; 108];
    let total = size + if restore { 80 } else { 0 };
    read_bytes(cpu, a, bytes.get_mut(..total).unwrap_or_default())?;
    let word = |i: usize| -> u32 {
        let at = |n: usize| u32::from(bytes.get(n).copied().unwrap_or(0));
        match wide {
            true => at(4 * i) | at(4 * i + 1) << 8 | at(4 * i + 2) << 16 | at(4 * i + 3) << 24,
            false => at(2 * i) | at(2 * i + 1) << 8,
        }
    };
    let (ip, dp, opcode) = match (protected(cpu), wide) {
        (true, _) => (
            u64::from(word(3)) | u64::from(word(4) & 0xffff) << 48,
            u64::from(word(5)) | u64::from(word(6) & 0xffff) << 48,
            if wide { word(4) >> 16 } else { u32::from(cpu.core.x87.opcode) },
        ),
        (false, _) => (
            u64::from(word(3) & 0xffff | (word(4) >> 12 & 0xffff) << 16),
            u64::from(word(5) & 0xffff | (word(6) >> 12 & 0xffff) << 16),
            word(4),
        ),
    };
    cpu.core.x87.ip = ip;
    cpu.core.x87.dp = dp;
    cpu.core.x87.opcode = opcode as u16 & 0x7ff;
    cpu.x87_set_control(word(0) as u16);
    cpu.x87_set_status(word(1) as u16);
    cpu.x87_set_tag_word(word(2) as u16);
    if restore {
        for i in 0..8u8 {
            let at = size + 10 * usize::from(i);
            let phys = cpu.x87_phys(i);
            let mut value = [0u8; 16];
            for (to, from) in value.iter_mut().zip(bytes.get(at..at + 10).unwrap_or_default()) {
                *to = *from;
            }
            cpu.core.media[phys] = value;
        }
    }
    Ok(0)
}
