//! Debian's kernels boot to a shell, do what is typed, and switch the machine off.

use bulkhead_tests::{Vm, gone, guest};

fn boots(program: &str, flavour: &str, machine: &str) {
    let (kernel, initrd) = (guest(&format!("{flavour}/vmlinuz")), guest(&format!("{flavour}/initrd.gz")));
    let mut vm = Vm::start(
        program,
        &["-nographic", "-m", "256", "-kernel", &kernel, "-initrd", &initrd, "-append", "console=ttyS0"],
    );
    vm.expect("userland is up", 240);
    vm.expect("# ", 30);
    vm.send("echo $((6 * 7)) $(uname -m)\n");
    vm.expect(&format!("42 {machine}"), 30);
    let processes = vm.processes();
    vm.send("poweroff\n");
    vm.expect("reboot: Power down", 60);
    assert_eq!(vm.wait(30).code(), Some(0), "{}", vm.errors());
    gone(&processes);
}

#[test]
fn debian_amd64_kernel_boots_to_a_shell_and_powers_off() {
    boots("qemu-system-x86_64", "amd64", "x86_64");
}

#[test]
fn debian_686_kernel_boots_to_a_shell_and_powers_off() {
    boots("qemu-system-i386", "686", "i686");
}

#[test]
fn debian_686_pae_kernel_boots_to_a_shell_and_powers_off() {
    boots("qemu-system-i386", "686-pae", "i686");
}
