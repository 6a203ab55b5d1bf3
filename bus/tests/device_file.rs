//! A device file with both of its ends: the CPU's port on this thread, the serve loop on another, over real memory files.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bulkhead_bus::bell::{BELL_BYTES, Bell};
use bulkhead_bus::bench::Sleeper;
use bulkhead_bus::chip::Control;
use bulkhead_bus::clock::{CLOCK_BYTES, Clock};
use bulkhead_bus::control;
use bulkhead_bus::dead::DeadDevice;
use bulkhead_bus::device::{
    BLOCK_BYTES, CONTROL, DEVICE_BYTES, DevicePort, READY, RING, RING_ENTRIES, SLOT_BYTES, SLOTS, TAIL, kind,
    slot, stamp,
};
use bulkhead_bus::irq::{self, IRQ_BYTES, IrqPage, Line};
use bulkhead_bus::links::{BYTES_LINK, ByteEnd, Side};
use bulkhead_bus::mailbox::{Mailbox, MailboxError};
use bulkhead_bus::manifest::{Manifest, fd};
use bulkhead_bus::serve::serve;
use bulkhead_bus::sys::{self, Mapping};
use bulkhead_bus::trace::{Panel, TRACE_BYTES, Tracer, access};
use bulkhead_bus::wire;

mod recorder;
mod taken_over;

use recorder::{Deadly, LEVEL, Recorder, fold};

/// The files of a device and this side's view of them.
struct Rig {
    manifest: Manifest,
    files: Vec<(&'static str, OwnedFd)>,
    irq: Arc<IrqPage>,
}

const SOURCE: usize = 5;

impl Rig {
    fn new() -> Rig {
        let sizes = [
            (fd::DEVICE, DEVICE_BYTES),
            (fd::IRQ, IRQ_BYTES),
            (fd::CLOCK, CLOCK_BYTES),
            (fd::BELL, BELL_BYTES),
            (fd::CPU_BELL, BELL_BYTES),
            ("bytes0", BYTES_LINK),
            ("bytes0-peer", BELL_BYTES),
        ];
        let files = sizes.map(|(name, size)| (name, sys::memfd(name, size as u64).expect("memfd"))).into();
        let mut rig = Rig {
            manifest: Manifest {
                name: "recorder".to_owned(),
                role: "recorder".to_owned(),
                source: SOURCE as u32,
                ..Manifest::default()
            },
            files,
            irq: Arc::new(IrqPage::new(
                Mapping::anonymous(IRQ_BYTES).expect("mapping"),
                Bell::new(Mapping::anonymous(BELL_BYTES).expect("mapping")),
            )),
        };
        rig.manifest.fds =
            rig.files.iter().map(|(name, file)| ((*name).to_owned(), file.as_raw_fd())).collect();
        rig.irq = Arc::new(IrqPage::new(rig.map(fd::IRQ, IRQ_BYTES), rig.bell(fd::CPU_BELL)));
        Clock::new(rig.map(fd::CLOCK, CLOCK_BYTES)).set_running(true);
        rig
    }

    /// The device's first output line.
    fn line(&self) -> Line {
        irq::line(&self.map(fd::DEVICE, DEVICE_BYTES), 0)
    }

    fn map(&self, name: &str, len: usize) -> Mapping {
        let file = self.files.iter().find(|(have, _)| *have == name).expect("a file of the rig");
        Mapping::shared(file.1.as_fd(), len, true).expect("mapping")
    }

    fn bell(&self, name: &str) -> Bell {
        Bell::new(self.map(name, BELL_BYTES))
    }

    /// Starts a device on a thread of its own, which ends with the test program or by its fuse.
    fn start(&self, can_die: bool) -> std::thread::JoinHandle<()> {
        let thread = self.start_unready(can_die);
        let device = self.map(fd::DEVICE, DEVICE_BYTES);
        while device.word(READY).load(Ordering::SeqCst) == 0 {
            sys::futex_wait(device.word(READY), 0, Some(Duration::from_millis(100)));
            assert!(!thread.is_finished(), "the device did not start");
        }
        thread
    }

    /// Starts a device that may die before anybody sees that it is ready.
    fn start_unready(&self, can_die: bool) -> std::thread::JoinHandle<()> {
        self.start_as(can_die, Deadly::Nothing)
    }

    fn start_as(&self, can_die: bool, deadly: Deadly) -> std::thread::JoinHandle<()> {
        let device = self.map(fd::DEVICE, DEVICE_BYTES);
        device.word(READY).store(0, Ordering::SeqCst);
        let manifest = self.manifest.clone();
        std::thread::spawn(move || {
            let make = |_: &[u8]| Ok(Recorder::new(can_die, deadly));
            panic!("the device did not start: {}", serve(&manifest, |_| Ok(()), make));
        })
    }

    fn port(&self) -> DevicePort {
        DevicePort::new(self.map(fd::DEVICE, DEVICE_BYTES), self.bell(fd::BELL), self.irq.clone())
    }
}

fn started() -> (Rig, DevicePort) {
    let rig = Rig::new();
    rig.start(false);
    let port = rig.port();
    // The test ends before its devices: files and threads go with the process.
    (rig, port)
}

/// Sleeps on the vCPU's bell until `done`, as a halted vCPU does.
fn halt(rig: &Rig, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "nothing happened");
        rig.irq.cpu_bell().sleep(Some(Duration::from_millis(100)), &mut done);
    }
}

#[test]
fn reads_see_every_write_before_them_in_order_whatever_its_class() {
    let (_rig, mut port) = started();
    let mut log = 0;
    for round in 0..300u64 {
        for (step, offset) in [0, 8, 0, 16, 0].into_iter().enumerate() {
            let value = round * 10 + step as u64;
            port.write(0, offset, 3, value);
            log = fold(log, value);
        }
        assert_eq!(port.read(0, 24, 3), log, "round {round}");
    }
}

#[test]
fn more_posted_writes_than_the_ring_holds_all_arrive() {
    let (_rig, mut port) = started();
    let mut log = 0;
    for value in 0..5000 {
        port.write(0, 0, 3, value);
        log = fold(log, value);
    }
    assert_eq!(port.read(0, 24, 3), log);
}

#[test]
fn posted_writes_arrive_without_a_read_once_flushed() {
    let (rig, mut port) = started();
    port.write(0, 0, 3, 7);
    port.flush_posted();
    let map = rig.map(fd::DEVICE, DEVICE_BYTES);
    let start = Instant::now();
    // The word that the mirror becomes valid by: requests drained.
    while map.word(0xe000).load(Ordering::SeqCst) != 1 {
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::yield_now();
    }
    assert_eq!(port.read(0, 32, 3), fold(0, 7));
}

#[test]
fn mirrored_read_is_current_and_does_not_reach_the_device() {
    let (_rig, mut port) = started();
    let mut log = 0;
    for value in 0..200 {
        port.write(0, 0, 3, value);
        log = fold(log, value);
        // Posted and not yet done: the port must not show the stale mirror.
        assert_eq!(port.read(0, 32, 3), log);
    }
    port.read(0, 24, 3);
    let before = port.read(0, 40, 3);
    for _ in 0..50 {
        assert_eq!(port.read(0, 32, 3), log);
        assert_eq!(port.read(0, 33, 0), log >> 8 & 0xff, "a part of it");
    }
    assert_eq!(port.read(0, 40, 3), before + 1, "only the counter's own reads were counted");
}

#[test]
fn calm_read_reaches_the_device_only_when_it_has_an_effect() {
    let (rig, mut port) = started();
    port.write(0, 16, 3, 1);
    let accesses = port.read(0, 40, 3);
    for _ in 0..50 {
        assert_eq!(port.read(1, 0, 0), 0);
    }
    assert_eq!(port.read(0, 40, 3), accesses + 1, "only the counter's own reads were counted");
    for round in 0..20 {
        port.write(0, 48, 3, 1);
        halt(&rig, || rig.line().level);
        assert_eq!(port.read(1, 0, 0), 1, "round {round}");
        assert!(!rig.line().level, "the read had its effect");
        assert_eq!(port.read(1, 0, 0), 0);
    }
    assert_eq!(port.read(0, 40, 3), accesses + 22, "and the twenty that lowered the line");
    // Two bytes are no calm read.
    assert_eq!(port.read(1, 0, 1), 0);
    assert_eq!(port.read(0, 40, 3), accesses + 24);
}

#[test]
fn mirrored_reads_wait_only_for_writes_that_they_show() {
    let rig = Rig::new();
    let first = rig.start(true);
    let mut port = rig.port();
    port.write(0, 16, 3, 1);
    port.write(1, 8, 0, 3);
    port.read(0, 40, 3);
    burn(&mut port, first);
    // Nobody serves from now on, and all so far is drained: who waits now waits for ever.
    let map = rig.map(fd::DEVICE, DEVICE_BYTES);
    let tail = map.word(TAIL).load(Ordering::SeqCst);
    map.word(0xe000).store(tail, Ordering::SeqCst);
    map.word(0x080).store(tail, Ordering::SeqCst);
    let (say, hear) = std::sync::mpsc::channel();
    let reads = std::thread::spawn(move || {
        port.write(1, 9, 0, 0);
        assert_eq!(port.read(1, 8, 0), 3, "its own region");
        port.write(1, 8, 0, 4);
        assert_eq!(port.read(0, 32, 3), fold(0, 1), "another region");
        say.send(()).expect("the test waits");
        port.read(1, 8, 0)
    });
    hear.recv_timeout(Duration::from_secs(10)).expect("a read waited for what it does not show");
    rig.start(false);
    assert_eq!(reads.join().expect("reads"), 4, "a write that is shown was waited for");
}

/// A trace file, and how long it says that the CPU has waited for device 3.
fn waiting() -> (Tracer, impl Fn() -> u64) {
    let file = sys::memfd("trace", TRACE_BYTES as u64).expect("memfd");
    let map = || Mapping::shared(file.as_fd(), TRACE_BYTES, true).expect("mapping");
    let panel = Panel::new(Arc::new(map()));
    (Tracer::new(map()).for_device(3), move || panel.access(3, access::WAITED))
}

#[test]
fn time_that_the_cpu_waits_for_a_slow_device_is_counted() {
    const SLOW: Duration = Duration::from_millis(60);
    let rig = Rig::new();
    let (tracer, waited) = waiting();
    // Nobody serves but this thread: the ring's tail is answered some time after the CPU has gone to sleep over it.
    let (map, irq) = (rig.map(fd::DEVICE, DEVICE_BYTES), rig.irq.clone());
    let device = std::thread::spawn(move || {
        let (tail, head) = (map.word(0x040), map.word(0x080));
        while !irq.cpu_bell().is_asleep() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(SLOW);
        head.store(tail.load(Ordering::SeqCst), Ordering::SeqCst);
        irq.cpu_bell().wake();
    });
    rig.port().traced(tracer).read(0, 16, 3);
    device.join().expect("the device");
    assert!(waited() >= SLOW.as_nanos() as u64, "{} ns", waited());
}

#[test]
fn no_time_is_counted_where_no_device_is_waited_for() {
    let (_rig, port) = started();
    let (tracer, waited) = waiting();
    let mut port = port.traced(tracer);
    assert_eq!(waited(), 0);
    port.read(0, 24, 3);
    let before = waited();
    assert!(before > 0);
    // Everything is done, so that the mirror is valid.
    for _ in 0..100 {
        port.read(0, 32, 3);
    }
    // Far fewer than the ring holds.
    for value in 0..100 {
        port.write(0, 0, 3, value);
    }
    port.flush_posted();
    assert_eq!(waited(), before);
    port.write(0, 16, 3, 1);
    assert!(waited() > before, "a write that is answered");
}

#[test]
fn sizes_and_errors_read_as_ones_of_their_width() {
    let (_rig, mut port) = started();
    assert_eq!(port.region_size(0), 64);
    for (size, ones) in [(0, 0xff), (1, 0xffff), (2, 0xffff_ffff), (3, u64::MAX)] {
        assert_eq!(port.read(0, 16, size), ones, "rejected");
        assert_eq!(port.read(0, 64, size), ones, "beyond the region");
        assert_eq!(port.read(3, 0, size), ones, "no such region");
    }
}

#[test]
fn block_transfers_of_any_length_equal_single_accesses() {
    let (_rig, mut port) = started();
    let data = (0..BLOCK_BYTES * 2 + 24).map(|at| at as u8).collect::<Vec<_>>();
    port.write_block(0, 16, 3, &data);
    let log = data
        .chunks(8)
        .fold(0, |log, unit| fold(log, u64::from_le_bytes(unit.try_into().expect("whole units"))));
    let mut back = vec![0; BLOCK_BYTES + 16];
    port.read_block(0, 24, 3, &mut back);
    assert!(back.chunks(8).all(|unit| unit == log.to_le_bytes()));
    let mut refused = vec![0; 10];
    port.read_block(0, 16, 1, &mut refused);
    assert_eq!(refused, [0xff; 10]);
}

#[test]
fn timer_raises_the_line_and_wakes_a_halted_cpu_and_a_read_lowers_it() {
    let (rig, mut port) = started();
    let line = || rig.line();
    let edges = line().edges;
    port.write(0, 48, 3, 3_000_000);
    assert!(!line().level);
    halt(&rig, || line().level);
    assert_eq!(line().edges, edges.wrapping_add(1));
    assert_eq!(rig.irq.take_news() & 1 << SOURCE, 1 << SOURCE);
    port.read(0, 48, 3);
    assert!(!line().level, "a sync read has published the line before it returns");
}

#[test]
fn stopped_clock_holds_timers_back() {
    let (rig, mut port) = started();
    let clock = Clock::new(rig.map(fd::CLOCK, CLOCK_BYTES));
    clock.set_running(false);
    port.write(0, 48, 3, 1_000);
    std::thread::sleep(Duration::from_millis(20));
    assert!(!rig.line().level);
    clock.set_running(true);
    rig.bell(fd::BELL).ring();
    halt(&rig, || rig.line().level);
}

#[test]
fn reset_reaches_the_chip_in_order() {
    let (_rig, mut port) = started();
    port.write(0, 0, 3, 1);
    port.reset();
    port.write(0, 0, 3, 2);
    assert_eq!(port.read(0, 24, 3), fold(0, 2));
}

#[test]
fn bytes_cross_the_link_both_ways() {
    let (rig, _port) = started();
    let host = ByteEnd::new(rig.map("bytes0", BYTES_LINK), Arc::new(rig.bell(fd::BELL)), Side::Host);
    let own = rig.bell("bytes0-peer");
    let data = (0..200_000u32).map(|at| (at / 7) as u8).collect::<Vec<_>>();
    let (mut sent, mut back) = (0, Vec::new());
    let start = Instant::now();
    while back.len() < data.len() {
        assert!(start.elapsed() < Duration::from_secs(20), "{sent} sent, {} came back", back.len());
        sent += host.send(&data[sent..]);
        let mut part = [0; 4096];
        let count = host.receive(&mut part);
        back.extend_from_slice(&part[..count]);
        if count == 0 {
            own.sleep(Some(Duration::from_millis(100)), || host.waiting() > 0);
        }
    }
    assert!(back.iter().zip(&data).all(|(back, data)| *back == !data));
}

#[test]
fn control_requests_are_answered_once_each() {
    let (rig, mut port) = started();
    port.write(0, 16, 3, 9);
    let map = rig.map(fd::DEVICE, DEVICE_BYTES);
    let ask = |number: u32, bytes: &[u8]| {
        assert!(map.write(CONTROL + control::REQUEST_DATA, bytes));
        map.word(CONTROL + control::REQUEST_LEN).store(bytes.len() as u32, Ordering::SeqCst);
        sys::publish(map.word(CONTROL + control::REQUEST), number);
        rig.bell(fd::BELL).ring();
        let reply = map.word(CONTROL + control::REPLY);
        while reply.load(Ordering::SeqCst) != number {
            sys::futex_wait(reply, number.wrapping_sub(1), Some(Duration::from_millis(100)));
        }
        let mut text = vec![0; map.word(CONTROL + control::REPLY_LEN).load(Ordering::SeqCst) as usize];
        assert!(map.read(CONTROL + control::REPLY_DATA, &mut text));
        (
            map.word(CONTROL + control::REPLY_STATUS).load(Ordering::SeqCst),
            String::from_utf8(text).expect("text"),
        )
    };
    let encoded = |request: &Control| wire::encode(request).expect("a small request");
    assert_eq!(ask(1, &encoded(&Control::Info)), (0, format!("log {}", fold(0, 9))));
    assert_eq!(ask(2, &encoded(&Control::Break)), (1, "not this one".to_owned()));
    assert_eq!(ask(3, &[0xff; 20]), (1, "malformed request".to_owned()));
}

#[test]
fn successor_continues_where_a_device_died_and_nothing_is_lost_or_doubled() {
    // Dies at the first, the second, ... write, each time in the middle of the transaction.
    for fuse in 1..6u64 {
        let rig = Rig::new();
        let mut log = 0;
        let first = rig.start(true);
        let mut port = rig.port();
        port.write(0, 56, 3, fuse);
        for value in 1..=7 {
            port.write(0, 8, 3, value);
            log = fold(log, value);
        }
        assert!(first.join().is_err(), "the fuse burnt down");
        // The fuse is state too, so the request that killed the first device reaches the second one as well.
        rig.start(false);
        port.write(0, 16, 3, 8);
        log = fold(log, 8);
        assert_eq!(port.read(0, 24, 3), log, "fuse {fuse}");
    }
}

#[test]
fn waiting_cpu_is_served_by_the_successor() {
    let rig = Rig::new();
    let first = rig.start(true);
    let mut port = rig.port();
    port.write(0, 56, 3, 1);
    let asking = std::thread::spawn(move || {
        port.write(0, 16, 3, 5);
        port.read(0, 24, 3)
    });
    assert!(first.join().is_err(), "the fuse burnt down");
    rig.start(false);
    assert_eq!(asking.join().expect("an answer"), fold(0, 5));
}

#[test]
fn request_that_kills_every_device_is_answered_with_ones_and_skipped_after_its_third_death() {
    let rig = Rig::new();
    let first = rig.start(true);
    let mut port = rig.port();
    // The fuse is committed with 1 left, so that each successor dies of the same next write.
    burn(&mut port, first);
    for death in 2..=3 {
        let next = rig.start_unready(true);
        assert!(next.join().is_err(), "death {death}");
    }
    rig.start(true);
    assert_eq!(port.read(0, 40, 3), 1, "the device lives and serves what is behind");
    assert_eq!(port.read(0, 24, 3), 0, "the poison left no trace");
}

#[test]
fn poisonous_read_reads_as_ones_and_a_poisonous_block_as_ones_throughout() {
    for block in [false, true] {
        let rig = Rig::new();
        let first = rig.start(true);
        let mut port = rig.port();
        let asking = std::thread::spawn(move || {
            let mut data = vec![0; 32];
            match block {
                false => data.copy_from_slice(&port.read(0, 60, 3).to_le_bytes().repeat(4)),
                true => port.read_block(0, 60, 2, &mut data),
            }
            data
        });
        assert!(first.join().is_err(), "the read kills");
        for _ in 0..2 {
            assert!(rig.start_unready(true).join().is_err());
        }
        rig.start(true);
        assert_eq!(asking.join().expect("an answer"), [0xff; 32], "block {block}");
    }
}

#[test]
fn death_from_outside_that_is_forgiven_is_not_counted_against_the_request() {
    let rig = Rig::new();
    let first = rig.start(true);
    let mut port = rig.port();
    let mailbox = Mailbox::new(rig.map(fd::DEVICE, DEVICE_BYTES), rig.bell(fd::BELL));
    burn(&mut port, first);
    mailbox.settle(true);
    for _ in 0..5 {
        assert!(rig.start_unready(true).join().is_err());
        assert_eq!(mailbox.attempts(), (1, 1));
        mailbox.settle(true);
    }
    rig.start(false);
    assert_eq!(port.read(0, 24, 3), fold(0, 5), "served by a device that does not die of it");
}

#[test]
fn forgiven_death_before_a_request_was_begun_takes_nothing_off_its_count() {
    let rig = Rig::new();
    let first = rig.start(true);
    let mut port = rig.port();
    let mailbox = Mailbox::new(rig.map(fd::DEVICE, DEVICE_BYTES), rig.bell(fd::BELL));
    burn(&mut port, first);
    for deaths in 1..=3 {
        assert_eq!(mailbox.attempts(), (1, deaths));
        mailbox.settle(false);
        // Somebody kills a successor that has only just begun to take the state up.
        mailbox.settle(true);
        assert_eq!(mailbox.attempts(), (1, deaths));
        if deaths < 3 {
            assert!(rig.start_unready(true).join().is_err(), "death {}", deaths + 1);
        }
    }
    rig.start(true);
    assert_eq!(port.read(0, 24, 3), 0, "it is left out");
}

#[test]
fn requests_to_a_dead_device_read_as_ones_and_a_later_process_goes_on_behind_them() {
    let rig = Rig::new();
    let first = rig.start(true);
    let mut port = rig.port();
    port.write(0, 48, 3, 1);
    halt(&rig, || rig.line().level);
    port.write(0, 16, 3, 3);
    burn(&mut port, first);
    let (file, bell) = (rig.map(fd::DEVICE, DEVICE_BYTES), rig.bell(fd::BELL));
    let dead = Arc::new(DeadDevice::new(file, bell, rig.irq.clone(), SOURCE));
    let theirs = dead.clone();
    let thread = std::thread::spawn(move || theirs.run());
    assert!(!rig.line().level, "its line is low");
    assert_eq!(port.read(0, 32, 3), u64::MAX, "mirrored");
    assert_eq!(port.read(0, 24, 1), 0xffff);
    for value in 0..5000 {
        port.write(0, 0, 3, value);
    }
    port.write(0, 16, 3, 7);
    port.reset();
    let mut data = [0; 100];
    port.read_block(0, 24, 2, &mut data);
    assert_eq!(data, [0xff; 100]);
    dead.stop();
    thread.join().expect("the stand-in ends");
    rig.start(false);
    assert_eq!(port.read(0, 24, 3), fold(0, 3), "the state of before");
}

#[test]
fn answer_that_a_device_has_committed_and_not_published_comes_though_nobody_succeeds_it() {
    let rig = Rig::new();
    let (map, mut port) = (rig.map(fd::DEVICE, DEVICE_BYTES), rig.port());
    // Slot 0 is the active one.
    map.word(SLOTS + slot::CONSUMED).store(1, Ordering::SeqCst);
    map.dword(SLOTS + slot::RESPONSE).store(0x1234, Ordering::SeqCst);
    let (say, hear) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = say.send(port.read(0, 24, 3));
    });
    // It was sent before it was done.
    while map.word(TAIL).load(Ordering::SeqCst) != 1 {
        std::thread::yield_now();
    }
    let dead = Arc::new(DeadDevice::new(map, rig.bell(fd::BELL), rig.irq.clone(), SOURCE));
    let theirs = dead.clone();
    let thread = std::thread::spawn(move || theirs.run());
    assert_eq!(hear.recv_timeout(Duration::from_secs(10)), Ok(0x1234));
    dead.stop();
    thread.join().expect("the stand-in ends");
}

#[test]
fn successor_announces_lines_and_wakes_a_cpu_whose_flag_was_taken_back_without_a_wake() {
    let rig = Rig::new();
    let first = rig.start(true);
    let mut port = rig.port();
    port.write(0, 48, 3, 1);
    halt(&rig, || rig.line().level);
    // As if the first had died right after it changed the line: nobody was told.
    rig.irq.take_news();
    rig.irq.attention().store(0, Ordering::SeqCst);
    burn(&mut port, first);
    let cpu = Sleeper::forgotten(|| rig.map(fd::CPU_BELL, BELL_BYTES));
    rig.start(false);
    cpu.expect_woken();
    assert_eq!(rig.irq.take_news() & 1 << SOURCE, 1 << SOURCE);
    assert_ne!(rig.irq.attention().load(Ordering::SeqCst), 0);
}

/// Lights a fuse of one write and writes 5: `device` dies of it.
fn burn(port: &mut DevicePort, device: std::thread::JoinHandle<()>) {
    port.write(0, 56, 3, 1);
    port.write(0, 8, 3, 5);
    assert!(device.join().is_err(), "the fuse burnt down");
}

/// Three devices die; the fourth of the same kind lives.
fn outlives(rig: &Rig, deadly: Deadly) {
    for death in 1..=3 {
        assert!(rig.start_as(false, deadly).join().is_err(), "death {death}");
    }
    let device = rig.map(fd::DEVICE, DEVICE_BYTES);
    let fourth = rig.start_as(false, deadly);
    while device.word(READY).load(Ordering::SeqCst) == 0 {
        sys::futex_wait(device.word(READY), 0, Some(Duration::from_millis(100)));
        assert!(!fourth.is_finished(), "the fourth did not start");
    }
}

#[test]
fn deadly_timer_is_left_out_after_its_third_death_and_the_next_one_runs() {
    let rig = Rig::new();
    let first = rig.start(true);
    let mut port = rig.port();
    Clock::new(rig.map(fd::CLOCK, CLOCK_BYTES)).set_running(false);
    port.write(0, 48, 3, 1_000_000);
    port.write(0, 16, 3, 4);
    burn(&mut port, first);
    Clock::new(rig.map(fd::CLOCK, CLOCK_BYTES)).set_running(true);
    outlives(&rig, Deadly::Timer);
    assert_eq!(port.read(0, 24, 3), fold(fold(0, 4), 5), "it serves");
    assert!(!rig.line().level);
}

#[test]
fn deadly_bytes_are_left_out_after_their_third_death() {
    let rig = Rig::new();
    let first = rig.start(true);
    let mut port = rig.port();
    burn(&mut port, first);
    let host = ByteEnd::new(rig.map("bytes0", BYTES_LINK), Arc::new(rig.bell(fd::BELL)), Side::Host);
    assert_eq!(host.send(b"poison"), 6);
    outlives(&rig, Deadly::Bytes);
    assert_eq!(port.read(0, 24, 3), fold(0, 5), "it serves");
}

#[test]
fn state_whose_outputs_are_deadly_is_left_out_after_its_third_death() {
    let rig = Rig::new();
    let first = rig.start(true);
    let mut port = rig.port();
    port.write(1, 8, 0, 7);
    burn(&mut port, first);
    outlives(&rig, Deadly::Outputs);
    assert_eq!(port.read(0, 24, 3), fold(0, 5), "it serves");
}

#[test]
fn answer_that_was_committed_comes_before_the_successor_looks_at_deadly_bytes() {
    let rig = Rig::new();
    let first = rig.start(true);
    let mut port = rig.port();
    port.write(0, 16, 3, 4);
    burn(&mut port, first);
    // As if the first had died between the commit of its last request and the publication.
    let map = rig.map(fd::DEVICE, DEVICE_BYTES);
    for at in [SLOTS, SLOTS + SLOT_BYTES] {
        map.word(at + slot::CONSUMED).store(3, Ordering::SeqCst);
    }
    let host = ByteEnd::new(rig.map("bytes0", BYTES_LINK), Arc::new(rig.bell(fd::BELL)), Side::Host);
    assert_eq!(host.send(b"poison"), 6);
    assert_eq!(map.word(0x080).load(Ordering::SeqCst), 2);
    assert!(rig.start_as(false, Deadly::Bytes).join().is_err(), "the bytes kill");
    assert_eq!(map.word(0x080).load(Ordering::SeqCst), 3);
}

#[test]
fn line_that_has_fallen_untold_and_rises_at_once_in_the_successor_is_an_edge() {
    let rig = Rig::new();
    let first = rig.start(true);
    let mut port = rig.port();
    port.write(0, 48, 3, 1);
    halt(&rig, || rig.line().level);
    let edges = rig.line().edges;
    burn(&mut port, first);
    // As if the first had died between the commit of a fall and its publication.
    let map = rig.map(fd::DEVICE, DEVICE_BYTES);
    for at in [SLOTS, SLOTS + SLOT_BYTES] {
        map.word(at + slot::STATE + LEVEL).store(0, Ordering::SeqCst);
    }
    let host = ByteEnd::new(rig.map("bytes0", BYTES_LINK), Arc::new(rig.bell(fd::BELL)), Side::Host);
    assert_eq!(host.send(b"x"), 1);
    drop(rig.start_as(false, Deadly::Eager));
    assert_eq!(port.read(0, 24, 3), fold(0, 5), "it serves");
    assert_eq!(rig.line(), Line { level: true, edges: edges.wrapping_add(1), value: 0 });
}

#[test]
fn deadly_bytes_that_keep_coming_are_left_out_and_cost_no_state() {
    let rig = Rig::new();
    let first = rig.start(true);
    let mut port = rig.port();
    port.write(0, 16, 3, 4);
    burn(&mut port, first);
    let host = ByteEnd::new(rig.map("bytes0", BYTES_LINK), Arc::new(rig.bell(fd::BELL)), Side::Host);
    for death in 1..=3 {
        assert_eq!(host.send(b"poison"), 6);
        assert!(rig.start_as(false, Deadly::Bytes).join().is_err(), "death {death}");
    }
    assert_eq!(host.send(b"poison"), 6);
    drop(rig.start_as(false, Deadly::Bytes));
    assert_eq!(port.read(0, 24, 3), fold(fold(0, 4), 5), "it serves, with its state");
}

#[test]
fn deadly_command_is_refused_after_its_third_death() {
    let rig = Rig::new();
    let first = rig.start(true);
    let mut port = rig.port();
    burn(&mut port, first);
    let mut mailbox = Mailbox::new(rig.map(fd::DEVICE, DEVICE_BYTES), rig.bell(fd::BELL));
    let asking = std::thread::spawn(move || mailbox.request(&Control::Info, Duration::from_secs(20)));
    let map = rig.map(fd::DEVICE, DEVICE_BYTES);
    while map.word(CONTROL + control::REQUEST).load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    outlives(&rig, Deadly::Command);
    let answer = asking.join().expect("an answer");
    assert!(answer.is_err_and(|error| error.to_string().contains("kills the device")));
    assert_eq!(port.read(0, 24, 3), fold(0, 5), "it serves");
}

#[test]
fn request_that_was_not_answered_in_time_is_not_done_later() {
    let rig = Rig::new();
    let mut mailbox = Mailbox::new(rig.map(fd::DEVICE, DEVICE_BYTES), rig.bell(fd::BELL));
    let mut ask =
        |byte: u8, time: u64| mailbox.request(&Control::Configure(vec![byte]), Duration::from_millis(time));
    // Nobody serves yet.
    assert_eq!(ask(1, 20), Err(MailboxError::Timeout));
    assert_eq!(ask(2, 20), Err(MailboxError::Timeout));
    let map = rig.map(fd::DEVICE, DEVICE_BYTES);
    assert_eq!(
        map.word(CONTROL + control::REQUEST).load(Ordering::SeqCst),
        1,
        "the first one is still there"
    );
    rig.start(false);
    assert_eq!(ask(3, 20_000), Ok(Vec::new()));
    assert_eq!(rig.port().read(0, 24, 3), fold(0, 3), "the last one, once");
}

#[test]
fn an_answer_that_lies_ready_does_not_stretch_the_time_of_the_question() {
    let rig = Rig::new();
    let mut mailbox = Mailbox::new(rig.map(fd::DEVICE, DEVICE_BYTES), rig.bell(fd::BELL));
    let map = rig.map(fd::DEVICE, DEVICE_BYTES);
    for number in 1..=2 {
        map.word(CONTROL + control::REPLY).store(number, Ordering::SeqCst);
        assert_eq!(mailbox.request(&Control::Info, Duration::from_secs(20)), Ok(Vec::new()));
        map.word(CONTROL + control::REPLY).store(number + 1, Ordering::SeqCst);
        assert_eq!(mailbox.request(&Control::Info, Duration::ZERO), Err(MailboxError::Timeout));
    }
}

#[test]
fn device_whose_state_is_refused_or_deadly_is_as_after_power_on_and_loses_no_byte_of_its_link() {
    // Or that says that there is none.
    for deadly in [Deadly::Upgrade, Deadly::State, Deadly::Nothing] {
        let rig = Rig::new();
        let first = rig.start(true);
        let mut port = rig.port();
        let host = ByteEnd::new(rig.map("bytes0", BYTES_LINK), Arc::new(rig.bell(fd::BELL)), Side::Host);
        let own = rig.bell("bytes0-peer");
        let echo = |byte: u8| {
            assert_eq!(host.send(&[byte]), 1);
            let mut back = [0u8; 2];
            let start = Instant::now();
            while host.receive(&mut back) == 0 {
                assert!(start.elapsed() < Duration::from_secs(10), "no echo");
                own.sleep(Some(Duration::from_millis(100)), || host.waiting() > 0);
            }
            back[0]
        };
        assert_eq!([echo(1), echo(2), echo(3)], [254, 253, 252]);
        port.write(0, 16, 3, 4);
        burn(&mut port, first);
        match deadly {
            Deadly::State => outlives(&rig, deadly),
            Deadly::Nothing => {
                wipe_generation(&rig);
                rig.start(false);
            }
            _ => drop(rig.start_as(false, deadly)),
        }
        // What was posted when the state was lost is served after it.
        assert_eq!(port.read(0, 24, 3), fold(0, 5));
        // Its positions count from here.
        let link = rig.map("bytes0", BYTES_LINK);
        assert_eq!([0x108, 0x10c].map(|at| link.word(at).load(Ordering::SeqCst)), [3, 3]);
        assert_eq!([echo(4), echo(5)], [251, 250]);
    }
}

fn wipe_generation(rig: &Rig) {
    rig.map(fd::DEVICE, DEVICE_BYTES).dword(0x180).store(0, Ordering::SeqCst);
}

#[test]
fn device_that_loses_its_state_sends_no_pulse_of_its_own() {
    for last in [Deadly::Nothing, Deadly::Upgrade] {
        let rig = Rig::new();
        let first = rig.start(true);
        let mut port = rig.port();
        // An answer comes after the lines.
        let pulses = |port: &mut DevicePort| {
            port.read(0, 40, 3);
            port.line(1).edges
        };
        port.write(1, 8, 0, 3);
        assert_eq!(pulses(&mut port), 3);
        burn(&mut port, first);
        let second = rig.start_as(true, Deadly::Upgrade);
        assert_eq!(pulses(&mut port), 3, "the state is lost");
        port.write(1, 8, 0, 1);
        assert_eq!(pulses(&mut port), 4, "it goes on from there");
        burn(&mut port, second);
        rig.start_as(false, last);
        assert_eq!(pulses(&mut port), 4, "and whoever comes next too");
    }
}
