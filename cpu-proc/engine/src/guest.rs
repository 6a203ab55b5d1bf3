//! What a guest architecture and a machine supply to the engines.

use bulkhead_ir::{Block, HelperInfo};

use crate::state::{Access, CoreState};

/// A guest-physical address.
pub type Gpa = u64;

/// The result of a page walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Physical address of the byte asked for.
    pub gpa: Gpa,
    /// Whether a later write through the same mapping needs no further walk (permission given and dirty bit set).
    pub writable: bool,
    /// Whether the current privilege may read it.
    pub readable: bool,
    /// Whether the current privilege may execute it.
    pub executable: bool,
    /// Whether it stays over [`crate::mmu::flush_local`]: the same in every address space.
    pub global: bool,
}

/// A guest exception has been recorded in the front end's state; unwind to the dispatcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// A helper: `(state, a, b, c, immediate) -> d`. The state pointer is the front end's CPU struct.
///
/// To raise a guest exception it records it in the front end's state, sets `CoreState::exit` to
/// [`crate::exit::FAULT`] and returns; guest slots must then be as before the instruction.
pub type HelperFn = unsafe extern "sysv64" fn(*mut CoreState, u64, u64, u64, u64) -> u64;

/// A helper with its effects.
#[derive(Clone, Copy)]
pub struct Helper {
    /// Effects.
    pub info: HelperInfo,
    /// Code.
    pub func: HelperFn,
}

/// Where the guest's instruction bytes come from while lowering. Reading goes through the fetch TLB.
pub trait CodeSource {
    /// The byte at linear address `addr`, or the fault that fetching it raises (recorded in the front end's state).
    fn byte(&mut self, addr: u64) -> Result<u8, Fault>;

    /// At least one and at most `out.len()` bytes from `addr` on, never beyond its page: for fetching ahead, so a device is
    /// not read further than an instruction needs.
    fn bytes(&mut self, addr: u64, out: &mut [u8]) -> Result<usize, Fault> {
        match out.first_mut() {
            Some(first) => {
                *first = self.byte(addr)?;
                Ok(1)
            }
            None => Ok(0),
        }
    }
}

/// What the dispatcher does after a front-end callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Run on at `pc`.
    Run,
    /// Sleep until the attention word is set.
    Halt,
    /// The same for at most so many nanoseconds, then attend again.
    Nap(u64),
    /// Leave the run loop (stop, shutdown); the machine knows why.
    Leave,
}

/// The front end, as plain function pointers over the shared state (the first field of its CPU struct).
pub struct GuestOps {
    /// Page walk for an access of `size` bytes at `linear`, all in one page. `user` is the privilege to check. On failure the exception is
    /// recorded and `exit` set.
    pub translate:
        fn(&mut CoreState, linear: u64, size: u32, access: Access, user: bool) -> Result<Translation, Fault>,
    /// Everything outside the code bytes that lowering depends on (mode, default sizes, flat segments, privilege, the code segment's
    /// limit), in the low 63 bits.
    pub block_key: fn(&CoreState) -> u64,
    /// Linear address of architectural pc `pc` (x86: plus the CS base, wrapped).
    pub linear_pc: fn(&CoreState, pc: u64) -> u64,
    /// Lowers at most `max_insns` instructions from `CoreState::pc` into `out`. Stops at the end of the page that the first
    /// instruction starts in (an instruction may cross it, and is then alone or last). A fetch fault on the first
    /// instruction is returned (recorded); on a later one the block just ends before it. Undecodable bytes lower to a
    /// helper call that raises the guest's invalid-opcode exception.
    pub lower:
        fn(&mut CoreState, code: &mut dyn CodeSource, max_insns: u32, out: &mut Block) -> Result<(), Fault>,
    /// Delivers the recorded exception, changing the state to its handler.
    pub deliver: fn(&mut CoreState) -> Next,
    /// Called when the attention word was found set, and after HALT exits: takes interrupts and machine requests.
    pub attend: fn(&mut CoreState, halted: bool) -> Next,
    /// Raises the guest's fault for a 16-byte access at `linear` that is not aligned, or a branch there that [`Canonical`] refuses (records
    /// it, sets `exit`).
    ///
    /// [`Canonical`]: bulkhead_ir::Opcode::Canonical
    pub misaligned: fn(&mut CoreState, linear: u64),
    /// The CPU's registers as text, for the debug log.
    pub describe: fn(&CoreState) -> String,
    /// Helpers by number.
    pub helpers: &'static [Helper],
}

/// What lies at a physical page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// Host memory: address of the page's first byte, where a host page begins; `writable` false for ROM (writes go to
    /// [`Machine::write`], which drops them).
    Memory {
        /// Host address.
        host: *mut u8,
        /// Whether stores may go straight there.
        writable: bool,
    },
    /// A device, or nothing.
    Device,
}

/// The machine around a CPU: physical address space, ports, interrupts, time.
pub trait Machine {
    /// What backs the 4 KiB page at `gpa` (page-aligned). Stable until the machine asks for a TLB flush.
    fn page(&mut self, gpa: Gpa) -> Page;
    /// Device read of 1, 2, 4 or 8 bytes; nothing there reads as all ones.
    fn read(&mut self, gpa: Gpa, size: u8) -> u64;
    /// Device write.
    fn write(&mut self, gpa: Gpa, size: u8, value: u64);
    /// Port read of 1, 2 or 4 bytes.
    fn port_read(&mut self, port: u16, size: u8) -> u32;
    /// Port write.
    fn port_write(&mut self, port: u16, size: u8, value: u32);
    /// `rep ins`: fills `data` with consecutive reads of `size` bytes.
    fn port_read_block(&mut self, port: u16, size: u8, data: &mut [u8]);
    /// `rep outs`.
    fn port_write_block(&mut self, port: u16, size: u8, data: &[u8]);
    /// Code has been taken from this physical page: from now on report DMA writes to it.
    fn watch_code(&mut self, gpa: Gpa);
    /// Takes the next physical page that DMA changed under compiled code. `None` after the last of one pass, though there may be new ones.
    fn take_dirty_code(&mut self) -> Option<Gpa>;
    /// Vector of the highest-priority interrupt that would be taken now, acknowledging it. `None` when it went away.
    fn acknowledge_interrupt(&mut self) -> Option<u8>;
    /// Whether an interrupt line to the CPU is raised, after sampling outside sources and due timers.
    fn interrupt_pending(&mut self) -> bool;
    /// Takes the other requests since the last call.
    fn take_requests(&mut self) -> Requests;
    /// Guest time-stamp counter.
    fn tsc(&mut self) -> u64;
    /// The processor reports a numeric error outside itself and is about to stand still (`active`, x86: FERR#, for IRQ 13), or the
    /// error has been dealt with. True: carry on regardless (IGNNE# is asserted, or nothing is connected).
    fn fpu_error(&mut self, _active: bool) -> bool {
        true
    }
    /// The local APIC as seen by the CPU: reads a register MSR or task priority. See [`ApicAccess`].
    fn apic(&mut self, access: ApicAccess) -> u64;
    /// The A20 mask applied to physical addresses below 4 GiB: all ones, or all ones without bit 20.
    fn a20_mask(&self) -> u64;
    /// The guest waits for another CPU in a loop: once for each round (x86: PAUSE).
    fn pause(&mut self) {}
    /// Sleeps until the attention word is set (a timer of the machine's own sets it too).
    fn wait(&mut self);
    /// The same, for at most `ns` nanoseconds.
    fn nap(&mut self, ns: u64);
    /// The CPU entered or left its management mode (x86 SMM), which may open memory that is hidden otherwise. The caller
    /// drops its translations.
    fn set_smm(&mut self, _active: bool) {}
    /// The CPU cannot go on (triple fault).
    fn shutdown(&mut self);
    /// Debug log line (`-d`); off unless asked.
    fn log(&mut self, _item: u32, _text: &str) {}
}

/// CPU access to its interrupt controller outside its MMIO page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicAccess {
    /// Read the base register (x86 MSR 0x1b).
    ReadBase,
    /// Write it.
    WriteBase(u64),
    /// Read the task priority (x86 CR8).
    ReadTpr,
    /// Write it.
    WriteTpr(u64),
    /// Read the deadline of the timer, 0 when it is not armed (x86 MSR 0x6e0).
    ReadDeadline,
    /// Write it.
    WriteDeadline {
        /// The register's value, a value of the guest's time-stamp counter.
        value: u64,
        /// The same as a value of [`Machine::tsc`].
        due: u64,
    },
}

/// Requests to a CPU from the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Power-on reset.
    pub reset: bool,
    /// Reset of this CPU only, after which it may have to wait for `start`.
    pub init: bool,
    /// Start a CPU that waits for it, at this page.
    pub start: Option<u8>,
    /// Non-maskable interrupt.
    pub nmi: bool,
    /// One that came before `start`: a CPU that waits for that has not taken it.
    pub nmi_before_start: bool,
    /// System-management interrupt.
    pub smi: bool,
    /// Drop all translations (the physical map or the A20 gate changed).
    pub flush: bool,
    /// Leave the run loop.
    pub leave: bool,
}
