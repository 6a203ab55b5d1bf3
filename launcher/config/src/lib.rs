//! The configuration of one virtual machine, as parsed from the command line and consumed by the broker.
//!
//! Plain data: no file is opened and nothing is checked against the host here.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Everything that the command line says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineConfig {
    /// File name that the program was called by; messages begin with it (`qemu: ...`).
    pub program: String,
    /// Program name family: guest architecture of the launcher used.
    pub target: Target,
    /// `-M`.
    pub machine: Machine,
    /// `-cpu`, as given (`model[,+feature][,-feature]`); empty for the target's default.
    pub cpu: String,
    /// `-smp`, at least 1.
    pub cpus: u32,
    /// `-m`, bytes.
    pub ram_bytes: u64,
    /// `-numa`: the nodes in the order of their numbers, none for a machine of one.
    pub numa: Vec<NumaNode>,
    /// `-hda`..`-hdd`, `-cdrom`, `-drive` and the bare argument, by ascending `index`, no index twice.
    /// As QEMU does, index 2 holds an empty CD-ROM drive when nothing else was put there.
    pub drives: Vec<Drive>,
    /// `-boot`: one to three different letters out of `acdn`, first first. `cad` unless given, as in QEMU.
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
    /// `-serial`, at most 4; defaults applied. Element n is COM(n+1), `CharDevice::None` leaves that port out.
    /// Standard input and output are used at most once over `serials`, `parallels` and `monitor`.
    pub serials: Vec<CharDevice>,
    /// `-parallel`, at most 3; defaults applied.
    pub parallels: Vec<CharDevice>,
    /// `-monitor`; defaults applied. `CharDevice::None` when there is none or when it only lives in a serial port's
    /// `CharDevice::Mux` (`-nographic`: `serials[0]` is `Mux(Stdio)`). A `Mux` here means: the escape keys work on it.
    pub monitor: CharDevice,
    /// `-pidfile`.
    pub pidfile: Option<PathBuf>,
    /// `-S`: do not start the CPU.
    pub stopped: bool,
    /// `-singlestep`.
    pub single_step: bool,
    /// `-icount`, only with one CPU.
    pub icount: Option<Icount>,
    /// `-d` items, each one of the known names, `all` included.
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
    /// `-chroot`.
    pub chroot: Option<PathBuf>,
    /// `-runas`.
    pub run_as: Option<RunAs>,
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
    /// `-trace`.
    pub trace: Trace,
}

/// Log items of `-d` and of the monitor's `log`, with what they log.
pub const LOG_ITEMS: &[(&str, &str)] = &[
    ("out_asm", "generated host code of each translated block"),
    ("in_asm", "guest code of each translated block"),
    ("op", "intermediate code of each translated block"),
    ("op_opt", "intermediate code after liveness analysis"),
    ("int", "interrupts and exceptions, one line each"),
    ("exec", "each translated block that is entered"),
    ("cpu", "CPU state before each block"),
    ("pcall", "far calls, far returns and gates in protected mode"),
    ("cpu_reset", "CPU state before a reset"),
    ("ioport", "every access to an I/O port"),
];

/// Whether `order` can be [`MachineConfig::boot`].
///
/// # Errors
/// Why it cannot.
pub fn check_boot_order(order: &str) -> Result<(), String> {
    if order.is_empty() {
        return Err("no boot device: one to three of a, c, d, n".to_owned());
    }
    for (at, letter) in order.char_indices() {
        if !"acdn".contains(letter) {
            return Err(format!("invalid boot device '{letter}', only a, c, d, n"));
        }
        if order.chars().take(at).any(|other| other == letter) {
            return Err(format!("boot device '{letter}' given twice"));
        }
    }
    if order.len() > 3 {
        return Err("at most three boot devices".to_owned());
    }
    Ok(())
}

impl MachineConfig {
    /// The machine that QEMU 0.10.4 builds when no option is given, called as `program`; but with the standard VGA for its Cirrus, and
    /// without its network card.
    pub fn new(program: &str, target: Target) -> Self {
        MachineConfig {
            program: program.to_owned(),
            target,
            machine: Machine::Pc,
            cpu: String::new(),
            cpus: 1,
            ram_bytes: 128 << 20,
            numa: Vec::new(),
            drives: vec![Drive::empty_cdrom()],
            boot: "cad".to_owned(),
            snapshot: false,
            name: None,
            uuid: None,
            nographic: false,
            vga: Vga::Std,
            kernel: None,
            append: String::new(),
            initrd: None,
            serials: vec![CharDevice::Vc],
            parallels: vec![CharDevice::Vc],
            monitor: CharDevice::Vc,
            pidfile: None,
            stopped: false,
            single_step: false,
            icount: None,
            log_items: Vec::new(),
            firmware_dir: None,
            bios: None,
            no_reboot: false,
            no_shutdown: false,
            daemonize: false,
            chroot: None,
            run_as: None,
            option_roms: Vec::new(),
            rtc: RtcBase::Utc,
            escape_char: 0x01,
            no_acpi: false,
            no_hpet: false,
            no_fd_bootchk: false,
            rtc_td_hack: false,
            win2k_hack: false,
            acpi_tables: Vec::new(),
            smbios: Vec::new(),
            debug_exit: None,
            trace: Trace::default(),
        }
    }
}

/// `-icount`: guest time follows from the number of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Icount {
    /// One instruction every `1 << n` nanoseconds, n at most 10.
    Shift(u8),
    /// As many as keep guest time close to the host's.
    Auto,
}

/// Whom `-runas` names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunAs {
    /// A user of the host, with the group of its entry.
    User(String),
    /// User and group by number.
    Ids(u32, u32),
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
    /// The option that asked for it with its value, for messages; empty when none did.
    pub option: String,
    /// IDE position 0..4: bus = index / 2, unit = index % 2.
    pub index: u8,
    /// Image; `None` is an empty removable drive.
    pub file: Option<PathBuf>,
    /// Disk or CD-ROM.
    pub media: Media,
    /// Forced geometry.
    pub geometry: Option<Geometry>,
    /// `snapshot=on`, or `-snapshot` without `snapshot=off`; never set on a CD-ROM, which is not written anyway.
    pub snapshot: bool,
    /// `cache=`; `None` when not given.
    pub cache: Option<Cache>,
    /// `format=`: only `raw` so far; `None` means probe.
    pub format: Option<String>,
    /// `serial=`, at most 20 ASCII characters.
    pub serial: Option<String>,
}

impl Drive {
    /// The CD-ROM drive without a medium that every machine has at index 2.
    pub fn empty_cdrom() -> Self {
        Drive {
            option: String::new(),
            index: 2,
            file: None,
            media: Media::Cdrom,
            geometry: None,
            snapshot: false,
            cache: None,
            format: None,
            serial: None,
        }
    }
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
    /// A virtual console (needs a display; without one it behaves as `Null`). The size in `vc:WxH` is checked and
    /// will be kept once there are displays.
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
        /// Host name or address, IPv6 without brackets; empty is 0.0.0.0.
        host: String,
        /// Port; 0 (any free one) only with `server`.
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
    /// A fixed start, seconds since 1970-01-01T00:00:00; negative for years before that (years 0 to 9999).
    Start(i64),
}

/// A node of `-numa`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumaNode {
    /// Its memory in bytes; the nodes' follow each other.
    pub bytes: u64,
    /// Its CPUs, in ascending order.
    pub cpus: Vec<u8>,
}

/// `-acpitable`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcpiTable {
    /// `sig=`, 4 printable ASCII bytes.
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
        /// Name and value pairs in command-line order, names unique; `release` is `N.N` with both below 256,
        /// `uuid` has the form 8-4-4-4-12.
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

/// `-trace`: which events are recorded from the start on, and where what is recorded goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// In command-line order; later ones win.
    pub switches: Vec<TraceSwitch>,
    /// `file=`: text. Standard error when none of the three is given.
    pub file: Option<PathBuf>,
    /// `timeline=`: a Perfetto trace.
    pub timeline: Option<PathBuf>,
    /// `logs=`: a folder for one text file per process.
    pub logs: Option<PathBuf>,
}

/// What switches trace events on or off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TraceSwitch {
    /// A name with `*` and `?` as wildcards; with a dash in front it switches off.
    Pattern(String),
    /// A file of such patterns, one a line, `#` begins a comment.
    File(PathBuf),
}
