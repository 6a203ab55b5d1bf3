//! Registers of the VGA (IBM Personal System/2 Hardware Interface Technical Reference, "Video Subsystem", 1992; FreeVGA
//! Project hardware documentation, release 3) and of the Bochs VBE extension (Bochs "VBE display interface" API
//! specification 0.6; QEMU documentation, "standard vga").

/// Region 0: ports 0x3b0..0x3e0.
pub const REGION_PORTS: u8 = 0;
/// Region 1: ports 0x1ce..0x1d2.
pub const REGION_VBE: u8 = 1;
/// Region 2: memory 0xa0000..0xc0000.
pub const REGION_MEMORY: u8 = 2;
/// Region 3: BAR 2.
pub const REGION_MMIO: u8 = 3;

/// First port of region 0.
pub const PORT_BASE: u64 = 0x3b0;
/// CRT controller index, monochrome address (Miscellaneous Output bit 0 clear); data follows.
pub const CRTC_MONO: u64 = 0x3b4;
/// R Input Status 1, W Feature Control, monochrome address.
pub const STATUS1_MONO: u64 = 0x3ba;
/// Attribute controller: W index and data by turns, R index.
pub const ATTRIBUTE: u64 = 0x3c0;
/// R attribute data.
pub const ATTRIBUTE_READ: u64 = 0x3c1;
/// R Input Status 0, W Miscellaneous Output.
pub const MISC_WRITE: u64 = 0x3c2;
/// RW Video Subsystem Enable.
pub const ENABLE: u64 = 0x3c3;
/// RW sequencer index; data follows.
pub const SEQUENCER: u64 = 0x3c4;
/// RW palette mask.
pub const DAC_MASK: u64 = 0x3c6;
/// W palette address for reading, R state.
pub const DAC_READ: u64 = 0x3c7;
/// RW palette address for writing.
pub const DAC_WRITE: u64 = 0x3c8;
/// RW palette data: red, green, blue by turns.
pub const DAC_DATA: u64 = 0x3c9;
/// R Feature Control.
pub const FEATURE_READ: u64 = 0x3ca;
/// R Miscellaneous Output.
pub const MISC_READ: u64 = 0x3cc;
/// RW graphics controller index; data follows.
pub const GRAPHICS: u64 = 0x3ce;
/// CRT controller index, colour address; data follows.
pub const CRTC_COLOUR: u64 = 0x3d4;
/// R Input Status 1, W Feature Control, colour address.
pub const STATUS1_COLOUR: u64 = 0x3da;

/// Miscellaneous Output: ports 0x3dx instead of 0x3bx.
pub const MISC_COLOUR: u8 = 1 << 0;
/// Miscellaneous Output: the processor may reach video memory.
pub const MISC_RAM: u8 = 1 << 1;
/// Miscellaneous Output: bits that exist.
pub const MISC_MASK: u8 = 0xef;
/// Input Status 0: a monitor with colour is sensed.
pub const STATUS0_SENSE: u8 = 1 << 4;
/// Input Status 1: no display data right now (horizontal or vertical).
pub const STATUS1_BLANKING: u8 = 1 << 0;
/// Input Status 1: vertical retrace.
pub const STATUS1_RETRACE: u8 = 1 << 3;

/// CRT controller registers 0..=0x18.
pub const CRTC_COUNT: usize = 0x19;
/// Sequencer registers 0..=4.
pub const SEQUENCER_COUNT: usize = 5;
/// Graphics controller registers 0..=8.
pub const GRAPHICS_COUNT: usize = 9;
/// Attribute controller registers 0..=0x14.
pub const ATTRIBUTE_COUNT: usize = 0x15;

/// Bits that exist in each sequencer register.
pub const SEQUENCER_MASK: [u8; SEQUENCER_COUNT] = [0x03, 0x3d, 0x0f, 0x3f, 0x0e];
/// Bits that exist in each graphics controller register.
pub const GRAPHICS_MASK: [u8; GRAPHICS_COUNT] = [0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff];
/// Bits that exist in each attribute controller register.
pub const ATTRIBUTE_MASK: [u8; ATTRIBUTE_COUNT] = {
    let mut mask = [0x3f; ATTRIBUTE_COUNT];
    mask[0x10] = 0xef;
    mask[0x11] = 0xff;
    mask[0x13] = 0x0f;
    mask[0x14] = 0x0f;
    mask
};

/// CRT controller register numbers.
pub mod crtc {
    /// Horizontal Total, less 5.
    pub const H_TOTAL: usize = 0x00;
    /// Horizontal Display Enable End, characters less 1.
    pub const H_DISPLAY_END: usize = 0x01;
    /// Vertical Total, bits 0-7, less 2.
    pub const V_TOTAL: usize = 0x06;
    /// Overflow: higher bits of vertical values.
    pub const OVERFLOW: usize = 0x07;
    /// Preset Row Scan (bits 0-4), byte panning (bits 5-6).
    pub const PRESET_ROW: usize = 0x08;
    /// Maximum Scan Line (bits 0-4), line compare bit 9 (bit 6), double scan (bit 7).
    pub const MAX_SCAN: usize = 0x09;
    /// Cursor Start (bits 0-4), off (bit 5).
    pub const CURSOR_START: usize = 0x0a;
    /// Cursor End (bits 0-4), skew (bits 5-6).
    pub const CURSOR_END: usize = 0x0b;
    /// Start Address, high byte; low byte follows.
    pub const START_HIGH: usize = 0x0c;
    /// Start Address, low byte.
    pub const START_LOW: usize = 0x0d;
    /// Cursor Location, high byte; low byte follows.
    pub const CURSOR_HIGH: usize = 0x0e;
    /// Cursor Location, low byte.
    pub const CURSOR_LOW: usize = 0x0f;
    /// Vertical Retrace Start, bits 0-7.
    pub const V_RETRACE_START: usize = 0x10;
    /// Vertical Retrace End (bits 0-3), protection of registers 0-7 (bit 7).
    pub const V_RETRACE_END: usize = 0x11;
    /// Vertical Display Enable End, bits 0-7, lines less 1.
    pub const V_DISPLAY_END: usize = 0x12;
    /// Offset: half the address distance of two rows.
    pub const OFFSET: usize = 0x13;
    /// Underline Location (bits 0-4), count by 4 (bit 5), double word addresses (bit 6).
    pub const UNDERLINE: usize = 0x14;
    /// Mode Control.
    pub const MODE: usize = 0x17;
    /// Line Compare, bits 0-7.
    pub const LINE_COMPARE: usize = 0x18;
}

/// Number of VBE registers.
pub const VBE_COUNT: usize = 11;

/// VBE register numbers.
pub mod vbe {
    /// RW interface version; power-on value [`ID_LATEST`](super::VBE_ID_LATEST).
    pub const ID: usize = 0;
    /// RW visible width in pixels.
    pub const XRES: usize = 1;
    /// RW visible height in lines.
    pub const YRES: usize = 2;
    /// RW bits a pixel: 4, 8, 15, 16, 24 or 32.
    pub const BPP: usize = 3;
    /// RW switch, see [`enable`](super::vbe_enable).
    pub const ENABLE: usize = 4;
    /// RW 64 KiB bank in the window at 0xa0000.
    pub const BANK: usize = 5;
    /// RW width of a line in memory in pixels.
    pub const VIRT_WIDTH: usize = 6;
    /// RO lines that fit in the memory.
    pub const VIRT_HEIGHT: usize = 7;
    /// RW first visible pixel of a line.
    pub const X_OFFSET: usize = 8;
    /// RW first visible line.
    pub const Y_OFFSET: usize = 9;
    /// RO memory in 64 KiB units.
    pub const MEMORY_64K: usize = 10;
}

/// Bits of the VBE register ENABLE.
pub mod vbe_enable {
    /// VBE mode instead of VGA mode.
    pub const ENABLED: u16 = 0x01;
    /// XRES, YRES and BPP read as the largest values.
    pub const GETCAPS: u16 = 0x02;
    /// Palette of 8 bits a colour instead of 6.
    pub const DAC_8BIT: u16 = 0x20;
    /// The guest uses the linear frame buffer (which is always there).
    pub const LFB: u16 = 0x40;
    /// Keep the memory when the mode is set.
    pub const NO_CLEAR: u16 = 0x80;
    /// All bits that exist.
    pub const ALL: u16 = ENABLED | GETCAPS | DAC_8BIT | LFB | NO_CLEAR;
}

/// Oldest interface version.
pub const VBE_ID_FIRST: u16 = 0xb0c0;
/// Newest interface version.
pub const VBE_ID_LATEST: u16 = 0xb0c5;
/// Widest mode in pixels.
pub const VBE_MAX_XRES: u16 = 16000;
/// Highest mode in lines.
pub const VBE_MAX_YRES: u16 = 12000;
/// Most bits a pixel.
pub const VBE_MAX_BPP: u16 = 32;
/// Bytes of a bank.
pub const VBE_BANK: u32 = 0x1_0000;

/// Bytes of BAR 2.
pub const MMIO_BYTES: u64 = 0x1000;
/// BAR 2: EDID block, 128 bytes; the area to 0x400 reads zero behind it.
pub const MMIO_EDID: u64 = 0x000;
/// BAR 2: ports 0x3c0..0x3e0.
pub const MMIO_PORTS: u64 = 0x400;
/// BAR 2: VBE registers, 16 bits each.
pub const MMIO_VBE: u64 = 0x500;
/// BAR 2: RO bytes of the extended register block, itself included.
pub const MMIO_QEXT_SIZE: u64 = 0x600;
/// BAR 2: RW byte order of the frame buffer.
pub const MMIO_QEXT_ENDIAN: u64 = 0x604;
/// Value of [`MMIO_QEXT_SIZE`].
pub const QEXT_BYTES: u32 = 8;
/// Frame buffer is little-endian.
pub const ENDIAN_LITTLE: u32 = 0x1e1e_1e1e;
/// Frame buffer is big-endian.
pub const ENDIAN_BIG: u32 = 0xbebe_bebe;

/// Bytes of the legacy memory window.
pub const WINDOW_BYTES: u64 = 0x2_0000;
/// Smallest video memory in bytes: four planes of 64 KiB.
pub const VRAM_MIN: u32 = 256 << 10;
/// Largest video memory in bytes.
pub const VRAM_MAX: u32 = 256 << 20;
