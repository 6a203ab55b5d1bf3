//! For the fuzzer: a monitor of a machine without processes, whose line editor and commands meet any bytes, and whatever they ask of
//! a device or of the CPU process gets no answer; and trace files.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use bulkhead_bus::bell::{BELL_BYTES, Bell};
use bulkhead_bus::clock::{CLOCK_BYTES, Clock};
use bulkhead_bus::config::FwCfgConfig;
use bulkhead_bus::links::{BYTES_LINK, ByteEnd, Side};
use bulkhead_bus::sys::{Mapping, memfd};
use bulkhead_config::MachineConfig;

use crate::control::CpuLink;
use crate::fail::Fail;
use crate::monitor::{Session, commands};
use crate::trace::{self, Tracing};
use crate::tree::{Parts, Tree};
use crate::vm::Vm;

pub use crate::trace::Rehearsal as Trace;

/// Bytes typed at once.
const PIECE: usize = 64;

/// A machine without processes, and the other end of its messages to the CPU process.
pub(crate) fn machine(config: &MachineConfig) -> std::io::Result<(Vm<'_>, UnixStream)> {
    let fail = |error: Fail| std::io::Error::other(error.to_string());
    let (ours, theirs) = UnixStream::pair()?;
    let (log, _) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let clock = Clock::new(Mapping::anonymous(CLOCK_BYTES)?);
    let mut tracing = Tracing::new(trace::open(&config.trace).map_err(fail)?, Vec::new(), config.cpus);
    tracing.complete().map_err(fail)?;
    let tree = Tree::empty(CpuLink::new(ours.into()), clock, log, tracing);
    let parts = Parts {
        drives: Vec::new(),
        ports: Vec::new(),
        monitor: None,
        bios: Vec::new(),
        vga_bios: None,
        firmware: (FwCfgConfig::default(), Vec::new()),
        cmos: Vec::new(),
    };
    Ok((Vm::new(config, tree, parts), theirs))
}

/// Types `keys` into a monitor; what it prints. Commands that write files do write them.
///
/// # Errors
/// The host's.
pub fn monitor(config: &MachineConfig, keys: &[u8]) -> std::io::Result<Vec<u8>> {
    let (mut vm, cpu) = machine(config)?;
    drop(cpu);
    let memory = memfd("keys", BYTES_LINK as u64)?;
    let end = |side| {
        let bell = Bell::new(Mapping::anonymous(BELL_BYTES)?);
        let link = Mapping::shared(memory.as_fd(), BYTES_LINK, true)?;
        Ok::<_, std::io::Error>(ByteEnd::new(link, bell.into(), side))
    };
    let (theirs, keyboard) = (end(Side::Host)?, end(Side::Device)?);
    let (mut user, stream) = UnixStream::pair()?;
    user.set_nonblocking(true)?;
    let mut session = Session::new(0, stream, theirs);
    let mut output = Vec::new();
    for piece in keys.chunks(PIECE) {
        keyboard.send(piece);
        user.write_all(b"!")?;
        session.serve(&mut vm);
        let mut bytes = [0u8; 4096];
        while let Ok(count @ 1..) = user.read(&mut bytes) {
            output.extend(bytes.get(..count).unwrap_or_default());
            session.flush();
        }
        if vm.exit.is_some() {
            break;
        }
    }
    Ok(output)
}

/// Gives a machine another link to its CPU process, whose messages keep their bounds, as those of a process do; the other end.
#[cfg(test)]
pub(crate) fn packets(vm: &mut Vm<'_>) -> std::os::fd::OwnedFd {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
    let (ours, theirs) = pair.expect("sockets for a test");
    vm.tree.cpu = CpuLink::new(ours);
    theirs
}

/// Says something from that other end.
#[cfg(test)]
pub(crate) fn tell(from: &std::os::fd::OwnedFd, message: &bulkhead_bus::messages::FromCpu) {
    let bytes = bulkhead_bus::wire::encode(message).expect("it fits");
    assert_eq!(nix::unistd::write(from, &bytes), Ok(bytes.len()));
}

/// Runs one line as the monitor does; what it answers.
#[cfg(test)]
pub(crate) fn answer(vm: &mut Vm<'_>, line: &str) -> String {
    let mut out = String::new();
    commands::run(vm, line, &[], &mut out);
    out
}

/// Names of all monitor commands.
pub fn commands() -> Vec<&'static str> {
    commands::completions("")
}
