//! The boot ROM of `-kernel`: a PnP expansion ROM (Plug and Play BIOS 1.0A, section 3) that offers itself as a boot device, has
//! the firmware interface load each part of the kernel by DMA, and jumps to the kernel's real-mode entry.
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

/// The ROM image that makes `transfers` (at most [`TRANSFERS_MAX`]) and enters the kernel.
pub fn image(transfers: &[Transfer], entry: Entry) -> Vec<u8> {
    let mut rom = vec![0u8; SIZE];
    put(&mut rom, 0, &[0x55, 0xaa, (SIZE / 512) as u8]);
    // Initialisation has nothing to do: a far return.
    put(&mut rom, 3, &[0xcb]);
    put(&mut rom, 0x1a, &(PNP as u16).to_le_bytes());
    put(&mut rom, PNP, b"$PnP\x01\x02");
    put(&mut rom, PNP + 0x10, &(NAME as u16).to_le_bytes());
    // Indicators: may be shadowed, is an initial program load device.
    put(&mut rom, PNP + 0x15, &[0x14]);
    put(&mut rom, PNP + 0x1a, &(CODE as u16).to_le_bytes());
    put(&mut rom, NAME, b"Linux kernel\0");
    put(&mut rom, CODE, PROGRAM);
    let count = transfers.len().min(TRANSFERS_MAX);
    for (index, value) in [entry.segment, entry.stack, entry.code, count as u16].into_iter().enumerate() {
        put(&mut rom, VALUES + index * 2, &value.to_le_bytes());
    }
    for (index, transfer) in transfers.iter().take(count).enumerate() {
        let at = TRANSFERS + index * 16;
        let control = u32::from(transfer.key) << 16 | SELECT_AND_READ;
        put(&mut rom, at, &control.to_be_bytes());
        put(&mut rom, at + 4, &transfer.length.to_be_bytes());
        put(&mut rom, at + 8, &transfer.address.to_be_bytes());
    }
    balance(&mut rom, PNP..PNP + 0x20, PNP + 9);
    balance(&mut rom, 0..SIZE, SIZE - 1);
    rom
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
    fn the_program_is_what_its_listing_says() {
        let mut decoder = Decoder::with_ip(16, PROGRAM, CODE as u64, DecoderOptions::NONE);
        let mut formatter = FastFormatter::new();
        let mut listing = Vec::new();
        while decoder.can_decode() {
            let mut text = String::new();
            formatter.format(&decoder.decode(), &mut text);
            listing.push(text);
        }
        let plain = |text: &str| text.to_lowercase().replace("short ", "").replace("ds:", "");
        let got: Vec<String> = listing.iter().map(|line| plain(line)).collect();
        let expected: Vec<String> = LISTING.split(['|', '\n']).map(plain).collect();
        assert_eq!(got, expected);
    }
}
