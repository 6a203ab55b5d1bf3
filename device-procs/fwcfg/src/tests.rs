//! Register-level tests of fw_cfg.

use bulkhead_bus::bench::Bench;
use bulkhead_bus::chip::Reg;
use bulkhead_bus::config::{FwCfgConfig, FwCfgFile, FwCfgItem, FwCfgSource};
use bulkhead_bus::conformance::{Setup, check};

use crate::spec::*;
use crate::{FwCfg, STEP};

const BULK_AT: usize = 0x1000;
const BULK_LEN: u32 = 9 << 20;
const BULK: usize = BULK_AT + BULK_LEN as usize;

fn config() -> FwCfgConfig {
    FwCfgConfig {
        items: vec![
            FwCfgItem { key: 0x0003, source: FwCfgSource::Inline(vec![0, 0, 0, 8, 0, 0, 0, 0]) },
            FwCfgItem { key: 0x8000, source: FwCfgSource::Inline(b"acpi".to_vec()) },
        ],
        files: vec![
            FwCfgFile { name: "bootorder".to_owned(), source: FwCfgSource::Inline(b"HALT\0".to_vec()) },
            FwCfgFile {
                name: "etc/large".to_owned(),
                source: FwCfgSource::Bulk { offset: BULK_AT as u64, len: BULK_LEN },
            },
        ],
    }
}

fn fwcfg() -> FwCfg {
    FwCfg::new(config()).expect("valid configuration")
}

fn bench() -> Bench<FwCfg> {
    let bench = Bench::new(fwcfg(), 0, 0, BULK);
    let data = (0..BULK_LEN).map(|at| (at % 251) as u8).collect::<Vec<_>>();
    assert!(bench.bulk.write(BULK_AT, &data));
    bench
}

fn item(bench: &mut Bench<FwCfg>, key: u16, len: usize) -> Vec<u8> {
    bench.write(0, SELECTOR, 2, key.into());
    (0..len).map(|_| bench.read(0, DATA, 1) as u8).collect()
}

/// Runs a DMA access and returns the control word afterwards.
fn dma(bench: &mut Bench<FwCfg>, control: u32, length: u32, target: u64) -> u32 {
    let mut access = control.to_be_bytes().to_vec();
    access.extend(length.to_be_bytes());
    access.extend(target.to_be_bytes());
    assert!(bench.ram.write(0x5000, &access));
    bench.write(0, DMA, 4, 0);
    bench.write(0, DMA + 4, 4, u64::from(0x5000u32.swap_bytes()));
    result(bench)
}

fn result(bench: &Bench<FwCfg>) -> u32 {
    let mut word = [0; 4];
    assert!(bench.ram.read(0x5000, &mut word));
    u32::from_be_bytes(word)
}

fn memory(bench: &Bench<FwCfg>, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    assert!(bench.ram.read(at, &mut bytes));
    bytes
}

#[test]
fn conforms() {
    check(fwcfg, Setup { bulk: BULK, ram: true, ..Setup::default() });
}

#[test]
fn signature_and_features_read_as_specified() {
    let mut bench = bench();
    assert_eq!(item(&mut bench, KEY_SIGNATURE, 6), b"QEMU\0\0");
    assert_eq!(item(&mut bench, KEY_ID, 4), [3, 0, 0, 0]);
    assert_eq!(bench.read(0, DMA, 4), u64::from(u32::from_le_bytes(*b"QEMU")));
    assert_eq!(bench.read(0, DMA + 4, 4), u64::from(u32::from_le_bytes(*b" CFG")));
}

#[test]
fn items_are_found_by_key_and_unknown_keys_read_zero() {
    let mut bench = bench();
    assert_eq!(item(&mut bench, 0x0003, 4), [0, 0, 0, 8]);
    assert_eq!(item(&mut bench, 0x8000, 4), b"acpi");
    assert_eq!(item(&mut bench, 0x1234, 4), [0; 4]);
    assert_eq!(item(&mut bench, 0x4003, 4), [0, 0, 0, 8], "the former write bit selects the same item");
}

#[test]
fn directory_lists_size_key_and_name_of_each_file() {
    let mut bench = bench();
    let directory = item(&mut bench, KEY_DIRECTORY, 4 + 2 * ENTRY_BYTES);
    assert_eq!(directory[..4], [0, 0, 0, 2]);
    let second = &directory[4 + ENTRY_BYTES..];
    assert_eq!(second[..4], BULK_LEN.to_be_bytes());
    assert_eq!(second[4..8], [0, 0x21, 0, 0]);
    assert_eq!(&second[8..18], b"etc/large\0");
    assert_eq!(item(&mut bench, 0x20, 5), b"HALT\0");
}

#[test]
fn block_read_continues_where_single_reads_stopped() {
    let mut bench = bench();
    item(&mut bench, 0x21, 10);
    let mut data = vec![0xaa; 600];
    let reg = Reg { region: 0, offset: DATA, size: 1 };
    let count = bench.with(|chip, env| bulkhead_bus::chip::Chip::read_block(chip, reg, &mut data, env));
    assert_eq!(count, Ok(600));
    let expected = (10..610).map(|at| (at % 251) as u8).collect::<Vec<_>>();
    assert_eq!(data, expected);
    assert_eq!(bench.read(0, DATA, 1), 610 % 251);
}

#[test]
fn dma_selects_skips_reads_and_fills_with_zeros_beyond_the_end() {
    let mut bench = bench();
    assert_eq!(dma(&mut bench, CONTROL_SELECT | 0x20 << 16, 0, 0), 0);
    assert_eq!(dma(&mut bench, CONTROL_SKIP, 2, 0), 0);
    assert!(bench.ram.write(0x6000, &[0xee; 8]));
    assert_eq!(dma(&mut bench, CONTROL_READ, 6, 0x6000), 0);
    assert_eq!(memory(&bench, 0x6000, 8), b"LT\0\0\0\0\xee\xee");
}

#[test]
fn dma_read_of_an_unknown_item_gives_zeros() {
    let mut bench = bench();
    assert!(bench.ram.write(0x6000, &[0xee; 4]));
    assert_eq!(dma(&mut bench, CONTROL_SELECT | CONTROL_READ | 0x1234 << 16, 4, 0x6000), 0);
    assert_eq!(memory(&bench, 0x6000, 4), [0; 4]);
}

#[test]
fn dma_write_and_dma_outside_of_memory_end_with_the_error_bit() {
    let mut bench = bench();
    assert_eq!(dma(&mut bench, CONTROL_SELECT | CONTROL_WRITE | 0x20 << 16, 4, 0x6000), CONTROL_ERROR);
    let select = CONTROL_SELECT | CONTROL_READ | 0x20 << 16;
    assert_eq!(dma(&mut bench, select, 4, 0xfee0_0000), CONTROL_ERROR, "registers are not memory");
    assert_eq!(dma(&mut bench, select, 4, u64::MAX - 1), CONTROL_ERROR);
}

#[test]
fn access_structure_outside_of_memory_is_dropped() {
    let mut bench = bench();
    bench.write(0, DMA, 4, u64::from(u32::MAX));
    bench.write(0, DMA + 4, 4, u64::from(u32::MAX));
    assert_eq!(item(&mut bench, KEY_SIGNATURE, 4), b"QEMU");
}

#[test]
fn what_lies_behind_video_memory_is_not_reached() {
    let mut bench = bench();
    let select = CONTROL_SELECT | CONTROL_READ | 0x20 << 16;
    for target in [0x9_fffe, 0xa_8000, 0xb_fffe] {
        assert!(bench.ram.write(target, &[0xee; 4]));
        assert_eq!(dma(&mut bench, select, 4, target), CONTROL_ERROR, "{target:#x}");
        assert_eq!(memory(&bench, target, 4), [0xee; 4], "{target:#x}");
    }
    assert_eq!(dma(&mut bench, select, 4, 0x9_fffc), 0);
    assert_eq!(dma(&mut bench, select, 4, 0xc_0000), 0);
    // An access structure there is neither read nor answered.
    for access in [0x9_fff8u32, 0xa_8000, 0xb_fff8] {
        let mut words = [0; ACCESS_BYTES];
        words[..4].copy_from_slice(&(CONTROL_SELECT | 0x20 << 16).to_be_bytes());
        assert!(bench.ram.write(access.into(), &words));
        bench.write(0, SELECTOR, 2, KEY_SIGNATURE.into());
        bench.write(0, DMA + 4, 4, u64::from(access.swap_bytes()));
        assert_eq!(memory(&bench, access.into(), ACCESS_BYTES), words, "{access:#x}");
        assert_eq!(bench.read(0, DATA, 1), u64::from(b'Q'), "{access:#x}");
    }
}

#[test]
fn long_transfer_goes_on_by_timer_and_survives_a_restart() {
    let mut bench = bench();
    let control = dma(&mut bench, CONTROL_SELECT | CONTROL_READ | 0x21 << 16, BULK_LEN, 0x10_0000);
    assert_ne!(control, 0, "not yet done after {STEP} bytes");
    bench.restart(fwcfg()).expect("own state");
    bench.advance(1_000_000);
    assert_eq!(result(&bench), 0);
    let data = memory(&bench, 0x10_0000, BULK_LEN as usize);
    assert!(data.iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8));
}

#[test]
fn transfer_begun_over_another_leaves_a_state_of_its_own_though_nothing_comes_of_it() {
    let mut bench = bench();
    dma(&mut bench, CONTROL_SELECT | CONTROL_READ | 0x21 << 16, BULK_LEN, 0x10_0000);
    // An access structure beyond memory.
    bench.write(0, DMA, 8, u64::MAX);
    assert_eq!(bench.outputs().deadline, None);
    bench.restart(fwcfg()).expect("own state");
}

#[test]
fn transfer_of_four_gigabytes_is_bounded_by_memory() {
    let mut bench = bench();
    dma(&mut bench, CONTROL_SELECT | CONTROL_READ | 0x20 << 16, u32::MAX, 0x10_0000);
    bench.advance(1_000_000);
    assert_eq!(result(&bench), CONTROL_ERROR);
    assert_eq!(bench.outputs().deadline, None);
}

#[test]
fn bad_configurations_are_refused() {
    let item = |key| FwCfgItem { key, source: FwCfgSource::Inline(Vec::new()) };
    for items in [
        vec![item(0)],
        vec![item(KEY_DIRECTORY)],
        vec![item(5), item(5)],
        vec![item(0x20)],
        vec![item(0x4005)],
    ] {
        assert!(FwCfg::new(FwCfgConfig { items, files: Vec::new() }).is_err());
    }
    let file = |name: String| FwCfgFile { name, source: FwCfgSource::Inline(Vec::new()) };
    for name in [String::new(), "x".repeat(56), "é".to_owned()] {
        assert!(FwCfg::new(FwCfgConfig { items: Vec::new(), files: vec![file(name)] }).is_err());
    }
}
