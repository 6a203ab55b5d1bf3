//! The engine: runs inputs, keeps what finds something new, makes a failing input small.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use bulkhead_bus::storm::Random;

use crate::targets::Target;
use crate::watch::Watch;
use crate::{cover, heap, mutate};

/// Runs of one input that must each keep memory for that to be a leak: caches fill once.
const LEAK_RUNS: usize = 8;
/// Runs that making a failing input small may take.
const SHRINK_RUNS: usize = 4000;

/// What the last panic said, and where.
static PANIC: Mutex<Option<(String, String)>> = Mutex::new(None);

/// An input that something was wrong with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Input.
    pub input: Vec<u8>,
    /// Panic message or other finding.
    pub reason: String,
    /// Where; failures at the same place count as the same.
    pub place: String,
}

/// Keeps panic messages for [`Campaign::run`] instead of printing them.
pub fn catch_messages() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map_or_else(String::new, ToString::to_string);
        let text = info.payload_as_str().unwrap_or("panic").to_owned();
        *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = Some((text, place));
    }));
}

/// A running campaign over one target.
#[derive(Debug)]
pub struct Campaign<'a> {
    target: &'a Target,
    watch: &'a Watch,
    words: Vec<Vec<u8>>,
    inputs: Vec<Vec<u8>>,
    known: HashSet<Vec<u8>>,
    map: cover::Map,
    random: Random,
    /// Inputs run.
    pub runs: u64,
}

impl<'a> Campaign<'a> {
    /// A campaign without a corpus.
    pub fn new(target: &'a Target, watch: &'a Watch, seed: u64) -> Campaign<'a> {
        Campaign {
            target,
            watch,
            words: (target.words)(),
            inputs: Vec::new(),
            known: HashSet::new(),
            map: cover::Map::default(),
            random: Random::new(seed),
            runs: 0,
        }
    }

    /// Edges reached.
    pub fn reached(&self) -> usize {
        self.map.reached()
    }

    /// Runs an input of a corpus. In a build that does not count edges it is kept whatever it reaches.
    ///
    /// # Errors
    /// What was wrong with it.
    pub fn seed(&mut self, input: Vec<u8>) -> Result<(), Failure> {
        self.take(input, cover::edges() == 0)
    }

    /// Runs an input and keeps it if it reaches something new.
    ///
    /// # Errors
    /// What was wrong with it.
    pub fn run(&mut self, input: Vec<u8>) -> Result<(), Failure> {
        self.take(input, false)
    }

    fn take(&mut self, input: Vec<u8>, keep: bool) -> Result<(), Failure> {
        cover::clear();
        let before = heap::live();
        self.call(&input)?;
        if heap::live() > before {
            self.check_leak(&input)?;
        }
        if (self.map.add() || keep) && self.known.insert(input.clone()) {
            self.inputs.push(input);
        }
        Ok(())
    }

    fn call(&mut self, input: &[u8]) -> Result<(), Failure> {
        self.watch.note(input);
        self.runs += 1;
        catch_unwind(AssertUnwindSafe(|| (self.target.run)(input))).map_err(|_| {
            let said = PANIC.lock().unwrap_or_else(PoisonError::into_inner).take();
            let (reason, place) = said.unwrap_or_default();
            Failure { input: input.to_vec(), reason, place }
        })
    }

    /// Runs one input again and again: memory kept every time is a leak.
    fn check_leak(&mut self, input: &[u8]) -> Result<(), Failure> {
        let mut kept = 0;
        for _ in 0..LEAK_RUNS {
            let before = heap::live();
            self.call(input)?;
            kept = heap::live().saturating_sub(before);
            if kept == 0 {
                return Ok(());
            }
        }
        let reason = format!("{kept} bytes of memory are kept by every run");
        Err(Failure { input: input.to_vec(), reason, place: "leak".to_owned() })
    }

    fn pick(&mut self) -> Vec<u8> {
        // The newest inputs have been built upon least.
        let count = self.inputs.len() as u64;
        let back = self.random.below(count).min(self.random.below(count));
        let at = count.saturating_sub(1 + back) as usize;
        self.inputs.get(at).cloned().unwrap_or_default()
    }

    /// The next input.
    pub fn propose(&mut self) -> Vec<u8> {
        let (input, other) = (self.pick(), self.pick());
        mutate::mutate(&input, &other, &self.words, &mut self.random)
    }

    /// The inputs that together reach everything reached, the short ones first.
    pub fn essence(&mut self) -> Vec<Vec<u8>> {
        let mut all = self.inputs.clone();
        all.sort_by_key(Vec::len);
        let mut map = cover::Map::default();
        all.retain(|input| {
            cover::clear();
            self.call(input).is_ok() && map.add()
        });
        all
    }

    /// Takes pieces out of a failing input for as long as it fails at the same place.
    pub fn shrink(&mut self, failure: Failure) -> Failure {
        let mut best = failure;
        let mut piece = best.input.len() / 2;
        let mut left = SHRINK_RUNS;
        while piece > 0 {
            let mut at = 0;
            while at < best.input.len() && left > 0 {
                left -= 1;
                let mut shorter = best.input.clone();
                shorter.drain(at..(at + piece).min(best.input.len()));
                let result =
                    if best.place == "leak" { self.check_leak(&shorter) } else { self.call(&shorter) };
                match result {
                    Err(failure) if failure.place == best.place => best = failure,
                    _ => at += piece,
                }
            }
            piece /= 2;
        }
        best
    }
}
