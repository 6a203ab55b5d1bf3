//! The software MMU: filling and flushing the TLBs in [`CoreState`].
//!
//! A TLB entry exists only for plain host memory that needs no further check: reads of memory, writes to writable
//! memory that holds no compiled code, fetches from memory. Everything else (devices, ROM writes, code pages) takes the slow
//! path each time.
//!
//! The front end reports what the guest does: [`flush_local`] for a new address space, [`flush_all`] for changed paging
//! controls, [`flush_page`] for one page, and
//! [`note_large_page`] from its page walk. [`flush_map`] follows a change of the physical map or of the A20 gate.

use crate::engine::Engine;
use crate::guest::{Fault, Gpa, Page};
use crate::state::{
    Access, CoreState, GUESS_BUDGET, GUESSES, Guess, LargeExtent, MMU_MODES, MMU_USER, PAGE_BITS, PHYS_CACHE,
    PhysEntry, TLB_SETS, TlbEntry, invalid_tag,
};

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 1 << PAGE_BITS;
const OFFSET: u64 = PAGE_SIZE - 1;

/// Where an access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Plain memory: the host address of the byte asked for.
    Host(*mut u8),
    /// A write to writable memory that holds compiled code.
    Code(*mut u8),
    /// A device, or a write to read-only memory: [`crate::Machine::read`] and [`crate::Machine::write`].
    Device(Gpa),
}

/// Empties everything; only for a new [`CoreState`], which is all zero: a CPU has no memory for the entries that it never uses.
pub(crate) fn init(core: &mut CoreState) {
    // In the other sets a tag of zero fits no address.
    for tlb in &mut core.tlb {
        tlb.sets.iter_mut().for_each(|sets| sets[0].tag = invalid_tag(0));
    }
    core.large = [[NO_EXTENT; 2]; 2];
    core.guessed = 1;
    drop_guesses(core);
    forget_phys(core);
    core.generation = 1;
    core.generations = [1; MMU_MODES];
    core.jump_key = 1 << 32;
}

const NO_EXTENT: LargeExtent = LargeExtent { start: u64::MAX, last: 0 };

fn forget_phys(core: &mut CoreState) {
    core.phys_cache = [PhysEntry { gpa: u64::MAX, host: std::ptr::null_mut(), writable: 0 }; PHYS_CACHE];
}

fn set_of(linear: u64) -> usize {
    (linear >> PAGE_BITS) as usize % TLB_SETS
}

/// Translates the address of an access of `size` bytes in one page, through the TLB and on a miss through the front end's page walk.
#[inline]
pub(crate) fn place(
    core: &mut CoreState,
    linear: u64,
    size: u32,
    access: Access,
    mode: usize,
) -> Result<Place, Fault> {
    if is_kept(core, linear, access, mode) {
        let entry = core.tlb[mode].sets[access as usize][set_of(linear)];
        return Ok(Place::Host(linear.wrapping_add(entry.addend) as *mut u8));
    }
    fill(core, linear, size, access, mode)
}

/// Whether the TLB has the translation of `linear` for such accesses.
#[inline]
pub(crate) fn is_kept(core: &CoreState, linear: u64, access: Access, mode: usize) -> bool {
    linear ^ core.tlb[mode].sets[access as usize][set_of(linear)].tag <= OFFSET
}

#[cold]
fn fill(core: &mut CoreState, linear: u64, size: u32, access: Access, mode: usize) -> Result<Place, Fault> {
    Engine::of(core).stats.walks += 1;
    let t = (core.ops.translate)(core, linear, size, access, mode == MMU_USER)?;
    let gpa = a20(core, t.gpa);
    let (host, writable) = match phys_page(core, gpa) {
        Some(found) => found,
        None => return Ok(Place::Device(gpa)),
    };
    // SAFETY: the machine's page is 4 KiB of memory.
    let byte = unsafe { host.add((gpa & OFFSET) as usize) };
    let may = |core: &mut CoreState, access: Access, yes: bool| {
        if yes {
            insert(core, linear, host, access, mode, t.global);
        }
    };
    match access {
        Access::Fetch => may(core, Access::Fetch, t.executable),
        Access::Read | Access::Write => {
            may(core, Access::Read, t.readable);
            if t.writable && writable {
                let code = crate::blocks::holds_code(core, host);
                may(core, Access::Write, !code);
                if access == Access::Write && code {
                    return Ok(Place::Code(byte));
                }
            }
        }
    }
    if access == Access::Write && !writable { Ok(Place::Device(gpa)) } else { Ok(Place::Host(byte)) }
}

fn insert(core: &mut CoreState, linear: u64, host: *mut u8, access: Access, mode: usize, global: bool) {
    let tag = linear & !OFFSET;
    let set = set_of(linear);
    core.tlb[mode].sets[access as usize][set] = TlbEntry { tag, addend: (host as u64).wrapping_sub(tag) };
    let (word, bit) = (set / 64, 1 << (set % 64));
    core.filled[mode][access as usize][word] |= bit;
    let kept = &mut core.global[mode][access as usize][word];
    *kept = if global { *kept | bit } else { *kept & !bit };
}

/// Whether the translation for fetching at `linear`, just used, is a global one.
pub(crate) fn fetches_globally(core: &CoreState, linear: u64, mode: usize) -> bool {
    let set = set_of(linear);
    core.global[mode][Access::Fetch as usize][set / 64] >> (set % 64) & 1 != 0
}

/// A physical address after the A20 gate.
pub(crate) fn a20(core: &CoreState, gpa: Gpa) -> Gpa {
    if gpa >> 32 == 0 { gpa & core.machine().a20_mask() } else { gpa }
}

/// Host memory behind the page of `gpa` (A20 applied by the caller): its first byte and whether stores may go there.
pub(crate) fn phys_page(core: &mut CoreState, gpa: Gpa) -> Option<(*mut u8, bool)> {
    let page = gpa & !OFFSET;
    let slot = (page >> PAGE_BITS) as usize % PHYS_CACHE;
    let entry = core.phys_cache[slot];
    if entry.gpa == page {
        return Some((entry.host, entry.writable != 0));
    }
    match core.machine().page(page) {
        Page::Memory { host, writable } => {
            debug_assert_eq!(host as u64 % PAGE_SIZE, 0, "a page of the guest is one of the host");
            core.phys_cache[slot] = PhysEntry { gpa: page, host, writable: u64::from(writable) };
            Some((host, writable))
        }
        Page::Device => None,
    }
}

fn half(linear: u64) -> usize {
    usize::from(linear >> 63 != 0 || linear >> 31 == 1)
}

/// The front end translated `linear` through a page of `1 << bits` bytes (more than [`PAGE_BITS`]), which is `global` or not:
/// remembered, so that [`flush_page`] of any address in it drops all of its 4 KiB pieces.
pub fn note_large_page(core: &mut CoreState, linear: u64, bits: u32, global: bool) {
    let mask = 1u64.checked_shl(bits).map_or(u64::MAX, |size| size - 1);
    let extent = &mut core.large[usize::from(global)][half(linear)];
    extent.start = extent.start.min(linear & !mask);
    extent.last = extent.last.max(linear | mask);
}

/// Drops every translation of both privilege modes: changed paging controls.
pub fn flush_all(core: &mut CoreState) {
    core.global = [[[0; TLB_SETS / 64]; 3]; MMU_MODES];
    core.large[1] = [NO_EXTENT; 2];
    drop_local(core);
    for mode in 0..MMU_MODES {
        crate::blocks::new_generation(core, mode);
    }
}

/// Drops the translations of both privilege modes that are not global: a new address space.
pub fn flush_local(core: &mut CoreState) {
    drop_local(core);
    for mode in 0..MMU_MODES {
        crate::blocks::new_local_generation(core, mode);
    }
}

/// Whenever a translation for reading is dropped.
fn drop_guesses(core: &mut CoreState) {
    if std::mem::take(&mut core.guessed) != 0 {
        core.guesses = [[Guess { tag: 0, addend: 0, limit: 0, budget: GUESS_BUDGET }; GUESSES]; MMU_MODES];
    }
}

fn drop_local(core: &mut CoreState) {
    drop_guesses(core);
    for mode in 0..MMU_MODES {
        for access in 0..3 {
            for word in 0..TLB_SETS / 64 {
                let kept = core.global[mode][access][word];
                let mut bits = core.filled[mode][access][word] & !kept;
                core.filled[mode][access][word] &= kept;
                while bits != 0 {
                    let set = word * 64 + bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    core.tlb[mode].sets[access][set].tag = invalid_tag(set);
                }
            }
        }
    }
    core.large[0] = [NO_EXTENT; 2];
}

/// Drops the translation of the page that holds `linear` (all of a large page).
pub fn flush_page(core: &mut CoreState, linear: u64) {
    let within = |core: &CoreState, global: usize| {
        let extent = core.large[global][half(linear)];
        (extent.start..=extent.last).contains(&linear)
    };
    if within(core, 1) {
        return flush_all(core);
    }
    if within(core, 0) {
        flush_local(core);
    }
    drop_guesses(core);
    let (set, tag) = (set_of(linear), linear & !OFFSET);
    for mode in 0..MMU_MODES {
        for access in 0..3 {
            let entry = &mut core.tlb[mode].sets[access][set];
            if entry.tag == tag {
                entry.tag = invalid_tag(set);
            }
        }
    }
    crate::blocks::forget_page(core, linear);
}

/// The physical map or the A20 gate changed: drops all translations and what is known of physical pages.
pub fn flush_map(core: &mut CoreState) {
    forget_phys(core);
    flush_all(core);
}

/// Takes the host page out of the write TLBs: code has been compiled from it.
pub(crate) fn protect(core: &mut CoreState, host_page: u64) {
    for mode in 0..MMU_MODES {
        for word in 0..TLB_SETS / 64 {
            let mut bits = core.filled[mode][Access::Write as usize][word];
            while bits != 0 {
                let set = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let entry = &mut core.tlb[mode].sets[Access::Write as usize][set];
                if entry.tag.wrapping_add(entry.addend) == host_page {
                    entry.tag = invalid_tag(set);
                }
            }
        }
    }
}
