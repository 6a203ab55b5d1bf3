//! Data structures that drives report: IDENTIFY DEVICE, IDENTIFY PACKET DEVICE (ATA/ATAPI-6, 8.16 and 8.17), SMART data (8.53.10).

use crate::Unit;
use crate::state::Drive;

/// Most sectors a data-request block of READ and WRITE MULTIPLE.
pub(crate) const MULTIPLE_MAX: u8 = 16;

/// Sector of 256 words under construction.
struct Words([u16; 256]);

impl Words {
    fn set(&mut self, at: usize, value: u16) {
        if let Some(word) = self.0.get_mut(at) {
            *word = value;
        }
    }

    fn set32(&mut self, at: usize, value: u32) {
        self.set(at, value as u16);
        self.set(at + 1, (value >> 16) as u16);
    }

    /// ASCII strings have the bytes of each word swapped and are padded with spaces.
    fn text(&mut self, at: usize, words: usize, text: &str) {
        let mut bytes = text.bytes().filter(u8::is_ascii).chain(std::iter::repeat(b' '));
        for word in at..at + words {
            let (first, second) = (bytes.next().unwrap_or(b' '), bytes.next().unwrap_or(b' '));
            self.set(word, u16::from_be_bytes([first, second]));
        }
    }

    /// Bytes with the integrity word: signature and checksum.
    fn finish(mut self) -> [u8; 512] {
        self.set(255, 0x00a5);
        let mut bytes = [0u8; 512];
        for (pair, word) in bytes.chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&word.to_le_bytes());
        }
        let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        bytes[511] = 0u8.wrapping_sub(sum);
        bytes
    }
}

/// Words that both kinds of drive report: transfer modes and versions. At power-on Ultra DMA 5 is selected, as firmware would.
fn modes(words: &mut Words, mode: u8) {
    let mode = if mode == 0 { 0x45 } else { mode };
    words.set(53, 0x0007);
    let multiword = if mode & 0xf8 == 0x20 { 0x0100 << (mode & 7) } else { 0 };
    words.set(63, 0x0007 | multiword);
    words.set(64, 0x0003);
    for at in 65..=68 {
        words.set(at, 120);
    }
    // Versions ATA-4 to ATA-7; minor version ATA/ATAPI-5 T13 1321D revision 1.
    words.set(80, 0x00f0);
    words.set(81, 0x0016);
    // Result of the hardware reset: CBLID- above the threshold, that is, an 80-conductor cable.
    words.set(93, 0x6001);
    let ultra = if mode & 0xf8 == 0x40 { 0x0100 << (mode & 7) } else { 0 };
    words.set(88, 0x003f | ultra);
}

/// IDENTIFY DEVICE data of a disk.
pub(crate) fn disk(unit: &Unit<'_>, state: Option<&Drive>) -> [u8; 512] {
    let mut words = Words([0; 256]);
    let shape = unit.config.geometry;
    let (cylinders, heads, sectors) = (shape.cylinders, u16::from(shape.heads), u16::from(shape.sectors));
    let total = unit.sectors();
    words.set(0, 0x0040);
    words.set(1, cylinders);
    words.set(3, heads);
    words.set(4, 512 * sectors);
    words.set(5, 512);
    words.set(6, sectors);
    words.text(10, 10, &unit.config.serial);
    words.set(20, 3);
    words.set(21, 512);
    words.set(22, 4);
    words.text(23, 4, &unit.config.firmware);
    words.text(27, 20, &unit.config.model);
    words.set(47, 0x8000 | u16::from(MULTIPLE_MAX));
    words.set(48, 1);
    // LBA, DMA, IORDY.
    words.set(49, 0x0b00);
    words.set(50, 0x4000);
    words.set(51, 0x0200);
    words.set(52, 0x0200);
    let (now_heads, now_sectors) = match state {
        Some(state) if state.sectors != 0 => (u16::from(state.heads), u16::from(state.sectors)),
        _ => (heads, sectors),
    };
    let now_cylinders = if now_heads == heads && now_sectors == sectors {
        cylinders
    } else {
        (total / u64::from(now_heads.max(1)) / u64::from(now_sectors.max(1))).min(65_535) as u16
    };
    words.set(54, now_cylinders);
    words.set(55, now_heads);
    words.set(56, now_sectors);
    words.set32(57, u32::from(now_cylinders) * u32::from(now_heads) * u32::from(now_sectors));
    let multiple = state.map_or(0, |state| state.multiple);
    words.set(59, if multiple > 0 { 0x0100 | u16::from(multiple) } else { 0 });
    words.set32(60, total.min(0x0fff_ffff) as u32);
    modes(&mut words, state.map_or(0, |state| state.mode));
    let (cache, smart) = state.map_or((1, 1), |state| (u16::from(state.write_cache), u16::from(state.smart)));
    // NOP, write cache, SMART; FLUSH CACHE (EXT), 48-bit. What QEMU reports and no more, so that a guest's drivers choose the same
    // commands here (the differential test compares these words), though power management, look-ahead, forced unit access and the
    // SMART logs are there.
    words.set(82, 0x4021);
    words.set(83, 0x7400);
    words.set(84, 0x4000);
    words.set(85, 0x4000 | cache << 5 | smart);
    words.set(86, 0x3400);
    words.set(87, 0x4000);
    words.set32(100, total as u32);
    words.set32(102, (total >> 32) as u32);
    words.finish()
}

/// IDENTIFY PACKET DEVICE data of a CD-ROM.
pub(crate) fn cdrom(unit: &Unit<'_>, state: Option<&Drive>) -> [u8; 512] {
    let mut words = Words([0; 256]);
    // Packet device, CD-ROM, removable, DRQ within 50 us, 12-byte packets.
    words.set(0, 0x85c0);
    words.text(10, 10, &unit.config.serial);
    words.set(20, 3);
    words.set(21, 512);
    words.set(22, 4);
    words.text(23, 4, &unit.config.firmware);
    words.text(27, 20, &unit.config.model);
    words.set(48, 1);
    words.set(49, 0x0b00);
    modes(&mut words, state.map_or(0, |state| state.mode));
    words.set(71, 30);
    words.set(72, 30);
    // NOP, DEVICE RESET, PACKET.
    words.set(82, 0x4210);
    words.set(83, 0x4000);
    words.set(84, 0x4000);
    words.set(85, 0x4210);
    words.set(86, 0);
    words.set(87, 0x4000);
    words.finish()
}

/// SMART attribute values, or their thresholds: power-on hours, power cycles, reallocated sectors, temperature.
pub(crate) fn smart_data(thresholds: bool) -> [u8; 512] {
    let mut bytes = [0u8; 512];
    bytes[0] = 0x10;
    let attributes: [(u8, u8, u64); 4] = [(0x05, 36, 0), (0x09, 0, 1), (0x0c, 20, 0), (0xbe, 50, 0x1f)];
    for (entry, (number, threshold, raw)) in bytes[2..].chunks_exact_mut(12).zip(attributes) {
        if thresholds {
            entry[..2].copy_from_slice(&[number, threshold]);
        } else {
            entry[..5].copy_from_slice(&[number, 0x03, 0x00, 100, 100]);
            entry[5..11].copy_from_slice(&raw.to_le_bytes()[..6]);
        }
    }
    if !thresholds {
        // Off-line collection never started, no self-test, both capabilities minimal.
        bytes[367] = 0x01;
        bytes[368..370].copy_from_slice(&[0x03, 0x00]);
    }
    let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    bytes[511] = 0u8.wrapping_sub(sum);
    bytes
}

/// A SMART log sector (8.53.8): the directory, the summary error log, the self-test log, all without entries.
pub(crate) fn smart_log(number: u8) -> Option<[u8; 512]> {
    let mut bytes = [0u8; 512];
    let start: &[u8] = match number {
        // Version 1; one sector each of logs 1 and 6.
        0 => &[1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        1 | 6 => &[1, 0],
        _ => return None,
    };
    bytes.iter_mut().zip(start).for_each(|(to, from)| *to = *from);
    if number != 0 {
        let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        bytes[511] = 0u8.wrapping_sub(sum);
    }
    Some(bytes)
}
