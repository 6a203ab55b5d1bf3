//! Memory for generated code, mapped twice: a view to write and a view to run, so that no mapping is ever both.
//!
//! Created before the process is locked down; afterwards no right to make more executable memory is needed.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// A code buffer. Positions are offsets from its start and the same in both views.
pub(crate) struct CodeBuf {
    write: *mut u8,
    run: *const u8,
    len: usize,
}

impl CodeBuf {
    /// Reserves `len` bytes (a multiple of the host's page size); memory is taken as it is touched.
    pub fn new(len: usize) -> io::Result<CodeBuf> {
        // SAFETY: the name is a C string; the flags are valid.
        let raw = unsafe { libc::memfd_create(c"compiled".as_ptr(), libc::MFD_CLOEXEC) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        let size = libc::off_t::try_from(len).map_err(io::Error::other)?;
        // SAFETY: a valid descriptor.
        if unsafe { libc::ftruncate(fd.as_raw_fd(), size) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let map = |prot| {
            // SAFETY: a new mapping at an address of the kernel's choice.
            let p =
                unsafe { libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
            if p == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(p.cast::<u8>()) }
        };
        let write = map(libc::PROT_READ | libc::PROT_WRITE)?;
        let run = match map(libc::PROT_READ | libc::PROT_EXEC) {
            Ok(run) => run,
            Err(e) => {
                // SAFETY: mapped above with this length; not used again.
                unsafe { libc::munmap(write.cast(), len) };
                return Err(e);
            }
        };
        Ok(CodeBuf { write, run, len })
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Address of position `at` in the view to run.
    pub fn address(&self, at: usize) -> u64 {
        self.run as u64 + at as u64
    }

    /// Copies code to position `at`; `false` when it does not fit.
    pub fn put(&mut self, at: usize, code: &[u8]) -> bool {
        if at.checked_add(code.len()).is_none_or(|end| end > self.len) {
            return false;
        }
        // SAFETY: within the writable view, checked above; the view is ours alone.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), self.write.add(at), code.len()) };
        true
    }

    /// Replaces the four bytes at position `at` in one step, for processors that run them meanwhile. They do not cross a multiple of eight.
    pub fn patch(&mut self, at: usize, value: i32) {
        let (word, shift) = (at & !7, 8 * (at & 7) as u32);
        debug_assert!(shift <= 32, "within eight aligned bytes");
        if word + 8 > self.len || shift > 32 {
            return;
        }
        // SAFETY: within the writable view, which begins at a page, checked above. Others only fetch it, through the other view.
        let word = unsafe { AtomicU64::from_ptr(self.write.add(word).cast()) };
        let kept = word.load(Ordering::Relaxed) & !(0xffff_ffff << shift);
        word.store(kept | u64::from(value as u32) << shift, Ordering::Release);
    }

    /// A copy-free look at code in place, empty when out of range.
    pub fn bytes(&self, range: std::ops::Range<usize>) -> &[u8] {
        if range.start > range.end || range.end > self.len {
            return &[];
        }
        // SAFETY: within the view, checked above; it only changes through `put`, which needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.run.add(range.start), range.len()) }
    }
}

impl Drop for CodeBuf {
    fn drop(&mut self) {
        // SAFETY: both were mapped by `new` with this length.
        unsafe {
            libc::munmap(self.write.cast(), self.len);
            libc::munmap(self.run.cast_mut().cast(), self.len);
        }
    }
}
