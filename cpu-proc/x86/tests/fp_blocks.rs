//! Random runs of x87, MMX and SSE instructions in one block, against the host processor.

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

#[test]
fn blocks_of_mixed_instructions_give_the_hosts_state() {
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
        let before = state(&mut random, &pair);
        let native = visible(pair.native(&code, &before));
        let emulated = pair.block(&code, &before, 1 + round % 3).map(visible);
        if emulated.as_ref() != Ok(&native) {
            failures += 1;
            if failures <= 5 {
                eprintln!("round {round}: {names:?}\n{code:02x?}");
                match emulated {
                    Err(vector) => eprintln!(" fault {vector} at {:x}", pair.bench.cpu.core.pc),
                    Ok(s) => {
                        for at in (0..416).step_by(2).filter(|at| s.fx[*at..at + 2] != native.fx[*at..at + 2])
                        {
                            let (n, e) = (&native.fx[at..at + 2], &s.fx[at..at + 2]);
                            eprintln!(" fx+{at}: native {n:02x?} emulated {e:02x?}");
                        }
                        for i in (0..16).filter(|i| s.gpr[*i] != native.gpr[*i]) {
                            eprintln!(" gpr{i}: native {:x} emulated {:x}", native.gpr[i], s.gpr[i]);
                        }
                        eprintln!(
                            " flags native {:x} emulated {:x}, memory equal: {}",
                            native.flags,
                            s.flags,
                            s.data == native.data
                        );
                    }
                }
            }
        }
    }
    assert_eq!(failures, 0);
}
