//! Random single instructions of user programs in 64-, 32- and 16-bit code, on the host processor and on every engine: registers, flags,
//! segment registers, memory, x87 and SSE state, and the fault with its error code and address must agree.
//!
//! A case is an instruction with the state it begins with. Instructions are random; most are run with [`vary::MOST`] states, those that
//! fault anyway and those that need a signal with fewer. `EXACT_CASES` sets the number of cases, `EXACT_SEED` the seed of the first
//! instruction, `EXACT_SECONDS` when to stop before; `./campaign exact` sets them.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod compare;
mod fast;
mod generate;
mod host;
mod layout;
mod ours;
#[path = "../random/mod.rs"]
mod random;
#[path = "../support/mod.rs"]
mod support;
mod text;
mod vary;
mod worker;

use ours::Ours;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(default, |n| n.parse().unwrap_or_else(|_| panic!("{name} is no number: {n:?}")))
}

fn kernel_can() -> bool {
    const FSGSBASE: u64 = 2;
    // SAFETY: reads the auxiliary vector.
    unsafe { libc::getauxval(libc::AT_HWCAP2) & FSGSBASE != 0 }
}

#[test]
fn what_was_found_stays_found() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/single");
    for (model, file) in generate::FIXED.into_iter().zip(["cases.txt", "intel.txt"]) {
        let mut engines = [Ours::new("interpreter", false, model), Ours::new("compiler", true, model)];
        text::check(&folder.join(file), &mut engines, model);
    }
}

#[test]
fn random_single_instructions_do_what_the_host_does() {
    if !kernel_can() {
        println!("left out: this kernel lets no program change its segment bases");
        return;
    }
    let plan = worker::Plan::new(
        number("EXACT_CASES", 10_000_000),
        number("EXACT_SEED", 1),
        std::env::var_os("EXACT_SECONDS").map(|_| number("EXACT_SECONDS", 0)),
    );
    let found = plan.run();
    println!("{found}");
    assert!(found.is_clean(), "see above");
}
