//! The table of trace events: the one definition of each, used by the processes that record them and by the broker, which
//! switches, prints and draws them.

/// What one number of a record is and how it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// A number.
    Dec,
    /// A number in hexadecimal.
    Hex,
    /// A device by its index.
    Device,
    /// A register, see [`place`].
    Place,
    /// A request of the device ring, see [`crate::device::kind`], and its register: [`place`] with the kind.
    Request,
    /// A block operation: [`crate::links::BlockOp`] as its number.
    Block,
    /// Outcome of a block request: [`crate::links::BlockStatus`] as its number.
    Status,
    /// A process of the machine by its index.
    Process,
    /// An address space: 0 I/O ports, else memory.
    Space,
    /// How a write goes: [`crate::chip::Class`] as its number.
    Class,
}

/// One record: its text, with `{}` for each of its numbers, and the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Text.
    pub format: &'static str,
    /// Names and kinds of the numbers, at most [`ARGS`].
    pub fields: &'static [(&'static str, Show)],
}

/// Whose events carry this: what records it, and under which name it is switched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The CPU process for itself: `cpu.NAME`.
    Cpu,
    /// The CPU process for each device: `DEVICE.NAME`.
    CpuForDevice,
    /// A device process: `DEVICE.NAME`.
    Device,
    /// The back end of a drive: `block-DRIVE.NAME`.
    Block,
    /// A character back end: `char-NAME.NAME`.
    Char,
    /// The broker: `broker.NAME`.
    Broker,
}

/// The arrow of the timeline that a record begins or ends. Both ends name the same crossing by the same two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crossing {
    /// None.
    None,
    /// A request on a device's ring: device, index.
    Request,
    /// An edge or level of a device's line: device, line and count.
    Line,
    /// A block request on its way to the back end: device and drive, sequence number.
    Block,
    /// The same on its way back.
    BlockDone,
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Name.
    pub name: &'static str,
    /// Who records it.
    pub scope: Scope,
    /// What it is, for `-trace help`.
    pub help: &'static str,
    /// The record, or the first one of an event that lasts.
    pub begin: Line,
    /// The record of its end, if it lasts.
    pub end: Option<Line>,
    /// Arrow at its beginning.
    pub crossing: Crossing,
}

/// Numbers of a record at most.
pub const ARGS: usize = 4;

/// A register as one number of a record: `kind << 56 | region << 48 | size << 40 | offset`, the size as its log2. The kind is 0
/// where the event tells it.
#[inline]
pub fn place(kind: u8, region: u8, offset: u32, size: u8) -> u64 {
    u64::from(kind) << 56 | u64::from(region) << 48 | u64::from(size) << 40 | u64::from(offset)
}

/// Index of an event in [`EVENTS`].
pub type Id = usize;

/// `events! { ID, "name", Scope, Crossing, "help", begin, end? }`: the table and a constant for each row.
macro_rules! events {
    ($($id:ident, $name:literal, $scope:ident, $crossing:ident, $help:literal,
        $begin:literal [$($field:ident $show:ident),*]
        $(, $end:literal [$($end_field:ident $end_show:ident),*])?;)*) => {
        /// Every event. The order of events that cause each other is that of the causes.
        pub const EVENTS: &[Event] = &[$(Event {
            name: $name,
            scope: Scope::$scope,
            help: $help,
            begin: Line { format: $begin, fields: &[$((stringify!($field), Show::$show)),*] },
            end: events!(@end $($end [$($end_field $end_show),*])?),
            crossing: Crossing::$crossing,
        }),*];
        events!(@ids 0; $($id)*);
    };
    (@end) => { None };
    (@end $end:literal [$($field:ident $show:ident),*]) => {
        Some(Line { format: $end, fields: &[$((stringify!($field), Show::$show)),*] })
    };
    (@ids $n:expr; $id:ident $($rest:ident)*) => {
        #[doc = concat!("Index of `", stringify!($id), "`.")]
        pub const $id: Id = $n;
        events!(@ids $n + 1; $($rest)*);
    };
    (@ids $n:expr;) => {};
}

#[rustfmt::skip]
events! {
    CPU_READ, "cpu_read", CpuForDevice, Request, "the CPU reads a register of the device and waits for the answer",
        "request {} {}" [request Dec, register Place], "request {} value {}" [request Dec, value Hex];
    CPU_READ_MIRROR, "cpu_read_mirror", CpuForDevice, None, "the CPU reads a register that the device keeps in shared memory",
        "{} value {}" [register Place, value Hex];
    CPU_WRITE, "cpu_write", CpuForDevice, Request, "the CPU writes a register of the device, and waits for it unless posted",
        "request {} {} value {} {}" [request Dec, register Place, value Hex, class Class], "request {}" [request Dec];
    CPU_READ_BLOCK, "cpu_read_block", CpuForDevice, Request, "rep ins: the CPU reads many units of one register",
        "request {} {} bytes {}" [request Dec, register Place, bytes Dec], "request {} filled {}" [request Dec, filled Dec];
    CPU_WRITE_BLOCK, "cpu_write_block", CpuForDevice, Request, "rep outs: the CPU writes many units to one register",
        "request {} {} bytes {}" [request Dec, register Place, bytes Dec], "request {}" [request Dec];
    CPU_RESET, "cpu_reset", CpuForDevice, Request, "the CPU process resets the device",
        "request {}" [request Dec], "request {}" [request Dec];
    REQUEST, "request", Device, Request, "the device serves a request of the CPU",
        "request {} {} value {}" [request Dec, register Request, value Hex], "request {} response {}" [request Dec, response Hex];
    TIMER, "timer", Device, None, "the device's deadline has passed",
        "now {}" [now Dec], "" [];
    LINK, "link", Device, None, "something came over a link of the device",
        "" [], "" [];
    CONTROL, "control", Device, None, "the device answers the monitor",
        "request {}" [request Dec], "request {} status {}" [request Dec, status Dec];
    DMA_READ, "dma_read", Device, None, "the device reads guest memory",
        "address {} bytes {}" [address Hex, bytes Dec];
    DMA_WRITE, "dma_write", Device, None, "the device writes guest memory",
        "address {} bytes {}" [address Hex, bytes Dec];
    BLOCK_SUBMIT, "block_submit", Device, Block, "the device asks a drive",
        "drive {} sequence {} offset {} {}" [drive Dec, sequence Dec, offset Dec, operation Block];
    BLOCK_RUN, "block_run", Block, Block, "the back end runs a request",
        "sequence {} offset {} {}" [sequence Dec, offset Dec, operation Block], "sequence {} {}" [sequence Dec, status Status];
    BLOCK_COMPLETE, "block_complete", Block, BlockDone, "the back end reports the outcome of a request",
        "sequence {} {}" [sequence Dec, status Status];
    BLOCK_DONE, "block_done", Device, BlockDone, "the device takes the outcome of a request",
        "drive {} sequence {} {}" [drive Dec, sequence Dec, status Status];
    BYTES_OUT, "bytes_out", Device, None, "the device sends bytes to its character back end",
        "link {} bytes {}" [link Dec, bytes Dec];
    CHAR_OUT, "char_out", Char, None, "the back end takes bytes from the device",
        "bytes {}" [bytes Dec];
    CHAR_IN, "char_in", Char, None, "the back end gives bytes to the device",
        "bytes {}" [bytes Dec];
    BYTES_IN, "bytes_in", Device, None, "the device takes bytes from its character back end",
        "link {} bytes {}" [link Dec, bytes Dec];
    LINE, "line", Device, Line, "an output line of the device changes",
        "line {} level {} edges {} value {}" [line Dec, level Dec, edges Dec, value Hex];
    CPU_LINE, "cpu_line", CpuForDevice, Line, "the CPU process sees a changed line of the device",
        "line {} level {} edges {}" [line Dec, level Dec, edges Dec];
    INTERRUPT, "interrupt", Cpu, None, "the CPU takes an interrupt",
        "vector {}" [vector Hex];
    HALT, "halt", Cpu, None, "the CPU sleeps until something happens",
        "" [], "" [];
    CHIP_READ, "chip_read", Cpu, None, "the CPU reads a chip in its own process: interrupt controllers, timers, bridges",
        "{} {} size {} value {}" [space Space, address Hex, size Dec, value Hex];
    CHIP_WRITE, "chip_write", Cpu, None, "the CPU writes a chip in its own process",
        "{} {} size {} value {}" [space Space, address Hex, size Dec, value Hex];
    PROCESS_END, "process_end", Broker, None, "a process has died",
        "{} pid {}" [process Process, pid Dec];
    PROCESS_START, "process_start", Broker, None, "a successor is started",
        "{} pid {}" [process Process, pid Dec];
    PROCESS_READY, "process_ready", Broker, None, "a successor serves",
        "{} pid {}" [process Process, pid Dec];
}

const _: () = assert!(EVENTS.len() <= 64, "one bit of a switch word each");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_a_place_for_each_of_its_numbers_and_names_are_used_once() {
        for (at, event) in EVENTS.iter().enumerate() {
            assert!(EVENTS[..at].iter().all(|other| other.name != event.name), "{} twice", event.name);
            assert!(event.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", event.name);
            assert!(!event.help.is_empty(), "{}", event.name);
            for line in [Some(event.begin), event.end].into_iter().flatten() {
                assert_eq!(line.format.matches("{}").count(), line.fields.len(), "{}", event.name);
                assert!(line.fields.len() <= ARGS, "{}", event.name);
            }
        }
        assert_eq!(EVENTS[CPU_READ].name, "cpu_read");
        assert_eq!(EVENTS[PROCESS_READY].name, "process_ready");
    }

    #[test]
    fn a_crossing_has_both_ends_and_the_cause_comes_first() {
        for crossing in [Crossing::Request, Crossing::Line, Crossing::Block, Crossing::BlockDone] {
            let ends: Vec<Scope> =
                EVENTS.iter().filter(|event| event.crossing == crossing).map(|event| event.scope).collect();
            let (first, last) = (ends.first().expect("an end"), ends.last().expect("an end"));
            assert_ne!(first, last, "{crossing:?}");
        }
        const { assert!(CPU_READ < REQUEST && REQUEST < LINE && LINE < CPU_LINE && BLOCK_SUBMIT < BLOCK_RUN) };
    }
}
