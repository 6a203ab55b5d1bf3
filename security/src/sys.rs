//! The system calls of the jail that no dependency offers.

use std::ffi::CString;
use std::io;

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the kernel did not allow it.
pub fn is_refusal(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EPERM)
}

/// Kills this process when the thread that started it ends. Cleared by the kernel when credentials change.
pub fn die_with_parent() -> io::Result<()> {
    // SAFETY: plain values.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })
}

/// Shows this process under `name`, or that it was started as (its first 15 bytes).
pub fn take_name(name: Option<String>) -> io::Result<()> {
    let name = name.or_else(|| std::env::args().next()).unwrap_or_default();
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

/// Lowers a resource limit to `value` for good; one that is lower already stays.
pub fn limit(resource: libc::__rlimit_resource_t, value: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure lives over the calls.
    unsafe {
        check(libc::getrlimit(resource, &raw mut limit))?;
        limit.rlim_max = value.min(limit.rlim_max);
        limit.rlim_cur = limit.rlim_max;
        check(libc::setrlimit(resource, &raw const limit))
    }
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

/// Makes the folder behind a descriptor the root.
pub fn chroot_into(folder: i32) -> io::Result<()> {
    // SAFETY: plain values and valid C strings.
    unsafe {
        check(libc::fchdir(folder))?;
        check(libc::chroot(c".".as_ptr()))?;
        check(libc::chdir(c"/".as_ptr()))
    }
}

/// Leaves the host's mounts, network, IPC objects, name and control groups for fresh ones of this process alone, with
/// `user` in a user namespace that maps nobody: as one call, so that either all of it holds or nothing.
pub fn separate(user: bool) -> io::Result<()> {
    let mut kinds = libc::CLONE_NEWNS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    if user {
        kinds |= libc::CLONE_NEWUSER;
    }
    // SAFETY: plain values; descriptors and memory stay.
    check(unsafe { libc::unshare(kinds) })
}

/// Joins a namespace.
pub fn join(namespace: i32) -> io::Result<()> {
    // SAFETY: plain values.
    check(unsafe { libc::setns(namespace, 0) })
}

/// Waits for the end of a child; an error unless its status is 0.
pub fn ended_well(pid: i32) -> io::Result<()> {
    let mut status = 0;
    loop {
        // SAFETY: the status is written to a live word.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } == pid {
            return if status == 0 { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) };
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Replaces every mount of this process's own namespace by an empty read-only file system.
pub fn empty_root() -> io::Result<()> {
    const FLAGS: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC | libc::MS_RDONLY;
    let none = std::ptr::null();
    // SAFETY: valid C strings, null where the kernel takes none.
    unsafe {
        // What is unmounted here must not be unmounted elsewhere.
        check(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()))?;
        let mount = |place: &std::ffi::CStr| {
            check(libc::mount(
                c"none".as_ptr(),
                place.as_ptr(),
                c"tmpfs".as_ptr(),
                FLAGS,
                c"size=4k,nr_inodes=1".as_ptr().cast(),
            ))?;
            check(libc::chdir(place.as_ptr()))
        };
        mount(c"/proc").or_else(|_| mount(c"/tmp")).or_else(|_| mount(c"/dev"))?;
        if libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) == 0 {
            // The old root lies on top of the new one.
            check(libc::umount2(c".".as_ptr(), libc::MNT_DETACH))?;
        } else {
            // The very first root of a system cannot be moved, but covered: whoever joins comes to what lies on top. Where that
            // fails, too, whoever looks at the root of the namespace finds out.
            libc::mount(c".".as_ptr(), c"/".as_ptr(), none, libc::MS_MOVE, none.cast());
            check(libc::chroot(c".".as_ptr()))?;
        }
        check(libc::chdir(c"/".as_ptr()))
    }
}

/// The file system that is the root of this process.
pub fn root_device() -> io::Result<u64> {
    // SAFETY: a zeroed stat is a valid value to be filled in; a valid C string.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        check(libc::stat(c"/".as_ptr(), &raw mut stat))?;
        Ok(stat.st_dev)
    }
}

/// Takes every capability out of the bounding set. Who may not do that has none to lose, and gains none: there are no new
/// privileges in a jail.
pub fn drop_bounding_set() -> io::Result<()> {
    for capability in 0..64 {
        // SAFETY: plain values; EINVAL behind the last capability that this kernel has.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            let error = io::Error::last_os_error();
            let known = [Some(libc::EINVAL), Some(libc::EPERM)];
            return if known.contains(&error.raw_os_error()) { Ok(()) } else { Err(error) };
        }
    }
    Ok(())
}

/// Gives up every capability: ambient, permitted, effective, inheritable.
pub fn drop_capabilities() -> io::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3` of `linux/capability.h`.
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let none = [0u32; 6];
    // SAFETY: header (version, this process) and data (twice three words) as the call has them.
    unsafe {
        // Kernels without ambient capabilities have none to clear.
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        if libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

/// Puts back the default action of memory faults and of a child's end: no handler runs, no child has to be waited for.
pub fn default_fault_handlers() {
    // SAFETY: no handler is given.
    unsafe {
        libc::signal(libc::SIGSEGV, libc::SIG_DFL);
        libc::signal(libc::SIGBUS, libc::SIG_DFL);
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
    }
}

/// Keeps the allocator of every thread to the one arena that grows without changing protections.
pub fn one_arena() {
    // SAFETY: plain values.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Ends the process by one system call.
pub fn end_now(status: i32) -> ! {
    // SAFETY: never returns.
    unsafe { libc::_exit(status) }
}

/// Bytes mapped by this process, and how many of them are its own data: by what the limits count, since the process table is out of
/// reach for whoever was started below another root. Only while there is one thread.
pub fn memory_in_use() -> io::Result<(u64, u64)> {
    // The stack could not grow under a limit that is too low.
    std::hint::black_box([0u8; 16 << 10]);
    Ok((counted(libc::RLIMIT_AS)?, counted(libc::RLIMIT_DATA)?))
}

/// How much of a limited memory is in use: one page less than the lowest limit under which there is one more.
fn counted(resource: libc::__rlimit_resource_t) -> io::Result<u64> {
    const PAGE: u64 = 4096;
    /// More than a process can have.
    const MANY: u64 = 1 << 47;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure lives over the call.
    check(unsafe { libc::getrlimit(resource, &raw mut limit) })?;
    let fits = |pages: u64| {
        let lower = libc::rlimit { rlim_cur: pages * PAGE, rlim_max: limit.rlim_max };
        // SAFETY: the structure lives over the call.
        check(unsafe { libc::setrlimit(resource, &raw const lower) })?;
        Ok::<bool, io::Error>(is_page_left())
    };
    // Not 0: as a limit of data the kernel takes that for the upper one.
    let (mut low, mut high) = (1, limit.rlim_cur.min(MANY) / PAGE);
    while low < high {
        let middle = low.midpoint(high);
        if fits(middle)? { high = middle } else { low = middle + 1 }
    }
    // SAFETY: the structure lives over the call.
    check(unsafe { libc::setrlimit(resource, &raw const limit) })?;
    Ok((low - 1) * PAGE)
}

/// Whether one more page of data can be mapped.
fn is_page_left() -> bool {
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: fresh memory at an address of the kernel's choice, given back at once.
    unsafe {
        let page = libc::mmap(std::ptr::null_mut(), 1, prot, flags, -1, 0);
        page != libc::MAP_FAILED && libc::munmap(page, 1) == 0
    }
}

/// First address of this program and the address behind its last.
pub fn program_range() -> (u64, u64) {
    unsafe extern "C" fn measure(
        info: *mut libc::dl_phdr_info,
        _size: libc::size_t,
        data: *mut libc::c_void,
    ) -> libc::c_int {
        // SAFETY: the C library passes a valid description of a loaded object; the program itself comes first.
        let (base, headers) = unsafe {
            let headers = std::slice::from_raw_parts((*info).dlpi_phdr, usize::from((*info).dlpi_phnum));
            ((*info).dlpi_addr, headers)
        };
        let loads = headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
        let end = loads.map(|header| base + header.p_vaddr + header.p_memsz).max().unwrap_or(base);
        // SAFETY: the pair below.
        unsafe { *data.cast::<(u64, u64)>() = (base, end) };
        1
    }
    let mut range = (0, 0);
    // SAFETY: the callback has the right signature; the pair outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(measure), (&raw mut range).cast()) };
    range
}

/// Closes a descriptor.
pub fn close_one(fd: i32) -> io::Result<()> {
    let fd = u32::try_from(fd).map_err(io::Error::other)?;
    close_range(fd, fd)
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
