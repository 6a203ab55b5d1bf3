//! PIIX3: ISA bridge header, PIRQ routing, the reset control register, and the header of its IDE function.
//!
//! PCI 8086:7000 at 00:01.0, IDE 8086:7010 at 00:01.1; port CF9h. Not restarted: ends with the CPU process.
//!
//! *Deviations from hardware*: X-bus and I/O recovery registers keep what is written but have no effect. The same goes for IDETIM of the
//! IDE function, with the channels' enable bits (15), and for its command register but for bit 0 and the ports of BAR 4: the drives
//! always answer at 1F0h and 170h (under QEMU, too), and a transfer goes on when bit 2 is cleared.
//!
//! *Not emulated*: the motherboard device interrupts (MBIRQ), the programmable chip select, SMI sources of the PIIX3
//! (power management is the PIIX4's function 3), DMA type F.

pub mod spec;
#[cfg(test)]
mod tests;

use crate::pci::{Bar, BarKind, PciFunction, QEMU_SUBSYSTEM};
use spec::*;

/// Where the PC machine puts the bridge: device 1.
pub const DEVFN: u8 = 0x08;

/// Header of the ISA bridge.
#[must_use]
pub fn isa_bridge() -> PciFunction {
    let rest = [0x4c, 0x4e, 0x4f, 0x69, 0x6a, 0x6b, 0x70, 0x76, 0x77, 0x78, 0x79, 0x80, 0x82];
    let management = 0xa0..=0xaf;
    let routes = (PIRQRC..PIRQRC + 4).map(|offset| (offset, 0x8f));
    let writable = rest.into_iter().chain(management).map(|offset| (offset, 0xff)).chain(routes);
    let mut fixed = vec![
        (0x4c, 0x4d),
        (XBCS, 0x03),
        (0x69, 0x02),
        (0x70, 0x80),
        (0x76, 0x0c),
        (0x77, 0x0c),
        (0x78, 0x02),
        (0xa0, 0x08),
        (0xa8, 0x0f),
    ];
    fixed.extend((PIRQRC..PIRQRC + 4).map(|offset| (offset, PIRQ_OFF)));
    PciFunction {
        devfn: DEVFN,
        vendor: 0x8086,
        device: 0x7000,
        class: 0x06_0100,
        command: 0x0007,
        status: 0x0200,
        header_type: 0x80,
        subsystem: QEMU_SUBSYSTEM,
        writable: writable.collect(),
        fixed,
        ..PciFunction::default()
    }
}

/// Header of the IDE function: bus master registers at BAR 4, both channels at the ports of an AT.
#[must_use]
pub fn ide() -> PciFunction {
    let mut bars = [Bar::default(); 6];
    bars[4] = Bar { size: 16, kind: BarKind::Io };
    PciFunction {
        devfn: DEVFN | 1,
        vendor: 0x8086,
        device: 0x7010,
        class: 0x01_0180,
        status: 0x0280,
        subsystem: QEMU_SUBSYSTEM,
        bars,
        writable: (IDETIM..IDETIM + 5).map(|offset| (offset, 0xff)).collect(),
        ..PciFunction::default()
    }
}

/// ISA interrupt of each PIRQ line (A is 0), from the configuration space of the bridge.
#[must_use]
pub fn pirq_routes(config: &[u8; 256]) -> [Option<u8>; 4] {
    let mut routes = [None; 4];
    for (line, route) in routes.iter_mut().enumerate() {
        let value = config.get(usize::from(PIRQRC) + line).copied().unwrap_or(PIRQ_OFF);
        let irq = value & 0x0f;
        *route = (value & PIRQ_OFF == 0 && PIRQ_ALLOWED >> irq & 1 != 0).then_some(irq);
    }
    routes
}

/// What a write of the reset control register does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// The whole machine.
    Hard,
    /// INIT to the processors.
    Soft,
}

/// Writes the reset control register `register`.
pub fn write_reset_control(register: &mut u8, value: u8) -> Option<Reset> {
    let rises = value & !*register & RCPU != 0;
    *register = value & (SRST | RCPU);
    match (rises, value & SRST != 0) {
        (true, true) => Some(Reset::Hard),
        (true, false) => Some(Reset::Soft),
        (false, _) => None,
    }
}
