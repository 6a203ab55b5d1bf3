//! `-icount`: what a guest does follows from its own instructions alone.

use std::time::{Duration, Instant};

use bulkhead_tests::code::Code;
use bulkhead_tests::{Monitor, Scratch, Vm, guest};

/// Waits until the CPU has nothing more to do, for as long as the machine lasts; what `info jit` says of its instructions then.
fn counted(monitor: &mut Monitor) -> String {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let line = |text: String| text.lines().find(|line| line.contains("trace")).map(str::to_owned);
        let (first, cpus, second) =
            (monitor.ask("info jit"), monitor.ask("info cpus"), monitor.ask("info jit"));
        if first == second && (cpus.contains("(halted)") || monitor.ask("info status").contains("paused")) {
            return line(first).expect("a count");
        }
        assert!(Instant::now() < end, "it goes on: {second}");
    }
}

/// A firmware whose timer interrupts itself 300 times at whatever it is computing, and that then sends what it has computed, which
/// holds all the clocks it can read at each interrupt.
fn clocks() -> Code {
    const HANDLER: usize = 0x100;
    let [low, high] = (HANDLER as u16).to_le_bytes();
    let code = Code::new()
        // cli; xor ax, ax; mov ds, ax; mov ss, ax; mov sp, 0x7000; the vector of IRQ 0
        .bytes(&[0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x70])
        .bytes(&[0xc7, 0x06, 0x20, 0x00, low, high, 0xc7, 0x06, 0x22, 0x00, 0x00, 0xf0])
        // The words that it computes in.
        .bytes(&[0xa3, 0x00, 0x05, 0x66, 0x31, 0xc0, 0x66, 0xa3, 0x04, 0x05, 0x66, 0xa3, 0x08, 0x05])
        .out(0x20, 0x11)
        .out(0x21, 0x08)
        .out(0x21, 0x04)
        .out(0x21, 0x01)
        .out(0x21, 0xfe)
        // 3,000 ticks of 838 ns.
        .out(0x43, 0x34)
        .out(0x40, 0xb8)
        .out(0x40, 0x0b)
        .bytes(&[0xfb]);
    let top = code.raw().len();
    code
        // A value that depends on where it is interrupted: mov ecx, [508]; imul ecx, ecx, 69069; inc ecx; mov [508], ecx
        .bytes(&[0x66, 0x8b, 0x0e, 0x08, 0x05, 0x66, 0x69, 0xc9, 0xcd, 0x0d, 0x01, 0x00, 0x66, 0x41])
        .bytes(&[0x66, 0x89, 0x0e, 0x08, 0x05])
        // Now and then it halts: test ecx, 0x3ffff000; jnz +1; hlt
        .bytes(&[0x66, 0xf7, 0xc1, 0x00, 0xf0, 0xff, 0x3f, 0x75, 0x01, 0xf4])
        // cmp word [500], 300; jae out
        .bytes(&[0x81, 0x3e, 0x00, 0x05, 0x2c, 0x01, 0x73, 0x03])
        .back_to(top)
        // cli
        .bytes(&[0xfa])
        .say_memory(0x504, 8)
        .say("<done>")
        .sleep()
        .fill_to(HANDLER)
        // push eax, ebx, ecx, edx; mov ecx, [508]; mov ebx, [504]
        .bytes(&[0x66, 0x50, 0x66, 0x53, 0x66, 0x51, 0x66, 0x52])
        .bytes(&[0x66, 0x8b, 0x0e, 0x08, 0x05, 0x66, 0x8b, 0x1e, 0x04, 0x05])
        // ebx = (ebx * 5 ^ ecx) + time-stamp counter
        .bytes(&[0x66, 0x6b, 0xdb, 0x05, 0x66, 0x31, 0xcb, 0x0f, 0x31, 0x66, 0x01, 0xc3])
        // The 8254 as it counts, and the seconds and the status of the MC146818.
        .bytes(&[0xb0, 0x00, 0xe6, 0x43, 0xe4, 0x40, 0x00, 0xc3, 0xe4, 0x40, 0x00, 0xc7])
        .bytes(&[
            0xb0, 0x00, 0xe6, 0x70, 0xe4, 0x71, 0x00, 0xc3, 0xb0, 0x0a, 0xe6, 0x70, 0xe4, 0x71, 0x00, 0xc7,
        ])
        .bytes(&[0x66, 0x89, 0x1e, 0x04, 0x05, 0xff, 0x06, 0x00, 0x05, 0xb0, 0x20, 0xe6, 0x20])
        .bytes(&[0x66, 0x5a, 0x66, 0x59, 0x66, 0x5b, 0x66, 0x58, 0xcf])
}

/// What the firmware sends, and its count.
fn run(name: &str, options: &[&str]) -> (String, String) {
    let scratch = Scratch::new(name);
    let more = [&["-startdate", "2009-05-01T12:00:00"], options].concat();
    let (mut vm, socket) = clocks().start_monitored(&scratch, &more);
    let said = vm.expect("<done>", 60);
    (said, counted(&mut Monitor::connect(&socket)))
}

#[test]
fn clocks_and_interrupts_come_at_the_same_instructions_every_time() {
    let first = run("icount-1", &["-icount", "3"]);
    assert_eq!(run("icount-2", &["-icount", "3"]), first);
    // However blocks are cut.
    assert_eq!(run("icount-3", &["-icount", "3", "-singlestep"]), first);
    // And it would tell: half the speed is another run.
    let other = run("icount-4", &["-icount", "4"]);
    assert!(other.0 != first.0 && other.1 != first.1, "{other:?}");
}

#[test]
fn auto_runs_the_same_firmware() {
    let (said, _) = run("icount-auto", &["-icount", "auto"]);
    assert!(said.ends_with("<done>"), "{said}");
}

#[test]
fn linux_boots_to_its_userland_through_the_same_instructions_twice() {
    let boot = |name: &str| {
        let scratch = Scratch::new(name);
        let (socket, serial) = (scratch.file("monitor"), scratch.file("serial"));
        let monitor = format!("unix:{socket},server,nowait");
        let file = format!("file:{serial}");
        let (kernel, initrd) = (guest("amd64/vmlinuz"), guest("amd64/initrd.gz"));
        let mut args = vec!["-nographic", "-m", "256", "-kernel", &kernel, "-initrd", &initrd];
        // At the prompt it would idle on; so it powers off.
        args.extend(["-append", "console=ttyS0 run=true", "-startdate", "2009-05-01", "-icount", "6"]);
        args.extend(["-serial", &file, "-monitor", &monitor, "-no-shutdown"]);
        let _vm = Vm::start("qemu-system-x86_64", &args);
        let end = Instant::now() + Duration::from_secs(300);
        let mut monitor = Monitor::connect(&socket);
        while !monitor.ask("info status").contains("paused") {
            let said = std::fs::read(&serial).unwrap_or_default();
            assert!(Instant::now() < end, "{}", String::from_utf8_lossy(&said));
            std::thread::sleep(Duration::from_millis(200));
        }
        let said = std::fs::read(&serial).expect("what it said");
        (String::from_utf8_lossy(&said).into_owned(), counted(&mut monitor))
    };
    let first = boot("icount-linux-1");
    assert!(first.0.contains("userland is up"), "{}", first.0);
    assert_eq!(boot("icount-linux-2"), first);
}

/// How many sectors [`reader`] reads of a disk that has 256, again and again.
const READS: u16 = 2000;

/// A firmware that reads sectors of a disk with the processor, waiting for each by looking at the status, and sends a sum of all words.
fn reader() -> Code {
    let code = Code::new()
        // cli; xor ax, ax; mov ds, ax; mov ss, ax; mov sp, 0x7000; xor ebp, ebp; xor bx, bx
        .bytes(&[0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x70, 0x66, 0x31, 0xed, 0x31, 0xdb]);
    let top = code.raw().len();
    [(2, 1), (4, 0), (5, 0), (6, 0xe0)]
        .into_iter()
        .fold(code, |code, (register, value)| code.out(0x1f0 + register, value))
        // mov dx, 0x1f3; mov al, bl; out dx, al; the command
        .bytes(&[0xba, 0xf3, 0x01, 0x88, 0xd8, 0xee])
        .out(0x1f7, 0x20)
        // wait: in al, dx; test al, 8; jz wait; mov dx, 0x1f0; mov cx, 256
        .bytes(&[0xec, 0xa8, 0x08, 0x74, 0xfb, 0xba, 0xf0, 0x01, 0xb9, 0x00, 0x01])
        // word: in ax, dx; movzx eax, ax; rol ebp, 1; add ebp, eax; loop word
        .bytes(&[0xed, 0x66, 0x0f, 0xb7, 0xc0, 0x66, 0xd1, 0xc5, 0x66, 0x01, 0xc5, 0xe2, 0xf3])
        // inc bx; cmp bx, READS; jae out
        .bytes(&[0x43, 0x81, 0xfb, READS.to_le_bytes()[0], READS.to_le_bytes()[1], 0x73, 0x03])
        .back_to(top)
        // mov [500], ebp
        .bytes(&[0x66, 0x89, 0x2e, 0x00, 0x05])
        .say_memory(0x500, 4)
        .say("<done>")
        .sleep()
}

#[test]
fn a_disk_gives_the_same_with_counted_time_also_while_its_processes_die() {
    let scratch = Scratch::new("icount-disk");
    let disk = scratch.file("disk");
    let words: Vec<u16> = (0..256 * 256u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u16).collect();
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    std::fs::write(&disk, bytes).expect("disk");
    let read = (0..usize::from(READS)).flat_map(|sector| &words[sector % 256 * 256..][..256]);
    let sum = read.fold(0u32, |sum, word| sum.rotate_left(1).wrapping_add(u32::from(*word)));
    let letter = |half: u8| char::from(b'A' + half);
    let said: String =
        sum.to_le_bytes().iter().flat_map(|byte| [letter(byte >> 4), letter(byte & 15)]).collect();

    for kills in [false, true] {
        let (mut vm, socket) = reader().start_monitored(&scratch, &["-icount", "3", "-hda", &disk, "-S"]);
        let mut monitor = Monitor::connect(&socket);
        monitor.ask("cont");
        for name in ["ide0", "block-hda"].repeat(if kills { 10 } else { 0 }) {
            monitor.ask(&format!("device_kill {name}"));
        }
        assert_eq!(vm.expect("<done>", 60), format!("{said}<done>"), "kills: {kills}; {}", vm.errors());
        assert_eq!(monitor.ask("info restarts").contains("device_kill"), kills);
        drop(vm);
        std::fs::remove_file(&socket).ok();
    }
}
