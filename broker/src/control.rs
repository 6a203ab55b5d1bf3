//! The broker's end of the control socket to the CPU process.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use bulkhead_bus::messages::{FromCpu, PACKET_MAX, Query, ToCpu};
use bulkhead_bus::wire;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};

use crate::vm::Vm;

/// Longest wait for an answer of the CPU process.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Longest wait for all answers that one monitor command needs, or one part of what it gets in parts.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);
/// Messages kept while an answer is being waited for; an honest CPU process sends a few.
const QUEUE_MAX: usize = 64;
/// Bytes of its notes that are shown at most.
const NOTES_MAX: usize = 64 << 10;

/// Messages to and from the CPU process; its words are claims.
#[derive(Debug)]
pub struct CpuLink {
    socket: OwnedFd,
    /// Arrived while an answer was being waited for.
    queue: VecDeque<FromCpu>,
    next: u32,
    closed: bool,
    /// A stop has been asked for and not been answered.
    stopping: bool,
    /// That answer has come and nobody has taken it.
    stood: bool,
    /// Waiting that is left to the command under way.
    patience: Duration,
    /// Bytes of notes so far.
    noted: usize,
}

impl CpuLink {
    /// Over the broker's end.
    pub fn new(socket: OwnedFd) -> CpuLink {
        CpuLink {
            socket,
            queue: VecDeque::new(),
            next: 1,
            closed: false,
            stopping: false,
            stood: false,
            patience: COMMAND_LIMIT,
            noted: 0,
        }
    }

    /// For the event loop.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether messages wait that the socket no longer shows.
    pub fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// A machine that stands is let run: that it had switched itself off before is no news any more.
    pub fn forget_power_off(&mut self) {
        self.queue.retain(|message| *message != FromCpu::PowerOff);
    }

    /// Whether the CPU process has closed its end.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Sends; a process that is gone is noticed elsewhere, and one that never reads its messages gets no more of them.
    pub fn send(&self, message: &ToCpu) {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        if let Ok(bytes) = wire::encode(message) {
            while send(self.socket.as_raw_fd(), &bytes, flags) == Err(Errno::EINTR) {}
        }
    }

    /// A new monitor command begins, or the next part of one that goes well: it may wait anew.
    pub fn begin_command(&mut self) {
        self.patience = COMMAND_LIMIT;
    }

    /// A note that is to be shown; nothing once there were too many.
    pub fn note(&mut self, text: String) -> Option<String> {
        self.noted = self.noted.saturating_add(text.len());
        (self.noted <= NOTES_MAX).then_some(text)
    }

    /// Next message, waiting at most `timeout` for one.
    pub fn receive(&mut self, timeout: Duration) -> Option<FromCpu> {
        self.queue.pop_front().or_else(|| self.fetch(timeout))
    }

    fn fetch(&mut self, timeout: Duration) -> Option<FromCpu> {
        let wait = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        if !matches!(poll(&mut fds, wait), Ok(1..)) {
            return None;
        }
        let mut packet = vec![0u8; PACKET_MAX];
        match recv(self.socket.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => {
                self.closed = true;
                None
            }
            Ok(len) => {
                let message = wire::decode(packet.get(..len)?).ok();
                // Whoever waits for what: this one must not be lost.
                if message == Some(FromCpu::Stopped) {
                    self.stood |= std::mem::take(&mut self.stopping);
                }
                message
            }
            Err(_) => None,
        }
    }

    /// The next message that is there, if `wanted` turns it into a value; others are kept for the event loop.
    fn sort<T>(&mut self, wanted: &mut impl FnMut(FromCpu) -> Result<T, FromCpu>) -> Option<T> {
        match self.fetch(Duration::ZERO).map(wanted) {
            Some(Ok(value)) => return Some(value),
            // Nothing is done about these later, and a wish for another processor comes again. What is kept must not be crowded out: the
            // guest stands until it is heard that it has reset the machine.
            Some(Err(
                FromCpu::Reply { .. }
                | FromCpu::Ready
                | FromCpu::Running
                | FromCpu::Stopped
                | FromCpu::Crowded(_),
            )) => {}
            Some(Err(other)) if self.queue.len() < QUEUE_MAX => self.queue.push_back(other),
            Some(Err(_)) | None => {}
        }
        None
    }

    /// Asks the virtual CPUs to stop, once until they have answered: no answer may come when they run again.
    pub fn ask_to_stop(&mut self) {
        if !self.stopping && !self.stood {
            self.send(&ToCpu::Stop);
            self.stopping = true;
        }
    }

    /// Whether they stand since this was last asked, however late.
    pub fn take_stood(&mut self) -> bool {
        std::mem::take(&mut self.stood)
    }

    fn number(&mut self) -> u32 {
        self.next = self.next.wrapping_add(1);
        self.next
    }
}

impl Vm<'_> {
    /// Waits for a message that `wanted` turns into a value; others are kept for the event loop. Meanwhile it attends to what keeps the CPU
    /// process from answering.
    fn await_message<T>(&mut self, mut wanted: impl FnMut(FromCpu) -> Result<T, FromCpu>) -> Option<T> {
        let start = Instant::now();
        let limit = ANSWER_LIMIT.min(self.tree.cpu.patience);
        let mut answer = None;
        while !self.tree.cpu.closed && answer.is_none() && start.elapsed() < limit {
            self.attend(limit.saturating_sub(start.elapsed()));
            answer = self.tree.cpu.sort(&mut wanted);
        }
        self.tree.cpu.patience = self.tree.cpu.patience.saturating_sub(start.elapsed());
        answer
    }

    /// Stops the virtual CPUs. False when they do not yet.
    pub(crate) fn stop_cpus(&mut self) -> bool {
        self.tree.cpu.begin_command();
        self.tree.cpu.ask_to_stop();
        if !self.tree.cpu.stood {
            let wanted = |message| if message == FromCpu::Stopped { Ok(()) } else { Err(message) };
            self.await_message(wanted);
        }
        self.tree.cpu.take_stood()
    }

    fn answer_of_cpus(&mut self, id: u32) -> Result<Vec<u8>, String> {
        let wanted = |message| match message {
            FromCpu::Reply { id: of, result } if of == id => Ok(result),
            other => Err(other),
        };
        self.await_message(wanted).unwrap_or_else(|| Err("the CPU process does not answer".to_owned()))
    }

    /// Asks for a table or values.
    ///
    /// # Errors
    /// One line.
    pub(crate) fn query(&mut self, what: Query) -> Result<Vec<u8>, String> {
        let id = self.tree.cpu.number();
        self.tree.cpu.send(&ToCpu::Query { id, what });
        self.answer_of_cpus(id)
    }

    /// Asks for memory as the monitor's CPU sees it, at most [`bulkhead_bus::messages::READ_MAX`] bytes.
    ///
    /// # Errors
    /// One line.
    pub(crate) fn read_memory(&mut self, linear: bool, addr: u64, len: u32) -> Result<Vec<u8>, String> {
        let (id, cpu) = (self.tree.cpu.number(), self.cpu);
        self.tree.cpu.send(&ToCpu::ReadMemory { id, cpu, linear, addr, len });
        let bytes = self.answer_of_cpus(id)?;
        if bytes.len() == len as usize {
            Ok(bytes)
        } else {
            Err("short answer of the CPU process".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_bus::messages::READ_MAX;
    use bulkhead_config::{MachineConfig, Target};
    use bulkhead_tests::Scratch;

    use super::*;
    use crate::rehearsal::{self, answer};

    #[test]
    fn messages_that_come_again_or_mean_nothing_do_not_crowd_out_a_reset_by_the_guest() {
        let config = MachineConfig::new("qemu", Target::X86_64);
        let (mut vm, _) = rehearsal::machine(&config).expect("sockets for a test");
        let theirs = rehearsal::packets(&mut vm);
        let many = [FromCpu::Running, FromCpu::Crowded(1)].into_iter().cycle().take(QUEUE_MAX * 2);
        for message in many.chain([FromCpu::GuestReset, FromCpu::Stopped]) {
            rehearsal::tell(&theirs, &message);
        }
        assert!(vm.stop_cpus());
        assert_eq!(vm.tree.cpu.queue, [FromCpu::GuestReset]);
    }

    #[test]
    fn each_part_of_a_long_save_may_take_its_time_and_an_error_tells_how_far_it_came() {
        let config = MachineConfig::new("qemu", Target::X86_64);
        let (mut vm, _) = rehearsal::machine(&config).expect("sockets for a test");
        let theirs = rehearsal::packets(&mut vm);
        // It can read the first two parts.
        let cpu = std::thread::spawn(move || {
            for _ in 0..5 {
                let mut bytes = [0; 256];
                let len = recv(theirs.as_raw_fd(), &mut bytes, MsgFlags::empty()).expect("a request");
                let request = wire::decode(&bytes[..len]).expect("a request");
                let ToCpu::ReadMemory { id, addr, len, .. } = request else { panic!("no read: {request:?}") };
                let read = addr < 2 * u64::from(READ_MAX);
                let result = if read { Ok(vec![0; len as usize]) } else { Err("not mapped".to_owned()) };
                rehearsal::tell(&theirs, &FromCpu::Reply { id, result });
            }
        });
        let scratch = Scratch::new("pmemsave");
        let name = scratch.file("saved");
        let mut save = |parts| {
            let out = answer(&mut vm, &format!("pmemsave 0 {} \"{name}\"", parts * READ_MAX));
            (out, vm.tree.cpu.patience)
        };
        assert_eq!(save(2), (String::new(), COMMAND_LIMIT));
        let (said, patience) = save(3);
        let saved = std::fs::read(&name).expect("it was made").len();
        assert_eq!(saved, 2 * READ_MAX as usize);
        assert_eq!(said, format!("not mapped ({saved} of {} bytes done)\n", 3 * READ_MAX));
        assert!(patience < COMMAND_LIMIT, "the part that failed has cost some");
        cpu.join().expect("five requests");
    }
}
