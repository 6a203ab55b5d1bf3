//! What a child process is told at start: its role, its file descriptors by name, its configuration.
//!
//! The broker passes descriptors from 3 on and puts the encoded [`Manifest`] in the sealed memfd at descriptor 3.
//! Nothing is opened by the child.

use serde::{Deserialize, Serialize};

/// First inherited descriptor: the manifest.
pub const MANIFEST_FD: i32 = 3;

/// Start-up description of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Process name as `ps` shows it, e.g. `bh-serial0`.
    pub name: String,
    /// Role, choosing the jail policy, e.g. `serial`.
    pub role: String,
    /// Descriptors by name, see [`fd`].
    pub fds: Vec<(String, i32)>,
    /// Device configuration, encoded by [`crate::wire`] as the role's own type.
    pub config: Vec<u8>,
    /// Number of this device's outputs in the interrupt page, see [`crate::irq`].
    pub source: u32,
    /// Bytes of guest RAM in the RAM memfd (when passed).
    pub ram_bytes: u64,
    /// Bytes of the bulk memory, 0 for none.
    pub bulk_bytes: u64,
    /// User and group to run as when started by root.
    pub run_as: Option<(u32, u32)>,
}

/// Names of descriptors in a manifest.
pub mod fd {
    /// The device's memfd (ring, state, mirror, control mailbox).
    pub const DEVICE: &str = "device";
    /// The interrupt page memfd.
    pub const IRQ: &str = "irq";
    /// The clock page memfd (read-only use).
    pub const CLOCK: &str = "clock";
    /// Guest RAM memfd.
    pub const RAM: &str = "ram";
    /// Code and dirty bitmap memfd.
    pub const CODE: &str = "code";
    /// The device's bulk memory memfd.
    pub const BULK: &str = "bulk";
    /// The process's own bell page.
    pub const BELL: &str = "bell";
    /// The vCPU's bell page.
    pub const CPU_BELL: &str = "cpu-bell";
    /// Suffix of the bell page of a link's other end: `bytes0-peer`, `block1-peer`.
    pub const PEER_BELL: &str = "-peer";
    /// Byte link memfd, numbered: `bytes0`, ...
    pub const BYTES: &str = "bytes";
    /// Block link memfd, numbered: `block0`, ...
    pub const BLOCK: &str = "block";
    /// Socket over which the process reports from its jail.
    pub const REPORT: &str = "report";
    /// Prefix of the namespaces to join: `ns-user`, `ns-mnt`, ...; the one for users first.
    pub const NAMESPACE: &str = "ns-";
    /// Folder of `-chroot`, which becomes the root.
    pub const ROOT: &str = "root";
    /// The process's own trace file, see [`crate::trace`].
    pub const TRACE: &str = "trace";
    /// Control socket (CPU process and back ends that talk to the broker by messages).
    pub const CONTROL: &str = "control";
    /// Image files of a block back end, numbered: `image0` (top), ...
    pub const IMAGE: &str = "image";
    /// What a character back end must remember beyond its death.
    pub const JOURNAL: &str = "journal";
    /// Socket that brings clients to a character back end.
    pub const CLIENTS: &str = "clients";
    /// Keys for the monitor, a byte link.
    pub const KEYS: &str = "keys";
    /// Socket to the broker's monitor: what it prints.
    pub const MONITOR: &str = "monitor";
    /// Temporary overlay file of `-snapshot`.
    pub const OVERLAY: &str = "overlay";
    /// Page of a process that waits for its predecessor's death, see [`crate::standby`].
    pub const STANDBY: &str = "standby";
}
