//! The main program of a device process: take up the manifest, enter the jail, take up the committed state, serve for ever.
//!
//! One transaction: the chip is called, its outputs derived, its state written to the inactive slot, and one exchange of the
//! generation makes state and consumer index current together. Then mirror, lines, head, bell: all of them can be repeated
//! by a successor from the committed state.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::attempts::Act;
use crate::bell::{BELL_BYTES, Bell, SPIN_NS};
use crate::chip::{Access, BusError, Chip, Class, Control, Description, Env, LINES, Outputs, Reg, STATE_MAX};
use crate::clock::{CLOCK_BYTES, Clock};
use crate::control;
use crate::device::{self, CONTROL, DEVICE_BYTES, Request, kind, slot};
use crate::irq::{self, IRQ_BYTES, IrqPage};
use crate::links::{BLOCK_LINK, BYTES_LINK, BlockClient, ByteEnd, Side};
use crate::manifest::{MANIFEST_FD, Manifest, fd};
use crate::patience::{self, Patience};
use crate::ram::{CodeMap, GuestRam, code_map_bytes};
use crate::shm::Bulk;
use crate::standby::Standby;
use crate::sys::{self, Mapping};
use crate::trace::{TRACE_BYTES, Tracer, counter, events};
use crate::wire;

/// A child that cannot start; it says why on standard error and exits with 1, and the broker reports it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The manifest is missing or malformed.
    #[error("manifest: {0}")]
    Manifest(&'static str),
    /// A descriptor that the role needs was not passed or cannot be mapped.
    #[error("descriptor {name}: {source}")]
    Descriptor {
        /// Name in the manifest.
        name: String,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// The configuration or the saved state does not fit.
    #[error("{0}")]
    Refused(String),
}

/// Reads the manifest of this process, whose descriptor stays open.
///
/// # Errors
/// When descriptor 3 holds none.
pub fn manifest() -> Result<Manifest, StartError> {
    // SAFETY: the broker passes the manifest at this number; if not, reads fail with EBADF. Nobody closes it before the jail does.
    let file = unsafe { BorrowedFd::borrow_raw(MANIFEST_FD) };
    let mut bytes = vec![0u8; wire::LIMIT];
    let mut len = 0;
    while let Some(rest) = bytes.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match nix::sys::uio::pread(file, rest, len as i64) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(_) => return Err(StartError::Manifest("cannot be read")),
        }
    }
    // The file is padded with zeros to its sealed size, so its length comes first.
    let length = bytes.first_chunk::<4>().map_or(0, |head| u32::from_le_bytes(*head) as usize);
    let body = bytes.get(4..4 + length.min(wire::LIMIT)).ok_or(StartError::Manifest("is too short"))?;
    wire::decode(body).map_err(|_| StartError::Manifest("is malformed"))
}

/// The file form of a manifest: length, then encoding.
///
/// # Errors
/// When it passes the wire limit.
pub fn encode_manifest(manifest: &Manifest) -> Result<Vec<u8>, wire::WireError> {
    let body = wire::encode(manifest)?;
    let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
    bytes.extend(body);
    Ok(bytes)
}

/// What the broker decided about a jail, see [`Manifest::terms`].
pub type Terms = (String, Option<(u32, u32)>, Option<i32>, Option<i32>, Vec<i32>);

impl Manifest {
    /// The descriptor named `name`.
    pub fn descriptor(&self, name: &str) -> Option<i32> {
        self.fds.iter().find(|(have, _)| have == name).map(|(_, fd)| *fd)
    }

    /// What the broker decided about the jail: name, user and group, folder of `-chroot`, report socket, namespaces to join.
    pub fn terms(&self) -> Terms {
        let namespaces = self.fds.iter().filter(|(name, _)| name.starts_with(fd::NAMESPACE));
        let namespaces = namespaces.map(|(_, fd)| *fd).collect();
        (self.name.clone(), self.run_as, self.descriptor(fd::ROOT), self.descriptor(fd::REPORT), namespaces)
    }

    /// Takes over the descriptor named `name`. To be called once for each name.
    ///
    /// # Errors
    /// When it was not passed.
    pub fn take(&self, name: &str) -> Result<OwnedFd, StartError> {
        let missing =
            || StartError::Descriptor { name: name.to_owned(), source: std::io::ErrorKind::NotFound.into() };
        let raw = self.descriptor(name).ok_or_else(missing)?;
        // SAFETY: the broker passed this descriptor for this process to own, under this one name.
        Ok(unsafe { OwnedFd::from_raw_fd(raw) })
    }

    /// Maps the memory named `name`.
    ///
    /// # Errors
    /// When it was not passed or does not map.
    pub fn map(&self, name: &str, len: usize, writable: bool) -> Result<Mapping, StartError> {
        let error = |source| StartError::Descriptor { name: name.to_owned(), source };
        let raw = self.descriptor(name).ok_or_else(|| error(std::io::ErrorKind::NotFound.into()))?;
        // SAFETY: the broker passed this descriptor under this name; it stays open while it is borrowed.
        Mapping::shared(unsafe { BorrowedFd::borrow_raw(raw) }, len, writable).map_err(error)
    }

    /// Maps the bell named `name`.
    ///
    /// # Errors
    /// As [`Manifest::map`].
    pub fn bell(&self, name: &str) -> Result<Arc<Bell>, StartError> {
        Ok(Arc::new(Bell::new(self.map(name, BELL_BYTES, true)?)))
    }

    /// Maps the process's trace file; without one nothing is recorded. It is not to be used before [`Tracer::resume`], which reads what
    /// a predecessor has written: inside the jail.
    ///
    /// # Errors
    /// As [`Manifest::map`].
    pub fn tracer(&self) -> Result<Tracer, StartError> {
        match self.descriptor(fd::TRACE) {
            Some(_) => Ok(Tracer::waiting(self.map(fd::TRACE, TRACE_BYTES, true)?)),
            None => Ok(Tracer::off()),
        }
    }

    /// Maps the interrupt page with the vCPU's bell.
    ///
    /// # Errors
    /// As [`Manifest::map`].
    pub fn irq_page(&self) -> Result<Arc<IrqPage>, StartError> {
        let bell = Bell::new(self.map(fd::CPU_BELL, BELL_BYTES, true)?);
        Ok(Arc::new(IrqPage::new(self.map(fd::IRQ, IRQ_BYTES, true)?, bell)))
    }

    /// Maps guest RAM, with the code bitmap when `irq` is given.
    ///
    /// # Errors
    /// As [`Manifest::map`].
    pub fn guest_ram(&self, irq: Option<Arc<IrqPage>>) -> Result<GuestRam, StartError> {
        let memory = self.map(fd::RAM, self.ram_bytes as usize, true)?;
        let code = match irq {
            Some(irq) => {
                let map = self.map(fd::CODE, code_map_bytes(self.ram_bytes) as usize, true)?;
                Some((CodeMap::new(map, self.ram_bytes), irq))
            }
            None => None,
        };
        Ok(GuestRam::new(memory, code))
    }
}

struct Server<C: Chip> {
    chip: C,
    description: Description,
    /// Region and offset of every mirrored register byte, in the order of the mirror.
    mirrored: Vec<(u8, u32)>,
    /// The same of calm registers.
    calm: Vec<(u8, u32)>,
    map: Mapping,
    bell: Arc<Bell>,
    irq: Arc<IrqPage>,
    clock: Clock,
    source: usize,
    ram: Option<GuestRam>,
    bytes: Vec<ByteEnd>,
    blocks: Vec<BlockClient>,
    bulk: Bulk,
    tracer: Tracer,
    /// Data of the block transaction under way.
    block: Vec<u8>,
    consumed: u32,
    /// Requests from here on whose entries a predecessor can have made up: until the CPU has written the ring once round.
    unsure: u32,
    /// To the last request consumed.
    response: u64,
    answered: u32,
    /// Pulses sent by chips whose state was lost: where this one's begin, see [`slot::PULSES`].
    pulses: [u32; LINES],
    generation: u64,
    outputs: Outputs,
    /// A deadline that does not count.
    left_out: Option<u64>,
    /// News that the chip is not told of.
    skipped: Option<u32>,
    patience: Patience,
}

/// Runs a device process. `jail` locks the process down; `make` builds the chip from its configuration bytes.
/// Never returns; a start-up problem is printed and ends the process with status 1.
pub fn main<C: Chip>(
    jail: impl FnOnce(&Manifest) -> Result<(), String>,
    make: impl Fn(&[u8]) -> Result<C, String>,
) -> ! {
    let error = match manifest() {
        Ok(manifest) => serve(&manifest, jail, make),
        Err(error) => error,
    };
    tell(&format!("{}: {error}", std::env::args().next().unwrap_or_default()));
    std::process::exit(1)
}

/// The body of [`main`] with a given manifest; returns only when the device cannot start. Its descriptors stay open for as long
/// as it runs.
pub fn serve<C: Chip>(
    manifest: &Manifest,
    jail: impl FnOnce(&Manifest) -> Result<(), String>,
    make: impl Fn(&[u8]) -> Result<C, String>,
) -> StartError {
    match Server::start(manifest, jail, make) {
        Ok(mut server) => server.run(),
        Err(error) => error,
    }
}

/// A device process without a jail that never waits, for the fuzzer: starts or takes up what `manifest`'s memory holds, and works for
/// as long as `more` says.
///
/// # Errors
/// When it cannot start.
pub fn rehearse<C: Chip>(
    manifest: &Manifest,
    make: impl Fn(&[u8]) -> Result<C, String>,
    mut more: impl FnMut() -> bool,
) -> Result<(), StartError> {
    let mut server = Server::start(manifest, |_| Ok(()), make)?;
    let mut seen = server.announce();
    while more() {
        server.turn(&mut seen);
    }
    Ok(())
}

/// The first `most` register bytes of a class of reads, in the order in which the CPU's end counts them.
fn mirrored(description: &Description, class: Class, most: usize) -> Vec<(u8, u32)> {
    let rules = description.regions.iter().zip(0u8..).flat_map(|(region, number)| {
        region.rules.iter().filter(|rule| rule.read == class).map(move |rule| (number, rule))
    });
    let bytes = rules.flat_map(|(region, rule)| (rule.start..rule.end).map(move |offset| (region, offset)));
    bytes.take(most).collect()
}

/// A line to the broker, in one piece.
fn tell(line: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{line}\n").as_bytes());
}

impl<C: Chip> Server<C> {
    fn start(
        manifest: &Manifest,
        jail: impl FnOnce(&Manifest) -> Result<(), String>,
        make: impl Fn(&[u8]) -> Result<C, String>,
    ) -> Result<Server<C>, StartError> {
        const { assert!(size_of::<C::State>() <= STATE_MAX) };
        let chip = make(&manifest.config).map_err(StartError::Refused)?;
        let map = manifest.map(fd::DEVICE, DEVICE_BYTES, true)?;
        let irq = manifest.irq_page()?;
        let tracer = manifest.tracer()?;
        let standby = Standby::of(manifest)?;
        let bell = manifest.bell(fd::BELL)?;
        let ram = match manifest.descriptor(fd::RAM) {
            Some(_) => Some(manifest.guest_ram(Some(irq.clone()))?.traced(tracer.clone())),
            None => None,
        };
        let mut bytes = Vec::new();
        while manifest.descriptor(&format!("{}{}", fd::BYTES, bytes.len())).is_some() {
            let name = format!("{}{}", fd::BYTES, bytes.len());
            let peer = manifest.bell(&format!("{name}{}", fd::PEER_BELL))?;
            let end = ByteEnd::new(manifest.map(&name, BYTES_LINK, true)?, peer, Side::Device);
            bytes.push(end.traced(tracer.clone(), bytes.len() as u32).ringing_later());
        }
        let mut blocks = Vec::new();
        while manifest.descriptor(&format!("{}{}", fd::BLOCK, blocks.len())).is_some() {
            let name = format!("{}{}", fd::BLOCK, blocks.len());
            let peer = manifest.bell(&format!("{name}{}", fd::PEER_BELL))?;
            let client = BlockClient::new(manifest.map(&name, BLOCK_LINK, true)?, peer);
            blocks.push(client.traced(tracer.clone(), blocks.len() as u32).ringing_later());
        }
        let bulk = match manifest.bulk_bytes {
            0 => Mapping::anonymous(4096)
                .map_err(|source| StartError::Descriptor { name: fd::BULK.to_owned(), source })?,
            len => manifest.map(fd::BULK, len as usize, true)?,
        };
        let description = chip.description();
        let mut server = Server {
            mirrored: mirrored(&description, Class::Mirror, device::MIRROR_BYTES),
            calm: mirrored(&description, Class::Calm, device::CALM_MAX),
            description,
            chip,
            map,
            bell,
            irq,
            clock: Clock::new(manifest.map(fd::CLOCK, CLOCK_BYTES, false)?),
            source: manifest.source as usize,
            ram,
            bytes,
            blocks,
            bulk: Bulk::new(bulk),
            tracer,
            block: vec![0; device::BLOCK_BYTES],
            consumed: 0,
            unsure: device::RING_ENTRIES,
            response: 0,
            answered: 0,
            pulses: [0; LINES],
            generation: 0,
            outputs: Outputs::default(),
            left_out: None,
            skipped: None,
            patience: Patience::new(SPIN_NS),
        };
        jail(manifest).map_err(StartError::Refused)?;
        sys::release_program_pages();
        // From here on it reads what a predecessor, who may have been taken over, has written.
        standby.wait(manifest, &server.tracer);
        server.describe();
        server.take_up(|| make(&manifest.config).map_err(StartError::Refused))?;
        server.map.dword(device::READY_AT).store(sys::monotonic_ns(), Ordering::SeqCst);
        sys::publish(server.map.word(device::READY), 1);
        sys::futex_wake(server.map.word(device::READY));
        Ok(server)
    }

    /// Publishes regions and class rules.
    fn describe(&self) {
        for (index, region) in self.description.regions.iter().take(device::REGIONS_MAX).enumerate() {
            let at = device::REGION_TABLE + index * device::REGION_BYTES;
            self.map.dword(at).store(region.size, Ordering::Relaxed);
            let rules = region.rules.len().min(device::RULES_MAX);
            self.map.word(at + 8).store(rules as u32, Ordering::Relaxed);
            for (index, rule) in region.rules.iter().take(rules).enumerate() {
                let at = at + 16 + index * 16;
                let words =
                    [rule.start, rule.end, rule.read as u32, rule.write as u32 | (rule.shows as u32) << 8];
                for (word, value) in words.into_iter().enumerate() {
                    self.map.word(at + word * 4).store(value, Ordering::Relaxed);
                }
            }
        }
        let regions = self.description.regions.len().min(device::REGIONS_MAX);
        self.map.word(device::REGIONS).store(regions as u32, Ordering::Release);
    }

    /// Restores the committed state, or resets a device that never committed one, or whose state cannot be read.
    fn take_up(&mut self, make: impl FnOnce() -> Result<C, StartError>) -> Result<(), StartError> {
        self.generation = self.map.dword(device::GENERATION).load(Ordering::SeqCst);
        let at = self.slot();
        // Not 0 when everybody before died at once and the requests were answered without a device.
        let consumed = self.map.word(at + slot::CONSUMED).load(Ordering::Acquire);
        self.consumed = device::resume_at(&self.map, consumed);
        self.answered = self.map.word(at + slot::ANSWERED).load(Ordering::Acquire);
        self.response = self.map.dword(at + slot::RESPONSE).load(Ordering::Acquire);
        let _ = self.map.read(at + slot::PULSES, bytemuck::bytes_of_mut(&mut self.pulses));
        let restored = match self.generation {
            // Nobody has committed anything yet; or a predecessor that was taken over says so.
            0 => false,
            _ => match self.restore() {
                Ok(()) => true,
                Err(why) => {
                    tell(&format!(
                        "the saved state cannot be taken up ({why}): the device is as after power-on"
                    ));
                    self.chip = make()?;
                    false
                }
            },
        };
        if !restored {
            self.bytes.iter().for_each(ByteEnd::rebase);
            // The CPU takes any other count for a pulse, and some of them reset the machine.
            self.pulses = irq::pulses(&self.map);
            self.call(|chip, env| chip.reset(env));
            self.commit();
            Act::TakeUp.end(&self.map);
        } else {
            // Before anything else changes: a line that fell and whose fall was not told can rise again below. And outputs that cannot
            // be derived are the state's fault.
            self.finish();
            // What it dies of from here on is not.
            Act::TakeUp.end(&self.map);
            self.event(self.news());
        }
        self.finish();
        Ok(())
    }

    fn restore(&mut self) -> Result<(), String> {
        if !Act::TakeUp.begin(&self.map, self.generation) {
            return Err("it has killed this device".to_owned());
        }
        let at = self.slot();
        let word = |offset| self.map.word(at + offset).load(Ordering::Acquire);
        if word(slot::VERSION) != C::STATE_VERSION || word(slot::LENGTH) as usize != size_of::<C::State>() {
            return Err("it is of another version".to_owned());
        }
        let mut state: C::State = bytemuck::Zeroable::zeroed();
        let _ = self.map.read(at + slot::STATE, bytemuck::bytes_of_mut(&mut state));
        self.chip.restore(&state).map_err(|error| error.to_string())
    }

    /// Lets the chip look at its links, unless that kills it, and commits.
    fn event(&mut self, news: u32) {
        // Without a key: where bytes keep coming, the news are others at each death.
        let allowed = self.skipped != Some(news) && Act::Event.begin(&self.map, 0);
        self.tracer.begin(events::LINK, || [0; 4]);
        if allowed {
            self.call(|chip, env| chip.event(env));
        } else if self.skipped.replace(news) != Some(news) {
            tell("what is new on a link has killed this device and is left out");
        }
        self.commit();
        self.tracer.end(events::LINK, || [0; 4]);
        // Where it was left out, the next news are tried.
        Act::Event.end(&self.map);
    }

    /// Runs the timer that is due, unless that kills the chip.
    fn timer(&mut self) {
        let Some(deadline) = self.outputs.deadline else { return };
        if Act::Timer.begin(&self.map, deadline) {
            self.tracer.count(counter::TIMERS, 1);
            self.tracer.begin(events::TIMER, || [self.now(), 0, 0, 0]);
            self.call(|chip, env| chip.timer(env));
            self.commit();
            self.tracer.end(events::TIMER, || [0; 4]);
            Act::Timer.end(&self.map);
            self.finish();
        } else {
            tell("the timer has killed this device and is left out");
            self.left_out = Some(deadline);
        }
    }

    /// Tells the broker that this process lives, if it has asked.
    fn answer_ping(&self) {
        let word = |at| self.map.word(at);
        let ping = word(device::PING).load(Ordering::Relaxed);
        if word(device::PONG).load(Ordering::Relaxed) != ping {
            word(device::PONG).store(ping, Ordering::SeqCst);
        }
    }

    fn is_pinged(&self) -> bool {
        let word = |at| self.map.word(at).load(Ordering::SeqCst);
        word(device::PING) != word(device::PONG)
    }

    fn slot(&self) -> usize {
        device::SLOTS + (self.generation & 1) as usize * device::SLOT_BYTES
    }

    /// Guest time, as of the CPU's last request when that counts it.
    fn now(&self) -> u64 {
        match self.clock.is_counted() {
            true => self.map.dword(device::NOW).load(Ordering::Acquire),
            false => self.clock.now(),
        }
    }

    fn call<R>(&mut self, call: impl FnOnce(&mut C, &mut Env<'_>) -> R) -> R {
        let mut env = Env {
            now: self.now(),
            ram: self.ram.as_ref(),
            bytes: &self.bytes,
            blocks: &self.blocks,
            bulk: &self.bulk,
        };
        call(&mut self.chip, &mut env)
    }

    /// Makes the chip's present state and the consumer index current, in one step.
    fn commit(&mut self) {
        let state = self.chip.save();
        // What it counts from may be the CPU process's word. 0 means no state, and the slot must be the other one.
        self.generation = self.generation.checked_add(1).unwrap_or(2);
        let at = self.slot();
        let words = [C::STATE_VERSION, size_of::<C::State>() as u32, self.consumed, self.answered];
        for (index, word) in words.into_iter().enumerate() {
            self.map.word(at + index * 4).store(word, Ordering::Relaxed);
        }
        self.map.dword(at + slot::RESPONSE).store(self.response, Ordering::Relaxed);
        let _ = self.map.write(at + slot::PULSES, bytemuck::bytes_of(&self.pulses));
        let _ = self.map.write(at + slot::STATE, bytemuck::bytes_of(&state));
        self.map.dword(device::GENERATION).swap(self.generation, Ordering::SeqCst);
    }

    /// Publishes what follows from the committed state: mirror, lines, response, head. Repeatable.
    fn finish(&mut self) {
        let mut outputs = Outputs::default();
        self.chip.sync_outputs(&mut outputs);
        for (pulses, base) in outputs.pulses.iter_mut().zip(self.pulses) {
            *pulses = pulses.wrapping_add(base);
        }
        self.outputs = outputs;
        self.map.dword(device::DEADLINE).store(self.deadline().map_or(0, |at| at.max(1)), Ordering::Release);
        // The mirror first: the handler of the interrupt may read a mirrored status register at once.
        self.mirror();
        let told = irq::publish(&self.map, &self.outputs, &self.tracer);
        if told {
            self.irq.tell(self.source);
        }
        self.map.dword(device::RESPONSE).store(self.response, Ordering::Relaxed);
        sys::publish(self.map.word(device::HEAD), self.consumed);
        if told {
            self.irq.cpu_bell().ring();
        }
    }

    fn mirror(&self) {
        for (at, (region, offset)) in self.mirrored.iter().enumerate() {
            let _ = self.map.write(device::MIRROR_DATA + at, &[self.chip.peek(*region, *offset)]);
        }
        for (at, (region, offset)) in self.calm.iter().enumerate() {
            let now = if self.chip.is_calm(*region, *offset) { device::CALM_NOW } else { 0 };
            let word = u32::from(self.chip.peek(*region, *offset)) | now;
            self.map.word(device::CALM + at * 4).store(word, Ordering::Release);
        }
        if !self.mirrored.is_empty() || !self.calm.is_empty() {
            self.map.word(device::MIRROR).store(self.consumed, Ordering::Release);
        }
    }

    fn news(&self) -> u32 {
        let bytes = self.bytes.iter().map(ByteEnd::news).fold(0, u32::wrapping_add);
        self.blocks.iter().map(BlockClient::news).fold(bytes, u32::wrapping_add)
    }

    fn run(&mut self) -> ! {
        let mut seen = self.announce();
        // When there was last something to do: a bell that rang for nothing does not end the look for more.
        let mut since = sys::monotonic_ns();
        loop {
            self.bell.publish_cpu();
            if self.turn(&mut seen) {
                since = sys::monotonic_ns();
            }
            if self.spin(seen, since) {
                self.patience.found();
                continue;
            }
            let due = self.due_at();
            let timeout = due.map(|at| Duration::from_nanos(at.saturating_sub(self.clock.now())));
            // The clock may have been set going since: then the deadline is one by now.
            self.bell.sleep(timeout, || self.has_work(seen) || self.is_pinged() || self.due_at() != due);
            if self.has_work(seen) {
                self.patience.lasted(sys::monotonic_ns().saturating_sub(since));
            }
        }
    }

    /// Wakes whomever a predecessor was about to wake when it died: they may still sleep, and may not know the news. The news seen.
    fn announce(&mut self) -> u32 {
        self.irq.announce(self.source);
        let reply = self.map.word(CONTROL + control::REPLY);
        sys::publish(reply, self.answered);
        sys::futex_wake(reply);
        self.bytes.iter().for_each(ByteEnd::announce);
        self.blocks.iter().for_each(BlockClient::announce);
        self.news().wrapping_sub(1)
    }

    /// Does what there is to do. False when that was nothing.
    fn turn(&mut self, seen: &mut u32) -> bool {
        self.answer_ping();
        let mut worked = self.drain();
        // The vCPU has its answer: now whoever is woken may take this processor.
        self.ring_back_ends();
        worked |= self.answer_control();
        let news = self.news();
        if news != *seen {
            *seen = news;
            self.event(news);
            self.finish();
            worked = true;
        }
        if self.is_due() {
            self.timer();
            worked = true;
        }
        self.ring_back_ends();
        worked
    }

    fn ring_back_ends(&self) {
        self.bytes.iter().for_each(ByteEnd::ring_due);
        self.blocks.iter().for_each(BlockClient::ring_due);
    }

    fn has_work(&self, seen: u32) -> bool {
        self.request().is_some()
            || self.map.word(CONTROL + control::REQUEST).load(Ordering::SeqCst) != self.answered
            || self.news() != seen
    }

    /// Waits for more work while the vCPU runs on another processor and no back end needs this one. True when there is some.
    fn spin(&self, seen: u32, since: u64) -> bool {
        let cpu = self.irq.cpu_bell();
        let back_end_waits = || self.blocks.iter().any(BlockClient::waits_for_processor);
        let may = || cpu.runs_elsewhere() && !back_end_waits() && !self.is_due();
        patience::look(since, self.patience.look_ns(), may, || self.has_work(seen)) || self.is_due()
    }

    fn deadline(&self) -> Option<u64> {
        self.outputs.deadline.filter(|at| self.left_out != Some(*at))
    }

    /// When a timer is due by itself; where time is counted, the CPU says so ([`kind::TIMER`]).
    fn due_at(&self) -> Option<u64> {
        self.deadline().filter(|_| self.clock.is_running() && !self.clock.is_counted())
    }

    fn is_due(&self) -> bool {
        self.due_at().is_some_and(|at| self.clock.now() >= at)
    }

    /// The next request, once it is there.
    fn request(&self) -> Option<Request> {
        match self.unsure {
            0 => Request::load(&self.map, self.consumed),
            _ => Request::load_sent(&self.map, self.consumed),
        }
    }

    /// Serves every waiting ring entry. True when there was one.
    fn drain(&mut self) -> bool {
        let start = self.consumed;
        // At most one ring full, so that nobody else waits for ever.
        while self.consumed.wrapping_sub(start) < device::RING_ENTRIES {
            let index = self.consumed;
            let Some(request) = self.request() else { break };
            self.tracer.count(counter::REQUESTS, 1);
            self.tracer.begin(events::REQUEST, || request.traced(index));
            self.response = if self.begin(index) { self.serve(request) } else { request.unanswered() };
            self.consumed = index.wrapping_add(1);
            self.unsure = self.unsure.saturating_sub(1);
            self.commit();
            // Before the head moves: the CPU's end of it comes later.
            self.tracer.end(events::REQUEST, || [index.into(), self.response, 0, 0]);
            self.finish();
            if request.kind != kind::WRITE {
                self.irq.cpu_bell().ring();
            }
        }
        if self.consumed != start {
            // The CPU may sleep on a full ring.
            self.irq.cpu_bell().ring();
        }
        self.consumed != start
    }

    /// Marks the request as begun. False when it has killed [`device::DEATHS_MAX`] processes already: the guest then sees what
    /// it would see if nothing was there, and the device goes on behind it.
    fn begin(&self, index: u32) -> bool {
        let word = self.map.dword(device::ATTEMPTS);
        let last = word.load(Ordering::Relaxed);
        let deaths = if (last >> 32) as u32 == index { (last & !device::BEGUN) as u32 } else { 0 };
        if deaths >= device::DEATHS_MAX {
            tell(&format!("request {index} has killed this device {deaths} times and is skipped"));
            return false;
        }
        word.store(u64::from(index) << 32 | device::BEGUN | u64::from(deaths + 1), Ordering::Relaxed);
        // Program order is all that counts: the reader comes after this process.
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
        true
    }

    fn serve(&mut self, request: Request) -> u64 {
        let reg =
            Reg { region: request.region, offset: u64::from(request.offset), size: 1 << request.size.min(3) };
        let size = self.description.regions.get(usize::from(reg.region)).map_or(0, |region| region.size);
        if !matches!(request.kind, kind::RESET | kind::TIMER) && reg.offset >= size {
            self.tracer.count(counter::REJECTED, 1);
            return u64::MAX;
        }
        match request.kind {
            kind::READ => {
                let access = self.call(|chip, env| -> Access { chip.read(reg, env) });
                self.counted(access).unwrap_or(u64::MAX)
            }
            kind::WRITE | kind::WRITE_SYNC => {
                let access = self.call(|chip, env| chip.write(reg, request.value, env));
                let _ = self.counted(access);
                0
            }
            kind::READ_BLOCK => {
                let mut block = std::mem::take(&mut self.block);
                let len = (request.value as usize).min(block.len());
                let data = block.get_mut(..len).unwrap_or_default();
                let access = self.call(|chip, env| chip.read_block(reg, data, env));
                let filled = self.counted(access).unwrap_or(0).min(len);
                let _ = self.map.write(device::BLOCK, block.get(..filled).unwrap_or_default());
                self.block = block;
                filled as u64
            }
            kind::WRITE_BLOCK => {
                let mut block = std::mem::take(&mut self.block);
                let len = (request.value as usize).min(block.len());
                let data = block.get_mut(..len).unwrap_or_default();
                let _ = self.map.read(device::BLOCK, data);
                let access = self.call(|chip, env| chip.write_block(reg, data, env));
                let _ = self.counted(access);
                self.block = block;
                0
            }
            kind::TIMER => {
                if self.clock.is_counted() && self.deadline().is_some_and(|at| self.now() >= at) {
                    self.timer();
                }
                0
            }
            kind::RESET => {
                self.call(|chip, env| chip.reset(env));
                0
            }
            _ => u64::MAX,
        }
    }

    /// Counts an access that got no answer.
    fn counted<T>(&self, access: Result<T, BusError>) -> Result<T, BusError> {
        if access.is_err() {
            self.tracer.count(counter::REJECTED, 1);
        }
        access
    }

    /// Answers a waiting control request. True when there was one.
    fn answer_control(&mut self) -> bool {
        let word = |offset: usize| self.map.word(CONTROL + offset).load(Ordering::SeqCst);
        let number = word(control::REQUEST);
        if number == self.answered {
            return false;
        }
        self.tracer.begin(events::CONTROL, || [number.into(), 0, 0, 0]);
        let mut bytes = vec![0u8; (word(control::REQUEST_LEN) as usize).min(control::REQUEST_MAX)];
        let _ = self.map.read(CONTROL + control::REQUEST_DATA, &mut bytes);
        let result = match wire::decode::<Control>(&bytes) {
            Ok(_) if !Act::Control.begin(&self.map, number.into()) => Err("this kills the device"),
            Ok(request) => self.call(|chip, env| chip.control(&request, env)),
            Err(_) => Err("malformed request"),
        };
        let (status, reply) = match result {
            Ok(reply) if reply.len() <= control::REPLY_MAX => (0, reply),
            Ok(_) => (1, b"reply too long".to_vec()),
            Err(reason) => (1, reason.as_bytes().to_vec()),
        };
        let _ = self.map.write(CONTROL + control::REPLY_DATA, &reply);
        self.map.word(CONTROL + control::REPLY_LEN).store(reply.len() as u32, Ordering::Relaxed);
        self.map.word(CONTROL + control::REPLY_STATUS).store(status, Ordering::Relaxed);
        self.answered = number;
        self.commit();
        Act::Control.end(&self.map);
        self.tracer.end(events::CONTROL, || [number.into(), status.into(), 0, 0]);
        self.finish();
        let word = self.map.word(CONTROL + control::REPLY);
        sys::publish(word, number);
        sys::futex_wake(word);
        true
    }
}
