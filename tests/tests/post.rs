//! A 128 KiB ROM given by `-bios`, as independent test suites are: from the reset vector, with POST codes, text on a serial and a parallel port.

use bulkhead_tests::code::assemble;
use bulkhead_tests::{Scratch, Vm};

#[test]
fn a_rom_of_128_kib_runs_from_the_reset_vector_and_its_post_codes_can_be_watched() {
    let scratch = Scratch::new("post");
    let rom = assemble(&scratch, "post", "post.ld");
    assert_eq!(std::fs::metadata(&rom).expect("the ROM").len(), 128 << 10);
    let trace = scratch.file("trace");
    let printed = scratch.file("printed");
    let printer = format!("file:{printed}");
    let events = format!("dma*.cpu_write,file={trace}");
    let mut vm = Vm::start(
        "qemu",
        &[
            "-nographic",
            "-vga",
            "none",
            "-monitor",
            "null",
            "-bios",
            &rom,
            "-serial",
            "stdio",
            "-parallel",
            &printer,
            "-trace",
            &events,
            "-device",
            "isa-debug-exit,iobase=0xf4,iosize=4",
        ],
    );
    // (10h << 1) | 1
    assert_eq!(vm.wait(60).code(), Some(33), "{}\n{}", vm.output(), vm.errors());
    assert_eq!(vm.output().replace('\r', ""), "post: good\n", "{}", vm.errors());
    assert_eq!(std::fs::read(&printed).expect("what was printed"), b"post: good\n");
    let trace = std::fs::read_to_string(&trace).expect("the trace");
    let codes: Vec<&str> = trace
        .lines()
        .filter(|line| line.contains("begin request ") && line.contains("region 1 offset 0x0 "))
        .filter_map(|line| line.split_once("value ")?.1.split_whitespace().next())
        .collect();
    assert_eq!(codes, ["0x1", "0x2", "0x3", "0xff"], "{trace}");
}
