//! The jails as they are in a running machine: identities, capabilities, namespaces, limits, memory and descriptors of every
//! process; `-runas` and `-chroot`. What is tried from inside is in `escape.rs`.
//!
//! Much of it only the superuser can look at, since no process is dumpable; what an ordinary user can see is tested for both.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bulkhead_tests::{Installed, Monitor, Scratch, Vm, programs, serving};

const PROGRAM: &str = "qemu-system-x86_64";

fn is_root() -> bool {
    // SAFETY: no arguments, only asks.
    unsafe { libc::geteuid() == 0 }
}

/// A file of a process or thread in /proc.
fn proc(pid: u32, name: &str) -> String {
    let path = format!("/proc/{pid}/{name}");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The words of a field of the status of a process or thread.
fn status(pid: u32, field: &str) -> Vec<String> {
    let text = proc(pid, "status");
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{field}:"))).expect("field");
    line.split_whitespace().map(str::to_owned).collect()
}

fn threads(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("process exists");
    tasks.flatten().map(|task| task.file_name().to_string_lossy().parse().expect("number")).collect()
}

/// The processes by `info processes`: process number and the state of the jail, without the broker.
fn jails(monitor: &mut Monitor) -> BTreeMap<String, (u32, String)> {
    let table = monitor.ask("info processes");
    let rows = table.lines().filter(|line| line.contains(" bh-"));
    rows.map(|row| {
        let words: Vec<&str> = row.split_whitespace().collect();
        (words[1].to_owned(), (words[0].parse().expect("number"), words[words.len() - 1].to_owned()))
    })
    .collect()
}

/// A stopped VM started by these words, with its monitor at `socket`.
fn stopped(start: impl FnOnce(&[&str]) -> Vm, socket: &str, more: &[&str]) -> (Vm, Monitor) {
    let address = format!("unix:{socket},server,nowait");
    let mut args = vec!["-nographic", "-S", "-serial", "null", "-monitor", &address];
    args.extend(more);
    let vm = start(&args);
    (vm, Monitor::connect(socket))
}

/// What holds for every process, whoever started it.
fn assert_powerless(pid: u32, name: &str) {
    for thread in threads(pid) {
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(status(thread, set), ["0000000000000000"], "{set} of {name}");
        }
        assert_eq!(status(thread, "NoNewPrivs"), ["1"], "{name}");
        assert_eq!(status(thread, "Seccomp"), ["2"], "{name}");
    }
    let limits = proc(pid, "limits");
    let limit = |title: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(title)).expect("limit");
        line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    for title in ["Max core file size", "Max processes", "Max locked memory", "Max msgqueue size"] {
        assert_eq!(limit(title), ["0", "0"], "{title} of {name}");
    }
    for title in ["Max open files", "Max data size"] {
        assert_ne!(limit(title)[1], "unlimited", "{title} of {name}");
    }
    if !name.starts_with("bh-block") && !name.starts_with("bh-char") {
        assert_eq!(limit("Max file size"), ["0", "0"], "{name}");
    }
}

/// The limits of address space and data of a process, in bytes.
fn memory_limits(pid: u32) -> [u64; 2] {
    let limits = proc(pid, "limits");
    ["Max address space", "Max data size"].map(|title| {
        let line = limits.lines().find_map(|line| line.strip_prefix(title)).expect("limit");
        line.split_whitespace().next().and_then(|word| word.parse().ok()).expect(line)
    })
}

/// Whether a process shares none of our namespaces that its jail says it has left.
fn assert_apart(pid: u32, name: &str, jail: &str) {
    let whole = !jail.contains("no-namespaces");
    for kind in ["mnt", "net", "ipc", "uts", "cgroup"] {
        let of = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/{kind}")).expect("namespace");
        assert_eq!(of(&pid.to_string()) != of("self"), whole, "{kind} of {name}, whose jail is {jail}");
    }
    let root = format!("/proc/{pid}/root/.");
    assert_eq!(std::fs::read_dir(&root).expect(&root).count(), 0, "root of {name}");
}

#[test]
fn every_process_is_powerless_alone_and_somebody_else() {
    let scratch = Scratch::new("alone");
    let (vm, mut monitor) = stopped(|args| Vm::start(PROGRAM, args), &scratch.file("monitor"), &[]);
    let jails = jails(&mut monitor);
    assert!(jails.len() >= 13, "{jails:?}");
    let mut users = BTreeSet::new();
    for (name, (pid, jail)) in &jails {
        assert_powerless(*pid, name);
        let (user, group) = (status(*pid, "Uid"), status(*pid, "Gid"));
        users.insert(user[0].clone());
        if is_root() {
            assert_apart(*pid, name, jail);
            assert_ne!(user[0], "0", "{name}");
            assert!(user.iter().chain(&group).all(|id| *id == user[0]), "{name}: {user:?} {group:?}");
            assert_eq!(status(*pid, "Groups"), Vec::<String>::new(), "{name}");
            assert_eq!(status(*pid, "CapBnd"), ["0000000000000000"], "{name}");
        }
    }
    // One for each, unless this user namespace has no numbers for that.
    let numbers = std::fs::read_to_string("/proc/self/uid_map").expect("uid_map");
    if is_root() && numbers.contains("4294967295") {
        assert_eq!(users.len(), jails.len(), "{users:?}");
    } else {
        assert_eq!(users.len(), 1, "{users:?}");
    }
    drop(vm);
}

/// Kinds of memory with how they may be mapped, by program, from the pages of the roles.
fn pages() -> BTreeMap<String, BTreeSet<(String, String)>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../security/roles");
    let mut pages = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("pages").flatten() {
        let text = std::fs::read_to_string(entry.path()).expect("page");
        let Some((_, memory)) = text.split_once("## Memory\n") else { continue };
        let program = text.split('`').nth(1).expect("program").to_owned();
        let rows = memory.lines().filter(|line| line.starts_with("| ")).skip(1);
        let rows = rows.map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            (cells[1].to_owned(), cells[2].to_owned())
        });
        pages.insert(program, rows.collect());
    }
    pages
}

/// The shared memory of a process by kind and access, and everything else that is executable.
fn mapped(pid: u32) -> (BTreeSet<(String, String)>, Vec<String>) {
    let mut shared = BTreeSet::new();
    let mut executable = Vec::new();
    for line in proc(pid, "maps").lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (access, name) = (words[1], words.get(5).copied().unwrap_or(""));
        assert!(!(access.contains('w') && access.contains('x')), "{line}");
        match name.strip_prefix("/memfd:") {
            Some(memory) => {
                let kind = memory.rsplit('-').next().unwrap_or(memory).to_owned();
                let access: String = access.chars().filter(|letter| "rwx".contains(*letter)).collect();
                shared.insert((kind, access));
            }
            None if access.contains('x') => executable.push(name.to_owned()),
            None => {}
        }
    }
    (shared, executable)
}

#[test]
fn a_process_that_waits_to_take_over_is_powerless_already() {
    let scratch = Scratch::new("alone-standby");
    let (vm, _monitor) = stopped(|args| Vm::start(PROGRAM, args), &scratch.file("monitor"), &[]);
    // Those of nine devices, the drive, the port and the monitor.
    let end = Instant::now() + Duration::from_secs(60);
    let waiting = loop {
        let mut waiting = bulkhead_tests::children(vm.pid());
        waiting.retain(|(pid, name)| name == bulkhead_tests::STANDBY && is_filtered(*pid));
        if waiting.len() >= 12 {
            break waiting;
        }
        assert!(Instant::now() < end, "only {waiting:?} wait");
        std::thread::sleep(Duration::from_millis(50));
    };
    for (pid, _) in waiting {
        // Its place, which it shows by another way than its command line.
        let name = proc(pid, "comm");
        assert_powerless(pid, name.trim());
        if is_root() {
            assert_ne!(status(pid, "Uid")[0], "0", "{name}");
        }
    }
}

/// Whether a process is under a filter of its own, beside that which it has inherited from the broker.
fn is_filtered(pid: u32) -> bool {
    status(pid, "Seccomp_filters")
        .first()
        .and_then(|count| count.parse().ok())
        .is_some_and(|count: u32| count >= 2)
}

#[test]
fn every_process_maps_what_its_page_says_and_guest_ram_only_where_it_is_needed() {
    if !is_root() {
        eprintln!("only the superuser may read the mappings of a process that is not dumpable");
        return;
    }
    let scratch = Scratch::new("maps");
    let disk = scratch.file("disk");
    std::fs::write(&disk, vec![0u8; 1 << 20]).expect("disk");
    // With a log and an overlay, so that every kind of memory and descriptor is there.
    let more = ["-d", "cpu_reset", "-snapshot", "-hda", &disk];
    let (vm, mut monitor) = stopped(|args| Vm::start(PROGRAM, args), &scratch.file("monitor"), &more);
    let pages = pages();
    let mut with_ram = BTreeSet::new();
    for (name, (pid, _)) in jails(&mut monitor) {
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).expect("program");
        let program = program.file_name().expect("name").to_string_lossy().into_owned();
        let page = pages.get(&program).unwrap_or_else(|| panic!("{program} has no page"));
        let (shared, executable) = mapped(pid);
        if name != "bh-cpu" {
            // Its lines are in its device file, and so are those of the others in theirs.
            let own = format!("{}-device", name.trim_start_matches("bh-"));
            let maps = proc(pid, "maps");
            let files = maps.lines().filter_map(|line| line.split_once("/memfd:").map(|(_, name)| name));
            let strange: Vec<&str> = files
                .map(|name| name.trim_end_matches(" (deleted)").trim_start_matches("bh-"))
                .filter(|name| name.ends_with("-device") && *name != own)
                .collect();
            assert!(strange.is_empty(), "{name} maps {strange:?}");
        }
        let more: Vec<_> = shared.difference(page).collect();
        assert!(more.is_empty(), "{name} maps {more:?}, which its page does not have");
        if name == "bh-cpu" {
            let less: Vec<_> = page.difference(&shared).collect();
            assert!(less.is_empty(), "{name} does not map {less:?}");
        }
        if shared.iter().any(|(kind, _)| kind == "ram") {
            with_ram.insert(program.clone());
        }
        for mapping in executable {
            let known = mapping.ends_with(&program) || ["[vdso]", "[vsyscall]"].contains(&mapping.as_str());
            assert!(known, "{name} can execute {mapping:?}");
        }
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").count();
        let most = match program.as_str() {
            "bh-block" | "bh-cpu" => 3,
            // Both ends of the two pipes that outlive it, its host side's two, the monitor's socket.
            "bh-char" => 8,
            _ => 1,
        };
        assert!((1..=most).contains(&fds), "{name} has {fds} descriptors");
    }
    // The broker controls devices and sees nothing of the guest.
    let (shared, _) = mapped(vm.pid());
    assert!(shared.iter().any(|(kind, _)| kind == "device"), "{shared:?}");
    assert!(
        !shared.iter().any(|(kind, _)| ["ram", "bulk", "compiled", "bytes"].contains(&kind.as_str())),
        "{shared:?}"
    );
    assert_eq!(with_ram.into_iter().collect::<Vec<_>>(), ["bh-cpu", "bh-fwcfg", "bh-ide"]);
}

/// Asserts that the program refuses to start with exactly this line.
fn refused(program: &str, args: &[&str], line: &str) {
    let mut vm = Vm::start(program, args);
    let status = vm.wait(60);
    assert_eq!(vm.errors(), format!("{PROGRAM}: {line}\n"));
    assert_eq!(status.code(), Some(1));
}

#[test]
fn a_wrong_user_or_root_is_one_line() {
    let program = programs().join(PROGRAM);
    let program = program.to_str().expect("path in UTF-8");
    let given = |option: &str, value: &str, reason: &str| {
        refused(program, &["-nographic", option, value], &format!("{option} {value}: {reason}"));
    };
    given("-runas", "nobody-by-this-name", "no such user");
    given("-runas", "1:2:3", "neither a user nor uid:gid");
    given("-chroot", "/nowhere", "no such file or directory");
    given("-chroot", "/etc/passwd", "not a directory");
    if is_root() {
        given("-runas", "root", "the superuser keeps every privilege");
        let here = Installed::new("refused");
        let ours = here.file(PROGRAM);
        let start = ["--reuid=12345", "--regid=12345", "--clear-groups", &ours, "-nographic"];
        let given = |option: &str, value: &str, reason: &str| {
            let args = [&start[..], &[option, value]].concat();
            refused("/usr/bin/setpriv", &args, &format!("{option} {value}: {reason}"));
        };
        given("-runas", "daemon", "only the superuser can change the user");
        given("-chroot", "/", "only the superuser can change the root");
    } else {
        given("-runas", "daemon", "only the superuser can change the user");
        given("-chroot", "/", "only the superuser can change the root");
    }
}

/// The broker and what serves: at least so many as there are without options.
fn everybody(vm: &Vm) -> Vec<(u32, String)> {
    let mut all = serving(vm.pid());
    assert!(all.len() >= 13, "{all:?}");
    all.push((vm.pid(), "the broker".to_owned()));
    all
}

/// Asserts that every process, the broker included, is this user with this group alone.
fn assert_all_are(vm: &Vm, user: &str, group: &str) {
    for (pid, name) in everybody(vm) {
        for thread in threads(pid) {
            assert_eq!(status(thread, "Uid"), [user; 4], "{name}");
            assert_eq!(status(thread, "Gid"), [group; 4], "{name}");
            assert_eq!(status(thread, "Groups"), Vec::<String>::new(), "{name}");
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                assert_eq!(status(thread, set), ["0000000000000000"], "{set} of {name}");
            }
        }
    }
}

/// Asserts that this is what the jail of every process lacks, and that each is powerless all the same.
fn assert_all_lack(monitor: &mut Monitor, lacks: &str) {
    for (name, (pid, jail)) in jails(monitor) {
        assert_powerless(pid, &name);
        assert_eq!(jail, lacks, "{name}");
    }
}

/// Kills a process by its monitor name and waits for the successor, which is the only one with another number.
fn succeed(monitor: &mut Monitor, name: &str) -> (u32, String) {
    let (before, _) = jails(monitor).remove(name).expect(name);
    assert_eq!(monitor.ask(&format!("device_kill {name}")), "");
    let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let (now, jail) = jails(monitor).remove(name).expect(name);
        if now != before && jail != "starting" {
            return (now, jail);
        }
        assert!(std::time::Instant::now() < end, "{name} has no successor");
    }
}

#[test]
fn run_as_changes_every_process_and_its_successors() {
    if !is_root() {
        eprintln!("only the superuser can change the user: a_wrong_user_or_root_is_one_line has the rest");
        return;
    }
    for (whom, user, group) in [("daemon", "1", "1"), ("12345:12346", "12345", "12346")] {
        let scratch = Scratch::new(&format!("runas-{user}"));
        let socket = scratch.file("monitor");
        let (vm, mut monitor) = stopped(|args| Vm::start(PROGRAM, args), &socket, &["-runas", whom]);
        assert_all_are(&vm, user, group);
        for name in ["bh-rtc", "bh-block-hdc", "bh-char-serial0"] {
            let (pid, _) = succeed(&mut monitor, name);
            assert_powerless(pid, name);
        }
        assert_all_are(&vm, user, group);
    }
}

#[test]
fn chroot_encloses_every_process_and_its_successors() {
    if !is_root() {
        eprintln!("only the superuser can change the root: a_wrong_user_or_root_is_one_line has the rest");
        return;
    }
    let here = Installed::new("chroot");
    let cell = here.file("cell");
    std::fs::create_dir(&cell).expect("folder");
    std::os::unix::fs::chown(&cell, Some(12345), Some(12346)).expect("owner");
    let socket = here.file("monitor");
    let more = ["-chroot", &cell, "-runas", "12345:12346"];
    let (vm, mut monitor) = stopped(|args| here.start(args), &socket, &more);
    let assert_all_in = || {
        for (pid, name) in everybody(&vm) {
            let root = std::fs::read_link(format!("/proc/{pid}/root")).expect("root");
            assert_eq!(root, Path::new(&cell), "{name}");
        }
    };
    assert_all_in();
    // At its program's name in there lies what must never be started.
    let planted = format!("{cell}{}", here.file("bh-rtc"));
    std::fs::create_dir_all(Path::new(&planted).parent().expect("folder")).expect("folder");
    std::fs::write(&planted, "#!/planted").expect("file");
    let (first, before) = jails(&mut monitor).remove("bh-rtc").expect("bh-rtc");
    let limits = memory_limits(first);
    let (pid, jail) = succeed(&mut monitor, "bh-rtc");
    assert_eq!(jail, before);
    assert_powerless(pid, "bh-rtc");
    // But for the stack.
    for (limit, before) in memory_limits(pid).into_iter().zip(limits) {
        assert!(limit.abs_diff(before) < 1 << 20, "{limit}, {before} for its predecessor");
    }
    assert_all_in();
    assert_all_are(&vm, "12345", "12346");
    // The monitor's files are in there.
    assert_eq!(monitor.ask("pmemsave 0 16 \"/dump\""), "");
    let dump = std::fs::metadata(here.file("cell/dump")).expect("dump");
    assert_eq!((dump.len(), dump.uid()), (16, 12345));
}

#[test]
fn a_machine_in_a_narrow_container_runs_and_says_what_its_jails_lack() {
    // A user namespace with one user and no further mount namespace.
    let narrow = "echo 0 > /proc/sys/user/max_mnt_namespaces && exec \"$0\" \"$@\"";
    let container = ["--user", "--map-root-user", "sh", "-c", narrow];
    let possible = Command::new("unshare").args(container).arg("true").stderr(Stdio::null()).status();
    if !possible.is_ok_and(|status| status.success()) {
        eprintln!("this host has no user namespaces to make a container of");
        return;
    }
    let here = Installed::new("narrow");
    let program = here.file(PROGRAM);
    let start =
        |args: &[&str]| Vm::start("/usr/bin/unshare", &[&container[..], &[program.as_str()], args].concat());
    let (_vm, mut monitor) = stopped(start, &here.file("monitor"), &[]);
    succeed(&mut monitor, "bh-rtc");
    assert_all_lack(&mut monitor, "no-user,no-namespaces");
}

#[test]
fn an_ordinary_users_machine_has_its_jails_too() {
    if !is_root() {
        eprintln!("this user is ordinary: every_process_is_powerless_alone_and_somebody_else is the test");
        return;
    }
    let here = Installed::new("ordinary");
    let program = here.file(PROGRAM);
    let start = |args: &[&str]| {
        let words = ["--reuid=12345", "--regid=12345", "--clear-groups", &program];
        Vm::start("/usr/bin/setpriv", &[&words[..], args].concat())
    };
    let (vm, mut monitor) = stopped(start, &here.file("monitor"), &[]);
    let (pid, jail) = succeed(&mut monitor, "bh-rtc");
    assert_apart(pid, "bh-rtc", &jail);
    for (name, (pid, jail)) in jails(&mut monitor) {
        assert_powerless(pid, &name);
        assert_apart(pid, &name, &jail);
        assert_eq!(status(pid, "Uid"), ["12345"; 4], "{name}");
    }
    drop(vm);
}

#[test]
fn a_starter_that_ignores_the_end_of_children_changes_nothing() {
    let here = Installed::new("chld");
    let program = here.file(PROGRAM);
    let start = |args: &[&str]| {
        Vm::start("/usr/bin/env", &[&["--ignore-signal=CHLD", program.as_str()], args].concat())
    };
    let (_vm, mut monitor) = stopped(start, &here.file("monitor"), &[]);
    let (pid, jail) = jails(&mut monitor).remove("bh-rtc").expect("bh-rtc");
    assert!(!jail.contains("no-namespaces"), "{jail}");
    // SAFETY: a process of this machine.
    assert_eq!(unsafe { libc::kill(pid as i32, libc::SIGKILL) }, 0);
    let end = Instant::now() + Duration::from_secs(30);
    let row = loop {
        let table = monitor.ask("info restarts");
        if let Some(row) = table.lines().find(|row| row.contains(" bh-rtc ")) {
            break row.to_owned();
        }
        assert!(Instant::now() < end, "{table}");
    };
    assert!(row.contains("was killed by SIGKILL"), "{row}");
}

#[test]
fn below_another_root_there_is_nothing_in_the_jails_either() {
    if !is_root() {
        eprintln!("only the superuser can change the root");
        return;
    }
    // Who enters the namespaces comes to the first root of all, which this machine has never seen.
    let script = "mount --rbind / $CELL && exec chroot $CELL \"$0\" \"$@\"";
    let here = Installed::new("another-root");
    let cell = here.file("cell");
    std::fs::create_dir(&cell).expect("folder");
    let (cell, program) = (format!("CELL={cell}"), here.file(PROGRAM));
    let words = [cell.as_str(), "unshare", "--mount", "sh", "-c", script, &program];
    let start = |args: &[&str]| Vm::start("/usr/bin/env", &[&words[..], args].concat());
    let (_vm, mut monitor) = stopped(start, &here.file("monitor"), &[]);
    succeed(&mut monitor, "bh-rtc");
    for (name, (pid, jail)) in jails(&mut monitor) {
        assert_powerless(pid, &name);
        assert_apart(pid, &name, &jail);
    }
}

/// The sockets of a process.
fn sockets(pid: u32) -> Vec<i32> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").flatten();
    let is_socket =
        |path: &Path| std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"));
    let names = entries.filter(|entry| is_socket(&entry.path())).map(|entry| entry.file_name());
    names.map(|name| name.to_string_lossy().parse().expect("number")).collect()
}

/// Shuts down the only socket that a process has in its jail, as nobody in it would.
fn shut_down_socket(pid: u32) {
    let end = Instant::now() + Duration::from_secs(30);
    // On its way there it has one more.
    let socket = loop {
        match sockets(pid).as_slice() {
            [socket] => break *socket,
            more => assert!(Instant::now() < end, "{more:?}"),
        }
    };
    // SAFETY: numbers only; the descriptors made here stay with this process.
    let done = unsafe {
        let process = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        let own = libc::syscall(libc::SYS_pidfd_getfd, process, socket, 0);
        libc::shutdown(own as i32, libc::SHUT_RDWR)
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_back_end_that_shuts_its_monitors_socket_down_does_not_take_the_monitor_with_it() {
    if !is_root() {
        eprintln!("only the superuser gets at a descriptor of a process that is not dumpable");
        return;
    }
    let mut vm = Vm::start(PROGRAM, &["-nographic", "-S"]);
    vm.send("\x01c");
    vm.expect("(qemu) ", 30);
    for _ in 0..2 {
        let pid = |vm: &Vm| vm.processes().into_iter().find(|(_, name)| name == "bh-char-serial0");
        let (before, _) = pid(&vm).expect("bh-char-serial0");
        shut_down_socket(before);
        let end = Instant::now() + Duration::from_secs(30);
        while pid(&vm).is_none_or(|(now, _)| now == before) {
            assert!(Instant::now() < end, "no successor");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    vm.send("info status\r");
    vm.expect("VM status: paused", 30);
}

#[test]
fn a_superuser_without_capabilities_has_a_machine_that_says_what_its_jails_lack() {
    if !is_root() {
        eprintln!("this user is none");
        return;
    }
    let here = Installed::new("no-capabilities");
    let program = here.file(PROGRAM);
    let words = ["--bounding-set=-all", "--inh-caps=-all", &program];
    let start = |args: &[&str]| Vm::start("/usr/bin/setpriv", &[&words[..], args].concat());
    let (_vm, mut monitor) = stopped(start, &here.file("monitor"), &[]);
    succeed(&mut monitor, "bh-rtc");
    assert_all_lack(&mut monitor, "no-root,no-user,no-namespaces");
    let run_as = [&words[..], &["-nographic", "-runas", "daemon"]].concat();
    refused("/usr/bin/setpriv", &run_as, "-runas: operation not permitted");
}

#[test]
fn a_block_back_end_makes_no_file_longer_than_its_drive_needs() {
    let scratch = Scratch::new("longest");
    let disk = scratch.file("disk");
    // A last sector that is not whole, in a last block that is not whole; below 32 clusters and their bits.
    std::fs::write(&disk, vec![0u8; 127 << 10 | 100]).expect("disk");
    for (more, longest) in [(&["-hda", &disk][..], "131072"), (&["-snapshot", "-hda", &disk], "131076")] {
        let start = |args: &[&str]| Vm::start(PROGRAM, args);
        let (_vm, mut monitor) = stopped(start, &scratch.file(longest), more);
        let jails = jails(&mut monitor);
        for (name, longest) in [("bh-block-hda", longest), ("bh-block-hdc", "0")] {
            let limits = proc(jails[name].0, "limits");
            let line = limits.lines().find_map(|line| line.strip_prefix("Max file size")).expect("limit");
            assert_eq!(line.split_whitespace().next(), Some(longest), "{name} {more:?}");
        }
    }
}
