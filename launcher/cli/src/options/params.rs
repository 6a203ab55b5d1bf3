//! Arguments of the form `name=value,name=value` and numbers as C writes them.

use std::ffi::{OsStr, OsString};
use std::ops::RangeInclusive;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::error::OptionError;
use crate::options::Given;

/// Splits at single commas; a doubled comma stands for one comma inside an item.
pub fn split_commas(value: &OsStr) -> Vec<OsString> {
    let mut items = Vec::new();
    let mut item = Vec::new();
    let mut bytes = value.as_bytes().iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b',' {
            item.push(byte);
        } else if bytes.next_if_eq(&b',').is_some() {
            item.push(b',');
        } else {
            items.push(OsString::from_vec(std::mem::take(&mut item)));
        }
    }
    items.push(OsString::from_vec(item));
    items
}

/// The parameters of one argument; each is taken out once, and what is left over is an error.
#[derive(Debug)]
pub struct Params<'a> {
    given: Given<'a>,
    pairs: Vec<(String, OsString)>,
}

impl<'a> Params<'a> {
    /// Parses `items` of the argument of `given`: all must be `name=value`, with `name` out of `known`.
    pub fn new(given: &Given<'a>, items: &[OsString], known: &[&str]) -> Result<Self, OptionError> {
        let mut pairs: Vec<(String, OsString)> = Vec::new();
        for item in items {
            let bytes = item.as_bytes();
            let Some(equals) = bytes.iter().position(|&b| b == b'=') else {
                let shown = item.to_string_lossy();
                let reason = if bytes.is_empty() {
                    "empty parameter between commas (a comma inside a value is doubled)".to_owned()
                } else {
                    format!("\"{shown}\" is not of the form name=value")
                };
                return Err(given.bad(reason));
            };
            let (name, value) = bytes.split_at(equals);
            let name = String::from_utf8_lossy(name).into_owned();
            let value = OsStr::from_bytes(value.get(1..).unwrap_or_default()).to_owned();
            if !known.contains(&name.as_str()) {
                return Err(given.bad(format!("unknown parameter \"{name}\"")));
            }
            if pairs.iter().any(|(other, _)| *other == name) {
                return Err(given.bad(format!("{name}= given twice")));
            }
            pairs.push((name, value));
        }
        Ok(Params { given: *given, pairs })
    }

    /// Takes `name` as raw bytes.
    pub fn raw(&mut self, name: &str) -> Option<OsString> {
        let at = self.pairs.iter().position(|(other, _)| other == name)?;
        Some(self.pairs.remove(at).1)
    }

    /// Takes `name` as text.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, OptionError> {
        let Some(value) = self.raw(name) else { return Ok(None) };
        match value.into_string() {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(self.given.bad(format!("{name}= is not valid UTF-8"))),
        }
    }

    /// Takes `name` as a number within `range`.
    pub fn number(&mut self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, OptionError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match number(&text, range) {
            Ok(value) => Ok(Some(value)),
            Err(reason) => Err(self.given.bad(format!("{name}={text}: {reason}"))),
        }
    }

    /// What was not taken, in command-line order.
    pub fn rest(self) -> Vec<(String, OsString)> {
        self.pairs
    }
}

/// A number as C's `strtoul` with base 0 reads it: decimal, `0x` hexadecimal, leading `0` octal; no sign, no suffix.
pub fn number(text: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
    let (digits, radix) = if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        (hex, 16)
    } else if text.len() > 1 && text.starts_with('0') {
        (text.get(1..).unwrap_or_default(), 8)
    } else {
        (text, 10)
    };
    in_range(unsigned(digits, radix)?, range)
}

/// A decimal number.
pub fn decimal(text: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
    in_range(unsigned(text, 10)?, range)
}

/// Saturates, so that a number too long for 64 bits is reported as out of range and not as no number.
fn unsigned(digits: &str, radix: u32) -> Result<u64, String> {
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err("not a number".to_owned());
    }
    Ok(u64::from_str_radix(digits, radix).unwrap_or(u64::MAX))
}

fn in_range(value: u64, range: RangeInclusive<u64>) -> Result<u64, String> {
    if range.contains(&value) {
        Ok(value)
    } else {
        Err(format!("must be {} to {}", range.start(), range.end()))
    }
}

/// A UUID written 8-4-4-4-12, first digit first.
pub fn uuid(text: &str) -> Option<[u8; 16]> {
    let groups: Vec<&str> = text.split('-').collect();
    if groups.iter().map(|group| group.len()).ne([8, 4, 4, 4, 12]) {
        return None;
    }
    let digits: Vec<u32> = groups.concat().chars().map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = pair.iter().fold(0, |value, digit| value << 4 | *digit as u8);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubled_comma_is_one_comma() {
        let split = |text: &str| split_commas(OsStr::new(text));
        assert_eq!(split("file=my,,file"), ["file=my,file"]);
        assert_eq!(split("a,b"), ["a", "b"]);
        assert_eq!(split("a,,,b"), ["a,", "b"]);
        assert_eq!(split("a,"), ["a", ""]);
        assert_eq!(split(""), [""]);
    }

    #[test]
    fn numbers_follow_c_prefixes() {
        let any = 0..=u64::MAX;
        assert_eq!(number("20", any.clone()), Ok(20));
        assert_eq!(number("0x14", any.clone()), Ok(20));
        assert_eq!(number("024", any.clone()), Ok(20));
        assert_eq!(number("0", any.clone()), Ok(0));
        for bad in ["", "0x", "-1", "+1", "09", "1 ", "abc", "1k"] {
            assert_eq!(number(bad, any.clone()), Err("not a number".to_owned()), "{bad:?}");
        }
        assert_eq!(number("99999999999999999999999", 0..=9), Err("must be 0 to 9".to_owned()));
    }

    #[test]
    fn uuid_keeps_written_order() {
        let bytes = uuid("00112233-4455-6677-8899-aAbBcCdDeEfF");
        assert_eq!(
            bytes,
            Some([0, 17, 34, 51, 68, 85, 102, 119, 136, 153, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff])
        );
        for bad in [
            "",
            "00112233445566778899aabbccddeeff",
            "00112233-4455-6677-8899-aabbccddeefg",
            "é0112233-4455-6677-8899-aabbccddeef",
        ] {
            assert_eq!(uuid(bad), None, "{bad:?}");
        }
    }
}
