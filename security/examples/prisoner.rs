//! A process in a jail, for `tests/jail.rs`: enters the jail of a role and does one action. A program of its own, because a jail
//! is entered while a process has one thread, and the tests' own has more.
//!
//! usage: prisoner ROLE ACTION [DESCRIPTOR OF THE REPORT SOCKET]

use std::os::fd::RawFd;
use std::sync::{Arc, Barrier};

use bulkhead_security::{Terms, confine, enter, enter_broker};

#[path = "../tests/actions/mod.rs"]
mod actions;
use actions::{ALLOWED, FORBIDDEN, INET, STREAM, call};

const NOBODY: Option<(u32, u32)> = Some((65534, 65534));

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [role, action, rest @ ..] = words.as_slice() else {
        eprintln!("role and action expected");
        std::process::exit(2)
    };
    let report = rest.first().and_then(|number| number.parse().ok());
    let terms = Terms { run_as: NOBODY, report, ..Terms::default() };
    let entered = match (role.as_str(), action.as_str()) {
        ("broker", _) => enter_broker(),
        (_, "confined") => confine(&[], terms).map(drop),
        (_, "in a thread") => in_a_thread(role, report),
        (role, "deaf") => {
            go_deaf();
            enter(role, &[], terms)
        }
        (role, _) => enter(role, &[], terms),
    };
    let done = match (entered, action.as_str()) {
        (Err(error), _) => {
            eprintln!("{error}");
            false
        }
        (Ok(()), "confined") => confined(),
        (Ok(()), "deaf") => call(libc::SYS_socket, [INET, STREAM, 0, 0, 0, 0]),
        (Ok(()), "panic") => panic!("on purpose"),
        (Ok(()), action) => {
            let forbidden = FORBIDDEN.iter().map(|(name, _, run)| (name, run));
            let mut all = forbidden.chain(ALLOWED.iter().map(|(name, run)| (name, run)));
            all.find(|(name, _)| **name == action).is_some_and(|(_, run)| run())
        }
    };
    // SAFETY: ends the process at once, from whatever state the jail left it in.
    unsafe { libc::syscall(libc::SYS_exit_group, if done { 7 } else { 8 }) };
}

/// Ignores and blocks every signal, as far as one can.
fn go_deaf() {
    // SAFETY: no handler is given; a full set is a valid one.
    unsafe {
        libc::signal(libc::SIGSYS, libc::SIG_IGN);
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
    }
}

/// A forbidden call by a thread that is older than the filter.
fn in_a_thread(role: &str, report: Option<RawFd>) -> Result<(), String> {
    let confined = confine(&[], Terms { run_as: NOBODY, report, ..Terms::default() })?;
    let gate = Arc::new(Barrier::new(2));
    let open = gate.clone();
    std::thread::spawn(move || {
        open.wait();
        open.wait();
        call(libc::SYS_socket, [INET, STREAM, 0, 0, 0, 0])
    });
    gate.wait();
    confined.seal(role)?;
    gate.wait();
    loop {
        std::hint::spin_loop();
    }
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
    // Landlock refuses, or there is no network to reach.
    let no_network = std::net::TcpStream::connect("127.0.0.1:9")
        .is_err_and(|error| [Some(libc::EACCES), Some(libc::ENETUNREACH)].contains(&error.raw_os_error()));
    // SAFETY: a query on a descriptor that must be closed.
    let closed = unsafe { libc::fcntl(0, libc::F_GETFD) } < 0;
    // SAFETY: no capability is left to enter any namespace or to change the root.
    let powerless = unsafe { libc::chroot(c"/".as_ptr()) } < 0;
    user != 0 && dumpable == 0 && privileges == 1 && no_file && no_network && closed && powerless
}
