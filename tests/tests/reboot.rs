//! A guest that reboots starts over, in the same machine.

use bulkhead_tests::{Vm, gone, guest};

#[test]
fn linux_reboots_three_times_in_a_row_and_powers_off() {
    let (kernel, initrd) = (guest("amd64/vmlinuz"), guest("amd64/initrd.gz"));
    let mut vm = Vm::start(
        "qemu-system-x86_64",
        &["-nographic", "-m", "256", "-kernel", &kernel, "-initrd", &initrd, "-append", "console=ttyS0"],
    );
    let mut processes = Vec::new();
    for _ in 0..3 {
        vm.expect("userland is up", 240);
        if processes.is_empty() {
            processes = vm.processes();
        }
        vm.expect("# ", 30);
        vm.send("reboot -f\n");
        vm.expect("SeaBIOS", 60);
    }
    vm.expect("userland is up", 240);
    vm.expect("# ", 30);
    // No process was lost or replaced on the way.
    let now = vm.processes();
    assert!(processes.iter().all(|process| now.contains(process)), "before {processes:?}\nafter {now:?}");
    vm.send("poweroff -f\n");
    vm.expect("reboot: Power down", 60);
    assert_eq!(vm.wait(30).code(), Some(0), "{}", vm.errors());
    gone(&now);
}
