//! When two outcomes are the same, and how they differ.

use iced_x86::{Code, FastFormatter, Instruction, Mnemonic, OpKind};

use crate::generate;
use crate::layout::*;
use crate::support::host_is_amd;

/// The flags that a user program sees, but for its trap flag, interrupt flag and I/O privilege level.
const FLAGS: u64 = 0x24_4cd5;

/// What may differ, taken out of both sides.
pub fn comparable(s: &State, case: &Case, insn: &Instruction, end: &End) -> State {
    let mut s = *s;
    let undefined = if end.vector == DONE { generate::undefined_flags(insn, &case.before) } else { 0 };
    s.flags = s.flags & FLAGS & !undefined;
    s.selectors[6..].fill(0);
    for selector in &mut s.selectors {
        // A return to a program takes the privilege level from null selectors.
        if *selector < 4 {
            *selector = 0;
        }
    }
    if s.selectors[1] != CS64 || case.before.selectors[1] != CS64 {
        // The return to a 16-bit stack leaves the kernel's upper half.
        s.regs[4] &= 0xffff_ffff;
    }
    // Bits 16 to 20 are undefined (SDM volume 2, LAR).
    if insn.mnemonic() == Mnemonic::Lar {
        s.regs[insn.op0_register().full_register().number()] &= !0xf_0000;
    }
    // Instruction and data pointers are kept only while an exception is pending on AMD's processors; others keep them always. The mask of
    // MXCSR bits has one more on AMD's.
    let left_out: fn(u64) -> bool = match insn.code() {
        Code::Fnstenv_m14byte | Code::Fnsave_m94byte => |at| (6..14).contains(&at),
        Code::Fnstenv_m28byte | Code::Fnsave_m108byte => |at| (12..28).contains(&at),
        Code::Fxsave_m512byte | Code::Fxsave64_m512byte => {
            |at| (6..24).contains(&at) || (28..32).contains(&at)
        }
        _ => |_| false,
    };
    if end.vector == DONE {
        let at = generate::operand(insn, &case.before).wrapping_sub(WINDOW);
        for i in (0..32).filter(|i| left_out(*i)) {
            if let Some(byte) = s.window.get_mut(at.wrapping_add(i) as usize) {
                *byte = 0;
            }
        }
    }
    // With underflow or overflow unmasked, whether the result is also inexact counts before it is fitted. Ours is counted after.
    const FITTED: u32 = 1 << 4 | 1 << 3;
    if end.vector == 19 && s.mxcsr & !(s.mxcsr >> 7) & FITTED != 0 {
        s.mxcsr &= !(1 << 5);
    }
    for st in &mut s.st {
        st[10..].fill(0);
    }
    s
}

pub struct Differences {
    pub text: String,
}

impl Differences {
    pub fn between(
        host: &State,
        host_end: &End,
        ours: &State,
        ours_end: &End,
        before: &State,
    ) -> Option<Differences> {
        let mut text = String::new();
        let mut add = |what: String, b: String, h: String, o: String| {
            text += &format!("    {what}: before {b} host {h} ours {o}\n");
        };
        let hex = |v: &[u8]| v.iter().rev().map(|b| format!("{b:02x}")).collect::<String>();
        if host_end != ours_end {
            add("end".into(), String::new(), format!("{host_end:x?}"), format!("{ours_end:x?}"));
        }
        for i in 0..16 {
            if host.regs[i] != ours.regs[i] {
                let x = |s: &State| format!("{:x}", s.regs[i]);
                add(format!("r{i}"), x(before), x(host), x(ours));
            }
        }
        type Word = (&'static str, fn(&State) -> u64);
        let words: [Word; 6] = [
            ("rip", |s| s.rip),
            ("flags", |s| s.flags),
            ("fcw", |s| s.control.into()),
            ("fsw", |s| s.status.into()),
            ("tags", |s| s.tags.into()),
            ("mxcsr", |s| s.mxcsr.into()),
        ];
        for (name, get) in words {
            if get(host) != get(ours) {
                let x = |s: &State| format!("{:x}", get(s));
                add(name.into(), x(before), x(host), x(ours));
            }
        }
        if host.selectors != ours.selectors {
            let x = |s: &State| format!("{:x?}", s.selectors);
            add("selectors".into(), x(before), x(host), x(ours));
        }
        for i in 0..8 {
            if host.st[i] != ours.st[i] {
                add(
                    format!("st{i}"),
                    hex(&before.st[i][..10]),
                    hex(&host.st[i][..10]),
                    hex(&ours.st[i][..10]),
                );
            }
        }
        for i in 0..16 {
            if host.xmm[i] != ours.xmm[i] {
                add(format!("xmm{i}"), hex(&before.xmm[i]), hex(&host.xmm[i]), hex(&ours.xmm[i]));
            }
        }
        for i in 0..WINDOW_LEN {
            if host.window[i] != ours.window[i] {
                let x = |s: &State| format!("{:x}", s.window[i]);
                add(format!("[{:x}]", WINDOW + i as u64), x(before), x(host), x(ours));
            }
        }
        (!text.is_empty()).then_some(Differences { text })
    }
}

pub fn describe(case: &Case, insn: &Instruction) -> String {
    let s = &case.before;
    let mut text = String::new();
    FastFormatter::new().format(insn, &mut text);
    let code = &case.code[..case.len as usize];
    let memory: Vec<String> = (0..insn.op_count()).map(|i| format!("{:?}", insn.op_kind(i))).collect();
    format!(
        "  {:02x?} {text} [{memory:?}] at {:x} cs {:x} selectors {:x?}\n    regs {:x?}\n    flags {:x} fcw {:x} fsw {:x} tags {:x} mxcsr {:x}\n",
        code, case.at, s.selectors[1], s.selectors, s.regs, s.flags, s.control, s.status, s.tags, s.mxcsr
    )
}

/// Brings the host's outcome into the form that ours has.
pub fn settle(case: &mut Case, insn: &Instruction) {
    let next = case.before.rip.wrapping_add(case.len);
    // After a load of SS the trap comes one instruction later, which is the `HLT` behind.
    let inhibits = matches!(
        insn.code(),
        Code::Popw_SS | Code::Popd_SS | Code::Mov_Sreg_rm16 | Code::Mov_Sreg_r32m16 | Code::Mov_Sreg_r64m16
    );
    let mask = if case.before.selectors[1] == CS64 { u64::MAX } else { 0xffff_ffff };
    if inhibits && case.end.vector == 13 && case.after.rip == next & mask {
        case.end.vector = DONE;
    }
    if case.end.vector != 14 {
        case.end.address = 0;
    }
    if case.end.vector == DONE {
        case.end = End { vector: DONE, ..End::default() };
    }
    // The trap flag is set on the host only, where a case is entered by a signal.
    if case.fast == 0
        && matches!(insn.mnemonic(), Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq)
        && case.end.vector == DONE
    {
        let linear = pushed_at(case);
        if let Some(byte) =
            linear.checked_sub(WINDOW).and_then(|at| case.after.window.get_mut(at as usize + 1))
        {
            *byte &= !1;
        }
    }
}

/// Whether nothing differs at all, as nearly always: the quick answer.
pub fn same(case: &Case, insn: &Instruction, ours: &State, end: &End) -> bool {
    let undefined = if end.vector == DONE { generate::undefined_flags(insn, &case.before) } else { 0 };
    let mut theirs = case.after;
    theirs.flags = theirs.flags & FLAGS & !undefined | ours.flags & !(FLAGS & !undefined);
    case.end == *end && theirs == *ours
}

/// Whether an operand in memory can be the reason.
fn fault(vector: u64) -> bool {
    matches!(vector, 12 | 13 | 14 | 17)
}

/// Differences that are known, and why.
pub fn excused(case: &Case, insn: &Instruction, end: &End) -> bool {
    // An instruction with several accesses, or one access with several faults: which comes first differs among processors, and
    // not all of them report the address of the same byte.
    let twice = fault(case.end.vector) && fault(end.vector) && several(insn);
    // Registers popped before the fault are changed by some processors.
    let popped = case.end == *end && matches!(insn.mnemonic(), Mnemonic::Popa | Mnemonic::Popad);
    // A store of no byte at all may fault or not (SDM volume 2, MASKMOVQ).
    let masked = end.vector == DONE && matches!(insn.mnemonic(), Mnemonic::Maskmovq | Mnemonic::Maskmovdqu);
    twice || popped || masked || !host_is_amd() && excused_on_intel(case, insn, end)
}

/// What Intel's processors do on the way to a fault, or instead of one.
fn excused_on_intel(case: &Case, insn: &Instruction, end: &End) -> bool {
    let stores = insn.op0_kind() == OpKind::Memory;
    // A store from an MMX register that faults has already set TOP to 0.
    let mmx = insn.op1_kind() == OpKind::Register && insn.op1_register().is_mm();
    let began = case.end == *end && fault(end.vector) && stores && mmx;
    // An unmasked numeric exception comes before the fault of the operand that is not written then.
    const ES: u16 = 1 << 7;
    let numeric = case.end.vector == DONE && case.after.status & ES != 0 && fault(end.vector) && stores;
    // The lower bound is compared before the upper one is read.
    let bound = insn.mnemonic() == Mnemonic::Bound && case.end.vector == 5 && fault(end.vector);
    began || numeric || bound
}

/// Whether the instruction touches memory more than once (an 80-bit value is two accesses), or must be aligned besides having an address.
fn several(insn: &Instruction) -> bool {
    use Mnemonic as M;
    let named = matches!(
        insn.mnemonic(),
        M::Iret | M::Iretd | M::Iretq | M::Retf | M::Call | M::Jmp | M::Enter | M::Bound | M::Popa | M::Popad
    ) || matches!(
        insn.mnemonic(),
        M::Pusha | M::Pushad | M::Lds | M::Les | M::Lfs | M::Lgs | M::Lss
    ) || matches!(
        insn.mnemonic(),
        M::Fldenv | M::Frstor | M::Fnstenv | M::Fnsave | M::Maskmovq | M::Maskmovdqu
    );
    let memory = (0..insn.op_count())
        .filter(|i| !matches!(insn.op_kind(*i), OpKind::Register | OpKind::Immediate8))
        .count();
    let strings = insn.is_string_instruction() && memory == 2;
    let stack = insn.is_stack_instruction() && memory > 0;
    named || strings || stack || matches!(insn.memory_size().size(), 10 | 16 | 512)
}

fn pushed_at(case: &Case) -> u64 {
    let s = &case.after;
    let ss = s.selectors[2];
    let local = LOCALS.get(usize::from(ss >> 3)).filter(|_| ss & 4 != 0);
    let (base, big) = local.map_or((0, true), |l| (u64::from(l.base), l.big));
    let long = s.selectors[1] == CS64;
    let sp = if long {
        s.regs[4]
    } else if big {
        s.regs[4] & 0xffff_ffff
    } else {
        s.regs[4] & 0xffff
    };
    base + sp
}
