//! Multiboot kernels given by `-kernel`: what they find, and that they can end the machine.

use bulkhead_tests::{Scratch, Vm};

/// 32-bit code for 100000h. In text over the first serial port, each part ended by a bar: command line; name and contents of each module;
/// MiB of usable memory by the map (low halves of the lengths); MiB of upper memory; lower memory in units of 64 KiB (numbers as two letters
/// from `a` on); then the loader's name. It ends with 10h to port F4h. Without the magic number in EAX, or with paging on, it hangs.
const CODE: &[u8] = &[
    0xbc, 0x00, 0x00, 0x18, 0x00, // mov esp, 180000h
    0x89, 0xc5, 0x81, 0xfd, 0x02, 0xb0, 0xad, 0x2b, // mov ebp, eax; cmp ebp, 2badb002h
    0x0f, 0x85, 0x97, 0x00, 0x00, 0x00, // jne bad
    0x0f, 0x20, 0xc0, 0x85, 0xc0, 0x0f, 0x88, 0x8c, 0x00, 0x00,
    0x00, // mov eax, cr0; test eax, eax; js bad
    0x8b, 0x73, 0x10, 0xe8, 0xb3, 0x00, 0x00, 0x00, // mov esi, [ebx+16]; call text
    0xe8, 0x9a, 0x00, 0x00, 0x00, // call bar
    0x8b, 0x4b, 0x14, 0x8b, 0x7b, 0x18, // mov ecx, [ebx+20]; mov edi, [ebx+24]
    0xe3, 0x29, // next: jecxz map
    0x8b, 0x77, 0x08, 0xe8, 0x9e, 0x00, 0x00, 0x00, // mov esi, [edi+8]; call text
    0xe8, 0x85, 0x00, 0x00, 0x00, // call bar
    0x8b, 0x37, // mov esi, [edi]
    0x3b, 0x77, 0x04, 0x74, 0x0a, // more: cmp esi, [edi+4]; je end
    0x8a, 0x06, 0xe8, 0x79, 0x00, 0x00, 0x00, 0x46, 0xeb,
    0xf1, // mov al, [esi]; call put; inc esi; jmp more
    0xe8, 0x6f, 0x00, 0x00, 0x00, // end: call bar
    0x83, 0xc7, 0x10, 0x49, 0xeb, 0xd5, // add edi, 16; dec ecx; jmp next
    0x8b, 0x73, 0x30, 0x89, 0xf7, 0x03, 0x7b,
    0x2c, // map: mov esi, [ebx+48]; mov edi, esi; add edi, [ebx+44]
    0x31, 0xd2, 0x6a, 0x00, // xor edx, edx; push 0
    0x39, 0xfe, 0x73, 0x13, // entry: cmp esi, edi; jae mapped
    0x83, 0x7e, 0x14, 0x01, 0x75, 0x06, // cmp dword [esi+20], 1; jne skip
    0x8b, 0x46, 0x0c, 0x01, 0x04, 0x24, // mov eax, [esi+12]; add [esp], eax
    0x03, 0x36, 0x83, 0xc6, 0x04, 0xeb, 0xe9, // skip: add esi, [esi]; add esi, 4; jmp entry
    0x58, 0xc1, 0xe8, 0x14, 0xe8, 0x26, 0x00, 0x00, 0x00, // mapped: pop eax; shr eax, 20; call digits
    0x8b, 0x43, 0x08, 0xc1, 0xe8, 0x0a, 0xe8, 0x1b, 0x00, 0x00,
    0x00, // mov eax, [ebx+8]; shr eax, 10; call digits
    0x8b, 0x43, 0x04, 0xc1, 0xe8, 0x06, 0xe8, 0x10, 0x00, 0x00,
    0x00, // mov eax, [ebx+4]; shr eax, 6; call digits
    0x8b, 0x73, 0x40, 0xe8, 0x33, 0x00, 0x00, 0x00, // mov esi, [ebx+64]; call text
    0xb0, 0x10, 0xe6, 0xf4, // mov al, 10h; out f4h, al
    0xfa, 0xf4, 0xeb, 0xfc, // bad: cli; hlt; jmp bad
    0x50, 0xc1, 0xe8, 0x04, 0x24, 0x0f, 0x04,
    0x61, // digits: push eax; shr eax, 4; and al, 15; add al, 'a'
    0xe8, 0x0c, 0x00, 0x00, 0x00, // call put
    0x58, 0x24, 0x0f, 0x04, 0x61, 0xe8, 0x02, 0x00, 0x00,
    0x00, // pop eax; and al, 15; add al, 'a'; call put
    0xb0, 0x7c, // bar: mov al, '|'
    0x52, 0x50, 0xba, 0xfd, 0x03, 0x00, 0x00, // put: push edx; push eax; mov edx, 3fdh
    0xec, 0xa8, 0x20, 0x74, 0xfb, // in al, dx; test al, 20h; jz back
    0x58, 0xb2, 0xf8, 0xee, 0x5a, 0xc3, // pop eax; mov dl, f8h; out dx, al; pop edx; ret
    0xac, 0x84, 0xc0, 0x74, 0x07, // text: lodsb; test al, al; jz done
    0xe8, 0xe4, 0xff, 0xff, 0xff, 0xeb, 0xf4, 0xc3, // call put; jmp text; done: ret
];

const LOAD: u32 = 0x10_0000;
const HEADER: [u32; 3] = [0x1bad_b002, 3, 0u32.wrapping_sub(0x1bad_b002 + 3)];

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The code as an ELF file of 32 bits, linked high and loaded low.
fn elf32() -> Vec<u8> {
    const VIRTUAL: u32 = 0xc010_0000;
    let size = (12 + CODE.len()) as u32;
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0\x01\0\0\0".to_vec();
    file.extend(words(&[VIRTUAL + 12, 52, 0, 0]));
    file.extend([52, 0, 32, 0, 1, 0, 40, 0, 0, 0, 0, 0]);
    file.extend(words(&[1, 84, VIRTUAL, LOAD, size, size + 0x1000, 7, 4]));
    file.extend(words(&HEADER));
    file.extend(CODE);
    file
}

/// The code as an ELF file of 64 bits.
fn elf64() -> Vec<u8> {
    let size = (12 + CODE.len()) as u64;
    let long = |value: u64| value.to_le_bytes();
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    file.extend([long(u64::from(LOAD) + 12), long(64), long(0)].concat());
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    file.extend(words(&[1, 7]));
    file.extend([long(120), long(LOAD.into()), long(LOAD.into()), long(size), long(size), long(4)].concat());
    file.extend(words(&HEADER));
    file.extend(CODE);
    file
}

/// The code as a flat file whose header tells where it goes.
fn flat(load: u32) -> Vec<u8> {
    let flags = 3 | 1 << 16;
    let mut file = words(&[0x1bad_b002, flags, 0u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags)]);
    file.extend(words(&[load, load, 0, load + 0x2000, load + 32]));
    file.extend(CODE);
    file
}

#[test]
fn a_multiboot_kernel_gets_what_it_is_given_and_ends_the_machine() {
    // The last lies where the boot information goes otherwise.
    let files = [("elf32", elf32()), ("elf64", elf64()), ("flat", flat(LOAD)), ("low", flat(0x8000))];
    for (name, file) in files {
        let scratch = Scratch::new(&format!("multiboot-{name}"));
        let [kernel, one, two] = ["kernel", "one", "two"].map(|file| scratch.file(file));
        std::fs::write(&kernel, file).expect("kernel");
        std::fs::write(&one, b"first").expect("module");
        std::fs::write(&two, b"second").expect("module");
        let modules = format!("{one} with words,{two}");
        let kernel_args = ["-kernel", &kernel, "-append", "some words", "-initrd", &modules];
        let machine = ["-nographic", "-m", "64", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"];
        let args = [&machine[..], &kernel_args].concat();
        let mut vm = Vm::start("qemu-system-x86_64", &args);
        // (10h << 1) | 1
        let status = vm.wait(60).code();
        let output = vm.output();
        let expected = format!("{kernel} some words|{one} with words|first|{two}|second|");
        let (_, rest) =
            output.split_once(&expected).unwrap_or_else(|| panic!("{name}: {output:?} {}", vm.errors()));
        // 63 or 64 MiB usable, 62 or 63 of them from 1 MiB on, 9 units of lower memory.
        let numbers: Vec<&str> = rest.split('|').collect();
        assert!(matches!(numbers[..], ["dp" | "ea", "do" | "dp", "aj", "Bulkhead"]), "{name}: {rest:?}");
        assert_eq!(status, Some(33), "{name}: {}", vm.errors());
    }
}

#[test]
fn what_is_no_kernel_is_refused_in_one_line() {
    let scratch = Scratch::new("multiboot-bad");
    let kernel = scratch.file("kernel");
    let refused = |file: &[u8], more: &[&str], why: &str| {
        std::fs::write(&kernel, file).expect("kernel");
        let mut args = vec!["-nographic", "-kernel", &kernel];
        args.extend(more);
        let mut vm = Vm::start("qemu", &args);
        assert_eq!(vm.wait(20).code(), Some(1), "{}", vm.errors());
        let errors = vm.errors();
        assert!(errors.contains(why) && errors.lines().count() == 1, "{errors}");
    };
    let elf = elf32();
    refused(&elf[..90], &[], "not a Linux kernel image (bzImage) nor a multiboot kernel");
    refused(&elf[..100], &[], "multiboot kernel is truncated");
    refused(&elf, &["-initrd", "/nonexistent"], "-initrd /nonexistent: no such file or directory");
    let mut far = elf.clone();
    far[64..68].copy_from_slice(&0xf000_0000u32.to_le_bytes());
    refused(&far, &[], "does not fit into the machine's memory");
}
