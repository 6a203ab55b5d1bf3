//! Far jumps, calls, returns, call gates, fast system calls.

use super::*;
use crate::helpers::vector;

const GP: u8 = vector::GP;

fn jmp(rig: &mut Rig, selector: u16, offset: u64) -> Result<u64, Raised> {
    rig.call(Sys::FarJmp, u64::from(selector), offset, 0, 2)
}

#[test]
fn real_mode_far_call_and_return_round_trip() {
    let mut rig = Rig::new();
    rig.set_rsp(0x7000);
    rig.call(Sys::FarCall, 0x1234, 0x56, 0xfff5, 1).unwrap();
    assert_eq!((rig.cpu.core.pc, rig.cpu.segs[seg::CS].base), (0x56, 0x12340));
    assert_eq!(rig.get(0x6ffc, 4), 0xf000_fff5);
    rig.call(Sys::FarRet, 0, 0, 0, 1 | 4 << 8).unwrap();
    assert_eq!((rig.cpu.core.pc, rig.cpu.segs[seg::CS].base, rig.rsp()), (0xfff5, 0xf0000, 0x7004));
}

#[test]
fn far_jump_checks_privilege_presence_and_limit() {
    let mut rig = Rig::new().protected();
    assert_eq!(jmp(&mut rig, 0, 0), Err((GP, Some(0))));
    assert_eq!(jmp(&mut rig, sel::CODE3, 0), Err((GP, Some(0x18))));
    assert_eq!(jmp(&mut rig, sel::DATA0, 0), Err((GP, Some(0x10))));
    rig.gdt(sel::CODE16, descriptor(0, 0xfff, 0x9a, 0));
    assert_eq!(jmp(&mut rig, sel::CODE16, 0x1000), Err((GP, Some(0))));
    rig.gdt(sel::CODE16, descriptor(0, 0xfff, 0x1a, 0));
    assert_eq!(jmp(&mut rig, sel::CODE16, 0), Err((vector::NP, Some(0x38))));
    rig.gdt(sel::CODE16, descriptor(0x100, 0xfff, 0x9a, 0));
    jmp(&mut rig, sel::CODE16, 0x10).unwrap();
    assert_eq!(rig.cpu.key & key::CODE32, 0);
    let mut rig = rig.user();
    jmp(&mut rig, sel::CONFORMING, 4).unwrap();
    assert_eq!((rig.cpu.cpl, rig.cpu.segs[seg::CS].selector), (3, sel::CONFORMING | 3));
}

#[test]
fn far_return_to_an_outer_level_drops_inner_segments() {
    let rig = Rig::new().protected();
    assert!(rig.cpu.segs[seg::DS].usable());
    let rig = rig.user();
    assert_eq!(rig.cpu.segs[seg::CS].selector, sel::CODE3);
    assert_eq!(rig.rsp(), at::STACK3);
    assert_eq!(rig.cpu.core.mmu_mode, 1);
    let mut rig = Rig::new().protected();
    let sp = 0x6ff0;
    for (i, v) in [at::USER, u64::from(sel::CODE3), at::STACK3, u64::from(sel::DATA3)].iter().enumerate() {
        rig.put(sp + 4 * i as u64, 4, *v);
    }
    rig.set_rsp(sp);
    rig.call(Sys::FarRet, 0, 0, 0, 2).unwrap();
    assert!(!rig.cpu.segs[seg::DS].usable(), "level 0 data is not for level 3");
}

#[test]
fn call_gate_switches_stack_and_copies_parameters() {
    let mut rig = Rig::new().protected().user();
    rig.gdt(sel::GATE, gate(sel::CODE0, 0x6000, 0xec, 2));
    rig.put(at::STACK3, 4, 0x1111);
    rig.put(at::STACK3 + 4, 4, 0x2222);
    rig.call(Sys::FarCall, u64::from(sel::GATE), 0, 0xa007, 2).unwrap();
    assert_eq!((rig.cpu.cpl, rig.cpu.core.pc), (0, 0x6000));
    assert_eq!(rig.rsp(), at::STACK0 - 24);
    let stack: Vec<u32> = (0..6).map(|i| rig.stack32(i)).collect();
    assert_eq!(stack, [0xa007, 0x1b, 0x1111, 0x2222, at::STACK3 as u32, 0x23]);
    rig.call(Sys::FarRet, 0, 0, 0, 2 | 8 << 8).unwrap();
    assert_eq!((rig.cpu.cpl, rig.cpu.core.pc, rig.rsp()), (3, 0xa007, at::STACK3 + 8));
    rig.gdt(sel::GATE, gate(sel::CODE0, 0x6000, 0x8c, 0));
    assert_eq!(
        rig.call(Sys::FarCall, u64::from(sel::GATE), 0, 0, 2),
        Err((GP, Some(0x48))),
        "gate is for level 0"
    );
}

#[test]
fn sixteen_bit_call_gate_pushes_words() {
    let mut rig = Rig::new().protected().user();
    rig.gdt(sel::GATE, gate(sel::CODE0, 0x6000, 0xe4, 0));
    rig.call(Sys::FarCall, u64::from(sel::GATE), 0, 0xa007, 2).unwrap();
    assert_eq!(rig.rsp(), at::STACK0 - 8);
    assert_eq!(rig.stack32(0), 0x001b_a007);
}

#[test]
fn long_mode_call_gate_uses_sixteen_bytes_and_a_null_stack_segment() {
    let mut rig = Rig::new().long();
    // IRETQ to user, then call.
    user64(&mut rig);
    rig.gdt(sel::GATE, gate(sel::CODE0, 0x6000, 0xec, 0));
    rig.put(at::GDT + u64::from(sel::GATE) + 8, 8, 0);
    rig.call(Sys::FarCall, u64::from(sel::GATE), 0, 0xa007, 2).unwrap();
    assert_eq!((rig.cpu.cpl, rig.cpu.core.pc), (0, 0x6000));
    assert_eq!(rig.cpu.segs[seg::SS].selector, 0);
    let stack: Vec<u64> = (0..4).map(|i| rig.stack64(i)).collect();
    assert_eq!(stack, [0xa007, u64::from(sel::CODE3), at::STACK3, u64::from(sel::DATA3)]);
    rig.call(Sys::FarRet, 0, 0, 0, 3).unwrap();
    assert_eq!((rig.cpu.cpl, rig.cpu.core.pc, rig.rsp()), (3, 0xa007, at::STACK3));
}

/// Enters 64-bit level 3 through IRETQ.
pub fn user64(rig: &mut Rig) {
    let frame = [at::USER, u64::from(sel::CODE3), 0x202, at::STACK3, u64::from(sel::DATA3)];
    for (i, v) in frame.iter().enumerate() {
        rig.put(0x7000 + 8 * i as u64, 8, *v);
    }
    rig.set_rsp(0x7000);
    rig.call(Sys::Iret, 0, 0, 0, 3).unwrap();
    assert_eq!(rig.cpu.cpl, 3);
}

#[test]
fn a_segment_that_a_return_takes_away_keeps_its_base_in_long_mode() {
    let mut rig = Rig::new().long();
    rig.call(Sys::LoadSeg, u64::from(sel::DATA0), 0, 0, seg::GS as u64).unwrap();
    rig.wrmsr(0xc000_0101, 0x40_0000).unwrap();
    user64(&mut rig);
    let gs = rig.cpu.segs[seg::GS];
    assert_eq!((gs.selector, gs.usable(), gs.base), (0, false, 0x40_0000));
}

#[test]
fn sysenter_and_sysexit_load_flat_segments() {
    let mut rig = Rig::new().protected().user();
    assert_eq!(rig.call(Sys::Sysenter, 0, 0, 0, 0), Err((GP, Some(0))), "no target set");
    rig.cpu.msrs.sysenter_cs = u64::from(sel::CODE0);
    rig.cpu.msrs.sysenter_esp = 0x5000;
    rig.cpu.msrs.sysenter_eip = 0x6000;
    rig.call(Sys::Sysenter, 0, 0, 0, 0).unwrap();
    assert_eq!((rig.cpu.cpl, rig.cpu.core.pc, rig.rsp()), (0, 0x6000, 0x5000));
    assert_eq!(rig.cpu.segs[seg::SS].selector, sel::DATA0);
    assert_eq!(rig.cpu.eflags & eflags::IF, 0);
    rig.cpu.core.slots[reg::RDX] = 0xa002;
    rig.cpu.core.slots[reg::RCX] = at::STACK3;
    rig.call(Sys::Sysexit, 0, 0, 0, 2).unwrap();
    assert_eq!((rig.cpu.cpl, rig.cpu.core.pc, rig.rsp()), (3, 0xa002, at::STACK3));
    assert_eq!(rig.cpu.segs[seg::CS].selector, sel::CODE3);
    assert_eq!(rig.call(Sys::Sysexit, 0, 0, 0, 2), Err((GP, Some(0))));
}

#[test]
fn syscall_and_sysret_round_trip_in_long_mode() {
    let mut rig = Rig::new().long();
    rig.wrmsr(0xc000_0081, 0x0010_0008_0000_0000).unwrap();
    rig.wrmsr(0xc000_0082, 0xffff_ffff_8100_0000).unwrap();
    rig.wrmsr(0xc000_0084, 0x200).unwrap();
    user64(&mut rig);
    rig.call(Sys::Syscall, 0xa002, 0, 0, 0).unwrap();
    assert_eq!((rig.cpu.cpl, rig.cpu.core.pc), (0, 0xffff_ffff_8100_0000));
    assert_eq!(rig.cpu.core.slots[reg::RCX], 0xa002);
    assert_eq!(rig.cpu.core.slots[reg::R11] & 0x200, 0x200);
    assert_eq!(rig.cpu.eflags & eflags::IF, 0);
    assert_eq!(rig.cpu.segs[seg::SS].selector, 0x10);
    rig.call(Sys::Sysret, 0, 0, 0, 3).unwrap();
    assert_eq!((rig.cpu.cpl, rig.cpu.core.pc), (3, 0xa002));
    assert_eq!(rig.cpu.segs[seg::CS].selector, 0x23);
    assert_eq!(rig.cpu.segs[seg::SS].selector, 0x1b);
    assert_eq!(rig.cpu.eflags & eflags::IF, eflags::IF);
    rig.cpu.msrs.efer &= !1;
    assert_eq!(rig.call(Sys::Syscall, 0, 0, 0, 0), Err((vector::UD, None)));
}

#[test]
fn a_far_jump_with_the_trap_flag_traps_at_its_target() {
    let mut rig = Rig::new().protected();
    rig.cpu.eflags |= eflags::TF;
    rig.cpu.update_key();
    assert_eq!(jmp(&mut rig, sel::CODE0, 0x6000), Err((vector::DB, None)));
    assert_eq!((rig.cpu.core.pc, rig.cpu.pending.dr6), (0x6000, 1 << 14));
}

#[test]
fn intels_processors_have_syscall_in_64_bit_code_only() {
    for (model, exists) in [("qemu64", true), ("kvm64", false)] {
        let mut rig = Rig::of(model).long();
        rig.wrmsr(0xc000_0081, 0x0010_0008_0000_0000).unwrap();
        rig.wrmsr(0xc000_0083, 0x6000).unwrap();
        user64(&mut rig);
        let told = |rig: &mut Rig| {
            rig.cpu.core.slots[reg::RAX] = 0x8000_0001;
            rig.call(Sys::Cpuid, 0, 0, 0, 0).unwrap();
            rig.cpu.core.slots[reg::RDX] >> 11 & 1 != 0
        };
        assert!(told(&mut rig), "{model}");
        // To compatibility mode of the same level.
        rig.put(at::STACK3 - 16, 8, at::USER);
        rig.put(at::STACK3 - 8, 8, u64::from(sel::CODE32 | 3));
        rig.set_rsp(at::STACK3 - 16);
        rig.call(Sys::FarRet, 0, 0, 0, 3).unwrap();
        assert!(!rig.cpu.code64() && rig.cpu.cpl == 3);
        assert_eq!(told(&mut rig), exists, "{model}");
        let expected = if exists { Ok(0) } else { Err((vector::UD, None)) };
        assert_eq!(rig.call(Sys::Syscall, 0xa002, 0, 0, 0), expected, "{model}");
        assert_eq!((rig.cpu.cpl, rig.cpu.core.pc), if exists { (0, 0x6000) } else { (3, at::USER) });
    }
}

#[test]
fn a_far_return_that_cannot_mark_its_segment_leaves_the_stack_alone() {
    for (cpl, access) in [(0, 0x9a), (3, 0xfa)] {
        let mut rig = Rig::new().protected();
        rig.gdt(sel::CODE32, descriptor(0, 0xfffff, access, 0xc));
        let sp = 0x7000 - 16;
        let frame = [at::USER, u64::from(sel::CODE32 | cpl), at::STACK3, u64::from(sel::DATA3)];
        for (i, value) in frame.iter().enumerate() {
            rig.put(sp + 4 * i as u64, 4, *value);
        }
        rig.set_rsp(sp);
        // Everything is mapped onto itself; the table cannot be written.
        rig.put(0x10_0000, 4, 0x10_1007);
        for page in 0..1024u64 {
            let writable = page != at::GDT >> 12;
            rig.put(0x10_1000 + 4 * page, 4, page << 12 | 5 | u64::from(writable) << 1);
        }
        rig.call(Sys::WriteCr, 0x10_0000, 0, 0, 3).unwrap();
        rig.call(Sys::WriteCr, 0x8001_0011, 0, 0, 0).unwrap();
        assert_eq!(rig.call(Sys::FarRet, 0, 0, 0, 2), Err((vector::PF, Some(3))), "to level {cpl}");
        assert_eq!((rig.rsp(), rig.cpu.cpl, rig.cpu.segs[seg::SS].selector), (sp, 0, sel::DATA0));
    }
}

#[test]
fn a_return_within_a_level_takes_no_segment_away() {
    for id in [Sys::FarRet, Sys::Iret] {
        let mut rig = Rig::new().protected().user();
        // As SYSEXIT leaves it when the system has not loaded the program's segments.
        rig.cpu.segs[seg::DS] = Segment { selector: sel::DATA0, ..rig.cpu.segs[seg::DS] };
        rig.cpu.segs[seg::DS].attr &= !(3 << attr::DPL_SHIFT);
        for (i, value) in [at::USER, u64::from(sel::CODE3), 2].iter().enumerate() {
            rig.put(at::STACK3 - 12 + 4 * i as u64, 4, *value);
        }
        rig.set_rsp(at::STACK3 - 12);
        rig.call(id, 0, 0, 0, 2).unwrap();
        assert_eq!((rig.cpu.segs[seg::DS].selector, rig.cpu.segs[seg::DS].usable()), (sel::DATA0, true));
    }
}

#[test]
fn a_return_to_compatibility_mode_takes_half_of_a_wide_offset_on_intels_processors() {
    for (model, fits) in [("kvm64", true), ("qemu64", false)] {
        for id in [Sys::FarRet, Sys::Iret] {
            let mut rig = Rig::of(model).long();
            user64(&mut rig);
            let frame = [0xdead_0001_0000_0000 | at::USER, u64::from(sel::CODE32 | 3)];
            // RETF pops the first two.
            let rest = [2, at::STACK3, u64::from(sel::DATA3)];
            for (i, value) in frame.iter().chain(&rest).enumerate() {
                rig.put(at::STACK3 - 64 + 8 * i as u64, 8, *value);
            }
            rig.set_rsp(at::STACK3 - 64);
            let result = rig.call(id, 0, 0, 0, 3);
            assert_eq!(result, if fits { Ok(0) } else { Err((GP, Some(0))) }, "{model}");
            assert_eq!((rig.cpu.code64(), rig.cpu.core.pc), (!fits, at::USER), "{model}");
        }
    }
}
