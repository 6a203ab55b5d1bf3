//! Instructions as text, for `x/i`: AT&T syntax, laid out as `objdump -d` does but for rare forms.

use std::fmt::Write;

use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter, Mnemonic};

/// What [`instruction`] writes with.
pub fn formatter() -> GasFormatter {
    let mut formatter = GasFormatter::new();
    let options = formatter.options_mut();
    options.set_first_operand_char_index(7);
    options.set_uppercase_hex(false);
    options.set_small_hex_numbers_in_decimal(false);
    options.set_branch_leading_zeros(false);
    options.set_show_branch_size(false);
    options.set_always_show_scale(true);
    options.set_rip_relative_addresses(true);
    options.set_show_zero_displacements(true);
    formatter
}

/// Text and length of the instruction that `bytes` begin with; one byte where there is none.
pub fn instruction(formatter: &mut GasFormatter, bits: u32, at: u64, bytes: &[u8]) -> (String, u64) {
    let instruction = Decoder::with_ip(bits, bytes, at, DecoderOptions::NONE).decode();
    if instruction.is_invalid() {
        return ("(bad)".to_owned(), 1);
    }
    // The segments of a string instruction are part of its meaning.
    formatter.options_mut().set_always_show_segment_register(instruction.is_string_instruction());
    let mut text = String::new();
    formatter.format(&instruction, &mut text);
    let mut text = text.trim_end().to_owned();
    if instruction.is_call_near_indirect() || instruction.is_jmp_near_indirect() {
        // The size is told only where it is not that of the code.
        let usual = match bits {
            16 => 'w',
            32 => 'l',
            _ => 'q',
        };
        for name in ["call", "jmp"] {
            text = text.replacen(&format!("{name}{usual} "), &format!("{name}  "), 1);
        }
    }
    if matches!(
        instruction.mnemonic(),
        Mnemonic::In
            | Mnemonic::Out
            | Mnemonic::Insb
            | Mnemonic::Insw
            | Mnemonic::Insd
            | Mnemonic::Outsb
            | Mnemonic::Outsw
            | Mnemonic::Outsd
    ) {
        text = text.replacen("%dx", "(%dx)", 1);
    }
    // A scale is shown of an index only.
    text = text.replacen(",)", ")", 2);
    // Shifts by one have forms without a count.
    if format!("{:?}", instruction.code()).ends_with("_1") {
        text = text.replacen("$0x1,", "", 1);
    }
    if instruction.is_ip_rel_memory_operand() {
        let _ = write!(text, "        # {:#x}", instruction.ip_rel_memory_address());
    }
    (text, instruction.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Code size, address, bytes, and what GNU objdump 2.40 says of them.
    const KNOWN: &[(u32, u64, &str, &str)] = &[
        (16, 0x0, "2e66833e086100", "cmpl   $0x0,%cs:0x6108"),
        (16, 0x7, "0f8562f0", "jne    0xf06d"),
        (16, 0xb, "31d2", "xor    %dx,%dx"),
        (16, 0xd, "8ed2", "mov    %dx,%ss"),
        (16, 0xf, "66bc00700000", "mov    $0x7000,%esp"),
        (16, 0x15, "66ba7c3f0f00", "mov    $0xf3f7c,%edx"),
        (16, 0x1b, "e91000", "jmp    0x2e"),
        (16, 0x1e, "fa", "cli"),
        (16, 0x1f, "fc", "cld"),
        (16, 0x20, "6689c1", "mov    %eax,%ecx"),
        (16, 0x23, "e471", "in     $0x71,%al"),
        (16, 0x25, "e670", "out    %al,$0x70"),
        (16, 0x2c, "ea5be000f0", "ljmp   $0xf000,$0xe05b"),
        (16, 0x31, "f366ab", "rep stos %eax,%es:(%di)"),
        (16, 0x34, "cd13", "int    $0x13"),
        (16, 0x36, "c3", "ret"),
        (16, 0x37, "8b46fe", "mov    -0x2(%bp),%ax"),
        (16, 0x3a, "26a16c04", "mov    %es:0x46c,%ax"),
        (16, 0x3e, "ff2e007c", "ljmp   *0x7c00"),
        (16, 0x42, "ff163412", "call   *0x1234"),
        (16, 0x46, "e2fe", "loop   0x46"),
        (16, 0x48, "0f22c0", "mov    %eax,%cr0"),
        (16, 0x4b, "d9061000", "flds   0x10"),
        (16, 0x4f, "c7070500", "movw   $0x5,(%bx)"),
        (32, 0x0, "55", "push   %ebp"),
        (32, 0x1, "89e5", "mov    %esp,%ebp"),
        (32, 0x3, "83ec18", "sub    $0x18,%esp"),
        (32, 0x6, "c7042400000000", "movl   $0x0,(%esp)"),
        (32, 0xd, "e810200000", "call   0x2022"),
        (32, 0x12, "8b45f8", "mov    -0x8(%ebp),%eax"),
        (32, 0x15, "0fb60408", "movzbl (%eax,%ecx,1),%eax"),
        (32, 0x19, "ff248500100000", "jmp    *0x1000(,%eax,4)"),
        (32, 0x20, "f3a5", "rep movsl %ds:(%esi),%es:(%edi)"),
        (32, 0x22, "f00fb10a", "lock cmpxchg %ecx,(%edx)"),
        (32, 0x26, "75f0", "jne    0x18"),
        (32, 0x28, "c9", "leave"),
        (32, 0x29, "c3", "ret"),
        (32, 0x2a, "6878563412", "push   $0x12345678"),
        (32, 0x2f, "6aff", "push   $0xffffffff"),
        (32, 0x31, "83c0ff", "add    $0xffffffff,%eax"),
        (32, 0x34, "f0ff00", "lock incl (%eax)"),
        (32, 0x37, "a100104000", "mov    0x401000,%eax"),
        (32, 0x3c, "64a114000000", "mov    %fs:0x14,%eax"),
        (32, 0x42, "cf", "iret"),
        (32, 0x43, "d800", "fadds  (%eax)"),
        (32, 0x45, "df2d00100000", "fildll 0x1000"),
        (32, 0x4b, "0fbae005", "bt     $0x5,%eax"),
        (32, 0x4f, "c1e004", "shl    $0x4,%eax"),
        (32, 0x52, "d1e8", "shr    %eax"),
        (32, 0x54, "cc", "int3"),
        (32, 0x55, "ee", "out    %al,(%dx)"),
        (32, 0x56, "ef", "out    %eax,(%dx)"),
        (64, 0x0, "4889e5", "mov    %rsp,%rbp"),
        (64, 0x3, "488b0510000000", "mov    0x10(%rip),%rax        # 0x1a"),
        (64, 0xa, "48b8efcdab8967452301", "movabs $0x123456789abcdef,%rax"),
        (64, 0x14, "ff1500200000", "call   *0x2000(%rip)        # 0x201a"),
        (64, 0x1a, "4157", "push   %r15"),
        (64, 0x1c, "4c897c24f8", "mov    %r15,-0x8(%rsp)"),
        (64, 0x21, "660f6f0500010000", "movdqa 0x100(%rip),%xmm0        # 0x129"),
        (64, 0x29, "0f05", "syscall"),
        (64, 0x2b, "480f07", "sysretq"),
        (64, 0x2e, "f3480fb8c1", "popcnt %rcx,%rax"),
        (64, 0x33, "c3", "ret"),
        (64, 0x34, "e800000000", "call   0x39"),
        (64, 0x39, "65488b042528000000", "mov    %gs:0x28,%rax"),
        (64, 0x42, "0f1f440000", "nopl   0x0(%rax,%rax,1)"),
        (64, 0x47, "6690", "xchg   %ax,%ax"),
        (64, 0x49, "f30f1000", "movss  (%rax),%xmm0"),
        (64, 0x4d, "4898", "cltq"),
        (64, 0x4f, "4899", "cqto"),
        (64, 0x51, "48cf", "iretq"),
        (64, 0x53, "4863c8", "movslq %eax,%rcx"),
        (64, 0x56, "0f01f8", "swapgs"),
    ];

    #[test]
    fn instructions_read_as_objdump_prints_them() {
        let mut formatter = formatter();
        for (bits, at, hex, text) in KNOWN {
            let digits = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("ASCII"));
            let bytes: Vec<u8> =
                digits.map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal")).collect();
            let got = instruction(&mut formatter, *bits, *at, &bytes);
            assert_eq!(got, ((*text).to_owned(), bytes.len() as u64), "{bits} {hex}");
        }
    }

    #[test]
    fn what_is_no_instruction_is_one_bad_byte() {
        assert_eq!(instruction(&mut formatter(), 64, 0, &[0x06, 0x90]), ("(bad)".to_owned(), 1));
        assert_eq!(instruction(&mut formatter(), 32, 0, &[0xb8, 1]), ("(bad)".to_owned(), 1));
    }
}
