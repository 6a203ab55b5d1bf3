//! Port input and output. Source: Intel SDM volume 1 chapter 19.

use bulkhead_engine::Fault;

use super::ids::Sys;
use super::mem::load_system;
use super::{FAULTS, List, gp};
use crate::helper;
use crate::state::{Cpu, cr0, cr4};

/// Helpers of this topic.
pub const HELPERS: List = &[helper!(Sys::In, input, FAULTS), helper!(Sys::Out, output, FAULTS)];

/// Offset of the I/O map base in a 32-bit and a 64-bit TSS.
const MAP_BASE: u64 = 0x66;

/// #GP(0) unless the program may access `size` ports at `port`: by IOPL, or by the bitmap in the task state.
pub fn check_port(cpu: &mut Cpu, port: u16, size: u8) -> Result<(), Fault> {
    if cpu.cr0 & cr0::PE == 0 || !cpu.v86() && cpu.cpl <= cpu.iopl() {
        return Ok(());
    }
    let limit = u64::from(cpu.tr.limit);
    if !cpu.tr.usable() || cpu.tr.attr & 8 == 0 || MAP_BASE + 1 > limit {
        return Err(gp(cpu, 0));
    }
    let base = cpu.tr.base;
    let map = load_system(cpu, base.wrapping_add(MAP_BASE), 2)?;
    let byte = map + u64::from(port >> 3);
    // The processor always reads two bytes, so the map ends with a byte of ones.
    if byte + 1 > limit {
        return Err(gp(cpu, 0));
    }
    let bits = load_system(cpu, base.wrapping_add(byte), 2)? >> (port & 7);
    if bits & ((1 << size) - 1) != 0 { Err(gp(cpu, 0)) } else { Ok(()) }
}

/// Notes I/O breakpoints (CR4.DE) on the port.
fn watch_port(cpu: &mut Cpu, port: u16, size: u8) {
    if cpu.dr[7] & 0xff != 0 && cpu.cr4 & cr4::DE != 0 {
        cpu.watch(&[2], u64::from(port), u64::from(size));
    }
}

fn width(imm: u64) -> u8 {
    1 << (imm & 3).min(2)
}

/// `Sys::In`.
fn input(cpu: &mut Cpu, a: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let (port, size) = (a as u16, width(imm));
    check_port(cpu, port, size)?;
    watch_port(cpu, port, size);
    let value = u64::from(cpu.machine().port_read(port, size));
    Ok(value & (u64::MAX >> (64 - 8 * u32::from(size))))
}

/// `Sys::Out`.
fn output(cpu: &mut Cpu, a: u64, b: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    let (port, size) = (a as u16, width(imm));
    check_port(cpu, port, size)?;
    watch_port(cpu, port, size);
    let value = b as u32 & (u32::MAX >> (32 - 8 * u32::from(size)));
    cpu.machine().port_write(port, size, value);
    Ok(0)
}
