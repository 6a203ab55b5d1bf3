//! Coverage: one counter of 8 bits for each edge of the instrumented code.
//!
//! LLVM's sanitizer coverage pass (`-C passes=sancov-module` with `-sanitizer-coverage-inline-8bit-counters`, both options of
//! the stable compiler) puts the counters of each code unit into one section and hands the section over at start.

use std::sync::atomic::{AtomicUsize, Ordering};

static START: AtomicUsize = AtomicUsize::new(0);
static END: AtomicUsize = AtomicUsize::new(0);

/// Called by instrumented code before `main`, with the same range every time.
///
/// # Safety
/// The range must be the program's counters, as LLVM's pass guarantees.
// SAFETY: the name is the one that the pass calls; nothing else of the program has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, end: *mut u8) {
    START.store(start.expose_provenance(), Ordering::SeqCst);
    END.store(end.expose_provenance(), Ordering::SeqCst);
}

fn counters<R>(look: impl FnOnce(&mut [u8]) -> R) -> R {
    let (start, end) = (START.load(Ordering::SeqCst), END.load(Ordering::SeqCst));
    if start == 0 {
        return look(&mut []);
    }
    let base = std::ptr::with_exposed_provenance_mut(start);
    // SAFETY: the section of counters, which lives as long as the program; targets run on this thread only, and the increments
    // of other threads change bytes, never bounds.
    look(unsafe { std::slice::from_raw_parts_mut(base, end.saturating_sub(start)) })
}

/// Edges that can be counted; 0 in a program built without the pass.
pub fn edges() -> usize {
    counters(|all| all.len())
}

/// Forgets what was counted.
pub fn clear() {
    counters(|all| all.fill(0));
}

/// What has been reached so far: a bit for each order of magnitude of each counter.
#[derive(Clone, Debug, Default)]
pub struct Map(Vec<u8>);

/// A bit for the order of magnitude of a count.
fn bit(count: u8) -> u8 {
    match count {
        0 => 0,
        1 => 1,
        2 => 2,
        3 => 4,
        4..=7 => 8,
        8..=15 => 16,
        16..=31 => 32,
        32..=127 => 64,
        128..=255 => 128,
    }
}

impl Map {
    /// Adds what was counted since [`clear`]. True when there was something new.
    pub fn add(&mut self) -> bool {
        counters(|all| {
            self.0.resize(all.len(), 0);
            let mut news = false;
            for (have, count) in self.0.iter_mut().zip(all) {
                if *count != 0 {
                    let bit = bit(*count);
                    news |= *have & bit == 0;
                    *have |= bit;
                }
            }
            news
        })
    }

    /// Edges reached.
    pub fn reached(&self) -> usize {
        self.0.iter().filter(|bits| **bits != 0).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_but_zero_has_one_bit_and_larger_counts_never_a_lower_one() {
        assert_eq!(bit(0), 0);
        let bits: Vec<u8> = (1..=255).map(bit).collect();
        assert!(bits.iter().all(|bit| bit.is_power_of_two()));
        assert!(bits.is_sorted());
    }
}
