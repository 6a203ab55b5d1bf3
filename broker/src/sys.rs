//! The system calls that the broker needs and `nix` lacks. All unsafe code of the broker is here.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Mutex;

/// First descriptor number that the broker uses for itself: everything below is kept free for the numbers that children
/// get, so that handing them over can never overwrite one that is still to be handed over.
pub const FIRST_OWN: RawFd = 160;

/// Occupies every free number below [`FIRST_OWN`], for good.
///
/// # Errors
/// The kernel's.
pub fn reserve_descriptors() -> io::Result<()> {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    loop {
        // SAFETY: duplicates a live descriptor.
        let raw = unsafe { libc::fcntl(null.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 0) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        if raw >= FIRST_OWN {
            // SAFETY: just made, nobody else's.
            drop(unsafe { OwnedFd::from_raw_fd(raw) });
            // Its own number is one of those to be occupied.
            let _ = std::os::fd::IntoRawFd::into_raw_fd(null);
            return Ok(());
        }
    }
}

/// A second descriptor of the same open file, at a number of the broker's own.
///
/// # Errors
/// The kernel's.
pub fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fails cleanly when `fd` is not open.
    let raw = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, FIRST_OWN) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// A descriptor that becomes readable when the process ends.
///
/// # Errors
/// The kernel's.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: plain values.
    let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(raw as RawFd) })
}

/// Kills the process behind a pidfd.
pub fn pidfd_kill(fd: BorrowedFd<'_>) {
    // SAFETY: plain values and a null siginfo, which means an ordinary kill.
    unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            fd.as_raw_fd(),
            libc::SIGKILL,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
}

/// The next client of a listening socket.
///
/// # Errors
/// The kernel's.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let null = std::ptr::null_mut();
    // SAFETY: a live descriptor; no address is asked for.
    let raw = unsafe { libc::accept4(listener.as_raw_fd(), null, std::ptr::null_mut(), libc::SOCK_CLOEXEC) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// `/dev/null`, which may be out of reach by name: one of [`reserve_descriptors`].
///
/// # Errors
/// The kernel's.
pub fn nothing() -> io::Result<OwnedFd> {
    duplicate(FIRST_OWN - 1)
}

/// Makes `command` hand over `fds` as descriptors 3, 4, ..., ignore the terminal's signals, leave no core file, and die with the
/// thread that starts it. With `program`, that open program is executed instead of the command's, as `name` and without an
/// environment. The descriptors must stay open until it is started.
pub fn hand_over(command: &mut Command, fds: Vec<RawFd>, name: &str, program: Option<RawFd>) {
    let broker = std::process::id() as libc::pid_t;
    let name = std::ffi::CString::new(name).unwrap_or_default();
    let child = move || {
        // SAFETY: only async-signal-safe system calls with plain values, between fork and exec.
        unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            if libc::getppid() != broker {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGPIPE] {
                libc::signal(signal, libc::SIG_IGN);
            }
            for (index, fd) in fds.iter().enumerate() {
                if libc::dup2(*fd, 3 + index as RawFd) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            // From its first instruction on: it maps guest memory before it enters its jail. Not 0, which a program of the host that
            // takes dumps from a pipe is not bound by; at 1 the kernel starts none (`do_coredump`), and a file cannot be so short.
            let core = |bytes| {
                let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
                libc::setrlimit(libc::RLIMIT_CORE, &raw const limit)
            };
            // Where there can be no file, who is not the superuser cannot have one of a byte either.
            if core(1) != 0 && core(0) != 0 {
                return Err(io::Error::last_os_error());
            }
            if let Some(program) = program {
                let args = [name.as_ptr(), std::ptr::null()];
                let environment = [std::ptr::null::<libc::c_char>()];
                libc::syscall(
                    libc::SYS_execveat,
                    program,
                    c"".as_ptr(),
                    args.as_ptr(),
                    environment.as_ptr(),
                    libc::AT_EMPTY_PATH,
                );
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure is async-signal-safe, see above.
    unsafe { command.pre_exec(child) };
}

/// Splits the process for `-daemonize`: `Some(pid)` in the parent, `None` in the child. Only while single-threaded.
///
/// # Errors
/// The kernel's.
pub fn fork() -> io::Result<Option<i32>> {
    // SAFETY: the caller has no other thread.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(pid)),
    }
}

/// Replaces descriptor `to` by a copy of `from`.
///
/// # Errors
/// The kernel's.
pub fn replace(from: BorrowedFd<'_>, to: RawFd) -> io::Result<()> {
    // SAFETY: `to` is 0, 1 or 2, which the standard library allows to be replaced.
    if unsafe { libc::dup2(from.as_raw_fd(), to) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Terminals with the modes to put back, whatever happens, in the order they were changed.
static SAVED: Mutex<Vec<(RawFd, libc::termios)>> = Mutex::new(Vec::new());

/// Remembers the mode of the terminal at `fd`; nothing when it is none.
fn save_mode(fd: RawFd) -> Option<libc::termios> {
    // SAFETY: a zeroed termios is a valid value to be filled in; the call fails cleanly when `fd` is no terminal.
    let mode = unsafe {
        let mut mode: libc::termios = std::mem::zeroed();
        (libc::tcgetattr(fd, &raw mut mode) == 0).then_some(mode)
    }?;
    if let Ok(mut saved) = SAVED.lock() {
        saved.push((fd, mode));
    }
    Some(mode)
}

/// Has [`restore_terminal`] put back the mode that the terminal at `fd` has now; keeps it open for that.
///
/// # Errors
/// When there are too many descriptors.
pub fn keep_mode(fd: BorrowedFd<'_>) -> io::Result<()> {
    let own = duplicate(fd.as_raw_fd())?;
    if save_mode(own.as_raw_fd()).is_some() {
        let _ = std::os::fd::IntoRawFd::into_raw_fd(own);
    }
    Ok(())
}

/// Raw mode on the terminal at `fd`: no echo, no lines, bytes as they are; `signals` keeps interrupt keys working. Put back by
/// [`restore_terminal`], which also runs before a fatal signal ends the process.
pub fn raw_terminal(fd: RawFd, signals: bool) {
    let Some(mut mode) = save_mode(fd) else { return };
    mode.c_iflag &= !(libc::IGNBRK
        | libc::BRKINT
        | libc::PARMRK
        | libc::ISTRIP
        | libc::INLCR
        | libc::IGNCR
        | libc::ICRNL
        | libc::IXON);
    mode.c_oflag |= libc::OPOST;
    mode.c_lflag &= !(libc::ECHO | libc::ECHONL | libc::ICANON | libc::IEXTEN);
    if !signals {
        mode.c_lflag &= !libc::ISIG;
    }
    mode.c_cflag &= !(libc::CSIZE | libc::PARENB);
    mode.c_cflag |= libc::CS8;
    mode.c_cc[libc::VMIN] = 1;
    mode.c_cc[libc::VTIME] = 0;
    // SAFETY: a mode that tcgetattr gave, changed.
    unsafe { libc::tcsetattr(fd, libc::TCSANOW, &raw const mode) };
}

/// Makes every signal that ends this process put the terminal back first. The standard library's own handler of memory
/// faults would also swallow one that somebody sent.
pub fn die_tidily() {
    for signal in [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGABRT,
        libc::SIGQUIT,
        libc::SIGALRM,
        libc::SIGUSR1,
        libc::SIGUSR2,
    ] {
        // SAFETY: the handler only makes async-signal-safe calls.
        unsafe { libc::signal(signal, restore_and_die as *const () as libc::sighandler_t) };
    }
}

/// Puts back the default for the end of a child. A shell that ignores it hands that down, and the kernel then collects children
/// before anybody has asked how they ended.
pub fn keep_ended_children() {
    // SAFETY: no handler is given.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Puts terminals back; one that was changed twice ends as it was at first.
pub fn restore_terminal() {
    if let Ok(saved) = SAVED.try_lock() {
        for (fd, mode) in saved.iter().rev() {
            // SAFETY: a mode that tcgetattr gave.
            unsafe { libc::tcsetattr(*fd, libc::TCSANOW, std::ptr::from_ref(mode)) };
        }
    }
}

extern "C" fn restore_and_die(signal: libc::c_int) {
    restore_terminal();
    // SAFETY: async-signal-safe calls; the default action ends the process when the handler returns.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

/// Seconds that local time is ahead of UTC at `seconds` since 1970.
pub fn local_offset(seconds: i64) -> i64 {
    // SAFETY: a zeroed tm is a valid value to be filled in.
    unsafe {
        let mut parts: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&raw const seconds, &raw mut parts).is_null() { 0 } else { parts.tm_gmtoff }
    }
}

/// Size in bytes of an open block device.
///
/// # Errors
/// The kernel's.
pub fn block_device_bytes(fd: BorrowedFd<'_>) -> io::Result<u64> {
    /// `_IOR(0x12, 114, size_t)` of `linux/fs.h`.
    const BLKGETSIZE64: libc::Ioctl = 0x8008_1272;
    let mut bytes = 0u64;
    // SAFETY: the request writes one u64.
    if unsafe { libc::ioctl(fd.as_raw_fd(), BLKGETSIZE64, &raw mut bytes) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(bytes)
}

/// Whether `fd` is a CD-ROM drive that says that it has no disc in it: such a drive can be opened, and its size means nothing.
pub fn lacks_disc(fd: BorrowedFd<'_>) -> bool {
    /// `linux/cdrom.h`, as the other three.
    const CDROM_DRIVE_STATUS: libc::Ioctl = 0x5326;
    const CDSL_CURRENT: libc::c_int = libc::c_int::MAX;
    const CDS_NO_DISC: libc::c_int = 1;
    const CDS_TRAY_OPEN: libc::c_int = 2;
    // SAFETY: plain values; the call fails cleanly when `fd` is no such drive.
    let status = unsafe { libc::ioctl(fd.as_raw_fd(), CDROM_DRIVE_STATUS, CDSL_CURRENT) };
    matches!(status, CDS_NO_DISC | CDS_TRAY_OPEN)
}

/// Gives freed heap back to the host: the allocator keeps the tens of MiB that large images pass through.
pub fn return_free_memory() {
    // SAFETY: malloc_trim takes no pointers and may be called at any time.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_not_in_its_jail_yet_leaves_no_core_file_and_no_program_of_the_host_gets_one() {
        let mut command = Command::new("cat");
        command.arg("/proc/self/limits");
        hand_over(&mut command, Vec::new(), "cat", None);
        let output = command.output().expect("it starts");
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().find_map(|line| line.strip_prefix("Max core file size")).expect("limit");
        let limit: Vec<&str> = line.split_whitespace().take(2).collect();
        assert_eq!(limit, ["1", "1"]);
    }
}
