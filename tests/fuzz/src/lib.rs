//! Fuzzing of everything that takes bytes from somebody else: registers of every chip, shared memory, images, monitor and command
//! lines, messages. See README.md.

pub mod corpus;
pub mod cover;
pub mod engine;
pub mod heap;
pub mod mutate;
pub mod settings;
pub mod spent;
pub mod supervise;
pub mod targets;
pub mod watch;
pub mod worker;

use std::path::Path;

/// From now on this thread and those it starts can write files below `folders` only: monitor commands write to files that
/// they name.
///
/// # Errors
/// One line; also when the kernel cannot do it.
pub fn confine(folders: &[&Path]) -> Result<(), String> {
    use landlock::{
        ABI, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus,
    };
    let writes = AccessFs::from_write(ABI::V1);
    let confine = || {
        let mut rules = Ruleset::default().handle_access(writes)?.create()?;
        for folder in folders {
            rules = rules.add_rule(PathBeneath::new(PathFd::new(folder)?, writes))?;
        }
        Ok::<_, Box<dyn std::error::Error>>(rules.restrict_self()?)
    };
    match confine() {
        Ok(status) if status.ruleset != RulesetStatus::NotEnforced => Ok(()),
        Ok(_) => Err("this kernel has no landlock, and monitor commands write to files".to_owned()),
        Err(error) => Err(format!("landlock: {error}")),
    }
}
