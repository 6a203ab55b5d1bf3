//! The rules of this repository about itself: who may depend on whom, where unsafe code may be, what every folder has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("root of the repository")
}

/// Every file of the repository: what is committed or would be.
fn files() -> Vec<String> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git lists the files");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("names in UTF-8");
    let files: Vec<String> =
        text.lines().filter(|name| root().join(name).is_file()).map(str::to_owned).collect();
    assert!(files.len() > 100, "{files:?}");
    files
}

fn read(name: &str) -> String {
    String::from_utf8_lossy(&std::fs::read(root().join(name)).expect(name)).into_owned()
}

/// Folders of the workspace's crates with what their manifests depend on: ours by folder, for programs and for tests.
struct Crate {
    folder: String,
    uses: BTreeSet<String>,
    tests_use: BTreeSet<String>,
}

/// The value of `key = "value"` or of `key = { .. path = "value" .. }`.
fn quoted(line: &str, key: &str) -> Option<String> {
    let (_, rest) = line.split_once(&format!("{key} = \""))?;
    rest.split_once('"').map(|(value, _)| value.to_owned())
}

fn crates() -> Vec<Crate> {
    let manifests: Vec<String> = files().into_iter().filter(|name| name.ends_with("/Cargo.toml")).collect();
    let folder = |manifest: &str| manifest.trim_end_matches("/Cargo.toml").to_owned();
    let mut names = BTreeMap::new();
    for manifest in &manifests {
        let text = read(manifest);
        let name = text.lines().find_map(|line| quoted(line, "name")).expect(manifest);
        names.insert(name, folder(manifest));
    }
    let known = |name: &str| names.get(name).cloned();
    let mut crates = Vec::new();
    for manifest in &manifests {
        let mut found = Crate { folder: folder(manifest), uses: BTreeSet::new(), tests_use: BTreeSet::new() };
        let mut section = String::new();
        for line in read(manifest).lines() {
            if let Some(rest) = line.strip_prefix('[') {
                section = rest.trim_end_matches(']').to_owned();
                continue;
            }
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            let Some(folder) = known(name) else { continue };
            match section.as_str() {
                "dev-dependencies" => found.tests_use.insert(folder),
                "dependencies" | "build-dependencies" => found.uses.insert(folder),
                _ => continue,
            };
        }
        crates.push(found);
    }
    assert!(crates.iter().any(|one| one.folder == "broker" && one.uses.contains("bus")));
    crates
}

/// The names in backquotes of a table's cell.
fn names(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn matches(pattern: &str, folder: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => folder.starts_with(start),
        None => folder == pattern,
    }
}

/// The rows of the code map: folder (maybe `x/*`), what its programs may use, what its tests may use besides.
fn code_map() -> Vec<(String, Vec<String>, Vec<String>)> {
    let text = read("ARCHITECTURE.md");
    let (_, section) = text.split_once("## Code map").expect("a code map");
    let mut rows = Vec::new();
    for line in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, folders, _, uses, ..] = cells[..] else { panic!("{line}") };
        let (uses, tests) = uses.split_once("tests also").unwrap_or((uses, ""));
        for folder in names(folders) {
            rows.push((folder, names(uses), names(tests)));
        }
    }
    assert!(rows.len() > 8, "{rows:?}");
    rows
}

#[test]
fn crates_depend_only_on_what_the_code_map_allows() {
    let map = code_map();
    for one in crates() {
        let (_, uses, tests) = map
            .iter()
            .find(|(pattern, ..)| matches(pattern, &one.folder))
            .unwrap_or_else(|| panic!("{} is missing in the code map of ARCHITECTURE.md", one.folder));
        let allowed = |list: &[String], used: &str| list.iter().any(|pattern| matches(pattern, used));
        // A crate's tests may use what the crate may.
        let wrong: Vec<&String> = (one.uses.iter().filter(|used| !allowed(uses, used)))
            .chain(one.tests_use.iter().filter(|used| !allowed(uses, used) && !allowed(tests, used)))
            .collect();
        assert!(
            wrong.is_empty(),
            "{} must not depend on {wrong:?} (code map of ARCHITECTURE.md)",
            one.folder
        );
    }
    let crates = crates();
    for (pattern, ..) in map {
        assert!(
            crates.iter().any(|one| matches(&pattern, &one.folder)),
            "{pattern} of the code map does not exist"
        );
    }
}

#[test]
fn chips_and_back_ends_meet_the_jail_in_their_programs_only() {
    for file in files() {
        let chip = file.starts_with("device-procs/") || file.starts_with("block-backend/");
        if chip && file.ends_with(".rs") && !file.ends_with("/main.rs") {
            assert!(!read(&file).contains("bulkhead_security"), "{file} names the jail");
        }
    }
}

#[test]
fn devices_back_ends_and_interfaces_forbid_unsafe_code() {
    let mut seen = 0;
    for file in files() {
        let confined =
            ["device-procs/", "block-backend/", "ui-proc/"].iter().any(|top| file.starts_with(top));
        let is_crate_root =
            file.ends_with("src/lib.rs") || file.ends_with("src/main.rs") || file.contains("/src/bin/");
        if confined && is_crate_root {
            seen += 1;
            assert!(read(&file).contains("#![forbid(unsafe_code)]"), "{file} does not forbid unsafe code");
        }
    }
    assert!(seen > 20, "{seen}");
    // What needs none forbids it too.
    for file in ["cpu-proc/chips/src/lib.rs", "launcher/cli/src/lib.rs"] {
        assert!(read(file).contains("#![forbid(unsafe_code)]"), "{file} does not forbid unsafe code");
    }
}

#[test]
fn every_top_level_folder_has_a_readme_of_a_page() {
    let files = files();
    let folders: BTreeSet<&str> =
        files.iter().filter_map(|name| name.split_once('/')).map(|(top, _)| top).collect();
    for folder in folders.into_iter().filter(|name| !name.starts_with('.')) {
        let name = format!("{folder}/README.md");
        assert!(files.contains(&name), "{name} is missing");
        let text = read(&name);
        assert!(text.lines().count() <= 120, "{name} is longer than a page");
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if folder != "tools" {
            assert!(
                text.contains("ay depend on") && text.contains("ust never know"),
                "{name} lacks the rules"
            );
        }
    }
    for name in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        assert!(files.iter().any(|file| file == name), "{name} is missing");
    }
}

#[test]
fn no_source_file_is_over_a_thousand_lines() {
    for file in files().iter().filter(|name| name.ends_with(".rs")) {
        let count = read(file).lines().count();
        assert!(count <= 1000, "{file} has {count} lines");
    }
}

/// Whether `text` names `place`, a folder of the file system's root: itself or something in it, not the end of a longer path.
fn names_place(text: &str, place: &str) -> bool {
    text.match_indices(place).any(|(at, _)| {
        let before = text[..at].chars().next_back().unwrap_or(' ');
        let after = text[at + place.len()..].chars().next().unwrap_or(' ');
        let begins = !before.is_alphanumeric() && !"}/.$".contains(before);
        begins && (after.is_whitespace() || "/\"'`),".contains(after))
    })
}

#[test]
fn a_place_is_seen_wherever_it_begins_and_not_in_a_longer_path() {
    // Put together here, so that this file does not hold it.
    let place = ["/ro", "ot"].concat();
    for (before, after) in
        [("", ""), ("cd ", "\n"), ("*", "/x"), ("_", "/x"), ("-", "/x"), ("\"", "\""), ("(", ")")]
    {
        assert!(names_place(&format!("{before}{place}{after}"), &place), "{before}..{after}");
    }
    for (before, after) in
        [("target", "/x"), ("$top", "/x"), ("${top}", "/x"), ("..", "/x"), ("", "fs/x"), ("", ":/bin/sh")]
    {
        assert!(!names_place(&format!("{before}{place}{after}"), &place), "{before}..{after}");
    }
}

#[test]
fn no_file_names_a_place_of_one_machine_or_leaves_work_undone() {
    // Put together here, so that this file does not hold them.
    let places = [["/wo", "rk"], ["/ho", "me"], ["/ro", "ot"]].map(|parts| parts.concat());
    let words = [
        // What lay beside the repository on one machine.
        ["../sha", "red"],
        // Registries by one machine's names.
        ["sparse", "+http"],
        ["replace", "-with"],
        ["index", "-url"],
        ["to", "do!("],
        ["unimple", "mented!("],
    ]
    .map(|parts| parts.concat());
    for file in files() {
        let text = read(&file);
        if file.ends_with("Cargo.lock") {
            let public = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
            let other = text.lines().find(|line| line.starts_with("source = ") && *line != public);
            assert!(other.is_none(), "{file} names another registry: {other:?}");
            continue;
        }
        for place in &places {
            assert!(!names_place(&text, place), "{file} names {place}");
        }
        for word in &words {
            assert!(!text.contains(word.as_str()), "{file} has {word}");
        }
    }
}

/// Asserts that `test`, `FILE::NAME`, is one.
fn assert_is_test(number: &str, test: &str) {
    let (file, name) = test.split_once("::").expect("file and test");
    assert!(root().join(file).is_file(), "{number}: {file} does not exist");
    let code = read(file);
    let place = code.find(&format!("fn {name}()")).unwrap_or_else(|| panic!("{number}: no {name} in {file}"));
    let before = &code[place.saturating_sub(200)..place];
    assert!(before.contains("#[test]"), "{number}: {name} in {file} is no test");
}

#[test]
fn every_hole_of_others_names_a_test_that_exists() {
    let text = read("security/peers-holes.md");
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| 2")).collect();
    for row in &rows {
        let tests: Vec<String> = names(row).into_iter().filter(|name| name.contains(".rs::")).collect();
        assert!(!tests.is_empty(), "{row}: no test");
        tests.iter().for_each(|test| assert_is_test(row, test));
    }
    assert!(rows.len() >= 12, "{}", rows.len());
}

#[test]
fn every_promise_of_the_specification_names_tests_that_exist_or_is_pending() {
    let text = read("SPECIFICATION.md");
    let mut numbers = BTreeSet::new();
    for promise in text.split("\n- **").skip(1) {
        let promise = promise.split("\n## ").next().unwrap_or_default();
        let (number, _) = promise.split_once("**").expect("a number");
        assert!(numbers.insert(number.to_owned()), "{number} is promised twice");
        let tests: Vec<String> = names(promise).into_iter().filter(|name| name.contains(".rs::")).collect();
        assert!(
            !tests.is_empty() || promise.contains("*pending*"),
            "{number} has no test and is not pending"
        );
        tests.iter().for_each(|test| assert_is_test(number, test));
    }
    assert!(numbers.len() > 20, "{numbers:?}");
}
