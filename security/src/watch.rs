//! The broker's half of explained violations: what it learns about a jail, and the violations in it.
//!
//! The kernel holds the offending thread inside its call, which is never executed, and describes it; nothing of that is the
//! process's own word. A [`Watch`] only reads; killing is the broker's, so that the process is replaced like any that died.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};

use crate::names;

/// What a jail lacks because the kernel, or who runs this, does not allow it. Bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lacks(pub u32);

impl Lacks {
    /// A whole jail.
    pub const NOTHING: Lacks = Lacks(0);
    /// Not in the namespaces of its machine.
    pub const NAMESPACES: Lacks = Lacks(1);
    /// No landlock.
    pub const LANDLOCK: Lacks = Lacks(2);
    /// Violations end the process unexplained.
    pub const EXPLANATIONS: Lacks = Lacks(4);
    /// The host's files by name are kept from it by landlock and the filter alone.
    pub const ROOT: Lacks = Lacks(8);
    /// It is the superuser: of a user namespace that has no other user, or one without the capability to become another.
    pub const USER: Lacks = Lacks(16);

    /// For the user: `whole`, or what is missing.
    pub fn word(self) -> String {
        let names = [
            (Self::ROOT, "root"),
            (Self::USER, "user"),
            (Self::NAMESPACES, "namespaces"),
            (Self::LANDLOCK, "landlock"),
            (Self::EXPLANATIONS, "reports"),
        ];
        let missing: Vec<&str> =
            names.iter().filter(|(bit, _)| self.0 & bit.0 != 0).map(|(_, name)| *name).collect();
        if missing.is_empty() { "whole".to_owned() } else { format!("no-{}", missing.join(",no-")) }
    }
}

impl std::ops::BitOr for Lacks {
    type Output = Lacks;

    fn bitor(self, other: Lacks) -> Lacks {
        Lacks(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for Lacks {
    fn bitor_assign(&mut self, other: Lacks) {
        self.0 |= other.0;
    }
}

/// Bytes of the message that a process sends from its jail: what it lacks, and where its program is.
pub(crate) const MESSAGE_BYTES: usize = 24;

/// The message.
pub(crate) fn message(lacks: Lacks, (start, end): (u64, u64)) -> [u8; MESSAGE_BYTES] {
    let mut bytes = [0; MESSAGE_BYTES];
    let words = [u64::from(lacks.0), start, end];
    for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// A forbidden system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Number of the thread, in the broker's own numbers.
    pub thread: u32,
    /// Number of the system call.
    pub call: i64,
    /// Made the way of another architecture (32-bit).
    pub foreign: bool,
    /// Its arguments.
    pub args: [u64; 6],
    /// Where: an offset in the program, or an address outside of it.
    pub place: Place,
}

/// Where a thread was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// So far from the start of its program (for `addr2line`).
    Program(u64),
    /// At this address, which is none of its program.
    Elsewhere(u64),
}

impl std::fmt::Display for Violation {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match names::name(self.call).filter(|_| !self.foreign) {
            Some(name) => write!(to, "{name}(")?,
            None if self.foreign => write!(to, "32-bit call {}(", self.call)?,
            None => write!(to, "call {}(", self.call)?,
        }
        for (index, value) in self.args.iter().enumerate() {
            write!(to, "{}{value:#x}", if index == 0 { "" } else { ", " })?;
        }
        match self.place {
            Place::Program(offset) => write!(to, ") at {offset:#x} of its program"),
            Place::Elsewhere(address) => write!(to, ") at {address:#x}, outside of its program"),
        }
    }
}

/// What the broker sees of one process's jail.
#[derive(Debug, Default)]
pub struct Watch {
    /// Until the process has reported.
    socket: Option<OwnedFd>,
    listener: Option<OwnedFd>,
    report: Option<(Lacks, u64, u64)>,
}

impl Watch {
    /// Waits for the report of a process at the other end of `socket`.
    pub fn new(socket: OwnedFd) -> Watch {
        Watch { socket: Some(socket), listener: None, report: None }
    }

    /// Readable when [`Watch::attend`] has something to do; `None`: never.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().or(self.listener.as_ref()).map(AsFd::as_fd)
    }

    /// What the jail lacks; `None` until the process is in it.
    pub fn lacks(&self) -> Option<Lacks> {
        self.report.map(|(lacks, ..)| lacks)
    }

    /// Takes the report or the next violation, without waiting. The offender stays where it is until it is killed.
    pub fn attend(&mut self) -> Option<Violation> {
        if self.socket.as_ref().is_some_and(|socket| !events(socket).is_empty()) {
            self.receive();
        }
        let seen = self.listener.as_ref().map(events)?;
        if !seen.contains(PollFlags::POLLIN) {
            // Asking a filter that nobody is under any more would wait for ever.
            if !seen.is_empty() {
                self.listener = None;
            }
            return None;
        }
        let listener = self.listener.as_ref()?;
        let (_, start, end) = self.report?;
        // SAFETY: zeroed is what the kernel wants to fill in; the structure is as large as it ever writes for this request.
        let (done, found) = unsafe {
            let mut found: libc::seccomp_notif = std::mem::zeroed();
            (libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut found), found)
        };
        if done != 0 {
            // Only its end is left to be seen, or the thread was killed meanwhile.
            return None;
        }
        let at = found.data.instruction_pointer;
        Some(Violation {
            thread: found.pid,
            call: i64::from(found.data.nr),
            foreign: found.data.arch != NATIVE,
            args: found.data.args,
            place: if (start..end).contains(&at) { Place::Program(at - start) } else { Place::Elsewhere(at) },
        })
    }

    fn receive(&mut self) {
        let Some(socket) = self.socket.take() else { return };
        let mut bytes = [0u8; MESSAGE_BYTES];
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let mut room = nix::cmsg_space!(std::os::fd::RawFd);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut room), flags);
        let Ok(message) = message else { return };
        let (length, mut fds) = (message.bytes, Vec::new());
        for control in message.cmsgs().into_iter().flatten() {
            if let ControlMessageOwned::ScmRights(raw) = control {
                // SAFETY: the kernel has just made them for this process.
                fds.extend(raw.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }));
            }
        }
        if length != MESSAGE_BYTES {
            return;
        }
        let word = |at: usize| {
            bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_le_bytes)
        };
        self.report = Some((Lacks(word(0) as u32), word(8), word(16)));
        self.listener = fds.pop();
    }
}

/// `AUDIT_ARCH_*` of `linux/audit.h`: the architecture that this program makes its calls for.
#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;

fn events(fd: &OwnedFd) -> PollFlags {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::ZERO) {
        Ok(1..) => fds.iter().filter_map(PollFd::revents).fold(PollFlags::empty(), |all, one| all | one),
        _ => PollFlags::empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jail_is_whole_or_says_what_is_missing() {
        assert_eq!(Lacks::NOTHING.word(), "whole");
        assert_eq!(Lacks::NAMESPACES.word(), "no-namespaces");
        assert_eq!((Lacks::NAMESPACES | Lacks::EXPLANATIONS).word(), "no-namespaces,no-reports");
    }

    #[test]
    fn a_violation_names_call_arguments_and_place() {
        let mut violation = Violation {
            thread: 7,
            call: libc::SYS_openat,
            foreign: false,
            args: [0xffff_ff9c, 0x1000, 0, 0, 0, 0],
            place: Place::Program(0x12f0),
        };
        let text = "openat(0xffffff9c, 0x1000, 0x0, 0x0, 0x0, 0x0) at 0x12f0 of its program";
        assert_eq!(violation.to_string(), text);
        violation.call = 11;
        violation.foreign = true;
        violation.place = Place::Elsewhere(0x7000);
        let text = "32-bit call 11(0xffffff9c, 0x1000, 0x0, 0x0, 0x0, 0x0) at 0x7000, outside of its program";
        assert_eq!(violation.to_string(), text);
    }

    #[test]
    fn a_message_that_is_none_ends_the_watch() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("sockets");
        let mut watch = Watch::new(ours.into());
        assert!(watch.fd().is_some() && watch.attend().is_none() && watch.fd().is_some());
        std::io::Write::write_all(&mut &theirs, b"short").expect("written");
        assert_eq!((watch.attend(), watch.lacks()), (None, None));
        assert!(watch.fd().is_none());
    }
}
