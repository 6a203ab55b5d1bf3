//! The x86 front end as the engine calls it.
//!
//! # Deviations from hardware
//! * Caches, memory types and machine checks are not modelled: MTRR, PAT and the MCA banks are storage.
//! * A data breakpoint counts also where an instruction only probes.
//! * A direct branch out of the canonical addresses faults at its target, not at the branch, when the same bytes ran before at other
//!   addresses from which that is no such branch.
//! * An indirect call that could neither be made nor push reports the target on AMD's models too, whose processors report the push.
//! * With SSE underflow or overflow unmasked, the precision flag of a result that raised it is that of the masked one.
//! * RF is kept only while instruction breakpoints are armed.
//! * `MWAIT` looks at the monitored line from time to time, and ends after some milliseconds.
//! * Performance counters read as zero.
//!
//! # Not emulated
//! I/O restart in SMM, PCID, SMEP, SMAP, protection keys, XSAVE,
//! virtualisation. None is advertised by `CPUID`.

use bulkhead_engine::{Access, CoreState, Fault, GuestOps, Next, Translation};

use crate::helpers::flags::watch_trap;
use crate::helpers::interrupt::{Event, Origin, deliver as deliver_event, take_pending};
use crate::helpers::refine::refine;
use crate::helpers::{TABLE, monitor, raise, smm, vector};
use crate::paging;
use crate::state::{Cpu, eflags, halted, inhibit, key, latched};

/// The front end.
pub static OPS: GuestOps = GuestOps {
    translate,
    block_key,
    linear_pc,
    lower: crate::lower::lower,
    deliver,
    attend,
    misaligned,
    describe: |core| {
        // SAFETY: as in `cpu`; only read.
        unsafe { (*std::ptr::from_ref(core).cast::<Cpu>()).dump() }
    },
    helpers: &TABLE,
};

fn cpu(core: &mut CoreState) -> &mut Cpu {
    // SAFETY: every `CoreState` with these operations is the head of a `Cpu` (`Cpu::boxed`), and the engine lends it
    // exclusively for the call.
    unsafe { Cpu::from_core(core) }
}

fn translate(
    core: &mut CoreState,
    linear: u64,
    size: u32,
    access: Access,
    user: bool,
) -> Result<Translation, Fault> {
    paging::translate(cpu(core), linear, size, access, user)
}

fn block_key(core: &CoreState) -> u64 {
    // SAFETY: as in `cpu`; shared.
    let cpu = unsafe { &*std::ptr::from_ref(core).cast::<Cpu>() };
    cpu.block_key()
}

fn linear_pc(core: &CoreState, pc: u64) -> u64 {
    // SAFETY: as in `cpu`; shared.
    let cpu = unsafe { &*std::ptr::from_ref(core).cast::<Cpu>() };
    cpu.linear_pc(pc)
}

impl Cpu {
    /// Linear address of `pc` in the code segment.
    pub fn linear_pc(&self, pc: u64) -> u64 {
        if self.key & key::CODE64 != 0 {
            pc
        } else {
            pc.wrapping_add(self.segs[crate::state::seg::CS].base) & 0xffff_ffff
        }
    }
}

fn deliver(core: &mut CoreState) -> Next {
    let cpu = cpu(core);
    cpu.core.exit = 0;
    // Whoever looks at the state if this ends the run finds it complete.
    cpu.x87_sync();
    // Where the next instruction cannot be fetched, the trap of the last one comes first (SDM volume 3A table 6-2); the handler's return
    // fetches again.
    if cpu.pending.fetch != 0 {
        watch_trap(cpu);
    }
    // An instruction that faults is restarted and reports its data breakpoints then.
    cpu.watched = 0;
    refine(cpu);
    let event = take_pending(cpu);
    deliver_event(cpu, event)
}

fn misaligned(core: &mut CoreState, _linear: u64) {
    // 16-byte SSE operands: #GP(0), not #AC. Branches to non-canonical addresses: the same.
    raise(cpu(core), vector::GP, Some(0));
}

/// Takes the machine's requests and at most one event. Order by SDM table 6-2: reset, trap, SMI, NMI, external interrupt.
fn attend(core: &mut CoreState, _halted: bool) -> Next {
    let cpu = cpu(core);
    // The run begins or ends here: outside it this thread's x87 may serve another CPU.
    cpu.x87_sync();
    cpu.x87_unready();
    let requests = cpu.machine().take_requests();
    if requests.reset {
        cpu.reset();
    }
    if requests.init {
        cpu.latched |= latched::INIT;
    }
    // Held in the management mode (SDM volume 3C section 34.2).
    if cpu.latched & latched::INIT != 0 && cpu.smm == 0 {
        cpu.init();
    }
    if requests.nmi_before_start && cpu.awaits_start == 0 {
        cpu.latched |= latched::NMI;
    }
    if let Some(page) = requests.start {
        cpu.start(page);
    }
    if requests.flush {
        paging::flush_map(cpu);
    }
    if requests.nmi {
        cpu.latched |= latched::NMI;
    }
    if requests.smi {
        cpu.latched |= latched::SMI;
    }
    if requests.leave {
        return Next::Leave;
    }
    if cpu.awaits_start != 0 {
        cpu.latched = 0;
        return Next::Halt;
    }
    // The trap of the instruction just finished. The manual has the SMI come first and the trap after `RSM`: the program sees the same, and
    // nothing of it has to be carried through the management mode.
    if watch_trap(cpu).is_some() {
        cpu.set_attention();
        return deliver(&mut cpu.core);
    }
    let shadow = cpu.inhibit & inhibit::SHADOW != 0;
    if cpu.latched & latched::SMI != 0 && cpu.smm == 0 && !shadow {
        cpu.latched &= !latched::SMI;
        smm::enter(cpu);
        // Whatever else waits is looked at again.
        cpu.set_attention();
        return Next::Run;
    }
    if cpu.latched & latched::NMI != 0 && !shadow && cpu.inhibit & inhibit::NMI == 0 {
        cpu.latched &= !latched::NMI;
        cpu.inhibit |= inhibit::NMI;
        cpu.set_attention();
        return external(cpu, vector::NMI);
    }
    cpu.latched &= !latched::INTR;
    if cpu.machine().interrupt_pending() {
        if cpu.eflags & eflags::IF != 0 && !shadow {
            if let Some(vector) = cpu.machine().acknowledge_interrupt() {
                let next = external(cpu, vector);
                note_waiting(cpu);
                return next;
            }
        } else {
            cpu.latched |= latched::INTR;
        }
    }
    match cpu.halted {
        0 => Next::Run,
        halted::HLT => Next::Halt,
        _ => monitor::wait(cpu),
    }
}

/// Remembers an interrupt that is still pending after another was taken.
fn note_waiting(cpu: &mut Cpu) {
    if cpu.machine().interrupt_pending() {
        cpu.latched |= latched::INTR;
        if cpu.eflags & eflags::IF != 0 {
            cpu.set_attention();
        }
    }
}

fn external(cpu: &mut Cpu, vector: u8) -> Next {
    bulkhead_engine::count::note(&mut cpu.core, vector.into());
    let event = Event { vector, error: None, origin: Origin::External, return_pc: cpu.core.pc };
    deliver_event(cpu, event)
}
