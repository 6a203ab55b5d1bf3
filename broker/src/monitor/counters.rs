//! `info counters`.

use std::fmt::Write as _;

use bulkhead_bus::trace::{Panel, access, counter};

use crate::trace::Kind;
use crate::vm::Vm;

const DEVICES: [&str; 16] = [
    "device",
    "reads",
    "mirrored",
    "writes",
    "posted",
    "kicked",
    "ins-bytes",
    "outs-bytes",
    "waited-us",
    "interrupts",
    "timers",
    "dma-read",
    "dma-written",
    "rejected",
    "restarts",
    "lost",
];
const BACK_ENDS: [&str; 7] = ["back end", "requests", "read", "written", "failed", "restarts", "lost"];

/// Two tables: devices, with the accesses of the CPU by class and bytes moved, and back ends. Every number but the restarts is
/// what the processes themselves say.
pub fn show(vm: &Vm<'_>, out: &mut String) {
    let panels: Vec<(&str, Kind, &Panel)> = vm.tree.tracing.panels().collect();
    let cpu = panels.iter().find(|(_, kind, _)| *kind == Kind::Cpu).map(|(.., panel)| *panel);
    let mut devices = vec![DEVICES.map(str::to_owned).to_vec()];
    let mut back_ends = vec![BACK_ENDS.map(str::to_owned).to_vec()];
    for (at, (name, kind, own)) in panels.iter().enumerate() {
        let restarts = vm.keeper.restarts(at).into();
        let row = |numbers: &[u64]| {
            let numbers = numbers.iter().map(u64::to_string);
            std::iter::once((*name).to_owned()).chain(numbers).collect::<Vec<String>>()
        };
        match kind {
            Kind::Device(device) => {
                let of = |counter| cpu.map_or(0, |cpu| cpu.access(*device as usize, counter));
                devices.push(row(&[
                    of(access::READ),
                    of(access::MIRROR),
                    of(access::WRITE),
                    of(access::POSTED),
                    of(access::KICK),
                    of(access::BLOCK_IN),
                    of(access::BLOCK_OUT),
                    of(access::WAITED) / 1000,
                    own.counter(counter::INTERRUPTS),
                    own.counter(counter::TIMERS),
                    own.counter(counter::DMA_READ),
                    own.counter(counter::DMA_WRITE),
                    own.counter(counter::REJECTED),
                    restarts,
                    own.lost(),
                ]));
            }
            Kind::Block(..) | Kind::Char => back_ends.push(row(&[
                own.counter(counter::BLOCKS),
                own.counter(counter::IN),
                own.counter(counter::OUT),
                own.counter(counter::FAILED),
                restarts,
                own.lost(),
            ])),
            Kind::Cpu | Kind::Broker => {}
        }
    }
    table(&devices, out);
    table(&back_ends, out);
    if let Some(cpu) = cpu {
        let _ = writeln!(out, "bh-cpu: {} trace records lost", cpu.lost());
    }
}

/// A line: how long the CPUs have waited for devices, in all.
pub fn waits(vm: &Vm<'_>, out: &mut String) {
    let panels: Vec<(&str, Kind, &Panel)> = vm.tree.tracing.panels().collect();
    let Some((.., cpu)) = panels.iter().find(|(_, kind, _)| *kind == Kind::Cpu) else { return };
    let waits = panels.iter().map(|(_, kind, _)| match kind {
        Kind::Device(device) => cpu.access(*device as usize, access::WAITED),
        _ => 0,
    });
    let ns = waits.fold(0, u64::saturating_add);
    let _ = writeln!(out, "all CPUs: {} us of that waited for devices (info counters)", ns / 1000);
}

/// Rows of as many cells as the first has: names to the left, numbers to the right.
fn table(rows: &[Vec<String>], out: &mut String) {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = match at {
                0 => write!(out, "{cell:<width$}"),
                _ => write!(out, "  {cell:>width$}"),
            };
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a", "reads"], ["long", "1"]].map(|row| row.map(str::to_owned).to_vec());
        let mut out = String::new();
        table(&rows, &mut out);
        assert_eq!(out, "a     reads\nlong      1\n");
    }
}
