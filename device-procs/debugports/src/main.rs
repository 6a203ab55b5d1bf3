#![forbid(unsafe_code)]
//! The debug ports as a process.

fn main() {
    bulkhead_bus::serve::main(
        |manifest| bulkhead_security::enter(&manifest.role, &[], manifest.terms()),
        bulkhead_debugports::DebugPorts::from_config,
    )
}
