//! The x86 front end: decoder and lowering to IR, system helpers, CPU models. Real, protected, virtual-8086,
//! compatibility and 64-bit mode.

pub mod cpuid;
pub mod helpers;
pub mod lower;
pub mod state;

pub use state::Cpu;
