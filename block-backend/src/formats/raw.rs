//! Raw images: the drive's bytes are the file's bytes. Sparse files stay sparse where the guest does not write.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::uio::{pread, pwrite};

use super::{Image, ImageError};

/// A raw image file.
pub struct Raw {
    file: OwnedFd,
    bytes: u64,
    read_only: bool,
    /// `cache=writethrough`: every write is durable before it is reported.
    write_through: bool,
}

impl Raw {
    /// Over an open file of `bytes` bytes.
    pub fn new(file: OwnedFd, bytes: u64, read_only: bool, write_through: bool) -> Raw {
        Raw { file, bytes, read_only, write_through }
    }
}

/// Fills `to` from `file`; what lies beyond the end of the file reads as zeros (a last partial sector).
pub(super) fn read_all(file: &impl AsFd, offset: u64, to: &mut [u8]) -> Result<(), ImageError> {
    let mut done = 0usize;
    while let Some(rest) = to.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let at = i64::try_from(offset.saturating_add(done as u64)).map_err(|_| ImageError::Range)?;
        match pread(file, rest, at) {
            Ok(0) => {
                rest.fill(0);
                return Ok(());
            }
            Ok(count) => done += count,
            Err(Errno::EINTR) => {}
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
        read_all(&self.file, offset, to)
    }

    fn write(&mut self, offset: u64, from: &[u8]) -> Result<(), ImageError> {
        if self.read_only {
            return Err(ImageError::ReadOnly);
        }
        write_all(&self.file, offset, from)?;
        if self.write_through {
            nix::unistd::fdatasync(&self.file)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ImageError> {
        if self.read_only {
            return Ok(());
        }
        Ok(nix::unistd::fdatasync(&self.file)?)
    }
}
