//! `qemu-system-x86_64`: see the library.

fn main() {
    bulkhead_launcher::main(bulkhead_config::Target::X86_64)
}
