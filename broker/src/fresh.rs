//! Files that the VM writes anew: what one of them held stays there until nothing can be refused any more.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// Opens one, with what it holds.
///
/// # Errors
/// The host's.
pub fn open(path: &Path) -> io::Result<File> {
    File::options().write(true).create(true).truncate(false).open(path)
}

/// Empties one. A device or a pipe has nothing to be emptied.
///
/// # Errors
/// The host's.
pub fn empty(file: impl AsFd) -> io::Result<()> {
    let file = File::from(file.as_fd().try_clone_to_owned()?);
    if file.metadata()?.is_file() { file.set_len(0) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use bulkhead_tests::Scratch;

    use super::*;

    #[test]
    fn a_file_keeps_what_it_holds_until_it_is_emptied_and_a_device_has_nothing() {
        let scratch = Scratch::new("fresh");
        let path = PathBuf::from(scratch.file("file"));
        std::fs::write(&path, "yesterday's").expect("a file for a test");
        let file = open(&path).expect("it exists");
        assert_eq!(std::fs::read(&path).expect("it exists"), b"yesterday's");
        empty(&file).expect("it is a file");
        assert_eq!(std::fs::read(&path).expect("it exists"), b"");
        empty(open(Path::new("/dev/null")).expect("a device")).expect("nothing to do");
    }
}
