//! Who owns the host's MXCSR register.
//!
//! Generated code and the helpers it calls run with the *guest's* MXCSR (all exceptions masked) in the register, so that
//! guest SSE needs no switching; the interpreter loads it only around each vector op. A helper that reads or changes
//! `CoreState::mxcsr` therefore goes through [`read`] and [`write()`], and one that does SSE arithmetic of its own whose
//! rounding must not be the guest's wraps it in [`with_host`].

use crate::state::CoreState;

/// Value of the register for Rust code: all masked, round to nearest.
pub const HOST: u32 = 0x1f80;

/// The register.
pub(crate) fn get() -> u32 {
    let mut value = 0u32;
    // SAFETY: stores four bytes to `value`.
    unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &mut value, options(nostack, preserves_flags)) };
    value
}

/// Loads the register; the caller restores it before arithmetic that matters.
pub(crate) fn set(value: u32) {
    let value = value & 0xffff | 0x1f80;
    // SAFETY: all exceptions are masked and no reserved bit is set, so this cannot fault.
    unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &value, options(nostack, preserves_flags, readonly)) };
}

/// The guest's current value (exceptions masked), with the sticky flags up to date.
pub fn read(core: &mut CoreState) -> u32 {
    if core.mxcsr_live != 0 {
        core.mxcsr = get();
    }
    core.mxcsr
}

/// Sets the guest's value. The mask bits are forced on.
pub fn write(core: &mut CoreState, value: u32) {
    core.mxcsr = value & 0xffff | 0x1f80;
    if core.mxcsr_live != 0 {
        set(core.mxcsr);
    }
}

/// Runs `f` under the host's default rounding and without touching the guest's sticky flags.
pub fn with_host<R>(core: &mut CoreState, f: impl FnOnce(&mut CoreState) -> R) -> R {
    let saved = get();
    set(HOST);
    let result = f(core);
    set(saved);
    result
}
