//! Who runs the cases: a thread a processor, each with a host process and engines of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use iced_x86::InstructionInfoFactory;

use crate::compare::{Differences, comparable, describe, excused, same, settle};
use crate::generate;
use crate::host::{BATCH, Host};
use crate::layout::*;
use crate::ours::Ours;
use crate::vary::{Class, Group, MOST};

/// Seeds that a worker takes at once.
const PORTION: u64 = 1024;
/// Differences that are printed in full.
const SHOWN: usize = 30;
/// How often a long run says how far it is.
const REPORT: Duration = Duration::from_secs(60);

/// What is to be run.
pub struct Plan {
    cases: u64,
    end: Option<Instant>,
    began: Instant,
    first: u64,
    next: AtomicU64,
    ran: AtomicU64,
    wrong: AtomicU64,
    said: AtomicU64,
}

/// What came of it.
#[derive(Default)]
pub struct Found {
    groups: u64,
    counts: BTreeMap<(Mode, Class), u64>,
    ends: BTreeMap<u64, u64>,
    /// Kinds of differences, with how often each was seen.
    kinds: BTreeMap<String, u64>,
    /// Cases that the host process did not survive.
    lost: u64,
    seconds: f64,
    seeds: (u64, u64),
}

impl Plan {
    /// `cases` from the seed `first` on, but no longer than `seconds`.
    pub fn new(cases: u64, first: u64, seconds: Option<u64>) -> Plan {
        let began = Instant::now();
        Plan {
            cases,
            end: seconds.map(|s| began + Duration::from_secs(s)),
            began,
            first,
            next: AtomicU64::new(first),
            ran: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
            said: AtomicU64::new(0),
        }
    }

    /// Runs it on all processors.
    pub fn run(&self) -> Found {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let mut all = Found::default();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(|| self.work())).collect();
            for thread in threads {
                all.add(thread.join().expect("a worker panicked; the line before says where"));
            }
        });
        all.seconds = self.began.elapsed().as_secs_f64();
        all.seeds = (self.first, self.next.load(Relaxed));
        all
    }

    fn over(&self) -> bool {
        self.ran.load(Relaxed) >= self.cases || self.end.is_some_and(|end| Instant::now() >= end)
    }

    fn work(&self) -> Found {
        let mut worker = Worker {
            plan: self,
            host: Host::start(),
            engines: [
                Ours::new("interpreter", false, generate::model()),
                Ours::new("compiler", true, generate::model()),
            ],
            found: Found::default(),
        };
        let mut factory = InstructionInfoFactory::new();
        let mut groups: Vec<(Group, usize)> = Vec::new();
        while !self.over() {
            let portion = self.next.fetch_add(PORTION, Relaxed);
            let mut filled = 0;
            for seed in portion..portion + PORTION {
                let Some((group, first)) = Group::new(seed, &mut factory) else { continue };
                let made = group.fill(&first, &mut worker.host.cases()[filled..]);
                filled += made;
                groups.push((group, made));
                if filled + MOST > BATCH {
                    worker.batch(&groups, filled);
                    groups.clear();
                    filled = 0;
                    if self.over() {
                        break;
                    }
                }
            }
            worker.batch(&groups, filled);
            groups.clear();
            self.report();
        }
        worker.found
    }

    /// Says once in a while how far it is.
    fn report(&self) {
        let now = self.began.elapsed().as_secs() / REPORT.as_secs();
        if self.said.fetch_max(now, Relaxed) < now {
            let (ran, next, wrong) =
                (self.ran.load(Relaxed), self.next.load(Relaxed), self.wrong.load(Relaxed));
            println!(
                "{} min: {ran} cases, {wrong} differences, next seed {next}",
                now * REPORT.as_secs() / 60
            );
        }
    }
}

struct Worker<'a> {
    plan: &'a Plan,
    host: Host,
    engines: [Ours; 2],
    found: Found,
}

impl Worker<'_> {
    /// Runs the first `filled` cases of the host's batch, which are those of `groups`.
    fn batch(&mut self, groups: &[(Group, usize)], filled: usize) {
        if filled == 0 {
            return;
        }
        let numbered =
            || groups.iter().flat_map(|(group, made)| (0..*made).map(move |number| (group, number)));
        if let Err(at) = self.host.run(filled) {
            self.found.lost += 1;
            self.plan.wrong.fetch_add(1, Relaxed);
            if let Some((case, (group, number))) = self.host.cases().get(at).zip(numbered().nth(at)) {
                let text = describe(case, &group.insn);
                println!("the host process died at seed {} state {number}\n{text}", group.seed);
            }
            assert!(self.found.lost < 5, "the host process does not survive");
            self.host = Host::start();
            return;
        }
        self.found.groups += groups.len() as u64;
        self.plan.ran.fetch_add(filled as u64, Relaxed);
        for (case, (group, number)) in self.host.cases().iter_mut().zip(numbered()) {
            settle(case, &group.insn);
            *self.found.counts.entry((group.mode, group.class)).or_default() += 1;
            *self.found.ends.entry(case.end.vector).or_default() += 1;
            if case.first != 0 {
                self.engines.iter_mut().for_each(|ours| ours.place(case));
            }
            let mut goes_on = false;
            for ours in &mut self.engines {
                // The interpreter stops after the instruction by itself.
                if goes_on {
                    break;
                }
                let (state, mut end) = ours.run(case);
                goes_on = end.vector == DONE && ours.goes_on(case);
                if end.vector != 14 {
                    end.address = 0;
                }
                let insn = &group.insn;
                if same(case, insn, &state, &end) || excused(case, insn, &end) {
                    continue;
                }
                let theirs = comparable(&case.after, case, insn, &case.end);
                let mine = comparable(&state, case, insn, &end);
                let Some(d) = Differences::between(&theirs, &case.end, &mine, &end, &case.before) else {
                    continue;
                };
                self.plan.wrong.fetch_add(1, Relaxed);
                let kind = format!("{:?} {} {:x}/{:x}", insn.code(), ours.name, case.end.vector, end.vector);
                let kinds = self.found.kinds.len();
                let seen = self.found.kinds.entry(kind).or_default();
                *seen += 1;
                if *seen == 1 && kinds < SHOWN {
                    println!(
                        "EXACT_SEED={} EXACT_CASES=1, state {number}, {}:\n{}{}",
                        group.seed,
                        ours.name,
                        describe(case, insn),
                        d.text
                    );
                }
            }
        }
    }
}

impl Found {
    fn add(&mut self, other: Found) {
        fn sum<K: Ord>(to: &mut BTreeMap<K, u64>, from: BTreeMap<K, u64>) {
            for (key, n) in from {
                *to.entry(key).or_default() += n;
            }
        }
        let Found { groups, counts, ends, kinds, lost, seconds: _, seeds: _ } = other;
        self.groups += groups;
        self.lost += lost;
        sum(&mut self.counts, counts);
        sum(&mut self.ends, ends);
        sum(&mut self.kinds, kinds);
    }

    /// Whether there was no difference, and something ran.
    pub fn is_clean(&self) -> bool {
        self.kinds.is_empty() && self.lost == 0 && !self.counts.is_empty()
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cases: u64 = self.counts.values().sum();
        let different: u64 = self.kinds.values().sum();
        let (first, next) = self.seeds;
        writeln!(
            f,
            "{cases} cases of {} instructions in {:.0} s, {:.0} a second; seeds from {first}, {next} is next",
            self.groups,
            self.seconds,
            cases as f64 / self.seconds.max(0.001)
        )?;
        let classes = [Class::Integer, Class::X87, Class::Mmx, Class::Sse, Class::Privileged];
        write!(f, "{:10}", "mode")?;
        classes.iter().try_for_each(|c| write!(f, "{:>12}", format!("{c:?}")))?;
        for mode in [Mode::Long, Mode::Flat32, Mode::Based32, Mode::Based16] {
            write!(f, "\n{:10}", format!("{mode:?}"))?;
            for class in classes {
                write!(f, "{:>12}", self.counts.get(&(mode, class)).copied().unwrap_or(0))?;
            }
        }
        write!(f, "\nends (1: done, else the vector):")?;
        self.ends.iter().try_for_each(|(end, n)| write!(f, " {end}: {n}"))?;
        write!(f, "\n{different} differences, the host process died {} times", self.lost)?;
        let mut kinds: Vec<_> = self.kinds.iter().collect();
        kinds.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
        kinds.iter().take(150).try_for_each(|(kind, n)| write!(f, "\n{n:8} {kind}"))
    }
}
