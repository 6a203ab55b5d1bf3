//! Numeric errors as in an AT: with CR0.NE clear they arrive as interrupt 13 and are taken back through port F0h.

use bulkhead_tests::Scratch;
use bulkhead_tests::code::Code;

/// Where the handlers and the program stand in the firmware.
const INTERRUPT: usize = 0x08;
const EXCEPTION: usize = 0x40;
const MAIN: usize = 0x60;

/// Sets a real-mode interrupt vector.
fn vector(code: Code, number: u16, at: usize) -> Code {
    let ([low, high], [to, _]) = ((number * 4).to_le_bytes(), (at as u16).to_le_bytes());
    let segment = (number * 4 + 2).to_le_bytes();
    // mov word [number * 4], at; mov word [number * 4 + 2], 0xf000
    code.bytes(&[0xc7, 0x06, low, high, to, 0]).bytes(&[0xc7, 0x06, segment[0], segment[1], 0x00, 0xf0])
}

/// Says `before`, waits for the coprocessor after a division by zero, says `after`.
fn divide(code: Code, before: &str, after: &str) -> Code {
    // fld1; fldz; fdivp; ...; fwait
    code.bytes(&[0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9]).say(before).bytes(&[0x9b]).say(after)
}

/// Divides by zero four times; the handlers tell what they see.
fn program() -> Code {
    // jmp main
    let code = Code::new().bytes(&[0xe9, MAIN as u8 - 3, 0]).fill_to(INTERRUPT);
    // pusha; ...; mov al, 0; out 0xf0, al; test bl, bl; jz over; fwait; say; over: fnclex
    let code =
        code.bytes(&[0x60]).say("b").bytes(&[0xb0, 0x00, 0xe6, 0xf0, 0x84, 0xdb, 0x74, 0x06, 0x9b]).say("i");
    // mov al, 0x20; out 0xa0, al; out 0x20, al; popa; iret
    let code = code.bytes(&[0xdb, 0xe2, 0xb0, 0x20, 0xe6, 0xa0, 0xe6, 0x20, 0x61, 0xcf]).fill_to(EXCEPTION);
    // pusha; ...; fnclex; popa; iret
    let code = code.bytes(&[0x60]).say("m").bytes(&[0xdb, 0xe2, 0x61, 0xcf]).fill_to(MAIN);
    let code = vector(vector(code, 0x75, INTERRUPT), 16, EXCEPTION);
    // The interrupt controllers: vectors 8h and 70h, open for interrupt 13.
    let commands =
        [(0x20, 0x11), (0xa0, 0x11), (0x21, 0x08), (0xa1, 0x70), (0x21, 4), (0xa1, 2), (0x21, 1), (0xa1, 1)];
    let code = commands.iter().fold(code, |code, (port, value)| code.out(*port, *value));
    let code = code.out(0x21, 0xfb).out(0xa1, 0xdf);
    // mov word [0x500], 0x37b (division by zero unmasked); fninit; fldcw [0x500]; sti; mov bl, 0
    let code =
        code.bytes(&[0xc7, 0x06, 0x00, 0x05, 0x7b, 0x03, 0xdb, 0xe3, 0xd9, 0x2e, 0x00, 0x05, 0xfb, 0xb3, 0]);
    let code = divide(code, "a", "c");
    // mov bl, 1: the handler waits too, which port F0h lets it. mov bl, 0: and not the next time.
    let code = divide(code.bytes(&[0xb3, 1]), "d", "e");
    let code = divide(code.bytes(&[0xb3, 0]), "f", "g");
    // mov eax, cr0; or al, 0x20; mov cr0, eax: from now on it is exception 16.
    divide(code.bytes(&[0x0f, 0x20, 0xc0, 0x0c, 0x20, 0x0f, 0x22, 0xc0]), "h", "j").sleep()
}

#[test]
fn numeric_errors_come_as_interrupt_13_unless_cr0_says_exception_16() {
    let scratch = Scratch::new("fpu");
    for machine in ["pc", "isapc"] {
        let mut vm = program().start(&scratch, &["-M", machine]);
        assert_eq!(vm.expect("j", 20), "abcdbiefbghmj", "{machine}");
    }
}
