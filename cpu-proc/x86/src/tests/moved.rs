//! The same physical code at many linear addresses: compiled once, then copied and moved.

use std::sync::Barrier;

use bulkhead_engine::{Code, Privilege, Stats, mem};

use super::*;

/// The program, and a function of it on the next page.
const PROGRAM: u64 = 0x1_b000;
const FAULTS: u64 = PROGRAM + 0x80;
const WRITES: u64 = PROGRAM + 0xc0;
const FUNCTION: u64 = 0x1_c000;
/// What they read and write.
const DATA: u64 = 0x1_d000;
/// Mapped nowhere.
const ABSENT: u64 = 0x2580_0000;

/// Where the first 2 MiB of memory are, the `i`th time.
fn place(i: u64) -> u64 {
    ((8 + i) << 30) + ((8 + i) << 21)
}

fn rig(engine: Engine) -> Rig {
    let mut rig = Rig::new().long();
    for i in 1..32 {
        rig.put(0x10_1000 + 8 * (8 + i), 8, 0x10_2007);
        rig.put(0x10_2000 + 8 * (8 + i), 8, 0x87);
    }
    rig.idt64(0, gate(sel::CODE0, at::HANDLER, 0x8e, 0), 0);
    rig.idt64(14, gate(sel::CODE0, at::HANDLER, 0x8e, 0), 0);
    rig.code(at::HANDLER, &[0xf4]);
    let program = [
        0x48, 0x8d, 0x1d, 0xf9, 0x1f, 0x00, 0x00, // lea rbx, [rip + data]
        0x31, 0xc9, // xor ecx, ecx
        0x31, 0xc0, // xor eax, eax
        0x03, 0x04, 0x8b, // add eax, [rbx + rcx * 4]
        0xff, 0xc1, // inc ecx
        0x83, 0xf9, 0x08, // cmp ecx, 8
        0x75, 0xf6, // jne to the addition
        0x48, 0x89, 0x05, 0xe4, 0x20, 0x00, 0x00, // mov [rip + data + 100], rax
        0xe8, 0xdf, 0x0f, 0x00, 0x00, // call the function on the next page
        0xe8, 0x1a, 0x00, 0x00, 0x00, // call 40
        0x48, 0x8d, 0x15, 0x23, 0x00, 0x00, 0x00, // lea rdx, [rip + 50]
        0xff, 0xe2, // jmp rdx
    ];
    rig.code(PROGRAM, &program);
    let inner = [
        0x48, 0x8b, 0x3c, 0x24, // mov rdi, [rsp]
        0x85, 0xc0, // test eax, eax
        0x74, 0x03, // je to ret
        0x48, 0xff, 0xc7, // inc rdi
        0xc3, // ret
    ];
    rig.code(PROGRAM + 0x40, &inner);
    let divides = [
        0x31, 0xd2, // xor edx, edx
        0x48, 0xf7, 0x35, 0xaf, 0x20, 0x00, 0x00, // div qword [rip + data + 108]
        0xf4, // hlt
    ];
    rig.code(PROGRAM + 0x50, &divides);
    let function = [
        0x48, 0x8b, 0x35, 0x09, 0x11, 0x00, 0x00, // mov rsi, [rip + data + 110]
        0x48, 0x8b, 0x2c, 0x24, // mov rbp, [rsp]
        0xc3, // ret
    ];
    rig.code(FUNCTION, &function);
    // inc rcx; mov eax, [rip + ABSENT]
    rig.code(FAULTS, &[0x48, 0xff, 0xc1, 0x8b, 0x05]);
    rig.put(FAULTS + 5, 4, ABSENT - (FAULTS + 9));
    // mov byte [rip + 12], 3: the constant of the comparison
    rig.code(WRITES, &[0xc6, 0x05]);
    rig.put(WRITES + 2, 4, (PROGRAM + 0x12).wrapping_sub(WRITES + 7));
    rig.code(WRITES + 6, &[3, 0xf4]);
    for i in 0..8 {
        rig.put(DATA + 4 * i, 4, 0x100 + i);
    }
    rig.put(DATA + 0x108, 8, 7);
    rig.put(DATA + 0x110, 8, 0x1234_5678_9abc);
    drop(Engine::detach(&mut rig.cpu.core));
    engine.attach(&mut rig.cpu.core);
    rig
}

/// What is to be seen after a run from `start`.
fn run(rig: &mut Rig, start: u64) -> ([u64; 16], u64, u64, [u64; 6], u64) {
    rig.cpu.core.pc = start;
    rig.cpu.core.slots[..16].copy_from_slice(&[0; 16]);
    rig.set_rsp(at::STACK0);
    rig.cpu.halted = 0;
    bulkhead_engine::run(&mut rig.cpu.core);
    assert_eq!(rig.cpu.halted, 1);
    let slots = std::array::from_fn(|i| rig.cpu.core.slots[i]);
    let stack = [0, 1, 2, 3, 4, 5].map(|i| rig.get(at::STACK0 - 8 * (i + 1), 8));
    (slots, rig.cpu.core.pc, rig.get(DATA + 0x100, 8), stack, rig.cpu.cr2)
}

#[test]
fn moved_code_does_what_it_does_elsewhere_also_after_it_was_changed() {
    let mut engine = Engine::compiling(1 << 20).expect("memory for code");
    engine.verify = true;
    let mut compiled = rig(engine);
    let mut stepped = rig(Engine::new());
    let mut compare = |start: u64| {
        let expected = run(&mut stepped, start);
        assert_eq!(run(&mut compiled, start), expected, "from {start:#x}");
        (expected, Engine::of(&mut compiled.cpu.core).stats)
    };
    // Twice around, so that each place is one whose blocks were moved away.
    for i in (1..12).chain(1..12) {
        let ((slots, ..), _) = compare(place(i) + PROGRAM);
        assert_eq!(slots[reg::RDI], place(i) + PROGRAM + 0x27, "the return address, plus one");
        let ((.., stack, cr2), _) = compare(place(i) + FAULTS);
        assert_eq!(cr2, place(i) + ABSENT);
        assert!(stack.contains(&sel::CODE0.into()));
    }
    let before = compare(place(3) + PROGRAM).1;
    assert!(before.moved > 100, "{before:?}");
    // Changed at one place, it is changed at all.
    let ((slots, ..), _) = compare(place(1) + PROGRAM);
    assert_eq!(slots[reg::RCX], 8);
    compare(place(2) + WRITES);
    for i in [1, 2, 3, 20, 1] {
        let ((slots, ..), stats) = compare(place(i) + PROGRAM);
        assert_eq!(slots[reg::RCX], 3);
        assert!(stats.killed > before.killed);
    }
    // The program divides by nothing now.
    compiled.put(DATA + 0x108, 8, 0);
    stepped.put(DATA + 0x108, 8, 0);
    for i in 1..8 {
        let expected = run(&mut stepped, place(i) + PROGRAM);
        assert_eq!(run(&mut compiled, place(i) + PROGRAM), expected);
        assert!(expected.3.contains(&sel::CODE0.into()), "{expected:x?}");
    }
}

#[test]
fn code_with_addresses_of_its_own_is_compiled_at_each_place() {
    let mut engine = Engine::compiling(1 << 20).expect("memory for code");
    engine.verify = true;
    let mut rig = rig(engine);
    // mov rax, place 2; hlt
    rig.code(PROGRAM, &[0x48, 0xb8]);
    rig.put(PROGRAM + 2, 8, place(2) + PROGRAM);
    rig.code(PROGRAM + 10, &[0xf4]);
    // mov eax, [eip + DATA]; hlt
    rig.code(FUNCTION, &[0x67, 0x8d, 0x05]);
    rig.put(FUNCTION + 3, 4, DATA - (FUNCTION + 7));
    rig.code(FUNCTION + 7, &[0xf4]);
    for i in [2, 3, 4, 2, 9] {
        assert_eq!(run(&mut rig, place(i) + PROGRAM).0[reg::RAX], place(2) + PROGRAM);
        assert_eq!(run(&mut rig, place(i) + FUNCTION).0[reg::RAX], (place(i) + DATA) & 0xffff_ffff);
    }
}

/// A processor to be run on some thread.
struct Processor(Rig);

// SAFETY: a rig is used by one thread at a time; what it shares is made for that.
unsafe impl Send for Processor {}

impl Processor {
    fn rig(&mut self) -> &mut Rig {
        &mut self.0
    }
}

/// Code that three processors share: a jump to the next page, and there `mov eax, ROUND; lea rbx, [rip]; hlt`.
const ENTRY: u64 = 0x1_e000;
const SHARED: u64 = 0x1_f000;

#[test]
fn code_at_many_places_that_a_third_party_rewrites_is_run_as_it_is_by_all_processors() {
    const ROUNDS: u64 = 150;
    let code = Code::new(1 << 20, 3).expect("memory for code");
    let mut first = rig(Engine::new());
    first.code(ENTRY, &[0xe9, 0xfb, 0x0f, 0, 0]);
    first.code(SHARED, &[0xb8, 0, 0, 0, 0, 0x48, 0x8d, 0x1d, 0, 0, 0, 0, 0xf4]);
    let mut second = Rig::beside(&mut first).long();
    let mut third = Rig::beside(&mut first).long();
    for (number, rig) in [&mut first, &mut second, &mut third].into_iter().enumerate() {
        drop(Engine::detach(&mut rig.cpu.core));
        let mut engine = Engine::sharing(&code, number).expect("memory for code");
        engine.verify = true;
        engine.attach(&mut rig.cpu.core);
        // SAFETY: no processor is dropped before all have run.
        unsafe { code.join(number, &rig.cpu.core) };
    }
    let mut all = [first, second, third].map(Processor);
    let (written, seen) = (Barrier::new(3), Barrier::new(3));
    std::thread::scope(|scope| {
        for (number, processor) in all.iter_mut().enumerate() {
            let (written, seen, code) = (&written, &seen, &code);
            scope.spawn(move || {
                let rig = processor.rig();
                let mut failed = None;
                for round in 1..=ROUNDS {
                    match (number, round % 2) {
                        // By a store to yet another place of it.
                        (2, 0) => {
                            let at = place(20) + SHARED + 1;
                            mem::store(&mut rig.cpu.core, at, 4, round, Privilege::Current).expect("mapped");
                        }
                        // By a device.
                        (2, _) => {
                            rig.put(SHARED + 1, 4, round);
                            code.changed(SHARED);
                        }
                        _ => {}
                    }
                    written.wait();
                    for i in (number as u64..7).chain(0..7).filter(|_| number < 2) {
                        rig.cpu.core.pc = place(i + 1) + ENTRY;
                        rig.cpu.halted = 0;
                        bulkhead_engine::run(&mut rig.cpu.core);
                        let found = (rig.cpu.core.slots[reg::RAX], rig.cpu.core.slots[reg::RBX]);
                        if found != (round, place(i + 1) + SHARED + 12) {
                            failed = failed.or(Some((round, i, found)));
                        }
                    }
                    seen.wait();
                }
                assert_eq!(failed, None, "round, place, and what was found by processor {number}");
            });
        }
    });
    let stats: Vec<Stats> = all.iter_mut().map(|p| Engine::of(&mut p.rig().cpu.core).stats).collect();
    let (compiled, moved) = stats.iter().fold((0, 0), |sum, s| (sum.0 + s.compiled, sum.1 + s.moved));
    assert!(compiled >= ROUNDS && moved > 4 * compiled, "{stats:?}");
    assert!(stats[0].moved > ROUNDS && stats[1].moved > ROUNDS, "{stats:?}");
}
