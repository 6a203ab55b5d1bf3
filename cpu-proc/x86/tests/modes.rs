//! Hand cases for 16- and 32-bit code, real mode, stepping and decoding rules that the host cannot run.

mod support;

use bulkhead_x86::state::{Segment, eflags, inhibit, seg};
use support::Bench;

const LEN: usize = 0x20_0000;
const CODE: u64 = 0x1000;
const STACK: u64 = 0x9000;

/// A bench with its own memory.
struct Pc {
    bench: Bench,
    memory: Vec<Frame>,
}

/// A page, where the host has one.
#[derive(Clone)]
#[repr(C, align(4096))]
struct Frame([u64; 512]);

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RBX: usize = 3;
const RSP: usize = 4;
const RBP: usize = 5;
const RSI: usize = 6;
const RDI: usize = 7;

impl Pc {
    /// Protected mode with flat segments of `bits`, or real mode for 0.
    fn new(bits: u32) -> Pc {
        let mut memory = vec![Frame([0; 512]); LEN / 4096];
        let mut bench = Bench::new(0, memory.as_mut_ptr().cast(), LEN as u64);
        if bits == 0 {
            for segment in &mut bench.cpu.segs {
                *segment = Segment { base: 0, limit: 0xffff, attr: 0x93, selector: 0 };
            }
            bench.cpu.segs[seg::CS].attr = 0x9b;
            bench.cpu.update_key();
        } else {
            bench.flat(bits);
        }
        bench.cpu.core.slots[RSP] = STACK;
        Pc { bench, memory }
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        for (i, b) in bytes.iter().enumerate() {
            let at = at as usize + i;
            let word = &mut self.memory[at / 4096].0[at % 4096 / 8];
            let mut all = word.to_le_bytes();
            all[at % 8] = *b;
            *word = u64::from_le_bytes(all);
        }
    }

    fn byte(&self, at: u64) -> u8 {
        let at = at as usize;
        self.memory[at / 4096].0[at % 4096 / 8].to_le_bytes()[at % 8]
    }

    fn word(&self, at: u64, size: u64) -> u64 {
        (0..size).fold(0, |v, i| v | u64::from(self.byte(at + i)) << (8 * i))
    }

    fn set(&mut self, r: usize, value: u64) -> &mut Pc {
        self.bench.cpu.core.slots[r] = value;
        self
    }

    fn get(&self, r: usize) -> u64 {
        self.bench.cpu.core.slots[r]
    }

    fn flags(&self) -> u32 {
        self.bench.cpu.core.cc_eflags()
    }

    /// Runs `code` at `CODE` until it falls out at its end.
    fn run(&mut self, code: &[u8]) -> Result<(), u32> {
        self.write(CODE, code);
        self.bench.cpu.core.pc = CODE;
        for _ in 0..10_000 {
            if self.bench.cpu.core.pc == CODE + code.len() as u64 {
                return Ok(());
            }
            self.bench.step()?;
        }
        panic!("the code does not end");
    }
}

const UD: u32 = 6;
const GP: u32 = 13;
const SS: u32 = 12;
const DE: u32 = 0;
const DB: u32 = 1;

#[test]
fn pusha_stores_the_old_stack_pointer_and_popa_skips_it() {
    for (bits, prefix, size) in [(16, 0x66, 4), (16, 0, 2), (32, 0, 4), (32, 0x66, 2), (0, 0, 2)] {
        let mut pc = Pc::new(bits);
        for r in 0..8 {
            pc.set(r, 0x1111_1111 * (r as u64 + 1));
        }
        pc.set(RSP, STACK);
        let code: Vec<u8> = if prefix == 0 { vec![0x60] } else { vec![prefix, 0x60] };
        pc.run(&code).unwrap();
        assert_eq!(pc.get(RSP), STACK - 8 * size);
        let mask = if size == 2 { 0xffff } else { 0xffff_ffff };
        for r in 0..8u64 {
            let expected = if r == 4 { STACK } else { 0x1111_1111 * (r + 1) } & mask;
            assert_eq!(pc.word(STACK - size * (r + 1), size), expected, "{bits} {prefix:x} register {r}");
        }
        for r in [0, 1, 2, 3, 5, 6, 7] {
            pc.set(r, 0xaaaa_aaaa);
        }
        let code: Vec<u8> = if prefix == 0 { vec![0x61] } else { vec![prefix, 0x61] };
        pc.run(&code).unwrap();
        assert_eq!(pc.get(RSP), STACK);
        for r in [0u64, 1, 2, 3, 5, 6, 7] {
            let expected = ((0x1111_1111 * (r + 1)) & mask) | (0xaaaa_aaaa & !mask);
            assert_eq!(pc.get(r as usize), expected & 0xffff_ffff, "{bits} {prefix:x} register {r}");
        }
    }
}

#[test]
fn push_of_the_stack_pointer_stores_the_old_value() {
    let mut pc = Pc::new(32);
    pc.run(&[0x54]).unwrap();
    assert_eq!(pc.word(STACK - 4, 4), STACK);
    assert_eq!(pc.get(RSP), STACK - 4);
}

#[test]
fn pop_to_memory_addressed_by_the_stack_pointer_uses_the_new_one() {
    let mut pc = Pc::new(32);
    pc.write(STACK, &0x1234_5678u32.to_le_bytes());
    pc.run(&[0x8f, 0x44, 0x24, 0x08]).unwrap(); // pop dword [esp+8]
    assert_eq!(pc.word(STACK + 4 + 8, 4), 0x1234_5678);
    assert_eq!(pc.get(RSP), STACK + 4);
}

#[test]
fn a_16_bit_stack_wraps_and_keeps_the_upper_half() {
    let mut pc = Pc::new(16);
    pc.set(RSP, 0xabcd_0000).set(RAX, 0x5566);
    pc.run(&[0x50]).unwrap();
    assert_eq!(pc.get(RSP), 0xabcd_fffe);
    assert_eq!(pc.word(0xfffe, 2), 0x5566);
}

#[test]
fn enter_with_nesting_copies_the_frame_pointers() {
    // SDM volume 1, section 6.6.1: level 3 copies two outer frame pointers and adds its own.
    let mut pc = Pc::new(32);
    pc.set(RBP, 0x8000);
    pc.write(0x8000 - 4, &0x1111u32.to_le_bytes());
    pc.write(0x8000 - 8, &0x2222u32.to_le_bytes());
    pc.run(&[0xc8, 0x10, 0x00, 0x03]).unwrap();
    assert_eq!(pc.word(STACK - 4, 4), 0x8000);
    assert_eq!(pc.word(STACK - 8, 4), 0x1111);
    assert_eq!(pc.word(STACK - 12, 4), 0x2222);
    assert_eq!(pc.word(STACK - 16, 4), STACK - 4);
    assert_eq!(pc.get(RBP), STACK - 4);
    assert_eq!(pc.get(RSP), STACK - 16 - 0x10);
    pc.run(&[0xc9]).unwrap();
    assert_eq!((pc.get(RSP), pc.get(RBP)), (STACK, 0x8000));
}

#[test]
fn leave_with_a_16_bit_operand_pops_only_bp() {
    let mut pc = Pc::new(32);
    pc.set(RBP, 0x8000);
    pc.write(0x8000, &[0x34, 0x12]);
    pc.run(&[0x66, 0xc9]).unwrap();
    assert_eq!((pc.get(RSP), pc.get(RBP)), (0x8002, 0x1234));
}

#[test]
fn loops_count_in_the_register_of_the_address_size() {
    let mut pc = Pc::new(32);
    pc.set(RCX, 0xffff_0003).set(RAX, 0);
    pc.run(&[0x40, 0x67, 0xe2, 0xfc]).unwrap(); // inc eax; loop by CX
    assert_eq!((pc.get(RAX), pc.get(RCX)), (3, 0xffff_0000));
    pc.set(RCX, 3).set(RAX, 0);
    pc.run(&[0x40, 0xe2, 0xfd]).unwrap();
    assert_eq!((pc.get(RAX), pc.get(RCX)), (3, 0));
    pc.set(RCX, 0x1_0000).set(RAX, 0);
    pc.run(&[0x67, 0xe3, 0x01, 0x40]).unwrap(); // jcxz over inc eax
    assert_eq!(pc.get(RAX), 0);
}

#[test]
fn decimal_adjustments_follow_the_manual() {
    // AL, AF, CF -> AL, AF, CF. SDM volume 2, the examples and edges of DAA and DAS.
    let daa: [(u64, bool, bool, u64, bool, bool); 6] = [
        (0xae, false, false, 0x14, true, true),
        (0x2e, false, false, 0x34, true, false),
        (0x9a, false, false, 0x00, true, true),
        (0x99, false, false, 0x99, false, false),
        (0x00, true, true, 0x66, true, true),
        (0xfa, false, false, 0x60, true, true),
    ];
    let das: [(u64, bool, bool, u64, bool, bool); 5] = [
        (0xee, false, false, 0x88, true, true),
        (0x2e, false, false, 0x28, true, false),
        (0x00, true, false, 0xfa, true, true),
        (0x05, true, true, 0x9f, true, true),
        (0x99, false, false, 0x99, false, false),
    ];
    let mut pc = Pc::new(32);
    for (opcode, table) in [(0x27u8, &daa[..]), (0x2f, &das[..])] {
        for &(al, af, cf, result, af_after, cf_after) in table {
            let bit = |on, flag| if on { flag } else { 0 };
            pc.bench.cpu.core.set_cc_eflags(bit(af, eflags::AF) | bit(cf, eflags::CF));
            pc.set(RAX, 0x7700 | al);
            pc.run(&[opcode]).unwrap();
            assert_eq!(pc.get(RAX), 0x7700 | result, "{opcode:#x} of {al:#x} {af} {cf}");
            assert_eq!(pc.flags() & eflags::AF != 0, af_after, "AF of {opcode:#x} of {al:#x}");
            assert_eq!(pc.flags() & eflags::CF != 0, cf_after, "CF of {opcode:#x} of {al:#x}");
            assert_eq!(pc.flags() & eflags::ZF != 0, result == 0);
        }
    }
}

#[test]
fn ascii_adjustments_carry_into_ah() {
    let mut pc = Pc::new(16);
    pc.bench.cpu.core.set_cc_eflags(0);
    pc.set(RAX, 0x020f).run(&[0x37]).unwrap(); // aaa
    assert_eq!(pc.get(RAX), 0x0305);
    assert_ne!(pc.flags() & eflags::CF, 0);
    pc.bench.cpu.core.set_cc_eflags(0);
    pc.set(RAX, 0x0309).run(&[0x37]).unwrap();
    assert_eq!(pc.get(RAX), 0x0309);
    assert_eq!(pc.flags() & (eflags::CF | eflags::AF), 0);
    pc.set(RAX, 0x020f).run(&[0x3f]).unwrap(); // aas
    assert_eq!(pc.get(RAX), 0x0109);
    assert_ne!(pc.flags() & eflags::CF, 0);
    pc.set(RAX, 0x00ff).run(&[0xd4, 0x0a]).unwrap(); // aam
    assert_eq!(pc.get(RAX), 0x1905);
    pc.set(RAX, 0x1905).run(&[0xd5, 0x0a]).unwrap(); // aad
    assert_eq!(pc.get(RAX), 0x00ff);
    assert_eq!(pc.set(RAX, 5).run(&[0xd4, 0x00]), Err(DE));
}

#[test]
fn divide_errors_leave_the_registers() {
    let mut pc = Pc::new(32);
    pc.set(RAX, 1).set(RDX, 2).set(RCX, 2);
    assert_eq!(pc.run(&[0xf7, 0xf1]), Err(DE)); // quotient too wide
    assert_eq!((pc.get(RAX), pc.get(RDX)), (1, 2));
    assert_eq!(pc.bench.cpu.core.pc, CODE);
    pc.set(RAX, 0x8000_0000).set(RDX, 0xffff_ffff).set(RCX, 0xffff_ffff);
    assert_eq!(pc.run(&[0xf7, 0xf9]), Err(DE)); // most negative by -1
    pc.set(RCX, 0);
    assert_eq!(pc.run(&[0xf7, 0xf1]), Err(DE));
}

#[test]
fn real_mode_adds_segment_bases_and_checks_the_limit() {
    let mut pc = Pc::new(0);
    pc.bench.cpu.segs[seg::DS].base = 0x2_0000;
    pc.bench.cpu.segs[seg::ES].base = 0x3_0000;
    pc.write(0x2_1234, &[0x78, 0x56]);
    pc.set(RBX, 0x1200).set(RSI, 0x34);
    pc.run(&[0x8b, 0x00]).unwrap(); // mov ax, [bx+si]
    assert_eq!(pc.get(RAX), 0x5678);
    pc.run(&[0x26, 0x89, 0x00]).unwrap(); // mov es:[bx+si], ax
    assert_eq!(pc.word(0x3_1234, 2), 0x5678);
    assert_eq!(pc.run(&[0xa1, 0xff, 0xff]), Err(GP)); // a word at the limit
    // Offsets wrap at 64 KiB before the base is added.
    pc.set(RBX, 0xfff0).set(RSI, 0x24);
    pc.write(0x2_0014, &[0xcd, 0xab]);
    pc.run(&[0x8b, 0x00]).unwrap();
    assert_eq!(pc.get(RAX), 0xabcd);
    pc.set(RBP, 0xffff);
    assert_eq!(pc.run(&[0x8b, 0x46, 0x00]), Err(SS)); // mov ax, [bp]: the stack segment
    // 32-bit offsets are checked too.
    pc.set(RBX, 0x1_0000);
    assert_eq!(pc.run(&[0x67, 0x8b, 0x03]), Err(GP));
}

#[test]
fn real_mode_strings_use_both_segments_and_wrap() {
    let mut pc = Pc::new(0);
    pc.bench.cpu.segs[seg::DS].base = 0x2_0000;
    pc.bench.cpu.segs[seg::ES].base = 0x3_0000;
    for i in 0..0x40u64 {
        pc.write(0x2_0000 + (0xffe0 + i) % 0x1_0000, &[i as u8 + 1]);
    }
    pc.set(RSI, 0xffe0).set(RDI, 0xfff0).set(RCX, 0x1234_0040);
    pc.run(&[0xf3, 0xa4]).unwrap();
    for i in 0..0x40u64 {
        assert_eq!(pc.byte(0x3_0000 + (0xfff0 + i) % 0x1_0000), i as u8 + 1, "byte {i:#x}");
    }
    assert_eq!((pc.get(RSI), pc.get(RDI), pc.get(RCX)), (0x20, 0x30, 0x1234_0000));
    // A word that straddles the end of the segment faults where it is.
    pc.set(RSI, 0xfffd).set(RDI, 0).set(RCX, 4);
    assert_eq!(pc.run(&[0xf3, 0xa5]), Err(GP));
    assert_eq!((pc.get(RSI), pc.get(RCX)), (0xffff, 3));
}

#[test]
fn port_strings_move_blocks() {
    let mut pc = Pc::new(32);
    pc.set(RDX, 0x1f0).set(RDI, 0x5001).set(RCX, 600);
    pc.run(&[0xf3, 0x66, 0x6d]).unwrap(); // rep insw
    for i in 0..600 {
        assert_eq!(pc.word(0x5001 + 2 * i, 2), 0x1f0 ^ 0x5a5a);
    }
    assert_eq!((pc.get(RDI), pc.get(RCX)), (0x5001 + 1200, 0));
    pc.write(0x6000, b"abcdef");
    pc.set(RSI, 0x6000).set(RCX, 3);
    pc.run(&[0xf3, 0x66, 0x6f]).unwrap(); // rep outsw
    let expected = [(0x1f0, 2, 0x6261), (0x1f0, 2, 0x6463), (0x1f0, 2, 0x6665)];
    assert_eq!(pc.bench.memory.written, expected);
    pc.bench.memory.written.clear();
    pc.set(RAX, 0x1234_5678);
    pc.run(&[0xe6, 0x80, 0x66, 0xef]).unwrap(); // out 80h, al; out dx, ax
    assert_eq!(pc.bench.memory.written, [(0x80, 1, 0x78), (0x1f0, 2, 0x5678)]);
    pc.run(&[0xec]).unwrap();
    assert_eq!(pc.get(RAX), 0x1234_56aa);
}

#[test]
fn far_pointers_load_segment_and_register() {
    let mut pc = Pc::new(0);
    pc.write(0x500, &[0x34, 0x12, 0x00, 0x30]);
    pc.run(&[0xc4, 0x1e, 0x00, 0x05]).unwrap(); // les bx, [500h]
    assert_eq!(pc.get(RBX), 0x1234);
    assert_eq!((pc.bench.cpu.segs[seg::ES].selector, pc.bench.cpu.segs[seg::ES].base), (0x3000, 0x3_0000));
    pc.run(&[0x8c, 0xc0, 0x06, 0x1f]).unwrap(); // mov ax, es; push es; pop ds
    assert_eq!(pc.get(RAX), 0x3000);
    assert_eq!(pc.bench.cpu.segs[seg::DS].base, 0x3_0000);
}

#[test]
fn far_calls_and_returns_in_real_mode() {
    let mut pc = Pc::new(0);
    pc.write(0x2_0010, &[0xcb]); // retf
    pc.run(&[0x9a, 0x10, 0x00, 0x00, 0x20]).unwrap(); // call 2000:0010
    assert_eq!(pc.get(RSP), STACK);
    assert_eq!(pc.bench.cpu.segs[seg::CS].base, 0);
    pc.write(4 * 0x21, &[0x20, 0x00, 0x00, 0x20]); // vector 21h = 2000:0020
    pc.write(0x2_0020, &[0xb4, 0x42, 0xcf]); // mov ah, 42h; iret
    pc.bench.cpu.eflags |= eflags::IF;
    pc.run(&[0xcd, 0x21]).unwrap();
    assert_eq!(pc.get(RAX) & 0xff00, 0x4200);
    assert_ne!(pc.bench.cpu.eflags & eflags::IF, 0);
    assert_eq!(pc.get(RSP), STACK);
}

#[test]
fn into_traps_only_on_overflow() {
    let mut pc = Pc::new(0);
    pc.write(4 * 4, &[0x20, 0x00, 0x00, 0x20]);
    pc.write(0x2_0020, &[0x43, 0xcf]); // inc bx; iret
    pc.bench.cpu.core.set_cc_eflags(0);
    pc.run(&[0xce]).unwrap();
    assert_eq!(pc.get(RBX), 0);
    pc.bench.cpu.core.set_cc_eflags(eflags::OF);
    pc.run(&[0xce]).unwrap();
    assert_eq!(pc.get(RBX), 1);
}

#[test]
fn undefined_instructions_fault_where_they_are() {
    let mut pc = Pc::new(64);
    for code in [
        &[0x06][..],                     // push es
        &[0x27],                         // daa
        &[0x60],                         // pusha
        &[0xea, 0, 0, 0, 0, 0, 0],       // far jmp
        &[0x0f, 0x0b],                   // ud2
        &[0x0f, 0xff, 0xc0],             // ud0
        &[0x0f, 0xb9, 0xc0],             // ud1
        &[0xf0, 0x8b, 0x03],             // lock mov
        &[0xf0, 0x01, 0xc0],             // lock add eax, eax
        &[0x8e, 0xc8],                   // mov cs, ax
        &[0x0f, 0x20, 0xc8],             // mov rax, cr1
        &[0xc4, 0xe2, 0x79, 0x18, 0x00], // vbroadcastss
        &[0x0f, 0x01, 0xd0],             // xgetbv
    ] {
        assert_eq!(pc.run(code), Err(UD), "{code:02x?}");
        assert_eq!(pc.bench.cpu.core.pc, CODE);
    }
    let mut pc = Pc::new(0);
    for code in [&[0x0f, 0x00, 0xc0][..], &[0x63, 0xc0], &[0x0f, 0x02, 0xc0], &[0x0f, 0x00, 0xd8]] {
        assert_eq!(pc.run(code), Err(UD), "{code:02x?}");
    }
}

#[test]
fn an_instruction_of_16_bytes_is_a_protection_fault() {
    let mut pc = Pc::new(32);
    let mut code = vec![0x66; 14];
    code.push(0x90);
    pc.run(&code).unwrap();
    code.insert(0, 0x66);
    assert_eq!(pc.run(&code), Err(GP));
}

#[test]
fn instructions_may_cross_pages() {
    let mut pc = Pc::new(32);
    pc.write(0x1ffd, &[0xb8, 0x78, 0x56, 0x34, 0x12]); // mov eax, 12345678h
    pc.bench.cpu.core.pc = 0x1ffd;
    pc.bench.step().unwrap();
    assert_eq!((pc.get(RAX), pc.bench.cpu.core.pc), (0x1234_5678, 0x2002));
}

#[test]
fn code_beyond_the_segment_limit_faults() {
    let mut pc = Pc::new(32);
    pc.bench.cpu.segs[seg::CS].limit = 0x1fff;
    pc.bench.cpu.update_key();
    pc.write(0x1ffe, &[0xb8, 0x78, 0x56, 0x34, 0x12]);
    pc.bench.cpu.core.pc = 0x1ffe;
    assert_eq!(pc.bench.step(), Err(GP));
    assert_eq!(pc.bench.cpu.core.pc, 0x1ffe);
    pc.write(0x1000, &[0xe9, 0x00, 0x20, 0x00, 0x00]);
    pc.bench.cpu.core.pc = 0x1000;
    assert_eq!(pc.bench.step(), Err(GP));
    assert_eq!(pc.bench.cpu.core.pc, 0x1000);
}

#[test]
fn trap_flag_steps_once_an_instruction_and_once_a_repetition() {
    let mut pc = Pc::new(32);
    pc.bench.cpu.eflags |= eflags::TF;
    pc.bench.cpu.update_key();
    pc.write(CODE, &[0x40, 0x74, 0x10, 0xf3, 0xaa]); // inc eax; je; rep stosb
    pc.bench.cpu.core.pc = CODE;
    pc.set(RAX, 1).set(RDI, 0x5000).set(RCX, 2);
    for next in [1, 3, 3, 5] {
        assert_eq!(pc.bench.step(), Err(DB));
        assert_eq!(pc.bench.cpu.core.pc, CODE + next);
    }
    assert_eq!((pc.get(RAX), pc.get(RCX), pc.get(RDI)), (2, 0, 0x5002));
}

#[test]
fn sti_holds_interrupts_off_for_one_instruction() {
    let mut pc = Pc::new(32);
    pc.bench.cpu.eflags &= !eflags::IF;
    pc.write(CODE, &[0xfb, 0x40, 0xeb, 0x10]);
    pc.bench.cpu.core.pc = CODE;
    pc.bench.step().unwrap();
    assert_ne!(pc.bench.cpu.inhibit & inhibit::SHADOW, 0);
    pc.bench.step().unwrap();
    assert_eq!(pc.bench.cpu.inhibit & inhibit::SHADOW, 0);
    assert_eq!((pc.get(RAX), pc.bench.cpu.core.pc), (1, CODE + 2));
}

#[test]
fn sixteen_bit_addressing_in_32_bit_code_wraps() {
    let mut pc = Pc::new(32);
    pc.set(RBX, 0xffff_fff0).set(RDI, 0x1234_0020);
    pc.write(0x10, &[0xef, 0xbe, 0xad, 0xde]);
    pc.run(&[0x67, 0x8b, 0x01]).unwrap(); // mov eax, [bx+di]
    assert_eq!(pc.get(RAX), 0xdead_beef);
    pc.run(&[0x67, 0x8d, 0x01]).unwrap(); // lea eax, [bx+di]
    assert_eq!(pc.get(RAX), 0x10);
    pc.run(&[0x66, 0x8d, 0x03]).unwrap(); // lea ax, [ebx]
    assert_eq!(pc.get(RAX), 0xfff0);
}

#[test]
fn near_branches_with_a_16_bit_operand_drop_the_upper_half() {
    let mut pc = Pc::new(32);
    pc.write(0x1_0000, &[0x66, 0xe9, 0xfc, 0x0f]); // jmp ax-sized to 10000h + 4 + ffch
    pc.bench.cpu.core.pc = 0x1_0000;
    pc.bench.step().unwrap();
    assert_eq!(pc.bench.cpu.core.pc, 0x1000);
    pc.set(RAX, 0x5555_2000);
    pc.write(0x1000, &[0x66, 0xff, 0xd0]); // call ax
    pc.bench.step().unwrap();
    assert_eq!((pc.bench.cpu.core.pc, pc.get(RSP)), (0x2000, STACK - 2));
    assert_eq!(pc.word(STACK - 2, 2), 0x1003);
    pc.write(0x2000, &[0x66, 0xc2, 0x06, 0x00]); // ret 6, 16 bits
    pc.bench.step().unwrap();
    assert_eq!((pc.bench.cpu.core.pc, pc.get(RSP)), (0x1003, STACK + 6));
}

#[test]
fn a_faulting_store_changes_nothing() {
    let mut pc = Pc::new(32);
    pc.bench.cpu.core.set_cc_eflags(0);
    pc.set(RBX, 0x40_0000).set(RAX, 1).set(RSP, 0x40_0002);
    for code in [
        &[0x01, 0x03][..],         // add [ebx], eax
        &[0xd1, 0x23],             // shl dword [ebx], 1
        &[0x0f, 0xab, 0x03],       // bts [ebx], eax
        &[0x87, 0x03],             // xchg [ebx], eax
        &[0x0f, 0xb1, 0x03],       // cmpxchg [ebx], eax
        &[0x50],                   // push eax, across the end
        &[0x58],                   // pop eax
        &[0x0f, 0xa4, 0x03, 0x01], // shld
    ] {
        assert_eq!(pc.run(code), Err(14), "{code:02x?}");
        assert_eq!((pc.get(RAX), pc.get(RSP), pc.flags()), (1, 0x40_0002, 0), "{code:02x?}");
    }
}

#[test]
fn bound_and_xlat_read_through_segments() {
    let mut pc = Pc::new(32);
    pc.write(0x5000, &[0xfe, 0xff, 0xff, 0xff, 5, 0, 0, 0]);
    for (index, fits) in [(-2i32, true), (5, true), (6, false), (-3, false)] {
        pc.set(RAX, u64::from(index as u32));
        let outcome = pc.run(&[0x62, 0x05, 0x00, 0x50, 0x00, 0x00]);
        assert_eq!(outcome, if fits { Ok(()) } else { Err(5) }, "index {index}");
    }
    pc.write(0x5042, &[0x99]);
    pc.set(RBX, 0x5000).set(RAX, 0x1142);
    pc.run(&[0xd7]).unwrap();
    assert_eq!(pc.get(RAX), 0x1199);
}

#[test]
fn segments_with_a_base_in_protected_and_64_bit_code() {
    for (bits, limit, fits) in [(32, u32::MAX, true), (32, 0x123, false), (32, 0x127, true), (64, 0, true)] {
        let mut pc = Pc::new(bits);
        for (n, base) in [(seg::FS, 0x2_0000), (seg::GS, 0x3_0000)] {
            pc.bench.cpu.segs[n].base = base;
            pc.bench.cpu.segs[n].limit = limit;
        }
        pc.bench.cpu.update_key();
        pc.set(RBX, 0x100).set(RSI, 0x8).set(RAX, 0x1234_5678);
        let outcome = pc.run(&[0x64, 0x89, 0x44, 0xb3, 0x04]); // mov fs:[rbx+rsi*4+4], eax
        assert_eq!(outcome, if fits { Ok(()) } else { Err(GP) }, "{bits} {limit:#x}");
        if !fits {
            continue;
        }
        assert_eq!(pc.word(0x2_0124, 4), 0x1234_5678);
        pc.write(0x3_00f0, &[0x11, 0x22, 0x33, 0x44]);
        pc.run(&[0x65, 0x8b, 0x4b, 0xf0]).unwrap(); // mov ecx, gs:[rbx-16]
        assert_eq!(pc.get(RCX), 0x4433_2211);
        if limit == u32::MAX || bits == 64 {
            // Below the base: the sum wraps.
            pc.write(0x2_fff8, &[0x55]);
            pc.run(&[0x65, 0x8a, 0x53, 0xf8, 0x90]).unwrap(); // mov dl, gs:[rbx-8]
            pc.set(RBX, 0u64.wrapping_sub(8) & if bits == 64 { u64::MAX } else { 0xffff_ffff });
            pc.run(&[0x65, 0x8a, 0x13]).unwrap(); // mov dl, gs:[rbx]
            assert_eq!(pc.get(RDX) & 0xff, 0x55);
        }
    }
}

#[test]
fn stores_through_a_code_segment_fault() {
    let mut pc = Pc::new(32);
    pc.set(RBX, 0x5000);
    pc.run(&[0x2e, 0x8b, 0x03]).unwrap(); // mov eax, cs:[ebx]
    assert_eq!(pc.run(&[0x2e, 0x89, 0x03]), Err(GP));
}
