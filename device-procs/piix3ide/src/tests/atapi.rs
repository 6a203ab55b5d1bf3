//! Packet commands of the CD-ROM.

use super::*;
use crate::spec::{control, packet, reason};

const READY: u8 = status::DRDY | status::DSC;
const CHECK: u8 = READY | status::ERR;
const TABLE: u32 = 0x8000;

/// Reads a packet command's data by PIO in the blocks that the drive offers; also their sizes.
fn take(pc: &mut Pc) -> (Vec<u8>, Vec<usize>) {
    let (mut data, mut sizes) = (Vec::new(), Vec::new());
    loop {
        assert!(pc.irq(1), "every block and the end are announced");
        let status = pc.get(1, reg::STATUS);
        if status & status::DRQ == 0 {
            assert_eq!(pc.get(1, reg::COUNT), reason::IO | reason::CD);
            return (data, sizes);
        }
        assert_eq!(pc.get(1, reg::COUNT), reason::IO);
        let size = usize::from(pc.get(1, reg::LBA_MID)) | usize::from(pc.get(1, reg::LBA_HIGH)) << 8;
        // The data port is 16 bits wide: an odd block has a pad byte.
        let got = pc.block_in(1, size.next_multiple_of(2));
        data.extend(&got[..size]);
        sizes.push(size);
        pc.settle();
    }
}

/// A command that ends with check condition; its sense key, code and qualifier.
fn sense(pc: &mut Pc, command: &[u8]) -> (u8, u8, u8) {
    pc.packet(0, 0xfffe, command);
    assert!(pc.irq(1));
    assert_eq!(pc.get(1, reg::STATUS), CHECK, "{command:x?}");
    let key = pc.get(1, reg::ERROR) >> 4;
    pc.packet(0, 0xfffe, &[packet::REQUEST_SENSE, 0, 0, 0, 18]);
    let (data, _) = take(pc);
    assert_eq!((data.len(), data[0], data[2]), (18, 0xf0, key));
    (data[2], data[12], data[13])
}

fn good(pc: &mut Pc, command: &[u8]) -> Vec<u8> {
    pc.packet(0, 0xfffe, command);
    let (data, _) = take(pc);
    assert_eq!(pc.alt(1), READY, "{command:x?}");
    data
}

fn read10(sector: u32, count: u16) -> [u8; 10] {
    let (at, count) = (sector.to_be_bytes(), count.to_be_bytes());
    [packet::READ_10, 0, at[0], at[1], at[2], at[3], 0, count[0], count[1], 0]
}

#[test]
fn pio_read_comes_in_blocks_of_the_byte_count_limit() {
    for (limit, want) in [
        (2048, vec![2048; 5]),
        (0xfffe, vec![5 * 2048]),
        (0, vec![5 * 2048]),
        (0xffff, vec![5 * 2048]),
        (4097, vec![4096, 4096, 2048]),
        (6000, vec![6000, 4240]),
        (1, vec![2; 5 * 1024]),
    ] {
        let mut pc = Pc::new();
        pc.packet(0, limit, &read10(40, 5));
        let (data, sizes) = take(&mut pc);
        assert!(data == pc.images[2][40 * 2048..45 * 2048], "limit {limit}");
        assert_eq!(sizes, want, "limit {limit}");
    }
}

#[test]
fn long_read_crosses_requests() {
    let mut pc = Pc::new();
    assert!(good(&mut pc, &read10(0, 300)) == pc.images[2]);
    assert!(
        good(&mut pc, &[packet::READ_12, 0, 0, 0, 0, 7, 0, 0, 0, 200]) == pc.images[2][7 * 2048..207 * 2048]
    );
    let read_cd = [packet::READ_CD, 0, 0, 0, 0, 9, 0, 0, 3, 0x10];
    assert!(good(&mut pc, &read_cd) == pc.images[2][9 * 2048..12 * 2048]);
}

#[test]
fn dma_read_ends_with_one_interrupt() {
    let mut pc = Pc::new();
    let len = 200 * 2048;
    let entries: Vec<(u32, u32)> = (0..len)
        .step_by(0x1_0000)
        .map(|at| (0x20_0000 + at as u32, (len - at).min(0x1_0000) as u32))
        .collect();
    pc.table(TABLE, &entries);
    pc.point(1, TABLE);
    pc.packet(1, 0, &read10(50, 200));
    assert!(!pc.irq(1), "the data waits for the bus master");
    pc.restart();
    pc.bm_command(1, bm::START | bm::TO_MEMORY);
    pc.settle();
    assert_eq!(pc.bm_status(1), bm::INTERRUPT);
    assert!(pc.irq(1));
    assert_eq!(pc.get(1, reg::STATUS), READY);
    assert_eq!(pc.get(1, reg::COUNT), reason::IO | reason::CD);
    assert!(pc.ram(0x20_0000, len) == pc.images[2][50 * 2048..250 * 2048]);
}

#[test]
fn short_reply_by_dma_leaves_the_engine_active() {
    let mut pc = Pc::new();
    pc.table(TABLE, &[(0x20_0000, 4096)]);
    pc.point(1, TABLE);
    pc.packet(1, 0, &[packet::INQUIRY, 0, 0, 0, 36]);
    assert_eq!(pc.alt(1) & status::DRQ, status::DRQ);
    pc.bm_command(1, bm::START | bm::TO_MEMORY);
    assert_eq!(pc.bm_status(1), bm::INTERRUPT | bm::ACTIVE);
    assert_eq!(pc.ram(0x20_0000, 2), [0x05, 0x80]);
}

#[test]
fn inquiry_names_the_drive() {
    let mut pc = Pc::new();
    let data = good(&mut pc, &[packet::INQUIRY, 0, 0, 0, 255]);
    assert_eq!(data.len(), 36);
    assert_eq!(data[..5], [0x05, 0x80, 0x00, 0x21, 31]);
    assert_eq!(&data[8..], b"QEMU    QEMU DVD-ROM    2.5+");
    assert_eq!(good(&mut pc, &[packet::INQUIRY, 0, 0, 0, 5]).len(), 5, "allocation length");
    assert_eq!(good(&mut pc, &[packet::INQUIRY, 0, 0, 0, 0]).len(), 0);
    assert_eq!(sense(&mut pc, &[packet::INQUIRY, 1, 0x80, 0, 255]), (5, 0x24, 0));
}

#[test]
fn capacity_and_table_of_contents() {
    let mut pc = Pc::new();
    assert_eq!(good(&mut pc, &[packet::READ_CAPACITY]), [0, 0, 1, 43, 0, 0, 8, 0]);
    let toc = good(&mut pc, &[packet::READ_TOC, 0, 0, 0, 0, 0, 0, 0, 200]);
    assert_eq!(toc, [0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x16, 0xaa, 0, 0, 0, 1, 44]);
    let toc = good(&mut pc, &[packet::READ_TOC, 2, 0, 0, 0, 0, 0xaa, 0, 200]);
    assert_eq!(toc, [0, 10, 1, 1, 0, 0x16, 0xaa, 0, 0, 0, 6, 0], "300 sectors and two seconds of lead-in");
    let sessions = good(&mut pc, &[packet::READ_TOC, 0, 1, 0, 0, 0, 0, 0, 12]);
    assert_eq!(sessions, [0, 10, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0]);
    let raw = good(&mut pc, &[packet::READ_TOC, 0, 2, 0, 0, 0, 0, 0, 200]);
    assert_eq!((raw.len(), raw[1], raw[7], raw[18], raw[29], raw[40]), (48, 46, 0xa0, 0xa1, 0xa2, 1));
    assert_eq!(good(&mut pc, &[packet::READ_TOC, 0, 0, 0, 0, 0, 0, 0, 4]).len(), 4);
    assert_eq!(sense(&mut pc, &[packet::READ_TOC, 0, 0, 0, 0, 0, 2, 0, 200]), (5, 0x24, 0));
}

#[test]
fn mode_pages_and_configuration() {
    let mut pc = Pc::new();
    let page = good(&mut pc, &[packet::MODE_SENSE_10, 0, 0x2a, 0, 0, 0, 0, 0, 128]);
    assert_eq!((page.len(), page[1], page[2], page[8], page[9]), (28, 26, 0x01, 0x2a, 18));
    assert_eq!(good(&mut pc, &[packet::MODE_SENSE_6, 0, 0x3f, 0, 255])[4], 0x01);
    assert_eq!(sense(&mut pc, &[packet::MODE_SENSE_10, 0, 0xea, 0, 0, 0, 0, 0, 128]), (5, 0x39, 0));
    assert_eq!(sense(&mut pc, &[packet::MODE_SENSE_10, 0, 0x05, 0, 0, 0, 0, 0, 128]), (5, 0x24, 0));
    let all = good(&mut pc, &[packet::GET_CONFIGURATION, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(u32::from_be_bytes([all[0], all[1], all[2], all[3]]) as usize, all.len() - 4);
    assert_eq!(all[6..8], [0, 8], "a CD");
    let one = good(&mut pc, &[packet::GET_CONFIGURATION, 2, 0, 3, 0, 0, 0, 1, 0]);
    assert_eq!(one[8..10], [0, 3]);
    assert_eq!(one.len(), 16);
    let none = good(&mut pc, &[packet::GET_CONFIGURATION, 2, 0, 0x20, 0, 0, 0, 1, 0]);
    assert_eq!(none.len(), 8, "not writable");
    assert_eq!(good(&mut pc, &[packet::READ_DISC_INFORMATION, 0, 0, 0, 0, 0, 0, 0, 34]).len(), 34);
    assert_eq!(good(&mut pc, &[packet::MECHANISM_STATUS, 0, 0, 0, 0, 0, 0, 0, 0, 8]).len(), 8);
    // The profile's own feature is the current one of the two.
    let feature = |pc: &mut Pc, number| good(pc, &[packet::GET_CONFIGURATION, 2, 0, number, 0, 0, 0, 1, 0]);
    assert_eq!((feature(&mut pc, 0x1e)[10], &feature(&mut pc, 0x1f)[8..]), (1, &[0, 0x1f, 0, 0][..]));
    let mut medium = pc.bench.blocks[2].medium();
    (medium.bytes, medium.generation) = (4 << 30, 1);
    pc.bench.servers[2].set_medium(medium);
    pc.bench.event();
    assert_eq!(feature(&mut pc, 0x1f)[6..], [0, 0x10, 0, 0x1f, 1, 0], "a DVD");
    assert_eq!(feature(&mut pc, 0x1e)[10], 0);
}

#[test]
fn empty_drive_says_so_and_a_new_disc_is_announced_once() {
    let mut pc = Pc::new();
    let ready = [packet::TEST_UNIT_READY];
    assert_eq!(good(&mut pc, &ready), []);
    pc.bench.servers[2].set_medium(Medium { generation: 1, ..Medium::default() });
    pc.bench.event();
    for command in
        [&ready[..], &[packet::READ_CAPACITY], &read10(0, 1), &[packet::READ_TOC, 0, 0, 0, 0, 0, 0, 0, 9]]
    {
        assert_eq!(sense(&mut pc, command), (2, 0x3a, 0));
    }
    let bytes = DISC as u64;
    pc.bench.servers[2].set_medium(Medium { bytes, present: true, generation: 2, ..Medium::default() });
    pc.bench.event();
    let media = |pc: &mut Pc| good(pc, &[packet::GET_EVENT_STATUS, 1, 0, 0, 0x10, 0, 0, 0, 8]);
    assert_eq!(media(&mut pc), [0, 6, 4, 0x10, 2, 2, 0, 0]);
    assert_eq!(media(&mut pc), [0, 6, 4, 0x10, 0, 2, 0, 0]);
    good(&mut pc, &[packet::INQUIRY, 0, 0, 0, 36]);
    assert_eq!(
        sense(&mut pc, &ready),
        (6, 0x28, 0),
        "the attention is not lost by the commands that may not report it"
    );
    good(&mut pc, &ready);
    pc.bench.servers[2].set_medium(Medium { bytes, present: true, generation: 3, ..Medium::default() });
    pc.bench.event();
    let told = good(&mut pc, &[packet::REQUEST_SENSE, 0, 0, 0, 18]);
    assert_eq!((told[2], told[12], told[13]), (6, 0x28, 0), "asked for before anything else failed");
    good(&mut pc, &ready);
}

#[test]
fn tray_opens_unless_locked_and_closes_with_the_same_disc() {
    let mut pc = Pc::new();
    good(&mut pc, &[packet::PREVENT_ALLOW, 0, 0, 0, 1]);
    assert_eq!(sense(&mut pc, &[packet::START_STOP_UNIT, 0, 0, 0, 2]), (5, 0x53, 2));
    good(&mut pc, &[packet::PREVENT_ALLOW, 0, 0, 0, 0]);
    good(&mut pc, &[packet::START_STOP_UNIT, 0, 0, 0, 2]);
    assert_eq!(sense(&mut pc, &read10(0, 1)), (2, 0x3a, 2));
    pc.restart();
    assert_eq!(sense(&mut pc, &[packet::TEST_UNIT_READY]), (2, 0x3a, 2));
    good(&mut pc, &[packet::START_STOP_UNIT, 0, 0, 0, 3]);
    assert_eq!(sense(&mut pc, &[packet::TEST_UNIT_READY]), (6, 0x28, 0));
    assert!(good(&mut pc, &read10(0, 1)) == pc.images[2][..2048]);
}

#[test]
fn ata_commands_of_a_disk_are_refused_with_the_signature() {
    let mut pc = Pc::new();
    for code in [command::IDENTIFY, command::READ_SECTORS] {
        pc.set(1, reg::LBA_MID, 0);
        pc.set(1, reg::STATUS, code);
        assert_eq!(pc.get(1, reg::STATUS), CHECK);
        assert_eq!((pc.get(1, reg::LBA_MID), pc.get(1, reg::LBA_HIGH)), (0x14, 0xeb));
    }
    for code in [command::READ_DMA, command::WRITE_SECTORS, command::SMART, command::READ_NATIVE_MAX] {
        pc.set(1, reg::STATUS, code);
        assert_eq!(pc.get(1, reg::STATUS), CHECK);
    }
    pc.set(1, reg::STATUS, command::CHECK_POWER_MODE);
    assert_eq!((pc.get(1, reg::STATUS), pc.get(1, reg::COUNT)), (READY, 0xff));
}

#[test]
fn device_reset_ends_any_phase_silently() {
    for steps in 0..4 {
        let mut pc = Pc::new();
        pc.set(1, reg::DEVICE, device::OBSOLETE);
        if steps > 0 {
            pc.set(1, reg::STATUS, command::PACKET);
        }
        if steps > 1 {
            pc.block_out(1, &[packet::READ_10, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0]);
        }
        if steps > 2 {
            pc.settle();
            pc.block_in(1, 100);
        }
        pc.get(1, reg::STATUS);
        pc.set(1, reg::STATUS, command::DEVICE_RESET);
        assert_eq!(pc.alt(1), 0);
        assert!(!pc.irq(1));
        assert_eq!((pc.get(1, reg::LBA_MID), pc.get(1, reg::LBA_HIGH)), (0x14, 0xeb));
        pc.settle();
        assert!(!pc.irq(1));
        assert!(good(&mut pc, &read10(3, 1)) == pc.images[2][3 * 2048..4 * 2048]);
    }
}

#[test]
fn software_reset_in_a_packet_frees_the_drive() {
    let mut pc = Pc::new();
    pc.set(1, reg::STATUS, command::PACKET);
    pc.block_out(1, &[0xff; 5]);
    pc.bench.write(3, 0, 1, control::SRST.into());
    pc.bench.write(3, 0, 1, 0);
    assert_eq!(pc.alt(1), 0);
    good(&mut pc, &[packet::TEST_UNIT_READY]);
}

#[test]
fn back_end_error_is_a_medium_error() {
    let mut pc = Pc::new();
    pc.outcomes = vec![BlockStatus::Error];
    assert_eq!(sense(&mut pc, &read10(0, 1)), (3, 0x11, 0));
    good(&mut pc, &read10(0, 1));
}
