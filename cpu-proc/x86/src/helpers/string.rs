//! String instructions: whole repetitions in one call, page by page where both sides are plain memory.
//!
//! Registers advance with each finished piece, so that a fault or an interrupt in the middle restarts where it stopped.

use std::sync::atomic::Ordering;

use bulkhead_engine::mem::{self, Privilege, Run};
use bulkhead_engine::{Access, Fault, exit};
use bulkhead_ir::{FLAGS_ALL, HelperInfo};

use super::arith::set_slot;
use super::flags::check_alignment;
use super::ids::{Str, Sys};
use super::io::check_port;
use super::{FAULTS, List, TABLE, slot};
use crate::helper;
use crate::state::{Cpu, eflags, key, seg};

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RSI: usize = 6;
const RDI: usize = 7;

/// Elements moved at most before the attention word is looked at again.
const PIECE: u64 = 4096;

const MEMORY: HelperInfo = HelperInfo {
    reads: slot::RAX | slot::RCX | slot::RDX | slot::RSI | slot::RDI,
    writes: slot::RCX | slot::RSI | slot::RDI,
    ..FAULTS
};
const COMPARE: HelperInfo = HelperInfo { flags_read: FLAGS_ALL, flags_written: FLAGS_ALL, ..MEMORY };

/// This module's helpers.
pub const HELPERS: List = &[
    helper!(Str::Movs, movs, MEMORY),
    helper!(Str::Stos, stos, MEMORY),
    helper!(Str::Lods, lods, MEMORY, writes: slot::RAX | slot::RCX | slot::RSI),
    helper!(Str::Cmps, cmps, COMPARE),
    helper!(Str::Scas, scas, COMPARE),
    helper!(Str::Ins, ins, MEMORY),
    helper!(Str::Outs, outs, MEMORY),
];

/// The decoded immediate of a string helper, and the direction.
#[derive(Clone, Copy)]
struct Form {
    /// Log2 element size.
    w: u8,
    /// Log2 size of the address registers.
    aw: u8,
    /// 0 none, 1 `REP`/`REPE`, 2 `REPNE`.
    repeat: u8,
    /// Source segment.
    seg: usize,
    /// No base or limit but for FS and GS.
    flat: bool,
    backward: bool,
    code64: bool,
}

impl Form {
    fn of(cpu: &Cpu, imm: u64) -> Form {
        Form {
            w: imm as u8 & 3,
            aw: (imm >> 2) as u8 & 3,
            repeat: (imm >> 4) as u8 & 3,
            seg: ((imm >> 8) as usize & 7).min(seg::GS),
            flat: imm >> 12 & 1 != 0,
            backward: cpu.eflags & eflags::DF != 0,
            code64: cpu.key & key::CODE64 != 0,
        }
    }

    fn size(self) -> u64 {
        1 << self.w
    }

    fn address_mask(self) -> u64 {
        mask(self.aw)
    }
}

fn mask(w: u8) -> u64 {
    if w >= 3 { u64::MAX } else { (1 << (8 << w)) - 1 }
}

/// What one step did.
struct Step {
    /// Elements finished, at least one.
    done: u64,
    /// A comparison ended the repetition.
    stop: bool,
}

/// Repeats `step(cpu, form, at_most)` as the prefix says. `si` and `di` tell which registers advance.
fn repeat(
    cpu: &mut Cpu,
    (a, b): (u64, u64),
    form: Form,
    (si, di): (bool, bool),
    step: impl Fn(&mut Cpu, Form, u64) -> Result<Step, Fault>,
) -> Result<u64, Fault> {
    loop {
        let count = if form.repeat == 0 { 1 } else { cpu.core.slots[RCX] & form.address_mask() };
        if count == 0 {
            return Ok(b);
        }
        let stepping = cpu.eflags & eflags::TF != 0;
        let Step { done, stop } = step(cpu, form, if stepping { 1 } else { count.min(PIECE) })?;
        let bytes = done << form.w;
        let bytes = if form.backward { bytes.wrapping_neg() } else { bytes };
        for (moves, n) in [(si, RSI), (di, RDI)] {
            if moves {
                let value = cpu.core.slots[n].wrapping_add(bytes);
                set_slot(cpu, n, form.aw, value);
            }
        }
        if form.repeat == 0 {
            return Ok(b);
        }
        let left = count.wrapping_sub(done);
        set_slot(cpu, RCX, form.aw, left);
        if left == 0 || stop {
            return Ok(b);
        }
        // A data breakpoint that was hit traps between two repetitions.
        let interrupted = cpu.watched != 0 || cpu.core.attention().load(Ordering::Relaxed) != 0;
        if !stepping && !interrupted {
            continue;
        }
        // What comes now is pushed with RF, so that an instruction breakpoint is not hit again (SDM volume 3B section 18.3.1.1). RF
        // matters only while one is armed.
        if cpu.instruction_breakpoints() != 0 {
            cpu.eflags |= eflags::RF;
        }
        if !stepping {
            cpu.core.pc = a;
            cpu.core.exit = exit::AGAIN;
        }
        return Ok(a);
    }
}

/// Linear address of the element at `offset` in segment `segment`, aligned where that is checked.
fn linear(cpu: &mut Cpu, form: Form, segment: usize, offset: u64, write: bool) -> Result<u64, Fault> {
    let linear = segmented(cpu, form, segment, offset, write)?;
    check_alignment(cpu, linear, form.size())?;
    Ok(linear)
}

fn segmented(cpu: &mut Cpu, form: Form, segment: usize, offset: u64, write: bool) -> Result<u64, Fault> {
    if form.code64 {
        let base = if segment >= seg::FS { cpu.segs[segment].base } else { 0 };
        return Ok(base.wrapping_add(offset));
    }
    if form.flat && segment < seg::FS {
        return Ok(offset & 0xffff_ffff);
    }
    let imm = segment as u64 | u64::from(write) << 3 | u64::from(form.w) << 4;
    call(cpu, Sys::SegLinear, offset, 0, imm)
}

/// Another helper, by number.
fn call(cpu: &mut Cpu, id: Sys, a: u64, b: u64, imm: u64) -> Result<u64, Fault> {
    let Some(helper) = TABLE.get(id as usize) else { return Err(Fault) };
    // SAFETY: the helpers of this table take the `CoreState` at the head of a live `Cpu`; `cpu` is not used meanwhile.
    let value = unsafe { (helper.func)(std::ptr::from_mut(cpu).cast(), a, b, 0, imm) };
    if cpu.core.exit == exit::NONE { Ok(value) } else { Err(Fault) }
}

/// One side of a string instruction.
#[derive(Clone, Copy)]
struct Side {
    linear: u64,
    offset: u64,
    segment: usize,
}

fn source(cpu: &mut Cpu, form: Form) -> Result<Side, Fault> {
    let offset = cpu.core.slots[RSI] & form.address_mask();
    Ok(Side { linear: linear(cpu, form, form.seg, offset, false)?, offset, segment: form.seg })
}

fn destination(cpu: &mut Cpu, form: Form, write: bool) -> Result<Side, Fault> {
    let offset = cpu.core.slots[RDI] & form.address_mask();
    Ok(Side { linear: linear(cpu, form, seg::ES, offset, write)?, offset, segment: seg::ES })
}

/// Plain memory for several elements at `side`, going up: host address and number of elements, or `None` when they must go
/// one by one.
fn bulk(
    cpu: &mut Cpu,
    form: Form,
    side: Side,
    access: Access,
    count: u64,
) -> Result<Option<(*mut u8, u64)>, Fault> {
    if form.backward || count < 2 {
        return Ok(None);
    }
    let mut bytes = (form.address_mask() - side.offset).saturating_add(1);
    if !form.code64 {
        if !form.flat || side.segment >= seg::FS {
            let segment = cpu.segs[side.segment];
            // Expand-down data, and offsets at the limit: let each element be checked.
            if segment.attr & 0x1c == 0x14 {
                return Ok(None);
            }
            bytes = bytes.min((u64::from(segment.limit) + 1).saturating_sub(side.offset));
        }
        bytes = bytes.min((1 << 32) - (side.linear & 0xffff_ffff));
    }
    let Some(Run { host, len }) = mem::run(&mut cpu.core, side.linear, access, Privilege::Current)? else {
        return Ok(None);
    };
    let n = (bytes.min(len as u64) >> form.w).min(count);
    Ok((n > 0).then_some((host, n)))
}

fn load(cpu: &mut Cpu, form: Form, side: Side) -> Result<u64, Fault> {
    mem::load(&mut cpu.core, side.linear, form.size() as u32, Privilege::Current)
}

fn store(cpu: &mut Cpu, form: Form, side: Side, value: u64) -> Result<(), Fault> {
    mem::store(&mut cpu.core, side.linear, form.size() as u32, value, Privilege::Current)
}

const ONE: Step = Step { done: 1, stop: false };

/// Reads element `i` of `1 << w` bytes.
///
/// # Safety
/// The element is readable memory.
unsafe fn get(host: *const u8, w: u8, i: u64) -> u64 {
    // SAFETY: the caller's promise; elements need not be aligned.
    unsafe {
        let p = host.add((i << w) as usize);
        match w {
            0 => u64::from(p.read()),
            1 => u64::from(p.cast::<u16>().read_unaligned()),
            2 => u64::from(p.cast::<u32>().read_unaligned()),
            _ => p.cast::<u64>().read_unaligned(),
        }
    }
}

/// Writes element `i`.
///
/// # Safety
/// The element is writable memory.
unsafe fn put(host: *mut u8, w: u8, i: u64, value: u64) {
    // SAFETY: the caller's promise; elements need not be aligned.
    unsafe {
        let p = host.add((i << w) as usize);
        match w {
            0 => p.write(value as u8),
            1 => p.cast::<u16>().write_unaligned(value as u16),
            2 => p.cast::<u32>().write_unaligned(value as u32),
            _ => p.cast::<u64>().write_unaligned(value),
        }
    }
}

fn movs(cpu: &mut Cpu, a: u64, b: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let form = Form::of(cpu, imm);
    repeat(cpu, (a, b), form, (true, true), |cpu, form, count| {
        let from = source(cpu, form)?;
        let to = destination(cpu, form, true)?;
        if let Some((src, n)) = bulk(cpu, form, from, Access::Read, count)?
            && let Some((dst, n)) = bulk(cpu, form, to, Access::Write, n)?
        {
            let bytes = (n << form.w) as usize;
            let ahead = (dst as usize).wrapping_sub(src as usize);
            if ahead == 0 || ahead >= bytes {
                // SAFETY: both runs hold `bytes` bytes of guest memory; `copy` allows overlap.
                unsafe { std::ptr::copy(src, dst, bytes) };
            } else {
                // The destination overtakes the source: a repeating pattern, element by element.
                for i in 0..n {
                    // SAFETY: as above.
                    unsafe { put(dst, form.w, i, get(src, form.w, i)) };
                }
            }
            return Ok(Step { done: n, stop: false });
        }
        let value = load(cpu, form, from)?;
        store(cpu, form, to, value)?;
        Ok(ONE)
    })
}

fn stos(cpu: &mut Cpu, a: u64, b: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let form = Form::of(cpu, imm);
    repeat(cpu, (a, b), form, (false, true), |cpu, form, count| {
        let value = cpu.core.slots[RAX] & mask(form.w);
        let to = destination(cpu, form, true)?;
        let Some((dst, n)) = bulk(cpu, form, to, Access::Write, count)? else {
            store(cpu, form, to, value)?;
            return Ok(ONE);
        };
        let byte = value as u8;
        if value == u64::from_ne_bytes([byte; 8]) & mask(form.w) {
            // SAFETY: the run holds `n` elements of guest memory.
            unsafe { std::ptr::write_bytes(dst, byte, (n << form.w) as usize) };
        } else {
            for i in 0..n {
                // SAFETY: as above.
                unsafe { put(dst, form.w, i, value) };
            }
        }
        Ok(Step { done: n, stop: false })
    })
}

fn lods(cpu: &mut Cpu, a: u64, b: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let form = Form::of(cpu, imm);
    repeat(cpu, (a, b), form, (true, false), |cpu, form, _| {
        let from = source(cpu, form)?;
        let value = load(cpu, form, from)?;
        set_slot(cpu, RAX, form.w, value);
        Ok(ONE)
    })
}

/// Sets the flags of `x - y` at width `w`.
fn subtract_flags(cpu: &mut Cpu, x: u64, y: u64, w: u8) {
    let (x, y) = (x & mask(w), y & mask(w));
    let result = x.wrapping_sub(y) & mask(w);
    let sign = 1u64 << ((8 << w) - 1);
    let mut flags = 0;
    for (set, flag) in [
        (x < y, eflags::CF),
        ((result as u8).count_ones().is_multiple_of(2), eflags::PF),
        ((x ^ y ^ result) & 0x10 != 0, eflags::AF),
        (result == 0, eflags::ZF),
        (result & sign != 0, eflags::SF),
        ((x ^ y) & (x ^ result) & sign != 0, eflags::OF),
    ] {
        if set {
            flags |= flag;
        }
    }
    cpu.core.set_cc_eflags(flags);
}

/// Whether `REPE` or `REPNE` ends after comparing `x` with `y`.
fn ends(form: Form, x: u64, y: u64) -> bool {
    match form.repeat {
        1 => x != y,
        2 => x == y,
        _ => false,
    }
}

/// Compares until a fault, before which Intel's processors put the flags back (SDM volume 2, `REPE`); AMD's leave those of the last comparison.
fn keeping_flags(cpu: &mut Cpu, compare: impl FnOnce(&mut Cpu) -> Result<u64, Fault>) -> Result<u64, Fault> {
    let before = cpu.core.cc;
    let result = compare(cpu);
    if result.is_err() && cpu.model.is_intel() {
        cpu.core.cc = before;
    }
    result
}

fn cmps(cpu: &mut Cpu, a: u64, b: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let form = Form::of(cpu, imm);
    let compare = |cpu: &mut Cpu, form: Form, count: u64| {
        let from = source(cpu, form)?;
        let to = destination(cpu, form, false)?;
        if let Some((left, n)) = bulk(cpu, form, from, Access::Read, count)?
            && let Some((right, n)) = bulk(cpu, form, to, Access::Read, n)?
        {
            let mut last = (0, 0);
            for i in 0..n {
                // SAFETY: both runs hold `n` elements of guest memory.
                last = unsafe { (get(left, form.w, i), get(right, form.w, i)) };
                if ends(form, last.0, last.1) {
                    subtract_flags(cpu, last.0, last.1, form.w);
                    return Ok(Step { done: i + 1, stop: true });
                }
            }
            subtract_flags(cpu, last.0, last.1, form.w);
            return Ok(Step { done: n, stop: false });
        }
        let x = load(cpu, form, from)?;
        let y = load(cpu, form, to)?;
        subtract_flags(cpu, x, y, form.w);
        Ok(Step { done: 1, stop: ends(form, x, y) })
    };
    keeping_flags(cpu, |cpu| repeat(cpu, (a, b), form, (true, true), compare))
}

fn scas(cpu: &mut Cpu, a: u64, b: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let form = Form::of(cpu, imm);
    let compare = |cpu: &mut Cpu, form: Form, count: u64| {
        let x = cpu.core.slots[RAX] & mask(form.w);
        let to = destination(cpu, form, false)?;
        if let Some((right, n)) = bulk(cpu, form, to, Access::Read, count)? {
            let mut y = 0;
            for i in 0..n {
                // SAFETY: the run holds `n` elements of guest memory.
                y = unsafe { get(right, form.w, i) };
                if ends(form, x, y) {
                    subtract_flags(cpu, x, y, form.w);
                    return Ok(Step { done: i + 1, stop: true });
                }
            }
            subtract_flags(cpu, x, y, form.w);
            return Ok(Step { done: n, stop: false });
        }
        let y = load(cpu, form, to)?;
        subtract_flags(cpu, x, y, form.w);
        Ok(Step { done: 1, stop: ends(form, x, y) })
    };
    keeping_flags(cpu, |cpu| repeat(cpu, (a, b), form, (false, true), compare))
}

/// Whether elements may go to or come from a port in one piece: the current privilege may use every port without consulting the task's
/// permission map, and no breakpoint can lie on one.
fn may_move_at_once(cpu: &Cpu) -> bool {
    let mode = cpu.key;
    let cpl = mode >> key::CPL_SHIFT & 3;
    let iopl = mode >> key::IOPL_SHIFT & 3;
    let open = mode & key::PROTECTED == 0 || (mode & key::V86 == 0 && cpl <= iopl);
    open && cpu.dr[7] & 0xff == 0
}

fn ins(cpu: &mut Cpu, a: u64, b: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let form = Form::of(cpu, imm);
    repeat(cpu, (a, b), form, (false, true), |cpu, form, count| {
        let port = cpu.core.slots[RDX] as u16;
        check_port(cpu, port, form.size() as u8)?;
        let to = destination(cpu, form, true)?;
        if may_move_at_once(cpu)
            && let Some((dst, n)) = bulk(cpu, form, to, Access::Write, count)?
        {
            let mut data = [0u8; 4096];
            let data = data.get_mut(..(n << form.w) as usize).unwrap_or_default();
            cpu.core.machine().port_read_block(port, form.size() as u8, data);
            // SAFETY: the run holds `n` elements, which is what `data` has.
            unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), dst, data.len()) };
            return Ok(Step { done: n, stop: false });
        }
        // A read from the port cannot be taken back: make sure of the store first.
        mem::probe(&mut cpu.core, to.linear, form.size() as u32, Access::Write, Privilege::Current)?;
        let value = call(cpu, Sys::In, u64::from(port), 0, u64::from(form.w))?;
        store(cpu, form, to, value)?;
        Ok(ONE)
    })
}

fn outs(cpu: &mut Cpu, a: u64, b: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let form = Form::of(cpu, imm);
    repeat(cpu, (a, b), form, (true, false), |cpu, form, count| {
        let port = cpu.core.slots[RDX] as u16;
        check_port(cpu, port, form.size() as u8)?;
        let from = source(cpu, form)?;
        if may_move_at_once(cpu)
            && let Some((src, n)) = bulk(cpu, form, from, Access::Read, count)?
        {
            let mut data = [0u8; 4096];
            let data = data.get_mut(..(n << form.w) as usize).unwrap_or_default();
            // SAFETY: the run holds `n` elements, which is what `data` has.
            unsafe { std::ptr::copy_nonoverlapping(src, data.as_mut_ptr(), data.len()) };
            cpu.core.machine().port_write_block(port, form.size() as u8, data);
            return Ok(Step { done: n, stop: false });
        }
        let value = load(cpu, form, from)?;
        call(cpu, Sys::Out, u64::from(port), value, u64::from(form.w))?;
        Ok(ONE)
    })
}
