//! What the engine does with the benchmark's programs: where the time of the virtual CPU goes, what compiling costs, how often
//! compiled code cannot go on by itself (ours only); and how speed falls with memory size and working set, beside the peer.

use std::time::Duration;

use bulkhead_tests::Monitor;

use crate::cpu;
use crate::figures::{BOOT, Bench, Emulator, Pair, SHORT};
use crate::table::{Row, Section, quantile};

/// The longest that a program may take.
const LONG: Duration = Duration::from_secs(240);
/// The program that reads working sets; the guest's compiler makes it.
const WALK: &str = include_str!("../programs/walk.c");
/// Guest memory in MiB.
const MEMORIES: [&str; 3] = ["128", "512", "1024"];
/// Working sets in KiB.
const SETS: [u32; 8] = [16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144];
/// Reads of one.
const READS: u32 = 20_000_000;

/// What `info jit` and `info profile` have counted of the first CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counts {
    blocks: f64,
    moved: f64,
    killed: f64,
    insns: f64,
    bytes: f64,
    code_bytes: f64,
    returns: f64,
    found: f64,
    stepped: f64,
    slow: f64,
    walks: f64,
    /// Microseconds.
    run: f64,
    code: f64,
    accesses: f64,
    halted: f64,
    compiling: f64,
    interpreter: f64,
    dispatcher: f64,
    requests: f64,
    devices: f64,
}

/// The number before `what`.
fn before(text: &str, what: &str) -> Result<f64, String> {
    let number = text.split_once(what).and_then(|(rest, _)| rest.split_whitespace().next_back());
    let number = number.and_then(|word| word.trim_start_matches('(').parse().ok());
    number.ok_or_else(|| format!("no number before {what:?} in {text:?}"))
}

/// The number behind `what`.
fn behind(text: &str, what: &str) -> Result<f64, String> {
    let number = text.split_once(what).and_then(|(_, rest)| rest.split_whitespace().next());
    let number = number.and_then(|word| word.trim_end_matches([',', ';']).parse().ok());
    number.ok_or_else(|| format!("no number behind {what:?} in {text:?}"))
}

/// The microseconds on the line of `info profile` that ends with `name`.
fn part(text: &str, name: &str) -> Result<f64, String> {
    let line = text.lines().find(|line| line.ends_with(name));
    before(line.ok_or_else(|| format!("no {name:?} in {text:?}"))?, " us ")
}

impl Counts {
    fn of(jit: &str, profile: &str) -> Result<Counts, String> {
        Ok(Counts {
            blocks: before(jit, " compiled, ")?,
            moved: before(jit, " moved or copied")?,
            killed: before(jit, " invalidated")?,
            insns: before(jit, " instructions of ")?,
            bytes: before(jit, " bytes to ")?,
            code_bytes: before(jit, " bytes of code;")?,
            returns: behind(jit, "returns to the dispatcher: ")?,
            found: behind(jit, "of which ")?,
            stepped: before(jit, " instructions stepped")?,
            slow: behind(jit, "slow accesses: ")?,
            walks: behind(jit, "translations not in a TLB: ")?,
            run: before(profile, " us in the run loop")?,
            code: part(profile, "generated code, its helpers and accesses")?,
            accesses: part(profile, "(page walks, devices)")?,
            halted: part(profile, "halted")?,
            compiling: part(profile, "compiling")?,
            interpreter: part(profile, "interpreter")?,
            dispatcher: part(profile, "dispatcher")?,
            requests: part(profile, "interrupts and requests")?,
            devices: before(profile, " us of that waited for devices")?,
        })
    }

    fn ask(monitor: &mut Monitor) -> Result<Counts, String> {
        Counts::of(&monitor.ask("info jit"), &monitor.ask("info profile"))
    }

    /// What was counted since `start`.
    fn since(self, start: Counts) -> Counts {
        Counts {
            blocks: self.blocks - start.blocks,
            moved: self.moved - start.moved,
            killed: self.killed - start.killed,
            insns: self.insns - start.insns,
            bytes: self.bytes - start.bytes,
            code_bytes: self.code_bytes - start.code_bytes,
            returns: self.returns - start.returns,
            found: self.found - start.found,
            stepped: self.stepped - start.stepped,
            slow: self.slow - start.slow,
            walks: self.walks - start.walks,
            run: self.run - start.run,
            code: self.code - start.code,
            accesses: self.accesses - start.accesses,
            halted: self.halted - start.halted,
            compiling: self.compiling - start.compiling,
            interpreter: self.interpreter - start.interpreter,
            dispatcher: self.dispatcher - start.dispatcher,
            requests: self.requests - start.requests,
            devices: self.devices - start.devices,
        }
    }

    /// Where the time went, in percent of what was not halted.
    fn shares(self) -> String {
        let busy = self.run - self.halted;
        let share = |us: f64| if busy > 0.0 { 100.0 * us / busy } else { 0.0 };
        format!(
            "code {:.1} (accesses by walk or device {:.1}), compiler {:.1}, interpreter {:.1}, dispatcher {:.1}, requests {:.1}; waits {:.1}",
            share(self.code),
            share(self.accesses),
            share(self.compiling),
            share(self.interpreter),
            share(self.dispatcher),
            share(self.requests),
            share(self.devices),
        )
    }

    /// What was compiled, and at which cost.
    fn compiler(self) -> String {
        let each = |what: f64, of: f64| if of > 0.0 { what / of } else { 0.0 };
        format!(
            "{:.0} instructions in {:.0} blocks, {:.0} more moved; {:.3} us an instruction, {:.1} code bytes a guest byte",
            self.insns,
            self.blocks,
            self.moved,
            each(self.compiling, self.insns),
            each(self.code_bytes, self.bytes),
        )
    }

    /// How often it was not found where it is looked for first, a millisecond.
    fn misses(self) -> String {
        let busy = (self.run - self.halted) / 1000.0;
        let rate = |count: f64| if busy > 0.0 { count / busy } else { 0.0 };
        let share = if self.returns > 0.0 { 100.0 * self.found / self.returns } else { 0.0 };
        format!(
            "dispatcher {:.1} ({share:.1}% compiled already), TLB {:.1}, slow accesses {:.1}; stepped {:.2}, blocks dropped {:.2}",
            rate(self.returns),
            rate(self.walks),
            rate(self.slow),
            rate(self.stepped),
            rate(self.killed),
        )
    }
}

fn plain(figure: String, ours: String) -> Row {
    Row { figure, ours, peer: String::new(), ratio: String::new(), wanted: String::new(), met: None }
}

impl Bench {
    /// What the engine does in each program, and how speed falls with the working set.
    pub fn engine(&self, quick: bool, some: &[String]) -> [Result<Vec<Section>, String>; 2] {
        [self.programs_of_engine(quick, some), self.working_sets(quick).map(|section| vec![section])]
    }

    fn programs_of_engine(&self, quick: bool, some: &[String]) -> Result<Vec<Section>, String> {
        eprintln!("bench: engine: programs");
        let socket = self.scratch.join("engine.monitor").display().to_string();
        let monitor = format!("unix:{socket},server,nowait");
        let (mut machine, _) = self.cpu_guest(&self.ours, &["-monitor", &monitor])?;
        let mut monitor = Monitor::connect(&socket);
        let mut last = Counts::ask(&mut monitor)?;
        let mut counts = vec![("boot, and all files read".to_owned(), last)];
        let chosen =
            cpu::programs().filter(|(_, p)| some.is_empty() || some.iter().any(|name| p.name.contains(name)));
        for (_, program) in chosen {
            let command = program.command(quick);
            machine.send(&format!("{{ {command}; }} | md5sum; echo done-$((40 + 2))\n"))?;
            machine.expect("done-42", LONG).map_err(|error| format!("{}: {error}", program.name))?;
            let now = Counts::ask(&mut monitor)?;
            counts.push((program.name.to_owned(), now.since(last)));
            last = now;
        }
        let section = |title: &str, text: fn(Counts) -> String| Section {
            title: title.to_owned(),
            rows: counts.iter().map(|(name, counts)| plain(name.clone(), text(*counts))).collect(),
        };
        Ok(vec![
            section(
                "engine: where the time of the virtual CPU goes, % of what it did not halt",
                Counts::shares,
            ),
            section("engine: the compiler", Counts::compiler),
            section("engine: caches, misses a millisecond", Counts::misses),
        ])
    }

    /// Nanoseconds a read, by memory, kind and working set.
    fn working_sets(&self, quick: bool) -> Result<Section, String> {
        let memories = if quick { &MEMORIES[1..2] } else { &MEMORIES[..] };
        let reads = if quick { READS / 4 } else { READS };
        let mut rows = Vec::new();
        for mib in memories {
            let pair = self
                .pair(&format!("engine: -m {mib}"), self.runs, |emulator| self.walk(emulator, mib, reads));
            if let Some(error) = pair.failed.iter().flatten().next() {
                return Err(error.clone());
            }
            for (at, (kind, set)) in walks(mib).enumerate() {
                rows.push(speed(&format!("-m {mib}: {kind}, {set} KiB"), &pair, at));
            }
        }
        let title = "engine: reads of a working set, nanoseconds each, median".to_owned();
        Ok(Section { title, rows })
    }

    fn walk(&self, emulator: &Emulator, mib: &str, reads: u32) -> Result<Vec<f64>, String> {
        let (mut machine, _) = self.debian(emulator, mib, &[])?;
        machine.send(&format!(
            "stty -echo; cat > /tmp/walk.c <<'END'\n{WALK}END\ngcc -O2 -o /tmp/walk /tmp/walk.c && echo made-$((40 + 2))\n"
        ))?;
        machine.expect("made-42", BOOT)?;
        let mut times = Vec::new();
        for (kind, set) in walks(mib) {
            machine.send(&format!("/tmp/walk {kind} {set} {reads}\n"))?;
            let began = machine.expect("begin", SHORT)?.1;
            let ended = machine.expect(" end", LONG)?.1;
            times.push((ended - began).as_secs_f64() * 1e9 / f64::from(reads));
        }
        Ok(times)
    }
}

/// What the guest needs for itself, in MiB.
const SYSTEM: u32 = 96;

/// The kinds and working sets that fit in a guest of so many MiB.
fn walks(mib: &str) -> impl Iterator<Item = (&'static str, u32)> {
    let most = mib.parse::<u32>().unwrap_or(0).saturating_sub(SYSTEM) * 1024 * 3 / 4;
    ["sequential", "random"]
        .into_iter()
        .flat_map(move |kind| SETS.into_iter().filter(move |set| *set <= most).map(move |set| (kind, set)))
}

fn speed(figure: &str, pair: &Pair<Vec<f64>>, at: usize) -> Row {
    let median = |runs: &[Vec<f64>]| {
        quantile(&runs.iter().filter_map(|run| run.get(at).copied()).collect::<Vec<_>>(), 0.5)
    };
    let (ours, peer) = (median(&pair.ours), median(&pair.peer));
    let text = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.2}"));
    let ratio = ours.zip(peer).map(|(ours, peer)| ours / peer);
    Row {
        figure: figure.to_owned(),
        ours: text(ours),
        peer: text(peer),
        ratio: text(ratio),
        wanted: String::new(),
        met: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JIT: &str = "CPU #0: code 1 of 2 KiB (50.0%), 0 flushes\n  \
        blocks: 3 usable, 4 in the table, 5 compiled, 6 moved or copied, 7 invalidated\n  \
        compiled: 80 instructions of 90 bytes to 100 bytes of code; 1.11 code bytes a guest byte, 8.0 instructions a block, \
        0.100 us an instruction\n  \
        returns to the dispatcher: 11, of which 12 (50.0%) found compiled code; 13 instructions stepped\n  \
        slow accesses: 14\n  translations not in a TLB: 15\n";
    const PROFILE: &str = "CPU #0: 1000 us in the run loop\n  \
        400 us 40.0%  generated code, its helpers and accesses\n  500 us 50.0%  halted\n  8 us 0.8%  compiling\n  \
        20 us 2.0%  interpreter\n  30 us 3.0%  dispatcher\n  42 us 4.2%  interrupts and requests\n  \
        50 us 5.0%  of the first: accesses not by a TLB (page walks, devices)\n\
        60 us of that waited for devices\n";

    #[test]
    fn counts_are_read_and_subtracted() {
        let counts = Counts::of(JIT, PROFILE).unwrap();
        assert_eq!((counts.blocks, counts.moved, counts.killed), (5.0, 6.0, 7.0));
        assert_eq!((counts.found, counts.stepped, counts.walks), (12.0, 13.0, 15.0));
        assert_eq!(counts.since(counts), Counts::default());
        let shares = counts.since(Counts::default()).shares();
        assert!(shares.starts_with("code 80.0 (accesses by walk or device 10.0), compiler 1.6"), "{shares}");
        assert!(
            counts.compiler().contains("0.100 us an instruction, 1.1 code bytes"),
            "{}",
            counts.compiler()
        );
        assert!(counts.misses().contains("TLB 30.0"), "{}", counts.misses());
        assert!(Counts::of("", PROFILE).is_err());
    }

    #[test]
    fn a_working_set_leaves_the_system_its_memory() {
        // 64 MiB of 128 did not fit.
        assert_eq!(walks("128").map(|(_, set)| set).max(), Some(16_384));
        assert_eq!(walks("512").map(|(_, set)| set).max(), Some(262_144));
        assert_eq!(walks("1024").count(), 2 * SETS.len());
    }
}
