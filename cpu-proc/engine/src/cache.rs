//! The code cache, one for all CPUs of a machine: the compiler with its buffer, and the table of what is in it, behind one lock.
//!
//! Generated code runs without the lock, also while others add to it: what a block jumps to is changed by one aligned store,
//! and memory is used again only when every CPU has come by (`peers.rs`). The lock is taken by the dispatcher, by whoever compiles, and by
//! stores to pages with code; nobody calls the front end or the machine while it is held.

use std::cell::UnsafeCell;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU8, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bulkhead_ir::Block;

use crate::blocks;
use crate::engine::Engine;
use crate::guest::{Gpa, Helper};
use crate::jit::{Compiled, Jit};
use crate::mmu::PAGE_SIZE;
use crate::peers::Peers;
use crate::rows::Rows;
use crate::state::CoreState;
use crate::table::{BlockId, BlockInfo, Ident, LinkId, MOST_REGIONS, Made, Table};

/// Entries of the table that tells at once whether a page may hold code; pages share one only when they are this many apart.
const MARKS: usize = 1 << 20;
/// The least code in a region.
const REGION: usize = 64 << 10;
/// Stands for none of the CPUs where one is named that need not be told.
const NOBODY: usize = usize::MAX;
/// Bytes of code for each row of the side table at least.
const BYTES_A_ROW: usize = 24;

/// No marks, in memory that is taken as it is touched.
fn marks() -> Box<[AtomicU8]> {
    let bytes = Box::into_raw(vec![0u8; MARKS].into_boxed_slice());
    // SAFETY: an `AtomicU8` is laid out as a byte.
    unsafe { Box::from_raw(bytes as *mut [AtomicU8]) }
}

/// What is behind the lock.
pub(crate) struct Cache {
    pub table: Table,
    pub jit: Jit,
}

/// The compiled code of a machine, and what its CPUs tell each other about it.
pub struct Code {
    cache: UnsafeCell<Cache>,
    lock: Mutex<()>,
    /// There is but one CPU: its thread alone uses this, and no lock is needed.
    sole: bool,
    pub(crate) peers: Peers,
    pub(crate) rows: Rows,
    marks: Box<[AtomicU8]>,
    /// Address of the entry function.
    pub(crate) enter: u64,
    room: usize,
}

// SAFETY: the cache is used under the lock, or by one thread alone (`Code::join`); the rest is made to be shared.
unsafe impl Sync for Code {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl Send for Code {}

/// The lock of the cache.
pub(crate) struct Locked<'a> {
    cache: &'a UnsafeCell<Cache>,
    _guard: Option<MutexGuard<'a, ()>>,
}

impl Deref for Locked<'_> {
    type Target = Cache;
    fn deref(&self) -> &Cache {
        // SAFETY: the lock is held, or there is but one thread and nothing of it holds another `Locked`.
        unsafe { &*self.cache.get() }
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Cache {
        // SAFETY: as above.
        unsafe { &mut *self.cache.get() }
    }
}

/// A block to be compiled.
pub(crate) struct New<'a> {
    pub ident: Ident,
    /// The link that led here.
    pub link: Option<LinkId>,
    /// Host page of its end, when that is another one.
    pub second: u64,
    pub block: &'a Block,
    /// What it was lowered from, where there are several CPUs.
    pub bytes: Option<&'a [u8]>,
    pub mode: usize,
    /// Linear address minus pc.
    pub base: u64,
    /// Whether instructions are counted.
    pub counting: bool,
}

/// What came of it.
#[derive(Default)]
pub(crate) struct Outcome {
    /// The block, unless it has to be interpreted.
    pub found: Option<Found>,
    /// Bytes of code that were made.
    pub bytes: usize,
    /// Another CPU had made it.
    pub met: bool,
    /// A block, by pc and address, that has to leave the CPU's jump cache.
    pub gone: Option<(u64, u64)>,
    /// A region was emptied: the CPU's jump cache has to be, too.
    pub emptied: bool,
    /// A region that was in use before is being filled again now.
    pub reused: bool,
}

/// What came of an attempt to make room.
#[derive(Default)]
struct Room {
    /// There is some.
    made: bool,
    /// Something was there before.
    reused: bool,
    /// The CPU's jump cache has to be emptied.
    emptied: bool,
}

/// A place in generated code to go to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub id: BlockId,
    pub entry: u64,
    /// Host page of its end, when that is another one.
    pub second: u64,
    /// It may be put into the jump cache.
    pub sure: bool,
}

impl Code {
    /// For `cpus` CPUs, with `bytes` of code buffer. All memory that will be executable is made here, so create it before the process gives
    /// up the right to make more.
    ///
    /// # Errors
    /// The kernel's, or the buffer is too small.
    pub fn new(bytes: usize, cpus: usize) -> io::Result<Arc<Code>> {
        let jit = Jit::new(bytes)?;
        let free = jit.free();
        let count = (free.len() / REGION).clamp(2, MOST_REGIONS);
        let size = free.len() / count / 64 * 64;
        let regions: Vec<_> =
            (0..count).map(|i| free.start + i * size..free.start + (i + 1) * size).collect();
        let rows = size / BYTES_A_ROW;
        let table = Table::new(&regions, rows as u32);
        let peers = Peers::new(cpus);
        Ok(Arc::new(Code {
            sole: peers.is_sole(),
            peers,
            rows: Rows::new(rows * count),
            marks: marks(),
            enter: jit.enter(),
            room: bytes,
            cache: UnsafeCell::new(Cache { table, jit }),
            lock: Mutex::new(()),
        }))
    }

    /// Lets the others draw the attention of CPU `me`, which has an engine of this code. A CPU joins once and before it runs.
    ///
    /// # Safety
    /// The CPU lives as long as any of the others run. Where there is but one CPU, only the thread that runs it uses this.
    pub unsafe fn join(&self, me: usize, core: &CoreState) {
        self.peers.connect(me, &raw const core.attention);
    }

    /// Memory behind this physical page was changed by something that is none of the CPUs: what was made of it is dropped, and every CPU
    /// that may have it in its jump cache is told. For whoever is not in the middle of something with the code.
    pub fn changed(&self, gpa: Gpa) {
        let mut cache = self.lock();
        for page in cache.table.watched_as(gpa & !(PAGE_SIZE - 1)) {
            for id in cache.table.blocks_of(page) {
                self.kill(&mut cache, NOBODY, id);
            }
        }
    }

    /// Bytes that the buffer holds at most.
    pub fn room(&self) -> usize {
        self.room
    }

    /// Bytes of code in use.
    pub fn used(&self) -> usize {
        self.lock().table.used()
    }

    /// Blocks that lead somewhere, and those that keep their places until these are used again.
    pub fn blocks(&self) -> (usize, usize) {
        self.lock().table.count()
    }

    /// The code that the CPU runs, and its number; `None` when it only interprets.
    pub(crate) fn of<'a>(core: &CoreState) -> Option<(&'a Code, usize)> {
        // SAFETY: null, or the engine of this CPU. The code lives as long as that, and no caller keeps it beyond the CPU's run.
        let engine = unsafe { core.engine.cast::<Engine>().as_ref() }?;
        let code: &Arc<Code> = engine.code.as_ref()?;
        // SAFETY: as above.
        Some((unsafe { &*Arc::as_ptr(code) }, engine.me))
    }

    pub(crate) fn lock(&self) -> Locked<'_> {
        let guard = (!self.sole).then(|| self.lock.lock().unwrap_or_else(PoisonError::into_inner));
        Locked { cache: &self.cache, _guard: guard }
    }

    /// Whether there is but one CPU.
    pub(crate) fn is_sole(&self) -> bool {
        self.sole
    }

    fn mark(&self, page: u64) -> Option<&AtomicU8> {
        self.marks.get((page / PAGE_SIZE) as usize % MARKS)
    }

    /// Whether the host page may hold code.
    pub(crate) fn marked(&self, page: u64) -> bool {
        self.mark(page).is_some_and(|mark| mark.load(Ordering::SeqCst) != 0)
    }

    fn unmark(&self, page: u64) {
        if let Some(mark) = self.mark(page) {
            mark.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// CPU `me` is about to compile bytes of the host page. Whether it is the first code there, so that it has to drop its own
    /// translations for writing it.
    pub(crate) fn hold(&self, me: usize, page: u64) -> bool {
        let mut cache = self.lock();
        self.forget_bare(&mut cache);
        let fresh = cache.table.hold(page);
        if fresh {
            if let Some(mark) = self.mark(page) {
                mark.fetch_add(1, Ordering::SeqCst);
            }
            let unsettled = self.peers.protect(me, page);
            if let Some(page) = cache.table.page(page) {
                page.unsettled = unsettled;
            }
        }
        fresh
    }

    /// It has been compiled, or not.
    pub(crate) fn let_go(&self, page: u64) {
        let mut cache = self.lock();
        if cache.table.let_go(page) {
            self.bare(&mut cache, &[page]);
        }
    }

    /// The pages are without code. A CPU may still run what was made of them, and has to notice its own stores to that: they are taken for
    /// pages with code until every CPU has come by. The CPUs have been told of the blocks before, so that who comes by from now on
    /// finds no way to them.
    fn bare(&self, cache: &mut Cache, pages: &[u64]) {
        if pages.is_empty() {
            return;
        }
        let since = if self.sole { 0 } else { self.peers.tick() };
        pages.iter().for_each(|page| cache.table.bare_since(*page, since));
        self.forget_bare(cache);
    }

    /// Forgets pages without code that nobody runs what was made of.
    pub(crate) fn forget_bare(&self, cache: &mut Cache) {
        while let Some(page) = cache.table.forget_bare(|since| self.peers.came_by(None, since)) {
            page.into_iter().for_each(|page| self.unmark(page));
        }
    }

    /// CPU `me` has no translation for writing `page` any more, or of any page.
    pub(crate) fn protected(&self, me: usize, page: Option<u64>) {
        let mut cache = self.lock();
        let settled = match page {
            Some(page) => cache
                .table
                .page(page)
                .is_some_and(|page| page.unsettled.remove(me) && page.unsettled.is_empty()),
            None => {
                let all = cache.table.pages();
                all.fold(false, |settled, (_, page)| {
                    page.unsettled.remove(me) && page.unsettled.is_empty() || settled
                })
            }
        };
        if settled {
            self.settle(&mut cache, me);
        }
    }

    /// Some pages are settled: their blocks are compared for the last time, unless they end on one that is not.
    fn settle(&self, cache: &mut Cache, me: usize) {
        fence(Ordering::SeqCst);
        for id in cache.table.doubts.clone() {
            let Some(block) = cache.table.block(id).filter(|block| cache.table.is_settled(block)) else {
                continue;
            };
            if block.doubt.as_ref().is_some_and(|bytes| block.is_of(bytes)) {
                cache.table.undoubt(id);
            } else {
                self.kill(cache, me, id);
            }
        }
    }

    /// Drops a block: its pc and address, which have to leave the jump cache of `me`; the other CPUs are told.
    pub(crate) fn kill(&self, cache: &mut Cache, me: usize, id: BlockId) -> Option<(u64, u64)> {
        let block = cache.table.block(id)?;
        let (pc, entry, users) = (block.ident.pc, block.entry, block.users);
        cache.cut_off(id).then(|| {
            self.peers.gone(me, users, pc, entry);
            let pages = cache.table.bare_pages(&[id]);
            self.bare(cache, &pages);
            (pc, entry)
        })
    }

    /// Drops many blocks. The caller empties its jump cache.
    fn kill_all(&self, cache: &mut Cache, me: usize, blocks: &[BlockId]) {
        for id in blocks {
            cache.cut_off(*id);
        }
        self.peers.many_gone(me);
        let pages = cache.table.bare_pages(blocks);
        self.bare(cache, &pages);
    }

    /// Empties the next region, if it is not, and goes on to it if that is to be `now` and nobody can run anything there any more.
    fn make_room(&self, cache: &mut Cache, me: usize, now: bool) -> Room {
        let mut room = Room::default();
        let since = match cache.table.next_emptied() {
            Some(since) => since,
            None => {
                // The first time around nothing has ever been there.
                let since = if cache.table.next_is_unused() {
                    0
                } else {
                    let blocks = cache.table.next_blocks();
                    self.kill_all(cache, me, &blocks);
                    room.emptied = true;
                    self.peers.tick()
                };
                cache.table.next_is_empty(since);
                since
            }
        };
        if now && self.peers.came_by(Some(me), since) {
            room.made = true;
            room.reused = cache.table.turn();
            // Another CPU may have emptied it, and this one not have heard of that yet.
            room.emptied = true;
        }
        room
    }

    /// Compiles a block and enters it into the table, unless another CPU was faster.
    pub(crate) fn make(&self, me: usize, helpers: &[Helper], new: &New) -> Outcome {
        let mut outcome = Outcome::default();
        let mut cache = self.lock();
        if let Some(id) = cache.table.find(&new.ident)
            && let Some(block) = cache.table.block_mut(id)
        {
            let holds = |doubt: &[u8]| new.bytes == Some(doubt) && block.is_of(doubt);
            let same = block.second_page == new.second && block.len == new.block.len;
            if same && block.doubt.as_deref().is_none_or(holds) {
                block.users |= 1 << (me % 64);
                let sure = block.doubt.is_none();
                outcome.found = Some(Found { id, entry: block.entry, second: new.second, sure });
                outcome.met = true;
                cache.join(new.link, id);
                return outcome;
            }
            outcome.gone = self.kill(&mut cache, me, id);
        }
        if !cache.table.watches(new.ident.page()) || new.second != 0 && !cache.table.watches(new.second) {
            // Forgotten by another CPU meanwhile, as all pages were.
            return outcome;
        }
        cache.jit.counting = new.counting;
        let mut made = cache.compile(helpers, new);
        if made.is_none() {
            let room = self.make_room(&mut cache, me, true);
            (outcome.emptied, outcome.reused) = (room.emptied, room.reused);
            if room.made {
                made = cache.compile(helpers, new);
            }
        } else if !self.sole && !cache.table.has_room() {
            outcome.emptied = self.make_room(&mut cache, me, false).emptied;
        }
        let Some(made) = made else { return outcome };
        outcome.bytes = made.bytes;
        let mut info = BlockInfo::new(new.ident, new.block.len, new.second, made.entry, made.shape.clone());
        info.pairs = cache.jit.side().pairs.as_slice().into();
        info.users = 1 << (me % 64);
        let settled = cache.table.is_settled(&info);
        if !settled {
            info.doubt = new.bytes.map(Into::into);
        }
        // SAFETY: these are its rows.
        let id = unsafe { cache.add(&self.rows, info, &made) };
        fence(Ordering::SeqCst);
        let same = |block: &BlockInfo| new.bytes.is_some_and(|bytes| block.is_of(bytes));
        if !self.sole && !cache.table.block(id).is_some_and(same) {
            // Written while it was compiled: one instruction of what is there now.
            self.kill(&mut cache, me, id);
            return outcome;
        }
        cache.join(new.link, id);
        outcome.found = Some(Found { id, entry: made.entry, second: new.second, sure: settled });
        outcome
    }

    /// Compares block `id`, made from another one, with what `block`, the same code lowered at its pc, is compiled to.
    pub(crate) fn verify(&self, id: BlockId, helpers: &[Helper], block: &Block, place: (usize, u64)) {
        let mut cache = self.lock();
        let Cache { table, jit } = &mut *cache;
        if let (Some(made), Some(spot)) = (table.movable(id), table.spot()) {
            jit.verify(&self.rows, &made, helpers, block, spot, place);
        }
    }

    /// The block for `ident`, which `link` leads to from now on if it may; or one that is not what memory holds any more.
    pub(crate) fn find(
        &self,
        me: usize,
        ident: &Ident,
        link: Option<LinkId>,
    ) -> Option<Result<Found, BlockId>> {
        let mut cache = self.lock();
        let id = cache.table.find(ident)?;
        let block = cache.table.block_mut(id)?;
        let found = Found { id, entry: block.entry, second: block.second_page, sure: block.doubt.is_none() };
        if let Some(bytes) = &block.doubt {
            return Some(if block.is_of(bytes) { Ok(found) } else { Err(id) });
        }
        block.users |= 1 << (me % 64);
        cache.join(link, id);
        Some(Ok(found))
    }
}

impl Code {
    /// A block for `ident` made of one for the same code at another pc, if there is one that is known to be as it was compiled. `link` led
    /// here. The blocks in `gone`, by pc and address, have to leave the jump cache of `me` in any case.
    pub(crate) fn move_to(
        &self,
        me: usize,
        ident: &Ident,
        link: Option<LinkId>,
        gone: &mut Vec<(u64, u64)>,
    ) -> Option<Found> {
        let mut cache = self.lock();
        if cache.table.find(ident).is_some() {
            // By another CPU meanwhile: it is found by who is about to compile it.
            return None;
        }
        let (first, oldest) = cache.table.same_code(ident)?;
        let block = cache.table.block(first)?;
        let len = block.len;
        let doubt = |id: BlockId| cache.table.block(id).is_some_and(|block| block.doubt.is_some());
        if doubt(first) || oldest.is_some_and(doubt) {
            return None;
        }
        if let Some(oldest) = oldest {
            gone.extend(self.kill(&mut cache, me, oldest));
            let since = if self.sole { 0 } else { self.peers.tick() };
            cache.table.leave_place(ident, oldest, since);
        }
        let place = cache.table.take_place(ident, |since| self.peers.came_by(Some(me), since));
        let place = place.filter(|id| cache.table.block(*id).is_some_and(|block| block.len == len));
        let id = match place {
            Some(id) => {
                let Cache { table, jit } = &mut *cache;
                let block = table.movable(id)?;
                // This CPU may not have heard yet that another one killed it.
                gone.push((block.pc, block.entry));
                jit.move_to(&self.rows, &block, ident.pc, id);
                table.revive(id, ident.pc);
                id
            }
            None => cache.copy(&self.rows, first, ident)?,
        };
        let block = cache.table.block_mut(id)?;
        block.users = 1 << (me % 64);
        let found = Found { id, entry: block.entry, second: 0, sure: true };
        cache.join(link, id);
        Some(found)
    }
}

impl Cache {
    /// Drops a block: nothing leads to it but jump caches. Whether it was alive.
    fn cut_off(&mut self, id: BlockId) -> bool {
        let Some(patches) = self.table.kill(id) else { return false };
        for (patch, stub) in patches {
            self.jit.repatch(patch, stub);
        }
        true
    }

    fn compile(&mut self, helpers: &[Helper], new: &New) -> Option<Compiled> {
        let spot = self.table.spot()?;
        self.jit.compile(helpers, new.block, spot, new.mode, new.base)
    }

    /// A copy of block `from` for `ident`.
    fn copy(&mut self, rows: &Rows, from: BlockId, ident: &Ident) -> Option<BlockId> {
        let spot = self.table.spot()?;
        let block = self.table.movable(from)?;
        let made = self.jit.copy(rows, &block, ident.pc, spot)?;
        let from = self.table.block(from)?;
        let pairs = from.pairs.clone();
        let mut info = BlockInfo::new(*ident, from.len, 0, made.entry, made.shape.clone());
        info.pairs = pairs;
        // SAFETY: the caller's rows are those of this cache.
        Some(unsafe { self.add(rows, info, &made) })
    }

    /// Lets link `link` jump straight to block `id`, when both lie in one page and context.
    fn join(&mut self, link: Option<LinkId>, id: BlockId) {
        let table = &mut self.table;
        let Some(link) = link else { return };
        let Some(l) = table.link(link).copied() else { return };
        let (Some(from), Some(to)) = (table.block(l.from), table.block(id)) else { return };
        let same = from.ident.context == to.ident.context
            && from.ident.page() == to.ident.page()
            && to.second_page == 0
            && to.ident.pc == l.target_pc
            && to.doubt.is_none()
            && !from.dead
            && !to.dead
            && !l.leads();
        if same {
            let target = self.jit.position(to.entry);
            self.jit.repatch(l.patch, target);
            self.table.joined(link, id);
        }
    }

    /// Panics unless the table agrees with itself and with the code.
    #[cfg(test)]
    pub fn check(&self) {
        let jit = &self.jit;
        self.table.check(|patch| jit.leads_to(patch), |block| jit.position(block.entry));
    }

    /// Enters a block that has just been compiled or copied.
    ///
    /// # Safety
    /// `rows` is the side table of this cache.
    pub unsafe fn add(&mut self, rows: &Rows, info: BlockInfo, made: &Compiled) -> BlockId {
        let side = self.jit.side();
        // SAFETY: the lock is held, and no code names rows that are not given away.
        unsafe { rows.put(made.first_row, &side.records) };
        let made = Made { end: made.end, rows: side.records.len(), exits: &made.exits, tails: &side.tails };
        self.table.insert(info, &made)
    }
}

/// Drops all compiled code.
pub(crate) fn drop_all(core: &mut CoreState) {
    if let Some((code, me)) = Code::of(core) {
        let mut cache = code.lock();
        let blocks = cache.table.all();
        code.kill_all(&mut cache, me, &blocks);
        cache.table.forget();
    }
    blocks::clear_jumps(core);
}
