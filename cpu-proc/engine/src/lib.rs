//! The engines: software MMU, block cache, reference interpreter and baseline compiler, for any front end
//! that lowers to [`bulkhead_ir`].

pub mod alloc;
mod blocks;
pub mod engine;
pub mod guest;
pub mod mem;
pub mod mmu;
pub mod mxcsr;
pub mod state;

pub use alloc::{CpuBox, FrontCpu};
pub use engine::Engine;
pub use guest::{
    ApicAccess, CodeSource, Fault, Gpa, GuestOps, Helper, HelperFn, Machine, Next, Page, Requests,
    Translation,
};
pub use mem::Privilege;
pub use state::{Access, CoreState, MMU_KERNEL, MMU_USER, exit};
