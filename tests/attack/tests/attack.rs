//! The short form of `./campaign attack`: every process taken over for a moment. The long form comes from the environment.

use std::time::{Duration, Instant};

use bulkhead_attack::{VICTIMS, Victim, Without, attack};
use bulkhead_tests::programs;

/// One machine's part of the time at most, and without a wish for more.
const PIECE: Duration = Duration::from_secs(20);
const MOMENT: Duration = Duration::from_millis(1000);

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")))
}

#[test]
fn taken_over_processes_harm_nobody_else() {
    let wanted = std::env::var("ATTACK_PROCESS").unwrap_or_else(|_| "all".to_owned());
    let victims: Vec<&Victim> =
        VICTIMS.iter().filter(|victim| wanted == "all" || victim.process == wanted).collect();
    assert!(!victims.is_empty(), "no process '{wanted}' to take over");
    let total = setting("ATTACK_SECONDS").map(Duration::from_secs);
    let piece = total.map_or(MOMENT, |total| PIECE.min(total / victims.len() as u32));
    let mut seed = setting("ATTACK_SEED").unwrap_or(1);
    let (mut machines, mut refused) = (0, 0);
    let start = Instant::now();
    loop {
        for victim in &victims {
            println!("{} with seed {seed}", victim.process);
            loop {
                let outcome = attack(&programs(), victim, piece, seed);
                println!("{:>8.1} s {outcome:?}", start.elapsed().as_secs_f64());
                (machines, seed) = (machines + 1, seed + 1);
                if !outcome.refused {
                    let can_check = !matches!(victim.without, Without::Guest | Without::Machine);
                    assert!(!can_check || outcome.rounds > 0, "{victim:?}: {outcome:?}");
                    break;
                }
                refused += 1;
                assert!(refused <= 2 + machines / 4, "{refused} of {machines} machines did not start");
            }
        }
        if total.is_none_or(|total| start.elapsed() >= total) {
            break;
        }
    }
}
