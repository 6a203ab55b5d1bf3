//! What the vCPUs of a machine share: chips behind one lock that is never held while anybody waits, devices behind a lock each, and the way
//! to each other's attention.

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bulkhead_bus::irq::{IrqPage, LOOK_NS};
use bulkhead_bus::messages::{BulkMap, RegionMap, Space, Wire, WireMap};
use bulkhead_bus::ram::{CodeMap, HIGH_BASE, LOW_LIMIT};
use bulkhead_bus::sys;
use bulkhead_bus::trace::events;
use bulkhead_chips::board::{Board, Event};
use bulkhead_chips::i440fx::GRANULE;
use bulkhead_chips::pci::ROM_BAR;
use bulkhead_engine::{Code, Requests};

use crate::alarm::Alarm;
use crate::log::Log;
use crate::physmap::{Map, PhysMap, SHADOW, Shadow, Window};
use crate::ports::{Decoder, Devices, Range};
use crate::time::{AGAIN_NS, GuestTime};

#[cfg(test)]
mod tests;

/// How long a posted write may wait for its bell while the guest does nothing that rings it.
const BELL_NS: u64 = 1_000_000;

/// Why the vCPUs left their run loops for the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// The guest or a device asked for a reset.
    Reset,
    /// The guest powered the machine off.
    PowerOff,
    /// A debug-exit port was written with this value.
    Exit(u32),
    /// Triple fault of this vCPU.
    Shutdown(usize),
}

impl Departure {
    /// Whether the machine ends by it.
    fn is_end(self) -> bool {
        matches!(self, Departure::PowerOff | Departure::Exit(_))
    }
}

/// What a line of a device is wired to, with what was last seen of it.
struct Lead {
    map: WireMap,
    edges: u32,
    level: bool,
}

/// The part of the machine that one lock guards. Whoever holds it waits for nothing. Times that the chips are told are taken under it: for
/// them time does not run backwards.
pub struct Chips {
    /// Local chips.
    pub board: Board,
    leads: Vec<Lead>,
    /// Gates that can each let address bit 20 through: keyboard controller and port 92h.
    a20: Vec<(u32, bool)>,
    /// What is asked of each vCPU.
    requests: Vec<Requests>,
    /// vCPUs that know of the interrupt that waits for them.
    told: Vec<bool>,
    alarms: Vec<Alarm>,
    /// Host time at which devices must hear of their posted writes, by the vCPU that posted.
    bell_due: Vec<Option<u64>>,
    /// Guest time at which all lines are looked at, whatever was announced.
    look_due: u64,
    map_generation: u64,
    /// First reason to leave, or the first to end, taken by the main loop.
    departure: Option<Departure>,
}

/// What the others must know of a vCPU.
#[derive(Default)]
struct Slot {
    /// `CoreState::attention`.
    attention: AtomicPtr<AtomicPtr<AtomicU32>>,
    /// 1 while it halts; a futex word. The first vCPU has its bell instead.
    sleeps: AtomicU32,
    /// It may be waiting for a device.
    in_device: AtomicBool,
}

/// Fixed facts of the machine.
pub struct Layout {
    /// Where the regions of devices lie.
    pub regions: Vec<RegionMap>,
    /// What device outputs are wired to.
    pub wires: Vec<WireMap>,
    /// Display memory.
    pub bulks: Vec<BulkMap>,
    /// Expansion ROMs: function and index in the map's memories.
    pub roms: Vec<(u8, usize)>,
}

/// The machine around the vCPUs.
pub struct Shared {
    chips: Mutex<Chips>,
    /// Device processes.
    pub devices: Devices,
    /// Guest time.
    pub clock: Arc<GuestTime>,
    /// Lines in, attention out.
    pub irq: Arc<IrqPage>,
    /// Physical memory.
    pub phys: PhysMap,
    /// `-d`.
    pub log: Log,
    /// Which pages hold compiled code, for bus masters.
    pub code: CodeMap,
    /// The compiled code of all vCPUs.
    pub compiled: Arc<Code>,
    layout: Layout,
    map: Mutex<Arc<Map>>,
    map_generation: AtomicU64,
    a20_mask: AtomicU64,
    slots: Vec<Slot>,
    /// Held while changes of code by bus masters are passed on; `passing` as long as somebody is at it.
    passing_on: Mutex<()>,
    passing: AtomicBool,
    /// A message of the broker waits: the first vCPU has to leave its run loop.
    pub message_waits: Arc<AtomicBool>,
    outnumbers: bool,
}

/// What [`Shared::new`] takes.
pub struct Parts {
    /// Local chips.
    pub board: Board,
    /// Device processes.
    pub devices: Devices,
    /// Guest time.
    pub clock: Arc<GuestTime>,
    /// Lines in, attention out.
    pub irq: Arc<IrqPage>,
    /// Physical memory.
    pub phys: PhysMap,
    /// `-d`.
    pub log: Log,
    /// Which pages hold compiled code.
    pub code: CodeMap,
    /// The compiled code of all vCPUs.
    pub compiled: Arc<Code>,
    /// A message of the broker waits.
    pub message_waits: Arc<AtomicBool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn range_of(region: &RegionMap, base: u64, size: u64) -> Range {
    Range { base, size, device: region.device as usize, region: region.region, offset: region.offset }
}

/// The machine, for whom nobody can hand it to.
static MACHINE: OnceLock<Arc<Shared>> = OnceLock::new();

/// While a vCPU waits for a device: what has happened to the machine meanwhile is for another one.
fn meanwhile() {
    if let Some(shared) = MACHINE.get()
        && shared.irq.attention().load(Ordering::SeqCst) != 0
    {
        shared.delegate();
    }
}

/// What a vCPU does whose wait for a device is disturbed.
pub const MEANWHILE: fn() = meanwhile;

impl Shared {
    /// Puts the machine together, for `alarms.len()` vCPUs with their alarms.
    pub fn new(parts: Parts, layout: Layout, cpus: usize) -> Arc<Shared> {
        let Parts { board, devices, clock, irq, phys, log, code, compiled, message_waits } = parts;
        let wires = &layout.wires;
        let a20 = wires.iter().filter(|wire| wire.to == Wire::A20).map(|wire| (wire.device, true)).collect();
        let leads = wires.iter().map(|map| Lead { map: *map, edges: 0, level: false }).collect();
        let chips = Chips {
            board,
            leads,
            a20,
            requests: vec![Requests::default(); cpus],
            told: vec![false; cpus],
            alarms: Vec::new(),
            bell_due: vec![None; cpus],
            look_due: 0,
            map_generation: u64::MAX,
            departure: None,
        };
        let (mut ports, mut mmio) = (Decoder::default(), Decoder::default());
        for region in &layout.regions {
            let range = range_of(region, region.base, region.size);
            match region.space {
                Space::Port => ports.add(range),
                Space::Mmio => mmio.add(range),
                Space::MemoryBar { .. } | Space::PortBar { .. } => {}
            }
        }
        let shared = Arc::new(Shared {
            chips: Mutex::new(chips),
            devices,
            clock,
            irq,
            phys,
            log,
            code,
            compiled,
            layout,
            map: Mutex::new(Arc::new(Map { ports, mmio, ..Map::default() })),
            map_generation: AtomicU64::new(0),
            a20_mask: AtomicU64::new(u64::MAX),
            slots: (0..cpus).map(|_| Slot::default()).collect(),
            passing_on: Mutex::new(()),
            passing: AtomicBool::new(false),
            message_waits,
            outnumbers: std::thread::available_parallelism().is_ok_and(|host| cpus > host.get()),
        });
        let mut chips = shared.chips();
        for lead in &mut chips.leads {
            lead.edges = shared.devices.line(lead.map.device, lead.map.line).edges;
        }
        shared.remap(&mut chips);
        shared.sample(&mut chips, u64::MAX);
        drop(chips);
        let _ = MACHINE.set(shared.clone());
        shared
    }

    /// The chips.
    pub fn chips(&self) -> MutexGuard<'_, Chips> {
        lock(&self.chips)
    }

    /// The same with the guest time that the chips are told, which has to be taken under the lock.
    pub fn chips_now(&self) -> (MutexGuard<'_, Chips>, u64) {
        let chips = self.chips();
        let now = self.clock.now();
        (chips, now)
    }

    /// How many vCPUs there are.
    pub fn cpus(&self) -> usize {
        self.slots.len()
    }

    /// Whether some vCPU always waits for a processor of the host that another has: there are more of them.
    pub fn outnumbers_the_host(&self) -> bool {
        self.outnumbers
    }

    /// Whether there is more than one vCPU.
    pub fn is_smp(&self) -> bool {
        self.slots.len() > 1
    }

    /// Gives a vCPU its way to be heard of, before it runs.
    pub fn connect(&self, cpu: usize, attention: *const AtomicPtr<AtomicU32>) {
        if let Some(slot) = self.slots.get(cpu) {
            slot.attention.store(attention.cast_mut(), Ordering::Release);
        }
    }

    /// Takes over the alarm of the next vCPU.
    pub fn add_alarm(&self, alarm: Alarm) {
        self.chips().alarms.push(alarm);
    }

    /// Makes vCPU `cpu` stop at its next poll, for certain; it may sleep on. If it is attending just now it does so again before the next
    /// instruction, which the word that devices set, too, would let run.
    pub fn insist(&self, cpu: usize) {
        let Some(slot) = self.slots.get(cpu) else { return };
        let attention = slot.attention.load(Ordering::Acquire);
        if !attention.is_null() {
            // SAFETY: `connect` was given a field that lives as long as the process and is only accessed atomically.
            bulkhead_engine::insist(unsafe { &*attention });
        }
    }

    /// Whether vCPU `cpu` has been called.
    fn is_called(&self, cpu: usize) -> bool {
        let Some(slot) = self.slots.get(cpu) else { return true };
        let attention = slot.attention.load(Ordering::Acquire);
        // SAFETY: as in `insist`; what the field points to is the interrupt page, a slot of ours or a constant.
        attention.is_null() || unsafe { (*(*attention).load(Ordering::SeqCst)).load(Ordering::SeqCst) } != 0
    }

    /// Makes vCPU `cpu` look, waking it if it sleeps. From any thread, and from a signal handler.
    pub fn kick(&self, cpu: usize) {
        self.insist(cpu);
        if cpu == 0 {
            return self.irq.attend();
        }
        let Some(slot) = self.slots.get(cpu) else { return };
        if slot.sleeps.load(Ordering::SeqCst) == 1 && slot.sleeps.swap(0, Ordering::SeqCst) == 1 {
            sys::futex_wake(&slot.sleeps);
        }
    }

    /// vCPU `cpu` has nothing to do: sleeps until it is called, at most `ns` nanoseconds.
    pub fn sleep(&self, cpu: usize, ns: u64) {
        let at_most = Duration::from_nanos(ns);
        if cpu == 0 {
            return self.irq.cpu_bell().sleep(Some(at_most), || self.called(0));
        }
        let Some(slot) = self.slots.get(cpu) else { return };
        slot.sleeps.swap(1, Ordering::SeqCst);
        if !self.is_called(cpu) {
            sys::futex_wait(&slot.sleeps, 1, Some(at_most));
        }
        slot.sleeps.store(0, Ordering::SeqCst);
    }

    /// Whether a vCPU that sleeps has been called.
    pub fn called(&self, cpu: usize) -> bool {
        cpu == 0 && self.irq.attention().load(Ordering::SeqCst) != 0 || self.is_called(cpu)
    }

    /// The alarm of vCPU `cpu`. When that waits for a device, another one sees to what is due.
    pub fn rouse(&self, cpu: usize) {
        self.insist(cpu);
        if self.slots.get(cpu).is_some_and(|slot| slot.in_device.load(Ordering::SeqCst)) {
            self.delegate();
        }
    }

    /// Makes some vCPU look that does not wait for a device.
    fn delegate(&self) {
        let free = |slot: &Slot| !slot.in_device.load(Ordering::SeqCst);
        if let Some(cpu) = self.slots.iter().position(free) {
            self.kick(cpu);
        }
    }

    /// Says that vCPU `cpu` may be waiting for a device, or not any more.
    pub fn set_in_device(&self, cpu: usize, inside: bool) {
        if self.is_smp()
            && let Some(slot) = self.slots.get(cpu)
        {
            slot.in_device.store(inside, Ordering::SeqCst);
        }
    }

    /// The map in force, when it is not of generation `known`, which is brought up to date.
    pub fn new_map(&self, known: &mut u64) -> Option<Arc<Map>> {
        let generation = self.map_generation.load(Ordering::Acquire);
        if generation == *known {
            return None;
        }
        *known = generation;
        Some(lock(&self.map).clone())
    }

    /// The A20 mask.
    pub fn a20_mask(&self) -> u64 {
        self.a20_mask.load(Ordering::Relaxed)
    }

    /// Rebuilds everything that depends on BARs, PAM and SMRAM, when the chips say that it changed.
    fn remap(&self, chips: &mut Chips) {
        let generation = chips.board.map_generation();
        if generation == chips.map_generation {
            return;
        }
        chips.map_generation = generation;
        let mut map = Map::clone(&lock(&self.map));
        let shadow = chips.board.shadow();
        for (granule, entry) in (0u64..).zip(&mut map.shadow) {
            let state = shadow.at(SHADOW + granule * GRANULE).unwrap_or_default();
            *entry = Shadow { read_ram: state.read_ram, write_ram: state.write_ram };
        }
        map.smram = (shadow.smram_open, shadow.smram_enabled);
        map.chip_pages = chips.board.chip_pages().collect();
        map.apic_pages = (0..self.cpus()).map(|cpu| chips.board.apic_page(cpu as u8)).collect();
        let (mut ports, mut mmio, mut windows) = (Vec::new(), Vec::new(), Vec::new());
        for bar in chips.board.decode_map() {
            let memory = Space::MemoryBar { devfn: bar.devfn, bar: bar.bar };
            let port = Space::PortBar { devfn: bar.devfn, bar: bar.bar };
            for region in &self.layout.regions {
                let range = range_of(region, bar.base, bar.size.min(region.size));
                if region.space == memory {
                    mmio.push(range);
                } else if region.space == port {
                    ports.push(range);
                }
            }
            let owner = |bulk: &BulkMap| bulk.devfn == bar.devfn && bulk.bar == bar.bar;
            if let Some(memory) = self.layout.bulks.iter().position(owner) {
                windows.push(Window { base: bar.base, size: bar.size, memory, writable: true });
            } else if let Some((_, memory)) =
                self.layout.roms.iter().find(|rom| rom.0 == bar.devfn && bar.bar == ROM_BAR)
            {
                windows.push(Window { base: bar.base, size: bar.size, memory: *memory, writable: false });
            }
        }
        map.ports.set_moving(ports);
        map.mmio.set_moving(mmio);
        map.windows = windows;
        *lock(&self.map) = Arc::new(map);
        self.map_generation.fetch_add(1, Ordering::Release);
        self.flush_all(chips);
    }

    /// Makes every vCPU drop its translations.
    fn flush_all(&self, chips: &mut Chips) {
        for cpu in 0..self.cpus() {
            self.request(chips, cpu, |requests| requests.flush = true);
        }
    }

    /// Asks something of a vCPU.
    fn request(&self, chips: &mut Chips, cpu: usize, what: impl FnOnce(&mut Requests)) {
        if let Some(requests) = chips.requests.get_mut(cpu) {
            what(requests);
            if self.is_smp() {
                self.kick(cpu);
            }
        }
    }

    /// vCPU `cpu` asks for its translations to be dropped.
    pub fn flush(&self, cpu: usize) {
        self.request(&mut self.chips(), cpu, |requests| requests.flush = true);
    }

    /// Acts on what the chips have to say after an access or a poll by vCPU `cpu`.
    fn settle(&self, chips: &mut Chips, cpu: usize) {
        while let Some(event) = chips.board.take_event() {
            match event {
                Event::Reset => self.depart(chips, Departure::Reset),
                Event::PowerOff => self.depart(chips, Departure::PowerOff),
                Event::Smi(to) => self.request(chips, to.into(), |requests| requests.smi = true),
                Event::Nmi(to) => self.request(chips, to.into(), |requests| requests.nmi = true),
                Event::MapChanged => self.remap(chips),
                // A start-up message or an interrupt before it is of no effect any more.
                Event::Init(to) => self.request(chips, to.into(), |requests| {
                    (requests.init, requests.start) = (true, None);
                    (requests.nmi, requests.nmi_before_start) = (false, false);
                }),
                // Only the first of several starts.
                Event::Sipi(to, page) => self.request(chips, to.into(), |requests| {
                    if requests.start.is_none() {
                        requests.start = Some(page);
                        requests.nmi_before_start |= std::mem::take(&mut requests.nmi);
                    }
                }),
                // Suspend to RAM is not offered by the tables that the firmware makes; wake at once.
                Event::Suspend => chips.board.wake(),
            }
        }
        if self.is_smp() {
            for other in (0..self.cpus()).filter(|other| *other != cpu) {
                let waits = chips.board.waits(other as u8);
                if let Some(told) = chips.told.get_mut(other)
                    && std::mem::replace(told, waits) != waits
                    && waits
                {
                    self.kick(other);
                }
            }
            if cpu != 0 {
                self.arm(chips, 0);
            }
        }
        self.arm(chips, cpu);
    }

    /// Sets a vCPU's alarm for the next thing that it has to see to: a timer of the chips, the look at all lines, or the bell of posted
    /// writes.
    fn arm(&self, chips: &mut Chips, cpu: usize) {
        let timer = chips.board.deadline_of(cpu as u8);
        let timer = timer.into_iter().chain((cpu == 0).then_some(chips.look_due)).min();
        if let Some(counted) = self.clock.counted() {
            return counted.attend_at(timer.into_iter().chain(self.device_deadline()).min());
        }
        let bell = chips.bell_due.get(cpu).copied().flatten();
        let at = timer.and_then(|at| self.clock.host_time(at)).into_iter().chain(bell).min();
        if let Some(alarm) = chips.alarms.get_mut(cpu) {
            alarm.set(at.map_or(0, |at| at.max(1)));
        }
    }

    /// When the next device has something to do, where time is counted. One that cannot be satisfied does not hold it up.
    fn device_deadline(&self) -> Option<u64> {
        self.devices.deadline().map(|at| at.max(self.clock.now().saturating_add(AGAIN_NS)))
    }

    /// Where time is counted: the next time at which anything is due.
    pub fn next_event(&self, cpu: usize) -> Option<u64> {
        let chips = self.chips().board.deadline_of(cpu as u8);
        chips.into_iter().chain(self.device_deadline()).min()
    }

    /// Where time is counted: after an access to a device, which may have another deadline now.
    pub fn follow_devices(&self, cpu: usize) {
        if self.clock.counted().is_some() {
            self.arm(&mut self.chips(), cpu);
        }
    }

    /// After a write by vCPU `cpu` that may be posted, which must not wait for its bell longer than [`BELL_NS`].
    pub fn note_posted(&self, cpu: usize) {
        let mut chips = self.chips();
        if let Some(due) = chips.bell_due.get_mut(cpu) {
            due.get_or_insert(sys::monotonic_ns().saturating_add(BELL_NS));
        }
        self.arm(&mut chips, cpu);
    }

    /// After an access of vCPU `cpu` at `now` that may have raised an interrupt or a request: makes the vCPUs look.
    pub fn settle_and_notify(&self, chips: &mut Chips, cpu: usize, now: u64) {
        self.settle(chips, cpu);
        let asked = chips.requests.get(cpu).is_some_and(|requests| *requests != Requests::default());
        if asked || chips.board.interrupt_pending(cpu as u8, now) {
            self.insist(cpu);
        }
    }

    fn depart(&self, chips: &mut Chips, why: Departure) {
        // The guest may have asked for the end first: a write to a device takes longer than one to a chip.
        if chips.departure.is_none_or(|before| why.is_end() && !before.is_end()) {
            chips.departure = Some(why);
        }
        for cpu in 0..self.cpus() {
            self.request(chips, cpu, |requests| requests.leave = true);
        }
        self.irq.attend();
    }

    /// vCPU `cpu` cannot go on.
    pub fn shut_down(&self, cpu: usize) {
        self.depart(&mut self.chips(), Departure::Shutdown(cpu));
    }

    /// Whether a departure waits for the main loop.
    pub fn is_departing(&self) -> bool {
        self.chips().departure.is_some()
    }

    /// Takes the departure.
    pub fn take_departure(&self) -> Option<Departure> {
        self.chips().departure.take()
    }

    /// Makes a vCPU leave its run loop.
    pub fn call_off(&self, cpu: usize) {
        self.request(&mut self.chips(), cpu, |requests| requests.leave = true);
    }

    /// Takes what is asked of a vCPU.
    pub fn take_requests(&self, cpu: usize) -> Requests {
        self.chips().requests.get_mut(cpu).map(std::mem::take).unwrap_or_default()
    }

    /// Looks at the lines of every source in `news`.
    fn sample(&self, chips: &mut Chips, news: u64) {
        for at in 0..chips.leads.len() {
            let Some(lead) = chips.leads.get_mut(at) else { break };
            if news >> (lead.map.device & 63) & 1 == 0 {
                continue;
            }
            let line = self.devices.line(lead.map.device, lead.map.line);
            let rose = line.edges != lead.edges;
            let changed = line.level != lead.level || rose;
            lead.edges = line.edges;
            lead.level = line.level;
            let (source, number, to) = (lead.map.device, lead.map.line, lead.map.to);
            if changed && let Some(view) = self.devices.view(source) {
                let args = [number.into(), line.level.into(), line.edges.into(), 0];
                view.tracer().begin(events::CPU_LINE, || args);
            }
            if !changed && to != Wire::A20 {
                continue;
            }
            match to {
                Wire::Isa(irq) => {
                    if rose {
                        // It fell and rose again since the last look: show the chips the edge.
                        set_isa(chips, at, irq, false);
                        set_isa(chips, at, irq, true);
                    }
                    set_isa(chips, at, irq, line.level);
                }
                Wire::PciPin { devfn, .. } => chips.board.set_intx(devfn, line.level),
                Wire::A20 => {
                    for gate in chips.a20.iter_mut().filter(|gate| gate.0 == source) {
                        gate.1 = line.level;
                    }
                    let open = chips.a20.iter().any(|(_, open)| *open);
                    let mask = if open { u64::MAX } else { !(1 << 20) };
                    if self.a20_mask.swap(mask, Ordering::Relaxed) != mask {
                        self.flush_all(chips);
                    }
                }
                Wire::Reset if rose => self.depart(chips, Departure::Reset),
                Wire::PowerOff if rose => self.depart(chips, Departure::PowerOff),
                Wire::Exit if rose => self.depart(chips, Departure::Exit(line.value)),
                Wire::Nmi if rose => self.request(chips, 0, |requests| requests.nmi = true),
                _ => {}
            }
        }
    }

    /// Brings chips and lines up to date and says whether an interrupt waits for vCPU `cpu`.
    pub fn interrupt_pending(&self, cpu: usize) -> bool {
        self.devices.flush_posted();
        self.clock.adjust();
        let counted = self.clock.counted().is_some();
        if counted {
            self.devices.tick(self.clock.now());
        }
        let mut chips = self.chips();
        let chips = &mut *chips;
        if let Some(due) = chips.bell_due.get_mut(cpu) {
            // A device that another vCPU holds has not been rung, and that one need not do it: it may read from the mirror.
            *due = self.devices.has_posted().then(|| sys::monotonic_ns().saturating_add(BELL_NS));
        }
        let news = self.irq.take_news();
        let now = self.clock.now();
        if now >= chips.look_due || counted {
            // A device that was taken over can take back what another one has announced.
            chips.look_due = now.saturating_add(LOOK_NS);
            self.sample(chips, u64::MAX);
        } else if news != 0 {
            self.sample(chips, news);
        }
        chips.board.poll(now);
        self.settle(chips, cpu);
        let waits = chips.board.interrupt_pending(cpu as u8, now);
        if let Some(told) = chips.told.get_mut(cpu) {
            *told = waits;
        }
        if chips.requests.get(cpu).is_some_and(|requests| *requests != Requests::default()) {
            self.insist(cpu);
        }
        waits
    }

    /// vCPU `cpu` halts: timers that owe it ticks let the next one come. Whether one did.
    pub fn idle(&self, cpu: usize) -> bool {
        let mut chips = self.chips();
        let came = chips.board.idle(cpu as u8, self.clock.now());
        if came {
            self.settle(&mut chips, cpu);
        }
        came
    }

    /// The interrupt acknowledge of vCPU `cpu`.
    pub fn acknowledge(&self, cpu: usize) -> Option<u8> {
        let (mut chips, now) = self.chips_now();
        let vector = chips.board.acknowledge(cpu as u8, now);
        self.settle(&mut chips, cpu);
        vector
    }

    /// Power-on reset of everything but the CPUs, which stand.
    pub fn reset(&self) {
        self.devices.reset();
        self.phys.reset(|page| self.compiled.changed(page));
        let mut chips = self.chips();
        let chips = &mut *chips;
        chips.board.reset(self.clock.now());
        self.irq.take_news();
        self.sample(chips, u64::MAX);
        self.settle(chips, 0);
        self.remap(chips);
        // What devices had still to do before their reset can have been the end of the machine.
        chips.departure = chips.departure.filter(|why| why.is_end());
        chips.told.fill(false);
        let leave = chips.departure.is_some();
        chips.requests.fill(Requests { flush: true, leave, ..Requests::default() });
    }

    /// A non-maskable interrupt from the monitor.
    pub fn request_nmi(&self, cpu: u32) {
        self.request(&mut self.chips(), cpu as usize, |requests| requests.nmi = true);
    }

    /// Brings chips and alarms up to date, e.g. after guest time went on again.
    pub fn refresh(&self) {
        let (mut chips, now) = self.chips_now();
        chips.board.poll(now);
        for cpu in 0..self.cpus() {
            self.settle_and_notify(&mut chips, cpu, now);
        }
    }

    /// Drops, for all vCPUs, what bus masters have changed of their code. Whoever returns from here can rely on it being done. One
    /// vCPU alone uses [`Shared::take_dirty_page`] instead.
    pub fn pass_on_changes(&self) {
        if !self.is_smp() || !self.code.has_changed() && !self.passing.load(Ordering::SeqCst) {
            return;
        }
        let _turn = lock(&self.passing_on);
        self.passing.store(true, Ordering::SeqCst);
        if self.code.take_changed() {
            let mut from = 0;
            while let Some((page, gpa)) = self.take_dirty_page(from) {
                self.compiled.changed(gpa);
                from = page + 1;
            }
        }
        self.passing.store(false, Ordering::SeqCst);
    }

    /// Takes the first page of code at or behind page `from` of the RAM file that a bus master has changed: its number and physical address.
    pub fn take_dirty_page(&self, from: u64) -> Option<(u64, u64)> {
        let page = self.code.take_dirty(from)?;
        let (offset, low) = (page * 4096, self.phys.ram.bytes().min(LOW_LIMIT));
        Some((page, if offset < low { offset } else { offset - low + HIGH_BASE }))
    }
}

/// Drives an ISA interrupt from lead `at`; leads that share it are or-ed.
fn set_isa(chips: &mut Chips, at: usize, irq: u8, level: bool) {
    let others = chips.leads.iter().enumerate();
    let held = others
        .filter(|(other, lead)| *other != at && lead.map.to == Wire::Isa(irq))
        .any(|(_, lead)| lead.level);
    chips.board.set_isa_irq(irq, level || held);
}
