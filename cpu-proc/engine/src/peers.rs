//! What the CPUs of a machine tell each other about the code that they share.
//!
//! All CPUs run the same compiled code ([`Code`]). Translations and jump caches are each one's own, so a CPU that changes something
//! of the code puts a note into the inboxes of the others. Nobody waits for anybody.
//!
//! *A page gets its first code.* Other CPUs may have a translation for writing it, by which a store would not be noticed. They are told to
//! drop it, and until each has done so the page is *unsettled*: blocks of it run, but are not linked and not cached, and their bytes are
//! compared each time they are looked up and once more when the page settles. A CPU that is itself asked to drop a translation does so
//! before it runs such a block. One that sleeps or is stopped counts as having done it, because it reads its inbox before it does anything
//! else.
//!
//! *A store to code.* The page is in no TLB for writing, so the store comes here: after it is done, the blocks that were made from
//! these bytes are dropped, the CPUs that may have them in their jump caches find that in their inbox, and their attention is drawn before
//! any later store of the writer. They read it before an interrupt is acted on and at the end of every block that ends in an instruction
//! which serialises.
//!
//! *A page loses its last code.* A CPU may still run what was dropped, and a store of it to its own bytes must be noticed. The page stays one
//! with code until every CPU has come by.
//!
//! *A device writes to code.* Whoever hears of it first drops the blocks, as with a store.
//!
//! *A block is made.* Its bytes are copied before they are decoded, the copy is what is decoded, the block is entered into the table, and
//! then the copy is compared with memory: a store either finds the block or is found by the comparison.
//!
//! *Code is used for something else.* A part of the code buffer whose blocks have been dropped is filled again when every CPU has come by:
//! read its inbox at a time after that, outside generated code. Times are numbers of [`Peers::tick`], and one is taken only after everybody
//! has been told: a CPU that has come by since then knows no way to what was dropped.

use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::alloc::insist;
use crate::blocks;
use crate::cache::Code;
use crate::mmu;
use crate::state::CoreState;

/// Most CPUs of a machine.
pub const MOST: usize = 256;
/// Longest inbox; more news than that is news of everything.
const INBOX: usize = 1024;
/// Of these, most that are about single blocks: more are as good as all.
const BLOCKS: usize = 64;

/// A set of CPUs.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Set([u64; MOST / 64]);

impl Set {
    fn insert(&mut self, cpu: usize) {
        self.0[cpu / 64 % 4] |= 1 << (cpu % 64);
    }
    /// Whether it was there.
    pub fn remove(&mut self, cpu: usize) -> bool {
        let (word, bit) = (&mut self.0[cpu / 64 % 4], 1 << (cpu % 64));
        let was = *word & bit != 0;
        *word &= !bit;
        was
    }
    pub fn is_empty(&self) -> bool {
        self.0 == [0; MOST / 64]
    }
}

/// What a CPU is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Note {
    /// The host page holds code: drop translations for writing it.
    Protect(u64),
    /// The block of this pc at this address is gone.
    Gone(u64, u64),
}

#[derive(Default)]
struct Inbox {
    notes: Vec<Note>,
    /// How many of them are about single blocks.
    blocks: usize,
    /// Many blocks are gone.
    jumps: bool,
    /// There was more than could be kept.
    everything: bool,
    /// The CPU runs no guest code, and reads this before it does.
    idle: bool,
}

struct Member {
    inbox: Mutex<Inbox>,
    /// Nonzero: there is something in the inbox.
    mail: AtomicU32,
    /// Time at which the inbox was read last, outside generated code.
    seen: AtomicU64,
    /// [`CoreState::attention`] of the CPU.
    attention: AtomicPtr<AtomicPtr<AtomicU32>>,
}

/// The inboxes of all CPUs.
pub(crate) struct Peers {
    members: Box<[Member]>,
    time: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peers {
    /// For `cpus` CPUs, at most [`MOST`].
    pub fn new(cpus: usize) -> Peers {
        let member = |_| Member {
            inbox: Mutex::new(Inbox { idle: true, ..Inbox::default() }),
            mail: AtomicU32::new(0),
            seen: AtomicU64::new(0),
            attention: AtomicPtr::new(std::ptr::null_mut()),
        };
        Peers { members: (0..cpus.clamp(1, MOST)).map(member).collect(), time: AtomicU64::new(0) }
    }

    /// Whether there is but one CPU.
    pub fn is_sole(&self) -> bool {
        self.members.len() == 1
    }

    /// Where the CPU looks whether it is to leave generated code.
    pub fn connect(&self, me: usize, attention: *const AtomicPtr<AtomicU32>) {
        if let Some(member) = self.members.get(me) {
            member.attention.store(attention.cast_mut(), Ordering::Release);
        }
    }

    /// A new time: whoever reads his inbox from now on has seen what was posted before.
    pub fn tick(&self) -> u64 {
        self.time.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Whether every CPU but `me` has come by since `time`, or runs nothing.
    pub fn came_by(&self, me: Option<usize>, time: u64) -> bool {
        let mut others = self.members.iter().enumerate().filter(|(cpu, _)| Some(*cpu) != me);
        others.all(|(_, m)| m.seen.load(Ordering::SeqCst) >= time || lock(&m.inbox).idle)
    }

    /// Whether the CPU runs guest code, so that it acts on the note only some time later.
    fn post(&self, to: usize, put: impl Fn(&mut Inbox)) -> bool {
        let Some(member) = self.members.get(to) else { return false };
        let mut inbox = lock(&member.inbox);
        put(&mut inbox);
        member.mail.store(1, Ordering::SeqCst);
        let attention = member.attention.load(Ordering::Acquire);
        if !inbox.idle && !attention.is_null() {
            // SAFETY: `Code::join` promises that the CPU lives; the field is only accessed atomically.
            insist(unsafe { &*attention });
        }
        !inbox.idle
    }

    fn others(&self, me: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.members.len()).filter(move |cpu| *cpu != me)
    }

    /// The host page gets its first code. Which CPUs may have a translation for writing it.
    pub fn protect(&self, me: usize, page: u64) -> Set {
        let mut unsettled = Set::default();
        for cpu in self.others(me) {
            if self.post(cpu, |inbox| inbox.put(Note::Protect(page))) {
                unsettled.insert(cpu);
            }
        }
        unsettled
    }

    /// The block is gone, that CPUs of `users` (modulo 64) may have in their jump caches.
    pub fn gone(&self, me: usize, users: u64, pc: u64, entry: u64) {
        for cpu in self.others(me).filter(|cpu| users >> (cpu % 64) & 1 != 0) {
            self.post(cpu, |inbox| {
                if inbox.blocks >= BLOCKS {
                    inbox.jumps = true;
                } else if !inbox.jumps {
                    inbox.blocks += 1;
                    inbox.put(Note::Gone(pc, entry));
                }
            });
        }
    }

    /// Many blocks are gone.
    pub fn many_gone(&self, me: usize) {
        self.others(me).for_each(|cpu| {
            self.post(cpu, |inbox| inbox.jumps = true);
        });
    }

    /// Takes the inbox of `me`. `idle` becomes its state if there is nothing.
    fn take(&self, me: usize, idle: Option<bool>) -> Option<Inbox> {
        let member = self.members.get(me)?;
        let mut inbox = lock(&member.inbox);
        if idle == Some(false) {
            inbox.idle = false;
        }
        if inbox.notes.is_empty() && !inbox.everything && !inbox.jumps {
            inbox.idle = idle.unwrap_or(inbox.idle);
            return None;
        }
        member.mail.store(0, Ordering::SeqCst);
        let empty = Inbox { idle: inbox.idle, ..Inbox::default() };
        Some(std::mem::replace(&mut inbox, empty))
    }

    /// Reads all mail of CPU `me`, outside generated code.
    fn read(&self, core: &mut CoreState, me: usize, idle: Option<bool>) {
        let time = self.time.load(Ordering::SeqCst);
        while let Some(mail) = self.take(me, idle) {
            act(core, mail);
        }
        if let Some(member) = self.members.get(me)
            && member.seen.load(Ordering::Relaxed) < time
        {
            member.seen.store(time, Ordering::SeqCst);
        }
    }
}

impl Inbox {
    fn put(&mut self, note: Note) {
        if self.notes.len() >= INBOX {
            self.everything = true;
            self.notes.clear();
        }
        if !self.everything {
            self.notes.push(note);
        }
    }
}

fn act(core: &mut CoreState, mail: Inbox) {
    let Some((code, me)) = Code::of(core) else { return };
    if mail.everything {
        mmu::flush_all(core);
        code.protected(me, None);
    }
    if mail.jumps || mail.everything {
        blocks::clear_jumps(core);
    }
    for note in mail.notes {
        match note {
            Note::Protect(page) => {
                mmu::protect(core, page);
                code.protected(me, Some(page));
            }
            Note::Gone(pc, entry) => blocks::forget_jump(core, pc, entry),
        }
    }
}

/// Acts on what others have said. Not while generated code is on the stack.
pub(crate) fn read_mail(core: &mut CoreState) {
    let Some((code, me)) = Code::of(core) else { return };
    let peers = &code.peers;
    let news = |member: &Member| {
        member.mail.load(Ordering::SeqCst) != 0
            || member.seen.load(Ordering::Relaxed) != peers.time.load(Ordering::SeqCst)
    };
    if peers.members.get(me).is_some_and(news) {
        peers.read(core, me, None);
    }
}

/// The CPU is about to run guest code.
pub(crate) fn wake(core: &mut CoreState) {
    if let Some((code, me)) = Code::of(core) {
        code.peers.read(core, me, Some(false));
    }
}

/// The CPU runs no guest code until [`wake`].
pub(crate) fn rest(core: &mut CoreState) {
    if let Some((code, me)) = Code::of(core) {
        code.peers.read(core, me, Some(true));
    }
}
