//! The system calls of the jail that no dependency offers.

use std::ffi::CString;
use std::io;

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Kills this process when the thread that started it ends. Cleared by the kernel when credentials change.
pub fn die_with_parent() -> io::Result<()> {
    // SAFETY: plain values.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })
}

/// Shows this process under the name it was started as (its first 15 bytes).
pub fn take_name() -> io::Result<()> {
    let name = std::env::args().next().unwrap_or_default();
    let name = name.rsplit('/').next().unwrap_or_default();
    let name = CString::new(name).map_err(io::Error::other)?;
    // SAFETY: a valid C string, copied by the kernel.
    check(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) })
}

/// No core dump, no tracing by others of the same user.
pub fn not_dumpable() -> io::Result<()> {
    // SAFETY: plain values.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) })
}

/// No privilege may be gained by exec any more.
pub fn no_new_privileges() -> io::Result<()> {
    // SAFETY: plain values.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
}

/// Closes every descriptor that is not in `keep`.
pub fn close_all_but(keep: &[i32]) -> io::Result<()> {
    let mut kept: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    kept.sort_unstable();
    kept.dedup();
    let mut from = 0u32;
    for fd in kept {
        if fd > from {
            close_range(from, fd - 1)?;
        }
        from = fd.saturating_add(1);
    }
    close_range(from, u32::MAX)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: closes numbers; the caller gives up every descriptor in the range, which is the purpose of the jail.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lowers a resource limit to `value` for good.
pub fn limit(resource: libc::__rlimit_resource_t, value: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: the structure lives over the call.
    check(unsafe { libc::setrlimit(resource, &raw const limit) })
}

/// Makes a fresh directory that is already unlinked the root: nothing is in it, nothing can be put into it.
pub fn chroot_into_nothing() -> io::Result<()> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for place in ["/tmp", "/run", "/dev/shm", "/var/tmp"] {
        let template = CString::new(format!("{place}/.bulkhead-XXXXXX")).map_err(io::Error::other)?;
        let raw = template.into_raw();
        // SAFETY: a writable C string that mkdtemp changes in place, without changing its length; taken back below.
        let (made, path) = unsafe {
            let made = !libc::mkdtemp(raw).is_null();
            (made, CString::from_raw(raw))
        };
        if !made {
            last = io::Error::last_os_error();
            continue;
        }
        // SAFETY: valid C strings.
        unsafe {
            check(libc::chdir(path.as_ptr()))?;
            check(libc::rmdir(path.as_ptr()))?;
            return check(libc::chroot(c".".as_ptr()));
        }
    }
    Err(last)
}

/// Gives up groups, group and user, for every thread.
pub fn drop_to(user: u32, group: u32) -> io::Result<()> {
    // SAFETY: plain values; a null list of length 0 is allowed.
    unsafe {
        check(libc::setgroups(0, std::ptr::null()))?;
        check(libc::setresgid(group, group, group))?;
        check(libc::setresuid(user, user, user))
    }
}

/// Parent's process id.
pub fn parent() -> i32 {
    // SAFETY: no arguments.
    unsafe { libc::getppid() }
}

/// Own process id.
pub fn own_pid() -> u64 {
    u64::from(std::process::id())
}

/// Whether this process is the superuser.
pub fn is_root() -> bool {
    // SAFETY: no arguments.
    unsafe { libc::geteuid() == 0 }
}
