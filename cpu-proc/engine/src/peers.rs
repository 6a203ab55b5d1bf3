//! Code that several CPUs have compiled from the same memory.
//!
//! Each CPU has a code cache of its own. [`Peers`] is what they share: which host pages hold compiled code of which CPU, which bytes of
//! them, and an inbox for each CPU.
//!
//! *A page gets its first code.* Other CPUs may have a translation for writing it, by which a store would not be noticed. They are told to
//! drop it, and until each has done so the page is *unsettled*: blocks of it run, but are not linked and not cached, and their bytes are
//! compared each time they are looked up and once more when the page settles. A CPU that sleeps or is stopped counts as having done it,
//! because it reads its inbox before it does anything else. Nobody waits for anybody.
//!
//! *A store to code.* The page is in no TLB for writing, so the store comes here: after it is done, the CPUs whose blocks were made from
//! these bytes find it in their inbox, and their attention is drawn before any later store of the writer. They read it before
//! an interrupt is acted on and at the end of every block that ends in an instruction which serialises.
//!
//! *A block is made.* Its bytes are copied before they are decoded, the copy is what is decoded, its place is noted, and then the copy is
//! compared with memory: a store either finds the place noted or is found by the comparison.

use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::alloc::insist;
use crate::blocks::{self, BlockId, FastMap};
use crate::engine::Engine;
use crate::guest::Gpa;
use crate::mmu::{self, PAGE_SIZE};
use crate::state::CoreState;

/// Most CPUs of a machine.
pub const MOST: usize = 256;
/// Entries of the table that tells at once whether a page may hold code; pages share one only when they are this many apart.
const MARKS: usize = 1 << 20;
/// Longest inbox; more news than that is news of everything.
const INBOX: usize = 1024;

/// A set of CPUs.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Set([u64; MOST / 64]);

impl Set {
    fn insert(&mut self, cpu: usize) {
        self.0[cpu / 64 % 4] |= 1 << (cpu % 64);
    }
    /// Whether it was there.
    fn remove(&mut self, cpu: usize) -> bool {
        let (word, bit) = (&mut self.0[cpu / 64 % 4], 1 << (cpu % 64));
        let was = *word & bit != 0;
        *word &= !bit;
        was
    }
    fn has(&self, cpu: usize) -> bool {
        self.0[cpu / 64 % 4] >> (cpu % 64) & 1 != 0
    }
    fn is_empty(&self) -> bool {
        self.0 == [0; MOST / 64]
    }
}

/// Code on one host page.
struct Page {
    /// CPUs with code of it.
    holders: Set,
    /// CPUs that may still have a translation for writing it.
    unsettled: Set,
    /// A bit for each byte that a block of some CPU was made from.
    covered: [u64; PAGE_SIZE as usize / 64],
}

/// What a CPU is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Note {
    /// The host page holds code: drop translations for writing it.
    Protect(u64),
    /// All others have done that.
    Settled(u64),
    /// The bytes at this host address were written.
    Wrote(u64, u32),
    /// Memory behind this physical page has changed, but not that on the host page `.1`.
    Changed(Gpa, Option<u64>),
}

struct Inbox {
    notes: Vec<Note>,
    /// There was more than could be kept.
    everything: bool,
    /// The CPU runs no guest code, and reads this before it does.
    idle: bool,
}

struct Member {
    inbox: Mutex<Inbox>,
    /// Nonzero: there is something in the inbox.
    mail: AtomicU32,
    /// [`CoreState::attention`] of the CPU.
    attention: AtomicPtr<AtomicPtr<AtomicU32>>,
}

/// What the CPUs of a machine share of each other's code.
pub struct Peers {
    members: Box<[Member]>,
    pages: Mutex<FastMap<u64, Page>>,
    marks: Box<[AtomicU8]>,
}

/// One CPU's part, in its engine.
pub(crate) struct Membership {
    peers: Arc<Peers>,
    me: usize,
    /// Host pages of which this CPU has, or is about to have, code; whether they are settled.
    held: FastMap<u64, bool>,
    /// What blocks on unsettled pages were made from.
    doubts: FastMap<BlockId, Box<[u8]>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peers {
    /// For `cpus` CPUs, at most [`MOST`].
    pub fn new(cpus: usize) -> Arc<Peers> {
        let member = |_| Member {
            inbox: Mutex::new(Inbox { notes: Vec::new(), everything: false, idle: true }),
            mail: AtomicU32::new(0),
            attention: AtomicPtr::new(std::ptr::null_mut()),
        };
        Arc::new(Peers {
            members: (0..cpus.min(MOST)).map(member).collect(),
            pages: Mutex::default(),
            marks: (0..MARKS).map(|_| AtomicU8::new(0)).collect(),
        })
    }

    /// Makes CPU `me`, which has an engine, one of them. A CPU joins once and before it runs.
    ///
    /// # Safety
    /// The CPU lives as long as any of the others run.
    pub unsafe fn join(self: &Arc<Peers>, me: usize, core: &mut CoreState) {
        if let Some(member) = self.members.get(me) {
            member.attention.store((&raw const core.attention).cast_mut(), Ordering::Release);
        }
        let membership =
            Membership { peers: self.clone(), me, held: FastMap::default(), doubts: FastMap::default() };
        Engine::of(core).peers = Some(Box::new(membership));
    }

    /// Tells every CPU that memory behind this physical page was changed by something that is none of them.
    pub fn changed(&self, gpa: Gpa) {
        for cpu in 0..self.members.len() {
            self.post(cpu, Note::Changed(gpa, None));
        }
    }

    fn mark(&self, page: u64) -> Option<&AtomicU8> {
        self.marks.get((page / PAGE_SIZE) as usize % MARKS)
    }

    fn marked(&self, page: u64) -> bool {
        self.mark(page).is_some_and(|mark| mark.load(Ordering::SeqCst) != 0)
    }

    /// Whether the CPU runs guest code, so that it acts on the note only some time later.
    fn post(&self, to: usize, note: Note) -> bool {
        let Some(member) = self.members.get(to) else { return false };
        let mut inbox = lock(&member.inbox);
        if inbox.notes.len() >= INBOX {
            inbox.everything = true;
            inbox.notes.clear();
        }
        if !inbox.everything {
            inbox.notes.push(note);
        }
        member.mail.store(1, Ordering::SeqCst);
        let attention = member.attention.load(Ordering::Acquire);
        if !inbox.idle && !attention.is_null() {
            // SAFETY: `join` promises that the CPU lives; the field is only accessed atomically.
            insist(unsafe { &*attention });
        }
        !inbox.idle
    }

    /// CPU `me` is about to have code of `page`, or has it already; whether the page is settled.
    fn hold(&self, me: usize, page: u64) -> bool {
        let mut pages = lock(&self.pages);
        let entry = pages.entry(page).or_insert_with(|| {
            if let Some(mark) = self.mark(page) {
                mark.fetch_add(1, Ordering::SeqCst);
            }
            let mut unsettled = Set::default();
            for cpu in (0..self.members.len()).filter(|cpu| *cpu != me) {
                if self.post(cpu, Note::Protect(page)) {
                    unsettled.insert(cpu);
                }
            }
            Page { holders: Set::default(), unsettled, covered: [0; PAGE_SIZE as usize / 64] }
        });
        entry.holders.insert(me);
        entry.unsettled.is_empty()
    }

    fn release(&self, me: usize, page: u64) {
        let mut pages = lock(&self.pages);
        let Some(entry) = pages.get_mut(&page) else { return };
        entry.holders.remove(me);
        if entry.holders.is_empty() {
            pages.remove(&page);
            if let Some(mark) = self.mark(page) {
                mark.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    fn cover(&self, at: u64, len: u64) {
        if let Some(page) = lock(&self.pages).get_mut(&(at & !(PAGE_SIZE - 1))) {
            for byte in bytes_of_page(at, len) {
                page.covered[byte / 64] |= 1 << (byte % 64);
            }
        }
    }

    /// `me` has written `size` bytes of a page that may hold code.
    fn wrote(&self, me: usize, at: u64, size: u32) {
        let pages = lock(&self.pages);
        let Some(page) = pages.get(&(at & !(PAGE_SIZE - 1))) else { return };
        if !bytes_of_page(at, size.into()).any(|byte| page.covered[byte / 64] >> (byte % 64) & 1 != 0) {
            return;
        }
        for cpu in (0..self.members.len()).filter(|cpu| *cpu != me && page.holders.has(*cpu)) {
            self.post(cpu, Note::Wrote(at, size));
        }
    }

    /// `me` has no translation for writing `page` any more, or of any page.
    fn protected(&self, me: usize, page: Option<u64>) {
        let mut pages = lock(&self.pages);
        let settle = |at: u64, page: &mut Page| {
            if page.unsettled.remove(me) && page.unsettled.is_empty() {
                for cpu in (0..self.members.len()).filter(|cpu| page.holders.has(*cpu)) {
                    self.post(cpu, Note::Settled(at));
                }
            }
        };
        match page {
            Some(at) => {
                if let Some(page) = pages.get_mut(&at) {
                    settle(at, page);
                }
            }
            None => pages.iter_mut().for_each(|(at, page)| settle(*at, page)),
        }
    }

    /// Takes the inbox of `me`: its notes, and whether some are missing. `idle` becomes its state if there is nothing.
    fn take(&self, me: usize, idle: Option<bool>) -> Option<(Vec<Note>, bool)> {
        let member = self.members.get(me)?;
        let mut inbox = lock(&member.inbox);
        if idle == Some(false) {
            inbox.idle = false;
        }
        if inbox.notes.is_empty() && !inbox.everything {
            inbox.idle = idle.unwrap_or(inbox.idle);
            return None;
        }
        member.mail.store(0, Ordering::SeqCst);
        Some((std::mem::take(&mut inbox.notes), std::mem::take(&mut inbox.everything)))
    }
}

/// Offsets in its page of the bytes at `at`, not beyond its end.
fn bytes_of_page(at: u64, len: u64) -> std::ops::Range<usize> {
    let start = (at % PAGE_SIZE) as usize;
    start..start.saturating_add(len as usize).min(PAGE_SIZE as usize)
}

fn membership(core: &mut CoreState) -> Option<&mut Membership> {
    blocks::engine(core)?.peers.as_deref_mut()
}

/// Whether the CPU has peers.
pub(crate) fn any(core: &mut CoreState) -> bool {
    membership(core).is_some()
}

/// Whether some other CPU may have code on the host page.
pub(crate) fn hold_code(core: &mut CoreState, page: u64) -> bool {
    membership(core).is_some_and(|m| m.peers.marked(page))
}

/// Before the bytes of a host page are read to be compiled.
pub(crate) fn hold(core: &mut CoreState, page: u64) {
    if let Some(m) = membership(core)
        && !m.held.contains_key(&page)
    {
        let settled = m.peers.hold(m.me, page);
        m.held.insert(page, settled);
    }
}

/// Lets go of the host page if no block of it is left.
pub(crate) fn let_go(core: &mut CoreState, page: u64) {
    if let Some(engine) = blocks::engine(core)
        && let Some(m) = engine.peers.as_deref_mut()
        && !engine.table.holds_code(page)
        && m.held.remove(&page).is_some()
    {
        m.peers.release(m.me, page);
    }
}

/// A block is gone.
pub(crate) fn forget(core: &mut CoreState, id: BlockId, pages: [u64; 2]) {
    if let Some(m) = membership(core) {
        m.doubts.remove(&id);
        pages.into_iter().for_each(|page| let_go(core, page));
    }
}

/// All blocks are gone.
pub(crate) fn forget_all(core: &mut CoreState) {
    if let Some(m) = membership(core) {
        m.doubts.clear();
        let held = std::mem::take(&mut m.held);
        held.into_keys().for_each(|page| m.peers.release(m.me, page));
    }
}

/// A store has changed `size` bytes at `host`, on a page that may hold code.
pub(crate) fn wrote(core: &mut CoreState, host: *mut u8, size: u32) {
    if let Some(m) = membership(core) {
        fence(Ordering::SeqCst);
        let at = host as u64;
        if m.peers.marked(at) {
            m.peers.wrote(m.me, at, size);
        }
    }
}

/// Memory that is hidden behind physical page `gpa`, and not on host page `except`, may have been written.
pub(crate) fn wrote_hidden(core: &mut CoreState, gpa: Gpa, except: u64) {
    if let Some(m) = membership(core) {
        for cpu in (0..m.peers.members.len()).filter(|cpu| *cpu != m.me) {
            m.peers.post(cpu, Note::Changed(gpa, Some(except)));
        }
    }
}

/// The bytes of a block: host address and length on its first page and on the second.
fn pieces(core: &mut CoreState, id: BlockId) -> Option<[(u64, u64); 2]> {
    let block = blocks::engine(core)?.table.blocks.get(id as usize)?;
    let (host, len) = (block.ident.host, u64::from(block.len));
    let first = (PAGE_SIZE - host % PAGE_SIZE).min(len);
    Some([(host, first), (block.second_page, if block.second_page == 0 { 0 } else { len - first })])
}

fn is_still(core: &mut CoreState, id: BlockId, bytes: &[u8]) -> bool {
    let Some(pieces) = pieces(core, id) else { return false };
    let places = pieces.into_iter().flat_map(|(at, len)| at..at + len);
    // SAFETY: the addresses of the block's bytes, in pages of memory that stay mapped; others may write them meanwhile.
    places.zip(bytes).all(|(at, byte)| unsafe { (at as *const u8).read_volatile() } == *byte)
}

/// A block has been made from `bytes`; false when memory has other bytes by now. `None` without peers.
pub(crate) fn made(core: &mut CoreState, id: BlockId, bytes: Option<&[u8]>) -> bool {
    if !any(core) {
        return true;
    }
    let (Some(pieces), Some(bytes)) = (pieces(core, id), bytes) else { return false };
    let mut settled = true;
    if let Some(m) = membership(core) {
        for (at, len) in pieces.into_iter().filter(|(_, len)| *len != 0) {
            m.peers.cover(at, len);
            settled &= m.held.get(&(at & !(PAGE_SIZE - 1))).copied().unwrap_or(false);
        }
    }
    fence(Ordering::SeqCst);
    if !is_still(core, id, bytes) {
        return false;
    }
    if !settled && let Some(m) = membership(core) {
        m.doubts.insert(id, bytes.into());
    }
    true
}

/// Whether the block is on an unsettled page: nothing may lead to it past [`holds`].
pub(crate) fn doubtful(core: &mut CoreState, id: BlockId) -> bool {
    membership(core).is_some_and(|m| !m.doubts.is_empty() && m.doubts.contains_key(&id))
}

/// Whether a block, doubtful or not, is as it was made.
pub(crate) fn holds(core: &mut CoreState, id: BlockId) -> bool {
    let Some(bytes) = membership(core).and_then(|m| m.doubts.remove(&id)) else { return true };
    let same = is_still(core, id, &bytes);
    if let Some(m) = membership(core) {
        m.doubts.insert(id, bytes);
    }
    same
}

/// All of the page's blocks were compared for the last time, unless they end on one that is not settled.
fn settled(core: &mut CoreState, page: u64) {
    let Some(m) = membership(core) else { return };
    let Some(known) = m.held.get_mut(&page) else { return };
    *known = true;
    let doubted: Vec<BlockId> = m.doubts.keys().copied().collect();
    for id in doubted {
        let Some(pieces) = pieces(core, id) else { continue };
        let pages = pieces.map(|(at, _)| at & !(PAGE_SIZE - 1));
        if !pages.contains(&page) {
            continue;
        }
        if !holds(core, id) {
            blocks::kill(core, id);
        } else if let Some(m) = membership(core)
            && pages.iter().all(|page| *page == 0 || m.held.get(page) == Some(&true))
        {
            m.doubts.remove(&id);
        }
    }
}

fn act(core: &mut CoreState, (notes, everything): (Vec<Note>, bool)) {
    if everything {
        crate::dispatch::flush_code(core);
        mmu::flush_all(core);
        if let Some(m) = membership(core) {
            m.peers.protected(m.me, None);
        }
    }
    for note in notes {
        match note {
            Note::Protect(page) => {
                mmu::protect(core, page);
                if let Some(m) = membership(core) {
                    m.peers.protected(m.me, Some(page));
                }
            }
            Note::Settled(page) => settled(core, page),
            Note::Wrote(at, size) => blocks::written(core, at as *mut u8, size),
            Note::Changed(gpa, except) => blocks::changed(core, gpa, except),
        }
    }
}

/// Acts on what others have said. Not while generated code is on the stack.
pub(crate) fn read_mail(core: &mut CoreState) {
    while let Some(m) = membership(core)
        && m.peers.members.get(m.me).is_some_and(|member| member.mail.load(Ordering::SeqCst) != 0)
        && let Some(mail) = m.peers.take(m.me, None)
    {
        act(core, mail);
    }
}

/// The CPU is about to run guest code.
pub(crate) fn wake(core: &mut CoreState) {
    while let Some(m) = membership(core)
        && let Some(mail) = m.peers.take(m.me, Some(false))
    {
        act(core, mail);
    }
}

/// The CPU runs no guest code until [`wake`].
pub(crate) fn rest(core: &mut CoreState) {
    while let Some(m) = membership(core)
        && let Some(mail) = m.peers.take(m.me, Some(true))
    {
        act(core, mail);
    }
}
