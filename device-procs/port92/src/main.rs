#![forbid(unsafe_code)]
//! Port 92h as a process.

fn main() {
    bulkhead_bus::serve::main(
        |manifest| bulkhead_security::enter(&manifest.role, &[], manifest.terms()),
        |_config| Ok(bulkhead_port92::Port92::new()),
    )
}
