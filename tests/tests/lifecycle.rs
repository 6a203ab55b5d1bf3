//! How a guest ends, restarts or stops its machine, and what the options make of it.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use bulkhead_tests::code::Code;
use bulkhead_tests::{Scratch, Vm, gone, programs};

/// A VM that runs `code` as its firmware.
fn start(scratch: &Scratch, code: &Code, more: &[&str]) -> Vm {
    let bios = scratch.file("code.rom");
    std::fs::write(&bios, code.firmware(0x1_0000)).expect("firmware");
    let mut args = vec!["-bios", &bios, "-vga", "none", "-nographic"];
    args.extend(more);
    Vm::start("qemu", &args)
}

/// Says that the machine runs, then resets it.
fn resets(how: &Code) -> Code {
    // The last byte must have left before the reset takes it away.
    let mut code = Code::new().say("B").bytes(&[0xba, 0xfd, 0x03, 0xec, 0xa8, 0x40, 0x74, 0xfb]);
    code = code.bytes(how.raw());
    code.sleep()
}

/// Every way of a PC's software to reset it.
fn ways() -> [(&'static str, Code); 4] {
    let code = Code::new;
    [
        ("reset control register", code().out(0xcf9, 6)),
        ("port 92h", code().out(0x92, 1)),
        ("keyboard controller", code().out(0x64, 0xfe)),
        // An interrupt table without room for an entry: #GP, then a double fault, then shutdown. The limit is at 0:0.
        ("triple fault", code().bytes(&[0x31, 0xc0, 0x8e, 0xd8, 0xa3, 0, 0, 0x0f, 0x01, 0x1e, 0, 0, 0xcc])),
    ]
}

#[test]
fn every_way_to_reset_starts_the_firmware_again() {
    for (name, way) in ways() {
        let scratch = Scratch::new("reset");
        let mut vm = start(&scratch, &resets(&way), &[]);
        vm.expect("BBBB", 20);
        if name == "triple fault" {
            vm.expect_error(name, 20);
        }
        let told = vm.errors().matches("triple fault").count();
        assert_eq!(told, usize::from(name == "triple fault"), "{name}: {}", vm.errors());
    }
}

#[test]
fn with_no_reboot_a_reset_ends_the_vm() {
    for (name, way) in ways() {
        let scratch = Scratch::new("no-reboot");
        let mut vm = start(&scratch, &resets(&way), &["-no-reboot"]);
        let processes = vm.processes();
        assert_eq!(vm.wait(20).code(), Some(0), "{name}: {}", vm.errors());
        assert_eq!(vm.output(), "B", "{name}");
        gone(&processes);
    }
}

#[test]
fn system_reset_starts_the_firmware_again() {
    let scratch = Scratch::new("system-reset");
    let mut vm = start(&scratch, &Code::new().say("B").sleep(), &[]);
    vm.expect("B", 20);
    vm.send("\x01c");
    vm.expect("(qemu) ", 20);
    for _ in 0..3 {
        vm.send("system_reset\n");
        vm.expect("B", 20);
    }
}

/// Ends the machine as the Bochs BIOS does.
fn switches_off() -> Code {
    b"Shutdown".iter().fold(Code::new().say("B"), |code, letter| code.out(0x8900, *letter)).sleep()
}

#[test]
fn shutdown_string_on_port_8900_ends_the_vm() {
    let scratch = Scratch::new("8900");
    let mut vm = start(&scratch, &switches_off(), &[]);
    assert_eq!(vm.wait(20).code(), Some(0), "{}", vm.errors());
    assert_eq!(vm.output(), "B");
}

#[test]
fn with_no_shutdown_switching_off_stops_the_vm() {
    let scratch = Scratch::new("no-shutdown");
    let serial = scratch.file("serial");
    let serial_option = format!("file:{serial}");
    let more = ["-no-shutdown", "-monitor", "stdio", "-serial", &serial_option];
    let mut vm = start(&scratch, &switches_off(), &more);
    vm.expect("(qemu) ", 20);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while vm.ask("info status") != "VM status: paused\n" {
        assert!(std::time::Instant::now() < end, "the VM runs on");
    }
    // The process that writes the file is another one.
    while std::fs::read(&serial).expect("output") != b"B" {
        assert!(std::time::Instant::now() < end, "nothing on the serial port");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    vm.send("quit\n");
    assert_eq!(vm.wait(20).code(), Some(0));
}

#[test]
fn a_reset_right_behind_the_power_off_does_not_undo_it() {
    // The last letter to port BX and the reset to port SI, first to where nobody hears them: the second time they are compiled, and the
    // reset comes before the device has read the letter.
    let twice = [
        // mov bx, 0x80; mov si, 0x80; mov cx, 16
        &[0xbb, 0x80, 0x00, 0xbe, 0x80, 0x00, 0xb9, 0x10, 0x00][..],
        // again: mov dx, bx; mov al, 'n'; out dx, al; mov dx, si; mov al, 6; out dx, al; loop again
        &[0x89, 0xda, 0xb0, b'n', 0xee, 0x89, 0xf2, 0xb0, 0x06, 0xee, 0xe2, 0xf4],
        // mov bx, 0x8900; mov si, 0xcf9; mov cx, 16; jmp again
        &[0xbb, 0x00, 0x89, 0xbe, 0xf9, 0x0c, 0xb9, 0x10, 0x00, 0xeb, 0xe9],
    ];
    let letters = b"Shutdow".iter().fold(Code::new(), |code, letter| code.out(0x8900, *letter));
    let scratch = Scratch::new("off-and-resets");
    for _ in 0..10 {
        let mut vm = start(&scratch, &resets(&letters.clone().bytes(&twice.concat())), &[]);
        assert_eq!(vm.wait(20).code(), Some(0), "{}", vm.errors());
        assert_eq!(vm.output(), "B");
    }
}

/// Writes zeros to sector 0 of drive 0 by PIO (WRITE SECTOR(S), 256 words), then sends the status with bit 7 set.
fn writes_sector_0() -> Code {
    Code::new()
        .out(0x1f6, 0xe0)
        .out(0x1f2, 1)
        .out(0x1f3, 0)
        .out(0x1f4, 0)
        .out(0x1f5, 0)
        .out(0x1f7, 0x30)
        // wait for DRQ; mov cx, 256; mov dx, 0x1f0; xor ax, ax; again: out dx, ax; loop again
        .bytes(&[0xba, 0xf7, 0x01, 0xec, 0xa8, 0x08, 0x74, 0xfb])
        .bytes(&[0xb9, 0, 1, 0xba, 0xf0, 0x01, 0x31, 0xc0, 0xef, 0xe2, 0xfd])
        // wait for the end of BSY, send the status
        .bytes(&[0xba, 0xf7, 0x01, 0xec, 0xa8, 0x80, 0x75, 0xfb])
        .bytes(&[0x0c, 0x80])
        .put()
        .sleep()
}

#[test]
fn snapshot_leaves_the_image_alone_and_no_temporary_file() {
    let scratch = Scratch::new("snapshot");
    let image = scratch.file("disk.img");
    std::fs::write(&image, vec![0x5au8; 1 << 20]).expect("image");
    let folder = scratch.file("temporary");
    std::fs::create_dir(&folder).expect("folder");
    let (bios, environment) = (scratch.file("code.rom"), format!("TMPDIR={folder}"));
    std::fs::write(&bios, writes_sector_0().firmware(0x1_0000)).expect("firmware");
    let program = programs().join("qemu").display().to_string();
    let start = [&environment, &program, "-bios", &bios, "-vga", "none", "-nographic"];
    let drive = format!("file={image},snapshot=on");
    let cases: [(&[&str], bool); 3] =
        [(&["-hda", &image, "-snapshot"], true), (&["-drive", &drive], true), (&["-hda", &image], false)];
    for (more, kept) in cases {
        let mut vm = Vm::start("/usr/bin/env", &[&start, more].concat());
        // DRDY and DSC without ERR, and the mark of this program.
        assert_eq!(vm.take(1, 20), [0xd0], "{}", vm.errors());
        let named: Vec<_> = std::fs::read_dir(&folder).expect("folder").flatten().collect();
        assert!(named.is_empty(), "{named:?}");
        vm.send("\x01x");
        assert_eq!(vm.wait(20).code(), Some(0));
        let first = std::fs::read(&image).expect("image");
        assert_eq!(first.iter().all(|byte| *byte == 0x5a), kept, "{more:?}");
        assert_eq!(first.iter().filter(|byte| **byte == 0).count(), if kept { 0 } else { 512 });
    }
}

/// Names that come and go in a folder, seen by inotify.
struct Names(OwnedFd);

impl Names {
    fn of(folder: &str) -> Names {
        // SAFETY: a plain system call; the result is checked.
        let fd = unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) };
        assert!(fd >= 0, "inotify: {}", std::io::Error::last_os_error());
        // SAFETY: just made, nobody else's.
        let names = Names(unsafe { OwnedFd::from_raw_fd(fd) });
        let path = CString::new(folder).expect("a path");
        let mask = libc::IN_CREATE | libc::IN_DELETE | libc::IN_MOVE;
        // SAFETY: a path that lives over the call.
        assert!(unsafe { libc::inotify_add_watch(fd, path.as_ptr(), mask) } >= 0);
        names
    }

    /// (whether it came, name), in order, since the last time.
    fn take(&self) -> Vec<(bool, String)> {
        const HEAD: usize = size_of::<libc::inotify_event>();
        let mut all = Vec::new();
        let mut bytes = [0u8; 4096];
        loop {
            // SAFETY: an array that lives over the call.
            let count = unsafe { libc::read(self.0.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len()) };
            let Ok(count @ 1..) = usize::try_from(count) else { return all };
            let mut rest = &bytes[..count];
            while rest.len() >= HEAD {
                let word = |at: usize| u32::from_ne_bytes(rest[at..at + 4].try_into().expect("four bytes"));
                let (mask, end) = (word(4), HEAD + word(12) as usize);
                let name = String::from_utf8_lossy(&rest[HEAD..end]).trim_end_matches('\0').to_owned();
                all.push((mask & (libc::IN_CREATE | libc::IN_MOVED_TO) != 0, name));
                rest = &rest[end..];
            }
        }
    }
}

#[test]
fn cve_2012_2652_the_overlay_of_a_snapshot_is_nameless_and_nobody_elses() {
    let scratch = Scratch::new("overlay");
    let image = scratch.file("disk.img");
    std::fs::write(&image, vec![0x5au8; 1 << 20]).expect("image");
    // A folder where everybody may put files.
    let folder = scratch.file("everybody");
    std::fs::create_dir(&folder).expect("folder");
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o1777)).expect("permissions");
    let bios = scratch.file("code.rom");
    std::fs::write(&bios, writes_sector_0().firmware(0x1_0000)).expect("firmware");
    let (environment, program) = (format!("TMPDIR={folder}"), programs().join("qemu").display().to_string());
    let args =
        [&environment, &program, "-bios", &bios, "-vga", "none", "-nographic", "-snapshot", "-hda", &image];
    let names = Names::of(&folder);
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        let mut vm = Vm::start("/usr/bin/env", &args);
        assert_eq!(vm.take(1, 20), [0xd0], "{}", vm.errors());
        // Where the file system has no nameless files, a name lives for a moment, made of chance, not of what others know.
        let events = names.take();
        for pair in events.chunks(2) {
            let [(true, came), (false, went)] = pair else { panic!("a name stays: {events:?}") };
            assert_eq!(came, went, "{events:?}");
            assert!(
                !came.contains(&vm.pid().to_string()) && seen.insert(came.clone()),
                "{came} can be guessed"
            );
        }
        // The broker holds it for the successors of its back end. What the guest wrote is in it.
        let mut overlays = BTreeSet::new();
        for entry in std::fs::read_dir(format!("/proc/{}/fd", vm.pid())).expect("descriptors").flatten() {
            let Ok(target) = std::fs::read_link(entry.path()) else { continue };
            if target.starts_with(&folder) {
                let file = std::fs::metadata(entry.path()).expect("an open file");
                // SAFETY: a plain system call.
                let own = unsafe { libc::geteuid() };
                assert_eq!((file.mode() & 0o7777, file.uid(), file.nlink()), (0o600, own, 0), "{target:?}");
                overlays.insert(file.ino());
                assert!(file.blocks() > 0, "nothing was written to {target:?}");
            }
        }
        assert_eq!(overlays.len(), 1);
        // However it ends: the drop kills it.
        drop(vm);
        assert_eq!(std::fs::read_dir(&folder).expect("folder").count(), 0);
        assert_eq!(names.take(), []);
    }
    assert!(std::fs::read(&image).expect("image").iter().all(|byte| *byte == 0x5a));
}
