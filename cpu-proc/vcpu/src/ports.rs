//! I/O port and device-memory decoding: from an address to a device's register region.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bulkhead_bus::device::{DevicePort, PortView};
use bulkhead_bus::irq::Line;

use crate::time::GuestTime;

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

impl Range {
    /// Whether all of the `bytes` bytes at `address`, which is in the range, are.
    pub fn holds(&self, address: u64, bytes: u64) -> bool {
        self.size - (address - self.base) >= bytes
    }
}

/// Ranges of one address space, looked up by address. Later ranges lie over earlier ones.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    fixed: Vec<Range>,
    /// What of all ranges can be seen: disjoint, by address.
    seen: Vec<Range>,
}

impl Decoder {
    /// Adds a range that never moves.
    pub fn add(&mut self, range: Range) {
        self.fixed.push(range);
        self.lay(range);
    }

    /// Replaces the ranges that BARs place.
    pub fn set_moving(&mut self, ranges: Vec<Range>) {
        self.seen.clear();
        for range in self.fixed.clone().into_iter().chain(ranges) {
            self.lay(range);
        }
    }

    /// Lays a range over those that are there.
    fn lay(&mut self, over: Range) {
        let over_end = over.base.saturating_add(over.size);
        let cut = |range: Range| {
            let end = range.base.saturating_add(range.size);
            let below = range.base.max(over.base.min(end));
            let above = range.base.max(over_end.min(end)).max(below);
            let part = |from: u64, to: u64| Range {
                base: from,
                size: to - from,
                offset: range.offset.wrapping_add((from - range.base) as u32),
                ..range
            };
            [part(range.base, below), part(above, end)]
        };
        self.seen = self.seen.drain(..).flat_map(cut).chain([over]).filter(|range| range.size != 0).collect();
        self.seen.sort_by_key(|range| range.base);
    }

    /// The range at `address`.
    pub fn find(&self, address: u64) -> Option<&Range> {
        let next = self.seen.partition_point(|range| range.base <= address);
        self.seen.get(next.checked_sub(1)?).filter(|range| address - range.base < range.size)
    }
}

/// The devices, with accesses split where they would leave a range. A ring has one producer: whoever holds its lock.
pub struct Devices {
    /// CPU ends of the device rings.
    ends: Vec<Mutex<DevicePort>>,
    /// For those who do not hold the lock.
    views: Vec<PortView>,
    /// Whether something was posted since the last flush, a bit a device.
    posted: AtomicU64,
    /// A vCPU keeps meeting devices on its own processor.
    crowded: AtomicBool,
    time: Arc<GuestTime>,
}

impl Devices {
    /// Over the rings, whose ends go in step with `time` when that is counted.
    pub fn new(ports: Vec<DevicePort>, time: Arc<GuestTime>) -> Devices {
        let counted = time.counted().is_some();
        let ports: Vec<DevicePort> =
            ports.into_iter().map(|port| if counted { port.in_step() } else { port }).collect();
        let views = ports.iter().map(DevicePort::view).collect();
        Devices {
            ends: ports.into_iter().map(Mutex::new).collect(),
            views,
            posted: AtomicU64::new(0),
            crowded: AtomicBool::new(false),
            time,
        }
    }

    fn end(&self, device: usize) -> Option<MutexGuard<'_, DevicePort>> {
        let mut end = self.ends.get(device)?.lock().unwrap_or_else(PoisonError::into_inner);
        if self.time.counted().is_some() {
            end.set_now(self.time.now());
        }
        Some(end)
    }

    /// When the next device has something to do, where time is counted.
    pub fn deadline(&self) -> Option<u64> {
        self.views.iter().filter_map(PortView::deadline).min()
    }

    /// Where time is counted: lets devices do what is due at `now`.
    pub fn tick(&self, now: u64) {
        for (device, view) in self.views.iter().enumerate() {
            if view.deadline().is_some_and(|at| at <= now)
                && let Some(mut end) = self.end(device)
            {
                end.tick();
            }
        }
    }

    /// Reads `1 << size` bytes at `address`; what nothing answers reads as ones.
    pub fn read(&self, decoder: &Decoder, address: u64, size: u8) -> u64 {
        let bytes = 1u64 << size;
        match decoder.find(address) {
            Some(range) if range.holds(address, bytes) => {
                let offset = range.offset.wrapping_add((address - range.base) as u32);
                match self.end(range.device) {
                    Some(mut port) => {
                        let value = port.read(range.region, offset, size);
                        self.note(&port);
                        value
                    }
                    None => u64::MAX >> (64 - 8 * bytes),
                }
            }
            None if size == 0 => 0xff,
            _ => (0..bytes)
                .fold(0, |value, at| value | self.read(decoder, address.wrapping_add(at), 0) << (8 * at)),
        }
    }

    /// Writes `1 << size` bytes at `address`.
    pub fn write(&self, decoder: &Decoder, address: u64, size: u8, value: u64) {
        let bytes = 1u64 << size;
        match decoder.find(address) {
            Some(range) if range.holds(address, bytes) => {
                let offset = range.offset.wrapping_add((address - range.base) as u32);
                if let Some(mut port) = self.end(range.device) {
                    port.write(range.region, offset, size, value);
                    self.note(&port);
                    if port.has_unbelled() {
                        self.posted.fetch_or(1 << (range.device & 63), Ordering::Relaxed);
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
    pub fn unit(
        &self,
        decoder: &Decoder,
        address: u64,
        size: u8,
    ) -> Option<(MutexGuard<'_, DevicePort>, u8, u32)> {
        let range = decoder.find(address)?;
        if !range.holds(address, 1 << size) {
            return None;
        }
        let offset = range.offset.wrapping_add((address - range.base) as u32);
        Some((self.end(range.device)?, range.region, offset))
    }

    fn note(&self, port: &DevicePort) {
        if port.take_crowded() {
            self.crowded.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the CPU had better run on another processor than its devices, since the last call.
    pub fn take_crowded(&self) -> bool {
        self.is_crowded() && self.crowded.swap(false, Ordering::Relaxed)
    }

    /// What [`Devices::take_crowded`] would say.
    pub fn is_crowded(&self) -> bool {
        self.crowded.load(Ordering::Relaxed)
    }

    /// Output line `line` of device `device`.
    pub fn line(&self, device: u32, line: u8) -> Line {
        self.views.get(device as usize).map(|port| port.line(line.into())).unwrap_or_default()
    }

    /// What anybody may look at of device `device`.
    pub fn view(&self, device: u32) -> Option<&PortView> {
        self.views.get(device as usize)
    }

    /// Whether a device that has work waits for the caller's processor.
    pub fn need_processor(&self) -> bool {
        self.views.iter().any(PortView::waits_for_processor)
    }

    /// Whether a device may not know of its posted writes yet.
    pub fn has_posted(&self) -> bool {
        self.posted.load(Ordering::Relaxed) != 0
    }

    /// Rings the bells of devices with posted writes: the vCPU is about to stop looking. What another vCPU holds stays posted.
    pub fn flush_posted(&self) {
        if !self.has_posted() {
            return;
        }
        let mut posted = self.posted.swap(0, Ordering::Relaxed);
        while posted != 0 {
            let device = posted.trailing_zeros() as usize;
            if let Some(end) = self.ends.get(device) {
                match end.try_lock() {
                    Ok(mut port) => port.flush_posted(),
                    Err(_) => {
                        self.posted.fetch_or(1 << device, Ordering::Relaxed);
                    }
                }
            }
            posted &= posted - 1;
        }
    }

    /// Resets every device.
    pub fn reset(&self) {
        for device in 0..self.ends.len() {
            if let Some(mut port) = self.end(device) {
                port.reset();
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn range(base: u64, size: u64, device: usize) -> Range {
        Range { base, size, device, region: 0, offset: 0x100 }
    }

    #[test]
    fn an_address_belongs_to_the_last_range_over_it() {
        // Every way in which one range can lie over another, and the ends of the address space.
        let ends = [0, 1, 2, 5, 6, 9, u64::MAX - 3, u64::MAX];
        let mut ranges = Vec::new();
        for base in ends {
            ranges.extend(ends.iter().filter(|end| **end >= base).map(|end| (base, end - base)));
        }
        for (first, second) in
            ranges.iter().flat_map(|first| ranges.iter().map(move |second| (first, second)))
        {
            let lower = range(4, 4, 0);
            let moving = vec![range(first.0, first.1, 1), range(second.0, second.1, 2)];
            let mut decoder = Decoder::default();
            decoder.add(lower);
            decoder.set_moving(moving.clone());
            let all = [vec![lower], moving].concat();
            for address in (0..12).chain(u64::MAX - 6..=u64::MAX) {
                let wanted = all.iter().rev().find(|range| address.wrapping_sub(range.base) < range.size);
                let wanted = wanted.map(|range| (range.device, range.offset + (address - range.base) as u32));
                let have = decoder.find(address);
                let have = have.map(|range| (range.device, range.offset + (address - range.base) as u32));
                assert_eq!(have, wanted, "{address:#x} under {first:?} and {second:?}");
            }
        }
    }
}
