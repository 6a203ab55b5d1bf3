//! One CPU and compiled blocks: its jump cache, and what its stores do to code.
//!
//! Code pages are kept out of the write TLBs; each store to one comes here and kills exactly the blocks whose bytes
//! it touches.

use std::sync::atomic::{Ordering, fence};

use crate::cache::Code;
use crate::engine::Engine;
use crate::guest::{Fault, Gpa};
use crate::mmu::{self, PAGE_SIZE};
use crate::state::{CoreState, JUMP_CACHE, JumpEntry, MMU_MODES, NO_BLOCK, exit};
use crate::table::BlockId;

/// What is in a CPU's jump cache.
#[derive(Default)]
pub(crate) struct Jumps {
    /// Linear pages (hashed) with entries in this generation, by MMU mode.
    pages: [Vec<u64>; MMU_MODES],
    /// Whether some entry of the MMU mode is of a page that is not global.
    local: [bool; MMU_MODES],
}

/// Bits for linear pages: so many that few of those a kernel runs on, which are a thousand, share theirs with a page that is flushed.
const PAGE_FILTER: usize = 1 << PAGE_FILTER_BITS;
const PAGE_FILTER_BITS: u32 = 16;

fn filter_bit(linear: u64) -> (usize, u64) {
    let h = ((linear >> 12).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - PAGE_FILTER_BITS)) as usize;
    (h / 64, 1 << (h % 64))
}

fn engine(core: &mut CoreState) -> Option<&mut Engine> {
    // SAFETY: null, or the engine that `Engine::attach` leaked to this CPU; only this thread uses it, and callers
    // hold no other reference to it.
    unsafe { core.engine.cast::<Engine>().as_mut() }
}

/// An empty entry, as in fresh memory: generations begin at 1, so nobody has its key.
const NO_JUMP: JumpEntry = JumpEntry { pc: 0, key: 0, code: 0, pad: 0 };

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
        engine.jumps.local[mode] |= local;
        let pages = &mut engine.jumps.pages[mode];
        pages.resize(PAGE_FILTER / 64, 0);
        let (word, bit) = filter_bit(linear);
        pages[word] |= bit;
    }
}

/// What jump-cache entries for `context` must carry now.
pub(crate) fn jump_key(core: &CoreState, context: u32) -> u64 {
    u64::from(core.generations[core.mmu_mode as usize & 1]) << 32 | u64::from(context)
}

/// Makes every jump-cache entry of an MMU mode stale. No two generations of any mode have the same number.
pub(crate) fn new_generation(core: &mut CoreState, mode: usize) {
    core.generation = core.generation.checked_add(1).unwrap_or_else(|| {
        clear_jumps(core);
        1
    });
    core.generations[mode & 1] = core.generation;
    core.jump_key = jump_key(core, core.jump_key as u32);
    if let Some(engine) = engine(core) {
        engine.jumps.pages[mode & 1].fill(0);
        engine.jumps.local[mode & 1] = false;
    }
}

/// Makes the jump-cache entries of an MMU mode stale unless all are of global pages.
pub(crate) fn new_local_generation(core: &mut CoreState, mode: usize) {
    if engine(core).is_some_and(|e| e.jumps.local[mode & 1]) {
        new_generation(core, mode);
    }
}

/// Empties the jump cache.
pub(crate) fn clear_jumps(core: &mut CoreState) {
    core.jump_cache.fill(NO_JUMP);
}

/// The translation of one page is gone: its jump-cache entries with it.
pub(crate) fn forget_page(core: &mut CoreState, linear: u64) {
    let (word, bit) = filter_bit(linear);
    // A block may begin on the page before and end on this one.
    let (before, before_bit) = filter_bit(linear.wrapping_sub(PAGE_SIZE));
    for mode in 0..MMU_MODES {
        let known = engine(core).is_some_and(|e| {
            let has = |w: usize, b: u64| e.jumps.pages[mode].get(w).is_some_and(|x| x & b != 0);
            has(word, bit) || has(before, before_bit)
        });
        if known {
            new_generation(core, mode);
        }
    }
}

/// Takes the block at `entry`, of this pc, out of the jump cache.
pub(crate) fn forget_jump(core: &mut CoreState, pc: u64, entry: u64) {
    for slot in [jump_slot(pc), jump_slot(pc) ^ 1] {
        let slot = &mut core.jump_cache[slot];
        if slot.code == entry {
            *slot = NO_JUMP;
        }
    }
}

/// Whether the host page may hold compiled code.
pub(crate) fn holds_code(core: &CoreState, page: *mut u8) -> bool {
    Code::of(core).is_some_and(|(code, _)| code.marked(page as u64))
}

/// Before a guest store: refuses with [`exit::RETRY_STEP`] when it would change the running block.
pub(crate) fn check_write(core: &mut CoreState, host: *mut u8, size: u32) -> Result<(), Fault> {
    let running = core.running;
    let hit = running != NO_BLOCK
        && Code::of(core).is_some_and(|(code, _)| {
            let cache = code.lock();
            cache.table.block(running).is_some_and(|b| b.overlaps(host as u64, u64::from(size)))
        });
    if hit {
        core.exit = exit::RETRY_STEP;
        return Err(Fault);
    }
    Ok(())
}

/// Bytes of a page that may hold code have changed: drops the blocks made from them.
pub(crate) fn written(core: &mut CoreState, host: *mut u8, size: u32) {
    let Some((code, me)) = Code::of(core) else { return };
    // A block that is being made is either found here, or finds what was written.
    fence(Ordering::SeqCst);
    if !code.marked(host as u64) {
        return;
    }
    let mut cache = code.lock();
    code.forget_bare(&mut cache);
    for id in cache.table.hits(host as u64, size) {
        let gone = code.kill(&mut cache, me, id);
        forget(core, gone);
    }
}

/// Drops a block.
pub(crate) fn kill(core: &mut CoreState, id: BlockId) {
    let Some((code, me)) = Code::of(core) else { return };
    let gone = code.kill(&mut code.lock(), me, id);
    forget(core, gone);
}

fn forget(core: &mut CoreState, gone: Option<(u64, u64)>) {
    if let Some((pc, entry)) = gone {
        forget_jump(core, pc, entry);
        if let Some(engine) = engine(core) {
            engine.stats.killed += 1;
        }
    }
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
    drop_pages(core, gpa & !(PAGE_SIZE - 1), None, Some(host as u64));
}

/// Drops the code on host page `also` and on all that were ever watched as `gpa`, but not on `except`.
fn drop_pages(core: &mut CoreState, gpa: Gpa, also: Option<u64>, except: Option<u64>) {
    let Some((code, me)) = Code::of(core) else { return };
    let mut cache = code.lock();
    let mut pages = cache.table.watched_as(gpa);
    pages.extend(also);
    for page in pages.into_iter().filter(|&p| Some(p) != except) {
        for id in cache.table.blocks_of(page) {
            let gone = code.kill(&mut cache, me, id);
            forget(core, gone);
        }
    }
}
