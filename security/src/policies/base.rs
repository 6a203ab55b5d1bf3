//! What every process needs to think, sleep and die. A pure register device needs nothing else.

use super::{Call, Test, any, only};

const PROT_EXEC: u64 = libc::PROT_EXEC as u64;
/// Which kind of mapping it is, and that no file is behind it.
const KIND: u64 = (libc::MAP_TYPE | libc::MAP_ANONYMOUS) as u64;
const PRIVATE: u64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;

pub const CALLS: &[Call] = &[
    any(libc::SYS_futex, "bells: sleeping and waking; locks of the standard library"),
    any(
        libc::SYS_restart_syscall,
        "the kernel's own restart of a timed futex wait after SIGSTOP and SIGCONT",
    ),
    any(libc::SYS_exit_group, "end of the process, after a panic too"),
    only(libc::SYS_write, &[Test::Is(0, 2)], "last words to the broker's pipe"),
    any(libc::SYS_brk, "heap"),
    only(
        libc::SYS_mmap,
        &[Test::Bits(2, PROT_EXEC, 0), Test::Bits(3, KIND, PRIVATE)],
        "heap: private, without a file, never executable",
    ),
    any(libc::SYS_munmap, "heap; mappings dropped"),
    only(
        libc::SYS_mremap,
        &[Test::Is(3, libc::MREMAP_MAYMOVE as u64)],
        "heap: a large block grows, to where the kernel wants",
    ),
    any(libc::SYS_madvise, "heap and pages of the program given back"),
    any(libc::SYS_clock_gettime, "guest clock, where the vDSO cannot read the host's"),
    any(libc::SYS_getcpu, "processor hint, where the vDSO cannot"),
];
