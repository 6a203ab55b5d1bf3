//! Corpora: a text file for each target, an input in hexadecimal digits on each line.

use std::path::{Path, PathBuf};

/// Longest input in bytes.
pub const INPUT_MAX: usize = 4096;

/// The file of a target's kept corpus.
pub fn kept(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

/// Reads a corpus; none when there is no file.
///
/// # Errors
/// A line that is not hexadecimal, with its number.
pub fn read(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = |(number, line): (usize, &str)| {
        bytes(line).ok_or_else(|| format!("{}: line {} is no input", path.display(), number + 1))
    };
    text.lines().enumerate().map(line).collect()
}

/// Writes a corpus.
///
/// # Errors
/// The host's.
pub fn write(path: &Path, inputs: &[Vec<u8>]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let text: String = inputs.iter().map(|input| digits(input) + "\n").collect();
    std::fs::write(path, text)
}

/// An input as hexadecimal digits.
pub fn digits(input: &[u8]) -> String {
    input.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// And back.
pub fn bytes(digits: &str) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(2) || !digits.is_ascii() {
        return None;
    }
    (0..digits.len() / 2).map(|at| u8::from_str_radix(digits.get(at * 2..at * 2 + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_survive_being_written_down() {
        let input: Vec<u8> = (0..=255).collect();
        assert_eq!(bytes(&digits(&input)), Some(input));
        assert_eq!(bytes(""), Some(Vec::new()));
        assert_eq!(bytes("0"), None);
        assert_eq!(bytes("xx"), None);
    }
}
