//! The monitor's description (VESA Enhanced EDID standard, release A revision 2: structure version 1.4), for guests that
//! look for it in BAR 2: a monitor without a native size that prefers 1024x768.

/// Bytes of the block.
const BYTES: usize = 128;

/// The block, with its checksum.
const BLOCK: [u8; BYTES] = {
    let mut block = [0u8; BYTES];
    let head: [u8; 54] = [
        0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, // header
        0x08, 0xe8, // manufacturer BGH, five bits a letter
        0x01, 0x00, // product 1
        0x00, 0x00, 0x00, 0x00, // no serial number
        0x01, 0x24, // week 1 of 2026
        0x01, 0x04, // version 1.4
        0xa5, // digital, 8 bits a colour, DisplayPort
        0x00, 0x00, // size unknown
        0x78, // gamma 2.2
        0x06, // sRGB, preferred timing is native
        0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54, // sRGB chromaticity
        0x21, 0x08, 0x00, // established: 640x480, 800x600, 1024x768 at 60 Hz
        0xd1, 0xc0, // standard: 1920x1080 at 60 Hz
        0xa9, 0x40, // 1600x1200
        0x81, 0x80, // 1280x1024
        0x81, 0x40, // 1280x960
        0x81, 0xc0, // 1280x720
        0x01, 0x01, 0x01, 0x01, 0x01, 0x01, // unused
    ];
    let timing: [u8; 18] = [
        0x64, 0x19, // 65.00 MHz
        0x00, 0x40, 0x41, // 1024 + 320
        0x00, 0x26, 0x30, // 768 + 38
        0x18, 0x88, 0x36, 0x00, // sync: 24 + 136, 3 + 6
        0x00, 0x00, 0x00, // size unknown
        0x00, 0x00, 0x18, // separate digital sync
    ];
    let name: [u8; 18] = *b"\0\0\0\xfc\0Bulkhead\n    ";
    let range: [u8; 18] =
        [0, 0, 0, 0xfd, 0, 50, 125, 30, 160, 60, 0x01, 0x0a, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20];
    let unused: [u8; 18] = [0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut at = 0;
    while at < 54 {
        block[at] = head[at];
        at += 1;
    }
    let mut at = 0;
    while at < 18 {
        block[54 + at] = timing[at];
        block[72 + at] = name[at];
        block[90 + at] = range[at];
        block[108 + at] = unused[at];
        at += 1;
    }
    let mut sum = 0u8;
    let mut at = 0;
    while at < BYTES - 1 {
        sum = sum.wrapping_add(block[at]);
        at += 1;
    }
    block[BYTES - 1] = 0u8.wrapping_sub(sum);
    block
};

/// A byte of the area; zero behind the block.
pub(crate) fn byte(at: u64) -> u8 {
    usize::try_from(at).ok().and_then(|at| BLOCK.get(at)).copied().unwrap_or(0)
}
