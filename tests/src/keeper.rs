//! What a killed test leaves behind is cleared away: its machines and its folders.
//!
//! A test that fails drops its [`crate::Vm`] and its [`crate::Scratch`]; one that is killed (a time limit, `kill -9`) cannot. A
//! parent-death signal does not do: it belongs to the thread that started the machine, which may end before the test, it is lost when
//! the machine changes its user (`-runas`), and it removes no folder. So each program that uses the harness has a keeper: a shell in
//! a session of its own, which reads from a pipe what there is and does its work when the pipe ends, however that comes.

use std::io::{PipeWriter, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// One line a message: `start PID`, `end PID`, `folder PATH`. A folder that is gone by then does no harm, since its name has
/// the test's process id; a process id may be another's, so its end has to be told.
const SCRIPT: &str = r#"
cd /
processes=
while IFS=' ' read -r what value; do
    case $what in
    start) processes="$processes $value" ;;
    end)
        left=
        for process in $processes; do [ "$process" = "$value" ] || left="$left $process"; done
        processes=$left
        ;;
    folder) set -- "$@" "$value" ;;
    esac
done
[ -z "$processes" ] || kill -9 $processes
[ $# -eq 0 ] || rm -rf -- "$@" || { sleep 1; rm -rf -- "$@"; }
"#;

/// The pipe to this program's keeper, which is started by the first use. The shell is collected by whoever inherits it: it ends after
/// this program.
fn keeper() -> &'static PipeWriter {
    static KEEPER: OnceLock<(PipeWriter, Child)> = OnceLock::new();
    let (pipe, _) = KEEPER.get_or_init(|| {
        let (from, to) = std::io::pipe().expect("a pipe");
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "keeper"]).stdin(from).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: one async-signal-safe call. What ends the test's process group must not end the keeper.
        unsafe {
            command.pre_exec(|| match libc::setsid() {
                -1 => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            });
        }
        (to, command.spawn().expect("sh"))
    });
    pipe
}

fn tell(line: &str) {
    // Shorter than PIPE_BUF: lines of several threads do not mix.
    keeper().write_all(line.as_bytes()).expect("the keeper lives as long as its program");
}

/// `start PID` of the calling process, between fork and exec: neither memory is allocated nor a lock taken.
fn announce(pipe: RawFd) -> std::io::Result<()> {
    let mut line = *b"start           \n";
    // SAFETY: getpid has no preconditions.
    let mut rest = unsafe { libc::getpid() }.unsigned_abs();
    for place in line[6..16].iter_mut().rev() {
        if rest > 0 {
            *place = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
    }
    // SAFETY: an array that lives over the call; the pipe lives as long as the program.
    let written = unsafe { libc::write(pipe, line.as_ptr().cast(), line.len()) };
    if written == line.len() as isize { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// The process that `command` will start dies with this program. From when it exists: it tells the keeper itself.
pub fn keep(command: &mut Command) {
    let pipe = keeper().as_raw_fd();
    // SAFETY: `announce` makes async-signal-safe calls only.
    unsafe { command.pre_exec(move || announce(pipe)) };
}

/// A process that somebody else started, a daemon, dies with this program.
pub fn keep_process(pid: u32) {
    tell(&format!("start {pid}\n"));
}

/// A process has been collected: its id may become another's.
pub fn ended(pid: u32) {
    tell(&format!("end {pid}\n"));
}

/// A folder goes when this program does.
///
/// # Panics
/// When its name has a line feed or is not in UTF-8.
pub fn keep_folder(path: &Path) {
    let path = path.to_str().filter(|path| !path.contains('\n')).expect("path in UTF-8");
    assert!(Path::new(path).is_absolute(), "{path}: the keeper works elsewhere");
    tell(&format!("folder {path}\n"));
}
