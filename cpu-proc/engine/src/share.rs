//! Several CPUs that run the same compiled code.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use crate::smc::lower;
use crate::state::CoreState;
use crate::testing::{Memory, Rig};
use crate::{Code, Engine, Privilege, Stats, mem, peers};

/// Pages of the program: each is a chain of [`BLOCKS`] blocks, of which each adds one and goes to the next, and the last stops.
const PAGES: u64 = 12;
const BLOCKS: u64 = 60;

/// A CPU of a machine, to be run on some thread.
struct Cpu(Rig);

// SAFETY: a rig is used by one thread at a time; what it shares is made for that.
unsafe impl Send for Cpu {}

impl Cpu {
    fn new(memory: &Arc<Memory>, code: &Arc<Code>, number: usize) -> Cpu {
        let mut rig = Rig::with(memory.clone(), lower);
        Engine::sharing(code, number).expect("memory for code").attach(rig.core());
        // SAFETY: tests drop the CPUs after all of them ran.
        unsafe { code.join(number, rig.core()) };
        Cpu(rig)
    }

    fn core(&mut self) -> &mut CoreState {
        self.0.core()
    }

    fn stats(&mut self) -> Stats {
        Engine::of(self.core()).stats
    }

    /// What a run from `pc` adds up.
    fn sum(&mut self, pc: u64) -> u64 {
        self.core().slots[0] = 0;
        self.0.run(pc);
        self.core().slots[0]
    }
}

fn machine(bytes: usize, cpus: usize) -> (Arc<Code>, Vec<Cpu>) {
    let (memory, code) = (Arc::default(), Code::new(bytes, cpus).expect("memory for code"));
    let mut all: Vec<Cpu> = (0..cpus).map(|number| Cpu::new(&memory, &code, number)).collect();
    for page in 1..=PAGES {
        for i in 0..BLOCKS {
            let at = (page * 4096 + 8 * i) as usize;
            let next = if i + 1 == BLOCKS { 0 } else { 0x10000 | (at as u32 + 8) & 0xffff };
            all[0].0.machine().put32(at, 0x101);
            all[0].0.machine().put32(at + 4, next);
        }
    }
    (code, all)
}

/// Runs `each` for all CPUs at once, on threads.
fn at_once(cpus: &mut [Cpu], each: impl Fn(usize, &mut Cpu) + Sync) {
    let together = Barrier::new(cpus.len());
    std::thread::scope(|scope| {
        for (number, cpu) in cpus.iter_mut().enumerate() {
            let (each, together) = (&each, &together);
            scope.spawn(move || {
                together.wait();
                each(number, cpu);
            });
        }
    });
}

#[test]
fn what_one_cpu_has_compiled_no_other_compiles() {
    let (code, mut cpus) = machine(1 << 20, 2);
    for page in 1..=PAGES {
        assert_eq!(cpus[0].sum(page * 4096), BLOCKS);
    }
    let first = cpus[0].stats();
    assert_eq!(
        (first.compiled, code.blocks()),
        (PAGES * BLOCKS, (first.compiled as usize, first.compiled as usize))
    );
    for page in 1..=PAGES {
        assert_eq!(cpus[1].sum(page * 4096), BLOCKS);
    }
    let second = cpus[1].stats();
    assert_eq!((second.compiled, second.stepped), (0, 0), "{second:?}");
    // The first one had linked them.
    assert_eq!(second.found, PAGES);
}

#[test]
fn cpus_that_meet_the_same_code_at_once_compile_it_once() {
    let (code, mut cpus) = machine(1 << 20, 4);
    at_once(&mut cpus, |_, cpu| (1..=PAGES).for_each(|page| assert_eq!(cpu.sum(page * 4096), BLOCKS)));
    let compiled: u64 = cpus.iter_mut().map(|cpu| cpu.stats().compiled).sum();
    assert_eq!(
        (compiled, code.blocks()),
        (PAGES * BLOCKS, ((PAGES * BLOCKS) as usize, (PAGES * BLOCKS) as usize))
    );
}

#[test]
fn cpus_whose_code_does_not_fit_into_the_cache_go_on() {
    for bytes in [16 << 10, 48 << 10] {
        let (code, mut cpus) = machine(bytes, 4);
        at_once(&mut cpus, |number, cpu| {
            for round in 0..60 {
                let page = 1 + (round * 5 + 3 * number as u64) % PAGES;
                assert_eq!(cpu.sum(page * 4096), BLOCKS);
            }
        });
        let flushes: u64 = cpus.iter_mut().map(|cpu| cpu.stats().flushes).sum();
        assert!(flushes > 4, "{flushes} of {bytes} bytes");
        assert!(code.used() <= bytes);
    }
}

#[test]
fn nothing_is_used_again_before_every_cpu_has_come_by() {
    let (_, mut cpus) = machine(16 << 10, 2);
    let (first, second) = cpus.split_at_mut(1);
    // The other one runs, and reads no mail.
    peers::wake(second[0].core());
    let mut all = |expected: &str| {
        (1..=PAGES).for_each(|page| assert_eq!(first[0].sum(page * 4096), BLOCKS, "{expected}"));
        first[0].stats()
    };
    let away = all("two regions, each filled once");
    assert_eq!(away.flushes, 0, "{away:?}");
    assert!(away.stepped > 0);
    let still = all("and no more");
    assert_eq!(still.flushes, 0);
    assert_ne!(second[0].core().attention().load(Ordering::SeqCst), 0, "it is asked to come by");
    peers::read_mail(second[0].core());
    let by = all("one of them again");
    assert_eq!(by.flushes, 1, "{by:?}");
    peers::rest(second[0].core());
    let asleep = all("as often as need be");
    assert!(asleep.flushes > by.flushes + 1, "{asleep:?}");
}

#[test]
fn a_store_of_one_cpu_to_code_is_seen_by_all_that_serialise_after_it() {
    const ROUNDS: u32 = 400;
    // The first CPU writes; the others, once they have been told of it, run what it wrote. Runs begin and end with their mail.
    let (code, mut cpus) = machine(64 << 10, 4);
    let (told, seen) = (AtomicU32::new(0), AtomicU64::new(0));
    let place = |round: u32| 0x1000 + 8 * u64::from(round % 7);
    at_once(&mut cpus, |number, cpu| {
        for round in 1..=ROUNDS {
            let word = 0x100 + round % 200;
            let expected = |cpu: &mut Cpu| {
                let sum = cpu.sum(place(round));
                assert!(sum >= u64::from(word - 0x100), "round {round} of {number}: {sum}");
                sum
            };
            if number == 0 {
                let stored = mem::store(cpu.core(), place(round), 4, word.into(), Privilege::Current);
                assert!(stored.is_ok());
                let sum = expected(cpu);
                told.store(round, Ordering::SeqCst);
                while seen.load(Ordering::SeqCst) < u64::from(round) * 3 {
                    std::thread::yield_now();
                }
                assert_eq!(cpu.sum(place(round)), sum);
            } else {
                while told.load(Ordering::SeqCst) < round {
                    std::thread::yield_now();
                }
                expected(cpu);
                seen.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let sums: Vec<u64> = cpus.iter_mut().map(|cpu| cpu.sum(0x1000)).collect();
    assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
    assert!(cpus[0].stats().killed > 0);
    assert!(code.blocks().0 > 0);
}

#[test]
fn a_cpu_sees_its_own_stores_to_code_at_once_whatever_the_others_do() {
    for away in [false, true] {
        let (_, mut cpus) = machine(64 << 10, 2);
        let (first, second) = cpus.split_at_mut(1);
        if away {
            // It runs and reads no mail: no page becomes settled.
            peers::wake(second[0].core());
        }
        let rig = &mut first[0].0;
        // Stores the number of the round into the next instruction, which adds it; and from elsewhere into another block.
        for (at, word) in [(0x1000, 1), (0x1004, 0x101), (0x1008, 0x11800), (0x1800, 0x101), (0x1804, 0)] {
            rig.machine().put32(at, word);
        }
        for round in 1..2000u64 {
            let target = if round % 3 == 0 { 0x1800 } else { 0x1004 };
            let word = 0x100 + round % 200;
            let before = first[0].0.machine().bytes()[if target == 0x1004 { 0x1800 } else { 0x1004 }];
            first[0].core().slots[8] = target;
            first[0].core().slots[1] = word;
            let sum = first[0].sum(0x1000);
            assert_eq!(sum, u64::from(before) + round % 200, "round {round}, away: {away}");
        }
    }
}
