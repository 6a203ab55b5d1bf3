//! A process of a machine that was taken over: it has the real one's manifest, maps what the real one maps, enters the same jail, says
//! that it serves, and then lies in every shared word that it can write. For `./campaign attack`; never installed.
//!
//! It stands in the place of a real program, with a file `victim` beside it: the name of the process to be, a seed, and one word more:
//! `ram` when it shall write guest RAM too; `drip` when it shall answer each question of the broker with one byte and do no more, `ahead`
//! when with one byte before the question comes; `hide` when it shall do nothing and write into its ring that there is nothing to do. Processes of other names get the real program, from the folder `real`.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bulkhead_bus::manifest::{Manifest, fd};
use bulkhead_bus::messages::FromCpu;
use bulkhead_bus::standby::Standby;
use bulkhead_bus::storm::Random;
use bulkhead_bus::sys::{self, Mapping};
use bulkhead_bus::trace::Tracer;
use bulkhead_bus::{control, device, serve, wire};

/// What a piece of shared memory is for, and with that which words of it steer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Device,
    Irq,
    Clock,
    Bell,
    Code,
    Bytes,
    Block,
    Ram,
    Other,
}

struct Memory {
    kind: Kind,
    map: Mapping,
}

fn main() {
    let own = std::env::current_exe().expect("own path");
    let folder = own.parent().expect("a folder");
    let manifest = serve::manifest().expect("a manifest");
    let plan = std::fs::read_to_string(folder.join("victim")).expect("a victim");
    let mut words = plan.split_whitespace();
    let (victim, seed) = (words.next().unwrap_or_default(), words.next().and_then(|word| word.parse().ok()));
    if manifest.name != victim {
        let error = std::process::Command::new(folder.join("real").join(own.file_name().expect("a name")))
            .arg0(std::env::args().next().unwrap_or_default())
            .exec();
        panic!("{}: {error}", manifest.name);
    }
    // Not the word that the campaign looks for in the other processes' last words.
    std::panic::set_hook(Box::new(|info| eprintln!("the liar stumbled at {:?}", info.location())));
    // Every successor lies in another way.
    let mut random = Random::new(seed.unwrap_or(0u64) ^ u64::from(std::process::id()) << 20);
    // Without all of its processes a machine does not start: only successors fail to.
    let is_successor = std::fs::File::create_new(folder.join("started")).is_err();
    let way = words.next();
    if is_successor && way.is_none_or(|way| way == "ram") && random.below(16) == 0 {
        // Never gets ready, or dies before.
        let wait = [0, 20, 6000][random.below(3) as usize];
        std::thread::sleep(Duration::from_millis(wait));
        std::process::exit(random.below(2) as i32);
    }
    let memories = memories(&manifest, way == Some("ram"));
    let socket = (manifest.role == "cpu").then(|| manifest.take(fd::CONTROL).expect("a socket"));
    let keep: Vec<i32> = socket.iter().map(AsRawFd::as_raw_fd).collect();
    let standby = Standby::of(&manifest).expect("a page");
    bulkhead_security::enter(&manifest.role, &keep, manifest.terms()).expect("the jail of the role");
    standby.wait(&manifest, &Tracer::off());
    let mut liar = Liar { memories, socket, random, role: manifest.role };
    liar.say_ready();
    match way {
        Some("drip") => liar.drip(false),
        Some("ahead") => liar.drip(true),
        Some("hide") => liar.hide(),
        _ => liar.lie(),
    }
}

/// Everything that maps for writing; guest RAM, where a bus master may write, if asked for.
fn memories(manifest: &Manifest, in_ram: bool) -> Vec<Memory> {
    let mut all = Vec::new();
    for (name, number) in &manifest.fds {
        let suffix = |end: &str| name.ends_with(end);
        let kind = match name.as_str() {
            fd::RAM if in_ram => Kind::Ram,
            fd::RAM => continue,
            fd::IRQ => Kind::Irq,
            fd::CLOCK => Kind::Clock,
            fd::CODE => Kind::Code,
            fd::BELL | fd::CPU_BELL => Kind::Bell,
            _ if suffix("-bell") || suffix(fd::PEER_BELL) => Kind::Bell,
            _ if name.starts_with(fd::DEVICE) => Kind::Device,
            _ if name.starts_with(fd::BYTES) => Kind::Bytes,
            _ if name.starts_with(fd::BLOCK) => Kind::Block,
            _ => Kind::Other,
        };
        let path = format!("/proc/self/fd/{number}");
        let Ok(meta) = std::fs::metadata(Path::new(&path)) else { continue };
        if !meta.is_file() || meta.len() == 0 {
            continue;
        }
        // Read-only memories do not map, sockets and image files are none.
        let is_memory =
            std::fs::read_link(&path).is_ok_and(|to| to.as_os_str().as_bytes().starts_with(b"/memfd:"));
        if is_memory && let Ok(map) = manifest.map(name, meta.len() as usize, true) {
            all.push(Memory { kind, map });
        }
    }
    all
}

struct Liar {
    memories: Vec<Memory>,
    socket: Option<OwnedFd>,
    random: Random,
    role: String,
}

impl Liar {
    fn of(&self, kind: Kind) -> impl Iterator<Item = &Mapping> {
        self.memories.iter().filter(move |memory| memory.kind == kind).map(|memory| &memory.map)
    }

    fn value(&mut self) -> u32 {
        match self.random.below(7) {
            0 => 0,
            1 => u32::MAX,
            2 => 1 << self.random.below(32),
            3 => self.random.below(64) as u32,
            4 => u32::MAX - self.random.below(64) as u32,
            5 => 0x8000_0000,
            _ => self.random.draw() as u32,
        }
    }

    /// As the real ones do.
    fn say_ready(&mut self) {
        if let Some(socket) = &self.socket {
            send(socket, &wire::encode(&FromCpu::Ready).expect("a short message"));
            return;
        }
        let ready = match self.role.as_str() {
            "block" => self.of(Kind::Block).next().map(|map| map.word(0x24)),
            // Its own bell comes after the peer's.
            "char" => self.of(Kind::Bell).last().map(|map| map.word(0x80)),
            _ => self.of(Kind::Device).next().map(|map| map.word(device::READY)),
        };
        if let Some(word) = ready {
            word.store(1, Ordering::SeqCst);
            sys::futex_wake(word);
        }
        for bell in self.of(Kind::Bell) {
            bell.word(0x80).store(1, Ordering::SeqCst);
            sys::futex_wake(bell.word(0x80));
        }
    }

    /// Answers the broker byte by byte, for ever, and lets the CPU process wait for nothing.
    fn drip(&self, ahead: bool) -> ! {
        loop {
            for map in self.of(Kind::Device) {
                map.word(0x080).store(map.word(0x040).load(Ordering::SeqCst), Ordering::SeqCst);
                let mailbox = |at| map.word(device::CONTROL + at);
                mailbox(control::REPLY_LEN).store(1, Ordering::SeqCst);
                let asked = mailbox(control::REQUEST).load(Ordering::SeqCst).wrapping_add(u32::from(ahead));
                if mailbox(control::REPLY).swap(asked, Ordering::SeqCst) != asked {
                    sys::futex_wake(mailbox(control::REPLY));
                }
            }
            if !ahead {
                let idle = std::sync::atomic::AtomicU32::new(0);
                sys::futex_wait(&idle, 0, Some(Duration::from_micros(100)));
            }
        }
    }

    /// Does nothing, and wipes out that there is anything to do; to pings it answers.
    fn hide(&self) -> ! {
        loop {
            for map in self.of(Kind::Device) {
                map.word(device::TAIL).store(map.word(0x080).load(Ordering::SeqCst), Ordering::SeqCst);
                map.word(0x154).store(map.word(0x150).load(Ordering::SeqCst), Ordering::SeqCst);
            }
        }
    }

    /// Until the end of this process, which comes soon in one of several ways.
    fn lie(&mut self) -> ! {
        let life = Duration::from_millis(200 + self.random.below(4000));
        // For hundreds of lies one and the same way, so that patterns get time to work.
        let mut pattern = 0;
        let start = Instant::now();
        let mut turn = 0u64;
        loop {
            if turn.is_multiple_of(200) {
                pattern = self.random.below(8);
                if start.elapsed() > life {
                    match self.random.below(if self.role == "cpu" { 2 } else { 5 }) {
                        0 => std::process::exit(self.random.below(256) as i32),
                        1 => std::process::abort(),
                        // Hangs: neither answers nor dies.
                        2 => loop {
                            std::thread::sleep(Duration::from_millis(50));
                        },
                        _ => {}
                    }
                }
            }
            turn += 1;
            for at in 0..self.memories.len() {
                self.corrupt(at, pattern);
            }
            self.talk();
            // Mostly it lets those who wait for it go on, or all of them would do nothing but wait.
            if self.random.below(20) != 0 {
                self.answer();
            }
            if self.random.below(4) != 0 {
                let idle = std::sync::atomic::AtomicU32::new(0);
                sys::futex_wait(&idle, 0, Some(Duration::from_micros(self.random.below(300))));
            }
        }
    }

    fn corrupt(&mut self, at: usize, pattern: u64) {
        let Some(Memory { kind, map }) = self.memories.get(at) else { return };
        let (kind, words) = (*kind, map.len() / 4);
        // Where steering words are, see the modules of the bus.
        let hot: &[(usize, usize)] = match kind {
            Kind::Device => &[
                (0, 0x200),
                (0x200, 0xb00),
                (0x8000, 0x8110),
                (0x9000, 0x9110),
                (0xe000, 0xe140),
                (0x1_0000, 0x1_0100),
            ],
            Kind::Irq => &[(0, 0x10)],
            // The guest's interrupt vectors, handler, variables and stack.
            Kind::Ram => &[(0, 0x400), (0x600, 0x800), (0x6f00, 0x7000)],
            Kind::Clock => &[(0, 0x18)],
            Kind::Bell => &[(0, 0x100)],
            Kind::Bytes => &[(0, 0x110)],
            Kind::Block => &[(0, 0x30), (0x100, 0x300)],
            Kind::Code | Kind::Other => &[],
        };
        for _ in 0..1 + self.random.below(12) {
            let word = match hot.get(self.random.below(hot.len() as u64 + 1) as usize) {
                Some((start, end)) => start / 4 + self.random.below((end - start) as u64 / 4) as usize,
                None => self.random.below(words as u64) as usize,
            };
            let value = match pattern {
                0 => 0,
                1 => u32::MAX,
                2 => 1,
                3 => word as u32 * 4,
                _ => self.value(),
            };
            // The sleepers' flags are futex words: the processes behind them would never wake by themselves.
            if let Some(Memory { map, .. }) = self.memories.get(at) {
                map.word(word.min(words - 1) * 4).store(value, Ordering::SeqCst);
                if pattern == 4 {
                    sys::futex_wake(map.word(word.min(words - 1) * 4));
                }
            }
        }
        // Whole set patterns now and then.
        if self.random.below(64) == 0
            && let Some((start, end)) = hot.get(self.random.below(hot.len() as u64) as usize).copied()
        {
            let value = self.value();
            if let Some(Memory { map, .. }) = self.memories.get(at) {
                (start / 4..end / 4).for_each(|word| map.word(word * 4).store(value, Ordering::SeqCst));
            }
        }
    }

    /// Claims to be done with everything, and wakes whoever may wait for it.
    fn answer(&mut self) {
        let ahead = self.random.below(4) as u32;
        for map in self.of(Kind::Device) {
            if self.role != "cpu" {
                let tail = map.word(0x040).load(Ordering::SeqCst);
                map.word(0x080).store(tail.wrapping_add(ahead), Ordering::SeqCst);
                let asked = map.word(device::CONTROL + control::REQUEST).load(Ordering::SeqCst);
                map.word(device::CONTROL + control::REPLY).store(asked, Ordering::SeqCst);
                sys::futex_wake(map.word(device::CONTROL + control::REPLY));
            }
        }
        if self.role == "block" {
            for map in self.of(Kind::Block) {
                for slot in 0..8 {
                    let word = map.word(0x100 + slot * 64);
                    let _ = word.compare_exchange(1, 2, Ordering::SeqCst, Ordering::SeqCst);
                }
            }
        }
        for bell in self.of(Kind::Bell) {
            bell.word(0).store(0, Ordering::SeqCst);
            sys::futex_wake(bell.word(0));
        }
    }

    /// What a hostile CPU process says to the broker.
    fn talk(&mut self) {
        let Some(socket) = &self.socket else { return };
        let number = self.random.below(1 << 16) as u32;
        let message = match self.random.below(400) {
            0 => FromCpu::Stopped,
            1 => FromCpu::Running,
            2 => FromCpu::Ready,
            3 => FromCpu::GuestReset,
            4..8 => FromCpu::Note("\x1b[2Jnote\n".repeat(self.random.below(4000) as usize)),
            8..14 => FromCpu::Reply { id: number % 64, result: Ok(vec![0xff; number as usize]) },
            14 => FromCpu::Reply { id: number % 64, result: Err("x".repeat(number as usize)) },
            15 => FromCpu::Crowded(number % 4),
            16..21 => {
                let bytes: Vec<u8> = (0..self.random.below(600)).map(|_| self.random.draw() as u8).collect();
                return send(socket, &bytes);
            }
            // It reads what it is told only sometimes.
            21..60 => {
                let mut bytes = [0u8; 4096];
                // SAFETY: a plain system call with a live buffer on a descriptor that we own.
                unsafe {
                    libc::recv(socket.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT)
                };
                return;
            }
            _ => return,
        };
        if let Ok(bytes) = wire::encode(&message) {
            send(socket, &bytes);
        }
    }
}

fn send(socket: &OwnedFd, bytes: &[u8]) {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: a plain system call with a live buffer on a descriptor that we own.
    unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
}
