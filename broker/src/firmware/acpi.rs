//! `-acpitable`: a system description table from fields and files (ACPI 1.0b, 5.2.3). `-numa`: what the firmware makes its resource
//! affinity table from.

use bulkhead_config::{AcpiTable, NumaNode};

use super::read_given;
use crate::fail::Fail;

const HEADER: usize = 36;
/// A table's length travels in 16 bits.
const TABLE_MAX: usize = 0xffff;

/// The item that carries all additional tables.
///
/// # Errors
/// When a file cannot be read or a table is too long.
pub fn item(tables: &[AcpiTable]) -> Result<Vec<u8>, Fail> {
    let mut item = (tables.len() as u16).to_le_bytes().to_vec();
    for table in tables {
        let table = build(table)?;
        item.extend((table.len() as u16).to_le_bytes());
        item.extend(table);
    }
    Ok(item)
}

/// The item about nodes, 64 bits each: how many, the node of each of the `cpus` CPUs, the bytes of each node.
pub fn nodes(nodes: &[NumaNode], cpus: u16) -> Vec<u8> {
    let owner = |cpu: &u16| nodes.iter().position(|node| node.cpus.iter().any(|own| u16::from(*own) == *cpu));
    let owners = (0..cpus).map(|cpu| owner(&cpu).unwrap_or(0) as u64);
    let words = std::iter::once(nodes.len() as u64).chain(owners).chain(nodes.iter().map(|node| node.bytes));
    words.flat_map(u64::to_le_bytes).collect()
}

fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [0u8; N];
    field.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
    field
}

fn build(spec: &AcpiTable) -> Result<Vec<u8>, Fail> {
    let mut table = Vec::with_capacity(HEADER);
    table.extend(spec.signature.unwrap_or(*b"QEMU"));
    table.extend([0; 4]);
    table.push(spec.revision.unwrap_or(1));
    table.push(0);
    table.extend(padded::<6>(spec.oem_id.as_deref().unwrap_or("QEMUQE")));
    table.extend(padded::<8>(spec.oem_table_id.as_deref().unwrap_or("QEMUQEMU")));
    table.extend(spec.oem_revision.unwrap_or(1).to_le_bytes());
    table.extend(padded::<4>(spec.compiler_id.as_deref().unwrap_or("QEMU")));
    table.extend(spec.compiler_revision.unwrap_or(1).to_le_bytes());
    for path in &spec.data {
        table.extend(read_given("-acpitable", path, TABLE_MAX as u64)?);
    }
    if table.len() > TABLE_MAX {
        return Err(Fail("-acpitable: table longer than 65535 bytes".to_owned()));
    }
    let length = (table.len() as u32).to_le_bytes();
    if let Some(field) = table.get_mut(4..8) {
        field.copy_from_slice(&length);
    }
    let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(checksum) = table.get_mut(9) {
        *checksum = sum.wrapping_neg();
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_counted_owned_and_sized() {
        let words = |nodes: &[NumaNode], cpus| -> Vec<u64> {
            let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
            super::nodes(nodes, cpus).chunks(8).map(word).collect()
        };
        assert_eq!(words(&[], 2), [0, 0, 0]);
        let two = [NumaNode { bytes: 96, cpus: vec![2] }, NumaNode { bytes: 32, cpus: vec![0, 1] }];
        assert_eq!(words(&two, 3), [2, 1, 1, 0, 96, 32]);
    }

    #[test]
    fn a_table_of_defaults_sums_to_zero_and_states_its_length() {
        let item = item(&[AcpiTable::default()]).expect("no files involved");
        assert_eq!(item.get(..4), Some(&[1, 0, 36, 0][..]));
        let table = item.get(4..).expect("a table follows");
        assert_eq!(table.len(), 36);
        assert_eq!(table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        assert_eq!(table.get(4..8), Some(&36u32.to_le_bytes()[..]));
    }
}
