//! What both sides agree on: where memory lies, which segments exist, what a case is.

/// Linear address of the region, low so that 32-bit addresses reach it. 16-bit segments have it as their base.
pub const BASE: u64 = 0x1000_0000;
/// Bytes reserved on the host; what is not named below cannot be accessed.
pub const LEN: usize = 0x1_0000;
/// Two pages of code, filled with `HLT`, which no user program may execute.
pub const CODE: u64 = BASE;
/// Usual place of the tested instruction.
pub const CODE_AT: u64 = BASE + 0x800;
/// Bytes of code pages.
pub const CODE_LEN: usize = 0x2000;
/// Two pages of data.
pub const DATA: u64 = BASE + 0x3000;
/// Bytes of data pages.
pub const DATA_LEN: usize = 0x2000;
/// The part of the data that is compared, around the page border.
pub const WINDOW: u64 = BASE + 0x3e00;
/// Bytes of the window.
pub const WINDOW_LEN: usize = 0x400;
/// A page that can only be read, of zeros.
pub const READ_ONLY: u64 = BASE + 0x6000;
/// A page that is not there, behind the data.
pub const MISSING: u64 = BASE + 0x5000;
/// Bases of FS and GS in 64-bit code.
pub const FS_BASE: u64 = BASE + 0x3f00;
/// See [`FS_BASE`].
pub const GS_BASE: u64 = BASE + 0x4040;

/// Linux's selectors for user programs.
pub const CS32: u16 = 0x23;
/// 64-bit code.
pub const CS64: u16 = 0x33;
/// Data.
pub const DS: u16 = 0x2b;

/// One entry of the local descriptor table.
#[derive(Clone, Copy)]
pub struct Local {
    pub base: u32,
    pub limit: u32,
    pub big: bool,
    /// 0 data, 1 expand-down data, 2 code.
    pub contents: u32,
    /// Data: read-only. Code: not readable.
    pub restricted: bool,
    pub pages: bool,
    pub present: bool,
}

const fn local(base: u64, limit: u32, big: bool, contents: u32) -> Local {
    Local { base: base as u32, limit, big, contents, restricted: false, pages: false, present: true }
}

/// The local descriptor table. The first is the 16-bit code segment, the second its stack.
pub const LOCALS: [Local; 12] = [
    local(BASE, 0xffff, false, 2),
    local(BASE, 0xffff, false, 0),
    local(BASE, 0x4fff, true, 0),
    Local { restricted: true, ..local(BASE, 0xffff, true, 0) },
    local(BASE, 0x3eff, true, 1),
    local(BASE, 0x3fff, false, 1),
    Local { restricted: true, pages: true, ..local(0, 0xf_ffff, true, 2) },
    local(BASE, 0x403f, true, 0),
    Local { present: false, ..local(BASE, 0xffff, true, 0) },
    local(BASE, 0xffff, true, 2),
    Local { pages: true, ..local(0x100, 0xf_ffff, true, 0) },
    Local { restricted: true, ..local(BASE, 0x3fff, false, 1) },
];

/// Selector of entry `index` of [`LOCALS`].
pub const fn local_selector(index: usize) -> u16 {
    (index as u16) << 3 | 7
}

/// How the tested instruction is decoded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mode {
    /// 64-bit code.
    Long,
    /// 32-bit code in flat segments.
    Flat32,
    /// 32-bit code in segments with bases and limits.
    Based32,
    /// 16-bit code in segments with bases and limits.
    Based16,
}

impl Mode {
    /// The mode of a case that begins with `s`.
    pub fn of(s: &State) -> Mode {
        match s.selectors[1] {
            CS64 => Mode::Long,
            CS32 => Mode::Flat32,
            cs if cs == local_selector(0) => Mode::Based16,
            _ => Mode::Based32,
        }
    }

    pub fn bits(self) -> u32 {
        match self {
            Mode::Long => 64,
            Mode::Flat32 | Mode::Based32 => 32,
            Mode::Based16 => 16,
        }
    }

    /// Base of the code segment.
    pub fn code_base(self) -> u64 {
        match self {
            Mode::Long | Mode::Flat32 => 0,
            Mode::Based32 | Mode::Based16 => BASE,
        }
    }
}

/// Everything that a user program sees of the processor, before or after.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct State {
    /// In encoding order.
    pub regs: [u64; 16],
    pub rip: u64,
    pub flags: u64,
    /// ES CS SS DS FS GS.
    pub selectors: [u16; 8],
    /// Control word, status word, abridged tags (physical registers), MXCSR.
    pub control: u16,
    pub status: u16,
    pub tags: u16,
    pub pad: u16,
    pub mxcsr: u32,
    pub pad2: u32,
    /// Registers of the x87 from ST(0) on.
    pub st: [[u8; 16]; 8],
    pub xmm: [[u8; 16]; 16],
    pub window: [u8; WINDOW_LEN],
}

/// How the instruction ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct End {
    /// Exception vector, or [`DONE`].
    pub vector: u64,
    pub error: u64,
    /// Of a page fault.
    pub address: u64,
}

/// [`End::vector`] of an instruction that completed.
pub const DONE: u64 = 1;

/// One case. It lies in memory shared with the child.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Case {
    pub before: State,
    pub code: [u8; 24],
    pub len: u64,
    /// Where the code lies.
    pub at: u64,
    /// Whether the instruction repeats: it is stepped until it is left.
    pub repeats: u64,
    /// Whether the host runs it without a signal (`fast.rs`).
    pub fast: u64,
    /// Whether its code differs from that of the case before it.
    pub first: u64,
    pub after: State,
    pub end: End,
}
