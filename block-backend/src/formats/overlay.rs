//! The overlay of `-snapshot`: writes go to an unlinked temporary file, reads come from there or from the image below.
//!
//! Layout of the temporary file: 4 KiB clusters at the offsets that they have in the drive; from the drive's size rounded up
//! to a cluster, one bit a cluster that says whether it is here. The bit is written after the cluster, so that a successor
//! that reads the bits again never believes in a cluster that is not whole.

use std::os::fd::OwnedFd;

use super::raw::{read_all, write_all};
use super::{Image, ImageError};

/// Bytes of a cluster.
const CLUSTER: u64 = 4096;

/// A writable view of a drive whose image is never written.
pub struct Overlay {
    below: Box<dyn Image>,
    file: OwnedFd,
    bitmap_at: u64,
    bitmap: Vec<u8>,
}

impl Overlay {
    /// Over the image `below` and the temporary file, empty or left by a predecessor.
    ///
    /// # Errors
    /// When the image is too large or the temporary file cannot be read.
    pub fn new(below: Box<dyn Image>, file: OwnedFd) -> Result<Overlay, ImageError> {
        let clusters = below.bytes().div_ceil(CLUSTER);
        let bitmap_at = clusters.checked_mul(CLUSTER).ok_or(ImageError::Range)?;
        let mut bitmap = Vec::new();
        let len = usize::try_from(clusters.div_ceil(8)).map_err(|_| ImageError::Range)?;
        bitmap.try_reserve_exact(len).map_err(|_| ImageError::Host(nix::errno::Errno::ENOMEM))?;
        bitmap.resize(len, 0);
        read_all(&file, bitmap_at, &mut bitmap, u64::MAX)?;
        Ok(Overlay { below, file, bitmap_at, bitmap })
    }

    /// Where the last bit of a drive of `bytes` bytes ends in the temporary file: nothing is written behind it.
    pub fn longest(bytes: u64) -> u64 {
        let clusters = bytes.div_ceil(CLUSTER);
        clusters.saturating_mul(CLUSTER).saturating_add(clusters.div_ceil(8))
    }

    fn has(&self, cluster: u64) -> bool {
        self.bitmap.get((cluster / 8) as usize).is_some_and(|byte| byte >> (cluster % 8) & 1 != 0)
    }

    /// Records that clusters `first..=last` are here now: in the file, then in memory.
    fn record(&mut self, first: u64, last: u64) -> Result<(), ImageError> {
        if (first..=last).all(|cluster| self.has(cluster)) {
            return Ok(());
        }
        let range = (first / 8) as usize..=(last / 8) as usize;
        let mut bits = self.bitmap.get(range.clone()).ok_or(ImageError::Range)?.to_vec();
        for cluster in first..=last {
            if let Some(byte) = bits.get_mut((cluster / 8 - first / 8) as usize) {
                *byte |= 1 << (cluster % 8);
            }
        }
        write_all(&self.file, self.bitmap_at + first / 8, &bits)?;
        self.bitmap.get_mut(range).ok_or(ImageError::Range)?.copy_from_slice(&bits);
        Ok(())
    }

    /// Copies a cluster up, so that part of it can be overwritten.
    fn copy_up(&mut self, cluster: u64) -> Result<(), ImageError> {
        if self.has(cluster) {
            return Ok(());
        }
        let mut data = [0u8; CLUSTER as usize];
        self.below.read(cluster * CLUSTER, &mut data)?;
        write_all(&self.file, cluster * CLUSTER, &data)
    }
}

impl Image for Overlay {
    fn bytes(&self) -> u64 {
        self.below.bytes()
    }

    fn read(&mut self, offset: u64, to: &mut [u8]) -> Result<(), ImageError> {
        let limit = offset.checked_add(to.len() as u64).ok_or(ImageError::Range)?;
        let mut done = 0usize;
        while done < to.len() {
            let at = offset + done as u64;
            let here = self.has(at / CLUSTER);
            // The longest run of clusters from the same place.
            let mut end = (at / CLUSTER + 1) * CLUSTER;
            while end < limit && self.has(end / CLUSTER) == here {
                end += CLUSTER;
            }
            let len = ((end - at) as usize).min(to.len() - done);
            let Some(part) = to.get_mut(done..done + len) else { return Err(ImageError::Range) };
            if here {
                read_all(&self.file, at, part, u64::MAX)?;
            } else {
                self.below.read(at, part)?;
            }
            done += len;
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, from: &[u8]) -> Result<(), ImageError> {
        if from.is_empty() {
            return Ok(());
        }
        let end = offset.checked_add(from.len() as u64).ok_or(ImageError::Range)?;
        let (first, last) = (offset / CLUSTER, (end - 1) / CLUSTER);
        // Clusters that are overwritten in part keep the rest of what is below.
        if !offset.is_multiple_of(CLUSTER) {
            self.copy_up(first)?;
        }
        if !end.is_multiple_of(CLUSTER) && (last != first || offset.is_multiple_of(CLUSTER)) {
            self.copy_up(last)?;
        }
        write_all(&self.file, offset, from)?;
        self.record(first, last)
    }

    fn flush(&mut self) -> Result<(), ImageError> {
        // Nothing of a snapshot outlives the process tree, so there is nothing to make durable.
        Ok(())
    }

    fn is_write_through(&self) -> bool {
        false
    }
}
