//! Allocation of a CPU struct: large, zeroed, aligned for generated code, never moved.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

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
            (&raw mut (*this).attention).write(AtomicPtr::new(attention.cast_mut()));
            (&raw mut (*this).outside).write(attention);
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

    /// The attention word as polls see it.
    pub fn attention(&self) -> &AtomicU32 {
        // SAFETY: the word of `CpuBox::new`, valid for the life of the CPU, or a static one.
        unsafe { &*self.attention.load(Ordering::Relaxed) }
    }

    /// Makes the vCPU stop at its next poll, for certain: the word that others write could be cleared by one of them.
    pub fn insist(&self) {
        insist(&self.attention);
    }

    /// Whether somebody has insisted since attention was taken.
    pub fn is_insisted(&self) -> bool {
        !std::ptr::eq(self.attention.load(Ordering::Relaxed), self.outside)
    }

    /// Takes attention back, before whatever it was for is looked at.
    pub fn take_attention(&self) {
        self.attention.store(self.outside.cast_mut(), Ordering::SeqCst);
        // Not what `attention` leads to by now: an alarm may have come in between, and would be cleared for good.
        // SAFETY: the word of `CpuBox::new`, valid for the life of the CPU.
        unsafe { &*self.outside }.swap(0, Ordering::AcqRel);
    }
}

/// What polls look at after [`insist`]. Never written.
static INSISTED: AtomicU32 = AtomicU32::new(1);

/// [`CoreState::insist`] for a signal handler of the thread that runs the CPU, with the address of [`CoreState::attention`].
pub fn insist(attention: &AtomicPtr<AtomicU32>) {
    attention.store(std::ptr::from_ref(&INSISTED).cast_mut(), Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Engine;
    use crate::testing::{Rig, stop_ops};
    use bulkhead_ir::{Alu, Op, W64};

    #[test]
    fn insistence_while_attention_is_taken_is_not_lost() {
        let mut rig = Rig::new(|out, _, pc| stop_ops(out, pc));
        let core = rig.core();
        let attention = &raw const core.attention;
        // SAFETY: it lives as long as the rig, which outlives the scope, and is only accessed atomically.
        let attention = unsafe { &*attention };
        let over = std::sync::atomic::AtomicBool::new(false);
        let began = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                began.wait();
                while !over.load(Ordering::SeqCst) {
                    insist(attention);
                }
            });
            began.wait();
            (0..5_000_000).for_each(|_| core.take_attention());
            over.store(true, Ordering::SeqCst);
        });
        core.insist();
        assert_ne!(core.attention().load(Ordering::SeqCst), 0, "every later insistence is lost");
    }

    /// Counts slot 2 down, then stops.
    fn countdown() -> Rig {
        let mut rig = Rig::new(|out, word, pc| match word {
            0 => stop_ops(out, pc),
            1 => out.push(Op::alui(Alu::Sub, W64, 2, 2, 1, false)),
            _ => out.push(Op::branchz(W64, 2, true, 0x1000)),
        });
        [1, 2, 0].iter().zip([0x1000, 0x1004, 0x1008]).for_each(|(word, at)| rig.machine().put32(at, *word));
        rig
    }

    #[test]
    fn a_word_that_is_always_set_lets_an_instruction_run_between_two_looks() {
        for compiling in [false, true] {
            let mut rig = countdown();
            let engine = if compiling { Engine::compiling(1 << 20) } else { Ok(Engine::new()) };
            engine.expect("memory for code").attach(rig.core());
            rig.cpu.beset = true;
            rig.core().slots[2] = 100;
            rig.run(0x1000);
            assert_eq!(rig.core().slots[2], 0, "compiling: {compiling}");
            // The entry, before or after each of 200 instructions and the one that stops, the halt.
            assert!((100..=202).contains(&rig.cpu.attends), "{} looks", rig.cpu.attends);
        }
    }

    #[test]
    fn insistence_cannot_be_taken_back_from_outside() {
        let mut rig = countdown();
        Engine::compiling(1 << 20).expect("memory for code").attach(rig.core());
        let attention = &raw const rig.core().attention;
        // SAFETY: both words live as long as the rig, which outlives the scope, and are only accessed atomically.
        let (attention, outside) = unsafe { (&*attention, &*rig.core().outside) };
        let over = std::sync::atomic::AtomicBool::new(false);
        let mut rounds = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    insist(attention);
                    (0..1000).for_each(|_| outside.store(0, Ordering::SeqCst));
                }
            });
            // One attention is that of the entry, one that of the halt.
            let mut attends = 2;
            while attends <= 2 && rounds < 1000 {
                rig.core().slots[2] = 10_000_000;
                rig.run(0x1000);
                (attends, rounds) = (rig.cpu.attends, rounds + 1);
            }
            over.store(true, Ordering::SeqCst);
        });
        assert!(rounds < 1000, "never seen in compiled code");
        rig.core().insist();
        outside.store(0, Ordering::SeqCst);
        assert_eq!(rig.core().attention().load(Ordering::SeqCst), 1);
        rig.core().take_attention();
        assert_eq!(rig.core().attention().load(Ordering::SeqCst), 0);
        outside.store(7, Ordering::SeqCst);
        assert_eq!(rig.core().attention().load(Ordering::SeqCst), 7, "the shared word counts again");
    }
}
