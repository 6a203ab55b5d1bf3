//! The one place that builds a jail.

use std::collections::BTreeMap;
use std::io;

use landlock::{ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use crate::policies::{self, Call, Test};
use crate::sys;

/// Standard error stays open: the broker gave it a pipe that it reads with suspicion.
const STDERR: i32 = 2;

/// Locks this process down for good: [`confine`], then [`seal`].
///
/// `keep` are the descriptors still needed (memory that is mapped is not); `run_as` is the user and group to become when
/// the process is the superuser's.
///
/// # Errors
/// One line naming the step that failed. The caller must end the process then.
pub fn enter(role: &str, keep: &[i32], run_as: Option<(u32, u32)>) -> Result<(), String> {
    confine(keep, run_as)?;
    seal(role)
}

/// Everything of the jail but the system call filter: parent death, descriptors, limits, root, user, privileges, landlock.
///
/// # Errors
/// As [`enter`].
pub fn confine(keep: &[i32], run_as: Option<(u32, u32)>) -> Result<(), String> {
    let parent = sys::parent();
    step("process name", sys::take_name())?;
    step("parent death signal", sys::die_with_parent())?;
    step("dumpable", sys::not_dumpable())?;
    let mut kept = keep.to_vec();
    kept.push(STDERR);
    step("closing descriptors", sys::close_all_but(&kept))?;
    step("core limit", sys::limit(libc::RLIMIT_CORE, 0))?;
    if let (true, Some((user, group))) = (sys::is_root(), run_as) {
        step("chroot", sys::chroot_into_nothing())?;
        step("dropping privileges", sys::drop_to(user, group))?;
        // A change of credentials clears both.
        step("parent death signal", sys::die_with_parent())?;
        step("dumpable", sys::not_dumpable())?;
    }
    if sys::parent() != parent {
        return Err("jail: the broker is gone".to_owned());
    }
    step("no new privileges", sys::no_new_privileges())?;
    landlock().map_err(|error| format!("jail: landlock: {error}"))
}

/// Installs the role's system call filter on every thread: anything that the policy does not list kills the process.
///
/// # Errors
/// As [`enter`].
pub fn seal(role: &str) -> Result<(), String> {
    let calls = policies::of(role).ok_or_else(|| format!("jail: no policy for role {role}"))?;
    let program = compile(&calls, SeccompAction::KillProcess, SeccompAction::Allow)
        .map_err(|error| format!("jail: policy {role}: {error}"))?;
    seccompiler::apply_filter_all_threads(&program).map_err(|error| format!("jail: seccomp: {error}"))
}

/// The broker's own filter, on every thread; whatever it starts from now on inherits it.
///
/// # Errors
/// As [`enter`].
pub fn enter_broker() -> Result<(), String> {
    step("no new privileges", sys::no_new_privileges())?;
    let calls: Vec<&Call> = policies::denied_to_broker().iter().collect();
    let program = compile(&calls, SeccompAction::Allow, SeccompAction::KillProcess)
        .map_err(|error| format!("jail: policy broker: {error}"))?;
    seccompiler::apply_filter_all_threads(&program).map_err(|error| format!("jail: seccomp: {error}"))
}

fn step(what: &str, result: io::Result<()>) -> Result<(), String> {
    result.map_err(|error| format!("jail: {what}: {error}"))
}

/// Nothing of the file system, no TCP, no signals or abstract sockets outwards; as much of it as this kernel knows.
fn landlock() -> Result<(), landlock::RulesetError> {
    let abi = ABI::V6;
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .restrict_self()?;
    Ok(())
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
