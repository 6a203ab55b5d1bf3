//! The one place that builds a jail.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::RawFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus, Scope,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use crate::listener;
use crate::policies::{self, Call, Test};
use crate::sys;
use crate::void;
use crate::watch::Lacks;

/// Standard error stays open: the broker gave it a pipe that it reads with suspicion.
const STDERR: RawFd = 2;
/// Exit status after a panic.
const PANICKED: i32 = 101;
/// Memory that a process may have, and map, beyond what it has when it enters its jail.
const ROOM: u64 = 64 << 20;
/// The same for the CPU process, whose tables of compiled code grow with the guest's programs.
const CPU_ROOM: u64 = 2 << 30;
/// New descriptors that a character back end may hold: its client, and one on the way in.
const CLIENTS: u64 = 8;

/// What the broker decides about a jail.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// What the process is called from now on; without it, what it was started as.
    pub name: Option<String>,
    /// User and group to become when the process is the superuser's.
    pub run_as: Option<(u32, u32)>,
    /// Folder of `-chroot`, to become the root; without it the root is empty.
    pub root: Option<RawFd>,
    /// Socket to the broker's [`crate::Watch`]; without it a violation ends the process unexplained.
    pub report: Option<RawFd>,
    /// The namespaces of [`crate::make_void`] to join, in their order. With one for users they are joined as the user to become;
    /// without one for mounts the root stays what it is otherwise.
    pub namespaces: Vec<RawFd>,
    /// Where the longest file that a back end writes ends; without it there is no such limit. Nobody else writes files.
    pub longest_file: Option<u64>,
}

/// A process that is confined and not yet filtered.
#[derive(Debug)]
#[must_use = "a process without its filter is not in its jail"]
pub struct Confined {
    lacks: Lacks,
    report: Option<RawFd>,
    highest: RawFd,
    longest_file: Option<u64>,
    /// Bytes mapped, and those of them that are its own.
    mapped: u64,
    data: u64,
}

/// Locks this process down for good: [`confine`], then [`Confined::seal`].
///
/// `keep` are the descriptors still needed (memory that is mapped is not).
///
/// # Errors
/// One line naming the step that failed. The caller must end the process then.
pub fn enter(role: &str, keep: &[RawFd], terms: impl Into<Terms>) -> Result<(), String> {
    confine(keep, terms)?.seal(role)
}

/// The parts of [`Terms`] as a manifest has them.
type Parts = (String, Option<(u32, u32)>, Option<RawFd>, Option<RawFd>, Vec<RawFd>);

impl From<Parts> for Terms {
    fn from((name, run_as, root, report, namespaces): Parts) -> Terms {
        Terms { name: Some(name), run_as, root, report, namespaces, longest_file: None }
    }
}

/// Everything of the jail but the system call filter and the limits: parent death, descriptors, namespaces, root, user,
/// capabilities, privileges, landlock. To be called while the process has one thread.
///
/// # Errors
/// As [`enter`].
pub fn confine(keep: &[RawFd], terms: impl Into<Terms>) -> Result<Confined, String> {
    let terms = terms.into();
    let mut lacks = Lacks::NOTHING;
    let parent = sys::parent();
    let (mapped, data) = step("memory in use", sys::memory_in_use())?;
    step("process name", sys::take_name(terms.name))?;
    step("parent death signal", sys::die_with_parent())?;
    step("dumpable", sys::not_dumpable())?;
    // The default handlers of the standard library would need system calls to die, and so would its way to abort.
    sys::default_fault_handlers();
    end_on_panic();
    // A second arena would need calls that change the protection of memory.
    sys::one_arena();
    let mut kept = keep.to_vec();
    kept.push(STDERR);
    kept.extend(terms.report);
    let passing: Vec<RawFd> = terms.root.iter().chain(&terms.namespaces).copied().collect();
    step("closing descriptors", sys::close_all_but(&[&kept[..], &passing[..]].concat()))?;
    step("core limit", sys::limit(libc::RLIMIT_CORE, 0))?;
    let superuser = sys::is_root();
    let is = |kind| terms.namespaces.iter().any(|fd| void::is_kind(*fd, kind));
    let join = || terms.namespaces.iter().try_for_each(|fd| sys::join(*fd));
    // A user namespace is its owner's to join, and the owner gains what it takes to join the others.
    let late = is(libc::CLONE_NEWUSER);
    let mut apart = !terms.namespaces.is_empty() && (late || join().is_ok());
    match terms.root {
        Some(root) if superuser => step("chroot", sys::chroot_into(root))?,
        // It comes with the namespace.
        _ if apart && is(libc::CLONE_NEWNS) => {}
        // The superuser of a container may have no capability for it.
        _ if superuser => match sys::chroot_into_nothing() {
            Err(error) if sys::is_refusal(&error) => lacks |= Lacks::ROOT,
            result => step("chroot", result)?,
        },
        // A successor, whose broker is in the folder already.
        Some(_) => {}
        None => lacks |= Lacks::ROOT,
    }
    step("capability bounds", sys::drop_bounding_set())?;
    match terms.run_as {
        // With `-runas` the broker does not go on, since it cannot do it either.
        Some((user, group)) if superuser => match sys::drop_to(user, group) {
            Err(error) if sys::is_refusal(&error) => lacks |= Lacks::USER,
            result => step("dropping privileges", result)?,
        },
        None if superuser => lacks |= Lacks::USER,
        _ => {}
    }
    if apart && late {
        apart = join().is_ok();
        step("capability bounds", sys::drop_bounding_set())?;
    }
    if !apart {
        lacks |= Lacks::NAMESPACES;
    }
    for fd in passing {
        step("closing descriptors", sys::close_one(fd))?;
    }
    step("capabilities", sys::drop_capabilities())?;
    // A change of credentials clears both.
    step("parent death signal", sys::die_with_parent())?;
    step("dumpable", sys::not_dumpable())?;
    if sys::parent() != parent {
        return Err("jail: the broker is gone".to_owned());
    }
    step("no new privileges", sys::no_new_privileges())?;
    match landlock() {
        Ok(RulesetStatus::NotEnforced) => lacks |= Lacks::LANDLOCK,
        Ok(_) => {}
        Err(error) => return Err(format!("jail: landlock: {error}")),
    }
    let highest = kept.into_iter().max().unwrap_or(STDERR);
    Ok(Confined { lacks, report: terms.report, highest, longest_file: terms.longest_file, mapped, data })
}

impl Confined {
    /// Lowers the limits and installs the role's system call filter on every thread. Anything that the policy does not list
    /// stops the calling thread for good and is told to the broker, which kills the process; without a broker that listens,
    /// the kernel kills it.
    ///
    /// # Errors
    /// As [`enter`].
    pub fn seal(self, role: &str) -> Result<(), String> {
        let calls = policies::of(role).ok_or_else(|| format!("jail: no policy for role {role}"))?;
        let filter = |action| {
            compile(&calls, action, SeccompAction::Allow)
                .map_err(|error| format!("jail: policy {role}: {error}"))
        };
        let deadly = filter(SeccompAction::KillProcess)?;
        let telling = listener::telling(filter(SeccompAction::Trace(listener::MARK))?);
        let messenger = match self.report {
            Some(report) => Some(step("messenger", listener::Messenger::start(report))?),
            None => None,
        };
        self.limit(role)?;
        let Some(messenger) = messenger else {
            return seccompiler::apply_filter_all_threads(&deadly)
                .map_err(|error| format!("jail: seccomp: {error}"));
        };
        match listener::install(&telling) {
            Ok(fd) => step("messenger", messenger.deliver(self.lacks, Some(fd))),
            Err(_) => {
                // A kernel before 5.7, or somebody above has the only listener that there can be.
                seccompiler::apply_filter_all_threads(&deadly)
                    .map_err(|error| format!("jail: seccomp: {error}"))?;
                step("messenger", messenger.deliver(self.lacks | Lacks::EXPLANATIONS, None))
            }
        }
    }

    /// No new descriptors (but clients, and the filter's listener until the broker has it), processes, locked memory or files, and
    /// bounded memory.
    fn limit(&self, role: &str) -> Result<(), String> {
        let clients = if role == "char" { CLIENTS } else { 0 };
        let room = if role == "cpu" { CPU_ROOM } else { ROOM };
        step("limits", sys::limit(libc::RLIMIT_NOFILE, self.highest as u64 + 2 + clients))?;
        step("limits", sys::limit(libc::RLIMIT_DATA, self.data + room))?;
        step("limits", sys::limit(libc::RLIMIT_AS, self.mapped + room))?;
        step("limits", sys::limit(libc::RLIMIT_NPROC, 0))?;
        step("limits", sys::limit(libc::RLIMIT_MEMLOCK, 0))?;
        step("limits", sys::limit(libc::RLIMIT_MSGQUEUE, 0))?;
        let longest = if matches!(role, "block" | "char") { self.longest_file } else { Some(0) };
        if let Some(longest) = longest {
            step("limits", sys::limit(libc::RLIMIT_FSIZE, longest))?;
        }
        Ok(())
    }
}

/// The broker's own filter, on every thread; whatever it starts from now on inherits it below its own.
///
/// # Errors
/// As [`enter`].
pub fn enter_broker() -> Result<(), String> {
    step("no new privileges", sys::no_new_privileges())?;
    // With nobody who traces, "trace" refuses the call (ENOSYS). See `policies::broker` for why it does not kill.
    let program = compile(&policies::broker(), SeccompAction::Trace(listener::MARK), SeccompAction::Allow)
        .map_err(|error| format!("jail: policy broker: {error}"))?;
    let program = listener::foreign_calls_too(program);
    seccompiler::apply_filter_all_threads(&program).map_err(|error| format!("jail: seccomp: {error}"))
}

fn step<T>(what: &str, result: io::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("jail: {what}: {error}"))
}

/// Makes a panic end the process after its message, by one system call instead of the many of an abort.
fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        eprintln!("thread '{}' {panic}", thread.name().unwrap_or("unnamed"));
        sys::end_now(PANICKED);
    }));
}

/// Nothing of the file system, no TCP, no signals or abstract sockets outwards; as much of it as this kernel knows.
fn landlock() -> Result<RulesetStatus, landlock::RulesetError> {
    let abi = ABI::V6;
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .restrict_self()?;
    Ok(status.ruleset)
}

fn compile(
    calls: &[&Call],
    unlisted: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let mut open = Vec::new();
    for call in calls {
        let entry = rules.entry(call.number).or_default();
        if call.tests.is_empty() {
            open.push(call.number);
        } else {
            let conditions = call.tests.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
            entry.push(SeccompRule::new(conditions)?);
        }
    }
    // A call that one rule allows with any arguments has no other rules.
    for number in open {
        rules.insert(number, Vec::new());
    }
    #[cfg(target_arch = "x86_64")]
    let arch = TargetArch::x86_64;
    #[cfg(target_arch = "aarch64")]
    let arch = TargetArch::aarch64;
    SeccompFilter::new(rules, unlisted, listed, arch)?.try_into()
}

fn condition(test: &Test) -> Result<SeccompCondition, seccompiler::BackendError> {
    match *test {
        Test::Is(index, value) => {
            SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value & 0xffff_ffff)
        }
        Test::Bits(index, mask, value) => {
            SeccompCondition::new(index, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(mask), value)
        }
        Test::OwnPid(index) => {
            SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, sys::own_pid())
        }
    }
}
