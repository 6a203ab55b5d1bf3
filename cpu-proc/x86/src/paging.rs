//! Address translation: none, 32-bit, PAE and 4-level paging.
//!
//! Source: Intel SDM volume 3A chapter 4; AMD64 APM volume 2 chapter 5.
//!
//! *Not emulated*: PCID, SMEP, SMAP, protection keys (not advertised).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bulkhead_engine::{Access, Fault, Page, Translation, mem, mmu};

use crate::helpers::{raise, vector};
use crate::state::{Cpu, cr0, cr4, efer};

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NX: u64 = 1 << 63;

/// Page-fault error-code bits (SDM 4.7).
pub mod code {
    /// The page was present.
    pub const PRESENT: u32 = 1 << 0;
    /// A write.
    pub const WRITE: u32 = 1 << 1;
    /// A user access.
    pub const USER: u32 = 1 << 2;
    /// A reserved bit was set.
    pub const RESERVED: u32 = 1 << 3;
    /// An instruction fetch, reported when no-execute is enabled.
    pub const FETCH: u32 = 1 << 4;
}

/// Why a walk failed: the present and reserved bits of the error code.
struct Refused(u32);

/// One paging-structure entry as read.
#[derive(Clone, Copy, Default)]
struct Entry {
    gpa: u64,
    value: u64,
}

impl Cpu {
    /// Physical-address bits of the model.
    pub fn phys_bits(&self) -> u32 {
        self.model.phys_bits
    }

    /// Applies the A20 gate.
    pub fn a20(&mut self, gpa: u64) -> u64 {
        if gpa >> 32 == 0 { gpa & self.machine().a20_mask() } else { gpa }
    }

    /// Whether `linear` is canonical (48-bit).
    pub fn canonical(linear: u64) -> bool {
        (linear as i64) << 16 >> 16 == linear as i64
    }
}

/// Sets `bits` in an entry of `size` bytes that was read as `entry`, atomically. False when it has changed meanwhile.
fn mark(cpu: &mut Cpu, entry: Entry, size: u8, bits: u64) -> bool {
    if entry.value & bits == bits {
        return true;
    }
    let gpa = cpu.a20(entry.gpa);
    let (old, new) = (entry.value, entry.value | bits);
    match cpu.machine().page(gpa & !0xfff) {
        Page::Memory { host, writable: true } => {
            // SAFETY: `host` is a live writable 4 KiB page; the entry is naturally aligned inside it, because paging
            // structures are indexed in units of the entry's size from a base aligned to it.
            unsafe {
                let p = host.add((gpa & 0xfff) as usize & !(usize::from(size) - 1));
                if size == 4 {
                    AtomicU32::from_ptr(p.cast())
                        .compare_exchange(old as u32, new as u32, Ordering::SeqCst, Ordering::SeqCst)
                        .is_ok()
                } else {
                    AtomicU64::from_ptr(p.cast())
                        .compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
                        .is_ok()
                }
            }
        }
        _ => {
            cpu.machine().write(gpa, size, new);
            true
        }
    }
}

/// What a walk found: the leaf's frame and the combined permissions.
struct Walk {
    entries: [Entry; 4],
    depth: usize,
    size: u8,
    /// Physical address of the byte.
    gpa: u64,
    write: bool,
    user: bool,
    nx: bool,
    /// Log2 of the page size.
    bits: u32,
}

/// Follows the tables without changing them.
fn walk(cpu: &mut Cpu, linear: u64) -> Result<Walk, Refused> {
    let missing = Err(Refused(0));
    let reserved = Err(Refused(code::PRESENT | code::RESERVED));
    let nxe = cpu.msrs.efer & efer::NXE != 0;
    let mut w = Walk {
        entries: Default::default(),
        depth: 0,
        size: 8,
        gpa: 0,
        write: true,
        user: true,
        nx: false,
        bits: 12,
    };
    if cpu.cr4 & cr4::PAE == 0 {
        w.size = 4;
        let pse = cpu.cr4 & cr4::PSE != 0;
        let gpa = cpu.cr3 & 0xffff_f000 | linear >> 22 << 2 & 0xffc;
        let pde = mem::phys_load(&mut cpu.core, gpa, 4);
        w.entries[0] = Entry { gpa, value: pde };
        w.depth = 1;
        if pde & PRESENT == 0 {
            return missing;
        }
        w.write = pde & WRITE != 0;
        w.user = pde & USER != 0;
        if pse && pde & LARGE != 0 {
            // PSE-36: bits 13..21 hold physical bits 32..40; those beyond the model's width are reserved, as is bit 21.
            let high = pde >> 13 & 0xff;
            if pde & 1 << 21 != 0 || (high << 32) >> cpu.phys_bits() != 0 {
                return reserved;
            }
            w.bits = 22;
            w.gpa = high << 32 | pde & 0xffc0_0000 | linear & 0x3f_ffff;
            return Ok(w);
        }
        let gpa = pde & 0xffff_f000 | linear >> 12 << 2 & 0xffc;
        let pte = mem::phys_load(&mut cpu.core, gpa, 4);
        w.entries[1] = Entry { gpa, value: pte };
        w.depth = 2;
        if pte & PRESENT == 0 {
            return missing;
        }
        w.write &= pte & WRITE != 0;
        w.user &= pte & USER != 0;
        w.gpa = pte & 0xffff_f000 | linear & 0xfff;
        return Ok(w);
    }
    let frame = ((1u64 << cpu.phys_bits()) - 1) & !0xfff;
    let always_reserved = (1u64 << 52) - (1u64 << cpu.phys_bits());
    let long = cpu.long_mode();
    // Outside long mode bits 52..63 are reserved as well; inside they are ignored (available to software).
    let reserved_bits = always_reserved | if long { 0 } else { 0x7ff << 52 } | if nxe { 0 } else { NX };
    let (mut table, mut level) = if long {
        (cpu.cr3 & frame, 4u32)
    } else {
        let pdpte = cpu.pdptes[(linear >> 30 & 3) as usize];
        if pdpte & PRESENT == 0 {
            return missing;
        }
        (pdpte & frame, 2)
    };
    loop {
        let shift = 12 + 9 * (level - 1);
        let gpa = table | linear >> shift << 3 & 0xff8;
        let value = mem::phys_load(&mut cpu.core, gpa, 8);
        if let Some(slot) = w.entries.get_mut(w.depth) {
            *slot = Entry { gpa, value };
        }
        w.depth += 1;
        if value & PRESENT == 0 {
            return missing;
        }
        if value & reserved_bits != 0 {
            return reserved;
        }
        w.write &= value & WRITE != 0;
        w.user &= value & USER != 0;
        w.nx |= value & NX != 0;
        let large = value & LARGE != 0 && level > 1;
        // What is the global bit of a leaf AMD reserves in entries that name a table of tables (APM volume 2 section 5.3, figures from 5-20 on).
        if !large && level > 2 && value & GLOBAL != 0 && cpu.model.is_amd() {
            return reserved;
        }
        if large && (level == 4 || level == 3 && cpu.features[2] & 1 << 26 == 0) {
            return reserved;
        }
        if level == 1 || large {
            let mask = (1u64 << shift) - 1;
            // Bit 12 of a large leaf is PAT; the rest of the offset bits must be zero.
            if large && value & mask & !0x1fff != 0 {
                return reserved;
            }
            w.bits = shift;
            w.gpa = value & frame & !mask | linear & mask;
            return Ok(w);
        }
        table = value & frame;
        level -= 1;
    }
}

/// Page walk with permission checks for `size` bytes in one page; sets accessed and dirty bits. On failure #PF (or #GP for a non-canonical address) is
/// recorded.
///
/// A page with an armed data breakpoint is translated anew for every access: its translation allows nothing else.
pub fn translate(
    cpu: &mut Cpu,
    linear: u64,
    size: u32,
    access: Access,
    user: bool,
) -> Result<Translation, Fault> {
    // Outside long mode an access that goes on from the last page comes here with an address beyond 4 GiB.
    let linear = if cpu.long_mode() { linear } else { linear & 0xffff_ffff };
    let mut found = walk_checked(cpu, linear, access, user)
        .inspect_err(|_| cpu.pending.fetch = u32::from(access == Access::Fetch))?;
    if cpu.dr[7] & 0xff != 0 && access != Access::Fetch && cpu.watches_page(linear) {
        let kinds: &[u64] = if access == Access::Write { &[1, 3] } else { &[3] };
        cpu.watch(kinds, linear, u64::from(size));
        found = Translation { readable: false, writable: false, ..found };
    }
    Ok(found)
}

fn walk_checked(cpu: &mut Cpu, linear: u64, access: Access, user: bool) -> Result<Translation, Fault> {
    let long = cpu.long_mode();
    if long {
        if !Cpu::canonical(linear) {
            let fault = raise(cpu, vector::GP, Some(0));
            // Through the stack segment it is #SS: `refine` tells by the address.
            cpu.pending.addr = linear;
            return Err(fault);
        }
    } else if cpu.cr0 & cr0::PG == 0 {
        let gpa = cpu.a20(linear);
        return Ok(Translation { gpa, writable: true, readable: true, executable: true, global: false });
    }
    let nx_on = cpu.msrs.efer & efer::NXE != 0 && cpu.cr4 & cr4::PAE != 0;
    let write = access == Access::Write;
    // Another processor may change an entry between the read and the marking; then the walk is repeated.
    for _ in 0..16 {
        let refused = match walk(cpu, linear) {
            Err(refused) => refused,
            Ok(w) => {
                let may_write = if user { w.write } else { w.write || cpu.cr0 & cr0::WP == 0 };
                let executable = !(w.nx && nx_on);
                let allowed =
                    (!user || w.user) && (!write || may_write) && (access != Access::Fetch || executable);
                if allowed {
                    if mark_all(cpu, &w, write) {
                        let leaf = w.entries[w.depth.min(4) - 1].value;
                        let global = leaf & GLOBAL != 0 && cpu.cr4 & cr4::PGE != 0;
                        if w.bits > 12 {
                            mmu::note_large_page(&mut cpu.core, linear, w.bits, global);
                        }
                        return Ok(Translation {
                            gpa: cpu.a20(w.gpa),
                            writable: may_write && (write || leaf & DIRTY != 0),
                            readable: true,
                            executable,
                            global,
                        });
                    }
                    continue;
                }
                Refused(code::PRESENT)
            }
        };
        let mut error = refused.0;
        error |= if write { code::WRITE } else { 0 };
        error |= if user { code::USER } else { 0 };
        error |= if access == Access::Fetch && nx_on { code::FETCH } else { 0 };
        let fault = raise(cpu, vector::PF, Some(error));
        cpu.pending.addr = linear;
        return Err(fault);
    }
    // The guest races with itself without end: report the access as not present, which makes it try again.
    let fault =
        raise(cpu, vector::PF, Some(if write { code::WRITE } else { 0 } | if user { code::USER } else { 0 }));
    cpu.pending.addr = linear;
    Err(fault)
}

/// Where `linear` lies, without permission checks and without touching accessed bits, for debuggers.
pub fn peek(cpu: &mut Cpu, linear: u64) -> Option<u64> {
    let long = cpu.long_mode();
    if !long && cpu.cr0 & cr0::PG == 0 {
        return Some(cpu.a20(linear & 0xffff_ffff));
    }
    if long && !Cpu::canonical(linear) {
        return None;
    }
    let gpa = walk(cpu, if long { linear } else { linear & 0xffff_ffff }).ok()?.gpa;
    Some(cpu.a20(gpa))
}

fn mark_all(cpu: &mut Cpu, w: &Walk, write: bool) -> bool {
    let depth = w.depth.min(4);
    for (i, entry) in w.entries.iter().take(depth).enumerate() {
        let leaf = i + 1 == depth;
        let bits = ACCESSED | if leaf && write { DIRTY } else { 0 };
        if !mark(cpu, *entry, w.size, bits) {
            return false;
        }
    }
    true
}

/// Drops all cached translations and what was found by linear address.
pub fn flush(cpu: &mut Cpu) {
    mmu::flush_all(&mut cpu.core);
}

/// Drops the translations that are not global.
pub fn flush_local(cpu: &mut Cpu) {
    mmu::flush_local(&mut cpu.core);
}

/// Drops the translation of one page; of the first one outside long mode also that for accesses that go on from the last.
pub fn flush_page(cpu: &mut Cpu, linear: u64) {
    mmu::flush_page(&mut cpu.core, linear);
    if !cpu.long_mode() && linear >> 12 == 0 {
        mmu::flush_page(&mut cpu.core, linear | 1 << 32);
    }
}

/// The physical map changed: drops translations and what is known of physical pages.
pub fn flush_map(cpu: &mut Cpu) {
    mmu::flush_map(&mut cpu.core);
}

/// Loads the four PAE page-directory pointers from `cr3`. #GP(0) when a present one has reserved bits set (SDM 4.4.1).
pub fn load_pdptes(cpu: &mut Cpu, cr3: u64) -> Result<(), Fault> {
    let reserved = !((1u64 << cpu.phys_bits()) - 1) | 0x1e6;
    let mut entries = [0; 4];
    for (i, entry) in entries.iter_mut().enumerate() {
        *entry = mem::phys_load(&mut cpu.core, (cr3 & 0xffff_ffe0) + 8 * i as u64, 8);
        if *entry & PRESENT != 0 && *entry & reserved != 0 {
            return Err(raise(cpu, vector::GP, Some(0)));
        }
    }
    cpu.pdptes = entries;
    Ok(())
}
