//! Read-modify-write in one step, for guest instructions that lock the bus: what a device process or another processor does to the
//! same RAM comes before or after it, never between.
//!
//! Exact for operands of RAM that lie together in the host. One that crosses cache lines is changed by the host's own locked instruction,
//! unless the host may punish that (split-lock detection); then, and on two pages that are apart in the host, it is exact among the
//! processors' operands of that kind only. An operand in a device is read and then written.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::blocks;
use crate::guest::Fault;
use crate::mem::{self, Privilege, peek, poke};
use crate::mmu::{self, PAGE_SIZE, Place};
use crate::state::{Access, CoreState};

/// Held while an operand is read and written that the host cannot lock.
static SPLIT: Mutex<()> = Mutex::new(());
/// Bytes of a cache line: a locked access inside one is never a split one.
const LINE: usize = 64;

/// Replaces the `size` (1, 2, 4 or 8) bytes at `linear` by `change` of them, which may be called more than once; the old value,
/// zero-extended. Nothing has happened on an error, as with [`mem::store`].
pub fn modify(
    core: &mut CoreState,
    linear: u64,
    size: u32,
    privilege: Privilege,
    change: impl Fn(u64) -> u64,
) -> Result<u64, Fault> {
    mem::probe(core, linear, size, Access::Write, privilege)?;
    let (first, host) = in_ram(core, linear, size, privilege)?;
    if let Some(host) = host {
        // SAFETY: `in_ram` gives the address of `size` bytes of writable memory.
        let old = unsafe { exchange(host, size, change) };
        blocks::written(core, host, first);
        if first < size {
            // SAFETY: within the operand.
            blocks::written(core, unsafe { host.add(first as usize) }, size - first);
        }
        return Ok(old);
    }
    let split = mem::crosses(linear, size).then(|| SPLIT.lock().unwrap_or_else(PoisonError::into_inner));
    let old = mem::load(core, linear, size, privilege)?;
    mem::store(core, linear, size, change(old), privilege)?;
    drop(split);
    Ok(old)
}

/// Replaces the sixteen aligned bytes at `linear` by `new` when they are `expected`; the old value. They count as written in either
/// case, and nothing has happened on an error.
pub fn compare_swap_16(
    core: &mut CoreState,
    linear: u64,
    expected: u128,
    new: u128,
    privilege: Privilege,
) -> Result<u128, Fault> {
    mem::probe(core, linear, 16, Access::Write, privilege)?;
    if let (_, Some(host)) = in_ram(core, linear, 16, privilege)?
        && std::arch::is_x86_feature_detected!("cmpxchg16b")
    {
        // SAFETY: sixteen bytes of writable memory, aligned like the operand, and the host has the instruction.
        let old = unsafe { swap_16(host.cast(), expected, new) };
        blocks::written(core, host, 16);
        return Ok(old);
    }
    let old = u128::from_le_bytes(mem::load16(core, linear, privilege)?);
    let value = if old == expected { new } else { old };
    mem::store16(core, linear, value.to_le_bytes(), privilege)?;
    Ok(old)
}

/// The host's `CMPXCHG16B`.
///
/// # Safety
/// `at` is aligned and writable, and the host has the instruction.
unsafe fn swap_16(at: *mut u128, expected: u128, new: u128) -> u128 {
    let (mut low, mut high) = (expected as u64, (expected >> 64) as u64);
    // SAFETY: the caller's promise. The compiler keeps rbx for itself, so it is exchanged and brought back.
    unsafe {
        std::arch::asm!(
            "xchg rsi, rbx",
            "lock cmpxchg16b [rdi]",
            "mov rbx, rsi",
            in("rdi") at,
            inout("rsi") new as u64 => _,
            in("rcx") (new >> 64) as u64,
            inout("rax") low,
            inout("rdx") high,
        );
    }
    u128::from(low) | u128::from(high) << 64
}

/// Host address of an operand that can be written, when its bytes lie together, and how many of them are on its first page. `None` when it has to be read and written.
fn in_ram(
    core: &mut CoreState,
    linear: u64,
    size: u32,
    privilege: Privilege,
) -> Result<(u32, Option<*mut u8>), Fault> {
    let mode = privilege.mode(core);
    let first = (PAGE_SIZE - (linear & (PAGE_SIZE - 1))).min(u64::from(size)) as u32;
    let low = match mmu::place(core, linear, first, Access::Write, mode)? {
        Place::Device(_) => return Ok((first, None)),
        place => place,
    };
    let (Place::Host(host) | Place::Code(host)) = low else { return Ok((first, None)) };
    if first < size {
        let next = linear.wrapping_add(u64::from(first));
        let high = mmu::place(core, next, size - first, Access::Write, mode)?;
        let (Place::Host(other) | Place::Code(other)) = high else { return Ok((first, None)) };
        if other != host.wrapping_add(first as usize) {
            return Ok((first, None));
        }
    }
    Ok((first, Some(host)))
}

/// Whether the host may stop or slow down who locks an operand that crosses cache lines (SDM volume 1, CPUID leaf 7: core capabilities,
/// bus lock detection).
fn punishes_splits() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let leaf = std::arch::x86_64::__cpuid_count(7, 0);
        leaf.edx >> 30 & 1 != 0 || leaf.ecx >> 24 & 1 != 0
    })
}

/// The host's locked compare-and-exchange at any address: true when `size` (2, 4 or 8) bytes were `old` and are now `new`.
///
/// # Safety
/// The bytes are readable and writable.
unsafe fn swap_unaligned(host: *mut u8, size: u32, old: u64, new: u64) -> bool {
    let same: u8;
    // SAFETY: the caller's promise; the instruction touches these bytes and its registers only.
    unsafe {
        match size {
            2 => {
                std::arch::asm!("lock cmpxchg [{at}], {new:x}", "sete {same}", at = in(reg) host, new = in(reg) new,
                same = lateout(reg_byte) same, inout("rax") old => _)
            }
            4 => {
                std::arch::asm!("lock cmpxchg [{at}], {new:e}", "sete {same}", at = in(reg) host, new = in(reg) new,
                same = lateout(reg_byte) same, inout("rax") old => _)
            }
            _ => {
                std::arch::asm!("lock cmpxchg [{at}], {new}", "sete {same}", at = in(reg) host, new = in(reg) new,
                same = lateout(reg_byte) same, inout("rax") old => _)
            }
        }
    }
    same != 0
}

/// # Safety
/// The bytes are readable and writable, and if eight aligned bytes hold them all, so are those.
unsafe fn exchange(host: *mut u8, size: u32, change: impl Fn(u64) -> u64) -> u64 {
    // What comes from `change` is cut to the operand.
    macro_rules! atomically {
        ($atomic:ty, $int:ty) => {{
            // SAFETY: aligned (the caller has looked), valid by the promise above; other processes access it atomically or by plain
            // accesses of their own, which is what hardware does too.
            let cell = unsafe { <$atomic>::from_ptr(host.cast()) };
            let change = |old: $int| Some(change(u64::from(old)) as $int);
            match cell.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change) {
                Ok(old) | Err(old) => u64::from(old),
            }
        }};
    }
    let inside = host as usize & 7;
    match size {
        1 => atomically!(AtomicU8, u8),
        2 if inside.is_multiple_of(2) => atomically!(AtomicU16, u16),
        4 if inside.is_multiple_of(4) => atomically!(AtomicU32, u32),
        8 if inside == 0 => atomically!(AtomicU64, u64),
        _ if inside + size as usize <= 8 => {
            let (shift, mask) = (8 * inside as u32, u64::MAX >> (64 - 8 * size));
            // SAFETY: the aligned eight bytes around `host` are valid by the promise above.
            let cell = unsafe { AtomicU64::from_ptr(host.sub(inside).cast()) };
            let change =
                |all: u64| Some(all & !(mask << shift) | (change(all >> shift & mask) & mask) << shift);
            match cell.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change) {
                Ok(all) | Err(all) => all >> shift & mask,
            }
        }
        _ if host as usize % LINE + size as usize > LINE && punishes_splits() => {
            let _alone = SPLIT.lock().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: the caller's promise.
            unsafe {
                let old = peek(host, size);
                poke(host, size, change(old));
                old
            }
        }
        _ => {
            let mask = u64::MAX >> (64 - 8 * size);
            loop {
                // SAFETY: the caller's promise.
                let old = unsafe { peek(host, size) };
                // SAFETY: as above.
                if unsafe { swap_unaligned(host, size, old, change(old) & mask) } {
                    return old;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{DEVICE, Rig};

    #[test]
    fn every_size_at_every_place_changes_its_own_bytes_only() {
        let mut r = Rig::new(|_, _, _| {});
        for size in [1u32, 2, 4, 8] {
            for at in 0x2ff0u64..0x3008 {
                for byte in (0x2fe0..0x3020).step_by(8) {
                    mem::store(r.core(), byte, 8, 0x8877_6655_4433_2211, Privilege::Current).unwrap();
                }
                let before: Vec<u64> = (0x2fe0..0x3020)
                    .map(|b| mem::load(r.core(), b, 1, Privilege::Current).unwrap())
                    .collect();
                let was = mem::load(r.core(), at, size, Privilege::Current).unwrap();
                // More bits than the operand has.
                let old = modify(r.core(), at, size, Privilege::Current, |old| !old).unwrap();
                assert_eq!(old, was, "{size} at {at:#x}");
                for (byte, before) in (0x2fe0..0x3020u64).zip(before) {
                    let inside = (at..at + u64::from(size)).contains(&byte);
                    let now = mem::load(r.core(), byte, 1, Privilege::Current).unwrap();
                    assert_eq!(
                        now,
                        if inside { !before & 0xff } else { before },
                        "{size} at {at:#x}: {byte:#x}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_device_is_read_once_and_written_once() {
        let mut r = Rig::new(|_, _, _| {});
        r.cpu.pages[4].gpa = DEVICE;
        let old = modify(r.core(), 0x4010, 4, Privilege::Current, |old| old.wrapping_add(1)).unwrap();
        let log = r.machine().device_log.clone();
        assert_eq!(log, [(DEVICE + 16, 4, None), (DEVICE + 16, 4, Some(old + 1))]);
    }

    #[test]
    fn two_threads_lose_no_increment() {
        const ROUNDS: u64 = 200_000;
        // There are hosts where each takes 70 microseconds, without a word of it in CPUID.
        const SPLIT_ROUNDS: u64 = 20_000;
        for (offset, size) in
            [(0usize, 8u32), (4, 4), (3, 2), (1, 4), (7, 1), (5, 8), (63, 2), (61, 4), (57, 8)]
        {
            let rounds = if offset + size as usize > LINE { SPLIT_ROUNDS } else { ROUNDS };
            let mut memory = vec![0u64; 32];
            let base = (memory.as_mut_ptr() as usize).next_multiple_of(LINE);
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(move || {
                        for _ in 0..rounds {
                            let host = (base + offset) as *mut u8;
                            // SAFETY: inside the memory, which outlives the scope; every access is atomic.
                            unsafe { exchange(host, size, |old| old.wrapping_add(1)) };
                        }
                    });
                }
            });
            // SAFETY: the threads have ended.
            let sum = unsafe { peek((base as *const u8).add(offset), size) };
            assert_eq!(sum, (2 * rounds) & (u64::MAX >> (64 - 8 * size)), "{size} at {offset}");
        }
    }
}
