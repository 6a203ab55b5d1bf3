//! Pictures as the adapter and the peer's monitor save them.

/// A parsed PPM file.
pub struct Picture {
    pub width: usize,
    pub height: usize,
    pub pixels: Vec<u8>,
}

impl Picture {
    pub fn parse(file: &[u8]) -> Picture {
        let mut parts = file.splitn(4, |byte| byte.is_ascii_whitespace());
        let mut word = || String::from_utf8(parts.next().expect("a header").to_vec()).expect("ASCII");
        assert_eq!(word(), "P6");
        let (width, height) = (word().parse().expect("a width"), word().parse().expect("a height"));
        let rest = parts.next().expect("pixels").strip_prefix(b"255\n").expect("8 bits").to_vec();
        assert_eq!(rest.len(), width * height * 3);
        Picture { width, height, pixels: rest }
    }

    pub fn at(&self, x: usize, y: usize) -> [u8; 3] {
        let at = (y * self.width + x) * 3;
        self.pixels[at..at + 3].try_into().expect("three bytes")
    }
}
