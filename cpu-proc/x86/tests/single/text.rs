//! Cases as text: what was found once stays tested, on every machine.
//!
//! A line is `MODE SEED CODE WORDS -> OUTCOME`: the mode, the number from which registers and memory come, the instruction's bytes,
//! where its operand is and other conditions (`generate::prepared` knows the words), then what it changes, undefined flags left out. `BULKHEAD_BLESS=1` writes the interpreter's outcomes, to be read before they are committed.

use iced_x86::{Decoder, Instruction};

use crate::compare::comparable;
use crate::generate;
use crate::layout::*;
use crate::ours::Ours;

fn mode(name: &str) -> Mode {
    match name {
        "64" => Mode::Long,
        "32" => Mode::Flat32,
        "32-based" => Mode::Based32,
        "16-based" => Mode::Based16,
        other => panic!("no mode {other:?}"),
    }
}

/// The case of the part before the arrow, decoded with `options`.
fn parse(text: &str, options: u32) -> (Case, Instruction) {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [name, seed, hex, ref more @ ..] = words[..] else { panic!("not MODE SEED CODE: {text:?}") };
    let mode = mode(name);
    let byte =
        |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap_or_else(|_| panic!("bad code: {text:?}"));
    let code: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
    let case = generate::prepared(mode, seed.parse().expect("a number"), &code, more, options);
    let insn = Decoder::with_ip(mode.bits(), &case.code[..code.len()], case.before.rip, options).decode();
    (case, insn)
}

/// What `after` and `end` have that `case` had not.
pub fn outcome(case: &Case, insn: &Instruction, after: &State, end: &End) -> String {
    let (before, after) = (comparable(&case.before, case, insn, end), comparable(after, case, insn, end));
    let mut words = Vec::new();
    if end.vector != DONE {
        words.push(format!("vector {:x} error {:x}", end.vector, end.error));
        if end.vector == 14 {
            words.push(format!("address {:x}", end.address));
        }
    }
    let mut word = |name: String, old: u64, new: u64| {
        if old != new {
            words.push(format!("{name} {new:x}"));
        }
    };
    for i in 0..16 {
        word(format!("r{i}"), before.regs[i], after.regs[i]);
    }
    word("rip".into(), before.rip, after.rip);
    word("flags".into(), before.flags, after.flags);
    for (i, name) in ["es", "cs", "ss", "ds", "fs", "gs"].into_iter().enumerate() {
        word(name.into(), before.selectors[i].into(), after.selectors[i].into());
    }
    word("fcw".into(), before.control.into(), after.control.into());
    word("fsw".into(), before.status.into(), after.status.into());
    word("tags".into(), before.tags.into(), after.tags.into());
    word("mxcsr".into(), before.mxcsr.into(), after.mxcsr.into());
    for (i, (old, new)) in before.window.iter().zip(&after.window).enumerate() {
        word(format!("[{:x}]", WINDOW + i as u64), (*old).into(), (*new).into());
    }
    let wide = |v: &[u8; 16]| u128::from_le_bytes(*v);
    for (name, old, new) in [("st", &before.st[..], &after.st[..]), ("xmm", &before.xmm, &after.xmm)] {
        for i in 0..old.len() {
            if old[i] != new[i] {
                words.push(format!("{name}{i} {:x}", wide(&new[i])));
            }
        }
    }
    if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
}

/// Runs the cases of a file on `engines` of `model`; with `BULKHEAD_BLESS` rewrites it instead.
pub fn check(path: &std::path::Path, engines: &mut [Ours], model: &str) {
    let text = std::fs::read_to_string(path).expect("cases");
    let bless = std::env::var_os("BULKHEAD_BLESS").is_some();
    let mut written = String::new();
    let mut wrong = Vec::new();
    for line in text.lines() {
        if line.is_empty() || line.starts_with('#') {
            written += &format!("{line}\n");
            continue;
        }
        let (given, expected) = line.split_once(" -> ").unwrap_or((line, ""));
        let (case, insn) = parse(given, generate::options_of(model));
        for (i, ours) in engines.iter_mut().enumerate() {
            ours.place(&case);
            let (state, end) = ours.run(&case);
            let got = outcome(&case, &insn, &state, &end);
            if i == 0 {
                written += &format!("{given} -> {got}\n");
            }
            if !bless && got != expected {
                wrong.push(format!("{given}\n  expected {expected}\n  {} {got}", ours.name));
            }
        }
    }
    if bless {
        std::fs::write(path, written).expect("the cases are written");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
