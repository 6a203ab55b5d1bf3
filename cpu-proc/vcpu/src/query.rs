//! Answers to the monitor's questions.

use bulkhead_bus::messages::{Query, READ_MAX};
use bulkhead_bus::wire;
use bulkhead_engine::{Machine, Page};
use bulkhead_x86::state::{key, seg};

use bulkhead_x86::Cpu;

use crate::Vm;
use crate::cpus::Vcpu;
use crate::profile;

fn vcpu(vm: &mut Vm, cpu: u32) -> Result<&mut Vcpu, String> {
    vm.cpus.all().get_mut(cpu as usize).ok_or_else(|| format!("no CPU {cpu}"))
}

/// A line of `info cpus`.
fn summary(number: usize, cpu: &Cpu, current: bool) -> String {
    let star = if current { '*' } else { ' ' };
    let halted = if cpu.halted != 0 || cpu.awaits_start != 0 { " (halted)" } else { "" };
    format!("{star} CPU #{number}: pc=0x{:016x}{halted}\n", cpu.linear_pc(cpu.core.pc))
}

/// Answers `what` with text or encoded data.
pub fn answer(vm: &mut Vm, what: Query) -> Result<Vec<u8>, String> {
    let text = match what {
        Query::Registers(cpu) => vcpu(vm, cpu)?.cpu.dump(),
        Query::RegisterValues(cpu) => {
            return wire::encode(&registers(&vcpu(vm, cpu)?.cpu)).map_err(|error| error.to_string());
        }
        Query::Cpus(current) => {
            let all = vm.cpus.all().iter().enumerate();
            all.map(|(number, vcpu)| summary(number, &vcpu.cpu, number == current as usize)).collect()
        }
        Query::Pic => vm.shared.chips().board.info_pic(),
        Query::Pci => vm.shared.chips().board.info_pci(),
        Query::Irq => vm.shared.chips().board.info_irq(),
        Query::Hpet => vm.shared.chips().board.info_hpet(vm.shared.clock.now()),
        Query::Jit => profile::jit(&mut vm.cpus),
        Query::Profile => profile::times(&mut vm.cpus),
        Query::CodeSize(cpu) => {
            let bits = match vcpu(vm, cpu)?.cpu.key {
                flags if flags & key::CODE64 != 0 => 64,
                flags if flags & key::CODE32 != 0 => 32,
                _ => 16,
            };
            return Ok(vec![bits]);
        }
    };
    Ok(text.into_bytes())
}

const GENERAL: [&str; 8] = ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di"];

fn registers(cpu: &Cpu) -> Vec<(String, u64)> {
    let mut values = Vec::new();
    let mut put = |name: String, value: u64| values.push((name, value));
    for (slot, name) in cpu.core.slots.iter().zip(GENERAL) {
        put(format!("r{name}"), *slot);
        put(format!("e{name}"), *slot & 0xffff_ffff);
    }
    for number in 8..16 {
        put(format!("r{number}"), cpu.core.slots.get(number).copied().unwrap_or(0));
    }
    // As `info cpus` shows it, and what `x/i $pc` can read.
    put("pc".to_owned(), cpu.linear_pc(cpu.core.pc));
    for name in ["eip", "rip"] {
        put(name.to_owned(), cpu.core.pc);
    }
    put("eflags".to_owned(), u64::from(cpu.flags()));
    let names = [
        (seg::ES, "es"),
        (seg::CS, "cs"),
        (seg::SS, "ss"),
        (seg::DS, "ds"),
        (seg::FS, "fs"),
        (seg::GS, "gs"),
    ];
    for (number, name) in names {
        let segment = cpu.segs.get(number).copied().unwrap_or_default();
        put(name.to_owned(), u64::from(segment.selector));
        put(format!("{name}.base"), segment.base);
        put(format!("{name}.limit"), u64::from(segment.limit));
    }
    for (name, value) in [("cr0", cpu.cr0), ("cr2", cpu.cr2), ("cr3", cpu.cr3), ("cr4", cpu.cr4)] {
        put(name.to_owned(), value);
    }
    values
}

/// Display memory of a PC below 1 MiB.
const VIDEO_WINDOW: std::ops::Range<u64> = 0xa_0000..0xc_0000;

/// Reads guest memory: RAM, ROM and the video window (whose reads load the card's latches, as a debugger's do on hardware); what
/// is elsewhere is an error.
pub fn memory(vm: &mut Vm, cpu: u32, linear: bool, addr: u64, len: u32) -> Result<Vec<u8>, String> {
    if len > READ_MAX {
        return Err("too much at once".to_owned());
    }
    let vcpu = vcpu(vm, cpu)?;
    let mut bytes = Vec::with_capacity(len as usize);
    while bytes.len() < len as usize {
        let at = addr.wrapping_add(bytes.len() as u64);
        let gpa = if linear {
            let found = bulkhead_x86::paging::peek(&mut vcpu.cpu, at);
            found.ok_or_else(|| format!("address {at:#x} is not mapped"))?
        } else {
            at
        };
        let offset = (gpa & 0xfff) as usize;
        let count = (4096 - offset).min(len as usize - bytes.len());
        match vcpu.pc.page(gpa & !0xfff) {
            Page::Memory { host, .. } => {
                let start = bytes.len();
                bytes.resize(start + count, 0);
                // SAFETY: `page` gives a whole readable page, and the run stays inside it.
                unsafe {
                    std::ptr::copy_nonoverlapping(host.add(offset), bytes.as_mut_ptr().add(start), count)
                };
            }
            Page::Device if VIDEO_WINDOW.contains(&gpa) => {
                for at in gpa..gpa + count as u64 {
                    bytes.push(Machine::read(&mut *vcpu.pc, at, 1) as u8);
                }
            }
            Page::Device => return Err(format!("no memory at {gpa:#x}")),
        }
    }
    Ok(bytes)
}
