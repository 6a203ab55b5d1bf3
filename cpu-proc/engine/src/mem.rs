//! Memory access for helpers: linear addresses through the software MMU, physical ones directly.
//!
//! An access either happens completely or returns [`Fault`] before a byte is written: both pages of a crossing access
//! are checked first. On `Err` the caller returns at once and leaves `CoreState::exit` as it is: it may be a guest
//! exception that the page walk recorded, or [`crate::exit::RETRY_STEP`] because the store would have changed the very
//! code that is running. So whatever a helper changes in guest slots before its last access must be restartable.

use crate::blocks;
use crate::guest::{Fault, Gpa};
use crate::mmu::{self, PAGE_SIZE, Place};
use crate::state::{Access, CoreState, MMU_KERNEL, MMU_USER};

/// Whose rights an access has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// Those of the current MMU mode: ordinary data accesses.
    Current,
    /// Supervisor, whatever the current mode: descriptor tables, task state, stacks of an inner ring.
    Supervisor,
    /// User.
    User,
}

impl Privilege {
    pub(crate) fn mode(self, core: &CoreState) -> usize {
        match self {
            Privilege::Current => core.mmu_mode as usize & 1,
            Privilege::Supervisor => MMU_KERNEL,
            Privilege::User => MMU_USER,
        }
    }
}

fn mask(size: u32) -> u64 {
    if size >= 8 { u64::MAX } else { (1 << (8 * size)) - 1 }
}

/// Reads `1`, `2`, `4` or `8` bytes at a host address, zero-extended.
///
/// # Safety
/// The bytes are readable.
pub(crate) unsafe fn peek(host: *const u8, size: u32) -> u64 {
    // SAFETY: the caller's promise; any bit pattern is an integer.
    unsafe {
        match size {
            1 => u64::from(host.read()),
            2 => u64::from(host.cast::<u16>().read_unaligned()),
            4 => u64::from(host.cast::<u32>().read_unaligned()),
            _ => host.cast::<u64>().read_unaligned(),
        }
    }
}

/// Writes the low `1`, `2`, `4` or `8` bytes of `value` at a host address.
///
/// # Safety
/// The bytes are writable.
pub(crate) unsafe fn poke(host: *mut u8, size: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        match size {
            1 => host.write(value as u8),
            2 => host.cast::<u16>().write_unaligned(value as u16),
            4 => host.cast::<u32>().write_unaligned(value as u32),
            _ => host.cast::<u64>().write_unaligned(value),
        }
    }
}

pub(crate) fn crosses(linear: u64, size: u32) -> bool {
    (linear & (PAGE_SIZE - 1)) + u64::from(size) > PAGE_SIZE
}

/// Loads `size` (1, 2, 4 or 8) bytes at `linear`, zero-extended.
pub fn load(core: &mut CoreState, linear: u64, size: u32, privilege: Privilege) -> Result<u64, Fault> {
    let mode = privilege.mode(core);
    load_in(core, linear, size, mode)
}

pub(crate) fn load_in(core: &mut CoreState, linear: u64, size: u32, mode: usize) -> Result<u64, Fault> {
    if !crosses(linear, size) {
        let place = mmu::place(core, linear, size, Access::Read, mode)?;
        return Ok(read_place(core, place, size));
    }
    let first = (PAGE_SIZE - (linear & (PAGE_SIZE - 1))) as u32;
    let low = mmu::place(core, linear, first, Access::Read, mode)?;
    let high = mmu::place(core, linear.wrapping_add(u64::from(first)), size - first, Access::Read, mode)?;
    let mut value = 0;
    for i in 0..size {
        let byte = if i < first { step(low, i) } else { step(high, i - first) };
        value |= read_place(core, byte, 1) << (8 * i);
    }
    Ok(value)
}

/// Stores the low `size` (1, 2, 4 or 8) bytes of `value` at `linear`.
pub fn store(
    core: &mut CoreState,
    linear: u64,
    size: u32,
    value: u64,
    privilege: Privilege,
) -> Result<(), Fault> {
    let mode = privilege.mode(core);
    store_in(core, linear, size, value, mode)
}

pub(crate) fn store_in(
    core: &mut CoreState,
    linear: u64,
    size: u32,
    value: u64,
    mode: usize,
) -> Result<(), Fault> {
    if !crosses(linear, size) {
        let place = mmu::place(core, linear, size, Access::Write, mode)?;
        allow(core, place, size)?;
        write_place(core, place, size, value);
        return Ok(());
    }
    let first = (PAGE_SIZE - (linear & (PAGE_SIZE - 1))) as u32;
    let low = mmu::place(core, linear, first, Access::Write, mode)?;
    let high = mmu::place(core, linear.wrapping_add(u64::from(first)), size - first, Access::Write, mode)?;
    allow(core, low, first)?;
    allow(core, high, size - first)?;
    for i in 0..size {
        let byte = if i < first { step(low, i) } else { step(high, i - first) };
        write_place(core, byte, 1, value >> (8 * i));
    }
    Ok(())
}

/// Loads 16 bytes.
pub fn load16(core: &mut CoreState, linear: u64, privilege: Privilege) -> Result<[u8; 16], Fault> {
    let mode = privilege.mode(core);
    load16_in(core, linear, mode)
}

pub(crate) fn load16_in(core: &mut CoreState, linear: u64, mode: usize) -> Result<[u8; 16], Fault> {
    probe_in(core, linear, 16, Access::Read, mode)?;
    let low = load_in(core, linear, 8, mode)?;
    let high = load_in(core, linear.wrapping_add(8), 8, mode)?;
    Ok((u128::from(low) | u128::from(high) << 64).to_le_bytes())
}

/// Stores 16 bytes.
pub fn store16(
    core: &mut CoreState,
    linear: u64,
    value: [u8; 16],
    privilege: Privilege,
) -> Result<(), Fault> {
    let mode = privilege.mode(core);
    store16_in(core, linear, value, mode)
}

pub(crate) fn store16_in(
    core: &mut CoreState,
    linear: u64,
    value: [u8; 16],
    mode: usize,
) -> Result<(), Fault> {
    probe_in(core, linear, 16, Access::Write, mode)?;
    let value = u128::from_le_bytes(value);
    store_in(core, linear, 8, value as u64, mode)?;
    store_in(core, linear.wrapping_add(8), 8, (value >> 64) as u64, mode)
}

/// Checks that `size` bytes (1 to 4096) at `linear` may be accessed so, without accessing them. A passed write probe
/// also means that no store there asks for a [`crate::exit::RETRY_STEP`].
pub fn probe(
    core: &mut CoreState,
    linear: u64,
    size: u32,
    access: Access,
    privilege: Privilege,
) -> Result<(), Fault> {
    let mode = privilege.mode(core);
    probe_in(core, linear, size, access, mode)
}

pub(crate) fn probe_in(
    core: &mut CoreState,
    linear: u64,
    size: u32,
    access: Access,
    mode: usize,
) -> Result<(), Fault> {
    let first = (PAGE_SIZE - (linear & (PAGE_SIZE - 1))).min(u64::from(size)) as u32;
    let place = mmu::place(core, linear, first, access, mode)?;
    if access == Access::Write {
        allow(core, place, first)?;
    }
    if first < size {
        let place = mmu::place(core, linear.wrapping_add(u64::from(first)), size - first, access, mode)?;
        if access == Access::Write {
            allow(core, place, size - first)?;
        }
    }
    Ok(())
}

/// Direct access to part of a page, for `rep movs` and the like.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Host address of the byte asked for.
    pub host: *mut u8,
    /// Bytes from there to the end of the page.
    pub len: usize,
}

/// The plain memory behind `linear` up to the end of its page, or `None` when accesses must go one by one (a device, ROM
/// being written, a page with compiled code or whose translation is not to be kept). The run stays valid until the next call into this crate; other
/// processors and devices may change the bytes at any time, so access them through the pointer only.
pub fn run(
    core: &mut CoreState,
    linear: u64,
    access: Access,
    privilege: Privilege,
) -> Result<Option<Run>, Fault> {
    let mode = privilege.mode(core);
    Ok(match mmu::place(core, linear, 1, access, mode)? {
        Place::Host(host) if mmu::is_kept(core, linear, access, mode) => {
            Some(Run { host, len: (PAGE_SIZE - (linear & (PAGE_SIZE - 1))) as usize })
        }
        Place::Host(_) | Place::Code(_) | Place::Device(_) => None,
    })
}

/// Reads 1, 2, 4 or 8 bytes of physical memory (page tables, system-management state). Devices are read as such; an
/// access across a page end goes byte by byte.
pub fn phys_load(core: &mut CoreState, gpa: Gpa, size: u32) -> u64 {
    if crosses(gpa, size) {
        return (0..size).fold(0, |v, i| v | phys_load(core, gpa.wrapping_add(u64::from(i)), 1) << (8 * i));
    }
    let gpa = mmu::a20(core, gpa);
    match mmu::phys_page(core, gpa) {
        // SAFETY: within the page, which is memory.
        Some((host, _)) => unsafe { peek(host.add((gpa & (PAGE_SIZE - 1)) as usize), size) },
        None => core.machine().read(gpa, size as u8) & mask(size),
    }
}

/// Writes physical memory. Code compiled from the bytes is dropped.
pub fn phys_store(core: &mut CoreState, gpa: Gpa, size: u32, value: u64) {
    if crosses(gpa, size) {
        for i in 0..size {
            phys_store(core, gpa.wrapping_add(u64::from(i)), 1, value >> (8 * i));
        }
        return;
    }
    let gpa = mmu::a20(core, gpa);
    match mmu::phys_page(core, gpa) {
        Some((host, true)) => {
            // SAFETY: within the page, which is writable memory.
            let byte = unsafe { host.add((gpa & (PAGE_SIZE - 1)) as usize) };
            // SAFETY: as above.
            unsafe { poke(byte, size, value) };
            blocks::written(core, byte, size);
        }
        _ => device_write(core, gpa, size, value),
    }
}

/// A write that the machine takes.
fn device_write(core: &mut CoreState, gpa: Gpa, size: u32, value: u64) {
    core.machine().write(gpa, size as u8, value & mask(size));
    if let Some((host, _)) = mmu::phys_page(core, gpa) {
        blocks::hidden_write(core, gpa, host);
    }
}

/// The place `by` bytes on, in the same page.
fn step(place: Place, by: u32) -> Place {
    match place {
        // SAFETY: callers stay within the page.
        Place::Host(p) => Place::Host(unsafe { p.add(by as usize) }),
        // SAFETY: as above.
        Place::Code(p) => Place::Code(unsafe { p.add(by as usize) }),
        Place::Device(gpa) => Place::Device(gpa.wrapping_add(u64::from(by))),
    }
}

/// Refuses a store into the running block.
fn allow(core: &mut CoreState, place: Place, size: u32) -> Result<(), Fault> {
    match place {
        Place::Code(host) => blocks::check_write(core, host, size),
        Place::Host(_) | Place::Device(_) => Ok(()),
    }
}

fn read_place(core: &mut CoreState, place: Place, size: u32) -> u64 {
    match place {
        // SAFETY: `mmu::place` gives addresses in a page of memory, and the access does not cross its end.
        Place::Host(host) | Place::Code(host) => unsafe { peek(host, size) },
        Place::Device(gpa) => core.machine().read(gpa, size as u8) & mask(size),
    }
}

fn write_place(core: &mut CoreState, place: Place, size: u32, value: u64) {
    match place {
        // SAFETY: `mmu::place` gives addresses in a page of writable memory, and the access does not cross its end.
        Place::Host(host) => unsafe { poke(host, size, value) },
        Place::Code(host) => {
            // SAFETY: as above.
            unsafe { poke(host, size, value) };
            blocks::written(core, host, size);
        }
        Place::Device(gpa) => device_write(core, gpa, size, value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mmu;
    use crate::testing::{DEVICE, ROM_PAGE, Rig};

    fn rig() -> Rig {
        Rig::new(|_, _, _| {})
    }

    #[test]
    fn a_store_across_pages_writes_nothing_when_the_second_page_faults() {
        let mut r = rig();
        r.cpu.pages[3].writable = false;
        assert_eq!(store(r.core(), 0x2ffc, 8, u64::MAX, Privilege::Current), Err(Fault));
        assert_eq!(r.cpu.fault_address, 0x3000);
        assert_eq!(load(r.core(), 0x2ff8, 8, Privilege::Current), Ok(0));
    }

    #[test]
    fn a_value_stored_across_pages_of_unordered_frames_reads_back() {
        let mut r = rig();
        r.cpu.pages[2].gpa = 0x9000;
        r.cpu.pages[3].gpa = 0x5000;
        store(r.core(), 0x2ffd, 8, 0x1122_3344_5566_7788, Privilege::Current).unwrap();
        assert_eq!(load(r.core(), 0x2ffd, 8, Privilege::Current), Ok(0x1122_3344_5566_7788));
        assert_eq!(phys_load(r.core(), 0x9ffd, 1), 0x88);
        assert_eq!(phys_load(r.core(), 0x5000, 4), 0x2233_4455);
    }

    #[test]
    fn a_flushed_page_is_walked_again_and_an_unflushed_one_is_not() {
        let mut r = rig();
        phys_store(r.core(), 0x7000, 4, 7);
        assert_eq!(load(r.core(), 0x2000, 4, Privilege::Current), Ok(0));
        r.cpu.pages[2].gpa = 0x7000;
        assert_eq!(load(r.core(), 0x2000, 4, Privilege::Current), Ok(0));
        mmu::flush_page(r.core(), 0x2abc);
        assert_eq!(load(r.core(), 0x2000, 4, Privilege::Current), Ok(7));
        r.cpu.pages[2].gpa = 0x2000;
        mmu::flush_all(r.core());
        assert_eq!(load(r.core(), 0x2000, 4, Privilege::Current), Ok(0));
    }

    #[test]
    fn a_new_address_space_keeps_global_translations_only() {
        let mut r = rig();
        r.cpu.pages[2].global = true;
        for page in [2, 3] {
            assert_eq!(load(r.core(), page << 12, 4, Privilege::Current), Ok(0));
            r.cpu.pages[page as usize].gpa = 0x7000;
        }
        phys_store(r.core(), 0x7000, 4, 7);
        mmu::flush_local(r.core());
        assert_eq!(load(r.core(), 0x2000, 4, Privilege::Current), Ok(0));
        assert_eq!(load(r.core(), 0x3000, 4, Privilege::Current), Ok(7));
        mmu::flush_page(r.core(), 0x2000);
        assert_eq!(load(r.core(), 0x2000, 4, Privilege::Current), Ok(7));
    }

    #[test]
    fn flushing_one_address_of_a_large_page_drops_the_others() {
        let mut r = rig();
        mmu::note_large_page(r.core(), 0x2000, 21, false);
        assert_eq!(load(r.core(), 0x2000, 4, Privilege::Current), Ok(0));
        phys_store(r.core(), 0x7000, 4, 7);
        r.cpu.pages[2].gpa = 0x7000;
        mmu::flush_page(r.core(), 0x1f_f000);
        assert_eq!(load(r.core(), 0x2000, 4, Privilege::Current), Ok(7));
    }

    #[test]
    fn device_and_rom_accesses_reach_the_machine_with_their_width() {
        let mut r = rig();
        r.cpu.pages[4].gpa = DEVICE;
        let expected = DEVICE.wrapping_add(8).wrapping_mul(0x0101_0101_0101_0101) ^ 0x5a;
        assert_eq!(load(r.core(), 0x4008, 2, Privilege::Current), Ok(expected & 0xffff));
        store(r.core(), 0x4010, 4, 0xaabb_ccdd_eeff, Privilege::Current).unwrap();
        let rom = ROM_PAGE as u64 * 4096;
        store(r.core(), rom, 1, 0x55, Privilege::Current).unwrap();
        assert_eq!(load(r.core(), rom, 1, Privilege::Current), Ok(0));
        let log = r.machine().device_log.clone();
        assert_eq!(log, [(DEVICE + 8, 2, None), (DEVICE + 16, 4, Some(0xccdd_eeff)), (rom, 1, Some(0x55))]);
    }

    #[test]
    fn a_run_ends_at_the_page_and_is_refused_for_devices() {
        let mut r = rig();
        r.cpu.pages[4].gpa = DEVICE;
        let found = run(r.core(), 0x2ff0, Access::Write, Privilege::Current).unwrap();
        assert_eq!(found.map(|f| f.len), Some(16));
        assert!(run(r.core(), 0x4000, Access::Read, Privilege::Current).unwrap().is_none());
    }

    #[test]
    fn the_topmost_page_does_not_hit_an_empty_set() {
        let mut r = rig();
        assert_eq!(load(r.core(), u64::MAX - 7, 8, Privilege::Current), Err(Fault));
    }
}
