//! What a device that was taken over leaves behind harms neither the CPU nor its successors.

use super::*;

/// What a device that was taken over leaves behind, so that a request of the CPU is never found.
#[derive(Clone, Copy, Debug)]
enum Lie {
    /// A consumer index more than a ring behind.
    Behind,
    /// One that the ring will not get to.
    Ahead,
    /// No request at all.
    Ring,
    /// A consumer index behind, and the CPU's own count beside it.
    Count,
    /// Requests that the CPU has not sent yet.
    Future,
    /// The next one counts as done.
    Next,
}

const LIES: [Lie; 6] = [Lie::Behind, Lie::Ahead, Lie::Ring, Lie::Count, Lie::Future, Lie::Next];

/// Tells it while no device serves.
fn lie(rig: &Rig, lie: Lie) {
    let map = rig.map(fd::DEVICE, DEVICE_BYTES);
    let tail = map.word(TAIL).load(Ordering::SeqCst);
    let consume = |index: u32| {
        for at in [SLOTS, SLOTS + SLOT_BYTES] {
            map.word(at + slot::CONSUMED).store(index, Ordering::SeqCst);
        }
    };
    match lie {
        Lie::Behind => consume(tail.wrapping_sub(5000)),
        Lie::Ahead => consume(tail.wrapping_add(5000)),
        Lie::Ring => assert!(map.write(RING, &[0; RING_ENTRIES as usize * 16])),
        Lie::Count => {
            consume(tail.wrapping_sub(5000));
            map.word(TAIL).store(tail.wrapping_sub(5000), Ordering::SeqCst);
        }
        Lie::Future => plant(&map, tail, tail.wrapping_add(RING_ENTRIES)),
        Lie::Next => consume(tail.wrapping_add(1)),
    }
}

/// Puts posted writes of 9 to register 0 into the ring.
fn plant(map: &Mapping, from: u32, end: u32) {
    for index in from..end {
        let at = RING + (index % RING_ENTRIES) as usize * 16;
        let head = u64::from(kind::WRITE) | 3 << 8 | u64::from(stamp(index)) << 24;
        map.dword(at + 8).store(9, Ordering::SeqCst);
        map.dword(at).store(head, Ordering::SeqCst);
    }
}

/// A CPU that waits for a request which its device has died of, and then says that it goes on.
fn wait_for(rig: &Rig) -> (std::sync::mpsc::Receiver<DevicePort>, Duration) {
    let first = rig.start(true);
    let mut port = rig.port();
    let (say, hear) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        port.read(0, 60, 3);
        let _ = say.send(port);
    });
    assert!(first.join().is_err(), "the read kills");
    (hear, Duration::from_secs(10))
}

#[test]
fn requests_that_a_device_has_hidden_from_its_successors_do_not_hold_the_cpu_up() {
    for told in LIES {
        let rig = Rig::new();
        let (served, limit) = wait_for(&rig);
        lie(&rig, told);
        let count = rig.map(fd::DEVICE, DEVICE_BYTES);
        let start = Instant::now();
        while count.word(TAIL).load(Ordering::SeqCst) != 1 {
            assert!(start.elapsed() < limit, "{told:?}: the CPU does not state how much it has sent");
            std::thread::yield_now();
        }
        rig.start(false);
        let mut port =
            served.recv_timeout(limit).unwrap_or_else(|_| panic!("{told:?}: the CPU waits for ever"));
        port.write(0, 16, 3, 6);
        assert_eq!(port.read(0, 24, 3), fold(0, 6), "{told:?}");
    }
}

#[test]
fn requests_that_a_device_has_hidden_are_answered_without_a_device_too() {
    for told in LIES {
        let rig = Rig::new();
        let (served, limit) = wait_for(&rig);
        lie(&rig, told);
        let (file, bell) = (rig.map(fd::DEVICE, DEVICE_BYTES), rig.bell(fd::BELL));
        let dead = Arc::new(DeadDevice::new(file, bell, rig.irq.clone(), SOURCE));
        let theirs = dead.clone();
        let thread = std::thread::spawn(move || theirs.run());
        let mut port =
            served.recv_timeout(limit).unwrap_or_else(|_| panic!("{told:?}: the CPU waits for ever"));
        assert_eq!(port.read(0, 24, 1), 0xffff, "{told:?}");
        dead.stop();
        thread.join().expect("the stand-in ends");
    }
}

#[test]
fn requests_that_a_device_has_made_up_are_not_served_by_its_successor() {
    // From the next one on, and from one behind it on.
    for skip in [0, 7] {
        let rig = Rig::new();
        let first = rig.start(true);
        let mut port = rig.port();
        burn(&mut port, first);
        let map = rig.map(fd::DEVICE, DEVICE_BYTES);
        let tail = map.word(TAIL).load(Ordering::SeqCst);
        plant(&map, tail + skip, tail + RING_ENTRIES - 1);
        rig.start(false);
        // It has done all that it finds.
        let bell = rig.bell(fd::BELL);
        while !bell.is_asleep() {
            std::thread::yield_now();
        }
        assert_eq!(map.word(0x080).load(Ordering::SeqCst), tail, "{skip}: served, not more");
        let mut log = fold(0, 5);
        assert_eq!(port.read(0, 24, 3), log, "{skip}");
        // More than once round the ring.
        for value in 0..u64::from(RING_ENTRIES) + 10 {
            port.write(0, 0, 3, value);
            log = fold(log, value);
        }
        port.write(0, 16, 3, 6);
        assert_eq!(port.read(0, 24, 3), fold(log, 6), "{skip}");
        let sent = map.word(TAIL).load(Ordering::SeqCst);
        assert_eq!(map.word(0x080).load(Ordering::SeqCst), sent, "{skip}: or it looks hung");
    }
}

#[test]
fn request_that_a_device_has_called_done_before_it_was_sent_is_served_by_its_successor() {
    let rig = Rig::new();
    let first = rig.start(true);
    let mut port = rig.port();
    burn(&mut port, first);
    lie(&rig, Lie::Next);
    rig.start(false);
    port.write(0, 16, 3, 6);
    assert_eq!(port.read(0, 24, 3), fold(0, 6));
}

#[test]
fn made_up_requests_are_not_answered_without_a_device() {
    let rig = Rig::new();
    let map = rig.map(fd::DEVICE, DEVICE_BYTES);
    plant(&map, 0, RING_ENTRIES);
    let dead = Arc::new(DeadDevice::new(
        rig.map(fd::DEVICE, DEVICE_BYTES),
        rig.bell(fd::BELL),
        rig.irq.clone(),
        SOURCE,
    ));
    let theirs = dead.clone();
    let thread = std::thread::spawn(move || theirs.run());
    let mut port = rig.port();
    assert_eq!(port.read(0, 24, 1), 0xffff);
    assert_eq!(map.word(0x080).load(Ordering::SeqCst), 1, "one request was sent");
    dead.stop();
    thread.join().expect("the stand-in ends");
}

#[test]
fn device_that_says_that_it_has_no_state_and_other_pulses_sends_none() {
    let rig = Rig::new();
    let first = rig.start(true);
    let mut port = rig.port();
    port.write(1, 8, 0, 3);
    burn(&mut port, first);
    wipe_generation(&rig);
    let map = rig.map(fd::DEVICE, DEVICE_BYTES);
    for at in [SLOTS, SLOTS + SLOT_BYTES] {
        assert!(map.write(at + slot::PULSES, &[0x55; 32]));
    }
    rig.start(false);
    assert_eq!(port.read(0, 24, 3), fold(0, 5), "it serves");
    assert_eq!(port.line(1).edges, 3);
}

#[test]
fn lines_are_those_of_the_device_whatever_is_written_into_what_devices_share() {
    let (rig, mut port) = started();
    let shared = [rig.map(fd::IRQ, IRQ_BYTES), rig.map(fd::CPU_BELL, BELL_BYTES)];
    let lie = |value: u32| {
        for map in &shared {
            (0..map.len() / 4).for_each(|word| map.word(word * 4).store(value, Ordering::SeqCst));
        }
    };
    let edges = rig.line().edges;
    for (raised, value) in (1..).zip([0, 1, u32::MAX]) {
        lie(value);
        assert!((0..8).all(|line| !port.line(line).level));
        port.write(0, 48, 3, 1);
        let start = Instant::now();
        while !port.line(0).level {
            assert!(start.elapsed() < Duration::from_secs(60), "the line does not rise");
            lie(value);
        }
        lie(value);
        assert_eq!((port.line(0).level, port.line(0).edges), (true, edges.wrapping_add(raised)));
        port.read(0, 48, 3);
        assert!(!port.line(0).level);
    }
}

#[test]
fn answer_comes_though_the_cpus_flag_and_the_devices_are_taken_back() {
    let (rig, mut port) = started();
    let flags = [rig.map(fd::CPU_BELL, BELL_BYTES), rig.map(fd::BELL, BELL_BYTES)];
    let over = AtomicBool::new(false);
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                flags.iter().for_each(|flag| flag.word(0).store(0, Ordering::SeqCst));
            }
        });
        for value in 0..200 {
            port.write(0, 16, 3, value);
            port.read(0, 24, 3);
            // Let both fall asleep.
            std::thread::sleep(Duration::from_millis(1));
        }
        over.store(true, Ordering::SeqCst);
    });
    assert!(start.elapsed() < Duration::from_secs(100), "most answers came with the longest sleep of a bell");
}
