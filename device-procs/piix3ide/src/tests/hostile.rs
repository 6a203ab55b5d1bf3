//! Guests that attack: one test for each published hole of this kind of device, and storms.

use super::*;
use crate::spec::{control, error, packet};
use bulkhead_bus::chip::Chip;
use bulkhead_bus::conformance::Random;
use bulkhead_bus::links::{BLOCK_DATA, BLOCK_SLOTS};

const READY: u8 = status::DRDY | status::DSC;
const TABLE: u32 = 0x8000;

/// 2015-5154: the buffer of an ATAPI command read and written far past its end, in every width.
#[test]
fn cve_2015_5154_draining_a_packet_reply_oddly_stays_in_the_buffer() {
    for size in [1u8, 2, 4] {
        let mut pc = Pc::new();
        pc.packet(0, 0xfffe, &[packet::INQUIRY, 0, 0, 0, 35]);
        let mut got: Vec<u8> = Vec::new();
        for _ in 0..10_000 {
            got.extend(&pc.bench.read(2, reg::DATA, size).to_le_bytes()[..usize::from(size)]);
            pc.bench.write(2, reg::DATA, size, u64::MAX);
        }
        assert_eq!(got[..2], [0x05, 0x80]);
        assert!(got[35..].iter().all(|byte| *byte == 0), "nothing but the reply comes out");
        assert_eq!(pc.alt(1), READY);
    }
}

/// 2015-5154, the other way: a write command's buffer overfilled.
#[test]
fn cve_2015_5154_overfilling_a_write_reaches_no_further_sector() {
    let mut pc = Pc::new();
    pc.lba28(0, false, command::WRITE_SECTORS, 0, 1);
    pc.block_out(0, &[0x66; 16_384]);
    pc.settle();
    pc.block_out(0, &[0x66; 16_384]);
    pc.settle();
    assert_eq!(pc.images[0][..512], [0x66; 512]);
    assert!(pc.images[0][512..] == pattern(SECTORS * 512, 0)[512..]);
}

/// 2015-6855: READ NATIVE MAX ADDRESS on an empty ATAPI drive divided by zero.
#[test]
fn cve_2015_6855_native_max_of_an_empty_drive_is_aborted() {
    let mut pc = Pc::new();
    pc.bench.servers[2].set_medium(Medium { generation: 9, ..Medium::default() });
    pc.bench.event();
    for code in [command::READ_NATIVE_MAX, command::READ_NATIVE_MAX_EXT] {
        pc.set(1, reg::STATUS, code);
        assert_eq!(pc.get(1, reg::STATUS), READY | status::ERR);
        assert_eq!(pc.get(1, reg::ERROR), error::ABRT);
    }
    // A disk of no sectors has every geometry command answered too.
    pc.bench.servers[0].set_medium(Medium { present: true, generation: 9, ..Medium::default() });
    for code in 0..=255 {
        pc.lba28(0, false, code, 0, 0);
        pc.settle();
        pc.bench.write(1, 0, 1, control::SRST.into());
        pc.bench.write(1, 0, 1, 0);
    }
}

/// 2020-29443: READ CD and READ(10), (12) whose LBA is negative or whose end wraps.
#[test]
fn cve_2020_29443_negative_and_wrapping_addresses_are_out_of_range() {
    let mut pc = Pc::new();
    for at in [0xffff_ffffu32, 0x8000_0000, 0xffff_fff0, 300, 299] {
        let [a, b, c, d] = at.to_be_bytes();
        for command in [
            [packet::READ_CD, 0, a, b, c, d, 0, 0, 2, 0x10, 0, 0],
            [packet::READ_CD, 0, a, b, c, d, 0xff, 0xff, 0xff, 0x10, 0, 0],
            [packet::READ_10, 0, a, b, c, d, 0, 0, 2, 0, 0, 0],
            [packet::READ_12, 0, a, b, c, d, 0xff, 0xff, 0xff, 0xff, 0, 0],
            [packet::SEEK_10, 0, a, b, c, d.saturating_add(1), 0, 0, 0, 0, 0, 0],
        ] {
            pc.packet(0, 2048, &command);
            assert_eq!(pc.get(1, reg::STATUS), READY | status::ERR, "{command:x?}");
            assert_eq!(pc.get(1, reg::ERROR) >> 4, 5);
        }
    }
    assert!(!pc.serve_one(2), "the back end never heard of it");
}

/// 2014-9718: a descriptor table that never completes a sector, and one that loops on itself by wrapping.
#[test]
fn cve_2014_9718_table_of_tiny_pieces_is_walked_in_bounded_time() {
    let mut pc = Pc::new();
    // Two bytes an entry and no end: what follows the table in memory is zeros, that is 64 KiB at address 0.
    let entries = vec![(0x10_0000, 2); 4096];
    pc.table(TABLE, &entries);
    pc.table(TABLE + 4095 * 8, &[(0x10_0000, 2), (0x10_0000, 2)]);
    pc.point(0, TABLE);
    pc.lba28(0, false, command::READ_DMA, 0, 0);
    pc.bm_command(0, bm::START | bm::TO_MEMORY);
    pc.settle();
    assert_eq!(pc.bm_status(0), 0, "the table ended in mid-sector");
    assert!(!pc.irq(0));
    // All of memory is one table of empty entries: each is 64 KiB, so the transfer ends.
    let mut pc = Pc::new();
    pc.point(0, 0x40_0000);
    pc.lba28(0, false, command::READ_DMA, 0, 0);
    pc.bm_command(0, bm::START | bm::TO_MEMORY);
    pc.settle();
    assert_eq!(pc.bm_status(0), bm::ACTIVE | bm::INTERRUPT);
    // A transfer that overwrites its own table on the way.
    let mut pc = Pc::new();
    pc.table(TABLE, &[(TABLE, 512), (TABLE, 512), (TABLE, 512)]);
    pc.point(0, TABLE);
    pc.lba28(0, false, command::READ_DMA, 0, 0);
    pc.bm_command(0, bm::START | bm::TO_MEMORY);
    pc.settle();
}

/// 2008-0928: sectors past the end of the image, by every command and address form.
#[test]
fn cve_2008_0928_no_request_beyond_the_image_is_ever_made() {
    let mut pc = Pc::new();
    let mut random = Random::new(3);
    for _ in 0..3000 {
        let sector = match random.below(3) {
            0 => SECTORS as u64 - random.below(4),
            1 => random.draw() & 0xffff_ffff_ffff,
            _ => u64::MAX >> 16,
        };
        let codes = [
            command::READ_SECTORS_EXT,
            command::WRITE_SECTORS_EXT,
            command::READ_DMA_EXT,
            command::WRITE_DMA_EXT,
            command::READ_MULTIPLE_EXT,
            command::READ_SECTORS,
            command::WRITE_DMA,
        ];
        pc.lba48(codes[random.below(codes.len() as u64) as usize], sector, random.draw() as u16);
        while let Some(request) = pc.bench.servers[0].next() {
            assert!(request.offset + request.length as u64 <= (SECTORS * 512) as u64);
            pc.serve_one(0);
        }
        pc.bench.event();
        pc.bench.write(1, 0, 1, control::SRST.into());
        pc.bench.write(1, 0, 1, 0);
    }
}

/// A back end that was taken over answers with nonsense: statuses, numbers and states in slots that nobody asked for.
#[test]
fn back_end_that_completes_everything_at_random_does_no_harm() {
    let mut pc = Pc::new();
    let mut random = Random::new(11);
    pc.table(TABLE, &[(0x10_0000, 0), (0x10_0000, 0)]);
    for _ in 0..5000 {
        match random.below(6) {
            0 => pc.lba28(
                0,
                false,
                random.draw() as u8,
                random.below(SECTORS as u64) as u32,
                random.draw() as u8,
            ),
            1 => pc.bm_command(0, random.draw() as u8),
            2 => {
                pc.block_in(0, 512);
            }
            3 => pc.block_out(0, &[0; 512]),
            4 => {
                let slot = random.below(BLOCK_SLOTS as u64) as usize;
                pc.bench.servers[0].complete(slot, BlockStatus::Ok);
                pc.bench.event();
            }
            _ => {
                let bytes = random.draw();
                let medium = Medium { bytes, present: true, generation: bytes as u32, ..Medium::default() };
                pc.bench.servers[0].set_medium(medium);
                pc.bench.event();
            }
        }
        pc.restart();
        for drive in pc.bench.chip.save().channels.iter().flat_map(|channel| channel.drives) {
            assert!(drive.filled as usize <= BLOCK_DATA && drive.moved as usize <= BLOCK_DATA);
        }
    }
}

/// Valid-looking commands in a storm, with the twin of the conformance suite: registers only, but every one at random depth.
#[test]
fn storm_of_commands_never_panics_and_reset_always_helps() {
    for seed in 0..6 {
        let mut pc = Pc::new();
        let mut random = Random::new(seed);
        for _ in 0..3000 {
            let channel = random.below(2) as u8;
            match random.below(9) {
                0 => pc.set(channel, reg::STATUS, random.draw() as u8),
                1 => pc.set(channel, 1 + random.below(6), random.draw() as u8),
                2 => {
                    let code = [0x20, 0x30, 0xc4, 0xc5, 0xc8, 0xca, 0xe7, 0xec, 0xa0, 0xa1]
                        [random.below(10) as usize];
                    let sector = random.below(SECTORS as u64 + 9) as u32;
                    pc.lba28(channel, random.below(2) == 0, code, sector, random.draw() as u8);
                }
                3 => {
                    let mut packet = random.draw().to_le_bytes().to_vec();
                    packet.extend(random.draw().to_le_bytes());
                    packet[0] = [0, 3, 0x12, 0x1a, 0x1b, 0x25, 0x28, 0x43, 0x46, 0x4a, 0x5a, 0xa8, 0xbe]
                        [random.below(13) as usize];
                    packet[2..5].fill(0);
                    pc.block_out(channel, &packet[..12]);
                }
                4 => {
                    pc.block_in(channel, random.below(9000) as usize & !1);
                }
                5 => pc.block_out(channel, &vec![1; random.below(9000) as usize & !1]),
                6 => {
                    pc.point(channel, (random.below(0x1000) * 4) as u32);
                    pc.bm_command(channel, random.draw() as u8);
                }
                7 => pc.settle(),
                _ => {
                    pc.serve_one(random.below(3) as usize);
                    pc.bench.event();
                }
            }
            if random.below(16) == 0 {
                pc.restart();
            }
        }
        pc.bench.with(|chip, env| chip.reset(env));
        pc.settle();
        pc.lba28(0, false, command::READ_SECTORS, 1, 1);
        pc.settle();
        assert_eq!(pc.block_in(0, 512), pc.images[0][512..1024]);
    }
}

/// A state file that somebody wrote by hand (or a predecessor that was taken over left): refused, or harmless whatever follows.
#[test]
fn damaged_states_are_refused_or_harmless() {
    let mut random = Random::new(77);
    let mut taken = 0;
    let mut pc = Pc::new();
    for _ in 0..1500 {
        while let Some(request) = pc.bench.servers[0].next() {
            pc.bench.servers[0].complete(request.slot, BlockStatus::Ok);
        }
        pc.bench.chip = Piix3Ide::new(pc.config.clone());
        pc.bench.with(Piix3Ide::reset);
        pc.table(TABLE, &[(0x10_0000, 0x4000), (0x20_0000, 0)]);
        pc.point(0, TABLE);
        let code = [0x20, 0x30, 0xc8, 0xca, 0xe7, 0xec][random.below(6) as usize];
        pc.lba28(0, false, code, 7, 200);
        let mut state = pc.bench.chip.save();
        // The fields that steer: phase, counters, buffer indices, bus master.
        let channel = &mut state.channels[0];
        let drive = &mut channel.drives[0];
        for _ in 0..1 + random.below(3) {
            let wild = match random.below(4) {
                0 => random.below(16),
                1 => u64::MAX - random.below(4),
                2 => 1 << random.below(64),
                _ => random.draw(),
            };
            match random.below(16) {
                0 | 1 => drive.phase = random.below(10) as u8,
                2 => drive.offset = wild,
                3 => drive.left = wild,
                4 => drive.head = wild,
                5 => drive.next = drive.head.wrapping_add(random.below(5)),
                6 => drive.filled = wild as u32,
                7 => drive.moved = wild as u32 % 0x2_0001,
                8 => drive.block_end = drive.filled.min(wild as u32),
                9 => drive.limit = wild as u16,
                10 => drive.reply = random.below(2) as u8,
                11 => drive.dma = random.below(2) as u8,
                12 => drive.status = wild as u8,
                13 => (channel.room, channel.last) = (wild as u32, wild as u8),
                14 => (channel.bm_command, channel.bm_status) = (wild as u8, wild as u8),
                _ => channel.next = wild as u32,
            }
        }
        let mut successor = Piix3Ide::new(pc.config.clone());
        if successor.restore(&state).is_err() {
            continue;
        }
        taken += 1;
        pc.bench.chip = successor;
        for _ in 0..30 {
            match random.below(6) {
                0 => drop(pc.block_in(0, 600)),
                1 => pc.block_out(0, &[3; 600]),
                2 => pc.bm_command(0, random.below(16) as u8),
                3 => {
                    if let Some(request) = pc.bench.servers[0].next() {
                        pc.bench.servers[0].complete(request.slot, BlockStatus::Ok);
                    }
                }
                4 => pc.set(0, reg::STATUS, random.draw() as u8),
                _ => pc.bench.event(),
            }
            pc.restart();
        }
    }
    assert!(taken > 300, "only {taken} were taken up");
}
