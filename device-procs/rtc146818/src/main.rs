#![forbid(unsafe_code)]
//! The real-time clock as a process.

fn main() {
    bulkhead_bus::serve::main(
        |manifest| bulkhead_security::enter(&manifest.role, &[], manifest.terms()),
        bulkhead_rtc146818::Rtc146818::from_config,
    )
}
