//! The engines: software MMU, block cache, reference interpreter and baseline compiler, for any front end
//! that lowers to [`bulkhead_ir`].

pub mod guest;
pub mod state;

pub use guest::{
    ApicAccess, CodeSource, Fault, Gpa, GuestOps, Helper, HelperFn, Machine, Next, Page, Requests, Translation,
};
pub use state::{Access, CoreState, MMU_KERNEL, MMU_USER, exit};
