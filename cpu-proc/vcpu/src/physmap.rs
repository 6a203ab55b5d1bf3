//! The guest-physical address map: which page is RAM, ROM, video memory or a device.
//!
//! | from | to | what |
//! |---|---|---|
//! | 0 | 0xa0000 | RAM |
//! | 0xa0000 | 0xc0000 | video memory window (RAM in system-management mode) |
//! | 0xc0000 | 0x100000 | firmware ROM or RAM, per 16 KiB and direction, as the host bridge's PAM registers say |
//! | 0x100000 | end of low RAM | RAM |
//! | 0xe0000000 | 0xfec00000 | PCI memory BARs |
//! | 0xfec00000 | 4 GiB | IOAPIC, HPET, LAPIC; firmware ROM at the top |
//! | 4 GiB | | RAM above the hole |

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
    bios: Vec<u8>,
    /// ROM view of 0xc0000..0x100000: all ones, the last 128 KiB of the firmware at its end.
    low_rom: Vec<u8>,
    /// Frame buffers and the like.
    pub memories: Vec<Mapping>,
    /// Firmware to be copied into RAM at reset, with its address: a machine without shadow registers.
    resident: Vec<(u64, Vec<u8>)>,
}

/// A page-aligned copy: generated code reads ROM through whole pages.
fn page_aligned(bytes: &[u8], fill_front: usize) -> Vec<u8> {
    let mut memory = Vec::with_capacity(fill_front + bytes.len() + 4096);
    memory.resize(fill_front, 0xff);
    memory.extend_from_slice(bytes);
    memory.resize(memory.len().next_multiple_of(4096), 0xff);
    memory
}

impl PhysMap {
    /// A map over `ram` with the firmware image `bios` (a multiple of 4 KiB, at most 16 MiB).
    pub fn new(ram: GuestRam, bios: &[u8], memories: Vec<Mapping>) -> PhysMap {
        let tail = bios.len().min(0x2_0000);
        let low = bios.get(bios.len() - tail..).unwrap_or_default();
        PhysMap {
            ram,
            bios: page_aligned(bios, 0),
            low_rom: page_aligned(low, SHADOW_BYTES - tail),
            memories,
            resident: Vec::new(),
        }
    }

    /// A machine without a host bridge: firmware lies in RAM below 1 MiB, put there by every reset. `roms` are images besides
    /// the system firmware, with their addresses.
    pub fn keep_firmware_in_ram(&mut self, roms: Vec<(u64, Vec<u8>)>) {
        self.resident = roms;
        let tail = self.bios.len().min(0x2_0000);
        let low = self.bios.get(self.bios.len() - tail..).unwrap_or_default().to_vec();
        self.resident.push((MEGABYTE - tail as u64, low));
        self.reset();
    }

    /// Puts firmware into RAM where it belongs there.
    pub fn reset(&self) {
        for (base, bytes) in &self.resident {
            let _ = self.ram.write(*base, bytes);
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

    fn rom_page(memory: &[u8], offset: u64) -> Page {
        match memory.get(offset as usize..).filter(|rest| rest.len() >= 4096) {
            Some(page) => Page::Memory { host: page.as_ptr().cast_mut(), writable: false },
            None => Page::Device,
        }
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
                    Self::rom_page(&self.low_rom, gpa - SHADOW)
                }
            }
            LOW_LIMIT..0x1_0000_0000 => {
                if gpa >= self.bios_base() {
                    return Self::rom_page(&self.bios, gpa - self.bios_base());
                }
                let inside = |window: &&Window| gpa >= window.base && gpa - window.base < window.size;
                map.windows.iter().find(inside).map_or(Page::Device, |window| self.window_page(window, gpa))
            }
            _ => self.ram_page(gpa, true),
        }
    }

    fn window_page(&self, window: &Window, gpa: u64) -> Page {
        let offset = (gpa - window.base) as usize;
        match self.memories.get(window.memory) {
            Some(memory) if offset + 4096 <= memory.len() => {
                // SAFETY: a whole page from there is inside the mapping, which lives as long as the process.
                Page::Memory { host: unsafe { memory.base().add(offset) }, writable: window.writable }
            }
            _ => Page::Device,
        }
    }

    /// A write to memory that generated code may not write: to RAM under ROM where the host bridge says so, else nowhere.
    pub fn write_shadow(&self, map: &Map, gpa: u64, bytes: &[u8]) {
        if (SHADOW..MEGABYTE).contains(&gpa) && map.granule(gpa).write_ram {
            let _ = self.ram.write(gpa, bytes);
        }
    }
}
