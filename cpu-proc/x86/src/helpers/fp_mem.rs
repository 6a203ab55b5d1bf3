//! Multi-byte guest memory for the floating-point helpers: nothing is written unless all of it can be.

use bulkhead_engine::mem::{self, Privilege};
use bulkhead_engine::{Access, Fault};

use crate::state::Cpu;

/// Pieces of 8, 4, 2 and 1 bytes.
fn pieces(length: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let size = match length - at {
            0 => return None,
            1 => 1,
            2..=3 => 2,
            4..=7 => 4,
            _ => 8,
        };
        at += size;
        Some((at - size, size))
    })
}

/// Reads `out.len()` bytes at linear address `linear` with the current privilege.
pub fn read_bytes(cpu: &mut Cpu, linear: u64, out: &mut [u8]) -> Result<(), Fault> {
    for (at, size) in pieces(out.len()) {
        let from = cpu.wrap(linear.wrapping_add(at as u64));
        let value = mem::load(&mut cpu.core, from, size as u32, Privilege::Current)?;
        for (to, from) in out.iter_mut().skip(at).zip(value.to_le_bytes()).take(size) {
            *to = from;
        }
    }
    Ok(())
}

/// Writes `data` (at most a page) at linear address `linear` with the current privilege.
pub fn write_bytes(cpu: &mut Cpu, linear: u64, data: &[u8]) -> Result<(), Fault> {
    if data.len() > 8 {
        mem::probe(&mut cpu.core, linear, data.len() as u32, Access::Write, Privilege::Current)?;
    }
    for (at, size) in pieces(data.len()) {
        let mut bytes = [0u8; 8];
        for (to, from) in bytes.iter_mut().zip(data.iter().skip(at)).take(size) {
            *to = *from;
        }
        let to = cpu.wrap(linear.wrapping_add(at as u64));
        mem::store(&mut cpu.core, to, size as u32, u64::from_le_bytes(bytes), Privilege::Current)?;
    }
    Ok(())
}

/// Writes the bytes of `data` whose `mask` byte has its top bit set.
pub fn write_masked(cpu: &mut Cpu, linear: u64, data: &[u8], mask: &[u8]) -> Result<(), Fault> {
    let chosen = |m: &u8| m & 0x80 != 0;
    let ends = [mask.iter().position(chosen), mask.iter().rposition(chosen)];
    for i in ends.into_iter().flatten() {
        let at = cpu.wrap(linear.wrapping_add(i as u64));
        mem::probe(&mut cpu.core, at, 1, Access::Write, Privilege::Current)?;
    }
    for (i, (byte, m)) in data.iter().zip(mask).enumerate() {
        if chosen(m) {
            let at = cpu.wrap(linear.wrapping_add(i as u64));
            mem::store(&mut cpu.core, at, 1, u64::from(*byte), Privilege::Current)?;
        }
    }
    Ok(())
}
