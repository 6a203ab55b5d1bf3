//! The boot ROMs of `-kernel`: a PnP expansion ROM (Plug and Play BIOS 1.0A, section 3) that offers itself as a boot device, has
//! the firmware interface load each part of the kernel by DMA, and jumps to a Linux kernel's real-mode entry or a multiboot kernel's entry.
//!
//! The program is bytes, so that it is the same on every host; a test disassembles it against its listing.

/// Offset of the PnP header.
const PNP: usize = 0x20;
/// Offset of the product name.
const NAME: usize = 0x40;
/// Offset of the program.
const CODE: usize = 0x60;
/// Offset of: u16 data and stack segment, u16 stack pointer, u16 code segment, u16 number of transfers.
const VALUES: usize = 0xf0;
/// Offset of the transfers: 16 bytes each as the DMA interface wants them.
const TRANSFERS: usize = 0x100;
/// Most transfers.
pub const TRANSFERS_MAX: usize = 15;
/// Bytes of the image.
const SIZE: usize = 512;

/// `PROGRAM` as a disassembler shows it at [`CODE`]. A transfer is copied to 0:7000, its address given to port 518, and its
/// first word polled until it is 0; the error bit gives the boot back to the firmware.
#[cfg(test)]
const LISTING: &str = "\
cli|cld|xor ax,ax|mov ss,ax|mov sp,7000h|mov es,ax|mov ax,cs|mov ds,ax|mov si,100h|mov bp,[0F6h]
mov di,7000h|mov cx,8h|rep movsw [di],[si]|mov dx,514h|xor eax,eax|out dx,eax|mov eax,700000h|mov dx,518h|out dx,eax
mov eax,es:[7000h]|test eax,eax|je 0A5h|test eax,1000000h|je 91h|int 18h
dec bp|jne 76h|mov ax,[0F0h]|mov bx,[0F2h]|mov cx,[0F4h]|mov ss,ax|mov sp,bx|push cx|push 0h
mov ds,ax|mov es,ax|mov fs,ax|mov gs,ax|retf";

const PROGRAM: &[u8] = &[
    0xfa, 0xfc, 0x31, 0xc0, 0x8e, 0xd0, 0xbc, 0x00, 0x70, 0x8e, 0xc0, 0x8c, 0xc8, 0x8e, 0xd8, 0xbe, 0x00,
    0x01, 0x8b, 0x2e, 0xf6, 0x00, 0xbf, 0x00, 0x70, 0xb9, 0x08, 0x00, 0xf3, 0xa5, 0xba, 0x14, 0x05, 0x66,
    0x31, 0xc0, 0x66, 0xef, 0x66, 0xb8, 0x00, 0x00, 0x70, 0x00, 0xba, 0x18, 0x05, 0x66, 0xef, 0x26, 0x66,
    0xa1, 0x00, 0x70, 0x66, 0x85, 0xc0, 0x74, 0x0a, 0x66, 0xa9, 0x00, 0x00, 0x00, 0x01, 0x74, 0xee, 0xcd,
    0x18, 0x4d, 0x75, 0xce, 0xa1, 0xf0, 0x00, 0x8b, 0x1e, 0xf2, 0x00, 0x8b, 0x0e, 0xf4, 0x00, 0x8e, 0xd0,
    0x89, 0xdc, 0x51, 0x6a, 0x00, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xe0, 0x8e, 0xe8, 0xcb,
];

/// Offset of the boot information ([`multiboot_start`] and what follows it) in the area that the multiboot ROM fills. The memory map
/// lies before it, 24 bytes an entry.
pub const INFO: u32 = 0x1000;

/// As [`VALUES`] and [`TRANSFERS`], in the multiboot ROM: u16 number of transfers, u16 segment of the area, u32 address of the boot
/// information, u32 entry point and u16 its code segment.
const MULTIBOOT_VALUES: usize = 0x1f0;
const MULTIBOOT_TRANSFERS: usize = 0x200;
const MULTIBOOT_SIZE: usize = 1024;

/// `MULTIBOOT` as a disassembler shows it at [`CODE`]. Begins as `PROGRAM`. Then the memory map of INT 15h AX=E820h is collected, the
/// sizes of lower memory (INT 12h) and upper memory (the entry at 1 MiB) are filled in, and the kernel is entered in protected mode
/// (specification section 3.2) by the descriptors behind the boot information.
#[cfg(test)]
const MULTIBOOT_LISTING: &str = "\
cli|cld|xor ax,ax|mov ss,ax|mov sp,7000h|mov es,ax|mov ax,cs|mov ds,ax|mov si,200h|mov bp,[1F0h]
mov di,7000h|mov cx,8h|rep movsw [di],[si]|mov dx,514h|xor eax,eax|out dx,eax|mov eax,700000h|mov dx,518h|out dx,eax
mov eax,es:[7000h]|test eax,eax|je 0A5h|test eax,1000000h|je 91h|int 18h
dec bp|jne 76h|xor ebx,ebx|mov es,[1F2h]|mov di,4h|mov dword ptr es:[di-4h],14h|mov eax,0E820h|mov ecx,14h|mov edx,534D4150h
int 15h|jb 107h|cmp eax,534D4150h|jne 107h|cmp dword ptr es:[di],100000h|jne 0F9h|cmp dword ptr es:[di+4h],0h
jne 0F9h|mov eax,es:[di+8h]|shr eax,0Ah|mov es:[1008h],eax|add di,18h|test ebx,ebx|je 107h|cmp di,0F00h|jb 0B2h
sub di,4h|mov es:[102Ch],di|int 12h|mov es:[1004h],ax|cli|lgdt es:[1098h]|mov ebx,[1F4h]|mov eax,cr0|or al,1h|mov cr0,eax
mov ax,10h|mov ds,ax|mov es,ax|mov fs,ax|mov gs,ax|mov ss,ax|mov eax,2BADB002h|jmpf fword ptr cs:[1F8h]";

const MULTIBOOT: &[u8] = &[
    0xfa, 0xfc, 0x31, 0xc0, 0x8e, 0xd0, 0xbc, 0x00, 0x70, 0x8e, 0xc0, 0x8c, 0xc8, 0x8e, 0xd8, 0xbe, 0x00,
    0x02, 0x8b, 0x2e, 0xf0, 0x01, 0xbf, 0x00, 0x70, 0xb9, 0x08, 0x00, 0xf3, 0xa5, 0xba, 0x14, 0x05, 0x66,
    0x31, 0xc0, 0x66, 0xef, 0x66, 0xb8, 0x00, 0x00, 0x70, 0x00, 0xba, 0x18, 0x05, 0x66, 0xef, 0x26, 0x66,
    0xa1, 0x00, 0x70, 0x66, 0x85, 0xc0, 0x74, 0x0a, 0x66, 0xa9, 0x00, 0x00, 0x00, 0x01, 0x74, 0xee, 0xcd,
    0x18, 0x4d, 0x75, 0xce, 0x66, 0x31, 0xdb, 0x8e, 0x06, 0xf2, 0x01, 0xbf, 0x04, 0x00, 0x26, 0x66, 0xc7,
    0x45, 0xfc, 0x14, 0x00, 0x00, 0x00, 0x66, 0xb8, 0x20, 0xe8, 0x00, 0x00, 0x66, 0xb9, 0x14, 0x00, 0x00,
    0x00, 0x66, 0xba, 0x50, 0x41, 0x4d, 0x53, 0xcd, 0x15, 0x72, 0x36, 0x66, 0x3d, 0x50, 0x41, 0x4d, 0x53,
    0x75, 0x2e, 0x26, 0x66, 0x81, 0x3d, 0x00, 0x00, 0x10, 0x00, 0x75, 0x16, 0x26, 0x66, 0x83, 0x7d, 0x04,
    0x00, 0x75, 0x0e, 0x26, 0x66, 0x8b, 0x45, 0x08, 0x66, 0xc1, 0xe8, 0x0a, 0x26, 0x66, 0xa3, 0x08, 0x10,
    0x83, 0xc7, 0x18, 0x66, 0x85, 0xdb, 0x74, 0x06, 0x81, 0xff, 0x00, 0x0f, 0x72, 0xab, 0x83, 0xef, 0x04,
    0x26, 0x89, 0x3e, 0x2c, 0x10, 0xcd, 0x12, 0x26, 0xa3, 0x04, 0x10, 0xfa, 0x26, 0x66, 0x0f, 0x01, 0x16,
    0x98, 0x10, 0x66, 0x8b, 0x1e, 0xf4, 0x01, 0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0, 0xb8, 0x10,
    0x00, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xe0, 0x8e, 0xe8, 0x8e, 0xd0, 0x66, 0xb8, 0x02, 0xb0, 0xad, 0x2b,
    0x66, 0x2e, 0xff, 0x2e, 0xf8, 0x01,
];

/// One item of the firmware interface to be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Item.
    pub key: u16,
    /// Bytes.
    pub length: u32,
    /// Guest-physical address.
    pub address: u64,
}

/// Registers at the kernel's entry: all data segments and the stack are `segment`, code is `code:0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Data and stack segment.
    pub segment: u16,
    /// Stack pointer.
    pub stack: u16,
    /// Code segment.
    pub code: u16,
}

/// Select the item in the upper half, then read.
const SELECT_AND_READ: u32 = 1 << 3 | 1 << 1;

fn put(rom: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = rom.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

fn balance(rom: &mut [u8], range: std::ops::Range<usize>, checksum: usize) {
    let sum = rom.get(range).unwrap_or_default().iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    put(rom, checksum, &[sum.wrapping_neg()]);
}

/// A ROM of `size` bytes that runs `program`, with `values` and `transfers` at their offsets.
fn rom(
    name: &[u8],
    program: &[u8],
    size: usize,
    values: (usize, &[u16]),
    transfers: (usize, &[Transfer]),
) -> Vec<u8> {
    let mut rom = vec![0u8; size];
    put(&mut rom, 0, &[0x55, 0xaa, (size / 512) as u8]);
    // Initialisation has nothing to do: a far return.
    put(&mut rom, 3, &[0xcb]);
    put(&mut rom, 0x1a, &(PNP as u16).to_le_bytes());
    put(&mut rom, PNP, b"$PnP\x01\x02");
    put(&mut rom, PNP + 0x10, &(NAME as u16).to_le_bytes());
    // Indicators (3.2): only needed when it is chosen as boot device, is an initial program load device.
    put(&mut rom, PNP + 0x15, &[0x14]);
    put(&mut rom, PNP + 0x1a, &(CODE as u16).to_le_bytes());
    put(&mut rom, NAME, name);
    put(&mut rom, CODE, program);
    for (index, value) in values.1.iter().enumerate() {
        put(&mut rom, values.0 + index * 2, &value.to_le_bytes());
    }
    for (index, transfer) in transfers.1.iter().take(TRANSFERS_MAX).enumerate() {
        let at = transfers.0 + index * 16;
        let control = u32::from(transfer.key) << 16 | SELECT_AND_READ;
        put(&mut rom, at, &control.to_be_bytes());
        put(&mut rom, at + 4, &transfer.length.to_be_bytes());
        put(&mut rom, at + 8, &transfer.address.to_be_bytes());
    }
    balance(&mut rom, PNP..PNP + 0x20, PNP + 9);
    balance(&mut rom, 0..size, size - 1);
    rom
}

/// The ROM image that makes `transfers` (at most [`TRANSFERS_MAX`]) and enters the kernel.
pub fn image(transfers: &[Transfer], entry: Entry) -> Vec<u8> {
    let count = transfers.len().min(TRANSFERS_MAX) as u16;
    let values = [entry.segment, entry.stack, entry.code, count];
    rom(b"Linux kernel\0", PROGRAM, SIZE, (VALUES, &values), (TRANSFERS, transfers))
}

/// The ROM image that makes `transfers` (at least one, at most [`TRANSFERS_MAX`]) and enters a multiboot kernel at `entry`. `area`, on a page
/// below 1 MiB, is for memory map and boot information.
pub fn multiboot(transfers: &[Transfer], area: u32, entry: u32) -> Vec<u8> {
    /// The code descriptor of [`multiboot_start`].
    const CODE_SEGMENT: u16 = 8;
    let count = transfers.len().min(TRANSFERS_MAX) as u16;
    let [info, entry] = [area + INFO, entry].map(|address| [address as u16, (address >> 16) as u16]);
    let values = [count, (area >> 4) as u16, info[0], info[1], entry[0], entry[1], CODE_SEGMENT];
    let places = ((MULTIBOOT_VALUES, &values[..]), (MULTIBOOT_TRANSFERS, transfers));
    rom(b"Multiboot kernel\0", MULTIBOOT, MULTIBOOT_SIZE, places.0, places.1)
}

/// What begins at address `info`: room for the boot information (116 bytes), then the descriptor table with flat code and data segments
/// and its register image.
pub fn multiboot_start(info: u32) -> Vec<u8> {
    const TABLE: usize = 0x80;
    let mut start = vec![0u8; 0xa0];
    put(&mut start, TABLE + 8, &0x00cf_9b00_0000_ffffu64.to_le_bytes());
    put(&mut start, TABLE + 16, &0x00cf_9300_0000_ffffu64.to_le_bytes());
    put(&mut start, 0x98, &23u16.to_le_bytes());
    put(&mut start, 0x9a, &(info + TABLE as u32).to_le_bytes());
    start
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, FastFormatter};

    const ENTRY: Entry = Entry { segment: 0x1000, stack: 0xfff0, code: 0x1020 };

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn image_and_header_sum_to_zero_and_fit_one_block() {
        let rom = image(&[Transfer { key: 0x11, length: 5, address: 0x10_0000 }], ENTRY);
        assert_eq!(rom.len(), 512);
        assert_eq!(sum(&rom), 0);
        assert_eq!(sum(&rom[PNP..PNP + 0x20]), 0);
        assert_eq!(&rom[..3], &[0x55, 0xaa, 1]);
        assert!(CODE + PROGRAM.len() <= VALUES);
    }

    #[test]
    fn a_transfer_is_big_endian_select_and_read() {
        let rom = image(&[Transfer { key: 0x11, length: 5, address: 0x10_0000 }], ENTRY);
        let expected = [0, 0x11, 0, 0x0a, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0x10, 0, 0];
        assert_eq!(&rom[TRANSFERS..TRANSFERS + 16], &expected);
        assert_eq!(&rom[VALUES..VALUES + 8], &[0, 0x10, 0xf0, 0xff, 0x20, 0x10, 1, 0]);
    }

    #[test]
    fn the_programs_are_what_their_listings_say() {
        for (program, listing) in [(PROGRAM, LISTING), (MULTIBOOT, MULTIBOOT_LISTING)] {
            let mut decoder = Decoder::with_ip(16, program, CODE as u64, DecoderOptions::NONE);
            let mut formatter = FastFormatter::new();
            let mut got = Vec::new();
            let plain = |text: &str| {
                text.to_lowercase().replace("short ", "").replace("ds:", "").replace("dword ptr ", "")
            };
            while decoder.can_decode() {
                let mut text = String::new();
                formatter.format(&decoder.decode(), &mut text);
                got.push(plain(&text));
            }
            let expected: Vec<String> = listing.split(['|', '\n']).map(plain).collect();
            assert_eq!(got, expected);
        }
    }

    #[test]
    fn the_multiboot_program_and_its_values_do_not_overlap() {
        let rom = multiboot(&[Transfer { key: 0x11, length: 5, address: 0x10_0000 }], 0x2_3000, 0x1234_5678);
        assert_eq!((rom.len(), sum(&rom)), (1024, 0));
        assert_eq!(&rom[..3], &[0x55, 0xaa, 2]);
        assert!(CODE + MULTIBOOT.len() <= MULTIBOOT_VALUES);
        let values = [1, 0, 0x00, 0x23, 0, 0x40, 2, 0, 0x78, 0x56, 0x34, 0x12, 8, 0];
        assert_eq!(&rom[MULTIBOOT_VALUES..MULTIBOOT_VALUES + 14], &values);
    }
}
