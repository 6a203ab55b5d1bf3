//! The host processor: a child process that runs one instruction after another.
//!
//! The child can make no system call but read, write and return from a signal (strict seccomp). It enters a case by returning from
//! a signal handler with the trap flag set, and the trap or fault that follows carries the outcome; most need that only when they fault
//! (`fast.rs`). It is killed when it hangs.

use std::io::{Read, Write};
use std::mem::size_of;
use std::os::fd::FromRawFd;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::fast;
use crate::layout::*;

/// Most cases handed over at once.
pub const BATCH: usize = 256;

/// What parent and child share.
#[repr(C)]
struct Shared {
    /// Cases to run.
    count: AtomicU64,
    /// The one that runs, or `u64::MAX`.
    current: AtomicU64,
    cases: [Case; BATCH],
    /// Where the code of the last case lies that ran.
    placed: u64,
    /// The next case that needs signals; then the next that needs none.
    begin: u64,
    /// The child's own context while a case runs.
    main: [u64; 23],
}

static SHARED: AtomicPtr<Shared> = AtomicPtr::new(std::ptr::null_mut());

const R8: usize = 0;
const RIP: usize = 16;
const FLAGS: usize = 17;
const SELECTORS: usize = 18;
const ERROR: usize = 19;
const VECTOR: usize = 20;
const ADDRESS: usize = 22;
/// Of each general register in encoding order, its place among the saved ones.
const ORDER: [usize; 16] = [13, 14, 12, 11, 15, 10, 9, 8, R8, 1, 2, 3, 4, 5, 6, 7];
const TF: u64 = 0x100;
/// Lets the kernel take SS from the frame, whatever the mode.
const SS_VALID: u64 = 6;

/// The child process.
pub struct Host {
    shared: *mut Shared,
    pid: libc::pid_t,
    command: std::fs::File,
    answer: std::fs::File,
}

fn anonymous(len: usize, at: Option<u64>, protection: i32, shared: bool) -> *mut libc::c_void {
    let kind = if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
    let fixed = if at.is_some() { libc::MAP_FIXED } else { 0 };
    // SAFETY: anonymous memory; a fixed address is the region's, which `Host::start` has reserved.
    let p = unsafe {
        libc::mmap(at.unwrap_or(0) as *mut _, len, protection, kind | fixed | libc::MAP_ANONYMOUS, -1, 0)
    };
    assert_ne!(p, libc::MAP_FAILED, "no memory");
    p
}

impl Host {
    pub fn start() -> Host {
        let shared: *mut Shared =
            anonymous(size_of::<Shared>(), None, libc::PROT_READ | libc::PROT_WRITE, true).cast();
        let mut pipes = [[0i32; 2]; 2];
        for pipe in &mut pipes {
            // SAFETY: fills the array.
            assert_eq!(unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) }, 0, "no pipe");
        }
        let [[command_read, command_write], [answer_read, answer_write]] = pipes;
        // SAFETY: the child only makes system calls and runs `child`, which needs no lock and no allocation.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "no process");
        if pid == 0 {
            SHARED.store(shared, Ordering::Relaxed);
            // SAFETY: this is the child.
            unsafe { child(shared, command_read, answer_write) }
        }
        // SAFETY: the ends that belong to the child are closed once; the others become files that own them.
        unsafe {
            libc::close(command_read);
            libc::close(answer_write);
            let command = std::fs::File::from_raw_fd(command_write);
            let mut answer = std::fs::File::from_raw_fd(answer_read);
            let mut ready = [0];
            answer.read_exact(&mut ready).expect("the child is set up");
            assert_eq!(ready, *b"R", "the child cannot be set up: {}", ready[0]);
            Host { shared, pid, command, answer }
        }
    }

    /// The batch to fill in, and to read after [`Host::run`].
    pub fn cases(&mut self) -> &mut [Case; BATCH] {
        // SAFETY: the child waits for a command; the memory is ours until then, and integers only.
        unsafe { &mut (*self.shared).cases }
    }

    /// Runs the first `count` of [`Host::cases`]; their `after` and `end` are filled in.
    ///
    /// # Errors
    /// The number of the case at which the child hung or died.
    pub fn run(&mut self, count: usize) -> Result<(), usize> {
        assert!(count <= BATCH);
        // SAFETY: the child waits for the command; the memory is ours until then.
        unsafe {
            (*self.shared).count.store(count as u64, Ordering::SeqCst);
            (*self.shared).current.store(0, Ordering::SeqCst);
        }
        let mut done = [0];
        let alive =
            self.command.write_all(b"G").is_ok() && self.ready() && self.answer.read_exact(&mut done).is_ok();
        // SAFETY: as above; a child that did not answer is not asked again.
        if alive { Ok(()) } else { Err(unsafe { (*self.shared).current.load(Ordering::SeqCst) } as usize) }
    }

    /// Whether an answer (or the end) comes within a generous time.
    fn ready(&self) -> bool {
        use std::os::fd::AsRawFd;
        let mut poll = libc::pollfd { fd: self.answer.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid entry.
        unsafe { libc::poll(&raw mut poll, 1, 60_000) == 1 }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: our own child and our own mapping.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, std::ptr::null_mut(), 0);
            libc::munmap(self.shared.cast(), size_of::<Shared>());
        }
    }
}

/// Structure of `modify_ldt`.
#[repr(C)]
struct UserDesc {
    entry: u32,
    base: u32,
    limit: u32,
    bits: u32,
}

unsafe fn child(shared: *mut Shared, command: i32, answer: i32) -> ! {
    // SAFETY: plain system calls of a process of its own; the handler finds what it needs in static or shared memory.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        let fail = |why: u8| -> ! {
            libc::write(answer, (&raw const why).cast(), 1);
            libc::_exit(1)
        };
        let none = libc::PROT_NONE;
        let reserved = libc::mmap(
            BASE as *mut _,
            LEN,
            none,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        );
        if reserved as u64 != BASE {
            fail(b'm');
        }
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        anonymous(CODE_LEN, Some(CODE), rw | libc::PROT_EXEC, false);
        anonymous(DATA_LEN, Some(DATA), rw, false);
        anonymous(0x1000, Some(READ_ONLY), libc::PROT_READ, false);
        // A page that was never read is not there, which a write's error code would tell.
        (READ_ONLY as *const u8).read_volatile();
        (CODE as *mut u8).write_bytes(0xf4, CODE_LEN);
        for (index, l) in LOCALS.iter().enumerate() {
            let bits = u32::from(l.big)
                | l.contents << 1
                | u32::from(l.restricted) << 3
                | u32::from(l.pages) << 4
                | u32::from(!l.present) << 5;
            let desc = UserDesc { entry: index as u32, base: l.base, limit: l.limit, bits };
            if libc::syscall(libc::SYS_modify_ldt, 0x11, &raw const desc, size_of::<UserDesc>()) != 0 {
                fail(b'l');
            }
        }
        let stack = anonymous(0x1_0000, None, rw, false);
        let alternate = libc::stack_t { ss_sp: stack, ss_flags: 0, ss_size: 0x1_0000 };
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = trampoline as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        let mut good = libc::sigaltstack(&raw const alternate, std::ptr::null_mut()) == 0;
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP] {
            good &= libc::sigaction(signal, &raw const action, std::ptr::null_mut()) == 0;
        }
        (*shared).placed = CODE;
        if !good || !fast::set_up() || libc::prctl(libc::PR_SET_SECCOMP, 1) != 0 {
            fail(b's');
        }
        libc::write(answer, b"R".as_ptr().cast(), 1);
        loop {
            let mut byte = 0u8;
            if libc::read(command, (&raw mut byte).cast(), 1) != 1 {
                // Only the bare system call is allowed now.
                std::arch::asm!("syscall", in("rax") libc::SYS_exit, in("rdi") 0, options(noreturn));
            }
            // The bases of FS and GS are put back for Rust's sake.
            let (fs, gs): (u64, u64);
            std::arch::asm!("rdfsbase {}", "rdgsbase {}", out(reg) fs, out(reg) gs);
            all(shared);
            std::arch::asm!("wrfsbase {}", "wrgsbase {}", in(reg) fs, in(reg) gs);
            libc::write(answer, b"D".as_ptr().cast(), 1);
        }
    }
}

/// Runs what is in the batch.
unsafe fn all(shared: *mut Shared) {
    // SAFETY: the batch is the child's until it answers.
    unsafe {
        let count = (*shared).count.load(Ordering::SeqCst);
        let mut next = 0;
        while next < count {
            let case = (&raw mut (*shared).cases).cast::<Case>().add(next as usize);
            if (*case).fast == 0 {
                // Into the handler, which comes back here after the last of those that follow one another.
                (*shared).begin = next;
                (*shared).current.store(u64::MAX, Ordering::SeqCst);
                std::arch::asm!("int3");
                next = (&raw const (*shared).begin).read_volatile();
                continue;
            }
            (*shared).current.store(next, Ordering::SeqCst);
            if (*case).first != 0 {
                place(&mut (*shared).placed, &*case);
                reload_data((*case).before.selectors);
            }
            fast::run(&mut *case);
            next += 1;
        }
        // What a case left there must not reach the host's own code.
        std::arch::asm!("fninit", "ldmxcsr [{}]", in(reg) &0x1f80u32);
    }
}

/// Puts the code of `case` where it belongs and takes the last one's away.
unsafe fn place(placed: &mut u64, case: &Case) {
    // SAFETY: the code pages.
    unsafe {
        (*placed as *mut u8).write_bytes(0xf4, fast::LONGEST);
        (case.at as *mut u8).copy_from_nonoverlapping(case.code.as_ptr(), case.len as usize);
        *placed = case.at;
        if case.fast != 0 {
            fast::place_jump(case);
        }
    }
}

/// First instructions of the handler: none of the case's flags may stay (`AC` would fault on unaligned accesses, `NT` and `ID` would stay
/// for the next case).
#[unsafe(naked)]
unsafe extern "C" fn trampoline() {
    std::arch::naked_asm!("push 0x202", "popfq", "cld", "jmp {handler}", handler = sym handler);
}

unsafe extern "C" fn handler(_signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    // SAFETY: the kernel passes the frame; the shared memory is the child's until it answers.
    unsafe {
        let shared = &mut *SHARED.load(Ordering::Relaxed);
        let uc = &mut *context;
        let gregs: &mut [i64; 23] = &mut uc.uc_mcontext.gregs;
        let fx: *mut u8 = uc.uc_mcontext.fpregs.cast();
        let current = shared.current.load(Ordering::Relaxed);
        let next = if current == u64::MAX {
            for (to, from) in shared.main.iter_mut().zip(gregs.iter()) {
                *to = *from as u64;
            }
            shared.begin
        } else {
            let case = &mut *(&raw mut shared.cases).cast::<Case>().add(current as usize);
            let stays = case.fast == 0 && gregs[RIP] as u64 == case.before.rip && gregs[VECTOR] == 1;
            if case.repeats != 0 && stays {
                gregs[FLAGS] |= TF as i64;
                uc.uc_flags |= SS_VALID;
                reload_data(case.before.selectors);
                return;
            }
            store(case, gregs, fx);
            if case.fast != 0 {
                uc.uc_flags |= SS_VALID;
                gregs[RIP] = fast::abandon() as i64;
                gregs[FLAGS] = 0x202;
                gregs[SELECTORS] = (u64::from(CS64) | u64::from(DS) << 48) as i64;
                return;
            }
            current + 1
        };
        uc.uc_flags |= SS_VALID;
        let case = (&raw const shared.cases).cast::<Case>().add(next as usize);
        if next < shared.count.load(Ordering::Relaxed) && (*case).fast == 0 {
            shared.current.store(next, Ordering::Relaxed);
            if (*case).first != 0 {
                place(&mut shared.placed, &*case);
            }
            load(&*case, gregs, fx);
            return;
        }
        shared.begin = next;
        for (to, from) in gregs.iter_mut().zip(&shared.main) {
            *to = *from as i64;
        }
        fx.cast::<u16>().write(0x37f);
        fx.add(2).cast::<u16>().write(0);
        fx.add(4).write(0);
        fx.add(24).cast::<u32>().write(0x1f80);
    }
}

/// Loads the segment registers that the kernel leaves alone on the way out of a handler.
unsafe fn reload_data(selectors: [u16; 8]) {
    // SAFETY: selectors that the case's mode may use; the bases are set for 64-bit code after.
    unsafe {
        std::arch::asm!(
            "mov es, {es:x}", "mov ds, {ds:x}", "mov fs, {fs:x}", "mov gs, {gs:x}",
            es = in(reg) selectors[0], ds = in(reg) selectors[3], fs = in(reg) selectors[4], gs = in(reg) selectors[5],
            options(nostack, preserves_flags),
        );
        if selectors[1] == CS64 {
            std::arch::asm!("wrfsbase {fs}", "wrgsbase {gs}", fs = in(reg) FS_BASE, gs = in(reg) GS_BASE,
                options(nostack, preserves_flags));
        }
    }
}

unsafe fn load(case: &Case, gregs: &mut [i64; 23], fx: *mut u8) {
    let s = &case.before;
    // SAFETY: the frame's floating-point image has 512 bytes and the extended header; code and window are mapped.
    unsafe {
        for (r, at) in s.regs.iter().zip(ORDER) {
            gregs[at] = *r as i64;
        }
        gregs[RIP] = s.rip as i64;
        gregs[FLAGS] = (s.flags | TF) as i64;
        gregs[SELECTORS] = (u64::from(s.selectors[1]) | u64::from(s.selectors[2]) << 48) as i64;
        fast::put_media(s, fx);
        *fx.add(512).cast::<u64>() |= 3;
        (WINDOW as *mut u8).copy_from_nonoverlapping(s.window.as_ptr(), WINDOW_LEN);
        reload_data(s.selectors);
    }
}

unsafe fn store(case: &mut Case, gregs: &[i64; 23], fx: *const u8) {
    let s = &mut case.after;
    // SAFETY: as for `load`.
    unsafe {
        for (r, at) in s.regs.iter_mut().zip(ORDER) {
            *r = gregs[at] as u64;
        }
        s.rip = gregs[RIP] as u64;
        s.flags = gregs[FLAGS] as u64 & !TF;
        let selectors = gregs[SELECTORS] as u64;
        let (es, ds, fs, gs): (u64, u64, u64, u64);
        std::arch::asm!("mov {es}, es", "mov {ds}, ds", "mov {fs}, fs", "mov {gs}, gs",
            es = out(reg) es, ds = out(reg) ds, fs = out(reg) fs, gs = out(reg) gs, options(nostack));
        s.selectors =
            [es as u16, selectors as u16, (selectors >> 48) as u16, ds as u16, fs as u16, gs as u16, 0, 0];
        let present = *fx.add(512).cast::<u64>();
        fast::get_media(s, fx);
        // What is not present is as after FNINIT and zero.
        if present & 1 == 0 {
            (s.control, s.status, s.tags) = (0x37f, 0, 0);
            s.st = [[0; 16]; 8];
        }
        if present & 2 == 0 {
            s.xmm = [[0; 16]; 16];
        }
        s.window.as_mut_ptr().copy_from_nonoverlapping(WINDOW as *const u8, WINDOW_LEN);
    }
    case.end =
        End { vector: gregs[VECTOR] as u64, error: gregs[ERROR] as u64, address: gregs[ADDRESS] as u64 };
}
