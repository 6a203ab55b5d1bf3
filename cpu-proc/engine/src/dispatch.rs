//! The run loop of one CPU.
//!
//! The attention word is cleared before [`GuestOps::attend`] samples its sources. A front end that cannot act on one yet
//! (interrupts masked) sets the word again when that changes.
//!
//! [`GuestOps::attend`]: crate::GuestOps::attend

use std::sync::atomic::Ordering;
use std::time::Instant;

use bulkhead_ir::Block;

use crate::blocks::{self, BlockId, BlockInfo, Ident, Link, LinkId};
use crate::count;
use crate::engine::{COMPILE_SAMPLE, Engine, SAMPLE};
use crate::fetch::Fetcher;
use crate::guest::{Fault, Next};
use crate::jit;
use crate::mmu::{self, PAGE_SIZE, Place};
use crate::peers;
use crate::state::{Access, CoreState, MMU_USER, NO_BLOCK, exit, log};

/// Guest instructions in a compiled block at most.
const MAX_INSNS: u32 = 64;

/// Runs until a front-end callback says [`Next::Leave`].
pub fn run(core: &mut CoreState) {
    peers::wake(core);
    let start = Instant::now();
    let mut next = attend(core, false);
    loop {
        match next {
            Next::Run => {}
            Next::Halt | Next::Nap(_) => {
                next = halt(core);
                continue;
            }
            Next::Leave => {
                Engine::of(core).stats.run_ns += ns_since(start);
                return peers::rest(core);
            }
        }
        if core.attention().load(Ordering::Relaxed) != 0 || count::is_spent(core) {
            next = attend(core, false);
            continue;
        }
        advance(core);
        next = after(core);
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
    let engine = Engine::of(core);
    let Some(jit) = engine.jit.as_ref().filter(|_| !stepping) else {
        return interpret(core);
    };
    let enter = jit.enter();
    let mut link = 0;
    loop {
        let stats = &Engine::of(core).stats;
        let sampled = stats.returns.is_multiple_of(SAMPLE).then(|| (Instant::now(), stats.compiled));
        let Ok(found) = find(core) else { return };
        let Some(id) = found else { return interpret(core) };
        if link != 0 {
            join(core, link - 1, id);
        }
        let Some(entry) = Engine::of(core).table.blocks.get(id as usize).map(|b| b.entry) else { return };
        if let Some((start, compiled)) = sampled {
            let stats = &mut Engine::of(core).stats;
            if stats.compiled == compiled {
                stats.dispatch_ns += ns_since(start) * SAMPLE;
            }
        }
        // SAFETY: `find` returned a live block of this CPU's engine for the current pc and context.
        link = unsafe { jit::enter(core, enter, entry) } as LinkId;
        core.running = NO_BLOCK;
        count::settle(core);
        let engine = Engine::of(core);
        engine.stats.returns += 1;
        if link != 0
            && let Some(l) = engine.table.links.get(link as usize - 1)
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

/// The compiled block at the current pc, compiling it if need be; `None` when the code cannot be cached.
fn find(core: &mut CoreState) -> Result<Option<BlockId>, Fault> {
    let linear = (core.ops.linear_pc)(core, core.pc);
    let base = linear.wrapping_sub(core.pc);
    let mode = core.mmu_mode as usize & 1;
    let key = (core.ops.block_key)(core) | (mode as u64) << 63;
    let context = match Engine::of(core).table.context(key, base) {
        Some(context) => context,
        None => {
            clear(core);
            Engine::of(core).table.context(key, base).unwrap_or(0)
        }
    };
    core.jump_key = blocks::jump_key(core, context);
    let host = match mmu::place(core, linear, Access::Fetch, mode)? {
        Place::Host(host) | Place::Code(host) => host as u64,
        Place::Device(_) => return Ok(None),
    };
    let ident = Ident { host, pc: core.pc, context };
    let known = Engine::of(core).table.find(&ident);
    if let Some(id) = known {
        let second = Engine::of(core).table.blocks.get(id as usize).map_or(0, |b| b.second_page);
        let same = !peers::doubtful(core, id) || peers::holds(core, id);
        if same && (second == 0 || second_page(core, linear, mode)? == Some(second)) {
            Engine::of(core).stats.found += 1;
            if peers::doubtful(core, id) {
                return Ok(Some(id));
            }
            let entry = Engine::of(core).table.blocks.get(id as usize).map_or(0, |b| b.entry);
            blocks::cache_jump(core, ident.pc, linear, entry, second != 0);
            return Ok(Some(id));
        }
        blocks::kill(core, id);
    } else if let Some(id) = moved(core, ident, linear) {
        return Ok(Some(id));
    }
    compile(core, ident, linear, base, mode)
}

/// A block for `ident` made of one for the same code at another pc, if there is one that is known to be as it was compiled.
fn moved(core: &mut CoreState, ident: Ident, linear: u64) -> Option<BlockId> {
    const LISTS: u32 = log::IN_ASM | log::OUT_ASM | log::OP | log::OP_OPT;
    if core.log & LISTS != 0 || !jit::Jit::may_move_to(ident.pc) {
        return None;
    }
    let (first, oldest) = Engine::of(core).table.same_code(&ident)?;
    if peers::doubtful(core, first) || oldest.is_some_and(|id| peers::doubtful(core, id)) {
        return None;
    }
    let id = match oldest {
        Some(id) => {
            blocks::move_to(core, id, ident.pc);
            id
        }
        None => copy(core, first, ident)?,
    };
    let engine = Engine::of(core);
    engine.stats.moved += 1;
    let entry = engine.table.blocks.get(id as usize).map(|b| b.entry)?;
    if engine.verify {
        verify(core, id, ident);
    }
    blocks::cache_jump(core, ident.pc, linear, entry, false);
    Some(id)
}

/// Compares block `id`, made for `ident` from another, with what is compiled from the same code.
fn verify(core: &mut CoreState, id: BlockId, ident: Ident) {
    let mut block = std::mem::take(&mut Engine::of(core).scratch);
    let (mode, base) =
        (core.mmu_mode as usize & 1, (core.ops.linear_pc)(core, ident.pc).wrapping_sub(ident.pc));
    let helpers = core.ops.helpers;
    if lower(core, MAX_INSNS, &mut block).is_ok() {
        let engine = Engine::of(core);
        if let (Some(made), Some(jit)) = (engine.table.movable(id), &mut engine.jit) {
            jit.verify(&mut engine.side, &made, helpers, &block, mode, base);
        }
    }
    Engine::of(core).scratch = block;
}

/// A copy of block `from` for `ident`.
fn copy(core: &mut CoreState, from: BlockId, ident: Ident) -> Option<BlockId> {
    let engine = Engine::of(core);
    let len = engine.table.blocks.get(from as usize)?.len;
    let id = engine.table.blocks.len() as BlockId;
    let first_link = engine.table.links.len() as LinkId;
    let jit = engine.jit.as_mut().filter(|jit| engine.table.blocks.len() < jit.most_blocks())?;
    let block = engine.table.movable(from)?;
    let made = jit.copy(&mut engine.side, &block, ident.pc, (id, first_link))?;
    for (patch, stub, pc) in made.exits {
        engine.table.links.push(Link::new(id, pc, patch, stub));
    }
    Some(engine.table.insert(BlockInfo::new(ident, len, 0, made.entry, made.shape)))
}

/// Host page behind the one of `linear`.
fn second_page(core: &mut CoreState, linear: u64, mode: usize) -> Result<Option<u64>, Fault> {
    let next = (linear | (PAGE_SIZE - 1)).wrapping_add(1);
    Ok(match mmu::place(core, next, Access::Fetch, mode)? {
        Place::Host(p) | Place::Code(p) => Some(p as u64),
        Place::Device(_) => None,
    })
}

fn compile(
    core: &mut CoreState,
    ident: Ident,
    linear: u64,
    base: u64,
    mode: usize,
) -> Result<Option<BlockId>, Fault> {
    let sampled = Engine::of(core).stats.compiled.is_multiple_of(COMPILE_SAMPLE).then(Instant::now);
    watch(core, linear, ident.host & !(PAGE_SIZE - 1), mode)?;
    let mut block = std::mem::take(&mut Engine::of(core).scratch);
    let max_insns = if Engine::of(core).single_step { 1 } else { MAX_INSNS };
    let result = lower(core, max_insns, &mut block);
    let made = match result {
        Err(Fault) => Err(Fault),
        Ok(code) => install(core, ident, &block, &code, linear, base, mode),
    };
    Engine::of(core).scratch = block;
    if let Some(start) = sampled {
        Engine::of(core).stats.compile_ns += ns_since(start) * COMPILE_SAMPLE;
    }
    // What did not become a block needs no watching.
    peers::let_go(core, ident.host & !(PAGE_SIZE - 1));
    made
}

/// Makes sure that writes to a page are noticed before its bytes are read.
fn watch(core: &mut CoreState, linear: u64, page: u64, mode: usize) -> Result<(), Fault> {
    peers::hold(core, page);
    if Engine::of(core).table.watches(page) {
        return Ok(());
    }
    let t = (core.ops.translate)(core, linear, Access::Fetch, mode == MMU_USER)?;
    let gpa = mmu::a20(core, t.gpa) & !(PAGE_SIZE - 1);
    core.machine().watch_code(gpa);
    Engine::of(core).table.watch(gpa, page);
    Ok(())
}

fn install(
    core: &mut CoreState,
    ident: Ident,
    block: &Block,
    code: &Fetcher,
    linear: u64,
    base: u64,
    mode: usize,
) -> Result<Option<BlockId>, Fault> {
    let crosses = ident.host % PAGE_SIZE + u64::from(block.len) > PAGE_SIZE;
    let mut second = 0;
    if crosses {
        let Some(page) = code.second_page() else { return Ok(None) };
        let next = (linear | (PAGE_SIZE - 1)).wrapping_add(1);
        watch(core, next, page, mode)?;
        second = page;
    }
    let mut ident = ident;
    for _ in 0..2 {
        let helpers = core.ops.helpers;
        let counting = core.counter.is_on();
        let engine = Engine::of(core);
        let id = engine.table.blocks.len() as BlockId;
        let first_link = engine.table.links.len() as LinkId;
        let Some(jit) = &mut engine.jit else { return Ok(None) };
        jit.counting = counting;
        let room = engine.table.blocks.len() < jit.most_blocks();
        let made = if room {
            jit.compile(&mut engine.side, helpers, block, (id, first_link), mode, base)
        } else {
            None
        };
        if let Some(made) = made.as_ref().filter(|_| core.log & log::OUT_ASM != 0) {
            log_host_code(core, made.entry);
        }
        let engine = Engine::of(core);
        let Some(made) = made else {
            // Full: start over. Nothing of it is running.
            clear(core);
            let key = (core.ops.block_key)(core) | (mode as u64) << 63;
            ident.context = Engine::of(core).table.context(key, base).unwrap_or(0);
            core.jump_key = blocks::jump_key(core, ident.context);
            watch(core, linear, ident.host & !(PAGE_SIZE - 1), mode)?;
            if second != 0 {
                watch(core, (linear | (PAGE_SIZE - 1)).wrapping_add(1), second, mode)?;
            }
            continue;
        };
        for (patch, stub, pc) in made.exits {
            engine.table.links.push(Link::new(id, pc, patch, stub));
        }
        // A page that holds code already is in no TLB for writing.
        let mut fresh = [ident.host & !(PAGE_SIZE - 1), second];
        fresh.iter_mut().filter(|page| engine.table.holds_code(**page)).for_each(|page| *page = 0);
        engine.table.insert(BlockInfo::new(ident, block.len, second, made.entry, made.shape));
        engine.stats.compiled += 1;
        engine.stats.compiled_insns += u64::from(block.insns);
        engine.stats.compiled_bytes += u64::from(block.len);
        engine.stats.code_bytes += made.bytes as u64;
        fresh.into_iter().filter(|page| *page != 0).for_each(|page| mmu::protect(core, page));
        if !peers::made(core, id, code.taken(block.len as usize)) {
            // Written while it was compiled: one instruction of what is there now.
            blocks::kill(core, id);
            return Ok(None);
        }
        if !peers::doubtful(core, id) {
            blocks::cache_jump(core, ident.pc, linear, made.entry, second != 0);
        }
        return Ok(Some(id));
    }
    Ok(None)
}

/// Writes the host code from `entry` to the end of what is compiled to the log.
fn log_host_code(core: &mut CoreState, entry: u64) {
    let Some(jit) = &Engine::of(core).jit else { return };
    let bytes: Vec<String> = jit.code_from(entry).iter().map(|byte| format!("{byte:02x}")).collect();
    let text = format!("OUT: [size={}] at {entry:#x}\n{}", bytes.len(), bytes.join(" "));
    core.machine().log(log::OUT_ASM, &text);
}

/// Drops all compiled code, between runs: what is logged of it, or how it is made, changed.
pub fn flush_code(core: &mut CoreState) {
    clear(core);
}

/// Drops all compiled code.
fn clear(core: &mut CoreState) {
    peers::forget_all(core);
    Engine::of(core).clear();
    blocks::clear_jumps(core);
}

/// Lets link `link` jump straight to block `id`, when both lie in one page and context.
fn join(core: &mut CoreState, link: LinkId, id: BlockId) {
    if peers::doubtful(core, id) {
        return;
    }
    let engine = Engine::of(core);
    let Some(l) = engine.table.links.get(link as usize).copied() else { return };
    let (Some(from), Some(to)) =
        (engine.table.blocks.get(l.from as usize), engine.table.blocks.get(id as usize))
    else {
        return;
    };
    let same = from.ident.context == to.ident.context
        && from.ident.host & !(PAGE_SIZE - 1) == to.ident.host & !(PAGE_SIZE - 1)
        && to.second_page == 0
        && to.ident.pc == l.target_pc
        && !from.dead
        && !to.dead;
    if !same {
        return;
    }
    let entry = to.entry;
    if let Some(jit) = &mut engine.jit {
        let target = jit.position(entry);
        jit.repatch(l.patch, target);
        engine.table.joined(link, id);
    }
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
