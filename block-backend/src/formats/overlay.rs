//! The overlay of `-snapshot`: writes go to an unlinked temporary file, reads come from there or from the image below.
//!
//! Layout of the temporary file: 4 KiB clusters at the offsets that they have in the drive; from the drive's size rounded up
//! to a cluster, one bit a cluster that says whether it is here. The bit is written after the cluster, so that a successor
//! that reads the bits again never believes in a cluster that is not whole. The bits are read page by page when they are first
//! needed, and only so many pages are kept: those of a large drive find no room in the jail's memory.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use nix::errno::Errno;

use super::raw::{read_all, write_all};
use super::{Image, ImageError};

/// Bytes of a cluster.
const CLUSTER: u64 = 4096;

/// Bytes of a page of bits, which stand for 128 MiB of the drive.
const PAGE: u64 = 4096;
/// Clusters whose bits are in one.
const PAGE_CLUSTERS: u64 = PAGE * 8;
/// Pages that are kept.
const PAGES: usize = 1024;

/// A writable view of a drive whose image is never written.
pub struct Overlay {
    below: Box<dyn Image>,
    file: OwnedFd,
    bitmap_at: u64,
    /// Pages of bits by their number, as they are in the file.
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Overlay {
    /// Over the image `below` and the temporary file, empty or left by a predecessor.
    ///
    /// # Errors
    /// When the image is too large.
    pub fn new(below: Box<dyn Image>, file: OwnedFd) -> Result<Overlay, ImageError> {
        let clusters = below.bytes().div_ceil(CLUSTER);
        let bitmap_at = clusters.checked_mul(CLUSTER).ok_or(ImageError::Range)?;
        Ok(Overlay { below, file, bitmap_at, pages: BTreeMap::new() })
    }

    /// Where the last bit of a drive of `bytes` bytes ends in the temporary file: nothing is written behind it.
    pub fn longest(bytes: u64) -> u64 {
        let clusters = bytes.div_ceil(CLUSTER);
        clusters.saturating_mul(CLUSTER).saturating_add(clusters.div_ceil(8))
    }

    /// The bits of the clusters that share a page with `cluster`.
    fn page(&mut self, cluster: u64) -> Result<&mut [u8], ImageError> {
        let number = cluster / PAGE_CLUSTERS;
        if !self.pages.contains_key(&number) {
            if self.pages.len() >= PAGES {
                self.pages.clear();
            }
            let mut page = Vec::new();
            page.try_reserve_exact(PAGE as usize).map_err(|_| Errno::ENOMEM)?;
            page.resize(PAGE as usize, 0);
            read_all(&self.file, self.bitmap_at + number * PAGE, &mut page, u64::MAX)?;
            self.pages.insert(number, page);
        }
        self.pages.get_mut(&number).map(Vec::as_mut_slice).ok_or(ImageError::Range)
    }

    fn has(&mut self, cluster: u64) -> Result<bool, ImageError> {
        let byte = (cluster % PAGE_CLUSTERS / 8) as usize;
        Ok(self.page(cluster)?.get(byte).is_some_and(|byte| byte >> (cluster % 8) & 1 != 0))
    }

    /// Records that clusters `first..=last` are here now: in the file, then in memory.
    fn record(&mut self, first: u64, last: u64) -> Result<(), ImageError> {
        let mut from = first;
        while from <= last {
            // As far as the page goes.
            let to = last.min((from / PAGE_CLUSTERS + 1) * PAGE_CLUSTERS - 1);
            self.record_in_page(from, to)?;
            from = to + 1;
        }
        Ok(())
    }

    fn record_in_page(&mut self, first: u64, last: u64) -> Result<(), ImageError> {
        let byte = |cluster: u64| (cluster % PAGE_CLUSTERS / 8) as usize;
        let range = byte(first)..=byte(last);
        let old = self.page(first)?.get(range.clone()).ok_or(ImageError::Range)?.to_vec();
        let mut bits = old.clone();
        for cluster in first..=last {
            if let Some(bits) = bits.get_mut(byte(cluster) - byte(first)) {
                *bits |= 1 << (cluster % 8);
            }
        }
        if bits == old {
            return Ok(());
        }
        write_all(&self.file, self.bitmap_at + first / 8, &bits)?;
        self.page(first)?.get_mut(range).ok_or(ImageError::Range)?.copy_from_slice(&bits);
        Ok(())
    }

    /// Copies a cluster up, so that part of it can be overwritten.
    fn copy_up(&mut self, cluster: u64) -> Result<(), ImageError> {
        if self.has(cluster)? {
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
            let here = self.has(at / CLUSTER)?;
            // The longest run of clusters from the same place.
            let mut end = (at / CLUSTER + 1) * CLUSTER;
            while end < limit && self.has(end / CLUSTER)? == here {
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
