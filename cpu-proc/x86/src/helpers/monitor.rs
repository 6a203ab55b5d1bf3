//! `MONITOR` and `MWAIT`. Source: Intel SDM volume 2 (`MONITOR`, `MWAIT`) and volume 3A section 9.10.
//!
//! Stores to the line by others, be they processors or bus masters, are not seen as they happen: while the processor waits, the line is
//! compared from time to time with what it held when it was armed. A store of what is there already goes unseen, so a wait ends after
//! 10 ms in any case. Software has to reckon with that: a wait may end for any reason.

use std::sync::atomic::{AtomicU64, Ordering};

use bulkhead_engine::{Access, Fault, Next, Page, exit};

use super::ids::Sys;
use super::{FAULTS, List, gp, slot};
use crate::helper;
use crate::paging;
use crate::state::{Cpu, eflags, halted, key, latched, reg};

/// Helpers of this topic.
pub const HELPERS: List = &[
    helper!(Sys::Monitor, monitor, FAULTS, reads: slot::RCX),
    helper!(Sys::Mwait, mwait, FAULTS, reads: slot::RCX),
];

/// Bytes that are watched, as `CPUID` leaf 5 says.
const LINE: u64 = 64;
/// Guest nanoseconds after which a wait ends without a reason.
const MOST_NS: u64 = 10_000_000;
/// Host nanoseconds between the first two looks at the line; then twice as many, [`DOUBLINGS`] times.
const FIRST_NS: u64 = 50_000;
const DOUBLINGS: u32 = 3;

/// A line of memory that `MONITOR` has armed.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Monitor {
    /// 1 while it is armed.
    armed: u32,
    /// Looks at it in the present wait.
    looks: u32,
    /// Its physical address.
    gpa: u64,
    /// What it held.
    held: [u64; LINE as usize / 8],
    /// Guest time at which the wait ends.
    until: u64,
}

impl Monitor {
    /// Nothing is watched any more.
    pub fn disarm(&mut self) {
        self.armed = 0;
    }
}

/// What the line at `gpa` holds; nothing where there is no memory, which is never written then.
fn line(cpu: &mut Cpu, gpa: u64) -> [u64; LINE as usize / 8] {
    let mut held = [0; LINE as usize / 8];
    if let Page::Memory { host, .. } = cpu.machine().page(gpa & !0xfff) {
        for (index, word) in held.iter_mut().enumerate() {
            // SAFETY: inside the page, which is memory until the machine asks for a flush; the line is aligned, and others write it.
            let at = unsafe { AtomicU64::from_ptr(host.add((gpa & 0xfc0) as usize + 8 * index).cast()) };
            *word = at.load(Ordering::Acquire);
        }
    }
    held
}

/// `Sys::Monitor`: the byte at linear address `a` has just been read.
fn monitor(cpu: &mut Cpu, a: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    if cpu.gpr32(reg::RCX) != 0 {
        return Err(gp(cpu, 0));
    }
    let gpa = paging::translate(cpu, a, 1, Access::Read, false)?.gpa & !(LINE - 1);
    let gpa = if gpa >> 32 == 0 { gpa & cpu.machine().a20_mask() } else { gpa };
    cpu.monitor = Monitor { armed: 1, gpa, held: line(cpu, gpa), ..Monitor::default() };
    Ok(0)
}

fn has_changed(cpu: &mut Cpu) -> bool {
    let Monitor { gpa, held, .. } = cpu.monitor;
    line(cpu, gpa) != held
}

/// `Sys::Mwait`; `a` = next pc.
fn mwait(cpu: &mut Cpu, a: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    let hints = cpu.gpr32(reg::RCX);
    if hints & !1 != 0 {
        return Err(gp(cpu, 0));
    }
    cpu.core.pc = a;
    if cpu.key & key::TRAP != 0 {
        // A single step ends the wait at once, as every debug exception does.
        cpu.monitor.disarm();
        return Err(super::step_trap(cpu));
    }
    if std::mem::take(&mut cpu.monitor.armed) == 0 || has_changed(cpu) {
        // It does not wait; but a guest that does this in a loop waits for others.
        cpu.machine().pause();
        return Ok(0);
    }
    cpu.monitor.until = cpu.machine().tsc().saturating_add(MOST_NS);
    cpu.halted = halted::MWAIT | if hints & 1 != 0 { halted::MASKED } else { 0 };
    cpu.core.exit = exit::HALT;
    Ok(0)
}

/// Whether a processor in `MWAIT` goes on, or how long it sleeps before the next look. Interrupts that are allowed have been taken.
pub fn wait(cpu: &mut Cpu) -> Next {
    let masked =
        cpu.halted & halted::MASKED != 0 && cpu.latched & latched::INTR != 0 && cpu.eflags & eflags::IF == 0;
    if masked || cpu.machine().tsc() >= cpu.monitor.until || has_changed(cpu) {
        cpu.halted = 0;
        return Next::Run;
    }
    let doublings = cpu.monitor.looks.min(DOUBLINGS);
    cpu.monitor.looks = cpu.monitor.looks.saturating_add(1);
    Next::Nap(FIRST_NS << doublings)
}
