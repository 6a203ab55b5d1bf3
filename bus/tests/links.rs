//! Byte and block links: both ends over one memory file, with peers that die and peers that lie.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bulkhead_bus::bell::{BELL_BYTES, Bell};
use bulkhead_bus::conformance::Random;
use bulkhead_bus::links::{
    BLOCK_DATA, BLOCK_LINK, BLOCK_SLOTS, BYTES_CAPACITY, BYTES_LINK, BlockClient, BlockOp, BlockServer,
    BlockStatus, ByteEnd, Medium, Side,
};
use bulkhead_bus::ram::GuestRam;
use bulkhead_bus::sys::{self, Mapping};

fn mappings<const N: usize>(len: usize) -> [Mapping; N] {
    let file = sys::memfd("test", len as u64).expect("memfd");
    [(); N].map(|()| Mapping::shared(file.as_fd(), len, true).expect("mapping"))
}

fn bell() -> Arc<Bell> {
    Arc::new(Bell::new(Mapping::anonymous(BELL_BYTES).expect("mapping")))
}

/// Device's end, back end's end, and the raw file.
fn bytes() -> (ByteEnd, ByteEnd, Mapping) {
    let [device, host, raw] = mappings(BYTES_LINK);
    (ByteEnd::new(device, bell(), Side::Device), ByteEnd::new(host, bell(), Side::Host), raw)
}

fn blocks() -> (BlockClient, BlockServer, Mapping) {
    let [device, host, raw] = mappings(BLOCK_LINK);
    (BlockClient::new(device, bell()), BlockServer::new(host, bell()), raw)
}

#[test]
fn bytes_arrive_in_order_around_the_end_of_the_ring() {
    let (device, host, _) = bytes();
    let mut random = Random::new(3);
    let (mut sent, mut received) = (0u32, 0u32);
    let mut buffer = vec![0; 1 << 17];
    while sent < 1 << 20 {
        let count = random.below(60_000) as usize;
        let part = (0..count).map(|at| (sent.wrapping_add(at as u32) / 3) as u8).collect::<Vec<_>>();
        sent += device.send(&part) as u32;
        let want = random.below(60_000) as usize;
        let count = host.receive(&mut buffer[..want]);
        for byte in &buffer[..count] {
            assert_eq!(*byte, (received / 3) as u8);
            received += 1;
        }
        assert_eq!(device.room(), (BYTES_CAPACITY - (sent - received)) as usize);
        assert_eq!(host.waiting(), (sent - received) as usize);
    }
}

#[test]
fn sending_again_from_an_older_position_changes_nothing() {
    let (device, host, _) = bytes();
    assert_eq!(device.send_at(0, b"hello"), 5);
    let mut buffer = [0; 16];
    assert_eq!(host.receive(&mut buffer[..2]), 2);
    // The device died after it had sent everything and had committed nothing; the peer has taken two bytes.
    assert_eq!(device.send_at(0, b"hel"), 3);
    assert_eq!(device.send_at(3, b"lo, you"), 7);
    let count = host.receive(&mut buffer[2..]);
    assert_eq!(&buffer[..2 + count], b"hello, you");
}

#[test]
fn received_bytes_are_given_back_only_when_their_position_is_committed() {
    let (device, host, _) = bytes();
    let data = (0..BYTES_CAPACITY).map(|at| at as u8).collect::<Vec<_>>();
    assert_eq!(host.send(&data), BYTES_CAPACITY as usize);
    let mut buffer = [0; 100];
    assert_eq!(device.receive_at(0, &mut buffer), 100);
    assert_eq!(host.room(), 0, "the device may die and read them again");
    assert_eq!(device.receive_at(0, &mut buffer), 100);
    assert_eq!(device.receive_at(100, &mut buffer), 100);
    assert_eq!(buffer[0], 100);
    assert_eq!(host.room(), 100);
}

#[test]
fn peer_that_lies_about_indices_cannot_make_an_end_fail() {
    let mut random = Random::new(11);
    for _ in 0..300 {
        let (device, host, raw) = bytes();
        for word in [0x000, 0x040, 0x080, 0x0c0] {
            raw.word(word).store(random.draw() as u32, Ordering::SeqCst);
        }
        let mut buffer = vec![0; 1 << 17];
        for end in [&device, &host] {
            assert!(end.send(&buffer[..1000]) <= 1000);
            assert!(end.receive(&mut buffer) <= BYTES_CAPACITY as usize);
            assert!(end.room() <= BYTES_CAPACITY as usize && end.waiting() <= BYTES_CAPACITY as usize);
        }
        let position = random.draw() as u32;
        assert!(device.send_at(position, &buffer[..1000]) <= 1000);
        assert!(device.receive_at(position, &mut buffer) <= BYTES_CAPACITY as usize);
    }
}

#[test]
fn stream_goes_on_whatever_word_of_it_one_that_was_taken_over_has_left_wrong() {
    // Indices to and from the device, then the device's bases.
    for word in [0x000, 0x040, 0x080, 0x0c0, 0x108, 0x10c] {
        for wrong in [0x7fff_ffff, 0x8000_0001, 0x0001_0001, 0x4000_0000, 0xffff_0000 - 1] {
            let (device, host, raw) = bytes();
            // What each end has sent and received.
            let mut at = [0u32; 4];
            let mut tell = |text: &[u8]| {
                let mut heard = [[0; 16]; 2];
                let ends = [&device, &host];
                for (side, end) in ends.into_iter().enumerate() {
                    at[side] += end.send_at(at[side], text) as u32;
                }
                let counts = [1, 0].map(|side| {
                    let count = ends[side].receive_at(at[2 + side], &mut heard[side]);
                    at[2 + side] += count as u32;
                    count
                });
                assert!(!device.has_more(at[2]) && !host.has_more(at[3]), "{word:x} {wrong:x}");
                [&heard[1][..counts[0]] == text, &heard[0][..counts[1]] == text]
            };
            assert_eq!(tell(b"before"), [true; 2]);
            let lie = raw.word(word);
            lie.store(lie.load(Ordering::SeqCst).wrapping_add(wrong), Ordering::SeqCst);
            // Something may be lost while the two ends find each other again.
            tell(b"lost");
            tell(b"found");
            assert_eq!(tell(b"after"), [true; 2], "{word:x} {wrong:x}");
        }
    }
}

#[test]
fn bytes_that_wait_outlive_a_wrong_base() {
    for base in [0x108, 0x10c] {
        let (device, host, raw) = bytes();
        assert_eq!((device.send_at(0, b"out"), host.send_at(0, b"in")), (3, 2));
        raw.word(base).store(0x4000_0000, Ordering::SeqCst);
        let mut buffer = [0; 16];
        assert_eq!((device.send_at(3, b"put"), device.receive_at(0, &mut buffer)), (3, 2));
        assert_eq!(&buffer[..2], b"in");
        assert_eq!(host.receive_at(0, &mut buffer), 6);
        assert_eq!(&buffer[..6], b"output");
    }
}

#[test]
fn news_changes_with_bytes_room_and_breaks() {
    let (device, host, _) = bytes();
    let mut last = device.news();
    let mut changed = |what: &str| {
        let now = device.news();
        assert_ne!(now, last, "{what}");
        last = now;
    };
    host.send(b"x");
    changed("a byte");
    host.send_break();
    changed("a break");
    device.send(b"y");
    host.receive(&mut [0; 4]);
    changed("room");
    assert_eq!(device.breaks(), 1);
}

#[test]
fn block_requests_run_in_order_of_their_sequence_numbers() {
    let (client, server, _) = blocks();
    for (slot, sequence) in [(3, 30), (0, 10), (5, 20)] {
        assert!(client.submit(slot, BlockOp::Read, slot as u64 * 512, 512, sequence));
    }
    assert!(!client.submit(3, BlockOp::Read, 0, 512, 40), "the slot is busy");
    for slot in [0, 5, 3] {
        let request = server.next().expect("a request");
        assert_eq!((request.slot, request.offset, request.length), (slot, slot as u64 * 512, 512));
        assert_eq!(client.poll(slot), Some(None), "submitted, not done");
        server.complete(slot, BlockStatus::Ok);
        assert_eq!(client.poll(slot), Some(Some(BlockStatus::Ok)));
        client.release(slot);
        assert_eq!(client.poll(slot), None);
    }
    assert_eq!(server.next(), None);
}

#[test]
fn a_back_end_needs_the_devices_processor_while_it_has_a_request() {
    let (client, server, _) = blocks();
    // Awake, and not known to run elsewhere.
    assert!(!client.waits_for_processor(), "it only looks for work");
    assert!(client.submit(3, BlockOp::Flush, 0, 0, 1));
    assert!(client.waits_for_processor());
    server.complete(3, BlockStatus::Ok);
    assert!(!client.waits_for_processor(), "it has told all");
}

#[test]
fn requests_that_are_submitted_meanwhile_overtake_none() {
    const REQUESTS: u64 = 100_000;
    let (client, server, _) = blocks();
    let over = std::sync::atomic::AtomicBool::new(false);
    let mut order = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..REQUESTS {
                let slot = number as usize % BLOCK_SLOTS;
                while !client.submit(slot, BlockOp::Read, number * 512, 512, number) {
                    if over.load(Ordering::SeqCst) {
                        return;
                    }
                    if client.poll(slot).is_some_and(|done| done.is_some()) {
                        client.release(slot);
                    }
                    std::thread::yield_now();
                }
            }
        });
        while order.len() < REQUESTS as usize && order.is_sorted() {
            let pending = server.pending();
            if pending.is_empty() {
                std::thread::yield_now();
            }
            for request in pending {
                server.complete(request.slot, BlockStatus::Ok);
                order.push(request.offset);
            }
        }
        over.store(true, Ordering::SeqCst);
    });
    assert!(order.is_sorted(), "after {} requests", order.len());
}

#[test]
fn request_of_a_dead_back_end_is_found_by_its_successor() {
    let [device, first, second] = mappings(BLOCK_LINK);
    let client = BlockClient::new(device, bell());
    assert!(client.submit(1, BlockOp::Write, 4096, 8, 7));
    assert!(client.write_data(1, 0, b"contents"));
    let server = BlockServer::new(first, bell());
    let request = server.next().expect("a request");
    drop(server);
    let server = BlockServer::new(second, bell());
    assert_eq!(server.next(), Some(request));
    server.with_data(request.slot, request.length, |data| assert_eq!(data, b"contents"));
    // And a request that is under way cannot be freed or changed by its owner's mistake.
    client.release(1);
    assert!(!client.submit(1, BlockOp::Read, 0, 8, 8));
}

#[test]
fn completion_that_a_dead_back_end_has_not_counted_is_news_once_its_successor_serves() {
    let (client, server, raw) = blocks();
    assert!(client.submit(1, BlockOp::Flush, 0, 0, 7));
    let before = client.news();
    // The back end's last store.
    raw.word(0x100 + 64).store(2, Ordering::SeqCst);
    server.set_ready();
    assert_eq!(client.poll(1), Some(Some(BlockStatus::Ok)));
    assert_ne!(client.news(), before);
}

#[test]
fn malformed_requests_are_completed_with_an_error() {
    let (client, server, raw) = blocks();
    assert!(!client.submit(0, BlockOp::Read, 0, BLOCK_DATA + 1, 1));
    assert!(!client.submit(BLOCK_SLOTS, BlockOp::Read, 0, 512, 1));
    for (operation, length) in [(9u32, 512u32), (1, u32::MAX)] {
        raw.word(0x104).store(operation, Ordering::SeqCst);
        raw.word(0x110).store(length, Ordering::SeqCst);
        raw.word(0x100).store(1, Ordering::SeqCst);
        assert_eq!(server.next(), None);
        assert_eq!(client.poll(0), Some(Some(BlockStatus::Error)));
        client.release(0);
    }
}

#[test]
fn slot_in_a_state_that_there_is_not_is_completed_with_an_error() {
    let (client, server, raw) = blocks();
    for state in [3, 5, u32::MAX] {
        assert!(client.submit(4, BlockOp::Read, 0, 512, 1));
        // A drive that was taken over and has died.
        raw.word(0x100 + 4 * 64).store(state, Ordering::SeqCst);
        assert_eq!(client.poll(4), Some(None));
        assert_eq!(server.next(), None);
        assert_eq!(client.poll(4), Some(Some(BlockStatus::Error)));
        client.release(4);
    }
    assert!(client.submit(4, BlockOp::Read, 0, 512, 1), "the slot is free again");
}

#[test]
fn every_status_reaches_the_device_and_unknown_ones_are_errors() {
    let (client, server, raw) = blocks();
    let statuses = [
        BlockStatus::Ok,
        BlockStatus::Error,
        BlockStatus::Range,
        BlockStatus::ReadOnly,
        BlockStatus::NoMedium,
    ];
    for status in statuses {
        let before = client.news();
        assert!(client.submit(2, BlockOp::Flush, 0, 0, 1));
        server.complete(2, status);
        assert_eq!(client.poll(2), Some(Some(status)));
        assert_ne!(client.news(), before);
        client.release(2);
    }
    raw.word(0x100).store(2, Ordering::SeqCst);
    raw.word(0x114).store(77, Ordering::SeqCst);
    assert_eq!(client.poll(0), Some(Some(BlockStatus::Error)));
}

#[test]
fn medium_is_seen_as_it_was_set() {
    let (client, server, _) = blocks();
    assert_eq!(client.medium(), Medium::default());
    let medium = Medium { bytes: 1 << 40, read_only: true, present: true, write_cache: false, generation: 3 };
    server.set_medium(medium);
    assert_eq!(client.medium(), medium);
}

#[test]
fn slot_data_moves_to_and_from_memory_within_bounds() {
    let (client, _, _) = blocks();
    let ram = GuestRam::new(Mapping::anonymous(1 << 20).expect("mapping"), None);
    assert!(ram.write(0x1000, b"from the guest"));
    assert!(client.data_from_ram(7, BLOCK_DATA - 14, &ram, 0x1000, 14));
    let mut back = [0; 14];
    assert!(client.read_data(7, BLOCK_DATA - 14, &mut back));
    assert_eq!(&back, b"from the guest");
    assert!(client.data_to_ram(7, BLOCK_DATA - 14, &ram, (1 << 20) - 14, 14));
    assert!(!client.data_to_ram(7, BLOCK_DATA - 13, &ram, 0, 14), "beyond the slot");
    assert!(!client.data_to_ram(7, 0, &ram, (1 << 20) - 13, 14), "beyond memory");
    assert!(!client.data_from_ram(7, usize::MAX, &ram, 0, 14));
    assert!(!client.data_from_ram(7, 0, &ram, u64::MAX, 14));
}
