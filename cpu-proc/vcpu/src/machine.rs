//! The PC around one CPU: address decoding, local chips, device rings, interrupts, time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bulkhead_bus::clock::Clock;
use bulkhead_bus::device::DevicePort;
use bulkhead_bus::irq::{IrqPage, LOOK_NS};
use bulkhead_bus::messages::{BulkMap, RegionMap, Space, Wire, WireMap};
use bulkhead_bus::patience::{self, Patience};
use bulkhead_bus::ram::CodeMap;
use bulkhead_bus::sys::{self, monotonic_ns};
use bulkhead_bus::trace::{Tracer, events};
use bulkhead_chips::board::{Board, Event};
use bulkhead_chips::i440fx::GRANULE;
use bulkhead_chips::pci::ROM_BAR;
use bulkhead_engine::{ApicAccess, Machine, Page, Requests, log};

use crate::alarm::Alarm;
use crate::log::Log;
use crate::physmap::{MEGABYTE, PhysMap, SHADOW, Shadow, VIDEO, Window};
use crate::ports::{Decoder, Devices, Range, log2};

/// How long a posted write may wait for its bell while the guest does nothing that rings it.
const BELL_NS: u64 = 1_000_000;

/// Why the vCPU left its run loop for the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// The guest or a device asked for a reset.
    Reset,
    /// The guest powered the machine off.
    PowerOff,
    /// A debug-exit port was written with this value.
    Exit(u32),
    /// Triple fault.
    Shutdown,
}

/// What a line of a device is wired to, with what was last seen of it.
struct Lead {
    map: WireMap,
    edges: u32,
    level: bool,
}

/// The machine.
pub struct Pc {
    /// Physical memory.
    pub phys: PhysMap,
    /// Local chips.
    pub board: Board,
    /// Device processes.
    pub devices: Devices,
    /// Guest time.
    pub clock: Clock,
    /// Lines in, attention out.
    pub irq: Arc<IrqPage>,
    code: CodeMap,
    ports: Decoder,
    mmio: Decoder,
    leads: Vec<Lead>,
    regions: Vec<RegionMap>,
    bulks: Vec<BulkMap>,
    alarm: Alarm,
    requests: Requests,
    /// Gates that can each let address bit 20 through: keyboard controller and port 92h.
    a20: Vec<(u32, bool)>,
    /// `-d`.
    pub log: Log,
    /// First reason to leave, taken by the main loop.
    pub departure: Option<Departure>,
    map_generation: u64,
    /// Expansion ROMs: function and index in the map's memories.
    roms: Vec<(u8, usize)>,
    /// Host time at which devices must hear of their posted writes.
    bell_due: Option<u64>,
    smm: bool,
    /// Guest time at which all lines are looked at, whatever was announced.
    look_due: u64,
    code_changed: bool,
    /// A message of the broker waits: the CPU has to leave its run loop.
    message_waits: Arc<AtomicBool>,
    /// The CPU had better run on another processor than this, taken by the main loop.
    pub crowded: Option<u32>,
    tracer: Tracer,
    patience: Patience,
}

impl Pc {
    /// Puts the machine together. `regions` and `wires` come from the broker's machine table.
    #[expect(clippy::too_many_arguments, reason = "each is one part of the machine")]
    pub fn new(
        phys: PhysMap,
        board: Board,
        devices: Devices,
        clock: Clock,
        irq: Arc<IrqPage>,
        code: CodeMap,
        regions: Vec<RegionMap>,
        wires: Vec<WireMap>,
        bulks: Vec<BulkMap>,
        roms: Vec<(u8, usize)>,
        alarm: Alarm,
        message_waits: Arc<AtomicBool>,
        log: Log,
        tracer: Tracer,
    ) -> Pc {
        let a20 = wires.iter().filter(|wire| wire.to == Wire::A20).map(|wire| (wire.device, true)).collect();
        let mut pc = Pc {
            phys,
            board,
            devices,
            clock,
            irq,
            code,
            ports: Decoder::default(),
            mmio: Decoder::default(),
            leads: wires.into_iter().map(|map| Lead { map, edges: 0, level: false }).collect(),
            regions,
            bulks,
            alarm,
            requests: Requests::default(),
            a20,
            log,
            departure: None,
            map_generation: u64::MAX,
            roms,
            bell_due: None,
            smm: false,
            look_due: 0,
            code_changed: false,
            message_waits,
            tracer,
            patience: Patience::new(0),
            crowded: None,
        };
        for region in &pc.regions {
            let range = range_of(region, region.base, region.size);
            match region.space {
                Space::Port => pc.ports.add(range),
                Space::Mmio => pc.mmio.add(range),
                Space::MemoryBar { .. } | Space::PortBar { .. } => {}
            }
        }
        for at in 0..pc.leads.len() {
            if let Some(lead) = pc.leads.get_mut(at) {
                let line = pc.devices.line(lead.map.device, lead.map.line);
                lead.edges = line.edges;
            }
        }
        pc.remap();
        pc.sample(u64::MAX);
        pc
    }

    /// Rebuilds everything that depends on BARs, PAM and SMRAM, when the chips say that it changed.
    fn remap(&mut self) {
        let generation = self.board.map_generation();
        if generation == self.map_generation {
            return;
        }
        self.map_generation = generation;
        let shadow = self.board.shadow();
        for (granule, entry) in (0u64..).zip(&mut self.phys.shadow) {
            let state = shadow.at(SHADOW + granule * GRANULE).unwrap_or_default();
            *entry = Shadow { read_ram: state.read_ram, write_ram: state.write_ram };
        }
        self.phys.smram = shadow.smram_open || shadow.smram_enabled && self.smm;
        let (mut ports, mut mmio, mut windows) = (Vec::new(), Vec::new(), Vec::new());
        for bar in self.board.decode_map() {
            let memory = Space::MemoryBar { devfn: bar.devfn, bar: bar.bar };
            let port = Space::PortBar { devfn: bar.devfn, bar: bar.bar };
            for region in &self.regions {
                let range = range_of(region, bar.base, bar.size.min(region.size));
                if region.space == memory {
                    mmio.push(range);
                } else if region.space == port {
                    ports.push(range);
                }
            }
            let owner = |bulk: &BulkMap| bulk.devfn == bar.devfn && bulk.bar == bar.bar;
            if let Some(memory) = self.bulks.iter().position(owner) {
                windows.push(Window { base: bar.base, size: bar.size, memory, writable: true });
            } else if let Some((_, memory)) =
                self.roms.iter().find(|rom| rom.0 == bar.devfn && bar.bar == ROM_BAR)
            {
                windows.push(Window { base: bar.base, size: bar.size, memory: *memory, writable: false });
            }
        }
        self.ports.set_moving(ports);
        self.mmio.set_moving(mmio);
        self.phys.windows = windows;
        self.requests.flush = true;
    }

    /// Acts on what the chips have to say after an access or a poll.
    fn settle(&mut self) {
        while let Some(event) = self.board.take_event() {
            match event {
                Event::Reset => self.depart(Departure::Reset),
                Event::PowerOff => self.depart(Departure::PowerOff),
                Event::Smi(_) => self.requests.smi = true,
                Event::Nmi(_) => self.requests.nmi = true,
                Event::MapChanged => self.remap(),
                // INIT to the only CPU starts it over; start-up messages have no addressee.
                Event::Init(0) => self.requests.reset = true,
                Event::Init(_) | Event::Sipi(..) => {}
                // Suspend to RAM is not offered by the tables that the firmware makes; wake at once.
                Event::Suspend => self.board.wake(),
                // No device has asked to hear of configuration writes.
                Event::PciConfig(_) => {}
            }
        }
        self.arm();
    }

    /// Sets the alarm for the next thing that is due: a timer of the chips, the look at all lines, or the bell of posted writes.
    fn arm(&mut self) {
        let timer = self.board.next_deadline().map_or(self.look_due, |at| at.min(self.look_due));
        let timer = self.clock.host_time(timer);
        let at = timer.into_iter().chain(self.bell_due).min();
        self.alarm.set(at.map_or(0, |at| at.max(1)));
    }

    /// After a write to a device: a posted one must not wait for its bell longer than [`BELL_NS`].
    fn note_posted(&mut self) {
        if self.bell_due.is_none() && self.devices.has_posted() {
            self.bell_due = Some(monotonic_ns().saturating_add(BELL_NS));
            self.arm();
        }
    }

    /// Lets every device know of its posted writes.
    fn flush_posted(&mut self) {
        self.devices.flush_posted();
        self.bell_due = None;
    }

    /// After a guest access at `now` that may have raised an interrupt or a request: makes the CPU look.
    fn settle_and_notify(&mut self, now: u64) {
        self.settle();
        if self.requests != Requests::default() || self.board.interrupt_pending(0, now) {
            self.irq.attention().store(1, Ordering::SeqCst);
        }
    }

    fn depart(&mut self, why: Departure) {
        self.departure.get_or_insert(why);
        self.requests.leave = true;
        self.irq.attend();
    }

    /// Looks at the lines of every source in `news`.
    fn sample(&mut self, news: u64) {
        for at in 0..self.leads.len() {
            let Some(lead) = self.leads.get_mut(at) else { break };
            if news >> (lead.map.device & 63) & 1 == 0 {
                continue;
            }
            let line = self.devices.line(lead.map.device, lead.map.line);
            let rose = line.edges != lead.edges;
            let changed = line.level != lead.level || rose;
            lead.edges = line.edges;
            lead.level = line.level;
            let (source, number, to) = (lead.map.device, lead.map.line, lead.map.to);
            if changed && let Some(port) = self.devices.ports.get(source as usize) {
                let args = [number.into(), line.level.into(), line.edges.into(), 0];
                port.tracer().begin(events::CPU_LINE, || args);
            }
            if !changed && to != Wire::A20 {
                continue;
            }
            match to {
                Wire::Isa(irq) => {
                    if rose {
                        // It fell and rose again since the last look: show the chips the edge.
                        self.set_isa(at, irq, false);
                        self.set_isa(at, irq, true);
                    }
                    self.set_isa(at, irq, line.level);
                }
                Wire::PciPin { devfn, .. } => self.board.set_intx(devfn, line.level),
                Wire::A20 => {
                    let before = self.a20_mask();
                    for gate in self.a20.iter_mut().filter(|gate| gate.0 == source) {
                        gate.1 = line.level;
                    }
                    self.requests.flush |= before != self.a20_mask();
                }
                Wire::Reset if rose => self.depart(Departure::Reset),
                Wire::PowerOff if rose => self.depart(Departure::PowerOff),
                Wire::Exit if rose => self.depart(Departure::Exit(line.value)),
                Wire::Nmi if rose => self.requests.nmi = true,
                _ => {}
            }
        }
    }

    /// Drives an ISA interrupt from lead `at`; leads that share it are or-ed.
    fn set_isa(&mut self, at: usize, irq: u8, level: bool) {
        let others = self.leads.iter().enumerate();
        let held = others
            .filter(|(other, lead)| *other != at && lead.map.to == Wire::Isa(irq))
            .any(|(_, lead)| lead.level);
        self.board.set_isa_irq(irq, level || held);
    }

    /// Power-on reset of everything but the CPU.
    pub fn reset(&mut self) {
        self.devices.reset();
        self.phys.reset();
        self.board.reset(self.clock.now());
        self.smm = false;
        self.irq.take_news();
        self.sample(u64::MAX);
        self.settle();
        self.remap();
        self.departure = None;
        self.requests = Requests { flush: true, reset: true, ..Requests::default() };
    }

    /// A non-maskable interrupt from the monitor.
    pub fn request_nmi(&mut self) {
        self.requests.nmi = true;
    }

    /// Brings chips and alarm up to date, e.g. after guest time went on again.
    pub fn refresh(&mut self) {
        let now = self.clock.now();
        self.board.poll(now);
        self.settle_and_notify(now);
    }
}

fn range_of(region: &RegionMap, base: u64, size: u64) -> Range {
    Range { base, size, device: region.device as usize, region: region.region, offset: region.offset }
}

impl Pc {
    fn port_in(&mut self, port: u16, size: u8) -> u32 {
        let now = self.clock.now();
        if let Some(value) = self.board.port_read(port, size, now) {
            self.tracer.begin(events::CHIP_READ, || [0, port.into(), size.into(), value.into()]);
            self.settle_and_notify(now);
            return value;
        }
        self.devices.read(&self.ports, u64::from(port), log2(size)) as u32
    }

    /// Looks for something to do, as long as the last halts promise that it comes soon. True when it has come.
    fn look(&self, start: u64, at_most_ns: u64, called: impl Fn() -> bool) -> bool {
        let ns = self.patience.look_ns().min(at_most_ns);
        // A device that has work and no processor but this one gets it.
        let is_needed = || self.devices.ports.iter().any(DevicePort::waits_for_processor);
        self.irq.cpu_bell().publish_cpu();
        ns != 0 && patience::look(start, ns, || !is_needed(), called)
    }
}

impl Machine for Pc {
    fn page(&mut self, gpa: u64) -> Page {
        self.phys.page(gpa)
    }

    fn read(&mut self, gpa: u64, size: u8) -> u64 {
        let now = self.clock.now();
        if let Some(value) = self.board.mmio_read(0, gpa, size, now) {
            self.tracer.begin(events::CHIP_READ, || [1, gpa, size.into(), value]);
            self.settle_and_notify(now);
            return value;
        }
        self.devices.read(&self.mmio, gpa, log2(size))
    }

    fn write(&mut self, gpa: u64, size: u8, value: u64) {
        let now = self.clock.now();
        if self.board.mmio_write(0, gpa, size, value, now) {
            self.tracer.begin(events::CHIP_WRITE, || [1, gpa, size.into(), value]);
            self.settle_and_notify(now);
        } else if (SHADOW..MEGABYTE).contains(&gpa) || (VIDEO..SHADOW).contains(&gpa) && self.phys.smram {
            let bytes = value.to_le_bytes();
            self.phys.write_shadow(gpa, bytes.get(..usize::from(size.min(8))).unwrap_or_default());
        } else {
            self.devices.write(&self.mmio, gpa, log2(size), value);
            self.note_posted();
        }
    }

    fn port_read(&mut self, port: u16, size: u8) -> u32 {
        let value = self.port_in(port, size);
        if self.log.mask & log::IOPORT != 0 {
            self.log.line(log::IOPORT, &format!("in{size} {port:04x} = {value:x}"));
        }
        value
    }

    fn port_write(&mut self, port: u16, size: u8, value: u32) {
        if self.log.mask & log::IOPORT != 0 {
            self.log.line(log::IOPORT, &format!("out{size} {port:04x} = {value:x}"));
        }
        let now = self.clock.now();
        if self.board.port_write(port, size, value, now) {
            self.tracer.begin(events::CHIP_WRITE, || [0, port.into(), size.into(), value.into()]);
            self.settle_and_notify(now);
            return;
        }
        self.devices.write(&self.ports, u64::from(port), log2(size), u64::from(value));
        self.note_posted();
    }

    fn port_read_block(&mut self, port: u16, size: u8, data: &mut [u8]) {
        let log = log2(size);
        if let Some((device, region, offset)) = self.devices.unit(&self.ports, u64::from(port), log) {
            device.read_block(region, offset, log, data);
            return;
        }
        for unit in data.chunks_exact_mut(usize::from(size.max(1))) {
            let value = self.port_read(port, size).to_le_bytes();
            unit.iter_mut().zip(value).for_each(|(to, from)| *to = from);
        }
    }

    fn port_write_block(&mut self, port: u16, size: u8, data: &[u8]) {
        let log = log2(size);
        if let Some((device, region, offset)) = self.devices.unit(&self.ports, u64::from(port), log) {
            device.write_block(region, offset, log, data);
            return;
        }
        for unit in data.chunks_exact(usize::from(size.max(1))) {
            let mut value = [0u8; 4];
            value.iter_mut().zip(unit).for_each(|(to, from)| *to = *from);
            self.port_write(port, size, u32::from_le_bytes(value));
        }
    }

    fn watch_code(&mut self, gpa: u64) {
        if let Some(offset) = self.phys.ram.offset(gpa, 4096) {
            self.code.watch(offset as u64 / 4096);
        }
    }

    fn take_dirty_code(&mut self) -> Option<u64> {
        self.code_changed |= self.code.take_changed();
        if !self.code_changed {
            return None;
        }
        let page = self.code.take_dirty().or_else(|| {
            self.code_changed = false;
            None
        })?;
        let low = self.phys.ram.bytes().min(bulkhead_bus::ram::LOW_LIMIT);
        let offset = page * 4096;
        Some(if offset < low { offset } else { offset - low + bulkhead_bus::ram::HIGH_BASE })
    }

    fn acknowledge_interrupt(&mut self) -> Option<u8> {
        let now = self.clock.now();
        let vector = self.board.acknowledge(0, now);
        if let Some(vector) = vector {
            self.tracer.begin(events::INTERRUPT, || [vector.into(), 0, 0, 0]);
        }
        self.settle();
        vector
    }

    fn interrupt_pending(&mut self) -> bool {
        self.flush_posted();
        let news = self.irq.take_news();
        let now = self.clock.now();
        if now >= self.look_due {
            // A device that was taken over can take back what another one has announced.
            self.look_due = now.saturating_add(LOOK_NS);
            self.sample(u64::MAX);
        } else if news != 0 {
            self.sample(news);
        }
        self.board.poll(now);
        self.settle();
        self.board.interrupt_pending(0, now)
    }

    fn take_requests(&mut self) -> Requests {
        let mut requests = std::mem::take(&mut self.requests);
        if self.devices.take_crowded() {
            self.crowded = Some(sys::current_cpu());
        }
        requests.leave |= self.message_waits.load(Ordering::SeqCst) || self.crowded.is_some();
        requests
    }

    fn tsc(&mut self) -> u64 {
        // One tick a nanosecond: exact with respect to every other guest clock.
        self.clock.now()
    }

    fn apic(&mut self, access: ApicAccess) -> u64 {
        let value = match access {
            ApicAccess::ReadBase => self.board.apic_base(0),
            ApicAccess::WriteBase(value) => {
                self.board.set_apic_base(0, value);
                0
            }
            ApicAccess::ReadTpr => u64::from(self.board.cr8(0)),
            ApicAccess::WriteTpr(value) => {
                self.board.set_cr8(0, value as u8);
                0
            }
        };
        self.settle_and_notify(self.clock.now());
        value
    }

    fn fpu_error(&mut self, active: bool) -> bool {
        let go_on = self.board.set_ferr(active);
        self.settle_and_notify(self.clock.now());
        go_on
    }

    fn a20_mask(&self) -> u64 {
        if self.a20.iter().any(|(_, open)| *open) { u64::MAX } else { !(1 << 20) }
    }

    fn wait(&mut self) {
        self.flush_posted();
        let irq = &self.irq;
        let called = || irq.attention().load(Ordering::SeqCst) != 0;
        // The alarm comes no later, but maybe just before the sleep begins.
        let deadline = self.board.next_deadline();
        let left_ns = || deadline.map_or(LOOK_NS, |at| at.saturating_sub(self.clock.now()).min(LOOK_NS));
        self.tracer.begin(events::HALT, || [0; 4]);
        let start = monotonic_ns();
        if !self.look(start, left_ns(), called) {
            irq.cpu_bell().sleep(Some(Duration::from_nanos(left_ns())), called);
        }
        self.patience.lasted(monotonic_ns().saturating_sub(start));
        self.tracer.end(events::HALT, || [0; 4]);
        // A deadline that passed while asleep counts as attention.
        irq.attention().store(1, Ordering::SeqCst);
    }

    fn set_smm(&mut self, active: bool) {
        self.smm = active;
        let shadow = self.board.shadow();
        self.phys.smram = shadow.smram_open || shadow.smram_enabled && active;
        self.requests.flush = true;
    }

    fn log(&mut self, item: u32, text: &str) {
        self.log.line(item, text);
    }

    fn shutdown(&mut self) {
        self.depart(Departure::Shutdown);
    }
}
