//! Vector ops: each distinct host instruction becomes a small function once, run under the guest's MXCSR.

use bulkhead_ir::{Op, VTEMP0, VecOp, VecShape, W64};

use crate::codebuf::CodeBuf;
use crate::mxcsr;
use crate::state::CoreState;
use crate::table::FastMap;
use crate::vecinsn;

/// `(vector d, vector a, GPR operand) -> GPR result or flags`.
type Thunk = unsafe extern "sysv64" fn(*mut u8, *const u8, u64) -> u64;

const BYTES: usize = 64 << 10;
const RAX: u8 = 0;
const RDX: u8 = 2;

/// The functions made so far.
#[derive(Default)]
pub(crate) struct Thunks {
    code: Option<CodeBuf>,
    used: usize,
    made: FastMap<(u64, u32), u64>,
}

impl Thunks {
    /// Reserves the code buffer; without it the first vector op does.
    pub fn prepare(&mut self) -> std::io::Result<()> {
        if self.code.is_none() {
            self.code = Some(CodeBuf::new(BYTES)?);
        }
        Ok(())
    }

    /// Runs vector op `op`, with `gpr` the value of its GPR source. Returns the value of its GPR destination, if it has one.
    pub fn run(&mut self, core: &mut CoreState, op: &Op, gpr: u64) -> Option<u64> {
        let address = self.find(op)?;
        // SAFETY: `find` returns the start of a function with this signature that it generated.
        let thunk: Thunk = unsafe { std::mem::transmute(address as usize) };
        let media = op.k == VecShape::MM as u8;
        let (d, a) = (vector(core, op.d, media), vector(core, op.a, media));
        mxcsr::set(core.mxcsr);
        // SAFETY: both pointers are 16 bytes of the CPU struct; the code touches nothing else.
        let r = unsafe { thunk(d, a, gpr) };
        core.mxcsr = mxcsr::get();
        mxcsr::set(core.host_mxcsr);
        if media && op.d < VTEMP0 {
            // The processor writes ones to sign and exponent of a register that MMX changes.
            let slot = &mut core.media[usize::from(op.d) % 8];
            slot[8] = 0xff;
            slot[9] = 0xff;
        }
        if op.k == VecShape::Flags as u8 {
            core.cc = r as u32;
        }
        (op.k == VecShape::GV as u8).then_some(r)
    }

    fn find(&mut self, op: &Op) -> Option<u64> {
        let key = (op.imm as u64, u32::from(op.k) | u32::from(op.w == W64) << 8);
        if let Some(&address) = self.made.get(&key) {
            return Some(address);
        }
        self.prepare().ok()?;
        let body = generate(op);
        let code = self.code.as_mut()?;
        if self.used + body.len() > code.len() {
            self.used = 0;
            self.made.clear();
        }
        let at = self.used;
        if !code.put(at, &body) {
            return None;
        }
        self.used += body.len().next_multiple_of(16);
        let address = code.address(at);
        self.made.insert(key, address);
        Some(address)
    }
}

/// The function for `op`.
fn generate(op: &Op) -> Vec<u8> {
    let insn = VecOp::unpack(op.imm);
    let mut out = Vec::with_capacity(48);
    let media = op.k == VecShape::MM as u8;
    if media {
        out.extend([0x0f, 0x6f, 0x07]); // movq mm0, [rdi]
        out.extend([0x0f, 0x6f, 0x0e]); // movq mm1, [rsi]
    } else {
        out.extend([0x0f, 0x10, 0x07]); // movups xmm0, [rdi]
        out.extend([0x0f, 0x10, 0x0e]); // movups xmm1, [rsi]
    }
    let (d, a) = match op.k {
        k if k == VecShape::GV as u8 => (RAX, 1),
        k if k == VecShape::VG as u8 => (0, RDX),
        _ => (0, 1),
    };
    vecinsn::encode(&mut out, insn, op.k, op.w, d, a);
    if media {
        out.extend([0x0f, 0x7f, 0x07]); // movq [rdi], mm0
        out.extend([0x0f, 0x77]); // emms
    } else if op.k == VecShape::VV as u8 || op.k == VecShape::VG as u8 {
        out.extend([0x0f, 0x11, 0x07]); // movups [rdi], xmm0
    } else if op.k == VecShape::Flags as u8 {
        out.extend([0x0f, 0x90, 0xc0]); // seto al
        out.push(0x9f); // lahf
        out.extend([0x0f, 0xb7, 0xc0]); // movzx eax, ax
    }
    out.push(0xc3);
    out
}

fn vector(core: &mut CoreState, slot: u8, media: bool) -> *mut u8 {
    let slot = usize::from(slot);
    if media && slot < usize::from(VTEMP0) {
        core.media[slot % 8].as_mut_ptr()
    } else {
        // The unused source of a shift by immediate has no slot; any readable vector serves.
        core.vec[slot % core.vec.len()].as_mut_ptr()
    }
}
