//! How one input becomes another.

use bulkhead_bus::storm::Random;

use crate::corpus::INPUT_MAX;

/// Bytes at which code likes to decide.
const EDGES: &[u8] = &[0, 1, 2, 7, 8, 0x0f, 0x10, 0x1f, 0x20, 0x7f, 0x80, 0xa0, 0xc0, 0xe0, 0xfe, 0xff];

/// A position in `bytes`, its end included.
fn place(bytes: &[u8], random: &mut Random) -> usize {
    random.below(bytes.len() as u64 + 1) as usize
}

/// A range of at most `longest` bytes.
fn range(bytes: &[u8], longest: usize, random: &mut Random) -> std::ops::Range<usize> {
    let start = place(bytes, random);
    let len = 1 + random.below(longest as u64) as usize;
    start..start.saturating_add(len).min(bytes.len())
}

/// A changed copy of `input`: a few of the usual changes one after the other. `other` is a second input to take pieces from, `words`
/// are byte strings that mean something to the target.
pub fn mutate(input: &[u8], other: &[u8], words: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..1 + random.below(5) {
        let at = place(&bytes, random);
        match random.below(11) {
            0 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            1 | 2 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random.draw() as u8;
                }
            }
            3 => {
                let edge = EDGES.get(random.below(EDGES.len() as u64) as usize).copied().unwrap_or(0);
                for byte in bytes.iter_mut().skip(at).take(1 << random.below(4)) {
                    *byte = edge;
                }
            }
            4 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = byte.wrapping_add(random.below(9) as u8).wrapping_sub(4);
                }
            }
            5 => {
                let count = 1 + random.below(16);
                let fresh: Vec<u8> = (0..count).map(|_| random.draw() as u8).collect();
                bytes.splice(at..at, fresh);
            }
            6 => {
                let range = range(&bytes, 1 << random.below(8), random);
                bytes.drain(range);
            }
            7 => {
                let range = range(&bytes, 1 << random.below(7), random);
                let piece = bytes.get(range).unwrap_or_default().to_vec();
                bytes.splice(at..at, piece);
            }
            8 => {
                let range = range(other, 1 << random.below(9), random);
                let piece = other.get(range).unwrap_or_default().to_vec();
                bytes.splice(at..at, piece);
            }
            9 => {
                let range = range(other, other.len().max(1), random);
                bytes.truncate(at);
                bytes.extend(other.get(range).unwrap_or_default());
            }
            _ => match words.get(random.below(words.len() as u64) as usize) {
                Some(word) => drop(bytes.splice(at..at, word.iter().copied())),
                None => bytes.extend((0..32).map(|_| random.draw() as u8)),
            },
        }
    }
    bytes.truncate(INPUT_MAX);
    bytes
}
