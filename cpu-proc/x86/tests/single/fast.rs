//! The quick way through an instruction on the host: no signal unless it faults.
//!
//! The child loads the registers itself, jumps far to the instruction and has a jump back behind it. A case takes this way when the
//! instruction can only fault or go on behind itself, and changes neither a segment register nor the trap flag.

use std::arch::naked_asm;

use crate::layout::*;

/// Where what the two ends exchange lies: an address that absolute 32-bit operands reach from every mode.
const CONTROL: u64 = 0x2000_0000;
/// Behind it, a page of code: the jump to [`leave`].
const BACK: u64 = CONTROL + 0x1000;

/// What lies at [`CONTROL`].
#[repr(C, align(16))]
struct Exchange {
    fx_in: [u8; 512],
    fx_out: [u8; 512],
    regs_in: [u64; 16],
    regs_out: [u64; 16],
    flags_in: u64,
    flags_out: u64,
    host_rsp: u64,
    far_offset: u32,
    far_selector: u16,
    ss: u16,
    /// The handler ended the case.
    faulted: u64,
}

macro_rules! at {
    ($field:ident) => {
        CONTROL as usize + std::mem::offset_of!(Exchange, $field)
    };
}

/// Maps the region.
///
/// # Safety
/// In the child, once.
pub unsafe fn set_up() -> bool {
    // SAFETY: a fresh mapping at an address that nothing may already use.
    unsafe {
        let all = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let region = libc::mmap(CONTROL as *mut _, 0x2000, all, flags, -1, 0);
        if region as u64 != CONTROL {
            return false;
        }
        // jmp [rip+2]: the address is aligned, since the case's AC flag may still be set.
        let back = BACK as *mut u8;
        back.copy_from_nonoverlapping([0xff, 0x25, 2, 0, 0, 0].as_ptr(), 6);
        back.add(8).cast::<u64>().write(leave as *const () as u64);
        let data = libc::PROT_READ | libc::PROT_WRITE;
        libc::mprotect(CONTROL as *mut _, 0x1000, data) == 0
    }
}

/// The jump back that stands behind an instruction of `mode` at `at`.
fn jump(mode: Mode, at: u64) -> ([u8; 8], usize) {
    let mut code = [0; 8];
    let (opcode, operand): (&[u8], u32) = match mode {
        Mode::Long => (&[0xe9], BACK.wrapping_sub(at + 5) as u32),
        Mode::Flat32 | Mode::Based32 => (&[0xea], BACK as u32),
        Mode::Based16 => (&[0x66, 0xea], BACK as u32),
    };
    let end = opcode.len() + 4;
    code[..opcode.len()].copy_from_slice(opcode);
    code[opcode.len()..end].copy_from_slice(&operand.to_le_bytes());
    if mode == Mode::Long {
        return (code, end);
    }
    code[end..end + 2].copy_from_slice(&CS64.to_le_bytes());
    (code, end + 2)
}

/// Bytes of the longest instruction with its jump.
pub const LONGEST: usize = 15 + 8;

/// Writes the jump behind the instruction of `case`, which is in place.
///
/// # Safety
/// In the child.
pub unsafe fn place_jump(case: &Case) {
    let at = case.at + case.len;
    let (code, len) = jump(Mode::of(&case.before), at);
    // SAFETY: the two code pages hold the longest instruction and its jump wherever it begins.
    unsafe { (at as *mut u8).copy_from_nonoverlapping(code.as_ptr(), len) };
}

/// Runs a case whose code is in place. False when it faulted: then the handler has stored the outcome.
///
/// # Safety
/// In the child, outside the handler; FS and GS are the case's.
pub unsafe fn run(case: &mut Case) -> bool {
    let x = CONTROL as *mut Exchange;
    // SAFETY: the region of `set_up`; `enter` saves and restores what the ABI asks for.
    unsafe {
        let s = &case.before;
        put_media(s, (&raw mut (*x).fx_in).cast());
        (*x).regs_in = s.regs;
        (*x).flags_in = s.flags;
        (*x).far_offset = s.rip as u32;
        (*x).far_selector = s.selectors[1];
        (*x).ss = s.selectors[2];
        (&raw mut (*x).faulted).write_volatile(0);
        (WINDOW as *mut u8).copy_from_nonoverlapping(s.window.as_ptr(), WINDOW_LEN);
        enter();
        if (&raw const (*x).faulted).read_volatile() != 0 {
            return false;
        }
        let after = &mut case.after;
        after.regs = (*x).regs_out;
        after.flags = (*x).flags_out;
        let mask = if s.selectors[1] == CS64 { u64::MAX } else { 0xffff_ffff };
        after.rip = s.rip.wrapping_add(case.len) & mask;
        after.selectors = s.selectors;
        get_media(after, (&raw const (*x).fx_out).cast());
        after.window.as_mut_ptr().copy_from_nonoverlapping(WINDOW as *const u8, WINDOW_LEN);
        case.end = End { vector: DONE, ..End::default() };
    }
    true
}

/// Makes the handler's return end [`run`]: the instruction pointer it must return to.
///
/// # Safety
/// In the child's handler, while [`run`] is in a case.
pub unsafe fn abandon() -> u64 {
    // SAFETY: the region of `set_up`.
    unsafe { (&raw mut (*(CONTROL as *mut Exchange)).faulted).write_volatile(1) };
    resume as *const () as u64
}

/// Writes the x87 and SSE registers of `s` in `FXSAVE` form.
///
/// # Safety
/// `fx` points to 512 bytes.
pub unsafe fn put_media(s: &State, fx: *mut u8) {
    // SAFETY: offsets of the image, Intel SDM volume 1, table 10-2.
    unsafe {
        fx.cast::<u16>().write_unaligned(s.control);
        fx.add(2).cast::<u16>().write_unaligned(s.status);
        fx.add(4).cast::<u16>().write_unaligned(s.tags);
        fx.add(6).write_bytes(0, 18);
        fx.add(24).cast::<u32>().write_unaligned(s.mxcsr);
        fx.add(32).copy_from_nonoverlapping(s.st.as_ptr().cast(), 128);
        fx.add(160).copy_from_nonoverlapping(s.xmm.as_ptr().cast(), 256);
    }
}

/// Reads what [`put_media`] writes.
///
/// # Safety
/// As for [`put_media`].
pub unsafe fn get_media(s: &mut State, fx: *const u8) {
    // SAFETY: as there.
    unsafe {
        s.control = fx.cast::<u16>().read_unaligned();
        s.status = fx.add(2).cast::<u16>().read_unaligned();
        s.tags = u16::from(fx.add(4).read());
        s.mxcsr = fx.add(24).cast::<u32>().read_unaligned();
        s.st.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(fx.add(32), 128);
        s.xmm.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(fx.add(160), 256);
    }
}

/// Loads everything and jumps to the case. The stack of a 16-bit program must be loaded with its whole pointer, so not by `IRET`.
#[unsafe(naked)]
unsafe extern "C" fn enter() {
    naked_asm!(
        "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
        "mov qword ptr [{host_rsp}], rsp",
        "fxrstor64 [{fx}]",
        "mov rax, qword ptr [{regs}]",
        "mov rcx, qword ptr [{regs} + 8]",
        "mov rdx, qword ptr [{regs} + 16]",
        "mov rbx, qword ptr [{regs} + 24]",
        "mov rbp, qword ptr [{regs} + 40]",
        "mov rsi, qword ptr [{regs} + 48]",
        "mov rdi, qword ptr [{regs} + 56]",
        "mov r8, qword ptr [{regs} + 64]",
        "mov r9, qword ptr [{regs} + 72]",
        "mov r10, qword ptr [{regs} + 80]",
        "mov r11, qword ptr [{regs} + 88]",
        "mov r12, qword ptr [{regs} + 96]",
        "mov r13, qword ptr [{regs} + 104]",
        "mov r14, qword ptr [{regs} + 112]",
        "mov r15, qword ptr [{regs} + 120]",
        "push qword ptr [{flags}]",
        "popfq",
        "mov ss, word ptr [{ss}]",
        "mov rsp, qword ptr [{regs} + 32]",
        "jmp fword ptr [{far}]",
        host_rsp = const at!(host_rsp), fx = const at!(fx_in), regs = const at!(regs_in), flags = const at!(flags_in),
        ss = const at!(ss), far = const at!(far_offset),
    );
}

/// Where a case that completed comes back to.
#[unsafe(naked)]
unsafe extern "C" fn leave() {
    naked_asm!(
        "mov qword ptr [{regs}], rax",
        "mov qword ptr [{regs} + 8], rcx",
        "mov qword ptr [{regs} + 16], rdx",
        "mov qword ptr [{regs} + 24], rbx",
        "mov qword ptr [{regs} + 32], rsp",
        "mov qword ptr [{regs} + 40], rbp",
        "mov qword ptr [{regs} + 48], rsi",
        "mov qword ptr [{regs} + 56], rdi",
        "mov qword ptr [{regs} + 64], r8",
        "mov qword ptr [{regs} + 72], r9",
        "mov qword ptr [{regs} + 80], r10",
        "mov qword ptr [{regs} + 88], r11",
        "mov qword ptr [{regs} + 96], r12",
        "mov qword ptr [{regs} + 104], r13",
        "mov qword ptr [{regs} + 112], r14",
        "mov qword ptr [{regs} + 120], r15",
        "mov eax, {ds}",
        "mov ss, eax",
        "mov rsp, qword ptr [{host_rsp}]",
        "pushfq",
        "pop qword ptr [{flags}]",
        "fxsave64 [{fx}]",
        "jmp {resume}",
        host_rsp = const at!(host_rsp), fx = const at!(fx_out), regs = const at!(regs_out), flags = const at!(flags_out),
        ds = const DS, resume = sym resume,
    );
}

/// Back to the caller of [`enter`], also from the handler.
#[unsafe(naked)]
unsafe extern "C" fn resume() {
    naked_asm!(
        "mov rsp, qword ptr [{host_rsp}]",
        "push 0x202", "popfq",
        "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx",
        "ret",
        host_rsp = const at!(host_rsp),
    );
}
