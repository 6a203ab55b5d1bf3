//! The x86 front end: decoder and lowering to IR, system helpers, CPU models. Real, protected, virtual-8086,
//! compatibility and 64-bit mode.

pub mod cpuid;
pub mod guest;
pub mod helpers;
pub mod lower;
pub mod paging;
pub mod power;
pub mod state;

#[cfg(test)]
mod tests;

pub use guest::OPS;
pub use power::Config;
pub use state::Cpu;
