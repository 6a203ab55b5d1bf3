#![forbid(unsafe_code)]
//! The keyboard controller as a process.

fn main() {
    bulkhead_bus::serve::main(
        |manifest| bulkhead_security::enter(&manifest.role, &[], manifest.terms()),
        bulkhead_i8042::I8042::from_config,
    )
}
