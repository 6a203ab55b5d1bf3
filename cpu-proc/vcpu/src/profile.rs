//! `info jit` and `info profile`: what the engine of each CPU has done.

use std::fmt::Write as _;

use bulkhead_engine::{Engine, Stats};

use crate::cpus::Cpus;

/// `part` of `whole` in percent, 0 of nothing.
fn percent(part: u64, whole: u64) -> f64 {
    ratio(part, whole) * 100.0
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// `info jit`: the code cache, what was compiled and at which cost, how often compiled code could not go on by itself.
pub fn jit(cpus: &mut Cpus) -> String {
    let mut out = String::new();
    let code = cpus.code();
    cache((code.used(), code.room()), code.blocks(), &mut out);
    for (number, vcpu) in cpus.all().iter_mut().enumerate() {
        let engine = Engine::of(&mut vcpu.cpu.core);
        work(number, &engine.stats, &mut out);
        let counter = &vcpu.cpu.core.counter;
        if counter.is_on() {
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "  icount: {} instructions, trace {:016x}",
                counter.executed(),
                counter.trace()
            );
        }
    }
    out
}

/// What all CPUs share.
fn cache(code: (usize, usize), blocks: (usize, usize), out: &mut String) {
    let _ = writeln!(
        out,
        "code cache: {} of {} KiB ({:.1}%), {} blocks usable, {} in the table",
        code.0 >> 10,
        code.1 >> 10,
        percent(code.0 as u64, code.1 as u64),
        blocks.0,
        blocks.1,
    );
}

/// What one of them has done.
fn work(number: usize, s: &Stats, out: &mut String) {
    let _ = write!(
        out,
        "CPU #{number}: {} compiled, {} moved or copied, {} compiled by another meanwhile, {} invalidated, {} flushes\n  \
         compiled: {} instructions of {} bytes to {} bytes of code; {:.2} code bytes a guest byte, {:.1} instructions a block, \
         {:.3} us an instruction\n  \
         returns to the dispatcher: {}, of which {} ({:.1}%) found compiled code; {} instructions stepped\n  \
         slow accesses: {}\n  translations not in a TLB: {}\n",
        s.compiled,
        s.moved,
        s.met,
        s.killed,
        s.flushes,
        s.compiled_insns,
        s.compiled_bytes,
        s.code_bytes,
        ratio(s.code_bytes, s.compiled_bytes),
        ratio(s.compiled_insns, s.compiled),
        ratio(s.compile_ns, s.compiled_insns) / 1000.0,
        s.returns,
        s.found,
        percent(s.found, s.found + s.compiled),
        s.stepped,
        s.slow_accesses,
        s.walks,
    );
}

/// `info profile`: where the time of each CPU went. Generated code is what is left over; what it calls counts as its own.
pub fn times(cpus: &mut Cpus) -> String {
    let mut out = String::new();
    for (number, vcpu) in cpus.all().iter_mut().enumerate() {
        split(number, &Engine::of(&mut vcpu.cpu.core).stats, &mut out);
    }
    out
}

fn split(number: usize, s: &Stats, out: &mut String) {
    let parts = [
        ("halted", s.halt_ns),
        ("compiling", s.compile_ns),
        ("interpreter", s.step_ns),
        ("dispatcher", s.dispatch_ns),
        ("interrupts and requests", s.attend_ns),
    ];
    let known = parts.iter().fold(0u64, |sum, (_, ns)| sum.saturating_add(*ns));
    let code = ("generated code, its helpers and accesses", s.run_ns.saturating_sub(known));
    let _ = writeln!(out, "CPU #{number}: {} us in the run loop", s.run_ns / 1000);
    for (name, ns) in std::iter::once(code).chain(parts) {
        let _ = writeln!(out, "  {:>12} us {:5.1}%  {name}", ns / 1000, percent(ns, s.run_ns));
    }
    let slow = s.access_ns;
    let _ = writeln!(
        out,
        "  {:>12} us {:5.1}%  of the first: accesses not by a TLB (page walks, devices)",
        slow / 1000,
        percent(slow, s.run_ns)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_and_nothing_is_divided_by_zero() {
        let mut out = String::new();
        let stats = Stats {
            run_ns: 10_000_000,
            halt_ns: 5_000_000,
            compile_ns: 1_000_000,
            step_ns: 500_000,
            ..Stats::default()
        };
        split(0, &stats, &mut out);
        let first = out.lines().nth(1).unwrap_or_default();
        assert_eq!(first.split_whitespace().take(3).collect::<Vec<_>>(), ["3500", "us", "35.0%"]);
        out.clear();
        split(1, &Stats::default(), &mut out);
        work(1, &Stats::default(), &mut out);
        cache((0, 0), (0, 0), &mut out);
        assert!(!out.contains("NaN") && !out.contains("inf"), "{out}");
    }

    #[test]
    fn figures_of_the_cache_are_those_of_the_engine() {
        let mut out = String::new();
        let stats = Stats {
            compiled: 4,
            compiled_insns: 10,
            compiled_bytes: 30,
            code_bytes: 300,
            compile_ns: 5000,
            found: 12,
            ..Stats::default()
        };
        work(0, &stats, &mut out);
        cache((1 << 20, 4 << 20), (3, 4), &mut out);
        for part in
            ["1024 of 4096 KiB (25.0%)", "10.00 code bytes", "2.5 instructions", "0.500 us", "(75.0%)"]
        {
            assert!(out.contains(part), "{part} in {out}");
        }
    }
}
