//! The engine of one CPU: what it runs, what it has of its own beside that, statistics.

use std::io;
use std::sync::Arc;

use bulkhead_ir::Block;

use crate::blocks::Jumps;
use crate::cache::Code;
use crate::interp::Thunks;
use crate::state::CoreState;

/// Counters for `info` and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Blocks compiled.
    pub compiled: u64,
    /// Guest instructions in them.
    pub compiled_insns: u64,
    /// Guest bytes of them.
    pub compiled_bytes: u64,
    /// Bytes of host code made of them.
    pub code_bytes: u64,
    /// Nanoseconds that decoding, lowering and compiling took, from a sample of one in [`COMPILE_SAMPLE`].
    pub compile_ns: u64,
    /// Times the dispatcher found a compiled block that generated code had not gone to by itself.
    pub found: u64,
    /// Accesses that the inline lookup of compiled code left to Rust code.
    pub slow_accesses: u64,
    /// Nanoseconds of those, page walks and devices included, from a sample of one in [`SAMPLE`]. Part of generated code's time.
    pub access_ns: u64,
    /// Translations that were not in a TLB, instruction fetches included.
    pub walks: u64,
    /// Blocks made of one for the same code at another pc.
    pub moved: u64,
    /// Blocks that another CPU had compiled by the time this one was about to.
    pub met: u64,
    /// Instructions stepped by the interpreter.
    pub stepped: u64,
    /// Blocks dropped because their bytes changed.
    pub killed: u64,
    /// Times a region of the code buffer was emptied to be filled again.
    pub flushes: u64,
    /// Returns from generated code to the dispatcher.
    pub returns: u64,
    /// Times the CPU looked for interrupts and requests.
    pub attends: u64,
    /// Nanoseconds in the run loop.
    pub run_ns: u64,
    /// Nanoseconds of those asleep, and what led to it.
    pub halt_ns: u64,
    /// Nanoseconds spent with interrupts and requests while running.
    pub attend_ns: u64,
    /// Nanoseconds between generated code and generated code, from a sample of one in [`SAMPLE`]: lookups, links; not compiling.
    pub dispatch_ns: u64,
    /// Nanoseconds in the interpreter, from such a sample.
    pub step_ns: u64,
}

/// One of so many is timed, where timing each would cost as much as what is timed.
pub const SAMPLE: u64 = 64;
/// The same for compiling, which takes longer.
pub const COMPILE_SAMPLE: u64 = 8;

/// Engine of one CPU, behind `CoreState::engine`.
#[derive(Default)]
pub struct Engine {
    /// What it runs, which it may share with other CPUs; without any everything is interpreted.
    pub(crate) code: Option<Arc<Code>>,
    /// Number of the CPU among those.
    pub(crate) me: usize,
    pub(crate) jumps: Jumps,
    /// The context that was looked up last: its key and base, its number.
    pub(crate) last_context: Option<((u64, u64), u32)>,
    pub(crate) thunks: Thunks,
    /// The block being lowered, kept for its capacity.
    pub(crate) scratch: Block,
    /// One guest instruction a compiled block (`-singlestep`). Whoever changes it flushes the code, see [`crate::flush_code`].
    pub single_step: bool,
    /// Compile also what is moved or copied to another pc, and panic where that gives something else. For tests.
    pub verify: bool,
    /// Counters.
    pub stats: Stats,
}

impl Engine {
    /// An engine that interprets.
    pub fn new() -> Engine {
        Engine::default()
    }

    /// The engine of a machine's only CPU, with `code_bytes` of code buffer. All memory that will be executable is made here, so
    /// create it before the process gives up the right to make more.
    ///
    /// # Errors
    /// Those of [`Code::new`].
    pub fn compiling(code_bytes: usize) -> io::Result<Engine> {
        Engine::sharing(&Code::new(code_bytes, 1)?, 0)
    }

    /// The engine of CPU `me` of those that share `code`; see [`Code::join`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn sharing(code: &Arc<Code>, me: usize) -> io::Result<Engine> {
        let mut engine = Engine { code: Some(code.clone()), me, ..Engine::default() };
        engine.thunks.prepare()?;
        Ok(engine)
    }

    /// The CPU's engine. A CPU without one gets one that interprets.
    pub fn of(core: &mut CoreState) -> &mut Engine {
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
}
