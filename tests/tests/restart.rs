//! Devices and back ends are killed, stopped and crashed under a running Linux: the guest goes on and notices nothing.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use bulkhead_tests::linux::{COMPLAINTS, MODULES, PORTS};
use bulkhead_tests::{Scratch, Vm, children, guest, own_programs, programs};

/// Linux with a disk, its console on standard input and output, its monitor at a socket.
struct Guest {
    vm: Vm,
    monitor: UnixStream,
    step: u32,
    /// Processes that were sent a deadly signal: they may exist for a moment.
    doomed: Vec<u32>,
}

impl Guest {
    /// From the programs in `folder`.
    fn boot(folder: &Path, scratch: &Scratch, disk: &str) -> Guest {
        let socket = scratch.file("monitor");
        let monitor = format!("unix:{socket},server,nowait");
        let program = folder.join("qemu-system-x86_64");
        let (kernel, initrd) = (guest("amd64/vmlinuz"), guest("amd64/initrd.gz"));
        let vm = Vm::start(
            program.to_str().expect("path in UTF-8"),
            &[
                "-nographic",
                "-m",
                "256",
                "-hda",
                disk,
                "-serial",
                "stdio",
                "-monitor",
                &monitor,
                "-kernel",
                &kernel,
                "-initrd",
                &initrd,
                "-append",
                "console=ttyS0",
            ],
        );
        let end = Instant::now() + Duration::from_secs(30);
        let monitor = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < end, "no monitor: {error}; {}", vm.errors()),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        monitor.set_read_timeout(Some(Duration::from_secs(20))).expect("time-out");
        let mut guest = Guest { vm, monitor, step: 0, doomed: Vec::new() };
        guest.vm.expect("userland is up", 240);
        guest.vm.expect("# ", 60);
        guest.run("dmesg -n 1");
        guest.run(PORTS);
        guest.run(&format!("cd /lib/modules/*; for m in {MODULES}; do insmod $m.ko 2>/dev/null; done; cd /"));
        guest.run("n=0; while [ ! -b /dev/sda ] && [ $n -lt 60 ]; do sleep 1; n=$((n + 1)); done");
        guest
    }

    /// Types a command whose end can be awaited with [`Guest::done`].
    fn begin(&mut self, command: &str) {
        self.step += 1;
        // The echo of the command must not look like its end.
        let line = format!("{}; echo \"<\"{}\">\"\n", command.trim_end(), self.step);
        self.vm.send(&line);
    }

    /// What the command has printed, without its echo.
    fn done(&mut self) -> String {
        // A line that ends where the terminal does is ended twice by the shell.
        let text = self.vm.expect(&format!("<{}>", self.step), 120).replace('\r', "");
        let output = text.rsplit_once("\">\"\n").map_or(text.as_str(), |(_, output)| output);
        output.trim_end_matches(&format!("<{}>", self.step)).trim().to_owned()
    }

    fn run(&mut self, command: &str) -> String {
        self.begin(command);
        self.done()
    }

    fn pid(&self, name: &str) -> u32 {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let mut all = children(self.vm.pid()).into_iter();
            let found = all.find(|(pid, have)| have == name && !self.doomed.contains(pid));
            if let Some((pid, _)) = found {
                return pid;
            }
            assert!(Instant::now() < end, "{name} does not exist; {}", self.vm.errors());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn signal(&mut self, name: &str, signal: i32) {
        let pid = self.pid(name);
        self.doomed.push(pid);
        // SAFETY: a plain system call on a process of our own VM.
        unsafe { libc::kill(pid as i32, signal) };
    }

    /// Waits until the successors of everything that was killed serve.
    fn settle(&mut self) {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let table = self.ask("info restarts");
            // A process that died before it served leaves a line without a time; the last line of each counts.
            let mut last = BTreeMap::new();
            for words in table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()) {
                if let [_, name, took, ..] = words[..] {
                    last.insert(name.to_owned(), took == "-");
                }
            }
            if !last.into_values().any(|open| open) {
                return;
            }
            assert!(Instant::now() < end, "{table}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs a monitor command; what it prints.
    fn ask(&mut self, command: &str) -> String {
        self.monitor.write_all(format!("{command}\r").as_bytes()).expect("the monitor listens");
        let (mut text, mut piece) = (String::new(), [0u8; 65536]);
        let echo = format!("{command}\r\n");
        loop {
            let count = self.monitor.read(&mut piece).expect("the monitor answers");
            assert_ne!(count, 0, "the monitor hung up");
            text.push_str(&String::from_utf8_lossy(&piece[..count]));
            if let Some((_, answer)) = text.split_once(&echo)
                && let Some(answer) = answer.strip_suffix("(qemu) ")
            {
                return answer.replace('\r', "");
            }
        }
    }

    fn restarts(&mut self, name: &str) -> String {
        let table = self.ask("info processes");
        let line = table.lines().find(|line| line.contains(name)).expect("a line of the table");
        line.split_whitespace().nth(3).expect("restarts").to_owned()
    }

    fn assert_no_complaint(&mut self) {
        assert_eq!(self.run(&format!("dmesg | grep -E {COMPLAINTS}")), "");
    }
}

/// 16 MiB of which no two sectors are equal.
fn disk(scratch: &Scratch) -> String {
    let path = scratch.file("disk.img");
    let mut word: u64 = 0x9e37_79b9_7f4a_7c15;
    let bytes = (0..(16u32 << 20) / 8).flat_map(|_| {
        // Marsaglia's xorshift64.
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word.to_le_bytes()
    });
    std::fs::write(&path, bytes.collect::<Vec<u8>>()).expect("image");
    path
}

#[test]
fn every_device_is_killed_under_a_running_guest_which_goes_on() {
    let scratch = Scratch::new("restart-devices");
    // Programs of its own, so that one of them can be taken away.
    let folder = own_programs(&scratch);
    let folder = folder.as_path();
    let image = disk(&scratch);
    let mut guest = Guest::boot(folder, &scratch, &image);

    // Registers written and read back while their device dies again and again. The controller of the keyboard keeps quiet meanwhile, with
    // interrupts and both clocks off: its command byte changes in the keyboard's clock only, and Linux reads nothing away. Its status: a
    // byte to be read, the last one written was a command. What fw_cfg has selected was read to its end.
    let turns: [(&str, &str); 8] = [
        ("bh-parallel0", "o 0x378 $n; [ $(i 0x378) = $n ]"),
        ("bh-dma", "o 0x84 $n; [ $(i 0x84) = $n ]"),
        ("bh-rtc", "o 0x70 0x3f; o 0x71 $n; [ $(i 0x71) = $n ]"),
        ("bh-vga", "o 0x3c6 $n; [ $(i 0x3c6) = $n ]"),
        ("bh-port92", "v=$((2 | n % 4 << 6)); o 0x92 $v; [ $(i 0x92) = $v ]"),
        (
            "bh-i8042",
            "v=$((0x64 | n % 2 << 4)); o 0x64 0x60; o 0x60 $v; o 0x64 0x20; [ \"$(i 0x64) $(i 0x60)\" = \"29 $v\" ]",
        ),
        ("bh-debugports", "[ $(i 0x402) = 233 ]"),
        ("bh-fwcfg", "[ \"$(i 0x514) $(i 0x511)\" = \"81 0\" ]"),
    ];
    for (name, check) in turns {
        guest.begin(&format!(
            "n=1; while [ $n -le 60 ]; do {{ {check}; }} || echo bad $n; n=$((n + 1)); done"
        ));
        for _ in 0..8 {
            guest.signal(name, libc::SIGKILL);
            std::thread::sleep(Duration::from_millis(30));
        }
        assert_eq!(guest.done(), "", "{name}");
        guest.settle();
        assert_eq!(guest.restarts(name), "8", "{name}: {}", guest.ask("info restarts"));
    }

    // A session on the serial port.
    for round in 0..40 {
        guest.begin(&format!("echo ab$(({round} * 7))cd"));
        guest.signal("bh-serial0", libc::SIGKILL);
        assert_eq!(guest.done(), format!("ab{}cd", round * 7));
    }
    guest.settle();
    assert_eq!(guest.restarts("bh-serial0"), "40");

    // Stopped processes are replaced.
    const READS: &str = "dd if=/dev/sda bs=4k count=1 iflag=direct 2>/dev/null | wc -c";
    for (name, command, expected) in [
        ("bh-rtc", "o 0x70 0x3f; o 0x71 99; i 0x71", "99"),
        ("bh-block-hda", READS, "4096"),
        ("bh-ide0", READS, "4096"),
    ] {
        guest.signal(name, libc::SIGSTOP);
        let start = Instant::now();
        let output = guest.run(command);
        assert_eq!(output, expected, "{name}");
        assert!(start.elapsed() < Duration::from_secs(10), "{name}: {:?}", start.elapsed());
        let table = guest.ask("info restarts");
        let last = table.lines().rev().find(|line| line.contains(name)).expect("a line of the table");
        assert!(last.contains("hung"), "{last}");
    }

    // Crashes, unlike kills, are followed by pauses.
    for _ in 0..5 {
        guest.signal("bh-vga", libc::SIGABRT);
        std::thread::sleep(Duration::from_millis(30));
    }
    assert_eq!(guest.run("o 0x3c6 77; i 0x3c6"), "77");
    guest.vm.expect_error("was killed by SIGABRT: restarted with pauses", 20);

    // Without its program a device is given up by name, reads as ones, and comes back by command with its state.
    // Read back: a posted write that the device has not seen yet would be answered in its stead.
    assert_eq!(guest.run("o 0x84 0x5a; i 0x84"), "90");
    let (program, away) = (folder.join("bh-dma"), folder.join("away"));
    std::fs::rename(&program, &away).expect("rename");
    // The successor that waits takes over all the same; there is no other behind it.
    guest.settle();
    guest.ask("device_kill dma");
    assert_eq!(guest.run("i 0x84"), "90");
    guest.settle();
    assert_eq!(guest.ask("device_kill dma"), "");
    // The write makes the copy of the registers that the CPU process reads invalid: the read waits until the end.
    assert_eq!(guest.run("o 0x85 1; i 0x85"), "255");
    assert_eq!(guest.run("i 0x84"), "255");
    assert_eq!(guest.restarts("bh-dma"), "dead");
    std::fs::rename(&away, &program).expect("rename");
    assert_eq!(guest.ask("device_restart dma"), "");
    assert_eq!(guest.run("i 0x84"), "90");
    guest.assert_no_complaint();

    guest.vm.send("poweroff -f\n");
    assert_eq!(guest.vm.wait(60).code(), Some(0), "{}", guest.vm.errors());
}

#[test]
fn disk_is_copied_whole_while_its_processes_are_killed_200_times() {
    let scratch = Scratch::new("restart-disk");
    let image = disk(&scratch);
    let before = std::fs::read(&image).expect("image");
    let mut guest = Guest::boot(&programs(), &scratch, &image);
    let whole = guest.run("md5sum < /dev/sda");
    // The first half over the second and back, for ever; each time both are compared without a cache.
    guest.run(
        "h=$(dd if=/dev/sda bs=64k count=128 iflag=direct 2>/dev/null | md5sum); \
         t() { dd if=/dev/sda of=/dev/sda bs=64k count=128 seek=128 iflag=direct oflag=direct conv=notrunc 2>/dev/null || echo bad copy; \
         [ \"$(dd if=/dev/sda bs=64k skip=128 count=128 iflag=direct 2>/dev/null | md5sum)\" = \"$h\" ] || echo bad sum; }",
    );
    guest.begin("rm -f /stop; r=0; (sleep 600; touch /stop) & while [ ! -e /stop ] && [ $r -lt 25 ]; do t; r=$((r + 1)); done; echo rounds $r");
    let mut seed = 1u64;
    for kill in 0..200 {
        let name = if kill % 2 == 0 { "bh-block-hda" } else { "bh-ide0" };
        guest.signal(name, libc::SIGKILL);
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        std::thread::sleep(Duration::from_micros(5_000 + (seed >> 33) % 30_000));
    }
    assert_eq!(guest.done(), "rounds 25");
    guest.settle();
    let killed: u32 = ["bh-block-hda", "bh-ide0"]
        .map(|name| guest.restarts(name).parse::<u32>().expect("a number"))
        .iter()
        .sum();
    assert_eq!(killed, 200);
    guest.assert_no_complaint();
    let table = guest.ask("info restarts");
    println!("{}", table.lines().last().unwrap_or_default());
    guest.vm.send("sync; poweroff -f\n");
    assert_eq!(guest.vm.wait(60).code(), Some(0), "{}", guest.vm.errors());
    assert_ne!(whole, "");
    let after = std::fs::read(&image).expect("image");
    let half = before.len() / 2;
    assert!(after[..half] == before[..half], "the source was changed");
    assert!(after[half..] == before[..half], "the copy is not whole");
}
