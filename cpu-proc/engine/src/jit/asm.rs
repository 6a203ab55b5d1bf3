//! An x86-64 encoder for what the compiler emits. Source: Intel SDM volume 2, chapter 2.

use bulkhead_ir::{W8, W16, W64};

use super::moves::{Kind, Moves};

/// Host register numbers.
pub(crate) mod reg {
    pub const RAX: u8 = 0;
    pub const RCX: u8 = 1;
    pub const RDX: u8 = 2;
    pub const RBX: u8 = 3;
    pub const RSP: u8 = 4;
    pub const RBP: u8 = 5;
    pub const RSI: u8 = 6;
    pub const RDI: u8 = 7;
}
use reg::{RBP, RSP};

/// No register.
pub(crate) const NOREG: u8 = 0xff;

/// A memory operand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct M {
    /// Base or [`NOREG`].
    pub base: u8,
    /// Index or [`NOREG`]; never `RSP`.
    pub index: u8,
    /// Log2 of the factor.
    pub scale: u8,
    pub disp: i32,
}

impl M {
    pub fn base(base: u8, disp: i32) -> M {
        M { base, index: NOREG, scale: 0, disp }
    }
}

/// A one- or two-byte opcode (`0x0fXX`), ready for any operand form.
pub(crate) type Opc = u16;

/// Code under construction, to be placed at position `base` of the code buffer.
#[derive(Default)]
pub(crate) struct Asm {
    pub code: Vec<u8>,
    pub base: usize,
    /// What makes the block one that can be moved.
    pub moves: Moves,
}

/// A place in the code whose 32-bit displacement is still open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patch(pub usize);

impl Asm {
    pub fn here(&self) -> usize {
        self.code.len()
    }

    pub fn bytes(&mut self, b: &[u8]) {
        self.code.extend_from_slice(b);
    }

    fn prefixes(&mut self, w: u8, op: Opc, rex: u8, force: bool) {
        if w == W16 {
            self.code.push(0x66);
        }
        let rex = rex | u8::from(w == W64) << 3;
        if rex != 0 || force {
            self.code.push(0x40 | rex);
        }
        if op > 0xff {
            self.code.push(0x0f);
        }
        self.code.push(op as u8);
    }

    /// `op reg, rm` with both in registers. `W8` makes 4..8 the low bytes `spl`..`dil`.
    pub fn rr(&mut self, w: u8, op: Opc, reg: u8, rm: u8) {
        let force = w == W8 && (reg >= 4 || rm >= 4);
        self.prefixes(w, op, (reg >> 3) << 2 | rm >> 3, force);
        self.code.push(0xc0 | (reg & 7) << 3 | rm & 7);
    }

    /// `op reg, rm8`: as [`Asm::rr`] with a byte source, destination of width `w`.
    pub fn rr_byte_source(&mut self, w: u8, op: Opc, reg: u8, rm: u8) {
        self.prefixes(w, op, (reg >> 3) << 2 | rm >> 3, rm >= 4);
        self.code.push(0xc0 | (reg & 7) << 3 | rm & 7);
    }

    /// `op reg, mem`.
    pub fn rm(&mut self, w: u8, op: Opc, reg: u8, m: M) {
        let bit3 = |r: u8| if r == NOREG { 0 } else { r >> 3 };
        let rex = (reg >> 3) << 2 | bit3(m.index) << 1 | bit3(m.base);
        self.prefixes(w, op, rex, w == W8 && reg >= 4);
        self.modrm(reg, m);
    }

    fn modrm(&mut self, reg: u8, m: M) {
        let reg = (reg & 7) << 3;
        if m.base == NOREG {
            // Absolute or index without base: SIB with base 5 and mod 0.
            let index = if m.index == NOREG { 4 } else { m.index & 7 };
            self.bytes(&[reg | 4, m.scale << 6 | index << 3 | 5]);
            self.bytes(&m.disp.to_le_bytes());
            return;
        }
        let low = m.base & 7;
        let small = i8::try_from(m.disp);
        let mode = match small {
            Ok(0) if low != RBP => 0,
            Ok(_) => 0x40,
            Err(_) => 0x80,
        };
        if m.index == NOREG && low != RSP {
            self.code.push(mode | reg | low);
        } else {
            let index = if m.index == NOREG { 4 } else { m.index & 7 };
            self.bytes(&[mode | reg | 4, m.scale << 6 | index << 3 | low]);
        }
        match (mode, small) {
            (0x40, Ok(d)) => self.code.push(d as u8),
            (0x80, _) => self.bytes(&m.disp.to_le_bytes()),
            _ => {}
        }
    }

    /// Opcode of the byte or full form: `full - 1` for `W8`.
    fn sized(w: u8, full: Opc) -> Opc {
        if w == W8 { full - 1 } else { full }
    }

    /// `op rm, reg` of the classic pairs, `full` being the opcode for 16 bits and more (`0x01` add, `0x89` mov, ...).
    pub fn op_rr(&mut self, w: u8, full: Opc, rm: u8, reg: u8) {
        self.rr(w, Self::sized(w, full), reg, rm);
    }

    /// `op mem, reg` or `op reg, mem`, by opcode.
    pub fn op_rm(&mut self, w: u8, full: Opc, reg: u8, m: M) {
        self.rm(w, Self::sized(w, full), reg, m);
    }

    /// Group 1 (`add or adc sbb and sub xor cmp` = `digit`) with an immediate that fits.
    pub fn alu_ri(&mut self, w: u8, digit: u8, rm: u8, imm: i32) {
        if w == W8 {
            self.rr(w, 0x80, digit, rm);
            self.code.push(imm as u8);
        } else if let Ok(small) = i8::try_from(imm) {
            self.rr(w, 0x83, digit, rm);
            self.code.push(small as u8);
        } else {
            self.rr(w, 0x81, digit, rm);
            self.imm(w, imm);
        }
    }

    /// `op rm` of a group whose opcode for 16 bits and more is `full`.
    pub fn op_rr_group(&mut self, w: u8, full: Opc, digit: u8, rm: u8) {
        self.rr(w, Self::sized(w, full), digit, rm);
    }

    /// `test rm, imm`.
    pub fn op_rr_test_imm(&mut self, w: u8, rm: u8, imm: i32) {
        self.rr(w, Self::sized(w, 0xf7), 0, rm);
        self.imm(w, imm);
    }

    /// Group 1 on memory, immediate of one byte.
    pub fn alu_mi8(&mut self, w: u8, digit: u8, m: M, imm: i8) {
        self.rm(w, if w == W8 { 0x80 } else { 0x83 }, digit, m);
        self.code.push(imm as u8);
    }

    /// An immediate of the operand width, at most 32 bits.
    pub fn imm(&mut self, w: u8, imm: i32) {
        match w {
            W8 => self.code.push(imm as u8),
            W16 => self.bytes(&(imm as u16).to_le_bytes()),
            _ => self.bytes(&imm.to_le_bytes()),
        }
    }

    /// `reg = rm` (`W32` zero-extends).
    pub fn mov(&mut self, w: u8, reg: u8, rm: u8) {
        self.op_rr(w, 0x89, reg, rm);
    }

    /// Notes that the last bytes of the code are of this kind.
    pub fn mark(&mut self, kind: Kind) {
        self.moves.mark(kind, self.code.len());
    }

    /// Once more the code in `range`, which has no jumps.
    pub fn repeat(&mut self, range: std::ops::Range<usize>) {
        self.moves.repeat(range.clone(), self.code.len());
        self.code.extend_from_within(range);
    }

    /// `reg = value` in the shortest form; no flags touched. The value may follow from the block's pc.
    pub fn mov_ri(&mut self, reg: u8, value: u64) {
        self.mov_fixed(reg, value);
        if value >> 32 != 0 && i32::try_from(value as i64).is_err() {
            self.moves.constant(value, self.code.len());
        }
    }

    /// As [`Asm::mov_ri`], of a value that has nothing to do with the pc.
    pub fn mov_fixed(&mut self, reg: u8, value: u64) {
        if value >> 32 == 0 {
            if reg >= 8 {
                self.code.push(0x41);
            }
            self.code.push(0xb8 | reg & 7);
            self.bytes(&(value as u32).to_le_bytes());
        } else if i32::try_from(value as i64).is_ok() {
            self.rr(W64, 0xc7, 0, reg);
            self.bytes(&(value as u32).to_le_bytes());
        } else {
            self.bytes(&[0x48 | reg >> 3, 0xb8 | reg & 7]);
            self.bytes(&value.to_le_bytes());
        }
    }

    /// `mem = imm` of width `w`, sign-extended from 32 bits for `W64`.
    pub fn mov_mi(&mut self, w: u8, m: M, imm: i32) {
        self.op_rm(w, 0xc7, 0, m);
        self.imm(w, imm);
    }

    /// `reg = zero_extend(mem)` of width `w`.
    pub fn load(&mut self, w: u8, reg: u8, m: M) {
        match w {
            W8 => self.rm(2, 0x0fb6, reg, m),
            W16 => self.rm(2, 0x0fb7, reg, m),
            _ => self.rm(w, 0x8b, reg, m),
        }
    }

    /// `mem = low bits of reg`.
    pub fn store(&mut self, w: u8, reg: u8, m: M) {
        self.op_rm(w, 0x89, reg, m);
    }

    /// `lea`, 32 or 64 bits.
    pub fn lea(&mut self, w: u8, reg: u8, m: M) {
        self.rm(w, 0x8d, reg, m);
    }

    /// `RORX reg, rm, count` (BMI2): no flags.
    pub fn rorx(&mut self, w: u8, reg: u8, rm: u8, count: u8) {
        let byte1 = (!reg & 8) << 4 | 0x40 | (!rm & 8) << 2 | 3;
        let byte2 = u8::from(w == W64) << 7 | 0x7b;
        self.bytes(&[0xc4, byte1, byte2, 0xf0, 0xc0 | (reg & 7) << 3 | rm & 7, count]);
    }

    /// `SHLX`/`SHRX`/`SARX reg, rm, count` (BMI2), `pp` 1, 3, 2: no flags.
    pub fn shiftx(&mut self, w: u8, pp: u8, reg: u8, rm: u8, count: u8) {
        let byte1 = (!reg & 8) << 4 | 0x40 | (!rm & 8) << 2 | 2;
        let byte2 = u8::from(w == W64) << 7 | (!count & 15) << 3 | pp;
        self.bytes(&[0xc4, byte1, byte2, 0xf7, 0xc0 | (reg & 7) << 3 | rm & 7]);
    }

    /// `jcc` to be patched.
    pub fn jcc(&mut self, cc: u8) -> Patch {
        self.bytes(&[0x0f, 0x80 | cc, 0, 0, 0, 0]);
        Patch(self.here() - 4)
    }

    /// `jmp` to be patched.
    pub fn jmp(&mut self) -> Patch {
        self.bytes(&[0xe9, 0, 0, 0, 0]);
        Patch(self.here() - 4)
    }

    /// Fills up until a displacement `before` bytes from here does not cross a multiple of eight: it can be replaced in one step then.
    pub fn align_link(&mut self, before: usize) {
        let crossing = ((self.here() + before) % 8).saturating_sub(4);
        if crossing != 0 {
            // The long forms of NOP that Intel recommends.
            let nop: [&[u8]; 3] = [&[0x0f, 0x1f, 0x00], &[0x66, 0x90], &[0x90]];
            self.bytes(nop.get(crossing - 1).copied().unwrap_or_default());
        }
    }

    /// Lets the open displacement lead to offset `target` of this code.
    pub fn patch(&mut self, p: Patch, target: usize) {
        let rel = (target as i64 - (p.0 as i64 + 4)) as i32;
        if let Some(slot) = self.code.get_mut(p.0..p.0 + 4) {
            slot.copy_from_slice(&rel.to_le_bytes());
        }
    }

    /// Lets it lead here.
    pub fn land(&mut self, p: Patch) {
        let here = self.here();
        self.patch(p, here);
    }

    fn rel_to(&mut self, position: usize) {
        let next = (self.base + self.here() + 4) as i64;
        let rel = (position as i64 - next) as i32;
        self.bytes(&rel.to_le_bytes());
        self.mark(Kind::Rel);
    }

    /// `jmp` to a position of the code buffer.
    pub fn jmp_to(&mut self, position: usize) {
        self.code.push(0xe9);
        self.rel_to(position);
    }

    /// `jcc` to a position of the code buffer.
    pub fn jcc_to(&mut self, cc: u8, position: usize) {
        self.bytes(&[0x0f, 0x80 | cc]);
        self.rel_to(position);
    }

    /// `call` of a position of the code buffer.
    pub fn call_to(&mut self, position: usize) {
        self.code.push(0xe8);
        self.rel_to(position);
    }

    /// `call rax` of an absolute address.
    pub fn call_abs(&mut self, address: u64) {
        self.mov_fixed(reg::RAX, address);
        self.bytes(&[0xff, 0xd0]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_ir::W32;
    use iced_x86::{Decoder, DecoderOptions, FastFormatter};

    fn text(f: impl Fn(&mut Asm)) -> String {
        let mut asm = Asm::default();
        f(&mut asm);
        let mut decoder = Decoder::new(64, &asm.code, DecoderOptions::NONE);
        let insn = decoder.decode();
        assert_eq!(insn.len(), asm.code.len(), "{:x?}", asm.code);
        let mut out = String::new();
        FastFormatter::new().format(&insn, &mut out);
        out
    }

    const R64: [&str; 16] = [
        "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
        "r14", "r15",
    ];
    const R32: [&str; 16] = [
        "eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "r8d", "r9d", "r10d", "r11d", "r12d", "r13d",
        "r14d", "r15d",
    ];
    const R16: [&str; 16] = [
        "ax", "cx", "dx", "bx", "sp", "bp", "si", "di", "r8w", "r9w", "r10w", "r11w", "r12w", "r13w", "r14w",
        "r15w",
    ];
    const R8: [&str; 16] = [
        "al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil", "r8b", "r9b", "r10b", "r11b", "r12b", "r13b",
        "r14b", "r15b",
    ];

    #[test]
    fn register_forms_decode_to_the_same_registers_in_every_width() {
        for (w, names) in [(W8, R8), (W16, R16), (W32, R32), (W64, R64)] {
            for a in 0..16u8 {
                for b in 0..16u8 {
                    let (x, y) = (names[a as usize], names[b as usize]);
                    assert_eq!(text(|s| s.op_rr(w, 0x01, a, b)), format!("add {x},{y}"));
                    assert_eq!(text(|s| s.mov(w, a, b)), format!("mov {x},{y}"));
                }
                assert_eq!(text(|s| s.alu_ri(w, 7, a, 5)), format!("cmp {},5h", names[a as usize]));
            }
        }
    }

    #[test]
    fn byte_sources_extend_from_the_low_byte_of_every_register() {
        for a in 0..16u8 {
            for b in 0..16u8 {
                let t = text(|s| s.rr_byte_source(W32, 0x0fb6, a, b));
                assert_eq!(t, format!("movzx {},{}", R32[a as usize], R8[b as usize]));
            }
        }
    }

    #[test]
    fn memory_forms_decode_to_the_same_address() {
        for base in 0..16u8 {
            for index in (0..16u8).filter(|&i| i != RSP) {
                for disp in [0, 0x7f, -0x80, 0x1234] {
                    let m = M { base, index, scale: 2, disp };
                    let t = text(|s| s.lea(W64, 9, m));
                    let sign = if disp < 0 { "-" } else { "+" };
                    let mut want = format!("lea r9,[{}+{}*4", R64[base as usize], R64[index as usize]);
                    if disp != 0 {
                        let magnitude = disp.unsigned_abs();
                        let hex =
                            if magnitude > 9 { format!("{magnitude:X}h") } else { format!("{magnitude}") };
                        want += &format!("{sign}{hex}");
                    }
                    assert_eq!(t, want + "]");
                }
            }
            let t = text(|s| s.load(W8, 3, M::base(base, 8)));
            assert_eq!(t, format!("movzx ebx,byte ptr [{}+8h]", R64[base as usize]));
        }
        let none = M { base: NOREG, index: 9, scale: 3, disp: 16 };
        assert_eq!(text(|s| s.lea(W64, 0, none)), "lea rax,[r9*8+10h]");
    }

    #[test]
    fn bmi2_forms_decode() {
        for a in 0..16u8 {
            for b in 0..16u8 {
                let (x, y) = (R64[a as usize], R64[b as usize]);
                assert_eq!(text(|s| s.rorx(W64, a, b, 8)), format!("rorx {x},{y},8h"));
                assert_eq!(text(|s| s.shiftx(W64, 1, a, b, a)), format!("shlx {x},{y},{x}"));
                let (x, y) = (R32[a as usize], R32[b as usize]);
                assert_eq!(text(|s| s.shiftx(W32, 3, a, b, b)), format!("shrx {x},{y},{y}"));
                assert_eq!(text(|s| s.shiftx(W32, 2, a, b, b)), format!("sarx {x},{y},{y}"));
            }
        }
    }

    #[test]
    fn constants_take_the_shortest_move() {
        for r in 0..16u8 {
            for (v, len) in [(5u64, 5), (0xffff_ffff, 5), (u64::MAX, 7), (1 << 40, 10)] {
                let mut asm = Asm::default();
                asm.mov_ri(r, v);
                assert_eq!(asm.code.len() - usize::from(len == 5 && r >= 8), len);
                let insn = Decoder::new(64, &asm.code, DecoderOptions::NONE).decode();
                assert_eq!(insn.immediate(1), v);
            }
        }
    }
}
