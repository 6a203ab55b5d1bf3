//! The side table: precise state at each access of compiled code.
//!
//! CPUs read rows while others add some. Rows therefore never move: all there can be are reserved at once (memory is taken as they are
//! written), and each region of the code buffer has its own, which are used again together with it.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;

use crate::jit::Record;

/// All rows.
pub(crate) struct Rows(Box<[UnsafeCell<MaybeUninit<Record>>]>);

// SAFETY: a row is written only by who holds the lock of the code cache and while no generated code names it; it is read by CPUs that run
// generated code which names it.
unsafe impl Sync for Rows {}
// SAFETY: rows are plain data.
unsafe impl Send for Rows {}

impl Rows {
    /// Room for `count` rows.
    pub fn new(count: usize) -> Rows {
        let rows = Box::<[UnsafeCell<MaybeUninit<Record>>]>::new_uninit_slice(count);
        // SAFETY: what is inside may be uninitialised.
        Rows(unsafe { rows.assume_init() })
    }

    /// Row `index`; `None` when there is none of that number.
    ///
    /// # Safety
    /// The row is one of a block that is in the table, or that generated code is running.
    pub unsafe fn get(&self, index: u32) -> Option<Record> {
        // SAFETY: rows of blocks have been written, and change only while the block is neither found nor run.
        self.0.get(index as usize).map(|row| unsafe { (*row.get()).assume_init_read() })
    }

    /// Writes rows from number `first` on.
    ///
    /// # Safety
    /// The caller holds the lock of the code cache, and no generated code that may be run names the rows.
    pub unsafe fn put(&self, first: u32, records: &[Record]) {
        for (row, record) in self.0.iter().skip(first as usize).zip(records) {
            // SAFETY: the caller's promise: nobody else looks at it.
            unsafe { (*row.get()).write(*record) };
        }
    }
}
