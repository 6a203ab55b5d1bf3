//! Who the processes of a VM are: `-runas`, `-chroot`, and the identities that a superuser's VM uses by itself.
//!
//! Without `-runas`, a superuser's processes each get a user and a group of their own, which nobody else has: no file, no
//! signal, no other process of the host or of the VM is within reach even of one that left its jail. The numbers come from the
//! range that no system hands out (`0x70000000` to `0x7ffdffff`: above ordinary users, dynamic users and containers, below what
//! is taken for negative): 64 for each process number that a broker can have. Two VMs share them only where their brokers' numbers are
//! `0x3ff000` apart, or the same in two containers that see the same users. In a user namespace that does not map them everybody is
//! `nobody`, or stays what it is where not even that exists.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use bulkhead_bus::manifest::fd;
use bulkhead_config::{MachineConfig, RunAs};
use nix::unistd::{Gid, Uid};

use crate::fail::{Fail, reason};

/// First number of the range, see above.
const FIRST: u32 = 0x7000_0000;
/// Numbers for each broker.
const EACH: u32 = 64;
/// Process numbers told apart: Linux gives out fewer than 2^22.
const BROKERS: u32 = 0x3f_f000;
/// User and group `nobody` on every Linux.
const NOBODY: (u32, u32) = (65534, 65534);

/// What becomes of a superuser's rights.
#[derive(Debug, Default)]
pub struct Privileges {
    /// `-runas`: everybody, the broker included.
    run_as: Option<(u32, u32)>,
    /// `-chroot`: the folder, and its name for messages.
    root: Option<(OwnedFd, String)>,
    /// Started as the superuser.
    superuser: bool,
    /// First of the processes' own identities.
    own: Option<u32>,
    /// Everybody's, where there are none of their own.
    nobody: Option<(u32, u32)>,
    /// Namespaces that processes join, by name; none where the host gives out none.
    void: Vec<(&'static str, OwnedFd)>,
}

impl Privileges {
    /// Checks the options against the host.
    ///
    /// # Errors
    /// One line naming the option.
    pub fn new(config: &MachineConfig) -> Result<Privileges, Fail> {
        let superuser = nix::unistd::geteuid().is_root();
        let refuse = |what: &str, why: &str| Err(Fail(format!("{what}: {why}")));
        let root = match &config.chroot {
            None => None,
            Some(folder) => {
                let shown = format!("-chroot {}", folder.display());
                let open =
                    File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(folder);
                match open {
                    Err(error) => return refuse(&shown, &reason(&error)),
                    Ok(_) if !superuser => return refuse(&shown, "only the superuser can change the root"),
                    Ok(folder) => Some((OwnedFd::from(folder), shown)),
                }
            }
        };
        let run_as = match &config.run_as {
            None => None,
            Some(whom) => {
                let (shown, ids) = match whom {
                    RunAs::Ids(user, group) => (format!("-runas {user}:{group}"), Some((*user, *group))),
                    RunAs::User(name) => (format!("-runas {name}"), user(name)),
                };
                match ids {
                    None => return refuse(&shown, "no such user"),
                    Some(_) if !superuser => return refuse(&shown, "only the superuser can change the user"),
                    Some((0, _)) => return refuse(&shown, "the superuser keeps every privilege"),
                    Some((user, group))
                        if !is_mapped("uid_map", user, 1) || !is_mapped("gid_map", group, 1) =>
                    {
                        return refuse(&shown, "this user namespace does not have these numbers");
                    }
                    ids => ids,
                }
            }
        };
        let first = FIRST + std::process::id() % BROKERS * EACH;
        let free = is_mapped("uid_map", first, EACH) && is_mapped("gid_map", first, EACH);
        let nobody = is_mapped("uid_map", NOBODY.0, 1) && is_mapped("gid_map", NOBODY.1, 1);
        // Without, every jail says so.
        let mut void = bulkhead_security::make_void(run_as);
        if let (Ok(void), Some(_)) = (&mut void, &root) {
            // The folder is not to be found in an empty one.
            void.retain(|(name, _)| *name != "ns-mnt");
        }
        Ok(Privileges {
            run_as,
            root,
            superuser,
            own: free.then_some(first),
            nobody: nobody.then_some(NOBODY),
            void: void.unwrap_or_default(),
        })
    }

    /// User and group of the process with this number; `None` when the broker is no superuser, so that all are its user's, or when
    /// its user namespace has nobody else.
    pub fn of_process(&self, number: u32) -> Option<(u32, u32)> {
        let own = self.own.map(|first| first + number % EACH).map(|id| (id, id));
        self.run_as.or(own).or(self.nobody).filter(|_| self.superuser)
    }

    /// What every process gets to build its jail with: namespaces, and the folder of `-chroot`.
    pub fn descriptors(&self) -> impl Iterator<Item = (String, BorrowedFd<'_>)> {
        let root = self.root.iter().map(|(folder, _)| (fd::ROOT.to_owned(), folder.as_fd()));
        self.void.iter().map(|(name, fd)| ((*name).to_owned(), fd.as_fd())).chain(root)
    }

    /// Whether programs may be out of reach by name once [`Privileges::drop`] has been called.
    pub fn hides_programs(&self) -> bool {
        self.root.is_some() || self.run_as.is_some()
    }

    /// Whether names lead elsewhere then: into the folder of `-chroot`.
    pub fn encloses(&self) -> bool {
        self.root.is_some()
    }

    /// The broker itself goes into the folder of `-chroot` and becomes the user of `-runas`, for good.
    ///
    /// # Errors
    /// One line naming the option.
    pub fn drop(&mut self) -> Result<(), Fail> {
        if let Some((folder, shown)) = self.root.take() {
            let enter = nix::unistd::fchdir(folder.as_fd())
                .and_then(|()| nix::unistd::chroot("."))
                .and_then(|()| nix::unistd::chdir("/"));
            enter.map_err(|error| Fail(format!("{shown}: {}", error.desc().to_lowercase())))?;
        }
        if let Some((user, group)) = self.run_as {
            let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
            let become_user = nix::unistd::setgroups(&[])
                .and_then(|()| nix::unistd::setresgid(group, group, group))
                .and_then(|()| nix::unistd::setresuid(user, user, user));
            become_user.map_err(|error| Fail(format!("-runas: {}", error.desc().to_lowercase())))?;
        }
        Ok(())
    }
}

/// User and group of a name in the table of users. Read as a file: a static program cannot load what the host's C library would
/// ask; users from elsewhere can be given by number.
fn user(name: &str) -> Option<(u32, u32)> {
    let table = std::fs::read_to_string("/etc/passwd").ok()?;
    entry(&table, name)
}

fn entry(table: &str, name: &str) -> Option<(u32, u32)> {
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then_some(())?;
        let mut number = |skip: usize| fields.nth(skip)?.parse().ok();
        Some((number(1)?, number(0)?))
    })
}

/// Whether `count` numbers from `first` on exist in this user namespace.
fn is_mapped(table: &str, first: u32, count: u32) -> bool {
    // Without the process table there are no namespaces to be told from.
    std::fs::read_to_string(format!("/proc/self/{table}")).map_or(true, |table| holds(&table, first, count))
}

fn holds(table: &str, first: u32, count: u32) -> bool {
    table.lines().any(|line| {
        let mut words = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(inside)), Some(Ok(_)), Some(Ok(length))) = (words.next(), words.next(), words.next())
        else {
            return false;
        };
        inside <= u64::from(first) && u64::from(first) + u64::from(count) <= inside.saturating_add(length)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let table = "root:x:0:0:root:/root:/bin/sh\nbulky:x:7:8::/:/bin/false\nbulk:x:1001:1002::/:/bin/sh\nbad:x:a:1::\n";
        assert_eq!(entry(table, "bulk"), Some((1001, 1002)));
        assert_eq!(entry(table, "root"), Some((0, 0)));
        assert_eq!(entry(table, "bad"), None);
        assert_eq!(entry(table, "bul"), None);
    }

    #[test]
    fn a_namespace_holds_what_one_of_its_ranges_holds() {
        let whole = "         0          0 4294967295\n";
        assert!(holds(whole, FIRST, EACH));
        let container = "0 100000 65536\n";
        assert!(holds(container, 65534, 1));
        assert!(!holds(container, 65535, 2));
        assert!(!holds(container, FIRST, EACH));
        assert!(!holds("", 0, 1));
    }

    #[test]
    fn no_two_processes_of_two_machines_share_an_identity() {
        let with = |first| Privileges { superuser: true, own: Some(first), ..Privileges::default() };
        let (one, other) = (with(FIRST), with(FIRST + EACH));
        let all: std::collections::BTreeSet<_> =
            (0..EACH).flat_map(|number| [one.of_process(number), other.of_process(number)]).collect();
        assert_eq!(all.len(), 2 * EACH as usize);
        // All of the range below what systems reserve.
        const { assert!(FIRST + BROKERS * EACH <= 0x7ffe_0000) };
    }

    #[test]
    fn run_as_wins_and_an_ordinary_user_changes_nobody() {
        let privileges =
            Privileges { run_as: Some((1, 2)), superuser: true, own: Some(FIRST), ..Privileges::default() };
        assert_eq!(privileges.of_process(5), Some((1, 2)));
        assert_eq!(Privileges::default().of_process(5), None);
        let narrow = Privileges { superuser: true, nobody: Some(NOBODY), ..Privileges::default() };
        assert_eq!(narrow.of_process(5), Some(NOBODY));
        assert_eq!(Privileges { superuser: true, ..Privileges::default() }.of_process(5), None);
    }
}
