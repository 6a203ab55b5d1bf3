//! The table of compiled blocks: lookup, links between them, and which of them are made from which bytes.
//!
//! A block is known by where its first byte lies in *host* memory (so remapped and aliased physical pages cannot be
//! confused), its architectural pc, and its *context*: the front end's block key together with the distance from pc to linear
//! address. Contexts are numbered, so that a jump-cache entry needs to compare two words only.
//!
//! Blocks lie in *regions*, which are filled one after the other, and emptied when their turn comes again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use std::sync::Arc;

use crate::count::Tail;
use crate::guest::Gpa;
use crate::jit::{Movable, Shape, Spot};
use crate::mmu::PAGE_SIZE;
use crate::peers::Set;
use crate::state::NO_BLOCK;

/// Number of a block in the [`Table`]: of its region, and in that.
pub(crate) type BlockId = u32;
/// Number of a link, likewise.
pub(crate) type LinkId = u32;
/// End of a list of links.
const END: u32 = u32::MAX;
/// Bits of a number that are of its place in a region.
const IN_REGION: u32 = 27;
/// Most regions.
pub(crate) const MOST_REGIONS: usize = 16;
/// Contexts before the table is emptied; far above what any guest uses.
const CONTEXTS: usize = 1 << 16;
/// Watched pages at which the next new context empties the table. The guest's memory bounds them in any case.
const WATCHED: usize = 1 << 20;
/// Blocks are counted as if none had less code. Those of real programs have three times as much.
const BYTES_A_BLOCK: usize = 128;

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

impl Ident {
    /// Host page of the first byte.
    pub fn page(&self) -> u64 {
        self.host & !(PAGE_SIZE - 1)
    }
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
    /// How its code is used at another pc, if it can be.
    pub shape: Option<Shape>,
    /// Slots that are newer than memory, for its rows of the side table.
    pub pairs: Arc<[(u8, u8)]>,
    /// What it was made from, while it is on a page that is not settled: nothing may lead to it without a comparison.
    pub doubt: Option<Box<[u8]>>,
    /// CPUs that may have it in their jump caches, a bit each modulo 64.
    pub users: u64,
    /// Dropped; its code may still be running but nothing leads to it.
    pub dead: bool,
    /// Jumps from other blocks that were patched to `entry`.
    links_in: LinkId,
    /// Its own, the first and how many.
    links: (LinkId, u32),
    /// Where it is in the lists of its pages, the first and the second.
    listed: [u32; 2],
    /// Where it is among those with a doubt.
    doubted: u32,
}

impl BlockInfo {
    pub fn new(ident: Ident, len: u32, second_page: u64, entry: u64, shape: Option<Shape>) -> BlockInfo {
        // What a block that crosses pages is made of depends on two translations.
        let shape = shape.filter(|_| second_page == 0);
        BlockInfo {
            ident,
            len,
            second_page,
            entry,
            shape,
            pairs: Arc::default(),
            doubt: None,
            users: 0,
            dead: false,
            links_in: END,
            links: (0, 0),
            listed: [0; 2],
            doubted: 0,
        }
    }

    /// Its bytes: host address and length on its first page and on the second.
    pub fn pieces(&self) -> [(u64, u64); 2] {
        let len = u64::from(self.len);
        let first = (PAGE_SIZE - self.ident.host % PAGE_SIZE).min(len);
        [(self.ident.host, first), (self.second_page, if self.second_page == 0 { 0 } else { len - first })]
    }

    /// The pages of its bytes.
    pub fn pages(&self) -> impl Iterator<Item = u64> + use<> {
        [self.ident.page(), self.second_page].into_iter().filter(|page| *page != 0)
    }

    /// Whether the block's bytes overlap `size` bytes at host address `at`.
    pub fn overlaps(&self, at: u64, size: u64) -> bool {
        let hit = |(start, len): (u64, u64)| {
            len != 0 && at < start.wrapping_add(len) && start < at.wrapping_add(size)
        };
        self.pieces().into_iter().any(hit)
    }

    /// Whether memory holds `bytes` where the block's are.
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        let places = self.pieces().into_iter().flat_map(|(at, len)| at..at + len);
        // SAFETY: the addresses of the block's bytes, in pages of memory that stay mapped; others may write them meanwhile.
        places.zip(bytes).all(|(at, byte)| unsafe { (at as *const u8).read_volatile() } == *byte)
    }

    fn links(&self) -> Range<LinkId> {
        self.links.0..self.links.0 + self.links.1
    }
}

/// A direct jump at the end of a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    /// Where it goes.
    pub target_pc: u64,
    /// Position of its 32-bit displacement in the code buffer.
    pub patch: u32,
    /// Position of the stub that it leads to while unlinked.
    pub stub: u32,
    /// The block that it jumps to, or [`NO_BLOCK`].
    to: BlockId,
    /// Next link into the same target.
    next: LinkId,
    /// The one before.
    previous: LinkId,
    /// Block that it leaves.
    pub from: BlockId,
}

impl Link {
    fn new(from: BlockId, target_pc: u64, patch: u32, stub: u32) -> Link {
        Link { target_pc, patch, stub, to: NO_BLOCK, next: END, previous: END, from }
    }

    /// Whether it jumps straight to a block.
    pub fn leads(&self) -> bool {
        self.to != NO_BLOCK
    }
}

/// Code on one host page.
#[derive(Default)]
pub(crate) struct PageCode {
    blocks: Vec<BlockId>,
    /// How many CPUs are about to make blocks of it.
    makers: u32,
    /// When it was without code last, and whether it is in [`Table::bare`].
    since: u64,
    bare: bool,
    /// CPUs that may still have a translation for writing it.
    pub unsettled: Set,
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

/// Blocks for one code at several pcs at most. Then the oldest gives its place up: a program that is run again and again, each time
/// elsewhere, needs no more memory for that.
const COPIES: usize = 4;
/// Places given up that are remembered.
const LEFT: usize = 8;

/// Blocks of the same code for several pcs.
#[derive(Clone)]
struct Copies {
    /// [`NO_BLOCK`] where there is none.
    ids: [BlockId; COPIES],
    /// The oldest, when there are no more places.
    oldest: usize,
    /// Dead ones whose places can be used again once every CPU has come by since this time.
    left: Vec<(BlockId, u64)>,
}

impl Default for Copies {
    fn default() -> Self {
        Copies { ids: [NO_BLOCK; COPIES], oldest: 0, left: Vec::new() }
    }
}

/// A part of the code buffer with all that is known of the blocks in it.
pub(crate) struct Region {
    /// Positions.
    code: Range<usize>,
    /// First free one.
    pos: usize,
    /// Rows of the side table.
    rows: Range<u32>,
    /// First free one.
    row: u32,
    blocks: Vec<BlockInfo>,
    links: Vec<Link>,
    tails: Vec<Tail>,
    /// None of its blocks lives, and it can be filled again once every CPU has come by since this time.
    emptied: Option<u64>,
}

impl Region {
    fn new(code: Range<usize>, rows: Range<u32>) -> Region {
        let (pos, row) = (code.start, rows.start);
        Region {
            code,
            pos,
            rows,
            row,
            blocks: Vec::new(),
            links: Vec::new(),
            tails: vec![Tail::default()],
            emptied: None,
        }
    }
}

fn number(region: usize, at: usize) -> u32 {
    (region as u32) << IN_REGION | at as u32
}

fn place(number: u32) -> (usize, usize) {
    ((number >> IN_REGION) as usize, (number & ((1 << IN_REGION) - 1)) as usize)
}

/// What a block is made of, besides its [`BlockInfo`].
pub(crate) struct Made<'a> {
    /// End of its code.
    pub end: usize,
    /// Rows of the side table.
    pub rows: usize,
    /// Direct exits: position of the displacement, of the stub, and pc.
    pub exits: &'a [(u32, u32, u64)],
    /// Rows for counted instructions.
    pub tails: &'a [Tail],
}

/// All compiled blocks.
#[derive(Default)]
pub(crate) struct Table {
    regions: Vec<Region>,
    /// The one that is being filled.
    current: usize,
    index: FastMap<Ident, BlockId>,
    /// Blocks that can be moved, by the host address of their first byte and their context.
    copies: FastMap<(u64, u32), Copies>,
    pages: FastMap<u64, PageCode>,
    /// Pages without code that are still taken for some with; and others that were.
    bare: VecDeque<u64>,
    /// Blocks with a doubt.
    pub doubts: Vec<BlockId>,
    /// Host pages that were watched as a physical page; more than one after the physical map changed.
    by_gpa: FastMap<Gpa, Vec<u64>>,
    watched: HashSet<u64, BuildHasherDefault<FastHasher>>,
    contexts: FastMap<(u64, u64), u32>,
    next_context: u32,
}

/// Positions to patch back, with what to patch them to.
pub(crate) type Patches = Vec<(u32, u32)>;

impl Table {
    /// Regions of `code`, positions of the code buffer, with `rows` rows of the side table each.
    pub fn new(code: &[Range<usize>], rows: u32) -> Table {
        let regions =
            code.iter().zip(0u32..).map(|(code, i)| Region::new(code.clone(), i * rows..(i + 1) * rows));
        Table { regions: regions.collect(), ..Table::default() }
    }

    /// How many blocks can be found, and how many there are.
    pub fn count(&self) -> (usize, usize) {
        (self.index.len(), self.regions.iter().map(|region| region.blocks.len()).sum())
    }

    /// Bytes of code.
    pub fn used(&self) -> usize {
        self.regions.iter().map(|region| region.pos - region.code.start).sum()
    }

    pub fn block(&self, id: BlockId) -> Option<&BlockInfo> {
        let (region, at) = place(id);
        self.regions.get(region)?.blocks.get(at)
    }

    pub fn block_mut(&mut self, id: BlockId) -> Option<&mut BlockInfo> {
        let (region, at) = place(id);
        self.regions.get_mut(region)?.blocks.get_mut(at)
    }

    pub fn link(&self, link: LinkId) -> Option<&Link> {
        let (region, at) = place(link);
        self.regions.get(region)?.links.get(at)
    }

    fn link_mut(&mut self, link: LinkId) -> Option<&mut Link> {
        let (region, at) = place(link);
        self.regions.get_mut(region)?.links.get_mut(at)
    }

    /// Row for counted instructions.
    pub fn tail(&self, number: u32) -> Option<Tail> {
        let (region, at) = place(number);
        self.regions.get(region)?.tails.get(at).copied()
    }

    /// The block, if compiled.
    pub fn find(&self, ident: &Ident) -> Option<BlockId> {
        self.index.get(ident).copied()
    }

    /// Number of the context; `None` when there are too many and the table must be emptied. No number is ever given twice while a block of
    /// it lives.
    pub fn context(&mut self, key: u64, base: u64) -> Option<u32> {
        let context = (key, base);
        if let Some(&id) = self.contexts.get(&context) {
            return Some(id);
        }
        if self.contexts.len() >= CONTEXTS || self.watched.len() >= WATCHED {
            return None;
        }
        self.next_context = self.next_context.wrapping_add(1);
        Some(*self.contexts.entry(context).or_insert(self.next_context))
    }

    // --- regions ---

    /// Where the next block goes; `None` when the region is full.
    pub fn spot(&self) -> Option<Spot> {
        let region = self.regions.get(self.current)?;
        let room = region.blocks.len() < region.code.len() / BYTES_A_BLOCK;
        room.then(|| Spot {
            pos: region.pos,
            end: region.code.end,
            id: number(self.current, region.blocks.len()),
            first_link: number(self.current, region.links.len()),
            first_row: region.row,
            rows: region.rows.end - region.row,
            first_tail: number(self.current, region.tails.len()),
        })
    }

    /// Whether the region has room for a while.
    pub fn has_room(&self) -> bool {
        self.regions
            .get(self.current)
            .is_some_and(|region| region.pos < region.code.end - region.code.len() / 8)
    }

    fn after_current(&self) -> usize {
        (self.current + 1) % self.regions.len().max(1)
    }

    /// When the region behind the current one was emptied, if it is.
    pub fn next_emptied(&self) -> Option<u64> {
        self.regions.get(self.after_current())?.emptied
    }

    /// Whether nothing has ever been in the region behind the current one.
    pub fn next_is_unused(&self) -> bool {
        self.regions.get(self.after_current()).is_none_or(|region| region.pos == region.code.start)
    }

    /// Takes the blocks of the region behind the current one for dead places. The caller has killed them.
    pub fn next_is_empty(&mut self, since: u64) {
        let next = self.after_current();
        let Some(region) = self.regions.get_mut(next) else { return };
        region.emptied = Some(since);
        for block in region.blocks.iter().filter(|block| block.shape.is_some()) {
            if let Some(copies) = self.copies.get_mut(&(block.ident.host, block.ident.context)) {
                copies.left.retain(|(id, _)| place(*id).0 != next);
            }
        }
    }

    /// Blocks of the region behind the current one that live.
    pub fn next_blocks(&self) -> Vec<BlockId> {
        let next = self.after_current();
        let blocks = self.regions.get(next).map(|region| region.blocks.as_slice()).unwrap_or_default();
        let live = blocks.iter().enumerate().filter(|(_, block)| !block.dead);
        live.map(|(at, _)| number(next, at)).collect()
    }

    /// All blocks that live.
    pub fn all(&self) -> Vec<BlockId> {
        self.index.values().copied().collect()
    }

    /// Forgets contexts and watched pages; the caller has killed all blocks.
    pub fn forget(&mut self) {
        self.contexts = FastMap::default();
        self.by_gpa = FastMap::default();
        self.watched = HashSet::default();
    }

    /// Goes on to the next region, which is emptied and which nobody runs. Whether there was something in it.
    pub fn turn(&mut self) -> bool {
        self.current = self.after_current();
        let Some(region) = self.regions.get_mut(self.current) else { return false };
        let used = region.pos != region.code.start;
        *region = Region::new(region.code.clone(), region.rows.clone());
        used
    }

    // --- pages ---

    pub fn page(&mut self, page: u64) -> Option<&mut PageCode> {
        self.pages.get_mut(&page)
    }

    /// All pages with code.
    pub fn pages(&mut self) -> impl Iterator<Item = (u64, &mut PageCode)> {
        self.pages.iter_mut().map(|(at, page)| (*at, page))
    }

    /// Somebody is about to make a block of the host page. Whether it is the first code on it.
    pub fn hold(&mut self, page: u64) -> bool {
        let fresh = !self.pages.contains_key(&page);
        self.pages.entry(page).or_default().makers += 1;
        fresh
    }

    /// Who held it does no more. Whether the page is without code now.
    pub fn let_go(&mut self, page: u64) -> bool {
        if let Some(code) = self.pages.get_mut(&page) {
            code.makers = code.makers.saturating_sub(1);
        }
        self.is_bare(page)
    }

    /// Whether the page is without code.
    fn is_bare(&self, page: u64) -> bool {
        self.pages.get(&page).is_some_and(|code| code.blocks.is_empty() && code.makers == 0)
    }

    /// The page has been without code since this time.
    pub fn bare_since(&mut self, page: u64, since: u64) {
        if let Some(code) = self.pages.get_mut(&page) {
            code.since = since;
            if !std::mem::replace(&mut code.bare, true) {
                self.bare.push_back(page);
            }
        }
    }

    /// Forgets a page that has been without code since a time that `over` says is over. `None` when there is none to be looked at.
    pub fn forget_bare(&mut self, over: impl Fn(u64) -> bool) -> Option<Option<u64>> {
        let page = *self.bare.front()?;
        let bare = self.is_bare(page);
        let code = self.pages.get_mut(&page)?;
        if bare && !over(code.since) {
            return None;
        }
        code.bare = false;
        self.bare.pop_front();
        if bare {
            self.pages.remove(&page);
        }
        Some(bare.then_some(page))
    }

    /// Whether all pages of the block are settled.
    pub fn is_settled(&self, block: &BlockInfo) -> bool {
        block.pages().all(|page| self.pages.get(&page).is_some_and(|page| page.unsettled.is_empty()))
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

    /// Host pages that were ever watched as `gpa`.
    pub fn watched_as(&self, gpa: Gpa) -> Vec<u64> {
        self.by_gpa.get(&gpa).cloned().unwrap_or_default()
    }

    /// Blocks of the page.
    pub fn blocks_of(&self, page: u64) -> Vec<BlockId> {
        self.pages.get(&page).map(|page| page.blocks.clone()).unwrap_or_default()
    }

    /// Blocks of the page that overlap the bytes at `at`.
    pub fn hits(&mut self, at: u64, size: u32) -> Vec<BlockId> {
        let offset = (at % PAGE_SIZE) as usize;
        let Some(page) = self.pages.get(&(at - offset as u64)) else { return Vec::new() };
        if !page.covered.any(offset, size as usize) {
            return Vec::new();
        }
        let hit = |id: &BlockId| self.block(*id).is_some_and(|b| b.overlaps(at, u64::from(size)));
        let hits: Vec<BlockId> = page.blocks.iter().copied().filter(hit).collect();
        if hits.is_empty()
            && let Some(page) = self.pages.get_mut(&(at - offset as u64))
        {
            page.covered.set(offset, size as usize, false);
        }
        hits
    }

    // --- blocks ---

    /// Adds a block, at the [`Table::spot`]. Its pages are held.
    pub fn insert(&mut self, mut info: BlockInfo, made: &Made) -> BlockId {
        let Some(region) = self.regions.get_mut(self.current) else { return NO_BLOCK };
        let id = number(self.current, region.blocks.len());
        info.links = (number(self.current, region.links.len()), made.exits.len() as u32);
        region.links.extend(made.exits.iter().map(|&(patch, stub, pc)| Link::new(id, pc, patch, stub)));
        region.tails.extend_from_slice(made.tails);
        region.row += made.rows as u32;
        region.pos = made.end;
        region.blocks.push(info);
        self.show(id);
        id
    }

    /// Makes a block one that can be found.
    fn show(&mut self, id: BlockId) {
        let Some(block) = self.block(id) else { return };
        let (ident, pieces, movable) = (block.ident, block.pieces(), block.shape.is_some());
        let doubtful = block.doubt.is_some();
        self.index.insert(ident, id);
        let mut listed = [0; 2];
        for ((at, len), listed) in pieces.into_iter().zip(&mut listed).filter(|((_, len), _)| *len != 0) {
            let page = self.pages.entry(at & !(PAGE_SIZE - 1)).or_default();
            *listed = page.blocks.len() as u32;
            page.blocks.push(id);
            page.covered.set((at % PAGE_SIZE) as usize, len as usize, true);
        }
        let doubted = self.doubts.len() as u32;
        if let Some(block) = self.block_mut(id) {
            (block.listed, block.doubted) = (listed, doubted);
        }
        if movable {
            let copies = self.copies.entry((ident.host, ident.context)).or_default();
            if let Some(place) = copies.ids.iter_mut().find(|id| **id == NO_BLOCK) {
                *place = id;
            }
        }
        if doubtful {
            self.doubts.push(id);
        }
    }

    /// Blocks of the code of `ident` at another pc: one to copy, and if there are enough already, the one to take the place of instead.
    pub fn same_code(&mut self, ident: &Ident) -> Option<(BlockId, Option<BlockId>)> {
        let copies = self.copies.get_mut(&(ident.host, ident.context))?;
        let first = copies.ids.iter().copied().find(|id| *id != NO_BLOCK)?;
        if copies.ids.contains(&NO_BLOCK) {
            return Some((first, None));
        }
        let oldest = copies.ids.get(copies.oldest).copied();
        copies.oldest = (copies.oldest + 1) % COPIES;
        // Never the one that is copied, should it come to that.
        let first = copies.ids.iter().copied().find(|id| Some(*id) != oldest).unwrap_or(first);
        Some((first, oldest))
    }

    /// Block `id` of this code was killed to give its place up.
    pub fn leave_place(&mut self, ident: &Ident, id: BlockId, since: u64) {
        if let Some(copies) = self.copies.get_mut(&(ident.host, ident.context)) {
            if copies.left.len() >= LEFT {
                copies.left.remove(0);
            }
            copies.left.push((id, since));
        }
    }

    /// Takes a place of this code that was given up when `free` says so of that time.
    pub fn take_place(&mut self, ident: &Ident, free: impl Fn(u64) -> bool) -> Option<BlockId> {
        let copies = self.copies.get_mut(&(ident.host, ident.context))?;
        let (id, since) = *copies.left.first()?;
        free(since).then(|| {
            copies.left.remove(0);
            id
        })
    }

    /// What it takes to move a block, if it can be.
    pub fn movable(&self, id: BlockId) -> Option<Movable<'_>> {
        let block = self.block(id)?;
        let shape = block.shape.as_ref()?;
        let (region, first) = place(block.links.0);
        let links = self.regions.get(region)?.links.get(first..first + block.links.1 as usize)?;
        Some(Movable { pc: block.ident.pc, entry: block.entry, shape, links })
    }

    /// Makes a dead block one for another pc that can be found.
    pub fn revive(&mut self, id: BlockId, pc: u64) {
        let Some(block) = self.block_mut(id) else { return };
        let by = pc.wrapping_sub(block.ident.pc);
        block.ident.pc = pc;
        block.dead = false;
        block.users = 0;
        for link in block.links() {
            if let Some(link) = self.link_mut(link) {
                link.target_pc = link.target_pc.wrapping_add(by);
            }
        }
        self.show(id);
    }

    /// Records that link `link` now jumps to `target`.
    pub fn joined(&mut self, link: LinkId, target: BlockId) {
        let Some(block) = self.block_mut(target) else { return };
        let next = std::mem::replace(&mut block.links_in, link);
        if let Some(after) = self.link_mut(next) {
            after.previous = link;
        }
        if let Some(l) = self.link_mut(link) {
            (l.to, l.next, l.previous) = (target, next, END);
        }
    }

    /// Takes a link out of its target's list. Whether it was in one.
    fn part(&mut self, link: LinkId) -> Option<(u32, u32)> {
        let l = self.link_mut(link)?;
        let to = std::mem::replace(&mut l.to, NO_BLOCK);
        let (next, previous) = (std::mem::replace(&mut l.next, END), std::mem::replace(&mut l.previous, END));
        let patch = (l.patch, l.stub);
        if to == NO_BLOCK {
            return None;
        }
        if let Some(after) = self.link_mut(next) {
            after.previous = previous;
        }
        if let Some(before) = self.link_mut(previous) {
            before.next = next;
        } else if let Some(block) = self.block_mut(to) {
            block.links_in = next;
        }
        Some(patch)
    }

    /// Takes the block out of the list of its first (0) or second (1) page. A guest can have a hundred thousand blocks of one byte, and
    /// write that: no list is searched.
    fn strike(&mut self, id: BlockId, which: usize) {
        let Some(block) = self.block(id) else { return };
        let (page, at) = ([block.ident.page(), block.second_page][which], block.listed[which]);
        let Some(code) = self.pages.get_mut(&page).filter(|_| page != 0) else { return };
        if code.blocks.get(at as usize) != Some(&id) {
            return;
        }
        code.blocks.swap_remove(at as usize);
        let (last, moved) = (code.blocks.len() as u32, code.blocks.get(at as usize).copied());
        if let Some(moved) = moved.and_then(|moved| self.block_mut(moved)) {
            let pages = [moved.ident.page(), moved.second_page];
            let places = moved.listed.iter_mut().zip(pages);
            places.filter(|(place, of)| *of == page && **place == last).for_each(|(place, _)| *place = at);
        }
    }

    /// The block is as it was compiled, or is dropped.
    pub fn undoubt(&mut self, id: BlockId) {
        let Some(block) = self.block_mut(id).filter(|block| block.doubt.is_some()) else { return };
        block.doubt = None;
        let at = block.doubted;
        if self.doubts.get(at as usize) == Some(&id) {
            self.doubts.swap_remove(at as usize);
        }
        let moved = self.doubts.get(at as usize).copied();
        if let Some(moved) = moved.and_then(|moved| self.block_mut(moved)) {
            moved.doubted = at;
        }
    }

    /// Drops a block: nothing will lead to it, and it leads nowhere. `None` when it was dropped already.
    pub fn kill(&mut self, id: BlockId) -> Option<Patches> {
        let block = self.block_mut(id)?;
        if std::mem::replace(&mut block.dead, true) {
            return None;
        }
        let (ident, links) = (block.ident, block.links());
        if self.index.get(&ident) == Some(&id) {
            self.index.remove(&ident);
        }
        (0..2).for_each(|which| self.strike(id, which));
        self.undoubt(id);
        let code = (ident.host, ident.context);
        if let Some(copies) = self.copies.get_mut(&code) {
            copies.ids.iter_mut().filter(|copy| **copy == id).for_each(|copy| *copy = NO_BLOCK);
            if copies.ids == [NO_BLOCK; COPIES] {
                self.copies.remove(&code);
            }
        }
        let mut patches: Patches = links.filter_map(|link| self.part(link)).collect();
        while let Some(link) = self.block(id).map(|block| block.links_in).filter(|link| *link != END)
            && let Some(patch) = self.part(link)
        {
            patches.push(patch);
        }
        Some(patches)
    }

    /// Those of the blocks' pages that are without code now.
    pub fn bare_pages(&self, blocks: &[BlockId]) -> Vec<u64> {
        let pages = blocks.iter().filter_map(|id| self.block(*id)).flat_map(BlockInfo::pages);
        pages.filter(|page| self.is_bare(*page)).collect()
    }

    /// Panics unless blocks, pages and links agree with each other and with the code, of which `target` tells the position that the
    /// displacement at one leads to, and `entry` that of a block.
    #[cfg(test)]
    pub fn check(&self, target: impl Fn(u32) -> u32, entry: impl Fn(&BlockInfo) -> u32) {
        let mut live = 0;
        for (region, all) in self.regions.iter().enumerate() {
            for (at, block) in all.blocks.iter().enumerate() {
                let id = number(region, at);
                live += usize::from(!block.dead);
                let found = self.index.get(&block.ident) == Some(&id);
                assert_eq!(found, !block.dead, "block {id:#x} in the index");
                for page in block.pages() {
                    let listed = self.pages.get(&page).is_some_and(|page| page.blocks.contains(&id));
                    assert_eq!(listed, !block.dead, "block {id:#x} on its page");
                }
                let on = |page: u64, at: u32| self.pages.get(&page).map(|page| page.blocks.get(at as usize));
                for (page, at) in block.pages().zip(block.listed).filter(|_| !block.dead) {
                    assert_eq!(on(page, at), Some(Some(&id)), "place of block {id:#x} on its page");
                }
                let doubted = self.doubts.get(block.doubted as usize) == Some(&id);
                assert_eq!(doubted, block.doubt.is_some(), "block {id:#x} among the doubtful");
                for link in block.links() {
                    let l = self.link(link).expect("a link of a block");
                    assert_eq!(l.from, id);
                    let leads = self.block(l.to).filter(|_| l.leads());
                    let to = leads.map_or(l.stub, |to| {
                        assert!(!to.dead && !block.dead, "link {link:#x} of a dropped block, or to one");
                        entry(to)
                    });
                    assert_eq!(target(l.patch), to, "link {link:#x}");
                }
                let (mut link, mut previous) = (block.links_in, END);
                while link != END {
                    let l = self.link(link).expect("a link in a list");
                    assert_eq!((l.to, l.previous), (id, previous), "link {link:#x}");
                    (previous, link) = (link, l.next);
                }
            }
        }
        assert_eq!(live, self.index.len(), "blocks in the index");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_one_page_are_struck_off_in_any_order() {
        let mut table = Table::new(&[0..1 << 19, 1 << 19..1 << 20], 1000);
        let made = Made { end: 0, rows: 0, exits: &[], tails: &[] };
        let mut ids: Vec<BlockId> = (0..60u64)
            .map(|number| {
                let host = if number % 3 == 0 { 0x1ffe } else { 0x1800 };
                // Some end on the next page, and some on one that is mapped twice in a row.
                let second = [0x2000, 0x1000][number as usize % 2] * u64::from(number % 3 == 0);
                let ident = Ident { host, pc: number, context: 0 };
                let mut info = BlockInfo::new(ident, 4, second, 0, None);
                info.doubt = (number % 4 == 0).then(|| [0; 4].into());
                table.insert(info, &made)
            })
            .collect();
        // 7 and 60 have no divisor in common.
        ids = (0..60).map(|at| ids[at * 7 % 60]).collect();
        for (at, id) in ids.iter().enumerate() {
            if at % 5 == 0 {
                table.undoubt(*id);
            }
            assert!(table.kill(*id).is_some_and(|patches| patches.is_empty()));
            assert!(table.kill(*id).is_none());
            table.check(|_| 0, |_| 0);
        }
        assert!(table.blocks_of(0x1000).is_empty() && table.blocks_of(0x2000).is_empty());
        assert!(table.doubts.is_empty());
    }
}
