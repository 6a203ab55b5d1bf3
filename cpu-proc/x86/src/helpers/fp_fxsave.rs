//! `FXSAVE` and `FXRSTOR`.
//!
//! Source: Intel SDM volume 1 section 10.5, volume 2 (tables 3-43 to 3-46); AMD64 APM volume 2 section 11.4.

use bulkhead_engine::Fault;

use super::fp_mem::{read_bytes, write_bytes};
use super::fp_sse::MXCSR_MASK;
use super::gp;
use crate::state::{Cpu, efer, key};

/// Where the x87 registers and the XMM registers start in the image.
const ST: usize = 32;
const XMM: usize = 160;

fn put(bytes: &mut [u8], at: usize, data: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(at).zip(data) {
        *to = *from;
    }
}

fn get<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    for (to, from) in out.iter_mut().zip(bytes.iter().skip(at)) {
        *to = *from;
    }
    out
}

/// XMM registers in the image: none with EFER.FFXSR at CPL 0 in 64-bit mode, eight outside 64-bit mode.
fn vectors(cpu: &Cpu) -> usize {
    let code64 = cpu.key & key::CODE64 != 0;
    match code64 {
        true if cpu.msrs.efer & efer::FFXSR != 0 && cpu.cpl == 0 => 0,
        true => 16,
        false => 8,
    }
}

/// `Fp::Fxsave` at linear address `a`; imm bit 0: `REX.W`.
pub fn save(cpu: &mut Cpu, a: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    if a & 15 != 0 {
        return Err(gp(cpu, 0));
    }
    cpu.x87_sync();
    let mut image = [0u8; XMM + 16 * 16];
    let x87 = cpu.core.x87;
    put(&mut image, 0, &x87.control.to_le_bytes());
    put(&mut image, 2, &cpu.x87_status().to_le_bytes());
    put(&mut image, 4, &[x87.tags]);
    put(&mut image, 6, &x87.opcode.to_le_bytes());
    if imm & 1 != 0 {
        put(&mut image, 8, &x87.ip.to_le_bytes());
        put(&mut image, 16, &x87.dp.to_le_bytes());
    } else {
        for (at, pointer) in [(8, x87.ip), (16, x87.dp)] {
            put(&mut image, at, &(pointer as u32).to_le_bytes());
            // In 64-bit mode there is no selector to save.
            let selector = if cpu.key & key::CODE64 != 0 { 0 } else { (pointer >> 48) as u16 };
            put(&mut image, at + 4, &selector.to_le_bytes());
        }
    }
    put(&mut image, 24, &cpu.mxcsr().to_le_bytes());
    put(&mut image, 28, &MXCSR_MASK.to_le_bytes());
    for i in 0..8u8 {
        let value: [u8; 10] = get(&cpu.x87_st(i), 0);
        put(&mut image, ST + 16 * usize::from(i), &value);
    }
    let count = vectors(cpu);
    for (i, value) in cpu.core.vec.iter().take(count).enumerate() {
        put(&mut image, XMM + 16 * i, value);
    }
    // The rest of the 512 bytes is not written.
    write_bytes(cpu, a, image.get(..XMM + 16 * count).unwrap_or_default())?;
    Ok(0)
}

/// `Fp::Fxrstor` likewise.
pub fn restore(cpu: &mut Cpu, a: u64, _: u64, _: u64, imm: u64) -> Result<u64, Fault> {
    if a & 15 != 0 {
        return Err(gp(cpu, 0));
    }
    cpu.x87_sync();
    let mut image = [0u8; 512];
    read_bytes(cpu, a, &mut image)?;
    let mxcsr = u32::from_le_bytes(get(&image, 24));
    if mxcsr & !MXCSR_MASK != 0 {
        return Err(gp(cpu, 0));
    }
    cpu.core.x87.tags = image[4];
    cpu.core.x87.opcode = u16::from_le_bytes(get(&image, 6)) & 0x7ff;
    let (ip, dp) = (u64::from_le_bytes(get(&image, 8)), u64::from_le_bytes(get(&image, 16)));
    let legacy = |p: u64| match cpu.key & key::CODE64 != 0 {
        true => p & 0xffff_ffff,
        false => p & 0xffff_ffff | (p >> 32) << 48,
    };
    let (ip, dp) = if imm & 1 != 0 { (ip, dp) } else { (legacy(ip), legacy(dp)) };
    cpu.core.x87.ip = ip;
    cpu.core.x87.dp = dp;
    cpu.x87_set_control(u16::from_le_bytes(get(&image, 0)));
    cpu.x87_set_status(u16::from_le_bytes(get(&image, 2)));
    for i in 0..8u8 {
        let value: [u8; 10] = get(&image, ST + 16 * usize::from(i));
        let phys = cpu.x87_phys(i);
        cpu.core.media[phys] = [0; 16];
        put(&mut cpu.core.media[phys], 0, &value);
    }
    let count = vectors(cpu);
    for (i, to) in cpu.core.vec.iter_mut().take(count).enumerate() {
        *to = get(&image, XMM + 16 * i);
    }
    cpu.set_mxcsr(mxcsr);
    Ok(0)
}
