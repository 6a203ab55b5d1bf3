//! Model of the doorbell of `bus::bell`: every interleaving of one sleeper with one or two wakers is tried, on a machine
//! that delays plain stores in a buffer as x86 does. A run that ends with the sleeper asleep and work waiting is a lost wake-up.
//!
//! Two controls show that the model finds what really happened to earlier designs: an index published with a plain store,
//! and a futex word other than the sleep flag.

use std::collections::{HashSet, VecDeque};

/// Which protocol the wakers and the sleeper follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    /// The one of `bus::bell`.
    Bell,
    /// The waker publishes its index with a plain store.
    PlainStore,
    /// The sleeper waits on the index, the flag only says that it does.
    FutexOnIndex,
}

/// Words in shared memory: the sleep flag, then an index for each waker.
const FLAG: usize = 0;
const WAKERS: usize = 2;
const WORDS: usize = 1 + WAKERS;
/// Thread 0 is the sleeper.
const SLEEPER: usize = 0;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Thread {
    /// Next step; see `step`.
    at: u8,
    /// Stores that memory has not seen yet: (word, value), oldest first.
    buffer: VecDeque<(usize, u8)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    memory: [u8; WORDS],
    threads: Vec<Thread>,
    /// What the sleeper has consumed of each index.
    consumed: [u8; WAKERS],
    /// The sleeper waits in the kernel.
    asleep: bool,
    /// What each waker has sent.
    sent: [u8; WAKERS],
}

struct Model {
    protocol: Protocol,
    wakers: usize,
    /// Items that each waker sends.
    items: u8,
}

impl Model {
    fn start(&self) -> World {
        let thread = Thread { at: 0, buffer: VecDeque::new() };
        World {
            memory: [0; WORDS],
            threads: vec![thread; 1 + self.wakers],
            consumed: [0; WAKERS],
            asleep: false,
            sent: [0; WAKERS],
        }
    }

    /// A load sees the thread's own delayed stores first.
    fn load(world: &World, thread: usize, word: usize) -> u8 {
        let buffer = &world.threads[thread].buffer;
        buffer.iter().rev().find(|(at, _)| *at == word).map_or(world.memory[word], |(_, value)| *value)
    }

    /// An exchange drains the buffer and acts on memory at once.
    fn exchange(world: &mut World, thread: usize, word: usize, value: u8) -> u8 {
        while let Some((word, value)) = world.threads[thread].buffer.pop_front() {
            world.memory[word] = value;
        }
        std::mem::replace(&mut world.memory[word], value)
    }

    fn has_work(&self, world: &World) -> bool {
        (0..self.wakers).any(|waker| Self::load(world, SLEEPER, 1 + waker) != world.consumed[waker])
    }

    fn is_done(&self, world: &World) -> bool {
        world.consumed.iter().take(self.wakers).all(|consumed| *consumed == self.items)
    }

    /// The world after the next step of a thread, `None` when it has none.
    fn step(&self, world: &World, thread: usize) -> Option<World> {
        let mut next = world.clone();
        if thread == SLEEPER {
            if world.asleep || self.is_done(world) {
                return None;
            }
            next.threads[SLEEPER].at = match world.threads[SLEEPER].at {
                // Take what there is.
                0 => {
                    for waker in 0..self.wakers {
                        next.consumed[waker] = Self::load(world, SLEEPER, 1 + waker);
                    }
                    1
                }
                // Bell::sleep: set the flag, look again, wait, clear the flag.
                1 => {
                    Self::exchange(&mut next, SLEEPER, FLAG, 1);
                    2
                }
                2 => {
                    if self.has_work(world) {
                        4
                    } else {
                        3
                    }
                }
                3 => {
                    // futex_wait compares and goes to sleep in one step.
                    next.asleep = match self.protocol {
                        Protocol::FutexOnIndex => world.memory[1] == world.consumed[0],
                        _ => world.memory[FLAG] == 1,
                    };
                    4
                }
                _ => {
                    Self::exchange(&mut next, SLEEPER, FLAG, 0);
                    0
                }
            };
            return Some(next);
        }
        let waker = thread - 1;
        next.threads[thread].at = match world.threads[thread].at {
            0 if world.sent[waker] == self.items => return None,
            0 => {
                next.sent[waker] += 1;
                let value = next.sent[waker];
                match self.protocol {
                    Protocol::PlainStore => next.threads[thread].buffer.push_back((1 + waker, value)),
                    _ => {
                        Self::exchange(&mut next, thread, 1 + waker, value);
                    }
                }
                1
            }
            // Bell::ring: load the flag, exchange it for 0, wake.
            1 => {
                if Self::load(world, thread, FLAG) == 1 {
                    2
                } else {
                    0
                }
            }
            2 => {
                if Self::exchange(&mut next, thread, FLAG, 0) == 1 {
                    3
                } else {
                    0
                }
            }
            _ => {
                next.asleep = false;
                0
            }
        };
        Some(next)
    }

    /// The world after the oldest delayed store of a thread has reached memory.
    fn drain(world: &World, thread: usize) -> Option<World> {
        let mut next = world.clone();
        let (word, value) = next.threads[thread].buffer.pop_front()?;
        next.memory[word] = value;
        Some(next)
    }

    /// Tries everything. Returns how many worlds there are and one with a lost wake-up, if there is one.
    fn explore(&self) -> (usize, Option<World>) {
        let mut seen = HashSet::new();
        let mut open = vec![self.start()];
        let mut lost = None;
        while let Some(world) = open.pop() {
            if !seen.insert(world.clone()) {
                continue;
            }
            let threads = 0..world.threads.len();
            let steps = threads.clone().filter_map(|thread| self.step(&world, thread));
            let next = steps.chain(threads.filter_map(|thread| Self::drain(&world, thread)));
            let before = open.len();
            open.extend(next);
            if open.len() == before && !self.is_done(&world) {
                lost = Some(world);
            }
        }
        (seen.len(), lost)
    }
}

#[test]
fn no_interleaving_of_the_bell_loses_a_wake_up() {
    for (wakers, items) in [(1, 1), (1, 4), (2, 1), (2, 3)] {
        let (worlds, lost) = Model { protocol: Protocol::Bell, wakers, items }.explore();
        assert_eq!(lost, None, "{wakers} wakers, {items} items");
        assert!(worlds > 10 * usize::from(items), "only {worlds} worlds were tried");
    }
}

#[test]
fn index_published_with_a_plain_store_loses_a_wake_up() {
    let (_, lost) = Model { protocol: Protocol::PlainStore, wakers: 1, items: 1 }.explore();
    let lost = lost.expect("the model must find the lost wake-up");
    assert!(lost.asleep && lost.memory[1] == 1);
}

#[test]
fn futex_on_another_word_than_the_flag_loses_a_wake_up() {
    let (_, lost) = Model { protocol: Protocol::FutexOnIndex, wakers: 1, items: 1 }.explore();
    assert_eq!(lost, None, "one item is too little to show it");
    let (_, lost) = Model { protocol: Protocol::FutexOnIndex, wakers: 1, items: 2 }.explore();
    let lost = lost.expect("the model must find the lost wake-up");
    assert!(lost.asleep && lost.memory[FLAG] == 0, "asleep with the flag cleared: {lost:?}");
}
