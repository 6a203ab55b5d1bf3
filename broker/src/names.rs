//! Names in the host's file system that the VM has made and takes away at its end: the file of `-pidfile`, sockets.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// One of them. It is removed only while it means what was made: where somebody has put another file in its place that one stays, and
/// behind `-chroot`, where it means another file or none, so does its own.
#[derive(Debug)]
pub struct OwnName {
    path: PathBuf,
    /// Device and inode.
    meant: (u64, u64),
}

impl OwnName {
    /// Of what was just made at `path`.
    ///
    /// # Errors
    /// The host's.
    pub fn new(path: &Path) -> io::Result<OwnName> {
        // It must outlive a change of folder.
        let path = std::path::absolute(path)?;
        Ok(OwnName { meant: meaning(&path)?, path })
    }
}

fn meaning(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

impl Drop for OwnName {
    fn drop(&mut self) {
        if meaning(&self.path).is_ok_and(|now| now == self.meant) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_tests::Scratch;

    use super::*;

    #[test]
    fn a_name_that_means_something_else_by_now_is_left_alone() {
        let scratch = Scratch::new("names");
        let path = PathBuf::from(scratch.file("own"));
        std::fs::write(&path, "own").expect("a file for a test");
        let own = OwnName::new(&path).expect("it exists");
        let moved = path.with_extension("moved");
        std::fs::rename(&path, &moved).expect("a file for a test");
        std::fs::write(&path, "another").expect("a file for a test");
        drop(own);
        assert!(path.exists());
        drop([OwnName::new(&path), OwnName::new(&moved)].map(|name| name.expect("it exists")));
        assert!(!path.exists() && !moved.exists());
    }
}
