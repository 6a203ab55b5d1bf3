//! What is tried in the jails.

/// A label, the system call, and an action: whether it succeeded.
pub type Forbidden = (&'static str, i64, fn() -> bool);

/// A label and an action.
pub type Allowed = (&'static str, fn() -> bool);

/// `syscall(2)` with small integers and pointers to constants only.
pub fn call(number: libc::c_long, args: [usize; 6]) -> bool {
    // SAFETY: the tests below pass nothing that the kernel would write to, but for addresses that are null.
    unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], args[4], args[5]) >= 0 }
}

/// Address of the name of a file that everybody may open.
fn null_path() -> usize {
    c"/dev/null".as_ptr() as usize
}

const ANON: usize = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
const SHARED: usize = (libc::MAP_SHARED | libc::MAP_ANONYMOUS) as usize;
const RW: usize = (libc::PROT_READ | libc::PROT_WRITE) as usize;
const RX: usize = (libc::PROT_READ | libc::PROT_EXEC) as usize;
/// `AF_INET`.
pub const INET: usize = libc::AF_INET as usize;
/// `SOCK_STREAM`.
pub const STREAM: usize = libc::SOCK_STREAM as usize;

/// What no role may do.
#[rustfmt::skip]
pub const FORBIDDEN: &[Forbidden] = &[
    ("openat", libc::SYS_openat, || call(libc::SYS_openat, [libc::AT_FDCWD as usize, null_path(), 0, 0, 0, 0])),
    ("open", libc::SYS_open, || call(libc::SYS_open, [null_path(), 0, 0, 0, 0, 0])),
    ("socket", libc::SYS_socket, || call(libc::SYS_socket, [INET, STREAM, 0, 0, 0, 0])),
    ("ptrace", libc::SYS_ptrace, || call(libc::SYS_ptrace, [0; 6])),
    ("execve", libc::SYS_execve, || call(libc::SYS_execve, [null_path(), 0, 0, 0, 0, 0])),
    ("fork", libc::SYS_fork, || call(libc::SYS_fork, [0; 6])),
    ("clone", libc::SYS_clone, || call(libc::SYS_clone, [libc::SIGCHLD as usize, 0, 0, 0, 0, 0])),
    ("kill", libc::SYS_kill, || call(libc::SYS_kill, [1, 0, 0, 0, 0, 0])),
    ("tgkill", libc::SYS_tgkill, || call(libc::SYS_tgkill, [1, 1, 0, 0, 0, 0])),
    ("memfd_create", libc::SYS_memfd_create, || call(libc::SYS_memfd_create, [null_path(), 0, 0, 0, 0, 0])),
    ("executable mmap", libc::SYS_mmap, || call(libc::SYS_mmap, [0, 4096, RX, ANON, usize::MAX, 0])),
    ("shared mmap", libc::SYS_mmap, || call(libc::SYS_mmap, [0, 4096, RW, SHARED, usize::MAX, 0])),
    ("mmap of a file", libc::SYS_mmap, || call(libc::SYS_mmap, [0, 4096, RW, libc::MAP_PRIVATE as usize, 2, 0])),
    ("mmap of huge pages", libc::SYS_mmap, || call(libc::SYS_mmap, [0, 4096, RW, ANON | libc::MAP_HUGETLB as usize, usize::MAX, 0])),
    ("mmap at a place", libc::SYS_mmap, || call(libc::SYS_mmap, [0x10000, 4096, RW, ANON | libc::MAP_FIXED as usize, usize::MAX, 0])),
    ("merged memory", libc::SYS_madvise, || call(libc::SYS_madvise, [0, 0, libc::MADV_MERGEABLE as usize, 0, 0, 0])),
    ("time of a process", libc::SYS_clock_gettime, || call(libc::SYS_clock_gettime, [!1 << 3 | 2, 0, 0, 0, 0, 0])),
    ("lock of a thread", libc::SYS_futex, || call(libc::SYS_futex, [0, (libc::FUTEX_LOCK_PI | libc::FUTEX_PRIVATE_FLAG) as usize, 0, 0, 0, 0])),
    ("sleepers moved", libc::SYS_futex, || call(libc::SYS_futex, [0, libc::FUTEX_CMP_REQUEUE_PI as usize, 1, 0, 0, 0])),
    ("mprotect", libc::SYS_mprotect, || call(libc::SYS_mprotect, [0, 4096, RW, 0, 0, 0])),
    ("mremap to a place", libc::SYS_mremap, || call(libc::SYS_mremap, [0, 4096, 4096, 3, 4096, 0])),
    ("unshare", libc::SYS_unshare, || call(libc::SYS_unshare, [0; 6])),
    ("io_uring_setup", libc::SYS_io_uring_setup, || call(libc::SYS_io_uring_setup, [0; 6])),
    ("process_vm_writev", libc::SYS_process_vm_writev, || call(libc::SYS_process_vm_writev, [0; 6])),
    ("bpf", libc::SYS_bpf, || call(libc::SYS_bpf, [0; 6])),
    ("seccomp", libc::SYS_seccomp, || call(libc::SYS_seccomp, [0; 6])),
    ("prctl", libc::SYS_prctl, || call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE as usize, 1, 0, 0, 0, 0])),
    ("rt_sigaction", libc::SYS_rt_sigaction, || call(libc::SYS_rt_sigaction, [31, 0, 0, 8, 0, 0])),
    ("dup", libc::SYS_dup, || call(libc::SYS_dup, [2, 0, 0, 0, 0, 0])),
    ("no such call", 1000, || call(1000, [0; 6])),
];

/// What every role may do.
pub const ALLOWED: &[Allowed] = &[
    ("write to standard error", || call(libc::SYS_write, [2, 0, 0, 0, 0, 0])),
    ("mmap", || call(libc::SYS_mmap, [0, 4096, RW, ANON, usize::MAX, 0])),
    ("large allocation", || {
        let block = vec![1u8; 8 << 20];
        std::hint::black_box(&block).len() == 8 << 20
    }),
    ("growing allocation", || {
        let mut block = Vec::new();
        (0..1 << 20).for_each(|number| block.push(number as u64));
        std::hint::black_box(&block).len() == 1 << 20
    }),
    ("clock", || std::time::Instant::now().elapsed().as_secs() < 10),
    ("memory given back", || call(libc::SYS_madvise, [0, 0, libc::MADV_DONTNEED as usize, 0, 0, 0])),
    ("clock by a call", || {
        call(
            libc::SYS_clock_gettime,
            [
                libc::CLOCK_MONOTONIC as usize,
                Box::leak(Box::new([0u64; 2])).as_mut_ptr() as usize,
                0,
                0,
                0,
                0,
            ],
        )
    }),
    ("short sleep on a futex", || {
        let word = 0u32;
        let time = libc::timespec { tv_sec: 0, tv_nsec: 1000 };
        let args = [&raw const word as usize, libc::FUTEX_WAIT as usize, 0, &raw const time as usize, 0, 0];
        // It times out.
        !call(libc::SYS_futex, args)
    }),
];
