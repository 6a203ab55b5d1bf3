//! x87, MMX and SSE instructions through the compiler, alone and in blocks of many, against the host processor.

mod fp_native;
mod support;

use fp_native::{DATA_LEN, Pair, Random, State, cases, decode};
use iced_x86::{Mnemonic, OpKind, Register};

fn state(random: &mut Random, pair: &Pair) -> State {
    let mut s = State { gpr: [0; 16], flags: random.next() & 0x8d5, fx: [0; 512], data: [0; DATA_LEN] };
    for r in &mut s.gpr {
        *r = if random.below(2) == 0 { random.next() } else { random.below(40) };
    }
    s.gpr[3] = pair.data();
    s.gpr[7] = pair.data() + 64;
    let control = 0x7f | random.pick(&[0u16, 0x200, 0x300]) | random.pick(&[0u16, 0, 0x400, 0x800, 0xc00]);
    s.fx[0..2].copy_from_slice(&control.to_le_bytes());
    let status = random.next() as u16 & 0x477f | (random.below(8) as u16) << 11;
    s.fx[2..4].copy_from_slice(&status.to_le_bytes());
    s.fx[4] = random.next() as u8 | random.next() as u8;
    let mxcsr = 0x1f80 | random.next() as u32 & 0xe07f;
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

/// Whether `bytes` leaves the address registers alone and gives one answer on every processor.
fn usable(bytes: &[u8]) -> bool {
    let insn = decode(bytes);
    let writes_address = insn.op_count() > 0
        && insn.op0_kind() == OpKind::Register
        && matches!(insn.op0_register().full_register(), Register::RBX | Register::RDI);
    !writes_address && !matches!(insn.mnemonic(), Mnemonic::Fstpnce)
}

fn visible(mut s: State) -> State {
    s.fx[5..24].fill(0);
    s.fx[28..32].fill(0);
    for i in 0..8 {
        s.fx[42 + 16 * i..48 + 16 * i].fill(0);
    }
    s.fx[416..].fill(0);
    s
}

/// Whether native and compiled agree; says where not, for the first few.
fn agree(
    pair: &mut Pair,
    what: &str,
    code: &[u8],
    before: &State,
    block: fp_native::Block,
    failures: &mut u32,
) {
    let native = visible(pair.native(code, before));
    let compiled = pair.run(block, before).map(visible);
    if compiled.as_ref() == Ok(&native) {
        return;
    }
    *failures += 1;
    if *failures > 5 {
        return;
    }
    eprintln!("{what}\n{code:02x?}");
    match compiled {
        Err(vector) => eprintln!(" fault {vector} at {:x}", pair.bench.cpu.core.pc),
        Ok(s) => {
            for at in (0..416).step_by(2).filter(|at| s.fx[*at..at + 2] != native.fx[*at..at + 2]) {
                let (n, e) = (&native.fx[at..at + 2], &s.fx[at..at + 2]);
                eprintln!(" fx+{at}: native {n:02x?} compiled {e:02x?}");
            }
            for i in (0..16).filter(|i| s.gpr[*i] != native.gpr[*i]) {
                eprintln!(" gpr{i}: native {:x} compiled {:x}", native.gpr[i], s.gpr[i]);
            }
            let same = s.data == native.data;
            eprintln!(" flags native {:x} compiled {:x}, memory equal: {same}", native.flags, s.flags);
        }
    }
}

#[test]
fn every_form_gives_the_hosts_state_when_compiled() {
    let mut pair = Pair::new();
    let mut random = Random(0x600d_cafe_600d_f00d);
    let mut forms = cases::sse(&mut random);
    forms.extend(cases::x87());
    let mut failures = 0;
    for bytes in &forms {
        let insn = decode(bytes);
        let block = pair.place(bytes);
        for _ in 0..3 {
            let before = state(&mut random, &pair);
            agree(&mut pair, &format!("{:?}", insn.code()), bytes, &before, block, &mut failures);
        }
    }
    assert!(pair.compiled() > forms.len() as u64, "the compiler was not used");
    assert_eq!(failures, 0);
}

#[test]
fn blocks_of_mixed_instructions_give_the_hosts_state_when_compiled() {
    let mut pair = Pair::new();
    let mut random = Random(0xabad_1dea_0bad_cafe);
    let sse: Vec<_> = cases::sse(&mut random).into_iter().filter(|b| usable(b)).collect();
    let x87: Vec<_> = cases::x87().into_iter().filter(|b| usable(b)).collect();
    let mut failures = 0;
    for round in 0..2500 {
        let mut code = Vec::new();
        let mut names = Vec::new();
        // Mostly one kind, sometimes both.
        let share = random.pick(&[0, 1, 5, 10]);
        for _ in 0..1 + random.below(14) {
            let from = if random.below(10) < share { &x87 } else { &sse };
            let bytes = &from[random.below(from.len() as u64) as usize];
            names.push(decode(bytes).code());
            code.extend(bytes);
        }
        let block = pair.place(&code);
        for _ in 0..2 {
            let before = state(&mut random, &pair);
            agree(&mut pair, &format!("round {round}: {names:?}"), &code, &before, block, &mut failures);
        }
    }
    assert_eq!(failures, 0);
}

/// As numeric programs are: a stack with some registers in use, mostly arithmetic that balances, the status word read now and then.
/// The engine computes these in line.
#[test]
fn x87_programs_give_the_hosts_state_when_compiled() {
    let mut pair = Pair::new();
    let mut random = Random(0x0dd5_eed5_0dd5_eed5);
    let forms: Vec<_> = cases::x87().into_iter().filter(|b| usable(b)).collect();
    let (pushes, others): (Vec<_>, Vec<_>) = forms.into_iter().partition(|b| {
        use Mnemonic::{Fild, Fld, Fld1, Fldl2e, Fldl2t, Fldlg2, Fldln2, Fldpi, Fldz};
        let loads = [Fild, Fld, Fld1, Fldl2e, Fldl2t, Fldlg2, Fldln2, Fldpi, Fldz];
        loads.contains(&decode(b).mnemonic())
    });
    let mut failures = 0;
    for round in 0..1500 {
        let (mut code, mut names) = (Vec::new(), Vec::new());
        for at in 0..6 + random.below(20) {
            let from = if at % 3 == 0 { &pushes } else { &others };
            let bytes: &[u8] = match random.below(12) {
                0 => &[0xdf, 0xe0],
                // The destination is the data that is loaded, or lies beside it.
                1 => &[0xdd, 0x1f],
                _ => &from[random.below(from.len() as u64) as usize],
            };
            names.push(decode(bytes).code());
            code.extend(bytes);
        }
        let block = pair.place(&code);
        for run in 0..3 {
            let mut before = state(&mut random, &pair);
            let top = u16::from_le_bytes([before.fx[2], before.fx[3]]) >> 11 & 7;
            before.fx[4] = 0x1fu8.rotate_left(u32::from(top));
            // Ordinary numbers round; special ones were tried above.
            for i in 0..8 {
                let at = 32 + 16 * i;
                before.fx[at..at + 8].copy_from_slice(&(random.next() | 1 << 63).to_le_bytes());
                before.fx[at + 8..at + 10].copy_from_slice(&(0x3ff8 + random.below(16) as u16).to_le_bytes());
            }
            if run == 0 {
                before.data[..8].copy_from_slice(&(random.below(1 << 40) as f64 / 7.0).to_le_bytes());
            }
            agree(&mut pair, &format!("round {round}: {names:?}"), &code, &before, block, &mut failures);
        }
    }
    assert_eq!(failures, 0);
}

#[test]
fn an_unmasked_exception_in_a_compiled_block_faults_at_its_instruction() {
    let mut pair = Pair::new();
    // MOVAPS xmm2, xmm3; DIVSS xmm0, xmm1; MOVAPS xmm3, xmm2
    let code = [0x0f, 0x28, 0xd3, 0xf3, 0x0f, 0x5e, 0xc1, 0x0f, 0x28, 0xda];
    let block = pair.place(&code);
    let mut before = state(&mut Random(77), &pair);
    before.fx[160..164].copy_from_slice(&1.0f32.to_le_bytes());
    before.fx[176..180].fill(0);
    before.fx[24..28].copy_from_slice(&0x1d80u32.to_le_bytes());
    for _ in 0..2 {
        assert_eq!(pair.run(block, &before).err(), Some(19));
        let after = pair.store(&before);
        assert_eq!(after.fx[192..208], before.fx[208..224], "the instruction before is done");
        assert_eq!(after.fx[160..176], before.fx[160..176], "its destination is unchanged");
        assert_eq!(after.fx[24..28], 0x1d84u32.to_le_bytes());
    }
}

/// The host's stack is as deep as the guest's: what a store leaves there is missing when numbers are loaded.
#[test]
fn many_stores_in_a_block_leave_nothing_on_the_hosts_stack() {
    let mut pair = Pair::new();
    let mut random = Random(0x5704_5704);
    let mut failures = 0;
    // FST m32, FST m64, FIST m32, FIST m16, to [rdi].
    for store in [[0xd9, 0x17], [0xdd, 0x17], [0xdb, 0x17], [0xdf, 0x17]] {
        // FLD1, nine stores, FADD st0, st0, FSTP qword ptr [rdi].
        let stores = std::iter::repeat_n(store, 9).flatten();
        let code: Vec<u8> = [0xd9, 0xe8].into_iter().chain(stores).chain([0xd8, 0xc0, 0xdd, 0x1f]).collect();
        let block = pair.place(&code);
        for top in 0..8u16 {
            let mut before = state(&mut random, &pair);
            before.fx[2..4].copy_from_slice(&(top << 11).to_le_bytes());
            before.fx[4] = 0;
            agree(&mut pair, &format!("{store:02x?}"), &code, &before, block, &mut failures);
        }
    }
    assert_eq!(failures, 0);
}
