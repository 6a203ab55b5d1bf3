//! The short form of the campaign: every kept input and a fixed number of mutations of them, under the same eyes. And what those
//! eyes must see.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bulkhead_fuzz::{corpus, targets::TARGETS};

/// Mutations of each target: the same ones every time.
const RUNS: u32 = 150;

/// A folder that goes away.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&folder).expect("a folder for a test");
        Folder(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn fuzz(words: &str, folder: &Folder) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fuzz"));
    command.args(words.split(' ')).arg(format!("FOLDER={}", folder.0.display()));
    command.output().expect("the fuzzer starts")
}

#[test]
fn kept_inputs_and_mutations_of_them_find_nothing() {
    for target in TARGETS {
        let inputs = corpus::read(&corpus::kept(target.name)).expect("a corpus");
        assert!(!inputs.is_empty(), "no corpus: ./campaign fuzz TARGET={} KEEP=1", target.name);
    }
    let folder = Folder::new("fuzz");
    let output = fuzz(&format!("RUNS={RUNS}"), &folder);
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for target in TARGETS {
        let line = text.lines().find(|line| line.split(' ').next() == Some(target.name));
        let runs = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        assert!(runs >= Some(RUNS), "{} was not run", target.name);
    }
}

#[test]
fn faults_on_purpose_are_found() {
    let folder = Folder::new("fuzz-planted");
    for (name, found) in [
        ("panic", ": planted"),
        ("abort", ": ended its process: signal: 6"),
        ("greed", ": ended its process: signal: 6"),
        ("loop", ": does not end within 1 s"),
        ("wait", ": does not end within 1 s"),
        ("leak", " at leak: 100 bytes of memory"),
        ("files", " at resources: "),
    ] {
        let output = fuzz(&format!("RUNS=3000 HANG=1 TARGET=planted-{name}"), &folder);
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{name}: {text}");
        let failure = text.lines().find(|line| line.starts_with("FAILURE"));
        assert!(failure.is_some_and(|line| line.contains(found)), "{name}: {text}");
    }
}
