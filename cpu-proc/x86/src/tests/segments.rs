//! Segment loads and checks.

use super::*;
use crate::helpers::vector;

const GP: u8 = vector::GP;

fn load(rig: &mut Rig, index: usize, selector: u16) -> Result<u64, Raised> {
    rig.call(Sys::LoadSeg, u64::from(selector), 0, 0, index as u64)
}

#[test]
fn real_mode_loads_keep_limit_and_attributes() {
    let mut rig = Rig::new();
    rig.cpu.segs[seg::DS].limit = u32::MAX;
    load(&mut rig, seg::DS, 0x1234).unwrap();
    assert_eq!(rig.cpu.segs[seg::DS].base, 0x12340);
    assert_eq!(rig.cpu.segs[seg::DS].limit, u32::MAX);
}

#[test]
fn data_segment_loads_check_type_privilege_presence_and_table_limit() {
    let mut rig = Rig::new().protected().user();
    assert_eq!(load(&mut rig, seg::DS, sel::DATA0 | 3), Err((GP, Some(0x10))));
    assert_eq!(load(&mut rig, seg::DS, sel::EXECUTE_ONLY | 3), Err((GP, Some(0x90))));
    assert_eq!(load(&mut rig, seg::DS, sel::TSS | 3), Err((GP, Some(0x28))));
    assert_eq!(load(&mut rig, seg::DS, sel::ABSENT | 3), Err((vector::NP, Some(0x70))));
    assert_eq!(load(&mut rig, seg::DS, 0x1003), Err((GP, Some(0x1000))));
    assert_eq!(load(&mut rig, seg::DS, 0x7), Err((GP, Some(4))), "no LDT");
    load(&mut rig, seg::DS, sel::READ_ONLY | 3).unwrap();
    load(&mut rig, seg::ES, sel::CONFORMING | 3).expect("conforming code is readable from any level");
    load(&mut rig, seg::ES, 3).expect("null is fine");
    assert!(!rig.cpu.segs[seg::ES].usable());
}

#[test]
fn loading_sets_the_accessed_bit_in_the_table() {
    let mut rig = Rig::new().protected().user();
    assert_eq!(rig.get(at::GDT + 0x68 + 5, 1), 0xf0);
    load(&mut rig, seg::DS, sel::READ_ONLY | 3).unwrap();
    assert_eq!(rig.get(at::GDT + 0x68 + 5, 1), 0xf1);
}

#[test]
fn stack_segment_loads_are_stricter() {
    let mut rig = Rig::new().protected();
    assert_eq!(load(&mut rig, seg::SS, 0), Err((GP, Some(0))));
    assert_eq!(load(&mut rig, seg::SS, sel::DATA3), Err((GP, Some(0x20))));
    assert_eq!(load(&mut rig, seg::SS, sel::READ_ONLY), Err((GP, Some(0x68))));
    rig.gdt(sel::ABSENT, descriptor(0, 0xfffff, 0x13, 0xc));
    assert_eq!(load(&mut rig, seg::SS, sel::ABSENT), Err((vector::SS, Some(0x70))));
    load(&mut rig, seg::SS, sel::DATA0).unwrap();
    assert_eq!(rig.cpu.key & key::INHIBIT, key::INHIBIT);
    rig.call(Sys::ClearInhibit, 0, 0, 0, 0).unwrap();
    assert_eq!(rig.cpu.key & key::INHIBIT, 0);
}

fn linear(rig: &mut Rig, index: usize, offset: u64, size_log: u64, write: bool) -> Result<u64, Raised> {
    rig.call(Sys::SegLinear, offset, 0, 0, index as u64 | u64::from(write) << 3 | size_log << 4)
}

#[test]
fn limits_and_rights_are_checked_on_access() {
    let mut rig = Rig::new().protected().user();
    rig.gdt(sel::DATA3, descriptor(0x10_0000, 0xfff, 0xf3, 0x4));
    load(&mut rig, seg::DS, sel::DATA3).unwrap();
    assert_eq!(linear(&mut rig, seg::DS, 0xffc, 2, true), Ok(0x10_0ffc));
    assert_eq!(linear(&mut rig, seg::DS, 0xffd, 2, true), Err((GP, Some(0))));
    assert_eq!(linear(&mut rig, seg::DS, 0xffff_fffe, 2, false), Err((GP, Some(0))));
    load(&mut rig, seg::ES, sel::READ_ONLY | 3).unwrap();
    assert_eq!(linear(&mut rig, seg::ES, 0, 0, false), Ok(0));
    assert_eq!(linear(&mut rig, seg::ES, 0, 0, true), Err((GP, Some(0))));
    load(&mut rig, seg::FS, 0).unwrap();
    assert_eq!(linear(&mut rig, seg::FS, 0, 0, false), Err((GP, Some(0))));
    assert_eq!(linear(&mut rig, seg::CS, 0, 0, true), Err((GP, Some(0))));
    load(&mut rig, seg::SS, sel::EXPAND_DOWN | 3).unwrap();
    assert_eq!(linear(&mut rig, seg::SS, 0xfff, 0, false), Err((vector::SS, Some(0))));
    assert_eq!(linear(&mut rig, seg::SS, 0x1000, 2, true), Ok(0x1000));
    assert_eq!(linear(&mut rig, seg::SS, 0xffff_ffff, 0, true), Ok(0xffff_ffff));
}

#[test]
fn real_mode_offsets_beyond_64k_fault() {
    let mut rig = Rig::new();
    load(&mut rig, seg::DS, 0xffff).unwrap();
    assert_eq!(linear(&mut rig, seg::DS, 0xffff, 0, true), Ok(0x10_ffef));
    assert_eq!(linear(&mut rig, seg::DS, 0xffff, 1, true), Err((GP, Some(0))));
}

fn zf(rig: &Rig) -> bool {
    rig.cpu.flags() & eflags::ZF != 0
}

#[test]
fn selector_tests_report_in_the_zero_flag() {
    let mut rig = Rig::new().protected().user();
    assert_eq!(rig.call(Sys::LarLsl, u64::from(sel::CODE3), 9, 0, 0), Ok(0x00c0_fb00));
    assert!(zf(&rig));
    assert_eq!(rig.call(Sys::LarLsl, u64::from(sel::CODE0), 9, 0, 0), Ok(9));
    assert!(!zf(&rig));
    assert_eq!(rig.call(Sys::LarLsl, u64::from(sel::DATA3), 9, 0, 1), Ok(0xffff_ffff));
    assert!(zf(&rig));
    rig.call(Sys::Verify, u64::from(sel::READ_ONLY | 3), 0, 0, 0).unwrap();
    assert!(zf(&rig));
    rig.call(Sys::Verify, u64::from(sel::READ_ONLY | 3), 0, 0, 1).unwrap();
    assert!(!zf(&rig));
    assert_eq!(rig.call(Sys::Arpl, 0x10, 3, 0, 0), Ok(0x13));
    assert!(zf(&rig));
    assert_eq!(rig.call(Sys::Arpl, 0x13, 1, 0, 0), Ok(0x13));
    assert!(!zf(&rig));
}

#[test]
fn arpl_asks_to_write_only_what_it_changes() {
    let mut rig = Rig::new().protected();
    load(&mut rig, seg::DS, sel::READ_ONLY).unwrap();
    rig.put(0x5000, 2, 0x13);
    let (unchanged, changed) = (2, 3);
    rig.call(Sys::ArplMemory, 0x5000, 0x12, unchanged, seg::DS as u64).unwrap();
    assert!(!zf(&rig));
    assert_eq!(rig.call(Sys::ArplMemory, 0x5000, 0x12, changed, seg::DS as u64), Err((GP, Some(0))));
    assert!(!zf(&rig));
    rig.call(Sys::ArplMemory, 0x5000, 0x10, 1, seg::ES as u64).unwrap();
    assert!(zf(&rig));
    assert_eq!(rig.get(0x5000, 2), 0x11);
}

#[test]
fn local_descriptors_come_from_the_loaded_ldt() {
    let mut rig = Rig::new().protected();
    rig.put(at::LDT + 8, 8, descriptor(0x5000, 0xff, 0x93, 0x4));
    assert_eq!(rig.call(Sys::Lldt, u64::from(sel::TSS), 0, 0, 0), Err((GP, Some(0x28))));
    rig.call(Sys::Lldt, u64::from(sel::LDT), 0, 0, 0).unwrap();
    load(&mut rig, seg::ES, 0xc).unwrap();
    assert_eq!(rig.cpu.segs[seg::ES].base, 0x5000);
    assert_eq!(rig.call(Sys::StoreSel, 0, 0, 0, 0), Ok(u64::from(sel::LDT)));
}

#[test]
fn loading_the_task_register_marks_the_task_busy() {
    let mut rig = Rig::new().protected();
    assert_eq!(rig.get(at::GDT + u64::from(sel::TSS) + 5, 1), 0x8b);
    assert_eq!(rig.call(Sys::Ltr, u64::from(sel::TSS), 0, 0, 0), Err((GP, Some(0x28))));
    assert_eq!(rig.call(Sys::Ltr, 0, 0, 0, 0), Err((GP, Some(0))));
}

#[test]
fn flat_segments_show_in_the_key_and_a_base_removes_it() {
    let mut rig = Rig::new().protected();
    assert_eq!(
        rig.cpu.key & (key::FLAT | key::CODE32 | key::STACK32),
        key::FLAT | key::CODE32 | key::STACK32
    );
    rig.gdt(sel::READ_ONLY, descriptor(0x1000, 0xfffff, 0x93, 0xc));
    load(&mut rig, seg::ES, sel::READ_ONLY).unwrap();
    assert_eq!(rig.cpu.key & key::FLAT, 0);
}
