//! Several CPUs that run the same compiled code.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use crate::smc::lower;
use crate::state::CoreState;
use crate::testing::{DEVICE, Memory, Rig};
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
    code.lock().check();
    // The first one had linked them.
    assert_eq!(second.found, PAGES);
}

#[test]
fn cpus_that_meet_the_same_code_at_once_compile_it_once() {
    let (code, mut cpus) = machine(1 << 20, 4);
    at_once(&mut cpus, |_, cpu| (1..=PAGES).for_each(|page| assert_eq!(cpu.sum(page * 4096), BLOCKS)));
    let compiled: u64 = cpus.iter_mut().map(|cpu| cpu.stats().compiled).sum();
    code.lock().check();
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
        code.lock().check();
        // One of them alone waits for nobody, however the host has shared its processors out before.
        let before = cpus[0].stats().flushes;
        for page in (0..60).map(|round| 1 + round % PAGES) {
            assert_eq!(cpus[0].sum(page * 4096), BLOCKS);
        }
        let flushes = cpus[0].stats().flushes - before;
        assert!(flushes > 4, "{flushes} of {bytes} bytes");
        assert!(code.used() <= bytes);
        code.lock().check();
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
    code.lock().check();
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

/// Two CPUs of which the second runs, so that nobody takes it for one that has read its mail; and the first for use inside of what happens
/// to the second.
fn pair() -> (Arc<Code>, Vec<Cpu>, *mut Cpu) {
    let (code, mut cpus) = machine(1 << 20, 2);
    cpus.iter_mut().for_each(|cpu| peers::wake(cpu.core()));
    let first = &raw mut cpus[0];
    (code, cpus, first)
}

/// Puts words at 0x1000 and on.
fn program(cpu: &mut Cpu, words: &[u32]) {
    words.iter().enumerate().for_each(|(i, word)| cpu.0.machine().put32(0x1000 + 4 * i, *word));
}

fn store(cpu: &mut Cpu, at: u64, word: u32) {
    assert!(mem::store(cpu.core(), at, 4, word.into(), Privilege::Current).is_ok());
}

/// Whether stores to the page are looked at.
fn is_watched(code: &Code, cpu: &mut Cpu, page: usize) -> bool {
    code.marked(cpu.0.machine().bytes()[page..].as_ptr() as u64)
}

#[test]
fn a_block_notices_its_own_stores_when_another_cpu_has_dropped_it_meanwhile() {
    let (code, mut cpus, first) = pair();
    // Reads the device, stores to the instruction behind, which is to add 0x50 then.
    program(&mut cpus[1], &[7, 1, 0x101, 0]);
    let core = cpus[1].core();
    (core.slots[8], core.slots[9], core.slots[1]) = (0x1008, 0x4000, 0x150);
    cpus[1].0.cpu.pages[4].gpa = DEVICE;
    let happens = move || {
        // SAFETY: nobody else uses the first CPU, which lives as long as this is called.
        let first = unsafe { &mut *first };
        store(first, 0x1000, 7);
        // It came by, but the other one did not.
        peers::read_mail(first.core());
        store(first, 0x1ffc, 1);
    };
    cpus[1].0.machine().on_read = Some(Box::new(happens));
    assert_eq!(cpus[1].sum(0x1000), 0x50);
    cpus[1].0.machine().on_read = None;
    // What was run is not there any more, and nobody is in the middle of anything: a plain page again, at the next store.
    store(&mut cpus[0], 0x1008, 0);
    assert!(is_watched(&code, &mut cpus[0], 0x1000));
    cpus.iter_mut().for_each(|cpu| peers::read_mail(cpu.core()));
    store(&mut cpus[0], 0x1008, 0);
    assert!(!is_watched(&code, &mut cpus[0], 0x1000), "for ever");
}

#[test]
fn a_block_that_another_cpu_has_just_made_notices_stores_through_an_older_translation() {
    let (_, mut cpus, first) = pair();
    program(&mut cpus[1], &[1, 0x101, 0]);
    for (cpu, at) in cpus.iter_mut().zip([0x1800, 0x1004]) {
        (cpu.core().slots[8], cpu.core().slots[1]) = (at, 0x150);
    }
    // A translation for writing the page, while there is no code there.
    store(&mut cpus[1], 0x1ffc, 1);
    let mut once = true;
    let happens = move || {
        if std::mem::take(&mut once) {
            // SAFETY: nobody else uses the first CPU, which lives as long as this is called.
            assert_eq!(unsafe { &mut *first }.sum(0x1000), 1);
        }
    };
    cpus[1].0.cpu.on_fetch = Some(Box::new(happens));
    assert_eq!(cpus[1].sum(0x1000), 0x50);
    assert_eq!(cpus[0].stats().compiled, 1);
}

#[test]
fn a_store_through_a_translation_from_before_there_was_code_is_found_when_the_page_settles() {
    let (_, mut cpus, _) = pair();
    program(&mut cpus[0], &[0x101, 0x101, 0]);
    store(&mut cpus[1], 0x1ffc, 1);
    assert_eq!(cpus[0].sum(0x1000), 2);
    // It has not heard of the code yet, and nobody of its stores.
    store(&mut cpus[1], 0x1000, 0x120);
    assert_eq!(cpus[0].sum(0x1000), 0x21);
    store(&mut cpus[1], 0x1000, 0x110);
    peers::read_mail(cpus[1].core());
    assert_eq!(cpus[0].sum(0x1000), 0x11);
    // It has heard now: it has no such translation any more.
    store(&mut cpus[1], 0x1004, 0x110);
    assert_eq!(cpus[0].sum(0x1000), 0x20);
    assert_eq!(cpus[0].sum(0x1000), 0x20);
    let stats = cpus[0].stats();
    // The last run found it in the jump cache or the table, without a comparison.
    assert_eq!((stats.compiled, stats.stepped), (4, 0), "{stats:?}");
}

/// Where [`way_to`] puts it.
fn way_to_made(at: u64) -> u64 {
    (PAGES + 1 + at / 4096) * 4096 + at % 4096
}

/// A block on another page that goes to `at`, which it finds in the jump cache the second time: a link does not leave its page.
fn way_to(cpu: &mut Cpu, at: u64) -> u64 {
    let from = way_to_made(at);
    cpu.0.machine().put32(from as usize, 0x10000 | at as u32 & 0xffff);
    from
}

#[test]
fn dropped_blocks_leave_the_jump_caches_of_all_who_had_them() {
    // One, more than are told of one by one, and all that there are.
    for count in [1, 100, 300] {
        let (_, mut cpus, _) = pair();
        let place = |i: u64| 0x1000 + i % 2 * 4096 + 8 * (i / 2 % 200);
        for i in 0..count {
            cpus[0].0.machine().put32(place(i) as usize, 0x101);
            cpus[0].0.machine().put32(place(i) as usize + 4, 0);
        }
        for i in 0..count {
            let way = way_to(&mut cpus[0], place(i));
            for cpu in [0, 1, 1] {
                assert_eq!(cpus[cpu].sum(way), 1);
            }
        }
        let before = cpus[1].stats();
        (0..count).for_each(|i| assert_eq!(cpus[1].sum(way_to_made(place(i))), 1));
        assert_eq!(cpus[1].stats().found - before.found, count, "only the first block is looked up");
        (0..count).for_each(|i| store(&mut cpus[0], place(i), 0x103));
        (0..count).for_each(|i| assert_eq!(cpus[1].sum(way_to_made(place(i))), 3, "{i} of {count}"));
    }
}

#[test]
fn a_cpu_that_could_not_be_told_of_every_page_runs_no_stale_code() {
    let (code, mut cpus, _) = pair();
    // Translations for writing all pages, before there is code.
    (1..=PAGES).for_each(|page| store(&mut cpus[1], page * 4096 + 0xffc, 1));
    (1..=PAGES).for_each(|page| assert_eq!(cpus[0].sum(page * 4096), BLOCKS));
    // More news than anybody keeps.
    for i in 0..2000 {
        let _ = code.peers.protect(0, 0x5000_0000 + i * 4096);
    }
    peers::read_mail(cpus[1].core());
    for page in 1..=PAGES {
        store(&mut cpus[1], page * 4096, 0x105);
        assert_eq!(cpus[0].sum(page * 4096), BLOCKS + 4);
        assert_eq!(cpus[0].sum(page * 4096), BLOCKS + 4);
    }
    assert!(code.lock().table.doubts.is_empty(), "compared for ever");
    // What it had not heard of is still there.
    assert!(cpus[0].stats().compiled <= PAGES * (BLOCKS + 1), "{:?}", cpus[0].stats());
}

#[test]
fn memory_that_a_device_changed_is_run_as_it_is_by_every_cpu() {
    let (code, mut cpus, _) = pair();
    for round in 1..50u64 {
        let page = 1 + round % PAGES;
        cpus[0].0.machine().put32((page * 4096) as usize, 0x100 + round as u32);
        code.changed(page * 4096);
        for cpu in &mut cpus {
            peers::read_mail(cpu.core());
            assert_eq!(cpu.sum(page * 4096), BLOCKS - 1 + round);
        }
    }
}

#[test]
fn links_are_what_the_table_says_after_several_cpus_have_rewritten_and_run_the_same_blocks() {
    const ROUNDS: u64 = 4000;
    let (code, mut cpus) = machine(96 << 10, 3);
    at_once(&mut cpus, |number, cpu| {
        let mut random = number as u64 + 1;
        for _ in 0..ROUNDS {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (page, block) = (1 + (random >> 33) % PAGES, (random >> 45) % BLOCKS);
            let at = page * 4096 + 8 * block;
            if random >> 60 < 5 {
                store(cpu, at, 0x101);
            } else {
                assert_eq!(cpu.sum(at), BLOCKS - block);
            }
        }
    });
    code.lock().check();
    assert!(cpus.iter_mut().all(|cpu| cpu.stats().killed > 0 && cpu.stats().compiled > 0));
}

/// Lets `happens` be done while the CPU lowers its next instruction, once.
fn while_lowering(cpu: &mut Cpu, happens: impl FnOnce() + 'static) {
    let happens = std::cell::Cell::new(Some(happens));
    cpu.0.cpu.lowering = Some(Box::new(move |out, word, pc| {
        if let Some(happens) = happens.take() {
            happens();
        }
        lower(out, word, pc);
    }));
}

#[test]
fn code_that_another_cpu_writes_while_it_is_compiled_is_not_run_as_it_was() {
    let (code, mut cpus, first) = pair();
    program(&mut cpus[1], &[0x101, 0x101, 0]);
    while_lowering(&mut cpus[1], move || {
        // SAFETY: nobody else uses the first CPU, which lives as long as this is called.
        store(unsafe { &mut *first }, 0x1004, 0x110);
    });
    assert_eq!(cpus[1].sum(0x1000), 0x11);
    code.lock().check();
}

#[test]
fn a_block_whose_page_another_cpu_has_forgotten_meanwhile_is_dropped_by_a_device_all_the_same() {
    let (code, mut cpus, first) = pair();
    program(&mut cpus[1], &[0x101, 0x101, 0]);
    while_lowering(&mut cpus[1], move || {
        // SAFETY: as above.
        let first = unsafe { &mut *first };
        crate::cache::drop_all(first.core());
        // It has no translation for writing the page: the block need not be compared with memory.
        peers::rest(first.core());
    });
    assert_eq!(cpus[1].sum(0x1000), 2);
    cpus[1].0.machine().put32(0x1000, 0x110);
    code.changed(0x1000);
    assert_eq!(cpus[1].sum(0x1000), 0x11);
}

#[test]
fn a_block_that_was_dropped_while_it_ran_is_not_linked() {
    let (code, mut cpus, first) = pair();
    // Goes on to a block that reads the device and goes on to a third one.
    program(&mut cpus[1], &[0x11010, 0, 0, 0, 7, 0x11100]);
    (0x1100..).step_by(4).zip([0x101, 0]).for_each(|(at, word)| cpus[1].0.machine().put32(at, word));
    cpus.iter_mut().for_each(|cpu| cpu.core().slots[9] = 0x4000);
    // The first one has linked them, so that the second does not count as one who has to be told.
    peers::rest(cpus[1].core());
    (0..2).for_each(|_| assert_eq!(cpus[0].sum(0x1000), 1));
    cpus[1].0.cpu.pages[4].gpa = DEVICE;
    // SAFETY: as above.
    let happens = move || store(unsafe { &mut *first }, 0x1010, 7);
    cpus[1].0.machine().on_read = Some(Box::new(happens));
    assert_eq!(cpus[1].sum(0x1000), 1);
    assert_eq!(cpus[1].stats().compiled, 0);
    code.lock().check();
}

#[test]
fn dropping_everything_empties_the_jump_caches_of_all() {
    let (_, mut cpus, _) = pair();
    let way = way_to(&mut cpus[0], 0x1000);
    (0..3).for_each(|_| cpus.iter_mut().for_each(|cpu| assert_eq!(cpu.sum(way), BLOCKS)));
    crate::cache::drop_all(cpus[0].core());
    cpus[0].0.machine().put32(0x1000, 0x103);
    cpus.iter_mut().for_each(|cpu| assert_eq!(cpu.sum(way), BLOCKS + 2));
}

#[test]
fn a_region_that_another_cpu_has_emptied_is_not_run_any_more_by_who_fills_it_again() {
    let (_, mut cpus) = machine(16 << 10, 2);
    let first = &raw mut cpus[0];
    // The first code there is, known to the second CPU's jump cache; and what that goes there from, looking at nothing in between.
    let (old, new, way) = (0xe000, 0xd000, 0xf000);
    for (at, word) in
        [(old, 0x101), (old + 4, 0), (new, 7), (new + 4, 0x102), (new + 8, 0x10000 | old as u32)]
    {
        cpus[1].0.machine().put32(at as usize, word);
    }
    for (at, word) in [(way, 0x10000 | old as u32), (way + 8, 0x10000 | new as u32)] {
        cpus[1].0.machine().put32(at as usize, word);
    }
    for at in [old, way, way] {
        assert_eq!(cpus[1].sum(at), 1);
    }
    peers::wake(cpus[1].core());
    cpus[1].core().slots[9] = 0x4000;
    cpus[1].0.cpu.pages[4].gpa = DEVICE;
    let mut read = false;
    let happens = move || assert!(!std::mem::replace(&mut read, true), "the new code instead of the old");
    cpus[1].0.machine().on_read = Some(Box::new(happens));
    let mut once = true;
    let happens = move || {
        if std::mem::take(&mut once) {
            // SAFETY: nobody else uses the first CPU, which lives as long as this is called.
            let first = unsafe { &mut *first };
            (1..=PAGES).for_each(|page| assert_eq!(first.sum(page * 4096), BLOCKS));
            assert_eq!(first.stats().flushes, 0);
        }
    };
    // While it fetches what it has not run before, the other one fills the cache and empties the first region.
    crate::mmu::flush_page(cpus[1].core(), new);
    cpus[1].0.cpu.on_fetch = Some(Box::new(happens));
    assert_eq!(cpus[1].sum(way + 8), 3);
    assert_eq!(cpus[1].stats().flushes, 1, "{:?}", cpus[1].stats());
}
