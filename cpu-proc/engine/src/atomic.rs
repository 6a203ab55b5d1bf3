//! Read-modify-write in one step, for guest instructions that lock the bus: what a device process or another processor does to the
//! same RAM comes before or after it, never between.
//!
//! Exact for operands within eight aligned bytes of RAM. An operand that crosses them, or lies in a device, is read and then written.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use crate::blocks;
use crate::guest::Fault;
use crate::mem::{self, Privilege, peek, poke};
use crate::mmu::{self, Place};
use crate::state::{Access, CoreState};

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
    if let Some(host) = in_ram(core, linear, size, privilege)? {
        // SAFETY: `mmu::place` gives the address of writable memory, and the operand does not cross the end of its page.
        return Ok(unsafe { exchange(host, size, change) });
    }
    let old = mem::load(core, linear, size, privilege)?;
    mem::store(core, linear, size, change(old), privilege)?;
    Ok(old)
}

/// Host address of an operand that can be written; code compiled from it is dropped. `None` when it has to be read and written.
fn in_ram(
    core: &mut CoreState,
    linear: u64,
    size: u32,
    privilege: Privilege,
) -> Result<Option<*mut u8>, Fault> {
    if mem::crosses(linear, size) {
        return Ok(None);
    }
    let mode = privilege.mode(core);
    Ok(match mmu::place(core, linear, Access::Write, mode)? {
        Place::Host(host) => Some(host),
        Place::Code(host) => {
            blocks::written(core, host, size);
            Some(host)
        }
        Place::Device(_) => None,
    })
}

/// # Safety
/// The bytes are readable and writable, and so are all of the eight aligned bytes around the first.
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
        _ => {
            // SAFETY: the caller's promise.
            unsafe {
                let old = peek(host, size);
                poke(host, size, change(old));
                old
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
        for (offset, size) in [(0usize, 8u32), (4, 4), (3, 2), (1, 4), (7, 1)] {
            let mut memory = vec![0u64; 4];
            let base = memory.as_mut_ptr() as usize;
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(move || {
                        for _ in 0..ROUNDS {
                            let host = (base + offset) as *mut u8;
                            // SAFETY: inside the memory, which outlives the scope; every access is atomic.
                            unsafe { exchange(host, size, |old| old.wrapping_add(1)) };
                        }
                    });
                }
            });
            // SAFETY: the threads have ended.
            let sum = unsafe { peek((base as *const u8).add(offset), size) };
            assert_eq!(sum, (2 * ROUNDS) & (u64::MAX >> (64 - 8 * size)), "{size} at {offset}");
        }
    }
}
