//! The keyboard controller, after IBM "PS/2 Hardware Interface Technical Reference" (1988), "Keyboard and Auxiliary Device
//! Controller", and Intel 8042 microcode as PC firmware expects it.

/// Region of port 0x60: data.
pub const DATA: u8 = 0;
/// Region of port 0x64: status (read), command (write).
pub const COMMAND: u8 = 1;

/// Status: output buffer full.
pub const STATUS_OBF: u8 = 0x01;
/// Status: system flag, a copy of the one in the command byte.
pub const STATUS_SYS: u8 = 0x04;
/// Status: the last write went to the command port.
pub const STATUS_COMMAND: u8 = 0x08;
/// Status: keyboard not locked.
pub const STATUS_UNLOCKED: u8 = 0x10;
/// Status: the output buffer holds a byte of the auxiliary device.
pub const STATUS_AUX: u8 = 0x20;

/// Command byte: IRQ 1 on keyboard data.
pub const MODE_INT: u8 = 0x01;
/// Command byte: IRQ 12 on auxiliary data.
pub const MODE_AUX_INT: u8 = 0x02;
/// Command byte: system flag.
pub const MODE_SYS: u8 = 0x04;
/// Command byte: keyboard clock disabled.
pub const MODE_OFF: u8 = 0x10;
/// Command byte: auxiliary clock disabled.
pub const MODE_AUX_OFF: u8 = 0x20;
/// Command byte: translate scan code set 2 to 1.
pub const MODE_TRANSLATE: u8 = 0x40;
/// Command byte bits that exist.
pub const MODE_MASK: u8 = 0x77;

/// Output port: low holds the processor in reset.
pub const OUT_RUN: u8 = 0x01;
/// Output port: A20 gate.
pub const OUT_A20: u8 = 0x02;
/// Output port: keyboard output buffer full (IRQ 1).
pub const OUT_OBF: u8 = 0x10;
/// Output port: auxiliary output buffer full (IRQ 12).
pub const OUT_AUX_OBF: u8 = 0x20;
/// Output port bits that a program can set (the others are the chip's own).
pub const OUT_MASK: u8 = 0xcf;

/// Input port as read: keyboard not locked.
pub const INPUT_PORT: u8 = 0x80;

/// Controller commands.
pub mod command {
    /// 0x20..=0x3f: read controller memory; 0x20 is the command byte.
    pub const READ: u8 = 0x20;
    /// 0x60..=0x7f: write controller memory; 0x60 is the command byte.
    pub const WRITE: u8 = 0x60;
    /// Is a password installed?
    pub const TEST_PASSWORD: u8 = 0xa4;
    /// Disable the auxiliary device.
    pub const AUX_DISABLE: u8 = 0xa7;
    /// Enable the auxiliary device.
    pub const AUX_ENABLE: u8 = 0xa8;
    /// Test the auxiliary interface.
    pub const AUX_TEST: u8 = 0xa9;
    /// Self-test.
    pub const SELF_TEST: u8 = 0xaa;
    /// Test the keyboard interface.
    pub const TEST: u8 = 0xab;
    /// Disable the keyboard.
    pub const DISABLE: u8 = 0xad;
    /// Enable the keyboard.
    pub const ENABLE: u8 = 0xae;
    /// Read the input port.
    pub const READ_INPUT: u8 = 0xc0;
    /// Read the output port.
    pub const READ_OUTPUT: u8 = 0xd0;
    /// Write the output port.
    pub const WRITE_OUTPUT: u8 = 0xd1;
    /// Write a byte into the output buffer as if from the keyboard.
    pub const WRITE_OBF: u8 = 0xd2;
    /// The same as if from the auxiliary device.
    pub const WRITE_AUX_OBF: u8 = 0xd3;
    /// Send a byte to the auxiliary device.
    pub const WRITE_AUX: u8 = 0xd4;
    /// Close the A20 gate (a common extension).
    pub const A20_OFF: u8 = 0xdd;
    /// Open the A20 gate.
    pub const A20_ON: u8 = 0xdf;
    /// Read the test inputs (clock lines).
    pub const READ_TEST: u8 = 0xe0;
    /// 0xf0..=0xff: pulse the output port bits that are 0 in the low nibble; bit 0 resets the processor.
    pub const PULSE: u8 = 0xf0;
}

/// Answer of a device: acknowledge.
pub const ACK: u8 = 0xfa;
/// Answer of a device: send that again.
pub const RESEND: u8 = 0xfe;
/// Result of a passed power-on test.
pub const PASSED: u8 = 0xaa;

/// Scan code set 2 to 1, by the controller's own table; codes from 0x80 stay what they are but for two keys.
pub const TRANSLATE: [u8; 128] = [
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59, //
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b, //
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d, //
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f, //
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61, //
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76, //
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f, //
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54, //
];

/// Translation of one byte.
pub fn translate(code: u8) -> u8 {
    match code {
        0x83 => 0x41,
        0x84 => 0x54,
        code => TRANSLATE.get(usize::from(code)).copied().unwrap_or(code),
    }
}

/// Set-2 code of a key by its set-1 code.
pub fn set2(key: u8) -> Option<u8> {
    match key {
        0x41 => Some(0x83),
        0x54 => Some(0x84),
        key => TRANSLATE.iter().position(|code| *code == key).and_then(|at| u8::try_from(at).ok()),
    }
}

/// Set-3 code of a key by its set-1 code.
pub fn set3(key: u8, extended: bool) -> Option<u8> {
    Some(match (extended, key) {
        (false, 0x01) => 0x08,
        (false, 0x2b) => 0x5c,
        (false, 0x1d) => 0x11,
        (false, 0x38) => 0x19,
        (false, 0x3a) => 0x14,
        (false, 0x56) => 0x13,
        (false, 0x3b) => 0x07,
        (false, 0x3c) => 0x0f,
        (false, 0x3d) => 0x17,
        (false, 0x3e) => 0x1f,
        (false, 0x3f) => 0x27,
        (false, 0x40) => 0x2f,
        (false, 0x41) => 0x37,
        (false, 0x42) => 0x3f,
        (false, 0x43) => 0x47,
        (false, 0x44) => 0x4f,
        (false, 0x57) => 0x56,
        (false, 0x58) => 0x5e,
        (false, 0x45) => 0x76,
        (false, 0x46) => 0x5f,
        (false, 0x37) => 0x7e,
        (false, 0x4a) => 0x84,
        (false, 0x4e) => 0x7c,
        (true, 0x1c) => 0x79,
        (true, 0x1d) => 0x58,
        (true, 0x35) => 0x77,
        (true, 0x37) => 0x57,
        (true, 0x38) => 0x39,
        (true, 0x45) => 0x62,
        (true, 0x47) => 0x6e,
        (true, 0x48) => 0x63,
        (true, 0x49) => 0x6f,
        (true, 0x4b) => 0x61,
        (true, 0x4d) => 0x6a,
        (true, 0x4f) => 0x65,
        (true, 0x50) => 0x60,
        (true, 0x51) => 0x6d,
        (true, 0x52) => 0x67,
        (true, 0x53) => 0x64,
        (true, 0x5b) => 0x8b,
        (true, 0x5c) => 0x8c,
        (true, 0x5d) => 0x8d,
        // The typewriter block and the number pad are as in set 2.
        (false, key @ 0x02..=0x53) => set2(key)?,
        _ => return None,
    })
}
