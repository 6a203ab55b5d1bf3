//! PIO data phases of disks.

use super::*;
use crate::spec::control;

const READY: u8 = status::DRDY | status::DSC;

#[test]
fn read_sectors_announces_every_sector_and_ends_silently() {
    let mut pc = Pc::new();
    pc.lba28(0, false, command::READ_SECTORS, 7, 3);
    assert_eq!(pc.alt(0) & status::BSY, status::BSY);
    assert!(!pc.irq(0));
    pc.settle();
    let mut got = Vec::new();
    for _ in 0..3 {
        assert!(pc.irq(0), "a block is announced");
        assert_eq!(pc.get(0, reg::STATUS), READY | status::DRQ);
        assert!(!pc.irq(0), "reading the status clears the interrupt");
        got.extend(pc.words_in(0, 512));
    }
    assert_eq!(pc.alt(0), READY);
    assert!(!pc.irq(0));
    assert_eq!(got, pc.images[0][7 * 512..10 * 512]);
}

#[test]
fn count_of_zero_is_256_sectors() {
    let mut pc = Pc::new();
    pc.lba28(0, false, command::READ_SECTORS, 0, 0);
    pc.settle();
    let got: Vec<u8> = (0..256).flat_map(|_| pc.block_in(0, 512)).collect();
    assert_eq!(got, pc.images[0][..256 * 512]);
    assert_eq!(pc.get(0, reg::STATUS), READY);
}

#[test]
fn long_ext_read_crosses_requests() {
    let mut pc = Pc::new();
    pc.lba48(command::READ_SECTORS_EXT, 3, 1000);
    let mut got = Vec::new();
    for _ in 0..1000 {
        pc.settle();
        assert_eq!(pc.get(0, reg::STATUS), READY | status::DRQ);
        got.extend(pc.block_in(0, 512));
    }
    assert!(got == pc.images[0][3 * 512..1003 * 512]);
    assert_eq!(pc.get(0, reg::STATUS), READY);
}

#[test]
fn read_multiple_moves_blocks_of_the_set_size_with_a_short_last_one() {
    let mut pc = Pc::new();
    pc.set(0, reg::DEVICE, device::OBSOLETE);
    pc.set(0, reg::COUNT, 8);
    assert_eq!(pc.simple(command::SET_MULTIPLE), READY);
    pc.lba28(0, false, command::READ_MULTIPLE, 100, 19);
    pc.settle();
    let mut got = Vec::new();
    for sectors in [8, 8, 3] {
        assert!(pc.irq(0));
        assert_eq!(pc.get(0, reg::STATUS), READY | status::DRQ);
        got.extend(pc.block_in(0, sectors * 512));
    }
    assert_eq!(pc.get(0, reg::STATUS), READY);
    assert_eq!(got, pc.images[0][100 * 512..119 * 512]);
}

#[test]
fn read_multiple_is_refused_while_off() {
    let mut pc = Pc::new();
    pc.set(0, reg::COUNT, 0);
    assert_eq!(pc.simple(command::SET_MULTIPLE), READY);
    pc.lba28(0, false, command::READ_MULTIPLE, 0, 1);
    assert_eq!(pc.get(0, reg::STATUS), READY | status::ERR);
    assert_eq!(pc.get(0, reg::ERROR), crate::spec::error::ABRT);
}

#[test]
fn write_sectors_asks_silently_then_announces_each_further_sector_and_the_end() {
    let mut pc = Pc::new();
    let data = pattern(3 * 512, 0x99);
    pc.lba28(0, true, command::WRITE_SECTORS, 20, 3);
    for (index, sector) in data.chunks(512).enumerate() {
        assert_eq!(pc.irq(0), index > 0, "only the first block is not announced");
        assert_eq!(pc.get(0, reg::STATUS), READY | status::DRQ);
        pc.block_out(0, sector);
    }
    assert_eq!(pc.alt(0) & status::BSY, status::BSY);
    pc.settle();
    assert!(pc.irq(0));
    assert_eq!(pc.get(0, reg::STATUS), READY);
    assert_eq!(pc.images[1][20 * 512..23 * 512], data[..]);
    assert_eq!(pc.images[0], pattern(SECTORS * 512, 0), "the other drive is untouched");
}

#[test]
fn write_multiple_ext_of_several_requests_reaches_the_image() {
    let mut pc = Pc::new();
    let data = pattern(600 * 512, 0x13);
    pc.lba48(command::WRITE_MULTIPLE_EXT, 1000, 600);
    for block in data.chunks(16 * 512) {
        assert_eq!(pc.get(0, reg::STATUS), READY | status::DRQ);
        pc.block_out(0, block);
        pc.settle();
    }
    assert_eq!(pc.get(0, reg::STATUS), READY);
    assert!(pc.images[0][1000 * 512..1600 * 512] == data[..]);
}

#[test]
fn data_port_accesses_of_every_size_move_the_same_bytes() {
    let mut pc = Pc::new();
    pc.lba28(0, false, command::READ_SECTORS, 1, 1);
    pc.settle();
    let mut got: Vec<u8> = Vec::new();
    for size in [4usize, 2, 1, 1].into_iter().cycle() {
        if got.len() == 512 {
            break;
        }
        got.extend(&pc.bench.read(0, reg::DATA, size as u8).to_le_bytes()[..size]);
    }
    assert_eq!(got, pc.images[0][512..1024]);
    // A wide read across the end gives what is left, then zeros.
    pc.lba28(0, false, command::READ_SECTORS, 1, 1);
    pc.settle();
    pc.block_in(0, 510);
    let tail = pc.bench.read(0, reg::DATA, 4).to_le_bytes();
    assert_eq!(tail[..2], pc.images[0][1022..1024]);
    assert_eq!(tail[2..4], [0, 0]);
    assert_eq!(pc.alt(0), READY);
    assert_eq!(pc.bench.read(0, reg::DATA, 8), u64::MAX, "no such access");
}

#[test]
fn wide_accesses_behind_the_data_port_reach_the_8_bit_registers_one_by_one() {
    let mut pc = Pc::new();
    // As some kernels do: count with LBA low, LBA mid with high, device with command.
    pc.bench.write(0, reg::COUNT, 2, 0x0701);
    pc.bench.write(0, reg::LBA_MID, 2, 0);
    assert_eq!(pc.bench.read(0, reg::COUNT, 4), 0x0000_0701);
    pc.bench.write(0, reg::DEVICE, 2, u64::from(command::READ_SECTORS) << 8 | u64::from(device::LBA));
    pc.settle();
    assert!(pc.irq(0));
    let top = u64::from(READY | status::DRQ) << 8 | u64::from(device::OBSOLETE | device::LBA);
    assert_eq!(pc.bench.read(0, reg::DEVICE, 2), top);
    assert!(!pc.irq(0), "the status was read");
    assert_eq!(pc.block_in(0, 512), pc.images[0][7 * 512..8 * 512]);
    assert_eq!(pc.bench.read(0, reg::STATUS, 2), 0xff00 | u64::from(READY), "nothing answers behind it");
}

#[test]
fn chs_address_follows_the_translation_in_force() {
    let mut pc = Pc::new();
    pc.set(0, reg::DEVICE, device::OBSOLETE | 7);
    pc.set(0, reg::COUNT, 32);
    assert_eq!(pc.simple(command::INITIALIZE_PARAMETERS), READY);
    // Cylinder 3, head 5 of 8, sector 9 of 32.
    pc.set(0, reg::DEVICE, device::OBSOLETE | 5);
    for (register, value) in [(reg::COUNT, 1), (reg::LBA_LOW, 9), (reg::LBA_MID, 3), (reg::LBA_HIGH, 0)] {
        pc.set(0, register, value);
    }
    pc.set(0, reg::STATUS, command::READ_SECTORS);
    pc.settle();
    let sector = (3 * 8 + 5) * 32 + 8;
    assert_eq!(pc.block_in(0, 512), pc.images[0][sector * 512..(sector + 1) * 512]);
    // Sector 0, a sector past the track and a head past the cylinder do not exist.
    for (sector, head) in [(0, 0), (33, 0), (1, 8)] {
        pc.set(0, reg::DEVICE, device::OBSOLETE | head);
        pc.set(0, reg::LBA_LOW, sector);
        pc.set(0, reg::STATUS, command::READ_SECTORS);
        assert_eq!(pc.get(0, reg::STATUS), READY | status::ERR);
        assert_eq!(pc.get(0, reg::ERROR), crate::spec::error::IDNF);
    }
}

#[test]
fn nien_holds_the_line_back_until_it_is_cleared() {
    let mut pc = Pc::new();
    pc.bench.write(1, 0, 1, control::NIEN.into());
    pc.lba28(0, false, command::READ_SECTORS, 0, 1);
    pc.settle();
    assert!(!pc.irq(0));
    pc.bench.write(1, 0, 1, 0);
    assert!(pc.irq(0));
    assert_eq!(pc.bm_status(0), bm::INTERRUPT, "the bus master latches the edge");
}

#[test]
fn reset_that_also_lets_interrupts_through_leaves_no_edge_behind() {
    let mut pc = Pc::new();
    pc.bench.write(1, 0, 1, control::NIEN.into());
    pc.lba28(0, false, command::READ_SECTORS, 0, 1);
    pc.settle();
    pc.bench.write(1, 0, 1, control::SRST.into());
    assert_eq!((pc.irq(0), pc.bm_status(0)), (false, 0));
}

#[test]
fn only_the_selected_drive_reaches_the_line() {
    let mut pc = Pc::new();
    pc.lba28(0, false, command::READ_SECTORS, 0, 1);
    pc.set(0, reg::DEVICE, device::OBSOLETE | device::DEV);
    pc.settle();
    assert!(!pc.irq(0), "device 1 is selected");
    assert_eq!(pc.get(0, reg::STATUS), READY, "device 1's status, which leaves device 0's interrupt alone");
    pc.set(0, reg::DEVICE, device::OBSOLETE);
    assert!(pc.irq(0));
    assert_eq!(pc.alt(0), READY | status::DRQ);
    assert!(pc.irq(0), "the alternate status has no effect");
    pc.get(0, reg::STATUS);
    assert!(!pc.irq(0));
}

#[test]
fn command_write_clears_the_interrupt() {
    let mut pc = Pc::new();
    pc.set(0, reg::STATUS, command::CHECK_POWER_MODE);
    assert!(pc.irq(0));
    pc.lba28(0, false, command::READ_SECTORS, 0, 1);
    assert!(!pc.irq(0));
}

#[test]
fn command_that_ends_at_once_rings_anew_though_an_interrupt_was_pending() {
    let mut pc = Pc::new();
    let mut rings = |act: &mut dyn FnMut(&mut Pc)| {
        let before = pc.bench.outputs();
        act(&mut pc);
        let after = pc.bench.outputs();
        assert!(after.level[0]);
        u32::from(!before.level[0]) + after.pulses[0] - before.pulses[0]
    };
    for code in [command::CHECK_POWER_MODE, command::IDLE, command::NOP, command::DIAGNOSTIC] {
        assert_eq!(rings(&mut |pc| pc.set(0, reg::STATUS, code)), 1, "{code:#x}");
    }
    let both = u64::from(command::IDLE) << 8 | u64::from(device::DEV);
    assert_eq!(rings(&mut |pc| pc.bench.write(0, reg::DEVICE, 2, both)), 1, "on the other drive");
    assert_eq!(rings(&mut |pc| pc.set(0, reg::COUNT, 1)), 0);
    // Edges that were counted stay counted.
    let before = pc.bench.outputs().pulses;
    pc.bench.with(bulkhead_bus::chip::Chip::reset);
    assert_eq!(pc.bench.outputs().pulses, before);
}

#[test]
fn busy_drive_ignores_commands() {
    let mut pc = Pc::new();
    pc.lba28(0, false, command::READ_SECTORS, 5, 1);
    pc.set(0, reg::STATUS, command::IDENTIFY);
    pc.set(0, reg::STATUS, command::DEVICE_RESET);
    pc.settle();
    assert_eq!(pc.block_in(0, 512), pc.images[0][5 * 512..6 * 512]);
}

#[test]
fn every_sixteenth_pio_write_is_late_with_the_windows_2000_hack() {
    let mut settings = config();
    settings.drives.iter_mut().flatten().for_each(|drive| drive.slow_writes = true);
    let mut pc = Pc::with(settings);
    let mut late = Vec::new();
    for round in 0..40u32 {
        pc.lba28(0, false, command::WRITE_SECTORS, round, 1);
        pc.block_out(0, &[round as u8; 512]);
        pc.settle();
        if !pc.irq(0) {
            late.push(round);
            assert_eq!(pc.alt(0) & status::BSY, status::BSY);
            pc.bench.advance(999_999);
            assert!(!pc.irq(0));
            pc.bench.advance(1);
        }
        assert!(pc.irq(0), "write {round}");
        assert_eq!(pc.get(0, reg::STATUS), status::DRDY | status::DSC);
    }
    assert_eq!(late, [15, 31]);
}
