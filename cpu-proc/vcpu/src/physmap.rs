//! The guest-physical address map: which page is RAM, ROM, video memory or a device.
//!
//! | from | to | what |
//! |---|---|---|
//! | 0 | 0xa0000 | RAM |
//! | 0xa0000 | 0xc0000 | video memory window (RAM in system-management mode) |
//! | 0xc0000 | 0x100000 | firmware ROM or RAM, per 16 KiB and direction, as the host bridge's PAM registers say |
//! | 0x100000 | end of low RAM | RAM |
//! | end of low RAM | 4 GiB | PCI memory BARs (82441FX, "Memory Address Map": what is above the top of DRAM goes to PCI); over them firmware ROM at the top |
//! | 0xfec00000 | | IOAPIC, HPET, LAPIC |
//! | 4 GiB | | RAM above the hole |

use std::io;

use bulkhead_bus::ram::{GuestRam, LOW_LIMIT};
use bulkhead_bus::sys::Mapping;
use bulkhead_engine::Page;

use crate::ports::Decoder;

/// Bytes from 0xc0000 to 0x100000.
const SHADOW_BYTES: usize = 0x40000;
/// First byte of the shadowed ROM area.
pub const SHADOW: u64 = 0xc_0000;
/// End of the ROM area.
pub const MEGABYTE: u64 = 0x10_0000;
/// First byte of the video window.
pub const VIDEO: u64 = 0xa_0000;

/// Where a shadow granule reads and writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shadow {
    /// Reads come from RAM, else ROM.
    pub read_ram: bool,
    /// Writes go to RAM, else nowhere.
    pub write_ram: bool,
}

/// A window of host memory in the PCI hole: a frame buffer BAR.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Guest-physical base.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// Index of the host memory in [`PhysMap::memories`].
    pub memory: usize,
    /// Whether the guest may write it.
    pub writable: bool,
}

/// What decides about addresses and changes while the machine runs. Never changed in place: a CPU goes on with the one it has until it
/// takes the new one.
#[derive(Clone, Debug, Default)]
pub struct Map {
    /// Shadow state by 16 KiB granule from 0xc0000.
    pub shadow: [Shadow; 16],
    /// System-management RAM is visible in the video window: to all, and to CPUs in system-management mode.
    pub smram: (bool, bool),
    /// Active windows onto [`PhysMap::memories`].
    pub windows: Vec<Window>,
    /// Pages with registers of chips, which lie over windows.
    pub chip_pages: Vec<u64>,
    /// The page of each CPU's local APIC.
    pub apic_pages: Vec<Option<u64>>,
    /// Devices' ports.
    pub ports: Decoder,
    /// Devices' registers in memory.
    pub mmio: Decoder,
}

impl Map {
    /// Whether a CPU sees system-management RAM.
    pub fn shows_smram(&self, smm: bool) -> bool {
        self.smram.0 || self.smram.1 && smm
    }

    fn granule(&self, gpa: u64) -> Shadow {
        self.shadow.get(((gpa - SHADOW) >> 14) as usize).copied().unwrap_or_default()
    }
}

/// What backs physical pages.
pub struct PhysMap {
    /// RAM.
    pub ram: GuestRam,
    /// The firmware image, as it lies below 4 GiB.
    bios: Mapping,
    /// ROM view of 0xc0000..0x100000: all ones, the last 128 KiB of the firmware at its end.
    low_rom: Mapping,
    /// Frame buffers and the like.
    pub memories: Vec<Mapping>,
    /// Firmware to be copied into RAM at reset, with its address: a machine without shadow registers.
    resident: Option<(u64, Vec<u8>)>,
}

/// A copy in whole host pages behind `fill_front` bytes of ones: a page of the guest is one of the host.
fn in_pages(bytes: &[u8], fill_front: usize) -> io::Result<Mapping> {
    let len = fill_front + bytes.len();
    let memory = Mapping::anonymous(len.next_multiple_of(4096).max(4096))?;
    let _ = memory.write(0, &vec![0xff; memory.len()]) && memory.write(fill_front, bytes);
    Ok(memory)
}

impl PhysMap {
    /// A map over `ram` with the firmware image `bios` (a multiple of 4 KiB, at most 16 MiB).
    ///
    /// # Errors
    /// When there is no memory for the image.
    pub fn new(ram: GuestRam, bios: &[u8], memories: Vec<Mapping>) -> io::Result<PhysMap> {
        let tail = bios.len().min(0x2_0000);
        let low = bios.get(bios.len() - tail..).unwrap_or_default();
        Ok(PhysMap {
            ram,
            bios: in_pages(bios, 0)?,
            low_rom: in_pages(low, SHADOW_BYTES - tail)?,
            memories,
            resident: None,
        })
    }

    /// A machine without a host bridge: the system firmware lies in RAM below 1 MiB, put there by every reset.
    pub fn keep_firmware_in_ram(&mut self) {
        let tail = self.bios.len().min(0x2_0000);
        let mut low = vec![0; tail];
        let _ = self.bios.read(self.bios.len() - tail, &mut low);
        self.resident = Some((MEGABYTE - tail as u64, low));
        self.reset(|_| {});
    }

    /// Puts firmware into RAM where it belongs there, and calls `changed` with each page of that.
    pub fn reset(&self, changed: impl Fn(u64)) {
        if let Some((base, bytes)) = &self.resident {
            let _ = self.ram.write(*base, bytes);
            let end = base.saturating_add(bytes.len() as u64);
            (base & !0xfff..end).step_by(4096).for_each(&changed);
        }
    }

    /// First byte of the firmware below 4 GiB.
    fn bios_base(&self) -> u64 {
        (1 << 32) - self.bios.len() as u64
    }

    fn ram_page(&self, gpa: u64, writable: bool) -> Page {
        match self.ram.offset(gpa, 4096) {
            // SAFETY: the offset is inside the RAM mapping, which lives as long as the process.
            Some(offset) => Page::Memory { host: unsafe { self.ram.mapping().base().add(offset) }, writable },
            None => Page::Device,
        }
    }

    fn page_in(memory: &Mapping, offset: u64, writable: bool) -> Page {
        let offset = offset as usize;
        if offset + 4096 > memory.len() {
            return Page::Device;
        }
        // SAFETY: a whole page from there is inside the mapping, which lives as long as the process.
        Page::Memory { host: unsafe { memory.base().add(offset) }, writable }
    }

    /// What backs the page at `gpa`, for a CPU in system-management mode or not.
    pub fn page(&self, map: &Map, smm: bool, gpa: u64) -> Page {
        match gpa {
            VIDEO..SHADOW if map.shows_smram(smm) => self.ram_page(gpa, true),
            VIDEO..SHADOW => Page::Device,
            SHADOW..MEGABYTE => {
                let shadow = map.granule(gpa);
                if shadow.read_ram {
                    self.ram_page(gpa, shadow.write_ram)
                } else {
                    Self::page_in(&self.low_rom, gpa - SHADOW, false)
                }
            }
            LOW_LIMIT..0x1_0000_0000 if gpa >= self.bios_base() => {
                Self::page_in(&self.bios, gpa - self.bios_base(), false)
            }
            _ => match self.ram_page(gpa, true) {
                Page::Device => {
                    let inside = |window: &&Window| gpa >= window.base && gpa - window.base < window.size;
                    let window = map.windows.iter().find(inside).filter(|_| !map.chip_pages.contains(&gpa));
                    window.map_or(Page::Device, |window| self.window_page(window, gpa))
                }
                page => page,
            },
        }
    }

    fn window_page(&self, window: &Window, gpa: u64) -> Page {
        match self.memories.get(window.memory) {
            Some(memory) => Self::page_in(memory, gpa - window.base, window.writable),
            None => Page::Device,
        }
    }

    /// A write to memory that generated code may not write: to RAM under ROM where the host bridge says so, else nowhere.
    pub fn write_shadow(&self, map: &Map, gpa: u64, bytes: &[u8]) {
        if (SHADOW..MEGABYTE).contains(&gpa) && map.granule(gpa).write_ram {
            let _ = self.ram.write(gpa, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAMES: u64 = 0x4000;

    /// 2 MiB of RAM, 128 KiB of firmware and a frame buffer.
    fn phys() -> PhysMap {
        let anonymous = |len| Mapping::anonymous(len).expect("memory");
        let ram = GuestRam::new(anonymous(0x20_0000), None);
        PhysMap::new(ram, &[0; 0x2_0000], vec![anonymous(FRAMES as usize)]).expect("memory")
    }

    fn with_window_at(base: u64) -> Map {
        Map { windows: vec![Window { base, size: FRAMES, memory: 0, writable: true }], ..Map::default() }
    }

    fn host(page: Page) -> Option<*mut u8> {
        match page {
            Page::Memory { host, .. } => Some(host),
            Page::Device => None,
        }
    }

    #[test]
    fn a_window_answers_wherever_there_is_no_ram_and_no_firmware() {
        let phys = phys();
        let frames = phys.memories[0].base();
        for base in [0x20_0000, 0x8000_0000, LOW_LIMIT - 0x1000, LOW_LIMIT, 0xfd00_0000] {
            let map = with_window_at(base);
            assert_eq!(host(phys.page(&map, false, base)), Some(frames), "{base:#x}");
            let last = host(phys.page(&map, false, base + FRAMES - 0x1000)).expect("a page");
            assert_eq!(last as usize - frames as usize, FRAMES as usize - 0x1000, "{base:#x}");
            assert_eq!(host(phys.page(&map, false, base + FRAMES)), None, "{base:#x}");
        }
        for base in [0x10_0000, phys.bios_base()] {
            let there = host(phys.page(&Map::default(), false, base));
            assert!(there.is_some());
            assert_eq!(host(phys.page(&with_window_at(base), false, base)), there, "{base:#x}");
        }
    }
}
