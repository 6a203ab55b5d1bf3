//! Every SSE to SSE4.2 and MMX instruction, register and memory form, against the host processor.

mod fp_native;
mod support;

use fp_native::{DATA_LEN, Pair, Random, State, cases, decode};
use iced_x86::{Code, Mnemonic};

/// A random state with `mxcsr`; all x87 registers empty or not, as `FXRSTOR` allows.
fn state(random: &mut Random, pair: &Pair, mxcsr: u32) -> State {
    let mut s = State { gpr: [0; 16], flags: random.next(), fx: [0; 512], data: [0; DATA_LEN] };
    s.flags &= 0x8d5;
    for r in &mut s.gpr {
        *r = match random.below(3) {
            0 => random.next(),
            1 => random.double(),
            _ => random.below(40),
        };
    }
    s.gpr[3] = pair.data();
    s.gpr[7] = pair.data() + 64;
    s.fx[0..2].copy_from_slice(&0x37fu16.to_le_bytes());
    s.fx[2..4].copy_from_slice(&((random.below(8) as u16) << 11).to_le_bytes());
    s.fx[4] = random.next() as u8;
    s.fx[24..28].copy_from_slice(&mxcsr.to_le_bytes());
    for i in 0..8 {
        let value = random.extended();
        s.fx[32 + 16 * i..42 + 16 * i].copy_from_slice(&value);
    }
    for i in 0..16 {
        let value = random.vector();
        s.fx[160 + 16 * i..176 + 16 * i].copy_from_slice(&value);
    }
    for chunk in s.data.chunks_mut(16) {
        chunk.copy_from_slice(&random.vector());
    }
    s
}

/// What of the state is compared: everything but x87 pointers and reserved bytes.
fn visible(mut s: State) -> State {
    s.fx[5..24].fill(0);
    s.fx[28..32].fill(0);
    for i in 0..8 {
        s.fx[42 + 16 * i..48 + 16 * i].fill(0);
    }
    s.fx[416..].fill(0);
    s
}

fn describe(a: &State, b: &State) -> String {
    let mut text = String::new();
    for i in 0..16 {
        if a.gpr[i] != b.gpr[i] {
            text += &format!("\n gpr{i}: native {:x} emulated {:x}", a.gpr[i], b.gpr[i]);
        }
    }
    if a.flags != b.flags {
        text += &format!("\n flags: native {:x} emulated {:x}", a.flags, b.flags);
    }
    for at in (0..416).step_by(2) {
        if a.fx[at..at + 2] != b.fx[at..at + 2] {
            text +=
                &format!("\n fx+{at}: native {:02x?} emulated {:02x?}", &a.fx[at..at + 2], &b.fx[at..at + 2]);
        }
    }
    if a.data != b.data {
        text += &format!("\n data: native {:02x?}\n     emulated {:02x?}", a.data, b.data);
    }
    text
}

#[test]
fn every_form_gives_the_hosts_result_and_flags() {
    let mut pair = Pair::new();
    let mut random = Random(0x1234_5678_9abc_def1);
    let cases = cases::sse(&mut random);
    let mut codes: Vec<Code> = Vec::new();
    let mut bad: Vec<(Code, String)> = Vec::new();
    for bytes in &cases {
        let insn = decode(bytes);
        codes.push(insn.code());
        for _ in 0..12 {
            // Rounding, flush-to-zero, denormals-are-zero, and flags already set, at random.
            let mxcsr = 0x1f80 | (random.next() as u32 & 0xe07f);
            let before = state(&mut random, &pair, mxcsr);
            let native = visible(pair.native(bytes, &before));
            match pair.emulated(bytes, &before).map(visible) {
                Ok(emulated) if emulated == native => {}
                Ok(emulated) => {
                    bad.push((insn.code(), format!("{bytes:02x?}{}", describe(&native, &emulated))))
                }
                Err(vector) => bad.push((insn.code(), format!("{bytes:02x?}: fault {vector}"))),
            }
        }
    }
    codes.sort_by_key(|c| *c as usize);
    codes.dedup();
    bad.dedup_by_key(|(code, _)| *code);
    for (code, text) in bad.iter().take(60) {
        eprintln!("{code:?} {text}");
    }
    eprintln!("{} encodings, {} instructions", cases.len(), codes.len());
    assert!(bad.is_empty(), "{} instructions differ", bad.len());
    assert!(codes.len() > 350, "only {} instructions covered", codes.len());
}

#[test]
fn fxsave_and_fxrstor_have_the_hosts_layout() {
    let mut pair = Pair::new();
    let mut random = Random(0x5555_1234_9876_0001);
    for bytes in [&[0x0f, 0xae, 0x03][..], &[0x48, 0x0f, 0xae, 0x03]] {
        for _ in 0..100 {
            let mxcsr = 0x1f80 | random.next() as u32 & 0xe03f;
            let mut before = state(&mut random, &pair, mxcsr);
            before.data[..512].fill(0xa5);
            let image = |s: State| {
                let mut data = s.data;
                // Pointers are saved under different conditions; the MXCSR mask is the processor's own.
                data[6..24].fill(0);
                data[28..32].fill(0);
                data
            };
            let native = image(pair.native(bytes, &before));
            let emulated = image(pair.emulated(bytes, &before).expect("no fault"));
            assert!(native == emulated, "{bytes:02x?}\n{native:02x?}\n{emulated:02x?}");

            let other = state(&mut random, &pair, 0x1f80);
            before.data[..512].copy_from_slice(&other.fx);
            let load: Vec<u8> = bytes.iter().map(|b| if *b == 0x03 { 0x0b } else { *b }).collect();
            let native = visible(pair.native(&load, &before));
            let emulated = visible(pair.emulated(&load, &before).expect("no fault"));
            assert!(native == emulated, "{load:02x?}{}", describe(&native, &emulated));
        }
    }
    let mut before = state(&mut random, &pair, 0x1f80);
    before.gpr[3] += 8;
    assert_eq!(pair.emulated(&[0x0f, 0xae, 0x03], &before).err(), Some(13), "misaligned");
    before.gpr[3] -= 8;
    before.data[24..28].copy_from_slice(&0x1_1f80u32.to_le_bytes());
    assert_eq!(pair.emulated(&[0x0f, 0xae, 0x0b], &before).err(), Some(13), "reserved MXCSR bit");
}

#[test]
fn mxcsr_loads_stores_and_refuses_reserved_bits() {
    let mut pair = Pair::new();
    let mut random = Random(3);
    let before = state(&mut random, &pair, 0x1f80 | 0x21);
    let stored = pair.emulated(&[0x0f, 0xae, 0x1b], &before).expect("STMXCSR");
    assert_eq!(stored.data[..4], 0x1fa1u32.to_le_bytes());
    let mut before = before;
    before.data[..4].copy_from_slice(&0xbf84u32.to_le_bytes());
    let loaded = pair.emulated(&[0x0f, 0xae, 0x13], &before).expect("LDMXCSR");
    assert_eq!(loaded.fx[24..28], 0xbf84u32.to_le_bytes());
    before.data[..4].copy_from_slice(&0x1_1f80u32.to_le_bytes());
    assert_eq!(pair.emulated(&[0x0f, 0xae, 0x13], &before).err(), Some(13));
}

#[test]
fn sixteen_byte_operands_fault_unless_aligned_where_the_manual_says_so() {
    let mut pair = Pair::new();
    let mut before = state(&mut Random(5), &pair, 0x1f80);
    before.gpr[3] += 1;
    let cases: [(&[u8], Option<u32>); 8] = [
        (&[0x0f, 0x28, 0x03], Some(13)),       // MOVAPS load
        (&[0x0f, 0x29, 0x03], Some(13)),       // MOVAPS store
        (&[0x66, 0x0f, 0xfe, 0x03], Some(13)), // PADDD
        (&[0x0f, 0x2b, 0x03], Some(13)),       // MOVNTPS
        (&[0x0f, 0x10, 0x03], None),           // MOVUPS
        (&[0xf3, 0x0f, 0x7f, 0x03], None),     // MOVDQU
        (&[0xf2, 0x0f, 0xf0, 0x03], None),     // LDDQU
        (&[0xf2, 0x0f, 0x58, 0x03], None),     // ADDSD
    ];
    for (bytes, fault) in cases {
        assert_eq!(pair.emulated(bytes, &before).err(), fault, "{bytes:02x?}");
    }
}

/// The exceptions that `bytes` raises from `before`: the host's flags with everything masked. When it is unmasked (`open`),
/// underflow as seen with results flushed to zero, where exact tiny results count too.
fn raised(pair: &mut Pair, bytes: &[u8], before: &State, open: u32) -> u32 {
    let mut flags = 0;
    for (control, counted) in [(0x1f80u32, 0x3f), (0x9f80, open & 0x10)] {
        let mut masked = before.clone();
        let old = u32::from_le_bytes([before.fx[24], before.fx[25], before.fx[26], before.fx[27]]);
        masked.fx[24..28].copy_from_slice(&(control | old & 0x6040).to_le_bytes());
        let native = pair.native(bytes, &masked);
        flags |= u32::from(native.fx[24]) & counted;
    }
    flags
}

#[test]
fn unmasked_simd_exceptions_fault_before_any_register_changes() {
    let mut pair = Pair::new();
    let mut random = Random(0xfeed_f00d_1234_5671);
    let (mut faults, mut clean) = (0, 0);
    for bytes in cases::sse(&mut random) {
        let insn = decode(&bytes);
        // These differ in what a flushed result does to their second step, or raise nothing.
        if matches!(
            insn.mnemonic(),
            Mnemonic::Dpps | Mnemonic::Dppd | Mnemonic::Maskmovdqu | Mnemonic::Maskmovq
        ) {
            continue;
        }
        for _ in 0..3 {
            let masks = random.next() as u32 & 0x1f80;
            let rounding = random.next() as u32 & 0x6000;
            let before = state(&mut random, &pair, masks | rounding);
            let open = !(masks >> 7) & 0x3f;
            let flags = raised(&mut pair, &bytes, &before, open);
            let seen = if flags & open & 7 != 0 { flags & 7 } else { flags };
            let result = pair.emulated(&bytes, &before);
            let after = pair.store(&before);
            let name = format!("{bytes:02x?} {:?} masks {masks:04x} flags {flags:02x}", insn.code());
            if flags & open == 0 {
                clean += 1;
                assert!(result.is_ok(), "{name}: {result:?}");
                continue;
            }
            faults += 1;
            assert_eq!(result.err(), Some(19), "{name}");
            let kept = u32::from(after.fx[24]) & 0x3f;
            // Whether a tiny result is inexact too does not show in the flushed run.
            let loose = if flags & open & 0x10 != 0 { 0x20 } else { 0 };
            assert_eq!(kept & !loose, seen & !loose, "{name}");
            let (mut a, mut b) = (visible(before.clone()), visible(after));
            for s in [&mut a, &mut b] {
                s.fx[24..28].fill(0);
                // The switch to MMX happens first.
                s.fx[2..5].fill(0);
                s.fx[32..160].fill(0);
            }
            assert!(a == b, "{name} changed something{}", describe(&a, &b));
        }
    }
    assert!(faults > 500 && clean > 500, "{faults} faults, {clean} without");
    let cpu = &mut *pair.bench.cpu;
    cpu.cr4 &= !0x400;
    // DIVSS by zero without CR4.OSXMMEXCPT.
    let mut before = state(&mut random, &pair, 0);
    before.fx[160..164].copy_from_slice(&1.0f32.to_le_bytes());
    before.fx[176..180].fill(0);
    assert_eq!(pair.emulated(&[0xf3, 0x0f, 0x5e, 0xc1], &before).err(), Some(6));
}

#[test]
fn control_bits_decide_between_undefined_and_not_available() {
    const EM: u64 = 4;
    const TS: u64 = 8;
    const OSFXSR: u64 = 0x200;
    let mut pair = Pair::new();
    let before = state(&mut Random(21), &pair, 0x1f80);
    let sse = [0x0f, 0x58, 0xc1];
    let mmx = [0x0f, 0xfc, 0xc1];
    let movnti = [0x0f, 0xc3, 0x03];
    let fxsave = [0x0f, 0xae, 0x03];
    let cases = [
        (0, OSFXSR, None, None, None),
        (EM, OSFXSR, Some(6), Some(6), Some(7)),
        (TS, OSFXSR, Some(7), Some(7), Some(7)),
        (0, 0, Some(6), None, None),
        (TS, 0, Some(6), Some(7), Some(7)),
    ];
    for (cr0, cr4, on_sse, on_mmx, on_fxsave) in cases {
        let cpu = &mut *pair.bench.cpu;
        cpu.cr0 = cpu.cr0 & !(EM | TS) | cr0;
        cpu.cr4 = cpu.cr4 & !OSFXSR | cr4;
        assert_eq!(pair.emulated(&sse, &before).err(), on_sse, "SSE {cr0:x} {cr4:x}");
        assert_eq!(pair.emulated(&mmx, &before).err(), on_mmx, "MMX {cr0:x} {cr4:x}");
        assert_eq!(pair.emulated(&fxsave, &before).err(), on_fxsave, "FXSAVE {cr0:x} {cr4:x}");
        assert_eq!(pair.emulated(&movnti, &before).err(), None, "MOVNTI {cr0:x} {cr4:x}");
    }
}
