//! `MONITOR` and `MWAIT`: what ends a wait.

use super::*;
use crate::helpers::vector;

const LINE: u64 = 0x5_0040;

fn waiting(hints: u64, flags: u32) -> Rig {
    let mut rig = Rig::of("core2duo").protected();
    rig.idt(0x30, gate(sel::CODE0, at::HANDLER, 0x8e, 0));
    rig.cpu.set_flags(flags);
    rig.call(Sys::Monitor, LINE + 5, 0, 0, 0).unwrap();
    rig.cpu.core.slots[reg::RCX] = hints;
    rig.call(Sys::Mwait, 0xa003, 0, 0, 0).unwrap();
    assert_eq!((rig.cpu.core.exit, rig.cpu.core.pc), (bulkhead_engine::exit::HALT, 0xa003));
    rig.cpu.core.exit = 0;
    rig
}

fn naps(rig: &mut Rig) -> bool {
    matches!(rig.attend(), Next::Nap(ns) if (1..1_000_000).contains(&ns))
}

#[test]
fn a_store_to_the_line_ends_the_wait_and_one_beside_it_does_not() {
    let mut rig = waiting(0, eflags::IF);
    assert!(naps(&mut rig));
    rig.put(LINE - 1, 1, 7);
    rig.put(LINE + 64, 1, 7);
    assert!(naps(&mut rig));
    rig.put(LINE + 63, 1, 7);
    assert_eq!(rig.attend(), Next::Run);
    assert_eq!((rig.cpu.core.pc, rig.cpu.halted), (0xa003, 0));
}

#[test]
fn an_interrupt_is_taken_and_a_masked_one_ends_the_wait_where_it_is_asked_to() {
    let mut rig = waiting(0, eflags::IF);
    rig.board().interrupts.push(0x30);
    assert_eq!(rig.attend(), Next::Run);
    assert_eq!((rig.cpu.core.pc, rig.stack32(0), rig.cpu.halted), (at::HANDLER, 0xa003, 0));
    let mut rig = waiting(1, 0);
    rig.board().interrupts.push(0x30);
    assert_eq!(rig.attend(), Next::Run);
    assert_eq!((rig.cpu.core.pc, rig.cpu.halted), (0xa003, 0));
    let mut rig = waiting(0, 0);
    rig.board().interrupts.push(0x30);
    assert!(naps(&mut rig), "it may not be taken");
}

#[test]
fn a_wait_ends_after_a_while_in_any_case() {
    let mut rig = waiting(0, 0);
    let start = rig.board().time;
    while rig.attend() != Next::Run {
        rig.board().time += 100_000;
        assert!(rig.board().time - start < 100_000_000);
    }
    assert_eq!(rig.cpu.core.pc, 0xa003);
}

#[test]
fn there_is_no_wait_without_an_armed_line_or_where_it_has_changed_or_an_interrupt_came_between() {
    let run = |prepare: fn(&mut Rig)| {
        let mut rig = Rig::of("core2duo").protected();
        rig.idt(0x30, gate(sel::CODE0, at::HANDLER, 0x8e, 0));
        rig.cpu.set_flags(eflags::IF);
        prepare(&mut rig);
        rig.call(Sys::Mwait, 0xa003, 0, 0, 0).unwrap();
        (rig.cpu.halted, rig.cpu.core.pc)
    };
    let arm = |rig: &mut Rig| rig.call(Sys::Monitor, LINE, 0, 0, 0).map(|_| ()).unwrap();
    assert_eq!(run(|_| {}), (0, 0xa003));
    assert_eq!(run(arm), (halted::MWAIT, 0xa003));
    assert_eq!(
        run(|rig| {
            rig.call(Sys::Monitor, LINE, 0, 0, 0).unwrap();
            rig.put(LINE, 1, 1);
        }),
        (0, 0xa003)
    );
    assert_eq!(
        run(|rig| {
            rig.call(Sys::Monitor, LINE, 0, 0, 0).unwrap();
            rig.board().interrupts.push(0x30);
            assert_eq!(rig.attend(), Next::Run);
        }),
        (0, 0xa003)
    );
}

#[test]
fn hints_that_do_not_exist_are_a_protection_fault() {
    let mut rig = Rig::of("core2duo").protected();
    rig.cpu.core.slots[reg::RCX] = 1;
    assert_eq!(rig.call(Sys::Monitor, LINE, 0, 0, 0), Err((vector::GP, Some(0))));
    rig.cpu.core.slots[reg::RCX] = 2;
    assert_eq!(rig.call(Sys::Mwait, 0xa003, 0, 0, 0), Err((vector::GP, Some(0))));
}

#[test]
fn a_program_waits_for_what_another_processor_stores() {
    for compiled in [false, true] {
        let mut rig = Rig::of("core2duo").protected();
        let program = [
            0xb8, 0x40, 0x00, 0x05, 0x00, // mov eax, 50040
            0x31, 0xc9, // xor ecx, ecx
            0x31, 0xd2, // xor edx, edx
            0x0f, 0x01, 0xc8, // monitor
            0x80, 0x38, 0x09, // cmp byte [eax], 9
            0x74, 0x05, // je out
            0x0f, 0x01, 0xc9, // mwait
            0xeb, 0xf3, // jmp monitor
            0xf4, // out: hlt
        ];
        rig.code(at::USER, &program);
        rig.cpu.core.pc = at::USER;
        rig.board().store = Some((LINE as usize, 9));
        let engine =
            if compiled { Engine::compiling(1 << 20).expect("memory for code") } else { Engine::new() };
        drop(Engine::detach(&mut rig.cpu.core));
        engine.attach(&mut rig.cpu.core);
        bulkhead_engine::run(&mut rig.cpu.core);
        assert_eq!((rig.cpu.halted, rig.cpu.core.pc), (halted::HLT, at::USER + program.len() as u64));
        assert_eq!(rig.board().store, None, "it has waited");
    }
}

#[test]
fn the_line_is_read_as_a_byte_of_its_segment() {
    let mut rig = Rig::of("core2duo").protected();
    // FS is null: monitor with its prefix is a protection fault, without it none.
    rig.cpu.segs[seg::FS].attr = 0;
    rig.cpu.update_key();
    rig.idt(13, gate(sel::CODE0, at::HANDLER, 0x8e, 0));
    rig.code(at::USER, &[0x0f, 0x01, 0xc8, 0x64, 0x0f, 0x01, 0xc8, 0xf4]);
    rig.cpu.core.pc = at::USER;
    rig.cpu.core.slots[reg::RCX] = 0;
    rig.step(2);
    assert_eq!((rig.cpu.core.pc, rig.stack32(1)), (at::HANDLER, at::USER as u32 + 3));
}
