//! Reads the text on a VM's screen from its picture.
//!
//! The characters are recognised by their shapes, those of the 8x16 font in the VGA BIOS that the card runs: whatever shows
//! here was fetched from video memory, looked up in the card's font or drawn by the guest, and coloured by the palette.

use std::time::{Duration, Instant};

use crate::monitor::Monitor;

/// Rows of a character.
const HEIGHT: usize = 16;
/// The digit 1 in the font, to find the font in the firmware.
const ONE: [u8; HEIGHT] = [0, 0, 0x18, 0x38, 0x78, 0x18, 0x18, 0x18, 0x18, 0x18, 0x18, 0x7e, 0, 0, 0, 0];
/// Folders that a VGA BIOS is in.
const FIRMWARE: &str = "/usr/share/seabios/vgabios-stdvga.bin";

/// A picture as `screendump` writes it: binary PPM, 8 bits a colour.
pub struct Screen {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    pixels: Vec<[u8; 3]>,
}

/// Shapes of the printable ASCII characters, from ' '.
fn font() -> Vec<[u8; HEIGHT]> {
    let firmware = std::fs::read(FIRMWARE).unwrap_or_else(|error| panic!("{FIRMWARE}: {error}"));
    let one = firmware.windows(HEIGHT).position(|window| window == ONE).expect("a font in the VGA BIOS");
    let space = one - (usize::from(b'1') - usize::from(b' ')) * HEIGHT;
    firmware[space..]
        .chunks_exact(HEIGHT)
        .take(0x7f - 0x20)
        .map(|shape| shape.try_into().expect("rows of a character"))
        .collect()
}

impl Screen {
    /// Asks the monitor for the screen; `file` is where it may be written.
    ///
    /// # Panics
    /// When there is no picture, or not of the size it says.
    pub fn dump(monitor: &mut Monitor, file: &str) -> Screen {
        let answer = monitor.ask(&format!("screendump {file}"));
        assert_eq!(answer, "", "screendump");
        let data = std::fs::read(file).expect("screendump wrote a file");
        let mut fields = data.splitn(4, |&byte| byte == b'\n' || byte == b' ');
        let mut field = || String::from_utf8_lossy(fields.next().expect("a PPM header")).into_owned();
        assert_eq!(field(), "P6");
        let (width, height): (usize, usize) =
            (field().parse().expect("width"), field().parse().expect("height"));
        let rest = fields.next().and_then(|rest| rest.strip_prefix(b"255\n")).expect("8 bits a colour");
        assert_eq!(rest.len(), width * height * 3, "a picture of {width}x{height}");
        let pixels = rest.chunks_exact(3).map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
        Screen { width, height, pixels }
    }

    /// The shape in a character cell: every pixel that is not of the colour that most of the cell has.
    fn cell(&self, left: usize, top: usize) -> [u8; HEIGHT] {
        let at = |x: usize, y: usize| self.pixels[(top + y) * self.width + left + x];
        let mut colours: Vec<([u8; 3], usize)> = Vec::new();
        for (x, y) in (0..HEIGHT).flat_map(|y| (0..8).map(move |x| (x, y))) {
            match colours.iter_mut().find(|(colour, _)| *colour == at(x, y)) {
                Some((_, count)) => *count += 1,
                None => colours.push((at(x, y), 1)),
            }
        }
        let ground = colours.iter().max_by_key(|(_, count)| *count).expect("a cell has pixels").0;
        std::array::from_fn(|y| (0..8).fold(0, |row, x| row << 1 | u8::from(at(x, y) != ground)))
    }

    /// The lines of text, without blanks at their ends. A shape that is no ASCII character shows as `~`.
    pub fn text(&self) -> Vec<String> {
        let font = font();
        // Text modes draw a ninth column between characters; a guest's own console in graphics does not.
        let step = if self.width == 720 { 9 } else { 8 };
        let distance = |a: &[u8; HEIGHT], b: &[u8; HEIGHT]| {
            a.iter().zip(b).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>()
        };
        let recognise = |shape: [u8; HEIGHT]| {
            let nearest = font.iter().enumerate().map(|(at, known)| (distance(&shape, known), at)).min();
            match nearest {
                // A guest's font may differ by a few pixels.
                Some((far, at)) if far <= 8 => char::from(b' ' + at as u8),
                _ => '~',
            }
        };
        (0..self.height / HEIGHT)
            .map(|row| {
                let cells =
                    (0..self.width / step).map(|column| recognise(self.cell(column * step, row * HEIGHT)));
                cells.collect::<String>().trim_end().to_owned()
            })
            .collect()
    }

    /// Looks at the screen until a line has all of `parts`; that line.
    ///
    /// # Panics
    /// After `seconds`, with what the screen shows.
    pub fn wait(monitor: &mut Monitor, file: &str, parts: &[&str], seconds: u64) -> String {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            let lines = Screen::dump(monitor, file).text();
            if let Some(line) = lines.iter().find(|line| parts.iter().all(|part| line.contains(part))) {
                return line.clone();
            }
            assert!(
                Instant::now() < end,
                "no {parts:?} on the screen within {seconds} s:\n{}",
                lines.join("\n")
            );
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}
