//! Every role's jail, tried from inside: forbidden system calls kill the process, allowed ones work.
//!
//! The test program starts itself again as the process in the jail: `inside` does one action named in the environment.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use bulkhead_security::policies::DEVICE_ROLES;
use bulkhead_security::{confine, enter, enter_broker};

const ROLE: &str = "BULKHEAD_TEST_ROLE";
const ACTION: &str = "BULKHEAD_TEST_ACTION";
const NOBODY: Option<(u32, u32)> = Some((65534, 65534));

fn every_role() -> Vec<&'static str> {
    DEVICE_ROLES.iter().copied().chain(["block", "char", "cpu"]).collect()
}

/// A system call and whether it succeeded.
type Action = (&'static str, fn() -> bool);

/// `syscall(2)` with small integers and pointers to constants only.
fn call(number: libc::c_long, args: [usize; 6]) -> bool {
    // SAFETY: the tests below pass nothing that the kernel would write to, but for addresses that are null.
    unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], args[4], args[5]) >= 0 }
}

/// Address of the name of a file that everybody may open.
fn null_path() -> usize {
    c"/dev/null".as_ptr() as usize
}

const ANON: usize = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
const RW: usize = (libc::PROT_READ | libc::PROT_WRITE) as usize;
const RX: usize = (libc::PROT_READ | libc::PROT_EXEC) as usize;
const INET: usize = libc::AF_INET as usize;
const STREAM: usize = libc::SOCK_STREAM as usize;

const FORBIDDEN: &[Action] = &[
    ("openat", || call(libc::SYS_openat, [libc::AT_FDCWD as usize, null_path(), 0, 0, 0, 0])),
    ("open", || call(libc::SYS_open, [null_path(), 0, 0, 0, 0, 0])),
    ("socket", || call(libc::SYS_socket, [INET, STREAM, 0, 0, 0, 0])),
    ("ptrace", || call(libc::SYS_ptrace, [0; 6])),
    ("execve", || call(libc::SYS_execve, [null_path(), 0, 0, 0, 0, 0])),
    ("fork", || call(libc::SYS_fork, [0; 6])),
    ("clone", || call(libc::SYS_clone, [libc::SIGCHLD as usize, 0, 0, 0, 0, 0])),
    ("kill", || call(libc::SYS_kill, [1, 0, 0, 0, 0, 0])),
    ("tgkill of another process", || call(libc::SYS_tgkill, [1, 1, 0, 0, 0, 0])),
    ("memfd_create", || call(libc::SYS_memfd_create, [null_path(), 0, 0, 0, 0, 0])),
    ("executable mmap", || call(libc::SYS_mmap, [0, 4096, RX, ANON, usize::MAX, 0])),
    ("executable mprotect", || call(libc::SYS_mprotect, [0, 4096, RX, 0, 0, 0])),
    ("unshare", || call(libc::SYS_unshare, [0; 6])),
    ("io_uring_setup", || call(libc::SYS_io_uring_setup, [0; 6])),
    ("process_vm_writev", || call(libc::SYS_process_vm_writev, [0; 6])),
    ("bpf", || call(libc::SYS_bpf, [0; 6])),
    ("prctl", || call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE as usize, 1, 0, 0, 0, 0])),
    ("dup", || call(libc::SYS_dup, [2, 0, 0, 0, 0, 0])),
];

const ALLOWED: &[Action] = &[
    ("write to standard error", || call(libc::SYS_write, [2, 0, 0, 0, 0, 0])),
    ("mmap", || call(libc::SYS_mmap, [0, 4096, RW, ANON, usize::MAX, 0])),
    ("large allocation", || {
        let block = vec![1u8; 8 << 20];
        std::hint::black_box(&block).len() == 8 << 20
    }),
    ("clock", || std::time::Instant::now().elapsed().as_secs() < 10),
    ("hash table", || std::collections::HashMap::from([(1, 2)]).len() == 1),
    ("sched_yield", || call(libc::SYS_sched_yield, [0; 6])),
];

/// The process in the jail; a test without work in every ordinary run.
#[test]
fn inside() {
    let (Ok(role), Ok(action)) = (std::env::var(ROLE), std::env::var(ACTION)) else { return };
    let entered = match (role.as_str(), action.as_str()) {
        ("broker", _) => enter_broker(),
        (_, "confined") => confine(&[], NOBODY),
        (role, _) => enter(role, &[], NOBODY),
    };
    let done = match (entered, action.as_str()) {
        (Err(error), _) => {
            eprintln!("{error}");
            false
        }
        (Ok(()), "confined") => confined(),
        (Ok(()), action) => {
            let known = FORBIDDEN.iter().chain(ALLOWED).find(|(name, _)| *name == action);
            known.is_some_and(|(_, run)| run())
        }
    };
    // SAFETY: ends the process at once, from whatever state the jail left it in.
    unsafe { libc::syscall(libc::SYS_exit_group, if done { 7 } else { 8 }) };
}

/// What holds before the filter, when it can still be asked for.
fn confined() -> bool {
    // SAFETY: plain queries.
    let (user, dumpable, privileges) = unsafe {
        (
            libc::getuid(),
            libc::prctl(libc::PR_GET_DUMPABLE),
            libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0),
        )
    };
    let no_file = std::fs::File::open("/dev/null").is_err() && std::fs::read_dir("/").is_err();
    let no_network = std::net::TcpStream::connect("127.0.0.1:9")
        .is_err_and(|error| error.raw_os_error() == Some(libc::EACCES));
    // SAFETY: a query on a descriptor that must be closed.
    let closed = unsafe { libc::fcntl(0, libc::F_GETFD) } < 0;
    user != 0 && dumpable == 0 && privileges == 1 && no_file && no_network && closed
}

/// Signal or exit status of one action in a role's jail.
fn attempt(role: &str, action: &str) -> Result<i32, i32> {
    let program = std::env::current_exe().expect("own program");
    let output = Command::new(program)
        .args(["inside", "--exact", "--test-threads=1"])
        .env(ROLE, role)
        .env(ACTION, action)
        .output()
        .expect("the test program starts");
    match output.status.signal() {
        Some(signal) => Err(signal),
        None => Ok(output.status.code().unwrap_or(-1)),
    }
}

#[test]
fn a_forbidden_call_kills_the_process_in_every_role() {
    for role in every_role() {
        for (name, _) in FORBIDDEN {
            assert_eq!(attempt(role, name), Err(libc::SIGSYS), "{name} in {role}");
        }
    }
}

#[test]
fn what_every_process_needs_works_in_every_role() {
    for role in every_role() {
        for (name, _) in ALLOWED {
            assert_eq!(attempt(role, name), Ok(7), "{name} in {role}");
        }
    }
}

#[test]
fn a_confined_process_has_no_files_network_descriptors_or_privileges() {
    assert_eq!(attempt("rtc", "confined"), Ok(7));
}

#[test]
fn the_broker_keeps_files_and_loses_sockets_and_tracing() {
    assert_eq!(attempt("broker", "openat"), Ok(7));
    for name in ["socket", "ptrace", "bpf", "io_uring_setup", "unshare", "process_vm_writev"] {
        assert_eq!(attempt("broker", name), Err(libc::SIGSYS), "{name}");
    }
}

#[test]
fn an_unknown_role_gets_no_jail() {
    assert_eq!(attempt("nobody", "mmap"), Ok(8));
}
