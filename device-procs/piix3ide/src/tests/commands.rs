//! Commands without sector data, reset and detection.

use super::*;
use crate::spec::{control, error};

const READY: u8 = status::DRDY | status::DSC;
const FAILED: u8 = READY | status::ERR;

fn identify(pc: &mut Pc, channel: u8, code: u8) -> Vec<u16> {
    pc.set(channel, reg::DEVICE, device::OBSOLETE);
    pc.set(channel, reg::STATUS, code);
    assert!(pc.irq(channel));
    assert_eq!(pc.get(channel, reg::STATUS), READY | status::DRQ);
    let words = pc.block_in(channel, 512);
    assert_eq!(words.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0, "checksum");
    assert_eq!(pc.get(channel, reg::STATUS), READY);
    words.chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
}

fn text(words: &[u16]) -> String {
    words.iter().flat_map(|word| word.to_be_bytes()).map(char::from).collect::<String>().trim_end().to_owned()
}

#[test]
fn identify_device_describes_the_disk() {
    let mut pc = Pc::new();
    let words = identify(&mut pc, 0, command::IDENTIFY);
    assert_eq!(words[0], 0x0040);
    assert_eq!((words[1], words[3], words[6]), ((SECTORS / 1008) as u16, 16, 63));
    assert_eq!(text(&words[10..20]), "BH00000");
    assert_eq!(text(&words[23..27]), "2.5+");
    assert_eq!(text(&words[27..47]), "QEMU HARDDISK");
    assert_eq!(words[47], 0x8010);
    assert_eq!(words[49], 0x0b00, "DMA, LBA, IORDY");
    assert_eq!(words[53] & 6, 6, "words 64-70 and 88 are valid");
    assert_eq!(u32::from(words[60]) | u32::from(words[61]) << 16, SECTORS as u32);
    assert_eq!((words[63], words[88]), (0x0007, 0x203f));
    assert_eq!((words[80], words[81]), (0x00f0, 0x0016));
    assert_eq!((words[82], words[83], words[84]), (0x4021, 0x7400, 0x4000));
    assert_eq!((words[85], words[86], words[87]), (0x4021, 0x3400, 0x4000));
    assert_eq!(words[93] & 0xe001, 0x6001, "80-conductor cable");
    assert_eq!(words[100..104], [SECTORS as u16, 0, 0, 0]);
}

#[test]
fn identify_packet_device_describes_the_cdrom() {
    let mut pc = Pc::new();
    let words = identify(&mut pc, 1, command::IDENTIFY_PACKET);
    assert_eq!(words[0], 0x85c0, "packet device, CD-ROM, removable, 12 bytes");
    assert_eq!(text(&words[27..47]), "QEMU DVD-ROM");
    assert_eq!(words[82] & 0x0210, 0x0210, "PACKET and DEVICE RESET");
}

#[test]
fn set_features_shows_in_identify() {
    let mut pc = Pc::new();
    assert_eq!(pc.features(0x03, 0x22), READY);
    let words = identify(&mut pc, 0, command::IDENTIFY);
    assert_eq!((words[63], words[88]), (0x0407, 0x003f), "multiword DMA 2 selected, no Ultra DMA");
    assert_eq!(pc.features(0x03, 0x0c), READY);
    assert_eq!(identify(&mut pc, 0, command::IDENTIFY)[63], 0x0407, "a PIO mode leaves the DMA mode");
    assert_eq!(pc.features(0x03, 0x42), READY);
    let words = identify(&mut pc, 0, command::IDENTIFY);
    assert_eq!((words[63], words[88]), (0x0007, 0x043f));
    assert_eq!(pc.features(0x82, 0), READY);
    assert_eq!(pc.flushes[0], 1, "what was in the cache is on the medium");
    assert_eq!(identify(&mut pc, 0, command::IDENTIFY)[85] & 0x20, 0, "write cache off");
    assert_eq!(pc.features(0x02, 0), READY);
    assert_eq!(identify(&mut pc, 0, command::IDENTIFY)[85] & 0x20, 0x20);
    for (feature, count) in [(0x03, 0x46), (0x03, 0x23), (0x03, 0x10), (0x77, 0)] {
        assert_eq!(pc.features(feature, count), FAILED);
        assert_eq!(pc.get(0, reg::ERROR), error::ABRT);
    }
    // Modes outlive a software reset, not a hardware reset.
    pc.bench.write(1, 0, 1, control::SRST.into());
    pc.bench.write(1, 0, 1, 0);
    assert_eq!(identify(&mut pc, 0, command::IDENTIFY)[88], 0x043f);
    pc.bench.with(bulkhead_bus::chip::Chip::reset);
    assert_eq!(identify(&mut pc, 0, command::IDENTIFY)[88], 0x203f);
}

#[test]
fn set_multiple_and_geometry_show_in_identify() {
    let mut pc = Pc::new();
    for (count, want) in [(16, READY), (1, READY), (3, FAILED), (32, FAILED), (255, FAILED), (4, READY)] {
        pc.set(0, reg::COUNT, count);
        assert_eq!(pc.simple(command::SET_MULTIPLE), want, "{count}");
    }
    assert_eq!(identify(&mut pc, 0, command::IDENTIFY)[59], 0x0104);
    pc.set(0, reg::DEVICE, device::OBSOLETE | 3);
    pc.set(0, reg::COUNT, 17);
    assert_eq!(pc.simple(command::INITIALIZE_PARAMETERS), READY);
    let words = identify(&mut pc, 0, command::IDENTIFY);
    assert_eq!((words[54], words[55], words[56]), ((SECTORS / 68) as u16, 4, 17));
    assert_eq!(u32::from(words[57]) | u32::from(words[58]) << 16, (SECTORS / 68 * 68) as u32);
    assert_eq!((words[3], words[6]), (16, 63), "the default stays");
}

#[test]
fn addresses_up_to_the_last_sector_and_no_further() {
    let mut pc = Pc::new();
    let last = SECTORS as u32 - 1;
    for (sector, count, ok) in
        [(last, 1, true), (last, 2, false), (last + 1, 1, false), (0x0fff_ffff, 0, false)]
    {
        for code in [command::READ_VERIFY, command::READ_SECTORS, command::WRITE_SECTORS, command::READ_DMA] {
            pc.lba28(0, false, code, sector, count);
            pc.settle();
            let got = pc.get(0, reg::STATUS);
            assert_eq!(got & status::ERR == 0, ok, "{code:#x} {sector} {count}");
            if !ok {
                assert_eq!(pc.get(0, reg::ERROR), error::IDNF);
            }
            pc.bench.write(1, 0, 1, control::SRST.into());
            pc.bench.write(1, 0, 1, 0);
        }
    }
}

#[test]
fn native_max_is_the_last_sector() {
    let mut pc = Pc::new();
    pc.lba28(0, false, command::READ_NATIVE_MAX, 0, 0);
    assert_eq!(pc.get(0, reg::STATUS), READY);
    let last = SECTORS as u32 - 1;
    let got = [pc.get(0, reg::LBA_LOW), pc.get(0, reg::LBA_MID), pc.get(0, reg::LBA_HIGH)];
    assert_eq!(got, last.to_le_bytes()[..3]);
    assert_eq!(pc.get(0, reg::DEVICE) & 0x0f, 0);
}

#[test]
fn hob_shows_the_previous_contents_until_a_register_is_written() {
    let mut pc = Pc::new();
    for (register, old, new) in
        [(reg::COUNT, 1, 2), (reg::LBA_LOW, 3, 4), (reg::LBA_MID, 5, 6), (reg::LBA_HIGH, 7, 8)]
    {
        pc.set(0, register, old);
        pc.set(0, register, new);
        assert_eq!(pc.get(0, register), new);
        pc.bench.write(1, 0, 1, control::HOB.into());
        assert_eq!(pc.get(0, register), old);
        pc.set(0, reg::ERROR, 0);
        assert_eq!(pc.get(0, register), new);
    }
}

#[test]
fn power_management_and_flush_complete() {
    let mut pc = Pc::new();
    for code in
        [0x10, 0x70, 0xe0, 0xe1, 0xe2, 0xe3, 0xe6, 0x94, 0x99, command::FLUSH_CACHE, command::FLUSH_CACHE_EXT]
    {
        pc.lba28(0, false, code, 0, 1);
        pc.settle();
        assert!(pc.irq(0), "{code:#x}");
        assert_eq!(pc.get(0, reg::STATUS), READY, "{code:#x}");
    }
    assert_eq!(pc.flushes, [2, 0, 0]);
    for code in [0xe5, 0x98] {
        assert_eq!(pc.simple(code), READY);
        assert_eq!(pc.get(0, reg::COUNT), 0xff);
    }
    pc.outcomes = vec![BlockStatus::Error];
    assert_eq!(pc.simple(command::FLUSH_CACHE), FAILED);
}

#[test]
fn commands_that_a_disk_lacks_are_aborted() {
    let mut pc = Pc::new();
    for code in [
        command::NOP,
        command::PACKET,
        command::IDENTIFY_PACKET,
        command::DEVICE_RESET,
        0xf1,
        0xf9,
        0x22,
        0xc7,
    ] {
        assert_eq!(pc.simple(code), FAILED, "{code:#x}");
        assert_eq!(pc.get(0, reg::ERROR), error::ABRT);
    }
}

#[test]
fn smart_needs_its_key_and_answers_the_basics() {
    let mut pc = Pc::new();
    let mut smart = |feature, low, key: (u8, u8)| {
        pc.set(0, reg::ERROR, feature);
        pc.set(0, reg::COUNT, 1);
        pc.set(0, reg::LBA_LOW, low);
        pc.set(0, reg::LBA_MID, key.0);
        pc.set(0, reg::LBA_HIGH, key.1);
        pc.set(0, reg::STATUS, command::SMART);
        let status = pc.get(0, reg::STATUS);
        let data = if status & status::DRQ != 0 { pc.block_in(0, 512) } else { Vec::new() };
        (status, data, pc.get(0, reg::LBA_MID), pc.get(0, reg::LBA_HIGH))
    };
    let key = (0x4f, 0xc2);
    assert_eq!(smart(0xda, 0, (0, 0)).0, FAILED);
    assert_eq!(smart(0xda, 0, key), (READY, vec![], 0x4f, 0xc2));
    for (feature, log) in [(0xd0, 0), (0xd1, 0), (0xd5, 1), (0xd5, 6)] {
        let (status, data, ..) = smart(feature, log, key);
        assert_eq!(status, READY | status::DRQ);
        assert_eq!(data.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    }
    assert_eq!(smart(0xd5, 0, key).1[..4], [1, 0, 1, 0]);
    assert_eq!(smart(0xd5, 0x80, key).0, FAILED);
    assert_eq!(smart(0xd9, 0, key).0, READY);
    assert_eq!(smart(0xd0, 0, key).0, FAILED, "off");
    assert_eq!(smart(0xd8, 0, key).0, READY);
    assert_eq!(smart(0xd0, 0, key).0, READY | status::DRQ);
}

#[test]
fn reset_leaves_the_signatures_and_selects_device_0() {
    let mut pc = Pc::new();
    for channel in [0, 1] {
        pc.set(channel, reg::DEVICE, device::OBSOLETE | device::DEV);
        pc.set(channel, reg::LBA_MID, 0x77);
        pc.bench.write(channel * 2 + 1, 0, 1, (control::SRST | control::NIEN).into());
        assert_eq!(pc.alt(channel), status::BSY);
        pc.set(channel, reg::STATUS, command::IDENTIFY);
        pc.set(channel, reg::STATUS, command::DEVICE_RESET);
        assert_eq!(pc.alt(channel), status::BSY, "commands are ignored in reset");
        pc.bench.write(channel * 2 + 1, 0, 1, 0);
        assert!(!pc.irq(channel));
        let want = if channel == 0 { [1, 1, 1, 0, 0, 0xa0, 0x50] } else { [1, 1, 1, 0x14, 0xeb, 0xa0, 0] };
        let got: Vec<u8> = (reg::ERROR..=reg::STATUS).map(|register| pc.get(channel, register)).collect();
        assert_eq!(got, want);
    }
}

#[test]
fn diagnostic_reports_for_both_drives_from_either() {
    let mut pc = Pc::new();
    pc.set(0, reg::DEVICE, device::OBSOLETE | device::DEV);
    pc.set(0, reg::STATUS, command::DIAGNOSTIC);
    assert!(pc.irq(0));
    assert_eq!(pc.get(0, reg::DEVICE) & device::DEV, 0);
    assert_eq!((pc.get(0, reg::ERROR), pc.get(0, reg::STATUS)), (1, READY));
}

#[test]
fn absent_slave_beside_a_drive_reads_as_zeros_and_takes_no_command() {
    let mut pc = Pc::new();
    pc.set(1, reg::DEVICE, device::OBSOLETE | device::DEV);
    pc.set(1, reg::COUNT, 0x55);
    pc.set(1, reg::LBA_LOW, 0xaa);
    assert_eq!((pc.get(1, reg::COUNT), pc.get(1, reg::LBA_LOW)), (0, 0));
    assert_eq!((pc.get(1, reg::STATUS), pc.alt(1)), (0, 0));
    pc.set(1, reg::STATUS, command::IDENTIFY_PACKET);
    assert_eq!(pc.alt(1), 0);
    assert!(!pc.irq(1));
}

#[test]
fn channel_without_drives_floats_with_the_busy_bit_pulled_down() {
    let mut pc = Pc::with(IdeConfig::default());
    for register in reg::ERROR..=reg::STATUS {
        pc.set(0, register, 0x55);
        assert_eq!(pc.get(0, register), 0x7f);
    }
    assert_eq!(pc.alt(0), 0x7f);
    assert_eq!(pc.bench.read(0, reg::DATA, 2), 0xffff);
    assert!(!pc.irq(0));
}

#[test]
fn read_only_disk_refuses_writes() {
    let mut pc = Pc::new();
    let bytes = pc.images[0].len() as u64;
    pc.bench.servers[0].set_medium(Medium { bytes, present: true, read_only: true, ..Medium::default() });
    for code in [command::WRITE_SECTORS, command::WRITE_DMA] {
        pc.lba28(0, false, code, 0, 1);
        assert_eq!(pc.get(0, reg::STATUS), FAILED);
        assert_eq!(pc.get(0, reg::ERROR), error::ABRT);
    }
}
