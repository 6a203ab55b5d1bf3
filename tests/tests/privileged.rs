//! What system software sees of the processor: a program of cases (`tests/cases`) run as a multiboot kernel.
//!
//! The program prints one line a case; `NAME.expected` holds the lines, by the manuals. Debian's QEMU can run the same kernel. It was
//! compared by hand, without the two reserved bits of CR4 that it hangs at: it differs where it leaves out checks (segment limits and
//! types, alignment, DR7.GD, the task's T bit, reserved bits of EFER and PAT, MSRs that are not there, EMMS with CR0.EM, numeric
//! exceptions of SSE, MOV to CS and to segment registers that do not exist) or features (VME, PVI), and where it takes the upper half
//! of a 16-bit gate's offset. `bytes 0x0f,0x0d,0xc0` is ours to mend: the host, an AMD processor like the model, refuses a prefetch of a
//! register.
//! `BULKHEAD_BLESS=1` writes what happens here to `NAME.expected`, to be read before it is committed.

use std::path::PathBuf;

use bulkhead_tests::code::{assemble, cases};
use bulkhead_tests::{Scratch, Vm};

/// Status of a program that ran to its end: (10h << 1) | 1.
const ENDED: i32 = 0x21;

fn file(name: &str) -> PathBuf {
    cases().join(name)
}

/// The cases of an output, in order: name and outcome.
fn outcomes(output: &str) -> Vec<(String, String)> {
    let (_, cases) = output.split_once("begin\n").unwrap_or_else(|| panic!("no beginning: {output:?}"));
    let split =
        |line: &str| line.split_once(" v=").map(|(name, rest)| (name.to_owned(), format!("v={rest}")));
    cases.lines().filter_map(split).collect()
}

fn machine(kernel: &str) -> Vec<&str> {
    vec![
        "-m",
        "64",
        "-cpu",
        "qemu64,+vme",
        "-kernel",
        kernel,
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=4",
        "-no-reboot",
        "-vga",
        "none",
    ]
}

fn own(kernel: &str) -> Vec<(String, String)> {
    let args = [&machine(kernel)[..], &["-nographic", "-monitor", "null"]].concat();
    let mut vm = Vm::start("qemu-system-x86_64", &args);
    let status = vm.wait(120).code();
    assert_eq!(status, Some(ENDED), "{}\n{}", vm.output(), vm.errors());
    outcomes(&vm.output().replace('\r', ""))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("tests/cases/{name}: {error}"))
}

fn check(name: &str) {
    let scratch = Scratch::new(&format!("cases-{name}"));
    let kernel = assemble(&scratch, name, "frame.ld");
    let ours = own(&kernel);
    let lines: String = ours.iter().map(|(case, outcome)| format!("{case} {outcome}\n")).collect();
    if std::env::var_os("BULKHEAD_BLESS").is_some() {
        std::fs::write(file(&format!("{name}.expected")), &lines).expect("the expected lines");
    }
    let expected = read(&format!("{name}.expected"));
    let wrong: Vec<String> = expected
        .lines()
        .zip(lines.lines())
        .filter(|(expected, got)| expected != got)
        .map(|(expected, got)| format!("expected {expected}\n     got {got}"))
        .collect();
    assert!(wrong.is_empty(), "{name}: {} cases differ\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(expected.lines().count(), ours.len(), "{name}: number of cases");
}

/// Code and tables in devices and where nothing is, and what crosses into pages that are missing. Debian's QEMU, with the parts that it can run:
/// it stops for good at code where nothing is and at page tables in devices or read-only memory; nothing reads as zeros (here ones, as
/// a PCI bus that nobody answers on); an update that faults counts as a read and not as a write; level 3 reads its own stack for IRET and
/// RETF as the supervisor; and PUSHAD reports the page's first byte.
#[test]
fn memory_that_is_none_and_accesses_across_pages_are_as_in_the_manuals() {
    check("memory");
}

#[test]
fn protected_mode_is_as_in_the_manuals() {
    check("protected");
}
