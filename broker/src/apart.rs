//! Keeps the CPU process and the devices that it waits for on different processors, for a while, when it asks for it
//! (see [`bulkhead_bus::placement`]).
//!
//! For [`LEASE`] the CPU process may run everywhere but where it met its devices; where that leaves it one processor, the others may not run
//! there. Then everybody may run as before, and whoever has placed them differently meanwhile has the last word. When the CPU
//! process had to wait for its processor, all of them are taken: then this host is not one to do that again soon.

use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// How long they are kept apart.
const LEASE: Duration = Duration::from_secs(1);
/// Shortest and longest time until the next lease after one that was of no use.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A process that may not run everywhere.
struct Held {
    pid: u32,
    before: CpuSet,
    during: CpuSet,
}

/// The lease of one machine.
#[derive(Default)]
pub struct Apart {
    held: Vec<Held>,
    began: Option<Instant>,
    /// What the CPU process had waited for its processor when the lease began.
    waited: Duration,
    pause: Duration,
    not_before: Option<Instant>,
}

fn pid(of: u32) -> Pid {
    Pid::from_raw(of.cast_signed())
}

fn processors(set: &CpuSet) -> impl Iterator<Item = usize> + '_ {
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false))
}

/// How long a process's main thread has waited for a processor, ever. Source: `proc_pid_schedstat(5)`.
fn waited(of: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{of}/schedstat")).unwrap_or_default();
    Duration::from_nanos(text.split(' ').nth(1).and_then(|field| field.parse().ok()).unwrap_or(0))
}

impl Apart {
    /// The CPU process, the last of `processes`, has met the others on `processor`, a claim.
    pub fn crowded(&mut self, processes: &[u32], processor: u32, now: Instant) {
        if self.began.is_some() || self.not_before.is_some_and(|at| now < at) {
            return;
        }
        let Some((cpu, devices)) = processes.split_last() else { return };
        // Where there is no other processor, the kernel refuses.
        let Some(places) = self.hold(*cpu, processor as usize) else { return };
        let mut left = processors(&places);
        if let (Some(only), None) = (left.next(), left.next()) {
            for device in devices {
                self.hold(*device, only);
            }
        }
        self.began = Some(now);
        self.waited = waited(*cpu);
    }

    /// Lets a process run everywhere but on `processor`; where that is.
    fn hold(&mut self, of: u32, processor: usize) -> Option<CpuSet> {
        let before = sched_getaffinity(pid(of)).ok()?;
        let mut during = before;
        during.unset(processor).ok()?;
        sched_setaffinity(pid(of), &during).ok()?;
        self.held.push(Held { pid: of, before, during });
        Some(during)
    }

    /// Whether there is a lease and it is over.
    pub fn is_over(&self, now: Instant) -> bool {
        self.began.is_some_and(|began| now.saturating_duration_since(began) >= LEASE)
    }

    /// Ends the lease. `processes` are those that live.
    pub fn end(&mut self, processes: &[u32], now: Instant) {
        let Some(lasted) = self.began.take().map(|began| now.saturating_duration_since(began)) else {
            return;
        };
        for held in self.held.drain(..).filter(|held| processes.contains(&held.pid)) {
            if sched_getaffinity(pid(held.pid)) == Ok(held.during) {
                let _ = sched_setaffinity(pid(held.pid), &held.before);
            }
        }
        let waited = processes.last().map(|cpu| waited(*cpu)).unwrap_or_default();
        if waited.saturating_sub(self.waited) > lasted / 4 {
            self.pause = (self.pause * 2).clamp(PAUSES.0, PAUSES.1);
            self.not_before = Some(now + self.pause);
        } else {
            self.pause = Duration::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    struct Sleeper(Child);

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn places(of: u32) -> Vec<usize> {
        processors(&sched_getaffinity(pid(of)).expect("it lives")).collect()
    }

    #[test]
    fn cpu_and_devices_are_apart_for_a_lease_and_free_afterwards() {
        let sleepers: Vec<Sleeper> =
            (0..3).map(|_| Sleeper(Command::new("sleep").arg("600").spawn().expect("a process"))).collect();
        let pids: Vec<u32> = sleepers.iter().map(|sleeper| sleeper.0.id()).collect();
        let [device, pinned, cpu] = [pids[0], pids[1], pids[2]];
        let all = places(cpu);
        let met = all[0];
        let mut apart = Apart::default();
        let now = Instant::now();
        apart.crowded(&pids, met as u32, now);
        if all.len() == 1 {
            assert_eq!(places(cpu), all, "there is nowhere else");
            return;
        }
        assert_eq!(places(cpu), all[1..]);
        if all.len() == 2 {
            assert_eq!(places(device), [met]);
        }
        // The user places one meanwhile, and that stays.
        let mut chosen = CpuSet::new();
        chosen.set(all[1]).expect("it is there");
        sched_setaffinity(pid(pinned), &chosen).expect("a child of this process");
        assert!(!apart.is_over(now + LEASE / 2));
        assert!(apart.is_over(now + LEASE));
        assert_eq!(places(cpu), all[1..]);
        apart.end(&pids, now + LEASE);
        assert_eq!([places(device), places(cpu)], [all.clone(), all.clone()]);
        assert_eq!(places(pinned), [all[1]]);
        // A sleeper waits for no processor, so the next lease may follow at once. A processor that is not there is no place to leave.
        apart.crowded(&pids, u32::MAX, now + LEASE);
        assert_eq!([places(device), places(cpu)], [all.clone(), all.clone()]);
        apart.crowded(&pids, all[1] as u32, now + LEASE);
        assert!(!places(cpu).contains(&all[1]));
    }
}
