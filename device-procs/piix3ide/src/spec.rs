//! Registers and commands. Sources: Intel 82371SB (PIIX3) datasheet, 290550-002, chapters 2.3 and 5.2; ATA/ATAPI-6 (T13/1410D
//! revision 3b); MMC-3 (NCITS T10/1363-D) for packet commands.

/// Command block offsets (regions 0 and 2). Names are the read ones; writes to 1 are FEATURES, to 7 COMMAND.
pub mod reg {
    /// RW 8/16/32: data port.
    pub const DATA: u64 = 0;
    /// RO: error; WO: features.
    pub const ERROR: u64 = 1;
    /// RW: sector count (interrupt reason of packet commands).
    pub const COUNT: u64 = 2;
    /// RW: LBA 7:0.
    pub const LBA_LOW: u64 = 3;
    /// RW: LBA 15:8 (byte count low of packet commands).
    pub const LBA_MID: u64 = 4;
    /// RW: LBA 23:16 (byte count high).
    pub const LBA_HIGH: u64 = 5;
    /// RW: device.
    pub const DEVICE: u64 = 6;
    /// RO: status, reading it clears the interrupt; WO: command.
    pub const STATUS: u64 = 7;
}

/// Status register bits (ATA/ATAPI-6, 7.15).
pub mod status {
    /// Error (CHK for packet commands).
    pub const ERR: u8 = 0x01;
    /// Data request.
    pub const DRQ: u8 = 0x08;
    /// Seek complete, "deferred write error" bit position aside.
    pub const DSC: u8 = 0x10;
    /// Device ready.
    pub const DRDY: u8 = 0x40;
    /// Busy.
    pub const BSY: u8 = 0x80;
}

/// Error register bits (7.8).
pub mod error {
    /// Command aborted.
    pub const ABRT: u8 = 0x04;
    /// Address not found.
    pub const IDNF: u8 = 0x10;
    /// Uncorrectable data.
    pub const UNC: u8 = 0x40;
}

/// Device register bits (7.6).
pub mod device {
    /// LBA addressing.
    pub const LBA: u8 = 0x40;
    /// Device 1 selected.
    pub const DEV: u8 = 0x10;
    /// Obsolete bits that read as one.
    pub const OBSOLETE: u8 = 0xa0;
}

/// Device control register bits (7.5).
pub mod control {
    /// Interrupts off.
    pub const NIEN: u8 = 0x02;
    /// Software reset.
    pub const SRST: u8 = 0x04;
    /// Reads give the previous contents of the LBA and count registers.
    pub const HOB: u8 = 0x80;
}

/// Interrupt reason in the count register (ATA/ATAPI-6, 9.9).
pub mod reason {
    /// Command packet, not data.
    pub const CD: u8 = 0x01;
    /// To the host.
    pub const IO: u8 = 0x02;
}

/// Command codes (chapter 8).
#[expect(missing_docs, reason = "the standard's own names")]
pub mod command {
    pub const NOP: u8 = 0x00;
    pub const DEVICE_RESET: u8 = 0x08;
    pub const RECALIBRATE: u8 = 0x10;
    pub const READ_SECTORS: u8 = 0x20;
    pub const READ_SECTORS_NO_RETRY: u8 = 0x21;
    pub const READ_SECTORS_EXT: u8 = 0x24;
    pub const READ_DMA_EXT: u8 = 0x25;
    pub const READ_NATIVE_MAX_EXT: u8 = 0x27;
    pub const READ_MULTIPLE_EXT: u8 = 0x29;
    pub const WRITE_SECTORS: u8 = 0x30;
    pub const WRITE_SECTORS_NO_RETRY: u8 = 0x31;
    pub const WRITE_SECTORS_EXT: u8 = 0x34;
    pub const WRITE_DMA_EXT: u8 = 0x35;
    pub const WRITE_MULTIPLE_EXT: u8 = 0x39;
    pub const WRITE_MULTIPLE_FUA_EXT: u8 = 0xce;
    pub const WRITE_DMA_FUA_EXT: u8 = 0x3d;
    pub const READ_VERIFY: u8 = 0x40;
    pub const READ_VERIFY_NO_RETRY: u8 = 0x41;
    pub const READ_VERIFY_EXT: u8 = 0x42;
    pub const SEEK: u8 = 0x70;
    pub const DIAGNOSTIC: u8 = 0x90;
    pub const INITIALIZE_PARAMETERS: u8 = 0x91;
    pub const PACKET: u8 = 0xa0;
    pub const IDENTIFY_PACKET: u8 = 0xa1;
    pub const SMART: u8 = 0xb0;
    pub const READ_MULTIPLE: u8 = 0xc4;
    pub const WRITE_MULTIPLE: u8 = 0xc5;
    pub const SET_MULTIPLE: u8 = 0xc6;
    pub const READ_DMA: u8 = 0xc8;
    pub const READ_DMA_NO_RETRY: u8 = 0xc9;
    pub const WRITE_DMA: u8 = 0xca;
    pub const WRITE_DMA_NO_RETRY: u8 = 0xcb;
    pub const STANDBY_IMMEDIATE: u8 = 0xe0;
    pub const IDLE_IMMEDIATE: u8 = 0xe1;
    pub const STANDBY: u8 = 0xe2;
    pub const IDLE: u8 = 0xe3;
    pub const CHECK_POWER_MODE: u8 = 0xe5;
    pub const SLEEP: u8 = 0xe6;
    pub const FLUSH_CACHE: u8 = 0xe7;
    pub const FLUSH_CACHE_EXT: u8 = 0xea;
    pub const IDENTIFY: u8 = 0xec;
    pub const SET_FEATURES: u8 = 0xef;
    pub const READ_NATIVE_MAX: u8 = 0xf8;
}

/// Packet commands (MMC-3, SPC-2).
#[expect(missing_docs, reason = "the standard's own names")]
pub mod packet {
    pub const TEST_UNIT_READY: u8 = 0x00;
    pub const REQUEST_SENSE: u8 = 0x03;
    pub const INQUIRY: u8 = 0x12;
    pub const MODE_SENSE_6: u8 = 0x1a;
    pub const START_STOP_UNIT: u8 = 0x1b;
    pub const PREVENT_ALLOW: u8 = 0x1e;
    pub const READ_CAPACITY: u8 = 0x25;
    pub const READ_10: u8 = 0x28;
    pub const SEEK_10: u8 = 0x2b;
    pub const READ_TOC: u8 = 0x43;
    pub const GET_CONFIGURATION: u8 = 0x46;
    pub const GET_EVENT_STATUS: u8 = 0x4a;
    pub const READ_DISC_INFORMATION: u8 = 0x51;
    pub const MODE_SENSE_10: u8 = 0x5a;
    pub const READ_12: u8 = 0xa8;
    pub const SET_CD_SPEED: u8 = 0xbb;
    pub const MECHANISM_STATUS: u8 = 0xbd;
    pub const READ_CD: u8 = 0xbe;
}

/// Sense keys with additional sense codes (SPC-2, table 107 and annex C): key, code, qualifier.
#[expect(missing_docs, reason = "the standard's own names")]
pub mod sense {
    pub const NONE: (u8, u8, u8) = (0, 0, 0);
    pub const NO_MEDIUM: (u8, u8, u8) = (2, 0x3a, 0);
    pub const TRAY_OPEN: (u8, u8, u8) = (2, 0x3a, 2);
    pub const READ_ERROR: (u8, u8, u8) = (3, 0x11, 0);
    pub const INVALID_OPCODE: (u8, u8, u8) = (5, 0x20, 0);
    pub const OUT_OF_RANGE: (u8, u8, u8) = (5, 0x21, 0);
    pub const INVALID_FIELD: (u8, u8, u8) = (5, 0x24, 0);
    pub const MEDIUM_LOCKED: (u8, u8, u8) = (5, 0x53, 2);
    pub const SAVING_NOT_SUPPORTED: (u8, u8, u8) = (5, 0x39, 0);
    pub const MEDIUM_CHANGED: (u8, u8, u8) = (6, 0x28, 0);
}

/// Bus master registers (region 4), per channel at 0 and 8: 82371SB 2.7.
pub mod bm {
    /// RW: start (bit 0), direction to memory (bit 3).
    pub const COMMAND: u64 = 0;
    /// RW: active (RO), error (W1C), interrupt (W1C), drive DMA capable bits 5 and 6.
    pub const STATUS: u64 = 2;
    /// RW 32: descriptor table, dword-aligned.
    pub const TABLE: u64 = 4;

    /// In the command register.
    pub const START: u8 = 0x01;
    /// In the command register: the transfer writes memory.
    pub const TO_MEMORY: u8 = 0x08;
    /// In the status register.
    pub const ACTIVE: u8 = 0x01;
    /// In the status register.
    pub const ERROR: u8 = 0x02;
    /// In the status register.
    pub const INTERRUPT: u8 = 0x04;
    /// In the status register: what software may set.
    pub const CAPABLE: u8 = 0x60;
    /// End of table, bit 31 of a descriptor's second dword.
    pub const END: u32 = 1 << 31;
}
