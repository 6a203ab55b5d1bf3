//! Commands that look at memory: `x xp print memsave pmemsave sum`.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;

use super::commands::Outcome;
use super::disassembly;
use super::expr::Parser;
use crate::fail::reason;
use crate::vm::Vm;
use bulkhead_bus::messages::{Query, READ_MAX};
use bulkhead_bus::wire;
use bulkhead_config::Target;

/// Most bytes one dump shows.
const DUMP_MAX: u64 = 1 << 20;
/// Longest x86 instruction.
const INSTRUCTION_MAX: u64 = 15;

/// `/{count}{format}{size}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    count: u64,
    kind: u8,
    size: u8,
}

impl Format {
    /// From the text behind the slash.
    fn parse(text: &str) -> Result<Format, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (count, letters) = text.split_at(digits);
        let count =
            if count.is_empty() { 1 } else { count.parse().map_err(|_| "invalid count".to_owned())? };
        let (mut kind, mut size) = (b'x', None);
        for letter in letters.bytes() {
            match letter {
                b'o' | b'd' | b'u' | b'x' | b'i' | b'c' => kind = letter,
                b'b' => size = Some(1),
                b'h' => size = Some(2),
                b'w' => size = Some(4),
                b'g' | b'L' => size = Some(8),
                other => return Err(format!("invalid char in format: '{}'", char::from(other))),
            }
        }
        let size = size.unwrap_or(match kind {
            b'c' => 1,
            b'i' => 0,
            _ => 4,
        });
        Ok(Format { count, kind, size })
    }
}

/// Splits off a format and evaluates the expressions that follow, as many as `count`; also what is left of the line.
pub fn arguments<'a>(
    vm: &mut Vm<'_>,
    text: &'a str,
    count: usize,
) -> Result<(Option<Format>, Vec<u64>, &'a str), String> {
    let text = text.trim_start();
    let (format, text) = match text.strip_prefix('/') {
        Some(rest) => {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            let (format, rest) = rest.split_at(end);
            (Some(Format::parse(format)?), rest)
        }
        None => (None, text),
    };
    let mut registers: Option<Vec<(String, u64)>> = None;
    let cpu = vm.cpu;
    let mut parser = Parser::new(text, |name: &str| {
        let known = registers.get_or_insert_with(|| {
            let reply = vm.query(Query::RegisterValues(cpu)).unwrap_or_default();
            wire::decode(&reply).unwrap_or_default()
        });
        known.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    });
    let mut values = Vec::new();
    for _ in 0..count {
        values.push(parser.value().map_err(|error| error.to_string())?);
    }
    let rest = parser.rest();
    Ok((format, values, rest))
}

fn read(vm: &mut Vm<'_>, linear: bool, addr: u64, len: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut at = addr;
    let mut left = len;
    while left > 0 {
        let part = left.min(READ_MAX.into()) as u32;
        bytes.extend(vm.read_memory(linear, at, part)?);
        at = at.wrapping_add(part.into());
        left -= u64::from(part);
    }
    Ok(bytes)
}

fn digits(vm: &Vm<'_>) -> usize {
    if vm.config.target == Target::X86_64 { 16 } else { 8 }
}

/// `x` and `xp`.
pub fn dump(vm: &mut Vm<'_>, args: &str, linear: bool, out: &mut String) -> Outcome {
    let (format, values, rest) = arguments(vm, args, 1)?;
    if !rest.is_empty() {
        return Err("extraneous characters at the end of line".to_owned());
    }
    let format = format.unwrap_or(Format { count: 1, kind: b'x', size: 4 });
    let mut addr = values.first().copied().unwrap_or(0);
    if vm.config.target == Target::I386 {
        addr &= 0xffff_ffff;
    }
    if format.kind == b'i' {
        return disassemble(vm, addr, linear, format, out);
    }
    let size = u64::from(format.size.max(1));
    let total = format.count.checked_mul(size).filter(|total| *total <= DUMP_MAX).ok_or("dump too long")?;
    let line = if format.kind == b'c' { 8 } else { 16 };
    let width = digits(vm);
    let mut done = 0u64;
    while done < total {
        let part = line.min(total - done);
        let at = addr.wrapping_add(done);
        let bytes = match read(vm, linear, at, part) {
            Ok(bytes) => bytes,
            Err(error) => {
                let _ = writeln!(out, "{error}");
                return Ok(());
            }
        };
        let _ = write!(out, "{at:0width$x}:");
        for unit in bytes.chunks_exact(size as usize) {
            let mut wide = [0u8; 8];
            wide.iter_mut().zip(unit).for_each(|(to, from)| *to = *from);
            out.push(' ');
            out.push_str(&item(u64::from_le_bytes(wide), format, true));
        }
        out.push('\n');
        done += part;
    }
    Ok(())
}

/// A value in a format, padded to the widest value of its size when in a table.
fn item(value: u64, format: Format, table: bool) -> String {
    let bits = u32::from(format.size.clamp(1, 8)) * 8;
    let signed = (value << (64 - bits)).cast_signed() >> (64 - bits);
    let width = |digits: u32| if table { digits as usize } else { 0 };
    match format.kind {
        b'o' if value == 0 => format!("{:>1$}", 0, width(bits.div_ceil(3))),
        b'o' => format!("{:>1$}", format!("0{value:o}"), width(bits.div_ceil(3))),
        b'd' => format!("{signed:>0$}", width((bits * 10).div_ceil(33))),
        b'u' => format!("{value:>0$}", width((bits * 10).div_ceil(33))),
        b'c' => character(value as u8),
        _ if table => format!("0x{value:00$x}", width(bits / 4)),
        _ if value == 0 => "0".to_owned(),
        _ => format!("{value:#x}"),
    }
}

fn character(byte: u8) -> String {
    match byte {
        b'\'' => "'\\''".to_owned(),
        b'\\' => "'\\\\'".to_owned(),
        b'\n' => "'\\n'".to_owned(),
        b'\r' => "'\\r'".to_owned(),
        0x20..=0x7e => format!("'{}'", char::from(byte)),
        _ => format!("'\\x{byte:02x}'"),
    }
}

fn disassemble(vm: &mut Vm<'_>, addr: u64, linear: bool, format: Format, out: &mut String) -> Outcome {
    let bits = match format.size {
        2 => 16,
        4 => 32,
        8 => 64,
        _ => match vm.query(Query::CodeSize(vm.cpu))?.first() {
            Some(bits @ (16 | 32 | 64)) => u32::from(*bits),
            _ => 32,
        },
    };
    let count = format.count.min(4096);
    let mut formatter = disassembly::formatter();
    let mut at = addr;
    for _ in 0..count {
        // An instruction may end right before a page that is not there.
        let (mut bytes, mut len) = (Err(String::new()), INSTRUCTION_MAX);
        while len > 0 {
            bytes = read(vm, linear, at, len);
            if bytes.is_ok() {
                break;
            }
            len -= 1;
        }
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(error) => {
                let _ = writeln!(out, "{error}");
                return Ok(());
            }
        };
        let width = if bits == 64 { 16 } else { 8 };
        let (text, length) = disassembly::instruction(&mut formatter, bits, at, &bytes);
        let _ = writeln!(out, "0x{at:0width$x}:  {text}");
        at = at.wrapping_add(length);
    }
    Ok(())
}

/// `print`.
pub fn print(vm: &mut Vm<'_>, args: &str, out: &mut String) -> Outcome {
    let (format, values, rest) = arguments(vm, args, 1)?;
    if !rest.is_empty() {
        return Err("extraneous characters at the end of line".to_owned());
    }
    let format = Format { size: 8, ..format.unwrap_or(Format { count: 1, kind: b'x', size: 8 }) };
    let _ = writeln!(out, "{}", item(values.first().copied().unwrap_or(0), format, false));
    Ok(())
}

/// Splits the file off the end of a command's arguments: a word, or what is in quotes. Behind the expressions it could not be told from
/// more of them: `4096 /tmp/dump` would begin with a division.
fn split_file(args: &str) -> Option<(&str, &str)> {
    let args = args.trim_end();
    match args.strip_suffix('"') {
        Some(quoted) => quoted.rsplit_once('"'),
        None => args.rsplit_once(char::is_whitespace),
    }
}

/// Fetches `size` bytes in parts and hands each on. Each may take as long as a command: together they are as long as the user wants.
fn fetch(
    vm: &mut Vm<'_>,
    linear: bool,
    (addr, size): (u64, u64),
    mut take: impl FnMut(Vec<u8>) -> Outcome,
) -> Outcome {
    let mut done = 0u64;
    while done < size {
        let part = (size - done).min(READ_MAX.into());
        let outcome = read(vm, linear, addr.wrapping_add(done), part).and_then(&mut take);
        outcome.map_err(|error| format!("{error} ({done} of {size} bytes done)"))?;
        vm.tree.cpu.begin_command();
        done += part;
    }
    Ok(())
}

/// `memsave` and `pmemsave`.
pub fn save(vm: &mut Vm<'_>, args: &str, linear: bool) -> Outcome {
    let (args, name) = split_file(args).ok_or("addr size file expected")?;
    let (_, values, rest) = arguments(vm, args, 2)?;
    let [addr, size] = values.as_slice() else { return Err("address and size expected".to_owned()) };
    if !rest.is_empty() {
        return Err("extraneous characters before the file name".to_owned());
    }
    let mut file = File::create(name).map_err(|e| format!("could not open '{name}': {}", reason(&e)))?;
    fetch(vm, linear, (*addr, *size), |bytes| {
        file.write_all(&bytes).map_err(|e| format!("{name}: {}", reason(&e)))
    })
}

/// `sum`: the 16-bit rotating checksum of physical memory.
pub fn sum(vm: &mut Vm<'_>, args: &str, out: &mut String) -> Outcome {
    let (_, values, rest) = arguments(vm, args, 2)?;
    let [addr, size] = values.as_slice() else { return Err("address and size expected".to_owned()) };
    if !rest.is_empty() {
        return Err("extraneous characters at the end of line".to_owned());
    }
    let mut sum = 0u16;
    fetch(vm, false, (*addr, *size), |bytes| {
        sum = bytes.iter().fold(sum, |sum, byte| sum.rotate_right(1).wrapping_add((*byte).into()));
        Ok(())
    })?;
    let _ = writeln!(out, "{sum:05}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use bulkhead_config::MachineConfig;
    use bulkhead_tests::Scratch;

    use super::*;
    use crate::rehearsal::{self, answer};

    #[test]
    fn the_file_is_the_last_word_or_what_is_in_quotes_at_the_end() {
        assert_eq!(split_file(" 0 4096 /tmp/dump "), Some((" 0 4096", "/tmp/dump")));
        assert_eq!(split_file(" 0 -1+1 \"a b/c\""), Some((" 0 -1+1 ", "a b/c")));
        assert_eq!(split_file(" '\"' 1 f"), Some((" '\"' 1", "f")));
        assert_eq!(split_file("4096"), None);
    }

    #[test]
    fn a_file_whose_name_begins_with_an_operator_is_saved_to() {
        let config = MachineConfig::new("qemu", Target::X86_64);
        let (mut vm, _cpu) = rehearsal::machine(&config).expect("sockets for a test");
        let scratch = Scratch::new("memsave");
        let name = scratch.file("saved");
        let mut answer = |line: &str| answer(&mut vm, line);
        assert!(name.starts_with('/'), "{name}");
        assert_eq!(answer(&format!("memsave 0x1000 4 - 4 {name}")), "");
        std::fs::remove_file(&name).expect("it was made");
        assert_eq!(answer(&format!("pmemsave 0 0 1 {name}")), "extraneous characters before the file name\n");
        assert!(!std::path::Path::new(&name).exists());
    }

    #[test]
    fn formats_have_a_count_a_kind_and_a_size() {
        assert_eq!(Format::parse("80hx"), Ok(Format { count: 80, kind: b'x', size: 2 }));
        assert_eq!(Format::parse("10i"), Ok(Format { count: 10, kind: b'i', size: 0 }));
        assert_eq!(Format::parse("c"), Ok(Format { count: 1, kind: b'c', size: 1 }));
        assert!(Format::parse("10q").is_err());
    }

    #[test]
    fn items_of_a_table_have_the_width_of_their_size() {
        let format = |kind, size| Format { count: 1, kind, size };
        assert_eq!(item(0xb50, format(b'x', 2), true), "0x0b50");
        assert_eq!(item(0xff, format(b'd', 1), true), " -1");
        assert_eq!(item(0xff, format(b'u', 1), true), "255");
        assert_eq!(item(0x41, format(b'c', 1), true), "'A'");
        assert_eq!(item(0xff, format(b'x', 8), false), "0xff");
    }
}
