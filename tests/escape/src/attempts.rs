//! The ways out. Each is one or a few system calls that do something only a process without a jail can do.

use std::sync::atomic::{AtomicI32, Ordering};

/// Whether an attempt works without a jail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// For everybody, on every host.
    Works,
    /// For the superuser, or where the host's settings and kernel have it.
    Depends,
}

/// One way out.
pub struct Attempt {
    /// What the attacker wants.
    pub name: &'static str,
    /// Without a jail.
    pub outside: Outside,
    /// Its call that a jail forbids, as the broker names it.
    pub call: &'static str,
    /// Tries; `Err` is the error number.
    pub run: fn() -> Result<(), i32>,
}

/// This process and its parent, learnt while it could be asked for.
static OWN: AtomicI32 = AtomicI32::new(0);
static PARENT: AtomicI32 = AtomicI32::new(0);

/// Learns what the attempts need to know. To be called outside of the jail.
pub fn prepare() {
    OWN.store(std::process::id() as i32, Ordering::Relaxed);
    PARENT.store(std::os::unix::process::parent_id() as i32, Ordering::Relaxed);
}

fn own() -> usize {
    OWN.load(Ordering::Relaxed) as usize
}

fn parent() -> usize {
    PARENT.load(Ordering::Relaxed) as usize
}

/// A system call; arguments that are left out are 0.
fn sys(number: i64, args: &[usize]) -> Result<usize, i32> {
    let arg = |at: usize| args.get(at).copied().unwrap_or(0);
    // SAFETY: every attempt passes addresses of live memory that is large enough for what its call writes, or null.
    let result = unsafe { libc::syscall(number, arg(0), arg(1), arg(2), arg(3), arg(4), arg(5)) };
    if result >= 0 { Ok(result as usize) } else { Err(nix::errno::Errno::last_raw()) }
}

fn done(number: i64, args: &[usize]) -> Result<(), i32> {
    sys(number, args).map(drop)
}

fn text(text: &'static std::ffi::CStr) -> usize {
    text.as_ptr() as usize
}

const HERE: usize = libc::AT_FDCWD as usize;
const NONE: usize = usize::MAX;
const R: usize = libc::PROT_READ as usize;
const RW: usize = (libc::PROT_READ | libc::PROT_WRITE) as usize;
const RX: usize = (libc::PROT_READ | libc::PROT_EXEC) as usize;
const RWX: usize = RW | RX;
const ANON: usize = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
const SHARED: usize = (libc::MAP_SHARED | libc::MAP_ANONYMOUS) as usize;
/// Room for whatever a call writes.
const ROOM: usize = 4096;
/// More memory than any role may have.
const PLENTY: usize = 8;

fn room() -> usize {
    Box::leak(vec![0u8; ROOM].into_boxed_slice()).as_mut_ptr() as usize
}

fn page(protection: usize) -> Result<usize, i32> {
    sys(libc::SYS_mmap, &[0, ROOM, protection, ANON, NONE, 0])
}

/// An empty program: the shortest that the kernel takes for a script.
fn program_in_memory() -> Result<(), i32> {
    let fd = sys(libc::SYS_memfd_create, &[text(c"program")])?;
    let script = c"#!/bin/true\n";
    sys(libc::SYS_write, &[fd, text(script), script.count_bytes()])?;
    // Works only where it does not come back; the name goes through /proc.
    done(libc::SYS_execveat, &[fd, text(c""), 0, 0, libc::AT_EMPTY_PATH as usize])
}

fn much_memory() -> Result<(), i32> {
    (0..PLENTY).try_for_each(|_| done(libc::SYS_mmap, &[0, 1 << 30, RW, ANON, NONE, 0]))
}

fn own_memory(number: i64) -> Result<(), i32> {
    let (from, to) = ([room(), 8], [room(), 8]);
    done(number, &[own(), from.as_ptr() as usize, 1, to.as_ptr() as usize, 1])
}

/// To or from a descriptor that is not this process's business.
fn foreign_descriptors(number: i64) -> Result<(), i32> {
    let mut last = Err(libc::EBADF);
    let at = room();
    // Above everything that a manifest passes; below it may lie what the process owns by right. Standard output and input are not.
    for fd in [1, 0].into_iter().chain(60..160) {
        match sys(number, &[fd, at, 1]) {
            Ok(_) => return Ok(()),
            Err(error) => last = Err(error),
        }
    }
    last
}

/// `getpid` the 32-bit way.
#[cfg(target_arch = "x86_64")]
fn call_of_32_bits() -> Result<(), i32> {
    let result: i64;
    // SAFETY: the kernel changes the result register and r8 to r11 only; 20 is getpid there.
    unsafe {
        std::arch::asm!("int 0x80", inlateout("rax") 20i64 => result, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    if result > 0 { Ok(()) } else { Err(-result as i32) }
}

#[cfg(not(target_arch = "x86_64"))]
fn call_of_32_bits() -> Result<(), i32> {
    Err(libc::ENOSYS)
}

const fn works(name: &'static str, call: &'static str, run: fn() -> Result<(), i32>) -> Attempt {
    Attempt { name, outside: Outside::Works, call, run }
}

const fn depends(name: &'static str, call: &'static str, run: fn() -> Result<(), i32>) -> Attempt {
    Attempt { name, outside: Outside::Depends, call, run }
}

/// Every attempt. Calls that leave something behind name it after nothing that anybody uses.
#[rustfmt::skip]
pub const ATTEMPTS: &[Attempt] = &[
    // Files.
    works("read a file", "openat", || done(libc::SYS_openat, &[HERE, text(c"/etc/passwd"), 0])),
    works("read a file, the old way", "open", || done(libc::SYS_open, &[text(c"/etc/passwd"), 0])),
    works("read a file, the new way", "openat2", || { let how = [0u64; 3]; done(libc::SYS_openat2, &[HERE, text(c"/etc/passwd"), how.as_ptr() as usize, 24]) }),
    works("open a device", "openat", || done(libc::SYS_openat, &[HERE, text(c"/dev/null"), libc::O_RDWR as usize])),
    works("open its own memory", "openat", || done(libc::SYS_openat, &[HERE, text(c"/proc/self/mem"), libc::O_RDWR as usize])),
    works("look at a file", "newfstatat", || done(libc::SYS_newfstatat, &[HERE, text(c"/etc/passwd"), room(), 0])),
    works("ask for a file", "access", || done(libc::SYS_access, &[text(c"/etc/passwd"), 0])),
    works("find its own program", "readlink", || done(libc::SYS_readlink, &[text(c"/proc/self/exe"), room(), ROOM])),
    works("change folder", "chdir", || done(libc::SYS_chdir, &[text(c"/")])),
    works("name a file by handle", "name_to_handle_at", || { let at = room(); let _ = sys(libc::SYS_name_to_handle_at, &[HERE, text(c"/"), at, at + 256, 0]); let error = nix::errno::Errno::last_raw(); if error == libc::EOVERFLOW || error == libc::EOPNOTSUPP { Ok(()) } else { Err(error) } }),
    depends("open a file by handle", "open_by_handle_at", || done(libc::SYS_open_by_handle_at, &[HERE, room(), 0])),
    depends("make a file", "openat", || { sys(libc::SYS_openat, &[HERE, text(c"/tmp"), (libc::O_TMPFILE | libc::O_RDWR) as usize, 0o600]).map(drop) }),
    depends("mount", "mount", || done(libc::SYS_mount, &[text(c"none"), text(c"/proc/fs"), text(c"tmpfs"), libc::MS_RDONLY as usize, 0])),
    depends("change the root", "chroot", || done(libc::SYS_chroot, &[text(c"/")])),
    depends("turn the root", "pivot_root", || done(libc::SYS_pivot_root, &[text(c"/"), text(c"/")])),
    works("watch files", "inotify_init1", || done(libc::SYS_inotify_init1, &[])),
    depends("watch everybody's files", "fanotify_init", || done(libc::SYS_fanotify_init, &[0, 0])),
    works("write everything back", "sync", || done(libc::SYS_sync, &[])),
    // Network and messages.
    works("connect to the network", "socket", || done(libc::SYS_socket, &[libc::AF_INET as usize, libc::SOCK_STREAM as usize])),
    works("send datagrams", "socket", || done(libc::SYS_socket, &[libc::AF_INET6 as usize, libc::SOCK_DGRAM as usize])),
    works("talk to local servers", "socket", || done(libc::SYS_socket, &[libc::AF_UNIX as usize, libc::SOCK_STREAM as usize])),
    works("talk to the kernel's network", "socket", || done(libc::SYS_socket, &[libc::AF_NETLINK as usize, libc::SOCK_RAW as usize])),
    depends("see every packet", "socket", || done(libc::SYS_socket, &[libc::AF_PACKET as usize, libc::SOCK_RAW as usize])),
    works("make a pair of sockets", "socketpair", || done(libc::SYS_socketpair, &[libc::AF_UNIX as usize, libc::SOCK_STREAM as usize, 0, room()])),
    works("make a pipe", "pipe2", || done(libc::SYS_pipe2, &[room(), 0])),
    works("make a message queue", "msgget", || { let id = sys(libc::SYS_msgget, &[libc::IPC_PRIVATE as usize, 0o600])?; done(libc::SYS_msgctl, &[id, libc::IPC_RMID as usize, 0]) }),
    works("make semaphores", "semget", || { let id = sys(libc::SYS_semget, &[libc::IPC_PRIVATE as usize, 1, 0o600])?; done(libc::SYS_semctl, &[id, 0, libc::IPC_RMID as usize]) }),
    works("make shared memory", "shmget", || { let id = sys(libc::SYS_shmget, &[libc::IPC_PRIVATE as usize, ROOM, 0o600])?; done(libc::SYS_shmctl, &[id, libc::IPC_RMID as usize, 0]) }),
    // Descriptors.
    works("copy a descriptor", "dup", || done(libc::SYS_dup, &[2])),
    works("copy a descriptor by fcntl", "fcntl", || done(libc::SYS_fcntl, &[2, libc::F_DUPFD as usize, 100])),
    works("copy a descriptor to a place", "dup3", || done(libc::SYS_dup3, &[2, 200, 0])),
    works("make an event descriptor", "eventfd2", || done(libc::SYS_eventfd2, &[0, 0])),
    works("make a timer descriptor", "timerfd_create", || done(libc::SYS_timerfd_create, &[libc::CLOCK_MONOTONIC as usize, 0])),
    works("make a polling descriptor", "epoll_create1", || done(libc::SYS_epoll_create1, &[0])),
    works("write to somebody's descriptor", "write", || foreign_descriptors(libc::SYS_write)),
    works("read from somebody's descriptor", "read", || foreign_descriptors(libc::SYS_read)),
    works("control its standard error", "ioctl", || done(libc::SYS_ioctl, &[2, libc::FIONBIO as usize, room()])),
    // Processes.
    works("fork", "fork", || if sys(libc::SYS_fork, &[])? == 0 { std::process::exit(0) } else { Ok(()) }),
    works("clone", "clone", || if sys(libc::SYS_clone, &[libc::SIGCHLD as usize])? == 0 { std::process::exit(0) } else { Ok(()) }),
    works("run a program", "execve", || done(libc::SYS_execve, &[text(c"/bin/true"), 0, 0])),
    works("run a program from memory", "memfd_create", program_in_memory),
    works("signal itself", "kill", || done(libc::SYS_kill, &[own(), 0])),
    works("signal a thread", "tgkill", || done(libc::SYS_tgkill, &[own(), own(), 0])),
    works("signal its parent", "kill", || done(libc::SYS_kill, &[parent(), 0])),
    works("let itself be traced", "ptrace", || done(libc::SYS_ptrace, &[libc::PTRACE_TRACEME as usize])),
    depends("trace its parent", "ptrace", || done(libc::SYS_ptrace, &[libc::PTRACE_SEIZE as usize, parent()])),
    works("read memory of a process", "process_vm_readv", || own_memory(libc::SYS_process_vm_readv)),
    works("write memory of a process", "process_vm_writev", || own_memory(libc::SYS_process_vm_writev)),
    works("hold on to a process", "pidfd_open", || done(libc::SYS_pidfd_open, &[parent(), 0])),
    depends("take a descriptor of a process", "pidfd_getfd", || done(libc::SYS_pidfd_getfd, &[2, 0, 0])),
    works("ask for its number", "getpid", || done(libc::SYS_getpid, &[])),
    works("ask for its parent", "getppid", || done(libc::SYS_getppid, &[])),
    works("time of a process", "clock_gettime", || done(libc::SYS_clock_gettime, &[!parent() << 3 | 2, room()])),
    works("a lock that knows threads", "futex", || done(libc::SYS_futex, &[room(), libc::FUTEX_LOCK_PI as usize])),
    works("ask for the host's name", "uname", || done(libc::SYS_uname, &[room()])),
    works("choose its processor", "sched_setaffinity", || { let mask = [1u8; 128]; done(libc::SYS_sched_setaffinity, &[0, 128, mask.as_ptr() as usize]) }),
    works("change its priority", "setpriority", || done(libc::SYS_setpriority, &[0, 0, 19])),
    works("raise its limits", "prlimit64", || { let limit = [0u64; 2]; done(libc::SYS_prlimit64, &[0, libc::RLIMIT_CORE as usize, limit.as_ptr() as usize]) }),
    // Executable memory.
    works("memory to write and run", "mmap", || done(libc::SYS_mmap, &[0, ROOM, RWX, ANON, NONE, 0])),
    works("memory to run", "mmap", || done(libc::SYS_mmap, &[0, ROOM, RX, ANON, NONE, 0])),
    works("shared memory to run", "mmap", || done(libc::SYS_mmap, &[0, ROOM, RX, SHARED, NONE, 0])),
    depends("huge pages of the host", "mmap", || done(libc::SYS_mmap, &[0, 2 << 20, RW, ANON | libc::MAP_HUGETLB as usize, NONE, 0])),
    depends("memory merged with others'", "madvise", || done(libc::SYS_madvise, &[page(RW)?, ROOM, libc::MADV_MERGEABLE as usize])),
    depends("memory wiped out", "madvise", || done(libc::SYS_madvise, &[page(RW)?, ROOM, libc::MADV_REMOVE as usize])),
    works("heap made executable", "mprotect", || done(libc::SYS_mprotect, &[page(RW)?, ROOM, RX])),
    works("heap made executable with a key", "pkey_mprotect", || done(libc::SYS_pkey_mprotect, &[page(RW)?, ROOM, RX, NONE])),
    works("read-only memory made writable", "mprotect", || done(libc::SYS_mprotect, &[page(R)?, ROOM, RW])),
    works("its code made writable", "mprotect", || done(libc::SYS_mprotect, &[(works as fn(_, _, _) -> _ as usize) & !(ROOM - 1), ROOM, RWX])),
    works("everything readable made executable", "personality", || done(libc::SYS_personality, &[0x040_0000])),
    works("a file in memory", "memfd_create", || done(libc::SYS_memfd_create, &[text(c"file")])),
    works("memory over its own", "mremap", || { let at = page(RW)?; let to = page(RW)?; done(libc::SYS_mremap, &[at, ROOM, ROOM, (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as usize, to]) }),
    works("more memory than it may have", "mmap", much_memory),
    depends("secret memory", "memfd_secret", || done(libc::SYS_memfd_secret, &[0])),
    // The kernel's dark corners.
    depends("io_uring", "io_uring_setup", || done(libc::SYS_io_uring_setup, &[1, room()])),
    depends("bpf", "bpf", || { let at = room(); done(libc::SYS_bpf, &[0, at, 72]) }),
    depends("perf events", "perf_event_open", || { let at = room(); done(libc::SYS_perf_event_open, &[at, 0, NONE, NONE, 0]) }),
    depends("user faults", "userfaultfd", || done(libc::SYS_userfaultfd, &[1])),
    depends("add a key", "add_key", || done(libc::SYS_add_key, &[text(c"user"), text(c"bulkhead"), text(c"x"), 1, -3isize as usize])),
    depends("join a keyring", "keyctl", || done(libc::SYS_keyctl, &[1, 0])),
    depends("a module", "init_module", || done(libc::SYS_init_module, &[room(), 0, text(c"")])),
    depends("the kernel's log", "syslog", || done(libc::SYS_syslog, &[10, 0, 0])),
    depends("ports of the host", "ioperm", || done(libc::SYS_ioperm, &[0x80, 1, 1])),
    depends("a local descriptor table", "modify_ldt", || done(libc::SYS_modify_ldt, &[0, room(), 16])),
    works("another base for a segment", "arch_prctl", || done(libc::SYS_arch_prctl, &[0x1004, room()])),
    depends("32-bit system calls", "32-bit call 20", call_of_32_bits),
    depends("x32 system calls", "call 1073741863", || done(0x4000_0000 | libc::SYS_getpid, &[])),
    // Its own jail.
    depends("a user namespace", "unshare", || done(libc::SYS_unshare, &[libc::CLONE_NEWUSER as usize])),
    works("a table of descriptors of its own", "unshare", || done(libc::SYS_unshare, &[libc::CLONE_FILES as usize])),
    depends("somebody's namespace", "setns", || done(libc::SYS_setns, &[2, 0])),
    works("be traceable again", "prctl", || done(libc::SYS_prctl, &[libc::PR_SET_DUMPABLE as usize, 1])),
    works("outlive the broker", "prctl", || done(libc::SYS_prctl, &[libc::PR_SET_PDEATHSIG as usize, 0])),
    works("another filter", "seccomp", || { let action = libc::SECCOMP_RET_ALLOW; done(libc::SYS_seccomp, &[libc::SECCOMP_GET_ACTION_AVAIL as usize, 0, &raw const action as usize]) }),
    works("another user", "setresuid", || done(libc::SYS_setresuid, &[NONE, NONE, NONE])),
    works("capabilities", "capget", || { let at = room(); let _ = sys(libc::SYS_capget, &[at, 0])?; Ok(()) }),
    works("a handler for its end", "rt_sigaction", || done(libc::SYS_rt_sigaction, &[libc::SIGSYS as usize, 0, room(), 8])),
    works("a mask for its end", "rt_sigprocmask", || done(libc::SYS_rt_sigprocmask, &[libc::SIG_BLOCK as usize, 0, room(), 8])),
    works("an alarm", "alarm", || done(libc::SYS_alarm, &[0])),
];
