//! An allocator that counts: a target that keeps memory of every input leaks, and one that takes too much is stopped.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that may be allocated at once: more is an abort, which the campaign reports with the input.
const LIMIT: usize = 2 << 30;

static LIVE: AtomicUsize = AtomicUsize::new(0);

/// Counts what is allocated.
#[derive(Clone, Copy, Debug)]
pub struct Counting;

/// Counts an allocation. False, and uncounted, when that is too much.
fn take(layout: Layout) -> bool {
    let fits = LIVE.fetch_add(layout.size(), Ordering::Relaxed).saturating_add(layout.size()) <= LIMIT;
    if !fits {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
    }
    fits
}

// SAFETY: every call is passed on to the system's allocator unchanged, or refused.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !take(layout) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    // Large ones cost nothing until they are touched.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !take(layout) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Bytes allocated now.
pub fn live() -> usize {
    LIVE.load(Ordering::Relaxed)
}
