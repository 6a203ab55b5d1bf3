//! The bus between the CPU process and the device processes, and the device SDK.
//!
//! Everything on the hot path is shared memory with a documented byte layout; see the module of each kind.

pub mod attempts;
pub mod bell;
pub mod bench;
pub mod chip;
pub mod clock;
pub mod config;
pub mod conformance;
pub mod control;
pub mod dead;
pub mod device;
pub mod irq;
pub mod links;
pub mod mailbox;
pub mod manifest;
pub mod messages;
pub mod patience;
pub mod placement;
pub mod ram;
pub mod serve;
pub mod shm;
pub mod standby;
pub mod storm;
pub mod sys;
pub mod trace;
pub mod wire;
