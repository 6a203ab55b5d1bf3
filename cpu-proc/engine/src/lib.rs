//! The engines: software MMU, block cache, reference interpreter and baseline compiler, for any front end
//! that lowers to [`bulkhead_ir`].

pub mod alloc;
pub mod atomic;
mod blocks;
pub mod cache;
mod codebuf;
pub mod count;
pub mod dispatch;
pub mod engine;
mod fetch;
#[cfg(test)]
mod fuzz;
pub mod guest;
mod interp;
mod jit;
pub mod mem;
pub mod mmu;
pub mod mxcsr;
mod peers;
mod rows;
#[cfg(test)]
mod share;
#[cfg(test)]
mod smc;
pub mod state;
mod table;
#[cfg(test)]
mod testing;
mod vecinsn;

pub use alloc::{CpuBox, FrontCpu, insist};
pub use cache::Code;
pub use count::Counter;
pub use dispatch::{flush_code, run, step};
pub use engine::{Engine, Stats};
pub use guest::{
    ApicAccess, CodeSource, Fault, Gpa, GuestOps, Helper, HelperFn, Machine, Next, Page, Requests,
    Translation,
};
pub use mem::Privilege;
pub use state::{Access, CoreState, MMU_KERNEL, MMU_USER, exit, log};
