//! The texts of `-h` and `-version`.

use crate::options::{Group, OPTIONS};

/// QEMU's own line, so that programs which look for its version find the one whose command line this is.
pub fn version() -> String {
    format!("QEMU PC emulator version 0.10.4 (compatible), Bulkhead {}\n", env!("CARGO_PKG_VERSION"))
}

/// Column of the help texts.
const COLUMN: usize = 16;

/// `-h`.
pub fn help(program: &str) -> String {
    let mut text = version();
    text += &format!("usage: {program} [options] [disk_image]\n\n");
    text += "'disk_image' is a raw hard disk image for IDE hard disk 0\n";
    for group in Group::ALL {
        text += &format!("\n{}:\n", group.title());
        for row in OPTIONS.iter().filter(|row| row.group == group) {
            for form in row.forms {
                let mut head = format!("-{}", row.name);
                if !form.syntax.is_empty() {
                    head += &format!(" {}", form.syntax);
                }
                let mark = if form.supported { "" } else { " (not supported yet)" };
                if head.len() < COLUMN {
                    text += &format!("{head:<COLUMN$}{}{mark}\n", form.help);
                } else {
                    text += &format!("{head}\n{:COLUMN$}{}{mark}\n", "", form.help);
                }
            }
        }
    }
    text
}
