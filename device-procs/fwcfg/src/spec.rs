//! The QEMU firmware configuration interface, after "QEMU Firmware Configuration (fw_cfg) Device" (docs/specs/fw_cfg.rst), the
//! x86 register layout.

/// Port offset of the selector (0x510), 16 bits, WO.
pub const SELECTOR: u64 = 0;
/// Port offset of the data register (0x511), 8 bits, RO here.
pub const DATA: u64 = 1;
/// Port offset of the DMA address (0x514), 64 bits, big-endian; writing its last byte starts the transfer.
pub const DMA: u64 = 4;
/// Ports.
pub const PORTS: u64 = 12;

/// Key of the signature.
pub const KEY_SIGNATURE: u16 = 0x0000;
/// Key of the interface revision and features.
pub const KEY_ID: u16 = 0x0001;
/// Key of the file directory.
pub const KEY_DIRECTORY: u16 = 0x0019;
/// Key of the first file.
pub const KEY_FILES: u16 = 0x0020;
/// Selector bit of the former write channel; part of no key.
pub const KEY_WRITE: u16 = 0x4000;
/// Selector bit of items that belong to the architecture.
pub const KEY_LOCAL: u16 = 0x8000;

/// Contents of the signature item.
pub const SIGNATURE: &[u8; 4] = b"QEMU";
/// Contents of the DMA address register when read.
pub const DMA_SIGNATURE: &[u8; 8] = b"QEMU CFG";
/// Features: traditional interface and DMA.
pub const FEATURES: u32 = 1 << 0 | 1 << 1;

/// DMA control: an error occurred (set by the device).
pub const CONTROL_ERROR: u32 = 1 << 0;
/// DMA control: copy from the item to memory.
pub const CONTROL_READ: u32 = 1 << 1;
/// DMA control: move on in the item.
pub const CONTROL_SKIP: u32 = 1 << 2;
/// DMA control: select the item in the upper 16 bits first.
pub const CONTROL_SELECT: u32 = 1 << 3;
/// DMA control: copy from memory to the item.
pub const CONTROL_WRITE: u32 = 1 << 4;

/// Bytes of a DMA access structure: control, length, address, all big-endian.
pub const ACCESS_BYTES: usize = 16;
/// Bytes of a name in the directory with its terminating zero.
pub const NAME_BYTES: usize = 56;
/// Bytes of a directory entry: size, key, two reserved bytes, name.
pub const ENTRY_BYTES: usize = 8 + NAME_BYTES;
