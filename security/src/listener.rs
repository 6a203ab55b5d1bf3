//! The child's half of explained violations: a filter that stops the offender and tells a listener, and how the listener's
//! descriptor gets to the broker although the policy allows no call that could send it.
//!
//! The descriptor exists from the moment the filter does, so the process itself can no longer pass it on. A *messenger* does:
//! a process that shares nothing but the table of descriptors, started just before. It sends the descriptor, closes it for
//! both, and ends, before the process reads anything hostile.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use seccompiler::BpfProgram;

use crate::sys;
use crate::watch::{Lacks, MESSAGE_BYTES, message};

/// Marks the instruction of a compiled filter that [`telling`] replaces.
pub const MARK: u32 = 0x6a1;
/// `BPF_RET | BPF_K`: the instruction that ends a filter.
const RETURN: u16 = 0x06;
/// Looks for the other side, each at most this many seconds apart.
const PATIENCE: u32 = 20;

fn replace(mut program: BpfProgram, with: u32) -> BpfProgram {
    let ends = program.iter_mut().filter(|instruction| instruction.code == RETURN);
    for end in ends.filter(|end| end.k != libc::SECCOMP_RET_ALLOW) {
        end.k = with;
    }
    program
}

/// The filter with every refusal turned into a question to the listener; calls of another architecture included.
pub fn telling(program: BpfProgram) -> BpfProgram {
    replace(program, libc::SECCOMP_RET_USER_NOTIF)
}

/// The broker's filter, with calls of another architecture refused like all others.
pub fn foreign_calls_too(program: BpfProgram) -> BpfProgram {
    replace(program, libc::SECCOMP_RET_TRACE)
}

/// Installs a filter on every thread; its listener.
///
/// # Errors
/// The kernel's: it is too old, or there is a listener above already.
pub fn install(program: &BpfProgram) -> io::Result<RawFd> {
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER
        | libc::SECCOMP_FILTER_FLAG_TSYNC
        | libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH;
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    // seccompiler's instruction and the kernel's have the same layout.
    let filter = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    // A thread whose call the broker looks at can then only be killed. Since kernel 5.19.
    for flags in [flags | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, flags] {
        // SAFETY: the program is live and only read.
        let fd = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter)
        };
        match fd {
            0.. => return RawFd::try_from(fd).map_err(io::Error::other),
            _ if io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) => {}
            _ => break,
        }
    }
    Err(io::Error::last_os_error())
}

/// What the two processes share.
#[repr(C)]
struct Desk {
    /// 1: there is something to deliver.
    ready: AtomicU32,
    /// 1: delivered.
    done: AtomicU32,
    /// The listener, or -1.
    listener: AtomicI32,
    /// Bits of [`Lacks`].
    lacks: AtomicU32,
}

/// The messenger, waiting.
pub struct Messenger {
    desk: *mut Desk,
}

impl Messenger {
    /// Starts it; `report` leads to the broker and is closed with the delivery.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start(report: RawFd) -> io::Result<Messenger> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: fresh memory at an address of the kernel's choice.
        let desk = unsafe { libc::mmap(std::ptr::null_mut(), size_of::<Desk>(), prot, flags, -1, 0) };
        if desk == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let messenger = Messenger { desk: desk.cast() };
        let range = sys::program_range();
        let parent = sys::own_pid();
        let kind = libc::CLONE_FILES | libc::SIGCHLD;
        // SAFETY: a fork that shares descriptors. The child has this one thread and only makes system calls.
        match unsafe { libc::syscall(libc::SYS_clone, kind, 0, 0, 0, 0) } {
            0 => messenger.run(report, parent, range),
            pid if pid > 0 => Ok(messenger),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn desk(&self) -> &Desk {
        // SAFETY: mapped by `start`, zeroed, and never unmapped while a messenger exists.
        unsafe { &*self.desk }
    }

    /// Has it deliver, and waits until it has.
    ///
    /// # Errors
    /// When it has died.
    pub fn deliver(self, lacks: Lacks, listener: Option<RawFd>) -> io::Result<()> {
        let desk = self.desk();
        desk.listener.store(listener.unwrap_or(-1), Ordering::Relaxed);
        desk.lacks.store(lacks.0, Ordering::Relaxed);
        desk.ready.store(1, Ordering::SeqCst);
        wake(&desk.ready);
        if wait(&desk.done) { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
    }

    fn run(&self, report: RawFd, parent: u64, range: (u64, u64)) -> ! {
        let desk = self.desk();
        if sys::die_with_parent().is_err() || sys::parent() as u64 != parent || !wait(&desk.ready) {
            sys::end_now(1);
        }
        let listener = desk.listener.load(Ordering::Relaxed);
        let lacks = Lacks(desk.lacks.load(Ordering::Relaxed));
        let sent = send(report, &message(lacks, range), listener);
        // The table of descriptors is the process's own.
        let _ = sys::close_one(report);
        if listener >= 0 {
            let _ = sys::close_one(listener);
        }
        // A listener that did not arrive is closed now, and the kernel refuses what would have been told.
        if sent {
            desk.done.store(1, Ordering::SeqCst);
            wake(&desk.done);
        }
        sys::end_now(0)
    }
}

impl Drop for Messenger {
    fn drop(&mut self) {
        // SAFETY: mapped by `start`; the messenger has its own mapping.
        unsafe { libc::munmap(self.desk.cast(), size_of::<Desk>()) };
    }
}

/// Waits until the word is not 0; false when it stays so for too long.
fn wait(word: &AtomicU32) -> bool {
    let second = libc::timespec { tv_sec: 1, tv_nsec: 0 };
    for _ in 0..PATIENCE {
        if word.load(Ordering::SeqCst) != 0 {
            return true;
        }
        // SAFETY: the word and the time-out outlive the call.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, 0, &raw const second) };
    }
    word.load(Ordering::SeqCst) != 0
}

fn wake(word: &AtomicU32) {
    // SAFETY: the call only uses the word's address.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

/// Sends the message, with the listener when it is one. Without an allocation: the sender is a fork.
fn send(socket: RawFd, message: &[u8; MESSAGE_BYTES], listener: RawFd) -> bool {
    /// Room for one descriptor, aligned for its header.
    #[repr(align(8))]
    struct Room([u8; 64]);
    let mut room = Room([0; 64]);
    let mut part = libc::iovec { iov_base: message.as_ptr().cast_mut().cast(), iov_len: message.len() };
    // SAFETY: a zeroed header is valid; every pointer in it outlives the call, the room is larger than one descriptor needs.
    unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        if listener >= 0 {
            header.msg_control = room.0.as_mut_ptr().cast();
            header.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as usize;
            let control = libc::CMSG_FIRSTHDR(&raw const header);
            (*control).cmsg_level = libc::SOL_SOCKET;
            (*control).cmsg_type = libc::SCM_RIGHTS;
            (*control).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize;
            libc::CMSG_DATA(control).cast::<RawFd>().write_unaligned(listener);
        }
        libc::sendmsg(socket, &raw const header, libc::MSG_NOSIGNAL) == message.len() as isize
    }
}
