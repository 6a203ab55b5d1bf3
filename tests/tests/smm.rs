//! System-management mode: the interrupt by port B2h, the base, and the memory that nobody else sees.

use bulkhead_tests::code::Code;
use bulkhead_tests::{Scratch, Vm};

/// Where the handler and the program stand in the firmware.
const HANDLER: usize = 0x08;
const MAIN: usize = 0x40;

/// Writes a byte of PCI configuration space.
fn configure(code: Code, devfn: u8, register: u8, value: u8) -> Code {
    // mov eax, address; mov dx, 0xcf8; out dx, eax
    let code = code.bytes(&[0x66, 0xb8, register & 0xfc, devfn, 0, 0x80, 0xba, 0xf8, 0x0c, 0x66, 0xef]);
    code.out(0xcfc + u16::from(register & 3), value)
}

/// Copies the handler to `segment`:8000.
fn install(code: Code, segment: u16) -> Code {
    let [low, high] = segment.to_le_bytes();
    // mov ax, segment; mov es, ax; mov si, HANDLER; mov di, 0x8000; mov cx, length; rep movs byte es:[di], cs:[si]
    let code = code.bytes(&[0xb8, low, high, 0x8e, 0xc0, 0xbe, HANDLER as u8, 0, 0xbf, 0x00, 0x80]);
    code.bytes(&[0xb9, (MAIN - HANDLER) as u8, 0, 0xf3, 0x2e, 0xa4])
}

/// Says whether the handler can be seen at A000:8000.
fn look(code: Code) -> Code {
    // mov ax, 0xa000; mov es, ax; mov al, es:[0x8000]; cmp al, 0xba; mov al, 'v'; je over; mov al, 'h'; over:
    code.bytes(&[0xb8, 0x00, 0xa0, 0x8e, 0xc0, 0x26, 0xa0, 0x00, 0x80, 0x3c, 0xba])
        .bytes(&[0xb0, b'v', 0x74, 0x02, 0xb0, b'h'])
        .put()
}

/// The interrupt, for which the handler says `seen`.
fn interrupt(code: Code, seen: u8) -> Code {
    // mov bl, seen; mov al, 0; out 0xb2, al
    code.bytes(&[0xb3, seen, 0xb0, 0x00, 0xe6, 0xb2])
}

fn program() -> Code {
    let code = Code::new().bytes(&[0xe9, MAIN as u8 - 3, 0]).fill_to(HANDLER);
    // mov dx, 0x3fd; busy: in al, dx; test al, 0x20; jz busy; mov dx, 0x3f8; mov al, bl; out dx, al
    let code =
        code.bytes(&[0xba, 0xfd, 0x03, 0xec, 0xa8, 0x20, 0x74, 0xfb, 0xba, 0xf8, 0x03, 0x88, 0xd8, 0xee]);
    // mov dword [0x3fef8], 0xa0000; mov dword [0x3ff00], 0xa0000; rsm: the base in either form of the saved state.
    let code = code.bytes(&[0x67, 0x66, 0xc7, 0x05, 0xf8, 0xfe, 3, 0, 0, 0, 0x0a, 0]);
    let code =
        code.bytes(&[0x67, 0x66, 0xc7, 0x05, 0x00, 0xff, 3, 0, 0, 0, 0x0a, 0, 0x0f, 0xaa]).fill_to(MAIN);
    // Power management: writes to port B2h interrupt.
    let code = configure(install(code, 0x3000), 0x0b, 0x5b, 2);
    let code = interrupt(code, b'1').say("a");
    // SMRAM: opened, filled, closed.
    let code = look(install(configure(code, 0, 0x72, 0x4a), 0xa000));
    let code = look(configure(code, 0, 0x72, 0x0a));
    let code = interrupt(code, b'2').say("b");
    // Locked, it does not open any more.
    let code = look(configure(configure(code, 0, 0x72, 0x1a), 0, 0x72, 0x5a));
    interrupt(code, b'3').say("c").sleep()
}

#[test]
fn management_interrupts_run_code_in_memory_that_nobody_else_sees() {
    let scratch = Scratch::new("smm");
    let args = program().firmware_args(&scratch);
    for (program, model) in
        [("qemu-system-i386", "qemu32"), ("qemu-system-x86_64", "qemu64"), ("qemu-system-x86_64", "pentium3")]
    {
        let args: Vec<&str> = args.iter().map(String::as_str).chain(["-cpu", model]).collect();
        assert_eq!(Vm::start(program, &args).expect("c", 20), "1avh2bh3c", "{model}");
    }
}
