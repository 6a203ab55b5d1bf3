//! What is run: which suite on which machine.

/// A suite on a machine.
pub struct Run {
    /// Of its part of the report, and for `ONLY=`.
    pub name: &'static str,
    /// `guest/SUITE.sh`.
    pub suite: &'static str,
    /// Processor model of ours, and the one of the peer that has the same instructions; none: the default.
    pub cpu: Option<[&'static str; 2]>,
    /// Virtual processors.
    pub processors: &'static str,
    /// Patterns of its units; empty: all.
    pub units: &'static str,
    /// Share of the campaign's time.
    pub weight: u64,
}

/// Units that have more to do where there are several processors.
const THREADS: &str = "atomic futex mutex sem sem-sysv pthread dekker peterson lockbus membarrier switch context yield syncload tlb-shootdown \
                       mcontend cacheline* vm-splice pipe* ring-pipe sigq fork vfork clone mmapfork cpu:j* memthrash* userfaultfd";
/// Units whose code depends on the processor's features.
const FEATURES: &str = "test_math test_cmath test_float test_struct test_hashlib test_hmac test_zlib test_binascii test_random test_statistics \
                        test_decimal test_long test_re test_json test_unicode test_bytes";

/// All runs, in their order.
pub const RUNS: &[Run] = &[
    run("libm", "libm", None, 4),
    run("libm-core2duo", "libm", Some(["core2duo", "core2duo"]), 4),
    run("libm-max", "libm", Some(["max", "Westmere"]), 4),
    run("python", "python", None, 30),
    Run { units: FEATURES, ..run("python-max", "python", Some(["max", "Westmere"]), 8) },
    run("stress", "stress", None, 20),
    Run { units: THREADS, processors: "2", ..run("stress-smp", "stress", None, 8) },
    run("build", "build", None, 8),
    run("perl", "perl", None, 30),
];

const fn run(name: &'static str, suite: &'static str, cpu: Option<[&'static str; 2]>, weight: u64) -> Run {
    Run { name, suite, cpu, processors: "1", units: "", weight }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_has_a_name_of_its_own_and_a_suite() {
        let guest = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("guest");
        for (at, run) in RUNS.iter().enumerate() {
            assert!(RUNS[at + 1..].iter().all(|other| other.name != run.name), "{}", run.name);
            assert!(guest.join(format!("{}.sh", run.suite)).is_file(), "{}", run.name);
        }
    }
}
