//! Allocation of a CPU struct: large, zeroed, aligned for generated code, never moved.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

use crate::guest::{GuestOps, Machine};
use crate::mmu;
use crate::state::{CoreState, NO_BLOCK};

/// A front end's CPU struct.
///
/// # Safety
/// The type is `#[repr(C)]`, its first field is a [`CoreState`], and all zeros is a valid value of every other field
/// once [`FrontCpu::init`] has run.
pub unsafe trait FrontCpu {
    /// What `init` needs.
    type Config;

    /// Writes the fields for which zero is no valid value (references), through raw pointers.
    ///
    /// # Safety
    /// `this` points to zeroed memory of the type's size and alignment; the [`CoreState`] is initialised already.
    unsafe fn init(this: *mut Self, config: Self::Config);
}

/// An owned, pinned CPU struct.
pub struct CpuBox<T> {
    ptr: NonNull<T>,
}

impl<T: FrontCpu> CpuBox<T> {
    /// Allocates and initialises.
    ///
    /// # Safety
    /// `machine` and `attention` outlive the box, and only the thread that runs the CPU uses `machine` while it runs.
    pub unsafe fn new(
        ops: &'static GuestOps,
        machine: *mut dyn Machine,
        attention: *const AtomicU32,
        config: T::Config,
    ) -> CpuBox<T> {
        let layout = Layout::new::<T>();
        assert!(layout.size() >= size_of::<CoreState>() && layout.align() >= align_of::<CoreState>());
        // SAFETY: the layout is not empty.
        let raw = unsafe { alloc_zeroed(layout) };
        let Some(ptr) = NonNull::new(raw.cast::<T>()) else { handle_alloc_error(layout) };
        // SAFETY: fresh zeroed memory, and `FrontCpu` promises that it begins with a `CoreState`.
        unsafe {
            CoreState::init(ptr.as_ptr().cast(), ops, machine, attention);
            T::init(ptr.as_ptr(), config);
        }
        CpuBox { ptr }
    }
}

impl<T> Deref for CpuBox<T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: initialised by `new`, owned.
        unsafe { self.ptr.as_ref() }
    }
}

impl<T> DerefMut for CpuBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: initialised by `new`, owned, borrowed mutably.
        unsafe { self.ptr.as_mut() }
    }
}

impl<T> Drop for CpuBox<T> {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this layout; dropped once.
        unsafe {
            self.ptr.as_ptr().drop_in_place();
            dealloc(self.ptr.as_ptr().cast(), Layout::new::<T>());
        }
    }
}

impl CoreState {
    /// Initialises the fields of zeroed memory for which zero is no valid value, and empties the TLBs.
    ///
    /// # Safety
    /// `this` points to zeroed, aligned memory for a `CoreState`; `machine` and `attention` outlive it.
    pub unsafe fn init(
        this: *mut CoreState,
        ops: &'static GuestOps,
        machine: *mut dyn Machine,
        attention: *const AtomicU32,
    ) {
        // SAFETY: in bounds of the caller's allocation; no reference exists before every field is valid.
        let core = unsafe {
            (&raw mut (*this).ops).write(ops);
            (&raw mut (*this).machine).write(machine);
            (&raw mut (*this).attention).write(attention);
            &mut *this
        };
        core.mxcsr = 0x1f80;
        core.host_mxcsr = 0x1f80;
        core.running = NO_BLOCK;
        mmu::init(core);
    }

    /// The machine around the CPU.
    #[expect(clippy::mut_from_ref, reason = "the machine is another object; see SAFETY")]
    pub fn machine(&self) -> &mut dyn Machine {
        // SAFETY: valid for the life of the CPU (`CpuBox::new`). Only this thread uses it, and no caller keeps the
        // reference across another call that could obtain one.
        unsafe { &mut *self.machine }
    }

    /// The attention word.
    pub fn attention(&self) -> &AtomicU32 {
        // SAFETY: valid for the life of the CPU (`CpuBox::new`).
        unsafe { &*self.attention }
    }
}
