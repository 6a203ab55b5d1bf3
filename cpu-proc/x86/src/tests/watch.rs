//! Data breakpoints: every length, at every distance, for every size of access.

use super::programs::Engines;
use super::*;

/// Where breakpoints are set, before a page's end; accesses are moved around it.
const PLACE: u64 = 0x4ff8;

/// Code that reads or writes at RDI: bytes, how many of them are accessed, whether it writes.
const ACCESSES: [(&[u8], u64, bool); 14] = [
    (&[0x8a, 0x07], 1, false),                        // mov al, [rdi]
    (&[0x66, 0x8b, 0x07], 2, false),                  // mov ax, [rdi]
    (&[0x8b, 0x07], 4, false),                        // mov eax, [rdi]
    (&[0x48, 0x8b, 0x07], 8, false),                  // mov rax, [rdi]
    (&[0x0f, 0x10, 0x07], 16, false),                 // movups xmm0, [rdi]
    (&[0x3a, 0x07], 1, false),                        // cmp al, [rdi]
    (&[0x88, 0x07], 1, true),                         // mov [rdi], al
    (&[0x66, 0x89, 0x07], 2, true),                   // mov [rdi], ax
    (&[0x89, 0x07], 4, true),                         // mov [rdi], eax
    (&[0x48, 0x89, 0x07], 8, true),                   // mov [rdi], rax
    (&[0x0f, 0x11, 0x07], 16, true),                  // movups [rdi], xmm0
    (&[0x01, 0x07], 4, true),                         // add [rdi], eax
    (&[0xf0, 0x48, 0x01, 0x07], 8, true),             // lock add [rdi], rax
    (&[0x48, 0xab, 0x48, 0x83, 0xef, 0x08], 8, true), // stosq; sub rdi, 8
];

/// A machine in 64-bit mode whose breakpoint 0 is armed: `rw` and `len` as in DR7.
fn armed(at: u64, rw: u64, len: u64) -> Rig {
    armed_on(Rig::new(), at, rw, len)
}

fn armed_on(rig: Rig, at: u64, rw: u64, len: u64) -> Rig {
    let mut rig = rig.long();
    rig.call(Sys::WriteCr, 0x220, 0, 0, 4).unwrap();
    rig.idt64(1, gate(sel::CODE0, at::HANDLER, 0x8e, 0), 0);
    rig.code(at::HANDLER, &[0xf4]);
    rig.call(Sys::WriteDr, at, 0, 0, 0).unwrap();
    rig.call(Sys::WriteDr, 1 | rw << 16 | len << 18, 0, 0, 7).unwrap();
    rig
}

/// Runs code at `USER` until it halts, there or in the handler. Which breakpoints were hit.
fn hits(engine: Engines, rig: &mut Rig, at: u64) -> u64 {
    rig.cpu.halted = 0;
    rig.cpu.dr[6] = 0;
    rig.set_rsp(0x7000);
    rig.cpu.core.pc = at::USER;
    rig.cpu.core.slots[reg::RDI] = at;
    engine.run(rig, 8);
    rig.cpu.dr[6]
}

#[test]
fn an_access_hits_a_breakpoint_where_one_byte_of_each_is_the_same() {
    Engines::each(|engine| {
        for (code, len) in [(0u64, 1u64), (1, 2), (3, 4), (2, 8)] {
            for (rw, place) in [(1, PLACE), (3, PLACE), (1, PLACE + 8), (3, PLACE + 8)] {
                let mut rig = armed(place, rw, code);
                for (bytes, size, writes) in ACCESSES {
                    rig.code(at::USER, bytes);
                    rig.code(at::USER + bytes.len() as u64, &[0xf4]);
                    for at in place - 17..place + 10 {
                        let touches = at < place + len && place < at + size && (writes || rw == 3);
                        let found = hits(engine, &mut rig, at);
                        assert_eq!(
                            found,
                            u64::from(touches),
                            "{bytes:x?} at {at:x}, breakpoint of {len} at {place:x}, R/W {rw}"
                        );
                    }
                }
            }
        }
    });
}

#[test]
fn an_instruction_breakpoint_after_a_load_of_ss_hits_on_amd_only() {
    for (model, hit) in [("qemu64", 1), ("kvm64", 0)] {
        Engines::each(|engine| {
            let code = [0x8c, 0xd0, 0x8e, 0xd0, 0xf4]; // mov eax, ss; mov ss, eax; hlt
            let mut rig = armed_on(Rig::of(model), at::USER + 4, 0, 0);
            rig.code(at::USER, &code);
            assert_eq!(hits(engine, &mut rig, PLACE), hit, "{model}");
        });
    }
}

#[test]
fn a_repeated_store_stops_after_the_one_that_hits() {
    Engines::each(|engine| {
        let mut rig = armed(0x5010, 1, 3);
        rig.code(at::USER, &[0xf3, 0xaa, 0xf4]); // rep stosb
        rig.cpu.core.slots[reg::RCX] = 0x20;
        rig.cpu.core.slots[reg::RAX] = 0x55;
        assert_eq!(hits(engine, &mut rig, 0x5003), 1);
        assert_eq!((rig.cpu.core.slots[reg::RCX], rig.cpu.core.slots[reg::RDI]), (0x12, 0x5011));
        assert_eq!((rig.stack64(0), rig.get(0x5010, 2)), (at::USER, 0x55));
    });
}

#[test]
fn the_trap_of_a_call_comes_before_the_fault_of_fetching_what_it_calls() {
    const MISSING: u64 = 0x40_0000;
    // call rax; call MISSING
    for bytes in [&[0xff, 0xd0][..], &[0xe8, 0xfb, 0x5f, 0x3f, 0x00]] {
        Engines::each(|engine| {
            let mut rig = armed(0x6ff8, 1, 2);
            rig.code(at::HANDLER, &[0x48, 0x8b, 0x1c, 0x24, 0x48, 0xcf]); // mov rbx, [rsp]; iretq
            rig.idt64(14, gate(sel::CODE0, at::HANDLER + 16, 0x8e, 0), 0);
            rig.code(at::HANDLER + 16, &[0xf4]);
            rig.code(at::USER, bytes);
            rig.cpu.core.slots[reg::RAX] = MISSING;
            assert_eq!(hits(engine, &mut rig, PLACE), 1, "{bytes:x?}");
            assert_eq!((rig.cpu.core.slots[reg::RBX], rig.cpu.core.pc), (MISSING, at::HANDLER + 17));
            assert_eq!((rig.cpu.cr2, rig.stack64(1)), (MISSING, MISSING), "the fault comes after the trap");
        });
    }
}

#[test]
fn a_fault_of_fetching_ahead_keeps_the_trap_for_the_instruction_that_hits() {
    // mov [rdi], rax; hlt: an instruction there could reach into the page that is missing.
    const CODE: [u8; 4] = [0x48, 0x89, 0x07, 0xf4];
    const END: u64 = 0x40_0000;
    Engines::each(|engine| {
        let mut rig = armed(PLACE, 1, 2);
        rig.code(at::USER, &[0xff, 0xe0]); // jmp rax
        rig.code(END - 5, &CODE);
        rig.cpu.core.slots[reg::RAX] = END - 5;
        assert_eq!(hits(engine, &mut rig, PLACE), 1);
        assert_eq!((rig.stack64(0), rig.cpu.core.pc), (END - 2, at::HANDLER + 1));
    });
}
