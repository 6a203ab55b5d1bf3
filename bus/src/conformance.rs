//! The conformance suite: what every chip must hold whatever a guest, a back end or a crash does. Each device calls
//! [`check`] from its tests. It asserts; a failure names the seed and the step.
//!
//! 1. the description is within the limits of the bus and its class rules make sense;
//! 2. every offset and width of every region answers, reads and writes, without a panic;
//! 3. reset twice is reset once;
//! 4. save and restore is the identity, and outputs follow from state alone;
//! 5. a machine whose device is replaced after every single transaction cannot be told from an undisturbed twin;
//! 6. a mirrored read has no effect and equals `peek`, and so does a calm one while the chip says so; a write that is not sync never
//!    lowers a line (unless excused), and changes no mirrored register that is said not to show it;
//! 7. a timer that fired has a later deadline or none; no state, however damaged, makes a restored chip panic.

use crate::bench::Bench;
use crate::chip::{Chip, Class, LINES, STATE_MAX};
use crate::device::{CALM_MAX, MIRROR_BYTES, REGIONS_MAX, RULES_MAX};
pub use crate::storm::{Random, Setup};
use crate::storm::{bytes_of, run, step, storm, value};

/// Runs the whole suite on the chip that `make` builds.
///
/// # Panics
/// When the chip fails.
pub fn check<C: Chip>(make: impl Fn() -> C, setup: Setup) {
    let new = || Bench::new(make(), setup.bytes, setup.blocks, setup.bulk);
    description(&make());
    every_register(&mut new());
    reset_is_idempotent(&new, &setup);
    let steps = if setup.steps == 0 { 2000 } else { setup.steps };
    for seed in 1..=4 {
        storm(&make, &setup, &mut Random::new(seed), steps, &format!("seed {seed}"));
    }
    for seed in 1..=40 {
        damaged_state(&new, &make, &setup, seed);
    }
}

fn description<C: Chip>(chip: &C) {
    let description = chip.description();
    assert!(size_of::<C::State>() <= STATE_MAX, "state of {} bytes", size_of::<C::State>());
    assert!(!description.part.is_empty());
    assert!(description.regions.len() <= REGIONS_MAX && description.lines.len() <= LINES);
    let (mut mirrored, mut calm) = (0, 0);
    for (index, region) in description.regions.iter().enumerate() {
        assert!(region.size > 0 && region.size <= 1 << 32, "size of region {index}");
        assert!(region.rules.len() <= RULES_MAX, "rules of region {index}");
        for rule in region.rules {
            assert!(
                rule.start < rule.end && u64::from(rule.end) <= region.size,
                "{rule:?} of region {index}"
            );
            assert!(!matches!(rule.read, Class::Posted | Class::Kick), "{rule:?} of region {index}");
            assert!(!matches!(rule.write, Class::Mirror | Class::Calm), "{rule:?} of region {index}");
            match rule.read {
                Class::Mirror => mirrored += rule.end - rule.start,
                Class::Calm => calm += rule.end - rule.start,
                _ => {}
            }
        }
    }
    assert!(mirrored as usize <= MIRROR_BYTES, "{mirrored} mirrored bytes");
    assert!(calm as usize <= CALM_MAX, "{calm} calm bytes");
}

fn every_register<C: Chip>(bench: &mut Bench<C>) {
    for (index, region) in bench.chip.description().regions.iter().enumerate() {
        let stride = (region.size / 4096).max(1);
        for at in 0..region.size.min(4096) {
            // Large regions: the first page whole, then samples to the very end.
            let offset =
                if region.size > 4096 && at >= 2048 { region.size - 1 - (4095 - at) * stride } else { at };
            for size in [1, 2, 4, 8] {
                let region = index as u8;
                bench.read(region, offset, size);
                bench.write(region, offset, size, 0x5aa5_5aa5_5aa5_5aa5);
                bench.read(region, offset, size);
                bench.write(region, offset, size, 0);
                bench.write(region, offset, size, u64::MAX);
            }
        }
    }
}

fn reset_is_idempotent<C: Chip>(new: &impl Fn() -> Bench<C>, setup: &Setup) {
    let mut bench = new();
    let mut random = Random::new(99);
    for round in 0..20 {
        for _ in 0..50 {
            let step = step(&bench.chip, setup, &mut random);
            run(&mut bench, &step);
        }
        bench.with(|chip, env| chip.reset(env));
        let once = (bytes_of(&bench.chip), bench.outputs());
        bench.with(|chip, env| chip.reset(env));
        assert_eq!(
            once,
            (bytes_of(&bench.chip), bench.outputs()),
            "round {round}: reset twice differs from once"
        );
    }
}

/// A damaged state is refused or taken, and either way nothing panics afterwards.
fn damaged_state<C: Chip>(new: &impl Fn() -> Bench<C>, make: &impl Fn() -> C, setup: &Setup, seed: u64) {
    let mut random = Random::new(seed ^ 0xdead);
    let mut bench = new();
    for _ in 0..20 {
        let step = step(&bench.chip, setup, &mut random);
        run(&mut bench, &step);
    }
    let mut state = bench.chip.save();
    let bytes = bytemuck::bytes_of_mut(&mut state);
    let hits = if seed.is_multiple_of(2) { bytes.len() } else { 1 + random.below(4) as usize };
    for _ in 0..hits {
        let at = random.below(bytes.len() as u64) as usize;
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value(&mut random) as u8;
        }
    }
    let mut chip = make();
    if chip.restore(&state).is_ok() {
        let again = chip.save();
        assert_eq!(
            bytemuck::bytes_of(&state),
            bytemuck::bytes_of(&again),
            "seed {seed}: restore changed a state"
        );
        bench.chip = chip;
        bench.event();
        for _ in 0..200 {
            let step = step(&bench.chip, setup, &mut random);
            run(&mut bench, &step);
        }
    }
}
