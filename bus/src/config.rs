//! Configuration of each device role, as the broker writes it into [`crate::manifest::Manifest::config`] and the device reads it.
//!
//! Plain data encoded by [`crate::wire`]: the broker builds these without linking any chip. Roles without an entry here
//! (port 92h, the 8237 pair) have an empty configuration.

use serde::{Deserialize, Serialize};

/// Role `serial`: a 16550A.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialConfig {
    /// Input clock in Hz divided by 16: the bit rate of divisor 1. 115,200 on a PC.
    pub baud_base: u32,
}

impl Default for SerialConfig {
    fn default() -> Self {
        SerialConfig { baud_base: 115_200 }
    }
}

/// Role `rtc`: an MC146818A with 128 bytes of CMOS memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RtcConfig {
    /// Initial CMOS memory: (index, value). Clock and control registers (0x00..=0x0d) and the century (0x32) are the chip's
    /// own and ignored here, but for 0x0a and 0x0b.
    pub cmos: Vec<(u8, u8)>,
    /// Seconds since 1970-01-01T00:00:00 that the clock shows at guest time 0, in the time zone that the guest is to see.
    pub base_seconds: i64,
    /// Nanoseconds into that second, below 1,000,000,000.
    pub base_nanoseconds: u32,
    /// `-rtc-td-hack`: periodic interrupts that the guest was too slow for are made up for later.
    pub time_drift_hack: bool,
}

/// Role `i8042`: keyboard controller with keyboard and mouse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct I8042Config {
    /// A PS/2 mouse is plugged in.
    pub mouse: bool,
}

impl Default for I8042Config {
    fn default() -> Self {
        I8042Config { mouse: true }
    }
}

/// Role `debugports`: the Bochs BIOS ports and `isa-debug-exit`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebugPortsConfig {
    /// Ports of `isa-debug-exit`, 1 to 4; 0 for none.
    pub exit_ports: u8,
}

/// Where the bytes of a fw_cfg item are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FwCfgSource {
    /// Here.
    Inline(Vec<u8>),
    /// In the device's bulk memory.
    Bulk {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u32,
    },
}

/// A fw_cfg item with a fixed key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FwCfgItem {
    /// Selector. The chip makes the signature (0x0000), the interface revision (0x0001) and the directory (0x0019) itself.
    pub key: u16,
    /// Contents, in the byte order that the guest reads.
    pub source: FwCfgSource,
}

/// A fw_cfg item found by name through the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FwCfgFile {
    /// Name, at most 55 bytes of ASCII, e.g. `etc/acpi/tables`.
    pub name: String,
    /// Contents.
    pub source: FwCfgSource,
}

/// Role `fwcfg`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FwCfgConfig {
    /// Items by key.
    pub items: Vec<FwCfgItem>,
    /// Files; the chip gives them keys from 0x20 on in this order and lists them in the directory.
    pub files: Vec<FwCfgFile>,
}

/// Kind of an IDE drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IdeMedia {
    /// ATA hard disk.
    Disk,
    /// ATAPI CD-ROM.
    Cdrom,
}

/// Cylinders, heads, sectors that a disk reports in IDENTIFY DEVICE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdeGeometry {
    /// 1..=16383.
    pub cylinders: u16,
    /// 1..=16.
    pub heads: u8,
    /// 1..=63.
    pub sectors: u8,
}

/// One IDE drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdeDriveConfig {
    /// Disk or CD-ROM.
    pub media: IdeMedia,
    /// Number of the drive's block link in the manifest (`block0`, ...); its size and medium are read from the link.
    pub block: u8,
    /// Serial number, at most 20 ASCII characters.
    pub serial: String,
    /// Model, at most 40 ASCII characters.
    pub model: String,
    /// Firmware revision, at most 8 ASCII characters.
    pub firmware: String,
    /// Geometry of a disk; a CD-ROM has none, whatever is here.
    pub geometry: IdeGeometry,
    /// `-win2k-hack`: the interrupt of every sixteenth PIO write comes a millisecond late, for a driver that fills its disk
    /// with log entries when it comes at once.
    pub slow_writes: bool,
}

/// Role `ide`: both channels of the PIIX3 IDE function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdeConfig {
    /// Primary master, primary slave, secondary master, secondary slave.
    pub drives: [Option<IdeDriveConfig>; 4],
}

/// Role `vga`: standard VGA with Bochs VBE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VgaConfig {
    /// Video memory in bytes, a power of two from 256 KiB to 256 MiB; it is the device's bulk memory.
    pub vram_bytes: u32,
}

impl Default for VgaConfig {
    fn default() -> Self {
        VgaConfig { vram_bytes: 16 << 20 }
    }
}

/// Role `block`: one image.
///
/// Descriptors: `block0` and `block0-peer`, `bell`, `image0`, `overlay` when `snapshot`. The image is opened with `O_DIRECT` for
/// [`BlockCache::None`], read-only when `read_only`; locked by the broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockConfig {
    /// Name for messages, e.g. `hda`.
    pub name: String,
    /// No medium: `image0` is absent.
    pub empty: bool,
    /// Writes fail.
    pub read_only: bool,
    /// Writes go to `overlay`.
    pub snapshot: bool,
    /// Cache mode.
    pub cache: BlockCache,
    /// Image format: `raw`.
    pub format: String,
    /// Size of the image in bytes, as the broker found it (block devices included).
    pub bytes: u64,
}

/// `cache=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlockCache {
    /// `O_DIRECT`: buffers, offsets and lengths must be aligned to the host's block size.
    None,
    /// Host page cache; durable at a flush.
    Writeback,
    /// As write-back, every write followed by `fdatasync`.
    Writethrough,
}

/// Role `char`: one character back end between a byte link (`bytes0`, `bytes0-peer`, this process is [`crate::links::Side::Host`]), a
/// host stream and, for a multiplexer, the monitor.
///
/// Descriptors: `bytes0` (absent for a monitor-only back end), `bell`, then as [`CharKind`] says; what outlives a process: `journal`
/// (its memory), `input-read`, `input-write`, `output-read`, `output-write` (two pipes); when `monitor` is set, `monitor` (a stream
/// socket: what the broker's monitor prints comes out of it, a byte into it says that keys were typed) and `keys` (a byte link
/// to the broker with those keys, this process is [`crate::links::Side::Device`]). Byte streams have no framing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CharConfig {
    /// Host side.
    pub kind: CharKind,
    /// A monitor is attached through the descriptor `monitor`.
    pub monitor: bool,
    /// Input goes through the escape key: `mon:` and `-nographic`. Without it and with a monitor, there is no byte link.
    pub mux: bool,
    /// Escape character (`-echr`).
    pub escape: u8,
    /// Nanoseconds of `CLOCK_MONOTONIC` at the start of the VM, for the time stamps of the escape command `t`.
    pub start_ns: u64,
}

/// Bytes of a character back end's journal.
pub const JOURNAL_BYTES: usize = 0x2000;
/// Offset in it of two notes (see [`crate::attempts::Note`]): what the back end is doing with typed bytes, and with the device's.
pub const JOURNAL_NOTES: usize = 0x600;

/// Host side of a character back end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CharKind {
    /// Output is discarded, no input.
    Null,
    /// Descriptors `input` and `output`, both optional (terminal, file, pipe). End of input ends input only.
    Stream,
    /// Descriptor `input`: a pseudo-terminal master, read and written; its peer may come and go.
    Pty,
    /// Descriptor `clients`: a socket to the broker, which accepts one client at a time, keeps it, and sends it here; a byte
    /// into it says that the client has gone. `client`: the one that is there at start.
    Listen,
    /// Descriptor `client`: a connected stream socket; its end ends the back end's input and output for good.
    Connect,
}
