//! What every process needs to think, sleep and die.

use super::{Call, Test, any, only};

const PROT_EXEC: u64 = libc::PROT_EXEC as u64;
const MAP_ANONYMOUS: u64 = libc::MAP_ANONYMOUS as u64;

pub const CALLS: &[Call] = &[
    any(libc::SYS_futex, "bells: sleeping and waking; locks of the standard library"),
    any(libc::SYS_exit_group, "end of the process"),
    any(libc::SYS_exit, "end of a thread"),
    any(
        libc::SYS_restart_syscall,
        "the kernel's own restart of a timed futex wait after SIGSTOP and SIGCONT",
    ),
    any(libc::SYS_brk, "heap"),
    only(
        libc::SYS_mmap,
        &[Test::Bits(2, PROT_EXEC, 0), Test::Bits(3, MAP_ANONYMOUS, MAP_ANONYMOUS)],
        "heap: anonymous and never executable",
    ),
    any(libc::SYS_munmap, "heap; mappings dropped"),
    any(libc::SYS_mremap, "heap: growing a large block"),
    only(
        libc::SYS_mprotect,
        &[Test::Bits(2, PROT_EXEC, 0)],
        "heap: arenas of threads grow; never executable",
    ),
    any(libc::SYS_madvise, "heap: giving memory back"),
    any(libc::SYS_getrandom, "seeds of hash tables"),
    any(libc::SYS_clock_gettime, "guest clock, where the vDSO cannot read the host's"),
    any(libc::SYS_getcpu, "processor hint, where the vDSO cannot"),
    any(libc::SYS_sched_yield, "locks of the standard library under contention"),
    only(libc::SYS_write, &[Test::Is(0, 2)], "panic message to the broker's pipe"),
    only(libc::SYS_writev, &[Test::Is(0, 2)], "as write"),
    any(libc::SYS_rt_sigprocmask, "abort after a panic"),
    any(libc::SYS_gettid, "abort after a panic"),
    any(libc::SYS_getpid, "abort after a panic"),
    only(libc::SYS_tgkill, &[Test::OwnPid(0)], "abort after a panic: signals to this process only"),
    any(libc::SYS_rt_sigreturn, "return from a signal handler"),
    any(libc::SYS_rseq, "start of a thread that was created before the filter"),
    any(libc::SYS_set_robust_list, "start of a thread that was created before the filter"),
    any(libc::SYS_sched_getaffinity, "stack bounds of a thread that was created before the filter"),
    only(libc::SYS_prctl, &[Test::Is(0, libc::PR_SET_NAME as u64)], "name of a thread"),
    only(libc::SYS_fcntl, &[Test::Is(1, libc::F_GETFD as u64)], "debug assertion on a closed descriptor"),
    any(libc::SYS_sigaltstack, "the standard library unmaps a thread's signal stack at its end"),
];
