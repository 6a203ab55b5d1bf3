//! One run of a suite in the Debian guest under one emulator. What its units said comes back on a disk: see `guest/run.sh`.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bulkhead_tests::linux::{DISK, enter_disk};
use bulkhead_tests::machine::Machine;

use crate::Side;
use crate::runs::Run;

/// The longest that a guest may take to boot.
const BOOT: Duration = Duration::from_secs(300);
/// After which a shell is asked again.
const AGAIN: Duration = Duration::from_secs(15);
/// Seconds that one unit may take, by the guest's clock.
const LIMIT: u64 = 600;
/// Beyond that the machine counts as hung: its clock stands or its kernel does nothing.
const HUNG: Duration = Duration::from_secs(LIMIT + 60);
/// Size of the disk for what the units say.
const RESULTS: u64 = 1 << 30;
/// Unit of its records.
const BLOCK: u64 = 64 << 10;

/// What a unit did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its name.
    pub name: String,
    /// Exit status; 124 or 137: it was ended for taking too long.
    pub status: i32,
    /// By the guest's clock.
    pub milliseconds: u64,
    /// Both streams.
    pub output: Vec<u8>,
}

/// What a suite did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The units that ended.
    pub units: Vec<Unit>,
    /// How many did not begin for want of time.
    pub rest: u64,
    /// Why the machine ended or hung before the suite was through.
    pub broken: Option<String>,
    /// By the host's clock, without boot.
    pub seconds: f64,
}

/// Where guests are and where disks may be made.
pub struct Places {
    /// `target/guests`.
    pub guests: PathBuf,
    /// For what units said.
    pub scratch: PathBuf,
    /// For disks; somebody else removes it.
    pub disks: PathBuf,
}

/// The environment of a suite.
pub struct Limits<'a> {
    /// Patterns of units, empty for all.
    pub units: &'a str,
    /// No unit begins after so many seconds.
    pub seconds: u64,
    /// For libm: random inputs of each function, and their seed.
    pub libm: [u64; 2],
}

/// Boots the guest and runs a suite in it.
///
/// # Errors
/// When a file is missing or the emulator does not start. What happens later is in the outcome.
pub fn run(side: &Side, run: &Run, places: &Places, limits: &Limits) -> Result<Outcome, String> {
    let results = places.disks.join(format!("{}-{}", run.name, side.name));
    let fail = |error: std::io::Error| format!("{}: {error}", results.display());
    File::create(&results).and_then(|file| file.set_len(RESULTS)).map_err(fail)?;
    let file = |name: &str| {
        let path = places.guests.join(name);
        if path.exists() {
            Ok(path.display().to_string())
        } else {
            Err(format!("{} is missing: run tests/guests/make", path.display()))
        }
    };
    let [kernel, initrd] = [file("amd64/vmlinuz")?, file("amd64/initrd.gz")?];
    let drive = |file: &str, index: u8, more: &str| {
        format!("file={file},if=ide,index={index},media=disk,format=raw{more}")
    };
    let disk = drive(&file("programs/disk.img")?, 0, ",snapshot=on");
    let into = drive(&results.display().to_string(), 1, "");
    let mut args = vec!["-nographic", "-vga", "none", "-net", "none", "-m", "1536", "-smp", run.processors];
    args.extend(["-append", "console=ttyS0", "-kernel", &kernel, "-initrd", &initrd]);
    args.extend(["-drive", &disk, "-drive", &into]);
    if let Some([ours, peer]) = run.cpu {
        args.extend(["-cpu", if side.name == "ours" { ours } else { peer }]);
    }
    let mut machine = Machine::start(&side.command, &args)?;
    if let Err(error) = enter(&mut machine) {
        drop(machine);
        std::fs::remove_file(&results).map_err(fail)?;
        return Ok(Outcome { broken: Some(format!("before the first unit: {error}")), ..Outcome::default() });
    }
    let began = Instant::now();
    let [count, seed] = limits.libm;
    machine.send(&format!(
        "ONLY='{}' SECONDS_LEFT={} LIMIT={LIMIT} COUNT={count} SEED={seed} sh /suite/run.sh {} $(disk 1)\n",
        limits.units, limits.seconds, run.suite
    ))?;
    let mut broken = None;
    let mut last = String::new();
    loop {
        match machine.expect("\n", HUNG) {
            Ok((line, _)) if line.contains("suite: done") => break,
            Ok((line, _)) => {
                if let Some((_, unit)) = line.split_once("unit: ") {
                    last = unit.trim().to_owned();
                }
            }
            Err(error) => {
                broken = Some(format!("in or after {last}: {error}"));
                break;
            }
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    drop(machine);
    let (units, rest) = read(&results).map_err(fail)?;
    std::fs::remove_file(&results).map_err(fail)?;
    Ok(Outcome { units, rest, broken, seconds })
}

/// From the end of the boot to a shell on the disk, where programs find what they expect of a running system.
fn enter(machine: &mut Machine) -> Result<(), String> {
    machine.expect("userland is up", BOOT)?;
    settle(machine, 1, "dmesg -n 1\n", "true")?;
    settle(machine, 2, &enter_disk(), "[ -d /suite ]")?;
    let mounts = format!(
        "{DISK}mount -t sysfs sys /sys; mkdir -p /dev/pts /dev/shm; mount -t devpts pts /dev/pts; mount -t tmpfs shm /dev/shm; \
         ln -sfn /proc/self/fd /dev/fd; stty -echo; hostname guest; export HOME=/tmp LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin\n"
    );
    settle(machine, 3, &mounts, "[ $LC_ALL = C ] && [ -b \"$(disk 1)\" ]")
}

/// Types `line` until the shell answers that `condition` holds: a shell drops what was typed while it changed the mode of its terminal. To
/// type the line again does no harm. Each `step` has an answer of its own: one may come late.
fn settle(machine: &mut Machine, step: u32, line: &str, condition: &str) -> Result<(), String> {
    let end = Instant::now() + BOOT;
    loop {
        machine.send(&format!("{line}{condition} && echo there-$((40 + {step}))\n"))?;
        match machine.expect(&format!("there-{}", 40 + step), AGAIN) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => {}
        }
    }
}

/// The records of a results disk.
fn read(path: &Path) -> std::io::Result<(Vec<Unit>, u64)> {
    let mut file = File::open(path)?;
    let mut units = Vec::new();
    let mut at = 0;
    loop {
        file.seek(SeekFrom::Start(at))?;
        let mut head = vec![0; 1024];
        let got = file.read(&mut head)?;
        let line = head[..got].split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let words: Vec<&str> = line.split(' ').collect();
        let ["unit", name, "status", status, "ms", milliseconds, "bytes", bytes] = words[..] else {
            let rest = line.strip_prefix("rest ").and_then(|rest| rest.parse().ok());
            return Ok((units, rest.unwrap_or(0)));
        };
        let number = |text: &str| text.parse::<u64>().unwrap_or(0);
        let bytes = number(bytes).min(RESULTS);
        let mut output = Vec::new();
        file.seek(SeekFrom::Start(at + BLOCK))?;
        (&mut file).take(bytes).read_to_end(&mut output)?;
        units.push(Unit {
            name: name.to_owned(),
            status: status.parse().unwrap_or(-1),
            milliseconds: number(milliseconds),
            output,
        });
        at += BLOCK + bytes.div_ceil(BLOCK) * BLOCK;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_to_the_end_or_to_where_the_guest_stopped() {
        let scratch = bulkhead_tests::Scratch::new("records");
        let path = scratch.file("results");
        let mut bytes = vec![0u8; 4 * BLOCK as usize];
        let mut put = |at: u64, text: &[u8]| bytes[at as usize..][..text.len()].copy_from_slice(text);
        put(0, b"unit a/b status 3 ms 17 bytes 65537\n");
        put(BLOCK, &[b'x'; 65537]);
        put(3 * BLOCK, b"rest 5\n");
        std::fs::write(&path, &bytes).unwrap();
        let (units, rest) = read(Path::new(&path)).unwrap();
        let unit = Unit { name: "a/b".into(), status: 3, milliseconds: 17, output: vec![b'x'; 65537] };
        assert_eq!((units, rest), (vec![unit], 5));
        std::fs::write(&path, vec![0u8; 4 * BLOCK as usize]).unwrap();
        assert_eq!(read(Path::new(&path)).unwrap(), (vec![], 0));
    }
}
