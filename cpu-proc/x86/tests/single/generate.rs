//! Random single instructions with registers, segments and memory that they can do no harm with.
//!
//! Bytes are random; what they decode to decides. Memory operands are steered into the window or to the places that fault, and
//! everything that the decoder says the instruction touches must lie there.

use iced_x86::{
    Code, CpuidFeature, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic,
    OpKind, Register, UsedMemory,
};

use crate::layout::*;
use crate::random::Rng;
use crate::support::host_is_amd;

/// The numbers of a seed.
pub fn seeded(seed: u64) -> Rng {
    let mut rng = Rng::from_state(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d | 1);
    rng.next();
    rng
}

/// Operands from [`Rng`].
trait Operands {
    /// A value that is often at an edge.
    fn word(&mut self) -> u64;
}

impl Operands for Rng {
    fn word(&mut self) -> u64 {
        let width = self.pick(&[8, 16, 32, 64]);
        let top = 1u64 << (width - 1);
        match self.below(8) {
            0 => self.pick(&[0, 1, 2, top, top - 1, top | 1, top.wrapping_mul(2).wrapping_sub(1)]),
            1 => self.below(256),
            2 => self.next() & 0xffff_ffff,
            3 => 1 << self.below(64),
            4 => u64::MAX - self.below(64),
            5 => self.next() as i32 as i64 as u64,
            _ => self.next(),
        }
    }
}

/// Prefix bytes by how often.
const PREFIXES: [u8; 14] =
    [0x66, 0x66, 0x66, 0x67, 0xf2, 0xf3, 0xf3, 0xf0, 0x2e, 0x26, 0x36, 0x3e, 0x64, 0x65];

fn bytes(rng: &mut Rng, mode: Mode) -> ([u8; 24], usize) {
    let mut code = [0u8; 24];
    for byte in &mut code {
        *byte = rng.next() as u8;
    }
    let mut at = 0;
    let prefixes = match rng.below(10) {
        0..=4 => 0,
        5..=7 => 1,
        8 => 2,
        _ => rng.below(5),
    };
    for _ in 0..prefixes {
        code[at] = rng.pick(&PREFIXES);
        at += 1;
    }
    // Groups of the map where much lies behind few bytes.
    let escape: &[u8] = match rng.below(20) {
        0..=5 => &[],
        6..=11 => &[0x0f],
        12 => &[0x0f, 0x38],
        13 => &[0x0f, 0x3a],
        14..=16 => {
            code[at] = 0xd8 | code[at] & 7;
            return (code, 15);
        }
        17 => {
            code[at] =
                rng.pick(&[0x80, 0x81, 0x83, 0xc0, 0xc1, 0xd0, 0xd1, 0xd2, 0xd3, 0xf6, 0xf7, 0xfe, 0xff]);
            return (code, 15);
        }
        18 => {
            code[at] = rng.pick(&[0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf, 0x6c, 0x6e]);
            return (code, 15);
        }
        _ => &[0x66, 0x0f],
    };
    if mode == Mode::Long && rng.chance(50) {
        let rex = 0x40 | rng.next() as u8 & 15;
        match escape {
            [0x66, rest @ ..] => {
                code[at..at + 2].copy_from_slice(&[0x66, rex]);
                code[at + 2..at + 2 + rest.len()].copy_from_slice(rest);
                return (code, 15);
            }
            _ => {
                code[at] = rex;
                at += 1;
            }
        }
    }
    code[at..at + escape.len()].copy_from_slice(escape);
    (code, 15)
}

/// The model under test: everything, by the host's vendor, since the vendors' processors differ.
pub fn model() -> &'static str {
    FIXED[usize::from(!host_is_amd())]
}

/// The models of the cases that are text, the same on every host: AMD's and Intel's.
pub const FIXED: [&str; 2] = ["max", "max,vendor=GenuineIntel"];

/// Decoder options of a model.
pub fn options_of(model: &str) -> u32 {
    let amd = if model == FIXED[0] { DecoderOptions::AMD } else { 0 };
    amd | DecoderOptions::NO_WBNOINVD | DecoderOptions::NO_MPFX_0FBC | DecoderOptions::FORCE_RESERVED_NOP
}

/// Decoder options of the model under test.
pub fn options() -> u32 {
    options_of(model())
}

/// Whether the program under test may execute it on the host, and both sides mean the same by it.
fn wanted(insn: &Instruction) -> bool {
    use Mnemonic as M;
    let known = insn.cpuid_features().iter().all(|f| {
        use CpuidFeature as F;
        if *f == F::SSE4A {
            return host_is_amd();
        }
        matches!(
            f,
            F::INTEL8086
                | F::INTEL8086_ONLY
                | F::INTEL186
                | F::INTEL286
                | F::INTEL286_ONLY
                | F::INTEL386
                | F::INTEL386_ONLY
                | F::INTEL486
                | F::X64
                | F::CMOV
                | F::CX8
                | F::CMPXCHG16B
                | F::FPU
                | F::FPU287
                | F::FPU287XL_ONLY
                | F::FPU387
                | F::FPU387SL_ONLY
                | F::MMX
                | F::SSE
                | F::SSE2
                | F::SSE3
                | F::SSSE3
                | F::SSE4_1
                | F::SSE4_2
                | F::AES
                | F::PCLMULQDQ
                | F::POPCNT
                | F::LZCNT
                | F::FXSR
                | F::CLFSH
                | F::PAUSE
                | F::MULTIBYTENOP
                | F::PREFETCHW
        )
    });
    let forbidden = matches!(
        insn.mnemonic(),
        // System calls, traps that the kernel acts on, and what is emulated or reports on the machine.
        M::Syscall
            | M::Sysenter
            | M::Sysexit
            | M::Sysexitq
            | M::Sysret
            | M::Sysretq
            | M::Int3
            | M::Int1
            | M::Into
            | M::Cpuid
            | M::Rdtsc
            | M::Rdtscp
            | M::Rdpmc
            | M::Sgdt
            | M::Sidt
            | M::Sldt
            | M::Str
            | M::Smsw
            | M::Rsm
    );
    let system_call = insn.mnemonic() == M::Int && matches!(insn.immediate8(), 3 | 4 | 0x80);
    // 0F 0D with a register: undefined on AMD's processors, a hint without effect on Intel's.
    let hint = matches!(
        insn.code(),
        Code::Reservednop_rm16_r16_0F0D | Code::Reservednop_rm32_r32_0F0D | Code::Reservednop_rm64_r64_0F0D
    );
    // The newer meaning of these bytes on the host; a store that AMD's processors leave out when nothing changes and of which Intel's manual
    // says less.
    let other =
        matches!(insn.code(), Code::Pause) || insn.mnemonic() == M::Arpl && insn.op0_kind() == OpKind::Memory;
    // AMD's processors let these prefixes change the condition.
    let loops =
        matches!(insn.mnemonic(), M::Loope | M::Loopne) && (insn.has_rep_prefix() || insn.has_repne_prefix());
    let trailing_zeros = insn.mnemonic() == M::Bsf && insn.has_rep_prefix();
    known && !forbidden && !system_call && !hint && !other && !loops && !trailing_zeros
}

/// Registers whose value a memory operand's address depends on, and the base of its segment.
struct Addresses<'a> {
    state: &'a State,
}

fn segment_base(selector: u16) -> u64 {
    let index = usize::from(selector >> 3);
    if selector & 4 != 0 { LOCALS.get(index).map_or(0, |l| u64::from(l.base)) } else { 0 }
}

impl Addresses<'_> {
    fn value(&self, register: Register) -> Option<u64> {
        if register.is_segment_register() {
            let s = &self.state.selectors;
            return Some(match (register, s[1]) {
                (Register::FS, CS64) => FS_BASE,
                (Register::GS, CS64) => GS_BASE,
                (_, CS64) => 0,
                (Register::ES, _) => segment_base(s[0]),
                (Register::CS, _) => segment_base(s[1]),
                (Register::SS, _) => segment_base(s[2]),
                (Register::DS, _) => segment_base(s[3]),
                (Register::FS, _) => segment_base(s[4]),
                _ => segment_base(s[5]),
            });
        }
        if !register.is_gpr() {
            return Some(0);
        }
        let value = self.state.regs[register.full_register().number()];
        Some(match register.size() {
            8 => value,
            4 => value & 0xffff_ffff,
            2 => value & 0xffff,
            _ if matches!(register, Register::AH | Register::BH | Register::CH | Register::DH) => {
                value >> 8 & 0xff
            }
            _ => value & 0xff,
        })
    }
}

/// Whether `len` bytes at `at` lie in the window or where an access faults on both sides.
fn harmless(at: u64, len: u64, long: bool) -> bool {
    let inside = |start: u64, size: u64| {
        at >= start && at.wrapping_add(len) <= start + size && at.wrapping_add(len) >= at
    };
    inside(WINDOW, WINDOW_LEN as u64)
        || inside(READ_ONLY, 0x1000)
        || inside(MISSING, 0x1000)
        || inside(BASE + 0x7000, 0x8000)
        || (MISSING - 16..MISSING).contains(&at) && at + len > MISSING && at + len <= MISSING + 16
        || long
            && (at as i64) << 16 >> 16 != at as i64
            && (at.wrapping_add(len) as i64) << 16 >> 16 != at.wrapping_add(len) as i64
}

pub fn target(rng: &mut Rng, mode: Mode) -> u64 {
    let middle = WINDOW + WINDOW_LEN as u64 / 2;
    match rng.below(100) {
        0..=1 => READ_ONLY + rng.below(0xff0),
        2..=3 => MISSING + 0x10 + rng.below(0xf00),
        4 => MISSING - rng.below(8),
        5 if mode == Mode::Long => {
            rng.pick(&[0x8000_0000_0000_0000, 0x0000_8000_0000_1000, 0xffff_7fff_ffff_0000]) + rng.below(64)
        }
        6..=25 => middle - rng.below(20),
        26..=60 => (middle + rng.below(0xc0) - 0x60) & !15,
        _ => middle + rng.below(0xc0) - 0x60,
    }
}

fn state(rng: &mut Rng, mode: Mode) -> State {
    // SAFETY: integers only.
    let mut s: State = unsafe { std::mem::zeroed() };
    for r in &mut s.regs {
        *r = rng.word();
    }
    let base = mode.code_base();
    for index in [4, 5, 6, 7, 3] {
        if index == 4 || rng.chance(70) {
            let middle = WINDOW + WINDOW_LEN as u64 / 2 + rng.below(0x80) - 0x40;
            let aligned = if index == 4 && rng.chance(90) { !7 } else { u64::MAX };
            s.regs[index] = (middle - base) & aligned;
        }
    }
    if mode != Mode::Long {
        for r in &mut s.regs[..8] {
            *r &= 0xffff_ffff;
        }
        s.regs[8..].fill(0);
        if mode == Mode::Based16 && rng.chance(70) {
            // Otherwise the upper halves show what leaves them alone.
            s.regs[4] &= 0xffff;
        }
    }
    s.flags = 0x202 | rng.next() & 0xcd5;
    if rng.chance(6) {
        s.flags |= 1 << 18;
    }
    let data: &[u16] = &[
        DS,
        DS,
        DS,
        local_selector(1),
        local_selector(2),
        local_selector(3),
        local_selector(4),
        local_selector(5),
        local_selector(7),
        local_selector(9),
        local_selector(10),
        local_selector(11),
        0,
    ];
    s.selectors = match mode {
        Mode::Long => [0, CS64, DS, 0, 0, 0, 0, 0],
        Mode::Flat32 => [DS, CS32, DS, DS, rng.pick(data), rng.pick(data), 0, 0],
        Mode::Based32 => {
            let usual = local_selector(2);
            let mut any = || if rng.chance(60) { usual } else { rng.pick(data) };
            let [es, ds, fs, gs] = [any(), any(), any(), any()];
            let ss = rng.pick(&[usual, usual, local_selector(1), local_selector(4), local_selector(7)]);
            [es, local_selector(9), ss, ds, fs, gs, 0, 0]
        }
        Mode::Based16 => {
            let usual = local_selector(1);
            let mut any = || if rng.chance(60) { usual } else { rng.pick(data) };
            let [es, ds, fs, gs] = [any(), any(), any(), any()];
            let ss = rng.pick(&[usual, usual, local_selector(2), local_selector(5), local_selector(7)]);
            [es, local_selector(0), ss, ds, fs, gs, 0, 0]
        }
    };
    floating(rng, &mut s);
    for chunk in s.window.chunks_exact_mut(8) {
        chunk.copy_from_slice(&rng.word().to_le_bytes());
    }
    s
}

pub fn extended(rng: &mut Rng) -> [u8; 16] {
    let sign = rng.below(2) as u16;
    let (exponent, mantissa) = match rng.below(12) {
        0 => (0, 0),
        1 => (0, rng.next() >> 1),
        2 => (0x7fff, 1 << 63),
        3 => (0x7fff, rng.next() | 3 << 62),
        4 => (0x7fff, rng.next() >> 2 | 1 << 63 | 1),
        5 => (rng.next() as u16 & 0x7fff, rng.next()),
        6 => (0x3fff + rng.below(70) as u16, rng.next() | 1 << 63),
        7 => (0x3fff - rng.below(70) as u16, rng.next() | 1 << 63),
        8 => (0x3fff + rng.below(4) as u16, 1 << 63),
        _ => (
            0x3fff - 16 + rng.below(32) as u16,
            (rng.next() | 1 << 63) & (u64::MAX << rng.below(64)) | 1 << 63,
        ),
    };
    let value = u128::from(mantissa) | u128::from(exponent | sign << 15) << 64;
    value.to_le_bytes()
}

/// Random x87 and SSE control and status.
pub fn controls(rng: &mut Rng, s: &mut State) {
    let masks = if rng.chance(15) { rng.next() as u16 & 0x3f } else { 0x3f };
    s.control = 0x40 | masks | rng.pick(&[0, 0x200, 0x300, 0x300]) | (rng.below(4) as u16) << 10;
    s.status = (rng.next() as u16 & 0x4700) | (rng.below(8) as u16) << 11;
    if rng.chance(20) {
        s.status |= rng.next() as u16 & 0x7f;
    }
    if s.status & !s.control & 0x3f != 0 {
        s.status |= 0x8080;
    }
    let top = s.status >> 11 & 7;
    s.tags = match rng.below(6) {
        0 => rng.next() as u16 & 0xff,
        1 => 0xff,
        2 => 0,
        _ => 0xff & !(1 << ((top + 7) & 7)),
    };
    s.mxcsr = 0x1f80 | (rng.below(4) as u32) << 13;
    if rng.chance(20) {
        s.mxcsr &= !(rng.next() as u32 & 0x1f80);
    }
    if rng.chance(20) {
        s.mxcsr |= rng.next() as u32 & 0x803f;
    }
    if rng.chance(10) {
        s.mxcsr |= 0x40;
    }
}

fn floating(rng: &mut Rng, s: &mut State) {
    controls(rng, s);
    for st in &mut s.st {
        *st = extended(rng);
        st[10..].fill(0);
    }
    for x in &mut s.xmm {
        let mut value = u128::from(rng.word()) | u128::from(rng.word()) << 64;
        if rng.chance(50) {
            let float = |rng: &mut Rng| -> u64 {
                let e = rng.pick(&[0, 1, 2, 0x3fe, 0x3ff, 0x400, 0x41e, 0x43e, 0x7fe, 0x7ff, 0x380, 0x47f]);
                let mantissa = match rng.below(3) {
                    0 => 0,
                    1 => 1u64 << rng.below(52),
                    _ => rng.next() & ((1 << 52) - 1),
                };
                rng.below(2) << 63 | e << 52 | mantissa
            };
            value = u128::from(float(rng)) | u128::from(float(rng)) << 64;
        }
        *x = value.to_le_bytes();
    }
}

/// Moves the explicit memory operand to `to` by changing a register, or the displacement if a decoder tells where it is.
pub fn steer(insn: &Instruction, case: &mut Case, decoder: Option<&Decoder>, mode: Mode, to: u64) {
    if !(0..insn.op_count()).any(|i| insn.op_kind(i) == OpKind::Memory) {
        return;
    }
    let s = &mut case.before;
    let linear =
        |s: &State| insn.virtual_address(first_memory(insn), 0, |r, _, _| Addresses { state: s }.value(r));
    let Some(now) = linear(s) else { return };
    let delta = to.wrapping_sub(now);
    let (base, index) = (insn.memory_base(), insn.memory_index());
    let mask = |r: Register| match r.size() {
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    };
    let register = if base.is_gpr() && base != index {
        Some(base)
    } else if !base.is_gpr() && index.is_gpr() && insn.memory_index_scale() == 1 {
        Some(index)
    } else {
        None
    };
    if let Some(r) = register {
        let slot = &mut s.regs[r.full_register().number()];
        let low = slot.wrapping_add(delta) & mask(r);
        *slot = if r.size() == 2 || mode != Mode::Long { *slot & !mask(r) | low } else { low };
        return;
    }
    let Some(decoder) = decoder else { return };
    let offsets = decoder.get_constant_offsets(insn);
    let (at, size) = (offsets.displacement_offset(), offsets.displacement_size());
    if size >= 2 {
        let mut old = [0; 8];
        old[..size].copy_from_slice(&case.code[at..at + size]);
        let new = u64::from_le_bytes(old).wrapping_add(delta).to_le_bytes();
        case.code[at..at + size].copy_from_slice(&new[..size]);
    }
}

/// Linear address of the explicit memory operand.
pub fn operand(insn: &Instruction, s: &State) -> u64 {
    let at =
        insn.virtual_address(first_memory(insn), 0, |r, _, _| Addresses { state: s }.value(r)).unwrap_or(0);
    if s.selectors[1] == CS64 { at } else { at & 0xffff_ffff }
}

fn first_memory(insn: &Instruction) -> u32 {
    (0..insn.op_count()).find(|i| insn.op_kind(*i) == OpKind::Memory).unwrap_or(0)
}

/// A case with given code for the model of `options`: its state from `seed`, its memory operand where `words` say, else in the window.
pub fn prepared(mode: Mode, seed: u64, code: &[u8], words: &[&str], options: u32) -> Case {
    let mut rng = seeded(seed);
    let (mut pointer, mut beyond, mut mm) = (None, false, false);
    // SAFETY: integers only.
    let mut case: Case = unsafe { std::mem::zeroed() };
    case.code[..code.len()].copy_from_slice(code);
    case.len = code.len() as u64;
    case.at = CODE_AT;
    case.before = state(&mut rng, mode);
    case.before.rip = case.at - mode.code_base();
    let mut to = WINDOW + WINDOW_LEN as u64 / 2 - 0x20;
    for word in words {
        match *word {
            "missing" => to = MISSING + 0x10,
            "read-only" => to = READ_ONLY + 0x10,
            "odd" => to += 1,
            "non-canonical" => to = 0x8000_0000_0000_0000,
            "ac" => case.before.flags |= 1 << 18,
            // The operand is a far pointer of 16:32 or 16:64 bits to 64-bit code.
            "far" => pointer = Some(4),
            "far64" => pointer = Some(8),
            // The branch goes to a non-canonical address.
            "beyond" => beyond = true,
            // The operand is an MXCSR, or what FXSAVE stored, with bit 17.
            "mm" => mm = true,
            // An unmasked invalid operation is pending.
            "mf" => (case.before.control, case.before.status) = (0x37e, case.before.status | 0x8081),
            // Underflow is unmasked; denormal doubles, and ones to multiply them with.
            "underflow" => {
                case.before.mxcsr = 0x1780;
                case.before.xmm[0] = (0x7fu128 | 0x7f << 64).to_le_bytes();
                case.before.xmm[1] = (0x3ff0u128 << 48 | 0x3ff0 << 112).to_le_bytes();
            }
            other => panic!("no word {other:?}"),
        }
    }
    let bytes = case.code;
    let mut decoder = Decoder::with_ip(mode.bits(), &bytes[..code.len()], case.before.rip, options);
    let insn = decoder.decode();
    steer(&insn, &mut case, Some(&decoder), mode, to);
    adapt(&mut rng, &insn, &mut case, mode);
    if mm {
        let at = (operand(&insn, &case.before) - WINDOW) as usize;
        for at in [at, at + 24] {
            case.before.window[at..at + 4].copy_from_slice(&0x2_1f80u32.to_le_bytes());
        }
    }
    if beyond {
        const TARGET: u64 = 0x0000_8000_0000_1000;
        let place = match insn.op0_kind() {
            OpKind::Memory => Some(operand(&insn, &case.before)),
            OpKind::Register if insn.op_count() != 0 => None,
            _ => Some(case.before.regs[4]),
        };
        match place.map(|at| (at - WINDOW) as usize) {
            Some(at) => {
                case.before.window[at..at + 8].copy_from_slice(&TARGET.to_le_bytes());
                case.before.window[at + 8..at + 16].copy_from_slice(&u64::from(CS64).to_le_bytes());
            }
            None => case.before.regs[insn.op0_register().full_register().number()] = TARGET,
        }
    }
    if let Some(offset) = pointer {
        let at = (operand(&insn, &case.before) - WINDOW) as usize;
        case.before.window[at..at + offset].copy_from_slice(&CODE.to_le_bytes()[..offset]);
        case.before.window[at + offset..at + offset + 2].copy_from_slice(&CS64.to_le_bytes());
    }
    case
}

/// A case, or none when what came up is not to be run.
pub fn case(rng: &mut Rng, factory: &mut InstructionInfoFactory) -> Option<(Case, Instruction)> {
    let mode = rng.pick(&[Mode::Long, Mode::Long, Mode::Flat32, Mode::Based32, Mode::Based16]);
    // SAFETY: integers only.
    let mut case: Case = unsafe { std::mem::zeroed() };
    let (code, len) = bytes(rng, mode);
    case.code = code;
    case.at = if rng.chance(5) { CODE + 0x1000 - 1 - rng.below(6) } else { CODE_AT };
    case.before = state(rng, mode);
    case.before.rip = case.at - mode.code_base();
    let read = |case: &Case| {
        let mut decoder = Decoder::with_ip(mode.bits(), &case.code[..len], case.before.rip, options());
        let insn = decoder.decode();
        let position = decoder.position();
        (insn, position, decoder.last_error())
    };
    let (insn, position, error) = read(&case);
    if error != iced_x86::DecoderError::None {
        // Undefined here; what else it may be on the host must be harmless, so its memory operands fault.
        return None;
    }
    if !wanted(&insn) {
        return None;
    }
    let to = target(rng, mode);
    {
        let bytes = case.code;
        let mut decoder = Decoder::with_ip(mode.bits(), &bytes[..len], case.before.rip, options());
        let insn = decoder.decode();
        steer(&insn, &mut case, Some(&decoder), mode, to);
    }
    adapt(rng, &insn, &mut case, mode);
    let (insn, ..) = read(&case);
    case.len = position as u64;
    // The processor's number is in a segment limit.
    if insn.mnemonic() == Mnemonic::Lsl && insn.op1_kind() == OpKind::Memory {
        return None;
    }
    // Far returns that release much: which check comes first differs among processors.
    if insn.mnemonic() == Mnemonic::Retf && insn.op_count() == 1 && insn.immediate16() > 32 {
        return None;
    }
    case.repeats =
        u64::from(insn.is_string_instruction() && (insn.has_rep_prefix() || insn.has_repne_prefix()));
    if !fits(&insn, &case, factory.info(&insn).used_memory(), mode) || !lands_harmless(&insn, &case, mode) {
        return None;
    }
    Some((case, insn))
}

/// The count of a shift, masked as the processor does.
fn shift_count(insn: &Instruction, s: &State) -> u64 {
    let last = insn.op_count().saturating_sub(1);
    let count = match insn.op_kind(last) {
        OpKind::Immediate8 => u64::from(insn.immediate8()),
        // Shifts of one form have no count operand beside their one.
        OpKind::Register if insn.op_register(last) == Register::CL => s.regs[1],
        _ => 1,
    };
    count & if operand_size(insn) == 8 { 63 } else { 31 }
}

/// Bytes of the first operand.
fn operand_size(insn: &Instruction) -> u64 {
    match insn.op0_kind() {
        OpKind::Register => insn.op0_register().size() as u64,
        _ => insn.memory_size().size() as u64,
    }
}

/// Whether `case` may run: what it does is defined, and touches only what is there to be touched. `used` is what the decoder says that
/// the instruction accesses.
pub fn fits(insn: &Instruction, case: &Case, used: &[UsedMemory], mode: Mode) -> bool {
    // A double shift of 16 bits by more: result and flags are undefined (SDM volume 2, SHLD, SHRD).
    let shld = matches!(insn.mnemonic(), Mnemonic::Shld | Mnemonic::Shrd);
    let undefined = shld && operand_size(insn) == 2 && shift_count(insn, &case.before) > 16;
    !undefined
        && !enters_long_mode(insn, &case.before)
        && (host_is_amd() || !returns_anywhere(insn, &case.before))
        && touches_only_harmless(insn, case, used, mode)
}

/// Whether `insn` may take half of a wide offset and go there without the trap flag, as Intel's processors do on the way to compatibility
/// mode: nobody knows what the host would run there.
fn returns_anywhere(insn: &Instruction, s: &State) -> bool {
    let upper = s.regs[4].wrapping_sub(WINDOW).wrapping_add(4) as usize;
    insn.mnemonic() == Mnemonic::Iretq && s.window.get(upper..upper + 4).is_none_or(|half| half != [0; 4])
}

/// Whether `insn` is a far call of a 16- or 32-bit program to 64-bit code. Processors differ in whether they push as the caller or as the
/// called, and those that push as the called use the whole stack pointer, whose upper half is the kernel's.
fn enters_long_mode(insn: &Instruction, s: &State) -> bool {
    let selector = if insn.is_call_far_indirect() {
        let behind = operand(insn, s).wrapping_add(insn.memory_size().size() as u64);
        let at = behind.wrapping_sub(WINDOW + 2) as usize;
        s.window.get(at..).and_then(|rest| rest.first_chunk()).map(|bytes| u16::from_le_bytes(*bytes))
    } else {
        insn.is_call_far().then(|| insn.far_branch_selector())
    };
    s.selectors[1] != CS64 && selector.is_some_and(|selector| selector & !3 == CS64 & !3)
}

/// Makes what the addresses do not show fit: counts, bit offsets, selectors.
pub fn adapt(rng: &mut Rng, insn: &Instruction, case: &mut Case, mode: Mode) {
    use Mnemonic as M;
    let s = &mut case.before;
    if insn.is_string_instruction() {
        // Whether no repetition at all is checked for permission differs among processors.
        let io = matches!(insn.mnemonic(), M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd);
        s.regs[1] = rng.below(6) + u64::from(io);
        for r in [6, 7] {
            if rng.chance(90) {
                let selector = if r == 7 { s.selectors[0] } else { s.selectors[3] };
                let base = if mode == Mode::Long { 0 } else { segment_base(selector) };
                s.regs[r] = (WINDOW + 0x1e0 + rng.below(0x40)).wrapping_sub(base);
                if mode != Mode::Long {
                    s.regs[r] &= 0xffff_ffff;
                }
            }
        }
    }
    match insn.mnemonic() {
        M::Bt | M::Bts | M::Btr | M::Btc if insn.op1_kind() == OpKind::Register => {
            let r = insn.op1_register().full_register();
            if insn.memory_base().full_register() != r && insn.memory_index().full_register() != r {
                s.regs[r.number()] =
                    s.regs[r.number()] & !0xffff_ffff | (rng.below(1000) as i32 - 500) as u32 as u64;
                if insn.op1_register().size() == 8 {
                    s.regs[r.number()] = (rng.below(1000) as i64 - 500) as u64;
                }
                if mode != Mode::Long {
                    s.regs[r.number()] &= 0xffff_ffff;
                }
            }
        }
        M::Div | M::Idiv if rng.chance(70) => {
            // Often a quotient that fits.
            s.regs[2] =
                if insn.mnemonic() == M::Div { rng.below(3) } else { ((s.regs[0] as i64) >> 63) as u64 };
            if mode != Mode::Long {
                s.regs[2] =
                    if s.regs[0] >> 31 & 1 != 0 && insn.mnemonic() == M::Idiv { 0xffff_ffff } else { 0 };
            }
        }
        M::Mov | M::Lar | M::Lsl | M::Verr | M::Verw | M::Arpl
            if insn.op_count() == 2 || insn.op_count() == 1 =>
        {
            let source = insn.op_kind(insn.op_count() - 1);
            let loads = insn.mnemonic() != M::Mov || insn.op0_register().is_segment_register();
            if loads && source == OpKind::Register {
                let r = insn.op_register(insn.op_count() - 1).full_register();
                if r.is_gpr() && insn.memory_base().full_register() != r {
                    let slot = &mut s.regs[r.number()];
                    *slot = *slot & !0xffff | u64::from(selector(rng));
                }
            }
        }
        M::Ldmxcsr | M::Fxrstor | M::Fxrstor64 => {
            // Bit 17 of MXCSR lets operands be misaligned on AMD's processors (AMD manual volume 2, 3.1.9); no model has it, so it is
            // reserved, as the cases that are text show.
            let field = if insn.mnemonic() == M::Ldmxcsr { 0 } else { 24 };
            let at = operand(insn, s).wrapping_sub(WINDOW).wrapping_add(field + 2);
            if let Some(byte) = s.window.get_mut(at as usize) {
                *byte &= !2;
            }
        }
        M::Pop | M::Lds | M::Les | M::Lfs | M::Lgs | M::Lss | M::Retf | M::Iret | M::Iretd | M::Iretq => {
            // Selectors all over the window.
            for at in (0..WINDOW_LEN - 4).step_by(2) {
                if rng.chance(50) {
                    s.window[at..at + 2].copy_from_slice(&selector(rng).to_le_bytes());
                }
            }
        }
        _ => {}
    }
}

fn selector(rng: &mut Rng) -> u16 {
    match rng.below(10) {
        0..=6 => (rng.below(LOCALS.len() as u64 + 2) as u16) << 3 | 4 | rng.below(4) as u16,
        7 => (rng.below(15) as u16) << 3 | rng.below(4) as u16,
        8 => rng.pick(&[0x23, 0x2b, 0x33, 0, 3]),
        _ => rng.next() as u16 | 0x80,
    }
}

fn touches_only_harmless(insn: &Instruction, case: &Case, used: &[UsedMemory], mode: Mode) -> bool {
    use Mnemonic as M;
    let long = mode == Mode::Long;
    let s = &case.before;
    let repeats = insn.has_rep_prefix() || insn.has_repne_prefix();
    let mut good = true;
    for used in used {
        if insn.mnemonic() == M::Lea || insn.mnemonic() == M::Nop || insn.mnemonic() == M::Reservednop {
            break;
        }
        let mut size = used.memory_size().size() as u64;
        if insn.is_string_instruction() && repeats {
            size = size.max(8) * 6;
        }
        let mut at = used.virtual_address(0, |r, _, _| Addresses { state: s }.value(r));
        match insn.mnemonic() {
            M::Bt | M::Bts | M::Btr | M::Btc => {
                // The unit that a bit number from a register selects. Processors may read a doubleword around it.
                let unit = size.max(1);
                let bits = match insn.op1_kind() {
                    OpKind::Register => match (s.regs[insn.op1_register().full_register().number()], unit) {
                        (r, 2) => i64::from(r as i16),
                        (r, 4) => i64::from(r as i32),
                        (r, _) => r as i64,
                    },
                    _ => 0,
                };
                let unit_offset = bits.div_euclid(8 * unit as i64).wrapping_mul(unit as i64);
                at = at.map(|at| at.wrapping_add_signed(unit_offset).wrapping_sub(2));
                size = unit + 4;
            }
            M::Enter => {
                at = at.map(|at| at.wrapping_sub(8 * 34));
                size += 8 * 36;
            }
            M::Maskmovdqu | M::Maskmovq | M::Pcmpistri | M::Pcmpistrm | M::Pcmpestri | M::Pcmpestrm => {
                size = 16
            }
            M::Fxsave | M::Fxsave64 | M::Fxrstor | M::Fxrstor64 => size = 512,
            M::Fnsave | M::Frstor | M::Fnstenv | M::Fldenv => size = 108,
            M::Bound => size *= 2,
            _ => size = size.max(1),
        }
        let at = at.unwrap_or(u64::MAX);
        let at = if long { at } else { at & 0xffff_ffff };
        let down = if insn.is_string_instruction() && repeats { at.wrapping_sub(48) } else { at };
        good &= harmless(down, size + at.wrapping_sub(down), long);
    }
    good
}

/// Whether a branch goes somewhere that faults at once: not into the data, not to itself.
fn lands_harmless(insn: &Instruction, case: &Case, mode: Mode) -> bool {
    let bad = |offset: u64| {
        let linear = offset.wrapping_add(mode.code_base());
        linear == case.at || (DATA..DATA + DATA_LEN as u64 + 0x3000).contains(&linear)
    };
    match insn.flow_control() {
        FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch | FlowControl::Call => {
            !bad(insn.near_branch_target())
                || insn.op0_kind() != OpKind::NearBranch16
                    && insn.op0_kind() != OpKind::NearBranch32
                    && insn.op0_kind() != OpKind::NearBranch64
        }
        _ => true,
    }
}

/// Flags that the manual leaves undefined after `insn` began with `s`, in EFLAGS positions. Source: the instruction tables of the Intel
/// SDM and the AMD APM as the decoder library carries them, and for shifts what the SDM, volume 2, says of their count.
pub fn undefined_flags(insn: &Instruction, s: &State) -> u64 {
    use Mnemonic as M;
    use iced_x86::RflagsBits as B;
    let shift = |others: u32, carry_beyond: u64| match shift_count(insn, s) {
        0 => 0,
        1 => others & !B::OF,
        n if n > carry_beyond => others | B::CF,
        _ => others,
    };
    let bits = match insn.mnemonic() {
        M::Shl | M::Sal | M::Shr => shift(B::AF | B::OF, 8 * operand_size(insn) - 1),
        M::Sar => shift(B::AF | B::OF, u64::MAX),
        M::Shld | M::Shrd => shift(B::AF | B::OF, 8 * operand_size(insn)),
        M::Rol | M::Ror | M::Rcl | M::Rcr => shift(B::OF, u64::MAX),
        _ => insn.rflags_undefined(),
    };
    [(B::OF, 0x800), (B::SF, 0x80), (B::ZF, 0x40), (B::AF, 0x10), (B::CF, 1), (B::PF, 4)]
        .iter()
        .filter(|(flag, _)| bits & flag != 0)
        .fold(0, |m, (_, bit)| m | bit)
}
