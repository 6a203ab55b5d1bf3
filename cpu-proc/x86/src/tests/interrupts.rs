//! Delivery and return in every mode, double and triple faults, requests of the machine.

use super::far::user64;
use super::*;
use crate::helpers::vector;

const GP: u8 = vector::GP;

fn raise(rig: &mut Rig, vector: u8, error: Option<u32>) {
    let imm = u64::from(vector) | if error.is_some() { 0x100 } else { 0 };
    rig.call(Sys::Raise, u64::from(error.unwrap_or(0)), 0, 0, imm).unwrap_err();
    rig.cpu.pending.vector = u32::from(vector);
}

#[test]
fn real_mode_interrupt_goes_through_the_vector_table_and_back() {
    let mut rig = Rig::new();
    rig.put(0x21 * 4, 4, 0x1000_0040);
    rig.set_rsp(0x7000);
    rig.cpu.set_flags(eflags::IF | eflags::CF);
    rig.call(Sys::Int, 0xfff2, 0, 0, 0x21).unwrap();
    assert_eq!((rig.cpu.core.pc, rig.cpu.segs[seg::CS].base), (0x40, 0x10000));
    assert_eq!(rig.cpu.flags(), 3);
    assert_eq!(rig.get(0x6ffa, 6), 0x0203_f000_fff2);
    rig.call(Sys::Iret, 0, 0, 0, 1).unwrap();
    assert_eq!((rig.cpu.core.pc, rig.rsp(), rig.cpu.flags()), (0xfff2, 0x7000, 0x203));
    rig.cpu.idtr.limit = 0x83;
    assert_eq!(rig.call(Sys::Int, 0xfff2, 0, 0, 0x21), Err((GP, Some(0))));
}

#[test]
fn interrupt_gate_masks_interrupts_and_trap_gate_does_not() {
    let mut rig = Rig::new().protected();
    rig.idt(0x30, gate(sel::CODE0, at::HANDLER, 0x8e, 0));
    rig.idt(0x31, gate(sel::CODE0, at::HANDLER, 0x8f, 0));
    rig.cpu.set_flags(eflags::IF);
    rig.call(Sys::Int, 0xa002, 0, 0, 0x31).unwrap();
    assert_eq!(rig.cpu.eflags & eflags::IF, eflags::IF);
    rig.call(Sys::Int, 0xa002, 0, 0, 0x30).unwrap();
    assert_eq!(rig.cpu.eflags & eflags::IF, 0);
    assert_eq!([rig.stack32(0), rig.stack32(1), rig.stack32(2)], [0xa002, 8, 0x202]);
    rig.call(Sys::Iret, 0, 0, 0, 2).unwrap();
    assert_eq!(rig.cpu.eflags & eflags::IF, eflags::IF);
    assert_eq!(rig.rsp(), 0x7000 - 12);
}

#[test]
fn gate_faults_carry_the_vector_and_the_external_bit() {
    let mut rig = Rig::new().protected().user();
    rig.idt(0x30, gate(sel::CODE0, at::HANDLER, 0x8e, 0));
    assert_eq!(rig.call(Sys::Int, 0, 0, 0, 0x30), Err((GP, Some(0x30 * 8 + 2))), "DPL");
    rig.idt(0x30, gate(sel::CODE0, at::HANDLER, 0x6e, 0));
    assert_eq!(rig.call(Sys::Int, 0, 0, 0, 0x30), Err((vector::NP, Some(0x30 * 8 + 2))));
    rig.idt(0x30, gate(sel::DATA0, at::HANDLER, 0xee, 0));
    assert_eq!(rig.call(Sys::Int, 0, 0, 0, 0x30), Err((GP, Some(0x10))));
    rig.idt(0x30, 0);
    assert_eq!(rig.call(Sys::Int, 0, 0, 0, 0x30), Err((GP, Some(0x30 * 8 + 2))), "no gate");
    // The same as an external interrupt: EXT set, reported through #GP at 0xd.
    rig.idt(13, gate(sel::CODE0, at::HANDLER, 0x8e, 0));
    rig.cpu.set_flags(eflags::IF);
    rig.board().interrupts.push(0x30);
    assert_eq!(rig.attend(), Next::Run);
    assert_eq!(rig.stack32(0), 0x30 * 8 + 3);
}

#[test]
fn a_handler_that_no_address_reaches_faults_with_the_external_bit_alone() {
    let mut rig = Rig::new().long();
    rig.idt64(0x30, gate(sel::CODE0, at::HANDLER, 0x8e, 0), 0x8000);
    assert_eq!(rig.call(Sys::Int, 0xa002, 0, 0, 0x30), Err((GP, Some(0))));
    rig.idt64(13, gate(sel::CODE0, at::HANDLER, 0x8e, 0), 0);
    rig.cpu.set_flags(eflags::IF);
    rig.board().interrupts.push(0x30);
    assert_eq!(rig.attend(), Next::Run);
    assert_eq!((rig.cpu.core.pc, rig.stack64(0), rig.stack64(1)), (at::HANDLER, 1, at::USER));
}

#[test]
fn interrupt_from_user_switches_to_the_stack_of_the_task_state() {
    let mut rig = Rig::new().protected().user();
    rig.idt(14, gate(sel::CODE0, at::HANDLER, 0x8e, 0));
    rig.cpu.core.pc = 0xa123;
    raise(&mut rig, 14, Some(6));
    rig.cpu.pending.addr = 0xdead_b000;
    assert_eq!(rig.deliver(), Next::Run);
    assert_eq!(rig.cpu.cr2, 0xdead_b000);
    assert_eq!((rig.cpu.cpl, rig.cpu.core.pc, rig.rsp()), (0, at::HANDLER, at::STACK0 - 24));
    let stack: Vec<u32> = (0..6).map(|i| rig.stack32(i)).collect();
    assert_eq!(stack, [6, 0xa123, 0x1b, 0x1_0002, at::STACK3 as u32, 0x23]);
    rig.set_rsp(rig.rsp() + 4);
    rig.call(Sys::Iret, 0, 0, 0, 2).unwrap();
    assert_eq!((rig.cpu.cpl, rig.cpu.core.pc, rig.rsp()), (3, 0xa123, at::STACK3));
    assert_eq!(rig.cpu.segs[seg::SS].selector, sel::DATA3);
}

#[test]
fn a_bad_inner_stack_raises_invalid_tss_or_stack_fault() {
    let mut rig = Rig::new().protected().user();
    rig.idt(0x30, gate(sel::CODE0, at::HANDLER, 0xee, 0));
    rig.put(at::TSS + 8, 2, u64::from(sel::DATA3));
    assert_eq!(rig.call(Sys::Int, 0, 0, 0, 0x30), Err((vector::TS, Some(0x20))));
    rig.put(at::TSS + 8, 2, 0);
    assert_eq!(rig.call(Sys::Int, 0, 0, 0, 0x30), Err((vector::TS, Some(0))));
    rig.put(at::TSS + 8, 2, u64::from(sel::DATA0));
    rig.gdt(sel::DATA0, descriptor(0, 0xfffff, 0x13, 0xc));
    assert_eq!(rig.call(Sys::Int, 0, 0, 0, 0x30), Err((vector::SS, Some(0x10))));
    rig.cpu.tr.limit = 8;
    assert_eq!(rig.call(Sys::Int, 0, 0, 0, 0x30), Err((vector::TS, Some(0x28))));
}

/// Puts what `IRET` needs to go to virtual-8086 mode on the stack.
fn v86_at(rig: &mut Rig, ip: u64, iopl: u64) {
    let frame = [ip, 0x2000, 0x2_0202 | iopl << 12, 0xfff0, 0x3000, 0x4000, 0x5000, 0x6000, 0x7000];
    for (i, v) in frame.iter().enumerate() {
        rig.put(0x6f00 + 4 * i as u64, 4, *v);
    }
    rig.set_rsp(0x6f00);
}

pub fn v86(rig: &mut Rig, iopl: u64) {
    v86_at(rig, 0x100, iopl);
    rig.call(Sys::Iret, 0, 0, 0, 2).unwrap();
}

#[test]
fn iret_enters_virtual_8086_mode_and_an_interrupt_leaves_it() {
    let mut rig = Rig::new().protected();
    rig.idt(13, gate(sel::CODE0, at::HANDLER, 0x8e, 0));
    v86(&mut rig, 0);
    assert_eq!((rig.cpu.cpl, rig.cpu.core.pc, rig.rsp()), (3, 0x100, 0xfff0));
    assert_eq!(rig.cpu.segs[seg::CS].base, 0x20000);
    assert_eq!(rig.cpu.segs[seg::SS].base, 0x30000);
    assert_eq!(rig.cpu.segs[seg::GS].base, 0x70000);
    assert_ne!(rig.cpu.key & key::V86, 0);
    assert_eq!(rig.call(Sys::Int, 0x102, 0, 0, 0x21), Err((GP, Some(0))), "IOPL below 3");
    assert_eq!(rig.call(Sys::Cli, 0, 0, 0, 0), Err((GP, Some(0))));
    assert_eq!(rig.call(Sys::Pushf, 0, 0, 0, 1), Err((GP, Some(0))));
    raise(&mut rig, 13, Some(0));
    assert_eq!(rig.deliver(), Next::Run);
    assert_eq!((rig.cpu.cpl, rig.cpu.core.pc), (0, at::HANDLER));
    assert!(!rig.cpu.v86());
    assert!(!rig.cpu.segs[seg::DS].usable());
    let stack: Vec<u32> = (0..10).map(|i| rig.stack32(i)).collect();
    assert_eq!(stack, [0, 0x100, 0x2000, 0x3_0202, 0xfff0, 0x3000, 0x4000, 0x5000, 0x6000, 0x7000]);
    rig.set_rsp(rig.rsp() + 4);
    rig.call(Sys::Iret, 0, 0, 0, 2).unwrap();
    assert!(rig.cpu.v86());
    assert_eq!((rig.cpu.core.pc, rig.rsp()), (0x100, 0xfff0));
}

#[test]
fn iret_to_virtual_8086_mode_beyond_64_kib_faults_before_anything_changes() {
    let mut rig = Rig::new().protected();
    for ip in [0x1_0000, 0xffff_0100] {
        v86_at(&mut rig, ip, 0);
        assert_eq!(rig.call(Sys::Iret, 0, 0, 0, 2), Err((GP, Some(0))), "{ip:x}");
        assert_eq!((rig.cpu.core.pc, rig.rsp(), rig.cpu.cpl, rig.cpu.v86()), (at::USER, 0x6f00, 0, false));
        assert_eq!([seg::CS, seg::SS].map(|i| rig.cpu.segs[i].selector), [sel::CODE0, sel::DATA0]);
    }
    v86_at(&mut rig, 0xffff, 0);
    rig.call(Sys::Iret, 0, 0, 0, 2).unwrap();
    assert_eq!((rig.cpu.core.pc, rig.cpu.v86()), (0xffff, true));
}

#[test]
fn virtual_8086_with_full_iopl_runs_its_own_interrupts_and_flags() {
    let mut rig = Rig::new().protected();
    rig.idt(0x21, gate(sel::CODE0, at::HANDLER, 0xee, 0));
    v86(&mut rig, 3);
    rig.call(Sys::Cli, 0, 0, 0, 0).unwrap();
    assert_eq!(rig.call(Sys::Pushf, 0, 0, 0, 1).unwrap() & 0x3202, 0x3002);
    rig.call(Sys::Popf, 0x0202, 0, 0, 1).unwrap();
    assert_eq!(rig.cpu.flags() & 0x2_3200, 0x2_3200, "IOPL and VM stay");
    rig.call(Sys::Int, 0x102, 0, 0, 0x21).unwrap();
    assert_eq!(rig.cpu.cpl, 0);
    // A gate to a level other than 0 is refused.
    v86(&mut rig, 3);
    rig.idt(0x21, gate(sel::CONFORMING, at::HANDLER, 0xee, 0));
    assert_eq!(rig.call(Sys::Int, 0x102, 0, 0, 0x21), Err((GP, Some(0x40))));
}

#[test]
fn long_mode_interrupt_aligns_the_stack_and_uses_the_interrupt_stack_table() {
    let mut rig = Rig::new().long();
    rig.idt64(14, gate(sel::CODE0, at::HANDLER, 0x8e, 0), 0);
    rig.idt64(8, gate(sel::CODE0, at::HANDLER, 0x8e, 1), 0);
    rig.put(at::TSS + 0x24, 8, 0x7f08);
    user64(&mut rig);
    raise(&mut rig, 14, Some(4));
    assert_eq!(rig.deliver(), Next::Run);
    assert_eq!((rig.cpu.cpl, rig.rsp(), rig.cpu.segs[seg::SS].selector), (0, at::STACK0 - 48, 0));
    let stack: Vec<u64> = (0..6).map(|i| rig.stack64(i)).collect();
    assert_eq!(stack, [4, at::USER, u64::from(sel::CODE3), 0x1_0202, at::STACK3, u64::from(sel::DATA3)]);
    rig.set_rsp(rig.rsp() + 8);
    rig.call(Sys::Iret, 0, 0, 0, 3).unwrap();
    assert_eq!((rig.cpu.cpl, rig.cpu.core.pc, rig.rsp()), (3, at::USER, at::STACK3));
    raise(&mut rig, 8, Some(0));
    rig.deliver();
    assert_eq!(rig.rsp(), 0x7f00 - 48);
    // Same level: the stack is aligned but not switched, SS stays null.
    rig.set_rsp(0x7777);
    raise(&mut rig, 14, Some(0));
    rig.deliver();
    assert_eq!(rig.rsp(), 0x7770 - 48);
    assert_eq!(rig.stack64(4), 0x7777);
    rig.set_rsp(rig.rsp() + 8);
    rig.call(Sys::Iret, 0, 0, 0, 3).unwrap();
    assert_eq!((rig.cpu.cpl, rig.rsp()), (0, 0x7777), "IRETQ to the same level restores RSP");
}

#[test]
fn long_mode_refuses_task_and_16_bit_gates_and_32_bit_handlers() {
    let mut rig = Rig::new().long();
    rig.idt64(0x30, gate(sel::CODE0, at::HANDLER, 0x86, 0), 0);
    assert_eq!(rig.call(Sys::Int, 0, 0, 0, 0x30), Err((GP, Some(0x30 * 8 + 2))));
    rig.idt64(0x30, gate(sel::CONFORMING, at::HANDLER, 0x8e, 0), 0);
    assert_eq!(rig.call(Sys::Int, 0, 0, 0, 0x30), Err((GP, Some(0x40))), "32-bit code");
    rig.idt64(0x30, gate(sel::CODE0, 0, 0x8e, 0), 0x1_0000);
    assert_eq!(rig.call(Sys::Int, 0, 0, 0, 0x30), Err((GP, Some(0))), "non-canonical handler");
    rig.cpu.eflags |= eflags::NT;
    assert_eq!(rig.call(Sys::Iret, 0, 0, 0, 3), Err((GP, Some(0))), "nested task");
}

#[test]
fn contributory_faults_combine_to_a_double_fault() {
    let mut rig = Rig::new().protected();
    rig.idt(8, gate(sel::CODE0, at::HANDLER, 0x8e, 0));
    // #GP whose gate is missing.
    raise(&mut rig, 13, Some(0x10));
    assert_eq!(rig.deliver(), Next::Run);
    assert_eq!(rig.cpu.core.pc, at::HANDLER);
    assert_eq!(rig.stack32(0), 0, "a double fault's error code is zero");
    assert_eq!(rig.stack32(1), at::USER as u32);
    // A benign exception whose gate is missing gives plain #GP.
    rig.idt(13, gate(sel::CODE0, 0x6100, 0x8e, 0));
    raise(&mut rig, 6, None);
    rig.deliver();
    assert_eq!((rig.cpu.core.pc, rig.stack32(0)), (0x6100, 6 * 8 + 3));
    assert!(!rig.board().shut_down);
}

#[test]
fn a_fault_while_delivering_a_double_fault_shuts_down() {
    let mut rig = Rig::new().protected();
    rig.cpu.idtr.limit = 0;
    raise(&mut rig, 13, Some(0));
    assert_eq!(rig.deliver(), Next::Leave);
    assert!(rig.board().shut_down);
}

#[test]
fn interrupts_wait_for_the_flag_and_for_the_end_of_the_shadow() {
    let mut rig = Rig::new().protected();
    rig.idt(0x30, gate(sel::CODE0, at::HANDLER, 0x8e, 0));
    rig.board().interrupts.push(0x30);
    assert_eq!(rig.attend(), Next::Run);
    assert_eq!(rig.cpu.core.pc, at::USER);
    assert!(!rig.attention());
    rig.call(Sys::Sti, 0, 0, 0, 0).unwrap();
    assert_eq!(rig.attend(), Next::Run);
    assert_eq!(rig.cpu.core.pc, at::USER, "held off after STI");
    rig.call(Sys::ClearInhibit, 0, 0, 0, 0).unwrap();
    assert!(rig.attention(), "the interrupt that was seen is looked at again");
    assert_eq!(rig.attend(), Next::Run);
    assert_eq!(rig.cpu.core.pc, at::HANDLER);
}

#[test]
fn an_interrupt_wakes_a_halted_cpu() {
    let mut rig = Rig::new().protected();
    rig.idt(0x30, gate(sel::CODE0, at::HANDLER, 0x8e, 0));
    rig.cpu.set_flags(eflags::IF);
    rig.call(Sys::Hlt, 0xa001, 0, 0, 0).unwrap();
    assert_eq!(rig.cpu.core.exit, bulkhead_engine::exit::HALT);
    rig.cpu.core.exit = 0;
    assert_eq!(rig.attend(), Next::Halt);
    rig.board().interrupts.push(0x30);
    assert_eq!(rig.attend(), Next::Run);
    assert_eq!((rig.cpu.core.pc, rig.stack32(0), rig.cpu.halted), (at::HANDLER, 0xa001, 0));
}

#[test]
fn a_second_nmi_waits_for_the_return_from_the_first() {
    let mut rig = Rig::new().protected();
    rig.idt(2, gate(sel::CODE0, at::HANDLER, 0x8e, 0));
    rig.board().requests.nmi = true;
    rig.attend();
    assert_eq!(rig.cpu.core.pc, at::HANDLER);
    rig.cpu.core.pc = 0x6010;
    rig.board().requests.nmi = true;
    rig.attend();
    assert_eq!(rig.cpu.core.pc, 0x6010);
    rig.call(Sys::Iret, 0, 0, 0, 2).unwrap();
    assert!(rig.attention());
    rig.attend();
    assert_eq!(rig.cpu.core.pc, at::HANDLER);
}

#[test]
fn an_iret_that_faults_lets_the_next_nmi_in() {
    let mut rig = Rig::new().protected();
    rig.idt(2, gate(sel::CODE0, at::HANDLER, 0x8e, 0));
    rig.board().requests.nmi = true;
    rig.attend();
    rig.board().requests.nmi = true;
    rig.attend();
    let esp = rig.cpu.core.slots[reg::RSP];
    rig.put(esp + 4, 4, 0);
    assert_eq!(rig.call(Sys::Iret, 0, 0, 0, 2), Err((GP, Some(0))), "a null selector");
    assert!(rig.attention());
    rig.cpu.core.pc = 0x6010;
    rig.attend();
    assert_eq!(rig.cpu.core.pc, at::HANDLER);
}

#[test]
fn reset_request_restores_the_power_on_state() {
    let mut rig = Rig::new().long();
    rig.board().requests.reset = true;
    assert_eq!(rig.attend(), Next::Run);
    assert_eq!((rig.cpu.core.pc, rig.cpu.segs[seg::CS].base), (0xfff0, 0xffff_0000));
    assert_eq!(rig.cpu.key, 0);
    assert_eq!(rig.cpu.cr0, 0x6000_0010);
    assert_eq!(rig.cpu.core.slots[reg::RDX], 0x0006_0fb1);
    assert_eq!((rig.cpu.core.x87.control, rig.cpu.core.x87.tags), (0x40, 0xff));
}

#[test]
fn init_keeps_what_the_manual_says_and_the_boot_processor_starts_over() {
    let mut rig = Rig::new().long();
    rig.cpu.core.vec[3] = [7; 16];
    rig.cpu.msrs.lstar = 0x1234;
    rig.cpu.cr0 &= !0x6000_0000;
    rig.board().requests.init = true;
    assert_eq!(rig.attend(), Next::Run);
    assert_eq!((rig.cpu.core.pc, rig.cpu.segs[seg::CS].base), (0xfff0, 0xffff_0000));
    assert_eq!((rig.cpu.core.vec[3], rig.cpu.msrs.lstar, rig.cpu.msrs.efer), ([7; 16], 0x1234, 0));
    assert_eq!(rig.cpu.cr0, 0x10);
}

#[test]
fn another_processor_waits_for_its_start_message_and_for_nothing_else() {
    let mut rig = Rig::new();
    rig.cpu.apic_id = 1;
    rig.board().requests.start = Some(0x33);
    assert_eq!(rig.attend(), Next::Run);
    assert_ne!(rig.cpu.segs[seg::CS].selector, 0x3300, "it did not wait");
    rig.board().requests.init = true;
    assert_eq!(rig.attend(), Next::Halt);
    rig.board().requests.nmi = true;
    assert_eq!(rig.attend(), Next::Halt);
    // Both at once, the interrupt first: it was not taken.
    rig.board().requests.nmi_before_start = true;
    rig.board().requests.start = Some(0x9a);
    assert_eq!(rig.attend(), Next::Run);
    assert_eq!((rig.cpu.segs[seg::CS].base, rig.cpu.core.pc), (0x9_a000, 0));
    assert_eq!((rig.cpu.segs[seg::CS].selector, rig.cpu.awaits_start), (0x9a00, 0));
}

#[test]
fn iret_below_level_0_keeps_iopl_and_interrupt_flag() {
    let mut rig = Rig::new().protected();
    rig.cpu.set_flags(eflags::IF);
    let mut rig = rig.user();
    for (i, v) in [0xa100, u64::from(sel::CODE3), 0x3000].iter().enumerate() {
        rig.put(at::STACK3 - 12 + 4 * i as u64, 4, *v);
    }
    rig.set_rsp(at::STACK3 - 12);
    rig.call(Sys::Iret, 0, 0, 0, 2).unwrap();
    assert_eq!(rig.cpu.flags() & 0x3200, 0x200);
    assert_eq!(rig.cpu.core.pc, 0xa100);
    rig.set_rsp(at::STACK3 - 12);
    rig.put(at::STACK3 - 8, 4, u64::from(sel::CODE0));
    assert_eq!(rig.call(Sys::Iret, 0, 0, 0, 2), Err((GP, Some(8))), "inward return");
}
