//! The run loop of one CPU.
//!
//! The attention word is cleared before [`GuestOps::attend`] samples its sources. A front end that cannot act on one yet
//! (interrupts masked) sets the word again when that changes.
//!
//! Others can set the word at any time, also over and over: between two looks at it there is a guest instruction. What the CPU's own side
//! insists on is attended to at once.
//!
//! [`GuestOps::attend`]: crate::GuestOps::attend

use std::sync::atomic::Ordering;
use std::time::Instant;

use bulkhead_ir::Block;

use crate::blocks;
use crate::cache::{self, Code, Found, New};
use crate::count;
use crate::engine::{COMPILE_SAMPLE, Engine, SAMPLE};
use crate::fetch::Fetcher;
use crate::guest::{Fault, Next};
use crate::jit;
use crate::mmu::{self, PAGE_SIZE, Place};
use crate::peers;
use crate::state::{Access, CoreState, MMU_USER, NO_BLOCK, exit, log};
use crate::table::{BlockId, Ident, LinkId};

/// Guest instructions in a compiled block at most.
const MAX_INSNS: u32 = 64;

/// Runs until a front-end callback says [`Next::Leave`].
pub fn run(core: &mut CoreState) {
    peers::wake(core);
    let start = Instant::now();
    let mut next = attend(core, false);
    let mut attended = true;
    loop {
        match next {
            Next::Run => {}
            Next::Halt | Next::Nap(_) => {
                (next, attended) = (halt(core), true);
                continue;
            }
            Next::Leave => {
                Engine::of(core).stats.run_ns += ns_since(start);
                return peers::rest(core);
            }
        }
        let called = core.attention().load(Ordering::Relaxed) != 0;
        if core.is_insisted() || count::is_spent(core) || called && !attended {
            (next, attended) = (attend(core, false), true);
            continue;
        }
        if called {
            // Compiled code could come back without having done anything.
            interpret(core);
        } else {
            advance(core);
        }
        (next, attended) = (after(core), false);
    }
}

/// Runs one guest instruction in the interpreter, delivering the exception it raises. Requests are not attended to.
pub fn step(core: &mut CoreState) -> Next {
    interpret(core);
    loop {
        let retry = core.exit == exit::RETRY_STEP;
        let next = after(core);
        if !retry {
            return next;
        }
    }
}

/// Runs some guest code: compiled blocks until something is to be done, or one instruction.
fn advance(core: &mut CoreState) {
    core.exit = exit::NONE;
    let stepping = core.log & (log::EXEC | log::CPU) != 0;
    let Some((code, me)) = Code::of(core).filter(|_| !stepping) else {
        return interpret(core);
    };
    let mut link = None;
    loop {
        let stats = &Engine::of(core).stats;
        let sampled = stats.returns.is_multiple_of(SAMPLE).then(|| (Instant::now(), stats.compiled));
        let Ok(found) = find(core, code, me, link) else { return };
        let Some(found) = found else { return interpret(core) };
        if !found.sure && core.attention().load(Ordering::Relaxed) != 0 {
            // Another CPU has made it since this one looked, and waits for it to drop its translation for writing that page: with that, a
            // store of the block to itself would go unnoticed.
            return;
        }
        if let Some((start, compiled)) = sampled {
            let stats = &mut Engine::of(core).stats;
            if stats.compiled == compiled {
                stats.dispatch_ns += ns_since(start) * SAMPLE;
            }
        }
        // SAFETY: `find` returned a block of this CPU's code for the current pc and context, and what was one stays where it is until
        // this CPU reads its inbox.
        let left = unsafe { jit::enter(core, code.enter, found.entry) } as LinkId;
        core.running = NO_BLOCK;
        count::settle(core);
        Engine::of(core).stats.returns += 1;
        link = left.checked_sub(1);
        if let Some(link) = link
            && let Some(l) = code.lock().table.link(link)
        {
            core.pc = l.target_pc;
        }
        if core.exit == exit::SPENT {
            // What is left before the limit is stepped.
            core.exit = exit::NONE;
            if !count::is_spent(core) {
                interpret(core);
            }
            return;
        }
        if core.exit != exit::NONE || core.attention().load(Ordering::Relaxed) != 0 {
            return;
        }
    }
}

/// Number of the context that the CPU is in; a new one when there were too many.
fn context(core: &mut CoreState, code: &Code, context: (u64, u64)) -> u32 {
    if let Some((last, id)) = Engine::of(core).last_context
        && last == context
    {
        return id;
    }
    let known = code.lock().table.context(context.0, context.1);
    let id = known.unwrap_or_else(|| {
        cache::drop_all(core);
        code.lock().table.context(context.0, context.1).unwrap_or(0)
    });
    Engine::of(core).last_context = Some((context, id));
    id
}

/// The compiled block at the current pc, compiling it if need be; `None` when the code cannot be cached. `link` led here.
fn find(core: &mut CoreState, code: &Code, me: usize, link: Option<LinkId>) -> Result<Option<Found>, Fault> {
    let linear = (core.ops.linear_pc)(core, core.pc);
    let base = linear.wrapping_sub(core.pc);
    let mode = core.mmu_mode as usize & 1;
    let key = (core.ops.block_key)(core) | (mode as u64) << 63;
    let context = context(core, code, (key, base));
    core.jump_key = blocks::jump_key(core, context);
    let host = match mmu::place(core, linear, 1, Access::Fetch, mode)? {
        Place::Host(host) | Place::Code(host) => host as u64,
        Place::Device(_) => return Ok(None),
    };
    let ident = Ident { host, pc: core.pc, context };
    match code.find(me, &ident, link) {
        Some(Ok(found)) if found.second == 0 || second_page(core, linear, mode)? == Some(found.second) => {
            Engine::of(core).stats.found += 1;
            if found.sure {
                blocks::cache_jump(core, ident.pc, linear, found.entry, found.second != 0);
            }
            return Ok(Some(found));
        }
        Some(Ok(Found { id, .. }) | Err(id)) => blocks::kill(core, id),
        None => {
            if let Some(found) = moved(core, code, me, (ident, linear, link)) {
                return Ok(Some(found));
            }
        }
    }
    compile(core, code, me, Wanted { ident, linear, base, mode, link })
}

/// A block for `ident` made of one for the same code at another pc, if there is one that is known to be as it was compiled.
fn moved(
    core: &mut CoreState,
    code: &Code,
    me: usize,
    (ident, linear, link): (Ident, u64, Option<LinkId>),
) -> Option<Found> {
    const LISTS: u32 = log::IN_ASM | log::OUT_ASM | log::OP | log::OP_OPT;
    if core.log & LISTS != 0 || !jit::Jit::may_move_to(ident.pc) {
        return None;
    }
    let mut gone = Vec::new();
    let found = code.move_to(me, &ident, link, &mut gone);
    gone.into_iter().for_each(|(pc, entry)| blocks::forget_jump(core, pc, entry));
    let found = found?;
    let engine = Engine::of(core);
    engine.stats.moved += 1;
    if engine.verify {
        verify(core, code, found.id, ident);
    }
    blocks::cache_jump(core, ident.pc, linear, found.entry, false);
    Some(found)
}

/// Compares block `id`, made for `ident` from another, with what is compiled from the same code.
fn verify(core: &mut CoreState, code: &Code, id: BlockId, ident: Ident) {
    let mut block = std::mem::take(&mut Engine::of(core).scratch);
    let (mode, base) =
        (core.mmu_mode as usize & 1, (core.ops.linear_pc)(core, ident.pc).wrapping_sub(ident.pc));
    if lower(core, MAX_INSNS, &mut block).is_ok() {
        code.verify(id, core.ops.helpers, &block, (mode, base));
    }
    Engine::of(core).scratch = block;
}

/// Host page behind the one of `linear`.
fn second_page(core: &mut CoreState, linear: u64, mode: usize) -> Result<Option<u64>, Fault> {
    let next = (linear | (PAGE_SIZE - 1)).wrapping_add(1);
    Ok(match mmu::place(core, next, 1, Access::Fetch, mode)? {
        Place::Host(p) | Place::Code(p) => Some(p as u64),
        Place::Device(_) => None,
    })
}

/// A block to be compiled.
#[derive(Clone, Copy)]
struct Wanted {
    ident: Ident,
    linear: u64,
    base: u64,
    mode: usize,
    /// The link that led here.
    link: Option<LinkId>,
}

fn compile(core: &mut CoreState, code: &Code, me: usize, wanted: Wanted) -> Result<Option<Found>, Fault> {
    let sampled = Engine::of(core).stats.compiled.is_multiple_of(COMPILE_SAMPLE).then(Instant::now);
    let page = wanted.ident.page();
    hold(core, code, me, page);
    let mut block = std::mem::take(&mut Engine::of(core).scratch);
    let max_insns = if Engine::of(core).single_step { 1 } else { MAX_INSNS };
    let made = watch(core, code, wanted.linear, page, wanted.mode).and_then(|watched| {
        if !watched {
            return Ok(None);
        }
        let bytes = lower(core, max_insns, &mut block)?;
        install(core, code, me, &block, &bytes, wanted)
    });
    Engine::of(core).scratch = block;
    if let Some(start) = sampled {
        Engine::of(core).stats.compile_ns += ns_since(start) * COMPILE_SAMPLE;
    }
    code.let_go(page);
    made
}

/// Makes sure that stores to a page are noticed before its bytes are read.
fn hold(core: &mut CoreState, code: &Code, me: usize, page: u64) {
    if code.hold(me, page) {
        mmu::protect(core, page);
    }
}

/// Makes sure that DMA to the host page is noticed before its bytes are read. False when `linear` leads elsewhere by now: the translation
/// that led here was older than the page tables, and is dropped.
fn watch(core: &mut CoreState, code: &Code, linear: u64, page: u64, mode: usize) -> Result<bool, Fault> {
    if code.lock().table.watches(page) {
        return Ok(true);
    }
    let t = (core.ops.translate)(core, linear, 1, Access::Fetch, mode == MMU_USER)?;
    let gpa = mmu::a20(core, t.gpa) & !(PAGE_SIZE - 1);
    if mmu::phys_page(core, gpa).is_none_or(|(host, _)| host as u64 != page) {
        mmu::flush_page(core, linear);
        return Ok(false);
    }
    core.machine().watch_code(gpa);
    code.lock().table.watch(gpa, page);
    Ok(true)
}

fn install(
    core: &mut CoreState,
    code: &Code,
    me: usize,
    block: &Block,
    bytes: &Fetcher,
    wanted: Wanted,
) -> Result<Option<Found>, Fault> {
    let Wanted { ident, linear, mode, .. } = wanted;
    if ident.host % PAGE_SIZE + u64::from(block.len) <= PAGE_SIZE {
        return Ok(enter(core, code, me, block, bytes, wanted, 0));
    }
    let Some(second) = bytes.second_page() else { return Ok(None) };
    hold(core, code, me, second);
    let next = (linear | (PAGE_SIZE - 1)).wrapping_add(1);
    let watched = watch(core, code, next, second, mode);
    let made =
        watched.map(|watched| watched.then(|| enter(core, code, me, block, bytes, wanted, second)).flatten());
    code.let_go(second);
    made
}

/// Compiles what was lowered and enters it into the table.
fn enter(
    core: &mut CoreState,
    code: &Code,
    me: usize,
    block: &Block,
    bytes: &Fetcher,
    wanted: Wanted,
    second: u64,
) -> Option<Found> {
    let Wanted { ident, linear, base, mode, link } = wanted;
    let counting = core.counter.is_on();
    let new =
        New { ident, link, second, block, bytes: bytes.taken(block.len as usize), mode, base, counting };
    let made = code.make(me, core.ops.helpers, &new);
    if made.emptied {
        blocks::clear_jumps(core);
    } else if let Some((pc, entry)) = made.gone {
        blocks::forget_jump(core, pc, entry);
    }
    let stats = &mut Engine::of(core).stats;
    stats.flushes += u64::from(made.reused);
    stats.met += u64::from(made.met);
    if made.bytes != 0 {
        stats.compiled += 1;
        stats.compiled_insns += u64::from(block.insns);
        stats.compiled_bytes += u64::from(block.len);
        stats.code_bytes += made.bytes as u64;
    }
    let found = made.found?;
    if made.bytes != 0 && core.log & log::OUT_ASM != 0 {
        log_host_code(core, code, found.entry, made.bytes);
    }
    if found.sure {
        blocks::cache_jump(core, ident.pc, linear, found.entry, second != 0);
    }
    Some(found)
}

/// Writes `len` bytes of host code from `entry` on to the log.
fn log_host_code(core: &mut CoreState, code: &Code, entry: u64, len: usize) {
    let bytes: Vec<String> =
        code.lock().jit.code(entry, len).iter().map(|byte| format!("{byte:02x}")).collect();
    let text = format!("OUT: [size={}] at {entry:#x}\n{}", bytes.len(), bytes.join(" "));
    core.machine().log(log::OUT_ASM, &text);
}

/// Drops all compiled code, between runs: what is logged of it, or how it is made, changed.
pub fn flush_code(core: &mut CoreState) {
    cache::drop_all(core);
}

/// Acts on `CoreState::exit`.
fn after(core: &mut CoreState) -> Next {
    core.running = NO_BLOCK;
    match std::mem::replace(&mut core.exit, exit::NONE) {
        exit::FAULT => {
            let next = (core.ops.deliver)(core);
            core.exit = exit::NONE;
            next
        }
        exit::HALT => Next::Halt,
        exit::RETRY_STEP => {
            interpret(core);
            // The step has no running block, so it cannot ask for another.
            after(core)
        }
        exit::ATTENTION => attend(core, false),
        _ => Next::Run,
    }
}

fn ns_since(start: Instant) -> u64 {
    start.elapsed().as_nanos() as u64
}

/// Takes what others asked of the CPU.
fn attend(core: &mut CoreState, halted: bool) -> Next {
    let start = Instant::now();
    let next = attended(core, halted);
    let stats = &mut Engine::of(core).stats;
    stats.attends += 1;
    if !halted {
        stats.attend_ns += ns_since(start);
    }
    next
}

fn attended(core: &mut CoreState, halted: bool) -> Next {
    core.take_attention();
    let next = (core.ops.attend)(core, halted);
    // Afterwards, so that no handler of an interrupt runs code that was replaced before it came.
    while let Some(gpa) = core.machine().take_dirty_code() {
        blocks::page_dirtied(core, gpa);
    }
    peers::read_mail(core);
    core.exit = exit::NONE;
    next
}

/// Sleeps until something is to be done.
fn halt(core: &mut CoreState) -> Next {
    let start = Instant::now();
    let next = sleep(core);
    Engine::of(core).stats.halt_ns += ns_since(start);
    next
}

fn sleep(core: &mut CoreState) -> Next {
    loop {
        let next = attend(core, true);
        if !matches!(next, Next::Halt | Next::Nap(_)) {
            return next;
        }
        if core.attention().load(Ordering::Acquire) == 0 {
            peers::rest(core);
            match next {
                Next::Nap(ns) => core.machine().nap(ns),
                _ => core.machine().wait(),
            }
            peers::wake(core);
        }
    }
}

/// Lowers at most `max_insns` instructions at the current pc. On failure the exit reason is set.
pub(crate) fn lower(core: &mut CoreState, max_insns: u32, block: &mut Block) -> Result<Fetcher, Fault> {
    let mut code = Fetcher::new(core)?;
    // Near the page's end an instruction may need the next page, whose fault only the first may raise.
    let max_insns = if code.near_end() { 1 } else { max_insns };
    block.restart(core.pc);
    let done = (core.ops.lower)(core, &mut code, max_insns, block);
    core.exit = exit::NONE;
    if done.is_err() {
        core.exit = exit::FAULT;
        return Err(Fault);
    }
    if core.log & log::OP != 0 {
        core.machine().log(log::OP, &format!("OP: {block}"));
    }
    if core.log & log::OP_OPT != 0 {
        let helpers = core.ops.helpers;
        let text =
            bulkhead_ir::with_lives(block, |id| helpers.get(usize::from(id)).map(|helper| helper.info));
        core.machine().log(log::OP_OPT, &format!("OP after liveness analysis: {text}"));
    }
    Ok(code)
}

/// One instruction, not cached, in the interpreter.
fn interpret(core: &mut CoreState) {
    core.running = NO_BLOCK;
    core.exit = exit::NONE;
    if core.log & log::CPU != 0 {
        let text = (core.ops.describe)(core);
        core.machine().log(log::CPU, &text);
    }
    if core.log & log::EXEC != 0 {
        let text = format!("Trace {:016x}", (core.ops.linear_pc)(core, core.pc));
        core.machine().log(log::EXEC, &text);
    }
    let stats = &mut Engine::of(core).stats;
    let sampled = stats.stepped.is_multiple_of(SAMPLE).then(Instant::now);
    stats.stepped += 1;
    let mut block = std::mem::take(&mut Engine::of(core).scratch);
    if lower(core, 1, &mut block).is_ok() {
        count::begin(core);
        let mut thunks = std::mem::take(&mut Engine::of(core).thunks);
        crate::interp::run(core, &mut thunks, &block);
        Engine::of(core).thunks = thunks;
        count::settle(core);
    }
    Engine::of(core).scratch = block;
    if let Some(start) = sampled {
        Engine::of(core).stats.step_ns += ns_since(start) * SAMPLE;
    }
}
