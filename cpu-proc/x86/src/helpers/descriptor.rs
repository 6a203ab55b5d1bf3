//! Selectors and descriptors. Source: Intel SDM volume 3A sections 3.4 and 3.5; AMD64 APM volume 2 chapter 4.

use bulkhead_engine::Fault;

use super::mem::{load_system, store_system};
use super::{raise, vector};
use crate::state::{Cpu, Segment, TableReg, attr, cr0, eflags, inhibit, seg};

/// System descriptor types (S = 0).
#[expect(missing_docs, reason = "the manual's own names")]
pub mod kind {
    pub const TSS16: u16 = 1;
    pub const LDT: u16 = 2;
    pub const TSS16_BUSY: u16 = 3;
    pub const CALL16: u16 = 4;
    pub const TASK_GATE: u16 = 5;
    pub const INT16: u16 = 6;
    pub const TRAP16: u16 = 7;
    pub const TSS32: u16 = 9;
    pub const TSS32_BUSY: u16 = 11;
    pub const CALL32: u16 = 12;
    pub const INT32: u16 = 14;
    pub const TRAP32: u16 = 15;
}

/// Eight descriptor bytes and where they lie.
#[derive(Clone, Copy, Debug, Default)]
pub struct Descriptor {
    /// The raw bytes.
    pub raw: u64,
    /// Linear address.
    pub addr: u64,
    /// The selector that named it.
    pub selector: u16,
}

/// The selector as an error code: RPL removed.
pub fn code_of(selector: u16) -> u32 {
    u32::from(selector & !3)
}

/// Whether it is a null selector.
pub fn is_null(selector: u16) -> bool {
    selector & !3 == 0
}

impl Descriptor {
    /// Segment base (bits 24..32 above bits 0..24).
    pub fn base(&self) -> u64 {
        self.raw >> 16 & 0xff_ffff | self.raw >> 32 & 0xff00_0000
    }

    /// Inclusive limit in bytes.
    pub fn limit(&self) -> u32 {
        let limit = (self.raw & 0xffff | self.raw >> 32 & 0xf_0000) as u32;
        if self.attr() & attr::GRANULAR != 0 { limit << 12 | 0xfff } else { limit }
    }

    /// In the layout of [`Segment::attr`].
    pub fn attr(&self) -> u16 {
        (self.raw >> 40) as u16 & 0xf0ff
    }

    /// Type field, 4 bits.
    pub fn kind(&self) -> u16 {
        self.attr() & 15
    }

    /// Code or data rather than system.
    pub fn is_segment(&self) -> bool {
        self.attr() & attr::S != 0
    }

    /// Code.
    pub fn is_code(&self) -> bool {
        self.attr() & (attr::S | attr::CODE) == attr::S | attr::CODE
    }

    /// Data.
    pub fn is_data(&self) -> bool {
        self.attr() & (attr::S | attr::CODE) == attr::S
    }

    /// Conforming code.
    pub fn is_conforming(&self) -> bool {
        self.is_code() && self.attr() & attr::CONFORMING != 0
    }

    /// Readable data or code.
    pub fn is_readable(&self) -> bool {
        self.is_data() || self.is_code() && self.attr() & attr::READABLE != 0
    }

    /// Writable data.
    pub fn is_writable(&self) -> bool {
        self.is_data() && self.attr() & attr::WRITABLE != 0
    }

    /// Present.
    pub fn present(&self) -> bool {
        self.attr() & attr::PRESENT != 0
    }

    /// Privilege level.
    pub fn dpl(&self) -> u32 {
        u32::from(self.attr() >> attr::DPL_SHIFT) & 3
    }

    /// Gate: target selector.
    pub fn gate_selector(&self) -> u16 {
        (self.raw >> 16) as u16
    }

    /// Gate: target offset, low 32 bits.
    pub fn gate_offset(&self) -> u64 {
        self.raw & 0xffff | self.raw >> 32 & 0xffff_0000
    }

    /// The hidden part for `selector`.
    pub fn segment(&self, selector: u16) -> Segment {
        Segment { base: self.base(), limit: self.limit(), attr: self.attr(), selector }
    }
}

/// The table that `selector` indexes; none when the LDT is null.
fn table_of(cpu: &Cpu, selector: u16) -> Option<TableReg> {
    if selector & 4 == 0 {
        Some(cpu.gdtr)
    } else if cpu.ldtr.usable() {
        Some(TableReg { base: cpu.ldtr.base, limit: cpu.ldtr.limit, pad: 0 })
    } else {
        None
    }
}

/// Reads a descriptor; outside its table raises `vector` with the selector (and `ext` in bit 0).
pub fn fetch(cpu: &mut Cpu, selector: u16, vector: u8, ext: u32) -> Result<Descriptor, Fault> {
    match try_fetch(cpu, selector)? {
        Some(descriptor) => Ok(descriptor),
        None => Err(raise(cpu, vector, Some(code_of(selector) | ext))),
    }
}

/// Reads a descriptor; `None` outside its table. Only page faults are errors.
pub fn try_fetch(cpu: &mut Cpu, selector: u16) -> Result<Option<Descriptor>, Fault> {
    let index = u64::from(selector & !7);
    let Some(table) = table_of(cpu, selector) else { return Ok(None) };
    if index + 7 > u64::from(table.limit) {
        return Ok(None);
    }
    let addr = table.base.wrapping_add(index);
    let raw = load_system(cpu, addr, 8)?;
    Ok(Some(Descriptor { raw, addr, selector }))
}

/// Upper eight bytes of a 16-byte descriptor of long mode; outside the table raises `vector`.
pub fn fetch_upper(cpu: &mut Cpu, descriptor: &Descriptor, vector: u8, ext: u32) -> Result<u64, Fault> {
    let index = u64::from(descriptor.selector & !7);
    let inside = table_of(cpu, descriptor.selector).is_some_and(|t| index + 15 <= u64::from(t.limit));
    if !inside {
        return Err(raise(cpu, vector, Some(code_of(descriptor.selector) | ext)));
    }
    load_system(cpu, descriptor.addr.wrapping_add(8), 8)
}

/// Sets the accessed bit of a code or data descriptor, in memory and in `descriptor`.
pub fn mark_accessed(cpu: &mut Cpu, descriptor: &mut Descriptor) -> Result<(), Fault> {
    if descriptor.is_segment() && descriptor.attr() & attr::ACCESSED == 0 {
        descriptor.raw |= 1 << 40;
        store_system(cpu, descriptor.addr.wrapping_add(5), 1, descriptor.raw >> 40 & 0xff)?;
    }
    Ok(())
}

/// Writes the type byte of a TSS descriptor with the busy bit set or cleared.
pub fn set_busy(cpu: &mut Cpu, descriptor: &mut Descriptor, busy: bool) -> Result<(), Fault> {
    let bit = 1u64 << 41;
    descriptor.raw = if busy { descriptor.raw | bit } else { descriptor.raw & !bit };
    store_system(cpu, descriptor.addr.wrapping_add(5), 1, descriptor.raw >> 40 & 0xff)
}

/// A null segment register in protected mode.
pub fn null(selector: u16) -> Segment {
    Segment { base: 0, limit: 0, attr: 0, selector }
}

/// Sets CS.
pub fn set_cs(cpu: &mut Cpu, segment: Segment) {
    cpu.segs[seg::CS] = segment;
}

/// CS after a transfer in protected mode to `selector` at privilege `cpl`.
pub fn set_cs_protected(cpu: &mut Cpu, descriptor: &Descriptor, selector: u16, cpl: u32) {
    let mut segment = descriptor.segment(selector & !3 | cpl as u16);
    if cpu.long_mode() && segment.attr & attr::LONG != 0 {
        segment.base = 0;
        segment.limit = u32::MAX;
    }
    set_cs(cpu, segment);
    cpu.set_cpl(cpl);
}

/// Loads a data segment register (ES, SS, DS, FS, GS) as `MOV sreg` does, in any mode.
pub fn load_segment(cpu: &mut Cpu, index: usize, selector: u16) -> Result<(), Fault> {
    if cpu.v86() {
        cpu.segs[index] = Segment::v86(selector);
    } else if cpu.cr0 & cr0::PE == 0 {
        // Limit and attributes stay ("unreal mode" depends on it).
        let s = &mut cpu.segs[index];
        s.selector = selector;
        s.base = u64::from(selector) << 4;
    } else {
        let segment = if index == seg::SS {
            check_stack(cpu, selector, cpu.cpl, vector::GP, 0)?
        } else {
            check_data(cpu, selector, vector::GP, 0)?
        };
        cpu.segs[index] = segment;
    }
    Ok(())
}

/// Descriptor checks for DS, ES, FS, GS at the current privilege. Bad selectors raise `vector`.
pub fn check_data(cpu: &mut Cpu, selector: u16, vector: u8, ext: u32) -> Result<Segment, Fault> {
    if is_null(selector) {
        return Ok(null(selector));
    }
    let code = code_of(selector) | ext;
    let mut d = fetch(cpu, selector, vector, ext)?;
    if !d.is_readable() {
        return Err(raise(cpu, vector, Some(code)));
    }
    let rpl = u32::from(selector & 3);
    if !d.is_conforming() && (rpl > d.dpl() || cpu.cpl > d.dpl()) {
        return Err(raise(cpu, vector, Some(code)));
    }
    if !d.present() {
        return Err(raise(cpu, vector::NP, Some(code)));
    }
    mark_accessed(cpu, &mut d)?;
    Ok(d.segment(selector))
}

/// Descriptor checks for SS at privilege `cpl`. Bad selectors raise `vector` (#GP for a load, #TS when the selector comes
/// from a task state); a missing segment raises #SS.
pub fn check_stack(cpu: &mut Cpu, selector: u16, cpl: u32, vector: u8, ext: u32) -> Result<Segment, Fault> {
    let rpl = u32::from(selector & 3);
    if is_null(selector) {
        // 64-bit code may run without a stack segment, except at the outermost level.
        if cpu.code64() && cpl < 3 && rpl == cpl {
            return Ok(Segment { attr: (cpl as u16) << attr::DPL_SHIFT, ..null(selector) });
        }
        return Err(raise(cpu, vector, Some(ext)));
    }
    let code = code_of(selector) | ext;
    let mut d = fetch(cpu, selector, vector, ext)?;
    if rpl != cpl || !d.is_writable() || d.dpl() != cpl {
        return Err(raise(cpu, vector, Some(code)));
    }
    if !d.present() {
        return Err(raise(cpu, vector::SS, Some(code)));
    }
    mark_accessed(cpu, &mut d)?;
    Ok(d.segment(selector))
}

/// After a return to an outer level: data segments that the outer level may not use become null. Base and limit stay in the hidden part,
/// as in processors; 64-bit code goes on to use the bases of FS and GS.
pub fn drop_inner_segments(cpu: &mut Cpu) {
    for index in [seg::ES, seg::DS, seg::FS, seg::GS] {
        let s = &cpu.segs[index];
        let conforming =
            s.attr & (attr::S | attr::CODE | attr::CONFORMING) == attr::S | attr::CODE | attr::CONFORMING;
        if s.usable() && !conforming && s.dpl() < cpu.cpl {
            cpu.segs[index] = Segment { base: s.base, limit: s.limit, ..null(0) };
        }
    }
}

/// Loads SS and holds off interrupts and traps for one instruction, as `MOV SS` and `POP SS` do.
pub fn load_stack_segment(cpu: &mut Cpu, selector: u16) -> Result<(), Fault> {
    load_segment(cpu, seg::SS, selector)?;
    cpu.inhibit |= inhibit::SHADOW | inhibit::TRAP;
    Ok(())
}

/// EFLAGS bits that an `IRET` or `POPF` of the current privilege may change: everything but IOPL below level 0, IF above
/// IOPL.
pub fn changeable_flags(cpu: &Cpu) -> u32 {
    let mut mask = crate::state::EFLAGS_CONTROL_ALL
        & !(eflags::VM | eflags::RF | eflags::VIF | eflags::VIP | eflags::IOPL | eflags::IF);
    if cpu.cpl == 0 {
        mask |= eflags::IOPL;
    }
    if cpu.cpl <= cpu.iopl() {
        mask |= eflags::IF;
    }
    mask
}
