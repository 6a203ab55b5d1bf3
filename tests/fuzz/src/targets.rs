//! What is fuzzed. A new device joins by a line of [`TARGETS`].

mod board;
mod bus;
mod chips;
mod device;
mod images;
mod messages;
mod planted;
mod text;

use bulkhead_debugports::DebugPorts;
use bulkhead_dma8237::Dma8237;
use bulkhead_i8042::I8042;
use bulkhead_parallel1284::Parallel1284;
use bulkhead_port92::Port92;
use bulkhead_rtc146818::Rtc146818;
use bulkhead_serial16550::Uart16550;
use bulkhead_template::Countdown;

use bulkhead_bus::config::{DebugPortsConfig, I8042Config, RtcConfig, SerialConfig};
use bulkhead_bus::storm::Setup;
use chips::storm;

/// One thing to fuzz.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name on the command line and of the corpus.
    pub name: &'static str,
    /// One line for the list.
    pub what: &'static str,
    /// Runs an input; panics when something is wrong.
    pub run: fn(&[u8]),
    /// Byte strings that mean something to it.
    pub words: fn() -> Vec<Vec<u8>>,
}

const fn target(name: &'static str, what: &'static str, run: fn(&[u8])) -> Target {
    Target { name, what, run, words: Vec::new }
}

/// Nothing connected.
const ALONE: Setup =
    Setup { bytes: 0, blocks: 0, bulk: 0, may_lower: &[], takes_time: &[], ram: false, steps: 0 };

/// Everything. Chips: registers, time, control requests, links, DMA and resets, beside a twin that is replaced after every step.
pub const TARGETS: &[Target] = &[
    target("serial16550", "registers of the serial port", |bytes| {
        let setup = Setup { bytes: 1, may_lower: &[(0, 0)], ..ALONE };
        storm(bytes, || Uart16550::new(&SerialConfig::default()), setup);
    }),
    target("parallel1284", "registers of the parallel port", |bytes| {
        storm(bytes, Parallel1284::new, Setup { bytes: 1, ..ALONE });
    }),
    target("rtc146818", "registers of the clock", |bytes| {
        storm(
            bytes,
            || Rtc146818::new(&RtcConfig { base_seconds: 1_709_164_798, ..RtcConfig::default() }),
            ALONE,
        );
    }),
    target("rtc146818-hack", "registers of the clock with -rtc-td-hack", |bytes| {
        storm(bytes, || Rtc146818::new(&RtcConfig { time_drift_hack: true, ..RtcConfig::default() }), ALONE);
    }),
    target("i8042", "registers of the keyboard controller, keys, mouse", |bytes| {
        storm(bytes, || I8042::new(&I8042Config::default()), ALONE);
    }),
    target("port92", "registers of port 92h", |bytes| storm(bytes, Port92::new, ALONE)),
    target("debugports", "registers of the debug ports", |bytes| {
        let make = || DebugPorts::new(&DebugPortsConfig { exit_ports: 4 }).expect("valid configuration");
        storm(bytes, make, Setup { bytes: 1, ..ALONE });
    }),
    target("dma8237", "registers of the DMA controllers", |bytes| storm(bytes, Dma8237::new, ALONE)),
    target("fwcfg", "registers and DMA of the firmware configuration", chips::fwcfg),
    target("piix3ide", "registers, DMA and drives of the IDE function", chips::ide),
    target("vga", "registers and video memory of the video card", chips::vga),
    target("template", "registers of the example device", |bytes| storm(bytes, Countdown::new, ALONE)),
    target("board", "the chips inside the CPU process, machine pc", board::pc),
    target("board-isa", "the same, machine isapc", board::isa),
    target("port", "the CPU's end of the bus against a device that lies", bus::port),
    target("dead", "the broker's stand-in for a dead device against a CPU process that lies", bus::dead),
    target("mailbox", "the broker's end of a device against a device that lies", bus::mailbox),
    target("trace", "the broker's end of a trace file against a process that lies", bus::trace),
    target("device", "a device process's code against everybody who lies", device::device),
    target("byte-link", "both ends of a byte link against peers that lie", bus::byte_link),
    target("block-link", "both ends of a block link against peers that lie", bus::block_link),
    target("guest-ram", "guest memory and the code bitmaps against peers that lie", bus::guest_ram),
    target("raw", "raw images of odd and wrong sizes against a model", images::raw),
    target("overlay", "the overlay of -snapshot against a model, with successors", images::overlay),
    target("block-server", "the block back end's requests against a device that lies", images::server),
    target("kernel", "files given to -kernel: Linux and multiboot", images::kernel),
    Target {
        name: "monitor",
        what: "keystrokes and commands of the monitor",
        run: text::monitor,
        words: text::monitor_words,
    },
    Target {
        name: "command-line",
        what: "command lines with every option",
        run: text::command_line,
        words: text::option_words,
    },
    target("escape-key", "the terminal multiplexer and its time stamps", text::escape_key),
    target("messages", "manifests, configurations, messages of every process", messages::decode),
    target("configurations", "chips built from configurations that nobody checked", messages::build),
];

/// The target of that name; faults on purpose (`planted.rs`) have one too.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().chain(planted::PLANTED).find(|target| target.name == name)
}
