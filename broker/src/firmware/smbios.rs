//! `-smbios` and `-uuid`: overrides of the firmware's SMBIOS structures (DSP0134, types 0 and 1).
//!
//! The item is a count, then entries of a 16-bit length (of the whole entry), an 8-bit kind (0 field, 1 structure); a field goes on
//! with the structure type, the 16-bit offset of the field in that structure, and its bytes.

use bulkhead_config::Smbios;

use super::read_given;
use crate::fail::Fail;

/// Name on the command line, offset in the structure; a string unless `Numbers`.
const TYPE0: &[(&str, u16)] = &[("vendor", 4), ("version", 5), ("date", 8)];
const TYPE1: &[(&str, u16)] =
    &[("manufacturer", 4), ("product", 5), ("version", 6), ("serial", 7), ("sku", 25), ("family", 26)];
const TYPE0_RELEASE_MAJOR: u16 = 20;
const TYPE0_RELEASE_MINOR: u16 = 21;
const TYPE1_UUID: u16 = 8;
/// Most bytes of the item. SeaBIOS writes all structures to a buffer of 32 KiB, fields without a look at its end; its own structures
/// for 255 processors and a terabyte of memory take 17 KiB of that.
const ITEM_MAX: usize = 12 << 10;

#[derive(Default)]
struct Entries {
    count: usize,
    bytes: Vec<u8>,
}

impl Entries {
    fn push(&mut self, kind: u8, body: &[u8]) {
        self.count += 1;
        self.bytes.extend(((body.len() + 3) as u16).to_le_bytes());
        self.bytes.push(kind);
        self.bytes.extend(body);
    }

    fn field(&mut self, structure: u8, offset: u16, data: &[u8]) {
        let mut body = vec![structure];
        body.extend(offset.to_le_bytes());
        body.extend(data);
        self.push(0, &body);
    }
}

/// The item, `None` when there is nothing to say.
///
/// # Errors
/// When a file cannot be read or a field is not of its form.
pub fn item(entries: &[Smbios], uuid: Option<[u8; 16]>) -> Result<Option<Vec<u8>>, Fail> {
    let mut out = Entries::default();
    let mut structures = Vec::new();
    if let Some(uuid) = uuid {
        out.field(1, TYPE1_UUID, &uuid);
    }
    for entry in entries {
        match entry {
            Smbios::File(path) => {
                let bytes = read_given("-smbios file", path, ITEM_MAX as u64)?;
                let fail = |why| Fail(format!("-smbios file {}: {why}", path.display()));
                let (kind, body) = structure(&bytes).map_err(fail)?;
                structures.push((kind, path));
                out.push(1, body);
            }
            Smbios::Fields { kind, fields } => {
                for (name, value) in fields {
                    add(&mut out, *kind, name, value)?;
                }
            }
        }
    }
    // The firmware takes a structure as it is, so the fields would be lost.
    let fields_of =
        |kind| entries.iter().any(|entry| matches!(entry, Smbios::Fields { kind: own, .. } if *own == kind));
    for (kind, path) in structures {
        let lost =
            |what| Fail(format!("-smbios file {}: holds type {kind}, of which {what} too", path.display()));
        if fields_of(kind) {
            return Err(lost("fields are given"));
        }
        if kind == 1 && uuid.is_some() {
            return Err(lost("-uuid gives a field"));
        }
    }
    if out.count == 0 {
        return Ok(None);
    }
    let size = 2 + out.bytes.len();
    if size > ITEM_MAX {
        return Err(Fail(format!(
            "-smbios: {size} bytes of fields and files, the firmware takes {ITEM_MAX}"
        )));
    }
    // Each entry has more than one byte.
    let mut item = (out.count as u16).to_le_bytes().to_vec();
    item.extend(out.bytes);
    Ok(Some(item))
}

/// Type of the one structure in `bytes`, and what an entry holds of it: a header that states its length, the fields, strings that end
/// with an empty one (DSP0134, 6.1.3). Its last zero byte is not part of the entry: the firmware adds it.
fn structure(bytes: &[u8]) -> Result<(u8, &[u8]), &'static str> {
    let [kind, length, _, _, ..] = bytes else { return Err("too short for a structure") };
    let strings = bytes.get(usize::from(*length).max(4)..).unwrap_or_default();
    let end = strings.array_windows().position(|pair| *pair == [0, 0]);
    let Some(end) = end.filter(|_| *length >= 4 && strings.ends_with(&[0, 0])) else {
        return Err("not a structure: its fields have to be followed by strings and two zero bytes");
    };
    if end + 2 < strings.len() {
        return Err("more than one structure: a file holds one, up to its first two zero bytes");
    }
    Ok((*kind, bytes.get(..bytes.len() - 1).unwrap_or_default()))
}

fn add(out: &mut Entries, kind: u8, name: &str, value: &str) -> Result<(), Fail> {
    let bad = || Fail(format!("-smbios type={kind}: bad {name}={value}"));
    if kind == 0 && name == "release" {
        let (major, minor) = value.split_once('.').ok_or_else(bad)?;
        out.field(0, TYPE0_RELEASE_MAJOR, &[major.parse().map_err(|_| bad())?]);
        out.field(0, TYPE0_RELEASE_MINOR, &[minor.parse().map_err(|_| bad())?]);
        return Ok(());
    }
    if kind == 1 && name == "uuid" {
        let digits: String = value.chars().filter(|c| *c != '-').collect();
        let uuid = u128::from_str_radix(&digits, 16).map_err(|_| bad())?;
        out.field(1, TYPE1_UUID, &uuid.to_be_bytes());
        return Ok(());
    }
    let table = if kind == 0 { TYPE0 } else { TYPE1 };
    let (_, offset) = table.iter().find(|(known, _)| *known == name).ok_or_else(bad)?;
    if value.len() > ITEM_MAX {
        return Err(Fail(format!("-smbios type={kind}: {name} is longer than {ITEM_MAX} bytes")));
    }
    let mut text = value.as_bytes().to_vec();
    text.push(0);
    out.field(kind, *offset, &text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use bulkhead_tests::Scratch;

    use super::*;

    #[test]
    fn a_string_field_states_its_whole_length_structure_and_offset() {
        let fields = vec![("product".to_owned(), "PC".to_owned())];
        let item = item(&[Smbios::Fields { kind: 1, fields }], None).expect("valid");
        assert_eq!(item.as_deref(), Some(&[1, 0, 9, 0, 0, 1, 5, 0, b'P', b'C', 0][..]));
    }

    #[test]
    fn what_the_firmware_has_no_room_for_is_refused() {
        let fields = |name: &str, value: String, count| {
            let fields = vec![(name.to_owned(), value); count];
            let item = item(&[Smbios::Fields { kind: 1, fields }], None);
            item.map(|item| item.map(|bytes| bytes.len())).map_err(|error| error.to_string())
        };
        // The count, then length, kind, type, offset and a final zero of each.
        assert_eq!(fields("product", "x".repeat(ITEM_MAX - 2 - 7), 1), Ok(Some(ITEM_MAX)));
        let whole = "-smbios: 12289 bytes of fields and files, the firmware takes 12288";
        assert_eq!(fields("product", "x".repeat(ITEM_MAX - 2 - 6), 1), Err(whole.to_owned()));
        let one = "-smbios type=1: product is longer than 12288 bytes";
        assert_eq!(fields("product", "x".repeat(66_000), 1), Err(one.to_owned()));
        assert!(fields("sku", "x".repeat(1000), 12).is_ok());
        assert!(fields("sku", "x".repeat(1000), 13).is_err());
        assert!(fields("sku", String::new(), 0x1_0000).is_err());
    }

    #[test]
    fn a_file_has_to_hold_one_structure() {
        // The firmware ends each with a zero byte of its own.
        assert_eq!(structure(&[2, 5, 0, 1, 1, b'A', 0, 0]), Ok((2, &[2, 5, 0, 1, 1, b'A', 0][..])));
        assert_eq!(structure(&[127, 4, 0, 1, 0, 0]), Ok((127, &[127, 4, 0, 1, 0][..])));
        assert_eq!(structure(&[2, 6, 0, 1, 0, 0, 0, 0]), Ok((2, &[2, 6, 0, 1, 0, 0, 0][..])));
        for bytes in [&[][..], &[2, 5, 0], &[2, 3, 0, 1, 0, 0], &[2, 9, 0, 1, 0, 0], &[2, 4, 0, 1, b'A', 0]] {
            assert!(structure(bytes).is_err(), "{bytes:?}");
        }
        for more in [&[0][..], &[3, 4, 0, 1, 0, 0], &[b'B', 0, 0]] {
            let bytes = [&[2, 4, 0, 1, b'A', 0, 0], more].concat();
            assert!(structure(&bytes).is_err_and(|why| why.starts_with("more than one")), "{bytes:?}");
        }
    }

    #[test]
    fn files_are_entries_of_their_own() {
        let scratch = Scratch::new("smbios");
        let path = PathBuf::from(scratch.file("structure"));
        std::fs::write(&path, [1, 5, 0, 1, 1, b'A', 0, 0]).expect("file");
        let files = vec![Smbios::File(path.clone()); 2];
        let (item, beside_uuid) = (item(&files, None), item(&files, Some([7; 16])));
        let entry = [10, 0, 1, 1, 5, 0, 1, 1, b'A', 0];
        assert_eq!(item.expect("valid"), Some([&[2, 0][..], &entry, &entry].concat()));
        let error = beside_uuid.expect_err("one of both would be lost").to_string();
        assert!(error.contains(&path.display().to_string()) && error.contains("-uuid"), "{error}");
    }

    #[test]
    fn nothing_to_say_makes_no_item() {
        assert_eq!(item(&[], None), Ok(None));
    }
}
