//! Helpers: the parts of the instruction set that are too large to inline, called from lowered code by number.
//!
//! Each topic is a module with a constant list `HELPERS`; [`TABLE`] composes them. A body is an ordinary function
//! `fn(&mut Cpu, a, b, c, imm) -> Result<d, Fault>`; `helper!` wraps it for the engine.
//!
//! A body that fails has recorded the exception with [`raise`] (or a callee has) and has changed no architectural
//! register; memory that the instruction wrote before the fault stays written, as on the processor.

pub mod arith;
pub mod control;
pub mod descriptor;
pub mod far;
pub mod fastcall;
pub mod flags;
pub mod fp;
mod fp_3dnow;
pub mod fp_env;
pub mod fp_fxsave;
pub mod fp_host;
pub mod fp_mem;
pub mod fp_sse;
pub mod fp_strings;
pub mod fp_x87;
pub mod fp_x87_mem;
pub mod ids;
pub mod interrupt;
pub mod io;
pub mod iret;
pub mod mem;
pub mod misc;
pub mod monitor;
pub mod msr;
pub mod refine;
pub mod segload;
pub mod smm;
pub mod string;
pub mod task;

use bulkhead_engine::{CoreState, Fault, Helper, exit};
use bulkhead_ir::{FLAGS_ALL, HelperInfo};

use crate::state::{Cpu, Pending, key};
use ids::HELPERS;

/// A topic's helpers with their numbers.
pub type List = &'static [(u16, Helper)];

/// Exception vectors.
#[expect(missing_docs, reason = "the manual's own names")]
pub mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const MC: u8 = 18;
    pub const XM: u8 = 19;
}

/// Slot masks for [`HelperInfo::reads`] and [`HelperInfo::writes`].
#[expect(missing_docs, reason = "the registers' own names")]
pub mod slot {
    pub const NONE: u32 = 0;
    pub const RAX: u32 = 1 << 0;
    pub const RCX: u32 = 1 << 1;
    pub const RDX: u32 = 1 << 2;
    pub const RBX: u32 = 1 << 3;
    pub const RSP: u32 = 1 << 4;
    pub const RBP: u32 = 1 << 5;
    pub const RSI: u32 = 1 << 6;
    pub const RDI: u32 = 1 << 7;
    pub const R11: u32 = 1 << 11;
    pub const ALL: u32 = 0xffff;
}

/// A helper that touches no slot and no flag and cannot fault: the base that `helper!` entries override.
pub const PURE: HelperInfo =
    HelperInfo { name: "", reads: 0, writes: 0, flags_read: 0, flags_written: 0, may_exit: false };

/// A helper that may fault and touches no slot and no flag.
pub const FAULTS: HelperInfo = HelperInfo { may_exit: true, ..PURE };

/// A helper that may touch everything: control transfers, task switches, mode changes.
pub const EVERYTHING: HelperInfo = HelperInfo {
    name: "",
    reads: slot::ALL,
    writes: slot::ALL,
    flags_read: FLAGS_ALL,
    flags_written: FLAGS_ALL,
    may_exit: true,
};

/// `(number, Helper)` from a number, a body `fn(&mut Cpu, u64, u64, u64, u64) -> Result<u64, Fault>` and its effects:
/// `helper!(Sys::In, input, FAULTS)` or `helper!(Sys::Cpuid, cpuid, PURE, reads: .., writes: ..)`.
#[macro_export]
macro_rules! helper {
    ($number:expr, $body:path, $base:expr $(, $field:ident: $value:expr)* $(,)?) => {{
        unsafe extern "sysv64" fn shim(
            core: *mut bulkhead_engine::CoreState,
            a: u64,
            b: u64,
            c: u64,
            imm: u64,
        ) -> u64 {
            // SAFETY: the engine passes the `CoreState` at the head of the live `Cpu` that it runs, and nothing else
            // refers to it during the call.
            let cpu = unsafe { $crate::state::Cpu::from_core(core) };
            $body(cpu, a, b, c, imm).unwrap_or(0)
        }
        (
            $number as u16,
            bulkhead_engine::Helper {
                info: bulkhead_ir::HelperInfo { name: stringify!($body), $($field: $value,)* ..$base },
                func: shim,
            },
        )
    }};
}

/// Records exception `vector` (with error code `error` when there is one) and asks the engine to leave.
/// Returns the error to propagate: `return Err(raise(cpu, vector::GP, Some(0)))`.
#[cold]
pub fn raise(cpu: &mut Cpu, vector: u8, error: Option<u32>) -> Fault {
    cpu.pending = Pending {
        vector: u32::from(vector),
        error: error.unwrap_or(0),
        has_error: u32::from(error.is_some()),
        ..Pending::default()
    };
    cpu.core.exit = exit::FAULT;
    Fault
}

/// General protection with error code `error` (a selector without RPL, or 0).
pub fn gp(cpu: &mut Cpu, error: u32) -> Fault {
    raise(cpu, vector::GP, Some(error))
}

/// Invalid opcode.
pub fn ud(cpu: &mut Cpu) -> Fault {
    raise(cpu, vector::UD, None)
}

/// Ends a control transfer whose helper has set the new pc: the mode may have changed, and a trap flag that was set when the
/// instruction began raises the single-step trap after it.
pub fn landed(cpu: &mut Cpu) -> Result<u64, Fault> {
    let stepping = cpu.key & key::TRAP != 0;
    cpu.update_key();
    if stepping { Err(step_trap(cpu)) } else { Ok(0) }
}

/// As [`landed`] for `SYSCALL` and `SYSRET`, after which the *new* trap flag counts (AMD64 APM volume 3).
pub fn landed_by_new_flag(cpu: &mut Cpu) -> Result<u64, Fault> {
    cpu.update_key();
    if cpu.key & key::TRAP != 0 { Err(step_trap(cpu)) } else { Ok(0) }
}

/// Records the single-step trap, with the data breakpoints that the instruction hit.
pub fn step_trap(cpu: &mut Cpu) -> Fault {
    let fault = raise(cpu, vector::DB, None);
    cpu.pending.dr6 = 1 << 14 | std::mem::take(&mut cpu.watched);
    fault
}

fn undefined(cpu: &mut Cpu, _: u64, _: u64, _: u64, _: u64) -> Result<u64, Fault> {
    Err(ud(cpu))
}

/// `Sys::Raise`.
fn raise_now(cpu: &mut Cpu, a: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let error = (imm & 0x100 != 0).then_some(a as u32);
    Err(raise(cpu, imm as u8, error))
}

const GENERAL: List = &[helper!(ids::Sys::Raise, raise_now, FAULTS)];

/// Every topic's list. A module adds itself here.
const LISTS: &[List] = &[
    GENERAL,
    arith::HELPERS,
    control::HELPERS,
    far::HELPERS,
    fastcall::HELPERS,
    flags::HELPERS,
    fp::HELPERS,
    interrupt::HELPERS,
    io::HELPERS,
    iret::HELPERS,
    misc::HELPERS,
    monitor::HELPERS,
    msr::HELPERS,
    segload::HELPERS,
    smm::HELPERS,
    string::HELPERS,
];

const fn compose(lists: &[List]) -> [Helper; HELPERS] {
    let empty = helper!(0, undefined, FAULTS).1;
    let mut table = [empty; HELPERS];
    let mut i = 0;
    while i < lists.len() {
        let list = lists[i];
        let mut j = 0;
        while j < list.len() {
            table[list[j].0 as usize] = list[j].1;
            j += 1;
        }
        i += 1;
    }
    table
}

/// All helpers by number; numbers that nobody implements raise #UD.
pub static TABLE: [Helper; HELPERS] = compose(LISTS);

/// A helper body.
pub type Body = fn(&mut Cpu, u64, u64, u64, u64) -> Result<u64, Fault>;

impl Cpu {
    /// The CPU whose engine part `core` is.
    ///
    /// # Safety
    /// `core` must be the first field of a live `Cpu` to which no other reference is used while the result lives.
    pub unsafe fn from_core<'a>(core: *mut CoreState) -> &'a mut Cpu {
        // SAFETY: `Cpu` is `repr(C)` with the `CoreState` first; the caller promises the rest.
        unsafe { &mut *core.cast::<Cpu>() }
    }
}
