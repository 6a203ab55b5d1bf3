//! Control and debug registers, MSRs, ports, flags, small instructions.

use super::*;
use crate::helpers::vector;

const GP: u8 = vector::GP;

#[test]
fn cr0_refuses_impossible_combinations() {
    let mut rig = Rig::new();
    assert_eq!(rig.call(Sys::WriteCr, 0x8000_0010, 0, 0, 0), Err((GP, Some(0))), "paging without protection");
    assert_eq!(rig.call(Sys::WriteCr, 0x2000_0010, 0, 0, 0), Err((GP, Some(0))), "NW without CD");
    rig.call(Sys::WriteCr, 0, 0, 0, 0).unwrap();
    assert_eq!(rig.call(Sys::ReadCr, 0, 0, 0, 0), Ok(0x10), "ET is fixed");
}

#[test]
fn long_mode_activation_needs_pae_and_blocks_clearing_it() {
    let mut rig = Rig::new().protected();
    rig.wrmsr(0xc000_0080, 0x100).unwrap();
    assert_eq!(rig.call(Sys::WriteCr, 0x8000_0011, 0, 0, 0), Err((GP, Some(0))));
    let mut rig = Rig::new().long();
    assert_eq!(rig.rdmsr(0xc000_0080), Ok(0xd01));
    assert_eq!(rig.call(Sys::WriteCr, 0, 0, 0, 4), Err((GP, Some(0))));
    assert_eq!(rig.call(Sys::WriteCr, 0x11, 0, 0, 0), Err((GP, Some(0))), "64-bit code cannot stop paging");
    assert_eq!(rig.wrmsr(0xc000_0080, 0), Err((GP, Some(0))), "LME is fixed while paging");
    assert_eq!(rig.call(Sys::WriteCr, 1 << 40, 0, 0, 3), Err((GP, Some(0))));
}

#[test]
fn intels_processors_do_not_activate_long_mode_with_a_16_bit_task_state() {
    let activate = |model: &str, task: Option<u64>| {
        let mut rig = Rig::of(model).protected();
        match task {
            None => rig.cpu.tr = Rig::of(model).cpu.tr,
            Some(access) => {
                rig.gdt(sel::TSS2, descriptor(at::TSS2, 0x67, access, 0));
                rig.call(Sys::Ltr, u64::from(sel::TSS2), 0, 0, 0).unwrap();
            }
        }
        rig.call(Sys::WriteCr, 0x20, 0, 0, 4).unwrap();
        rig.wrmsr(0xc000_0080, 0x100).unwrap();
        let result = rig.call(Sys::WriteCr, 0x8000_0011, 0, 0, 0);
        assert_eq!(rig.cpu.long_mode(), result.is_ok());
        result
    };
    for model in ["core2duo", "qemu64"] {
        assert_eq!((activate(model, None), activate(model, Some(0x89))), (Ok(0), Ok(0)), "{model}");
    }
    assert_eq!(activate("core2duo", Some(0x81)), Err((GP, Some(0))));
    assert_eq!(activate("qemu64", Some(0x81)), Ok(0));
}

#[test]
fn cr4_knows_only_what_the_model_has() {
    let mut rig = Rig::of("pentium");
    assert_eq!(rig.call(Sys::WriteCr, 0x20, 0, 0, 4), Err((GP, Some(0))));
    rig.call(Sys::WriteCr, 0x10, 0, 0, 4).unwrap();
    let mut rig = Rig::new();
    assert_eq!(rig.call(Sys::WriteCr, 1 << 20, 0, 0, 4), Err((GP, Some(0))), "SMEP");
    rig.call(Sys::WriteCr, 0x600, 0, 0, 4).unwrap();
    assert_ne!(rig.cpu.key & key::OSFXSR, 0);
}

#[test]
fn lmsw_sets_protection_but_does_not_clear_it() {
    let mut rig = Rig::new();
    rig.call(Sys::Lmsw, 0xfff1, 0, 0, 0).unwrap();
    assert_eq!(rig.cpu.cr0 & 0xf, 1);
    rig.call(Sys::Lmsw, 8, 0, 0, 0).unwrap();
    assert_eq!(rig.call(Sys::Smsw, 0, 0, 0, 0).unwrap() & 0xf, 9);
    assert_ne!(rig.cpu.key & key::TS, 0);
    rig.call(Sys::Clts, 0, 0, 0, 0).unwrap();
    assert_eq!(rig.cpu.key & key::TS, 0);
}

#[test]
fn debug_registers_alias_and_detect_access() {
    let mut rig = Rig::new().protected();
    rig.call(Sys::WriteDr, 0xffff_ffff, 0, 0, 4).unwrap();
    assert_eq!(rig.call(Sys::ReadDr, 0, 0, 0, 6), Ok(0xffff_efff));
    rig.call(Sys::WriteCr, 8, 0, 0, 4).unwrap();
    assert_eq!(rig.call(Sys::ReadDr, 0, 0, 0, 4), Err((vector::UD, None)));
    rig.call(Sys::WriteDr, 0xffff_dfff, 0, 0, 7).unwrap();
    assert_eq!(rig.call(Sys::ReadDr, 0, 0, 0, 7), Ok(0xffff_07ff));
    rig.call(Sys::WriteDr, 0x2000, 0, 0, 7).unwrap();
    assert_eq!(rig.call(Sys::ReadDr, 0, 0, 0, 0), Err((vector::DB, None)));
    assert_eq!(rig.cpu.pending.dr6, 1 << 13);
}

#[test]
fn instruction_breakpoint_hits_unless_resuming() {
    let mut rig = Rig::new().protected();
    rig.call(Sys::WriteDr, 0xa004, 0, 0, 1).unwrap();
    rig.call(Sys::WriteDr, 0x8, 0, 0, 7).unwrap();
    assert_ne!(rig.cpu.key & key::BREAKPOINTS, 0);
    assert_eq!(rig.call(Sys::Breakpoint, 0xa000, 0, 0, 0), Ok(0));
    assert_eq!(rig.call(Sys::Breakpoint, 0xa004, 0, 0, 0), Err((vector::DB, None)));
    assert_eq!(rig.cpu.pending.dr6, 2);
    rig.cpu.eflags |= eflags::RF;
    assert_eq!(rig.call(Sys::Breakpoint, 0xa004, 0, 0, 0), Ok(0));
    assert_eq!(rig.cpu.eflags & eflags::RF, 0);
}

#[test]
fn privileged_instructions_fault_below_level_0() {
    let mut rig = Rig::new().protected().user();
    for (id, imm) in [
        (Sys::ReadCr, 0),
        (Sys::WriteCr, 3),
        (Sys::ReadDr, 7),
        (Sys::Clts, 0),
        (Sys::Lmsw, 0),
        (Sys::LoadTable, 0),
        (Sys::Lldt, 0),
        (Sys::Ltr, 0),
        (Sys::Invlpg, 0),
        (Sys::Wbinvd, 0),
        (Sys::Rdmsr, 0),
        (Sys::Wrmsr, 0),
        (Sys::Hlt, 0),
        (Sys::Swapgs, 0),
        (Sys::Cli, 0),
        (Sys::Sti, 0),
    ] {
        assert_eq!(rig.call(id, 0, 0, 0, imm), Err((GP, Some(0))), "{id:?}");
    }
    rig.cpu.cr4 |= cr4::TSD;
    assert_eq!(rig.call(Sys::Rdtsc, 0, 0, 0, 0), Err((GP, Some(0))));
}

/// Whether `code` is undefined at level `cpl` of `model`.
fn is_undefined(model: &str, cpl: u32, code: &[u8]) -> bool {
    let mut rig = Rig::of(model).protected();
    if cpl == 3 {
        rig = rig.user();
    }
    rig.idt(6, gate(sel::CODE0, at::HANDLER, 0x8e, 0));
    rig.code(at::USER, code);
    rig.cpu.core.pc = at::USER;
    rig.cpu.core.slots[reg::RCX] = 0;
    rig.step(1);
    rig.cpu.core.pc == at::HANDLER
}

#[test]
fn monitor_and_mwait_do_not_exist_above_level_0() {
    for code in [&[0x0f, 0x01, 0xc8], &[0x0f, 0x01, 0xc9]] {
        assert!(is_undefined("core2duo", 3, code));
        assert!(!is_undefined("core2duo", 0, code));
    }
}

#[test]
fn older_processors_have_no_newer_instructions() {
    // SFENCE, LFENCE, MFENCE, NOP with an operand, RDPMC.
    for code in
        [&[0x0f, 0xae, 0xf8][..], &[0x0f, 0xae, 0xe8], &[0x0f, 0xae, 0xf0], &[0x0f, 0x1f, 0], &[0x0f, 0x33]]
    {
        assert!(is_undefined("486", 0, code), "{code:x?}");
        assert!(!is_undefined("max", 0, code), "{code:x?}");
    }
    // Of which the Pentium II has the last two.
    assert!(!is_undefined("pentium2", 0, &[0x0f, 0x1f, 0]));
    assert!(!is_undefined("pentium2", 0, &[0x0f, 0x33]));
    assert!(is_undefined("pentium2", 0, &[0x0f, 0xae, 0xf8]));
    assert!(!is_undefined("486", 0, &[0x90]));
}

#[test]
fn popf_changes_what_the_level_allows() {
    let mut rig = Rig::new().protected();
    rig.call(Sys::Popf, 0x3_7fd7 | 1 << 21, 0, 0, 2).unwrap();
    assert_eq!(rig.cpu.flags(), 0x7fd7 | 1 << 21, "VM and RF are not popped");
    rig.call(Sys::Popf, 0x202, 0, 0, 1).unwrap();
    assert_eq!(rig.cpu.flags(), 0x202 | 1 << 21, "16 bits leave the upper half");
    let mut rig = rig.user();
    rig.call(Sys::Popf, 0x3000, 0, 0, 2).unwrap();
    assert_eq!(rig.cpu.flags(), 0x202);
    rig.cpu.eflags |= eflags::IOPL;
    rig.call(Sys::Popf, 0, 0, 0, 2).unwrap();
    assert_eq!(rig.cpu.flags(), 0x3002);
}

#[test]
fn ports_follow_iopl_and_the_bitmap() {
    let mut rig = Rig::new().protected().user();
    rig.put(at::TSS + 0x66, 2, 0x68);
    rig.cpu.tr.limit = 0x68 + 0x80 / 8 + 1;
    for i in 0..16 {
        rig.put(at::TSS + 0x68 + i, 1, 0xff);
    }
    rig.put(at::TSS + 0x68 + 0x60 / 8, 1, 0xfe);
    assert_eq!(rig.call(Sys::In, 0x60, 0, 0, 0), Ok(0x60));
    assert_eq!(rig.call(Sys::In, 0x60, 0, 0, 1), Err((GP, Some(0))), "0x61 is closed");
    assert_eq!(rig.call(Sys::In, 0x3f8, 0, 0, 0), Err((GP, Some(0))), "beyond the map");
    rig.cpu.eflags |= eflags::IOPL;
    assert_eq!(rig.call(Sys::In, 0x3f8, 0, 0, 2), Ok(0x1234_03f8));
    rig.call(Sys::Out, 0x1_0080, 0xabcd, 0, 0).unwrap();
    assert_eq!(rig.board().outs, [(0x80, 1, 0xcd)]);
}

#[test]
fn model_specific_registers_store_and_unknown_ones_fault() {
    let mut rig = Rig::new().long();
    for index in [0x174, 0xc000_0081, 0xc000_0102, 0x175, 0x403] {
        rig.wrmsr(index, 0x1234).unwrap();
        assert_eq!(rig.rdmsr(index), Ok(0x1234), "{index:#x}");
    }
    assert_eq!(rig.rdmsr(0x1234_5678), Err((GP, Some(0))));
    assert_eq!(rig.wrmsr(0xc000_0082, 1 << 63), Err((GP, Some(0))), "non-canonical");
    assert_eq!(rig.wrmsr(0x277, 2), Err((GP, Some(0))), "reserved memory type");
    rig.wrmsr(0xc000_0100, 0x7000).unwrap();
    assert_eq!(rig.cpu.segs[seg::FS].base, 0x7000);
    rig.wrmsr(0xc000_0101, 0x1111).unwrap();
    rig.call(Sys::Swapgs, 0, 0, 0, 0).unwrap();
    assert_eq!((rig.cpu.segs[seg::GS].base, rig.cpu.msrs.kernel_gs_base), (0x1234, 0x1111));
    rig.wrmsr(0x1b, 0xfee0_0800).unwrap();
    assert_eq!(rig.board().apic_base, 0xfee0_0800);
    for reserved in [1, 0x80, 0x200, 0x400, 1 << rig.cpu.phys_bits()] {
        assert_eq!(rig.wrmsr(0x1b, 0xfed0_0800 | reserved), Err((GP, Some(0))), "{reserved:#x}");
    }
    assert_eq!(rig.board().apic_base, 0xfee0_0800, "refused");
}

#[test]
fn registers_of_one_maker_or_of_later_processors_are_unknown_to_the_others() {
    for (model, intel, has_apic_base) in [
        ("qemu64", false, true),
        ("athlon", false, true),
        ("core2duo", true, true),
        ("pentium3", true, true),
        ("pentium", true, false),
        ("pentium,+apic", true, true),
    ] {
        let mut rig = Rig::of(model);
        for (index, exists) in [(0x198, intel), (0x199, intel), (0x1a0, intel), (0x1b, has_apic_base)] {
            let read = rig.rdmsr(index);
            assert_eq!(read.is_ok(), exists, "{model} {index:#x}");
            if index != 0x198 {
                let written = rig.wrmsr(index, read.unwrap_or(0));
                assert_eq!(written, if exists { Ok(0) } else { Err((GP, Some(0))) }, "{model} {index:#x}");
            }
        }
    }
}

#[test]
fn memory_type_ranges_take_known_types_and_addresses_that_exist() {
    let mut rig = Rig::new().protected();
    let wide = rig.cpu.phys_bits();
    let (top, mask) = ((1u64 << wide) - (1 << 20), ((1u64 << wide) - (1 << 20)) | 1 << 11);
    for (index, value) in [
        (0x200, top | 6),
        (0x20e, 0x1005),
        (0x201, mask),
        (0x20f, 0),
        (0x250, 0x0605_0401_0006_0504),
        (0x259, 0x0606_0606_0606_0606),
        (0x26f, 0),
        (0x2ff, 0xc06),
    ] {
        rig.wrmsr(index, value).unwrap();
        assert_eq!(rig.rdmsr(index), Ok(value), "{index:#x}");
    }
    for (index, value) in [
        (0x200, 2),
        (0x200, 7),
        (0x202, 0x106),
        (0x20e, 1 << wide),
        (0x201, 1),
        (0x203, 0x400),
        (0x20f, 1 << wide | 1 << 11),
        (0x250, 0x0600_0000_0000_0003),
        (0x259, 0x0700_0000_0000_0000),
        (0x26f, 0xff),
        (0x2ff, 0xc02),
        (0x2ff, 0x106),
        (0x2ff, 0x1006),
    ] {
        let before = rig.rdmsr(index);
        assert_eq!(rig.wrmsr(index, value), Err((GP, Some(0))), "{index:#x} {value:#x}");
        assert_eq!(rig.rdmsr(index), before, "{index:#x}");
    }
}

#[test]
fn a_machine_check_status_can_only_be_cleared() {
    let mut rig = Rig::new().protected();
    for bank in 0..10 {
        assert_eq!(rig.wrmsr(0x401 + 4 * bank, 1), Err((GP, Some(0))), "bank {bank}");
        rig.wrmsr(0x401 + 4 * bank, 0).unwrap();
    }
}

#[test]
fn the_time_stamp_counter_can_be_set() {
    let mut rig = Rig::new();
    rig.wrmsr(0x10, 50).unwrap();
    rig.board().time += 7;
    rig.call(Sys::Rdtsc, 0, 0, 0, 0).unwrap();
    assert_eq!(rig.cpu.core.slots[reg::RAX], 57);
}

#[test]
fn compare_exchange_of_pairs() {
    let mut rig = Rig::new();
    rig.put(0x5000, 8, 0x1_0000_0002);
    rig.cpu.core.slots[reg::RAX] = 2;
    rig.cpu.core.slots[reg::RDX] = 1;
    rig.cpu.core.slots[reg::RBX] = 4;
    rig.cpu.core.slots[reg::RCX] = 3;
    rig.call(Sys::CmpxchgPair, 0x5000, 0, 0, 0).unwrap();
    assert_eq!(rig.get(0x5000, 8), 0x3_0000_0004);
    assert_ne!(rig.cpu.flags() & eflags::ZF, 0);
    rig.call(Sys::CmpxchgPair, 0x5000, 0, 0, 0).unwrap();
    assert_eq!((rig.cpu.core.slots[reg::RAX], rig.cpu.core.slots[reg::RDX]), (4, 3));
    assert_eq!(rig.cpu.flags() & eflags::ZF, 0);
    assert_eq!(rig.call(Sys::CmpxchgPair, 0x5008, 0, 0, 1), Err((GP, Some(0))), "16 bytes must be aligned");
    rig.cpu.core.slots[reg::RBX] = 7;
    rig.put(0x5ffd, 8, 0x3_0000_0004);
    rig.call(Sys::CmpxchgPair, 0x5ffd, 0, 0, 0).unwrap();
    assert_eq!(rig.get(0x5ffd, 8), 0x3_0000_0007, "across a page end");
    rig.cpu.core.slots[reg::RBX] = 4;
    rig.put(0x6000, 8, 4);
    rig.put(0x6008, 8, 3);
    rig.call(Sys::CmpxchgPair, 0x6000, 0, 0, 1).unwrap();
    assert_eq!((rig.get(0x6000, 8), rig.get(0x6008, 8)), (4, 3));
}

#[test]
fn enter_builds_nested_frames() {
    let mut rig = Rig::new().protected();
    rig.cpu.core.slots[reg::RBP] = 0x6800;
    rig.put(0x67fc, 4, 0xaaaa);
    rig.call(Sys::Enter, 0, 0, 0, 2 | 2 << 8 | 0x20 << 16).unwrap();
    assert_eq!(rig.cpu.core.slots[reg::RBP], 0x6ffc);
    assert_eq!(rig.rsp(), 0x7000 - 12 - 0x20);
    assert_eq!([rig.get(0x6ffc, 4), rig.get(0x6ff8, 4), rig.get(0x6ff4, 4)], [0x6800, 0xaaaa, 0x6ffc]);
}

#[test]
fn bound_checks_signed_limits() {
    let mut rig = Rig::new();
    rig.put(0x5000, 2, (-2i64) as u64);
    rig.put(0x5002, 2, 5);
    assert_eq!(rig.call(Sys::Bound, 0xfffe, 0x5000, 0, 1), Ok(0));
    assert_eq!(rig.call(Sys::Bound, 5, 0x5000, 0, 1), Ok(0));
    assert_eq!(rig.call(Sys::Bound, 6, 0x5000, 0, 1), Err((vector::BR, None)));
    assert_eq!(rig.call(Sys::Bound, 0xfffd, 0x5000, 0, 1), Err((vector::BR, None)));
}

#[test]
fn whatever_ends_a_numeric_error_ends_its_signal() {
    // FNSAVE; FRSTOR and FXRSTOR of a state without one; FNCLEX.
    let ends: [&[u8]; 4] = [
        &[0xdd, 0x35, 0, 0x50, 0, 0],
        &[0xdd, 0x25, 0, 0x58, 0, 0],
        &[0x0f, 0xae, 0x0d, 0, 0x5c, 0, 0],
        &[0xdb, 0xe2],
    ];
    for end in ends {
        let mut rig = Rig::new().protected();
        rig.call(Sys::WriteCr, 0x600, 0, 0, 4).unwrap();
        rig.put(0x5000, 2, 0x37b);
        // fninit; fnsave [5800]; fxsave [5c00]; fldcw [5000]; fld1; fldz; fdivp; fwait
        let mut code = vec![0xdb, 0xe3, 0xdd, 0x35, 0, 0x58, 0, 0, 0x0f, 0xae, 0x05, 0, 0x5c, 0, 0];
        code.extend([0xd9, 0x2d, 0, 0x50, 0, 0, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0x9b]);
        code.extend(end);
        code.push(0xf4);
        rig.code(at::USER, &code);
        rig.cpu.core.pc = at::USER;
        assert_eq!(rig.step(20), Next::Halt);
        let told = rig.board().ferr.clone();
        assert_eq!((told.contains(&true), told.last()), (true, Some(&false)), "{end:x?}: {told:?}");
    }
}
