//! Guests that are the worst for a compiler: they get slower, and nothing else. What the process holds stays bounded.

use bulkhead_tests::{Monitor, Scratch, Vm};

const LOAD: u32 = 0x10_0000;
/// Where the subroutines stand in the image.
const HEX: usize = 0x400;
const PUT: usize = 0x480;

/// `put`: sends AL. `hex`: sends EBX as eight letters from `A` on, the highest first, then a bar.
const PUT_CODE: &[u8] = &[
    0x52, 0x50, 0xba, 0xfd, 0x03, 0x00, 0x00, // push edx; push eax; mov edx, 3fdh
    0xec, 0xa8, 0x20, 0x74, 0xfb, // in al, dx; test al, 20h; jz back
    0x58, 0xb2, 0xf8, 0xee, 0x5a, 0xc3, // pop eax; mov dl, f8h; out dx, al; pop edx; ret
];
const HEX_CODE: &[u8] = &[
    0xb9, 0x08, 0x00, 0x00, 0x00, // mov ecx, 8
    0xc1, 0xc3, 0x04, 0x88, 0xd8, 0x24, 0x0f, 0x04,
    0x41, // rol ebx, 4; mov al, bl; and al, 15; add al, 'A'
    0xe8, 0x6d, 0x00, 0x00, 0x00, // call put
    0x49, 0x75, 0xef, // dec ecx; jnz rol
    0xb0, 0x7c, 0xe8, 0x63, 0x00, 0x00, 0x00, 0xc3, // mov al, '|'; call put; ret
];

/// 32-bit code without paging that grows, for a multiboot kernel.
#[derive(Default)]
struct Guest(Vec<u8>);

impl Guest {
    fn bytes(mut self, bytes: &[u8]) -> Guest {
        self.0.extend_from_slice(bytes);
        self
    }

    /// An instruction with a 32-bit constant.
    fn with(self, opcode: &[u8], value: u32) -> Guest {
        self.bytes(opcode).bytes(&value.to_le_bytes())
    }

    /// Sends EBX.
    fn hex(self) -> Guest {
        let next = 32 + self.0.len() + 5;
        self.with(&[0xe8], (HEX as u32).wrapping_sub(next as u32))
    }

    /// `jnz` back to `at`.
    fn again(self, at: usize) -> Guest {
        let next = self.0.len() + 6;
        self.with(&[0x0f, 0x85], (at as u32).wrapping_sub(next as u32))
    }

    fn here(&self) -> usize {
        self.0.len()
    }

    /// Runs it on a machine of `cpus` processors until it has sent `numbers` words and sleeps; they, what `info jit` says, and the KiB that the CPU process holds of its own
    /// (neither files nor the guest's memory).
    fn run(&self, name: &str, cpus: &str, numbers: usize) -> (Vec<u32>, String, u64) {
        let code = Guest(self.0.clone()).bytes(&[0xfa, 0xf4, 0xeb, 0xfc]);
        let flags = 3 | 1 << 16;
        let head = [0x1bad_b002, flags, 0u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags)];
        let places = [LOAD, LOAD, 0, LOAD + 0x2000, LOAD + 32];
        let mut image: Vec<u8> = head.iter().chain(&places).flat_map(|word| word.to_le_bytes()).collect();
        image.extend(code.0);
        assert!(image.len() <= HEX, "code reaches its subroutines");
        image.resize(0x500, 0);
        image[HEX..HEX + HEX_CODE.len()].copy_from_slice(HEX_CODE);
        image[PUT..PUT + PUT_CODE.len()].copy_from_slice(PUT_CODE);
        let scratch = Scratch::new(name);
        let (kernel, socket) = (scratch.file("kernel"), scratch.file("monitor"));
        std::fs::write(&kernel, image).expect("kernel");
        let monitor = format!("unix:{socket},server,nowait");
        let args = [
            "-nographic",
            "-m",
            "128",
            "-smp",
            cpus,
            "-kernel",
            &kernel,
            "-monitor",
            &monitor,
            "-serial",
            "stdio",
        ];
        let mut vm = Vm::start("qemu-system-x86_64", &args);
        // The firmware's own words come first.
        vm.expect("Booting from ROM", 60);
        let mut words = Vec::new();
        for _ in 0..numbers {
            let text = vm.expect("|", 300);
            let letters = text.trim_end_matches('|').as_bytes();
            let letters = &letters[letters.len() - 8..];
            words.push(letters.iter().fold(0, |word, letter| word << 4 | u32::from(letter - b'A')));
        }
        let jit = Monitor::connect(&socket).ask("info jit");
        let cpu = vm.processes().into_iter().find(|(_, name)| name == "bh-cpu").expect("a CPU process").0;
        let status = std::fs::read_to_string(format!("/proc/{cpu}/status")).expect("its status");
        let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a size");
        let own = own.split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("KiB");
        (words, jit, own)
    }
}

/// Number before `word`.
fn number(text: &str, word: &str) -> u64 {
    let (before, _) = text.split_once(word).unwrap_or_else(|| panic!("no {word:?} in {text}"));
    before.rsplit(' ').next().and_then(|digits| digits.parse().ok()).expect("a number")
}

/// No guest makes the CPU process hold more of its own than this, in KiB.
const OWN_MAX: u64 = 192 << 10;

fn bounded(jit: &str, own: u64) {
    let used = number(jit, " of 65536 KiB");
    assert!(used <= 65536, "{jit}");
    assert!(own < OWN_MAX, "{own} KiB; {jit}");
}

#[test]
fn a_guest_that_rewrites_its_code_for_ever_computes_on() {
    const ROUNDS: u32 = 600_000;
    // Writes the constant of a function elsewhere and calls it; then that of the next instruction, and runs into that.
    let guest = Guest::default()
        .with(&[0xbc], 0x18_0000) // mov esp
        .with(&[0xbf], 0x20_0000) // mov edi
        .with(&[0xc7, 0x07], 0x0000_00b8) // mov dword [edi]: mov eax, ...
        .bytes(&[0xc7, 0x47, 0x04]) // mov dword [edi+4]
        .bytes(&[0x00, 0x01, 0xc3, 0xc3]) // ...; add ebx, eax; ret
        .bytes(&[0x31, 0xdb]) // xor ebx, ebx
        .with(&[0xb9], ROUNDS); // mov ecx
    let other = guest.here();
    let guest = guest
        .bytes(&[0x89, 0x4f, 0x01, 0xff, 0xd7, 0x49]) // mov [edi+1], ecx; call edi; dec ecx
        .again(other)
        .hex()
        .bytes(&[0x31, 0xdb]) // xor ebx, ebx
        .with(&[0xb9], ROUNDS / 10);
    let own = guest.here();
    // mov [constant], ecx; mov eax, constant; add ebx, eax; dec ecx
    let constant = LOAD + 32 + own as u32 + 7;
    let guest =
        guest.with(&[0x89, 0x0d], constant).with(&[0xb8], 0).bytes(&[0x01, 0xc3, 0x49]).again(own).hex();
    let sum = |rounds: u32| (1..=rounds).fold(0u32, u32::wrapping_add);
    for cpus in ["1", "2"] {
        let (sums, jit, own) = guest.run("rewrites", cpus, 2);
        assert_eq!(sums, [sum(ROUNDS), sum(ROUNDS / 10)], "{cpus} processors: {jit}");
        assert!(number(&jit, " invalidated") >= u64::from(ROUNDS), "{jit}");
        assert!(number(&jit, " flushes") > 0, "{jit}");
        bounded(&jit, own);
    }
}

#[test]
fn a_guest_of_a_million_tiny_blocks_runs_through_them() {
    const BLOCKS: u32 = 700_000;
    // Jumps to the next instruction, each a block, then `inc ebx; ret`; twice over all of them.
    let guest = Guest::default()
        .with(&[0xbc], 0x18_0000) // mov esp
        .with(&[0xbf], 0x20_0000) // mov edi
        .with(&[0xb9], BLOCKS) // mov ecx
        .with(&[0xb8], 0x00eb) // mov eax: jmp $+2
        .bytes(&[0xfc, 0x66, 0xf3, 0xab]) // cld; rep stosw
        .with(&[0xc7, 0x07], 0x0000_c343) // mov dword [edi]: inc ebx; ret
        .bytes(&[0x31, 0xdb]) // xor ebx, ebx
        .with(&[0xbd], 2) // mov ebp
        .with(&[0xbf], 0x20_0000); // mov edi
    let top = guest.here();
    let guest = guest.bytes(&[0xff, 0xd7, 0x4d]).again(top).hex(); // call edi; dec ebp
    for cpus in ["1", "2"] {
        let (rounds, jit, own) = guest.run("tiny", cpus, 1);
        assert_eq!(rounds, [2]);
        // Not all of them fit.
        assert!(number(&jit, " compiled, ") >= u64::from(BLOCKS), "{jit}");
        assert!(number(&jit, " flushes") > 0, "{jit}");
        bounded(&jit, own);
    }
}

#[test]
fn a_guest_that_reuses_no_translation_adds_up_its_memory() {
    const PAGES: u32 = 16384;
    const ROUNDS: u32 = 100;
    // ebx += number of the page, a word of each page, over all pages; CR3 is loaded every 64 pages.
    let guest = Guest::default()
        .with(&[0xbc], 0x18_0000) // mov esp
        .bytes(&[0x31, 0xdb]) // xor ebx, ebx
        .with(&[0xbd], ROUNDS); // mov ebp
    let round = guest.here();
    let guest = guest
        .with(&[0xbe], 0x0200_0000) // mov esi
        .with(&[0xb9], PAGES); // mov ecx
    let page = guest.here();
    let guest = guest
        .bytes(&[0x89, 0x4e, 0x10, 0x03, 0x5e, 0x10]) // mov [esi+16], ecx; add ebx, [esi+16]
        .bytes(&[0xf6, 0xc1, 0x3f, 0x75, 0x06, 0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8]) // test cl, 63; jnz +6; mov eax, cr3; mov cr3, eax
        .with(&[0x81, 0xc6], 0x1000) // add esi
        .bytes(&[0x49]) // dec ecx
        .again(page)
        .bytes(&[0x4d]) // dec ebp
        .again(round)
        .hex();
    let (sums, jit, own) = guest.run("thrash", "1", 1);
    let sum = (1..=PAGES).fold(0u32, u32::wrapping_add).wrapping_mul(ROUNDS);
    assert_eq!(sums, [sum]);
    let slow = jit.split_once("slow accesses: ").and_then(|(_, rest)| rest.lines().next()?.parse().ok());
    assert!(slow >= Some(u64::from(PAGES) * u64::from(ROUNDS)), "{jit}");
    bounded(&jit, own);
}
