//! The table of compiled blocks: lookup, links between them, and what dies when code bytes change.
//!
//! A block is known by where its first byte lies in *host* memory (so remapped and aliased physical pages cannot be
//! confused), its architectural pc, and its *context*: the front end's block key together with the distance from pc to linear
//! address. Contexts are numbered, so that a jump-cache entry needs to compare two words only.
//!
//! Code pages are kept out of the write TLBs; each store to one comes here and kills exactly the blocks whose bytes
//! it touches.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use crate::engine::Engine;
use crate::guest::{Fault, Gpa};
use crate::jit::{Movable, Shape};
use crate::mmu::{self, PAGE_SIZE};
use crate::peers;
use crate::state::{CoreState, JUMP_CACHE, JumpEntry, MMU_MODES, NO_BLOCK, exit};

/// Number of a block in the [`Table`].
pub(crate) type BlockId = u32;
/// Number of a link.
pub(crate) type LinkId = u32;
/// End of a list of links.
const END: u32 = u32::MAX;
/// Contexts before the table is emptied; far above what any guest uses.
const CONTEXTS: usize = 1 << 16;

/// A multiplicative hash for integer keys.
#[derive(Default)]
pub(crate) struct FastHasher(u64);

impl Hasher for FastHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&b| self.write_u64(u64::from(b)));
    }
    fn write_u32(&mut self, v: u32) {
        self.write_u64(u64::from(v));
    }
    fn write_u64(&mut self, v: u64) {
        self.0 = (self.0.rotate_left(23) ^ v).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

pub(crate) type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<FastHasher>>;

/// Identity of a block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Ident {
    /// Host address of the first code byte.
    pub host: u64,
    /// Architectural pc.
    pub pc: u64,
    /// Context number.
    pub context: u32,
}

/// A compiled block.
#[derive(Clone, Debug)]
pub(crate) struct BlockInfo {
    pub ident: Ident,
    /// Guest bytes.
    pub len: u32,
    /// Host page of the bytes behind the first page's end; 0 when the block does not cross.
    pub second_page: u64,
    /// Address of its code in the executable view.
    pub entry: u64,
    /// Jumps from other blocks that were patched to `entry`.
    links_in: LinkId,
    /// Dropped; its code may still be running but nothing leads to it.
    pub dead: bool,
    /// How its code is used at another pc, if it can be.
    pub shape: Option<Shape>,
}

impl BlockInfo {
    pub fn new(ident: Ident, len: u32, second_page: u64, entry: u64, shape: Option<Shape>) -> BlockInfo {
        // What a block that crosses pages is made of depends on two translations.
        let shape = shape.filter(|_| second_page == 0);
        BlockInfo { ident, len, second_page, entry, links_in: END, dead: false, shape }
    }

    /// Whether the block's bytes overlap `size` bytes at host address `at`.
    fn overlaps(&self, at: u64, size: u64) -> bool {
        let first = (PAGE_SIZE - self.ident.host % PAGE_SIZE).min(u64::from(self.len));
        let hit = |start: u64, len: u64| at < start.wrapping_add(len) && start < at.wrapping_add(size);
        hit(self.ident.host, first)
            || (self.second_page != 0 && hit(self.second_page, u64::from(self.len).saturating_sub(first)))
    }
}

/// A direct jump at the end of a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    /// Where it goes.
    pub target_pc: u64,
    /// Position of its 32-bit displacement in the code buffer; 0 when it may not be patched.
    pub patch: u32,
    /// Position of the stub that it leads to while unlinked.
    pub stub: u32,
    /// The block that it jumps to, or [`NO_BLOCK`].
    to: BlockId,
    /// Next link into the same target.
    next: LinkId,
    /// Block that it leaves.
    pub from: BlockId,
}

impl Link {
    pub fn new(from: BlockId, target_pc: u64, patch: u32, stub: u32) -> Link {
        Link { target_pc, patch, stub, to: NO_BLOCK, next: END, from }
    }
}

/// Code on one host page.
#[derive(Default)]
struct PageCode {
    blocks: Vec<BlockId>,
    /// A bit for each byte that a block may cover; bits of dead blocks are cleared when noticed.
    covered: CoverMap,
}

struct CoverMap([u64; PAGE_SIZE as usize / 64]);

impl Default for CoverMap {
    fn default() -> Self {
        CoverMap([0; PAGE_SIZE as usize / 64])
    }
}

impl CoverMap {
    fn set(&mut self, at: usize, len: usize, value: bool) {
        let end = (at + len).min(PAGE_SIZE as usize);
        let mut start = at;
        while start < end {
            let next = (start / 64 + 1) * 64;
            let bits = u64::MAX << (start % 64) & u64::MAX >> (next - next.min(end));
            if value {
                self.0[start / 64] |= bits;
            } else {
                self.0[start / 64] &= !bits;
            }
            start = next;
        }
    }
    fn any(&self, at: usize, len: usize) -> bool {
        (at..(at + len).min(PAGE_SIZE as usize)).any(|i| self.0[i / 64] >> (i % 64) & 1 != 0)
    }
}

/// Blocks for one code at several pcs at most. Then the oldest is moved: a program that is run again and again, each time elsewhere, needs
/// no more memory for that.
const COPIES: usize = 4;

/// Blocks of the same code for several pcs.
#[derive(Clone, Copy)]
struct Copies {
    /// [`NO_BLOCK`] where there is none.
    ids: [BlockId; COPIES],
    /// The oldest, when there are no more places.
    oldest: usize,
}

impl Default for Copies {
    fn default() -> Self {
        Copies { ids: [NO_BLOCK; COPIES], oldest: 0 }
    }
}

/// All compiled blocks.
#[derive(Default)]
pub(crate) struct Table {
    pub blocks: Vec<BlockInfo>,
    pub links: Vec<Link>,
    index: FastMap<Ident, BlockId>,
    /// Blocks that can be moved, by the host address of their first byte and their context.
    copies: FastMap<(u64, u32), Copies>,
    pages: FastMap<u64, PageCode>,
    /// Host pages that were watched as a physical page; more than one after the physical map changed.
    by_gpa: FastMap<Gpa, Vec<u64>>,
    watched: HashSet<u64, BuildHasherDefault<FastHasher>>,
    contexts: FastMap<(u64, u64), u32>,
    last_context: Option<((u64, u64), u32)>,
    /// Linear pages (hashed) with jump-cache entries in this generation, by MMU mode.
    cached_pages: [Vec<u64>; MMU_MODES],
    /// Whether some jump-cache entry of the MMU mode is of a page that is not global.
    local_jumps: [bool; MMU_MODES],
}

/// Bits for linear pages: so many that few of those a kernel runs on, which are a thousand, share theirs with a page that is flushed.
const PAGE_FILTER: usize = 1 << PAGE_FILTER_BITS;
const PAGE_FILTER_BITS: u32 = 16;

impl Table {
    /// Empties the table; the caller has emptied the code buffer.
    pub fn clear(&mut self) {
        *self = Table::default();
    }

    /// How many blocks can be found.
    pub fn live(&self) -> usize {
        self.index.len()
    }

    /// The block, if compiled.
    pub fn find(&self, ident: &Ident) -> Option<BlockId> {
        self.index.get(ident).copied()
    }

    /// Number of the context; `None` when there are too many and the table must be cleared.
    pub fn context(&mut self, key: u64, base: u64) -> Option<u32> {
        let context = (key, base);
        if let Some((last, id)) = self.last_context
            && last == context
        {
            return Some(id);
        }
        let next = self.contexts.len() as u32;
        let id = match self.contexts.get(&context) {
            Some(&id) => id,
            None if self.contexts.len() >= CONTEXTS => return None,
            None => *self.contexts.entry(context).or_insert(next),
        };
        self.last_context = Some((context, id));
        Some(id)
    }

    fn filter_bit(linear: u64) -> (usize, u64) {
        let h = ((linear >> 12).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - PAGE_FILTER_BITS)) as usize;
        (h / 64, 1 << (h % 64))
    }

    /// Whether the host page holds code.
    pub fn holds_code(&self, page: u64) -> bool {
        self.pages.contains_key(&page)
    }

    /// Whether the machine reports DMA to the host page.
    pub fn watches(&self, page: u64) -> bool {
        self.watched.contains(&page)
    }

    /// The machine now reports DMA to host page `page`, as physical page `gpa`.
    pub fn watch(&mut self, gpa: Gpa, page: u64) {
        let pages = self.by_gpa.entry(gpa).or_default();
        if !pages.contains(&page) {
            pages.push(page);
        }
        self.watched.insert(page);
    }

    /// Adds a block.
    pub fn insert(&mut self, info: BlockInfo) -> BlockId {
        let id = self.blocks.len() as BlockId;
        self.index.insert(info.ident, id);
        let offset = (info.ident.host % PAGE_SIZE) as usize;
        let first = (PAGE_SIZE as usize - offset).min(info.len as usize);
        let page = self.pages.entry(info.ident.host - offset as u64).or_default();
        page.blocks.push(id);
        page.covered.set(offset, first, true);
        if info.second_page != 0 {
            let page = self.pages.entry(info.second_page).or_default();
            page.blocks.push(id);
            page.covered.set(0, (info.len as usize).saturating_sub(first), true);
        }
        if info.shape.is_some() {
            let copies = self.copies.entry((info.ident.host, info.ident.context)).or_default();
            if let Some(place) = copies.ids.iter_mut().find(|id| **id == NO_BLOCK) {
                *place = id;
            }
        }
        self.blocks.push(info);
        id
    }

    /// Blocks of the code of `ident` at another pc: one to copy, and if there are enough already, the one to move instead.
    pub fn same_code(&mut self, ident: &Ident) -> Option<(BlockId, Option<BlockId>)> {
        let copies = self.copies.get_mut(&(ident.host, ident.context))?;
        let first = copies.ids.iter().copied().find(|id| *id != NO_BLOCK)?;
        if copies.ids.contains(&NO_BLOCK) {
            return Some((first, None));
        }
        let oldest = copies.ids.get(copies.oldest).copied();
        copies.oldest = (copies.oldest + 1) % COPIES;
        Some((first, oldest))
    }

    /// What it takes to move a block, if it can be.
    pub fn movable(&self, id: BlockId) -> Option<Movable<'_>> {
        let block = self.blocks.get(id as usize).filter(|block| !block.dead)?;
        let shape = block.shape?;
        let links = shape.links();
        let links = self.links.get(links.start as usize..links.end as usize)?;
        Some(Movable { pc: block.ident.pc, entry: block.entry, shape, links })
    }

    /// Takes all links to a block and from it out. Returns the positions to patch back, with what to patch them to.
    fn detach(&mut self, id: BlockId) -> Vec<(u32, u32)> {
        let mut patches = self.links_in(id);
        let own = self.blocks.get(id as usize).and_then(|block| block.shape).map(|shape| shape.links());
        for link in own.unwrap_or(0..0) {
            let Some(l) = self.links.get_mut(link as usize) else { continue };
            let to = std::mem::replace(&mut l.to, NO_BLOCK);
            let after = std::mem::replace(&mut l.next, END);
            if to == NO_BLOCK {
                continue;
            }
            patches.push((l.patch, l.stub));
            let Some(target) = self.blocks.get_mut(to as usize) else { continue };
            if target.links_in == link {
                target.links_in = after;
                continue;
            }
            let mut at = target.links_in;
            while let Some(l) = self.links.get_mut(at as usize) {
                at = l.next;
                if at == link {
                    l.next = after;
                    break;
                }
            }
        }
        patches
    }

    /// Takes the links into a block out; positions to patch back, with what to patch them to.
    fn links_in(&mut self, id: BlockId) -> Vec<(u32, u32)> {
        let Some(block) = self.blocks.get_mut(id as usize) else { return Vec::new() };
        let mut link = std::mem::replace(&mut block.links_in, END);
        let mut patches = Vec::new();
        while let Some(l) = self.links.get_mut(link as usize) {
            patches.push((l.patch, l.stub));
            l.to = NO_BLOCK;
            link = std::mem::replace(&mut l.next, END);
        }
        patches
    }

    /// Makes a block without links one for another pc.
    fn rename(&mut self, id: BlockId, pc: u64) {
        let Some(block) = self.blocks.get_mut(id as usize) else { return };
        let old = block.ident;
        block.ident.pc = pc;
        let new = block.ident;
        if self.index.get(&old) == Some(&id) {
            self.index.remove(&old);
        }
        self.index.insert(new, id);
        let links = block.shape.map_or(0..0, |shape| shape.links());
        for link in self.links.iter_mut().skip(links.start as usize).take(links.len()) {
            link.target_pc = link.target_pc.wrapping_add(pc.wrapping_sub(old.pc));
        }
    }

    /// Records that link `link` now jumps to `target`.
    pub fn joined(&mut self, link: LinkId, target: BlockId) {
        let Some(block) = self.blocks.get_mut(target as usize) else { return };
        let Some(l) = self.links.get_mut(link as usize) else { return };
        l.to = target;
        l.next = block.links_in;
        block.links_in = link;
    }

    /// Blocks of the page that overlap the bytes at `at`.
    fn hits(&mut self, at: u64, size: u32) -> Vec<BlockId> {
        let offset = (at % PAGE_SIZE) as usize;
        let Some(page) = self.pages.get_mut(&(at - offset as u64)) else { return Vec::new() };
        if !page.covered.any(offset, size as usize) {
            return Vec::new();
        }
        let blocks = &self.blocks;
        let hits: Vec<BlockId> = page
            .blocks
            .iter()
            .copied()
            .filter(|&id| blocks.get(id as usize).is_some_and(|b| !b.dead && b.overlaps(at, u64::from(size))))
            .collect();
        if hits.is_empty() {
            page.covered.set(offset, size as usize, false);
        }
        hits
    }

    /// Drops a block: nothing will lead to it. Returns the positions to patch back, with what to patch them to.
    fn kill(&mut self, id: BlockId) -> Vec<(u32, u32)> {
        let Some(block) = self.blocks.get_mut(id as usize) else { return Vec::new() };
        if std::mem::replace(&mut block.dead, true) {
            return Vec::new();
        }
        let (ident, second) = (block.ident, block.second_page);
        if self.index.get(&ident) == Some(&id) {
            self.index.remove(&ident);
        }
        for page in [ident.host & !(PAGE_SIZE - 1), second] {
            if let Some(code) = self.pages.get_mut(&page) {
                code.blocks.retain(|&b| b != id);
                if code.blocks.is_empty() {
                    self.pages.remove(&page);
                }
            }
        }
        let code = (ident.host, ident.context);
        if let Some(copies) = self.copies.get_mut(&code) {
            copies.ids.iter_mut().filter(|copy| **copy == id).for_each(|copy| *copy = NO_BLOCK);
            if copies.ids == [NO_BLOCK; COPIES] {
                self.copies.remove(&code);
            }
        }
        self.links_in(id)
    }
}

pub(crate) fn engine(core: &mut CoreState) -> Option<&mut Engine> {
    // SAFETY: null, or the engine that `Engine::attach` leaked to this CPU; only this thread uses it, and callers
    // hold no other reference to it.
    unsafe { core.engine.cast::<Engine>().as_mut() }
}

/// Where the jump cache keeps `pc`, or in the other entry of the same pair: the one that it kept before.
pub(crate) fn jump_slot(pc: u64) -> usize {
    (pc ^ (pc >> 12)) as usize % JUMP_CACHE
}

/// Puts a block into the jump cache under the current key. `crosses`: it ends on the next page, whose translation has just
/// been used like that of its first.
pub(crate) fn cache_jump(core: &mut CoreState, pc: u64, linear: u64, code: u64, crosses: bool) {
    let slot = jump_slot(pc);
    let old = core.jump_cache[slot];
    if old.pc != pc && old.key == core.jump_key {
        core.jump_cache[slot ^ 1] = old;
    }
    core.jump_cache[slot] = JumpEntry { pc, key: core.jump_key, code, pad: 0 };
    let mode = core.mmu_mode as usize & 1;
    let next = (linear | (PAGE_SIZE - 1)).wrapping_add(1);
    let local =
        !mmu::fetches_globally(core, linear, mode) || crosses && !mmu::fetches_globally(core, next, mode);
    if let Some(engine) = engine(core) {
        engine.table.local_jumps[mode] |= local;
        let pages = &mut engine.table.cached_pages[mode];
        pages.resize(PAGE_FILTER / 64, 0);
        let (word, bit) = Table::filter_bit(linear);
        pages[word] |= bit;
    }
}

/// What jump-cache entries for `context` must carry now.
pub(crate) fn jump_key(core: &CoreState, context: u32) -> u64 {
    u64::from(core.generations[core.mmu_mode as usize & 1]) << 32 | u64::from(context)
}

/// Makes every jump-cache entry of an MMU mode stale. No two generations of any mode have the same number.
pub(crate) fn new_generation(core: &mut CoreState, mode: usize) {
    core.generation = core.generation.wrapping_add(1);
    if core.generation == 0 {
        clear_jumps(core);
    }
    core.generations[mode & 1] = core.generation;
    core.jump_key = jump_key(core, core.jump_key as u32);
    if let Some(engine) = engine(core) {
        engine.table.cached_pages[mode & 1].fill(0);
        engine.table.local_jumps[mode & 1] = false;
    }
}

/// Makes the jump-cache entries of an MMU mode stale unless all are of global pages.
pub(crate) fn new_local_generation(core: &mut CoreState, mode: usize) {
    if engine(core).is_some_and(|e| e.table.local_jumps[mode & 1]) {
        new_generation(core, mode);
    }
}

/// Empties the jump cache.
pub(crate) fn clear_jumps(core: &mut CoreState) {
    core.jump_cache.iter_mut().for_each(|e| *e = JumpEntry { pc: 0, key: u64::MAX, code: 0, pad: 0 });
}

/// The translation of one page is gone: its jump-cache entries with it.
pub(crate) fn forget_page(core: &mut CoreState, linear: u64) {
    let (word, bit) = Table::filter_bit(linear);
    // A block may begin on the page before and end on this one.
    let (before, before_bit) = Table::filter_bit(linear.wrapping_sub(PAGE_SIZE));
    for mode in 0..MMU_MODES {
        let known = engine(core).is_some_and(|e| {
            let has = |w: usize, b: u64| e.table.cached_pages[mode].get(w).is_some_and(|x| x & b != 0);
            has(word, bit) || has(before, before_bit)
        });
        if known {
            new_generation(core, mode);
        }
    }
}

/// Whether the host page holds compiled code.
pub(crate) fn holds_code(core: &mut CoreState, page: *mut u8) -> bool {
    engine(core).is_some_and(|e| e.table.holds_code(page as u64)) || peers::hold_code(core, page as u64)
}

/// Before a guest store: refuses with [`exit::RETRY_STEP`] when it would change the running block.
pub(crate) fn check_write(core: &mut CoreState, host: *mut u8, size: u32) -> Result<(), Fault> {
    let running = core.running;
    let hit = running != NO_BLOCK
        && engine(core).is_some_and(|e| {
            e.table.blocks.get(running as usize).is_some_and(|b| b.overlaps(host as u64, u64::from(size)))
        });
    if hit {
        core.exit = exit::RETRY_STEP;
        return Err(Fault);
    }
    Ok(())
}

/// Bytes on a code page are about to change: drops the blocks made from them.
pub(crate) fn written(core: &mut CoreState, host: *mut u8, size: u32) {
    let Some(e) = engine(core) else { return };
    let hits = e.table.hits(host as u64, size);
    for id in hits {
        kill(core, id);
    }
}

/// Drops a block.
pub(crate) fn kill(core: &mut CoreState, id: BlockId) {
    let Some(e) = engine(core) else { return };
    let Some(block) = e.table.blocks.get(id as usize) else { return };
    let (pc, entry) = (block.ident.pc, block.entry);
    let pages = [block.ident.host & !(PAGE_SIZE - 1), block.second_page];
    let patches = e.table.kill(id);
    for (patch, stub) in patches {
        e.repatch(patch, stub);
    }
    e.stats.killed += 1;
    forget_jump(core, pc, entry);
    peers::forget(core, id, pages);
}

/// Takes the block at `entry`, of this pc, out of the jump cache.
fn forget_jump(core: &mut CoreState, pc: u64, entry: u64) {
    for slot in [jump_slot(pc), jump_slot(pc) ^ 1] {
        let slot = &mut core.jump_cache[slot];
        if slot.code == entry {
            *slot = JumpEntry { pc: 0, key: u64::MAX, code: 0, pad: 0 };
        }
    }
}

/// Makes a block one for another pc.
pub(crate) fn move_to(core: &mut CoreState, id: BlockId, pc: u64) {
    let Some(e) = engine(core) else { return };
    for (patch, stub) in e.table.detach(id) {
        e.repatch(patch, stub);
    }
    let Some(block) = e.table.movable(id) else { return };
    let (old, entry) = (block.pc, block.entry);
    if let Some(jit) = &mut e.jit {
        jit.move_to(&mut e.side, &block, pc, id);
    }
    e.table.rename(id, pc);
    forget_jump(core, old, entry);
}

/// DMA changed the page: drops all code on it.
pub(crate) fn page_dirtied(core: &mut CoreState, gpa: Gpa) {
    let gpa = gpa & !(PAGE_SIZE - 1);
    let now = mmu::phys_page(core, gpa).map(|(host, _)| host as u64);
    drop_pages(core, gpa, now, None);
}

/// The machine took a write to the read-only memory at `host`, physical page `gpa`. It may have gone to other memory that
/// is hidden now (shadow RAM): code taken from there is dropped.
pub(crate) fn hidden_write(core: &mut CoreState, gpa: Gpa, host: *mut u8) {
    let page = gpa & !(PAGE_SIZE - 1);
    drop_pages(core, page, None, Some(host as u64));
    peers::wrote_hidden(core, page, host as u64);
}

/// Something that is not this CPU changed memory behind the physical page, but not on host page `except`.
pub(crate) fn changed(core: &mut CoreState, gpa: Gpa, except: Option<u64>) {
    match except {
        None => page_dirtied(core, gpa),
        Some(_) => drop_pages(core, gpa, None, except),
    }
}

/// Drops the code on host page `also` and on all that were ever watched as `gpa`, but not on `except`.
fn drop_pages(core: &mut CoreState, gpa: Gpa, also: Option<u64>, except: Option<u64>) {
    let Some(e) = engine(core) else { return };
    let mut pages = e.table.by_gpa.get(&gpa).cloned().unwrap_or_default();
    pages.extend(also);
    for page in pages.into_iter().filter(|&p| Some(p) != except) {
        let ids =
            engine(core).and_then(|e| e.table.pages.get(&page)).map(|p| p.blocks.clone()).unwrap_or_default();
        for id in ids {
            kill(core, id);
        }
    }
}
