//! The machine as one vCPU sees it: address decoding, local chips, device rings, interrupts, time.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bulkhead_bus::irq::LOOK_NS;
use bulkhead_bus::patience::Patience;
use bulkhead_bus::sys::{self, monotonic_ns};
use bulkhead_bus::trace::{Tracer, events};
use bulkhead_engine::{ApicAccess, Machine, Page, Requests, log};

use crate::physmap::{MEGABYTE, Map, SHADOW, VIDEO};
use crate::ports::log2;
use crate::shared::Shared;
use crate::time::Counted;

/// After how many rounds of a loop in which the guest waits for another vCPU that one gets this thread's processor, should it need one:
/// some 0.3 us. Without it a lock whose holder does not run is waited for as long as the scheduler lets a thread run.
const ROUNDS: u32 = 32;

/// One vCPU's view of the machine.
pub struct Pc {
    cpu: usize,
    /// What all vCPUs share.
    pub shared: Arc<Shared>,
    map: Arc<Map>,
    map_generation: u64,
    smm: bool,
    /// Where the search for code that bus masters have changed goes on.
    sweep: Option<u64>,
    /// This thread has posted writes whose bell is due some time.
    posted: bool,
    /// The CPU had better run on another processor than this, taken by the main loop.
    pub crowded: Option<u32>,
    tracer: Tracer,
    patience: Patience,
    /// Rounds of waiting loops so far.
    pauses: u32,
}

impl Pc {
    /// The view of vCPU `cpu`.
    pub fn new(cpu: usize, shared: Arc<Shared>, tracer: Tracer) -> Pc {
        let mut pc = Pc {
            cpu,
            shared,
            map: Arc::default(),
            map_generation: u64::MAX,
            smm: false,
            sweep: None,
            posted: false,
            crowded: None,
            tracer,
            patience: Patience::new(0),
            pauses: 0,
        };
        pc.refresh_map();
        pc
    }

    /// Number of the vCPU as the chips count.
    fn number(&self) -> u8 {
        self.cpu as u8
    }

    fn refresh_map(&mut self) {
        if let Some(map) = self.shared.new_map(&mut self.map_generation) {
            self.map = map;
        }
    }

    /// After a write to a device: a posted one must not wait long for its bell.
    fn note_posted(&mut self) {
        if !self.posted && self.shared.devices.has_posted() {
            self.posted = true;
            self.shared.note_posted(self.cpu);
        }
    }

    /// An access to a device process, for which this vCPU may have to wait.
    fn with_device<T>(&mut self, access: impl FnOnce(&Shared, &Map) -> T) -> T {
        self.refresh_map();
        self.shared.set_in_device(self.cpu, true);
        let value = access(&self.shared, &self.map);
        self.shared.set_in_device(self.cpu, false);
        self.shared.follow_devices(self.cpu);
        // Who sees that a transfer is over must not run the code that it has replaced.
        self.shared.pass_on_changes();
        // What the device has done to its lines is told to the first vCPU only. And a guest that does nothing but wait for a device, its
        // interrupts off, would look at nothing for long.
        let told = self.cpu != 0 && self.shared.irq.attention().load(Ordering::SeqCst) != 0;
        if told || !self.shared.is_smp() && self.shared.devices.is_crowded() {
            self.shared.insist(self.cpu);
        }
        value
    }

    /// Whether a device answers at `port`, and then whether it answers all of the `size` bytes there; what is behind it can be a chip's.
    /// Its ranges lie over those of the chips.
    fn device_at(&mut self, port: u16, size: u8) -> Option<bool> {
        self.refresh_map();
        let range = self.map.ports.find(port.into())?;
        Some(range.holds(port.into(), size.into()))
    }

    fn port_in(&mut self, port: u16, size: u8) -> u32 {
        let device =
            |shared: &Shared, map: &Map| shared.devices.read(&map.ports, u64::from(port), log2(size)) as u32;
        match self.device_at(port, size) {
            Some(true) => return self.with_device(device),
            Some(false) => {
                return (0..size).fold(0, |value, at| {
                    let byte = port.checked_add(at.into()).map_or(0xff, |port| self.port_in(port, 1));
                    value | byte << (8 * at)
                });
            }
            None => {}
        }
        let (mut chips, now) = self.shared.chips_now();
        if let Some(value) = chips.board.port_read(port, size, now) {
            self.tracer.begin(events::CHIP_READ, || [0, port.into(), size.into(), value.into()]);
            self.shared.settle_and_notify(&mut chips, self.cpu, now);
            return value;
        }
        drop(chips);
        self.with_device(device)
    }

    fn port_out(&mut self, port: u16, size: u8, value: u32) {
        match self.device_at(port, size) {
            Some(true) => {}
            Some(false) => {
                for (at, byte) in (0..u16::from(size)).zip(value.to_le_bytes()) {
                    if let Some(port) = port.checked_add(at) {
                        self.port_out(port, 1, byte.into());
                    }
                }
                return;
            }
            None => {
                let (mut chips, now) = self.shared.chips_now();
                if chips.board.port_write(port, size, value, now) {
                    self.tracer.begin(events::CHIP_WRITE, || [0, port.into(), size.into(), value.into()]);
                    self.shared.settle_and_notify(&mut chips, self.cpu, now);
                    return;
                }
            }
        }
        let (address, value) = (u64::from(port), u64::from(value));
        self.with_device(|shared, map| shared.devices.write(&map.ports, address, log2(size), value));
        self.note_posted();
    }

    /// A halt where time is counted: it lasts until something comes from outside, or until the next thing is due.
    fn wait_counted(&self, counted: &Counted) {
        let next = self.shared.next_event(self.cpu);
        let left = next.map_or(LOOK_NS, |at| self.shared.clock.halt_left_ns(at));
        let start = monotonic_ns();
        if left != 0 {
            self.shared.sleep(self.cpu, left.min(LOOK_NS));
            counted.slept(monotonic_ns().saturating_sub(start));
        }
        if let Some(at) = next
            && !self.shared.called(self.cpu)
            && self.shared.clock.halt_left_ns(at) == 0
        {
            counted.skip_to(at);
        }
        self.shared.irq.attention().store(1, Ordering::SeqCst);
    }

    /// Looks for something to do, as long as the last halts promise that it comes soon. True when it has come.
    fn look(&self, start: u64, at_most_ns: u64) -> bool {
        let patience = self.patience.look_ns().min(at_most_ns);
        // A device that has work and no processor but this one gets it.
        let is_needed = || self.shared.devices.need_processor();
        if self.cpu == 0 {
            self.shared.irq.cpu_bell().publish_cpu();
        }
        while patience != 0 && !is_needed() && monotonic_ns().saturating_sub(start) < patience {
            for _ in 0..32 {
                if self.shared.called(self.cpu) {
                    return true;
                }
                sys::pause();
            }
            // Nor may another vCPU wait for this one, which has nothing to do.
            if self.shared.outnumbers_the_host() {
                sys::yield_processor();
            }
        }
        false
    }

    /// Sleeps until there is something to do; a nap for at most so many nanoseconds.
    fn sleep(&mut self, nap: Option<u64>) {
        self.shared.devices.flush_posted();
        if self.shared.idle(self.cpu) {
            return self.shared.insist(self.cpu);
        }
        if let Some(counted) = self.shared.clock.counted() {
            return self.wait_counted(counted);
        }
        // The alarm comes no later, but maybe just before the sleep begins.
        let deadline = self.shared.chips().board.deadline_of(self.number());
        let clock = &self.shared.clock;
        let most = nap.unwrap_or(LOOK_NS).min(LOOK_NS);
        let left_ns = || deadline.map_or(most, |at| at.saturating_sub(clock.now()).min(most));
        self.tracer.begin(events::HALT, || [0; 4]);
        let start = monotonic_ns();
        if nap.is_some() || !self.look(start, left_ns()) {
            self.shared.sleep(self.cpu, left_ns());
        }
        if nap.is_none() {
            self.patience.lasted(monotonic_ns().saturating_sub(start));
        }
        self.tracer.end(events::HALT, || [0; 4]);
        // A deadline that passed while asleep counts as attention, which a halted CPU pays in any case.
        if self.cpu == 0 {
            self.shared.irq.attention().store(1, Ordering::SeqCst);
        }
    }
}

impl Machine for Pc {
    fn page(&mut self, gpa: u64) -> Page {
        self.refresh_map();
        // It lies over whatever else is there, RAM too.
        if self.map.apic_pages.get(self.cpu) == Some(&Some(gpa)) {
            return Page::Device;
        }
        self.shared.phys.page(&self.map, self.smm, gpa)
    }

    fn read(&mut self, gpa: u64, size: u8) -> u64 {
        let (mut chips, now) = self.shared.chips_now();
        if let Some(value) = chips.board.mmio_read(self.number(), gpa, size, now) {
            self.tracer.begin(events::CHIP_READ, || [1, gpa, size.into(), value]);
            self.shared.settle_and_notify(&mut chips, self.cpu, now);
            return value;
        }
        drop(chips);
        self.with_device(|shared, map| shared.devices.read(&map.mmio, gpa, log2(size)))
    }

    fn write(&mut self, gpa: u64, size: u8, value: u64) {
        let (mut chips, now) = self.shared.chips_now();
        if chips.board.mmio_write(self.number(), gpa, size, value, now) {
            self.tracer.begin(events::CHIP_WRITE, || [1, gpa, size.into(), value]);
            self.shared.settle_and_notify(&mut chips, self.cpu, now);
            return;
        }
        drop(chips);
        self.refresh_map();
        let hidden = (VIDEO..SHADOW).contains(&gpa) && self.map.shows_smram(self.smm);
        if (SHADOW..MEGABYTE).contains(&gpa) || hidden {
            let bytes = value.to_le_bytes();
            let bytes = bytes.get(..usize::from(size.min(8))).unwrap_or_default();
            self.shared.phys.write_shadow(&self.map, gpa, bytes);
        } else {
            self.with_device(|shared, map| shared.devices.write(&map.mmio, gpa, log2(size), value));
            self.note_posted();
        }
    }

    fn port_read(&mut self, port: u16, size: u8) -> u32 {
        let value = self.port_in(port, size);
        if self.shared.log.has(log::IOPORT) {
            self.shared.log.line(log::IOPORT, &format!("in{size} {port:04x} = {value:x}"));
        }
        value
    }

    fn port_write(&mut self, port: u16, size: u8, value: u32) {
        if self.shared.log.has(log::IOPORT) {
            self.shared.log.line(log::IOPORT, &format!("out{size} {port:04x} = {value:x}"));
        }
        self.port_out(port, size, value);
    }

    fn port_read_block(&mut self, port: u16, size: u8, data: &mut [u8]) {
        let done = self.with_device(|shared, map| {
            let found = shared.devices.unit(&map.ports, u64::from(port), log2(size));
            found.map(|(mut device, region, offset)| device.read_block(region, offset, log2(size), data))
        });
        if done.is_some() {
            return;
        }
        for unit in data.chunks_exact_mut(usize::from(size.max(1))) {
            let value = self.port_read(port, size).to_le_bytes();
            unit.iter_mut().zip(value).for_each(|(to, from)| *to = from);
        }
    }

    fn port_write_block(&mut self, port: u16, size: u8, data: &[u8]) {
        let done = self.with_device(|shared, map| {
            let found = shared.devices.unit(&map.ports, u64::from(port), log2(size));
            found.map(|(mut device, region, offset)| device.write_block(region, offset, log2(size), data))
        });
        if done.is_some() {
            return;
        }
        for unit in data.chunks_exact(usize::from(size.max(1))) {
            let mut value = [0u8; 4];
            value.iter_mut().zip(unit).for_each(|(to, from)| *to = *from);
            self.port_write(port, size, u32::from_le_bytes(value));
        }
    }

    fn watch_code(&mut self, gpa: u64) {
        if let Some(offset) = self.shared.phys.ram.offset(gpa, 4096) {
            self.shared.code.watch(offset as u64 / 4096);
        }
    }

    fn take_dirty_code(&mut self) -> Option<u64> {
        if self.shared.is_smp() {
            self.shared.pass_on_changes();
            return None;
        }
        if self.sweep.is_none() && !self.shared.code.take_changed() {
            return None;
        }
        let (page, gpa) = self.shared.take_dirty_page(self.sweep.take().unwrap_or(0))?;
        self.sweep = Some(page + 1);
        Some(gpa)
    }

    fn acknowledge_interrupt(&mut self) -> Option<u8> {
        let vector = self.shared.acknowledge(self.cpu);
        if let Some(vector) = vector {
            self.tracer.begin(events::INTERRUPT, || [vector.into(), 0, 0, 0]);
        }
        vector
    }

    fn interrupt_pending(&mut self) -> bool {
        self.posted = false;
        self.shared.interrupt_pending(self.cpu)
    }

    fn take_requests(&mut self) -> Requests {
        let mut requests = self.shared.take_requests(self.cpu);
        if requests.flush {
            self.refresh_map();
        }
        if self.cpu == 0 {
            // With several of them the processors are taken, and not for waiting.
            if self.shared.devices.take_crowded() && !self.shared.is_smp() {
                self.crowded = Some(sys::current_cpu());
            }
            requests.leave |= self.shared.message_waits.load(Ordering::SeqCst) || self.crowded.is_some();
        }
        requests
    }

    fn tsc(&mut self) -> u64 {
        // One tick a nanosecond: exact with respect to every other guest clock.
        self.shared.clock.now()
    }

    fn apic(&mut self, access: ApicAccess) -> u64 {
        let cpu = self.number();
        let (mut chips, now) = self.shared.chips_now();
        let value = match access {
            ApicAccess::ReadBase => chips.board.apic_base(cpu),
            ApicAccess::WriteBase(value) => {
                chips.board.set_apic_base(cpu, value, now);
                0
            }
            ApicAccess::ReadTpr => u64::from(chips.board.cr8(cpu)),
            ApicAccess::WriteTpr(value) => {
                chips.board.set_cr8(cpu, value as u8);
                0
            }
            ApicAccess::ReadDeadline => chips.board.tsc_deadline(cpu, now),
            ApicAccess::WriteDeadline { value, due } => {
                chips.board.set_tsc_deadline(cpu, value, due, now);
                0
            }
        };
        self.shared.settle_and_notify(&mut chips, self.cpu, now);
        value
    }

    fn fpu_error(&mut self, active: bool) -> bool {
        // Only the first processor's FERR# is wired.
        if self.cpu != 0 {
            return true;
        }
        let mut chips = self.shared.chips();
        let go_on = chips.board.set_ferr(active);
        self.shared.settle_and_notify(&mut chips, self.cpu, self.shared.clock.now());
        go_on
    }

    fn a20_mask(&self) -> u64 {
        self.shared.a20_mask()
    }

    fn pause(&mut self) {
        self.pauses = self.pauses.wrapping_add(1);
        // Where each vCPU has a processor only others would take it, and keep it for milliseconds.
        if self.pauses.is_multiple_of(ROUNDS) && self.shared.outnumbers_the_host() {
            sys::yield_processor();
        }
    }

    fn wait(&mut self) {
        self.sleep(None);
    }

    fn nap(&mut self, ns: u64) {
        self.sleep(Some(ns));
    }

    fn set_smm(&mut self, active: bool) {
        self.smm = active;
        self.shared.flush(self.cpu);
    }

    fn log(&mut self, item: u32, text: &str) {
        self.shared.log.line(item, text);
    }

    fn shutdown(&mut self) {
        self.shared.shut_down(self.cpu);
    }
}
