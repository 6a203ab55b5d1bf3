//! Shared memory read by one side while the other one lies.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bulkhead_broker::rehearsal::Trace;
use bulkhead_bus::bell::{BELL_BYTES, Bell};
use bulkhead_bus::chip::Control;
use bulkhead_bus::control;
use bulkhead_bus::dead::DeadDevice;
use bulkhead_bus::device::{BLOCK_BYTES, CONTROL, DEVICE_BYTES, DevicePort};
use bulkhead_bus::irq::{IRQ_BYTES, IrqPage};
use bulkhead_bus::links::{
    BLOCK_DATA, BLOCK_LINK, BLOCK_SLOTS, BYTES_LINK, BlockClient, BlockOp, BlockServer, BlockStatus, ByteEnd,
    Medium, Side,
};
use bulkhead_bus::mailbox::Mailbox;
use bulkhead_bus::ram::{CodeMap, GuestRam, code_map_bytes, file_offset};
use bulkhead_bus::storm::{Script, Source};
use bulkhead_bus::sys::{Mapping, memfd};
use bulkhead_bus::trace::{Panel, RECORD_BYTES, RECORDS, Reader, TRACE_BYTES};

/// The same memory, as often as wanted.
pub fn shared(len: usize) -> impl Fn() -> Mapping {
    let fd = memfd("fuzz", len as u64).expect("memory for a test");
    move || Mapping::shared(fd.as_fd(), len, true).expect("mapping for a test")
}

fn bell() -> Bell {
    Bell::new(Mapping::anonymous(BELL_BYTES).expect("mapping for a test"))
}

/// Writes a word of the range, mostly one of those that steer.
pub fn lie(memory: &Mapping, start: usize, end: usize, source: &mut Script<'_>) {
    let word = start + source.below((end - start) as u64 / 4) as usize * 4;
    let value = match source.below(4) {
        0 => source.below(256) as u32,
        1 => 1 << source.below(32),
        2 => u32::MAX - source.below(16) as u32,
        _ => source.draw() as u32,
    };
    memory.word(word).store(value, Ordering::SeqCst);
}

/// Offsets of `bulkhead_bus::device`'s table.
mod at {
    pub const TAIL: usize = 0x040;
    pub const HEAD: usize = 0x080;
    pub const LINES: usize = 0xa00;
    pub const MIRROR: usize = 0xe000;
    pub const RESPONSE: usize = 0x088;
}

/// The CPU process reads classes, sizes, mirror, responses and lines that a device made up.
pub fn port(bytes: &[u8]) {
    let mut source = Script::new(bytes);
    let file = shared(DEVICE_BYTES);
    let lies = file();
    let irq_file = shared(IRQ_BYTES);
    let irq_lies = irq_file();
    // Regions and rules are read once, when the port is made.
    for _ in 0..source.below(64) {
        lie(&lies, 0, 0xa00, &mut source);
    }
    lies.word(at::TAIL).store(source.draw() as u32, Ordering::SeqCst);
    let irq = Arc::new(IrqPage::new(irq_file(), bell()));
    let mut port = DevicePort::new(file(), bell(), irq.clone());
    while !source.is_spent() {
        // A device that always claims to be done: one that never answers is the broker's business.
        let ahead =
            lies.word(at::TAIL).load(Ordering::SeqCst).wrapping_add(0x1_0000 + source.below(256) as u32);
        lies.word(at::HEAD).store(ahead, Ordering::SeqCst);
        let (region, offset, size) =
            (source.below(10) as u8, source.below(0x200) as u32, source.below(5) as u8);
        match source.below(10) {
            0 | 1 => {
                let value = port.read(region, offset, size);
                assert!(size >= 3 || value >> (8u32 << size) == 0, "more bits than were asked for");
            }
            2 | 3 => port.write(region, offset, size, source.draw()),
            4 => {
                let mut data = vec![0x55; source.below(3 * BLOCK_BYTES as u64) as usize];
                port.read_block(region, offset, size, &mut data);
            }
            5 => port.write_block(
                region,
                offset,
                size,
                &vec![0; source.below(3 * BLOCK_BYTES as u64) as usize],
            ),
            6 => {
                lie(&irq_lies, 0, IRQ_BYTES, &mut source);
                lie(&lies, at::LINES, at::LINES + 0x80, &mut source);
                let _ = (irq.take_news(), port.line(source.below(16) as usize));
            }
            7 => {
                // The mirror's counter, right and wrong.
                let tail = lies.word(at::TAIL).load(Ordering::SeqCst);
                lies.word(at::MIRROR).store(tail.wrapping_sub(source.below(2) as u32), Ordering::SeqCst);
                let _ = port.read(region, offset, size);
            }
            8 => lie(&lies, at::RESPONSE, at::RESPONSE + 8, &mut source),
            _ => {
                port.flush_posted();
                port.reset();
                let _ = (port.region_size(region), port.has_unbelled());
            }
        }
    }
}

/// The broker answers for a dead device whose ring and state were left in disorder.
pub fn dead(bytes: &[u8]) {
    let mut source = Script::new(bytes);
    let file = shared(DEVICE_BYTES);
    let lies = file();
    let irq = Arc::new(IrqPage::new(Mapping::anonymous(IRQ_BYTES).expect("mapping"), bell()));
    for _ in 0..source.below(32) {
        lie(&lies, 0, 0x200, &mut source);
        lie(&lies, 0x8000, 0x8010, &mut source);
        lie(&lies, 0x9000, 0x9010, &mut source);
    }
    let dead = Arc::new(DeadDevice::new(file(), bell(), irq, source.below(80) as usize));
    let theirs = dead.clone();
    let thread = std::thread::spawn(move || theirs.run());
    for _ in 0..source.below(200) {
        lie(&lies, 0, 0x200, &mut source);
        lie(&lies, 0x1000, 0x5000, &mut source);
    }
    dead.stop();
    thread.join().expect("the stand-in never panics");
}

/// Requests to a device that answers before it is asked, with lengths and numbers of its own.
pub fn mailbox(bytes: &[u8]) {
    let mut source = Script::new(bytes);
    let file = shared(DEVICE_BYTES);
    let lies = file();
    let mut mailbox = Mailbox::new(file(), bell());
    while !source.is_spent() {
        match source.below(4) {
            0 => lie(&lies, CONTROL, CONTROL + 0x100, &mut source),
            1 => lie(&lies, 0, 0x200, &mut source),
            2 => {
                let number = lies.word(CONTROL + control::REQUEST).load(Ordering::SeqCst).wrapping_add(1);
                let number = number.wrapping_add(source.below(2) as u32);
                lies.word(CONTROL + control::REPLY).store(number, Ordering::SeqCst);
            }
            _ => {
                let request = match source.below(3) {
                    0 => Control::Info,
                    1 => Control::Screen { offset: source.draw() as u32 },
                    _ => Control::Configure(vec![7; source.below(8192) as usize]),
                };
                if let Ok(reply) = mailbox.request(&request, Duration::ZERO) {
                    assert!(reply.len() <= control::REPLY_MAX);
                }
            }
        }
        let _ = (mailbox.is_ready(), mailbox.ready_at(), mailbox.progress(), mailbox.attempts());
        if source.below(8) == 0 {
            mailbox.settle(true);
        }
    }
}

/// Both ends of a byte stream, each in turn against made-up indices.
pub fn byte_link(bytes: &[u8]) {
    let mut source = Script::new(bytes);
    let file = shared(BYTES_LINK);
    let lies = file();
    let ends = [Side::Device, Side::Host].map(|side| ByteEnd::new(file(), Arc::new(bell()), side));
    while !source.is_spent() {
        let end = &ends[source.below(2) as usize];
        let count = source.below(1 << 17) as usize;
        match source.below(8) {
            0 | 1 => lie(&lies, 0, 0x110, &mut source),
            2 => assert!(end.send(&vec![1; count]) <= count),
            3 => assert!(end.receive(&mut vec![0; count]) <= count),
            4 => assert!(end.send_at(source.draw() as u32, &vec![2; count]) <= count),
            5 => assert!(end.receive_at(source.draw() as u32, &mut vec![0; count]) <= count),
            6 => end.send_break(),
            _ => {
                let _ = (end.room(), end.waiting(), end.breaks(), end.news());
            }
        }
    }
}

/// Both ends of a drive against made-up slots.
pub fn block_link(bytes: &[u8]) {
    let mut source = Script::new(bytes);
    let file = shared(BLOCK_LINK);
    let lies = file();
    let client = BlockClient::new(file(), Arc::new(bell()));
    let server = BlockServer::new(file(), Arc::new(bell()));
    let ram = GuestRam::new(Mapping::anonymous(1 << 20).expect("mapping"), None);
    while !source.is_spent() {
        let slot = source.below(BLOCK_SLOTS as u64 + 3) as usize;
        let at = source.below(2 * BLOCK_DATA as u64) as usize;
        let len = source.below(2 * BLOCK_DATA as u64) as usize;
        match source.below(12) {
            0 | 1 => lie(&lies, 0x100, 0x300, &mut source),
            2 => lie(&lies, 0, 0x30, &mut source),
            3 => {
                let ops = [BlockOp::Read, BlockOp::Write, BlockOp::Flush, BlockOp::Discard];
                let op = ops[source.below(4) as usize];
                let taken = client.submit(slot, op, source.draw(), len, source.below(1 << 16));
                assert!(!taken || slot < BLOCK_SLOTS && len <= BLOCK_DATA);
            }
            4 => {
                let _ = (client.poll(slot), client.request(slot), client.medium(), client.news());
                client.release(slot);
            }
            5 => {
                let mut data = vec![0; len];
                assert!(!client.read_data(slot, at, &mut data) || at + len <= BLOCK_DATA);
            }
            6 => assert!(!client.write_data(slot, at, &vec![3; len]) || at + len <= BLOCK_DATA),
            7 => {
                let gpa = source.draw();
                assert!(!client.data_to_ram(slot, at, &ram, gpa, len) || gpa < 1 << 20);
            }
            8 => {
                let gpa = source.below(1 << 21);
                assert!(!client.data_from_ram(slot, at, &ram, gpa, len) || gpa + len as u64 <= 1 << 20);
            }
            9 => {
                let pending = server.pending();
                assert!(pending.len() <= BLOCK_SLOTS);
                for request in pending {
                    assert!(request.slot < BLOCK_SLOTS && request.length <= BLOCK_DATA);
                    server.with_data(request.slot, request.length, |data| {
                        assert_eq!(data.len(), request.length)
                    });
                }
            }
            10 => server.complete(slot, BlockStatus::Ok),
            _ => {
                let bytes = source.draw();
                server.set_medium(Medium { bytes, generation: bytes as u32, ..Medium::default() });
                let _ = (server.next(), server.has_work(), server.completions(), server.ready_at());
            }
        }
    }
}

/// Addresses in guest memory, and bitmaps in which other processes set bits.
pub fn guest_ram(bytes: &[u8]) {
    const BYTES: u64 = 1 << 20;
    let mut source = Script::new(bytes);
    let file = shared(code_map_bytes(BYTES) as usize);
    let lies = file();
    let irq = Arc::new(IrqPage::new(Mapping::anonymous(IRQ_BYTES).expect("mapping"), bell()));
    let code = CodeMap::new(file(), BYTES);
    let ram = GuestRam::new(
        Mapping::anonymous(BYTES as usize).expect("mapping"),
        Some((CodeMap::new(file(), BYTES), irq)),
    );
    while !source.is_spent() {
        let gpa = match source.below(3) {
            0 => source.below(1 << 21),
            1 => u64::MAX - source.below(1 << 16),
            _ => source.draw(),
        };
        let mut data = vec![0xa5; source.below(1 << 14) as usize];
        let inside = gpa.checked_add(data.len() as u64).is_some_and(|end| end <= BYTES);
        match source.below(6) {
            0 => lie(&lies, 0, lies.len(), &mut source),
            1 => assert_eq!(ram.write(gpa, &data), inside),
            2 => assert_eq!(ram.read(gpa, &mut data), inside),
            3 => {
                code.watch(gpa >> 12);
                let _ = code.wrote(gpa >> 12);
            }
            4 => {
                let mut from = source.below(4096);
                while let Some(page) = code.take_dirty(from) {
                    assert!(page >= from && page < code_map_bytes(BYTES) * 8);
                    from = page + 1;
                }
            }
            _ => {
                let total = source.draw() >> source.below(64);
                if let Some(offset) = file_offset(total, gpa, data.len() as u64) {
                    assert!(offset as u64 + data.len() as u64 <= total);
                }
            }
        }
    }
}

/// A process's trace file as the broker takes records out of it and writes them down.
pub fn trace(bytes: &[u8]) {
    /// Offsets of `bulkhead_bus::trace`'s table.
    const MARK: usize = 0x40;
    const COUNTERS_END: usize = 0x180;
    const RING: usize = 0x3000;
    /// Records of the ring that are filled.
    const FILLED: u64 = 64;
    let mut source = Script::new(bytes);
    let memory = Arc::new(Mapping::anonymous(TRACE_BYTES).expect("mapping for a test"));
    let mut reader = Reader::new(memory.clone());
    let panel = Panel::new(memory.clone());
    let mut rehearsal = Trace::default();
    let mut written = 0u64;
    while !source.is_spent() {
        match source.below(6) {
            0 => lie(&memory, MARK, COUNTERS_END, &mut source),
            1 => lie(&memory, RING, RING + FILLED as usize * RECORD_BYTES, &mut source),
            2..=4 => {
                let at = RING + (written % FILLED) as usize * RECORD_BYTES;
                let head = source.below(64) | source.below(2) << 16 | source.below(256) << 24;
                memory.dword(at).store(source.draw() >> source.below(64), Ordering::SeqCst);
                memory.dword(at + 8).store(head, Ordering::SeqCst);
                for arg in 0..source.below(5) as usize {
                    let value = source.draw() >> source.below(64);
                    memory.dword(at + 16 + arg.min(3) * 8).store(value, Ordering::SeqCst);
                }
                written = written.wrapping_add(1);
                memory.dword(MARK).store(written.wrapping_mul(2), Ordering::SeqCst);
            }
            _ => {
                let (count, _, text) = rehearsal.take(&mut reader);
                assert!(count as u64 <= RECORDS);
                assert_eq!(text.lines().count(), count, "a line for each record");
            }
        }
        panel.set(
            (source.below(2) == 0).then_some(source.below(300) as usize),
            source.below(80) as usize,
            true,
        );
        let _ = (panel.lost(), panel.counter(source.below(99) as usize), panel.access(99, 99));
    }
}
