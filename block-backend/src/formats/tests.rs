//! Formats against a plain array, in random order, with successors in between.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use bulkhead_bus::conformance::Random;

use super::{Image, ImageError, Overlay, Raw};

/// Size of the drives: no multiple of a cluster, nor of a sector.
const BYTES: usize = 300_000 + 100;
/// What a drive shows of it: whole sectors.
const SHOWN: usize = BYTES.next_multiple_of(512);

/// A file without a name.
fn file() -> OwnedFd {
    disk_file(false).expect("a temporary file").into()
}

/// An ordinary file without a name, in the folder for tests; with `O_DIRECT` when the file system has it.
fn disk_file(direct: bool) -> Option<File> {
    let folder = std::env::var_os("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, Into::into);
    let flags = libc::O_TMPFILE | if direct { libc::O_DIRECT } else { 0 };
    std::fs::OpenOptions::new().read(true).write(true).custom_flags(flags).open(folder).ok()
}

fn noise(random: &mut Random, len: usize) -> Vec<u8> {
    (0..len).map(|_| random.draw() as u8).collect()
}

/// A file with noise in it, and the same as an array that is as long as the drive shows.
fn filled(random: &mut Random) -> (File, Vec<u8>) {
    let file = disk_file(false).expect("a temporary file");
    let mut model = noise(random, BYTES);
    file.write_all_at(&model, 0).expect("writing the image");
    model.resize(SHOWN, 0);
    (file, model)
}

/// Random sector-aligned reads and writes; `renew` puts a successor in the image's place now and then.
fn compare(
    mut image: Box<dyn Image>,
    model: &mut [u8],
    random: &mut Random,
    renew: impl Fn() -> Box<dyn Image>,
) {
    for step in 0..1500 {
        let sectors = (model.len() / 512) as u64;
        let first = random.below(sectors);
        let most = if random.below(6) == 0 { 256 } else { 20 };
        let count = (1 + random.below(most)).min(sectors - first);
        let span = first as usize * 512..(first + count) as usize * 512;
        match random.below(9) {
            0..4 => {
                let mut got = vec![0xcc; span.len()];
                image.read(first * 512, &mut got).expect("read");
                assert!(got == model[span.clone()], "step {step}: {span:?}");
            }
            4..8 => {
                let data = noise(random, span.len());
                image.write(first * 512, &data).expect("write");
                model[span].copy_from_slice(&data);
            }
            _ => {
                image.flush().expect("flush");
                image = renew();
            }
        }
    }
    let mut got = vec![0; model.len()];
    image.read(0, &mut got).expect("read");
    assert!(got == model);
}

#[test]
fn raw_agrees_with_an_array() {
    let mut random = Random::new(1);
    let (file, mut model) = filled(&mut random);
    let new = || -> Box<dyn Image> {
        Box::new(Raw::new(file.try_clone().expect("dup").into(), BYTES as u64, false, false))
    };
    compare(new(), &mut model, &mut random, new);
    let len = file.metadata().expect("size").len() as usize;
    assert!(len == BYTES || len == SHOWN, "grown by no more than the last sector: {len}");
}

#[test]
fn raw_on_storage_of_large_blocks_agrees_with_an_array_and_keeps_the_length() {
    let mut random = Random::new(2);
    let (file, mut model) = filled(&mut random);
    let new = || -> Box<dyn Image> {
        Box::new(Raw::new(file.try_clone().expect("dup").into(), BYTES as u64, false, false).strict())
    };
    compare(new(), &mut model, &mut random, new);
    let len = file.metadata().expect("size").len() as usize;
    assert!(len == BYTES || len == SHOWN, "grown by no more than the last sector: {len}");
}

/// The process dies between its write of whole blocks and the cut: the image is as long as before when the write was run again.
#[test]
fn raw_on_storage_of_large_blocks_keeps_the_length_across_a_death_in_front_of_the_cut() {
    for (bytes, shown) in [(4096 + 512, 4096 + 512), (4096 + 100, 4096 + 512)] {
        let file = disk_file(false).expect("a temporary file");
        file.set_len(2 * 4096).expect("size");
        let mut successor = Raw::new(file.try_clone().expect("dup").into(), bytes, false, false).strict();
        successor.write(4096, &[7; 512]).expect("write");
        assert_eq!(file.metadata().expect("a file").len(), shown);
    }
}

/// Somebody has made the file longer meanwhile.
#[test]
fn raw_on_storage_of_large_blocks_cuts_nothing_that_it_has_not_written() {
    let file = disk_file(false).expect("a temporary file");
    file.set_len(5 * 4096).expect("size");
    let mut raw = Raw::new(file.try_clone().expect("dup").into(), 4096 + 512, false, false).strict();
    raw.write(4096, &[7; 512]).expect("write");
    assert_eq!(file.metadata().expect("a file").len(), 5 * 4096);
}

#[test]
fn raw_with_direct_input_and_output_agrees_with_an_array() {
    let Some(file) = disk_file(true) else {
        eprintln!("skipped: no O_DIRECT on the file system of the tests");
        return;
    };
    let mut random = Random::new(3);
    // Written through an aligned buffer by the image itself; unaligned buffers (those of `compare`) go through the bounce.
    file.set_len(SHOWN as u64).expect("size");
    let mut model = vec![0; SHOWN];
    let new = || -> Box<dyn Image> {
        Box::new(Raw::new(file.try_clone().expect("dup").into(), SHOWN as u64, false, false))
    };
    compare(new(), &mut model, &mut random, new);
}

#[test]
fn overlay_agrees_with_an_array_across_successors_and_leaves_the_image_alone() {
    for strict in [false, true] {
        let mut random = Random::new(4);
        let (below, mut model) = filled(&mut random);
        let before = model.clone();
        let above = file();
        let new = || -> Box<dyn Image> {
            let raw = Raw::new(below.try_clone().expect("dup").into(), BYTES as u64, true, false);
            let raw = if strict { raw.strict() } else { raw };
            let above = above.as_fd().try_clone_to_owned().expect("dup");
            Box::new(Overlay::new(Box::new(raw), above).expect("overlay"))
        };
        compare(new(), &mut model, &mut random, new);
        let mut got = vec![0; BYTES];
        below.read_exact_at(&mut got, 0).expect("read");
        assert!(got == before[..BYTES] && below.metadata().expect("size").len() == BYTES as u64);
    }
}

/// The process dies after any number of its writes to the temporary file: what the successor shows of a sector is old or new,
/// never something else, and sectors that were not written stay.
#[test]
fn overlay_cut_off_between_cluster_and_bit_shows_old_or_new() {
    let mut random = Random::new(5);
    let (below, model) = filled(&mut random);
    let raw = || Box::new(Raw::new(below.try_clone().expect("dup").into(), BYTES as u64, true, false));
    let data = noise(&mut random, 5 * 512);
    // Sectors 6..11 touch clusters 0 and 1, both in part.
    let whole = file();
    let mut overlay = Overlay::new(raw(), whole.as_fd().try_clone_to_owned().expect("dup")).expect("overlay");
    overlay.write(6 * 512, &data).expect("write");
    let mut bytes = vec![0u8; 1 << 20];
    let len = nix::sys::uio::pread(&whole, &mut bytes, 0).expect("read");
    let bitmap = BYTES.next_multiple_of(4096);
    assert!(len > bitmap && bytes[bitmap] == 3);
    for with_bits in [false, true] {
        let cut = file();
        nix::sys::uio::pwrite(&cut, &bytes[..if with_bits { len } else { bitmap }], 0).expect("write");
        let mut successor = Overlay::new(raw(), cut).expect("overlay");
        let mut got = vec![0; 8192];
        successor.read(0, &mut got).expect("read");
        let mut want = model[..8192].to_vec();
        if with_bits {
            want[6 * 512..11 * 512].copy_from_slice(&data);
        }
        assert!(got == want, "bits written: {with_bits}");
        // The replayed request ends right either way.
        successor.write(6 * 512, &data).expect("write");
        successor.read(0, &mut got).expect("read");
        want[6 * 512..11 * 512].copy_from_slice(&data);
        assert!(got == want);
    }
}

/// A drive full of zeros.
struct Zeros(u64);

impl Image for Zeros {
    fn bytes(&self) -> u64 {
        self.0
    }

    fn read(&mut self, _offset: u64, to: &mut [u8]) -> Result<(), ImageError> {
        to.fill(0);
        Ok(())
    }

    fn write(&mut self, _offset: u64, _from: &[u8]) -> Result<(), ImageError> {
        Err(ImageError::ReadOnly)
    }

    fn flush(&mut self) -> Result<(), ImageError> {
        Ok(())
    }

    fn is_write_through(&self) -> bool {
        false
    }
}

/// Its bits alone are as much as the jail leaves a back end, and more than is kept.
#[test]
fn overlay_of_a_large_drive_keeps_what_was_written_all_over_it() {
    // What a page of bits stands for.
    const SPAN: u64 = 128 << 20;
    let bytes = 2 << 40;
    let above = file();
    let new = || {
        let above = above.as_fd().try_clone_to_owned().expect("dup");
        Overlay::new(Box::new(Zeros(bytes)), above).expect("overlay")
    };
    let mut overlay = new();
    let ends: Vec<u64> = (1..=1100).map(|page| page * SPAN).chain([bytes - 4096]).collect();
    let fill = |at: u64| (at / SPAN) as u8 | 1;
    for at in &ends {
        // On both sides of the end of a page.
        overlay.write(at - 512, &[fill(*at); 1024]).expect("write");
    }
    for mut overlay in [overlay, new()] {
        for at in &ends {
            let mut got = [1; 2048];
            overlay.read(at - 1024, &mut got).expect("read");
            assert!(got == [[0; 512], [fill(*at); 512], [fill(*at); 512], [0; 512]].concat()[..], "at {at}");
        }
    }
}

#[test]
fn read_only_image_refuses_writes() {
    let mut raw = Raw::new(file(), 4096, true, false);
    assert!(matches!(raw.write(0, &[1; 512]), Err(ImageError::ReadOnly)));
    raw.flush().expect("nothing to flush");
}

#[test]
fn sparse_image_stays_sparse() {
    use std::os::unix::fs::MetadataExt;
    let file = disk_file(false).expect("a temporary file");
    file.set_len(1 << 30).expect("size");
    let mut raw = Raw::new(file.try_clone().expect("dup").into(), 1 << 30, false, true);
    raw.write(512 << 20, &[7; 4096]).expect("write");
    let mut got = [1; 4096];
    raw.read(0, &mut got).expect("read");
    assert_eq!(got, [0; 4096]);
    assert!(file.metadata().expect("size").blocks() * 512 < 1 << 20);
}

#[test]
fn host_errors_are_reported_not_hidden() {
    let (read, _write) = nix::unistd::pipe().expect("pipe");
    let mut raw = Raw::new(read, 4096, false, false);
    assert!(matches!(raw.read(0, &mut [0; 512]), Err(ImageError::Host(_))));
    assert!(matches!(raw.write(0, &[0; 512]), Err(ImageError::Host(_))));
}

/// Found by the fuzzer: a write of nothing beyond the end of a file that wants whole blocks made the file longer.
#[test]
fn write_of_nothing_changes_nothing() {
    let file = disk_file(false).expect("a temporary file");
    file.write_all_at(&[1; 5000], 0).expect("writing the image");
    let copy = file.try_clone().expect("a descriptor");
    let mut raw = Raw::new(file.into(), 1 << 20, false, false).strict();
    raw.write((1 << 20) - 1, &[]).expect("nothing to do");
    assert_eq!(copy.metadata().expect("a file").len(), 5000);
}

/// Found by the fuzzer: a file that was cut to nothing under its image came out longer by whole blocks.
#[test]
fn write_to_an_emptied_file_makes_it_as_long_as_an_ordinary_one() {
    let file = disk_file(false).expect("a temporary file");
    let copy = file.try_clone().expect("a descriptor");
    let mut raw = Raw::new(file.into(), 1 << 20, false, false).strict();
    raw.write(600, &[1; 399]).expect("room");
    assert_eq!(copy.metadata().expect("a file").len(), 999);
}
