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
/// Most bytes of a structure from a file, or of a field: an entry's length has 16 bits.
const STRUCTURE_MAX: u64 = 0xf000;

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
                let bytes = read_given("-smbios file", path, STRUCTURE_MAX)?;
                let fail = |why| Fail(format!("-smbios file {}: {why}", path.display()));
                let kind = structure_kind(&bytes).map_err(fail)?;
                structures.push((kind, path));
                out.push(1, &bytes);
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
    if let Some((kind, path)) = structures.iter().find(|(kind, _)| fields_of(*kind)) {
        let path = path.display();
        return Err(Fail(format!("-smbios file {path}: holds type {kind}, of which fields are given too")));
    }
    if out.count == 0 {
        return Ok(None);
    }
    let count = u16::try_from(out.count).map_err(|_| Fail("-smbios: too many fields".to_owned()))?;
    let mut item = count.to_le_bytes().to_vec();
    item.extend(out.bytes);
    Ok(Some(item))
}

/// Type of the one structure in `bytes`: a header that states its length, the fields, strings that end with an empty one.
fn structure_kind(bytes: &[u8]) -> Result<u8, &'static str> {
    let [kind, length, _, _, ..] = bytes else { return Err("too short for a structure") };
    let strings = bytes.get(usize::from(*length).max(4)..).unwrap_or_default();
    if *length < 4 || !strings.ends_with(&[0, 0]) {
        return Err("not a structure: its fields have to be followed by strings and two zero bytes");
    }
    Ok(*kind)
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
    if value.len() as u64 > STRUCTURE_MAX {
        return Err(Fail(format!("-smbios type={kind}: {name} is longer than {STRUCTURE_MAX} bytes")));
    }
    let mut text = value.as_bytes().to_vec();
    text.push(0);
    out.field(kind, *offset, &text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_field_states_its_whole_length_structure_and_offset() {
        let fields = vec![("product".to_owned(), "PC".to_owned())];
        let item = item(&[Smbios::Fields { kind: 1, fields }], None).expect("valid");
        assert_eq!(item.as_deref(), Some(&[1, 0, 9, 0, 0, 1, 5, 0, b'P', b'C', 0][..]));
    }

    #[test]
    fn what_an_entry_or_the_item_cannot_count_is_refused() {
        let fields = |name: &str, value: String, count| {
            let fields = vec![(name.to_owned(), value); count];
            item(&[Smbios::Fields { kind: 1, fields }], None)
        };
        assert!(fields("product", "x".repeat(0xf000), 1).is_ok());
        let error = fields("product", "x".repeat(66_000), 1).err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some("-smbios type=1: product is longer than 61440 bytes"));
        assert!(fields("sku", String::new(), 0x1_0000).is_err());
    }

    #[test]
    fn a_file_has_to_hold_a_structure() {
        assert_eq!(structure_kind(&[2, 5, 0, 1, 1, b'A', 0, 0]), Ok(2));
        assert_eq!(structure_kind(&[127, 4, 0, 1, 0, 0]), Ok(127));
        for bytes in [&[][..], &[2, 5, 0], &[2, 3, 0, 1, 0, 0], &[2, 9, 0, 1, 0, 0], &[2, 4, 0, 1, b'A', 0]] {
            assert!(structure_kind(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn nothing_to_say_makes_no_item() {
        assert_eq!(item(&[], None), Ok(None));
    }
}
