//! Three processes that are bad in one way: a disk's back end that one sector kills, a screen that comes byte by byte, a device that does
//! nothing and wipes out what it is asked for.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bulkhead_attack::{DEADLY_SECTOR, VICTIMS, guest, install, plan};
use bulkhead_tests::code::Code;
use bulkhead_tests::{Monitor, Scratch, Vm, programs};

/// READ SECTOR(S) and WRITE SECTOR(S).
const READ: u8 = 0x20;
const WRITE: u8 = 0x30;
/// Status after the data of a read has come, after a write, and after a command that failed.
const DATA: u8 = 0x58;
const DONE: u8 = 0x50;
const FAILED: u8 = 0x51;

/// Firmware that carries out commands of one sector (sector, command) on the first disk by PIO and sends the status after each.
fn commands(list: &[(u8, u8)]) -> Code {
    let code = Code::new().bytes(&[
        0xbe, 0x5d, 0x00, // mov si, the list
        0x2e, 0xad, // next: lodsw cs:
        0x84, 0xe4, // test ah, ah
        0x74, 0x52, // jz done
        0x89, 0xc3, // mov bx, ax
        0xba, 0xf6, 0x01, 0xb0, 0xe0, 0xee, // drive 0, LBA
        0x42, 0xec, 0xa8, 0x80, 0x75, 0xfb, // wait for the end of BSY
        0xb2, 0xf2, 0xb0, 0x01, 0xee, // one sector
        0x42, 0x88, 0xd8, 0xee, // bl
        0x42, 0xb0, 0x00, 0xee, 0x42, 0xee, // of the first 256
        0xb2, 0xf7, 0x88, 0xf8, 0xee, // command bh
        0x80, 0xff, WRITE, 0x75, 0x11, // cmp bh, WRITE; jne read
        0xec, 0xa8, 0x08, 0x74, 0xfb, // wait for DRQ
        0xb9, 0x00, 0x01, 0xb2, 0xf0, 0x31, 0xc0, // 256 words of zero to the data port
        0xef, 0xe2, 0xfd, // out dx, ax; loop
        0xb2, 0xf7, // read:
        0xec, 0xa8, 0x80, 0x75, 0xfb, // wait for the end of BSY
        0x88, 0xc3, // mov bl, al
        0xa8, 0x08, 0x74, 0x08, // test al, DRQ; jz report
        0xb9, 0x00, 0x01, 0xb2, 0xf0, // 256 words from the data port
        0xed, 0xe2, 0xfd, // in ax, dx; loop
        0x88, 0xd8, // report: mov al, bl
    ]);
    // put; jmp next; done: cli; hlt
    let code = code.put().bytes(&[0xeb, 0xa8, 0xfa, 0xf4]);
    let words: Vec<u8> = list.iter().flat_map(|(sector, command)| [*sector, *command]).collect();
    code.bytes(&words).bytes(&[0, 0])
}

/// A machine whose `program` is `stand_in`, with a firmware; its monitor.
fn machine(scratch: &Scratch, program: &str, stand_in: &str, code: &Code, more: &[&str]) -> (Vm, Monitor) {
    let folder = PathBuf::from(scratch.file("programs"));
    install(&programs(), &folder, program, stand_in);
    plan(&folder, "bh-vga", 1, more.first().copied().unwrap_or_default());
    let (bios, socket) = (scratch.file("bios"), scratch.file("monitor"));
    std::fs::write(&bios, code.firmware(0x2_0000)).expect("firmware");
    let monitor = format!("unix:{socket},server,nowait");
    let mut args = vec!["-bios", &bios, "-m", "16", "-serial", "stdio", "-monitor", &monitor, "-vnc", "none"];
    args.extend(more.iter().skip(1));
    let program = folder.join("qemu-system-x86_64");
    (Vm::start(program.to_str().expect("path in UTF-8"), &args), Monitor::connect(&socket))
}

#[test]
fn a_block_request_that_kills_its_back_end_fails_for_the_guest_and_all_others_go_on() {
    let scratch = Scratch::new("worn-block");
    let image = scratch.file("disk.img");
    std::fs::write(&image, vec![0x5au8; 1 << 20]).expect("image");
    let deadly = DEADLY_SECTOR;
    let list = [(0, READ), (deadly, READ), (1, READ), (deadly, WRITE), (2, WRITE), (2, READ)];
    let (mut vm, mut monitor) =
        machine(&scratch, "bh-block", "bh-frail", &commands(&list), &["", "-hda", &image]);
    let statuses = vm.take(list.len(), 120);
    assert_eq!(statuses, [DATA, FAILED, DATA, FAILED, DONE, DATA], "{}", vm.errors());

    let table = monitor.ask("info restarts");
    let at = usize::from(deadly) * 512;
    for operation in ["read", "write"] {
        let request = format!("{operation} of 512 bytes at {at}");
        for begun in ["once", "2 times", "3 times"] {
            let line = format!("{request}, begun {begun}  was killed by SIGILL");
            let found = table.lines().filter(|text| text.contains(" bh-block-hda ") && text.contains(&line));
            assert_eq!(found.count(), 1, "{line}\n{table}");
        }
        vm.expect_error(
            &format!("{request} has killed this back end 3 times and is reported as an error"),
            20,
        );
    }
    assert_eq!(table.matches("SIGILL").count(), 6, "{table}");
    // Whatever the length of the text: one column.
    let heads = table.lines().next().expect("a line").find("reason").expect("its heads");
    assert_eq!(table.lines().filter(|line| line.find("was killed") == Some(heads)).count(), 6, "{table}");
    monitor.tell("quit");
    assert_eq!(vm.wait(60).code(), Some(0), "{}", vm.errors());

    // What was written is there, and nothing else was.
    let after = std::fs::read(&image).expect("image");
    let zeros = |sector: usize| after[sector * 512..][..512].iter().all(|byte| *byte == 0);
    assert_eq!(after.iter().filter(|byte| **byte == 0x5a).count(), after.len() - 512);
    assert!(zeros(2));
}

/// `way`: see `bh-hostile`.
fn screen(way: &str) {
    let scratch = Scratch::new(&format!("worn-screen-{way}"));
    // A guest that does not touch the screen: rounds of timer, clock and disk.
    let victim = VICTIMS.iter().find(|victim| victim.process == "bh-serial1").expect("in the table");
    let hdb = scratch.file("hdb");
    std::fs::write(&hdb, vec![0x5au8; 1 << 20]).expect("image");
    let (mut vm, mut monitor) =
        machine(&scratch, "bh-vga", "bh-hostile", &guest(victim), &[way, "-hdb", &hdb]);
    vm.expect(".", 60);
    let picture = scratch.file("screen.ppm");
    // The time that a picture may take is shorter than this client's patience.
    assert_eq!(monitor.ask(&format!("screendump {picture}")), "vga: the device does not answer\n");
    assert!(!Path::new(&picture).exists());
    assert_eq!(monitor.ask("info status"), "VM status: running\n");
    let table = monitor.ask("info restarts");
    assert!(table.contains("0 deaths answered"), "{table}");
    vm.expect("..", 60);
    assert!(vm.output().chars().all(|letter| "S.".contains(letter)), "{}", vm.output());
    monitor.tell("quit");
    assert_eq!(vm.wait(60).code(), Some(0), "{}", vm.errors());
}

#[test]
fn a_screen_that_comes_byte_by_byte_takes_no_more_than_its_time() {
    screen("drip");
}

#[test]
fn a_screen_whose_bytes_come_before_they_are_asked_for_takes_no_more_than_its_time() {
    screen("ahead");
}

#[test]
fn a_device_that_hides_what_it_is_asked_for_is_found_to_hang() {
    let scratch = Scratch::new("worn-hide");
    let victim = VICTIMS.iter().find(|victim| victim.process == "bh-vga").expect("in the table");
    let hdb = scratch.file("hdb");
    std::fs::write(&hdb, vec![0x5au8; 1 << 20]).expect("image");
    let (mut vm, mut monitor) =
        machine(&scratch, "bh-vga", "bh-hostile", &guest(victim), &["hide", "-hdb", &hdb]);
    vm.expect("S", 60);
    // The one that waits to be the next is of the same kind; those after it are real.
    plan(Path::new(&scratch.file("programs")), "nobody", 1, "");
    let end = Instant::now() + Duration::from_secs(60);
    while !monitor.ask("info restarts").lines().any(|line| line.contains(" bh-vga ") && line.contains("hung"))
    {
        assert!(Instant::now() < end, "{}", monitor.ask("info restarts"));
        std::thread::sleep(Duration::from_millis(100));
    }
    vm.expect("..", 60);
    monitor.tell("quit");
    assert_eq!(vm.wait(60).code(), Some(0), "{}", vm.errors());
}
