//! Every role's jail, tried from inside: forbidden system calls end the process and explain themselves, allowed ones work.
//!
//! The process in the jail is `examples/prisoner.rs`.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bulkhead_security::policies::{DEVICE_ROLES, OTHER_ROLES};
use bulkhead_security::{Lacks, Place, Violation, Watch};

mod actions;
use actions::{ALLOWED, FORBIDDEN, INET};

/// Where the prisoner finds its report socket.
const REPORT: RawFd = 20;

fn every_role() -> impl Iterator<Item = &'static str> {
    DEVICE_ROLES.iter().chain(OTHER_ROLES).copied()
}

fn start(role: &str, action: &str, report: Option<OwnedFd>) -> Child {
    let own = std::env::current_exe().expect("own program");
    let folder = own.parent().and_then(std::path::Path::parent).expect("target folder");
    let mut command = Command::new(folder.join("examples/prisoner"));
    command.args([role, action]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    if let Some(report) = report {
        command.arg(REPORT.to_string());
        // SAFETY: one async-signal-safe call with plain values.
        unsafe {
            command.pre_exec(move || match libc::dup2(report.as_raw_fd(), REPORT) {
                REPORT => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
    }
    command.spawn().expect("the prisoner starts")
}

/// Signal or exit status of one action in a role's jail, with nobody who listens.
fn attempt(role: &str, action: &str) -> Result<i32, i32> {
    let output = start(role, action, None).wait_with_output().expect("its end");
    match output.status.signal() {
        Some(signal) => Err(signal),
        None => Ok(output.status.code().unwrap_or(-1)),
    }
}

/// What a broker that listens is told about one action: how the jail is, and the violation.
fn listened(role: &str, action: &str) -> (Lacks, Option<Violation>) {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("sockets");
    let mut child = start(role, action, Some(theirs.into()));
    let mut watch = Watch::new(ours.into());
    let end = Instant::now() + Duration::from_secs(60);
    let (mut lacks, mut violation) = (None, None);
    while child.try_wait().expect("own child").is_none() && violation.is_none() {
        violation = watch.attend();
        lacks = lacks.or(watch.lacks());
        assert!(Instant::now() < end, "{action} in {role} goes on");
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = child.kill();
    let status = child.wait().expect("its end");
    if violation.is_some() {
        // It was still there to be killed: it had not come back from its call.
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{action} in {role}");
    }
    violation = violation.or_else(|| watch.attend());
    (lacks.or(watch.lacks()).expect("a report"), violation)
}

#[test]
fn a_forbidden_call_ends_the_process_where_nobody_listens() {
    for role in ["rtc", "block", "char", "cpu"] {
        for (name, ..) in FORBIDDEN {
            assert_eq!(attempt(role, name), Err(libc::SIGSYS), "{name} in {role}");
        }
    }
}

#[test]
fn a_forbidden_call_is_told_with_name_and_place_in_every_role() {
    for role in every_role() {
        for (name, number, _) in FORBIDDEN {
            let (_, violation) = listened(role, name);
            let violation = violation.unwrap_or_else(|| panic!("{name} in {role} is not told"));
            assert_eq!(violation.call, *number, "{name} in {role}: {violation}");
            assert!(matches!(violation.place, Place::Program(1..)), "{violation}");
        }
    }
}

#[test]
fn neither_handlers_nor_masks_nor_other_threads_hide_a_forbidden_call() {
    for action in ["deaf", "in a thread"] {
        let violation = listened("cpu", action).1.expect(action);
        assert_eq!((violation.call, violation.args[0]), (libc::SYS_socket, INET as u64), "{action}");
        assert_eq!(attempt("cpu", action), Err(libc::SIGSYS), "{action}");
    }
}

#[test]
fn what_every_process_needs_works_in_every_role() {
    for role in every_role() {
        for (name, _) in ALLOWED {
            assert_eq!(attempt(role, name), Ok(7), "{name} in {role}");
        }
        assert_eq!(listened(role, "mmap").1, None, "{role}");
    }
}

#[test]
fn a_panic_says_why_and_ends_the_process_without_a_violation() {
    let output = start("rtc", "panic", None).wait_with_output().expect("its end");
    assert_eq!(output.status.code(), Some(101));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("on purpose") && text.contains("prisoner.rs"), "{text}");
}

#[test]
fn a_confined_process_has_no_files_network_descriptors_or_privileges() {
    assert_eq!(attempt("rtc", "confined"), Ok(7));
}

#[test]
fn the_broker_keeps_files_and_is_refused_sockets_and_tracing() {
    assert_eq!(attempt("broker", "openat"), Ok(7));
    for name in ["socket", "ptrace", "bpf", "io_uring_setup", "process_vm_writev", "executable mmap", "kill"]
    {
        assert_eq!(attempt("broker", name), Ok(8), "{name}");
    }
}

#[test]
fn an_unknown_role_gets_no_jail() {
    assert_eq!(attempt("nobody", "mmap"), Ok(8));
}
