//! Raw images: the drive's bytes are the file's bytes. Sparse files stay sparse where the guest does not write.
//!
//! With `cache=none` the file is open with `O_DIRECT`: buffers, offsets and lengths must then be multiples of the storage's block
//! size. Requests of drives are multiples of 512 bytes in page-aligned memory, which most storage takes as it is. Where it
//! does not (`EINVAL`: 4 KiB blocks, an odd buffer of a layer above), the range is widened to whole 4 KiB blocks in a buffer of our own.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::uio::{pread, pwrite};

use super::{Image, ImageError};

/// Alignment that every storage takes.
const BLOCK: usize = 4096;
/// Smallest unit of a drive.
const SECTOR: u64 = 512;

/// A raw image file.
#[derive(Debug)]
pub struct Raw {
    file: OwnedFd,
    bytes: u64,
    read_only: bool,
    write_through: bool,
    /// The file refused an access that was not aligned to [`BLOCK`].
    strict: bool,
    /// Room for widened accesses.
    bounce: Vec<u8>,
}

impl Raw {
    /// Over an open file of `bytes` bytes. `write_through`: every write is durable before it is reported.
    pub fn new(file: OwnedFd, bytes: u64, read_only: bool, write_through: bool) -> Raw {
        Raw { file, bytes, read_only, write_through, strict: false, bounce: Vec::new() }
    }

    /// Where the last write to a drive of `bytes` bytes can end: that of a widened range does so at a whole block.
    pub fn longest(bytes: u64) -> u64 {
        bytes.checked_next_multiple_of(BLOCK as u64).unwrap_or(u64::MAX)
    }

    /// Treats the file as one that refuses unaligned accesses, without waiting for it to refuse one.
    #[must_use]
    pub fn strict(self) -> Raw {
        Raw { strict: true, ..self }
    }

    /// Runs `act` with [`BLOCK`]-aligned room of `len` bytes.
    fn with_room<R>(&mut self, len: usize, act: impl FnOnce(&Raw, &mut [u8]) -> R) -> Result<R, ImageError> {
        let mut bounce = std::mem::take(&mut self.bounce);
        if bounce.len() < len + BLOCK {
            bounce.resize(len + BLOCK, 0);
        }
        let start = bounce.as_ptr().align_offset(BLOCK);
        let room = bounce.get_mut(start..).and_then(|rest| rest.get_mut(..len));
        let result = room.map(|room| act(self, room)).ok_or(ImageError::Host(Errno::ENOMEM));
        self.bounce = bounce;
        result
    }

    fn read_widened(&mut self, offset: u64, to: &mut [u8]) -> Result<(), ImageError> {
        let (start, len) = widened(offset, to.len())?;
        let skip = (offset - start) as usize;
        self.with_room(len, |raw, room| {
            read_all(&raw.file, start, room, raw.bytes)?;
            let part = room.get(skip..skip + to.len()).ok_or(ImageError::Range)?;
            to.copy_from_slice(part);
            Ok(())
        })?
    }

    fn write_widened(&mut self, offset: u64, from: &[u8]) -> Result<(), ImageError> {
        let (start, len) = widened(offset, from.len())?;
        let skip = (offset - start) as usize;
        let limit = i64::try_from(start + len as u64).map_err(|_| ImageError::Range)?;
        // The file must not come out longer than by an ordinary write.
        let before = match self.length()? {
            // Just what a predecessor leaves that died before it cut the file.
            found if found == limit => found.min(self.shown()),
            found => found,
        };
        let end = before.max(i64::try_from(offset + from.len() as u64).map_err(|_| ImageError::Range)?);
        self.with_room(len, |raw, room| {
            read_all(&raw.file, start, room, u64::MAX)?;
            room.get_mut(skip..skip + from.len()).ok_or(ImageError::Range)?.copy_from_slice(from);
            let written = write_all(&raw.file, start, room);
            // Also after a write that has failed on its way.
            let cut = if limit > end { raw.cut(end) } else { Ok(()) };
            written.and(cut)
        })?
    }

    /// The drive's whole sectors in bytes, as the file may be after ordinary writes.
    fn shown(&self) -> i64 {
        let bytes = self.bytes.checked_next_multiple_of(SECTOR).unwrap_or(self.bytes);
        i64::try_from(bytes).unwrap_or(i64::MAX)
    }

    /// Length of the file or device.
    fn length(&self) -> Result<i64, ImageError> {
        Ok(nix::unistd::lseek(&self.file, 0, nix::unistd::Whence::SeekEnd)?)
    }

    /// Takes back what is longer than `end`.
    fn cut(&self, end: i64) -> Result<(), ImageError> {
        if self.length()? <= end {
            return Ok(());
        }
        match nix::unistd::ftruncate(&self.file, end) {
            // A device is as long as it is.
            Ok(()) | Err(Errno::EINVAL) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The whole blocks that hold a range: start and length.
fn widened(offset: u64, len: usize) -> Result<(u64, usize), ImageError> {
    let block = BLOCK as u64;
    let start = offset - offset % block;
    let end = offset.checked_add(len as u64).and_then(|end| end.checked_next_multiple_of(block));
    Ok((start, (end.ok_or(ImageError::Range)? - start) as usize))
}

fn is_aligned(offset: u64, data: &[u8]) -> bool {
    offset.is_multiple_of(BLOCK as u64)
        && data.len().is_multiple_of(BLOCK)
        && data.as_ptr().addr().is_multiple_of(BLOCK)
}

/// Fills `to` from `file`; what lies beyond the end of the file reads as zeros. A file known to be `bytes` long is not asked for more
/// at an offset that direct input would refuse.
pub(super) fn read_all(file: &impl AsFd, offset: u64, to: &mut [u8], bytes: u64) -> Result<(), ImageError> {
    let mut done = 0usize;
    while let Some(rest) = to.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let at = offset.saturating_add(done as u64);
        // A partial last sector: the file ends inside it.
        if done > 0 && at >= bytes {
            rest.fill(0);
            return Ok(());
        }
        match pread(file, rest, i64::try_from(at).map_err(|_| ImageError::Range)?) {
            Ok(0) => {
                rest.fill(0);
                return Ok(());
            }
            Ok(count) => done += count,
            Err(Errno::EINTR) => {}
            Err(Errno::EINVAL) if done > 0 && !at.is_multiple_of(SECTOR) => {
                rest.fill(0);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Writes all of `from` to `file`.
pub(super) fn write_all(file: &impl AsFd, offset: u64, from: &[u8]) -> Result<(), ImageError> {
    let mut done = 0usize;
    while let Some(rest) = from.get(done..).filter(|rest| !rest.is_empty()) {
        let at = i64::try_from(offset.saturating_add(done as u64)).map_err(|_| ImageError::Range)?;
        match pwrite(file, rest, at) {
            Ok(0) => return Err(Errno::ENOSPC.into()),
            Ok(count) => done += count,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

impl Image for Raw {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&mut self, offset: u64, to: &mut [u8]) -> Result<(), ImageError> {
        if !self.strict || is_aligned(offset, to) {
            match read_all(&self.file, offset, to, self.bytes) {
                Err(ImageError::Host(Errno::EINVAL)) => self.strict = true,
                other => return other,
            }
        }
        self.read_widened(offset, to)
    }

    fn write(&mut self, offset: u64, from: &[u8]) -> Result<(), ImageError> {
        if self.read_only {
            return Err(ImageError::ReadOnly);
        }
        if from.is_empty() {
            return Ok(());
        }
        if !self.strict || is_aligned(offset, from) {
            match write_all(&self.file, offset, from) {
                Err(ImageError::Host(Errno::EINVAL)) => self.strict = true,
                other => return other,
            }
        }
        self.write_widened(offset, from)
    }

    fn flush(&mut self) -> Result<(), ImageError> {
        if self.read_only {
            return Ok(());
        }
        Ok(nix::unistd::fdatasync(&self.file)?)
    }

    fn is_write_through(&self) -> bool {
        self.write_through
    }
}
