//! The run loop of one CPU.
//!
//! The attention word is cleared before [`GuestOps::attend`] samples its sources. A front end that cannot act on one yet
//! (interrupts masked) sets the word again when that changes.
//!
//! [`GuestOps::attend`]: crate::GuestOps::attend

use std::sync::atomic::Ordering;

use bulkhead_ir::Block;

use crate::blocks;
use crate::engine::Engine;
use crate::fetch::Fetcher;
use crate::guest::{Fault, Next};
use crate::state::{CoreState, NO_BLOCK, exit};

/// Runs until a front-end callback says [`Next::Leave`].
pub fn run(core: &mut CoreState) {
    let mut next = attend(core, false);
    loop {
        match next {
            Next::Run => {}
            Next::Halt => {
                next = halt(core);
                continue;
            }
            Next::Leave => return,
        }
        if core.attention().load(Ordering::Relaxed) != 0 {
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

/// Runs some guest code: compiled blocks, or one instruction.
fn advance(core: &mut CoreState) {
    interpret(core);
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

/// Takes what others asked of the CPU.
fn attend(core: &mut CoreState, halted: bool) -> Next {
    core.attention().swap(0, Ordering::AcqRel);
    while let Some(gpa) = core.machine().take_dirty_code() {
        blocks::page_dirtied(core, gpa);
    }
    let next = (core.ops.attend)(core, halted);
    core.exit = exit::NONE;
    next
}

/// Sleeps until something is to be done.
fn halt(core: &mut CoreState) -> Next {
    loop {
        match attend(core, true) {
            Next::Halt => {
                if core.attention().load(Ordering::Acquire) == 0 {
                    core.machine().wait();
                }
            }
            next => return next,
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
    Ok(code)
}

/// One instruction, not cached, in the interpreter.
fn interpret(core: &mut CoreState) {
    core.running = NO_BLOCK;
    core.exit = exit::NONE;
    Engine::of(core).stats.stepped += 1;
    let mut block = std::mem::take(&mut Engine::of(core).scratch);
    if lower(core, 1, &mut block).is_ok() {
        let mut thunks = std::mem::take(&mut Engine::of(core).thunks);
        crate::interp::run(core, &mut thunks, &block);
        Engine::of(core).thunks = thunks;
    }
    Engine::of(core).scratch = block;
}
