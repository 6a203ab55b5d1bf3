//! Page walks in every mode.

use bulkhead_engine::Access::{Fetch, Read, Write};
use bulkhead_engine::mem;

use super::*;
use crate::helpers::vector;

const PF: u8 = vector::PF;

#[test]
fn without_paging_the_address_is_physical_and_the_gate_masks_bit_20() {
    let mut rig = Rig::new();
    assert_eq!(rig.walk(0x12_3456, Read, false), Ok(0x12_3456));
    rig.board().a20 = !(1 << 20);
    assert_eq!(rig.walk(0x12_3456, Read, false), Ok(0x02_3456));
}

fn legacy(pse: bool) -> Rig {
    let mut rig = Rig::new().protected();
    rig.put(0x10_0000, 4, 0x10_1007);
    rig.put(0x10_0004, 4, 0x20_0087);
    for i in 0..16u64 {
        rig.put(0x10_1000 + 4 * i, 4, i << 12 | 7);
    }
    rig.call(Sys::WriteCr, if pse { 0x10 } else { 0 }, 0, 0, 4).unwrap();
    rig.call(Sys::WriteCr, 0x10_0000, 0, 0, 3).unwrap();
    rig.call(Sys::WriteCr, 0x8001_0011, 0, 0, 0).unwrap();
    rig
}

#[test]
fn two_level_walk_marks_accessed_on_read_and_dirty_on_write() {
    let mut rig = legacy(false);
    assert_eq!(rig.get(0x10_1014, 4) & 0x60, 0);
    assert_eq!(rig.walk(0x5123, Read, true), Ok(0x5123));
    assert_eq!(rig.get(0x10_1014, 4) & 0x60, 0x20);
    assert_eq!(rig.get(0x10_0000, 4) & 0x60, 0x20);
    assert_eq!(rig.walk(0x5123, Write, true), Ok(0x5123));
    assert_eq!(rig.get(0x10_1014, 4) & 0x60, 0x60);
}

#[test]
fn a_refused_walk_leaves_the_entries_alone_and_reports_why() {
    let mut rig = legacy(false);
    rig.put(0x10_1014, 4, 0x5001);
    assert_eq!(rig.walk(0x5000, Read, true), Err((PF, Some(5))));
    assert_eq!(rig.walk(0x5000, Write, true), Err((PF, Some(7))));
    assert_eq!(rig.walk(0x5000, Write, false), Err((PF, Some(3))), "WP is set");
    assert_eq!(rig.get(0x10_1014, 4), 0x5001);
    rig.put(0x10_1014, 4, 0x5006);
    assert_eq!(rig.walk(0x5000, Read, false), Err((PF, Some(0))));
    assert_eq!(rig.walk(0x5000, Fetch, true), Err((PF, Some(4))), "no fetch bit without NX");
    assert_eq!(rig.cpu.pending.addr, 0x5000);
}

#[test]
fn an_access_across_4_gib_goes_on_in_the_first_page_as_it_is_mapped_and_watched_now() {
    const LAST: u64 = 0xffff_fffe;
    let mut rig = legacy(false);
    rig.put(0x10_0ffc, 4, 0x10_1007);
    rig.put(0x10_1ffc, 4, 0x6007);
    let load = |rig: &mut Rig| mem::load(&mut rig.cpu.core, LAST, 4, mem::Privilege::Current);
    let store = |rig: &mut Rig, value| mem::store(&mut rig.cpu.core, LAST, 4, value, mem::Privilege::Current);
    store(&mut rig, 0x4433_2211).unwrap();
    assert_eq!((load(&mut rig), rig.get(0, 2)), (Ok(0x4433_2211), 0x4433));
    rig.put(0x5000, 2, 0x6655);
    rig.put(0x10_1000, 4, 0x5007);
    rig.call(Sys::Invlpg, 0x123, 0, 0, 0).unwrap();
    assert_eq!(load(&mut rig), Ok(0x6655_2211));
    // Breakpoint 0: writes of one byte at address 1.
    rig.call(Sys::WriteDr, 1, 0, 0, 0).unwrap();
    rig.call(Sys::WriteDr, 1 | 1 << 16, 0, 0, 7).unwrap();
    for _ in 0..2 {
        store(&mut rig, 0).unwrap();
        assert_eq!(std::mem::take(&mut rig.cpu.watched), 1);
    }
}

#[test]
fn without_write_protect_the_supervisor_writes_read_only_pages() {
    let mut rig = legacy(false);
    rig.put(0x10_1014, 4, 0x5005);
    rig.call(Sys::WriteCr, 0x8000_0011, 0, 0, 0).unwrap();
    assert_eq!(rig.walk(0x5000, Write, false), Ok(0x5000));
    assert_eq!(rig.walk(0x5000, Write, true), Err((PF, Some(7))));
}

#[test]
fn large_pages_need_pse_and_reserve_bit_21() {
    let mut rig = legacy(true);
    assert_eq!(
        rig.walk(0x0040_1234, Write, true),
        Err((PF, Some(0xf))),
        "bit 21 of the 4 MiB entry is reserved"
    );
    // PSE-36: bits 13.. are physical bits 32..
    rig.put(0x10_0004, 4, 0x2087);
    assert_eq!(rig.walk(0x0040_1234, Write, true), Ok(0x1_0000_1234));
    assert_eq!(rig.get(0x10_0004, 4) & 0x60, 0x60);
    let mut rig = legacy(false);
    rig.put(0x20_0004, 4, 0x7007);
    assert_eq!(rig.walk(0x0040_1234, Write, true), Ok(0x7234), "without PSE it is a table");
}

fn pae() -> Rig {
    let mut rig = Rig::new().protected();
    rig.put(0x10_0020, 8, 0x10_1001);
    rig.put(0x10_1000, 8, 0x10_2007);
    rig.put(0x10_1008, 8, 0x87);
    for i in 0..16u64 {
        rig.put(0x10_2000 + 8 * i, 8, i << 12 | 7);
    }
    rig.call(Sys::WriteCr, 0x20, 0, 0, 4).unwrap();
    rig.call(Sys::WriteCr, 0x10_0020, 0, 0, 3).unwrap();
    rig.wrmsr(0xc000_0080, 0x800).unwrap();
    rig.call(Sys::WriteCr, 0x8001_0011, 0, 0, 0).unwrap();
    rig
}

#[test]
fn pae_walk_honours_no_execute_and_reserved_bits() {
    let mut rig = pae();
    assert_eq!(rig.walk(0x3456, Fetch, true), Ok(0x3456));
    rig.put(0x10_2018, 8, 1 << 63 | 0x3007);
    assert_eq!(rig.walk(0x3456, Read, true), Ok(0x3456));
    assert_eq!(rig.walk(0x3456, Fetch, true), Err((PF, Some(0x15))));
    rig.put(0x10_2018, 8, 1 << 45 | 0x3007);
    assert_eq!(rig.walk(0x3456, Read, true), Err((PF, Some(0xd))));
    assert_eq!(rig.walk(0x20_0042, Write, true), Ok(0x42), "2 MiB page");
    rig.put(0x10_1008, 8, 0x8_0087);
    assert_eq!(rig.walk(0x20_0042, Write, true), Err((PF, Some(0xf))));
    assert_eq!(rig.walk(0x4000_0000, Read, true), Err((PF, Some(4))), "directory pointer not present");
}

#[test]
fn pae_directory_pointers_are_cached_until_cr3_is_written() {
    let mut rig = pae();
    rig.put(0x10_0020, 8, 0);
    assert_eq!(rig.walk(0x3456, Read, true), Ok(0x3456));
    rig.call(Sys::WriteCr, 0x10_0020, 0, 0, 3).unwrap();
    assert_eq!(rig.walk(0x3456, Read, true), Err((PF, Some(4))));
    rig.put(0x10_0020, 8, 0x10_1003);
    assert_eq!(rig.call(Sys::WriteCr, 0x10_0020, 0, 0, 3), Err((vector::GP, Some(0))), "reserved bit 1");
}

#[test]
fn long_mode_walk_takes_four_levels_and_refuses_non_canonical_addresses() {
    let mut rig = Rig::new().long();
    assert_eq!(rig.walk(0x20_1234, Write, true), Ok(0x20_1234));
    rig.put(0x10_2000, 8, 0x10_3007);
    rig.put(0x10_3008, 8, 0x3f_f003);
    assert_eq!(rig.walk(0x1fff, Read, false), Ok(0x3f_ffff));
    assert_eq!(rig.walk(0x1fff, Read, true), Err((PF, Some(5))));
    assert_eq!(rig.walk(0x8000_0000_0000, Read, false), Err((vector::GP, Some(0))));
    assert_eq!(rig.walk(0xffff_8000_0000_0000, Read, false), Err((PF, Some(0))));
    rig.put(0x10_0ff8, 8, 0x10_1087);
    assert_eq!(
        rig.walk(0xffff_ff80_0000_0000, Read, false),
        Err((PF, Some(9))),
        "page size in the top level"
    );
}

#[test]
fn amds_processors_reserve_the_global_bit_of_the_upper_two_tables() {
    for (model, reserved) in [("qemu64", true), ("core2duo", false), ("phenom", true)] {
        let mut rig = Rig::of(model).long();
        let expected = if reserved { Err((PF, Some(9))) } else { Ok(0x1234) };
        for table in [0x10_0000, 0x10_1000] {
            let entry = rig.get(table, 8);
            rig.put(table, 8, entry | 1 << 8);
            assert_eq!(rig.walk(0x1234, Read, false), expected, "{model} {table:x}");
            rig.put(table, 8, entry);
        }
        rig.put(0x10_2000, 8, 0x10_3107);
        rig.put(0x10_3008, 8, 0x4107);
        assert_eq!(rig.walk(0x1234, Read, false), Ok(0x4234), "{model}: a directory entry");
    }
    let mut rig = Rig::of("phenom").long();
    rig.put(0x10_1000, 8, 0x187);
    assert_eq!(rig.walk(0x1234, Read, false), Ok(0x1234), "a page of 1 GiB");
}

#[test]
fn a_global_page_outlives_a_cr3_load_but_not_a_change_of_pge() {
    let mut rig = Rig::new().long();
    rig.put(0x10_2000, 8, 0x10_3007);
    rig.put(0x10_3008, 8, 0x4107);
    rig.put(0x10_3010, 8, 0x4007);
    let read = |rig: &mut Rig, linear: u64| mem::load(&mut rig.cpu.core, linear, 4, mem::Privilege::Current);
    let contents = |rig: &mut Rig| [0x1000, 0x2000].map(|linear| read(rig, linear).unwrap());
    rig.put(0x4000, 4, 1);
    rig.put(0x5000, 4, 2);
    for (pge, after) in [(0, [2, 2]), (1 << 7, [1, 2])] {
        let cr4 = rig.cpu.cr4;
        rig.call(Sys::WriteCr, cr4 & !(1 << 7) | pge, 0, 0, 4).unwrap();
        let cr3 = rig.cpu.cr3;
        rig.call(Sys::WriteCr, cr3, 0, 0, 3).unwrap();
        assert_eq!(contents(&mut rig), [1, 1]);
        rig.put(0x10_3008, 8, 0x5107);
        rig.put(0x10_3010, 8, 0x5007);
        rig.call(Sys::WriteCr, cr3, 0, 0, 3).unwrap();
        assert_eq!(contents(&mut rig), after, "PGE {pge:#x}");
        rig.put(0x10_3008, 8, 0x4107);
        rig.put(0x10_3010, 8, 0x4007);
        rig.call(Sys::WriteCr, cr3, 0, 0, 3).unwrap();
    }
    rig.put(0x10_3008, 8, 0x5107);
    let cr4 = rig.cpu.cr4;
    rig.call(Sys::WriteCr, cr4 & !(1 << 7), 0, 0, 4).unwrap();
    assert_eq!(contents(&mut rig), [2, 1]);
}

#[test]
fn a_dropped_look_ahead_fault_leaves_cr2_alone() {
    let mut rig = legacy(false);
    rig.cpu.cr2 = 0x77;
    assert!(rig.walk(0x8000_0000, Fetch, false).is_err());
    assert_eq!(rig.cpu.cr2, 0x77);
}
