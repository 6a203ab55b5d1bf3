//! Disk images: opened and locked as the invoking user; the back ends get descriptors, never names.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use bulkhead_bus::config::{BlockCache, BlockConfig};
use bulkhead_config::{Cache, Drive, Geometry, Media, Translation};

use crate::fail::{Fail, reason};
use crate::sys;

/// A drive with its files.
#[derive(Debug)]
pub struct OpenDrive {
    /// Name of the back end: `hda`..`hdd`.
    pub name: String,
    /// As the monitor shows it: `ide0-hd0`, `ide1-cd0`.
    pub title: String,
    /// Position 0..4.
    pub index: u8,
    /// Disk or CD-ROM.
    pub media: Media,
    /// Configuration of the back end.
    pub config: BlockConfig,
    /// Image.
    pub image: Option<File>,
    /// Unlinked temporary file that takes the writes.
    pub overlay: Option<File>,
    /// Serial number.
    pub serial: String,
    /// Geometry reported to guest and firmware (disks).
    pub geometry: Geometry,
    /// File name, for `info block` only.
    pub path: Option<String>,
}

const SECTOR: u64 = 512;

/// Opens a drive's files.
///
/// # Errors
/// One line naming option, file and reason.
pub fn open(drive: &Drive) -> Result<OpenDrive, Fail> {
    let letter = char::from(b'a' + drive.index.min(25));
    let (bus, unit) = (drive.index / 2, drive.index % 2);
    let (kind, cdrom) = match drive.media {
        Media::Disk => ("hd", false),
        Media::Cdrom => ("cd", true),
    };
    let mut open = OpenDrive {
        name: format!("hd{letter}"),
        title: format!("ide{bus}-{kind}{unit}"),
        index: drive.index,
        media: drive.media,
        config: BlockConfig {
            name: format!("hd{letter}"),
            empty: true,
            read_only: cdrom,
            snapshot: drive.snapshot && !cdrom,
            cache: match drive.cache {
                Some(Cache::None) => BlockCache::None,
                Some(Cache::Writeback) => BlockCache::Writeback,
                Some(Cache::Writethrough) => BlockCache::Writethrough,
                // Manual, 3.3 `-drive`: "When using the -snapshot option, writeback caching is used by default."
                None if drive.snapshot => BlockCache::Writeback,
                None => BlockCache::Writethrough,
            },
            format: "raw".to_owned(),
            bytes: 0,
        },
        image: None,
        overlay: None,
        serial: drive.serial.clone().unwrap_or_else(|| format!("QM{:05}", drive.index + 1)),
        geometry: drive.geometry.unwrap_or_else(|| geometry(0)),
        path: drive.file.as_ref().map(|path| path.display().to_string()),
    };
    let Some(path) = &drive.file else { return Ok(open) };
    let fail = |why: String| Fail(format!("{}: {why}", drive.option));
    let (file, read_only) =
        open_image(path, cdrom || open.config.snapshot, open.config.cache).map_err(fail)?;
    if cdrom && sys::lacks_disc(file.as_fd()) {
        open.path = None;
        return Ok(open);
    }
    open.config.bytes = if file.metadata().map_err(|e| fail(reason(&e)))?.file_type().is_block_device() {
        sys::block_device_bytes(file.as_fd()).map_err(|e| fail(reason(&e)))?
    } else {
        file.metadata().map_err(|e| fail(reason(&e)))?.len()
    };
    if drive.format.is_none()
        && let Some(format) = probe(path)
    {
        return Err(fail(format!("image format {format}: not supported yet")));
    }
    lock(&file, read_only).map_err(fail)?;
    if open.config.snapshot {
        open.overlay = Some(temporary().map_err(|e| fail(format!("temporary file: {}", reason(&e))))?);
    }
    open.config.empty = false;
    open.config.read_only = read_only && !open.config.snapshot;
    open.geometry = drive.geometry.unwrap_or_else(|| geometry(open.config.bytes / SECTOR));
    open.image = Some(file);
    Ok(open)
}

fn open_image(path: &Path, read_only: bool, cache: BlockCache) -> Result<(File, bool), String> {
    let kind = std::fs::metadata(path).map_err(|e| reason(&e))?.file_type();
    if kind.is_dir() {
        return Err("is a directory".to_owned());
    }
    if !kind.is_file() && !kind.is_block_device() {
        return Err("neither a regular file nor a block device".to_owned());
    }
    let direct = if cache == BlockCache::None { libc::O_DIRECT } else { 0 };
    let open = |write: bool| {
        // Non-blocking only matters to devices without a medium; it has no effect on reading and writing.
        OpenOptions::new().read(true).write(write).custom_flags(direct | libc::O_NONBLOCK).open(path)
    };
    if read_only {
        return open(false).map(|file| (file, true)).map_err(|e| reason(&e));
    }
    match open(true) {
        Ok(file) => Ok((file, false)),
        Err(error) => match error.raw_os_error() {
            Some(libc::EACCES | libc::EROFS | libc::EPERM) => {
                open(false).map(|file| (file, true)).map_err(|e| reason(&e))
            }
            Some(libc::EINVAL) if direct != 0 => {
                Err("cache=none: the file system has no direct input and output".to_owned())
            }
            _ => Err(reason(&error)),
        },
    }
}

/// Formats that exist but are not raw, by what the image begins with. A guest that writes such a signature to its raw disk is
/// refused at the next start, never given what the signature names.
const SIGNATURES: &[(&[u8], &str)] = &[
    (b"QFI\xfb", "qcow"),
    (b"KDMV", "vmdk"),
    (b"COWD", "vmdk"),
    (b"conectix", "vpc"),
    (b"vhdxfile", "vhdx"),
    (b"OOOM", "cow"),
    (b"#!/bin/sh\n#V2.0 Format\n", "cloop"),
    (b"WithoutFreeSpace", "parallels"),
    (b"WithouFreSpacExt", "parallels"),
    (b"Bochs Virtual HD Image", "bochs"),
];
/// What the last sector of Apple's disk images begins with.
const DMG: &[u8] = b"koly";
/// No signature is longer.
const SIGNATURE_MAX: u64 = 64;

/// The format of an image that is not raw.
fn probe(path: &Path) -> Option<&'static str> {
    let mut file = File::open(path).ok()?;
    let mut head = Vec::new();
    (&file).take(SIGNATURE_MAX).read_to_end(&mut head).ok()?;
    if let Some((_, format)) = SIGNATURES.iter().find(|(signature, _)| head.starts_with(signature)) {
        return Some(format);
    }
    let mut tail = [0; DMG.len()];
    file.seek(SeekFrom::End(-(SECTOR as i64))).ok()?;
    file.read_exact(&mut tail).ok()?;
    (tail == DMG).then_some("dmg")
}

/// A lock on the open file, shared by every descriptor of it and gone with the last: exclusive for a writer.
fn lock(file: &File, read_only: bool) -> Result<(), String> {
    let result = if read_only { file.try_lock_shared() } else { file.try_lock() };
    match result {
        Ok(()) => Ok(()),
        Err(std::fs::TryLockError::WouldBlock) => Err(match holder(file) {
            Some(pid) => format!("image is in use by process {pid}"),
            None => "image is in use by another process".to_owned(),
        }),
        // A file system without locks: better to run than to refuse.
        Err(std::fs::TryLockError::Error(_)) => Ok(()),
    }
}

/// Who holds a lock on this file, by the kernel's table: `1: FLOCK  ADVISORY  WRITE 812 08:01:1234 0 EOF`.
fn holder(file: &File) -> Option<u32> {
    let meta = file.metadata().ok()?;
    let (major, minor) = (libc::major(meta.dev()), libc::minor(meta.dev()));
    let id = format!("{major:02x}:{minor:02x}:{}", meta.ino());
    let table = std::fs::read_to_string("/proc/locks").ok()?;
    table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|words| words.get(1) == Some(&"FLOCK") && words.get(5) == Some(&id.as_str()))
        .and_then(|words| words.get(4)?.parse().ok())
}

/// A file without a name in the folder for temporary files.
fn temporary() -> std::io::Result<File> {
    let folder = std::env::temp_dir();
    let made =
        OpenOptions::new().read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(&folder);
    match made {
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::ENOENT)) =>
        {
            let (fd, path) = nix::unistd::mkstemp(&folder.join("bulkhead-XXXXXX"))?;
            nix::unistd::unlink(&path)?;
            Ok(File::from(fd))
        }
        made => made,
    }
}

/// Default geometry of a disk of `sectors`: 16 heads, 63 sectors a track.
pub fn geometry(sectors: u64) -> Geometry {
    let cylinders = (sectors / (16 * 63)).clamp(2, 16383) as u16;
    Geometry { cylinders, heads: 16, sectors: 63, translation: Translation::Auto }
}

impl OpenDrive {
    /// Descriptors for the back end.
    pub fn descriptors(&self) -> impl Iterator<Item = (&'static str, BorrowedFd<'_>)> {
        let image = self.image.iter().map(|file| ("image0", file.as_fd()));
        image.chain(self.overlay.iter().map(|file| ("overlay", file.as_fd())))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use bulkhead_tests::Scratch;

    use super::*;

    #[test]
    fn a_snapshot_is_cached_for_writing_unless_asked_otherwise() {
        let scratch = Scratch::new("cache");
        let path = PathBuf::from(scratch.file("image"));
        std::fs::write(&path, [0; 4096]).expect("a file for a test");
        let with = |snapshot, cache| {
            let drive = Drive {
                file: Some(path.clone()),
                media: Media::Disk,
                snapshot,
                cache,
                ..Drive::empty_cdrom()
            };
            open(&drive).expect("an image").config.cache
        };
        assert_eq!(with(false, None), BlockCache::Writethrough);
        assert_eq!(with(true, None), BlockCache::Writeback);
        assert_eq!(with(true, Some(Cache::Writethrough)), BlockCache::Writethrough);
    }

    #[test]
    fn an_image_that_is_not_raw_is_known_by_its_first_bytes_or_its_last_sector() {
        let scratch = Scratch::new("images");
        let path = PathBuf::from(scratch.file("image"));
        let of = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("a file for a test");
            probe(&path)
        };
        let known: [(&[u8], &str); 6] = [
            (b"QFI\xfb\0\0\0\x02", "qcow"),
            (b"conectix", "vpc"),
            (b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0", "cloop"),
            (b"WithoutFreeSpace\x02", "parallels"),
            (b"WithouFreSpacExt\x02", "parallels"),
            (b"Bochs Virtual HD Image\0", "bochs"),
        ];
        for (head, format) in known {
            assert_eq!(of(head), Some(format));
            assert_eq!(of(&[head, [0; 4096].as_slice()].concat()), Some(format));
            assert_eq!(of(&[[0; 4096].as_slice(), head].concat()), None, "{format} elsewhere");
        }
        assert!(SIGNATURES.iter().all(|(signature, _)| signature.len() as u64 <= SIGNATURE_MAX));
        assert_eq!(of(&[&[0; 1000], DMG, &[0; 508]].concat()), Some("dmg"));
        assert_eq!(of(&[&[0; 1000], DMG, &[0; 509]].concat()), None);
        for raw in [0, 3, 511, 4096] {
            assert_eq!(of(&vec![0; raw]), None);
        }
    }
}
