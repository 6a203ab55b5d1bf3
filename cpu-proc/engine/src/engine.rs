//! The engine of one CPU: block table, code buffer, statistics.

use bulkhead_ir::Block;

use crate::blocks::Table;
use crate::interp::Thunks;
use crate::state::CoreState;

/// Counters for `info` and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Blocks compiled.
    pub compiled: u64,
    /// Guest instructions in them.
    pub compiled_insns: u64,
    /// Instructions stepped by the interpreter.
    pub stepped: u64,
    /// Blocks dropped because their bytes changed.
    pub killed: u64,
    /// Times the code buffer was emptied.
    pub flushes: u64,
    /// Returns from generated code to the dispatcher.
    pub returns: u64,
}

/// Engine of one CPU, behind `CoreState::engine`.
#[derive(Default)]
pub struct Engine {
    pub(crate) table: Table,
    pub(crate) thunks: Thunks,
    /// The block being lowered, kept for its capacity.
    pub(crate) scratch: Block,
    /// Counters.
    pub stats: Stats,
}

impl Engine {
    /// An engine that interprets.
    pub fn new() -> Engine {
        Engine::default()
    }

    /// The CPU's engine. A CPU without one gets one that interprets.
    pub(crate) fn of(core: &mut CoreState) -> &mut Engine {
        if core.engine.is_null() {
            Engine::new().attach(core);
        }
        // SAFETY: not null, so it came from `attach`; only this thread uses it, and callers hold no other reference.
        unsafe { &mut *core.engine.cast::<Engine>() }
    }

    /// Hands the engine to a CPU. It lives until [`Engine::detach`].
    pub fn attach(self, core: &mut CoreState) {
        core.engine = Box::into_raw(Box::new(self)).cast();
    }

    /// Takes the engine back.
    pub fn detach(core: &mut CoreState) -> Option<Box<Engine>> {
        let raw = std::mem::replace(&mut core.engine, std::ptr::null_mut());
        if raw.is_null() {
            return None;
        }
        // SAFETY: made by `attach`, and the only copy was in `core.engine`.
        Some(unsafe { Box::from_raw(raw.cast()) })
    }

    pub(crate) fn repatch(&mut self, _patch: u32, _target: u32) {}
}
