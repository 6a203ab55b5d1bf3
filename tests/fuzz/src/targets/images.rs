//! Image files of every size and content, and the server of their back end.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bulkhead_block::formats::{Image, Overlay, Raw};
use bulkhead_block::server::serve_pending;
use bulkhead_broker::firmware::{linux, multiboot};
use bulkhead_bus::bell::{BELL_BYTES, Bell};
use bulkhead_bus::links::{BLOCK_LINK, BlockClient, BlockOp, BlockServer};
use bulkhead_bus::storm::{Script, Source};
use bulkhead_bus::sys::Mapping;

use super::bus::shared;

/// Magic number of a multiboot header.
const MULTIBOOT: u32 = 0x1bad_b002;

/// A file of its own in the fuzzer's folder.
fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("bulkhead-fuzz-{}-{name}", std::process::id()))
}

/// A new unlinked file.
fn file() -> File {
    let path = path("image");
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .expect("a file for a test");
    std::fs::remove_file(&path).expect("own file");
    file
}

/// A file of `len` bytes with some content, and a second handle of it.
fn image(len: u64, source: &mut Script<'_>) -> (File, OwnedFd) {
    let file = file();
    let content = source.take(64);
    file.set_len(len).expect("a length");
    if len > 0 {
        let at = source.below(len);
        let fits = content.len().min((len - at) as usize);
        file.write_all_at(content.get(..fits).unwrap_or_default(), at).expect("room");
    }
    let second = file.try_clone().expect("a descriptor").into();
    (file, second)
}

/// Sizes from nothing to larger than memory (sparse), odd ones too.
fn size(source: &mut Script<'_>) -> u64 {
    match source.below(4) {
        0 => source.below(4096),
        1 => source.below(1 << 20),
        2 => source.below(1 << 12) * 512,
        _ => (1 << source.below(42)) - source.below(2),
    }
}

/// An offset near the edges of something.
fn offset(size: u64, source: &mut Script<'_>) -> u64 {
    let at = match source.below(4) {
        0 => source.below(8192),
        1 => size.wrapping_sub(source.below(8192)),
        2 => source.below(size.max(1)),
        _ => source.draw(),
    };
    at.min(size.saturating_add(512))
}

/// What the content of a drive must be: what was written last, and before that what the file had.
struct Model {
    base: File,
    written: Vec<(u64, Vec<u8>)>,
}

impl Model {
    fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        let mut done = 0;
        while let Ok(count) =
            self.base.read_at(data.get_mut(done..).unwrap_or_default(), offset + done as u64)
        {
            if count == 0 {
                break;
            }
            done += count;
        }
        for (start, bytes) in &self.written {
            for (at, byte) in (*start..).zip(bytes) {
                if let Some(to) = at.checked_sub(offset).and_then(|at| data.get_mut(at as usize)) {
                    *to = *byte;
                }
            }
        }
        data
    }
}

/// Raw images, also through the aligned buffer of `cache=none`.
pub fn raw(bytes: &[u8]) {
    let mut source = Script::new(bytes);
    let len = size(&mut source);
    // What the broker found may be longer or shorter than the file is now.
    let claimed = if source.below(4) == 0 { size(&mut source) } else { len };
    let (_, fd) = image(len, &mut source);
    let (read_only, strict) = (source.below(4) == 0, source.below(2) == 0);
    let copy = File::from(fd.try_clone().expect("a descriptor"));
    let mut raw = Raw::new(fd, claimed, read_only, source.below(2) == 0);
    if strict {
        raw = raw.strict();
    }
    // Writes go to the file that the model reads; the image must read back just that.
    let mut grown = len;
    for _ in 0..64 {
        if source.is_spent() {
            break;
        }
        let at = offset(claimed, &mut source);
        let count = source.below(12_288) as usize;
        if at.checked_add(count as u64).is_none_or(|end| end > claimed) {
            continue;
        }
        let fill = source.below(256) as u8;
        match source.below(3) {
            0 if grown < 1 << 30 || at < 1 << 30 => {
                let data = vec![fill; count];
                match raw.write(at, &data) {
                    Ok(()) => {
                        assert!(!read_only, "a read-only image was written");
                        if count > 0 {
                            let (end, shown) = (at + count as u64, claimed.next_multiple_of(512));
                            // What looks like a death in front of the cut is cut.
                            if strict && end.next_multiple_of(4096) == grown {
                                grown = grown.min(shown);
                            }
                            grown = grown.max(end);
                        }
                        let mut back = vec![0; count];
                        raw.read(at, &mut back).expect("what was written can be read");
                        assert!(back == data, "other bytes at {at}");
                    }
                    Err(error) => assert!(read_only, "{error}"),
                }
                let now = copy.metadata().expect("a file").len();
                assert!(now == grown, "the file has {now} bytes instead of {grown}");
            }
            1 => {
                let mut back = vec![0xcc; count];
                raw.read(at, &mut back).expect("inside the image");
                let mut want = vec![0; count];
                let mut done = 0;
                while let Ok(more @ 1..) =
                    copy.read_at(want.get_mut(done..).unwrap_or_default(), at + done as u64)
                {
                    done += more;
                }
                assert!(back == want, "other bytes at {at}");
            }
            _ => raw.flush().expect("a file can be synchronised"),
        }
    }
}

/// The overlay: what is written comes back, the image below never changes, and a successor sees the same.
pub fn overlay(bytes: &[u8]) {
    let mut source = Script::new(bytes);
    let len = size(&mut source).min(1 << 34);
    let (base, fd) = image(len, &mut source);
    let before = base.try_clone().expect("a descriptor");
    let temporary = file();
    let make = |fd: &OwnedFd| {
        let raw = Raw::new(fd.try_clone().expect("a descriptor"), len, true, false);
        Overlay::new(Box::new(raw), temporary.try_clone().expect("a descriptor").into())
    };
    let mut overlay = make(&fd).expect("an overlay");
    let mut model = Model { base, written: Vec::new() };
    for _ in 0..64 {
        if source.is_spent() {
            break;
        }
        let at = offset(len, &mut source);
        let count = source.below(12_288) as usize;
        if at.checked_add(count as u64).is_none_or(|end| end > len) {
            continue;
        }
        match source.below(5) {
            0 | 1 => {
                let data = vec![source.below(256) as u8; count];
                overlay.write(at, &data).expect("room");
                model.written.push((at, data));
            }
            2 | 3 => {
                let mut back = vec![0xcc; count];
                overlay.read(at, &mut back).expect("inside the image");
                assert!(back == model.read(at, count), "other bytes at {at}");
            }
            _ => overlay = make(&fd).expect("a successor's overlay"),
        }
    }
    assert_eq!(before.metadata().expect("a file").len(), len, "the image below has changed");
}

/// Requests of every form, and words of the link that no device would write.
pub fn server(bytes: &[u8]) {
    let mut source = Script::new(bytes);
    let len = size(&mut source).min(1 << 30);
    let (_, fd) = image(len, &mut source);
    let copy = File::from(fd.try_clone().expect("a descriptor"));
    let mut raw = Raw::new(fd, len, source.below(4) == 0, source.below(2) == 0);
    let link = shared(BLOCK_LINK);
    let lies = link();
    let bell = || Arc::new(Bell::new(Mapping::anonymous(BELL_BYTES).expect("mapping")));
    let (client, server) = (BlockClient::new(link(), bell()), BlockServer::new(link(), bell()));
    for sequence in 0..64 {
        if source.is_spent() {
            break;
        }
        let ops = [BlockOp::Read, BlockOp::Write, BlockOp::Flush, BlockOp::Discard];
        let op = ops[source.below(4) as usize];
        let slot = source.below(8) as usize;
        let at = if source.below(8) == 0 { source.draw() } else { offset(len, &mut source) };
        let _ = client.submit(slot, op, at, source.below(1 << 17) as usize, sequence);
        for _ in 0..source.below(3) {
            let word = 0x100 + source.below(0x80) as usize * 4;
            lies.word(word).store(source.draw() as u32 >> source.below(32), Ordering::SeqCst);
        }
        serve_pending(&server, &mut raw);
        assert!(!server.has_work(), "a request was left");
        client.release(slot);
        // Rounded up to a sector: the last one may be written whole.
        assert!(copy.metadata().expect("a file").len() <= len.next_multiple_of(512), "the image has grown");
    }
}

/// Kernel files: laid out within memory, or refused in one line.
pub fn kernel(bytes: &[u8]) {
    let mut source = Script::new(bytes);
    let low = 1u64 << (16 + source.below(17));
    let append = "x".repeat(source.below(300) as usize);
    let (setup, pad) = (source.below(80) as u8, source.below(1 << 16) as usize);
    let kind = source.below(4);
    let mut image = source.rest().to_vec();
    image.resize(image.len().max(pad), 0);
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = image.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    // The marks that make a file a kernel; the rest of the headers is the input's.
    match kind {
        0 | 1 => {
            put(0x1f1, &[setup]);
            put(0x202, b"HdrS");
        }
        2 => {
            let flags = u32::from(setup) << 16 | u32::from(setup & 7);
            for (at, word) in
                [MULTIBOOT, flags, MULTIBOOT.wrapping_add(flags).wrapping_neg()].iter().enumerate()
            {
                put(64 + at * 4, &word.to_le_bytes());
            }
            if setup & 8 != 0 {
                put(0, &[0x7f, b'E', b'L', b'F', 1 + (setup >> 4 & 1), 1]);
            }
        }
        _ => {}
    }
    let path = Path::new("kernel");
    let (parts, failed) = if multiboot::is_multiboot(&image) {
        match multiboot::load(path, &image, &append, None, low) {
            Ok(kernel) => (vec![kernel.image, kernel.modules], None),
            Err(error) => (Vec::new(), Some(error)),
        }
    } else {
        match linux::load(path, &image, &append, None, low) {
            Ok(kernel) => (vec![kernel.setup, kernel.code, kernel.command_line], None),
            Err(error) => (Vec::new(), Some(error)),
        }
    };
    for (address, data) in parts {
        assert!(
            data.is_empty() || u64::from(address) + data.len() as u64 <= low.max(1 << 20),
            "beyond memory"
        );
    }
    assert!(failed.is_none_or(|error| !error.to_string().contains('\n')));
}
