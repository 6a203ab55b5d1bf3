//! What every process needs to think, sleep and die. A pure register device needs nothing else.

use super::{Call, Test, any, only};

const PROT_EXEC: u64 = libc::PROT_EXEC as u64;
const PRIVATE: u64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
/// Operation of a futex call, without its flags (`linux/futex.h`).
const OPERATION: u64 = 0x7f;
/// Sign of a clock's number: below 0 are the processor times of any process or thread of the host, and clocks of descriptors.
const SIGN: u64 = 0x8000_0000;

pub const CALLS: &[Call] = &[
    // The other operations hand a lock on to a thread that is named by its number, or move sleepers.
    only(
        libc::SYS_futex,
        &[Test::Bits(1, OPERATION, libc::FUTEX_WAIT as u64)],
        "bells: sleeping; locks of the C library",
    ),
    only(libc::SYS_futex, &[Test::Bits(1, OPERATION, libc::FUTEX_WAKE as u64)], "bells and locks: waking"),
    only(
        libc::SYS_futex,
        &[Test::Bits(1, OPERATION, libc::FUTEX_WAIT_BITSET as u64)],
        "locks of the standard library; ends of threads",
    ),
    any(
        libc::SYS_restart_syscall,
        "the kernel's own restart of a timed futex wait after SIGSTOP and SIGCONT",
    ),
    any(libc::SYS_exit_group, "end of the process, after a panic too"),
    only(libc::SYS_write, &[Test::Is(0, 2)], "last words to the broker's pipe"),
    any(libc::SYS_brk, "heap"),
    only(
        libc::SYS_mmap,
        &[Test::Bits(2, PROT_EXEC, 0), Test::Is(3, PRIVATE)],
        "heap: private, without a file, never executable, where the kernel wants, no huge pages",
    ),
    any(libc::SYS_munmap, "heap; mappings dropped"),
    only(
        libc::SYS_mremap,
        &[Test::Is(3, libc::MREMAP_MAYMOVE as u64)],
        "heap: a large block grows, to where the kernel wants",
    ),
    only(
        libc::SYS_madvise,
        &[Test::Is(2, libc::MADV_DONTNEED as u64)],
        "heap, stacks of ended threads and pages of the program given back",
    ),
    only(
        libc::SYS_clock_gettime,
        &[Test::Bits(0, SIGN, 0)],
        "guest clock, where the vDSO cannot read the host's",
    ),
    any(libc::SYS_getcpu, "processor hint, where the vDSO cannot"),
];
