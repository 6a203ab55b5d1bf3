//! Firmware files and the tables that it hands to the guest: `-L -bios -option-rom -acpitable -smbios`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use bulkhead_config::{AcpiTable, Smbios};

use crate::draft::Draft;
use crate::error::{OptionError, Stop};
use crate::options::Given;
use crate::options::params::{Params, decimal, split_commas, uuid};

/// As many option ROMs as QEMU takes.
const MAX_OPTION_ROMS: usize = 16;

/// `-L`.
pub fn firmware_dir(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    draft.config.firmware_dir = Some(given.path()?);
    Ok(())
}

/// `-bios`.
pub fn bios(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    given.path()?;
    draft.config.bios = Some(given.text()?.to_owned());
    Ok(())
}

/// `-option-rom`.
pub fn option_rom(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    if draft.config.option_roms.len() >= MAX_OPTION_ROMS {
        return Err(given.bad(format!("at most {MAX_OPTION_ROMS} option ROMs")).into());
    }
    draft.config.option_roms.push(given.path()?);
    Ok(())
}

/// `-acpitable`: header fields of the ACPI specification 2.0, section 5.2.6 (DESCRIPTION_HEADER), and content files.
pub fn acpi_table(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    const KNOWN: &[&str] =
        &["sig", "rev", "oem_id", "oem_table_id", "oem_rev", "asl_compiler_id", "asl_compiler_rev", "data"];
    let mut params = Params::new(given, &split_commas(given.value), KNOWN)?;
    let signature = match params.text("sig")? {
        None => None,
        Some(text) => match <[u8; 4]>::try_from(text.as_bytes()) {
            Ok(bytes) if bytes.iter().all(u8::is_ascii_graphic) => Some(bytes),
            _ => return Err(given.bad(format!("sig={text}: must be four ASCII characters")).into()),
        },
    };
    let data = match params.raw("data") {
        None => Vec::new(),
        Some(files) => files_by_colon(given, &files)?,
    };
    let table = AcpiTable {
        signature,
        revision: params.number("rev", 0..=0xff)?.map(|rev| rev as u8),
        oem_id: ascii(given, "oem_id", params.text("oem_id")?, 6)?,
        oem_table_id: ascii(given, "oem_table_id", params.text("oem_table_id")?, 8)?,
        oem_revision: params.number("oem_rev", 0..=0xffff_ffff)?.map(|rev| rev as u32),
        compiler_id: ascii(given, "asl_compiler_id", params.text("asl_compiler_id")?, 4)?,
        compiler_revision: params.number("asl_compiler_rev", 0..=0xffff_ffff)?.map(|rev| rev as u32),
        data,
    };
    draft.config.acpi_tables.push(table);
    Ok(())
}

fn files_by_colon(given: &Given, files: &OsStr) -> Result<Vec<std::path::PathBuf>, OptionError> {
    let files: Vec<_> = files.as_bytes().split(|&b| b == b':').map(OsStr::from_bytes).collect();
    if files.iter().any(|file| file.is_empty()) {
        return Err(given.bad("data= holds an empty file name"));
    }
    Ok(files.into_iter().map(Into::into).collect())
}

fn ascii(given: &Given, name: &str, text: Option<String>, max: usize) -> Result<Option<String>, OptionError> {
    match text {
        Some(text) if text.len() > max || !text.bytes().all(|b| b.is_ascii_graphic() || b == b' ') => {
            Err(given.bad(format!("{name}={text}: must be at most {max} ASCII characters")))
        }
        text => Ok(text),
    }
}

/// `-smbios file=binary`, `-smbios type=0,...`, `-smbios type=1,...`.
pub fn smbios(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    let items = split_commas(given.value);
    let value_of = |name: &str| {
        items.iter().find_map(|item| {
            let (key, value) = item.to_str()?.split_once('=')?;
            (key == name).then_some(value)
        })
    };
    let entry = if items.iter().any(|item| item.as_bytes().starts_with(b"file=")) {
        let file = Params::new(given, &items, &["file"])?.raw("file").unwrap_or_default();
        if file.is_empty() {
            return Err(given.bad("empty file name").into());
        }
        Smbios::File(file.into())
    } else {
        match value_of("type") {
            Some("0") => smbios_fields(given, &items, 0, &["type", "vendor", "version", "date", "release"])?,
            Some("1") => {
                const KNOWN: &[&str] =
                    &["type", "manufacturer", "product", "version", "serial", "uuid", "sku", "family"];
                smbios_fields(given, &items, 1, KNOWN)?
            }
            Some(other) => {
                return Err(given.bad(format!("fields are known for type 0 and 1 only, not {other}")).into());
            }
            None => return Err(given.bad("needs file=, type=0 or type=1").into()),
        }
    };
    draft.config.smbios.push(entry);
    Ok(())
}

fn smbios_fields(given: &Given, items: &[OsString], kind: u8, known: &[&str]) -> Result<Smbios, OptionError> {
    let mut params = Params::new(given, items, known)?;
    params.raw("type");
    let mut fields = Vec::new();
    for (name, value) in params.rest() {
        let value = value.into_string().map_err(|_| given.bad(format!("{name}= is not valid UTF-8")))?;
        let good = match name.as_str() {
            "release" => value.split_once('.').is_some_and(|(major, minor)| {
                [major, minor].iter().all(|part| decimal(part, 0..=255).is_ok())
            }),
            "uuid" => uuid(&value).is_some(),
            _ => true,
        };
        if !good {
            let reason = match name.as_str() {
                "release" => "must be two numbers below 256, like 1.2",
                _ => "not a UUID of the form xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx",
            };
            return Err(given.bad(format!("{name}={value}: {reason}")));
        }
        fields.push((name, value));
    }
    Ok(Smbios::Fields { kind, fields })
}
