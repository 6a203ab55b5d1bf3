//! The same code in code segments of one base and different limits: what was compiled under one must not run under the other.

use super::programs::Engines;
use super::*;

/// Code segments of base 0.
const WIDE: u16 = sel::CODE32;
const NARROW: u16 = sel::EXECUTE_ONLY;
/// Where the code under test lies.
const AT: u64 = 0xa100;
/// Where it goes on to, each time by the next far pointer of a table at [`NEXT`]; the last leads to [`DONE`].
const NEXT: u64 = 0x5000;
const DONE: u64 = 0x6100;

/// A machine with `code` at [`AT`] and the two segments, of `flags` (descriptor bits 52 to 55); `NARROW` ends at `limit`.
fn rig(code: &[u8], flags: u64, limit: u64) -> Rig {
    let mut rig = Rig::new().protected();
    rig.gdt(WIDE, descriptor(0, 0xffff, 0x9b, flags));
    rig.gdt(NARROW, descriptor(0, limit, 0x9b, flags));
    rig.idt(13, gate(sel::CODE0, at::HANDLER, 0x8e, 0));
    rig.code(AT, code);
    rig.code(DONE, &[0xf4]);
    rig.cpu.core.slots[reg::RBX] = NEXT;
    rig
}

/// `jmp far SELECTOR:AT` of a 32-bit handler.
fn far_jump(selector: u16) -> [u8; 7] {
    let [low, high] = selector.to_le_bytes();
    [0xea, AT as u8, (AT >> 8) as u8, 0, 0, low, high]
}

/// Code, whose increments of EAX count how far it came and which ends with a jump by the next pointer (through EBX); its size; the limit of the narrow
/// segment; the count and the place of the fault there.
const CASES: [(&[u8], u64, u64, u64, u64); 6] = [
    // Four increments; the segment ends after two.
    (&[0x40, 0x40, 0x40, 0x40, 0x83, 0xc3, 8, 0xff, 0x6b, 0xf8], 4, AT + 1, 2, AT + 2),
    // The segment ends within an instruction.
    (&[0x40, 0x40, 0x40, 0x40, 0x83, 0xc3, 8, 0xff, 0x6b, 0xf8], 4, AT + 5, 4, AT + 4),
    // A jump, a call and a conditional jump to beyond it.
    (&[0x40, 0xeb, 0x03, 0, 0, 0, 0x40, 0x83, 0xc3, 8, 0xff, 0x6b, 0xf8], 4, AT + 5, 1, AT + 1),
    (&[0x40, 0xe8, 2, 0, 0, 0, 0, 0, 0x40, 0x83, 0xc3, 8, 0xff, 0x6b, 0xf8], 4, AT + 7, 1, AT + 1),
    (&[0x40, 0x75, 0x03, 0, 0, 0, 0x40, 0x83, 0xc3, 8, 0xff, 0x6b, 0xf8], 4, AT + 5, 1, AT + 1),
    // The same in 16-bit code.
    (&[0x40, 0xeb, 0x03, 0, 0, 0, 0x40, 0x83, 0xc3, 8, 0xff, 0x6f, 0xf8], 0, AT + 5, 1, AT + 1),
];

/// What a whole run adds to EAX.
fn whole(code: &[u8]) -> u64 {
    code.iter().filter(|byte| **byte == 0x40).count() as u64
}

/// Fills the table of far pointers.
fn then(rig: &mut Rig, flags: u64, targets: &[(u16, u64)]) {
    let size = if flags == 0 { 2 } else { 4 };
    for (i, (selector, offset)) in targets.iter().enumerate() {
        let place = NEXT + 8 * i as u64;
        rig.put(place, size, *offset);
        rig.put(place + size as u64, 2, u64::from(*selector));
    }
}

#[test]
fn code_run_in_a_wide_segment_faults_at_the_limit_of_a_narrow_one() {
    Engines::each(|engine| {
        for (code, flags, limit, count, place) in CASES {
            let mut rig = rig(code, flags, limit);
            rig.code(at::HANDLER, &[0xf4]);
            then(&mut rig, flags, &[(NARROW, AT), (sel::CODE0, DONE)]);
            rig.code(at::USER, &far_jump(WIDE));
            rig.cpu.core.pc = at::USER;
            engine.run(&mut rig, 40);
            let stack: Vec<u32> = (0..3).map(|i| rig.stack32(i)).collect();
            assert_eq!(stack, [0, place as u32, u32::from(NARROW)], "{code:x?} to {limit:x}");
            assert_eq!(rig.cpu.core.slots[0], whole(code) + count, "{code:x?} to {limit:x}");
        }
    });
}

#[test]
fn code_that_faulted_in_a_narrow_segment_runs_in_a_wide_one() {
    Engines::each(|engine| {
        for (code, flags, limit, count, _) in CASES {
            let mut rig = rig(code, flags, limit);
            rig.code(at::HANDLER, &far_jump(WIDE));
            then(&mut rig, flags, &[(sel::CODE0, DONE)]);
            rig.code(at::USER, &far_jump(NARROW));
            rig.cpu.core.pc = at::USER;
            engine.run(&mut rig, 40);
            assert_eq!(rig.cpu.core.pc, DONE + 1, "{code:x?} to {limit:x}");
            assert_eq!(rig.cpu.core.slots[0], count + whole(code), "{code:x?} to {limit:x}");
        }
    });
}

#[test]
fn a_masked_move_faults_at_the_last_byte_that_it_writes() {
    // The segment ends with byte 5007h: four bytes fit, the fifth does not.
    for (bytes, fits) in [(4, true), (5, false)] {
        Engines::each(|engine| {
            let mut rig = Rig::new().protected();
            rig.call(Sys::WriteCr, 0x600, 0, 0, 4).unwrap();
            rig.gdt(sel::READ_ONLY, descriptor(0, 0x5007, 0x93, 0x4));
            rig.call(Sys::LoadSeg, u64::from(sel::READ_ONLY), 0, 0, seg::DS as u64).unwrap();
            rig.idt(13, gate(sel::CODE0, at::HANDLER, 0x8e, 0));
            rig.code(at::HANDLER, &[0xf4]);
            rig.code(at::USER, &[0x66, 0x0f, 0xf7, 0xc1, 0xf4]); // maskmovdqu xmm0, xmm1
            rig.cpu.core.pc = at::USER;
            rig.cpu.core.slots[reg::RDI] = 0x5004;
            rig.cpu.core.vec[0] = [0x55; 16];
            rig.cpu.core.vec[1] = std::array::from_fn(|i| if i < bytes { 0x80 } else { 0x7f });
            engine.run(&mut rig, 8);
            let end = if fits { at::USER + 5 } else { at::HANDLER + 1 };
            assert_eq!((rig.cpu.core.pc, rig.get(0x5004, 5)), (end, if fits { 0x5555_5555 } else { 0 }));
        });
    }
}

#[test]
fn a_fault_in_a_repeated_comparison_puts_the_flags_back_on_intels_processors() {
    // The segment ends with byte 5001h: two bytes are compared, with carry and without zero.
    for (model, flags) in [("kvm64", eflags::ZF), ("qemu64", eflags::CF)] {
        Engines::each(|engine| {
            let mut rig = Rig::of(model).protected();
            rig.gdt(sel::READ_ONLY, descriptor(0, 0x5001, 0x93, 0x4));
            rig.call(Sys::LoadSeg, u64::from(sel::READ_ONLY), 0, 0, seg::ES as u64).unwrap();
            rig.put(0x5000, 2, 0x0202);
            rig.idt(13, gate(sel::CODE0, at::HANDLER, 0x8e, 0));
            rig.code(at::HANDLER, &[0xf4]);
            rig.code(at::USER, &[0xf2, 0xae, 0xf4]); // repne scasb
            rig.cpu.core.pc = at::USER;
            for (register, value) in [(reg::RAX, 1), (reg::RCX, 4), (reg::RDI, 0x5000)] {
                rig.cpu.core.slots[register] = value;
            }
            rig.cpu.set_flags(eflags::ZF);
            engine.run(&mut rig, 8);
            assert_eq!((rig.cpu.core.pc, rig.cpu.core.slots[reg::RCX]), (at::HANDLER + 1, 2));
            assert_eq!(rig.stack32(3) & (eflags::ZF | eflags::CF), flags, "{model}");
        });
    }
}
