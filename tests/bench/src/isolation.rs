//! What isolation costs and buys: system calls that each jail allows, time from a death to service, and how much of its time the
//! virtual CPU waits for processes of devices. Ours only.

use std::path::Path;
use std::time::{Duration, Instant};

use bulkhead_tests::Monitor;
use bulkhead_tests::machine::Machine;

use crate::figures::{BOOT, Bench, Pair, SHORT, Wanted};
use crate::table::{Row, Section};

/// Deaths of each process.
const DEATHS: usize = 100;
/// Between a successor's readiness and its death.
const PEACE: Duration = Duration::from_millis(10);
/// The most that the virtual CPU may wait, in percent of the time.
const WAIT_MAX: f64 = 5.0;

/// What the virtual CPU waited during a load.
struct Waits {
    /// Length of the load.
    seconds: f64,
    /// Processor time of the CPU process.
    busy: f64,
    /// Seconds waited, by device, the longest first.
    devices: Vec<(String, f64)>,
}

impl Waits {
    fn total(&self) -> f64 {
        self.devices.iter().map(|(_, seconds)| seconds).sum()
    }
}

/// Microseconds that the virtual CPU has waited for each device so far, from `info counters`.
fn waited(table: &str) -> Vec<(String, u64)> {
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let column = lines.next().and_then(|head| head.iter().position(|name| *name == "waited-us"));
    let rows = lines.take_while(|row| row.first() != Some(&"back"));
    let value = |row: Vec<&str>| Some(((*row.first()?).to_owned(), row.get(column?)?.parse().ok()?));
    rows.filter_map(value).collect()
}

/// Number of system calls on a role's page.
fn calls(page: &str) -> Option<u32> {
    page.lines().find_map(|line| line.strip_prefix("## System calls: "))?.trim().parse().ok()
}

/// Whether a process has had so many successors, is in its jail, and has the next one waiting, from `info processes`.
fn serves(table: &str, process: &str, restarts: usize) -> bool {
    let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.any(|row| {
        row.get(1) == Some(&process)
            && row.get(3).and_then(|count| count.parse().ok()) == Some(restarts)
            && row.get(8).is_some_and(|standby| *standby != "-")
            && row.last() != Some(&"starting")
    })
}

/// Median and 99th percentile in milliseconds of a process, from `info restart-times`.
fn service(table: &str, process: &str) -> Option<(f64, f64)> {
    let row = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = row.into_iter().find(|row| row.first() == Some(&process))?;
    let time = |cell: usize| row.get(cell)?.strip_suffix("ms")?.parse().ok();
    Some((time(2)?, time(3)?))
}

impl Bench {
    /// What a jail allows, and how soon a dead process is replaced.
    pub fn isolation(&self) -> [Section; 2] {
        let alone = Bench { peer: None, ..self.clone() };
        [alone.allowed(), alone.deaths()]
    }

    /// Counted on the pages that a test holds equal to the policies.
    fn allowed(&self) -> Section {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../security/roles");
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let mut pages: Vec<_> = entries.map(|entry| entry.path()).collect();
        pages.sort();
        let rows = pages.iter().filter_map(|path| {
            let role = path.file_stem()?.to_str()?;
            let count = calls(&std::fs::read_to_string(path).ok()?)?;
            let most = match role {
                "template" => return None,
                "block" | "broker" | "char" => None,
                "cpu" => Some(27),
                _ => Some(12),
            };
            Some(Row {
                figure: role.to_owned(),
                ours: count.to_string(),
                peer: String::new(),
                ratio: String::new(),
                wanted: most.map_or_else(String::new, |most| format!("<= {most}")),
                met: most.map(|most| count <= most),
            })
        });
        Section { title: "system calls that the jail of each role allows".into(), rows: rows.collect() }
    }

    /// A guest with its monitor at a socket, at its shell.
    fn watched(&self, name: &str, more: &[&str]) -> Result<(Machine, Monitor), String> {
        let socket = self.scratch.join(format!("{name}.monitor")).display().to_string();
        let monitor = format!("unix:{socket},server,nowait");
        let machine = self.shell(&self.ours, &[&["-monitor", &monitor], more].concat())?;
        Ok((machine, Monitor::connect(&socket)))
    }

    fn deaths(&self) -> Section {
        let pair = self.pair("deaths", self.runs, |_| self.kill_all());
        let mut rows = Vec::new();
        let names: Vec<String> =
            pair.ours.first().into_iter().flatten().map(|(name, ..)| name.clone()).collect();
        for name in names {
            let of = |run: &Vec<(String, f64, f64)>| run.iter().find(|(have, ..)| *have == name).cloned();
            let half = |run: &Vec<_>| of(run).map_or(f64::NAN, |(_, half, _)| half);
            let most = |run: &Vec<_>| of(run).map_or(f64::NAN, |(.., most)| most);
            rows.push(self.row(&format!("{name}: p50"), &pair, half, 2, Wanted::Any));
            rows.push(self.row(&format!("{name}: p99"), &pair, most, 2, Wanted::Below(10.0, "< 10")));
        }
        let title = format!(
            "from death to service under an idle guest, milliseconds, {DEATHS} deaths each, median of runs"
        );
        Section { title, rows }
    }

    fn kill_all(&self) -> Result<Vec<(String, f64, f64)>, String> {
        let disk = self.disk()?;
        let drive = format!("file={},if=ide,index=0,media=disk,format=raw", disk.display());
        let (machine, mut monitor) =
            self.watched("deaths", &["-drive", &drive, "-snapshot", "-vga", "std"])?;
        let mut all = Vec::new();
        let names = machine.usage().into_iter().map(|usage| usage.name);
        for name in names.filter(|name| name.starts_with("bh-") && name != "bh-cpu" && name != "bh-standby") {
            for number in 1..=DEATHS {
                let answer = monitor.ask(&format!("device_kill {name}"));
                if !answer.is_empty() {
                    return Err(format!("device_kill {name}: {answer}"));
                }
                let end = Instant::now() + SHORT;
                loop {
                    std::thread::sleep(PEACE);
                    if serves(&monitor.ask("info processes"), &name, number) {
                        break;
                    }
                    if Instant::now() > end {
                        return Err(format!("{name} does not come back"));
                    }
                }
            }
            let table = monitor.ask("info restart-times");
            let (half, most) =
                service(&table, &name).ok_or_else(|| format!("no times of {name}: {table}"))?;
            all.push((name, half, most));
        }
        Ok(all)
    }

    /// How much of its time the virtual CPU waits.
    pub fn waits(&self) -> Section {
        Bench { peer: None, ..self.clone() }.waiting()
    }

    fn waiting(&self) -> Section {
        type Load = fn(&Bench) -> Result<Waits, String>;
        let loads: [(&str, Load); 3] = [
            ("disk load (dd of the IDE disk, 1 MiB direct reads)", Bench::wait_disk),
            ("compile (gcc -O2 of 200 functions, all in the page cache)", Bench::wait_compile),
            ("idle (shell on the VGA text console with its cursor; no graphical desktop)", Bench::wait_idle),
        ];
        let mut rows = Vec::new();
        for (name, load) in loads {
            let pair = self.pair(&format!("waits: {name}"), self.runs, |_| load(self));
            let wanted = Wanted::Below(WAIT_MAX, "< 5");
            let share = |run: &Waits| 100.0 * run.total() / run.seconds;
            rows.push(self.row(&format!("{name}: of the time"), &pair, share, 3, wanted));
            let share = |run: &Waits| 100.0 * run.total() / run.busy;
            rows.push(self.row(&format!("{name}: of bh-cpu's processor time"), &pair, share, 2, Wanted::Any));
            rows.extend(self.devices(name, &pair));
        }
        let title = "share of its time that the virtual CPU waits for devices, %, median".to_owned();
        Section { title, rows }
    }

    /// A row for each device that makes a hundredth of the waits of the first run.
    fn devices(&self, load: &str, pair: &Pair<Waits>) -> Vec<Row> {
        let Some(first) = pair.ours.first() else { return Vec::new() };
        let load = load.split(' ').next().unwrap_or_default();
        let long = first.devices.iter().filter(|(_, seconds)| *seconds > first.total() / 100.0);
        let of = |run: &Waits, name: &str| {
            let found = run.devices.iter().find(|(have, _)| have == name);
            found.map_or(0.0, |(_, seconds)| 100.0 * seconds / run.seconds)
        };
        long.map(|(name, _)| {
            self.row(&format!("{load}: for {name}"), pair, |run| of(run, name), 3, Wanted::Any)
        })
        .collect()
    }

    /// What is waited for while `load` runs.
    fn waits_of(
        &self,
        machine: &mut Machine,
        monitor: &mut Monitor,
        load: impl FnOnce(&mut Machine) -> Result<(), String>,
    ) -> Result<Waits, String> {
        let busy = |machine: &Machine| {
            let usage = machine.usage();
            usage
                .iter()
                .filter(|usage| usage.name == "bh-cpu")
                .map(|usage| usage.cpu_ns as f64 / 1e9)
                .sum::<f64>()
        };
        let (before, busy_before) = (waited(&monitor.ask("info counters")), busy(machine));
        let start = Instant::now();
        load(machine)?;
        let (seconds, busy_after) = (start.elapsed().as_secs_f64(), busy(machine));
        let after = waited(&monitor.ask("info counters"));
        if after.is_empty() || before.len() != after.len() {
            return Err("info counters shows no waits".to_owned());
        }
        let pairs = after.into_iter().zip(before);
        let mut devices: Vec<(String, f64)> = pairs
            .map(|((name, after), (_, before))| (name, after.saturating_sub(before) as f64 / 1e6))
            .collect();
        devices.sort_by(|a, b| b.1.total_cmp(&a.1));
        Ok(Waits { seconds, busy: busy_after - busy_before, devices })
    }

    fn wait_disk(&self) -> Result<Waits, String> {
        let disk = self.disk()?;
        let drive = format!("file={},if=ide,index=0,media=disk,format=raw", disk.display());
        let (mut machine, mut monitor) = self.watched("disk", &["-drive", &drive])?;
        Bench::find_disk(&mut machine)?;
        self.waits_of(&mut machine, &mut monitor, |machine| {
            // Long enough for a share of it: several times through the disk.
            machine.send(
                "for n in 1 2 3 4 5 6 7 8; do dd if=/dev/sda of=/dev/null bs=1M iflag=direct; done; echo done-$((40 + 2))\n",
            )?;
            let (text, _) = machine.expect("done-42", BOOT)?;
            match text.matches(&format!("{}+0 records out", self.disk_mib)).count() {
                8 => Ok(()),
                _ => Err(format!("dd did not read the disk: {:?}", text.trim())),
            }
        })
    }

    fn wait_compile(&self) -> Result<Waits, String> {
        let socket = self.scratch.join("compile.monitor").display().to_string();
        let monitor = format!("unix:{socket},server,nowait");
        let (mut machine, _) = self.cpu_guest(&self.ours, &["-monitor", &monitor])?;
        let mut monitor = Monitor::connect(&socket);
        self.waits_of(&mut machine, &mut monitor, |machine| {
            machine.send("gcc -O2 -c functions.c -o /tmp/functions.o && echo done-$((40 + 2))\n")?;
            machine.expect("done-42", BOOT).map(|_| ())
        })
    }

    fn wait_idle(&self) -> Result<Waits, String> {
        let (mut machine, mut monitor) = self.watched("idle", &["-vga", "std"])?;
        // Nobody types; the card draws the cursor.
        machine.send("setsid sh < /dev/tty1 > /dev/tty1 2>&1 & echo up-$((40 + 2))\n")?;
        machine.expect("up-42", SHORT)?;
        std::thread::sleep(Duration::from_secs(3));
        self.waits_of(&mut machine, &mut monitor, |_| {
            std::thread::sleep(self.idle);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_those_of_the_devices_whatever_the_column() {
        let table = "device  reads  waited-us  lost\nbh-rtc  1  20  0\nbh-ide0  3  4000  0\nback end  requests\nbh-char  7\n";
        assert_eq!(waited(table), [("bh-rtc".to_owned(), 20), ("bh-ide0".to_owned(), 4000)]);
        assert_eq!(waited("device  reads\nbh-rtc  1\n"), []);
    }

    #[test]
    fn times_to_service_are_those_of_the_process_itself() {
        let table = "process restarts half 99 % all\nbh-ide0 3 2.500ms 9.000ms 9.100ms\nbh-ide 1 - - -\n";
        assert_eq!(service(table, "bh-ide0"), Some((2.5, 9.0)));
        assert_eq!(service(table, "bh-ide"), None);
    }

    #[test]
    fn every_page_of_a_role_says_how_many_calls_it_has() {
        assert_eq!(calls("# x\n\n## System calls: 11\n"), Some(11));
        let section = Bench::allowed(&crate::figures::tests::nothing());
        assert!(section.rows.len() > 10 && section.rows.iter().all(|row| row.met != Some(false)));
    }
}
