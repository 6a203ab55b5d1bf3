//! The figures: each runs ours and the peer's machine in turn and makes a section of the table.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead_tests::machine::{Machine, Usage};

use crate::rom;
use crate::table::{Row, Section, quantile};

/// An emulator under measurement.
#[derive(Clone)]
pub struct Emulator {
    /// Program and first arguments for a 64-bit machine.
    pub x86_64: Vec<String>,
    /// The same for a 32-bit machine.
    pub i386: Vec<String>,
}

/// What is measured, and how often.
#[derive(Clone)]
pub struct Bench {
    /// Ours.
    pub ours: Emulator,
    /// The one to compare with.
    pub peer: Option<Emulator>,
    /// Runs of each.
    pub runs: usize,
    /// The folder with the guests.
    pub guests: PathBuf,
    /// A folder for images.
    pub scratch: PathBuf,
    /// Size of the disk that is read, in MiB.
    pub disk_mib: u64,
    /// Length of the idle measurement.
    pub idle: Duration,
}

/// Results of the runs of both sides.
pub(crate) struct Pair<T> {
    /// Ours.
    pub ours: Vec<T>,
    /// The peer's.
    pub peer: Vec<T>,
    /// The first failure of each side: it replaces the figures in the table.
    pub failed: [Option<String>; 2],
}

/// Whether less or more of a figure is better, and how much it may be.
#[derive(Clone, Copy)]
pub(crate) enum Wanted {
    /// Nothing.
    Any,
    /// Ours below this.
    Below(f64, &'static str),
    /// Ours over the peer's at most.
    RatioAtMost(f64),
    /// Ours over the peer's at least.
    RatioAtLeast(f64),
}

/// The longest a guest may take to boot.
pub(crate) const BOOT: Duration = Duration::from_secs(300);
/// The longest for anything small.
pub(crate) const SHORT: Duration = Duration::from_secs(60);
pub(crate) const UP: &str = "userland is up";
const PROMPT: &str = "# ";

impl Bench {
    /// Runs ours and the peer in turn, who is first changing with each run.
    pub(crate) fn pair<T>(
        &self,
        what: &str,
        runs: usize,
        run: impl Fn(&Emulator) -> Result<T, String>,
    ) -> Pair<T> {
        let mut pair = Pair { ours: Vec::new(), peer: Vec::new(), failed: [None, None] };
        for number in 0..runs {
            eprintln!("bench: {what}: run {} of {runs}", number + 1);
            for turn in 0..2 {
                let side = (turn + number) % 2;
                let emulator = if side == 0 { Some(&self.ours) } else { self.peer.as_ref() };
                let Some(emulator) = emulator.filter(|_| pair.failed[side].is_none()) else { continue };
                match run(emulator) {
                    Ok(result) if side == 0 => pair.ours.push(result),
                    Ok(result) => pair.peer.push(result),
                    Err(error) => {
                        eprintln!("bench: {what}: {}: {error}", ["ours", "peer"][side]);
                        pair.failed[side] = Some(error);
                    }
                }
            }
        }
        pair
    }

    /// The arguments that boot a guest without a display or a network card.
    pub(crate) fn boot_args(&self, flavour: &str, mib: &str) -> Result<Vec<String>, String> {
        let mut args: Vec<String> =
            ["-nographic", "-vga", "none", "-net", "none", "-m", mib, "-append", "console=ttyS0"]
                .map(String::from)
                .into();
        for (option, file) in [("-kernel", "vmlinuz"), ("-initrd", "initrd.gz")] {
            let path = self.guests.join(flavour).join(file);
            if !path.exists() {
                return Err(format!("{} is missing: run tests/guests/make", path.display()));
            }
            args.extend([option.to_owned(), path.display().to_string()]);
        }
        Ok(args)
    }

    /// Boots the amd64 guest to its shell.
    pub(crate) fn shell(&self, emulator: &Emulator, more: &[&str]) -> Result<Machine, String> {
        let args = self.boot_args("amd64", "256")?;
        let args: Vec<&str> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let mut machine = Machine::start(&emulator.x86_64, &args)?;
        machine.expect(UP, BOOT)?;
        machine.expect(PROMPT, SHORT)?;
        Ok(machine)
    }

    /// Time from exec to userland, three kernels.
    pub fn boot(&self) -> Section {
        let rows = ["amd64", "686", "686-pae"].map(|flavour| {
            let pair = self.pair(&format!("boot {flavour}"), self.runs, |emulator| {
                let args = self.boot_args(flavour, "256")?;
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                let command = if flavour == "amd64" { &emulator.x86_64 } else { &emulator.i386 };
                Ok(Machine::start(command, &args)?.expect(UP, BOOT)?.1.as_secs_f64())
            });
            self.row(flavour, &pair, |time| *time, 2, Wanted::RatioAtMost(1.5))
        });
        Section { title: "boot to userland, seconds from exec, median".into(), rows: rows.into() }
    }

    /// Writes a firmware image.
    fn image(&self, name: &str, bytes: &[u8]) -> Result<String, String> {
        let path = self.scratch.join(name);
        std::fs::write(&path, bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path.display().to_string())
    }

    /// Starts a machine with an image as firmware; it has everything a machine has by default but a network card.
    fn firmware(emulator: &Emulator, image: &str) -> Result<Machine, String> {
        Self::firmware_with(emulator, image, &[])
    }

    fn firmware_with(emulator: &Emulator, image: &str, more: &[&str]) -> Result<Machine, String> {
        let exit = format!("isa-debug-exit,iobase={:#x},iosize=0x1", rom::EXIT_PORT);
        let args = [
            "-nographic",
            "-monitor",
            "none",
            "-serial",
            "stdio",
            "-net",
            "none",
            "-m",
            "256",
            "-bios",
            image,
        ];
        Machine::start(&emulator.x86_64, &[&args[..], &["-device", &exit], more].concat())
    }

    /// Time from exec to the first byte of test firmware, and to the end.
    pub fn start(&self) -> Section {
        let pair = self.pair("start", self.runs * 10, |emulator| {
            let image = self.image("first-byte.rom", &rom::first_byte())?;
            let mut machine = Self::firmware(emulator, &image)?;
            let first = machine.expect("!", SHORT)?.1;
            let (_, end) = machine.wait(SHORT)?;
            Ok([first, end].map(|time| time.as_secs_f64() * 1000.0))
        });
        let wanted = Wanted::Below(50.0, "< 50");
        let rows = vec![
            self.row("exec to first byte of the guest", &pair, |times| times[0], 1, wanted),
            self.row("exec to exit", &pair, |times| times[1], 1, Wanted::Any),
        ];
        Section { title: "start with all processes, milliseconds, median".into(), rows }
    }

    /// Latency of register reads as the guest sees it.
    pub fn registers(&self) -> Section {
        let pair = self.pair("registers", self.runs, |emulator| {
            let image = self.image("registers.rom", &rom::registers())?;
            let (output, _) = Self::firmware(emulator, &image)?.wait(BOOT)?;
            rom::parse(&output)
        });
        let mut rows = Vec::new();
        for (at, register) in rom::REGISTERS.iter().enumerate() {
            for (how, gap, fraction) in [
                ("warm p50", false, 0.5),
                ("warm p99", false, 0.99),
                ("200 us gap p50", true, 0.5),
                ("200 us gap p99", true, 0.99),
            ] {
                let value = |samples: &Vec<rom::Samples>| {
                    let samples =
                        samples.get(at).map(|s| if gap { s.gap.as_slice() } else { s.warm.as_slice() });
                    // The first reads translate the loop and wake the device.
                    let settled = samples.and_then(|s| s.get(s.len() / 10..)).unwrap_or_default();
                    quantile(settled, fraction).unwrap_or(f64::NAN)
                };
                let across = register.label.contains("(sync)");
                let wanted =
                    if across && how == "warm p50" { Wanted::Below(1000.0, "< 1000") } else { Wanted::Any };
                rows.push(self.row(&format!("{}: {how}", register.label), &pair, value, 0, wanted));
            }
        }
        let title = format!(
            "register access inside the guest, nanoseconds between two RDTSC ({} and {} accesses, median of runs)",
            rom::WARM_READS,
            rom::GAP_READS
        );
        Section { title, rows }
    }

    /// A raw image full of data, made once; reading it through leaves it in the host's page cache.
    pub(crate) fn disk(&self) -> Result<PathBuf, String> {
        let path = self.scratch.join(format!("disk-{}.raw", self.disk_mib));
        let error = |error: std::io::Error| format!("{}: {error}", path.display());
        if std::fs::metadata(&path).is_ok_and(|data| data.len() == self.disk_mib << 20) {
            std::io::copy(&mut File::open(&path).map_err(error)?, &mut std::io::sink()).map_err(error)?;
            return Ok(path);
        }
        let partial = path.with_extension("part");
        let mut to = BufWriter::with_capacity(1 << 20, File::create(&partial).map_err(error)?);
        // Marsaglia's xorshift64 fills it with data that nothing can compress or take for zeros.
        let mut word: u64 = 0x9e37_79b9_7f4a_7c15;
        for _ in 0..(self.disk_mib << 20) / 8 {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            to.write_all(&word.to_le_bytes()).map_err(error)?;
        }
        to.into_inner().map_err(|e| error(e.into_error()))?.sync_all().map_err(error)?;
        std::fs::rename(&partial, &path).map_err(error)?;
        Ok(path)
    }

    /// Loads the drivers of the disk and waits for it, at the shell.
    pub(crate) fn find_disk(machine: &mut Machine) -> Result<(), String> {
        // In the order of their dependencies; what a kernel has built in or lacks is skipped.
        machine.send(
            "cd /lib/modules/*; for m in scsi_common scsi_mod libata ata_piix crc64 crc64-rocksoft crct10dif_common \
             crct10dif_generic crc-t10dif t10-pi sd_mod; do insmod $m.ko 2>/dev/null; done; \
             n=0; while [ ! -b /dev/sda ] && [ $n -lt 60 ]; do sleep 1; n=$((n + 1)); done; echo disk-$((40 + 2))\n",
        )?;
        machine.expect("disk-42", Duration::from_secs(120)).map(|_| ())
    }

    /// Reads the disk with these options; commands of the monitor come right before.
    fn read_disk(
        &self,
        emulator: &Emulator,
        disk: &Path,
        more: &[&str],
        commands: &[String],
    ) -> Result<f64, String> {
        let drive = format!("file={},if=ide,index=0,media=disk,format=raw", disk.display());
        let mut machine = self.shell(emulator, &[&["-drive", &drive], more].concat())?;
        Bench::find_disk(&mut machine)?;
        if !commands.is_empty() {
            // The monitor is on the same terminal, behind C-a c.
            machine.send("\x01c")?;
            for command in commands {
                machine.expect("(qemu) ", SHORT)?;
                machine.send(&format!("{command}\n"))?;
            }
            machine.expect("(qemu) ", SHORT)?;
            machine.send("\x01c\n")?;
            machine.expect(PROMPT, SHORT)?;
        }
        machine.send(
            "cat /sys/class/ata_device/dev1.0/xfer_mode; echo go-$((40 + 2)); dd if=/dev/sda of=/dev/null bs=1M iflag=direct; echo done-$((40 + 2))\n",
        )?;
        let (modes, started) = machine.expect("go-42", SHORT)?;
        if !modes.contains("DMA") {
            return Err(format!("the guest does not use DMA: {:?}", modes.trim()));
        }
        let (text, ended) = machine.expect("done-42", BOOT)?;
        // All reads were whole ones, and as many as the disk holds.
        if !text.contains(&format!("{}+0 records out", self.disk_mib)) {
            return Err(format!("dd did not read the disk: {:?}", text.trim()));
        }
        Ok(self.disk_mib as f64 / (ended - started).as_secs_f64())
    }

    /// Sequential read by IDE bus-master DMA.
    pub fn disk_read(&self) -> Section {
        let pair = self.pair("disk", self.runs, |emulator| self.read_disk(emulator, &self.disk()?, &[], &[]));
        let figure = format!("dd of {} MiB, 1 MiB direct reads", self.disk_mib);
        let rows = vec![self.row(&figure, &pair, |rate| *rate, 0, Wanted::RatioAtLeast(1.0))];
        Section { title: "IDE sequential read by DMA, MiB/s by the host's clock, median".into(), rows }
    }

    /// What tracing costs: off, one device, everything. Ours only; text goes to a file.
    pub fn tracing(&self) -> [Section; 2] {
        let alone = Bench { peer: None, ..self.clone() };
        let text = self.scratch.join("trace.txt");
        let sections = [alone.traced_registers(&text), alone.traced_disk(&text)];
        let _ = std::fs::remove_file(&text);
        sections
    }

    fn traced_registers(&self, text: &Path) -> Section {
        let file = format!("file={}", text.display());
        let run = |emulator: &Emulator, pattern: Option<&str>| {
            let image = self.image("registers.rom", &rom::registers())?;
            let option = pattern.map(|pattern| format!("{pattern},{file}"));
            let more: Vec<&str> = option.iter().flat_map(|option| ["-trace", option.as_str()]).collect();
            let (output, _) = Self::firmware_with(emulator, &image, &more)?.wait(BOOT)?;
            Ok((rom::parse(&output)?, pattern.map_or(0.0, |_| lost_share(text))))
        };
        let pairs = TRACED.map(|(name, pattern)| {
            let what = format!("tracing, {name}: registers");
            (name, self.pair(&what, self.runs, |emulator| run(emulator, pattern)))
        });
        let mut rows = Vec::new();
        let traced = |register: &rom::Register| TRACED_REGISTERS.contains(&register.label);
        for (at, register) in rom::REGISTERS.iter().enumerate().filter(|(_, register)| traced(register)) {
            for (name, pair) in &pairs {
                let value = |(samples, _): &(Vec<rom::Samples>, f64)| {
                    let warm = samples.get(at).map(|s| s.warm.as_slice()).unwrap_or_default();
                    quantile(warm.get(warm.len() / 10..).unwrap_or_default(), 0.5).unwrap_or(f64::NAN)
                };
                let figure = format!("{}: {name}", register.label);
                rows.push(self.row(&figure, pair, value, 0, Wanted::Any));
            }
        }
        for (name, pair) in pairs.iter().skip(1) {
            rows.push(self.row(&format!("records lost, %: {name}"), pair, |run| run.1, 1, Wanted::Any));
        }
        let title =
            "tracing to a text file: register read inside the guest, nanoseconds, warm p50, median of runs";
        Section { title: title.into(), rows }
    }

    fn traced_disk(&self, text: &Path) -> Section {
        let file = format!("file={}", text.display());
        let mut rows = Vec::new();
        for (name, pattern) in TRACED {
            let pair = self.pair(&format!("tracing, {name}: disk"), self.runs, |emulator| {
                let commands: Vec<String> =
                    pattern.iter().map(|pattern| format!("trace-event {pattern} on")).collect();
                let rate = self.read_disk(emulator, &self.disk()?, &["-trace", &file], &commands)?;
                Ok((rate, pattern.map_or(0.0, |_| lost_share(text))))
            });
            let figure = format!("dd of {} MiB: {name}", self.disk_mib);
            rows.push(self.row(&figure, &pair, |run| run.0, 0, Wanted::Any));
            if pattern.is_some() {
                rows.push(self.row(&format!("records lost, %: {name}"), &pair, |run| run.1, 1, Wanted::Any));
            }
        }
        Section { title: "tracing to a text file: IDE sequential read by DMA, MiB/s, median".into(), rows }
    }

    /// Use of the host by a guest that waits at its shell: processor, wake-ups, memory.
    pub fn idle(&self) -> [Section; 2] {
        let pair = self.pair("idle", self.runs, |emulator| {
            let machine = self.shell(emulator, &[])?;
            std::thread::sleep(Duration::from_secs(3));
            let before = machine.usage();
            let start = std::time::Instant::now();
            std::thread::sleep(self.idle);
            let seconds = start.elapsed().as_secs_f64();
            let after = machine.usage();
            Ok(by_name(after.into_iter().map(|usage| Idle::of(&before, usage, seconds))))
        });
        let total = |value: fn(&Idle) -> f64| move |run: &Vec<Idle>| run.iter().map(value).sum::<f64>();
        let mut idle = vec![
            self.row("all processes: % of a core", &pair, total(|i| i.percent), 2, Wanted::Below(2.0, "< 2")),
            self.row("all processes: wake-ups a second", &pair, total(|i| i.wakes), 1, Wanted::Any),
        ];
        let mut memory = vec![self.row("all processes", &pair, total(|i| i.pss_kib), 0, Wanted::Any)];
        for Idle { name: bare, processes, .. } in pair.ours.first().into_iter().flatten() {
            let own = Pair {
                ours: pair.ours.iter().filter_map(|run| run.iter().find(|i| i.name == *bare)).collect(),
                peer: Vec::new(),
                failed: [None, None],
            };
            let name = if *processes > 1 { format!("{bare}, sum of {processes}") } else { bare.clone() };
            idle.push(self.row(&format!("{name}: % of a core"), &own, |i: &&Idle| i.percent, 2, Wanted::Any));
            idle.push(self.row(
                &format!("{name}: wake-ups a second"),
                &own,
                |i: &&Idle| i.wakes,
                1,
                Wanted::Any,
            ));
            let wanted = if is_device(bare) && *processes == 1 {
                Wanted::Below(1024.0, "< 1024")
            } else {
                Wanted::Any
            };
            memory.push(self.row(&name, &own, |i: &&Idle| i.pss_kib, 0, wanted));
            let shared = format!("{name}: of it shared memory");
            memory.push(self.row(&shared, &own, |i: &&Idle| i.pss_shared_kib, 0, Wanted::Any));
        }
        let title = format!("idle guest at its shell, over {} s, median", self.idle.as_secs());
        [
            Section { title, rows: idle },
            Section {
                title: "proportional memory (Pss) of the idle guest's processes, KiB, median".into(),
                rows: memory,
            },
        ]
    }

    /// Medians of both sides, their ratio, and what is wanted of them.
    pub(crate) fn row<T>(
        &self,
        figure: &str,
        pair: &Pair<T>,
        value: impl Fn(&T) -> f64,
        digits: usize,
        wanted: Wanted,
    ) -> Row {
        let median = |results: &[T]| {
            quantile(&results.iter().map(&value).collect::<Vec<f64>>(), 0.5).filter(|m| m.is_finite())
        };
        let text = |median: Option<f64>, failed: &Option<String>| match (median, failed) {
            (_, Some(_)) => "failed".to_owned(),
            (Some(median), None) => format!("{median:.digits$}"),
            (None, None) => String::new(),
        };
        let (ours, peer) = (median(&pair.ours), median(&pair.peer));
        let complete = pair.failed.iter().all(Option::is_none);
        let ratio =
            ours.zip(peer).filter(|(_, peer)| complete && *peer > 0.0).map(|(ours, peer)| ours / peer);
        let (want, met) = match wanted {
            Wanted::Any => (String::new(), None),
            Wanted::Below(limit, text) => (text.to_owned(), ours.map(|ours| ours < limit)),
            Wanted::RatioAtMost(limit) => (format!("<= {limit}x"), ratio.map(|ratio| ratio <= limit)),
            Wanted::RatioAtLeast(limit) => (format!(">= {limit}x"), ratio.map(|ratio| ratio >= limit)),
        };
        Row {
            figure: figure.to_owned(),
            ours: text(ours, &pair.failed[0]),
            peer: text(peer, &pair.failed[1]),
            ratio: ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
            wanted: want,
            met: if pair.failed[0].is_some() && !matches!(wanted, Wanted::Any) { Some(false) } else { met },
        }
    }
}

/// What is traced: its name in the table, the pattern.
const TRACED: [(&str, Option<&str>); 3] =
    [("off", None), ("one device (ide0.*)", Some("ide0.*")), ("all (*)", Some("*"))];

/// Registers that are read under tracing.
const TRACED_REGISTERS: [&str; 3] =
    ["serial receive buffer 3F8h (sync)", "IDE error 1F1h (sync)", "IDE alternate status 3F6h (mirrored)"];

/// How many records of a text trace were lost, in percent.
fn lost_share(text: &Path) -> f64 {
    share_of_lost(&String::from_utf8_lossy(&std::fs::read(text).unwrap_or_default()))
}

fn share_of_lost(text: &str) -> f64 {
    let lost = |line: &str| line.split_once(":lost ")?.1.split(' ').next()?.parse::<f64>().ok();
    let (mut written, mut gone) = (0.0, 0.0);
    for line in text.lines() {
        match lost(line) {
            Some(count) => gone += count,
            None => written += 1.0,
        }
    }
    if written + gone > 0.0 { gone * 100.0 / (written + gone) } else { 0.0 }
}

/// Processes that stand for one device.
fn is_device(name: &str) -> bool {
    name.starts_with("bh-") && !["bh-cpu", "bh-block", "bh-char"].iter().any(|other| name.starts_with(other))
}

/// One process over the idle measurement.
struct Idle {
    name: String,
    processes: usize,
    percent: f64,
    wakes: f64,
    pss_kib: f64,
    pss_shared_kib: f64,
}

impl Idle {
    fn of(before: &[Usage], after: Usage, seconds: f64) -> Idle {
        let (cpu_ns, sleeps) = before
            .iter()
            .find(|usage| usage.pid == after.pid)
            .map_or((0, 0), |usage| (usage.cpu_ns, usage.sleeps));
        Idle {
            percent: after.cpu_ns.saturating_sub(cpu_ns) as f64 / seconds / 1e7,
            wakes: after.sleeps.saturating_sub(sleeps) as f64 / seconds,
            pss_kib: after.pss_kib.map_or(f64::NAN, |kib| kib as f64),
            pss_shared_kib: if after.pss_kib.is_some() { after.pss_shared_kib as f64 } else { f64::NAN },
            processes: 1,
            name: after.name,
        }
    }
}

/// One for each name: the sum over all processes that have it, in the order of their first.
fn by_name(all: impl Iterator<Item = Idle>) -> Vec<Idle> {
    let mut sums: Vec<Idle> = Vec::new();
    for one in all {
        let Some(sum) = sums.iter_mut().find(|sum| sum.name == one.name) else {
            sums.push(one);
            continue;
        };
        let Idle { name: _, processes, percent, wakes, pss_kib, pss_shared_kib } = one;
        sum.processes += processes;
        sum.percent += percent;
        sum.wakes += wakes;
        sum.pss_kib += pss_kib;
        sum.pss_shared_kib += pss_shared_kib;
    }
    sums
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A benchmark of no programs.
    pub(crate) fn nothing() -> Bench {
        let none = Emulator { x86_64: Vec::new(), i386: Vec::new() };
        let (guests, scratch) = (PathBuf::new(), PathBuf::new());
        Bench { ours: none, peer: None, runs: 1, guests, scratch, disk_mib: 1, idle: Duration::ZERO }
    }

    #[test]
    fn processes_of_one_name_are_one_row_with_their_sum() {
        let one = |name: &str, value: f64| Idle {
            name: name.to_owned(),
            processes: 1,
            percent: value,
            wakes: value * 2.0,
            pss_kib: value * 3.0,
            pss_shared_kib: value * 4.0,
        };
        let all = [one("bh-rtc", 1.0), one("bh-standby", 2.0), one("bh-vga", 4.0), one("bh-standby", 8.0)];
        let sums = by_name(all.into_iter());
        let seen: Vec<_> = sums
            .iter()
            .map(|i| (i.name.as_str(), i.processes, [i.percent, i.wakes, i.pss_kib, i.pss_shared_kib]))
            .collect();
        assert_eq!(
            seen,
            [
                ("bh-rtc", 1, [1.0, 2.0, 3.0, 4.0]),
                ("bh-standby", 2, [10.0, 20.0, 30.0, 40.0]),
                ("bh-vga", 1, [4.0, 8.0, 12.0, 16.0])
            ]
        );
    }

    #[test]
    fn lost_records_are_a_share_of_all() {
        let text =
            "bh-cpu@0.1:cpu.interrupt vector 0x8\nbh-ide0@0.2:lost 3 records: the ring was full or garbled\n";
        assert!((share_of_lost(text) - 75.0).abs() < 0.001);
        assert!(share_of_lost("").abs() < 0.001);
    }

    #[test]
    fn traced_registers_are_among_those_that_are_measured() {
        for label in TRACED_REGISTERS {
            assert!(rom::REGISTERS.iter().any(|register| register.label == label), "{label}");
        }
    }
}
