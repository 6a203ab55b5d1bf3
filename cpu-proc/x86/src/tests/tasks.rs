//! Hardware task switches.

use super::*;
use crate::helpers::vector;

fn second_task(rig: &mut Rig) {
    let t = at::TSS2;
    rig.put(t + 0x20, 4, 0xb000);
    rig.put(t + 0x24, 4, 0x2);
    for i in 0..8 {
        rig.put(t + 0x28 + 4 * i, 4, 0x100 + i);
    }
    rig.put(t + 0x38, 4, at::STACK3);
    for (i, s) in [sel::DATA0, sel::CODE0, sel::DATA0, sel::DATA0, 0, 0].iter().enumerate() {
        rig.put(t + 0x48 + 4 * i as u64, 4, u64::from(*s));
    }
}

fn busy(rig: &mut Rig, selector: u16) -> bool {
    rig.get(at::GDT + u64::from(selector) + 5, 1) & 2 != 0
}

#[test]
fn a_call_nests_and_iret_returns() {
    let mut rig = Rig::new().protected();
    second_task(&mut rig);
    rig.cpu.core.slots[reg::RBX] = 0x77;
    rig.call(Sys::FarCall, u64::from(sel::TSS2), 0, 0xa007, 2).unwrap();
    assert_eq!((rig.cpu.core.pc, rig.cpu.core.slots[reg::RBX], rig.rsp()), (0xb000, 0x103, at::STACK3));
    assert_eq!(rig.cpu.eflags & eflags::NT, eflags::NT);
    assert_eq!(rig.cpu.cr0 & cr0::TS, cr0::TS);
    assert!(busy(&mut rig, sel::TSS) && busy(&mut rig, sel::TSS2));
    assert_eq!(rig.get(at::TSS2, 2), u64::from(sel::TSS));
    assert_eq!((rig.get(at::TSS + 0x20, 4), rig.get(at::TSS + 0x34, 4)), (0xa007, 0x77));
    rig.cpu.core.pc = 0xb020;
    rig.call(Sys::Iret, 0xb021, 0, 0, 2).unwrap();
    assert_eq!(rig.get(at::TSS2 + 0x20, 4), 0xb021, "the task goes on behind its IRET");
    assert_eq!((rig.cpu.core.pc, rig.cpu.core.slots[reg::RBX]), (0xa007, 0x77));
    assert!(busy(&mut rig, sel::TSS) && !busy(&mut rig, sel::TSS2));
    assert_eq!(rig.cpu.tr.selector, sel::TSS);
    assert_eq!(rig.get(at::TSS2 + 0x24, 4) as u32 & eflags::NT, 0);
}

/// In the first task, the second with its trap flag set: as a debugger leaves the one that it steps.
fn stepped_task() -> Rig {
    let mut rig = Rig::new().protected();
    second_task(&mut rig);
    rig.put(at::TSS2 + 0x24, 4, 0x102);
    rig
}

#[test]
fn a_task_with_the_trap_flag_traps_after_its_first_instruction() {
    for id in [Sys::FarJmp, Sys::FarCall, Sys::Iret] {
        let mut rig = stepped_task();
        if id == Sys::Iret {
            rig.gdt(sel::TSS2, descriptor(at::TSS2, 0x67, 0x8b, 0));
            rig.put(at::TSS, 2, u64::from(sel::TSS2));
            rig.cpu.eflags |= eflags::NT;
        }
        rig.idt(1, gate(sel::CODE0, at::HANDLER, 0x8e, 0));
        rig.code(0xb000, &[0x90, 0x90]);
        rig.cpu.core.pc = at::USER;
        let result = match id {
            Sys::Iret => rig.call(id, at::USER + 1, 0, 0, 2),
            _ => rig.call(id, u64::from(sel::TSS2), 0, at::USER + 7, 2),
        };
        assert_eq!((result, rig.cpu.core.pc), (Ok(0), 0xb000), "{id:?}");
        rig.step(1);
        assert_eq!((rig.cpu.core.pc, rig.stack32(0)), (at::HANDLER, 0xb001), "{id:?}");
        assert_eq!(rig.cpu.dr[6] & 0xe00f, 1 << 14, "{id:?}");
    }
}

#[test]
fn a_debug_trap_bit_of_the_task_state_comes_before_its_first_instruction() {
    let mut rig = stepped_task();
    rig.put(at::TSS2 + 0x64, 2, 1);
    let result = rig.call(Sys::FarJmp, u64::from(sel::TSS2), 0, at::USER + 7, 2);
    assert_eq!((result, rig.cpu.core.pc), (Err((vector::DB, None)), 0xb000));
    assert_eq!(rig.cpu.pending.dr6, 1 << 15);
}

#[test]
fn a_jump_through_a_task_gate_frees_the_old_task() {
    let mut rig = Rig::new().protected().user();
    second_task(&mut rig);
    rig.call(Sys::FarJmp, u64::from(sel::TASK_GATE), 0, 0xa007, 2).unwrap();
    assert_eq!((rig.cpu.cpl, rig.cpu.core.pc), (0, 0xb000));
    assert_eq!(rig.get(at::TSS + 0x20, 4), 0xa007, "the task that was left goes on behind the jump");
    assert!(!busy(&mut rig, sel::TSS));
    let again = rig.call(Sys::FarJmp, u64::from(sel::TSS2), 0, 0, 2);
    assert_eq!(again, Err((vector::GP, Some(0x30))), "the current task is busy");
}

#[test]
fn an_exception_through_a_task_gate_pushes_its_error_code_there() {
    let mut rig = Rig::new().protected();
    second_task(&mut rig);
    rig.idt(8, gate(sel::TSS2, 0, 0x85, 0));
    rig.call(Sys::Raise, 0, 0, 0, 0x108).unwrap_err();
    rig.cpu.pending.vector = 8;
    assert_eq!(rig.deliver(), Next::Run);
    assert_eq!((rig.cpu.core.pc, rig.rsp(), rig.stack32(0)), (0xb000, at::STACK3 - 4, 0));
}

#[test]
fn a_bad_stack_selector_faults_in_the_new_task() {
    let mut rig = Rig::new().protected();
    second_task(&mut rig);
    rig.put(at::TSS2 + 0x50, 4, u64::from(sel::DATA3));
    let result = rig.call(Sys::FarCall, u64::from(sel::TSS2), 0, 0xa007, 2);
    assert_eq!(result, Err((vector::TS, Some(0x20))));
    assert_eq!((rig.cpu.tr.selector, rig.cpu.core.pc), (sel::TSS2, 0xb000));
}

#[test]
fn a_short_task_state_is_refused_before_anything_changes() {
    let mut rig = Rig::new().protected();
    rig.gdt(sel::TSS2, descriptor(at::TSS2, 0x66, 0x89, 0));
    let result = rig.call(Sys::FarCall, u64::from(sel::TSS2), 0, 0xa007, 2);
    assert_eq!(result, Err((vector::TS, Some(0x30))));
    assert_eq!(rig.cpu.tr.selector, sel::TSS);
}

#[test]
fn a_task_state_with_the_vm_flag_enters_virtual_8086_mode() {
    let mut rig = Rig::new().protected();
    second_task(&mut rig);
    rig.put(at::TSS2 + 0x24, 4, 0x2_0002);
    rig.put(at::TSS2 + 0x20, 4, 0x10);
    rig.put(at::TSS2 + 0x4c, 4, 0x3000);
    rig.call(Sys::FarJmp, u64::from(sel::TSS2), 0, 0, 2).unwrap();
    assert!(rig.cpu.v86());
    assert_eq!((rig.cpu.cpl, rig.cpu.segs[seg::CS].base), (3, 0x30000));
}

#[test]
fn sixteen_bit_task_states_switch_too() {
    let mut rig = Rig::new().protected();
    rig.gdt(sel::TSS2, descriptor(at::TSS2, 0x2b, 0x81, 0));
    rig.gdt(sel::CODE16, descriptor(0, 0xffff, 0x9a, 0));
    let t = at::TSS2;
    rig.put(t + 0x0e, 2, 0xb000);
    rig.put(t + 0x10, 2, 2);
    rig.put(t + 0x12, 2, 0x4242);
    rig.put(t + 0x1a, 2, 0x5000);
    for (i, s) in [sel::DATA0, sel::CODE16, sel::DATA0, sel::DATA0].iter().enumerate() {
        rig.put(t + 0x22 + 2 * i as u64, 2, u64::from(*s));
    }
    rig.call(Sys::FarJmp, u64::from(sel::TSS2), 0, 0, 2).unwrap();
    assert_eq!((rig.cpu.core.pc, rig.cpu.core.slots[0] as u16), (0xb000, 0x4242));
    assert_eq!(rig.cpu.key & key::CODE32, 0);
}
