//! Bus-master transfers of disks: the status combinations of the 82371SB and where the bytes go.

use super::*;
use crate::spec::error;

const READY: u8 = status::DRDY | status::DSC;
const ASKS: u8 = READY | status::DRQ;
/// Where descriptor tables lie.
const TABLE: u32 = 0x8000;
const START_IN: u8 = bm::START | bm::TO_MEMORY;

/// Reads `count` sectors from `sector` of the primary master into 1 MiB by one command.
fn read_dma(pc: &mut Pc, sector: u32, count: u8, entries: &[(u32, u32)]) {
    pc.table(TABLE, entries);
    pc.bm_command(0, 0);
    pc.point(0, TABLE);
    pc.lba28(0, false, command::READ_DMA, sector, count);
    pc.bm_command(0, START_IN);
    pc.settle();
}

#[test]
fn read_fills_scattered_memory_and_uses_up_the_table() {
    let mut pc = Pc::new();
    read_dma(&mut pc, 9, 4, &[(0x10_0000, 512), (0x20_0002, 1022), (0x30_0000, 514)]);
    assert!(pc.irq(0));
    assert_eq!(pc.bm_status(0), bm::INTERRUPT);
    assert_eq!(pc.get(0, reg::STATUS), READY);
    let want = &pc.images[0][9 * 512..13 * 512];
    assert_eq!(pc.ram(0x10_0000, 512), want[..512]);
    assert_eq!(pc.ram(0x20_0002, 1022), want[512..1534]);
    assert_eq!(pc.ram(0x30_0000, 514), want[1534..]);
    pc.bm_command(0, 0);
    pc.point(0, TABLE);
    assert_eq!(pc.bm_status(0), 0, "the interrupt bit is cleared by writing it");
}

#[test]
fn bus_master_started_before_the_command_works_as_well() {
    let mut pc = Pc::new();
    pc.table(TABLE, &[(0x10_0000, 1024)]);
    pc.point(0, TABLE);
    pc.bm_command(0, START_IN);
    pc.lba28(0, false, command::READ_DMA, 1, 2);
    pc.settle();
    assert_eq!(pc.bm_status(0), bm::INTERRUPT);
    assert_eq!(pc.ram(0x10_0000, 1024), pc.images[0][512..1536]);
}

#[test]
fn data_waits_for_the_bus_master() {
    let mut pc = Pc::new();
    pc.table(TABLE, &[(0x10_0000, 512)]);
    pc.point(0, TABLE);
    pc.lba28(0, false, command::READ_DMA, 1, 1);
    pc.settle();
    assert_eq!(pc.alt(0), ASKS);
    assert!(!pc.irq(0));
    pc.bm_command(0, START_IN);
    assert!(pc.irq(0), "the data was there already");
    assert_eq!(pc.ram(0x10_0000, 512), pc.images[0][512..1024]);
}

#[test]
fn count_of_zero_in_a_descriptor_is_64_kib_and_may_cross_a_64_kib_boundary() {
    let mut pc = Pc::new();
    read_dma(&mut pc, 0, 128, &[(0x10_8000, 0)]);
    assert_eq!(pc.bm_status(0), bm::INTERRUPT);
    assert!(pc.ram(0x10_8000, 0x1_0000) == pc.images[0][..0x1_0000]);
}

#[test]
fn bit_0_of_address_and_count_is_not_wired() {
    let mut pc = Pc::new();
    read_dma(&mut pc, 2, 1, &[(0x10_0001, 257), (0x20_0001, 257)]);
    assert_eq!(pc.bm_status(0), bm::INTERRUPT);
    assert_eq!(pc.ram(0x10_0000, 256), pc.images[0][1024..1280]);
    assert_eq!(pc.ram(0x20_0000, 256), pc.images[0][1280..1536]);
}

#[test]
fn table_larger_than_the_transfer_leaves_the_engine_active_with_an_interrupt() {
    let mut pc = Pc::new();
    read_dma(&mut pc, 0, 1, &[(0x10_0000, 4096)]);
    assert_eq!(pc.bm_status(0), bm::INTERRUPT | bm::ACTIVE);
    assert_eq!(pc.get(0, reg::STATUS), READY);
    pc.bm_command(0, 0);
    assert_eq!(pc.bm_status(0), bm::INTERRUPT);
}

#[test]
fn short_table_stops_the_engine_without_interrupt_and_a_second_table_finishes() {
    let mut pc = Pc::new();
    read_dma(&mut pc, 4, 2, &[(0x10_0000, 600)]);
    assert_eq!(pc.bm_status(0), 0, "neither active nor interrupt");
    assert!(!pc.irq(0));
    assert_eq!(pc.alt(0), ASKS);
    pc.restart();
    pc.bm_command(0, 0);
    pc.table(TABLE, &[(0x20_0000, 424)]);
    pc.point(0, TABLE);
    pc.bm_command(0, START_IN);
    assert_eq!(pc.bm_status(0), bm::INTERRUPT);
    assert_eq!(pc.ram(0x10_0000, 600), pc.images[0][2048..2648]);
    assert_eq!(pc.ram(0x20_0000, 424), pc.images[0][2648..3072]);
}

#[test]
fn drive_left_waiting_by_a_short_table_comes_back_by_software_reset() {
    let mut pc = Pc::new();
    read_dma(&mut pc, 4, 2, &[(0x10_0000, 512)]);
    pc.bench.write(1, 0, 1, crate::spec::control::SRST.into());
    pc.bench.write(1, 0, 1, 0);
    assert_eq!(pc.get(0, reg::STATUS), READY);
    read_dma(&mut pc, 5, 1, &[(0x20_0000, 512)]);
    assert_eq!(pc.ram(0x20_0000, 512), pc.images[0][5 * 512..6 * 512]);
}

#[test]
fn memory_that_is_not_ram_sets_the_error_bit_without_interrupt() {
    for entries in [&[(0xfee0_0000, 512)][..], &[(0x10_0000, 256), (0x00ff_ff80, 256)], &[(0xffff_fffe, 512)]]
    {
        let mut pc = Pc::new();
        read_dma(&mut pc, 0, 1, entries);
        assert_eq!(pc.bm_status(0), bm::ERROR);
        assert!(!pc.irq(0));
    }
    let mut pc = Pc::new();
    pc.point(0, 0xffff_fff8);
    pc.lba28(0, false, command::READ_DMA, 0, 1);
    pc.bm_command(0, START_IN);
    pc.settle();
    assert_eq!(pc.bm_status(0), bm::ERROR, "the table itself is outside RAM");
}

#[test]
fn video_memory_and_what_lies_behind_it_are_closed_to_the_bus_master() {
    for entry in [(0xa_0000, 512), (0xb_fe00, 512), (0x9_ff00, 512), (0xb_ff00, 512)] {
        for (code, go) in [(command::READ_DMA, START_IN), (command::WRITE_DMA, bm::START)] {
            let mut pc = Pc::new();
            let before = pc.images.clone();
            pc.table(TABLE, &[entry]);
            pc.point(0, TABLE);
            pc.lba28(0, false, code, 0, 1);
            pc.bm_command(0, go);
            pc.settle();
            assert_eq!(pc.bm_status(0), bm::ERROR, "{entry:x?}");
            assert_eq!(pc.images, before);
            assert_eq!(pc.ram(0xa_0000, 0x2_0000), [0; 0x2_0000]);
        }
    }
    // Nor is a table read there. Below lies RAM, and above it the ROM's shadow.
    let mut pc = Pc::new();
    pc.table(0xa_0000, &[(0x10_0000, 512)]);
    pc.point(0, 0xa_0000);
    pc.lba28(0, false, command::READ_DMA, 0, 1);
    pc.bm_command(0, START_IN);
    pc.settle();
    assert_eq!(pc.bm_status(0), bm::ERROR);
    let mut pc = Pc::new();
    read_dma(&mut pc, 0, 129, &[(0x9_0000, 0), (0xc_0000, 512)]);
    assert_eq!(pc.bm_status(0), bm::INTERRUPT);
}

#[test]
fn direction_against_the_command_moves_nothing() {
    let mut pc = Pc::new();
    let before = pc.images.clone();
    pc.table(TABLE, &[(0x10_0000, 512)]);
    assert!(pc.bench.ram.write(0x10_0000, &[0x77; 512]));
    pc.point(0, TABLE);
    pc.lba28(0, false, command::WRITE_DMA, 0, 1);
    pc.bm_command(0, START_IN);
    pc.settle();
    assert_eq!(pc.bm_status(0), bm::ACTIVE);
    assert_eq!(pc.ram(0x10_0000, 512), [0x77; 512]);
    assert_eq!(pc.images, before);
    pc.bm_command(0, 0);
    pc.bm_command(0, bm::START);
    pc.settle();
    assert_eq!(pc.bm_status(0), bm::INTERRUPT);
    assert_eq!(pc.images[0][..512], [0x77; 512]);
}

#[test]
fn write_takes_scattered_memory() {
    let mut pc = Pc::new();
    let data = pattern(2048, 0x42);
    assert!(pc.bench.ram.write(0x10_0000, &data[..1000]) && pc.bench.ram.write(0x20_0000, &data[1000..]));
    pc.table(TABLE, &[(0x10_0000, 1000), (0x20_0000, 1048)]);
    pc.point(0, TABLE);
    pc.lba28(0, true, command::WRITE_DMA, 50, 4);
    pc.bm_command(0, bm::START);
    assert!(!pc.irq(0), "not before the back end has it");
    pc.settle();
    assert_eq!(pc.bm_status(0), bm::INTERRUPT);
    assert_eq!(pc.get(0, reg::STATUS), READY);
    assert_eq!(pc.images[1][50 * 512..54 * 512], data[..]);
    assert_eq!(pc.flushes, [0, 0, 0]);
}

#[test]
fn long_commands_keep_several_requests_in_flight_and_move_every_byte_once() {
    // 3000 sectors: twelve requests of 128 KiB, the last one short.
    let len = 3000 * 512;
    let entries: Vec<(u32, u32)> = (0..len)
        .step_by(0x1_0000)
        .map(|at| (0x20_0000 + at as u32, (len - at).min(0x1_0000) as u32))
        .collect();
    let mut pc = Pc::new();
    pc.table(TABLE, &entries);
    pc.point(0, TABLE);
    pc.lba48(command::READ_DMA_EXT, 1000, 3000);
    pc.bm_command(0, START_IN);
    assert!(pc.serve_one(0) && pc.serve_one(0) && pc.serve_one(0), "three requests without an answer");
    assert!(!pc.serve_one(0));
    pc.bench.event();
    pc.settle();
    assert_eq!(pc.bm_status(0), bm::INTERRUPT);
    assert!(pc.ram(0x20_0000, len) == pc.images[0][1000 * 512..4000 * 512]);
    // And back to another place.
    pc.bm_command(0, 0);
    pc.point(0, TABLE);
    pc.lba48(command::WRITE_DMA_EXT, 0, 3000);
    pc.bm_command(0, bm::START);
    pc.settle();
    assert_eq!(pc.bm_status(0), bm::INTERRUPT);
    assert!(pc.ram(0x20_0000, len) == pc.images[0][..len]);
}

#[test]
fn forced_unit_access_and_a_disabled_cache_flush_before_the_end() {
    let mut pc = Pc::new();
    pc.table(TABLE, &[(0x10_0000, 512)]);
    let write = |pc: &mut Pc, code| {
        pc.bm_command(0, 0);
        pc.point(0, TABLE);
        pc.lba48(code, 0, 1);
        pc.bm_command(0, bm::START);
        assert!(pc.serve_one(0));
        pc.bench.event();
        let early = pc.irq(0);
        pc.settle();
        assert_eq!(pc.get(0, reg::STATUS), READY);
        early
    };
    assert!(write(&mut pc, command::WRITE_DMA_EXT), "cached: done at once");
    assert_eq!(pc.flushes[0], 0);
    assert!(!write(&mut pc, command::WRITE_DMA_FUA_EXT));
    assert_eq!(pc.flushes[0], 1);
    assert_eq!(pc.features(0x82, 0), READY);
    assert_eq!(pc.flushes[0], 2, "turning the cache off empties it");
    assert!(!write(&mut pc, command::WRITE_DMA_EXT));
    assert_eq!(pc.flushes[0], 3);
}

#[test]
fn back_end_errors_end_the_command_with_the_engine_active() {
    let mut pc = Pc::new();
    pc.outcomes = vec![BlockStatus::Error];
    read_dma(&mut pc, 0, 1, &[(0x10_0000, 512)]);
    assert_eq!(pc.bm_status(0), bm::INTERRUPT | bm::ACTIVE);
    assert_eq!(pc.get(0, reg::STATUS), READY | status::ERR);
    assert_eq!(pc.get(0, reg::ERROR), error::UNC);
    read_dma(&mut pc, 0, 1, &[(0x10_0000, 512)]);
    assert_eq!(pc.get(0, reg::STATUS), READY);
}

#[test]
fn media_error_leaves_the_address_of_the_piece_that_failed() {
    for (code, go) in [(command::READ_DMA_EXT, START_IN), (command::WRITE_DMA_EXT, bm::START)] {
        let mut pc = Pc::new();
        pc.outcomes = vec![BlockStatus::Ok, BlockStatus::Error];
        pc.table(TABLE, &[(0x10_0000, 0), (0x11_0000, 0), (0x12_0000, 0)]);
        pc.point(0, TABLE);
        pc.lba48(code, 0x1ff, 384);
        pc.bm_command(0, go);
        pc.settle();
        assert_eq!(pc.get(0, reg::STATUS), READY | status::ERR);
        let got = [reg::LBA_LOW, reg::LBA_MID, reg::LBA_HIGH].map(|register| pc.get(0, register));
        assert_eq!(got, [0xff, 2, 0], "{code:#x}: 256 sectors on");
    }
    for select in [device::LBA, 0] {
        let mut pc = Pc::new();
        pc.outcomes = vec![BlockStatus::Error];
        for (register, value) in
            [(reg::DEVICE, select), (reg::COUNT, 0), (reg::LBA_LOW, 3), (reg::LBA_MID, 1)]
        {
            pc.set(0, register, value);
        }
        pc.set(0, reg::STATUS, command::READ_DMA);
        pc.settle();
        assert_eq!(pc.get(0, reg::STATUS), READY | status::ERR);
        let got = [reg::LBA_LOW, reg::LBA_MID, reg::LBA_HIGH].map(|register| pc.get(0, register));
        assert_eq!(got, [3, 1, 0], "as it was given");
    }
}

#[test]
fn registers_read_back_in_every_size() {
    let mut pc = Pc::new();
    pc.bench.write(4, 4, 4, 0x1234_5677);
    assert_eq!(pc.bench.read(4, 4, 4), 0x1234_5674, "dword aligned");
    assert_eq!(pc.bench.read(4, 6, 2), 0x1234);
    pc.bench.write(4, 5, 1, 0xab);
    assert_eq!(pc.bench.read(4, 4, 4), 0x1234_ab74);
    pc.bench.write(4, 2, 1, 0xff);
    assert_eq!(pc.bench.read(4, 0, 4), 0x0060_0000, "only the capable bits stay");
    pc.bench.write(4, 8, 1, 0xff);
    assert_eq!(pc.bench.read(4, 8, 1), 0x09);
    assert_eq!(pc.bench.read(4, 10, 1), u64::from(bm::ACTIVE));
    pc.bench.write(4, 8, 1, 0);
    assert_eq!(pc.bench.read(4, 10, 1), 0);
    assert_eq!(pc.bench.read(4, 6, 4), 0xffff_ffff, "nothing decodes an access beyond the channel's half");
}
