//! Firmware images and what the firmware is told about the machine.

use std::io::Read;
use std::path::{Path, PathBuf};

use bulkhead_bus::config::{FwCfgConfig, FwCfgFile, FwCfgItem, FwCfgSource};

use crate::fail::{Fail, reason};

pub mod acpi;
pub mod cmos;
pub mod linux;
pub mod multiboot;
pub mod optionrom;
pub mod smbios;

/// Where Debian's packages put firmware.
const FOLDERS: &[&str] = &["/usr/share/seabios", "/usr/share/qemu", "/usr/share/bochs", "/usr/share/vgabios"];
/// Largest system firmware.
const BIOS_MAX: u64 = 16 << 20;
/// Items up to this size travel in the manifest, the rest in shared memory.
const INLINE_MAX: usize = 1024;

/// Keys of the firmware configuration interface.
pub mod key {
    /// UUID.
    pub const UUID: u16 = 0x02;
    /// RAM bytes, u64.
    pub const RAM_SIZE: u16 = 0x03;
    /// No graphics, u16.
    pub const NOGRAPHIC: u16 = 0x04;
    /// CPUs present at start, u16.
    pub const CPUS: u16 = 0x05;
    /// Machine type, u16.
    pub const MACHINE: u16 = 0x06;
    /// Kernel load address, u32.
    pub const KERNEL_ADDR: u16 = 0x07;
    /// Kernel bytes, u32.
    pub const KERNEL_SIZE: u16 = 0x08;
    /// Initial ramdisk load address, u32.
    pub const INITRD_ADDR: u16 = 0x0a;
    /// Initial ramdisk bytes, u32.
    pub const INITRD_SIZE: u16 = 0x0b;
    /// First boot device letter, u16.
    pub const BOOT_DEVICE: u16 = 0x0c;
    /// NUMA nodes.
    pub const NUMA: u16 = 0x0d;
    /// Show a boot menu, u16.
    pub const BOOT_MENU: u16 = 0x0e;
    /// CPUs that can ever be, u16.
    pub const MAX_CPUS: u16 = 0x0f;
    /// Kernel.
    pub const KERNEL_DATA: u16 = 0x11;
    /// Initial ramdisk.
    pub const INITRD_DATA: u16 = 0x12;
    /// Command line load address, u32.
    pub const CMDLINE_ADDR: u16 = 0x13;
    /// Command line bytes with the final zero, u32.
    pub const CMDLINE_SIZE: u16 = 0x14;
    /// Command line.
    pub const CMDLINE_DATA: u16 = 0x15;
    /// Real-mode part load address, u32.
    pub const SETUP_ADDR: u16 = 0x16;
    /// Real-mode part bytes, u32.
    pub const SETUP_SIZE: u16 = 0x17;
    /// Real-mode part.
    pub const SETUP_DATA: u16 = 0x18;
    /// Additional ACPI tables: count, then length and table each.
    pub const ACPI_TABLES: u16 = 0x8000;
    /// SMBIOS entries.
    pub const SMBIOS: u16 = 0x8001;
    /// Timer interrupt arrives at IOAPIC input 2, u8.
    pub const IRQ0_OVERRIDE: u16 = 0x8002;
}

/// Finds a firmware file: in `-L`'s folder, else where the packages put it.
fn find(names: &[&str], folder: Option<&Path>) -> Option<PathBuf> {
    let folders: Vec<PathBuf> = match folder {
        Some(folder) => vec![folder.to_owned()],
        None => FOLDERS.iter().map(PathBuf::from).collect(),
    };
    names.iter().find_map(|name| folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file()))
}

/// Reads a firmware file of the `seabios` package by the first name that exists.
///
/// # Errors
/// One line naming the file and the package.
pub fn load(names: &[&str], folder: Option<&Path>) -> Result<Vec<u8>, Fail> {
    let Some(path) = find(names, folder) else {
        let name = names.first().copied().unwrap_or_default();
        return Err(Fail(match folder {
            Some(folder) => {
                format!("-L {}: firmware {name} is not there (package `seabios` has it)", folder.display())
            }
            None => {
                format!("firmware {name} not found: install package `seabios`, or say where it is with -L")
            }
        }));
    };
    let image = read_given("firmware", &path, BIOS_MAX)?;
    if image.is_empty() {
        return Err(Fail(format!("firmware {}: is empty", path.display())));
    }
    Ok(image)
}

/// Reads the system firmware.
///
/// # Errors
/// One line naming option, file and reason.
pub fn load_bios(bios: Option<&str>, names: &[&str], folder: Option<&Path>) -> Result<Vec<u8>, Fail> {
    let (image, name) = match bios {
        Some(name) => {
            let path = find(&[name], folder).unwrap_or_else(|| PathBuf::from(name));
            (read_given("-bios", &path, BIOS_MAX)?, format!("-bios {name}"))
        }
        None => (load(names, folder)?, names.first().copied().unwrap_or_default().to_owned()),
    };
    if image.is_empty() || !image.len().is_multiple_of(0x1_0000) {
        return Err(Fail(format!("{name}: {} bytes is no size of a system firmware", image.len())));
    }
    Ok(image)
}

/// Reads the kernel of `-kernel`, which is a multiboot kernel or a Linux one, with its command line and `-initrd`, and adds it to `items`.
///
/// # Errors
/// One line naming option, file and reason.
pub fn add_kernel(
    kernel: &Path,
    append: &str,
    initrd: Option<&Path>,
    low_ram: u64,
    items: &mut Items,
) -> Result<(), Fail> {
    let image = read_given("-kernel", kernel, linux::FILE_MAX)?;
    let low_ram = low_ram.saturating_sub(items.table_bytes());
    if multiboot::is_multiboot(&image) {
        multiboot::load(kernel, &image, append, initrd, low_ram)?.add_to(items);
    } else {
        linux::load(kernel, &image, append, initrd, low_ram)?.add_to(items);
    }
    Ok(())
}

/// The table of firmware items while it is built.
#[derive(Debug, Default)]
pub struct Items {
    items: Vec<(u16, Vec<u8>)>,
    files: Vec<(String, Vec<u8>)>,
}

impl Items {
    /// Adds an item.
    pub fn add(&mut self, key: u16, data: impl Into<Vec<u8>>) {
        self.items.push((key, data.into()));
    }

    /// Adds a 16-bit item.
    pub fn add_u16(&mut self, key: u16, value: u16) {
        self.add(key, value.to_le_bytes());
    }

    /// Adds a 32-bit item.
    pub fn add_u32(&mut self, key: u16, value: u32) {
        self.add(key, value.to_le_bytes());
    }

    /// Adds a file.
    pub fn file(&mut self, name: &str, data: impl Into<Vec<u8>>) {
        self.files.push((name.to_owned(), data.into()));
    }

    /// Bytes of the tables of which the firmware has copies at the top of the low RAM, besides its own.
    fn table_bytes(&self) -> u64 {
        let copied = |item: &&(u16, Vec<u8>)| matches!(item.0, key::ACPI_TABLES | key::SMBIOS);
        self.items.iter().filter(copied).map(|(_, data)| data.len() as u64).sum()
    }

    /// The device's configuration, and its bulk memory's contents.
    pub fn build(self) -> (FwCfgConfig, Vec<u8>) {
        let mut bulk = Vec::new();
        let mut place = |data: Vec<u8>| {
            if data.len() <= INLINE_MAX {
                return FwCfgSource::Inline(data);
            }
            let offset = bulk.len() as u64;
            let len = data.len() as u32;
            bulk.extend(data);
            FwCfgSource::Bulk { offset, len }
        };
        let items =
            self.items.into_iter().map(|(key, data)| FwCfgItem { key, source: place(data) }).collect();
        let files =
            self.files.into_iter().map(|(name, data)| FwCfgFile { name, source: place(data) }).collect();
        (FwCfgConfig { items, files }, bulk)
    }
}

/// Reads a file given to an option, at most `limit` bytes.
///
/// # Errors
/// One line naming option, file and reason.
pub fn read_given(option: &str, path: &Path, limit: u64) -> Result<Vec<u8>, Fail> {
    let fail = |why: String| Fail(format!("{option} {}: {why}", path.display()));
    let meta = std::fs::metadata(path).map_err(|e| fail(reason(&e)))?;
    if meta.is_dir() {
        return Err(fail("is a directory".to_owned()));
    }
    if meta.len() > limit {
        return Err(fail(format!("larger than {limit} bytes")));
    }
    // A device or a pipe has no size that could be known before.
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(limit.saturating_add(1)).read_to_end(&mut bytes))
        .map_err(|e| fail(reason(&e)))?;
    if bytes.len() as u64 > limit {
        return Err(fail(format!("larger than {limit} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use bulkhead_tests::Scratch;

    use super::*;

    #[test]
    fn firmware_without_an_end_is_refused() {
        let error = load_bios(Some("/dev/zero"), &[], None).expect_err("no size at all");
        assert_eq!(error, Fail("-bios /dev/zero: larger than 16777216 bytes".to_owned()));
    }

    #[test]
    fn empty_firmware_is_refused_by_its_name() {
        let scratch = Scratch::new("firmware");
        let file = scratch.file("vgabios.bin");
        std::fs::write(&file, b"").expect("file");
        let loaded = load(&["vgabios.bin"], Path::new(&file).parent());
        assert_eq!(loaded, Err(Fail(format!("firmware {file}: is empty"))));
    }

    #[test]
    fn an_initrd_lies_below_the_firmwares_copies_of_the_tables_given() {
        let scratch = Scratch::new("tables");
        let path = PathBuf::from(scratch.file("kernel"));
        std::fs::write(&path, linux::tests::bzimage(4096)).expect("kernel");
        let start = |tables: &[(u16, usize)]| {
            let mut items = Items::default();
            tables.iter().for_each(|(key, size)| items.add(*key, vec![0; *size]));
            // Any file serves as a ramdisk.
            add_kernel(&path, "", Some(&path), 64 << 20, &mut items).expect("valid");
            let item = items.items.iter().find(|item| item.0 == key::INITRD_ADDR).expect("an initrd");
            u32::from_le_bytes(item.1[..].try_into().expect("four bytes"))
        };
        let [plain, below] =
            [&[][..], &[(key::ACPI_TABLES, 5 << 20), (key::SMBIOS, 4096), (key::UUID, 16)]].map(start);
        assert_eq!(plain - below, (5 << 20) + 4096);
    }
}
