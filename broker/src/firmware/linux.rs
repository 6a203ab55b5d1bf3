//! `-kernel`: the Linux/x86 boot protocol (kernel documentation, `x86/boot`). The kernel file is split into its real-mode
//! and protected-mode parts, its header filled in, and everything handed to the firmware interface for [`super::optionrom`].

use std::path::Path;

use super::optionrom::{self, Entry, Transfer};
use super::{Items, key, read_given};
use crate::fail::Fail;

/// Largest kernel and initial ramdisk: what 32-bit addresses can hold.
pub const FILE_MAX: u64 = 0xe000_0000;
/// RAM at the top of the low range that the firmware keeps tables in.
const FIRMWARE_BYTES: u64 = 512 << 10;
const SECTOR: usize = 512;

/// Offsets of the fields of the setup header.
mod field {
    pub const SETUP_SECTS: usize = 0x1f1;
    pub const VID_MODE: usize = 0x1fa;
    pub const MAGIC: usize = 0x202;
    pub const VERSION: usize = 0x206;
    pub const LOADER: usize = 0x210;
    pub const LOADFLAGS: usize = 0x211;
    pub const SETUP_MOVE_SIZE: usize = 0x212;
    pub const RAMDISK_IMAGE: usize = 0x218;
    pub const RAMDISK_SIZE: usize = 0x21c;
    pub const HEAP_END: usize = 0x224;
    pub const CMD_LINE: usize = 0x228;
    pub const INITRD_MAX: usize = 0x22c;
    pub const CMDLINE_SIZE: usize = 0x238;
    pub const PREF_ADDRESS: usize = 0x258;
    pub const INIT_SIZE: usize = 0x260;
    /// Before protocol 2.02: magic and offset of the command line.
    pub const OLD_CMD_MAGIC: usize = 0x20;
    pub const OLD_CMD_OFFSET: usize = 0x22;
}

/// Boot loader without an assigned number.
const LOADER_UNDEFINED: u8 = 0xff;
const LOADED_HIGH: u8 = 1;
const CAN_USE_HEAP: u8 = 0x80;

/// Everything to be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Real-mode part with its header filled in, and its address.
    pub setup: (u32, Vec<u8>),
    /// Protected-mode part and its address.
    pub code: (u32, Vec<u8>),
    /// Command line with its final zero, and its address.
    pub command_line: (u32, Vec<u8>),
    /// Initial ramdisk and its address.
    pub initrd: Option<(u32, Vec<u8>)>,
}

/// Reads the file of `-initrd` and lays it out below `low_ram` with the kernel in `image` and the command line.
///
/// # Errors
/// One line naming option, file and reason.
pub fn load(
    kernel: &Path,
    image: &[u8],
    append: &str,
    initrd: Option<&Path>,
    low_ram: u64,
) -> Result<Kernel, Fail> {
    let ramdisk = initrd.map(|path| read_given("-initrd", path, FILE_MAX)).transpose()?;
    let fail = |why: LayoutError| match why {
        LayoutError::Kernel(why) => Fail(format!("-kernel {}: {why}", kernel.display())),
        LayoutError::Initrd(why) => {
            Fail(format!("-initrd {}: {why}", initrd.map(|p| p.display().to_string()).unwrap_or_default()))
        }
        LayoutError::Append(why) => Fail(format!("-append: {why}")),
    };
    lay_out(image, append, ramdisk, low_ram).map_err(fail)
}

/// Why a kernel cannot be booted, by the option at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
enum LayoutError {
    Kernel(String),
    Initrd(String),
    Append(String),
}

fn get<const N: usize>(image: &[u8], at: usize) -> Option<[u8; N]> {
    image.get(at..)?.first_chunk::<N>().copied()
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = at.checked_add(bytes.len()).and_then(|end| image.get_mut(at..end)) {
        place.copy_from_slice(bytes);
    }
}

fn lay_out(image: &[u8], append: &str, initrd: Option<Vec<u8>>, low_ram: u64) -> Result<Kernel, LayoutError> {
    let kernel = |why: &str| LayoutError::Kernel(why.to_owned());
    if get::<4>(image, field::MAGIC) != Some(*b"HdrS") {
        return Err(kernel("not a Linux kernel image (bzImage) nor a multiboot kernel"));
    }
    let truncated = || kernel("kernel image is truncated");
    let version = u16::from_le_bytes(get(image, field::VERSION).ok_or_else(truncated)?);
    let flags = image.get(field::LOADFLAGS).copied().ok_or_else(truncated)?;
    let sectors = match image.get(field::SETUP_SECTS) {
        Some(0) | None => 4,
        Some(count) => usize::from(*count),
    };
    let split = (sectors + 1) * SECTOR;
    if image.len() <= split {
        return Err(truncated());
    }
    if version >= 0x0204 {
        // Protected-mode part in 16-byte units, rounded up.
        let size = u64::from(u32::from_le_bytes(get(image, 0x1f4).ok_or_else(truncated)?)) * 16;
        if ((image.len() - split) as u64).next_multiple_of(16) < size {
            return Err(truncated());
        }
    }
    let (setup, code) = image.split_at(split);
    let (mut setup, code) = (setup.to_vec(), code.to_vec());
    let mut command_line = append.as_bytes().to_vec();
    command_line.push(0);
    let limit = if version >= 0x0206 {
        u32::from_le_bytes(get(image, field::CMDLINE_SIZE).ok_or_else(truncated)?).min(0xf000) as usize
    } else {
        255
    };
    if command_line.len() - 1 > limit {
        return Err(LayoutError::Append(format!("longer than the {limit} bytes that this kernel takes")));
    }
    let high = version >= 0x0200 && flags & LOADED_HIGH != 0;
    let code_at = if high { 0x10_0000u32 } else { 0x1_0000 };
    // Before 2.02 the setup runs at 90000h, and finds its command line within 64 KiB of itself.
    let (setup_at, line_at) = if high && version >= 0x0202 {
        (0x1_0000u32, 0x2_0000u32)
    } else {
        (0x9_0000, 0x9_a000 - (command_line.len() as u32).next_multiple_of(16))
    };
    if code_at as u64 + code.len() as u64 > low_ram.saturating_sub(FIRMWARE_BYTES)
        || (!high && code.len() > 0x8_0000)
    {
        return Err(kernel("does not fit into the machine's memory"));
    }
    if setup_at + setup.len() as u32 > line_at {
        let length = command_line.len() - 1;
        return Err(LayoutError::Kernel(format!(
            "no room for its setup and a command line of {length} bytes"
        )));
    }
    if let Some(mode) = video_mode(append) {
        put(&mut setup, field::VID_MODE, &mode.to_le_bytes());
    }
    if version >= 0x0200 {
        put(&mut setup, field::LOADER, &[LOADER_UNDEFINED]);
    }
    if version >= 0x0201 {
        put(&mut setup, field::LOADFLAGS, &[flags | CAN_USE_HEAP]);
        put(&mut setup, field::HEAP_END, &((line_at - setup_at - 0x200) as u16).to_le_bytes());
    }
    if version >= 0x0202 {
        put(&mut setup, field::CMD_LINE, &line_at.to_le_bytes());
    } else {
        put(&mut setup, field::OLD_CMD_MAGIC, &0xa33fu16.to_le_bytes());
        put(&mut setup, field::OLD_CMD_OFFSET, &((line_at - setup_at) as u16).to_le_bytes());
        if version >= 0x0200 {
            let end = line_at - setup_at + command_line.len() as u32;
            put(&mut setup, field::SETUP_MOVE_SIZE, &(end as u16).to_le_bytes());
        }
    }
    let initrd = match initrd {
        None => None,
        Some(_) if version < 0x0200 => return Err(kernel("too old for an initial ramdisk")),
        Some(data) => {
            let max = if version >= 0x0203 {
                u64::from(u32::from_le_bytes(get(image, field::INITRD_MAX).ok_or_else(truncated)?))
            } else {
                0x37ff_ffff
            };
            let mut lowest = u64::from(code_at) + code.len() as u64;
            if version >= 0x020a {
                // Where the kernel unpacks itself before it knows its memory; that is at its preferred address, as it is loaded lower.
                let at = u64::from_le_bytes(get(image, field::PREF_ADDRESS).ok_or_else(truncated)?);
                let size = u32::from_le_bytes(get(image, field::INIT_SIZE).ok_or_else(truncated)?);
                lowest = lowest.max(at.saturating_add(size.into()));
            }
            let end = (max + 1).min(low_ram.saturating_sub(FIRMWARE_BYTES)).min(memory_end(append));
            let start = end.checked_sub(data.len() as u64).map(|start| start & !0xfff);
            let start = start.filter(|start| *start >= lowest).ok_or_else(|| {
                LayoutError::Initrd(format!("{} bytes do not fit into the machine's memory", data.len()))
            })?;
            put(&mut setup, field::RAMDISK_IMAGE, &(start as u32).to_le_bytes());
            put(&mut setup, field::RAMDISK_SIZE, &(data.len() as u32).to_le_bytes());
            Some((start as u32, data))
        }
    };
    Ok(Kernel {
        setup: (setup_at, setup),
        code: (code_at, code),
        command_line: (line_at, command_line),
        initrd,
    })
}

/// `vga=` of a command line: the boot loader's word, not the kernel's.
fn video_mode(append: &str) -> Option<u16> {
    let value = append.split_whitespace().rev().find_map(|word| word.strip_prefix("vga="))?;
    match value {
        "normal" => Some(0xffff),
        "ext" => Some(0xfffe),
        "ask" => Some(0xfffd),
        number => match number.strip_prefix("0x") {
            Some(digits) => u16::from_str_radix(digits, 16).ok(),
            None => number.parse().ok(),
        },
    }
}

/// The end of memory that the `mem=` of a command line set, a word to the boot loader too (boot protocol, "Special Command Line
/// Options"). The kernel takes away what is above each of them: the lowest counts.
fn memory_end(append: &str) -> u64 {
    let words = append.split_whitespace().filter_map(|word| word.strip_prefix("mem="));
    words.filter_map(c_bytes).filter(|end| *end > 0).min().unwrap_or(u64::MAX)
}

/// An integer in C notation, in bytes or the unit behind it.
fn c_bytes(text: &str) -> Option<u64> {
    let units = [(['k', 'K'], 1u64 << 10), (['m', 'M'], 1 << 20), (['g', 'G'], 1 << 30)];
    let with_unit = units.into_iter().find_map(|(letters, unit)| Some((text.strip_suffix(letters)?, unit)));
    let (number, unit) = with_unit.unwrap_or((text, 1));
    let (digits, radix) = match number.strip_prefix("0x").or(number.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if number.starts_with('0') => (number, 8),
        None => (number, 10),
    };
    u64::from_str_radix(digits, radix).ok()?.checked_mul(unit)
}

impl Kernel {
    /// Adds the kernel to the firmware items, with the boot ROM as first boot device.
    pub fn add_to(self, items: &mut Items) {
        let (setup_at, line_at) = (self.setup.0, self.command_line.0);
        let mut transfers = Vec::new();
        let mut part = |keys: [u16; 3], (address, data): (u32, Vec<u8>)| {
            let length = data.len() as u32;
            if length > 0 {
                transfers.push(Transfer { key: keys[2], length, address: u64::from(address) });
            }
            items.add_u32(keys[0], address);
            items.add_u32(keys[1], length);
            items.add(keys[2], data);
        };
        part([key::SETUP_ADDR, key::SETUP_SIZE, key::SETUP_DATA], self.setup);
        part([key::CMDLINE_ADDR, key::CMDLINE_SIZE, key::CMDLINE_DATA], self.command_line);
        part([key::KERNEL_ADDR, key::KERNEL_SIZE, key::KERNEL_DATA], self.code);
        if let Some(initrd) = self.initrd {
            part([key::INITRD_ADDR, key::INITRD_SIZE, key::INITRD_DATA], initrd);
        }
        let segment = (setup_at >> 4) as u16;
        let stack = (line_at - setup_at).min(0x1_0000) as u16;
        let entry = Entry { segment, stack: stack.wrapping_sub(16), code: segment + 0x20 };
        items.file("genroms/linuxboot.bin", optionrom::image(&transfers, entry));
        items.file("bootorder", b"/rom@genroms/linuxboot.bin\n\0".to_vec());
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A bzImage of protocol 2.10 with one setup sector and `code` bytes of protected-mode code.
    pub fn bzimage(code: usize) -> Vec<u8> {
        let mut image = vec![0u8; 1024 + code];
        put(&mut image, field::SETUP_SECTS, &[1]);
        put(&mut image, 0x1f4, &((code / 16) as u32).to_le_bytes());
        put(&mut image, field::MAGIC, b"HdrS");
        put(&mut image, field::VERSION, &0x020au16.to_le_bytes());
        put(&mut image, field::LOADFLAGS, &[LOADED_HIGH]);
        put(&mut image, field::INITRD_MAX, &0x7fff_ffffu32.to_le_bytes());
        put(&mut image, field::CMDLINE_SIZE, &2047u32.to_le_bytes());
        image
    }

    #[test]
    fn a_kernel_is_split_behind_its_setup_sectors_and_its_header_filled_in() {
        let kernel = lay_out(&bzimage(4096), "quiet", Some(vec![1; 5000]), 64 << 20).expect("valid");
        assert_eq!((kernel.setup.0, kernel.setup.1.len()), (0x1_0000, 1024));
        assert_eq!((kernel.code.0, kernel.code.1.len()), (0x10_0000, 4096));
        assert_eq!(kernel.command_line, (0x2_0000, b"quiet\0".to_vec()));
        let setup = &kernel.setup.1;
        assert_eq!(get(setup, field::CMD_LINE), Some(0x2_0000u32.to_le_bytes()));
        assert_eq!(get(setup, field::LOADFLAGS), Some([LOADED_HIGH | CAN_USE_HEAP]));
        assert_eq!(get(setup, field::LOADER), Some([0xff]));
        let start = (64u32 << 20) - (512 << 10) - 8192;
        assert_eq!(get(setup, field::RAMDISK_IMAGE), Some(start.to_le_bytes()));
        assert_eq!(get(setup, field::RAMDISK_SIZE), Some(5000u32.to_le_bytes()));
    }

    #[test]
    fn a_kernel_before_protocol_2_02_finds_its_command_line_by_its_offset() {
        for version in [0x0200u16, 0x0201] {
            let mut image = bzimage(4096);
            put(&mut image, field::VERSION, &version.to_le_bytes());
            let kernel = lay_out(&image, "quiet", None, 64 << 20).expect("valid");
            assert_eq!((kernel.setup.0, kernel.code.0), (0x9_0000, 0x10_0000));
            assert_eq!(kernel.command_line, (0x9_9ff0, b"quiet\0".to_vec()));
            let setup = &kernel.setup.1;
            assert_eq!(get(setup, field::OLD_CMD_MAGIC), Some(0xa33fu16.to_le_bytes()));
            assert_eq!(get(setup, field::OLD_CMD_OFFSET), Some(0x9ff0u16.to_le_bytes()));
            assert_eq!(get(setup, field::SETUP_MOVE_SIZE), Some(0x9ff6u16.to_le_bytes()));
        }
    }

    #[test]
    fn a_truncated_kernel_and_one_that_is_none_are_told_apart() {
        let image = bzimage(4096);
        let error = |image: &[u8]| lay_out(image, "", None, 64 << 20).expect_err("refused");
        assert_eq!(error(&image[..2000]), LayoutError::Kernel("kernel image is truncated".to_owned()));
        assert_eq!(
            error(&image[..0x204]),
            LayoutError::Kernel("not a Linux kernel image (bzImage) nor a multiboot kernel".to_owned())
        );
        assert_eq!(
            error(b"\x7fELF"),
            LayoutError::Kernel("not a Linux kernel image (bzImage) nor a multiboot kernel".to_owned())
        );
        assert_eq!(error(&image[..0x207]), LayoutError::Kernel("kernel image is truncated".to_owned()));
    }

    #[test]
    fn a_size_rounded_up_to_its_unit_is_no_truncation() {
        let mut image = bzimage(4096);
        image.truncate(image.len() - 8);
        assert!(lay_out(&image, "", None, 64 << 20).is_ok());
    }

    #[test]
    fn an_initrd_that_does_not_fit_is_refused() {
        let error = lay_out(&bzimage(4096), "", Some(vec![0; 3 << 20]), 4 << 20).expect_err("refused");
        assert!(matches!(error, LayoutError::Initrd(_)));
    }

    #[test]
    fn an_initrd_lies_above_what_the_kernel_unpacks_itself_to() {
        let placed = |pref: u64, size: u32, version: u16| {
            let mut image = bzimage(4096);
            put(&mut image, field::VERSION, &version.to_le_bytes());
            put(&mut image, field::PREF_ADDRESS, &pref.to_le_bytes());
            put(&mut image, field::INIT_SIZE, &size.to_le_bytes());
            lay_out(&image, "", Some(vec![0; 4096]), 64 << 20).map(|kernel| kernel.initrd.map(|part| part.0))
        };
        let at = (64u32 << 20) - (512 << 10) - 4096;
        assert_eq!(placed(16 << 20, at - (16 << 20), 0x020a), Ok(Some(at)));
        assert_eq!(placed(16 << 20, u32::MAX, 0x0209), Ok(Some(at)), "the older header has no such fields");
        for (pref, size) in [(16 << 20, at - (16 << 20) + 1), (u64::MAX, 1), (0, u32::MAX)] {
            assert!(matches!(placed(pref, size, 0x020a), Err(LayoutError::Initrd(_))), "{pref:#x} {size:#x}");
        }
    }

    #[test]
    fn an_initrd_lies_below_the_end_of_memory_on_the_command_line() {
        let placed = |append: &str| {
            let kernel = lay_out(&bzimage(4096), append, Some(vec![0; 4096]), 64 << 20).expect("valid");
            kernel.initrd.map(|part| part.0 + 4096)
        };
        let top = Some((64 << 20) - (512 << 10));
        for (append, end) in [
            ("quiet mem=32M", Some(32 << 20)),
            ("mem=0x1000000 mem=0x3000k", Some(12 << 20)),
            ("mem=040000K mem=16m x", Some(16 << 20)),
            ("mem=33554432", Some(32 << 20)),
            ("mem=1G", top),
            ("mem=nopentium mem= mem=0 mem=99999999999G highmem=2M", top),
        ] {
            assert_eq!(placed(append), end, "{append}");
        }
        let error = lay_out(&bzimage(4096), "mem=1M", Some(vec![0; 4096]), 64 << 20).expect_err("refused");
        assert!(matches!(error, LayoutError::Initrd(_)));
    }

    #[test]
    fn a_command_line_beyond_the_kernels_limit_is_refused() {
        let error = lay_out(&bzimage(16), &"x".repeat(2048), None, 64 << 20).expect_err("refused");
        assert!(matches!(error, LayoutError::Append(_)));
    }

    #[test]
    fn setup_and_command_line_have_room_beside_each_other() {
        let setup_of = |sectors: u8, flags: u8| {
            let mut image = bzimage(usize::from(sectors) * SECTOR);
            put(&mut image, 0x1f4, &1u32.to_le_bytes());
            put(&mut image, field::SETUP_SECTS, &[sectors]);
            put(&mut image, field::LOADFLAGS, &[flags]);
            put(&mut image, field::CMDLINE_SIZE, &0xffffu32.to_le_bytes());
            image
        };
        let fits = |image: &[u8], line| match lay_out(image, &"x".repeat(line), None, 64 << 20) {
            Ok(_) => true,
            Err(LayoutError::Kernel(why)) if why.starts_with("no room for its setup") => false,
            Err(other) => panic!("{other:?}"),
        };
        // To 0x20000, and a sector beyond.
        assert!(fits(&setup_of(127, LOADED_HIGH), 0) && !fits(&setup_of(128, LOADED_HIGH), 0));
        // A zImage's line ends at 0x9a000; its setup lies at 0x90000.
        assert!(fits(&setup_of(1, 0), 0xa000 - 1024 - 1) && !fits(&setup_of(1, 0), 0xa000 - 1024));
        assert!(!fits(&setup_of(1, 0), 0xa001));
    }

    #[test]
    fn the_video_mode_word_is_the_boot_loaders() {
        assert_eq!(video_mode("root=/dev/hda vga=0x317"), Some(0x317));
        assert_eq!(video_mode("vga=ask quiet"), Some(0xfffd));
        assert_eq!(video_mode("quiet"), None);
    }
}
