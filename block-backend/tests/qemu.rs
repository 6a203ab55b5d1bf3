//! Raw images against `qemu-io` and `qemu-img` of Debian's qemu-utils: what one writes the other reads.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::Command;

use bulkhead_block::formats::{Image, Raw};
use bulkhead_bus::conformance::Random;

const BYTES: u64 = 3 << 20;

fn io(file: &Path, commands: &[String]) -> String {
    let mut command = Command::new("qemu-io");
    command.args(["-f", "raw"]);
    commands.iter().for_each(|one| {
        command.args(["-c", one]);
    });
    let output = command.arg(file).output().expect("qemu-io");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn writes_of_each_are_read_by_the_other() {
    if Command::new("qemu-io").arg("--version").output().is_err() {
        eprintln!("skipped: qemu-io is not installed (package qemu-utils)");
        return;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (ours, theirs) = (folder.join("raw-ours.img"), folder.join("raw-theirs.img"));
    let size = BYTES.to_string();
    for file in [&ours, &theirs] {
        let status =
            Command::new("qemu-img").args(["create", "-q", "-f", "raw"]).arg(file).arg(&size).status();
        assert!(status.expect("qemu-img").success());
    }
    let file = OpenOptions::new().read(true).write(true).open(&ours).expect("image");
    assert_eq!(file.metadata().expect("size").len(), BYTES);
    let mut image = Raw::new(file.into(), BYTES, false, false);
    let mut random = Random::new(17);
    let mut writes = Vec::new();
    for _ in 0..200 {
        let at = random.below(BYTES / 512 - 64) * 512;
        let len = (1 + random.below(64)) * 512;
        let byte = random.draw() as u8;
        image.write(at, &vec![byte; len as usize]).expect("write");
        writes.push(format!("write -q -P {byte} {at} {len}"));
    }
    image.flush().expect("flush");
    io(&theirs, &writes);
    let compare =
        Command::new("qemu-img").args(["compare", "-f", "raw", "-F", "raw"]).args([&ours, &theirs]).output();
    let compare = compare.expect("qemu-img");
    assert!(compare.status.success(), "{}", String::from_utf8_lossy(&compare.stdout));
    // And theirs through ours.
    let file = OpenOptions::new().read(true).open(&theirs).expect("image");
    let mut theirs_image = Raw::new(file.into(), BYTES, true, false);
    let (mut left, mut right) = (vec![0; 65_536], vec![1; 65_536]);
    for at in (0..BYTES).step_by(left.len()) {
        image.read(at, &mut left).expect("read");
        theirs_image.read(at, &mut right).expect("read");
        assert!(left == right, "at {at}");
    }
}
