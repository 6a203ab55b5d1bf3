//! Lowering x86 machine code to IR, in every mode.

pub mod ctx;
pub mod ea;
pub mod mmx;
pub mod sse;
pub mod x87;

pub use ctx::{Ctx, Src};
pub use ea::{Addr, Ea};
