//! Random states, tables and operands: no helper panics, and what is derived from the state stays derived.

use super::*;

/// A small generator with full period (Marsaglia's xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number of a size that matters: small, 16, 32 or 64 bits, near a power of two, or an address in use.
    fn operand(&mut self) -> u64 {
        let raw = self.next();
        match self.next() % 8 {
            0 => raw & 0xff,
            1 => raw & 0xffff,
            2 => raw & 0xffff_ffff,
            3 => (1u64 << (raw & 63)).wrapping_sub(raw >> 62),
            4 => at::USER + (raw & 0xfff),
            5 => raw & 0xf8 | raw >> 62,
            6 => u64::MAX - (raw & 0x1f),
            _ => raw,
        }
    }
}

const HELPERS: [Sys; 53] = [
    Sys::Raise,
    Sys::LoadSeg,
    Sys::SegLinear,
    Sys::FarJmp,
    Sys::FarCall,
    Sys::FarRet,
    Sys::Iret,
    Sys::Int,
    Sys::Sysenter,
    Sys::Sysexit,
    Sys::Syscall,
    Sys::Sysret,
    Sys::Hlt,
    Sys::Cli,
    Sys::Sti,
    Sys::Pushf,
    Sys::Popf,
    Sys::SetDf,
    Sys::ReadCr,
    Sys::WriteCr,
    Sys::ReadDr,
    Sys::WriteDr,
    Sys::Clts,
    Sys::Lmsw,
    Sys::Smsw,
    Sys::LoadTable,
    Sys::StoreTable,
    Sys::Lldt,
    Sys::Ltr,
    Sys::StoreSel,
    Sys::LarLsl,
    Sys::Verify,
    Sys::Arpl,
    Sys::ArplMemory,
    Sys::Invlpg,
    Sys::Wbinvd,
    Sys::Rdmsr,
    Sys::Wrmsr,
    Sys::Rdtsc,
    Sys::Rdpmc,
    Sys::Cpuid,
    Sys::In,
    Sys::Out,
    Sys::CmpxchgPair,
    Sys::Bound,
    Sys::Enter,
    Sys::Swapgs,
    Sys::Rsm,
    Sys::Monitor,
    Sys::Mwait,
    Sys::Breakpoint,
    Sys::ClearInhibit,
    Sys::Pause,
];

const MSRS: [u32; 12] = [
    0x10,
    0x1b,
    0x174,
    0x175,
    0x277,
    0x200,
    0x403,
    0xc000_0080,
    0xc000_0081,
    0xc000_0084,
    0xc000_0100,
    0xc000_0102,
];

fn start(random: &mut Random) -> Rig {
    match random.next() % 4 {
        0 => Rig::new(),
        1 => Rig::of("qemu32").protected(),
        2 => Rig::new().protected().user(),
        _ => Rig::new().long(),
    }
}

/// Writes plausible garbage over the tables: descriptors and gates of every kind, stacks with selectors.
fn scramble(rig: &mut Rig, random: &mut Random) {
    for _ in 0..8 {
        let slot = at::GDT + (random.next() % 20) * 8;
        let raw = random.next();
        let kind =
            [0x9b, 0x93, 0xfb, 0xf3, 0x89, 0x8b, 0x82, 0xec, 0xe4, 0xe5, 0x81, raw & 0xff][raw as usize % 12];
        let value = if raw >> 60 & 1 == 0 {
            descriptor(random.operand(), random.next(), kind, raw >> 32 & 15)
        } else {
            gate((random.next() & 0xfb) as u16, random.operand(), kind, raw >> 40 & 31)
        };
        rig.put(slot, 8, value);
        let kind = [0x8e, 0xee, 0x8f, 0x86, 0x85, raw & 0xff][raw as usize % 6];
        let value = gate((random.next() & 0xfb) as u16, random.operand(), kind, raw >> 40 & 31);
        rig.put(at::IDT + (random.next() & 0xff) * 8, 8, value);
    }
    for i in 0..16 {
        let value = random.operand();
        rig.put(at::TSS + 8 * i, 8, value);
        let value = random.operand();
        rig.put(0x6f80 + 8 * i, 8, value);
    }
}

#[test]
fn no_state_and_operand_makes_a_helper_panic_or_lets_the_key_go_stale() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut rig = start(&mut random);
    let mut done = 0;
    for round in 0..12_000u32 {
        if round % 48 == 0 {
            rig = start(&mut random);
            scramble(&mut rig, &mut random);
        }
        for slot in 0..16 {
            if random.next().is_multiple_of(4) {
                rig.cpu.core.slots[slot] = random.operand();
            }
        }
        if random.next().is_multiple_of(2) {
            rig.set_rsp(0x6f80 + (random.next() & 0x40));
        }
        if random.next().is_multiple_of(4) {
            rig.cpu.core.slots[reg::RCX] = u64::from(MSRS[random.next() as usize % MSRS.len()]);
        }
        let id = HELPERS[random.next() as usize % HELPERS.len()];
        let [a, b, c] = [random.operand(), random.operand(), random.operand()];
        let imm = match random.next() % 3 {
            0 => random.next() & 3,
            1 => random.next() & 0x7f,
            _ => random.next() & 0xff_ffff,
        };
        let outcome = rig.call(id, a, b, c, imm);
        if let Err((vector, error)) = outcome {
            rig.cpu.pending.vector = u32::from(vector);
            rig.cpu.pending.has_error = u32::from(error.is_some());
            rig.deliver();
        }
        rig.cpu.core.exit = 0;
        if random.next().is_multiple_of(8) {
            let raw = random.next();
            rig.board().requests = Requests {
                nmi_before_start: raw & 0x400 != 0,
                nmi: raw & 1 != 0,
                smi: raw & 2 != 0,
                flush: raw & 4 != 0,
                reset: raw & 0xf8 == 0,
                init: raw & 0xf_8000_0000 == 0,
                start: (raw >> 40 & 3 == 0).then_some((raw >> 48) as u8),
                leave: false,
            };
            rig.board().interrupts = if raw & 0x300 == 0 { vec![(raw >> 16) as u8] } else { Vec::new() };
            rig.attend();
        }
        let stored = (rig.cpu.key, rig.cpu.core.mmu_mode);
        rig.cpu.update_key();
        assert_eq!(stored, (rig.cpu.key, rig.cpu.core.mmu_mode), "round {round}: after {id:?} {outcome:x?}");
        assert!(rig.cpu.cpl <= 3);
        assert_eq!(rig.cpu.eflags & !0x3f_7700, 2);
        assert!(!rig.cpu.v86() || rig.cpu.cpl == 3, "round {round}: virtual-8086 code runs at level 3");
        done += u32::from(outcome.is_ok());
        if round % 256 == 0 {
            let _ = rig.cpu.dump();
        }
    }
    assert!(done > 3_000, "only {done} helpers did something");
}

#[test]
fn random_bytes_run_without_a_panic_in_every_mode() {
    let mut random = Random(0x0123_4567_89ab_cdef);
    for _ in 0..100 {
        let mut rig = start(&mut random);
        scramble(&mut rig, &mut random);
        if rig.cpu.cr0 & cr0::PE == 0 {
            rig.call(Sys::FarJmp, 0, at::USER, 0, 1).unwrap();
        }
        rig.cpu.core.pc = at::USER;
        for i in 0..64 {
            let value = random.next();
            rig.put(at::USER + 8 * i, 8, value);
        }
        rig.set_rsp(0x6f80);
        for _ in 0..40 {
            if rig.step(1) != Next::Run {
                break;
            }
        }
    }
}
