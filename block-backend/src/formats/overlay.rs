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
    /// When the temporary file cannot be read.
    pub fn new(below: Box<dyn Image>, file: OwnedFd) -> Result<Overlay, ImageError> {
        let clusters = below.bytes().div_ceil(CLUSTER);
        let bitmap_at = clusters.checked_mul(CLUSTER).ok_or(ImageError::Range)?;
        let mut bitmap = vec![0u8; usize::try_from(clusters.div_ceil(8)).map_err(|_| ImageError::Range)?];
        read_all(&file, bitmap_at, &mut bitmap)?;
        Ok(Overlay { below, file, bitmap_at, bitmap })
    }

    fn has(&self, cluster: u64) -> bool {
        self.bitmap.get((cluster / 8) as usize).is_some_and(|byte| byte >> (cluster % 8) & 1 != 0)
    }

    /// Records that clusters `first..=last` are here now.
    fn record(&mut self, first: u64, last: u64) -> Result<(), ImageError> {
        if (first..=last).all(|cluster| self.has(cluster)) {
            return Ok(());
        }
        for cluster in first..=last {
            if let Some(byte) = self.bitmap.get_mut((cluster / 8) as usize) {
                *byte |= 1 << (cluster % 8);
            }
        }
        let bytes = self.bitmap.get((first / 8) as usize..=(last / 8) as usize).ok_or(ImageError::Range)?;
        write_all(&self.file, self.bitmap_at + first / 8, bytes)
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
        let mut done = 0usize;
        while done < to.len() {
            let at = offset + done as u64;
            let here = self.has(at / CLUSTER);
            // The longest run of clusters from the same place.
            let mut end = (at / CLUSTER + 1) * CLUSTER;
            while end < offset + to.len() as u64 && self.has(end / CLUSTER) == here {
                end += CLUSTER;
            }
            let len = ((end - at) as usize).min(to.len() - done);
            let Some(part) = to.get_mut(done..done + len) else { return Err(ImageError::Range) };
            if here {
                read_all(&self.file, at, part)?;
            } else {
                self.below.read(at, part)?;
            }
            done += len;
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, from: &[u8]) -> Result<(), ImageError> {
        let Some(last_byte) = (offset + from.len() as u64).checked_sub(1).filter(|_| !from.is_empty()) else {
            return Ok(());
        };
        let (first, last) = (offset / CLUSTER, last_byte / CLUSTER);
        if !offset.is_multiple_of(CLUSTER) {
            self.copy_up(first)?;
        }
        if !(last_byte + 1).is_multiple_of(CLUSTER) && (last != first || offset.is_multiple_of(CLUSTER)) {
            self.copy_up(last)?;
        }
        write_all(&self.file, offset, from)?;
        self.record(first, last)
    }

    fn flush(&mut self) -> Result<(), ImageError> {
        // Nothing of a snapshot outlives the process tree, so there is nothing to make durable.
        Ok(())
    }
}
