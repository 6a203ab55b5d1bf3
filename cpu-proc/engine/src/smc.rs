//! Self-modifying, DMA-modified and remapped code on the compiler.

use bulkhead_ir::{Alu, Block, Mem, NONE, Op, TEMP0, W8, W32, W64};

use crate::state::Access;
use crate::testing::{ROM_PAGE, Rig, stop_ops};
use crate::{Engine, mmu};

/// Instruction words: `0` stops, `1` stores the low 32 bits of slot 1 at slot 8, `2` goes to 0x1000, `3` stores one byte
/// of slot 1 at slot 8, `4` loops to 0x1000 while slot 2 counts down, `5` is helper 2 (stores slot 1, 8 bytes, at slot 8),
/// `6` adds word number slot 2 of the table at slot 8 to slot 0, `7` reads the word at slot 9, `0x100 + n` adds n to slot 0, `0x10000 | pc` goes there.
pub fn lower(out: &mut Block, word: u32, pc: u64) {
    match word {
        0 => stop_ops(out, pc),
        1 => out.push(Op::st(W32, 1, Mem::at(8, 0))),
        2 => out.push(Op::goto(0x1000, true)),
        3 => out.push(Op::st(W8, 1, Mem::at(8, 0))),
        4 => {
            out.push(Op::alui(Alu::Sub, W64, 2, 2, 1, false));
            out.push(Op::branchz(W64, 2, true, 0x1000));
        }
        5 => out.push(Op::call(2, NONE, 8, NONE, NONE, 0)),
        6 => {
            out.push(Op::ld(W32, TEMP0, Mem { index: 2, scale: 2, ..Mem::at(8, 0) }));
            out.push(Op::alu(Alu::Add, W64, 0, 0, TEMP0, false));
        }
        7 => out.push(Op::ld(W32, TEMP0, Mem::at(9, 0))),
        w if w & 0x10000 != 0 => out.push(Op::goto(u64::from(w & 0xffff), true)),
        w => out.push(Op::alui(Alu::Add, W64, 0, 0, i64::from(w & 0xff), false)),
    }
}

fn rig(code: &[u32]) -> Rig {
    let mut rig = Rig::new(lower);
    code.iter().enumerate().for_each(|(i, &w)| rig.machine().put32(0x1000 + 4 * i, w));
    Engine::compiling(1 << 20).unwrap().attach(rig.core());
    rig
}

#[test]
fn a_store_into_the_next_instruction_of_the_running_block_takes_effect_at_once() {
    let mut r = rig(&[1, 0x101, 0x101, 0]);
    r.cpu.core.slots[8] = 0x1004;
    r.cpu.core.slots[1] = 0x150;
    r.run(0x1000);
    assert_eq!(r.cpu.core.slots[0], 0x51);
    assert_eq!(r.cpu.core.pc, 0x100c);
}

#[test]
fn a_helpers_store_into_its_own_block_is_done_once_and_takes_effect() {
    let mut r = rig(&[5, 0x101, 0x101, 0]);
    r.cpu.core.slots[8] = 0x1004;
    r.cpu.core.slots[1] = 0x151_0000_0150;
    r.cpu.core.slots[2] = 40;
    r.run(0x1000);
    assert_eq!(r.cpu.core.slots[0], 0xa1);
    assert_eq!(r.cpu.core.slots[2], 41);
}

#[test]
fn a_store_into_another_compiled_block_is_seen_when_that_runs_again() {
    // 0x1000 adds and goes to 0x1100, which changes the word at 0x1000 and goes back; the second round stops.
    let mut r = rig(&[0x101, 0x11100]);
    r.machine().put32(0x1100, 1);
    r.machine().put32(0x1104, 2);
    r.cpu.core.slots[8] = 0x1004;
    r.cpu.core.slots[1] = 0;
    r.run(0x1000);
    assert_eq!((r.cpu.core.slots[0], r.cpu.core.pc), (2, 0x1004));
}

#[test]
fn data_beside_code_in_a_page_changes_without_dropping_blocks() {
    let mut r = rig(&[1, 0x101, 4, 0]);
    r.cpu.core.slots[8] = 0x1800;
    r.cpu.core.slots[1] = 77;
    r.cpu.core.slots[2] = 50;
    r.run(0x1000);
    assert_eq!(r.cpu.core.slots[0], 50);
    let stats = Engine::of(r.core()).stats;
    assert_eq!(stats.killed, 0);
    assert!(stats.compiled <= 3, "{stats:?}");
    assert_eq!(&r.machine().bytes()[0x1800..0x1804], &[77, 0, 0, 0]);
}

#[test]
fn a_write_through_another_mapping_of_the_code_page_is_noticed() {
    let mut r = rig(&[0x101, 0]);
    r.cpu.pages[9].gpa = 0x1000;
    r.machine().put32(0x2000, 1);
    r.machine().put32(0x2004, 0x11000);
    // The write TLB has the alias before the page holds code.
    crate::mem::store(r.core(), 0x9800, 4, 1, crate::Privilege::Current).unwrap();
    r.run(0x1000);
    assert_eq!(r.cpu.core.slots[0], 1);
    r.cpu.core.slots[8] = 0x9000;
    r.cpu.core.slots[1] = 0x110;
    r.run(0x2000);
    assert_eq!(r.cpu.core.slots[0], 0x11);
}

#[test]
fn code_changed_by_dma_is_recompiled_after_the_machine_reports_it() {
    let mut r = rig(&[0x101, 0]);
    r.run(0x1000);
    assert_eq!(r.machine().watched, [0x1000]);
    r.machine().put32(0x1000, 0x120);
    r.machine().dirty.push(0x1000);
    r.run(0x1000);
    assert_eq!(r.cpu.core.slots[0], 0x21);
}

#[test]
fn the_page_that_is_watched_for_dma_is_the_one_whose_code_runs() {
    for remapped in [1, 2] {
        // The block ends on the second page.
        let mut r = rig(&[]);
        [
            (0x1ff8, 0x101),
            (0x1ffc, 0x101),
            (0x2000, 0),
            (0x5ff8, 0x120),
            (0x5ffc, 0x120),
            (0x6000, 0x103),
            (0x6004, 0),
        ]
        .iter()
        .for_each(|&(at, word)| r.machine().put32(at, word));
        let fetch = |r: &mut Rig, at| mmu::place(r.core(), at, 1, Access::Fetch, 0).map(|_| ());
        assert_eq!([fetch(&mut r, 0x1000), fetch(&mut r, 0x2000)], [Ok(()); 2]);
        // Without a flush: the old translation may be used or not.
        r.cpu.pages[remapped].gpa = [0x5000, 0x6000][remapped - 1];
        r.run(0x1ff8);
        let expected = [(0x40, vec![0x5000, 0x2000]), (5, vec![0x1000, 0x6000])][remapped - 1].clone();
        assert_eq!((r.cpu.core.slots[0], r.machine().watched.clone()), expected);
    }
}

#[test]
fn a_remapped_code_page_runs_its_new_contents_after_a_flush() {
    let mut r = rig(&[0x101, 0x12000]);
    r.machine().put32(0x2000, 0);
    r.machine().put32(0x5000, 0x130);
    r.machine().put32(0x5004, 0x12000);
    r.run(0x1000);
    r.cpu.pages[1].gpa = 0x5000;
    mmu::flush_page(r.core(), 0x1000);
    r.run(0x1000);
    assert_eq!(r.cpu.core.slots[0], 0x31);
    r.cpu.pages[1].gpa = 0x1000;
    mmu::flush_all(r.core());
    r.run(0x1000);
    assert_eq!(r.cpu.core.slots[0], 0x32);
}

#[test]
fn a_new_address_space_runs_the_new_contents_of_pages_that_are_not_global() {
    // 0x1000 adds and goes through a register to 0x2000, which adds and stops; then both pages change.
    for (first, second, expected) in
        [(false, false, 0x66), (true, false, 0x57), (false, true, 0x21), (true, true, 0x12)]
    {
        let mut r = rig(&[0x101, 0x12000]);
        r.machine().put32(0x2000, 0x111);
        r.machine().put32(0x2004, 0);
        r.machine().put32(0x5000, 0x110);
        r.machine().put32(0x5004, 0x12000);
        r.machine().put32(0x6000, 0x156);
        r.machine().put32(0x6004, 0);
        r.cpu.pages[1].global = first;
        r.cpu.pages[2].global = second;
        for _ in 0..3 {
            r.run(0x1000);
        }
        r.cpu.core.slots[0] = 0;
        r.cpu.pages[1].gpa = 0x5000;
        r.cpu.pages[2].gpa = 0x6000;
        mmu::flush_local(r.core());
        r.run(0x1000);
        assert_eq!(r.cpu.core.slots[0], expected, "global: {first} {second}");
        r.cpu.core.slots[0] = 0;
        mmu::flush_all(r.core());
        r.run(0x1000);
        assert_eq!(r.cpu.core.slots[0], 0x66);
    }
}

#[test]
fn an_instruction_across_pages_follows_the_mapping_of_the_second_page() {
    // The word at 0x1ffe: its upper half lies on the next page.
    let mut r = rig(&[]);
    r.machine().put32(0x1ffe, 0x101);
    r.machine().put32(0x2002, 0);
    r.machine().bytes()[0x7000..0x7002].copy_from_slice(&[1, 0]);
    r.machine().bytes()[0x7002..0x7006].copy_from_slice(&[0; 4]);
    r.run(0x1ffe);
    assert_eq!(r.cpu.core.slots[0], 1);
    // Now it reads 0x0001_0101: a jump to 0x101.
    r.cpu.pages[2].gpa = 0x7000;
    mmu::flush_page(r.core(), 0x2000);
    r.machine().put32(0x100, 0);
    r.run(0x1ffe);
    assert_eq!(r.cpu.core.pc & 0xfff, 0x101);
}

#[test]
fn a_block_dropped_while_linked_is_not_reached_through_the_link() {
    // A loop of two linked blocks; a helper-free store from a third party (physical) changes the second.
    let mut r = rig(&[0x101, 0x11010]);
    r.machine().put32(0x1010, 0x102);
    r.machine().put32(0x1014, 0x11020);
    r.machine().put32(0x1020, 4);
    r.machine().put32(0x1024, 0);
    r.cpu.core.slots[2] = 10;
    r.run(0x1000);
    assert_eq!(r.cpu.core.slots[0], 30);
    crate::mem::phys_store(r.core(), 0x1010, 4, 0x110);
    r.cpu.core.slots[2] = 10;
    r.run(0x1000);
    assert_eq!(r.cpu.core.slots[0], 30 + 170);
    assert_eq!(Engine::of(r.core()).stats.killed, 1);
}

#[test]
fn a_full_code_buffer_is_emptied_and_running_goes_on() {
    let mut r = Rig::new(lower);
    Engine::compiling(16 << 10).unwrap().attach(r.core());
    for page in 1..40usize {
        for i in 0..60 {
            r.machine().put32(page * 4096 + 8 * i, 0x101);
            r.machine()
                .put32(page * 4096 + 8 * i + 4, 0x10000 | (page as u32 * 4096 + 8 * i as u32 + 8) & 0xffff);
        }
        r.machine().put32(page * 4096 + 480, 0);
    }
    for page in 1..15u64 {
        r.cpu.core.slots[0] = 0;
        r.run(page * 4096);
        assert_eq!(r.cpu.core.slots[0], 60);
    }
    assert!(Engine::of(r.core()).stats.flushes > 0);
}

#[test]
fn code_in_shadow_ram_that_was_rewritten_while_hidden_behind_rom_is_recompiled() {
    let mut r = rig(&[]);
    let rom = ROM_PAGE as u64 * 4096;
    let shadow = (ROM_PAGE + 1) * 4096;
    r.machine().put32(shadow, 0x101);
    r.machine().put32(ROM_PAGE * 4096, 0x110);
    r.machine().shadow = true;
    r.run(rom);
    assert_eq!(r.cpu.core.slots[0], 1);
    r.machine().shadow = false;
    mmu::flush_map(r.core());
    r.run(rom);
    assert_eq!(r.cpu.core.slots[0], 0x11);
    crate::mem::store(r.core(), rom, 4, 0x140, crate::Privilege::Current).unwrap();
    r.run(rom);
    assert_eq!(r.cpu.core.slots[0], 0x21);
    r.machine().shadow = true;
    mmu::flush_map(r.core());
    r.run(rom);
    assert_eq!(r.cpu.core.slots[0], 0x61);
}

#[test]
fn a_loop_over_a_table_sees_a_new_mapping_of_it_after_every_kind_of_flush() {
    // The table lies across pages 8 and 9.
    let mut r = rig(&[6, 4, 0]);
    for i in 1..=16 {
        r.machine().put32(0x8fe0 + 4 * i, 1);
    }
    for i in 8..=16 {
        r.machine().put32(0x5fe0 + 4 * i, 0x100);
    }
    let sum = |r: &mut Rig| {
        r.cpu.core.slots[8] = 0x8fe0;
        r.cpu.core.slots[2] = 16;
        r.cpu.core.slots[0] = 0;
        r.run(0x1000);
        r.cpu.core.slots[0]
    };
    for flush in [|core: &mut _| mmu::flush_page(core, 0x9000), mmu::flush_local, mmu::flush_all] {
        assert_eq!(sum(&mut r), 16);
        assert_eq!(sum(&mut r), 16);
        r.cpu.pages[9].gpa = 0x6000;
        flush(r.core());
        assert_eq!(sum(&mut r), 7 + 9 * 0x100);
        r.cpu.pages[9].gpa = 0x9000;
        flush(r.core());
    }
    r.cpu.pages[9].present = false;
    r.cpu.deliver_to = 0x3000;
    mmu::flush_page(r.core(), 0x9000);
    sum(&mut r);
    assert_eq!((r.cpu.faults, r.cpu.fault_address, r.cpu.delivered_pc), (1, 0x9020, 0x1000));
    assert_eq!(r.cpu.core.slots[2], 16);
}

#[test]
fn single_step_compiles_one_instruction_a_block() {
    let run = |single_step: bool| {
        let mut r = rig(&[0x101, 0x102, 4, 0x103, 0]);
        Engine::of(r.core()).single_step = single_step;
        r.cpu.core.slots[2] = 9;
        r.run(0x1000);
        let stats = Engine::of(r.core()).stats;
        (r.cpu.core.slots[0], stats.compiled, stats.compiled_insns)
    };
    assert_eq!(run(true), (9 * 3 + 3, 5, 5));
    let (sum, blocks, insns) = run(false);
    assert_eq!((sum, insns), (9 * 3 + 3, 5));
    assert!(blocks < insns, "{blocks} blocks");
}
