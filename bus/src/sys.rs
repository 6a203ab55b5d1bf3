//! The system calls that the bus needs and `nix` lacks, and shared mappings.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Creates an anonymous memory file of `size` bytes whose size is sealed.
///
/// # Errors
/// The kernel's.
pub fn memfd(name: &str, size: u64) -> io::Result<OwnedFd> {
    let fd = unsealed(name, size)?;
    seal(&fd, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL)?;
    Ok(fd)
}

/// The same with contents that nobody can change any more.
///
/// # Errors
/// The kernel's.
pub fn memfd_of(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let file = File::from(unsealed(name, bytes.len() as u64)?);
    file.write_all_at(bytes, 0)?;
    let fd = OwnedFd::from(file);
    // Not F_SEAL_WRITE, under which kernels before 6.7 refuse shared mappings for reading, too.
    seal(&fd, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_SEAL)?;
    Ok(fd)
}

/// That of [`memfd`], and the only mapping of it that can ever be written: whoever gets the descriptor may read.
///
/// # Errors
/// The kernel's.
pub fn memfd_written_here(name: &str, size: usize) -> io::Result<(OwnedFd, Mapping)> {
    let fd = unsealed(name, size as u64)?;
    seal(&fd, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW)?;
    let mapping = Mapping::shared(fd.as_fd(), size, true)?;
    seal(&fd, libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_SEAL)?;
    Ok((fd, mapping))
}

fn seal(fd: &OwnedFd, seals: i32) -> io::Result<()> {
    // SAFETY: a plain system call on a descriptor that we own.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn unsealed(name: &str, size: u64) -> io::Result<OwnedFd> {
    let cname = std::ffi::CString::new(name).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the name is a valid C string; the result is checked.
    let raw = unsafe { libc::memfd_create(cname.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `raw` is a descriptor just created and owned by nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    let size = libc::off_t::try_from(size).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: a plain system call on a descriptor that we own.
    if unsafe { libc::ftruncate(fd.as_raw_fd(), size) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(fd)
}

/// Sleeps while `*word == expected`, at most `timeout`. Returns on wake, change, signal or time-out alike.
pub fn futex_wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) {
    let spec = timeout.map(|t| libc::timespec {
        tv_sec: t.as_secs().min(1 << 40) as libc::time_t,
        tv_nsec: t.subsec_nanos() as libc::c_long,
    });
    let spec = spec.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the word outlives the call, the time-out is null or points to a live timespec.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, spec) };
}

/// Wakes every sleeper on `word`.
pub fn futex_wake(word: &AtomicU32) {
    // SAFETY: the word is valid; the call only uses its address.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

fn counted(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Moves at most `len` bytes between descriptors inside the kernel, one of which is a pipe: no moment exists at which they are in
/// neither. The pipe never makes this wait, the other descriptor may. 0: nothing more will come.
///
/// # Errors
/// The kernel's; `InvalidInput` when the other descriptor cannot do it.
pub fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
    let null = std::ptr::null_mut();
    let flags = libc::SPLICE_F_NONBLOCK;
    // SAFETY: live descriptors and no pointers.
    counted(unsafe { libc::splice(from.as_raw_fd(), null, to.as_raw_fd(), null, len, flags) })
}

/// Bytes that can be read now.
///
/// # Errors
/// The kernel's.
pub fn readable_bytes(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: the request writes one int.
    if unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut count) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Receives a descriptor that came with one byte over a Unix socket; `None`: a byte without one, or the end.
///
/// # Errors
/// The kernel's.
pub fn receive_descriptor(socket: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut byte = [0u8];
    let mut parts = [io::IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut found = None;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = part {
            // SAFETY: the kernel has just made these for this process; nobody else knows them.
            fds.into_iter().for_each(|fd| found = Some(unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok(found)
}

/// Sends a descriptor with one byte over a Unix socket, without waiting.
///
/// # Errors
/// The kernel's.
pub fn send_descriptor(socket: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> io::Result<()> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let fds = [fd.as_raw_fd()];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[io::IoSlice::new(b"c")],
        &[ControlMessage::ScmRights(&fds)],
        flags,
        None,
    )?;
    Ok(())
}

/// The number of the processor this thread runs on right now.
#[inline]
pub fn current_cpu() -> u32 {
    // SAFETY: no arguments; served by the vDSO.
    let cpu = unsafe { libc::sched_getcpu() };
    cpu as u32
}

/// Nanoseconds of the host's monotonic clock.
#[inline]
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is valid for writing; served by the vDSO.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

/// Lets nothing that follows be loaded before the clock was read: RDTSC, which the vDSO ends with, does not wait for that itself (SDM volume
/// 2B, RDTSC: LFENCE behind it; before it, the vDSO has one).
#[inline]
pub fn fence_clock() {
    // SAFETY: every processor of 64 bits has it.
    unsafe { std::arch::x86_64::_mm_lfence() };
}

/// Unmaps the pages of this program's own code and constants that start-up has touched; those still needed come back from
/// the page cache as they are used. Start-up runs far more code than serving does, and a process that stays small is the
/// point of having one for each device.
pub fn release_program_pages() {
    unsafe extern "C" fn release(
        info: *mut libc::dl_phdr_info,
        _size: libc::size_t,
        _data: *mut libc::c_void,
    ) -> libc::c_int {
        // SAFETY: the C library passes a valid description of a loaded object, here the static program itself.
        let headers =
            unsafe { std::slice::from_raw_parts((*info).dlpi_phdr, usize::from((*info).dlpi_phnum)) };
        // SAFETY: as above.
        let base = unsafe { (*info).dlpi_addr };
        for header in headers.iter().filter(|h| h.p_type == libc::PT_LOAD && h.p_flags & libc::PF_W == 0) {
            let start = (base + header.p_vaddr) & !0xfff;
            let end = (base + header.p_vaddr + header.p_memsz) & !0xfff;
            if end > start {
                let address = std::ptr::with_exposed_provenance_mut(start as usize);
                // SAFETY: a private file mapping that nobody can have written: dropped pages are read again unchanged.
                unsafe { libc::madvise(address, (end - start) as usize, libc::MADV_DONTNEED) };
            }
        }
        0
    }
    // SAFETY: the callback has the right signature and keeps to the contract.
    unsafe { libc::dl_iterate_phdr(Some(release), std::ptr::null_mut()) };
}

/// Shows `name` as this process's command line (`ps -ef`), as far as there is room for it in that of its start.
pub fn show_command(name: &str) {
    unsafe extern "C" {
        /// The C library's pointer to the first argument.
        static program_invocation_name: *mut libc::c_char;
    }
    // SAFETY: the argument is a C string in memory that belongs to this process, and nothing is written beyond its end. Whoever
    // reads it meanwhile, here or in another process, sees some bytes of either name.
    unsafe {
        let place = program_invocation_name;
        for index in 0..libc::strlen(place) {
            let byte = name.as_bytes().get(index).copied().unwrap_or(0);
            place.add(index).write_volatile(byte as libc::c_char);
        }
    }
}

/// A shared mapping of a memfd, or of fresh anonymous memory. Unmapped on drop.
#[derive(Debug)]
pub struct Mapping {
    base: *mut u8,
    len: usize,
}

// SAFETY: a mapping is memory that other processes write at any time; all access goes through atomics, volatile
// copies and raw pointers that callers justify themselves, so sharing the handle between threads adds nothing.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `fd`, readable and, if asked, writable.
    ///
    /// # Errors
    /// The kernel's, or `InvalidData` when the file is shorter than `len` (a later access would be fatal) or can shrink.
    pub fn shared(fd: BorrowedFd<'_>, len: usize, writable: bool) -> io::Result<Mapping> {
        // SAFETY: fstat and fcntl on a live descriptor with a valid buffer.
        let (size, seals) = unsafe {
            let mut stat: libc::stat = std::mem::zeroed();
            if libc::fstat(fd.as_raw_fd(), &raw mut stat) != 0 {
                return Err(io::Error::last_os_error());
            }
            (stat.st_size as u64, libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS))
        };
        if size < len as u64 || seals < 0 || seals & libc::F_SEAL_SHRINK == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let prot = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let base =
            unsafe { libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        Mapping::check(base, len)
    }

    /// Maps fresh zeroed memory, private to this process (tests, and devices without that kind of memory).
    ///
    /// # Errors
    /// The kernel's.
    pub fn anonymous(len: usize) -> io::Result<Mapping> {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: as above.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) };
        Mapping::check(base, len)
    }

    fn check(base: *mut libc::c_void, len: usize) -> io::Result<Mapping> {
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping { base: base.cast(), len })
    }

    /// Bytes mapped.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// First byte.
    pub fn base(&self) -> *mut u8 {
        self.base
    }

    /// The word at `offset`.
    ///
    /// # Panics
    /// When `offset` is not a multiple of 4 inside the mapping: offsets are constants of a layout, never data.
    #[inline]
    pub fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset.checked_add(4).is_some_and(|end| end <= self.len));
        // SAFETY: inside the mapping and aligned, and only ever accessed atomically.
        unsafe { &*self.base.add(offset).cast::<AtomicU32>() }
    }

    /// The double word at `offset`; as [`Mapping::word`].
    ///
    /// # Panics
    /// As [`Mapping::word`], with multiples of 8.
    #[inline]
    pub fn dword(&self, offset: usize) -> &std::sync::atomic::AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset.checked_add(8).is_some_and(|end| end <= self.len));
        // SAFETY: as above.
        unsafe { &*self.base.add(offset).cast::<std::sync::atomic::AtomicU64>() }
    }

    /// Copies out. Returns false, and copies nothing, when the range is not inside the mapping.
    #[inline]
    #[must_use]
    pub fn read(&self, offset: usize, to: &mut [u8]) -> bool {
        if !self.contains(offset, to.len()) {
            return false;
        }
        // SAFETY: the source range is inside the mapping, the target is a live slice; other processes may write
        // the source meanwhile, which can only change the bytes copied.
        unsafe { std::ptr::copy_nonoverlapping(self.base.add(offset), to.as_mut_ptr(), to.len()) };
        true
    }

    /// Copies in. Returns false, and copies nothing, when the range is not inside the mapping.
    #[inline]
    #[must_use]
    pub fn write(&self, offset: usize, from: &[u8]) -> bool {
        if !self.contains(offset, from.len()) {
            return false;
        }
        // SAFETY: as `read`, the other way round.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.base.add(offset), from.len()) };
        true
    }

    /// Reads from `fd` straight into the mapping, so that what was taken from it outlives this process; the count.
    ///
    /// # Errors
    /// The kernel's, or `InvalidInput` when the range is not inside the mapping.
    pub fn read_from(&self, fd: BorrowedFd<'_>, offset: usize, len: usize) -> io::Result<usize> {
        if !self.contains(offset, len) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: the range is inside the mapping; other processes may write it meanwhile, which only changes bytes.
        counted(unsafe { libc::read(fd.as_raw_fd(), self.base.add(offset).cast(), len) })
    }

    /// Unmaps the pages touched so far; their contents stay in the memory file and come back on the next touch. For a process
    /// that is done with a large transfer, so that the memory counts where it is used.
    pub fn release_pages(&self) {
        // SAFETY: the whole of our own shared mapping, whose contents live in the file.
        unsafe { libc::madvise(self.base.cast(), self.len, libc::MADV_DONTNEED) };
    }

    fn contains(&self, offset: usize, len: usize) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.len)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range mapped at construction; references handed out borrow `self`.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

/// Spins once.
#[inline]
pub fn pause() {
    std::hint::spin_loop();
}

/// Lets other threads have this processor, should one wait for it.
pub fn yield_processor() {
    std::thread::yield_now();
}

/// Sets `word` with full ordering: the publication of an index, after which a sleep flag may be read.
#[inline]
pub fn publish(word: &AtomicU32, value: u32) {
    word.swap(value, Ordering::SeqCst);
}

/// Double words of a shared mapping, found once: what the hot path reads or counts without another look at the layout.
#[derive(Clone, Debug)]
pub struct Words<const N: usize> {
    at: std::ptr::NonNull<[std::sync::atomic::AtomicU64; N]>,
    /// Keeps the words mapped; none when they are static.
    _map: Option<std::sync::Arc<Mapping>>,
}

// SAFETY: a pointer to atomics that stay valid as long as this handle, wherever it is.
unsafe impl<const N: usize> Send for Words<N> {}
// SAFETY: as above.
unsafe impl<const N: usize> Sync for Words<N> {}

impl<const N: usize> Words<N> {
    /// The words at `offset` of a mapping.
    ///
    /// # Panics
    /// As [`Mapping::dword`]: offsets are constants of a layout, never data.
    pub fn of(map: &std::sync::Arc<Mapping>, offset: usize) -> Words<N> {
        assert!(offset.is_multiple_of(8) && offset.checked_add(N * 8).is_some_and(|end| end <= map.len()));
        // SAFETY: inside the mapping, which lies at a whole page and so is aligned and not null.
        let at = unsafe { std::ptr::NonNull::new_unchecked(map.base().add(offset).cast()) };
        Words { at, _map: Some(map.clone()) }
    }

    /// Words that are not shared with anybody.
    pub const fn fixed(words: &'static [std::sync::atomic::AtomicU64; N]) -> Words<N> {
        Words { at: std::ptr::NonNull::from_ref(words), _map: None }
    }
}

impl<const N: usize> std::ops::Deref for Words<N> {
    type Target = [std::sync::atomic::AtomicU64; N];

    #[inline]
    fn deref(&self) -> &Self::Target {
        // SAFETY: valid for as long as `self`, see the constructors, and only ever accessed atomically.
        unsafe { self.at.as_ref() }
    }
}
