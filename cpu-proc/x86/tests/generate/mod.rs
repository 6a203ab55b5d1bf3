//! Random instruction sequences, encoded directly.

use iced_x86::{Decoder, DecoderOptions, FastFormatter, Instruction};

use crate::DATA;
use crate::random::Rng;

const CF: u64 = 1;
const PF: u64 = 4;
const AF: u64 = 0x10;
const ZF: u64 = 0x40;
const SF: u64 = 0x80;
const OF: u64 = 0x800;
const ALL: u64 = CF | PF | AF | ZF | SF | OF;

/// The numbers of a seed.
pub fn seeded(seed: u64) -> Rng {
    Rng::from_state(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
}

/// Operands from [`Rng`].
pub trait Operands {
    /// A value that is often at an edge.
    fn word(&mut self) -> u64;
}

impl Operands for Rng {
    fn word(&mut self) -> u64 {
        match self.below(8) {
            0 => self.pick(&[
                0,
                1,
                2,
                0x7f,
                0x80,
                0xff,
                0x7fff,
                0x8000,
                0xffff,
                u64::MAX,
                1 << 63,
                (1 << 63) - 1,
            ]),
            1 => self.pick(&[
                0x7fff_ffff,
                0x8000_0000,
                0xffff_ffff,
                0x1_0000_0000,
                0xffff_ffff_8000_0000,
                0x9999,
            ]),
            2 => self.below(256),
            3 => self.next() & 0xffff_ffff,
            4 => 1 << self.below(64),
            _ => self.next(),
        }
    }
}

/// A sequence with its initial state.
pub struct Case {
    pub code: Vec<u8>,
    pub regs: [u64; 16],
    pub flags: u64,
    /// Flags that the last instruction leaves undefined.
    pub undefined: u64,
    long: bool,
}

impl Case {
    /// In 64-bit code if `long`, else 32-bit.
    pub fn random(rng: &mut Rng, at: u64, long: bool) -> Case {
        let mut g = Gen::new(rng, at, long);
        let count = 1 + g.rng.below(6);
        for i in 0..count {
            g.undefined = 0;
            g.instruction();
            // What is undefined must not be read by the next instruction.
            if g.undefined != 0 && i + 1 < count {
                g.undefined = 0;
                g.emit(&[0x39, 0xc8]); // cmp eax, ecx
            }
        }
        Case { code: g.code, regs: g.regs, flags: g.flags, undefined: g.undefined, long }
    }

    pub fn describe(&self, at: u64) -> String {
        let mut decoder =
            Decoder::with_ip(if self.long { 64 } else { 32 }, &self.code, at, DecoderOptions::NONE);
        let mut insn = Instruction::default();
        let mut formatter = FastFormatter::new();
        let mut text = String::new();
        while decoder.can_decode() {
            decoder.decode_out(&mut insn);
            let start = (insn.ip() - at) as usize;
            text += &format!("  {:#x} {:02x?} ", insn.ip(), &self.code[start..start + insn.len()]);
            formatter.format(&insn, &mut text);
            text.push('\n');
        }
        text
    }
}

struct Gen<'a> {
    rng: &'a mut Rng,
    at: u64,
    code: Vec<u8>,
    regs: [u64; 16],
    flags: u64,
    undefined: u64,
    long: bool,
    /// Registers that hold pointers to data, and a small index; never written.
    pointers: [u8; 2],
    index: u8,
}

/// Operand of a ModRM byte.
enum Rm {
    Reg(u8),
    Memory {
        base: u8,
        index: Option<(u8, u8)>,
        disp: i32,
    },
    /// Instruction-relative; the address is patched in when the length is known.
    Relative(u64),
}

/// An instruction under construction.
struct Enc {
    /// Log2 operand size.
    w: u8,
    map: &'static [u8],
    opcode: u8,
    reg: u8,
    rm: Rm,
    imm: Vec<u8>,
    lock: bool,
    /// Mandatory prefix.
    prefix: Option<u8>,
    /// Width of a byte register in `reg`/`rm` needs no REX.
    byte_reg: bool,
}

impl Gen<'_> {
    fn new(rng: &mut Rng, at: u64, long: bool) -> Gen<'_> {
        let mut regs: [u64; 16] = std::array::from_fn(|i| match rng.word() {
            value if long => value,
            value if i < 8 => value & 0xffff_ffff,
            _ => 0,
        });
        // In 32-bit code their byte forms name other registers, which are never reserved.
        let pool: &[u8] = if long { &[3, 5, 8, 9, 10, 11, 12, 13, 14, 15] } else { &[5, 6, 7] };
        let n = pool.len();
        let first = rng.below(n as u64) as usize;
        let step = if long { 3 } else { 1 };
        let pointers = [pool[first], pool[(first + step) % n]];
        let index = pool[(first + 2 * step) % n];
        for p in pointers {
            regs[usize::from(p)] = DATA + 0x1000 + rng.below(64);
        }
        regs[usize::from(index)] = (rng.below(128) as i64 - 64) as u64;
        regs[4] = DATA + 0x1800 + 8 * rng.below(16);
        if !long {
            regs[usize::from(index)] &= 0xffff_ffff;
        }
        let flags = rng.next() & ALL;
        Gen { rng, at, code: Vec::new(), regs, flags, undefined: 0, long, pointers, index }
    }

    fn emit(&mut self, bytes: &[u8]) {
        self.code.extend_from_slice(bytes);
    }

    fn reserved(&self, r: u8) -> bool {
        r == 4 || r == self.index || self.pointers.contains(&r)
    }

    /// A register that may be written.
    fn target(&mut self) -> u8 {
        loop {
            let r = self.any();
            if !self.reserved(r) {
                return r;
            }
        }
    }

    fn any(&mut self) -> u8 {
        self.rng.below(if self.long { 16 } else { 8 }) as u8
    }

    fn memory(&mut self) -> Rm {
        if self.rng.chance(10) {
            return Rm::Relative(DATA + 0x1000 + self.rng.below(64));
        }
        let base = self.rng.pick(&self.pointers.clone());
        let index = self.rng.chance(40).then(|| (self.index, self.rng.below(4) as u8));
        let disp = match self.rng.below(3) {
            0 => 0,
            1 => self.rng.below(200) as i32 - 100,
            _ => self.rng.below(2000) as i32 - 1000,
        };
        Rm::Memory { base, index, disp }
    }

    fn rm_target(&mut self) -> Rm {
        if self.rng.chance(50) { Rm::Reg(self.target()) } else { self.memory() }
    }

    fn rm_any(&mut self) -> Rm {
        if self.rng.chance(50) { Rm::Reg(self.any()) } else { self.memory() }
    }

    fn width(&mut self) -> u8 {
        self.rng.below(if self.long { 4 } else { 3 }) as u8
    }

    /// A width above a byte.
    fn wide(&mut self) -> u8 {
        1 + self.rng.below(if self.long { 3 } else { 2 }) as u8
    }

    /// An immediate of an operand `w` wide (four bytes for eight).
    fn imm(&mut self, w: u8) -> Vec<u8> {
        let value = self.rng.word();
        value.to_le_bytes()[..1 << w.min(2)].to_vec()
    }

    /// High byte registers are used instead of SPL and the like when no REX prefix is needed, so number 4..8 with `w` 0 must be
    /// AH..BH of writable registers: RAX, RCX, RDX always are; BH is not when RBX is reserved.
    fn put(&mut self, mut e: Enc) {
        if !self.long {
            // Byte forms of EAX..EBX: low or high byte. The generator never picks the high ones itself as targets.
            if e.byte_reg
                && let Rm::Reg(r) = &mut e.rm
                && self.rng.chance(50)
            {
                *r ^= 4;
            }
        }
        let mut rex = 0u8;
        if e.w == 3 {
            rex |= 8;
        }
        if e.reg >= 8 {
            rex |= 4;
        }
        let mut force_rex = false;
        match &e.rm {
            Rm::Reg(r) => {
                if *r >= 8 {
                    rex |= 1;
                }
                if e.byte_reg && (4..8).contains(r) && !(self.rng.chance(50) && self.high_ok(*r)) {
                    force_rex = true;
                }
            }
            Rm::Memory { base, index, .. } => {
                if *base >= 8 {
                    rex |= 1;
                }
                if index.is_some_and(|(i, _)| i >= 8) {
                    rex |= 2;
                }
            }
            Rm::Relative(_) => {}
        }
        if e.byte_reg && e.w == 0 && (4..8).contains(&e.reg) && !(self.rng.chance(50) && self.high_ok(e.reg))
        {
            force_rex = true;
        }
        let any_high = |r: u8| e.byte_reg && (4..8).contains(&r);
        // Without REX both 4..8 operands would be high bytes: only if both may be.
        let high_reg = e.w == 0 && any_high(e.reg) && !self.high_ok(e.reg);
        let high_rm = matches!(e.rm, Rm::Reg(r) if any_high(r) && !self.high_ok(r));
        if high_reg || high_rm {
            force_rex = true;
        }
        if e.lock {
            self.emit(&[0xf0]);
        }
        if e.w == 1 {
            self.emit(&[0x66]);
        }
        if self.long && matches!(e.rm, Rm::Memory { .. }) && self.address32() {
            self.emit(&[0x67]);
        }
        if let Some(p) = e.prefix {
            self.emit(&[p]);
        }
        if self.long && (rex != 0 || force_rex) {
            self.emit(&[0x40 | rex]);
        }
        self.emit(e.map);
        self.emit(&[e.opcode]);
        let reg = (e.reg & 7) << 3;
        match e.rm {
            Rm::Reg(r) => self.emit(&[0xc0 | reg | r & 7]),
            Rm::Relative(address) => {
                let next =
                    if self.long { self.at + self.code.len() as u64 + 5 + e.imm.len() as u64 } else { 0 };
                self.emit(&[5 | reg]);
                self.emit(&(address.wrapping_sub(next) as u32).to_le_bytes());
            }
            Rm::Memory { base, index, disp } => {
                let short = i8::try_from(disp).is_ok();
                let mode = if short { 0x40 } else { 0x80 };
                match index {
                    Some((i, scale)) => self.emit(&[mode | reg | 4, scale << 6 | (i & 7) << 3 | base & 7]),
                    None if base & 7 == 4 => self.emit(&[mode | reg | 4, 0x24]),
                    None => self.emit(&[mode | reg | base & 7]),
                }
                if short { self.emit(&[disp as u8]) } else { self.emit(&disp.to_le_bytes()) }
            }
        }
        self.emit(&e.imm);
    }

    /// A REX prefix with these low bits, in 64-bit code.
    fn rex(&mut self, bits: u8) {
        if self.long {
            self.emit(&[0x40 | bits]);
        }
    }

    /// Whether the address-size prefix is used (the index must then not be negative beyond 32 bits: it wraps, and so does the
    /// sum, as pointers are below 4 GiB).
    fn address32(&mut self) -> bool {
        self.rng.chance(15)
    }

    /// Whether AH.. of encoding `r` may be written.
    fn high_ok(&self, r: u8) -> bool {
        !self.reserved(r - 4)
    }

    fn enc(&self, w: u8, map: &'static [u8], opcode: u8, reg: u8, rm: Rm) -> Enc {
        Enc { w, map, opcode, reg, rm, imm: Vec::new(), lock: false, prefix: None, byte_reg: w == 0 }
    }

    fn lockable(&mut self, rm: &Rm) -> bool {
        !matches!(rm, Rm::Reg(_)) && self.rng.chance(20)
    }

    fn instruction(&mut self) {
        match self.rng.below(36) {
            0..=4 => self.alu(),
            5 => self.alu_imm(),
            6 => self.test(),
            7 => self.inc_dec(),
            8 => self.not_neg(),
            9..=11 => self.shift(),
            12 => self.double_shift(),
            13 => self.mov(),
            14 => self.mov_imm(),
            15 => self.movx(),
            16 => self.xchg_xadd(),
            17 => self.cmpxchg(),
            18 => self.mul(),
            19 => self.div(),
            20 => self.imul(),
            21 => self.bits(),
            22 => self.scan(),
            23 => self.setcc_cmov(),
            24 => self.setcc_cmov(),
            25 => self.misc(),
            26 => self.lea(),
            27 => self.push_pop(),
            28 => self.strings(),
            29 => self.jump(),
            30 => self.bswap_popcnt(),
            31 => self.pair(),
            32 => self.call_ret(),
            33 => self.flags_image(),
            34 if !self.long => self.legacy(),
            _ => self.xlat(),
        }
    }

    fn alu(&mut self) {
        let (k, w) = (self.rng.below(8) as u8, self.width());
        if matches!(k, 1 | 4 | 6) {
            self.undefined |= AF;
        }
        let to_reg = self.rng.chance(50);
        let opcode = k << 3 | u8::from(w != 0) | u8::from(to_reg) << 1;
        let (reg, rm) = if to_reg { (self.target(), self.rm_any()) } else { (self.any(), self.rm_target()) };
        let lock = !to_reg && k != 7 && self.lockable(&rm);
        let e = self.enc(w, &[], opcode, reg, rm);
        self.put(Enc { lock, ..e });
    }

    fn alu_imm(&mut self) {
        let (k, w) = (self.rng.below(8) as u8, self.width());
        if matches!(k, 1 | 4 | 6) {
            self.undefined |= AF;
        }
        if self.rng.chance(20) {
            // The accumulator's short form.
            let imm = self.imm(w);
            match w {
                1 => self.emit(&[0x66]),
                3 => self.emit(&[0x48]),
                _ => {}
            }
            self.emit(&[k << 3 | 4 | u8::from(w != 0)]);
            return self.emit(&imm);
        }
        let short = w != 0 && self.rng.chance(50);
        let opcode = match (w, short) {
            (0, _) => 0x80,
            (_, true) => 0x83,
            _ => 0x81,
        };
        let imm = self.imm(if short { 0 } else { w });
        let rm = self.rm_target();
        let lock = k != 7 && self.lockable(&rm);
        let e = self.enc(w, &[], opcode, k, rm);
        self.put(Enc { imm, lock, ..e });
    }

    fn test(&mut self) {
        let w = self.width();
        self.undefined |= AF;
        if self.rng.chance(50) {
            let (reg, rm) = (self.any(), self.rm_any());
            let e = self.enc(w, &[], 0x84 | u8::from(w != 0), reg, rm);
            return self.put(e);
        }
        let imm = self.imm(w);
        let rm = self.rm_any();
        let e = self.enc(w, &[], 0xf6 | u8::from(w != 0), 0, rm);
        self.put(Enc { imm, ..e });
    }

    fn inc_dec(&mut self) {
        let (w, k) = (self.width(), self.rng.below(2) as u8);
        let rm = self.rm_target();
        let lock = self.lockable(&rm);
        let e = self.enc(w, &[], 0xfe | u8::from(w != 0), k, rm);
        self.put(Enc { lock, ..e });
    }

    fn not_neg(&mut self) {
        let (w, k) = (self.width(), 2 + self.rng.below(2) as u8);
        let rm = self.rm_target();
        let lock = self.lockable(&rm);
        let e = self.enc(w, &[], 0xf6 | u8::from(w != 0), k, rm);
        self.put(Enc { lock, ..e });
    }

    fn shift(&mut self) {
        let (w, k) = (self.width(), self.rng.below(8) as u8);
        self.undefined |= OF;
        if k >= 4 {
            self.undefined |= AF;
            if w < 2 {
                // Counts beyond the operand's width leave the carry undefined.
                self.undefined |= CF;
            }
        }
        let byte = u8::from(w != 0);
        let (opcode, imm) = match self.rng.below(3) {
            0 => {
                self.undefined &= !(OF | CF);
                (0xd0 | byte, Vec::new())
            }
            1 => (0xd2 | byte, Vec::new()),
            _ => (0xc0 | byte, vec![self.rng.below(70) as u8]),
        };
        let rm = self.rm_target();
        let e = self.enc(w, &[], opcode, k, rm);
        self.put(Enc { imm, ..e });
    }

    fn double_shift(&mut self) {
        let w = self.wide();
        self.undefined |= OF | AF;
        let right = u8::from(self.rng.chance(50)) << 3;
        let (opcode, imm) = if w > 1 && self.rng.chance(50) {
            (0xa5 | right, Vec::new())
        } else {
            let limit = if w == 1 { 17 } else { 70 };
            (0xa4 | right, vec![self.rng.below(limit) as u8])
        };
        let (reg, rm) = (self.any(), self.rm_target());
        let e = self.enc(w, &[0x0f], opcode, reg, rm);
        self.put(Enc { imm, ..e });
    }

    fn mov(&mut self) {
        let w = self.width();
        let byte = u8::from(w != 0);
        let e = if self.rng.chance(50) {
            let (reg, rm) = (self.target(), self.rm_any());
            self.enc(w, &[], 0x8a | byte, reg, rm)
        } else {
            let (reg, rm) = (self.any(), self.rm_target());
            self.enc(w, &[], 0x88 | byte, reg, rm)
        };
        self.put(e);
    }

    fn mov_imm(&mut self) {
        let w = self.width();
        if self.rng.chance(50) {
            let imm = self.imm(w);
            let rm = self.rm_target();
            let e = self.enc(w, &[], 0xc6 | u8::from(w != 0), 0, rm);
            return self.put(Enc { imm, ..e });
        }
        // B8+r.
        let r = self.target();
        let value = self.rng.word().to_le_bytes();
        if w == 1 {
            self.emit(&[0x66]);
        }
        self.rex(u8::from(w == 3) << 3 | r >> 3);
        self.emit(&[if w == 0 { 0xb0 } else { 0xb8 } | r & 7]);
        self.emit(&value[..1 << w]);
    }

    fn movx(&mut self) {
        let w = self.wide();
        let reg = self.target();
        let rm = self.rm_any();
        let e = match self.rng.below(5) {
            0 if self.long => self.enc(w, &[], 0x63, reg, rm), // MOVSXD
            0 => return,
            k => {
                let opcode = [0xb6, 0xb7, 0xbe, 0xbf][k as usize - 1];
                let e = self.enc(w, &[0x0f], opcode, reg, rm);
                Enc { byte_reg: opcode & 1 == 0, ..e }
            }
        };
        self.put(e);
    }

    fn xchg_xadd(&mut self) {
        let w = self.width();
        let byte = u8::from(w != 0);
        let (reg, rm) = (self.target(), self.rm_target());
        let lock = self.lockable(&rm);
        let e = if self.rng.chance(50) {
            self.enc(w, &[], 0x86 | byte, reg, rm)
        } else {
            self.enc(w, &[0x0f], 0xc0 | byte, reg, rm)
        };
        self.put(Enc { lock, ..e });
    }

    fn cmpxchg(&mut self) {
        let w = self.width();
        if self.rng.chance(50) {
            // Make success likely: mov rax, operand would need the same operand twice; a small value set does.
            let rm = self.memory();
            let e = self.enc(if self.long { 3 } else { 2 }, &[], 0x8b, 0, rm);
            self.put(e);
        }
        let (reg, rm) = (self.any(), self.rm_target());
        let lock = self.lockable(&rm);
        let e = self.enc(w, &[0x0f], 0xb0 | u8::from(w != 0), reg, rm);
        self.put(Enc { lock, ..e });
    }

    fn mul(&mut self) {
        let (w, k) = (self.width(), 4 + self.rng.below(2) as u8);
        self.undefined |= SF | ZF | AF | PF;
        let rm = self.rm_any();
        let e = self.enc(w, &[], 0xf6 | u8::from(w != 0), k, rm);
        self.put(e);
    }

    fn div(&mut self) {
        let w = self.width();
        let signed = self.rng.chance(50);
        self.undefined |= ALL;
        match (w, signed) {
            (0, false) => self.emit(&[0x0f, 0xb6, 0xc0]),
            (0, true) => self.emit(&[0x66, 0x98]),
            (1, true) => self.emit(&[0x66, 0x99]),
            (2, true) => self.emit(&[0x99]),
            (3, true) => self.emit(&[0x48, 0x99]),
            _ => {
                let small = self.rng.below(4) as u8;
                self.emit(&[0xba, small, 0, 0, 0]);
            }
        }
        let rm = self.rm_any();
        let e = self.enc(w, &[], 0xf6 | u8::from(w != 0), 6 + u8::from(signed), rm);
        self.put(e);
    }

    fn imul(&mut self) {
        let w = self.wide();
        self.undefined |= SF | ZF | AF | PF;
        let (reg, rm) = (self.target(), self.rm_any());
        match self.rng.below(3) {
            0 => {
                let e = self.enc(w, &[0x0f], 0xaf, reg, rm);
                self.put(e);
            }
            1 => {
                let imm = self.imm(0);
                let e = self.enc(w, &[], 0x6b, reg, rm);
                self.put(Enc { imm, ..e });
            }
            _ => {
                let imm = self.imm(w);
                let e = self.enc(w, &[], 0x69, reg, rm);
                self.put(Enc { imm, ..e });
            }
        }
    }

    fn bits(&mut self) {
        let w = self.wide();
        self.undefined |= OF | SF | AF | PF;
        let k = self.rng.below(4) as u8;
        let rm = self.rm_target();
        let lock = k != 0 && self.lockable(&rm);
        if self.rng.chance(50) {
            let imm = vec![self.rng.next() as u8];
            let e = self.enc(w, &[0x0f], 0xba, 4 + k, rm);
            return self.put(Enc { imm, lock, ..e });
        }
        // A register index reaches far into memory: use the small one there.
        let reg = if matches!(rm, Rm::Reg(_)) { self.any() } else { self.index };
        let e = self.enc(w, &[0x0f], 0xa3 | k << 3, reg, rm);
        self.put(Enc { lock, ..e });
    }

    fn scan(&mut self) {
        let w = self.wide();
        self.undefined |= OF | SF | AF | PF | CF;
        let (reg, rm) = (self.target(), self.rm_any());
        let lzcnt = self.rng.chance(20) && std::is_x86_feature_detected!("lzcnt");
        if lzcnt {
            self.undefined &= !CF;
        }
        let opcode = if lzcnt { 0xbd } else { 0xbc | self.rng.below(2) as u8 };
        let e = self.enc(w, &[0x0f], opcode, reg, rm);
        self.put(Enc { prefix: lzcnt.then_some(0xf3), ..e });
    }

    fn setcc_cmov(&mut self) {
        let cc = self.rng.below(16) as u8;
        if self.rng.chance(50) {
            let rm = self.rm_target();
            let e = self.enc(0, &[0x0f], 0x90 | cc, 0, rm);
            return self.put(e);
        }
        let w = self.wide();
        let (reg, rm) = (self.target(), self.rm_any());
        let e = self.enc(w, &[0x0f], 0x40 | cc, reg, rm);
        self.put(e);
    }

    fn misc(&mut self) {
        let code: &[u8] = self.rng.pick(&[
            &[0x98][..],
            &[0x66, 0x98],
            &[0x99],
            &[0x66, 0x99],
            &[0x9f],
            &[0x9e],
            &[0xf8],
            &[0xf9],
            &[0xf5],
            &[0x90],
            &[0xf3, 0x90],
            &[0x0f, 0x1f, 0x44, 0, 0],
            &[0x0f, 0xae, 0xe8],
            &[0x0f, 0xae, 0xf0],
            &[0x0f, 0xae, 0xf8],
            &[0xf3, 0x0f, 0x1e, 0xfa],
        ]);
        if matches!(code, [0x98 | 0x99]) && self.rng.chance(50) {
            self.rex(8);
        }
        self.emit(code);
    }

    fn lea(&mut self) {
        let w = self.wide();
        let (reg, rm) = (self.target(), self.memory());
        if !self.long && self.rng.chance(30) {
            // 16-bit addressing.
            if w == 1 {
                self.emit(&[0x66]);
            }
            let disp = self.rng.next() as u16;
            let mode = self.rng.below(3) as u8;
            let rm = if mode == 0 { 6 } else { self.rng.below(8) as u8 };
            self.emit(&[0x67, 0x8d, mode << 6 | reg << 3 | rm]);
            return self.emit(&disp.to_le_bytes()[..if mode == 1 { 1 } else { 2 }]);
        }
        let e = self.enc(w, &[], 0x8d, reg, rm);
        self.put(e);
    }

    fn push_pop(&mut self) {
        let short = self.rng.chance(20);
        if short {
            self.emit(&[0x66]);
        }
        match self.rng.below(7) {
            0 | 1 => {
                let r = self.any();
                self.rex(r >> 3);
                self.emit(&[0x50 | r & 7]);
            }
            2 | 3 => {
                let r = self.target();
                self.rex(r >> 3);
                self.emit(&[0x58 | r & 7]);
            }
            4 => {
                let imm = self.rng.next() as u8;
                self.emit(&[0x6a, imm]);
            }
            5 => {
                let rm = self.memory();
                let e = self.enc(2, &[], 0xff, 6, rm);
                self.put(e);
            }
            _ => {
                // Sometimes relative to the stack pointer, which has already moved.
                let rm = if self.rng.chance(50) {
                    Rm::Memory { base: 4, index: None, disp: self.rng.below(64) as i32 }
                } else {
                    self.memory()
                };
                let e = self.enc(2, &[], 0x8f, 0, rm);
                self.put(e);
            }
        }
    }

    /// One string instruction on areas of the data, all registers set up in the code.
    fn strings(&mut self) {
        let w = self.width();
        let from = DATA + 0x1000 + self.rng.below(0x100);
        let to = if self.rng.chance(50) {
            from.wrapping_add(self.rng.below(64)) - 32
        } else {
            DATA + 0x400 + self.rng.below(0x20)
        };
        let limit = if self.rng.chance(20) { 100 } else { 12 };
        let count = self.rng.below(limit) as u32;
        for (r, value) in [(0xbe, from as u32), (0xbf, to as u32), (0xb9, count)] {
            self.emit(&[r]);
            self.emit(&value.to_le_bytes());
        }
        let down = self.rng.chance(30);
        if down {
            self.emit(&[0xfd]);
        }
        let k = self.rng.below(5);
        if k == 3 && self.rng.chance(60) {
            // Equal areas, so that comparing goes on for a while: copy first.
            self.emit(&[0xf3, 0xa4]);
            for (r, value) in [(0xbe, from as u32), (0xbf, to as u32), (0xb9, count)] {
                self.emit(&[r]);
                self.emit(&value.to_le_bytes());
            }
        }
        if self.long && self.rng.chance(10) {
            self.emit(&[0x67]);
        }
        match self.rng.below(3) {
            0 => {}
            1 => self.emit(&[0xf3]),
            _ => self.emit(&[0xf2]),
        }
        match w {
            1 => self.emit(&[0x66]),
            3 => self.emit(&[0x48]),
            _ => {}
        }
        let opcode = [0xa4, 0xaa, 0xac, 0xa6, 0xae][k as usize] | u8::from(w != 0);
        self.emit(&[opcode]);
        if down {
            self.emit(&[0xfc]);
        }
        if !self.long {
            // Put the reserved registers back.
            for (opcode, r) in [(0xbe, 6), (0xbf, 7)] {
                self.emit(&[opcode]);
                self.emit(&(self.regs[r] as u32).to_le_bytes());
            }
        }
    }

    /// A conditional or counted jump over one instruction.
    fn jump(&mut self) {
        let hole: &[u8] = if self.long { &[0x48, 0xff, 0xc0] } else { &[0x66, 0x40] }; // inc
        match self.rng.below(4) {
            0 => {
                let k = self.rng.below(4) as u8;
                if self.rng.chance(20) {
                    self.emit(&[0x67]);
                }
                self.emit(&[0xe0 | k, hole.len() as u8]);
            }
            1 => {
                let cc = self.rng.below(16) as u8;
                self.emit(&[0x0f, 0x80 | cc, hole.len() as u8, 0, 0, 0]);
            }
            2 => self.emit(&[0xeb, hole.len() as u8]),
            _ => {
                let cc = self.rng.below(16) as u8;
                self.emit(&[0x70 | cc, hole.len() as u8]);
            }
        }
        self.emit(hole);
    }

    fn bswap_popcnt(&mut self) {
        let r = self.target();
        if self.rng.chance(50) {
            let w = u8::from(self.rng.chance(50)) << 3;
            self.rex(w | r >> 3);
            return self.emit(&[0x0f, 0xc8 | r & 7]);
        }
        if !std::is_x86_feature_detected!("popcnt") {
            return;
        }
        let w = self.wide();
        let rm = self.rm_any();
        let e = self.enc(w, &[0x0f], 0xb8, r, rm);
        self.put(Enc { prefix: Some(0xf3), ..e });
    }

    /// `CMPXCHG8B`, with a chance of success.
    fn pair(&mut self) {
        let at = self.pointers[0];
        if self.rng.chance(60) {
            let low = self.enc(2, &[], 0x8b, 0, Rm::Memory { base: at, index: None, disp: 0 });
            self.put(low);
            let high = self.enc(2, &[], 0x8b, 2, Rm::Memory { base: at, index: None, disp: 4 });
            self.put(high);
        }
        let e = self.enc(2, &[0x0f], 0xc7, 1, Rm::Memory { base: at, index: None, disp: 0 });
        let lock = self.rng.chance(50);
        self.put(Enc { lock, ..e });
    }

    fn call_ret(&mut self) {
        // call +0; pop rax  |  call over a return: call f; jmp end; f: ret imm; end:
        match self.rng.below(3) {
            0 => self.emit(&[0xe8, 0, 0, 0, 0, 0x58]),
            1 => self.emit(&[0xe8, 2, 0, 0, 0, 0xeb, 1, 0xc3]),
            _ => {
                self.emit(&[0x6a, 0x55, 0xe8, 2, 0, 0, 0, 0xeb, 3, 0xc2, 8, 0]);
            }
        }
    }

    fn xlat(&mut self) {
        if self.reserved(3) {
            // Then RBX is a pointer or the index; only the former may be dereferenced.
            if self.pointers.contains(&3) {
                self.emit(&[0xd7]);
            }
        } else if self.rng.chance(50) {
            // enter 16, 0; leave, with RBP saved by ENTER itself.
            if !self.reserved(5) {
                self.emit(&[0xc8, 16, 0, 0, 0xc9]);
            }
        }
    }

    /// PUSHF, and POPF of changed arithmetic flags.
    fn flags_image(&mut self) {
        let flags = self.rng.next() & ALL;
        self.emit(&[0x9c, 0x58, 0x35]); // pushf; pop rax; xor eax, flags
        self.emit(&(flags as u32).to_le_bytes());
        self.emit(&[0x50, 0x9d]); // push rax; popf
    }

    /// What only 32-bit code has.
    fn legacy(&mut self) {
        let r = self.target();
        match self.rng.below(12) {
            0 => self.emit(&[0x40 | r]),
            1 => self.emit(&[0x48 | r]),
            2 => self.emit(&[0x66, 0x40 | r]),
            3 => self.emit(&[0x60]),
            4 => self.emit(&[0x66, 0x60]),
            5 => self.emit(&[0x60, 0x61]),
            6 => {
                self.undefined |= OF;
                let opcode = self.rng.pick(&[0x27u8, 0x2f]);
                self.emit(&[opcode]);
            }
            7 => {
                self.undefined |= OF | SF | ZF | PF;
                let opcode = self.rng.pick(&[0x37u8, 0x3f]);
                self.emit(&[opcode]);
            }
            8 => {
                self.undefined |= OF | AF | CF;
                let base = 1 + self.rng.below(20) as u8;
                let opcode = self.rng.pick(&[0xd4u8, 0xd5]);
                self.emit(&[opcode, base]);
            }
            9 => self.emit(&[0xd6]),
            10 => {
                let segment = self.rng.pick(&[0x06u8, 0x0e, 0x16, 0x1e]);
                if self.rng.chance(50) {
                    self.emit(&[0x66]);
                }
                self.emit(&[segment]);
            }
            _ => {
                let w = self.wide();
                let segment = self.rng.below(4) as u8;
                let e = self.enc(w, &[], 0x8c, segment, Rm::Reg(r));
                self.put(e);
            }
        }
    }
}
