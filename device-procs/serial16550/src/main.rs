#![forbid(unsafe_code)]
//! The serial port as a process.

fn main() {
    bulkhead_bus::serve::main(
        |manifest| bulkhead_security::enter(&manifest.role, &[], manifest.terms()),
        bulkhead_serial16550::Uart16550::from_config,
    )
}
