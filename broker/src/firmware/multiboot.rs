//! `-kernel` with a multiboot kernel (Multiboot Specification 0.6.96): ELF of 32 or 64 bits, or the address fields of the header.
//!
//! The kernel's memory image, the modules of `-initrd` and the boot information are laid out here and loaded by the boot ROM
//! ([`optionrom::multiboot`]), which adds the memory map that the firmware gives.
//!
//! # Deviations from the specification
//! A kernel that demands a video mode (header flag bit 2) is started in text mode without information about it, as by QEMU.

use std::path::Path;

use super::optionrom::{self, INFO, Transfer};
use super::{Items, key, read_given};
use crate::fail::Fail;

/// What the specification says of the header: its magic number and how far into the file it may begin.
const MAGIC: u32 = 0x1bad_b002;
const SEARCH: usize = 8192;
/// Header flags: modules on page boundaries, memory map, video mode, address fields.
const ALIGN_MODULES: u32 = 1 << 0;
const MEMORY: u32 = 1 << 1;
const VIDEO: u32 = 1 << 2;
const ADDRESSES: u32 = 1 << 16;
/// Flags that a loader must understand.
const REQUIRED: u32 = 0xffff;

/// Largest kernel and modules: what 32-bit addresses can hold.
const FILE_MAX: u64 = 0xe000_0000;
/// RAM at the top of the low range that the firmware keeps tables in.
const FIRMWARE_BYTES: u64 = 512 << 10;
const PAGE: u64 = 4096;
/// End of what the boot information may take: the extended BIOS data area lies above.
const INFO_END: u64 = 0x8_0000;
/// Below is the firmware's, and where the boot ROM works.
const LOW: u64 = 0x8000;

/// Everything to be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Memory image with its zeroed parts, and its address.
    pub image: (u32, Vec<u8>),
    /// All modules, padded to pages, and their address.
    pub modules: (u32, Vec<u8>),
    /// Boot information, for [`INFO`] in `area`.
    pub info: Vec<u8>,
    /// Address of the area of memory map and boot information: a page below 1 MiB.
    pub area: u32,
    /// Entry point.
    pub entry: u32,
}

/// Why a kernel cannot be booted, by the option at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
enum LayoutError {
    Kernel(String),
    Initrd(String),
    Append(String),
}

fn kernel(why: impl Into<String>) -> LayoutError {
    LayoutError::Kernel(why.into())
}

/// The file's bytes at `at`, little-endian.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn number(&self, at: u64, size: usize) -> Result<u64, LayoutError> {
        let bytes =
            usize::try_from(at).ok().and_then(|at| self.0.get(at..)).and_then(|rest| rest.get(..size));
        let bytes = bytes.ok_or_else(|| kernel("multiboot kernel is truncated"))?;
        Ok(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn u32(&self, at: u64) -> Result<u32, LayoutError> {
        self.number(at, 4).map(|value| value as u32)
    }
}

/// Offset of the multiboot header, if the file has one.
fn header(file: &[u8]) -> Option<usize> {
    let word = |at: usize| file.get(at..)?.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes));
    (0..SEARCH.min(file.len())).step_by(4).find(|at| {
        let fields = (word(*at), word(at + 4), word(at + 8));
        matches!(fields, (Some(MAGIC), Some(flags), Some(sum)) if MAGIC.wrapping_add(flags).wrapping_add(sum) == 0)
    })
}

/// Whether the file is a multiboot kernel.
pub fn is_multiboot(file: &[u8]) -> bool {
    header(file).is_some()
}

/// Where pieces of the file go: file offset, bytes in the file, address, bytes in memory.
type Piece = (u64, u64, u64, u64);

/// The pieces that the header's address fields name, and the entry point.
fn from_addresses(file: &Reader, at: u64) -> Result<(Vec<Piece>, u64), LayoutError> {
    let field = |n: u64| file.u32(at + 12 + 4 * n).map(u64::from);
    let (header_at, load, load_end, bss_end, entry) = (field(0)?, field(1)?, field(2)?, field(3)?, field(4)?);
    let bad = || kernel("the multiboot header's addresses contradict each other");
    let start = header_at.checked_sub(load).and_then(|before| at.checked_sub(before)).ok_or_else(bad)?;
    let rest = (file.0.len() as u64).checked_sub(start).ok_or_else(bad)?;
    let length = if load_end == 0 { rest } else { load_end.checked_sub(load).ok_or_else(bad)? };
    if length > rest {
        return Err(kernel("multiboot kernel is truncated"));
    }
    let memory = if bss_end == 0 { length } else { bss_end.checked_sub(load).ok_or_else(bad)?.max(length) };
    Ok((vec![(start, length, load, memory)], entry))
}

/// The loaded segments of an ELF file, and the entry point's physical address.
fn from_elf(file: &Reader) -> Result<(Vec<Piece>, u64), LayoutError> {
    const LOAD: u64 = 1;
    if file.0.get(..4) != Some(b"\x7fELF") {
        return Err(kernel("a multiboot kernel without addresses in its header must be an ELF file"));
    }
    let wide = match (file.number(4, 1)?, file.number(5, 1)?, file.number(18, 2)?) {
        (1, 1, 3) => false,
        (2, 1, 62) => true,
        _ => return Err(kernel("the ELF file is for another kind of machine")),
    };
    let at = |narrow: u64, offset: u64| if wide { offset } else { narrow };
    let word = if wide { 8 } else { 4 };
    let mut entry = file.number(24, word)?;
    let table = file.number(at(28, 32), word)?;
    let size = file.number(at(42, 54), 2)?;
    let count = file.number(at(44, 56), 2)?;
    if count > 0 && size < at(32, 56) {
        return Err(kernel("the ELF file's program headers are too short"));
    }
    let mut pieces = Vec::new();
    let mut moved = false;
    for i in 0..count {
        let header = table.checked_add(i * size).ok_or_else(|| kernel("multiboot kernel is truncated"))?;
        let field = |narrow: u64, offset: u64| match header.checked_add(at(narrow, offset)) {
            Some(place) => file.number(place, word),
            None => Err(kernel("multiboot kernel is truncated")),
        };
        if file.number(header, 4)? != LOAD {
            continue;
        }
        let (offset, virtual_at, physical) = (field(4, 8)?, field(8, 16)?, field(12, 24)?);
        let (in_file, in_memory) = (field(16, 32)?, field(20, 40)?);
        if in_memory == 0 {
            continue;
        }
        // An entry point is a virtual address; the kernel starts without paging.
        if !moved && entry.checked_sub(virtual_at).is_some_and(|inside| inside < in_memory) {
            entry = (entry - virtual_at).wrapping_add(physical);
            moved = true;
        }
        pieces.push((offset, in_file.min(in_memory), physical, in_memory));
    }
    Ok((pieces, entry))
}

/// The memory image of `pieces` and its address.
fn assemble(file: &[u8], pieces: &[Piece], top: u64) -> Result<(u64, Vec<u8>), LayoutError> {
    let start = pieces.iter().map(|piece| piece.2).min().ok_or_else(|| kernel("has nothing to load"))?;
    let ends = pieces.iter().map(|piece| piece.2.checked_add(piece.3));
    let end = ends.collect::<Option<Vec<u64>>>().and_then(|ends| ends.into_iter().max()).unwrap_or(u64::MAX);
    // Thousands of segments may name the same bytes of the file, each to be copied.
    let length = pieces.iter().fold(0u64, |sum, piece| sum.saturating_add(piece.1));
    if end > top || length > top {
        return Err(kernel("does not fit into the machine's memory"));
    }
    if start < LOW || start < 0x10_0000 && end > 0xa_0000 {
        return Err(kernel(format!("wants to be loaded at {start:#x}, which is the firmware's")));
    }
    let size = (end - start) as usize;
    let mut image = Vec::new();
    image
        .try_reserve_exact(size)
        .map_err(|_| kernel(format!("wants {size} bytes, more than there are here")))?;
    image.resize(size, 0);
    for (offset, length, address, _) in pieces {
        let from = usize::try_from(*offset).ok().zip(usize::try_from(*length).ok());
        let data = from.and_then(|(offset, length)| file.get(offset..)?.get(..length));
        let data = data.ok_or_else(|| kernel("multiboot kernel is truncated"))?;
        let at = (address - start) as usize;
        if let Some(place) = image.get_mut(at..at + data.len()) {
            place.copy_from_slice(data);
        }
    }
    Ok((start, image))
}

/// The words of `-initrd`: modules separated by commas (a doubled comma stands for one), each a file with arguments.
fn module_names(text: &str) -> Vec<String> {
    let mut names = vec![String::new()];
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == ',' && letters.next_if_eq(&',').is_none() {
            names.push(String::new());
        } else if let Some(name) = names.last_mut() {
            name.push(letter);
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Reads the files of `-kernel` (already in `file`), `-initrd` and lays them out below `low_ram`.
///
/// # Errors
/// One line naming option, file and reason.
pub fn load(
    path: &Path,
    file: &[u8],
    append: &str,
    initrd: Option<&Path>,
    low_ram: u64,
) -> Result<Kernel, Fail> {
    let given = initrd.map(|path| path.display().to_string()).unwrap_or_default();
    let mut modules = Vec::new();
    for name in module_names(&given) {
        let file = name.split(' ').next().unwrap_or_default();
        let data = read_given("-initrd", Path::new(file), FILE_MAX)?;
        modules.push((name, data));
    }
    let command_line = format!("{} {append}", path.display());
    lay_out(file, command_line.trim_end(), &modules, low_ram).map_err(|why| match why {
        LayoutError::Kernel(why) => Fail(format!("-kernel {}: {why}", path.display())),
        LayoutError::Initrd(why) => Fail(format!("-initrd {given}: {why}")),
        LayoutError::Append(why) => Fail(format!("-append: {why}")),
    })
}

fn lay_out(
    file: &[u8],
    command_line: &str,
    modules: &[(String, Vec<u8>)],
    low_ram: u64,
) -> Result<Kernel, LayoutError> {
    let reader = Reader(file);
    let at = header(file).ok_or_else(|| kernel("no multiboot header"))? as u64;
    let flags = reader.u32(at + 4)?;
    if flags & REQUIRED & !(ALIGN_MODULES | MEMORY | VIDEO) != 0 {
        return Err(kernel(format!("its multiboot header demands unknown features ({flags:#x})")));
    }
    let top = low_ram.saturating_sub(FIRMWARE_BYTES);
    let (pieces, entry) =
        if flags & ADDRESSES != 0 { from_addresses(&reader, at)? } else { from_elf(&reader)? };
    let (start, image) = assemble(file, &pieces, top)?;
    let end = start + image.len() as u64;
    let entry = u32::try_from(entry).map_err(|_| kernel("its entry point lies above 4 GiB"))?;

    // Modules on pages of their own behind the kernel, above 1 MiB.
    let first = end.max(0x10_0000).next_multiple_of(PAGE);
    let mut data = Vec::new();
    let mut places = Vec::new();
    for (name, module) in modules {
        let from = first + data.len() as u64;
        let to = from + module.len() as u64;
        if to > top {
            let text = format!("{} bytes do not fit into the machine's memory", module.len());
            return Err(LayoutError::Initrd(text));
        }
        data.extend_from_slice(module);
        data.resize(data.len().next_multiple_of(PAGE as usize), 0);
        places.push((from as u32, to as u32, name.as_str()));
    }
    let info = |area: u64| information(command_line, &places, area as u32);
    let size = u64::from(INFO) + info(LOW).len() as u64;
    if LOW + size > INFO_END {
        return Err(LayoutError::Append("command lines are too long".to_owned()));
    }
    // Below the kernel, or behind one that begins there.
    let area = if start < LOW + size { end.next_multiple_of(PAGE) } else { LOW };
    if area + size > INFO_END {
        return Err(kernel(format!("from {start:#x} to {end:#x} leaves no room for the boot information")));
    }
    let info = info(area);
    Ok(Kernel { image: (start as u32, image), modules: (first as u32, data), info, area: area as u32, entry })
}

/// The boot information with what it points to, for [`INFO`] in the area at `area`. The boot ROM fills in the sizes of memory and the
/// length of the memory map.
fn information(command_line: &str, modules: &[(u32, u32, &str)], area: u32) -> Vec<u8> {
    /// Fields: flags, command line, modules, memory map, loader's name (specification section 3.3).
    mod field {
        pub const FLAGS: usize = 0;
        pub const COMMAND_LINE: usize = 16;
        pub const MODULES: usize = 20;
        pub const MODULES_AT: usize = 24;
        pub const MAP_AT: usize = 48;
        pub const LOADER: usize = 64;
    }
    // Memory sizes, command line, modules, memory map, loader's name. No boot device: the kernel comes from no disk of the BIOS.
    const GIVEN: u32 = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
    let base = area + INFO;
    let mut info = optionrom::multiboot_start(base);
    let list_at = info.len();
    info.resize(list_at + 16 * modules.len(), 0);
    let put = |info: &mut Vec<u8>, at: usize, value: u32| {
        if let Some(place) = info.get_mut(at..at + 4) {
            place.copy_from_slice(&value.to_le_bytes());
        }
    };
    let string = |info: &mut Vec<u8>, text: &str| {
        let at = base + info.len() as u32;
        info.extend(text.bytes().filter(|byte| *byte != 0));
        info.push(0);
        at
    };
    for (i, (from, to, name)) in modules.iter().enumerate() {
        let text = string(&mut info, name);
        for (n, value) in [*from, *to, text, 0].into_iter().enumerate() {
            put(&mut info, list_at + 16 * i + 4 * n, value);
        }
    }
    let line = string(&mut info, command_line);
    let loader = string(&mut info, "Bulkhead");
    for (at, value) in [
        (field::FLAGS, GIVEN),
        (field::COMMAND_LINE, line),
        (field::MODULES, modules.len() as u32),
        (field::MODULES_AT, base + list_at as u32),
        (field::MAP_AT, area),
        (field::LOADER, loader),
    ] {
        put(&mut info, at, value);
    }
    info
}

impl Kernel {
    /// Adds the kernel to the firmware items, with the boot ROM as first boot device.
    pub fn add_to(self, items: &mut Items) {
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
        part([key::KERNEL_ADDR, key::KERNEL_SIZE, key::KERNEL_DATA], self.image);
        part([key::INITRD_ADDR, key::INITRD_SIZE, key::INITRD_DATA], self.modules);
        part([key::CMDLINE_ADDR, key::CMDLINE_SIZE, key::CMDLINE_DATA], (self.area + INFO, self.info));
        items.file("genroms/multiboot.bin", optionrom::multiboot(&transfers, self.area, self.entry));
        items.file("bootorder", b"/rom@genroms/multiboot.bin\n\0".to_vec());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAM: u64 = 64 << 20;

    /// A file of zeros with a header at `at`.
    fn file(at: usize, flags: u32, fields: [u32; 5]) -> Vec<u8> {
        let mut file = vec![0u8; 0x3000];
        let words = [MAGIC, flags, 0u32.wrapping_sub(MAGIC).wrapping_sub(flags)];
        for (i, word) in words.into_iter().chain(fields).enumerate() {
            file[at + 4 * i..at + 4 * i + 4].copy_from_slice(&word.to_le_bytes());
        }
        file
    }

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
    }

    #[test]
    fn address_fields_place_the_file_and_its_zeroed_end() {
        let mut image =
            file(0x100, ADDRESSES | MEMORY, [0x10_0100, 0x10_0000, 0x10_2000, 0x10_4000, 0x10_0010]);
        image[0x1fff] = 7;
        image[0x2000] = 9;
        let loaded = lay_out(&image, "k a", &[], RAM).expect("valid");
        assert_eq!((loaded.image.0, loaded.image.1.len(), loaded.entry), (0x10_0000, 0x4000, 0x10_0010));
        assert_eq!((loaded.image.1[0x1fff], loaded.image.1[0x2000]), (7, 0));
    }

    #[test]
    fn modules_lie_on_pages_and_are_named() {
        let image = file(0, ADDRESSES, [0x10_0000, 0x10_0000, 0, 0, 0x10_0000]);
        let modules = [("a x".to_owned(), vec![1; 5]), ("b".to_owned(), vec![2; 4096])];
        let loaded = lay_out(&image, "k", &modules, RAM).expect("valid");
        assert_eq!((loaded.modules.0, loaded.modules.1.len()), (0x10_3000, 8192));
        let info = &loaded.info;
        assert_eq!((word(info, 0), word(info, 12)), (0x24d, 0), "no boot device");
        assert_eq!(word(info, 20), 2);
        let base = loaded.area + INFO;
        let list = (word(info, 24) - base) as usize;
        let text = |at: usize| {
            let start = (word(info, at) - base) as usize;
            info[start..].split(|byte| *byte == 0).next().map(<[u8]>::to_vec).expect("a string")
        };
        assert_eq!((word(info, list), word(info, list + 4)), (0x10_3000, 0x10_3005));
        assert_eq!((word(info, list + 16), word(info, list + 20)), (0x10_4000, 0x10_5000));
        assert_eq!(
            (text(list + 8), text(list + 24), text(16)),
            (b"a x".to_vec(), b"b".to_vec(), b"k".to_vec())
        );
    }

    #[test]
    fn the_boot_information_lies_below_the_kernel_or_behind_a_low_one() {
        for (at, area) in [(0x10_0000, 0x8000), (0xa000, 0x8000), (0x9000, 0xc000), (0x8000, 0xb000)] {
            let loaded = lay_out(&file(0, ADDRESSES, [at, at, 0, 0, at]), "k", &[], RAM).expect("valid");
            assert_eq!((loaded.image.0, loaded.area), (at, area));
            assert_eq!((word(&loaded.info, 48), word(&loaded.info, 0x9a)), (area, area + INFO + 0x80));
        }
    }

    #[test]
    fn files_that_cannot_be_loaded_say_why() {
        let error = |file: &[u8], ram: u64| match lay_out(file, "", &[], ram) {
            Err(LayoutError::Kernel(why)) => why,
            other => panic!("{other:?}"),
        };
        let fields = [0x10_0000, 0x10_0000, 0, 0, 0x10_0000];
        assert!(error(&file(0, 0x20, fields), RAM).contains("unknown features"));
        assert!(error(&file(0, 0, fields), RAM).contains("ELF"));
        assert!(error(&file(0, ADDRESSES, fields), 1 << 20).contains("memory"));
        assert!(error(&file(0, ADDRESSES, [0, 0x10_0000, 0, 0, 0]), RAM).contains("contradict"));
        assert!(error(&file(0, ADDRESSES, [0x7000, 0x7000, 0, 0, 0]), RAM).contains("firmware"));
        assert!(
            error(&file(0, ADDRESSES, [0x9000, 0x9000, 0, 0x7_f000, 0]), RAM).contains("boot information")
        );
        assert!(
            error(&file(0, ADDRESSES, [0x10_0000, 0x10_0000, 0x20_0000, 0, 0]), RAM).contains("truncated")
        );
        let mut elf = file(0x100, 0, fields);
        elf[..4].copy_from_slice(b"\x7fELF");
        assert!(error(&elf, RAM).contains("another kind"));
        elf[4..6].copy_from_slice(&[1, 1]);
        elf[18] = 3;
        // A table of segments beyond the end, and one of absurd size.
        elf[28..32].copy_from_slice(&u32::MAX.to_le_bytes());
        elf[42..46].copy_from_slice(&[32, 0, 1, 0]);
        assert!(error(&elf, RAM).contains("truncated"));
        elf[44] = 0;
        assert!(error(&elf, RAM).contains("nothing to load"));
    }

    #[test]
    fn an_elf_file_whose_segments_overlap_costs_no_more_than_memory() {
        const LENGTH: u32 = 0x1_0000;
        let load = |segments: u16, entry_size: u16| {
            let mut elf = file(0x100, 0, [0; 5]);
            elf.resize(0x1000 + LENGTH as usize, 0);
            elf[..6].copy_from_slice(b"\x7fELF\x01\x01");
            elf[18] = 3;
            elf[28..32].copy_from_slice(&0x200u32.to_le_bytes());
            elf[42..44].copy_from_slice(&entry_size.to_le_bytes());
            elf[44..46].copy_from_slice(&segments.to_le_bytes());
            for at in (0..usize::from(segments)).map(|i| 0x200 + 32 * i) {
                let words = [1, 0x1000, 0x10_0000, 0x10_0000, LENGTH, LENGTH];
                for (i, word) in words.into_iter().enumerate() {
                    elf[at + 4 * i..at + 4 * i + 4].copy_from_slice(&word.to_le_bytes());
                }
            }
            match lay_out(&elf, "k", &[], (2 << 20) + FIRMWARE_BYTES) {
                Ok(loaded) => Ok(loaded.image.1.len()),
                Err(LayoutError::Kernel(why)) => Err(why),
                Err(other) => panic!("{other:?}"),
            }
        };
        assert_eq!(load(32, 32), Ok(LENGTH as usize), "2 MiB in all");
        assert_eq!(load(33, 32), Err("does not fit into the machine's memory".to_owned()));
        for size in [0, 31] {
            assert_eq!(load(1, size), Err("the ELF file's program headers are too short".to_owned()));
        }
    }

    #[test]
    fn a_doubled_comma_is_part_of_a_name() {
        assert_eq!(module_names("a x,b,,c y"), ["a x", "b,c y"]);
        assert_eq!(module_names(""), Vec::<String>::new());
    }
}
