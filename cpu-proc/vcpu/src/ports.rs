//! I/O port and device-memory decoding: from an address to a device's register region.

use bulkhead_bus::device::DevicePort;
use bulkhead_bus::irq::Line;

/// A range of addresses that one device region answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub base: u64,
    /// Addresses.
    pub size: u64,
    /// Index of the device.
    pub device: usize,
    /// Its region.
    pub region: u8,
    /// Offset in the region of the first address.
    pub offset: u32,
}

/// Ranges of one address space, looked up by address. Later ranges lie over earlier ones.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    fixed: Vec<Range>,
    moving: Vec<Range>,
}

impl Decoder {
    /// Adds a range that never moves.
    pub fn add(&mut self, range: Range) {
        self.fixed.push(range);
    }

    /// Replaces the ranges that BARs place.
    pub fn set_moving(&mut self, ranges: Vec<Range>) {
        self.moving = ranges;
    }

    /// The range at `address`.
    pub fn find(&self, address: u64) -> Option<&Range> {
        let hit = |range: &&Range| address >= range.base && address - range.base < range.size;
        self.moving.iter().rev().find(hit).or_else(|| self.fixed.iter().rev().find(hit))
    }
}

/// The devices, with accesses split where they would leave a range.
pub struct Devices {
    /// CPU ends of the device rings.
    pub ports: Vec<DevicePort>,
    /// Whether something was posted since the last flush, a bit a device.
    posted: u64,
}

impl Devices {
    /// Over the rings.
    pub fn new(ports: Vec<DevicePort>) -> Devices {
        Devices { ports, posted: 0 }
    }

    /// Reads `1 << size` bytes at `address`; what nothing answers reads as ones.
    pub fn read(&mut self, decoder: &Decoder, address: u64, size: u8) -> u64 {
        let bytes = 1u64 << size;
        match decoder.find(address) {
            Some(range) if range.size - (address - range.base) >= bytes => {
                let offset = range.offset.wrapping_add((address - range.base) as u32);
                match self.ports.get_mut(range.device) {
                    Some(port) => port.read(range.region, offset, size),
                    None => u64::MAX >> (64 - 8 * bytes),
                }
            }
            None if size == 0 => 0xff,
            _ => (0..bytes)
                .fold(0, |value, at| value | self.read(decoder, address.wrapping_add(at), 0) << (8 * at)),
        }
    }

    /// Writes `1 << size` bytes at `address`.
    pub fn write(&mut self, decoder: &Decoder, address: u64, size: u8, value: u64) {
        let bytes = 1u64 << size;
        match decoder.find(address) {
            Some(range) if range.size - (address - range.base) >= bytes => {
                let offset = range.offset.wrapping_add((address - range.base) as u32);
                if let Some(port) = self.ports.get_mut(range.device) {
                    port.write(range.region, offset, size, value);
                    if port.has_unbelled() {
                        self.posted |= 1 << (range.device & 63);
                    }
                }
            }
            None if size == 0 => {}
            _ => (0..bytes).for_each(|at| {
                self.write(decoder, address.wrapping_add(at), 0, value >> (8 * at) & 0xff);
            }),
        }
    }

    /// The device register behind a repeated access, when a whole unit of it lies in one range.
    pub fn unit(&mut self, decoder: &Decoder, address: u64, size: u8) -> Option<(&mut DevicePort, u8, u32)> {
        let range = decoder.find(address)?;
        let inside = address - range.base;
        if range.size - inside < 1 << size {
            return None;
        }
        let offset = range.offset.wrapping_add(inside as u32);
        Some((self.ports.get_mut(range.device)?, range.region, offset))
    }

    /// Whether the CPU had better run on another processor than its devices, since the last call.
    pub fn take_crowded(&self) -> bool {
        self.ports.iter().fold(false, |crowded, port| crowded | port.take_crowded())
    }

    /// Output line `line` of device `device`.
    pub fn line(&self, device: u32, line: u8) -> Line {
        self.ports.get(device as usize).map(|port| port.line(line.into())).unwrap_or_default()
    }

    /// Whether a device may not know of its posted writes yet.
    pub fn has_posted(&self) -> bool {
        self.posted != 0
    }

    /// Rings the bells of devices with posted writes: the vCPU is about to stop looking.
    pub fn flush_posted(&mut self) {
        let mut posted = std::mem::take(&mut self.posted);
        while posted != 0 {
            if let Some(port) = self.ports.get_mut(posted.trailing_zeros() as usize) {
                port.flush_posted();
            }
            posted &= posted - 1;
        }
    }

    /// Resets every device.
    pub fn reset(&mut self) {
        for port in &mut self.ports {
            port.reset();
        }
    }
}

/// Log2 of an access size of 1, 2, 4 or 8 bytes.
pub fn log2(size: u8) -> u8 {
    match size {
        1 => 0,
        2 => 1,
        4 => 2,
        _ => 3,
    }
}
