//! System call policies: a small base and one file per kind of process. What is not listed is a violation.

mod base;
mod block;
mod broker;
mod chardev;
mod cpu;
mod device;

/// One allowed system call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Number on this host.
    pub number: i64,
    /// All of these must hold; none: any arguments.
    pub tests: &'static [Test],
    /// The code that needs it.
    pub why: &'static str,
}

/// A test of one argument (by position from 0).
#[derive(Clone, Copy, Debug)]
pub enum Test {
    /// The low 32 bits are exactly this.
    Is(u8, u64),
    /// These bits have this value.
    Bits(u8, u64, u64),
    /// It is this process's own id.
    OwnPid(u8),
}

/// A call with any arguments.
const fn any(number: i64, why: &'static str) -> Call {
    Call { number, tests: &[], why }
}

/// A call with tested arguments.
const fn only(number: i64, tests: &'static [Test], why: &'static str) -> Call {
    Call { number, tests, why }
}

/// Roles of register devices: they hold nothing but mapped memory.
pub const DEVICE_ROLES: &[&str] =
    &["serial", "parallel", "rtc", "i8042", "vga", "ide", "dma", "fwcfg", "port92", "debugports", "template"];

/// Roles of back ends and of the CPU process.
pub const OTHER_ROLES: &[&str] = &["block", "char", "cpu"];

/// The calls that a role may make; `None` for a role that does not exist.
pub fn of(role: &str) -> Option<Vec<&'static Call>> {
    let part: &'static [Call] = match role {
        "block" => block::CALLS,
        "char" => chardev::CALLS,
        "cpu" => cpu::CALLS,
        role if DEVICE_ROLES.contains(&role) => device::CALLS,
        _ => return None,
    };
    Some(base::CALLS.iter().chain(part).collect())
}

/// The calls that the broker may make, and whatever it starts once it is under its filter.
pub fn broker() -> Vec<&'static Call> {
    let mut calls: Vec<&Call> = broker::CALLS.iter().chain(base::CALLS).collect();
    for part in [block::CALLS, chardev::CALLS, cpu::CALLS, device::CALLS] {
        calls.extend(part);
    }
    calls
}
