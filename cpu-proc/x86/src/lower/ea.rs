//! Effective addresses: from a decoded memory operand to the linear address of an access.
//!
//! Flat protected mode and 64-bit mode fold base, index and displacement into the load or store. Elsewhere the offset is
//! computed first, then `Sys::SegLinear` checks it against the segment and adds the base.

use bulkhead_ir::{ADDR32, NONE, Name, Op, Opcode, W16, W32, W64};
use iced_x86::{Instruction, Register};

use super::ctx::{Ctx, gpr, seg_base_field};
use super::sse::W128;
use crate::helpers::ids::Sys;
use crate::state::{key, seg};

/// A linear address, in the form memory ops take: `base + (index << scale) + disp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addr {
    /// Base name or [`NONE`].
    pub base: Name,
    /// Index name or [`NONE`].
    pub index: Name,
    /// Shift of the index.
    pub scale: u8,
    /// Displacement.
    pub disp: i64,
    /// Memory flags that belong to the address: 0 or [`ADDR32`].
    pub flags: u8,
}

impl Addr {
    /// The linear address in one name.
    pub fn name(base: Name) -> Addr {
        Addr { base, index: NONE, scale: 0, disp: 0, flags: 0 }
    }

    /// A memory op on `d` at this address.
    pub fn op(self, op: Opcode, w: u8, d: Name, flags: u8) -> Op {
        Op {
            w,
            d,
            a: self.base,
            b: self.index,
            s: self.scale,
            k: self.flags | flags,
            imm: self.disp,
            ..Op::new(op)
        }
    }

    /// Raises `#AC` where the mode checks alignment and the address is no multiple of `1 << w`.
    pub fn aligned(self, ctx: &mut Ctx, w: u8) -> Addr {
        if w == 0 || !ctx.has(key::ALIGN) {
            return self;
        }
        let linear = self.to_name(ctx);
        ctx.call_void(Sys::AlignCheck as u16, linear, NONE, NONE, u64::from(w));
        Addr::name(linear)
    }

    /// The address in a temporary, wrapped.
    pub fn to_name(self, ctx: &mut Ctx) -> Name {
        if self.base != NONE && self.index == NONE && self.disp == 0 && self.flags == 0 {
            return self.base;
        }
        let w = if self.flags & ADDR32 != 0 { W32 } else { W64 };
        let d = ctx.temp();
        ctx.op(Op {
            w,
            d,
            a: self.base,
            b: self.index,
            s: self.scale,
            imm: self.disp,
            ..Op::new(Opcode::Lea)
        });
        d
    }
}

/// An effective address: segment and offset expression, unchecked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ea {
    /// Segment number, see [`seg`].
    pub seg: usize,
    /// Base name or [`NONE`].
    pub base: Name,
    /// Index name or [`NONE`].
    pub index: Name,
    /// Shift of the index.
    pub scale: u8,
    /// Displacement.
    pub disp: i64,
    /// Width that the offset wraps at: `W16`, `W32`, `W64`.
    pub w: u8,
}

/// Segment number of an iced segment register.
pub fn seg_number(reg: Register) -> usize {
    match reg {
        Register::ES => seg::ES,
        Register::CS => seg::CS,
        Register::SS => seg::SS,
        Register::FS => seg::FS,
        Register::GS => seg::GS,
        _ => seg::DS,
    }
}

fn width_of_address(insn: &Instruction) -> u8 {
    let reg = match insn.memory_base() {
        Register::None => insn.memory_index(),
        base => base,
    };
    match (reg, insn.memory_displ_size()) {
        (Register::RIP, _) => W64,
        (Register::EIP, _) => W32,
        (Register::None, 2) => W16,
        (Register::None, 4) => W32,
        (Register::None, _) => W64,
        (reg, _) => match reg.size() {
            2 => W16,
            4 => W32,
            _ => W64,
        },
    }
}

impl Ea {
    /// Of the memory operand of `insn`.
    pub fn of(insn: &Instruction) -> Ea {
        let w = width_of_address(insn);
        let name = |reg: Register| match reg {
            // Instruction-relative displacements come out of the decoder as absolute addresses.
            Register::None | Register::RIP | Register::EIP => NONE,
            reg => gpr(reg).0,
        };
        let disp = insn.memory_displacement64();
        let disp = match w {
            W16 => i64::from(disp as i16),
            W32 => i64::from(disp as i32),
            _ => disp as i64,
        };
        Ea {
            seg: seg_number(insn.memory_segment()),
            base: name(insn.memory_base()),
            index: name(insn.memory_index()),
            scale: insn.memory_index_scale().trailing_zeros() as u8,
            disp,
            w,
        }
    }

    /// Offset in name `offset` of width `w` in segment `seg`.
    pub fn at_name(seg: usize, offset: Name, disp: i64, w: u8) -> Ea {
        Ea { seg, base: offset, index: NONE, scale: 0, disp, w }
    }

    /// `disp` bytes further, wrapping as the address does.
    pub fn at(self, disp: i64) -> Ea {
        Ea { disp: self.disp.wrapping_add(disp), ..self }
    }

    /// The offset (what `LEA` gives), zero-extended in a temporary.
    pub fn offset(self, ctx: &mut Ctx) -> Name {
        let d = ctx.temp();
        ctx.op(self.lea(d, self.w));
        d
    }

    /// The op that computes the offset at width `w` into `d`.
    pub fn lea(self, d: Name, w: u8) -> Op {
        Op { w, d, a: self.base, b: self.index, s: self.scale, imm: self.disp, ..Op::new(Opcode::Lea) }
    }

    /// Segment base plus offset, without a check.
    fn based(self, ctx: &mut Ctx, flags: u8) -> Addr {
        let base = ctx.ldf(W64, seg_base_field(self.seg));
        // One register of the width that the sum wraps at needs no offset of its own.
        let whole = if flags & ADDR32 != 0 { W32 } else { W64 };
        if self.w == whole && self.index == NONE {
            return Addr { base, index: self.base, scale: 0, disp: self.disp, flags };
        }
        let offset = self.offset(ctx);
        Addr { base, index: offset, scale: 0, disp: 0, flags }
    }

    /// Linear address of an access of `1 << w` bytes, which alignment checking wants to be aligned to that, or to 16 bytes.
    pub fn resolve(self, ctx: &mut Ctx, w: u8, write: bool) -> Addr {
        let addr = self.place(ctx, w, write);
        // Intel's processors do not check operands of 16 bytes (SDM volume 2, `MOVUPS`: that may differ).
        addr.aligned(ctx, if w == W128 && !ctx.amd { 0 } else { w.min(W128) })
    }

    /// Whether its segment may end before the last address. FS and GS have limits of their own, however flat the others are.
    pub fn is_limited(&self, ctx: &Ctx) -> bool {
        !ctx.code64() && (!ctx.flat() || self.seg >= seg::FS)
    }

    /// As [`Ea::resolve`], whatever the alignment.
    pub fn place(self, ctx: &mut Ctx, w: u8, write: bool) -> Addr {
        let direct =
            Addr { base: self.base, index: self.index, scale: self.scale, disp: self.disp, flags: 0 };
        if ctx.code64() {
            if self.seg < seg::FS {
                return match self.w {
                    W64 => direct,
                    _ => Addr { flags: ADDR32, ..direct },
                };
            }
            return self.based(ctx, 0);
        }
        // A code segment is never writable: let the check raise the fault.
        if ctx.flat() && self.seg < seg::FS && !(write && self.seg == seg::CS) {
            if self.w == W32 {
                return Addr { flags: ADDR32, ..direct };
            }
            let offset = self.offset(ctx);
            return Addr::name(offset);
        }
        if self.seg == seg::FS && ctx.has(key::WIDE_FS) || self.seg == seg::GS && ctx.has(key::WIDE_GS) {
            return self.based(ctx, ADDR32);
        }
        let offset = self.offset(ctx);
        let imm = self.seg as u64 | u64::from(write) << 3 | u64::from(w & 15) << 4;
        let linear = ctx.call(Sys::SegLinear as u16, offset, NONE, NONE, imm);
        Addr::name(linear)
    }
}
