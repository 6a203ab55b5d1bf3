//! `qemu-system-i386`: see the library.

fn main() {
    bulkhead_launcher::main(bulkhead_config::Target::I386)
}
