//! The options, each by what it changes for a guest or on the host. Most guests here are a few bytes of firmware or a boot sector.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bulkhead_tests::code::Code;
use bulkhead_tests::{Scratch, Vm, guest, programs};

/// A VM that runs the real firmware.
fn seabios(more: &[&str]) -> Vm {
    let mut args = vec!["-nographic", "-vga", "none", "-monitor", "null", "-serial", "stdio"];
    args.extend(more);
    Vm::start("qemu", &args)
}

/// Sends CMOS bytes 0 to 7Fh.
fn cmos() -> Code {
    // xor bl, bl; again: mov al, bl; out 0x70, al; in al, 0x71
    let code = Code::new().bytes(&[0x30, 0xdb, 0x88, 0xd8, 0xe6, 0x70, 0xe4, 0x71]).put();
    // inc bl; jns again
    code.bytes(&[0xfe, 0xc3, 0x79, 0xf3]).sleep()
}

fn cmos_with(more: &[&str]) -> Vec<u8> {
    let scratch = Scratch::new(&format!("cmos{}", more.join("").replace(['/', ':'], "")));
    cmos().start(&scratch, more).take(0x80, 20)
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

#[test]
fn memory_size_reaches_the_firmware_in_every_unit() {
    for (option, mib) in [("64", 64), ("300M", 300), ("1G", 1024), ("0", 128)] {
        let cmos = cmos_with(&["-m", option]);
        assert_eq!(u64::from(word(&cmos, 0x34)) * 64 / 1024 + 16, mib, "-m {option}");
        assert_eq!(word(&cmos, 0x15), 640);
    }
    let cmos = cmos_with(&["-m", "8"]);
    assert_eq!((word(&cmos, 0x30), word(&cmos, 0x34)), (7 * 1024, 0));
    assert_eq!(u64::from(word(&cmos_with(&[]), 0x34)) * 64 / 1024 + 16, 128);
}

#[test]
fn without_its_boot_check_a_floppy_disk_needs_no_signature() {
    // Bit 0 of byte 38h is how the firmware is told; the rest of the byte is the third boot device.
    assert_eq!(cmos_with(&["-boot", "cad"])[0x38], 0x30);
    assert_eq!(cmos_with(&["-boot", "cad", "-no-fd-bootchk"])[0x38], 0x31);
}

/// Sends how many ticks of the clock's 64 Hz interrupt are waiting after half a second in which nobody asked for them.
fn ticks(more: &[&str]) -> u8 {
    let scratch = Scratch::new(&format!("ticks{}", more.join("")));
    let code = Code::new()
        // Register A: 32768 Hz, rate 64 Hz. Register B: periodic interrupt, 24 hours. Register C is cleared by reading it.
        .out(0x70, 0x0a)
        .out(0x71, 0x2a)
        .out(0x70, 0x0b)
        .out(0x71, 0x42)
        .out(0x70, 0x0c)
        .bytes(&[0xe4, 0x71])
        // The counter runs at 1 GHz. rdtsc; lea ebx, [eax+500_000_000]; wait: rdtsc; sub eax, ebx; js wait
        .bytes(&[0x0f, 0x31, 0x67, 0x66, 0x8d, 0x98, 0x00, 0x65, 0xcd, 0x1d])
        .bytes(&[0x0f, 0x31, 0x66, 0x29, 0xd8, 0x78, 0xf9])
        // xor cx, cx; more: in al, 0x71; test al, 0x40; jz done; inc cl; jns more; done: mov al, cl
        .bytes(&[0x31, 0xc9, 0xe4, 0x71, 0xa8, 0x40, 0x74, 0x04, 0xfe, 0xc1, 0x79, 0xf6, 0x88, 0xc8])
        .put()
        .sleep();
    code.start(&scratch, more).take(1, 20)[0]
}

#[test]
fn clock_ticks_that_the_guest_missed_come_again_with_the_drift_hack() {
    let (without, with) = (ticks(&[]), ticks(&["-rtc-td-hack"]));
    assert!(with >= 31, "{with}");
    assert!((1..with).contains(&without), "{without} and {with}");
}

/// Writes sector 1 of the first disk by PIO again and again; says `l` where the drive was busy for a millisecond or more, else `q`.
fn pio_writes() -> Code {
    let out = |code: Code, register: u8, value: u8| code.out(0x1f0 + u16::from(register), value);
    let code = [(6, 0xe0), (2, 1), (3, 1), (4, 0), (5, 0), (7, 0x30)];
    code.into_iter()
        .fold(Code::new(), |code, (register, value)| out(code, register, value))
        // data: in al, dx; test al, 8; jz data
        .bytes(&[0xec, 0xa8, 0x08, 0x74, 0xfb])
        // rdtsc; xchg eax, ebx; mov dx, 0x1f0; mov cx, 256; xor si, si; rep outsw
        .bytes(&[0x0f, 0x31, 0x66, 0x93, 0xba, 0xf0, 0x01, 0xb9, 0x00, 0x01, 0x31, 0xf6, 0xf3, 0x6f])
        // mov dx, 0x1f7; busy: in al, dx; test al, 0x80; jnz busy
        .bytes(&[0xba, 0xf7, 0x01, 0xec, 0xa8, 0x80, 0x75, 0xfb])
        // rdtsc; sub eax, ebx; cmp eax, 1_000_000; mov al, 'l'; jae over; mov al, 'q'; over:
        .bytes(&[0x0f, 0x31, 0x66, 0x29, 0xd8, 0x66, 0x3d, 0x40, 0x42, 0x0f, 0x00])
        .bytes(&[0xb0, b'l', 0x73, 0x02, 0xb0, b'q'])
        .put()
        .back_to(0)
}

#[test]
fn every_sixteenth_write_is_slow_with_the_windows_2000_hack_only() {
    let scratch = Scratch::new("win2k");
    let disk = scratch.file("disk");
    std::fs::write(&disk, vec![0u8; 1 << 20]).expect("disk");
    // On a busy host any write may take long, so quick ones are waited for.
    let mut vm = pio_writes().start(&scratch, &["-hda", &disk, "-win2k-hack"]);
    let (mut groups, mut quick) = (0, false);
    while groups < 4 || !quick {
        let group = vm.take(16, 20);
        assert_eq!(group[15], b'l', "group {groups}: {}", String::from_utf8_lossy(&group));
        quick |= group[..15].contains(&b'q');
        groups += 1;
    }
    drop(vm);
    let mut vm = pio_writes().start(&scratch, &["-hda", &disk]);
    let end = Instant::now() + Duration::from_secs(60);
    while vm.take(16, 20)[15] != b'q' {
        assert!(Instant::now() < end, "the sixteenth write is always slow");
    }
}

/// Seconds since midnight of a clock in BCD, 24 hours.
fn seconds(cmos: &[u8]) -> i64 {
    let bcd = |at: usize| i64::from(cmos[at] >> 4) * 10 + i64::from(cmos[at] & 15);
    bcd(4) * 3600 + bcd(2) * 60 + bcd(0)
}

#[test]
fn startdate_sets_the_clock() {
    let cmos = cmos_with(&["-startdate", "2004-02-29T23:58:30"]);
    assert_eq!(cmos[7..10], [0x29, 0x02, 0x04]);
    assert_eq!(cmos[0x32], 0x20);
    // A Sunday.
    assert_eq!(cmos[6], 1);
    assert!((0..30).contains(&(seconds(&cmos) - (23 * 3600 + 58 * 60 + 30))), "{cmos:x?}");
    let cmos = cmos_with(&["-startdate", "1996-12-01"]);
    assert_eq!((&cmos[7..10], cmos[0x32]), (&[0x01, 0x12, 0x96][..], 0x19));
    assert!(seconds(&cmos) < 30);
}

#[test]
fn localtime_sets_the_clock_to_the_zone_of_the_host() {
    let clock = |more: &[&str]| {
        let scratch = Scratch::new(&format!("zone{}", more.len()));
        let args = cmos().firmware_args(&scratch);
        let program = programs().join("qemu");
        let mut all = vec!["TZ=ABC-05:30", program.to_str().expect("path in UTF-8")];
        all.extend(args.iter().map(String::as_str).chain(more.iter().copied()));
        seconds(&Vm::start("/usr/bin/env", &all).take(0x80, 20))
    };
    let apart = (clock(&["-localtime"]) - clock(&[])).rem_euclid(86_400);
    let wanted = 5 * 3600 + 30 * 60;
    assert!((wanted - 30..=wanted).contains(&apart), "{apart}");
    // A date is what it is in any zone.
    let set = clock(&["-localtime", "-startdate", "2001-01-01T10:00:00"]);
    assert!((36_000..36_030).contains(&set), "{set}");
}

/// Prints a letter, then what INT 13h AH=08h says of drive 80h: CL, CH, DH.
fn boot_sector(letter: &str) -> Code {
    Code::new()
        .alone()
        .say(letter)
        // mov ah, 8; mov dl, 0x80; push ds; push es; xor di, di; int 0x13; pop es; pop ds
        .bytes(&[0xb4, 0x08, 0xb2, 0x80, 0x1e, 0x06, 0x31, 0xff, 0xcd, 0x13, 0x07, 0x1f])
        // push dx; mov al, cl; put; mov al, ch; put; pop bx; mov al, bh; put
        .bytes(&[0x52, 0x88, 0xc8])
        .put()
        .bytes(&[0x88, 0xe8])
        .put()
        .bytes(&[0x5b, 0x88, 0xf8])
        .put()
        .say("!")
        .sleep()
}

#[test]
fn boot_order_decides_between_hard_disk_and_cd() {
    let scratch = Scratch::new("boot");
    let (disk, cd) = (scratch.file("disk"), scratch.file("cd"));
    std::fs::write(&disk, boot_sector("<hard disk>").disk(1 << 20)).expect("disk");
    std::fs::write(&cd, boot_sector("<compact disc>").cdrom()).expect("disc");
    for (order, first) in
        [("c", "<hard disk>"), ("d", "<compact disc>"), ("dc", "<compact disc>"), ("nc", "<hard disk>")]
    {
        let mut vm = seabios(&["-hda", &disk, "-cdrom", &cd, "-boot", order]);
        vm.expect("Booting from", 20);
        vm.expect(first, 20);
        vm.expect("!", 20);
    }
    // Without a system on the first, the next is tried.
    let empty = scratch.file("empty");
    std::fs::write(&empty, vec![0u8; 1 << 20]).expect("disk");
    seabios(&["-hda", &empty, "-cdrom", &cd, "-boot", "cd"]).expect("<compact disc>", 20);
}

#[test]
fn boot_set_changes_the_order_from_the_next_reset_on() {
    let scratch = Scratch::new("boot-set");
    let (disk, cd) = (scratch.file("disk"), scratch.file("cd"));
    std::fs::write(&disk, boot_sector("<hard disk>").disk(1 << 20)).expect("disk");
    std::fs::write(&cd, boot_sector("<compact disc>").cdrom()).expect("disc");
    let mut vm =
        Vm::start("qemu", &["-nographic", "-vga", "none", "-hda", &disk, "-cdrom", &cd, "-boot", "c"]);
    vm.expect("<hard disk>", 20);
    vm.send("\x01c");
    vm.expect("(qemu) ", 20);
    vm.send("boot_set d\nsystem_reset\n");
    vm.expect("<compact disc>", 20);
}

#[test]
fn geometry_options_reach_the_firmware() {
    let scratch = Scratch::new("geometry");
    let disk = scratch.file("disk");
    std::fs::write(&disk, boot_sector("<geometry>").disk(64 << 20)).expect("disk");
    let drive = format!("file={disk},cyls=400,heads=10,secs=32,trans=none");
    let cases: [(&[&str], [u16; 3]); 6] = [
        // The last cylinder is the firmware's own; CX holds the highest cylinder and sector, DH the highest head.
        (&["-hda", &disk, "-hdachs", "300,12,36,none"], [300, 12, 36]),
        (&["-hda", &disk, "-hdachs", "300,12,36"], [300, 12, 36]),
        // Too many cylinders for INT 13h: translated when needed, or not at all.
        (&["-hda", &disk, "-hdachs", "2000,2,32,auto"], [130, 16, 63]),
        (&["-hda", &disk, "-hdachs", "300,12,36,lba"], [130, 16, 63]),
        (&["-drive", &drive], [400, 10, 32]),
        (&["-hda", &disk], [130, 16, 63]),
    ];
    for (more, [cylinders, heads, sectors]) in cases {
        let mut vm = seabios(more);
        vm.expect("<geometry>", 20);
        let got = vm.take(4, 20);
        let highest = u16::from(got[1]) | u16::from(got[0] & 0xc0) << 2;
        let (sector, head) = (u16::from(got[0] & 0x3f), u16::from(got[2]));
        assert!([cylinders - 1, cylinders - 2].contains(&highest), "{more:?}: {got:?}");
        assert_eq!((head, sector), (heads - 1, sectors), "{more:?}");
    }
}

/// Sends status and identity of each drive: IDE channel 0 and 1, master and slave.
fn identities() -> Code {
    // BX counts the drives from 0 to 3: their ports are from 1F0h or 170h on.
    Code::new()
        .bytes(&[0x31, 0xdb])
        // next: mov si, 0x1f0; test bl, 2; jz over; mov si, 0x170; over:
        .bytes(&[0xbe, 0xf0, 0x01, 0xf6, 0xc3, 0x02, 0x74, 0x03, 0xbe, 0x70, 0x01])
        // mov al, bl; and al, 1; mov cl, 4; shl al, cl; or al, 0xa0; lea dx, [si+6]; out dx, al
        .bytes(&[0x88, 0xd8, 0x24, 0x01, 0xb1, 0x04, 0xd2, 0xe0, 0x0c, 0xa0, 0x8d, 0x54, 0x06, 0xee])
        // mov al, 0xec (IDENTIFY DEVICE); lea dx, [si+7]; out dx, al; call wait; test al, 8; jnz read
        .bytes(&[0xb0, 0xec, 0x8d, 0x54, 0x07, 0xee, 0xe8, 0x2c, 0x00, 0xa8, 0x08, 0x75, 0x09])
        // lea dx, [si+7]; mov al, 0xa1 (IDENTIFY PACKET DEVICE); out dx, al; call wait
        .bytes(&[0x8d, 0x54, 0x07, 0xb0, 0xa1, 0xee, 0xe8, 0x1f, 0x00])
        // read: send the status; mov cx, 256
        .put()
        .bytes(&[0xb9, 0x00, 0x01])
        // word: mov dx, si; in ax, dx; push ax; send AL; pop ax; mov al, ah; send AL; loop word
        .bytes(&[0x89, 0xf2, 0xed, 0x50])
        .put()
        .bytes(&[0x58, 0x88, 0xe0])
        .put()
        .bytes(&[0xe2, 0xf1])
        // inc bx; cmp bl, 4; jb next
        .bytes(&[0x43, 0x80, 0xfb, 0x04, 0x72, 0xb6])
        .sleep()
        // wait: mov cx, 0x400; again: in al, dx; test al, 0x80; jnz again; test al, 9; loopz again; ret
        .bytes(&[0xb9, 0x00, 0x04, 0xec, 0xa8, 0x80, 0x75, 0xfb, 0xa8, 0x09, 0xe1, 0xf7, 0xc3])
}

struct Identity {
    words: Vec<u16>,
}

impl Identity {
    /// Text of words `from` to `to`: the first character of each is its high byte.
    fn text(&self, from: usize, to: usize) -> String {
        let bytes: Vec<u8> = self.words[from..to].iter().flat_map(|word| word.to_be_bytes()).collect();
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }
}

/// The drives of a VM by their index; `None` where there is none.
fn drives(name: &str, more: &[&str]) -> Vec<Option<Identity>> {
    let scratch = Scratch::new(name);
    let bytes = identities().start(&scratch, more).take(4 * 513, 20);
    let drives = bytes.chunks(513).map(|drive| {
        let words = drive[1..].chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        (drive[0] == 0x58).then_some(Identity { words })
    });
    drives.collect()
}

#[test]
fn drives_stand_where_their_options_put_them() {
    let scratch = Scratch::new("places");
    let disk = |name: &str| {
        let path = scratch.file(name);
        std::fs::write(&path, vec![0u8; 1 << 20]).expect("disk");
        path
    };
    let (a, b, c) = (disk("a"), disk("b"), disk("c"));
    let serials = |drives: &[Option<Identity>]| -> Vec<Option<String>> {
        drives.iter().map(|drive| drive.as_ref().map(|drive| drive.text(10, 20))).collect()
    };
    let kinds = |drives: &[Option<Identity>]| -> String {
        let kind = |drive: &Option<Identity>| match drive {
            None => '-',
            Some(drive) if drive.words[0] & 0x8000 == 0 => 'd',
            Some(_) => 'c',
        };
        drives.iter().map(kind).collect()
    };
    // By default an empty CD-ROM drive at index 2.
    assert_eq!(kinds(&drives("place0", &[])), "--c-");
    assert_eq!(kinds(&drives("place1", &["-hda", &a, "-hdb", &b, "-hdc", &c])), "ddd-");
    assert_eq!(kinds(&drives("place2", &["-hdd", &a])), "--cd");
    let one = format!("file={a},index=1,serial=ONE");
    let two = format!("file={b},bus=1,unit=1,serial=TWO WORDS");
    let more = ["-drive", &one, "-drive", &two, "-drive", "media=cdrom,index=0"];
    let found = drives("place3", &more);
    assert_eq!(kinds(&found), "cdcd");
    let serials = serials(&found);
    assert_eq!((serials[1].as_deref(), serials[3].as_deref()), (Some("ONE"), Some("TWO WORDS")));
    let by_if = format!("file={c},if=ide,media=disk,format=raw,cyls=20,heads=4,secs=25");
    let found = drives("place4", &["-drive", &by_if]);
    let words = &found[0].as_ref().expect("a disk").words;
    assert_eq!((words[1], words[3], words[6]), (20, 4, 25));
    assert_eq!(u32::from(words[60]) | u32::from(words[61]) << 16, 2048);
}

#[test]
fn every_cache_mode_reads_and_writes() {
    let scratch = Scratch::new("cache");
    let disk = scratch.file("disk");
    // Reads sector 1 by INT 13h to 0:8000, adds one to its first byte, writes it back, and says what it read.
    let code = Code::new()
        .alone()
        .bytes(&[0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0])
        // mov ax, 0x0201; mov bx, 0x8000; mov cx, 2; mov dx, 0x80; int 0x13; jc stop
        .bytes(&[0xb8, 0x01, 0x02, 0xbb, 0x00, 0x80, 0xb9, 0x02, 0x00, 0xba, 0x80, 0x00, 0xcd, 0x13])
        // inc byte [0x8000]; mov ax, 0x0301; int 0x13 (BX, CX, DX as before)
        .bytes(&[0xfe, 0x06, 0x00, 0x80, 0xb8, 0x01, 0x03, 0xba, 0x80, 0x00, 0xcd, 0x13])
        .bytes(&[0xa0, 0x00, 0x80])
        .put()
        .say("!")
        .sleep();
    std::fs::write(&disk, code.disk(1 << 20)).expect("disk");
    for (run, cache) in ["", ",cache=none", ",cache=writethrough", ",cache=writeback"].iter().enumerate() {
        let mut vm = seabios(&["-drive", &format!("file={disk}{cache}")]);
        let text = vm.expect("!", 20);
        assert!(text.ends_with(&format!("{}!", char::from(run as u8 + 1))), "{cache}: {text:?}");
        drop(vm);
        assert_eq!(std::fs::read(&disk).expect("disk")[512], run as u8 + 1, "{cache}");
    }
}

#[test]
fn option_rom_runs() {
    let scratch = Scratch::new("option-rom");
    // pushaw; pushf; cli; say; popf; popaw; retf
    let code =
        |text: &str| Code::new().bytes(&[0x60, 0x9c, 0xfa]).say(text).bytes(&[0x9d, 0x61, 0xcb]).option_rom();
    let (one, two) = (scratch.file("one"), scratch.file("two"));
    std::fs::write(&one, code("<one>")).expect("option ROM");
    std::fs::write(&two, code("<two>")).expect("option ROM");
    let mut vm = seabios(&["-option-rom", &one, "-option-rom", &two]);
    let text = vm.expect("No bootable device", 20);
    assert!(text.contains("<one>") && text.contains("<two>"), "{text}");
}

#[test]
fn firmware_of_any_size_runs_from_the_reset_vector() {
    let scratch = Scratch::new("bios");
    let folder = scratch.file("firmware");
    std::fs::create_dir(&folder).expect("folder");
    for kib in [64, 128, 256] {
        let path = format!("{folder}/own.bin");
        // What lies below the last 64 KiB is there too, under the top of the address space.
        let code = Code::new().say(&format!("<{kib}>")).sleep();
        std::fs::write(&path, code.firmware(kib << 10)).expect("firmware");
        let base = ["-nographic", "-vga", "none"];
        Vm::start("qemu", &[&base[..], &["-bios", &path]].concat()).expect(&format!("<{kib}>"), 20);
        // By name, in the folder of -L.
        let mut vm = Vm::start("qemu", &[&base[..], &["-L", &folder, "-bios", "own.bin"]].concat());
        vm.expect(&format!("<{kib}>"), 20);
    }
}

#[test]
fn every_cpu_model_runs_the_firmware_on_both_machines() {
    let scratch = Scratch::new("models");
    let disk = scratch.file("disk");
    std::fs::write(&disk, boot_sector("<booted>").disk(1 << 20)).expect("disk");
    let program = programs().join("qemu-system-x86_64");
    let list = std::process::Command::new(program).args(["-cpu", "?"]).output().expect("list of models");
    let list = String::from_utf8(list.stdout).expect("list in UTF-8");
    let models: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert!(models.len() > 8, "{models:?}");
    for (at, model) in models.iter().enumerate() {
        let machine = if at % 3 == 0 { "isapc" } else { "pc" };
        let args =
            ["-nographic", "-vga", "none", "-M", machine, "-cpu", *model, "-hda", &disk, "-monitor", "null"];
        Vm::start("qemu-system-x86_64", &args).expect("<booted>", 30);
    }
}

#[test]
fn log_items_fill_the_log_file() {
    let scratch = Scratch::new("log");
    let disk = scratch.file("disk");
    std::fs::write(&disk, boot_sector("<booted>").disk(1 << 20)).expect("disk");
    let marks: BTreeMap<&str, &str> = [
        ("in_asm", "IN:"),
        ("out_asm", "OUT:"),
        ("op", "OP: block "),
        ("op_opt", "OP after liveness analysis: block "),
        ("pcall", "ljmp "),
        ("int", "v="),
        ("exec", "Trace"),
        ("cpu", "EAX="),
        ("cpu_reset", "CPU Reset"),
        ("ioport", "out1 0402"),
    ]
    .into();
    let mut vm =
        Vm::start("qemu", &["-S", "-vga", "none", "-hda", &disk, "-serial", "null", "-monitor", "stdio"]);
    vm.expect("(qemu) ", 20);
    for (item, mark) in marks {
        let file = scratch.file(item);
        assert_eq!(vm.ask(&format!("logfile {file}")), "");
        assert_eq!(vm.ask(&format!("log {item}")), "");
        vm.ask("cont");
        vm.ask("system_reset");
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let mut text = String::new();
        while !text.to_lowercase().contains(&mark.to_lowercase()) {
            let head: String = text.chars().take(600).collect();
            assert!(std::time::Instant::now() < end, "{item}: no {mark:?} in\n{head}");
            std::thread::sleep(std::time::Duration::from_millis(10));
            text = String::from_utf8_lossy(&std::fs::read(&file).unwrap_or_default()).into_owned();
        }
        assert_eq!(vm.ask("log none"), "");
        vm.ask("stop");
    }
    assert!(vm.ask("log nonsense").contains("Log items"), "{}", vm.output());
}

/// A booted Linux.
struct Linux(Vm);

impl Linux {
    fn boot(program: &str, flavour: &str, more: &[&str]) -> Linux {
        let (kernel, initrd) = (guest(&format!("{flavour}/vmlinuz")), guest(&format!("{flavour}/initrd.gz")));
        let mut args = vec!["-nographic", "-kernel", &kernel, "-initrd", &initrd];
        args.extend(["-append", "console=ttyS0 quiet"]);
        args.extend(more);
        let mut vm = Vm::start(program, &args);
        vm.expect("userland is up", 240);
        vm.expect("# ", 60);
        Linux(vm)
    }

    /// Runs a command; its output.
    fn run(&mut self, command: &str) -> String {
        self.0.send(&format!("{command}; echo E$((40+2))\n"));
        let text = self.0.expect("E42\r\n", 60).replace("\r\n", "\n");
        // Or the next command is echoed twice: by the terminal and by the shell's line editor.
        self.0.expect("# ", 60);
        let (_, answer) = text.split_once("E$((40+2))\n").expect("an echo of the command");
        answer.strip_suffix("E42\n").unwrap_or(answer).trim_end().to_owned()
    }

    fn file(&mut self, path: &str) -> String {
        self.run(&format!("cat {path}"))
    }
}

#[test]
fn tables_names_and_memory_reach_a_64_bit_linux() {
    let scratch = Scratch::new("tables");
    let (one, two) = (scratch.file("one"), scratch.file("two"));
    std::fs::write(&one, b"first part, ").expect("data");
    std::fs::write(&two, b"second part").expect("data");
    let table = format!(
        "sig=BULK,rev=7,oem_id=ABCDEF,oem_table_id=TABLE678,oem_rev=258,asl_compiler_id=MAKR,asl_compiler_rev=3,data={one}:{two}"
    );
    // A base board (type 2) with four strings.
    let board = scratch.file("board");
    std::fs::write(&board, b"\x02\x08\x00\x02\x01\x02\x03\x04Joiner\0Plank\x007a\0N 8\0\0")
        .expect("structure");
    let board = format!("file={board}");
    let uuid = "12345678-9abc-def0-0123-456789abcdef";
    let more = [
        "-m",
        "300",
        "-cpu",
        "core2duo",
        "-uuid",
        uuid,
        "-acpitable",
        &table,
        "-smbios",
        "type=0,vendor=Maker,version=v1.2,date=01/02/2003,release=4.5",
        "-smbios",
        "type=1,manufacturer=Works,product=Thing,version=9,serial=S-1,sku=K-2,family=Clan",
        "-smbios",
        &board,
        "-startdate",
        "2020-02-29T12:34:56",
    ];
    let mut linux = Linux::boot("qemu-system-x86_64", "amd64", &more);
    let dmi = [
        ("bios_vendor", "Maker"),
        ("bios_version", "v1.2"),
        ("bios_date", "01/02/2003"),
        ("bios_release", "4.5"),
        ("sys_vendor", "Works"),
        ("product_name", "Thing"),
        ("product_version", "9"),
        ("product_serial", "S-1"),
        ("product_sku", "K-2"),
        ("product_family", "Clan"),
        ("product_uuid", uuid),
        ("board_vendor", "Joiner"),
        ("board_name", "Plank"),
        ("board_version", "7a"),
        ("board_serial", "N 8"),
    ];
    let have = linux.run("cd /sys/class/dmi/id; grep -s . bios* sys* prod* board*");
    for (name, value) in dmi {
        assert!(
            have.lines().any(|line| line == format!("{name}:{value}")),
            "{name}: {value} is not in\n{have}"
        );
    }
    // Behind the board's last string and its two zero bytes comes the end of the table (type 127, of 4 bytes).
    let structures = linux.run("hexdump -v -e '1/1 \"%02x\"' /sys/firmware/dmi/tables/DMI");
    assert!(structures.contains("4e203800007f04"), "{structures}");
    // The firmware found management mode to set up: SMRAM is there and closed.
    assert_eq!(
        linux.run("hexdump -s 114 -n 1 -e '1/1 \"%02x\"' /sys/bus/pci/devices/0000:00:00.0/config"),
        "0a"
    );
    let table = linux.run("hexdump -v -e '1/1 \"%02x\"' /sys/firmware/acpi/tables/BULK");
    let bytes: Vec<u8> = (0..table.len() / 2)
        .map(|at| u8::from_str_radix(&table[2 * at..2 * at + 2], 16).expect("hex"))
        .collect();
    assert_eq!(bytes[..9], *b"BULK\x3b\0\0\0\x07");
    assert_eq!(bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0, "checksum");
    assert_eq!(bytes[10..], *b"ABCDEFTABLE678\x02\x01\0\0MAKR\x03\0\0\0first part, second part");
    assert!(linux.run("date -u +%F,%H:%M").starts_with("2020-02-29,12:3"), "{}", linux.run("date -u"));
    let memory = linux.run("sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo");
    let kib: u64 = memory.parse().expect("a number");
    assert!((220 << 10..300 << 10).contains(&kib), "{kib}");
    assert!(linux.file("/proc/iomem").contains("-12bf"), "{}", linux.file("/proc/iomem"));
    let clocks = linux.file("/sys/devices/system/clocksource/clocksource0/available_clocksource");
    assert!(clocks.contains("hpet") && clocks.contains("acpi_pm"), "{clocks}");
    let flags = linux.run("grep -m1 ^flags /proc/cpuinfo");
    assert!(flags.contains(" lm") && flags.contains(" ssse3"), "{flags}");
}

#[test]
fn without_acpi_and_hpet_a_linux_on_every_feature_finds_neither() {
    let mut linux =
        Linux::boot("qemu-system-x86_64", "amd64", &["-m", "256", "-cpu", "max", "-no-acpi", "-no-hpet"]);
    assert_eq!(linux.run("ls /sys/firmware/acpi 2>&1 | grep -c tables"), "0");
    let clocks = linux.file("/sys/devices/system/clocksource/clocksource0/available_clocksource");
    assert!(!clocks.contains("hpet") && !clocks.contains("acpi_pm"), "{clocks}");
    let flags = linux.run("grep -m1 ^flags /proc/cpuinfo");
    assert!(flags.contains(" sse4_2") && flags.contains(" popcnt"), "{flags}");
}

#[test]
fn a_32_bit_linux_runs_on_a_pentium_iii_without_pci() {
    let mut linux = Linux::boot("qemu-system-i386", "686", &["-m", "128", "-M", "isapc", "-cpu", "pentium3"]);
    let flags = format!("{} ", linux.run("grep -m1 ^flags /proc/cpuinfo"));
    assert!(flags.contains(" sse ") && !flags.contains(" sse2 ") && !flags.contains(" lm "), "{flags}");
    assert_eq!(linux.run("ls /sys/bus/pci/devices | wc -l"), "0");
}

#[test]
fn a_32_bit_linux_with_pae_runs_on_qemu32() {
    let mut linux = Linux::boot("qemu-system-i386", "686-pae", &["-m", "128", "-cpu", "qemu32,-sse3"]);
    let flags = format!("{} ", linux.run("grep -m1 ^flags /proc/cpuinfo"));
    assert!(flags.contains(" pae ") && flags.contains(" sse2 ") && !flags.contains(" pni "), "{flags}");
    assert_ne!(linux.run("ls /sys/bus/pci/devices | wc -l"), "0");
}
