//! The configuration of one virtual machine, as parsed from the command line and consumed by the broker.
//!
//! Plain data: no file is opened and nothing is checked against the host here.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Everything that the command line says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineConfig {
    /// Program name family: guest architecture of the launcher used.
    pub target: Target,
    /// `-M`.
    pub machine: Machine,
    /// `-cpu`, as given (`model[,+feature][,-feature]`); empty for the target's default.
    pub cpu: String,
    /// `-smp`.
    pub cpus: u32,
    /// `-m`, bytes.
    pub ram_bytes: u64,
    /// `-hda`..`-hdd`, `-cdrom`, `-drive` and the bare argument, in slot order.
    pub drives: Vec<Drive>,
    /// `-boot`: letters out of `acdn`, first first.
    pub boot: String,
    /// `-snapshot`.
    pub snapshot: bool,
    /// `-name`.
    pub name: Option<String>,
    /// `-uuid`.
    pub uuid: Option<[u8; 16]>,
    /// `-nographic`.
    pub nographic: bool,
    /// `-vga`.
    pub vga: Vga,
    /// `-kernel`.
    pub kernel: Option<PathBuf>,
    /// `-append`.
    pub append: String,
    /// `-initrd`.
    pub initrd: Option<PathBuf>,
    /// `-serial`, at most 4; defaults applied.
    pub serials: Vec<CharDevice>,
    /// `-parallel`, at most 3; defaults applied.
    pub parallels: Vec<CharDevice>,
    /// `-monitor`; defaults applied.
    pub monitor: CharDevice,
    /// `-pidfile`.
    pub pidfile: Option<PathBuf>,
    /// `-S`: do not start the CPU.
    pub stopped: bool,
    /// `-d` items.
    pub log_items: Vec<String>,
    /// `-L`.
    pub firmware_dir: Option<PathBuf>,
    /// `-bios`.
    pub bios: Option<String>,
    /// `-no-reboot`.
    pub no_reboot: bool,
    /// `-no-shutdown`.
    pub no_shutdown: bool,
    /// `-daemonize`.
    pub daemonize: bool,
    /// `-option-rom`, at most 16.
    pub option_roms: Vec<PathBuf>,
    /// `-localtime`, `-startdate`.
    pub rtc: RtcBase,
    /// `-echr`: 0x01 unless given.
    pub escape_char: u8,
    /// `-no-acpi`.
    pub no_acpi: bool,
    /// `-no-hpet`.
    pub no_hpet: bool,
    /// `-no-fd-bootchk`.
    pub no_fd_bootchk: bool,
    /// `-rtc-td-hack`.
    pub rtc_td_hack: bool,
    /// `-win2k-hack`.
    pub win2k_hack: bool,
    /// `-acpitable`, each parsed into header fields and files.
    pub acpi_tables: Vec<AcpiTable>,
    /// `-smbios`.
    pub smbios: Vec<Smbios>,
    /// `-device isa-debug-exit`.
    pub debug_exit: Option<DebugExit>,
}

/// Guest architecture of the program used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// `qemu`, `qemu-system-i386`.
    I386,
    /// `qemu-system-x86_64`.
    #[default]
    X86_64,
}

/// `-M`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Machine {
    /// i440FX + PIIX3.
    #[default]
    Pc,
    /// ISA only.
    IsaPc,
}

/// `-vga`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Vga {
    /// Standard VGA with Bochs VBE.
    #[default]
    Std,
    /// No card.
    None,
}

/// One IDE drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drive {
    /// IDE position 0..4: bus = index / 2, unit = index % 2.
    pub index: u8,
    /// Image; `None` is an empty removable drive.
    pub file: Option<PathBuf>,
    /// Disk or CD-ROM.
    pub media: Media,
    /// Forced geometry.
    pub geometry: Option<Geometry>,
    /// `snapshot=on` or `-snapshot`.
    pub snapshot: bool,
    /// `cache=`; `None` when not given.
    pub cache: Option<Cache>,
    /// `format=`; `None` means probe.
    pub format: Option<String>,
    /// `serial=`, at most 20 ASCII characters.
    pub serial: Option<String>,
}

/// `media=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Media {
    /// Hard disk.
    Disk,
    /// ATAPI CD-ROM.
    Cdrom,
}

/// `cache=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cache {
    /// `O_DIRECT`.
    None,
    /// Host page cache.
    Writeback,
    /// Host page cache for reads, `fdatasync` after each write.
    Writethrough,
}

/// Disk geometry, `-hdachs`, `cyls=,heads=,secs=,trans=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Geometry {
    /// 1..=16383.
    pub cylinders: u16,
    /// 1..=16.
    pub heads: u8,
    /// 1..=63.
    pub sectors: u8,
    /// BIOS translation.
    pub translation: Translation,
}

/// BIOS disk translation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Translation {
    /// By size.
    #[default]
    Auto,
    /// None.
    None,
    /// LBA.
    Lba,
}

/// A host character device: where a serial port, parallel port or monitor goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CharDevice {
    /// No device at all (the port does not exist).
    #[default]
    None,
    /// Discards output, never has input.
    Null,
    /// The launcher's standard input and output.
    Stdio,
    /// A virtual console (needs a display; without one it behaves as `Null`).
    Vc,
    /// Output to a file.
    File(PathBuf),
    /// Named pipe: `NAME.in` and `NAME.out` when both exist, else `NAME` for both.
    Pipe(PathBuf),
    /// A new pseudo-terminal, its name printed at start.
    Pty,
    /// A host tty or other character special file.
    Tty(PathBuf),
    /// Unix-domain socket.
    Unix {
        /// Path.
        path: PathBuf,
        /// Listen instead of connect.
        server: bool,
        /// Wait for the first client before the VM starts (server only).
        wait: bool,
    },
    /// TCP.
    Tcp {
        /// Host name or address; empty for any.
        host: String,
        /// Port.
        port: u16,
        /// Listen instead of connect.
        server: bool,
        /// Wait for the first client before the VM starts (server only).
        wait: bool,
        /// Disable Nagle's algorithm.
        nodelay: bool,
    },
    /// `mon:DEV`: shared with the monitor, switched by the escape character.
    Mux(Box<CharDevice>),
}

/// `-localtime`, `-startdate`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RtcBase {
    /// Host time, UTC.
    #[default]
    Utc,
    /// Host time, local.
    Local,
    /// A fixed start, seconds since 1970-01-01T00:00:00.
    Start(i64),
}

/// `-acpitable`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcpiTable {
    /// `sig=`, 4 bytes.
    pub signature: Option<[u8; 4]>,
    /// `rev=`.
    pub revision: Option<u8>,
    /// `oem_id=`, at most 6 bytes.
    pub oem_id: Option<String>,
    /// `oem_table_id=`, at most 8 bytes.
    pub oem_table_id: Option<String>,
    /// `oem_rev=`.
    pub oem_revision: Option<u32>,
    /// `asl_compiler_id=`, at most 4 bytes.
    pub compiler_id: Option<String>,
    /// `asl_compiler_rev=`.
    pub compiler_revision: Option<u32>,
    /// `data=`: files joined by colons.
    pub data: Vec<PathBuf>,
}

/// `-smbios`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Smbios {
    /// A binary entry.
    File(PathBuf),
    /// Fields of type 0 or 1: (field name as on the command line, value).
    Fields {
        /// 0 or 1.
        kind: u8,
        /// Name and value pairs.
        fields: Vec<(String, String)>,
    },
}

/// `-device isa-debug-exit,iobase=N,iosize=N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebugExit {
    /// First port.
    pub iobase: u16,
    /// Ports, 1..=4.
    pub iosize: u16,
}
