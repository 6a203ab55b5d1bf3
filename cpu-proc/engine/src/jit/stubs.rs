//! Code that all blocks share: entry, exit, slow paths of memory accesses, the jump-cache lookup; and the Rust ends of them.
//!
//! Generated code keeps `CoreState + 128` in `rbp`, and a stack pointer that is a multiple of 16. rax, rsi and rdi are
//! scratch.

use std::mem::offset_of;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use bulkhead_ir::{IMPLICIT_SUPERVISOR, LD_FOR_WRITE, VSLOTS, W32, W64};

use super::asm::{Asm, M, NOREG, Opc, reg};
use super::flags::Pending;
use super::moves::Kind;
use super::regs::{ALLOCATABLE, CALLER_SAVED, saved_index, state};
use super::vectors;
use crate::blocks;
use crate::cache::Code;
use crate::count::{self, Tail};
use crate::engine::{Engine, SAMPLE};
use crate::mem;
use crate::mmu::{self, PAGE_SIZE, Place};
use crate::state::{
    Access, CoreState, JUMP_CACHE, JumpEntry, MMU_KERNEL, MMU_MODES, TLB_SETS, Tlb, TlbEntry, exit,
};

/// What a slow path must know of an access: a row of the side table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Pc of the instruction.
    pub pc: u64,
    /// Block that it is in.
    pub block: u32,
    /// First of its dirty slots in the pairs of the block.
    pub pairs: u32,
    /// How many.
    pub count: u8,
    /// Log2 of the access size.
    pub w: u8,
    /// Memory flags of the op, and the kind below.
    pub flags: u8,
    /// Host register, general or vector, of a stored value.
    pub value: u8,
    /// Constant to be stored, when `value` is [`NOREG`].
    pub constant: i32,
    /// How the guest's flags follow from its slots, when they are not in memory.
    pub flags_from: Option<Pending>,
    /// Row of [`Side::tails`] for the instructions behind it; 0 when they are not counted.
    pub tail: u32,
}

/// Kind bit in [`Record::flags`]: the access is of a vector slot.
pub(crate) const VECTOR: u8 = 0x80;

/// What a block adds to the side table: precise state at each access.
#[derive(Default)]
pub(crate) struct Side {
    /// Number of the first row.
    pub first_row: u32,
    pub records: Vec<Record>,
    /// `(slot, host register)` of slots newer than memory.
    pub pairs: Vec<(u8, u8)>,
    /// Number of the first of the tails.
    pub first_tail: u32,
    /// Instructions to the end of the block, from each on, while they are counted.
    pub tails: Vec<Tail>,
}

impl Side {
    /// For the next block.
    pub fn begin(&mut self, first_row: u32, first_tail: u32) {
        (self.first_row, self.first_tail) = (first_row, first_tail);
        self.records.clear();
        self.pairs.clear();
        self.tails.clear();
    }

    /// The tail of this number; 0 stands for none.
    pub fn tail(&self, number: u32) -> Option<Tail> {
        let at = number.checked_sub(self.first_tail).filter(|_| number != 0)?;
        self.tails.get(at as usize).copied()
    }
}

/// A load, in [`Stubs::searches`].
pub(crate) const SEARCH_READ: usize = 0;
/// A load that a store to the same place follows.
pub(crate) const SEARCH_UPDATE: usize = 1;
/// A store.
pub(crate) const SEARCH_WRITE: usize = 2;

/// Positions of the slow paths of accesses.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SlowPaths {
    /// Access of record edi at address rsi: rsi becomes a host address.
    pub load: usize,
    /// The store of record edi at address rsi is done.
    pub store: usize,
    /// Raises the alignment fault of record edi at rsi.
    pub misaligned: usize,
}

/// Positions of the shared code.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stubs {
    /// `extern "sysv64" fn(*mut CoreState, entry) -> link number + 1 or 0`.
    pub enter: usize,
    /// Leaves with rax as the result.
    pub leave: usize,
    /// Slow paths while no vector slot is in a register.
    pub plain: SlowPaths,
    /// Slow paths that keep the vector registers.
    pub with_vectors: SlowPaths,
    /// By whether vector registers are kept, by MMU mode, and by [`SEARCH_READ`] and so on: the access of record edi and of 4096 -
    /// eax bytes at address rsi through the TLB, then by the slow path. rsi becomes a host address; after a store that the slow
    /// path has done, one where nothing is.
    pub searches: [[[usize; 3]; MMU_MODES]; 2],
    /// Goes to the guest pc in rsi.
    pub lookup: usize,
    /// Goes to the guest pc in rsi, which is not in the jump-cache entry at offset rdi.
    pub second: usize,
    /// Leaves because of attention, with the pc in rsi.
    pub attention: usize,
    /// Bytes of it all.
    pub end: usize,
}

/// Where [`Stubs::searches`] keep what they are asked, in `CoreState::spill`: behind temporaries and host registers.
const SEARCH_SPILL: usize = 48;

fn spill(index: usize) -> M {
    state(offset_of!(CoreState, spill) + 8 * index)
}

/// Emits the shared code at position 0.
pub(crate) fn emit(asm: &mut Asm) -> Stubs {
    use reg::{RAX, RBP, RDI, RDX, RSI, RSP};
    let mut s = Stubs { enter: asm.here(), ..Stubs::default() };
    let mxcsr = state(offset_of!(CoreState, mxcsr));
    let host_mxcsr = state(offset_of!(CoreState, host_mxcsr));
    let entry_rsp = state(offset_of!(CoreState, entry_rsp));

    asm.bytes(&[0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57]); // push rbx, rbp, r12..r15
    asm.bytes(&[0x48, 0x83, 0xec, 0x08]); // sub rsp, 8
    asm.lea(W64, RBP, M::base(RDI, 128));
    asm.store(W64, RSP, entry_rsp);
    asm.rm(W32, 0x0fae, 2, mxcsr); // ldmxcsr
    asm.bytes(&[0xff, 0xe6]); // jmp rsi

    s.leave = asm.here();
    asm.rm(W32, 0x0fae, 3, mxcsr); // stmxcsr
    asm.rm(W32, 0x0fae, 2, host_mxcsr);
    asm.bytes(&[0x48, 0x83, 0xc4, 0x08]);
    asm.bytes(&[0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3]);

    let vector_registers = || (0..16u8).filter(|r| vectors::ALLOCATABLE >> r & 1 != 0);
    let slow = |asm: &mut Asm, target: u64, address: bool, keep: bool| {
        let at = asm.here();
        for r in (0..16u8).filter(|r| ALLOCATABLE >> r & 1 != 0) {
            asm.store(W64, r, spill(saved_index(r)));
        }
        for r in vector_registers().filter(|_| keep) {
            vectors::store(asm, r, vectors::spill_mem(r));
        }
        asm.mov(W64, RDX, RSI);
        asm.mov(W32, RSI, RDI);
        asm.lea(W64, RDI, M::base(RBP, -128));
        asm.bytes(&[0x48, 0x83, 0xec, 0x08]);
        asm.call_abs(target);
        asm.bytes(&[0x48, 0x83, 0xc4, 0x08]);
        asm.rr(W64, 0x85, RAX, RAX);
        let fault = asm.jcc(bulkhead_ir::cc::E);
        if address {
            asm.mov(W64, RSI, RAX);
        }
        for r in (0..16u8).filter(|r| (ALLOCATABLE & CALLER_SAVED) >> r & 1 != 0) {
            asm.load(W64, r, spill(saved_index(r)));
        }
        for r in vector_registers().filter(|_| keep) {
            vectors::load(asm, r, vectors::spill_mem(r));
        }
        asm.bytes(&[0xc3]);
        asm.land(fault);
        asm.load(W64, RSP, entry_rsp);
        asm.jmp_to(s.leave);
        at
    };
    let mut paths = |keep: bool| SlowPaths {
        load: slow(asm, slow_load as *const () as u64, true, keep),
        store: slow(asm, slow_store as *const () as u64, false, keep),
        misaligned: slow(asm, slow_misaligned as *const () as u64, false, keep),
    };
    s.plain = paths(false);
    s.with_vectors = paths(true);

    for (keep, slow) in [s.plain, s.with_vectors].into_iter().enumerate() {
        for mode in 0..MMU_MODES {
            for kind in [SEARCH_READ, SEARCH_UPDATE, SEARCH_WRITE] {
                s.searches[keep][mode][kind] = search(asm, mode, kind, slow);
            }
        }
    }

    s.attention = asm.here();
    asm.store(W64, RSI, state(offset_of!(CoreState, pc)));
    asm.mov_mi(W32, state(offset_of!(CoreState, exit)), exit::ATTENTION as i32);
    asm.rr(W32, 0x31, RAX, RAX);
    asm.jmp_to(s.leave);

    s.second = asm.here();
    asm.alu_ri(W32, 6, RDI, size_of::<JumpEntry>() as i32);
    let entry = |field: usize| M { base: RBP, index: RDI, scale: 0, disp: jump_disp(field) };
    asm.rm(W64, 0x39, RSI, entry(offset_of!(JumpEntry, pc)));
    let miss1 = asm.jcc(bulkhead_ir::cc::NE);
    asm.load(W64, RAX, state(offset_of!(CoreState, jump_key)));
    asm.rm(W64, 0x39, RAX, entry(offset_of!(JumpEntry, key)));
    let miss2 = asm.jcc(bulkhead_ir::cc::NE);
    asm.rm(W32, 0xff, 4, entry(offset_of!(JumpEntry, code)));
    asm.land(miss1);
    asm.land(miss2);
    asm.store(W64, RSI, state(offset_of!(CoreState, pc)));
    asm.rr(W32, 0x31, RAX, RAX);
    asm.jmp_to(s.leave);

    s.lookup = asm.here();
    lookup(asm, &s);
    s.end = asm.here();
    s
}

/// One of [`Stubs::searches`].
fn search(asm: &mut Asm, mode: usize, kind: usize, slow: SlowPaths) -> usize {
    use reg::{RAX, RDI, RSI};
    let at = asm.here();
    let access = if kind == SEARCH_READ { Access::Read } else { Access::Write };
    let (record, limit) = (spill(SEARCH_SPILL), spill(SEARCH_SPILL + 1));
    asm.store(W32, RDI, record);
    asm.store(W64, RAX, limit);
    asm.mov(W32, RDI, RSI);
    asm.rr(W32, 0xc1, 5, RDI);
    asm.bytes(&[8]);
    asm.alu_ri(W32, 4, RDI, tlb_index_mask());
    asm.load(W64, RAX, tlb_entry(mode, access, offset_of!(TlbEntry, tag)));
    asm.op_rr(W64, 0x31, RAX, RSI);
    asm.rm(W64, 0x3b, RAX, limit);
    let miss = asm.jcc(bulkhead_ir::cc::A);
    asm.rm(W64, 0x03, RSI, tlb_entry(mode, access, offset_of!(TlbEntry, addend)));
    asm.bytes(&[0xc3]);
    asm.land(miss);
    asm.load(W32, RDI, record);
    if kind == SEARCH_WRITE {
        asm.bytes(&[0x48, 0x83, 0xec, 0x08]);
        asm.call_to(slow.store);
        asm.bytes(&[0x48, 0x83, 0xc4, 0x08]);
        asm.lea(W64, RSI, state(offset_of!(CoreState, bounce)));
        asm.bytes(&[0xc3]);
    } else {
        asm.jmp_to(slow.load);
    }
    at
}

/// Mask of an address shifted right by 8: the offset of its TLB entry.
pub(crate) fn tlb_index_mask() -> i32 {
    ((TLB_SETS - 1) * size_of::<TlbEntry>()) as i32
}

/// A field of the TLB entry whose offset is in rdi.
pub(crate) fn tlb_entry(mode: usize, access: Access, field: usize) -> M {
    let table = offset_of!(CoreState, tlb)
        + mode * size_of::<Tlb>()
        + access as usize * TLB_SETS * size_of::<TlbEntry>();
    M { base: reg::RBP, index: reg::RDI, scale: 0, disp: super::regs::disp(table + field) }
}

/// Polls, then jumps to the compiled code for the pc in rsi, or leaves with that pc.
pub(crate) fn lookup(asm: &mut Asm, s: &Stubs) {
    use reg::{RBP, RDI, RSI};
    poll(asm);
    asm.jcc_to(bulkhead_ir::cc::NE, s.attention);
    asm.mov(W64, RDI, RSI);
    asm.rr(W64, 0xc1, 5, RDI); // shr rdi, 12
    asm.bytes(&[12]);
    asm.rr(W32, 0x31, RSI, RDI); // xor edi, esi
    asm.alu_ri(W32, 4, RDI, JUMP_CACHE as i32 - 1);
    asm.rr(W32, 0xc1, 4, RDI); // shl edi, 5
    asm.bytes(&[size_of::<JumpEntry>().trailing_zeros() as u8]);
    go(asm, s, M { base: RBP, index: RDI, scale: 0, disp: jump_disp(0) }, false);
}

/// Jumps to the compiled code for the constant `pc`, or leaves with that pc.
pub(crate) fn lookup_constant(asm: &mut Asm, s: &Stubs, pc: u64) {
    let offset = blocks::jump_slot(pc) * size_of::<JumpEntry>();
    asm.mov_ri(reg::RSI, pc);
    asm.mov_fixed(reg::RDI, offset as u64);
    asm.mark(Kind::Slot);
    go(asm, s, M::base(reg::RBP, jump_disp(offset)), true);
}

/// Jumps to the code of the jump-cache entry at `entry`, whose offset is in rdi and may be a constant, when it is of the pc in rsi.
fn go(asm: &mut Asm, s: &Stubs, entry: M, constant: bool) {
    let access = |asm: &mut Asm, w: u8, opcode: Opc, reg: u8, field: usize| {
        asm.rm(w, opcode, reg, M { disp: entry.disp + field as i32, ..entry });
        if constant {
            asm.mark(Kind::Slot);
        }
    };
    access(asm, W64, 0x39, reg::RSI, offset_of!(JumpEntry, pc));
    asm.jcc_to(bulkhead_ir::cc::NE, s.second);
    asm.load(W64, reg::RAX, state(offset_of!(CoreState, jump_key)));
    access(asm, W64, 0x39, reg::RAX, offset_of!(JumpEntry, key));
    asm.jcc_to(bulkhead_ir::cc::NE, s.second);
    access(asm, W32, 0xff, 4, offset_of!(JumpEntry, code));
}

/// Displacement from `rbp` of a byte of the jump cache.
fn jump_disp(offset: usize) -> i32 {
    super::regs::disp(offset_of!(CoreState, jump_cache) + offset)
}

/// Compares the attention word with zero; changes rax and the flags.
pub(crate) fn poll(asm: &mut Asm) {
    asm.load(W64, reg::RAX, state(offset_of!(CoreState, attention)));
    asm.alu_mi8(W32, 7, M::base(reg::RAX, 0), 0);
}

const _: () = assert!(size_of::<JumpEntry>() == 32);

fn record(core: &mut CoreState, index: u32) -> Record {
    // SAFETY: generated code that is running names the row.
    let row = Code::of(core).and_then(|(code, _)| unsafe { code.rows.get(index) });
    let row = row.unwrap_or(Record {
        pc: core.pc,
        block: 0,
        pairs: 0,
        count: 0,
        w: 0,
        flags: 0,
        value: 0,
        constant: 0,
        flags_from: None,
        tail: 0,
    });
    core.running = row.block;
    Engine::of(core).stats.slow_accesses += 1;
    look_behind(core, row.tail);
    row
}

/// The running instruction is the one before those of row `tail`, for whoever looks at the count.
fn look_behind(core: &mut CoreState, tail: u32) {
    if tail != 0 {
        let behind = count::tail(core, tail).map_or(0, |tail| tail.behind);
        core.counter.behind.store(behind, Relaxed);
        core.counter.tail.store(tail, Relaxed);
    }
}

/// The access of `row` is done: the block goes on.
fn go_on(core: &mut CoreState, row: &Record) {
    if row.tail != 0 {
        core.counter.behind.store(0, Relaxed);
        core.counter.tail.store(0, Relaxed);
    }
}

/// Puts the state back as it was before the instruction of `row`.
fn unwind(core: &mut CoreState, row: Record) {
    core.pc = row.pc;
    let pairs = Code::of(core)
        .filter(|_| row.count != 0)
        .and_then(|(code, _)| code.lock().table.block(row.block).map(|block| block.pairs.clone()));
    let pairs = pairs.iter().flat_map(|pairs| pairs.iter());
    for &(slot, host) in pairs.skip(row.pairs as usize).take(usize::from(row.count)) {
        match slot.checked_sub(vectors::SIDE) {
            Some(vector) => core.vec[usize::from(vector % VSLOTS)] = core.vec_spill[usize::from(host % 16)],
            None => core.slots[usize::from(slot) % 32] = core.spill[saved_index(host) % 64],
        }
    }
    if let Some(flags) = row.flags_from {
        flags.resolve(core);
    }
}

fn mode(core: &CoreState, row: &Record) -> usize {
    if row.flags & IMPLICIT_SUPERVISOR != 0 { MMU_KERNEL } else { core.mmu_mode as usize & 1 }
}

/// The time, if the access that begins is one of those that are timed.
fn sample(core: &mut CoreState) -> Option<Instant> {
    Engine::of(core).stats.slow_accesses.is_multiple_of(SAMPLE).then(Instant::now)
}

/// The access that began at `start` has ended.
fn took(core: &mut CoreState, start: Option<Instant>) {
    if let Some(start) = start {
        Engine::of(core).stats.access_ns += start.elapsed().as_nanos() as u64 * SAMPLE;
    }
}

/// Host address of the bytes to load (in memory, or copied to the bounce buffer), or 0 after a fault.
unsafe extern "sysv64" fn slow_load(core: *mut CoreState, index: u32, linear: u64) -> u64 {
    // SAFETY: the stub passes the running CPU; generated code holds no Rust reference to it.
    let core = unsafe { &mut *core };
    let start = sample(core);
    let row = record(core, index);
    let found = find_load(core, &row, linear);
    match found {
        Ok(_) => go_on(core, &row),
        Err(_) => unwind(core, row),
    }
    took(core, start);
    found.unwrap_or(0)
}

fn find_load(core: &mut CoreState, row: &Record, linear: u64) -> Result<u64, crate::Fault> {
    let (size, mode) = (1u32 << row.w, mode(core, row));
    if row.flags & LD_FOR_WRITE != 0 {
        mem::probe_in(core, linear, size, Access::Write, mode)?;
    }
    if linear % PAGE_SIZE + u64::from(size) <= PAGE_SIZE
        && let Place::Host(host) = mmu::place(core, linear, size, Access::Read, mode)?
    {
        return Ok(host as u64);
    }
    if size == 16 {
        let bytes = mem::load16_in(core, linear, mode)?;
        core.bounce[..16].copy_from_slice(&bytes);
    } else {
        let value = mem::load_in(core, linear, size, mode)?;
        core.bounce[..8].copy_from_slice(&value.to_le_bytes());
    }
    Ok(core.bounce.as_ptr() as u64)
}

/// Does the store; 0 after a fault, else 1.
unsafe extern "sysv64" fn slow_store(core: *mut CoreState, index: u32, linear: u64) -> u64 {
    // SAFETY: as in `slow_load`.
    let core = unsafe { &mut *core };
    let start = sample(core);
    let row = record(core, index);
    let (size, mode) = (1u32 << row.w, mode(core, &row));
    let done = if row.flags & VECTOR != 0 {
        let value = core.vec_spill[usize::from(row.value % 16)];
        match size {
            16 => mem::store16_in(core, linear, value, mode),
            _ => mem::store_in(core, linear, size, u128::from_le_bytes(value) as u64, mode),
        }
    } else {
        let value = match row.value {
            NOREG => i64::from(row.constant) as u64,
            r => core.spill[saved_index(r) % 64],
        };
        mem::store_in(core, linear, size, value, mode)
    };
    match done {
        Ok(()) => go_on(core, &row),
        Err(_) => unwind(core, row),
    }
    took(core, start);
    u64::from(done.is_ok())
}

/// Records the fault of an address that is not aligned, or no place to go to.
unsafe extern "sysv64" fn slow_misaligned(core: *mut CoreState, index: u32, linear: u64) -> u64 {
    // SAFETY: as in `slow_load`.
    let core = unsafe { &mut *core };
    let row = record(core, index);
    (core.ops.misaligned)(core, linear);
    unwind(core, row);
    0
}
