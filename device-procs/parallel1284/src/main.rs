#![forbid(unsafe_code)]
//! The parallel port as a process.

fn main() {
    bulkhead_bus::serve::main(
        |manifest| bulkhead_security::enter(&manifest.role, &[], manifest.terms()),
        |_config| Ok(bulkhead_parallel1284::Parallel1284::new()),
    )
}
