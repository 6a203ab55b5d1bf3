#![forbid(unsafe_code)]
//! The countdown as a process.

fn main() {
    bulkhead_bus::serve::main(
        |manifest| bulkhead_security::enter(&manifest.role, &[], manifest.terms()),
        |_config| Ok(bulkhead_template::Countdown::new()),
    )
}
