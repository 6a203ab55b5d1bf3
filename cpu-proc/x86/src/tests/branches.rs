//! Branches out of the canonical addresses: `#GP(0)` at the branch, nothing changed (SDM volume 2; AMD manual volume 3; what a host of
//! AMD's does).

use super::programs::Engines;
use super::*;

/// Where the last canonical page of the lower half lies in memory; `END` is the first address beyond.
const FRAME: u64 = 0x3f_f000;
const END: u64 = 0x0000_8000_0000_0000;

/// 64-bit mode with the last 2 MiB of the lower half mapped too, and a handler of `#GP` that halts.
fn rig(model: &str) -> Rig {
    let mut rig = Rig::of(model).long();
    rig.put(0x10_0000 + 8 * 255, 8, 0x10_1007);
    rig.put(0x10_1000 + 8 * 511, 8, 0x10_2007);
    rig.put(0x10_2000 + 8 * 511, 8, 0x20_0087);
    rig.idt64(13, gate(sel::CODE0, at::HANDLER, 0x8e, 0), 0);
    rig.code(at::HANDLER, &[0xf4]);
    rig
}

/// Code, from `END - 0x100` on, and where it faults from there.
const CASES: [(&[u8], u64); 12] = [
    (&[0x90, 0xe9, 0xfa, 0, 0, 0], 1),                                  // jmp END
    (&[0x90, 0xe8, 0xfa, 0x10, 0, 0], 1),                               // call END + 1000
    (&[0x90, 0x48, 0x85, 0xe4, 0x0f, 0x85, 0xf6, 0, 0, 0], 4),          // test rsp, rsp; jnz END
    (&[0x90, 0x74, 0x02, 0x0f, 0x84, 0, 1, 0, 0, 0xe9, 0, 1, 0, 0], 9), // jz, not taken; jz END + 9, not taken; jmp END + e
    (&[0x48, 0x83, 0xc1, 2, 0xeb, 0x7a], 0x86),                         // rcx = 2; jmp to a loop instruction
    (&[0x48, 0x31, 0xc9, 0xeb, 0x7e], 0x83),                            // rcx = 0; jmp to jrcxz
    (&[0x48, 0xb8, 0, 0, 0, 0, 0, 0x80, 0, 0, 0xff, 0xe0], 10),         // mov rax, END; jmp rax
    (&[0x48, 0xb8, 0, 0, 0, 0, 0, 0x80, 0, 0, 0xff, 0xd0], 10),         // mov rax, END; call rax
    (&[0x48, 0xb8, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xe0], 10), // below the upper half
    (&[0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0xe0], 10),         // the sign bit alone
    (&[0x48, 0xb8, 0, 0, 0, 0, 0, 0, 1, 0, 0xff, 0xe0], 10),            // a bit above the sign's
    (&[0xeb, 0x7e], 0x100),                                             // falls off the end
];

#[test]
fn a_branch_out_of_the_canonical_addresses_faults_where_it_is() {
    Engines::each(|engine| {
        for model in ["max", "max,vendor=GenuineIntel"] {
            for (code, place) in CASES {
                let mut rig = rig(model);
                let start = FRAME + 0xf00;
                rig.code(start, code);
                rig.code(start + 0x80, &[0x90; 0x80]);
                // At END - 7a: loop END; at END - 7d: jrcxz END.
                match place {
                    0x86 => rig.code(start + 0x86, &[0xe2, 0x78]),
                    0x83 => rig.code(start + 0x83, &[0xe3, 0x7b]),
                    _ => {}
                }
                rig.cpu.core.slots[reg::RCX] = 0;
                rig.cpu.core.pc = END - 0x100;
                engine.run(&mut rig, 200);
                let stack = [0, 1, 4].map(|i| rig.stack64(i));
                assert_eq!(stack, [0, END - 0x100 + place, 0x7000], "{code:x?} on {model}");
                let count = if place == 0x86 { 2 } else { 0 };
                assert_eq!(rig.cpu.core.slots[reg::RCX], count, "{code:x?} on {model}");
            }
        }
    });
}

#[test]
fn a_return_to_a_non_canonical_address_leaves_the_stack_pointer() {
    Engines::each(|engine| {
        for code in [&[0xc3][..], &[0xc2, 0x10, 0], &[0x48, 0xcb], &[0x48, 0xcf]] {
            let mut rig = rig("max");
            rig.code(at::USER, code);
            rig.cpu.core.pc = at::USER;
            let frame = [END, u64::from(sel::CODE0), 2, 0x6000, u64::from(sel::DATA0)];
            for (i, value) in frame.into_iter().enumerate() {
                rig.put(0x6f00 + 8 * i as u64, 8, value);
            }
            rig.set_rsp(0x6f00);
            engine.run(&mut rig, 8);
            let stack = [0, 1, 4].map(|i| rig.stack64(i));
            assert_eq!(stack, [0, at::USER, 0x6f00], "{code:x?}");
        }
    });
}

#[test]
fn cve_2012_0217_sysret_to_a_non_canonical_address_faults_at_level_0_on_intel_and_at_level_3_on_amd() {
    Engines::each(|engine| {
        for (model, inside) in [("max", false), ("max,vendor=GenuineIntel", true)] {
            let mut rig = rig(model);
            rig.wrmsr(0xc000_0081, 0x0010_0008_0000_0000).unwrap();
            rig.code(at::USER, &[0x48, 0x0f, 0x07]);
            rig.cpu.core.pc = at::USER;
            rig.cpu.core.slots[reg::RCX] = END;
            rig.cpu.core.slots[reg::R11] = 2;
            rig.set_rsp(0x6f00);
            engine.run(&mut rig, 8);
            let stack = [0, 1, 2, 4].map(|i| rig.stack64(i));
            // The frame is on the stack of whoever was interrupted, or on that of level 0.
            let (frame, top) = if inside {
                ([0, at::USER, u64::from(sel::CODE0), 0x6f00], 0x6f00)
            } else {
                ([0, END, 0x23, 0x6f00], at::STACK0)
            };
            assert_eq!((stack, rig.rsp()), (frame, top - 48), "{model}");
        }
    });
}
