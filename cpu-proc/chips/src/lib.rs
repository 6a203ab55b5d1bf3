//! The chips of a PC that live in the CPU process because a guest touches them on every tick. See README.md.
#![forbid(unsafe_code)]

pub mod acpipm;
pub mod board;
mod clock;
pub mod hpet;
pub mod i440fx;
pub mod ioapic82093;
pub mod lapic;
pub mod owed;
pub mod pci;
pub mod pic8259;
pub mod piix3;
pub mod pit8254;

pub use board::{Board, BoardConfig, Event};
pub use pci::{Bar, BarKind, Decode, PciFunction, Space};
