//! System-management mode.

use super::*;
use crate::helpers::vector;

fn smi(rig: &mut Rig) {
    rig.board().requests.smi = true;
    assert_eq!(rig.attend(), Next::Run);
}

#[test]
fn smi_saves_and_rsm_restores_a_protected_mode_cpu() {
    let mut rig = Rig::of("qemu32").protected().user();
    rig.cpu.core.slots[reg::RBX] = 0x1234_5678;
    let before = (rig.cpu.segs, rig.cpu.gdtr, rig.cpu.idtr, rig.cpu.tr, rig.cpu.cr0, rig.cpu.key);
    smi(&mut rig);
    assert_eq!((rig.cpu.core.pc, rig.cpu.segs[seg::CS].base, rig.cpu.smm), (0x8000, 0x30000, 1));
    assert_eq!(rig.cpu.cr0 & 0x8000_0001, 0);
    assert_eq!(rig.get(0x3_fefc, 4), 0x2_0000);
    assert_eq!(rig.get(0x3_fef8, 4), 0x3_0000);
    assert_eq!(rig.get(0x3_fff0, 4), at::USER);
    assert_eq!(rig.get(0x3_ffdc, 4), 0x1234_5678, "EBX");
    // The handler relocates the base.
    rig.put(0x3_fef8, 4, 0xa_0000);
    rig.cpu.core.slots[reg::RBX] = 0;
    rig.call(Sys::Rsm, 0, 0, 0, 0).unwrap();
    let after = (rig.cpu.segs, rig.cpu.gdtr, rig.cpu.idtr, rig.cpu.tr, rig.cpu.cr0, rig.cpu.key);
    assert_eq!(before, after);
    assert_eq!((rig.cpu.core.pc, rig.cpu.cpl, rig.cpu.smbase, rig.cpu.smm), (at::USER, 3, 0xa_0000, 0));
    assert_eq!(rig.cpu.core.slots[reg::RBX], 0x1234_5678);
    assert_eq!(rig.board().smm, [true, false]);
    assert_eq!(rig.call(Sys::Rsm, 0, 0, 0, 0), Err((vector::UD, None)));
}

#[test]
fn smi_saves_and_rsm_restores_a_long_mode_cpu() {
    let mut rig = Rig::new().long();
    for i in 0..16 {
        rig.cpu.core.slots[i] = 0x1111_0000_0000_0000 + i as u64;
    }
    let before = (rig.cpu.segs, rig.cpu.core.slots, rig.cpu.msrs.efer, rig.cpu.cr3, rig.cpu.cr4, rig.cpu.key);
    smi(&mut rig);
    assert_eq!(rig.get(0x3_fefc, 4), 0x2_0064);
    assert_eq!(rig.get(0x3_ff00, 4), 0x3_0000);
    assert_eq!(rig.get(0x3_ff78, 8), at::USER);
    assert_eq!(rig.get(0x3_ff80, 8), 0x1111_0000_0000_000f, "R15");
    assert_eq!(rig.cpu.msrs.efer, 0);
    rig.cpu.core.slots = [0; 32];
    rig.call(Sys::Rsm, 0, 0, 0, 0).unwrap();
    let after = (rig.cpu.segs, rig.cpu.core.slots, rig.cpu.msrs.efer, rig.cpu.cr3, rig.cpu.cr4, rig.cpu.key);
    assert_eq!(before, after);
}

#[test]
fn a_second_smi_waits_for_rsm() {
    let mut rig = Rig::new();
    smi(&mut rig);
    rig.cpu.core.pc = 0x8010;
    smi(&mut rig);
    assert_eq!(rig.cpu.core.pc, 0x8010);
    rig.call(Sys::Rsm, 0, 0, 0, 0).unwrap();
    assert!(rig.attention());
    rig.attend();
    assert_eq!(rig.cpu.core.pc, 0x8000);
}

#[test]
fn init_waits_for_rsm() {
    let mut rig = Rig::new();
    smi(&mut rig);
    rig.cpu.core.pc = 0x8010;
    rig.board().requests.init = true;
    assert_eq!(rig.attend(), Next::Run);
    assert_eq!((rig.cpu.core.pc, rig.cpu.smm), (0x8010, 1));
    rig.call(Sys::Rsm, 0, 0, 0, 0).unwrap();
    assert!(rig.attention());
    rig.attend();
    assert_eq!((rig.cpu.core.pc, rig.cpu.segs[seg::CS].selector, rig.cpu.smm), (0xfff0, 0xf000, 0));
    // Once.
    rig.cpu.core.pc = 0x10;
    rig.attend();
    assert_eq!(rig.cpu.core.pc, 0x10);
}

#[test]
fn init_keeps_the_base_of_management_memory() {
    let mut rig = Rig::new();
    smi(&mut rig);
    let base = if rig.get(0x3_fefc, 4) == 0x2_0064 { 0x3_ff00 } else { 0x3_fef8 };
    rig.put(base, 4, 0xa_0000);
    rig.call(Sys::Rsm, 0, 0, 0, 0).unwrap();
    rig.board().requests.init = true;
    rig.attend();
    assert_eq!((rig.cpu.core.pc, rig.cpu.smbase), (0xfff0, 0xa_0000));
    rig.cpu.reset();
    assert_eq!(rig.cpu.smbase, 0x3_0000);
}

#[test]
fn rsm_shuts_down_on_an_image_that_contradicts_itself() {
    // Offsets of the 64-bit area: CR0, CR4, EFER.
    for (offset, value) in [
        (0xff58, 0x8000_0010),
        (0xff58, 0x2000_0011),
        (0xff48, 0x8000_0000),
        (0xff48, 0),
        (0xff58, 0x1_8000_0011),
    ] {
        let mut rig = Rig::new().long();
        smi(&mut rig);
        rig.put(0x3_0000 + offset, 8, value);
        rig.call(Sys::Rsm, 0, 0, 0, 0).unwrap();
        // The upper half of CR0 is not loaded.
        assert_eq!(rig.board().shut_down, value >> 32 == 0, "{offset:#x} {value:#x}");
        let key = rig.cpu.key;
        rig.cpu.update_key();
        assert_eq!(rig.cpu.key, key);
    }
}
