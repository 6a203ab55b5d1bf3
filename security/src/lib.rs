//! The jail of every process: one function, one policy file per role. See README.md.
//!
//! A process that has no thread of its own calls [`enter`] once everything is mapped. One that has calls [`confine`], starts
//! its threads (they inherit the confinement), then [`seal`], which filters every thread.

mod jail;
pub mod policies;
mod sys;

pub use jail::{confine, enter, enter_broker, seal};
