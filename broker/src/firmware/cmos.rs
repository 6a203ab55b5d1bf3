//! CMOS memory as the firmware reads it: sizes, disks, boot order. Bytes as in the AT and Bochs BIOS maps.

use bulkhead_config::{MachineConfig, Media, Translation};

use crate::images::OpenDrive;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// CMOS bytes for a machine with `low` bytes of RAM below 4 GiB and `high` above.
pub fn bytes(config: &MachineConfig, drives: &[OpenDrive], low: u64, high: u64) -> Vec<(u8, u8)> {
    let mut cmos: Vec<(u8, u8)> = Vec::new();
    let mut word = |at: u8, value: u64| {
        cmos.push((at, value as u8));
        cmos.push((at + 1, (value >> 8) as u8));
    };
    word(0x15, (low / KIB).min(640));
    let extended = (low.saturating_sub(MIB) / KIB).min(0xffff);
    word(0x17, extended);
    word(0x30, extended);
    word(0x34, (low.saturating_sub(16 * MIB) / (64 * KIB)).min(0xffff));
    let above = high / (64 * KIB);
    word(0x5b, above & 0xffff);
    cmos.push((0x5d, (above >> 16) as u8));
    cmos.push((0x5f, config.cpus.saturating_sub(1).min(254) as u8));
    // No floppy drives; coprocessor and pointing device present.
    cmos.push((0x10, 0));
    cmos.push((0x14, 0x06));
    disks(&mut cmos, drives);
    cmos.extend(boot_order(&config.boot, config.no_fd_bootchk));
    cmos
}

/// Bytes 0x38 and 0x3d for a `-boot` order.
pub fn boot_order(order: &str, no_floppy_check: bool) -> [(u8, u8); 2] {
    let mut codes = order.chars().map(|letter| match letter {
        'a' | 'b' => 1u8,
        'c' => 2,
        'd' => 3,
        'n' => 4,
        _ => 0,
    });
    let mut next = || codes.next().unwrap_or(0);
    let (first, second, third) = (next(), next(), next());
    [(0x3d, second << 4 | first), (0x38, third << 4 | u8::from(no_floppy_check))]
}

fn disks(cmos: &mut Vec<(u8, u8)>, drives: &[OpenDrive]) {
    let disk = |index: u8| drives.iter().find(|drive| drive.index == index && drive.media == Media::Disk);
    let kind = |index| if disk(index).is_some() { 0x0f } else { 0 };
    cmos.push((0x12, kind(0) << 4 | kind(1)));
    for (index, type_at, at) in [(0u8, 0x19u8, 0x1bu8), (1, 0x1a, 0x24)] {
        let Some(drive) = disk(index) else { continue };
        let geometry = drive.geometry;
        let cylinders = geometry.cylinders.to_le_bytes();
        let control = 0xc0 | u8::from(geometry.heads > 8) << 3;
        let table = [
            cylinders[0],
            cylinders[1],
            geometry.heads,
            0xff,
            0xff,
            control,
            cylinders[0],
            cylinders[1],
            geometry.sectors,
        ];
        cmos.push((type_at, 47));
        cmos.extend(table.into_iter().enumerate().map(|(offset, byte)| (at + offset as u8, byte)));
    }
    let mut translations = 0u8;
    for index in 0..4u8 {
        if let Some(drive) = disk(index) {
            let code = match drive.geometry.translation {
                Translation::None => 0,
                Translation::Lba => 1,
                Translation::Auto => u8::from(drive.geometry.cylinders > 1024),
            };
            translations |= code << (index * 2);
        }
    }
    cmos.push((0x39, translations));
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_config::Target;

    fn get(cmos: &[(u8, u8)], at: u8) -> u8 {
        cmos.iter().rev().find(|(index, _)| *index == at).map_or(0, |(_, value)| *value)
    }

    #[test]
    fn memory_sizes_are_in_the_units_of_their_registers() {
        let config = MachineConfig::new("qemu", Target::X86_64);
        let cmos = bytes(&config, &[], 128 << 20, 1 << 30);
        assert_eq!((get(&cmos, 0x15), get(&cmos, 0x16)), (0x80, 0x02));
        // 127 MiB in KiB is beyond 16 bits.
        assert_eq!((get(&cmos, 0x17), get(&cmos, 0x18)), (0xff, 0xff));
        // 112 MiB in 64 KiB.
        assert_eq!((get(&cmos, 0x34), get(&cmos, 0x35)), (0x00, 0x07));
        assert_eq!((get(&cmos, 0x5b), get(&cmos, 0x5c), get(&cmos, 0x5d)), (0x00, 0x40, 0x00));
    }

    #[test]
    fn boot_order_puts_the_first_device_in_the_low_nibble() {
        assert_eq!(boot_order("cad", false), [(0x3d, 0x12), (0x38, 0x30)]);
        assert_eq!(boot_order("d", true), [(0x3d, 0x03), (0x38, 0x01)]);
    }
}
