//! Every x87 instruction form against the host processor: registers, stack, tags, status and condition codes, memory.

mod fp_native;
mod support;

use bulkhead_x86::helpers;
use fp_native::{DATA_LEN, Pair, Random, State, cases, decode, same_x87};
use iced_x86::Code;

/// x87 state: `unmasked` leaves some exceptions unmasked (with no flags set, so that nothing is pending).
fn state(random: &mut Random, pair: &Pair, unmasked: bool) -> State {
    let mut s = State { gpr: [0; 16], flags: random.next() & 0x8d5, fx: [0; 512], data: [0; DATA_LEN] };
    for r in &mut s.gpr {
        *r = random.next();
    }
    s.gpr[3] = pair.data();
    let precision = random.pick(&[0u16, 0x200, 0x300, 0x300, 0x300]);
    let rounding = random.pick(&[0u16, 0, 0x400, 0x800, 0xc00]);
    let denormal = if same_x87() { 0 } else { 2 };
    let masks = if unmasked { random.next() as u16 & 0x3f | denormal } else { 0x3f };
    s.fx[0..2].copy_from_slice(&(precision | rounding | masks | 0x40).to_le_bytes());
    let flags = if unmasked { 0 } else { random.next() as u16 & 0x7f };
    let status = flags | random.next() as u16 & 0x4700 | (random.below(8) as u16) << 11;
    s.fx[2..4].copy_from_slice(&status.to_le_bytes());
    // Mostly room for one more and everything else in use; sometimes any tags at all.
    let top = status >> 11 & 7;
    let last = 1u8 << ((top + 7) & 7);
    s.fx[4] = match random.below(6) {
        0 => random.next() as u8,
        1 => 0xff,
        2 => 0,
        _ => !last,
    };
    s.fx[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
    for i in 0..8 {
        let value = random.extended();
        s.fx[32 + 16 * i..42 + 16 * i].copy_from_slice(&value);
    }
    match random.below(4) {
        0 => s.data[..4].copy_from_slice(&random.single().to_le_bytes()),
        1 => s.data[..8].copy_from_slice(&random.double().to_le_bytes()),
        2 => s.data[..10].copy_from_slice(&random.extended()),
        _ => {
            // Packed decimal digits.
            for byte in &mut s.data[..9] {
                *byte = (random.below(10) << 4 | random.below(10)) as u8;
            }
            s.data[9] = (random.below(2) << 7) as u8;
        }
    }
    s
}

fn visible(mut s: State, bytes: &[u8]) -> State {
    s.fx[5..24].fill(0);
    s.fx[28..32].fill(0);
    for i in 0..8 {
        s.fx[42 + 16 * i..48 + 16 * i].fill(0);
    }
    s.fx[416..].fill(0);
    let _ = bytes;
    s
}

fn describe(before: &State, a: &State, b: &State) -> String {
    let word = |s: &State, at: usize| u16::from_le_bytes([s.fx[at], s.fx[at + 1]]);
    let mut text = format!(
        "\n before: cw {:04x} sw {:04x} tags {:02x} st0 {:02x?} st1 {:02x?} mem {:02x?}",
        word(before, 0),
        word(before, 2),
        before.fx[4],
        &before.fx[32..42],
        &before.fx[48..58],
        &before.data[..10]
    );
    for (name, s) in [("native", a), ("emulated", b)] {
        text += &format!(
            "\n {name}: cw {:04x} sw {:04x} tags {:02x} st0 {:02x?} st1 {:02x?} mem {:02x?} flags {:x} ax {:x}",
            word(s, 0),
            word(s, 2),
            s.fx[4],
            &s.fx[32..42],
            &s.fx[48..58],
            &s.data[..10],
            s.flags,
            s.gpr[0] & 0xffff
        );
    }
    text
}

fn differential(seed: u64, unmasked: bool, rounds: usize) {
    let mut pair = Pair::new();
    let mut random = Random(seed);
    let cases = cases::x87();
    let mut codes: Vec<Code> = Vec::new();
    let mut bad: Vec<(Code, String)> = Vec::new();
    for bytes in &cases {
        let insn = decode(bytes);
        codes.push(insn.code());
        for _ in 0..rounds {
            let before = state(&mut random, &pair, unmasked);
            let native = visible(pair.native(bytes, &before), bytes);
            match pair.emulated(bytes, &before).map(|s| visible(s, bytes)) {
                Ok(emulated) if emulated == native => {}
                Ok(emulated) => {
                    bad.push((insn.code(), format!("{bytes:02x?}{}", describe(&before, &native, &emulated))));
                }
                Err(vector) => bad.push((insn.code(), format!("{bytes:02x?}: fault {vector}"))),
            }
        }
    }
    codes.sort_by_key(|c| *c as usize);
    codes.dedup();
    let failures = bad.len();
    bad.dedup_by_key(|(code, _)| *code);
    for (code, text) in bad.iter().take(40) {
        eprintln!("{code:?} {text}");
    }
    eprintln!("{} encodings, {} instructions, {failures} bad", cases.len(), codes.len());
    assert!(bad.is_empty(), "{} instructions differ", bad.len());
    assert!(codes.len() > 110, "only {} instructions covered", codes.len());
}

#[test]
fn every_form_with_masked_exceptions_gives_the_hosts_state() {
    differential(0x9e37_79b9_7f4a_7c15, false, 60);
}

#[test]
fn every_form_with_unmasked_exceptions_gives_the_hosts_state() {
    differential(0xd1b5_4a32_d192_ed03, true, 120);
}

/// Environment and state images: everything but the pointers, which processors save under different conditions.
fn without_pointers(mut s: State, bytes: &[u8]) -> State {
    let range = match (bytes[0] == 0x66, bytes.len()) {
        (true, _) => 6..14,
        _ => 12..28,
    };
    s.data[range].fill(0);
    visible(s, bytes)
}

#[test]
fn environments_are_stored_and_loaded_as_on_the_host() {
    let mut pair = Pair::new();
    let mut random = Random(0x0123_4567_89ab_cdef);
    let images: [&[u8]; 9] = [
        &[0xd9, 0x33],
        &[0x66, 0xd9, 0x33],
        &[0xdd, 0x33],
        &[0x66, 0xdd, 0x33],
        &[0xd9, 0x23],
        &[0x66, 0xd9, 0x23],
        &[0xdd, 0x23],
        &[0x66, 0xdd, 0x23],
        &[0xd9, 0x2b],
    ];
    for bytes in images {
        for round in 0..300 {
            let unmasked = round % 2 == 0;
            let mut before = state(&mut random, &pair, unmasked);
            for chunk in before.data.chunks_mut(8) {
                chunk.copy_from_slice(&random.next().to_le_bytes());
            }
            let native = without_pointers(pair.native(bytes, &before), bytes);
            let emulated =
                pair.emulated(bytes, &before).map(|s| without_pointers(s, bytes)).expect("no fault");
            assert!(
                emulated == native,
                "{bytes:02x?} {}\n{:02x?}\n{:02x?}",
                describe(&before, &native, &emulated),
                &native.data[..108],
                &emulated.data[..108]
            );
        }
    }
}

/// CR0 with some bits changed.
fn with_cr0(pair: &mut Pair, set: u64, clear: u64) {
    let cpu = &mut *pair.bench.cpu;
    cpu.cr0 = cpu.cr0 & !clear | set;
    cpu.update_key();
}

const MP: u64 = 2;
const EM: u64 = 4;
const TS: u64 = 8;
const NE: u64 = 0x20;

#[test]
fn device_not_available_follows_em_ts_and_mp() {
    let mut pair = Pair::new();
    let before = state(&mut Random(7), &pair, false);
    let fadd = [0xd8, 0xc1];
    let fwait = [0x9b];
    for (bits, fadd_faults, fwait_faults) in
        [(0, false, false), (MP, false, false), (EM, true, false), (TS, true, false), (TS | MP, true, true)]
    {
        with_cr0(&mut pair, bits, MP | EM | TS);
        let fault = |faults: bool| if faults { Some(7) } else { None };
        assert_eq!(pair.emulated(&fadd, &before).err(), fault(fadd_faults), "FADD, CR0 {bits:x}");
        assert_eq!(pair.emulated(&fwait, &before).err(), fault(fwait_faults), "FWAIT, CR0 {bits:x}");
    }
}

#[test]
fn a_pending_exception_is_raised_by_the_next_waiting_instruction_only() {
    let mut pair = Pair::new();
    let mut before = state(&mut Random(9), &pair, false);
    // Zero divide raised and unmasked.
    before.fx[0..2].copy_from_slice(&0x37bu16.to_le_bytes());
    before.fx[2..4].copy_from_slice(&0x8084u16.to_le_bytes());
    for waiting in
        [&[0x9b][..], &[0xd9, 0xe8], &[0xd9, 0x2b], &[0x0f, 0xfc, 0xc1], &[0xdd, 0x1b], &[0x0f, 0x77]]
    {
        assert_eq!(pair.emulated(waiting, &before).err(), Some(16), "{waiting:02x?}");
        let after = pair.store(&before);
        assert!(
            visible(after, waiting) == visible(before.clone(), waiting),
            "{waiting:02x?} changed something"
        );
    }
    for silent in
        [&[0xdb, 0xe2][..], &[0xdb, 0xe3], &[0xdf, 0xe0], &[0xd9, 0x3b], &[0xd9, 0x33], &[0xdd, 0x33]]
    {
        assert!(pair.emulated(silent, &before).is_ok(), "{silent:02x?}");
    }
    // With CR0.NE clear the error leaves by FERR#; the test's machine connects nothing, so the instruction goes on.
    with_cr0(&mut pair, 0, NE);
    assert!(pair.emulated(&[0xd9, 0xe8], &before).is_ok());
}

#[test]
fn instruction_opcode_and_data_pointers_are_those_of_the_last_operation() {
    let mut pair = Pair::new();
    let mut before = state(&mut Random(11), &pair, false);
    before.fx[4] = 0;
    let data = pair.data();
    // FLD dword [rbx + 8]
    pair.emulated(&[0xd9, 0x43, 0x08], &before).expect("no fault");
    let x87 = pair.bench.cpu.core.x87;
    assert_eq!((x87.opcode, x87.dp), (0x143, data + 8));
    assert_ne!(x87.ip, 0);
    let at = x87.ip;
    // FNSTCW changes none of them.
    pair.emulated(&[0xd9, 0x3b], &before).expect("no fault");
    let x87 = pair.bench.cpu.core.x87;
    assert_eq!((x87.opcode, x87.dp, x87.ip), (0x143, data + 8, at));
    // FLDPI keeps the data pointer.
    pair.emulated(&[0xd9, 0xeb], &before).expect("no fault");
    let x87 = pair.bench.cpu.core.x87;
    assert_eq!((x87.opcode, x87.dp), (0x1eb, data + 8));
}

#[test]
fn a_store_that_faults_changes_nothing() {
    let mut pair = Pair::new();
    let mut before = state(&mut Random(13), &pair, false);
    before.fx[4] = 0xff;
    // No memory there.
    before.gpr[3] = 0x10;
    for store in
        [&[0xdd, 0x1b][..], &[0xdb, 0x3b], &[0xdf, 0x33], &[0xd9, 0x1b], &[0xdd, 0x33], &[0xdb, 0x1b]]
    {
        assert_eq!(pair.emulated(store, &before).err(), Some(14), "{store:02x?}");
        let after = pair.store(&before);
        assert!(visible(after, store) == visible(before.clone(), store), "{store:02x?} changed something");
    }
}

#[test]
fn instructions_that_the_model_lacks_are_undefined() {
    let mut pair = Pair::new();
    let before = state(&mut Random(17), &pair, false);
    const CMOV: u32 = 1 << 15;
    pair.bench.cpu.features = [!CMOV, !1, 0, 0];
    for bytes in [&[0xda, 0xc1][..], &[0xdb, 0xf1], &[0xdf, 0x0b], &[0xdb, 0x0b]] {
        assert_eq!(pair.emulated(bytes, &before).err(), Some(6), "{bytes:02x?}");
    }
    assert_eq!(pair.emulated(&[0xd8, 0xd1], &before).err(), None);
}

#[test]
fn real_mode_environments_hold_linear_pointers_and_the_opcode() {
    let mut pair = Pair::new();
    let before = state(&mut Random(19), &pair, false);
    pair.load(&before);
    let data = pair.data();
    let cpu = &mut *pair.bench.cpu;
    // CS:IP f000:e05b, DS:offset 1234:5678.
    cpu.core.x87.ip = 0xf000 << 48 | 0xe05b;
    cpu.core.x87.dp = 0x1234 << 48 | 0x5678;
    cpu.core.x87.opcode = 0x5d9;
    // The layout follows CR0.PE; addresses stay 64 bits wide, so that the test's memory can be reached.
    cpu.key &= !bulkhead_x86::state::key::PROTECTED;
    let words = |pair: &mut Pair, size: usize| -> Vec<u32> {
        let bytes = pair.store(&before).data;
        bytes.chunks(size).take(7).map(|c| c.iter().rev().fold(0, |v, b| v << 8 | u32::from(*b))).collect()
    };
    helpers::fp_env::store(cpu, data, 0, 0, 0).expect("stored");
    let short = words(&mut pair, 2);
    assert_eq!(short[3..], [0xe05b, 0xf5d9, 0x79b8, 0x1000]);
    let cpu = &mut *pair.bench.cpu;
    helpers::fp_env::store(cpu, data, 0, 0, 2).expect("stored");
    let long = words(&mut pair, 4);
    assert_eq!(long[3..], [0xe05b, 0x0000_f5d9, 0x79b8, 0x0000_1000]);
    // Loaded back, the pointers are linear.
    let cpu = &mut *pair.bench.cpu;
    helpers::fp_env::load(cpu, data, 0, 0, 2).expect("loaded");
    assert_eq!((cpu.core.x87.ip, cpu.core.x87.dp, cpu.core.x87.opcode), (0xf_e05b, 0x1_79b8, 0x5d9));
}
