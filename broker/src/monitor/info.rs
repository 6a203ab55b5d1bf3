//! `info`.

use std::fmt::Write as _;
use std::time::Duration;

use bulkhead_bus::messages::Query;
use bulkhead_config::Media;

use super::commands::{EXTRANEOUS, Outcome, count_words, word};
use super::counters;
use crate::vm::Vm;

/// What stands around a subcommand.
pub struct Around<'a> {
    /// What follows its name.
    args: &'a str,
    /// Lines typed before.
    history: &'a [String],
}

/// What a subcommand does, into the output.
type Show = fn(&mut Vm<'_>, &Around<'_>, &mut String) -> Outcome;

/// One subcommand.
pub struct Topic {
    /// Name.
    pub name: &'static str,
    /// Line of the help.
    pub help: &'static str,
    /// Most words behind it.
    words: usize,
    run: Option<Show>,
}

const fn topic(name: &'static str, help: &'static str, run: Show) -> Topic {
    Topic { name, help, words: 0, run: Some(run) }
}

const fn unbuilt(name: &'static str, help: &'static str) -> Topic {
    Topic { name, help, words: 0, run: None }
}

/// Every subcommand of the manual; `processes`, `restarts`, `restart-times` and `counters`; `jit` and `trace-events` of later QEMU versions.
pub const TOPICS: &[Topic] = &[
    topic("version", "show the version of qemu", |_, _, out| {
        out.push_str("0.10.4\n");
        Ok(())
    }),
    unbuilt("network", "show the network state"),
    topic("chardev", "show the character devices", |vm, _, out| {
        chardev(vm, out);
        Ok(())
    }),
    topic("block", "show the block devices", |vm, _, out| {
        block(vm, out);
        Ok(())
    }),
    unbuilt("blockstats", "show block device statistics"),
    topic("registers", "show the cpu registers", |vm, _, out| ask(vm, Query::Registers(vm.cpu), out)),
    topic("cpus", "show infos for each CPU", |vm, _, out| ask(vm, Query::Cpus(vm.cpu), out)),
    topic("history", "show the command line history", |_, around, out| {
        for (number, line) in around.history.iter().enumerate() {
            let _ = writeln!(out, "{number}: '{line}'");
        }
        Ok(())
    }),
    topic("irq", "show the interrupts statistics (if available)", |vm, _, out| ask(vm, Query::Irq, out)),
    topic("pic", "show i8259 (PIC) state", |vm, _, out| ask(vm, Query::Pic, out)),
    topic("pci", "show PCI info", |vm, _, out| ask(vm, Query::Pci, out)),
    unbuilt("tlb", "show virtual to physical memory mappings"),
    unbuilt("mem", "show the active virtual memory mappings"),
    topic("hpet", "show state of HPET", |vm, _, out| ask(vm, Query::Hpet, out)),
    topic("jit", "show dynamic compiler info", |vm, _, out| ask(vm, Query::Jit, out)),
    unbuilt("kqemu", "show KQEMU information"),
    unbuilt("kvm", "show KVM information"),
    unbuilt("usb", "show guest USB devices"),
    unbuilt("usbhost", "show host USB devices"),
    topic("profile", "show profiling information", |vm, _, out| {
        ask(vm, Query::Profile, out)?;
        counters::waits(vm, out);
        Ok(())
    }),
    unbuilt("capture", "show capture information"),
    unbuilt("snapshots", "show the currently saved VM snapshots"),
    topic("status", "show the current VM status (running|paused)", |vm, _, out| {
        let _ = writeln!(out, "VM status: {}", if vm.running { "running" } else { "paused" });
        Ok(())
    }),
    unbuilt("pcmcia", "show guest PCMCIA status"),
    unbuilt("mice", "show which guest mouse is receiving events"),
    unbuilt("vnc", "show the vnc server status"),
    topic("name", "show the current VM name", |vm, _, out| {
        if let Some(name) = &vm.config.name {
            let _ = writeln!(out, "{name}");
        }
        Ok(())
    }),
    topic("uuid", "show the current VM UUID", |vm, _, out| {
        uuid(vm.config.uuid.unwrap_or_default(), out);
        Ok(())
    }),
    unbuilt("cpustats", "show CPU statistics"),
    unbuilt("slirp", "show SLIRP statistics (if available)"),
    unbuilt("migrate", "show migration status"),
    unbuilt("balloon", "show balloon information"),
    topic("processes", "show the processes of the VM", |vm, _, out| {
        processes(vm, out);
        Ok(())
    }),
    topic("restart-times", "show how long each process was away when it died", |vm, _, out| {
        restart_times(vm, out);
        Ok(())
    }),
    topic("restarts", "show which processes died, why, and how long their successors took", |vm, _, out| {
        restarts(vm, out);
        Ok(())
    }),
    topic(
        "counters",
        "show what each process has done: accesses, interrupts, DMA, requests",
        |vm, _, out| {
            counters::show(vm, out);
            Ok(())
        },
    ),
    Topic {
        name: "trace-events",
        help: "show trace events, or those that match a pattern, and whether they are on",
        words: 1,
        run: Some(|vm, around, out| {
            let pattern = word(around.args).unwrap_or_else(|| "*".to_owned());
            let states = vm.tree.tracing.states(&pattern);
            if states.is_empty() {
                return Err(format!("trace event '{pattern}' does not exist"));
            }
            for (name, on) in states {
                let _ = writeln!(out, "{name} : state {}", u8::from(on));
            }
            Ok(())
        }),
    },
];

/// Runs `info SUBCOMMAND`.
pub fn run(vm: &mut Vm<'_>, args: &str, history: &[String], out: &mut String) -> Outcome {
    let Some(name) = word(args) else {
        list(out);
        return Ok(());
    };
    let rest = args.trim_start().strip_prefix(name.as_str()).unwrap_or_default();
    match TOPICS.iter().find(|topic| topic.name == name) {
        Some(topic) if count_words(rest) > topic.words => Err(EXTRANEOUS.to_owned()),
        Some(Topic { run: Some(run), .. }) => run(vm, &Around { args: rest, history }, out),
        Some(_) => Err(format!("info {name}: not supported yet")),
        None => Err(format!("unknown info subcommand: '{name}'")),
    }
}

/// The help of `info`.
pub fn list(out: &mut String) {
    for topic in TOPICS {
        let mark = if topic.run.is_some() { "" } else { " (not supported yet)" };
        let _ = writeln!(out, "info {}  -- {}{mark}", topic.name, topic.help);
    }
}

fn ask(vm: &mut Vm<'_>, what: Query, out: &mut String) -> Outcome {
    let reply = vm.query(what)?;
    let text = crate::spawn::printable(&reply);
    out.push_str(&text);
    if !text.is_empty() && !text.ends_with('\n') {
        out.push('\n');
    }
    Ok(())
}

fn chardev(vm: &Vm<'_>, out: &mut String) {
    if let Some(char) = &vm.parts.monitor {
        let _ = writeln!(out, "monitor: filename={}", char.title);
    }
    for port in &vm.parts.ports {
        let _ = writeln!(out, "{}: filename={}", port.name, port.host.title);
    }
}

fn block(vm: &Vm<'_>, out: &mut String) {
    for drive in &vm.parts.drives {
        let cdrom = drive.media == Media::Cdrom;
        let kind = if cdrom { "cdrom" } else { "hd" };
        let _ = write!(out, "{}: type={kind} removable={}", drive.title, u8::from(cdrom));
        if cdrom {
            out.push_str(" locked=0");
        }
        match &drive.path {
            Some(path) => {
                let read_only = u8::from(drive.config.read_only);
                let _ = write!(out, " file={path} ro={read_only} drv={} encrypted=0", drive.config.format);
            }
            None => out.push_str(" [not inserted]"),
        }
        out.push('\n');
    }
}

fn uuid(uuid: [u8; 16], out: &mut String) {
    for (index, byte) in uuid.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        let _ = write!(out, "{byte:02x}");
    }
    out.push('\n');
}

/// First number of a line of `/proc/PID/smaps_rollup` or `status`.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
}

fn processes(vm: &Vm<'_>, out: &mut String) {
    let _ = writeln!(
        out,
        "{:>7} {:<18} {:>9} {:>8} {:>9} {:>9} {:>10} {:>10} {:>7}  jail",
        "pid", "process", "uptime", "restarts", "rss/kB", "pss/kB", "user", "violations", "standby"
    );
    let mut line = |pid: u32,
                    name: &str,
                    uptime: f64,
                    restarts: &str,
                    violations: u64,
                    standby: &str,
                    jail: &str| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let show = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |kb| kb.to_string());
        let (rss, pss) = (show(kilobytes(&status, "VmRSS")), show(kilobytes(&rollup, "Pss")));
        let user = show(kilobytes(&status, "Uid"));
        let _ = writeln!(
            out,
            "{pid:>7} {name:<18} {uptime:>8.1}s {restarts:>8} {rss:>9} {pss:>9} {user:>10} {violations:>10} {standby:>7}  {jail}"
        );
    };
    let oldest =
        vm.tree.processes.iter().map(|process| process.since.elapsed().as_secs_f64()).fold(0.0, f64::max);
    line(std::process::id(), "broker", oldest.max(vm.keeper.uptime().as_secs_f64()), "0", 0, "-", "broker");
    for (index, process) in vm.tree.processes.iter().enumerate() {
        let restarts =
            if vm.keeper.is_dead(index) { "dead".to_owned() } else { vm.keeper.restarts(index).to_string() };
        let violations = vm.violations.get(index).copied().unwrap_or(0);
        let jail = process.jail.lacks().map_or_else(|| "starting".to_owned(), |lacks| lacks.word());
        let standby = vm.tree.standbys.get(index).and_then(Option::as_ref);
        let standby = standby.map_or_else(|| "-".to_owned(), |standby| standby.pid().to_string());
        let uptime = process.since.elapsed().as_secs_f64();
        line(process.pid, &process.name, uptime, &restarts, violations, &standby, &jail);
    }
}

fn restarts(vm: &Vm<'_>, out: &mut String) {
    let (events, forgotten) = vm.keeper.events();
    let events: Vec<_> = events.collect();
    let mut times = Vec::new();
    // A block request's text has two numbers of any length.
    let texts = events.iter().filter_map(|event| event.doing.as_ref());
    let width = texts.map(String::len).fold("doing".len(), usize::max);
    let _ = writeln!(out, "{:>10} {:<18} {:>10} {:>width$}  reason", "when", "process", "took", "doing");
    for event in events {
        let took = event.took.map_or_else(|| "-".to_owned(), milliseconds);
        let doing = event.doing.as_deref().unwrap_or_default();
        let at = event.at.as_secs_f64();
        let _ = writeln!(out, "{at:>9.3}s {:<18} {took:>10} {doing:>width$}  {}", event.name, event.reason);
        times.extend(event.took);
    }
    times.sort_unstable();
    let of = |percent| percentile(&times, percent).map_or_else(|| "-".to_owned(), milliseconds);
    let _ = writeln!(
        out,
        "{} deaths answered; from death to service: half within {}, 99 % within {}, all within {}",
        times.len(),
        of(50),
        of(99),
        of(100)
    );
    if forgotten > 0 {
        let _ = writeln!(out, "{forgotten} older ones are not shown");
    }
}

/// Per process: successors, and the times without those that were held back on purpose.
fn restart_times(vm: &Vm<'_>, out: &mut String) {
    let heads = ["process", "restarts", "half", "99 %", "all"];
    let _ =
        writeln!(out, "{:<18} {:>8} {:>10} {:>10} {:>10}", heads[0], heads[1], heads[2], heads[3], heads[4]);
    for (index, process) in vm.tree.processes.iter().enumerate() {
        let mut times: Vec<u32> = vm.keeper.times(index).collect();
        times.sort_unstable();
        let of = |percent| {
            let time = percentile(&times, percent).map(|time| Duration::from_micros(time.into()));
            time.map_or_else(|| "-".to_owned(), milliseconds)
        };
        let restarts = vm.keeper.restarts(index);
        let _ =
            writeln!(out, "{:<18} {restarts:>8} {:>10} {:>10} {:>10}", process.name, of(50), of(99), of(100));
    }
}

/// The smallest of the sorted values that `percent` of them do not exceed.
fn percentile<T: Copy>(sorted: &[T], percent: usize) -> Option<T> {
    sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied()
}

fn milliseconds(time: Duration) -> String {
    format!("{:.3}ms", time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let times: Vec<u32> = (1..=200).collect();
        assert_eq!([1, 50, 99, 100].map(|percent| percentile(&times, percent)), [2, 100, 198, 200].map(Some));
        assert_eq!(percentile::<u32>(&[], 50), None);
    }

    #[test]
    fn a_uuid_is_printed_in_its_five_groups() {
        let mut out = String::new();
        uuid([0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 1, 2, 3, 4, 5, 6, 7, 8], &mut out);
        assert_eq!(out, "12345678-9abc-def0-0102-030405060708\n");
    }

    #[test]
    fn memory_figures_are_read_by_name() {
        assert_eq!(kilobytes("Rss:   12 kB\nPss:             345 kB\n", "Pss"), Some(345));
        assert_eq!(kilobytes("Rss: 1 kB\n", "Pss"), None);
    }
}
