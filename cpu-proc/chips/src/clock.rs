//! Conversion between guest nanoseconds and the ticks of a crystal.

/// Nanoseconds in a second.
pub const NANOSECONDS: u64 = 1_000_000_000;

/// Ticks of a `hz` clock that have passed at guest time `now` (rounded down).
#[must_use]
pub fn ticks(now: u64, hz: u64) -> u64 {
    let product = u128::from(now) * u128::from(hz);
    u64::try_from(product / u128::from(NANOSECONDS)).unwrap_or(u64::MAX)
}

/// First guest nanosecond at which [`ticks`] reaches `tick`.
#[must_use]
pub fn time_of(tick: u64, hz: u64) -> u64 {
    let product = u128::from(tick) * u128::from(NANOSECONDS);
    u64::try_from(product.div_ceil(u128::from(hz.max(1)))).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_a_tick_is_the_first_nanosecond_that_counts_it() {
        for hz in [1_193_182, 3_579_545, 100_000_000] {
            for tick in [1, 2, 3, 65_535, 65_536, 1 << 24, 1 << 40] {
                let at = time_of(tick, hz);
                assert_eq!(ticks(at, hz), tick);
                assert_eq!(ticks(at - 1, hz), tick - 1);
            }
        }
    }

    #[test]
    fn extreme_times_saturate_instead_of_wrapping() {
        assert_eq!(ticks(u64::MAX, u64::MAX), u64::MAX);
        assert_eq!(time_of(u64::MAX, 1), u64::MAX);
    }
}
