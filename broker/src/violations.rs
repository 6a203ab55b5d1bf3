//! Violations: a process made a system call that its policy forbids. The kernel holds the caller inside the call; here it is
//! told to the user, counted, and the process killed, to be replaced like any that died.

use bulkhead_security::Violation;

use crate::spawn::Process;
use crate::vm::Vm;

/// Reason of the death in `info restarts`, before the description.
const VERDICT: &str = "made a forbidden system call";

impl Vm<'_> {
    /// Deals with what the jail of a process has to say.
    pub(crate) fn attend_jail(&mut self, index: usize) {
        let Some(process) = self.tree.processes.get_mut(index) else { return };
        let Some(violation) = process.jail.attend() else { return };
        let text = describe(&process.name, &violation);
        // What it wrote before does not replace this.
        process.last = text.clone();
        process.last_is_final = true;
        if let Some(count) = self.violations.get_mut(index) {
            *count += 1;
        }
        // The record of its death says it as well, but not of the CPU process, and only of the first of many.
        if index >= self.tree.recipes.len() {
            self.say(&format!("{}: {VERDICT}: {text}", self.name_of(index)));
        }
        self.condemn(index, VERDICT, true);
    }
}

/// The violation of a process that does not serve yet, as a line.
pub fn at_start(process: &mut Process) -> Option<String> {
    let violation = process.jail.attend()?;
    Some(format!("{}: {VERDICT}: {}", process.name, describe(&process.name, &violation)))
}

/// Thread, call, arguments, place.
fn describe(process: &str, violation: &Violation) -> String {
    let thread = violation.thread;
    // Its own choice of a name: shown like anything else that it says.
    let name = std::fs::read(format!("/proc/{thread}/comm")).unwrap_or_default();
    let name = crate::spawn::printable(name.trim_ascii());
    let name = if name.is_empty() { process } else { &name };
    format!("thread {name} ({thread}): {violation}")
}
