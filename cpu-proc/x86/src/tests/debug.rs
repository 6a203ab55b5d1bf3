//! Debug exceptions: what they come after, and what they find.

use super::programs::Engines;
use super::*;

const STEP: u64 = 1 << 14;

/// A machine in protected mode whose debug handler halts, with `code` to run.
fn rig(model: &str, code: &[u8]) -> Rig {
    let mut rig = Rig::of(model).protected();
    rig.idt(1, gate(sel::CODE0, at::HANDLER, 0x8e, 0));
    rig.code(at::HANDLER, &[0xf4]);
    rig.code(at::USER, code);
    rig.cpu.core.pc = at::USER;
    rig
}

/// Runs with the trap flag until the handler; where the program had come to, with which flags.
fn stepped(engine: Engines, rig: &mut Rig, flags: u32) -> (u64, u32) {
    rig.cpu.set_flags(flags | eflags::TF);
    rig.cpu.update_key();
    engine.run(rig, 8);
    assert_eq!(rig.cpu.core.pc, at::HANDLER + 1);
    (u64::from(rig.stack32(0)), rig.stack32(2))
}

#[test]
fn a_step_ends_behind_what_neither_jumps_nor_waits_and_behind_lss() {
    // INTO that does not trap; LSS, after which nothing is held off.
    for (code, length) in [(&[0xce, 0x90, 0x90][..], 1), (&[0x0f, 0xb2, 0x25, 0, 0x50, 0, 0, 0x90, 0x90], 7)]
    {
        Engines::each(|engine| {
            let mut rig = rig("max", code);
            rig.put(0x5000, 4, 0x6800);
            rig.put(0x5004, 2, u64::from(sel::DATA0));
            assert_eq!(stepped(engine, &mut rig, 0).0, at::USER + length, "{code:x?}");
            assert_eq!(rig.cpu.dr[6], STEP);
        });
    }
    Engines::each(|engine| {
        let mut rig = rig("core2duo", &[0x0f, 0x01, 0xc9, 0x90, 0x90]); // mwait
        rig.call(Sys::Monitor, 0x5000, 0, 0, 0).unwrap();
        rig.cpu.core.slots[reg::RCX] = 0;
        assert_eq!(stepped(engine, &mut rig, 0).0, at::USER + 3);
    });
}

#[test]
fn between_two_repetitions_the_resume_flag_is_pushed_so_that_a_breakpoint_is_not_hit_again() {
    Engines::each(|engine| {
        let mut rig = rig("max", &[0xf3, 0xaa, 0xf4]); // rep stosb
        rig.call(Sys::WriteDr, at::USER, 0, 0, 0).unwrap();
        rig.call(Sys::WriteDr, 1, 0, 0, 7).unwrap();
        rig.cpu.core.slots[reg::RDI] = 0x5000;
        rig.cpu.core.slots[reg::RCX] = 2;
        let (place, flags) = stepped(engine, &mut rig, eflags::RF);
        assert_eq!((place, flags & eflags::RF, rig.cpu.dr[6]), (at::USER, eflags::RF, STEP));
        assert_eq!(rig.cpu.core.slots[reg::RCX], 1);
        // The last one ends the instruction.
        rig.cpu.core.pc = at::USER;
        rig.cpu.halted = 0;
        rig.cpu.dr[6] = 0;
        let (place, flags) = stepped(engine, &mut rig, flags);
        assert_eq!((place, flags & eflags::RF, rig.cpu.dr[6]), (at::USER + 2, 0, STEP));
    });
}

#[test]
fn a_breakpoint_on_a_port_is_hit_by_the_first_repetition() {
    for code in [0x6e, 0x6c] {
        Engines::each(|engine| {
            let mut rig = rig("max", &[0xf3, code, 0xf4]); // rep outsb, rep insb
            rig.call(Sys::WriteCr, 8, 0, 0, 4).unwrap();
            rig.call(Sys::WriteDr, 0x80, 0, 0, 0).unwrap();
            rig.call(Sys::WriteDr, 1 | 2 << 16, 0, 0, 7).unwrap();
            for (register, value) in [(reg::RDX, 0x80), (reg::RCX, 4), (reg::RSI, 0x5000), (reg::RDI, 0x5000)]
            {
                rig.cpu.core.slots[register] = value;
            }
            engine.run(&mut rig, 8);
            assert_eq!((rig.cpu.dr[6], rig.cpu.core.slots[reg::RCX]), (1, 3), "{code:x}");
        });
    }
}

#[test]
fn every_debug_exception_ends_the_detection_of_debug_registers() {
    const DETECT: u64 = 1 << 13;
    // MOV from DR6, which is detected; a step; ICEBP.
    for (code, flags, cause) in
        [(&[0x0f, 0x21, 0xf0][..], 0, DETECT), (&[0x90], eflags::TF, STEP), (&[0xf1], 0, 0)]
    {
        Engines::each(|engine| {
            let mut rig = rig("max", code);
            rig.call(Sys::WriteDr, DETECT, 0, 0, 7).unwrap();
            rig.cpu.set_flags(flags);
            rig.cpu.update_key();
            engine.run(&mut rig, 8);
            assert_eq!(
                (rig.cpu.core.pc, rig.cpu.dr[6], rig.cpu.dr[7]),
                (at::HANDLER + 1, cause, 0x400),
                "{code:x?}"
            );
        });
    }
}

#[test]
fn a_trap_is_not_carried_into_the_management_mode() {
    let mut rig = rig("max", &[0x90]);
    rig.cpu.watched = 4;
    rig.cpu.update_key();
    rig.board().requests.smi = true;
    assert_eq!(rig.attend(), Next::Run);
    assert_eq!((rig.cpu.core.pc, rig.cpu.dr[6], rig.cpu.smm), (at::HANDLER, 4, 0));
    assert!(rig.attention());
    assert_eq!(rig.attend(), Next::Run);
    assert_eq!((rig.cpu.core.pc, rig.cpu.watched, rig.cpu.smm), (0x8000, 0, 1));
}
