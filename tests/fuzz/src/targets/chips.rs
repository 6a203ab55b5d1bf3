//! Chips through the `Chip` trait.

use bulkhead_bus::chip::Chip;
use bulkhead_bus::config::{
    FwCfgConfig, FwCfgFile, FwCfgItem, FwCfgSource, IdeConfig, IdeDriveConfig, IdeGeometry, IdeMedia,
    VgaConfig,
};
use bulkhead_bus::storm::{self, Script, Setup};
use bulkhead_fwcfg::FwCfg;
use bulkhead_piix3ide::Piix3Ide;
use bulkhead_vga::Vga;

use super::ALONE;

/// Most steps of a storm.
const STEPS: usize = 2000;

/// A storm over a chip; see [`bulkhead_bus::storm`].
pub fn storm<C: Chip>(bytes: &[u8], make: impl Fn() -> C, setup: Setup) {
    storm::storm(&make, &setup, &mut Script::new(bytes), STEPS, "input");
}

/// fw_cfg with short, long and empty items.
pub fn fwcfg(bytes: &[u8]) {
    const BULK: usize = 0x3000;
    let make = || {
        let inline = |bytes: &[u8]| FwCfgSource::Inline(bytes.to_vec());
        let config = FwCfgConfig {
            items: vec![
                FwCfgItem { key: 0x0003, source: inline(&[0, 0, 0, 8, 0, 0, 0, 0]) },
                FwCfgItem { key: 0x0004, source: inline(&[]) },
                FwCfgItem { key: 0x8000, source: inline(b"acpi") },
            ],
            files: vec![
                FwCfgFile { name: "bootorder".to_owned(), source: inline(b"HALT\0") },
                FwCfgFile {
                    name: "etc/large".to_owned(),
                    source: FwCfgSource::Bulk { offset: 0x1000, len: (BULK - 0x1000) as u32 },
                },
            ],
        };
        FwCfg::new(config).expect("valid configuration")
    };
    storm(bytes, make, Setup { bulk: BULK, ram: true, ..ALONE });
}

/// Two disks and a CD-ROM, the media as the input says.
pub fn ide(bytes: &[u8]) {
    let drive = |media, block| {
        Some(IdeDriveConfig {
            media,
            block,
            serial: format!("BH0000{block}"),
            model: "DRIVE".to_owned(),
            firmware: "1.0".to_owned(),
            geometry: IdeGeometry { cylinders: 4, heads: 16, sectors: 63 },
            slow_writes: block == 1,
        })
    };
    let make = || {
        let drives = [drive(IdeMedia::Disk, 0), drive(IdeMedia::Disk, 1), drive(IdeMedia::Cdrom, 2), None];
        Piix3Ide::new(IdeConfig { drives })
    };
    storm(bytes, make, Setup { blocks: 3, ram: true, takes_time: bulkhead_piix3ide::TRANSFERS, ..ALONE });
}

/// The card with the least memory that it can have.
pub fn vga(bytes: &[u8]) {
    const VRAM: u32 = 256 << 10;
    let make = || Vga::new(VgaConfig { vram_bytes: VRAM }).expect("valid configuration");
    storm(bytes, make, Setup { bulk: VRAM as usize, ..ALONE });
}
