//! Small programs in machine code, through decoder and lowering, in the interpreter and in compiled code.

use super::*;

/// Where a program runs.
#[derive(Clone, Copy, Debug)]
pub enum Engines {
    Interpreter,
    Compiler,
}

impl Engines {
    pub fn each(test: impl Fn(Engines)) {
        test(Engines::Interpreter);
        test(Engines::Compiler);
    }

    /// Until the CPU halts, within `limit` instructions where they can be counted.
    pub fn run(self, rig: &mut Rig, limit: u32) {
        match self {
            Engines::Interpreter => assert_eq!(rig.step(limit), Next::Halt),
            Engines::Compiler => {
                drop(Engine::detach(&mut rig.cpu.core));
                Engine::compiling(1 << 20).expect("memory for code").attach(&mut rig.cpu.core);
                bulkhead_engine::run(&mut rig.cpu.core);
                assert_eq!(rig.cpu.halted, 1);
                let engine = Engine::detach(&mut rig.cpu.core).expect("attached above");
                assert!(engine.stats.compiled > 0);
            }
        }
    }
}

#[test]
fn real_mode_program_enters_protected_mode() {
    Engines::each(|engine| {
        let mut rig = Rig::new();
        rig.tables();
        rig.put(0x500, 2, 0x9f);
        rig.put(0x502, 4, at::GDT);
        let program = [
            0xea, 0x05, 0x06, 0x00, 0x00, // jmp 0:0605
            0xfa, // cli
            0x31, 0xc0, // xor ax, ax
            0x8e, 0xd8, // mov ds, ax
            0x0f, 0x01, 0x16, 0x00, 0x05, // lgdt [0500]
            0x0f, 0x20, 0xc0, // mov eax, cr0
            0x0c, 0x01, // or al, 1
            0x0f, 0x22, 0xc0, // mov cr0, eax
            0x66, 0xea, 0x00, 0xa0, 0x00, 0x00, 0x08, 0x00, // jmp 8:0000a000
        ];
        rig.code(0x600, &program);
        let user = [
            0x66, 0xb8, 0x10, 0x00, // mov ax, 10
            0x8e, 0xd0, // mov ss, ax
            0xbc, 0x00, 0x70, 0x00, 0x00, // mov esp, 7000
            0x68, 0x78, 0x56, 0x34, 0x12, // push 12345678
            0x58, // pop eax
            0xf4, // hlt
        ];
        rig.code(at::USER, &user);
        rig.call(Sys::FarJmp, 0, 0x600, 0, 1).unwrap();
        engine.run(&mut rig, 40);
        assert_eq!((rig.cpu.core.slots[0], rig.rsp()), (0x1234_5678, 0x7000));
        assert_eq!(rig.cpu.core.pc, at::USER + user.len() as u64);
    });
}

#[test]
fn user_program_faults_into_its_kernel_and_is_resumed() {
    Engines::each(|engine| {
        let mut rig = Rig::new().protected().user();
        rig.idt(14, gate(sel::CODE0, at::HANDLER, 0x8e, 0));
        rig.idt(0x80, gate(sel::CODE0, 0x6100, 0xee, 0));
        // Page 5 is missing until the handler maps it.
        rig.put(0x10_0000, 4, 0x10_1007);
        for i in 0..16u64 {
            rig.put(0x10_1000 + 4 * i, 4, i << 12 | 7);
        }
        rig.put(0x10_1014, 4, 0);
        rig.cpu.set_cpl(0);
        rig.call(Sys::WriteCr, 0x10_0000, 0, 0, 3).unwrap();
        rig.call(Sys::WriteCr, 0x8001_0011, 0, 0, 0).unwrap();
        rig.cpu.set_cpl(3);
        rig.cpu.update_key();
        rig.put(0x10_0000, 4, 0x10_1007);
        // The page table itself must be reachable for the handler: map page 6 of it.
        rig.put(0x10_1000 + 4 * 0xe, 4, 0x10_1003);
        rig.put(0x5010, 4, 41);
        rig.code(
            at::USER,
            &[
                0xff, 0x05, 0x10, 0x50, 0x00, 0x00, // inc dword [5010]
                0xa1, 0x10, 0x50, 0x00, 0x00, // mov eax, [5010]
                0xcd, 0x80, // int 80
            ],
        );
        rig.code(
            at::HANDLER,
            &[
                0xc7, 0x05, 0x14, 0xe0, 0x00, 0x00, 0x07, 0x50, 0x00, 0x00, // mov dword [e014], 5007
                0x83, 0xc4, 0x04, // add esp, 4
                0xcf, // iret
            ],
        );
        rig.code(0x6100, &[0xf4]);
        // The handler runs with the user's DS, which is flat.
        engine.run(&mut rig, 20);
        assert_eq!(rig.cpu.core.slots[0], 42);
        assert_eq!(rig.cpu.cr2, 0x5010);
        assert_eq!(rig.cpu.cpl, 0);
    });
}

#[test]
fn trap_flag_steps_one_instruction_at_a_time() {
    Engines::each(|engine| {
        let mut rig = Rig::new().protected();
        rig.idt(1, gate(sel::CODE0, at::HANDLER, 0x8e, 0));
        rig.code(
            at::USER,
            &[
                0x68, 0x02, 0x01, 0x00, 0x00, // push 102
                0x9d, // popf: the trap comes after the next instruction
                0x40, // inc eax
                0x40, // inc eax
            ],
        );
        rig.code(at::HANDLER, &[0xf4]);
        rig.cpu.core.pc = at::USER;
        engine.run(&mut rig, 10);
        assert_eq!(rig.cpu.core.slots[0], 1);
        assert_eq!(rig.stack32(0), at::USER as u32 + 7);
        assert_eq!(rig.cpu.dr[6] & 1 << 14, 1 << 14);
    });
}

#[test]
fn long_mode_program_makes_a_system_call() {
    Engines::each(|engine| {
        let mut rig = Rig::new().long();
        rig.wrmsr(0xc000_0081, 0x0010_0008_0000_0000).unwrap();
        rig.wrmsr(0xc000_0082, at::HANDLER).unwrap();
        rig.wrmsr(0xc000_0084, 0x200).unwrap();
        far::user64(&mut rig);
        rig.code(
            at::USER,
            &[
                0x48, 0xc7, 0xc0, 0x05, 0x00, 0x00, 0x00, // mov rax, 5
                0x0f, 0x05, // syscall
                0x48, 0xff, 0xc0, // inc rax
                0xf4, // hlt: #GP at level 3
            ],
        );
        rig.code(at::HANDLER, &[0x48, 0x01, 0xc0, 0x48, 0x0f, 0x07]); // add rax, rax; sysretq
        rig.idt64(13, gate(sel::CODE0, 0x6100, 0x8e, 0), 0);
        rig.code(0x6100, &[0xf4]);
        engine.run(&mut rig, 20);
        assert_eq!(rig.cpu.core.slots[0], 11);
        assert_eq!(rig.stack64(0), 0, "error code of #GP");
        assert_eq!(rig.stack64(1), at::USER + 12);
    });
}

#[test]
fn loading_the_stack_segment_holds_the_step_trap_off_for_one_instruction() {
    Engines::each(|engine| {
        let mut rig = Rig::new().protected();
        rig.idt(1, gate(sel::CODE0, at::HANDLER, 0x8e, 0));
        rig.code(
            at::USER,
            &[
                0x68, 0x02, 0x01, 0x00, 0x00, // push 102
                0x9d, // popf
                0x8e, 0xd3, // mov ss, bx
                0x40, // inc eax
                0x40, // inc eax
            ],
        );
        rig.code(at::HANDLER, &[0xf4]);
        rig.cpu.core.pc = at::USER;
        rig.cpu.core.slots[reg::RBX] = u64::from(sel::DATA0);
        engine.run(&mut rig, 10);
        assert_eq!(rig.cpu.core.slots[0], 1);
        assert_eq!(rig.stack32(0), at::USER as u32 + 9);
    });
}

#[test]
fn a_data_breakpoint_traps_after_the_instruction_that_wrote() {
    Engines::each(|engine| {
        let mut rig = Rig::new().protected();
        rig.idt(1, gate(sel::CODE0, at::HANDLER, 0x8e, 0));
        rig.code(
            at::USER,
            &[
                0xa1, 0x00, 0x50, 0x00, 0x00, // mov eax, [5000]: only writes are watched
                0xa3, 0x04, 0x50, 0x00, 0x00, // mov [5004], eax
                0xa3, 0x02, 0x50, 0x00, 0x00, // mov [5002], eax
                0x43, // inc ebx
            ],
        );
        rig.code(at::HANDLER, &[0xf4]);
        rig.put(0x5000, 4, 0x1234);
        rig.call(Sys::WriteDr, 0x5000, 0, 0, 2).unwrap();
        rig.call(Sys::WriteDr, 0x0d00_0010, 0, 0, 7).unwrap();
        rig.cpu.core.pc = at::USER;
        engine.run(&mut rig, 10);
        assert_eq!(rig.stack32(0), at::USER as u32 + 15);
        assert_eq!(rig.cpu.core.slots[reg::RBX], 0, "before the next instruction");
        assert_eq!(rig.get(0x5002, 2), 0x1234, "after the store");
        assert_eq!(rig.cpu.dr[6], 4);
        assert_eq!(rig.cpu.watched, 0);
    });
}

fn lowered(rig: &mut Rig, code: &[u8]) -> bulkhead_ir::Block {
    struct Bytes<'a>(u64, &'a [u8]);
    impl bulkhead_engine::CodeSource for Bytes<'_> {
        fn byte(&mut self, addr: u64) -> Result<u8, Fault> {
            Ok(self.1.get((addr - self.0) as usize).copied().unwrap_or(0x90))
        }
    }
    let mut block = bulkhead_ir::Block::default();
    rig.cpu.core.pc = at::USER;
    (OPS.lower)(&mut rig.cpu.core, &mut Bytes(at::USER, code), 32, &mut block).unwrap();
    block
}

#[test]
fn a_block_ends_with_a_poll_after_the_instruction_that_follows_sti() {
    use bulkhead_ir::Opcode;
    let mut rig = Rig::new().protected();
    let calls = |block: &bulkhead_ir::Block| {
        let call = |op: &&bulkhead_ir::Op| op.op == Opcode::Call;
        block.ops.iter().filter(call).map(|op| op.imm as u16).collect::<Vec<_>>()
    };
    // nop; sti; inc eax; inc eax
    let block = lowered(&mut rig, &[0x90, 0xfb, 0x40, 0x40]);
    assert_eq!(block.insns, 3);
    assert_eq!(calls(&block), [Sys::Sti as u16, Sys::ClearInhibit as u16]);
    assert_eq!(block.ops.last().map(|op| op.op), Some(Opcode::GotoReg));
    // sti; jz +0: both ways through the poll
    let block = lowered(&mut rig, &[0xfb, 0x74, 0x00]);
    assert_eq!((block.insns, block.ops.last().map(|op| op.op)), (2, Some(Opcode::GotoReg)));
    // STI as the last instruction of a block: the next one knows from the key, so it is not chained.
    let mut code = vec![0x90; 31];
    code.push(0xfb);
    let block = lowered(&mut rig, &code);
    let last = block.ops.last().map(|op| (op.op, op.k));
    assert_eq!((block.insns, last), (32, Some((Opcode::Goto, 0))));
}

#[test]
fn a_block_ends_behind_an_instruction_that_serialises() {
    for code in [
        &[0x0f, 0xa2][..],   // cpuid
        &[0x0f, 0x08],       // invd
        &[0x0f, 0x09],       // wbinvd
        &[0x0f, 0x01, 0x10], // lgdt [eax]
        &[0x0f, 0x01, 0x18], // lidt [eax]
        &[0x0f, 0x01, 0x38], // invlpg [eax]
        &[0x0f, 0x30],       // wrmsr
        &[0x0f, 0x22, 0xd8], // mov cr3, eax
        &[0x0f, 0x23, 0xc0], // mov dr0, eax
        &[0x0f, 0x00, 0xd0], // lldt ax
        &[0x0f, 0x00, 0xd8], // ltr ax
    ] {
        let block = lowered(&mut Rig::new().protected(), code);
        assert_eq!((block.insns, block.len), (1, code.len() as u32), "{code:x?}");
        assert_eq!(
            block.ops.last().map(|op| (op.op, op.k)),
            Some((bulkhead_ir::Opcode::Goto, 0)),
            "{code:x?}"
        );
    }
}

#[test]
fn an_interrupt_is_taken_after_the_instruction_that_follows_sti() {
    let mut rig = Rig::new().protected();
    rig.idt(0x30, gate(sel::CODE0, at::HANDLER, 0x8e, 0));
    rig.code(
        at::USER,
        &[
            0x40, // inc eax
            0xfb, // sti
            0x40, // inc eax
            0xfa, // cli
            0x40, // inc eax
            0xf4,
        ],
    );
    rig.code(at::HANDLER, &[0xf4]);
    rig.cpu.core.pc = at::USER;
    rig.board().interrupts.push(0x30);
    Engines::Compiler.run(&mut rig, 0);
    assert_eq!(rig.stack32(0), at::USER as u32 + 3);
    assert_eq!(rig.cpu.core.slots[0], 2);
}

#[test]
fn sti_and_hlt_wake_for_an_interrupt_that_was_pending() {
    let mut rig = Rig::new().protected();
    rig.idt(0x30, gate(sel::CODE0, at::HANDLER, 0x8e, 0));
    rig.code(at::USER, &[0xfb, 0xf4, 0x40, 0xfa, 0xf4]); // sti; hlt; inc eax; cli; hlt
    rig.code(at::HANDLER, &[0x43, 0xcf]); // inc ebx; iret
    rig.cpu.core.pc = at::USER;
    rig.board().interrupts.push(0x30);
    Engines::Compiler.run(&mut rig, 0);
    assert_eq!((rig.cpu.core.slots[0], rig.cpu.core.slots[reg::RBX]), (1, 1));
    assert_eq!(rig.cpu.core.pc, at::USER + 5);
}

/// `ICEBP`: the opcode F1, then what must not run.
const ICEBP: [u8; 2] = [0xf1, 0x0b];
/// DR6 as an earlier single step left it: none of its bits stands for `INT1` (SDM volume 3B, "Debug Status Register").
const STEPPED: u64 = 0xffff_4ff0;

/// Runs `ICEBP` at `pc` until its handler halts at the linear address `handler`.
fn icebp(engine: Engines, rig: &mut Rig, pc: u64, handler: u64) {
    let linear = rig.cpu.segs[seg::CS].base + pc;
    rig.code(linear, &ICEBP);
    rig.code(handler, &[0xf4]);
    rig.cpu.core.pc = pc;
    rig.cpu.dr[6] = STEPPED;
    engine.run(rig, 2);
    assert_eq!((rig.cpu.segs[seg::CS].base + rig.cpu.core.pc, rig.cpu.dr[6]), (handler + 1, STEPPED));
}

#[test]
fn cve_2007_1322_icebp_is_a_trap_to_vector_1_in_real_mode() {
    Engines::each(|engine| {
        let mut rig = Rig::new();
        rig.call(Sys::FarJmp, 0, 0x600, 0, 1).unwrap();
        rig.put(4, 4, 0x0040_0000);
        rig.set_rsp(0x7000);
        icebp(engine, &mut rig, 0x600, 0x400);
        assert_eq!(rig.get(0x6ffa, 6), 0x0002_0000_0601);
    });
}

#[test]
fn cve_2007_1322_icebp_needs_no_privilege_in_16_and_32_bit_code() {
    Engines::each(|engine| {
        let mut rig = Rig::new().protected();
        rig.idt(1, gate(sel::CODE0, at::HANDLER, 0x86, 0));
        rig.call(Sys::FarJmp, u64::from(sel::CODE16), at::USER, 0, 2).unwrap();
        icebp(engine, &mut rig, at::USER, at::HANDLER);
        assert_eq!(rig.get(0x7000 - 6, 6), 0x0002_0038_a001, "a 16-bit gate: flags, CS, IP");
        // The gate's level is 0, the program's is 3: INT 1 would fault.
        let mut rig = Rig::new().protected().user();
        rig.idt(1, gate(sel::CODE0, at::HANDLER, 0x8e, 0));
        icebp(engine, &mut rig, at::USER, at::HANDLER);
        let stack: Vec<u32> = (0..5).map(|i| rig.stack32(i)).collect();
        assert_eq!(stack, [at::USER as u32 + 1, 0x1b, 2, at::STACK3 as u32, 0x23]);
    });
}

#[test]
fn cve_2007_1322_icebp_needs_no_privilege_in_64_bit_code() {
    Engines::each(|engine| {
        let mut rig = Rig::new().long();
        rig.idt64(1, gate(sel::CODE0, at::HANDLER, 0x8e, 0), 0);
        super::far::user64(&mut rig);
        icebp(engine, &mut rig, at::USER, at::HANDLER);
        let stack: Vec<u64> = (0..5).map(|i| rig.stack64(i)).collect();
        assert_eq!(stack, [at::USER + 1, u64::from(sel::CODE3), 0x202, at::STACK3, u64::from(sel::DATA3)]);
    });
}

#[test]
fn cve_2007_1322_icebp_leaves_virtual_8086_mode_whatever_iopl_and_the_redirection_map_say() {
    Engines::each(|engine| {
        for (iopl, vme) in [(0, false), (3, false), (0, true), (3, true)] {
            let mut rig = Rig::new().protected();
            rig.idt(1, gate(sel::CODE0, at::HANDLER, 0x8e, 0));
            if vme {
                // The whole map clear: INT 1 would stay in the program.
                rig.call(Sys::WriteCr, 1, 0, 0, 4).unwrap();
                rig.put(at::TSS + 0x66, 2, 0x88);
            }
            super::interrupts::v86(&mut rig, iopl);
            icebp(engine, &mut rig, 0x100, at::HANDLER);
            assert!(!rig.cpu.v86());
            let stack: Vec<u32> = (0..5).map(|i| rig.stack32(i)).collect();
            let flags = 0x2_0202 | (iopl as u32) << 12;
            assert_eq!(stack, [0x101, 0x2000, flags, 0xfff0, 0x3000], "IOPL {iopl}, VME {vme}");
        }
    });
}

#[test]
fn a_nested_frame_that_overlaps_the_one_it_copies_is_made_once_though_its_end_lies_in_its_own_code() {
    let frames = |engine: Engines, size: u16| {
        let mut rig = Rig::new().protected();
        let [low, high] = size.to_le_bytes();
        rig.code(at::USER, &[0xc8, low, high, 8, 0xf4]); // enter size, 8; hlt
        rig.cpu.core.pc = at::USER;
        for i in 0..32 {
            rig.put(0xaf80 + 4 * i, 4, 0x100 + i);
        }
        rig.set_rsp(0xaff0);
        rig.cpu.core.slots[reg::RBP] = 0xafe8;
        engine.run(&mut rig, 4);
        (0..32).map(|i| rig.get(0xaf80 + 4 * i, 4)).collect::<Vec<_>>()
    };
    let elsewhere = frames(Engines::Interpreter, 0x100);
    // The new top of the stack is the instruction itself.
    let own = 0xaff0 - 4 * 9 - at::USER as u16;
    Engines::each(|engine| assert_eq!(frames(engine, own), elsewhere));
}

#[test]
fn what_depends_on_the_carry_changes_it_behind_the_store() {
    use bulkhead_ir::{Op, Opcode, SET_FLAGS};
    // adc [rbx], eax; adc byte [rbx], 1; sbb [rbx], rax; rcl dword [rbx], cl; rcr word [rbx], 1
    for code in
        [&[0x11, 0x03][..], &[0x80, 0x13, 0x01], &[0x48, 0x19, 0x03], &[0xd3, 0x13], &[0x66, 0xd1, 0x1b]]
    {
        let block = lowered(&mut Rig::new().long(), code);
        let first =
            block.ops.iter().skip(2).position(|op| op.op == Opcode::Insn).expect("the next instruction");
        let ops = &block.ops[..first + 2];
        let store = ops.iter().position(|op| op.op == Opcode::St).expect("a store");
        let sets = |op: &&Op| matches!(op.op, Opcode::Alu | Opcode::Shift) && op.s & SET_FLAGS != 0;
        assert_eq!(ops[..store].iter().filter(sets).count(), 0, "{code:02x?}");
        assert_eq!(ops[store..].iter().filter(sets).count(), 1, "{code:02x?}");
    }
}
