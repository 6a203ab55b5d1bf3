//! Local APIC registers: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 3, chapter "APIC".

/// Default physical address of the register page.
pub const DEFAULT_BASE: u64 = 0xfee0_0000;
/// Bus clock of the timer in Hz.
pub const BUS_FREQUENCY: u64 = 1_000_000_000;

/// IA32_APIC_BASE: boot processor.
pub const BASE_BSP: u64 = 1 << 8;
/// IA32_APIC_BASE: global enable.
pub const BASE_ENABLE: u64 = 1 << 11;
/// IA32_APIC_BASE: address bits (36 physical address bits and more).
pub const BASE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Integrated APIC version 14h, six LVT entries.
pub const VERSION: u32 = 0x0005_0014;

/// APIC id, bits 31:24.
pub const ID: u16 = 0x020;
/// Version (RO).
pub const LVR: u16 = 0x030;
/// Task priority.
pub const TPR: u16 = 0x080;
/// Arbitration priority (RO).
pub const APR: u16 = 0x090;
/// Processor priority (RO).
pub const PPR: u16 = 0x0a0;
/// End of interrupt (WO).
pub const EOI: u16 = 0x0b0;
/// Logical destination.
pub const LDR: u16 = 0x0d0;
/// Destination format.
pub const DFR: u16 = 0x0e0;
/// Spurious vector and software enable.
pub const SVR: u16 = 0x0f0;
/// In-service register, eight words.
pub const ISR: u16 = 0x100;
/// Trigger mode register, eight words.
pub const TMR: u16 = 0x180;
/// Interrupt request register, eight words.
pub const IRR: u16 = 0x200;
/// Error status.
pub const ESR: u16 = 0x280;
/// Interrupt command, low word.
pub const ICR_LOW: u16 = 0x300;
/// Interrupt command, high word.
pub const ICR_HIGH: u16 = 0x310;
/// First LVT entry: timer; thermal, performance, LINT0, LINT1, error follow.
pub const LVT_TIMER: u16 = 0x320;
/// LINT0's LVT entry.
pub const LVT_LINT0: u16 = 0x350;
/// Last LVT entry: error.
pub const LVT_ERROR: u16 = 0x370;
/// Timer initial count.
pub const TIMER_INITIAL: u16 = 0x380;
/// Timer current count (RO).
pub const TIMER_CURRENT: u16 = 0x390;
/// Timer divide configuration.
pub const TIMER_DIVIDE: u16 = 0x3e0;

/// SVR: software enable.
pub const SVR_ENABLE: u32 = 1 << 8;
/// SVR: writable bits (vector, enable, focus check).
pub const SVR_WRITABLE: u32 = 0x3ff;

/// LVT: masked.
pub const LVT_MASKED: u32 = 1 << 16;
/// LVT timer: periodic.
pub const LVT_PERIODIC: u32 = 1 << 17;
/// LVT timer: at a time of the time-stamp counter ("TSC-Deadline Mode").
pub const LVT_DEADLINE: u32 = 1 << 18;
/// LVT LINT: remote IRR (RO).
pub const LVT_REMOTE_IRR: u32 = 1 << 14;
/// LVT LINT: level triggered.
pub const LVT_LEVEL: u32 = 1 << 15;

/// Number of LVT entries.
pub const LVT_COUNT: usize = 6;
/// Writable bits of each LVT entry, for the timer [`LVT_DEADLINE`] where the CPU has it: timer, thermal, performance, LINT0, LINT1, error.
pub const LVT_WRITABLE: [u32; LVT_COUNT] = [0x300ff, 0x107ff, 0x107ff, 0x1a7ff, 0x1a7ff, 0x100ff];
/// Index of the timer's LVT entry.
pub const TIMER: usize = 0;
/// Index of LINT0.
pub const LINT0: usize = 3;
/// Index of LINT1.
pub const LINT1: usize = 4;
/// Index of the error entry.
pub const ERROR: usize = 5;

/// ESR: vector below 16 sent.
pub const ESR_SEND_ILLEGAL: u32 = 1 << 5;
/// ESR: vector below 16 received.
pub const ESR_RECEIVE_ILLEGAL: u32 = 1 << 6;
/// ESR: access to a reserved register.
pub const ESR_ILLEGAL_REGISTER: u32 = 1 << 7;

/// ICR low: writable bits.
pub const ICR_WRITABLE: u32 = 0x000c_cfff;
/// ICR low: level assert.
pub const ICR_ASSERT: u32 = 1 << 14;
/// ICR low: level triggered.
pub const ICR_LEVEL: u32 = 1 << 15;
/// ICR low: logical destination.
pub const ICR_LOGICAL: u32 = 1 << 11;
