//! Copies of the programs in a folder of their own: to be run by another user, or to be replaced under a running machine.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::{Vm, keeper, programs};

/// The folder, writable by everybody; removed on drop.
pub struct Installed(PathBuf);

impl Installed {
    /// Copies the programs; `name` tells tests apart.
    ///
    /// # Panics
    /// When they cannot be copied.
    pub fn new(name: &str) -> Installed {
        let folder = std::env::temp_dir().join(format!("bulkhead-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        keeper::keep_folder(&folder);
        std::fs::create_dir_all(&folder).expect("folder");
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o777)).expect("folder for everybody");
        for entry in std::fs::read_dir(programs()).expect("target folder").flatten() {
            let file = entry.file_name().to_string_lossy().into_owned();
            if (file.starts_with("bh-") || file == "qemu-system-x86_64") && !file.contains('.') {
                std::fs::copy(entry.path(), folder.join(file)).expect("copy");
            }
        }
        Installed(folder)
    }

    /// Path of a file in the folder.
    ///
    /// # Panics
    /// When it is not in UTF-8.
    pub fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("path in UTF-8").to_owned()
    }

    /// Puts a copy of the program `from` in the place of `to`, which may be running.
    ///
    /// # Panics
    /// When that cannot be done.
    pub fn replace(&self, from: &Path, to: &str) {
        let new = self.0.join("new");
        std::fs::copy(from, &new).expect("copy");
        std::fs::rename(&new, self.0.join(to)).expect("rename");
    }

    /// Starts a machine from here.
    pub fn start(&self, args: &[&str]) -> Vm {
        Vm::start(&self.file("qemu-system-x86_64"), args)
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
