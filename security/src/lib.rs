//! The jail of every process: one function, one policy file per role. See README.md.
//!
//! A process that has no thread of its own calls [`enter`] once everything is mapped. One that has calls [`confine`], starts
//! its threads (they inherit the confinement), then [`Confined::seal`], which filters every thread.
//!
//! The broker holds a [`Watch`] for each process and learns from it how the jail turned out and of every violation.

mod jail;
mod listener;
pub mod names;
pub mod pages;
pub mod policies;
mod sys;
mod void;
mod watch;

pub use jail::{Confined, Terms, confine, enter, enter_broker};
pub use void::make_void;
pub use watch::{Lacks, Place, Violation, Watch};
