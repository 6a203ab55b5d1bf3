//! The void: namespaces in which there is nothing. The broker makes them once, its processes only join: making them costs a
//! millisecond, more where many do it, which a successor's guest would wait for.
//!
//! They stay as descriptors. Who makes them is a short-lived process that shares the broker's table of descriptors.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use crate::sys;

/// Kinds of namespaces: name for a manifest, file of the process table. Whoever joins takes them in this order.
const KINDS: [(&str, &std::ffi::CStr); 6] = [
    ("ns-user", c"/proc/self/ns/user"),
    ("ns-mnt", c"/proc/self/ns/mnt"),
    ("ns-net", c"/proc/self/ns/net"),
    ("ns-ipc", c"/proc/self/ns/ipc"),
    ("ns-uts", c"/proc/self/ns/uts"),
    ("ns-cgroup", c"/proc/self/ns/cgroup"),
];

/// Position of that for mounts.
const MOUNTS: usize = 1;

/// Makes the namespaces: with `owner` for that user and group to join, else for the present one. The superuser's own need no user
/// namespace, everybody else's begin with one, which maps nobody. To be called while the process has one thread.
///
/// # Errors
/// The kernel's: it does not give out namespaces, or nothing is allowed in them.
pub fn make_void(owner: Option<(u32, u32)>) -> io::Result<Vec<(&'static str, OwnedFd)>> {
    let with_user = owner.is_some() || !sys::is_root();
    let len = size_of::<[AtomicI32; KINDS.len()]>();
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: fresh memory at an address of the kernel's choice.
    let desk = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) };
    if desk == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: mapped above, zeroed, aligned to a page, and unmapped only at the end of this function.
    let numbers = unsafe { &*desk.cast::<[AtomicI32; KINDS.len()]>() };
    // SAFETY: a fork that shares descriptors. The child has this one thread and only makes system calls.
    let made = match unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_FILES | libc::SIGCHLD, 0, 0, 0, 0) }
    {
        0 => sys::end_now(i32::from(!fill(numbers, owner, with_user))),
        pid if pid > 0 => sys::ended_well(pid as i32),
        _ => Err(io::Error::last_os_error()),
    };
    let kinds = KINDS.iter().zip(numbers);
    let fds: Vec<(&'static str, OwnedFd)> = kinds
        .map(|((name, _), number)| (*name, number.load(Ordering::SeqCst)))
        .filter(|(_, number)| *number > 0)
        // SAFETY: just opened in the table that this process shared, nobody else's.
        .map(|(name, number)| (name, unsafe { OwnedFd::from_raw_fd(number) }))
        .collect();
    // SAFETY: mapped above, not used any more.
    unsafe { libc::munmap(desk, len) };
    made.map(|()| fds)
}

/// Makes them, in the forked process.
fn fill(numbers: &[AtomicI32; KINDS.len()], owner: Option<(u32, u32)>, with_user: bool) -> bool {
    if owner.is_some_and(|(user, group)| sys::drop_to(user, group).is_err())
        || sys::separate(with_user).is_err()
    {
        return false;
    }
    for ((_, path), number) in KINDS.iter().zip(numbers).skip(usize::from(!with_user)) {
        // SAFETY: a valid C string.
        let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
        if fd < 0 {
            return false;
        }
        number.store(fd, Ordering::SeqCst);
    }
    if sys::empty_root().is_err() {
        return false;
    }
    if !is_root_of(&numbers[MOUNTS]) {
        // Everybody then makes a root of nothing, or says that it lacks one.
        let _ = sys::close_one(numbers[MOUNTS].swap(0, Ordering::SeqCst));
    }
    true
}

/// Whether the root of this process is what those who join the namespace for mounts get: their root is that of the namespace, which this
/// process may never have seen, in a `chroot` of somebody else's.
fn is_root_of(mounts: &AtomicI32) -> bool {
    let Ok(own) = sys::root_device() else { return false };
    sys::join(mounts.load(Ordering::SeqCst)).is_ok() && sys::root_device().is_ok_and(|theirs| theirs == own)
}

/// Whether a descriptor is a namespace of this kind (`CLONE_NEW*`).
pub(crate) fn is_kind(fd: RawFd, kind: libc::c_int) -> bool {
    /// `NS_GET_NSTYPE` of `linux/nsfs.h`.
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    // SAFETY: the request takes no pointer.
    unsafe { libc::ioctl(fd, NS_GET_NSTYPE) == kind }
}
